//! The server side of every protocol: a whole node in a network of one process, asked by a member of another person and by a stranger.
//!
//! All keys are fixed, and so is the pool's id: what the fuzzer found in one run makes sense in the next. What an input changes of who belongs is
//! undone before the next.

use crate::{
    api::NodeConfig,
    charters,
    home::{self, Home},
    meta::{Invite, Meta},
    node::Node,
    protocol::{
        Credential, JoinReply, JoinRequest, PoolReply, PoolRequest, ShardReply, ShardRequest, decode, encode,
        encode_with,
    },
    records::{Admission, Certificate, Genesis, NodeState, PoolRecord, Sent, VERSION, pool_id, sign},
    roster::Roster,
    world::{Network, SystemStorage, World},
};
use bytes::Bytes;
use potluck_crypto::{Signed, SigningKey, Speakers, TicketSecret, UserKeys, derive::private_space_id};
use potluck_net::{Endpoint, MemoryNetwork, Message, Protocol, RequestError};
use potluck_spaces::{Charter, Entry, Log, Logged, Share};
use potluck_types::{
    ByteSize, Descriptor, Entropy, Geometry, Hash, NodeId, ShardId, SpaceId, Timestamp, UnverifiedShard,
    from_canonical, to_canonical,
};
use serde_bytes::ByteBuf;
use std::{future::Future, os::unix::fs::OpenOptionsExt, path::Path, time::Duration};
use tokio::runtime::Runtime;

/// An answer that takes longer never comes.
const PATIENCE: Duration = Duration::from_secs(20);
/// Small, so that a store that is full is tried, too.
const CAPACITY: ByteSize = ByteSize(128 << 20);
/// Tickets, for another person's node and for one of the node's own person.
const TICKETS: [(TicketSecret, bool); 2] = [
    (TicketSecret::from_bytes([0x70; 16]), false),
    (TicketSecret::from_bytes([0x71; 16]), true),
];

/// Who is who.
struct Keys {
    node: SigningKey,
    user: SigningKey,
    member: SigningKey,
    other_user: SigningKey,
    stranger: SigningKey,
    strange_user: SigningKey,
}

fn keys() -> Keys {
    let key = |seed| SigningKey::from_seed(&[seed; 32]);
    Keys {
        node: key(0x11),
        user: key(0x12),
        member: key(0x21),
        other_user: key(0x22),
        stranger: key(0x31),
        strange_user: key(0x32),
    }
}

/// The pool of the node and the member.
fn roster() -> Roster {
    let keys = keys();
    let genesis = Genesis {
        version: VERSION,
        name: "fuzz".to_owned(),
        created: Timestamp::from_millis(1),
        nonce: [0; 16],
    };
    let genesis = sign(&keys.user, &genesis);
    let pool = pool_id(&genesis);
    let admission = Admission {
        version: VERSION,
        pool,
        user: keys.other_user.user_id(),
        at: Timestamp::from_millis(2),
    };
    let mut roster = Roster::new(genesis).expect("its own record");
    let records = [
        PoolRecord::Admission(sign(&keys.user, &admission)),
        PoolRecord::Certificate(certificate(&keys.user, &roster, keys.node.node_id())),
        PoolRecord::Certificate(certificate(&keys.other_user, &roster, keys.member.node_id())),
    ];
    for record in &records {
        roster.merge(record).expect("its own record");
    }
    roster
}

fn certificate(user: &SigningKey, roster: &Roster, node: NodeId) -> Signed<Certificate> {
    let keys = UserKeys::new(user.clone());
    sign(user, &Certificate::new(&keys, roster.pool(), node, 1))
}

/// See the module.
pub struct Server {
    runtime: Runtime,
    node: Node,
    member: Endpoint,
    stranger: Endpoint,
    roster: Roster,
}

