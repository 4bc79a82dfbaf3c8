//! A message between nodes: what is taken has one encoding only.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_node::fuzzing;

fuzz_target!(|bytes: &[u8]| fuzzing::message(bytes));
