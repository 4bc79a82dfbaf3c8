//! The node's synchronous core: who is here, who belongs, which stripes this node looks after, and what to do about
//! them. Events and the time go in, actions come out; nothing here waits, reads a clock, or touches a disk.
//!
//! A driver feeds it (see `driver`), and so can a simulation.

use crate::{
    api::{HealthInfo, NodeInfo, NodeStatus},
    error::RecordError,
    names::custodians,
    protocol::{Reported, Survival},
    records::{NodeState, PoolRecord, node_of},
    roster::{Merged, Roster},
};
use potluck_crypto::derive::private_space_id;
use potluck_placement::{
    Cause, Domain, Layout, Layouts, Mend, NodeFacts, Outcome, Planner, PlannerOptions, Presence, View, rank, steward,
};
use potluck_types::{ByteSize, Hash, NodeId, ShardId, SpaceId, StripeId, Timestamp, UserId, to_canonical};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

/// A connection that comes back within this was never lost: nothing is planned for it.
const SETTLE: Duration = Duration::from_secs(3);
/// How often an absent member is dialled, at first and at last.
const DIAL_INTERVAL_MIN: Duration = Duration::from_secs(1);
const DIAL_INTERVAL_MAX: Duration = Duration::from_secs(60);
/// A node is full when the pool uses more of it than this share of what it offers, in percent.
const FULL_PERCENT: u64 = 95;
/// How often holders check that their stewards know all that they hold.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// How long after two nodes were found to see other nodes they compare again.
const RECHECK_DELAY: Duration = Duration::from_secs(1);
/// How long a steward waits for the reports of a holder that does not see the pool as it does.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(3 * CHECK_INTERVAL.as_secs());
/// How long after a change of the view all others have seen it, too.
const CERTAINTY: Duration = Duration::from_secs(10);
/// How many grace periods an absent member is expected back before data is coded for a pool without it: a day, usually.
const GONE_GRACES: u32 = 96;
/// An absence longer than this is remembered over a restart. What was remembered counts once the node has run for as long: by then who is there is
/// connected.
const ABSENCE_NOTED: Duration = Duration::from_secs(60);
/// How long after a change of the view the checks begin: changes come in bursts.
const CHECK_DELAY: Duration = Duration::from_millis(500);

/// What happens.
#[derive(Debug)]
pub(crate) enum Event {
    /// Time has passed. Comes about once a second, and after every deadline.
    Tick,
    Connected(NodeId),
    Disconnected(NodeId),
    /// A record came, from a peer or from this node itself.
    Record(PoolRecord),
    /// Shards became durable here.
    Stored(Vec<Reported>),
    /// Shards are no longer here.
    Gone(Vec<ShardId>),
    /// No file uses these stripes any more. Holders that are away still have shards of them, which are no cause for concern.
    GivenUp(Vec<StripeId>),
    /// A holder reports to us, its steward.
    Reported {
        from: NodeId,
        first: bool,
        shards: Vec<Reported>,
        gone: Vec<ShardId>,
    },
    /// A mend ended.
    Mended {
        stripe: StripeId,
        outcome: Outcome,
        read: u64,
        written: u64,
    },
    /// Shards were found damaged and dropped.
    Damaged(u64),
    /// A steward sees other nodes than this one does: compare again shortly.
    OtherView,
}

/// What to do.
#[derive(Debug)]
pub(crate) enum Action {
    /// Try to connect.
    Dial { node: NodeId, addresses: Vec<String> },
    /// Greet a peer that just connected.
    Greet(NodeId),
    /// The records changed: keep them.
    SaveRecords,
    /// The layout changed: keep the last ones.
    SaveLayouts,
    /// It changed who is away for long: keep that.
    SaveAbsences,
    /// This node is no member any more.
    TakenOut,
    /// The members changed: only these may open protocols.
    SetMembers(HashSet<NodeId>),
    /// Tell all.
    Publish(PoolRecord),
    /// Tell a steward what changed here.
    Report {
        to: NodeId,
        shards: Vec<Reported>,
        gone: Vec<ShardId>,
    },
    /// Compare all that is held here with what the stewards know.
    CheckReports,
    /// Mend a stripe.
    Mend(Mend),
}

