//! Names that machines gave several values, since they did not know of each other: finding them, and saying what is to become of them.

use crate::{
    api::{Conflict, Settled, Settling},
    edit::{self, Editor},
    error::NodeError,
    names,
    shared::Shared,
    space::OpenSpace,
    versions,
};
use potluck_spaces::{DirId, Found, Head, Kv, Name, Path, Tree, TreeError, Value};

/// Names that are read at once.
const PAGE: usize = 64;
/// More are not counted.
const COUNTED_MAX: usize = 1000;

/// A walk through the names of a space that conflict.
pub struct Conflicts {
    space: OpenSpace,
    below: Path,
    after: Option<(DirId, Name)>,
}

impl std::fmt::Debug for Conflicts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conflicts")
            .field("below", &self.below)
            .finish_non_exhaustive()
    }
}

impl Conflicts {
    pub(crate) fn of(space: &OpenSpace, below: Path) -> Self {
        Self {
            space: space.clone(),
            below,
            after: None,
        }
    }

    /// The next of them; none at the end.
    pub async fn next(&mut self) -> Result<Vec<Conflict>, NodeError> {
        loop {
            let (task, after) = (self.space.clone(), self.after.take());
            let (page, conflicts) = Shared::blocking(move || {
                let kv = task.read()?;
                let after = after.as_ref().map(|(parent, name)| (*parent, name));
                let page = Tree::of(task.id()).conflicts(&kv, after, PAGE)?;
                let conflicts = page.iter().map(|(parent, name)| conflict(&task, &kv, *parent, name));
                let conflicts = conflicts.collect::<Result<Vec<_>, _>>()?;
                Ok::<_, NodeError>((page, conflicts))
            })
            .await?;
            self.after = page.last().cloned();
            let mut conflicts: Vec<Conflict> = conflicts.into_iter().flatten().collect();
            conflicts.retain(|conflict| conflict.path.is_within(&self.below));
            if !conflicts.is_empty() || self.after.is_none() {
                return Ok(conflicts);
            }
        }
    }
}

/// How many names of a space conflict, up to a bound.
pub(crate) async fn count(space: &OpenSpace) -> Result<u64, NodeError> {
    let mut walk = Conflicts::of(space, Path::root());
    let mut count = 0;
    loop {
        let page = walk.next().await?;
        count += page.len();
        if page.is_empty() || count >= COUNTED_MAX {
            return Ok(count.min(COUNTED_MAX) as u64);
        }
    }
}

fn conflict(space: &OpenSpace, kv: &impl Kv, parent: DirId, name: &Name) -> Result<Option<Conflict>, NodeError> {
    let Some(directory) = space.view().path_of(kv, parent)? else {
        return Ok(None);
    };
    let heads = Tree::of(space.id()).heads(kv, parent, name)?;
    Ok(Some(Conflict {
        path: directory.join(name.clone()),
        versions: versions::named(space, name, &heads),
    }))
}

/// Ends the conflict that a path is part of.
pub(crate) async fn settle(space: &OpenSpace, path: &Path, how: Settling) -> Result<Settled, NodeError> {
    let (found, heads) = {
        let kv = space.read()?;
        let found = space.view().find(&kv, path)?;
        let found = found.ok_or_else(|| NodeError::NoConflict(path.clone()))?;
        let heads = Tree::of(space.id()).heads(&kv, found.parent, &found.name)?;
        (found, heads)
    };
    if Head::distinct(&heads).nth(1).is_none() {
        return Err(NodeError::NoConflict(path.clone()));
    }
    match how {
        Settling::KeepThis => keep_this(space, &found, heads).await,
        Settling::KeepAll => keep_all(space, path, &found, &heads).await,
    }
}

/// What the path leads to has the name alone; the others go to the trash.
async fn keep_this(space: &OpenSpace, found: &Found, mut heads: Vec<Head>) -> Result<Settled, NodeError> {
    let kept = &found.heads[0];
    heads.retain(|head| !head.is_same(kept));
    let mut editor = Editor::of(space, space.usual_fate()?)?;
    for head in Head::distinct(&heads) {
        if let Value::Directory(id) = head.value {
            editor.empty(id).await?;
        }
    }
    editor.unset(found.parent, &found.name, &heads).await?;
    let (removed, until) = editor.finish().await?;
    Ok(Settled {
        names: vec![found.name.clone()],
        removed,
        until,
    })
}

/// Each value has a name of its own: the one that it is shown under.
async fn keep_all(space: &OpenSpace, path: &Path, found: &Found, heads: &[Head]) -> Result<Settled, NodeError> {
    let mut names = Vec::new();
    for seen in space.view().seen(&found.name, heads) {
        if seen.copy_of.is_some() {
            let is_taken = !Tree::of(space.id())
                .heads(&space.read()?, found.parent, &seen.name)?
                .is_empty();
            if is_taken {
                let (parent, _) = path.split().expect("what conflicts has a name");
                return Err(TreeError::Exists(parent.join(seen.name)).into());
            }
            let copy = Found {
                heads: seen.heads,
                is_copy: true,
                ..found.clone()
            };
            edit::move_values(space, &copy, found.parent, &seen.name).await?;
        }
        names.push(seen.name);
    }
    names::replicate(space).await?;
    names.reverse();
    Ok(Settled {
        names,
        removed: 0,
        until: None,
    })
}
