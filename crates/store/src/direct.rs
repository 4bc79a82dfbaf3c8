//! Large reads and writes past the system's page cache (`O_DIRECT`): a shard that is stored is seldom read soon, and one that is read is seldom
//! read again, while what the cache takes to copy it, and to find room for it, is more than all else that it takes, and pushes out what others
//! use. What is read again goes through the cache, which keeps it from then on.
//!
//! Direct work needs place, length and memory aligned. So what of a write lies before the first border and behind the last goes through the cache
//! as ever, and of a read more is fetched than is wanted. Where the file system knows nothing of this, everything goes through the cache.

use std::{
    collections::HashSet,
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Place, length and memory of direct work are multiples of this: no disk of today has larger blocks.
const ALIGNMENT: usize = 4096;
/// From this length on it is direct: below it the cache costs less than what an end off the alignment does.
const DIRECT_BYTES_MIN: usize = 128 << 10;
/// What is read or written at a time, and copied for that to where memory is aligned: what a disk takes at once.
const BLOCK_BYTES: usize = 1 << 20;
/// Blocks that are kept when nobody uses them. Memory that the system has to zero first, page by page, costs as much as the copy.
const BLOCKS_KEPT: usize = 2;
/// Places of a file that are remembered as read: a pack has as many shards of a chunk that is coded twice over.
const READ_PLACES_MAX: usize = 512;

/// A file's way past the cache, opened when it is first wanted.
#[derive(Debug, Default)]
pub(crate) struct Direct {
    file: OnceLock<Option<File>>,
    /// Set by the first direct work that the file system does not take.
    refused: AtomicBool,
    /// Where it was read past the cache lately.
    read: Mutex<HashSet<u64>>,
}

impl Direct {
    /// Fills the buffer from there on.
    pub(crate) fn read(&self, file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if let Some(direct) = self.handle(file, buffer.len())
            && self.is_first(offset)
        {
            match read_blocks(direct, buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => self.refuse(),
                read => return read,
            }
        }
        file.read_exact_at(buffer, offset)
    }

    /// Writes all parts to `file`, one after the other: directly what can be, the rest with `cached`.
    pub(crate) fn write(
        &self,
        file: &File,
        parts: &[&[u8]],
        offset: u64,
        cached: impl Fn(&[&[u8]], u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let len = parts.iter().map(|part| part.len()).sum();
        let Some(direct) = self.handle(file, len) else {
            return cached(parts, offset);
        };
        let head = (offset.next_multiple_of(ALIGNMENT as u64) - offset) as usize;
        let middle = (len - head) / ALIGNMENT * ALIGNMENT;
        let (before, rest) = split(parts, head);
        let (aligned, after) = split(&rest, middle);
        if !before.is_empty() {
            cached(&before, offset)?;
        }
        let start = offset + head as u64;
        match write_blocks(direct, &aligned, start) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.refuse();
                cached(&aligned, start)?;
            }
            written => written?,
        }
        if !after.is_empty() {
            cached(&after, start + middle as u64)?;
        }
        Ok(())
    }

    fn handle(&self, file: &File, len: usize) -> Option<&File> {
        if len < DIRECT_BYTES_MIN || self.refused.load(Ordering::Relaxed) {
            return None;
        }
        self.file.get_or_init(|| reopen(file)).as_ref()
    }

    fn refuse(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Whether this place was not read lately; it was from now on.
    fn is_first(&self, offset: u64) -> bool {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.len() >= READ_PLACES_MAX {
            read.clear();
        }
        read.insert(offset)
    }
}

/// The same file once more, whatever its name is by now.
#[cfg(target_os = "linux")]
fn reopen(file: &File) -> Option<File> {
    use std::os::{fd::AsRawFd, unix::fs::OpenOptionsExt};
    File::options()
        .read(true)
        .write(true)
        .custom_flags(rustix::fs::OFlags::DIRECT.bits().cast_signed())
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .ok()
}

#[cfg(not(target_os = "linux"))]
fn reopen(_: &File) -> Option<File> {
    None
}

/// The first `len` bytes of all parts, and the rest.
fn split<'a>(parts: &[&'a [u8]], mut len: usize) -> (Vec<&'a [u8]>, Vec<&'a [u8]>) {
    let (mut first, mut rest) = (Vec::new(), Vec::new());
    for part in parts {
        let (before, after) = part.split_at(len.min(part.len()));
        len -= before.len();
        first.extend((!before.is_empty()).then_some(before));
        rest.extend((!after.is_empty()).then_some(after));
    }
    (first, rest)
}

