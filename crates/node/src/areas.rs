//! Areas of a space: directories that are shared alone. What is written in each; how a directory becomes one; and what is moved from one to another, where it has to be made anew.

use crate::{
    apart::{self, Given},
    checkpoint, edit,
    error::{MetaError, NodeError},
    meta::WriteKv,
    names::{self, Batch},
    space::OpenSpace,
    trash,
};
use potluck_spaces::{
    AreaId, Change, DirId, Fate, Found, Head, Kv, Listed, Log, Name, Path, Settings, Tree, TreeError, Value,
};
use potluck_types::to_canonical;
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

/// Names that are made anew at most when a directory goes from one area to another: all of it is one transaction.
pub(crate) const NAMES_MAX: u64 = 100_000;
/// The same, in bytes of what is said of them.
pub(crate) const BYTES_MAX: usize = 64 << 20;
/// How often what lies in one piece with others is looked for, while others go on putting more.
const APART_TRIES: usize = 5;
/// Names that are read at once.
const PAGE: usize = 256;

/// Changes, and the area that they are said in.
type SaidIn<'c> = (Option<AreaId>, Cow<'c, [Change]>);

/// The changes of a batch, by the areas that they are said in. Those that only remove come last: what is moved from one to another is there before it is gone.
pub(crate) fn divide<'c>(
    space: &OpenSpace,
    kv: &impl Kv,
    batch: &Batch,
    changes: &'c [Change],
) -> Result<Vec<SaidIn<'c>>, NodeError> {
    space.refuse_reader()?;
    let erased = match batch.erases {
        // Who was to hear it is to hear what is left of it.
        Some(erased) => {
            let erased = Log::of(space.id()).entry(kv, erased.device, erased.seq);
            let erased = erased.map_err(MetaError::reading)?.map(|entry| entry.checked_before());
            erased.and_then(|entry| entry.ok()?.area)
        }
        None => None,
    };
    let written = space.written_areas(kv)?;
    let anywhere = written.as_ref().and_then(|areas| areas.first().copied());
    let is_simple = |change: &Change| change.area().is_none() && !change.is_for_all();
    if written.is_none() && batch.within.or(erased).is_none() && changes.iter().all(is_simple) {
        return Ok(vec![(None, Cow::Borrowed(changes))]);
    }
    let mut divided = BTreeMap::<Option<AreaId>, Vec<Change>>::new();
    for change in changes {
        let area = batch.within.or(erased).or_else(|| change.area());
        if area.is_some_and(|area| !change.is_within(area)) {
            // Nobody would hear it.
            return Err(NodeError::OutsidePart);
        }
        divided.entry(area).or_default().push(change.clone());
        // Who reads no more than an area hears it there.
        if change.is_for_all() && area.is_none() {
            for area in space.charters.of(kv, space.id())?.areas() {
                divided.entry(Some(area)).or_default().push(change.clone());
            }
        }
    }
    if !batch.links.is_empty() {
        divided.entry(None).or_default();
    }
    if divided.is_empty() {
        divided.insert(batch.within.or(erased).or(anywhere), Vec::new());
    }
    let may_write = |area: &Option<AreaId>| match (&written, area) {
        (None, _) => true,
        (Some(written), Some(area)) => written.contains(area),
        (Some(_), None) => false,
    };
    if !divided.keys().all(may_write) {
        return Err(NodeError::OutsidePart);
    }
    let mut divided: Vec<_> = divided.into_iter().collect();
    let only_removes = |changes: &[Change]| {
        let removes = |change: &Change| matches!(change, Change::Set { value: None, .. });
        !changes.is_empty() && changes.iter().all(removes)
    };
    divided.sort_by_key(|(_, changes)| only_removes(changes));
    let owned = |(area, changes)| (area, Cow::Owned(changes));
    Ok(divided.into_iter().map(owned).collect())
}

/// Whether a directory is an area, and not only in one.
fn is_top(directory: DirId) -> bool {
    directory.area().is_some_and(|area| directory == area.top())
}

