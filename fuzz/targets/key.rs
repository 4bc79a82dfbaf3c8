//! A key file: what is taken is what this program writes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_node::fuzzing;

fuzz_target!(|bytes: &[u8]| fuzzing::key(bytes));
