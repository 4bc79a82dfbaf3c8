//! Ordered tables, as a transaction of the caller's database shows them.

use potluck_types::SpaceId;
use std::collections::BTreeMap;

/// What the database says when it fails. It is the caller's own error, passed back through this crate.
pub type KvError = Box<dyn std::error::Error + Send + Sync>;

/// Keys with their values, in order.
pub type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// The tables of this crate. Keys start with the space's id, so that one database holds many spaces.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Table {
    /// Space, device, sequence number → the entry as it is kept, see [`Logged`](crate::Logged).
    Log,
    /// Space, device, sequence number, another device → the last of its entries that says that the changes of this one are erased, see [`Logged`](crate::Logged); whether this one is here or not.
    Erased,
    /// Space, device, sequence number → nothing: of an entry whose changes are erased, what they said has been heard, from itself or from who said again what is left.
    Restated,
    /// Space, device → the last entry's [`Position`](crate::Position).
    Frontier,
    /// Space, directory, name → [`Head`](crate::Head)s.
    Registers,
    /// Space, directory, name → nothing: it has values that conflict.
    Conflicts,
    /// Space, operation → what became of its value, which was replaced before it was seen.
    Replaced,
    /// Space, directory → the places that it was given. Who has a row, its id has been given away.
    Directories,
    /// Space, operation → the directory that has its place by it.
    Placed,
    /// Space, file version, part → the stripes that it uses.
    Uses,
    /// Space, stripe, file version → whether the version is in the trash.
    Users,
    /// Space, operation → where its file lies now: said before the operation was seen.
    Recoded,
    /// Space, stripe → when it was last pinned and unpinned.
    Pins,
    /// Space, link → what was [`Published`](crate::Published) of it last.
    Links,
    /// Space, operation → its value, which is in the trash.
    Kept,
    /// Space, directory, name, operation → nothing: a value of that name is in the trash.
    KeptAt,
    /// Space, time, operation → when this node learned of it: the time of a value in the trash is over then.
    KeptUntil,
    /// Space → its [`Totals`](crate::Totals).
    Totals,
    /// Space, device → bytes of what it has put, as they count against a quota.
    Written,
    /// Space → its [`Settings`](crate::Settings), when that was said, and by which operation.
    Settings,
    /// Space, name → what was said last of a snapshot: [`Taken`](crate::Taken).
    Snapshots,
    /// Space, minute → how many files were removed and overwritten then.
    Turnover,
    /// Space, device, sequence number → an entry that was set aside for another, see [`Aside`](crate::Aside).
    Aside,
    /// Space, device, sequence number, hash → nothing: the first entry of a history that was given up.
    GivenUp,
    /// Space, hash → a record of its [`Charter`](crate::Charter).
    Charter,
    /// Space, device → the first entry of its log that was not opened yet: its key was not known.
    Sealed,
    /// Space → what of it is read into the tables, where that is not all: areas with their names, see [`Scope`](crate::Scope).
    Scope,
    /// Space, device → how much of its log before a checkpoint is here, see [`Unfilled`](crate::Unfilled).
    Unfilled,
    /// Space → nothing: a checkpoint is being taken.
    Begun,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 29] = [
        Self::Log,
        Self::Erased,
        Self::Restated,
        Self::Frontier,
        Self::Registers,
        Self::Conflicts,
        Self::Replaced,
        Self::Directories,
        Self::Placed,
        Self::Uses,
        Self::Users,
        Self::Recoded,
        Self::Pins,
        Self::Links,
        Self::Kept,
        Self::KeptAt,
        Self::KeptUntil,
        Self::Totals,
        Self::Written,
        Self::Settings,
        Self::Snapshots,
        Self::Turnover,
        Self::Aside,
        Self::GivenUp,
        Self::Charter,
        Self::Sealed,
        Self::Scope,
        Self::Unfilled,
        Self::Begun,
    ];

    /// Those that follow from the logs, and can be made anew from them.
    pub const DERIVED: [Self; 21] = [
        Self::Restated,
        Self::Frontier,
        Self::Registers,
        Self::Conflicts,
        Self::Replaced,
        Self::Directories,
        Self::Placed,
        Self::Uses,
        Self::Users,
        Self::Recoded,
        Self::Pins,
        Self::Links,
        Self::Kept,
        Self::KeptAt,
        Self::KeptUntil,
        Self::Totals,
        Self::Written,
        Self::Settings,
        Self::Snapshots,
        Self::Turnover,
        Self::Sealed,
    ];
}

impl Table {
    /// The spaces that have a row in this table.
    pub fn spaces(self, kv: &impl Kv) -> Result<Vec<SpaceId>, KvError> {
        let (mut spaces, mut after) = (Vec::new(), None::<Vec<u8>>);
        while let Some((key, _)) = kv.scan(self, &[], after.as_deref(), 1)?.pop() {
            let Some(space) = key.first_chunk::<32>() else {
                after = Some(key);
                continue;
            };
            spaces.push(SpaceId::from_bytes(*space));
            // Past every row of this one: no key is longer than a name and two ids.
            after = Some([&space[..], &[0xff; 512]].concat());
        }
        Ok(spaces)
    }
}

const _: () = assert!(
    Table::DERIVED.len() + 8 == Table::ALL.len(),
    "all but the log, what of it is read, what is erased of it, what is missing and comes, the charter, what is set aside, and what was given up"
);

/// One transaction over the tables. Reads see its own writes.
pub trait Kv {
    /// The value under a key.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;
    /// Sets a value.
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), KvError>;
    /// Removes a key, present or not.
    fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), KvError>;
    /// The first `limit` pairs whose key starts with `prefix` and is greater than `after`, in order.
    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Rows, KvError>;
}

/// Tables in memory, for tests and for trying things out.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct MemoryKv(pub(crate) BTreeMap<(Table, Vec<u8>), Vec<u8>>);

impl Kv for MemoryKv {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.0.get(&(table, key.to_vec())).cloned())
    }

    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        self.0.insert((table, key.to_vec()), value.to_vec());
        Ok(())
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), KvError> {
        self.0.remove(&(table, key.to_vec()));
        Ok(())
    }

    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Rows, KvError> {
        let start = after.filter(|after| *after >= prefix).map_or_else(
            || std::ops::Bound::Included((table, prefix.to_vec())),
            |after| std::ops::Bound::Excluded((table, after.to_vec())),
        );
        let pairs = self.0.range((start, std::ops::Bound::Unbounded));
        Ok(pairs
            .take_while(|((found, key), _)| *found == table && key.starts_with(prefix))
            .take(limit)
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect())
    }
}
