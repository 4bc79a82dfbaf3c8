//! What commands ask of the daemon, and what it answers: JSON.

use crate::place::ByteRange;
use potluck_node::{
    Access, Entry, ExplainOptions, FileMeta, Identity, InviteOptions, LinkOptions, PutOptions, PutReport,
    RemoveOptions, RestoreOptions, Settling, SpaceOptions, Which,
};
use potluck_spaces::{Name, Path};
use potluck_types::{ByteSize, NodeId, SpaceName, Timestamp, UserId, UserName};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, time::Duration};

/// Names in one page of a listing. A name of 255 bytes is six times that in JSON at worst, so a page has
/// half a MiB at most.
pub(crate) const PAGE_ENTRIES_MAX: usize = 256;
/// A file up to this is taken in whole before it is put; a longer one streams.
pub(crate) const SMALL_FILE_BYTES_MAX: u64 = 256 << 10;

const _: () = assert!(PAGE_ENTRIES_MAX * (255 * 6 + 256) + 6 * 4096 < super::frame::PAYLOAD_BYTES_MAX);

/// What a command wants: the first frame of a connection.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    /// Who are you? Reply: [`About`].
    About,
    /// Reply: `Status`.
    Status,
    /// Reply: `Invitation`.
    Invite {
        /// What kind.
        options: InviteOptions,
    },
    /// Items: [`Page`]. Reply: why there may be more names than those, if so.
    List {
        /// Of what.
        from: Source,
        /// A directory, or a file, which is then listed alone.
        path: Path,
        /// Whether directories below are listed too.
        recursive: bool,
    },
    /// Reply: `Explanation`.
    Explain {
        /// In which space.
        space: SpaceName,
        /// Of what.
        path: Path,
        /// How.
        options: ExplainOptions,
    },
    /// Reply: [`FileStat`].
    Stat {
        /// Of what.
        from: Source,
        /// Of what.
        path: Path,
        /// Which version of it.
        #[serde(default)]
        which: Which,
    },
    /// All versions of a path, the latest first. Items: lists of `Version`. Reply: nothing.
    Versions {
        /// In which space.
        space: SpaceName,
        /// Of what.
        path: Path,
    },
    /// What is another at a path and below it than it was then. Items: lists of `Difference`. Reply: nothing.
    Differences {
        /// In which space.
        space: SpaceName,
        /// Of what.
        path: Path,
        /// Then.
        since: Timestamp,
    },
    /// What was done with a path and below it, the latest first. Items: lists of `Did`. Reply: nothing.
    Log {
        /// In which space.
        space: SpaceName,
        /// With what.
        path: Path,
        /// From then on.
        since: Timestamp,
    },
    /// What changed who can read or write in a space, the latest first. Items: lists of `AccessEvent`. Reply: nothing.
    AccessLog {
        /// Which.
        space: SpaceName,
    },
    /// Check the history of a space. Reply: `Verified`.
    Verify {
        /// Which.
        space: SpaceName,
    },
    /// Names of a path and below it whose values conflict. Items: lists of `Conflict`. Reply: nothing.
    Conflicts {
        /// In which space.
        space: SpaceName,
        /// Of what.
        path: Path,
    },
    /// End a conflict. Reply: `Settled`.
    Settle {
        /// In which space.
        space: SpaceName,
        /// One of the names that are shown.
        path: Path,
        /// What is to become of it.
        how: Settling,
    },
    /// The client sends items, [`PutItem`], each file followed by data and an end (or a failure), or by a
    /// handle; then one more end.
    /// Items: [`PutProgress`]; failures: [`PutFailed`]. Reply: `PutReport`.
    Put {
        /// In which space.
        space: SpaceName,
        /// How.
        options: PutOptions,
    },
    /// The client sends items, [`GetItem`], and an end. Answer, for each and in order: an item [`GetFile`], data and an end;
    /// or a failure. Reply: nothing.
    Get {
        /// Of what.
        from: Source,
    },
    /// Reply: `RemoveReport`.
    Remove {
        /// In which space.
        space: SpaceName,
        /// What.
        path: Path,
        /// How.
        options: RemoveOptions,
    },
    /// What erasing a path for ever means. Reply: `Erasable`.
    Erasable {
        /// In which space.
        space: SpaceName,
        /// What.
        path: Path,
    },
    /// Erase it. Reply: `Erased`.
    Erase {
        /// In which space.
        space: SpaceName,
        /// What.
        path: Path,
        /// How far each log was known when the person was asked.
        known: Vec<(NodeId, u64)>,
    },
    /// Ask again about what was erased and not everybody had heard of. Reply: a list of `Erased`.
    Erasures,
    /// What the trash has of a path and below it. Items: lists of `Trashed`, one for each path. Reply: nothing.
    Trash {
        /// In which space.
        space: SpaceName,
        /// Of what.
        path: Path,
    },
    /// Let go of what the trash has of a path and below it. Reply: `Emptied`.
    EmptyTrash {
        /// In which space.
        space: SpaceName,
        /// Of what.
        path: Path,
    },
    /// Say that all that was removed and overwritten was meant. Reply: nothing.
    AcceptLosses,
    /// Bring back what was removed or overwritten. Reply: `RestoreReport`.
    Restore {
        /// In which space.
        space: SpaceName,
        /// What.
        path: Path,
        /// As of when, and where to.
        options: RestoreOptions,
    },
    /// Reply: how many stripes were given up.
    Sweep {
        /// How long ago an upload must have broken off.
        abandoned_after: Duration,
    },
    /// Reply: nothing.
    Rename {
        /// In which space.
        space: SpaceName,
        /// What.
        from: Path,
        /// Its new place.
        to: Path,
    },
    /// Who is in the pool. Reply: a list of `Person`, this node's first.
    People,
    /// What this node's person wants to be called. Reply: nothing.
    CallMe {
        /// Their name.
        name: UserName,
    },
    /// Let a person into a space. Reply: `Member`.
    Share {
        /// Which.
        space: SpaceName,
        /// Their name, or their id or the end of it.
        with: String,
        /// The directory that it is for; none: all of it.
        #[serde(default)]
        prefix: Option<Path>,
        /// What they may do.
        access: Access,
    },
    /// Take a person out of a space. Reply: `Unshared`.
    Unshare {
        /// Which.
        space: SpaceName,
        /// Their name, or their id or the end of it.
        with: String,
        /// The directory that it is for; none: all of it.
        #[serde(default)]
        prefix: Option<Path>,
    },
    /// Who may read a space. Reply: a list of `Member`.
    Members {
        /// Which.
        space: SpaceName,
    },
    /// Take a space that another person has let this one into. Reply: `SpaceInfo`.
    Accept {
        /// What its owner calls it, or the end of its id.
        offer: String,
        /// What it is to be called here.
        called: Option<SpaceName>,
    },
    /// Name what is in a space now. Reply: `SnapshotInfo`.
    TakeSnapshot {
        /// Which.
        space: SpaceName,
        /// What it is to be called; after the time when none.
        name: Option<Name>,
    },
    /// The snapshots of a space, the latest first. Items: lists of `SnapshotInfo`. Reply: nothing.
    Snapshots {
        /// Which.
        space: SpaceName,
    },
    /// Bring back what a snapshot has. Reply: `RestoreReport`.
    RestoreSnapshot {
        /// Of which space.
        space: SpaceName,
        /// Which.
        name: Name,
        /// What of it.
        path: Path,
        /// Where to; else where it was.
        to: Option<Path>,
    },
    /// Remove a snapshot. Reply: `SnapshotInfo`.
    RemoveSnapshot {
        /// Of which space.
        space: SpaceName,
        /// Which.
        name: Name,
    },
    /// Make a link. Reply: `LinkMade`.
    Link {
        /// Into which space.
        space: SpaceName,
        /// To what.
        path: Path,
        /// What is to hold for it.
        options: LinkOptions,
    },
    /// The links into a space, the latest first. Items: lists of `LinkInfo`. Reply: nothing.
    Links {
        /// Which.
        space: SpaceName,
    },
    /// End a link. Reply: `LinkInfo`.
    RevokeLink {
        /// Its text, or the start of its id.
        link: String,
    },
    /// Found a space. Reply: `SpaceInfo`.
    CreateSpace {
        /// What it is to be called.
        name: SpaceName,
        /// What is to hold in it.
        #[serde(default)]
        options: SpaceOptions,
    },
    /// Say what is to hold in a space. Reply: `SpaceInfo`.
    SetSpace {
        /// Which.
        name: SpaceName,
        /// What is to hold.
        options: SpaceOptions,
    },
    /// Reply: a list of `SpaceInfo`.
    Spaces {
        /// Whether those are told, too, that were removed and can be brought back.
        removed: bool,
    },
    /// Reply: `SpaceInfo`.
    SpaceInfo {
        /// Which.
        name: SpaceName,
    },
    /// Reply: `SpaceRemoval`.
    RemoveSpace {
        /// Which.
        name: SpaceName,
        /// How.
        options: RemoveOptions,
    },
    /// Bring back a space that was removed. Reply: `SpaceInfo`.
    RestoreSpace {
        /// Which.
        name: SpaceName,
    },
    /// Reply: nothing.
    RenameSpace {
        /// Which.
        from: SpaceName,
        /// What it is to be called.
        to: SpaceName,
    },
    /// The person's recovery kit. Reply: its text.
    Backup {
        /// What it is encrypted with.
        passphrase: String,
    },
    /// Begin to drain. Reply: nothing.
    Leave,
    /// Put the keys of the home under a passphrase. Reply: nothing.
    LockKeys {
        /// It.
        passphrase: String,
    },
    /// Take them out from under it. Reply: whether they were under one.
    UnlockKeys,
    /// Drain no more. Reply: nothing.
    Stay,
    /// Reply: `LeaveProgress`.
    LeaveProgress,
    /// How this node looks from the others. Reply: a list of `Probe`.
    Probe,
    /// Take a machine of the same person out of the pool. Reply: nothing.
    Forget {
        /// Which.
        node: NodeId,
    },
    /// Take machines of the same person out of their hands, and replace their key. Reply: `Revoked`.
    Revoke {
        /// Which.
        nodes: BTreeSet<NodeId>,
        /// All others of theirs, which are given the next key.
        stays: BTreeSet<NodeId>,
    },
    /// Replace two keys that took the place of one by another. Reply: `Reconciled`.
    Reconcile {
        /// Which of those that took its place apart; none: the only one.
        which: Option<UserId>,
    },
    /// Take what a machine stands by that goes on with another history than the one that is kept here. Reply: `Followed`.
    Follow {
        /// Which.
        node: NodeId,
    },
    /// End the membership, and the daemon. Reply: nothing.
    Part,
    /// End the daemon. Reply: nothing.
    Stop,
}

