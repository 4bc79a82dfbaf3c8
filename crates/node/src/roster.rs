//! Who belongs to the pool, from signed records: the same records give the same roster, in whatever order they come.
//!
//! A person is a member when the founder, or another member, has let them in; a node is one when a member says that it is theirs.
//! Records that do not lead back to the founder yet are kept aside, in bounded number, until those between arrive.
//!
//! A person's key can be replaced by a *rotation*. It names what counts of what the keys before have signed, so whoever still has one of those changes nothing any more. Of
//! two rotations of one key, the one that was heard of first counts: the machine that was taken out can make one, too. The other is a *rival* (`control` keeps those of its own person).
//! A key that a rotation brings speaks for its person and is nobody of itself.

use crate::{
    error::RecordError,
    records::{Called, Certificate, Genesis, NodeState, PoolRecord, Residence, Rotation, VERSION, node_of, pool_id},
};
use potluck_crypto::{PublicKey, Signed, Speaker, Speakers, derive::private_space_id};
use potluck_spaces::Reader;
use potluck_types::{Hash, NodeId, PoolId, Regions, SpaceId, UserId, UserName, limits, to_canonical};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Records whose signer is not known yet: as many as a whole pool's would be.
const PENDING_MAX: usize = 2 * limits::POOL_NODES_MAX;
/// How many of them may be rotations, which are long.
const PENDING_ROTATIONS_MAX: usize = 32;
/// How many may say where data may be: a person says many.
const PENDING_RESIDENCES_MAX: usize = 256;
/// The name of a program's version is text of at most this many bytes.
const SOFTWARE_BYTES_MAX: usize = 64;
/// What a rotation adds to the number that grows with every record: more than the certificates that it ends.
const ROTATION_WEIGHT: u64 = 1 << 20;

/// What a record changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Merged {
    /// It is new: keep it, and tell others.
    New,
    /// It was known, or a later one is.
    Known,
}

#[derive(Clone, Debug)]
struct Held<T> {
    value: T,
    record: PoolRecord,
}

/// Whose node it is, as one of their keys says.
#[derive(Clone, Debug)]
struct Certified {
    by: Speaker,
    held: Held<Certificate>,
}

/// One who was let in, and by which key.
#[derive(Clone, Debug)]
struct Admitted {
    by: PublicKey,
    record: PoolRecord,
}

/// Where the data of a space may be, as one of its owner's keys says.
#[derive(Clone, Debug)]
struct Resident {
    by: Speaker,
    hash: Hash,
    held: Held<Residence>,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Roster {
    pool: PoolId,
    genesis: Held<Genesis>,
    founder: UserId,
    admissions: BTreeMap<UserId, Admitted>,
    certificates: BTreeMap<NodeId, Certified>,
    /// Of the nodes with certificates, those that are members.
    members: BTreeMap<NodeId, UserId>,
    /// How each person's key was replaced, one after the other.
    rotations: BTreeMap<UserId, Vec<Held<Rotation>>>,
    /// Who speaks with the keys that took the place of others.
    speakers: Speakers,
    residences: BTreeMap<SpaceId, Resident>,
    /// The regions that they name.
    confined: Arc<BTreeMap<SpaceId, Regions>>,
    states: BTreeMap<NodeId, Held<NodeState>>,
    pending: Vec<PoolRecord>,
    /// Lasting records that were taken once: who sends them again costs no check of a signature.
    taken: BTreeSet<Hash>,
}

impl Roster {
    /// What these records say, in whatever order they are; none without one that begins a pool.
    pub(crate) fn of(mut records: Vec<PoolRecord>) -> Result<Option<Self>, RecordError> {
        // Those first that others rest on: hardly any has to wait for another.
        records.sort_by_key(PoolRecord::kind);
        let Some(PoolRecord::Genesis(genesis)) = records.first() else {
            return Ok(None);
        };
        let mut roster = Self::new(genesis.clone())?;
        for record in &records {
            let _ = roster.merge(record);
        }
        Ok(Some(roster))
    }

    /// The roster of the pool that this record begins.
    pub(crate) fn new(genesis: Signed<Genesis>) -> Result<Self, RecordError> {
        let verified = genesis.open()?;
        let founder = verified.signer().user_id();
        let value = verified.into_value();
        if value.version != VERSION || value.name.len() > limits::POOL_NAME_BYTES_MAX {
            return Err(RecordError::Version);
        }
        Ok(Self {
            pool: pool_id(&genesis),
            genesis: Held {
                value,
                record: PoolRecord::Genesis(genesis),
            },
            founder,
            admissions: BTreeMap::new(),
            certificates: BTreeMap::new(),
            members: BTreeMap::new(),
            rotations: BTreeMap::new(),
            speakers: Speakers::default(),
            residences: BTreeMap::new(),
            confined: Arc::default(),
            states: BTreeMap::new(),
            pending: Vec::new(),
            taken: BTreeSet::new(),
        })
    }

    pub(crate) fn pool(&self) -> PoolId {
        self.pool
    }

    pub(crate) fn pool_name(&self) -> &str {
        &self.genesis.value.name
    }

    pub(crate) fn is_user(&self, user: UserId) -> bool {
        user == self.founder || self.admissions.contains_key(&user)
    }

    /// The people of the pool.
    pub(crate) fn users(&self) -> impl Iterator<Item = UserId> {
        std::iter::once(self.founder).chain(self.admissions.keys().copied())
    }

    /// Whose node this is, if it is a member's.
    pub(crate) fn user_of(&self, node: NodeId) -> Option<UserId> {
        self.members.get(&node).copied()
    }

    /// Whose node this is, or was: what it wrote counts also after it has left.
    pub(crate) fn owner_of(&self, node: NodeId) -> Option<UserId> {
        self.certificates.get(&node).map(|certified| certified.by.user)
    }

