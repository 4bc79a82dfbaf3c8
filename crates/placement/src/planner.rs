//! The steward's state machine. Holders report what they have; this says what to mend next, how, and why a stripe waits.
//!
//! One stripe is judged by a pure function of its reports and the [`View`]; the planner around it keeps what was reported, judges
//! again what a change touched, and hands out the most endangered first. After a steward died, its successor starts from
//! the holders' reports alone.

use crate::{Domain, Health, Presence, View, health::survives, rank};
use potluck_types::{Geometry, NodeId, Regions, ShardId, SpaceId, StripeId, Timestamp};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Duration,
};

/// What a pool may set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlannerOptions {
    /// How long an absent node is waited for, while another loss can be borne.
    pub grace: Duration,
    /// Stripes under repair at once.
    pub concurrent_max: usize,
    /// How long a stripe whose repair failed is left alone; twice as long after each further failure, seven times at most.
    pub retry_delay: Duration,
    /// How long after the last news of a stripe nothing is done for it: its other shards may be on their way.
    pub quiet: Duration,
    /// The same for a stripe that was never whole: it is being written, perhaps by a narrow way.
    pub writing: Duration,
}

impl Default for PlannerOptions {
    /// Fifteen minutes cover a restart and a router's; eight stripes keep a link busy and memory under 64 MiB.
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(15 * 60),
            concurrent_max: 8,
            retry_delay: Duration::from_secs(5),
            quiet: Duration::from_secs(3),
            writing: Duration::from_secs(30),
        }
    }
}

/// From five seconds to ten minutes: a holder that takes nothing, and does not say that it is full, costs no more than its stripes' reads in that time.
const RETRY_DOUBLINGS_MAX: u32 = 7;

/// Views for one set of regions each that are kept at once: a pool has one or two.
const SCOPES_MAX: usize = 16;

/// One shard that its holder has, as its steward needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported {
    /// Which.
    pub shard: ShardId,
    /// How its stripe is coded.
    pub geometry: Geometry,
    /// Bytes of its payload.
    pub shard_len: u32,
    /// The space that it was stored for; not said by versions before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<SpaceId>,
}

/// Why a stripe that ought to be mended is not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Cause {
    /// Holders are away, and the grace period runs.
    Grace,
    /// The pool has fewer failure domains with room than the stripe has shards: another machine, or space, is needed.
    NoDomain,
    /// The same among the machines of the regions where its space may be.
    NoRegion,
    /// Fewer than *k* shards answer: an absent holder must return.
    TooFewShards,
    /// The last attempt failed; it is tried again shortly.
    Retry,
    /// News of it, or of the pool, came just now; more may follow.
    Settling,
    /// No log names it: it is nobody's yet, or never will be.
    Unnamed,
}

/// What to do for one stripe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mend {
    /// The stripe.
    pub stripe: StripeId,
    /// How it is coded.
    pub geometry: Geometry,
    /// Bytes of a shard's payload.
    pub shard_len: u32,
    /// Where shards can be had, best first: any *k* distinct ones give the others, and a copy is cheaper.
    pub sources: Vec<(NodeId, u8)>,
    /// Shards to make or copy, and where to put them.
    pub place: Vec<(u8, NodeId)>,
    /// Copies that the stripe no longer needs: dropped only when nothing is left to place.
    pub surplus: Vec<(NodeId, u8)>,
}

/// What a stripe is worth, and what it needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// All shards are where they should be.
    Whole,
    /// Something is to be done. `endangered` tells a repair from mere tidying (a move, a surplus copy).
    Needs {
        /// What.
        mend: Mend,
        /// Whether the stripe survives less than it was made for.
        endangered: bool,
    },
    /// Something ought to be done and cannot be, or not yet.
    Waits {
        /// Why.
        cause: Cause,
        /// When to judge again, if time alone may change it.
        until: Option<Timestamp>,
    },
}

