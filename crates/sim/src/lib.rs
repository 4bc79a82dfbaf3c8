//! Whole pools of real nodes in one thread, over simulated time, disks and network: one seed, one history.
//!
//! Nothing of the product is modelled here: nodes are those that ship, with their store, their databases and their protocols. What is below them is simulated, and
//! what happens to them is drawn from a seed.
//!
//! Parts:
//! - `plan`: what happens in a history. `shrink` leaves out of it what does not matter.
//! - `history`: carries a plan out, and checks what the pool has promised, which the `ledger` keeps; of `snapshots` and `links`, too.
//! - `durability`: how long data lasts, by a model and by trials.
//! - `quiet`: what a pool costs in which nothing happens. `recovery`: how soon a large one is whole again.
//! - `memory`: what the nodes take of it.
//! - `pool` and `machine`: what can be done to machines. `liar`: one that has turned. `weather` is the network between them, `world` their time and chance.
//!
//! **Invariant:** nothing in the product depends on it. **Invariant:** all that happens follows from the seed: no other randomness, no time of this machine, no
//! second thread.

mod durability;
mod history;
mod ledger;
mod liar;
mod machine;
mod memory;
mod plan;
mod pool;
mod quiet;
mod recovery;
mod shrink;
mod weather;
mod world;

pub use durability::{Count, PoolModel, Trial, nines, try_pool};
pub use history::{Outcome, history};
pub use plan::Scale;
#[cfg(feature = "sabotage")]
pub use potluck_types::sabotage;
pub use quiet::{Quiet, quiet};
pub use recovery::{Loss, Recovered, recover};
pub use shrink::{Short, shrink};
