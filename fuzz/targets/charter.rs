//! Records of a space's charter, as a custodian takes them; and epochs by an owner that means harm: the charter can still be kept, read and gone on from.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_crypto::{Signed, SigningKey, derive::recipient_key};
use potluck_fuzz::founded;
use potluck_spaces::{Charter, CharterRecord, Epoch, Joined, MemoryKv};
use potluck_types::{SystemEntropy, from_canonical};

fuzz_target!(|bytes: &[u8]| {
    let (owner, mut charter) = founded();
    if let Ok(record) = CharterRecord::from_bytes(bytes) {
        assert_eq!(record.to_bytes(), bytes);
        let before = charter.clone();
        // Only what is there already is signed by the owner.
        assert!(!matches!(charter.join(&record), Ok(Joined::New)));
        assert!(charter == before);
    }
    for epoch in from_canonical::<Vec<Epoch>>(bytes).unwrap_or_default() {
        if let Ok(signed) = Signed::sign(&owner, &epoch) {
            let _ = charter.join(&CharterRecord::Epoch(signed));
        }
    }
    let mut kv = MemoryKv::default();
    charter.save(&mut kv).expect("tables in memory");
    assert!(Charter::load(&kv, charter.space()).expect("tables in memory") == charter);
    goes_on(&owner, &mut charter);
});

/// Whatever epochs there are, the next one is good, and opens what could be opened before.
fn goes_on(owner: &SigningKey, charter: &mut Charter) {
    let key = recipient_key(owner);
    let before = charter.keys(owner.user_id(), &key);
    let readers = [(owner.user_id(), key.recipient())];
    let Ok(next) = charter.next_epoch(owner, &readers, &before, &SystemEntropy) else {
        return;
    };
    if charter.join(&next).is_ok() {
        let after = charter.keys(owner.user_id(), &key);
        assert!(after.of(charter.first()).is_some() || before.of(charter.first()).is_none());
    }
}
