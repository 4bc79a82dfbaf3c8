//! The server side of `/potluck/join/1`: a stranger asks a whole node, and is let in for a ticket that counts, and for nothing else.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_fuzz::server;

fuzz_target!(|bytes: &[u8]| server().join(bytes));
