//! Who has heard of an erasure: the machines that keep the log say how far they know it, and all say what they hold of the stripes that were given up.

use super::hunt::Known;
use crate::{
    api::{Erasable, Erased, Receipt, Says},
    error::{MetaError, NodeError},
    logs,
    protocol::{BATCH_MAX, PoolReply, PoolRequest},
    shared::Shared,
    space::OpenSpace,
};
use potluck_spaces::{Liveness, Log, Path, Pins, TreeError};
use potluck_types::{NodeId, SpaceId, SpaceName, StripeId, Timestamp};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// The setting that has the erasures that not everybody has heard of.
const SETTING: &str = "erasures";
/// Erasures that are remembered: of more the first are forgotten.
const REMEMBERED: usize = 100;
/// How long the machines that are here are waited for, and how often they are asked.
const PATIENCE: Duration = Duration::from_secs(20);
const ASK_INTERVAL: Duration = Duration::from_millis(500);
/// How long one machine may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// An erasure that not everybody has heard of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Pending {
    space: SpaceId,
    path: Path,
    at: Timestamp,
    /// The entries of this machine that say so; no last one, when it was not come to an end with.
    from: u64,
    to: Option<u64>,
    /// How far each log was known when the person was asked.
    known: Vec<(NodeId, u64)>,
}

/// Remembers that an erasure is begun: should it be cut off, it is not forgotten that it was.
pub(super) async fn begin(space: &OpenSpace, path: &Path, asked: &Known) -> Result<Pending, NodeError> {
    let known = logs::known(space.shared(), space.id(), space.me()).await?;
    let pending = Pending {
        space: space.id(),
        path: path.clone(),
        at: space.now(),
        from: known.map_or(1, |position| position.seq + 1),
        to: None,
        known: asked.iter().map(|(device, last)| (*device, *last)).collect(),
    };
    remember(space.shared(), pending.clone()).await?;
    Ok(pending)
}

async fn remember(shared: &Arc<Shared>, pending: Pending) -> Result<(), NodeError> {
    change(shared, |all| {
        // Of one path that was not come to an end with there is but one.
        let is_same = |other: &Pending| (other.space, &other.path) == (pending.space, &pending.path);
        all.retain(|other| !(is_same(other) && (other.to.is_none() || other.from == pending.from)));
        all.push(pending);
    })
    .await
}

/// Waits a while for all machines to say that they have nothing, and remembers the erasure if not all do.
pub(super) async fn gather(
    space: &OpenSpace,
    called: &SpaceName,
    mut pending: Pending,
    what: Erasable,
) -> Result<Erased, NodeError> {
    let known = logs::known(space.shared(), space.id(), space.me()).await?;
    pending.to = Some(known.map_or(0, |position| position.seq));
    pending.known.clear();
    remember(space.shared(), pending.clone()).await?;
    let until = space.steady() + PATIENCE;
    let stripes = given_up(space, &pending).await?;
    let mut erased = Erased {
        space: called.clone(),
        path: pending.path.clone(),
        at: pending.at,
        what: Some(what),
        is_cut_off: false,
        receipts: Vec::new(),
    };
    loop {
        erased.receipts = ask_all(space, &pending, &stripes).await;
        let is_waited_for = |receipt: &Receipt| !matches!(receipt.says, Says::Nothing | Says::Away);
        if !erased.receipts.iter().any(is_waited_for) || space.steady() >= until {
            break;
        }
        tokio::select! {
            biased;
            () = space.stopping.cancelled() => return Err(NodeError::Stopping),
            () = tokio::time::sleep(ASK_INTERVAL) => {}
        }
    }
    if erased.is_everywhere() {
        forget(space.shared(), &pending).await?;
    }
    Ok(erased)
}

/// Asks again about the erasures that not everybody has heard of. Those of which all have nothing are forgotten after it.
pub(crate) async fn asked_again(shared: &Arc<Shared>) -> Result<Vec<Erased>, NodeError> {
    let mut asked = Vec::new();
    for pending in all(shared).await? {
        let (Some(space), Some(called)) = (shared.open_space(pending.space), shared.spaces.name(pending.space)) else {
            continue;
        };
        let stripes = given_up(&space, &pending).await?;
        let erased = Erased {
            space: called,
            path: pending.path.clone(),
            at: pending.at,
            what: None,
            is_cut_off: pending.to.is_none(),
            receipts: match pending.to {
                Some(_) => ask_all(&space, &pending, &stripes).await,
                None => Vec::new(),
            },
        };
        if erased.is_everywhere() {
            forget(shared, &pending).await?;
        }
        asked.push(erased);
    }
    Ok(asked)
}

