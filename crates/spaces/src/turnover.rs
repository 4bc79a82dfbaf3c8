//! How much was removed and overwritten when: counted by the minute of the entries' clocks, to tell when that is more than a person may have meant.

use crate::{Kv, KvError, RETENTION_MAX, Table};
use potluck_types::{SpaceId, Timestamp, from_canonical, to_canonical};
use serde::{Deserialize, Serialize};
use std::{collections::VecDeque, str::FromStr, time::Duration};

/// What is counted together.
pub const WINDOW: Duration = Duration::from_secs(3600);
/// The grain of the counts: a sixtieth of [`WINDOW`].
const MINUTE_MS: u64 = 60_000;
/// Minutes that are read at once.
const PAGE: usize = 1024;
/// A space with fewer files is looked after by eye: removing half of ten files is an everyday thing.
pub const FILES_MIN: u64 = 100;
/// Minutes whose counts are remembered: twice the longest retention, so that what is in the trash is never older than what is known of it.
const REMEMBERED: Duration = Duration::from_secs(2 * RETENTION_MAX.as_secs());

/// What part of a space's files may go within [`WINDOW`] without a question.
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Share(f64);

/// Why a number is no share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a share: write a number from 0 to 1, `0.5` for half; with 1 nothing is asked")]
pub struct ShareError(String);

impl Share {
    /// Half of them.
    pub const HALF: Self = Self(0.5);

    /// Whether so many of so many files are more than this.
    pub fn is_exceeded(self, replaced: u64, of: u64) -> bool {
        of >= FILES_MIN && replaced as f64 > self.0 * of as f64
    }
}

impl TryFrom<f64> for Share {
    type Error = ShareError;

    fn try_from(share: f64) -> Result<Self, ShareError> {
        if (0.0..=1.0).contains(&share) {
            Ok(Self(share))
        } else {
            Err(ShareError(share.to_string()))
        }
    }
}

impl From<Share> for f64 {
    fn from(share: Share) -> Self {
        share.0
    }
}

impl FromStr for Share {
    type Err = ShareError;

    fn from_str(text: &str) -> Result<Self, ShareError> {
        let share: f64 = text
            .trim()
            .parse()
            .map_err(|_| ShareError(text.chars().take(40).collect()))?;
        share.try_into()
    }
}

/// What one minute has seen.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Minute {
    /// File versions that were removed or overwritten.
    pub replaced: u64,
    /// Files that the space had afterwards.
    pub files: u64,
    /// The clock of the first entry that was counted.
    pub first: Timestamp,
}

/// More removed and overwritten within [`WINDOW`] than a share of all files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mass {
    /// The clock of the first entry that is part of it.
    pub since: Timestamp,
    /// When it ended: the minute that begins then is part of it.
    pub until: Timestamp,
    /// File versions.
    pub replaced: u64,
    /// Files that there were before.
    pub of: u64,
}

impl Mass {
    /// Whether what was removed at this clock is part of it.
    pub fn covers(&self, clock: Timestamp) -> bool {
        self.since <= clock && minute_of(clock) <= self.until
    }
}

/// The counts of one space. They are this node's own: which of two devices removed a file first is not the same everywhere.
#[derive(Clone, Copy, Debug)]
pub struct Turnover {
    space: SpaceId,
}

impl Turnover {
    /// The counts of this space.
    pub fn of(space: SpaceId) -> Self {
        Self { space }
    }

    /// Counts what an entry with this clock has replaced; `files` are those that there are now.
    pub(crate) fn add(self, kv: &mut impl Kv, clock: Timestamp, replaced: u64, files: u64) -> Result<(), KvError> {
        let key = self.key(minute_of(clock));
        let known = kv.get(Table::Turnover, &key)?;
        let known: Option<Minute> = known.map(|row| from_canonical(&row)).transpose()?;
        let minute = Minute {
            replaced: known.map_or(0, |known| known.replaced) + replaced,
            files,
            first: known.map_or(clock, |known| known.first.min(clock)),
        };
        kv.put(Table::Turnover, &key, &to_canonical(&minute))
    }

