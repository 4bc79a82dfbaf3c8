//! A few short histories. Many long ones are run by hand: `cargo run -p potluck-sim --release -- --seeds 0..1000 --nodes 12 --days 30`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use potluck_sim::{Outcome, Scale, history};

/// Whoever replays a seed sees what was seen: the same events at the same nanoseconds, bytes of the network and all.
#[test]
fn one_seed_gives_one_history() {
    let scale = Scale { nodes: 7, days: 3 };
    // With links, with neither, and with snapshots.
    for seed in [0, 1, 4] {
        let (first, again) = (history(seed, scale, false), history(seed, scale, false));
        assert!(first.events > 1000, "{} events", first.events);
        assert_eq!((first.events, &first.hash), (again.events, &again.hash), "seed {seed}");
        // Memory is counted for the whole process.
        let memory = first.memory;
        assert_eq!(first, Outcome { memory, ..again });
    }
    assert_ne!(history(1, scale, false).hash, history(2, scale, false).hash);
}

#[test]
fn nothing_is_broken_in_pools_of_any_size() {
    for (seed, nodes) in [(100, 2), (101, 3), (102, 4), (103, 6), (104, 9), (105, 12)] {
        let outcome = history(seed, Scale { nodes, days: 4 }, false);
        assert_eq!(outcome.violation, None, "seed {seed}, {nodes} machines");
        assert!(outcome.checks > 20 && outcome.operations > 3, "{outcome:?}");
        assert!(outcome.memory > 1 << 20, "{} bytes of memory were seen", outcome.memory);
    }
}

/// Machines that were cut off from all freed what they had not heard of, as each was the only one left to ask.
#[test]
fn who_is_alone_frees_nothing_that_it_has_not_heard_of() {
    let outcome = history(40_029, Scale { nodes: 12, days: 13 }, false);
    assert_eq!(outcome.violation, None);
}

/// A machine whose ways were open again did not try them when it read, as it was not time to; what was made of the logs, and was lost with the one machine that had
/// it, was missed for ever; and so was what a wrong byte on its way had made a shard of a space that nobody keeps.
#[test]
fn nothing_is_broken_in_months_in_which_something_was() {
    for seed in [17, 46, 107] {
        let outcome = history(seed, Scale { nodes: 12, days: 30 }, false);
        assert_eq!(outcome.violation, None, "seed {seed}");
    }
}