/// What is being done for a stripe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// Nothing is to be done.
    Nothing,
    /// It is under repair, or a shard of it is being moved.
    Mending,
    /// It will be, next.
    Queued,
    /// It ought to be, and waits.
    Waiting {
        /// Why.
        cause: Cause,
        /// Until when, if time alone may change it.
        until: Option<Timestamp>,
    },
}

/// How an attempt ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Done: the new holders' own reports will say so.
    Done,
    /// Not done.
    Failed,
    /// Not yet: somebody who has to agree does not see the pool as this node does.
    Early,
    /// No log names the stripe: it is not worth a repair, and nobody's loss.
    Unnamed,
}

/// The state of all stripes that this node looks after.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// How many stripes survive so many losses.
    pub survives: BTreeMap<u8, u64>,
    /// Stripes that cannot be read now.
    pub unreadable: u64,
    /// Stripes that survive less than they were made for.
    pub endangered: u64,
    /// Stripes under repair or move.
    pub mending: u64,
    /// Stripes that will be, next.
    pub queued: u64,
    /// Stripes that wait, by cause.
    pub waiting: BTreeMap<Cause, u64>,
}

/// What is known of one stripe.
#[derive(Clone, Debug)]
struct Record {
    geometry: Geometry,
    shard_len: u32,
    holders: BTreeSet<(NodeId, u8)>,
    /// The space that it is of, as was said first.
    space: Option<SpaceId>,
    /// Holders that say another one, or nothing.
    others: Vec<(NodeId, Option<SpaceId>)>,
    health: Health,
    verdict: Verdict,
    /// When it may be tried again, and why not before.
    retry_at: Option<(Timestamp, Cause)>,
    /// Attempts that failed one after the other.
    failures: u32,
    /// What was done last. If the same is due again at once, it had no effect, and is not done over and over.
    done: Option<Mend>,
    changed_at: Timestamp,
    /// Whether it came into being under this planner's eyes, and was never whole since.
    is_new: bool,
}

impl Record {
    /// No log names it, as far as is known: what would be done for it waits, or is about to be asked after again.
    fn is_unnamed(&self) -> bool {
        let was_unnamed = matches!(self.retry_at, Some((_, Cause::Unnamed)));
        match self.verdict {
            Verdict::Waits { cause, .. } => cause == Cause::Unnamed,
            Verdict::Needs { .. } => was_unnamed,
            Verdict::Whole => false,
        }
    }

    /// The space that most of its holders say it is of.
    fn space(&self) -> Option<SpaceId> {
        if self.others.is_empty() {
            return self.space;
        }
        let mut said = BTreeMap::<SpaceId, usize>::new();
        for (node, _) in &self.holders {
            if let Some(space) = self.said_by(*node) {
                *said.entry(space).or_default() += 1;
            }
        }
        // Of several that as many say, what was said first holds.
        let most = |(space, holders): &(SpaceId, usize)| (*holders, Some(*space) == self.space);
        said.into_iter().max_by_key(most).map(|(space, _)| space)
    }

    /// The space that a holder says it is of.
    fn said_by(&self, holder: NodeId) -> Option<SpaceId> {
        let other = self.others.iter().find(|(other, _)| *other == holder);
        other.map_or(self.space, |(_, space)| *space)
    }

    /// Notes which space a holder says that it is of, if it says; whether that is news.
    fn hear_space(&mut self, from: NodeId, space: Option<SpaceId>) -> bool {
        let before = self.space();
        self.others.retain(|(node, _)| *node != from);
        self.space = self.space.or(space);
        if self.space != space {
            self.others.push((from, space));
        }
        self.space() != before
    }

    fn reported(&self, stripe: StripeId, holder: NodeId, index: u8) -> Reported {
        Reported {
            shard: ShardId { stripe, index },
            geometry: self.geometry,
            shard_len: self.shard_len,
            space: self.said_by(holder),
        }
    }

    /// What was said of its space by nodes that hold nothing of it any more is nothing.
    fn forget_leavers(&mut self) {
        let holders = &self.holders;
        self.others
            .retain(|(other, _)| holders.iter().any(|(node, _)| node == other));
    }

