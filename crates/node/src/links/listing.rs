//! What a link shows, as it is stored: files with their paths, in order, each as its length in four bytes, the most significant first, and its record.

use super::Target;
use crate::{
    error::{LinkError, NodeError},
    files::Files,
    space::OpenSpace,
};
use potluck_spaces::{File, FileId, Path, Value};
use potluck_types::{Hash, from_canonical, limits, to_canonical};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of one record: a path may be long.
const RECORD_BYTES_MAX: usize = 64 << 10;
/// Bytes of a listing, as far as one is read.
pub(super) const LISTING_BYTES_MAX: u64 = 128 << 20;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Listing {
    encoded: Vec<u8>,
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// A file, and where it is below the directory that is shown; a file that is shown alone is at the root.
#[derive(Serialize, Deserialize)]
struct Record(Path, File);

impl Listing {
    /// What a link to this shows now, without some files; none when it is gone.
    pub(super) async fn of(
        space: &OpenSpace,
        target: &Target,
        without: &BTreeSet<FileId>,
    ) -> Result<Option<Self>, NodeError> {
        let mut all = BTreeMap::new();
        match target {
            Target::Directory(id) => {
                if target.path(space)?.is_none() {
                    return Ok(None);
                }
                let mut files = Files::below(space, vec![*id]);
                while let Some(found) = files.next().await? {
                    if without.contains(&found.file.id) {
                        continue;
                    }
                    all.insert(found.path, found.file);
                    if all.len() > limits::LINK_ENTRIES_MAX {
                        return Err(LinkError::TooLarge.into());
                    }
                }
            }
            Target::File(parent, name) => {
                let found = space.view().named(&space.read()?, *parent, name)?;
                let value = found
                    .and_then(|found| found.heads.into_iter().next())
                    .map(|head| head.value);
                let Some(Value::File(file)) = value.filter(|_| target.path(space).is_ok_and(|path| path.is_some()))
                else {
                    return Ok(None);
                };
                if without.contains(&file.id) {
                    return Ok(None);
                }
                all.insert(Path::root(), file);
            }
        }
        let listing = Self {
            files: all.len() as u64,
            bytes: all.values().fold(0, |bytes: u64, file| bytes.saturating_add(file.len)),
            encoded: encode(all),
        };
        if listing.encoded.len() as u64 > LISTING_BYTES_MAX {
            return Err(LinkError::TooLarge.into());
        }
        Ok(Some(listing))
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.encoded.clone()
    }

    pub(super) fn digest(&self) -> Hash {
        Hash::of(&self.encoded)
    }
}

/// The bytes of a listing. Which stripes the files use is for who looks after them, and left out.
pub(crate) fn encode(files: BTreeMap<Path, File>) -> Vec<u8> {
    let mut encoded = Vec::new();
    for (path, file) in files {
        let record = to_canonical(&Record(
            path,
            File {
                uses: Vec::new(),
                ..file
            },
        ));
        let len = u32::try_from(record.len()).expect("a record is short");
        encoded.extend_from_slice(&len.to_be_bytes());
        encoded.extend_from_slice(&record);
    }
    encoded
}

/// Reads a listing that anyone who has the link may have written.
pub(crate) fn read(mut bytes: &[u8]) -> Option<BTreeMap<Path, File>> {
    let mut files = BTreeMap::new();
    while !bytes.is_empty() {
        let (len, rest) = bytes.split_first_chunk()?;
        let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
        let (record, rest) = rest.split_at_checked(len).filter(|_| len <= RECORD_BYTES_MAX)?;
        let Record(path, file) = from_canonical(record).ok()?;
        let is_next = files.last_key_value().is_none_or(|(last, _)| *last < path);
        if !is_next || !file.uses.is_empty() || files.len() >= limits::LINK_ENTRIES_MAX {
            return None;
        }
        files.insert(path, file);
        bytes = rest;
    }
    Some(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_spaces::FileId;
    use potluck_types::Timestamp;
    use proptest::prelude::*;

    fn files(paths: &[&str]) -> BTreeMap<Path, File> {
        let file = |len| File {
            id: FileId::from_bytes([1; 16]),
            len,
            modified: Timestamp::from_millis(2),
            executable: false,
            content: vec![3; 4].into(),
            uses: Vec::new(),
            survives: 1,
            asked: None,
        };
        let paths = paths.iter().enumerate();
        paths
            .map(|(at, path)| (path.parse().unwrap(), file(at as u64)))
            .collect()
    }

    #[test]
    fn a_listing_comes_back_and_nothing_else_is_taken() {
        let all = files(&["/a", "/a b/c", "/b/a", "/b/a/c", "/c"]);
        let bytes = encode(all.clone());
        assert_eq!(read(&bytes), Some(all));
        assert_eq!(read(b""), Some(BTreeMap::new()));
        for len in 1..bytes.len() {
            let is_whole = read(&bytes[..len]).is_some_and(|files| encode(files) == bytes[..len]);
            assert!(read(&bytes[..len]).is_none() || is_whole, "{len}");
        }
        // Out of order, or twice.
        let (first, second) = (encode(files(&["/b"])), encode(files(&["/a"])));
        assert_eq!(read(&[&first[..], &second].concat()), None);
        assert_eq!(read(&[&first[..], &first].concat()), None);
        assert_eq!(read(&u32::MAX.to_be_bytes()), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            if let Some(files) = read(&bytes) {
                prop_assert_eq!(encode(files), bytes);
            }
        }
    }
}
