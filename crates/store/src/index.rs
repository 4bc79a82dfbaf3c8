//! The index: where each shard is. A redb database, and in front of it the latest changes in memory.
//!
//! The database only ever holds what is synced in the packs. It is written at checkpoints, together with the
//! [`Position`] up to which it knows the packs; after a crash the packs' tail from there on is replayed. So a put
//! costs no index write of its own, and losing the index loses nothing.

use crate::{
    disk::{Disk, DiskFile, OpenMode},
    error::{DiskError, IndexError},
    format::{self, INDEX_FILE, PackId, Place, SHARD_ID_BYTES},
    packs::PackInfo,
};
use potluck_types::{Geometry, ShardId, SpaceId, StripeId, Timestamp, limits};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::{
    collections::BTreeMap,
    fmt, io,
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

const ENTRY_BYTES: usize = 64;
const PACK_BYTES: usize = 32;
const POSITION_BYTES: usize = 32;

/// The version of each record is that of its table.
const SHARDS: TableDefinition<'_, &[u8; SHARD_ID_BYTES], &[u8; ENTRY_BYTES]> = TableDefinition::new("shards.1");
const PACKS: TableDefinition<'_, u32, &[u8; PACK_BYTES]> = TableDefinition::new("packs.1");
const POSITION: TableDefinition<'_, (), &[u8; POSITION_BYTES]> = TableDefinition::new("position.1");

/// Where a shard is, and what can be said of it without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The pack that holds it.
    pub pack: PackId,
    /// Where its record starts in the pack.
    pub offset: u64,
    /// How its stripe is coded.
    pub geometry: Geometry,
    /// Length of the descriptor in bytes.
    pub descriptor_len: u16,
    /// Length of the payload in bytes.
    pub payload_len: u32,
    /// The space under whose pin it was stored.
    pub space: SpaceId,
    /// When it was stored first.
    pub stored_at: Timestamp,
}

impl Entry {
    /// What the shard takes on disk, in bytes.
    pub fn record_len(&self) -> u64 {
        format::put_record_len(self.descriptor_len, self.payload_len)
    }

    /// Where the record ends.
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.record_len()
    }

    pub(crate) fn place(&self) -> Place {
        Place {
            pack: self.pack,
            offset: self.offset,
        }
    }

    fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        format::put(&mut bytes, 0, &self.pack.0.to_le_bytes());
        format::put(&mut bytes, 4, &self.payload_len.to_le_bytes());
        format::put(&mut bytes, 8, &self.offset.to_le_bytes());
        format::put(&mut bytes, 16, &self.stored_at.as_millis().to_le_bytes());
        format::put(&mut bytes, 24, &self.descriptor_len.to_le_bytes());
        format::put(&mut bytes, 26, &[self.geometry.k(), self.geometry.m()]);
        format::put(&mut bytes, 32, self.space.as_bytes());
        bytes
    }

    fn decode(bytes: &[u8; ENTRY_BYTES]) -> Result<Self, IndexError> {
        Ok(Self {
            pack: PackId(u32::from_le_bytes(format::take(bytes, 0))),
            payload_len: u32::from_le_bytes(format::take(bytes, 4)),
            offset: u64::from_le_bytes(format::take(bytes, 8)),
            stored_at: Timestamp::from_millis(u64::from_le_bytes(format::take(bytes, 16))),
            descriptor_len: u16::from_le_bytes(format::take(bytes, 24)),
            geometry: Geometry::new(bytes[26], bytes[27]).ok_or(IndexError::Corrupt)?,
            space: SpaceId::from_bytes(format::take(bytes, 32)),
        })
    }
}

/// How far the index knows the packs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Position {
    /// Everything before this place is in the database.
    pub(crate) place: Place,
    /// The number of the next group.
    pub(crate) group: u64,
    /// How far the scrub is.
    pub(crate) scrub: Scrub,
}

/// How far the scrub is: what is before its place was found sound in this round, the rest in the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Scrub {
    /// Where it goes on.
    pub(crate) place: Place,
    /// When this round began, and the one before; 1970 when that is not known.
    pub(crate) begun: Timestamp,
    pub(crate) begun_before: Timestamp,
}

