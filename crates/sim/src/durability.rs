//! How long data lasts: a model of it in numbers, and trials of real nodes that it must agree with.
//!
//! `model` computes the mean time until a stripe is lost, from how often machines are lost for good, how long a repair takes and when a lost machine is replaced.
//! `trial` lets simulated machines die and be replaced far more often than anybody's, until enough is lost to be counted.

mod model;
mod trial;

pub use model::{Pool as PoolModel, nines};
pub use trial::{Count, Trial, try_pool};
