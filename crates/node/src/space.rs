//! A space whose key this node has: what belongs to it in memory, and the handle that everything about its files goes through.

use crate::{shared::Shared, upload::Recoding};
use potluck_crypto::{BoxKey, DedupKey, derive};
use potluck_types::{SpaceId, Timestamp};
use std::{
    ops::Deref,
    sync::{Arc, Mutex, atomic::AtomicBool},
};

/// What a node keeps in memory of one space.
pub(crate) struct Opened {
    id: SpaceId,
    key: BoxKey,
    dedup_key: DedupKey,
    /// Changes are made one after the other.
    pub(crate) names: tokio::sync::Mutex<()>,
    /// Whether this node has heard since its start what others know of its own log.
    pub(crate) knows_own_log: AtomicBool,
    /// Why names that others told could not be written down, since when some may be missing here.
    pub(crate) lacking: Mutex<Option<String>>,
    /// Up to which clock the person has answered on this machine: what went before is not held against them again.
    pub(crate) answered: Mutex<Timestamp>,
    pub(crate) recoding: Mutex<Recoding>,
}

impl Opened {
    pub(crate) fn id(&self) -> SpaceId {
        self.id
    }

    /// The space of this id and key.
    pub(crate) fn new(id: SpaceId, key: BoxKey) -> Self {
        Self {
            id,
            dedup_key: derive::dedup_key(&key),
            key,
            names: tokio::sync::Mutex::new(()),
            knows_own_log: AtomicBool::new(false),
            lacking: Mutex::default(),
            answered: Mutex::default(),
            recoding: Mutex::default(),
        }
    }
}

/// The node, and one space of it.
#[derive(Clone)]
pub(crate) struct OpenSpace {
    shared: Arc<Shared>,
    opened: Arc<Opened>,
}

impl OpenSpace {
    /// This space of this node.
    pub(crate) fn new(shared: &Arc<Shared>, opened: &Arc<Opened>) -> Self {
        Self {
            shared: Arc::clone(shared),
            opened: Arc::clone(opened),
        }
    }

    /// The node.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What belongs to the space.
    pub(crate) fn opened(&self) -> &Opened {
        &self.opened
    }

    pub(crate) fn id(&self) -> SpaceId {
        self.opened.id
    }

    pub(crate) fn key(&self) -> &BoxKey {
        &self.opened.key
    }

    pub(crate) fn dedup_key(&self) -> &DedupKey {
        &self.opened.dedup_key
    }
}

/// Whatever is done in a space is done by the node.
impl Deref for OpenSpace {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}
