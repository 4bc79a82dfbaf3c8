//! What is in use without being in the log yet: stripes that an upload found stored already, and versions that are being written. Removals
//! and the collector leave them alone.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What is claimed, and by how many.
pub(crate) type Held<T> = HashMap<T, u32>;

/// Things and how many hold on to each.
#[derive(Debug)]
pub(crate) struct Claims<T>(Arc<Mutex<Held<T>>>);

/// Holds on to one thing until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim<T: Copy + Eq + Hash> {
    claims: Claims<T>,
    what: T,
}

impl<T> Default for Claims<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Clone for Claims<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Copy + Eq + Hash> Claims<T> {
    /// Claims something.
    pub(crate) fn claim(&self, what: T) -> Claim<T> {
        *self.lock().entry(what).or_default() += 1;
        Claim {
            claims: self.clone(),
            what,
        }
    }

    /// Claims something if it is there: nobody who looks at claims under [`Claims::lock`] comes between the look and the claim.
    pub(crate) fn claim_if<E>(
        &self,
        what: T,
        is_there: impl FnOnce() -> Result<bool, E>,
    ) -> Result<Option<Claim<T>>, E> {
        let mut held = self.lock();
        if !is_there()? {
            return Ok(None);
        }
        *held.entry(what).or_default() += 1;
        Ok(Some(Claim {
            claims: self.clone(),
            what,
        }))
    }

    /// Looks at what is claimed; nothing is claimed or let go meanwhile.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Held<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Copy + Eq + Hash> Drop for Claim<T> {
    fn drop(&mut self) {
        let mut held = self.claims.lock();
        if let Some(count) = held.get_mut(&self.what) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.what);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_ends_with_its_last_holder() {
        let claims = Claims::default();
        let (one, other) = (claims.claim(7), claims.claim(7));
        drop(one);
        assert!(claims.lock().contains_key(&7));
        drop(other);
        assert!(claims.lock().is_empty());
        assert!(claims.claim_if(8, || Ok::<_, ()>(false)).unwrap().is_none());
        assert!(claims.claim_if(8, || Ok::<_, ()>(true)).unwrap().is_some());
    }
}
