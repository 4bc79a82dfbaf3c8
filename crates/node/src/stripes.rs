//! Stripes to nodes and back: store all shards in distinct domains, or fetch any *k* of them.

use crate::{
    audit,
    control::Event,
    error::ShardsError,
    protocol::{Known, PoolReply, PoolRequest, ShardReply, ShardRequest},
    shared::Shared,
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use potluck_dag::Stripe;
use potluck_net::{Course, Protocol};
use potluck_placement::{Reported, View, rank, steward};
use potluck_store::{GetError, PutError};
use potluck_types::{Geometry, NodeId, Shard, ShardId, SpaceId, StripeId, UnverifiedShard, limits};
use serde_bytes::ByteBuf;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::sync::oneshot;

/// How long a full local store is given before the shard goes elsewhere.
const BUSY_DELAY: Duration = Duration::from_millis(20);
const BUSY_ATTEMPTS: u32 = 250;

/// How a stripe was stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored {
    /// Bytes of the shards that were stored.
    pub(crate) bytes: u64,
    /// Losses that it survives now.
    pub(crate) survives: u8,
}

/// Why a node did not take a shard.
#[derive(Debug)]
pub(crate) struct NotTaken {
    reason: String,
    /// Whether it has no room.
    full: bool,
}

impl From<NotTaken> for String {
    fn from(not_taken: NotTaken) -> Self {
        not_taken.reason
    }
}

/// Nodes that may hold a stripe, one of each domain, best first.
fn one_of_each_domain(stripe: StripeId, view: &View, fits: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
    let mut domains = BTreeSet::new();
    rank(stripe, view)
        .into_iter()
        .filter(|node| fits(*node) && domains.insert(view.domain(*node)))
        .collect()
}

/// Stores a stripe durably: each shard on the node of its rank, or on the next that takes it. With too few domains
/// at hand it is stored down to "survives 1", or refused when `strict`.
pub(crate) async fn store(
    shared: &Arc<Shared>,
    space: SpaceId,
    stripe: Stripe,
    strict: bool,
) -> Result<Stored, ShardsError> {
    let view = shared.present_view_for(space);
    let geometry = stripe.descriptor.geometry();
    let mut stand_ins: VecDeque<_> = one_of_each_domain(stripe.id, &view, |node| view.takes(node)).into();
    let descriptor: Bytes = stripe.descriptor.to_bytes().into();
    let mut under_way = FuturesUnordered::new();
    let put = |node, shard: Shard| {
        let (shared, descriptor) = (Arc::clone(shared), descriptor.clone());
        async move { (shard.clone(), put_shard(&shared, node, space, descriptor, shard).await) }
    };
    let (mut reason, mut for_room) = (None, true);
    for shard in stripe.shards {
        if let Some(node) = stand_ins.pop_front() {
            under_way.push(put(node, shard));
        }
    }
    let (mut stored, mut bytes) = (0u8, 0u64);
    while let Some((shard, outcome)) = under_way.next().await {
        match outcome {
            Ok(()) => {
                stored += 1;
                bytes += shard.payload().len() as u64;
            }
            Err(error) => {
                reason = Some(error.reason);
                for_room &= error.full;
                if let Some(node) = stand_ins.pop_front() {
                    under_way.push(put(node, shard));
                }
            }
        }
    }
    let wanted = geometry.n();
    let least = if strict {
        wanted
    } else {
        geometry.k() + geometry.m().min(1)
    };
    if stored < least {
        let reason = reason.unwrap_or_else(|| shared.nobody_else(space));
        let here = one_of_each_domain(stripe.id, &view, |node| view.counts(node)).len();
        return Err(if for_room && here >= least.into() {
            ShardsError::NoRoom { stored, wanted, reason }
        } else {
            ShardsError::TooFewDomains { stored, wanted, reason }
        });
    }
    Ok(Stored {
        bytes,
        survives: stored - geometry.k(),
    })
}

/// Stores one shard on one node, this one or another.
pub(crate) async fn put_shard(
    shared: &Arc<Shared>,
    node: NodeId,
    space: SpaceId,
    descriptor: Bytes,
    shard: Shard,
) -> Result<(), NotTaken> {
    if node == shared.me() {
        return keep(shared, space, shard).await.map_err(|error| NotTaken {
            reason: error.to_string(),
            full: match &error {
                PutError::Full { .. } => true,
                PutError::Disk(error) => error.is_full(),
                _ => false,
            },
        });
    }
    let request = ShardRequest::Put {
        space,
        index: shard.id().index,
        descriptor: ByteBuf::from(descriptor.to_vec()),
    };
    let (payload, course) = (shard.payload().clone(), Course::default());
    let (reason, full) = match shared.ask_shard(node, &request, payload, &course).await {
        Ok((ShardReply::Stored, _)) => return Ok(()),
        Ok((ShardReply::Full, _)) => (format!("node {} has no room", node.short()), true),
        Ok((other, _)) => (format!("node {} answered {other:?}", node.short()), false),
        Err(error) => (format!("node {}: {error}", node.short()), false),
    };
    Err(NotTaken { reason, full })
}

