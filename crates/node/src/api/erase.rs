//! Erasing for ever.

use potluck_spaces::Path;
use potluck_types::{MachineName, NodeId, SpaceName, Timestamp};
use serde::{Deserialize, Serialize};

/// What erasing a path means.
#[derive(Clone, Default, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasable {
    /// Files that have their names, and lose them.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// File versions whose content is erased: with those in the trash, those that snapshots hold, and those of which nothing was left but their keys.
    pub versions: u64,
    /// Other files that lie in one piece with what is erased, and are stored anew.
    pub stored_anew: u64,
    /// Where the same content stays: it was copied there, or put there, too. The first of them.
    pub stays_at: Vec<Path>,
    /// Whether other files have parts of the same content, which stay there.
    pub has_parts_elsewhere: bool,
    /// File versions, of those, that cannot be erased: they were written by a version of this software that had no way to.
    pub unerasable: u64,
    /// Links of others that lead to it: they show it until a machine of who made them has heard of it.
    pub links_of_others: u64,
    /// How far each log was known, by the number of its last entry: what comes later is not meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known: Vec<(NodeId, u64)>,
}

/// What was erased, and who says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erased {
    /// Of which space.
    pub space: SpaceName,
    /// What.
    pub path: Path,
    /// When.
    pub at: Timestamp,
    /// What that was; nothing when it is only asked who has heard of it.
    pub what: Option<Erasable>,
    /// Whether it was cut off before it was done.
    #[serde(default)]
    pub is_cut_off: bool,
    /// What each other machine says.
    pub receipts: Vec<Receipt>,
}

impl Erased {
    /// Whether all machines have nothing of it.
    pub fn is_everywhere(&self) -> bool {
        !self.is_cut_off && self.receipts.iter().all(|receipt| receipt.says == Says::Nothing)
    }
}

/// What a machine says that it has of what was erased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Which.
    pub machine: NodeId,
    /// What its person calls it.
    pub name: Option<MachineName>,
    /// What it says.
    pub says: Says,
    /// How many sealed parts it still has.
    pub sealed: u64,
}

impl Receipt {
    /// What a person knows the machine by.
    pub fn called(&self) -> String {
        self.name
            .as_ref()
            .map_or_else(|| self.machine.short(), ToString::to_string)
    }
}

/// See [`Receipt`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Says {
    /// It has no key to it, and nothing of what was sealed.
    Nothing,
    /// It still has sealed parts, and no key to them.
    Sealed,
    /// It has not heard of it yet.
    NotHeard,
    /// Nothing: it is away.
    Away,
}
