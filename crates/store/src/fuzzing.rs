//! Doors for the fuzzer: decoders that no other crate sees. Only there when it builds.

use crate::{
    disk::{Disk, DiskFile, FileInfo, OpenMode},
    format::{
        self, ALIGN, CHECK_BYTES, INDEX_FILE, PACK_HEADER_BYTES, PackHeader, PackId, Place, PutHeader,
        RECORD_HEADER_BYTES, RECORD_MAGIC, RecordHeader, RecordKind, SUPERBLOCK_BYTES, SUPERBLOCK_FILE, StoreKey,
        decode_superblock, encode_superblock, encode_tombstone, payload_start, seal_keyed,
    },
    overlay::Overlay,
    scan::{Scanned, Scanner, read_descriptor, read_tombstone, read_verified},
    store::{Driver, Options, Store},
};
use potluck_types::{ByteSize, Entropy, Shard, ShardId, SpaceId, SystemClock, Timestamp, UnverifiedShard};
use std::{
    io, panic,
    sync::{Arc, OnceLock},
};

/// The key of every store here.
const KEY: StoreKey = StoreKey([7; 32]);
const SPACE: SpaceId = SpaceId::from_bytes([1; 32]);
/// A file of [`recovery`] begins with its number and three bytes of length.
const FILE_HEADER_BYTES: usize = 4;
/// A change of [`index`]: four bytes of place, and one of content.
const CHANGE_BYTES: usize = 5;

struct Bytes(Vec<u8>);

impl DiskFile for Bytes {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let to = from.saturating_add(buffer.len());
        buffer.copy_from_slice(self.0.get(from..to).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, _: &[&[u8]], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn try_lock(&self) -> io::Result<bool> {
        Ok(true)
    }
}

/// Gives bytes that begin like a record the seal of one, so that what is behind the seal is tried, too.
fn seal_records(bytes: &mut [u8], pack: PackId, from: usize) {
    let mut at = from;
    while at + RECORD_HEADER_BYTES <= bytes.len() {
        let (sealed, seal) = bytes[at..at + RECORD_HEADER_BYTES].split_at_mut(RECORD_HEADER_BYTES - CHECK_BYTES);
        if sealed.starts_with(&RECORD_MAGIC) {
            let offset = at as u64;
            seal.copy_from_slice(&seal_keyed(&KEY, Place { pack, offset }, sealed));
        }
        at += ALIGN as usize;
    }
}

/// Records of a pack. Bytes that begin like a record get the seal of one, so that what is behind the seal is tried, too. Gives the number of
/// shards that are whole.
pub fn pack(bytes: &[u8]) -> usize {
    let (key, pack) = (KEY, PackId(1));
    let mut bytes = bytes.to_vec();
    seal_records(&mut bytes, pack, 0);
    let end = bytes.len() as u64;
    let file = Bytes(bytes);
    let (mut whole, mut reached) = (0, 0);
    let mut scanner = Scanner {
        file: &file,
        key: &key,
        pack,
        offset: 0,
        end,
    };
    while let Some(found) = scanner.next() {
        match found {
            Scanned::Record { offset, header } => {
                assert_eq!(offset, reached);
                reached = offset + header.record_len();
                match header.kind {
                    RecordKind::Put(put) => {
                        let is_described = read_descriptor(&file, offset, &put).is_ok();
                        let is_whole = read_verified(&file, offset, &put).is_ok();
                        assert!(is_described || !is_whole);
                        whole += usize::from(is_whole);
                    }
                    RecordKind::Tombstone { .. } => {
                        let _ = read_tombstone(&file, &key, Place { pack, offset }, &header);
                    }
                }
            }
            Scanned::Gap { from, to, .. } => {
                assert_eq!(from, reached);
                reached = to;
            }
        }
    }
    assert!(reached >= end);
    whole
}

/// What stands at the start of a store and of a pack.
pub fn heads(bytes: &[u8]) {
    if let Some(bytes) = bytes.first_chunk::<SUPERBLOCK_BYTES>() {
        let _ = decode_superblock(bytes);
    }
    if let Some(bytes) = bytes.first_chunk::<PACK_HEADER_BYTES>() {
        let _ = PackHeader::decode(bytes);
    }
}

/// A pack of one shard, and of a record that says it is gone: for the fuzzer to begin from.
pub fn pack_of(shard: &Shard) -> Vec<u8> {
    let (key, pack) = (KEY, PackId(1));
    let descriptor = shard.descriptor().to_bytes();
    let put = PutHeader {
        id: shard.id(),
        space: SPACE,
        stored_at: Timestamp::from_millis(1),
        descriptor_len: u16::try_from(descriptor.len()).expect("a descriptor is short"),
        payload_len: u32::try_from(shard.payload().len()).expect("a shard is short"),
    };
    let header = RecordHeader {
        group: 1,
        kind: RecordKind::Put(put),
    };
    let mut bytes = header.encode(&key, Place { pack, offset: 0 }).to_vec();
    bytes.extend_from_slice(&descriptor);
    bytes.resize(RECORD_HEADER_BYTES + payload_start(put.descriptor_len) as usize, 0);
    bytes.extend_from_slice(shard.payload());
    bytes.resize(header.record_len() as usize, 0);
    let offset = bytes.len() as u64;
    bytes.extend(encode_tombstone(&[shard.id()], 2, &key, Place { pack, offset }));
    bytes
}

/// A disk without files; what is above it is in memory.
struct Nothing;

impl Disk for Nothing {
    fn open(&self, _: &str, _: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn list(&self) -> io::Result<Vec<FileInfo>> {
        Ok(Vec::new())
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    fn free_space(&self) -> io::Result<u64> {
        Ok(1 << 30)
    }

    fn is_private(&self, _: &str) -> io::Result<bool> {
        Ok(true)
    }
}

fn empty_disk() -> Arc<Overlay> {
    Arc::new(Overlay::new(Arc::new(Nothing)))
}

fn write(disk: &Overlay, name: &str, bytes: &[u8]) {
    let _ = disk.remove(name);
    let file = disk.open(name, OpenMode::New).expect("it is not there");
    file.write_at(&[bytes], 0).expect("it is in memory");
}

fn read(disk: &Overlay, name: &str) -> Vec<u8> {
    let file = disk.open(name, OpenMode::Existing).expect("it is there");
    let mut bytes = vec![0; file.len().expect("it is in memory") as usize];
    file.read_at(&mut bytes, 0).expect("it is in memory");
    bytes
}

/// The key of a store that is made anew.
struct Sevens;

impl Entropy for Sevens {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(7);
    }
}

fn options() -> Options {
    Options {
        capacity: ByteSize(16 << 20),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(Sevens),
        driver: Driver::Caller,
        pack_bytes: Some(ByteSize(8 << 10)),
        index_cache: ByteSize(1 << 20),
    }
}

/// redb tells of some damage by a panic, which the store catches: the fuzzer must not take that for the end. Others still are.
fn let_panics_be_caught() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| panic::set_hook(Box::new(|about| eprintln!("{about}"))));
}

