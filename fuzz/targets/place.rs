//! Places, ranges and times as people type them, and names as terminals show them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck::fuzzing;

fuzz_target!(|text: &str| fuzzing::typed(text));
