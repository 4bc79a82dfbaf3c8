//! Checkpoints: what the logs of a space add up to, so far. Who has nothing of a space yet takes that, goes on with the logs from there, and need not replay what they said in years.
//!
//! A checkpoint is the rows of the tables, a page after the other. It counts by the word of who has signed it: whether it is what the logs say only shows when they are replayed. So it is taken from a
//! machine of the space's owner, or of one's own, alone. The logs before it are fetched later and checked as all others are, up to the hashes that the checkpoint names; until they are here,
//! [`Table::Unfilled`] says so, and nobody is given what is not.
//!
//! Who keeps the logs before it may read them takes one, too, once its logs go as far as that: of what it stands for nothing need be opened then.

use crate::{
    File, Frontier, Kept, Kv, KvError, Log, Logged, Minute, Name, OpId, PinState, Position, Published, Removal, Scope,
    Settings, Table, Taken, Totals, Tree, log::log_number, scope_read, trash::op_bytes,
};
use potluck_crypto::Record;
use potluck_types::{CodecError, NodeId, SpaceId, Timestamp, from_canonical, limits, to_canonical};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;

/// The version of the rows: another one is not taken.
const VERSION: u8 = 1;
/// Rows of a page, and about as many bytes of them.
const PAGE_ROWS: usize = 256;
const PAGE_BYTES: usize = 256 << 10;
/// A page is no longer than this once it is unpacked.
pub const PAGE_BYTES_MAX: usize = 1 << 20;
const LEVEL: i32 = 3;
/// The number of the first entry of a log, as in [`Table::Sealed`].
const FIRST: [u8; 8] = 1u64.to_be_bytes();
/// Rows that are removed in one step.
const REMOVED_ROWS: usize = 4096;

/// What a machine says of a checkpoint that it has made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Checkpoint {
    version: u8,
    /// Of which space.
    pub space: SpaceId,
    /// When it was made.
    pub at: Timestamp,
    /// How far it stands for the log of each device.
    logs: Vec<(NodeId, Position)>,
    /// Where its pages are: an encoded reference that this crate does not read.
    pub content: ByteBuf,
}

impl Record for Checkpoint {
    const CONTEXT: &'static str = "potluck/checkpoint/1";
    const BYTES_MAX: usize = limits::ENTRY_BYTES_MAX * 3 / 4;
}

impl Checkpoint {
    /// One that stands for this much, and whose pages are there.
    pub fn new(space: SpaceId, at: Timestamp, logs: &Frontier, content: ByteBuf) -> Self {
        Self {
            version: VERSION,
            space,
            at,
            logs: logs.iter().map(|(device, position)| (*device, *position)).collect(),
            content,
        }
    }

    /// Whether this version can read it.
    pub fn is_readable(&self) -> bool {
        self.version == VERSION && self.logs.len() <= limits::POOL_NODES_MAX
    }

    /// How far it stands for the log of each device.
    pub fn logs(&self) -> Frontier {
        self.logs.iter().copied().collect()
    }

    /// How many entries it stands for.
    pub fn entries(&self) -> u64 {
        self.logs
            .iter()
            .fold(0, |sum, (_, position)| position.seq.saturating_add(sum))
    }
}

