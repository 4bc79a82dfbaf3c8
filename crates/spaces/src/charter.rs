//! The charter of a space: who founded it, who may read and write, and under which keys its entries are sealed. Signed records, which whoever keeps the space's log
//! checks without a key to it.
//!
//! The id of a space is the hash of its founding, so that nobody can found another one in its place. Each *epoch* is a key that entries are sealed under: it is wrapped for
//! every person who may read, and opens the keys of the epochs before it. No record is changed, so all who have heard of the same
//! records know the same, in whatever order these came. A *grant* lets a person in: it has the key of an epoch for them. A *revocation* ends grants, and says how far what
//! that person's devices have written counts; the next epoch is not for them.
//!
//! Whoever a grant says that of may let others in: a grant that is *given under* theirs gives no more than theirs does, and ends with it. So many count, and no more: what
//! people add who are not the owner never fills a charter. The owner's machines make such a grant theirs when they hear of it: it counts then whatever becomes of the key that it was signed with.
//!
//! Where the owner's key was replaced, since a machine that had it is lost, a *succession* names what the keys before have signed that counts, and a *stop* how far the logs of lost
//! machines do. A person's private space is not founded: its id and its first key follow from their own, and it has a charter once their key was replaced.

use crate::{AreaId, Kv, KvError, Scope, Table};
use potluck_crypto::{
    BoxKey, PublicKey, Purpose, Recipient, RecipientKeys, Record, Signed, SignedError, SigningKey, Speaker, Speakers,
    UserKeys, derive::private_space_id,
};
use potluck_types::{
    CodecError, Entropy, Hash, NodeId, SpaceId, Timestamp, UserId, from_canonical, limits, to_canonical,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::collections::{BTreeMap, BTreeSet};
use zeroize::Zeroizing;

/// The version of what is about all of a space.
const VERSION: u8 = 1;
/// The version of what is about areas: who knows none would take it for more than it is.
const VERSION_AREAS: u8 = 2;

/// The version of a record, whether it is about areas or not.
fn version_of(is_about_areas: bool) -> u8 {
    if is_about_areas { VERSION_AREAS } else { VERSION }
}
const WRAP: &str = "potluck/space-epoch-wrap/1";
const BEFORE: &str = "potluck/space-epoch-before/1";
const GRANT: &str = "potluck/space-grant-wrap/1";

/// The first record of a space, signed by the person whose it is. Its hash is the [`SpaceId`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Founding {
    version: u8,
    /// When, by its founder's clock.
    pub created: Timestamp,
    /// Tells the spaces of one person apart.
    #[serde(with = "serde_bytes")]
    pub nonce: [u8; 16],
}

impl Record for Founding {
    const CONTEXT: &'static str = "potluck/space-founding/1";
    const BYTES_MAX: usize = 256;
}

/// Names an epoch: the hash of its record.
pub type EpochId = Hash;

/// A key that entries are sealed under.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Epoch {
    version: u8,
    /// Of which space.
    pub space: SpaceId,
    /// Longest row of epochs that it comes after.
    pub depth: u32,
    /// The key, for each person who may read.
    pub wraps: Vec<Wrap>,
    /// The keys of the epochs that it comes after, sealed under its own.
    pub before: Vec<Before>,
    /// The same for areas: their keys in epochs before, sealed under their keys in this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub areas: Vec<AreaBefore>,
}

impl Record for Epoch {
    const CONTEXT: &'static str = "potluck/space-epoch/1";
    const BYTES_MAX: usize = limits::CHARTER_RECORD_BYTES_MAX - 256;
}

/// The key of an epoch for one person.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Wrap {
    /// For whom.
    pub user: UserId,
    /// Which key of that person's it is wrapped for: see [`Reader::tag`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tag: u32,
    /// The area whose key it is, of who reads no more than that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub area: Option<AreaId>,
    /// The key, wrapped.
    pub key: ByteBuf,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(said: &bool) -> bool {
    !said
}

/// The key of an epoch for whoever has that of the next.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Before {
    /// Which epoch.
    pub epoch: EpochId,
    /// Its key, in a secret box.
    pub key: ByteBuf,
}

/// The key of an area in an epoch for whoever has that of a later one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AreaBefore {
    /// Which area.
    pub area: AreaId,
    /// Which epoch.
    pub epoch: EpochId,
    /// Its key then, in a secret box.
    pub key: ByteBuf,
}

/// A person is let in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Grant {
    version: u8,
    /// To which space.
    pub space: SpaceId,
    /// Who.
    pub user: UserId,
    /// Whether their devices may write.
    pub may_write: bool,
    /// When it was given, by the owner's clock.
    pub at: Timestamp,
    /// Entries with a later clock do not count; none: without an end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// How many bytes may be there of what the person has put, with what can be brought back; none: as many as the space may hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<u64>,
    /// Whether the person may let others in.
    #[serde(default, skip_serializing_if = "is_false")]
    pub may_share: bool,
    /// The grant that it is given under, and ends with; none when it is the owner's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub under: Option<GrantId>,
    /// The area that it is for; none when it is for all of the space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub area: Option<AreaId>,
    /// The depth of the first epoch in which something was written in the area, if that is not the one whose key it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u32>,
    /// The epoch whose key it has.
    pub epoch: EpochId,
    /// Which key of that person's it is wrapped for: see [`Reader::tag`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tag: u32,
    /// For the person alone: that key, or the area's in that epoch, and what the owner calls the space; of an area, with `/` and its name behind.
    pub wrapped: ByteBuf,
}

impl Record for Grant {
    const CONTEXT: &'static str = "potluck/space-grant/1";
    const BYTES_MAX: usize = 1024;
}

impl Grant {
    /// Whether it gives nothing that one does not, under which it is given. Who may put so much and no more lets nobody put anything.
    fn is_within(&self, over: &Self) -> bool {
        let ends_with_it = over
            .until
            .is_none_or(|end| self.until.is_some_and(|until| until <= end));
        let is_no_more = (!self.may_write || (over.may_write && over.quota.is_none()))
            && (over.area.is_none() || over.area == self.area);
        over.may_share && over.under.is_none() && !self.may_share && ends_with_it && is_no_more
    }
}

/// So many areas a space has at most: each costs room in every epoch.
pub const AREAS_MAX: usize = 32;
/// An area takes as much room in an epoch as so many people.
const READERS_PER_AREA: usize = 2;

/// Names a grant: the hash of its record.
pub type GrantId = Hash;

/// So many grants are given under one at most, those that ended among them: of more those with the least ids count, whoever has heard of which.
pub const GRANTS_UNDER_ONE_MAX: usize = 16;
/// So many people are let in with one who may let in others.
const READERS_WITH_ONE_MAX: usize = 1 + GRANTS_UNDER_ONE_MAX;
/// So many under one have the owner's signature, those carried over among them: else whoever gives one after the other, each with a lesser id, would have the owner fill the charter.
const COPIES_UNDER_ONE_MAX: usize = 3 * GRANTS_UNDER_ONE_MAX;
/// Room in a charter for those.
const UNDER_ONE_BYTES: usize = GRANTS_UNDER_ONE_MAX * (Grant::BYTES_MAX + 128);

/// Grants are ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Revocation {
    version: u8,
    /// Of which space.
    pub space: SpaceId,
    /// When, by the owner's clock.
    pub at: Timestamp,
    /// Which grants.
    pub grants: Vec<GrantId>,
    /// How far the logs of the person's devices count; of others nothing does.
    pub ends: Vec<(NodeId, u64)>,
    /// The area that the person is taken out of; none when it is all of the space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub area: Option<AreaId>,
}

impl Record for Revocation {
    const CONTEXT: &'static str = "potluck/space-revocation/1";
    const BYTES_MAX: usize = limits::CHARTER_RECORD_BYTES_MAX - 256;
}

/// The owner's key was replaced: of what was signed with the keys before, this counts, besides the founding. Where several say so under one key, it is what any of them names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Succession {
    version: u8,
    /// Of which space.
    pub space: SpaceId,
    /// When, by the owner's clock.
    pub at: Timestamp,
    /// The hashes of the records.
    pub records: Vec<Hash>,
}

impl Record for Succession {
    const CONTEXT: &'static str = "potluck/space-succession/1";
    const BYTES_MAX: usize = limits::CHARTER_RECORD_BYTES_MAX - 256;
}

/// How many records a succession names at most: 34 bytes each.
const NAMED_MAX: usize = 1024;
/// Room in a charter for what its owner says with another key than the first; with a later one than the second, half as much; and so on.
const RESERVE_BYTES: usize = limits::CHARTER_BYTES_MAX / 4;

