//! Histories of a device that do not stand. Most of all two of one device: its home was restored from an older image of itself, or copied, and it wrote on before it heard of what it had
//! written since.
//!
//! The history that others keep stands. What the device wrote beside it is set aside, the space is made anew from what is left of the logs, and once
//! the other history is here, what was set aside is said again, as new entries. What a device wrote that does not count is cut off the same way, and not said again. Each step is one transaction; what is set aside outlasts a crash.

use crate::{AppendError, Change, Entry, EntryId, Keys, Kv, KvError, Log, Logged, OpId, Table, Tree, TreeError};
use potluck_types::{Hash, NodeId, SpaceId, from_canonical, to_canonical};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::collections::BTreeMap;

/// Rows that are read at once.
const PAGE: usize = 256;

/// An entry that was set aside.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Aside {
    /// It waits to be said again.
    Waits(ByteBuf),
    /// It was, as the entry with this number; later ones may refer to it.
    Said(u64),
}

/// The history of one device that is to be set right.
#[derive(Clone, Copy, Debug)]
pub struct Branch {
    space: SpaceId,
    device: NodeId,
}

/// Makes all of a space anew that follows from its logs. Where it stands on a [checkpoint](crate::Checkpoint), and the logs before that are not all here, it stands on what is here of them.
pub fn make_anew(space: SpaceId, kv: &mut impl Kv, keys: &Keys, tree: Tree) -> Result<(), BranchError> {
    let log = Log::of(space);
    let devices: Vec<NodeId> = log.frontier(kv)?.into_keys().collect();
    log.forget_checkpoint(kv)?;
    for table in Table::DERIVED {
        while let Some((key, _)) = kv.scan(table, space.as_bytes(), None, 1)?.pop() {
            kv.delete(table, &key)?;
        }
    }
    tree.show_areas(kv, keys.scope())?;
    for device in devices {
        let mut seq = 0;
        loop {
            let page = log.entries_after(kv, device, seq, PAGE)?;
            if page.is_empty() {
                break;
            }
            for logged in page {
                let appended = log.append(kv, &logged)?;
                tree.apply(kv, keys, device, &appended.entry)?;
                seq = appended.entry.seq;
            }
        }
    }
    Ok(())
}

impl Branch {
    /// Of this device, in this space.
    pub fn of(space: SpaceId, device: NodeId) -> Self {
        Self { space, device }
    }

    /// Sets aside what the device wrote after an entry, and makes the space anew from all that is left. Gives the number of entries.
    pub fn set_aside(self, kv: &mut impl Kv, keys: &Keys, tree: Tree, after: u64) -> Result<u64, BranchError> {
        let log = Log::of(self.space);
        let mut seq = after + 1;
        while let Some(entry) = log.entry(kv, self.device, seq)? {
            kv.put(Table::GivenUp, &self.void_key(seq, entry.hash()), &[])?;
            kv.put(
                Table::Aside,
                &self.key(seq),
                &to_canonical(&Aside::Waits(ByteBuf::from(entry.to_bytes()))),
            )?;
            seq += 1;
        }
        self.cut(kv, keys, tree, after)
    }

    /// Drops what the device wrote after an entry, and makes the space anew from all that is left. Gives the number of entries.
    pub fn cut(self, kv: &mut impl Kv, keys: &Keys, tree: Tree, after: u64) -> Result<u64, BranchError> {
        let log = Log::of(self.space);
        let mut entries = 0;
        while log.entry(kv, self.device, after + entries + 1)?.is_some() {
            entries += 1;
            let key = self.key(after + entries);
            kv.delete(Table::Log, &key)?;
            // What erased it did not know of the entry that comes in its place. What it has erased itself is gone, and what is left of that stays.
            while let Some((key, _)) = kv.scan(Table::Erased, &key, None, 1)?.pop() {
                kv.delete(Table::Erased, &key)?;
            }
        }
        make_anew(self.space, kv, keys, tree)?;
        Ok(entries)
    }

    /// Whether the device once wrote this entry, and it was set aside for another with the same number.
    pub fn is_given_up(self, kv: &impl Kv, seq: u64, hash: Hash) -> Result<bool, KvError> {
        Ok(kv.get(Table::GivenUp, &self.void_key(seq, hash))?.is_some())
    }

