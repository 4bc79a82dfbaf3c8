//! The bytes on disk, as `docs/format.md` describes them: superblock, pack header, record header, tombstones.
//!
//! All numbers are little-endian. Record headers carry a keyed hash over themselves and the place where they stand,
//! so that neither a misdirected write nor a payload that imitates a record is ever taken for one: the key is
//! random, made once for each store.

use crate::error::FormatError;
use potluck_types::{Hash, ShardId, SpaceId, StripeId, Timestamp, limits};

/// The format that this code writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// Name of the file with the store's version and key.
pub(crate) const SUPERBLOCK_FILE: &str = "STORE";
/// Name of the file that is given up when deletes need space on a full disk.
pub(crate) const RESERVE_FILE: &str = "reserve";
/// Name of the index.
pub(crate) const INDEX_FILE: &str = "index.redb";

/// Records start at multiples of this, so that a scan which lost its place finds the next one quickly.
pub(crate) const ALIGN: u64 = 64;
pub(crate) const SUPERBLOCK_BYTES: usize = 64;
pub(crate) const PACK_HEADER_BYTES: usize = 128;
pub(crate) const RECORD_HEADER_BYTES: usize = 128;
/// A stripe and an index.
pub(crate) const SHARD_ID_BYTES: usize = 33;
/// The longest record.
pub(crate) const RECORD_BYTES_MAX: u64 =
    ((RECORD_HEADER_BYTES + limits::DESCRIPTOR_BYTES_MAX + limits::SHARD_BYTES_MAX) as u64).next_multiple_of(ALIGN);

const _: () = assert!((limits::DESCRIPTOR_BYTES_MAX as u64).is_multiple_of(ALIGN));

const _: () = assert!((PACK_HEADER_BYTES as u64).is_multiple_of(ALIGN));
const _: () = assert!((RECORD_HEADER_BYTES as u64).is_multiple_of(ALIGN));
const _: () = assert!(limits::STORE_TOMBSTONES_PER_RECORD_MAX * SHARD_ID_BYTES < RECORD_BYTES_MAX as usize);
const _: () = assert!(limits::STORE_PACK_BYTES + RECORD_BYTES_MAX < u32::MAX as u64);

const SUPERBLOCK_MAGIC: [u8; 8] = *b"PTLKSTOR";
const PACK_MAGIC: [u8; 8] = *b"PTLKPACK";
pub(crate) const RECORD_MAGIC: [u8; 4] = *b"PLr1";
/// More groups than there will ever be: one a nanosecond takes centuries to get there.
const GROUP_MAX: u64 = u64::MAX / 2;
const KIND_PUT: u8 = 1;
const KIND_TOMBSTONE: u8 = 2;
pub(crate) const CHECK_BYTES: usize = 16;

/// The number of a pack: they are written in this order, and replayed in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PackId(pub u32);

impl PackId {
    pub(crate) fn file_name(self) -> String {
        format!("{:010}.pack", self.0)
    }

    pub(crate) fn from_file_name(name: &str) -> Option<Self> {
        let id = Self(name.strip_suffix(".pack")?.parse().ok()?);
        (id.file_name() == name).then_some(id)
    }

    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The secret that tells records of this store from bytes that look like some.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoreKey(pub(crate) [u8; 32]);

pub(crate) fn encode_superblock(key: StoreKey) -> [u8; SUPERBLOCK_BYTES] {
    let mut bytes = [0; SUPERBLOCK_BYTES];
    put(&mut bytes, 0, &SUPERBLOCK_MAGIC);
    put(&mut bytes, 8, &FORMAT_VERSION.to_le_bytes());
    put(&mut bytes, 16, &key.0);
    seal_plain(&mut bytes);
    bytes
}

pub(crate) fn decode_superblock(bytes: &[u8; SUPERBLOCK_BYTES]) -> Result<StoreKey, FormatError> {
    check_plain(bytes, SUPERBLOCK_MAGIC)?;
    Ok(StoreKey(take(bytes, 16)))
}

/// The first bytes of a pack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackHeader {
    pub(crate) id: PackId,
    /// The pack that was written before, and how much of it counts: what lies behind was never acknowledged.
    /// `PackId(0)` when this is the first.
    pub(crate) previous: PackId,
    pub(crate) previous_len: u64,
    pub(crate) created_at: Timestamp,
    pub(crate) key: StoreKey,
}

