//! Who may do what in a space of several people: by the program as it is, and by one that does not obey and says on the wire whatever it likes, with all the keys that its
//! person has.

use crate::common::{
    Pool, READ, WRITE, bytes, config, connect, eventually, key_in, name, put_into, read, read_when_named, revoke, sees,
    started, within,
};
use crate::share::with_guests;
use potluck_crypto::{BoxKey, Link, LinkId, SigningKey, Speakers, UserKeys};
use potluck_net::{Endpoint, Message, NetworkConfig, Protocol};
use potluck_node::{FileMeta, LinkError, LinkOptions, Node, NodeError, PutOptions, RemoveOptions, Space, Which};
use potluck_spaces::{
    Append, AreaId, Body, Change, Charter, CharterRecord, DirId, EntryId, Fate, File, FileId, GrantTo, Keys, Log,
    Logged, MemoryKv, Name, Path, Position, Publication, Reader, Tree, Value,
};
use potluck_types::{Hash, NodeId, SpaceId, StripeId, SystemEntropy, Timestamp, from_canonical, to_canonical};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::{collections::BTreeSet, time::Duration};
use tempfile::TempDir;

const GRACE: Duration = Duration::from_secs(3600);

/// As `docs/protocol.md` has them.
#[derive(Serialize)]
enum PoolRequest {
    Append {
        space: SpaceId,
        entries: Vec<ByteBuf>,
    },
    Frontier {
        space: SpaceId,
        is_chartered: bool,
        digest: Option<Hash>,
    },
    Compare(Vec<(SpaceId, Hash)>),
    Charter {
        space: SpaceId,
        records: Vec<ByteBuf>,
    },
    Fetch {
        space: SpaceId,
        device: NodeId,
        after: u64,
    },
    Released {
        space: SpaceId,
        stripes: Vec<StripeId>,
    },
}

#[derive(Serialize, Deserialize, Debug)]
enum PoolReply {
    Done,
    Frontier(Vec<(NodeId, Position)>),
    Same,
    Compared(Vec<bool>),
    Logs {
        known: Vec<(NodeId, Position)>,
        charter: Option<Hash>,
    },
    Charter(Vec<ByteBuf>),
    Entries(Vec<ByteBuf>),
    Failed(String),
}

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

struct Guest {
    node: Node,
    home: TempDir,
}

/// Anna, who has two machines and a space with `/before` in it, and four others: Bob may write, Carol read, Dave could write and was taken out, and
/// Eve is nobody.
struct Party {
    pool: Pool,
    bob: Guest,
    carol: Guest,
    dave: Guest,
    eve: Guest,
    before: Vec<u8>,
}

async fn names(space: &Space) -> Vec<String> {
    let listed = space.list(&path("/"), None, 100).await.unwrap();
    listed.into_iter().map(|entry| entry.name.to_string()).collect()
}

async fn accepted(node: &Node) -> Space {
    eventually("the offer arrives", || async {
        !node.offers().await.unwrap().is_empty()
    })
    .await;
    node.accept("work", None).await.unwrap();
    node.space(&name("work")).unwrap()
}

impl Party {
    async fn of() -> Self {
        let pool = Pool::of(2, GRACE).await;
        let mut guests = Vec::new();
        for called in ["bob", "carol", "dave", "eve"] {
            let (node, home) = pool.guest().await;
            node.call_me(called.parse().unwrap()).await;
            guests.push(Guest { node, home });
        }
        let nodes = pool.running().into_iter().chain(guests.iter().map(|guest| &guest.node));
        for node in nodes {
            eventually("all know each other", || async {
                let people = node.people();
                let named = people
                    .iter()
                    .filter(|person| person.name.is_some() && person.can_be_let_in);
                let nodes = node.status().await.unwrap().nodes;
                named.count() >= 4 && nodes.iter().filter(|node| node.away_since.is_none()).count() == 6
            })
            .await;
        }
        let [bob, carol, dave, eve] = guests.try_into().unwrap_or_else(|_| panic!("four guests"));
        let owner = pool.node(0);
        owner.create_space(name("work")).await.unwrap();
        let space = owner.space(&name("work")).unwrap();
        let before = bytes(1, 600_000);
        put_into(&space, "/before", &bytes(2, 600_000)).await.unwrap();
        put_into(&space, "/before", &before).await.unwrap();
        for (guest, called, access) in [(&bob, "bob", WRITE), (&carol, "carol", READ), (&dave, "dave", WRITE)] {
            owner.share(&name("work"), called, access).await.unwrap();
            let theirs = accepted(&guest.node).await;
            assert!(read_when_named(&theirs, "/before").await == before);
        }
        let daves = dave.node.space(&name("work")).unwrap();
        put_into(&daves, "/by-dave", &before).await.unwrap();
        assert!(read_when_named(&space, "/by-dave").await == before);
        owner.unshare(&name("work"), "dave").await.unwrap();
        put_into(&space, "/after", &before).await.unwrap();
        Self {
            pool,
            bob,
            carol,
            dave,
            eve,
            before,
        }
    }

