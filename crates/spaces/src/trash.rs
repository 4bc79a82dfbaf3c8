//! The trash: values that a later change replaced, and that can be brought back until their time is over.
//!
//! A value is named by the operation that set it. Of two changes that replaced one value apart, the one that keeps it longer decides when its
//! time is over; one that lets go of it at once decides for good. So the same entries give the same trash, in whatever order they come.

use crate::{AreaId, DirId, Head, Kv, KvError, Name, OpId, Table, Value, tree::op_key_in};
use potluck_types::{NodeId, SpaceId, Timestamp, from_canonical, limits, to_canonical};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// A value in the trash.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Kept {
    /// The directory that it was in.
    pub parent: DirId,
    /// The name that it had.
    pub name: Name,
    /// The value, and which operation had set it when.
    pub head: Head,
    /// What put it here.
    pub removal: Removal,
}

impl Kept {
    /// Whether its name had it at this clock.
    pub fn was_there(&self, at: Timestamp) -> bool {
        self.head.clock <= at && at < self.removal.clock
    }

    /// Whether it lives on elsewhere, or as the same content in what took its place: it counts there.
    pub fn lives_on(&self) -> bool {
        self.removal.moved != Moved::Not
    }

    /// Whether it left its name, and is somewhere else.
    pub fn was_moved_away(&self) -> bool {
        self.removal.moved == Moved::Only && !self.removal.overwrites
    }
}

/// What put a value into the trash. Of several see [`Removal::join`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Removal {
    /// When the value's time is over.
    pub until: Timestamp,
    /// When it was removed, by its author's clock.
    pub clock: Timestamp,
    /// By which operation.
    pub op: OpId,
    /// Whether another value took the name then.
    pub overwrites: bool,
    /// Whether it was moved.
    #[serde(default, skip_serializing_if = "Moved::is_not")]
    pub moved: Moved,
}

/// Whether a value in the trash lives on elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub enum Moved {
    /// It was removed or overwritten.
    #[default]
    Not,
    /// It was removed or overwritten, and then brought back, or moved by somebody who did not know of that.
    Also,
    /// It was moved, and nothing else.
    Only,
}

impl Moved {
    fn is_not(&self) -> bool {
        *self == Self::Not
    }
}

impl Removal {
    /// What two that were said apart come to: what was removed or overwritten was so then, whenever it was moved or brought back. Of two alike the one counts that keeps the value
    /// longer.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        let rank = |one: &Self| (one.moved != Moved::Only, one.until, one.clock, one.op, one.overwrites);
        let (mut greater, less) = if rank(&self) < rank(&other) {
            (other, self)
        } else {
            (self, other)
        };
        if greater.moved == Moved::Not && less.moved != Moved::Not {
            greater.moved = Moved::Also;
        }
        greater
    }
}

/// What became of a value that was replaced: it can be brought back, or not any more.
pub(crate) type Replacement = Option<Removal>;

/// A value whose time comes to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expiring {
    /// When it does.
    pub until: Timestamp,
    /// Which value.
    pub op: OpId,
    /// The [`Tree::learning_at`](crate::Tree::learning_at) of when this node heard that it was replaced.
    pub learned: Duration,
}

/// Counts of a space.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Totals {
    /// File versions that have a name.
    pub files: u64,
    /// Their bytes. Content that several of them share counts for each.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes: u64,
    /// File versions in the trash.
    pub kept: u64,
    /// Their bytes. Content that several of them share counts for each.
    pub kept_bytes: u64,
    /// Up to which clock a person has accepted what was removed and overwritten.
    pub accepted: Timestamp,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Totals {
    pub(crate) fn named(&mut self, value: &Value) {
        if let Value::File(file) = value {
            self.files = self.files.saturating_add(1);
            self.bytes = self.bytes.saturating_add(file.len);
        }
    }

    /// What counts against a space's [quota](crate::Settings::quota): what has a name, and what can be brought back.
    pub fn used(&self) -> u64 {
        self.bytes.saturating_add(self.kept_bytes)
    }
}

/// What changes count, while they are made.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Tally {
    pub(crate) totals: Totals,
    /// How many bytes more, or less, of each device's there are than before.
    written: BTreeMap<NodeId, i128>,
}

