//! The overlay: find nodes, connect to them, send typed requests, and gossip, behind one [`Endpoint`].
//!
//! Parts:
//! - `endpoint`: the handle that the node uses, the same over libp2p and in memory.
//! - `window`: how many requests a peer gets at a time; `course`: whether one of them gets on.
//! - `wire`: how a request and its reply lie on a stream.
//! - `serve`: the answering side, with its per-peer budgets.
//! - `swarm`: the libp2p swarm and its task. `substreams` is our behaviour in it: it opens and accepts streams; `dials` and `routes` say what to
//!   dial, and which members are to be relays.
//! - `bulk`: connections of their own for shards, beside the swarm; `tls` is what runs on them.
//! - `memory`: the twin, for tests: the same requests and limits over in-memory pipes.
//!
//! Guarantees: only members (see [`Endpoint::set_members`]) reach a protocol other than [`Protocol::Join`]; a peer
//! never has more streams or bytes in our memory than [`potluck_types::limits`] allows; a request ends, at
//! the latest when nothing moves for [`limits::STALL_TIMEOUT`](potluck_types::limits::STALL_TIMEOUT).
//! What the bytes mean is not known here.

mod address;
mod bulk;
mod course;
mod dials;
mod endpoint;
#[cfg(fuzzing)]
pub mod fuzzing;
mod memory;
mod pulse;
mod routes;
mod serve;
mod substreams;
mod swarm;
mod tls;
mod window;
mod wire;

pub use address::{Address, Listen, ParseAddressError};
pub use course::Course;
pub use endpoint::{ConnectError, Endpoint, Event, Inbox, RequestError};
pub use memory::{MemoryNetwork, Weather};
pub use serve::{Incoming, Reply};
pub use swarm::{NetworkConfig, StartError, start};
pub use window::{Pace, Place, Window};
pub use wire::{Message, Protocol};
