//! Who belongs to the pool, from signed records: the same records give the same roster, in whatever order they come.
//!
//! A person is a member when the founder, or another member, has let them in; a node is one when a member says that it is theirs.
//! Records that do not lead back to the founder yet are kept aside, in bounded number, until those between arrive.

use crate::{
    error::RecordError,
    records::{Certificate, Genesis, NodeState, PoolRecord, VERSION, node_of, pool_id, user_of},
};
use potluck_crypto::{Recipient, Signed};
use potluck_types::{Hash, NodeId, PoolId, UserId, UserName, limits};
use std::collections::{BTreeMap, BTreeSet};

/// Records whose signer is not known yet: as many as a whole pool's would be.
const PENDING_MAX: usize = 2 * limits::POOL_NODES_MAX;
/// The name of a program's version is text of at most this many bytes.
const SOFTWARE_BYTES_MAX: usize = 64;

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

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Roster {
    pool: PoolId,
    genesis: Held<Genesis>,
    founder: UserId,
    admissions: BTreeMap<UserId, PoolRecord>,
    certificates: BTreeMap<NodeId, (UserId, Held<Certificate>)>,
    states: BTreeMap<NodeId, Held<NodeState>>,
    pending: Vec<PoolRecord>,
    /// Lasting records that were taken once: who sends them again costs no check of a signature.
    taken: BTreeSet<Hash>,
}

impl Roster {
    /// The roster of the pool that this record begins.
    pub(crate) fn new(genesis: Signed<Genesis>) -> Result<Self, RecordError> {
        let verified = genesis.open()?;
        let founder = user_of(verified.signer());
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
        self.certificates
            .get(&node)
            .filter(|(_, held)| held.value.active)
            .map(|(user, _)| *user)
    }

    /// Whose node this is, or was: what it wrote counts also after it has left.
    pub(crate) fn owner_of(&self, node: NodeId) -> Option<UserId> {
        self.certificates.get(&node).map(|(user, _)| *user)
    }

    /// All nodes of members.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (NodeId, UserId)> {
        let active = self.certificates.iter().filter(|(_, (_, held))| held.value.active);
        active.map(|(node, (user, _))| (*node, *user))
    }

    pub(crate) fn members(&self) -> BTreeSet<NodeId> {
        self.nodes().map(|(node, _)| node).collect()
    }

    /// Whom messages are wrapped for, to reach a person.
    pub(crate) fn recipient(&self, user: UserId) -> Option<Recipient> {
        self.of_user(user).find_map(|certificate| certificate.recipient)
    }

    /// What a person wants to be called.
    pub(crate) fn called(&self, user: UserId) -> Option<UserName> {
        let names = self.of_user(user).filter_map(|certificate| certificate.called.as_ref());
        names.max().map(|called| called.name.clone())
    }

    /// What is said of this node by its person, and by which number.
    pub(crate) fn certificate(&self, node: NodeId) -> Option<&Certificate> {
        self.certificates.get(&node).map(|(_, held)| &held.value)
    }

    fn of_user(&self, user: UserId) -> impl Iterator<Item = &Certificate> {
        let of_user = self.certificates.values().filter(move |(owner, _)| *owner == user);
        of_user.map(|(_, held)| &held.value)
    }

    /// What a node says of itself, as it signed it.
    pub(crate) fn state_record(&self, node: NodeId) -> Option<&PoolRecord> {
        self.states.get(&node).map(|held| &held.record)
    }

    pub(crate) fn state(&self, node: NodeId) -> Option<&NodeState> {
        self.states.get(&node).map(|held| &held.value)
    }

    /// What ended the membership of a node that was a member's.
    pub(crate) fn last_certificate(&self, node: NodeId) -> Option<&PoolRecord> {
        let (_, held) = self.certificates.get(&node)?;
        (!held.value.active).then_some(&held.record)
    }

    /// The number of the last certificate of a node; the next one must have a greater one.
    pub(crate) fn certificate_seq(&self, node: NodeId) -> u64 {
        self.certificates.get(&node).map_or(0, |(_, held)| held.value.seq)
    }

    /// Grows with every record that changes who belongs, what is offered, or what fails together; the same for the same records.
    pub(crate) fn epoch(&self) -> u64 {
        let certificates = self.certificates.values().map(|(_, held)| held.value.seq);
        let states = self.states.values().map(|held| held.value.revision);
        certificates.chain(states).fold(0, u64::saturating_add)
    }

    /// All records, those first that others rest on.
    pub(crate) fn records(&self) -> impl Iterator<Item = &PoolRecord> {
        std::iter::once(&self.genesis.record)
            .chain(self.admissions.values())
            .chain(self.certificates.values().map(|(_, held)| &held.record))
            .chain(self.states.values().map(|held| &held.record))
    }

    /// Two rosters with the same records have the same digest. A node's state changes often and is told by gossip; it is not part of it.
    pub(crate) fn digest(&self) -> Hash {
        let lasting = self.records().filter(|record| !matches!(record, PoolRecord::State(_)));
        let hashes: BTreeSet<Hash> = lasting.map(PoolRecord::hash).collect();
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
            Err(RecordError::UnknownSigner)
                if self.pending.len() < PENDING_MAX
                    && !self.pending.iter().any(|other| other.hash() == record.hash()) =>
            {
                self.pending.push(record.clone());
            }
            _ => {}
        }
        merged
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
        self.pending.iter().position(|record| match record {
            PoolRecord::Genesis(_) => false,
            PoolRecord::Admission(signed) => self.is_user(user_of(signed.claimed_signer())),
            PoolRecord::Certificate(signed) => self.is_user(user_of(signed.claimed_signer())),
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
                if !self.is_user(user_of(verified.signer())) {
                    return Err(RecordError::UnknownSigner);
                }
                let user = verified.value().user;
                if self.is_user(user) {
                    // Of several admissions of one person, all replicas keep the one with the smallest hash.
                    let known = self.admissions.get(&user);
                    if known.is_none_or(|known| known.hash() <= record.hash()) {
                        return Ok(Merged::Known);
                    }
                }
                self.admissions.insert(user, record.clone());
                self.taken.insert(record.hash());
                Ok(Merged::New)
            }
            PoolRecord::Certificate(signed) => {
                let verified = signed.open()?;
                self.check(verified.value().version, verified.value().pool)?;
                let user = user_of(verified.signer());
                if !self.is_user(user) {
                    return Err(RecordError::UnknownSigner);
                }
                let value = verified.into_value();
                self.taken.insert(record.hash());
                match self.certificates.get(&value.node) {
                    // A node is the first person's who said so; another cannot take it over.
                    Some((owner, _)) if *owner != user => return Err(RecordError::NotTheirs),
                    Some((_, held)) if held.value.seq >= value.seq => return Ok(Merged::Known),
                    None if self.certificates.len() >= limits::POOL_NODES_MAX => return Err(RecordError::TooMany),
                    _ => {}
                }
                self.certificates.insert(
                    value.node,
                    (
                        user,
                        Held {
                            value,
                            record: record.clone(),
                        },
                    ),
                );
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
    use crate::records::{Admission, sign};
    use potluck_crypto::SigningKey;
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
            ..Certificate::new(&key(user), pool, key(node).node_id(), seq)
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
