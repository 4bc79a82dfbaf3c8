//! A small pool in memory executes what the planner says; disasters read as scripts.

use super::*;
use crate::{NodeFacts, geometry};
use potluck_types::{Hash, Region};
use proptest::prelude::*;
use std::sync::Arc;

fn id(i: u8) -> NodeId {
    NodeId::from_bytes([i; 32])
}

struct Pool {
    view: View,
    disks: BTreeMap<NodeId, BTreeSet<(StripeId, u8)>>,
    planner: Planner,
    geometry: Geometry,
    now: Timestamp,
    mends: u64,
}

const SHARD_LEN: u32 = 1000;
const SPACE: SpaceId = SpaceId::from_bytes([7; 32]);

impl Pool {
    fn new(nodes: u8, zones: u8, stripes: u32) -> Self {
        let facts = |i: u8| NodeFacts::new(Domain::Zone(format!("z{}", i % zones).parse().unwrap()), 1_000);
        let view = View {
            nodes: (0..nodes).map(|i| (id(i), facts(i))).collect(),
            ..View::default()
        };
        let geometry = geometry(zones.into(), crate::default_survive(zones.into())).unwrap();
        let mut pool = Self {
            view,
            disks: (0..nodes).map(|i| (id(i), BTreeSet::new())).collect(),
            planner: Planner::new(PlannerOptions {
                concurrent_max: 3,
                quiet: Duration::ZERO,
                ..PlannerOptions::default()
            }),
            geometry,
            now: Timestamp::from_millis(1_000_000_000),
            mends: 0,
        };
        for i in 0..stripes {
            let stripe = StripeId::from_bytes(*Hash::of(&i.to_le_bytes()).as_bytes());
            for (index, node) in rank(stripe, &pool.view)
                .into_iter()
                .take(geometry.n().into())
                .enumerate()
            {
                pool.store(node, stripe, index as u8);
            }
        }
        pool
    }

    fn store(&mut self, node: NodeId, stripe: StripeId, index: u8) {
        self.disks.get_mut(&node).unwrap().insert((stripe, index));
        let reported = self.reported(stripe, index);
        self.planner.report(self.now, node, reported, false);
    }

    fn reported(&self, stripe: StripeId, index: u8) -> Reported {
        Reported {
            shard: ShardId { stripe, index },
            geometry: self.geometry,
            shard_len: SHARD_LEN,
            space: Some(SPACE),
        }
    }

    fn set(&mut self, i: u8, presence: Presence) {
        self.view.nodes.get_mut(&id(i)).unwrap().presence = presence;
    }

    fn kill(&mut self, i: u8) {
        self.set(i, Presence::Away { since: self.now });
    }

    /// These nodes stand in one region, where the data of a space is to be from now on.
    fn confine(&mut self, space: SpaceId, inside: std::ops::Range<u8>) {
        let region: Region = "eu".parse().unwrap();
        for i in inside {
            self.view.nodes.get_mut(&id(i)).unwrap().region = Some(region.clone());
        }
        self.view.confined = Arc::new([(space, [region].into())].into());
    }

    /// Shards on nodes that do not stand there.
    fn outside(&self, inside: std::ops::Range<u8>) -> usize {
        let outside = self
            .disks
            .iter()
            .filter(|(node, _)| !inside.clone().any(|i| id(i) == **node));
        outside.map(|(_, disk)| disk.len()).sum()
    }

    fn pass(&mut self, minutes: u64) {
        self.now = self.now + Duration::from_secs(60 * minutes);
    }

    /// Does what the planner says until it has nothing more to say.
    fn run(&mut self) {
        for _ in 0..100_000 {
            let Some(mend) = self.planner.next(self.now, &self.view) else {
                return;
            };
            self.mends += 1;
            self.execute(&mend);
            self.planner.finished(mend.stripe, Outcome::Done, self.now);
        }
        panic!("the planner never comes to rest");
    }

