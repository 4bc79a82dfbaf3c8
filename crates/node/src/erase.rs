//! Erasing for ever: the keys to a content are destroyed wherever they are kept, and what was sealed under them is freed.
//!
//! Keys to contents are in the logs, and in the pieces that they lead to. So the changes of every entry that has one are erased, on every machine that keeps the log, and what
//! else these entries said is said again by the one that erases them. Before, files that lie in one piece with what is erased are stored anew. Each step is durable before the
//! next, and finds what is left to be done in the logs: an erasure that was cut off is gone on with by asking for it again.

mod hunt;
mod receipts;

pub(crate) use receipts::{Pending, asked_again};

use crate::{
    api::{Erasable, Erased, PutOptions, RemoveOptions},
    charters, edit,
    error::{MetaError, NodeError},
    files::FileAt,
    links,
    names::{self, Batch},
    shared::Shared,
    space::OpenSpace,
    sweep,
    trash::is_missing,
    upload::Upload,
};
use hunt::{Found, Places, There, each_entry, root};
use potluck_dag::Piece;
use potluck_spaces::{Change, DirId, Erasure, Fate, Kv, Liveness, Log, Path, Pins, Tree, TreeError};
use potluck_types::{Hash, NodeId, SpaceName, StripeId, limits, to_canonical};
use std::collections::{BTreeMap, BTreeSet};

/// What one entry says again of those that it erases, in bytes, unless it is one of which there is more.
const AGAIN_BYTES: usize = 40 << 10;
/// Entries that one erases at most. One that was said again is erased with what it said again, and these are one more.
const ERASED_PER_ENTRY: usize = limits::ERASED_PER_ENTRY_MAX / 2;
/// Places that are named where the same content stays.
const STAYS_TOLD: usize = 100;

/// What is to be done.
struct Plan {
    found: Found,
    /// The versions that have a name, or are in the trash.
    there: Vec<There>,
    /// Files that lie in one piece with what is erased.
    mates: BTreeMap<Hash, Vec<(FileAt, Piece)>>,
    told: Erasable,
}

/// What erasing a path means.
pub(crate) async fn plan(space: &OpenSpace, path: &Path) -> Result<Erasable, NodeError> {
    hear(space).await?;
    let (task, path) = (space.clone(), path.clone());
    Shared::blocking(move || Ok(make_plan(&task, &path)?.told)).await
}

/// Hears what others know of the space: what is not known here is not erased.
async fn hear(space: &OpenSpace) -> Result<(), NodeError> {
    space.refuse_reader()?;
    if let Err(error) = names::catch_up(space).await {
        tracing::info!(%error, "what is erased is what is known here");
    }
    Ok(())
}

fn make_plan(space: &OpenSpace, path: &Path) -> Result<Plan, NodeError> {
    let kv = space.read()?;
    let at_path = space.view().find(&kv, path);
    if let Ok(Some(found)) = &at_path
        && found.is_copy
    {
        return Err(NodeError::EraseCopy(path.clone()));
    }
    let places = Places::of(space, &kv, path)?;
    let mut found = Found::in_logs(space, &kv, &places)?;
    if found.versions.is_empty() && is_missing(&at_path) {
        return Err(TreeError::NotFound(path.clone()).into());
    }
    let there = found.there(space, &kv, &found.versions)?;
    let parts: BTreeSet<(Hash, u32)> = there
        .iter()
        .filter_map(|there| root(&there.file))
        .map(|piece| (piece.sealed_id(), piece.part().start))
        .collect();
    let mut told = Erasable::default();
    let mut mates = BTreeMap::<Hash, Vec<(FileAt, Piece)>>::new();
    for other in found.there(space, &kv, &found.others)? {
        let Some(piece) = root(&other.file).filter(|_| found.holds(&other.file)) else {
            continue;
        };
        let directory = space.view().path_of(&kv, other.parent)?;
        let path = directory.unwrap_or_else(Path::root).join(other.name.clone());
        let is_same = !piece.is_part() || parts.contains(&(piece.sealed_id(), piece.part().start));
        if is_same && told.stays_at.len() < STAYS_TOLD && !told.stays_at.contains(&path) {
            told.stays_at.push(path.clone());
        }
        if !piece.is_part() {
            found.leave(&piece);
            continue;
        }
        told.stored_anew += 1;
        mates
            .entry(piece.sealed_id())
            .or_default()
            .push((at(other, path), piece));
    }
    for there in &there {
        if there.is_named && there.parent != DirId::LINKS {
            told.files += 1;
            told.bytes += there.file.len;
        }
    }
    let is_listing = |(parent, _): &&(DirId, _)| *parent == DirId::LINKS;
    told.versions = (found.versions.len() - found.versions.values().filter(is_listing).count()) as u64;
    told.unerasable = refuse_others(space, &kv, &found)?;
    told.links_of_others = links::count_of_others(space)?;
    Ok(Plan {
        found,
        there,
        mates,
        told,
    })
}

