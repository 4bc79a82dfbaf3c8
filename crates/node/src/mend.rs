//! Mending a stripe as its steward: fetch what is at hand, make what is missing, store it where it belongs; or drop copies
//! that are no longer needed.

use crate::{
    audit,
    control::Event,
    error::ShardsError,
    protocol::{PoolReply, PoolRequest, ShardReply, ShardRequest},
    shared::Shared,
    stripes::{self, Effort},
    sweep,
};
use bytes::Bytes;
use potluck_dag::stripe;
use potluck_net::Course;
use potluck_placement::{Mend, Outcome, Reported};
use potluck_spaces::Liveness;
use potluck_types::{NodeId, Shard, ShardId, SpaceId};
use std::sync::Arc;

/// What a mend moved, in bytes of payload.
#[derive(Default)]
struct Traffic {
    read: u64,
    written: u64,
}

/// Does it, and tells the core how it ended.
pub(crate) async fn mend(shared: Arc<Shared>, mend: Mend) {
    tracing::debug!(stripe = %mend.stripe.short(), place = ?mend.place, surplus = ?mend.surplus, sources = ?mend.sources, "mending");
    let mut traffic = Traffic::default();
    let outcome = if mend.place.is_empty() {
        drop_surplus(&shared, &mend).await
    } else {
        match worth(&shared, &mend).await {
            Worth::Mending => place(&shared, &mend, &mut traffic).await.map(|()| Outcome::Done),
            Worth::Releasing(space) => {
                sweep::release_together(&shared, space, &mend).await;
                Ok(Outcome::Done)
            }
            Worth::Waiting => Ok(Outcome::Unnamed),
        }
    };
    let outcome = outcome.unwrap_or_else(|error| {
        tracing::info!(stripe = %mend.stripe.short(), error, "a repair did not succeed and will be tried again");
        Outcome::Failed
    });
    shared.tell(Event::Mended {
        stripe: mend.stripe,
        outcome,
        read: traffic.read,
        written: traffic.written,
    });
}

/// What is to be done for a stripe that has too few shards.
enum Worth {
    Mending,
    /// It is given up. A holder that knows has freed its shard; the others would do so one after the other, and each be given it again.
    Releasing(SpaceId),
    /// No log names it.
    Waiting,
}

async fn worth(shared: &Arc<Shared>, mend: &Mend) -> Worth {
    let Some(space) = space_of(shared, mend).await else {
        return Worth::Mending;
    };
    match sweep::verdicts(shared, space, &[mend.stripe]).await {
        Some((verdicts, all)) => match verdicts[..] {
            [Liveness::Dead] => Worth::Releasing(space),
            [Liveness::Unknown] if all => Worth::Waiting,
            _ => Worth::Mending,
        },
        None => Worth::Mending,
    }
}

/// The space that a stripe is stored for, as the first holder that answers says.
async fn space_of(shared: &Arc<Shared>, mend: &Mend) -> Option<SpaceId> {
    let stripes = vec![mend.stripe];
    let here = sweep::local_spaces(shared, stripes.clone()).await;
    if let [Some(space)] = here[..] {
        return Some(space);
    }
    let request = PoolRequest::Spaces { stripes };
    for (node, _) in mend.sources.iter().filter(|(node, _)| *node != shared.me()) {
        if let Ok(PoolReply::Spaces(spaces)) = shared.ask(*node, &request).await
            && let [Some(space)] = spaces[..]
        {
            return Some(space);
        }
    }
    None
}