    fn execute(&mut self, mend: &Mend) {
        let at_hand: BTreeSet<u8> = mend
            .sources
            .iter()
            .filter(|(node, index)| self.disks[node].contains(&(mend.stripe, *index)) && self.view.answers(*node))
            .map(|(_, index)| *index)
            .collect();
        for (index, node) in &mend.place {
            assert!(
                at_hand.len() >= mend.geometry.k().into() || at_hand.contains(index),
                "made of nothing"
            );
            assert!(self.view.takes(*node), "given to one that takes none");
            self.store(*node, mend.stripe, *index);
        }
        if mend.place.is_empty() {
            for (node, index) in &mend.surplus {
                self.disks.get_mut(node).unwrap().remove(&(mend.stripe, *index));
                self.planner.retract(*node, mend.stripe, *index);
            }
        }
    }

    fn summary(&mut self) -> Summary {
        self.planner.summary(self.now, &self.view, &self.view)
    }

    #[track_caller]
    fn all_survive(&mut self, losses: u8) {
        let summary = self.summary();
        assert_eq!(
            summary.survives.keys().copied().collect::<Vec<_>>(),
            [losses],
            "{summary:?}"
        );
        assert_eq!(summary.unreadable, 0);
    }
}

#[test]
fn a_healthy_pool_is_left_alone() {
    let mut pool = Pool::new(6, 6, 100);
    pool.run();
    pool.all_survive(2);
    assert_eq!(pool.mends, 0);
}

#[test]
fn one_lost_is_waited_for_then_replaced() {
    let mut pool = Pool::new(6, 6, 100);
    pool.kill(0);
    pool.run();
    assert_eq!(pool.mends, 0, "one more loss can be borne: it may come back");
    assert!(pool.summary().waiting.contains_key(&Cause::Grace));
    assert_eq!(pool.planner.deadline(), Some(pool.now + Duration::from_secs(15 * 60)));
    pool.pass(16);
    pool.run();
    pool.all_survive(2);
}

#[test]
fn one_that_returns_in_time_costs_nothing() {
    let mut pool = Pool::new(6, 6, 100);
    pool.kill(0);
    pool.run();
    pool.pass(10);
    pool.set(0, Presence::Live);
    pool.pass(10);
    pool.run();
    pool.all_survive(2);
    assert_eq!(pool.mends, 0);
}

#[test]
fn the_most_endangered_do_not_wait() {
    let mut pool = Pool::new(12, 12, 100);
    pool.kill(0);
    pool.kill(1);
    let before = pool.summary().survives;
    assert!(before.contains_key(&0));
    pool.run();
    assert!(
        !pool.summary().survives.contains_key(&0),
        "those that bear no more loss are mended at once"
    );
    assert!(
        pool.summary().survives.contains_key(&1),
        "the others wait for the grace period"
    );
    pool.pass(16);
    pool.run();
    pool.all_survive(2);
}

#[test]
fn one_that_returns_late_gives_its_copies_back() {
    let mut pool = Pool::new(6, 6, 100);
    pool.kill(0);
    pool.pass(16);
    pool.run();
    pool.set(0, Presence::Live);
    pool.run();
    pool.all_survive(2);
    let copies: usize = pool.disks.values().map(BTreeSet::len).sum();
    assert_eq!(copies, 100 * usize::from(pool.geometry.n()), "no copy is left over");
}

#[test]
fn too_few_machines_is_said_and_waited_for() {
    let mut pool = Pool::new(6, 6, 100);
    pool.kill(0);
    pool.kill(1);
    pool.pass(16);
    pool.run();
    assert!(pool.summary().waiting.contains_key(&Cause::NoDomain));
    assert_eq!(pool.summary().unreadable, 0);
    pool.all_survive(1);
    pool.set(1, Presence::Live);
    pool.run();
    pool.all_survive(2);
}

#[test]
fn more_lost_than_borne_is_said_and_nothing_is_invented() {
    let mut pool = Pool::new(6, 6, 50);
    for i in 0..4 {
        pool.kill(i);
    }
    pool.run();
    let summary = pool.summary();
    assert!(summary.unreadable > 0 && summary.waiting.contains_key(&Cause::TooFewShards));
    for i in 0..4 {
        pool.set(i, Presence::Live);
    }
    pool.run();
    pool.all_survive(2);
}