impl PackHeader {
    pub(crate) fn encode(&self) -> [u8; PACK_HEADER_BYTES] {
        let mut bytes = [0; PACK_HEADER_BYTES];
        put(&mut bytes, 0, &PACK_MAGIC);
        put(&mut bytes, 8, &FORMAT_VERSION.to_le_bytes());
        put(&mut bytes, 12, &self.id.0.to_le_bytes());
        put(&mut bytes, 16, &self.previous.0.to_le_bytes());
        put(&mut bytes, 24, &self.previous_len.to_le_bytes());
        put(&mut bytes, 32, &self.created_at.as_millis().to_le_bytes());
        put(&mut bytes, 40, &self.key.0);
        seal_plain(&mut bytes);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; PACK_HEADER_BYTES]) -> Result<Self, FormatError> {
        check_plain(bytes, PACK_MAGIC)?;
        Ok(Self {
            id: PackId(u32::from_le_bytes(take(bytes, 12))),
            previous: PackId(u32::from_le_bytes(take(bytes, 16))),
            previous_len: u64::from_le_bytes(take(bytes, 24)),
            created_at: Timestamp::from_millis(u64::from_le_bytes(take(bytes, 32))),
            key: StoreKey(take(bytes, 40)),
        })
    }
}

/// What a record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RecordKind {
    Put(PutHeader),
    /// This many shards are gone; `check` is of the body that lists them.
    Tombstone {
        count: u32,
        check: [u8; CHECK_BYTES],
    },
}

/// What stands before a shard's descriptor and payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PutHeader {
    pub(crate) id: ShardId,
    pub(crate) space: SpaceId,
    pub(crate) stored_at: Timestamp,
    pub(crate) descriptor_len: u16,
    pub(crate) payload_len: u32,
}

/// The fixed head of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RecordHeader {
    /// The group that the record was committed with: group *g* + 1 is written only after group *g* was synced.
    pub(crate) group: u64,
    pub(crate) kind: RecordKind,
}

/// Where a record stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Place {
    pub(crate) pack: PackId,
    pub(crate) offset: u64,
}

impl RecordHeader {
    /// Length of the whole record, padding included.
    pub(crate) fn record_len(&self) -> u64 {
        match self.kind {
            RecordKind::Put(put) => put_record_len(put.descriptor_len, put.payload_len),
            RecordKind::Tombstone { count, .. } => tombstone_record_len(count as usize),
        }
    }

    pub(crate) fn encode(&self, key: &StoreKey, place: Place) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        put(&mut bytes, 0, &RECORD_MAGIC);
        put(&mut bytes, 16, &self.group.to_le_bytes());
        match &self.kind {
            RecordKind::Put(header) => {
                put(&mut bytes, 4, &[KIND_PUT, header.id.index]);
                put(&mut bytes, 6, &header.descriptor_len.to_le_bytes());
                put(&mut bytes, 8, &header.payload_len.to_le_bytes());
                put(&mut bytes, 24, &header.stored_at.as_millis().to_le_bytes());
                put(&mut bytes, 32, header.id.stripe.as_bytes());
                put(&mut bytes, 64, header.space.as_bytes());
            }
            RecordKind::Tombstone { count, check } => {
                put(&mut bytes, 4, &[KIND_TOMBSTONE]);
                put(&mut bytes, 8, &count.to_le_bytes());
                put(&mut bytes, 96, check);
            }
        }
        let seal = seal_keyed(key, place, &bytes[..RECORD_HEADER_BYTES - CHECK_BYTES]);
        put(&mut bytes, RECORD_HEADER_BYTES - CHECK_BYTES, &seal);
        bytes
    }

    /// The header that these bytes are, if they are one, of this store, written for this very place.
    pub(crate) fn decode(bytes: &[u8], key: &StoreKey, place: Place) -> Option<Self> {
        let bytes: &[u8; RECORD_HEADER_BYTES] = bytes.get(..RECORD_HEADER_BYTES)?.try_into().ok()?;
        let (sealed, seal) = bytes.split_at(RECORD_HEADER_BYTES - CHECK_BYTES);
        if sealed[..4] != RECORD_MAGIC || seal_keyed(key, place, sealed) != seal {
            return None;
        }
        let kind = match bytes[4] {
            KIND_PUT => RecordKind::Put(PutHeader {
                id: ShardId {
                    stripe: StripeId::from_bytes(take(bytes, 32)),
                    index: bytes[5],
                },
                space: SpaceId::from_bytes(take(bytes, 64)),
                stored_at: Timestamp::from_millis(u64::from_le_bytes(take(bytes, 24))),
                descriptor_len: u16::from_le_bytes(take(bytes, 6)),
                payload_len: u32::from_le_bytes(take(bytes, 8)),
            }),
            KIND_TOMBSTONE => RecordKind::Tombstone {
                count: u32::from_le_bytes(take(bytes, 8)),
                check: take(bytes, 96),
            },
            _ => return None,
        };
        let group = u64::from_le_bytes(take(bytes, 16));
        let header = Self { group, kind };
        (group <= GROUP_MAX && header.record_len() <= RECORD_BYTES_MAX).then_some(header)
    }
}

