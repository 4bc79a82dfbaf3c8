//! What this node has seen of how others keep what they say that they hold: how its challenges ended, and whom it doubts.
//!
//! Pure: outcomes and the time in, a judgement out. Being away is nobody's fault, and neither is a disk that says itself what it has lost. What counts is an
//! answer that proves nothing, and a shard that is claimed and denied at once.

use crate::api::AuditInfo;
use potluck_types::{NodeId, Timestamp};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// How a challenge ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// The part that was asked for came, with its proof.
    Proved,
    /// Something else came; or the node claims still what it denies when asked.
    Wrong,
    /// The node says itself that it has it no more.
    Lost,
    /// The node did not answer.
    Offline,
    /// It answered that it cannot say now.
    Unknown,
}

/// Points from which on a node is doubted. Each wrong answer is a point, and points are halved in each [`HALF_LIFE`]: who lacks one in ten shards is there in a day,
/// who lacks one in a hundred within two weeks, and one bit that flipped in a memory never is.
const DOUBT_POINTS: u32 = 8;
const HALF_LIFE: Duration = Duration::from_secs(3 * 24 * 3600);
/// More points than that take no longer to forget: half a month.
const POINTS_MAX: u32 = DOUBT_POINTS << 5;
/// Answers of which half say nothing are a point.
const UNKNOWN_MIN: u64 = 4;
/// A node is doubted until it has given no wrong answer for so long: the first time, and each time after for twice as long.
const DOUBT_TERM: Duration = Duration::from_secs(24 * 3600);
const DOUBT_DOUBLINGS_MAX: u32 = 5;
/// How soon a node that answered wrongly, or is doubted by others, may be probed again.
const PROBE_INTERVAL: Duration = Duration::from_secs(600);

/// What is remembered of one node.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Standing {
    audit: AuditInfo,
    points: u32,
    /// Up to when points were halved.
    points_at: Timestamp,
    /// When it answered wrongly last, and when it was probed last.
    failed_at: Timestamp,
    probed_at: Timestamp,
    is_doubted: bool,
    /// How often it has come to be doubted.
    doubts: u32,
}

impl Standing {
    fn doubt_ends(&self) -> Timestamp {
        let doublings = self.doubts.saturating_sub(1).min(DOUBT_DOUBLINGS_MAX);
        self.failed_at + DOUBT_TERM * (1 << doublings)
    }

    fn halve(&mut self, now: Timestamp) {
        let half_lives = now.since(self.points_at).as_secs() / HALF_LIFE.as_secs();
        self.points = self
            .points
            .checked_shr(u32::try_from(half_lives).unwrap_or(u32::MAX))
            .unwrap_or(0);
        if self.points == 0 {
            self.points_at = now;
        } else {
            self.points_at = self.points_at + HALF_LIFE * u32::try_from(half_lives).unwrap_or(0);
        }
    }
}

/// What follows from a batch of outcomes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Judgement {
    /// More of what it claims is to be challenged now.
    pub(crate) probe: bool,
    /// Whom this node doubts has changed.
    pub(crate) changed: bool,
}

/// See the module.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Standings(BTreeMap<NodeId, Standing>);

impl Standings {
    /// As they were when this node ended, `away` ago: what passed meanwhile is nobody's time.
    pub(crate) fn resume(saved: Vec<(NodeId, Standing)>, noted_at: Timestamp, now: Timestamp) -> Self {
        let later = |time: Timestamp| match time {
            time if time == Timestamp::default() => time,
            time => Timestamp::from_millis(
                now.as_millis()
                    .saturating_sub(noted_at.as_millis().saturating_sub(time.as_millis())),
            ),
        };
        let resumed = saved.into_iter().map(|(node, mut standing)| {
            for time in [
                &mut standing.points_at,
                &mut standing.failed_at,
                &mut standing.probed_at,
                &mut standing.audit.proved_at,
            ] {
                *time = later(*time);
            }
            (node, standing)
        });
        Self(resumed.collect())
    }

