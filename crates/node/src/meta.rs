//! The metadata database of a node: records of the pool, tickets, the tables of spaces, and what the private space has stored already.

use crate::{
    control::{Absences, Remembered},
    error::MetaError,
    records::PoolRecord,
    retention::Elapsed,
    spare::{Reserve, Spared},
};
use potluck_placement::Layouts;
use potluck_spaces::{FileId, Kv, KvError, Rows, Table, Tree};
use potluck_types::{Hash, NodeId, Timestamp, from_canonical, to_canonical};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use std::{
    cell::Cell,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::{Arc, Once},
};

type Bytes = &'static [u8];

const RECORDS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("records");
const INVITES: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("invites");
const SETTINGS: TableDefinition<'_, &'static str, Bytes> = TableDefinition::new("settings");
const DEDUP: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("dedup");
/// File versions that this node began to write and has not named yet, and when it last wrote of them.
const UPLOADS: TableDefinition<'_, Bytes, u64> = TableDefinition::new("uploads");

/// The version of the tables' layout. Version 1 had no trash, and nobody counted files.
const VERSION: u32 = 2;
/// Pages that stay in memory. The hot part of the index of a million files fits.
const CACHE_BYTES: usize = 16 << 20;

const fn space_table(table: Table) -> TableDefinition<'static, Bytes, Bytes> {
    TableDefinition::new(match table {
        Table::Log => "space-log",
        Table::Frontier => "space-frontier",
        Table::Registers => "space-registers",
        Table::Replaced => "space-replaced",
        Table::Directories => "space-directories",
        Table::Uses => "space-uses",
        Table::Users => "space-users",
        Table::Recoded => "space-recoded",
        Table::Pins => "space-pins",
        Table::Kept => "space-kept",
        Table::KeptAt => "space-kept-at",
        Table::KeptUntil => "space-kept-until",
        Table::Totals => "space-totals",
        Table::Turnover => "space-turnover",
        Table::Aside => "space-aside",
        Table::GivenUp => "space-given-up",
    })
}

