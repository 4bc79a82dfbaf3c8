//! The files and directories of a space, as its entries add up to.
//!
//! A register per (directory, name) holds the values that no later change has replaced. A [`Change`] names the
//! operations that it replaces, so two edits that did not know of each other leave two values: a conflict that people see. A change that arrives
//! before one that it replaces is remembered; so the order in which devices' logs arrive does not matter. What a change replaces goes to the
//! [trash](crate::Trash) if it says so.

mod change;
mod places;

pub use change::{Change, Fate, RETENTION_MAX};

use crate::{
    Again, AreaId, Entry, EntryId, Kept, Keys, Kv, KvError, Log, Moved, Name, OpId, Path, PathError, Removal, Scope,
    Settings, Snapshots, Table, Taken, Totals, Trash, Turnover,
    checkpoint::{self, name_in},
    trash::{Replacement, Tally, op_bytes},
};
use places::Placement;
use potluck_crypto::{BoxKey, Purpose};
use potluck_types::{
    CodecError, Entropy, Hash, NodeId, SpaceId, StripeId, Timestamp, from_canonical, from_own, to_canonical,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::{collections::BTreeSet, time::Duration};

const CHANGES: &str = "potluck/changes/1";
/// Users of a stripe that are read at once.
const USERS_PAGE: usize = 64;
/// What a row of [`Table::Users`] holds when the version is in the trash; else it is empty.
const KEPT: [u8; 1] = [1];
/// The same where the version [lives on](Kept::lives_on).
const MOVED: [u8; 1] = [2];
/// Names that are read at once when all are counted.
const COUNT_PAGE: usize = 1024;

/// A directory: a random or derived name that it keeps when it is moved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct DirId(#[serde(with = "serde_bytes")] [u8; 16]);

impl DirId {
    /// The directory that everything is below.
    pub const ROOT: Self = Self([0; 16]);
    /// Where a person's private space has their other spaces, by the names that they gave them. No path leads there.
    pub const SPACES: Self = Self([1; 16]);
    /// Where the listings lie that links show. No path leads there, and what is there counts as no file.
    pub const LINKS: Self = Self([2; 16]);

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The directory with these bytes.
    pub(crate) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

/// One version of one file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct FileId(#[serde(with = "serde_bytes")] [u8; 16]);

impl FileId {
    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The version with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

/// What a name stands for when it is a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct File {
    /// This version.
    pub id: FileId,
    /// Its length in bytes.
    pub len: u64,
    /// When the file was last changed, as its owner's machine said.
    pub modified: Timestamp,
    /// Whether it may be run as a program.
    pub executable: bool,
    /// Where its content is: an encoded reference that this crate does not read; nothing when it was erased.
    pub content: ByteBuf,
    /// The stripes that it uses, when they are few; those of a large file come before, in [`Change::Uses`].
    pub uses: Vec<StripeId>,
    /// How many losses its content was made to survive.
    pub survives: u8,
    /// How many it was asked to survive; none when that was left to the pool, and may change with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<u8>,
}

impl File {
    /// Whether nobody can tell any more where its content is.
    pub fn is_erased(&self) -> bool {
        self.content.is_empty()
    }

    /// Whether a person sees no difference: the same bytes, and a program in both or in neither.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.content, self.executable) == (&other.content, other.executable)
    }
}

/// What a name stands for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Value {
    /// A file.
    File(File),
    /// A directory.
    Directory(DirId),
    /// A space, in [`DirId::SPACES`] of a person's private space.
    Space(SpaceId),
}

/// What said that a version lies in other stripes: when, and by which operation.
type Move = (Timestamp, OpId);

/// A value of a register, and the operation that set it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Head {
    /// When, by its author's clock.
    pub clock: Timestamp,
    /// By which operation.
    pub op: OpId,
    /// To what.
    pub value: Value,
    /// What said last that it lies in other stripes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recoded: Option<Move>,
}

impl Head {
    /// What a person sees of a register: each value once, the latest first. Two devices that made one directory apart set the
    /// same value.
    pub fn distinct(heads: &[Self]) -> impl Iterator<Item = &Self> {
        heads
            .iter()
            .enumerate()
            .filter(|(at, head)| !heads[..*at].iter().any(|other| other.is_same(head)))
            .map(|(_, head)| head)
    }

    /// Whether a person sees no difference: one directory, or the same bytes.
    pub fn is_same(&self, other: &Self) -> bool {
        match (&self.value, &other.value) {
            (Value::File(a), Value::File(b)) => a.is_same(b),
            (a, b) => a == b,
        }
    }
}

/// What is at a path: the latest value, and those that it conflicts with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The directory that holds it.
    pub parent: DirId,
    /// The name that it was given there.
    pub name: Name,
    /// All values, the latest first; of a copy, those that are the same as it.
    pub heads: Vec<Head>,
    /// Whether it conflicts with a later value, which has the name.
    pub is_copy: bool,
}

impl Found {
    /// The values that are the latest; what conflicts with it is left out.
    pub fn into_latest(self) -> Vec<Head> {
        let Self { mut heads, .. } = self;
        if let Some(latest) = heads.first().cloned() {
            heads.retain(|head| head.is_same(&latest));
        }
        heads
    }
}

/// One name of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// The name.
    pub name: Name,
    /// All values, the latest first.
    pub heads: Vec<Head>,
}

/// Why the tree cannot be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// Nothing has this name.
    #[error("there is no {0}")]
    NotFound(Path),
    /// A file stands where a directory is needed.
    #[error("{0} is a file, not a directory")]
    NotADirectory(Path),
    /// A directory stands where a file is needed.
    #[error("{0} is a directory")]
    IsADirectory(Path),
    /// The name is taken.
    #[error("{0} exists already")]
    Exists(Path),
    /// A directory would become its own ancestor.
    #[error("{0} cannot be moved into itself")]
    IntoItself(Path),
    /// An entry is sealed under a key that this person does not have, or not yet.
    #[error("an entry of the space is sealed under a key that is not known here")]
    NoKey,
    /// The changes do not open under the space's key, or are no changes.
    #[error("an entry of the space cannot be opened: another key, or damage")]
    Sealed,
    /// They open, but this version cannot read them.
    #[error("an entry of the space is of a later version: update this node")]
    Codec(#[from] CodecError),
    /// The path has an impossible name.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The database fails.
    #[error("the metadata database fails: {0}")]
    Kv(#[from] KvError),
}

/// The tree of one space, for those who hold its key.
#[derive(Clone, Copy, Debug)]
pub struct Tree {
    space: SpaceId,
    learning_at: Duration,
}

/// One name of a directory.
type Place<'a> = (DirId, &'a Name);