/// What is said to make a directory anew in another area, and to take it from where it was.
#[derive(Default)]
pub(crate) struct Carried {
    /// The first ones make it, and those after them remove it.
    batches: Vec<Batch>,
    removals: Vec<Change>,
    /// Directories whose names are still to be carried, after one of them, and those that these go to.
    left: Vec<(DirId, DirId, Option<Name>)>,
    names: u64,
    bytes: usize,
}

impl Carried {
    /// Says values anew under a name that has none. What is below those that are directories is still to be carried.
    fn anew(
        &mut self,
        space: &OpenSpace,
        kv: &impl Kv,
        heads: &[Head],
        (parent, name): (DirId, &Name),
    ) -> Result<Vec<Change>, NodeError> {
        let mut changes = Vec::new();
        for head in Head::distinct(heads) {
            let value = match &head.value {
                Value::Directory(id) if is_top(*id) => return Err(NodeError::AreaBelow),
                Value::Directory(id) => {
                    let anew = Tree::of(space.id()).carried(kv, parent, *id, &*space.entropy)?;
                    self.left.push((*id, anew, None));
                    Value::Directory(anew)
                }
                Value::Space(id) => Value::Space(*id),
                Value::File(file) => Value::File(edit::moved(space, kv, file, parent.area(), &mut changes)?),
            };
            changes.push(Change::Set {
                parent,
                name: name.clone(),
                value: Some(value),
                replaces: Vec::new(),
                fate: Fate::Carried,
            });
        }
        Ok(changes)
    }

    /// All that is below the directories that are still to be carried is below others from then on.
    fn carry(&mut self, space: &OpenSpace, kv: &impl Kv) -> Result<(), NodeError> {
        while let Some((from, to, after)) = self.left.pop() {
            let page = Tree::of(space.id()).list(kv, from, after.as_ref(), PAGE)?;
            let Some(last) = page.last().map(|listed| listed.name.clone()) else {
                continue;
            };
            self.left.push((from, to, Some(last)));
            for Listed { name, heads } in page {
                self.names += 1;
                for change in self.anew(space, kv, &heads, (to, &name))? {
                    self.say(change)?;
                }
                self.unset(space, kv, (from, &name), &heads)?;
            }
        }
        Ok(())
    }

    fn say(&mut self, change: Change) -> Result<(), NodeError> {
        let bytes = to_canonical(&change).len();
        self.bytes += bytes;
        if self.names > NAMES_MAX || self.bytes > BYTES_MAX {
            return Err(NodeError::TooMuchToCarry);
        }
        if self.batches.last().is_none_or(Batch::is_full) {
            self.batches.push(Batch::default());
        }
        let batch = self.batches.last_mut().expect("there is one");
        batch.bytes += bytes;
        batch.changes.push(change);
        Ok(())
    }

    /// What was below it keeps nothing; a directory is in the trash, where what was removed from it is found.
    fn unset(
        &mut self,
        space: &OpenSpace,
        kv: &impl Kv,
        place: (DirId, &Name),
        heads: &[Head],
    ) -> Result<(), NodeError> {
        let replaces = Tree::of(space.id()).all_ops(kv, heads).map_err(TreeError::from)?;
        let is_directory = |head: &Head| matches!(head.value, Value::Directory(_));
        let fate = match heads.iter().any(is_directory) {
            true => Fate::shelved_for(space.retention()?),
            false => Fate::Carried,
        };
        self.removals.push(Change::Set {
            parent: place.0,
            name: place.1.clone(),
            value: None,
            replaces,
            fate,
        });
        Ok(())
    }

    /// Gives what was made its place, then takes away what was there before.
    fn finish(mut self, placing: Vec<Change>) -> Result<Vec<Batch>, NodeError> {
        for change in placing {
            self.say(change)?;
        }
        // The deepest first.
        for change in std::mem::take(&mut self.removals).into_iter().rev() {
            self.say(change)?;
        }
        Ok(self.batches)
    }
}

