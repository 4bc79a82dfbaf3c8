//! Names for files: a space is a set of logs, one a device, and what they add up to.
//!
//! Parts:
//! - `path`: names and paths, checked where they are made.
//! - `kv`: the ordered tables that this crate keeps its state in; the caller brings them, with their transactions.
//! - `log`: signed, hash-chained entries of one device; appending checks the chain. Needs no key to a space, so custodians run it, too.
//! - `tree`: the entries' sealed changes, merged into directories: a multi-value register per (directory, name), and one place for each directory.
//! - `view`: the tree as a person sees it: what conflicts has names of its own.
//! - `charter`: whose a space is, and the keys of its epochs: signed records.
//! - `area`: directories that can be shared alone, whose entries have keys of their own.
//! - `branch`: a device that has signed two histories, and how it comes to have one again.
//! - [`checkpoint`]: what the logs add up to so far, for who need not replay them.
//! - `link`: what links show to who has them.
//! - `pins`: what stripes are live, from the public half of the entries.
//! - `settings`: what its people have said of all that is in a space.
//! - `snapshot`: names for what was at a moment.
//! - `trash`: values that were replaced and can be brought back, in the order in which their time is over.
//! - `turnover`: how much was removed and overwritten when, and whether that is more than a person may have meant.
//!
//! Guarantees: the same entries give the same tree, in whatever order the devices' logs arrive; two edits that did not know of each other
//! are both kept; nothing is written outside the caller's transaction. Where bytes live is not known here.

mod area;
mod branch;
mod charter;
pub mod checkpoint;
mod kv;
mod link;
mod log;
mod path;
mod pins;
mod settings;
mod snapshot;
mod trash;
mod tree;
mod turnover;
mod view;

pub use area::{AreaId, Scope, read_anew, scope_read};
pub use branch::{Again, Aside, Branch, BranchError, make_anew};
pub use charter::{
    AREAS_MAX, AreaBefore, Before, Charter, CharterError, CharterRecord, Epoch, EpochId, Founding,
    GRANTS_UNDER_ONE_MAX, Grant, GrantId, GrantTo, Joined, Keys, Reader, Revocation, Stop, Succession, Wrap,
};
pub use checkpoint::{Checkpoint, CheckpointError, Unfilled};
pub use kv::{Kv, KvError, MemoryKv, Rows, Table};
pub use link::{Links, Publication, Published};
pub use log::{Append, AppendError, Appended, Body, Entry, EntryId, Frontier, Log, Logged, OpId, Position};
pub use path::{Name, Path, PathError};
pub use pins::{Liveness, PinState, Pins};
pub use settings::Settings;
pub use snapshot::{Held, Snapshots, Taken};
pub use trash::{Expiring, Kept, Moved, Removal, Totals, Trash};
pub use tree::{Change, DirId, Fate, File, FileId, Found, Head, Listed, RETENTION_MAX, Tree, TreeError, Value};
pub use turnover::{FILES_MIN, Mass, Minute, Share, ShareError, Turnover, WINDOW};
pub use view::{Machines, Seen, View};
