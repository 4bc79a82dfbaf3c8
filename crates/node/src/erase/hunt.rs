//! What is to be erased: all versions that a path and those below it ever had, as the logs say, under whatever names they were before.
//!
//! A content is known by what was sealed: whoever moved, brought back or coded anew a file has said the key to it once more. Bytes that lie in the log itself are followed from
//! one name to the next. The logs are read as often as something more is found, which is two or three times.

use crate::{
    apart::root,
    charters,
    error::{MetaError, NodeError},
    space::OpenSpace,
    trash,
};
use potluck_dag::{Content, Piece};
use potluck_spaces::{
    AppendError, Change, DirId, Entry, File, FileId, Head, Kv, Log, Name, OpId, Path, Trash, Tree, Value,
};
use potluck_types::{Hash, NodeId, Timestamp, from_canonical};
use std::collections::{BTreeMap, BTreeSet};

/// Entries that are read at once.
const ENTRIES: usize = 256;
/// Names that are read at once.
const NAMES: usize = 256;
/// Versions that one hunt finds at most: the rest is for the next.
const VERSIONS_MAX: usize = 20_000;

/// Where what is to be erased is, or was.
#[derive(Clone, Default, Debug)]
pub(super) struct Places {
    /// The path and all below it that are directories, or were.
    pub(super) directories: BTreeSet<DirId>,
    names: BTreeSet<(DirId, Name)>,
    /// The devices whose entries this person may erase.
    erasable: BTreeSet<NodeId>,
    /// How far each log was known when the person was asked: what came later stays.
    known: Known,
}

/// The number of the last entry of each device.
pub(super) type Known = BTreeMap<NodeId, u64>;

impl Places {
    /// Of a path and of all below it, also of what was removed.
    pub(super) fn of(space: &OpenSpace, kv: &impl Kv, path: &Path, known: Known) -> Result<Self, NodeError> {
        let mut places = Self {
            known,
            ..Self::default()
        };
        if let Some((parent, name)) = path.split() {
            let parents = trash::directories(space, kv, &parent)?;
            places.names = parents.into_iter().map(|parent| (parent, name.clone())).collect();
        }
        for device in Log::of(space.id())
            .frontier(kv)
            .map_err(MetaError::reading)?
            .into_keys()
        {
            if charters::may_erase(space, kv, space.id(), space.me(), device)? {
                places.erasable.insert(device);
            }
        }
        for directory in trash::directories(space, kv, path)? {
            places.add(space, kv, directory)?;
        }
        Ok(places)
    }

    /// With a directory and all below it, unless it is elsewhere by now. Whether that is more.
    fn add(&mut self, space: &OpenSpace, kv: &impl Kv, directory: DirId) -> Result<bool, NodeError> {
        let before = self.directories.len();
        let mut left = vec![directory];
        while let Some(directory) = left.pop() {
            let place = Tree::of(space.id()).place_of(kv, directory);
            let place = place.map_err(MetaError::reading)?;
            let is_here = directory == DirId::ROOT || place.is_none_or(|place| self.have(&place));
            if is_here && self.directories.insert(directory) {
                below(space, kv, directory, &mut left)?;
            }
        }
        Ok(self.directories.len() > before)
    }

    /// Whether a version that is set by this operation is to go for where that is.
    fn have_set(&self, place: &(DirId, Name), op: OpId) -> bool {
        self.have(place) && self.known.get(&op.device).is_some_and(|last| op.seq <= *last)
    }

    fn have(&self, place: &(DirId, Name)) -> bool {
        self.directories.contains(&place.0) || self.names.contains(place)
    }
}

/// The directories that are in one, or were.
fn below(space: &OpenSpace, kv: &impl Kv, directory: DirId, into: &mut Vec<DirId>) -> Result<(), NodeError> {
    let mut add = |heads: &mut dyn Iterator<Item = &Head>| {
        into.extend(heads.filter_map(|head| match head.value {
            Value::Directory(id) => Some(id),
            Value::File(_) | Value::Space(_) => None,
        }));
    };
    let mut after = None;
    loop {
        let page = Tree::of(space.id()).list(kv, directory, after.as_ref(), NAMES)?;
        let Some(last) = page.last() else { break };
        after = Some(last.name.clone());
        page.iter().for_each(|listed| add(&mut listed.heads.iter()));
    }
    let mut after = None;
    loop {
        let page = Trash::of(space.id()).list(kv, directory, after.as_ref(), NAMES);
        let page = page.map_err(MetaError::reading)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        page.iter()
            .for_each(|(_, kept)| add(&mut kept.iter().map(|kept| &kept.head)));
    }
}