    /// How many losses it survives while who is here is as in this view; none when it cannot be read.
    fn survives(&self, present: &View) -> Option<u8> {
        let counting: Vec<_> = self
            .holders
            .iter()
            .copied()
            .filter(|(node, _)| present.counts(*node))
            .collect();
        survives(self.geometry, &counting, present)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Planner {
    options: PlannerOptions,
    stripes: HashMap<StripeId, Record>,
    dirty: HashSet<StripeId>,
    queue: BTreeSet<(u32, StripeId)>,
    mending: HashSet<StripeId>,
    view: View,
    /// The view for the regions that some spaces may be in.
    scopes: BTreeMap<Regions, View>,
    deadline: Option<Timestamp>,
}

impl Planner {
    /// With nothing to look after yet.
    pub fn new(options: PlannerOptions) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }

    /// A holder says that it has this shard, verified. `is_new` tells whether it has just stored it.
    pub fn report(&mut self, now: Timestamp, from: NodeId, reported: Reported, is_new: bool) {
        let Reported {
            shard: ShardId { stripe, index },
            geometry,
            shard_len,
            space,
        } = reported;
        let record = self.stripes.entry(stripe).or_insert_with(|| Record {
            geometry,
            shard_len,
            holders: BTreeSet::new(),
            space: None,
            others: Vec::new(),
            health: Health::Unreadable {
                have: 0,
                need: geometry.k(),
            },
            verdict: Verdict::Whole,
            retry_at: None,
            failures: 0,
            done: None,
            changed_at: now,
            is_new,
        });
        // A stripe's geometry is bound by its id; one who reports another is wrong about this shard.
        if record.geometry == geometry && index < geometry.n() && record.holders.insert((from, index)) {
            record.changed_at = now;
            // Who stores it may have named it since.
            if matches!(record.retry_at, Some((_, Cause::Unnamed))) {
                (record.retry_at, record.failures) = (None, 0);
            }
            self.dirty.insert(stripe);
        }
        if record.holders.contains(&(from, index)) && record.hear_space(from, space) {
            self.dirty.insert(stripe);
        }
    }

    /// A holder has this shard no more.
    pub fn retract(&mut self, from: NodeId, stripe: StripeId, index: u8) {
        if let Some(record) = self.stripes.get_mut(&stripe)
            && record.holders.remove(&(from, index))
        {
            record.forget_leavers();
            self.dirty.insert(stripe);
            self.drop_if_empty(stripe);
        }
    }

    /// Forgets all that a holder reported: a full report of it follows, or it is no member any more.
    pub fn retract_all(&mut self, from: NodeId) {
        let touched: Vec<_> = self
            .stripes
            .iter_mut()
            .filter_map(|(stripe, record)| {
                let before = record.holders.len();
                record.holders.retain(|(node, _)| *node != from);
                record.forget_leavers();
                (record.holders.len() != before).then_some(*stripe)
            })
            .collect();
        for stripe in touched {
            self.dirty.insert(stripe);
            self.drop_if_empty(stripe);
        }
    }

    /// The stripe is deleted, or another node looks after it now.
    pub fn forget(&mut self, stripe: StripeId) {
        self.stripes.remove(&stripe);
        self.dirty.remove(&stripe);
        self.mending.remove(&stripe);
        self.queue.retain(|(_, queued)| *queued != stripe);
    }

    fn drop_if_empty(&mut self, stripe: StripeId) {
        if self
            .stripes
            .get(&stripe)
            .is_some_and(|record| record.holders.is_empty())
        {
            self.forget(stripe);
        }
    }

    /// The stripes that this planner knows of, and what each holder reported.
    pub fn stripes(&self) -> impl Iterator<Item = (StripeId, impl Iterator<Item = (NodeId, u8)>)> {
        self.stripes
            .iter()
            .map(|(stripe, record)| (*stripe, record.holders.iter().copied()))
    }

    /// All shards that were reported, and by whom.
    pub fn claims(&self) -> impl Iterator<Item = (NodeId, Reported)> {
        self.stripes.iter().flat_map(|(stripe, record)| {
            let claim = |(node, index): &(NodeId, u8)| (*node, record.reported(*stripe, *node, *index));
            record.holders.iter().map(claim)
        })
    }

    /// What a holder has reported of a shard.
    pub fn claim(&self, holder: NodeId, shard: ShardId) -> Option<Reported> {
        let ShardId { stripe, index } = shard;
        let record = self.stripes.get(&stripe)?;
        let is_held = record.holders.contains(&(holder, index));
        is_held.then(|| record.reported(stripe, holder, index))
    }

    /// How a stripe is coded, and how long its shards are.
    pub fn coding(&self, stripe: StripeId) -> Option<(Geometry, u32)> {
        let record = self.stripes.get(&stripe)?;
        Some((record.geometry, record.shard_len))
    }

    /// What is being done for a stripe.
    pub fn work(&self, stripe: StripeId) -> Option<Work> {
        let record = self.stripes.get(&stripe)?;
        Some(match record.verdict {
            _ if self.mending.contains(&stripe) => Work::Mending,
            Verdict::Whole => Work::Nothing,
            Verdict::Needs { .. } => Work::Queued,
            Verdict::Waits { cause, until } => Work::Waiting { cause, until },
        })
    }

    /// Who reported shards of a stripe.
    pub fn holders(&self, stripe: StripeId) -> impl Iterator<Item = (NodeId, u8)> {
        self.stripes
            .get(&stripe)
            .into_iter()
            .flat_map(|record| record.holders.iter().copied())
    }

    /// What a stripe is worth and needs, as last judged.
    pub fn verdict(&self, stripe: StripeId) -> Option<(Health, &Verdict)> {
        self.stripes.get(&stripe).map(|record| (record.health, &record.verdict))
    }

    /// What a stripe is worth in a view that may know already what is not yet planned for: how many losses it survives, or none when it cannot be
    /// read. None at all when nobody has reported a shard of it.
    pub fn survives(&self, stripe: StripeId, present: &View) -> Option<Option<u8>> {
        self.stripes.get(&stripe).map(|record| record.survives(present))
    }

    /// The next thing to do, if any may begin now. The caller does it and then calls [`Planner::finished`].
    pub fn next(&mut self, now: Timestamp, view: &View) -> Option<Mend> {
        self.refresh(now, view);
        if self.mending.len() >= self.options.concurrent_max {
            return None;
        }
        let (_, stripe) = self.queue.pop_first()?;
        self.mending.insert(stripe);
        let record = self.stripes.get_mut(&stripe)?;
        match &record.verdict {
            Verdict::Needs { mend, .. } => {
                record.done = Some(mend.clone());
                Some(mend.clone())
            }
            Verdict::Whole | Verdict::Waits { .. } => unreachable!("only what needs mending is queued"),
        }
    }

    /// An attempt ended.
    pub fn finished(&mut self, stripe: StripeId, outcome: Outcome, now: Timestamp) {
        self.mending.remove(&stripe);
        if let Some(record) = self.stripes.get_mut(&stripe) {
            // Also after a success: the reports of the new holders are under way, and come before this.
            let was_unnamed = matches!(record.retry_at, Some((_, Cause::Unnamed)));
            if was_unnamed != (outcome == Outcome::Unnamed) {
                record.failures = 0;
            }
            let delay = self.options.retry_delay.saturating_mul(1 << record.failures);
            record.failures = match outcome {
                Outcome::Failed | Outcome::Unnamed => RETRY_DOUBLINGS_MAX.min(record.failures + 1),
                Outcome::Done | Outcome::Early => 0,
            };
            record.retry_at = match outcome {
                Outcome::Done => None,
                Outcome::Failed => Some((now + delay, Cause::Retry)),
                Outcome::Early => Some((now + self.options.retry_delay, Cause::Settling)),
                // An upload may be under way, which names it within seconds, or later, or never.
                Outcome::Unnamed => Some((now + delay, Cause::Unnamed)),
            };
            self.dirty.insert(stripe);
        }
    }

    /// When [`Planner::next`] may answer otherwise although nothing was reported.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.deadline
    }

