//! Bringing back what was removed or overwritten. What has the name meanwhile goes to the trash: nothing is lost by bringing something back.

use crate::{
    apart,
    api::{RestoreOptions, RestoreReport, Which},
    areas,
    claims::Claim,
    error::{MetaError, NodeError},
    files::FileAt,
    logs,
    names::{self, Batch},
    rails,
    shared::Shared,
    space::OpenSpace,
    sweep,
    trash::{self, Place, Walk, is_missing},
    upload::claim_live,
    versions,
};
use potluck_spaces::{Change, DirId, Fate, File, FileId, Found, Head, Kept, OpId, Path, Trash, Tree, TreeError, Value};
use potluck_types::{StripeId, Timestamp};
use std::collections::HashMap;

/// Stripes in one part of the list of a file's stripes.
const PART: usize = 256;

/// Brings back a path: the version of a file, or a directory with all that was removed below it.
pub(crate) async fn restore(
    space: &OpenSpace,
    path: &Path,
    options: RestoreOptions,
) -> Result<RestoreReport, NodeError> {
    // What another machine has let go of cannot be brought back here.
    if let Err(error) = logs::catch_up(space).await {
        tracing::info!(%error, "bringing back what is known here");
    }
    let (task, of) = (space.clone(), path.clone());
    let version = options.version;
    let (kept, heads, directories, version) = Shared::blocking(move || {
        let kv = task.read()?;
        let found = task.view().find(&kv, &of);
        let heads = match found {
            found if is_missing(&found) => Vec::new(),
            found => found?.map_or_else(Vec::new, |found| found.heads),
        };
        let kept = trash::at(&task, &kv, &of)?;
        let directories = trash::directories(&task, &kv, &of)?;
        drop(kv);
        let version = version.map(|id| versions::kept(&task, &of, id)).transpose()?;
        Ok::<_, NodeError>((kept, heads, directories, version))
    })
    .await?;
    if version == Some(None) {
        // It is what the path has.
        return Ok(RestoreReport::default());
    }
    let to = options.to.clone().unwrap_or_else(|| path.clone());
    let mut restorer = Restorer {
        space,
        batch: Batch::default(),
        given_up: Vec::new(),
        directories: HashMap::new(),
        report: RestoreReport::default(),
    };
    let wanted = match version.flatten() {
        Some(op) => Wanted::Version(op),
        None => Wanted::of(&options),
    };
    let version = wanted.of_name(&kept, &heads).and_then(|kept| match &kept.head.value {
        Value::File(file) => Some((kept, file)),
        Value::Directory(_) | Value::Space(_) => None,
    });
    match version {
        Some((kept, file)) => restorer.file(kept, file, &to, options.to.is_some()).await?,
        None if !directories.is_empty() => {
            let was_removed = heads.is_empty() && !kept.is_empty();
            if was_removed {
                restorer.directory(&to).await?;
            }
            let (mut walk, mut is_empty) = (Walk::below(space, path, directories), !was_removed);
            while let Some(Place { path: at, kept }) = walk.next().await? {
                is_empty &= kept.iter().all(Kept::lives_on);
                restorer.place(&moved(&at, path, &to), &kept, wanted).await?;
            }
            if is_empty && wanted == Wanted::Last {
                return Err(NodeError::NotInTrash(path.clone()));
            }
        }
        None => match wanted {
            Wanted::At(at) if !heads.iter().any(|head| head.clock <= at) => {
                let (path, which) = (path.clone(), Which::At(at));
                return Err(NodeError::NoSuchVersion { path, which });
            }
            // What has the name is what had it then.
            Wanted::At(_) | Wanted::Since(_) | Wanted::Version(_) if !heads.is_empty() => {}
            _ => return Err(NodeError::NotInTrash(path.clone())),
        },
    }
    let report = restorer.finish().await?;
    if path.names().is_empty() && wanted != Wanted::Last && report.skipped == 0 {
        rails::accept(space).await?;
    }
    Ok(report)
}

/// The same place below another directory.
fn moved(path: &Path, from: &Path, to: &Path) -> Path {
    let below = &path.names()[from.names().len()..];
    below.iter().fold(to.clone(), |path, name| path.join(name.clone()))
}

