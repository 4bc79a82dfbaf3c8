//! A disk that is read as it is and changed in memory only: what opening a store does to it can be seen before it is done, and a disk
//! that cannot be written can be looked into. Little changes of a store that is whole; an index that is made anew takes about 200 bytes of memory a shard.

use crate::disk::{Disk, DiskFile, FileInfo, OpenMode};
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

/// What is copied at once when a byte of it changes: as long as the pages of the index, which is what mostly changes.
const BLOCK_BYTES: usize = 4096;

/// See the module.
pub struct Overlay {
    below: Arc<dyn Disk>,
    /// The files that were opened, made, renamed or removed; none for the last. All others are as they are below.
    files: Mutex<BTreeMap<String, Option<Arc<File>>>>,
}

/// One file: what it has below, and what has changed.
struct File {
    /// Its name below, if it is there.
    below: Option<String>,
    changes: RwLock<Changes>,
}

#[derive(Default)]
struct Changes {
    len: u64,
    /// How much of the file below shows; zeros are behind that.
    shown: u64,
    blocks: BTreeMap<u64, Box<[u8; BLOCK_BYTES]>>,
}

/// A file with the handle on what is below. That is no part of [`File`]: there may be thousands of files, and few may be open.
struct Handle {
    below: Option<Arc<dyn DiskFile>>,
    file: Arc<File>,
}

impl Overlay {
    /// Over this disk, which is never changed.
    pub fn new(below: Arc<dyn Disk>) -> Self {
        Self {
            below,
            files: Mutex::default(),
        }
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Option<Arc<File>>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file as it is below, if it was not touched yet and is there.
    fn untouched(&self, name: &str) -> io::Result<Handle> {
        let below = self.below.open(name, OpenMode::Existing)?;
        let len = below.len()?;
        let changes = Changes {
            len,
            shown: len,
            blocks: BTreeMap::new(),
        };
        Ok(Handle {
            below: Some(below),
            file: Arc::new(File {
                below: Some(name.to_owned()),
                changes: RwLock::new(changes),
            }),
        })
    }

    fn handle(&self, file: &Arc<File>) -> io::Result<Handle> {
        let open = |name: &String| self.below.open(name, OpenMode::Existing);
        Ok(Handle {
            below: file.below.as_ref().map(open).transpose()?,
            file: Arc::clone(file),
        })
    }
}

impl Disk for Overlay {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut files = self.files();
        let handle = match (files.get(name), mode) {
            (Some(Some(file)), OpenMode::Existing) => self.handle(file)?,
            (None, OpenMode::Existing) => self.untouched(name)?,
            (Some(None), OpenMode::Existing) => return Err(io::ErrorKind::NotFound.into()),
            (Some(Some(_)), OpenMode::New) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, OpenMode::New) if self.below.open(name, OpenMode::Existing).is_ok() => {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            (_, OpenMode::New) => Handle {
                below: None,
                file: Arc::new(File {
                    below: None,
                    changes: RwLock::default(),
                }),
            },
        };
        files.insert(name.to_owned(), Some(Arc::clone(&handle.file)));
        Ok(Arc::new(handle))
    }

