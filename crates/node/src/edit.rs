//! Changes to a space other than uploads: remove, rename, and looking things up.

use crate::{
    api::{Emptied, Entry, Kind, RemoveOptions, RemoveReport, Stat},
    areas,
    error::NodeError,
    files::Files,
    names::{self, Batch},
    rails::{self, Loss, MassChange},
    space::OpenSpace,
    sweep,
    trash::{self, is_missing},
};
use potluck_dag::Content;
use potluck_spaces::{
    AreaId, Change, DirId, Fate, File, FileId, Found, Head, Held, Kv, Name, Path, Snapshots, Tree, TreeError, Value,
};
use potluck_types::{StripeId, Timestamp, from_canonical};

/// Names that one step of a walk reads.
const PAGE: usize = 256;
/// Stripes in one part of the list of a file's stripes.
const PART: usize = 256;

/// One directory, in order, after a name.
pub(crate) fn list(
    space: &OpenSpace,
    path: &Path,
    after: Option<&Name>,
    limit: usize,
) -> Result<Vec<Entry>, NodeError> {
    let kv = space.read()?;
    let view = space.view();
    let directory = view.directory(&kv, path)?;
    let listed = Tree::of(space.id()).list(&kv, directory, after, limit)?;
    let mut entries = Vec::new();
    for listed in listed {
        let mut seen = view.seen(&listed.name, &listed.heads);
        // Of more than fit a page the oldest are not shown, until others have gone.
        if let Some(latest) = seen.pop() {
            seen.truncate(limit.saturating_sub(1));
            seen.push(latest);
        }
        if !entries.is_empty() && entries.len() + seen.len() > limit {
            break;
        }
        let shown = seen.into_iter();
        entries.extend(shown.filter_map(|seen| entry(seen.name, seen.heads.first()?, seen.copy_of)));
    }
    Ok(entries)
}

/// What a person sees of a value.
fn entry(name: Name, head: &Head, copy_of: Option<Name>) -> Option<Entry> {
    let (kind, len, modified, executable) = match &head.value {
        Value::File(file) => (Kind::File, file.len, file.modified, file.executable),
        Value::Directory(_) => (Kind::Directory, 0, head.clock, false),
        Value::Space(_) => return None,
    };
    Some(Entry {
        name,
        kind,
        len,
        modified,
        executable,
        copy_of,
    })
}

/// A file or directory in detail.
pub(crate) fn stat(space: &OpenSpace, path: &Path) -> Result<Stat, NodeError> {
    let found = space.view().find(&space.read()?, path)?;
    let found = found.ok_or_else(|| TreeError::IsADirectory(path.clone()))?;
    stat_of(space, path, &found.heads[0], found.is_copy.then_some(found.name))
}

/// A value that a path has or had in detail.
pub(crate) fn stat_of(space: &OpenSpace, path: &Path, head: &Head, copy_of: Option<Name>) -> Result<Stat, NodeError> {
    let (survives, stripes) = match &head.value {
        Value::File(file) => (
            file.survives,
            Tree::of(space.id()).count_stripes(&space.read()?, file.id)?,
        ),
        Value::Directory(_) | Value::Space(_) => (0, 0),
    };
    let (_, name) = path.split().ok_or_else(|| TreeError::IsADirectory(path.clone()))?;
    Ok(Stat {
        path: path.clone(),
        entry: entry(name.clone(), head, copy_of).ok_or_else(|| TreeError::NotFound(path.clone()))?,
        survives,
        stripes,
    })
}

/// What is at a path, the latest of it, and what has set it.
pub(crate) fn head(space: &OpenSpace, path: &Path) -> Result<Head, NodeError> {
    let found = space.view().find(&space.read()?, path)?;
    let heads = found.into_iter().flat_map(|found| found.heads);
    let head = heads.into_iter().next();
    Ok(head.ok_or_else(|| TreeError::IsADirectory(path.clone()))?)
}

/// The file that a value of a path is, and where its content is.
pub(crate) fn content_of(path: &Path, value: &Value) -> Result<(File, Content), NodeError> {
    match value {
        Value::File(file) if file.is_erased() => Err(NodeError::Erased(path.clone())),
        Value::File(file) => Ok((file.clone(), from_canonical(&file.content).map_err(TreeError::from)?)),
        Value::Directory(_) | Value::Space(_) => Err(TreeError::IsADirectory(path.clone()).into()),
    }
}

