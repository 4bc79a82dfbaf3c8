//! The metadata database of a node: records of the pool, tickets, the tables of spaces, and what the spaces of this person have stored already.

use crate::{
    control::{Absences, Remembered},
    erase::Pending,
    error::{Contradiction, MetaError},
    home::{META, META_RESERVE},
    links::Readers,
    records::PoolRecord,
    retention::Elapsed,
    spare::{Reserve, Spared},
    standing::Standing,
};
use potluck_crypto::LinkId;
use potluck_dag::Piece;
use potluck_placement::Layouts;
use potluck_spaces::{FileId, Frontier, Kv, KvError, Log, Rows, Table, Tree};
use potluck_store::Disk;
use potluck_types::{Hash, NodeId, SpaceId, StripeId, Timestamp, from_canonical, to_canonical};
use redb::{
    Database, ReadableDatabase, ReadableTable, StorageBackend, StorageError, TableDefinition, TransactionError,
};
use serde::{Deserialize, Serialize};
use std::{
    cell::{Cell, OnceCell},
    collections::BTreeMap,
    fmt, io,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Mutex, MutexGuard, Once, PoisonError, RwLock},
};

type Bytes = &'static [u8];

const RECORDS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("records");
const INVITES: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("invites");
const SETTINGS: TableDefinition<'_, &'static str, Bytes> = TableDefinition::new("settings");
/// Who reads by the links whose readers this node counts.
const READERS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("link-readers");
const DEDUP: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("dedup");
/// File versions that this node began to write and has not named yet, and when it last wrote of them.
const UPLOADS: TableDefinition<'_, Bytes, u64> = TableDefinition::new("uploads");

/// The version of the tables' layout. Version 1 had no trash, and nobody counted files; version 2 did not know where directories are, and what
/// conflicts; version 3 knew of no links; version 4 did not add up the bytes of files, and version 5 not by who had put them.
const VERSION: u32 = 6;
/// Pages that stay in memory. The hot part of the index of a million files fits.
const CACHE_BYTES: usize = 16 << 20;
/// How often what was stored may have been coded anew, as far as that is followed.
const LINKED_ROWS_MAX: u32 = 8;
const REWRITE_BYTES: usize = 1 << 20;
const SECTOR_BYTES: usize = 4096;

const fn space_table(table: Table) -> TableDefinition<'static, Bytes, Bytes> {
    TableDefinition::new(match table {
        Table::Log => "space-log",
        Table::Erased => "space-erased",
        Table::Restated => "space-restated",
        Table::Frontier => "space-frontier",
        Table::Registers => "space-registers",
        Table::Conflicts => "space-conflicts",
        Table::Replaced => "space-replaced",
        Table::Directories => "space-directories",
        Table::Placed => "space-placed",
        Table::Uses => "space-uses",
        Table::Users => "space-users",
        Table::Recoded => "space-recoded",
        Table::Pins => "space-pins",
        Table::Links => "space-links",
        Table::Kept => "space-kept",
        Table::KeptAt => "space-kept-at",
        Table::KeptUntil => "space-kept-until",
        Table::Totals => "space-totals",
        Table::Written => "space-written",
        Table::Settings => "space-settings",
        Table::Snapshots => "space-snapshots",
        Table::Turnover => "space-turnover",
        Table::Aside => "space-aside",
        Table::GivenUp => "space-given-up",
        Table::Charter => "space-charter",
        Table::Sealed => "space-sealed",
        Table::Scope => "space-scope",
        Table::Unfilled => "space-unfilled",
        Table::Begun => "space-begun",
    })
}

/// An invitation that this node made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Invite {
    pub(crate) expires: Timestamp,
    pub(crate) uses_left: u32,
    pub(crate) mine: bool,
    /// How often this person's key had been replaced when it was made: it brings nobody that key who may have it from a machine that was lost since.
    #[serde(default, skip_serializing_if = "is_first")]
    pub(crate) generation: u32,
    /// Who used it: the same node may ask again when the answer was lost.
    pub(crate) used_by: Vec<NodeId>,
}

fn is_first(generation: &u32) -> bool {
    *generation == 0
}

/// A table whose rows stand for themselves: those of spaces follow from one another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum RowTable {
    Settings,
    Records,
    Invites,
    Readers,
    Dedup,
    Uploads,
}

impl RowTable {
    /// What it is called on disk.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::Records => "records",
            Self::Invites => "invites",
            Self::Readers => "link-readers",
            Self::Dedup => "dedup",
            Self::Uploads => "uploads",
        }
    }
}

/// A row that is no value of its table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct WrongRow {
    pub(crate) table: RowTable,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

/// See the module.
pub(crate) struct Meta {
    /// None when it could not be opened again after a failure.
    database: RwLock<Option<Arc<Database>>>,
    /// Where it is; nowhere when only its bytes were given.
    disk: Option<Arc<dyn Disk>>,
    reserve: Arc<Reserve>,
    frontiers: Mutex<Frontiers>,
}

/// How far the logs of spaces are known, as it was read last: it is asked far more often than it changes.
#[derive(Default)]
struct Frontiers {
    /// How often any may have changed.
    changes: u64,
    read: BTreeMap<SpaceId, Arc<Frontier>>,
    /// The room that all of it takes, in positions.
    room: usize,
}

/// Room for positions: with 80 bytes for each, 1.3 MB.
const POSITIONS_MAX: usize = 16_384;
/// What a frontier takes at least, however few there are in it: a node of a tree has room for so many.
const POSITIONS_MIN: usize = 11;

