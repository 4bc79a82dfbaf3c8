//! The charters of the spaces whose logs this node keeps: whose devices may write there. Whoever keeps a log has its charter, too, and needs no key to check either.

use crate::{
    branch, erase,
    error::{MetaError, NodeError},
    protocol::{PoolReply, PoolRequest},
    share,
    shared::Shared,
    space::OpenSpace,
    spaces, sweep,
};
use potluck_crypto::{Speakers, derive::private_space_id};
use potluck_spaces::{Branch, Charter, CharterError, CharterRecord, Entry, Kv, Log, Table, Tree};
use potluck_types::{NodeId, SpaceId, Timestamp, UserId, limits};
use serde_bytes::ByteBuf;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, atomic::Ordering},
};

/// Charters that were read lately.
#[derive(Default)]
pub(crate) struct Charters {
    known: Mutex<Known>,
    /// Held while one is read, added to, and written.
    changing: Mutex<()>,
}

/// Where a charter that is to be remembered comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// It was read, and may have been added to since.
    Before,
    /// It was just written down.
    Now,
}

#[derive(Default)]
struct Known {
    charters: BTreeMap<SpaceId, Arc<Charter>>,
    /// Who speaks with which key, as far as it was heard of: what a charter says follows from that.
    speakers: Speakers,
    /// The private spaces of those who speak with others than their first: only these have charters.
    private: BTreeMap<SpaceId, UserId>,
}

impl Charters {
    /// None that is known, among people who speak so.
    pub(crate) fn among(speakers: Speakers) -> Self {
        let charters = Self::default();
        charters.lock().hear(speakers);
        charters
    }

    /// Who speaks with which key.
    pub(crate) fn speakers(&self) -> Speakers {
        self.lock().speakers.clone()
    }

    /// The charter of a space, as far as it is known here.
    pub(crate) fn of(&self, kv: &impl Kv, space: SpaceId) -> Result<Arc<Charter>, MetaError> {
        let blank = {
            let known = self.lock();
            if let Some(charter) = known.charters.get(&space) {
                return Ok(Arc::clone(charter));
            }
            known.blank(space)
        };
        let charter = Arc::new(blank.with_kept(kv).map_err(MetaError::reading)?);
        self.remember(Arc::clone(&charter), Reading::Before);
        Ok(charter)
    }

    /// The charter of a space, if it was read lately.
    pub(crate) fn remembered(&self, space: SpaceId) -> Option<Arc<Charter>> {
        self.lock().charters.get(&space).cloned()
    }

    fn remember(&self, charter: Arc<Charter>, reading: Reading) {
        // What nothing is known of takes no room.
        if charter.bytes() == 0 {
            return;
        }
        let mut known = self.lock();
        // It was read before somebody's key was replaced.
        if known.speakers != *charter.speakers() {
            return;
        }
        let remembered = &mut known.charters;
        // It was read before another said more.
        if reading == Reading::Before && remembered.contains_key(&charter.space()) {
            return;
        }
        let bytes: usize = remembered.values().map(|charter| charter.bytes()).sum();
        if bytes + charter.bytes() > limits::CHARTERS_BYTES_MAX {
            remembered.clear();
        }
        remembered.insert(charter.space(), charter);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().expect("never poisoned")
    }
}

impl Known {
    fn hear(&mut self, speakers: Speakers) {
        self.private = speakers.users().map(|user| (private_space_id(user), user)).collect();
        self.speakers = speakers;
        self.charters.clear();
    }

    fn blank(&self, space: SpaceId) -> Charter {
        match self.private.get(&space) {
            Some(owner) => Charter::private(*owner, &self.speakers),
            None => Charter::of(space, &self.speakers),
        }
    }
}

/// Somebody's key was replaced: what a charter says follows from who speaks with which.
pub(crate) fn hear(shared: &Shared, speakers: Speakers) {
    let _one_at_a_time = shared.charters.changing.lock().expect("never poisoned");
    if shared.charters.speakers() != speakers {
        shared.charters.lock().hear(speakers);
    }
}

