//! Doors for the fuzzer: decoders that no other crate sees. Only there when it builds.

use crate::{
    disk::DiskFile,
    format::{
        ALIGN, CHECK_BYTES, PACK_HEADER_BYTES, PackHeader, PackId, Place, PutHeader, RECORD_HEADER_BYTES, RECORD_MAGIC,
        RecordHeader, RecordKind, SUPERBLOCK_BYTES, StoreKey, decode_superblock, encode_tombstone, payload_start,
        seal_keyed,
    },
    scan::{Scanned, Scanner, read_descriptor, read_tombstone, read_verified},
};
use potluck_types::{Shard, SpaceId, Timestamp};
use std::io;

struct Bytes(Vec<u8>);

impl DiskFile for Bytes {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let to = from.saturating_add(buffer.len());
        buffer.copy_from_slice(self.0.get(from..to).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, _: &[&[u8]], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn try_lock(&self) -> io::Result<bool> {
        Ok(true)
    }
}

/// Records of a pack. Bytes that begin like a record get the seal of one, so that what is behind the seal is tried, too. Gives the number of
/// shards that are whole.
pub fn pack(bytes: &[u8]) -> usize {
    let (key, pack) = (StoreKey([7; 32]), PackId(1));
    let mut bytes = bytes.to_vec();
    let mut at = 0;
    while at + RECORD_HEADER_BYTES <= bytes.len() {
        let (sealed, seal) = bytes[at..at + RECORD_HEADER_BYTES].split_at_mut(RECORD_HEADER_BYTES - CHECK_BYTES);
        if sealed.starts_with(&RECORD_MAGIC) {
            let offset = at as u64;
            seal.copy_from_slice(&seal_keyed(&key, Place { pack, offset }, sealed));
        }
        at += ALIGN as usize;
    }
    let end = bytes.len() as u64;
    let file = Bytes(bytes);
    let (mut whole, mut reached) = (0, 0);
    let mut scanner = Scanner {
        file: &file,
        key: &key,
        pack,
        offset: 0,
        end,
    };
    while let Some(found) = scanner.next() {
        match found {
            Scanned::Record { offset, header } => {
                assert_eq!(offset, reached);
                reached = offset + header.record_len();
                match header.kind {
                    RecordKind::Put(put) => {
                        let is_described = read_descriptor(&file, offset, &put).is_ok();
                        let is_whole = read_verified(&file, offset, &put).is_ok();
                        assert!(is_described || !is_whole);
                        whole += usize::from(is_whole);
                    }
                    RecordKind::Tombstone { .. } => {
                        let _ = read_tombstone(&file, &key, Place { pack, offset }, &header);
                    }
                }
            }
            Scanned::Gap { from, to, .. } => {
                assert_eq!(from, reached);
                reached = to;
            }
        }
    }
    assert!(reached >= end);
    whole
}

/// What stands at the start of a store and of a pack.
pub fn heads(bytes: &[u8]) {
    if let Some(bytes) = bytes.first_chunk::<SUPERBLOCK_BYTES>() {
        let _ = decode_superblock(bytes);
    }
    if let Some(bytes) = bytes.first_chunk::<PACK_HEADER_BYTES>() {
        let _ = PackHeader::decode(bytes);
    }
}

/// A pack of one shard, and of a record that says it is gone: for the fuzzer to begin from.
pub fn pack_of(shard: &Shard) -> Vec<u8> {
    let (key, pack) = (StoreKey([7; 32]), PackId(1));
    let descriptor = shard.descriptor().to_bytes();
    let put = PutHeader {
        id: shard.id(),
        space: SpaceId::from_bytes([1; 32]),
        stored_at: Timestamp::from_millis(1),
        descriptor_len: u16::try_from(descriptor.len()).expect("a descriptor is short"),
        payload_len: u32::try_from(shard.payload().len()).expect("a shard is short"),
    };
    let header = RecordHeader {
        group: 1,
        kind: RecordKind::Put(put),
    };
    let mut bytes = header.encode(&key, Place { pack, offset: 0 }).to_vec();
    bytes.extend_from_slice(&descriptor);
    bytes.resize(RECORD_HEADER_BYTES + payload_start(put.descriptor_len) as usize, 0);
    bytes.extend_from_slice(shard.payload());
    bytes.resize(header.record_len() as usize, 0);
    let offset = bytes.len() as u64;
    bytes.extend(encode_tombstone(&[shard.id()], 2, &key, Place { pack, offset }));
    bytes
}