impl Frontiers {
    fn room_of(frontier: &Frontier) -> usize {
        frontier.len().max(POSITIONS_MIN)
    }

    /// Takes note of what was read when there had been so many changes.
    fn remember(&mut self, changes: u64, space: SpaceId, frontier: &Arc<Frontier>) {
        // Whoever asks for spaces that are not here is to take no room.
        if changes != self.changes || frontier.is_empty() {
            return;
        }
        let room = Self::room_of(frontier);
        if self.room + room > POSITIONS_MAX {
            (self.room, self.read) = (0, BTreeMap::new());
        }
        self.room += room;
        if let Some(before) = self.read.insert(space, Arc::clone(frontier)) {
            self.room -= Self::room_of(&before);
        }
    }

    /// Any may be another now.
    fn forget(&mut self) {
        self.changes += 1;
        (self.room, self.read) = (0, BTreeMap::new());
    }
}

impl fmt::Debug for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meta").finish_non_exhaustive()
    }
}

fn failed<E: std::error::Error + Send + Sync + 'static>(action: &'static str) -> impl FnOnce(E) -> MetaError {
    move |source| MetaError {
        action,
        source: Box::new(source),
    }
}

fn boxed(action: &'static str) -> impl FnOnce(KvError) -> MetaError {
    move |source| MetaError { action, source }
}

/// Does what reads a database that may be damaged. redb tells of most damage by an error, and of some, which no checksum of its own covers, by
/// a panic: that is an error here, and nothing is printed of it.
pub(crate) fn sound<R>(work: impl FnOnce() -> Result<R, MetaError>) -> Result<R, MetaError> {
    thread_local! {
        static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |about| {
            if !IS_CAUGHT.get() {
                usual(about);
            }
        }));
    });
    let was_caught = IS_CAUGHT.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    IS_CAUGHT.set(was_caught);
    outcome.unwrap_or_else(|_| {
        Err(MetaError {
            action: "opening",
            source: Contradiction.into(),
        })
    })
}

impl Meta {
    /// Opens the database of a home, or makes it, and the file that keeps room for it.
    pub(crate) fn open(disk: &Arc<dyn Disk>) -> Result<Self, MetaError> {
        let reserve = Arc::new(Reserve::at(Arc::clone(disk), META_RESERVE));
        let file = Spared::open(&**disk, META, Arc::clone(&reserve)).map_err(failed("opening"))?;
        // Who was killed may have been after a failed sync.
        if was_left_open(&file).map_err(failed("opening"))? {
            write_again(&file).map_err(failed("writing"))?;
        }
        let mut meta = Self::over(file, reserve)?;
        meta.disk = Some(Arc::clone(disk));
        Ok(meta)
    }

    /// Opens the database in these bytes, or makes it there.
    pub(crate) fn over(bytes: impl StorageBackend, reserve: Arc<Reserve>) -> Result<Self, MetaError> {
        sound(|| {
            let meta = Self {
                database: RwLock::new(Some(Arc::new(database_in(bytes)?))),
                disk: None,
                reserve,
                frontiers: Mutex::default(),
            };
            let found = meta.setting::<u32>("version")?;
            if let Some(version) = found.filter(|version| *version > VERSION) {
                let text = format!("it has version {version}, and this program knows up to {VERSION}: update it");
                return Err(MetaError {
                    action: "opening",
                    source: text.into(),
                });
            }
            // A new one, or one of a version that had fewer tables.
            if found.is_none() || !meta.has_all_tables() {
                meta.make_tables(found.unwrap_or(VERSION))?;
            }
            if found == Some(1) {
                meta.write(|kv| Tree::count_all(kv).map_err(boxed("counting the files of")))?;
                meta.set_setting("version", &2u32)?;
            }
            Ok(meta)
        })
    }

    /// Forgets what was stored for chunks that lie in stripes which are dead.
    pub(crate) fn forget_stored(&self, is_dead: impl Fn(StripeId) -> Result<bool, KvError>) -> Result<(), MetaError> {
        let transaction = self.begin_read()?;
        let table = transaction.open_table(DEDUP).map_err(failed("reading"))?;
        let (mut dead, mut broken) = (Vec::new(), Ok(()));
        each(&transaction, DEDUP, |fingerprint, piece| {
            // What was coded anew lies in the stripe that the next row names, and so on.
            let (mut piece, mut left) = (Some(piece.to_vec()), LINKED_ROWS_MAX);
            while let Some(stripe) = piece.take().and_then(|piece| from_canonical::<Piece>(&piece).ok()) {
                let stripe = stripe.stripe();
                left -= 1;
                match (is_dead(stripe), get(&table, stripe.as_bytes())) {
                    (Ok(true), Ok(Some(next))) if left > 0 => piece = Some(next),
                    (Ok(true), Ok(_)) => dead.push(fingerprint.to_vec()),
                    (Ok(false), _) => {}
                    (Err(error), _) | (_, Err(error)) => broken = Err(MetaError::reading(error)),
                }
            }
        })?;
        broken?;
        drop((table, transaction));
        self.write(|kv| dead.iter().try_for_each(|fingerprint| kv.forget_stored(fingerprint)))
    }

    /// Whether the tables of spaces are those of this version. Else they are made anew from the logs, by who has the keys; see [`Meta::made_current`].
    pub(crate) fn is_current(&self) -> Result<bool, MetaError> {
        Ok(self.setting::<u32>("version")? == Some(VERSION))
    }

