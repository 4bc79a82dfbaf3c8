//! A space: changing it, and keeping its logs on enough nodes.

use crate::{
    areas, branch, charters, checkpoint,
    claims::{Claim, Held},
    erase,
    error::{MetaError, NodeError},
    forks,
    links::{self, Draft},
    logs,
    meta::WriteKv,
    residence,
    shared::Shared,
    snapshots,
    space::OpenSpace,
    spaces,
    spare::RESERVE_BYTES,
};
use potluck_placement::{Presence, View, default_survive, rank};
use potluck_spaces::{
    Append, AppendError, Appended, AreaId, Body, Change, EntryId, Keys, Kv, Liveness, Log, Logged, Path, Pins, Totals,
    Trash, Tree, TreeError, Value, checkpoint::is_begun,
};
use potluck_types::{ByteSize, NodeId, SpaceId, StripeId, Timestamp, UserId, limits, to_canonical};
use serde_bytes::ByteBuf;
use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// What goes into one entry: the changes, the public pins, and what to remember for chunks seen again.
#[derive(Default, Debug)]
pub(crate) struct Batch {
    pub(crate) changes: Vec<Change>,
    pub(crate) pins: Vec<StripeId>,
    pub(crate) dedup: Vec<([u8; 32], Vec<u8>)>,
    /// Let go once the batch is written: what it names is in the log then.
    pub(crate) claims: Vec<Claim<StripeId>>,
    /// What links show from now on.
    pub(crate) links: Vec<Draft>,
    /// The area that all of it is said in, whatever it is; none where each change says so.
    pub(crate) within: Option<AreaId>,
    /// An entry whose changes are nowhere any more.
    pub(crate) erases: Option<EntryId>,
    /// Lets go also of what snapshots hold.
    pub(crate) spares_nothing: bool,
    /// About how many bytes the changes take once encoded.
    pub(crate) bytes: usize,
}

impl Batch {
    /// The changes of each entry. What only removes goes into entries so short that who keeps the log takes them on a full disk, too.
    fn parts<'a>(&self, changes: &'a [Change]) -> impl Iterator<Item = &'a [Change]> {
        let only_removes = |change: &Change| matches!(change, Change::Set { value: None, .. });
        let entry_bytes = match self.pins.is_empty() && changes.iter().all(only_removes) {
            true => REMOVAL_BYTES,
            false => usize::MAX,
        };
        let (mut left, mut is_first) = (changes, true);
        std::iter::from_fn(move || {
            if left.is_empty() && !is_first {
                return None;
            }
            is_first = false;
            let mut bytes = 0;
            let fits = |change: &&Change| {
                bytes += to_canonical(change).len();
                bytes <= entry_bytes
            };
            let count = match entry_bytes {
                usize::MAX => left.len(),
                _ => left.iter().take_while(fits).count().max(1).min(left.len()),
            };
            let (now, later) = left.split_at(count);
            left = later;
            Some(now)
        })
    }

    /// One that lets go also of what snapshots hold.
    pub(crate) fn for_good() -> Self {
        Self {
            spares_nothing: true,
            ..Self::default()
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.pins.is_empty() && self.links.is_empty() && self.erases.is_none()
    }

    /// Whether it should be written now: the next addition may not fit an entry.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES || self.pins.len() >= BATCH_PINS
    }
}

/// How long a change waits for the person's other machines.
const DEVICE_PATIENCE: Duration = Duration::from_secs(1);
/// An entry holds this much of changes and pins, and what is added before [`Batch::is_full`] is asked again.
const BATCH_BYTES: usize = 40 << 10;
const BATCH_PINS: usize = 512;
/// Entries that are taken in one transaction, in bytes. It writes a few times as much, and that must fit in the room that a full disk keeps for removals.
const TRANSACTION_BYTES: usize = 512 << 10;
/// The changes of an entry that only removes: with its envelope it is no longer than one with a file in it.
const REMOVAL_BYTES: usize = limits::INLINE_SEALED_BYTES_MAX - 1024;
/// What an entry gives up at most, beside what it says.
const UNPINS_PER_ENTRY: usize = 256;

