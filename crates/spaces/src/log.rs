//! The log of one device in a space: signed entries, each naming the hash of the one before.
//!
//! An entry's changes are sealed; public are its place in the log, its clock, the stripes that it pins and
//! unpins, and what links show, which is sealed for who has them. So a custodian that cannot read the space still checks, keeps and serves it, and knows what is live.
//!
//! The changes lie beside the entry, which has their hash: so they can be erased, and the log is still whole. Another entry says so, and what is left of them; it goes with the erased
//! one, as the proof, and so that who has not heard it hears what is left.

use crate::{AreaId, EpochId, Kv, KvError, Links, Pins, Publication, Table, Unfilled, checkpoint};
use potluck_crypto::{Record, Signed, SignedError, SigningKey};
use potluck_types::{
    Hash, NodeId, SpaceId, StripeId, Timestamp, from_canonical, from_canonical_or_later, limits, to_canonical,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::collections::BTreeMap;

/// The version of what is written in an area: who knows no areas would take it for something else.
const VERSION: u8 = 4;
/// The version of everything else.
const VERSION_BEFORE: u8 = 3;
/// The last version whose changes are in the entry, and cannot be erased.
const VERSION_INSIDE: u8 = 2;
/// The first version did not compress changes; it has no other form.
const VERSION_FIRST: u8 = 1;

/// An entry of a device's log. It is signed by the device, whose key names the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    version: u8,
    /// The space that it belongs to.
    pub space: SpaceId,
    /// Its place in the device's log, from 1.
    pub seq: u64,
    /// Hybrid logical clock (Kulkarni et al., 2014): later than every entry that the device had seen.
    pub clock: Timestamp,
    /// The hash of the device's previous entry, with its signature; none for the first.
    pub previous: Option<Hash>,
    /// Stripes that are live from now on.
    pub pins: Vec<StripeId>,
    /// Stripes that no file uses any more.
    pub unpins: Vec<StripeId>,
    /// The [`Change`](crate::Change)s, for those who hold the space's key; none where they were erased.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub sealed: ByteBuf,
    /// Under which key they are sealed; none in a space that has but one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<EpochId>,
    /// The area whose key they are sealed under, and which they are in; none for what concerns all of the space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub area: Option<AreaId>,
    /// What links show from now on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Publication>,
    /// The hash of the sealed changes, which lie beside the entry; none in versions that had them in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    beside: Option<Hash>,
    /// An entry whose changes are nowhere any more, but for what this one says again of them, see [`Change::Restate`](crate::Change::Restate).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erases: Option<EntryId>,
}

/// One entry: unique in a space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct EntryId {
    /// The device whose log it is in.
    pub device: NodeId,
    /// Its number.
    pub seq: u64,
}

fn is_nothing(bytes: &ByteBuf) -> bool {
    bytes.is_empty()
}

impl Entry {
    /// Whether its changes were erased.
    pub fn is_erased(&self) -> bool {
        self.sealed.is_empty()
    }

    /// Whether its changes can be erased: those of versions before are in what is signed.
    pub fn is_erasable(&self) -> bool {
        self.version > VERSION_INSIDE
    }

    /// Whether it is of a version that is known, and what was signed is as in that version.
    fn is_well_formed(&self) -> bool {
        let is_inside = self.version <= VERSION_INSIDE;
        let says_more = !(self.pins.is_empty() && self.unpins.is_empty() && self.links.is_empty());
        (VERSION_FIRST..=VERSION).contains(&self.version)
            && self.beside.is_none() == is_inside
            && (is_inside || self.sealed.is_empty())
            // It is kept with what it erases, too.
            && (self.erases.is_none() || !(is_inside || says_more))
            && self.area.is_some() == (self.version == VERSION)
            // What is in use elsewhere only those know who have all of the space.
            && (self.area.is_none() || (self.epoch.is_some() && self.links.is_empty() && self.unpins.is_empty()))
    }
}

/// An entry as it is kept and sent: what was signed, and beside it its changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Logged {
    signed: Signed<Entry>,
    /// None where they are in the entry, or erased.
    sealed: Option<ByteBuf>,
    /// The entry that says that they are erased, with what is left of them.
    erased_by: Option<Box<Self>>,
}

