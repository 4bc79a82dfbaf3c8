//! What the core knows, for whoever reads, writes, codes anew, or asks on a person's behalf.

use super::{BEHIND_MAX, CERTAINTY, Control, Link, who};
use crate::{
    api::{HealthInfo, NodeInfo, NodeStatus, StripeWork},
    charters::Admitted,
    names::custodians,
    protocol::{Known, Survival},
    records::{NodeState, PoolRecord},
};
use potluck_crypto::derive::private_space_id;
use potluck_placement::{Cause, Domain, NodeFacts, Presence, View, Work, rank};
use potluck_types::{
    ByteSize, Hash, NodeId, Regions, SpaceId, StripeId, Timestamp, UserId,
    sabotage::{self, Bug},
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

/// How many grace periods an absent member is expected back before data is coded for a pool without it: a day, usually.
pub(super) const GONE_GRACES: u32 = 96;
/// A node is full when the pool uses more of it than this share of what it offers, in percent.
const FULL_PERCENT: u64 = 95;
/// A connection that comes back within this was never lost: nothing is planned for it.
pub(super) const SETTLE: Duration = Duration::from_secs(3);

/// Failure domains of the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Domains {
    /// Of all members but those that leave.
    pub(crate) all: usize,
    /// Of those that are here, or not away for [`GONE_GRACES`]: they may come back.
    pub(crate) expected: usize,
    /// Of those that can be given something now.
    pub(crate) here: usize,
}

/// Failure domains that new data can be coded for: of members that have room and stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AtHand {
    /// Of those that are here, or not away for [`GONE_GRACES`]: how much data is to survive goes by these.
    pub(crate) expected: usize,
    /// Of those that are here, or away for less than the grace period: how it is coded goes by these.
    pub(crate) eligible: usize,
    /// Of those that are here.
    pub(crate) here: usize,
}

/// Who looks whether all live stripes of a space are there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Watcher {
    /// This node, and what it finds counts.
    First,
    /// This node, too, to tell its person; another counts.
    Also,
    /// Not this node.
    Another,
}

impl Control {
    /// The pool as it was planned for last.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// The pool as it is this moment, for reads and writes: who is connected.
    pub(crate) fn present_view(&self, now: Timestamp) -> View {
        self.make_view(now, Duration::ZERO)
    }

    pub(super) fn settled_view(&self, now: Timestamp) -> View {
        self.make_view(now, SETTLE)
    }

    fn make_view(&self, now: Timestamp, settle: Duration) -> View {
        let drained = self.drained();
        let facts = |node: NodeId| {
            let state = self.roster.state(node);
            let capacity = state.map_or(0, |state| state.capacity.0);
            let zone = state
                .and_then(|state| state.zone.clone())
                .filter(|_| !sabotage::is_planted(Bug::CountZoneTwice));
            let away = match self.links.get(&node) {
                _ if node == self.me => None,
                Some(Link::Up) => None,
                Some(Link::Down { since, .. }) if settle > Duration::ZERO && now.since(*since) < settle => None,
                Some(Link::Down { since, .. }) => Some(self.away_since(now, *since)),
                None => Some(now),
            };
            let presence = match away {
                Some(since) => Presence::Away { since },
                None if state.is_some_and(|state| state.leaving) || drained.contains(&node) => Presence::Leaving,
                None => Presence::Live,
            };
            NodeFacts {
                domain: zone.map_or(Domain::Node(node), Domain::Zone),
                weight: capacity,
                presence,
                full: state.is_some_and(is_full),
                doubted: self.standings.is_doubted(node) || drained.contains(&node),
                region: state.and_then(|state| state.region.clone()),
                outside: false,
            }
        };
        View {
            nodes: self.roster.nodes().map(|(node, _)| (node, facts(node))).collect(),
            confined: Arc::clone(self.roster.confined()),
        }
    }