const _: () = assert!(2 * BATCH_BYTES + (2 * BATCH_PINS + UNPINS_PER_ENTRY) * 36 <= limits::ENTRY_BYTES_MAX);

const _: () = assert!(TRANSACTION_BYTES >= limits::ENTRY_BYTES_MAX && 6 * TRANSACTION_BYTES <= RESERVE_BYTES);

/// The nodes that keep a space's log: the first *f* + 1 in its order that count, in distinct domains.
pub(crate) fn custodians(space: SpaceId, view: &View) -> Vec<NodeId> {
    let mut domains = BTreeSet::new();
    let view = view.for_space(space);
    let order = rank(StripeId::from_bytes(*space.as_bytes()), &view);
    let all: Vec<_> = order
        .into_iter()
        .filter(|node| view.stays(*node) && domains.insert(view.domain(*node)))
        .collect();
    let copies = usize::from(default_survive(view.nodes.len())) + 1;
    all.into_iter().take(copies).collect()
}

/// Writes a batch as the next entry of this device, durably here, and gives up the stripes that no file uses any more then. They are
/// unpinned with it, and given to the caller, who tells their holders. [`replicate`] makes it durable elsewhere.
pub(crate) async fn write(space: &OpenSpace, batch: Batch) -> Result<Vec<StripeId>, NodeError> {
    branch::know_own_log(space).await;
    let _one_at_a_time = space.opened().names.lock().await;
    let task = space.clone();
    Shared::blocking(move || {
        // Held until all is committed: an upload that finds a stripe here afterwards sees that it was given up.
        let claimed = task.claims.lock();
        let written = task.meta.write(|kv| write_in(&task, kv, &claimed, &batch));
        drop(claimed);
        links::changed(&task);
        drop(batch.claims);
        Ok(written?.given_up)
    })
    .await
}

/// Writes batches as the next entries of this device, all of them or none. Nothing is given up by them.
pub(crate) async fn write_all(space: &OpenSpace, batches: Vec<Batch>) -> Result<(), NodeError> {
    write_made(space, move |_, _| Ok((batches, ()))).await
}

/// The same with batches that are made where they are written, of what is there then.
pub(crate) async fn write_made<T: Send + 'static>(
    space: &OpenSpace,
    make: impl FnOnce(&OpenSpace, &WriteKv<'_>) -> Result<(Vec<Batch>, T), NodeError> + Send + 'static,
) -> Result<T, NodeError> {
    branch::know_own_log(space).await;
    let _one_at_a_time = space.opened().names.lock().await;
    let task = space.clone();
    Shared::blocking(move || {
        let claimed = task.claims.lock();
        task.meta.write(|kv| {
            let room = Room::of(&task, kv)?;
            let (batches, made) = make(&task, kv)?;
            batches
                .iter()
                .try_for_each(|batch| write_within(&task, kv, &claimed, batch).map(drop))?;
            room.refuse_growth(&task, kv)?;
            Ok(made)
        })
    })
    .await
}

/// What was written.
pub(crate) struct Written {
    /// The entry that holds the changes, or the first of those that do.
    pub(crate) seq: u64,
    pub(crate) given_up: Vec<StripeId>,
}

/// Writes a batch in a transaction of the caller, who holds the lock on names.
pub(crate) fn write_in(
    space: &OpenSpace,
    kv: &mut WriteKv<'_>,
    claimed: &Held<StripeId>,
    batch: &Batch,
) -> Result<Written, NodeError> {
    let room = Room::of(space, kv)?;
    let written = write_within(space, kv, claimed, batch)?;
    room.refuse_growth(space, kv)?;
    Ok(written)
}