    /// Counts, after judging what changed: what is planned by one view of the pool, and what stripes are worth in another, which
    /// may know already what is not yet acted upon.
    pub fn summary(&mut self, now: Timestamp, view: &View, present: &View) -> Summary {
        self.refresh(now, view);
        let mut summary = Summary {
            mending: self.mending.len() as u64,
            queued: self.queue.len() as u64,
            ..Summary::default()
        };
        for record in self.stripes.values() {
            match record.survives(present) {
                _ if record.is_unnamed() => {}
                None => summary.unreadable += 1,
                Some(losses) => {
                    *summary.survives.entry(losses).or_default() += 1;
                    summary.endangered += u64::from(losses < record.geometry.m());
                }
            }
            if let Verdict::Waits { cause, .. } = record.verdict {
                *summary.waiting.entry(cause).or_default() += 1;
            }
        }
        summary
    }

    fn refresh(&mut self, now: Timestamp, view: &View) {
        let changed = self.view != *view;
        if changed {
            self.view.clone_from(view);
            self.scopes.clear();
            // Who comes may be whom it takes.
            let is_refused = |record: &&mut Record| record.failures > 0 && !record.is_unnamed();
            for record in self.stripes.values_mut().filter(is_refused) {
                record.failures = 0;
                record.retry_at = Some((now, Cause::Retry));
            }
        }
        if changed || self.deadline.is_some_and(|deadline| now >= deadline) {
            self.deadline = None;
            self.dirty.extend(self.stripes.keys());
        }
        for stripe in std::mem::take(&mut self.dirty) {
            let Some(record) = self.stripes.get_mut(&stripe) else {
                continue;
            };
            self.queue.remove(&(urgency(record), stripe));
            let regions = record.space().and_then(|space| view.confined.get(&space));
            let scope = regions.map(|regions| {
                if self.scopes.len() >= SCOPES_MAX && !self.scopes.contains_key(regions) {
                    self.scopes.clear();
                }
                let scope = self.scopes.entry(regions.clone());
                &*scope.or_insert_with(|| view.within(regions))
            });
            (record.health, record.verdict) = judge(stripe, record, (view, scope), now, &self.options);
            record.is_new &= record.health != Health::Survives(record.geometry.m());
            if let (Verdict::Needs { mend, .. }, Some(done), None) = (&record.verdict, &record.done, record.retry_at)
                && mend == done
                && !self.mending.contains(&stripe)
            {
                let until = now + self.options.retry_delay;
                record.retry_at = Some((until, Cause::Settling));
                record.verdict = Verdict::Waits {
                    cause: Cause::Settling,
                    until: Some(until),
                };
            }
            match &record.verdict {
                Verdict::Needs { .. } if !self.mending.contains(&stripe) => {
                    self.queue.insert((urgency(record), stripe));
                }
                Verdict::Waits { until: Some(until), .. } => {
                    self.deadline = Some(self.deadline.map_or(*until, |deadline| deadline.min(*until)));
                }
                _ => {}
            }
        }
    }
}