/// The encoded form of [`Logged`] where changes lie beside the entry. Before, it was the signed entry alone.
#[derive(Serialize, Deserialize)]
struct Beside {
    entry: ByteBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<ByteBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    erased_by: Option<ByteBuf>,
}

/// The first byte of a map in CBOR has these upper three bits. A signed record is a list.
const MAP: u8 = 5;

impl Logged {
    /// Signs an entry, and takes its changes out.
    pub fn sign(key: &SigningKey, mut entry: Entry) -> Result<Self, SignedError> {
        let mut sealed = None;
        if entry.version > VERSION_INSIDE {
            let changes = std::mem::take(&mut entry.sealed);
            check_len(changes.len())?;
            entry.beside = Some(Hash::of(&changes));
            sealed = Some(changes);
        }
        Ok(Self {
            signed: Signed::sign(key, &entry)?,
            sealed,
            erased_by: None,
        })
    }

    /// Reads one from bytes that anyone may have sent. Nothing in it is checked yet.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SignedError> {
        if bytes.first().is_none_or(|first| first >> 5 != MAP) {
            return Ok(Self {
                signed: Signed::from_bytes(bytes)?,
                sealed: None,
                erased_by: None,
            });
        }
        let Beside {
            entry,
            sealed,
            erased_by,
        } = beside(bytes)?;
        let erased_by = erased_by.map(|bytes| Self::notice_from_bytes(&bytes).map(Box::new));
        Ok(Self {
            signed: Signed::from_bytes(&entry)?,
            sealed,
            erased_by: erased_by.transpose()?,
        })
    }

    /// An entry that erases another: nothing goes with it but its own changes.
    fn notice_from_bytes(bytes: &[u8]) -> Result<Self, SignedError> {
        if bytes.first().is_none_or(|first| first >> 5 != MAP) {
            return Self::from_bytes(bytes);
        }
        let Beside { entry, sealed, .. } = beside(bytes)?;
        Ok(Self {
            signed: Signed::from_bytes(&entry)?,
            sealed,
            erased_by: None,
        })
    }

    /// Its bytes, as kept and sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Self {
            signed,
            sealed,
            erased_by,
        } = self;
        let entry = signed.to_bytes();
        if sealed.is_none() && erased_by.is_none() {
            return entry;
        }
        to_canonical(&Beside {
            entry: ByteBuf::from(entry),
            sealed: sealed.clone(),
            erased_by: erased_by.as_ref().map(|by| ByteBuf::from(by.to_bytes())),
        })
    }

    /// The entry with its changes, of one that was checked before: [`Log`] has no other.
    pub fn checked_before(&self) -> Result<Entry, SignedError> {
        let mut entry = self.signed.claimed()?;
        if let Some(sealed) = &self.sealed {
            entry.sealed.clone_from(sealed);
        }
        Ok(entry)
    }

    /// The entry that says that the changes of this one are erased, with what is left of them.
    pub fn notice(&self) -> Result<Option<Entry>, AppendError> {
        let notice = self.erased_by.as_ref().map(|notice| notice.open()).transpose()?;
        Ok(notice.map(|(entry, _)| entry))
    }

    /// The hash of what was signed, which the next entry names: the same whether the changes are there or not.
    pub fn hash(&self) -> Hash {
        self.signed.hash()
    }

    /// Who is said to have signed it; [`Logged::open`] tells whether that is so.
    pub fn claimed_device(&self) -> NodeId {
        NodeId::from_bytes(*self.signed.claimed_signer().as_bytes())
    }

    /// Checks the signature, and that the changes are those of the entry. Gives it with them, and the device that has signed it.
    pub fn open(&self) -> Result<(Entry, NodeId), AppendError> {
        let (mut entry, device) = open(&self.signed)?;
        if let Some(sealed) = &self.sealed {
            if entry.beside != Some(Hash::of(sealed)) || sealed.is_empty() {
                return Err(AppendError::Foreign);
            }
            entry.sealed.clone_from(sealed);
        }
        Ok((entry, device))
    }
}

fn beside(bytes: &[u8]) -> Result<Beside, SignedError> {
    let context = Entry::CONTEXT;
    let beside: Beside = from_canonical_or_later(bytes).map_err(|source| SignedError::Codec { context, source })?;
    check_len(beside.sealed.as_ref().map_or(0, |sealed| sealed.len()))?;
    Ok(beside)
}

