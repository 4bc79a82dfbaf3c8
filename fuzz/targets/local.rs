//! The server side of the local API: a command sends the daemon what it likes, and is answered in whole frames.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_fuzz::daemon;

fuzz_target!(|bytes: &[u8]| daemon().converse(bytes));
