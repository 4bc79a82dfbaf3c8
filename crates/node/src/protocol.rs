//! The messages between nodes, inside the requests of `potluck-net`. `docs/protocol.md` describes each.

use crate::{
    api::{HealthInfo, StripeWork},
    error::Refusal,
    records::{PoolRecord, Sent},
};
use bytes::Bytes;
use potluck_crypto::{KeyShare, LinkId, Signed};
use potluck_net::Message;
use potluck_placement::Reported;
use potluck_spaces::{PinState, Position};
use potluck_types::{
    ByteSize, CodecError, Geometry, Hash, NodeId, PoolId, ShardId, SpaceId, StripeId, Timestamp,
    from_canonical_or_later, proof::Proof, to_canonical,
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
    TicketForMine {
        #[serde(with = "serde_bytes")]
        secret: [u8; 16],
    },
    /// The word of a person who is a member already.
    Member {
        certificate: Signed<crate::records::Certificate>,
    },
    /// None: a node that took itself for a member, and gets no answers, asks whether it is one.
    Standing,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum JoinReply {
    /// All records of the pool; and the inviter's first user key, for another machine of theirs.
    Welcome {
        records: Sent,
        user_seed: Option<ByteBuf>,
        /// The keys that took the place of that one, in their order.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        later_seeds: Vec<ByteBuf>,
    },
    Refused(Refusal),
    /// What ended the membership of the node that asks: its last certificate, or a rotation.
    Standing(PoolRecord),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum PoolRequest {
    /// First on a new connection, and now and then: do we know the same members?
    Hello { digest: Hash, state: Option<PoolRecord> },
    /// Records that the other may lack.
    Records(Sent),
    /// All records, please.
    PullRecords,
    /// What the asker holds of the stripes that the other looks after. The first page of a full report replaces all before it.
    Report {
        first: bool,
        shards: Vec<Reported>,
        gone: Vec<ShardId>,
    },
    /// Does the other have as many of the asker's reports, with this sum?
    CheckReports {
        count: u64,
        #[serde(with = "serde_bytes")]
        sum: [u8; 16],
        /// What the asker knows of who is here: only one who sees the same pool reports all that the other looks after.
        view: Hash,
    },
    /// Which shards of these does the other hold?
    Locate { stripes: Vec<StripeId> },
    /// For which space are shards of these held?
    Spaces { stripes: Vec<StripeId> },
    /// Entries to be kept, in the order of each device's log.
    Append { space: SpaceId, entries: Vec<ByteBuf> },
    /// How far are the logs of this space known there?
    Frontier {
        space: SpaceId,
        /// Whether the space has a charter: then the answer is [`PoolReply::Logs`].
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        is_chartered: bool,
        /// The digest of what the asker knows: who knows the same says no more than [`PoolReply::Same`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<Hash>,
    },
    /// Of which of these spaces, in their order, does the other know the same? Each with the digest of what the asker knows, as in [`PoolRequest::Frontier`].
    Compare(Vec<(SpaceId, Hash)>),
    /// Records of a space's charter. Reply: those that were not among them.
    Charter { space: SpaceId, records: Vec<ByteBuf> },
    /// Entries of a device after this one.
    Fetch { space: SpaceId, device: NodeId, after: u64 },
    /// Has the other given up this entry of its own log, as it goes on with another history? Reply: [`PoolReply::StandsBy`].
    GivenUp { space: SpaceId, seq: u64, hash: Hash },
    /// Are these still in use?
    Liveness { space: SpaceId, stripes: Vec<StripeId> },
    /// These are no longer in use; ask a custodian.
    Released { space: SpaceId, stripes: Vec<StripeId> },
    /// How are the stripes that the other looks after?
    Health,
    /// What do these survive, as far as the other, their steward, knows?
    Survival { stripes: Vec<StripeId> },
    /// What time is it there, and can the asker be reached from there, where it says that it can?
    Probe,
    /// What does the other know of a node's state? Reply: `Records`, one or none.
    StateOf { node: NodeId },
    /// Who holds these, and what is being done for them, as far as the other, their steward, knows?
    Holders { stripes: Vec<StripeId> },
    /// Which shards of these does the other hold, and when did it check each last?
    Inspect { stripes: Vec<StripeId> },
    /// What was published last of this link? Reply: [`PoolReply::Link`].
    Link { space: SpaceId, link: LinkId },
    /// The share of the link's key that the other gives to who may read by it, and shows that they have the link. Reply: [`PoolReply::LinkShare`].
    LinkShare { space: SpaceId, link: LinkId, proof: Hash },
    /// The other denies shards that it has reported: it should compare its reports again.
    Recount,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum PoolReply {
    /// To `Hello`: the other's digest and state.
    Hello {
        digest: Hash,
        state: Option<PoolRecord>,
    },
    Records(Sent),
    Done,
    /// To `CheckReports`: a full report is needed.
    Differs,
    /// To `CheckReports`: the sums are the same, but the two see other nodes as being here.
    OtherView,
    /// To `Locate`: for each stripe the shards held.
    Located(Vec<Vec<u8>>),
    /// To `Spaces`: for each stripe, if one is held.
    Spaces(Vec<Option<SpaceId>>),
    Frontier(Vec<(NodeId, Position)>),
    /// To `Frontier`: the other knows what the asker knows.
    Same,
    /// To `Compare`: for each space, whether it does.
    Compared(Vec<bool>),
    /// How far the logs of a space are known, and what is known of its charter.
    Logs {
        known: Vec<(NodeId, Position)>,
        charter: Option<Hash>,
    },
    /// Records of a charter.
    Charter(Vec<ByteBuf>),
    Entries(Vec<ByteBuf>),
    /// To `GivenUp`: how far the other's own log goes that it stands by; none where it did not, or where not all that it gave up is said again yet.
    StandsBy(Option<Position>),
    /// To `Liveness`: what the logs known there say of each.
    Liveness(Vec<PinState>),
    /// To `Health`: the other's counts, and the bytes that it uses of its disk now.
    Health {
        counts: HealthInfo,
        used: ByteSize,
    },
    /// To `Survival`: for each stripe; nothing while the other does not know yet what all hold.
    Survival(Option<Vec<Survival>>),
    /// To `Probe`: each TCP address of the asker, and whether something takes connections there.
    Probe {
        now: Timestamp,
        reached: Vec<(String, bool)>,
    },
    /// To `Holders`: for each stripe; nothing where nobody has reported a shard.
    Holders(Vec<Option<Known>>),
    /// To `Inspect`: for each stripe, the shards held.
    Inspected(Vec<Vec<Inspected>>),
    /// To `Link`: a [`Published`](potluck_spaces::Published), without what is for those who read its space; none when the other knows of none.
    Link(Option<ByteBuf>),
    /// To `LinkShare`: none when as many have it as may.
    LinkShare(Option<KeyShare>),
    /// The request cannot be fulfilled.
    Failed(String),
}

/// A shard that a node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Inspected {
    pub(crate) index: u8,
    pub(crate) geometry: Geometry,
    /// When it was found sound last, at the earliest.
    pub(crate) verified_at: Timestamp,
}

/// What a steward knows of a stripe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(crate) geometry: Geometry,
    pub(crate) shard_len: u32,
    pub(crate) holders: Vec<(NodeId, u8)>,
    /// How many losses it survives now; nothing when it cannot be read.
    pub(crate) survives: Option<u8>,
    pub(crate) work: StripeWork,
}

/// What a steward knows of how many losses a stripe survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Survival {
    /// Nobody has reported a shard of it.
    Unknown,
    /// Too few shards of it answer.
    Unreadable,
    /// So many losses.
    Survives(u8),
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
    /// A part of the shard, and the proof that it is, please.
    Challenge { shard: ShardId, part: u32 },
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
    /// The node held it until now, and found it damaged.
    Damaged,
    /// To `Challenge`: the body is the part.
    Proof { descriptor: ByteBuf, proof: Proof },
    /// To `Drop`.
    Dropped,
    /// To `Drop`: the asker is not known to look after the stripe, or not for long enough.
    Early,
    /// It could not be done.
    Failed(String),
}

