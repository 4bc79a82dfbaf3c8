//! A disk that can lose its power, and the shards that tests store on it.
#![allow(dead_code, clippy::unwrap_used, unreachable_pub)]

use potluck_store::{Disk, DiskFile, Driver, FileInfo, OpenMode, Options, Recovery, Store};
use potluck_types::{ByteSize, Clock, Descriptor, Entropy, Geometry, Hash, Shard, ShardId, SpaceId, Timestamp};
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};

/// What the hardware never tears.
const SECTOR: usize = 512;

/// An in-memory disk that knows what was synced. Clones are handles on the same one.
#[derive(Clone, Default)]
pub struct CrashDisk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending_names: Vec<NameChange>,
    /// Changes so far, syncs included.
    steps: u64,
    cut_at: Option<u64>,
    off: bool,
    /// Syncs of files whose name contains this fail, this many times.
    failing_syncs: Option<(String, u32)>,
    /// Reads of files whose name contains this fail, in this range.
    failing_reads: Option<(String, std::ops::Range<u64>)>,
    /// Files cannot be cut.
    failing_cuts: bool,
    /// Bytes that fit on the disk.
    space: Option<u64>,
}

#[derive(Clone, Default)]
struct Inode {
    name: String,
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Data(usize, Vec<u8>),
    Len(usize),
}

#[derive(Clone)]
enum NameChange {
    Add(String, usize),
    Remove(String),
    Rename(String, String, usize),
}

/// What of the unsynced is still there when the power is back.
#[derive(Clone, Copy, Debug)]
pub enum Crash {
    /// Nothing.
    LoseAll,
    /// All: the process was killed, the machine ran on.
    KeepAll,
    /// The first changes, the last of them in part.
    Torn(u64),
    /// Any sectors of any changes.
    Scattered(u64),
}

/// Splitmix64: small, seeded, good enough to tear things.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Data(at, data) => {
            let end = at + data.len();
            bytes.resize(bytes.len().max(end), 0);
            bytes[*at..end].copy_from_slice(data);
        }
        Change::Len(len) => bytes.resize(*len, 0),
    }
}

fn apply_name(names: &mut BTreeMap<String, usize>, change: &NameChange) {
    match change {
        NameChange::Add(name, inode) => drop(names.insert(name.clone(), *inode)),
        NameChange::Remove(name) => drop(names.remove(name)),
        NameChange::Rename(from, to, inode) => {
            names.remove(from);
            names.insert(to.clone(), *inode);
        }
    }
}

impl CrashDisk {
    /// The power goes with the given change: it is not finished, and nothing after it happens.
    pub fn cut_at(&self, step: u64) {
        self.0.lock().unwrap().cut_at = Some(step);
    }

    pub fn steps(&self) -> u64 {
        self.0.lock().unwrap().steps
    }

    pub fn is_off(&self) -> bool {
        self.0.lock().unwrap().off
    }

    pub fn fail_syncs(&self, name: &str, times: u32) {
        self.0.lock().unwrap().failing_syncs = Some((name.to_owned(), times));
    }

    pub fn fail_reads(&self, name: &str, range: std::ops::Range<u64>) {
        self.0.lock().unwrap().failing_reads = Some((name.to_owned(), range));
    }

    pub fn fail_cuts(&self) {
        self.0.lock().unwrap().failing_cuts = true;
    }

    /// The process is killed at the cut; the machine runs on, with what was written still unsynced.
    pub fn kill(&self) {
        let mut state = self.0.lock().unwrap();
        state.off = false;
        state.cut_at = None;
    }

    /// Leaves this many bytes free.
    pub fn leave_free(&self, free: Option<u64>) {
        let mut state = self.0.lock().unwrap();
        state.space = free.map(|free| state.used() + free);
    }

