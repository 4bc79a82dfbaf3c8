//! What uploads left behind that never ended: stripes that are pinned and that no file uses. And what is in the trash and whose time is over, see
//! `retention`.
//!
//! An upload that breaks off leaves its stripes pinned, so that it finds them when it is begun again. When it has not been for
//! [`ABANDONED_AFTER`], they are given up.

use crate::{
    error::{MetaError, NodeError},
    logs,
    names::{self, Batch},
    retention,
    shared::Shared,
    space::OpenSpace,
    spaces, sweep,
};
use potluck_spaces::{Change, Liveness, Pins, Tree};
use potluck_types::StripeId;
use std::{sync::Arc, time::Duration};

/// How long an upload that broke off is waited for.
pub(crate) const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Pins that are looked at in one step.
const PAGE: usize = 1024;

/// Gives up what was abandoned for this long, and what was in the trash for its time.
pub(crate) async fn collect(space: &OpenSpace, after: Duration) -> Result<u64, NodeError> {
    if !may_collect(space).await? {
        return Ok(0);
    }
    // What a file of another machine uses, and this one has not heard of, would look as if nobody used it.
    logs::catch_up(space).await?;
    collect_heard(space, after).await
}

/// Whether what others use is known here: to those who have all of the space.
pub(crate) async fn may_collect(space: &OpenSpace) -> Result<bool, NodeError> {
    spaces::read_anew(space).await?;
    let task = space.clone();
    Ok(!Shared::blocking(move || task.is_partial_in(&task.read()?)).await?)
}

/// The same by who may, and has just heard all that others know.
pub(crate) async fn collect_heard(space: &OpenSpace, after: Duration) -> Result<u64, NodeError> {
    if !may_collect(space).await? {
        return Ok(0);
    }
    let mut given_up = give_up(space, after).await?;
    given_up.extend(retention::expire(space).await?);
    let count = given_up.len() as u64;
    if count > 0 {
        tracing::info!(
            stripes = count,
            "giving up what uploads that never ended have left, and what was in the trash for its time"
        );
        sweep::announce(space, given_up);
    }
    Ok(count)
}

/// Gives up what uploads have left that broke off so long ago.
pub(crate) async fn give_up(space: &OpenSpace, after: Duration) -> Result<Vec<StripeId>, NodeError> {
    let mut given_up = end_uploads(space, after).await?;
    given_up.extend(unpin_unused(space, after).await?);
    Ok(given_up)
}

/// Versions of this node that were begun and never named. Only the node that writes one knows whether it still does.
async fn end_uploads(space: &OpenSpace, after: Duration) -> Result<Vec<StripeId>, NodeError> {
    let meta = Arc::clone(&space.meta);
    let now = space.now();
    let mut given_up = Vec::new();
    for (of, file, at) in Shared::blocking(move || meta.uploads()).await? {
        let is_here = of.unwrap_or(space.spaces.private().id()) == space.id();
        if !is_here || now.since(at) < after || space.writing.lock().contains_key(&file) {
            continue;
        }
        let mut batch = Batch::default();
        batch.changes.push(Change::Uses {
            file,
            part: 0,
            stripes: Vec::new(),
        });
        given_up.extend(names::write(space, batch).await?);
    }
    Ok(given_up)
}

/// Stripes that were pinned long ago and have no user: their upload ended between the pin and the name.
async fn unpin_unused(space: &OpenSpace, older: Duration) -> Result<Vec<StripeId>, NodeError> {
    let (mut given_up, mut after) = (Vec::new(), None);
    loop {
        let task = space.clone();
        let now = space.now();
        let page = Shared::blocking(move || {
            let kv = task.read()?;
            // What could not be opened yet may use anything.
            if !Tree::of(task.id()).is_unsealed(&kv)? {
                return Ok(None);
            }
            let pins = Pins::of(task.id()).list(&kv, after, PAGE).map_err(MetaError::reading)?;
            let last = pins.last().map(|(stripe, _)| *stripe);
            let mut unused = Vec::new();
            for (stripe, state) in pins {
                let is_old = state.pinned().is_some_and(|pinned| now.since(pinned) >= older);
                if is_old && state.liveness() == Liveness::Live && !Tree::of(task.id()).is_used(&kv, stripe)? {
                    unused.push(stripe);
                }
            }
            Ok::<_, NodeError>(last.map(|last| (last, unused)))
        })
        .await?;
        let Some((last, unused)) = page else {
            return Ok(given_up);
        };
        after = Some(last);
        if !unused.is_empty() {
            given_up.extend(names::unpin(space, unused).await?);
        }
    }
}
