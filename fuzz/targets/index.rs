//! An index of the store of which some bytes are others: no shard is lost by it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_store::fuzzing;

fuzz_target!(|bytes: &[u8]| fuzzing::index(bytes));
