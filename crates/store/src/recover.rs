//! Opening: finds the store's key, opens or rebuilds the index, and replays what the packs have beyond it.
//!
//! Replay takes records in the order in which they were written. In all packs but the last, everything up to the
//! length that the next pack's header states was synced: headers are trusted there, and the scrub finds rot. In
//! the last pack every replayed shard is hashed, because a crash may have torn any part of the last group. What
//! is behind the last whole record is cut off.

use crate::{
    disk::{Disk, DiskFile, OpenMode},
    error::{DiskError, FormatError, IndexError, OpenError},
    format::{
        self, PACK_HEADER_BYTES, PackHeader, PackId, Place, RESERVE_FILE, RecordHeader, RecordKind, SUPERBLOCK_BYTES,
        SUPERBLOCK_FILE, StoreKey,
    },
    index::{self, Checkpoint, Entry, Index, Position},
    packs::Packs,
    scan::{BodyError, Scanned, Scanner, read_descriptor, read_tombstone, read_verified},
    writer::entry_of,
};
use potluck_types::{ByteSize, Entropy, ShardId, limits};
use std::{collections::BTreeMap, io, ops::Range, sync::Arc};

const SUPERBLOCK_NEW: &str = "STORE.new";

/// What opening a store found and did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Recovery {
    /// The store was closed in order: nothing had to be replayed.
    pub clean: bool,
    /// The index was missing or corrupt, and was made anew from the packs.
    pub rebuilt: bool,
    /// Records replayed.
    pub replayed: u64,
    /// Bytes of never acknowledged writes that were cut off.
    pub torn: ByteSize,
    /// Bytes that belong to no readable record, in the middle of packs.
    pub unreadable: ByteSize,
    /// Shards that were stored, and are damaged or gone with their pack. They are not listed.
    pub damaged: Vec<ShardId>,
    /// Packs whose files are gone although shards were in them.
    pub missing_packs: Vec<PackId>,
}

/// What recovery hands to the store.
pub(crate) struct Recovered {
    pub(crate) key: StoreKey,
    pub(crate) index: Index,
    pub(crate) packs: Packs,
    pub(crate) position: Position,
    /// The last pack, when writing can go on in it.
    pub(crate) resume: Option<PackId>,
    pub(crate) next_pack: PackId,
    /// The reserve file is there.
    pub(crate) reserve: bool,
    /// The superblock: locked as long as this is open.
    pub(crate) lock: Arc<dyn DiskFile>,
    pub(crate) report: Recovery,
}

/// A pack file as it was found.
struct Found {
    len: u64,
    header: Option<PackHeader>,
}

struct Replay {
    key: StoreKey,
    index: Index,
    packs: Packs,
    position: Position,
    report: Recovery,
}

/// Opens the store on this disk.
pub(crate) fn open(disk: &Arc<dyn Disk>, entropy: &dyn Entropy, cache_bytes: usize) -> Result<Recovered, OpenError> {
    let files = disk.list().map_err(DiskError::at("list", "."))?;
    let mut found = BTreeMap::new();
    for file in &files {
        if let Some(id) = PackId::from_file_name(&file.name) {
            let (len, header) = (file.len, None);
            found.insert(id, Found { len, header });
        }
    }
    let highest = found.keys().next_back().copied().unwrap_or_default();
    let (key, lock) = store_key(&**disk, entropy, &mut found)?;
    let reserve = files
        .iter()
        .any(|file| file.name == RESERVE_FILE && file.len == limits::STORE_RESERVE_BYTES as u64);
    if !reserve {
        let _ = disk.remove(RESERVE_FILE);
    }

    // Of a store that was there before, or was being made when the machine stopped.
    let is_index_lost = files.iter().any(|file| file.name == SUPERBLOCK_FILE)
        && !files.iter().any(|file| file.name == format::INDEX_FILE && file.len > 0);
    let (index, checkpoint, rebuilt) = open_index(disk, cache_bytes, &found)?;
    let start = checkpoint.position.place.pack;
    read_headers(&**disk, &mut found, start)?;
    let lens: BTreeMap<PackId, u64> = checkpoint.packs.iter().map(|(id, info)| (*id, info.len)).collect();
    drop_unborn(&**disk, &mut found, start, &lens);
    let mut replay = Replay {
        key,
        index,
        packs: Packs::new(Arc::clone(disk), checkpoint.packs),
        position: checkpoint.position,
        report: Recovery {
            rebuilt: rebuilt || is_index_lost,
            ..Recovery::default()
        },
    };
    // How much of each pack counts, as far as later packs say so.
    let headers = found.values().filter_map(|pack| pack.header);
    let ends: BTreeMap<PackId, u64> = headers.map(|header| (header.previous, header.previous_len)).collect();
    let last = found.keys().next_back().copied();
    let mut resume = None;
    for (id, pack) in found.range(start..) {
        let end = ends.get(id).copied().unwrap_or(pack.len);
        resume = replay.pack(*id, pack, end, Some(*id) == last)?.then_some(*id);
    }
    replay.drop_lost(&found, &lens)?;
    let next_pack = highest
        .max(start)
        .max(lens.keys().next_back().copied().unwrap_or_default())
        .next();
    replay.finish(resume, next_pack, reserve, lock)
}