/// Smaller is first: repairs by the losses that remain, then moves and surplus copies.
fn urgency(record: &Record) -> u32 {
    match (&record.verdict, record.health) {
        (Verdict::Needs { endangered: true, .. }, Health::Unreadable { .. }) => 0,
        (Verdict::Needs { endangered: true, .. }, Health::Survives(losses)) => 1 + u32::from(losses),
        _ => 1000,
    }
}

/// What a stripe is worth and needs: a pure function of its reports and the view, and of the view for the regions that it may be in, if not in all. Also what is where it may
/// not be is there.
fn judge(
    stripe: StripeId,
    record: &Record,
    (whole, scope): (&View, Option<&View>),
    now: Timestamp,
    options: &PlannerOptions,
) -> (Health, Verdict) {
    let geometry = record.geometry;
    let view = scope.unwrap_or(whole);
    let holders = || record.holders.iter().copied();
    let counting: Vec<_> = holders().filter(|(node, _)| view.counts(*node)).collect();
    let outside: Vec<_> = holders()
        .filter(|(node, _)| view.is_outside(*node) && view.answers(*node))
        .collect();
    let sources: Vec<_> = holders().filter(|(node, _)| view.answers(*node)).collect();
    let available = sources.iter().map(|(_, index)| index).collect::<BTreeSet<_>>().len();
    let health = match record.survives(whole) {
        Some(losses) => Health::Survives(losses),
        None => Health::Unreadable {
            have: u8::try_from(available).expect("at most 20 shards"),
            need: geometry.k(),
        },
    };
    let order = rank(stripe, view);
    let kept = keep(&order, &counting, view);
    let missing: Vec<u8> = (0..geometry.n())
        .filter(|index| !kept.iter().any(|(_, held)| held == index))
        .collect();
    let mend = |place, surplus| Mend {
        stripe,
        geometry,
        shard_len: record.shard_len,
        sources: sources.clone(),
        place,
        surplus,
    };
    if let Some((until, cause)) = record.retry_at.filter(|(at, _)| now < *at) {
        return (
            health,
            Verdict::Waits {
                cause,
                until: Some(until),
            },
        );
    }
    let quiet = if record.is_new { options.writing } else { options.quiet };
    let quiet_until = record.changed_at + quiet;
    if now < quiet_until
        && now >= record.changed_at
        && !(missing.is_empty() && counting.len() == kept.len() && outside.is_empty())
    {
        return (
            health,
            Verdict::Waits {
                cause: Cause::Settling,
                until: Some(quiet_until),
            },
        );
    }
    if missing.is_empty() {
        let unneeded = counting.iter().filter(|held| !kept.contains(held));
        let surplus: Vec<_> = unneeded.chain(&outside).copied().collect();
        let place: Vec<_> = if surplus.is_empty() {
            better(&order, &kept, view, now, options)
        } else {
            Vec::new()
        };
        let verdict = if surplus.is_empty() && place.is_empty() {
            Verdict::Whole
        } else {
            Verdict::Needs {
                mend: mend(place, surplus),
                endangered: false,
            }
        };
        return (health, verdict);
    }
    if available < usize::from(geometry.k()) {
        return (
            health,
            Verdict::Waits {
                cause: Cause::TooFewShards,
                until: None,
            },
        );
    }
    let spare = matches!(health, Health::Survives(losses) if losses >= 1);
    if let Some(until) = grace_end(&record.holders, view, now, options).filter(|_| spare) {
        return (
            health,
            Verdict::Waits {
                cause: Cause::Grace,
                until: Some(until),
            },
        );
    }
    let place: Vec<_> = missing.into_iter().zip(targets(&order, &kept, view)).collect();
    if place.is_empty() {
        (
            health,
            Verdict::Waits {
                cause: scope.map_or(Cause::NoDomain, |_| Cause::NoRegion),
                until: None,
            },
        )
    } else {
        (
            health,
            Verdict::Needs {
                mend: mend(place, Vec::new()),
                endangered: true,
            },
        )
    }
}

