//! The server side of `/potluck/pool/1`: a member, or a stranger, sends a whole node messages: first a byte that says who asks.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_fuzz::server;

fuzz_target!(|bytes: &[u8]| server().pool(bytes));
