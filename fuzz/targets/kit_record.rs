//! What is encrypted in a recovery kit, by somebody who knows the passphrase.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_crypto::fuzzing;

fuzz_target!(|bytes: &[u8]| fuzzing::kit_record(bytes));
