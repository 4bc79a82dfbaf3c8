//! How safe a stripe is: verified shards in distinct failure domains, never a count of copies.

use crate::{Domain, View};
use potluck_types::{Geometry, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// What a stripe is worth now.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Health {
    /// Fewer than *k* shards answer: nothing can be read until one of the others returns.
    Unreadable {
        /// Distinct shards that answer.
        have: u8,
        /// Shards that are needed.
        need: u8,
    },
    /// So many domains may vanish at once with nothing lost.
    Survives(u8),
}

/// How many failure domains may vanish at once such that *k* distinct shards remain; `None` when there are fewer than *k* now.
/// `holders` are the shards that count, each with its holder.
///
/// A shard held twice counts where its domain holds the most others: a lower bound, so that health never claims
/// more than is true.
pub fn survives(geometry: Geometry, holders: &[(NodeId, u8)], view: &View) -> Option<u8> {
    let mut by_domain: BTreeMap<Domain, BTreeSet<u8>> = BTreeMap::new();
    for (node, index) in holders {
        by_domain.entry(view.domain(*node)).or_default().insert(*index);
    }
    let mut domains: Vec<_> = by_domain.into_values().collect();
    domains.sort_by_key(|shards| std::cmp::Reverse(shards.len()));
    let mut counted = BTreeSet::new();
    let mut counts: Vec<usize> = Vec::with_capacity(domains.len());
    for shards in domains {
        let before = counted.len();
        counted.extend(shards);
        counts.push(counted.len() - before);
    }
    counts.sort_unstable_by_key(|count| std::cmp::Reverse(*count));
    let mut left = counted.len();
    let need = usize::from(geometry.k());
    if left < need {
        return None;
    }
    let mut losses = 0;
    for count in counts {
        if left - count < need {
            break;
        }
        left -= count;
        losses += 1;
    }
    Some(losses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn zoned(zones: &[u8]) -> View {
        use crate::NodeFacts;
        let facts = |(i, zone): (usize, &u8)| {
            let domain = Domain::Zone(format!("z{zone}").parse().unwrap());
            let facts = NodeFacts::new(domain, 1);
            (NodeId::from_bytes([i as u8; 32]), facts)
        };
        View {
            nodes: zones.iter().enumerate().map(facts).collect(),
            ..View::default()
        }
    }

    /// The oracle: tries every set of domains to lose.
    fn naive(k: u8, holders: &[(NodeId, u8)], view: &View) -> Option<u8> {
        let domains: Vec<_> = holders
            .iter()
            .map(|(n, _)| view.domain(*n))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let readable = |lost: u32| {
            let left: BTreeSet<_> = holders
                .iter()
                .filter(|(node, _)| {
                    let at = domains.iter().position(|d| *d == view.domain(*node)).unwrap();
                    lost & (1 << at) == 0
                })
                .map(|(_, index)| index)
                .collect();
            left.len() >= usize::from(k)
        };
        (0..=domains.len() as u32)
            .take_while(|f| {
                (0..1u32 << domains.len())
                    .filter(|lost| lost.count_ones() == *f)
                    .all(readable)
            })
            .last()
            .map(|f| f as u8)
    }

    proptest! {
        #[test]
        fn never_more_than_is_true(
            k in 1u8..5,
            zones in prop::collection::vec(0u8..5, 1..8),
            held in prop::collection::vec((0usize..8, 0u8..7), 0..12),
        ) {
            let view = zoned(&zones);
            let holders: Vec<_> =
                held.iter().map(|(n, i)| (NodeId::from_bytes([(n % zones.len()) as u8; 32]), *i)).collect();
            let geometry = Geometry::new(k, 7 - k).unwrap();
            let (ours, truth) = (survives(geometry, &holders, &view), naive(k, &holders, &view));
            prop_assert_eq!(ours.is_none(), truth.is_none());
            prop_assert!(ours <= truth);
            let indexes: BTreeSet<_> = holders.iter().map(|(_, i)| i).collect();
            if indexes.len() == holders.len() {
                prop_assert_eq!(ours, truth);
            }
        }
    }

    #[test]
    fn two_shards_in_one_house_are_one_loss() {
        let view = zoned(&[0, 0, 1, 2]);
        let holder = |i: u8| (NodeId::from_bytes([i; 32]), i);
        let geometry = Geometry::new(2, 2).unwrap();
        assert_eq!(
            survives(geometry, &[holder(0), holder(1), holder(2), holder(3)], &view),
            Some(1)
        );
        assert_eq!(survives(geometry, &[holder(0), holder(1)], &view), Some(0));
        assert_eq!(survives(geometry, &[holder(0)], &view), None);
    }
}
