//! What files were, and what was done to them.

use super::Kind;
use potluck_spaces::{Name, Path};
use potluck_types::{NodeId, Timestamp};
use serde::{Deserialize, Serialize};

/// A version of a file: what names it is the same on all machines.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VersionId(pub(crate) [u8; 6]);

/// Text that names no version.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is not a version: they have 12 digits and letters from a to f, as `potluck versions` shows them")]
pub struct VersionIdError(String);

impl std::fmt::Display for VersionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::str::FromStr for VersionId {
    type Err = VersionIdError;

    fn from_str(text: &str) -> Result<Self, VersionIdError> {
        let is_hex = text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| is_hex);
        let bytes = number.map(u64::to_be_bytes);
        let bytes = bytes.and_then(|bytes| bytes.last_chunk::<6>().copied());
        bytes
            .map(Self)
            .ok_or_else(|| VersionIdError(text.chars().take(40).collect()))
    }
}

impl TryFrom<String> for VersionId {
    type Error = VersionIdError;

    fn try_from(text: String) -> Result<Self, VersionIdError> {
        text.parse()
    }
}

impl From<VersionId> for String {
    fn from(id: VersionId) -> Self {
        id.to_string()
    }
}

/// Which version of a file is meant.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Which {
    /// The one that has the name.
    #[default]
    Latest,
    /// This one.
    Version(VersionId),
    /// The one that had the name then.
    At(Timestamp),
}

/// One version of a path.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Version {
    /// What names it.
    pub id: VersionId,
    /// What it is.
    pub kind: Kind,
    /// Its length in bytes; 0 for a directory.
    pub len: u64,
    /// When the file was last changed, as its owner's machine said.
    pub modified: Timestamp,
    /// When it got the name.
    pub stored: Timestamp,
    /// The machine that gave it: its name, else the end of its id.
    pub machine: String,
    /// Whose machine that is, if it is another person's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub person: Option<String>,
    /// What has become of it.
    pub state: VersionState,
}

/// What has become of a version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VersionState {
    /// It has the name.
    Latest,
    /// It conflicts with the latest.
    Conflict {
        /// What it is shown as.
        name: Name,
    },
    /// It was overwritten or removed, and can be brought back.
    Replaced {
        /// When.
        at: Timestamp,
        /// By which machine.
        machine: String,
        /// Whether another version took its name then.
        overwritten: bool,
        /// Whether it lives on: in another place, or as the same content in the version that took its name.
        moved: bool,
        /// Until when it can be brought back.
        until: Timestamp,
    },
}

/// A name with values that conflict: machines set them that did not know of each other.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Conflict {
    /// The name.
    pub path: Path,
    /// Its values, the latest first.
    pub versions: Vec<Version>,
}

/// Something that was done in a space.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Did {
    /// When, by its author's clock.
    pub at: Timestamp,
    /// The machine that did it: its name, else the end of its id.
    pub machine: String,
    /// Whose machine that is, if it is another person's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub person: Option<String>,
    /// The machine, by its id.
    pub node: NodeId,
    /// The number of the entry in its log, which it has signed.
    pub entry: u64,
    /// What was done.
    #[serde(flatten)]
    pub doing: Doing,
    /// With which path; where a directory above it was moved since, as that is called now.
    pub path: Path,
    /// What it is now, unless it was removed.
    pub kind: Option<Kind>,
    /// How long the file is, in bytes.
    pub len: Option<u64>,
}

/// What can be done with a path.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "did", rename_all = "kebab-case")]
pub enum Doing {
    /// A file or directory was put where nothing was, was brought back, or came from a directory that is gone.
    Add,
    /// A file got another content.
    Change,
    /// It was removed, and can be brought back for a time.
    Remove,
    /// It was let go of for good: removed at once, or its time in the trash was over.
    Free,
    /// It came from another path.
    Move {
        /// From where.
        from: Path,
    },
}

/// What is to become of a conflict.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Settling {
    /// The version that the path leads to has the name; the others go to the trash.
    KeepThis,
    /// Each version has the name that it is shown under for its own.
    KeepAll,
}

/// What has become of a conflict.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Settled {
    /// The names that there are now.
    pub names: Vec<Name>,
    /// Files that were removed.
    pub removed: u64,
    /// Until when these can be brought back.
    pub until: Option<Timestamp>,
}

/// A file that is another than it was at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Where it is, or was.
    pub path: Path,
    /// What became of it.
    #[serde(flatten)]
    pub what: Differing,
    /// When: of several changes the last.
    pub at: Timestamp,
    /// Its length then.
    pub before: Option<u64>,
    /// Its length now.
    pub now: Option<u64>,
}

/// What became of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "what")]
pub enum Differing {
    /// It was not there.
    Added,
    /// It is not there any more.
    Removed,
    /// It has other content.
    Changed,
    /// It was elsewhere.
    Moved {
        /// Where.
        from: Path,
    },
}
