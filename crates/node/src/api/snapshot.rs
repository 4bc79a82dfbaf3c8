//! Snapshots as people see them.

use potluck_spaces::Name;
use potluck_types::Timestamp;
use serde::{Deserialize, Serialize};

/// A snapshot of a space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// What it is called.
    pub name: Name,
    /// What there was at this moment.
    pub at: Timestamp,
    /// The machine that took it.
    pub machine: String,
    /// Its person, if that is another.
    pub person: Option<String>,
    /// File versions that it has and that are not there any more: they are in the trash for its sake.
    pub held: u64,
    /// Their bytes.
    pub held_bytes: u64,
}
