//! What readers and the writer share.

use crate::{
    disk::Disk,
    error::IndexError,
    format::{Place, StoreKey},
    index::{Entry, Index, Scrub},
    packs::Packs,
    queue::Queue,
};
use potluck_types::{ByteSize, Clock, ShardId, limits};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Damaged shards that are remembered at most where the disk takes no note of them: 5 MB. One more is listed again.
const UNSOUND_MAX: usize = 65_536;

/// See the module.
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) key: StoreKey,
    pub(crate) pack_bytes: u64,
    pub(crate) capacity: AtomicU64,
    pub(crate) index: Index,
    pub(crate) packs: Packs,
    pub(crate) queue: Queue,
    pub(crate) scrub: Mutex<Scrub>,
    pub(crate) counters: Counters,
    /// Shards that are damaged where the index has them: see [`Shared::hide`].
    pub(crate) unsound: Mutex<BTreeMap<ShardId, Place>>,
}

/// Counted since the store was opened.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) groups: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) payload_written: AtomicU64,
    pub(crate) written: AtomicU64,
    pub(crate) compacted: AtomicU64,
    pub(crate) damaged: AtomicU64,
}

/// How full the store is, and what it did since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Shards that are stored.
    pub shards: u64,
    /// Pack files that there are.
    pub packs: u64,
    /// Bytes of the records of stored shards.
    pub live: ByteSize,
    /// Bytes in packs that are not: deleted, damaged or moved shards, and tombstones.
    pub dead: ByteSize,
    /// Bytes of all files of the store.
    pub on_disk: ByteSize,
    /// What the store may use at most.
    pub capacity: ByteSize,
    /// What puts may still use of it; room for compaction and deletes is kept back.
    pub available: ByteSize,
    /// Groups committed.
    pub groups: u64,
    /// Syncs of packs, the index and the directory.
    pub syncs: u64,
    /// Bytes of payload stored by puts and compaction.
    pub payload_written: ByteSize,
    /// Bytes written, to packs and index: over `payload_written`, the write amplification.
    pub written: ByteSize,
    /// Bytes that compaction copied.
    pub compacted: ByteSize,
    /// Shards found damaged.
    pub damaged: u64,
}

impl Shared {
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Bytes of all files.
    pub(crate) fn used(&self) -> u64 {
        let index = self.index.meter().len.load(Ordering::Relaxed);
        self.packs.totals().len + index + limits::STORE_RESERVE_BYTES as u64
    }

    /// What puts leave free, so that the live half of a pack can be copied before the pack is removed.
    pub(crate) fn headroom(&self) -> u64 {
        self.pack_bytes / 2
    }

    fn unsound(&self) -> MutexGuard<'_, BTreeMap<ShardId, Place>> {
        self.unsound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is at these places is damaged, and that cannot be recorded, as the disk takes no writes: until the store is opened again, or they are stored
    /// anew elsewhere, these shards are as good as gone.
    pub(crate) fn hide(&self, found: &[(ShardId, Place)]) {
        let mut unsound = self.unsound();
        for (id, place) in found {
            if unsound.len() < UNSOUND_MAX {
                unsound.insert(*id, *place);
            }
        }
    }

    /// Whether what the index says of a shard is known to be damaged there.
    pub(crate) fn is_hidden(&self, id: &ShardId, entry: &Entry) -> bool {
        self.unsound().get(id) == Some(&entry.place())
    }

    /// Of what the index has, what is not known to be damaged.
    pub(crate) fn listed(&self, mut found: Vec<(ShardId, Entry)>) -> Vec<(ShardId, Entry)> {
        let unsound = self.unsound();
        found.retain(|(id, entry)| unsound.get(id) != Some(&entry.place()));
        found
    }

    /// Where a shard is, if it is not known to be damaged there.
    pub(crate) fn entry(&self, id: &ShardId) -> Result<Option<Entry>, IndexError> {
        let entry = self.index.entry(id)?;
        Ok(entry.filter(|entry| !self.is_hidden(id, entry)))
    }

    pub(crate) fn scrub(&self) -> Scrub {
        *self.scrub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stats(&self) -> Stats {
        let totals = self.packs.totals();
        let (used, capacity) = (self.used(), self.capacity());
        let (meter, counters) = (self.index.meter(), &self.counters);
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            shards: totals.shards,
            packs: totals.packs,
            live: ByteSize(totals.live_bytes),
            dead: ByteSize(totals.len.saturating_sub(totals.live_bytes)),
            on_disk: ByteSize(used),
            capacity: ByteSize(capacity),
            available: ByteSize(capacity.saturating_sub(used + self.headroom())),
            groups: read(&counters.groups),
            syncs: read(&counters.syncs) + read(&meter.syncs),
            payload_written: ByteSize(read(&counters.payload_written)),
            written: ByteSize(read(&counters.written) + read(&meter.written)),
            compacted: ByteSize(read(&counters.compacted)),
            damaged: read(&counters.damaged),
        }
    }
}
