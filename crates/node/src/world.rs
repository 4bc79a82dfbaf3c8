//! What a node stands on: time, chance, disks and the network. The operating system's, usually; a simulation brings its own, in which one seed decides
//! all of it.

use potluck_net::MemoryNetwork;
use potluck_store::{Disk, Driver, OsDisk};
use potluck_types::{Clock, Entropy, SystemClock, SystemEntropy};
use std::{fmt, io, path::Path, sync::Arc};

/// See the module.
#[derive(Clone)]
pub struct World {
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where keys and ids come from.
    pub entropy: Arc<dyn Entropy>,
    /// What keeps files.
    pub storage: Arc<dyn Storage>,
    /// How other nodes are reached.
    pub network: Network,
    /// Who writes the shards.
    pub writer: Driver,
}

/// How other nodes are reached.
#[derive(Clone, Debug, Default)]
pub enum Network {
    /// Over the machine's own network.
    #[default]
    Overlay,
    /// Those of this process alone.
    Memory(MemoryNetwork),
}

/// What keeps files.
pub trait Storage: Send + Sync {
    /// A folder, which is made when there is none.
    fn folder(&self, path: &Path) -> io::Result<Arc<dyn Disk>>;
}

/// Folders of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemStorage;

impl Storage for SystemStorage {
    fn folder(&self, path: &Path) -> io::Result<Arc<dyn Disk>> {
        Ok(Arc::new(OsDisk::new(path)?))
    }
}

impl Default for World {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            storage: Arc::new(SystemStorage),
            network: Network::default(),
            writer: Driver::default(),
        }
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("network", &self.network)
            .field("writer", &self.writer)
            .finish_non_exhaustive()
    }
}
