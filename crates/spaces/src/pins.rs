//! What is live: the public half of the entries. Custodians answer holders from it.

use crate::{Entry, Kv, KvError, Table};
use potluck_types::{SpaceId, StripeId, Timestamp, from_canonical, to_canonical};
use serde::{Deserialize, Serialize};

/// What the known logs say of a stripe.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Liveness {
    /// A file uses it.
    Live,
    /// It was live once, and was then given up: its shards may go.
    Dead,
    /// No entry has named it: an upload under way, or one that never ended.
    Unknown,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Row {
    pinned: Option<Timestamp>,
    unpinned: Option<Timestamp>,
}

/// The pins of one space.
#[derive(Clone, Copy, Debug)]
pub struct Pins {
    space: SpaceId,
}

impl Pins {
    /// The pins of this space.
    pub fn of(space: SpaceId) -> Self {
        Self { space }
    }

    /// Takes an entry's pins and unpins into account. The later clock decides, and a tie leaves the stripe live; so the order of arrival
    /// does not matter.
    pub(crate) fn apply(self, kv: &mut impl Kv, entry: &Entry) -> Result<(), KvError> {
        let later = |old: Option<Timestamp>| Some(old.map_or(entry.clock, |old| old.max(entry.clock)));
        for stripe in &entry.pins {
            let row = self.row(kv, *stripe)?;
            self.set(
                kv,
                *stripe,
                Row {
                    pinned: later(row.pinned),
                    ..row
                },
            )?;
        }
        for stripe in &entry.unpins {
            let row = self.row(kv, *stripe)?;
            self.set(
                kv,
                *stripe,
                Row {
                    unpinned: later(row.unpinned),
                    ..row
                },
            )?;
        }
        Ok(())
    }

    /// What the known logs say of a stripe.
    pub fn liveness(self, kv: &impl Kv, stripe: StripeId) -> Result<Liveness, KvError> {
        Ok(match self.row(kv, stripe)? {
            Row {
                pinned: None,
                unpinned: None,
            } => Liveness::Unknown,
            Row {
                pinned,
                unpinned: Some(unpinned),
            } if pinned.is_none_or(|pinned| pinned < unpinned) => Liveness::Dead,
            _ => Liveness::Live,
        })
    }

    fn key(self, stripe: StripeId) -> Vec<u8> {
        [&self.space.as_bytes()[..], stripe.as_bytes()].concat()
    }

    fn row(self, kv: &impl Kv, stripe: StripeId) -> Result<Row, KvError> {
        let row = kv.get(Table::Pins, &self.key(stripe))?;
        row.map_or_else(|| Ok(Row::default()), |row| Ok(from_canonical(&row)?))
    }

    fn set(self, kv: &mut impl Kv, stripe: StripeId, row: Row) -> Result<(), KvError> {
        kv.put(Table::Pins, &self.key(stripe), &to_canonical(&row))
    }
}
