//! The writer: turns what waits into groups, one write and one sync each, and then tells whoever asked.
//!
//! There is one writer, and only it changes packs and index. It upholds:
//! 1. Nothing is acknowledged before the records that make it so are synced. That includes answers that need no
//!    write ("already stored", "already gone"): they rest on records that were synced before.
//! 2. A pack is appended to only while every earlier write and sync of it has succeeded. After a failure it is
//!    abandoned at its synced length, which the next pack's header states; until that header is synced nothing at
//!    all is acknowledged, because the abandoned tail might still come back.
//! 3. A group is written only after the one before it was synced.

use crate::{
    compact::Job,
    disk::{DiskFile, OpenMode},
    error::{ChangeError, DiskError, IndexError, PutError},
    format::{
        self, ALIGN, PACK_HEADER_BYTES, PackHeader, PackId, Place, PutHeader, RESERVE_FILE, RecordHeader, RecordKind,
    },
    index::{Entry, Position},
    queue::{Command, Done},
    shared::Shared,
};
use bytes::Bytes;
use potluck_types::{
    ByteSize, Geometry, Shard, ShardId, SpaceId, limits,
    sabotage::{self, Bug},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

/// See the module.
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) current: Option<Current>,
    /// The pack before the current or next one, and its length.
    pub(crate) previous: Place,
    pub(crate) next_pack: PackId,
    pub(crate) group: u64,
    /// A pack was abandoned, and no later pack says so yet.
    pub(crate) unsettled: bool,
    /// The reserve file is there.
    pub(crate) reserve: bool,
    pub(crate) job: Option<Job>,
    /// At how many index changes the next checkpoint is tried.
    pub(crate) checkpoint_at: usize,
}

/// The pack that is written to.
pub(crate) struct Current {
    pub(crate) id: PackId,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Its synced length.
    pub(crate) len: u64,
}

/// What shares one sync.
#[derive(Default)]
pub(crate) struct Batch {
    parts: Vec<Bytes>,
    len: u64,
    payload: u64,
    tombstone_bytes: u64,
    /// What the index said before, and what it will say.
    changes: BTreeMap<ShardId, (Option<Entry>, Option<Entry>)>,
    puts: Vec<Done<(), PutError>>,
    deletes: Vec<Delete>,
}

struct Delete {
    ids: Vec<ShardId>,
    count: usize,
    done: Done<usize, ChangeError>,
}

impl Writer {
    /// Does what was asked, in order.
    pub(crate) fn turn(&mut self, commands: Vec<Command>) {
        let mut batch = Batch::default();
        for command in commands {
            match command {
                Command::Put { shard, space, done } => self.put(&mut batch, &shard, space, done),
                Command::Delete { ids, done } => self.delete(&mut batch, ids, done),
                Command::Quarantine { found, done } => {
                    let still = |(id, place): &(ShardId, Place)| {
                        let entry = self.entry(&batch, id).ok().flatten();
                        entry.is_some_and(|entry| entry.place() == *place).then_some(*id)
                    };
                    let ids: Vec<ShardId> = found.iter().filter_map(still).collect();
                    self.shared
                        .counters
                        .damaged
                        .fetch_add(ids.len() as u64, Ordering::Relaxed);
                    self.delete(&mut batch, ids, done);
                }
                Command::Compact { bytes_max, done } => {
                    let _ = self.commit(std::mem::take(&mut batch));
                    done(self.compact(bytes_max));
                }
                Command::Checkpoint { done } => {
                    let _ = self.commit(std::mem::take(&mut batch));
                    done(self.checkpoint().map_err(ChangeError::Index));
                }
            }
        }
        let _ = self.commit(batch);
        if self.shared.index.backlog() >= self.checkpoint_at {
            let _ = self.checkpoint();
        }
    }