/// Stores a shard here, durably, and reports it to its steward.
pub(crate) async fn keep(shared: &Shared, space: SpaceId, shard: Shard) -> Result<(), PutError> {
    let reported = Reported {
        shard: shard.id(),
        geometry: shard.descriptor().geometry(),
        shard_len: u32::try_from(shard.payload().len()).expect("a shard is smaller"),
        space: Some(space),
    };
    let mut attempts = 0;
    loop {
        shared.freeing.brought(reported.shard);
        let (sender, receiver) = oneshot::channel();
        shared
            .store
            .put(shard.clone(), space, move |outcome| drop(sender.send(outcome)));
        shared.store.turn();
        match receiver.await {
            Ok(Err(PutError::Busy { .. })) if attempts < BUSY_ATTEMPTS => {
                attempts += 1;
                tokio::time::sleep(BUSY_DELAY).await;
            }
            Ok(outcome) => {
                outcome?;
                shared.tell(Event::Stored(vec![reported]));
                return Ok(());
            }
            Err(_) => return Err(PutError::Closed),
        }
    }
}

/// Shards of a stripe, enough to give it back.
pub(crate) struct Gathered {
    pub(crate) shards: Vec<Shard>,
    pub(crate) space: Option<SpaceId>,
    /// Payload bytes that came from other nodes.
    pub(crate) fetched: u64,
}

/// What is done to find a stripe's shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effort {
    /// All who are here are asked.
    Ask,
    /// Those that are away are tried, too, once: somebody waits for it.
    ReachOut,
}

/// Fetches any *k* shards of a stripe, preferring those here and those that hold plain data. One that is slow, wrong or silent is
/// replaced by the next; when the expected places do not suffice, every live member is asked what it holds.
pub(crate) async fn gather(
    shared: &Arc<Shared>,
    space: Option<SpaceId>,
    stripe: StripeId,
    geometry: Geometry,
    known: &[(NodeId, u8)],
    mut effort: Effort,
) -> Result<Gathered, ShardsError> {
    let mut gathered = Gathered {
        shards: Vec::new(),
        space: None,
        fetched: 0,
    };
    let mut have: BTreeMap<u8, Shard> = BTreeMap::new();
    for index in local_indexes(shared, stripe).await {
        if have.len() < geometry.k().into()
            && let Some((shard, space)) = local_shard(shared, ShardId { stripe, index }).await
        {
            gathered.space = Some(space);
            have.insert(index, shard);
        }
    }
    let view = match space {
        Some(space) => shared.present_view_for(space),
        None => shared.present_view(),
    };
    let expected = one_of_each_domain(stripe, &view, |_| true);
    let mut candidates: VecDeque<(NodeId, u8)> = known.to_vec().into();
    candidates.extend(expected.into_iter().zip(0..geometry.n()));
    candidates.retain(|(node, _)| *node != shared.me() && view.answers(*node));
    let mut tried = BTreeSet::new();
    // Where else to look, in turn: whoever is there says which shards it has. Hardly ever needed, and dear in a large pool.
    let mut elsewhere = None;
    let mut look_further = || {
        let find = || {
            shared
                .with_control(|control| control.whereabouts(space, stripe, geometry.n()))
                .into_iter()
        };
        elsewhere.get_or_insert_with(find).next()
    };
    let mut asked = Asked::default();
    let need = usize::from(geometry.k());
    loop {
        // As many requests as shards are missing; a slow one adds another, below.
        while have.len() + asked.under_way.len() < need {
            let Some(at) = next_candidate(shared, &mut candidates, &mut tried, &have, &asked) else {
                break;
            };
            asked.ask(shared, stripe, at);
        }
        if have.len() >= need {
            break;
        }
        if asked.under_way.is_empty() {
            let nodes = match look_further() {
                Some(nodes) => nodes,
                None if effort == Effort::ReachOut => {
                    effort = Effort::Ask;
                    shared.reach_out().await
                }
                None => {
                    return Err(ShardsError::Unreadable {
                        stripe,
                        have: u8::try_from(have.len()).expect("at most 20 shards"),
                        need: geometry.k(),
                    });
                }
            };
            candidates.extend(locate(shared, stripe, &nodes).await);
            continue;
        }
        match tokio::time::timeout(limits::HEDGE_DELAY, asked.under_way.next()).await {
            Ok(Some((index, outcome))) => {
                asked.ended(index);
                match outcome {
                    Ok((shard, space)) => {
                        gathered.fetched += shard.payload().len() as u64;
                        gathered.space.get_or_insert(space);
                        have.insert(index, shard);
                    }
                    Err(error) => tracing::debug!(stripe = %stripe.short(), index, error, "a shard did not come"),
                }
            }
            Ok(None) => {}
            Err(_) => {
                let late = asked.late(shared);
                if late.is_empty() {
                    continue;
                }
                // The slow one may still come; meanwhile another is asked for another shard, and other stripes ask others first.
                shared.suspect(late.into_iter());
                if let Some(at) = next_candidate(shared, &mut candidates, &mut tried, &have, &asked) {
                    asked.ask(shared, stripe, at);
                } else if let Some(nodes) = look_further() {
                    candidates.extend(locate(shared, stripe, &nodes).await);
                }
            }
        }
    }
    gathered.shards = have.into_values().collect();
    Ok(gathered)
}