/// Goes on with erasures that were cut off when this machine went down.
pub(crate) async fn go_on(shared: &Arc<Shared>) {
    let pending = match all(shared).await {
        Ok(pending) => pending,
        Err(error) => {
            tracing::warn!(%error, "what was to be erased cannot be read");
            return;
        }
    };
    for cut_off in pending.into_iter().filter(|pending| pending.to.is_none()) {
        let (Some(space), Some(called)) = (shared.open_space(cut_off.space), shared.spaces.name(cut_off.space)) else {
            continue;
        };
        tracing::info!(path = %cut_off.path, "going on to erase what was begun before this machine went down");
        let erased = Box::pin(super::erase(&space, &called, &cut_off.path, cut_off.known.clone())).await;
        let is_gone = matches!(erased, Err(NodeError::Tree(TreeError::NotFound(_))));
        if is_gone && let Err(error) = forget(shared, &cut_off).await {
            tracing::warn!(%error, "it is remembered that something was to be erased that is gone");
        } else if let Err(error) = erased
            && !is_gone
        {
            tracing::warn!(path = %cut_off.path, %error, "it is not erased yet");
        }
    }
}

async fn all(shared: &Arc<Shared>) -> Result<Vec<Pending>, NodeError> {
    let task = Arc::clone(shared);
    Shared::blocking(move || Ok(task.meta.setting(SETTING)?.unwrap_or_default())).await
}

async fn change(
    shared: &Arc<Shared>,
    change: impl FnOnce(&mut Vec<Pending>) + Send + 'static,
) -> Result<(), NodeError> {
    let task = Arc::clone(shared);
    Shared::blocking(move || {
        let mut all: Vec<Pending> = task.meta.setting(SETTING)?.unwrap_or_default();
        change(&mut all);
        let too_many = all.len().saturating_sub(REMEMBERED);
        all.drain(..too_many);
        Ok(task.meta.set_setting(SETTING, &all)?)
    })
    .await
}

async fn forget(shared: &Arc<Shared>, pending: &Pending) -> Result<(), NodeError> {
    let (space, from) = (pending.space, pending.from);
    change(shared, move |all| {
        all.retain(|other| (other.space, other.from) != (space, from));
    })
    .await
}

/// The stripes that nobody uses since.
async fn given_up(space: &OpenSpace, pending: &Pending) -> Result<Vec<StripeId>, NodeError> {
    let (task, from, to) = (space.clone(), pending.from, pending.to.unwrap_or(0));
    Shared::blocking(move || {
        let (kv, log, pins) = (task.read()?, Log::of(task.id()), Pins::of(task.id()));
        let mut given_up = BTreeSet::new();
        for seq in from..=to {
            let Some(logged) = log.entry(&kv, task.me(), seq).map_err(MetaError::reading)? else {
                break;
            };
            for stripe in logged.open()?.0.unpins {
                let state = pins.state(&kv, stripe).map_err(MetaError::reading)?;
                if state.liveness() == Liveness::Dead {
                    given_up.insert(stripe);
                }
            }
        }
        Ok(given_up.into_iter().collect())
    })
    .await
}

async fn ask_all(space: &OpenSpace, pending: &Pending, stripes: &[StripeId]) -> Vec<Receipt> {
    let others: Vec<NodeId> = space.with_control(|control| control.roster.members().into_iter().collect());
    let others = others.into_iter().filter(|node| *node != space.me());
    let asked = others.map(|node| async move {
        let says = tokio::time::timeout(ANSWER_TIMEOUT, ask(space, node, pending, stripes)).await;
        let (says, sealed) = says.ok().flatten().unwrap_or((Says::Away, 0));
        Receipt {
            machine: node,
            name: space.with_control(|control| control.roster.state(node).and_then(|state| state.name.clone())),
            says,
            sealed,
        }
    });
    futures::future::join_all(asked).await
}

/// What a machine says; nothing when it does not answer.
async fn ask(space: &OpenSpace, node: NodeId, pending: &Pending, stripes: &[StripeId]) -> Option<(Says, u64)> {
    if !space.with_control(|control| control.live_peers().contains(&node)) {
        return None;
    }
    let request = PoolRequest::Frontier {
        space: space.id(),
        is_chartered: false,
        digest: None,
    };
    let known = match space.ask(node, &request).await.ok()? {
        PoolReply::Frontier(known) => known,
        PoolReply::Logs { known, .. } => known,
        _ => return None,
    };
    let position = known.iter().find(|(device, _)| *device == space.me());
    let has_heard = position.is_some_and(|(_, position)| Some(position.seq) >= pending.to);
    if !known.is_empty() && !has_heard {
        // Whoever keeps the log is told at once.
        let _ = logs::push(space.shared(), node, space.id()).await;
        return Some((Says::NotHeard, 0));
    }
    let mut held = 0;
    for stripes in stripes.chunks(BATCH_MAX) {
        let request = PoolRequest::Locate {
            stripes: stripes.to_vec(),
        };
        let PoolReply::Located(located) = space.ask(node, &request).await.ok()? else {
            return None;
        };
        held += located.iter().map(|shards| shards.len() as u64).sum::<u64>();
    }
    Some(match held {
        0 => (Says::Nothing, 0),
        held => (Says::Sealed, held),
    })
}
