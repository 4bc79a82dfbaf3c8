//! What holders claim to this node, their stripes' steward: which claims are to be challenged, which were disproved, and whom this node doubts for that.

use super::{Action, Control, ReportSum};
use crate::standing::{Outcome, Standings};
use potluck_placement::Reported;
use potluck_types::{Dice, NodeId, ShardId, StripeId, Timestamp};
use std::collections::{BTreeMap, HashMap};

/// Disproved claims that are remembered of a holder: by then it is doubted, and nothing of it counts.
const DISPROVED_MAX: usize = 16 << 10;

/// A claim that its holder could not prove.
#[derive(Clone, Copy, Debug)]
struct Refuted {
    reported: Reported,
    /// Whether its last full report has it.
    is_claimed: bool,
}

/// Claims that their holders could not prove. They count for nothing until they are proved, or the shard is put there anew.
#[derive(Default, Debug)]
pub(super) struct Disproved(BTreeMap<NodeId, HashMap<ShardId, Refuted>>);

impl Disproved {
    fn insert(&mut self, holder: NodeId, reported: Reported) {
        let claims = self.0.entry(holder).or_default();
        if claims.len() < DISPROVED_MAX {
            let is_claimed = true;
            claims.insert(reported.shard, Refuted { reported, is_claimed });
        }
    }

    /// The holder claims it again; whether it was disproved.
    pub(super) fn is_claimed_again(&mut self, holder: NodeId, shard: ShardId) -> bool {
        let claim = self.0.get_mut(&holder).and_then(|claims| claims.get_mut(&shard));
        claim.is_some_and(|claim| {
            claim.is_claimed = true;
            true
        })
    }

    /// It is proved, put there anew, or claimed no more.
    pub(super) fn remove(&mut self, holder: NodeId, shard: ShardId) -> Option<Reported> {
        let claim = self.0.get_mut(&holder)?.remove(&shard)?;
        Some(claim.reported)
    }

    /// A full report begins: what is not in it is not claimed.
    pub(super) fn begin_report(&mut self, holder: NodeId) {
        let claims = self.0.get_mut(&holder).into_iter().flat_map(HashMap::values_mut);
        claims.for_each(|claim| claim.is_claimed = false);
    }

    pub(super) fn forget_holder(&mut self, holder: NodeId) {
        self.0.remove(&holder);
    }

    pub(super) fn retain(&mut self, is_ours: impl Fn(StripeId) -> bool) {
        for claims in self.0.values_mut() {
            claims.retain(|shard, _| is_ours(shard.stripe));
        }
    }

    /// What of it its holder claims still, added to the sum of what it has reported.
    pub(super) fn add_to(&self, sum: &mut ReportSum, holder: NodeId) {
        let claims = self.0.get(&holder).into_iter().flatten();
        claims
            .filter(|(_, claim)| claim.is_claimed)
            .for_each(|(shard, _)| sum.add(*shard));
    }

    fn claimed(&self, holder: NodeId) -> impl Iterator<Item = Reported> {
        let claims = self.0.get(&holder).into_iter().flat_map(HashMap::values);
        claims.filter(|claim| claim.is_claimed).map(|claim| claim.reported)
    }
}

/// What makes one draw another than the last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seed(pub(crate) u64);

impl Seed {
    /// A number for a shard, like a random one.
    fn number(self, shard: ShardId) -> u64 {
        let head = shard.stripe.as_bytes()[..8].try_into().expect("eight bytes");
        let name = u64::from_le_bytes(head).wrapping_add(u64::from(shard.index) << 56);
        Dice(self.0 ^ name).roll(u64::MAX)
    }

    /// The shards with the smallest of these are a sample in which one of twice the length is twice as likely (Efraimidis, Spirakis, "Weighted random sampling
    /// with a reservoir", 2006).
    fn number_by_len(self, reported: &Reported) -> u64 {
        let other = Self(self.0.rotate_left(32) ^ 1);
        let uniform = (other.number(reported.shard) >> 11) as f64 / (1u64 << 53) as f64;
        let waiting = -(1.0 - uniform).ln() / f64::from(reported.shard_len.max(1));
        (waiting * 1e18).min(u64::MAX as f64) as u64
    }
}

/// The so many claims with the smallest numbers.
#[derive(Default)]
struct Smallest(BTreeMap<(u64, ShardId), Reported>);

impl Smallest {
    fn offer(&mut self, number: u64, reported: Reported, count: usize) {
        let is_small = self.0.last_key_value().is_some_and(|((last, _), _)| number < *last);
        if self.0.len() < count || is_small {
            self.0.insert((number, reported.shard), reported);
            if self.0.len() > count {
                self.0.pop_last();
            }
        }
    }
}

/// What is drawn of a holder's claims.
#[derive(Default)]
struct Drawn {
    by_shards: Smallest,
    by_bytes: Smallest,
    /// How many there are.
    of: usize,
}

