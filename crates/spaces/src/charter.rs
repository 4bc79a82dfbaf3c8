//! The charter of a space: who founded it, who may read and write, and under which keys its entries are sealed. Signed records, which whoever keeps the space's log
//! checks without a key to it.
//!
//! The id of a space is the hash of its founding, so that nobody can found another one in its place. Each *epoch* is a key that entries are sealed under: it is wrapped for
//! every person who may read, and opens the keys of the epochs before it. Records only come, and none is changed or goes, so all who have heard of the same
//! records know the same, in whatever order these came. A *grant* lets a person in: it has the key of an epoch for them. A *revocation* ends grants, and says how far what
//! that person's devices have written counts; the next epoch is not for them. A person's private space has no charter: its id and its key follow from their own.

use crate::{Kv, KvError, Table};
use potluck_crypto::{BoxKey, Purpose, Recipient, RecipientKey, Record, Signed, SignedError, SigningKey};
use potluck_types::{
    CodecError, Entropy, Hash, NodeId, SpaceId, Timestamp, UserId, from_canonical, limits, to_canonical,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::collections::{BTreeMap, BTreeSet};
use zeroize::Zeroizing;

/// The only version of each record so far.
const VERSION: u8 = 1;
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
    /// The key, wrapped.
    pub key: ByteBuf,
}

/// The key of an epoch for whoever has that of the next.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Before {
    /// Which epoch.
    pub epoch: EpochId,
    /// Its key, in a secret box.
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
    /// The epoch whose key it has.
    pub epoch: EpochId,
    /// For the person alone: that key, and what the owner calls the space.
    pub wrapped: ByteBuf,
}

impl Record for Grant {
    const CONTEXT: &'static str = "potluck/space-grant/1";
    const BYTES_MAX: usize = 1024;
}

/// Names a grant: the hash of its record.
pub type GrantId = Hash;

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
}

impl Record for Revocation {
    const CONTEXT: &'static str = "potluck/space-revocation/1";
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
    /// An epoch that it comes after is not known yet.
    #[error("an epoch that comes before is not known yet")]
    Early,
    /// A charter has limits.
    #[error("the space has as many records as it may have")]
    TooMuch,
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

/// The keys of a space that a person has: by epoch, or the one of a space that has none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Keys(BTreeMap<Option<EpochId>, BoxKey>);

impl Keys {
    /// Those of a person's private space.
    pub fn private(key: BoxKey) -> Self {
        Self(BTreeMap::from([(None, key)]))
    }

