//! The pool as this node knows it now: the facts that every decision is made from.

use potluck_types::{
    NodeId, Region, Regions, SpaceId, Timestamp, Zone,
    sabotage::{self, Bug},
};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

/// What fails together: a zone that its nodes declare, or the one machine.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Domain {
    /// Machines that say they share a fate.
    Zone(Zone),
    /// A machine that says nothing.
    Node(NodeId),
}

/// Whether a node can be counted on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// It answers.
    Live,
    /// It has not answered since then.
    Away {
        /// When it was last heard of.
        since: Timestamp,
    },
    /// It answers, and is about to leave: a source, never a target.
    Leaving,
}

/// What is known of one node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeFacts {
    /// What it fails with.
    pub domain: Domain,
    /// Its share of the data: the bytes that it offers.
    pub weight: u64,
    /// Whether it can be counted on.
    pub presence: Presence,
    /// Over 95 % of what it offers is in use: it takes no more.
    pub full: bool,
    /// It could not prove what it says that it holds: it is a source, as whatever comes from it is checked, and nothing more.
    pub doubted: bool,
    /// Where it stands, if it says so.
    pub region: Option<Region>,
    /// It stands in none of the regions where the data may be that the view is for: it gives what it has, and has it no more once that is elsewhere.
    pub outside: bool,
}

impl NodeFacts {
    /// One that answers, has room, is trusted, and says nothing of where it stands.
    pub fn new(domain: Domain, weight: u64) -> Self {
        Self {
            domain,
            weight,
            presence: Presence::Live,
            full: false,
            doubted: false,
            region: None,
            outside: false,
        }
    }
}

/// One snapshot of the pool.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct View {
    /// All members.
    pub nodes: BTreeMap<NodeId, NodeFacts>,
    /// Spaces whose data may not be everywhere.
    pub confined: Arc<BTreeMap<SpaceId, Regions>>,
}

impl View {
    /// The pool as it is for the data of a space.
    pub fn for_space(&self, space: SpaceId) -> Cow<'_, Self> {
        match self.confined.get(&space) {
            Some(regions) => Cow::Owned(self.within(regions)),
            None => Cow::Borrowed(self),
        }
    }

    /// The pool as it is for data that may be in these regions only: whoever stands elsewhere offers nothing.
    pub fn within(&self, regions: &Regions) -> Self {
        let mut nodes = self.nodes.clone();
        for facts in nodes.values_mut() {
            let is_inside = facts.region.as_ref().is_some_and(|region| regions.contains(region));
            if !is_inside && !sabotage::is_planted(Bug::IgnoreRegions) {
                facts.outside = true;
                facts.weight = 0;
            }
        }
        Self {
            nodes,
            confined: Arc::default(),
        }
    }

    /// Whether a node answers, be it about to leave or not.
    pub fn answers(&self, node: NodeId) -> bool {
        self.nodes
            .get(&node)
            .is_some_and(|facts| matches!(facts.presence, Presence::Live | Presence::Leaving))
    }

    /// Whether a node answers and stays. Nodes that see the same pool agree about it.
    pub fn stays(&self, node: NodeId) -> bool {
        self.nodes
            .get(&node)
            .is_some_and(|facts| facts.presence == Presence::Live)
    }

    /// Whether a node's shards count for the future: it answers, stays, may have them, and is not doubted here.
    pub fn counts(&self, node: NodeId) -> bool {
        self.stays(node) && !self.nodes[&node].doubted && !self.nodes[&node].outside
    }

    /// Whether a node may not have the data that this view is for.
    pub fn is_outside(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|facts| facts.outside)
    }

    /// Whether a node may be given a shard now.
    pub fn takes(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|facts| {
            let has_room = !facts.full || sabotage::is_planted(Bug::RepairToFull);
            facts.presence == Presence::Live && has_room && facts.weight > 0 && !facts.doubted
        })
    }

    /// What a node fails with.
    pub fn domain(&self, node: NodeId) -> Domain {
        self.nodes
            .get(&node)
            .map_or(Domain::Node(node), |facts| facts.domain.clone())
    }

    /// Domains that new stripes are laid out for: those of nodes that take shards, or will again within the grace
    /// period. A short absence does not change how data is coded.
    pub fn eligible_domains(&self, now: Timestamp, grace: std::time::Duration) -> usize {
        let mut domains: Vec<_> = self
            .nodes
            .values()
            .filter(|facts| facts.weight > 0 && !facts.full && !facts.doubted)
            .filter(|facts| match facts.presence {
                Presence::Live => true,
                Presence::Away { since } => now.since(since) < grace,
                Presence::Leaving => false,
            })
            .map(|facts| &facts.domain)
            .collect();
        domains.sort();
        domains.dedup();
        domains.len()
    }
}
