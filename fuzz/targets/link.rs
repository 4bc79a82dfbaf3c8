//! A link as a person pastes it, and what one shows, as anyone may have written it who has the link.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_crypto::Link;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(link) = String::from_utf8_lossy(bytes).parse::<Link>() {
        let again = link.to_string();
        assert_eq!(again.parse::<Link>().expect("its own text").to_string(), again);
    }
    potluck_node::fuzzing::listing(bytes);
});
