//! Reads a pack record by record, and finds its place again behind damage.

use crate::{
    disk::DiskFile,
    format::{
        ALIGN, PackId, Place, PutHeader, RECORD_HEADER_BYTES, RECORD_MAGIC, RecordHeader, RecordKind, StoreKey,
        decode_tombstone,
    },
};
use bytes::Bytes;
use potluck_types::{Descriptor, Shard, ShardError, ShardId, UnverifiedShard};
use std::io;

/// How much is read at once to find the next record.
const WINDOW_BYTES: usize = 64 << 10;

/// A stretch of a pack, from record to record.
pub(crate) struct Scanner<'a> {
    pub(crate) file: &'a dyn DiskFile,
    pub(crate) key: &'a StoreKey,
    pub(crate) pack: PackId,
    /// Where the next record is expected.
    pub(crate) offset: u64,
    /// Where the pack ends.
    pub(crate) end: u64,
}

/// What a scan finds.
#[derive(Debug)]
pub(crate) enum Scanned {
    /// A record with a sound header that lies within the pack; its body was not looked at.
    Record { offset: u64, header: RecordHeader },
    /// No record starts in here.
    Gap { from: u64, to: u64, unreadable: bool },
}

impl Scanner<'_> {
    /// The next record or gap; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<Scanned> {
        if self.offset >= self.end {
            return None;
        }
        let from = self.offset;
        let mut unreadable = false;
        match self.header_at(from) {
            Ok(Some(header)) => {
                self.offset += header.record_len();
                return Some(Scanned::Record { offset: from, header });
            }
            Ok(None) => {}
            Err(_) => unreadable = true,
        }
        self.offset = self.resynchronise(from + ALIGN, &mut unreadable);
        Some(Scanned::Gap {
            from,
            to: self.offset,
            unreadable,
        })
    }

    fn header_at(&self, offset: u64) -> io::Result<Option<RecordHeader>> {
        if offset + RECORD_HEADER_BYTES as u64 > self.end {
            return Ok(None);
        }
        let mut bytes = [0; RECORD_HEADER_BYTES];
        self.file.read_at(&mut bytes, offset)?;
        let place = Place {
            pack: self.pack,
            offset,
        };
        Ok(RecordHeader::decode(&bytes, self.key, place).filter(|header| offset + header.record_len() <= self.end))
    }

    /// The first place from `from` on where a record starts, or the end.
    fn resynchronise(&self, from: u64, unreadable: &mut bool) -> u64 {
        let mut window = vec![0; WINDOW_BYTES];
        let mut offset = from;
        while offset < self.end {
            let len = (self.end - offset).min(WINDOW_BYTES as u64) as usize;
            if self.file.read_at(&mut window[..len], offset).is_err() {
                *unreadable = true;
                // The records in this window that can be read are found one by one.
                window[..len].fill(0);
                for step in (0..len).step_by(ALIGN as usize) {
                    let _ = self
                        .file
                        .read_at(&mut window[step..(step + 4).min(len)], offset + step as u64);
                }
            }
            for step in (0..len).step_by(ALIGN as usize) {
                let here = offset + step as u64;
                if window[step..len].starts_with(&RECORD_MAGIC) && matches!(self.header_at(here), Ok(Some(_))) {
                    return here;
                }
            }
            offset += len as u64;
        }
        self.end
    }
}

/// Why a record's body cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("it cannot be read")]
    Io(#[source] io::Error),
    #[error(transparent)]
    Shard(ShardError),
}

/// Reads a shard, as it lies there.
pub(crate) fn read_shard(
    file: &dyn DiskFile,
    offset: u64,
    id: &ShardId,
    descriptor_len: u16,
    payload_len: u32,
) -> io::Result<UnverifiedShard> {
    let start = crate::format::payload_start(descriptor_len) as usize;
    let mut body = vec![0; start + payload_len as usize];
    file.read_at(&mut body, offset + RECORD_HEADER_BYTES as u64)?;
    let mut descriptor = Bytes::from(body);
    let payload = descriptor.split_off(start);
    descriptor.truncate(descriptor_len.into());
    Ok(UnverifiedShard {
        descriptor,
        index: id.index,
        payload,
    })
}

/// Reads a shard and checks it.
pub(crate) fn read_verified(file: &dyn DiskFile, offset: u64, put: &PutHeader) -> Result<Shard, BodyError> {
    read_shard(file, offset, &put.id, put.descriptor_len, put.payload_len)
        .map_err(BodyError::Io)?
        .verify(put.id.stripe)
        .map_err(BodyError::Shard)
}

/// Reads only the descriptor of a shard, and checks that.
pub(crate) fn read_descriptor(file: &dyn DiskFile, offset: u64, put: &PutHeader) -> Result<Descriptor, BodyError> {
    let mut bytes = vec![0; put.descriptor_len.into()];
    file.read_at(&mut bytes, offset + RECORD_HEADER_BYTES as u64)
        .map_err(BodyError::Io)?;
    let descriptor = Descriptor::from_bytes(&bytes).map_err(BodyError::Shard)?;
    if descriptor.id() == put.id.stripe {
        Ok(descriptor)
    } else {
        Err(BodyError::Shard(ShardError::OtherStripe {
            expected: put.id.stripe,
            found: descriptor.id(),
        }))
    }
}

/// Reads the list of a tombstone record; `None` when it is damaged.
pub(crate) fn read_tombstone(
    file: &dyn DiskFile,
    key: &StoreKey,
    place: Place,
    header: &RecordHeader,
) -> io::Result<Option<Vec<ShardId>>> {
    let RecordKind::Tombstone { count, check } = header.kind else {
        return Ok(None);
    };
    let mut body = vec![0; count as usize * crate::format::SHARD_ID_BYTES];
    file.read_at(&mut body, place.offset + RECORD_HEADER_BYTES as u64)?;
    Ok(decode_tombstone(&body, check, key, place))
}