/// One holder for each shard, each in a domain of its own: what health rests on. As many shards as possible are kept, by
/// the domains of the best ranked holders (one that holds nothing lends its domain no rank, or what was moved to a better place would be moved back): a maximum matching of domains and shards, grown by augmenting paths (Kuhn, 1955), which
/// never drops a domain once it has one.
fn keep(order: &[NodeId], counting: &[(NodeId, u8)], view: &View) -> Vec<(NodeId, u8)> {
    let mut held: Vec<(Domain, Vec<(NodeId, u8)>)> = Vec::new();
    for node in order {
        let mut shards = counting.iter().copied().filter(|(holder, _)| holder == node).peekable();
        if shards.peek().is_none() {
            continue;
        }
        let domain = view.domain(*node);
        match held.iter_mut().find(|(other, _)| *other == domain) {
            Some((_, together)) => together.extend(shards),
            None => held.push((domain, shards.collect())),
        }
    }
    let held: Vec<_> = held.into_iter().map(|(_, shards)| shards).collect();
    let mut kept_by: BTreeMap<u8, (usize, NodeId)> = BTreeMap::new();
    for domain in 0..held.len() {
        augment(domain, &held, &mut kept_by, &mut BTreeSet::new());
    }
    let mut kept: Vec<_> = kept_by
        .into_iter()
        .map(|(index, (domain, node))| (domain, node, index))
        .collect();
    kept.sort_unstable();
    kept.into_iter().map(|(_, node, index)| (node, index)).collect()
}

