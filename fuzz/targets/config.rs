//! A configuration file: what is taken comes back from its text.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck::fuzzing;

fuzz_target!(|text: &str| fuzzing::config(text));