impl Control {
    /// Claims of holders, drawn at random: of each so many of its shards, and as many by its bytes, but no more than one in `one_in`. With them as many at most that it
    /// could not prove before.
    pub(crate) fn draw_claims(
        &self,
        seed: Seed,
        counts: &BTreeMap<NodeId, usize>,
        one_in: u32,
    ) -> BTreeMap<NodeId, Vec<Reported>> {
        let mut drawn: BTreeMap<NodeId, Drawn> = counts.keys().map(|node| (*node, Drawn::default())).collect();
        for (node, reported) in self.planner.claims() {
            let (Some(drawn), Some(count)) = (drawn.get_mut(&node), counts.get(&node)) else {
                continue;
            };
            drawn.of += 1;
            drawn.by_shards.offer(seed.number(reported.shard), reported, *count);
            drawn.by_bytes.offer(seed.number_by_len(&reported), reported, *count);
        }
        let claims = drawn.into_iter().map(
            |(
                node,
                Drawn {
                    by_shards,
                    by_bytes,
                    of,
                },
            )| {
                let most = of.div_ceil(usize::try_from(one_in.max(1)).expect("a small number"));
                let smallest = |smallest: Smallest| smallest.0.into_values().take(most);
                let disproved = self.disproved.claimed(node).take(counts[&node]);
                let mut claims: Vec<_> = smallest(by_shards).chain(smallest(by_bytes)).chain(disproved).collect();
                claims.sort_by_key(|claim| claim.shard);
                claims.dedup_by_key(|claim| claim.shard);
                (node, claims)
            },
        );
        claims.filter(|(_, claims)| !claims.is_empty()).collect()
    }

    /// Whether a holder claims a shard to this node.
    pub(crate) fn is_claimed(&self, holder: NodeId, shard: ShardId) -> bool {
        let is_known = self
            .planner
            .holders(shard.stripe)
            .any(|held| held == (holder, shard.index));
        is_known || self.disproved.claimed(holder).any(|claim| claim.shard == shard)
    }

    /// Claims of a holder were challenged.
    pub(super) fn on_audited(
        &mut self,
        now: Timestamp,
        holder: NodeId,
        outcomes: &[(ShardId, Outcome)],
        is_probe: bool,
        actions: &mut Vec<Action>,
    ) {
        if self.roster.user_of(holder).is_none() {
            return;
        }
        self.weigh_claims(now, holder, outcomes);
        let outcomes: Vec<_> = outcomes.iter().map(|(_, outcome)| *outcome).collect();
        let judgement = self.standings.note(holder, &outcomes, is_probe, now);
        if judgement.probe {
            actions.push(Action::Probe(holder));
        }
        if judgement.changed {
            seen_otherwise(holder, true);
            actions.push(Action::Announce);
        }
        let roster = &self.roster;
        self.standings.retain(|node| roster.user_of(node).is_some());
        actions.push(Action::SaveStandings);
    }

    /// Takes back the doubts whose term is over.
    pub(super) fn end_doubts(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let trusted = self.standings.end_doubts(now);
        if trusted.is_empty() {
            return;
        }
        trusted.into_iter().for_each(|node| seen_otherwise(node, false));
        actions.extend([Action::Announce, Action::SaveStandings]);
    }

    /// How others have stood their audits.
    pub(crate) fn standings(&self) -> &Standings {
        &self.standings
    }

    /// Who another doubts is looked at by this node, too.
    pub(super) fn hear_doubts(&mut self, now: Timestamp, from: NodeId, actions: &mut Vec<Action>) {
        let doubts = self
            .roster
            .state(from)
            .map(|state| state.doubts.clone())
            .unwrap_or_default();
        for node in doubts {
            let is_other = node != self.me && from != self.me && self.roster.user_of(node).is_some();
            if is_other && self.standings.hears_doubt(node, now) {
                actions.push(Action::Probe(node));
            }
        }
    }

    /// Moves claims between those that count and those that do not, as their challenges ended.
    fn weigh_claims(&mut self, now: Timestamp, holder: NodeId, outcomes: &[(ShardId, Outcome)]) {
        for (shard, outcome) in outcomes {
            match outcome {
                Outcome::Proved => {
                    if let Some(reported) = self.disproved.remove(holder, *shard) {
                        self.planner.report(now, holder, reported, false);
                    }
                }
                Outcome::Wrong => {
                    if let Some(reported) = self.planner.claim(holder, *shard) {
                        self.planner.retract(holder, shard.stripe, shard.index);
                        self.disproved.insert(holder, reported);
                    }
                }
                // What a holder has lost it reports itself.
                Outcome::Lost | Outcome::Offline | Outcome::Unknown => {}
            }
        }
    }
}

