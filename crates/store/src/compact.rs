//! Compaction: copies what is still live out of a mostly dead pack, and removes the pack.
//!
//! Everything goes through the writer's ordinary commits, so a crash at any point leaves either both copies, of
//! which replay takes the later, or the later one. What must outlive the pack:
//! - live shards: copied, after a check, so that damage does not travel;
//! - tombstones, as long as any older pack exists: it may hold the put that they undo. A tombstone whose shard
//!   is stored again is dropped, because that later put already outranks the old one.

use crate::{
    error::{ChangeError, DiskError, tells_of_damage},
    format::{PACK_HEADER_BYTES, PackId, Place, PutHeader, RecordKind},
    packs::PackInfo,
    scan::{BodyError, Scanned, Scanner, read_tombstone, read_verified},
    writer::{Batch, Writer},
};
use potluck_types::{ByteSize, ShardId};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::atomic::Ordering,
};

/// A pack is worth compacting when less than this part of it is live: each byte copied frees one at least.
const LIVE_PERCENT_MAX: u64 = 50;
/// The pack that is written to is sealed for that only when it has this part of its target length: a new one costs two syncs.
const SEALED_EARLY_PART: u64 = 64;

/// What a step of compaction did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Compaction {
    /// Bytes copied to the current pack.
    pub copied: ByteSize,
    /// Bytes given back to the disk.
    pub freed: ByteSize,
    /// Shards that were to be copied and are damaged. They are no longer listed.
    pub damaged: Vec<ShardId>,
    /// Whether there is nothing worth compacting now.
    pub idle: bool,
}

/// A pack that is being emptied.
pub(crate) struct Job {
    pack: PackId,
    /// Where the scan goes on.
    offset: u64,
    end: u64,
}

/// Bytes of a pack that emptying it copies.
fn kept(infos: &BTreeMap<PackId, PackInfo>, id: PackId, info: &PackInfo) -> u64 {
    let is_oldest = infos.keys().next() == Some(&id);
    info.live_bytes + if is_oldest { 0 } else { info.tombstone_bytes }
}

impl Writer {
    /// Goes on emptying a pack, until about `bytes_max` bytes were looked at.
    pub(crate) fn compact(&mut self, bytes_max: u64) -> Result<Compaction, ChangeError> {
        let job = match self.job.take() {
            Some(job) => job,
            None => match self.candidate_or_current()? {
                Some(job) => job,
                None => {
                    self.restore_reserve();
                    return Ok(Compaction {
                        idle: true,
                        ..Compaction::default()
                    });
                }
            },
        };
        // On an error the job is dropped: a later step starts anew, and finds less to copy.
        self.empty(job, bytes_max)
    }

    /// A pack to empty. The one that is written to is sealed when nothing else is left and most of it is dead: what is removed
    /// last would stay else until more is stored.
    fn candidate_or_current(&mut self) -> Result<Option<Job>, ChangeError> {
        let candidate = self.candidate()?;
        let Some(current) = self.current.as_ref().map(|current| current.id) else {
            return Ok(candidate);
        };
        let infos = self.shared.packs.infos().clone();
        let is_dead = infos.get(&current).is_some_and(|info| {
            info.len >= self.shared.pack_bytes / SEALED_EARLY_PART
                && kept(&infos, current, info) * 100 < info.len * LIVE_PERCENT_MAX
        });
        if candidate.is_some() || !is_dead {
            return Ok(candidate);
        }
        self.seal();
        self.candidate()
    }

    /// The sealed pack with the least in it, if that is little enough and can be copied.
    fn candidate(&self) -> Result<Option<Job>, ChangeError> {
        let infos = self.shared.packs.infos().clone();
        let current = self.current.as_ref().map(|current| current.id);
        let best = infos
            .iter()
            .map(|(id, info)| (*id, info.len, kept(&infos, *id, info)))
            .filter(|(id, ..)| Some(*id) != current && !(self.unsettled && *id == self.previous.pack))
            .filter(|(_, len, kept)| kept * 100 < len * LIVE_PERCENT_MAX)
            .min_by_key(|(_, len, kept)| kept * 1000 / (*len).max(1));
        let Some((pack, len, needed)) = best else {
            return Ok(None);
        };
        let free = self.shared.capacity().saturating_sub(self.shared.used());
        if needed > free {
            return Err(ChangeError::NoRoom {
                needed: ByteSize(needed),
                free: ByteSize(free),
            });
        }
        Ok(Some(Job {
            pack,
            offset: PACK_HEADER_BYTES as u64,
            end: len,
        }))
    }