    /// Nodes that were this person's, and are not any more.
    pub(crate) fn former(&self, user: UserId) -> impl Iterator<Item = NodeId> {
        let of_user = self
            .certificates
            .iter()
            .filter(move |(_, certified)| certified.by.user == user);
        of_user
            .map(|(node, _)| *node)
            .filter(|node| !self.members.contains_key(node))
    }

    /// All nodes of members.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (NodeId, UserId)> {
        self.members.iter().map(|(node, user)| (*node, *user))
    }

    pub(crate) fn members(&self) -> BTreeSet<NodeId> {
        self.members.keys().copied().collect()
    }

    /// Who speaks with which key.
    pub(crate) fn speakers(&self) -> &Speakers {
        &self.speakers
    }

    /// How often a person's key was replaced.
    pub(crate) fn generation(&self, user: UserId) -> u32 {
        let rotations = self.rotations.get(&user).map_or(0, Vec::len);
        u32::try_from(rotations).unwrap_or(u32::MAX)
    }

    /// How a person's key was replaced, one after the other.
    pub(crate) fn rotations(&self, user: UserId) -> impl DoubleEndedIterator<Item = &Rotation> {
        let rotations = self.rotations.get(&user).into_iter().flatten();
        rotations.map(|held| &held.value)
    }

    /// Where the data of spaces may be that may not be everywhere.
    pub(crate) fn confined(&self) -> &Arc<BTreeMap<SpaceId, Regions>> {
        &self.confined
    }

    /// What was said last of where the data of a space may be.
    pub(crate) fn residence(&self, space: SpaceId) -> Option<&Residence> {
        self.residences.get(&space).map(|resident| &resident.held.value)
    }

    /// What counts of what a person has said of where the data of their spaces may be.
    pub(crate) fn residences_of(&self, user: UserId) -> impl Iterator<Item = Hash> {
        let of_user = self
            .residences
            .values()
            .filter(move |resident| resident.by.user == user);
        of_user.map(|resident| resident.hash)
    }

    /// Machines that were taken out of a person's hands.
    pub(crate) fn lost(&self, user: UserId) -> BTreeSet<NodeId> {
        let last = self.last_rotation(user).map(|last| last.lost.iter().copied());
        last.into_iter().flatten().collect()
    }

    /// Whether a node was taken out of its person's hands.
    pub(crate) fn is_lost(&self, node: NodeId) -> bool {
        let owner = self.owner_of(node).filter(|_| !self.members.contains_key(&node));
        owner.is_some_and(|owner| self.last_rotation(owner).is_some_and(|last| last.lost.contains(&node)))
    }

    /// The tags of the keys that a person had before the one in use: see [`Reader::tag`].
    pub(crate) fn former_tags(&self, user: UserId) -> BTreeSet<u32> {
        let later = self.rotations(user).map(|rotation| rotation.recipient.tag());
        let mut tags: Vec<u32> = std::iter::once(0).chain(later).collect();
        tags.pop();
        tags.into_iter().collect()
    }

    /// The key that a person signs with now.
    pub(crate) fn key(&self, user: UserId) -> PublicKey {
        self.last_rotation(user)
            .map_or_else(|| PublicKey::from(user), |rotation| rotation.key)
    }

    /// How a person's key was replaced last.
    pub(crate) fn last_rotation(&self, user: UserId) -> Option<&Rotation> {
        self.rotations.get(&user)?.last().map(|held| &held.value)
    }

    /// Those whom a person has let in.
    pub(crate) fn admitted_by(&self, user: UserId) -> impl Iterator<Item = UserId> {
        let by = move |admitted: &Admitted| self.speakers.whose(admitted.by).user == user;
        self.admissions
            .iter()
            .filter(move |(_, admitted)| by(admitted))
            .map(|(user, _)| *user)
    }

    /// Those of them whose nodes, or whose guests' nodes, have ever been in the pool: what these wrote counts.
    pub(crate) fn admitted_and_came(&self, user: UserId) -> Vec<UserId> {
        let mut came: BTreeSet<UserId> = self.certificates.values().map(|certified| certified.by.user).collect();
        loop {
            let led = self.admissions.iter().filter(|(user, _)| came.contains(user));
            let led: Vec<UserId> = led.map(|(_, held)| self.speakers.whose(held.by).user).collect();
            let count = came.len();
            came.extend(led);
            if came.len() == count {
                break;
            }
        }
        self.admitted_by(user).filter(|user| came.contains(user)).collect()
    }

    /// Whom messages are wrapped for, to reach a person.
    pub(crate) fn reader(&self, user: UserId) -> Option<Reader> {
        let (recipient, tag) = match self.last_rotation(user) {
            Some(rotation) => (rotation.recipient, rotation.recipient.tag()),
            None => (self.of_user(user).find_map(|certificate| certificate.recipient)?, 0),
        };
        Some(Reader {
            user,
            recipient,
            tag,
            area: None,
        })
    }

    /// What a person wants to be called.
    pub(crate) fn called(&self, user: UserId) -> Option<UserName> {
        self.last_called(user).map(|called| called.name.clone())
    }

    /// What a person said last that they want to be called.
    pub(crate) fn last_called(&self, user: UserId) -> Option<&Called> {
        let rotation = self.last_rotation(user).and_then(|rotation| rotation.called.as_ref());
        let names = self.of_user(user).filter_map(|certificate| certificate.called.as_ref());
        names.chain(rotation).max()
    }

    /// What is said of this node by its person, and by which number.
    pub(crate) fn certificate(&self, node: NodeId) -> Option<&Certificate> {
        self.certificates.get(&node).map(|certified| &certified.held.value)
    }

    /// The certificates that the key in use has signed.
    fn of_user(&self, user: UserId) -> impl Iterator<Item = &Certificate> {
        let now = Speaker {
            user,
            generation: self.generation(user),
        };
        let of_user = self.certificates.values().filter(move |certified| certified.by == now);
        of_user.map(|certified| &certified.held.value)
    }