/// The logs of machines end that were taken out of their person's hands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Stop {
    version: u8,
    /// Of which space.
    pub space: SpaceId,
    /// When, by the owner's clock.
    pub at: Timestamp,
    /// How far each log counts.
    pub ends: Vec<(NodeId, u64)>,
}

impl Record for Stop {
    const CONTEXT: &'static str = "potluck/space-stop/1";
    const BYTES_MAX: usize = limits::CHARTER_RECORD_BYTES_MAX - 256;
}

/// A record of a charter with its signature, as it is kept and sent. Nothing in it is checked yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum CharterRecord {
    /// See [`Founding`].
    Founding(Signed<Founding>),
    /// See [`Epoch`].
    Epoch(Signed<Epoch>),
    /// See [`Grant`].
    Grant(Signed<Grant>),
    /// See [`Revocation`].
    Revocation(Signed<Revocation>),
    /// See [`Succession`].
    Succession(Signed<Succession>),
    /// See [`Stop`].
    Stop(Signed<Stop>),
}

impl CharterRecord {
    /// Reads a record from bytes that anyone may have sent.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CharterError> {
        if bytes.len() > limits::CHARTER_RECORD_BYTES_MAX {
            return Err(CharterError::TooMuch);
        }
        Ok(from_canonical(bytes)?)
    }

    /// Its canonical bytes, as they are kept and sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_canonical(self)
    }

    fn hash(&self) -> Hash {
        Hash::of(&self.to_bytes())
    }

    /// How much room it takes in a charter, with what may be added to it by others.
    fn bytes(&self) -> usize {
        let may_share = |signed: &Signed<Grant>| signed.claimed().is_ok_and(|grant| grant.may_share);
        let of_others = match self {
            Self::Grant(signed) if may_share(signed) => UNDER_ONE_BYTES,
            _ => 0,
        };
        self.to_bytes().len() + of_others
    }

    /// Whose signature it is said to have.
    fn claimed_signer(&self) -> PublicKey {
        match self {
            Self::Founding(signed) => signed.claimed_signer(),
            Self::Epoch(signed) => signed.claimed_signer(),
            Self::Grant(signed) => signed.claimed_signer(),
            Self::Revocation(signed) => signed.claimed_signer(),
            Self::Succession(signed) => signed.claimed_signer(),
            Self::Stop(signed) => signed.claimed_signer(),
        }
    }
}

/// What became of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Joined {
    /// It is new, and part of the charter now.
    New,
    /// It was there already.
    Known,
}

/// Why a record is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CharterError {
    /// The envelope or the signature is wrong.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// The bytes are no record.
    #[error("the bytes are no record of a space's charter: {0}")]
    Codec(#[from] CodecError),
    /// It belongs to another space, or to a later version of this software.
    #[error("the record is of another space or version")]
    Foreign,
    /// The founding has to come first.
    #[error("the founding of the space is not known yet")]
    NotFounded,
    /// Who signed it may not say so.
    #[error("user {user} may not change the keys of this space")]
    NotAllowed {
        /// The user's short id.
        user: String,
    },
    /// The owner's key was replaced since, and what took its place does not name it.
    #[error("the record was signed with a key that was replaced, and does not count")]
    Replaced,
    /// What it rests on is not known yet: an epoch, or a grant.
    #[error("an epoch or a grant that comes before is not known yet")]
    Early,
    /// It gives more than the grant that it is given under.
    #[error("the grant gives more than the one that it is given under")]
    Wider,
    /// So many were let in under one grant.
    #[error("{GRANTS_UNDER_ONE_MAX} people were let in under one grant, and can be no more")]
    TooManyUnderOne,
    /// A charter has limits.
    #[error("the space has as many records as it may have")]
    TooMuch,
    /// A space has limits.
    #[error("the space has {AREAS_MAX} directories that are shared alone, and can have no more")]
    TooManyAreas,
    /// The key of an epoch is wrapped for so many at most.
    #[error("{} people may read the space, and can be no more", limits::SPACE_READERS_MAX)]
    TooManyReaders,
    /// A key cannot be wrapped for somebody.
    #[error("user {user} has a key for which nothing can be wrapped")]
    Recipient {
        /// The user's short id.
        user: String,
    },
    /// The database fails.
    #[error("the metadata database fails: {0}")]
    Kv(KvError),
}

impl From<KvError> for CharterError {
    fn from(error: KvError) -> Self {
        Self::Kv(error)
    }
}

/// The keys of a space that a person has, and what of it they are to read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Keys {
    /// By epoch, or the one of a space that has none.
    epochs: BTreeMap<Option<EpochId>, BoxKey>,
    /// Of areas, where that of the epoch is not known.
    areas: BTreeMap<(AreaId, EpochId), BoxKey>,
    scope: Scope,
}

impl Keys {
    /// Those of a person's private space.
    pub fn private(key: BoxKey) -> Self {
        Self {
            epochs: BTreeMap::from([(None, key)]),
            ..Self::default()
        }
    }

    /// Whether the person can read nothing.
    pub fn is_empty(&self) -> bool {
        self.epochs.is_empty() && self.areas.is_empty()
    }

    /// The same, for who reads so much of the space.
    #[must_use]
    pub fn reading(self, scope: Scope) -> Self {
        Self { scope, ..self }
    }

    /// What of the space the person is to read.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The key of an epoch, or of a space without.
    pub fn of(&self, epoch: Option<EpochId>) -> Option<&BoxKey> {
        self.epochs.get(&epoch)
    }

    /// The epochs whose keys are known, with these; of a space without epochs its one key.
    pub fn epochs(&self) -> impl Iterator<Item = (Option<EpochId>, &BoxKey)> {
        self.epochs.iter().map(|(epoch, key)| (*epoch, key))
    }

    /// The key that the entries of an area are sealed under in an epoch, or those that are in none.
    pub fn within(&self, epoch: Option<EpochId>, area: Option<AreaId>) -> Option<BoxKey> {
        let Some(area) = area else {
            return self.of(epoch).cloned();
        };
        match self.of(Some(epoch?)) {
            Some(key) => Some(area.key(key)),
            None => self.areas.get(&(area, epoch?)).cloned(),
        }
    }

    /// Those of an epoch, or of one area in it.
    #[cfg(test)]
    pub(crate) fn of_epoch(epoch: EpochId, key: &BoxKey, area: Option<AreaId>) -> Self {
        let mut keys = Self::default();
        match area {
            None => keys.add(epoch, None, key.clone()),
            Some(area) => {
                keys.add(epoch, Some(area), area.key(key));
                keys.scope = Scope::Areas {
                    areas: BTreeMap::from([(area, "shared".to_owned())]),
                    is_over: false,
                };
            }
        }
        keys
    }

    fn add(&mut self, epoch: EpochId, area: Option<AreaId>, key: BoxKey) {
        match area {
            None => _ = self.epochs.insert(Some(epoch), key),
            Some(area) => _ = self.areas.insert((area, epoch), key),
        }
    }

    fn add_new(&mut self, epoch: EpochId, area: Option<AreaId>, key: BoxKey) {
        if self.within(Some(epoch), area).is_none() {
            self.add(epoch, area, key);
        }
    }
}

/// A person, and whom is wrapped for to reach them.
#[derive(Clone, Copy, Debug)]
pub struct Reader {
    /// The person.
    pub user: UserId,
    /// Their key.
    pub recipient: Recipient,
    /// Which of their keys that is: 0 for the first, the [tag](Recipient::tag) of a later one.
    pub tag: u32,
    /// The area that it is for, if it is not for all of a space.
    pub area: Option<AreaId>,
}

impl Reader {
    /// How a person is reached by those who have their keys.
    pub fn of(user: &UserKeys) -> Self {
        let recipient = user.recipient();
        Self {
            user: user.id(),
            recipient,
            tag: if user.is_replaced() { recipient.tag() } else { 0 },
            area: None,
        }
    }

    /// The tags of a person's keys that were replaced.
    pub fn former_tags(user: &UserKeys) -> BTreeSet<u32> {
        let mut tags: Vec<u32> = user.recipients().map(|recipient| recipient.tag()).collect();
        tags.pop();
        if let Some(first) = tags.first_mut() {
            *first = 0;
        }
        tags.into_iter().collect()
    }
}

