//! A value of the metadata database, of each kind.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_node::fuzzing;

fuzz_target!(|bytes: &[u8]| fuzzing::value(bytes));
