//! The façade of one space: its files.

use crate::{
    api::{
        Difference, Emptied, Entry, Erasable, Erased, ExplainOptions, Explanation, PutOptions, RemoveOptions,
        RemoveReport, RestoreOptions, RestoreReport, Settled, Settling, SnapshotInfo, Stat, Version, Which,
    },
    changes::Changes,
    conflicts::{self, Conflicts},
    diff,
    download::Download,
    edit, erase,
    error::NodeError,
    explain, names, rails, restore,
    shared::Shared,
    snapshots,
    space::OpenSpace,
    trash::{self, Listing},
    upload::Upload,
    versions,
};
use potluck_spaces::{Name, Path};
use potluck_types::{NodeId, SpaceId, SpaceName, Timestamp};
use std::ops::Range;

/// A space of this node's person. Cheap to clone.
#[derive(Clone)]
pub struct Space {
    pub(super) space: OpenSpace,
}

impl std::fmt::Debug for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Space").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Space {
    /// Its id, which is the same for everyone.
    pub fn id(&self) -> SpaceId {
        self.space.id()
    }

    /// One directory, in order of names, after a name, up to a number. Values that conflict come together, so there may be fewer before the end; there are none only at
    /// the end.
    pub async fn list(&self, path: &Path, after: Option<&Name>, limit: usize) -> Result<Vec<Entry>, NodeError> {
        let (space, path, after) = (self.space.clone(), path.clone(), after.cloned());
        Shared::blocking(move || edit::list(&space, &path, after.as_ref(), limit)).await
    }

    /// Why lists may lack names that this person's other machines have, if so.
    pub async fn lacking(&self) -> Option<String> {
        names::lacking(&self.space).await
    }

    /// A file or directory in detail.
    pub async fn stat(&self, path: &Path) -> Result<Stat, NodeError> {
        self.stat_of(path, Which::Latest).await
    }

    /// A version of a file in detail.
    pub async fn stat_of(&self, path: &Path, which: Which) -> Result<Stat, NodeError> {
        let (space, path) = (self.space.clone(), path.clone());
        Shared::blocking(move || versions::stat(&space, &path, which)).await
    }

    /// All versions of a path, the latest first: what has the name, what conflicts with it, and what was there before.
    pub async fn versions(&self, path: &Path) -> Result<Vec<Version>, NodeError> {
        let (space, path) = (self.space.clone(), path.clone());
        Shared::blocking(move || versions::list(&space, &path)).await
    }

    /// What is another at a path and below it than it was then, in the order of paths. What was let go of since is not known any more; what is in a
    /// directory that was renamed since counts as new.
    pub async fn differences(&self, path: &Path, since: Timestamp) -> Result<Vec<Difference>, NodeError> {
        diff::since(&self.space, path, since).await
    }

    /// The moment that a snapshot is of.
    pub async fn moment(&self, snapshot: &Name) -> Result<Timestamp, NodeError> {
        Ok(snapshots::get(&self.space, snapshot).await?.clock)
    }

    /// What was done with a path and below it since then, the latest first.
    pub fn changes(&self, below: &Path, since: Timestamp) -> Changes {
        Changes::of(&self.space, below.clone(), since)
    }

    /// Names of a path and below it whose values conflict.
    pub fn conflicts(&self, below: &Path) -> Conflicts {
        Conflicts::of(&self.space, below.clone())
    }

    /// Ends the conflict that a path is part of.
    pub async fn settle(&self, path: &Path, how: Settling) -> Result<Settled, NodeError> {
        conflicts::settle(&self.space, path, how).await
    }

    /// Begins to put files. With `strict`, all machines that they are to lie on must be here.
    pub fn upload(&self, options: PutOptions) -> Result<Upload, NodeError> {
        Upload::begin(self.space.clone(), options)
    }

    /// Begins to get a file, or a range of it; a range that goes beyond its end ends there.
    pub async fn download(&self, path: &Path, range: Option<Range<u64>>) -> Result<Download, NodeError> {
        self.download_of(path, Which::Latest, range).await
    }

    /// The same of another version of it.
    pub async fn download_of(
        &self,
        path: &Path,
        which: Which,
        range: Option<Range<u64>>,
    ) -> Result<Download, NodeError> {
        Download::of_version(&self.space, path, which, range).await
    }

    /// Removes a file, or a directory with all that is in it. It can be brought back for as long as was configured, unless it is to go now.
    pub async fn remove(&self, path: &Path, options: RemoveOptions) -> Result<RemoveReport, NodeError> {
        edit::remove(&self.space, path, options).await
    }

    /// What was removed and overwritten of a path and below it.
    pub async fn trash(&self, path: &Path) -> Result<Listing, NodeError> {
        Listing::of(&self.space, path.clone()).await
    }

    /// Lets go now of what the trash has of a path and below it.
    pub async fn empty_trash(&self, path: &Path) -> Result<Emptied, NodeError> {
        trash::empty(&self.space, path).await
    }

    /// Brings back what was removed or overwritten: a file, or a directory with all below it. What has a name meanwhile goes to the trash.
    pub async fn bring_back(&self, path: &Path, options: RestoreOptions) -> Result<RestoreReport, NodeError> {
        restore::restore(&self.space, path, options).await
    }

    /// Names what is there now, so that it can be brought back for as long as the snapshot is there; after the time when no name is given.
    pub async fn take_snapshot(&self, name: Option<Name>) -> Result<SnapshotInfo, NodeError> {
        snapshots::create(&self.space, name).await
    }

    /// The snapshots of the space, the latest first.
    pub async fn snapshots(&self) -> Result<Vec<SnapshotInfo>, NodeError> {
        snapshots::list(&self.space).await
    }

    /// Removes a snapshot. What it alone holds is let go of with what else is in the trash for its time.
    pub async fn remove_snapshot(&self, name: &Name) -> Result<SnapshotInfo, NodeError> {
        snapshots::remove(&self.space, name).await
    }

    /// Brings back what a snapshot has of a path and below it, and what is removed or overwritten since. What came since stays.
    pub async fn restore_snapshot(
        &self,
        name: &Name,
        path: &Path,
        to: Option<Path>,
    ) -> Result<RestoreReport, NodeError> {
        let options = RestoreOptions {
            at: Some(snapshots::get(&self.space, name).await?.clock),
            to,
            ..RestoreOptions::default()
        };
        restore::restore(&self.space, path, options).await
    }

    /// What erasing a path and all below it for ever means. Nothing is done.
    pub async fn erasable(&self, path: &Path) -> Result<Erasable, NodeError> {
        erase::plan(&self.space, path).await
    }

    /// Erases all that a path and those below it have, and ever had: the keys to it are destroyed on every machine that keeps them, and what they opened is freed. Those that are away do so
    /// when they come back. What has come since that was [`Erasable::known`] stays.
    pub async fn erase(&self, called: &SpaceName, path: &Path, known: Vec<(NodeId, u64)>) -> Result<Erased, NodeError> {
        erase::erase(&self.space, called, path, known).await
    }

    /// Says that all that was removed and overwritten up to now was meant.
    pub async fn accept_losses(&self) -> Result<(), NodeError> {
        rails::accept(&self.space).await
    }

    /// Gives a file or directory another name.
    pub async fn rename(&self, from: &Path, to: &Path) -> Result<(), NodeError> {
        edit::rename(&self.space, from, to).await
    }

    /// Where a file is, or all files below a directory, how many losses that survives, and what is being done for it.
    pub async fn explain(&self, path: &Path, options: ExplainOptions) -> Result<Explanation, NodeError> {
        explain::explain(&self.space, path, options).await
    }
}
