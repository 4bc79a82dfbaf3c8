//! The server side of `/potluck/shard/1`: a member, or a stranger, sends a whole node a message: first a byte that says who asks, two bytes of
//! length, the header, the body. Nothing is stored that is not what its hash says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_fuzz::server;

fuzz_target!(|bytes: &[u8]| server().shards(bytes));
