//! An entry of a log, as a custodian takes it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_crypto::Signed;
use potluck_spaces::{Entry, Log, MemoryKv};
use potluck_types::SpaceId;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(signed) = Signed::<Entry>::from_bytes(bytes) {
        assert_eq!(signed.to_bytes(), bytes);
        let _ = Log::of(SpaceId::from_bytes([1; 32])).append(&mut MemoryKv::default(), &signed);
    }
});