    /// The disk as the next boot finds it.
    pub fn crash(&self, crash: Crash) -> Self {
        let state = self.0.lock().unwrap();
        let mut dice = Dice(match crash {
            Crash::Torn(seed) | Crash::Scattered(seed) => seed,
            _ => 0,
        });
        let mut names = state.durable_names.clone();
        let kept_names = dice.roll(state.pending_names.len() as u64 + 1) as usize;
        for (at, change) in state.pending_names.iter().enumerate() {
            let kept = match crash {
                Crash::LoseAll => false,
                Crash::KeepAll => true,
                Crash::Torn(_) => at < kept_names,
                Crash::Scattered(_) => dice.roll(2) == 0,
            };
            if kept {
                apply_name(&mut names, change);
            }
        }
        let inodes = state
            .inodes
            .iter()
            .map(|inode| {
                let bytes = match crash {
                    Crash::LoseAll => inode.durable.clone(),
                    Crash::KeepAll => inode.now.clone(),
                    _ => inode.torn(crash, &mut dice),
                };
                Inode {
                    name: inode.name.clone(),
                    now: bytes.clone(),
                    durable: bytes,
                    pending: Vec::new(),
                }
            })
            .collect();
        Self(Arc::new(Mutex::new(State {
            inodes,
            names: names.clone(),
            durable_names: names,
            ..State::default()
        })))
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let state = self.0.lock().unwrap();
        state.inodes[state.names[name]].now.clone()
    }

    /// Changes a file behind the store's back, durably.
    pub fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.0.lock().unwrap();
        let inode = state.names[name];
        let inode = &mut state.inodes[inode];
        change(&mut inode.now);
        inode.durable = inode.now.clone();
        inode.pending.clear();
    }

    pub fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().names.keys().cloned().collect()
    }

    pub fn packs(&self) -> Vec<String> {
        self.names()
            .into_iter()
            .filter(|name| name.ends_with(".pack"))
            .collect()
    }
}

impl Inode {
    fn torn(&self, crash: Crash, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        let kept = dice.roll(self.pending.len() as u64 + 1) as usize;
        for (at, change) in self.pending.iter().enumerate() {
            match (crash, change) {
                (Crash::Torn(_), change) if at < kept => apply(&mut bytes, change),
                (Crash::Torn(_), Change::Data(offset, data)) if at == kept => {
                    let sectors = dice.roll((data.len() / SECTOR) as u64 + 1) as usize;
                    apply(&mut bytes, &Change::Data(*offset, data[..sectors * SECTOR].to_vec()));
                }
                (Crash::Torn(_), _) => {}
                (_, Change::Len(_)) => {
                    if dice.roll(2) == 0 {
                        apply(&mut bytes, change);
                    }
                }
                (_, Change::Data(offset, data)) => {
                    // Sectors of the disk, not of the write.
                    let mut from = 0;
                    while from < data.len() {
                        let to = data.len().min((offset + from) / SECTOR * SECTOR + SECTOR - offset);
                        if dice.roll(2) == 0 {
                            apply(&mut bytes, &Change::Data(offset + from, data[from..to].to_vec()));
                        }
                        from = to;
                    }
                }
            }
        }
        bytes
    }
}

impl State {
    fn used(&self) -> u64 {
        self.names
            .values()
            .map(|inode| self.inodes[*inode].now.len() as u64)
            .sum()
    }

    /// Counts a change. `Err` when the power is off; else whether the change is finished before it goes off.
    fn step(&mut self) -> io::Result<io::Result<()>> {
        let off = || io::Error::other("the power is off");
        if self.off {
            return Err(off());
        }
        self.steps += 1;
        self.off = self.cut_at == Some(self.steps);
        Ok(if self.off { Err(off()) } else { Ok(()) })
    }
}

