//! The twin of a disk: a directory in memory that knows what was synced, and can lose its power and misbehave in every way that disks are known to.
//!
//! For tests and simulations. Everything that chance decides comes from seeds.

use crate::disk::{Disk, DiskFile, FileInfo, OpenMode};
use potluck_types::Dice;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// What the hardware never tears.
const SECTOR: usize = 512;
/// What bytes are kept in: pages of zeros take no room.
const PAGE: usize = 4096;

/// See the module. Clones are handles on the same one.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<State>>);

/// What of the unsynced is still there when the power is back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// Nothing.
    LoseAll,
    /// All: the process was killed, the machine ran on.
    KeepAll,
    /// The first changes, the last of them in part. Seeded.
    Torn(u64),
    /// Any sectors of any changes. Seeded.
    Scattered(u64),
}

/// How a disk misbehaves, from when it is told to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mishap {
    /// Syncs of files whose name contains this fail, so many times. As Linux does it, what could not be written is forgotten, though readers still see it, and the
    /// next sync succeeds.
    Syncs(String, u32),
    /// Reads of files whose name contains this fail, in this range.
    Reads(String, std::ops::Range<u64>),
    /// Writes to files whose name contains this fail, so many times.
    Writes(String, u32),
    /// Files cannot be cut.
    Cuts,
    /// Nothing can be written, made, renamed or removed.
    ReadOnly,
    /// No file can be opened, so many times: the process has too many open.
    Opens(u32),
    /// Writes to files whose name contains this are acknowledged and never done, so many times.
    Phantom(String, u32),
    /// Writes to files whose name contains this land so many bytes further on, so many times.
    Misdirected(String, u64, u32),
    /// Reads of files whose name contains this give the bytes of so many bytes further on, so many times.
    Misread(String, u64, u32),
}

#[derive(Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending_names: Vec<NameChange>,
    /// Changes so far, syncs included.
    steps: u64,
    syncs: u64,
    cut_at: Option<u64>,
    off: bool,
    mishaps: Vec<Mishap>,
    /// Bytes that fit on the disk.
    space: Option<u64>,
    locked: BTreeSet<usize>,
}

#[derive(Clone, Default)]
struct Inode {
    name: String,
    now: Bytes,
    durable: Bytes,
    pending: Vec<Change>,
}

/// Bytes in pages; what is missing is zero.
#[derive(Clone, Default)]
struct Bytes {
    len: usize,
    pages: BTreeMap<usize, Arc<Page>>,
}

struct Page([u8; PAGE]);

/// Pages that there are.
static PAGES: AtomicUsize = AtomicUsize::new(0);

/// Bytes of memory that all disks of this process take, and the images of them: what disks have in common counts once.
pub fn memory_of_disks() -> usize {
    PAGES.load(Ordering::Relaxed) * PAGE
}

impl Page {
    fn new(bytes: [u8; PAGE]) -> Self {
        PAGES.fetch_add(1, Ordering::Relaxed);
        Self(bytes)
    }
}

impl Clone for Page {
    fn clone(&self) -> Self {
        Self::new(self.0)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        PAGES.fetch_sub(1, Ordering::Relaxed);
    }
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

impl Bytes {
    fn read(&self, at: usize, buffer: &mut [u8]) {
        let mut done = 0;
        while done < buffer.len() {
            let (page, within) = ((at + done) / PAGE, (at + done) % PAGE);
            let len = (PAGE - within).min(buffer.len() - done);
            let part = &mut buffer[done..done + len];
            match self.pages.get(&page) {
                Some(page) => part.copy_from_slice(&page.0[within..within + len]),
                None => part.fill(0),
            }
            done += len;
        }
    }

    fn write(&mut self, at: usize, data: &[u8]) {
        self.len = self.len.max(at + data.len());
        let mut done = 0;
        while done < data.len() {
            let (page, within) = ((at + done) / PAGE, (at + done) % PAGE);
            let len = (PAGE - within).min(data.len() - done);
            let part = &data[done..done + len];
            if len == PAGE && part.iter().all(|byte| *byte == 0) {
                self.pages.remove(&page);
            } else {
                let page = self.pages.entry(page);
                let page = page.or_insert_with(|| Arc::new(Page::new([0; PAGE])));
                Arc::make_mut(page).0[within..within + len].copy_from_slice(part);
            }
            done += len;
        }
    }

    fn set_len(&mut self, len: usize) {
        if len < self.len {
            drop(self.pages.split_off(&len.div_ceil(PAGE)));
            if let Some(last) = self.pages.get_mut(&(len / PAGE)) {
                Arc::make_mut(last).0[len % PAGE..].fill(0);
            }
        }
        self.len = len;
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Data(at, data) => self.write(*at, data),
            Change::Len(len) => self.set_len(*len),
        }
    }

    fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        self.read(0, &mut bytes);
        bytes
    }
}

impl From<&[u8]> for Bytes {
    fn from(data: &[u8]) -> Self {
        let mut bytes = Self::default();
        bytes.write(0, data);
        bytes
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

impl fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("MemoryDisk")
            .field("files", &state.names.len())
            .field("steps", &state.steps)
            .finish_non_exhaustive()
    }
}

impl MemoryDisk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The power goes with the given change: it is not finished, and nothing after it happens.
    pub fn cut_at(&self, step: u64) {
        self.lock().cut_at = Some(step);
    }

    /// The power goes now.
    pub fn cut(&self) {
        self.lock().off = true;
    }

    /// Changes so far, syncs included.
    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// Syncs so far, of files and of the directory.
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// Whether the power is off.
    pub fn is_off(&self) -> bool {
        self.lock().off
    }

    /// From now on this goes wrong, besides what does already.
    pub fn befall(&self, mishap: Mishap) {
        self.lock().mishaps.push(mishap);
    }

    /// Nothing goes wrong any more.
    pub fn recover(&self) {
        self.lock().mishaps.clear();
    }

    /// The power does not go with a change any more.
    pub fn stay_on(&self) {
        self.lock().cut_at = None;
    }

    /// The process is killed at the cut; the machine runs on, with what was written still unsynced.
    pub fn kill(&self) {
        let mut state = self.lock();
        state.off = false;
        state.cut_at = None;
        state.locked.clear();
    }

    /// Leaves this many bytes free; without a number, as many as one likes.
    pub fn leave_free(&self, free: Option<u64>) {
        let mut state = self.lock();
        state.space = free.map(|free| state.used() + free);
    }

    /// Bytes of all files.
    pub fn used(&self) -> u64 {
        self.lock().used()
    }

    /// The disk as the next boot finds it. What went wrong before does no longer; a disk that is full still is.
    #[must_use]
    pub fn crash(&self, crash: Crash) -> Self {
        let state = self.lock();
        if crash == Crash::KeepAll {
            // What was not synced is not on the disk by that: the next one may lose it still.
            return Self(Arc::new(Mutex::new(State {
                inodes: state.inodes.clone(),
                names: state.names.clone(),
                durable_names: state.durable_names.clone(),
                pending_names: state.pending_names.clone(),
                space: state.space,
                ..State::default()
            })));
        }
        let mut dice = Dice(match crash {
            Crash::Torn(seed) | Crash::Scattered(seed) => seed,
            _ => 0,
        });
        let mut names = state.durable_names.clone();
        let kept_names = dice.roll(state.pending_names.len() as u64 + 1) as usize;
        for (at, change) in state.pending_names.iter().enumerate() {
            let kept = match crash {
                Crash::LoseAll | Crash::KeepAll => false,
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
            space: state.space,
            ..State::default()
        })))
    }

    /// A copy of the disk, on a disk that has all of it.
    pub fn image(&self) -> Self {
        let state = self.lock();
        let whole = |inode: &Inode| Inode {
            name: inode.name.clone(),
            now: inode.now.clone(),
            durable: inode.now.clone(),
            pending: Vec::new(),
        };
        Self(Arc::new(Mutex::new(State {
            inodes: state.inodes.iter().map(whole).collect(),
            names: state.names.clone(),
            durable_names: state.names.clone(),
            space: state.space,
            ..State::default()
        })))
    }

    /// The bytes of a file, if there is one of this name.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.lock();
        Some(state.inodes[*state.names.get(name)?].now.to_vec())
    }

    /// Changes a file behind the back of whoever uses it, durably, if there is one of this name.
    pub fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.lock();
        let Some(inode) = state.names.get(name).copied() else {
            return;
        };
        let inode = &mut state.inodes[inode];
        let mut bytes = inode.now.to_vec();
        change(&mut bytes);
        inode.now = Bytes::from(&bytes[..]);
        inode.durable = inode.now.clone();
        inode.pending.clear();
    }

    /// A folder in it: a directory of its own, on the same disk.
    pub fn folder(&self, name: &str) -> Arc<dyn Disk> {
        Arc::new(Folder {
            disk: self.clone(),
            prefix: format!("{name}/"),
        })
    }

    /// Removes all files of which this says so, durably.
    pub fn wipe(&self, goes: impl Fn(&str) -> bool) {
        let mut state = self.lock();
        state.names.retain(|name, _| !goes(name));
        state.durable_names = state.names.clone();
        state.pending_names.clear();
    }

    /// The names of all files, in order.
    pub fn names(&self) -> Vec<String> {
        self.lock().names.keys().cloned().collect()
    }

    /// Those of packs.
    pub fn packs(&self) -> Vec<String> {
        self.names()
            .into_iter()
            .filter(|name| name.ends_with(".pack"))
            .collect()
    }
}

