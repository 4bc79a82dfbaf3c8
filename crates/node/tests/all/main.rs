//! All tests of whole nodes, as one program: each would have most of the node's code compiled into it once more.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod access;
mod areas;
mod checkpoint;
mod common;
mod conflicts;
mod devices;
mod erase;
mod explain;
mod fsck;
mod history;
mod hostile;
mod links;
mod pool;
mod rails;
mod regions;
mod share;
mod snapshots;
mod spaces;
mod verify;
