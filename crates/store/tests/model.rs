//! Any sequence of operations does what the same sequence does to a map; and what runs at once does not interfere.
#![allow(clippy::unwrap_used)]

mod common;

use common::{MemoryDisk, SPACE, audit, open, paged, shard, shard_of};
use potluck_store::{Options, Store};
use potluck_types::{ByteSize, Shard, ShardId};
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

#[derive(Clone, Debug)]
enum Op {
    Put(Vec<u64>),
    Delete(Vec<u64>),
    Compact(u64),
    Scrub(u64),
    Checkpoint,
    Reopen,
    LoseIndex,
}

fn op() -> impl Strategy<Value = Op> {
    let numbers = || proptest::collection::vec(0..40_u64, 1..12);
    prop_oneof![
        6 => numbers().prop_map(Op::Put),
        5 => numbers().prop_map(Op::Delete),
        3 => (1..40_000_u64).prop_map(Op::Compact),
        1 => (1..40_000_u64).prop_map(Op::Scrub),
        1 => Just(Op::Checkpoint),
        1 => Just(Op::Reopen),
        1 => Just(Op::LoseIndex),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_store_is_a_map(ops in proptest::collection::vec(op(), 1..60)) {
        let disk = MemoryDisk::default();
        let (mut store, _) = open(&disk);
        let mut model: BTreeMap<ShardId, Shard> = BTreeMap::new();
        for op in ops {
            match op {
                Op::Put(numbers) => {
                    for number in numbers {
                        let shard = shard(number, 4000);
                        model.insert(shard.id(), shard.clone());
                        store.put(shard, SPACE, |outcome| outcome.unwrap());
                    }
                    store.turn();
                }
                Op::Delete(numbers) => {
                    let ids: Vec<ShardId> = numbers.iter().map(|number| shard(*number, 4000).id()).collect();
                    let expected = ids.iter().filter(|id| model.remove(id).is_some()).count();
                    prop_assert_eq!(store.delete(&ids).unwrap(), expected);
                }
                Op::Compact(bytes) => drop(store.compact_step(ByteSize(bytes)).unwrap()),
                Op::Scrub(bytes) => prop_assert_eq!(store.scrub_step(ByteSize(bytes)).unwrap().damaged, vec![]),
                Op::Checkpoint => store.checkpoint().unwrap(),
                Op::Reopen | Op::LoseIndex => {
                    drop(store);
                    let lost = matches!(op, Op::LoseIndex);
                    if lost {
                        potluck_store::Disk::remove(&disk, "index.redb").unwrap();
                    }
                    let (again, recovery) = open(&disk);
                    prop_assert!(lost || recovery.clean);
                    store = again;
                }
            }
            prop_assert_eq!(audit(&store), model.keys().copied().collect::<Vec<_>>());
        }
        for shard in model.values() {
            let found = store.get(&shard.id()).unwrap();
            prop_assert_eq!(found.as_ref(), Some(shard));
            prop_assert_eq!(store.indexes_of(shard.id().stripe).unwrap(), vec![shard.id().index]);
        }
        // Pages of any size give the same list.
        prop_assert_eq!(paged(&store, 3), audit(&store));
        // What is dead is given back.
        while !store.compact_step(ByteSize(u64::MAX)).unwrap().idle {}
        prop_assert_eq!(audit(&store), model.keys().copied().collect::<Vec<_>>());
    }
}

#[test]
fn readers_are_not_disturbed_by_compaction() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        pack_bytes: Some(ByteSize(256 << 10)),
        ..Options::new(ByteSize(1 << 30))
    };
    let (store, _) = Store::open_dir(directory.path(), options.clone()).unwrap();
    let kept: Vec<Shard> = (0..40).map(|number| shard_of(number, 20_000)).collect();
    let done = Arc::new(AtomicBool::new(false));
    for shard in &kept {
        store.put_wait(shard.clone(), SPACE).unwrap();
    }
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (store, kept, done) = (store.clone(), kept.clone(), Arc::clone(&done));
            thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    for shard in &kept {
                        assert_eq!(store.get(&shard.id()).unwrap().as_ref(), Some(shard));
                    }
                }
            })
        })
        .collect();
    for round in 0..10 {
        let fleeting: Vec<Shard> = (0..60)
            .map(|number| shard_of(1000 + round * 60 + number, 10_000))
            .collect();
        for shard in &fleeting {
            store.put(shard.clone(), SPACE, |outcome| outcome.unwrap());
        }
        let ids: Vec<ShardId> = fleeting.iter().map(Shard::id).collect();
        assert_eq!(store.delete(&ids).unwrap(), ids.len());
        while !store.compact_step(ByteSize(64 << 10)).unwrap().idle {}
    }
    done.store(true, Ordering::Relaxed);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    assert!(store.stats().compacted.0 > 0);
    assert_eq!(audit(&store).len(), kept.len());
    assert!(matches!(
        Store::open_dir(directory.path(), options.clone()),
        Err(potluck_store::OpenError::Locked)
    ));
    drop(store);
    let (store, recovery) = Store::open_dir(directory.path(), options).unwrap();
    assert!(recovery.clean, "{recovery:?}");
    assert_eq!(audit(&store).len(), kept.len());
}

/// Everything was removed, and the pack that was written to last kept its length: 256 MiB at most, for ever.
#[test]
fn a_store_from_which_everything_was_deleted_is_small() {
    let disk = MemoryDisk::default();
    let (store, _) = open(&disk);
    // All in the pack that is written to.
    let shards: Vec<Shard> = (0..10).map(|number| shard_of(number, 1000)).collect();
    for shard in &shards {
        store.put(shard.clone(), SPACE, |outcome| outcome.unwrap());
        store.turn();
    }
    let ids: Vec<ShardId> = shards.iter().map(Shard::id).collect();
    assert_eq!(store.delete(&ids).unwrap(), ids.len());
    assert!(store.stats().dead.0 > 10_000, "{:?}", store.stats());
    while !store.compact_step(ByteSize(u64::MAX)).unwrap().idle {}
    assert_eq!((store.stats().shards, store.stats().dead), (0, ByteSize(0)));
    drop(store);
    let (store, recovery) = open(&disk);
    assert!(recovery.clean, "{recovery:?}");
    store.put(shards[0].clone(), SPACE, |outcome| outcome.unwrap());
    store.turn();
    drop(store);
    potluck_store::Disk::remove(&disk, "index.redb").unwrap();
    assert_eq!(audit(&open(&disk).0), ids[..1]);
}
