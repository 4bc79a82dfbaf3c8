//! What simulated nodes stand on: time, chance, and the diary in which all that happens is written down.

use potluck_types::{Clock, Dice, Entropy, Timestamp};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicI64, Ordering},
};
use tokio::time::Instant;

/// When simulated time begins: 2026-01-01.
const EPOCH_MILLIS: u64 = 1_767_225_600_000;

/// What a lock holds, also after a panic elsewhere: that is a violation, and told as one.
pub(crate) fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stream of chances of its own for each purpose: streams of one seed have nothing to do with each other.
pub(crate) fn dice(seed: u64, purpose: &str, number: u64) -> Dice {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(&number.to_le_bytes());
    hasher.update(purpose.as_bytes());
    let hash = hasher.finalize();
    Dice(u64::from_le_bytes(
        hash.as_bytes()[..8].try_into().expect("eight bytes"),
    ))
}

/// A machine's clock: it may be set, and go wrong.
#[derive(Debug)]
pub(crate) struct SimClock {
    begun: Instant,
    offset_millis: AtomicI64,
    /// Parts in a million that it goes too fast.
    drift: AtomicI64,
}

impl SimClock {
    pub(crate) fn new(begun: Instant) -> Self {
        Self {
            begun,
            offset_millis: AtomicI64::new(0),
            drift: AtomicI64::new(0),
        }
    }

    pub(crate) fn jump(&self, millis: i64) {
        self.offset_millis.store(millis, Ordering::Relaxed);
    }

    pub(crate) fn drift(&self, parts_per_million: i64) {
        self.drift.store(parts_per_million, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let passed = i64::try_from(self.begun.elapsed().as_millis()).unwrap_or(i64::MAX);
        let drifted = passed / 1_000_000 * self.drift.load(Ordering::Relaxed);
        let since = passed + drifted + self.offset_millis.load(Ordering::Relaxed);
        Timestamp::from_millis(EPOCH_MILLIS.saturating_add_signed(since))
    }
}

/// A machine's randomness.
#[derive(Debug)]
pub(crate) struct SimEntropy(Mutex<Dice>);

impl SimEntropy {
    pub(crate) fn new(dice: Dice) -> Self {
        Self(Mutex::new(dice))
    }
}

impl Entropy for SimEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        let mut dice = lock(&self.0);
        for part in buffer.chunks_mut(8) {
            let bytes = dice.roll(u64::MAX).to_le_bytes();
            part.copy_from_slice(&bytes[..part.len()]);
        }
    }
}

/// All that happens, in order, with its time: what is told of a seed, and by which two runs of it are compared.
#[derive(Clone, Debug)]
pub(crate) struct Diary(Arc<Mutex<Pages>>);

#[derive(Debug)]
struct Pages {
    begun: Instant,
    hasher: blake3::Hasher,
    lines: u64,
    /// Whether lines are printed as they come.
    aloud: bool,
}

impl Diary {
    pub(crate) fn new(begun: Instant, aloud: bool) -> Self {
        Self(Arc::new(Mutex::new(Pages {
            begun,
            hasher: blake3::Hasher::new(),
            lines: 0,
            aloud,
        })))
    }

    /// Writes a line that a reader wants to see.
    pub(crate) fn tell(&self, line: &str) {
        let mut pages = lock(&self.0);
        let at = pages.begun.elapsed();
        pages.note(line.as_bytes());
        if pages.aloud {
            let seconds = at.as_secs();
            let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
            let (minutes, seconds) = (seconds / 60 % 60, at.as_secs_f64() % 60.0);
            print_line(&format!("{days:>3}d {hours:02}:{minutes:02}:{seconds:06.3}  {line}"));
        }
    }

    /// Writes what only a comparison sees.
    pub(crate) fn note(&self, what: &[u8]) {
        lock(&self.0).note(what);
    }

    /// How many lines there are, and the hash of all of them.
    pub(crate) fn close(&self) -> (u64, String) {
        let pages = lock(&self.0);
        (pages.lines, pages.hasher.finalize().to_hex().to_string())
    }
}

impl Pages {
    fn note(&mut self, what: &[u8]) {
        let at = u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.hasher.update(&at.to_le_bytes());
        self.hasher.update(&(what.len() as u64).to_le_bytes());
        self.hasher.update(what);
        self.lines += 1;
    }
}

#[allow(clippy::print_stdout, reason = "this is a program for a terminal")]
fn print_line(line: &str) {
    println!("{line}");
}
