//! The logs of spaces, and the tables that follow from them: the logs are replayed into a database that is thrown away, and what comes out is compared.

use super::{Check, Fault, Finding, FsckProgress};
use crate::{
    charters::Charters,
    error::MetaError,
    home::META,
    meta::{Meta, ReadKv, WriteKv},
    retention::Elapsed,
    roster::Roster,
    spare::{Reserve, Spared},
};
use potluck_crypto::{UserKeys, derive};
use potluck_spaces::{Append, Appended, Entry, Keys, Kv, KvError, Log, Logged, Rows, Table, Tree, scope_read};
use potluck_types::{ByteSize, NodeId, SpaceId, Timestamp, to_canonical};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// Entries that are replayed in one transaction, and rows that are compared or copied at a time.
const ENTRIES: usize = 64;
const ROWS: usize = 1024;
/// Tables that are the same for the same entries, in whatever order these came. The others remember what came before what it rests on, and who was first, which
/// another order leaves out or makes another.
const COMPARED: [Table; 14] = [
    Table::Frontier,
    Table::Registers,
    Table::Conflicts,
    Table::Directories,
    Table::Placed,
    Table::Uses,
    Table::Users,
    Table::Pins,
    Table::Kept,
    Table::KeptAt,
    Table::KeptUntil,
    Table::Totals,
    Table::Written,
    Table::Settings,
];
/// The log of a device in a space.
type LogId = (SpaceId, NodeId);

/// A key and its value.
type Row = (Vec<u8>, Vec<u8>);

/// What is to be put right of the logs.
#[derive(Default)]
pub(super) struct LogDamage {
    /// Logs that other nodes keep, too, with the first entry that is wrong.
    broken: BTreeMap<LogId, u64>,
    /// Spaces whose tables are made anew.
    spaces: BTreeSet<SpaceId>,
    /// What the tables should hold; none when nothing is to be made anew.
    replayed: Option<Meta>,
}

impl LogDamage {
    pub(super) fn is_nothing_to_repair(&self) -> bool {
        self.spaces.is_empty()
    }

    /// Takes the entries that are wrong out of the logs, and makes tables anew. `keep` gets what is taken out before.
    pub(super) fn repair(
        &self,
        meta: &Meta,
        keep: impl Fn(&str, &[u8]) -> Result<(), MetaError>,
    ) -> Result<(), MetaError> {
        let Some(replayed) = &self.replayed else { return Ok(()) };
        let source = replayed.read()?;
        meta.write(|kv| {
            for ((space, device), seq) in &self.broken {
                let prefix = [&space.as_bytes()[..], device.as_bytes()].concat();
                let mut after = [&prefix[..], &(seq - 1).to_be_bytes()].concat();
                loop {
                    let rows = scan(kv, Table::Log, &prefix, Some(&after), ROWS)?;
                    let Some((last, _)) = rows.last() else { break };
                    after.clone_from(last);
                    let entries: Vec<&serde_bytes::Bytes> =
                        rows.iter().map(|(_, entry)| serde_bytes::Bytes::new(entry)).collect();
                    keep(
                        &format!("{}.{}.log", space.short(), device.short()),
                        &to_canonical(&entries),
                    )?;
                    for (key, _) in &rows {
                        kv.delete(Table::Log, key).map_err(failed)?;
                    }
                }
            }
            for space in &self.spaces {
                for table in Table::DERIVED {
                    replace(kv, &source, table, space.as_bytes())?;
                }
            }
            Ok(())
        })
    }
}

/// A replay of all logs.
struct Replay<'r> {
    scratch: &'r Meta,
    /// The keys of the spaces whose changes can be read; of those with a charter also where there are none, as for a node that keeps their logs.
    keys: BTreeMap<SpaceId, Keys>,
    /// What is in the trash is learned of anew: it is kept for longer, and never for less long.
    learning_at: Duration,
    broken: BTreeMap<LogId, u64>,
    /// Spaces whose logs before a checkpoint are not all here: what their tables should hold does not follow from them.
    unfilled: BTreeSet<SpaceId>,
    /// How many entries of those do not open.
    sealed: BTreeMap<SpaceId, u64>,
    entries: u64,
    bytes: u64,
}