/// What was shared alone at a path and is nowhere: brought back, it is that again.
pub(crate) fn gone(space: &OpenSpace, kv: &impl Kv, path: &Path) -> Result<Option<DirId>, NodeError> {
    for id in trash::directories(space, kv, path)? {
        if is_top(id)
            && Tree::of(space.id())
                .place_of(kv, id)
                .map_err(TreeError::from)?
                .is_none()
        {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

/// Where a directory that is nowhere any more is by now, if it was made anew in another area.
pub(crate) fn now_at(space: &OpenSpace, kv: &impl Kv, before: DirId) -> Result<Option<DirId>, NodeError> {
    let areas = space.charters.of(kv, space.id())?.areas();
    if areas.is_empty() {
        return Ok(None);
    }
    let tree = Tree::of(space.id());
    let is_there = |dir: DirId| Ok::<_, NodeError>(tree.place_of(kv, dir).map_err(TreeError::from)?.is_some());
    let made = AreaId::of_directory(space.id(), before, &BTreeSet::new(), &*space.entropy);
    if areas.contains(&made) && is_there(made.top())? {
        return Ok(Some(made.top()));
    }
    let mut left = vec![(DirId::ROOT, None::<Name>)];
    while let Some((parent, after)) = left.pop() {
        if after.is_none()
            && let Some(anew) = tree.carried_to(kv, parent, before).map_err(TreeError::from)?
        {
            return Ok(Some(anew));
        }
        let page = tree.list(kv, parent, after.as_ref(), PAGE)?;
        if let Some(last) = page.last() {
            left.push((parent, Some(last.name.clone())));
        }
        let heads = page.iter().flat_map(|listed| &listed.heads);
        left.extend(heads.filter_map(|head| match head.value {
            Value::Directory(id) => Some((id, None)),
            _ => None,
        }));
    }
    Ok(None)
}

/// Writes what is made where it is written. What would be given with the key to something else is stored anew before.
async fn write_apart<T: Send + 'static>(
    space: &OpenSpace,
    given: impl Fn() -> Result<Given, NodeError>,
    make: impl Fn(&OpenSpace, &WriteKv<'_>) -> Result<(Vec<Batch>, T), NodeError> + Clone + Send + 'static,
) -> Result<T, NodeError> {
    for _ in 0..APART_TRIES {
        apart::store(space, &given()?).await?;
        match names::write_made(space, make.clone()).await {
            Err(NodeError::NotApart) => {}
            made => return made,
        }
    }
    Err(NodeError::NotApart)
}

/// Refuses what would be given with the key to something else.
fn refuse_sharing(space: &OpenSpace, kv: &impl Kv, given: &Given) -> Result<(), NodeError> {
    match apart::sharing(space, kv, given)?.is_empty() {
        true => Ok(()),
        false => Err(NodeError::NotApart),
    }
}

/// What one is called that is nowhere.
pub(crate) fn removed(area: AreaId) -> Path {
    format!("/(removed {area:?})").parse().expect("a path")
}

/// What an area is called now.
pub(crate) fn called(space: &OpenSpace, kv: &impl Kv, area: AreaId) -> Result<Path, NodeError> {
    let path = space.view().path_of(kv, area.top())?;
    Ok(path.unwrap_or_else(|| removed(area)))
}

/// The area that a directory is, if it is one.
pub(crate) fn at(space: &OpenSpace, path: &Path) -> Result<Option<AreaId>, NodeError> {
    let found = space.view().find(&space.read()?, path)?.ok_or(NodeError::AllOfIt)?;
    Ok(found.heads.first().and_then(|head| match head.value {
        Value::Directory(id) if is_top(id) => id.area(),
        _ => None,
    }))
}

/// What a path leads to, if it is one directory.
fn directory_at(space: &OpenSpace, kv: &impl Kv, path: &Path) -> Result<(Found, DirId), NodeError> {
    let found = space.view().find(kv, path)?.ok_or(NodeError::AllOfIt)?;
    let values: Vec<_> = Head::distinct(&found.heads).map(|head| &head.value).collect();
    match values[..] {
        [Value::Directory(id)] => Ok((found.clone(), *id)),
        [Value::Directory(_), ..] => Err(NodeError::Conflicting(path.clone())),
        _ => Err(TreeError::NotADirectory(path.clone()).into()),
    }
}

/// The area that a directory is; none, if it can be made one.
pub(crate) fn known(space: &OpenSpace, kv: &impl Kv, path: &Path) -> Result<Option<AreaId>, NodeError> {
    let (_, directory) = directory_at(space, kv, path)?;
    if let Some(area) = directory.area() {
        if is_top(directory) {
            return Ok(Some(area));
        }
        return Err(NodeError::WithinArea(called(space, kv, area)?));
    }
    space.refuse_reader()?;
    space.refuse_partial("shares a directory that is not shared alone yet")?;
    match space.written_areas(kv)? {
        Some(_) => Err(NodeError::OutsidePart),
        None => Ok(None),
    }
}

/// Makes a directory an area, if it is none yet: all that is in it is made anew there.
pub(crate) async fn make(space: &OpenSpace, path: &Path) -> Result<AreaId, NodeError> {
    if let Some(area) = known(space, &space.read()?, path)? {
        return Ok(area);
    }
    let (of, at) = (space.clone(), path.clone());
    let given = move || Ok(Given::Directory(directory_at(&of, &of.read()?, &at)?.1));
    let path = path.clone();
    let make = move |space: &OpenSpace, kv: &WriteKv<'_>| {
        if let Some(area) = known(space, kv, &path)? {
            return Ok((Vec::new(), area));
        }
        let (found, before) = directory_at(space, kv, &path)?;
        space.refuse_when_full()?;
        let taken = space.charters.of(kv, space.id())?.areas();
        let area = AreaId::of_directory(space.id(), before, &taken, &*space.entropy);
        refuse_sharing(space, kv, &Given::Directory(before))?;
        let mut carried = Carried::default();
        let settings = Tree::of(space.id()).settings(kv).map_err(MetaError::reading)?;
        if settings != Settings::default() {
            carried.batches.push(Batch {
                changes: vec![Change::Settings(settings)],
                within: Some(area),
                ..Batch::default()
            });
            carried.batches.push(Batch::default());
        }
        carried.left.push((before, area.top(), None));
        carried.carry(space, kv)?;
        let placing = Change::Set {
            parent: found.parent,
            name: found.name.clone(),
            value: Some(Value::Directory(area.top())),
            replaces: Tree::of(space.id())
                .all_ops(kv, &found.heads)
                .map_err(TreeError::from)?,
            fate: Fate::shelved_for(space.retention()?),
        };
        Ok((carried.finish(vec![placing])?, area))
    };
    let area = write_apart(space, given, make).await?;
    // From now on none is made.
    checkpoint::let_go(space).await?;
    names::replicate(space).await?;
    Ok(area)
}

/// Gives values another name, which is free, in another area: what is a directory is made anew there.
pub(crate) async fn carry_over(space: &OpenSpace, found: &Found, parent: DirId, name: &Name) -> Result<(), NodeError> {
    let given = Given::Name(found.parent, found.name.clone(), found.heads.clone());
    let is_given = parent.area().is_some();
    let (found, name) = (found.clone(), name.clone());
    let make = move |space: &OpenSpace, kv: &WriteKv<'_>| {
        space.refuse_when_full()?;
        // As they are by now: those that were stored anew lie elsewhere.
        let mut heads = Tree::of(space.id()).heads(kv, found.parent, &found.name)?;
        heads.retain(|head| found.heads.iter().any(|known| known.op == head.op));
        if is_given {
            refuse_sharing(space, kv, &Given::Name(found.parent, found.name.clone(), heads.clone()))?;
        }
        let mut carried = Carried::default();
        carried.unset(space, kv, (found.parent, &found.name), &heads)?;
        let placing = carried.anew(space, kv, &heads, (parent, &name))?;
        carried.carry(space, kv)?;
        Ok((carried.finish(placing)?, ()))
    };
    match is_given {
        true => write_apart(space, || Ok(given.clone()), make).await,
        false => names::write_made(space, make).await,
    }
}

/// Whether values go to another area than they are in. An area itself is in none, wherever it is.
pub(crate) fn crosses(found: &Found, parent: DirId) -> bool {
    let crosses = |head: &Head| match head.value {
        Value::Directory(id) if is_top(id) => parent.area().is_some(),
        Value::Directory(id) => id.area() != parent.area(),
        Value::File(_) | Value::Space(_) => found.parent.area() != parent.area(),
    };
    found.heads.iter().any(crosses)
}
