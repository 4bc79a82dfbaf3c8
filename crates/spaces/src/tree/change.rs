//! What an entry says about names, and how that is encoded: version 2, and the migration from version 1.

use super::{DirId, File, FileId, Value};
use crate::{Entry, EntryId, Name, OpId, Settings};
use potluck_types::{CodecError, NodeId, StripeId, Timestamp, from_canonical, limits, to_canonical};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What is removed is kept for a year at most: a wrong number would fill the pool for ever.
pub const RETENTION_MAX: Duration = Duration::from_secs(365 * 86_400);
const RETENTION_MS_MAX: u64 = RETENTION_MAX.as_secs() * 1000;
/// The version that is written where something was moved.
const VERSION: u8 = 7;
/// The version that is written where an entry is said again that was erased.
const VERSION_ERASED: u8 = 6;
/// The version that is written where settings have a quota.
const VERSION_QUOTAS: u8 = 5;
/// The version that is written where there is a snapshot.
const VERSION_SNAPSHOTS: u8 = 4;
/// The version that is written where there are settings: version 2 has no word for them.
const VERSION_SETTINGS: u8 = 3;
/// The version of everything else: who knows no later one reads it.
const VERSION_BEFORE: u8 = 2;
/// The first byte of a list in CBOR has these upper three bits. Version 1 was a bare list, and every later one is a map.
const LIST: u8 = 4;

/// A change to a space. What an entry seals is a list of these.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Change {
    /// A name stands for this from now on, or for nothing.
    Set {
        /// The directory.
        parent: DirId,
        /// The name in it.
        name: Name,
        /// What it stands for.
        value: Option<Value>,
        /// The operations whose values the author saw there, or in the trash.
        replaces: Vec<OpId>,
        /// What becomes of those values.
        fate: Fate,
    },
    /// Stripes that a file version uses; it follows in a later change. With no stripes: it does not follow, and uses none.
    Uses {
        /// The version.
        file: FileId,
        /// Counts the parts of the list.
        part: u32,
        /// The stripes.
        stripes: Vec<StripeId>,
    },
    /// The same version of a file lies in other stripes from now on. Whoever has replaced the version meanwhile need not know.
    Recode {
        /// The directory.
        parent: DirId,
        /// The name in it.
        name: Name,
        /// The operation that set the version.
        of: OpId,
        /// Where it lies now.
        file: File,
    },
    /// What is to hold for all that is in the space. What is said last holds.
    Settings(Settings),
    /// What there is at this entry's clock has a name from now on, or has it no more. What is said last of a name holds.
    Snapshot {
        /// The name.
        name: Name,
        /// Whether it has it.
        is_there: bool,
    },
    /// A person knows that so much was removed and overwritten, and wants it so.
    Accept {
        /// What was done up to this clock.
        until: Timestamp,
    },
    /// What an entry said whose changes are erased by this one, with all that is to stay of it: for who has not heard it from the entry itself.
    Restate {
        /// Whose entry it was.
        device: NodeId,
        /// Its number.
        seq: u64,
        /// Its clock.
        clock: Timestamp,
        /// All of its changes in their order, but that files whose content is erased have none.
        changes: Vec<Self>,
    },
}

impl Change {
    /// What is left of what an entry said when the content of files is erased: one change that says it again. Of each entry that this one itself said again there is one more. Nothing
    /// when there is no such file.
    pub fn without(
        (id, entry): (EntryId, &Entry),
        changes: Vec<Self>,
        is_erased: &mut impl FnMut(&File) -> bool,
    ) -> Option<Vec<Self>> {
        let (mut found, mut own, mut again) = (false, Vec::with_capacity(changes.len()), Vec::new());
        for mut change in changes {
            found |= change.hollow(is_erased);
            if let Self::Restate { changes, .. } = &mut change {
                for change in changes {
                    found |= change.hollow(is_erased);
                }
                // What comes behind it keeps its place.
                own.push(Self::nothing());
                // Of others it has nothing to say.
                if entry.erases == change.restates() {
                    again.push(change);
                }
            } else {
                own.push(change);
            }
        }
        let EntryId { device, seq } = id;
        again.push(Self::Restate {
            device,
            seq,
            clock: entry.clock,
            changes: own,
        });
        found.then_some(again)
    }

