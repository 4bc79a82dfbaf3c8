//! The network between simulated machines.

use crate::world::{Diary, lock};
use potluck_net::Weather;
use potluck_store::MemoryDisk;
use potluck_types::{Dice, NodeId};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

/// How the network is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Climate {
    /// How long anything takes at least, and at most besides.
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
    /// Bytes a second of each way.
    pub(crate) rate: u64,
    /// Of a thousand packets so many are lost, and sent again after a while.
    pub(crate) lost: u64,
    /// Of a thousand gossip messages so many are lost, and come twice.
    pub(crate) gossip_lost: u64,
    pub(crate) gossip_twice: u64,
}

/// A local network.
pub(crate) const CALM: Climate = Climate {
    delay: Duration::from_micros(200),
    jitter: Duration::from_micros(300),
    rate: 100 << 20,
    lost: 0,
    gossip_lost: 0,
    gossip_twice: 0,
};

/// How long TCP waits until it sends again what was lost.
const RESEND: Duration = Duration::from_millis(200);

/// See the module.
pub(crate) struct SimWeather(Mutex<State>);

struct State {
    dice: Dice,
    diary: Diary,
    climate: Climate,
    /// Nothing goes this way.
    closed: BTreeSet<(NodeId, NodeId)>,
    /// What this node sends is held up: its process is stopped.
    frozen: BTreeSet<NodeId>,
    /// What this node sends takes so much longer.
    slow: BTreeMap<NodeId, Duration>,
    /// Of a thousand packets of this node so many have a wrong byte.
    garbling: BTreeMap<NodeId, u64>,
    disks: BTreeMap<NodeId, MemoryDisk>,
    bytes: u64,
    gossip_bytes: u64,
}

impl State {
    fn is_closed(&self, from: NodeId, to: NodeId) -> bool {
        let is_dead = |node: &NodeId| self.disks.get(node).is_some_and(MemoryDisk::is_off);
        self.closed.contains(&(from, to))
            || self.frozen.contains(&from)
            || self.frozen.contains(&to)
            || is_dead(&from)
            || is_dead(&to)
    }

    fn way(&mut self, from: NodeId, bytes: usize) -> Duration {
        let Climate {
            delay,
            jitter,
            rate,
            lost,
            ..
        } = self.climate;
        let spread = u64::try_from(jitter.as_nanos()).unwrap_or(u64::MAX);
        let mut way = delay + Duration::from_nanos(self.dice.roll(spread));
        way += Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / rate.max(1));
        way += self.slow.get(&from).copied().unwrap_or_default();
        let mut resend = RESEND;
        while lost > 0 && self.dice.roll(1000) < lost {
            way += resend;
            resend *= 2;
        }
        way
    }
}

impl SimWeather {
    pub(crate) fn new(dice: Dice, diary: Diary) -> Self {
        Self(Mutex::new(State {
            dice,
            diary,
            climate: CALM,
            closed: BTreeSet::new(),
            frozen: BTreeSet::new(),
            slow: BTreeMap::new(),
            garbling: BTreeMap::new(),
            disks: BTreeMap::new(),
            bytes: 0,
            gossip_bytes: 0,
        }))
    }

    /// The machine's disk also tells whether it has power.
    pub(crate) fn set_disk(&self, node: NodeId, disk: MemoryDisk) {
        lock(&self.0).disks.insert(node, disk);
    }

    pub(crate) fn set_climate(&self, climate: Climate) {
        lock(&self.0).climate = climate;
    }

    pub(crate) fn set_closed(&self, from: NodeId, to: NodeId, closed: bool) {
        let mut state = lock(&self.0);
        if closed {
            state.closed.insert((from, to));
        } else {
            state.closed.remove(&(from, to));
        }
    }

    pub(crate) fn is_closed(&self, from: NodeId, to: NodeId) -> bool {
        lock(&self.0).is_closed(from, to)
    }

    pub(crate) fn set_frozen(&self, node: NodeId, frozen: bool) {
        let mut state = lock(&self.0);
        if frozen {
            state.frozen.insert(node);
        } else {
            state.frozen.remove(&node);
        }
    }

    pub(crate) fn set_slow(&self, node: NodeId, delay: Option<Duration>) {
        let mut state = lock(&self.0);
        match delay {
            Some(delay) => drop(state.slow.insert(node, delay)),
            None => drop(state.slow.remove(&node)),
        }
    }

    pub(crate) fn set_garbling(&self, node: NodeId, per_thousand: Option<u64>) {
        let mut state = lock(&self.0);
        match per_thousand {
            Some(share) => drop(state.garbling.insert(node, share)),
            None => drop(state.garbling.remove(&node)),
        }
    }

    /// All is as on the first day.
    pub(crate) fn clear_up(&self) {
        let mut state = lock(&self.0);
        state.climate = CALM;
        state.closed.clear();
        state.frozen.clear();
        state.slow.clear();
        state.garbling.clear();
    }

    /// Bytes sent so far, by streams.
    pub(crate) fn bytes(&self) -> u64 {
        lock(&self.0).bytes
    }

    /// Bytes of gossip that nodes have heard so far.
    pub(crate) fn gossip_bytes(&self) -> u64 {
        lock(&self.0).gossip_bytes
    }
}

impl Weather for SimWeather {
    fn delay(&self, from: NodeId, to: NodeId, bytes: usize) -> Option<Duration> {
        let mut state = lock(&self.0);
        if state.is_closed(from, to) {
            return None;
        }
        state.bytes += bytes as u64;
        let mut line = [0; 24];
        line[..8].copy_from_slice(&from.as_bytes()[..8]);
        line[8..16].copy_from_slice(&to.as_bytes()[..8]);
        line[16..].copy_from_slice(&(bytes as u64).to_le_bytes());
        state.diary.note(&line);
        Some(state.way(from, bytes))
    }

    fn damage(&self, from: NodeId, _: NodeId, bytes: &mut [u8]) {
        let mut state = lock(&self.0);
        let Some(share) = state.garbling.get(&from).copied() else {
            return;
        };
        if state.dice.roll(1000) < share && !bytes.is_empty() {
            let at = state.dice.roll(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << state.dice.roll(8);
        }
    }

    fn gossip(&self, from: NodeId, to: NodeId, bytes: usize) -> Vec<Duration> {
        let mut state = lock(&self.0);
        let Climate {
            gossip_lost,
            gossip_twice,
            ..
        } = state.climate;
        if state.is_closed(from, to) || (gossip_lost > 0 && state.dice.roll(1000) < gossip_lost) {
            return Vec::new();
        }
        let copies = 1 + usize::from(gossip_twice > 0 && state.dice.roll(1000) < gossip_twice);
        state.gossip_bytes += (copies * bytes) as u64;
        (0..copies).map(|_| state.way(from, bytes)).collect()
    }
}

/// So that others may share it.
pub(crate) type SharedWeather = Arc<SimWeather>;