/// Which entry says something: the operations in it are named by that.
#[derive(Clone, Copy)]
struct Said {
    device: NodeId,
    seq: u64,
    clock: Timestamp,
    /// The area that the entry is in.
    area: Option<AreaId>,
    /// Whether what it says of all of the space is heard: in an area that is for those who hear it nowhere else.
    is_for_all: bool,
}

/// What an entry has done to its space.
#[derive(Default)]
struct Effect {
    tally: Tally,
    /// File versions that were removed or overwritten.
    replaced: u64,
    /// The stripes that its changes use.
    used: Vec<StripeId>,
}

impl Tree {
    /// The tree of this space.
    pub fn of(space: SpaceId) -> Self {
        Self {
            space,
            learning_at: Duration::ZERO,
        }
    }

    /// The same, where changes are learned at this point of a time that only grows: so the trash knows how long it has known of what is in it.
    #[must_use]
    pub fn learning_at(self, time: Duration) -> Self {
        Self {
            learning_at: time,
            ..self
        }
    }

    /// Of which space it is.
    pub(crate) fn space(self) -> SpaceId {
        self.space
    }

    fn trash(self) -> Trash {
        Trash::of(self.space)
    }

    /// Seals changes for an entry.
    pub fn seal(self, key: &BoxKey, changes: &[Change], entropy: &dyn Entropy) -> Vec<u8> {
        key.seal(
            Purpose {
                context: CHANGES,
                associated: self.space.as_bytes(),
            },
            &change::pack(changes),
            entropy,
        )
    }

    /// Opens an entry's changes; of one that is erased there are none.
    pub fn open(self, keys: &Keys, entry: &Entry) -> Result<Vec<Change>, TreeError> {
        if entry.is_erased() {
            return Ok(Vec::new());
        }
        Ok(change::unpack(&self.unseal_changes(keys, entry)?)?)
    }

    /// The changes of an entry; of one that is erased, those that were said again.
    pub fn changes(self, kv: &impl Kv, keys: &Keys, device: NodeId, entry: &Entry) -> Result<Vec<Change>, TreeError> {
        if !entry.is_erased() {
            return self.open(keys, entry);
        }
        let id = EntryId { device, seq: entry.seq };
        for notice in Log::of(self.space).notices(kv, device, entry.seq)? {
            if notice.is_erased() || notice.area != entry.area {
                continue;
            }
            let said = self.open(keys, &notice)?;
            if let Some(changes) = said.into_iter().find_map(|change| change.restated(id, entry.clock)) {
                return Ok(changes);
            }
        }
        Ok(Vec::new())
    }

    /// What is to be said again of an entry that was set aside.
    pub fn changes_again(self, keys: &Keys, device: NodeId, again: &Again) -> Result<Vec<Change>, TreeError> {
        let changes = match &again.notice {
            Some(notice) if again.entry.is_erased() => {
                let id = EntryId { device, seq: again.seq };
                let said = self.open(keys, notice)?;
                said.into_iter()
                    .find_map(|change| change.restated(id, again.entry.clock))
                    .unwrap_or_default()
            }
            _ => self.open(keys, &again.entry)?,
        };
        Ok(again.changes(device, changes))
    }

    /// How many bytes of changes an entry has, when they are unpacked; none where they do not open.
    pub fn changes_len(self, keys: &Keys, entry: &Entry) -> Option<usize> {
        change::unpacked_len(&self.unseal_changes(keys, entry).ok()?)
    }

    fn unseal_changes(self, keys: &Keys, entry: &Entry) -> Result<Vec<u8>, TreeError> {
        let purpose = Purpose {
            context: CHANGES,
            associated: self.space.as_bytes(),
        };
        let key = keys.within(entry.epoch, entry.area).ok_or(TreeError::NoKey)?;
        key.open(purpose, &entry.sealed).map_err(|_| TreeError::Sealed)
    }

    /// Opens an entry's changes and applies them. An entry is applied once, when it is appended, in its own device's order; one whose key is not known waits, or while a checkpoint is taken, and
    /// all of that device behind it, see [`Tree::unseal`]. Gives the stripes that its changes use.
    pub fn apply(
        self,
        kv: &mut impl Kv,
        keys: &Keys,
        device: NodeId,
        entry: &Entry,
    ) -> Result<Vec<StripeId>, TreeError> {
        let is_waiting = self.first_sealed(kv, device)?.is_some();
        if is_waiting || checkpoint::is_begun(kv, self.space)? || !self.has_key(kv, keys, device, entry)? {
            if !is_waiting {
                kv.put(Table::Sealed, &self.device_key(device), &entry.seq.to_be_bytes())?;
            }
            return Ok(Vec::new());
        }
        self.apply_now(kv, keys, device, entry)
    }

