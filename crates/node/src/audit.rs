//! Audits: others are asked to prove that they have what they say, a random part of a random shard at a time.
//!
//! Each claim is challenged by the first node in its stripe's order that is here, other than the holder: its steward, who has heard the claim; for the steward's
//! own claims the next one, who asks it for them. Who challenges needs nothing but the stripe's id: the answer carries the descriptor, which the id vouches
//! for, and the hashes that prove the part. In all, each holder is asked for [`SAMPLES_PER_DAY`] of its shards a day, and for as many by their bytes, however many
//! nodes there are: of a hundredth that is missing, 500 find something with a certainty of 99 %. Some of the challenges are plain reads, so that nobody can
//! answer the one and not the other.

use crate::{
    control::{Event, Seed},
    protocol::{PoolRequest, ShardReply, ShardRequest},
    shared::{AskError, Shared},
    standing::Outcome,
    stripes,
};
use bytes::Bytes;
use futures::StreamExt;
use potluck_net::{Course, RequestError};
use potluck_placement::rank;
use potluck_types::{Descriptor, NodeId, ShardId, StripeId, UnverifiedShard, proof};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// What each holder is asked for in a day: 1 − 0.99⁵⁰⁰ is 0.993.
const SAMPLES_PER_DAY: u32 = 500;
/// How long after one round there is the next. What a disk that sleeps is woken for should be done together.
pub(crate) const ROUND: Duration = Duration::from_secs(4 * 3600);
const ROUNDS_PER_DAY: u32 = (24 * 3600 / ROUND.as_secs()) as u32;
/// When the first round is after a start: by then who is here is connected, and has said what it holds.
pub(crate) const FIRST_ROUND: Duration = Duration::from_secs(600);
/// Challenges of a probe.
const PROBE_SAMPLES: usize = 32;
/// One in so many challenges is a read like any other.
const PLAIN_READS_ONE_IN: u64 = 16;
/// Holders that are challenged at once, each by one challenge after the other.
const HOLDERS_AT_ONCE: usize = 4;
/// How long a node that denies what it claims has to compare its reports again.
const RECOUNT_DELAY: Duration = Duration::from_secs(60);

/// A shard that a node says that it holds, and how long it is as far as it is known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Claim {
    shard: ShardId,
    len: Option<u32>,
}

/// One round over all that are here. Gives how long after it the next one is due.
pub(crate) async fn round(shared: &Arc<Shared>) -> Duration {
    let counts = counts(shared);
    challenge_all(shared, counts, ROUNDS_PER_DAY, false).await;
    ROUND
}

/// Challenges many of a node's claims, at once.
pub(crate) async fn probe(shared: &Arc<Shared>, node: NodeId) {
    challenge_all(shared, BTreeMap::from([(node, PROBE_SAMPLES)]), 1, true).await;
}

/// Challenges many claims of each node that is here, at once.
pub(crate) async fn probe_all(shared: &Arc<Shared>) {
    let peers = shared.with_control(|control| control.live_peers());
    let counts = peers.into_iter().map(|node| (node, PROBE_SAMPLES)).collect();
    challenge_all(shared, counts, 1, true).await;
}

/// Lets a node check a shard that came damaged from it.
pub(crate) fn question(shared: &Arc<Shared>, node: NodeId, shard: ShardId) {
    let shared = Arc::clone(shared);
    tokio::spawn(async move { challenge_claims(&shared, node, vec![Claim { shard, len: None }], false).await });
}

