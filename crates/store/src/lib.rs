//! The durable store of shards on one disk: append-only packs, and an index that can be made anew from them.
//!
//! - [`Store::put`] acknowledges a shard once it survives `kill -9` and a power cut. What waits shares one sync.
//! - [`Store::delete`] is as durable, and works on a full disk and over quota.
//! - Damage is found by [`Store::get`] and [`Store::scrub_step`]; a damaged shard is no longer listed, so that it is
//!   missed and repaired.
//! - [`Store::compact_step`] gives dead space back.
//! - [`Store::audit`] reads all of it, and compares index and packs. Over an [`Overlay`] nothing on disk is changed, not even by opening.
//!
//! Every byte on disk is described in `docs/format.md`. The parts: [`Disk`] is what is below, and `memory` its twin for tests and simulations; `format` the bytes;
//! `scan` reads a pack; `index` says where each shard is; `writer` is the only one that changes anything;
//! `recover` opens.
//!
//! **Invariant:** the store never looks into a payload beyond its hash, and knows neither peers nor the network.

mod audit;
mod compact;
mod direct;
mod disk;
mod error;
mod format;
#[cfg(fuzzing)]
pub mod fuzzing;
mod index;
mod memory;
mod overlay;
mod packs;
mod queue;
mod recover;
mod scan;
mod scrub;
mod shared;
mod store;
mod writer;

pub use audit::Audit;
pub use compact::Compaction;
pub use disk::{Disk, DiskFile, FileInfo, OpenMode, OsDisk};
pub use error::{ChangeError, DiskError, FormatError, GetError, IndexError, OpenError, PutError};
pub use format::{FORMAT_VERSION, PackId};
pub use index::Entry;
pub use memory::{Crash, MemoryDisk, Mishap, memory_of_disks};
pub use overlay::Overlay;
pub use recover::Recovery;
pub use scrub::{ScrubError, ScrubProgress};
pub use shared::Stats;
pub use store::{Driver, Options, Store};
