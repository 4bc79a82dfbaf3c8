//! What a file was: the versions that a name has, those that conflict with it, and those that it had and that the trash still keeps.

use crate::{
    api::{Kind, Stat, Version, VersionId, VersionState, Which},
    edit,
    error::NodeError,
    space::OpenSpace,
    trash::{self, is_missing},
};
use potluck_spaces::{Found, Head, Kept, Machines, Moved, Name, OpId, Path, TreeError, Value};
use potluck_types::{Hash, to_canonical};

/// Bytes of the hash of the operation that set a version, which name it.
const ID_BYTES: usize = 6;

impl VersionId {
    pub(crate) fn of(op: OpId) -> Self {
        let hash = Hash::of(&to_canonical(&op));
        let bytes: [u8; ID_BYTES] = hash.as_bytes()[..ID_BYTES].try_into().expect("a hash is longer");
        Self(bytes)
    }
}

/// All versions of a path, the latest first: what has the name, what conflicts with it, and what was there before.
pub(crate) fn list(space: &OpenSpace, path: &Path) -> Result<Vec<Version>, NodeError> {
    let History { found, kept, .. } = History::of(space, path)?;
    let mut versions = found.map_or_else(Vec::new, |found| named(space, &found.name, &found.heads));
    versions.extend(kept.iter().filter_map(|kept| {
        let state = VersionState::Replaced {
            at: kept.removal.clock,
            machine: space.called(kept.removal.op.device),
            overwritten: kept.removal.overwrites,
            moved: kept.removal.moved == Moved::Only,
            until: kept.removal.until,
        };
        version(space, &kept.head, state)
    }));
    versions.sort_by_key(|version| std::cmp::Reverse((version.state == VersionState::Latest, version.stored)));
    Ok(versions)
}

/// The versions that a name has, the latest first.
pub(crate) fn named(space: &OpenSpace, name: &Name, heads: &[Head]) -> Vec<Version> {
    let mut seen = space.view().seen(name, heads);
    seen.rotate_right(1);
    seen.into_iter()
        .filter_map(|seen| {
            let state = match seen.copy_of {
                None => VersionState::Latest,
                Some(_) => VersionState::Conflict { name: seen.name },
            };
            version(space, seen.heads.first()?, state)
        })
        .collect()
}

fn version(space: &OpenSpace, head: &Head, state: VersionState) -> Option<Version> {
    let (kind, len, modified) = match &head.value {
        Value::File(file) => (Kind::File, file.len, file.modified),
        Value::Directory(_) => (Kind::Directory, 0, head.clock),
        Value::Space(_) => return None,
    };
    Some(Version {
        id: VersionId::of(head.op),
        kind,
        len,
        modified,
        stored: head.clock,
        machine: space.called(head.op.device),
        person: space.author(head.op.device),
        state,
    })
}

/// What is known of one path.
struct History {
    found: Option<Found>,
    kept: Vec<Kept>,
    path: Path,
}

impl History {
    fn of(space: &OpenSpace, path: &Path) -> Result<Self, NodeError> {
        if path.names().is_empty() {
            return Err(TreeError::IsADirectory(path.clone()).into());
        }
        let kv = space.read()?;
        let found = space.view().find(&kv, path);
        let kept = trash::at(space, &kv, path)?;
        let found = match found {
            found if is_missing(&found) && !kept.is_empty() => None,
            found => found?,
        };
        Ok(Self {
            found,
            kept,
            path: path.clone(),
        })
    }

    fn heads(&self) -> impl Iterator<Item = &Head> {
        self.found.iter().flat_map(|found| &found.heads)
    }

    /// The value that is meant.
    fn which(&self, which: Which) -> Result<&Head, NodeError> {
        let chosen = match which {
            Which::Latest => self.heads().next(),
            Which::Version(id) => self
                .heads()
                .chain(self.kept.iter().map(|kept| &kept.head))
                .find(|head| VersionId::of(head.op) == id),
            Which::At(at) => {
                let had = self.kept.iter().filter(|kept| at < kept.removal.clock);
                let all = self.heads().chain(had.map(|kept| &kept.head));
                all.filter(|head| head.clock <= at).max_by_key(|head| head.clock)
            }
        };
        chosen.ok_or_else(|| NodeError::NoSuchVersion {
            path: self.path.clone(),
            which,
        })
    }
}

/// The operation that set a version of a path, among those in the trash; none when that is what the path has.
pub(crate) fn kept(space: &OpenSpace, path: &Path, id: VersionId) -> Result<Option<OpId>, NodeError> {
    let history = History::of(space, path)?;
    let op = history.which(Which::Version(id))?.op;
    Ok(history.kept.iter().any(|kept| kept.head.op == op).then_some(op))
}

/// What was at a path, and what has set it. Of the latest nothing but its name is looked at.
pub(crate) fn head(space: &OpenSpace, path: &Path, which: Which) -> Result<Head, NodeError> {
    match which {
        Which::Latest => edit::head(space, path),
        which => Ok(History::of(space, path)?.which(which)?.clone()),
    }
}

/// A version in detail.
pub(crate) fn stat(space: &OpenSpace, path: &Path, which: Which) -> Result<Stat, NodeError> {
    match which {
        Which::Latest => edit::stat(space, path),
        which => edit::stat_of(space, path, History::of(space, path)?.which(which)?, None),
    }
}