/// A shard's number, and the shard with the space that it belongs to, or why it did not come.
type Fetched = (u8, Result<(Shard, SpaceId), String>);

/// The requests for shards of one stripe.
#[derive(Default)]
struct Asked {
    under_way: FuturesUnordered<BoxFuture<'static, Fetched>>,
    /// How many of them ask for a shard.
    count: BTreeMap<u8, u32>,
    /// Who was asked for it last, and how that gets on.
    last: BTreeMap<u8, (NodeId, Arc<Course>)>,
}

impl Asked {
    fn ask(&mut self, shared: &Arc<Shared>, stripe: StripeId, (node, index): (NodeId, u8)) {
        let (shared, course) = (Arc::clone(shared), Arc::<Course>::default());
        *self.count.entry(index).or_default() += 1;
        self.last.insert(index, (node, Arc::clone(&course)));
        let id = ShardId { stripe, index };
        self.under_way
            .push(async move { fetch_shard(&shared, node, id, &course).await }.boxed());
    }

    fn ended(&mut self, index: u8) {
        self.count.entry(index).and_modify(|count| *count -= 1);
        self.last.remove(&index);
    }

    /// Nodes that keep the reader waiting. Not those whose bytes come, slowly, by a way that has much to carry.
    fn late(&self, shared: &Shared) -> Vec<NodeId> {
        let is_late = |(node, course): &&(NodeId, Arc<Course>)| {
            let quiet = course
                .quiet()
                .unwrap_or_else(|| shared.endpoint.quiet(*node, Protocol::Shard));
            quiet >= limits::HEDGE_DELAY || course.age() >= Some(limits::SLOW_DELAY)
        };
        self.last.values().filter(is_late).map(|(node, _)| *node).collect()
    }
}

/// The next place to ask: one that answered lately, for a shard that nobody was asked for, data shards first.
fn next_candidate(
    shared: &Shared,
    candidates: &mut VecDeque<(NodeId, u8)>,
    tried: &mut BTreeSet<(NodeId, u8)>,
    have: &BTreeMap<u8, Shard>,
    asked: &Asked,
) -> Option<(NodeId, u8)> {
    candidates.retain(|at| !tried.contains(at) && !have.contains_key(&at.1));
    let best = candidates.iter().enumerate().min_by_key(|(_, (node, index))| {
        (
            shared.is_suspect(*node),
            asked.count.get(index).copied().unwrap_or(0),
            *index,
        )
    });
    let at = best.map(|(position, _)| position)?;
    let found = candidates.remove(at)?;
    tried.insert(found);
    Some(found)
}

async fn local_indexes(shared: &Arc<Shared>, stripe: StripeId) -> Vec<u8> {
    let store = shared.store.clone();
    Shared::blocking(move || store.indexes_of(stripe))
        .await
        .unwrap_or_default()
}

/// A shard of this node's own store, verified. A damaged one is dropped and reported.
pub(crate) async fn local_shard(shared: &Arc<Shared>, id: ShardId) -> Option<(Shard, SpaceId)> {
    let store = shared.store.clone();
    let found = Shared::blocking(move || {
        let space = store.entry(&id).ok().flatten().map(|entry| entry.space);
        (store.get(&id), space)
    })
    .await;
    match found {
        (Ok(Some(shard)), Some(space)) => Some((shard, space)),
        (Ok(_), _) => None,
        (Err(error @ GetError::Damaged { .. }), _) => {
            tracing::warn!(%error, "a shard of this node is damaged: it is dropped and will be made anew");
            shared.lose(vec![id]);
            None
        }
        (Err(error), _) => {
            tracing::warn!(%error, "a shard of this node cannot be read now");
            None
        }
    }
}