#[derive(Clone, Copy, Debug)]
enum Link {
    Up,
    Down {
        since: Timestamp,
        dialled_at: Timestamp,
        dials: u32,
    },
}

/// The count and the sum of what a holder has reported. Equal sets have equal sums; other sets, hardly ever.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct ReportSum {
    pub(crate) count: u64,
    pub(crate) sum: u128,
}

impl ReportSum {
    fn term(shard: ShardId) -> u128 {
        let (head, tail) = shard.stripe.as_bytes().split_at(16);
        let number = |bytes: &[u8]| u128::from_le_bytes(bytes.try_into().expect("16 bytes"));
        number(head) ^ number(tail).rotate_left(u32::from(shard.index) + 1)
    }

    pub(crate) fn add(&mut self, shard: ShardId) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(Self::term(shard));
    }
}

/// What comes of comparing a holder's shards with what its steward knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Check {
    /// The steward knows all of them.
    Agrees,
    /// It does not.
    Differs,
    /// It knows those that the holder means; but the two do not see the same nodes, so there may be others.
    OtherView,
}

/// Since when members are away that have been for long.
pub(crate) type Absences = BTreeMap<NodeId, Timestamp>;

/// What a node knew when it ended.
#[derive(Default, Debug)]
pub(crate) struct Remembered {
    pub(crate) layouts: Layouts,
    pub(crate) absences: Absences,
}

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

/// See the module.
pub(crate) struct Control {
    me: NodeId,
    pub(crate) roster: Roster,
    links: BTreeMap<NodeId, Link>,
    planner: Planner,
    grace: Duration,
    view: View,
    layouts: Layouts,
    absences: Absences,
    started: Timestamp,
    check_at: Option<Timestamp>,
    checked_at: Timestamp,
    /// Holders that have reported in full since the view last changed. Before all have, a shard that nobody reported is not known to be
    /// missing.
    confirmed: HashSet<NodeId>,
    /// Whether a holder has reported what another node looks after as this one sees it: it may know already who is not here any more, and the
    /// other holders have not reported it yet.
    is_behind: bool,
    view_changed_at: Timestamp,
    repair_read: u64,
    repair_written: u64,
    damaged: u64,
}

impl Control {
    pub(crate) fn new(me: NodeId, roster: Roster, remembered: Remembered, grace: Duration, now: Timestamp) -> Self {
        let Remembered { layouts, absences } = remembered;
        let usual = PlannerOptions::default();
        let planner = Planner::new(PlannerOptions {
            grace,
            writing: usual.writing.min(grace).max(usual.quiet),
            ..usual
        });
        let mut control = Self {
            me,
            roster,
            links: BTreeMap::new(),
            planner,
            grace,
            view: View::default(),
            layouts,
            absences,
            started: now,
            check_at: Some(now + CHECK_DELAY),
            checked_at: now,
            confirmed: HashSet::new(),
            is_behind: false,
            view_changed_at: now,
            repair_read: 0,
            repair_written: 0,
            damaged: 0,
        };
        control.track_members(now);
        control.view = control.settled_view(now);
        control.note_layout(now);
        control
    }