fn check_len(len: usize) -> Result<(), SignedError> {
    let (context, max) = (Entry::CONTEXT, limits::ENTRY_BYTES_MAX);
    match len <= max {
        true => Ok(()),
        false => Err(SignedError::TooLarge { context, len, max }),
    }
}

#[cfg(test)]
impl Logged {
    /// The bytes of the entry without what lies beside it.
    pub(crate) fn signed_alone(&self) -> Vec<u8> {
        self.signed.to_bytes()
    }

    /// With the word of another that its changes are erased.
    pub(crate) fn said_by(self, notice: &Self) -> Self {
        Self {
            erased_by: Some(Box::new(notice.clone())),
            ..self
        }
    }
}

fn open(signed: &Signed<Entry>) -> Result<(Entry, NodeId), AppendError> {
    let verified = signed.open()?;
    let device = NodeId::from_bytes(*verified.signer().as_bytes());
    let entry = verified.into_value();
    match entry.is_well_formed() {
        true => Ok((entry, device)),
        false => Err(AppendError::Foreign),
    }
}

impl Record for Entry {
    const CONTEXT: &'static str = "potluck/log-entry/1";
    const BYTES_MAX: usize = limits::ENTRY_BYTES_MAX;
}

/// One change in one entry: unique in a space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct OpId {
    /// The device whose log it is in.
    pub device: NodeId,
    /// The entry.
    pub seq: u64,
    /// The change in the entry, from 0.
    pub at: u32,
}

/// How far a device's log is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Position {
    /// The last entry.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
    /// Its clock.
    pub clock: Timestamp,
}

/// How far each device's log is known: what two replicas exchange first.
pub type Frontier = BTreeMap<NodeId, Position>;

/// An entry that was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Appended {
    /// What became of it.
    pub append: Append,
    /// The entry.
    pub entry: Entry,
    /// Whose log it is in.
    pub device: NodeId,
    /// On whose word it was taken without its changes: an entry that may not be here yet, and the device that has written it.
    pub erased_by: Option<(Entry, NodeId)>,
}

/// What became of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Append {
    /// It is new, and stored.
    New,
    /// It was there already.
    Known,
}

/// Why an entry is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The envelope or the signature is wrong.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// It belongs to another space or a later version of this software.
    #[error("the entry is of another space or version")]
    Foreign,
    /// The entries before it are missing: they must come first.
    #[error("entry {found} of device {device} came while {expected} is next")]
    Gap {
        /// The device's short id.
        device: String,
        /// Which entry is next.
        expected: u64,
        /// Which came.
        found: u64,
    },
    /// The device signed two histories: its key was copied, or its disk went back in time.
    #[error("device {} has signed two different entries {seq}: its home was copied or restored from a backup", device.short())]
    Fork {
        /// Which.
        device: NodeId,
        /// Where the histories part.
        seq: u64,
    },
    /// The clock does not grow along the log, or is out of any range.
    #[error("entry {seq} of device {device} has an impossible clock")]
    Clock {
        /// The device's short id.
        device: String,
        /// The entry.
        seq: u64,
    },
    /// Its changes are not there, and nobody has erased them.
    #[error("entry {seq} of device {device} came without its changes, and nobody has erased them")]
    Stripped {
        /// The device's short id.
        device: String,
        /// The entry.
        seq: u64,
    },
    /// The names of the space are being taken from a checkpoint, and nothing else meanwhile.
    #[error("the names of the space are being taken from a checkpoint")]
    Begun,
    /// The database fails.
    #[error("the metadata database fails: {0}")]
    Kv(KvError),
}

impl From<KvError> for AppendError {
    fn from(error: KvError) -> Self {
        Self::Kv(error)
    }
}

/// Milliseconds in the year 2100: a clock beyond it is broken, and would silence all others for ever.
const CLOCK_MAX: Timestamp = Timestamp::from_millis(4_102_444_800_000);

/// Rows that are removed in one step when all are: more than there are devices.
const LET_GO_ROWS: usize = 4096;

/// The logs of one space.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    space: SpaceId,
}

