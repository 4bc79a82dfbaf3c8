//! What no file uses any more goes, and what was never used to the end: holders ask custodians, and free only what one of them knows to be given
//! up, or what no log has named for a day.

use crate::{
    control::Event,
    driver,
    names::{self, custodians},
    protocol::{BATCH_MAX, PoolReply, PoolRequest},
    shared::Shared,
    space::OpenSpace,
};
use potluck_placement::{Mend, View};
use potluck_spaces::{Liveness, Log, PinState, Pins};
use potluck_store::ChangeError;
use potluck_types::{
    NodeId, ShardId, SpaceId, StripeId, Timestamp,
    sabotage::{self, Bug},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::sync::oneshot;

/// How long a shard that no log names is kept: an upload may be under way, or its log not here yet.
const UNNAMED_GRACE: Duration = Duration::from_secs(24 * 3600);
/// When holders are told, each time after the time before: a repair that was under way may have stored a shard again meanwhile.
const ANNOUNCED_AFTER: [Duration; 3] = [Duration::ZERO, Duration::from_secs(10), Duration::from_secs(30)];
/// Shards that one step of a sweep looks at.
const PAGE: usize = 1024;

/// Tells all live members that these are given up; each asks a custodian before it believes it.
pub(crate) fn announce(space: &OpenSpace, stripes: Vec<StripeId>) {
    space.watch.lock().expect("never poisoned").call_again();
    let space = space.clone();
    tokio::spawn(async move {
        // Custodians must know before holders ask them.
        if let Err(error) = names::replicate(&space).await {
            tracing::debug!(%error, "what was given up will be swept later");
            return;
        }
        for delay in ANNOUNCED_AFTER {
            tokio::select! {
                biased;
                () = space.stopping.cancelled() => return,
                () = tokio::time::sleep(delay) => {}
            }
            for batch in stripes.chunks(BATCH_MAX) {
                let request = PoolRequest::Released {
                    space: space.id(),
                    stripes: batch.to_vec(),
                };
                let peers = space.with_control(|control| control.live_peers());
                let told = peers.into_iter().map(|peer| space.ask(peer, &request));
                futures::future::join_all(told).await;
                release(space.shared(), space.id(), batch.to_vec()).await;
            }
        }
    });
}

/// Frees the shards held here of those among these stripes that are given up indeed, and looks after those no longer.
pub(crate) async fn release(shared: &Arc<Shared>, space: SpaceId, stripes: Vec<StripeId>) {
    let (store, named) = (shared.store.clone(), stripes.clone());
    let held = Shared::blocking(move || {
        let mut held = Vec::new();
        for stripe in named {
            for index in store.indexes_of(stripe).unwrap_or_default() {
                let id = ShardId { stripe, index };
                if let Ok(Some(entry)) = store.entry(&id)
                    && entry.space == space
                {
                    held.push((id, entry.stored_at));
                }
            }
        }
        held
    })
    .await;
    free(shared, space, held).await;
    let looked_after = shared.with_control(|control| control.looked_after(&stripes));
    if !looked_after.is_empty()
        && let Some(verdicts) = liveness(shared, space, &looked_after).await
    {
        let verdicts = looked_after.into_iter().zip(verdicts);
        let dead = verdicts.filter(|(_, liveness)| *liveness == Liveness::Dead);
        shared.tell(Event::GivenUp(dead.map(|(stripe, _)| stripe).collect()));
    }
}

/// As the steward of a stripe that is given up: tells those who hold it, and looks after it no longer.
pub(crate) async fn release_together(shared: &Arc<Shared>, space: SpaceId, mend: &Mend) {
    let stripes = vec![mend.stripe];
    let request = PoolRequest::Released {
        space,
        stripes: stripes.clone(),
    };
    let others = mend.sources.iter().map(|(node, _)| *node);
    let told = others
        .filter(|node| *node != shared.me())
        .map(|node| shared.ask(node, &request));
    futures::future::join_all(told).await;
    release(shared, space, stripes).await;
}

/// Goes through all shards held here, and frees those that are not used. How many; none when not all could be looked at.
pub(crate) async fn sweep(shared: &Arc<Shared>) -> Option<usize> {
    let (mut after, mut freed, mut all) = (None, 0, true);
    loop {
        let store = shared.store.clone();
        let page = match Shared::blocking(move || store.entries(after, PAGE)).await {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(%error, "the shards held here cannot be listed");
                return None;
            }
        };
        let Some((last, _)) = page.last() else {
            return all.then_some(freed);
        };
        after = Some(*last);
        let mut by_space: BTreeMap<SpaceId, Vec<(ShardId, Timestamp)>> = BTreeMap::new();
        for (id, entry) in page {
            by_space.entry(entry.space).or_default().push((id, entry.stored_at));
        }
        for (space, held) in by_space {
            match free(shared, space, held).await {
                Some(count) => freed += count,
                None => all = false,
            }
        }
    }
}

