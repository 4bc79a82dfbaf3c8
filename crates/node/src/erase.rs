//! Erasing for ever: the keys to a content are destroyed wherever they are kept, and what was sealed under them is freed.
//!
//! Keys to contents are in the logs, and in the pieces that they lead to. So the changes of every entry that has one are erased, on every machine that keeps the log, and what
//! else these entries said is said again by the one that erases them. Before, files that lie in one piece with what is erased are stored anew. Each step is durable before the
//! next, and finds what is left to be done in the logs: an erasure that was cut off is gone on with by asking for it again.

mod hunt;
mod receipts;

pub(crate) use receipts::{Pending, asked_again, go_on};

use crate::{
    apart::{self, root},
    api::{Erasable, Erased, RemoveOptions},
    charters, checkpoint, edit,
    error::{MetaError, NodeError},
    files::{FileAt, Files},
    links, logs,
    names::{self, Batch},
    shared::Shared,
    space::OpenSpace,
    sweep,
    trash::is_missing,
};
use hunt::{Found, Known, Places, There, each_entry};
use potluck_dag::Piece;
use potluck_spaces::{Change, DirId, EntryId, Fate, FileId, Head, Kv, Liveness, Log, Path, Pins, Tree, TreeError};
use potluck_types::{Hash, NodeId, SpaceName, StripeId};
use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::atomic::Ordering,
};

/// Entries that are erased in one transaction.
const TOGETHER: usize = 16;
/// Places that are named where the same content stays.
const STAYS_TOLD: usize = 100;
/// How often it is hunted again for what others have said meanwhile.
const ROUNDS_MAX: usize = 1000;

/// What is to be done.
struct Plan {
    places: Places,
    found: Found,
    /// The versions that have a name, or are in the trash.
    there: Vec<There>,
    /// Files that lie in one piece with what is erased.
    mates: BTreeMap<Hash, Vec<(FileAt, Piece)>>,
    told: Erasable,
}

/// What erasing a path means.
pub(crate) async fn plan(space: &OpenSpace, path: &Path) -> Result<Erasable, NodeError> {
    space.refuse_partial("erases for good")?;
    hear(space).await?;
    let (task, path) = (space.clone(), path.clone());
    Shared::blocking(move || {
        let known = known(&task)?;
        let mut told = make_plan(&task, &path, &known)?.told;
        told.known = known.into_iter().collect();
        Ok(told)
    })
    .await
}

/// How far the logs are known.
fn known(space: &OpenSpace) -> Result<Known, NodeError> {
    let frontier = Log::of(space.id()).frontier(&space.read()?);
    let known = frontier.map_err(MetaError::reading)?.into_iter();
    Ok(known.map(|(device, position)| (device, position.seq)).collect())
}

/// Hears what others know of the space: what is not known here is not erased.
async fn hear(space: &OpenSpace) -> Result<(), NodeError> {
    space.refuse_reader()?;
    if let Err(error) = logs::catch_up(space).await {
        tracing::info!(%error, "what is erased is what is known here");
    }
    checkpoint::whole(space).await
}

/// How far the logs of others are known.
fn said_by_others(space: &OpenSpace) -> Result<Known, NodeError> {
    let mut known = known(space)?;
    known.remove(&space.me());
    Ok(known)
}