#[test]
fn a_leaving_node_is_drained() {
    let mut pool = Pool::new(6, 6, 100);
    pool.set(0, Presence::Leaving);
    pool.run();
    pool.all_survive(2);
    pool.view.nodes.remove(&id(0));
    pool.planner.retract_all(id(0));
    pool.run();
    pool.all_survive(2);
}

#[test]
fn a_new_node_takes_its_share_and_then_there_is_rest() {
    let mut pool = Pool::new(7, 7, 200);
    let newcomer = pool.view.nodes.remove(&id(6)).unwrap();
    let orphans = pool.disks.insert(id(6), BTreeSet::new()).unwrap();
    pool.planner.retract_all(id(6));
    pool.pass(60);
    pool.run();
    pool.all_survive(2);
    pool.view.nodes.insert(id(6), newcomer);
    pool.run();
    pool.all_survive(2);
    assert!(
        pool.disks[&id(6)].len() * 2 > orphans.len(),
        "{} of {}",
        pool.disks[&id(6)].len(),
        orphans.len()
    );
    let settled = pool.mends;
    pool.run();
    assert_eq!(pool.mends, settled);
}

#[test]
fn a_zone_is_one_loss() {
    let mut pool = Pool::new(9, 3, 100);
    pool.all_survive(1);
    for i in [0, 3, 6] {
        pool.kill(i);
    }
    pool.pass(16);
    pool.run();
    pool.all_survive(0);
    assert!(
        pool.summary().waiting.contains_key(&Cause::NoDomain),
        "two shards in one zone would not help"
    );
}

/// A pool of six, and a stripe that is being mended as a holder of it has died.
fn mending() -> (Pool, StripeId, u8) {
    let mut pool = Pool::new(6, 6, 1);
    let (stripe, holder) = {
        let (stripe, mut holders) = pool.planner.stripes().next().unwrap();
        (stripe, holders.next().unwrap().0.as_bytes()[0])
    };
    pool.kill(holder);
    pool.pass(16);
    let mend = pool.planner.next(pool.now, &pool.view).unwrap();
    assert_eq!(mend.stripe, stripe);
    (pool, stripe, holder)
}

#[test]
fn a_failed_attempt_is_tried_again_later() {
    let (mut pool, stripe, holder) = mending();
    pool.planner.finished(stripe, Outcome::Failed, pool.now);
    assert_eq!(pool.planner.next(pool.now, &pool.view), None);
    pool.now = pool.now + Duration::from_secs(6);
    assert!(pool.planner.next(pool.now, &pool.view).is_some());
    // One that keeps failing is left alone for longer and longer: trying costs the reading of its other shards.
    let begun = pool.now;
    let mut attempts = 1;
    while pool.now.since(begun) < Duration::from_secs(3600) {
        pool.planner.finished(stripe, Outcome::Failed, pool.now);
        while pool.planner.next(pool.now, &pool.view).is_none() {
            pool.now = pool.now + Duration::from_secs(1);
        }
        attempts += 1;
    }
    assert!((10..=14).contains(&attempts), "{attempts} attempts in an hour");
    // Until somebody comes or goes.
    pool.planner.finished(stripe, Outcome::Failed, pool.now);
    assert_eq!(pool.planner.next(pool.now, &pool.view), None);
    pool.set(holder, Presence::Live);
    assert!(!pool.summary().waiting.contains_key(&Cause::Retry));
}