/// The key of this node's person was replaced. What counts of what they have signed before is what is known to any of their machines: each says what is known there, before it takes
/// another's word for it. Their private space has another key at once. One that has just come knows of nothing, and says nothing. What cannot be said of one space keeps no other.
pub(crate) fn vouch(shared: &Shared) -> Result<(), NodeError> {
    let keys = shared.keys();
    if !keys.is_replaced() || shared.refuse_old_key().is_err() {
        return Ok(());
    }
    let private = shared.spaces.private().id();
    let spaces = {
        let kv = shared.read()?;
        let mut owned = BTreeSet::new();
        for space in Table::Charter.spaces(&kv).map_err(MetaError::reading)? {
            if shared.charters.of(&kv, space)?.owner() == Some(shared.user) {
                owned.insert(space);
            }
        }
        let is_written = !Log::of(private).frontier(&kv).map_err(MetaError::reading)?.is_empty();
        let is_here = owned.remove(&private) || is_written;
        is_here.then_some(private).into_iter().chain(owned)
    };
    let mut failed = None;
    for space in spaces {
        let vouched = change(shared, space, |charter| {
            charter.succeed(&keys, shared.now())?;
            if charter.is_private() && share::needs_epoch(shared, charter, &charter.keys(&keys, shared.now())) {
                share::begin_epoch(shared, charter, &charter.keys(&keys, shared.now()))?;
            }
            Ok(())
        });
        if let Err(error) = vouched {
            tracing::warn!(space = %space.short(), %error, "what counts of a space is not said yet");
            failed = Some(error);
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Who founded a space, who reads it, and who writes there.
#[derive(Clone, Default, Debug)]
pub(crate) struct Admitted {
    pub(crate) owner: Option<UserId>,
    pub(crate) readers: BTreeSet<UserId>,
    /// Those of them who read all of it.
    pub(crate) whole: BTreeSet<UserId>,
    pub(crate) writers: BTreeSet<UserId>,
}

impl Admitted {
    fn of(charter: &Charter, now: Timestamp) -> Self {
        Self {
            owner: charter.owner(),
            readers: charter.readers(now),
            whole: charter.whole_readers(now),
            writers: charter.writers(now),
        }
    }
}

/// The spaces that have a charter here, and the people who read and write in each.
fn access(shared: &Shared) -> Result<BTreeMap<SpaceId, Admitted>, MetaError> {
    let (kv, now) = (shared.read()?, shared.now());
    let mut access = BTreeMap::new();
    for space in Table::Charter.spaces(&kv).map_err(MetaError::reading)? {
        let charter = shared.charters.lock().blank(space);
        let charter = charter.with_kept(&kv).map_err(MetaError::reading)?;
        access.insert(space, Admitted::of(&charter, now));
    }
    Ok(access)
}

/// Whether an entry counts that a device has written, as the pool's records and the charter say.
pub(crate) fn counts(shared: &Shared, kv: &impl Kv, device: NodeId, entry: &Entry) -> Result<bool, NodeError> {
    let owner = shared.with_control(|control| control.roster.owner_of(device));
    let Some(user) = owner else { return Ok(false) };
    let is_first_key = shared.with_control(|control| control.roster.generation(user) == 0);
    if is_first_key && private_space_id(user) == entry.space {
        return Ok(true);
    }
    let charter = shared.charters.of(kv, entry.space)?;
    let is_lost = shared.with_control(|control| control.roster.is_lost(device));
    let is_past_end = is_lost && charter.end_of(device).is_some_and(|end| end < entry.seq);
    Ok(!is_past_end && charter.may_write(user, device, entry.seq, entry.clock, entry.area))
}

/// Whether an entry of this machine counts, in a space of somebody else's.
pub(crate) fn is_own_to_say(shared: &Shared, kv: &impl Kv, entry: &Entry) -> Result<bool, NodeError> {
    let charter = shared.charters.of(kv, entry.space)?;
    let is_others = charter.owner().is_some_and(|owner| owner != shared.user);
    let may_write = || charter.may_write(shared.user, shared.me(), entry.seq, entry.clock, entry.area);
    Ok(!is_others || may_write())
}

/// Whether a device may erase what another has written: its person's machines may, and those of the space's owner.
pub(crate) fn may_erase(
    shared: &Shared,
    kv: &impl Kv,
    space: SpaceId,
    by: NodeId,
    of: NodeId,
) -> Result<bool, NodeError> {
    let (eraser, writer) = shared.with_control(|control| (control.roster.owner_of(by), control.roster.owner_of(of)));
    let Some(eraser) = eraser else { return Ok(false) };
    let is_owner = || Ok::<_, NodeError>(shared.charters.of(kv, space)?.owner() == Some(eraser));
    Ok(writer == Some(eraser) || private_space_id(eraser) == space || is_owner()?)
}

/// The charter of a space, as far as it is known here.
pub(crate) async fn known(shared: &Arc<Shared>, space: SpaceId) -> Result<Arc<Charter>, NodeError> {
    if let Some(charter) = shared.charters.remembered(space) {
        return Ok(charter);
    }
    let task = Arc::clone(shared);
    Shared::blocking(move || Ok(task.charters.of(&task.read()?, space)?)).await
}

/// Takes records that a peer sends, and gives those that it did not. Durable when this returns.
pub(crate) async fn exchange(
    shared: &Arc<Shared>,
    space: SpaceId,
    theirs: Vec<ByteBuf>,
) -> Result<Vec<ByteBuf>, NodeError> {
    let task = Arc::clone(shared);
    let (missing, is_news) = Shared::blocking(move || {
        let records = theirs.iter().map(|bytes| CharterRecord::from_bytes(bytes));
        // What a later version says, or does not count, keeps nothing else.
        let records: Vec<_> = records.flatten().collect();
        let mut missing = Vec::new();
        let (keys, is_own_key) = (task.keys(), task.refuse_old_key().is_ok());
        let is_news = change(&task, space, |charter| {
            // What is here is vouched for before another's word is taken for what counts.
            if charter.owner() == Some(task.user)
                && is_own_key
                && charter.bytes() > 0
                && let Err(error) = charter.succeed(&keys, task.now())
            {
                tracing::warn!(space = %space.short(), %error, "what counts of a space is not said yet");
            }
            charter.join_all(&records);
            let unknown = charter.records().filter(|record| !records.contains(record));
            missing = unknown.map(|record| ByteBuf::from(record.to_bytes())).collect();
            Ok(())
        })?;
        Ok::<_, NodeError>((missing, is_news))
    })
    .await?;
    if is_news {
        // Neither keeps the other.
        let cut = cut_logs(shared, space).await;
        spaces::learn(shared, space).await?;
        cut?;
    }
    Ok(missing)
}

/// Cuts off what others wrote that does not count any more: it was taken before its author was known to have been taken out, and whoever knew that has refused it. What this
/// node wrote itself stays, and goes nowhere. What a lost machine wrote stays, too, on those of its person, and on those of the space's owner: they may be the only ones that know of it.
pub(crate) async fn cut_logs(shared: &Arc<Shared>, space: SpaceId) -> Result<(), NodeError> {
    let open = shared.open_space(space);
    let one_at_a_time = match &open {
        Some(open) => Some(open.opened().names.lock().await),
        None => None,
    };
    let (task, ring) = (Arc::clone(shared), open.as_ref().map(OpenSpace::ring));
    let of = open.clone();
    let (erased, said_again) = Shared::blocking(move || {
        let open = of;
        let charter = task.charters.of(&task.read()?, space)?;
        let (mut erased, mut said_again) = (Vec::new(), None);
        let is_filled = Log::of(space).is_filled(&task.read()?);
        if charter.owner().is_none() || !is_filled.map_err(MetaError::reading)? {
            // Who cuts makes all anew, of all logs: that is done when they are here.
            return Ok((erased, said_again));
        }
        let frontier = Log::of(space).frontier(&task.read()?).map_err(MetaError::reading)?;
        let keys = ring.map(|ring| ring.keys.clone()).unwrap_or_default();
        for (device, position) in frontier {
            let (user, is_lost) =
                task.with_control(|control| (control.roster.owner_of(device), control.roster.is_lost(device)));
            let ends_here = is_lost && ![charter.owner(), user].contains(&Some(task.user));
            let end = charter.end_of(device).filter(|_| ends_here).unwrap_or(u64::MAX);
            let last = user
                .map_or(u64::MAX, |user| charter.last_counting(user, device))
                .min(end);
            let last = match user {
                Some(user) => last.min(last_in_a_row(&task, &charter, user, (device, position.seq))?),
                None => last,
            };
            if position.seq <= last {
                continue;
            }
            if device == task.me() {
                let knows_own_log = |open: &&OpenSpace| open.opened().knows_own_log.load(Ordering::Relaxed);
                if let Some(open) = open.as_ref().filter(|open| open.may_write()).filter(knows_own_log) {
                    said_again = Some(branch::leave_out_after(open, last)?);
                }
                continue;
            }
            let tree = Tree::of(space).learning_at(task.elapsed());
            let branch = Branch::of(space, device);
            let log = Log::of(space);
            for seq in last + 1..=position.seq {
                let logged = log.entry(&task.read()?, device, seq).map_err(MetaError::reading)?;
                erased.extend(logged.and_then(|logged| logged.open().ok()?.0.erases));
            }
            let entries = task
                .meta
                .write(|kv| branch.cut(kv, &keys, tree, last).map_err(NodeError::from))?;
            tracing::warn!(
                space = %space.short(),
                device = %device.short(),
                entries,
                "what one wrote who was taken out of the space, and whoever took them out had not heard of, is dropped"
            );
        }
        Ok::<_, NodeError>((erased, said_again))
    })
    .await?;
    drop(one_at_a_time);
    if let Some((open, given_up)) = open.as_ref().zip(said_again) {
        // Also when nothing was given up: others hear of what was said again.
        sweep::announce(open, given_up);
    }
    if let Some(open) = open.filter(|open| !erased.is_empty() && open.may_write()) {
        erase::say_again_soon(open, erased);
    }
    Ok(())
}

/// The same for all spaces: a run may have ended before it was done, and the times of grants end.
pub(crate) async fn cut_all_logs(shared: &Arc<Shared>) {
    let task = Arc::clone(shared);
    let chartered = Shared::blocking(move || Table::Charter.spaces(&task.read()?).map_err(MetaError::reading));
    for space in chartered.await.unwrap_or_default() {
        if let Err(error) = cut_logs(shared, space).await {
            tracing::warn!(space = %space.short(), %error, "what does not count any more is not cut off yet");
        }
    }
}

/// The last entry of a device before the first that does not count, where its person may write in some places, and in others not any more.
fn last_in_a_row(
    shared: &Shared,
    charter: &Charter,
    user: UserId,
    (device, last): (NodeId, u64),
) -> Result<u64, NodeError> {
    let Some(mut seq) = charter.doubtful_from(user, device) else {
        return Ok(u64::MAX);
    };
    let kv = shared.read()?;
    while seq <= last {
        let entry = Log::of(charter.space())
            .entry(&kv, device, seq)
            .map_err(MetaError::reading)?;
        let entry = entry.and_then(|entry| entry.checked_before().ok());
        if entry.is_none_or(|entry| !charter.may_write(user, device, seq, entry.clock, entry.area)) {
            return Ok(seq - 1);
        }
        seq += 1;
    }
    Ok(u64::MAX)
}

/// Changes a charter, and writes it down if it says more then. Whether it does.
pub(crate) fn change(
    shared: &Shared,
    space: SpaceId,
    change: impl FnOnce(&mut Charter) -> Result<(), NodeError>,
) -> Result<bool, NodeError> {
    let _one_at_a_time = shared.charters.changing.lock().expect("never poisoned");
    let known = shared.charters.of(&shared.read()?, space)?;
    let mut charter = (*known).clone();
    change(&mut charter)?;
    if charter == *known {
        return Ok(false);
    }
    let is_new = known.owner().is_none();
    let is_own = charter.owner() == Some(shared.user) && shared.spaces.is_catalogued(space);
    shared.with_control(|control| match charter.owner() {
        Some(owner) if !control.roster.is_user(owner) => Err(CharterError::NotFounded),
        Some(_) if charter.is_private() => Ok(()),
        // Whoever has a key that was replaced founds no more; of what it has founded the owner's machines have said what counts.
        Some(owner) if is_new && !is_own && !charter.follows(control.roster.key(owner)) => Err(CharterError::Replaced),
        Some(owner) if is_new && control.founded_by(owner) >= limits::SPACES_PER_USER_MAX => Err(CharterError::TooMuch),
        Some(_) => Ok(()),
        None => Err(CharterError::NotFounded),
    })?;
    shared.refuse_when_full()?;
    shared.meta.write(|kv| {
        charter
            .save(kv)
            .map_err(|source| NodeError::from(MetaError::writing(source)))
    })?;
    learn(shared, charter);
    Ok(true)
}

/// Who may read and write is looked at again: some grants end by the time.
pub(crate) fn look_again(shared: &Shared) -> Result<(), MetaError> {
    let access = access(shared)?;
    shared.with_control(|control| {
        access
            .into_iter()
            .for_each(|(space, access)| control.set_access(space, access));
    });
    Ok(())
}

/// What is written down is remembered.
pub(crate) fn learn(shared: &Shared, charter: Charter) {
    let (space, access) = (charter.space(), Admitted::of(&charter, shared.now()));
    shared.with_control(|control| control.set_access(space, access));
    shared.charters.remember(Arc::new(charter), Reading::Now);
}

/// Makes a peer and this node know the same of a charter.
pub(crate) async fn compare(shared: &Arc<Shared>, peer: NodeId, space: SpaceId) -> Result<(), String> {
    let told = |error: NodeError| error.to_string();
    let ours = exchange(shared, space, Vec::new()).await.map_err(told)?;
    let request = PoolRequest::Charter { space, records: ours };
    match shared.ask(peer, &request).await {
        Ok(PoolReply::Charter(theirs)) => exchange(shared, space, theirs).await.map(drop).map_err(told),
        Ok(other) => Err(format!("it answered {other:?}")),
        Err(error) => Err(error.to_string()),
    }
}