fn seen_otherwise(node: NodeId, doubted: bool) {
    tracing::warn!(node = %node.short(), doubted, "whether a member holds what it claims is seen otherwise now");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tests::{at, core, key, state};
    use crate::control::{Check, Event, Remembered};
    use potluck_types::{Geometry, Hash};
    use std::collections::BTreeSet;

    const SHARDS: usize = 5000;

    fn reported(i: usize) -> Reported {
        let stripe = StripeId::from_bytes(*Hash::of(&i.to_le_bytes()).as_bytes());
        Reported {
            shard: ShardId { stripe, index: 1 },
            geometry: Geometry::new(3, 2).unwrap(),
            // From a tenth of a megabyte to a whole one.
            shard_len: 100_000 * (1 + i as u32 % 10),
            space: None,
        }
    }

    fn steward_of(claims: &[Reported]) -> (Control, NodeId) {
        let mut control = core(Remembered::default(), 0);
        let state = state(&control);
        control.handle(at(0), Event::Record(state));
        let holder = key(12).node_id();
        for claim in claims {
            control.planner.report(at(1), holder, *claim, false);
        }
        (control, holder)
    }

    /// In a day there are six rounds, of 84 by shards and 84 by bytes, over all who ask together: here it is one.
    fn day(control: &Control, holder: NodeId, seed: u64) -> impl Iterator<Item = Reported> {
        (0..6).flat_map(move |round| {
            let seed = Seed((seed * 6 + round).wrapping_mul(0x2545_f491_4f6c_dd1d));
            control
                .draw_claims(seed, &BTreeMap::from([(holder, 84)]), 6)
                .remove(&holder)
                .unwrap_or_default()
        })
    }

    #[test]
    fn of_a_hundredth_that_is_missing_something_is_found_in_a_day_with_99_percent() {
        const DAYS: u64 = 1000;
        let claims: Vec<_> = (0..SHARDS).map(reported).collect();
        let (control, holder) = steward_of(&claims);
        // A hundredth of the shards, of the shortest; and a hundredth of the bytes, in the longest.
        let some = |len: u32, count: usize| -> BTreeSet<_> {
            let alike = claims.iter().filter(|claim| claim.shard_len == len);
            alike.take(count).map(|claim| claim.shard).collect()
        };
        let all: usize = claims.iter().map(|claim| claim.shard_len as usize).sum();
        let (shortest, longest) = (some(100_000, SHARDS / 100), some(1_000_000, all / 100_000_000));
        for missing in [shortest, longest] {
            let found =
                (0..DAYS).filter(|seed| day(&control, holder, *seed).any(|claim| missing.contains(&claim.shard)));
            let found = found.count();
            assert!(found >= 985, "found in {found} of {DAYS} days");
        }
    }

    #[test]
    fn a_draw_is_even_and_bounded() {
        let claims: Vec<_> = (0..300).map(reported).collect();
        let (control, holder) = steward_of(&claims);
        assert!(day(&control, holder, 0).count() <= 6 * 2 * 50, "one in six at most");
        let mut drawn = BTreeMap::<ShardId, u32>::new();
        for seed in 0..200 {
            let one = control.draw_claims(Seed(seed), &BTreeMap::from([(holder, 10)]), 1);
            one[&holder]
                .iter()
                .for_each(|claim| *drawn.entry(claim.shard).or_default() += 1);
        }
        assert_eq!(drawn.len(), 300);
        assert!(
            control
                .draw_claims(Seed(1), &BTreeMap::from([(key(13).node_id(), 10)]), 1)
                .is_empty()
        );
    }

    #[test]
    fn a_disproved_claim_counts_for_nothing_until_it_is_proved_placed_or_dropped() {
        let claim = reported(1);
        let shard = claim.shard;
        let refute = |control: &mut Control, holder| {
            let outcomes = vec![(shard, Outcome::Wrong)];
            control.handle(
                at(2),
                Event::Audited {
                    holder,
                    outcomes,
                    is_probe: false,
                },
            );
        };
        let counts = |control: &Control| control.planner.holders(shard.stripe).count();
        let report = |first, gone| Event::Reported {
            from: key(12).node_id(),
            first,
            shards: vec![claim],
            gone,
        };
        let (mut control, holder) = steward_of(&[claim]);
        let sum = control.reports_of(holder);
        refute(&mut control, holder);
        assert_eq!((counts(&control), control.reports_of(holder)), (0, sum));
        assert!(control.is_claimed(holder, shard));
        // Its word does not change it, and the two still agree about what is claimed.
        control.handle(at(3), report(true, Vec::new()));
        assert_eq!((counts(&control), control.reports_of(holder)), (0, sum));
        assert_ne!(control.check(holder, sum, control.view_digest()).0, Check::Differs);
        let drawn = control.draw_claims(Seed(0), &BTreeMap::from([(holder, 5)]), 1);
        assert_eq!(drawn[&holder].len(), 1, "it is asked again");
        let proved = vec![(shard, Outcome::Proved)];
        control.handle(
            at(4),
            Event::Audited {
                holder,
                outcomes: proved,
                is_probe: false,
            },
        );
        assert_eq!(counts(&control), 1);

        refute(&mut control, holder);
        control.handle(at(5), Event::Placed { holder, shard: claim });
        assert_eq!(counts(&control), 1);

        refute(&mut control, holder);
        let nothing = Event::Reported {
            from: holder,
            first: true,
            shards: Vec::new(),
            gone: Vec::new(),
        };
        control.handle(at(6), nothing);
        assert!(!control.is_claimed(holder, shard));
        assert_eq!(control.reports_of(holder), ReportSum::default());
    }
}