impl Log {
    /// The logs of this space.
    pub fn of(space: SpaceId) -> Self {
        Self { space }
    }

    /// How far each device's log is known.
    pub fn frontier(self, kv: &impl Kv) -> Result<Frontier, KvError> {
        let prefix = self.space.as_bytes();
        let rows = kv.scan(Table::Frontier, prefix, None, limits::POOL_NODES_MAX)?;
        rows.into_iter()
            .map(|(key, value)| Ok((device_of(&key)?, from_canonical(&value)?)))
            .collect()
    }

    /// Whether no entry of the space is known here.
    pub fn is_empty(self, kv: &impl Kv) -> Result<bool, KvError> {
        Ok(kv.scan(Table::Frontier, self.space.as_bytes(), None, 1)?.is_empty())
    }

    /// How far the log of a device is known; none when nothing of it is.
    pub fn position(self, kv: &impl Kv, device: NodeId) -> Result<Option<Position>, KvError> {
        kv.get(Table::Frontier, &self.device_key(device))?
            .map(|value| Ok(from_canonical(&value)?))
            .transpose()
    }

    pub(crate) fn set_position(self, kv: &mut impl Kv, device: NodeId, position: &Position) -> Result<(), KvError> {
        kv.put(Table::Frontier, &self.device_key(device), &to_canonical(position))
    }

    /// The devices whose logs before a [checkpoint](crate::Checkpoint) are not all here, and how much of each is.
    pub fn unfilled(self, kv: &impl Kv) -> Result<BTreeMap<NodeId, Unfilled>, KvError> {
        let rows = kv.scan(Table::Unfilled, self.space.as_bytes(), None, limits::POOL_NODES_MAX)?;
        let read = |(key, row): (Vec<u8>, Vec<u8>)| Ok((device_of(&key)?, from_canonical(&row)?));
        rows.into_iter().map(read).collect()
    }

    fn unfilled_of(self, kv: &impl Kv, device: NodeId) -> Result<Option<Unfilled>, KvError> {
        let row = kv.get(Table::Unfilled, &self.device_key(device))?;
        row.map(|row| Ok(from_canonical(&row)?)).transpose()
    }

    /// Whether an entry is before a checkpoint, in a log that is not all here.
    pub(crate) fn is_unfilled(self, kv: &impl Kv, device: NodeId, seq: u64) -> Result<bool, KvError> {
        let unfilled = self.unfilled_of(kv, device)?;
        Ok(unfilled.is_some_and(|log| (1..=log.until.seq).contains(&seq)))
    }

    /// Whether all that is known of the logs is here, also what is before a checkpoint.
    pub fn is_filled(self, kv: &impl Kv) -> Result<bool, KvError> {
        Ok(kv.scan(Table::Unfilled, self.space.as_bytes(), None, 1)?.is_empty())
    }

    pub(crate) fn set_unfilled(self, kv: &mut impl Kv, device: NodeId, unfilled: &Unfilled) -> Result<(), KvError> {
        kv.put(Table::Unfilled, &self.device_key(device), &to_canonical(unfilled))
    }

    /// A checkpoint stands for the log of a device up to an entry: what is here of that need not be opened, and what is not comes later.
    pub(crate) fn pass_over(self, kv: &mut impl Kv, device: NodeId, until: &Position) -> Result<(), KvError> {
        let key = self.device_key(device);
        match self.position(kv, device)? {
            Some(ours) if ours.seq > until.seq => kv.put(Table::Sealed, &key, &(until.seq + 1).to_be_bytes()),
            Some(_) => kv.delete(Table::Sealed, &key),
            None => self.set_position(kv, device, until),
        }
    }

    /// Forgets that there was a checkpoint: of logs that are not all here what came before it stays, and the rest comes again.
    pub(crate) fn forget_checkpoint(self, kv: &mut impl Kv) -> Result<(), KvError> {
        for (device, unfilled) in self.unfilled(kv)? {
            let after = self.log_key(device, unfilled.at.map_or(0, |at| at.seq));
            while let Some((key, _)) = kv.scan(Table::Log, &self.device_key(device), Some(&after), 1)?.pop() {
                kv.delete(Table::Log, &key)?;
            }
            kv.delete(Table::Unfilled, &self.device_key(device))?;
        }
        Ok(())
    }