impl Server {
    /// Runs a node in this folder, which is empty.
    pub fn start(folder: &Path) -> Self {
        let (keys, roster) = (keys(), roster());
        furnish(folder, &keys, &roster);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (node, member, stranger) = runtime.block_on(async {
            let network = MemoryNetwork::default();
            let others = [keys.member.node_id(), keys.stranger.node_id()].map(|id| {
                let (endpoint, mut inbox) = network.join(id);
                // Whatever the node asks of them, they do not answer.
                tokio::spawn(async move { while inbox.requests.recv().await.is_some() {} });
                endpoint
            });
            let config = NodeConfig {
                home: folder.to_owned(),
                listen: Vec::new(),
                announce: Vec::new(),
                capacity: CAPACITY,
                zone: None,
                region: None,
                name: None,
                mdns: false,
                relay: true,
                grace: Duration::from_secs(3600),
                retention: Duration::ZERO,
                mass_change_share: Share::HALF,
                passphrase: None,
                world: World {
                    network: Network::Memory(network),
                    ..World::default()
                },
            };
            let node = Node::start(config).await;
            let [member, stranger] = others;
            (node.expect("a home that was just furnished"), member, stranger)
        });
        Self {
            runtime,
            node,
            member,
            stranger,
            roster,
        }
    }

