//! Looking after this node's own disk: scrub and compaction.

use crate::shared::Shared;
use potluck_types::{ByteSize, ShardId};
use std::{sync::Arc, time::Duration};

/// In how long a scrub goes through everything.
const SCRUB_PERIOD: Duration = Duration::from_secs(14 * 24 * 3600);
/// Steps of it: at most one a minute, and so large that a large store is through in the period.
const SCRUB_STEPS: u64 = 20_000;
const SCRUB_STEP_MIN: ByteSize = ByteSize(16 << 20);
/// How long after one step there is the next. What is small is looked at every day.
const STEP_INTERVAL_MIN: Duration = Duration::from_secs(60);
const STEP_INTERVAL_MAX: Duration = Duration::from_secs(24 * 3600);
/// When the first one is after a start: what a stop has damaged is found at once, and a machine that is never on for a day has one, too.
pub(super) const FIRST_STEP: Duration = Duration::from_secs(1);
const COMPACT_STEP: ByteSize = ByteSize(64 << 20);
/// Compaction steps in one round.
const COMPACT_STEPS_MAX: usize = 16;

/// Bytes of a step of scrub, and how long after it the next one is, when so many are stored.
fn step(on_disk: ByteSize) -> (ByteSize, Duration) {
    let step = ByteSize((on_disk.0 / SCRUB_STEPS).max(SCRUB_STEP_MIN.0));
    let share = step.0 as f64 / on_disk.0.max(1) as f64;
    let interval = SCRUB_PERIOD.mul_f64(share.min(1.0));
    (step, interval.clamp(STEP_INTERVAL_MIN, STEP_INTERVAL_MAX))
}

/// Gives room back that deleted shards take, a bounded number of steps.
pub(crate) async fn compact(shared: &Arc<Shared>) {
    let store = shared.store.clone();
    let damaged = Shared::blocking(move || {
        let mut damaged = Vec::new();
        for _ in 0..COMPACT_STEPS_MAX {
            match store.compact_step(COMPACT_STEP) {
                Ok(step) => {
                    damaged.extend(step.damaged);
                    if step.idle {
                        break;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "compaction does not get on");
                    break;
                }
            }
        }
        damaged
    })
    .await;
    lose(shared, damaged);
}

/// Shards of this node were found damaged, and are no longer listed: their stewards must know.
fn lose(shared: &Arc<Shared>, damaged: Vec<ShardId>) {
    if damaged.is_empty() {
        return;
    }
    tracing::warn!(
        shards = damaged.len(),
        "shards of this node are damaged: they are dropped and will be made anew"
    );
    shared.lose(damaged);
}

/// A step of scrub, and compaction as far as it is worth it. Gives how long after it the next is due.
pub(super) async fn keep_up(shared: &Arc<Shared>) -> Duration {
    let (step, interval) = step(shared.store.stats().on_disk);
    let store = shared.store.clone();
    let damaged = Shared::blocking(move || {
        let scrubbed = match store.scrub_step(step) {
            // It had come to the end before: this round begins at the start.
            Ok(progress) if progress.wrapped && progress.bytes.0 == 0 => store.scrub_step(step),
            scrubbed => scrubbed,
        };
        match scrubbed {
            Ok(progress) => progress.damaged,
            Err(error) => {
                tracing::warn!(%error, "the scrub cannot read");
                Vec::new()
            }
        }
    })
    .await;
    compact(shared).await;
    lose(shared, damaged);
    interval
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_read_in_the_period_and_little_every_day() {
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(step(ByteSize(10 << 20)).1, day);
        for on_disk in [1 << 30, 1 << 36, 1 << 40, 1 << 43] {
            let (bytes, interval) = step(ByteSize(on_disk));
            let steps = on_disk.div_ceil(bytes.0);
            let whole = interval * u32::try_from(steps).unwrap();
            assert!(whole <= SCRUB_PERIOD + day, "{on_disk}: {whole:?}");
        }
    }
}