/// The same, however much the space holds then.
pub(crate) fn write_within(
    space: &OpenSpace,
    kv: &mut WriteKv<'_>,
    claimed: &Held<StripeId>,
    batch: &Batch,
) -> Result<Written, NodeError> {
    if let Some(erased) = batch.erases
        && !charters::may_erase(space, kv, space.id(), space.me(), erased.device)?
    {
        // Nobody would take it, nor what comes after it.
        return Err(NodeError::EraseOthers(Vec::new()));
    }
    let spared = match batch.spares_nothing {
        true => None,
        false => snapshots::spare(space, kv, &batch.changes)?,
    };
    let changes = spared.as_deref().unwrap_or(&batch.changes);
    let mut given_up = match space.is_partial_in(kv)? {
        // Others may use it, where this person sees nothing. Who has all of the space gives it up.
        true => Vec::new(),
        false => Tree::of(space.id()).given_up(kv, changes)?,
    };
    given_up.retain(|stripe| !claimed.contains_key(stripe));
    let now = space.now();
    note_uploads(kv, space.id(), changes, now)?;
    let mut bodies = Vec::new();
    for (area, changes) in areas::divide(space, kv, batch, changes)? {
        for changes in batch.parts(&changes) {
            bodies.push(space.body_in(area, changes)?);
        }
    }
    let (mut unpins, mut first) = (given_up.chunks(UNPINS_PER_ENTRY), None);
    let body = bodies.first_mut().expect("at least one part");
    body.pins.clone_from(&batch.pins);
    body.erases = batch.erases;
    if let Some(body) = bodies.iter_mut().find(|body| body.area.is_none()) {
        let links = batch.links.iter().map(|draft| draft.seal(space, body.epoch));
        body.links = links.collect::<Result<_, _>>()?;
    }
    // After the last change: until then some of the stripes are used. A large file gives up more than fits with its change. What is said in an area gives up nothing.
    let last = bodies.last_mut().expect("at least one part");
    if last.area.is_none() {
        last.unpins = unpins.next().unwrap_or_default().to_vec();
    }
    for unpins in unpins {
        bodies.push(Body {
            unpins: unpins.to_vec(),
            ..space.body(kv, &[])?
        });
    }
    for body in bodies {
        let entry = Log::of(space.id()).next_entry(kv, &space.node_key, now, body)?;
        let taken = take(space, kv, &entry)?;
        if !charters::is_own_to_say(space, kv, &taken.appended.entry)? {
            // Its clock is later than the time until which the person may write: others' clocks are ahead.
            return Err(NodeError::ReadOnly);
        }
        first.get_or_insert(taken.appended.entry.seq);
    }
    for (fingerprint, piece) in &batch.dedup {
        kv.set_stored(fingerprint, piece)?;
    }
    let seq = first.expect("at least one entry");
    Ok(Written { seq, given_up })
}

/// How many bytes there are of what each person's machines have put into a space.
pub(crate) fn used_by(space: &OpenSpace, kv: &impl Kv) -> Result<BTreeMap<UserId, u64>, NodeError> {
    let written = Trash::of(space.id()).written(kv).map_err(MetaError::reading)?;
    let mut used = BTreeMap::<UserId, u64>::new();
    space.with_control(|control| {
        for (device, bytes) in written {
            if let Some(user) = control.roster.owner_of(device) {
                let used = used.entry(user).or_default();
                *used = used.saturating_add(bytes);
            }
        }
    });
    Ok(used)
}

/// How much more a space may hold, and this person may have in it.
pub(crate) struct Room {
    quota: u64,
    before: Totals,
    share: u64,
    used: u64,
}

impl Room {
    fn of(space: &OpenSpace, kv: &impl Kv) -> Result<Self, NodeError> {
        let settings = Tree::of(space.id()).settings(kv).map_err(MetaError::reading)?;
        let before = Trash::of(space.id()).totals(kv).map_err(MetaError::reading)?;
        let quota = settings.quota.unwrap_or(u64::MAX);
        let share = space.charters.of(kv, space.id())?.quota(space.user, space.now());
        Ok(Self {
            quota,
            before,
            used: match share {
                Some(_) => Self::used(space, kv)?,
                None => 0,
            },
            share: share.unwrap_or(u64::MAX),
        })
    }

    fn used(space: &OpenSpace, kv: &impl Kv) -> Result<u64, NodeError> {
        Ok(used_by(space, kv)?.get(&space.user).copied().unwrap_or_default())
    }

