//! Another node with this node's key: its home was copied, and both copies run.
//!
//! Each run of a node has a number, the time when it began, and says it in the node's state. Others keep the last state of a node that they heard. A
//! node asks them for its own: one of another run, and then a later one of that run, can only come from a node that runs now. Of the two the one that
//! began later gives way; until then the log of each is set right as `branch` says, so that nothing of either is lost.

use crate::{
    protocol::{PoolReply, PoolRequest},
    records::{NodeState, PoolRecord, node_of},
    shared::Shared,
};
use potluck_types::Timestamp;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Members that are asked, each time.
const ASKED: usize = 2;
/// How long each may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// See the module.
pub(crate) struct Twin {
    run: Timestamp,
    /// The number of the last state of this run.
    said: AtomicU64,
    /// The last state of another run that was heard of.
    heard: Mutex<Option<Sign>>,
    /// Another one runs, which began later.
    is_copied: AtomicBool,
    /// Another one runs, which began first.
    gives_way: CancellationToken,
}

/// What tells of a run: its number, and that of a state of it.
type Sign = (Timestamp, u64);

/// What follows from a state that others know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// Nothing, or nothing yet.
    Alone,
    /// Another one runs, and began after this one.
    First,
    /// Another one runs, and began before this one.
    Second,
}

/// `said` is the number of the last state of the run that judges: what is older than that may be what the run before said last.
fn judge((run, said): Sign, heard: Option<Sign>, (other, seq): Sign) -> Verdict {
    let is_alive = seq > said && heard.is_some_and(|(before, earlier)| before == other && seq > earlier);
    match () {
        () if !is_alive || other == run => Verdict::Alone,
        () if other < run => Verdict::Second,
        () => Verdict::First,
    }
}

impl Twin {
    pub(crate) fn begin(now: Timestamp) -> Self {
        Self {
            run: now,
            said: AtomicU64::new(0),
            heard: Mutex::default(),
            is_copied: AtomicBool::new(false),
            gives_way: CancellationToken::new(),
        }
    }

    /// The number of this run.
    pub(crate) fn run(&self) -> Timestamp {
        self.run
    }

    /// This run has said a state with this number.
    pub(crate) fn say(&self, seq: u64) {
        self.said.store(seq, Ordering::Relaxed);
    }

    /// Whether a copy of this node runs that has to give way.
    pub(crate) fn is_copied(&self) -> bool {
        self.is_copied.load(Ordering::Relaxed)
    }

    /// Ends when this node has to give way to one with the same key.
    pub(crate) async fn gives_way(&self) {
        self.gives_way.cancelled().await;
    }

    fn hear(&self, state: &NodeState) {
        let sign = (state.run, state.seq);
        // A node of a version that did not say it, or this one.
        if state.run == Timestamp::default() || state.run == self.run {
            return;
        }
        let heard = self.heard.lock().expect("never poisoned").replace(sign);
        match judge((self.run, self.said.load(Ordering::Relaxed)), heard, sign) {
            Verdict::Alone => {}
            Verdict::First => {
                if !self.is_copied.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        "another machine runs with the key of this node, and has to give way: a home was copied"
                    );
                }
            }
            Verdict::Second => {
                tracing::error!("another machine runs with the key of this node, and began first: a home was copied");
                self.gives_way.cancel();
            }
        }
    }
}

/// Asks some members what they know of this node: each time before it says its own state, so that what the other one said since is still there.
pub(crate) async fn look(shared: &Arc<Shared>) {
    let me = shared.me();
    let peers = shared.with_control(|control| control.live_peers());
    for peer in peers.into_iter().take(ASKED) {
        let request = PoolRequest::StateOf { node: me };
        let Ok(Ok(PoolReply::Records(records))) = tokio::time::timeout(PATIENCE, shared.ask(peer, &request)).await
        else {
            continue;
        };
        for record in records.known() {
            if let PoolRecord::State(signed) = record
                && let Ok(opened) = signed.open()
                && node_of(opened.signer()) == me
            {
                shared.twin.hear(opened.value());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn one_that_was_here_before_is_no_twin_and_one_that_goes_on_is() {
        let now = (at(50), 55);
        assert_eq!(judge(now, None, (at(10), 60)), Verdict::Alone);
        assert_eq!(judge(now, Some((at(10), 60)), (at(10), 60)), Verdict::Alone);
        assert_eq!(judge(now, Some((at(5), 30)), (at(10), 60)), Verdict::Alone);
        // What the run before said last came late.
        assert_eq!(judge(now, Some((at(10), 40)), (at(10), 48)), Verdict::Alone);
        assert_eq!(judge(now, Some((at(10), 40)), (at(10), 60)), Verdict::Second);
        assert_eq!(judge(now, Some((at(55), 60)), (at(55), 90)), Verdict::First);
        assert_eq!(judge(now, Some((at(50), 60)), (at(50), 90)), Verdict::Alone);
    }
}