/// What names are looked up in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Source {
    /// A space of this person's.
    Space(SpaceName),
    /// What a link shows.
    Link {
        /// Its text.
        link: String,
        /// Its password.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        password: Option<String>,
    },
}

/// Which daemon answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct About {
    /// Who the node is.
    pub(crate) identity: Identity,
    /// Its process.
    pub(crate) pid: u32,
    /// The version of its program.
    pub(crate) version: String,
    /// What it offers.
    pub(crate) capacity: ByteSize,
    /// Seconds that an absent node is waited for.
    pub(crate) grace_seconds: u64,
    /// How many files it may have open; 0 when unlimited.
    pub(crate) open_files_max: u64,
}

/// Some names of one directory, in order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Page {
    /// The directory.
    pub(crate) directory: Path,
    /// The names.
    pub(crate) entries: Vec<Entry>,
}

/// A file or directory in detail.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FileStat {
    /// Where.
    pub(crate) path: Path,
    /// As listed; none for the root.
    pub(crate) entry: Option<Entry>,
    /// How many losses it was made to survive.
    pub(crate) survives: u8,
    /// How many stripes hold it; none when it lives in its metadata.
    pub(crate) stripes: u64,
}

/// What a client puts next.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum PutItem {
    /// A directory.
    Directory(Path),
    /// A file, whose bytes follow.
    File {
        /// Where.
        path: Path,
        /// What is known of it.
        meta: FileMeta,
        /// Its length, as far as is known.
        len: Option<u64>,
    },
}

/// How far a put is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PutProgress {
    /// Files taken in.
    pub(crate) files: u64,
    /// Bytes taken in.
    pub(crate) bytes: u64,
    /// What is durable: nothing of it is lost when this machine dies now.
    pub(crate) durable: PutReport,
    /// The large file that is being read.
    pub(crate) reading: Option<Path>,
}

/// A file that could not be put; the others go on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PutFailed {
    /// Which.
    pub(crate) path: Path,
    /// Why.
    pub(crate) complaint: crate::complaint::Complaint,
}

/// What a client gets next.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GetItem {
    /// Which file.
    pub(crate) path: Path,
    /// Which version of it.
    #[serde(default)]
    pub(crate) which: Which,
    /// Which bytes of it; all when none.
    pub(crate) range: Option<ByteRange>,
}

/// A file whose bytes follow.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct GetFile {
    /// Which.
    pub(crate) path: Path,
    /// As listed.
    pub(crate) entry: Entry,
    /// How many bytes follow.
    pub(crate) len: u64,
}