/// Some shards, of two shapes.
fn shards() -> Vec<Shard> {
    let shape = |number: u8| {
        let payload = vec![number; 100 + usize::from(number) * 50];
        let hash = potluck_types::Hash::of(&payload);
        let geometry = potluck_types::Geometry::new(1, 1 + number % 2).expect("possible");
        let hashes = vec![hash; geometry.n().into()];
        let descriptor = potluck_types::Descriptor::new(geometry, payload.len() as u32, hashes).expect("possible");
        let unverified = UnverifiedShard {
            descriptor: descriptor.to_bytes().into(),
            index: number % 2,
            payload: payload.into(),
        };
        unverified.verify(descriptor.id()).expect("its own hash")
    };
    (1..12).map(shape).collect()
}

/// Goes through all that a store promises of itself, and gives what it holds.
fn use_store(disk: &Arc<Overlay>) -> Option<Vec<ShardId>> {
    let (store, _) = Store::open(Arc::clone(disk) as Arc<dyn Disk>, options()).ok()?;
    let list = |store: &Store| -> Vec<ShardId> {
        let entries = store.entries(None, usize::MAX).expect("the index was just opened");
        entries.into_iter().map(|(id, _)| id).collect()
    };
    store.audit(|_| {}).expect("the index was just opened");
    while !store.scrub_step(ByteSize(1 << 20)).expect("it can be written").wrapped {}
    let listed = list(&store);
    for id in &listed {
        // Where no record stands that says so, no scrub comes by.
        if store.get(id).is_err() {
            assert_eq!(store.entry(id).expect("the index was just opened"), None);
        }
    }
    let ours = &shards()[0];
    store.put_wait(ours.clone(), SPACE).expect("there is room");
    assert_eq!(store.get(&ours.id()).expect("just stored").as_ref(), Some(ours));
    let _ = store.compact_step(ByteSize(1 << 20));
    let held = list(&store);
    store.close();
    let (store, _) = Store::open(Arc::clone(disk) as Arc<dyn Disk>, options()).expect("it was closed in order");
    assert_eq!(list(&store), held);
    store.delete(&held).expect("it can be written");
    assert!(list(&store).is_empty());
    Some(held)
}

