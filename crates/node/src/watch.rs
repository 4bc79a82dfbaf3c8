//! Whether all that the logs call live is there.
//!
//! Stewards know what holders report, so a stripe of which nobody holds a shard is known to no steward. Therefore one node for each space goes
//! through its pins, asks the stewards about each stripe, and everybody about those that no steward knows. A steward asks the other way round: whether what
//! cannot be read is any file's.

use crate::{
    control::{Event, Watcher},
    error::NodeError,
    files::Files,
    links, logs,
    protocol::{BATCH_MAX, PoolReply, PoolRequest, Survival},
    shared::Shared,
    space::OpenSpace,
    stripes, sweep,
};
use potluck_spaces::{Liveness, Path, Pins, Tree, TreeError};
use potluck_types::{SpaceId, StripeId, Timestamp};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    mem,
    sync::Arc,
    time::Duration,
};

/// Spaces that nobody seems to keep, and about which all are asked at one time: holders may say any.
const UNHEARD_MAX: u32 = 16;
/// How soon all is looked through again when nothing has changed: each time after twice as long, and rarely enough to take a hundredth of the time at most.
const INTERVAL_MIN: Duration = Duration::from_secs(60);
const INTERVAL_MAX: Duration = Duration::from_secs(6 * 3600);
const INTERVAL_PER_ROUND: u32 = 100;
/// How soon after a round that could not be ended: stewards say for themselves when they know what others hold.
const RETRY_AFTER: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(300);
/// How long after a round there is another, however much changes, as a multiple of what it took.
const PAUSE_PER_ROUND: u32 = 10;
/// How long after a round there is another because somebody has connected: from the second in a row that finds the same, each time after twice as long, and at last. Some connect all day long.
const NEWCOMER_INTERVAL: Duration = Duration::from_secs(30);
const NEWCOMER_INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// Stripes that files are looked up for.
const NAMED_STRIPES_MAX: usize = 4096;
/// Files that are named.
const NAMES_MAX: usize = 100;

/// What the rounds have found.
#[derive(Default, Debug)]
pub(crate) struct Watch {
    /// When the last round began, and how long it took.
    last: Option<(Timestamp, Duration)>,
    /// Something happened that calls for another.
    due: bool,
    /// Somebody has connected, who may hold less than before; and how many rounds for that alone have found the same as the one before.
    newcomer: bool,
    vain: u32,
    /// Rounds that found the same as the one before, and rounds that could not be ended, one after the other.
    quiet: u32,
    failed: u32,
    missing: BTreeMap<SpaceId, Missing>,
}

/// What is missing in one space.
#[derive(Clone, PartialEq, Default, Debug)]
pub(crate) struct Missing {
    /// Stripes of which no member has a shard, and no member is away.
    lost: u64,
    /// Stripes of which nobody has a shard who is here.
    unreadable: u64,
    /// Whether this node is the one to count them.
    counts: bool,
    /// The files that cannot be read, where they are this person's: how many, and some of them.
    files: (u64, Vec<Path>),
}

impl Watch {
    /// Asks for a round soon.
    pub(crate) fn call(&mut self) {
        self.due = true;
    }

    /// Asks for one as somebody has connected.
    pub(crate) fn call_for_newcomer(&mut self) {
        self.newcomer = true;
    }

    /// Asks for a round soon if the last one found something.
    pub(crate) fn call_again(&mut self) {
        self.due |= self
            .missing
            .values()
            .any(|missing| missing.lost + missing.unreadable + missing.files.0 > 0);
    }

    /// How long after a round that took so long there is another if nothing happens.
    fn pause(&self, took: Duration) -> Duration {
        let usual = INTERVAL_MIN.saturating_mul(1 << self.quiet.min(16)).min(INTERVAL_MAX);
        usual.max(took.saturating_mul(INTERVAL_PER_ROUND))
    }

    /// How long it is until the next round, when who is here has changed then.
    fn left(&self, now: Timestamp, changed: Timestamp) -> Duration {
        let Some((last, took)) = self.last else {
            return Duration::ZERO;
        };
        let (soon, usual) = (took.saturating_mul(PAUSE_PER_ROUND), self.pause(took));
        let pause = if self.due || changed > last {
            soon
        } else if self.newcomer {
            let patience = |vain: u32| {
                NEWCOMER_INTERVAL
                    .saturating_mul(1 << vain.min(16))
                    .min(NEWCOMER_INTERVAL_MAX)
            };
            self.vain.checked_sub(1).map_or(soon, patience).clamp(soon, usual)
        } else {
            usual
        };
        pause.saturating_sub(now.since(last))
    }