    /// Refuses so many bytes more, if that is more than may be.
    pub(crate) fn refuse(&self, more: u64) -> Result<(), NodeError> {
        self.refuse_both(more, more)
    }

    /// The same, with how much more there is of what this person has put.
    fn refuse_both(&self, more: u64, mine: u64) -> Result<(), NodeError> {
        let Self {
            quota,
            before,
            share,
            used,
        } = self;
        if more > 0 && before.used().saturating_add(more) > *quota {
            return Err(NodeError::OverQuota {
                quota: ByteSize(*quota),
                used: ByteSize(before.used()),
                kept: ByteSize(before.kept_bytes),
                more: ByteSize(more),
            });
        }
        if mine > 0 && used.saturating_add(mine) > *share {
            return Err(NodeError::OverShare {
                quota: ByteSize(*share),
                used: ByteSize(*used),
                more: ByteSize(mine),
            });
        }
        Ok(())
    }

    /// Refuses what the space holds more of by now. What makes it less is taken, also where it is still too much.
    fn refuse_growth(&self, space: &OpenSpace, kv: &impl Kv) -> Result<(), NodeError> {
        let now = Trash::of(space.id()).totals(kv).map_err(MetaError::reading)?;
        let mine = match self.share {
            u64::MAX => 0,
            _ => Self::used(space, kv)?.saturating_sub(self.used),
        };
        let more = now.used().saturating_sub(self.before.used());
        // What is moved or brought back is counted for who did it: nothing more is there for it.
        self.refuse_both(more, mine.min(more))
    }
}

/// How much more a space may hold when a file has taken the place of what is at a path: that may be let go of.
pub(crate) fn room(space: &OpenSpace, path: &Path) -> Result<Room, NodeError> {
    let kv = space.read()?;
    let mut room = Room::of(space, &kv)?;
    if (room.quota, room.share) != (u64::MAX, u64::MAX)
        && let Ok(Some(found)) = space.view().find(&kv, path)
    {
        for head in &found.heads {
            let Value::File(file) = &head.value else { continue };
            room.before.bytes = room.before.bytes.saturating_sub(file.len);
            let owner = space.with_control(|control| control.roster.owner_of(head.op.device));
            if owner == Some(space.user) {
                room.used = room.used.saturating_sub(file.len);
            }
        }
    }
    Ok(room)
}

/// Which versions are being written, and which have their names.
fn note_uploads(kv: &mut WriteKv<'_>, space: SpaceId, changes: &[Change], now: Timestamp) -> Result<(), MetaError> {
    for change in changes {
        match change {
            Change::Uses { file, stripes, .. } if !stripes.is_empty() => kv.set_upload(space, *file, now)?,
            Change::Uses { file, .. } => kv.end_upload(space, *file)?,
            Change::Set {
                value: Some(Value::File(file)),
                ..
            } if file.uses.is_empty() => kv.end_upload(space, file.id)?,
            Change::Recode { file, .. } => kv.end_upload(space, file.id)?,
            Change::Set { .. }
            | Change::Settings(_)
            | Change::Snapshot { .. }
            | Change::Accept { .. }
            | Change::Restate { .. } => {}
        }
    }
    Ok(())
}

/// Gives up stripes that no file uses, unless one has come to use them. Gives those that were given up.
pub(crate) async fn unpin(space: &OpenSpace, stripes: Vec<StripeId>) -> Result<Vec<StripeId>, NodeError> {
    branch::know_own_log(space).await;
    let _one_at_a_time = space.opened().names.lock().await;
    let task = space.clone();
    Shared::blocking(move || {
        let claimed = task.claims.lock();
        let tree = Tree::of(task.id());
        task.meta.write(|kv| {
            let mut unused = Vec::new();
            if task.is_partial_in(kv)? {
                return Ok(unused);
            }
            for stripe in stripes {
                if !claimed.contains_key(&stripe) && !tree.is_used(kv, stripe)? {
                    unused.push(stripe);
                }
            }
            for unpins in unused.chunks(UNPINS_PER_ENTRY) {
                let body = Body {
                    unpins: unpins.to_vec(),
                    ..task.body(kv, &[])?
                };
                let entry = Log::of(task.id()).next_entry(kv, &task.node_key, task.now(), body)?;
                take(&task, kv, &entry)?;
            }
            Ok(unused)
        })
    })
    .await
}

