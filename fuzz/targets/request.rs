//! A frame of the local socket, with each of the messages that may be in it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck::fuzzing;

fuzz_target!(|bytes: &[u8]| fuzzing::frame(bytes));
