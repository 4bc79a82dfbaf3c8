//! The node's synchronous core: who is here, who belongs, which stripes this node looks after, and what to do about
//! them. Events and the time go in, actions come out; nothing here waits, reads a clock, or touches a disk.
//!
//! A driver feeds it (see `driver`), and so can a simulation.

mod claims;
mod facts;

use claims::Disproved;
pub(crate) use claims::Seed;
pub(crate) use facts::{AtHand, Domains, Watcher};
use facts::{GONE_GRACES, SETTLE};

use crate::{
    charters::Admitted,
    error::RecordError,
    records::{PoolRecord, Rotation, node_of},
    roster::{Merged, Roster},
    standing::{Outcome as Audited, Standing, Standings},
};
use potluck_crypto::Verified;
use potluck_placement::{
    Layout, Layouts, Mend, NodeFacts, Outcome, Planner, PlannerOptions, Presence, Reported, View, steward,
};
use potluck_types::{Hash, NodeId, ShardId, SpaceId, StripeId, Timestamp, to_canonical};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    mem,
    sync::Arc,
    time::Duration,
};

/// How often an absent member is dialled, at first and at last; in between, whenever its absence has grown by a sixteenth, so that it is noticed soon,
/// measured by how long it was, that it is back. Who comes back dials, too.
const DIAL_INTERVAL_MIN: Duration = Duration::from_secs(1);
const DIAL_INTERVAL_MAX: Duration = Duration::from_secs(600);
const DIALS_PER_ABSENCE: u32 = 16;
/// How often holders check that all their stewards know all that they hold: at first, each time after four times as long, and at last. What changes is reported at once; a
/// steward that a report does not reach is asked. Also how long a steward waits for reports before it says so, and how often at most others call for a check.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
const CHECK_INTERVAL_MAX: Duration = Duration::from_secs(6 * 3600);
/// How long after a check in which not all agreed the others are asked again: at first, each time after twice as long, and at last. Some never see the same nodes.
const RECHECK_DELAY: Duration = Duration::from_secs(1);
const RECHECK_DELAY_MAX: Duration = Duration::from_secs(300);
/// How long a steward waits for the reports of a holder that does not see the pool as it does.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(3 * CHECK_INTERVAL.as_secs());
/// How long after a change of the view all others have seen it, too.
const CERTAINTY: Duration = Duration::from_secs(10);
/// An absence longer than this is remembered over a restart. What was remembered counts once the node has run for as long: by then who is there is
/// connected.
const ABSENCE_NOTED: Duration = Duration::from_secs(60);
/// How often it is noted that they still are.
const ABSENCE_INTERVAL: Duration = Duration::from_secs(600);
/// How long a holder may know of a change before this node does.
const BEHIND_MAX: Duration = Duration::from_secs(15);
/// So many rotations that replace a key of this node's person that was replaced already are kept: their machines that have not heard of each other make them, and whoever has one that
/// was taken out.
const RIVALS_MAX: usize = 8;
/// The shortest time.
const TICK: Duration = Duration::from_millis(1);
/// How long after a change of the view the checks begin: changes come in bursts.
const CHECK_DELAY: Duration = Duration::from_millis(500);

