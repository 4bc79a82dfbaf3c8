//! What is live: the public half of the entries. Custodians answer holders from it.

use crate::{Entry, Kv, KvError, Table};
use potluck_types::{
    SpaceId, StripeId, Timestamp, from_canonical,
    sabotage::{self, Bug},
    to_canonical,
};
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

/// When a stripe was last pinned and unpinned, as far as some logs say. What two replicas know adds up to more than either.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct PinState {
    pinned: Option<Timestamp>,
    unpinned: Option<Timestamp>,
}

impl PinState {
    /// What both know together.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        Self {
            pinned: self.pinned.max(other.pinned),
            unpinned: self.unpinned.max(other.unpinned),
        }
    }

    /// When it was last pinned.
    pub fn pinned(self) -> Option<Timestamp> {
        self.pinned
    }

    /// The later clock decides, and a tie leaves the stripe live.
    pub fn liveness(self) -> Liveness {
        match self {
            Self {
                pinned: None,
                unpinned: None,
            } => Liveness::Unknown,
            Self {
                pinned,
                unpinned: Some(unpinned),
            } if pinned.is_none_or(|pinned| pinned < unpinned) => Liveness::Dead,
            _ => Liveness::Live,
        }
    }
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

    /// Takes an entry's pins and unpins into account, in whatever order entries come.
    pub(crate) fn apply(self, kv: &mut impl Kv, entry: &Entry) -> Result<(), KvError> {
        let at = Some(entry.clock);
        for stripe in &entry.pins {
            self.add(
                kv,
                *stripe,
                PinState {
                    pinned: at,
                    unpinned: None,
                },
            )?;
        }
        if sabotage::is_planted(Bug::DropUnpin) {
            return Ok(());
        }
        for stripe in &entry.unpins {
            self.add(
                kv,
                *stripe,
                PinState {
                    pinned: None,
                    unpinned: at,
                },
            )?;
        }
        Ok(())
    }

    fn add(self, kv: &mut impl Kv, stripe: StripeId, news: PinState) -> Result<(), KvError> {
        let state = self.state(kv, stripe)?.merge(news);
        kv.put(Table::Pins, &self.key(stripe), &to_canonical(&state))
    }

    /// What the logs known here say of a stripe.
    pub fn state(self, kv: &impl Kv, stripe: StripeId) -> Result<PinState, KvError> {
        let row = kv.get(Table::Pins, &self.key(stripe))?;
        row.map_or_else(|| Ok(PinState::default()), |row| Ok(from_canonical(&row)?))
    }

    /// Stripes that the logs name, in order, after a stripe, up to a number.
    pub fn list(
        self,
        kv: &impl Kv,
        after: Option<StripeId>,
        limit: usize,
    ) -> Result<Vec<(StripeId, PinState)>, KvError> {
        let after = after.map(|stripe| self.key(stripe));
        let rows = kv.scan(Table::Pins, self.space.as_bytes(), after.as_deref(), limit)?;
        rows.into_iter()
            .map(|(key, row)| {
                let stripe: [u8; 32] = key[32..].try_into().map_err(|_| "a pin's key is 64 bytes")?;
                Ok((StripeId::from_bytes(stripe), from_canonical(&row)?))
            })
            .collect()
    }

    fn key(self, stripe: StripeId) -> Vec<u8> {
        [&self.space.as_bytes()[..], stripe.as_bytes()].concat()
    }
}