    /// Whether a round is called for and has not ended yet.
    pub(crate) fn is_due(&self) -> bool {
        self.due || self.last.is_none()
    }

    /// Stripes that are lost, and that cannot be read now, beside those that stewards know of.
    pub(crate) fn counted(&self) -> (u64, u64) {
        let counting = self.missing.values().filter(|missing| missing.counts);
        counting.fold((0, 0), |(lost, unreadable), missing| {
            (lost + missing.lost, unreadable + missing.unreadable)
        })
    }

    /// How many files of a space cannot be read, and some of them.
    pub(crate) fn files(&self, space: SpaceId) -> (u64, Vec<Path>) {
        self.missing
            .get(&space)
            .map(|missing| missing.files.clone())
            .unwrap_or_default()
    }
}

/// Looks through the spaces that this node watches, if it is time to. Gives how long after it to look again, if nothing happens before.
pub(crate) async fn look(shared: &Arc<Shared>) -> Duration {
    let begun = shared.steady();
    let Some(changed) = shared.with_control(|control| control.settled_since(begun)) else {
        return shared.with_control(|control| control.until_settled(begun));
    };
    let is_for_newcomer = {
        let mut watch = shared.watch.lock().expect("never poisoned");
        let left = watch.left(begun, changed);
        if left > Duration::ZERO {
            return left;
        }
        let is_called = mem::take(&mut watch.due);
        mem::take(&mut watch.newcomer) && !is_called
    };
    name_unreadable(shared).await;
    let found = round(shared).await;
    let mut watch = shared.watch.lock().expect("never poisoned");
    match found {
        Ok(found) => {
            let took = shared.steady().since(begun);
            let is_same = changed < watch.last.unwrap_or_default().0 && found == watch.missing;
            watch.quiet = if is_same { watch.quiet + 1 } else { 0 };
            watch.vain = if is_same {
                watch.vain + u32::from(is_for_newcomer)
            } else {
                0
            };
            watch.failed = 0;
            watch.last = Some((begun, took));
            watch.missing = found;
            watch.pause(took)
        }
        Err(reason) => {
            tracing::debug!(reason, "whether all that is live is there is not known yet");
            watch.due = true;
            watch.failed += 1;
            RETRY_AFTER.saturating_mul(1 << watch.failed.min(6)).min(RETRY_MAX)
        }
    }
}

/// Tells the core which of the stripes that cannot be read are no file's: given up, or left by an upload that was cut off before any log named them.
async fn name_unreadable(shared: &Arc<Shared>) {
    let now = shared.steady();
    let unreadable = shared.with_control(|control| control.unreadable(now, BATCH_MAX));
    let (mut dead, mut unnamed) = (Vec::new(), HashSet::new());
    let mut unheard = 0;
    for (space, stripes) in by_space(shared, unreadable).await {
        let Some((verdicts, all)) = sweep::verdicts(shared, space, &stripes).await else {
            // They are for a space that nobody keeps: nobody misses them.
            unheard += 1;
            if unheard <= UNHEARD_MAX {
                unnamed.extend(sweep::unknown_to_all(shared, space, &stripes).await);
            }
            continue;
        };
        for (stripe, liveness) in stripes.into_iter().zip(verdicts) {
            match liveness {
                Liveness::Dead => dead.push(stripe),
                Liveness::Unknown if all => _ = unnamed.insert(stripe),
                Liveness::Live | Liveness::Unknown => {}
            }
        }
    }
    shared.tell(Event::GivenUp(dead));
    shared.tell(Event::Unnamed(unnamed));
}

/// Stripes by the space that holders say they are of; not those of which no holder is here.
async fn by_space(shared: &Arc<Shared>, stripes: Vec<StripeId>) -> BTreeMap<SpaceId, Vec<StripeId>> {
    let (mut sorted, mut left) = (BTreeMap::<_, Vec<_>>::new(), stripes);
    let mut sort = |stripes: Vec<StripeId>, spaces: Vec<Option<SpaceId>>| {
        let mut left = Vec::new();
        for (stripe, space) in stripes.into_iter().zip(spaces) {
            match space {
                Some(space) => sorted.entry(space).or_default().push(stripe),
                None => left.push(stripe),
            }
        }
        left
    };
    let here = sweep::local_spaces(shared, left.clone()).await;
    left = sort(left, here);
    for peer in shared.with_control(|control| control.live_peers()) {
        if left.is_empty() {
            break;
        }
        let request = PoolRequest::Spaces { stripes: left.clone() };
        if let Ok(PoolReply::Spaces(spaces)) = shared.ask(peer, &request).await
            && spaces.len() == left.len()
        {
            left = sort(left, spaces);
        }
    }
    sorted
}

