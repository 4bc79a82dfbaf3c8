//! The local API: how commands talk to the daemon of a home, over a Unix socket. `docs/protocol.md`, "Local API", has the bytes.
//!
//! - [`frame`]: the framing, and its limits.
//! - [`message`]: requests and replies.
//! - [`socket`]: where the socket is, and who may use it.
//! - [`handles`]: open files that go through it.
//! - [`client`]: the command's end, blocking.
//! - [`server`]: the daemon's end, with [`uploads`] and [`downloads`] for what streams.

pub(crate) mod client;
mod downloads;
pub(crate) mod frame;
mod handles;
pub(crate) mod message;
mod readable;
pub(crate) mod server;
pub(crate) mod socket;
mod uploads;