fn make_plan(space: &OpenSpace, path: &Path, known: &Known) -> Result<Plan, NodeError> {
    let kv = space.read()?;
    let at_path = space.view().find(&kv, path);
    if let Ok(Some(found)) = &at_path
        && (found.is_copy || Head::distinct(&found.heads).count() > 1)
    {
        return Err(NodeError::EraseConflict(path.clone()));
    }
    let mut places = Places::of(space, &kv, path, known.clone())?;
    let mut found = Found::in_logs(space, &kv, &mut places)?;
    if found.versions.is_empty() && is_missing(&at_path) {
        return Err(TreeError::NotFound(path.clone()).into());
    }
    let mut there = found.there(space, &kv, &found.versions)?;
    let part = |piece: &Piece| (piece.sealed_id(), piece.part().start);
    let parts: BTreeSet<_> = there
        .iter()
        .filter_map(|there| root(&there.file))
        .map(|piece| part(&piece))
        .collect();
    let mut told = Erasable::default();
    let mut mates = BTreeMap::<Hash, Vec<(FileAt, Piece)>>::new();
    let mut others = BTreeSet::new();
    for other in found.there(space, &kv, &found.others)? {
        others.insert(other.file.id);
        let Some(piece) = root(&other.file).filter(|_| found.holds(&other.file)) else {
            continue;
        };
        let is_same = !piece.is_part() || parts.contains(&part(&piece));
        if is_same && !other.is_named {
            found.take(&other);
            there.push(other);
            continue;
        }
        let directory = space.view().path_of(&kv, other.parent)?;
        let path = directory.unwrap_or_else(Path::root).join(other.name.clone());
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
    told.has_parts_elsewhere = has_parts_elsewhere(space, &kv, &there, others)?;
    let is_listing = |(parent, _): &&(DirId, _)| *parent == DirId::LINKS;
    told.versions = (found.versions.len() - found.versions.values().filter(is_listing).count()) as u64;
    told.unerasable = refuse_others(space, &kv, &found)?;
    told.links_of_others = links::count_of_others(space, path)?;
    Ok(Plan {
        places,
        found,
        there,
        mates,
        told,
    })
}

/// Whether a large file among these has a stripe that yet another file uses, beside those that are known to: the same was put there, or something like it.
fn has_parts_elsewhere(
    space: &OpenSpace,
    kv: &impl Kv,
    there: &[There],
    mut files: BTreeSet<FileId>,
) -> Result<bool, NodeError> {
    let tree = Tree::of(space.id());
    files.extend(there.iter().map(|there| there.file.id));
    let is_large = |there: &&There| root(&there.file).is_some_and(|piece| !piece.is_part());
    for large in there.iter().filter(is_large) {
        for stripe in tree.stripes_of(kv, large.file.id)? {
            if tree.users(kv, stripe, None)?.iter().any(|user| !files.contains(user)) {
                return Ok(true);
            }
        }
    }
    Ok(false)
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
        let id = EntryId { device, seq: entry.seq };
        let again = Change::without((id, entry), changes, &mut |file| {
            let holds = found.holds(file);
            count += u64::from(holds);
            holds
        });
        if count > 0 && !entry.is_erasable() {
            unerasable += count;
            return Ok(());
        }
        for erased in again.iter().flatten().filter_map(Change::restates) {
            if !charters::may_erase(space, kv, space.id(), space.me(), erased.device)? {
                others.insert(erased.device);
            }
        }
        Ok(())
    })?;
    if others.is_empty() {
        return Ok(unerasable);
    }
    let people = space.with_control(|control| {
        let people = others.iter().filter_map(|device| control.roster.owner_of(*device));
        let called = |user| {
            let name = control.roster.called(user);
            name.map_or_else(|| user.short(), |name| name.to_string())
        };
        people.collect::<BTreeSet<_>>().into_iter().map(called).collect()
    });
    Err(NodeError::EraseOthers(people))
}