/// Length of a put with its padding.
pub(crate) fn put_record_len(descriptor_len: u16, payload_len: u32) -> u64 {
    (RECORD_HEADER_BYTES as u64 + payload_start(descriptor_len) + u64::from(payload_len)).next_multiple_of(ALIGN)
}

/// Where the payload starts behind the header. Aligned, because some processors copy to other places three times
/// slower.
pub(crate) fn payload_start(descriptor_len: u16) -> u64 {
    u64::from(descriptor_len).next_multiple_of(ALIGN)
}

/// Length of a tombstone record for this many shards, with its padding.
pub(crate) fn tombstone_record_len(count: usize) -> u64 {
    ((RECORD_HEADER_BYTES + count * SHARD_ID_BYTES) as u64).next_multiple_of(ALIGN)
}

/// A whole tombstone record, padding included.
pub(crate) fn encode_tombstone(ids: &[ShardId], group: u64, key: &StoreKey, place: Place) -> Vec<u8> {
    let body: Vec<u8> = ids.iter().flat_map(shard_id_bytes).collect();
    let header = RecordHeader {
        group,
        kind: RecordKind::Tombstone {
            count: u32::try_from(ids.len()).expect("a record lists few shards"),
            check: seal_keyed(key, place, &body),
        },
    };
    let mut record = header.encode(key, place).to_vec();
    record.extend_from_slice(&body);
    record.resize(record.len().next_multiple_of(ALIGN as usize), 0);
    record
}

/// The shards that a tombstone's body lists, if the body is whole.
pub(crate) fn decode_tombstone(
    body: &[u8],
    check: [u8; CHECK_BYTES],
    key: &StoreKey,
    place: Place,
) -> Option<Vec<ShardId>> {
    if seal_keyed(key, place, body) != check {
        return None;
    }
    body.chunks(SHARD_ID_BYTES)
        .map(|bytes| Some(shard_id_from(bytes.try_into().ok()?)))
        .collect()
}

pub(crate) fn shard_id_bytes(id: &ShardId) -> [u8; SHARD_ID_BYTES] {
    let mut bytes = [id.index; SHARD_ID_BYTES];
    put(&mut bytes, 0, id.stripe.as_bytes());
    bytes
}

pub(crate) fn shard_id_from(bytes: &[u8; SHARD_ID_BYTES]) -> ShardId {
    ShardId {
        stripe: StripeId::from_bytes(take(bytes, 0)),
        index: bytes[SHARD_ID_BYTES - 1],
    }
}

/// Copies `value` to `bytes[at..]`.
pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// The `N` bytes from `at` on.
pub(crate) fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&bytes[at..at + N]);
    value
}

pub(crate) fn seal_keyed(key: &StoreKey, place: Place, bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let mut hasher = blake3::Hasher::new_keyed(&key.0);
    hasher.update(&place.pack.0.to_le_bytes());
    hasher.update(&place.offset.to_le_bytes());
    hasher.update(bytes);
    take(hasher.finalize().as_bytes(), 0)
}

/// Ends the block with the hash of what is before.
fn seal_plain(bytes: &mut [u8]) {
    let (sealed, seal) = bytes.split_at_mut(bytes.len() - CHECK_BYTES);
    seal.copy_from_slice(&Hash::of(sealed).as_bytes()[..CHECK_BYTES]);
}

/// The version is looked at first: a newer format may keep its checksum elsewhere.
fn check_plain(bytes: &[u8], magic: [u8; 8]) -> Result<(), FormatError> {
    if bytes[..8] != magic {
        return Err(FormatError::Unreadable);
    }
    let found = u32::from_le_bytes(take(bytes, 8));
    let (sealed, seal) = bytes.split_at(bytes.len() - CHECK_BYTES);
    let whole = Hash::of(sealed).as_bytes()[..CHECK_BYTES] == *seal;
    match found {
        FORMAT_VERSION if whole => Ok(()),
        newer if newer > FORMAT_VERSION && newer < 1 << 16 => Err(FormatError::Newer { found }),
        _ => Err(FormatError::Unreadable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fuzzer wrote one, and the number of the next group overflowed when the store was opened.
    #[test]
    fn a_group_that_none_can_follow_makes_no_record() {
        let (key, place) = (StoreKey([1; 32]), Place::default());
        let decoded = |group| {
            let kind = RecordKind::Tombstone {
                count: 0,
                check: [0; CHECK_BYTES],
            };
            RecordHeader::decode(&RecordHeader { group, kind }.encode(&key, place), &key, place)
        };
        assert!(decoded(GROUP_MAX).is_some());
        assert!(decoded(GROUP_MAX + 1).is_none() && decoded(u64::MAX).is_none());
    }
}
