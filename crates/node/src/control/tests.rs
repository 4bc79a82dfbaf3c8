use super::*;
use crate::records::{Certificate, Genesis, NodeState, VERSION, sign};
use potluck_crypto::{SigningKey, UserKeys};
use potluck_types::Geometry;

const GRACE: Duration = Duration::from_secs(900);

pub(super) fn key(i: u8) -> SigningKey {
    SigningKey::from_seed(&[i; 32])
}

fn certificate(roster: &Roster, node: u8, seq: u64, active: bool) -> PoolRecord {
    let value = Certificate {
        active,
        ..Certificate::new(&UserKeys::new(key(1)), roster.pool(), key(node).node_id(), seq)
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
    doubting(control, 11, &[])
}

/// What a node says that doubts these.
fn doubting(control: &Control, node: u8, doubts: &[u8]) -> PoolRecord {
    let state = NodeState {
        doubts: doubts.iter().map(|node| key(*node).node_id()).collect(),
        ..NodeState::sample(control.roster.pool(), 1 + doubts.len() as u64, 1 << 20)
    };
    PoolRecord::State(sign(&key(node), &state))
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

#[test]
fn one_doubt_drains_nobody_and_most_doubts_do() {
    let mut control = core(Remembered::default(), 0);
    for node in [13, 14] {
        let record = certificate(&control.roster, node, 1, true);
        control.handle(at(1), Event::Record(record));
    }
    for node in [12, 13, 14] {
        control.handle(at(1), Event::Connected(key(node).node_id()));
    }
    let accused = key(14).node_id();
    let presence = |control: &Control| control.present_view(at(2)).nodes[&accused].presence;
    // Three others are here: one, and the accused's word against others, are not most.
    let says = |control: &mut Control, node, doubts: &[u8]| {
        let record = doubting(control, node, doubts);
        control.handle(at(2), Event::Record(record))
    };
    let actions = says(&mut control, 12, &[14, 14]);
    assert_eq!(presence(&control), Presence::Live);
    assert!(
        actions
            .iter()
            .any(|action| matches!(action, Action::Probe(node) if *node == accused)),
        "who hears a doubt looks for itself"
    );
    says(&mut control, 14, &[12, 13, 11]);
    assert!(
        control
            .present_view(at(2))
            .nodes
            .values()
            .all(|facts| facts.presence == Presence::Live)
    );
    says(&mut control, 13, &[14]);
    assert_eq!(presence(&control), Presence::Leaving);
    assert!(!control.present_view(at(2)).takes(accused));
    // One of them goes: one of two is not most.
    control.handle(at(3), Event::Disconnected(key(13).node_id()));
    assert_eq!(presence(&control), Presence::Live);
}

/// The simulation found it (seed 100008): who was drained, so that nothing of it was left to ask for, was doubted for ever.
#[test]
fn a_doubt_ends_though_nothing_is_left_to_ask_for() {
    let mut control = core(Remembered::default(), 0);
    let accused = key(12).node_id();
    let shard = |index| ShardId {
        stripe: StripeId::from_bytes([7; 32]),
        index,
    };
    control.handle(
        at(1),
        Event::Audited {
            holder: accused,
            outcomes: (0..20).map(|index| (shard(index), Audited::Wrong)).collect(),
            is_probe: true,
        },
    );
    assert!(control.standings().is_doubted(accused));
    let (mut now, mut ticks) = (at(1), 0);
    while control.standings().is_doubted(accused) {
        now = control.wake_at(now);
        let actions = control.handle(now, Event::Tick);
        let is_told = actions.iter().any(|action| matches!(action, Action::Announce));
        assert_eq!(is_told, !control.standings().is_doubted(accused));
        ticks += 1;
        assert!(ticks < 10_000 && now <= at(1 + 86_400), "{now:?}");
    }
    assert_eq!(now, at(1 + 86_400));
}

#[test]
fn when_all_are_back_others_need_not_report_again() {
    let [other, flapping] = [12, 13].map(|node| key(node).node_id());
    let mut control = core(Remembered::default(), 0);
    let record = certificate(&control.roster, 13, 1, true);
    control.handle(at(1), Event::Record(record));
    let confirm = |control: &mut Control, node| {
        let digest = control.view_digest();
        control.check(node, ReportSum::default(), digest)
    };
    let settle = SETTLE.as_secs() + 1;
    let me = control.me;
    for node in [other, flapping] {
        control.handle(at(1), Event::Connected(node));
    }
    control.handle(at(1), Event::Tick);
    for node in [me, other, flapping] {
        assert_eq!(confirm(&mut control, node), (Check::Agrees, true));
    }
    assert!(control.may_mend(at(2)));

    // One vanishes and comes back. The other has not seen it, and has no reason to report: only the one that vanished is waited for.
    let comes_and_goes = |control: &mut Control, now: u64| {
        control.handle(at(now), Event::Disconnected(flapping));
        control.handle(at(now + settle), Event::Tick);
        assert!(
            !control.may_mend(at(now + settle)),
            "who looks after more waits for all"
        );
        control.handle(at(now + settle + 1), Event::Connected(flapping));
        assert!(!control.may_mend(at(now + settle + 1)));
        assert_eq!(confirm(control, flapping), (Check::Agrees, true));
    };
    comes_and_goes(&mut control, 100);
    assert!(control.may_mend(at(100 + settle + 2)));

    // Who reports what was not known meanwhile has to report all of it.
    control.handle(at(200), Event::Disconnected(flapping));
    control.handle(at(200 + settle), Event::Tick);
    let mut differs = ReportSum::default();
    differs.add(ShardId {
        stripe: StripeId::from_bytes([1; 32]),
        index: 0,
    });
    let digest = control.view_digest();
    assert_eq!(control.check(other, differs, digest), (Check::Differs, false));
    comes_and_goes(&mut control, 220);
    assert!(!control.may_mend(at(220 + settle + 2)));
    assert_eq!(confirm(&mut control, other), (Check::Agrees, true));
    assert!(control.may_mend(at(220 + settle + 2)));
}

/// Whether a check is among these, and whether it is one of all.
fn check_in(actions: &[Action]) -> Option<bool> {
    actions.iter().find_map(|action| match action {
        Action::CheckReports { all } => Some(*all),
        _ => None,
    })
}

/// When what is held is compared with what others know, in seconds, and whether with all of them; each check ends at once, with this outcome.
fn checks(control: &mut Control, seconds: std::ops::Range<u64>, agreed: bool) -> Vec<(u64, bool)> {
    let mut checks = Vec::new();
    for now in seconds {
        if let Some(all) = check_in(&control.handle(at(now), Event::Tick)) {
            checks.push((now, all));
            control.handle(at(now), Event::Checked { agreed });
            control.handle(at(now), Event::Rested);
        }
    }
    checks
}

#[test]
fn all_stewards_are_asked_more_and_more_rarely_and_those_that_have_not_agreed_more_often() {
    let other = key(12).node_id();
    let mut control = core(Remembered::default(), 0);
    control.handle(at(0), Event::Connected(other));
    assert_eq!(
        checks(&mut control, 0..3000, true),
        [(1, false), (30, true), (150, true), (630, true), (2550, true)]
    );
    // Whoever comes is asked, and whoever calls for it, but not all the time.
    control.handle(at(3000), Event::Connected(other));
    assert_eq!(checks(&mut control, 3000..3002, true), [(3001, false)]);
    let mut called = Vec::new();
    for now in 3002..3100 {
        let actions = control.handle(at(now), Event::Open);
        called.extend(check_in(&actions).map(|all| (now, all)));
        control.handle(at(now), Event::Rested);
    }
    assert_eq!(called, [(3031, false), (3061, false), (3091, false)]);
    assert_eq!(checks(&mut control, 3100..3500, true), [(3121, false)]);
    // There is one check at a time, and what is called for meanwhile comes after it.
    control.handle(at(3500), Event::Connected(other));
    assert_eq!(check_in(&control.handle(at(3501), Event::Tick)), Some(false));
    control.handle(at(3502), Event::Connected(other));
    assert_eq!(check_in(&control.handle(at(3600), Event::Tick)), None);
    assert_eq!(
        check_in(&control.handle(at(3600), Event::Checked { agreed: true })),
        None
    );
    assert_eq!(check_in(&control.handle(at(3601), Event::Rested)), Some(false));
    control.handle(at(3601), Event::Rested);
    // Where not all agree, the others are asked again.
    control.handle(at(4000), Event::Connected(other));
    let open: Vec<_> = checks(&mut control, 4000..6000, false);
    assert!(open.iter().all(|(_, all)| !all), "{open:?}");
    let often = open.windows(2).map(|pair| pair[1].0 - pair[0].0);
    assert!(often.clone().take(5).eq([1, 2, 4, 8, 16]), "{open:?}");
    assert!(often.max().unwrap() <= 300, "{open:?}");
}

#[test]
fn a_steward_that_waits_for_reports_says_so_once() {
    let other = key(12).node_id();
    let mut control = core(Remembered::default(), 0);
    control.handle(at(0), Event::Connected(other));
    let greeted = |control: &mut Control, now| {
        let actions = control.handle(at(now), Event::Tick);
        actions
            .iter()
            .any(|action| matches!(action, Action::Greet(node) if *node == other))
    };
    assert!(!greeted(&mut control, 29));
    assert!(greeted(&mut control, 30) && !greeted(&mut control, 31));
    // Who has reported need not be told.
    control.handle(at(100), Event::Disconnected(other));
    control.handle(at(110), Event::Tick);
    control.handle(at(111), Event::Connected(other));
    control.handle(at(112), Event::Tick);
    let digest = control.view_digest();
    assert_eq!(
        control.check(other, ReportSum::default(), digest),
        (Check::Agrees, true)
    );
    assert!(!greeted(&mut control, 200));
}

#[test]
fn what_no_log_names_is_taken_off_the_losses_once() {
    let mut control = core(Remembered::default(), 0);
    let shard_of = |stripe: u8| Reported {
        shard: ShardId {
            stripe: StripeId::from_bytes([stripe; 32]),
            index: 0,
        },
        geometry: Geometry::new(3, 2).unwrap(),
        shard_len: 1000,
        space: None,
    };
    let state = state(&control);
    control.handle(at(0), Event::Record(state));
    control.handle(at(10), Event::Tick);
    // Of each of two stripes one shard of three that are needed; nobody names the first.
    let (me, unnamed) = (control.me, shard_of(1).shard.stripe);
    for stripe in [1, 2] {
        control.planner.report(at(11), me, shard_of(stripe), false);
    }
    let unreadable = |control: &mut Control| control.health(at(200)).unreadable;
    control.handle(at(200), Event::Tick);
    assert_eq!(unreadable(&mut control), 2);
    control.handle(at(200), Event::Unnamed([unnamed].into()));
    assert_eq!(unreadable(&mut control), 1);
    // The planner leaves it out by itself when a repair has found that out.
    control.planner.finished(unnamed, Outcome::Unnamed, at(200));
    assert_eq!(unreadable(&mut control), 1);
}