    /// They are.
    pub(crate) fn made_current(&self) -> Result<(), MetaError> {
        self.set_setting("version", &VERSION)
    }

    /// Whether the database's own sums hold, those of all its pages. It must not be in use.
    pub(crate) fn check(&mut self) -> Result<bool, MetaError> {
        let database = self.database.get_mut().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_mut().and_then(Arc::get_mut);
        let database = database.ok_or_else(|| not_open("checking"))?;
        database.check_integrity().map_err(failed("checking"))
    }

    fn database(&self, action: &'static str) -> Result<Arc<Database>, MetaError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        database.clone().ok_or_else(|| not_open(action))
    }

    fn begin_read(&self) -> Result<redb::ReadTransaction, MetaError> {
        self.database("reading")?.begin_read().map_err(failed("reading"))
    }

    /// After a failed write redb refuses all that follows, until it is opened again: a disk that was full, or away for a moment, must not cost a restart.
    fn begin_write(&self) -> Result<redb::WriteTransaction, MetaError> {
        if let Ok(database) = self.database("writing") {
            match database.begin_write() {
                Err(TransactionError::Storage(StorageError::PreviousIo)) => {}
                begun => return begun.map_err(failed("writing")),
            }
        }
        self.open_again()?;
        self.database("writing")?.begin_write().map_err(failed("writing"))
    }

