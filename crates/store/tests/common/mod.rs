//! Stores on a disk that can lose its power, and the shards that tests keep there.
#![allow(dead_code, clippy::unwrap_used, unreachable_pub)]

#[allow(unused_imports, reason = "each test program uses its own part")]
pub use potluck_store::{Crash, MemoryDisk, Mishap};
use potluck_store::{Driver, Options, Recovery, Store};
pub use potluck_types::Dice;
use potluck_types::{ByteSize, Clock, Descriptor, Entropy, Geometry, Hash, Shard, ShardId, SpaceId, Timestamp};
use std::sync::Arc;

/// Always the same time and the same randomness.
pub struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_795_269_720_000)
    }
}

impl Entropy for Fixed {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(7);
    }
}

pub const SPACE: SpaceId = SpaceId::from_bytes([5; 32]);

/// Small packs, so that a few shards fill some.
pub fn options() -> Options {
    Options {
        clock: Arc::new(Fixed),
        entropy: Arc::new(Fixed),
        driver: Driver::Caller,
        pack_bytes: Some(ByteSize(16 << 10)),
        ..Options::new(ByteSize(64 << 20))
    }
}

pub fn open(disk: &MemoryDisk) -> (Store, Recovery) {
    Store::open(Arc::new(disk.clone()), options()).unwrap()
}

/// A shard made from a number, of some length up to `len_max`.
pub fn shard(number: u64, len_max: u64) -> Shard {
    let mut dice = Dice(number);
    let len = 1 + dice.roll(len_max) as usize;
    shard_of(number, len)
}

/// A shard made from a number, of this length.
pub fn shard_of(number: u64, len: usize) -> Shard {
    let mut dice = Dice(number ^ 0xface);
    let payload: Vec<u8> = (0..len.div_ceil(8))
        .flat_map(|_| dice.roll(u64::MAX).to_le_bytes())
        .take(len)
        .collect();
    let index = (number % 2) as u8;
    let mut hashes = vec![Hash::of(b"another shard"); 2];
    hashes[usize::from(index)] = Hash::of(&payload);
    let descriptor = Descriptor::new(Geometry::new(1, 1).unwrap(), len as u32, hashes).unwrap();
    let stripe = descriptor.id();
    Shard::from_encoder(descriptor, stripe, index, payload.into())
}

/// All that the store lists, read page by page.
pub fn paged(store: &Store, limit: usize) -> Vec<ShardId> {
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = store.entries(after, limit).unwrap();
        let Some((last, _)) = page.last() else {
            return listed;
        };
        after = Some(*last);
        listed.extend(page.into_iter().map(|(id, _)| id));
    }
}

/// Asserts that the store's books agree with each other, and tells what it holds.
#[track_caller]
pub fn audit(store: &Store) -> Vec<ShardId> {
    let entries = store.entries(None, usize::MAX).unwrap();
    let stats = store.stats();
    assert_eq!(stats.shards, entries.len() as u64, "{stats:?}");
    let live: u64 = entries.iter().map(|(_, entry)| entry.record_len()).sum();
    assert_eq!(stats.live.0, live, "{stats:?}");
    entries.into_iter().map(|(id, _)| id).collect()
}