    /// What a node says of itself, as it signed it.
    pub(crate) fn state_record(&self, node: NodeId) -> Option<&PoolRecord> {
        self.states.get(&node).map(|held| &held.record)
    }

    pub(crate) fn state(&self, node: NodeId) -> Option<&NodeState> {
        self.states.get(&node).map(|held| &held.value)
    }

    /// What ended the membership of a node that was a member's.
    pub(crate) fn last_word(&self, node: NodeId) -> Option<&PoolRecord> {
        let Certified { by, held } = self
            .certificates
            .get(&node)
            .filter(|_| !self.members.contains_key(&node))?;
        // Those that its key has outlived did not end it.
        let later = usize::try_from(by.generation).unwrap_or(usize::MAX);
        let mut rotations = self.rotations.get(&by.user).into_iter().flatten().skip(later);
        let ending = rotations.find(|rotation| !rotation.value.keeps(node));
        Some(
            ending
                .filter(|_| held.value.active)
                .map_or(&held.record, |ending| &ending.record),
        )
    }

    /// The number of the last certificate of a node by a key in use; the next one must have a greater one. What a key says that is in use counts before what those before it said.
    pub(crate) fn certificate_seq(&self, node: NodeId) -> u64 {
        let certified = self.certificates.get(&node);
        let last = certified.filter(|certified| self.later(certified.by).is_none());
        last.map_or(0, |certified| certified.held.value.seq)
    }

    /// Grows with every record that changes who belongs, what is offered, or what fails together; the same for the same records.
    pub(crate) fn epoch(&self) -> u64 {
        // One that said a great number leaves room for all that comes.
        let certificates = self.certificates.values();
        let certificates = certificates.map(|certified| certified.held.value.seq.min(ROTATION_WEIGHT));
        let states = self.states.values().map(|held| held.value.revision);
        let rotations = self.rotations.values().flatten().map(|_| ROTATION_WEIGHT);
        certificates.chain(states).chain(rotations).fold(0, u64::saturating_add)
    }

    /// All records, those first that others rest on; but what was signed with a key before the rotation that brings it.
    pub(crate) fn records(&self) -> impl Iterator<Item = &PoolRecord> {
        std::iter::once(&self.genesis.record)
            .chain(self.admissions.values().map(|admitted| &admitted.record))
            .chain(self.certificates.values().map(|certified| &certified.held.record))
            .chain(self.rotations.values().flatten().map(|held| &held.record))
            .chain(self.residences.values().map(|resident| &resident.held.record))
            .chain(self.states.values().map(|held| &held.record))
    }

    /// Two rosters that say the same have the same digest. A node's state changes often and is told by gossip; it is not part of it, and neither is by which way a person came to
    /// their key.
    pub(crate) fn digest(&self) -> Hash {
        let admissions = self.admissions.values().map(|admitted| admitted.record.hash());
        let certificates = self
            .certificates
            .values()
            .filter(|certified| self.later(certified.by).is_none());
        let certificates = certificates.map(|certified| certified.held.record.hash());
        let rotations = self.rotations.values().filter_map(|rotations| rotations.last());
        let rotations = rotations.map(|held| Hash::of(&to_canonical(&held.value)));
        let residences = self.residences.values().map(|resident| resident.hash);
        let all = admissions.chain(certificates).chain(rotations).chain(residences);
        let hashes: BTreeSet<Hash> = all.chain([self.genesis.record.hash()]).collect();
        Hash::of(&hashes.iter().flat_map(|hash| *hash.as_bytes()).collect::<Vec<_>>())
    }

    /// Takes a record that anyone may have sent. One that nothing leads to yet is kept aside.
    pub(crate) fn merge(&mut self, record: &PoolRecord) -> Result<Merged, RecordError> {
        if self.is_taken(record) {
            return Ok(Merged::Known);
        }
        let merged = self.merge_one(record);
        match merged {
            Ok(Merged::New) => {
                // What waited for this one may be good now; each success may free others.
                while let Some(at) = self.first_ready() {
                    let record = self.pending.swap_remove(at);
                    let _ = self.merge_one(&record);
                }
            }
            Err(RecordError::UnknownSigner) if self.may_wait(record) => self.pending.push(record.clone()),
            _ => {}
        }
        merged
    }

    /// Whether there is room to keep aside one that nothing leads to yet, and it is not there.
    fn may_wait(&self, record: &PoolRecord) -> bool {
        let alike = self
            .pending
            .iter()
            .filter(|other| other.kind() == record.kind())
            .count();
        let most = match record {
            PoolRecord::Rotation(_) => PENDING_ROTATIONS_MAX,
            PoolRecord::Residence(_) => PENDING_RESIDENCES_MAX,
            _ => PENDING_MAX,
        };
        self.pending.len() < PENDING_MAX && alike < most && !self.pending.contains(record)
    }

    fn is_taken(&self, record: &PoolRecord) -> bool {
        match record {
            PoolRecord::State(signed) => self
                .states
                .get(&node_of(signed.claimed_signer()))
                .is_some_and(|held| held.record == *record),
            _ => self.taken.contains(&record.hash()),
        }
    }

    fn first_ready(&self) -> Option<usize> {
        let speaks = |key: PublicKey| self.is_user(self.speakers.whose(key).user);
        self.pending.iter().position(|record| match record {
            PoolRecord::Genesis(_) => false,
            PoolRecord::Admission(signed) => speaks(signed.claimed_signer()),
            PoolRecord::Certificate(signed) => speaks(signed.claimed_signer()),
            PoolRecord::Rotation(signed) => speaks(signed.claimed_signer()),
            PoolRecord::Residence(signed) => speaks(signed.claimed_signer()),
            PoolRecord::State(signed) => self.certificates.contains_key(&node_of(signed.claimed_signer())),
        })
    }

