//! A record of the pool's membership, as anyone may send it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_node::fuzzing;

fuzz_target!(|bytes: &[u8]| fuzzing::record(bytes));
