//! The log of one device in a space: signed entries, each naming the hash of the one before.
//!
//! An entry's changes are sealed; public are its place in the log, its clock, the stripes that it pins and
//! unpins, and what links show, which is sealed for who has them. So a custodian that cannot read the space still checks, keeps and serves it, and knows what is live.

use crate::{EpochId, Kv, KvError, Links, Pins, Publication, Table};
use potluck_crypto::{Record, Signed, SignedError, SigningKey};
use potluck_types::{Hash, NodeId, SpaceId, StripeId, Timestamp, from_canonical, limits, to_canonical};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::collections::BTreeMap;

/// The version of what is written.
const VERSION: u8 = 2;
/// The version before did not compress changes; it has no other form.
const VERSION_BEFORE: u8 = 1;

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
    /// The [`Change`](crate::Change)s, for those who hold the space's key.
    pub sealed: ByteBuf,
    /// Under which key they are sealed; none in a space that has but one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<EpochId>,
    /// What links show from now on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Publication>,
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
    #[error("device {device} has signed two different entries {seq}: its home was copied or restored from a backup")]
    Fork {
        /// The device's short id.
        device: String,
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
            .map(|(key, value)| {
                let device: [u8; 32] = key[32..].try_into().map_err(|_| "a frontier key is 64 bytes")?;
                Ok((NodeId::from_bytes(device), from_canonical(&value)?))
            })
            .collect()
    }

    /// How far the log of a device is known; none when nothing of it is.
    pub fn position(self, kv: &impl Kv, device: NodeId) -> Result<Option<Position>, KvError> {
        let key = [&self.space.as_bytes()[..], device.as_bytes()].concat();
        kv.get(Table::Frontier, &key)?
            .map(|value| Ok(from_canonical(&value)?))
            .transpose()
    }

    /// Makes and signs the next entry of this device; it is not stored yet.
    pub fn next_entry(
        self,
        kv: &impl Kv,
        key: &SigningKey,
        now: Timestamp,
        body: Body,
    ) -> Result<Signed<Entry>, AppendError> {
        let latest = self
            .frontier(kv)?
            .values()
            .map(|position| position.clock.as_millis())
            .max()
            .unwrap_or(0);
        let position = self.position(kv, key.node_id())?;
        let entry = Entry {
            version: VERSION,
            space: self.space,
            seq: position.map_or(1, |position| position.seq + 1),
            clock: Timestamp::from_millis(now.as_millis().max(latest + 1)),
            previous: position.map(|position| position.hash),
            pins: body.pins,
            unpins: body.unpins,
            sealed: ByteBuf::from(body.sealed),
            epoch: body.epoch,
            links: body.links,
        };
        Ok(Signed::sign(key, &entry)?)
    }

    /// Checks an entry against what is known of its device's log, and stores it with its pins. Whether the device may
    /// write to the space is the caller's question.
    pub fn append(self, kv: &mut impl Kv, signed: &Signed<Entry>) -> Result<(Append, Entry, NodeId), AppendError> {
        let verified = signed.open()?;
        let device = NodeId::from_bytes(*verified.signer().as_bytes());
        let entry = verified.into_value();
        if entry.space != self.space || !(VERSION_BEFORE..=VERSION).contains(&entry.version) {
            return Err(AppendError::Foreign);
        }
        let position = self.position(kv, device)?;
        let next = position.map_or(1, |position| position.seq + 1);
        let log_key = |seq: u64| [&self.space.as_bytes()[..], device.as_bytes(), &seq.to_be_bytes()].concat();
        let bytes = signed.to_bytes();
        if (1..next).contains(&entry.seq) {
            return match kv.get(Table::Log, &log_key(entry.seq))? {
                Some(known) if known != bytes => Err(AppendError::Fork {
                    device: device.short(),
                    seq: entry.seq,
                }),
                _ => Ok((Append::Known, entry, device)),
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
            return Err(AppendError::Fork {
                device: device.short(),
                seq: entry.seq,
            });
        }
        if entry.clock > CLOCK_MAX || position.is_some_and(|position| entry.clock <= position.clock) {
            return Err(AppendError::Clock {
                device: device.short(),
                seq: entry.seq,
            });
        }
        kv.put(Table::Log, &log_key(entry.seq), &bytes)?;
        let position = Position {
            seq: entry.seq,
            hash: Hash::of(&bytes),
            clock: entry.clock,
        };
        let key = [&self.space.as_bytes()[..], device.as_bytes()].concat();
        kv.put(Table::Frontier, &key, &to_canonical(&position))?;
        Pins::of(self.space).apply(kv, &entry)?;
        Links::of(self.space).apply(kv, &entry, device)?;
        Ok((Append::New, entry, device))
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

    /// One entry of a device, as it was signed.
    pub fn entry(self, kv: &impl Kv, device: NodeId, seq: u64) -> Result<Option<Vec<u8>>, KvError> {
        kv.get(
            Table::Log,
            &[&self.space.as_bytes()[..], device.as_bytes(), &seq.to_be_bytes()].concat(),
        )
    }

    /// The entries of a device after `seq`, as they were signed, up to a number and to about [`limits::APPEND_BYTES_MAX`] in all.
    pub fn entries_after(
        self,
        kv: &impl Kv,
        device: NodeId,
        seq: u64,
        entries_max: usize,
    ) -> Result<Vec<Vec<u8>>, KvError> {
        let prefix = [&self.space.as_bytes()[..], device.as_bytes()].concat();
        let mut after = [&prefix[..], &seq.to_be_bytes()].concat();
        let (mut found, mut bytes) = (Vec::new(), 0);
        while found.len() < entries_max && bytes < limits::APPEND_BYTES_MAX {
            let Some((key, value)) = kv.scan(Table::Log, &prefix, Some(&after), 1)?.pop() else {
                break;
            };
            bytes += value.len();
            found.push(value);
            after = key;
        }
        Ok(found)
    }
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
    /// See [`Entry::links`].
    pub links: Vec<Publication>,
}