    fn merge_one(&mut self, record: &PoolRecord) -> Result<Merged, RecordError> {
        match record {
            PoolRecord::Genesis(signed) if pool_id(signed) == self.pool => Ok(Merged::Known),
            PoolRecord::Genesis(_) => Err(RecordError::OtherPool),
            PoolRecord::Admission(signed) => {
                let verified = signed.open()?;
                self.check(verified.value().version, verified.value().pool)?;
                let (by, user) = (verified.signer(), verified.value().user);
                let speaker = self.member(by)?;
                if self.speakers.whose(user.into()).generation > 0 {
                    return Err(RecordError::NotTheirs);
                }
                if let Some(rotation) = self.later(speaker)
                    && !rotation.admitted.contains(&user)
                {
                    return Err(RecordError::Replaced);
                }
                if self.is_user(user) {
                    // Of several admissions of one person, all replicas keep the one with the smallest hash.
                    let known = self.admissions.get(&user);
                    if known.is_none_or(|known| known.record.hash() <= record.hash()) {
                        return Ok(Merged::Known);
                    }
                }
                let record = record.clone();
                self.taken.insert(record.hash());
                self.admissions.insert(user, Admitted { by, record });
                Ok(Merged::New)
            }
            PoolRecord::Certificate(signed) => {
                let verified = signed.open()?;
                self.check(verified.value().version, verified.value().pool)?;
                let by = self.member(verified.signer())?;
                let value = verified.into_value();
                if let Some(rotation) = self.later(by) {
                    if !rotation.names(value.node) {
                        return Err(RecordError::Replaced);
                    }
                    // The rotation says what became of it: a number that whoever has the key makes up is no news.
                    if self.certificates.contains_key(&value.node) {
                        return Ok(Merged::Known);
                    }
                }
                self.taken.insert(record.hash());
                let number = |by: Speaker, certificate: &Certificate| (by.generation, certificate.seq);
                match self.certificates.get(&value.node) {
                    // A node is the first person's who said so; another cannot take it over.
                    Some(known) if known.by.user != by.user => return Err(RecordError::NotTheirs),
                    Some(known) if number(known.by, &known.held.value) >= number(by, &value) => {
                        return Ok(Merged::Known);
                    }
                    None if self.certificates.len() >= limits::POOL_NODES_MAX => return Err(RecordError::TooMany),
                    _ => {}
                }
                let (node, record) = (value.node, record.clone());
                let held = Held { value, record };
                self.certificates.insert(node, Certified { by, held });
                self.count(node);
                Ok(Merged::New)
            }
            PoolRecord::Rotation(signed) => {
                let verified = signed.open()?;
                self.check(verified.value().version, verified.value().pool)?;
                let by = self.member(verified.signer())?;
                let value = verified.into_value();
                if value.user != by.user {
                    return Err(RecordError::NotTheirs);
                }
                // By this way or another.
                let next = self.speakers.whose(value.key);
                if next.user == by.user && next.generation > 0 {
                    return Ok(Merged::Known);
                }
                // A key that is somebody's already would make them speak for another. Who was let in by a key that says it is this person's was nobody.
                let is_taken = |key: PublicKey| {
                    let known = self.speakers.whose(key);
                    known.generation > 0 && known.user != by.user || known.user == self.founder && known.generation == 0
                };
                let mut named = value.also.iter().map(|(key, _)| *key).chain([value.key]);
                if named.any(is_taken) || !value.is_claimed() {
                    return Err(RecordError::NotTheirs);
                }
                if self.later(by).is_some() {
                    return Err(RecordError::Replaced);
                }
                if self.generation(by.user) as usize + 1 >= limits::USER_KEYS_MAX {
                    return Err(RecordError::TooMany);
                }
                let record = record.clone();
                self.rotations.entry(by.user).or_default().push(Held { value, record });
                self.replace_key(by.user);
                Ok(Merged::New)
            }
            PoolRecord::Residence(signed) => {
                let verified = signed.open()?;
                self.check(verified.value().version, verified.value().pool)?;
                let by = self.member(verified.signer())?;
                let value = verified.into_value();
                let is_theirs = match value.founding {
                    Some(_) => value
                        .founder()
                        .is_some_and(|founder| self.speakers.whose(founder).user == by.user),
                    None => value.space == private_space_id(by.user),
                };
                if !is_theirs {
                    return Err(RecordError::NotTheirs);
                }
                if value.regions.len() > limits::REGIONS_MAX {
                    return Err(RecordError::TooMany);
                }
                let hash = record.hash();
                if self
                    .later(by)
                    .is_some_and(|rotation| !rotation.residences.contains(&hash))
                {
                    return Err(RecordError::Replaced);
                }
                let rank = |by: Speaker, at, hash| (by.generation, at, hash);
                match self.residences.get(&value.space) {
                    Some(known) if rank(known.by, known.held.value.at, known.hash) >= rank(by, value.at, hash) => {
                        return Ok(Merged::Known);
                    }
                    _ => {}
                }
                self.taken.insert(hash);
                let (space, record) = (value.space, record.clone());
                let held = Held { value, record };
                self.residences.insert(space, Resident { by, hash, held });
                // Of too many all replicas keep the same, in whatever order they come.
                let of_user = self
                    .residences
                    .iter()
                    .filter(|(_, resident)| resident.by.user == by.user);
                let beyond: Vec<SpaceId> = of_user
                    .map(|(space, _)| *space)
                    .skip(limits::RESIDENCES_PER_USER_MAX)
                    .collect();
                self.residences.retain(|space, _| !beyond.contains(space));
                if beyond.contains(&space) {
                    return Err(RecordError::TooMany);
                }
                self.confine();
                Ok(Merged::New)
            }
            PoolRecord::State(signed) => {
                let verified = signed.open()?;
                self.check(verified.value().version, verified.value().pool)?;
                let node = node_of(verified.signer());
                if !self.certificates.contains_key(&node) {
                    return Err(RecordError::UnknownSigner);
                }
                let value = verified.into_value();
                let bounded = value.addresses.len() <= limits::ADDRESSES_MAX
                    && value
                        .addresses
                        .iter()
                        .all(|address| address.len() <= limits::ADDRESS_BYTES_MAX)
                    && value.software.len() <= SOFTWARE_BYTES_MAX
                    && value.doubts.len() <= limits::DOUBTS_MAX;
                if !bounded {
                    return Err(RecordError::Version);
                }
                if self.state(node).is_some_and(|known| known.seq >= value.seq) {
                    return Ok(Merged::Known);
                }
                self.states.insert(
                    node,
                    Held {
                        value,
                        record: record.clone(),
                    },
                );
                Ok(Merged::New)
            }
        }
    }