/// What happens.
#[derive(Debug)]
pub(crate) enum Event {
    /// Time has passed: see [`Control::wake_at`].
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
    /// These cannot be read, and no log names them: what an upload left that was cut off.
    Unnamed(HashSet<StripeId>),
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
    /// What is held here was compared with what the stewards know, and logs with what their keepers have; whether all have it.
    Checked {
        agreed: bool,
    },
    /// After a check: there may be another.
    Rested,
    /// A peer that has not agreed may do so now, or one that has may have forgotten it.
    Open,
    /// This node has just put a shard on another.
    Placed {
        holder: NodeId,
        shard: Reported,
    },
    /// Claims of a holder were challenged.
    Audited {
        holder: NodeId,
        outcomes: Vec<(ShardId, Audited)>,
        /// Whether a failure before had called for it.
        is_probe: bool,
    },
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
    /// The data of spaces may be elsewhere than before.
    Confined,
    /// The layout changed: keep the last ones.
    SaveLayouts,
    /// It changed who is away for long: keep that.
    SaveAbsences,
    /// This node is no member any more.
    TakenOut,
    /// Somebody's key was replaced.
    KeyReplaced,
    /// The members changed: only these may open protocols.
    SetMembers(BTreeSet<NodeId>),
    /// Tell all.
    Publish(PoolRecord),
    /// Tell a steward what changed here.
    Report {
        to: NodeId,
        shards: Vec<Reported>,
        gone: Vec<ShardId>,
    },
    /// Compare all that is held here with what the stewards know: all of them, or those that have not agreed to it yet.
    CheckReports { all: bool },
    /// Mend a stripe.
    Mend(Mend),
    /// How others have stood their audits has changed: keep that.
    SaveStandings,
    /// What this node says of itself has changed: tell all.
    Announce,
    /// Challenge more of what a holder claims, now.
    Probe(NodeId),
}

#[derive(Clone, Copy, Debug)]
enum Link {
    Up,
    Down {
        since: Timestamp,
        dialled_at: Option<Timestamp>,
    },
}

impl Link {
    /// When it is dialled next.
    fn dial_at(&self) -> Timestamp {
        let (since, dialled_at) = match self {
            Self::Down {
                since,
                dialled_at: Some(dialled_at),
            } => (since, dialled_at),
            _ => return Timestamp::default(),
        };
        let absence = dialled_at.since(*since);
        *dialled_at + (absence / DIALS_PER_ABSENCE).clamp(DIAL_INTERVAL_MIN, DIAL_INTERVAL_MAX)
    }
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
    /// When that was so.
    pub(crate) noted_at: Timestamp,
    /// How others have stood their audits, and when that was noted.
    pub(crate) standings: Vec<(NodeId, Standing)>,
    pub(crate) standings_at: Timestamp,
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
    noted_at: Timestamp,
    started: Timestamp,
    check_at: Option<Timestamp>,
    is_checking: bool,
    checked_at: Timestamp,
    /// When all were asked last.
    checked_all_at: Timestamp,
    /// How often all were asked since who is here has changed, and checks in a row in which not all agreed.
    checks: u32,
    rechecks: u32,
    /// Holders that have reported in full since the view last changed. Before all have, a shard that nobody reported is not known to be
    /// missing.
    confirmed: HashSet<NodeId>,
    /// Holders that have to report in full, and have not since.
    reporting: HashSet<NodeId>,
    /// What is taken up again when all are back that have vanished.
    before: Option<Before>,
    /// Since when a holder reports what another node looks after as this one sees it: it may know already who is not here any more, and the
    /// other holders have not reported it yet.
    behind_since: Option<Timestamp>,
    /// Stripes that are nobody's loss.
    unnamed: HashSet<StripeId>,
    standings: Standings,
    disproved: Disproved,
    view_changed_at: Timestamp,
    /// When what others look after since is given up, and whether those whose reports are missing were told so.
    hand_over_at: Option<Timestamp>,
    has_reminded: bool,
    /// When it will have been the same for a day where the data of spaces may be; none when it has. What may not be here any more is given up then.
    confined_until: Option<Timestamp>,
    repair_read: u64,
    repair_written: u64,
    damaged: u64,
    /// Who reads and writes in the spaces that have a charter here.
    access: BTreeMap<SpaceId, Admitted>,
    /// See [`Control::rivals`].
    rivals: Vec<Rotation>,
}