impl Disk for CrashDisk {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.lock().unwrap();
        let inode = match (state.names.get(name).copied(), mode) {
            (Some(_), OpenMode::New) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, OpenMode::Existing) => return Err(io::ErrorKind::NotFound.into()),
            (Some(inode), OpenMode::Existing) => inode,
            (None, OpenMode::New) => {
                let cut = state.step()?;
                let inode = state.inodes.len();
                state.inodes.push(Inode {
                    name: name.to_owned(),
                    ..Inode::default()
                });
                let change = NameChange::Add(name.to_owned(), inode);
                apply_name(&mut state.names, &change);
                state.pending_names.push(change);
                cut?;
                inode
            }
        };
        Ok(Arc::new(CrashFile {
            disk: self.clone(),
            inode,
        }))
    }

    fn list(&self) -> io::Result<Vec<FileInfo>> {
        let state = self.0.lock().unwrap();
        let info = |(name, inode): (&String, &usize)| FileInfo {
            name: name.clone(),
            len: state.inodes[*inode].now.len() as u64,
        };
        Ok(state.names.iter().map(info).collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        if !state.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let outcome = state.step()?;
        let change = NameChange::Remove(name.to_owned());
        apply_name(&mut state.names, &change);
        state.pending_names.push(change);
        outcome
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        let inode = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        let outcome = state.step()?;
        let change = NameChange::Rename(from.to_owned(), to.to_owned(), inode);
        state.inodes[inode].name = to.to_owned();
        apply_name(&mut state.names, &change);
        state.pending_names.push(change);
        outcome
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.step()??;
        state.durable_names = state.names.clone();
        state.pending_names.clear();
        Ok(())
    }

    fn free_space(&self) -> io::Result<u64> {
        let state = self.0.lock().unwrap();
        Ok(state.space.map_or(u64::MAX, |space| space.saturating_sub(state.used())))
    }
}

struct CrashFile {
    disk: CrashDisk,
    inode: usize,
}

impl DiskFile for CrashFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().unwrap().inodes[self.inode].now.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.disk.0.lock().unwrap();
        let inode = &state.inodes[self.inode];
        let (from, to) = (offset as usize, offset as usize + buffer.len());
        if let Some((name, bad)) = &state.failing_reads
            && inode.name.contains(name)
            && bad.start < to as u64
            && bad.end > offset
        {
            return Err(io::Error::other("bad sector"));
        }
        buffer.copy_from_slice(inode.now.get(from..to).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        let mut data = parts.concat();
        let mut outcome = state.step()?;
        let old = state.inodes[self.inode].now.len() as u64;
        let growth = (offset + data.len() as u64).saturating_sub(old);
        if let Some(space) = state.space {
            let free = space.saturating_sub(state.used());
            if growth > free {
                data.truncate((old + free).saturating_sub(offset) as usize);
                outcome = Err(io::ErrorKind::StorageFull.into());
            }
        }
        if !data.is_empty() {
            let change = Change::Data(offset as usize, data);
            let inode = &mut state.inodes[self.inode];
            apply(&mut inode.now, &change);
            inode.pending.push(change);
        }
        outcome
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        state.step()??;
        let name = state.inodes[self.inode].name.clone();
        // As Linux does it: what could not be written is forgotten, though readers still see it, and the next
        // sync succeeds.
        let fails = match &mut state.failing_syncs {
            Some((part, times)) if *times > 0 && name.contains(&*part) => {
                *times -= 1;
                true
            }
            _ => false,
        };
        let inode = &mut state.inodes[self.inode];
        for change in std::mem::take(&mut inode.pending) {
            if !fails {
                apply(&mut inode.durable, &change);
            }
        }
        if fails {
            Err(io::Error::other("cannot write back"))
        } else {
            Ok(())
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        let outcome = state.step()?;
        let old = state.inodes[self.inode].now.len() as u64;
        if state.failing_cuts && len < old {
            return Err(io::Error::other("cannot cut"));
        }
        if let Some(space) = state.space
            && state.used() + len.saturating_sub(old) > space
            && len > old
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let change = Change::Len(len as usize);
        let inode = &mut state.inodes[self.inode];
        apply(&mut inode.now, &change);
        inode.pending.push(change);
        outcome
    }

    fn try_lock(&self) -> io::Result<bool> {
        Ok(true)
    }
}

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

pub fn open(disk: &CrashDisk) -> (Store, Recovery) {
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