    /// Members that more than half of the others that are here doubt, by their own challenges: they are given nothing, look after nothing, and what they hold is
    /// made anew elsewhere. One alone cannot do that to another.
    fn drained(&self) -> BTreeSet<NodeId> {
        let is_here = |node: &NodeId| *node == self.me || matches!(self.links.get(node), Some(Link::Up));
        let members = || self.roster.nodes().map(|(node, _)| node).filter(is_here);
        let mut doubters: BTreeMap<NodeId, BTreeSet<NodeId>> = BTreeMap::new();
        for by in members() {
            let doubts = self.roster.state(by).into_iter().flat_map(|state| &state.doubts);
            doubts
                .filter(|about| **about != by)
                .for_each(|about| _ = doubters.entry(*about).or_default().insert(by));
        }
        // Hardly ever is anybody doubted, and this is asked all the time.
        if doubters.is_empty() {
            return BTreeSet::new();
        }
        let is_most = |(about, by): &(NodeId, BTreeSet<NodeId>)| {
            let others = members().filter(|node| node != about).count();
            by.len() * 2 > others
        };
        doubters.into_iter().filter(is_most).map(|(about, _)| about).collect()
    }

    /// The same for the data of a space.
    pub(crate) fn present_view_for(&self, space: SpaceId, now: Timestamp) -> View {
        let view = self.present_view(now);
        match self.roster.confined().get(&space) {
            Some(regions) => view.within(regions),
            None => view,
        }
    }

    /// The failure domains that new data is coded for: that of a space, or any.
    pub(crate) fn at_hand(&self, space: Option<SpaceId>, now: Timestamp) -> AtHand {
        let view = match space {
            Some(space) => self.present_view_for(space, now),
            None => self.present_view(now),
        };
        AtHand {
            expected: view.eligible_domains(now, self.gone_after()),
            eligible: view.eligible_domains(now, self.grace),
            here: view.eligible_domains(now, Duration::ZERO),
        }
    }

    /// What [`AtHand::expected`] would be for data that may be in these regions only.
    pub(crate) fn expected_within(&self, regions: &Regions, now: Timestamp) -> usize {
        let view = self.present_view(now).within(regions);
        view.eligible_domains(now, self.gone_after())
    }

    /// What [`AtHand::expected`] would be for the data of a space if nobody were about to leave.
    pub(crate) fn expected_if_all_stay(&self, space: SpaceId, now: Timestamp) -> usize {
        let mut view = self.present_view_for(space, now);
        for facts in view.nodes.values_mut() {
            if facts.presence == Presence::Leaving {
                facts.presence = Presence::Live;
            }
        }
        view.eligible_domains(now, self.gone_after())
    }

    /// The failure domains that files are coded for, when this node is the one of its person's that looks after a space, and the pool has been as it
    /// is for long enough that all know it.
    pub(crate) fn settled_domains(&self, now: Timestamp, space: SpaceId) -> Option<Domains> {
        self.settled_since(now)?;
        if self.first_machine(space) != Some(self.me) {
            return None;
        }
        let view = self.view.for_space(space);
        let count = |is_in: &dyn Fn(&NodeFacts) -> bool| {
            let members = view.nodes.values().filter(|facts| facts.weight > 0 && is_in(facts));
            members.map(|facts| &facts.domain).collect::<HashSet<_>>().len()
        };
        let is_expected = |facts: &NodeFacts| match facts.presence {
            Presence::Live => true,
            Presence::Away { since } => now.since(since) < self.gone_after(),
            Presence::Leaving => false,
        };
        Some(Domains {
            all: count(&|facts| facts.presence != Presence::Leaving),
            expected: count(&is_expected),
            here: count(&|facts| facts.presence == Presence::Live && !facts.full),
        })
    }

    /// How long an absent member is expected back before data is coded for a pool without it.
    pub(crate) fn gone_after(&self) -> Duration {
        self.grace.saturating_mul(GONE_GRACES)
    }

    /// Whether it has been the same for a day where data of spaces may be.
    pub(crate) fn is_long_confined(&self, now: Timestamp) -> bool {
        self.confined_until.is_none_or(|until| now >= until)
    }

    /// How long it is until data is coded for a pool without any that are away now, when there are such.
    pub(crate) fn until_gone(&self, now: Timestamp) -> Option<Duration> {
        let left = |link: &Link| match link {
            Link::Down { since, .. } => Some(self.gone_after().saturating_sub(now.since(*since))),
            Link::Up => None,
        };
        let members = self
            .links
            .iter()
            .filter(|(node, _)| self.roster.user_of(**node).is_some());
        members.filter_map(|(_, link)| left(link)).max()
    }

