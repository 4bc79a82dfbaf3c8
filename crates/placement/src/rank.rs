//! Weighted rendezvous hashing: every node that knows the same members ranks them alike for a stripe, each is first
//! in proportion to its weight, and one that comes or goes moves only its own share.
//!
//! Source: Thaler, Ravishankar, "Using name-based mappings to increase hit rates", 1998; weights after
//! Schindelhauer, Schomaker, "Weighted distributed hash tables", 2005: the score is −w / ln(h), h uniform in (0, 1). The
//! logarithm is computed in integers, so that machines of every kind agree on the order to the last place.

use crate::{Domain, View};
use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};
use potluck_types::{NodeId, StripeId};
use std::{collections::HashMap, sync::LazyLock};

/// Fraction bits of [`minus_log2`].
const LOG_FRACTION_BITS: u32 = 32;

/// −log₂(h / 2⁶⁴) in fixed point, for h > 0, by squaring the mantissa: one bit of the result a step.
fn minus_log2(h: u64) -> u64 {
    let shift = h.leading_zeros();
    let mut mantissa = h << shift;
    let mut fraction: u64 = 0;
    for _ in 0..LOG_FRACTION_BITS {
        let square = u128::from(mantissa) * u128::from(mantissa);
        // No branch: it would be guessed wrong every second time.
        let bit = (square >> 127) as u64;
        mantissa = (square >> (63 + bit)) as u64;
        fraction = fraction << 1 | bit;
    }
    // log2(h) = (63 − shift) + fraction, and the result is 64 minus that.
    (u64::from(shift + 1) << LOG_FRACTION_BITS) - fraction
}

/// What a node draws for a stripe: the greater, the better, at the same weight. At least 1.
pub fn lot(stripe: StripeId, node: NodeId) -> u64 {
    // Half of the work is the context, which is always the same.
    static CONTEXT: LazyLock<ContextKey> = LazyLock::new(|| hash_derive_key_context("potluck placement 1"));
    let mut hasher = blake3::Hasher::new_from_context_key(&CONTEXT);
    hasher.update(stripe.as_bytes()).update(node.as_bytes());
    let hash = hasher.finalize();
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight bytes")).max(1)
}

/// The smaller, the better: −log₂(h) / weight, with all the precision that 128 bits give.
fn cost(stripe: StripeId, node: NodeId, weight: u64) -> u128 {
    let h = lot(stripe, node);
    (u128::from(minus_log2(h)) << 64) / u128::from(weight.max(1))
}

/// All members that offer space, best first for this stripe: first the best node of each failure domain, then the
/// second of each, and so on. So the first *n* are in *n* domains, while domains suffice.
pub fn rank(stripe: StripeId, view: &View) -> Vec<NodeId> {
    let members = view.nodes.iter();
    order(
        stripe,
        members.map(|(node, facts)| (*node, facts.weight, &facts.domain)),
    )
}

/// The same for members with what they offer and what they fail with.
pub(crate) fn order<'a>(stripe: StripeId, members: impl Iterator<Item = (NodeId, u64, &'a Domain)>) -> Vec<NodeId> {
    let mut scored: Vec<_> = members
        .filter(|(_, weight, _)| *weight > 0)
        .map(|(node, weight, domain)| (cost(stripe, node, weight), node, domain))
        .collect();
    scored.sort_unstable();
    let mut of_domain: HashMap<&Domain, u32> = HashMap::with_capacity(scored.len());
    let mut order: Vec<(u32, NodeId)> = scored
        .into_iter()
        .map(|(_, node, domain)| {
            let round = of_domain.entry(domain).or_default();
            *round += 1;
            (*round, node)
        })
        .collect();
    order.sort_by_key(|(round, _)| *round);
    order.into_iter().map(|(_, node)| node).collect()
}