    /// Drops what is here of a device's log before a checkpoint: it ends otherwise than the checkpoint says, and comes from somebody else.
    pub fn unfill(self, kv: &mut impl Kv, device: NodeId) -> Result<(), KvError> {
        if let Some(Unfilled { at: Some(at), until }) = self.unfilled_of(kv, device)? {
            for seq in 1..=at.seq {
                kv.delete(Table::Log, &self.log_key(device, seq))?;
            }
            self.set_unfilled(kv, device, &Unfilled { at: None, until })?;
        }
        Ok(())
    }

    /// Makes and signs the next entry of this device; it is not stored yet.
    pub fn next_entry(self, kv: &impl Kv, key: &SigningKey, now: Timestamp, body: Body) -> Result<Logged, AppendError> {
        let latest = self
            .frontier(kv)?
            .values()
            .map(|position| position.clock.as_millis())
            .max()
            .unwrap_or(0);
        let position = self.position(kv, key.node_id())?;
        let entry = Entry {
            version: if body.area.is_some() { VERSION } else { VERSION_BEFORE },
            space: self.space,
            seq: position.map_or(1, |position| position.seq + 1),
            clock: Timestamp::from_millis(now.as_millis().max(latest + 1)),
            previous: position.map(|position| position.hash),
            pins: body.pins,
            unpins: body.unpins,
            sealed: ByteBuf::from(body.sealed),
            epoch: body.epoch,
            area: body.area,
            links: body.links,
            beside: None,
            erases: body.erases,
        };
        Ok(Logged::sign(key, entry)?)
    }

    /// Checks an entry against what is known of its device's log, and stores it with its pins; what it says is erased, is. Whether the device may
    /// write to the space, and may erase that, is the caller's question, also of [`Appended::erased_by`].
    pub fn append(self, kv: &mut impl Kv, logged: &Logged) -> Result<Appended, AppendError> {
        let (mut entry, device) = logged.open()?;
        if entry.space != self.space {
            return Err(AppendError::Foreign);
        }
        if checkpoint::takes_no_entries(kv, self.space)? {
            return Err(AppendError::Begun);
        }
        let position = self.position(kv, device)?;
        let next = position.map_or(1, |position| position.seq + 1);
        let hash = logged.hash();
        if (1..next).contains(&entry.seq) {
            return match self.entry(kv, device, entry.seq)? {
                Some(known) if known.hash() != hash => Err(AppendError::Fork { device, seq: entry.seq }),
                _ => Ok(Appended {
                    append: Append::Known,
                    entry,
                    device,
                    erased_by: None,
                }),
            };
        }
        if entry.seq != next {
            return Err(AppendError::Gap {
                device: device.short(),
                expected: next,
                found: entry.seq,
            });
        }
        if entry.previous != position.map(|position| position.hash) {
            return Err(AppendError::Fork { device, seq: entry.seq });
        }
        if entry.clock > CLOCK_MAX || position.is_some_and(|position| entry.clock <= position.clock) {
            return Err(AppendError::Clock {
                device: device.short(),
                seq: entry.seq,
            });
        }
        let log_key = self.log_key(device, entry.seq);
        let (mut kept, mut erased_by) = (logged.clone(), None);
        kept.erased_by = None;
        // Whoever has erased it before it came has said so in its area, and of one that can be, or has not erased it.
        let (mut is_erased, mut mistaken) = (false, Vec::new());
        for (key, row) in kv.scan(Table::Erased, &log_key, None, limits::POOL_NODES_MAX)? {
            match entry.is_erasable() && Self::notice(&row)?.area == entry.area {
                true => is_erased = true,
                false => mistaken.push(key),
            }
        }
        if is_erased {
            (kept.sealed, entry.sealed) = (None, ByteBuf::new());
        } else if entry.is_erasable() && entry.is_erased() {
            let (notice, said, by) = self.notice_of(logged, (device, entry.seq), entry.area)?;
            kv.put(
                Table::Erased,
                &self.erased_key(device, entry.seq, (by, entry.area)),
                &notice.to_bytes(),
            )?;
            erased_by = Some((said, by));
        }
        // Not before it is taken: the one that they mean may be another with this number.
        for key in mistaken {
            kv.delete(Table::Erased, &key)?;
        }
        kv.put(Table::Log, &log_key, &kept.to_bytes())?;
        let position = Position {
            seq: entry.seq,
            hash,
            clock: entry.clock,
        };
        self.set_position(kv, device, &position)?;
        Pins::of(self.space).apply(kv, &entry)?;
        Links::of(self.space).apply(kv, &entry, device)?;
        if let Some(EntryId { device: of, seq }) = entry.erases {
            self.erase(kv, (of, seq), (&kept, entry.seq, device), entry.area)?;
        }
        Ok(Appended {
            append: Append::New,
            entry,
            device,
            erased_by,
        })
    }