    /// Which member speaks with a key.
    fn member(&self, key: PublicKey) -> Result<Speaker, RecordError> {
        let speaker = self.speakers.whose(key);
        self.is_user(speaker.user)
            .then_some(speaker)
            .ok_or(RecordError::UnknownSigner)
    }

    /// What says which words of a key count that is not in use any more.
    fn later(&self, speaker: Speaker) -> Option<&Rotation> {
        let is_replaced = speaker.generation < self.generation(speaker.user);
        self.last_rotation(speaker.user).filter(|_| is_replaced)
    }

    /// Whether a node is a member follows from its certificate, and from what came later.
    fn count(&mut self, node: NodeId) {
        let Some(Certified { by, held }) = self.certificates.get(&node) else {
            self.members.remove(&node);
            return;
        };
        let is_member = self
            .later(*by)
            .map_or(held.value.active, |rotation| rotation.keeps(node));
        match is_member {
            true => self.members.insert(node, by.user),
            false => self.members.remove(&node),
        };
    }

    /// A person has another key: what those before have signed counts no more, where it is not named, nor does what rests on it.
    fn replace_key(&mut self, user: UserId) {
        self.hear_speakers();
        let Some(last) = self.last_rotation(user).cloned() else {
            return;
        };
        let (generation, speakers) = (self.generation(user), self.speakers.clone());
        let is_before = |by: Speaker| by.user == user && by.generation < generation;
        self.admissions.retain(|admitted, held| {
            let counts = !is_before(speakers.whose(held.by)) || last.admitted.contains(admitted);
            counts && speakers.whose((*admitted).into()).generation == 0
        });
        self.certificates
            .retain(|node, certified| !is_before(certified.by) || last.names(*node));
        let mut users = BTreeSet::from([self.founder]);
        loop {
            let count = users.len();
            let led = self
                .admissions
                .iter()
                .filter(|(_, held)| users.contains(&speakers.whose(held.by).user));
            let led: Vec<UserId> = led.map(|(user, _)| *user).collect();
            users.extend(led);
            if users.len() == count {
                break;
            }
        }
        self.admissions.retain(|user, _| users.contains(user));
        self.certificates
            .retain(|_, certified| users.contains(&certified.by.user));
        self.rotations.retain(|user, _| users.contains(user));
        self.residences.retain(|_, resident| {
            let counts = !is_before(resident.by) || last.residences.contains(&resident.hash);
            counts && users.contains(&resident.by.user)
        });
        self.confine();
        self.hear_speakers();
        self.states.retain(|node, _| self.certificates.contains_key(node));
        // One that another had taken the place of may be what is needed now.
        self.taken.clear();
        self.members.clear();
        for node in self.certificates.keys().copied().collect::<Vec<_>>() {
            self.count(node);
        }
    }

    fn confine(&mut self) {
        let regions = |(space, resident): (&SpaceId, &Resident)| (*space, resident.held.value.regions.clone());
        let mut confined: BTreeMap<_, _> = self.residences.iter().map(regions).collect();
        confined.retain(|_, regions| !regions.is_empty());
        self.confined = Arc::new(confined);
    }

    fn hear_speakers(&mut self) {
        let mut later = BTreeMap::new();
        for (user, rotations) in &self.rotations {
            let speaker = |generation| Speaker {
                user: *user,
                generation,
            };
            let rotations = || (1..).zip(rotations);
            later.extend(rotations().map(|(generation, held)| (held.value.key, speaker(generation))));
            for (generation, held) in rotations() {
                for (key, _) in &held.value.also {
                    later.entry(*key).or_insert(speaker(generation - 1));
                }
            }
        }
        self.speakers = Speakers::of(later);
    }

