//! Where a node listens and is reached, as people and peers write it: what is taken comes back from its text.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_net::{Address, Listen};

fuzz_target!(|text: &str| {
    if let Ok(address) = text.parse::<Address>() {
        assert_eq!(address.to_string().parse::<Address>().expect("its own text"), address);
        let _ = address.is_loopback();
    }
    if let Ok(listen) = text.parse::<Listen>() {
        assert_eq!(listen.to_string().parse::<Listen>().expect("its own text"), listen);
    }
});
