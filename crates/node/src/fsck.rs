//! A check of a home that no node runs on: that keys, records, names and shards are there, and are what they should be; and the repair of what can be
//! repaired from the rest.
//!
//! - `files`: the files of the home, with keys and permissions.
//! - `records`: the metadata database itself, and all in it that belongs to no space.
//! - `logs`: the logs of spaces, and the tables that follow from them.
//! - `shards`: the store.
//!
//! **Invariant:** a check changes nothing on disk: database and store are opened over a [`potluck_store::Overlay`], which keeps what opening them does in memory.
//! **Invariant:** a repair deletes nothing that may be the only copy of something: it goes to `lost+found` in the home.

mod files;
mod logs;
mod records;
mod shards;

use crate::{
    error::HomeError,
    home::{Home, LOCK_PATIENCE},
};
use potluck_crypto::{Passphrase, SigningKey, UserKeys};
use potluck_store::Store;
use potluck_types::ByteSize;
use serde::Serialize;
use std::{collections::BTreeSet, fs, path::Path};

/// How a home is checked.
#[derive(Clone, Debug, Default)]
pub struct FsckOptions {
    /// Whether what can be repaired is.
    pub repair: bool,
    /// Names of files and folders that the caller keeps in the home, beside those of the node.
    pub others: BTreeSet<String>,
    /// What opens the keys, where they are under a passphrase.
    pub passphrase: Option<Passphrase>,
}

/// How far a check is.
#[derive(Clone, Copy, Debug)]
pub struct FsckProgress {
    /// What is being checked.
    pub doing: &'static str,
    /// Bytes read.
    pub bytes: ByteSize,
    /// Bytes that there are to read.
    pub total: ByteSize,
}

/// What a check looked at, and what it found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FsckReport {
    /// What is wrong, or was until now.
    pub findings: Vec<Finding>,
    /// Records of the pool.
    pub records: u64,
    /// Entries of logs.
    pub entries: u64,
    /// Spaces whose names were taken from a checkpoint, and whose logs before that are not all here yet: neither their logs nor their names are checked.
    pub unfilled: u64,
    /// Shards.
    pub shards: u64,
    /// Bytes read of them.
    pub bytes: ByteSize,
}

impl FsckReport {
    /// What is still wrong.
    pub fn wrong(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| !finding.is_repaired)
    }
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// Where: a file of the home, and perhaps a part of it.
    pub place: String,
    /// What.
    pub fault: Fault,
    /// Whether it was put right.
    pub is_repaired: bool,
}

impl Finding {
    fn new(place: impl Into<String>, fault: Fault) -> Self {
        Self {
            place: place.into(),
            fault,
            is_repaired: false,
        }
    }
}

/// What can be wrong with a home.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// A file cannot be done without, and is not there.
    #[error("it is missing")]
    Missing,
    /// Others may read what only its owner should.
    #[error("other users of this machine can read it")]
    Exposed,
    /// A key lies in the open that is under a passphrase, too.
    #[error("it lies in the open, and the keys of this home are under a passphrase")]
    Bare,
    /// A key file holds something else.
    #[error("it is no key that this program wrote")]
    NotAKey,
    /// The operating system refuses.
    #[error("it cannot be read: {reason}")]
    Unreadable {
        /// What it says.
        reason: String,
    },
    /// The file that names the pool is missing, or names another.
    #[error("it does not name the pool of the records")]
    OtherPool,
    /// The room that removals need on a full disk is not set aside.
    #[error("the room that removals need on a full disk is not set aside")]
    NoReserve,
    /// A file was being written when the machine stopped.
    #[error("it was being written when the machine stopped")]
    LeftOver,
    /// A file that no node makes.
    #[error("it is no file of a node")]
    Strange,
    /// The database does not open, or contradicts itself.
    #[error("the database is damaged: {reason}")]
    Database {
        /// In which way.
        reason: String,
    },
    /// The database opens, and a part of it is not what was written.
    #[error("the database is damaged: the sums of its pages do not hold")]
    Sums,
    /// There is no database any more.
    #[error("it is missing, with all names and all that this machine knows of the pool")]
    NoDatabase,
    /// The pool's first record is missing or wrong.
    #[error("the pool's first record is missing or wrong")]
    NoGenesis,
    /// Its records do not make this node a member.
    #[error("by its records this node is no member of the pool")]
    NotAMember,
    /// The node belongs to another person than the key.
    #[error("the pool knows this node as another person's")]
    OtherUser,
    /// Rows that are no values of their table.
    #[error("rows that make no sense: {count}")]
    Rows {
        /// How many.
        count: u64,
    },
    /// A log breaks off.
    #[error("entry {seq} is missing or wrong, and nothing vouches for those behind it")]
    BrokenLog {
        /// The first entry that is not what it should be.
        seq: u64,
        /// Whether other nodes keep this log, and no file of this node's person is in it.
        is_others: bool,
    },
    /// Entries that do not open with the person's key.
    #[error("entries that do not open with the person's key: {count}")]
    Sealed {
        /// How many.
        count: u64,
    },
    /// Records of a space's charter that cannot be read, or rest on such.
    #[error("records of the space's charter that cannot be read: {count}")]
    Charter {
        /// How many.
        count: u64,
    },
    /// Tables that should follow from the logs do not.
    #[error("rows that do not follow from the logs: {count}")]
    Tables {
        /// How many are missing, different or too many.
        count: u64,
        /// Whether the logs that they should follow from are whole.
        is_derivable: bool,
    },
    /// The store does not open: it is of a later version, or nothing tells its key.
    #[error("the store does not open: {reason}")]
    Store {
        /// Why.
        reason: String,
    },
    /// The folder of the shards is not there.
    #[error("it is missing, with all shards of this node")]
    NoStore,
    /// The superblock of the store is missing or damaged.
    #[error("it is missing or damaged")]
    Superblock,
    /// The index is missing or damaged, or disagrees with the packs.
    #[error("it does not say what the packs hold")]
    Index,
    /// Packs begin with something else than their header.
    #[error("damaged headers of packs, without which the index could not be made anew")]
    PackHeaders,
    /// Shards are not what they should be.
    #[error("damaged or missing shards: {count}")]
    Shards {
        /// How many.
        count: u64,
    },
    /// Packs are gone, with all that was in them.
    #[error("missing packs: {count}")]
    Packs {
        /// How many.
        count: u64,
    },
}

