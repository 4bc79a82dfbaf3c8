//! The file of the metadata database, with room set aside: what frees space must not fail for want of it, and a database whose write failed once takes
//! no more until it is opened again.

use potluck_store::{Disk, DiskFile, OpenMode, OsDisk};
use redb::StorageBackend;
use std::{
    fmt, io,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

/// What is set aside: thousands of removals.
pub(crate) const RESERVE_BYTES: usize = 4 << 20;

/// How many files without a name this process has made.
static NAMELESS: AtomicU64 = AtomicU64::new(0);

/// Room on the disk that only removals use: a file that is deleted when nothing else is left.
pub(crate) struct Reserve {
    /// None: for a database that nobody writes to for good.
    file: Option<(Arc<dyn Disk>, &'static str)>,
    is_there: Mutex<bool>,
}

impl fmt::Debug for Reserve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reserve")
            .field("name", &self.file.as_ref().map(|(_, name)| name))
            .finish_non_exhaustive()
    }
}

impl Reserve {
    /// The reserve in this file; made if there is room.
    pub(crate) fn at(disk: Arc<dyn Disk>, name: &'static str) -> Self {
        let is_there = Self::is_whole(&*disk, name);
        let reserve = Self {
            file: Some((disk, name)),
            is_there: Mutex::new(is_there),
        };
        reserve.restore();
        reserve
    }

    /// None: for a database that nobody writes to for good.
    pub(crate) fn none() -> Self {
        Self {
            file: None,
            is_there: Mutex::new(true),
        }
    }

    /// Whether the file is one.
    pub(crate) fn is_whole(disk: &dyn Disk, name: &str) -> bool {
        let len = disk.open(name, OpenMode::Existing).and_then(|file| file.len());
        len.is_ok_and(|len| len == RESERVE_BYTES as u64)
    }

    /// Whether the room is set aside, after trying to when it was not.
    pub(crate) fn restore(&self) -> bool {
        let mut is_there = self.is_there.lock().expect("never poisoned");
        let Some((disk, name)) = self.file.as_ref().filter(|_| !*is_there) else {
            return true;
        };
        let made = disk.open_or_make(name).and_then(|file| {
            file.set_len(0)?;
            file.write_at(&[&vec![0; RESERVE_BYTES]], 0)?;
            file.sync_data()
        });
        if made.is_err() {
            let _ = disk.remove(name);
        }
        *is_there = made.is_ok();
        *is_there
    }

    /// Gives the room up; whether there was any.
    fn release(&self) -> bool {
        let mut is_there = self.is_there.lock().expect("never poisoned");
        let is_removed = |(disk, name): &(Arc<dyn Disk>, &str)| disk.remove(name).is_ok();
        std::mem::take(&mut *is_there) && self.file.as_ref().is_some_and(is_removed)
    }
}

/// A file whose writes fall back on a reserve. The home is locked, so that nobody else has it open.
pub(crate) struct Spared {
    file: Arc<dyn DiskFile>,
    reserve: Arc<Reserve>,
}

impl fmt::Debug for Spared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spared")
            .field("reserve", &self.reserve)
            .finish_non_exhaustive()
    }
}

impl Spared {
    /// The file of this name; made when there is none.
    pub(crate) fn open(disk: &dyn Disk, name: &str, reserve: Arc<Reserve>) -> io::Result<Self> {
        let file = disk.open_or_make(name)?;
        Ok(Self { file, reserve })
    }

    /// A file in this folder that has no name, and is gone when it is closed.
    pub(crate) fn nameless(folder: &Path) -> io::Result<Self> {
        let disk: &dyn Disk = &OsDisk::at(folder);
        let number = NAMELESS.fetch_add(1, Ordering::Relaxed);
        let name = format!("potluck-{}-{number}", std::process::id());
        let file = disk.open(&name, OpenMode::New)?;
        disk.remove(&name)?;
        let reserve = Arc::new(Reserve::none());
        Ok(Self { file, reserve })
    }

    fn with_reserve(&self, write: impl Fn() -> io::Result<()>) -> io::Result<()> {
        match write() {
            Err(error) if is_full(&error) && self.reserve.release() => write(),
            done => done,
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl StorageBackend for Spared {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with_reserve(|| self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with_reserve(|| self.file.write_at(&[data], offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(folder: &tempfile::TempDir) -> Arc<dyn Disk> {
        Arc::new(potluck_store::OsDisk::new(folder.path()).unwrap())
    }

    #[test]
    fn the_reserve_is_there_once_and_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reserve");
        let reserve = Reserve::at(disk(&folder), "reserve");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), RESERVE_BYTES as u64);
        assert!(reserve.release());
        assert!(!path.exists() && !reserve.release());
        assert!(reserve.restore() && path.exists());
        assert!(Reserve::at(disk(&folder), "reserve").release(), "found again");
    }

    #[test]
    fn a_write_that_finds_no_room_is_tried_once_more_without_the_reserve() {
        let folder = tempfile::tempdir().unwrap();
        let reserve = Arc::new(Reserve::at(disk(&folder), "reserve"));
        let spared = Spared::open(&*disk(&folder), "data", Arc::clone(&reserve)).unwrap();
        let full = || Err(io::Error::from(io::ErrorKind::StorageFull));
        let fits = || {
            if *reserve.is_there.lock().unwrap() {
                full()
            } else {
                Ok(())
            }
        };
        spared.with_reserve(fits).unwrap();
        assert!(spared.with_reserve(full).is_err(), "nothing is left to give up");
    }
}
