//! Doors for the fuzzer: decoders that no other crate sees. Only there when it builds.

mod server;

pub use server::Server;

use crate::{
    api::HealthInfo,
    home::{keys_text, parse_keys},
    locked,
    meta::{Invite, Meta, sound},
    protocol::{
        Credential, JoinReply, JoinRequest, PoolReply, PoolRequest, ShardReply, ShardRequest, Survival, decode, encode,
    },
    records::{Certificate, Genesis, Kept, NodeState, PoolRecord, Residence, Rotation, VERSION, pool_id, sign},
    roster::Roster,
    spare::Reserve,
};
use potluck_crypto::{Recipient, SigningKey, UserKeys};
use potluck_dag::Piece;
use potluck_net::Message;
use potluck_placement::{Layouts, Reported};
use potluck_spaces::{File, Head, Kv, OpId, PinState, Position, Table};
use potluck_types::{
    ByteSize, Geometry, Hash, NodeId, PoolId, ShardId, SpaceId, StripeId, Timestamp, from_canonical, to_canonical,
};
use redb::StorageBackend;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    io,
    sync::{Arc, Mutex, OnceLock},
};

/// A change of [`database`]: four bytes of place, and one of content.
const CHANGE_BYTES: usize = 5;

/// Bytes that a peer sends as a message, of any kind: what is taken has one meaning.
///
/// # Panics
/// When it says something else once it was read and written.
pub fn message(bytes: &[u8]) {
    fn check<T: Serialize + DeserializeOwned>(message: &Message) {
        if let Ok(value) = decode::<T>(message) {
            let said = encode(&value);
            let again = decode::<T>(&said).expect("what this program says");
            assert_eq!(encode(&again).header, said.header);
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

/// A file of a key, or of keys under a passphrase.
///
/// # Panics
/// When a key is taken from what this program does not write.
pub fn key(bytes: &[u8]) {
    if let Some(locked) = locked::parse(bytes) {
        assert_eq!(to_canonical(&locked), bytes);
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(keys) = parse_keys(text) {
        // A line may end as on another system, and the text with blanks.
        assert!(
            keys_text(&keys)
                .lines()
                .zip(text.trim_end().lines())
                .all(|(written, read)| written.eq_ignore_ascii_case(read))
        );
    }
    let _ = text.trim().parse::<PoolId>();
}

/// What a link shows.
///
/// # Panics
/// When what is taken has another encoding.
pub fn listing(bytes: &[u8]) {
    if let Some(files) = crate::links::read_listing(bytes) {
        assert_eq!(crate::links::listing_of(files), bytes);
    }
}

/// A value of the metadata database, of any kind.
///
/// # Panics
/// When what is taken has another encoding.
pub fn value(bytes: &[u8]) {
    fn check<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
        if let Ok(value) = from_canonical::<T>(bytes) {
            assert_eq!(to_canonical(&value), bytes);
        }
    }
    check::<u32>(bytes);
    check::<Layouts>(bytes);
    check::<(Timestamp, Vec<(NodeId, Timestamp)>)>(bytes);
    check::<Invite>(bytes);
    check::<crate::links::Readers>(bytes);
    check::<potluck_spaces::Published>(bytes);
    check::<Position>(bytes);
    check::<Vec<Head>>(bytes);
    check::<Vec<StripeId>>(bytes);
    check::<((Timestamp, OpId), File)>(bytes);
    check::<PinState>(bytes);
    check::<Piece>(bytes);
}

/// A database's bytes, in memory.
#[derive(Clone, Debug, Default)]
struct Bytes(Arc<Mutex<Vec<u8>>>);

impl Bytes {
    fn with<R>(&self, look: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        look(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl StorageBackend for Bytes {
    fn len(&self) -> io::Result<u64> {
        Ok(self.with(|bytes| bytes.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|bytes| {
            let from = usize::try_from(offset).unwrap_or(usize::MAX);
            let found = bytes.get(from..from.saturating_add(out.len()));
            out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > 1 << 28 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.with(|bytes| bytes.resize(len as usize, 0));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(|bytes| {
            let from = usize::try_from(offset).unwrap_or(usize::MAX);
            let place = bytes.get_mut(from..from.saturating_add(data.len()));
            place.ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
            Ok(())
        })
    }
}

/// A database of a bit of everything.
fn sound_database() -> &'static [u8] {
    static SOUND: OnceLock<Vec<u8>> = OnceLock::new();
    SOUND.get_or_init(|| {
        let bytes = Bytes::default();
        let meta = Meta::over(bytes.clone(), Arc::new(Reserve::none())).expect("a new one");
        server::fill(&meta);
        drop(meta);
        bytes.with(|bytes| bytes.clone())
    })
}

/// A metadata database that has other bytes in some places: it is read, or is said to be damaged.
pub fn database(changes: &[u8]) {
    let mut bytes = sound_database().to_vec();
    for change in changes.chunks_exact(CHANGE_BYTES).take(256) {
        let [a, b, c, d, content] = *change else {
            unreachable!("chunks have that length")
        };
        let at = u32::from_le_bytes([a, b, c, d]) as usize % bytes.len();
        bytes[at] = content;
    }
    let bytes = Bytes(Arc::new(Mutex::new(bytes)));
    let Ok(mut meta) = Meta::over(bytes, Arc::new(Reserve::none())) else {
        return;
    };
    let _ = sound(|| {
        meta.remembered()?;
        meta.records()?;
        meta.uploads()?;
        let kv = meta.read()?;
        for table in Table::ALL {
            let _ = kv.scan(table, &[], None, usize::MAX);
        }
        drop(kv);
        meta.check()
    });
}

/// Messages and records that are taken, with names, for the fuzzer to begin from.
pub fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let mut seeds = server::seeds();
    seeds.extend(values());
    seeds
}

/// Values of the metadata database, and texts of the home.
fn values() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let (node, at) = (NodeId::from_bytes([4; 32]), Timestamp::from_millis(5));
    let position = Position {
        seq: 6,
        hash: Hash::of(b"x"),
        clock: at,
    };
    let invite = Invite {
        expires: at,
        uses_left: 2,
        mine: true,
        generation: 1,
        used_by: vec![node],
    };
    let stripes = vec![StripeId::from_bytes([2; 32]); 2];
    let keys = UserKeys::of([7, 8].map(|seed| SigningKey::from_seed(&[seed; 32]))).expect("two");
    let keys = keys_text(&keys).as_bytes().to_vec();
    vec![
        ("meta", "version", to_canonical(&1u32)),
        (
            "meta",
            "standings",
            to_canonical(&(at, vec![(node, crate::standing::Standing::default())])),
        ),
        ("meta", "absences", to_canonical(&(at, vec![(node, at)]))),
        ("meta", "invite", to_canonical(&invite)),
        ("meta", "position", to_canonical(&position)),
        ("meta", "stripes", to_canonical(&stripes)),
        ("meta", "pin", to_canonical(&PinState::default())),
        ("key", "key", keys.clone()),
        // It was taken, and held against what reads it that the text does not end as it was written.
        ("key", "blanks", [&keys[..], b"\x0b"].concat()),
        ("key", "locked", locked::sample()),
        ("database", "one", vec![0, 32, 0, 0, 1]),
        ("database", "sound", Vec::new()),
    ]
}

/// What a link shows: one file.
pub fn listing_seed() -> Vec<u8> {
    let file = potluck_spaces::File {
        id: potluck_spaces::FileId::from_bytes([1; 16]),
        len: 4,
        modified: Timestamp::from_millis(5),
        executable: false,
        content: vec![0; 8].into(),
        uses: Vec::new(),
        survives: 1,
        asked: None,
    };
    let path = "/photos/a".parse().expect("a path");
    crate::links::listing_of([(path, file)].into())
}

/// Messages that are taken, with names, which a stream may carry, too.
pub fn messages() -> Vec<(&'static str, &'static str, Vec<u8>)> {
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
    let certificate = Certificate::new(&UserKeys::new(key.clone()), pool, key.node_id(), 1);
    let certificate = sign(&key, &certificate);
    let state = NodeState {
        zone: "attic".parse().ok(),
        region: "eu".parse().ok(),
        addresses: vec!["/ip4/192.0.2.1/tcp/4720".to_owned()],
        name: "nas".parse().ok(),
        run: Timestamp::from_millis(1),
        doubts: vec![key.node_id()],
        recipient: Some(Recipient::from_bytes([4; 32])),
        ..NodeState::sample(pool, 1, 1 << 30)
    };
    let state = PoolRecord::State(sign(&key, &state));
    let next = SigningKey::from_seed(&[5; 32]);
    let claim = next.sign(&Rotation::claim(pool, key.user_id()));
    let rotation = Rotation {
        version: VERSION,
        pool,
        user: key.user_id(),
        at: Timestamp::from_millis(2),
        key: next.public(),
        claim,
        recipient: Recipient::from_bytes([6; 32]),
        machines: vec![Kept {
            node: key.node_id(),
            seed: vec![7; 80].into(),
        }],
        lost: vec![next.node_id()],
        former: Vec::new(),
        admitted: vec![next.user_id()],
        called: None,
        also: vec![(next.public(), claim)],
        residences: vec![Hash::of(b"x")],
    };
    let rotation = PoolRecord::Rotation(sign(&key, &rotation));
    let residence = Residence {
        version: VERSION,
        pool,
        space: SpaceId::from_bytes([1; 32]),
        at: Timestamp::from_millis(7),
        regions: ["ch", "eu"]
            .into_iter()
            .filter_map(|region| region.parse().ok())
            .collect(),
        founding: None,
    };
    let report = PoolRequest::Report {
        first: true,
        shards: vec![Reported {
            shard,
            geometry: Geometry::new(3, 2).expect("possible"),
            shard_len: 5,
            space: Some(SpaceId::from_bytes([1; 32])),
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
        (
            "record",
            "residence",
            PoolRecord::Residence(sign(&key, &residence)).to_bytes(),
        ),
        ("record", "state", state.to_bytes()),
        ("record", "rotation", rotation.to_bytes()),
    ]
}
