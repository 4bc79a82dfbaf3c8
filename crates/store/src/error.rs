//! What can go wrong, one enum for each operation.

use crate::format::FORMAT_VERSION;
use potluck_types::{ByteSize, ShardError, ShardId};
use std::{io, sync::Arc};

/// A file operation that the disk refused.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot {operation} `{file}`: {source}")]
pub struct DiskError {
    /// What was tried: "read", "sync".
    pub operation: &'static str,
    /// On which file of the store.
    pub file: String,
    /// What the disk said.
    #[source]
    pub source: Arc<io::Error>,
}

/// Whether an error says that the bytes themselves are gone: the medium cannot read them, or the file is not there or ends before them. Others say nothing of the
/// bytes: that too many files are open, say.
pub(crate) fn tells_of_damage(error: &io::Error) -> bool {
    const OF_THE_MEDIUM: [rustix::io::Errno; 3] = [
        rustix::io::Errno::IO,
        rustix::io::Errno::BADMSG,
        rustix::io::Errno::UCLEAN,
    ];
    let is_of_the_medium = |code| OF_THE_MEDIUM.iter().any(|errno| errno.raw_os_error() == code);
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound)
        || error.raw_os_error().is_some_and(is_of_the_medium)
}

impl DiskError {
    /// Whether it says that what was to be read is gone.
    pub(crate) fn tells_of_damage(&self) -> bool {
        tells_of_damage(&self.source)
    }

    /// Whether the disk has no room left.
    pub fn is_full(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }

    pub(crate) fn at(operation: &'static str, file: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let file = file.into();
        move |source| Self {
            operation,
            file,
            source: Arc::new(source),
        }
    }
}

/// Why the index could not answer. No shard is lost by it: the index is made anew from the packs when the store is opened.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// The database refused.
    #[error("the index cannot be used: {0}")]
    Database(#[source] Arc<redb::Error>),
    /// The database's own bytes contradict each other.
    #[error("the index is corrupt; it is rebuilt when the store is next opened")]
    Corrupt,
}

impl<E: Into<redb::Error>> From<E> for IndexError {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::Corrupted(_) => Self::Corrupt,
            error => Self::Database(Arc::new(error)),
        }
    }
}

/// Why a fixed block of the store is not readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Written by a later version of the program.
    #[error("format {found} is newer than {FORMAT_VERSION}, the newest that this version reads")]
    Newer {
        /// The format found.
        found: u32,
    },
    /// Not one of ours, or damaged.
    #[error("not a block of this store, or damaged")]
    Unreadable,
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it open.
    #[error("the store is in use by another process")]
    Locked,
    /// Written by a later version of the program: nothing was touched.
    #[error("the store has format {found}, and this version reads up to {FORMAT_VERSION}: update the program")]
    NewerFormat {
        /// The format found.
        found: u32,
    },
    /// Neither the superblock nor any pack tells the store's key.
    #[error("no readable superblock, although there are packs: restore the file `STORE` from a backup")]
    NoKey,
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A fresh index could not be made.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Why a shard was not stored.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PutError {
    /// The quota is used up.
    #[error("the store is full: {used} of {capacity} are used")]
    Full {
        /// What the store may use.
        capacity: ByteSize,
        /// What it uses, deleted shards that were not yet compacted included.
        used: ByteSize,
    },
    /// As much as may wait for the disk is waiting.
    #[error("the disk is behind: {waiting} wait to be written")]
    Busy {
        /// How much waits.
        waiting: ByteSize,
    },
    /// The disk refused. Whether the shard is stored is unknown; it was not acknowledged.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The index refused.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// Why shards were not deleted, or dead space not freed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// The disk refused. Whether the change was made is unknown.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The index refused.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// Compaction has no room for the live shards that it must copy.
    #[error("no room to compact: {needed} are needed, {free} are free")]
    NoRoom {
        /// What would be copied.
        needed: ByteSize,
        /// What the quota leaves.
        free: ByteSize,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

impl ChangeError {
    pub(crate) fn is_disk_full(&self) -> bool {
        matches!(self, Self::Disk(error) if error.is_full())
    }
}

impl From<ChangeError> for PutError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Disk(error) => Self::Disk(error),
            ChangeError::Index(error) => Self::Index(error),
            ChangeError::NoRoom { needed, free } => Self::Full {
                capacity: free,
                used: needed,
            },
            ChangeError::Closed => Self::Closed,
        }
    }
}

/// Why a shard could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GetError {
    /// What is stored is not the shard. It is no longer listed, so that it will be repaired.
    #[error("shard {} of stripe {} is damaged on this disk", id.index, id.stripe)]
    Damaged {
        /// The shard.
        id: ShardId,
        /// How it fails its check.
        #[source]
        source: Option<ShardError>,
    },
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The index refused.
    #[error(transparent)]
    Index(#[from] IndexError),
}