/// Finds a shard for a domain, asking others to take another one instead. At most 20 deep: each step uses up a shard.
fn augment(
    domain: usize,
    held: &[Vec<(NodeId, u8)>],
    kept_by: &mut BTreeMap<u8, (usize, NodeId)>,
    tried: &mut BTreeSet<u8>,
) -> bool {
    for (node, index) in &held[domain] {
        if !tried.insert(*index) {
            continue;
        }
        let free = match kept_by.get(index) {
            None => true,
            Some((other, _)) => augment(*other, held, kept_by, tried),
        };
        if free {
            kept_by.insert(*index, (domain, *node));
            return true;
        }
    }
    false
}

/// Where missing shards go: the best ranked that take one, in domains that keep none.
fn targets<'a>(order: &'a [NodeId], kept: &'a [(NodeId, u8)], view: &'a View) -> impl Iterator<Item = NodeId> + 'a {
    let mut used: BTreeSet<_> = kept.iter().map(|(node, _)| view.domain(*node)).collect();
    order
        .iter()
        .copied()
        .filter(move |node| view.takes(*node) && used.insert(view.domain(*node)))
}

/// For a whole stripe: the move that brings it nearest to its place in the order, if one is due. A node that is
/// away for less than the grace period keeps its place, so that a restart moves nothing.
fn better(
    order: &[NodeId],
    kept: &[(NodeId, u8)],
    view: &View,
    now: Timestamp,
    options: &PlannerOptions,
) -> Vec<(u8, NodeId)> {
    let expected = |node: &NodeId| match view.nodes[node].presence {
        Presence::Away { since } => now.since(since) < options.grace,
        _ => view.takes(*node) || kept.iter().any(|(holder, _)| holder == node),
    };
    let mut domains = BTreeSet::new();
    let ideal: Vec<_> = order
        .iter()
        .copied()
        .filter(expected)
        .filter(|node| domains.insert(view.domain(*node)))
        .take(kept.len())
        .collect();
    let misplaced = kept.iter().rev().find(|(node, _)| !ideal.contains(node));
    let vacant = ideal.iter().copied().find(|node| {
        view.takes(*node)
            && !kept.iter().any(|(holder, _)| holder == node)
            && !kept.iter().any(|(holder, _)| {
                view.domain(*holder) == view.domain(*node) && Some(holder) != misplaced.map(|(node, _)| node)
            })
    });
    misplaced
        .zip(vacant)
        .map(|((_, index), node)| (*index, node))
        .into_iter()
        .collect()
}

/// When the last of the absent holders that may still be waited for has been away for the grace period.
fn grace_end(
    holders: &BTreeSet<(NodeId, u8)>,
    view: &View,
    now: Timestamp,
    options: &PlannerOptions,
) -> Option<Timestamp> {
    holders
        .iter()
        .filter_map(|(node, _)| match view.nodes.get(node)?.presence {
            Presence::Away { .. } if view.is_outside(*node) => None,
            Presence::Away { since } => Some(since + options.grace),
            _ => None,
        })
        .filter(|end| *end > now)
        .min()
}

#[cfg(test)]
mod tests;
