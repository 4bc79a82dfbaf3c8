//! The file of the metadata database, with room set aside: what frees space must not fail for want of it, and a database whose write failed once takes
//! no more until it is opened again.

use potluck_store::{Disk, DiskFile, OpenMode};
use redb::StorageBackend;
use std::{
    fmt, io,
    sync::{Arc, Mutex},
};

/// What is set aside: thousands of removals.
pub(crate) const RESERVE_BYTES: usize = 4 << 20;

/// Room on the disk that only removals use: a file that is deleted when nothing else is left.
pub(crate) struct Reserve {
    disk: Arc<dyn Disk>,
    name: &'static str,
    is_there: Mutex<bool>,
}

impl fmt::Debug for Reserve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reserve")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Reserve {
    /// The reserve in this file; made if there is room.
    pub(crate) fn at(disk: Arc<dyn Disk>, name: &'static str) -> Self {
        let len = disk.open(name, OpenMode::Existing).and_then(|file| file.len());
        let reserve = Self {
            disk,
            name,
            is_there: Mutex::new(len.is_ok_and(|len| len == RESERVE_BYTES as u64)),
        };
        reserve.restore();
        reserve
    }

    /// Whether the room is set aside, after trying to when it was not.
    pub(crate) fn restore(&self) -> bool {
        let mut is_there = self.is_there.lock().expect("never poisoned");
        if *is_there {
            return true;
        }
        let made = self.disk.open_or_make(self.name).and_then(|file| {
            file.set_len(0)?;
            file.write_at(&[&vec![0; RESERVE_BYTES]], 0)?;
            file.sync_data()
        });
        if made.is_err() {
            let _ = self.disk.remove(self.name);
        }
        *is_there = made.is_ok();
        *is_there
    }

    /// Gives the room up; whether there was any.
    fn release(&self) -> bool {
        let mut is_there = self.is_there.lock().expect("never poisoned");
        std::mem::take(&mut *is_there) && self.disk.remove(self.name).is_ok()
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
    /// The file of this name on the reserve's disk; made when there is none.
    pub(crate) fn open(name: &str, reserve: Arc<Reserve>) -> io::Result<Self> {
        let file = reserve.disk.open_or_make(name)?;
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
        let spared = Spared::open("data", Arc::clone(&reserve)).unwrap();
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
