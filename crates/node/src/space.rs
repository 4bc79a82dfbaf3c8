//! A space whose key this node has: what belongs to it in memory, and the handle that everything about its files goes through.

use crate::{
    api::CheckpointInfo,
    error::{MetaError, NodeError},
    shared::Shared,
    upload::Recoding,
};
use potluck_crypto::{DedupKey, UserKeys, derive};
use potluck_spaces::{
    AreaId, Body, Change, Charter, EpochId, Fate, Keys, Kv, Machines, Scope, Settings, Tree, View, scope_read,
};
use potluck_types::{NodeId, SpaceId, Timestamp};
use std::{
    collections::BTreeSet,
    ops::Deref,
    sync::{Arc, Mutex, PoisonError, RwLock, atomic::AtomicBool},
    time::Duration,
};

/// The keys of a space that a person has, and the epoch that they write under; none in a space that has but one key.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) keys: Keys,
    current: Option<EpochId>,
}

/// What a node keeps in memory of one space.
pub(crate) struct Opened {
    id: SpaceId,
    dedup_key: DedupKey,
    ring: RwLock<Arc<Ring>>,
    /// Held while the charter is read and the keys are made of it: of several who do, the last knows the most.
    learning: Mutex<()>,
    /// Changes are made one after the other.
    pub(crate) names: tokio::sync::Mutex<()>,
    /// Whether this node has heard since its start what others know of its own log.
    pub(crate) knows_own_log: AtomicBool,
    /// Why names that others told could not be written down, since when some may be missing here.
    pub(crate) lacking: Mutex<Option<String>>,
    /// Up to which clock the person has answered on this machine: what went before is not held against them again.
    pub(crate) answered: Mutex<Timestamp>,
    pub(crate) recoding: Mutex<Recoding>,
    /// Held by who erases.
    pub(crate) erasing: tokio::sync::Mutex<()>,
    /// The checkpoint that its names were taken from.
    pub(crate) taken: Mutex<Option<CheckpointInfo>>,
    /// Held by who takes one, and opens what comes after it.
    pub(crate) taking: Arc<tokio::sync::Mutex<()>>,
    /// Held by who fetches what was before a checkpoint.
    pub(crate) filling: tokio::sync::Mutex<()>,
    /// Whether somebody is about to forget the keys to what was erased.
    pub(crate) is_forgetting: AtomicBool,
}

impl Opened {
    fn new(id: SpaceId, dedup_key: DedupKey, ring: Ring) -> Self {
        Self {
            id,
            dedup_key,
            ring: RwLock::new(Arc::new(ring)),
            learning: Mutex::default(),
            erasing: tokio::sync::Mutex::new(()),
            taken: Mutex::default(),
            taking: Arc::default(),
            filling: tokio::sync::Mutex::new(()),
            is_forgetting: AtomicBool::new(false),
            names: tokio::sync::Mutex::new(()),
            knows_own_log: AtomicBool::new(false),
            lacking: Mutex::default(),
            answered: Mutex::default(),
            recoding: Mutex::default(),
        }
    }

    /// A person's private space, of whose charter, if it has one, nothing is known yet.
    pub(crate) fn private(user: &UserKeys) -> Self {
        let key = user.private_space_key();
        let ring = Ring {
            keys: Keys::private(key.clone()),
            current: None,
        };
        Self::new(derive::private_space_id(user.id()), derive::dedup_key(&key), ring)
    }

    /// A space with a charter, if the person has its keys.
    pub(crate) fn chartered(charter: &Charter, user: &UserKeys, now: Timestamp) -> Option<Self> {
        let ring = Ring::of(charter, user, now);
        let dedup_key = derive::dedup_key(&charter.first_key(&ring.keys)?);
        Some(Self::new(charter.space(), dedup_key, ring))
    }

    /// The charter says more than before, or the person has another key.
    pub(crate) fn learn(&self, shared: &Shared) -> Result<(), MetaError> {
        let _one_at_a_time = self.learning.lock().unwrap_or_else(PoisonError::into_inner);
        let charter = shared.charters.of(&shared.read()?, self.id)?;
        // A private space without a charter has the key that it had from the beginning.
        if charter.owner().is_some() {
            let ring = Arc::new(Ring::of(&charter, &shared.keys(), shared.now()));
            *self.ring.write().unwrap_or_else(PoisonError::into_inner) = ring;
        }
        Ok(())
    }

    pub(crate) fn id(&self) -> SpaceId {
        self.id
    }
}

impl Ring {
    /// The epoch that the person writes under.
    pub(crate) fn current(&self) -> Option<EpochId> {
        self.current
    }

    fn of(charter: &Charter, user: &UserKeys, now: Timestamp) -> Self {
        Self {
            keys: charter.keys(user, now),
            current: charter.current(),
        }
    }
}