    fn put(&mut self, batch: &mut Batch, shard: &Shard, space: SpaceId, done: Done<(), PutError>) {
        let damaged = match self.entry(batch, &shard.id()) {
            // It is stored anew, and what is there is dead.
            Ok(Some(entry)) if self.shared.is_hidden(&shard.id(), &entry) => Some(entry),
            Ok(Some(_)) => return batch.puts.push(done),
            Ok(None) => None,
            Err(error) => return done(Err(error.into())),
        };
        if self.shared.index.backlog() >= limits::STORE_INDEX_BACKLOG_MAX {
            return done(Err(IndexError::from(redb::Error::PreviousIo).into()));
        }
        let descriptor = shard.descriptor().to_bytes();
        let header = PutHeader {
            id: shard.id(),
            space,
            stored_at: self.shared.clock.now(),
            descriptor_len: u16::try_from(descriptor.len()).expect("a descriptor is at most 1 KiB"),
            payload_len: u32::try_from(shard.payload().len()).expect("a payload is at most 4 MiB"),
        };
        let len = format::put_record_len(header.descriptor_len, header.payload_len);
        let (capacity, used) = (self.shared.capacity(), self.shared.used() + batch.len);
        if used + len + self.shared.headroom() > capacity {
            return done(Err(PutError::Full {
                capacity: ByteSize(capacity),
                used: ByteSize(used),
            }));
        }
        match self.append_put(batch, header, &descriptor, shard, damaged) {
            Ok(()) => batch.puts.push(done),
            Err(error) => done(Err(error.into())),
        }
    }

    /// Adds the record of a shard, and its new place. `indexed` is what the index says of it, batch aside.
    pub(crate) fn append_put(
        &mut self,
        batch: &mut Batch,
        header: PutHeader,
        descriptor: &[u8],
        shard: &Shard,
        indexed: Option<Entry>,
    ) -> Result<(), ChangeError> {
        let len = format::put_record_len(header.descriptor_len, header.payload_len);
        let changed = batch.changes.contains_key(&header.id);
        let place = self.place(batch, len)?;
        let before = if changed {
            self.entry_before(batch, &header.id)?
        } else {
            indexed
        };
        let record = RecordHeader {
            group: self.group,
            kind: RecordKind::Put(header),
        };
        let head_len = format::RECORD_HEADER_BYTES + format::payload_start(header.descriptor_len) as usize;
        let mut head = Vec::with_capacity(head_len);
        head.extend_from_slice(&record.encode(&self.shared.key, place));
        head.extend_from_slice(descriptor);
        head.resize(head_len, 0);
        let padding = len as usize - head.len() - shard.payload().len();
        batch.parts.push(head.into());
        batch.parts.push(shard.payload().clone());
        batch
            .parts
            .push(Bytes::from_static(&[0; ALIGN as usize]).slice(..padding));
        batch.len += len;
        batch.payload += shard.payload().len() as u64;
        let entry = entry_of(&header, place, shard.descriptor().geometry());
        batch.changes.insert(header.id, (before, Some(entry)));
        Ok(())
    }

    fn delete(&mut self, batch: &mut Batch, ids: Vec<ShardId>, done: Done<usize, ChangeError>) {
        let live = match self.live(batch, &ids) {
            Ok(live) => live,
            Err(error) => return done(Err(error.into())),
        };
        if !live.is_empty() && self.shared.index.backlog() >= 2 * limits::STORE_INDEX_BACKLOG_MAX {
            return done(Err(IndexError::from(redb::Error::PreviousIo).into()));
        }
        let mut staged = self.append_tombstones(batch, &live);
        if staged.as_ref().is_err_and(ChangeError::is_disk_full) && self.release_reserve() {
            staged = self.append_tombstones(batch, &live);
        }
        match staged {
            Ok(()) => batch.deletes.push(Delete {
                ids,
                count: live.len(),
                done,
            }),
            Err(error) => done(Err(error)),
        }
    }

    /// Those of the shards that are stored, each once.
    fn live(&self, batch: &Batch, ids: &[ShardId]) -> Result<Vec<ShardId>, IndexError> {
        let mut live = Vec::new();
        for id in ids {
            if self.entry(batch, id)?.is_some() {
                live.push(*id);
            }
        }
        live.sort_unstable();
        live.dedup();
        Ok(live)
    }

    /// Adds records that these shards are gone.
    pub(crate) fn append_tombstones(&mut self, batch: &mut Batch, ids: &[ShardId]) -> Result<(), ChangeError> {
        for ids in ids.chunks(limits::STORE_TOMBSTONES_PER_RECORD_MAX) {
            let place = self.place(batch, format::tombstone_record_len(ids.len()))?;
            for id in ids {
                let before = self.entry_before(batch, id)?;
                batch.changes.insert(*id, (before, None));
            }
            let record = format::encode_tombstone(ids, self.group, &self.shared.key, place);
            batch.len += record.len() as u64;
            batch.tombstone_bytes += record.len() as u64;
            batch.parts.push(record.into());
        }
        Ok(())
    }