    /// Opens it again when a write has failed: from what is on the disk, that is as it was after the last one that did not, or after that one.
    fn open_again(&self) -> Result<(), MetaError> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = database.as_ref() {
            // Somebody else may have opened it meanwhile, and be writing.
            let begun = open.try_begin_write();
            if !matches!(begun, Err(TransactionError::Storage(StorageError::PreviousIo))) {
                return Ok(());
            }
        }
        let disk = self.disk.as_ref().ok_or_else(|| not_open("opening"))?;
        // One that somebody is about to use is left for the next attempt.
        if database.as_ref().is_some_and(|open| Arc::strong_count(open) > 1) {
            return Err(not_open("opening"));
        }
        close(database.take());
        let file = Spared::open(&**disk, META, Arc::clone(&self.reserve)).map_err(failed("opening"))?;
        write_again(&file).map_err(failed("writing"))?;
        *database = Some(Arc::new(sound(|| database_in(file))?));
        // What failed may have been written.
        self.frontiers().forget();
        tracing::info!("the database of names was opened again after a failed write");
        Ok(())
    }

    fn has_all_tables(&self) -> bool {
        let Ok(kv) = self.read() else { return false };
        Table::ALL.into_iter().all(|table| kv.table(table).is_ok())
    }

    /// Whether the disk has room for more than what frees some.
    pub(crate) fn has_room(&self) -> bool {
        self.reserve.restore()
    }

    pub(crate) fn setting<T: Serialize + serde::de::DeserializeOwned>(
        &self,
        name: &'static str,
    ) -> Result<Option<T>, MetaError> {
        let transaction = self.begin_read()?;
        let table = match transaction.open_table(SETTINGS) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(failed("reading")(error)),
        };
        let value = table.get(name).map_err(failed("reading"))?;
        value
            .map(|value| from_canonical(value.value()).map_err(failed("reading")))
            .transpose()
    }

    pub(crate) fn set_setting<T: Serialize>(&self, name: &'static str, value: &T) -> Result<(), MetaError> {
        let transaction = self.begin_write()?;
        {
            let mut table = transaction.open_table(SETTINGS).map_err(failed("writing"))?;
            table.insert(name, &*to_canonical(value)).map_err(failed("writing"))?;
        }
        transaction.commit().map_err(failed("committing"))
    }

    /// Makes the tables that are not there, so that readers find them, and says which version they are of.
    fn make_tables(&self, version: u32) -> Result<(), MetaError> {
        let transaction = self.begin_write()?;
        {
            for table in Table::ALL {
                transaction.open_table(space_table(table)).map_err(failed("writing"))?;
            }
            for table in [RECORDS, INVITES, READERS, DEDUP] {
                transaction.open_table(table).map_err(failed("writing"))?;
            }
            transaction.open_table(UPLOADS).map_err(failed("writing"))?;
            let mut settings = transaction.open_table(SETTINGS).map_err(failed("writing"))?;
            let version = to_canonical(&version);
            settings.insert("version", &*version).map_err(failed("writing"))?;
        }
        transaction.commit().map_err(failed("committing"))
    }

    /// What the node knew of the pool when it ended.
    pub(crate) fn remembered(&self) -> Result<Remembered, MetaError> {
        let (noted_at, absences): (Timestamp, Vec<(NodeId, Timestamp)>) = self.setting("absences")?.unwrap_or_default();
        let (standings_at, standings): (Timestamp, Vec<(NodeId, Standing)>) =
            self.setting("standings")?.unwrap_or_default();
        Ok(Remembered {
            standings,
            standings_at,
            layouts: self.setting("layouts")?.unwrap_or_default(),
            absences: absences.into_iter().collect(),
            noted_at,
        })
    }

    pub(crate) fn set_absences(&self, absences: &Absences, noted_at: Timestamp) -> Result<(), MetaError> {
        // Keys of maps are text in this encoding.
        let pairs: Vec<(NodeId, Timestamp)> = absences.iter().map(|(node, since)| (*node, *since)).collect();
        self.set_setting("absences", &(noted_at, pairs))
    }

    pub(crate) fn set_standings(&self, standings: &[(NodeId, Standing)], noted_at: Timestamp) -> Result<(), MetaError> {
        self.set_setting("standings", &(noted_at, standings))
    }

    /// The time that has passed as far as this node knows.
    pub(crate) fn elapsed(&self) -> Result<Option<Elapsed>, MetaError> {
        self.setting("elapsed")
    }

    pub(crate) fn set_elapsed(&self, elapsed: Elapsed) -> Result<(), MetaError> {
        self.set_setting("elapsed", &elapsed)
    }

    pub(crate) fn set_layouts(&self, layouts: &Layouts) -> Result<(), MetaError> {
        self.set_setting("layouts", layouts)
    }

    /// The records of the pool, in no order.
    pub(crate) fn records(&self) -> Result<Vec<PoolRecord>, MetaError> {
        let transaction = self.begin_read()?;
        let table = transaction.open_table(RECORDS).map_err(failed("reading"))?;
        let rows = table.iter().map_err(failed("reading"))?;
        rows.map(|row| {
            let (_, record) = row.map_err(failed("reading"))?;
            from_canonical(record.value()).map_err(failed("reading"))
        })
        .collect()
    }

    /// Makes these the records of the pool.
    pub(crate) fn set_records<'a>(&self, records: impl Iterator<Item = &'a PoolRecord>) -> Result<(), MetaError> {
        let transaction = self.begin_write()?;
        transaction.delete_table(RECORDS).map_err(failed("writing"))?;
        {
            let mut table = transaction.open_table(RECORDS).map_err(failed("writing"))?;
            for record in records {
                let bytes = record.to_bytes();
                table
                    .insert(&Hash::of(&bytes).as_bytes()[..], &*bytes)
                    .map_err(failed("writing"))?;
            }
        }
        transaction.commit().map_err(failed("committing"))
    }

    /// The records of the pool as they lie there, each with its key.
    pub(crate) fn each_record(&self, mut take: impl FnMut(&[u8], &[u8])) -> Result<(), MetaError> {
        let transaction = self.begin_read()?;
        each(&transaction, RECORDS, |key, value| take(key, value))
    }

    /// Rows that are no values of their tables.
    pub(crate) fn wrong_rows(&self) -> Result<Vec<WrongRow>, MetaError> {
        let transaction = self.begin_read()?;
        let mut wrong = Vec::new();
        let mut note = |table, key: &[u8], value: &[u8], is_right: bool| {
            if !is_right {
                let (key, value) = (key.to_vec(), value.to_vec());
                wrong.push(WrongRow { table, key, value });
            }
        };
        each(&transaction, SETTINGS, |name, value| {
            let is_right = match name {
                "version" => is_value::<u32>(value),
                "layouts" => is_value::<Layouts>(value),
                "standings" => is_value::<(Timestamp, Vec<(NodeId, Standing)>)>(value),
                "absences" => is_value::<(Timestamp, Vec<(NodeId, Timestamp)>)>(value),
                "erasures" => is_value::<Vec<Pending>>(value),
                _ => true,
            };
            note(RowTable::Settings, name.as_bytes(), value, is_right);
        })?;
        each(&transaction, RECORDS, |key, value| {
            let is_right = is_value::<PoolRecord>(value) && Hash::of(value).as_bytes() == key;
            note(RowTable::Records, key, value, is_right);
        })?;
        each(&transaction, INVITES, |key, value| {
            note(
                RowTable::Invites,
                key,
                value,
                key.len() == 32 && is_value::<Invite>(value),
            );
        })?;
        each(&transaction, READERS, |key, value| {
            let is_right = key.len() == 16 && is_value::<Readers>(value);
            note(RowTable::Readers, key, value, is_right);
        })?;
        each(&transaction, DEDUP, |key, value| {
            note(RowTable::Dedup, key, value, key.len() == 32 && is_value::<Piece>(value));
        })?;
        each(&transaction, UPLOADS, |key, at| {
            note(RowTable::Uploads, key, &at.to_be_bytes(), matches!(key.len(), 16 | 48));
        })?;
        Ok(wrong)
    }

    /// Takes rows out.
    pub(crate) fn remove_rows(&self, rows: &[WrongRow]) -> Result<(), MetaError> {
        let transaction = self.begin_write()?;
        {
            let open = |table| transaction.open_table(table).map_err(failed("writing"));
            let (mut records, mut invites, mut dedup) = (open(RECORDS)?, open(INVITES)?, open(DEDUP)?);
            let mut readers = open(READERS)?;
            let mut settings = transaction.open_table(SETTINGS).map_err(failed("writing"))?;
            let mut uploads = transaction.open_table(UPLOADS).map_err(failed("writing"))?;
            for WrongRow { table, key, .. } in rows {
                let removed = match table {
                    RowTable::Settings => settings.remove(&*String::from_utf8_lossy(key)).map(drop),
                    RowTable::Records => records.remove(&**key).map(drop),
                    RowTable::Invites => invites.remove(&**key).map(drop),
                    RowTable::Readers => readers.remove(&**key).map(drop),
                    RowTable::Dedup => dedup.remove(&**key).map(drop),
                    RowTable::Uploads => uploads.remove(&**key).map(drop),
                };
                removed.map_err(failed("writing"))?;
            }
        }
        transaction.commit().map_err(failed("committing"))
    }

    /// Reads and writes an invitation in one transaction.
    pub(crate) fn with_invite<R>(
        &self,
        secret_hash: Hash,
        change: impl FnOnce(&mut Option<Invite>) -> R,
    ) -> Result<R, MetaError> {
        self.with_row(INVITES, secret_hash.as_bytes(), change)
    }

    /// Who reads by a link, if this node counts them.
    pub(crate) fn readers(&self, link: LinkId) -> Result<Option<Readers>, MetaError> {
        let transaction = self.begin_read()?;
        let table = match transaction.open_table(READERS) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(failed("reading")(error)),
        };
        let row = table.get(&link.as_bytes()[..]).map_err(failed("reading"))?;
        row.map(|row| from_canonical(row.value()).map_err(failed("reading")))
            .transpose()
    }

    /// Reads and writes who reads by a link, in one transaction.
    pub(crate) fn with_readers<R>(
        &self,
        link: LinkId,
        change: impl FnOnce(&mut Option<Readers>) -> R,
    ) -> Result<R, MetaError> {
        self.with_row(READERS, link.as_bytes(), change)
    }

    fn with_row<T: Serialize + serde::de::DeserializeOwned, R>(
        &self,
        table: TableDefinition<'static, Bytes, Bytes>,
        key: &[u8],
        change: impl FnOnce(&mut Option<T>) -> R,
    ) -> Result<R, MetaError> {
        let transaction = self.begin_write()?;
        let result = {
            let mut table = transaction.open_table(table).map_err(failed("writing"))?;
            let mut row: Option<T> = match table.get(key).map_err(failed("reading"))? {
                Some(value) => Some(from_canonical(value.value()).map_err(failed("reading"))?),
                None => None,
            };
            let result = change(&mut row);
            match row {
                Some(row) => table.insert(key, &*to_canonical(&row)).map_err(failed("writing"))?,
                None => table.remove(key).map_err(failed("writing"))?,
            };
            result
        };
        transaction.commit().map_err(failed("committing"))?;
        Ok(result)
    }

    /// Versions that were begun and have no name, in which space (none for the person's own, of a version that knew no other), and when they were last
    /// written of.
    pub(crate) fn uploads(&self) -> Result<Vec<(Option<SpaceId>, FileId, Timestamp)>, MetaError> {
        let transaction = self.begin_read()?;
        let table = match transaction.open_table(UPLOADS) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(failed("reading")(error)),
        };
        let rows = table.iter().map_err(failed("reading"))?;
        rows.map(|row| {
            let (key, at) = row.map_err(failed("reading"))?;
            let (file, space) = key.value().split_at_checked(16).unwrap_or_default();
            let file: [u8; 16] = file.try_into().map_err(failed("reading"))?;
            let space: Option<[u8; 32]> = space.try_into().ok();
            Ok((
                space.map(SpaceId::from_bytes),
                FileId::from_bytes(file),
                Timestamp::from_millis(at.value()),
            ))
        })
        .collect()
    }

    /// Reads the tables of spaces.
    pub(crate) fn read(&self) -> Result<ReadKv, MetaError> {
        let transaction = self.begin_read()?;
        Ok(ReadKv {
            transaction,
            tables: Default::default(),
        })
    }

    fn frontiers(&self) -> MutexGuard<'_, Frontiers> {
        self.frontiers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far the logs of a space are known, if that was read since any has changed.
    pub(crate) fn remembered_frontier(&self, space: SpaceId) -> Option<Arc<Frontier>> {
        self.frontiers().read.get(&space).cloned()
    }

    /// How far the logs of a space are known.
    pub(crate) fn frontier(&self, space: SpaceId) -> Result<Arc<Frontier>, MetaError> {
        let changes = {
            let known = self.frontiers();
            if let Some(frontier) = known.read.get(&space) {
                return Ok(Arc::clone(frontier));
            }
            known.changes
        };
        let frontier = Log::of(space).frontier(&self.read()?).map_err(MetaError::reading)?;
        let frontier = Arc::new(frontier);
        self.frontiers().remember(changes, space, &frontier);
        Ok(frontier)
    }

    /// Changes the tables of spaces: all of it, or nothing when `change` fails. Durable when this returns.
    pub(crate) fn write<R, E: From<MetaError>>(
        &self,
        change: impl FnOnce(&mut WriteKv<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        let transaction = self.begin_write()?;
        let result = {
            let mut kv = WriteKv {
                transaction: &transaction,
                tables: Default::default(),
                dedup: OnceCell::new(),
                uploads: OnceCell::new(),
                moves_logs: false,
            };
            change(&mut kv).map(|result| (result, kv.moves_logs))
        };
        match result {
            Ok((result, moves_logs)) => {
                let committed = transaction.commit();
                if moves_logs {
                    self.frontiers().forget();
                }
                committed.map_err(failed("committing"))?;
                Ok(result)
            }
            Err(error) => {
                transaction.abort().map_err(failed("aborting"))?;
                Err(error)
            }
        }
    }
}

