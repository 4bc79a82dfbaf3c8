//! The scrub: reads every stored shard again and again, a step at a time, and takes those that rotted out of the
//! index, so that they are missed and repaired.
//!
//! It walks the packs in order and hashes the shards that the index has at the place of their record. Where a
//! record's header is damaged, the index is searched for what should be there. The place it has come to is kept
//! with each checkpoint.

use crate::{
    error::{DiskError, IndexError, tells_of_damage},
    format::{PACK_HEADER_BYTES, PackId, Place, RecordKind},
    index::{Entry, Scrub},
    scan::{BodyError, Scanned, Scanner, read_verified},
    shared::Shared,
};
use potluck_types::{ByteSize, ShardId, Timestamp};
use std::sync::PoisonError;

/// What a step of the scrub did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ScrubProgress {
    /// Bytes read.
    pub bytes: ByteSize,
    /// Shards that were damaged. They are no longer listed.
    pub damaged: Vec<ShardId>,
    /// Whether the last pack's end was reached: the next step starts over.
    pub wrapped: bool,
}

/// Why a step of the scrub did not finish.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ScrubError {
    /// The index refused.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A pack cannot be opened, for a reason that says nothing of what is in it.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The damage could not be recorded.
    #[error(transparent)]
    Change(#[from] crate::error::ChangeError),
}

/// What a walk over some bytes found.
#[derive(Default)]
pub(crate) struct Walk {
    pub(crate) progress: ScrubProgress,
    pub(crate) damaged: Vec<(ShardId, Place)>,
    pub(crate) next: Place,
}

/// Reads on from the scrub's place, about `bytes_max` bytes.
pub(crate) fn walk(shared: &Shared, bytes_max: u64) -> Result<Walk, ScrubError> {
    let mut walk = Walk {
        next: shared.scrub().place,
        ..Walk::default()
    };
    while walk.progress.bytes.0 < bytes_max.max(1) {
        let pack = shared
            .packs
            .infos()
            .range(walk.next.pack..)
            .next()
            .map(|(id, info)| (*id, info.len));
        let Some((id, len)) = pack else {
            walk.progress.wrapped = true;
            walk.next = Place::default();
            return Ok(walk);
        };
        if id != walk.next.pack || walk.next.offset < PACK_HEADER_BYTES as u64 {
            walk.next = Place {
                pack: id,
                offset: PACK_HEADER_BYTES as u64,
            };
        }
        walk_pack(shared, &mut walk, len, bytes_max)?;
        if walk.next.offset >= len {
            walk.next = Place {
                pack: id.next(),
                offset: 0,
            };
        }
    }
    Ok(walk)
}

fn walk_pack(shared: &Shared, walk: &mut Walk, end: u64, bytes_max: u64) -> Result<(), ScrubError> {
    let pack = walk.next.pack;
    let file = match shared.packs.open(pack) {
        Ok(file) => file,
        Err(error) if !error.tells_of_damage() => return Err(error.into()),
        Err(error) => {
            // Compaction removes emptied packs at any time.
            missed(shared, walk, pack, 0, end, &error)?;
            walk.next.offset = end;
            return Ok(());
        }
    };
    let mut scanner = Scanner {
        file: &*file,
        key: &shared.key,
        pack,
        offset: walk.next.offset,
        end,
    };
    while walk.progress.bytes.0 < bytes_max {
        let Some(scanned) = scanner.next() else { break };
        match scanned {
            Scanned::Gap { from, to, .. } => {
                walk.progress.bytes.0 += to - from;
                for (id, entry) in shared.index.search(|entry| overlaps(entry, pack, from, to))? {
                    walk.damaged.push((id, entry.place()));
                }
            }
            Scanned::Record { offset, header } => {
                walk.progress.bytes.0 += crate::format::RECORD_HEADER_BYTES as u64;
                let RecordKind::Put(put) = header.kind else { continue };
                let place = Place { pack, offset };
                if shared.index.entry(&put.id)?.is_none_or(|entry| entry.place() != place) {
                    continue;
                }
                walk.progress.bytes.0 += u64::from(put.payload_len);
                match read_verified(&*file, offset, &put) {
                    Ok(_) => {}
                    Err(BodyError::Io(error)) if !tells_of_damage(&error) => {
                        return Err(DiskError::at("read", pack.file_name())(error).into());
                    }
                    Err(BodyError::Shard(_) | BodyError::Io(_)) => walk.damaged.push((put.id, place)),
                }
            }
        }
    }
    walk.next.offset = scanner.offset;
    Ok(())
}

/// A pack cannot be opened: what the index has in it is damaged.
fn missed(
    shared: &Shared,
    walk: &mut Walk,
    pack: PackId,
    from: u64,
    to: u64,
    error: &DiskError,
) -> Result<(), IndexError> {
    for (id, entry) in shared.index.search(|entry| overlaps(entry, pack, from, to))? {
        tracing::warn!(%error, "a pack cannot be opened");
        walk.damaged.push((id, entry.place()));
    }
    Ok(())
}

fn overlaps(entry: &Entry, pack: PackId, from: u64, to: u64) -> bool {
    entry.pack == pack && entry.offset < to && entry.end() > from
}

/// Remembers where the next step starts, after one that began then.
pub(crate) fn advance(shared: &Shared, next: Place, began: Timestamp) {
    let mut scrub = shared.scrub.lock().unwrap_or_else(PoisonError::into_inner);
    if scrub.place == Place::default() {
        (scrub.begun_before, scrub.begun) = (scrub.begun, began);
    }
    scrub.place = next;
}

/// When what lies at this place was found sound last, at the earliest.
pub(crate) fn verified_at(scrub: Scrub, place: Place) -> Timestamp {
    if place < scrub.place || scrub.place == Place::default() {
        scrub.begun
    } else {
        scrub.begun_before
    }
}