    /// One that changes nothing, where what comes behind it is to keep its place.
    pub(crate) fn nothing() -> Self {
        Self::Accept {
            until: Timestamp::default(),
        }
    }

    /// Which entry it says again.
    pub fn restates(&self) -> Option<EntryId> {
        match self {
            Self::Restate { device, seq, .. } => Some(EntryId {
                device: *device,
                seq: *seq,
            }),
            _ => None,
        }
    }

    /// What it says again of an entry, which has this clock.
    pub(super) fn restated(self, of: EntryId, at: Timestamp) -> Option<Vec<Self>> {
        let is_it = self.restates() == Some(of);
        match self {
            Self::Restate { changes, clock, .. } if is_it && clock == at => Some(changes),
            _ => None,
        }
    }

    fn hollow(&mut self, is_erased: &mut impl FnMut(&File) -> bool) -> bool {
        match self {
            Self::Set {
                value: Some(Value::File(file)),
                ..
            }
            | Self::Recode { file, .. }
                if !file.is_erased() && is_erased(file) =>
            {
                file.content.clear();
                true
            }
            _ => false,
        }
    }
}

/// What becomes of values that a change replaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Fate {
    /// They live on: elsewhere, or as the same content in the new value. Nothing is kept of them.
    Carried,
    /// The same, but that they were there is known for so many milliseconds, and they can be brought back to where they were. They count once, where they are now.
    Moved(u64),
    /// They are let go of at once.
    Freed,
    /// They can be brought back for so many milliseconds.
    Kept(u64),
    /// The same, but a person loses nothing by it: what takes their place was there before, or looks the same. It does not count as overwritten.
    Shelved(u64),
}

impl Fate {
    /// Kept for this long; let go of at once when that is no time.
    pub fn kept_for(retention: Duration) -> Self {
        match u64::try_from(retention.as_millis()).unwrap_or(u64::MAX) {
            0 => Self::Freed,
            millis => Self::Kept(millis),
        }
    }

    /// The same for what does not count as overwritten.
    pub fn shelved_for(retention: Duration) -> Self {
        match Self::kept_for(retention) {
            Self::Kept(millis) => Self::Shelved(millis),
            _ => Self::Carried,
        }
    }

    /// The same for what lives on elsewhere.
    pub fn moved_for(retention: Duration) -> Self {
        match Self::kept_for(retention) {
            Self::Kept(millis) => Self::Moved(millis),
            _ => Self::Carried,
        }
    }

    /// For how many milliseconds the values can be brought back.
    pub(crate) fn millis(self) -> Option<u64> {
        match self {
            Self::Carried | Self::Freed => None,
            Self::Moved(millis) | Self::Kept(millis) | Self::Shelved(millis) => Some(millis.min(RETENTION_MS_MAX)),
        }
    }

    /// Whether the values can be brought back.
    pub fn keeps(self) -> bool {
        self.millis().is_some()
    }

    /// Whether the values live on elsewhere.
    pub fn carries(self) -> bool {
        matches!(self, Self::Carried | Self::Moved(_))
    }

    /// Whether a person loses what was there.
    pub(crate) fn counts(self) -> bool {
        matches!(self, Self::Freed | Self::Kept(_))
    }
}

/// The changes of one entry, as they are sealed.
#[derive(Serialize, Deserialize)]
struct Changes {
    version: u8,
    changes: Vec<Change>,
}

/// Compressed changes begin so, and no others do: the magic number of a Zstandard frame (RFC 8878, section 3.1.1).
const ZSTANDARD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Level 1 is a few times as fast as the signature of the entry, and level 3 saves but a few percent more.
const LEVEL: i32 = 1;
/// Shorter changes hardly shrink.
const COMPRESSED_FROM: usize = 512;