/// Frees those of these shards that are not used. How many; none when that is not known, or could not be done.
async fn free(shared: &Arc<Shared>, space: SpaceId, held: Vec<(ShardId, Timestamp)>) -> Option<usize> {
    if held.is_empty() {
        return Some(0);
    }
    let stripes: Vec<StripeId> = held.iter().map(|(id, _)| id.stripe).collect();
    let considering = shared.freeing.consider(held.iter().map(|(id, _)| *id));
    let (verdicts, all) = verdicts(shared, space, &stripes).await?;
    let now = shared.now();
    let (mut unused, mut unnamed) = (Vec::new(), Vec::new());
    for ((id, stored_at), liveness) in held.into_iter().zip(verdicts) {
        match liveness {
            Liveness::Live if !sabotage::is_planted(Bug::CollectPinned) => {}
            Liveness::Live | Liveness::Dead => unused.push(id),
            Liveness::Unknown if all && now.since(stored_at) > UNNAMED_GRACE => unnamed.push(id),
            Liveness::Unknown => {}
        }
    }
    let stripes: Vec<StripeId> = unnamed.iter().map(|id| id.stripe).collect();
    let unknown = unknown_to_all(shared, space, &stripes).await;
    unused.extend(unnamed.into_iter().filter(|id| unknown.contains(&id.stripe)));
    if unused.is_empty() {
        return Some(0);
    }
    let (sender, done) = oneshot::channel();
    let freed = considering.free(unused, |unused| {
        let send = |outcome| drop(sender.send(outcome));
        shared.store.delete_then(unused.clone(), send);
        unused
    });
    shared.store.turn();
    if let Err(error) = done.await.unwrap_or(Err(ChangeError::Closed)) {
        tracing::warn!(%error, "shards that no file uses could not be freed");
        return None;
    }
    let count = freed.len();
    tracing::info!(shards = count, "freeing what no file uses");
    shared.tell(Event::Gone(freed));
    driver::compact(shared).await;
    Some(count)
}

/// The spaces that shards of these stripes are held here for.
pub(crate) async fn local_spaces(shared: &Arc<Shared>, stripes: Vec<StripeId>) -> Vec<Option<SpaceId>> {
    let store = shared.store.clone();
    let space_of = move |stripe| {
        let index = *store.indexes_of(stripe).ok()?.first()?;
        Some(store.entry(&ShardId { stripe, index }).ok()??.space)
    };
    Shared::blocking(move || stripes.into_iter().map(space_of).collect()).await
}

/// What the logs say, as the custodians that answer know them together: one that is behind takes nothing away. `None` when
/// none answers: nothing is freed then.
async fn liveness(shared: &Arc<Shared>, space: SpaceId, stripes: &[StripeId]) -> Option<Vec<Liveness>> {
    Some(verdicts(shared, space, stripes).await?.0)
}

