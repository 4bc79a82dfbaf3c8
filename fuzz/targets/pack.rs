//! A pack of the store, and the heads of its files.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_store::fuzzing;

fuzz_target!(|bytes: &[u8]| {
    fuzzing::heads(bytes);
    let _ = fuzzing::pack(bytes);
});
