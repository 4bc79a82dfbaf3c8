//! Records of a space's charter, as a custodian takes them; epochs, successions and stops by an owner that means harm: the charter can still be kept, read and gone on from; and grants by
//! somebody who may let others in, and means harm: they take no more room than was kept for them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_crypto::{Signed, SigningKey, UserKeys};
use potluck_fuzz::{founded, guest};
use potluck_spaces::{
    Charter, CharterRecord, Epoch, GRANTS_UNDER_ONE_MAX, Grant, Joined, MemoryKv, Reader, Stop, Succession,
};
use potluck_types::{SystemEntropy, Timestamp, from_canonical};

fuzz_target!(|bytes: &[u8]| {
    let (owner, mut charter) = founded();
    let blank = Charter::of(charter.space(), charter.speakers());
    if let Ok(record) = CharterRecord::from_bytes(bytes) {
        assert_eq!(record.to_bytes(), bytes);
        let before = charter.clone();
        // Only what is there already is signed by the owner.
        assert!(!matches!(charter.join(&record), Ok(Joined::New)));
        assert!(charter == before);
    }
    let (room, everybody) = (charter.bytes(), charter.readers(Timestamp::default()).len());
    for grant in from_canonical::<Vec<Grant>>(bytes).unwrap_or_default() {
        join(
            &mut charter,
            Signed::sign(guest().signing(), &grant).map(CharterRecord::Grant),
        );
    }
    assert_eq!(charter.bytes(), room);
    assert!(charter.readers(Timestamp::default()).len() <= everybody + GRANTS_UNDER_ONE_MAX);
    let first = owner.all().next().expect("a person has a key");
    for epoch in from_canonical::<Vec<Epoch>>(bytes).unwrap_or_default() {
        join(&mut charter, Signed::sign(first, &epoch).map(CharterRecord::Epoch));
    }
    let (successions, stops) = from_canonical::<(Vec<Succession>, Vec<Stop>)>(bytes).unwrap_or_default();
    for succession in successions {
        let signed = Signed::sign(owner.signing(), &succession);
        join(&mut charter, signed.map(CharterRecord::Succession));
    }
    for stop in stops {
        join(
            &mut charter,
            Signed::sign(owner.signing(), &stop).map(CharterRecord::Stop),
        );
    }
    let mut kv = MemoryKv::default();
    charter.save(&mut kv).expect("tables in memory");
    assert!(blank.with_kept(&kv).expect("tables in memory") == charter);
    goes_on(&owner, owner.signing(), &mut charter);
});

fn join<E>(charter: &mut Charter, record: Result<CharterRecord, E>) {
    if let Ok(record) = record {
        let _ = charter.join(&record);
    }
}

/// Whatever epochs there are, the next one is good, and opens what could be opened before.
fn goes_on(owner: &UserKeys, signing: &SigningKey, charter: &mut Charter) {
    let before = charter.keys(owner, Timestamp::default());
    let Ok(next) = charter.next_epoch(signing, &[Reader::of(owner)], &before, &SystemEntropy) else {
        return;
    };
    if charter.join(&next).is_ok() {
        let after = charter.keys(owner, Timestamp::default());
        assert!(after.of(charter.first()).is_some() || before.of(charter.first()).is_none());
    }
}