    /// The node that is asked.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Runs something beside the node, which goes on meanwhile.
    ///
    /// # Panics
    /// When it does not end.
    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let done = self
            .runtime
            .block_on(async { tokio::time::timeout(PATIENCE, work).await });
        done.expect("it hangs")
    }

    /// Undoes what was changed of who belongs.
    pub fn reset(&self) {
        let shared = self.node.shared();
        shared.with_control(|control| control.roster = self.roster.clone());
        shared.endpoint.set_members(self.roster.members());
    }

    fn ask(&self, asker: &Endpoint, protocol: Protocol, message: &Message) -> Result<Message, RequestError> {
        self.run(async {
            let node = self.node.shared().me();
            asker.connect(node, Vec::new()).await.expect("the node is there");
            asker.request(node, protocol, message).await
        })
    }

    /// A request to be let in. The first byte: 0 for one as it is; else a certificate follows, which is signed by the stranger's person and sent with
    /// a ticket (1), signed by one who is a member (2), or by the stranger's person, without a ticket (3).
    ///
    /// # Panics
    /// When the node gives what it must not.
    pub fn join(&self, bytes: &[u8]) {
        let Some((mode, bytes)) = bytes.split_first() else {
            return;
        };
        let request = match mode {
            0 => Some(Message::new(bytes.to_vec())),
            _ => from_canonical::<Certificate>(bytes)
                .ok()
                .map(|certificate| encode(&self.join_request(*mode, &certificate))),
        };
        let Some(request) = request else { return };
        let answer = self.ask(&self.stranger, Protocol::Join, &request);
        let asked = decode::<JoinRequest>(&request);
        assert_eq!(answer.is_ok(), asked.is_ok(), "{asked:?}");
        if let (Ok(answer), Ok(asked)) = (answer, asked)
            && let JoinReply::Welcome { user_seed, .. } = decode(&answer).expect("a reply")
        {
            self.may_be_let_in(&asked, user_seed.is_some());
        }
        self.reset();
    }

    fn join_request(&self, mode: u8, value: &Certificate) -> JoinRequest {
        let keys = keys();
        let credential = match mode {
            1 => Credential::Ticket {
                secret: *TICKETS[0].0.as_bytes(),
                certificate: sign(&keys.strange_user, value),
            },
            2 => Credential::Member {
                certificate: sign(&keys.other_user, value),
            },
            _ => Credential::Member {
                certificate: sign(&keys.strange_user, value),
            },
        };
        JoinRequest {
            pool: self.roster.pool(),
            credential,
        }
    }

    fn may_be_let_in(&self, asked: &JoinRequest, with_user_key: bool) {
        assert_eq!(asked.pool, self.roster.pool());
        let is_ticket = |secret: &[u8; 16], mine| {
            TICKETS
                .iter()
                .any(|ticket| ticket.0.as_bytes() == secret && ticket.1 == mine)
        };
        let speaker = |certificate: &Signed<Certificate>| {
            let verified = certificate.open().expect("a good signature");
            assert_eq!(verified.value().node, self.stranger.id());
            verified.signer().user_id()
        };
        match &asked.credential {
            Credential::Ticket { secret, certificate } => {
                assert!(is_ticket(secret, false) && !with_user_key);
                speaker(certificate);
            }
            Credential::TicketForMine { secret } => assert!(is_ticket(secret, true) && with_user_key),
            Credential::Member { certificate } => {
                assert!(self.roster.is_user(speaker(certificate)) && !with_user_key);
            }
            Credential::Standing => panic!("let in for nothing"),
        }
    }

    /// A message about the pool. The first byte: 0 for a member's, as it is; 1 for a stranger's; else what follows is signed by the member: a log
    /// entry as it is (2) or made to go on where the log is (3), a certificate (4), an admission (5), a state (6).
    ///
    /// # Panics
    /// When the node takes what it must not.
    pub fn pool(&self, bytes: &[u8]) {
        let Some((mode, bytes)) = bytes.split_first() else {
            return;
        };
        let (keys, message) = (keys(), Message::new(bytes.to_vec()));
        if *mode == 1 {
            let answer = self.ask(&self.stranger, Protocol::Pool, &message);
            assert!(matches!(answer, Err(RequestError::NotAMember)), "{answer:?}");
            return;
        }
        let record = |record: PoolRecord| encode(&PoolRequest::Records(Sent::of([&record])));
        let message = match mode {
            0 => Some(message),
            2 | 3 => self.append(bytes, *mode == 3),
            4 => from_canonical::<Certificate>(bytes)
                .ok()
                .map(|value| record(PoolRecord::Certificate(sign(&keys.other_user, &value)))),
            5 => from_canonical::<Admission>(bytes)
                .ok()
                .map(|value| record(PoolRecord::Admission(sign(&keys.other_user, &value)))),
            _ => from_canonical::<NodeState>(bytes)
                .ok()
                .and_then(|value| Signed::sign(&keys.member, &value).ok())
                .map(|signed| record(PoolRecord::State(signed))),
        };
        let Some(message) = message else { return };
        let answer = self.ask(&self.member, Protocol::Pool, &message);
        let request = decode::<PoolRequest>(&message);
        assert_eq!(answer.is_ok(), request.is_ok(), "{answer:?}");
        if let (Ok(answer), Ok(request)) = (answer, request) {
            let reply = decode::<PoolReply>(&answer).expect("a reply");
            if let (PoolRequest::Append { entries, .. }, PoolReply::Done) = (request, reply) {
                assert!(entries.iter().all(|entry| self.may_be_kept(entry)));
            }
        }
        let me = self.node.shared().me();
        let owner = self.node.shared().with_control(|control| control.roster.owner_of(me));
        assert_eq!(owner, Some(keys.user.user_id()));
        self.reset();
    }

    fn append(&self, bytes: &[u8], goes_on: bool) -> Option<Message> {
        let (keys, mut entry) = (keys(), from_canonical::<Entry>(bytes).ok()?);
        let space = private_space_id(keys.other_user.user_id());
        if goes_on {
            let kv = self.node.shared().read().expect("its database");
            let frontier = Log::of(space).frontier(&kv).expect("its database");
            let position = frontier.get(&keys.member.node_id());
            entry.space = space;
            entry.seq = position.map_or(1, |position| position.seq + 1);
            entry.previous = position.map(|position| position.hash);
        }
        let space = entry.space;
        let logged = Logged::sign(&keys.member, entry).ok()?;
        Some(encode(&PoolRequest::Append {
            space,
            entries: vec![ByteBuf::from(logged.to_bytes())],
        }))
    }

    fn may_be_kept(&self, entry: &[u8]) -> bool {
        let logged = Logged::from_bytes(entry).expect("an entry");
        let (entry, device) = logged.open().expect("a good signature");
        let owner = self.roster.owner_of(device).expect("a member");
        let kv = self.node.shared().read().expect("its database");
        let shared = self.node.shared();
        let charter = shared.charters.of(&kv, entry.space).expect("its database");
        if let Some(erased) = entry.erases {
            let may_erase = charters::may_erase(shared, &kv, entry.space, device, erased.device);
            assert!(may_erase.expect("its database"));
        }
        entry.space == private_space_id(owner) || charter.may_write(owner, device, entry.seq, entry.clock, entry.area)
    }

    /// A message about shards. The first byte: 0 for a member's, 1 for a stranger's, then two bytes of length, the header, and the body; 2 for a
    /// shard that is what it says: *k*, *m*, its index, its payload.
    ///
    /// # Panics
    /// When the node stores what it must not, or gives something else.
    pub fn shards(&self, bytes: &[u8]) {
        let Some(([mode, a, b], rest)) = bytes.split_first_chunk::<3>() else {
            return;
        };
        let message = match mode {
            2 => well_made([*a, *b], rest),
            _ => rest
                .split_at_checked(usize::from(u16::from_le_bytes([*a, *b])))
                .map(|(header, body)| Message {
                    header: header.to_vec().into(),
                    body: body.to_vec().into(),
                }),
        };
        let Some(message) = message else { return };
        if *mode == 1 {
            let answer = self.ask(&self.stranger, Protocol::Shard, &message);
            assert!(matches!(answer, Err(RequestError::NotAMember)), "{answer:?}");
            return;
        }
        let answer = self.ask(&self.member, Protocol::Shard, &message);
        let request = decode::<ShardRequest>(&message);
        assert_eq!(answer.is_ok(), request.is_ok(), "{answer:?}");
        let (Ok(answer), Ok(request)) = (answer, request) else {
            return;
        };
        match (request, decode::<ShardReply>(&answer).expect("a reply")) {
            (ShardRequest::Put { index, descriptor, .. }, ShardReply::Stored) => {
                self.holds(unverified(descriptor, index, message.body));
            }
            (ShardRequest::Get(id), ShardReply::Shard { index, descriptor, .. }) => {
                assert_eq!(index, id.index);
                unverified(descriptor, index, answer.body)
                    .verify(id.stripe)
                    .expect("what was asked for");
            }
            (ShardRequest::Challenge { shard, part }, ShardReply::Proof { descriptor, proof }) => {
                let descriptor = Descriptor::from_bytes(&descriptor).expect("a descriptor");
                let root = descriptor.shard_hash(shard.index).expect("it has the shard");
                assert!(
                    descriptor.id() == shard.stripe && proof.holds(root, descriptor.shard_len(), part, &answer.body)
                );
            }
            (ShardRequest::Drop(_), reply) => assert!(!matches!(reply, ShardReply::Dropped), "no steward asked"),
            _ => {}
        }
    }

    /// What was stored is what its hash says, and comes back.
    fn holds(&self, shard: UnverifiedShard) {
        let shard = shard.verify_any().expect("only what verifies is stored");
        let request = encode(&ShardRequest::Get(shard.id()));
        let answer = self.ask(&self.member, Protocol::Shard, &request).expect("an answer");
        assert_eq!(&answer.body, shard.payload());
    }
}