    pub(crate) fn saved(&self) -> Vec<(NodeId, Standing)> {
        self.0
            .iter()
            .map(|(node, standing)| (*node, standing.clone()))
            .collect()
    }

    pub(crate) fn of(&self, node: NodeId) -> AuditInfo {
        self.0.get(&node).map(|standing| standing.audit).unwrap_or_default()
    }

    pub(crate) fn is_doubted(&self, node: NodeId) -> bool {
        self.0.get(&node).is_some_and(|standing| standing.is_doubted)
    }

    /// Whom this node doubts.
    pub(crate) fn doubted(&self) -> impl Iterator<Item = NodeId> {
        self.0
            .iter()
            .filter(|(_, standing)| standing.is_doubted)
            .map(|(node, _)| *node)
    }

    /// Forgets all but these.
    pub(crate) fn retain(&mut self, is_member: impl Fn(NodeId) -> bool) {
        self.0.retain(|node, _| is_member(*node));
    }

    /// Ends the doubts whose term is over: also of a node that this one has nothing to ask of any more, as it was drained. Gives those nodes.
    pub(crate) fn end_doubts(&mut self, now: Timestamp) -> Vec<NodeId> {
        let over = self
            .0
            .iter_mut()
            .filter(|(_, standing)| standing.is_doubted && now >= standing.doubt_ends());
        over.map(|(node, standing)| {
            standing.is_doubted = false;
            standing.points = DOUBT_POINTS / 2;
            *node
        })
        .collect()
    }

    /// When the next doubt ends, if no other wrong answer comes before.
    pub(crate) fn next_end(&self) -> Option<Timestamp> {
        let doubted = self.0.values().filter(|standing| standing.is_doubted);
        doubted.map(Standing::doubt_ends).min()
    }

    /// Another doubts a node: whether this one should look for itself.
    pub(crate) fn hears_doubt(&mut self, node: NodeId, now: Timestamp) -> bool {
        let standing = self.0.entry(node).or_default();
        let probe = !standing.is_doubted && now.since(standing.probed_at) >= PROBE_INTERVAL;
        if probe {
            standing.probed_at = now;
        }
        probe
    }

