//! Who offers what, whoever is here: where a stripe belongs follows from it alone.
//!
//! Membership and offers change, and stripes move after them; a reader that comes meanwhile finds them where an earlier layout puts them. So
//! each node keeps the last few that it knew, each with its epoch.

use crate::{Domain, View, rank::order};
use potluck_types::{NodeId, StripeId};
use serde::{Deserialize, Serialize};

/// What a member offers, and what it fails with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Place {
    /// The member.
    pub node: NodeId,
    /// What it fails with.
    pub domain: Domain,
    /// Its share of the data: the bytes that it offers.
    pub weight: u64,
}

/// A layout of the pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Layout {
    /// Greater for who knows more of the pool's records: the sum of counters, of which each only grows.
    pub epoch: u64,
    /// All members, in the order of their ids.
    pub places: Vec<Place>,
}

impl Layout {
    /// The layout that a view rests on.
    pub fn of(view: &View, epoch: u64) -> Self {
        let places = view.nodes.iter().map(|(node, facts)| Place {
            node: *node,
            domain: facts.domain.clone(),
            weight: facts.weight,
        });
        Self {
            epoch,
            places: places.collect(),
        }
    }

    /// All members that offer space, best first for this stripe; see [`crate::rank()`].
    pub fn rank(&self, stripe: StripeId) -> Vec<NodeId> {
        order(
            stripe,
            self.places
                .iter()
                .map(|place| (place.node, place.weight, &place.domain)),
        )
    }
}

/// The last layouts that a node has known, the latest first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Layouts(Vec<Layout>);

impl Layouts {
    /// How many are kept. Each change of who belongs or what is offered makes one; stripes follow within minutes.
    pub const KEPT: usize = 8;

    /// Takes note of how the pool is laid out now. Whether that is another layout than before.
    pub fn note(&mut self, layout: Layout) -> bool {
        match self.0.first_mut() {
            Some(last) if last.places == layout.places => {
                last.epoch = layout.epoch;
                false
            }
            _ => {
                self.0.insert(0, layout);
                self.0.truncate(Self::KEPT);
                true
            }
        }
    }

    /// The present one's epoch.
    pub fn epoch(&self) -> u64 {
        self.0.first().map_or(0, |layout| layout.epoch)
    }

    /// The nodes that one of them gives a shard of a stripe with `n` shards, or that are next in its order while others are away.
    pub fn homes(&self, stripe: StripeId, n: u8) -> impl Iterator<Item = NodeId> {
        let most = 2 * usize::from(n);
        self.0
            .iter()
            .flat_map(move |layout| layout.rank(stripe).into_iter().take(most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rank;
    use std::collections::BTreeSet;

    fn layout(epoch: u64, nodes: std::ops::Range<u8>) -> Layout {
        let place = |i: u8| {
            let node = NodeId::from_bytes([i; 32]);
            Place {
                node,
                domain: Domain::Node(node),
                weight: 1 << 30,
            }
        };
        Layout {
            epoch,
            places: nodes.map(place).collect(),
        }
    }

    fn view(layout: &Layout) -> View {
        let facts = |place: &Place| (place.node, crate::NodeFacts::new(place.domain.clone(), place.weight));
        View {
            nodes: layout.places.iter().map(facts).collect(),
            ..View::default()
        }
    }

    #[test]
    fn it_ranks_as_the_view_that_it_was_made_from() {
        let layout = layout(3, 0..40);
        let view = view(&layout);
        assert_eq!(Layout::of(&view, 3), layout);
        for i in 0..50 {
            let stripe = StripeId::from_bytes([i; 32]);
            assert_eq!(layout.rank(stripe), rank(stripe, &view));
        }
    }

    #[test]
    fn what_an_earlier_layout_placed_is_found_after_many_changes() {
        let mut layouts = Layouts::default();
        let first = layout(1, 0..40);
        let stripe = StripeId::from_bytes([9; 32]);
        let placed: Vec<_> = first.rank(stripe).into_iter().take(6).collect();
        assert!(layouts.note(first.clone()));
        assert!(!layouts.note(Layout { epoch: 2, ..first }));
        assert_eq!(layouts.epoch(), 2);
        for i in 1..Layouts::KEPT as u8 {
            assert!(layouts.note(layout(2 + u64::from(i), 0..40 + 20 * i)));
        }
        let homes: BTreeSet<_> = layouts.homes(stripe, 6).collect();
        assert!(placed.iter().all(|node| homes.contains(node)));
        assert!(homes.len() <= 12 * Layouts::KEPT);
        layouts.note(layout(99, 0..41));
        assert_eq!(layouts.epoch(), 99);
        assert_eq!(layouts.0.len(), Layouts::KEPT);
    }
}