    /// How long it is until one more member has been away for so long that data is coded for a pool without it.
    pub(crate) fn until_next_gone(&self, now: Timestamp) -> Option<Duration> {
        let members = self
            .links
            .iter()
            .filter(|(node, _)| self.roster.user_of(**node).is_some());
        let left = members.filter_map(|(_, link)| match link {
            Link::Down { since, .. } => Some(self.gone_after().saturating_sub(now.since(*since))),
            Link::Up => None,
        });
        left.filter(|left| !left.is_zero()).min()
    }

    /// Since when the pool is as it is, if that is for long enough that all know it.
    pub(crate) fn settled_since(&self, now: Timestamp) -> Option<Timestamp> {
        let since = self.view_changed_at;
        (now.since(since) >= CERTAINTY).then_some(since)
    }

    /// How long it is until the pool has been as it is for long enough that all know it.
    pub(crate) fn until_settled(&self, now: Timestamp) -> Duration {
        CERTAINTY.saturating_sub(now.since(self.view_changed_at))
    }

    /// Whether every member answers.
    pub(crate) fn is_all_here(&self) -> bool {
        self.view.nodes.keys().all(|node| self.view.answers(*node))
    }

    /// Whether a node is a machine of one who reads a space: of a private one, its person.
    pub(crate) fn is_of(&self, node: NodeId, space: SpaceId) -> bool {
        self.roster.user_of(node).is_some_and(|user| self.may_read(user, space))
    }

    /// Whether a person may read what is written to a space now.
    pub(crate) fn may_read(&self, user: UserId, space: SpaceId) -> bool {
        let reads = |access: &Admitted| access.readers.contains(&user);
        private_space_id(user) == space || self.access.get(&space).is_some_and(reads)
    }

    /// Whether a person may write to a space.
    pub(crate) fn may_write(&self, user: UserId, space: SpaceId) -> bool {
        let writes = |access: &Admitted| access.writers.contains(&user);
        private_space_id(user) == space || self.access.get(&space).is_some_and(writes)
    }

    /// The spaces with a charter here that a person may read.
    pub(crate) fn readable(&self, user: UserId) -> Vec<SpaceId> {
        let readable = self.access.iter().filter(|(_, access)| access.readers.contains(&user));
        readable.map(|(space, _)| *space).collect()
    }

    /// How many spaces with a charter here a person has founded.
    pub(crate) fn founded_by(&self, user: UserId) -> usize {
        let owned = self.access.iter().filter(|(_, access)| access.owner == Some(user));
        owned.filter(|(space, _)| **space != private_space_id(user)).count()
    }

    /// Whether a space is this person's own.
    pub(crate) fn is_owned(&self, space: SpaceId, user: UserId) -> bool {
        private_space_id(user) == space || self.access.get(&space).is_some_and(|access| access.owner == Some(user))
    }

    /// Whether a space has a charter: it is here, or it is the private one of somebody whose key was replaced.
    pub(crate) fn is_chartered(&self, space: SpaceId) -> bool {
        let mut replaced = self.roster.speakers().users();
        self.access.contains_key(&space) || replaced.any(|user| private_space_id(user) == space)
    }

    /// Who reads and writes in a space, as its charter says.
    pub(crate) fn set_access(&mut self, space: SpaceId, access: Admitted) {
        self.access.insert(space, access);
    }

    /// Of the machines of those who write to a space, the first in the space's order that answers.
    fn first_machine(&self, space: SpaceId) -> Option<NodeId> {
        // Who has a part of it does not know what the rest uses.
        let is_whole = |user: UserId| {
            private_space_id(user) == space
                || self
                    .access
                    .get(&space)
                    .is_some_and(|access| access.whole.contains(&user))
        };
        let writes = |node: NodeId| {
            let user = self.roster.user_of(node);
            user.is_some_and(|user| self.may_write(user, space) && is_whole(user))
        };
        rank(StripeId::from_bytes(*space.as_bytes()), &self.view)
            .into_iter()
            .find(|node| self.view.answers(*node) && writes(*node))
    }

    /// Who watches a space: its person's machines, and while none of them is here, its first custodian.
    pub(crate) fn watcher(&self, space: SpaceId) -> Watcher {
        let first = self
            .first_machine(space)
            .or_else(|| custodians(space, &self.view).first().copied());
        if first == Some(self.me) {
            Watcher::First
        } else if self.is_of(self.me, space) {
            Watcher::Also
        } else {
            Watcher::Another
        }
    }

