//! Turns: what several tasks would do at once, and each only once, they do one after the other, unless one takes too long.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};
use tokio::sync::{Mutex, MutexGuard};

/// How long one waits for its turn: after that it does what it may do beside another.
const PATIENCE: Duration = Duration::from_secs(2);
/// More than logs are fetched at once, as a rule: where two have the same place, they wait for each other in vain.
const PLACES: usize = 64;

/// See the module.
pub(crate) struct Turns([Mutex<()>; PLACES]);

impl Default for Turns {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl Turns {
    /// Waits until nobody else is about the same, for a while at most. The turn is over when what is returned is dropped.
    pub(crate) async fn turn(&self, about: impl Hash) -> Option<MutexGuard<'_, ()>> {
        let mut hasher = DefaultHasher::new();
        about.hash(&mut hasher);
        let place = hasher.finish() % PLACES as u64;
        let place = &self.0[usize::try_from(place).expect("a place")];
        tokio::time::timeout(PATIENCE, place.lock()).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_takes_too_long_is_not_waited_for() {
        let turns = Turns::default();
        let first = turns.turn(1).await;
        assert!(first.is_some() && turns.turn(1).await.is_none());
        drop(first);
        assert!(turns.turn(1).await.is_some());
    }
}