/// Lets holders prove a random part of each of these shards, of which the lengths are known, and tells the core of it. Gives how it ended.
pub(crate) async fn check(
    shared: &Arc<Shared>,
    claims: BTreeMap<NodeId, Vec<(ShardId, u32)>>,
) -> Vec<(NodeId, Vec<(ShardId, Outcome)>)> {
    let check = |(node, shards): (NodeId, Vec<(ShardId, u32)>)| async move {
        let mut outcomes = Vec::new();
        for (shard, len) in shards {
            let outcome = if node == shared.me() {
                match stripes::local_shard(shared, shard).await {
                    Some(_) => Outcome::Proved,
                    None => Outcome::Lost,
                }
            } else {
                let claim = Claim { shard, len: Some(len) };
                match challenge(shared, node, claim).await {
                    Answer::Outcome(outcome) => outcome,
                    Answer::Denied { .. } => Outcome::Lost,
                }
            };
            outcomes.push((shard, outcome));
        }
        if node != shared.me() {
            shared.tell(Event::Audited {
                holder: node,
                outcomes: outcomes.clone(),
                is_probe: false,
            });
        }
        (node, outcomes)
    };
    futures::stream::iter(claims)
        .map(check)
        .buffer_unordered(HOLDERS_AT_ONCE)
        .collect()
        .await
}

/// How many of each holder's claims this node draws in a round: its share of what all ask together.
fn counts(shared: &Shared) -> BTreeMap<NodeId, usize> {
    let view = shared.with_control(|control| control.view().clone());
    let me = shared.me();
    let weight = |node: &NodeId| view.nodes.get(node).map_or(0, |facts| u128::from(facts.weight));
    let all: u128 = view.nodes.keys().filter(|node| view.stays(**node)).map(weight).sum();
    let others = view.nodes.keys().filter(|node| **node != me && view.answers(**node));
    let counts = others.map(|holder| {
        let auditors = all.saturating_sub(if view.stays(*holder) { weight(holder) } else { 0 });
        let wanted = u128::from(SAMPLES_PER_DAY / ROUNDS_PER_DAY + 1) * weight(&me);
        // What is over counts by chance, so that it is right on the whole.
        let (count, rest) = (wanted / auditors.max(1), wanted % auditors.max(1));
        let chance = u128::from(random(shared)) % auditors.max(1) < rest;
        (*holder, usize::try_from(count).unwrap_or(0) + usize::from(chance))
    });
    counts.collect()
}

fn random(shared: &Shared) -> u64 {
    u64::from_le_bytes(shared.entropy.bytes())
}

/// Draws claims and challenges them: so many of each of these holders, and of what it holds a part in `one_in` at most.
async fn challenge_all(shared: &Arc<Shared>, counts: BTreeMap<NodeId, usize>, one_in: u32, is_probe: bool) {
    let seed = Seed(random(shared));
    let drawn = shared.with_control(|control| control.draw_claims(seed, &counts, one_in));
    let mut claims: BTreeMap<NodeId, Vec<Claim>> = BTreeMap::new();
    for (node, reported) in drawn {
        claims
            .entry(node)
            .or_default()
            .extend(reported.into_iter().map(|reported| Claim {
                shard: reported.shard,
                len: Some(reported.shard_len),
            }));
    }
    for (node, own) in claims_of_stewards(shared, &counts, one_in).await {
        claims.entry(node).or_default().extend(own);
    }
    futures::stream::iter(claims)
        .for_each_concurrent(HOLDERS_AT_ONCE, |(node, claims)| async move {
            challenge_claims(shared, node, claims, is_probe).await;
        })
        .await;
}

/// Claims of nodes on stripes that they look after themselves, and this node next: drawn from the shards that this node has of them.
async fn claims_of_stewards(
    shared: &Arc<Shared>,
    counts: &BTreeMap<NodeId, usize>,
    one_in: u32,
) -> BTreeMap<NodeId, Vec<Claim>> {
    let (task, holders) = (Arc::clone(shared), counts.keys().copied().collect::<BTreeSet<_>>());
    let stripes = Shared::blocking(move || next_after(&task, &holders, one_in)).await;
    let mut claims = BTreeMap::new();
    for (steward, stripes) in stripes {
        let ids: Vec<_> = stripes.keys().copied().collect();
        let own: Vec<_> = own_claims(shared, steward, ids).await;
        let own = own.into_iter().map(|shard| Claim {
            shard,
            len: stripes.get(&shard.stripe).copied(),
        });
        claims.insert(steward, own.collect());
    }
    claims
}

