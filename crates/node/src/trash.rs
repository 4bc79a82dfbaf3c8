//! What was removed and overwritten: finding it by the paths that it had, listing it, and letting go of it.

use crate::{
    api::{Emptied, Trashed},
    error::{MetaError, NodeError},
    names::{self, Batch},
    shared::Shared,
    space::OpenSpace,
    sweep,
};
use potluck_spaces::{
    DirId, Expiring, Fate, Head, Held, Kept, Kv, Machines, Name, Path, Snapshots, Taken, Trash, Tree, TreeError, Value,
};
use potluck_types::Hash;
use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

/// Names that one step of a walk reads.
const PAGE: usize = 256;

/// All values that the trash has of one path, the last removed first.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) path: Path,
    pub(crate) kept: Vec<Kept>,
}

/// The directories that a path stands for, or stood for: the one that has the name first. What was removed from a directory that was itself removed is
/// found in it.
pub(crate) fn directories(space: &OpenSpace, kv: &impl Kv, path: &Path) -> Result<Vec<DirId>, NodeError> {
    let mut found = vec![DirId::ROOT];
    for name in path.names() {
        let mut below = Vec::new();
        for parent in found {
            let heads = Tree::of(space.id()).heads(kv, parent, name)?;
            let kept = Trash::of(space.id()).at(kv, parent, name).map_err(MetaError::reading)?;
            let values = heads.iter().chain(kept.iter().map(|kept| &kept.head));
            below.extend(values.filter_map(directory_of));
        }
        found = distinct(below);
    }
    Ok(found)
}

fn directory_of(head: &Head) -> Option<DirId> {
    match head.value {
        Value::Directory(id) => Some(id),
        Value::File(_) | Value::Space(_) => None,
    }
}

fn distinct(mut ids: Vec<DirId>) -> Vec<DirId> {
    let mut seen = std::collections::BTreeSet::new();
    ids.retain(|id| seen.insert(*id));
    ids
}

/// What the trash has of one path, not of those below it.
pub(crate) fn at(space: &OpenSpace, kv: &impl Kv, path: &Path) -> Result<Vec<Kept>, NodeError> {
    let Some((parent, name)) = path.split() else {
        return Ok(Vec::new());
    };
    let mut kept = Vec::new();
    for parent in directories(space, kv, &parent)? {
        kept.extend(Trash::of(space.id()).at(kv, parent, name).map_err(MetaError::reading)?);
    }
    kept.sort_by_key(|kept| std::cmp::Reverse(kept.removal.clock));
    Ok(kept)
}

/// A walk through what the trash has below a directory. What changes meanwhile may be seen or not.
pub(crate) struct Walk {
    space: OpenSpace,
    /// Directories that are still to be read, each from after a name on.
    steps: Vec<Step>,
    found: VecDeque<Place>,
}

struct Step {
    directory: DirId,
    path: Path,
    /// Its names that the trash knows come first, and then those that there are, for the directories among them.
    reads: Reads,
}

enum Reads {
    Trash(Option<Name>),
    Names(Option<Name>),
}