    /// The next entry that waits to be said again, and where those before it are now.
    pub fn next_aside(self, kv: &impl Kv) -> Result<Option<Again>, BranchError> {
        let prefix = [&self.space.as_bytes()[..], self.device.as_bytes()].concat();
        let (mut said, mut after) = (BTreeMap::new(), None::<Vec<u8>>);
        loop {
            let rows = kv.scan(Table::Aside, &prefix, after.as_deref(), PAGE)?;
            let Some((last, _)) = rows.last() else { return Ok(None) };
            after = Some(last.clone());
            for (key, row) in rows {
                let seq = key.get(64..).and_then(|bytes| bytes.try_into().ok());
                let seq = u64::from_be_bytes(
                    seq.ok_or("what is set aside has a key of 72 bytes")
                        .map_err(KvError::from)?,
                );
                match from_canonical(&row).map_err(KvError::from)? {
                    Aside::Said(now) => _ = said.insert(seq, now),
                    Aside::Waits(bytes) => {
                        let logged = Logged::from_bytes(&bytes).map_err(AppendError::from)?;
                        let ((entry, _), notice) = (logged.open()?, logged.notice()?);
                        return Ok(Some(Again {
                            seq,
                            entry,
                            notice,
                            said,
                        }));
                    }
                }
            }
        }
    }

    /// Notes that an entry was said again, with this number. After the last, nothing is left of what was set aside.
    pub fn said_again(self, kv: &mut impl Kv, seq: u64, now: u64) -> Result<(), BranchError> {
        kv.put(Table::Aside, &self.key(seq), &to_canonical(&Aside::Said(now)))?;
        if self.next_aside(kv)?.is_none() {
            let prefix = [&self.space.as_bytes()[..], self.device.as_bytes()].concat();
            while let Some((key, _)) = kv.scan(Table::Aside, &prefix, None, 1)?.pop() {
                kv.delete(Table::Aside, &key)?;
            }
        }
        Ok(())
    }

    fn key(self, seq: u64) -> Vec<u8> {
        [&self.space.as_bytes()[..], self.device.as_bytes(), &seq.to_be_bytes()].concat()
    }

    fn void_key(self, seq: u64, hash: Hash) -> Vec<u8> {
        [&self.key(seq)[..], hash.as_bytes()].concat()
    }
}

/// An entry that is to be said again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Again {
    /// The number that it had.
    pub seq: u64,
    /// What it said.
    pub entry: Entry,
    /// Where that was erased: what says so, with what is left of it.
    pub notice: Option<Entry>,
    said: BTreeMap<u64, u64>,
}

impl Again {
    /// The first of those that were set aside.
    fn first(&self) -> u64 {
        self.said.keys().next().copied().unwrap_or(self.seq)
    }

    /// What it erases, as it is to be said now: of those that were set aside, what is erased is not said again.
    pub fn erases(&self, device: NodeId) -> Option<EntryId> {
        let is_aside = |erased: &EntryId| erased.device == device && erased.seq >= self.first();
        self.entry.erases.filter(|erased| !is_aside(erased))
    }

    /// Its changes, which may refer to those before it, as they are to be said now.
    pub fn changes(&self, device: NodeId, mut changes: Vec<Change>) -> Vec<Change> {
        let first = self.first();
        let moved = |op: &mut OpId| {
            if op.device == device && op.seq >= first {
                op.seq = self.said.get(&op.seq).copied().unwrap_or(op.seq);
            }
        };
        for change in &mut changes {
            match change {
                Change::Set { replaces, .. } => replaces.iter_mut().for_each(moved),
                Change::Recode { of, .. } => moved(of),
                Change::Restate { device: of, seq, .. } if *of == device && *seq >= first => {
                    *change = Change::nothing();
                }
                Change::Uses { .. }
                | Change::Settings(_)
                | Change::Snapshot { .. }
                | Change::Accept { .. }
                | Change::Restate { .. } => {}
            }
        }
        changes
    }
}

/// Why a history cannot be set right.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BranchError {
    /// A log.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// A change.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

impl From<KvError> for BranchError {
    fn from(error: KvError) -> Self {
        Self::Append(AppendError::Kv(error))
    }
}
