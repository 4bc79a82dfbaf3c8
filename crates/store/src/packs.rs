//! The pack files: which there are, how much of each is live, and open handles on some of them.

use crate::{
    disk::{Disk, DiskFile, OpenMode},
    error::DiskError,
    format::PackId,
    index::Entry,
};
use potluck_types::limits;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What a pack holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct PackInfo {
    /// Bytes of the file that count, header included.
    pub(crate) len: u64,
    /// Bytes of records of shards that are still stored here.
    pub(crate) live_bytes: u64,
    /// Bytes of tombstone records.
    pub(crate) tombstone_bytes: u64,
    /// Shards that are still stored here.
    pub(crate) shards: u64,
}

/// See the module.
pub(crate) struct Packs {
    disk: Arc<dyn Disk>,
    infos: Mutex<BTreeMap<PackId, PackInfo>>,
    handles: Mutex<HashMap<PackId, Arc<dyn DiskFile>>>,
}

/// Sums over all packs.
#[derive(Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) len: u64,
    pub(crate) live_bytes: u64,
    pub(crate) shards: u64,
    pub(crate) packs: u64,
}

impl Packs {
    pub(crate) fn new(disk: Arc<dyn Disk>, infos: BTreeMap<PackId, PackInfo>) -> Self {
        Self {
            disk,
            infos: Mutex::new(infos),
            handles: Mutex::default(),
        }
    }

    pub(crate) fn infos(&self) -> MutexGuard<'_, BTreeMap<PackId, PackInfo>> {
        self.infos.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a shard's entry changed from `old` to `new`.
    pub(crate) fn account(&self, old: Option<&Entry>, new: Option<&Entry>) {
        let mut infos = self.infos();
        if let Some((entry, info)) = old.and_then(|entry| Some((entry, infos.get_mut(&entry.pack)?))) {
            info.live_bytes = info.live_bytes.saturating_sub(entry.record_len());
            info.shards = info.shards.saturating_sub(1);
        }
        if let Some(entry) = new {
            let info = infos.entry(entry.pack).or_default();
            info.live_bytes += entry.record_len();
            info.shards += 1;
        }
    }

    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for info in self.infos().values() {
            totals.len += info.len;
            totals.live_bytes += info.live_bytes;
            totals.shards += info.shards;
            totals.packs += 1;
        }
        totals
    }

    /// A handle on the pack's file.
    pub(crate) fn open(&self, id: PackId) -> Result<Arc<dyn DiskFile>, DiskError> {
        if let Some(file) = self.handles().get(&id) {
            return Ok(Arc::clone(file));
        }
        let name = id.file_name();
        let file = self
            .disk
            .open(&name, OpenMode::Existing)
            .map_err(DiskError::at("open", name))?;
        self.keep(id, &file);
        Ok(file)
    }

    /// Keeps a handle for readers.
    pub(crate) fn keep(&self, id: PackId, file: &Arc<dyn DiskFile>) {
        let mut handles = self.handles();
        if handles.len() >= limits::STORE_OPEN_PACKS_MAX
            && let Some(any) = handles.keys().next().copied()
        {
            handles.remove(&any);
        }
        handles.insert(id, Arc::clone(file));
    }

    /// Removes the pack's file, durably, and then forgets it.
    pub(crate) fn remove(&self, id: PackId) -> Result<(), DiskError> {
        self.handles().remove(&id);
        let name = id.file_name();
        match self.disk.remove(&name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(DiskError::at("remove", name)(error));
            }
            _ => {}
        }
        self.disk.sync_dir().map_err(DiskError::at("sync", "."))?;
        self.infos().remove(&id);
        Ok(())
    }

    fn handles(&self) -> MutexGuard<'_, HashMap<PackId, Arc<dyn DiskFile>>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