/// What the database said when it was opened.
#[derive(Default)]
pub(crate) struct Checkpoint {
    pub(crate) position: Position,
    pub(crate) packs: BTreeMap<PackId, PackInfo>,
}

/// See the module.
pub(crate) struct Index {
    disk: Arc<dyn Disk>,
    cache_bytes: usize,
    meter: Arc<Meter>,
    /// `None` after an error, until the next checkpoint opens it again.
    database: RwLock<Option<Database>>,
    /// What changed since the checkpoint: `None` is "gone".
    changes: RwLock<BTreeMap<ShardId, Option<Entry>>>,
    corrupt: AtomicBool,
}

/// What the index does to the disk.
#[derive(Default)]
pub(crate) struct Meter {
    pub(crate) len: AtomicU64,
    pub(crate) written: AtomicU64,
    pub(crate) syncs: AtomicU64,
}

impl Index {
    /// Opens the index, or makes an empty one when there is none.
    pub(crate) fn open(disk: Arc<dyn Disk>, cache_bytes: usize) -> Result<(Self, Checkpoint), IndexError> {
        let meter = Arc::<Meter>::default();
        let database = guarded(|| open_database(&*disk, cache_bytes, &meter))?;
        let checkpoint = guarded(|| read_checkpoint(&database))?;
        let index = Self {
            disk,
            cache_bytes,
            meter,
            database: RwLock::new(Some(database)),
            changes: RwLock::default(),
            corrupt: AtomicBool::new(false),
        };
        Ok((index, checkpoint))
    }

    /// Where a shard is.
    pub(crate) fn entry(&self, id: &ShardId) -> Result<Option<Entry>, IndexError> {
        if let Some(change) = read(&self.changes).get(id) {
            return Ok(*change);
        }
        self.query(|shards| match shards.get(&format::shard_id_bytes(id))? {
            Some(bytes) => Entry::decode(bytes.value()).map(Some),
            None => Ok(None),
        })
    }

    /// Up to `limit` entries in order of their ids, those after `after`.
    pub(crate) fn entries(&self, after: Option<ShardId>, limit: usize) -> Result<Vec<(ShardId, Entry)>, IndexError> {
        let lower = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.range((lower, Bound::Unbounded), limit)
    }

    /// The shards of one stripe.
    pub(crate) fn entries_of(&self, stripe: StripeId) -> Result<Vec<(ShardId, Entry)>, IndexError> {
        let bound = |index| Bound::Included(ShardId { stripe, index });
        self.range((bound(0), bound(u8::MAX)), usize::MAX)
    }

