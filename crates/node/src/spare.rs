//! The file of the metadata database, with room set aside: what frees space must not fail for want of it, and a database whose write failed once takes
//! no more until it is opened again.

use redb::StorageBackend;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
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
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    is_there: Mutex<bool>,
}

impl Reserve {
    /// The reserve in this file; made if there is room.
    pub(crate) fn at(path: PathBuf) -> Self {
        let is_there = Self::is_whole(&path);
        let reserve = Self {
            path,
            is_there: Mutex::new(is_there),
        };
        reserve.restore();
        reserve
    }

    /// None: for a database that nobody writes to for good.
    pub(crate) fn none() -> Self {
        Self {
            path: PathBuf::new(),
            is_there: Mutex::new(true),
        }
    }

    /// Whether the file is one.
    pub(crate) fn is_whole(path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|found| found.len() == RESERVE_BYTES as u64)
    }

    /// Whether the room is set aside, after trying to when it was not.
    pub(crate) fn restore(&self) -> bool {
        let mut is_there = self.is_there.lock().expect("never poisoned");
        if *is_there {
            return true;
        }
        let made = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&self.path)
            .and_then(|mut file| file.write_all(&vec![0; RESERVE_BYTES]).and_then(|()| file.sync_all()));
        if made.is_err() {
            let _ = fs::remove_file(&self.path);
        }
        *is_there = made.is_ok();
        *is_there
    }

    /// Gives the room up; whether there was any.
    fn release(&self) -> bool {
        let mut is_there = self.is_there.lock().expect("never poisoned");
        std::mem::take(&mut *is_there) && fs::remove_file(&self.path).is_ok()
    }
}

/// A file whose writes fall back on a reserve. The home is locked, so that nobody else has it open.
#[derive(Debug)]
pub(crate) struct Spared {
    file: File,
    reserve: Arc<Reserve>,
}

impl Spared {
    pub(crate) fn open(path: &Path, reserve: Arc<Reserve>) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(path)?;
        Ok(Self { file, reserve })
    }

    /// A file in this folder that has no name, and is gone when it is closed.
    pub(crate) fn nameless(folder: &Path) -> io::Result<Self> {
        let path = folder.join(format!(
            "potluck-{}-{}",
            std::process::id(),
            NAMELESS.fetch_add(1, Ordering::Relaxed)
        ));
        let file = OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)?;
        fs::remove_file(&path)?;
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
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with_reserve(|| self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with_reserve(|| self.file.write_all_at(data, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_there_once_and_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reserve");
        let reserve = Reserve::at(path.clone());
        assert_eq!(fs::metadata(&path).unwrap().len(), RESERVE_BYTES as u64);
        assert!(reserve.release());
        assert!(!path.exists() && !reserve.release());
        assert!(reserve.restore() && path.exists());
        assert!(Reserve::at(path).release(), "found again");
    }

    #[test]
    fn a_write_that_finds_no_room_is_tried_once_more_without_the_reserve() {
        let folder = tempfile::tempdir().unwrap();
        let reserve = Arc::new(Reserve::at(folder.path().join("reserve")));
        let spared = Spared::open(&folder.path().join("data"), Arc::clone(&reserve)).unwrap();
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