impl<P: FnMut(FsckProgress)> Check<'_, P> {
    /// Checks all logs and tables; `user` is whose names can be read.
    pub(super) fn logs(
        &mut self,
        meta: &Meta,
        roster: Option<&Roster>,
        user: Option<&UserKeys>,
    ) -> Result<LogDamage, MetaError> {
        let scratch = scratch()?;
        let kv = meta.read()?;
        let keys = self.keys(&kv, roster, user)?;
        let own = keys
            .iter()
            .filter(|(_, keys)| !keys.is_empty())
            .map(|(space, _)| *space);
        let own: BTreeSet<SpaceId> = own.collect();
        let mut replay = Replay {
            scratch: &scratch,
            keys,
            learning_at: meta.elapsed()?.map_or(Duration::ZERO, Elapsed::counted),
            broken: BTreeMap::new(),
            unfilled: Table::Unfilled.spaces(&kv).map_err(failed)?.into_iter().collect(),
            sealed: BTreeMap::new(),
            entries: 0,
            bytes: 0,
        };
        replay.begin()?;
        let mut after: Option<Vec<u8>> = None;
        loop {
            let rows = scan(&kv, Table::Log, &[], after.as_deref(), ENTRIES)?;
            let Some((last, _)) = rows.last() else { break };
            after = Some(last.clone());
            replay.rows(&kv, &rows)?;
            (self.progress)(FsckProgress {
                bytes: ByteSize(replay.bytes.min(self.at.total.0)),
                ..self.at
            });
        }
        let replayed = scratch.read()?;
        replay.missing_ends(&kv, &replayed)?;
        let Replay {
            broken,
            unfilled,
            sealed,
            entries,
            ..
        } = replay;
        self.report.entries = entries;
        self.report.unfilled = unfilled.len() as u64;
        let mut damage = LogDamage::default();
        for ((space, device), seq) in broken {
            let is_others = !own.contains(&space) && user.is_some();
            let fault = Fault::BrokenLog { seq, is_others };
            self.report
                .findings
                .push(Finding::new(place(space, Some(device)), fault));
            damage.broken.insert((space, device), seq);
        }
        for (space, count) in &sealed {
            let fault = Fault::Sealed { count: *count };
            self.report.findings.push(Finding::new(place(*space, None), fault));
        }
        let own = user.is_some().then_some(&own);
        let mut compared = spaces(&kv)?;
        compared.extend(spaces(&replayed)?);
        // What is taken of a checkpoint is removed at the next start, and opened anew.
        let begun = Table::Begun.spaces(&kv).map_err(failed)?;
        compared.retain(|space| !unfilled.contains(space) && !begun.contains(space));
        let is_current = meta.is_current()?;
        self.tables(&mut damage, (&kv, &replayed), &compared, own, &sealed, is_current)?;
        damage.broken.retain(|(space, _), _| damage.spaces.contains(space));
        drop((kv, replayed));
        damage.replayed = (!damage.spaces.is_empty()).then_some(scratch);
        Ok(damage)
    }

    /// The keys of this person's spaces, as they follow from theirs and from the charters that are here.
    fn keys(
        &mut self,
        kv: &ReadKv,
        roster: Option<&Roster>,
        user: Option<&UserKeys>,
    ) -> Result<BTreeMap<SpaceId, Keys>, MetaError> {
        let mut keys = BTreeMap::new();
        let Some(user) = user else { return Ok(keys) };
        let speakers = roster.map(|roster| roster.speakers().clone()).unwrap_or_default();
        let charters = Charters::among(speakers);
        for space in Table::Charter.spaces(kv).map_err(failed)? {
            let charter = charters.of(kv, space)?;
            let rows = scan(kv, Table::Charter, space.as_bytes(), None, usize::MAX)?;
            let count = rows.len().saturating_sub(charter.records().count()) as u64;
            if count > 0 {
                let fault = Fault::Charter { count };
                self.report.findings.push(Finding::new(place(space, None), fault));
            }
            let scope = scope_read(space, kv).map_err(failed)?;
            keys.insert(space, charter.keys(user, Timestamp::default()).reading(scope));
        }
        // What it was sealed under at first follows from the person's key alone, whatever else cannot be read.
        let private = keys.entry(derive::private_space_id(user.id())).or_default();
        if private.is_empty() {
            *private = Keys::private(user.private_space_key());
        }
        Ok(keys)
    }

    /// Compares the tables of each space with what its logs add up to.
    fn tables(
        &mut self,
        damage: &mut LogDamage,
        (kv, replayed): (&ReadKv, &ReadKv),
        compared: &BTreeSet<SpaceId>,
        own: Option<&BTreeSet<SpaceId>>,
        sealed: &BTreeMap<SpaceId, u64>,
        is_current: bool,
    ) -> Result<(), MetaError> {
        let is_compared = |table: &Table| matches!(table, Table::Frontier | Table::Pins) || own.is_some() && is_current;
        for space in compared {
            let is_own = own.is_some_and(|own| own.contains(space));
            let is_broken = damage.broken.keys().any(|(other, _)| other == space);
            // Without the person's key, what their space holds does not follow from anything here.
            let is_derivable = match own {
                None => false,
                Some(_) if is_own => !is_broken && !sealed.contains_key(space),
                Some(_) => true,
            };
            let mut count = 0;
            for table in COMPARED.iter().filter(|table| is_compared(table)) {
                count += differences(kv, replayed, *table, space.as_bytes())?;
            }
            if count > 0 {
                let fault = Fault::Tables { count, is_derivable };
                self.report.findings.push(Finding::new(place(*space, None), fault));
            }
            if is_derivable && (count > 0 || is_broken) {
                damage.spaces.insert(*space);
            }
        }
        Ok(())
    }
}