/// An invitation that this node made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Invite {
    pub(crate) expires: Timestamp,
    pub(crate) uses_left: u32,
    pub(crate) mine: bool,
    /// Who used it: the same node may ask again when the answer was lost.
    pub(crate) used_by: Vec<NodeId>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Meta {
    database: Database,
    reserve: Arc<Reserve>,
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
fn sound<R>(work: impl FnOnce() -> Result<R, MetaError>) -> Result<R, MetaError> {
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
    IS_CAUGHT.set(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    IS_CAUGHT.set(false);
    outcome.unwrap_or_else(|_| {
        Err(MetaError {
            action: "opening",
            source: "its content contradicts itself".into(),
        })
    })
}

impl Meta {
    /// Opens the database, or makes it; `reserve` is the file that keeps room for it.
    pub(crate) fn open(path: &Path, reserve: PathBuf) -> Result<Self, MetaError> {
        let reserve = Arc::new(Reserve::at(reserve));
        let file = Spared::open(path, Arc::clone(&reserve)).map_err(failed("opening"))?;
        let opened = sound(|| {
            let database = Database::builder()
                .set_cache_size(CACHE_BYTES)
                .create_with_backend(file)
                .map_err(failed("opening"))?;
            let meta = Self { database, reserve };
            let found = meta.setting::<u32>("version")?;
            Ok((meta, found))
        });
        let (meta, found) = opened?;
        if let Some(version) = found.filter(|version| *version > VERSION) {
            let text = format!("it has version {version}, and this program knows up to {VERSION}: update it");
            return Err(MetaError {
                action: "opening",
                source: text.into(),
            });
        }
        // A new one, or one of a version that had fewer tables.
        if found.is_none() || meta.read().is_err() {
            meta.set_setting("version", &found.unwrap_or(VERSION))?;
        }
        if found == Some(1) {
            meta.write(|kv| Tree::count_all(kv).map_err(boxed("counting the files of")))?;
            meta.set_setting("version", &VERSION)?;
        }
        Ok(meta)
    }

    /// Whether the disk has room for more than what frees some.
    pub(crate) fn has_room(&self) -> bool {
        self.reserve.restore()
    }

    pub(crate) fn setting<T: Serialize + serde::de::DeserializeOwned>(
        &self,
        name: &'static str,
    ) -> Result<Option<T>, MetaError> {
        let transaction = self.database.begin_read().map_err(failed("reading"))?;
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
        let transaction = self.database.begin_write().map_err(failed("writing"))?;
        {
            // All tables are made with the first write, so that readers find them.
            for table in Table::ALL {
                transaction.open_table(space_table(table)).map_err(failed("writing"))?;
            }
            for table in [RECORDS, INVITES, DEDUP] {
                transaction.open_table(table).map_err(failed("writing"))?;
            }
            transaction.open_table(UPLOADS).map_err(failed("writing"))?;
            let mut table = transaction.open_table(SETTINGS).map_err(failed("writing"))?;
            table.insert(name, &*to_canonical(value)).map_err(failed("writing"))?;
        }
        transaction.commit().map_err(failed("committing"))
    }

    /// What the node knew of the pool when it ended.
    pub(crate) fn remembered(&self) -> Result<Remembered, MetaError> {
        let (noted_at, absences): (Timestamp, Vec<(NodeId, Timestamp)>) = self.setting("absences")?.unwrap_or_default();
        Ok(Remembered {
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
        let transaction = self.database.begin_read().map_err(failed("reading"))?;
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
        let transaction = self.database.begin_write().map_err(failed("writing"))?;
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

    /// Reads and writes an invitation in one transaction.
    pub(crate) fn with_invite<R>(
        &self,
        secret_hash: Hash,
        change: impl FnOnce(&mut Option<Invite>) -> R,
    ) -> Result<R, MetaError> {
        let transaction = self.database.begin_write().map_err(failed("writing"))?;
        let result = {
            let mut table = transaction.open_table(INVITES).map_err(failed("writing"))?;
            let key = &secret_hash.as_bytes()[..];
            let mut invite: Option<Invite> = match table.get(key).map_err(failed("reading"))? {
                Some(value) => Some(from_canonical(value.value()).map_err(failed("reading"))?),
                None => None,
            };
            let result = change(&mut invite);
            match invite {
                Some(invite) => table.insert(key, &*to_canonical(&invite)).map_err(failed("writing"))?,
                None => table.remove(key).map_err(failed("writing"))?,
            };
            result
        };
        transaction.commit().map_err(failed("committing"))?;
        Ok(result)
    }

    /// Versions that were begun and have no name, and when they were last written of.
    pub(crate) fn uploads(&self) -> Result<Vec<(FileId, Timestamp)>, MetaError> {
        let transaction = self.database.begin_read().map_err(failed("reading"))?;
        let table = match transaction.open_table(UPLOADS) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(failed("reading")(error)),
        };
        let rows = table.iter().map_err(failed("reading"))?;
        rows.map(|row| {
            let (file, at) = row.map_err(failed("reading"))?;
            let file: [u8; 16] = file.value().try_into().map_err(failed("reading"))?;
            Ok((FileId::from_bytes(file), Timestamp::from_millis(at.value())))
        })
        .collect()
    }

    /// Reads the tables of spaces.
    pub(crate) fn read(&self) -> Result<ReadKv, MetaError> {
        let transaction = self.database.begin_read().map_err(failed("reading"))?;
        let open = |table| transaction.open_table(space_table(table)).map_err(failed("reading"));
        let tables = Table::ALL.into_iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let dedup = transaction.open_table(DEDUP).map_err(failed("reading"))?;
        Ok(ReadKv { tables, dedup })
    }

    /// Changes the tables of spaces: all of it, or nothing when `change` fails. Durable when this returns.
    pub(crate) fn write<R, E: From<MetaError>>(
        &self,
        change: impl FnOnce(&mut WriteKv<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        let transaction = self.database.begin_write().map_err(failed("writing"))?;
        let result = {
            let open = |table| transaction.open_table(space_table(table)).map_err(failed("writing"));
            let tables = Table::ALL.into_iter().map(open).collect::<Result<Vec<_>, _>>()?;
            let dedup = transaction.open_table(DEDUP).map_err(failed("writing"))?;
            let uploads = transaction.open_table(UPLOADS).map_err(failed("writing"))?;
            change(&mut WriteKv { tables, dedup, uploads })
        };
        match result {
            Ok(result) => {
                transaction.commit().map_err(failed("committing"))?;
                Ok(result)
            }
            Err(error) => {
                transaction.abort().map_err(failed("aborting"))?;
                Err(error)
            }
        }
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

/// A snapshot of the tables of spaces.
pub(crate) struct ReadKv {
    tables: Vec<redb::ReadOnlyTable<Bytes, Bytes>>,
    dedup: redb::ReadOnlyTable<Bytes, Bytes>,
}

impl ReadKv {
    /// What was stored for a chunk with this fingerprint.
    pub(crate) fn stored(&self, fingerprint: &[u8]) -> Result<Option<Vec<u8>>, MetaError> {
        get(&self.dedup, fingerprint).map_err(boxed("reading"))
    }
}

impl Kv for ReadKv {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        get(&self.tables[at(table)], key)
    }

    fn put(&mut self, _: Table, _: &[u8], _: &[u8]) -> Result<(), KvError> {
        Err("a snapshot cannot be changed".into())
    }

    fn delete(&mut self, _: Table, _: &[u8]) -> Result<(), KvError> {
        Err("a snapshot cannot be changed".into())
    }

    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Rows, KvError> {
        scan(&self.tables[at(table)], prefix, after, limit)
    }
}

/// A transaction over the tables of spaces.
pub(crate) struct WriteKv<'t> {
    tables: Vec<redb::Table<'t, Bytes, Bytes>>,
    dedup: redb::Table<'t, Bytes, Bytes>,
    uploads: redb::Table<'t, Bytes, u64>,
}

impl WriteKv<'_> {
    /// Remembers what was stored for a chunk with this fingerprint.
    pub(crate) fn set_stored(&mut self, fingerprint: &[u8], piece: &[u8]) -> Result<(), MetaError> {
        self.dedup
            .insert(fingerprint, piece)
            .map(drop)
            .map_err(failed("writing"))
    }

    /// Remembers that a version is being written.
    pub(crate) fn set_upload(&mut self, file: FileId, now: Timestamp) -> Result<(), MetaError> {
        self.uploads
            .insert(&file.as_bytes()[..], now.as_millis())
            .map(drop)
            .map_err(failed("writing"))
    }

    /// Forgets it: the version has its name, or never will.
    pub(crate) fn end_upload(&mut self, file: FileId) -> Result<(), MetaError> {
        self.uploads
            .remove(&file.as_bytes()[..])
            .map(drop)
            .map_err(failed("writing"))
    }
}

impl Kv for WriteKv<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        get(&self.tables[at(table)], key)
    }

    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        self.tables[at(table)].insert(key, value)?;
        Ok(())
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), KvError> {
        self.tables[at(table)].remove(key)?;
        Ok(())
    }

    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Rows, KvError> {
        scan(&self.tables[at(table)], prefix, after, limit)
    }
}
