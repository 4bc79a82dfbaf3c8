//! Files of real nodes are lost as soon as the model says. More of it by hand: `cargo run -p potluck-sim --release -- trial`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use potluck_sim::{Count, Trial, try_pool};
use std::time::Duration;

#[test]
fn files_last_about_as_long_as_is_computed() {
    const HOUR: Duration = Duration::from_secs(3600);
    let trial = Trial {
        domains: 5,
        life: 10 * HOUR,
        replacement: 4 * HOUR,
        horizon: 10 * 24 * HOUR,
    };
    let mut count = Count::default();
    (100..110).for_each(|seed| count.add(&try_pool(trial, seed).unwrap()));
    assert!(count.pools_hit >= 8 && count.repairs >= 10, "{count:?}");
    let (read, most) = (count.repair_read as f64, 1.2 * 2.0 * count.repair_written as f64);
    assert!(
        read > 0.0 && read <= most,
        "more is read than two shards for each that is made: {count:?}"
    );
    let ratio = count.mean_time_to_loss() / count.model(&trial).mean_time_to_loss();
    // Files of one pool go together: of ten pools the mean is off by a third on the whole.
    assert!((0.5..2.0).contains(&ratio), "{ratio}: {count:?}");
}