    /// Where a record of this length goes. Commits the batch first when it does not fit with it.
    fn place(&mut self, batch: &mut Batch, len: u64) -> Result<Place, ChangeError> {
        if batch.len + len > limits::STORE_GROUP_BYTES_MAX as u64 {
            self.commit(std::mem::take(batch))?;
        }
        let filled = self.current.as_ref().map_or(0, |current| current.len + batch.len);
        if filled > PACK_HEADER_BYTES as u64 && filled + len > self.shared.pack_bytes {
            self.commit(std::mem::take(batch))?;
            self.seal();
        }
        let current = match &mut self.current {
            Some(current) => current,
            None => {
                let fresh = self.start_pack()?;
                self.current.insert(fresh)
            }
        };
        Ok(Place {
            pack: current.id,
            offset: current.len + batch.len,
        })
    }

    /// What the index will say once the batch is committed.
    pub(crate) fn entry(&self, batch: &Batch, id: &ShardId) -> Result<Option<Entry>, IndexError> {
        match batch.changes.get(id) {
            Some((_, after)) => Ok(*after),
            None => self.shared.index.entry(id),
        }
    }

    fn entry_before(&self, batch: &Batch, id: &ShardId) -> Result<Option<Entry>, IndexError> {
        match batch.changes.get(id) {
            Some((before, _)) => Ok(*before),
            None => self.shared.index.entry(id),
        }
    }

    /// Makes the batch durable, and says so.
    pub(crate) fn commit(&mut self, batch: Batch) -> Result<(), ChangeError> {
        let outcome = self.write(&batch).map_err(ChangeError::Disk);
        let Batch { puts, deletes, .. } = batch;
        if let Err(error) = &outcome {
            tracing::warn!(%error, "a group was not stored");
            puts.into_iter().for_each(|done| done(Err(error.clone().into())));
            if error.is_disk_full() && !deletes.is_empty() && self.release_reserve() {
                let mut again = Batch::default();
                for Delete { ids, done, .. } in deletes {
                    self.delete(&mut again, ids, done);
                }
                let _ = self.commit(again);
            } else {
                deletes.into_iter().for_each(|delete| (delete.done)(Err(error.clone())));
            }
            return outcome;
        }
        puts.into_iter().for_each(|done| done(Ok(())));
        deletes.into_iter().for_each(|delete| (delete.done)(Ok(delete.count)));
        Ok(())
    }

    fn write(&mut self, batch: &Batch) -> Result<(), DiskError> {
        if self.unsettled && self.current.is_none() && !(batch.puts.is_empty() && batch.deletes.is_empty()) {
            self.current = Some(self.start_pack()?);
        }
        if batch.parts.is_empty() {
            return Ok(());
        }
        let Current { id, file, len } = self.current.as_mut().expect("records were placed in a pack");
        let id = *id;
        let parts: Vec<&[u8]> = batch
            .parts
            .iter()
            .map(|part| &part[..])
            .filter(|part| !part.is_empty())
            .collect();
        let counters = &self.shared.counters;
        let written = file
            .write_at(&parts, *len)
            .map_err(DiskError::at("write", id.file_name()));
        if let Err(error) = written {
            let len = *len;
            let cut = error.is_full() && file.set_len(len).and_then(|()| file.sync_data()).is_ok();
            if !cut {
                self.abandon();
            }
            return Err(error);
        }
        counters.syncs.fetch_add(1, Ordering::Relaxed);
        if !sabotage::is_planted(Bug::AcknowledgeBeforeSync)
            && let Err(error) = file.sync_data().map_err(DiskError::at("sync", id.file_name()))
        {
            self.abandon();
            return Err(error);
        }
        *len += batch.len;
        let len = *len;
        self.group += 1;
        counters.groups.fetch_add(1, Ordering::Relaxed);
        counters.payload_written.fetch_add(batch.payload, Ordering::Relaxed);
        counters.written.fetch_add(batch.len, Ordering::Relaxed);
        for (before, after) in batch.changes.values() {
            self.shared.packs.account(before.as_ref(), after.as_ref());
        }
        if let Some(info) = self.shared.packs.infos().get_mut(&id) {
            info.len = len;
            info.tombstone_bytes += batch.tombstone_bytes;
        }
        let changes = batch.changes.iter();
        self.shared.index.apply(changes.map(|(id, (_, after))| (*id, *after)));
        Ok(())
    }

