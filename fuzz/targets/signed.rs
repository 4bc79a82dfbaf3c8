//! The envelope of a signed record, and the record in it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_crypto::{Record, Signed};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Vote {
    subject: String,
    ballot: Option<u64>,
}

impl Record for Vote {
    const CONTEXT: &'static str = "potluck/fuzz-vote/1";
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(signed) = Signed::<Vote>::from_bytes(bytes) {
        assert_eq!(signed.to_bytes(), bytes);
        let _ = signed.open();
    }
});