/// Erases all that a path and those below it have, and ever had,
/// as far as that was known when a person was asked.
pub(crate) async fn erase(
    space: &OpenSpace,
    called: &SpaceName,
    path: &Path,
    known: Vec<(NodeId, u64)>,
) -> Result<Erased, NodeError> {
    let _one_at_a_time = space.opened().erasing.lock().await;
    hear(space).await?;
    let known: Known = known.into_iter().collect();
    let mut pending = None;
    let mut what = Erasable::default();
    let mut given_up = Vec::new();
    // Again, since others may have moved some of it meanwhile, and since one hunt finds so much at most.
    for round in 0..ROUNDS_MAX {
        let (task, of, up_to) = (space.clone(), path.clone(), known.clone());
        let planned = Shared::blocking(move || Ok((said_by_others(&task)?, make_plan(&task, &of, &up_to)?)));
        let (heard, plan) = match planned.await {
            Err(NodeError::Tree(TreeError::NotFound(_))) if round > 0 => break,
            plan => plan?,
        };
        if pending.is_none() {
            pending = Some(receipts::begin(space, path, &known).await?);
        }
        add(&mut what, &plan.told, round == 0);
        let (places, is_all) = (plan.places.clone(), !plan.found.is_full());
        let done = Box::pin(carry_out(space, plan)).await?;
        given_up.extend(done.given_up);
        names::replicate(space).await?;
        hear(space).await?;
        // What stays elsewhere, or cannot be erased, is found each time.
        if done.entries == 0 || (is_all && said_by_others(space)? == heard) {
            remove_directories(space, path, &places).await?;
            break;
        }
    }
    forget_stored(space).await?;
    names::replicate(space).await?;
    if !given_up.is_empty() {
        sweep::announce(space, given_up);
    }
    let pending = pending.ok_or_else(|| TreeError::NotFound(path.clone()))?;
    receipts::gather(space, called, pending, what).await
}

/// What is found in a later round was told before, but for what was more than one finds.
fn add(what: &mut Erasable, more: &Erasable, is_first: bool) {
    what.files += more.files;
    what.bytes += more.bytes;
    if is_first || more.files > 0 {
        what.versions += more.versions;
    }
    what.stored_anew += more.stored_anew;
    for path in &more.stays_at {
        if !what.stays_at.contains(path) {
            what.stays_at.push(path.clone());
        }
    }
    what.has_parts_elsewhere |= more.has_parts_elsewhere;
    what.unerasable = what.unerasable.max(more.unerasable);
    what.links_of_others = what.links_of_others.max(more.links_of_others);
}

/// What one round has done.
struct Done {
    given_up: Vec<StripeId>,
    /// Entries that were written for it.
    entries: usize,
}

async fn carry_out(space: &OpenSpace, mut plan: Plan) -> Result<Done, NodeError> {
    apart::store_anew(space, std::mem::take(&mut plan.mates).into_values().collect()).await?;
    plan.there.retain(|there| there.parent != DirId::LINKS);
    let freed = plan.there.len();
    let given_up = free(space, plan.there).await?;
    if freed > 0 {
        // What links show now has no keys to it any more, and what they showed before goes.
        links::show_now(space).await?;
    }
    checkpoint::let_go(space).await?;
    let entries = freed + say_erased(space, &plan.places, plan.found).await?;
    Ok(Done { given_up, entries })
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

/// Erases the changes of all entries that have a key to what was found, and says again what else they said. Gives how many there were.
async fn say_erased(space: &OpenSpace, places: &Places, mut found: Found) -> Result<usize, NodeError> {
    let (task, places) = (space.clone(), places.clone());
    let (found, entries) = Shared::blocking(move || {
        let kv = task.read()?;
        // What has a name still, because somebody has put the same meanwhile, or a link shows it, keeps its keys. What comes from now on is not among the entries.
        while found.leave_what_is_there(&task, &kv)? {}
        let (mut first, mut last) = (Vec::new(), Vec::new());
        each_entry(&task, &kv, &mut |device, entry, changes| {
            let id = EntryId { device, seq: entry.seq };
            let is_told_there = found.is_told_at(&places, (device, entry), &changes);
            let again = Change::without((id, entry), changes, &mut |file| found.holds(file));
            let is_ours = charters::may_erase(&task, &kv, task.id(), task.me(), device)?;
            if entry.is_erasable() && again.is_some() && is_ours {
                if is_told_there { &mut last } else { &mut first }.push(id);
            }
            Ok(())
        })?;
        first.extend(last);
        Ok::<_, NodeError>((found, first))
    })
    .await?;
    for some in entries.chunks(TOGETHER) {
        let mut batches = Vec::new();
        for id in some {
            batches.extend(what_is_left(space, &space.read()?, *id, &found)?);
        }
        names::write_all(space, batches).await?;
    }
    Ok(entries.len())
}

/// What says that an entry is erased, with what is left of it, and the same of what it had said again.
fn what_is_left(space: &OpenSpace, kv: &impl Kv, id: EntryId, found: &Found) -> Result<Vec<Batch>, NodeError> {
    let logged = Log::of(space.id()).entry(kv, id.device, id.seq);
    let Some(logged) = logged.map_err(MetaError::reading)? else {
        return Ok(Vec::new());
    };
    let (entry, _) = logged.open()?;
    let changes = Tree::of(space.id()).open(&space.ring().keys, &entry)?;
    let again = Change::without((id, &entry), changes, &mut |file| found.holds(file));
    Ok(again.into_iter().flatten().map(erasing).collect())
}

/// What is said again, and that the rest is erased.
fn erasing(again: Change) -> Batch {
    Batch {
        erases: again.restates(),
        changes: vec![again],
        ..Batch::for_good()
    }
}

/// Says once more that entries are erased, and what is left of them: who had said so was taken out, and whoever comes now would not believe it.
pub(crate) fn say_again_soon(space: OpenSpace, erased: Vec<EntryId>) {
    let saying: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
        if let Err(error) = say_again(&space, erased).await {
            tracing::warn!(%error, "what one erased who was taken out is not said again");
        }
    });
    tokio::spawn(saying);
}