/// Reads the headers of the packs from `start` on.
fn read_headers(disk: &dyn Disk, found: &mut BTreeMap<PackId, Found>, start: PackId) -> Result<(), OpenError> {
    for (id, pack) in found.range_mut(start..) {
        pack.header = match read_pack_header(disk, *id) {
            Err(FormatError::Newer { found }) => return Err(OpenError::NewerFormat { found }),
            header => header.ok().filter(|header| header.id == *id),
        };
    }
    Ok(())
}

fn read_pack_header(disk: &dyn Disk, id: PackId) -> Result<PackHeader, FormatError> {
    let mut bytes = [0; PACK_HEADER_BYTES];
    let read = disk
        .open(&id.file_name(), OpenMode::Existing)
        .and_then(|file| file.read_at(&mut bytes, 0));
    read.map_err(|_| FormatError::Unreadable)?;
    PackHeader::decode(&bytes)
}

/// The key from the superblock, else from a pack; a new one for a new store. And the superblock, locked.
fn store_key(
    disk: &dyn Disk,
    entropy: &dyn Entropy,
    found: &mut BTreeMap<PackId, Found>,
) -> Result<(StoreKey, Arc<dyn DiskFile>), OpenError> {
    let lock = |file: Arc<dyn DiskFile>| match file.try_lock() {
        Ok(true) => Ok(file),
        Ok(false) => Err(OpenError::Locked),
        Err(error) => Err(DiskError::at("lock", SUPERBLOCK_FILE)(error).into()),
    };
    let superblock = match disk.open(SUPERBLOCK_FILE, OpenMode::Existing) {
        Ok(file) => {
            let file = lock(file)?;
            let mut bytes = [0; SUPERBLOCK_BYTES];
            match file.read_at(&mut bytes, 0) {
                Ok(()) => format::decode_superblock(&bytes).map(|key| (key, file)),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(FormatError::Unreadable),
                Err(error) => return Err(DiskError::at("read", SUPERBLOCK_FILE)(error).into()),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(FormatError::Unreadable),
        Err(error) => return Err(DiskError::at("open", SUPERBLOCK_FILE)(error).into()),
    };
    match superblock {
        Ok(known) => return Ok(known),
        Err(FormatError::Newer { found }) => return Err(OpenError::NewerFormat { found }),
        Err(FormatError::Unreadable) => read_headers(disk, found, PackId::default())?,
    }
    let key = match found.values().find_map(|pack| Some(pack.header?.key)) {
        Some(key) => key,
        // A pack is created after the superblock, and longer than its header before anything counts.
        None if found.values().any(|pack| pack.len > PACK_HEADER_BYTES as u64) => return Err(OpenError::NoKey),
        None => StoreKey(entropy.bytes()),
    };
    let file = write_superblock(disk, key).map_err(DiskError::at("write", SUPERBLOCK_FILE))?;
    Ok((key, lock(file)?))
}

fn write_superblock(disk: &dyn Disk, key: StoreKey) -> io::Result<Arc<dyn DiskFile>> {
    let _ = disk.remove(SUPERBLOCK_NEW);
    let file = disk.open(SUPERBLOCK_NEW, OpenMode::New)?;
    file.write_at(&[&format::encode_superblock(key)], 0)?;
    file.sync_data()?;
    disk.rename(SUPERBLOCK_NEW, SUPERBLOCK_FILE)?;
    disk.sync_dir()?;
    Ok(file)
}

/// The index, or an empty one when there is none that can be used with these packs.
fn open_index(
    disk: &Arc<dyn Disk>,
    cache_bytes: usize,
    found: &BTreeMap<PackId, Found>,
) -> Result<(Index, Checkpoint, bool), OpenError> {
    match Index::open(Arc::clone(disk), cache_bytes) {
        Ok((index, checkpoint)) => {
            let start = checkpoint.position.place.pack;
            let unknown = |(id, pack): (&PackId, &Found)| {
                *id < start && pack.len > PACK_HEADER_BYTES as u64 && !checkpoint.packs.contains_key(id)
            };
            if !found.iter().any(unknown) {
                // One that knows of nothing yet is that of a store which ended before its first checkpoint: all is replayed.
                return Ok((index, checkpoint, false));
            }
            tracing::warn!("the index does not know all packs: it is rebuilt");
            index.close();
        }
        Err(IndexError::Database(error)) if matches!(*error, redb::Error::DatabaseAlreadyOpen) => {
            return Err(OpenError::Locked);
        }
        Err(error) => tracing::warn!(%error, "the index is rebuilt"),
    }
    index::discard(&**disk)?;
    let (index, checkpoint) = Index::open(Arc::clone(disk), cache_bytes)?;
    Ok((index, checkpoint, true))
}

/// Removes packs whose creation was cut short: nothing in them was ever acknowledged.
fn drop_unborn(disk: &dyn Disk, found: &mut BTreeMap<PackId, Found>, start: PackId, lens: &BTreeMap<PackId, u64>) {
    found.retain(|id, pack| {
        let known = lens.contains_key(id) || (*id >= start && pack.header.is_some());
        let unborn = !known && pack.len <= PACK_HEADER_BYTES as u64;
        if unborn {
            let _ = disk.remove(&id.file_name());
        }
        !unborn
    });
}

impl Replay {
    /// Replays one pack up to its end; tells whether writing can go on in it.
    fn pack(&mut self, id: PackId, found: &Found, end: u64, last: bool) -> Result<bool, OpenError> {
        let header_len = PACK_HEADER_BYTES as u64;
        let start = match self.position.place {
            Place { pack, offset } if pack == id => offset.max(header_len),
            _ => header_len,
        };
        let known_len = self.packs.infos().entry(id).or_default().len;
        let mut sound = found.header.is_some() && found.len >= known_len.max(header_len);
        let mut len = start.min(found.len);
        if start < found.len {
            let file = self.packs.open(id)?;
            let readable = self.records(&*file, id, start..end.min(found.len), last)?;
            sound &= readable;
            len = self.position.place.offset;
            if last {
                // Synced even if nothing is cut: what a killed process wrote may be in memory only, and is about to be
                // relied on.
                let cut = if sound && len < found.len {
                    file.set_len(len)
                } else {
                    Ok(())
                };
                cut.and_then(|()| file.sync_data())
                    .map_err(DiskError::at("cut", id.file_name()))?;
            } else {
                len = end.min(found.len);
                self.report.unreadable.0 += end - len;
            }
        }
        self.packs.infos().entry(id).or_default().len = len;
        self.position.place = Place { pack: id, offset: len };
        Ok(sound && last)
    }

    /// Replays the records of a stretch, and leaves the position behind the last whole one. Tells whether all of it
    /// could be read.
    fn records(
        &mut self,
        file: &dyn DiskFile,
        pack: PackId,
        stretch: Range<u64>,
        last: bool,
    ) -> Result<bool, OpenError> {
        let key = self.key;
        let mut scanner = Scanner {
            file,
            key: &key,
            pack,
            offset: stretch.start,
            end: stretch.end,
        };
        self.position.place = Place {
            pack,
            offset: stretch.start,
        };
        let mut readable = true;
        // What is not a whole record, and the group of the next record, or its own where its header is sound.
        let mut broken: Vec<Broken> = Vec::new();
        while let Some(scanned) = scanner.next() {
            match scanned {
                Scanned::Gap { from, to, unreadable } => {
                    readable &= !unreadable;
                    broken.push(Broken {
                        bytes: to - from,
                        group: None,
                        shard: None,
                    });
                }
                Scanned::Record { offset, header } => {
                    let group = Some(header.group);
                    broken
                        .iter_mut()
                        .for_each(|broken| broken.group = broken.group.or(group));
                    let place = Place { pack, offset };
                    match self.record(file, place, &header, last)? {
                        Applied::Whole => {
                            self.position.place.offset = offset + header.record_len();
                            self.position.group = self.position.group.max(header.group + 1);
                        }
                        Applied::Damaged { shard, unreadable } => {
                            readable &= !unreadable;
                            broken.push(Broken {
                                bytes: header.record_len(),
                                group,
                                shard,
                            });
                        }
                    }
                }
            }
            if self.index.backlog() >= limits::STORE_INDEX_CHANGES_MAX {
                self.checkpoint()?;
            }
        }
        for Broken { bytes, group, shard } in broken {
            // Only the last group that was written can be torn: it alone was not synced.
            if last && group.is_none_or(|group| group + 1 >= self.position.group) {
                self.report.torn.0 += bytes;
            } else {
                self.report.unreadable.0 += bytes;
                self.report.damaged.extend(shard);
            }
        }
        Ok(readable)
    }

    fn record(
        &mut self,
        file: &dyn DiskFile,
        place: Place,
        header: &RecordHeader,
        check: bool,
    ) -> Result<Applied, OpenError> {
        let damaged = |shard, error: &BodyError| Applied::Damaged {
            shard,
            unreadable: matches!(error, BodyError::Io(_)),
        };
        match header.kind {
            RecordKind::Put(put) => {
                let geometry = if check {
                    read_verified(file, place.offset, &put).map(|shard| shard.descriptor().geometry())
                } else {
                    read_descriptor(file, place.offset, &put).map(|descriptor| descriptor.geometry())
                };
                match geometry {
                    Ok(geometry) => self.apply(put.id, Some(entry_of(&put, place, geometry)))?,
                    Err(error) => return Ok(damaged(Some(put.id), &error)),
                }
            }
            RecordKind::Tombstone { .. } => {
                let ids = match read_tombstone(file, &self.key, place, header) {
                    Ok(Some(ids)) => ids,
                    Ok(None) => {
                        return Ok(Applied::Damaged {
                            shard: None,
                            unreadable: false,
                        });
                    }
                    Err(error) => return Ok(damaged(None, &BodyError::Io(error))),
                };
                for id in ids {
                    self.apply(id, None)?;
                }
                if let Some(info) = self.packs.infos().get_mut(&place.pack) {
                    info.tombstone_bytes += header.record_len();
                }
            }
        }
        self.report.replayed += 1;
        Ok(Applied::Whole)
    }

    fn apply(&mut self, id: ShardId, entry: Option<Entry>) -> Result<(), IndexError> {
        let old = self.index.entry(&id)?;
        self.packs.account(old.as_ref(), entry.as_ref());
        self.index.apply([(id, entry)]);
        Ok(())
    }

    /// Takes out of the index what the files no longer have. `lens` is how long they were.
    fn drop_lost(&mut self, found: &BTreeMap<PackId, Found>, lens: &BTreeMap<PackId, u64>) -> Result<(), OpenError> {
        let infos = self.packs.infos().clone();
        let len = |id: &PackId| found.get(id).map_or(0, |pack| pack.len);
        let lost = |id: &PackId| len(id) < lens.get(id).copied().unwrap_or_default();
        if infos.iter().any(|(id, info)| info.shards > 0 && lost(id)) {
            for (id, entry) in self.index.search(|entry| entry.end() > len(&entry.pack))? {
                self.apply(id, None)?;
                self.report.damaged.push(id);
                if !found.contains_key(&entry.pack) && !self.report.missing_packs.contains(&entry.pack) {
                    self.report.missing_packs.push(entry.pack);
                }
            }
        }
        let mut infos = self.packs.infos();
        infos.retain(|id, _| found.contains_key(id));
        for (id, info) in &mut *infos {
            info.len = info.len.min(len(id));
        }
        Ok(())
    }

    fn checkpoint(&self) -> Result<(), IndexError> {
        self.index.checkpoint(&self.position, &self.packs.infos())
    }

    fn finish(
        mut self,
        resume: Option<PackId>,
        next_pack: PackId,
        reserve: bool,
        lock: Arc<dyn DiskFile>,
    ) -> Result<Recovered, OpenError> {
        let mut damaged = std::mem::take(&mut self.report.damaged);
        damaged.sort_unstable();
        damaged.dedup();
        for id in damaged {
            // What has a whole copy elsewhere is not lost.
            if self.index.entry(&id)?.is_none() {
                self.report.damaged.push(id);
            }
        }
        let Recovery { torn, unreadable, .. } = self.report;
        self.report.clean = !self.report.rebuilt && self.report.replayed == 0 && torn.0 + unreadable.0 == 0;
        self.report.clean &= self.report.damaged.is_empty();
        if !self.report.clean {
            // A full disk must not keep the store from opening: what was replayed stays in memory then.
            if let Err(error) = self.checkpoint() {
                tracing::warn!(%error, "the index was not written; it is tried again");
            }
        }
        Ok(Recovered {
            key: self.key,
            index: self.index,
            packs: self.packs,
            position: self.position,
            resume,
            next_pack,
            reserve,
            lock,
            report: self.report,
        })
    }
}

/// A stretch that holds no whole record.
struct Broken {
    bytes: u64,
    group: Option<u64>,
    shard: Option<ShardId>,
}

enum Applied {
    Whole,
    Damaged { shard: Option<ShardId>, unreadable: bool },
}