    /// Whether the person can read nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key of an epoch, or of a space without.
    pub fn of(&self, epoch: Option<EpochId>) -> Option<&BoxKey> {
        self.0.get(&epoch)
    }
}

/// Whom a grant is for, and what it lets them do.
#[derive(Clone, Debug)]
pub struct GrantTo {
    /// The person.
    pub user: UserId,
    /// What is wrapped for them.
    pub recipient: Recipient,
    /// Whether their devices may write.
    pub may_write: bool,
    /// When it ends, if it does.
    pub until: Option<Timestamp>,
    /// What the owner calls the space.
    pub called: String,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Charter {
    space: SpaceId,
    owner: Option<UserId>,
    epochs: BTreeMap<EpochId, Epoch>,
    grants: BTreeMap<GrantId, Grant>,
    /// Grants that were ended, and how far what each device wrote under them counts.
    revoked: BTreeMap<GrantId, BTreeMap<NodeId, u64>>,
    records: BTreeMap<Hash, CharterRecord>,
    /// Of all records.
    bytes: usize,
}

impl Charter {
    /// The charter of a space of which nothing is known yet.
    pub fn of(space: SpaceId) -> Self {
        Self {
            space,
            owner: None,
            epochs: BTreeMap::new(),
            grants: BTreeMap::new(),
            revoked: BTreeMap::new(),
            records: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// Founds a space of this person, with its first epoch.
    pub fn found(
        user: &SigningKey,
        recipient: Recipient,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<Self, CharterError> {
        let founding = Founding {
            version: VERSION,
            created: now,
            nonce: entropy.bytes(),
        };
        let signed = Signed::sign(user, &founding)?;
        let mut charter = Self::of(SpaceId::from_bytes(*signed.hash().as_bytes()));
        charter.join(&CharterRecord::Founding(signed))?;
        let first = charter.next_epoch(user, &[(user.user_id(), recipient)], &Keys::default(), entropy)?;
        charter.join(&first)?;
        Ok(charter)
    }

    /// A new epoch after all that there are, for these people. It is not part of the charter yet.
    pub fn next_epoch(
        &self,
        user: &SigningKey,
        readers: &[(UserId, Recipient)],
        keys: &Keys,
        entropy: &dyn Entropy,
    ) -> Result<CharterRecord, CharterError> {
        let key = BoxKey::generate(entropy);
        let wrap = |(user, recipient): &(UserId, Recipient)| {
            let wrapped = recipient.wrap(self.purpose(WRAP), key.as_bytes(), entropy);
            let key = wrapped.map_err(|_| CharterError::Recipient { user: user.short() })?;
            Ok::<_, CharterError>(Wrap {
                user: *user,
                key: key.into(),
            })
        };
        let latest = self.latest();
        let before = latest.iter().filter_map(|epoch| Some((*epoch, keys.of(Some(*epoch))?)));
        let epoch = Epoch {
            version: VERSION,
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
        };
        Ok(CharterRecord::Epoch(Signed::sign(user, &epoch)?))
    }

    /// Checks a record against those before it, and takes it.
    pub fn join(&mut self, record: &CharterRecord) -> Result<Joined, CharterError> {
        let hash = record.hash();
        if self.records.contains_key(&hash) {
            return Ok(Joined::Known);
        }
        let bytes = record.to_bytes().len();
        if self.bytes + bytes > limits::CHARTER_BYTES_MAX {
            return Err(CharterError::TooMuch);
        }
        match record {
            CharterRecord::Founding(signed) => {
                let verified = signed.open()?;
                if verified.value().version != VERSION || signed.hash().as_bytes() != self.space.as_bytes() {
                    return Err(CharterError::Foreign);
                }
                self.owner = Some(verified.signer().user_id());
            }
            CharterRecord::Epoch(signed) => {
                let verified = signed.open()?;
                let (user, epoch) = (verified.signer().user_id(), verified.into_value());
                self.check(user, epoch.version, epoch.space)?;
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
                let (user, grant) = (verified.signer().user_id(), verified.into_value());
                self.check(user, grant.version, grant.space)?;
                if !self.epochs.contains_key(&grant.epoch) {
                    return Err(CharterError::Early);
                }
                self.grants.insert(signed.hash(), grant);
            }
            CharterRecord::Revocation(signed) => {
                let verified = signed.open()?;
                let (user, revocation) = (verified.signer().user_id(), verified.into_value());
                self.check(user, revocation.version, revocation.space)?;
                if !revocation.grants.iter().all(|grant| self.grants.contains_key(grant)) {
                    return Err(CharterError::Early);
                }
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
        }
        self.records.insert(hash, record.clone());
        self.bytes += bytes;
        Ok(Joined::New)
    }

    /// Whether a record is of this space, by who may say so.
    fn check(&self, user: UserId, version: u8, space: SpaceId) -> Result<(), CharterError> {
        if version != VERSION || space != self.space {
            return Err(CharterError::Foreign);
        }
        match self.owner {
            None => Err(CharterError::NotFounded),
            Some(owner) if owner == user => Ok(()),
            Some(_) => Err(CharterError::NotAllowed { user: user.short() }),
        }
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
        let user = to.user;
        let readers = self.readers(now);
        if readers.len() >= limits::SPACE_READERS_MAX && !readers.contains(&user) {
            return Err(CharterError::TooManyReaders);
        }
        let epoch = self.current().ok_or(CharterError::NotFounded)?;
        let key = keys.of(Some(epoch)).ok_or(CharterError::NotAllowed {
            user: owner.user_id().short(),
        })?;
        let plain = Zeroizing::new([&key.as_bytes()[..], to.called.as_bytes()].concat());
        let wrapped = to.recipient.wrap(self.purpose(GRANT), &plain, entropy);
        let grant = Grant {
            version: VERSION,
            space: self.space,
            user,
            may_write: to.may_write,
            at: now,
            until: to.until,
            epoch,
            wrapped: wrapped
                .map_err(|_| CharterError::Recipient { user: user.short() })?
                .into(),
        };
        Ok(CharterRecord::Grant(Signed::sign(owner, &grant)?))
    }

    /// The end of all grants that a person has. It is not part of the charter yet; the next epoch is to follow.
    pub fn next_revocation(
        &self,
        owner: &SigningKey,
        user: UserId,
        ends: Vec<(NodeId, u64)>,
        now: Timestamp,
    ) -> Result<CharterRecord, CharterError> {
        let grants = self
            .grants
            .iter()
            .filter(|(id, grant)| grant.user == user && !self.revoked.contains_key(*id));
        let revocation = Revocation {
            version: VERSION,
            space: self.space,
            at: now,
            grants: grants.map(|(id, _)| *id).collect(),
            ends,
        };
        Ok(CharterRecord::Revocation(Signed::sign(owner, &revocation)?))
    }

    /// The grants that hold at this time.
    pub fn grants(&self, now: Timestamp) -> impl Iterator<Item = &Grant> {
        let holds = move |grant: &Grant| grant.until.is_none_or(|until| now <= until);
        let kept = self.grants.iter().filter(|(id, _)| !self.revoked.contains_key(*id));
        kept.map(|(_, grant)| grant).filter(move |grant| holds(grant))
    }

    /// What the owner calls the space, as they said to one who was let in.
    pub fn called(&self, user: UserId, key: &RecipientKey) -> Option<String> {
        let grants = self.grants.values().filter(|grant| grant.user == user);
        let last = grants.max_by_key(|grant| grant.at)?;
        let plain = key.unwrap(self.purpose(GRANT), &last.wrapped).ok()?;
        String::from_utf8(plain.get(32..)?.to_vec()).ok()
    }

    /// Whose the space is; none while its founding is not known.
    pub fn owner(&self) -> Option<UserId> {
        self.owner
    }

    /// When it was founded, by its founder's clock.
    pub fn created(&self) -> Option<Timestamp> {
        let founding = self.records.values().find_map(|record| match record {
            CharterRecord::Founding(signed) => signed.open().ok(),
            _ => None,
        });
        founding.map(|founding| founding.value().created)
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

    /// Whether others have the key that is in use than those who may read: somebody's time is over, or the owner's devices have let people in and taken others out apart. Its
    /// owner is to begin another epoch then, for those of `reached` who may read.
    pub fn needs_epoch(&self, reached: &BTreeSet<UserId>, now: Timestamp) -> bool {
        let Some((id, current)) = self.current().and_then(|id| self.epochs.get_key_value(&id)) else {
            return false;
        };
        let granted = self
            .grants
            .values()
            .filter(|grant| grant.epoch == *id)
            .map(|grant| grant.user);
        let have: BTreeSet<UserId> = current.wraps.iter().map(|wrap| wrap.user).chain(granted).collect();
        let should: BTreeSet<UserId> = self.readers(now).intersection(reached).copied().collect();
        have != should
    }

    /// Whether an entry counts that a person's device has written.
    pub fn may_write(&self, user: UserId, device: NodeId, seq: u64, clock: Timestamp) -> bool {
        let counts = |(id, grant): (&GrantId, &Grant)| {
            let ends = self.revoked.get(id).map(|ends| ends.get(&device).copied().unwrap_or(0));
            grant.user == user
                && grant.may_write
                && grant.until.is_none_or(|until| clock <= until)
                && ends.is_none_or(|end| seq <= end)
        };
        self.owner == Some(user) || self.grants.iter().any(counts)
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
        let lasts = granted.map(|(id, _)| match self.revoked.get(id) {
            None => u64::MAX,
            Some(ends) => ends.get(&device).copied().unwrap_or(0),
        });
        lasts.max().unwrap_or(0)
    }

    /// The records, those first that others rest on.
    pub fn records(&self) -> impl Iterator<Item = &CharterRecord> {
        const GRANTS: u64 = 2 + u32::MAX as u64;
        let rank = |record: &CharterRecord| match record {
            CharterRecord::Founding(_) => 0,
            CharterRecord::Epoch(signed) => {
                1 + self
                    .epochs
                    .get(&signed.hash())
                    .map_or(0, |epoch| u64::from(epoch.depth))
            }
            CharterRecord::Grant(_) => GRANTS,
            CharterRecord::Revocation(_) => GRANTS + 1,
        };
        let mut records: Vec<_> = self.records.values().collect();
        records.sort_by_key(|record| rank(record));
        records.into_iter()
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

    /// The epoch that all others come after: what the space recognises its content by follows from its key.
    pub fn first(&self) -> Option<EpochId> {
        let first = self.epochs.iter().min_by_key(|(id, epoch)| (epoch.depth, **id));
        first.map(|(id, _)| *id)
    }

    /// The keys that a person has: of the epochs that were wrapped for them, and of those before.
    pub fn keys(&self, user: UserId, key: &RecipientKey) -> Keys {
        let mut keys = Keys::default();
        for grant in self.grants.values().filter(|grant| grant.user == user) {
            let plain = key.unwrap(self.purpose(GRANT), &grant.wrapped).ok();
            if let Some(bytes) = plain.as_ref().and_then(|plain| plain.first_chunk::<32>()) {
                keys.0.insert(Some(grant.epoch), BoxKey::from_bytes(*bytes));
            }
        }
        let mut epochs: Vec<_> = self.epochs.iter().collect();
        epochs.sort_by_key(|(_, epoch)| std::cmp::Reverse(epoch.depth));
        for (id, epoch) in epochs {
            let wrapped = epoch.wraps.iter().filter(|wrap| wrap.user == user);
            let unwrapped = wrapped.filter_map(|wrap| {
                let plain = key.unwrap(self.purpose(WRAP), &wrap.key).ok()?;
                Some(BoxKey::from_bytes(plain[..].try_into().ok()?))
            });
            let known = keys.of(Some(*id)).cloned();
            let Some(own) = known.or_else(|| unwrapped.into_iter().next()) else {
                continue;
            };
            for before in &epoch.before {
                let opened = own.open(self.purpose(BEFORE), &before.key).ok();
                if let Some(Ok(bytes)) = opened.map(|plain| plain.try_into()) {
                    keys.0.insert(Some(before.epoch), BoxKey::from_bytes(bytes));
                }
            }
            keys.0.insert(Some(*id), own);
        }
        keys
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

    /// The charter as it is kept. What is damaged of it is left out, as if it had never come: others have it.
    pub fn load(kv: &impl Kv, space: SpaceId) -> Result<Self, KvError> {
        let mut charter = Self::of(space);
        let rows = kv.scan(Table::Charter, space.as_bytes(), None, usize::MAX)?;
        let records = rows.iter().map(|(_, row)| CharterRecord::from_bytes(row));
        let mut left: Vec<_> = records.flatten().collect();
        // Rows are in the order of their hashes: each pass takes at least what rests on nothing that is missing.
        while !left.is_empty() {
            let before = left.len();
            left.retain(|record| {
                matches!(
                    charter.join(record),
                    Err(CharterError::NotFounded | CharterError::Early)
                )
            });
            if left.len() == before {
                break;
            }
        }
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

    /// Keeps all records.
    pub fn save(&self, kv: &mut impl Kv) -> Result<(), KvError> {
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
mod tests {
    use super::*;
    use crate::MemoryKv;
    use potluck_crypto::derive::recipient_key;
    use potluck_types::SystemEntropy;

    fn user(seed: u8) -> SigningKey {
        SigningKey::from_seed(&[seed; 32])
    }

    fn reader(seed: u8) -> (UserId, Recipient) {
        (user(seed).user_id(), recipient_key(&user(seed)).recipient())
    }

    fn founded() -> Charter {
        Charter::found(&user(1), reader(1).1, Timestamp::from_millis(7), &SystemEntropy).unwrap()
    }

    fn keys(charter: &Charter, seed: u8) -> Keys {
        charter.keys(user(seed).user_id(), &recipient_key(&user(seed)))
    }

    fn add_epoch(charter: &mut Charter, readers: &[u8]) -> EpochId {
        let readers: Vec<_> = readers.iter().map(|seed| reader(*seed)).collect();
        let record = charter
            .next_epoch(&user(1), &readers, &keys(charter, 1), &SystemEntropy)
            .unwrap();
        assert_eq!(charter.join(&record).unwrap(), Joined::New);
        charter.current().unwrap()
    }

    #[test]
    fn the_founder_has_the_key_and_nobody_else() {
        let charter = founded();
        assert_eq!(charter.owner(), Some(user(1).user_id()));
        let now = Timestamp::from_millis(8);
        assert_eq!(charter.writers(now), BTreeSet::from([user(1).user_id()]));
        assert_eq!(charter.readers(now), charter.writers(now));
        assert!(keys(&charter, 1).of(charter.current()).is_some());
        assert_eq!(keys(&charter, 2), Keys::default());
        assert_ne!(charter.space(), founded().space());
    }

    #[test]
    fn a_later_epoch_opens_those_before_and_none_after() {
        let mut charter = founded();
        let first = charter.current().unwrap();
        let second = add_epoch(&mut charter, &[1, 2]);
        let third = add_epoch(&mut charter, &[1]);
        let (all, removed) = (keys(&charter, 1), keys(&charter, 2));
        for epoch in [first, second, third] {
            assert!(all.of(Some(epoch)).is_some());
        }
        assert_eq!(charter.first(), Some(first));
        assert_eq!(removed.of(Some(first)), all.of(Some(first)));
        assert_eq!(removed.of(Some(second)), all.of(Some(second)));
        assert_eq!(removed.of(Some(third)), None);
    }

    #[test]
    fn epochs_made_apart_are_both_good_and_one_of_them_is_used_by_all() {
        let mut one = founded();
        let mut other = one.clone();
        let (a, b) = (add_epoch(&mut one, &[1]), add_epoch(&mut other, &[1, 2]));
        let records: Vec<_> = other.records().cloned().collect();
        for record in &records {
            one.join(record).unwrap();
        }
        let records: Vec<_> = one.records().cloned().collect();
        for record in &records {
            other.join(record).unwrap();
        }
        assert_eq!(one, other);
        assert_eq!(one.current(), Some(a.max(b)));
        let next = add_epoch(&mut one, &[1, 3]);
        for epoch in [a, b, next] {
            assert!(keys(&one, 3).of(Some(epoch)).is_some());
        }
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn grant(charter: &mut Charter, seed: u8, may_write: bool, until: Option<u64>) {
        let to = GrantTo {
            user: user(seed).user_id(),
            recipient: reader(seed).1,
            may_write,
            until: until.map(at),
            called: "photos".to_owned(),
        };
        let record = charter
            .next_grant(&user(1), &to, &keys(charter, 1), at(10), &SystemEntropy)
            .unwrap();
        assert_eq!(charter.join(&record).unwrap(), Joined::New);
    }

    fn device(seed: u8) -> NodeId {
        NodeId::from_bytes([seed; 32])
    }

    #[test]
    fn who_is_let_in_reads_what_was_and_writes_if_that_was_said() {
        let mut charter = founded();
        let first = charter.current();
        add_epoch(&mut charter, &[1]);
        grant(&mut charter, 2, true, None);
        grant(&mut charter, 3, false, Some(20));
        for seed in [2, 3] {
            let keys = keys(&charter, seed);
            assert!(keys.of(first).is_some() && keys.of(charter.current()).is_some());
            let key = recipient_key(&user(seed));
            assert_eq!(charter.called(user(seed).user_id(), &key).as_deref(), Some("photos"));
        }
        let may_write = |seed: u8, clock| charter.may_write(user(seed).user_id(), device(seed), 1, at(clock));
        assert!(may_write(1, 99) && may_write(2, 99) && !may_write(3, 15) && !may_write(4, 15));
        assert_eq!(charter.readers(at(20)).len(), 3);
        assert_eq!(charter.readers(at(21)).len(), 2);
        assert_eq!(charter.writers(at(21)).len(), 2);
        assert_eq!(keys(&charter, 4), Keys::default());
    }

    #[test]
    fn who_is_taken_out_has_what_they_wrote_before_and_nothing_after_whatever_clock_they_say() {
        let mut charter = founded();
        grant(&mut charter, 2, true, None);
        let before = charter.current();
        let ends = vec![(device(2), 7)];
        let revocation = charter
            .next_revocation(&user(1), user(2).user_id(), ends, at(30))
            .unwrap();
        charter.join(&revocation).unwrap();
        let after = add_epoch(&mut charter, &[1]);
        let may_write = |charter: &Charter, device, seq| charter.may_write(user(2).user_id(), device, seq, at(11));
        assert!(may_write(&charter, device(2), 7));
        assert!(!may_write(&charter, device(2), 8) && !may_write(&charter, device(9), 1));
        let last = |charter: &Charter, device| charter.last_counting(user(2).user_id(), device);
        assert_eq!((last(&charter, device(2)), last(&charter, device(9))), (7, 0));
        assert_eq!(charter.readers(at(31)), BTreeSet::from([user(1).user_id()]));
        let keys_left = keys(&charter, 2);
        assert!(keys_left.of(before).is_some() && keys_left.of(Some(after)).is_none());
        // Let in once more, they are as others.
        grant(&mut charter, 2, true, None);
        assert!(may_write(&charter, device(2), 8));
        assert_eq!(last(&charter, device(2)), u64::MAX);
        assert!(keys(&charter, 2).of(Some(after)).is_some());
        // Whoever hears of all this in another order knows the same.
        let records: Vec<_> = charter.records().cloned().collect();
        let mut other = Charter::of(charter.space());
        for _ in 0..records.len() {
            records.iter().rev().for_each(|record| _ = other.join(record));
        }
        assert_eq!(other, charter);
        let mut kv = MemoryKv::default();
        charter.save(&mut kv).unwrap();
        assert_eq!(Charter::load(&kv, charter.space()).unwrap(), charter);
    }

    /// The owner's devices take two people out apart, each with an epoch for the other one.
    #[test]
    fn what_was_changed_apart_is_followed_by_an_epoch_for_those_who_are_left() {
        let mut one = founded();
        for seed in [2, 3, 4] {
            grant(&mut one, seed, true, Some(100));
        }
        let all: BTreeSet<_> = (1..5).map(|seed| user(seed).user_id()).collect();
        assert!(!one.needs_epoch(&all, at(50)));
        // The time of three is over.
        assert!(one.needs_epoch(&all, at(101)));
        let mut other = one.clone();
        let take_out = |charter: &mut Charter, seed: u8, left: &[u8]| {
            let gone = user(seed).user_id();
            let revocation = charter.next_revocation(&user(1), gone, Vec::new(), at(30)).unwrap();
            charter.join(&revocation).unwrap();
            assert!(charter.needs_epoch(&all, at(50)));
            add_epoch(charter, left);
            assert!(!charter.needs_epoch(&all, at(50)));
        };
        take_out(&mut one, 2, &[1, 3, 4]);
        take_out(&mut other, 3, &[1, 2, 4]);
        for record in other.records() {
            one.join(record).unwrap();
        }
        assert!(one.needs_epoch(&all, at(50)));
        let after = add_epoch(&mut one, &[1, 4]);
        assert!(!one.needs_epoch(&all, at(50)));
        for (seed, has) in [(1, true), (2, false), (3, false), (4, true)] {
            assert_eq!(keys(&one, seed).of(Some(after)).is_some(), has, "{seed}");
        }
        // Nobody waits for one who cannot be reached.
        let reached = BTreeSet::from([user(1).user_id()]);
        assert!(one.needs_epoch(&reached, at(50)));
        add_epoch(&mut one, &[1]);
        assert!(!one.needs_epoch(&reached, at(50)));
    }

    #[test]
    fn nobody_but_the_owner_lets_in_or_takes_out() {
        let mut charter = founded();
        grant(&mut charter, 2, true, None);
        let before = charter.clone();
        let theirs = keys(&charter, 2);
        let to = GrantTo {
            user: user(3).user_id(),
            recipient: reader(3).1,
            may_write: true,
            until: None,
            called: String::new(),
        };
        let grant = charter
            .next_grant(&user(2), &to, &theirs, at(11), &SystemEntropy)
            .unwrap();
        let revocation = charter
            .next_revocation(&user(2), user(2).user_id(), Vec::new(), at(12))
            .unwrap();
        for record in [grant, revocation] {
            assert!(matches!(charter.join(&record), Err(CharterError::NotAllowed { .. })));
        }
        assert_eq!(charter, before);
    }

    #[test]
    fn strangers_and_other_spaces_change_nothing() {
        let mut charter = founded();
        let before = charter.clone();
        let theirs = before
            .next_epoch(&user(2), &[reader(2)], &Keys::default(), &SystemEntropy)
            .unwrap();
        assert!(matches!(charter.join(&theirs), Err(CharterError::NotAllowed { .. })));
        for record in founded().records() {
            assert!(matches!(charter.join(record), Err(CharterError::Foreign)));
        }
        assert_eq!(charter, before);
    }

    #[test]
    fn records_are_taken_when_what_they_rest_on_is_there() {
        let mut charter = founded();
        add_epoch(&mut charter, &[1]);
        let records: Vec<_> = charter.records().cloned().collect();
        let mut behind = Charter::of(charter.space());
        assert!(matches!(behind.join(&records[1]), Err(CharterError::NotFounded)));
        behind.join(&records[0]).unwrap();
        assert!(matches!(behind.join(&records[2]), Err(CharterError::Early)));
        for record in &records[1..] {
            assert_eq!(behind.join(record).unwrap(), Joined::New);
        }
        assert_eq!(behind, charter);
        assert_eq!(behind.digest(), charter.digest());
        assert_eq!(behind.join(&records[1]).unwrap(), Joined::Known);
    }

    #[test]
    fn what_is_kept_comes_back() {
        let (mut kv, mut charter) = (MemoryKv::default(), founded());
        for _ in 0..5 {
            add_epoch(&mut charter, &[1]);
        }
        charter.save(&mut kv).unwrap();
        founded().save(&mut kv).unwrap();
        assert_eq!(Charter::load(&kv, charter.space()).unwrap(), charter);
        // What is damaged is as if it had not come.
        let last = charter.records().last().unwrap().clone();
        let key = [&charter.space().as_bytes()[..], last.hash().as_bytes()].concat();
        kv.put(Table::Charter, &key, b"garbled").unwrap();
        let mut damaged = Charter::load(&kv, charter.space()).unwrap();
        assert_eq!(damaged.records().count() + 1, charter.records().count());
        assert_eq!(damaged.join_kept(&mut kv, &last).unwrap(), Joined::New);
        assert_eq!(Charter::load(&kv, charter.space()).unwrap(), charter);
        assert_eq!(Charter::load(&kv, SpaceId::from_bytes([9; 32])).unwrap().digest(), None);
    }

    #[test]
    fn garbled_records_are_refused() {
        let charter = founded();
        for record in charter.records() {
            let bytes = record.to_bytes();
            for at in 0..bytes.len() {
                let mut garbled = bytes.clone();
                garbled[at] ^= 1;
                let mut other = Charter::of(charter.space());
                other.join(charter.records().next().unwrap()).unwrap();
                let taken = CharterRecord::from_bytes(&garbled).and_then(|record| other.join(&record));
                assert!(taken.is_err(), "byte {at}");
            }
        }
    }
}
