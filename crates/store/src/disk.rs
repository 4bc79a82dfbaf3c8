//! The few file operations that the store needs, as a trait: the operating system's directory in production, a
//! simulated disk in tests. Packs, index and superblock all go through it.
//!
//! The contract is that of POSIX and no more: what was written is certain to be there after a power cut only
//! once [`DiskFile::sync_data`] has returned `Ok`; that a file exists under its name, or no longer does, only once
//! [`Disk::sync_dir`] has. Until then any part of it may be there, in any order.

use crate::direct::Direct;
use std::{
    fs::{self, File},
    io::{self, IoSlice, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// A flat directory of files.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file for reading and writing.
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// The files that there are, in any order.
    fn list(&self) -> io::Result<Vec<FileInfo>>;
    /// Removes a file. Handles that are open on it keep working, or fail; they never show another file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Gives a file another name, in the place of the file that has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes all creations, removals and renames so far durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// How many more bytes would fit.
    fn free_space(&self) -> io::Result<u64>;
    /// Whether nobody but its owner can read a file.
    fn is_private(&self, name: &str) -> io::Result<bool>;
}

impl dyn Disk + '_ {
    /// All of a small file.
    pub fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let file = self.open(name, OpenMode::Existing)?;
        let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        file.read_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Whether there is a file of this name.
    pub fn contains(&self, name: &str) -> io::Result<bool> {
        match self.open(name, OpenMode::Existing) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Opens a file, and makes it when there is none.
    pub fn open_or_make(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        match self.open(name, OpenMode::Existing) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.open(name, OpenMode::New),
            opened => opened,
        }
    }

    /// Makes these all the bytes of a file, durably: written beside, synced, and renamed, so that there is a whole file or none.
    pub fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let beside = format!("{name}.new");
        match self.remove(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.open(&beside, OpenMode::New)?;
        file.write_at(&[bytes], 0)?;
        file.sync_data()?;
        self.rename(&beside, name)?;
        self.sync_dir()
    }
}

/// Whether a file is expected to be there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// It is there; [`io::ErrorKind::NotFound`] otherwise.
    Existing,
    /// It is not there; [`io::ErrorKind::AlreadyExists`] otherwise.
    New,
}

/// A file's name and length in bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileInfo {
    /// Name in the directory.
    pub name: String,
    /// Length in bytes.
    pub len: u64,
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Fills the buffer; [`io::ErrorKind::UnexpectedEof`] when the file ends before.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all parts, one after the other. After an error, any of their bytes may have been written.
    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()>;
    /// Makes all writes so far durable, and the length. After an error, none of them can be trusted, and trying
    /// again proves nothing.
    fn sync_data(&self) -> io::Result<()>;
    /// Cuts the file, or lengthens it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Takes the exclusive lock of this file until it is closed; `false` when another holds it.
    fn try_lock(&self) -> io::Result<bool>;
}

/// A directory of the operating system.
#[derive(Debug)]
pub struct OsDisk {
    directory: PathBuf,
    is_writable: bool,
}

impl OsDisk {
    /// On this directory, which is created when it is not there, for its owner alone.
    pub fn new(directory: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        Ok(Self::at(directory))
    }

    /// On this directory, which is there.
    pub fn at(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            is_writable: true,
        }
    }

    /// On this directory as it is, for reading: nothing is made, and files open where they cannot be written.
    pub fn read_only(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            is_writable: false,
        }
    }
}

impl Disk for OsDisk {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = File::options()
            .read(true)
            .write(self.is_writable)
            .create_new(mode == OpenMode::New)
            .mode(0o600)
            .open(self.directory.join(name))?;
        Ok(Arc::new(OsFile {
            appender: Mutex::new(file.try_clone()?),
            direct: Direct::default(),
            file,
        }))
    }

    fn list(&self) -> io::Result<Vec<FileInfo>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                files.push(FileInfo {
                    name,
                    len: metadata.len(),
                });
            }
        }
        Ok(files)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.directory.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.directory.join(from), self.directory.join(to))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    fn free_space(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.directory)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn is_private(&self, name: &str) -> io::Result<bool> {
        let mode = fs::metadata(self.directory.join(name))?.permissions().mode();
        Ok(mode & 0o077 == 0)
    }
}

struct OsFile {
    file: File,
    /// The same open file; its cursor is used by writes of several parts only, one at a time.
    appender: Mutex<File>,
    /// For what is large.
    direct: Direct,
}

impl OsFile {
    /// Writes through the system's cache.
    fn write_cached(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        if let [part] = parts {
            return std::os::unix::fs::FileExt::write_all_at(&self.file, part, offset);
        }
        let mut file = self.appender.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(offset))?;
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut left = &mut slices[..];
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            match file.write_vectored(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut left, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl DiskFile for OsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.direct.read(&self.file, buffer, offset)
    }

    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        self.direct.write(&self.file, parts, offset, |parts, offset| {
            self.write_cached(parts, offset)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn try_lock(&self) -> io::Result<bool> {
        match self.file.try_lock() {
            Ok(()) => Ok(true),
            Err(fs::TryLockError::WouldBlock) => Ok(false),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}