    /// Takes the next entry of a device's log before a [checkpoint](crate::Checkpoint). What it says is in the tables already, and is not heard again: until the last is here nobody knows whether these are
    /// the entries that the checkpoint stands for. One without its changes is taken where it is known that they are erased. Whether all of that log is here then.
    pub fn fill(self, kv: &mut impl Kv, device: NodeId, logged: &Logged) -> Result<bool, AppendError> {
        let (entry, by) = logged.open()?;
        if entry.space != self.space || by != device {
            return Err(AppendError::Foreign);
        }
        if checkpoint::is_begun(kv, self.space)? {
            return Err(AppendError::Begun);
        }
        let Some(Unfilled { at, until }) = self.unfilled_of(kv, device)? else {
            return Ok(true);
        };
        let next = at.map_or(1, |at| at.seq + 1);
        if entry.seq != next {
            return Err(AppendError::Gap {
                device: device.short(),
                expected: next,
                found: entry.seq,
            });
        }
        let here = Position {
            seq: entry.seq,
            hash: logged.hash(),
            clock: entry.clock,
        };
        let is_last = here.seq == until.seq;
        if entry.previous != at.map(|at| at.hash) || (is_last && here != until) {
            return Err(AppendError::Fork { device, seq: entry.seq });
        }
        if entry.clock > until.clock || at.is_some_and(|at| entry.clock <= at.clock) {
            return Err(AppendError::Clock {
                device: device.short(),
                seq: entry.seq,
            });
        }
        let key = self.log_key(device, entry.seq);
        let mut kept = logged.clone();
        kept.erased_by = None;
        if entry.is_erasable() && Self::first_notice(kv, &key)?.is_some() {
            kept.sealed = None;
        } else if entry.is_erased() {
            return Err(AppendError::Stripped {
                device: device.short(),
                seq: entry.seq,
            });
        }
        kv.put(Table::Log, &key, &kept.to_bytes())?;
        match is_last {
            true => kv.delete(Table::Unfilled, &self.device_key(device))?,
            false => self.set_unfilled(kv, device, &Unfilled { at: Some(here), until })?,
        }
        Ok(is_last)
    }

    /// The entry that comes with one as the proof that its changes are erased, and the device that has written it.
    fn notice_of(
        self,
        logged: &Logged,
        (device, seq): (NodeId, u64),
        area: Option<AreaId>,
    ) -> Result<(&Logged, Entry, NodeId), AppendError> {
        let stripped = || AppendError::Stripped {
            device: device.short(),
            seq,
        };
        let notice = logged.erased_by.as_deref().ok_or_else(stripped)?;
        let (said, by) = notice.open()?;
        let is_it = said.space == self.space && said.erases == Some(EntryId { device, seq });
        match is_it && said.area == area {
            true => Ok((notice, said, by)),
            false => Err(stripped()),
        }
    }

