//! What a node says of itself, and when.

use crate::{
    control::{Action, Event},
    records::{NodeState, PoolRecord, VERSION, sign},
    shared::Shared,
    twin,
};
use potluck_crypto::derive::machine_key;
use potluck_net::Address;
use potluck_types::{ByteSize, limits};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// How soon what was said is said again: gossip may be lost. Each time four times as long after the last.
const STATE_INTERVAL_MIN: Duration = Duration::from_secs(30);
/// How often it is said when nothing has changed for long, and for each node of the pool: what a node hears of all the others does not grow with the pool.
/// Who comes asks.
const STATE_INTERVAL_MAX: Duration = Duration::from_secs(3 * 3600);
const STATE_INTERVAL_PER_NODE: Duration = Duration::from_secs(12);
/// A change of what is used that is told sooner.
const USED_STEP: ByteSize = ByteSize(1 << 20);
/// How soon, and how much later for each node that is told: gossip stays in proportion.
const USED_INTERVAL: Duration = Duration::from_secs(5);
const USED_INTERVAL_PER_NODE: Duration = Duration::from_millis(20);
/// Steps in which it is told how much others have filled of the disk, as parts of the capacity.
const FILLED_STEPS: u64 = 64;

/// How long after the last time a node says how it is, when it has said so this often since something changed.
pub(super) fn state_interval(said: u32, members: usize) -> Duration {
    let members = u32::try_from(members).unwrap_or(u32::MAX);
    let longest = STATE_INTERVAL_MAX.max(STATE_INTERVAL_PER_NODE.saturating_mul(members));
    STATE_INTERVAL_MIN.saturating_mul(1 << (2 * said).min(16)).min(longest)
}

/// How long after it was told last what is used may be told again.
pub(super) fn used_interval(members: usize) -> Duration {
    USED_INTERVAL.max(USED_INTERVAL_PER_NODE * u32::try_from(members).unwrap_or(u32::MAX))
}

impl Shared {
    /// Says how this node is: to itself, and to all.
    pub(crate) fn announce_state(self: &Arc<Self>) {
        self.say_state();
        self.news.notify_one();
    }

    /// Says it again, after a look at what others heard of this node: they keep the last state only.
    pub(super) fn say_state_again(self: &Arc<Self>) {
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            twin::look(&shared).await;
            shared.say_state();
        });
    }

    pub(super) fn say_state(self: &Arc<Self>) {
        let state = self.own_state();
        self.twin.say(state.seq);
        let record = PoolRecord::State(sign(&self.node_key, &state));
        self.run_event(Event::Record(record.clone()));
        super::apply(self, Action::Publish(record));
    }

    /// Whether others think that much less or more of this disk is used than is.
    pub(super) fn is_state_stale(&self) -> bool {
        let told = self.with_control(|control| control.roster.state(self.me()).map(|state| state.used));
        told.is_some_and(|told| self.taken().0.abs_diff(told.0) >= USED_STEP.0)
    }

    /// What of the capacity is not to be had: what the store takes, and what others have filled of its disk. So one whose disk is full is given
    /// nothing, as one that is full itself. In steps, since what others do on a disk is no news each time.
    fn taken(&self) -> ByteSize {
        let (capacity, used) = (self.capacity.0, self.store.stats().on_disk);
        let free = self.store.free_space().map_or(u64::MAX, |free| free.0);
        let filled = capacity.saturating_sub(free);
        let step = (capacity / FILLED_STEPS).max(1);
        ByteSize(filled.div_ceil(step).saturating_mul(step).min(capacity)).max(used)
    }

    fn own_state(&self) -> NodeState {
        let (pool, last) =
            self.with_control(|control| (control.roster.pool(), control.roster.state(self.me()).cloned()));
        let (last_seq, revision) = last.map_or((0, 1), |last| {
            let is_moved = (last.capacity, &last.zone, &last.region) != (self.capacity, &self.zone, &self.region);
            (last.seq, last.revision + u64::from(is_moved || last.revision == 0))
        });
        NodeState {
            version: VERSION,
            pool,
            // The clock makes numbers of a restarted node greater than those before; a clock that went back does no harm.
            seq: self.now().as_millis().max(last_seq + 1),
            capacity: self.capacity,
            used: self.taken(),
            zone: self.zone.clone(),
            region: self.region.clone(),
            addresses: self.announced_addresses(),
            leaving: self.leaving.load(Ordering::Relaxed),
            software: env!("CARGO_PKG_VERSION").to_owned(),
            name: self.name.clone(),
            revision,
            run: self.twin.run(),
            recipient: Some(machine_key(&self.node_key).recipient()),
            doubts: self.with_control(|control| control.standings().doubted().take(limits::DOUBTS_MAX).collect()),
        }
    }

    /// Where others can reach this node: what was configured, and what it listens on; loopback only when there is nothing else.
    pub(crate) fn announced_addresses(&self) -> Vec<String> {
        let found = self.addresses.lock().expect("never poisoned");
        let reachable: Vec<&Address> = found.iter().filter(|address| !address.is_loopback()).collect();
        let listening = if reachable.is_empty() {
            found.iter().collect()
        } else {
            reachable
        };
        let mut addresses: Vec<String> = self.announce.iter().chain(listening).map(ToString::to_string).collect();
        let mut seen = std::collections::HashSet::new();
        addresses.retain(|address| seen.insert(address.clone()));
        addresses.truncate(limits::ADDRESSES_MAX);
        addresses
    }
}