/// Removes a file, or a directory with all that is in it.
pub(crate) async fn remove(space: &OpenSpace, path: &Path, options: RemoveOptions) -> Result<RemoveReport, NodeError> {
    let found = {
        let kv = space.read()?;
        space.view().find(&kv, path)
    };
    if options.now && is_missing(&found) {
        let emptied = trash::empty(space, path).await?;
        if emptied == Emptied::default() {
            found?;
        }
        return Ok(RemoveReport {
            emptied,
            ..RemoveReport::default()
        });
    }
    let found = found?;
    if options.now {
        space.refuse_partial("lets go of something at once")?;
    }
    let fate = if options.now { Fate::Freed } else { space.usual_fate()? };
    refuse_removal(space, path, found.as_ref(), options).await?;
    // First, while what was below is found by its path.
    let emptied = match options.now {
        true => trash::empty(space, path).await?,
        false => Emptied::default(),
    };
    let mut editor = Editor::of(space, fate)?;
    match &found {
        Some(found) => {
            for head in Head::distinct(&found.heads) {
                if let Value::Directory(id) = head.value {
                    editor.empty(id).await?;
                }
            }
            editor.unset(found.parent, &found.name, &found.heads).await?;
        }
        None => editor.empty(DirId::ROOT).await?,
    }
    let (held, gone) = (editor.held, std::mem::take(&mut editor.gone));
    let (files, until) = editor.finish().await?;
    if options.now {
        trash::forget(space, gone).await?;
    }
    if options.confirmed {
        rails::answer(space, fate).await?;
    }
    Ok(RemoveReport {
        files,
        until,
        emptied,
        held,
    })
}

/// Refuses what is a directory where a file is meant, and what is more than the person may have meant.
async fn refuse_removal(
    space: &OpenSpace,
    path: &Path,
    found: Option<&Found>,
    options: RemoveOptions,
) -> Result<(), NodeError> {
    let directories: Vec<DirId> = match found {
        Some(found) => found.heads.iter().filter_map(directory_of).collect(),
        None => vec![DirId::ROOT],
    };
    if !options.recursive {
        for directory in &directories {
            if found.is_none() || !is_empty(space, *directory)? {
                return Err(TreeError::IsADirectory(path.clone()).into());
            }
        }
    }
    if options.confirmed {
        return Ok(());
    }
    let mut files = Files::below(space, directories);
    let mut planned = found.map_or(0, |found| {
        found.heads.iter().filter(|head| is_file(head)).count() as u64
    });
    while files.next().await?.is_some() {
        planned += 1;
    }
    let kv = space.read()?;
    if found.is_none() && planned > 0 {
        return Err(NodeError::Mass(MassChange {
            loss: Loss::Remove,
            planned,
            lately: 0,
            of: planned,
        }));
    }
    rails::refuse_mass(space, &kv, Loss::Remove, planned)
}

fn is_file(head: &Head) -> bool {
    matches!(head.value, Value::File(_))
}

fn directory_of(head: &Head) -> Option<DirId> {
    match head.value {
        Value::Directory(id) => Some(id),
        Value::File(_) | Value::Space(_) => None,
    }
}

fn is_empty(space: &OpenSpace, directory: DirId) -> Result<bool, NodeError> {
    let kv = space.read()?;
    Ok(Tree::of(space.id()).list(&kv, directory, None, 1)?.is_empty())
}

/// A removal that goes on over many entries of the log.
pub(crate) struct Editor<'a> {
    space: &'a OpenSpace,
    /// What becomes of what is removed.
    fate: Fate,
    batch: Batch,
    unpinned: Vec<StripeId>,
    files: u64,
    /// What is held on to, whatever is to become of it.
    snapshots: Held,
    /// Of those that were to go at once, how many a snapshot holds.
    pub(crate) held: u64,
    /// What is let go of for good.
    gone: trash::Gone,
}

impl<'a> Editor<'a> {
    /// One that does so with what it removes.
    pub(crate) fn of(space: &'a OpenSpace, fate: Fate) -> Result<Self, NodeError> {
        let snapshots = Snapshots::of(space.id()).held(&space.read()?);
        Ok(Self {
            space,
            fate,
            snapshots: snapshots.map_err(TreeError::from)?,
            batch: Batch::default(),
            unpinned: Vec::new(),
            files: 0,
            held: 0,
            gone: trash::Gone::default(),
        })
    }

    /// Removes all that is in a directory, the deepest first.
    pub(crate) async fn empty(&mut self, directory: DirId) -> Result<(), NodeError> {
        let mut stack: Vec<(DirId, Option<Name>)> = vec![(directory, None)];
        while let Some((current, after)) = stack.pop() {
            let page = {
                let kv = self.space.read()?;
                Tree::of(self.space.id()).list(&kv, current, after.as_ref(), PAGE)?
            };
            let Some(last) = page.last().map(|listed| listed.name.clone()) else {
                continue;
            };
            stack.push((current, Some(last)));
            for listed in page {
                for head in &listed.heads {
                    if let Value::Directory(id) = head.value {
                        stack.push((id, None));
                    }
                }
                self.unset(current, &listed.name, &listed.heads).await?;
            }
        }
        Ok(())
    }