/// An entry that was taken.
struct Taken {
    appended: Appended,
    /// The stripes that it names.
    named: Vec<StripeId>,
}

/// Takes one entry of a space: appends it, and applies it to the tree.
fn take(space: &OpenSpace, kv: &mut WriteKv<'_>, logged: &Logged) -> Result<Taken, NodeError> {
    let appended = Log::of(space.id()).append(kv, logged)?;
    let mut named = Vec::new();
    if appended.append == Append::New {
        let (tree, entry) = (Tree::of(space.id()).learning_at(space.elapsed()), &appended.entry);
        named = tree.apply(kv, &space.ring().keys, appended.device, entry)?;
        named.extend(entry.pins.iter().chain(&entry.unpins));
    }
    Ok(Taken { appended, named })
}

/// Takes one entry of a space that nobody reads here.
fn keep(space: SpaceId, kv: &mut WriteKv<'_>, logged: &Logged) -> Result<Taken, NodeError> {
    let appended = Log::of(space).append(kv, logged)?;
    if appended.append == Append::New && appended.entry.epoch.is_some() {
        // Should this node come to have the key, it knows what it has not opened.
        Tree::of(space).apply(kv, &Keys::default(), appended.device, &appended.entry)?;
    }
    Ok(Taken {
        appended,
        named: Vec::new(),
    })
}

/// Whether an entry counts, and whoever erases by it, or has erased it, may.
fn counts(shared: &Shared, kv: &impl Kv, appended: &Appended) -> Result<bool, NodeError> {
    let Appended {
        entry,
        device,
        erased_by,
        ..
    } = appended;
    let may_erase = |by, of| charters::may_erase(shared, kv, entry.space, by, of);
    if !charters::counts(shared, kv, *device, entry)? {
        return Ok(false);
    }
    if let Some(erased) = entry.erases
        && !may_erase(*device, erased.device)?
    {
        return Ok(false);
    }
    match erased_by {
        Some((notice, by)) => Ok(may_erase(*by, *device)? && charters::counts(shared, kv, *by, notice)?),
        None => Ok(true),
    }
}

/// Those that a file uses and a log has given up: one machine brought back, or found stored, what another let go of at the same time.
fn contested(space: &OpenSpace, kv: &impl Kv, stripes: &BTreeSet<StripeId>) -> Result<Vec<StripeId>, NodeError> {
    let mut contested = Vec::new();
    for stripe in stripes {
        let state = Pins::of(space.id()).state(kv, *stripe).map_err(TreeError::from)?;
        if state.liveness() == Liveness::Dead && Tree::of(space.id()).is_used(kv, *stripe)? {
            contested.push(*stripe);
        }
    }
    Ok(contested)
}

/// Says once more that stripes are in use, of those that a file uses and a log has given up.
pub(crate) async fn pin_where_contested(space: &OpenSpace, stripes: Vec<StripeId>) -> Result<(), NodeError> {
    let task = space.clone();
    let contested = Shared::blocking(move || contested(&task, &task.read()?, &stripes.into_iter().collect())).await?;
    if !contested.is_empty() && space.may_write() {
        tokio::spawn(pin_again(space, contested));
    }
    Ok(())
}

/// Says that contested stripes are in use, if that was not said yet, and lets the others know: what is left of them stays, and what is lost is named.
fn pin_again(space: &OpenSpace, stripes: Vec<StripeId>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let space = space.clone();
    Box::pin(async move {
        if let Err(error) = pin_contested(&space, stripes).await {
            tracing::warn!(%error, "what one machine uses and another gave up is not pinned again everywhere");
        }
    })
}

async fn pin_contested(space: &OpenSpace, stripes: Vec<StripeId>) -> Result<(), NodeError> {
    let task = space.clone();
    let still = Shared::blocking(move || contested(&task, &task.read()?, &stripes.into_iter().collect())).await?;
    say_in_use(space, &still).await
}