    fn owners(&self) -> Space {
        self.pool.node(0).space(&name("work")).unwrap()
    }
}

fn is_refused<T>(done: &Result<T, NodeError>) -> bool {
    matches!(
        done,
        Err(NodeError::ReadOnly | NodeError::NotIn | NodeError::NotYourSpace(_) | NodeError::MayNotShare(_))
    )
}

/// A link that somebody makes.
async fn linked_at(node: &Node, at: &str) -> Result<Link, NodeError> {
    let made = node.link(&name("work"), &path(at), LinkOptions::default()).await?;
    Ok(made.link.parse().unwrap())
}

/// What one can do by the program as it is.
#[tokio::test(flavor = "multi_thread")]
async fn the_program_does_what_its_person_may() {
    let party = Party::of().await;
    let owner = party.pool.node(0);
    for (node, writes, sees_after, is_owner) in [
        (owner, true, true, true),
        (&party.bob.node, true, true, false),
        (&party.carol.node, false, true, false),
        (&party.dave.node, false, false, false),
    ] {
        let space = node.space(&name("work")).unwrap();
        // List, read, and read the past.
        if sees_after {
            assert!(read_when_named(&space, "/after").await == party.before);
        }
        let listed = names(&space).await;
        assert!(
            listed.contains(&"before".to_owned()) && listed.contains(&"after".to_owned()) == sees_after,
            "{listed:?}"
        );
        assert!(read(&space, "/before").await.unwrap() == party.before);
        let past = space.versions(&path("/before")).await.unwrap();
        let which = Which::Version(past.last().unwrap().id);
        let first = space.download_of(&path("/before"), which, None).await.unwrap();
        assert!(first.read_to_end().await.unwrap() == bytes(2, 600_000));
        assert!(
            !space
                .changes(&path("/"), Timestamp::default())
                .next()
                .await
                .unwrap()
                .is_empty()
        );
        // Write and delete.
        let file = if writes { "/put" } else { "/by-dave" };
        let put = put_into(&space, "/put", b"put").await.map(drop);
        let moved = space.rename(&path(file), &path("/moved")).await;
        let file = if writes { "/moved" } else { "/by-dave" };
        let removed = space.remove(&path(file), RemoveOptions::default()).await.map(drop);
        for done in [put, moved, removed] {
            assert_eq!((done.is_ok(), is_refused(&done)), (writes, !writes), "{done:?}");
        }
        // Share and revoke.
        let shared = node.share(&name("work"), "eve", READ).await;
        let unshared = node.unshare(&name("work"), "eve").await;
        if is_owner {
            assert!(shared.is_ok() && unshared.is_ok());
        } else {
            assert!(is_refused(&shared) && is_refused(&unshared), "{shared:?} {unshared:?}");
            assert!(is_refused(&node.unshare(&name("work"), "bob").await));
        }
    }
    // Who was never let in does not know that there is anything, though their machine keeps shards of it.
    let eve = &party.eve.node;
    assert!(matches!(eve.space(&name("work")), Err(NodeError::NoSuchSpace(_))));
    assert!(eve.offers().await.unwrap().is_empty());
    assert!(matches!(eve.accept("work", None).await, Err(NodeError::NoSuchOffer(_))));
    // With a link she reads what it leads to: as it is now, and nothing beside it.
    let link = linked_at(owner, "/before").await.unwrap();
    let linked = eve.open_link(&link, None).await.unwrap();
    let content = linked.download(&path("/"), None).unwrap().read_to_end().await.unwrap();
    assert!(content == party.before);
    assert!(linked.download(&path("/after"), None).is_err() && linked.list(&path("/"), None, 9).is_err());
    assert!(matches!(eve.space(&name("work")), Err(NodeError::NoSuchSpace(_))));
    assert!(matches!(
        eve.revoke_link(&link.to_string()).await,
        Err(NodeError::Link(LinkError::NoSuchLink(_)))
    ));
    // Who may write may make links and end them, also those of others; who reads may not.
    for node in [&party.carol.node, &party.dave.node] {
        assert!(is_refused(&linked_at(node, "/before").await));
    }
    within("the reader hears of the link", async {
        while party.carol.node.links(&name("work")).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(is_refused(&party.carol.node.revoke_link(&link.to_string()).await));
    within("the writer hears of the link", async {
        while party.bob.node.links(&name("work")).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    party.bob.node.revoke_link(&link.to_string()).await.unwrap();
    assert!(matches!(
        eve.open_link(&link, None).await,
        Err(NodeError::Link(LinkError::Revoked))
    ));
    let content = read(&party.owners(), "/before").await.unwrap();
    assert!(content == party.before, "nothing of this has harmed it");
}

/// A program that does not obey, in the place of a person's machine.
pub(crate) struct Modified {
    endpoint: Endpoint,
    node: SigningKey,
    user: UserKeys,
    space: SpaceId,
    /// The space's log of this machine, and its charter, as others told.
    kv: MemoryKv,
    charter: Charter,
}

impl Modified {
    /// Of a machine that has ended, and whose home this is.
    pub(crate) async fn in_place_of(home: &TempDir, honest: &[&Node], space: SpaceId) -> Self {
        let mut modified = Self::knowing_nothing(home, honest, space).await;
        modified.learn(honest[0].identity().node).await;
        modified
    }

    /// The same, before it has asked anybody.
    async fn knowing_nothing(home: &TempDir, honest: &[&Node], space: SpaceId) -> Self {
        let (node, user) = (key_in(home, "node.key"), UserKeys::new(key_in(home, "user.key")));
        let network = NetworkConfig {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            mdns: false,
            relay: true,
        };
        let (endpoint, mut inbox) = potluck_net::start(&node, &network).await.unwrap();
        endpoint.set_members(honest.iter().map(|node| node.identity().node).collect::<BTreeSet<_>>());
        tokio::spawn(async move {
            // It answers nobody.
            loop {
                tokio::select! {
                    event = inbox.events.recv() => if event.is_none() { return },
                    incoming = inbox.requests.recv() => if incoming.is_none() { return },
                }
            }
        });
        connect(&endpoint, honest).await;
        Self {
            endpoint,
            node,
            user,
            space,
            kv: MemoryKv::default(),
            charter: Charter::of(space, &Speakers::default()),
        }
    }

    async fn ask(&self, victim: NodeId, request: &PoolRequest) -> PoolReply {
        let message = Message::new(to_canonical(request));
        let reply = self.endpoint.request(victim, Protocol::Pool, &message);
        from_canonical(&within("an answer", reply).await.unwrap().header).unwrap()
    }

    /// Everybody tells a member what they keep: it is sealed, or signed by who may say it.
    async fn learn(&mut self, from: NodeId) {
        let (space, device) = (self.space, self.node.node_id());
        let records = Vec::new();
        let PoolReply::Charter(records) = self.ask(from, &PoolRequest::Charter { space, records }).await else {
            panic!("no charter");
        };
        let mut left: Vec<_> = records
            .iter()
            .map(|record| CharterRecord::from_bytes(record).unwrap())
            .collect();
        // Those first on which others rest.
        while !left.is_empty() {
            let before = left.len();
            left.retain(|record| self.charter.join(record).is_err());
            assert!(left.len() < before, "the charter does not add up");
        }
        let after = 0;
        if let PoolReply::Entries(entries) = self.ask(from, &PoolRequest::Fetch { space, device, after }).await {
            for entry in entries {
                let logged = Logged::from_bytes(&entry).unwrap();
                let appended = Log::of(space).append(&mut self.kv, &logged).unwrap();
                assert_eq!(appended.append, Append::New);
            }
        }
    }

    fn keys(&self) -> Keys {
        self.charter.keys(&self.user, Timestamp::default())
    }

    /// The log of a machine, as another tells it.
    pub(crate) async fn log_of(&self, device: NodeId, from: NodeId) -> Vec<Logged> {
        let space = self.space;
        match self
            .ask(
                from,
                &PoolRequest::Fetch {
                    space,
                    device,
                    after: 0,
                },
            )
            .await
        {
            PoolReply::Entries(entries) => entries.iter().map(|entry| Logged::from_bytes(entry).unwrap()).collect(),
            other => panic!("{other:?}"),
        }
    }

    /// An entry that erases another's.
    pub(crate) fn erasing(&self, device: NodeId, seq: u64) -> Logged {
        let (keys, epoch) = (self.keys(), self.charter.current());
        let body = Body {
            sealed: Tree::of(self.space).seal(keys.of(epoch).unwrap(), &[], &SystemEntropy),
            epoch,
            erases: Some(EntryId { device, seq }),
            ..Body::default()
        };
        let now = u64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
        let log = Log::of(self.space);
        log.next_entry(&self.kv, &self.node, Timestamp::from_millis(now), body)
            .unwrap()
    }

    /// Whether another takes entries.
    pub(crate) async fn takes(&self, victim: NodeId, entries: Vec<ByteBuf>) -> bool {
        let space = self.space;
        matches!(
            self.ask(victim, &PoolRequest::Append { space, entries }).await,
            PoolReply::Done
        )
    }

    /// An entry that puts `/forged`, removes what is named, and ends a link, as good as this person can make it, at this time.
    fn forged(&mut self, removes: &[(&str, potluck_spaces::OpId)], link: LinkId, clock: u64) -> ByteBuf {
        let keys = self.keys();
        let epoch = self.charter.current().filter(|epoch| keys.of(Some(*epoch)).is_some());
        // Who was taken out has the key of the epoch before.
        let epoch = epoch.or(self.charter.first());
        let key = keys.of(epoch).cloned().unwrap_or(BoxKey::from_bytes([7; 32]));
        let named = |text: &str| Name::try_from(text.to_owned()).unwrap();
        let file = File {
            id: FileId::generate(None, &SystemEntropy),
            len: 6,
            modified: Timestamp::from_millis(1),
            executable: false,
            content: ByteBuf::from(vec![1; 6]),
            uses: Vec::new(),
            survives: 0,
            asked: None,
        };
        let mut changes = vec![Change::Set {
            parent: DirId::ROOT,
            name: named("forged"),
            value: Some(Value::File(file)),
            replaces: Vec::new(),
            fate: Fate::Carried,
        }];
        changes.extend(removes.iter().map(|(name, op)| Change::Set {
            parent: DirId::ROOT,
            name: named(name),
            value: None,
            replaces: vec![*op],
            fate: Fate::Freed,
        }));
        let body = Body {
            sealed: Tree::of(self.space).seal(&key, &changes, &SystemEntropy),
            epoch,
            links: vec![Publication::end_of(link)],
            ..Body::default()
        };
        let entry = Log::of(self.space).next_entry(&self.kv, &self.node, Timestamp::from_millis(clock), body);
        ByteBuf::from(entry.unwrap().to_bytes())
    }

    /// An entry that says so, in an area or in none, under whatever key this person has for it.
    fn saying(&self, area: Option<AreaId>, changes: &[Change]) -> ByteBuf {
        let (keys, epoch) = (self.keys(), self.charter.current());
        let key = keys.within(epoch, area).unwrap_or(BoxKey::from_bytes([7; 32]));
        let body = Body {
            sealed: Tree::of(self.space).seal(&key, changes, &SystemEntropy),
            epoch,
            area,
            ..Body::default()
        };
        let now = u64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
        let entry = Log::of(self.space).next_entry(&self.kv, &self.node, Timestamp::from_millis(now), body);
        ByteBuf::from(entry.unwrap().to_bytes())
    }

    /// How far a node knows the log of this machine. Asked once more by one who knows as much, it says no more than that, and so it does of many spaces at once.
    async fn known(&self, at: NodeId) -> u64 {
        let request = |digest| PoolRequest::Frontier {
            space: self.space,
            is_chartered: true,
            digest,
        };
        let (known, charter) = match self.ask(at, &request(None)).await {
            PoolReply::Logs { known, charter } => (known, charter),
            PoolReply::Frontier(known) => (known, None),
            other => panic!("{other:?}"),
        };
        let digest = Hash::of(&to_canonical(&(&known, charter)));
        let again = self.ask(at, &request(Some(digest))).await;
        assert!(matches!(again, PoolReply::Same), "{again:?}");
        let bytes = to_canonical(&request(Some(digest))).len() + to_canonical(&again).len();
        assert!(bytes < 1_000, "one round trip of {bytes} bytes");
        let other = Hash::of(b"other");
        for (theirs, is_same) in [(digest, true), (other, false)] {
            let mut spaces = [(self.space, theirs), (SpaceId::from_bytes([9; 32]), digest)];
            spaces.sort_unstable_by_key(|(space, _)| *space);
            let expected = spaces.map(|(space, _)| is_same && space == self.space);
            let compared = self.ask(at, &PoolRequest::Compare(spaces.to_vec())).await;
            assert!(
                matches!(&compared, PoolReply::Compared(same) if *same == expected),
                "{compared:?}"
            );
        }
        let twice = self.ask(at, &PoolRequest::Compare(vec![(self.space, digest); 2])).await;
        assert!(matches!(twice, PoolReply::Failed(_)), "{twice:?}");
        let own = known.into_iter().find(|(device, _)| *device == self.node.node_id());
        own.map_or(0, |(_, position)| position.seq)
    }
}

/// What one can do who obeys nothing, with all that their person has: nobody takes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_does_not_obey_does_no_more_than_its_person_may() {
    let Party {
        pool,
        bob,
        carol,
        dave,
        eve,
        before,
    } = Party::of().await;
    let space = pool.node(0).space(&name("work")).unwrap();
    let bobs = bob.node.space(&name("work")).unwrap();
    assert!(read_when_named(&bobs, "/after").await == before);
    let honest = [pool.node(0), pool.node(1), &bob.node];
    let to_eve = Reader::of(&UserKeys::new(key_in(&eve.home, "user.key")));
    let now = u64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let link = linked_at(pool.node(0), "/before").await.unwrap();
    let mut back = Vec::new();
    for (guest, is_reader) in [(carol, true), (dave, false), (eve, false)] {
        let Guest { node, home } = guest;
        node.stop().await;
        drop(node);
        let mut modified = Modified::in_place_of(&home, &honest, space.id()).await;
        assert_eq!(modified.keys().of(modified.charter.current()).is_some(), is_reader);
        let known = modified.known(honest[0].identity().node).await;
        for victim in honest.map(|node| node.identity().node) {
            // Write and delete, now, and with the clock of a time when one of them might have.
            for clock in [now, 1, now - 60_000, now + 86_400_000 * 365 * 74] {
                let entries = vec![modified.forged(&[], link.id(), clock)];
                let reply = modified
                    .ask(
                        victim,
                        &PoolRequest::Append {
                            space: space.id(),
                            entries,
                        },
                    )
                    .await;
                assert!(matches!(reply, PoolReply::Failed(_)), "{reply:?}");
                assert_eq!(modified.known(victim).await, known, "it was taken");
            }
            // Share with another, and with oneself: in one's own name.
            let to = GrantTo {
                reader: to_eve,
                may_write: true,
                until: None,
                quota: None,
                may_share: false,
                under: None,
                since: None,
                called: "work".to_owned(),
            };
            let (keys, at) = (modified.keys(), Timestamp::from_millis(now));
            let grant = modified
                .charter
                .next_grant(modified.user.signing(), &to, &keys, at, &SystemEntropy);
            let revocation = modified.charter.next_revocation(
                modified.user.signing(),
                (key_in(&bob.home, "user.key").user_id(), None),
                Vec::new(),
                at,
            );
            // And under a grant of one's own, which says nothing of letting others in.
            let own = modified.charter.records().find_map(|record| match record {
                CharterRecord::Grant(signed) if signed.claimed().unwrap().user == modified.user.id() => {
                    Some(signed.hash())
                }
                _ => None,
            });
            let under = GrantTo {
                under: own,
                may_write: false,
                ..to
            };
            let passed_on = modified
                .charter
                .next_grant(modified.user.signing(), &under, &keys, at, &SystemEntropy);
            let forged: Vec<_> = [grant, revocation, passed_on].into_iter().flatten().collect();
            assert_eq!(forged.len(), 1 + 2 * usize::from(is_reader));
            for record in &forged {
                assert!(modified.charter.clone().join(record).is_err());
            }
            let records = forged.iter().map(|record| ByteBuf::from(record.to_bytes())).collect();
            modified
                .ask(
                    victim,
                    &PoolRequest::Charter {
                        space: space.id(),
                        records,
                    },
                )
                .await;
            // Say that what is in use is not.
            let held = pool.node(0).held(None, 1000).await.unwrap();
            let of_it = held.into_iter().filter(|held| held.space == space.id());
            let stripes: Vec<_> = of_it.map(|held| held.shard.stripe).collect();
            assert!(!stripes.is_empty());
            let reply = modified
                .ask(
                    victim,
                    &PoolRequest::Released {
                        space: space.id(),
                        stripes,
                    },
                )
                .await;
            assert!(matches!(reply, PoolReply::Done | PoolReply::Failed(_)), "{reply:?}");
        }
        drop(modified);
        // With more than two machines gone there would be something that cannot be read.
        back.push((started(config(&home, GRACE)).await, home));
        sees(pool.node(0), 6).await;
    }
    // Nothing has changed for anybody.
    for node in honest {
        let space = node.space(&name("work")).unwrap();
        assert_eq!(names(&space).await, ["after", "before", "by-dave"]);
        for file in ["/after", "/before", "/by-dave"] {
            assert!(within("a read", read(&space, file)).await.unwrap() == before);
        }
        let members = node.members(&name("work")).await.unwrap();
        let mut called: Vec<String> = members.iter().map(|member| member.person.called()).collect();
        called.sort();
        assert_eq!(called.len(), 3, "{called:?}");
        assert!(called.contains(&"bob".to_owned()) && called.contains(&"carol".to_owned()));
        let linked = node.open_link(&link, None).await.unwrap();
        let content = linked.download(&path("/"), None).unwrap().read_to_end().await.unwrap();
        assert!(content == before, "the link shows what it did");
    }
    // Who may write still does.
    put_into(&bobs, "/more", b"more").await.unwrap();
    assert_eq!(read_when_named(&space, "/more").await, b"more");
}

/// Puts small files by one upload.
async fn put_together(space: &Space, files: &[(&str, u64)]) {
    let mut upload = space.upload(PutOptions::default()).unwrap();
    for (at, seed) in files {
        let meta = FileMeta {
            modified: Timestamp::from_millis(1),
            executable: false,
        };
        let content = std::io::Cursor::new(bytes(*seed, 20_000));
        upload.put_file(path(at), meta, content).await.unwrap();
    }
    upload.finish().await.unwrap();
}

/// The sealed pieces that changes have the keys of, each with the part of it that is meant.
fn pieces_of(changes: &[Change]) -> BTreeSet<(Hash, (u32, u32))> {
    let file = |change: &Change| match change {
        Change::Set {
            value: Some(Value::File(file)),
            ..
        }
        | Change::Recode { file, .. } => Some(file.clone()),
        _ => None,
    };
    let content = |file: File| from_canonical::<potluck_dag::Content>(&file.content).ok();
    let piece = |content| match content {
        potluck_dag::Content::Tree(tree) => {
            let (piece, part) = (tree.root(), tree.root().part());
            Some((piece.sealed_id(), (part.start, part.end)))
        }
        potluck_dag::Content::Inline(_) => None,
    };
    changes
        .iter()
        .filter_map(file)
        .filter_map(content)
        .filter_map(piece)
        .collect()
}

/// Who was let into a directory, with a program that obeys nothing: Bob may write there, and Carol read.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_let_into_a_directory_and_does_not_obey_has_nothing_else() {
    let (pool, others) = with_guests(&["bob", "carol"]).await;
    let anna = pool.node(0);
    anna.create_space(name("work")).await.unwrap();
    let space = anna.space(&name("work")).unwrap();
    for (at, content) in [
        ("/in/a", &b"inside"[..]),
        ("/out/secret", b"outside"),
        ("/out/kept", b"outside"),
    ] {
        put_into(&space, at, content).await.unwrap();
    }
    // Small files that were put together lie in one piece, and a key opens all of it.
    let smalls = [
        ("/in/small", 1),
        ("/out/small", 2),
        ("/out/moved", 3),
        ("/out/d/moved", 4),
        ("/out/stays", 5),
    ];
    put_together(&space, &smalls).await;
    for (called, access) in [("bob", WRITE), ("carol", READ)] {
        let let_in = anna.share_below(&name("work"), &path("/in"), called, access).await;
        assert_eq!(let_in.unwrap().member.prefix, Some(path("/in")));
    }
    // What comes in, and what is put in and beside it by one upload.
    space.rename(&path("/out/moved"), &path("/in/moved")).await.unwrap();
    space.rename(&path("/out/d"), &path("/in/d")).await.unwrap();
    put_together(&space, &[("/in/more", 6), ("/out/more", 7)]).await;
    for (node, _) in &others {
        let theirs = accepted(node).await;
        assert_eq!(read_when_named(&theirs, "/in/a").await, b"inside");
        for (at, seed) in [("/in/small", 1), ("/in/moved", 3), ("/in/d/moved", 4), ("/in/more", 6)] {
            assert!(read_when_named(&theirs, at).await == bytes(seed, 20_000));
        }
    }
    let honest = [pool.node(0), pool.node(1)];
    let mut done = 0;
    for (at, (node, home)) in others.into_iter().enumerate() {
        let may_write = at == 0;
        node.stop().await;
        drop(node);
        let modified = Modified::in_place_of(&home, &honest, space.id()).await;
        let keys = modified.keys();
        // Read, and read the past: of all that is written, what is in the directory opens, and nothing else.
        let annas = UserKeys::new(key_in(&pool.members[0].home, "user.key"));
        let all_keys = modified.charter.keys(&annas, Timestamp::default());
        let (mut opened, mut closed) = (BTreeSet::new(), BTreeSet::new());
        for entry in modified.log_of(anna.identity().node, honest[0].identity().node).await {
            let (entry, _) = entry.open().unwrap();
            let is_in = Tree::of(space.id()).open(&keys, &entry).is_ok();
            assert_eq!(is_in, entry.area.is_some());
            let pieces = pieces_of(&Tree::of(space.id()).open(&all_keys, &entry).unwrap());
            if is_in { &mut opened } else { &mut closed }.extend(pieces);
        }
        assert!(opened.len() >= 4 && closed.len() >= 2, "{opened:?} {closed:?}");
        // Each key opens what the person was given, and nothing beside it.
        let theirs: BTreeSet<Hash> = opened.iter().map(|(piece, _)| *piece).collect();
        let beside = closed.difference(&opened).find(|(piece, _)| theirs.contains(piece));
        assert_eq!(beside, None, "a key opens what is outside");
        let area = modified.charter.areas().first().copied().unwrap();
        let of = |dir: DirId, at: &str, value: Option<Value>| Change::Set {
            parent: dir,
            name: at.to_owned().try_into().unwrap(),
            value,
            replaces: Vec::new(),
            fate: Fate::Carried,
        };
        let file = File {
            id: FileId::generate(Some(area), &SystemEntropy),
            len: 6,
            modified: Timestamp::from_millis(1),
            executable: false,
            content: ByteBuf::from(vec![1; 6]),
            uses: Vec::new(),
            survives: 0,
            asked: None,
        };
        let forged = of(DirId::ROOT, "forged", Some(Value::File(file.clone())));
        let inside = of(area.top(), "by-bob", Some(Value::File(file)));
        for victim in honest.map(|node| node.identity().node) {
            let known = modified.known(victim).await;
            // What is in no area, or in another one, is not his to say; and nothing is hers.
            let other = AreaId::of_directory(space.id(), DirId::ROOT, &BTreeSet::new(), &SystemEntropy);
            for entry in [
                modified.saying(None, std::slice::from_ref(&forged)),
                modified.saying(Some(other), &[]),
            ] {
                assert!(!modified.takes(victim, vec![entry]).await);
            }
            if !may_write {
                assert!(
                    !modified
                        .takes(victim, vec![modified.saying(Some(area), std::slice::from_ref(&inside))])
                        .await
                );
            }
            assert_eq!(modified.known(victim).await, known, "it was taken");
        }
        if may_write {
            // In the name of the directory he says what he likes, and it counts where it is about that.
            let entry = modified.saying(Some(area), &[forged, inside]);
            assert!(modified.takes(honest[0].identity().node, vec![entry]).await);
        }
        done += 1;
    }
    assert_eq!(done, 2);
    for node in honest {
        let space = node.space(&name("work")).unwrap();
        within("what counts arrives", async {
            while space.stat(&path("/in/by-bob")).await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(names(&space).await, ["in", "out"]);
        for at in ["/out/secret", "/out/kept"] {
            assert_eq!(read(&space, at).await.unwrap(), b"outside");
        }
    }
}

/// A machine of the owner's was lost: whoever has it obeys nothing, has all that was on it, and an accomplice in the pool.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_lost_machine_reads_and_changes_nothing_any_more() {
    let mut pool = Pool::of(3, GRACE).await;
    let (eve, eves_home) = pool.guest().await;
    sees(&eve, 4).await;
    let anna = pool.node(0);
    anna.create_space(name("work")).await.unwrap();
    let work = anna.space(&name("work")).unwrap();
    put_into(&work, "/before", b"before").await.unwrap();
    let link = linked_at(anna, "/before").await.unwrap();
    let theirs = &pool.members[2];
    eventually("the space is there, too", || async {
        theirs.node.as_ref().unwrap().space(&name("work")).is_ok()
    })
    .await;
    let lost = theirs.node.as_ref().unwrap();
    let (lost_id, owner) = (lost.identity().node, lost.identity().user);
    put_into(&lost.space(&name("work")).unwrap(), "/by-lost", b"before")
        .await
        .unwrap();
    pool.kill(2).await;
    revoke(pool.node(0), &[lost_id]).await.unwrap();
    let work = pool.node(0).space(&name("work")).unwrap();
    for at in ["/after", "/later"] {
        put_into(&work, at, b"after").await.unwrap();
        pool.put(0, at, b"after").await;
    }
    let honest = [pool.node(0), pool.node(1)];
    // By itself it gets no answer.
    let direct = Modified::knowing_nothing(&pool.members[2].home, &honest, work.id()).await;
    for victim in honest {
        let request = Message::new(to_canonical(&PoolRequest::Charter {
            space: work.id(),
            records: Vec::new(),
        }));
        let refused = direct
            .endpoint
            .request(victim.identity().node, Protocol::Pool, &request);
        assert!(within("a refusal", refused).await.is_err());
    }
    drop(direct);
    // The accomplice is told what everybody is.
    eve.stop().await;
    drop(eve);
    let next = key_in(&pool.members[0].home, "user.key").public();
    let speakers = Speakers::of([(
        next,
        potluck_crypto::Speaker {
            user: owner,
            generation: 1,
        },
    )]);
    let home = pool.node(0).private().id();
    for space in [work.id(), home] {
        let mut modified = Modified::knowing_nothing(&eves_home, &honest, space).await;
        let lost_home = &pool.members[2].home;
        modified.node = key_in(lost_home, "node.key");
        modified.user = UserKeys::new(key_in(lost_home, "user.key"));
        modified.charter = match space == home {
            true => Charter::private(owner, &speakers),
            false => Charter::of(space, &speakers),
        };
        modified.learn(honest[0].identity().node).await;
        let keys = modified.keys();
        assert!(!keys.is_empty(), "what was there before it could read");
        assert!(keys.of(modified.charter.current()).is_none(), "and nothing after");
        let now = u64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
        for victim in honest.map(|node| node.identity().node) {
            let known = modified.known(victim).await;
            for clock in [now, 1, now - 60_000] {
                let entries = vec![modified.forged(&[], link.id(), clock)];
                let reply = modified.ask(victim, &PoolRequest::Append { space, entries }).await;
                assert!(matches!(reply, PoolReply::Failed(_)), "{reply:?}");
                assert_eq!(modified.known(victim).await, known, "it was taken");
            }
            // It lets itself in as another, and ends what the owner says.
            let to = GrantTo {
                reader: Reader::of(&UserKeys::new(key_in(&eves_home, "user.key"))),
                may_write: true,
                until: None,
                quota: None,
                may_share: false,
                under: None,
                since: None,
                called: "work".to_owned(),
            };
            let first = modified.user.signing();
            let mut before = modified.charter.clone();
            let epoch = before.next_epoch(first, &[to.reader], &keys, &SystemEntropy).unwrap();
            assert!(before.join(&epoch).is_err());
            let ended = before.next_stop(first, vec![(honest[0].identity().node, 0)], Timestamp::from_millis(1));
            let forged = [epoch, ended.unwrap().unwrap()];
            let records = forged.iter().map(|record| ByteBuf::from(record.to_bytes())).collect();
            modified.ask(victim, &PoolRequest::Charter { space, records }).await;
            let mut after = modified.charter.clone();
            let records = Vec::new();
            let PoolReply::Charter(told) = modified.ask(victim, &PoolRequest::Charter { space, records }).await else {
                panic!("no charter");
            };
            for record in told {
                let record = CharterRecord::from_bytes(&record).unwrap();
                assert!(!forged.contains(&record));
                after.join(&record).unwrap();
            }
        }
    }
    // Nothing has changed for the owner.
    for node in honest {
        let space = node.space(&name("work")).unwrap();
        for at in ["/before", "/by-lost", "/after"] {
            read_when_named(&space, at).await;
        }
        assert_eq!(read_when_named(&node.private(), "/later").await, b"after");
        assert_eq!(node.members(&name("work")).await.unwrap().len(), 1);
    }
}