async fn round(shared: &Arc<Shared>) -> Result<BTreeMap<SpaceId, Missing>, String> {
    let spaces = logs::spaces(shared).await.map_err(|error| error.to_string())?;
    let mut found = BTreeMap::new();
    for space in spaces {
        let watcher = shared.with_control(|control| control.watcher(space));
        if watcher != Watcher::Another {
            let missing = missing(shared, space, watcher).await?;
            if missing.lost + missing.unreadable + missing.files.0 > 0 {
                tracing::warn!(space = %space.short(), missing.lost, missing.unreadable, files = missing.files.0, "live data is missing");
                found.insert(space, missing);
            }
        }
    }
    Ok(found)
}

/// What is missing of one space. The first of its watchers is the one that does something about it.
async fn missing(shared: &Arc<Shared>, space: SpaceId, watcher: Watcher) -> Result<Missing, String> {
    let counts = watcher == Watcher::First;
    let (mut gone, mut unreadable) = (0, Vec::new());
    let mut after = None;
    loop {
        let (last, live) = page(shared, space, after).await.map_err(|error| error.to_string())?;
        let Some(last) = last else { break };
        after = Some(last);
        let (unknown, known) = ask_stewards(shared, live).await?;
        let absent = still_live(shared, space, absent(shared, unknown).await?)
            .await
            .map_err(|error| error.to_string())?;
        gone += absent.len() as u64;
        unreadable.extend(absent.into_iter().chain(known));
        unreadable.truncate(NAMED_STRIPES_MAX);
    }
    let is_all_here = shared.with_control(|control| control.is_all_here());
    if is_all_here
        && counts
        && gone > 0
        && let Some(space) = shared.open_space(space)
        && space.may_write()
        && !space.is_partial()
    {
        let lost = unreadable.iter().copied().collect();
        if links::let_go_of_lost(&space, lost)
            .await
            .map_err(|error| error.to_string())?
        {
            tracing::info!(space = %space.id().short(), "what was made of the logs is lost, and is let go of");
            shared.watch.lock().expect("never poisoned").call();
        }
    }
    let files = match shared.open_space(space) {
        Some(space) if !unreadable.is_empty() => {
            let files = files_of(&space, unreadable).await;
            files.map_err(|error| error.to_string())?
        }
        _ => (0, Vec::new()),
    };
    Ok(Missing {
        lost: if is_all_here { gone } else { 0 },
        unreadable: if is_all_here { 0 } else { gone },
        counts,
        files,
    })
}

/// Live stripes of a page of pins, and the last stripe of the page; none when there are no more.
async fn page(
    shared: &Arc<Shared>,
    space: SpaceId,
    after: Option<StripeId>,
) -> Result<(Option<StripeId>, Vec<StripeId>), NodeError> {
    let task = Arc::clone(shared);
    Shared::blocking(move || {
        let pins = Pins::of(space)
            .list(&task.read()?, after, BATCH_MAX)
            .map_err(TreeError::from)?;
        let last = pins.last().map(|(stripe, _)| *stripe);
        let live = pins.into_iter().filter(|(_, state)| state.liveness() == Liveness::Live);
        Ok((last, live.map(|(stripe, _)| stripe).collect()))
    })
    .await
}

/// Those of which the stewards know no shard, and those that they know to be unreadable.
async fn ask_stewards(shared: &Arc<Shared>, stripes: Vec<StripeId>) -> Result<(Vec<StripeId>, Vec<StripeId>), String> {
    let (mut unknown, mut unreadable) = (Vec::new(), Vec::new());
    for (node, stripes) in stripes::by_steward(shared, stripes).await {
        let survivals = if node == shared.me() {
            let now = shared.steady();
            shared.with_control(|control| control.survivals(&stripes, now))
        } else {
            let request = PoolRequest::Survival {
                stripes: stripes.clone(),
            };
            match shared.ask(node, &request).await {
                Ok(PoolReply::Survival(survivals)) => survivals,
                Ok(other) => return Err(format!("node {} answered {other:?}", node.short())),
                Err(error) => return Err(format!("node {}: {error}", node.short())),
            }
        };
        let survivals = survivals
            .filter(|survivals| survivals.len() == stripes.len())
            .ok_or_else(|| format!("node {} does not know yet what the others hold", node.short()))?;
        for (stripe, survival) in stripes.into_iter().zip(survivals) {
            match survival {
                Survival::Unknown => unknown.push(stripe),
                Survival::Unreadable => unreadable.push(stripe),
                Survival::Survives(_) => {}
            }
        }
    }
    Ok((unknown, unreadable))
}