impl Tally {
    /// From what there is.
    pub(crate) fn from(totals: Totals) -> Self {
        Self {
            totals,
            written: BTreeMap::new(),
        }
    }

    fn write(&mut self, head: &Head, times: i128) -> u64 {
        let Value::File(file) = &head.value else { return 0 };
        *self.written.entry(head.op.device).or_default() += times * i128::from(file.len);
        file.len
    }

    /// A value has a name.
    pub(crate) fn named(&mut self, head: &Head) {
        self.write(head, 1);
        self.totals.named(&head.value);
    }

    /// It has it no more.
    pub(crate) fn unnamed(&mut self, head: &Head) {
        let len = self.write(head, -1);
        if matches!(head.value, Value::File(_)) {
            self.totals.files = self.totals.files.saturating_sub(1);
            self.totals.bytes = self.totals.bytes.saturating_sub(len);
        }
    }

    fn kept(&mut self, kept: &Kept) {
        if kept.lives_on() {
            return;
        }
        let len = self.write(&kept.head, 1);
        if matches!(kept.head.value, Value::File(_)) {
            self.totals.kept = self.totals.kept.saturating_add(1);
            self.totals.kept_bytes = self.totals.kept_bytes.saturating_add(len);
        }
    }

    fn let_go(&mut self, kept: &Kept) {
        if kept.lives_on() {
            return;
        }
        let len = self.write(&kept.head, -1);
        if matches!(kept.head.value, Value::File(_)) {
            self.totals.kept = self.totals.kept.saturating_sub(1);
            self.totals.kept_bytes = self.totals.kept_bytes.saturating_sub(len);
        }
    }
}

/// The trash of one space.
#[derive(Clone, Copy, Debug)]
pub struct Trash {
    space: SpaceId,
}

impl Trash {
    /// The trash of this space.
    pub fn of(space: SpaceId) -> Self {
        Self { space }
    }

    /// A value, if it is in the trash.
    pub fn get(self, kv: &impl Kv, op: OpId) -> Result<Option<Kept>, KvError> {
        let row = kv.get(Table::Kept, &self.op_key(op))?;
        row.map(|row| Ok(from_canonical(&row)?)).transpose()
    }

    /// The values that a name had, the last removed first.
    pub fn at(self, kv: &impl Kv, parent: DirId, name: &Name) -> Result<Vec<Kept>, KvError> {
        let prefix = self.name_prefix(parent, name);
        let rows = kv.scan(Table::KeptAt, &prefix, None, usize::MAX)?;
        let mut kept = self.rows(kv, rows.into_iter().map(|(key, _)| key))?;
        kept.sort_by_key(|kept| std::cmp::Reverse(kept.removal.clock));
        Ok(kept)
    }