    /// The actions that follow from an event.
    pub(crate) fn handle(&mut self, now: Timestamp, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Tick => self.dial_absent(now, &mut actions),
            Event::Connected(node) => {
                self.links.insert(node, Link::Up);
                // It may have been restarted, and know nothing of what is held here.
                self.confirmed.remove(&node);
                self.check_at.get_or_insert(now + CHECK_DELAY);
                if self.roster.user_of(node).is_some() {
                    actions.push(Action::Greet(node));
                }
            }
            Event::Disconnected(node) => {
                self.links.insert(
                    node,
                    Link::Down {
                        since: now,
                        dialled_at: now,
                        dials: 0,
                    },
                );
            }
            Event::Record(record) => self.on_record(now, &record, &mut actions),
            Event::Stored(shards) => self.report(now, shards, Vec::new(), &mut actions),
            Event::Gone(shards) => self.report(now, Vec::new(), shards, &mut actions),
            Event::GivenUp(stripes) => stripes.into_iter().for_each(|stripe| self.planner.forget(stripe)),
            Event::Reported {
                from,
                first,
                shards,
                gone,
            } => {
                if first {
                    self.planner.retract_all(from);
                }
                self.take_report(now, from, shards, &gone);
            }
            Event::Mended {
                stripe,
                outcome,
                read,
                written,
            } => {
                self.repair_read += read;
                self.repair_written += written;
                self.planner.finished(stripe, outcome, now);
            }
            Event::Damaged(count) => self.damaged += count,
            Event::OtherView => {
                self.check_at.get_or_insert(now + RECHECK_DELAY);
            }
        }
        self.settle(now, &mut actions);
        actions
    }

    fn on_record(&mut self, now: Timestamp, record: &PoolRecord, actions: &mut Vec<Action>) {
        let members = self.roster.members();
        let of = match record {
            PoolRecord::State(signed) => Some(node_of(signed.claimed_signer())),
            _ => None,
        };
        let known = of.and_then(|node| self.lasting(node));
        match self.roster.merge(record) {
            Ok(Merged::New) => {
                // Where members are and what they offer must outlive this process; the rest of a state does not matter then.
                if of.is_none_or(|node| self.lasting(node) != known) {
                    if let Some(node) = of {
                        self.dial_anew(node);
                    }
                    actions.push(Action::SaveRecords);
                    if self.note_layout(now) {
                        actions.push(Action::SaveLayouts);
                    }
                }
                let new_members = self.roster.members();
                if new_members != members {
                    self.track_members(now);
                    // One who was connected as a stranger is greeted as a member.
                    let is_up = |node: &&NodeId| matches!(self.links.get(node), Some(Link::Up));
                    let arrived = new_members.difference(&members).filter(is_up).copied();
                    let greetings: Vec<_> = arrived.map(Action::Greet).collect();
                    for gone in members.difference(&new_members) {
                        self.planner.retract_all(*gone);
                        if *gone == self.me {
                            actions.push(Action::TakenOut);
                        }
                    }
                    actions.push(Action::SetMembers(new_members));
                    actions.extend(greetings);
                }
            }
            Ok(Merged::Known) | Err(RecordError::UnknownSigner) => {}
            Err(error) => tracing::debug!(%error, "a record is not taken"),
        }
    }

    fn lasting(&self, node: NodeId) -> Option<(Vec<String>, u64)> {
        self.roster
            .state(node)
            .map(|state| (state.addresses.clone(), state.revision))
    }

    fn note_layout(&mut self, now: Timestamp) -> bool {
        let layout = Layout::of(&self.present_view(now), self.roster.epoch());
        self.layouts.note(layout)
    }

    pub(crate) fn layouts(&self) -> &Layouts {
        &self.layouts
    }

    /// Where to look for a stripe of so many shards among the members that are here: first where this layout or an earlier one
    /// puts it, then everywhere else.
    pub(crate) fn whereabouts(&self, stripe: StripeId, n: u8) -> [Vec<NodeId>; 2] {
        let homes: HashSet<NodeId> = self.layouts.homes(stripe, n).collect();
        let (first, others) = self.live_peers().into_iter().partition(|node| homes.contains(node));
        [first, others]
    }

    /// An absent node that says where it is now has not been dialled there yet.
    fn dial_anew(&mut self, node: NodeId) {
        if let Some(Link::Down { dialled_at, dials, .. }) = self.links.get_mut(&node) {
            (*dialled_at, *dials) = (Timestamp::default(), 0);
        }
    }

    pub(crate) fn absences(&self) -> &Absences {
        &self.absences
    }

    /// Notes who has been away for long; whether that is news.
    fn note_absences(&mut self, now: Timestamp) -> bool {
        let long_away = |(node, link): (&NodeId, &Link)| match link {
            Link::Down { since, .. } if now.since(*since) >= ABSENCE_NOTED && self.roster.user_of(*node).is_some() => {
                Some((*node, *since))
            }
            _ => None,
        };
        let absences: Absences = self.links.iter().filter_map(long_away).collect();
        let is_news = absences != self.absences;
        self.absences = absences;
        is_news
    }

    fn track_members(&mut self, now: Timestamp) {
        for (node, _) in self.roster.nodes() {
            if node != self.me {
                self.links.entry(node).or_insert(Link::Down {
                    since: self.absences.get(&node).map_or(now, |since| now.min(*since)),
                    dialled_at: Timestamp::default(),
                    dials: 0,
                });
            }
        }
    }

    /// Since when to count a node as away. Who was away when this node ended may be here, and not yet connected.
    fn away_since(&self, now: Timestamp, since: Timestamp) -> Timestamp {
        if now.since(self.started) < ABSENCE_NOTED {
            since.max(self.started)
        } else {
            since
        }
    }

    fn dial_absent(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        for (node, link) in &mut self.links {
            let Link::Down {
                since,
                dialled_at,
                dials,
            } = link
            else {
                continue;
            };
            if self.roster.user_of(*node).is_none() {
                continue;
            }
            let interval = DIAL_INTERVAL_MIN
                .saturating_mul(1 << (*dials).min(6))
                .min(DIAL_INTERVAL_MAX);
            if now.since(*dialled_at) >= interval || *dialled_at > now {
                *link = Link::Down {
                    since: *since,
                    dialled_at: now,
                    dials: *dials + 1,
                };
                let addresses = self
                    .roster
                    .state(*node)
                    .map(|state| state.addresses.clone())
                    .unwrap_or_default();
                actions.push(Action::Dial { node: *node, addresses });
            }
        }
    }

    /// What follows from the state as a whole, whatever the event was.
    fn settle(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let view = self.settled_view(now);
        if view != self.view {
            if who(&view) != who(&self.view) {
                self.check_at = Some(now + CHECK_DELAY);
                self.confirmed.clear();
                self.view_changed_at = now;
            }
            self.view = view;
        }
        if self.note_absences(now) {
            actions.push(Action::SaveAbsences);
        }
        let due = self.check_at.is_some_and(|at| now >= at) || now.since(self.checked_at) >= CHECK_INTERVAL;
        if due {
            self.check_at = None;
            self.checked_at = now;
            self.hand_over();
            actions.push(Action::CheckReports);
        }
        while self.may_mend(now)
            && let Some(mend) = self.planner.next(now, &self.view)
        {
            if steward(mend.stripe, &self.view) == Some(self.me) {
                actions.push(Action::Mend(mend));
            } else {
                self.planner.forget(mend.stripe);
            }
        }
    }

    /// Whether all that count have said what they hold, or had the time to.
    fn may_mend(&self, now: Timestamp) -> bool {
        let all = self
            .view
            .nodes
            .keys()
            .all(|node| !self.view.answers(*node) || self.confirmed.contains(node));
        all || now.since(self.view_changed_at) >= CONFIRM_TIMEOUT
    }

    /// Whether a node looks after a stripe, and has for long enough that all know it.
    pub(crate) fn is_sure_of_steward(&self, stripe: StripeId, node: NodeId, now: Timestamp) -> bool {
        now.since(self.view_changed_at) >= CERTAINTY && steward(stripe, &self.view) == Some(node)
    }

    /// What this node knows of who is here, as one hash.
    pub(crate) fn view_digest(&self) -> Hash {
        Hash::of(&to_canonical(&who(&self.view)))
    }

    /// Compares what a holder has reported with what it says that it holds for us to look after.
    pub(crate) fn check(&mut self, holder: NodeId, sum: ReportSum, view: Hash) -> Check {
        if self.reports_of(holder) != sum {
            Check::Differs
        } else if view == self.view_digest() {
            self.confirmed.insert(holder);
            Check::Agrees
        } else {
            Check::OtherView
        }
    }

    /// Gives up what another node looks after.
    fn hand_over(&mut self) {
        self.is_behind = false;
        let elsewhere: Vec<_> = self
            .planner
            .stripes()
            .map(|(stripe, _)| stripe)
            .filter(|stripe| steward(*stripe, &self.view) != Some(self.me))
            .collect();
        for stripe in elsewhere {
            self.planner.forget(stripe);
        }
    }

    fn report(&mut self, now: Timestamp, shards: Vec<Reported>, gone: Vec<ShardId>, actions: &mut Vec<Action>) {
        let mut outgoing: HashMap<NodeId, (Vec<Reported>, Vec<ShardId>)> = HashMap::new();
        for shard in shards {
            if let Some(node) = steward(shard.shard.stripe, &self.view) {
                outgoing.entry(node).or_default().0.push(shard);
            }
        }
        for shard in gone {
            if let Some(node) = steward(shard.stripe, &self.view) {
                outgoing.entry(node).or_default().1.push(shard);
            }
        }
        for (to, (shards, gone)) in outgoing {
            if to == self.me {
                self.take_report(now, to, shards, &gone);
            } else {
                actions.push(Action::Report { to, shards, gone });
            }
        }
    }

    fn take_report(&mut self, now: Timestamp, from: NodeId, shards: Vec<Reported>, gone: &[ShardId]) {
        if from != self.me && self.roster.user_of(from).is_none() {
            return;
        }
        // Who has reported in full tells of nothing but what came since.
        let is_new = self.confirmed.contains(&from);
        for Reported {
            shard,
            geometry,
            shard_len,
        } in shards
        {
            // A holder whose view is ahead of ours may know sooner that the stripe is ours: it is kept until the next hand-over.
            self.is_behind |= steward(shard.stripe, &self.view) != Some(self.me);
            self.planner.report(now, from, shard, geometry, shard_len, is_new);
        }
        for shard in gone {
            self.planner.retract(from, shard.stripe, shard.index);
        }
    }

    /// What a holder has reported to us, added up.
    pub(crate) fn reports_of(&self, holder: NodeId) -> ReportSum {
        let mut sum = ReportSum::default();
        for (stripe, holders) in self.planner.stripes() {
            for (_, index) in holders.filter(|(node, _)| *node == holder) {
                sum.add(ShardId { stripe, index });
            }
        }
        sum
    }

    /// The pool as it was planned for last.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// The pool as it is this moment, for reads and writes: who is connected.
    pub(crate) fn present_view(&self, now: Timestamp) -> View {
        self.make_view(now, Duration::ZERO)
    }

    fn settled_view(&self, now: Timestamp) -> View {
        self.make_view(now, SETTLE)
    }

    fn make_view(&self, now: Timestamp, settle: Duration) -> View {
        let facts = |node: NodeId| {
            let state = self.roster.state(node);
            let capacity = state.map_or(0, |state| state.capacity.0);
            let zone = state.and_then(|state| state.zone.clone());
            let away = match self.links.get(&node) {
                _ if node == self.me => None,
                Some(Link::Up) => None,
                Some(Link::Down { since, .. }) if settle > Duration::ZERO && now.since(*since) < settle => None,
                Some(Link::Down { since, .. }) => Some(self.away_since(now, *since)),
                None => Some(now),
            };
            let presence = match away {
                Some(since) => Presence::Away { since },
                None if state.is_some_and(|state| state.leaving) => Presence::Leaving,
                None => Presence::Live,
            };
            NodeFacts {
                domain: zone.map_or(Domain::Node(node), Domain::Zone),
                weight: capacity,
                presence,
                full: state.is_some_and(is_full),
            }
        };
        View {
            nodes: self.roster.nodes().map(|(node, _)| (node, facts(node))).collect(),
        }
    }

    pub(crate) fn eligible_domains(&self, now: Timestamp) -> usize {
        self.present_view(now).eligible_domains(now, self.grace)
    }

    /// As [`Control::eligible_domains`] if nobody were about to leave.
    pub(crate) fn usual_domains(&self, now: Timestamp) -> usize {
        let mut view = self.present_view(now);
        for facts in view
            .nodes
            .values_mut()
            .filter(|facts| facts.presence == Presence::Leaving)
        {
            facts.presence = Presence::Live;
        }
        view.eligible_domains(now, self.grace)
    }

    /// The failure domains that can be given something this moment.
    pub(crate) fn domains_here(&self, now: Timestamp) -> usize {
        self.present_view(now).eligible_domains(now, Duration::ZERO)
    }

    /// The failure domains that files are coded for, when this node is the one of its person's that looks after a space, and the pool has been as it
    /// is for long enough that all know it.
    pub(crate) fn settled_domains(&self, now: Timestamp, space: SpaceId) -> Option<Domains> {
        self.settled_since(now)?;
        if self.first_machine(space) != Some(self.me) {
            return None;
        }
        let count = |is_in: &dyn Fn(&NodeFacts) -> bool| {
            let members = self
                .view
                .nodes
                .values()
                .filter(|facts| facts.weight > 0 && is_in(facts));
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
    fn gone_after(&self) -> Duration {
        self.grace.saturating_mul(GONE_GRACES)
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

    /// Since when the pool is as it is, if that is for long enough that all know it.
    pub(crate) fn settled_since(&self, now: Timestamp) -> Option<Timestamp> {
        let since = self.view_changed_at;
        (now.since(since) >= CERTAINTY).then_some(since)
    }

    /// Whether every member answers.
    pub(crate) fn is_all_here(&self) -> bool {
        self.view.nodes.keys().all(|node| self.view.answers(*node))
    }

    /// Whether a node is a machine of a private space's person.
    pub(crate) fn is_of(&self, node: NodeId, space: SpaceId) -> bool {
        self.roster.user_of(node).map(private_space_id) == Some(space)
    }

    /// Of the machines of a private space's person, the first in the space's order that answers.
    fn first_machine(&self, space: SpaceId) -> Option<NodeId> {
        rank(StripeId::from_bytes(*space.as_bytes()), &self.view)
            .into_iter()
            .find(|node| self.view.answers(*node) && self.is_of(*node, space))
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

    /// Members that are connected now.
    pub(crate) fn live_peers(&self) -> Vec<NodeId> {
        let up = self.links.iter().filter(|(_, link)| matches!(link, Link::Up));
        up.map(|(node, _)| *node)
            .filter(|node| *node != self.me && self.roster.user_of(*node).is_some())
            .collect()
    }

    /// Those of these stripes of which this node knows holders.
    pub(crate) fn looked_after(&self, stripes: &[StripeId]) -> Vec<StripeId> {
        let is_known = |stripe: &&StripeId| self.planner.holders(**stripe).next().is_some();
        stripes.iter().filter(is_known).copied().collect()
    }

    pub(crate) fn holders(&self, stripe: StripeId) -> Vec<(NodeId, u8)> {
        self.planner.holders(stripe).collect()
    }

    /// Counts of the stripes that this node looks after.
    pub(crate) fn health(&mut self, now: Timestamp) -> HealthInfo {
        let present = self.present_view(now);
        let mut summary = self.planner.summary(now, &self.view, &present);
        // Until who has vanished is planned without, others look after its stripes, and have not heard of all their shards.
        let is_gathering = !self.may_mend(now) || self.is_behind || who(&present) != who(&self.view);
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
        let info = |(node, user): (NodeId, UserId)| {
            let state = self.roster.state(node);
            let presence = view.nodes[&node].presence;
            NodeInfo {
                id: node,
                user,
                status: match presence {
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
                name: state.and_then(|state| state.name.clone()),
                capacity: state.map_or(ByteSize(0), |state| state.capacity),
                used: state.map_or(ByteSize(0), |state| state.used),
                addresses: state.map(|state| state.addresses.clone()).unwrap_or_default(),
                version: state.map(|state| state.software.clone()).unwrap_or_default(),
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

/// What decides who looks after a stripe: who counts, and how much each weighs.
fn who(view: &View) -> Vec<(NodeId, u64, bool)> {
    view.nodes
        .iter()
        .map(|(node, facts)| (*node, facts.weight, facts.presence == Presence::Live))
        .collect()
}

fn is_full(state: &NodeState) -> bool {
    state.used.0.saturating_mul(100) >= state.capacity.0.saturating_mul(FULL_PERCENT)
}

pub(crate) fn cause_name(cause: Cause) -> &'static str {
    match cause {
        Cause::Grace => "grace",
        Cause::NoDomain => "no-domain",
        Cause::TooFewShards => "too-few-shards",
        Cause::Retry => "retry",
        Cause::Settling => "settling",
    }
}