/// What was found.
#[derive(Default, Debug)]
pub(super) struct Found {
    /// The operations that set the versions, and where.
    pub(super) versions: BTreeMap<OpId, (DirId, Name)>,
    /// The same, with those of which the content is erased already.
    ops: BTreeSet<OpId>,
    /// What was sealed of them.
    sealed: BTreeSet<Hash>,
    /// Which part of that each is, by where it begins.
    parts: BTreeSet<(Hash, u32)>,
    /// Those of them whose bytes are in the log, and the hashes of these.
    inline: (BTreeSet<FileId>, BTreeSet<Hash>),
    /// Operations whose values were moved, maybe to where one of them is.
    moved: BTreeSet<OpId>,
    /// Operations whose values one of them took the place of: earlier versions, wherever the file was then.
    earlier: BTreeSet<OpId>,
    /// Operations that set versions elsewhere which lie in the same sealed pieces.
    pub(super) others: BTreeMap<OpId, (DirId, Name)>,
    /// When the first of all was set.
    since: Option<Timestamp>,
    /// Directories that a name among them stood for.
    directories: BTreeSet<DirId>,
}

/// One operation of a log.
struct Step<'a> {
    op: OpId,
    clock: Timestamp,
    change: &'a Change,
    /// All of the same entry.
    beside: &'a [Change],
}

impl Found {
    /// All that there is to be found.
    pub(super) fn in_logs(space: &OpenSpace, kv: &impl Kv, places: &mut Places) -> Result<Self, NodeError> {
        let mut found = Self::default();
        loop {
            let before = found.size();
            each_entry(space, kv, &mut |device, entry, changes| {
                each_step((device, entry), &changes, &mut |step| found.look_at(places, &step));
                Ok(())
            })?;
            let mut is_more = found.size() > before;
            for directory in std::mem::take(&mut found.directories) {
                is_more |= places.add(space, kv, directory)?;
            }
            if !is_more {
                return Ok(found);
            }
        }
    }

    /// Whether there may be more than one hunt finds.
    pub(super) fn is_full(&self) -> bool {
        self.versions.len() >= VERSIONS_MAX
    }

    fn size(&self) -> usize {
        let ops = self.ops.len() + self.versions.len() + self.moved.len() + self.earlier.len() + self.others.len();
        ops + self.sealed.len() + self.inline.0.len()
    }

    fn look_at(&mut self, places: &Places, step: &Step<'_>) {
        if let Change::Set {
            parent,
            name,
            value: Some(Value::Directory(id)),
            ..
        } = step.change
            && places.have(&(*parent, name.clone()))
        {
            self.directories.insert(*id);
        }
        let Some((place, of, file)) = set_by(step) else { return };
        let is_known = self.ops.contains(&of);
        let is_version = is_known
            || places.have_set(&place, of)
            || self.earlier.contains(&of)
            || self.is_listing(places, &place, step)
            // It is where it was moved to: under this name there is nothing.
            || (self.moved.contains(&of) && self.is_same(file));
        if !is_version {
            if self.holds(file) {
                self.others.insert(of, place);
            }
        } else if is_known || !self.is_full() {
            self.ops.insert(of);
            self.follow(step);
            if !file.is_erased() {
                self.versions.insert(of, place);
                self.since = Some(self.since.map_or(step.clock, |since| since.min(step.clock)));
                self.add_content(file);
            }
        }
    }

    /// Whether a file's content is that of one of the versions.
    fn is_same(&self, file: &File) -> bool {
        match root(file) {
            Some(piece) => self.parts.contains(&(piece.sealed_id(), piece.part().start)),
            None => inline(file).is_some_and(|bytes| self.inline.1.contains(&bytes)),
        }
    }

    /// What links showed meanwhile has the keys to what they showed.
    fn is_listing(&self, places: &Places, place: &(DirId, Name), step: &Step<'_>) -> bool {
        let is_since = self.since.is_some_and(|since| step.clock >= since);
        place.0 == DirId::LINKS && is_since && places.erasable.contains(&step.op.device)
    }

    fn add_content(&mut self, file: &File) {
        match root(file) {
            Some(piece) => {
                self.sealed.insert(piece.sealed_id());
                self.parts.insert((piece.sealed_id(), piece.part().start));
            }
            None => {
                if let Some(bytes) = inline(file) {
                    self.inline.0.insert(file.id);
                    self.inline.1.insert(bytes);
                }
            }
        }
    }

    /// What a version took the place of, and what was taken away when it was set: that may be where it was before.
    fn follow(&mut self, step: &Step<'_>) {
        if let Change::Set { replaces, .. } = step.change {
            self.earlier.extend(replaces);
        }
        for change in step.beside {
            if let Change::Set {
                value: None, replaces, ..
            } = change
            {
                self.moved.extend(replaces);
            }
        }
    }

    /// Whether a file's content is among what was found, as far as one can tell from it.
    pub(super) fn holds(&self, file: &File) -> bool {
        match root(file) {
            Some(piece) => self.sealed.contains(&piece.sealed_id()),
            None => !file.is_erased() && self.inline.0.contains(&file.id),
        }
    }

    /// What stays elsewhere is not erased.
    pub(super) fn leave(&mut self, piece: &Piece) {
        self.sealed.remove(&piece.sealed_id());
    }

    /// One that is in the trash elsewhere is a version of the same, and goes with it.
    pub(super) fn take(&mut self, there: &There) {
        self.versions.insert(there.op, (there.parent, there.name.clone()));
        self.others.remove(&there.op);
    }