    /// Begins a new pack: header, length and name are durable when this returns.
    fn start_pack(&mut self) -> Result<Current, DiskError> {
        let id = self.next_pack;
        self.next_pack = id.next();
        let name = id.file_name();
        let header = PackHeader {
            id,
            previous: self.previous.pack,
            previous_len: self.previous.offset,
            created_at: self.shared.clock.now(),
            key: self.shared.key,
        };
        let disk = &self.shared.disk;
        let file = disk
            .open(&name, OpenMode::New)
            .map_err(DiskError::at("create", &*name))?;
        let written = file
            .write_at(&[&header.encode()], 0)
            .and_then(|()| file.sync_data())
            .and_then(|()| disk.sync_dir());
        if let Err(error) = written {
            // An empty pack does no harm if it stays.
            let _ = disk.remove(&name);
            return Err(DiskError::at("create", name)(error));
        }
        let len = PACK_HEADER_BYTES as u64;
        self.shared.counters.syncs.fetch_add(2, Ordering::Relaxed);
        self.shared.counters.written.fetch_add(len, Ordering::Relaxed);
        self.shared.packs.infos().entry(id).or_default().len = len;
        self.shared.packs.keep(id, &file);
        self.unsettled = false;
        Ok(Current { id, file, len })
    }

    /// Ends the current pack, which is whole.
    pub(crate) fn seal(&mut self) {
        if let Some(Current { id, len, .. }) = self.current.take() {
            self.previous = Place { pack: id, offset: len };
            let _ = self.checkpoint();
        }
    }

    /// Ends the current pack at its synced length; what was written behind that must never count.
    fn abandon(&mut self) {
        if let Some(Current { id, file, len }) = self.current.take() {
            tracing::warn!(pack = id.0, len, "a pack is abandoned after a failed write");
            self.previous = Place { pack: id, offset: len };
            self.unsettled = true;
            let _ = file.set_len(len);
        }
    }

    /// Writes the index, so that what came so far need not be replayed.
    pub(crate) fn checkpoint(&mut self) -> Result<(), IndexError> {
        let place = self.current.as_ref().map_or(self.previous, |current| Place {
            pack: current.id,
            offset: current.len,
        });
        let position = Position {
            place,
            group: self.group,
            scrub: self.shared.scrub(),
        };
        let infos = self.shared.packs.infos().clone();
        let written = self.shared.index.checkpoint(&position, &infos);
        if let Err(error) = &written {
            tracing::warn!(%error, "the index was not written; it is tried again");
        }
        // After a failure, not again at once: it would fail again, and cost every group its time.
        self.checkpoint_at = self.shared.index.backlog() + limits::STORE_INDEX_CHANGES_MAX;
        written
    }

    /// Gives up the reserve file, so that a full disk has room for what frees space.
    fn release_reserve(&mut self) -> bool {
        let released = self.reserve && self.shared.disk.remove(RESERVE_FILE).is_ok();
        self.reserve = false;
        let _ = self.shared.disk.sync_dir();
        released
    }

    /// Makes the reserve file again when there is room.
    pub(crate) fn restore_reserve(&mut self) {
        if self.reserve {
            return;
        }
        let disk = &self.shared.disk;
        let zeros = vec![0; limits::STORE_RESERVE_BYTES];
        let made = disk
            .open(RESERVE_FILE, OpenMode::New)
            .and_then(|file| file.write_at(&[&zeros], 0).and_then(|()| file.sync_data()))
            .and_then(|()| disk.sync_dir());
        self.reserve = made.is_ok();
        if made.is_err() {
            let _ = disk.remove(RESERVE_FILE);
        }
    }

    /// Leaves everything as the next open likes to find it.
    pub(crate) fn close(&mut self) {
        if self.shared.index.is_corrupt() {
            self.shared.index.close();
            let _ = crate::index::discard(&*self.shared.disk);
            return;
        }
        let _ = self.checkpoint();
        self.shared.index.close();
    }
}

impl Batch {
    /// How many shards it moves out of this pack.
    pub(crate) fn moved_from(&self, pack: PackId) -> u64 {
        let lies = |entry: &Option<Entry>| entry.is_some_and(|entry| entry.pack == pack);
        let moved = |(before, after): &&(Option<Entry>, Option<Entry>)| lies(before) && !lies(after);
        self.changes.values().filter(moved).count() as u64
    }
}

/// The entry of a shard whose record stands there.
pub(crate) fn entry_of(header: &PutHeader, place: Place, geometry: Geometry) -> Entry {
    let PutHeader {
        space,
        stored_at,
        descriptor_len,
        payload_len,
        ..
    } = *header;
    Entry {
        pack: place.pack,
        offset: place.offset,
        geometry,
        descriptor_len,
        payload_len,
        space,
        stored_at,
    }
}