fn unverified(descriptor: ByteBuf, index: u8, payload: Bytes) -> UnverifiedShard {
    UnverifiedShard {
        descriptor: descriptor.into_vec().into(),
        index,
        payload,
    }
}

/// A request to store a shard whose descriptor fits.
fn well_made([k, m]: [u8; 2], bytes: &[u8]) -> Option<Message> {
    let (index, payload) = bytes.split_first()?;
    let geometry = Geometry::new(k, m)?;
    let sealed_len = u32::try_from(payload.len()).ok()?.checked_mul(k.into())?;
    let hashes = vec![Hash::of(payload); geometry.n().into()];
    let descriptor = Descriptor::new(geometry, sealed_len, hashes).ok()?;
    let request = ShardRequest::Put {
        space: SpaceId::from_bytes([9; 32]),
        index: *index,
        descriptor: ByteBuf::from(descriptor.to_bytes()),
    };
    Some(encode_with(&request, payload.to_vec().into()))
}

/// A space of this person's, the same each time.
fn founded_by(user: &SigningKey) -> Charter {
    struct Sevens;
    impl Entropy for Sevens {
        fn fill(&self, buffer: &mut [u8]) {
            buffer.fill(7);
        }
    }
    let keys = UserKeys::new(user.clone());
    Charter::found(&keys, &Speakers::default(), Timestamp::from_millis(1), &Sevens).expect("a good key")
}

