//! Where shards go, how safe a stripe is, and what to repair next. Pure: facts in, actions out.
//!
//! Parts:
//! - `geometry`: *k* and *m* from the losses to survive and the failure domains at hand.
//! - `view`: the facts, one snapshot of the pool as this node knows it.
//! - `layout`: who offers what, in epochs: where a stripe belongs, and where it belonged.
//! - `rank`: weighted rendezvous hashing, at most one shard of a stripe in a failure domain.
//! - `health`: what a stripe survives now, counted in distinct domains of verified shards, never more.
//! - `planner`: the steward's state machine: which stripe to mend next, how, and why one waits.
//!
//! Disks, networks and plaintext are not known here.

mod geometry;
mod health;
mod layout;
mod planner;
mod rank;
mod view;

pub use geometry::{GeometryError, default_survive, geometry, survivable};
pub use health::{Health, survives};
pub use layout::{Layout, Layouts, Place};
pub use planner::{Cause, Mend, Outcome, Planner, PlannerOptions, Reported, Summary, Verdict, Work};
pub use rank::{lot, rank, steward};
pub use view::{Domain, NodeFacts, Presence, View};