impl Control {
    pub(crate) fn new(me: NodeId, roster: Roster, remembered: Remembered, grace: Duration, now: Timestamp) -> Self {
        let Remembered {
            layouts,
            mut absences,
            noted_at,
            standings,
            standings_at,
        } = remembered;
        // While this node was away itself, it cannot say who else was.
        for since in absences.values_mut() {
            let away = u64::try_from(noted_at.since(*since).as_millis()).unwrap_or(0);
            *since = Timestamp::from_millis(now.as_millis().saturating_sub(away));
        }
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
            noted_at: now,
            started: now,
            check_at: Some(now + CHECK_DELAY),
            is_checking: false,
            checked_at: now,
            checked_all_at: now,
            checks: 0,
            rechecks: 0,
            confirmed: HashSet::new(),
            reporting: HashSet::new(),
            before: None,
            behind_since: None,
            hand_over_at: None,
            has_reminded: false,
            unnamed: HashSet::new(),
            standings: Standings::resume(standings, standings_at, now),
            disproved: Disproved::default(),
            view_changed_at: now,
            confined_until: Some(now + grace.saturating_mul(GONE_GRACES)),
            repair_read: 0,
            repair_written: 0,
            damaged: 0,
            access: BTreeMap::new(),
            rivals: Vec::new(),
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
                if let Some(before) = &mut self.before {
                    before.confirmed.remove(&node);
                }
                // Where one is reached again others may be, too.
                self.dial_all_anew();
                if self.roster.user_of(node).is_some() {
                    self.check_within(now, CHECK_DELAY);
                    actions.push(Action::Greet(node));
                }
            }
            Event::Disconnected(node) => {
                self.links.insert(
                    node,
                    Link::Down {
                        since: now,
                        dialled_at: Some(now),
                    },
                );
            }
            Event::Record(record) => self.on_record(now, &record, &mut actions),
            Event::Stored(shards) => self.report(now, shards, Vec::new(), &mut actions),
            Event::Gone(shards) => self.report(now, Vec::new(), shards, &mut actions),
            Event::GivenUp(stripes) => {
                let given_up: HashSet<_> = stripes.iter().collect();
                self.disproved.retain(|stripe| !given_up.contains(&stripe));
                stripes.into_iter().for_each(|stripe| self.planner.forget(stripe));
            }
            Event::Unnamed(stripes) => self.unnamed = stripes,
            Event::Reported {
                from,
                first,
                shards,
                gone,
            } => {
                if first {
                    self.planner.retract_all(from);
                    self.disproved.begin_report(from);
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
            Event::Checked { agreed: true } => self.rechecks = 0,
            Event::Checked { agreed: false } => {
                let delay = RECHECK_DELAY.saturating_mul(1 << self.rechecks.min(16));
                self.rechecks += 1;
                self.check_within(now, delay.min(RECHECK_DELAY_MAX));
            }
            Event::Rested => self.is_checking = false,
            // Whoever calls for it again and again is not asked all the time.
            Event::Open => self.check_within(now, (self.checked_at + CHECK_INTERVAL).since(now).max(CHECK_DELAY)),
            Event::Placed { holder, shard } => {
                self.disproved.remove(holder, shard.shard);
                self.take_report(now, holder, vec![shard], &[]);
            }
            Event::Audited {
                holder,
                outcomes,
                is_probe,
            } => self.on_audited(now, holder, &outcomes, is_probe, &mut actions),
        }
        self.end_doubts(now, &mut actions);
        self.settle(now, &mut actions);
        actions
    }

