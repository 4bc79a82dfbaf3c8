//! Areas: directories that can be shared alone.
//!
//! The entries of an area are sealed under a key of its own, which follows from the key of the epoch: who reads the space reads its areas, and who was let into an area reads nothing else.
//! A directory says by its id which area it belongs to, for as long as it is there, and so does a version of a file. So an entry of one area can change nothing outside of it, whoever has written it, and that is seen in the entry
//! alone; and a directory that is moved from one area to another is made anew there.

use crate::{BranchError, Change, DirId, FileId, Keys, Kv, KvError, Table, Tree, Value, make_anew};
use potluck_crypto::{BoxKey, derive::area_key};
use potluck_types::{Entropy, Hash, SpaceId, StripeId, from_canonical, to_canonical};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// The ids of directories in areas begin so, and no others that are made.
const MARK: [u8; 4] = [0xff; 4];

/// Names an area of a space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AreaId(#[serde(with = "serde_bytes")] [u8; 4]);

impl AreaId {
    /// The one that a directory becomes: two devices that make it one apart make the same, if they know of no other that has this id.
    pub fn of_directory(space: SpaceId, before: DirId, known: &BTreeSet<Self>, entropy: &dyn Entropy) -> Self {
        let hash = Hash::of(&[b"potluck area 1", &space.as_bytes()[..], before.as_bytes()].concat());
        let mut area = Self(hash.as_bytes()[..4].try_into().expect("4 of 32 bytes"));
        while known.contains(&area) {
            area = Self(entropy.bytes());
        }
        area
    }

    /// One of several, for tests.
    #[cfg(test)]
    pub(crate) fn of_tests(tag: u8) -> Self {
        Self([tag; 4])
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 4] {
        &self.0
    }

    /// The directory that everything in the area is below.
    pub fn top(self) -> DirId {
        DirId::from_bytes(self.mark([0; 16]))
    }

    /// An id with the same end that is of this area.
    fn mark(self, mut id: [u8; 16]) -> [u8; 16] {
        id[..4].copy_from_slice(&MARK);
        id[4..8].copy_from_slice(&self.0);
        id
    }

    /// The area that an id is of.
    fn of(id: &[u8; 16]) -> Option<Self> {
        let (mark, rest) = id.split_first_chunk::<4>()?;
        (*mark == MARK).then(|| Self(*rest.first_chunk().expect("12 bytes")))
    }

    /// Its key, from that of an epoch.
    pub(crate) fn key(self, epoch_key: &BoxKey) -> BoxKey {
        area_key(epoch_key, self.0)
    }
}

impl fmt::Debug for AreaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// An id of this area, or of none, from one that would do anywhere.
fn within(area: Option<AreaId>, mut id: [u8; 16]) -> [u8; 16] {
    if let Some(area) = area {
        return area.mark(id);
    }
    // What begins so by chance is in no area.
    if id.starts_with(&MARK) {
        id[0] = 0x7f;
    }
    id
}

impl DirId {
    /// The area that a directory belongs to, if it belongs to one.
    pub fn area(self) -> Option<AreaId> {
        AreaId::of(self.as_bytes())
    }

    /// An id for a directory that is made in this one, from one that would do anywhere.
    pub(crate) fn child(self, id: [u8; 16]) -> Self {
        let child = Self::from_bytes(within(self.area(), id));
        match self.area() {
            // That is another one's.
            Some(area) if child == area.top() => Self::from_bytes(area.mark([1; 16])),
            _ => child,
        }
    }
}

impl FileId {
    /// A new one, for a file in a directory of this area, or of none.
    pub fn generate(area: Option<AreaId>, entropy: &dyn Entropy) -> Self {
        Self::from_bytes(within(area, entropy.bytes()))
    }

    /// The area that it was made for.
    pub fn area(self) -> Option<AreaId> {
        AreaId::of(self.as_bytes())
    }
}

/// What of a space a person can read.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum Scope {
    /// All of it, as far as they have the keys.
    #[default]
    All,
    /// These areas, each under the name that it has for them.
    Areas {
        /// Which.
        areas: BTreeMap<AreaId, String>,
        /// Whether they may read nothing any more: what they have no key for is not for them.
        is_over: bool,
    },
}

impl Scope {
    /// Whether entries of this area, or of none, are for the person.
    pub fn has(&self, area: Option<AreaId>) -> bool {
        match (self, area) {
            (Self::All, _) => true,
            (Self::Areas { areas, .. }, Some(area)) => areas.contains_key(&area),
            (Self::Areas { .. }, None) => false,
        }
    }

    /// Whether somebody who reads an area hears there what holds for all of the space, since they hear it nowhere else.
    pub(crate) fn hears_all_in_areas(&self) -> bool {
        *self != Self::All
    }
}

/// What of a space is read into its tables.
pub fn scope_read(space: SpaceId, kv: &impl Kv) -> Result<Scope, KvError> {
    let row = kv.get(Table::Scope, space.as_bytes())?;
    let Some(row) = row else { return Ok(Scope::All) };
    let (areas, is_over): (Vec<(AreaId, String)>, bool) = from_canonical(&row)?;
    let areas = areas.into_iter().collect();
    Ok(Scope::Areas { areas, is_over })
}

/// Makes all of a space anew for who reads more of it than before, or less.
pub fn read_anew(space: SpaceId, kv: &mut impl Kv, keys: &Keys, tree: Tree) -> Result<(), BranchError> {
    match keys.scope() {
        Scope::All => kv.delete(Table::Scope, space.as_bytes())?,
        Scope::Areas { areas, is_over } => {
            let areas: Vec<_> = areas.iter().collect();
            kv.put(Table::Scope, space.as_bytes(), &to_canonical(&(areas, is_over)))?;
        }
    }
    make_anew(space, kv, keys, tree)
}

impl Change {
    /// The stripes that it says a file uses.
    pub fn uses(&self) -> &[StripeId] {
        match self {
            Self::Set {
                value: Some(Value::File(file)),
                ..
            }
            | Self::Recode { file, .. } => &file.uses,
            Self::Uses { stripes, .. } => stripes,
            _ => &[],
        }
    }

    /// Whether it is about all of the space, and who reads no more than an area has to know it, too: it is said in each.
    pub fn is_for_all(&self) -> bool {
        matches!(self, Self::Settings(_) | Self::Snapshot { .. })
    }

    /// The area that it is made in; none where it is made in none, or concerns all of the space.
    pub fn area(&self) -> Option<AreaId> {
        match self {
            Self::Set { parent, .. } | Self::Recode { parent, .. } => parent.area(),
            Self::Uses { file, .. } => file.area(),
            Self::Settings(_) | Self::Snapshot { .. } | Self::Accept { .. } | Self::Restate { .. } => None,
        }
    }

    /// Whether an entry of an area can say so: it changes nothing elsewhere.
    pub fn is_within(&self, area: AreaId) -> bool {
        let holds = match self {
            Self::Set { value, .. } => match value {
                None => true,
                Some(Value::File(file)) => file.id.area() == Some(area),
                Some(Value::Directory(id)) => id.area() == Some(area) && *id != area.top(),
                Some(Value::Space(_)) => false,
            },
            Self::Recode { file, .. } => file.id.area() == Some(area),
            Self::Uses { .. } => true,
            Self::Settings(_) | Self::Snapshot { .. } | Self::Restate { .. } => return true,
            Self::Accept { .. } => false,
        };
        holds && self.area() == Some(area)
    }
}