impl Walk {
    /// Below these directories, which all stand for this path.
    pub(crate) fn below(space: &OpenSpace, path: &Path, directories: Vec<DirId>) -> Self {
        let steps = directories.into_iter().rev().map(|directory| Step {
            directory,
            path: path.clone(),
            reads: Reads::Trash(None),
        });
        Self {
            space: space.clone(),
            steps: steps.collect(),
            found: VecDeque::new(),
        }
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Place>, NodeError> {
        while self.found.is_empty() {
            let Some(step) = self.steps.pop() else {
                return Ok(None);
            };
            let task = self.space.clone();
            let (places, steps) = Shared::blocking(move || step.take(&task)).await?;
            self.found.extend(places);
            self.steps.extend(steps);
        }
        Ok(self.found.pop_front())
    }
}

impl Step {
    /// A page of what it reads, and what is to be read then.
    fn take(self, space: &OpenSpace) -> Result<(Vec<Place>, Vec<Self>), NodeError> {
        let kv = space.read()?;
        let (mut places, mut steps) = (Vec::new(), Vec::new());
        let (next, below) = match &self.reads {
            Reads::Trash(after) => {
                let page = Trash::of(space.id()).list(&kv, self.directory, after.as_ref(), PAGE);
                let page = page.map_err(MetaError::reading)?;
                let next = page.last().map(|(name, _)| Reads::Trash(Some(name.clone())));
                let mut below = Vec::new();
                for (name, kept) in page {
                    let path = self.path.join(name);
                    let ids = kept.iter().filter_map(|kept| directory_of(&kept.head)).collect();
                    below.extend(distinct(ids).into_iter().map(|id| (path.clone(), id)));
                    places.push(Place { path, kept });
                }
                (next.or(Some(Reads::Names(None))), below)
            }
            Reads::Names(after) => {
                let page = Tree::of(space.id()).list(&kv, self.directory, after.as_ref(), PAGE)?;
                let next = page.last().map(|listed| Reads::Names(Some(listed.name.clone())));
                let mut below = Vec::new();
                for listed in page {
                    let path = self.path.join(listed.name);
                    let ids = distinct(listed.heads.iter().filter_map(directory_of).collect());
                    below.extend(ids.into_iter().map(|id| (path.clone(), id)));
                }
                (next, below)
            }
        };
        steps.extend(next.map(|reads| Self {
            directory: self.directory,
            path: self.path.clone(),
            reads,
        }));
        steps.extend(below.into_iter().map(|(path, directory)| Self {
            directory,
            path,
            reads: Reads::Trash(None),
        }));
        Ok((places, steps))
    }
}

/// What the trash has of a path and of those below it, page by page.
pub struct Listing {
    first: Vec<Kept>,
    path: Path,
    walk: Walk,
}

impl std::fmt::Debug for Listing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listing")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Listing {
    pub(crate) async fn of(space: &OpenSpace, path: Path) -> Result<Self, NodeError> {
        let (task, at_path) = (space.clone(), path.clone());
        let (first, directories) = Shared::blocking(move || {
            let kv = task.read()?;
            Ok::<_, NodeError>((at(&task, &kv, &at_path)?, directories(&task, &kv, &at_path)?))
        })
        .await?;
        Ok(Self {
            first,
            walk: Walk::below(space, &path, directories),
            path,
        })
    }

    /// The versions of the next path; none at the end.
    pub async fn next(&mut self) -> Result<Vec<Trashed>, NodeError> {
        loop {
            let place = match std::mem::take(&mut self.first) {
                first if first.is_empty() => self.walk.next().await?,
                kept => Some(Place {
                    path: self.path.clone(),
                    kept,
                }),
            };
            let Some(Place { path, kept }) = place else {
                return Ok(Vec::new());
            };
            let task = self.walk.space.clone();
            let files = Shared::blocking(move || {
                let kv = task.read()?;
                let snapshots = Snapshots::of(task.id()).list(&kv).map_err(MetaError::reading)?;
                let files = kept.iter().filter_map(|kept| trashed(&task, &snapshots, &path, kept));
                Ok::<_, NodeError>(files.collect::<Vec<_>>())
            })
            .await?;
            if !files.is_empty() {
                return Ok(files);
            }
        }
    }
}

fn trashed(space: &OpenSpace, snapshots: &[(Name, Taken)], path: &Path, kept: &Kept) -> Option<Trashed> {
    let Value::File(file) = &kept.head.value else {
        return None;
    };
    if kept.lives_on() {
        return None;
    }
    let holding = snapshots.iter().filter(|(_, taken)| kept.was_there(taken.clock));
    Some(Trashed {
        path: path.clone(),
        len: file.len,
        stored: kept.head.clock,
        removed: kept.removal.clock,
        overwritten: kept.removal.overwrites,
        machine: space.called(kept.removal.op.device),
        until: kept.removal.until,
        snapshot: holding
            .max_by_key(|(_, taken)| taken.clock)
            .map(|(name, _)| name.clone()),
    })
}

/// Lets go now of what the trash has of a path and below it.
pub(crate) async fn empty(space: &OpenSpace, path: &Path) -> Result<Emptied, NodeError> {
    space.refuse_partial("lets go of what is in its trash")?;
    let (task, of) = (space.clone(), path.clone());
    let (first, directories, held) = Shared::blocking(move || {
        let kv = task.read()?;
        let held = Snapshots::of(task.id()).held(&kv).map_err(MetaError::reading)?;
        Ok::<_, NodeError>((at(&task, &kv, &of)?, directories(&task, &kv, &of)?, held))
    })
    .await?;
    let mut letting_go = LettingGo::of(space, held);
    // Directories go last: what is below one that is gone would not be found again, should this be cut off.
    let mut walk = Walk::below(space, path, directories);
    let mut emptied = Vec::new();
    while let Some(place) = walk.next().await? {
        for kept in place.kept {
            match kept.head.value {
                Value::File(_) => letting_go.take(&kept).await?,
                Value::Directory(_) | Value::Space(_) => emptied.push(kept),
            }
        }
    }
    for kept in emptied.iter().rev().chain(&first) {
        letting_go.take(kept).await?;
    }
    let gone = std::mem::take(&mut letting_go.gone);
    let emptied = letting_go.finish().await?;
    if !path.names().is_empty() {
        forget(space, gone).await?;
    }
    Ok(emptied)
}