    /// Opens and applies up to `limit` entries that have waited for their key. Gives the stripes that they use and name; none when there is nothing that could be
    /// opened, or a checkpoint is being taken.
    pub fn unseal(self, kv: &mut impl Kv, keys: &Keys, limit: usize) -> Result<Option<Vec<StripeId>>, TreeError> {
        if checkpoint::is_begun(kv, self.space)? {
            return Ok(None);
        }
        let log = Log::of(self.space);
        let waiting = kv.scan(Table::Sealed, self.space.as_bytes(), None, usize::MAX)?;
        let (mut named, mut opened) = (Vec::new(), 0);
        for (row, first) in waiting {
            let device: [u8; 32] = row[32..]
                .try_into()
                .map_err(|_| KvError::from("a device's key is 64 bytes"))?;
            let device = NodeId::from_bytes(device);
            let first: [u8; 8] = first[..]
                .try_into()
                .map_err(|_| KvError::from("a number has 8 bytes"))?;
            let mut seq = u64::from_be_bytes(first);
            while opened < limit
                && let Some(logged) = log.entry(kv, device, seq)?
            {
                // It was checked when it was appended.
                let (entry, _) = logged.open().map_err(|error| KvError::from(error.to_string()))?;
                if !self.has_key(kv, keys, device, &entry)? {
                    break;
                }
                // What comes behind it is not seen yet.
                kv.put(Table::Sealed, &row, &(seq + 1).to_be_bytes())?;
                named.extend(self.apply_now(kv, keys, device, &entry)?);
                named.extend(entry.pins.iter().chain(&entry.unpins));
                opened += 1;
                seq += 1;
            }
            if log.entry(kv, device, seq)?.is_none() {
                kv.delete(Table::Sealed, &row)?;
            }
        }
        Ok((opened > 0).then_some(named))
    }

    /// Whether all entries that are here are opened.
    pub fn is_unsealed(self, kv: &impl Kv) -> Result<bool, TreeError> {
        Ok(kv.scan(Table::Sealed, self.space.as_bytes(), None, 1)?.is_empty())
    }

    /// Whether what an entry says, or what is left of it, can be opened.
    fn has_key(self, kv: &impl Kv, keys: &Keys, device: NodeId, entry: &Entry) -> Result<bool, KvError> {
        // What is not for the person is passed over.
        if !keys.scope().has(entry.area) {
            return Ok(true);
        }
        let is_over = matches!(keys.scope(), Scope::Areas { is_over: true, .. });
        let has_key = |entry: &Entry| is_over || keys.within(entry.epoch, entry.area).is_some();
        if !entry.is_erased() {
            return Ok(has_key(entry));
        }
        if keys.is_empty() && !is_over {
            // Who reads nothing does not begin with what is left of nothing.
            return Ok(false);
        }
        let notices = Log::of(self.space).notices(kv, device, entry.seq)?;
        let mut left = notices
            .iter()
            .filter(|notice| !notice.is_erased() && notice.area == entry.area);
        Ok(left.all(has_key))
    }

    /// The first entry of a device that waits for its key.
    fn first_sealed(self, kv: &impl Kv, device: NodeId) -> Result<Option<u64>, KvError> {
        let row = kv.get(Table::Sealed, &self.device_key(device))?;
        let number = |row: Vec<u8>| Ok::<_, KvError>(u64::from_be_bytes(row[..].try_into()?));
        row.map(number).transpose()
    }

    fn apply_now(
        self,
        kv: &mut impl Kv,
        keys: &Keys,
        device: NodeId,
        entry: &Entry,
    ) -> Result<Vec<StripeId>, TreeError> {
        if !keys.scope().has(entry.area) {
            return Ok(Vec::new());
        }
        let changes = match self.changes(kv, keys, device, entry) {
            // Its author had the key and sealed something else: nobody ever reads it, and nobody waits for it. Where there is but one key it may be another one.
            Err(TreeError::Sealed) if entry.epoch.is_some() => Vec::new(),
            Err(TreeError::NoKey) if matches!(keys.scope(), Scope::Areas { is_over: true, .. }) => Vec::new(),
            changes => changes?,
        };
        let before = self.trash().totals(kv)?;
        let mut effect = Effect {
            tally: Tally::from(before),
            ..Effect::default()
        };
        let said = Said {
            device,
            seq: entry.seq,
            clock: entry.clock,
            area: entry.area,
            is_for_all: entry.area.is_none() || keys.scope().hears_all_in_areas(),
        };
        if entry.is_erased() {
            let key = self.entry_key(device, entry.seq);
            if changes.is_empty() || kv.get(Table::Restated, &key)?.is_some() {
                return Ok(Vec::new());
            }
            kv.put(Table::Restated, &key, &[])?;
        }
        self.apply_changes(kv, said, changes, &mut effect)?;
        self.trash().note(kv, before, &effect.tally)?;
        if effect.replaced > 0 {
            Turnover::of(self.space).add(kv, entry.clock, effect.replaced, effect.tally.totals.files)?;
        }
        Ok(effect.used)
    }

