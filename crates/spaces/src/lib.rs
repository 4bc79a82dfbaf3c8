//! Names for files: a space is a set of logs, one a device, and what they add up to.
//!
//! Parts:
//! - `path`: names and paths, checked where they are made.
//! - `kv`: the ordered tables that this crate keeps its state in; the caller brings them, with their transactions.
//! - `log`: signed, hash-chained entries of one device; appending checks the chain. Needs no key to a space, so custodians run it, too.
//! - `tree`: the entries' sealed changes, merged into directories: a multi-value register per (directory, name).
//! - `pins`: what stripes are live, from the public half of the entries.
//!
//! Guarantees: the same entries give the same tree, in whatever order the devices' logs arrive; two edits that did not know of each other
//! are both kept; nothing is written outside the caller's transaction. Where bytes live is not known here.

mod kv;
mod log;
mod path;
mod pins;
mod tree;

pub use kv::{Kv, KvError, MemoryKv, Rows, Table};
pub use log::{Append, AppendError, Body, Entry, Frontier, Log, OpId, Position};
pub use path::{Name, Path, PathError};
pub use pins::{Liveness, PinState, Pins};
pub use tree::{Change, DirId, File, FileId, Found, Head, Listed, Tree, TreeError, Value};
