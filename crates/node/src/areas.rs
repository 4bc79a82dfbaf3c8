//! Areas of a space: directories that are shared alone. What is written in each; how a directory becomes one; and what is moved from one to another, where it has to be made anew.

use crate::{
    edit,
    error::{MetaError, NodeError},
    names::{self, Batch},
    space::OpenSpace,
};
use potluck_spaces::{
    AreaId, Change, DirId, Fate, Found, Head, Kv, Listed, Log, Name, Path, Settings, Tree, TreeError, Value,
};
use potluck_types::to_canonical;
use std::{collections::BTreeMap, time::Duration};

/// Names that are made anew at most when a directory goes from one area to another: all of it is one transaction.
pub(crate) const NAMES_MAX: u64 = 100_000;
/// The same, in bytes of what is said of them.
pub(crate) const BYTES_MAX: usize = 64 << 20;
/// What is replaced by one who has a part of a space is kept for so long, if the space keeps nothing.
const KEPT_AT_LEAST: Duration = Duration::from_secs(86_400);
/// Names that are read at once.
const PAGE: usize = 256;

/// The changes of a batch, by the areas that they are said in. Those that only remove come last: what is moved from one to another is there before it is gone.
pub(crate) fn divide(
    space: &OpenSpace,
    kv: &impl Kv,
    batch: &Batch,
    changes: &[Change],
) -> Result<Vec<(Option<AreaId>, Vec<Change>)>, NodeError> {
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
    let mut divided = BTreeMap::<Option<AreaId>, Vec<Change>>::new();
    for change in changes {
        let area = batch.within.or(erased).or_else(|| change.area());
        divided.entry(area).or_default().push(change.clone());
        if let Change::Settings(_) = change
            && area.is_none()
        {
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
    Ok(divided)
}

/// Changes of one who has a part of the space, and does not know whether a snapshot holds what they replace: nothing is let go of by them.
pub(crate) fn keep_all(space: &OpenSpace, kv: &impl Kv, changes: &[Change]) -> Result<Vec<Change>, NodeError> {
    let retention = match space.retention()? {
        Duration::ZERO => KEPT_AT_LEAST,
        retention => retention,
    };
    let mut kept = changes.to_vec();
    for change in &mut kept {
        let Change::Set {
            parent,
            name,
            replaces,
            fate,
            ..
        } = change
        else {
            continue;
        };
        let heads = Tree::of(space.id()).heads(kv, *parent, name)?;
        // A directory that is moved takes what is in it along.
        let is_file = |head: &Head| replaces.contains(&head.op) && matches!(head.value, Value::File(_));
        let is_file = heads.iter().any(is_file);
        *fate = match *fate {
            Fate::Freed => Fate::kept_for(retention),
            Fate::Carried if is_file => Fate::shelved_for(retention),
            fate => fate,
        };
    }
    Ok(kept)
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
    names: u64,
    bytes: usize,
}

impl Carried {
    /// All that is below a directory is below another one from then on, which has no place yet.
    pub(crate) fn carry(&mut self, space: &OpenSpace, kv: &impl Kv, from: DirId, to: DirId) -> Result<(), NodeError> {
        let tree = Tree::of(space.id());
        let mut left = vec![(from, to, None::<Name>)];
        while let Some((from, to, after)) = left.pop() {
            let page = tree.list(kv, from, after.as_ref(), PAGE)?;
            let Some(last) = page.last().map(|listed| listed.name.clone()) else {
                continue;
            };
            left.push((from, to, Some(last)));
            for Listed { name, heads } in page {
                self.names += 1;
                for head in Head::distinct(&heads) {
                    let (value, mut uses) = match &head.value {
                        Value::Directory(id) if is_top(*id) => return Err(NodeError::AreaBelow),
                        Value::Directory(id) => {
                            let anew = tree.carried(kv, to, *id, &*space.entropy)?;
                            left.push((*id, anew, None));
                            (Value::Directory(anew), Vec::new())
                        }
                        Value::Space(id) => (Value::Space(*id), Vec::new()),
                        Value::File(file) => {
                            let mut uses = Vec::new();
                            let file = edit::moved(space, kv, file, to.area(), &mut uses)?;
                            (Value::File(file), uses)
                        }
                    };
                    uses.push(Change::Set {
                        parent: to,
                        name: name.clone(),
                        value: Some(value),
                        replaces: Vec::new(),
                        fate: Fate::Carried,
                    });
                    for change in uses {
                        self.say(change)?;
                    }
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

    /// Gives the directory that was made its place, then takes away what was there before.
    pub(crate) async fn write(mut self, space: &OpenSpace, placing: Vec<Change>) -> Result<(), NodeError> {
        for change in placing {
            self.say(change)?;
        }
        // The deepest first.
        for change in std::mem::take(&mut self.removals).into_iter().rev() {
            self.say(change)?;
        }
        names::write_all(space, self.batches).await
    }
}

/// The area that a directory is, if it is one.
pub(crate) fn at(space: &OpenSpace, path: &Path) -> Result<Option<AreaId>, NodeError> {
    let found = space.view().find(&space.read()?, path)?.ok_or(NodeError::AllOfIt)?;
    Ok(found.heads.first().and_then(|head| match head.value {
        Value::Directory(id) if is_top(id) => id.area(),
        _ => None,
    }))
}

/// The area that a directory is, which is made one if it is none yet; and whether it was one before.
pub(crate) async fn make(space: &OpenSpace, path: &Path) -> Result<(AreaId, bool), NodeError> {
    let (carried, placing, area, within) = {
        let kv = space.read()?;
        let (view, tree) = (space.view(), Tree::of(space.id()));
        let found = view.find(&kv, path)?.ok_or(NodeError::AllOfIt)?;
        let mut values = Head::distinct(&found.heads).map(|head| &head.value);
        let old = match (values.next(), values.next()) {
            (Some(Value::Directory(id)), None) => *id,
            (Some(Value::Directory(_)), Some(_)) => return Err(NodeError::Conflicting(path.clone())),
            _ => return Err(TreeError::NotADirectory(path.clone()).into()),
        };
        if let Some(area) = old.area() {
            if is_top(old) {
                return Ok((area, true));
            }
            let whole = view.path_of(&kv, area.top())?;
            return Err(NodeError::WithinArea(whole.unwrap_or_else(Path::root)));
        }
        space.refuse_reader()?;
        space.refuse_partial("shares a directory that is not shared alone yet")?;
        if space.written_areas(&kv)?.is_some() {
            return Err(NodeError::OutsidePart);
        }
        let area = AreaId::generate(&*space.entropy);
        let mut carried = Carried::default();
        carried.carry(space, &kv, old, area.top())?;
        let placing = Change::Set {
            parent: found.parent,
            name: found.name.clone(),
            value: Some(Value::Directory(area.top())),
            replaces: tree.all_ops(&kv, &found.heads).map_err(TreeError::from)?,
            fate: Fate::shelved_for(space.retention()?),
        };
        let within = Batch {
            changes: vec![Change::Settings(space.settings()?)],
            within: Some(area),
            ..Batch::default()
        };
        (carried, placing, area, within)
    };
    if within.changes != [Change::Settings(Settings::default())] {
        names::write(space, within).await?;
    }
    carried.write(space, vec![placing]).await?;
    names::replicate(space).await?;
    Ok((area, false))
}

/// Gives values another name, which is free, in another area: what is a directory is made anew there.
pub(crate) async fn carry_over(space: &OpenSpace, found: &Found, parent: DirId, name: &Name) -> Result<(), NodeError> {
    let (carried, placing) = {
        let (kv, tree) = (space.read()?, Tree::of(space.id()));
        let (mut carried, mut placing) = (Carried::default(), Vec::new());
        carried.unset(space, &kv, (found.parent, &found.name), &found.heads)?;
        for head in Head::distinct(&found.heads) {
            let value = match &head.value {
                Value::Directory(id) if is_top(*id) => {
                    // It is an area wherever it is.
                    match parent.area() {
                        Some(_) => return Err(NodeError::AreaBelow),
                        None => Value::Directory(*id),
                    }
                }
                Value::Directory(id) => {
                    let anew = tree.carried(&kv, parent, *id, &*space.entropy)?;
                    carried.carry(space, &kv, *id, anew)?;
                    Value::Directory(anew)
                }
                Value::Space(id) => Value::Space(*id),
                Value::File(file) => Value::File(edit::moved(space, &kv, file, parent.area(), &mut placing)?),
            };
            placing.push(Change::Set {
                parent,
                name: name.clone(),
                value: Some(value),
                replaces: Vec::new(),
                fate: Fate::Carried,
            });
        }
        (carried, placing)
    };
    carried.write(space, placing).await
}

/// Whether a directory that has such a place belongs to another area than what is in this one.
pub(crate) fn crosses(found: &Found, parent: DirId) -> bool {
    let crosses = |head: &Head| matches!(head.value, Value::Directory(id) if id.area() != parent.area());
    found.parent.area() != parent.area() || found.heads.iter().any(crosses)
}