/// Stripes of random shards held here that one of these nodes looks after, and this node next, with the length of their shards.
fn next_after(shared: &Shared, holders: &BTreeSet<NodeId>, one_in: u32) -> BTreeMap<NodeId, BTreeMap<StripeId, u32>> {
    let view = shared.with_control(|control| control.view().clone());
    let draws =
        u64::from(2 * SAMPLES_PER_DAY / ROUNDS_PER_DAY).min(shared.store.stats().shards.div_ceil(one_in.into()));
    let mut stripes: BTreeMap<NodeId, BTreeMap<StripeId, u32>> = BTreeMap::new();
    for _ in 0..draws {
        let after = ShardId {
            stripe: StripeId::from_bytes(shared.entropy.bytes()),
            index: 0,
        };
        let at = |after| {
            shared
                .store
                .entries(after, 1)
                .ok()
                .and_then(|found| found.first().copied())
        };
        let Some((shard, entry)) = at(Some(after)).or_else(|| at(None)) else {
            break;
        };
        let mut order = rank(shard.stripe, &view).into_iter().filter(|node| view.stays(*node));
        if let (Some(steward), Some(next)) = (order.next(), order.next())
            && next == shared.me()
            && holders.contains(&steward)
        {
            stripes
                .entry(steward)
                .or_default()
                .insert(shard.stripe, entry.payload_len);
        }
    }
    stripes
}

/// What a steward says that it holds itself of these stripes.
async fn own_claims(shared: &Shared, steward: NodeId, stripes: Vec<StripeId>) -> Vec<ShardId> {
    let known = stripes::known_to(shared, steward, &stripes).await;
    let own = known.into_iter().flat_map(|(stripe, known)| {
        let own = known.holders.into_iter().filter(move |(node, _)| *node == steward);
        own.map(move |(_, index)| ShardId { stripe, index })
    });
    own.collect()
}

/// Challenges claims of one node one after the other, and tells the core how they ended. One that is away is not asked further.
async fn challenge_claims(shared: &Arc<Shared>, node: NodeId, claims: Vec<Claim>, is_probe: bool) {
    let mut outcomes = Vec::new();
    let mut denied = Vec::new();
    for claim in claims {
        match challenge(shared, node, claim).await {
            Answer::Outcome(outcome) => {
                outcomes.push((claim.shard, outcome));
                if outcome == Outcome::Offline {
                    break;
                }
            }
            Answer::Denied { as_damaged } => denied.push((claim, as_damaged)),
        }
        if shared.stopping.is_cancelled() {
            return;
        }
    }
    outcomes.extend(ask_again(shared, node, denied).await);
    if outcomes.is_empty() {
        return;
    }
    let failed = outcomes
        .iter()
        .filter(|(_, outcome)| *outcome == Outcome::Wrong)
        .count();
    if failed > 0 {
        tracing::warn!(node = %node.short(), failed, of = outcomes.len(), "a member could not prove what it says that it holds");
    }
    shared.tell(Event::Audited {
        holder: node,
        outcomes,
        is_probe,
    });
}

/// A node has denied what it claims. A report may have been lost, or be on its way, so it is asked to compare; and by then the shard may have been put there anew. What
/// it claims then, and still has not, is held against it.
async fn ask_again(shared: &Arc<Shared>, node: NodeId, denied: Vec<(Claim, bool)>) -> Vec<(ShardId, Outcome)> {
    if denied.is_empty() {
        return Vec::new();
    }
    // One that does not understand, or is gone by now, is judged by what it claims.
    let _ = shared.ask(node, &PoolRequest::Recount).await;
    tokio::select! {
        () = shared.stopping.cancelled() => return Vec::new(),
        () = tokio::time::sleep(RECOUNT_DELAY) => {}
    }
    let stripes: BTreeSet<_> = denied.iter().map(|(claim, _)| claim.shard.stripe).collect();
    let to_itself = own_claims(shared, node, stripes.into_iter().collect()).await;
    let mut outcomes = Vec::new();
    for (claim, as_damaged) in denied {
        let shard = claim.shard;
        let is_claimed = to_itself.contains(&shard) || shared.with_control(|control| control.is_claimed(node, shard));
        let again = if is_claimed {
            Some(challenge(shared, node, claim).await)
        } else {
            None
        };
        match again {
            Some(Answer::Denied { .. }) => outcomes.push((shard, Outcome::Wrong)),
            Some(Answer::Outcome(outcome)) if outcome != Outcome::Proved => outcomes.push((shard, outcome)),
            _ if as_damaged => outcomes.push((shard, Outcome::Lost)),
            _ => {}
        }
    }
    outcomes
}