    fn apply_changes(
        self,
        kv: &mut impl Kv,
        said: Said,
        changes: Vec<Change>,
        effect: &mut Effect,
    ) -> Result<(), TreeError> {
        let Said { clock, area, .. } = said;
        for (at, change) in changes.into_iter().enumerate() {
            let is_heard = said.is_for_all || !change.is_for_all();
            if !is_heard || area.is_some_and(|area| !change.is_within(area)) {
                continue;
            }
            let op = OpId {
                device: said.device,
                seq: said.seq,
                at: u32::try_from(at).expect("an entry holds fewer changes than bytes"),
            };
            match change {
                Change::Set {
                    parent,
                    name,
                    value,
                    replaces,
                    fate,
                } => {
                    if let Some(Value::File(file)) = &value {
                        effect.used.extend(&file.uses);
                    }
                    let removal = removal(fate, (clock, op), value.is_some());
                    let head = value.map(|value| Head {
                        clock,
                        op,
                        value,
                        recoded: None,
                    });
                    let replaces = self.within(kv, area, replaces)?;
                    let went = self.replace(kv, (parent, &name), area, &replaces, removal, &mut effect.tally)?;
                    effect.replaced += if fate.counts() { went } else { 0 };
                    if let Some(head) = head {
                        self.add(kv, (parent, &name), area, head, &mut effect.tally)?;
                    }
                }
                Change::Uses { file, stripes, .. } if stripes.is_empty() => self.release(kv, file)?,
                Change::Uses { file, part, stripes } => {
                    self.use_stripes(kv, file, part, &stripes)?;
                    effect.used.extend(stripes);
                }
                Change::Recode { parent, name, of, file } => {
                    effect.used.extend(&file.uses);
                    if !self.within(kv, area, vec![of])?.is_empty() {
                        self.recode(kv, (parent, &name), area, of, (clock, op), file)?;
                    }
                }
                Change::Settings(settings) => {
                    let said = (clock, op, settings);
                    if self.said(kv)?.is_none_or(|known| (known.0, known.1) < (said.0, said.1)) {
                        kv.put(Table::Settings, self.space.as_bytes(), &to_canonical(&said))?;
                    }
                }
                Change::Snapshot { name, is_there } => {
                    Snapshots::of(self.space).say(kv, &name, Taken { clock, op, is_there })?;
                }
                Change::Accept { until } => {
                    let accepted = &mut effect.tally.totals.accepted;
                    *accepted = until.max(*accepted);
                }
                Change::Restate {
                    device,
                    seq,
                    clock,
                    changes,
                } => {
                    let again = Said {
                        device,
                        seq,
                        clock,
                        ..said
                    };
                    if self.is_to_be_heard(kv, said.device, again)? {
                        kv.put(Table::Restated, &self.entry_key(device, seq), &[])?;
                        // Nobody loses anything now by what it says.
                        let replaced = effect.replaced;
                        let is_again = |change: &Change| matches!(change, Change::Restate { .. });
                        // One in another does not count: nobody writes it.
                        let changes = match changes.iter().any(is_again) {
                            true => Vec::new(),
                            false => changes,
                        };
                        self.apply_changes(kv, again, changes, effect)?;
                        effect.replaced = replaced;
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether what is said again of an entry is still to be heard here: it is here, and its changes were erased before, by the device that says it.
    fn is_to_be_heard(self, kv: &impl Kv, by: NodeId, again: Said) -> Result<bool, KvError> {
        let log = Log::of(self.space);
        let is_here = log
            .position(kv, again.device)?
            .is_some_and(|known| known.seq >= again.seq);
        let is_waiting = self
            .first_sealed(kv, again.device)?
            .is_some_and(|first| first <= again.seq);
        let is_there = log.area_of(kv, again.device, again.seq)? == Some((again.area, again.clock));
        if !is_here || is_waiting || !is_there {
            // It is heard with the entry, or is another one's.
            return Ok(false);
        }
        let is_heard = kv
            .get(Table::Restated, &self.entry_key(again.device, again.seq))?
            .is_some();
        Ok(!is_heard
            && log
                .erased_by(kv, (again.device, again.seq), (by, again.area))?
                .is_some())
    }

    /// Of some operations those that an entry in this area can say something of: those in the same one, and those that are not here yet.
    fn within(self, kv: &impl Kv, area: Option<AreaId>, mut ops: Vec<OpId>) -> Result<Vec<OpId>, KvError> {
        if area.is_some() {
            let log = Log::of(self.space);
            let mut kept = Vec::with_capacity(ops.len());
            for op in ops {
                let known = log.area_of(kv, op.device, op.seq)?;
                // Of numbers no entry has the least: they are for what is in no log.
                if op.seq > 0 && known.is_none_or(|(known, _)| known == area) {
                    kept.push(op);
                }
            }
            ops = kept;
        }
        Ok(ops)
    }

    /// Takes values from a name, or from the trash. Gives the number of file versions that had the name.
    fn replace(
        self,
        kv: &mut impl Kv,
        place: Place<'_>,
        area: Option<AreaId>,
        replaces: &[OpId],
        replacement: Replacement,
        tally: &mut Tally,
    ) -> Result<u64, TreeError> {
        let mut heads = self.register(kv, place.0, place.1)?;
        let (mut others, before, files) = (Vec::new(), heads.len(), tally.totals.files);
        for replaced in replaces {
            let is_it = |head: &Head| head.op == *replaced && !matches!(head.value, Value::Directory(_));
            match heads.iter().position(is_it) {
                Some(at) => {
                    let head = heads.remove(at);
                    if place.0 != DirId::LINKS {
                        tally.unnamed(&head);
                    }
                    self.part_with(kv, place, head, replacement, tally)?;
                }
                None => others.push(*replaced),
            }
        }
        if heads.len() < before {
            self.set_register(kv, place, &heads)?;
            self.touch(kv, place.0)?;
        }
        for replaced in others {
            match self.unplace(kv, replaced)? {
                Some((parent, name, head)) => self.part_with(kv, (parent, &name), head, replacement, tally)?,
                None => self.replace_again(kv, area, replaced, replacement, tally)?,
            }
        }
        Ok(files.saturating_sub(tally.totals.files))
    }

    /// A value has no name any more: it goes to the trash, or lets go of its stripes.
    fn part_with(
        self,
        kv: &mut impl Kv,
        (parent, name): Place<'_>,
        head: Head,
        replacement: Replacement,
        tally: &mut Tally,
    ) -> Result<(), TreeError> {
        let Some(removal) = replacement else {
            return self.release_value(kv, &head.value);
        };
        let kept = Kept {
            parent,
            name: name.clone(),
            head,
            removal,
        };
        self.mark_kept(kv, &kept)?;
        Ok(self.trash().insert(kv, &kept, self.learning_at, tally)?)
    }

    /// A value that has no name, or has not been seen yet, is replaced by one more operation.
    fn replace_again(
        self,
        kv: &mut impl Kv,
        area: Option<AreaId>,
        op: OpId,
        replacement: Replacement,
        tally: &mut Tally,
    ) -> Result<(), TreeError> {
        let trash = self.trash();
        if let Some(mut kept) = trash.get(kv, op)? {
            match replacement {
                None => {
                    trash.remove(kv, &kept, tally)?;
                    self.release_value(kv, &kept.head.value)?;
                }
                Some(removal) => {
                    let joined = kept.removal.join(removal);
                    if joined != kept.removal {
                        trash.remove(kv, &kept, tally)?;
                        kept.removal = joined;
                        trash.insert(kv, &kept, self.learning_at, tally)?;
                        self.mark_kept(kv, &kept)?;
                    }
                }
            }
            return Ok(());
        }
        if self.is_seen(kv, op)? {
            return Ok(());
        }
        Ok(trash.foresee(kv, area, op, replacement)?)
    }

    fn is_seen(self, kv: &impl Kv, op: OpId) -> Result<bool, KvError> {
        let key = self.entry_key(op.device, op.seq);
        if !kv.scan(Table::Erased, &key, None, 1)?.is_empty() {
            return Ok(kv.get(Table::Restated, &key)?.is_some());
        }
        let known = Log::of(self.space).position(kv, op.device)?;
        let sealed = self.first_sealed(kv, op.device)?;
        Ok(known.is_some_and(|position| position.seq >= op.seq) && sealed.is_none_or(|first| op.seq < first))
    }

    /// Adds a value to a name, unless it was replaced before it came.
    fn add(
        self,
        kv: &mut impl Kv,
        place: Place<'_>,
        area: Option<AreaId>,
        mut head: Head,
        tally: &mut Tally,
    ) -> Result<(), TreeError> {
        if let Some((by, file)) = self.take_recoded(kv, area, head.op)?
            && let Value::File(old) = &mut head.value
        {
            self.release(kv, old.id)?;
            *old = file;
            head.recoded = Some(by);
        }
        match &head.value {
            Value::File(file) => self.use_stripes(kv, file.id, u32::MAX, &file.uses)?,
            Value::Directory(_) | Value::Space(_) => {}
        }
        let foreseen = self.trash().take_foreseen(kv, area, head.op)?;
        if let Value::Directory(id) = head.value {
            let placement = Placement {
                clock: head.clock,
                op: head.op,
                parent: place.0,
                name: place.1.clone(),
                area,
            };
            self.place(kv, id, placement, foreseen.is_none())?;
        }
        if let Some(replacement) = foreseen {
            return self.part_with(kv, place, head, replacement, tally);
        }
        if matches!(head.value, Value::Directory(_)) {
            return Ok(());
        }
        if place.0 != DirId::LINKS {
            tally.named(&head);
        }
        let mut heads = self.register(kv, place.0, place.1)?;
        heads.push(head);
        self.set_register(kv, place, &places::sorted(heads))?;
        Ok(self.touch(kv, place.0)?)
    }

    fn set_register(self, kv: &mut impl Kv, (parent, name): Place<'_>, heads: &[Head]) -> Result<(), KvError> {
        let key = self.register_key(parent, name.as_str());
        if heads.is_empty() {
            kv.delete(Table::Registers, &key)?;
        } else {
            kv.put(Table::Registers, &key, &to_canonical(&heads))?;
        }
        match Head::distinct(heads).nth(1) {
            Some(_) if parent != DirId::LINKS => kv.put(Table::Conflicts, &key, &[])?,
            _ => kv.delete(Table::Conflicts, &key)?,
        }
        Ok(())
    }

    /// Of two that moved one version apart the later decides, wherever they arrive first.
    fn recode(
        self,
        kv: &mut impl Kv,
        place: Place<'_>,
        area: Option<AreaId>,
        of: OpId,
        by: Move,
        file: File,
    ) -> Result<(), TreeError> {
        let mut heads = self.heads(kv, place.0, place.1)?;
        if let Some(head) = heads.iter_mut().find(|head| head.op == of) {
            self.recode_head(kv, head, by, file)?;
            return Ok(self.set_register(kv, place, &heads)?);
        }
        if let Some(mut kept) = self.trash().get(kv, of)? {
            self.recode_head(kv, &mut kept.head, by, file)?;
            self.mark_kept(kv, &kept)?;
            return Ok(self.trash().update(kv, &kept)?);
        }
        if self.is_seen(kv, of)? {
            return self.release(kv, file.id);
        }
        let key = op_key_in(self.op_key(of), area);
        match self.take_recoded(kv, area, of)? {
            Some((other, there)) if other > by => {
                self.release(kv, file.id)?;
                Ok(kv.put(Table::Recoded, &key, &to_canonical(&(other, there)))?)
            }
            other => {
                if let Some((_, there)) = other {
                    self.release(kv, there.id)?;
                }
                Ok(kv.put(Table::Recoded, &key, &to_canonical(&(by, file)))?)
            }
        }
    }

    fn recode_head(self, kv: &mut impl Kv, head: &mut Head, by: Move, file: File) -> Result<(), TreeError> {
        match &mut head.value {
            Value::File(old) if head.recoded.is_none_or(|other| other < by) => {
                self.release(kv, old.id)?;
                self.use_stripes(kv, file.id, u32::MAX, &file.uses)?;
                (*old, head.recoded) = (file, Some(by));
                Ok(())
            }
            _ => self.release(kv, file.id),
        }
    }

    fn take_recoded(self, kv: &mut impl Kv, area: Option<AreaId>, op: OpId) -> Result<Option<(Move, File)>, TreeError> {
        let mut taken = None::<(Move, File)>;
        // What concerns all of the space may have said so, too.
        for said_in in [None, area].into_iter().take(1 + usize::from(area.is_some())) {
            let key = op_key_in(self.op_key(op), said_in);
            let Some(row) = kv.get(Table::Recoded, &key)? else {
                continue;
            };
            kv.delete(Table::Recoded, &key)?;
            let other: (Move, File) = from_canonical(&row)?;
            taken = match taken {
                Some(known) if known.0 > other.0 => {
                    self.release(kv, other.1.id)?;
                    Some(known)
                }
                known => {
                    if let Some((_, file)) = known {
                        self.release(kv, file.id)?;
                    }
                    Some(other)
                }
            };
        }
        Ok(taken)
    }

    fn use_stripes(self, kv: &mut impl Kv, file: FileId, part: u32, stripes: &[StripeId]) -> Result<(), TreeError> {
        if stripes.is_empty() {
            return Ok(());
        }
        let key = [&self.space.as_bytes()[..], &file.0, &part.to_be_bytes()].concat();
        kv.put(Table::Uses, &key, &to_canonical(&stripes))?;
        for stripe in stripes {
            kv.put(Table::Users, &self.user_key(*stripe, file), &[])?;
        }
        Ok(())
    }

    /// Takes a row of [`Table::Uses`] from another replica, as it is; its key is without the space. Whether it is one.
    pub(crate) fn take_uses(self, kv: &mut impl Kv, key: &[u8], row: &[u8]) -> Result<bool, KvError> {
        let (Some((file, part)), Ok(stripes)) = (key.split_first_chunk::<16>(), from_canonical::<Vec<StripeId>>(row))
        else {
            return Ok(false);
        };
        for stripe in stripes {
            kv.put(Table::Users, &self.user_key(stripe, FileId(*file)), &[])?;
        }
        kv.put(Table::Uses, &[&self.space.as_bytes()[..], key].concat(), row)?;
        Ok(part.len() == 4)
    }

    /// Takes the values of a name that another replica has, but for directories, which follow from their places; the row's key is without the space. Whether it is a row of
    /// [`Table::Registers`].
    pub(crate) fn take_register(self, kv: &mut impl Kv, key: &[u8], row: &[u8]) -> Result<bool, KvError> {
        let (Some((parent, name)), Ok(mut heads)) = (key.split_first_chunk::<16>(), from_canonical::<Vec<Head>>(row))
        else {
            return Ok(false);
        };
        let Some(name) = name_in(name) else { return Ok(false) };
        heads.retain(|head| !matches!(head.value, Value::Directory(_)));
        self.set_register(kv, (DirId(*parent), &name), &places::sorted(heads))?;
        Ok(true)
    }

    /// Takes a value that is in the trash of another replica, after what its version uses.
    pub(crate) fn take_kept(self, kv: &mut impl Kv, kept: &Kept) -> Result<(), KvError> {
        self.mark_kept(kv, kept)?;
        self.trash().insert(kv, kept, self.learning_at, &mut Tally::default())
    }

    /// What a version uses is used by the trash from now on.
    fn mark_kept(self, kv: &mut impl Kv, kept: &Kept) -> Result<(), KvError> {
        let Value::File(File { id: file, .. }) = kept.head.value else {
            return Ok(());
        };
        let mark = if kept.lives_on() { MOVED } else { KEPT };
        let prefix = [&self.space.as_bytes()[..], &file.0].concat();
        let mut after = None;
        while let Some((key, part)) = kv.scan(Table::Uses, &prefix, after.as_deref(), 1)?.pop() {
            for stripe in from_canonical::<Vec<StripeId>>(&part)? {
                kv.put(Table::Users, &self.user_key(stripe, file), &mark)?;
            }
            after = Some(key);
        }
        Ok(())
    }

    fn release_value(self, kv: &mut impl Kv, value: &Value) -> Result<(), TreeError> {
        match value {
            Value::File(file) => self.release(kv, file.id),
            Value::Directory(_) | Value::Space(_) => Ok(()),
        }
    }

    fn release(self, kv: &mut impl Kv, file: FileId) -> Result<(), TreeError> {
        let prefix = [&self.space.as_bytes()[..], &file.0].concat();
        while let Some((key, stripes)) = kv.scan(Table::Uses, &prefix, None, 1)?.pop() {
            for stripe in from_canonical::<Vec<StripeId>>(&stripes)? {
                kv.delete(Table::Users, &self.user_key(stripe, file))?;
            }
            kv.delete(Table::Uses, &key)?;
        }
        Ok(())
    }

    /// The stripes that a file version uses.
    pub fn stripes_of(self, kv: &impl Kv, file: FileId) -> Result<Vec<StripeId>, TreeError> {
        let mut stripes = Vec::new();
        self.each_part(kv, file, |part| stripes.extend(part))?;
        Ok(stripes)
    }

    /// How many those are.
    pub fn count_stripes(self, kv: &impl Kv, file: FileId) -> Result<u64, TreeError> {
        let mut count = 0;
        self.each_part(kv, file, |part| count += part.len() as u64)?;
        Ok(count)
    }

    fn each_part(self, kv: &impl Kv, file: FileId, mut take: impl FnMut(Vec<StripeId>)) -> Result<(), TreeError> {
        let prefix = [&self.space.as_bytes()[..], &file.0].concat();
        let mut after = None;
        while let Some((key, part)) = kv.scan(Table::Uses, &prefix, after.as_deref(), 1)?.pop() {
            take(from_canonical(&part)?);
            after = Some(key);
        }
        Ok(())
    }

    /// Whether any file version uses a stripe.
    pub fn is_used(self, kv: &impl Kv, stripe: StripeId) -> Result<bool, TreeError> {
        self.is_used_beside(kv, stripe, &BTreeSet::new())
    }

    /// Whether any file version uses a stripe that is not in the trash.
    pub fn is_needed(self, kv: &impl Kv, stripe: StripeId) -> Result<bool, TreeError> {
        self.is_used_with(kv, stripe, <[u8]>::is_empty)
    }

    /// Whether a value in the trash that was moved, or brought back, lives on: a version uses what it uses that has a name, or was itself removed or overwritten. Of content that is
    /// in the value nobody knows.
    pub fn does_live_on(self, kv: &impl Kv, kept: &Kept) -> Result<bool, TreeError> {
        let Value::File(file) = &kept.head.value else {
            return Ok(true);
        };
        match self.stripes_of(kv, file.id)?.first() {
            Some(stripe) => self.is_used_with(kv, *stripe, |mark| *mark != MOVED),
            None => Ok(true),
        }
    }

    fn is_used_with(self, kv: &impl Kv, stripe: StripeId, which: impl Fn(&[u8]) -> bool) -> Result<bool, TreeError> {
        let prefix = [&self.space.as_bytes()[..], stripe.as_bytes()].concat();
        let mut after = None::<Vec<u8>>;
        loop {
            let rows = kv.scan(Table::Users, &prefix, after.as_deref(), USERS_PAGE)?;
            let Some((last, _)) = rows.last() else {
                return Ok(false);
            };
            if rows.iter().any(|(_, mark)| which(mark)) {
                return Ok(true);
            }
            after = Some(last.clone());
        }
    }

    fn is_used_beside(self, kv: &impl Kv, stripe: StripeId, files: &BTreeSet<FileId>) -> Result<bool, TreeError> {
        let mut after = None;
        loop {
            let rows = self.users_page(kv, stripe, after)?;
            let Some((last, _)) = rows.last() else {
                return Ok(false);
            };
            if rows.iter().any(|(file, _)| !files.contains(file)) {
                return Ok(true);
            }
            after = Some(*last);
        }
    }

    /// File versions that use a stripe, in the order of their ids, after one; at most a page.
    pub fn users(self, kv: &impl Kv, stripe: StripeId, after: Option<FileId>) -> Result<Vec<FileId>, TreeError> {
        let rows = self.users_page(kv, stripe, after)?;
        Ok(rows.into_iter().map(|(file, _)| file).collect())
    }

    fn users_page(
        self,
        kv: &impl Kv,
        stripe: StripeId,
        after: Option<FileId>,
    ) -> Result<Vec<(FileId, Vec<u8>)>, TreeError> {
        let prefix = [&self.space.as_bytes()[..], stripe.as_bytes()].concat();
        let after = after.map(|file| self.user_key(stripe, file));
        let rows = kv.scan(Table::Users, &prefix, after.as_deref(), USERS_PAGE)?;
        rows.into_iter()
            .map(|(key, mark)| {
                let file = key[prefix.len()..].try_into().map_err(|_| "a user's key is 80 bytes")?;
                Ok((FileId::from_bytes(file), mark))
            })
            .collect::<Result<_, KvError>>()
            .map_err(TreeError::from)
    }

    /// The stripes that no file version uses any more once these changes are applied; versions in the trash use theirs.
    pub fn given_up(self, kv: &impl Kv, changes: &[Change]) -> Result<Vec<StripeId>, TreeError> {
        let (mut released, mut used) = (BTreeSet::<FileId>::new(), BTreeSet::<StripeId>::new());
        for change in changes {
            match change {
                Change::Set {
                    parent,
                    name,
                    value,
                    replaces,
                    fate,
                } => {
                    if fate.millis().is_none() {
                        released.extend(self.versions(kv, (*parent, name), replaces)?);
                    }
                    if let Some(Value::File(file)) = value {
                        used.extend(&file.uses);
                    }
                }
                Change::Uses { file, stripes, .. } if stripes.is_empty() => _ = released.insert(*file),
                Change::Uses { stripes, .. } => used.extend(stripes),
                Change::Recode { parent, name, of, file } => {
                    released.extend(self.versions(kv, (*parent, name), std::slice::from_ref(of))?);
                    used.extend(&file.uses);
                }
                Change::Settings(_) | Change::Snapshot { .. } | Change::Accept { .. } | Change::Restate { .. } => {}
            }
        }
        let (mut given_up, mut seen) = (Vec::new(), BTreeSet::new());
        for file in &released {
            for stripe in self.stripes_of(kv, *file)? {
                if seen.insert(stripe) && !used.contains(&stripe) && !self.is_used_beside(kv, stripe, &released)? {
                    given_up.push(stripe);
                }
            }
        }
        Ok(given_up)
    }

    /// The file versions that these operations set, of those that a name has or has in the trash.
    fn versions(self, kv: &impl Kv, (parent, name): Place<'_>, ops: &[OpId]) -> Result<Vec<FileId>, TreeError> {
        if ops.is_empty() {
            return Ok(Vec::new());
        }
        let heads = self.heads(kv, parent, name)?;
        let mut versions = Vec::new();
        for op in ops {
            let value = match heads.iter().find(|head| head.op == *op) {
                Some(head) => Some(head.value.clone()),
                None => self.trash().get(kv, *op)?.map(|kept| kept.head.value),
            };
            if let Some(Value::File(file)) = value {
                versions.push(file.id);
            }
        }
        Ok(versions)
    }

    /// What holds for all that is in the space.
    pub fn settings(self, kv: &impl Kv) -> Result<Settings, KvError> {
        Ok(self
            .said(kv)?
            .map_or_else(Settings::default, |(_, _, settings)| settings))
    }

    fn said(self, kv: &impl Kv) -> Result<Option<(Timestamp, OpId, Settings)>, KvError> {
        let row = kv.get(Table::Settings, self.space.as_bytes())?;
        row.map(|row| Ok(from_canonical(&row)?)).transpose()
    }

    /// Counts the files of every space anew: for a database that was written when nobody counted.
    pub fn count_all(kv: &mut impl Kv) -> Result<(), KvError> {
        let (mut all, mut after) = (std::collections::BTreeMap::<SpaceId, Totals>::new(), None::<Vec<u8>>);
        loop {
            let rows = kv.scan(Table::Registers, &[], after.as_deref(), COUNT_PAGE)?;
            let Some((last, _)) = rows.last() else { break };
            after = Some(last.clone());
            for (key, row) in rows {
                let space: [u8; 32] = key[..32].try_into().map_err(|_| "a register's key is longer")?;
                let totals = all.entry(SpaceId::from_bytes(space)).or_default();
                for head in from_canonical::<Vec<Head>>(&row)? {
                    totals.named(&head.value);
                }
            }
        }
        all.into_iter()
            .try_for_each(|(space, totals)| Trash::of(space).set_totals(kv, totals))
    }

    /// Names whose values conflict, with the directories that they are in, after one of them, up to a number.
    pub fn conflicts(
        self,
        kv: &impl Kv,
        after: Option<(DirId, &Name)>,
        limit: usize,
    ) -> Result<Vec<(DirId, Name)>, TreeError> {
        let after = after.map(|(parent, name)| self.register_key(parent, name.as_str()));
        let rows = kv.scan(Table::Conflicts, self.space.as_bytes(), after.as_deref(), limit)?;
        let place = |(key, _): (Vec<u8>, Vec<u8>)| {
            let parent = key.get(32..48).and_then(|id| id.try_into().ok());
            let name = key.get(48..).and_then(|name| String::from_utf8(name.to_vec()).ok());
            let (parent, name) = parent.zip(name).ok_or(TreeError::Sealed)?;
            Ok((DirId(parent), name.try_into()?))
        };
        rows.into_iter().map(place).collect()
    }

    /// The values of a name, the latest first.
    pub fn heads(self, kv: &impl Kv, parent: DirId, name: &Name) -> Result<Vec<Head>, TreeError> {
        Ok(self.register(kv, parent, name)?)
    }

    fn register(self, kv: &impl Kv, parent: DirId, name: &Name) -> Result<Vec<Head>, KvError> {
        let row = kv.get(Table::Registers, &self.register_key(parent, name.as_str()))?;
        row.map_or_else(|| Ok(Vec::new()), |row| Ok(from_own(&row)?))
    }

    /// Names of a directory in order, after a name, up to a number.
    pub fn list(
        self,
        kv: &impl Kv,
        directory: DirId,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<Listed>, TreeError> {
        let prefix = self.register_key(directory, "");
        let after = after.map(|name| self.register_key(directory, name.as_str()));
        let rows = kv.scan(Table::Registers, &prefix, after.as_deref(), limit)?;
        rows.into_iter()
            .map(|(key, row)| {
                let name = String::from_utf8(key[prefix.len()..].to_vec()).map_err(|_| TreeError::Sealed)?;
                Ok(Listed {
                    name: name.try_into()?,
                    heads: from_own(&row)?,
                })
            })
            .collect()
    }

    /// The id of a directory that is made.
    pub(crate) fn new_directory(
        self,
        kv: &impl Kv,
        parent: DirId,
        name: &Name,
        entropy: &dyn Entropy,
    ) -> Result<DirId, TreeError> {
        self.new_in(kv, parent, (b"potluck directory 1", name.as_str().as_bytes()), entropy)
    }

    /// The id that a directory has in another area, where it is made anew: in this directory. Two devices that move it apart make the same one.
    pub fn carried(
        self,
        kv: &impl Kv,
        parent: DirId,
        before: DirId,
        entropy: &dyn Entropy,
    ) -> Result<DirId, TreeError> {
        self.new_in(kv, parent, (b"potluck directory carried 1", &before.0), entropy)
    }

    /// Where a directory that is nowhere any more was made anew, in this one; nothing when it is not there.
    pub fn carried_to(self, kv: &impl Kv, parent: DirId, before: DirId) -> Result<Option<DirId>, KvError> {
        let anew = self.derived(parent, (b"potluck directory carried 1", &before.0));
        let place = self.place_of(kv, anew)?;
        Ok(place.is_some().then_some(anew))
    }

    fn derived(self, parent: DirId, (context, from): (&[u8], &[u8])) -> DirId {
        let hash = Hash::of(&[context, &self.space.as_bytes()[..], &parent.0, from].concat());
        parent.child(hash.as_bytes()[..16].try_into().expect("16 of 32 bytes"))
    }

    fn new_in(
        self,
        kv: &impl Kv,
        parent: DirId,
        from: (&[u8], &[u8]),
        entropy: &dyn Entropy,
    ) -> Result<DirId, TreeError> {
        let derived = self.derived(parent, from);
        let taken = kv.get(Table::Directories, &self.dir_key(derived))?.is_some();
        Ok(if taken { parent.child(entropy.bytes()) } else { derived })
    }

    /// Shows each area in the root, under the name that it has for a person who reads nothing else.
    pub fn show_areas(self, kv: &mut impl Kv, scope: &Scope) -> Result<(), KvError> {
        let Scope::Areas { areas, .. } = scope else {
            return Ok(());
        };
        for (area, called) in areas {
            let name = Name::try_from(called.clone());
            // Nobody has said so: it is in no log.
            let mut device = [0; 32];
            device[..4].copy_from_slice(area.as_bytes());
            let placement = Placement {
                clock: Timestamp::default(),
                op: OpId {
                    device: NodeId::from_bytes(device),
                    seq: 0,
                    at: 0,
                },
                parent: DirId::ROOT,
                name: name.or_else(|_| Name::try_from(format!("{area:?}")))?,
                area: None,
            };
            self.place(kv, area.top(), placement, true)?;
        }
        Ok(())
    }

    /// The id of a directory that takes the place of one in the trash. Two devices that bring it back apart make the same one; it is another than
    /// before, since that may have been moved elsewhere by who had not heard of its removal.
    pub fn brought_back(self, parent: DirId, kept: &Kept) -> DirId {
        let hash = Hash::of(
            &[
                b"potluck directory brought back 1",
                &self.space.as_bytes()[..],
                &kept.parent.0,
                kept.name.as_str().as_bytes(),
                &op_bytes(kept.head.op),
            ]
            .concat(),
        );
        parent.child(hash.as_bytes()[..16].try_into().expect("16 of 32 bytes"))
    }

    pub(crate) fn register_key(self, directory: DirId, name: &str) -> Vec<u8> {
        [&self.space.as_bytes()[..], &directory.0, name.as_bytes()].concat()
    }

    fn dir_key(self, directory: DirId) -> Vec<u8> {
        [&self.space.as_bytes()[..], &directory.0].concat()
    }

    fn device_key(self, device: NodeId) -> Vec<u8> {
        [&self.space.as_bytes()[..], device.as_bytes()].concat()
    }

    fn entry_key(self, device: NodeId, seq: u64) -> Vec<u8> {
        [&self.device_key(device)[..], &seq.to_be_bytes()].concat()
    }

    fn op_key(self, op: OpId) -> Vec<u8> {
        [&self.space.as_bytes()[..], &op_bytes(op)].concat()
    }

    fn user_key(self, stripe: StripeId, file: FileId) -> Vec<u8> {
        [&self.space.as_bytes()[..], stripe.as_bytes(), &file.0].concat()
    }
}

/// The key of what was said of an operation before that was seen, by an entry of an area: an entry of another one has nothing to say of it.
pub(crate) fn op_key_in(mut key: Vec<u8>, area: Option<AreaId>) -> Vec<u8> {
    key.extend(area.iter().flat_map(AreaId::as_bytes));
    key
}

/// What a change with this fate, clock and operation does with what it replaces.
fn removal(fate: Fate, (clock, op): Move, overwrites: bool) -> Replacement {
    fate.millis().map(|millis| Removal {
        until: clock + Duration::from_millis(millis),
        clock,
        op,
        overwrites,
        moved: match fate {
            Fate::Moved(_) => Moved::Only,
            _ => Moved::Not,
        },
    })
}

#[cfg(test)]
mod tests;