    fn on_record(&mut self, now: Timestamp, record: &PoolRecord, actions: &mut Vec<Action>) {
        let (members, speakers) = (self.roster.members(), self.roster.speakers().clone());
        let confined = Arc::clone(self.roster.confined());
        let of = match record {
            PoolRecord::State(signed) => Some(node_of(signed.claimed_signer())),
            _ => None,
        };
        let known = of.and_then(|node| self.lasting(node));
        match self.roster.merge(record) {
            Ok(Merged::New) => {
                if let Some(node) = of {
                    self.hear_doubts(now, node, actions);
                }
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
                if *self.roster.speakers() != speakers {
                    actions.push(Action::KeyReplaced);
                }
                if *self.roster.confined() != confined {
                    self.check_within(now, CHECK_DELAY);
                    self.confined_until = Some(now + self.gone_after());
                    actions.push(Action::Confined);
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
                        self.disproved.forget_holder(*gone);
                        if *gone == self.me {
                            actions.push(Action::TakenOut);
                        }
                    }
                    actions.push(Action::SetMembers(new_members));
                    actions.extend(greetings);
                }
            }
            Ok(Merged::Known) | Err(RecordError::UnknownSigner) => {}
            Err(error) => {
                tracing::debug!(%error, "a record is not taken");
                if matches!(error, RecordError::Replaced) {
                    self.note_rival(record);
                }
            }
        }
    }

    /// A rotation that another one came before: of this node's person, it is theirs to make good.
    fn note_rival(&mut self, record: &PoolRecord) {
        let PoolRecord::Rotation(signed) = record else { return };
        let Ok(rival) = signed.open().map(Verified::into_value) else {
            return;
        };
        let is_own = self.roster.owner_of(self.me) == Some(rival.user);
        if !is_own || self.rivals.contains(&rival) {
            return;
        }
        // One that has a key for this machine can be made good: others make room.
        let me = self.me;
        let is_for_me = |rival: &Rotation| {
            rival
                .machines
                .iter()
                .any(|kept| kept.node == me && !kept.seed.is_empty())
        };
        if self.rivals.len() >= RIVALS_MAX {
            let Some(at) = self
                .rivals
                .iter()
                .position(|other| !is_for_me(other))
                .filter(|_| is_for_me(&rival))
            else {
                return;
            };
            self.rivals.remove(at);
        }
        tracing::warn!("two machines of this person have each replaced the key: see `potluck device ls`");
        self.rivals.push(rival);
    }

    /// Rotations of this node's person that replace a key that another one replaces, and whose own key is not replaced, too.
    pub(crate) fn rivals(&self) -> impl Iterator<Item = &Rotation> {
        let speakers = self.roster.speakers();
        let rivals = self.rivals.iter();
        rivals.filter(|rival| speakers.whose(rival.key).generation == 0)
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
    /// puts it, then everywhere else. Of a space that may not be everywhere first all that stand where it may be.
    pub(crate) fn whereabouts(&self, space: Option<SpaceId>, stripe: StripeId, n: u8) -> [Vec<NodeId>; 2] {
        let regions = space.and_then(|space| self.roster.confined().get(&space));
        let homes: HashSet<NodeId> = match regions {
            None => self.layouts.homes(stripe, n).collect(),
            Some(regions) => {
                let view = self.view.within(regions);
                view.nodes
                    .keys()
                    .copied()
                    .filter(|node| !view.is_outside(*node))
                    .collect()
            }
        };
        let (first, others) = self.live_peers().into_iter().partition(|node| homes.contains(node));
        [first, others]
    }

    fn check_within(&mut self, now: Timestamp, delay: Duration) {
        let at = now + delay;
        self.check_at = Some(self.check_at.map_or(at, |known| known.min(at)));
    }

    /// An absent node that says where it is now has not been dialled there yet.
    fn dial_anew(&mut self, node: NodeId) {
        if let Some(Link::Down { dialled_at, .. }) = self.links.get_mut(&node) {
            *dialled_at = None;
        }
    }

    fn dial_all_anew(&mut self) {
        for link in self.links.values_mut() {
            if let Link::Down { since, dialled_at } = link {
                *dialled_at = dialled_at.filter(|at| at.since(*since) < DIAL_INTERVAL_MAX);
            }
        }
    }

    /// When [`Event::Tick`] is due, if nothing happens before.
    pub(crate) fn wake_at(&self, now: Timestamp) -> Timestamp {
        let members = self
            .links
            .iter()
            .filter(|(node, _)| self.roster.user_of(**node).is_some());
        let links = members.filter_map(|(_, link)| match link {
            Link::Up => None,
            Link::Down { since, .. } => {
                let dial_at = link.dial_at().max(now + TICK);
                Some([dial_at, *since + SETTLE, *since + ABSENCE_NOTED])
            }
        });
        let is_noting = !self.absences.is_empty();
        let own = [
            self.checked_all_at + self.check_interval(),
            self.started + ABSENCE_NOTED,
            self.view_changed_at + CHECK_INTERVAL,
            self.view_changed_at + CONFIRM_TIMEOUT,
        ];
        let sometimes = [
            self.check_at,
            self.hand_over_at,
            self.planner.deadline(),
            is_noting.then(|| self.noted_at + ABSENCE_INTERVAL),
            self.standings.next_end(),
            self.confined_until,
        ];
        let all = links.flatten().chain(own).chain(sometimes.into_iter().flatten());
        // What is past was done, or waits for something else.
        all.filter(|at| *at > now).min().unwrap_or(now + CHECK_INTERVAL_MAX)
    }

    fn check_interval(&self) -> Duration {
        CHECK_INTERVAL
            .saturating_mul(1 << (2 * self.checks).min(16))
            .min(CHECK_INTERVAL_MAX)
    }

    /// When who is here has changed last.
    pub(crate) fn view_changed_at(&self) -> Timestamp {
        self.view_changed_at
    }

    /// Who has been away for long, and when that was so.
    pub(crate) fn absences(&self) -> (&Absences, Timestamp) {
        (&self.absences, self.noted_at)
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
        let is_old = !absences.is_empty() && now.since(self.noted_at) >= ABSENCE_INTERVAL;
        let is_news = is_old || absences != self.absences;
        self.absences = absences;
        if is_news {
            self.noted_at = now;
        }
        is_news
    }

    fn track_members(&mut self, now: Timestamp) {
        for (node, _) in self.roster.nodes() {
            if node != self.me {
                self.links.entry(node).or_insert(Link::Down {
                    since: self.absences.get(&node).map_or(now, |since| now.min(*since)),
                    dialled_at: None,
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
            let dial_at = link.dial_at();
            let Link::Down { dialled_at, .. } = link else {
                continue;
            };
            if self.roster.user_of(*node).is_none() {
                continue;
            }
            if now >= dial_at {
                *dialled_at = Some(now);
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
            let (was, is) = (who(&self.view), who(&view));
            if was != is {
                self.check_at = Some(now + CHECK_DELAY);
                self.hand_over_at = self.check_at;
                (self.checks, self.rechecks, self.has_reminded) = (0, 0, false);
                self.behind_since = None;
                self.view_changed_at = now;
                self.reconfirm(was, &is);
            }
            self.view = view;
        }
        if self.note_absences(now) {
            actions.push(Action::SaveAbsences);
        }
        if self.confined_until.is_some_and(|until| now >= until) {
            self.confined_until = None;
            self.check_at = Some(now);
        }
        if self.hand_over_at.is_some_and(|at| now >= at) {
            self.hand_over_at = None;
            self.hand_over();
        }
        let all = now.since(self.checked_all_at) >= self.check_interval();
        if !self.is_checking && (all || self.check_at.is_some_and(|at| now >= at)) {
            self.check_at = None;
            (self.is_checking, self.checked_at) = (true, now);
            if all {
                self.checked_all_at = now;
                self.checks += 1;
            }
            self.hand_over();
            actions.push(Action::CheckReports { all });
        }
        if !self.has_reminded && now.since(self.view_changed_at) >= CHECK_INTERVAL {
            self.has_reminded = true;
            // Who is greeted asks whether all is known that it holds.
            let others = self.unreported().filter(|node| *node != self.me);
            actions.extend(others.map(Action::Greet));
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

    /// Goes on with the holders that have reported in full, where others count now. One that looks after more for a while, as others have vanished, knows of what it looked
    /// after before what it knew; and those who have not seen these vanish do not report anew when they are back.
    fn reconfirm(&mut self, was: Who, is: &Who) {
        let confirmed = mem::take(&mut self.confirmed);
        let before = self.before.take().unwrap_or(Before { who: was, confirmed });
        if before.who == *is {
            self.confirmed = before.confirmed;
            self.confirmed.retain(|holder| !self.reporting.contains(holder));
        } else if is_less(is, &before.who) {
            self.before = Some(before);
        }
    }

    /// Whether all that count have said what they hold, or had the time to. What a doubted one says is not waited for.
    fn may_mend(&self, now: Timestamp) -> bool {
        now.since(self.view_changed_at) >= CONFIRM_TIMEOUT || self.unreported().next().is_none()
    }

    /// Holders that have not reported in full since the view last changed.
    fn unreported(&self) -> impl Iterator<Item = NodeId> {
        let is_awaited = |(node, facts): &(&NodeId, &NodeFacts)| {
            self.view.answers(**node) && !facts.doubted && !self.confirmed.contains(*node)
        };
        self.view.nodes.iter().filter(is_awaited).map(|(node, _)| *node)
    }

    /// Whether a node looks after a stripe, as far as this one knows.
    pub(crate) fn is_steward(&self, stripe: StripeId, node: NodeId) -> bool {
        steward(stripe, &self.view) == Some(node)
    }

    /// Whether a node looks after a stripe, and has for long enough that all know it.
    pub(crate) fn is_sure_of_steward(&self, stripe: StripeId, node: NodeId, now: Timestamp) -> bool {
        now.since(self.view_changed_at) >= CERTAINTY && self.is_steward(stripe, node)
    }

    /// What this node knows of who is here, as one hash.
    pub(crate) fn view_digest(&self) -> Hash {
        Hash::of(&to_canonical(&who(&self.view)))
    }

    /// Compares what a holder has reported with what it says that it holds for us to look after; and whether that is the first time since something changed.
    pub(crate) fn check(&mut self, holder: NodeId, sum: ReportSum, view: Hash) -> (Check, bool) {
        if self.reports_of(holder) != sum {
            self.reporting.insert(holder);
            (Check::Differs, false)
        } else if view == self.view_digest() {
            self.reporting.remove(&holder);
            (Check::Agrees, self.confirmed.insert(holder))
        } else {
            (Check::OtherView, false)
        }
    }

    /// Gives up what another node looks after.
    fn hand_over(&mut self) {
        let elsewhere: Vec<_> = self
            .planner
            .stripes()
            .map(|(stripe, _)| stripe)
            .filter(|stripe| steward(*stripe, &self.view) != Some(self.me))
            .collect();
        for stripe in elsewhere {
            self.planner.forget(stripe);
        }
        let (me, view) = (self.me, &self.view);
        self.disproved.retain(|stripe| steward(stripe, view) == Some(me));
    }

    fn report(&mut self, now: Timestamp, shards: Vec<Reported>, gone: Vec<ShardId>, actions: &mut Vec<Action>) {
        let mut outgoing: BTreeMap<NodeId, (Vec<Reported>, Vec<ShardId>)> = BTreeMap::new();
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
        for reported in shards {
            // A holder whose view is ahead of ours may know sooner that the stripe is ours: it is kept until the next hand-over.
            if self.behind_since.is_none() && steward(reported.shard.stripe, &self.view) != Some(self.me) {
                self.behind_since = Some(now);
            }
            if !self.disproved.is_claimed_again(from, reported.shard) {
                self.planner.report(now, from, reported, is_new);
            }
        }
        for shard in gone {
            self.planner.retract(from, shard.stripe, shard.index);
            self.disproved.remove(from, *shard);
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
        self.disproved.add_to(&mut sum, holder);
        sum
    }
}

/// What decides who looks after a stripe: the members, how much each weighs, and whether it counts.
type Who = Vec<(NodeId, u64, bool)>;

/// What was known before members vanished.
struct Before {
    who: Who,
    /// Holders that had reported in full, and have not been lost sight of since.
    confirmed: HashSet<NodeId>,
}

fn who(view: &View) -> Who {
    view.nodes
        .iter()
        .map(|(node, facts)| (*node, facts.weight, facts.presence == Presence::Live))
        .collect()
}

/// Whether fewer count, and nothing else is different: who counts looks after all that it did.
fn is_less(now: &Who, before: &Who) -> bool {
    let is_so = |((node, weight, counts), (node_before, weight_before, counted)): (
        &(NodeId, u64, bool),
        &(NodeId, u64, bool),
    )| { node == node_before && weight == weight_before && (!counts || *counted) };
    now.len() == before.len() && now.iter().zip(before).all(is_so)
}

#[cfg(test)]
mod tests;