    fn list(&self) -> io::Result<Vec<FileInfo>> {
        let files = self.files();
        let mut listed = self.below.list()?;
        listed.retain(|info| !files.contains_key(&info.name));
        listed.extend(files.iter().filter_map(|(name, file)| {
            Some(FileInfo {
                name: name.clone(),
                len: read(&file.as_ref()?.changes).len,
            })
        }));
        Ok(listed)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut files = self.files();
        let is_there = match files.get(name) {
            Some(file) => file.is_some(),
            None => self.below.list()?.iter().any(|info| info.name == name),
        };
        if !is_there {
            return Err(io::ErrorKind::NotFound.into());
        }
        files.insert(name.to_owned(), None);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files();
        let file = match files.get(from) {
            Some(file) => file.clone().ok_or(io::ErrorKind::NotFound)?,
            None => self.untouched(from)?.file,
        };
        files.insert(from.to_owned(), None);
        files.insert(to.to_owned(), Some(file));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    fn free_space(&self) -> io::Result<u64> {
        self.below.free_space()
    }

    fn is_private(&self, name: &str) -> io::Result<bool> {
        match self.files().get(name) {
            Some(Some(file)) if file.below.is_none() => Ok(true),
            Some(None) => Err(io::ErrorKind::NotFound.into()),
            _ => self.below.is_private(name),
        }
    }
}

impl Handle {
    /// Bytes of the file below, and zeros where it shows no more.
    fn read_below(&self, buffer: &mut [u8], offset: u64, shown: u64) -> io::Result<()> {
        let len = shown.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let (here, behind) = buffer.split_at_mut(len);
        behind.fill(0);
        match &self.below {
            Some(below) if len > 0 => below.read_at(here, offset),
            _ => Ok(()),
        }
    }
}

impl DiskFile for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(read(&self.file.changes).len)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let changes = read(&self.file.changes);
        let end = offset + buffer.len() as u64;
        if end > changes.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read_below(buffer, offset, changes.shown)?;
        let first = offset / BLOCK_BYTES as u64;
        for (number, block) in changes.blocks.range(first..end.div_ceil(BLOCK_BYTES as u64)) {
            let start = number * BLOCK_BYTES as u64;
            let (from, to) = (start.max(offset), (start + BLOCK_BYTES as u64).min(end));
            buffer[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&block[(from - start) as usize..(to - start) as usize]);
        }
        Ok(())
    }

    fn write_at(&self, parts: &[&[u8]], mut offset: u64) -> io::Result<()> {
        let mut changes = self.file.changes.write().unwrap_or_else(PoisonError::into_inner);
        let mut end = changes.len;
        for mut part in parts.iter().copied() {
            while !part.is_empty() {
                let (number, within) = (offset / BLOCK_BYTES as u64, (offset % BLOCK_BYTES as u64) as usize);
                if !changes.blocks.contains_key(&number) {
                    let mut block = Box::new([0; BLOCK_BYTES]);
                    self.read_below(&mut block[..], number * BLOCK_BYTES as u64, changes.shown)?;
                    changes.blocks.insert(number, block);
                }
                let block = changes.blocks.get_mut(&number).expect("just made");
                let (now, later) = part.split_at(part.len().min(BLOCK_BYTES - within));
                block[within..within + now.len()].copy_from_slice(now);
                part = later;
                offset += now.len() as u64;
                end = end.max(offset);
            }
        }
        changes.len = end;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut changes = self.file.changes.write().unwrap_or_else(PoisonError::into_inner);
        changes.shown = changes.shown.min(len);
        drop(changes.blocks.split_off(&len.div_ceil(BLOCK_BYTES as u64)));
        if let Some(last) = changes.blocks.get_mut(&(len / BLOCK_BYTES as u64)) {
            last[(len % BLOCK_BYTES as u64) as usize..].fill(0);
        }
        changes.len = len;
        Ok(())
    }

    /// That of the file below, so that nobody changes it meanwhile.
    fn try_lock(&self) -> io::Result<bool> {
        self.below.as_ref().map_or(Ok(true), |below| below.try_lock())
    }
}

fn read(changes: &RwLock<Changes>) -> std::sync::RwLockReadGuard<'_, Changes> {
    changes.read().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OsDisk;
    use proptest::prelude::*;

    /// A file of noise, and an overlay over its folder.
    fn over(len: usize) -> (tempfile::TempDir, Vec<u8>, Overlay) {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..len).map(|at| (at * 31 + at / 251) as u8).collect();
        std::fs::write(folder.path().join("file"), &bytes).unwrap();
        let overlay = Overlay::new(Arc::new(OsDisk::read_only(folder.path())));
        (folder, bytes, overlay)
    }

    fn content(disk: &impl Disk, name: &str) -> Vec<u8> {
        let file = disk.open(name, OpenMode::Existing).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_changes_as_a_file_does_and_what_is_below_does_not(
            len in 0usize..20_000,
            changes in proptest::collection::vec((0usize..24_000, 0usize..9_000, any::<bool>()), 0..12),
        ) {
            let (folder, before, overlay) = over(len);
            let mut expected = before.clone();
            let file = overlay.open("file", OpenMode::Existing).unwrap();
            for (number, (at, length, is_cut)) in changes.into_iter().enumerate() {
                if is_cut {
                    file.set_len(at as u64).unwrap();
                    expected.resize(at, 0);
                } else {
                    let bytes = vec![number as u8 + 1; length];
                    file.write_at(&[&bytes[..length / 2], &bytes[length / 2..]], at as u64).unwrap();
                    if length > 0 {
                        expected.resize(expected.len().max(at + length), 0);
                        expected[at..at + length].copy_from_slice(&bytes);
                    }
                }
                prop_assert_eq!(content(&overlay, "file"), expected.clone());
            }
            prop_assert_eq!(std::fs::read(folder.path().join("file")).unwrap(), before);
        }
    }

    #[test]
    fn names_change_above_only() {
        let (folder, bytes, overlay) = over(5000);
        let kind = |opened: io::Result<Arc<dyn DiskFile>>| opened.err().map(|error| error.kind());
        assert_eq!(
            kind(overlay.open("file", OpenMode::New)),
            Some(io::ErrorKind::AlreadyExists)
        );
        overlay.rename("file", "other").unwrap();
        assert_eq!(
            kind(overlay.open("file", OpenMode::Existing)),
            Some(io::ErrorKind::NotFound)
        );
        assert_eq!(content(&overlay, "other"), bytes);
        overlay
            .open("file", OpenMode::New)
            .unwrap()
            .write_at(&[b"new"], 2)
            .unwrap();
        assert_eq!(content(&overlay, "file"), b"\0\0new");
        overlay.remove("other").unwrap();
        assert_eq!(overlay.remove("other").unwrap_err().kind(), io::ErrorKind::NotFound);
        let names: Vec<FileInfo> = overlay.list().unwrap();
        assert_eq!(
            names,
            [FileInfo {
                name: "file".to_owned(),
                len: 5
            }]
        );
        assert_eq!(std::fs::read(folder.path().join("file")).unwrap(), bytes);
        assert!(!folder.path().join("other").exists());
    }
}
