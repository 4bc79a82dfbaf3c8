//! The audit: reads everything once, and compares the index with the packs both ways. Nothing is changed by it, and nothing may change
//! meanwhile: it is for a store that nobody uses, over an [`Overlay`](crate::Overlay) or not.

use crate::{
    disk::DiskFile,
    error::{DiskError, IndexError},
    format::{PACK_HEADER_BYTES, PackHeader, PackId, Place, PutHeader, RECORD_HEADER_BYTES, RecordKind},
    scan::{Scanned, Scanner, read_tombstone, read_verified},
    shared::Shared,
};
use potluck_types::{ByteSize, ShardId};
use std::collections::{BTreeMap, BTreeSet};

/// Entries of the index that are looked at together.
const PAGE: usize = 4096;

/// What an audit found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Audit {
    /// Shards that are listed.
    pub shards: u64,
    /// Bytes read.
    pub bytes: ByteSize,
    /// Shards that are listed, and are not what they should be.
    pub damaged: Vec<ShardId>,
    /// Shards that the index lists where none is, or although they were deleted.
    pub misplaced: Vec<ShardId>,
    /// Shards that are whole in the packs, and are not listed, or an older record of them is.
    pub unlisted: Vec<ShardId>,
    /// Packs whose header is damaged.
    pub headless: Vec<PackId>,
    /// Packs of which the index counts other shards than it lists.
    pub miscounted: Vec<PackId>,
}

impl Audit {
    /// Whether the index says what the packs do.
    pub fn is_index_sound(&self) -> bool {
        self.misplaced.is_empty() && self.unlisted.is_empty() && self.miscounted.is_empty()
    }
}

/// Shards and the bytes of their records.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Count {
    shards: u64,
    bytes: u64,
}

struct Walk<'s> {
    shared: &'s Shared,
    audit: Audit,
    /// Listed shards whose record stands where the index says.
    found: u64,
    damaged: BTreeSet<ShardId>,
    misplaced: BTreeSet<ShardId>,
    /// Records that the index does not know, and no tombstone so far undoes.
    strays: BTreeMap<ShardId, (Place, PutHeader)>,
}

/// Reads all packs, and tells `progress` how many bytes that were so far.
pub(crate) fn audit(shared: &Shared, mut progress: impl FnMut(ByteSize)) -> Result<Audit, IndexError> {
    let mut walk = Walk {
        shared,
        audit: Audit::default(),
        found: 0,
        damaged: BTreeSet::new(),
        misplaced: BTreeSet::new(),
        strays: BTreeMap::new(),
    };
    let packs: Vec<(PackId, u64)> = shared.packs.infos().iter().map(|(id, info)| (*id, info.len)).collect();
    for (pack, len) in packs {
        match shared.packs.open(pack) {
            Ok(file) => {
                if !is_header_sound(shared, &*file, pack) {
                    walk.audit.headless.push(pack);
                }
                walk.pack(&*file, pack, len, &mut progress)?;
            }
            Err(error) => {
                tracing::warn!(%error, "a pack cannot be opened");
                walk.lose(pack, 0, len)?;
            }
        }
    }
    walk.finish()
}

fn is_header_sound(shared: &Shared, file: &dyn DiskFile, pack: PackId) -> bool {
    let mut bytes = [0; PACK_HEADER_BYTES];
    let header = file
        .read_at(&mut bytes, 0)
        .ok()
        .and_then(|()| PackHeader::decode(&bytes).ok());
    header.is_some_and(|header| header.id == pack && header.key == shared.key)
}

/// Writes the headers of packs anew. What they say follows from the rest, but for the time of their creation.
pub(crate) fn restore_headers(shared: &Shared, packs: &[PackId]) -> Result<(), DiskError> {
    for pack in packs {
        let before = shared
            .packs
            .infos()
            .range(..*pack)
            .next_back()
            .map(|(id, info)| (*id, info.len));
        let (previous, previous_len) = before.unwrap_or_default();
        let header = PackHeader {
            id: *pack,
            previous,
            previous_len,
            created_at: shared.clock.now(),
            key: shared.key,
        };
        let file = shared.packs.open(*pack)?;
        file.write_at(&[&header.encode()], 0)
            .and_then(|()| file.sync_data())
            .map_err(DiskError::at("write", pack.file_name()))?;
    }
    Ok(())
}