fn at(there: There, path: Path) -> FileAt {
    FileAt {
        path,
        parent: there.parent,
        name: there.name,
        op: there.op,
        clock: there.clock,
        file: there.file,
    }
}

/// Refuses what this person may not erase. Gives how many versions nobody can.
fn refuse_others(space: &OpenSpace, kv: &impl Kv, found: &Found) -> Result<u64, NodeError> {
    let (mut unerasable, mut others) = (0, BTreeSet::new());
    each_entry(space, kv, &mut |device, entry, changes| {
        let mut count = 0;
        let said = (device, entry.seq, entry.clock);
        Change::without(said, changes, &mut |file| {
            let holds = found.holds(file);
            count += u64::from(holds);
            holds
        });
        if count > 0 && !entry.is_erasable() {
            unerasable += count;
        } else if count > 0 && !charters::may_erase(space, kv, space.id(), space.me(), device)? {
            others.insert(device);
        }
        Ok(())
    })?;
    if others.is_empty() {
        return Ok(unerasable);
    }
    let people = space.with_control(|control| {
        let people = others.iter().filter_map(|device| control.roster.owner_of(*device));
        let called = |user| {
            control
                .roster
                .called(user)
                .map_or_else(|| user.short(), |name| name.to_string())
        };
        people.collect::<BTreeSet<_>>().into_iter().map(called).collect()
    });
    Err(NodeError::EraseOthers(people))
}

/// Erases all that a path and those below it have, and ever had.
pub(crate) async fn erase(space: &OpenSpace, called: &SpaceName, path: &Path) -> Result<Erased, NodeError> {
    hear(space).await?;
    let from = receipts::next_entry(space).await?;
    let mut what = Erasable::default();
    loop {
        let (task, of) = (space.clone(), path.clone());
        let plan = Shared::blocking(move || make_plan(&task, &of)).await?;
        let is_part = plan.found.is_part;
        add(&mut what, &plan.told);
        carry_out(space, plan).await?;
        if !is_part {
            break;
        }
    }
    remove_directories(space, path).await?;
    forget_stored(space).await?;
    names::replicate(space).await?;
    receipts::gather(space, called, path, from, what).await
}

fn add(what: &mut Erasable, more: &Erasable) {
    what.files += more.files;
    what.bytes += more.bytes;
    what.versions += more.versions;
    what.stored_anew += more.stored_anew;
    what.stays_at.extend(more.stays_at.iter().cloned());
    what.unerasable = more.unerasable;
    what.links_of_others = more.links_of_others;
}

async fn carry_out(space: &OpenSpace, mut plan: Plan) -> Result<(), NodeError> {
    if !plan.mates.is_empty() {
        let mut upload = Upload::begin(space.clone(), PutOptions::default())?;
        for (_, files) in std::mem::take(&mut plan.mates) {
            upload.repack(files).await?;
        }
        upload.finish().await?;
    }
    plan.there.retain(|there| there.parent != DirId::LINKS);
    let mut given_up = free(space, plan.there).await?;
    // What links show now has no keys to it any more, and what they showed before goes.
    links::show_now(space).await?;
    given_up.extend(say_erased(space, plan.found).await?);
    if !given_up.is_empty() {
        sweep::announce(space, given_up);
    }
    Ok(())
}

/// Lets go of versions, also of what snapshots hold.
async fn free(space: &OpenSpace, there: Vec<There>) -> Result<Vec<StripeId>, NodeError> {
    let (mut given_up, mut batch) = (Vec::new(), Batch::for_good());
    for version in there {
        batch.bytes += 160 + version.name.as_str().len();
        batch.changes.push(Change::Set {
            parent: version.parent,
            name: version.name,
            value: None,
            replaces: vec![version.op],
            fate: Fate::Freed,
        });
        if batch.is_full() {
            let full = std::mem::replace(&mut batch, Batch::for_good());
            given_up.extend(names::write(space, full).await?);
        }
    }
    if !batch.is_empty() {
        given_up.extend(names::write(space, batch).await?);
    }
    Ok(given_up)
}

