//! A shard from a peer: two bytes of length, the descriptor, the index, the payload.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_types::{Hash, UnverifiedShard};

fuzz_target!(|bytes: &[u8]| {
    let Some((len, rest)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let Some((descriptor, rest)) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len))) else {
        return;
    };
    let Some((index, payload)) = rest.split_first() else {
        return;
    };
    let unverified = UnverifiedShard {
        descriptor: descriptor.to_vec().into(),
        index: *index,
        payload: payload.to_vec().into(),
    };
    if let Ok(shard) = unverified.verify_any() {
        assert_eq!(shard.descriptor().shard_hash(*index), Some(Hash::of(payload)));
        assert_eq!(shard.id().stripe.as_bytes(), Hash::of(descriptor).as_bytes());
    }
});