    /// What stripes survive as far as this node, their steward, knows; `None` while it does not know yet what the others hold.
    pub(crate) fn survivals(&self, stripes: &[StripeId], now: Timestamp) -> Option<Vec<Survival>> {
        let present = self.present_view(now);
        let survival = |stripe: &StripeId| match self.planner.survives(*stripe, &present) {
            None => Survival::Unknown,
            Some(None) => Survival::Unreadable,
            Some(Some(losses)) => Survival::Survives(losses),
        };
        self.may_mend(now).then(|| stripes.iter().map(survival).collect())
    }

    /// Stripes that this node looks after and that cannot be read, so many at most.
    pub(crate) fn unreadable(&self, now: Timestamp, limit: usize) -> Vec<StripeId> {
        let present = self.present_view(now);
        let stripes = self.planner.stripes().map(|(stripe, _)| stripe);
        stripes
            .filter(|stripe| matches!(self.planner.survives(*stripe, &present), Some(None)))
            .take(limit)
            .collect()
    }

    /// Members that are connected now.
    pub(crate) fn live_peers(&self) -> Vec<NodeId> {
        let up = self.links.iter().filter(|(_, link)| matches!(link, Link::Up));
        up.map(|(node, _)| *node)
            .filter(|node| *node != self.me && self.roster.user_of(*node).is_some())
            .collect()
    }

    /// Members that are not connected, those that vanished last before others, and where they said they were.
    pub(crate) fn absent(&self, most: usize) -> Vec<(NodeId, Vec<String>)> {
        let down = self.links.iter().filter_map(|(node, link)| match link {
            Link::Down { since, .. } => Some((*since, *node)),
            Link::Up => None,
        });
        let mut down: Vec<_> = down
            .filter(|(_, node)| *node != self.me && self.roster.user_of(*node).is_some())
            .collect();
        down.sort_unstable_by_key(|(since, node)| (Reverse(*since), *node));
        let place = |node| self.roster.state(node).map(|state| state.addresses.clone());
        let last = down.into_iter().take(most);
        last.map(|(_, node)| (node, place(node).unwrap_or_default())).collect()
    }

    /// Members that are not connected, and are not known to be away for long: they may be on their way.
    pub(crate) fn awaited(&self) -> usize {
        let members = self.roster.nodes().map(|(node, _)| node);
        let is_awaited = |node: &NodeId| {
            let is_up = matches!(self.links.get(node), Some(Link::Up));
            *node != self.me && !is_up && !self.absences.contains_key(node)
        };
        members.filter(is_awaited).count()
    }

    /// Those of these stripes of which this node knows holders.
    pub(crate) fn looked_after(&self, stripes: &[StripeId]) -> Vec<StripeId> {
        let is_known = |stripe: &&StripeId| self.planner.holders(**stripe).next().is_some();
        stripes.iter().filter(is_known).copied().collect()
    }

    /// What this node knows of stripes, as their steward.
    pub(crate) fn known(&self, stripes: &[StripeId], now: Timestamp) -> Vec<Option<Known>> {
        let present = self.present_view(now);
        let known = |stripe: &StripeId| {
            let (geometry, shard_len) = self.planner.coding(*stripe)?;
            let work = match self.planner.work(*stripe)? {
                Work::Nothing => StripeWork::Nothing,
                Work::Mending => StripeWork::Mending,
                Work::Queued => StripeWork::Queued,
                Work::Waiting { cause, until } => StripeWork::Waiting {
                    cause: cause_name(cause).to_owned(),
                    until,
                },
            };
            Some(Known {
                geometry,
                shard_len,
                holders: self.holders(*stripe),
                survives: self.planner.survives(*stripe, &present)?,
                work,
            })
        };
        stripes.iter().map(known).collect()
    }

    pub(crate) fn holders(&self, stripe: StripeId) -> Vec<(NodeId, u8)> {
        self.planner.holders(stripe).collect()
    }

