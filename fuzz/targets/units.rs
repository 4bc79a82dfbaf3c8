//! Sizes, zones and names of machines as people type them: what is taken comes back from its text.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_types::{ByteSize, MachineName, Region, Zone};

fuzz_target!(|text: &str| {
    if let Ok(size) = text.parse::<ByteSize>() {
        // Three digits are shown, so only the shown form comes back from itself.
        let shown = size.to_string();
        assert_eq!(shown.parse::<ByteSize>().expect("its own text").to_string(), shown);
    }
    if let Ok(zone) = text.parse::<Zone>() {
        assert_eq!(zone.as_str(), text);
    }
    assert_eq!(text.parse::<Zone>().is_ok(), text.parse::<MachineName>().is_ok());
    assert_eq!(text.parse::<Zone>().is_ok(), text.parse::<Region>().is_ok());
});
