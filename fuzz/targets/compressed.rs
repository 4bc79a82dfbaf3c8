//! Two bytes of length, and what is said to be so many bytes, compressed: never more are given than that.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_dag::fuzzing;

fuzz_target!(|bytes: &[u8]| {
    let Some((len, compressed)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let len = usize::from(u16::from_le_bytes(*len)) << 4;
    if let Ok(plain) = fuzzing::decompress(compressed, len) {
        assert!(plain.len() <= len);
    }
});