    /// Whether an entry says the content of one of the versions where it is erased: those go last, as what it was before is found by them.
    pub(super) fn is_told_at(&self, places: &Places, (device, entry): (NodeId, &Entry), changes: &[Change]) -> bool {
        let mut is_told = false;
        each_step((device, entry), changes, &mut |step| {
            is_told |= set_by(&step).is_some_and(|(place, _, file)| places.have(&place) && self.holds(file));
        });
        is_told
    }

    /// Leaves what is sealed in versions that are there. Whether there were any.
    pub(super) fn leave_what_is_there(&mut self, space: &OpenSpace, kv: &impl Kv) -> Result<bool, NodeError> {
        let mut held = BTreeMap::new();
        each_entry(space, kv, &mut |device, entry, changes| {
            each_step((device, entry), &changes, &mut |step| {
                if let Some((place, of, file)) = set_by(&step)
                    && self.holds(file)
                {
                    held.insert(of, place);
                }
            });
            Ok(())
        })?;
        let there = self.there(space, kv, &held)?;
        let pieces = there.iter().filter_map(|there| root(&there.file));
        let left = pieces.filter(|piece| self.sealed.remove(&piece.sealed_id())).count();
        Ok(left > 0)
    }

    /// The versions that have a name, and those that the trash has.
    pub(super) fn there(
        &self,
        space: &OpenSpace,
        kv: &impl Kv,
        ops: &BTreeMap<OpId, (DirId, Name)>,
    ) -> Result<Vec<There>, NodeError> {
        let mut there = Vec::new();
        for (op, (parent, name)) in ops {
            let heads = Tree::of(space.id()).heads(kv, *parent, name)?;
            let named = heads.into_iter().find(|head| head.op == *op);
            let is_named = named.is_some();
            let head = match named {
                Some(head) => Some(head),
                None => {
                    let kept = Trash::of(space.id()).get(kv, *op).map_err(MetaError::reading)?;
                    kept.map(|kept| kept.head)
                }
            };
            if let Some(Head {
                value: Value::File(file),
                clock,
                ..
            }) = head
            {
                there.push(There {
                    op: *op,
                    clock,
                    parent: *parent,
                    name: name.clone(),
                    file,
                    is_named,
                });
            }
        }
        Ok(there)
    }
}

/// The file that an operation sets, or says of where it lies: where that is, and which operation has set it.
fn set_by<'a>(step: &Step<'a>) -> Option<((DirId, Name), OpId, &'a File)> {
    match step.change {
        Change::Set {
            parent,
            name,
            value: Some(Value::File(file)),
            ..
        } => Some(((*parent, name.clone()), step.op, file)),
        Change::Recode {
            parent, name, of, file, ..
        } => Some(((*parent, name.clone()), *of, file)),
        _ => None,
    }
}

/// A version that is there.
#[derive(Clone, Debug)]
pub(super) struct There {
    pub(super) op: OpId,
    pub(super) clock: Timestamp,
    pub(super) parent: DirId,
    pub(super) name: Name,
    pub(super) file: File,
    /// Whether it has its name, or is in the trash.
    pub(super) is_named: bool,
}

/// The hash of bytes that are in the log itself, if there are any.
fn inline(file: &File) -> Option<Hash> {
    match from_canonical(&file.content).ok()? {
        Content::Inline(bytes) if !bytes.is_empty() => Some(Hash::of(&bytes)),
        Content::Inline(_) | Content::Tree(_) => None,
    }
}

/// Gives each entry of all logs that is not erased, with its changes.
pub(super) fn each_entry<T>(space: &OpenSpace, kv: &impl Kv, take: &mut T) -> Result<(), NodeError>
where
    T: FnMut(NodeId, &Entry, Vec<Change>) -> Result<(), NodeError>,
{
    let (log, tree, ring) = (Log::of(space.id()), Tree::of(space.id()), space.ring());
    for device in log.frontier(kv).map_err(MetaError::reading)?.into_keys() {
        let mut after = 0;
        loop {
            let page = log.entries_after(kv, device, after, ENTRIES);
            let page = page.map_err(MetaError::reading)?;
            if page.is_empty() {
                break;
            }
            for logged in page {
                let entry = logged.checked_before().map_err(AppendError::from)?;
                after = entry.seq;
                // What its author has sealed wrongly nobody reads.
                if let Ok(changes) = tree.open(&ring.keys, &entry)
                    && !changes.is_empty()
                {
                    take(device, &entry, changes)?;
                }
            }
        }
    }
    Ok(())
}

/// Gives each operation of an entry, and of those that it said again.
fn each_step((device, entry): (NodeId, &Entry), changes: &[Change], take: &mut dyn FnMut(Step<'_>)) {
    let mut steps = |device, seq, clock, beside: &[Change]| {
        for (at, change) in (0..).zip(beside) {
            take(Step {
                op: OpId { device, seq, at },
                clock,
                change,
                beside,
            });
        }
    };
    steps(device, entry.seq, entry.clock, changes);
    for change in changes {
        if let Change::Restate {
            device,
            seq,
            clock,
            changes,
        } = change
            && entry.erases == change.restates()
        {
            steps(*device, *seq, *clock, changes);
        }
    }
}