/// Changes as they are sealed: compressed where that is shorter. Those of one command have much in common.
pub(super) fn pack(changes: &[Change]) -> Vec<u8> {
    let plain = encode(changes);
    if plain.len() < COMPRESSED_FROM {
        return plain;
    }
    match zstd::bulk::compress(&plain, LEVEL) {
        Ok(compressed) if compressed.len() < plain.len() => compressed,
        _ => plain,
    }
}

/// How long changes are that were packed, when they are unpacked; none, when that is more than an entry may say.
pub(super) fn unpacked_len(packed: &[u8]) -> Option<usize> {
    let len = match packed.starts_with(&ZSTANDARD) {
        true => usize::try_from(zstd::zstd_safe::get_frame_content_size(packed).ok()??).ok()?,
        false => packed.len(),
    };
    (len <= limits::ENTRY_BYTES_MAX).then_some(len)
}

/// Reads what was packed.
pub(super) fn unpack(packed: &[u8]) -> Result<Vec<Change>, CodecError> {
    let malformed = || CodecError::Malformed {
        len: packed.len(),
        reason: "changes that do not unpack".to_owned(),
    };
    let len = unpacked_len(packed).ok_or_else(malformed)?;
    if !packed.starts_with(&ZSTANDARD) {
        return decode(packed);
    }
    decode(&zstd::bulk::decompress(packed, len).map_err(|_| malformed())?)
}

fn encode(changes: &[Change]) -> Vec<u8> {
    fn needs(change: &Change) -> u8 {
        match change {
            Change::Set {
                fate: Fate::Moved(_), ..
            } => VERSION,
            Change::Restate { changes, .. } => changes.iter().map(needs).max().unwrap_or_default().max(VERSION_ERASED),
            Change::Settings(settings) if settings.quota.is_some() => VERSION_QUOTAS,
            Change::Snapshot { .. } => VERSION_SNAPSHOTS,
            Change::Settings(_) => VERSION_SETTINGS,
            Change::Set { .. } | Change::Uses { .. } | Change::Recode { .. } | Change::Accept { .. } => VERSION_BEFORE,
        }
    }
    to_canonical(&Changes {
        version: changes.iter().map(needs).max().unwrap_or(VERSION_BEFORE),
        changes: changes.to_vec(),
    })
}

/// Reads the changes of this version and of those before.
fn decode(plain: &[u8]) -> Result<Vec<Change>, CodecError> {
    if plain.first().is_some_and(|first| first >> 5 == LIST) {
        let changes: Vec<version_1::Change> = from_canonical(plain)?;
        return Ok(changes.into_iter().map(Change::from).collect());
    }
    let Changes { version, changes } = from_canonical(plain)?;
    if (VERSION_BEFORE..=VERSION).contains(&version) {
        return Ok(changes);
    }
    Err(CodecError::Malformed {
        len: plain.len(),
        reason: format!("changes of version {version}"),
    })
}