/// Which of the values that a path had is to be brought back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wanted {
    /// The one that was removed last.
    Last,
    /// The one that it had then.
    At(Timestamp),
    /// The one that it had then, or if there was none yet, the one that was removed last since.
    Since(Timestamp),
    /// The one that this operation set.
    Version(OpId),
}

impl Wanted {
    fn of(options: &RestoreOptions) -> Self {
        match (options.since, options.at) {
            (Some(since), _) => Self::Since(since),
            (None, Some(at)) => Self::At(at),
            (None, None) => Self::Last,
        }
    }

    /// Of a path that the person names, also one that has a value. None when that is it.
    fn of_name<'a>(self, kept: &'a [Kept], heads: &[Head]) -> Option<&'a Kept> {
        let at = match self {
            Self::Since(_) => return self.below(kept, heads),
            Self::Version(op) => return kept.iter().find(|kept| kept.head.op == op),
            Self::Last => {
                let is_directory = |head: &Head| matches!(head.value, Value::Directory(_));
                return last_gone(kept).filter(|_| !heads.iter().any(is_directory));
            }
            Self::At(at) => at,
        };
        had_at(kept, heads, at)
    }

    /// Of a path below a directory that the person names.
    fn below<'a>(self, kept: &'a [Kept], heads: &[Head]) -> Option<&'a Kept> {
        let last = last_gone(kept).filter(|_| heads.is_empty());
        match self {
            Self::Last => last,
            Self::At(at) => had_at(kept, heads, at),
            Self::Version(_) => None,
            // Of what was moved nothing is missing.
            Self::Since(since) => had_at(kept, heads, since)
                .filter(|kept| !kept.was_moved_away())
                .or(last.filter(|kept| since < kept.removal.clock)),
        }
    }
}

/// What was removed last, and does not live on elsewhere.
fn last_gone(kept: &[Kept]) -> Option<&Kept> {
    kept.iter().find(|kept| !kept.lives_on())
}

/// What a name had at a moment, unless that is what it has.
fn had_at<'a>(kept: &'a [Kept], heads: &[Head], at: Timestamp) -> Option<&'a Kept> {
    let had = kept.iter().filter(|kept| kept.was_there(at));
    let named = heads.iter().map(|head| head.clock).filter(|clock| *clock <= at).max();
    had.max_by_key(|kept| kept.head.clock)
        .filter(|kept| named < Some(kept.head.clock))
}

/// Values that are brought back over many entries of the log.
struct Restorer<'a> {
    space: &'a OpenSpace,
    batch: Batch,
    given_up: Vec<StripeId>,
    directories: HashMap<Path, DirId>,
    report: RestoreReport,
}