async fn say_again(space: &OpenSpace, erased: Vec<EntryId>) -> Result<(), NodeError> {
    for id in erased {
        let task = space.clone();
        let again = Shared::blocking(move || {
            let kv = task.read()?;
            if !charters::may_erase(&task, &kv, task.id(), task.me(), id.device)? {
                return Ok(None);
            }
            let logged = Log::of(task.id()).entry(&kv, id.device, id.seq);
            let Some(logged) = logged.map_err(MetaError::reading)? else {
                return Ok(None);
            };
            let (entry, _) = logged.open()?;
            if !entry.is_erased() {
                return Ok(None);
            }
            let changes = Tree::of(task.id()).changes(&kv, &task.ring().keys, id.device, &entry)?;
            Ok::<_, NodeError>(Some(Change::Restate {
                device: id.device,
                seq: id.seq,
                clock: entry.clock,
                changes,
            }))
        });
        if let Some(again) = again.await? {
            names::write_all(space, vec![erasing(again)]).await?;
        }
    }
    Ok(())
}

/// Removes the directories that are left, if nothing is in them. What comes just now goes to the trash with them.
async fn remove_directories(space: &OpenSpace, path: &Path, places: &Places) -> Result<(), NodeError> {
    let mut files = Files::below(space, places.directories.iter().copied().collect());
    if places.directories.is_empty() || files.next().await?.is_some() {
        return Ok(());
    }
    let options = RemoveOptions {
        recursive: true,
        now: false,
        confirmed: true,
    };
    match edit::remove(space, path, options).await {
        Err(NodeError::Tree(TreeError::NotFound(_) | TreeError::NotADirectory(_))) => Ok(()),
        removed => removed.map(drop),
    }
}

/// The same as [`forget_stored`] in a moment; of several who want it one does it.
pub(crate) fn forget_soon(space: OpenSpace) {
    if space.opened().is_forgetting.swap(true, Ordering::AcqRel) {
        return;
    }
    tokio::spawn(async move {
        let _one_at_a_time = space.opened().erasing.lock().await;
        // What comes from now on is for the next.
        space.opened().is_forgetting.store(false, Ordering::Release);
        if let Err(error) = forget_stored(&space).await {
            tracing::warn!(%error, "the keys to what was erased are still remembered here");
        }
    });
}

/// Forgets where chunks lie that nobody uses any more, with the keys to them.
async fn forget_stored(space: &OpenSpace) -> Result<(), NodeError> {
    let task = space.clone();
    Shared::blocking(move || {
        let kv = task.read()?;
        let pins = Pins::of(task.id());
        let is_dead = |stripe| Ok(pins.state(&kv, stripe)?.liveness() == Liveness::Dead);
        Ok(task.meta.forget_stored(is_dead)?)
    })
    .await
}
