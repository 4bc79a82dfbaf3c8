//! Shards that somebody made and named as he liked, each of them what its hash says: *k*, *m*, a length, which shards are here, and their
//! bytes. They give the piece that they were coded from, or none.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_dag::stripe::{decode, rebuild};
use potluck_types::{Descriptor, Geometry, Hash, Shard, UnverifiedShard};

fuzz_target!(|bytes: &[u8]| {
    let Some(([k, m, len, here_low, here_high], material)) = bytes.split_first_chunk::<5>() else {
        return;
    };
    let Some(geometry) = Geometry::new(*k, *m) else { return };
    let sealed_len = usize::from(*len) * 16 + 1;
    let shard_len = Descriptor::shard_len_for(sealed_len, *k);
    let payload = |index: u8| -> Vec<u8> {
        let repeated = material.iter().chain(&[0]).cycle();
        repeated.skip(usize::from(index) * 7).take(shard_len).copied().collect()
    };
    let hashes = (0..geometry.n()).map(|index| Hash::of(&payload(index))).collect();
    let Ok(descriptor) = Descriptor::new(geometry, sealed_len as u32, hashes) else {
        return;
    };
    let here = u16::from_le_bytes([*here_low, *here_high]);
    let shards: Vec<Shard> = (0..geometry.n())
        .filter(|index| here & 1 << (index % 16) != 0)
        .map(|index| {
            let unverified = UnverifiedShard {
                descriptor: descriptor.to_bytes().into(),
                index,
                payload: payload(index).into(),
            };
            unverified.verify(descriptor.id()).expect("its own hash")
        })
        .collect();
    if let Ok(sealed) = decode(&descriptor, &shards) {
        assert!(shards.len() >= usize::from(*k));
        assert_eq!(sealed.len(), sealed_len);
    }
    let all: Vec<u8> = (0..geometry.n()).collect();
    if let Ok(rebuilt) = rebuild(&descriptor, &shards, &all) {
        for shard in rebuilt {
            assert_eq!(descriptor.shard_hash(shard.id().index), Some(Hash::of(shard.payload())));
        }
    }
    let _ = rebuild(&descriptor, &shards, &[*len]);
});