/// As the custodians that answer know it, and whether all did: else what none of them knows may be known to another.
pub(crate) async fn verdicts(
    shared: &Arc<Shared>,
    space: SpaceId,
    stripes: &[StripeId],
) -> Option<(Vec<Liveness>, bool)> {
    let view = shared.with_control(|control| control.view().clone());
    let (mut states, mut all): (Option<Vec<PinState>>, bool) = (None, true);
    // Where the space may not be everywhere, its custodians may all be others than a moment ago, and have heard but a part: who had its log before is asked, too, and whoever reads it.
    let keepers = custodians(space, &view);
    let mut others = match view.confined.contains_key(&space) {
        true => names::keepers(
            shared,
            space,
            &View {
                confined: Arc::default(),
                ..view
            },
        ),
        false => BTreeSet::new(),
    };
    others.retain(|node| !keepers.contains(node));
    for (node, is_keeper) in keepers
        .into_iter()
        .map(|node| (node, true))
        .chain(others.into_iter().map(|node| (node, false)))
    {
        let answer = if node == shared.me() {
            local_liveness(shared, space, stripes.to_vec()).await
        } else {
            remote_liveness(shared, node, space, stripes).await
        };
        let Some(answer) = answer.filter(|answer| answer.len() == stripes.len()) else {
            all &= !is_keeper;
            continue;
        };
        states = Some(match states {
            None => answer,
            Some(known) => known.into_iter().zip(answer).map(|(a, b)| a.merge(b)).collect(),
        });
    }
    states.map(|states| (states.into_iter().map(PinState::liveness).collect(), all))
}

async fn remote_liveness(
    shared: &Arc<Shared>,
    node: NodeId,
    space: SpaceId,
    stripes: &[StripeId],
) -> Option<Vec<PinState>> {
    let mut answers = Vec::with_capacity(stripes.len());
    for batch in stripes.chunks(BATCH_MAX) {
        let request = PoolRequest::Liveness {
            space,
            stripes: batch.to_vec(),
        };
        match shared.ask(node, &request).await {
            Ok(PoolReply::Liveness(answer)) => answers.extend(answer),
            _ => return None,
        }
    }
    Some(answers)
}

/// Those of these stripes that no log names that any member keeps; none unless every member is here and says so. The custodians that this node sees may be
/// no more than what is left of the pool on its side, or may have been away when the log was written, and not have caught up.
pub(crate) async fn unknown_to_all(shared: &Arc<Shared>, space: SpaceId, stripes: &[StripeId]) -> BTreeSet<StripeId> {
    let (members, peers) = shared.with_control(|control| (control.roster.members(), control.live_peers()));
    let others: Vec<NodeId> = members.into_iter().filter(|node| *node != shared.me()).collect();
    if stripes.is_empty() || others.iter().any(|node| !peers.contains(node)) {
        return BTreeSet::new();
    }
    let asked = others.iter().map(|node| remote_liveness(shared, *node, space, stripes));
    let mut answers = futures::future::join_all(asked).await;
    answers.push(local_liveness(shared, space, stripes.to_vec()).await);
    let mut known = vec![PinState::default(); stripes.len()];
    for answer in answers {
        match answer {
            Some(answer) if answer.is_empty() => {}
            Some(answer) if answer.len() == known.len() => {
                known = known.into_iter().zip(answer).map(|(a, b)| a.merge(b)).collect();
            }
            _ => return BTreeSet::new(),
        }
    }
    let stripes = stripes.iter().copied().zip(known);
    let unknown = stripes.filter(|(_, state)| state.liveness() == Liveness::Unknown);
    unknown.map(|(stripe, _)| stripe).collect()
}

/// What the logs kept here say: nothing when none of this space is kept, and `None` when they cannot be read.
pub(crate) async fn local_liveness(
    shared: &Arc<Shared>,
    space: SpaceId,
    stripes: Vec<StripeId>,
) -> Option<Vec<PinState>> {
    let task = Arc::clone(shared);
    Shared::blocking(move || {
        let kv = task.read().ok()?;
        if Log::of(space).frontier(&kv).ok()?.is_empty() {
            return Some(Vec::new());
        }
        stripes
            .into_iter()
            .map(|stripe| Pins::of(space).state(&kv, stripe).ok())
            .collect()
    })
    .await
}