    /// Counts of the stripes that this node looks after.
    pub(crate) fn health(&mut self, now: Timestamp) -> HealthInfo {
        let present = self.present_view(now);
        let mut summary = self.planner.summary(now, &self.view, &present);
        // What an upload left that was cut off is freed after a day; until then it is no loss to anybody.
        let is_counted = |stripe| {
            !matches!(
                self.planner.work(stripe),
                Some(Work::Waiting {
                    cause: Cause::Unnamed,
                    ..
                })
            )
        };
        let is_unreadable = |stripe: &&StripeId| {
            is_counted(**stripe) && matches!(self.planner.survives(**stripe, &present), Some(None))
        };
        let unnamed = self.unnamed.iter().filter(is_unreadable).count() as u64;
        summary.unreadable = summary.unreadable.saturating_sub(unnamed);
        if let Some(waiting) = summary.waiting.get_mut(&Cause::TooFewShards) {
            *waiting = waiting.saturating_sub(unnamed);
        }
        summary.waiting.retain(|_, count| *count > 0);
        // Some never see the same nodes: that is no reason to wait for ever.
        let is_behind = self.behind_since.is_some_and(|since| now.since(since) < BEHIND_MAX);
        // Until who has vanished is planned without, others look after its stripes, and have not heard of all their shards.
        let is_gathering = !self.may_mend(now) || is_behind || who(&present) != who(&self.view);
        if is_gathering {
            // Shards that nobody has reported yet are not known to be missing.
            summary.unreadable = 0;
            summary.waiting.remove(&Cause::TooFewShards);
        }
        HealthInfo {
            survives: summary.survives,
            unreadable: summary.unreadable,
            endangered: summary.endangered,
            mending: summary.mending,
            queued: summary.queued,
            waiting: summary
                .waiting
                .into_iter()
                .map(|(cause, count)| (cause_name(cause).to_owned(), count))
                .collect(),
            repair_read: self.repair_read,
            repair_written: self.repair_written,
            damaged: self.damaged,
            gathering: u64::from(is_gathering),
            ..HealthInfo::default()
        }
    }

    /// Every member, this node first.
    pub(crate) fn nodes(&self, now: Timestamp) -> Vec<NodeInfo> {
        let view = self.present_view(now);
        let drained = self.drained();
        let info = |(node, user): (NodeId, UserId)| {
            let state = self.roster.state(node);
            let presence = view.nodes[&node].presence;
            NodeInfo {
                id: node,
                user,
                status: match presence {
                    Presence::Live | Presence::Leaving
                        if self.standings.is_doubted(node) || drained.contains(&node) =>
                    {
                        NodeStatus::Doubted
                    }
                    Presence::Leaving => NodeStatus::Leaving,
                    _ if node == self.me => NodeStatus::Here,
                    Presence::Live => NodeStatus::Live,
                    Presence::Away { .. } => NodeStatus::Away,
                },
                away_since: match (presence, self.links.get(&node)) {
                    (Presence::Away { .. }, Some(Link::Down { since, .. })) => Some(*since),
                    _ => None,
                },
                zone: state.and_then(|state| state.zone.clone()),
                region: state.and_then(|state| state.region.clone()),
                name: state.and_then(|state| state.name.clone()),
                capacity: state.map_or(ByteSize(0), |state| state.capacity),
                used: state.map_or(ByteSize(0), |state| state.used),
                addresses: state.map(|state| state.addresses.clone()).unwrap_or_default(),
                relayed_by: None,
                version: state.map(|state| state.software.clone()).unwrap_or_default(),
                audit: self.standings.of(node),
            }
        };
        let mut nodes: Vec<_> = self.roster.nodes().map(info).collect();
        nodes.sort_by_key(|info| (info.id != self.me, info.id));
        nodes
    }

    pub(crate) fn digest(&self) -> Hash {
        self.roster.digest()
    }

    pub(crate) fn own_state(&self) -> Option<PoolRecord> {
        self.roster.records().find(|record| matches!(record, PoolRecord::State(signed) if *signed.claimed_signer().as_bytes() == *self.me.as_bytes())).cloned()
    }
}

fn is_full(state: &NodeState) -> bool {
    state.used.0.saturating_mul(100) >= state.capacity.0.saturating_mul(FULL_PERCENT)
}

fn cause_name(cause: Cause) -> &'static str {
    match cause {
        Cause::Grace => "grace",
        Cause::NoDomain => "no-domain",
        Cause::NoRegion => "no-region",
        Cause::TooFewShards => "too-few-shards",
        Cause::Retry => "retry",
        Cause::Settling => "settling",
        Cause::Unnamed => "unnamed",
    }
}
