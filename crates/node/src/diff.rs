//! What is another than it was at a moment: the files that came since, that went, and that are different. What came is found where files are, and what went in the trash.

use crate::{
    api::{Difference, Differing},
    error::NodeError,
    files::{FileAt, Files},
    shared::Shared,
    space::OpenSpace,
    trash::{self, Place, Walk, is_missing},
};
use potluck_spaces::{DirId, File, Kept, Path, Value};
use potluck_types::{Timestamp, limits};
use std::collections::{BTreeMap, HashMap};

/// What is there now, and what was then.
struct Found {
    now: Option<File>,
    then: Option<File>,
    at: Timestamp,
}

/// The files at a path and below it that differ from what was there then, in the order of their paths.
pub(crate) async fn since(space: &OpenSpace, below: &Path, since: Timestamp) -> Result<Vec<Difference>, NodeError> {
    let (task, of) = (space.clone(), below.clone());
    let (found, first, were) = Shared::blocking(move || {
        let kv = task.read()?;
        let found = task.view().find(&kv, &of);
        let found = match found {
            found if is_missing(&found) => None,
            found => Some(found?),
        };
        let (first, were) = (trash::at(&task, &kv, &of)?, trash::directories(&task, &kv, &of)?);
        Ok::<_, NodeError>((found, first, were))
    })
    .await?;
    if found.is_none() && first.is_empty() {
        // Neither is nor was.
        space.view().find(&space.read()?, below)?;
    }
    let mut differing = BTreeMap::new();
    match found.flatten().and_then(|found| found.heads.into_iter().next()) {
        Some(head) => match head.value {
            Value::File(file) if head.clock > since => came(&mut differing, below.clone(), file, head.clock)?,
            Value::Directory(id) => came_below(space, below, id, since, &mut differing).await?,
            Value::File(_) | Value::Space(_) => {}
        },
        None if below.names().is_empty() => {
            came_below(space, below, DirId::ROOT, since, &mut differing).await?;
        }
        None => {}
    }
    went(space, below, &first, since, &mut differing)?;
    let mut walk = Walk::below(space, below, were);
    while let Some(Place { path, kept }) = walk.next().await? {
        went(space, &path, &kept, since, &mut differing)?;
    }
    Ok(told(differing))
}

async fn came_below(
    space: &OpenSpace,
    below: &Path,
    directory: DirId,
    since: Timestamp,
    differing: &mut BTreeMap<Path, Found>,
) -> Result<(), NodeError> {
    let mut files = Files::below(space, vec![directory]);
    while let Some(FileAt { path, file, clock, .. }) = files.next().await? {
        if clock > since {
            let path = path
                .names()
                .iter()
                .fold(below.clone(), |path, name| path.join(name.clone()));
            came(differing, path, file, clock)?;
        }
    }
    Ok(())
}

fn came(differing: &mut BTreeMap<Path, Found>, path: Path, file: File, at: Timestamp) -> Result<(), NodeError> {
    if differing.len() >= limits::DIFFERENCES_MAX {
        return Err(NodeError::TooManyDiffer);
    }
    let found = Found {
        now: Some(file),
        then: None,
        at,
    };
    differing.insert(path, found);
    Ok(())
}

/// What a path had then, if that is in the trash.
fn went(
    space: &OpenSpace,
    path: &Path,
    kept: &[Kept],
    since: Timestamp,
    differing: &mut BTreeMap<Path, Found>,
) -> Result<(), NodeError> {
    let then = kept.iter().filter(|kept| kept.was_there(since));
    let latest = then.max_by_key(|kept| kept.head.clock);
    let Some((Value::File(then), removal)) = latest.map(|kept| (&kept.head.value, kept.removal)) else {
        return Ok(());
    };
    if let Some(found) = differing.get_mut(path) {
        found.then = Some(then.clone());
        return Ok(());
    }
    let found = space.view().find(&space.read()?, path);
    if !is_missing(&found) {
        let found = found?;
        let values = found.iter().flat_map(|found| &found.heads);
        if values.into_iter().any(|head| matches!(head.value, Value::File(_))) {
            // One of several versions that conflicted went.
            return Ok(());
        }
    }
    if differing.len() >= limits::DIFFERENCES_MAX {
        return Err(NodeError::TooManyDiffer);
    }
    let found = Found {
        now: None,
        then: Some(then.clone()),
        at: removal.clock,
    };
    differing.insert(path.clone(), found);
    Ok(())
}

/// What went and came elsewhere with the same content was moved.
fn told(mut differing: BTreeMap<Path, Found>) -> Vec<Difference> {
    differing.retain(|_, found| !matches!((&found.now, &found.then), (Some(now), Some(then)) if now.is_same(then)));
    let mut gone: HashMap<Vec<u8>, Path> = HashMap::new();
    for (path, found) in &differing {
        if let (None, Some(then)) = (&found.now, &found.then) {
            gone.insert(then.content.to_vec(), path.clone());
        }
    }
    let mut from = BTreeMap::new();
    for (path, found) in &differing {
        if let (Some(now), None) = (&found.now, &found.then)
            && let Some(before) = gone.remove(&now.content[..])
        {
            from.insert(path.clone(), before);
        }
    }
    for before in from.values() {
        differing.remove(before);
    }
    let told = differing.into_iter().map(|(path, found)| {
        let what = match (&found.now, &found.then, from.remove(&path)) {
            (_, _, Some(from)) => Differing::Moved { from },
            (Some(_), Some(_), None) => Differing::Changed,
            (Some(_), None, None) => Differing::Added,
            (None, _, None) => Differing::Removed,
        };
        Difference {
            path,
            what,
            at: found.at,
            before: found.then.map(|file| file.len),
            now: found.now.map(|file| file.len),
        }
    });
    told.collect()
}