/// Says that stripes are in use, durably and to the custodians.
async fn say_in_use(space: &OpenSpace, stripes: &[StripeId]) -> Result<(), NodeError> {
    for stripes in stripes.chunks(BATCH_PINS) {
        let batch = Batch {
            pins: stripes.to_vec(),
            ..Batch::default()
        };
        write(space, batch).await?;
    }
    replicate(space).await.map(drop)
}

/// Says that a stripe is in use again that was given up, before it is stored again: its holders free what they have of it, and would free what is new of it, too.
pub(crate) async fn revive(space: &OpenSpace, stripe: StripeId) -> Result<(), NodeError> {
    let task = space.clone();
    let state = Shared::blocking(move || {
        let state = Pins::of(task.id()).state(&task.read()?, stripe);
        Ok::<_, NodeError>(state.map_err(TreeError::from)?)
    });
    if state.await?.liveness() != Liveness::Dead {
        return Ok(());
    }
    say_in_use(space, &[stripe]).await
}

/// Takes entries of any space that a peer sends, as custodian or as another device of the same person. Durable when
/// this returns. Gives the stripes that they unpin.
pub(crate) async fn take_entries(
    shared: &Arc<Shared>,
    space: SpaceId,
    entries: Vec<ByteBuf>,
) -> Result<Vec<StripeId>, NodeError> {
    residence::refuse_outside(shared, space)?;
    let open = shared.open_space(space);
    let taken = append_entries(shared, space, open.clone(), entries).await;
    if let Some(space) = &open
        && let Err(error @ (NodeError::Meta(_) | NodeError::DiskFull { .. })) = &taken
    {
        *space.opened().lacking.lock().expect("never poisoned") = Some(error.to_string());
    }
    if let Err(NodeError::Log(AppendError::Fork { device, .. })) = &taken {
        forks::notice(shared, *device, space);
    }
    let News {
        unpinned,
        contested,
        erases,
    } = taken?;
    if open.is_some() {
        links::changed(shared);
    }
    if let Some(space) = open.clone().filter(|_| erases) {
        checkpoint::let_go_soon(&space);
        erase::forget_soon(space);
    }
    if let Some(space) = &open
        && space.may_write()
        && !contested.is_empty()
    {
        tokio::spawn(pin_again(space, contested));
    }
    if let Some(open) = shared.open_space(space) {
        spaces::read(&open).await?;
    }
    Ok(unpinned)
}

/// What entries of others have done.
#[derive(Default)]
struct News {
    unpinned: Vec<StripeId>,
    contested: Vec<StripeId>,
    /// Whether something was erased.
    erases: bool,
}

/// Whether nothing is known here of a space that somebody has founded, and so written to: its log did not come yet, or what that adds up to is coming.
pub(crate) fn is_unheard(space: &OpenSpace, kv: &impl Kv) -> Result<bool, MetaError> {
    if space.charters.of(kv, space.id())?.founding().is_none() {
        return Ok(false);
    }
    let is_empty = Log::of(space.id()).is_empty(kv).map_err(MetaError::reading)?;
    Ok(is_empty || is_begun(kv, space.id()).map_err(MetaError::reading)?)
}

/// Why this node may not know all names of its person, if so: it could not write down what others told it, or nobody has told it anything. What it can fetch by now, it does first.
pub(crate) async fn lacking(space: &OpenSpace) -> Option<String> {
    let lacking = || space.opened().lacking.lock().expect("never poisoned");
    let task = space.clone();
    let is_unheard = || async {
        let task = task.clone();
        Shared::blocking(move || is_unheard(&task, &task.read()?))
            .await
            .unwrap_or_default()
    };
    let known = lacking().clone();
    let reason = match known {
        Some(error) => format!("it could not write them down: {error}"),
        None if is_unheard().await => {
            let heard = async {
                let _ = logs::catch_up(space).await;
                // Who takes a checkpoint knows them then.
                drop(space.opened().taking.lock().await);
            };
            let _ = tokio::time::timeout(limits::STALL_TIMEOUT, heard).await;
            return is_unheard().await.then(|| NodeError::NamesNotHere.to_string());
        }
        None => return None,
    };
    match tokio::time::timeout(limits::STALL_TIMEOUT, logs::catch_up(space)).await {
        Ok(Ok(())) => {
            *lacking() = None;
            None
        }
        Ok(Err(_)) | Err(_) => Some(reason),
    }
}