/// Writes a bit of everything into a database.
pub(super) fn fill(meta: &Meta) {
    let (keys, roster) = (keys(), roster());
    meta.set_records(roster.records()).expect("it is new");
    invite(meta);
    let space = private_space_id(keys.other_user.user_id());
    for number in 1..20u8 {
        let body = potluck_spaces::Body {
            pins: vec![potluck_types::StripeId::from_bytes([number; 32]); 2],
            sealed: vec![number; 300],
            ..potluck_spaces::Body::default()
        };
        let written = meta.write(|kv| {
            let entry = Log::of(space).next_entry(kv, &keys.member, Timestamp::from_millis(number.into()), body)?;
            Log::of(space).append(kv, &entry)?;
            kv.set_stored(&[number; 32], &[number; 90])?;
            kv.set_upload(
                space,
                potluck_spaces::FileId::from_bytes([number; 16]),
                Timestamp::from_millis(1),
            )?;
            Ok::<_, crate::error::NodeError>(())
        });
        written.expect("it is new");
    }
}

fn invite(meta: &Meta) {
    for (secret, mine) in &TICKETS {
        let invite = Invite {
            expires: Timestamp::from_millis(u64::MAX),
            uses_left: u32::MAX,
            mine: *mine,
            generation: 0,
            used_by: Vec::new(),
        };
        meta.with_invite(secret.hash(), |slot| *slot = Some(invite))
            .expect("it is new");
    }
}

/// Writes all that a home of the pool has.
fn furnish(folder: &Path, keys: &Keys, roster: &Roster) {
    use std::io::Write;
    for (name, key) in [("node.key", &keys.node), ("user.key", &keys.user)] {
        let mut options = std::fs::OpenOptions::new();
        let file = options.create_new(true).write(true).mode(0o600).open(folder.join(name));
        let text = home::keys_text(&UserKeys::new(key.clone()));
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .expect("an empty folder");
    }
    let home = Home::take(folder, &SystemStorage).expect("nobody else uses it");
    let meta = Meta::open(&home.disk()).expect("there is none yet");
    meta.set_records(roster.records()).expect("it is new");
    invite(&meta);
    home.set_pool(roster.pool()).expect("nobody else uses it");
}

