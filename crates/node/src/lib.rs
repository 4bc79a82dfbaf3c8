//! The node: membership, placement, transfer and names made one, behind the façade [`Node`].
//!
//! Parts:
//! - `control`: the synchronous core. Events and the time in, actions out. `roster` is who belongs, from signed `records`.
//! - `driver`: selects an event, lets the core handle it, applies its actions. `due` is when something is done next; `agreed`: who need not be asked again.
//! - `audit`: others are asked to prove that they have what they say; `standing` is what follows from their answers.
//! - `explain`: where a file is, and how safe.
//! - `stripes`: shards to nodes and back. `upload` and `download` make streams of it; `mend` repairs.
//! - `space` and `spaces`: the spaces of this node's person; `charters`: whose spaces all are; `share`: who else is let in. `names` and `edit`: a space and its log; `logs`: bringing logs from one node to another; `areas`: directories that are shared alone, and `apart`: what is given away lies apart from what is not; `checkpoint`: what need not be replayed. `sweep` frees what no file uses; `claims` and `collect` are about uploads that have not ended, or
//!   never did. `upload::recode` codes older files anew when the pool has changed.
//! - `rails`: the question before more goes than a person may have meant. `trash` and `restore`: what went and can be brought back; `retention`: until
//!   when. `branch`: a node that was restored from an older image of itself, and `forks`: what others do about it; `twin`: one that was copied.
//! - `serve`: answers to other nodes, in the words of `protocol`.
//! - [`yardstick`]: what the machine can do at best, for benchmarks.
//! - `home` and `meta`: what is kept on disk beside the shards; `locked`: keys under a passphrase. `world` is what all of it stands on, and what a simulation replaces. [`fsck()`] checks all of it while
//!   no node runs on it.
//!
//! Guarantees: what is acknowledged is durable on the nodes that its redundancy needs; what does not verify is never served or used; memory is
//! bounded by [`potluck_types::limits`]. HTTP, S3 and terminals are not known here.

mod access;
mod agreed;
mod apart;
mod api;
mod areas;
mod audit;
mod branch;
mod changes;
mod charters;
mod checkpoint;
mod claims;
mod collect;
mod conflicts;
mod control;
mod devices;
mod diff;
mod download;
mod driver;
mod due;
mod edit;
mod erase;
mod error;
mod explain;
mod files;
mod forks;
mod freeing;
mod fsck;
#[cfg(fuzzing)]
pub mod fuzzing;
mod home;
mod links;
mod locked;
mod logs;
mod mend;
mod meta;
mod names;
mod node;
mod overlaid;
mod probe;
mod protocol;
mod rails;
mod records;
mod residence;
mod restore;
mod retention;
mod roster;
mod serve;
mod share;
mod shared;
mod snapshots;
mod space;
mod spaces;
mod spare;
mod standing;
mod stripes;
mod sweep;
mod trash;
mod turns;
mod twin;
mod upload;
mod verify;
mod versions;
mod watch;
mod world;
pub mod yardstick;

pub use api::{
    Access, AccessChange, AccessEvent, AuditInfo, CheckpointInfo, Compared, Conflict, Did, Difference, Differing,
    Doing, Emptied, Ended, Entry, Erasable, Erased, ExplainOptions, Explanation, FileMeta, Followed, Has, HealthInfo,
    Held, HistoryInfo, Identity, Invitation, InviteOptions, Kind, LeaveProgress, LetIn, LinkContent, LinkInfo,
    LinkMade, LinkOptions, MachineShare, MassIn, Member, NodeConfig, NodeInfo, NodeStatus, Part, Person, Probe,
    Problem, PutOptions, PutReport, Receipt, Reconciled, RemoveOptions, RemoveReport, RestoreOptions, RestoreReport,
    Revoked, Rival, Says, Setting, Settled, Settling, ShardInfo, SnapshotInfo, SpaceInfo, SpaceOptions, SpacePath,
    SpaceRemoval, Stat, Status, StripeInfo, StripeWork, TrashInfo, Trashed, Unshared, Verified, Version, VersionId,
    VersionIdError, VersionState, Which,
};
pub use changes::Changes;
pub use conflicts::Conflicts;
pub use download::Download;
pub use error::{HomeError, JoinError, LinkError, MetaError, NodeError, RecordError, Refusal, ShardsError, StartError};
pub use fsck::{Fault, Finding, FsckOptions, FsckProgress, FsckReport, fsck};
pub use links::Linked;
pub use node::{Node, Space};
pub use potluck_crypto::{Link, ParseLinkError};
pub use potluck_spaces::{Mass, Name, Path, PathError, Share, ShareError, TreeError};
pub use rails::{Loss, MassChange};
pub use trash::Listing;
pub use upload::Upload;
pub use world::{Network, Storage, SystemStorage, World};
