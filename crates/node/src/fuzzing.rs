//! Doors for the fuzzer: decoders that no other crate sees. Only there when it builds.

use crate::{
    api::HealthInfo,
    protocol::{
        Credential, JoinReply, JoinRequest, PoolReply, PoolRequest, Reported, ShardReply, ShardRequest, Survival,
        decode, encode,
    },
    records::{Certificate, Genesis, NodeState, PoolRecord, VERSION, pool_id, sign},
    roster::Roster,
};
use potluck_crypto::SigningKey;
use potluck_net::Message;
use potluck_types::{ByteSize, Geometry, Hash, ShardId, SpaceId, StripeId, Timestamp, to_canonical};
use serde::{Serialize, de::DeserializeOwned};

/// Bytes that a peer sends as a message, of any kind: what is taken has one encoding only.
///
/// # Panics
/// When it has another.
pub fn message(bytes: &[u8]) {
    fn check<T: Serialize + DeserializeOwned>(message: &Message) {
        if let Ok(value) = decode::<T>(message) {
            assert_eq!(encode(&value).header, message.header);
        }
    }
    let message = Message::new(bytes.to_vec());
    check::<JoinRequest>(&message);
    check::<JoinReply>(&message);
    check::<PoolRequest>(&message);
    check::<PoolReply>(&message);
    check::<ShardRequest>(&message);
    check::<ShardReply>(&message);
}

/// Bytes that a peer sends as a record of the pool's membership.
///
/// # Panics
/// When what is taken has another encoding.
pub fn record(bytes: &[u8]) {
    let Ok(record) = PoolRecord::from_bytes(bytes) else {
        return;
    };
    assert_eq!(record.to_bytes(), bytes);
    if let PoolRecord::Genesis(genesis) = &record
        && let Ok(mut roster) = Roster::new(genesis.clone())
    {
        let _ = roster.merge(&record);
    }
}

/// Messages and records that are taken, with names, for the fuzzer to begin from.
pub fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let (space, stripe) = (SpaceId::from_bytes([1; 32]), StripeId::from_bytes([2; 32]));
    let (shard, key) = (ShardId { stripe, index: 1 }, SigningKey::from_seed(&[3; 32]));
    let genesis = Genesis {
        version: VERSION,
        name: "home".to_owned(),
        created: Timestamp::from_millis(1),
        nonce: [0; 16],
    };
    let genesis = sign(&key, &genesis);
    let pool = pool_id(&genesis);
    let certificate = Certificate {
        version: VERSION,
        pool,
        node: key.node_id(),
        seq: 1,
        active: true,
    };
    let certificate = sign(&key, &certificate);
    let state = NodeState {
        version: VERSION,
        pool,
        seq: 1,
        capacity: ByteSize(1 << 30),
        used: ByteSize(0),
        zone: "attic".parse().ok(),
        addresses: vec!["/ip4/192.0.2.1/tcp/4720".to_owned()],
        leaving: false,
        software: "0".to_owned(),
        name: "nas".parse().ok(),
        revision: 1,
        run: Timestamp::from_millis(1),
    };
    let state = PoolRecord::State(sign(&key, &state));
    let report = PoolRequest::Report {
        first: true,
        shards: vec![Reported {
            shard,
            geometry: Geometry::new(3, 2).expect("possible"),
            shard_len: 5,
        }],
        gone: vec![shard],
    };
    let check = PoolRequest::CheckReports {
        count: 1,
        sum: [7; 16],
        view: Hash::of(b"x"),
    };
    let join = JoinRequest {
        pool,
        credential: Credential::Member {
            certificate: certificate.clone(),
        },
    };
    let hello = PoolRequest::Hello {
        digest: Hash::of(b"x"),
        state: Some(state.clone()),
    };
    let put = ShardRequest::Put {
        space,
        index: 1,
        descriptor: vec![1, 2].into(),
    };
    let health = HealthInfo {
        survives: [(2, 300)].into(),
        ..HealthInfo::default()
    };
    let append = PoolRequest::Append {
        space,
        entries: vec![vec![1].into()],
    };
    vec![
        ("message", "join", to_canonical(&join)),
        ("message", "hello", to_canonical(&hello)),
        ("message", "report", to_canonical(&report)),
        ("message", "check", to_canonical(&check)),
        ("message", "append", to_canonical(&append)),
        (
            "message",
            "located",
            to_canonical(&PoolReply::Located(vec![vec![0, 3]])),
        ),
        (
            "message",
            "survival",
            to_canonical(&PoolReply::Survival(Some(vec![Survival::Survives(2)]))),
        ),
        (
            "message",
            "health",
            to_canonical(&PoolReply::Health {
                counts: health,
                used: ByteSize(7),
            }),
        ),
        ("message", "put", to_canonical(&put)),
        ("message", "get", to_canonical(&ShardRequest::Get(shard))),
        ("message", "stored", to_canonical(&ShardReply::Stored)),
        ("record", "genesis", PoolRecord::Genesis(genesis).to_bytes()),
        ("record", "certificate", PoolRecord::Certificate(certificate).to_bytes()),
        ("record", "state", state.to_bytes()),
    ]
}