const FROM_OTHERS: &str = "the pool makes them anew";
const COME_BACK: &str = "where the pool has other machines, this one comes back as it was, with its shards: `potluck join TICKET` here, with a ticket that `potluck device add` makes on another one of yours, or `potluck invite` on another person's; else restore it from a backup";
const RESTORE: &str = "restore it from a backup; with a recovery kit: `potluck keys restore FILE --home NEW`";

impl Fault {
    /// What a repair does about it; nothing when it can do nothing.
    pub fn repair(&self) -> Option<&'static str> {
        match self {
            Self::Exposed => Some("takes the right to read it from others"),
            Self::Bare => Some("removes it"),
            Self::OtherPool => Some("writes it anew"),
            Self::NoReserve => Some("sets it aside, if the disk has it"),
            Self::LeftOver => Some("removes it, or moves it to lost+found if it may be the only copy"),
            Self::Strange | Self::Database { .. } => Some("moves it to lost+found"),
            Self::Rows { .. } => Some("moves them to lost+found; what is needed of them is learned anew"),
            Self::BrokenLog { is_others: true, .. } => Some("moves them to lost+found; they are fetched anew"),
            Self::Tables { is_derivable: true, .. } => Some("makes the tables anew from the logs"),
            Self::Superblock => Some("writes it anew from a pack"),
            Self::Index => Some("makes it anew from the packs"),
            Self::PackHeaders => Some("writes them anew"),
            Self::Shards { .. } | Self::Packs { .. } => {
                Some("stores anew what is whole of them, and gives up the rest")
            }
            _ => None,
        }
    }

    /// What a person should know, or do, beside the repair.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Missing | Self::NotAKey | Self::OtherUser => Some(RESTORE),
            Self::Database { .. } | Self::NoDatabase | Self::NoGenesis => Some(COME_BACK),
            Self::Sums => Some(
                "it may do for a while: make a backup of it; where the pool has other machines, move it away, and come back with a ticket of theirs: `potluck join TICKET`",
            ),
            Self::Exposed | Self::Bare => Some("whoever read a key can act as you"),
            Self::Unreadable { .. } => Some("does the disk fail? Copy what can be read to another one first"),
            Self::NotAMember => {
                Some("to come back, join with a ticket in a new home: `potluck join TICKET --home NEW`")
            }
            Self::BrokenLog { is_others: false, .. }
            | Self::Sealed { .. }
            | Self::Tables {
                is_derivable: false, ..
            } => Some(
                "names may be missing here; where the pool has other machines, move meta.redb away, and come back with a ticket of theirs: `potluck device add` there, `potluck join TICKET` here",
            ),
            Self::Charter { .. } => {
                Some("others that keep the space have them: they are fetched anew when the node runs")
            }
            Self::Shards { .. } | Self::Packs { .. } => Some(FROM_OTHERS),
            Self::NoStore => Some(
                "put it back if it was moved; else `potluck up` begins with an empty one, and the pool makes its shards anew",
            ),
            Self::Store { .. } => Some(
                "update the program if it is older than the store; else move HOME/store away: the others of the pool make its shards anew",
            ),
            _ => None,
        }
    }
}

/// What the parts of a check share.
struct Check<'c, P> {
    path: &'c Path,
    options: &'c FsckOptions,
    report: FsckReport,
    at: FsckProgress,
    progress: P,
}

/// What the files of a home tell of who lives there.
#[derive(Default)]
struct Inhabitant {
    node: Option<SigningKey>,
    user: Option<UserKeys>,
}

/// Checks a home that no node runs on, and repairs what can be, if that is asked for.
pub fn fsck(path: &Path, options: &FsckOptions, progress: impl FnMut(FsckProgress)) -> Result<FsckReport, HomeError> {
    let home = Home::look_within(path, LOCK_PATIENCE)?;
    // Somebody may have removed the lock from under a node that runs.
    if Store::is_in_use(&home.store_path()) {
        return Err(HomeError::Locked { home: path.to_owned() });
    }
    let total = packs_len(path) + fs::metadata(home.meta_path()).map_or(0, |found| found.len());
    let mut check = Check {
        path,
        options,
        report: FsckReport::default(),
        at: FsckProgress {
            doing: "files",
            bytes: ByteSize(0),
            total: ByteSize(total),
        },
        progress,
    };
    let inhabitant = check.files(&home)?;
    if let Some(pool) = check.metadata(&home, &inhabitant)? {
        check.pool(&home, pool);
    }
    check.store(&home)?;
    Ok(check.report)
}

fn packs_len(path: &Path) -> u64 {
    let files = fs::read_dir(path.join("store")).into_iter().flatten().flatten();
    files
        .filter(|file| file.path().extension().is_some_and(|extension| extension == "pack"))
        .filter_map(|file| Some(file.metadata().ok()?.len()))
        .sum()
}
