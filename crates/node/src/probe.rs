//! How this node looks from the others: whether they reach it where it says, and whether their clocks agree with its own.

use crate::{
    api::Probe,
    protocol::{PoolReply, PoolRequest},
    shared::Shared,
};
use potluck_net::Address;
use potluck_types::NodeId;
use std::{sync::Arc, time::Duration};

/// How long an address may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a member may take for all of them, which it tries at once.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// Members that are asked.
const ASKED_MAX: usize = 16;

/// Which TCP addresses of a member take connections from here. Only what it has signed as its own is tried.
pub(crate) async fn reached(shared: &Arc<Shared>, member: NodeId) -> Vec<(String, bool)> {
    let addresses = shared.with_control(|control| {
        let state = control.roster.state(member);
        state.map(|state| state.addresses.clone()).unwrap_or_default()
    });
    let tried = addresses.into_iter().map(|text| async move {
        let address: Address = text.parse().ok()?;
        let answers = address.answers(ANSWER_TIMEOUT).await?;
        Some((text, answers))
    });
    futures::future::join_all(tried).await.into_iter().flatten().collect()
}

/// What the members say that are here, or the first of many.
pub(crate) async fn ask(shared: &Arc<Shared>) -> Vec<Probe> {
    let peers = shared.with_control(|control| control.live_peers());
    let asked = peers.into_iter().take(ASKED_MAX).map(|node| async move {
        let begun = shared.now();
        let asked = shared.ask(node, &PoolRequest::Probe);
        let Ok(Ok(PoolReply::Probe { now, reached })) = tokio::time::timeout(REPLY_TIMEOUT, asked).await else {
            return None;
        };
        // It said so just before its answer came: clocks less apart than that took are not told apart.
        let (earliest, latest) = (begun.as_millis(), shared.now().as_millis());
        let theirs = now.as_millis();
        let ahead = i64::try_from(theirs.saturating_sub(latest)).unwrap_or(i64::MAX);
        let behind = i64::try_from(earliest.saturating_sub(theirs)).unwrap_or(i64::MAX);
        Some(Probe {
            node,
            clock_ahead_millis: ahead - behind,
            reached,
        })
    });
    futures::future::join_all(asked).await.into_iter().flatten().collect()
}
