//! When the time of what is in the trash is over, and letting go of it then.
//!
//! A clock may be wrong by a year, and must not free everything at once. So two have to agree: the wall clock has to be past the time that the
//! person was told, and this node has to have known of the removal for as long as it was to be kept, by a count of its own that no clock
//! moves. One of a person's machines is enough to free something, and whichever counts fastest does.
//!
//! Clocks of entries never go back. So when one machine's clock was set wrong, once, whatever is removed in that space from then on seems to be removed in the future, and
//! its end tells nothing: there the count decides alone, or the clock once it has come within a day of theirs: after twice the time and a day at most.

use crate::{
    error::{MetaError, NodeError},
    names::{self, Batch},
    shared::Shared,
    space::OpenSpace,
    spaces,
};
use potluck_spaces::{Change, Expiring, Fate, Kept, Mass, Removal, Snapshots, Trash, Turnover, Value};
use potluck_types::{StripeId, Timestamp};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What the time between two runs counts for at most, whatever the clock says. A machine that runs for some hours a day counts as one that always
/// does, and a clock that is a year ahead costs a day.
const OFF_MAX: Duration = Duration::from_secs(24 * 3600);
/// What is so far ahead of this node's clock was written by a clock that was wrong, or after one.
const AHEAD_MAX: Duration = Duration::from_secs(24 * 3600);
/// Values that are looked at in one step.
const PAGE: usize = 256;

/// How much time has passed, as far as a node knows: while it runs by a clock that only grows, and between its runs by the wall clock, within
/// bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Elapsed {
    counted_ms: u64,
    noted_at: Timestamp,
}

impl Elapsed {
    /// What is to be remembered at this moment.
    pub(crate) fn noted(counted: Duration, now: Timestamp) -> Self {
        Self {
            counted_ms: u64::try_from(counted.as_millis()).unwrap_or(u64::MAX),
            noted_at: now,
        }
    }

    /// What had been counted then.
    pub(crate) fn counted(self) -> Duration {
        Duration::from_millis(self.counted_ms)
    }

    /// What counts at a start.
    pub(crate) fn resume(noted: Option<Self>, now: Timestamp) -> Duration {
        noted.map_or(Duration::ZERO, |noted| {
            noted.counted() + now.since(noted.noted_at).min(OFF_MAX)
        })
    }
}

/// What decides whether a value's time is over.
pub(crate) struct Moment<'a> {
    /// The wall clock.
    pub(crate) now: Timestamp,
    /// See [`Elapsed`].
    pub(crate) elapsed: Duration,
    /// What a person has yet to say whether they meant it.
    pub(crate) masses: &'a [Mass],
}

impl Moment<'_> {
    /// Whether the time of a value that this node learned of then is over.
    fn is_over(&self, removal: Removal, learned: Duration) -> bool {
        let retention = removal.until.since(removal.clock);
        let known_for = self.elapsed.saturating_sub(learned);
        let is_ahead = removal.clock > self.now + AHEAD_MAX;
        (self.now >= removal.until || is_ahead)
            && known_for >= retention
            && !self.masses.iter().any(|mass| mass.covers(removal.clock))
    }
}

/// Lets go of what is in the trash and whose time is over. Gives the stripes that were given up.
pub(crate) async fn expire(space: &OpenSpace) -> Result<Vec<StripeId>, NodeError> {
    let task = space.clone();
    let masses = Shared::blocking(move || {
        let noted = Elapsed::noted(task.elapsed(), task.now());
        task.meta.set_elapsed(noted)?;
        let now = task.now();
        task.meta
            .write(|kv| Turnover::of(task.id()).forget(kv, now).map_err(MetaError::reading))?;
        let (kv, trash) = (task.read()?, Trash::of(task.id()));
        let accepted = trash.totals(&kv).map_err(MetaError::reading)?.accepted;
        let masses = Turnover::of(task.id()).masses(&kv, accepted, task.rails.share);
        masses.map_err(MetaError::reading)
    })
    .await?;
    let (mut given_up, mut batch, mut after) = (Vec::new(), Batch::default(), None);
    let mut ended = Vec::new();
    loop {
        let page = due(space, after, masses.clone()).await?;
        let Some((last, over)) = page else { break };
        after = Some(last);
        for kept in over {
            if let Value::Space(of) = kept.head.value {
                ended.push((of, kept));
                continue;
            }
            batch.let_go(&kept, Fate::Freed);
            if batch.is_full() {
                given_up.extend(names::write(space, std::mem::take(&mut batch)).await?);
            }
        }
    }
    let ends_spaces = !ended.is_empty();
    for (of, kept) in ended {
        let task = space.clone();
        // It may have been named anew since, and what is left here of a name that it had.
        if !Shared::blocking(move || spaces::is_named(&task, of)).await? {
            // Boxed, as what is in it has a trash of its own.
            Box::pin(spaces::end(space.shared(), of)).await?;
        }
        batch.let_go(&kept, Fate::Freed);
    }
    if !batch.is_empty() {
        given_up.extend(names::write(space, batch).await?);
    }
    if ends_spaces {
        spaces::refresh(space.shared()).await?;
    }
    Ok(given_up)
}