/// Whether bytes are a value.
fn is_value<T: Serialize + serde::de::DeserializeOwned>(bytes: &[u8]) -> bool {
    from_canonical::<T>(bytes).is_ok()
}

/// Goes through a table.
fn each<K: redb::Key + 'static, V: redb::Value + 'static>(
    transaction: &redb::ReadTransaction,
    table: TableDefinition<'_, K, V>,
    mut take: impl FnMut(K::SelfType<'_>, V::SelfType<'_>),
) -> Result<(), MetaError> {
    let table = match transaction.open_table(table) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
        Err(error) => return Err(failed("reading")(error)),
    };
    for row in table.iter().map_err(failed("reading"))? {
        let (key, value) = row.map_err(failed("reading"))?;
        take(key.value(), value.value());
    }
    Ok(())
}

fn database_in(bytes: impl StorageBackend) -> Result<Database, MetaError> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder.create_with_backend(bytes).map_err(failed("opening"))
}

/// Writes all that can be read of a file once more, and syncs it: when a sync fails, the system forgets what it could not write, and goes on showing it to readers. What
/// is built upon that would stand on nothing when the power goes.
fn write_again(file: &impl StorageBackend) -> io::Result<()> {
    let len = file.len()?;
    let mut buffer = vec![0; REWRITE_BYTES];
    let mut again = |from: u64, until: u64| -> io::Result<()> {
        let part = &mut buffer[..usize::try_from(until - from).expect("a part of the buffer")];
        file.read(from, part)?;
        file.write(from, part)
    };
    for from in (0..len).step_by(REWRITE_BYTES) {
        let until = len.min(from + REWRITE_BYTES as u64);
        if again(from, until).is_ok() {
            continue;
        }
        // What cannot be read is shown to nobody.
        for from in (from..until).step_by(SECTOR_BYTES) {
            let _ = again(from, until.min(from + SECTOR_BYTES as u64));
        }
    }
    file.sync_data()
}