impl Inode {
    fn torn(&self, crash: Crash, dice: &mut Dice) -> Bytes {
        let mut bytes = self.durable.clone();
        let kept = dice.roll(self.pending.len() as u64 + 1) as usize;
        for (at, change) in self.pending.iter().enumerate() {
            match (crash, change) {
                (Crash::Torn(_), change) if at < kept => bytes.apply(change),
                (Crash::Torn(_), Change::Data(offset, data)) if at == kept => {
                    let sectors = dice.roll((data.len() / SECTOR) as u64 + 1) as usize;
                    bytes.write(*offset, &data[..sectors * SECTOR]);
                }
                (Crash::Torn(_), _) => {}
                (_, Change::Len(_)) => {
                    if dice.roll(2) == 0 {
                        bytes.apply(change);
                    }
                }
                (_, Change::Data(offset, data)) => {
                    // Sectors of the disk, not of the write.
                    let mut from = 0;
                    while from < data.len() {
                        let to = data.len().min((offset + from) / SECTOR * SECTOR + SECTOR - offset);
                        if dice.roll(2) == 0 {
                            bytes.write(offset + from, &data[from..to]);
                        }
                        from = to;
                    }
                }
            }
        }
        bytes
    }
}

/// Takes one from a number of times; whether there was one left.
fn take(times: &mut u32) -> bool {
    let is_left = *times > 0;
    *times = times.saturating_sub(1);
    is_left
}