/// Whom a grant is for, and what it lets them do.
#[derive(Clone, Debug)]
pub struct GrantTo {
    /// The person.
    pub reader: Reader,
    /// Whether their devices may write.
    pub may_write: bool,
    /// When it ends, if it does.
    pub until: Option<Timestamp>,
    /// How many bytes may be there of what they have put, if that is bounded.
    pub quota: Option<u64>,
    /// Whether they may let others in.
    pub may_share: bool,
    /// The grant that it is given under; none when the owner gives it.
    pub under: Option<GrantId>,
    /// See [`Grant::since`].
    pub since: Option<u32>,
    /// What the owner calls the space; where it is for an area, with `/` and the name of that behind.
    pub called: String,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Charter {
    space: SpaceId,
    speakers: Speakers,
    owner: Option<UserId>,
    /// Under which key of the owner's it was said last what counts of those before, and that.
    kept: Option<(u32, BTreeSet<Hash>)>,
    /// How far the logs of lost machines count, and under which key of the owner's that was said.
    stopped: BTreeMap<NodeId, (u32, u64)>,
    epochs: BTreeMap<EpochId, Epoch>,
    grants: BTreeMap<GrantId, Grant>,
    /// Those of them that others than the owner have signed, by what they are given under.
    passed_on: BTreeMap<GrantId, BTreeSet<GrantId>>,
    /// Grants that were ended, and how far what each device wrote under them counts.
    revoked: BTreeMap<GrantId, BTreeMap<NodeId, u64>>,
    /// Whom the owner has taken out, and not only whoever let them in: they do not come in again under a grant of somebody else's.
    barred: BTreeSet<(UserId, Option<AreaId>)>,
    records: BTreeMap<Hash, CharterRecord>,
    /// Of all records.
    bytes: usize,
}

impl Charter {
    /// The charter of a space of which nothing is known yet.
    pub fn of(space: SpaceId, speakers: &Speakers) -> Self {
        Self {
            space,
            speakers: speakers.clone(),
            owner: None,
            kept: None,
            stopped: BTreeMap::new(),
            epochs: BTreeMap::new(),
            grants: BTreeMap::new(),
            passed_on: BTreeMap::new(),
            revoked: BTreeMap::new(),
            barred: BTreeSet::new(),
            records: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// The charter of a person's private space of which nothing is known yet.
    pub fn private(owner: UserId, speakers: &Speakers) -> Self {
        Self {
            owner: Some(owner),
            ..Self::of(private_space_id(owner), speakers)
        }
    }

    /// Founds a space of this person, with its first epoch.
    pub fn found(
        user: &UserKeys,
        speakers: &Speakers,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<Self, CharterError> {
        let founding = Founding {
            version: VERSION,
            created: now,
            nonce: entropy.bytes(),
        };
        let signed = Signed::sign(user.signing(), &founding)?;
        let mut charter = Self::of(SpaceId::from_bytes(*signed.hash().as_bytes()), speakers);
        charter.join(&CharterRecord::Founding(signed))?;
        let first = charter.next_epoch(user.signing(), &[Reader::of(user)], &Keys::default(), entropy)?;
        charter.join(&first)?;
        Ok(charter)
    }

    /// A new epoch after all that there are, for these people. It is not part of the charter yet.
    pub fn next_epoch(
        &self,
        user: &SigningKey,
        readers: &[Reader],
        keys: &Keys,
        entropy: &dyn Entropy,
    ) -> Result<CharterRecord, CharterError> {
        let key = BoxKey::generate(entropy);
        let wrap = |reader: &Reader| {
            let user = reader.user;
            let key = reader.area.map_or_else(|| key.clone(), |area| area.key(&key));
            let wrapped = reader.recipient.wrap(self.purpose(WRAP), key.as_bytes(), entropy);
            let key = wrapped.map_err(|_| CharterError::Recipient { user: user.short() })?;
            Ok::<_, CharterError>(Wrap {
                user,
                tag: reader.tag,
                area: reader.area,
                key: key.into(),
            })
        };
        let latest = self.latest();
        let before = latest.iter().filter_map(|epoch| Some((*epoch, keys.of(Some(*epoch))?)));
        let room = limits::SPACE_READERS_MAX.saturating_sub(readers.len());
        let areas = self.unlinked().into_iter().take(room).filter_map(|(area, epoch)| {
            let (old, new) = (keys.within(Some(epoch), Some(area))?, area.key(&key));
            Some(AreaBefore {
                area,
                epoch,
                key: new.seal(self.purpose(BEFORE), old.as_bytes(), entropy).into(),
            })
        });
        let areas: Vec<_> = areas.collect();
        let epoch = Epoch {
            version: version_of(!areas.is_empty() || readers.iter().any(|reader| reader.area.is_some())),
            space: self.space,
            depth: latest
                .iter()
                .map(|epoch| self.epochs[epoch].depth + 1)
                .max()
                .unwrap_or(0),
            wraps: readers.iter().map(wrap).collect::<Result<_, _>>()?,
            before: before
                .map(|(epoch, old)| Before {
                    epoch,
                    key: key.seal(self.purpose(BEFORE), old.as_bytes(), entropy).into(),
                })
                .collect(),
            areas,
        };
        Ok(CharterRecord::Epoch(Signed::sign(user, &epoch)?))
    }

    /// Checks a record against those before it, and takes it.
    pub fn join(&mut self, record: &CharterRecord) -> Result<Joined, CharterError> {
        let hash = record.hash();
        if self.records.contains_key(&hash) {
            return Ok(Joined::Known);
        }
        if let CharterRecord::Grant(signed) = record
            && let Some(under) = self.passed_on_under(signed)
        {
            return self.join_under(under, signed);
        }
        let bytes = record.bytes();
        // Who had a key that was replaced has not used up the room of those that came later.
        let generation = self.speakers.whose(record.claimed_signer()).generation;
        let reserve = RESERVE_BYTES.checked_shr(generation).unwrap_or(0);
        if self.bytes + bytes + reserve > limits::CHARTER_BYTES_MAX {
            return Err(CharterError::TooMuch);
        }
        match record {
            CharterRecord::Founding(signed) => {
                let verified = signed.open()?;
                if verified.value().version != VERSION || signed.hash().as_bytes() != self.space.as_bytes() {
                    return Err(CharterError::Foreign);
                }
                self.owner = Some(self.speakers.whose(verified.signer()).user);
            }
            CharterRecord::Epoch(signed) => {
                let verified = signed.open()?;
                let (signer, epoch) = (verified.signer(), verified.into_value());
                let is_about_areas = !epoch.areas.is_empty() || epoch.wraps.iter().any(|wrap| wrap.area.is_some());
                self.check_version(epoch.version, is_about_areas)?;
                self.check(hash, signer, VERSION, epoch.space)?;
                let depths = epoch
                    .before
                    .iter()
                    .map(|before| self.epochs.get(&before.epoch).map(|known| known.depth + 1));
                let depth = depths
                    .collect::<Option<Vec<_>>>()
                    .ok_or(CharterError::Early)?
                    .into_iter()
                    .max();
                if depth.unwrap_or(0) != epoch.depth {
                    return Err(CharterError::Foreign);
                }
                self.epochs.insert(signed.hash(), epoch);
            }
            CharterRecord::Grant(signed) => {
                let verified = signed.open()?;
                let (signer, grant) = (verified.signer(), verified.into_value());
                self.check_version(grant.version, grant.area.is_some())?;
                self.check(hash, signer, VERSION, grant.space)?;
                self.check_grant(&grant)?;
                self.note(signed.hash(), grant);
            }
            CharterRecord::Revocation(signed) => {
                let verified = signed.open()?;
                let (signer, revocation) = (verified.signer(), verified.into_value());
                self.check_version(revocation.version, revocation.area.is_some())?;
                self.check(hash, signer, VERSION, revocation.space)?;
                let barred = revocation
                    .grants
                    .iter()
                    .filter_map(|id| self.barred_by(id, &revocation));
                self.barred.extend(barred.collect::<Vec<_>>());
                let ends: BTreeMap<_, _> = revocation.ends.into_iter().collect();
                for grant in revocation.grants {
                    // Of several that end a grant, each decides what does not count.
                    let counts = self.revoked.entry(grant).or_insert_with(|| ends.clone());
                    counts.retain(|device, seq| {
                        *seq = (*seq).min(ends.get(device).copied().unwrap_or(0));
                        *seq > 0
                    });
                }
            }
            CharterRecord::Succession(signed) => {
                let verified = signed.open()?;
                let (signer, succession) = (verified.signer(), verified.into_value());
                let Speaker { generation, .. } = self.check(hash, signer, succession.version, succession.space)?;
                if generation == 0 {
                    return Err(CharterError::Foreign);
                }
                match &mut self.kept {
                    Some((known, _)) if generation < *known => {}
                    Some((known, kept)) if generation == *known => kept.extend(succession.records),
                    _ => {
                        self.kept = Some((generation, succession.records.into_iter().collect()));
                        self.drop_replaced();
                    }
                }
            }
            CharterRecord::Stop(signed) => {
                let verified = signed.open()?;
                let (signer, stop) = (verified.signer(), verified.into_value());
                let Speaker { generation, .. } = self.check(hash, signer, stop.version, stop.space)?;
                // Of several by one key the greatest counts: each machine of the owner's says how much it knows.
                for (device, seq) in stop.ends {
                    let end = self.stopped.entry(device).or_insert((generation, seq));
                    *end = (generation, seq).max(*end);
                }
            }
        }
        self.records.insert(hash, record.clone());
        self.bytes += bytes;
        Ok(Joined::New)
    }

    /// Whether what a grant rests on is there, and lets it be.
    fn check_grant(&self, grant: &Grant) -> Result<(), CharterError> {
        let over = grant
            .under
            .map(|under| self.grants.get(&under).ok_or(CharterError::Early));
        if !self.epochs.contains_key(&grant.epoch) {
            return Err(CharterError::Early);
        }
        match over.transpose()? {
            // It would have a key in it, which somebody else has chosen.
            Some(over) if self.owner == Some(grant.user) || over.user == grant.user => Err(CharterError::Wider),
            Some(over) if !grant.is_within(over) => Err(CharterError::Wider),
            _ => Ok(()),
        }
    }

    /// A grant is part of the charter. It may have been ended already.
    fn note(&mut self, id: GrantId, grant: Grant) {
        self.grants.insert(id, grant);
        if self.revoked.contains_key(&id) {
            let revocations = self.records.values().filter_map(|record| match record {
                CharterRecord::Revocation(signed) => signed.claimed().ok(),
                _ => None,
            });
            let naming = revocations.filter(|revocation| revocation.grants.contains(&id));
            let barred = naming.filter_map(|revocation| self.barred_by(&id, &revocation));
            let barred: Vec<_> = barred.collect();
            self.barred.extend(barred);
        }
    }

    /// Whom it bars that a grant is ended with these. What others have signed tells nobody that, since not all know the same of it.
    fn barred_by(&self, id: &GrantId, revocation: &Revocation) -> Option<(UserId, Option<AreaId>)> {
        let grant = self.grants.get(id).filter(|_| self.is_owners(id))?;
        let is_with_giver = grant.under.is_some_and(|under| revocation.grants.contains(&under));
        (!is_with_giver).then_some((grant.user, revocation.area))
    }

    fn check_version(&self, version: u8, is_about_areas: bool) -> Result<(), CharterError> {
        match version == version_of(is_about_areas) {
            true => Ok(()),
            false => Err(CharterError::Foreign),
        }
    }

    /// Whether the owner has signed a grant.
    fn is_owners(&self, id: &GrantId) -> bool {
        let under = self.grants.get(id).and_then(|grant| grant.under);
        let passed_on = under.and_then(|under| self.passed_on.get(&under));
        !passed_on.is_some_and(|passed_on| passed_on.contains(id))
    }

    /// What a grant is given under, if it is said to be signed by another than the owner.
    fn passed_on_under(&self, signed: &Signed<Grant>) -> Option<GrantId> {
        let signer = self.speakers.whose(signed.claimed_signer()).user;
        let is_owner = self.owner.is_none_or(|owner| owner == signer);
        signed.claimed().ok().filter(|_| !is_owner)?.under
    }

    /// Takes a grant that somebody gives under theirs. It takes the room that was kept for it.
    fn join_under(&mut self, under: GrantId, signed: &Signed<Grant>) -> Result<Joined, CharterError> {
        let verified = signed.open()?;
        let (signer, grant, id) = (verified.signer(), verified.into_value(), signed.hash());
        self.check_version(grant.version, grant.area.is_some())?;
        if grant.space != self.space {
            return Err(CharterError::Foreign);
        }
        let speaker = self.speakers.whose(signer);
        let over = self.grants.get(&under).ok_or(CharterError::Early)?;
        if over.user != speaker.user {
            let user = speaker.user.short();
            return Err(CharterError::NotAllowed { user });
        }
        if speaker.generation < self.speakers.generation(speaker.user) {
            return Err(CharterError::Replaced);
        }
        self.check_grant(&grant)?;
        let passed_on = self.passed_on.entry(under).or_default();
        passed_on.insert(id);
        if passed_on.len() > GRANTS_UNDER_ONE_MAX
            && let Some(last) = passed_on.pop_last()
        {
            if last == id {
                return Err(CharterError::TooMuch);
            }
            self.grants.remove(&last);
            self.records
                .retain(|_, record| !matches!(record, CharterRecord::Grant(signed) if signed.hash() == last));
        }
        self.note(id, grant);
        let record = CharterRecord::Grant(signed.clone());
        self.records.insert(record.hash(), record);
        Ok(Joined::New)
    }

    /// Whether a record is of this space, by who may say so.
    fn check(&self, hash: Hash, signer: PublicKey, version: u8, space: SpaceId) -> Result<Speaker, CharterError> {
        if version != VERSION || space != self.space {
            return Err(CharterError::Foreign);
        }
        let speaker = self.speakers.whose(signer);
        match self.owner {
            None => Err(CharterError::NotFounded),
            Some(owner) if owner != speaker.user => Err(CharterError::NotAllowed {
                user: speaker.user.short(),
            }),
            Some(_) if self.is_replaced(hash, speaker.generation) => Err(CharterError::Replaced),
            Some(_) => Ok(speaker),
        }
    }

    /// Whether a record with this hash does not count any more, as it was signed with a key of this generation.
    fn is_replaced(&self, hash: Hash, generation: u32) -> bool {
        let kept = self.kept.as_ref();
        kept.is_some_and(|(known, kept)| generation < *known && !kept.contains(&hash))
    }

    /// Takes what counts of several records, in whatever order they are: some name others, some rest on others, and what is here may be named by one of them.
    pub fn join_all<'r>(&mut self, records: impl IntoIterator<Item = &'r CharterRecord>) {
        let mut records = records.into_iter().peekable();
        if records.peek().is_none() {
            return;
        }
        let before = self.clone();
        let mut left: Vec<&CharterRecord> = before.records.values().collect();
        for record in records {
            left.push(record);
        }
        left.sort_by_cached_key(|record| before.rank(record));
        let mut count = usize::MAX;
        while left.len() < count {
            count = left.len();
            // These may count when others are here.
            left.retain(|record| {
                matches!(
                    self.join(record),
                    Err(CharterError::NotFounded | CharterError::Early | CharterError::Replaced)
                )
            });
        }
    }

    /// Leaves out what does not count any more, and what rests on it.
    fn drop_replaced(&mut self) {
        let mut anew = match self.owner.filter(|_| self.is_private()) {
            Some(owner) => Self::private(owner, &self.speakers),
            None => Self::of(self.space, &self.speakers),
        };
        anew.kept = self.kept.take();
        for record in self.records() {
            let _ = anew.join(record);
        }
        *self = anew;
    }

    /// Who speaks with which key, as far as it is known here.
    pub fn speakers(&self) -> &Speakers {
        &self.speakers
    }

    /// Whether it is a person's private space, which nobody founded.
    pub fn is_private(&self) -> bool {
        self.owner.is_some_and(|owner| private_space_id(owner) == self.space)
    }

    /// Says, where it is not said yet, that all counts that is here and was signed with the owner's keys before the one in use.
    pub fn succeed(&mut self, owner: &UserKeys, now: Timestamp) -> Result<(), CharterError> {
        let successions = self.next_successions(owner, now)?;
        if successions.is_empty() {
            return Ok(());
        }
        let mut said = self.clone();
        said.join_all(&successions);
        let mut all = self.records.values().chain(&successions);
        if !all.all(|record| said.records.contains_key(&record.hash())) {
            return Err(CharterError::TooMuch);
        }
        *self = said;
        Ok(())
    }

    fn next_successions(&self, owner: &UserKeys, now: Timestamp) -> Result<Vec<CharterRecord>, CharterError> {
        let generation = self.speakers.whose(owner.signing().public()).generation;
        let is_said = self.kept.as_ref().filter(|(known, _)| *known == generation);
        let before = |record: &&CharterRecord| {
            let is_founding = matches!(record, CharterRecord::Founding(_));
            let speaker = self.speakers.whose(record.claimed_signer());
            !is_founding && speaker.user == owner.id() && speaker.generation < generation
        };
        let hashes: Vec<Hash> = self.records().filter(before).map(CharterRecord::hash).collect();
        if generation == 0 || is_said.is_some_and(|(_, kept)| hashes.iter().all(|hash| kept.contains(hash))) {
            return Ok(Vec::new());
        }
        // One that names nothing says that the key was replaced.
        let parts: Vec<&[Hash]> = match hashes.is_empty() {
            true => vec![&[]],
            false => hashes.chunks(NAMED_MAX).collect(),
        };
        let succession = |records: &[Hash]| {
            let succession = Succession {
                version: VERSION,
                space: self.space,
                at: now,
                records: records.to_vec(),
            };
            Ok(CharterRecord::Succession(Signed::sign(owner.signing(), &succession)?))
        };
        parts.into_iter().map(succession).collect()
    }

    /// How far the logs of machines count that were taken out of their person's hands. It is not part of the charter yet; none, when as much is said with this key of the owner's.
    pub fn next_stop(
        &self,
        owner: &SigningKey,
        ends: Vec<(NodeId, u64)>,
        now: Timestamp,
    ) -> Result<Option<CharterRecord>, CharterError> {
        let ends: Vec<_> = ends
            .into_iter()
            .filter(|(device, seq)| self.lacks_end(owner.public(), *device, *seq))
            .collect();
        if ends.is_empty() {
            return Ok(None);
        }
        let stop = Stop {
            version: VERSION,
            space: self.space,
            at: now,
            ends,
        };
        Ok(Some(CharterRecord::Stop(Signed::sign(owner, &stop)?)))
    }

    /// Whether it was not said with this key of the owner's that so much of a device's log counts.
    pub fn lacks_end(&self, key: PublicKey, device: NodeId, seq: u64) -> bool {
        let said = (self.speakers.whose(key).generation, seq);
        self.stopped.get(&device).is_none_or(|known| *known < said)
    }

    /// Whether it was said with this key of the owner's, or a later one, how far a device's log counts.
    pub fn ends(&self, key: PublicKey, device: NodeId) -> bool {
        !self.lacks_end(key, device, 0)
    }

    /// Whether it was said under this key of the owner's what counts of those before.
    pub fn follows(&self, key: PublicKey) -> bool {
        let generation = self.speakers.whose(key).generation;
        generation == 0 || self.kept.as_ref().is_some_and(|(known, _)| *known >= generation)
    }

    /// Whether this person is the owner, or has ever been let in.
    pub fn knows(&self, user: UserId) -> bool {
        self.owner == Some(user) || self.grants.values().any(|grant| grant.user == user)
    }

    /// A grant of the epoch that is in use. It is not part of the charter yet.
    pub fn next_grant(
        &self,
        owner: &SigningKey,
        to: &GrantTo,
        keys: &Keys,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<CharterRecord, CharterError> {
        let Reader {
            user,
            recipient,
            tag,
            area,
        } = to.reader;
        let is_other = |grant: &&Grant| (grant.user != user || grant.area != area) && grant.under.is_none();
        let others = self.grants(now).filter(is_other);
        let more = |may_share: bool| if may_share { READERS_WITH_ONE_MAX } else { 1 };
        let mut readers: usize = others.map(|grant| more(grant.may_share)).sum();
        let mut areas = self.areas_in_use();
        areas.extend(area);
        readers += READERS_PER_AREA * areas.len();
        if areas.len() > AREAS_MAX {
            return Err(CharterError::TooManyAreas);
        }
        if to.under.is_none() && readers + more(to.may_share) > limits::SPACE_READERS_MAX {
            return Err(CharterError::TooManyReaders);
        }
        let given = to.under.and_then(|under| self.passed_on.get(&under));
        if given.is_some_and(|given| given.len() >= GRANTS_UNDER_ONE_MAX) {
            return Err(CharterError::TooManyUnderOne);
        }
        let epoch = self.current().ok_or(CharterError::NotFounded)?;
        let key = keys.within(Some(epoch), area).ok_or(CharterError::NotAllowed {
            user: owner.user_id().short(),
        })?;
        let plain = Zeroizing::new([&key.as_bytes()[..], to.called.as_bytes()].concat());
        let wrapped = recipient.wrap(self.purpose(GRANT), &plain, entropy);
        let grant = Grant {
            version: version_of(area.is_some()),
            space: self.space,
            user,
            may_write: to.may_write,
            at: now,
            until: to.until,
            quota: to.quota,
            may_share: to.may_share,
            under: to.under,
            area,
            since: to.since,
            epoch,
            tag,
            wrapped: wrapped
                .map_err(|_| CharterError::Recipient { user: user.short() })?
                .into(),
        };
        Ok(CharterRecord::Grant(Signed::sign(owner, &grant)?))
    }

    /// The end of all grants that a person has, or of those for one area; and of those that they have given under them. It is not part of the charter yet; the next epoch is to follow.
    pub fn next_revocation(
        &self,
        owner: &SigningKey,
        (user, area): (UserId, Option<AreaId>),
        ends: Vec<(NodeId, u64)>,
        now: Timestamp,
    ) -> Result<CharterRecord, CharterError> {
        let revocation = Revocation {
            version: version_of(area.is_some()),
            space: self.space,
            at: now,
            grants: self.ending_with(user, area).map(|(id, _)| *id).collect(),
            ends,
            area,
        };
        Ok(CharterRecord::Revocation(Signed::sign(owner, &revocation)?))
    }

    /// Those of a person's grants that were not ended, or of those for one area, and what is given under them.
    fn ending_with(&self, user: UserId, area: Option<AreaId>) -> impl Iterator<Item = (&GrantId, &Grant)> {
        let is_theirs = move |grant: &Grant| grant.user == user && (area.is_none() || grant.area == area);
        let ends = move |(id, grant): &(&GrantId, &Grant)| {
            let over = grant.under.and_then(|under| self.grants.get(&under));
            !self.is_ended(id, grant) && (is_theirs(grant) || over.is_some_and(is_theirs))
        };
        self.grants.iter().filter(ends)
    }

    /// A person, and those whom they have let in.
    pub fn let_in_by(&self, user: UserId) -> BTreeSet<UserId> {
        let theirs = self.ending_with(user, None).map(|(_, grant)| grant.user);
        std::iter::once(user).chain(theirs).collect()
    }

    /// Who reads no more when a person is taken out, or out of one area: those whom nothing else lets in.
    pub fn leaving_with(&self, user: UserId, area: Option<AreaId>, now: Timestamp) -> BTreeSet<UserId> {
        let ending: BTreeSet<_> = self.ending_with(user, area).map(|(id, _)| id).collect();
        let staying = |(id, grant): &(&GrantId, &Grant)| self.holds(id, grant, now) && !ending.contains(id);
        let stay = self.grants.iter().filter(staying).map(|(_, grant)| grant.user);
        let stay: BTreeSet<_> = self.owner.into_iter().chain(stay).collect();
        self.readers(now).difference(&stay).copied().collect()
    }

    /// The owner's own copies of what others have given under their grants, and was not copied yet. They are not part of the charter yet.
    pub fn next_copies(&self, owner: &SigningKey, now: Timestamp) -> Result<Vec<CharterRecord>, CharterError> {
        let mut copies = Vec::new();
        for (under, lent) in &self.passed_on {
            let of_owner = self.grants.iter().filter(|(id, _)| !lent.contains(*id));
            let of_owner = of_owner.map(|(_, grant)| grant);
            let copied: Vec<_> = of_owner.filter(|grant| grant.under == Some(*under)).collect();
            let holding = lent.iter().filter_map(|id| Some((id, self.grants.get(id)?)));
            let holding = holding.filter(|(id, grant)| self.holds(id, grant, now) && !copied.contains(grant));
            let left = COPIES_UNDER_ONE_MAX.saturating_sub(copied.len());
            for (_, grant) in holding.take(left) {
                copies.push(CharterRecord::Grant(Signed::sign(owner, grant)?));
            }
        }
        Ok(copies)
    }

    /// What a person has given, as far as another grant of theirs goes, given under that by the owner. It is not part of the charter yet.
    pub fn next_carried(
        &self,
        owner: &SigningKey,
        under: &CharterRecord,
        now: Timestamp,
    ) -> Result<Vec<CharterRecord>, CharterError> {
        let CharterRecord::Grant(signed) = under else {
            return Ok(Vec::new());
        };
        let over = signed.claimed()?;
        let mut carried: Vec<Grant> = Vec::new();
        for grant in self.grants(now) {
            let before = grant.under.and_then(|before| self.grants.get(&before));
            let is_theirs = before.is_some_and(|before| before.user == over.user);
            let ends = [grant.until, over.until].into_iter().flatten().min();
            let grant = Grant {
                under: Some(signed.hash()),
                may_write: grant.may_write && over.may_write && over.quota.is_none(),
                until: ends,
                at: now,
                ..grant.clone()
            };
            if is_theirs && grant.is_within(&over) && !carried.contains(&grant) {
                carried.push(grant);
            }
        }
        carried.truncate(GRANTS_UNDER_ONE_MAX);
        let sign = |grant: &Grant| Ok(CharterRecord::Grant(Signed::sign(owner, grant)?));
        carried.iter().map(sign).collect()
    }

    /// The grant under which a person may let others in, if they may: into all of the space, or an area.
    pub fn shares(&self, user: UserId, area: Option<AreaId>, now: Timestamp) -> Option<(GrantId, &Grant)> {
        let holding = self.grants.iter().filter(|(id, grant)| self.holds(id, grant, now));
        let has_it = |grant: &Grant| grant.area.is_none() || grant.area == area;
        let theirs = holding.filter(|(_, grant)| grant.user == user && grant.may_share && has_it(grant));
        let widest = theirs.max_by_key(|(_, grant)| (grant.area.is_none(), grant.at));
        widest.map(|(id, grant)| (*id, grant))
    }

    /// The names that areas have for a person: each that under which they were let into it first, with a number behind where another had that before. So none changes, whatever comes or ends.
    fn names_of_areas(&self, user: &UserKeys) -> BTreeMap<AreaId, String> {
        let theirs = self.grants.iter().filter(|(_, grant)| grant.user == user.id());
        let mut theirs: Vec<_> = theirs.collect();
        theirs.sort_by_key(|(id, grant)| (grant.at, **id));
        let (mut names, mut taken) = (BTreeMap::new(), BTreeSet::new());
        for (_, grant) in theirs {
            let Some(area) = grant.area.filter(|area| !names.contains_key(area)) else {
                continue;
            };
            let called = self.told(user, grant);
            let called = called.and_then(|called| Some(called.split_once('/')?.1.to_owned()));
            let called = called.unwrap_or_else(|| format!("{area:?}"));
            let numbered = |count: u32| match count {
                1 => called.clone(),
                count => format!("{called} {count}"),
            };
            let name = (1..).map(numbered).find(|name| taken.insert(name.clone()));
            names.insert(area, name.expect("there are more names than areas"));
        }
        names
    }

    /// The directories that were ever shared alone.
    pub fn areas(&self) -> BTreeSet<AreaId> {
        self.grants.values().filter_map(|grant| grant.area).collect()
    }

    /// Whether no directory more can be shared alone.
    pub fn is_full_of_areas(&self) -> bool {
        self.areas_in_use().len() >= AREAS_MAX
    }

    /// Those of them that somebody is let into.
    fn areas_in_use(&self) -> BTreeSet<AreaId> {
        let given = self.grants.iter().filter(|(id, grant)| !self.is_ended(id, grant));
        given.filter_map(|(_, grant)| grant.area).collect()
    }

    /// What of the space a person is to read: all of it, where a grant for that holds, and where none does that is for less. The same on all of their machines.
    pub fn scope(&self, user: &UserKeys, now: Timestamp) -> Scope {
        let id = user.id();
        let theirs = |(_, grant): &(&GrantId, &Grant)| grant.user == id;
        let holding = |(id, grant): &(&GrantId, &Grant)| self.holds(id, grant, now);
        let all: Vec<_> = self.grants.iter().filter(theirs).collect();
        // Who was taken out sees what they saw last.
        let mut seen: Vec<_> = all
            .iter()
            .filter(|grant| holding(grant))
            .map(|(_, grant)| *grant)
            .collect();
        let is_over = seen.is_empty();
        if is_over {
            let last = all.iter().map(|(_, grant)| *grant).max_by_key(|grant| grant.at);
            let is_all = last.is_none_or(|last| last.area.is_none());
            seen.extend(
                all.iter()
                    .map(|(_, grant)| *grant)
                    .filter(|grant| is_all == grant.area.is_none()),
            );
        }
        if self.owner == Some(id) || seen.is_empty() || seen.iter().any(|grant| grant.area.is_none()) {
            return Scope::All;
        }
        let names = self.names_of_areas(user);
        let named = |grant: &&Grant| Some((grant.area?, names.get(&grant.area?)?.clone()));
        let areas = seen.iter().filter_map(named).collect();
        Scope::Areas { areas, is_over }
    }

    /// Who has let in whom a grant is for; the owner, where it is given under none.
    pub fn given_by(&self, grant: &Grant) -> Option<UserId> {
        match grant.under {
            Some(under) => self.grants.get(&under).map(|over| over.user),
            None => self.owner,
        }
    }

    /// The grants that hold at this time.
    pub fn grants(&self, now: Timestamp) -> impl Iterator<Item = &Grant> {
        let holding = self.grants.iter().filter(move |(id, grant)| self.holds(id, grant, now));
        holding.map(|(_, grant)| grant)
    }

    fn holds(&self, id: &GrantId, grant: &Grant, now: Timestamp) -> bool {
        !self.is_ended(id, grant) && grant.until.is_none_or(|until| now <= until)
    }

    /// Whether a grant was ended, or the one that it is given under, or whom it is for was taken out by the owner.
    fn is_ended(&self, id: &GrantId, grant: &Grant) -> bool {
        let is_revoked = |id: &GrantId| self.revoked.contains_key(id);
        let is_over = |under: GrantId| is_revoked(&under) || self.is_barred(grant.user, grant.area);
        is_revoked(id) || grant.under.is_some_and(is_over)
    }

    /// Whether the owner has ended what a person had, of all of the space or of an area, so that nobody else lets them in there.
    pub fn is_barred(&self, user: UserId, area: Option<AreaId>) -> bool {
        self.barred.contains(&(user, None)) || (area.is_some() && self.barred.contains(&(user, area)))
    }

    /// Whether a person has the key that is in use.
    pub fn has_key(&self, user: UserId) -> bool {
        let current = self.current();
        current.is_some_and(|current| self.have(current).iter().any(|(known, ..)| *known == user))
    }

    /// When the next of the grants that hold ends by the time, if any does.
    pub fn next_end(&self, now: Timestamp) -> Option<Timestamp> {
        self.grants(now).filter_map(|grant| grant.until).min()
    }

    /// How far counts what a device wrote under a grant; none where that was not ended. Of what ended with another, and was not named then, nothing does.
    fn end(&self, id: &GrantId, grant: &Grant, device: NodeId) -> Option<u64> {
        match self.revoked.get(id) {
            Some(ends) => Some(ends.get(&device).copied().unwrap_or(0)),
            None => self.is_ended(id, grant).then_some(0),
        }
    }

    /// What the owner calls the space, as they said to one who was let in.
    pub fn called(&self, user: &UserKeys) -> Option<String> {
        let grants = self.grants.values().filter(|grant| grant.user == user.id());
        let named = grants.filter_map(|grant| Some((grant.under.is_none(), grant.at, self.told(user, grant)?)));
        let (_, _, called) = named.max()?;
        Some(called.split('/').next()?.to_owned())
    }

    /// What whoever gave a grant calls what it is for.
    fn told(&self, user: &UserKeys, grant: &Grant) -> Option<String> {
        let plain = user.opening().unwrap(self.purpose(GRANT), &grant.wrapped).ok()?;
        String::from_utf8(plain.get(32..)?.to_vec()).ok()
    }

    /// Whose the space is; none while its founding is not known.
    pub fn owner(&self) -> Option<UserId> {
        self.owner
    }

    /// The record that begins the space, if it is not a private one.
    pub fn founding(&self) -> Option<&Signed<Founding>> {
        self.records.values().find_map(|record| match record {
            CharterRecord::Founding(signed) => Some(signed),
            _ => None,
        })
    }

    /// When it was founded, by its founder's clock.
    pub fn created(&self) -> Option<Timestamp> {
        let founding = self.founding()?.open().ok()?;
        Some(founding.value().created)
    }

    /// Who may read what is written now.
    pub fn readers(&self, now: Timestamp) -> BTreeSet<UserId> {
        self.owner
            .into_iter()
            .chain(self.grants(now).map(|grant| grant.user))
            .collect()
    }

    /// Who may write now.
    pub fn writers(&self, now: Timestamp) -> BTreeSet<UserId> {
        let granted = self.grants(now).filter(|grant| grant.may_write);
        self.owner.into_iter().chain(granted.map(|grant| grant.user)).collect()
    }

    /// Who may read all of the space now.
    pub fn whole_readers(&self, now: Timestamp) -> BTreeSet<UserId> {
        let whole = self.grants(now).filter(|grant| grant.area.is_none());
        self.owner.into_iter().chain(whole.map(|grant| grant.user)).collect()
    }

    /// The areas that a person may write to now; nothing when they may write everywhere.
    pub fn written_areas(&self, user: UserId, now: Timestamp) -> Option<BTreeSet<AreaId>> {
        let granted = || self.grants(now).filter(|grant| grant.user == user && grant.may_write);
        let is_everywhere = self.owner == Some(user) || granted().any(|grant| grant.area.is_none());
        (!is_everywhere).then(|| granted().filter_map(|grant| grant.area).collect())
    }

    /// Whether somebody has the key that is in use who may not read, or one of those who may and are `reached` has it not, or under a key of theirs that was replaced: each is reached with the
    /// [tags](Reader::tag) of those. Its owner is to begin another epoch then. The same where an epoch was begun apart for others, and no other opens it, and the owner's `keys` do.
    pub fn needs_epoch(&self, reached: &BTreeMap<UserId, BTreeSet<u32>>, keys: &Keys, now: Timestamp) -> bool {
        let may: BTreeSet<_> = self.owner.into_iter().map(|owner| (owner, None)).collect();
        let with = |grants: Vec<&Grant>| {
            let granted = grants.into_iter().map(|grant| (grant.user, grant.area));
            may.iter().copied().chain(granted).collect::<BTreeSet<_>>()
        };
        // Else others could have one epoch begun after the other.
        let by_owner = self
            .grants
            .iter()
            .filter(|(id, grant)| self.is_owners(id) && self.holds(id, grant, now));
        let let_in = with(by_owner.map(|(_, grant)| grant).collect());
        let readers = with(self.grants(now).collect());
        let is_replaced = |user: &UserId, tag: &u32| reached.get(user).is_some_and(|former| former.contains(tag));
        let Some(current) = self.current() else {
            // The first key of a private space follows from its person's first.
            return self.is_private() && readers.iter().any(|(user, _)| is_replaced(user, &0));
        };
        let is_wrong = |id: EpochId| {
            let have = self.have(id);
            let lacks = |(user, area): &(UserId, Option<AreaId>)| {
                let has_it =
                    |(known, _, of): &(UserId, u32, Option<AreaId>)| known == user && (of == area || of.is_none());
                reached.contains_key(user) && !have.iter().any(has_it)
            };
            let may_not = |(user, tag, area): &(UserId, u32, Option<AreaId>)| {
                let may = [None, *area].iter().any(|area| readers.contains(&(*user, *area)));
                !may || is_replaced(user, tag)
            };
            have.iter().any(may_not) || let_in.iter().any(lacks)
        };
        let latest = self.latest();
        // Of an area that was made before anybody was let into it, the keys of its first epochs are to be had.
        let lacks_keys = |(area, epoch): &(AreaId, EpochId)| {
            !latest.contains(epoch) && keys.within(Some(*epoch), Some(*area)).is_some()
        };
        let apart = |id: &&EpochId| **id != current && keys.of(Some(**id)).is_some();
        let is_wrong = latest.iter().filter(apart).chain([&current]).any(|id| is_wrong(*id));
        let in_use = self.areas_in_use();
        let mut unlinked = self.unlinked().into_iter().filter(|(area, _)| in_use.contains(area));
        is_wrong || unlinked.any(|unlinked| lacks_keys(&unlinked))
    }

    /// Who was given the key of an epoch, or of an area in it, each with the tag of their key, as far as the owner has said so.
    fn have(&self, id: EpochId) -> BTreeSet<(UserId, u32, Option<AreaId>)> {
        let granted = self
            .grants
            .iter()
            .filter(|(given, grant)| grant.epoch == id && self.is_owners(given));
        let granted = granted.map(|(_, grant)| (grant.user, grant.tag, grant.area));
        let wrapped = self.epochs.get(&id).into_iter().flat_map(|epoch| &epoch.wraps);
        let wrapped = wrapped.map(|wrap| (wrap.user, wrap.tag, wrap.area));
        wrapped.chain(granted).collect()
    }

    /// Areas with the epochs whose keys to them nobody has who is given those of the next: those that somebody is let into first, and the latest of them; of others, who may be let in again, too.
    fn unlinked(&self) -> Vec<(AreaId, EpochId)> {
        let (latest, areas, in_use) = (self.latest(), self.areas(), self.areas_in_use());
        let mut unlinked = Vec::new();
        for area in &areas {
            let granted = self.grants.values().filter(|grant| grant.area == Some(*area));
            let depth = |grant: &Grant| grant.since.or_else(|| Some(self.epochs.get(&grant.epoch)?.depth));
            let since = granted.filter_map(depth).min().unwrap_or(0);
            let (mut left, mut linked) = (latest.clone(), BTreeSet::new());
            while let Some(epoch) = left.pop() {
                let before = self.epochs.get(&epoch).into_iter().flat_map(|epoch| &epoch.areas);
                let before = before.filter(|before| before.area == *area).map(|before| before.epoch);
                left.extend(before.filter(|epoch| linked.insert(*epoch)));
            }
            let is_unlinked = |(id, epoch): &(&EpochId, &Epoch)| epoch.depth >= since && !linked.contains(id);
            let ids = self.epochs.iter().filter(is_unlinked);
            let is_in_use = in_use.contains(area);
            unlinked.extend(ids.map(|(id, epoch)| (is_in_use, epoch.depth, *area, *id)));
        }
        unlinked.sort_unstable();
        let latest = unlinked.into_iter().rev();
        latest.map(|(_, _, area, epoch)| (area, epoch)).collect()
    }

    /// How far the log of a device counts if it was taken out of its person's hands, as far as its owner has said; of one that was not, all counts that its person may write.
    pub fn end_of(&self, device: NodeId) -> Option<u64> {
        self.stopped.get(&device).map(|(_, seq)| *seq)
    }

    /// Whether an entry counts that a person's device has written, if the device is in their hands.
    pub fn may_write(&self, user: UserId, device: NodeId, seq: u64, clock: Timestamp, area: Option<AreaId>) -> bool {
        let counts = |(id, grant): (&GrantId, &Grant)| {
            grant.user == user
                && grant.may_write
                && (grant.area.is_none() || grant.area == area)
                && grant.until.is_none_or(|until| clock <= until)
                && self.end(id, grant, device).is_none_or(|end| seq <= end)
        };
        self.owner == Some(user) || self.grants.iter().any(counts)
    }

    /// How many bytes may be there of what a person has put, if that is bounded: of several grants the widest counts.
    pub fn quota(&self, user: UserId, now: Timestamp) -> Option<u64> {
        let granted = || self.grants(now).filter(|grant| grant.user == user && grant.may_write);
        let is_free = self.owner == Some(user) || granted().any(|grant| grant.quota.is_none());
        granted().filter_map(|grant| grant.quota).max().filter(|_| !is_free)
    }

    /// The last entry of a person's device that counts, as far as revocations say.
    pub fn last_counting(&self, user: UserId, device: NodeId) -> u64 {
        if self.owner == Some(user) {
            return u64::MAX;
        }
        let granted = self
            .grants
            .iter()
            .filter(|(_, grant)| grant.user == user && grant.may_write);
        let lasts = granted.map(|(id, grant)| self.end(id, grant, device).unwrap_or(u64::MAX));
        lasts.max().unwrap_or(0)
    }

    /// From which entry on of a person's device each has to be looked at for whether it counts: of several grants one may have ended, and others go on. None where the last that counts
    /// tells all.
    pub fn doubtful_from(&self, user: UserId, device: NodeId) -> Option<u64> {
        let granted = || {
            self.grants
                .iter()
                .filter(|(_, grant)| grant.user == user && grant.may_write)
        };
        if self.owner == Some(user) || granted().all(|(_, grant)| grant.area.is_none()) {
            return None;
        }
        let ends = granted().filter_map(|(id, grant)| match grant.until {
            // That is told by the clock of each.
            Some(_) => Some(0),
            None => self.end(id, grant, device),
        });
        ends.min().map(|end| end.saturating_add(1))
    }

    /// The records, those first that others rest on.
    pub fn records(&self) -> impl Iterator<Item = &CharterRecord> {
        let mut records: Vec<_> = self.records.values().collect();
        records.sort_by_cached_key(|record| self.rank(record));
        records.into_iter()
    }

    /// Those with a lower rank come before what rests on them: of successions those by the latest key, which say of the others whether they count.
    fn rank(&self, record: &CharterRecord) -> (u8, u32) {
        match record {
            CharterRecord::Founding(_) => (0, 0),
            CharterRecord::Succession(signed) => {
                let generation = self.speakers.whose(signed.claimed_signer()).generation;
                (1, u32::MAX - generation)
            }
            CharterRecord::Epoch(signed) => {
                let known = self.epochs.get(&signed.hash()).map(|epoch| epoch.depth);
                let depth = known.or_else(|| Some(signed.claimed().ok()?.depth));
                (2, depth.unwrap_or(0))
            }
            // One that is given under another comes after it.
            CharterRecord::Grant(signed) => {
                let is_under = signed.claimed().is_ok_and(|grant| grant.under.is_some());
                (3, u32::from(is_under))
            }
            CharterRecord::Revocation(_) | CharterRecord::Stop(_) => (4, 0),
        }
    }

    /// What two that know the same records have in common; nothing when there is none.
    pub fn digest(&self) -> Option<Hash> {
        let hashes: Vec<u8> = self.records.keys().flat_map(|hash| *hash.as_bytes()).collect();
        (!hashes.is_empty()).then(|| Hash::of(&hashes))
    }

    /// The epoch that entries are sealed under: the last one, and of several the one with the greatest id.
    pub fn current(&self) -> Option<EpochId> {
        let last = self.epochs.iter().max_by_key(|(id, epoch)| (epoch.depth, **id));
        last.map(|(id, _)| *id)
    }

    /// How many epochs an epoch comes after, in the longest row.
    pub fn depth(&self, epoch: EpochId) -> Option<u32> {
        Some(self.epochs.get(&epoch)?.depth)
    }

    /// The epoch that all others come after: what the space recognises its content by follows from its key.
    pub fn first(&self) -> Option<EpochId> {
        let first = self.epochs.iter().min_by_key(|(id, epoch)| (epoch.depth, **id));
        first.map(|(id, _)| *id)
    }

    /// What a person's machines know each other's content by follows from this: the key of the first epoch, or where that is not theirs, the first of some area.
    pub fn first_key(&self, keys: &Keys) -> Option<BoxKey> {
        if let Some(first) = keys.of(self.first()) {
            return Some(first.clone());
        }
        let (area, _) = keys.areas.keys().next()?;
        let mut epochs: Vec<_> = self.epochs.iter().collect();
        epochs.sort_by_key(|(id, epoch)| (epoch.depth, **id));
        epochs
            .into_iter()
            .find_map(|(id, _)| keys.within(Some(*id), Some(*area)))
    }

    /// The keys that a person has: of the epochs that were wrapped for them, and of those before; and what their private space had before all epochs.
    pub fn keys(&self, user: &UserKeys, now: Timestamp) -> Keys {
        let mut keys = match self.is_private() && self.owner == Some(user.id()) {
            true => Keys::private(user.private_space_key()),
            false => Keys::default(),
        };
        keys.scope = self.scope(user, now);
        let (user, key) = (user.id(), user.opening());
        let given = self.grants.values().filter(|grant| grant.user == user);
        let (by_others, by_owner): (Vec<_>, Vec<_>) = given.partition(|grant| grant.under.is_some());
        let opened = |grant: &Grant| {
            let plain = key.unwrap(self.purpose(GRANT), &grant.wrapped).ok()?;
            Some(BoxKey::from_bytes(*plain.first_chunk::<32>()?))
        };
        for grant in by_owner {
            if let Some(own) = opened(grant) {
                keys.add(grant.epoch, grant.area, own);
            }
        }
        self.open_epochs(&mut keys, user, &key);
        // Whatever others have put into what they give takes the place of no key that is known.
        for grant in by_others {
            if keys.within(Some(grant.epoch), grant.area).is_none()
                && let Some(own) = opened(grant)
                && self.opens_before(grant.epoch, grant.area, &own)
            {
                keys.add(grant.epoch, grant.area, own);
                self.open_epochs(&mut keys, user, &key);
            }
        }
        keys
    }

    /// Whether a key may be that of an epoch, or of an area in it: it opens those before.
    fn opens_before(&self, epoch: EpochId, area: Option<AreaId>, key: &BoxKey) -> bool {
        let before = self.before(epoch, area);
        let mut opened = before.map(|(_, sealed)| key.open(self.purpose(BEFORE), sealed));
        opened.all(|opened| opened.is_ok())
    }

    /// The epochs that one opens, or of an area the keys before; each with its sealed key.
    fn before(&self, epoch: EpochId, area: Option<AreaId>) -> impl Iterator<Item = (EpochId, &[u8])> {
        let epoch = self.epochs.get(&epoch).into_iter();
        let whole = epoch.clone().flat_map(|epoch| &epoch.before);
        let whole = whole
            .filter(move |_| area.is_none())
            .map(|before| (before.epoch, &before.key[..]));
        let areas = epoch.flat_map(|epoch| &epoch.areas);
        let areas = areas.filter(move |before| Some(before.area) == area);
        whole.chain(areas.map(|before| (before.epoch, &before.key[..])))
    }

    /// Adds the keys of the epochs that were wrapped for a person, and of those before all that are known.
    fn open_epochs(&self, keys: &mut Keys, user: UserId, key: &RecipientKeys) {
        let mut epochs: Vec<_> = self.epochs.iter().collect();
        epochs.sort_by_key(|(_, epoch)| std::cmp::Reverse(epoch.depth));
        let areas = keys.areas.keys().map(|(area, _)| *area);
        let wrapped = epochs.iter().flat_map(|(_, epoch)| &epoch.wraps);
        let wrapped = wrapped.filter(|wrap| wrap.user == user).filter_map(|wrap| wrap.area);
        let areas: BTreeSet<_> = areas.chain(wrapped).map(Some).chain([None]).collect();
        for (id, epoch) in epochs {
            for area in &areas {
                let wrapped = epoch
                    .wraps
                    .iter()
                    .filter(|wrap| wrap.user == user && wrap.area == *area);
                let unwrapped = wrapped.filter_map(|wrap| {
                    let plain = key.unwrap(self.purpose(WRAP), &wrap.key).ok()?;
                    Some(BoxKey::from_bytes(plain[..].try_into().ok()?))
                });
                let known = keys.within(Some(*id), *area);
                let Some(own) = known.or_else(|| unwrapped.into_iter().next()) else {
                    continue;
                };
                for (before, sealed) in self.before(*id, *area) {
                    let opened = own.open(self.purpose(BEFORE), sealed).ok();
                    if let Some(Ok(bytes)) = opened.map(|plain| plain.try_into()) {
                        keys.add_new(before, *area, BoxKey::from_bytes(bytes));
                    }
                }
                keys.add(*id, *area, own);
            }
        }
    }

    /// Epochs that no other comes after.
    fn latest(&self) -> Vec<EpochId> {
        let before: BTreeSet<_> = self
            .epochs
            .values()
            .flat_map(|epoch| &epoch.before)
            .map(|before| before.epoch)
            .collect();
        self.epochs.keys().filter(|id| !before.contains(id)).copied().collect()
    }

    fn purpose(&self, context: &'static str) -> Purpose<'_> {
        Purpose {
            context,
            associated: self.space.as_bytes(),
        }
    }

    /// What is kept of it joins what is known: nothing, but perhaps whose private space it is. What is damaged is left out, as if it had never come: others have it.
    pub fn with_kept(self, kv: &impl Kv) -> Result<Self, KvError> {
        let mut charter = self;
        let rows = kv.scan(Table::Charter, charter.space.as_bytes(), None, usize::MAX)?;
        let records = rows.iter().map(|(_, row)| CharterRecord::from_bytes(row));
        let records: Vec<_> = records.flatten().collect();
        charter.join_all(&records);
        Ok(charter)
    }

    /// Takes a record, and keeps it.
    pub fn join_kept(&mut self, kv: &mut impl Kv, record: &CharterRecord) -> Result<Joined, CharterError> {
        let joined = self.join(record)?;
        if joined == Joined::New {
            Self::keep(kv, self.space, record)?;
        }
        Ok(joined)
    }

    /// Keeps all records, and none that does not count any more.
    pub fn save(&self, kv: &mut impl Kv) -> Result<(), KvError> {
        if self.kept.is_some() || !self.passed_on.is_empty() {
            for (key, row) in kv.scan(Table::Charter, self.space.as_bytes(), None, usize::MAX)? {
                let Ok(record) = CharterRecord::from_bytes(&row) else {
                    continue;
                };
                let (hash, speaker) = (record.hash(), self.speakers.whose(record.claimed_signer()));
                let counts_no_more = Some(speaker.user) != self.owner || self.is_replaced(hash, speaker.generation);
                if !self.records.contains_key(&hash) && counts_no_more {
                    kv.delete(Table::Charter, &key)?;
                }
            }
        }
        self.records
            .values()
            .try_for_each(|record| Self::keep(kv, self.space, record))
    }

    fn keep(kv: &mut impl Kv, space: SpaceId, record: &CharterRecord) -> Result<(), KvError> {
        let key = [&space.as_bytes()[..], record.hash().as_bytes()].concat();
        kv.put(Table::Charter, &key, &record.to_bytes())
    }

    /// How much its records are.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its space.
    pub fn space(&self) -> SpaceId {
        self.space
    }
}

#[cfg(test)]
mod tests;
