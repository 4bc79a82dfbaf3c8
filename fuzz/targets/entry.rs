//! An entry of a log, as a custodian takes it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_spaces::{Log, Logged, MemoryKv};
use potluck_types::SpaceId;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(logged) = Logged::from_bytes(bytes) {
        let again = Logged::from_bytes(&logged.to_bytes()).expect("what was read");
        assert_eq!(again, logged);
        let _ = Log::of(SpaceId::from_bytes([1; 32])).append(&mut MemoryKv::default(), &logged);
    }
});