/// Erases the changes of all entries that have a key to what was found, and says again what else they said.
async fn say_erased(space: &OpenSpace, mut found: Found) -> Result<Vec<StripeId>, NodeError> {
    let task = space.clone();
    let (found, entries) = Shared::blocking(move || {
        let kv = task.read()?;
        // What has a name still, because somebody has put the same meanwhile, or a link shows it, keeps its keys. What comes from now on is not among the entries.
        while found.leave_what_is_there(&task, &kv)? {}
        let mut entries = Vec::new();
        each_entry(&task, &kv, &mut |device, entry, changes| {
            let said = (device, entry.seq, entry.clock);
            if entry.is_erasable() && Change::without(said, changes, &mut |file| found.holds(file)).is_some() {
                entries.push((device, entry.seq));
            }
            Ok(())
        })?;
        Ok::<_, NodeError>((found, entries))
    })
    .await?;
    let (mut given_up, mut batch) = (Vec::new(), Batch::for_good());
    let mut erased = BTreeSet::new();
    for (device, seq) in entries {
        let (again, bytes) = {
            let kv = space.read()?;
            what_is_left(space, &kv, (device, seq), &found)?
        };
        let is_full = batch.bytes + bytes > AGAIN_BYTES || erased.len() + again.len() >= ERASED_PER_ENTRY;
        if is_full && !erased.is_empty() {
            given_up.extend(write_erased(space, &mut batch, &mut erased).await?);
        }
        for change in &again {
            if let Change::Restate { device, seq, .. } = change {
                erased.insert((*device, *seq));
            }
        }
        erased.insert((device, seq));
        batch.bytes += bytes;
        batch.changes.extend(again);
    }
    if !erased.is_empty() {
        given_up.extend(write_erased(space, &mut batch, &mut erased).await?);
    }
    Ok(given_up)
}

/// What an entry says when the keys are taken out, and how many bytes that is.
fn what_is_left(
    space: &OpenSpace,
    kv: &impl Kv,
    (device, seq): (NodeId, u64),
    found: &Found,
) -> Result<(Vec<Change>, usize), NodeError> {
    let Some(logged) = Log::of(space.id()).entry(kv, device, seq).map_err(MetaError::reading)? else {
        return Ok((Vec::new(), 0));
    };
    let (entry, _) = logged.open()?;
    let changes = Tree::of(space.id()).open(&space.ring().keys, &entry)?;
    let again = Change::without((device, seq, entry.clock), changes, &mut |file| found.holds(file));
    let again = again.unwrap_or_default();
    let bytes = again.iter().map(|change| to_canonical(change).len()).sum();
    Ok((again, bytes))
}

async fn write_erased(
    space: &OpenSpace,
    batch: &mut Batch,
    erased: &mut BTreeSet<(NodeId, u64)>,
) -> Result<Vec<StripeId>, NodeError> {
    let mut of_each = BTreeMap::<NodeId, Vec<u64>>::new();
    for (device, seq) in std::mem::take(erased) {
        of_each.entry(device).or_default().push(seq);
    }
    let mut batch = std::mem::replace(batch, Batch::for_good());
    batch.erases = of_each
        .into_iter()
        .map(|(device, entries)| Erasure { device, entries })
        .collect();
    names::write(space, batch).await
}

/// The directories that are left, and what they are called in the trash.
async fn remove_directories(space: &OpenSpace, path: &Path) -> Result<(), NodeError> {
    let options = RemoveOptions {
        recursive: true,
        now: true,
        confirmed: true,
    };
    match edit::remove(space, path, options).await {
        Err(NodeError::Tree(TreeError::NotFound(_) | TreeError::NotADirectory(_))) => Ok(()),
        removed => removed.map(drop),
    }
}

/// Forgets where chunks lie that nobody uses any more, with the keys to them.
pub(crate) async fn forget_stored(space: &OpenSpace) -> Result<(), NodeError> {
    let task = space.clone();
    Shared::blocking(move || {
        let kv = task.read()?;
        let pins = Pins::of(task.id());
        let is_dead = |stripe| Ok(pins.state(&kv, stripe)?.liveness() == Liveness::Dead);
        Ok(task.meta.forget_stored(is_dead)?)
    })
    .await
}
