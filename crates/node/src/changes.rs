//! What was done in a space, by whom and when: the entries of all devices' logs, the latest first.

use crate::{
    api::{Did, Doing, Kind},
    checkpoint,
    error::{MetaError, NodeError},
    shared::Shared,
    space::OpenSpace,
};
use potluck_spaces::{Change, DirId, Entry, Fate, Kv, Log, Machines, Name, Path, Tree, TreeError, Value};
use potluck_types::{NodeId, Timestamp};
use std::collections::BTreeMap;

/// Entries that one step reads.
const PAGE: usize = 256;
/// Changes that one step gives, unless one entry has more.
const CHANGES: usize = 256;

/// A walk through what was done. What is done meanwhile is not seen.
pub struct Changes {
    space: OpenSpace,
    below: Path,
    since: Timestamp,
    /// The last entry of each device that was not given yet.
    ahead: Option<BTreeMap<NodeId, Ahead>>,
}

struct Ahead {
    seq: u64,
    entry: Entry,
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes")
            .field("below", &self.below)
            .finish_non_exhaustive()
    }
}

impl Changes {
    pub(crate) fn of(space: &OpenSpace, below: Path, since: Timestamp) -> Self {
        Self {
            space: space.clone(),
            below,
            since,
            ahead: None,
        }
    }

    /// What was done before that, some of it; nothing at the end.
    pub async fn next(&mut self) -> Result<Vec<Did>, NodeError> {
        if self.ahead.is_none()
            && let Err(error) = checkpoint::whole(&self.space).await
        {
            tracing::info!(%error, "what is told is what is known here");
        }
        loop {
            let (space, below, since) = (self.space.clone(), self.below.clone(), self.since);
            let ahead = self.ahead.take();
            let (done, ahead) = Shared::blocking(move || {
                let kv = space.read()?;
                let mut ahead = match ahead {
                    Some(ahead) => ahead,
                    None => last_entries(&space, &kv)?,
                };
                let mut done = Vec::new();
                for _ in 0..PAGE {
                    let Some((device, entry)) = take_latest(&space, &kv, &mut ahead)? else {
                        break;
                    };
                    if entry.clock < since {
                        ahead.clear();
                        break;
                    }
                    done.extend(told(&space, &kv, device, &entry, &below)?);
                    if done.len() >= CHANGES {
                        break;
                    }
                }
                Ok::<_, NodeError>((done, ahead))
            })
            .await?;
            let is_end = ahead.is_empty();
            self.ahead = Some(ahead);
            if !done.is_empty() || is_end {
                return Ok(done);
            }
        }
    }
}

fn last_entries(space: &OpenSpace, kv: &impl Kv) -> Result<BTreeMap<NodeId, Ahead>, NodeError> {
    let log = Log::of(space.id());
    let mut ahead = BTreeMap::new();
    for (device, position) in log.frontier(kv).map_err(MetaError::reading)? {
        ahead.extend(entry(space, kv, device, position.seq)?.map(|entry| (device, entry)));
    }
    Ok(ahead)
}

fn entry(space: &OpenSpace, kv: &impl Kv, device: NodeId, seq: u64) -> Result<Option<Ahead>, NodeError> {
    let logged = Log::of(space.id()).entry(kv, device, seq).map_err(MetaError::reading)?;
    let (entry, _) = match logged {
        Some(logged) => logged.open()?,
        None => {
            checkpoint::refuse_missing(space, kv)?;
            return Ok(None);
        }
    };
    Ok(Some(Ahead { seq, entry }))
}

/// The entry of the latest clock, and of one device the later: their clocks grow.
fn take_latest(
    space: &OpenSpace,
    kv: &impl Kv,
    ahead: &mut BTreeMap<NodeId, Ahead>,
) -> Result<Option<(NodeId, Entry)>, NodeError> {
    let latest = ahead.iter().max_by_key(|(device, ahead)| (ahead.entry.clock, **device));
    let Some(device) = latest.map(|(device, _)| *device) else {
        return Ok(None);
    };
    let Some(Ahead { seq, entry: taken }) = ahead.remove(&device) else {
        return Ok(None);
    };
    if seq > 1 {
        ahead.extend(entry(space, kv, device, seq - 1)?.map(|entry| (device, entry)));
    }
    Ok(Some((device, taken)))
}

/// What an entry did with paths, the last first.
fn told(space: &OpenSpace, kv: &impl Kv, device: NodeId, entry: &Entry, below: &Path) -> Result<Vec<Did>, NodeError> {
    let changes = match Tree::of(space.id()).changes(kv, &space.ring().keys, device, entry) {
        Ok(changes) => changes,
        Err(TreeError::NoKey | TreeError::Sealed) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut directories = BTreeMap::new();
    let mut path_of = |parent: DirId, name: &Name| {
        let directory = match directories.get(&parent) {
            Some(path) => Option::clone(path),
            None => {
                let path = space.view().path_of(kv, parent)?;
                directories.insert(parent, path.clone());
                path
            }
        };
        Ok::<_, NodeError>(directory.map(|directory| directory.join(name.clone())))
    };
    // The place that the next change behind it takes something from, and keeps nothing of: that was moved, or brought back.
    let (mut done, mut taken_from) = (Vec::new(), None);
    for change in changes.iter().rev() {
        let Change::Set {
            parent,
            name,
            value,
            replaces,
            fate,
        } = change
        else {
            continue;
        };
        let place = (*parent, name);
        let doing = match value {
            None if replaces.is_empty() => continue,
            None => match fate {
                Fate::Carried | Fate::Moved(_) => {
                    taken_from = Some(place);
                    continue;
                }
                Fate::Freed => Doing::Free,
                Fate::Kept(_) | Fate::Shelved(_) => Doing::Remove,
            },
            Some(Value::Space(_)) => continue,
            Some(Value::File(_)) if !replaces.is_empty() => Doing::Change,
            Some(Value::File(_) | Value::Directory(_)) => {
                let from = match taken_from.filter(|from| *from != place) {
                    Some((parent, name)) => path_of(parent, name)?,
                    None => None,
                };
                from.map_or(Doing::Add, |from| Doing::Move { from })
            }
        };
        let Some(path) = path_of(*parent, name)? else { continue };
        let is_below = |path: &Path| path.is_within(below);
        let is_from_below = matches!(&doing, Doing::Move { from } if is_below(from));
        if !is_below(&path) && !is_from_below {
            continue;
        }
        let (kind, len) = match value {
            Some(Value::File(file)) => (Some(Kind::File), Some(file.len)),
            Some(Value::Directory(_)) => (Some(Kind::Directory), None),
            Some(Value::Space(_)) | None => (None, None),
        };
        done.push(Did {
            at: entry.clock,
            machine: space.called(device),
            person: space.author(device),
            node: device,
            entry: entry.seq,
            doing,
            path,
            kind,
            len,
        });
    }
    Ok(done)
}
