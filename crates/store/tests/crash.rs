//! Power cuts. One workload, cut at every single change that it makes to the disk, and each cut followed by every
//! kind of loss: whatever was acknowledged is there bit for bit, what was deleted stays deleted, and the store
//! goes on working.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Crash, Dice, MemoryDisk, SPACE, audit, open, options, shard};
use potluck_store::Store;
use potluck_types::{ByteSize, Shard, ShardId};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

const SHARDS: u64 = 24;
const LEN_MAX: u64 = 3000;

/// What may be found after a crash.
#[derive(Clone, Copy, Default, Debug)]
struct Allowed {
    present: bool,
    absent: bool,
}

const ABSENT: Allowed = Allowed {
    present: false,
    absent: true,
};
const PRESENT: Allowed = Allowed {
    present: true,
    absent: false,
};
const EITHER: Allowed = Allowed {
    present: true,
    absent: true,
};

/// The promises made so far.
#[derive(Clone)]
struct Promises {
    shards: Vec<Shard>,
    allowed: Arc<Mutex<BTreeMap<ShardId, Allowed>>>,
}

impl Promises {
    fn new() -> Self {
        let shards: Vec<Shard> = (0..SHARDS).map(|number| shard(number, LEN_MAX)).collect();
        let allowed = shards.iter().map(|shard| (shard.id(), ABSENT)).collect();
        Self {
            shards,
            allowed: Arc::new(Mutex::new(allowed)),
        }
    }

    fn set(&self, id: ShardId, allowed: Allowed) {
        self.allowed.lock().unwrap().insert(id, allowed);
    }

    /// Asserts that the store keeps them; returns what it holds.
    #[track_caller]
    fn check(&self, store: &Store, context: &str) -> Vec<ShardId> {
        for shard in &self.shards {
            let allowed = self.allowed.lock().unwrap()[&shard.id()];
            match store.get(&shard.id()) {
                Ok(Some(found)) => {
                    assert!(allowed.present, "a deleted shard is back: {context}");
                    assert_eq!(&found, shard, "{context}");
                    assert_eq!(store.entry(&shard.id()).unwrap().unwrap().space, SPACE);
                }
                Ok(None) => assert!(
                    allowed.absent,
                    "an acknowledged shard is lost: {:?}, {context}",
                    shard.id()
                ),
                Err(error) => panic!("{error:?}: {context}"),
            }
        }
        audit(store)
    }
}

/// Puts, deletes, compacts, scrubs, checkpoints and reopens; what is acknowledged becomes a promise.
fn workload(disk: &MemoryDisk, seed: u64, promises: &Promises) {
    let mut dice = Dice(seed);
    let Ok((mut store, _)) = Store::open(Arc::new(disk.clone()), options()) else {
        return;
    };
    for _ in 0..40 {
        if disk.is_off() {
            return;
        }
        match dice.roll(10) {
            0..=5 => {
                // A group of puts and deletes of different shards.
                let first = dice.roll(SHARDS);
                for number in first..first + 1 + dice.roll(5) {
                    let shard = promises.shards[(number % SHARDS) as usize].clone();
                    let (id, promises) = (shard.id(), promises.clone());
                    let before = promises.allowed.lock().unwrap()[&id];
                    promises.set(id, EITHER);
                    if dice.roll(5) < 3 {
                        store.put(shard, SPACE, move |outcome| {
                            promises.set(
                                id,
                                if outcome.is_ok() {
                                    PRESENT
                                } else {
                                    Allowed {
                                        present: true,
                                        ..before
                                    }
                                },
                            );
                        });
                    } else {
                        store.delete_then(vec![id], move |outcome| {
                            promises.set(
                                id,
                                if outcome.is_ok() {
                                    ABSENT
                                } else {
                                    Allowed { absent: true, ..before }
                                },
                            );
                        });
                    }
                }
                store.turn();
            }
            6 | 7 => drop(store.compact_step(ByteSize(8 << 10))),
            8 if dice.roll(2) == 0 => drop(store.checkpoint()),
            8 => drop(store.scrub_step(ByteSize(8 << 10))),
            _ => {
                drop(store);
                match Store::open(Arc::new(disk.clone()), options()) {
                    Ok((again, recovery)) => {
                        assert!(disk.is_off() || recovery.clean, "{recovery:?}");
                        store = again;
                    }
                    Err(error) => return assert!(disk.is_off(), "{error}"),
                }
            }
        }
    }
}