/// Before there was a trash: what was replaced was let go of in the same entry.
mod version_1 {
    use super::{DirId, Fate, File, FileId, Name, OpId, StripeId, Value};
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize)]
    pub(super) enum Change {
        Set {
            parent: DirId,
            name: Name,
            value: Option<Value>,
            replaces: Vec<OpId>,
        },
        Uses {
            file: FileId,
            part: u32,
            stripes: Vec<StripeId>,
        },
        Recode {
            parent: DirId,
            name: Name,
            of: OpId,
            file: File,
        },
    }

    impl From<Change> for super::Change {
        fn from(old: Change) -> Self {
            match old {
                // A move looks like a removal here: neither is counted among what a person may want back.
                Change::Set {
                    parent,
                    name,
                    value,
                    replaces,
                } => Self::Set {
                    parent,
                    name,
                    value,
                    replaces,
                    fate: Fate::Carried,
                },
                Change::Uses { file, part, stripes } => Self::Uses { file, part, stripes },
                Change::Recode { parent, name, of, file } => Self::Recode { parent, name, of, file },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn removal(fate: Fate) -> Change {
        Change::Set {
            parent: DirId::ROOT,
            name: "a".to_owned().try_into().unwrap(),
            value: None,
            replaces: Vec::new(),
            fate,
        }
    }

    #[test]
    fn changes_come_back_as_they_were() {
        let changes = [
            removal(Fate::Carried),
            removal(Fate::Freed),
            removal(Fate::Kept(7)),
            removal(Fate::Shelved(7)),
            Change::Accept {
                until: Timestamp::from_millis(3),
            },
        ];
        let encoded = encode(&changes);
        assert_eq!(decode(&encoded).unwrap(), changes);
        assert_eq!(decode(&encode(&[])).unwrap(), []);
        // Who knows no later version reads what has nothing of one.
        let version = |bytes: &[u8]| from_canonical::<Changes>(bytes).unwrap().version;
        assert_eq!(version(&encoded), 2);
        for (quota, expected) in [(None, 3), (Some(1 << 40), 5)] {
            let settings = [Change::Settings(Settings {
                survive: Some(2),
                keep_ms: None,
                quota,
            })];
            assert_eq!(version(&encode(&settings)), expected);
            assert_eq!(decode(&encode(&settings)).unwrap(), settings);
        }
    }

    #[test]
    fn many_changes_are_packed_and_come_back_and_no_more_is_unpacked_than_an_entry_may_say() {
        let many = |count: u32| -> Vec<Change> {
            let named = |i: u32| Change::Set {
                parent: DirId::ROOT,
                name: format!("name-{i}").try_into().unwrap(),
                value: None,
                replaces: Vec::new(),
                fate: Fate::Kept(7),
            };
            (0..count).map(named).collect()
        };
        let (plain, packed) = (encode(&many(200)), pack(&many(200)));
        assert!(
            packed.starts_with(&ZSTANDARD) && packed.len() * 5 < plain.len(),
            "{} of {}",
            packed.len(),
            plain.len()
        );
        assert_eq!(unpacked_len(&packed), Some(plain.len()));
        assert_eq!(unpack(&packed).unwrap(), many(200));
        assert_eq!(unpack(&pack(&many(1))).unwrap(), many(1));
        assert_eq!(unpack(&plain).unwrap(), many(200), "as versions before wrote it");
        // Cut off, with something behind, and more than is allowed.
        assert!(unpack(&packed[..packed.len() - 1]).is_err());
        assert!(unpack(&ZSTANDARD).is_err() && unpacked_len(&ZSTANDARD).is_none());
        let bomb = zstd::bulk::compress(&vec![0; limits::ENTRY_BYTES_MAX + 1], LEVEL).unwrap();
        assert!(bomb.len() < 100 && unpack(&bomb).is_err());
        // One that says less than it holds.
        let stream = zstd::stream::encode_all(&vec![0u8; 10 << 20][..], LEVEL).unwrap();
        assert!(unpack(&stream).is_err());
    }

    /// What the version before wrote for a removal: `[{"Set": {"name": "a", "value": null, "parent": 0…, "replaces": []}}]`.
    #[test]
    fn changes_of_version_1_are_read() {
        let mut old = b"\x81\xa1\x63Set\xa4\x64name\x61a\x65value\xf6\x66parent\x50".to_vec();
        old.extend([0; 16]);
        old.extend(b"\x68replaces\x80");
        assert_eq!(decode(&old).unwrap(), [removal(Fate::Carried)]);
        assert_eq!(decode(b"\x80").unwrap(), []);
    }

    #[test]
    fn changes_of_a_later_version_are_refused() {
        let later = to_canonical(&Changes {
            version: VERSION + 1,
            changes: Vec::new(),
        });
        assert!(matches!(decode(&later), Err(CodecError::Malformed { .. })));
    }
}
