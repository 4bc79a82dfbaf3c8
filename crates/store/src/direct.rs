//! Large writes past the system's page cache (`O_DIRECT`): a shard that is stored is seldom read soon, and what the cache takes to copy it,
//! and to find room for it, is more than all else that storing it takes. A direct write needs its place, its length and its memory aligned,
//! so what lies before the first border and behind the last is written through the cache as ever. Where the file system knows no direct
//! writes, everything is.

use std::{
    fs::File,
    io,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

/// Place, length and memory of a direct write are multiples of this: no disk of today has larger blocks.
const ALIGNMENT: usize = 4096;
/// From this length on, writes are direct.
const DIRECT_BYTES_MIN: usize = 1 << 20;
/// What is written at a time, and copied for that to where memory is aligned.
const BLOCK_BYTES: usize = 4 << 20;

/// A file's way past the cache, opened by the first large write.
#[derive(Debug, Default)]
pub(crate) struct Direct {
    file: OnceLock<Option<File>>,
    /// Set by the first direct write that the file system does not take.
    refused: AtomicBool,
}

impl Direct {
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
                self.refused.store(true, Ordering::Relaxed);
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
}

/// The same file once more, whatever its name is by now.
#[cfg(target_os = "linux")]
fn reopen(file: &File) -> Option<File> {
    use std::os::{fd::AsRawFd, unix::fs::OpenOptionsExt};
    File::options()
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

/// Writes parts that are a multiple of the alignment together, at a multiple of it.
fn write_blocks(file: &File, parts: &[&[u8]], mut offset: u64) -> io::Result<()> {
    let mut memory = Vec::<u8>::with_capacity(BLOCK_BYTES + ALIGNMENT);
    let start = memory.as_ptr().align_offset(ALIGNMENT);
    memory.resize(start, 0);
    let mut write = |memory: &mut Vec<u8>| {
        let block = &memory[start..];
        std::os::unix::fs::FileExt::write_all_at(file, block, offset)?;
        offset += block.len() as u64;
        memory.truncate(start);
        io::Result::Ok(())
    };
    for part in parts {
        let mut part = *part;
        while !part.is_empty() {
            let room = start + BLOCK_BYTES - memory.len();
            let (now, later) = part.split_at(room.min(part.len()));
            memory.extend_from_slice(now);
            part = later;
            if memory.len() == start + BLOCK_BYTES {
                write(&mut memory)?;
            }
        }
    }
    if memory.len() > start {
        write(&mut memory)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::disk::{Disk, OpenMode, OsDisk};
    use proptest::prelude::*;

    /// Bytes that tell where they belong.
    fn bytes(from: usize, len: usize) -> Vec<u8> {
        (from..from + len).map(|at| ((at / 7) ^ (at / 4099)) as u8).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn large_and_small_writes_in_turn_leave_what_was_written(
            writes in prop::collection::vec(prop::collection::vec(prop_oneof![0..9000usize, 1_000_000..3_000_000usize], 0..4), 1..6),
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
                let mut all = vec![0; len];
                file.read_at(&mut all, 0).unwrap();
                prop_assert!(all == bytes(0, len));
            }
        }
    }
}
