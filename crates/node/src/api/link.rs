//! Links as people make, list and open them.

use potluck_spaces::Name;
use potluck_types::{SpaceName, Timestamp};
use serde::{Deserialize, Serialize};

/// What holds for a new link.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub struct LinkOptions {
    /// When it ends; none when that is for its maker to say later.
    #[serde(default)]
    pub until: Option<Timestamp>,
    /// What must be known beside it.
    #[serde(default)]
    pub password: Option<String>,
    /// How many machines may read by it; none when that is not counted.
    #[serde(default)]
    pub readers: Option<u32>,
}

/// A link that was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LinkMade {
    /// Its text: whoever has it reads.
    pub link: String,
    /// Files that it shows.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// As it is listed.
    pub info: LinkInfo,
}

/// A link as it is listed, to those who read its space.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LinkInfo {
    /// Its id.
    pub id: String,
    /// The space that it shows something of.
    pub space: SpaceName,
    /// What it shows, as it is called now; none when that is gone.
    pub path: Option<String>,
    /// Whether it shows a directory, with all below it.
    pub is_directory: bool,
    /// Who made it, if that is another person.
    pub person: Option<String>,
    /// When it was made.
    pub made: Timestamp,
    /// When what it shows was said last.
    pub shown: Timestamp,
    /// When it ends.
    pub until: Option<Timestamp>,
    /// Whether a password must be known beside it.
    pub needs_password: bool,
    /// How many machines may read by it.
    pub readers_max: Option<u32>,
    /// How many have; none when another machine counts them.
    pub readers: Option<u32>,
    /// Its text, if this person made it.
    pub link: Option<String>,
}

/// What a link shows, for who has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkContent {
    /// What it is called.
    pub name: Name,
    /// Whether it is one file.
    pub is_file: bool,
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When that was said.
    pub shown: Timestamp,
    /// When the link ends.
    pub until: Option<Timestamp>,
}
