//! Writes `fuzz/seeds`: for each target, bytes that its decoder takes, from which the fuzzer goes on.

// Built with coverage as all else here is, it needs what counts that.
use libfuzzer_sys as _;
use potluck_crypto::{BoxKey, Link, LinkId, Purpose, Signed, SigningKey, Ticket, TicketSecret, seal};
use potluck_dag::{Content, ManifestBuilder, Tree, seal_piece};
use potluck_fuzz::{Nameless, Sevens};
use potluck_spaces::{
    Body, Change, CharterRecord, Checkpoint, DirId, Fate, File, FileId, Keys, Log, MemoryKv, OpId, Publication, Settings,
    Tree as Names, Value, View, checkpoint::Pages,
};
use potluck_types::{Entropy, Geometry, NodeId, PoolId, SpaceId, StripeId, Timestamp, UserId, to_canonical};
use serde_bytes::ByteBuf;
use std::{
    cell::Cell,
    convert::Infallible,
    fs, io,
    path::Path,
    sync::atomic::{AtomicU8, Ordering},
};

/// Texts that are taken.
const TEXTS: [(&str, &str, &str); 8] = [
    ("address", "socket", "192.0.2.1:4720"),
    ("address", "dns", "/dns4/nas.example/udp/4720/quic-v1"),
    (
        "address",
        "relayed",
        "/ip6/::1/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
    ),
    ("id", "node", "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"),
    (
        "id",
        "hash",
        "bafkr4ifpcne3t5pzugtkaqcn5g3nzskjtpfslsnncla3pthjfwmkedzhmi",
    ),
    ("units", "size", "1.5TiB"),
    ("units", "bytes", "200GB"),
    ("units", "zone", "attic-2_a.b"),
];

struct Counter(AtomicU8);