impl Walk<'_> {
    fn pack(
        &mut self,
        file: &dyn DiskFile,
        pack: PackId,
        end: u64,
        progress: &mut impl FnMut(ByteSize),
    ) -> Result<(), IndexError> {
        let shared = self.shared;
        let mut scanner = Scanner {
            file,
            key: &shared.key,
            pack,
            offset: PACK_HEADER_BYTES as u64,
            end,
        };
        while let Some(scanned) = scanner.next() {
            match scanned {
                Scanned::Gap { from, to, .. } => {
                    self.audit.bytes.0 += to - from;
                    self.lose(pack, from, to)?;
                }
                Scanned::Record { offset, header } => {
                    let place = Place { pack, offset };
                    self.audit.bytes.0 += RECORD_HEADER_BYTES as u64;
                    match header.kind {
                        RecordKind::Put(put) => self.put(file, place, put)?,
                        RecordKind::Tombstone { .. } => {
                            let gone = read_tombstone(file, &shared.key, place, &header).ok().flatten();
                            self.tombstone(place, gone.unwrap_or_default())?;
                        }
                    }
                }
            }
            progress(self.audit.bytes);
        }
        Ok(())
    }

    fn put(&mut self, file: &dyn DiskFile, place: Place, put: PutHeader) -> Result<(), IndexError> {
        match self.shared.index.entry(&put.id)? {
            Some(entry) if entry.place() == place => {
                self.found += 1;
                self.audit.bytes.0 += u64::from(put.payload_len);
                if read_verified(file, place.offset, &put).is_err() {
                    self.damaged.insert(put.id);
                }
            }
            // It was stored again, behind this.
            Some(entry) if entry.place() > place => {}
            _ => _ = self.strays.insert(put.id, (place, put)),
        }
        Ok(())
    }

    fn tombstone(&mut self, place: Place, gone: Vec<ShardId>) -> Result<(), IndexError> {
        for id in gone {
            self.strays.remove(&id);
            if self.shared.index.entry(&id)?.is_some_and(|entry| entry.place() < place) {
                self.misplaced.insert(id);
            }
        }
        Ok(())
    }

    /// What is listed in a stretch that holds no record is damaged.
    fn lose(&mut self, pack: PackId, from: u64, to: u64) -> Result<(), IndexError> {
        let lies_there = |entry: &crate::Entry| entry.pack == pack && entry.offset < to && entry.end() > from;
        let lost = self.shared.index.search(lies_there)?;
        self.damaged.extend(lost.into_iter().map(|(id, _)| id));
        Ok(())
    }

    fn finish(mut self) -> Result<Audit, IndexError> {
        let mut counts: BTreeMap<PackId, Count> = BTreeMap::new();
        let mut after = None;
        loop {
            let page = self.shared.index.entries(after, PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            for (_, entry) in page {
                self.audit.shards += 1;
                let count = counts.entry(entry.pack).or_default();
                count.shards += 1;
                count.bytes += entry.record_len();
            }
        }
        if self.found < self.audit.shards {
            self.find_misplaced()?;
        }
        for (id, (place, put)) in std::mem::take(&mut self.strays) {
            let file = self.shared.packs.open(place.pack);
            if file.is_ok_and(|file| read_verified(&*file, place.offset, &put).is_ok()) {
                self.audit.unlisted.push(id);
            }
        }
        let infos = self.shared.packs.infos();
        let counted = |info: &crate::packs::PackInfo| Count {
            shards: info.shards,
            bytes: info.live_bytes,
        };
        let is_wrong =
            |id: &PackId| infos.get(id).map(counted).unwrap_or_default() != counts.get(id).copied().unwrap_or_default();
        let packs: BTreeSet<PackId> = infos.keys().chain(counts.keys()).copied().collect();
        self.audit.miscounted = packs.into_iter().filter(is_wrong).collect();
        self.audit.misplaced = self.misplaced.into_iter().collect();
        self.audit.damaged = self.damaged.into_iter().collect();
        Ok(self.audit)
    }

    /// Which of the listed shards have no record of theirs where the index says, other than by damage.
    fn find_misplaced(&mut self) -> Result<(), IndexError> {
        let is_elsewhere = |id: &ShardId, entry: &crate::Entry| {
            let file = self.shared.packs.open(entry.pack).ok()?;
            let mut scanner = Scanner {
                file: &*file,
                key: &self.shared.key,
                pack: entry.pack,
                offset: entry.offset,
                end: entry.end(),
            };
            match scanner.next() {
                Some(Scanned::Record { header, .. }) => match header.kind {
                    RecordKind::Put(put) => Some(put.id != *id),
                    RecordKind::Tombstone { .. } => Some(true),
                },
                _ => None,
            }
        };
        let mut after = None;
        loop {
            let page = self.shared.index.entries(after, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
            for (id, entry) in page {
                if is_elsewhere(&id, &entry).unwrap_or(!self.damaged.contains(&id)) {
                    self.misplaced.insert(id);
                }
            }
        }
    }
}
