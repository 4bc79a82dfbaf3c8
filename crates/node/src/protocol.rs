//! The messages between nodes, inside the requests of `potluck-net`. `docs/protocol.md` describes each.

use crate::{api::HealthInfo, error::Refusal, records::PoolRecord};
use bytes::Bytes;
use potluck_crypto::Signed;
use potluck_net::Message;
use potluck_spaces::{Frontier, Liveness};
use potluck_types::{
    CodecError, Geometry, Hash, NodeId, PoolId, ShardId, SpaceId, StripeId, from_canonical, to_canonical,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;

/// What one asks who wants in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct JoinRequest {
    pub(crate) pool: PoolId,
    pub(crate) credential: Credential,
}

/// Why one should be let in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Credential {
    /// A ticket for another person, and that person's word that the node is theirs.
    Ticket {
        secret: [u8; 16],
        certificate: Signed<crate::records::Certificate>,
    },
    /// A ticket for another machine of the inviter.
    TicketForMine { secret: [u8; 16] },
    /// The word of a person who is a member already.
    Member {
        certificate: Signed<crate::records::Certificate>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum JoinReply {
    /// All records of the pool; and the inviter's user key, for another machine of theirs.
    Welcome {
        records: Vec<PoolRecord>,
        user_seed: Option<[u8; 32]>,
    },
    Refused(Refusal),
}

/// One shard that its holder has, as its steward needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reported {
    pub(crate) shard: ShardId,
    pub(crate) geometry: Geometry,
    pub(crate) shard_len: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum PoolRequest {
    /// First on a new connection, and now and then: do we know the same members?
    Hello { digest: Hash, state: Option<PoolRecord> },
    /// Records that the other may lack.
    Records(Vec<PoolRecord>),
    /// All records, please.
    PullRecords,
    /// What the asker holds of the stripes that the other looks after. The first page of a full report replaces all before it.
    Report {
        first: bool,
        shards: Vec<Reported>,
        gone: Vec<ShardId>,
    },
    /// Does the other have as many of the asker's reports, with this sum?
    CheckReports { count: u64, sum: u128 },
    /// Which shards of these does the other hold?
    Locate { stripes: Vec<StripeId> },
    /// Entries to be kept, in the order of each device's log.
    Append { space: SpaceId, entries: Vec<ByteBuf> },
    /// How far are the logs of this space known there?
    Frontier { space: SpaceId },
    /// Entries of a device after this one.
    Fetch { space: SpaceId, device: NodeId, after: u64 },
    /// Are these still in use?
    Liveness { space: SpaceId, stripes: Vec<StripeId> },
    /// These are no longer in use; ask a custodian.
    Released { space: SpaceId, stripes: Vec<StripeId> },
    /// How are the stripes that the other looks after?
    Health,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum PoolReply {
    /// To `Hello`: the other's digest and state.
    Hello {
        digest: Hash,
        state: Option<PoolRecord>,
    },
    Records(Vec<PoolRecord>),
    Done,
    /// To `CheckReports`: a full report is needed.
    Differs,
    /// To `Locate`: for each stripe the shards held.
    Located(Vec<Vec<u8>>),
    Frontier(Frontier),
    Entries(Vec<ByteBuf>),
    Liveness(Vec<Liveness>),
    Health(HealthInfo),
    /// The request cannot be fulfilled.
    Failed(String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum ShardRequest {
    /// Store the body durably, as this shard of this stripe, for this space.
    Put {
        space: SpaceId,
        index: u8,
        descriptor: ByteBuf,
    },
    /// The shard, please.
    Get(ShardId),
    /// The stripe's steward no longer needs this copy.
    Drop(ShardId),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum ShardReply {
    /// It survives a power cut now.
    Stored,
    /// The node has no room.
    Full,
    /// The body is the payload.
    Shard {
        space: SpaceId,
        index: u8,
        descriptor: ByteBuf,
    },
    /// The node does not hold it.
    Absent,
    /// To `Drop`.
    Dropped,
    /// It could not be done.
    Failed(String),
}

/// Stripes that one `Locate`, `Liveness` or `Released` names at most, and shards that one page of a report does.
pub(crate) const BATCH_MAX: usize = 4096;

pub(crate) fn encode<T: Serialize>(value: &T) -> Message {
    Message::new(to_canonical(value))
}

pub(crate) fn encode_with<T: Serialize>(value: &T, body: Bytes) -> Message {
    Message {
        header: to_canonical(value).into(),
        body,
    }
}

pub(crate) fn decode<T: Serialize + DeserializeOwned>(message: &Message) -> Result<T, CodecError> {
    from_canonical(&message.header)
}