impl Replay<'_> {
    /// What is there before all entries.
    fn begin(&mut self) -> Result<(), MetaError> {
        self.scratch.write(|kv| {
            for (space, keys) in &self.keys {
                Tree::of(*space).show_areas(kv, keys.scope()).map_err(failed)?;
            }
            Ok(())
        })
    }

    fn rows(&mut self, source: &ReadKv, rows: &Rows) -> Result<(), MetaError> {
        let scratch = self.scratch;
        scratch.write(|kv| {
            for (key, value) in rows {
                self.bytes += (key.len() + value.len()) as u64;
                self.row(kv, key, Log::read(source, key, value).ok())?;
            }
            Ok(())
        })
    }

    fn row(&mut self, kv: &mut WriteKv<'_>, key: &[u8], logged: Option<Logged>) -> Result<(), MetaError> {
        let Some((id, seq)) = log_place(key) else {
            return Ok(());
        };
        if self.broken.contains_key(&id) {
            return Ok(());
        }
        let (space, device) = id;
        if self.unfilled.contains(&space) {
            return Ok(());
        }
        self.entries += 1;
        let position = Log::of(space).position(kv, device).map_err(failed)?;
        let expected = position.map_or(1, |position| position.seq + 1);
        let logged = logged.filter(|logged| seq == expected && logged.claimed_device() == device);
        match logged.map(|logged| Log::of(space).append(kv, &logged)) {
            Some(Ok(Appended {
                append: Append::New,
                entry,
                ..
            })) => self.apply(kv, space, device, &entry),
            _ => {
                self.broken.insert(id, expected);
                Ok(())
            }
        }
    }

    fn apply(&mut self, kv: &mut WriteKv<'_>, space: SpaceId, device: NodeId, entry: &Entry) -> Result<(), MetaError> {
        if let Some(keys) = self.keys.get(&space)
            && Tree::of(space)
                .learning_at(self.learning_at)
                .apply(kv, keys, device, entry)
                .is_err()
        {
            *self.sealed.entry(space).or_default() += 1;
        }
        Ok(())
    }

    /// Logs that end before the tables say that they do.
    fn missing_ends(&mut self, kv: &ReadKv, replayed: &ReadKv) -> Result<(), MetaError> {
        for space in spaces(kv)?.difference(&self.unfilled) {
            let space = *space;
            let claimed = Log::of(space).frontier(kv).unwrap_or_default();
            let known = Log::of(space).frontier(replayed).map_err(failed)?;
            for (device, position) in claimed {
                let end = known.get(&device).map_or(0, |position| position.seq);
                if end < position.seq {
                    self.broken.entry((space, device)).or_insert(end + 1);
                }
            }
        }
        Ok(())
    }
}