/// Why a checkpoint is not made, or not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A page is not what it should be.
    #[error("a page of the checkpoint cannot be read: {0}")]
    Page(#[from] CodecError),
    /// A row is in no table, or none of its table.
    #[error("the checkpoint has a row that is none of {0:?}")]
    Row(Table),
    /// A page is longer than one can be.
    #[error("a page of the checkpoint has {0} bytes, more than there can be")]
    TooLong(usize),
    /// Something of the space was read already, or another one is being taken.
    #[error("something of the space was read already")]
    NotEmpty,
    /// None is being taken: somebody has let go of the space meanwhile.
    #[error("no checkpoint of the space is being taken any more")]
    NotBegun,
    /// Of the logs that are kept here one ends before it: what is missing comes first.
    #[error("the checkpoint stands for more of the log of device {device} than is here")]
    Behind {
        /// The device's short id.
        device: String,
    },
    /// It stands for another log than the one that is kept here.
    #[error("the checkpoint stands for another log of device {device} than the one that is here, at entry {seq}")]
    Fork {
        /// The device's short id.
        device: String,
        /// The last entry that the checkpoint stands for.
        seq: u64,
    },
    /// The database fails.
    #[error("the metadata database fails: {0}")]
    Kv(#[from] KvError),
}

/// The tables of a checkpoint, by their numbers in a page. A later one may need rows of those before. What is not here follows from what is, or is a matter of each replica.
const TABLES: [(u8, Table); 14] = [
    (1, Table::Uses),
    (2, Table::Registers),
    (3, Table::Directories),
    (4, Table::Kept),
    (5, Table::Replaced),
    (6, Table::Recoded),
    (7, Table::Pins),
    (8, Table::Links),
    (9, Table::Settings),
    (10, Table::Snapshots),
    (11, Table::Totals),
    (12, Table::Written),
    (13, Table::Turnover),
    (14, Table::Erased),
];

/// Those that follow from logs that are here, whether these can be read or not.
const OF_LOGS: [Table; 3] = [Table::Pins, Table::Links, Table::Erased];

/// Rows of one table, without the space that their keys begin with.
#[derive(Serialize, Deserialize)]
struct Page {
    table: u8,
    rows: Vec<(ByteBuf, ByteBuf)>,
}

/// The pages of a checkpoint, one after the other, of what one transaction shows.
#[derive(Debug)]
pub struct Pages {
    space: SpaceId,
    table: usize,
    after: Option<Vec<u8>>,
}

impl Pages {
    /// Those of a space; none where they would not be all of it: it is read in part, or something waits for its key, or for the log before it.
    pub fn of(space: SpaceId, kv: &impl Kv) -> Result<Option<Self>, KvError> {
        let is_whole = scope_read(space, kv)? == Scope::All
            && kv.scan(Table::Sealed, space.as_bytes(), None, 1)?.is_empty()
            && Log::of(space).is_filled(kv)?;
        Ok(is_whole.then_some(Self {
            space,
            table: 0,
            after: None,
        }))
    }

    /// The next page, packed; nothing after the last.
    pub fn next(&mut self, kv: &impl Kv) -> Result<Option<Vec<u8>>, KvError> {
        let page = self.next_plain(kv)?;
        page.map(|page| Ok(zstd::bulk::compress(&page, LEVEL)?)).transpose()
    }

    /// The same as it is before it is packed.
    pub fn next_plain(&mut self, kv: &impl Kv) -> Result<Option<Vec<u8>>, KvError> {
        while let Some((number, table)) = TABLES.get(self.table) {
            let (mut rows, mut bytes) = (Vec::new(), 0);
            let prefix = self.space.as_bytes();
            for (key, value) in kv.scan(*table, prefix, self.after.as_deref(), PAGE_ROWS)? {
                bytes += key.len() + value.len();
                rows.push((ByteBuf::from(&key[32..]), ByteBuf::from(value)));
                self.after = Some(key);
                if bytes >= PAGE_BYTES {
                    break;
                }
            }
            if !rows.is_empty() {
                return Ok(Some(to_canonical(&Page { table: *number, rows })));
            }
            (self.table, self.after) = (self.table + 1, None);
        }
        Ok(None)
    }
}

/// Whether a checkpoint of a space is of use: all of the space is to be read, and nothing of it was; its logs may be here, unopened.
pub fn is_wanted(kv: &impl Kv, space: SpaceId) -> Result<bool, KvError> {
    if scope_read(space, kv)? != Scope::All || !Log::of(space).is_filled(kv)? {
        return Ok(false);
    }
    let mut after = None;
    while let Some((key, _)) = kv.scan(Table::Frontier, space.as_bytes(), after.as_deref(), 1)?.pop() {
        if kv.get(Table::Sealed, &key)?.is_none_or(|first| first != FIRST) {
            return Ok(false);
        }
        after = Some(key);
    }
    Ok(true)
}

/// Before one is taken: from now on nothing of the space is opened, until [`finish`] or [`give_up`]. Where nothing of it is here, nothing is taken; where logs are kept, they go on.
pub fn hold(kv: &mut impl Kv, space: SpaceId) -> Result<(), CheckpointError> {
    if is_begun(kv, space)? || !is_wanted(kv, space)? {
        return Err(CheckpointError::NotEmpty);
    }
    Ok(kv.put(Table::Begun, space.as_bytes(), &[])?)
}

/// Begins to take one that stands for so much of the logs. Those that are kept here go as far, or it is refused.
pub fn begin(kv: &mut impl Kv, space: SpaceId, logs: &Frontier) -> Result<(), CheckpointError> {
    refuse_unbegun(kv, space)?;
    let log = Log::of(space);
    let has_logs = !log.is_empty(kv)?;
    for (device, until) in logs {
        if !has_logs {
            let unfilled = Unfilled {
                at: None,
                until: *until,
            };
            log.set_unfilled(kv, *device, &unfilled)?;
            continue;
        }
        let (device, seq) = (*device, until.seq);
        let known = log.entry(kv, device, seq)?;
        let known = known.ok_or_else(|| CheckpointError::Behind { device: device.short() })?;
        if known.hash() != until.hash {
            let device = device.short();
            return Err(CheckpointError::Fork { device, seq });
        }
    }
    Ok(())
}

fn refuse_unbegun(kv: &impl Kv, space: SpaceId) -> Result<(), CheckpointError> {
    match is_begun(kv, space)? {
        true => Ok(()),
        false => Err(CheckpointError::NotBegun),
    }
}

/// Whether entries of a space are refused now: a checkpoint of it is being taken, and nothing else is here.
pub(crate) fn takes_no_entries(kv: &impl Kv, space: SpaceId) -> Result<bool, KvError> {
    Ok(is_begun(kv, space)? && Log::of(space).is_empty(kv)?)
}

/// Takes one page. Its rows are checked as far as they can be alone.
pub fn take(kv: &mut impl Kv, tree: Tree, page: &[u8]) -> Result<(), CheckpointError> {
    let plain = zstd::bulk::decompress(page, PAGE_BYTES_MAX);
    take_plain(kv, tree, &plain.map_err(|_| malformed(page, "it does not unpack"))?)
}

/// The same of one that is unpacked.
pub fn take_plain(kv: &mut impl Kv, tree: Tree, page: &[u8]) -> Result<(), CheckpointError> {
    refuse_unbegun(kv, tree.space())?;
    let Page { table, rows } = from_canonical(page)?;
    let table = TABLES.iter().find(|(number, _)| *number == table);
    let (_, table) = table.ok_or_else(|| malformed(page, "rows of no table"))?;
    if OF_LOGS.contains(table) && !Log::of(tree.space()).is_empty(kv)? {
        return Ok(());
    }
    for (key, value) in rows {
        take_row(kv, tree, *table, (&key, &value))?;
    }
    Ok(())
}

fn malformed(page: &[u8], reason: &str) -> CodecError {
    CodecError::Malformed {
        len: page.len(),
        reason: reason.to_owned(),
    }
}

/// Puts a row in its place, with those that follow from it.
fn take_row(kv: &mut impl Kv, tree: Tree, table: Table, (key, value): (&[u8], &[u8])) -> Result<(), CheckpointError> {
    let space = tree.space();
    // Of what stands where, and what conflicts, only what says so is taken: it is put together here, so that it is never anything else.
    let is_one = match table {
        Table::Uses => tree.take_uses(kv, key, value)?,
        Table::Registers => tree.take_register(kv, key, value)?,
        Table::Directories => tree.take_places(kv, key, value)?,
        Table::Kept => match decoded::<Kept>(value)? {
            kept if key == op_bytes(kept.head.op) => {
                tree.take_kept(kv, &kept)?;
                true
            }
            _ => false,
        },
        Table::Replaced => value.is_empty() || decoded::<Removal>(value).is_ok(),
        Table::Recoded => decoded::<((Timestamp, OpId), File)>(value).is_ok(),
        Table::Pins => decoded::<PinState>(value).is_ok() && key.len() == 32,
        Table::Links => decoded::<Published>(value)?.publication.link.as_bytes() == key,
        Table::Settings => decoded::<(Timestamp, OpId, Settings)>(value).is_ok() && key.is_empty(),
        Table::Snapshots => decoded::<Taken>(value).is_ok() && name_in(key).is_some(),
        Table::Totals => decoded::<Totals>(value).is_ok() && key.is_empty(),
        Table::Written => decoded::<u64>(value).is_ok() && key.len() == 32,
        Table::Turnover => decoded::<Minute>(value).is_ok() && key.len() == 8,
        Table::Erased => {
            let whole = [&space.as_bytes()[..], key].concat();
            let is_notice = log_number(&whole).is_ok() && Logged::from_bytes(value).is_ok();
            is_notice && (key.len() == 72 || key.len() == 76)
        }
        _ => false,
    };
    if !is_one {
        return Err(CheckpointError::Row(table));
    }
    if !matches!(table, Table::Uses | Table::Registers | Table::Directories | Table::Kept) {
        kv.put(table, &[&space.as_bytes()[..], key].concat(), value)?;
    }
    Ok(())
}

fn decoded<T: Serialize + DeserializeOwned>(value: &[u8]) -> Result<T, CheckpointError> {
    Ok(from_canonical(value)?)
}

/// The name that a key ends with.
pub(crate) fn name_in(bytes: &[u8]) -> Option<Name> {
    let text = String::from_utf8(bytes.to_vec()).ok()?;
    Name::try_from(text).ok()
}

/// All pages are here: the logs go on from what they stand for.
pub fn finish(kv: &mut impl Kv, space: SpaceId, logs: &Frontier) -> Result<(), CheckpointError> {
    refuse_unbegun(kv, space)?;
    // Whatever an entry before it said, or what is left of that, is in the tables, whenever it was erased.
    let mut after = None;
    while let Some((key, _)) = kv.scan(Table::Erased, space.as_bytes(), after.as_deref(), 1)?.pop() {
        let (device, seq) = log_number(&key)?;
        if logs.get(&device).is_some_and(|until| seq <= until.seq) {
            kv.put(Table::Restated, &key[..72], &[])?;
        }
        after = Some(key);
    }
    for (device, until) in logs {
        Log::of(space).pass_over(kv, *device, until)?;
    }
    Ok(kv.delete(Table::Begun, space.as_bytes())?)
}

/// Whether one is being taken, or was when the machine stopped.
pub fn is_begun(kv: &impl Kv, space: SpaceId) -> Result<bool, KvError> {
    Ok(kv.get(Table::Begun, space.as_bytes())?.is_some())
}

/// Removes what was taken of one that will not be finished, in steps; logs that were kept before stay, unopened. Whether that is all.
pub fn give_up(kv: &mut impl Kv, space: SpaceId) -> Result<bool, KvError> {
    let has_logs = !Log::of(space).is_empty(kv)?;
    let stays =
        |table: &Table| has_logs && (OF_LOGS.contains(table) || matches!(table, Table::Frontier | Table::Sealed));
    let derived = Table::DERIVED.into_iter().chain([Table::Erased, Table::Unfilled]);
    let mut left = REMOVED_ROWS;
    for table in derived.filter(|table| !stays(table)) {
        let rows = kv.scan(table, space.as_bytes(), None, left)?;
        left -= rows.len();
        for (key, _) in rows {
            kv.delete(table, &key)?;
        }
        if left == 0 {
            return Ok(false);
        }
    }
    let mut after = None;
    while let Some((key, _)) = kv.scan(Table::Frontier, space.as_bytes(), after.as_deref(), 1)?.pop() {
        kv.put(Table::Sealed, &key, &FIRST)?;
        after = Some(key);
    }
    // The mark goes last: while it is there something is still to be removed.
    kv.delete(Table::Begun, space.as_bytes())?;
    Ok(true)
}

/// How much of a device's log before a checkpoint is here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Unfilled {
    /// The last entry of it that is; none when none is.
    pub at: Option<Position>,
    /// The last entry that the checkpoint stands for.
    pub until: Position,
}