/// Inputs of [`Server::join`], [`Server::pool`] and [`Server::shards`] that come far, with the names of their targets.
pub(super) fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let (keys, roster) = (keys(), roster());
    let pool = roster.pool();
    let with = |mode: u8, bytes: &[u8]| [&[mode], bytes].concat();
    let join = |credential| with(0, &to_canonical(&JoinRequest { pool, credential }));
    let certificate = Certificate::new(&UserKeys::new(keys.stranger.clone()), pool, keys.stranger.node_id(), 1);
    let admission = Admission {
        version: VERSION,
        pool,
        user: keys.strange_user.user_id(),
        at: Timestamp::from_millis(3),
    };
    let state = NodeState {
        used: ByteSize(5),
        ..NodeState::sample(pool, 2, 1 << 30)
    };
    let space = private_space_id(keys.other_user.user_id());
    let stripe = potluck_types::StripeId::from_bytes([2; 32]);
    let shard = ShardId { stripe, index: 1 };
    let body = potluck_spaces::Body {
        pins: vec![stripe],
        sealed: vec![0; 48],
        ..potluck_spaces::Body::default()
    };
    let entry = Log::of(space).next_entry(
        &potluck_spaces::MemoryKv::default(),
        &keys.member,
        Timestamp::from_millis(1),
        body,
    );
    let entry = entry.expect("a first entry");
    let charter = founded_by(&keys.other_user);
    let records = charter.records().map(|record| ByteBuf::from(record.to_bytes()));
    let (plain, _) = entry.open().expect("its own signature");
    // The number before the first, of a space that its author may not write to.
    let mut zeroth = plain.clone();
    (zeroth.seq, zeroth.space) = (0, private_space_id(keys.strange_user.user_id()));
    let message = |request: &PoolRequest| with(0, &to_canonical(request));
    let stripes = vec![stripe];
    let header = to_canonical(&ShardRequest::Get(shard));
    let get = [&[0, header.len() as u8, 0], &header[..]].concat();
    vec![
        ("join", "standing", join(Credential::Standing)),
        (
            "join",
            "mine",
            join(Credential::TicketForMine {
                secret: *TICKETS[1].0.as_bytes(),
            }),
        ),
        ("join", "ticket", with(1, &to_canonical(&certificate))),
        ("join", "member", with(2, &to_canonical(&certificate))),
        ("join", "alone", with(3, &to_canonical(&certificate))),
        ("pool", "health", message(&PoolRequest::Health)),
        ("pool", "pull", message(&PoolRequest::PullRecords)),
        (
            "pool",
            "charter",
            message(&PoolRequest::Charter {
                space: charter.space(),
                records: records.collect(),
            }),
        ),
        (
            "pool",
            "frontier",
            message(&PoolRequest::Frontier {
                space,
                is_chartered: true,
                digest: None,
            }),
        ),
        (
            "pool",
            "compare",
            message(&PoolRequest::Compare(vec![(space, Hash::of(b"x"))])),
        ),
        (
            "pool",
            "fetch",
            message(&PoolRequest::Fetch {
                space,
                device: keys.member.node_id(),
                after: 0,
            }),
        ),
        (
            "pool",
            "liveness",
            message(&PoolRequest::Liveness {
                space,
                stripes: stripes.clone(),
            }),
        ),
        (
            "pool",
            "released",
            message(&PoolRequest::Released {
                space,
                stripes: stripes.clone(),
            }),
        ),
        ("pool", "locate", message(&PoolRequest::Locate { stripes })),
        (
            "pool",
            "append",
            message(&PoolRequest::Append {
                space,
                entries: vec![ByteBuf::from(entry.to_bytes())],
            }),
        ),
        ("pool", "stranger", with(1, &to_canonical(&PoolRequest::Probe))),
        ("pool", "entry", with(2, &to_canonical(&plain))),
        ("pool", "zeroth", with(2, &to_canonical(&zeroth))),
        ("pool", "next", with(3, &to_canonical(&plain))),
        ("pool", "certificate", with(4, &to_canonical(&certificate))),
        ("pool", "admission", with(5, &to_canonical(&admission))),
        ("pool", "state", with(6, &to_canonical(&state))),
        ("shards", "get", get.clone()),
        ("shards", "stranger", [&[1], &get[1..]].concat()),
        ("shards", "copy", [&[2, 1, 1, 0], &b"potluck"[..]].concat()),
        ("shards", "coded", [&[2, 3, 2, 1], &[7; 64][..]].concat()),
    ]
}