impl Entropy for Counter {
    fn fill(&self, buffer: &mut [u8]) {
        for byte in buffer {
            *byte = self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write(target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), bytes)
}

/// A length in two bytes, then both parts.
fn pair(first: &[u8], second: &[u8]) -> Vec<u8> {
    let len = u16::try_from(first.len()).expect("seeds are small");
    [&len.to_le_bytes()[..], first, second].concat()
}

fn main() -> io::Result<()> {
    let entropy = Counter(AtomicU8::new(0));
    let (space, device) = (SpaceId::from_bytes([1; 32]), SigningKey::from_seed(&[3; 32]));

    let noise: Vec<u8> = (0..40_000u32)
        .map(|i| (i.wrapping_mul(i) ^ i.wrapping_mul(2_654_435_761) >> 11) as u8)
        .collect();
    for (name, k, m, text) in [("replicated", 1, 1, &b"potluck"[..]), ("coded", 3, 2, &noise)] {
        let sealed = seal_piece(text, Geometry::new(k, m).expect("possible"), &entropy).expect("small enough");
        let descriptor = sealed.stripe.descriptor.to_bytes();
        write("descriptor", name, &descriptor)?;
        let shard = &sealed.stripe.shards[0];
        write(
            "shard",
            name,
            &pair(&descriptor, &[&[0], &shard.payload()[..]].concat()),
        )?;
        if name == "replicated" {
            let pack = potluck_store::fuzzing::pack_of(shard);
            assert_eq!(potluck_store::fuzzing::pack(&pack), 1);
            write("pack", "shard", &pack)?;
        }
        write("piece", name, &pair(&to_canonical(&sealed.piece), shard.payload()))?;
        write(
            "manifest",
            name,
            &pair(
                &to_canonical(&Content::Tree(Tree::leaf(sealed.piece).expect("not empty"))),
                &[],
            ),
        )?;
    }
    write(
        "manifest",
        "inline",
        &pair(&to_canonical(&Content::Inline(b"potluck".to_vec().into())), &[]),
    )?;
    write("manifest", "tree", &manifest(&entropy))?;

    for (target, name, bytes) in potluck_node::fuzzing::messages() {
        write(target, name, &bytes)?;
        let len = u32::try_from(bytes.len()).expect("seeds are small");
        write(
            "stream",
            name,
            &[&[0][..], &len.to_le_bytes(), &[0; 4], &bytes].concat(),
        )?;
    }

    let others = [potluck_node::fuzzing::seeds(), potluck::fuzzing::seeds()].concat();
    for (target, name, bytes) in others {
        write(target, name, &bytes)?;
    }
    for (name, bytes) in potluck_store::fuzzing::files() {
        write("recovery", name, &bytes)?;
    }
    write("index", "sound", b"")?;
    write("index", "one", &[0, 32, 0, 0, 1])?;
    write("kit_record", "kit", &potluck_crypto::fuzzing::kit_record_seed())?;
    write(
        "compressed",
        "sevens",
        &[&[64, 0][..], &potluck_dag::fuzzing::compressed(1000)].concat(),
    )?;
    write("tls", "hello", &potluck_net::fuzzing::client_hello())?;
    write(
        "log",
        "steps",
        &[[0; 8], [1, 0, 0, 9, 0, 64, 0, 1], [0, 0, 0, 9, 0, 128, 65, 2]].concat(),
    )?;
    // Two in one area, and one of another that erases one of them, which it cannot.
    let in_areas = [
        [64, 3, 0, 0, 0, 0, 0, 1],
        [0, 3, 0, 0, 0, 0, 0, 1],
        [129, 3, 0, 0, 0, 0, 0, 0],
        [129, 7, 0, 0, 0, 0, 0, 1],
    ];
    write("log", "areas", &in_areas.concat())?;
    write("stripe", "whole", &[2, 1, 8, 7, 0, 1, 2, 3])?;
    write("stripe", "short", &[3, 2, 8, 3, 0, 1])?;
    for (target, name, text) in TEXTS {
        write(target, name, text.as_bytes())?;
    }

    let ticket = Ticket {
        pool: PoolId::from_bytes([5; 32]),
        pool_name: "home".to_owned(),
        inviter: NodeId::from_bytes([6; 32]),
        addresses: vec!["/ip4/192.0.2.1/tcp/4720".to_owned()],
        secret: TicketSecret::from_bytes([7; 16]),
        expires: Timestamp::from_millis(1_800_000_000_000),
        mine: false,
    };
    write("ticket", "ticket", ticket.to_string().as_bytes())?;
    let link = Link::generate(PoolId::from_bytes([5; 32]), space, true, &entropy);
    write("link", "link", link.to_string().as_bytes())?;
    write("link", "listing", &potluck_node::fuzzing::listing_seed())?;
    let header = "age-encryption.org/v1\n-> scrypt AAAAAAAAAAAAAAAAAAAAAA 1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n\
                  --- AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n";
    write("kit", "header", header.as_bytes())?;

    let path: potluck_spaces::Path = "/photos/2026".parse().expect("a path");
    let changes = View::of(Names::of(space), &Nameless)
        .make_directories(&MemoryKv::default(), &path, &entropy)
        .expect("nothing is there")
        .0;
    write("changes", "directories", &to_canonical(&changes))?;
    write("changes", "uses", &to_canonical(&vec![uses(&entropy)]))?;
    write("area", "directories", &to_canonical(&changes))?;
    let (pages, signed) = checkpoint(&device, space, changes.clone());
    write("checkpoint", "pages", &pages)?;
    write("checkpoint", "signed", &signed)?;
    let area = *potluck_fuzz::founded().1.areas().first().expect("one was let into it");
    let inside = |value: Option<Value>| Change::Set {
        parent: area.top(),
        name: "file".to_owned().try_into().expect("a name"),
        value,
        replaces: vec![OpId {
            device: device.node_id(),
            seq: 1,
            at: 1,
        }],
        fate: Fate::Kept(7),
    };
    let settings = Change::Settings(Settings::default());
    let all = vec![
        inside(None),
        inside(Some(Value::Directory(area.top()))),
        settings.clone(),
    ];
    write("area", "inside", &to_canonical(&all))?;
    let again = Change::Restate {
        device: device.node_id(),
        seq: 1,
        clock: Timestamp::from_millis(1),
        changes: vec![settings, inside(None)],
    };
    write("area", "again", &to_canonical(&vec![again]))?;
    let body = Body {
        pins: vec![StripeId::from_bytes([8; 32])],
        unpins: Vec::new(),
        sealed: vec![0; 48],
        links: vec![Publication {
            link: LinkId::from_bytes([9; 16]),
            shown: Some(vec![0; 48].into()),
            about: vec![0; 48].into(),
            key: vec![0; 48].into(),
            until: Some(Timestamp::from_millis(2)),
            counted_by: Some(NodeId::from_bytes([6; 32])),
        }],
        ..Body::default()
    };
    let entry = Log::of(space).next_entry(&MemoryKv::default(), &device, Timestamp::from_millis(1), body);
    let entry = entry.expect("a first entry").to_bytes();
    write("entry", "first", &entry)?;
    write("signed", "entry", &entry)?;
    let mut epochs = Vec::new();
    let (guest, (_, charter)) = (potluck_fuzz::guest(), potluck_fuzz::founded());
    for (at, record) in charter.records().enumerate() {
        write("charter", &format!("record-{at}"), &record.to_bytes())?;
        if let CharterRecord::Epoch(signed) = record {
            epochs.push(signed.open().expect("its own signature").into_value());
        }
    }
    write("charter", "epochs", &to_canonical(&epochs))?;
    let (under, over) = charter
        .shares(guest.id(), None, Timestamp::from_millis(1))
        .expect("one who may let others in");
    let lent = [UserId::from_bytes([4; 32]), UserId::from_bytes([5; 32])].map(|user| {
        let mut grant = over.clone();
        (grant.user, grant.may_share, grant.under) = (user, false, Some(under));
        grant
    });
    write("charter", "lent", &to_canonical(&lent.to_vec()))?;
    write("path", "path", path.to_string().as_bytes())?;

    let purpose = Purpose {
        context: "potluck/fuzz/1",
        associated: b"x",
    };
    write(
        "sealed",
        "box",
        &BoxKey::from_bytes([2; 32]).seal(purpose, b"potluck", &entropy),
    )?;
    write(
        "sealed",
        "frames",
        &[&[0, 0, 7, 0, 1, 0][..], &seal::seal(b"potluck", &entropy).1].concat(),
    )
}

fn uses(entropy: &dyn Entropy) -> Change {
    let file = potluck_spaces::FileId::generate(None, entropy);
    Change::Uses {
        file,
        part: 0,
        stripes: vec![StripeId::from_bytes([9; 32]); 2],
    }
}

/// A tree of three pieces, and its node.
fn manifest(entropy: &dyn Entropy) -> Vec<u8> {
    let geometry = Geometry::new(1, 1).expect("possible");
    let piece = |text: &[u8]| seal_piece(text, geometry, entropy).expect("small enough").piece;
    let last = Cell::new(Vec::new());
    let mut seal_node = |node: &[u8]| {
        last.set(node.to_vec());
        Ok::<_, Infallible>(piece(node))
    };
    let mut builder = ManifestBuilder::new();
    for text in [&b"pot"[..], b"lu", b"ck"] {
        builder.push(piece(text), &mut seal_node).expect("few pieces");
    }
    let tree = builder.finish(&mut seal_node).expect("few pieces").expect("not empty");
    pair(&to_canonical(&Content::Tree(tree)), &last.take())
}

/// The pages of a checkpoint of a space in which there are these changes and a file in the trash, and what a machine signs of it.
fn checkpoint(device: &SigningKey, space: SpaceId, mut changes: Vec<Change>) -> (Vec<u8>, Vec<u8>) {
    let file = |id: u8| Value::File(File {
        id: FileId::from_bytes([id; 16]),
        len: 1,
        modified: Timestamp::default(),
        executable: false,
        content: vec![id].into(),
        uses: vec![StripeId::from_bytes([id; 32])],
        survives: 1,
        asked: None,
    });
    let set = |id: u8, replaces| Change::Set {
        parent: DirId::ROOT,
        name: "file".to_owned().try_into().expect("a name"),
        value: Some(file(id)),
        replaces,
        fate: Fate::Kept(7),
    };
    let at = u32::try_from(changes.len()).expect("a few");
    let first = OpId {
        device: device.node_id(),
        seq: 1,
        at,
    };
    changes.extend([set(1, Vec::new()), set(2, vec![first])]);
    let key = BoxKey::from_bytes([2; 32]);
    let (log, tree, mut kv) = (Log::of(space), Names::of(space), MemoryKv::default());
    let body = Body {
        pins: vec![StripeId::from_bytes([1; 32])],
        sealed: tree.seal(&key, &changes, &Sevens),
        ..Body::default()
    };
    let entry = log.next_entry(&kv, device, Timestamp::from_millis(1), body).expect("a first entry");
    let appended = log.append(&mut kv, &entry).expect("its own entry");
    tree.apply(&mut kv, &Keys::private(key), appended.device, &appended.entry)
        .expect("its own key");
    let mut rows = Pages::of(space, &kv).expect("tables in memory").expect("all is read");
    let pages: Vec<ByteBuf> = std::iter::from_fn(|| rows.next_plain(&kv).expect("tables in memory"))
        .map(ByteBuf::from)
        .collect();
    let logs = log.frontier(&kv).expect("tables in memory");
    let made = Checkpoint::new(space, Timestamp::from_millis(2), &logs, vec![7].into());
    let signed = Signed::sign(device, &made).expect("it is short");
    (to_canonical(&pages), signed.to_bytes())
}