/// Whether a database was not closed in order, as its header says (`docs/design.md` of redb: the second bit after nine bytes of magic number).
fn was_left_open(file: &impl StorageBackend) -> io::Result<bool> {
    const FLAGS_AT: u64 = 9;
    const RECOVERY_REQUIRED: u8 = 2;
    let mut flags = [0];
    if file.len()? > FLAGS_AT {
        file.read(FLAGS_AT, &mut flags)?;
    }
    Ok(flags[0] & RECOVERY_REQUIRED != 0)
}

fn not_open(action: &'static str) -> MetaError {
    MetaError {
        action,
        source: "a write has failed before, and it is not opened again yet".into(),
    }
}

/// redb writes once more as it closes, and what it reads for that may be damaged.
fn close(database: Option<Arc<Database>>) {
    let closed = sound(|| {
        drop(database);
        Ok(())
    });
    if let Err(error) = closed {
        tracing::warn!(%error, "the database of names did not close in order");
    }
}

impl Drop for Meta {
    fn drop(&mut self) {
        close(self.database.get_mut().unwrap_or_else(PoisonError::into_inner).take());
    }
}

fn at(table: Table) -> usize {
    Table::ALL
        .iter()
        .position(|other| *other == table)
        .expect("all tables are listed")
}

fn get(table: &impl ReadableTable<Bytes, Bytes>, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
    Ok(table.get(key)?.map(|value| value.value().to_vec()))
}

fn scan(
    table: &impl ReadableTable<Bytes, Bytes>,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Rows, KvError> {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    let start = after
        .filter(|after| *after >= prefix)
        .map_or(Included(prefix), Excluded);
    let mut rows = Vec::new();
    for row in table.range::<&[u8]>((start, Unbounded))? {
        let (key, value) = row?;
        if rows.len() >= limit || !key.value().starts_with(prefix) {
            break;
        }
        rows.push((key.value().to_vec(), value.value().to_vec()));
    }
    Ok(rows)
}

/// A snapshot of the tables of spaces. Each is opened when it is first read.
pub(crate) struct ReadKv {
    transaction: redb::ReadTransaction,
    tables: [OnceCell<redb::ReadOnlyTable<Bytes, Bytes>>; Table::ALL.len()],
}

impl ReadKv {
    fn table(&self, table: Table) -> Result<&redb::ReadOnlyTable<Bytes, Bytes>, KvError> {
        let cell = &self.tables[at(table)];
        if let Some(opened) = cell.get() {
            return Ok(opened);
        }
        let opened = self.transaction.open_table(space_table(table))?;
        Ok(cell.get_or_init(|| opened))
    }
}

impl ReadKv {
    /// What was stored for a chunk with this fingerprint.
    pub(crate) fn stored(&self, fingerprint: &[u8]) -> Result<Option<Vec<u8>>, MetaError> {
        let dedup = self.transaction.open_table(DEDUP).map_err(failed("reading"))?;
        get(&dedup, fingerprint).map_err(boxed("reading"))
    }
}

impl Kv for ReadKv {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        get(self.table(table)?, key)
    }

    fn put(&mut self, _: Table, _: &[u8], _: &[u8]) -> Result<(), KvError> {
        Err("a snapshot cannot be changed".into())
    }

    fn delete(&mut self, _: Table, _: &[u8]) -> Result<(), KvError> {
        Err("a snapshot cannot be changed".into())
    }

    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Rows, KvError> {
        scan(self.table(table)?, prefix, after, limit)
    }
}

/// A table that is open for writing.
type Open<'t, V> = OnceCell<redb::Table<'t, Bytes, V>>;

/// A transaction over the tables of spaces; each is opened when it is used first.
pub(crate) struct WriteKv<'t> {
    transaction: &'t redb::WriteTransaction,
    tables: [Open<'t, Bytes>; Table::ALL.len()],
    dedup: Open<'t, Bytes>,
    uploads: Open<'t, u64>,
    /// How far logs are known is changed.
    moves_logs: bool,
}

