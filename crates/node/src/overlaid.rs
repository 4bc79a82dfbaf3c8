//! The file of a database, over which it is opened without being changed.

use potluck_store::{Disk, DiskFile, OpenMode, OsDisk, Overlay};
use redb::StorageBackend;
use std::{fmt, io, path::Path, sync::Arc};

/// See the module.
pub(crate) struct Overlaid(Arc<dyn DiskFile>);

impl Overlaid {
    /// Over this file of this folder.
    pub(crate) fn open(folder: &Path, name: &str) -> io::Result<Self> {
        let overlay = Overlay::new(Arc::new(OsDisk::read_only(folder)));
        overlay.open(name, OpenMode::Existing).map(Self)
    }
}

impl fmt::Debug for Overlaid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Overlaid")
    }
}

impl StorageBackend for Overlaid {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(&[data], offset)
    }
}