/// A store of hostile files, one after the other: a number, three bytes of length, the content. Number 0 is the superblock, others are packs; what
/// looks like a header or a record gets its seal.
pub fn recovery(mut bytes: &[u8]) {
    let_panics_be_caught();
    let disk = empty_disk();
    write(&disk, SUPERBLOCK_FILE, &encode_superblock(KEY));
    while let Some(([number, low, middle, high], rest)) = bytes.split_first_chunk::<FILE_HEADER_BYTES>() {
        let len = u32::from_le_bytes([*low, *middle, *high, 0]) as usize;
        let (content, later) = rest.split_at(len.min(rest.len()));
        if *number == 0 {
            write(&disk, SUPERBLOCK_FILE, content);
        } else {
            let pack = PackId(u32::from(*number));
            let mut content = content.to_vec();
            seal_records(&mut content, pack, PACK_HEADER_BYTES);
            if let Some(header) = content.first_chunk_mut::<PACK_HEADER_BYTES>()
                && header[0] == b'P'
            {
                let claimed = |at| u64::from_le_bytes(format::take(header, at));
                let header_of = PackHeader {
                    id: pack,
                    previous: PackId(u32::from_le_bytes(format::take(header, 16))),
                    previous_len: claimed(24),
                    created_at: Timestamp::from_millis(claimed(32)),
                    key: KEY,
                };
                *header = header_of.encode();
            }
            write(&disk, &pack.file_name(), &content);
        }
        bytes = later;
    }
    use_store(&disk);
}

/// A sound store, as its files.
fn sound() -> &'static Vec<(String, Vec<u8>)> {
    static SOUND: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();
    SOUND.get_or_init(|| {
        let disk = empty_disk();
        let (store, _) = Store::open(Arc::clone(&disk) as Arc<dyn Disk>, options()).expect("a new one");
        for shard in shards() {
            store.put_wait(shard, SPACE).expect("there is room");
        }
        store.delete(&[shards()[1].id()]).expect("it can be written");
        store.close();
        let names = disk.list().expect("it is in memory").into_iter().map(|info| info.name);
        names.map(|name| (name.clone(), read(&disk, &name))).collect()
    })
}

/// A sound store whose index has other bytes in some places. No shard is lost by it.
pub fn index(changes: &[u8]) {
    let_panics_be_caught();
    let disk = empty_disk();
    for (name, bytes) in sound() {
        let mut bytes = bytes.clone();
        if name == INDEX_FILE {
            for change in changes.chunks_exact(CHANGE_BYTES).take(256) {
                let at = u32::from_le_bytes(format::take(change, 0)) as usize % bytes.len();
                bytes[at] = change[4];
            }
        }
        write(&disk, name, &bytes);
    }
    let held = use_store(&disk).expect("an index can be made anew");
    assert_eq!(held.len(), shards().len() - 1);
}

/// Files for [`recovery`] to begin from: a sound store in several packs, and one that was cut.
pub fn files() -> Vec<(&'static str, Vec<u8>)> {
    let packs = |cut: usize| -> Vec<u8> {
        let packs = sound()
            .iter()
            .filter_map(|(name, bytes)| Some((PackId::from_file_name(name)?, bytes)));
        let entries = packs.flat_map(|(id, bytes)| {
            let bytes = &bytes[..bytes.len() - cut.min(bytes.len())];
            let [low, middle, high, _] = (bytes.len() as u32).to_le_bytes();
            [&[id.0 as u8, low, middle, high][..], bytes].concat()
        });
        entries.collect()
    };
    vec![("sound", packs(0)), ("torn", packs(300)), ("empty", Vec::new())]
}