impl<'t> WriteKv<'t> {
    fn table(&self, table: Table) -> Result<&redb::Table<'t, Bytes, Bytes>, KvError> {
        let cell = &self.tables[at(table)];
        if let Some(opened) = cell.get() {
            return Ok(opened);
        }
        let opened = self.transaction.open_table(space_table(table))?;
        Ok(cell.get_or_init(|| opened))
    }

    fn table_mut(&mut self, table: Table) -> Result<&mut redb::Table<'t, Bytes, Bytes>, KvError> {
        self.moves_logs |= table == Table::Frontier;
        open_in(self.transaction, &mut self.tables[at(table)], space_table(table)).map_err(Into::into)
    }

    fn dedup(&mut self) -> Result<&mut redb::Table<'t, Bytes, Bytes>, MetaError> {
        open_in(self.transaction, &mut self.dedup, DEDUP).map_err(failed("writing"))
    }

    fn uploads(&mut self) -> Result<&mut redb::Table<'t, Bytes, u64>, MetaError> {
        open_in(self.transaction, &mut self.uploads, UPLOADS).map_err(failed("writing"))
    }

    /// Remembers what was stored for a chunk with this fingerprint.
    pub(crate) fn set_stored(&mut self, fingerprint: &[u8], piece: &[u8]) -> Result<(), MetaError> {
        let set = self.dedup()?.insert(fingerprint, piece);
        set.map(drop).map_err(failed("writing"))
    }

    /// Forgets it.
    pub(crate) fn forget_stored(&mut self, fingerprint: &[u8]) -> Result<(), MetaError> {
        let removed = self.dedup()?.remove(fingerprint);
        removed.map(drop).map_err(failed("writing"))
    }

    /// Remembers that a version is being written.
    pub(crate) fn set_upload(&mut self, space: SpaceId, file: FileId, now: Timestamp) -> Result<(), MetaError> {
        let set = self.uploads()?.insert(&upload_key(space, file)[..], now.as_millis());
        set.map(drop).map_err(failed("writing"))
    }

    /// Forgets it: the version has its name, or never will.
    pub(crate) fn end_upload(&mut self, space: SpaceId, file: FileId) -> Result<(), MetaError> {
        for key in [&file.as_bytes()[..], &upload_key(space, file)] {
            self.uploads()?.remove(key).map(drop).map_err(failed("writing"))?;
        }
        Ok(())
    }
}

fn open_in<'c, 't, V: redb::Value + 'static>(
    transaction: &'t redb::WriteTransaction,
    cell: &'c mut Open<'t, V>,
    table: TableDefinition<'static, Bytes, V>,
) -> Result<&'c mut redb::Table<'t, Bytes, V>, redb::TableError> {
    if cell.get().is_none() {
        *cell = transaction.open_table(table)?.into();
    }
    Ok(cell.get_mut().expect("it is open"))
}

fn upload_key(space: SpaceId, file: FileId) -> Vec<u8> {
    [&file.as_bytes()[..], space.as_bytes()].concat()
}