async fn append_entries(
    shared: &Arc<Shared>,
    space: SpaceId,
    open: Option<OpenSpace>,
    entries: Vec<ByteBuf>,
) -> Result<News, NodeError> {
    let task = Arc::clone(shared);
    Shared::blocking(move || {
        let mut all = News::default();
        let mut left = &entries[..];
        while !left.is_empty() {
            let (mut bytes, mut grows) = (0, false);
            let fits = |entry: &&ByteBuf| {
                let (weight, takes_room) = weigh(open.as_ref(), entry);
                bytes += weight;
                let fits = bytes <= TRANSACTION_BYTES || bytes == weight;
                grows |= fits && takes_room;
                fits
            };
            let (now, later) = left.split_at(left.iter().take_while(fits).count().max(1));
            if grows {
                task.refuse_when_full()?;
            }
            let news = append_together(&task, space, open.as_ref(), now)?;
            all.unpinned.extend(news.unpinned);
            all.contested.extend(news.contested);
            all.erases |= news.erases;
            left = later;
        }
        Ok(all)
    })
    .await
}

fn append_together(
    shared: &Shared,
    space: SpaceId,
    open: Option<&OpenSpace>,
    entries: &[ByteBuf],
) -> Result<News, NodeError> {
    shared.meta.write(|kv| {
        let (mut unpinned, mut named, mut erases) = (Vec::new(), BTreeSet::new(), false);
        for bytes in entries {
            let logged = Logged::from_bytes(bytes).map_err(AppendError::from)?;
            let taken = match open {
                Some(space) => take(space, kv, &logged)?,
                None => keep(space, kv, &logged)?,
            };
            // What does not count aborts all that came with it.
            if taken.appended.append == Append::New {
                if !counts(shared, kv, &taken.appended)? {
                    return Err(AppendError::Foreign.into());
                }
                erases |= taken.appended.entry.erases.is_some();
                unpinned.extend(taken.appended.entry.unpins);
            }
            named.extend(taken.named);
        }
        let Some(space) = open else {
            return Ok(News {
                unpinned,
                contested: Vec::new(),
                erases,
            });
        };
        if is_begun(kv, space.id()).map_err(MetaError::reading)? {
            // What they say is not opened yet, and they are named once more when it is.
            named.clear();
        }
        let contested = contested(space, kv, &named)?;
        // At once, if this node may write: else what it gives up by others' word would be freed first.
        let pins_now = space.opened().knows_own_log.load(Ordering::Relaxed) && space.may_write();
        for stripes in contested.chunks(BATCH_PINS).filter(|_| pins_now) {
            let body = Body {
                pins: stripes.to_vec(),
                ..space.body(kv, &[])?
            };
            let entry = Log::of(space.id()).next_entry(kv, &shared.node_key, shared.now(), body)?;
            take(space, kv, &entry)?;
        }
        unpinned.retain(|stripe| !contested.contains(stripe));
        Ok(News {
            unpinned,
            contested,
            erases,
        })
    })
}

/// How many bytes an entry has with its changes unpacked, and whether it is more than a removal: it pins something, or is as long as one with a file in it and unpins nothing.
fn weigh(space: Option<&OpenSpace>, entry: &[u8]) -> (usize, bool) {
    let logged = Logged::from_bytes(entry).ok();
    let Some((opened, _)) = logged.and_then(|logged| logged.open().ok()) else {
        return (entry.len(), false);
    };
    let unpacked = space.and_then(|space| Tree::of(space.id()).changes_len(&space.ring().keys, &opened));
    let weight = entry.len().max(unpacked.unwrap_or_default());
    // It is kept twice, and makes room for what it erases.
    if opened.erases.is_some() {
        return (2 * weight, false);
    }
    let takes_room = !opened.pins.is_empty() || (opened.unpins.is_empty() && weight > limits::INLINE_SEALED_BYTES_MAX);
    (weight, takes_room)
}

