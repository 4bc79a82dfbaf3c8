//! Holders and stewards compare what they know.

use crate::{
    control::{Check, Event, ReportSum},
    logs,
    protocol::{PoolReply, PoolRequest},
    shared::{AskError, Shared},
};
use potluck_placement::{Reported, View, steward};
use potluck_store::Entry;
use potluck_types::{Hash, NodeId, ShardId};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Shards that one step of a report reads.
const PAGE: usize = 400;
/// At most a tenth of the time goes into finding out who looks after what is held here: in a large pool that is much to hash.
const PAUSE_PER_WORK: u32 = 9;
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// Compares all that is held here with what the stewards know, and reports in full to those who know something else. Brings logs to
/// their custodians, too: both follow from who is here. Who has agreed to just that is asked when `all` are.
pub(super) async fn check_reports(shared: Arc<Shared>, all: bool) {
    let _resting = Resting(Arc::clone(&shared));
    let (task, begun) = (Arc::clone(&shared), Instant::now());
    let (sums, view) = Shared::blocking(move || {
        let (view, digest) = task.with_control(|control| (control.view().clone(), control.view_digest()));
        (sums(&task, &view), digest)
    })
    .await;
    let pause = begun.elapsed().saturating_mul(PAUSE_PER_WORK).min(PAUSE_MAX);
    let peers = shared.with_control(|control| control.live_peers());
    let mut agreed = true;
    for node in peers.into_iter().chain([shared.me()]) {
        let known = (sums.get(&node).copied().unwrap_or_default(), view);
        if !all && shared.agreed_reports().has(node, &known) {
            continue;
        }
        let mut outcome = check(&shared, node, known).await;
        if outcome == Some(Check::Differs) {
            report_all(&shared, node).await;
            outcome = check(&shared, node, known).await;
        }
        agreed &= outcome == Some(Check::Agrees);
    }
    agreed &= logs::hand_out(&shared, all).await;
    shared.tell(Event::Checked { agreed });
    tokio::select! {
        () = shared.stopping.cancelled() => {}
        () = tokio::time::sleep(pause) => {}
    }
}

/// Tells the core that there may be another check, however this one ends.
struct Resting(Arc<Shared>);

impl Drop for Resting {
    fn drop(&mut self) {
        self.0.tell(Event::Rested);
    }
}

/// Whether a steward knows what this node holds for it; `None` when it does not answer.
async fn check(shared: &Arc<Shared>, steward: NodeId, (ours, view): (ReportSum, Hash)) -> Option<Check> {
    if steward == shared.me() {
        return Some(shared.check(steward, ours, view));
    }
    let asked = shared.agreed_reports().ask(steward);
    let request = PoolRequest::CheckReports {
        count: ours.count,
        sum: ours.sum.to_le_bytes(),
        view,
    };
    let outcome = match shared.ask(steward, &request).await {
        Ok(PoolReply::Done) => Some(Check::Agrees),
        Ok(PoolReply::Differs) => Some(Check::Differs),
        Ok(PoolReply::OtherView) => Some(Check::OtherView),
        _ => None,
    };
    let known = (outcome == Some(Check::Agrees)).then_some((ours, view));
    shared.agreed_reports().answered(asked, steward, known);
    outcome
}

/// Reports all shards held here that a node looks after, page by page.
async fn report_all(shared: &Arc<Shared>, to: NodeId) {
    let view = Arc::new(shared.with_control(|control| control.view().clone()));
    let (mut after, mut first) = (None, true);
    loop {
        let Some(page) = theirs(shared, to, &view, after).await else {
            return;
        };
        let is_last = page.last.is_none();
        if is_last && !first {
            return;
        }
        after = page.last;
        if page.shards.is_empty() && !is_last {
            continue;
        }
        if let Err(error) = report_page(shared, to, first, page.shards).await {
            tracing::debug!(to = %to.short(), %error, "a full report did not arrive");
            return;
        }
        first = false;
        if is_last {
            return;
        }
    }
}

async fn report_page(shared: &Arc<Shared>, to: NodeId, first: bool, shards: Vec<Reported>) -> Result<(), AskError> {
    let gone = Vec::new();
    if to == shared.me() {
        let from = to;
        shared.run_event(Event::Reported {
            from,
            first,
            shards,
            gone,
        });
        return Ok(());
    }
    let request = PoolRequest::Report { first, shards, gone };
    shared.ask(to, &request).await.map(drop)
}

/// A page of the shards held here.
struct Page {
    shards: Vec<Reported>,
    /// The last that was looked at; none at the end.
    last: Option<ShardId>,
}

/// The next page of what a node looks after; none when it cannot be read.
async fn theirs(shared: &Arc<Shared>, to: NodeId, view: &Arc<View>, after: Option<ShardId>) -> Option<Page> {
    let (task, view) = (Arc::clone(shared), Arc::clone(view));
    Shared::blocking(move || {
        let mut page = page(&task, after)?;
        page.shards
            .retain(|shard| steward(shard.shard.stripe, &view) == Some(to));
        Some(page)
    })
    .await
}

fn page(shared: &Shared, after: Option<ShardId>) -> Option<Page> {
    let entries = match shared.store.entries(after, PAGE) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(%error, "the shards held here cannot be listed");
            return None;
        }
    };
    let reported = |(shard, entry): &(ShardId, Entry)| Reported {
        shard: *shard,
        geometry: entry.geometry,
        shard_len: entry.payload_len,
        space: Some(entry.space),
    };
    Some(Page {
        shards: entries.iter().map(reported).collect(),
        last: entries.last().map(|(shard, _)| *shard),
    })
}

/// What is held here of what each node looks after, added up.
fn sums(shared: &Shared, view: &View) -> BTreeMap<NodeId, ReportSum> {
    let mut sums: BTreeMap<NodeId, ReportSum> = BTreeMap::new();
    let mut after = None;
    while let Some(page) = page(shared, after) {
        for shard in &page.shards {
            if let Some(node) = steward(shard.shard.stripe, view) {
                sums.entry(node).or_default().add(shard.shard);
            }
        }
        after = page.last;
        if after.is_none() {
            break;
        }
    }
    sums
}