pub(crate) async fn fetch_shard(shared: &Arc<Shared>, node: NodeId, id: ShardId, course: &Course) -> Fetched {
    let fetched = async {
        let (reply, payload) = shared
            .ask_shard(node, &ShardRequest::Get(id), Bytes::new(), course)
            .await
            .map_err(|error| error.to_string())?;
        match reply {
            ShardReply::Shard {
                space,
                index,
                descriptor,
            } => {
                let shard = UnverifiedShard {
                    descriptor: descriptor.into_vec().into(),
                    index,
                    payload,
                };
                let shard = match Shared::blocking(move || shard.verify(id.stripe)).await {
                    Ok(shard) => shard,
                    Err(error) => {
                        // Asked for a proof, it finds out itself, and drops what is damaged.
                        audit::question(shared, node, id);
                        return Err(error.to_string());
                    }
                };
                if shard.id() == id {
                    Ok((shard, space))
                } else {
                    Err("another shard came".to_owned())
                }
            }
            other => Err(format!("it answered {other:?}")),
        }
    };
    (id.index, fetched.await)
}

/// How many losses a stripe survives now, as far as those say who should hold it; `None` when it cannot be read. When that is too little,
/// everybody is asked.
/// What is where its space may not be does not count.
pub(crate) async fn survival(shared: &Arc<Shared>, space: SpaceId, stripe: StripeId, geometry: Geometry) -> Option<u8> {
    let me = shared.me();
    let mut found: Vec<(NodeId, u8)> = local_indexes(shared, stripe)
        .await
        .into_iter()
        .map(|index| (me, index))
        .collect();
    let mut survives = None;
    for nodes in shared.with_control(|control| control.whereabouts(Some(space), stripe, geometry.n())) {
        found.extend(locate(shared, stripe, &nodes).await);
        let view = shared.present_view_for(space);
        let inside: Vec<_> = found
            .iter()
            .copied()
            .filter(|(node, _)| !view.is_outside(*node))
            .collect();
        survives = potluck_placement::survives(geometry, &inside, &view);
        if survives >= Some(geometry.m()) {
            break;
        }
    }
    survives
}

/// Stripes by who looks after them, as this node sees it.
pub(crate) async fn by_steward(shared: &Arc<Shared>, stripes: Vec<StripeId>) -> BTreeMap<NodeId, Vec<StripeId>> {
    let task = Arc::clone(shared);
    Shared::blocking(move || {
        let view = task.with_control(|control| control.view().clone());
        let mut by_steward: BTreeMap<NodeId, Vec<StripeId>> = BTreeMap::new();
        for stripe in stripes {
            if let Some(node) = steward(stripe, &view) {
                by_steward.entry(node).or_default().push(stripe);
            }
        }
        by_steward
    })
    .await
}

/// What a steward knows of these stripes; less or nothing when it does not say.
pub(crate) async fn known_to(shared: &Shared, steward: NodeId, stripes: &[StripeId]) -> BTreeMap<StripeId, Known> {
    let known = if steward == shared.me() {
        let now = shared.steady();
        shared.with_control(|control| control.known(stripes, now))
    } else {
        let request = PoolRequest::Holders {
            stripes: stripes.to_vec(),
        };
        match shared.ask(steward, &request).await {
            Ok(PoolReply::Holders(known)) => known,
            _ => Vec::new(),
        }
    };
    let known = stripes.iter().zip(known);
    known.filter_map(|(stripe, known)| Some((*stripe, known?))).collect()
}

/// Asks members which shards of a stripe they hold.
async fn locate(shared: &Arc<Shared>, stripe: StripeId, peers: &[NodeId]) -> Vec<(NodeId, u8)> {
    let request = PoolRequest::Locate { stripes: vec![stripe] };
    let ask = |node| {
        let request = &request;
        async move {
            match tokio::time::timeout(limits::DIAL_TIMEOUT, shared.ask(node, request)).await {
                Ok(Ok(PoolReply::Located(found))) => found
                    .into_iter()
                    .next()
                    .unwrap_or_default()
                    .into_iter()
                    .map(|index| (node, index))
                    .collect(),
                _ => Vec::new(),
            }
        }
    };
    futures::future::join_all(peers.iter().copied().map(ask)).await.concat()
}
