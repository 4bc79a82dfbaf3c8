//! The signed records that make a pool: who founded it, who was let in, whose nodes they are, and what a node says of itself.

use crate::error::RecordError;
use potluck_crypto::{Recipient, Record, Signed, SignedError, SigningKey, derive::recipient_key};
use potluck_types::{
    ByteSize, Hash, MachineName, NodeId, PoolId, Timestamp, UserId, UserName, Zone, from_canonical, to_canonical,
};
use serde::{Deserialize, Serialize};

/// The first record of a pool, signed by its founder. Its hash is the [`PoolId`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Genesis {
    pub(crate) version: u8,
    pub(crate) name: String,
    pub(crate) created: Timestamp,
    #[serde(with = "serde_bytes")]
    pub(crate) nonce: [u8; 16],
}

impl Record for Genesis {
    const CONTEXT: &'static str = "potluck/genesis/1";
}

/// A member lets a person in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Admission {
    pub(crate) version: u8,
    pub(crate) pool: PoolId,
    pub(crate) user: UserId,
    pub(crate) at: Timestamp,
}

impl Record for Admission {
    const CONTEXT: &'static str = "potluck/admission/1";
}

/// A person says that a node is theirs, or no longer is. The highest `seq` counts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Certificate {
    pub(crate) version: u8,
    pub(crate) pool: PoolId,
    pub(crate) node: NodeId,
    pub(crate) seq: u64,
    pub(crate) active: bool,
    /// Whom others wrap messages for, to reach the person; not said by versions before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) recipient: Option<Recipient>,
    /// What the person wants to be called, if this was said with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) called: Option<Called>,
}

/// A name that a person has given themselves. The last one counts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) struct Called {
    pub(crate) at: Timestamp,
    pub(crate) name: UserName,
}

impl Certificate {
    /// The word of a person that a node is theirs.
    pub(crate) fn new(user: &SigningKey, pool: PoolId, node: NodeId, seq: u64) -> Self {
        Self {
            version: VERSION,
            pool,
            node,
            seq,
            active: true,
            recipient: Some(recipient_key(user).recipient()),
            called: None,
        }
    }
}

impl Record for Certificate {
    const CONTEXT: &'static str = "potluck/certificate/1";
}

/// What a node says of itself. The highest `seq` counts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct NodeState {
    pub(crate) version: u8,
    pub(crate) pool: PoolId,
    pub(crate) seq: u64,
    pub(crate) capacity: ByteSize,
    pub(crate) used: ByteSize,
    pub(crate) zone: Option<Zone>,
    pub(crate) addresses: Vec<String>,
    pub(crate) leaving: bool,
    pub(crate) software: String,
    /// What its person calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<MachineName>,
    /// Grows whenever what the node offers, or its zone, changes; 0 in records of versions that did not count.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) revision: u64,
    /// When the run of the node began that says this; not said by versions before.
    #[serde(default, skip_serializing_if = "is_unknown")]
    pub(crate) run: Timestamp,
    /// Members that could not prove what they claim to hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) doubts: Vec<NodeId>,
}

/// One that says nothing of itself but what it offers.
#[cfg(any(test, fuzzing))]
impl NodeState {
    pub(crate) fn sample(pool: PoolId, seq: u64, capacity: u64) -> Self {
        Self {
            version: VERSION,
            pool,
            seq,
            capacity: ByteSize(capacity),
            used: ByteSize(0),
            zone: None,
            addresses: Vec::new(),
            leaving: false,
            software: "0".to_owned(),
            name: None,
            revision: 1,
            run: Timestamp::default(),
            doubts: Vec::new(),
        }
    }
}

fn is_unknown(time: &Timestamp) -> bool {
    *time == Timestamp::default()
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Record for NodeState {
    const CONTEXT: &'static str = "potluck/node-state/1";
    const BYTES_MAX: usize = 8 << 10;
}

/// The only version of each record so far.
pub(crate) const VERSION: u8 = 1;

/// A record of any kind with its signature, as it is stored and sent. Nothing in it is checked yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum PoolRecord {
    Genesis(Signed<Genesis>),
    Admission(Signed<Admission>),
    Certificate(Signed<Certificate>),
    State(Signed<NodeState>),
}

impl PoolRecord {
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        Ok(from_canonical(bytes)?)
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        to_canonical(self)
    }

    pub(crate) fn hash(&self) -> Hash {
        Hash::of(&self.to_bytes())
    }
}

/// The id of the pool that this genesis begins.
pub(crate) fn pool_id(genesis: &Signed<Genesis>) -> PoolId {
    PoolId::from_bytes(*genesis.hash().as_bytes())
}

pub(crate) fn user_of(signer: potluck_crypto::PublicKey) -> UserId {
    UserId::from_bytes(*signer.as_bytes())
}

pub(crate) fn node_of(signer: potluck_crypto::PublicKey) -> NodeId {
    NodeId::from_bytes(*signer.as_bytes())
}

/// Signs a record whose size is bounded by construction.
///
/// # Panics
/// When the record is over its limit: names and addresses were checked where they came in.
pub(crate) fn sign<T: Record>(key: &potluck_crypto::SigningKey, record: &T) -> Signed<T> {
    let signed: Result<_, SignedError> = Signed::sign(key, record);
    signed.expect("our own records are within their limits")
}
