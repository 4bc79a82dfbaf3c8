//! How fast the store takes shards, beside the same bytes written to a plain file on the same disk: by groups of
//! the store's size with an `fdatasync` each, and alternating with it, so that a noisy machine disturbs both.
//! Then how long a store of 100,000 shards takes to open, and the memory it holds.
//!
//! `cargo bench -p potluck-store`; the directory is `$TMPDIR`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use potluck_store::{Options, Store};
use potluck_types::{ByteSize, Descriptor, Geometry, Hash, Shard, SpaceId, limits};
use std::{
    fs::File,
    io::Write,
    path::Path,
    sync::mpsc,
    time::{Duration, Instant},
};

const ROUNDS: usize = 7;
/// The two take turns after this many bytes.
const SLICE_BYTES: usize = 64 << 20;
const SPACE: SpaceId = SpaceId::from_bytes([5; 32]);

fn main() {
    let directory = tempfile::tempdir().unwrap();
    compare(directory.path(), "1 MiB", 1 << 20, 512);
    compare(directory.path(), "4 KiB", 4 << 10, 16_384);
    many(directory.path(), 100_000);
}

/// Shards of random bytes. The hash is computed here and not by the store: a `Shard` was verified before.
fn shards(seed: u64, len: usize, count: usize) -> Vec<Shard> {
    let mut random = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    (0..count)
        .map(|_| {
            let mut payload = vec![0; len];
            random.fill(&mut payload);
            let descriptor =
                Descriptor::new(Geometry::new(1, 0).unwrap(), len as u32, vec![Hash::of(&payload)]).unwrap();
            Shard::from_encoder(descriptor.clone(), descriptor.id(), 0, payload.into())
        })
        .collect()
}

fn compare(directory: &Path, name: &str, len: usize, count: usize) {
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let shards = shards(round as u64, len, count);
        let mut file = File::create(directory.join("raw")).unwrap();
        let (store, _) = Store::open_dir(&directory.join("store"), Options::new(ByteSize(1 << 40))).unwrap();
        let before = store.stats();
        let (mut raw, mut stored) = (Duration::ZERO, Duration::ZERO);
        for slice in shards.chunks(SLICE_BYTES / len) {
            raw += write_raw(&mut file, slice);
            stored += put_all(&store, slice);
        }
        let after = store.stats();
        let rate = |time: Duration| (len * count) as f64 / 1e6 / time.as_secs_f64();
        println!(
            "{name} shards: store {:6.0} MB/s, raw {:6.0} MB/s, ratio {:.2}, {} groups, {} syncs, amplification {:.3}",
            rate(stored),
            rate(raw),
            rate(stored) / rate(raw),
            after.groups - before.groups,
            after.syncs - before.syncs,
            (after.written.0 - before.written.0) as f64 / (after.payload_written.0 - before.payload_written.0) as f64,
        );
        drop(store);
        std::fs::remove_dir_all(directory.join("store")).unwrap();
        ratios.push(rate(stored) / rate(raw));
    }
    ratios.sort_by(f64::total_cmp);
    println!("{name} shards: median ratio {:.2}", ratios[ROUNDS / 2]);
}

fn write_raw(file: &mut File, shards: &[Shard]) -> Duration {
    let start = Instant::now();
    let mut group = Vec::with_capacity(limits::STORE_GROUP_BYTES_MAX);
    let mut unsynced = 0;
    for shard in shards {
        if shard.payload().len() < 64 << 10 {
            group.extend_from_slice(shard.payload());
        } else {
            file.write_all(shard.payload()).unwrap();
        }
        unsynced += shard.payload().len();
        if unsynced + shard.payload().len() > limits::STORE_GROUP_BYTES_MAX {
            file.write_all(&group).unwrap();
            file.sync_data().unwrap();
            group.clear();
            unsynced = 0;
        }
    }
    file.write_all(&group).unwrap();
    file.sync_data().unwrap();
    start.elapsed()
}

/// Puts all of them, with as many under way as the node has.
fn put_all(store: &Store, shards: &[Shard]) -> Duration {
    let start = Instant::now();
    let (sender, receiver) = mpsc::channel();
    let mut under_way = 0;
    let mut window = 0;
    for shard in shards {
        let len = shard.payload().len();
        while under_way + len > limits::WRITE_WINDOW_BYTES || window > 8192 {
            under_way -= receiver.recv().unwrap();
            window -= 1;
        }
        let sender = sender.clone();
        store.put(shard.clone(), SPACE, move |outcome| {
            outcome.unwrap();
            sender.send(len).unwrap();
        });
        under_way += len;
        window += 1;
    }
    drop(sender);
    receiver.iter().for_each(drop);
    start.elapsed()
}

fn many(directory: &Path, count: usize) {
    let directory = directory.join("many");
    let options = Options::new(ByteSize(1 << 40));
    let (store, _) = Store::open_dir(&directory, options.clone()).unwrap();
    let start = Instant::now();
    for part in 0..10 {
        put_all(&store, &shards(1000 + part, 512, count / 10));
    }
    println!("{count} shards of 512 bytes: stored in {:?}", start.elapsed());
    drop(store);
    let before = resident();
    let start = Instant::now();
    let (store, recovery) = Store::open_dir(&directory, options.clone()).unwrap();
    println!(
        "opened in {:?}, clean {}, {} kB more resident",
        start.elapsed(),
        recovery.clean,
        resident().saturating_sub(before)
    );
    let start = Instant::now();
    let (mut after, mut seen) = (None, 0);
    loop {
        let page = store.entries(after, 1024).unwrap();
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        seen += page.len();
    }
    println!(
        "{seen} entries listed in {:?}, {} kB more resident",
        start.elapsed(),
        resident().saturating_sub(before)
    );
    println!("{:?}", store.stats());
    drop(store);
    std::fs::remove_file(directory.join("index.redb")).unwrap();
    let start = Instant::now();
    let (_store, recovery) = Store::open_dir(&directory, options).unwrap();
    println!("rebuilt in {:?}: {} records", start.elapsed(), recovery.replayed);
}

/// Resident memory in kB, where the system tells.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|kb| kb.parse().ok())
        .unwrap_or_default()
}