    /// Takes the outcomes of a batch of challenges of a node. Only a probe makes one doubted: a failure is looked into before anything follows from it.
    pub(crate) fn note(&mut self, node: NodeId, outcomes: &[Outcome], is_probe: bool, now: Timestamp) -> Judgement {
        let standing = self.0.entry(node).or_default();
        let count = |wanted| outcomes.iter().filter(|outcome| **outcome == wanted).count() as u64;
        let batch = AuditInfo {
            proved: count(Outcome::Proved),
            wrong: count(Outcome::Wrong),
            lost: count(Outcome::Lost),
            offline: count(Outcome::Offline),
            unknown: count(Outcome::Unknown),
            proved_at: Timestamp::default(),
        };
        standing.audit.add(&batch);
        if batch.proved > 0 {
            standing.audit.proved_at = now;
        }
        standing.halve(now);
        let answers = batch.proved + batch.wrong + batch.lost + batch.unknown;
        let says_nothing = batch.unknown >= UNKNOWN_MIN && batch.unknown * 2 >= answers;
        let points = batch.wrong + u64::from(says_nothing);
        if points > 0 {
            let points = u32::try_from(points).unwrap_or(u32::MAX);
            standing.points = standing.points.saturating_add(points).min(POINTS_MAX);
            standing.failed_at = now;
        }
        let before = standing.is_doubted;
        if is_probe && points > 0 && standing.points >= DOUBT_POINTS && !before {
            standing.is_doubted = true;
            standing.doubts += 1;
        }
        let probe = points > 0 && !is_probe && !before && now.since(standing.probed_at) >= PROBE_INTERVAL;
        if probe {
            standing.probed_at = now;
        }
        Judgement {
            probe,
            changed: standing.is_doubted != before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600 * 1000;
    const NODE: NodeId = NodeId::from_bytes([1; 32]);

    fn at(hours: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000_000 + hours * HOUR)
    }

    fn batch(proved: usize, other: Outcome, count: usize) -> Vec<Outcome> {
        let mut outcomes = vec![Outcome::Proved; proved];
        outcomes.extend(vec![other; count]);
        outcomes
    }

    /// Batches of four hours, each followed by a probe when one is called for. Gives after how many hours the node is doubted.
    fn doubted_after(outcomes: impl Fn(u64) -> Vec<Outcome>) -> Option<u64> {
        let mut standings = Standings::default();
        (0..500).map(|round| round * 4).find(|hours| {
            if standings.note(NODE, &outcomes(*hours), false, at(*hours)).probe {
                standings.note(NODE, &outcomes(*hours), true, at(*hours));
            }
            standings.is_doubted(NODE)
        })
    }

    #[test]
    fn who_is_away_or_says_what_it_lost_is_not_doubted() {
        for honest in [Outcome::Proved, Outcome::Offline, Outcome::Lost] {
            assert_eq!(doubted_after(|_| batch(10, honest, 30)), None, "{honest:?}");
        }
        assert_eq!(doubted_after(|_| batch(30, Outcome::Unknown, 10)), None);
        let one_a_week = |hours| batch(20, Outcome::Wrong, usize::from(hours % 168 == 0));
        assert_eq!(doubted_after(one_a_week), None);
    }

    #[test]
    fn who_claims_what_it_has_not_is_doubted_after_a_probe() {
        assert_eq!(doubted_after(|_| batch(0, Outcome::Wrong, 20)), Some(0));
        assert!(doubted_after(|_| batch(18, Outcome::Wrong, 2)) <= Some(24));
        assert!(doubted_after(|hours| batch(20, Outcome::Wrong, usize::from(hours % 12 == 0))) <= Some(14 * 24));
        assert!(doubted_after(|_| batch(0, Outcome::Unknown, 20)) <= Some(3 * 24));
        let mut standings = Standings::default();
        let judgement = standings.note(NODE, &batch(0, Outcome::Wrong, 100), false, at(0));
        assert!(judgement.probe && !judgement.changed);
        assert!(!standings.note(NODE, &batch(0, Outcome::Wrong, 100), false, at(0)).probe);
        assert!(
            !standings
                .note(NODE, &batch(30, Outcome::Proved, 0), true, at(0))
                .changed
        );
        assert!(standings.note(NODE, &batch(29, Outcome::Wrong, 1), true, at(1)).changed);
    }

    #[test]
    fn doubt_ends_after_a_term_without_a_wrong_answer_and_lasts_longer_each_time() {
        let mut standings = Standings::default();
        let mut hours = 0;
        for term in [24, 48, 96] {
            standings.note(NODE, &batch(0, Outcome::Wrong, 20), true, at(hours));
            assert!(standings.is_doubted(NODE));
            assert_eq!(standings.next_end(), Some(at(hours + term)));
            assert_eq!(standings.end_doubts(at(hours + term - 1)), []);
            assert!(standings.is_doubted(NODE), "{term}");
            // Over a restart, what passed while this node was off does not count.
            let noted_at = at(hours + term - 1);
            let resumed = Standings::resume(standings.saved(), noted_at, at(hours + term + 999));
            assert!(resumed.is_doubted(NODE));
            hours += 1000 + term;
            standings = resumed;
            assert_eq!(standings.end_doubts(at(hours)), [NODE]);
            assert!(!standings.is_doubted(NODE), "{term}");
        }
    }

    #[test]
    fn the_doubt_of_another_calls_for_a_probe_once_in_a_while() {
        let mut standings = Standings::default();
        assert!(standings.hears_doubt(NODE, at(0)));
        assert!(!standings.hears_doubt(NODE, at(0)));
        assert!(standings.hears_doubt(NODE, at(1)));
        standings.note(NODE, &batch(0, Outcome::Wrong, 20), true, at(1));
        assert!(!standings.hears_doubt(NODE, at(2)));
    }
}