    /// What was replaced within [`WINDOW`] up to a clock, and after another.
    pub fn lately(self, kv: &impl Kv, now: Timestamp, after: Timestamp) -> Result<u64, KvError> {
        let since = now.as_millis().saturating_sub(WINDOW.as_millis() as u64);
        let from = Timestamp::from_millis(since.max(after.as_millis()));
        let mut replaced = 0;
        self.each_after(kv, from, |_, minute| replaced += minute.replaced)?;
        Ok(replaced)
    }

    /// Where more than this share was replaced, after a clock.
    pub fn masses(self, kv: &impl Kv, after: Timestamp, share: Share) -> Result<Vec<Mass>, KvError> {
        let mut masses = Masses::of(share);
        self.each_after(kv, after, |at, minute| masses.add(at, minute))?;
        Ok(masses.found)
    }

    /// Forgets what is too old to matter.
    pub fn forget(self, kv: &mut impl Kv, now: Timestamp) -> Result<(), KvError> {
        let limit = now.as_millis().saturating_sub(REMEMBERED.as_millis() as u64);
        while let Some((key, _)) = kv.scan(Table::Turnover, self.space.as_bytes(), None, 1)?.pop() {
            if read_minute(&key)? >= limit {
                break;
            }
            kv.delete(Table::Turnover, &key)?;
        }
        Ok(())
    }

    /// The minutes that begin after a clock, in order.
    fn each_after(
        self,
        kv: &impl Kv,
        clock: Timestamp,
        mut each: impl FnMut(Timestamp, Minute),
    ) -> Result<(), KvError> {
        let mut after = self.key(clock);
        loop {
            let rows = kv.scan(Table::Turnover, self.space.as_bytes(), Some(&after), PAGE)?;
            let Some((last, _)) = rows.last() else {
                return Ok(());
            };
            after.clone_from(last);
            for (key, row) in rows {
                each(Timestamp::from_millis(read_minute(&key)?), from_canonical(&row)?);
            }
        }
    }

    fn key(self, minute: Timestamp) -> Vec<u8> {
        [&self.space.as_bytes()[..], &minute.as_millis().to_be_bytes()].concat()
    }
}

fn minute_of(clock: Timestamp) -> Timestamp {
    Timestamp::from_millis(clock.as_millis() / MINUTE_MS * MINUTE_MS)
}

fn read_minute(key: &[u8]) -> Result<u64, KvError> {
    let bytes = key.get(32..).and_then(|bytes| bytes.try_into().ok());
    Ok(u64::from_be_bytes(bytes.ok_or("a minute's key is 40 bytes")?))
}

/// Slides [`WINDOW`] over the minutes.
struct Masses {
    share: Share,
    window: VecDeque<(Timestamp, Minute)>,
    replaced: u64,
    found: Vec<Mass>,
}

impl Masses {
    fn of(share: Share) -> Self {
        Self {
            share,
            window: VecDeque::new(),
            replaced: 0,
            found: Vec::new(),
        }
    }

    fn add(&mut self, at: Timestamp, minute: Minute) {
        while let Some((first, old)) = self.window.front()
            && at.since(*first) >= WINDOW
        {
            self.replaced -= old.replaced;
            self.window.pop_front();
        }
        self.window.push_back((at, minute));
        self.replaced += minute.replaced;
        if let Some((begun, mass)) = self.now(at, minute.files) {
            match self.found.last_mut().filter(|last| begun <= last.until) {
                Some(last) => {
                    (last.replaced, last.until) = (last.replaced + minute.replaced, at);
                    last.of = last.of.max(mass.of);
                }
                None => self.found.push(mass),
            }
        }
    }

