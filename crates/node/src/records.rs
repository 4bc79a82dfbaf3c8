//! The signed records that make a pool: who founded it, who was let in, whose nodes they are, and what a node says of itself.

use crate::error::RecordError;
use potluck_crypto::{PublicKey, Recipient, Record, Signature, Signed, SignedError, SigningKey, UserKeys};
use potluck_spaces::Founding;
use potluck_types::{
    ByteSize, Hash, MachineName, NodeId, PoolId, Region, Regions, SpaceId, Timestamp, UserId, UserName, Zone,
    from_canonical, limits, to_canonical,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

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
    pub(crate) fn new(user: &UserKeys, pool: PoolId, node: NodeId, seq: u64) -> Self {
        Self {
            version: VERSION,
            pool,
            node,
            seq,
            active: true,
            recipient: Some(user.recipient()),
            called: None,
        }
    }
}

impl Record for Certificate {
    const CONTEXT: &'static str = "potluck/certificate/1";
}

/// A person's key is replaced, since a machine that has it is lost: signed with that key, and from then on they sign with the next. Of what the keys before have signed, what is
/// named here counts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Rotation {
    pub(crate) version: u8,
    pub(crate) pool: PoolId,
    pub(crate) user: UserId,
    pub(crate) at: Timestamp,
    /// The next key.
    pub(crate) key: PublicKey,
    /// What the next key says to being theirs: see [`Rotation::claim`].
    pub(crate) claim: Signature,
    /// Whom others wrap messages for from now on, to reach the person.
    pub(crate) recipient: Recipient,
    /// The machines that stay the person's.
    pub(crate) machines: Vec<Kept>,
    /// Those that were taken out of their hands, now or before; what they wrote until then counts.
    pub(crate) lost: Vec<NodeId>,
    /// Those that left by themselves; what they wrote counts.
    pub(crate) former: Vec<NodeId>,
    /// Whom the person has let into the pool.
    pub(crate) admitted: Vec<UserId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) called: Option<Called>,
    /// Keys that had taken the place of one that another had taken the place of, too, each with its claim: they are replaced as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) also: Vec<(PublicKey, Signature)>,
    /// Of what was said of where the data of their spaces may be, the records that count, by their hashes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) residences: Vec<Hash>,
}

/// A machine that stays its person's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) node: NodeId,
    /// The seed of the next key, wrapped for the machine; empty where that runs a version that nothing can be wrapped for.
    pub(crate) seed: ByteBuf,
}

impl Rotation {
    /// What the seed of the next key is wrapped for.
    pub(crate) const WRAP: &'static str = "potluck/user-key-wrap/1";

    /// What the next key signs: that it is this person's, in this pool.
    pub(crate) fn claim(pool: PoolId, user: UserId) -> Vec<u8> {
        let context = b"potluck/user-key-claim/1";
        let len = u8::try_from(context.len()).expect("a context is a short constant");
        [&[len], &context[..], pool.as_bytes(), user.as_bytes()].concat()
    }

    /// Whether the next key, and those that are replaced beside the one in use, say that they are this person's.
    pub(crate) fn is_claimed(&self) -> bool {
        let claim = Self::claim(self.pool, self.user);
        let mut keys = self
            .also
            .iter()
            .chain([&(self.key, self.claim)])
            .copied()
            .collect::<Vec<_>>();
        keys.retain(|(key, signature)| key.verify(&claim, signature).is_err());
        keys.is_empty()
    }

    /// Whether the machine stays.
    pub(crate) fn keeps(&self, node: NodeId) -> bool {
        self.machines.iter().any(|kept| kept.node == node)
    }

    /// Whether the machine is the person's, or was.
    pub(crate) fn names(&self, node: NodeId) -> bool {
        self.keeps(node) || self.lost.contains(&node) || self.former.contains(&node)
    }
}

impl Record for Rotation {
    const CONTEXT: &'static str = "potluck/rotation/1";
    const BYTES_MAX: usize = limits::ROTATION_BYTES_MAX;
}

/// The owner of a space says where its data may be. What was said last counts, by the clock and then by the hash.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Residence {
    pub(crate) version: u8,
    pub(crate) pool: PoolId,
    pub(crate) space: SpaceId,
    pub(crate) at: Timestamp,
    /// Everywhere, when there are none.
    pub(crate) regions: Regions,
    /// What shows whose the space is; none for a private one, whose id does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) founding: Option<Signed<Founding>>,
}

impl Residence {
    /// Who has founded the space, if the record shows it.
    pub(crate) fn founder(&self) -> Option<PublicKey> {
        let founding = self.founding.as_ref()?;
        let is_of_space = founding.hash().as_bytes() == self.space.as_bytes();
        Some(founding.open().ok()?.signer()).filter(|_| is_of_space)
    }
}

impl Record for Residence {
    const CONTEXT: &'static str = "potluck/residence/1";
    const BYTES_MAX: usize = limits::RESIDENCE_BYTES_MAX;
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
    /// Whom messages for this machine alone are wrapped for; not said by versions before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) recipient: Option<Recipient>,
    /// Where it stands, if its person says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) region: Option<Region>,
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
            recipient: None,
            region: None,
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
    Rotation(Signed<Rotation>),
    Residence(Signed<Residence>),
}

impl PoolRecord {
    /// Records of each kind rest on those with smaller numbers, and on others of their own.
    pub(crate) fn kind(&self) -> u8 {
        match self {
            Self::Genesis(_) => 0,
            Self::Admission(_) => 1,
            Self::Certificate(_) => 2,
            Self::Rotation(_) => 3,
            Self::Residence(_) => 4,
            Self::State(_) => 5,
        }
    }

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

/// Records as they are sent, each for itself: who does not know one, as it is of a later version, takes the others.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Sent(Vec<ByteBuf>);

impl Sent {
    pub(crate) fn of<'r>(records: impl IntoIterator<Item = &'r PoolRecord>) -> Self {
        let bytes = records.into_iter().map(|record| ByteBuf::from(record.to_bytes()));
        Self(bytes.collect())
    }

    /// Those that this version knows.
    pub(crate) fn known(&self) -> impl Iterator<Item = PoolRecord> {
        self.0.iter().filter_map(|bytes| PoolRecord::from_bytes(bytes).ok())
    }
}

/// The id of the pool that this genesis begins.
pub(crate) fn pool_id(genesis: &Signed<Genesis>) -> PoolId {
    PoolId::from_bytes(*genesis.hash().as_bytes())
}

pub(crate) fn node_of(signer: PublicKey) -> NodeId {
    NodeId::from_bytes(*signer.as_bytes())
}

/// Signs a record whose size is bounded by construction.
///
/// # Panics
/// When the record is over its limit: names and addresses were checked where they came in.
pub(crate) fn sign<T: Record>(key: &SigningKey, record: &T) -> Signed<T> {
    let signed: Result<_, SignedError> = Signed::sign(key, record);
    signed.expect("our own records are within their limits")
}
