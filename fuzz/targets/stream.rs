//! What a peer sends on a stream, of each protocol: within limits, and in proportion to what came.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_net::{Protocol, fuzzing};

fuzz_target!(|bytes: &[u8]| {
    for protocol in Protocol::ALL {
        let messages = fuzzing::stream(protocol, bytes);
        let taken: usize = messages
            .iter()
            .map(|message| message.header.len() + message.body.len())
            .sum();
        assert!(taken <= bytes.len());
    }
});
