//! A stripe's descriptor: what is taken is canonical, and within its limits.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_types::{Descriptor, limits};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(descriptor) = Descriptor::from_bytes(bytes) {
        assert_eq!(descriptor.to_bytes(), bytes);
        assert!(usize::from(descriptor.n()) <= limits::SHARDS_MAX);
        assert!(descriptor.shard_len() <= limits::SHARD_BYTES_MAX);
    }
});
