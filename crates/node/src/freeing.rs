//! Shards that are about to be freed. To ask whether anybody uses them takes a while; one that is brought again meanwhile, and acknowledged because it is
//! here already, must stay.

use potluck_types::ShardId;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What is being asked about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Freeing(Arc<Mutex<HashMap<ShardId, Considered>>>);

#[derive(Debug, Default)]
struct Considered {
    /// By how many.
    by: u32,
    /// How often it was brought since the first of them began.
    brought: u64,
}

/// Shards that one asks about, until it is dropped.
#[derive(Debug)]
pub(crate) struct Considering {
    freeing: Freeing,
    /// How often each had been brought before.
    shards: HashMap<ShardId, u64>,
}

impl Freeing {
    /// Begins to consider shards. Whether they are used is asked from now on.
    pub(crate) fn consider(&self, shards: impl IntoIterator<Item = ShardId>) -> Considering {
        let mut all = self.lock();
        let once: HashSet<ShardId> = shards.into_iter().collect();
        let note = |shard| {
            let considered = all.entry(shard).or_default();
            considered.by += 1;
            (shard, considered.brought)
        };
        Considering {
            shards: once.into_iter().map(note).collect(),
            freeing: self.clone(),
        }
    }

    /// Notes that a shard is brought. To be said before the store is asked to keep it.
    pub(crate) fn brought(&self, shard: ShardId) {
        if let Some(considered) = self.lock().get_mut(&shard) {
            considered.brought += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ShardId, Considered>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Considering {
    /// Frees those of these that were not brought meanwhile. `delete` asks the store for it, and does not wait: what is brought from now on comes after it.
    pub(crate) fn free<T>(self, unused: Vec<ShardId>, delete: impl FnOnce(Vec<ShardId>) -> T) -> T {
        let all = self.freeing.lock();
        let is_as_it_was = |shard: &ShardId| {
            let now = all.get(shard).map(|considered| considered.brought);
            now.is_some() && now == self.shards.get(shard).copied()
        };
        delete(unused.into_iter().filter(is_as_it_was).collect())
    }
}

impl Drop for Considering {
    fn drop(&mut self) {
        let mut all = self.freeing.lock();
        for shard in self.shards.keys() {
            if let Some(considered) = all.get_mut(shard) {
                considered.by -= 1;
                if considered.by == 0 {
                    all.remove(shard);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_types::StripeId;

    fn shard(index: u8) -> ShardId {
        let stripe = StripeId::from_bytes([1; 32]);
        ShardId { stripe, index }
    }

    #[test]
    fn what_is_brought_meanwhile_stays() {
        let freeing = Freeing::default();
        freeing.brought(shard(0));
        let first = freeing.consider([shard(0), shard(1), shard(1), shard(2)]);
        freeing.brought(shard(1));
        let second = freeing.consider([shard(1)]);
        assert_eq!(
            first.free(vec![shard(0), shard(1), shard(3)], |freed| freed),
            [shard(0)]
        );
        // Who began to ask afterwards knows that it was brought.
        assert_eq!(second.free(vec![shard(1)], |freed| freed), [shard(1)]);
        assert!(freeing.lock().is_empty());
    }
}
