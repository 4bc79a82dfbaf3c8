//! This node's own log: it writes nothing before it has heard what others know of it, and when it did write beside what they know, it sets that right.
//!
//! A home that was restored from an older image of itself does not know what it wrote since. Others keep that, and the next entry with a number that
//! they have is none to them. So the node asks them first. When nobody was there to ask, and it wrote, it takes their history as its own as
//! soon as they meet, and says what it wrote once more, after it.

use crate::{
    checkpoint,
    error::{MetaError, NodeError},
    links::Draft,
    logs,
    names::{self, Batch},
    shared::Shared,
    space::OpenSpace,
    sweep,
};
use potluck_spaces::{AppendError, Branch, Change, Log, Logged, Position, Tree};
use potluck_types::{Hash, NodeId, SpaceId, StripeId};
use serde_bytes::ByteBuf;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// How long after its start a node may take to find the others, and to hear from those that it found what it lacks.
const GATHER_TIME: Duration = Duration::from_secs(5);
const CATCH_UP_TIME: Duration = Duration::from_secs(60);
const GATHER_POLL: Duration = Duration::from_millis(20);

/// Waits until every member that is not known to be away is connected and has told what this node lacks, or the node has run for so long that those
/// who have not are away.
pub(crate) async fn gathered(shared: &Shared) {
    let is_incomplete = || {
        let awaited = shared.with_control(|control| control.awaited());
        let patience = match () {
            () if !shared.greetings.is_empty() => CATCH_UP_TIME,
            () if awaited > 0 => GATHER_TIME,
            () => Duration::ZERO,
        };
        shared.started.elapsed() < patience
    };
    while is_incomplete() {
        tokio::time::sleep(GATHER_POLL).await;
    }
}

/// Asks those that keep this person's log, once a run, what they know of it: before that nothing is written. Where nobody is here, there is nothing to wait for.
pub(crate) async fn know_own_log(space: &OpenSpace) {
    let is_known = || space.opened().knows_own_log.load(Ordering::Relaxed);
    if is_known() {
        return;
    }
    gathered(space).await;
    for node in names::keepers(space.shared(), space.id(), &space.present_view()) {
        if is_known() {
            return;
        }
        if let Err(error) = logs::pull(space.shared(), node, space.id()).await {
            tracing::debug!(node = %node.short(), error, "it does not tell what it knows of this node's log");
        }
    }
    finish(space).await;
}

/// Says again what a run that was cut off had set aside.
pub(crate) async fn finish(space: &OpenSpace) {
    let _one_at_a_time = space.opened().names.lock().await;
    match say_again(space).await {
        Ok(given_up) if given_up.is_empty() => {}
        Ok(given_up) => sweep::announce(space, given_up),
        Err(error) => tracing::warn!(%error, "what was written beside this node's log is not said again yet"),
    }
}

/// Compares this node's own log with what a peer knows of it, and takes the peer's history as its own where the two part.
pub(crate) async fn compare(space: &OpenSpace, peer: NodeId, theirs: Option<Position>) -> Result<(), String> {
    let Some(theirs) = theirs else { return Ok(()) };
    if agrees(space, peer, theirs).await? {
        return Ok(());
    }
    let told = |error: NodeError| error.to_string();
    // Who sets something aside makes all anew, of all logs.
    checkpoint::whole(space).await.map_err(told)?;
    let _one_at_a_time = space.opened().names.lock().await;
    // Another peer may have told it meanwhile.
    if agrees(space, peer, theirs).await? {
        return Ok(());
    }
    say_again(space).await.map_err(told)?;
    let common = logs::common(space.shared(), peer, space.id(), (space.me(), theirs)).await?;
    let next = fetch(space, peer, common).await?;
    let first = next.first().ok_or(logs::TELLS_NONE)?;
    let first = Logged::from_bytes(first).map_err(|error| error.to_string())?;
    if is_given_up(space, common + 1, first.hash()).await.map_err(told)? {
        tracing::warn!(peer = %peer.short(), "it keeps a history of this node that was given up: what it says of this node's log is not taken");
        return Ok(());
    }
    // Nothing is written between: it would part the two once more.
    space.opened().knows_own_log.store(false, Ordering::Relaxed);
    let entries = set_aside(space, common).await.map_err(told)?;
    tracing::warn!(
        entries,
        common,
        peer = %peer.short(),
        "this node was restored from an older image of itself, or copied: it takes what others know of its log, and says again what it wrote since"
    );
    let mut at = common;
    while at < theirs.seq {
        let entries = fetch(space, peer, at).await?;
        if entries.is_empty() {
            return Err("it does not tell all of its entries".to_owned());
        }
        at += entries.len() as u64;
        names::take_entries(space.shared(), space.id(), entries)
            .await
            .map_err(told)?;
    }
    // Also when nothing was given up: others hear of what was said again.
    sweep::announce(space, say_again(space).await.map_err(told)?);
    Ok(())
}

/// Whether what the peer knows and what this node knows are one history, of which one may know more.
async fn agrees(space: &OpenSpace, peer: NodeId, theirs: Position) -> Result<bool, String> {
    let task = space.clone();
    let (ours, known) = Shared::blocking(move || {
        let (kv, log) = (task.read()?, Log::of(task.id()));
        let ours = log.position(&kv, task.me()).map_err(MetaError::reading)?;
        let known = log.entry(&kv, task.me(), theirs.seq).map_err(MetaError::reading)?;
        Ok::<_, MetaError>((ours, known))
    })
    .await
    .map_err(|error| error.to_string())?;
    if let Some(known) = known {
        return Ok(known.hash() == theirs.hash);
    }
    let Some(ours) = ours else { return Ok(true) };
    let next = fetch(space, peer, ours.seq).await?;
    let first = next.first().ok_or(logs::TELLS_NONE)?;
    let logged = Logged::from_bytes(first).map_err(|error| error.to_string())?;
    let (entry, _) = logged.open().map_err(|error| error.to_string())?;
    Ok(entry.previous == Some(ours.hash))
}