fn place(space: SpaceId, device: Option<NodeId>) -> String {
    let log = device.map_or_else(String::new, |device| format!(", log of {}", device.short()));
    format!("{META}, space {}{log}", space.short())
}

/// The log that a row belongs to, and its number there.
fn log_place(key: &[u8]) -> Option<(LogId, u64)> {
    let (space, rest) = key.split_first_chunk::<32>()?;
    let (device, seq) = rest.split_first_chunk::<32>()?;
    let seq = u64::from_be_bytes(seq.try_into().ok()?);
    Some(((SpaceId::from_bytes(*space), NodeId::from_bytes(*device)), seq))
}

/// The spaces that have a row in any table.
fn spaces(kv: &ReadKv) -> Result<BTreeSet<SpaceId>, MetaError> {
    let mut spaces = BTreeSet::new();
    for table in Table::ALL {
        spaces.extend(table.spaces(kv).map_err(failed)?);
    }
    Ok(spaces)
}

/// In how many rows two databases differ. When a node learned of what is in the trash is its own affair.
fn differences(one: &ReadKv, other: &ReadKv, table: Table, prefix: &[u8]) -> Result<u64, MetaError> {
    let (mut left, mut right) = (Pages::of(one, table, prefix), Pages::of(other, table, prefix));
    let mut count = 0;
    loop {
        match (left.peek()?, right.peek()?) {
            (None, None) => return Ok(count),
            (Some(a), Some(b)) if a.0 == b.0 => {
                count += u64::from(a.1 != b.1 && table != Table::KeptUntil);
                left.skip();
                right.skip();
            }
            (Some(a), b) if b.is_none_or(|b| a.0 < b.0) => {
                count += 1;
                left.skip();
            }
            _ => {
                count += 1;
                right.skip();
            }
        }
    }
}

/// Makes the rows of a table with this prefix those of another database.
fn replace(kv: &mut WriteKv<'_>, source: &ReadKv, table: Table, prefix: &[u8]) -> Result<(), MetaError> {
    loop {
        let rows = scan(kv, table, prefix, None, ROWS)?;
        if rows.is_empty() {
            break;
        }
        for (key, _) in rows {
            kv.delete(table, &key).map_err(failed)?;
        }
    }
    let mut rows = Pages::of(source, table, prefix);
    while let Some((key, value)) = rows.peek()? {
        kv.put(table, key, value).map_err(failed)?;
        rows.skip();
    }
    Ok(())
}

/// The rows of a table with a prefix, read a page at a time.
struct Pages<'k> {
    kv: &'k ReadKv,
    table: Table,
    prefix: &'k [u8],
    page: Rows,
    at: usize,
    is_last: bool,
}

impl<'k> Pages<'k> {
    fn of(kv: &'k ReadKv, table: Table, prefix: &'k [u8]) -> Self {
        Self {
            kv,
            table,
            prefix,
            page: Vec::new(),
            at: 0,
            is_last: false,
        }
    }

    fn peek(&mut self) -> Result<Option<&Row>, MetaError> {
        if self.at == self.page.len() && !self.is_last {
            let after = self.page.last().map(|(key, _)| key.clone());
            self.page = scan(self.kv, self.table, self.prefix, after.as_deref(), ROWS)?;
            self.at = 0;
            self.is_last = self.page.len() < ROWS;
        }
        Ok(self.page.get(self.at))
    }

    fn skip(&mut self) {
        self.at += 1;
    }
}

fn scan(kv: &impl Kv, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Rows, MetaError> {
    kv.scan(table, prefix, after, limit).map_err(failed)
}

fn failed(source: KvError) -> MetaError {
    MetaError {
        action: "reading",
        source,
    }
}

/// An empty database that is gone when it is closed. It holds names, so that nobody else may read it.
fn scratch() -> Result<Meta, MetaError> {
    let file = Spared::nameless(&std::env::temp_dir()).map_err(|source| MetaError {
        action: "replaying",
        source: source.into(),
    })?;
    Meta::over(file, Arc::new(Reserve::none()))
}