    /// Erases an entry's changes, now or when it comes.
    fn erase(
        self,
        kv: &mut impl Kv,
        (device, seq): (NodeId, u64),
        (notice, number, by): (&Logged, u64, NodeId),
        area: Option<AreaId>,
    ) -> Result<(), AppendError> {
        let key = self.log_key(device, seq);
        if let Some(row) = kv.get(Table::Log, &key)? {
            let mut known = Logged::from_bytes(&row)?;
            if known.signed.claimed()?.area != area {
                // Who was to hear it would not hear what is left of it.
                return Ok(());
            }
            let is_erased = Self::first_notice(kv, &key)?.is_some();
            if known.sealed.take().is_some() {
                kv.put(Table::Log, &key, &known.to_bytes())?;
                let waits_from = kv.get(Table::Sealed, &self.device_key(device))?;
                if waits_from.is_none_or(|first| first[..] > seq.to_be_bytes()[..]) {
                    // What they said has been heard here.
                    kv.put(Table::Restated, &key, &[])?;
                }
                // If it has erased another, what it said again of that is kept there, too.
                if let Some(EntryId { device: of, seq }) = known.open()?.0.erases {
                    let key = self.erased_key(of, seq, (device, area));
                    if kv
                        .get(Table::Erased, &key)?
                        .is_some_and(|row| Logged::from_bytes(&row).is_ok_and(|row| row.hash() == known.hash()))
                    {
                        kv.put(Table::Erased, &key, &known.to_bytes())?;
                    }
                }
            } else if !is_erased {
                // They are in what was signed.
                return Ok(());
            }
        } else if self.is_unfilled(kv, device, seq)? {
            // It is before a checkpoint, which has what it said.
            kv.put(Table::Restated, &key, &[])?;
        }
        let is_news = match self.erased_by(kv, (device, seq), (by, area))? {
            // What it said again may be erased itself by now.
            Some(known) => known.seq < number || (known.seq == number && notice.sealed.is_none()),
            None => true,
        };
        if is_news {
            let key = self.erased_key(device, seq, (by, area));
            kv.put(Table::Erased, &key, &notice.to_bytes())?;
        }
        Ok(())
    }

    /// The last entry of a device in an area, or in none, that says that the changes of another are erased, with what it says again of them, unless that is erased in its turn.
    pub fn erased_by(
        self,
        kv: &impl Kv,
        (device, seq): (NodeId, u64),
        by: (NodeId, Option<AreaId>),
    ) -> Result<Option<Entry>, KvError> {
        let row = kv.get(Table::Erased, &self.erased_key(device, seq, by))?;
        row.map(|row| Self::notice(&row)).transpose()
    }

    /// An entry of [`Table::Erased`]: it was checked when it was written.
    fn notice(row: &[u8]) -> Result<Entry, KvError> {
        Ok(Logged::from_bytes(row)?.checked_before()?)
    }

    /// All that say that the changes of an entry are erased, each of another device.
    pub fn notices(self, kv: &impl Kv, device: NodeId, seq: u64) -> Result<Vec<Entry>, KvError> {
        let rows = kv.scan(Table::Erased, &self.log_key(device, seq), None, limits::POOL_NODES_MAX)?;
        rows.iter().map(|(_, row)| Self::notice(row)).collect()
    }

    /// One entry that says that the changes of this row are erased, with what is left of them if that is to be had.
    fn first_notice(kv: &impl Kv, key: &[u8]) -> Result<Option<Logged>, KvError> {
        let rows = kv.scan(Table::Erased, key, None, limits::POOL_NODES_MAX)?;
        let mut first = None;
        for (_, row) in rows {
            let notice = Logged::from_bytes(&row)?;
            if notice.sealed.is_some() {
                return Ok(Some(notice));
            }
            first.get_or_insert(notice);
        }
        Ok(first)
    }

