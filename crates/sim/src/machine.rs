//! A simulated machine: its disk, its clock, its power, and the node that runs on it.

use crate::world::{SimClock, SimEntropy, dice, lock};
use potluck_net::MemoryNetwork;
use potluck_node::{JoinError, Network, Node, NodeConfig, Share, StartError, Storage, World};
use potluck_store::{Crash, Disk, Driver, MemoryDisk};
use potluck_types::{ByteSize, NodeId, Region, Zone};
use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::Instant;

/// What each machine offers to the pool; and one that has not got what it offers, since others have filled its disk but for this.
const CAPACITY: ByteSize = ByteSize(256 << 20);
const CROWDED_CAPACITY: ByteSize = ByteSize(1 << 30);
const CROWDED_FREE: u64 = 24 << 20;

/// How long an absent machine is waited for: what a pool does by default.
pub(crate) const GRACE: Duration = Duration::from_secs(15 * 60);

/// How long what is removed or overwritten is kept.
pub(crate) const RETENTION: Duration = Duration::from_secs(2 * 24 * 3600);

/// The folders of a machine's disk, which is another after each loss of power.
struct SimStorage(Mutex<MemoryDisk>);

impl Storage for SimStorage {
    fn folder(&self, path: &Path) -> io::Result<Arc<dyn Disk>> {
        let name = if path.ends_with("store") { "home/store" } else { "home" };
        Ok(lock(&self.0).folder(name))
    }
}

/// See the module.
pub(crate) struct Machine {
    pub(crate) index: usize,
    /// Whose it is.
    pub(crate) user: usize,
    pub(crate) zone: Option<Zone>,
    pub(crate) region: Option<Region>,
    pub(crate) clock: Arc<SimClock>,
    pub(crate) node: Option<Node>,
    /// Who its node is, since it first ran.
    pub(crate) id: Option<NodeId>,
    pub(crate) is_crowded: bool,
    /// It offers nothing: its person only uses the pool.
    pub(crate) is_guest: bool,
    storage: Arc<SimStorage>,
    seed: u64,
    starts: u64,
}

impl Machine {
    pub(crate) fn new(index: usize, user: usize, zone: Option<Zone>, seed: u64, begun: Instant) -> Self {
        Self {
            index,
            user,
            zone,
            region: None,
            clock: Arc::new(SimClock::new(begun)),
            node: None,
            id: None,
            is_crowded: false,
            is_guest: false,
            storage: Arc::new(SimStorage(Mutex::new(MemoryDisk::default()))),
            seed,
            starts: 0,
        }
    }

    pub(crate) fn disk(&self) -> MemoryDisk {
        lock(&self.storage.0).clone()
    }

    pub(crate) fn set_disk(&self, disk: MemoryDisk) {
        *lock(&self.storage.0) = disk;
    }

    /// Its disk is as others have left it.
    pub(crate) fn make_room(&self) {
        self.disk().leave_free(self.is_crowded.then_some(CROWDED_FREE));
    }

    fn config(&mut self, network: &MemoryNetwork) -> NodeConfig {
        self.starts += 1;
        NodeConfig {
            home: PathBuf::from(format!("machine-{}", self.index)),
            listen: Vec::new(),
            announce: Vec::new(),
            capacity: match (self.is_guest, self.is_crowded) {
                (true, _) => ByteSize(0),
                (_, true) => CROWDED_CAPACITY,
                _ => CAPACITY,
            },
            zone: self.zone.clone(),
            region: self.region.clone(),
            name: None,
            mdns: false,
            relay: true,
            grace: GRACE,
            retention: RETENTION,
            mass_change_share: Share::HALF,
            passphrase: None,
            world: World {
                clock: Arc::<SimClock>::clone(&self.clock),
                entropy: Arc::new(SimEntropy::new(dice(
                    self.seed,
                    "machine",
                    self.index as u64 + (self.starts << 16),
                ))),
                storage: Arc::<SimStorage>::clone(&self.storage),
                network: Network::Memory(network.clone()),
                writer: Driver::Caller,
            },
        }
    }

    fn runs(&mut self, node: Node) -> NodeId {
        let id = node.identity().node;
        self.id = Some(id);
        self.node = Some(node);
        id
    }

    pub(crate) async fn found(&mut self, network: &MemoryNetwork) -> Result<NodeId, StartError> {
        let config = self.config(network);
        Node::found(config, "simulated").await.map(|node| self.runs(node))
    }

    pub(crate) async fn join(&mut self, network: &MemoryNetwork, ticket: &str) -> Result<NodeId, JoinError> {
        let config = self.config(network);
        Node::join(config, ticket).await.map(|node| self.runs(node))
    }

    pub(crate) async fn start(&mut self, network: &MemoryNetwork) -> Result<NodeId, StartError> {
        let config = self.config(network);
        Node::start(config).await.map(|node| self.runs(node))
    }

    /// Ends the node in order.
    pub(crate) async fn stop(&mut self) {
        if let Some(node) = self.node.take() {
            node.stop().await;
        }
        // The next one finds what a process leaves that ended.
        let disk = self.disk();
        disk.cut();
        self.set_disk(disk.crash(Crash::KeepAll));
    }

    /// The process is killed, or the power goes: nothing is said to anybody.
    pub(crate) fn kill(&mut self, network: &MemoryNetwork, crash: Crash) {
        let disk = self.disk();
        disk.cut();
        if let (Some(node), Some(id)) = (self.node.take(), self.id) {
            network.kill(id);
            node.halt();
        }
        self.set_disk(disk.crash(crash));
    }
}
