//! What records say together, in whatever order they came.

mod areas;

use super::*;
use crate::MemoryKv;
use potluck_types::SystemEntropy;

fn user(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

fn person(seed: u8) -> UserKeys {
    UserKeys::new(user(seed))
}

fn reader(seed: u8) -> Reader {
    Reader::of(&person(seed))
}

fn founded() -> Charter {
    Charter::found(&person(1), &Speakers::default(), at(7), &SystemEntropy).unwrap()
}

fn load(kv: &MemoryKv, space: SpaceId) -> Result<Charter, KvError> {
    Charter::of(space, &Speakers::default()).with_kept(kv)
}

fn keys(charter: &Charter, seed: u8) -> Keys {
    charter.keys(&person(seed), at(1000))
}

fn one_key(epoch: EpochId) -> Keys {
    Keys {
        epochs: BTreeMap::from([(Some(epoch), BoxKey::from_bytes([9; 32]))]),
        ..Keys::default()
    }
}

fn add_epoch(charter: &mut Charter, readers: &[u8]) -> EpochId {
    let readers: Vec<_> = readers.iter().map(|seed| reader(*seed)).collect();
    let record = charter
        .next_epoch(&user(1), &readers, &keys(charter, 1), &SystemEntropy)
        .unwrap();
    assert_eq!(charter.join(&record).unwrap(), Joined::New);
    charter.current().unwrap()
}

#[test]
fn the_founder_has_the_key_and_nobody_else() {
    let charter = founded();
    assert_eq!(charter.owner(), Some(user(1).user_id()));
    let now = Timestamp::from_millis(8);
    assert_eq!(charter.writers(now), BTreeSet::from([user(1).user_id()]));
    assert_eq!(charter.readers(now), charter.writers(now));
    assert!(keys(&charter, 1).of(charter.current()).is_some());
    assert_eq!(keys(&charter, 2), Keys::default());
    assert_ne!(charter.space(), founded().space());
}

#[test]
fn a_later_epoch_opens_those_before_and_none_after() {
    let mut charter = founded();
    let first = charter.current().unwrap();
    let second = add_epoch(&mut charter, &[1, 2]);
    let third = add_epoch(&mut charter, &[1]);
    let (all, removed) = (keys(&charter, 1), keys(&charter, 2));
    for epoch in [first, second, third] {
        assert!(all.of(Some(epoch)).is_some());
    }
    assert_eq!(charter.first(), Some(first));
    assert_eq!(removed.of(Some(first)), all.of(Some(first)));
    assert_eq!(removed.of(Some(second)), all.of(Some(second)));
    assert_eq!(removed.of(Some(third)), None);
}

#[test]
fn epochs_made_apart_are_both_good_and_one_of_them_is_used_by_all() {
    let mut one = founded();
    let mut other = one.clone();
    let (a, b) = (add_epoch(&mut one, &[1]), add_epoch(&mut other, &[1, 2]));
    let records: Vec<_> = other.records().cloned().collect();
    for record in &records {
        one.join(record).unwrap();
    }
    let records: Vec<_> = one.records().cloned().collect();
    for record in &records {
        other.join(record).unwrap();
    }
    assert_eq!(one, other);
    assert_eq!(one.current(), Some(a.max(b)));
    let next = add_epoch(&mut one, &[1, 3]);
    for epoch in [a, b, next] {
        assert!(keys(&one, 3).of(Some(epoch)).is_some());
    }
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn to(seed: u8, may_write: bool, until: Option<u64>) -> GrantTo {
    GrantTo {
        reader: reader(seed),
        may_write,
        until: until.map(at),
        quota: None,
        may_share: false,
        under: None,
        since: None,
        called: "photos".to_owned(),
    }
}

/// A grant by the owner, or by another with the charter's keys. It is not part of the charter yet.
fn given(charter: &Charter, by: u8, to: &GrantTo) -> CharterRecord {
    let keys = keys(charter, by);
    charter
        .next_grant(&user(by), to, &keys, at(10), &SystemEntropy)
        .unwrap()
}

fn grant(charter: &mut Charter, seed: u8, may_write: bool, until: Option<u64>) {
    let record = given(charter, 1, &to(seed, may_write, until));
    assert_eq!(charter.join(&record).unwrap(), Joined::New);
}

/// Lets one in who may let others in. Gives the grant.
fn grant_to_share(charter: &mut Charter, seed: u8, may_write: bool, until: Option<u64>) -> GrantId {
    let record = given(
        charter,
        1,
        &GrantTo {
            may_share: true,
            ..to(seed, may_write, until)
        },
    );
    charter.join(&record).unwrap();
    charter.shares(user(seed).user_id(), None, at(10)).unwrap().0
}

/// What one is given under a grant.
fn under_one(under: Option<GrantId>, seed: u8, may_write: bool) -> GrantTo {
    GrantTo {
        under,
        ..to(seed, may_write, None)
    }
}

/// Two, who may let others in, does.
fn lend(charter: &mut Charter, under: Option<GrantId>, seed: u8, may_write: bool) {
    charter
        .join(&given(charter, 2, &under_one(under, seed, may_write)))
        .unwrap();
}

/// Others hear of all records, in several orders, and keep them.
fn is_known_alike(charter: &Charter) {
    let records: Vec<_> = charter.records().cloned().collect();
    let mut others = [(); 2].map(|()| Charter::of(charter.space(), charter.speakers()));
    others[0].join_all(records.iter().rev());
    for _ in 0..records.len() {
        records.iter().rev().for_each(|record| _ = others[1].join(record));
    }
    assert!(others.iter().all(|other| other == charter));
    assert_eq!(&knowing(charter, charter.speakers()), charter);
}

fn device(seed: u8) -> NodeId {
    NodeId::from_bytes([seed; 32])
}

#[test]
fn who_is_let_in_reads_what_was_and_writes_if_that_was_said() {
    let mut charter = founded();
    let first = charter.current();
    add_epoch(&mut charter, &[1]);
    grant(&mut charter, 2, true, None);
    grant(&mut charter, 3, false, Some(20));
    for seed in [2, 3] {
        let keys = keys(&charter, seed);
        assert!(keys.of(first).is_some() && keys.of(charter.current()).is_some());
        assert_eq!(charter.called(&person(seed)).as_deref(), Some("photos"));
    }
    let may_write = |seed: u8, clock| charter.may_write(user(seed).user_id(), device(seed), 1, at(clock), None);
    assert!(may_write(1, 99) && may_write(2, 99) && !may_write(3, 15) && !may_write(4, 15));
    assert_eq!(charter.readers(at(20)).len(), 3);
    assert_eq!(charter.readers(at(21)).len(), 2);
    assert_eq!(charter.writers(at(21)).len(), 2);
    assert_eq!(keys(&charter, 4), Keys::default());
}

#[test]
fn who_is_taken_out_has_what_they_wrote_before_and_nothing_after_whatever_clock_they_say() {
    let mut charter = founded();
    grant(&mut charter, 2, true, None);
    let before = charter.current();
    let ends = vec![(device(2), 7)];
    let revocation = charter
        .next_revocation(&user(1), (user(2).user_id(), None), ends, at(30))
        .unwrap();
    charter.join(&revocation).unwrap();
    let after = add_epoch(&mut charter, &[1]);
    let may_write = |charter: &Charter, device, seq| charter.may_write(user(2).user_id(), device, seq, at(11), None);
    assert!(may_write(&charter, device(2), 7));
    assert!(!may_write(&charter, device(2), 8) && !may_write(&charter, device(9), 1));
    let last = |charter: &Charter, device| charter.last_counting(user(2).user_id(), device);
    assert_eq!((last(&charter, device(2)), last(&charter, device(9))), (7, 0));
    assert_eq!(charter.readers(at(31)), BTreeSet::from([user(1).user_id()]));
    let keys_left = keys(&charter, 2);
    assert!(keys_left.of(before).is_some() && keys_left.of(Some(after)).is_none());
    // Let in once more, they are as others.
    grant(&mut charter, 2, true, None);
    assert!(may_write(&charter, device(2), 8));
    assert_eq!(last(&charter, device(2)), u64::MAX);
    assert!(keys(&charter, 2).of(Some(after)).is_some());
    is_known_alike(&charter);
}

#[test]
fn who_may_lets_others_in_and_they_are_out_together() {
    let mut charter = founded();
    let under = Some(grant_to_share(&mut charter, 2, true, None));
    let (bob, carol, dave) = (user(2).user_id(), user(3).user_id(), user(4).user_id());
    let lent = given(&charter, 2, &under_one(under, 3, true));
    let heard_late = given(&charter, 2, &under_one(under, 4, true));
    charter.join(&lent).unwrap();
    assert_eq!(charter.readers(at(20)), BTreeSet::from([user(1).user_id(), bob, carol]));
    assert!(keys(&charter, 3).of(charter.current()).is_some());
    assert_eq!(charter.called(&person(3)).as_deref(), Some("photos"));
    assert!(charter.may_write(carol, device(3), 1, at(11), None));
    let of_carol = charter.grants(at(20)).find(|grant| grant.user == carol).unwrap();
    assert_eq!(charter.given_by(of_carol), Some(bob));
    is_known_alike(&charter);
    let (both, owner) = (BTreeSet::from([bob, carol]), user(1));
    assert_eq!(
        (charter.let_in_by(bob), charter.leaving_with(bob, None, at(20))),
        (both.clone(), both)
    );
    // Whom the owner has let in, too, stays.
    let mut kept = charter.clone();
    grant(&mut kept, 3, false, None);
    assert_eq!(kept.leaving_with(bob, None, at(20)), BTreeSet::from([bob]));
    let ends = vec![(device(2), 7), (device(3), 5)];
    let ended = charter.next_revocation(&owner, (bob, None), ends, at(30)).unwrap();
    for charter in [&mut charter, &mut kept] {
        charter.join(&ended).unwrap();
        charter.join(&heard_late).unwrap();
        assert!(charter.may_write(carol, device(3), 5, at(11), None));
        assert!(!charter.may_write(carol, device(3), 6, at(11), None));
        assert_eq!(
            (
                charter.last_counting(carol, device(3)),
                charter.last_counting(bob, device(2))
            ),
            (5, 7)
        );
        // Nobody knew of that one when it ended.
        assert!(!charter.may_write(dave, device(4), 1, at(11), None));
        assert_eq!(charter.last_counting(dave, device(4)), 0);
    }
    assert_eq!(charter.readers(at(31)), BTreeSet::from([owner.user_id()]));
    assert_eq!(kept.readers(at(31)), BTreeSet::from([owner.user_id(), carol]));
    is_known_alike(&charter);
    let reached = BTreeMap::from([(owner.user_id(), BTreeSet::new())]);
    assert!(charter.needs_epoch(&reached, &keys(&charter, 1), at(31)));
}

/// One who may let others in puts another key into what they give.
#[test]
fn nobody_gives_those_who_have_a_key_another() {
    let mut charter = founded();
    let under = Some(grant_to_share(&mut charter, 2, true, None));
    grant(&mut charter, 3, true, None);
    let (first, before) = (charter.current().unwrap(), [1, 2, 3].map(|seed| keys(&charter, seed)));
    let other = one_key(first);
    let poisoned = |charter: &Charter, seed: u8, keys: &Keys| {
        let to = GrantTo {
            under,
            called: "x".to_owned(),
            ..to(seed, true, None)
        };
        let at = at(u64::MAX);
        charter.next_grant(&user(2), &to, keys, at, &SystemEntropy).unwrap()
    };
    for seed in [1, 2] {
        let error = charter.join(&poisoned(&charter, seed, &other));
        assert!(matches!(error, Err(CharterError::Wider)), "{error:?}");
    }
    charter.join(&poisoned(&charter, 3, &other)).unwrap();
    charter.join_all(&charter.next_copies(&user(1), at(20)).unwrap());
    assert_eq!([1, 2, 3].map(|seed| keys(&charter, seed)), before);
    assert_eq!(charter.called(&person(3)).as_deref(), Some("photos"));
    // A key that opens nothing of what went before is none, also for who has no other.
    let second = add_epoch(&mut charter, &[1, 2]);
    let wrong = one_key(second);
    charter.join(&poisoned(&charter, 4, &wrong)).unwrap();
    assert!(keys(&charter, 4).is_empty());
    lend(&mut charter, under, 4, true);
    assert_eq!(keys(&charter, 4), keys(&charter, 1));
    // What they give begins no epoch, as long as the owner has not made it theirs.
    let reached: BTreeMap<_, _> = (1..5).map(|seed| (user(seed).user_id(), BTreeSet::new())).collect();
    let of_owner: BTreeMap<_, _> = reached
        .clone()
        .into_iter()
        .filter(|(id, _)| *id != user(3).user_id())
        .collect();
    assert!(charter.needs_epoch(&reached, &keys(&charter, 1), at(20)));
    assert!(!charter.needs_epoch(&of_owner, &keys(&charter, 1), at(20)));
}

#[test]
fn whom_the_owner_has_taken_out_nobody_else_lets_in_again() {
    let mut charter = founded();
    let under = Some(grant_to_share(&mut charter, 2, true, None));
    let lent = under_one(under, 3, true);
    charter.join(&given(&charter, 2, &lent)).unwrap();
    charter.join_all(&charter.next_copies(&user(1), at(20)).unwrap());
    let carol = user(3).user_id();
    let again = given(
        &charter,
        2,
        &GrantTo {
            called: "again".to_owned(),
            ..lent
        },
    );
    let ended = charter
        .next_revocation(&user(1), (carol, None), vec![(device(3), 5)], at(20))
        .unwrap();
    charter.join_all([&ended, &again]);
    assert!(!charter.readers(at(20)).contains(&carol) && charter.is_barred(carol, None));
    assert!(
        charter.may_write(carol, device(3), 5, at(11), None) && !charter.may_write(carol, device(3), 6, at(11), None)
    );
    is_known_alike(&charter);
    grant(&mut charter, 3, false, None);
    assert!(charter.readers(at(20)).contains(&carol));
}

#[test]
fn nobody_gives_more_than_they_have() {
    let mut charter = founded();
    let reads = Some(grant_to_share(&mut charter, 2, false, Some(50)));
    let writes = Some(grant_to_share(&mut charter, 3, true, None));
    let bounded = GrantTo {
        may_share: true,
        quota: Some(7),
        ..to(4, true, None)
    };
    charter.join(&given(&charter, 1, &bounded)).unwrap();
    let bounded = charter.shares(user(4).user_id(), None, at(10)).map(|(id, _)| id);
    grant(&mut charter, 5, true, None);
    let only_in = charter.grants.iter().find(|(_, grant)| grant.user == user(5).user_id());
    let only_in = only_in.map(|(id, _)| *id);
    let under = |under: Option<GrantId>, to: GrantTo| GrantTo { under, ..to };
    let refused = |by: u8, to: GrantTo| charter.clone().join(&given(&charter, by, &to)).unwrap_err();
    for (by, to) in [
        (2, under(reads, to(9, true, Some(50)))),
        (2, under(reads, to(9, false, None))),
        (2, under(reads, to(9, false, Some(51)))),
        (
            3,
            GrantTo {
                may_share: true,
                ..under(writes, to(9, true, None))
            },
        ),
        (4, under(bounded, to(9, true, None))),
        (5, under(only_in, to(9, false, None))),
    ] {
        let error = refused(by, to);
        assert!(matches!(error, CharterError::Wider), "{by}: {error:?}");
    }
    for (by, to) in [
        // Under another's, and in the owner's stead.
        (2, under(writes, to(9, false, None))),
        (3, to(9, true, None)),
    ] {
        let error = refused(by, to);
        assert!(matches!(error, CharterError::NotAllowed { .. }), "{by}: {error:?}");
    }
    let unknown = under(Some(Hash::of(b"nothing")), to(9, false, None));
    assert!(matches!(refused(2, unknown), CharterError::Early));
    // Nobody whom they let in lets in others.
    charter
        .join(&given(&charter, 3, &under(writes, to(6, true, None))))
        .unwrap();
    let lent = charter.grants.iter().find(|(_, grant)| grant.under == writes);
    let lent = lent.map(|(id, _)| *id);
    let error = charter
        .clone()
        .join(&given(&charter, 6, &under(lent, to(9, false, None))));
    assert!(matches!(error, Err(CharterError::Wider)), "{error:?}");
    for (by, to) in [
        (2, under(reads, to(9, false, Some(50)))),
        (4, under(bounded, to(9, false, None))),
    ] {
        charter.join(&given(&charter, by, &to)).unwrap();
    }
}

/// One who may let others in goes on and on, and not all hear of everything in the same order.
#[test]
fn what_others_give_never_fills_a_charter() {
    let mut charter = founded();
    let under = Some(grant_to_share(&mut charter, 2, true, None));
    let lent: Vec<_> = (0..2 * GRANTS_UNDER_ONE_MAX)
        .map(|_| given(&charter, 2, &under_one(under, 3, true)))
        .collect();
    let before = charter.bytes();
    assert!(before > UNDER_ONE_BYTES);
    let mut others = [charter.clone(), charter.clone()];
    let mut kv = MemoryKv::default();
    for record in &lent {
        let _ = charter.join(record);
        charter.save(&mut kv).unwrap();
    }
    lent.iter().rev().for_each(|record| _ = others[0].join(record));
    others[1].join_all(&lent);
    assert!(others.iter().all(|other| *other == charter));
    assert_eq!(
        (charter.records().count(), charter.bytes()),
        (3 + GRANTS_UNDER_ONE_MAX, before)
    );
    let error = charter.next_grant(
        &user(2),
        &under_one(under, 3, true),
        &keys(&charter, 2),
        at(10),
        &SystemEntropy,
    );
    assert!(matches!(error, Err(CharterError::TooManyUnderOne)), "{error:?}");
    // Those that do not count are not kept.
    let rows = kv
        .scan(Table::Charter, charter.space().as_bytes(), None, usize::MAX)
        .unwrap();
    assert_eq!(rows.len(), charter.records().count());
    assert_eq!(load(&kv, charter.space()).unwrap(), charter);
    // Nor do the owner's machines, which hear of one after the other.
    let mut heard = charter.clone();
    heard.grants.retain(|_, grant| grant.under.is_none());
    heard.passed_on.clear();
    for record in &lent {
        let _ = heard.join(record);
        heard.join_all(&heard.next_copies(&user(1), at(20)).unwrap());
    }
    let of_carol = heard.grants(at(20)).filter(|grant| grant.under.is_some());
    assert!(of_carol.count() <= GRANTS_UNDER_ONE_MAX + COPIES_UNDER_ONE_MAX);
    // The owner lets in no more of those than could read the space with all whom they let in.
    let mut seed = 10;
    let full = loop {
        let wanted = GrantTo {
            may_share: true,
            ..to(seed, false, None)
        };
        match charter.next_grant(&user(1), &wanted, &keys(&charter, 1), at(10), &SystemEntropy) {
            Ok(record) => charter.join(&record).unwrap(),
            Err(error) => break error,
        };
        seed += 1;
    };
    assert!(matches!(full, CharterError::TooManyReaders));
    assert_eq!(
        usize::from(seed - 10),
        limits::SPACE_READERS_MAX / READERS_WITH_ONE_MAX - 1
    );
}

/// More is given than counts, some of it is made the owner's, and some of that is ended: whoever hears of all of it knows the same.
#[test]
fn all_orders_of_arrival_give_the_same_charter() {
    let mut charter = founded();
    let under = Some(grant_to_share(&mut charter, 2, true, None));
    let mut all: Vec<CharterRecord> = charter.records().cloned().collect();
    let at_first = charter.clone();
    for round in 0..3 {
        for seed in 3..3 + u8::try_from(GRANTS_UNDER_ONE_MAX).unwrap() {
            let record = given(&at_first, 2, &under_one(under, seed, true));
            let _ = charter.join(&record);
            all.push(record);
        }
        let mut said = charter.next_copies(&user(1), at(20)).unwrap();
        charter.join_all(&said);
        let ends = vec![(device(3 + round), u64::from(round) + 1)];
        let out = user(3 + round).user_id();
        said.push(charter.next_revocation(&user(1), (out, None), ends, at(20)).unwrap());
        charter.join_all(&said);
        all.extend(said);
    }
    let mut state = 1_u64;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state >> 33
    };
    for _ in 0..20 {
        let mut other = Charter::of(charter.space(), charter.speakers());
        // What came too early comes again.
        for _ in 0..4 {
            let mut order: Vec<_> = all.iter().map(|record| (draw(), record)).collect();
            order.sort_by_key(|(drawn, _)| *drawn);
            order.iter().for_each(|(_, record)| _ = other.join(record));
        }
        other.join_all(&all);
        assert_eq!(other, charter);
    }
    is_known_alike(&charter);
}

/// A machine of one who lets others in is lost.
#[test]
fn what_the_owner_has_made_theirs_counts_whatever_becomes_of_the_key_of_who_gave_it() {
    let mut charter = founded();
    let under = Some(grant_to_share(&mut charter, 2, true, None));
    lend(&mut charter, under, 3, true);
    let copies = charter.next_copies(&user(1), at(20)).unwrap();
    assert_eq!(copies.len(), 1);
    charter.join_all(&copies);
    assert!(charter.next_copies(&user(1), at(20)).unwrap().is_empty());
    // The owner has not heard of this one.
    lend(&mut charter, under, 4, true);
    is_known_alike(&charter);
    let later = Speaker {
        user: user(2).user_id(),
        generation: 1,
    };
    let mut after = knowing(&charter, &Speakers::of([(user(102).public(), later)]));
    let readers = |charter: &Charter| -> Vec<u8> {
        let readers = charter.readers(at(20));
        (1..9).filter(|seed| readers.contains(&user(*seed).user_id())).collect()
    };
    assert_eq!((readers(&charter), readers(&after)), (vec![1, 2, 3, 4], vec![1, 2, 3]));
    // Only with the key in use.
    let lent = under_one(under, 5, true);
    let old = given(&charter, 2, &lent);
    assert!(matches!(after.join(&old), Err(CharterError::Replaced)));
    let held = keys(&after, 2);
    let new = after
        .next_grant(&user(102), &lent, &held, at(20), &SystemEntropy)
        .unwrap();
    after.join(&new).unwrap();
    assert_eq!(readers(&after), [1, 2, 3, 5]);
    is_known_alike(&after);
}

#[test]
fn whom_one_has_let_in_stays_as_far_as_that_one_may_let_them() {
    let mut charter = founded();
    let under = Some(grant_to_share(&mut charter, 2, true, None));
    lend(&mut charter, under, 3, true);
    lend(&mut charter, under, 4, false);
    charter.join_all(&charter.next_copies(&user(1), at(20)).unwrap());
    let bob = user(2).user_id();
    let again = |may_write: bool, may_share: bool| {
        let mut charter = charter.clone();
        let next = given(
            &charter,
            1,
            &GrantTo {
                may_share,
                ..to(2, may_write, None)
            },
        );
        let carried = charter.next_carried(&user(1), &next, at(20)).unwrap();
        let ended = charter
            .next_revocation(&user(1), (bob, None), Vec::new(), at(20))
            .unwrap();
        charter.join_all([&ended, &next]);
        charter.join_all(&carried);
        is_known_alike(&charter);
        let may = |seed: u8| charter.may_write(user(seed).user_id(), device(seed), 1, at(11), None);
        (charter.readers(at(20)).len(), may(3))
    };
    assert_eq!(again(true, true), (4, true));
    assert_eq!(again(false, true), (4, false));
    assert_eq!(again(true, false), (2, false));
}

/// The owner's devices take two people out apart, each with an epoch for the other one.
#[test]
fn what_was_changed_apart_is_followed_by_an_epoch_for_those_who_are_left() {
    let mut one = founded();
    for seed in [2, 3, 4] {
        grant(&mut one, seed, true, Some(100));
    }
    let all: BTreeMap<_, _> = (1..5).map(|seed| (user(seed).user_id(), BTreeSet::new())).collect();
    assert!(!one.needs_epoch(&all, &keys(&one, 1), at(50)));
    // The time of three is over.
    assert!(one.needs_epoch(&all, &keys(&one, 1), at(101)));
    let mut other = one.clone();
    let take_out = |charter: &mut Charter, seed: u8, left: &[u8]| {
        let gone = user(seed).user_id();
        let revocation = charter
            .next_revocation(&user(1), (gone, None), Vec::new(), at(30))
            .unwrap();
        charter.join(&revocation).unwrap();
        assert!(charter.needs_epoch(&all, &keys(charter, 1), at(50)));
        add_epoch(charter, left);
        assert!(!charter.needs_epoch(&all, &keys(charter, 1), at(50)));
    };
    take_out(&mut one, 2, &[1, 3, 4]);
    take_out(&mut other, 3, &[1, 2, 4]);
    for record in other.records() {
        one.join(record).unwrap();
    }
    assert!(one.needs_epoch(&all, &keys(&one, 1), at(50)));
    let after = add_epoch(&mut one, &[1, 4]);
    assert!(!one.needs_epoch(&all, &keys(&one, 1), at(50)));
    for (seed, has) in [(1, true), (2, false), (3, false), (4, true)] {
        assert_eq!(keys(&one, seed).of(Some(after)).is_some(), has, "{seed}");
    }
    // Nobody waits for one who cannot be reached, and nobody is left out who cannot be at the time.
    let reached = BTreeMap::from([(user(1).user_id(), BTreeSet::new())]);
    assert!(!one.needs_epoch(&reached, &keys(&one, 1), at(50)));
    add_epoch(&mut one, &[1]);
    assert!(!one.needs_epoch(&reached, &keys(&one, 1), at(50)));
    assert!(one.needs_epoch(&all, &keys(&one, 1), at(50)));
}

/// The owner of [`founded`], once another key has taken the place of theirs; and who speaks with which key then.
fn replaced() -> (UserKeys, Speakers) {
    let mut owner = person(1);
    owner.push(user(101));
    let later = Speaker {
        user: owner.id(),
        generation: 1,
    };
    let speakers = Speakers::of([(user(101).public(), later)]);
    (owner, speakers)
}

/// Those who have heard of a charter, now that its owner's key was replaced.
fn knowing(charter: &Charter, speakers: &Speakers) -> Charter {
    let mut kv = MemoryKv::default();
    charter.save(&mut kv).unwrap();
    Charter::of(charter.space(), speakers).with_kept(&kv).unwrap()
}

/// A machine that has the owner's first key is lost, and whoever has it uses that.
#[test]
fn what_a_key_signs_that_was_replaced_does_not_count_and_what_it_had_signed_does() {
    let mut charter = founded();
    grant(&mut charter, 2, true, None);
    let (owner, speakers) = replaced();
    let mut mine = knowing(&charter, &speakers);
    let reached = BTreeMap::from([
        (user(1).user_id(), Reader::former_tags(&owner)),
        (user(2).user_id(), BTreeSet::new()),
    ]);
    assert!(mine.needs_epoch(&reached, &keys(&mine, 1), at(20)));
    mine.succeed(&owner, at(20)).unwrap();
    assert!(mine.next_successions(&owner, at(21)).unwrap().is_empty());
    let readers = [Reader::of(&owner), reader(2)];
    let held = mine.keys(&owner, at(1000));
    let epoch = mine
        .next_epoch(owner.signing(), &readers, &held, &SystemEntropy)
        .unwrap();
    mine.join(&epoch).unwrap();
    assert!(!mine.needs_epoch(&reached, &keys(&mine, 1), at(20)));
    let stop = mine
        .next_stop(owner.signing(), vec![(device(1), 7)], at(20))
        .unwrap()
        .unwrap();
    mine.join(&stop).unwrap();
    // The lost machine has what was written until now, and nothing after.
    let lost = mine.keys(&person(1), at(1000));
    let current = mine.current();
    assert!(lost.of(charter.current()).is_some() && lost.of(current).is_none());
    for keys in [mine.keys(&owner, at(1000)), keys(&mine, 2)] {
        assert!(keys.of(charter.current()).is_some() && keys.of(current).is_some());
    }
    assert_eq!((mine.end_of(device(1)), mine.end_of(device(9))), (Some(7), None));
    // It lets somebody in: before others hear of the succession, or after.
    let mut thief = charter.clone();
    grant(&mut thief, 3, true, None);
    let forged: Vec<_> = thief
        .records()
        .filter(|record| !charter.records.contains_key(&record.hash()))
        .cloned()
        .collect();
    assert!(matches!(mine.join(&forged[0]), Err(CharterError::Replaced)));
    let mut fooled = knowing(&thief, &speakers);
    assert!(fooled.readers(at(20)).contains(&user(3).user_id()));
    let records: Vec<_> = mine.records().cloned().collect();
    fooled.join_all(&records);
    assert_eq!(fooled, mine);
    assert!(!fooled.readers(at(20)).contains(&user(3).user_id()));
    // And is not kept.
    let mut kv = MemoryKv::default();
    thief.save(&mut kv).unwrap();
    fooled.save(&mut kv).unwrap();
    assert_eq!(
        kv.scan(Table::Charter, mine.space().as_bytes(), None, usize::MAX)
            .unwrap()
            .len(),
        records.len()
    );
    // Whoever has not heard that the key was replaced takes nothing that is signed with the next.
    let mut behind = charter.clone();
    let refused = records.iter().filter(|record| behind.join(record).is_err()).count();
    assert_eq!((refused, behind.current()), (3, charter.current()));
}

#[test]
fn the_most_that_a_machine_of_the_owner_knew_of_a_lost_one_counts_and_nothing_that_an_old_key_says() {
    let mut charter = founded();
    let stop =
        |charter: &Charter, key: &SigningKey, seq: u64| charter.next_stop(key, vec![(device(1), seq)], at(20)).unwrap();
    // Who has the first key ends the log of a machine early, or late, before that key is replaced.
    for seq in [1, 1000] {
        charter.join(&stop(&charter, &user(1), seq).unwrap()).unwrap();
    }
    let (owner, speakers) = replaced();
    let mut mine = knowing(&charter, &speakers);
    mine.succeed(&owner, at(20)).unwrap();
    let mut other = mine.clone();
    let mine_says = stop(&mine, owner.signing(), 7).unwrap();
    let other_says = stop(&other, owner.signing(), 9).unwrap();
    for charter in [&mut mine, &mut other] {
        charter.join_all([&mine_says, &other_says]);
        assert_eq!(charter.end_of(device(1)), Some(9));
        assert!(stop(charter, owner.signing(), 9).is_none() && stop(charter, owner.signing(), 10).is_some());
    }
    assert_eq!(mine, other);
    assert_eq!(knowing(&mine, &speakers), mine);
}

#[test]
fn a_charter_that_is_full_is_taken_over() {
    let mut charter = founded();
    let nonce = || NodeId::from_bytes((&SystemEntropy as &dyn Entropy).bytes());
    let full = loop {
        let ends = (0..1000).map(|_| (nonce(), 1)).collect();
        let stop = charter.next_stop(&user(1), ends, at(10)).unwrap().unwrap();
        if let Err(error) = charter.join(&stop) {
            break error;
        }
    };
    assert!(matches!(full, CharterError::TooMuch));
    let (owner, speakers) = replaced();
    let mut mine = knowing(&charter, &speakers);
    let before = mine.clone();
    mine.succeed(&owner, at(20)).unwrap();
    assert!(before.records().all(|record| mine.records.contains_key(&record.hash())));
    assert!(mine.follows(owner.signing().public()));
}

/// Two machines of the owner's each know of something that the other does not, when they hear that the key is another.
#[test]
fn what_any_machine_of_the_owner_knew_of_counts() {
    let charter = founded();
    let (owner, speakers) = replaced();
    let mut apart: Vec<_> = [2, 3]
        .iter()
        .map(|seed| {
            let mut charter = charter.clone();
            grant(&mut charter, *seed, true, None);
            let mut charter = knowing(&charter, &speakers);
            charter.succeed(&owner, at(20)).unwrap();
            charter
        })
        .collect();
    let all: Vec<Vec<_>> = apart
        .iter()
        .map(|charter| charter.records().cloned().collect())
        .collect();
    for charter in &mut apart {
        charter.join_all(all.iter().flatten());
        assert_eq!(charter.readers(at(20)).len(), 3);
    }
    assert_eq!(apart[0], apart[1]);
    assert!(apart[0].next_successions(&owner, at(21)).unwrap().is_empty());
    // The key after that names what the one before has signed, too.
    let mut twice = owner.clone();
    twice.push(user(102));
    let whose = |seed, generation| {
        let speaker = Speaker {
            user: owner.id(),
            generation,
        };
        (user(seed).public(), speaker)
    };
    let speakers = Speakers::of([whose(101, 1), whose(102, 2)]);
    let mut later = knowing(&apart[0], &speakers);
    later.succeed(&twice, at(30)).unwrap();
    assert_eq!(later.readers(at(30)).len(), 3);
    let records: Vec<_> = later.records().cloned().collect();
    let mut newcomer = Charter::of(later.space(), &speakers);
    newcomer.join_all(&records);
    assert_eq!(newcomer, later);
}

#[test]
fn more_is_named_than_one_record_holds() {
    let mut charter = founded();
    for _ in 0..NAMED_MAX {
        let stop = charter.next_stop(
            &user(1),
            vec![(NodeId::from_bytes((&SystemEntropy as &dyn Entropy).bytes()), 1)],
            at(10),
        );
        charter.join(&stop.unwrap().unwrap()).unwrap();
    }
    let (owner, speakers) = replaced();
    let mut mine = knowing(&charter, &speakers);
    assert_eq!(mine, {
        let mut same = Charter::of(charter.space(), &speakers);
        same.join_all(charter.records());
        same
    });
    mine.succeed(&owner, at(20)).unwrap();
    assert_eq!(mine.records().count(), charter.records().count() + 2);
    assert_eq!(knowing(&mine, &speakers), mine);
}

#[test]
fn a_private_space_has_a_charter_once_its_persons_key_was_replaced() {
    let (owner, speakers) = replaced();
    let mut charter = Charter::private(owner.id(), &speakers);
    assert_eq!((charter.digest(), charter.current()), (None, None));
    let reached = |former: BTreeSet<u32>| BTreeMap::from([(owner.id(), former)]);
    assert!(!charter.needs_epoch(&reached(BTreeSet::new()), &Keys::default(), at(1)));
    assert!(charter.needs_epoch(&reached(Reader::former_tags(&owner)), &Keys::default(), at(1)));
    charter.succeed(&owner, at(2)).unwrap();
    assert_eq!(charter.records().count(), 1);
    let epoch = charter.next_epoch(owner.signing(), &[Reader::of(&owner)], &Keys::default(), &SystemEntropy);
    charter.join(&epoch.unwrap()).unwrap();
    assert!(charter.keys(&owner, at(1000)).of(charter.current()).is_some());
    let lost = charter.keys(&person(1), at(1000));
    assert!(lost.of(charter.current()).is_none() && lost.of(None).is_some());
    // A first key, which others may have, begins no epoch after that.
    let theirs = charter.next_epoch(&user(1), &[reader(1)], &Keys::default(), &SystemEntropy);
    assert!(matches!(charter.join(&theirs.unwrap()), Err(CharterError::Replaced)));
    let mut kv = MemoryKv::default();
    charter.save(&mut kv).unwrap();
    assert_eq!(Charter::private(owner.id(), &speakers).with_kept(&kv).unwrap(), charter);
}

#[test]
fn nobody_but_the_owner_lets_in_or_takes_out() {
    let mut charter = founded();
    grant(&mut charter, 2, true, None);
    let before = charter.clone();
    let theirs = keys(&charter, 2);
    let to = GrantTo {
        reader: reader(3),
        may_write: true,
        until: None,
        quota: None,
        may_share: false,
        under: None,
        since: None,
        called: String::new(),
    };
    let grant = charter
        .next_grant(&user(2), &to, &theirs, at(11), &SystemEntropy)
        .unwrap();
    let revocation = charter
        .next_revocation(&user(2), (user(2).user_id(), None), Vec::new(), at(12))
        .unwrap();
    for record in [grant, revocation] {
        assert!(matches!(charter.join(&record), Err(CharterError::NotAllowed { .. })));
    }
    assert_eq!(charter, before);
}

#[test]
fn strangers_and_other_spaces_change_nothing() {
    let mut charter = founded();
    let before = charter.clone();
    let theirs = before
        .next_epoch(&user(2), &[reader(2)], &Keys::default(), &SystemEntropy)
        .unwrap();
    assert!(matches!(charter.join(&theirs), Err(CharterError::NotAllowed { .. })));
    for record in founded().records() {
        assert!(matches!(charter.join(record), Err(CharterError::Foreign)));
    }
    assert_eq!(charter, before);
}

#[test]
fn records_are_taken_when_what_they_rest_on_is_there() {
    let mut charter = founded();
    add_epoch(&mut charter, &[1]);
    let records: Vec<_> = charter.records().cloned().collect();
    let mut behind = Charter::of(charter.space(), &Speakers::default());
    assert!(matches!(behind.join(&records[1]), Err(CharterError::NotFounded)));
    behind.join(&records[0]).unwrap();
    assert!(matches!(behind.join(&records[2]), Err(CharterError::Early)));
    for record in &records[1..] {
        assert_eq!(behind.join(record).unwrap(), Joined::New);
    }
    assert_eq!(behind, charter);
    assert_eq!(behind.digest(), charter.digest());
    assert_eq!(behind.join(&records[1]).unwrap(), Joined::Known);
}

#[test]
fn what_is_kept_comes_back() {
    let (mut kv, mut charter) = (MemoryKv::default(), founded());
    for _ in 0..5 {
        add_epoch(&mut charter, &[1]);
    }
    charter.save(&mut kv).unwrap();
    founded().save(&mut kv).unwrap();
    assert_eq!(load(&kv, charter.space()).unwrap(), charter);
    // What is damaged is as if it had not come.
    let last = charter.records().last().unwrap().clone();
    let key = [&charter.space().as_bytes()[..], last.hash().as_bytes()].concat();
    kv.put(Table::Charter, &key, b"garbled").unwrap();
    let mut damaged = load(&kv, charter.space()).unwrap();
    assert_eq!(damaged.records().count() + 1, charter.records().count());
    assert_eq!(damaged.join_kept(&mut kv, &last).unwrap(), Joined::New);
    assert_eq!(load(&kv, charter.space()).unwrap(), charter);
    assert_eq!(load(&kv, SpaceId::from_bytes([9; 32])).unwrap().digest(), None);
}

#[test]
fn garbled_records_are_refused() {
    let charter = founded();
    for record in charter.records() {
        let bytes = record.to_bytes();
        for at in 0..bytes.len() {
            let mut garbled = bytes.clone();
            garbled[at] ^= 1;
            let mut other = Charter::of(charter.space(), &Speakers::default());
            other.join(charter.records().next().unwrap()).unwrap();
            let taken = CharterRecord::from_bytes(&garbled).and_then(|record| other.join(&record));
            assert!(taken.is_err(), "byte {at}");
        }
    }
}