/// A page of what is in the trash, and of that what is over.
async fn due(
    space: &OpenSpace,
    after: Option<Expiring>,
    masses: Vec<Mass>,
) -> Result<Option<(Expiring, Vec<Kept>)>, NodeError> {
    let task = space.clone();
    Shared::blocking(move || {
        let (kv, trash) = (task.read()?, Trash::of(task.id()));
        let moment = Moment {
            now: task.now(),
            elapsed: task.elapsed(),
            masses: &masses,
        };
        let page = trash.expiring(&kv, after, PAGE).map_err(MetaError::reading)?;
        let Some(mut last) = page.last().copied() else {
            return Ok(None);
        };
        let mut over = Vec::new();
        let held = Snapshots::of(task.id()).held(&kv).map_err(MetaError::reading)?;
        // Most of it lies between what is past its end and what is ahead of its time, and is not looked at.
        let ahead = moment.now + AHEAD_MAX + task.retention()?;
        let may_be_over = |expiring: &Expiring| expiring.until <= moment.now || expiring.until > ahead;
        if !may_be_over(&last) {
            last.until = ahead;
        }
        for expiring in page.into_iter().filter(may_be_over) {
            let kept = trash.get(&kv, expiring.op).map_err(MetaError::reading)?;
            over.extend(kept.filter(|kept| moment.is_over(kept.removal, expiring.learned) && !held.holds(kept)));
        }
        Ok(Some((last, over)))
    })
    .await
}

impl Batch {
    /// Lets go of a value in the trash.
    pub(crate) fn let_go(&mut self, kept: &Kept, fate: Fate) {
        self.bytes += 160 + kept.name.as_str().len();
        self.changes.push(Change::Set {
            parent: kept.parent,
            name: kept.name.clone(),
            value: None,
            replaces: vec![kept.head.op],
            fate,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_spaces::{Moved, OpId};
    use potluck_types::NodeId;

    const DAY: Duration = Duration::from_secs(86_400);
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    const REMOVED: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    fn removal() -> Removal {
        Removal {
            until: REMOVED + 30 * DAY,
            clock: REMOVED,
            op: OpId {
                device: NodeId::from_bytes([1; 32]),
                seq: 1,
                at: 0,
            },
            overwrites: false,
            moved: Moved::Not,
        }
    }

    fn is_over(now: Timestamp, elapsed: Duration, masses: &[Mass]) -> bool {
        Moment { now, elapsed, masses }.is_over(removal(), 5 * DAY)
    }

    #[test]
    fn it_is_over_when_the_clock_and_the_count_agree() {
        assert!(!is_over(REMOVED + 29 * DAY, 34 * DAY, &[]));
        assert!(is_over(REMOVED + 30 * DAY, 35 * DAY, &[]));
        // It heard of the removal late.
        assert!(!is_over(REMOVED + 30 * DAY, 10 * DAY, &[]));
    }

    /// Another machine's clock was a year ahead once, and since then all entries are.
    #[test]
    fn what_was_removed_in_the_future_is_over_by_the_count() {
        let before = Timestamp::from_millis(REMOVED.as_millis() - 365 * 86_400_000);
        assert!(!is_over(before + 29 * DAY, 34 * DAY, &[]));
        assert!(is_over(before + 30 * DAY, 35 * DAY, &[]));
    }

    #[test]
    fn what_nobody_has_said_yes_to_stays() {
        let mass = Mass {
            since: REMOVED,
            until: REMOVED,
            replaced: 600,
            of: 1000,
        };
        assert!(!is_over(REMOVED + YEAR, YEAR, &[mass]));
    }

    /// The clock of a machine jumped a year ahead, while it ran or while it was off, and back again: nothing is over sooner by more than a day a start.
    #[test]
    fn a_clock_that_jumps_a_year_frees_nothing_at_once() {
        let ahead = REMOVED + YEAR;
        assert!(!is_over(ahead, 6 * DAY, &[]));
        let noted = Elapsed::noted(5 * DAY, REMOVED);
        let after_start = Elapsed::resume(Some(noted), ahead);
        assert_eq!(after_start, 6 * DAY);
        assert!(!is_over(ahead, after_start, &[]));
        // Back again: nothing is counted twice, and nothing stands still.
        let noted = Elapsed::noted(after_start, ahead);
        assert_eq!(Elapsed::resume(Some(noted), REMOVED + DAY), after_start);
        let noted = Elapsed::noted(after_start, REMOVED + DAY);
        assert_eq!(
            Elapsed::resume(Some(noted), REMOVED + DAY + Duration::from_secs(60)),
            after_start + Duration::from_secs(60)
        );
        // One that is a year behind frees nothing sooner either.
        let behind = Timestamp::from_millis(REMOVED.as_millis() - 31_536_000_000);
        assert!(!is_over(behind, 34 * DAY, &[]));
    }
}