/// Those of which nobody who is here has a shard.
async fn absent(shared: &Arc<Shared>, stripes: Vec<StripeId>) -> Result<Vec<StripeId>, String> {
    if stripes.is_empty() {
        return Ok(stripes);
    }
    let (store, asked) = (shared.store.clone(), stripes.clone());
    let here = Shared::blocking(move || {
        asked
            .iter()
            .map(|stripe| store.indexes_of(*stripe).map(|indexes| !indexes.is_empty()))
            .collect::<Result<Vec<_>, _>>()
    });
    let mut is_somewhere = here.await.map_err(|error| error.to_string())?;
    let request = PoolRequest::Locate {
        stripes: stripes.clone(),
    };
    for peer in shared.with_control(|control| control.live_peers()) {
        match shared.ask(peer, &request).await {
            Ok(PoolReply::Located(found)) if found.len() == stripes.len() => {
                for (is_there, indexes) in is_somewhere.iter_mut().zip(found) {
                    *is_there |= !indexes.is_empty();
                }
            }
            _ => return Err(format!("node {} does not say what it holds", peer.short())),
        }
    }
    let absent = stripes.into_iter().zip(is_somewhere).filter(|(_, is_there)| !is_there);
    Ok(absent.map(|(stripe, _)| stripe).collect())
}

/// Those that are in use, and have not been given up meanwhile.
async fn still_live(shared: &Arc<Shared>, space: SpaceId, stripes: Vec<StripeId>) -> Result<Vec<StripeId>, NodeError> {
    if stripes.is_empty() {
        return Ok(stripes);
    }
    let task = Arc::clone(shared);
    Shared::blocking(move || {
        let kv = task.read()?;
        let mut live = Vec::new();
        for stripe in stripes {
            let state = Pins::of(space).state(&kv, stripe).map_err(TreeError::from)?;
            // What an upload left that never ended belongs to no file, and nobody misses what is in the trash until they want it back; that
            // can be told by who reads the space only.
            let is_needed = task.open_space(space).is_none() || Tree::of(space).is_needed(&kv, stripe)?;
            if is_needed && state.liveness() == Liveness::Live {
                live.push(stripe);
            }
        }
        Ok(live)
    })
    .await
}

/// The files that use any of these stripes: how many, and some of them.
async fn files_of(space: &OpenSpace, stripes: Vec<StripeId>) -> Result<(u64, Vec<Path>), NodeError> {
    let task = space.clone();
    let versions = Shared::blocking(move || {
        let (kv, tree) = (task.read()?, Tree::of(task.id()));
        let mut versions = BTreeSet::new();
        for stripe in stripes {
            let mut after = None;
            loop {
                let users = tree.users(&kv, stripe, after)?;
                let Some(last) = users.last() else { break };
                after = Some(*last);
                versions.extend(users);
            }
        }
        Ok::<_, NodeError>(versions)
    })
    .await?;
    let (mut count, mut names) = (0, Vec::new());
    let mut files = Files::of(space);
    while let Some(at) = files.next().await? {
        if versions.contains(&at.file.id) {
            count += 1;
            if names.len() < NAMES_MAX {
                names.push(at.path);
            }
        }
    }
    Ok((count, names))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_connects_all_day_long_calls_for_fewer_and_fewer_rounds() {
        let took = Duration::from_millis(50);
        let at = |seconds: u64| Timestamp::from_millis(1_000_000_000 + 1000 * seconds);
        let mut watch = Watch {
            last: Some((at(0), took)),
            quiet: 16,
            ..Watch::default()
        };
        assert_eq!(watch.left(at(0), at(0)), INTERVAL_MAX);
        // The first is soon.
        watch.call_for_newcomer();
        assert_eq!(watch.left(at(0), at(0)), 10 * took);
        for (vain, seconds) in [(1, 30), (2, 60), (5, 480), (8, 3600), (40, 3600)] {
            watch.vain = vain;
            assert_eq!(watch.left(at(0), at(0)), Duration::from_secs(seconds));
        }
        // No later than without.
        watch.quiet = 0;
        assert_eq!(watch.left(at(0), at(0)), INTERVAL_MIN);
        watch.vain = 1;
        assert_eq!(watch.left(at(0), at(0)), NEWCOMER_INTERVAL);
        // Whatever else happens is looked at soon.
        assert_eq!(watch.left(at(0), at(1)), 10 * took);
        watch.call();
        assert_eq!(watch.left(at(0), at(0)), 10 * took);
    }
}