    /// Names of a directory that had values, in order, after a name, each with those values, the last removed first. At least one name, if there is
    /// one, and not many more values than `limit`.
    pub fn list(
        self,
        kv: &impl Kv,
        parent: DirId,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<(Name, Vec<Kept>)>, KvError> {
        let prefix = [&self.space.as_bytes()[..], parent.as_bytes()].concat();
        // Behind all rows of the name: they go on with a NUL byte.
        let after = after.map(|name| [&prefix[..], name.as_str().as_bytes(), &[1]].concat());
        let rows = kv.scan(Table::KeptAt, &prefix, after.as_deref(), limit)?;
        let mut names: Vec<Name> = self
            .rows(kv, rows.into_iter().map(|(key, _)| key))?
            .into_iter()
            .map(|kept| kept.name)
            .collect();
        names.dedup();
        names
            .into_iter()
            .map(|name| Ok((name.clone(), self.at(kv, parent, &name)?)))
            .collect()
    }

    /// Values in the order in which their time is over, after one of them, up to a number.
    pub fn expiring(self, kv: &impl Kv, after: Option<Expiring>, limit: usize) -> Result<Vec<Expiring>, KvError> {
        let after = after.map(|last| self.until_key(last.until, last.op));
        let rows = kv.scan(Table::KeptUntil, self.space.as_bytes(), after.as_deref(), limit)?;
        rows.into_iter()
            .map(|(key, learned)| {
                let malformed = "a row of what expires has a key of 84 bytes and a value of 8";
                let until = key.get(32..40).and_then(number).ok_or(malformed)?;
                Ok(Expiring {
                    until: Timestamp::from_millis(until),
                    op: key.get(40..).and_then(read_op).ok_or(malformed)?,
                    learned: Duration::from_millis(number(&learned).ok_or(malformed)?),
                })
            })
            .collect()
    }

    /// How much there is.
    pub fn totals(self, kv: &impl Kv) -> Result<Totals, KvError> {
        let row = kv.get(Table::Totals, self.space.as_bytes())?;
        row.map_or_else(|| Ok(Totals::default()), |row| Ok(from_canonical(&row)?))
    }

    /// Where there is nothing there is no row, whatever there was before.
    pub(crate) fn set_totals(self, kv: &mut impl Kv, totals: Totals) -> Result<(), KvError> {
        if totals == Totals::default() {
            return kv.delete(Table::Totals, self.space.as_bytes());
        }
        kv.put(Table::Totals, self.space.as_bytes(), &to_canonical(&totals))
    }

    /// How many bytes there are of what each device has put: what has a name, and what can be brought back.
    pub fn written(self, kv: &impl Kv) -> Result<BTreeMap<NodeId, u64>, KvError> {
        let rows = kv.scan(Table::Written, self.space.as_bytes(), None, limits::POOL_NODES_MAX)?;
        let read = |(key, row): (Vec<u8>, Vec<u8>)| {
            let device: [u8; 32] = key[32..]
                .try_into()
                .map_err(|_| "a key of what was written is 64 bytes")?;
            Ok((NodeId::from_bytes(device), from_canonical(&row)?))
        };
        rows.into_iter().map(read).collect()
    }

    /// Writes down what was counted, if it is another than before.
    pub(crate) fn note(self, kv: &mut impl Kv, before: Totals, tally: &Tally) -> Result<(), KvError> {
        if tally.totals != before {
            self.set_totals(kv, tally.totals)?;
        }
        for (device, more) in tally.written.iter().filter(|(_, more)| **more != 0) {
            let key = [&self.space.as_bytes()[..], device.as_bytes()].concat();
            let row = kv.get(Table::Written, &key)?;
            let known: u64 = row.map_or(Ok(0), |row| from_canonical(&row))?;
            let now = i128::from(known).saturating_add(*more);
            match u64::try_from(now.max(0)).unwrap_or(u64::MAX) {
                0 => kv.delete(Table::Written, &key)?,
                now => kv.put(Table::Written, &key, &to_canonical(&now))?,
            }
        }
        Ok(())
    }

    pub(crate) fn insert(
        self,
        kv: &mut impl Kv,
        kept: &Kept,
        learned: Duration,
        tally: &mut Tally,
    ) -> Result<(), KvError> {
        let op = kept.head.op;
        kv.put(Table::Kept, &self.op_key(op), &to_canonical(kept))?;
        kv.put(Table::KeptAt, &self.place_key(kept.parent, &kept.name, op), &[])?;
        let learned = u64::try_from(learned.as_millis()).unwrap_or(u64::MAX);
        kv.put(
            Table::KeptUntil,
            &self.until_key(kept.removal.until, op),
            &learned.to_be_bytes(),
        )?;
        tally.kept(kept);
        Ok(())
    }

    pub(crate) fn remove(self, kv: &mut impl Kv, kept: &Kept, tally: &mut Tally) -> Result<(), KvError> {
        let op = kept.head.op;
        kv.delete(Table::Kept, &self.op_key(op))?;
        kv.delete(Table::KeptAt, &self.place_key(kept.parent, &kept.name, op))?;
        kv.delete(Table::KeptUntil, &self.until_key(kept.removal.until, op))?;
        tally.let_go(kept);
        Ok(())
    }

    /// A value that is in the trash changes where its content lies.
    pub(crate) fn update(self, kv: &mut impl Kv, kept: &Kept) -> Result<(), KvError> {
        kv.put(Table::Kept, &self.op_key(kept.head.op), &to_canonical(kept))
    }

    /// Takes what became of an operation's value that has not been seen yet, and takes it into account when the same is said again.
    pub(crate) fn foresee(
        self,
        kv: &mut impl Kv,
        area: Option<AreaId>,
        op: OpId,
        replacement: Replacement,
    ) -> Result<(), KvError> {
        let key = op_key_in(self.op_key(op), area);
        let joined = match Self::read_foreseen(kv, &key)? {
            Some(known) => known.zip(replacement).map(|(a, b)| a.join(b)),
            None => replacement,
        };
        let row = joined.map_or_else(Vec::new, |removal| to_canonical(&removal));
        kv.put(Table::Replaced, &key, &row)
    }

    /// What became of the value of an operation, in an entry of this area, before it was seen, if anything: it is seen now. What concerns all of the space may have said so, too.
    pub(crate) fn take_foreseen(
        self,
        kv: &mut impl Kv,
        area: Option<AreaId>,
        op: OpId,
    ) -> Result<Option<Replacement>, KvError> {
        let mut taken = None::<Replacement>;
        for said_in in [None, area].into_iter().take(1 + usize::from(area.is_some())) {
            let key = op_key_in(self.op_key(op), said_in);
            if let Some(more) = Self::read_foreseen(kv, &key)? {
                kv.delete(Table::Replaced, &key)?;
                taken = Some(match taken {
                    Some(known) => known.zip(more).map(|(a, b)| a.join(b)),
                    None => more,
                });
            }
        }
        Ok(taken)
    }

    fn read_foreseen(kv: &impl Kv, key: &[u8]) -> Result<Option<Replacement>, KvError> {
        let row = kv.get(Table::Replaced, key)?;
        row.map(|row| {
            Ok(match row.is_empty() {
                true => None,
                false => Some(from_canonical(&row)?),
            })
        })
        .transpose()
    }

    fn rows(self, kv: &impl Kv, keys: impl Iterator<Item = Vec<u8>>) -> Result<Vec<Kept>, KvError> {
        keys.map(|key| {
            let at = key.len().saturating_sub(OP_BYTES);
            let op = key.get(at..).and_then(read_op);
            let kept = self.get(kv, op.ok_or("a place in the trash ends with an operation")?)?;
            kept.ok_or_else(|| "a place in the trash names what is not there".into())
        })
        .collect()
    }

    fn op_key(self, op: OpId) -> Vec<u8> {
        [&self.space.as_bytes()[..], &op_bytes(op)].concat()
    }

    /// No name has a NUL byte, so that no name's rows lie among those of another.
    fn name_prefix(self, parent: DirId, name: &Name) -> Vec<u8> {
        [
            &self.space.as_bytes()[..],
            parent.as_bytes(),
            name.as_str().as_bytes(),
            &[0],
        ]
        .concat()
    }

    fn place_key(self, parent: DirId, name: &Name, op: OpId) -> Vec<u8> {
        [self.name_prefix(parent, name), op_bytes(op).to_vec()].concat()
    }

    fn until_key(self, until: Timestamp, op: OpId) -> Vec<u8> {
        [
            &self.space.as_bytes()[..],
            &until.as_millis().to_be_bytes(),
            &op_bytes(op),
        ]
        .concat()
    }
}

/// Bytes of an operation in a key: device, entry, place in the entry.
const OP_BYTES: usize = 32 + 8 + 4;

/// An operation in a key.
pub(crate) fn op_bytes(op: OpId) -> [u8; OP_BYTES] {
    let mut bytes = [0; OP_BYTES];
    bytes[..32].copy_from_slice(op.device.as_bytes());
    bytes[32..40].copy_from_slice(&op.seq.to_be_bytes());
    bytes[40..].copy_from_slice(&op.at.to_be_bytes());
    bytes
}

fn read_op(bytes: &[u8]) -> Option<OpId> {
    let device: [u8; 32] = bytes.get(..32)?.try_into().ok()?;
    Some(OpId {
        device: NodeId::from_bytes(device),
        seq: number(bytes.get(32..40)?)?,
        at: u32::from_be_bytes(bytes.get(40..)?.try_into().ok()?),
    })
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}
