//! The charter of a space: who founded it, and under which keys its entries are sealed. Signed records, which whoever keeps the space's log checks without a key to it.
//!
//! The id of a space is the hash of its founding, so that nobody can found another one in its place. Each *epoch* is a key that entries are sealed under: it is wrapped for
//! every person who may read, and opens the keys of the epochs before it. Records only come, and none is changed or goes, so all who have heard of the same
//! records know the same, in whatever order these came. A person's private space has no charter: its id and its key follow from their own.

use crate::{Kv, KvError, Table};
use potluck_crypto::{BoxKey, Purpose, Recipient, RecipientKey, Record, Signed, SignedError, SigningKey};
use potluck_types::{CodecError, Entropy, Hash, SpaceId, Timestamp, UserId, from_canonical, limits, to_canonical};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::collections::{BTreeMap, BTreeSet};

/// The only version of each record so far.
const VERSION: u8 = 1;
const WRAP: &str = "potluck/space-epoch-wrap/1";
const BEFORE: &str = "potluck/space-epoch-before/1";

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

/// A record of a charter with its signature, as it is kept and sent. Nothing in it is checked yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum CharterRecord {
    /// See [`Founding`].
    Founding(Signed<Founding>),
    /// See [`Epoch`].
    Epoch(Signed<Epoch>),
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

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Charter {
    space: SpaceId,
    owner: Option<UserId>,
    epochs: BTreeMap<EpochId, Epoch>,
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
                if epoch.version != VERSION || epoch.space != self.space {
                    return Err(CharterError::Foreign);
                }
                let owner = self.owner.ok_or(CharterError::NotFounded)?;
                if user != owner {
                    return Err(CharterError::NotAllowed { user: user.short() });
                }
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
        }
        self.records.insert(hash, record.clone());
        self.bytes += bytes;
        Ok(Joined::New)
    }

    /// Whose the space is; none while its founding is not known.
    pub fn owner(&self) -> Option<UserId> {
        self.owner
    }

    /// When it was founded, by its founder's clock.
    pub fn created(&self) -> Option<Timestamp> {
        let founding = self.records.values().find_map(|record| match record {
            CharterRecord::Founding(signed) => signed.open().ok(),
            CharterRecord::Epoch(_) => None,
        });
        founding.map(|founding| founding.value().created)
    }

    /// Who may read what is written now.
    pub fn readers(&self) -> BTreeSet<UserId> {
        self.owner.into_iter().collect()
    }

    /// Whether a person's devices may write entries.
    pub fn may_write(&self, user: UserId) -> bool {
        self.owner == Some(user)
    }

    /// The records, those first that others rest on.
    pub fn records(&self) -> impl Iterator<Item = &CharterRecord> {
        let rank = |record: &CharterRecord| match record {
            CharterRecord::Founding(_) => 0,
            CharterRecord::Epoch(signed) => 1 + self.epochs.get(&signed.hash()).map_or(0, |epoch| epoch.depth),
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
        assert!(charter.may_write(user(1).user_id()) && !charter.may_write(user(2).user_id()));
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