/// The store works after the crash: it takes, gives, deletes, compacts, and survives another restart and the loss
/// of its index with the same content.
fn goes_on(disk: &MemoryDisk, store: Store, held: &[ShardId], context: &str) {
    let extra = shard(1000, LEN_MAX);
    store.put_wait(extra.clone(), SPACE).unwrap();
    let mut expected: Vec<ShardId> = held.to_vec();
    if let Some(gone) = expected.pop() {
        assert_eq!(store.delete(&[gone]).unwrap(), 1, "{context}");
    }
    while !store.compact_step(ByteSize(8 << 10)).unwrap().idle {}
    assert_eq!(store.scrub_step(ByteSize(u64::MAX)).unwrap().damaged, [], "{context}");
    drop(store);
    expected.push(extra.id());
    expected.sort_unstable();

    let (store, recovery) = open(disk);
    assert!(recovery.clean, "{recovery:?}, {context}");
    assert_eq!(audit(&store), expected, "{context}");
    drop(store);

    potluck_store::Disk::remove(disk, "index.redb").unwrap();
    let (store, recovery) = open(disk);
    assert!(recovery.rebuilt);
    assert_eq!(audit(&store), expected, "rebuilt, {context}");
    for id in expected {
        store.get(&id).unwrap().unwrap();
    }
}

fn cut_everywhere(seed: u64, stride: u64) {
    let disk = MemoryDisk::default();
    let promises = Promises::new();
    workload(&disk, seed, &promises);
    let steps = disk.steps();
    assert!(steps > 100, "the workload does something");
    for step in (1..=steps).step_by(stride as usize) {
        let disk = MemoryDisk::default();
        disk.cut_at(step);
        let promises = Promises::new();
        workload(&disk, seed, &promises);
        for crash in [
            Crash::LoseAll,
            Crash::KeepAll,
            Crash::Torn(step),
            Crash::Scattered(step),
            Crash::Scattered(!step),
        ] {
            let context = format!("seed {seed}, cut at {step} of {steps}, {crash:?}");
            let image = disk.crash(crash);
            let store = match Store::open(Arc::new(image.clone()), options()) {
                Ok((store, recovery)) => {
                    assert_eq!(recovery.damaged, [], "{recovery:?}, {context}");
                    assert_eq!(recovery.missing_packs, [], "{context}");
                    store
                }
                Err(error) => panic!("{error:?}: {context}"),
            };
            let held = promises.check(&store, &context);
            goes_on(&image, store, &held, &context);
        }
    }
}

#[test]
fn a_cut_at_every_change_loses_nothing_that_was_acknowledged() {
    cut_everywhere(1, 1);
}

#[test]
fn other_workloads_cut_here_and_there() {
    for seed in 2..12 {
        cut_everywhere(seed, 23);
    }
}

/// The machine loses its power again while it recovers from the first loss.
#[test]
fn a_cut_during_recovery_is_no_worse() {
    let disk = MemoryDisk::default();
    workload(&disk, 3, &Promises::new());
    let steps = disk.steps();
    for first in (steps / 4..steps).step_by(41) {
        let disk = MemoryDisk::default();
        disk.cut_at(first);
        let promises = Promises::new();
        workload(&disk, 3, &promises);
        for second in 1..60 {
            let image = disk.crash(Crash::Torn(first));
            image.cut_at(second);
            let opened = Store::open(Arc::new(image.clone()), options());
            let finished = !image.is_off();
            drop(opened);
            let image = image.crash(Crash::Scattered(second));
            let (store, _) = open(&image);
            promises.check(&store, &format!("cuts at {first} and {second}"));
            if finished {
                break;
            }
        }
    }
}

#[test]
fn one_seed_makes_one_trace() {
    let run = || {
        let disk = MemoryDisk::default();
        workload(&disk, 7, &Promises::new());
        let packs: Vec<Vec<u8>> = disk.packs().iter().map(|name| disk.bytes(name).unwrap()).collect();
        (disk.steps(), packs)
    };
    assert_eq!(run(), run());
}
