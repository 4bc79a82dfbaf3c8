//! The charters of the spaces whose logs this node keeps: whose devices may write there. Whoever keeps a log has its charter, too, and needs no key to check either.

use crate::{
    error::{MetaError, NodeError},
    meta::Meta,
    protocol::{PoolReply, PoolRequest},
    shared::Shared,
    spaces,
};
use potluck_crypto::derive::private_space_id;
use potluck_spaces::{Charter, CharterError, CharterRecord, Entry, Kv, Table};
use potluck_types::{NodeId, SpaceId, Timestamp, UserId};
use serde_bytes::ByteBuf;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

/// Charters that are remembered as they were read: a few records each.
const REMEMBERED_MAX: usize = 256;

/// Charters that were read lately.
#[derive(Default)]
pub(crate) struct Charters {
    known: Mutex<BTreeMap<SpaceId, Arc<Charter>>>,
    /// Held while one is read, added to, and written.
    changing: Mutex<()>,
}

impl Charters {
    /// The charter of a space, as far as it is known here.
    pub(crate) fn of(&self, kv: &impl Kv, space: SpaceId) -> Result<Arc<Charter>, MetaError> {
        if let Some(known) = self.lock().get(&space) {
            return Ok(Arc::clone(known));
        }
        let charter = Arc::new(Charter::load(kv, space).map_err(MetaError::reading)?);
        self.remember(Arc::clone(&charter));
        Ok(charter)
    }

    /// The charter of a space, if it was read lately.
    pub(crate) fn remembered(&self, space: SpaceId) -> Option<Arc<Charter>> {
        self.lock().get(&space).cloned()
    }

    fn remember(&self, charter: Arc<Charter>) {
        let mut remembered = self.lock();
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        // What nothing is known of takes no room.
        if charter.digest().is_some() {
            remembered.insert(charter.space(), charter);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<SpaceId, Arc<Charter>>> {
        self.known.lock().expect("never poisoned")
    }
}

/// Who reads a space, and who writes there.
#[derive(Clone, Default, Debug)]
pub(crate) struct Access {
    pub(crate) readers: BTreeSet<UserId>,
    pub(crate) writers: BTreeSet<UserId>,
}

impl Access {
    fn of(charter: &Charter, now: Timestamp) -> Self {
        Self {
            readers: charter.readers(now),
            writers: charter.writers(now),
        }
    }
}

/// The spaces that have a charter here, and the people who read and write in each.
fn access(meta: &Meta, now: Timestamp) -> Result<BTreeMap<SpaceId, Access>, MetaError> {
    let kv = meta.read()?;
    let (mut access, mut after) = (BTreeMap::new(), None::<Vec<u8>>);
    while let Some((key, _)) = kv
        .scan(Table::Charter, &[], after.as_deref(), 1)
        .map_err(MetaError::reading)?
        .pop()
    {
        let space: [u8; 32] = key[..32].try_into().expect("a record's key has 64 bytes");
        let space = SpaceId::from_bytes(space);
        let charter = Charter::load(&kv, space).map_err(MetaError::reading)?;
        access.insert(space, Access::of(&charter, now));
        // On to the next space: past every record of this one.
        after = Some([&space.as_bytes()[..], &[0xff; 33]].concat());
    }
    Ok(access)
}

/// Whether an entry counts that a device has written, as the pool's records and the charter say.
pub(crate) fn counts(shared: &Shared, kv: &impl Kv, device: NodeId, entry: &Entry) -> Result<bool, NodeError> {
    let owner = shared.with_control(|control| control.roster.owner_of(device));
    let Some(user) = owner else { return Ok(false) };
    if private_space_id(user) == entry.space {
        return Ok(true);
    }
    let charter = shared.charters.of(kv, entry.space)?;
    Ok(charter.may_write(user, device, entry.seq, entry.clock))
}

/// The charter of a space, as far as it is known here.
pub(crate) async fn known(shared: &Arc<Shared>, space: SpaceId) -> Result<Arc<Charter>, NodeError> {
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
        let records: Vec<_> = theirs
            .iter()
            .map(|bytes| CharterRecord::from_bytes(bytes))
            .collect::<Result<_, _>>()?;
        let mut missing = Vec::new();
        let is_news = change(&task, space, |charter| {
            for record in &records {
                charter.join(record)?;
            }
            let unknown = charter.records().filter(|record| !records.contains(record));
            missing = unknown.map(|record| ByteBuf::from(record.to_bytes())).collect();
            Ok(())
        })?;
        Ok::<_, NodeError>((missing, is_news))
    })
    .await?;
    if is_news {
        spaces::learn(shared, space).await?;
    }
    Ok(missing)
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
    let is_member = |user| shared.with_control(|control| control.roster.is_user(user));
    if !charter.owner().is_some_and(is_member) {
        return Err(CharterError::NotFounded.into());
    }
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
    let access = access(&shared.meta, shared.now())?;
    shared.with_control(|control| {
        access
            .into_iter()
            .for_each(|(space, access)| control.set_access(space, access));
    });
    Ok(())
}

/// What is written down is remembered.
pub(crate) fn learn(shared: &Shared, charter: Charter) {
    let (space, access) = (charter.space(), Access::of(&charter, shared.now()));
    shared.with_control(|control| control.set_access(space, access));
    shared.charters.remember(Arc::new(charter));
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