/// The node, and one space of it.
#[derive(Clone)]
pub(crate) struct OpenSpace {
    shared: Arc<Shared>,
    opened: Arc<Opened>,
}

impl Machines for OpenSpace {
    fn called(&self, machine: NodeId) -> String {
        let name = self.with_control(|control| control.roster.state(machine).and_then(|state| state.name.clone()));
        name.map_or_else(|| machine.short(), |name| name.to_string())
    }
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

    /// The files as a person of this node sees them.
    pub(crate) fn view(&self) -> View<'_> {
        View::of(Tree::of(self.id()), self)
    }

    /// What holds for all that is in the space.
    pub(crate) fn settings(&self) -> Result<Settings, NodeError> {
        Ok(Tree::of(self.id())
            .settings(&self.read()?)
            .map_err(MetaError::reading)?)
    }

    /// How long what is removed and overwritten here can be brought back.
    pub(crate) fn retention(&self) -> Result<Duration, NodeError> {
        Ok(self.settings()?.retention().unwrap_or(self.rails.retention))
    }

    /// What becomes of what a person removes or overwrites.
    pub(crate) fn usual_fate(&self) -> Result<Fate, NodeError> {
        Ok(Fate::kept_for(self.retention()?))
    }

    /// Whose machine that is, if it is another person's.
    pub(crate) fn author(&self, machine: NodeId) -> Option<String> {
        let me = self.user;
        self.with_control(|control| {
            let user = control.roster.user_of(machine).filter(|user| *user != me)?;
            let called = control.roster.called(user);
            Some(called.map_or_else(|| user.short(), |called| called.to_string()))
        })
    }

    /// The keys that the person has by now.
    pub(crate) fn ring(&self) -> Arc<Ring> {
        Arc::clone(&self.opened.ring.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn dedup_key(&self) -> &DedupKey {
        &self.opened.dedup_key
    }

    /// Whether the person may write here.
    pub(crate) fn may_write(&self) -> bool {
        let user = self.user;
        match self.charters.remembered(self.id()) {
            Some(charter) => charter.writers(self.now()).contains(&user),
            None => self.with_control(|control| control.may_write(user, self.id())),
        }
    }

    /// Refuses who may not write here, and says why.
    pub(crate) fn refuse_reader(&self) -> Result<(), NodeError> {
        if self.may_write() {
            return Ok(());
        }
        let user = self.user;
        match self.with_control(|control| control.may_read(user, self.id())) {
            true => Err(NodeError::ReadOnly),
            false => Err(NodeError::NotIn),
        }
    }

    /// Whether the person reads no more of it than some areas: what others use, and what is to hold, is not known here.
    pub(crate) fn is_partial(&self) -> bool {
        *self.ring().keys.scope() != Scope::All
    }

    /// The same, also where the tables have no more yet.
    pub(crate) fn is_partial_in(&self, kv: &impl Kv) -> Result<bool, NodeError> {
        let read = scope_read(self.id(), kv).map_err(MetaError::reading)?;
        Ok(self.is_partial() || read != Scope::All)
    }

    /// Refuses what only those do who have all of the space.
    pub(crate) fn refuse_partial(&self, what: &'static str) -> Result<(), NodeError> {
        match self.is_partial() {
            true => Err(NodeError::OnlyPart(what)),
            false => Ok(()),
        }
    }

    /// The areas that the person may write to; nothing when they may write everywhere.
    pub(crate) fn written_areas(&self, kv: &impl Kv) -> Result<Option<BTreeSet<AreaId>>, NodeError> {
        let charter = self.charters.of(kv, self.id())?;
        let is_private = charter.owner().is_none();
        Ok(charter.written_areas(self.user, self.now()).filter(|_| !is_private))
    }

    /// Seals changes for an entry that is in no area, or wherever the person may write, under the key that is in use.
    pub(crate) fn body(&self, kv: &impl Kv, changes: &[Change]) -> Result<Body, NodeError> {
        let area = self.written_areas(kv)?.and_then(|areas| areas.first().copied());
        self.body_in(area, changes)
    }

    /// Seals changes for an entry that is in an area, or in none, under the key that is in use.
    pub(crate) fn body_in(&self, area: Option<AreaId>, changes: &[Change]) -> Result<Body, NodeError> {
        self.refuse_reader()?;
        let ring = self.ring();
        if ring.current.is_none() && self.with_control(|control| control.roster.generation(self.user)) > 0 {
            // The first key of the private space follows from one that was replaced.
            self.refuse_old_key()?;
            return Err(NodeError::NoKeyYet);
        }
        let key = ring.keys.within(ring.current, area).ok_or(NodeError::NoKey)?;
        Ok(Body {
            sealed: Tree::of(self.id()).seal(&key, changes, &*self.entropy),
            epoch: ring.current,
            area,
            ..Body::default()
        })
    }
}

/// Whatever is done in a space is done by the node.
impl Deref for OpenSpace {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}