impl State {
    fn used(&self) -> u64 {
        self.names
            .values()
            .map(|inode| self.inodes[*inode].now.len as u64)
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

    fn refuse_read_only(&self) -> io::Result<()> {
        if self.mishaps.contains(&Mishap::ReadOnly) {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        Ok(())
    }

    /// Whether this goes wrong now: the first mishap that says so, about this file.
    fn befalls<R>(&mut self, inode: usize, look: impl Fn(&mut Mishap, &str) -> Option<R>) -> Option<R> {
        let name = &self.inodes[inode].name;
        self.mishaps.iter_mut().find_map(|mishap| look(mishap, name))
    }
}

impl Disk for MemoryDisk {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        if state.off {
            return Err(io::Error::other("the power is off"));
        }
        let too_many = |mishap: &mut Mishap| match mishap {
            Mishap::Opens(times) => take(times),
            _ => false,
        };
        if state.mishaps.iter_mut().any(too_many) {
            return Err(rustix::io::Errno::MFILE.into());
        }
        let inode = match (state.names.get(name).copied(), mode) {
            (Some(_), OpenMode::New) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, OpenMode::Existing) => return Err(io::ErrorKind::NotFound.into()),
            (Some(inode), OpenMode::Existing) => inode,
            (None, OpenMode::New) => {
                state.refuse_read_only()?;
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
        Ok(Arc::new(MemoryFile {
            disk: self.clone(),
            inode,
            holds_lock: Mutex::new(false),
        }))
    }

    fn list(&self) -> io::Result<Vec<FileInfo>> {
        let state = self.lock();
        let info = |(name, inode): (&String, &usize)| FileInfo {
            name: name.clone(),
            len: state.inodes[*inode].now.len as u64,
        };
        Ok(state.names.iter().map(info).collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        if !state.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.refuse_read_only()?;
        let outcome = state.step()?;
        let change = NameChange::Remove(name.to_owned());
        apply_name(&mut state.names, &change);
        state.pending_names.push(change);
        outcome
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        let inode = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        state.refuse_read_only()?;
        let outcome = state.step()?;
        let change = NameChange::Rename(from.to_owned(), to.to_owned(), inode);
        to.clone_into(&mut state.inodes[inode].name);
        apply_name(&mut state.names, &change);
        state.pending_names.push(change);
        outcome
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.step()??;
        state.syncs += 1;
        state.durable_names = state.names.clone();
        state.pending_names.clear();
        Ok(())
    }

    fn free_space(&self) -> io::Result<u64> {
        let state = self.lock();
        Ok(state.space.map_or(u64::MAX, |space| space.saturating_sub(state.used())))
    }

    fn is_private(&self, _: &str) -> io::Result<bool> {
        Ok(true)
    }
}

/// Files whose names begin alike.
struct Folder {
    disk: MemoryDisk,
    prefix: String,
}

impl Folder {
    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

impl Disk for Folder {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(&self.name(name), mode)
    }

    fn list(&self) -> io::Result<Vec<FileInfo>> {
        let within = |info: FileInfo| {
            let name = info.name.strip_prefix(&self.prefix)?.to_owned();
            Some(FileInfo { name, ..info })
        };
        Ok(self.disk.list()?.into_iter().filter_map(within).collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(&self.name(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(&self.name(from), &self.name(to))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }

    fn free_space(&self) -> io::Result<u64> {
        self.disk.free_space()
    }

    fn is_private(&self, name: &str) -> io::Result<bool> {
        self.disk.is_private(&self.name(name))
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    inode: usize,
    holds_lock: Mutex<bool>,
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        if *self.holds_lock.lock().unwrap_or_else(PoisonError::into_inner) {
            self.disk.lock().locked.remove(&self.inode);
        }
    }
}

impl MemoryFile {
    /// Where what is asked for at an offset is really looked for.
    fn read_from(&self, state: &mut State, offset: u64, len: usize) -> io::Result<usize> {
        let end = offset + len as u64;
        let failed = |mishap: &mut Mishap, name: &str| match mishap {
            Mishap::Reads(part, bad) if name.contains(&*part) && bad.start < end && bad.end > offset => Some(()),
            _ => None,
        };
        if state.befalls(self.inode, failed).is_some() {
            return Err(rustix::io::Errno::IO.into());
        }
        let elsewhere = |mishap: &mut Mishap, name: &str| match mishap {
            Mishap::Misread(part, by, times) if name.contains(&*part) => take(times).then_some(*by),
            _ => None,
        };
        let by = state.befalls(self.inode, elsewhere).unwrap_or(0);
        let size = state.inodes[self.inode].now.len as u64;
        if end > size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // One that would be beyond the end is right after all.
        Ok(if end + by > size { offset } else { offset + by } as usize)
    }
}

impl DiskFile for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.lock().inodes[self.inode].now.len as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        if state.off {
            return Err(io::Error::other("the power is off"));
        }
        let from = self.read_from(&mut state, offset, buffer.len())?;
        state.inodes[self.inode].now.read(from, buffer);
        Ok(())
    }

    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.refuse_read_only()?;
        let mut data = parts.concat();
        let mut outcome = state.step()?;
        let fate = |mishap: &mut Mishap, name: &str| match mishap {
            Mishap::Writes(part, times) if name.contains(&*part) => take(times).then_some(None),
            Mishap::Phantom(part, times) if name.contains(&*part) => take(times).then_some(Some(None)),
            Mishap::Misdirected(part, by, times) if name.contains(&*part) => take(times).then_some(Some(Some(*by))),
            _ => None,
        };
        let offset = match state.befalls(self.inode, fate) {
            None => offset,
            Some(None) => return Err(rustix::io::Errno::IO.into()),
            Some(Some(by)) => {
                // The file is as long as if it had been done.
                let end = (offset as usize + data.len()).max(state.inodes[self.inode].now.len);
                let change = Change::Len(end);
                let inode = &mut state.inodes[self.inode];
                inode.now.apply(&change);
                inode.pending.push(change);
                match by {
                    None => return outcome,
                    Some(by) => offset + by,
                }
            }
        };
        let old = state.inodes[self.inode].now.len as u64;
        let growth = (offset + data.len() as u64).saturating_sub(old);
        if let Some(space) = state.space {
            let free = space.saturating_sub(state.used());
            if growth > free {
                data.truncate((old + free).saturating_sub(offset) as usize);
                outcome = Err(io::ErrorKind::StorageFull.into());
            }
        }
        if !data.is_empty() {
            let inode = &mut state.inodes[self.inode];
            inode.now.write(offset as usize, &data);
            inode.pending.push(Change::Data(offset as usize, data));
        }
        outcome
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.step()??;
        state.syncs += 1;
        let failed = |mishap: &mut Mishap, name: &str| match mishap {
            Mishap::Syncs(part, times) if name.contains(&*part) => take(times).then_some(()),
            _ => None,
        };
        let fails = state.befalls(self.inode, failed).is_some();
        let inode = &mut state.inodes[self.inode];
        for change in std::mem::take(&mut inode.pending) {
            if !fails {
                inode.durable.apply(&change);
            }
        }
        if fails {
            Err(io::Error::other("cannot write back"))
        } else {
            Ok(())
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.refuse_read_only()?;
        let outcome = state.step()?;
        let old = state.inodes[self.inode].now.len as u64;
        if state.mishaps.contains(&Mishap::Cuts) && len < old {
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
        inode.now.apply(&change);
        inode.pending.push(change);
        outcome
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut holds = self.holds_lock.lock().unwrap_or_else(PoisonError::into_inner);
        if !*holds {
            *holds = self.disk.lock().locked.insert(self.inode);
        }
        Ok(*holds)
    }
}
