//! What the demo stores, and whether it came back.

use crate::{command::put::modified, complaint::Complaint};
use potluck_types::Timestamp;
use std::{
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

/// The generated data: one large file, and others of a photo's size. 256 MiB together.
const LARGE_BYTES: usize = 160 << 20;
const MIDDLE_BYTES: usize = 4 << 20;
const MIDDLE_FILES: usize = 24;
const _: () = assert!(LARGE_BYTES + MIDDLE_FILES * MIDDLE_BYTES == 256 << 20);
/// Bytes that are made or compared at once.
const BLOCK_BYTES: usize = 1 << 20;

/// What of a checkout is not worth storing.
pub(crate) const EXCLUDED: [&str; 2] = [".git", "target"];

/// A file that is stored.
#[derive(Debug)]
pub(crate) struct Stored {
    /// Where it is.
    pub(crate) original: PathBuf,
    /// Where it will be in a folder that the space is fetched into.
    pub(crate) relative: PathBuf,
    len: u64,
    modified: Timestamp,
}

impl Stored {
    /// Its length.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }
}

/// Whether everything came back.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// Files that are the same.
    pub(crate) same: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Files that differ or are missing.
    pub(crate) differ: Vec<String>,
    /// Originals that were changed after they were stored, so that there is nothing to compare with.
    pub(crate) changed: Vec<String>,
}

/// Bytes in which nothing repeats or shrinks.
#[derive(Debug)]
pub(crate) struct Noise(u64);

impl Noise {
    /// Different bytes for each number.
    pub(crate) fn new(seed: u64) -> Self {
        Self(0x706f_746c_7563_6b21 ^ seed.wrapping_mul(0x9e37_79b9))
    }

    /// The next bytes, as a new file; the length is a multiple of 8.
    pub(crate) fn write(&mut self, file: &Path, len: u64) -> io::Result<()> {
        let mut file = BufWriter::with_capacity(BLOCK_BYTES, File::create(file)?);
        for _ in 0..len / 8 {
            file.write_all(&split_mix(&mut self.0).to_le_bytes())?;
        }
        file.flush()
    }
}

/// Makes the generated files.
pub(crate) fn generate(folder: &Path) -> Result<(), Complaint> {
    let mut noise = Noise::new(0);
    let mut write = |name: String, len: usize| noise.write(&folder.join(name), len as u64);
    let failed = |error: io::Error| Complaint::io("cannot make test data in", folder, &error);
    fs::create_dir_all(folder).map_err(failed)?;
    write("large.bin".to_owned(), LARGE_BYTES).map_err(failed)?;
    (0..MIDDLE_FILES)
        .try_for_each(|number| write(format!("photo-{number:02}.bin"), MIDDLE_BYTES))
        .map_err(failed)
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The files below, as they are now. Links and what cannot be read are left out, as `put` does.
pub(crate) fn survey(local: &Path, name: &Path, exclude: &[String], files: &mut Vec<Stored>) {
    let Ok(metadata) = fs::symlink_metadata(local) else {
        return;
    };
    if metadata.is_file() && File::open(local).is_ok() {
        let (original, relative) = (local.to_owned(), name.to_owned());
        files.push(Stored {
            original,
            relative,
            len: metadata.len(),
            modified: modified(&metadata),
        });
    } else if metadata.is_dir() {
        for entry in fs::read_dir(local).into_iter().flatten().flatten() {
            let below = entry.file_name();
            if !exclude.iter().any(|excluded| below == excluded.as_str()) {
                survey(&entry.path(), &name.join(below), exclude, files);
            }
        }
    }
}

/// Compares every byte.
pub(crate) fn compare(files: &[Stored], fetched: &Path) -> Comparison {
    let mut comparison = Comparison::default();
    let mut blocks = [vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]];
    for file in files {
        let name = file.relative.display().to_string();
        let is_same = same(&file.original, &fetched.join(&file.relative), &mut blocks).unwrap_or(false);
        let now = fs::metadata(&file.original).ok();
        let is_unchanged = now.is_some_and(|now| now.len() == file.len && modified(&now) == file.modified);
        match (is_same, is_unchanged) {
            (true, _) => {
                comparison.same += 1;
                comparison.bytes += file.len;
            }
            (false, true) => comparison.differ.push(name),
            (false, false) => comparison.changed.push(name),
        }
    }
    comparison
}

fn same(one: &Path, other: &Path, [left, right]: &mut [Vec<u8>; 2]) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    loop {
        let (a, b) = (fill(&mut one, left)?, fill(&mut other, right)?);
        if left[..a] != right[..b] {
            return Ok(false);
        }
        if a == 0 {
            return Ok(true);
        }
    }
}

fn fill(reader: &mut impl Read, block: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match reader.read(&mut block[filled..])? {
            0 => break,
            len => filled += len,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_byte_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let (here, there) = (folder.path().join("here"), folder.path().join("there"));
        for place in [&here, &there] {
            fs::create_dir(place).unwrap();
            fs::write(place.join("a"), vec![7; 3_000_000]).unwrap();
        }
        let mut files = Vec::new();
        survey(&here, Path::new(""), &[], &mut files);
        assert_eq!(compare(&files, &there).same, 1);
        let mut bytes = vec![7; 3_000_000];
        bytes[2_999_999] = 8;
        fs::write(there.join("a"), &bytes).unwrap();
        assert_eq!(compare(&files, &there).differ, ["a"]);
        fs::remove_file(there.join("a")).unwrap();
        assert_eq!(compare(&files, &there).differ, ["a"]);
        fs::write(here.join("a"), b"edited meanwhile").unwrap();
        assert_eq!(compare(&files, &there).changed, ["a"]);
    }
}
