//! Another device's log of which a history is kept here that the device does not stand by.
//!
//! A machine that was restored from an older image of itself, and wrote before it heard of what it had written since, takes that as its own when it does, and says again what it wrote
//! beside it (see `branch`). Who heard of nothing but that keeps a history after which nothing comes any more. Only the device can say which of the two it stands by; and as whoever has
//! stolen its key could undo with that word what it has ever written, a person decides here whether it is followed. Then what it gave up is dropped, and its log is fetched from it.

use crate::{
    checkpoint,
    error::{MetaError, NodeError},
    logs, names,
    protocol::{PoolReply, PoolRequest},
    shared::Shared,
    sweep,
};
use potluck_spaces::{Branch, Kv, Log, Logged, Position, Tree};
use potluck_types::{NodeId, SpaceId};
use serde_bytes::ByteBuf;
use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::{Arc, Mutex},
};

/// Logs of which entries came that do not go on from what is here.
#[derive(Default)]
pub(crate) struct Forks(Mutex<BTreeMap<(NodeId, SpaceId), Fork>>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fork {
    /// The device is being asked whether it has given up what is here.
    Asked,
    /// It has, as it says.
    GivenUp,
}

impl Forks {
    /// Whoever has given up a history that is kept here.
    pub(crate) fn devices(&self) -> BTreeSet<NodeId> {
        let forks = self.0.lock().expect("never poisoned");
        let given_up = forks.iter().filter(|(_, fork)| **fork == Fork::GivenUp);
        given_up.map(|((device, _), _)| *device).collect()
    }

    fn spaces(&self, device: NodeId) -> Vec<SpaceId> {
        let forks = self.0.lock().expect("never poisoned");
        let given_up = forks
            .iter()
            .filter(|((of, _), fork)| *of == device && **fork == Fork::GivenUp);
        given_up.map(|((_, space), _)| *space).collect()
    }

    /// What is kept here of a log is what its device stands by, or may be.
    fn is_one(&self, device: NodeId, space: SpaceId) {
        self.0.lock().expect("never poisoned").remove(&(device, space));
    }
}

/// An entry does not go on from what is here of a device's log. If the device has given that up, whoever asks how things are is told.
pub(crate) fn notice(shared: &Arc<Shared>, device: NodeId, space: SpaceId) {
    if device == shared.me() {
        return;
    }
    match shared.forks.0.lock().expect("never poisoned").entry((device, space)) {
        Entry::Occupied(_) => return,
        Entry::Vacant(vacant) => _ = vacant.insert(Fork::Asked),
    }
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let given_up = given_up(&shared, device, space).await;
        if !matches!(given_up, Ok(Some(_))) {
            // A device that is away, or has not heard of its other history yet: there will be another entry.
            return shared.forks.is_one(device, space);
        }
        tracing::warn!(
            device = %device.short(),
            space = %space.short(),
            "a machine was restored from an older image of itself, and goes on with another history than the one that is kept here: nothing that it writes is taken"
        );
        let mut forks = shared.forks.0.lock().expect("never poisoned");
        if let Some(fork) = forks.get_mut(&(device, space)) {
            *fork = Fork::GivenUp;
        }
    });
}

/// What is here of a device's log, and what the device stands by, if it has given up what is here.
async fn given_up(
    shared: &Arc<Shared>,
    device: NodeId,
    space: SpaceId,
) -> Result<Option<(Position, Position)>, NodeError> {
    let Some(ours) = logs::known(shared, space, device).await? else {
        return Ok(None);
    };
    let request = PoolRequest::GivenUp {
        space,
        seq: ours.seq,
        hash: ours.hash,
    };
    match shared.ask(device, &request).await {
        Ok(PoolReply::StandsBy(theirs)) => Ok(theirs.map(|theirs| (ours, theirs))),
        Ok(other) => Err(behind(device, format!("it answered {other:?}"))),
        Err(error) => Err(behind(device, error.to_string())),
    }
}

fn behind(node: NodeId, reason: impl Into<String>) -> NodeError {
    NodeError::Behind {
        node,
        reason: reason.into(),
    }
}

/// Follows a device in all spaces where it has given up what is kept here of its log. Gives the number of spaces, and of the entries that were dropped.
pub(crate) async fn follow(shared: &Arc<Shared>, device: NodeId) -> Result<(u64, u64), NodeError> {
    let (mut spaces, mut dropped, mut failed) = (0, 0, None);
    for space in shared.forks.spaces(device) {
        match follow_in(shared, device, space).await {
            Ok(entries) => {
                shared.forks.is_one(device, space);
                spaces += u64::from(entries > 0);
                dropped += entries;
            }
            // One space does not keep the others.
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok((spaces, dropped)), Err)
}

async fn follow_in(shared: &Arc<Shared>, device: NodeId, space: SpaceId) -> Result<u64, NodeError> {
    let told = |reason: String| behind(device, reason);
    let open = shared.open_space(space);
    if let Some(open) = &open {
        // Whoever drops something makes all anew, of all logs.
        checkpoint::whole(open).await?;
    }
    let Some((ours, theirs)) = given_up(shared, device, space).await? else {
        return Ok(0);
    };
    let common = logs::common(shared, device, space, (device, theirs))
        .await
        .map_err(told)?;
    let next = logs::fetch(shared, device, space, (device, common))
        .await
        .map_err(told)?;
    let dropped = {
        let _one_at_a_time = match &open {
            Some(open) => Some(open.opened().names.lock().await),
            None => None,
        };
        let keys = open.as_ref().map(|open| open.ring().keys.clone()).unwrap_or_default();
        let (task, next) = (Arc::clone(shared), next.clone());
        Shared::blocking(move || {
            task.meta.write(|kv| {
                if !parts(kv, (device, space), (common, ours), &next)? {
                    return Err(behind(
                        device,
                        "what it tells does not part from what is here any more: ask again",
                    ));
                }
                let tree = Tree::of(space).learning_at(task.elapsed());
                Ok(Branch::of(space, device).cut(kv, &keys, tree, common)?)
            })
        })
        .await?
    };
    tracing::warn!(
        device = %device.short(),
        space = %space.short(),
        dropped,
        "what a machine gave up is dropped, and what it stands by is taken"
    );
    let mut unpinned = names::take_entries(shared, space, next).await?;
    let rest = logs::pull_log(shared, device, space, (device, theirs)).await;
    unpinned.extend(rest.map_err(told)?);
    if let Some(open) = open {
        sweep::announce(&open, unpinned);
    }
    Ok(dropped)
}

/// Whether the device has signed another entry than the one that is here, after the last that both histories have.
fn parts(
    kv: &impl Kv,
    (device, space): (NodeId, SpaceId),
    (common, ours): (u64, Position),
    next: &[ByteBuf],
) -> Result<bool, NodeError> {
    let log = Log::of(space);
    let at = |seq| {
        let logged = log.entry(kv, device, seq).map_err(MetaError::reading)?;
        Ok::<_, NodeError>(logged.map(|logged| logged.hash()))
    };
    let Some(first) = next.first() else { return Ok(false) };
    let first = Logged::from_bytes(first).map_err(potluck_spaces::AppendError::from)?;
    let (entry, by) = first.open()?;
    let is_next = entry.space == space && by == device && entry.seq == common + 1 && entry.previous == at(common)?;
    let known = log.position(kv, device).map_err(MetaError::reading)?;
    let is_filled = log.is_filled(kv).map_err(MetaError::reading)?;
    Ok(is_next && is_filled && known == Some(ours) && at(common + 1)?.is_some_and(|ours| ours != first.hash()))
}