/// Who looks after a stripe: the first in its order that answers and stays.
pub fn steward(stripe: StripeId, view: &View) -> Option<NodeId> {
    // The order by domains starts with the best of all, which mostly is here. If not, the cheapest of those that are here may be of a later round.
    let members = view.nodes.iter().filter(|(_, facts)| facts.weight > 0);
    let (_, best) = members
        .map(|(node, facts)| (cost(stripe, *node, facts.weight), *node))
        .min()?;
    if view.stays(best) {
        return Some(best);
    }
    rank(stripe, view).into_iter().find(|node| view.stays(*node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Domain, NodeFacts, Presence};
    use potluck_types::{Hash, Timestamp};
    use std::collections::BTreeSet;

    fn stripe(i: u32) -> StripeId {
        StripeId::from_bytes(*Hash::of(&i.to_le_bytes()).as_bytes())
    }

    fn node(i: u8) -> NodeId {
        NodeId::from_bytes([i; 32])
    }

    fn view(weights: &[u64]) -> View {
        let facts = |(i, weight): (usize, &u64)| {
            let id = node(i as u8);
            let facts = NodeFacts::new(Domain::Node(id), *weight);
            (id, facts)
        };
        View {
            nodes: weights.iter().enumerate().map(facts).collect(),
            ..View::default()
        }
    }

    #[test]
    fn the_logarithm_is_right() {
        for h in [1, 2, 3, 1 << 20, u64::MAX / 3, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
            let exact = 64.0 - (h as f64).log2();
            let ours = minus_log2(h) as f64 / f64::from(2u32).powi(LOG_FRACTION_BITS as i32);
            assert!((exact - ours).abs() < 1e-8, "{h}: {exact} {ours}");
        }
    }

    #[test]
    fn shares_follow_weights() {
        let view = view(&[1_000_000_000, 2_000_000_000, 3_000_000_000, 6_000_000_000]);
        let mut firsts = [0u32; 4];
        for i in 0..12_000 {
            firsts[usize::from(rank(stripe(i), &view)[0].as_bytes()[0])] += 1;
        }
        for (share, expected) in firsts.iter().zip([1_000u32, 2_000, 3_000, 6_000]) {
            assert!(share.abs_diff(expected) < 250, "{firsts:?}");
        }
    }

    #[test]
    fn one_that_leaves_moves_only_its_own_share() {
        let (all, mut fewer) = (view(&[5; 8]), view(&[5; 8]));
        fewer.nodes.remove(&node(3));
        for i in 0..500 {
            let mut before = rank(stripe(i), &all);
            before.retain(|id| *id != node(3));
            assert_eq!(before, rank(stripe(i), &fewer));
        }
    }

    #[test]
    fn the_first_ones_are_in_distinct_zones() {
        let mut view = view(&[5; 9]);
        for (i, facts) in view.nodes.values_mut().enumerate() {
            facts.domain = Domain::Zone(["a", "b", "c"][i % 3].parse().unwrap());
        }
        for i in 0..200 {
            let order = rank(stripe(i), &view);
            assert_eq!(order.len(), 9);
            for round in order.chunks(3) {
                assert_eq!(
                    round.iter().map(|id| view.domain(*id)).collect::<BTreeSet<_>>().len(),
                    3
                );
            }
            let best = view.nodes.keys().min_by_key(|id| cost(stripe(i), **id, 5)).unwrap();
            assert_eq!(order[0], *best);
        }
    }

    #[test]
    fn the_steward_is_the_first_in_order_that_is_here() {
        let mut view = view(&[5, 9, 7, 3, 8, 2, 6]);
        for (i, facts) in view.nodes.values_mut().enumerate() {
            facts.domain = Domain::Zone(["a", "b", "c"][i % 3].parse().unwrap());
        }
        for i in 0..200 {
            for (at, facts) in view.nodes.values_mut().enumerate() {
                facts.presence = if i >> at & 1 == 0 {
                    Presence::Live
                } else {
                    Presence::Away {
                        since: Timestamp::default(),
                    }
                };
            }
            let first = rank(stripe(i), &view).into_iter().find(|node| view.stays(*node));
            assert_eq!(steward(stripe(i), &view), first);
        }
    }

    #[test]
    fn the_order_never_changes_between_versions() {
        let order: Vec<u8> = rank(stripe(1), &view(&[5, 7, 9, 11]))
            .iter()
            .map(|id| id.as_bytes()[0])
            .collect();
        assert_eq!(order, GOLDEN);
    }

    const GOLDEN: [u8; 4] = [3, 2, 1, 0];
}