enum Answer {
    Outcome(Outcome),
    /// It says that it does not have it, or that it found it damaged just now.
    Denied {
        as_damaged: bool,
    },
}

/// Whether a node proves now that it has a shard.
pub(crate) async fn proves(shared: &Arc<Shared>, node: NodeId, shard: ShardId, len: u32) -> bool {
    let claim = Claim { shard, len: Some(len) };
    matches!(challenge(shared, node, claim).await, Answer::Outcome(Outcome::Proved))
}

/// Asks a node for a random part of a shard, or for all of it.
async fn challenge(shared: &Arc<Shared>, node: NodeId, claim: Claim) -> Answer {
    let part = match claim.len {
        Some(len) => random(shared) % u64::from(proof::parts(len as usize)),
        None => 0,
    };
    let part = u32::try_from(part).expect("a number of a part");
    let is_read = claim.len.is_some() && random(shared).is_multiple_of(PLAIN_READS_ONE_IN);
    let request = if is_read {
        ShardRequest::Get(claim.shard)
    } else {
        ShardRequest::Challenge {
            shard: claim.shard,
            part,
        }
    };
    let asked = shared.ask_shard(node, &request, Bytes::new(), &Course::default()).await;
    let (reply, body) = match asked {
        Ok(answer) => answer,
        Err(error) => return Answer::Outcome(meaning(&error)),
    };
    let is_proved = match reply {
        ShardReply::Absent => return Answer::Denied { as_damaged: false },
        ShardReply::Damaged => return Answer::Denied { as_damaged: true },
        ShardReply::Proof { descriptor, proof } if !is_read => {
            Descriptor::from_bytes(&descriptor).is_ok_and(|descriptor| {
                let len = descriptor.shard_len();
                let is_as_claimed = claim.len.is_none_or(|claimed| claimed as usize == len);
                let root = descriptor.shard_hash(claim.shard.index);
                let is_same = descriptor.id() == claim.shard.stripe && is_as_claimed;
                is_same && root.is_some_and(|root| proof.holds(root, len, part, &body))
            })
        }
        ShardReply::Shard { index, descriptor, .. } if is_read => {
            let shard = UnverifiedShard {
                descriptor: descriptor.into_vec().into(),
                index,
                payload: body,
            };
            let stripe = claim.shard.stripe;
            let shard = Shared::blocking(move || shard.verify(stripe)).await;
            if shard.is_err() {
                // A reader is given what is on the disk, unchecked. That it rotted is no lie: asked for a proof, the node finds out.
                let asked = Claim { len: None, ..claim };
                return Box::pin(challenge(shared, node, asked)).await;
            }
            shard.is_ok_and(|shard| shard.id() == claim.shard)
        }
        _ => false,
    };
    Answer::Outcome(if is_proved { Outcome::Proved } else { Outcome::Wrong })
}

/// What it means that no usable answer came.
fn meaning(error: &AskError) -> Outcome {
    match error {
        AskError::Request(RequestError::NotConnected | RequestError::Io(_)) => Outcome::Offline,
        AskError::Request(_) | AskError::Refused(_) => Outcome::Unknown,
        AskError::Nonsense(_) => Outcome::Wrong,
    }
}