    /// The last minutes of the window that are still too much together, and when the first of them begins: what went before had nothing to do with it.
    fn now(&self, at: Timestamp, files: u64) -> Option<(Timestamp, Mass)> {
        let (mut replaced, mut narrowest) = (self.replaced, None);
        for (begun, minute) in &self.window {
            let of = files + replaced;
            if !self.share.is_exceeded(replaced, of) {
                break;
            }
            let mass = Mass {
                since: minute.first,
                until: at,
                replaced,
                of,
            };
            narrowest = Some((*begun, mass));
            replaced -= minute.replaced;
        }
        narrowest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryKv;

    const SPACE: SpaceId = SpaceId::from_bytes([9; 32]);

    fn at(minute: u64) -> Timestamp {
        Timestamp::from_millis(minute * MINUTE_MS + 7)
    }

    fn counted(minutes: &[(u64, u64, u64)]) -> MemoryKv {
        let mut kv = MemoryKv::default();
        for (minute, replaced, files) in minutes {
            Turnover::of(SPACE)
                .add(&mut kv, at(*minute), *replaced, *files)
                .unwrap();
        }
        kv
    }

    fn masses(minutes: &[(u64, u64, u64)]) -> Vec<(u64, u64, u64, u64)> {
        let kv = counted(minutes);
        let found = Turnover::of(SPACE)
            .masses(&kv, Timestamp::default(), Share::HALF)
            .unwrap();
        let minute = |at: Timestamp| at.as_millis() / MINUTE_MS;
        found
            .iter()
            .map(|mass| (minute(mass.since), minute(mass.until), mass.replaced, mass.of))
            .collect()
    }

    #[test]
    fn what_adds_up_within_an_hour_is_a_mass_and_what_takes_longer_is_none() {
        assert_eq!(masses(&[(10, 501, 499)]), [(10, 10, 501, 1000)]);
        assert_eq!(masses(&[(10, 500, 500)]), []);
        assert_eq!(masses(&[(10, 300, 700), (40, 300, 400)]), [(10, 40, 600, 1000)]);
        assert_eq!(masses(&[(10, 300, 700), (70, 300, 400)]), []);
        assert_eq!(masses(&[(10, 60, 30)]), []);
        // It goes on for longer than an hour.
        let long = [(10, 600, 400), (50, 100, 300), (100, 200, 100)];
        assert_eq!(masses(&long), [(10, 50, 700, 1000), (100, 100, 200, 300)]);
        // What went before has nothing to do with it.
        assert_eq!(masses(&[(10, 3, 997), (30, 600, 397)]), [(30, 30, 600, 997)]);
        assert_eq!(masses(&[(10, 600, 400), (500, 300, 100)]).len(), 2);
    }

    #[test]
    fn what_was_accepted_counts_no_more() {
        let kv = counted(&[(10, 600, 400), (20, 10, 390)]);
        let turnover = Turnover::of(SPACE);
        assert_eq!(turnover.lately(&kv, at(30), Timestamp::default()).unwrap(), 610);
        assert_eq!(turnover.lately(&kv, at(30), at(10)).unwrap(), 10);
        assert_eq!(turnover.lately(&kv, at(75), Timestamp::default()).unwrap(), 10);
        assert_eq!(turnover.masses(&kv, at(10), Share::HALF).unwrap(), []);
    }

    #[test]
    fn old_minutes_are_forgotten() {
        let mut kv = counted(&[(10, 1, 1), (20, 1, 1)]);
        let later = at(15) + REMEMBERED;
        Turnover::of(SPACE).forget(&mut kv, later).unwrap();
        assert_eq!(kv.0.len(), 1);
    }

    #[test]
    fn a_share_is_a_part_of_one() {
        for wrong in [-0.1, 1.1, f64::NAN] {
            assert!(Share::try_from(wrong).is_err(), "{wrong}");
        }
        let all = Share::try_from(1.0).unwrap();
        assert!(!all.is_exceeded(1000, 1000));
        assert!(Share::try_from(0.0).unwrap().is_exceeded(1, 100));
    }
}