    /// Removes what is kept of the space, but its charter: others keep it. That is done in steps; whether nothing is left. First goes how far its logs are known, so that what is left
    /// meanwhile is given to nobody.
    pub fn let_go(self, kv: &mut impl Kv) -> Result<bool, KvError> {
        let others = Table::ALL
            .into_iter()
            .filter(|table| !matches!(table, Table::Charter | Table::Frontier));
        let mut left = LET_GO_ROWS;
        for table in [Table::Frontier].into_iter().chain(others) {
            let rows = kv.scan(table, self.space.as_bytes(), None, left)?;
            left -= rows.len();
            for (key, _) in rows {
                kv.delete(table, &key)?;
            }
            if left == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// One entry of a device.
    pub fn entry(self, kv: &impl Kv, device: NodeId, seq: u64) -> Result<Option<Logged>, KvError> {
        let key = self.log_key(device, seq);
        let row = kv.get(Table::Log, &key)?;
        row.map(|row| Self::read(kv, &key, &row)).transpose()
    }

    /// The entry of a row of [`Table::Log`].
    pub fn read(kv: &impl Kv, key: &[u8], row: &[u8]) -> Result<Logged, KvError> {
        let mut logged = Logged::from_bytes(row)?;
        if logged.sealed.is_none() {
            logged.erased_by = Self::first_notice(kv, key)?.map(Box::new);
        }
        Ok(logged)
    }

    /// Which area an entry is in, or that it is in none, and its clock, unless it is before a checkpoint; nothing when it is not known.
    pub(crate) fn area_of(
        self,
        kv: &impl Kv,
        device: NodeId,
        seq: u64,
    ) -> Result<Option<(Option<AreaId>, Timestamp)>, KvError> {
        let Some(row) = kv.get(Table::Log, &self.log_key(device, seq))? else {
            // Before a checkpoint there were no areas.
            let is_before = self.is_unfilled(kv, device, seq)?;
            return Ok(is_before.then(|| (None, Timestamp::default())));
        };
        let entry = Logged::from_bytes(&row)?.signed.claimed()?;
        Ok(Some((entry.area, entry.clock)))
    }

    /// The entries of a device after `seq`, up to a number and to about [`limits::APPEND_BYTES_MAX`] in all.
    pub fn entries_after(
        self,
        kv: &impl Kv,
        device: NodeId,
        seq: u64,
        entries_max: usize,
    ) -> Result<Vec<Logged>, KvError> {
        let prefix = self.device_key(device);
        let mut after = self.log_key(device, seq);
        let (mut found, mut bytes) = (Vec::new(), 0);
        while found.len() < entries_max && bytes < limits::APPEND_BYTES_MAX {
            let Some((key, row)) = kv.scan(Table::Log, &prefix, Some(&after), 1)?.pop() else {
                break;
            };
            // Of a log before a checkpoint not all may be here.
            let expected = seq + 1 + found.len() as u64;
            if key[64..] != expected.to_be_bytes() {
                break;
            }
            let logged = Self::read(kv, &key, &row)?;
            bytes += row.len() + logged.erased_by.as_ref().map_or(0, |by| by.to_bytes().len());
            found.push(logged);
            after = key;
        }
        Ok(found)
    }

    fn device_key(self, device: NodeId) -> Vec<u8> {
        [&self.space.as_bytes()[..], device.as_bytes()].concat()
    }

    fn log_key(self, device: NodeId, seq: u64) -> Vec<u8> {
        [&self.device_key(device)[..], &seq.to_be_bytes()].concat()
    }

    fn erased_key(self, device: NodeId, seq: u64, (by, area): (NodeId, Option<AreaId>)) -> Vec<u8> {
        let area = area.as_ref().map_or(&[][..], |area| area.as_bytes());
        [&self.log_key(device, seq)[..], by.as_bytes(), area].concat()
    }
}

/// The device in a key of a space and a device.
fn device_of(key: &[u8]) -> Result<NodeId, KvError> {
    let device = key.get(32..).and_then(|rest| rest.try_into().ok());
    let device = device.ok_or("a key of a space and a device is 64 bytes")?;
    Ok(NodeId::from_bytes(device))
}

/// The device and the number of an entry in a key that begins with the space and them.
pub(crate) fn log_number(key: &[u8]) -> Result<(NodeId, u64), KvError> {
    let number = || Some((key.get(..64)?, key.get(64..72)?.try_into().ok()?));
    let (start, seq) = number().ok_or("a key of an entry has at least 72 bytes")?;
    Ok((device_of(start)?, u64::from_be_bytes(seq)))
}

/// What goes into an entry.
#[derive(Clone, Default, Debug)]
pub struct Body {
    /// See [`Entry::pins`].
    pub pins: Vec<StripeId>,
    /// See [`Entry::unpins`].
    pub unpins: Vec<StripeId>,
    /// See [`Entry::sealed`].
    pub sealed: Vec<u8>,
    /// See [`Entry::epoch`].
    pub epoch: Option<EpochId>,
    /// See [`Entry::area`].
    pub area: Option<AreaId>,
    /// See [`Entry::links`].
    pub links: Vec<Publication>,
    /// See [`Entry::erases`].
    pub erases: Option<EntryId>,
}