/// Entries of this node's own log that a peer has.
async fn fetch(space: &OpenSpace, peer: NodeId, after: u64) -> Result<Vec<ByteBuf>, String> {
    logs::fetch(space, peer, space.id(), (space.me(), after)).await
}

async fn is_given_up(space: &OpenSpace, seq: u64, hash: Hash) -> Result<bool, NodeError> {
    let task = space.clone();
    Shared::blocking(move || {
        let branch = Branch::of(task.id(), task.me());
        Ok(branch
            .is_given_up(&task.read()?, seq, hash)
            .map_err(MetaError::reading)?)
    })
    .await
}

/// How far this node's own log goes, for one that keeps a history of it of which this is the last entry: none where that was not given up, or where it is not all said again yet.
pub(crate) async fn stands_by(
    shared: &Arc<Shared>,
    space: SpaceId,
    (seq, hash): (u64, Hash),
) -> Result<Option<Position>, NodeError> {
    let Some(space) = shared.open_space(space) else {
        return Ok(None);
    };
    Shared::blocking(move || {
        let (kv, branch) = (space.read()?, Branch::of(space.id(), space.me()));
        let is_given_up = branch.is_given_up(&kv, seq, hash).map_err(MetaError::reading)?;
        if !is_given_up || branch.next_aside(&kv)?.is_some() {
            return Ok(None);
        }
        let position = Log::of(space.id()).position(&kv, space.me());
        Ok(position.map_err(MetaError::reading)?)
    })
    .await
}

async fn set_aside(space: &OpenSpace, after: u64) -> Result<u64, NodeError> {
    let task = space.clone();
    Shared::blocking(move || set_aside_now(&task, after)).await
}

/// Sets aside what this node wrote after an entry. Whoever holds the lock on names says it again.
fn set_aside_now(space: &OpenSpace, after: u64) -> Result<u64, NodeError> {
    let tree = Tree::of(space.id()).learning_at(space.elapsed());
    space.meta.write(|kv| {
        let branch = Branch::of(space.id(), space.me());
        Ok(branch.set_aside(kv, &space.ring().keys, tree, after)?)
    })
}

/// Leaves out of this node's log what it wrote after an entry where its person may not write any more. What it may still say it says again, after what counts: of a log nobody takes what comes
/// after something that does not. For whoever holds the lock on names, and may wait. Gives the stripes that were given up.
pub(crate) fn leave_out_after(space: &OpenSpace, last: u64) -> Result<Vec<StripeId>, NodeError> {
    // What waits from before has its numbers.
    let mut given_up = say_again_now(space)?;
    let entries = set_aside_now(space, last)?;
    tracing::warn!(space = %space.id().short(), entries, "what this machine wrote where its person may not write any more is left out of its log");
    given_up.extend(say_again_now(space)?);
    Ok(given_up)
}

/// Says again what was set aside. Gives the stripes that were given up.
async fn say_again(space: &OpenSpace) -> Result<Vec<StripeId>, NodeError> {
    let task = space.clone();
    Shared::blocking(move || say_again_now(&task)).await
}

/// The same for whoever may wait: each entry is a transaction of its own.
fn say_again_now(space: &OpenSpace) -> Result<Vec<StripeId>, NodeError> {
    let mut given_up = Vec::new();
    while let Some(stripes) = say_one_again(space)? {
        given_up.extend(stripes);
    }
    Ok(given_up)
}

fn say_one_again(space: &OpenSpace) -> Result<Option<Vec<StripeId>>, NodeError> {
    let branch = Branch::of(space.id(), space.me());
    let Some(again) = branch.next_aside(&space.read()?)? else {
        return Ok(None);
    };
    let claimed = space.claims.lock();
    space.meta.write(|kv| {
        let written = space.written_areas(kv)?;
        let may_say = match again.entry.area {
            Some(area) => written.is_none_or(|written| written.contains(&area)),
            None => written.is_none(),
        };
        if !may_say {
            // The person may not write there any more. What refers to it refers to nothing.
            branch.said_again(kv, again.seq, 0)?;
            return Ok(Some(Vec::new()));
        }
        let changes = Tree::of(space.id()).changes_again(&space.ring().keys, space.me(), &again)?;
        let links = again.entry.links.iter();
        let links = links.filter_map(|publication| Draft::again(space, again.entry.epoch, publication));
        // What they use may have been pinned by an entry that is not said again.
        let mut pins = again.entry.pins.clone();
        pins.extend(changes.iter().flat_map(Change::uses));
        pins.sort_unstable();
        pins.dedup();
        let batch = Batch {
            changes,
            pins,
            erases: again.erases(space.me()),
            links: links.collect(),
            within: again.entry.area,
            ..Batch::default()
        };
        // It was there before, and is not refused for being too much.
        let written = names::write_within(space, kv, &claimed, &batch)?;
        branch.said_again(kv, again.seq, written.seq)?;
        Ok(Some(written.given_up))
    })
}

impl From<potluck_spaces::BranchError> for NodeError {
    fn from(error: potluck_spaces::BranchError) -> Self {
        match error {
            potluck_spaces::BranchError::Append(error) => Self::Log(error),
            potluck_spaces::BranchError::Tree(error) => Self::Tree(error),
            other => Self::Log(AppendError::Kv(Box::new(other))),
        }
    }
}