    /// All entries for which `wanted` holds: reads the whole index.
    pub(crate) fn search(&self, wanted: impl Fn(&Entry) -> bool) -> Result<Vec<(ShardId, Entry)>, IndexError> {
        const PAGE: usize = 4096;
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = self.entries(after, PAGE)?;
            let Some((last, _)) = page.last() else {
                return Ok(found);
            };
            after = Some(*last);
            found.extend(page.into_iter().filter(|(_, entry)| wanted(entry)));
        }
    }

    /// The database's range with the changes laid over it. The changes stay locked meanwhile, so that a checkpoint
    /// does not move them in between.
    fn range(
        &self,
        range: (Bound<ShardId>, Bound<ShardId>),
        limit: usize,
    ) -> Result<Vec<(ShardId, Entry)>, IndexError> {
        let changes = read(&self.changes);
        let bytes = (
            range.0.map(|id| format::shard_id_bytes(&id)),
            range.1.map(|id| format::shard_id_bytes(&id)),
        );
        self.query(|shards| {
            let mut changed = changes.range(range).peekable();
            let mut stored = shards.range::<&[u8; SHARD_ID_BYTES]>((bytes.0.as_ref(), bytes.1.as_ref()))?;
            let mut next_stored = || -> Result<Option<(ShardId, Entry)>, IndexError> {
                let Some(row) = stored.next() else { return Ok(None) };
                let (id, entry) = row?;
                Ok(Some((format::shard_id_from(id.value()), Entry::decode(entry.value())?)))
            };
            let mut found = Vec::new();
            let mut waiting = next_stored()?;
            while found.len() < limit {
                match (changed.peek(), waiting) {
                    (None, None) => break,
                    (Some((id, change)), stored) if stored.is_none_or(|(other, _)| **id <= other) => {
                        found.extend(change.map(|entry| (**id, entry)));
                        if stored.is_some_and(|(other, _)| other == **id) {
                            waiting = next_stored()?;
                        }
                        changed.next();
                    }
                    (_, Some(row)) => {
                        found.push(row);
                        waiting = next_stored()?;
                    }
                    (Some(_), None) => unreachable!("the second arm takes a change when nothing else waits"),
                }
            }
            Ok(found)
        })
    }

    fn query<T>(
        &self,
        ask: impl FnOnce(
            &redb::ReadOnlyTable<&'static [u8; SHARD_ID_BYTES], &'static [u8; ENTRY_BYTES]>,
        ) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        let database = read(&self.database);
        let database = database.as_ref().ok_or(redb::Error::PreviousIo)?;
        let answer = guarded(|| ask(&database.begin_read()?.open_table(SHARDS)?));
        if matches!(answer, Err(IndexError::Corrupt)) {
            self.corrupt.store(true, Ordering::Relaxed);
        }
        answer
    }

    /// Notes changes that are synced in the packs.
    pub(crate) fn apply(&self, changes: impl IntoIterator<Item = (ShardId, Option<Entry>)>) {
        write(&self.changes).extend(changes);
    }

    /// How many changes wait for a checkpoint.
    pub(crate) fn backlog(&self) -> usize {
        read(&self.changes).len()
    }

    /// Whether the database was found to be corrupt: it must be made anew.
    pub(crate) fn is_corrupt(&self) -> bool {
        self.corrupt.load(Ordering::Relaxed)
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Writes all changes to the database, durably. Only the writer calls this, and only it calls [`Index::apply`].
    pub(crate) fn checkpoint(&self, position: &Position, packs: &BTreeMap<PackId, PackInfo>) -> Result<(), IndexError> {
        let mut database = write(&self.database);
        if database.is_none() {
            *database = Some(guarded(|| open_database(&*self.disk, self.cache_bytes, &self.meter))?);
        }
        drop(database);
        let written = {
            let database = read(&self.database);
            let database = database.as_ref().ok_or(redb::Error::PreviousIo)?;
            let changes = read(&self.changes);
            guarded(|| write_checkpoint(database, &changes, position, packs))
        };
        match written {
            Ok(()) => write(&self.changes).clear(),
            // After a failed write redb refuses everything, reads too, until it is opened again.
            Err(_) => {
                let mut database = write(&self.database);
                drop(database.take());
                *database = guarded(|| open_database(&*self.disk, self.cache_bytes, &self.meter)).ok();
            }
        }
        written
    }

    /// Closes the database.
    pub(crate) fn close(&self) {
        let database = write(&self.database).take();
        let _ = guarded(|| {
            drop(database);
            Ok(())
        });
    }
}

fn open_database(disk: &dyn Disk, cache_bytes: usize, meter: &Arc<Meter>) -> Result<Database, IndexError> {
    let (file, len) = match disk.open(INDEX_FILE, OpenMode::Existing) {
        Ok(file) => {
            let len = file.len().map_err(redb::Error::Io)?;
            (file, len)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = disk.open(INDEX_FILE, OpenMode::New).map_err(redb::Error::Io)?;
            disk.sync_dir().map_err(redb::Error::Io)?;
            (file, 0)
        }
        Err(error) => return Err(redb::Error::Io(error).into()),
    };
    meter.len.store(len, Ordering::Relaxed);
    let backend = Backend {
        file,
        meter: Arc::clone(meter),
    };
    let database = Database::builder()
        .set_cache_size(cache_bytes)
        .set_check_integrity_on_open((1..=limits::STORE_INDEX_CHECK_BYTES_MAX).contains(&len))
        .create_with_backend(backend)?;
    Ok(database)
}

