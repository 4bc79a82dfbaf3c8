//! People who are let into a directory alone.

use super::*;
use crate::AREAS_MAX;

fn area(tag: u8) -> AreaId {
    AreaId::of_tests(tag)
}

fn to_area(seed: u8, tag: u8) -> GrantTo {
    GrantTo {
        reader: Reader {
            area: Some(area(tag)),
            ..reader(seed)
        },
        called: format!("photos/{tag}"),
        ..to(seed, true, None)
    }
}

fn let_into(charter: &mut Charter, seed: u8, tag: u8) {
    let record = given(charter, 1, &to_area(seed, tag));
    assert_eq!(charter.join(&record).unwrap(), Joined::New);
}

/// Another epoch, for those who may read by now.
fn next_epoch(charter: &mut Charter, readers: &[(u8, Option<u8>)]) -> EpochId {
    let readers: Vec<_> = readers
        .iter()
        .map(|(seed, tag)| Reader {
            area: tag.map(area),
            ..reader(*seed)
        })
        .collect();
    let record = charter
        .next_epoch(&user(1), &readers, &keys(charter, 1), &SystemEntropy)
        .unwrap();
    assert_eq!(charter.join(&record).unwrap(), Joined::New);
    charter.current().unwrap()
}

fn within(keys: &Keys, epoch: EpochId, tag: u8) -> Option<BoxKey> {
    keys.within(Some(epoch), Some(area(tag)))
}

#[test]
fn who_is_let_into_a_directory_has_its_key_and_no_other() {
    let mut charter = founded();
    let first = charter.current().unwrap();
    let_into(&mut charter, 2, 1);
    let (owner, theirs) = (keys(&charter, 1), keys(&charter, 2));
    assert_eq!(within(&theirs, first, 1), within(&owner, first, 1));
    assert_eq!((theirs.of(Some(first)), within(&theirs, first, 2)), (None, None));
    assert_ne!(within(&owner, first, 1), within(&owner, first, 2));
    assert_ne!(within(&owner, first, 1).as_ref(), owner.of(Some(first)));
    let areas = BTreeMap::from([(area(1), "1".to_owned())]);
    assert_eq!(*theirs.scope(), Scope::Areas { areas, is_over: false });
    assert_eq!(*owner.scope(), Scope::All);
    assert_eq!(charter.called(&person(2)).as_deref(), Some("photos"));
    let may = |tag: Option<u8>| charter.may_write(user(2).user_id(), device(2), 1, at(11), tag.map(area));
    assert_eq!([may(Some(1)), may(Some(2)), may(None)], [true, false, false]);
    let now = at(20);
    assert!(
        charter.readers(now).contains(&user(2).user_id()) && !charter.whole_readers(now).contains(&user(2).user_id())
    );
}

#[test]
fn later_epochs_open_what_was_written_in_a_directory_before_and_the_other_way_round_nothing() {
    let mut charter = founded();
    let first = charter.current().unwrap();
    let_into(&mut charter, 2, 1);
    let second = next_epoch(&mut charter, &[(1, None), (2, Some(1))]);
    // Who was let in until then is not any more.
    let third = next_epoch(&mut charter, &[(1, None), (3, Some(1))]);
    let owner = keys(&charter, 1);
    let (before, after) = (keys(&charter, 2), keys(&charter, 3));
    for epoch in [first, second, third] {
        assert_eq!(within(&after, epoch, 1), within(&owner, epoch, 1));
        assert_eq!(within(&before, epoch, 1).is_some(), epoch != third);
        assert_eq!((after.of(Some(epoch)), before.of(Some(epoch))), (None, None));
    }
    // A directory in which something was written before anybody was let into it.
    let to = GrantTo {
        since: Some(0),
        ..to_area(4, 2)
    };
    let record = given(&charter, 1, &to);
    charter.join(&record).unwrap();
    assert_eq!(within(&keys(&charter, 4), second, 2), None);
    let next = next_epoch(&mut charter, &[(1, None), (4, Some(2))]);
    for epoch in [first, second, third, next] {
        assert!(within(&keys(&charter, 4), epoch, 2).is_some());
    }
    is_known_alike(&charter);
}