/// Contents that are let go of for good.
#[derive(Default)]
pub(crate) struct Gone(BTreeSet<Hash>);

impl Gone {
    /// So many are remembered. Of the others it shows when nothing uses what they used.
    const MAX: usize = 1 << 16;

    pub(crate) fn add(&mut self, head: &Head) {
        if let Value::File(file) = &head.value
            && self.0.len() < Self::MAX
        {
            self.0.insert(Hash::of(&file.content));
        }
    }

    fn has(&self, kept: &Kept) -> bool {
        matches!(&kept.head.value, Value::File(file) if self.0.contains(&Hash::of(&file.content)))
    }
}

/// Forgets where these contents were before they were let go of for good under the names that they had last, and whatever else was moved and lives nowhere any more.
pub(crate) async fn forget(space: &OpenSpace, gone: Gone) -> Result<(), NodeError> {
    let task = space.clone();
    let held =
        Shared::blocking(move || Snapshots::of(task.id()).held(&task.read()?).map_err(MetaError::reading)).await?;
    let (mut letting_go, gone) = (LettingGo::of(space, held), Arc::new(gone));
    let mut after = None::<Expiring>;
    loop {
        let (task, gone) = (space.clone(), Arc::clone(&gone));
        let (page, dead) = Shared::blocking(move || {
            let (kv, tree, trash) = (task.read()?, Tree::of(task.id()), Trash::of(task.id()));
            let page = trash.expiring(&kv, after, PAGE).map_err(MetaError::reading)?;
            let mut dead = Vec::new();
            for expiring in &page {
                let kept = trash.get(&kv, expiring.op).map_err(MetaError::reading)?;
                if let Some(kept) = kept.filter(Kept::lives_on)
                    && (gone.has(&kept) || !tree.does_live_on(&kv, &kept)?)
                {
                    dead.push(kept);
                }
            }
            Ok::<_, NodeError>((page, dead))
        })
        .await?;
        for kept in &dead {
            letting_go.take(kept).await?;
        }
        match page.last() {
            Some(last) => after = Some(*last),
            None => break,
        }
    }
    letting_go.finish().await.map(drop)
}

/// Values that are let go of over many entries of the log.
struct LettingGo<'a> {
    space: &'a OpenSpace,
    /// What snapshots hold stays.
    held: Held,
    batch: Batch,
    given_up: Vec<potluck_types::StripeId>,
    emptied: Emptied,
    gone: Gone,
}

impl<'a> LettingGo<'a> {
    fn of(space: &'a OpenSpace, held: Held) -> Self {
        Self {
            space,
            held,
            batch: Batch::default(),
            given_up: Vec::new(),
            emptied: Emptied::default(),
            gone: Gone::default(),
        }
    }

    async fn take(&mut self, kept: &Kept) -> Result<(), NodeError> {
        if self.held.holds(kept) {
            self.emptied.held += u64::from(matches!(kept.head.value, Value::File(_)) && !kept.lives_on());
            return Ok(());
        }
        if let Value::File(file) = &kept.head.value
            && !kept.lives_on()
        {
            self.emptied.files += 1;
            self.emptied.bytes += file.len;
        }
        self.gone.add(&kept.head);
        self.batch.let_go(kept, Fate::Freed);
        if self.batch.is_full() {
            self.write().await?;
        }
        Ok(())
    }

    async fn write(&mut self) -> Result<(), NodeError> {
        let batch = std::mem::take(&mut self.batch);
        if !batch.is_empty() {
            self.given_up.extend(names::write(self.space, batch).await?);
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<Emptied, NodeError> {
        self.write().await?;
        if self.emptied != Emptied::default() || !self.given_up.is_empty() {
            names::replicate(self.space).await?;
            sweep::announce(self.space, self.given_up);
        }
        Ok(self.emptied)
    }
}

/// Whether there is nothing to be found for a path, and why that is no error.
pub(crate) fn is_missing<T>(found: &Result<T, TreeError>) -> bool {
    matches!(found, Err(TreeError::NotFound(_) | TreeError::NotADirectory(_)))
}