    fn empty(&mut self, mut job: Job, bytes_max: u64) -> Result<Compaction, ChangeError> {
        let stop = job.offset.saturating_add(bytes_max.max(1));
        let before = self.shared.counters.written.load(Ordering::Relaxed);
        let oldest = self.shared.packs.infos().keys().next() == Some(&job.pack);
        let mut batch = Batch::default();
        let (mut undone, mut damaged) = (BTreeSet::new(), Vec::new());
        let shared = std::sync::Arc::clone(&self.shared);
        let file = match shared.packs.open(job.pack) {
            Ok(file) => Some(file),
            // A pack whose file is gone has nothing to copy.
            Err(error) if error.tells_of_damage() => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(file) = file {
            let mut scanner = Scanner {
                file: &*file,
                key: &shared.key,
                pack: job.pack,
                offset: job.offset,
                end: job.end,
            };
            while scanner.offset < stop {
                let place = |offset| Place { pack: job.pack, offset };
                match scanner.next() {
                    None => break,
                    Some(Scanned::Gap { .. }) => {}
                    Some(Scanned::Record { offset, header }) => match header.kind {
                        RecordKind::Put(put) => {
                            let entry = self.entry(&batch, &put.id)?;
                            if entry.is_some_and(|entry| entry.place() == place(offset)) {
                                let shard = read_verified(&*file, offset, &put);
                                self.copy(&mut batch, put, shard, &mut damaged)?;
                            }
                        }
                        RecordKind::Tombstone { .. } if oldest => {}
                        RecordKind::Tombstone { .. } => {
                            let ids = read_tombstone(&*file, &shared.key, place(offset), &header);
                            undone.extend(ids.ok().flatten().unwrap_or_default());
                        }
                    },
                }
            }
            job.offset = scanner.offset;
        } else {
            job.offset = job.end;
        }
        self.carry(&mut batch, undone)?;
        let done = job.offset >= job.end;
        if done {
            self.rescue(&mut batch, job.pack, &mut damaged)?;
        }
        self.commit(batch)?;
        let copied = self.shared.counters.written.load(Ordering::Relaxed) - before;
        self.shared.counters.compacted.fetch_add(copied, Ordering::Relaxed);
        let mut step = Compaction {
            copied: ByteSize(copied),
            damaged,
            ..Compaction::default()
        };
        if done {
            step.freed = self.remove(&job)?;
        } else {
            self.job = Some(job);
        }
        Ok(step)
    }

    fn copy(
        &mut self,
        batch: &mut Batch,
        put: PutHeader,
        shard: Result<potluck_types::Shard, BodyError>,
        damaged: &mut Vec<ShardId>,
    ) -> Result<(), ChangeError> {
        match shard {
            Ok(shard) => {
                let descriptor = shard.descriptor().to_bytes();
                let indexed = self.shared.index.entry(&put.id)?;
                self.append_put(batch, put, &descriptor, &shard, indexed)
            }
            Err(BodyError::Io(error)) if !tells_of_damage(&error) => Err(DiskError::at("read", "a pack")(error).into()),
            Err(reason) => {
                damaged.push(put.id);
                tracing::warn!(stripe = %put.id.stripe.short(), index = put.id.index, %reason, "a damaged shard is given up");
                self.shared.counters.damaged.fetch_add(1, Ordering::Relaxed);
                self.append_tombstones(batch, &[put.id])
            }
        }
    }

    /// Repeats the tombstones of shards that are not stored again.
    fn carry(&mut self, batch: &mut Batch, undone: BTreeSet<ShardId>) -> Result<(), ChangeError> {
        let mut ids = Vec::new();
        for id in undone {
            if self.entry(batch, &id)?.is_none() {
                ids.push(id);
            }
        }
        self.append_tombstones(batch, &ids)
    }

    /// Copies what the index has in the pack although the scan did not meet it: records with damaged headers.
    fn rescue(&mut self, batch: &mut Batch, pack: PackId, damaged: &mut Vec<ShardId>) -> Result<(), ChangeError> {
        let met: u64 = batch.moved_from(pack);
        if self
            .shared
            .packs
            .infos()
            .get(&pack)
            .is_none_or(|info| info.shards <= met)
        {
            return Ok(());
        }
        for (id, entry) in self.shared.index.search(|entry| entry.pack == pack)? {
            if self.entry(batch, &id)? != Some(entry) {
                continue;
            }
            let put = PutHeader {
                id,
                space: entry.space,
                stored_at: entry.stored_at,
                descriptor_len: entry.descriptor_len,
                payload_len: entry.payload_len,
            };
            let shard = match self.shared.packs.open(pack) {
                Ok(file) => read_verified(&*file, entry.offset, &put),
                Err(error) if error.tells_of_damage() => Err(BodyError::Io(io::ErrorKind::NotFound.into())),
                Err(error) => return Err(error.into()),
            };
            self.copy(batch, put, shard, damaged)?;
        }
        Ok(())
    }

    /// Removes an emptied pack.
    fn remove(&mut self, job: &Job) -> Result<ByteSize, ChangeError> {
        // The header of this pack may be what says how long the one before it is.
        self.cut_predecessor(job.pack)?;
        // If the index cannot be written, replay drops the entries that it still has for this pack.
        let _ = self.checkpoint();
        self.shared.packs.remove(job.pack)?;
        self.restore_reserve();
        Ok(ByteSize(job.end))
    }

    fn cut_predecessor(&self, pack: PackId) -> Result<(), ChangeError> {
        let previous = self
            .shared
            .packs
            .infos()
            .range(..pack)
            .next_back()
            .map(|(id, info)| (*id, info.len));
        let Some((id, len)) = previous else { return Ok(()) };
        let Ok(file) = self.shared.packs.open(id) else {
            return Ok(());
        };
        let cut = || {
            if file.len()? > len {
                file.set_len(len)?;
                file.sync_data()?;
            }
            Ok(())
        };
        cut().map_err(crate::error::DiskError::at("truncate", id.file_name()))?;
        Ok(())
    }
}