#[test]
fn another_epoch_is_begun_when_who_has_a_key_may_have_less() {
    let mut charter = founded();
    let reached = |seeds: &[u8]| -> BTreeMap<UserId, BTreeSet<u32>> {
        seeds
            .iter()
            .map(|seed| (user(*seed).user_id(), BTreeSet::new()))
            .collect()
    };
    let needs = |charter: &Charter| charter.needs_epoch(&reached(&[1, 2]), &keys(charter, 1), at(20));
    let_into(&mut charter, 2, 1);
    assert!(!needs(&charter), "they were given the key");
    grant(&mut charter, 2, true, None);
    assert!(!needs(&charter));
    // All of it is theirs no more, and the directory is.
    let id = |record: &CharterRecord| match record {
        CharterRecord::Grant(signed) if signed.claimed().unwrap().area.is_none() => Some(signed.hash()),
        _ => None,
    };
    let whole = charter.records().find_map(id).unwrap();
    let ended = Revocation {
        version: VERSION,
        space: charter.space(),
        at: at(15),
        grants: vec![whole],
        ends: Vec::new(),
        area: None,
    };
    charter
        .join(&CharterRecord::Revocation(Signed::sign(&user(1), &ended).unwrap()))
        .unwrap();
    assert!(needs(&charter), "they have the key to all of it");
    next_epoch(&mut charter, &[(1, None), (2, Some(1))]);
    assert!(!needs(&charter));
    assert!(matches!(keys(&charter, 2).scope(), Scope::Areas { .. }));
    // Another directory, of which they were not told in this epoch.
    next_epoch(&mut charter, &[(1, None)]);
    assert!(needs(&charter), "they have no key");
}

#[test]
fn a_space_has_so_many_such_directories_and_an_epoch_with_all_of_them_fits() {
    let mut charter = founded();
    let tags = || 1..=u8::try_from(AREAS_MAX).unwrap();
    for tag in tags() {
        let_into(&mut charter, 2, tag);
    }
    let more = charter.next_grant(&user(1), &to_area(2, 200), &keys(&charter, 1), at(10), &SystemEntropy);
    assert!(matches!(more, Err(CharterError::TooManyAreas)));
    let mut readers = vec![(1, None)];
    readers.extend(tags().map(|tag| (2, Some(tag))));
    let most = limits::SPACE_READERS_MAX - READERS_PER_AREA * AREAS_MAX - readers.len();
    readers.extend((0..most).map(|_| (3, None)));
    for _ in 0..3 {
        next_epoch(&mut charter, &readers);
    }
    let theirs = keys(&charter, 2);
    assert!(tags().all(|tag| within(&theirs, charter.first().unwrap(), tag).is_some()));
}

#[test]
fn who_lets_others_into_a_directory_has_it() {
    let mut charter = founded();
    let to = GrantTo {
        may_share: true,
        ..to_area(2, 1)
    };
    let record = given(&charter, 1, &to);
    charter.join(&record).unwrap();
    let under = charter
        .shares(user(2).user_id(), Some(area(1)), at(10))
        .map(|(id, _)| id);
    assert!(under.is_some());
    assert!(charter.shares(user(2).user_id(), None, at(10)).is_none());
    assert!(charter.shares(user(2).user_id(), Some(area(2)), at(10)).is_none());
    let lent = |seed: u8, area: Option<AreaId>| GrantTo {
        reader: Reader { area, ..reader(seed) },
        under,
        ..to_area(seed, 1)
    };
    let own = keys(&charter, 2);
    let record = charter.next_grant(&user(2), &lent(3, Some(area(1))), &own, at(10), &SystemEntropy);
    charter.join(&record.unwrap()).unwrap();
    assert_eq!(keys(&charter, 3), keys(&charter, 2));
    // They have no key to anything else, and whoever makes one up is not believed.
    let wider = charter.next_grant(&user(2), &lent(4, None), &own, at(10), &SystemEntropy);
    assert!(wider.is_err());
    for other in [None, Some(area(2))] {
        let made_up = charter.next_grant(&user(2), &lent(4, other), &keys(&charter, 1), at(10), &SystemEntropy);
        assert!(matches!(charter.join(&made_up.unwrap()), Err(CharterError::Wider)));
    }
    is_known_alike(&charter);
}