    fn check(&self, version: u8, pool: PoolId) -> Result<(), RecordError> {
        if pool != self.pool {
            Err(RecordError::OtherPool)
        } else if version == VERSION {
            Ok(())
        } else {
            Err(RecordError::Version)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        records::{Admission, Kept, sign},
        world::World,
    };
    use potluck_crypto::{SigningKey, UserKeys};
    use potluck_spaces::{Charter, Founding};
    use potluck_types::Timestamp;

    fn key(i: u8) -> SigningKey {
        SigningKey::from_seed(&[i; 32])
    }

    fn roster() -> Roster {
        let genesis = Genesis {
            version: VERSION,
            name: "home".to_owned(),
            created: Timestamp::from_millis(1),
            nonce: [0; 16],
        };
        Roster::new(sign(&key(1), &genesis)).unwrap()
    }

    fn admission(pool: PoolId, by: u8, user: u8) -> PoolRecord {
        let at = Timestamp::from_millis(2);
        PoolRecord::Admission(sign(
            &key(by),
            &Admission {
                version: VERSION,
                pool,
                user: key(user).user_id(),
                at,
            },
        ))
    }

    fn certificate(pool: PoolId, user: u8, node: u8, seq: u64, active: bool) -> PoolRecord {
        let certificate = Certificate {
            active,
            ..Certificate::new(&UserKeys::new(key(user)), pool, key(node).node_id(), seq)
        };
        PoolRecord::Certificate(sign(&key(user), &certificate))
    }

    fn state(pool: PoolId, node: u8, seq: u64) -> PoolRecord {
        let state = NodeState::sample(pool, seq, 1);
        PoolRecord::State(sign(&key(node), &state))
    }

    #[test]
    fn records_count_when_they_lead_back_to_the_founder_in_any_order() {
        let pool = roster().pool();
        let records = [
            admission(pool, 1, 2),
            admission(pool, 2, 3),
            certificate(pool, 3, 13, 1, true),
            state(pool, 13, 5),
            certificate(pool, 1, 11, 1, true),
        ];
        let digests: BTreeSet<_> = [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [3, 0, 4, 2, 1], [1, 3, 2, 0, 4]]
            .iter()
            .map(|order| {
                let mut roster = roster();
                for at in order {
                    let _ = roster.merge(&records[*at]);
                }
                assert_eq!(roster.members().len(), 2);
                assert_eq!(roster.state(key(13).node_id()).unwrap().seq, 5);
                roster.digest()
            })
            .collect();
        assert_eq!(digests.len(), 1);
    }

    #[test]
    fn strangers_other_pools_and_thieves_are_refused() {
        let mut roster = roster();
        let pool = roster.pool();
        let other = PoolId::from_bytes([7; 32]);
        assert!(matches!(
            roster.merge(&admission(pool, 9, 9)),
            Err(RecordError::UnknownSigner)
        ));
        assert!(matches!(
            roster.merge(&admission(other, 1, 2)),
            Err(RecordError::OtherPool)
        ));
        roster.merge(&admission(pool, 1, 2)).unwrap();
        roster.merge(&certificate(pool, 1, 11, 1, true)).unwrap();
        assert!(matches!(
            roster.merge(&certificate(pool, 2, 11, 2, false)),
            Err(RecordError::NotTheirs)
        ));
        assert!(roster.user_of(key(11).node_id()).is_some());
    }

    /// The person's key becomes that with the seed `next`; these machines stay theirs.
    fn rotation(roster: &Roster, person: u8, signer: u8, next: u8, machines: &[u8]) -> PoolRecord {
        let (pool, user) = (roster.pool(), key(person).user_id());
        let stays = |node: NodeId| machines.iter().any(|machine| key(*machine).node_id() == node);
        let known = roster
            .certificates
            .iter()
            .filter(|(_, certified)| certified.by.user == user);
        let mut later = UserKeys::new(key(person));
        later.push(key(next));
        let rotation = Rotation {
            version: VERSION,
            pool,
            user,
            at: Timestamp::from_millis(9),
            key: key(next).public(),
            claim: key(next).sign(&Rotation::claim(pool, user)),
            recipient: later.recipient(),
            machines: machines
                .iter()
                .map(|machine| Kept {
                    node: key(*machine).node_id(),
                    seed: serde_bytes::ByteBuf::new(),
                })
                .collect(),
            lost: known.map(|(node, _)| *node).filter(|node| !stays(*node)).collect(),
            former: Vec::new(),
            admitted: roster.admitted_by(user).collect(),
            called: None,
            also: Vec::new(),
            residences: roster.residences_of(user).collect(),
        };
        PoolRecord::Rotation(sign(&key(signer), &rotation))
    }

    /// Person 1 has the machines 11 and 12, has let in person 2 with machine 21, and loses machine 12.
    fn robbed() -> (Roster, PoolRecord) {
        let mut roster = roster();
        let pool = roster.pool();
        for record in [
            certificate(pool, 1, 11, 1, true),
            certificate(pool, 1, 12, 1, true),
            state(pool, 12, 5),
            admission(pool, 1, 2),
            certificate(pool, 2, 21, 1, true),
        ] {
            roster.merge(&record).unwrap();
        }
        let rotation = rotation(&roster, 1, 1, 101, &[11]);
        (roster, rotation)
    }

    #[test]
    fn who_has_a_key_that_was_replaced_changes_nothing_any_more() {
        let (mut roster, rotation) = robbed();
        let (pool, before) = (roster.pool(), roster.clone());
        // What the thief says before others hear of the rotation, and after.
        let mut grown = before.clone();
        let forged = [
            admission(pool, 1, 3),
            certificate(pool, 3, 31, 1, true),
            certificate(pool, 1, 13, 1, true),
            state(pool, 13, 5),
            certificate(pool, 1, 11, 9, false),
            certificate(pool, 1, 12, 9, true),
        ];
        for record in &forged {
            grown.merge(record).unwrap();
        }
        assert_eq!(grown.members().len(), 4);
        for roster in [&mut roster, &mut grown] {
            assert_eq!(roster.merge(&rotation).unwrap(), Merged::New);
            for record in &forged {
                let _ = roster.merge(record);
            }
            let members = [key(11).node_id(), key(21).node_id()];
            assert_eq!(roster.members(), BTreeSet::from(members));
            assert!(roster.is_user(key(2).user_id()) && !roster.is_user(key(3).user_id()));
            // What the lost machine wrote before counts.
            assert_eq!(roster.owner_of(key(12).node_id()), Some(key(1).user_id()));
            assert_eq!(roster.owner_of(key(13).node_id()), None);
            assert!(roster.former(key(1).user_id()).eq([key(12).node_id()]));
            assert_eq!(roster.generation(key(1).user_id()), 1);
            assert!(roster.epoch() > before.epoch() + 20);
        }
        assert_eq!(roster.digest(), grown.digest());
        assert!(matches!(roster.merge(&forged[2]), Err(RecordError::Replaced)));
        // The lost machine learns what has ended its membership.
        assert_eq!(roster.last_word(key(12).node_id()), Some(&rotation));
        let mut lost = before.clone();
        lost.merge(&rotation).unwrap();
        assert_eq!(lost.user_of(key(12).node_id()), None);
        // It cannot turn the tables.
        let counter = super::tests::rotation(&before, 1, 1, 102, &[12]);
        assert!(matches!(roster.merge(&counter), Err(RecordError::Replaced)));
    }

    #[test]
    fn the_next_key_speaks_for_the_person() {
        let (mut roster, first) = robbed();
        let pool = roster.pool();
        let by_next = |node: u8, seq: u64, active: bool| {
            let mut keys = UserKeys::new(key(1));
            keys.push(key(101));
            let certificate = Certificate {
                active,
                ..Certificate::new(&keys, pool, key(node).node_id(), seq)
            };
            PoolRecord::Certificate(sign(&key(101), &certificate))
        };
        // One that comes before what it rests on waits for that.
        assert!(matches!(
            roster.merge(&by_next(14, 1, true)),
            Err(RecordError::UnknownSigner)
        ));
        roster.merge(&first).unwrap();
        assert_eq!(roster.user_of(key(14).node_id()), Some(key(1).user_id()));
        roster.merge(&by_next(11, 2, false)).unwrap();
        assert_eq!(roster.user_of(key(11).node_id()), None);
        // A second rotation; whoever hears of all this in another order knows the same.
        let second = rotation(&roster, 1, 101, 102, &[14]);
        roster.merge(&second).unwrap();
        assert_eq!(
            roster.members(),
            BTreeSet::from([14, 21].map(|node| key(node).node_id()))
        );
        assert_eq!(roster.key(key(1).user_id()), key(102).public());
        let records: Vec<PoolRecord> = roster.records().cloned().collect();
        for order in [records.iter().collect::<Vec<_>>(), records.iter().rev().collect()] {
            let mut other = super::tests::roster();
            order.into_iter().for_each(|record| _ = other.merge(record));
            assert_eq!((other.digest(), other.members()), (roster.digest(), roster.members()));
        }
    }

    #[test]
    fn nobody_takes_another_persons_key_or_replaces_it() {
        let (mut roster, honest) = robbed();
        let pool = roster.pool();
        // Of another person; with a key that is another's; with one that its owner knows nothing of.
        let of_another = rotation(&roster, 1, 2, 101, &[21]);
        let with_anothers = rotation(&roster, 2, 2, 1, &[21]);
        let PoolRecord::Rotation(signed) = rotation(&roster, 2, 2, 103, &[21]) else {
            unreachable!()
        };
        let unclaimed = Rotation {
            key: key(104).public(),
            ..signed.open().unwrap().into_value()
        };
        let unclaimed = PoolRecord::Rotation(sign(&key(2), &unclaimed));
        for record in [of_another, with_anothers, unclaimed] {
            assert!(matches!(roster.merge(&record), Err(RecordError::NotTheirs)));
        }
        let mut foreign = super::tests::roster();
        foreign.pool = PoolId::from_bytes([7; 32]);
        assert!(matches!(foreign.merge(&honest), Err(RecordError::OtherPool)));
        assert_eq!(roster.generation(key(1).user_id()), 0);
        assert!(roster.merge(&admission(pool, 2, 4)).is_ok());
    }

    /// Somebody says, at a time, that the data of a space may be in a region alone.
    fn residence(
        pool: PoolId,
        signer: u8,
        space: SpaceId,
        founding: Option<&Signed<Founding>>,
        said: (u64, &str),
    ) -> PoolRecord {
        let (at, region) = said;
        let residence = Residence {
            version: VERSION,
            pool,
            space,
            at: Timestamp::from_millis(at),
            regions: [region]
                .into_iter()
                .filter(|region| !region.is_empty())
                .map(|region| region.parse().unwrap())
                .collect(),
            founding: founding.cloned(),
        };
        PoolRecord::Residence(sign(&key(signer), &residence))
    }

    fn is_confined(roster: &Roster, space: SpaceId, region: &str) -> bool {
        let regions = roster.confined().get(&space);
        regions.is_some_and(|regions| regions.iter().map(|region| region.as_str()).eq([region]))
    }

    #[test]
    fn where_the_data_of_a_space_may_be_is_its_owners_to_say_and_the_last_word_counts() {
        let (mut roster, _) = robbed();
        let pool = roster.pool();
        let charter = Charter::found(
            &UserKeys::new(key(2)),
            &Speakers::default(),
            Timestamp::from_millis(1),
            &*World::default().entropy,
        );
        let charter = charter.unwrap();
        let (space, founding) = (charter.space(), charter.founding());
        let home = private_space_id(key(1).user_id());
        let other = private_space_id(key(2).user_id());
        // Of another's space, with the founding of another, and without one; by a stranger.
        for (wrong, why) in [
            (residence(pool, 1, space, founding, (5, "eu")), "another's"),
            (
                residence(pool, 1, space, None, (5, "eu")),
                "another's, and nothing shows whose",
            ),
            (
                residence(pool, 2, other, founding, (5, "eu")),
                "a founding of another space",
            ),
            (residence(pool, 1, other, None, (5, "eu")), "another's private one"),
        ] {
            assert!(matches!(roster.merge(&wrong), Err(RecordError::NotTheirs)), "{why}");
        }
        let strange = residence(pool, 9, private_space_id(key(9).user_id()), None, (5, "eu"));
        assert!(matches!(roster.merge(&strange), Err(RecordError::UnknownSigner)));
        assert!(roster.confined().is_empty());

        let said = [
            residence(pool, 2, space, founding, (5, "eu")),
            residence(pool, 2, space, founding, (7, "us")),
            residence(pool, 2, space, founding, (6, "")),
            residence(pool, 1, home, None, (5, "eu")),
        ];
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2]] {
            let mut roster = roster.clone();
            order
                .into_iter()
                .for_each(|at: usize| _ = roster.merge(&said[at]).unwrap());
            assert!(is_confined(&roster, space, "us") && is_confined(&roster, home, "eu"));
            assert_eq!(roster.merge(&said[0]).unwrap(), Merged::Known);
            // Who comes later learns of it from the others.
            let mut late = super::tests::roster();
            roster.records().for_each(|record| _ = late.merge(record));
            assert_eq!((late.confined(), late.digest()), (roster.confined(), roster.digest()));
            // Everywhere again.
            roster.merge(&residence(pool, 2, space, founding, (8, ""))).unwrap();
            assert!(!roster.confined().contains_key(&space));
        }
    }

    #[test]
    fn of_too_many_spaces_all_keep_the_same() {
        let (roster, _) = robbed();
        let pool = roster.pool();
        let said = |i: usize| {
            let now = Timestamp::from_millis(i as u64);
            let charter = Charter::found(
                &UserKeys::new(key(2)),
                &Speakers::default(),
                now,
                &*World::default().entropy,
            );
            let charter = charter.unwrap();
            residence(pool, 2, charter.space(), charter.founding(), (5, "eu"))
        };
        let said: Vec<_> = (0..limits::RESIDENCES_PER_USER_MAX + 8).map(said).collect();
        let (mut one, mut other) = (roster.clone(), roster);
        let refused = |roster: &mut Roster, record: &PoolRecord| roster.merge(record).is_err();
        let refused_in_order = said.iter().filter(|record| refused(&mut one, record)).count();
        let refused_else = said.iter().rev().filter(|record| refused(&mut other, record)).count();
        assert!(refused_in_order <= 8 && refused_else <= 8);
        assert_eq!(one.confined().len(), limits::RESIDENCES_PER_USER_MAX);
        assert_eq!((one.confined(), one.digest()), (other.confined(), other.digest()));
        // Those of others have their own room.
        let home = private_space_id(key(1).user_id());
        one.merge(&residence(pool, 1, home, None, (5, "eu"))).unwrap();
        assert!(is_confined(&one, home, "eu"));
    }

    #[test]
    fn who_has_a_key_that_was_replaced_moves_no_data() {
        let (mut before, _) = robbed();
        let (pool, home) = (before.pool(), private_space_id(key(1).user_id()));
        before.merge(&residence(pool, 1, home, None, (5, "eu"))).unwrap();
        let rotation = rotation(&before, 1, 1, 101, &[11]);
        let forged = residence(pool, 1, home, None, (99, "us"));
        let mut grown = before.clone();
        grown.merge(&forged).unwrap();
        assert!(is_confined(&grown, home, "us"));
        for roster in [&mut before, &mut grown] {
            roster.merge(&rotation).unwrap();
            assert!(matches!(roster.merge(&forged), Err(RecordError::Replaced)));
            // What the rotation names counts; whoever has dropped it hears of it again.
            roster.merge(&residence(pool, 1, home, None, (5, "eu"))).unwrap();
            assert!(is_confined(roster, home, "eu"));
            // What the next key says counts, whatever time the old one had said.
            roster.merge(&residence(pool, 101, home, None, (6, "ch"))).unwrap();
            assert!(is_confined(roster, home, "ch"));
        }
        assert_eq!(before.digest(), grown.digest());
    }

    #[test]
    fn a_later_key_is_nobody_of_itself_whatever_was_heard_first() {
        let (before, rotation) = robbed();
        let pool = before.pool();
        let person = key(1).user_id();
        // Whoever has the old key, and has seen the rotation, lets the next key in as a person; another member does, too.
        let admissions = [admission(pool, 1, 101), admission(pool, 2, 101)];
        let certificate = certificate(pool, 101, 55, 1, true);
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]] {
            let records = [&rotation, &admissions[0], &admissions[1], &certificate];
            let mut roster = before.clone();
            for at in order {
                let _ = roster.merge(records[at]);
            }
            assert_eq!((roster.generation(person), roster.key(person)), (1, key(101).public()));
            assert!(!roster.is_user(key(101).user_id()));
            // And after a restart.
            let mut again = super::tests::roster();
            roster.records().for_each(|record| _ = again.merge(record));
            assert_eq!(again.generation(person), 1, "{order:?}");
            assert_eq!(again.digest(), roster.digest());
        }
    }

    #[test]
    fn a_certificate_of_an_old_key_is_no_news_whatever_number_it_has() {
        let (mut roster, rotation) = robbed();
        let pool = roster.pool();
        let mut greedy = roster.clone();
        greedy.merge(&certificate(pool, 1, 11, u64::MAX, true)).unwrap();
        for roster in [&mut roster, &mut greedy] {
            roster.merge(&rotation).unwrap();
            let end = certificate(pool, 1, 11, u64::MAX - 1, false);
            assert_eq!(roster.merge(&end).unwrap(), Merged::Known);
            assert_eq!(roster.certificate_seq(key(11).node_id()), 0);
            assert!(roster.user_of(key(11).node_id()).is_some());
        }
        assert!(greedy.epoch() < 20 * ROTATION_WEIGHT);
    }

    #[test]
    fn the_last_word_counts_and_an_old_one_does_not_come_back() {
        let mut roster = roster();
        let pool = roster.pool();
        let node = key(11).node_id();
        roster.merge(&certificate(pool, 1, 11, 1, true)).unwrap();
        roster.merge(&certificate(pool, 1, 11, 2, false)).unwrap();
        assert_eq!(roster.merge(&certificate(pool, 1, 11, 1, true)).unwrap(), Merged::Known);
        assert_eq!(roster.user_of(node), None);
        roster.merge(&state(pool, 11, 9)).unwrap();
        assert_eq!(roster.merge(&state(pool, 11, 8)).unwrap(), Merged::Known);
    }
}
