//! A metadata database of which some bytes are others: it opens and is read, or that it is damaged is said.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_node::fuzzing;

fuzz_target!(|bytes: &[u8]| fuzzing::database(bytes));