/// An upload names its stripes when it ends. What it could not place well is looked at again soon, and then more and more rarely.
#[test]
fn what_no_log_names_is_looked_at_again_soon() {
    let (mut pool, stripe, holder) = mending();
    let begun = pool.now;
    let mut waits = Vec::new();
    while pool.now.since(begun) < Duration::from_secs(3600) {
        let asked = pool.now;
        pool.planner.finished(stripe, Outcome::Unnamed, pool.now);
        let summary = pool.summary();
        assert_eq!(
            (summary.waiting.get(&Cause::Unnamed), summary.endangered),
            (Some(&1), 0)
        );
        while pool.planner.next(pool.now, &pool.view).is_none() {
            pool.now = pool.now + Duration::from_secs(1);
        }
        waits.push(pool.now.since(asked).as_secs());
    }
    assert_eq!(waits[..4], [5, 10, 20, 40]);
    assert_eq!(waits.last(), Some(&640));
    // Who comes and goes does not make it anybody's.
    pool.planner.finished(stripe, Outcome::Unnamed, pool.now);
    let other = (0..6).find(|i| *i != holder).unwrap();
    pool.kill(other);
    let summary = pool.summary();
    assert_eq!(
        (summary.waiting.get(&Cause::Unnamed), summary.endangered),
        (Some(&1), 0)
    );
    // What is whole again counts, and what then waits for something else does, too.
    for node in [holder, other] {
        pool.set(node, Presence::Live);
    }
    pool.pass(11);
    pool.all_survive(2);
    pool.kill(other);
    pool.all_survive(1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes and goes, in any order: no more than *f* domains are away at once, so nothing becomes
    /// unreadable; the planner comes to rest each time; when all are back, all is whole, with no copy left over.
    #[test]
    fn churn_loses_nothing_and_settles(steps in prop::collection::vec((0u8..9, 0u64..20), 1..25)) {
        let mut pool = Pool::new(9, 9, 40);
        for (i, minutes) in steps {
            let away: Vec<_> = pool.view.nodes.iter().filter(|(_, f)| f.presence != Presence::Live).map(|(n, _)| *n).collect();
            match pool.view.nodes[&id(i)].presence {
                Presence::Live if away.len() < 2 => pool.kill(i),
                Presence::Live => {}
                _ => pool.set(i, Presence::Live),
            }
            pool.run();
            prop_assert_eq!(pool.summary().unreadable, 0);
            pool.pass(minutes);
            pool.run();
            prop_assert_eq!(pool.summary().unreadable, 0);
        }
        for i in 0..9 {
            pool.set(i, Presence::Live);
        }
        pool.pass(60);
        pool.run();
        pool.all_survive(2);
        let copies: usize = pool.disks.values().map(BTreeSet::len).sum();
        prop_assert_eq!(copies, 40 * usize::from(pool.geometry.n()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A full machine that is first in a stripe's order lent its zone its rank: a shard that was moved elsewhere was surplus there, was dropped, and moved again, as
    /// often as a line could carry it. Whoever is full or away in a zone with others: the planner comes to rest, by few moves.
    #[test]
    fn nothing_is_moved_to_and_fro_between_zones(steps in prop::collection::vec((0u8..12, 0u8..3), 1..20)) {
        let mut pool = Pool::new(12, 6, 30);
        for (i, what) in steps {
            let facts = pool.view.nodes.get_mut(&id(i)).unwrap();
            match what {
                0 => facts.full = !facts.full,
                1 => facts.presence = Presence::Live,
                _ => facts.presence = Presence::Away { since: pool.now },
            }
            let before = pool.mends;
            pool.pass(20);
            pool.run();
            prop_assert!(pool.mends - before <= 30 * 10, "{} moves of 30 stripes", pool.mends - before);
        }
    }
}

#[test]
fn a_stripe_that_is_being_written_is_given_time_until_it_was_whole_once() {
    let mut pool = Pool::new(4, 4, 0);
    let (quiet, writing) = (Duration::from_secs(3), Duration::from_secs(30));
    pool.planner = Planner::new(PlannerOptions {
        quiet,
        writing,
        ..PlannerOptions::default()
    });
    let stripe = StripeId::from_bytes([7; 32]);
    let order = rank(stripe, &pool.view);
    let n = usize::from(pool.geometry.n());
    let report = |pool: &mut Pool, number: usize| {
        let reported = pool.reported(stripe, number as u8);
        pool.planner.report(pool.now, order[number], reported, true);
    };
    (0..n - 1).for_each(|number| report(&mut pool, number));
    pool.now = pool.now + quiet;
    assert_eq!(pool.planner.next(pool.now, &pool.view), None);
    report(&mut pool, n - 1);
    assert_eq!(pool.planner.next(pool.now, &pool.view), None);
    pool.planner.retract(order[0], stripe, 0);
    pool.now = pool.now + quiet;
    assert!(pool.planner.next(pool.now, &pool.view).is_some());
}

#[test]
fn a_stripe_whose_writing_broke_off_is_mended_in_the_end() {
    let mut pool = Pool::new(4, 4, 0);
    let stripe = StripeId::from_bytes([7; 32]);
    let first = rank(stripe, &pool.view)[0];
    let reported = Reported {
        geometry: Geometry::new(1, 2).unwrap(),
        ..pool.reported(stripe, 0)
    };
    pool.planner.report(pool.now, first, reported, true);
    pool.pass(1);
    assert!(pool.planner.next(pool.now, &pool.view).is_some());
}

#[test]
fn what_may_be_in_one_region_only_is_brought_there_and_stays_there() {
    let mut pool = Pool::new(12, 12, 60);
    let inside = 0..pool.geometry.n() + 1;
    pool.confine(SPACE, inside.clone());
    assert!(pool.outside(inside.clone()) > 0);
    pool.run();
    pool.all_survive(2);
    assert_eq!(pool.outside(inside.clone()), 0);
    // One of them is lost: a machine elsewhere would be at hand.
    pool.kill(0);
    pool.pass(16);
    pool.run();
    pool.all_survive(2);
    assert_eq!(pool.outside(inside), 0);
    assert!(
        pool.planner
            .stripes()
            .all(|(_, holders)| holders.count() >= pool.geometry.n().into())
    );
}

#[test]
fn what_a_region_has_no_machines_for_waits_and_is_kept_where_it_is() {
    let mut pool = Pool::new(6, 6, 60);
    let (before, inside) = (pool.geometry.n() - 1, 0..3);
    pool.confine(SPACE, inside.clone());
    pool.run();
    pool.all_survive(2);
    assert_eq!(pool.summary().waiting.keys().collect::<Vec<_>>(), [&Cause::NoRegion]);
    assert!(pool.outside(inside.clone()) > 0 && before > 3);
    // What is elsewhere is not mended there.
    pool.kill(5);
    pool.pass(16);
    let copies = pool.outside(inside.clone());
    pool.run();
    assert_eq!(pool.outside(inside), copies);
}

#[test]
fn one_holder_alone_does_not_say_where_a_stripe_may_be() {
    let mut pool = Pool::new(6, 6, 1);
    let other = SpaceId::from_bytes([9; 32]);
    pool.confine(other, 0..0);
    let (stripe, holders) = pool
        .planner
        .stripes()
        .map(|(stripe, of)| (stripe, of.collect::<Vec<_>>()))
        .next()
        .unwrap();
    let lie = |pool: &mut Pool, (node, index): (NodeId, u8)| {
        let reported = Reported {
            space: Some(other),
            ..pool.reported(stripe, index)
        };
        pool.planner.report(pool.now, node, reported, false);
    };
    lie(&mut pool, holders[0]);
    pool.run();
    assert_eq!(pool.planner.work(stripe), Some(Work::Nothing));
    // Nor does it when it was the first to say so.
    pool.planner.forget(stripe);
    lie(&mut pool, holders[0]);
    for (node, index) in &holders[1..] {
        pool.store(*node, stripe, *index);
    }
    pool.run();
    assert_eq!(pool.planner.work(stripe), Some(Work::Nothing));
    holders[1..4].iter().for_each(|holder| lie(&mut pool, *holder));
    pool.run();
    assert!(matches!(
        pool.planner.work(stripe),
        Some(Work::Waiting {
            cause: Cause::NoRegion,
            ..
        })
    ));
    // Who has nothing of it any more has no say.
    for (node, index) in &holders[..3] {
        pool.planner.retract(*node, stripe, *index);
        pool.store(*node, stripe, *index);
    }
    pool.run();
    assert_eq!(pool.planner.work(stripe), Some(Work::Nothing));
}