fn read_checkpoint(database: &Database) -> Result<Checkpoint, IndexError> {
    let read = database.begin_read()?;
    let position = match read.open_table(POSITION) {
        Ok(table) => table.get(())?.map(|bytes| {
            let place = |at| Place {
                pack: PackId(u32::from_le_bytes(format::take(bytes.value(), at))),
                offset: u64::from(u32::from_le_bytes(format::take(bytes.value(), at + 4))),
            };
            let time = |at| {
                let seconds = u32::from_le_bytes(format::take(bytes.value(), at));
                Timestamp::from_millis(u64::from(seconds) * 1000)
            };
            Position {
                place: place(0),
                scrub: Scrub {
                    place: place(8),
                    begun: time(24),
                    begun_before: time(28),
                },
                group: u64::from_le_bytes(format::take(bytes.value(), 16)),
            }
        }),
        Err(redb::TableError::TableDoesNotExist(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let Some(position) = position else {
        // Just made: the tables must be there for readers to come.
        let checkpoint = Checkpoint::default();
        write_checkpoint(database, &BTreeMap::new(), &checkpoint.position, &checkpoint.packs)?;
        return Ok(checkpoint);
    };
    let mut packs = BTreeMap::new();
    for row in read.open_table(PACKS)?.iter()? {
        let (id, info) = row?;
        let number = |at| u64::from_le_bytes(format::take(info.value(), at));
        packs.insert(
            PackId(id.value()),
            PackInfo {
                len: number(0),
                live_bytes: number(8),
                tombstone_bytes: number(16),
                shards: number(24),
            },
        );
    }
    Ok(Checkpoint { position, packs })
}

fn write_checkpoint(
    database: &Database,
    changes: &BTreeMap<ShardId, Option<Entry>>,
    position: &Position,
    packs: &BTreeMap<PackId, PackInfo>,
) -> Result<(), IndexError> {
    let mut write = database.begin_write()?;
    write.set_quick_repair(true);
    {
        let mut shards = write.open_table(SHARDS)?;
        for (id, change) in changes {
            let id = format::shard_id_bytes(id);
            match change {
                Some(entry) => shards.insert(&id, &entry.encode())?,
                None => shards.remove(&id)?,
            };
        }
        let mut table = write.open_table(PACKS)?;
        table.retain(|id, _| packs.contains_key(&PackId(id)))?;
        for (id, info) in packs {
            let mut bytes = [0; PACK_BYTES];
            format::put(&mut bytes, 0, &info.len.to_le_bytes());
            format::put(&mut bytes, 8, &info.live_bytes.to_le_bytes());
            format::put(&mut bytes, 16, &info.tombstone_bytes.to_le_bytes());
            format::put(&mut bytes, 24, &info.shards.to_le_bytes());
            let known = table.get(id.0)?.is_some_and(|old| *old.value() == bytes);
            if !known {
                table.insert(id.0, &bytes)?;
            }
        }
        let mut bytes = [0; POSITION_BYTES];
        for (at, place) in [(0, position.place), (8, position.scrub.place)] {
            format::put(&mut bytes, at, &place.pack.0.to_le_bytes());
            let offset = u32::try_from(place.offset).expect("packs are shorter than 4 GiB");
            format::put(&mut bytes, at + 4, &offset.to_le_bytes());
        }
        format::put(&mut bytes, 16, &position.group.to_le_bytes());
        for (at, time) in [(24, position.scrub.begun), (28, position.scrub.begun_before)] {
            let seconds = u32::try_from(time.as_millis() / 1000).unwrap_or(0);
            format::put(&mut bytes, at, &seconds.to_le_bytes());
        }
        write.open_table(POSITION)?.insert((), &bytes)?;
    }
    write.commit()?;
    Ok(())
}

/// The index's file as redb wants it.
struct Backend {
    file: Arc<dyn DiskFile>,
    meter: Arc<Meter>,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Backend")
    }
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> Result<u64, io::Error> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.file.read_at(out, offset)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.file.set_len(len)?;
        self.meter.len.store(len, Ordering::Relaxed);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.meter.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.meter.written.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.file.write_at(&[data], offset)
    }
}

/// Removes the database, so that an empty one is made in its place.
pub(crate) fn discard(disk: &dyn Disk) -> Result<(), DiskError> {
    match disk.remove(INDEX_FILE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DiskError::at("remove", INDEX_FILE)(error)),
        _ => Ok(()),
    }
}

/// redb panics on some corruptions: for us that is an answer like others.
fn guarded<T>(ask: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
    catch_unwind(AssertUnwindSafe(ask)).unwrap_or(Err(IndexError::Corrupt))
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