/// Stripes that one `Locate`, `Spaces`, `Liveness`, `Released` or `Survival` names at most, and shards that one page of a report does.
pub(crate) const BATCH_MAX: usize = 4096;
/// Stripes that one `Holders` or `Inspect` names at most: an answer has up to a kilobyte for each.
pub(crate) const HOLDERS_MAX: usize = 1024;

/// Spaces that one `Compare` names at most.
pub(crate) const COMPARED_MAX: usize = 256;

pub(crate) fn encode<T: Serialize>(value: &T) -> Message {
    Message::new(to_canonical(value))
}

pub(crate) fn encode_with<T: Serialize>(value: &T, body: Bytes) -> Message {
    Message {
        header: to_canonical(value).into(),
        body,
    }
}

/// What a message says; what a later version says besides is passed over.
pub(crate) fn decode<T: Serialize + DeserializeOwned>(message: &Message) -> Result<T, CodecError> {
    from_canonical_or_later(&message.header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Genesis, VERSION, sign};
    use ipld_core::ipld::Ipld;
    use potluck_crypto::SigningKey;
    use potluck_types::from_canonical;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// With one more field in each record that has several; what has one key is a choice.
    fn say_more(value: &mut Ipld) {
        match value {
            Ipld::List(items) => items.iter_mut().for_each(say_more),
            Ipld::Map(fields) => {
                fields.values_mut().for_each(say_more);
                if fields.len() > 1 {
                    fields.insert("a-later-field".to_owned(), Ipld::List(vec![Ipld::Null]));
                }
            }
            _ => {}
        }
    }

    /// Also from a later version that says more.
    fn comes_back<T: Serialize + DeserializeOwned + std::fmt::Debug>(message: &T) {
        let sent = encode(message);
        let mut later: Ipld = from_canonical(&sent.header).unwrap();
        say_more(&mut later);
        for sent in [sent, encode(&later)] {
            let back: T = decode(&sent).unwrap();
            assert_eq!(format!("{back:?}"), format!("{message:?}"));
        }
    }

    #[test]
    fn a_record_that_only_a_later_version_knows_keeps_nobody_from_the_others() {
        let genesis = Genesis {
            version: VERSION,
            name: "home".to_owned(),
            created: Timestamp::from_millis(1),
            nonce: [2; 16],
        };
        let known = PoolRecord::Genesis(sign(&SigningKey::from_seed(&[3; 32]), &genesis));
        let later = to_canonical(&BTreeMap::from([("Motion", "to be voted on")]));
        assert!(PoolRecord::from_bytes(&later).is_err());
        let all = [known.to_bytes(), later, known.to_bytes()].map(ByteBuf::from);
        let sent = decode::<PoolReply>(&encode(&BTreeMap::from([("Records", all)]))).unwrap();
        let PoolReply::Records(sent) = sent else {
            panic!("{sent:?}");
        };
        assert_eq!(sent.known().collect::<Vec<_>>(), [known.clone(), known]);
    }

    /// A type that has no encoding fails when it is first sent: so each is sent here.
    #[test]
    fn every_message_comes_back() {
        let (space, stripe) = (SpaceId::from_bytes([1; 32]), StripeId::from_bytes([2; 32]));
        let (shard, hash) = (ShardId { stripe, index: 3 }, Hash::of(b"x"));
        let (device, link) = (NodeId::from_bytes([4; 32]), LinkId::from_bytes([9; 16]));
        let geometry = Geometry::new(3, 2).unwrap();
        let reported = Reported {
            shard,
            geometry,
            shard_len: 5,
            space: Some(space),
        };
        let requests = [
            PoolRequest::Hello {
                digest: hash,
                state: None,
            },
            PoolRequest::Records(Sent::default()),
            PoolRequest::PullRecords,
            PoolRequest::Report {
                first: true,
                shards: vec![reported],
                gone: vec![shard],
            },
            PoolRequest::CheckReports {
                count: 1,
                sum: [7; 16],
                view: hash,
            },
            PoolRequest::Locate { stripes: vec![stripe] },
            PoolRequest::Append {
                space,
                entries: vec![ByteBuf::from(vec![1])],
            },
            PoolRequest::Frontier {
                space,
                is_chartered: true,
                digest: Some(hash),
            },
            PoolRequest::Frontier {
                space,
                is_chartered: false,
                digest: None,
            },
            PoolRequest::Compare(vec![(space, hash)]),
            PoolRequest::Charter {
                space,
                records: vec![ByteBuf::from(vec![1])],
            },
            PoolRequest::Fetch {
                space,
                device,
                after: 9,
            },
            PoolRequest::GivenUp { space, seq: 9, hash },
            PoolRequest::Liveness {
                space,
                stripes: vec![stripe],
            },
            PoolRequest::Released {
                space,
                stripes: vec![stripe],
            },
            PoolRequest::Health,
            PoolRequest::Survival { stripes: vec![stripe] },
            PoolRequest::Spaces { stripes: vec![stripe] },
            PoolRequest::Probe,
            PoolRequest::StateOf { node: device },
            PoolRequest::Holders { stripes: vec![stripe] },
            PoolRequest::Inspect { stripes: vec![stripe] },
            PoolRequest::Recount,
            PoolRequest::Link { space, link },
            PoolRequest::LinkShare {
                space,
                link,
                proof: hash,
            },
        ];
        requests.iter().for_each(comes_back);
        let health = HealthInfo {
            survives: [(2, 300)].into(),
            waiting: [("grace".to_owned(), 1)].into(),
            ..HealthInfo::default()
        };
        let position = Position {
            seq: 1,
            hash,
            clock: Timestamp::from_millis(3),
        };
        let replies = [
            PoolReply::Hello {
                digest: hash,
                state: None,
            },
            PoolReply::Records(Sent::default()),
            PoolReply::Done,
            PoolReply::Differs,
            PoolReply::OtherView,
            PoolReply::Located(vec![vec![0, 3]]),
            PoolReply::Spaces(vec![None, Some(space)]),
            PoolReply::Same,
            PoolReply::Frontier(vec![(device, position)]),
            PoolReply::Compared(vec![true, false]),
            PoolReply::Entries(vec![ByteBuf::from(vec![1])]),
            PoolReply::Logs {
                known: Vec::new(),
                charter: Some(hash),
            },
            PoolReply::Charter(vec![ByteBuf::from(vec![1])]),
            PoolReply::Liveness(vec![PinState::default()]),
            PoolReply::Health {
                counts: health,
                used: ByteSize(7),
            },
            PoolReply::Survival(None),
            PoolReply::Probe {
                now: Timestamp::from_millis(5),
                reached: vec![("/ip4/127.0.0.1/tcp/1".to_owned(), true)],
            },
            PoolReply::Survival(Some(vec![
                Survival::Unknown,
                Survival::Unreadable,
                Survival::Survives(2),
            ])),
            PoolReply::Holders(vec![
                None,
                Some(Known {
                    geometry,
                    shard_len: 8,
                    holders: vec![(device, 2)],
                    survives: Some(1),
                    work: StripeWork::Waiting {
                        cause: "grace".to_owned(),
                        until: Some(Timestamp::from_millis(4)),
                    },
                }),
            ]),
            PoolReply::Inspected(vec![vec![Inspected {
                index: 1,
                geometry,
                verified_at: Timestamp::from_millis(4),
            }]]),
            PoolReply::Link(Some(ByteBuf::from(vec![1]))),
            PoolReply::Link(None),
            PoolReply::LinkShare(Some(KeyShare::from_bytes([8; 32]))),
            PoolReply::LinkShare(None),
            PoolReply::Failed("no".to_owned()),
        ];
        replies.iter().for_each(comes_back);
        let shards = [
            ShardRequest::Put {
                space,
                index: 1,
                descriptor: ByteBuf::from(vec![1]),
            },
            ShardRequest::Get(shard),
            ShardRequest::Drop(shard),
            ShardRequest::Challenge { shard, part: 7 },
        ];
        shards.iter().for_each(comes_back);
    }

    proptest! {
        #[test]
        fn hostile_messages_never_panic(bytes: Vec<u8>) {
            let message = Message::new(bytes);
            let _ = decode::<JoinRequest>(&message);
            let _ = decode::<PoolRequest>(&message);
            let _ = decode::<PoolReply>(&message);
            let _ = decode::<ShardRequest>(&message);
            let _ = decode::<ShardReply>(&message);
            let _ = decode::<PoolRecord>(&message);
        }
    }
}
