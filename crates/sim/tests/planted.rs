//! Bugs of every kind are planted, and must be found: `cargo test -p potluck-sim --release --features sabotage`.

#![cfg(feature = "sabotage")]
#![allow(clippy::print_stderr, reason = "it tells how soon each was found")]

use potluck_sim::{
    Scale, history,
    sabotage::{self, Bug},
};

/// Seeds in which each must be found.
const SEEDS_MAX: u64 = 1000;

/// The first seed that breaks a promise with the bug, and none without it.
fn found(bug: Bug) -> Option<(u64, String)> {
    let scale = Scale { nodes: 9, days: 6 };
    (0..SEEDS_MAX).find_map(|seed| {
        sabotage::plant(Some(bug));
        let violation = history(seed, scale, false).violation;
        sabotage::plant(None);
        let violation = violation?;
        history(seed, scale, false)
            .violation
            .is_none()
            .then_some((seed, violation))
    })
}

#[track_caller]
fn check(bug: Bug) {
    let (seed, violation) = found(bug).unwrap_or_else(|| panic!("{bug:?} is not found in {SEEDS_MAX} seeds"));
    eprintln!("{bug:?} is found by seed {seed}: {violation}");
}

#[test]
fn acknowledging_before_the_sync_is_found() {
    check(Bug::AcknowledgeBeforeSync);
}

#[test]
fn taking_a_shard_for_what_it_says_it_is_is_found() {
    check(Bug::AcceptWrongShard);
}

#[test]
fn counting_a_zone_twice_is_found() {
    check(Bug::CountZoneTwice);
}

#[test]
fn freeing_what_is_in_use_is_found() {
    check(Bug::CollectPinned);
}

#[test]
fn forgetting_that_something_is_no_longer_in_use_is_found() {
    check(Bug::DropUnpin);
}

#[test]
fn giving_shards_to_full_machines_is_found() {
    check(Bug::RepairToFull);
}

#[test]
fn leaving_data_where_it_may_not_be_is_found() {
    check(Bug::IgnoreRegions);
}

#[test]
fn serving_who_was_taken_out_is_found() {
    check(Bug::ServeTakenOut);
}

#[test]
fn letting_go_of_what_a_snapshot_holds_is_found() {
    check(Bug::ForgetSnapshots);
}

#[test]
fn links_that_go_on_showing_what_there_was_are_found() {
    check(Bug::LeaveLinks);
}

#[test]
fn links_that_go_on_after_they_were_ended_are_found() {
    check(Bug::KeepLinks);
}