async fn place(shared: &Arc<Shared>, mend: &Mend, traffic: &mut Traffic) -> Result<(), String> {
    let (shards, space) = wanted_shards(shared, mend, traffic)
        .await
        .map_err(|error| error.to_string())?;
    let puts = mend.place.iter().map(|(index, node)| {
        let shard = shards.iter().find(|shard| shard.id().index == *index).cloned();
        async move {
            let shard = shard.ok_or("the shard was not made")?;
            let reported = Reported {
                shard: shard.id(),
                geometry: mend.geometry,
                shard_len: mend.shard_len,
                space: Some(space),
            };
            let (descriptor, len) = (shard.descriptor().to_bytes(), shard.payload().len() as u64);
            stripes::put_shard(shared, *node, space, descriptor.into(), shard).await?;
            // Its own report may come later; that the shard is there is known now.
            shared.tell(Event::Placed {
                holder: *node,
                shard: reported,
            });
            Ok::<_, String>(len)
        }
    });
    let mut failed = None;
    for outcome in futures::future::join_all(puts).await {
        match outcome {
            Ok(len) => traffic.written += len,
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(()), Err)
}

/// The shards to place: copies where each has a source, made from any *k* others where not.
async fn wanted_shards(
    shared: &Arc<Shared>,
    mend: &Mend,
    traffic: &mut Traffic,
) -> Result<(Vec<Shard>, SpaceId), ShardsError> {
    let wanted: Vec<u8> = mend.place.iter().map(|(index, _)| *index).collect();
    let mut copies = Vec::new();
    let has_source = |index: &u8| mend.sources.iter().any(|(_, held)| held == index);
    // Of what is made anew the others come for nothing: they are not read beside it.
    let to_copy = if wanted.iter().all(has_source) {
        &wanted[..]
    } else {
        &[]
    };
    for index in to_copy {
        match copy(shared, mend, *index).await {
            Some((shard, space, fetched)) => {
                traffic.read += fetched;
                copies.push((shard, space));
            }
            None => break,
        }
    }
    if copies.len() == wanted.len()
        && let Some((_, space)) = copies.first()
    {
        let space = *space;
        return Ok((copies.into_iter().map(|(shard, _)| shard).collect(), space));
    }
    let gathered = stripes::gather(shared, None, mend.stripe, mend.geometry, &mend.sources, Effort::Ask).await?;
    traffic.read += gathered.fetched;
    let damaged = |reason: String| ShardsError::Damaged {
        stripe: mend.stripe,
        reason,
    };
    let space = gathered
        .space
        .ok_or_else(|| damaged("no holder says which space it is of".to_owned()))?;
    let made = Shared::blocking(move || {
        let descriptor = gathered.shards[0].descriptor().clone();
        stripe::rebuild(&descriptor, &gathered.shards, &wanted)
    })
    .await
    .map_err(|error| damaged(error.to_string()))?;
    Ok((made, space))
}

/// A shard that some node has already: a move, or the drain of a node that leaves.
async fn copy(shared: &Arc<Shared>, mend: &Mend, index: u8) -> Option<(Shard, SpaceId, u64)> {
    let id = ShardId {
        stripe: mend.stripe,
        index,
    };
    for (node, held) in &mend.sources {
        if *held != index {
            continue;
        }
        if *node == shared.me() {
            if let Some((shard, space)) = stripes::local_shard(shared, id).await {
                return Some((shard, space, 0));
            }
        } else if let Ok((shard, space)) = stripes::fetch_shard(shared, *node, id, &Course::default()).await.1 {
            let fetched = shard.payload().len() as u64;
            return Some((shard, space, fetched));
        }
    }
    None
}

async fn drop_surplus(shared: &Arc<Shared>, mend: &Mend) -> Result<Outcome, String> {
    for (node, index) in &mend.surplus {
        let others = mend
            .sources
            .iter()
            .filter(|(other, held)| held == index && other != node);
        let mut kept = false;
        for (other, _) in others.filter(|other| !mend.surplus.contains(other)) {
            kept = kept
                || holds(
                    shared,
                    *other,
                    ShardId {
                        stripe: mend.stripe,
                        index: *index,
                    },
                    mend.shard_len,
                )
                .await;
        }
        if !kept {
            return Err("the copy that stays is not there".to_owned());
        }
        let shard = ShardId {
            stripe: mend.stripe,
            index: *index,
        };
        if drop_shard(shared, *node, shard).await? == Outcome::Early {
            return Ok(Outcome::Early);
        }
    }
    Ok(Outcome::Done)
}

/// Whether a node has a shard now: it is made to prove it.
async fn holds(shared: &Arc<Shared>, node: NodeId, shard: ShardId, len: u32) -> bool {
    if node == shared.me() {
        let store = shared.store.clone();
        return Shared::blocking(move || store.entry(&shard))
            .await
            .is_ok_and(|entry| entry.is_some());
    }
    audit::proves(shared, node, shard, len).await
}

async fn drop_shard(shared: &Arc<Shared>, node: NodeId, shard: ShardId) -> Result<Outcome, String> {
    if node == shared.me() {
        return discard(shared, vec![shard]).await.map(|()| Outcome::Done);
    }
    match shared
        .ask_shard(node, &ShardRequest::Drop(shard), Bytes::new(), &Course::default())
        .await
    {
        Ok((ShardReply::Dropped, _)) => {
            // Its own report follows; until then the planner must not count on it.
            shared.tell(Event::Reported {
                from: node,
                first: false,
                shards: Vec::new(),
                gone: vec![shard],
            });
            Ok(Outcome::Done)
        }
        Ok((ShardReply::Early, _)) => Ok(Outcome::Early),
        Ok((other, _)) => Err(format!("node {} answered {other:?}", node.short())),
        Err(error) => Err(error.to_string()),
    }
}

/// Deletes shards of this node, durably, and reports that they are gone.
pub(crate) async fn discard(shared: &Arc<Shared>, shards: Vec<ShardId>) -> Result<(), String> {
    let (store, ids) = (shared.store.clone(), shards.clone());
    Shared::blocking(move || store.delete(&ids))
        .await
        .map_err(|error| error.to_string())?;
    shared.tell(Event::Gone(shards));
    Ok(())
}