    /// Removes values of a name.
    pub(crate) async fn unset(&mut self, parent: DirId, name: &Name, heads: &[Head]) -> Result<(), NodeError> {
        if !self.fate.keeps() {
            heads.iter().for_each(|head| self.gone.add(head));
        }
        self.files += heads.iter().filter(|head| is_file(head)).count() as u64;
        let is_held = |head: &&Head| is_file(head) && !self.fate.keeps() && self.snapshots.holds_since(head);
        self.held += heads.iter().filter(is_held).count() as u64;
        self.batch.bytes += 100 + name.as_str().len() + 60 * heads.len();
        let replaces = Tree::of(self.space.id())
            .all_ops(&self.space.read()?, heads)
            .map_err(TreeError::from)?;
        self.batch.changes.push(Change::Set {
            parent,
            name: name.clone(),
            value: None,
            replaces,
            fate: self.fate,
        });
        if self.batch.is_full() {
            self.write().await
        } else {
            Ok(())
        }
    }

    /// Writes what has gathered.
    async fn write(&mut self) -> Result<(), NodeError> {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        self.unpinned.extend(names::write(self.space, batch).await?);
        Ok(())
    }

    /// Ends it. Gives the number of files, and until when they can be brought back.
    pub(crate) async fn finish(mut self) -> Result<(u64, Option<Timestamp>), NodeError> {
        self.write().await?;
        // What could not be read may be gone.
        self.space.watch.lock().expect("never poisoned").call_again();
        names::replicate(self.space).await?;
        if !self.unpinned.is_empty() {
            sweep::announce(self.space, std::mem::take(&mut self.unpinned));
        }
        let until = self.space.now() + self.space.retention()?;
        Ok((self.files, (self.fate.keeps() && self.files > 0).then_some(until)))
    }
}

/// Gives a file or directory another name. A directory keeps its id, so however much is in it, nothing else changes.
pub(crate) async fn rename(space: &OpenSpace, from: &Path, to: &Path) -> Result<(), NodeError> {
    if to.is_within(from) {
        return Err(TreeError::IntoItself(from.clone()).into());
    }
    let (found, parent, name) = {
        let (kv, view) = (space.read()?, space.view());
        let found = view.find(&kv, from)?.ok_or_else(|| TreeError::IntoItself(to.clone()))?;
        let (parent, name) = to.split().ok_or_else(|| TreeError::Exists(to.clone()))?;
        let parent = view.directory(&kv, &parent)?;
        if view.named(&kv, parent, name)?.is_some() {
            return Err(TreeError::Exists(to.clone()).into());
        }
        (found, parent, name.clone())
    };
    move_values(space, &found, parent, &name).await?;
    names::replicate(space).await.map(drop)
}

/// Gives values another name, which is free.
pub(crate) async fn move_values(space: &OpenSpace, found: &Found, parent: DirId, name: &Name) -> Result<(), NodeError> {
    if areas::crosses(found, parent) {
        return areas::carry_over(space, found, parent, name).await;
    }
    let (uses, batch) = {
        let (kv, tree) = (space.read()?, Tree::of(space.id()));
        let (mut uses, mut batch) = (Vec::new(), Batch::default());
        // A directory takes its past along. Of a file it is known for a while where it was.
        let fate = match found.heads.iter().all(is_file) {
            true => Fate::moved_for(space.retention()?),
            false => Fate::Carried,
        };
        // All values move, conflicts included, each by a change of its own.
        for head in Head::distinct(&found.heads) {
            let value = match &head.value {
                Value::Directory(id) => Value::Directory(*id),
                Value::Space(id) => Value::Space(*id),
                Value::File(file) => Value::File(moved(space, &kv, file, parent.area(), &mut uses)?),
            };
            batch.changes.push(Change::Set {
                parent,
                name: name.clone(),
                value: Some(value),
                replaces: Vec::new(),
                fate: Fate::Carried,
            });
        }
        batch.changes.push(Change::Set {
            parent: found.parent,
            name: found.name.clone(),
            value: None,
            replaces: tree.all_ops(&kv, &found.heads).map_err(TreeError::from)?,
            fate,
        });
        (uses, batch)
    };
    // The list of a large file's stripes goes ahead, as when it is put: it is too long for one entry.
    let _writing: Vec<_> = batch
        .changes
        .iter()
        .filter_map(file_of)
        .map(|file| space.writing.claim(file))
        .collect();
    for part in uses {
        let mut batch = Batch::default();
        batch.changes.push(part);
        names::write(space, batch).await?;
    }
    names::write(space, batch).await.map(drop)
}

fn file_of(change: &Change) -> Option<FileId> {
    match change {
        Change::Set {
            value: Some(Value::File(file)),
            ..
        } => Some(file.id),
        _ => None,
    }
}

/// The same content as a version of its own: the old one lets go of its stripes when its name does.
pub(crate) fn moved(
    space: &OpenSpace,
    kv: &impl Kv,
    file: &File,
    area: Option<AreaId>,
    uses: &mut Vec<Change>,
) -> Result<File, NodeError> {
    let id = FileId::generate(area, &*space.entropy);
    if file.uses.is_empty() {
        let stripes = Tree::of(space.id()).stripes_of(kv, file.id)?;
        uses.extend((0..).zip(stripes.chunks(PART)).map(|(part, stripes)| Change::Uses {
            file: id,
            part,
            stripes: stripes.to_vec(),
        }));
    }
    Ok(File { id, ..file.clone() })
}