/// Makes all that this device has written durable on the space's custodians, *f* + 1 nodes; when one does not take it, on the next
/// in order. With fewer at hand two suffice (one, while no other domain is here): then this gives the losses that it survives.
pub(crate) async fn replicate(space: &OpenSpace) -> Result<Option<u8>, NodeError> {
    let view = space.present_view_for(space.id());
    let custodians = custodians(space.id(), &view);
    let wanted = usize::from(default_survive(view.nodes.len())) + 1;
    let order = rank(StripeId::from_bytes(*space.id().as_bytes()), &view);
    let next: Vec<_> = order
        .into_iter()
        .filter(|node| view.stays(*node) && !custodians.contains(node))
        .collect();
    // This node has it; a stand-in in a domain that has it adds nothing.
    let mut domains = BTreeSet::from([view.domain(space.me())]);
    let mut rounds = vec![custodians];
    rounds.extend(next.into_iter().map(|node| vec![node]));
    for round in rounds {
        let asked: Vec<_> = round
            .into_iter()
            .filter(|node| !domains.contains(&view.domain(*node)))
            .collect();
        let pushes = asked.into_iter().map(|node| async move {
            match logs::push(space.shared(), node, space.id()).await {
                Ok(()) => Some(node),
                Err(error) => {
                    tracing::debug!(node = %node.short(), error, "a custodian does not take the log");
                    None
                }
            }
        });
        let done = futures::future::join_all(pushes).await;
        domains.extend(done.into_iter().flatten().map(|node| view.domain(node)));
        if domains.len() >= wanted {
            break;
        }
    }
    let stored = domains.len();
    // Who was here then and is not any more does not count: that is for them to take when they come back.
    let now = space.present_view_for(space.id());
    let is_other = |node: &&NodeId| now.takes(**node) && now.domain(**node) != now.domain(space.me());
    let others = now.nodes.keys().filter(is_other);
    if stored < wanted.min(2) && others.count() > 0 {
        return Err(NodeError::TooFewCustodians { stored, wanted });
    }
    // The person's other machines that are here learn of it now, too: what is acknowledged is listed by all of them. One that is slow is not waited
    // for much longer.
    let others = devices(space, space.id()).into_iter().map(|node| {
        let space = space.clone();
        tokio::spawn(async move { logs::push(space.shared(), node, space.id()).await })
    });
    let _ = tokio::time::timeout(DEVICE_PATIENCE, futures::future::join_all(others)).await;
    let losses = || u8::try_from(stored - 1).expect("fewer than custodians");
    Ok((stored < wanted).then(losses))
}

/// The connected nodes of those who read a space, without this one.
fn devices(shared: &Shared, space: SpaceId) -> Vec<NodeId> {
    shared.with_control(|control| {
        let peers = control.live_peers().into_iter();
        peers.filter(|node| control.is_of(*node, space)).collect()
    })
}

/// The other nodes that should have a space's logs: its custodians, and its person's machines that are here.
pub(crate) fn keepers(shared: &Shared, space: SpaceId, view: &View) -> BTreeSet<NodeId> {
    let mut keepers: BTreeSet<_> = custodians(space, view)
        .into_iter()
        .chain(devices(shared, space))
        .collect();
    keepers.remove(&shared.me());
    keepers
}

/// The nodes that would keep a space's logs if everybody were here and it could be everywhere.
pub(crate) fn former_custodians(shared: &Shared, space: SpaceId) -> Vec<NodeId> {
    let view = View {
        confined: Arc::default(),
        ..shared.present_view()
    };
    usual(space, view)
}

/// The nodes that keep a space's logs when everybody is here.
pub(crate) fn usual_custodians(shared: &Shared, space: SpaceId) -> Vec<NodeId> {
    usual(space, shared.present_view())
}

fn usual(space: SpaceId, mut view: View) -> Vec<NodeId> {
    view.nodes
        .values_mut()
        .for_each(|facts| facts.presence = Presence::Live);
    custodians(space, &view)
}
