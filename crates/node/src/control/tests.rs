use super::*;
use crate::records::{Certificate, Genesis, NodeState, VERSION, sign};
use potluck_crypto::SigningKey;
use potluck_types::ByteSize;

const GRACE: Duration = Duration::from_secs(900);

pub(super) fn key(i: u8) -> SigningKey {
    SigningKey::from_seed(&[i; 32])
}

fn certificate(roster: &Roster, node: u8, seq: u64, active: bool) -> PoolRecord {
    let value = Certificate {
        version: VERSION,
        pool: roster.pool(),
        node: key(node).node_id(),
        seq,
        active,
    };
    PoolRecord::Certificate(sign(&key(1), &value))
}

/// A pool of the nodes 11 and 12, both of one person.
fn roster() -> Roster {
    let genesis = Genesis {
        version: VERSION,
        name: "home".to_owned(),
        created: at(0),
        nonce: [0; 16],
    };
    let mut roster = Roster::new(sign(&key(1), &genesis)).unwrap();
    for node in [11, 12] {
        roster.merge(&certificate(&roster, node, 1, true)).unwrap();
    }
    roster
}

pub(super) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(1_000_000_000 + 1000 * seconds)
}

pub(super) fn core(remembered: Remembered, seconds: u64) -> Control {
    Control::new(key(11).node_id(), roster(), remembered, GRACE, at(seconds))
}

/// What node 11 says of itself: it offers a megabyte.
pub(super) fn state(control: &Control) -> PoolRecord {
    let state = NodeState {
        version: VERSION,
        pool: control.roster.pool(),
        seq: 1,
        capacity: ByteSize(1 << 20),
        used: ByteSize(0),
        zone: None,
        addresses: Vec::new(),
        leaving: false,
        software: "0".to_owned(),
        name: None,
        revision: 1,
        run: Timestamp::default(),
        doubts: Vec::new(),
    };
    PoolRecord::State(sign(&key(11), &state))
}

fn saves_absences(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::SaveAbsences))
}

#[test]
fn an_absence_is_remembered_over_a_restart_and_over_when_the_other_is_back() {
    let other = key(12).node_id();
    let mut first = core(Remembered::default(), 0);
    assert!(!saves_absences(&first.handle(at(59), Event::Tick)), "too short to note");
    assert!(saves_absences(&first.handle(at(61), Event::Tick)));
    assert!(!saves_absences(&first.handle(at(62), Event::Tick)), "noted already");
    assert!(saves_absences(&first.handle(at(661), Event::Tick)), "it still is");
    let (absences, noted_at) = first.absences();
    let remembered = Remembered {
        absences: absences.clone(),
        noted_at,
        ..Remembered::default()
    };
    // What passed while nobody looked does not count.
    let before = at(5000 - 661);
    let mut second = core(remembered, 5000);
    assert_eq!(second.nodes(at(5001))[1].away_since, Some(before));
    // It may be here, and not connected yet: nothing is done for its absence before that had the time to show.
    let since = |control: &Control, now| match control.present_view(now).nodes[&other].presence {
        Presence::Away { since } => since,
        presence => panic!("{presence:?}"),
    };
    assert_eq!(since(&second, at(5001)), at(5000));
    assert_eq!(since(&second, at(5061)), before);
    assert!(saves_absences(&second.handle(at(5062), Event::Connected(other))));
    assert!(second.absences().0.is_empty());
}

#[test]
fn an_absence_from_the_future_is_one_from_now() {
    let remembered = Remembered {
        absences: [(key(12).node_id(), at(9000))].into(),
        ..Remembered::default()
    };
    let control = core(remembered, 100);
    assert_eq!(control.nodes(at(101))[1].away_since, Some(at(100)));
}

#[test]
fn a_node_that_is_taken_out_says_so_once() {
    let mut control = core(Remembered::default(), 0);
    let end = certificate(&control.roster, 11, 2, false);
    let is_out = |actions: &[Action]| actions.iter().any(|action| matches!(action, Action::TakenOut));
    assert!(is_out(&control.handle(at(1), Event::Record(end.clone()))));
    assert!(!is_out(&control.handle(at(2), Event::Record(end))));
    let mut other = core(Remembered::default(), 0);
    let end = certificate(&other.roster, 12, 2, false);
    assert!(!is_out(&other.handle(at(1), Event::Record(end))));
}