impl Kv for WriteKv<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        get(self.table(table)?, key)
    }

    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        self.table_mut(table)?.insert(key, value)?;
        Ok(())
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), KvError> {
        self.table_mut(table)?.remove(key)?;
        Ok(())
    }

    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Rows, KvError> {
        scan(self.table(table)?, prefix, after, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlaid::Overlaid;
    use potluck_spaces::{DirId, File, FileId, Head, OpId, Position, Trash, Value};
    use potluck_store::{Crash, MemoryDisk, Mishap};
    use std::time::Duration;

    fn elapsed(seconds: u64) -> Elapsed {
        Elapsed::noted(Duration::from_secs(seconds), Timestamp::default())
    }

    /// A disk fails for a moment: what was written stays, what failed is told, and it goes on without a restart. Then the power goes.
    #[test]
    fn a_failed_write_costs_nothing_but_itself() {
        for is_killed in [false, true] {
            fail_once(Mishap::Syncs(META.to_owned(), 1), is_killed);
            fail_once(Mishap::Writes(META.to_owned(), 1), is_killed);
        }
    }

    fn fail_once(mishap: Mishap, is_killed: bool) {
        let told = format!("{mishap:?}, killed after it: {is_killed}");
        let mut disk = MemoryDisk::default();
        let mut meta = Meta::open(&disk.folder("home")).unwrap();
        disk.folder("home").sync_dir().unwrap();
        for second in 0..20 {
            meta.set_elapsed(elapsed(second)).unwrap();
        }
        let reading = meta.read().unwrap();
        disk.befall(mishap);
        let written = meta.write(|kv| {
            let rows = (0..200u32).map(|row| kv.put(Table::Log, &row.to_be_bytes(), &[7; 1000]));
            rows.collect::<Result<(), _>>().map_err(boxed("writing"))
        });
        assert!(written.is_err(), "{told}");
        if is_killed {
            let killed = disk.crash(Crash::KeepAll);
            meta = Meta::open(&killed.folder("home")).unwrap();
            disk = killed;
        }
        for second in 21..25 {
            meta.set_elapsed(elapsed(second)).unwrap();
        }
        drop(reading);
        let after = disk.crash(Crash::LoseAll);
        drop(meta);
        let mut meta = Meta::open(&after.folder("home")).unwrap();
        assert!(meta.check().unwrap(), "{told}");
        assert_eq!(meta.elapsed().unwrap(), Some(elapsed(24)), "{told}");
    }

    /// How far logs are known is asked without a look at the disk, and is what the disk says whatever becomes of a write.
    #[test]
    fn what_is_remembered_of_logs_is_what_is_written() {
        let space = SpaceId::from_bytes([1; 32]);
        let position = |seq| Position {
            seq,
            hash: Hash::of(b"x"),
            clock: Timestamp::from_millis(seq),
        };
        let key = [space.as_bytes(), &[2; 32][..]].concat();
        let grow = |meta: &Meta, seq| {
            meta.write(|kv| {
                let put = kv.put(Table::Frontier, &key, &to_canonical(&position(seq)));
                put.map_err(boxed("writing"))
            })
        };
        #[track_caller]
        fn check(meta: &Meta, space: SpaceId) -> u64 {
            let written = Log::of(space).frontier(&meta.read().unwrap()).unwrap();
            assert_eq!(*meta.frontier(space).unwrap(), written);
            written.values().map(|position| position.seq).sum()
        }
        let mut failures = 0;
        for after in 1..6 {
            let disk = MemoryDisk::default();
            let meta = Meta::open(&disk.folder("home")).unwrap();
            assert_eq!(check(&meta, space), 0);
            assert!(meta.remembered_frontier(space).is_none(), "nothing takes no room");
            grow(&meta, 1).unwrap();
            assert_eq!(check(&meta, space), 1);
            assert!(meta.remembered_frontier(space).is_some());
            disk.befall(Mishap::Syncs(META.to_owned(), after));
            let failed = (2..5).find(|seq| grow(&meta, *seq).is_err());
            failures += u32::from(failed.is_some());
            disk.recover();
            // While it is not open again, what was before it can be read.
            let _ = meta.frontier(space);
            meta.set_elapsed(elapsed(1)).unwrap();
            check(&meta, space);
            grow(&meta, 9).unwrap();
            assert_eq!(check(&meta, space), 9);
            let refused = meta.write(|kv| {
                kv.delete(Table::Frontier, &key).map_err(boxed("writing"))?;
                Err::<(), _>(not_open("writing"))
            });
            assert!(refused.is_err());
            assert_eq!(check(&meta, space), 9);
        }
        assert!(failures > 0);
    }

    /// A database of version 1, whose files nobody has counted. The power goes with each change that is made when it is opened.
    #[test]
    fn a_migration_survives_a_power_cut_at_every_change() {
        const FILES: u64 = 40;
        let (disk, space) = (MemoryDisk::default(), SpaceId::from_bytes([1; 32]));
        let totals = |meta: &Meta| Trash::of(space).totals(&meta.read().unwrap()).unwrap();
        let meta = Meta::open(&disk.folder("home")).unwrap();
        disk.folder("home").sync_dir().unwrap();
        meta.write(|kv| {
            (0..FILES)
                .try_for_each(|seq| kv.put(Table::Registers, &register(space, seq), &to_canonical(&[head(seq)])))
                .map_err(boxed("writing"))
        })
        .unwrap();
        meta.set_setting("version", &1u32).unwrap();
        drop(meta);
        let open = |disk: &MemoryDisk| Meta::open(&disk.folder("home"));
        let whole = disk.image();
        let before = whole.steps();
        let meta = open(&whole).unwrap();
        assert_eq!(totals(&meta).files, FILES);
        drop(meta);
        let changes = whole.steps() - before;
        assert!(changes > 5, "{changes}");
        for cut in 0..changes {
            for crash in [Crash::LoseAll, Crash::Torn(cut), Crash::Scattered(cut)] {
                let old = disk.image();
                old.cut_at(old.steps() + cut);
                drop(open(&old));
                let meta = open(&old.crash(crash)).unwrap();
                assert_eq!(meta.setting::<u32>("version").unwrap(), Some(2));
                assert_eq!(totals(&meta).files, FILES, "{crash:?} at change {cut}");
            }
        }
    }

    fn register(space: SpaceId, seq: u64) -> Vec<u8> {
        [
            &space.as_bytes()[..],
            DirId::ROOT.as_bytes(),
            format!("file-{seq}").as_bytes(),
        ]
        .concat()
    }

    fn head(seq: u64) -> Head {
        let id = OpId {
            device: NodeId::from_bytes([2; 32]),
            seq,
            at: 0,
        };
        Head {
            clock: Timestamp::from_millis(seq),
            op: id,
            value: Value::File(File {
                id: FileId::generate(None, &potluck_types::SystemEntropy),
                len: 5,
                modified: Timestamp::from_millis(1),
                executable: false,
                content: vec![1; 100].into(),
                uses: Vec::new(),
                survives: 1,
                asked: None,
            }),
            recoded: None,
        }
    }

    /// The fuzzer garbled a page that is only read when the version is written, and the node panicked.
    #[test]
    fn a_garbled_database_is_told_wherever_it_is_garbled() {
        const NAME: &str = "meta.redb";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let disk: Arc<dyn Disk> = Arc::new(potluck_store::OsDisk::at(folder.path()));
        drop(Meta::open(&disk).unwrap());
        let sound = std::fs::read(&path).unwrap();
        let used = (0..sound.len())
            .step_by(32)
            .filter(|at| sound[*at..].iter().take(8).any(|byte| *byte != 0));
        let (mut opened, mut refused) = (0, 0);
        for at in used {
            let mut garbled = sound.clone();
            garbled[at..][..8].copy_from_slice(b"SPASPASP");
            std::fs::write(&path, &garbled).unwrap();
            let file = Overlaid::open(folder.path(), NAME).unwrap();
            match Meta::over(file, Arc::new(Reserve::none())) {
                Ok(_) => opened += 1,
                Err(_) => refused += 1,
            }
        }
        assert!(opened > 0 && refused > 0, "{opened} opened, {refused} refused");
    }
}