impl Restorer<'_> {
    /// What a path below a directory that is brought back had.
    async fn place(&mut self, to: &Path, kept: &[Kept], wanted: Wanted) -> Result<(), NodeError> {
        let heads = self.heads(to)?;
        let Some(chosen) = wanted.below(kept, &heads) else {
            return Ok(());
        };
        match &chosen.head.value {
            Value::Directory(_) => self.directory(to).await.map(drop),
            Value::File(file) => self.file(chosen, file, to, false).await,
            Value::Space(_) => Ok(()),
        }
    }

    /// Gives a version a name. Where that is taken, what has it goes to the trash, unless the person chose the name and may not know.
    async fn file(&mut self, kept: &Kept, file: &File, to: &Path, is_chosen: bool) -> Result<(), NodeError> {
        let Some((parent, name)) = to.split() else {
            return Err(TreeError::Exists(to.clone()).into());
        };
        let parent = self.directory(&parent).await?;
        let found = self.space.view().named(&self.space.read()?, parent, name)?;
        if is_chosen && found.is_some() {
            return Err(TreeError::Exists(to.clone()).into());
        }
        // What conflicts with it stays until a person says what is to become of it, and so does a copy that is only shown under this name.
        let heads = found
            .filter(|found| !found.is_copy)
            .map_or_else(Vec::new, Found::into_latest);
        if heads.first().is_some_and(|head| head.is_same(&kept.head)) {
            // It is there already: it was brought back before, and a snapshot holds on to it.
            return Ok(());
        }
        let is_directory = heads.iter().any(|head| matches!(head.value, Value::Directory(_)));
        let stripes = {
            let kv = self.space.read()?;
            Tree::of(self.space.id()).stripes_of(&kv, file.id)?
        };
        let claims = if is_directory {
            None
        } else {
            claim_all(self.space, &stripes)?
        };
        let Some(claims) = claims else {
            self.report.skipped += 1;
            return Ok(());
        };
        let is_given = parent.area().is_some() && kept.parent.area() != parent.area();
        if let Some(part) = apart::part_of(file).filter(|_| is_given) {
            // Whoever was let in there would be given the key to what it lies in one piece with.
            let at = FileAt {
                path: to.clone(),
                parent: kept.parent,
                name: kept.name.clone(),
                op: kept.head.op,
                clock: kept.head.clock,
                file: file.clone(),
            };
            self.write().await?;
            apart::store_anew(self.space, vec![vec![(at, part)]]).await?;
            let anew = Trash::of(self.space.id()).get(&self.space.read()?, kept.head.op);
            if let Some(anew) = anew.map_err(MetaError::reading)?
                && let Value::File(file) = &anew.head.value
                && anew.head.value != kept.head.value
            {
                return Box::pin(self.file(&anew, file, to, is_chosen)).await;
            }
            self.report.skipped += 1;
            return Ok(());
        }
        let id = FileId::generate(parent.area(), &*self.space.entropy);
        let _writing = self.space.writing.claim(id);
        if file.uses.is_empty() {
            self.use_parts(id, &stripes).await?;
        } else {
            self.batch.pins.extend(&stripes);
        }
        let retention = self.space.retention()?;
        self.report.files += 1;
        self.report.replaced += heads.len() as u64;
        self.batch.bytes += 400 + name.as_str().len() + file.content.len() + 60 * heads.len();
        self.batch.changes.push(Change::Set {
            parent,
            name: name.clone(),
            value: Some(Value::File(File { id, ..file.clone() })),
            replaces: heads.into_iter().map(|head| head.op).collect(),
            fate: Fate::shelved_for(retention),
        });
        if !kept.lives_on() {
            self.batch.let_go(kept, Fate::moved_for(retention));
        }
        self.batch.claims.extend(claims);
        if self.batch.is_full() {
            self.write().await?;
        }
        Ok(())
    }

    /// The list of a large file's stripes goes ahead, as when it is put: it is too long for one entry.
    async fn use_parts(&mut self, file: FileId, stripes: &[StripeId]) -> Result<(), NodeError> {
        for (part, stripes) in (0..).zip(stripes.chunks(PART)) {
            self.batch.bytes += 34 * stripes.len() + 64;
            self.batch.pins.extend(stripes);
            self.batch.changes.push(Change::Uses {
                file,
                part,
                stripes: stripes.to_vec(),
            });
            if self.batch.is_full() {
                self.write().await?;
            }
        }
        Ok(())
    }

    fn heads(&self, path: &Path) -> Result<Vec<Head>, NodeError> {
        let found = self.space.view().find(&self.space.read()?, path);
        if is_missing(&found) {
            return Ok(Vec::new());
        }
        Ok(found?.map_or_else(Vec::new, |found| found.heads))
    }

    /// The directory at a path, which is made where it is missing: the same on every machine that brings it back.
    async fn directory(&mut self, path: &Path) -> Result<DirId, NodeError> {
        if let Some(id) = self.directories.get(path) {
            return Ok(*id);
        }
        // What was written so far may have made it.
        self.write().await?;
        let (mut id, mut here) = (DirId::ROOT, Path::root());
        for name in path.names() {
            here = here.join(name.clone());
            let next = {
                let (kv, space) = (self.space.read()?, self.space.id());
                let heads = Tree::of(space).heads(&kv, id, name)?;
                match heads.first().map(|head| &head.value) {
                    Some(Value::Directory(next)) => Some(*next),
                    Some(Value::File(_) | Value::Space(_)) => return Err(TreeError::NotADirectory(here).into()),
                    None => {
                        let kept = Trash::of(space).at(&kv, id, name).map_err(MetaError::reading)?;
                        let was_directory = |kept: &&Kept| matches!(kept.head.value, Value::Directory(_));
                        // One that is shared alone stays that, and those who were let in are in it again.
                        let again = areas::gone(self.space, &kv, &here)?.filter(|_| id.area().is_none());
                        let made = kept.iter().find(was_directory);
                        let made = made.map(|kept| Tree::of(space).brought_back(id, kept));
                        again.or(made).inspect(|next| {
                            self.batch.changes.push(Change::Set {
                                parent: id,
                                name: name.clone(),
                                value: Some(Value::Directory(*next)),
                                replaces: Vec::new(),
                                fate: Fate::Carried,
                            });
                        })
                    }
                }
            };
            id = match next {
                Some(next) => next,
                None => {
                    let kv = self.space.read()?;
                    let (changes, next) = self.space.view().make_directories(&kv, &here, &*self.space.entropy)?;
                    self.batch.changes.extend(changes);
                    next
                }
            };
            self.write().await?;
        }
        self.directories.insert(path.clone(), id);
        Ok(id)
    }

    async fn write(&mut self) -> Result<(), NodeError> {
        let batch = std::mem::take(&mut self.batch);
        if !batch.is_empty() {
            self.given_up.extend(names::write(self.space, batch).await?);
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<RestoreReport, NodeError> {
        self.write().await?;
        names::replicate(self.space).await?;
        if !self.given_up.is_empty() {
            sweep::announce(self.space, self.given_up);
        }
        let retention = self.space.retention()?;
        if self.report.replaced > 0 && !retention.is_zero() {
            self.report.until = Some(self.space.now() + retention);
        }
        Ok(self.report)
    }
}

/// Holds on to the stripes of a version until it has its name again; none when some were given up.
fn claim_all(space: &OpenSpace, stripes: &[StripeId]) -> Result<Option<Vec<Claim<StripeId>>>, NodeError> {
    stripes.iter().map(|stripe| claim_live(space, *stripe)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_spaces::{Moved, Removal};
    use potluck_types::NodeId;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn op(seq: u64) -> OpId {
        let device = NodeId::from_bytes([1; 32]);
        OpId { device, seq, at: 0 }
    }

    fn head(stored: u64) -> Head {
        Head {
            clock: at(stored),
            op: op(stored),
            value: Value::Directory(DirId::ROOT),
            recoded: None,
        }
    }

    fn kept(stored: u64, removed: u64) -> Kept {
        Kept {
            parent: DirId::ROOT,
            name: "a".to_owned().try_into().unwrap(),
            head: head(stored),
            removal: Removal {
                until: at(removed + 100),
                clock: at(removed),
                op: op(removed),
                overwrites: true,
                moved: Moved::Not,
            },
        }
    }

    #[test]
    fn a_version_is_the_last_removed_or_the_one_of_a_time() {
        let all = [kept(30, 40), kept(20, 30), kept(10, 20)];
        let check = |kept: Option<&Kept>, expected: Option<u64>| {
            assert_eq!(kept.map(|kept| kept.head.clock.as_millis()), expected);
        };
        let at_25 = Wanted::At(at(25));
        check(Wanted::Last.of_name(&all, &[]), Some(30));
        check(at_25.of_name(&all, &[]), Some(20));
        // Then there was nothing.
        check(Wanted::At(at(99)).of_name(&all, &[]), None);
        check(Wanted::At(at(5)).of_name(&all, &[]), None);
        check(Wanted::At(at(45)).of_name(&all, &[head(40)]), None);
        check(Wanted::At(at(35)).of_name(&all, &[head(40)]), Some(30));
        // Of versions that conflicted the latest of then counts.
        check(
            Wanted::At(at(20)).of_name(&[kept(12, 40)], &[head(40), head(10)]),
            Some(12),
        );
        check(Wanted::At(at(15)).below(&[kept(10, 20)], &[head(12)]), None);
        check(Wanted::Last.below(&all, &[]), Some(30));
        check(Wanted::Last.below(&all, &[head(40)]), None);
        check(at_25.below(&all, &[head(40)]), Some(20));
        check(Wanted::At(at(40)).below(&all, &[head(40)]), None);
        // What came after a time, and went too, is missed as well.
        check(at_25.below(&[kept(30, 40)], &[]), None);
        check(Wanted::Since(at(25)).below(&[kept(30, 40)], &[]), Some(30));
        check(Wanted::Since(at(25)).below(&all, &[head(40)]), Some(20));
        check(Wanted::Since(at(45)).below(&all, &[]), None);
    }
}
