//! Snapshots: naming what is there now, so that it can be brought back, whatever becomes of it, for as long as the snapshot is there.
//!
//! What a snapshot holds goes to the trash when it is removed or overwritten, also where it would be let go of at once, and stays there when its time is over. That is seen to
//! where changes are written: no command has to think of it.

use crate::{
    api::SnapshotInfo,
    error::{MetaError, NodeError},
    logs,
    names::{self, Batch},
    shared::Shared,
    space::OpenSpace,
};
use potluck_spaces::{
    Change, DirId, Expiring, Fate, Head, Kv, Machines, Name, Snapshots, Taken, Trash, Tree, TreeError, Value,
};
use potluck_types::sabotage::{self, Bug};
use std::time::Duration;

/// Snapshots that one space may have.
const SNAPSHOTS_MAX: usize = 1000;
/// Values of the trash that are looked at in one step.
const PAGE: usize = 256;

/// Names what is there now; after the time, when no name is given.
pub(crate) async fn create(space: &OpenSpace, name: Option<Name>) -> Result<SnapshotInfo, NodeError> {
    space.refuse_reader()?;
    space.refuse_partial("makes snapshots")?;
    space.refuse_when_full()?;
    if let Err(error) = logs::catch_up(space).await {
        tracing::info!(%error, "a snapshot has what is known here");
    }
    let name = match name {
        Some(name) => name,
        None => space.now().to_string().try_into().map_err(TreeError::from)?,
    };
    let (task, taken) = (space.clone(), name.clone());
    Shared::blocking(move || {
        let all = Snapshots::of(task.id())
            .list(&task.read()?)
            .map_err(MetaError::reading)?;
        if all.iter().any(|(known, _)| *known == taken) {
            return Err(NodeError::SnapshotExists(taken));
        }
        match all.len() < SNAPSHOTS_MAX {
            true => Ok(()),
            false => Err(NodeError::TooManySnapshots(SNAPSHOTS_MAX)),
        }
    })
    .await?;
    say(space, name.clone(), true).await?;
    let all = list(space).await?;
    let info = all.into_iter().find(|info| info.name == name);
    info.ok_or(NodeError::NoSuchSnapshot(name))
}

/// Removes a snapshot: what it alone holds is let go of with what else is in the trash for its time.
pub(crate) async fn remove(space: &OpenSpace, name: &Name) -> Result<SnapshotInfo, NodeError> {
    space.refuse_reader()?;
    space.refuse_partial("removes snapshots")?;
    let all = list(space).await?;
    let info = all.into_iter().find(|info| info.name == *name);
    let info = info.ok_or_else(|| NodeError::NoSuchSnapshot(name.clone()))?;
    say(space, name.clone(), false).await?;
    Ok(info)
}

async fn say(space: &OpenSpace, name: Name, is_there: bool) -> Result<(), NodeError> {
    let mut batch = Batch::default();
    batch.changes.push(Change::Snapshot { name, is_there });
    names::write(space, batch).await?;
    names::replicate(space).await.map(drop)
}

/// The moment that a snapshot is of.
pub(crate) async fn get(space: &OpenSpace, name: &Name) -> Result<Taken, NodeError> {
    let (task, name) = (space.clone(), name.clone());
    Shared::blocking(move || {
        let taken = Snapshots::of(task.id())
            .get(&task.read()?, &name)
            .map_err(MetaError::reading)?;
        taken.ok_or(NodeError::NoSuchSnapshot(name))
    })
    .await
}

/// The snapshots of a space, the latest first, and how much each holds that is not there any more.
pub(crate) async fn list(space: &OpenSpace) -> Result<Vec<SnapshotInfo>, NodeError> {
    let task = space.clone();
    let all =
        Shared::blocking(move || Snapshots::of(task.id()).list(&task.read()?).map_err(MetaError::reading)).await?;
    let mut infos: Vec<SnapshotInfo> = all
        .into_iter()
        .map(|(name, taken)| SnapshotInfo {
            name,
            at: taken.clock,
            machine: space.called(taken.op.device),
            person: space.author(taken.op.device),
            held: 0,
            held_bytes: 0,
        })
        .collect();
    infos.sort_by_key(|info| std::cmp::Reverse(info.at));
    let mut after = None::<Expiring>;
    while !infos.is_empty() {
        let task = space.clone();
        let (last, page) = Shared::blocking(move || {
            let (kv, trash) = (task.read()?, Trash::of(task.id()));
            let page = trash.expiring(&kv, after, PAGE).map_err(MetaError::reading)?;
            let mut kept = Vec::new();
            for expiring in &page {
                kept.extend(trash.get(&kv, expiring.op).map_err(MetaError::reading)?);
            }
            Ok::<_, NodeError>((page.last().copied(), kept))
        })
        .await?;
        if last.is_none() {
            break;
        }
        after = last;
        for kept in page {
            let Value::File(file) = &kept.head.value else { continue };
            for info in &mut infos {
                if kept.was_there(info.at) {
                    info.held += 1;
                    info.held_bytes += file.len;
                }
            }
        }
    }
    Ok(infos)
}

/// Changes that would let go of what a snapshot holds, as they are to be written instead; none when none does.
pub(crate) fn spare(space: &OpenSpace, kv: &impl Kv, changes: &[Change]) -> Result<Option<Vec<Change>>, NodeError> {
    let lets_go = |change: &Change| matches!(change, Change::Set { fate, replaces, .. } if (fate.carries() || !fate.keeps()) && !replaces.is_empty());
    if !changes.iter().any(lets_go) {
        return Ok(None);
    }
    let held = Snapshots::of(space.id()).held(kv).map_err(MetaError::reading)?;
    if held.is_empty() || sabotage::is_planted(Bug::ForgetSnapshots) {
        return Ok(None);
    }
    let retention = space.retention()?.max(Duration::from_millis(1));
    let mut spared = Vec::new();
    for change in changes {
        let mut change = change.clone();
        if lets_go(&change)
            && let Change::Set {
                parent,
                name,
                value,
                replaces,
                fate,
            } = &mut change
            && !matches!(*parent, DirId::SPACES | DirId::LINKS)
        {
            let heads = Tree::of(space.id()).heads(kv, *parent, name)?;
            // A directory that is moved takes what is in it along.
            let stays = |head: &Head| fate.carries() && matches!(head.value, Value::Directory(_));
            let is_held = |head: &Head| replaces.contains(&head.op) && held.holds_since(head) && !stays(head);
            let takes_held = heads.iter().any(is_held);
            let mut left = Vec::new();
            for op in replaces.iter() {
                let kept = Trash::of(space.id()).get(kv, *op).map_err(MetaError::reading)?;
                if kept.is_none_or(|kept| !held.holds(&kept)) {
                    left.push(*op);
                }
            }
            *replaces = left;
            if replaces.is_empty() && value.is_none() {
                continue;
            }
            if takes_held {
                *fate = match fate {
                    Fate::Carried | Fate::Moved(_) => Fate::shelved_for(retention),
                    _ => Fate::kept_for(retention),
                };
            }
        }
        spared.push(change);
    }
    Ok(Some(spared))
}
