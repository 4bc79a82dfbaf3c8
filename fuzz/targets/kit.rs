//! A file that claims to be a recovery kit.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_crypto::Kit;

/// Whether opening it would be slow on purpose: a work factor of two digits.
fn is_slow(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().find(|line| line.starts_with("-> scrypt "));
    line.is_some_and(|line| line.split(' ').nth(3).is_some_and(|factor| factor.len() > 1))
}

fuzz_target!(|bytes: &[u8]| {
    if !is_slow(bytes) {
        let _ = Kit::decrypt(bytes, "a passphrase");
    }
});
