//! What somebody sends who connects to the bulk port: until he has proved a key, nothing comes of it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_net::fuzzing;

fuzz_target!(|bytes: &[u8]| assert!(!fuzzing::greets(bytes)));