/// Lends [`BLOCK_BYTES`] of aligned memory. What is in them is of no meaning.
fn with_block<R>(work: impl FnOnce(&mut [u8]) -> R) -> R {
    static BLOCKS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
    let blocks = || BLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = blocks().pop();
    let mut memory = kept.unwrap_or_else(|| vec![0; BLOCK_BYTES + ALIGNMENT]);
    let start = memory.as_ptr().align_offset(ALIGNMENT);
    let outcome = work(&mut memory[start..start + BLOCK_BYTES]);
    let mut blocks = blocks();
    if blocks.len() < BLOCKS_KEPT {
        blocks.push(memory);
    }
    outcome
}

/// Reads whole blocks, and of these what is wanted.
fn read_blocks(file: &File, buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    with_block(|block| {
        let mut filled = 0;
        while filled < buffer.len() {
            let missing = &mut buffer[filled..];
            let skipped = (offset % ALIGNMENT as u64) as usize;
            let wanted = missing.len().min(block.len() - skipped);
            let len = (skipped + wanted).next_multiple_of(ALIGNMENT);
            let read = match file.read_at(&mut block[..len], offset - skipped as u64) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?.min(skipped + wanted),
            };
            // It ends off the alignment at the end of the file only.
            if read <= skipped {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let now = read - skipped;
            missing[..now].copy_from_slice(&block[skipped..read]);
            filled += now;
            offset += now as u64;
        }
        Ok(())
    })
}

/// Writes parts that are a multiple of the alignment together, at a multiple of it.
fn write_blocks(file: &File, parts: &[&[u8]], mut offset: u64) -> io::Result<()> {
    with_block(|block| {
        let mut filled = 0;
        for part in parts {
            let mut part = *part;
            while !part.is_empty() {
                let (now, later) = part.split_at(part.len().min(block.len() - filled));
                block[filled..filled + now.len()].copy_from_slice(now);
                filled += now.len();
                part = later;
                if filled == block.len() {
                    file.write_all_at(block, offset)?;
                    offset += filled as u64;
                    filled = 0;
                }
            }
        }
        file.write_all_at(&block[..filled], offset)
    })
}

#[cfg(test)]
mod tests {
    use super::DIRECT_BYTES_MIN;
    use crate::disk::{Disk, OpenMode, OsDisk};
    use proptest::prelude::*;

    /// Bytes that tell where they belong.
    fn bytes(from: usize, len: usize) -> Vec<u8> {
        (from..from + len).map(|at| ((at / 7) ^ (at / 4099)) as u8).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn what_was_written_is_read_in_large_parts_and_in_small_ones(
            writes in prop::collection::vec(prop::collection::vec(prop_oneof![0..9000usize, 100_000..3_000_000usize], 0..4), 1..6),
            (from, part) in (0..500_000usize, DIRECT_BYTES_MIN..1_500_000usize),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let file = OsDisk::new(folder.path()).unwrap().open("file", OpenMode::New).unwrap();
            let mut len = 0;
            for lens in writes {
                let parts: Vec<Vec<u8>> = lens
                    .into_iter()
                    .map(|part| {
                        len += part;
                        bytes(len - part, part)
                    })
                    .collect();
                let parts: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
                let written: usize = parts.iter().map(|part| part.len()).sum();
                file.write_at(&parts, (len - written) as u64).unwrap();
                prop_assert_eq!(file.len().unwrap(), len as u64);
                // Between two writes the cache is filled, and must not show what was there before.
                for step in [DIRECT_BYTES_MIN - 1, part] {
                    for from in (from.min(len)..len).step_by(step) {
                        let mut read = vec![0; step.min(len - from)];
                        file.read_at(&mut read, from as u64).unwrap();
                        prop_assert!(read == bytes(from, read.len()));
                    }
                }
            }
            let beyond = file.read_at(&mut vec![0; len + 1], 0).unwrap_err();
            prop_assert_eq!(beyond.kind(), std::io::ErrorKind::UnexpectedEof);
        }
    }
}
