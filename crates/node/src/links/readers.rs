//! Counting who reads by a link: the machine that made it gives each other one a share of the key, up to a number. One that was given it may ask again.

use crate::{
    error::{LinkError, MetaError, NodeError},
    protocol::PoolReply,
    shared::Shared,
    space::OpenSpace,
};
use potluck_crypto::{KeyShare, Link, LinkId};
use potluck_spaces::Links;
use potluck_types::{Hash, NodeId, SpaceId};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, sync::Arc};

/// Who reads by a link.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Readers {
    /// What only who has the link can say: the id is known to all who keep what it shows.
    proof: Hash,
    share: KeyShare,
    max: u32,
    by: BTreeSet<NodeId>,
}

impl Readers {
    pub(super) fn new(link: &Link, share: KeyShare, max: u32) -> Self {
        Self {
            proof: link.proof(),
            share,
            max,
            by: BTreeSet::new(),
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.by.len()).unwrap_or(u32::MAX)
    }

    /// The share for one more, or for one who has it already.
    fn give(&mut self, to: NodeId, proof: Hash) -> Result<KeyShare, LinkError> {
        if proof != self.proof {
            return Err(LinkError::Unknown);
        }
        if !self.by.contains(&to) {
            if self.count() >= self.max {
                return Err(LinkError::UsedUp);
            }
            self.by.insert(to);
        }
        Ok(self.share.clone())
    }
}

pub(super) async fn begin(space: &OpenSpace, link: LinkId, readers: Readers) -> Result<(), NodeError> {
    let task = space.clone();
    Shared::blocking(move || Ok(task.meta.with_readers(link, |slot| *slot = Some(readers))?)).await
}

pub(super) async fn end(space: &OpenSpace, link: LinkId) -> Result<(), NodeError> {
    let task = space.clone();
    Shared::blocking(move || {
        if task.meta.readers(link)?.is_some() {
            task.meta.with_readers(link, |slot| *slot = None)?;
        }
        Ok(())
    })
    .await
}

/// Gives a machine the share of a link's key, and counts it, durably before it is given.
pub(crate) async fn give(
    shared: &Arc<Shared>,
    (space, link): (SpaceId, LinkId),
    proof: Hash,
    to: NodeId,
) -> Result<KeyShare, NodeError> {
    let (task, now) = (Arc::clone(shared), shared.now());
    Shared::blocking(move || {
        let published = Links::of(space).get(&task.read()?, link).map_err(MetaError::reading)?;
        let published = published.ok_or(LinkError::Unknown)?.publication;
        if published.shown.is_none() {
            return Err(LinkError::Revoked.into());
        }
        if let Some(until) = published.until.filter(|until| *until <= now) {
            return Err(LinkError::Expired(until).into());
        }
        // Who asks for what nobody counts here costs no write.
        if task.meta.readers(link)?.is_none_or(|readers| readers.proof != proof) {
            return Err(LinkError::Unknown.into());
        }
        let given = task
            .meta
            .with_readers(link, |slot| slot.as_mut().ok_or(LinkError::Unknown)?.give(to, proof))?;
        Ok(given?)
    })
    .await
}

/// The same, as an answer.
pub(crate) async fn give_share(shared: &Arc<Shared>, of: (SpaceId, LinkId), proof: Hash, to: NodeId) -> PoolReply {
    match give(shared, of, proof, to).await {
        Ok(share) => PoolReply::LinkShare(Some(share)),
        Err(NodeError::Link(LinkError::UsedUp)) => PoolReply::LinkShare(None),
        Err(error) => PoolReply::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_types::{PoolId, SystemEntropy};

    #[test]
    fn each_machine_counts_once_and_only_who_has_the_link() {
        let (pool, space) = (PoolId::from_bytes([1; 32]), SpaceId::from_bytes([2; 32]));
        let link = Link::generate(pool, space, false, &SystemEntropy);
        let share = KeyShare::generate(&SystemEntropy);
        let mut readers = Readers::new(&link, share.clone(), 2);
        let node = |seed| NodeId::from_bytes([seed; 32]);
        let guessed = Hash::of(link.id().as_bytes());
        assert!(matches!(readers.give(node(1), guessed), Err(LinkError::Unknown)));
        assert_eq!(readers.count(), 0);
        for (seed, counted) in [(1, 1), (2, 2), (1, 2)] {
            assert_eq!(readers.give(node(seed), link.proof()).unwrap(), share);
            assert_eq!(readers.count(), counted);
        }
        assert!(matches!(readers.give(node(3), link.proof()), Err(LinkError::UsedUp)));
    }
}
