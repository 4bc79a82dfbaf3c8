//! The memory that the nodes of histories take, beside what is on their disks.

use cap::Cap;
use mimalloc::MiMalloc;
use potluck_store::memory_of_disks;
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

/// A history is mostly small blocks that come and go: less time than with the system's allocator. They are counted, and not limited.
#[global_allocator]
static ALLOCATOR: Cap<MiMalloc> = Cap::new(MiMalloc, usize::MAX);

/// What the nodes of all histories that are being told may take.
static LIMIT: AtomicUsize = AtomicUsize::new(0);

/// How often it is looked.
pub(crate) const LOOK: Duration = Duration::from_secs(30);

/// What all nodes of a history take at most: what is usual for each machine, and what a hostile peer may cost besides.
const MACHINE_MAX: usize = 8 << 20;
const HOSTILE_MAX: usize = 128 << 20;

/// Watches the memory while a history is told. Blocks are counted for the whole process: several histories may take what each of them may.
pub(crate) struct Watch {
    limit: usize,
    peak: usize,
}

impl Watch {
    pub(crate) fn begin(machines: usize) -> Self {
        let limit = machines * MACHINE_MAX + HOSTILE_MAX;
        LIMIT.fetch_add(limit, Ordering::Relaxed);
        Self { limit, peak: 0 }
    }

    /// Says how much it is, if that is too much.
    pub(crate) fn look(&mut self) -> Result<(), String> {
        let all = ALLOCATOR.allocated().saturating_sub(memory_of_disks());
        self.peak = self.peak.max(all);
        let limit = LIMIT.load(Ordering::Relaxed);
        match all > limit {
            true => Err(format!(
                "the nodes of all histories of this process take {} MB of memory, and may take {}; whose they are is told with `--jobs 1`",
                all >> 20,
                limit >> 20
            )),
            false => Ok(()),
        }
    }

    /// The most that was seen in the process, bytes.
    pub(crate) fn peak(&self) -> usize {
        self.peak
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        LIMIT.fetch_sub(self.limit, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_seen_and_what_is_too_much_is_told() {
        let mut watch = Watch::begin(1);
        watch.look().unwrap();
        // Other tests may tell histories beside this one. It is never written to, and so takes none.
        let kept = Vec::<u8>::with_capacity(2 * LIMIT.load(Ordering::Relaxed));
        let told = watch.look().unwrap_err();
        assert!(told.contains("MB of memory"), "{told}");
        assert!(watch.peak() > watch.limit && kept.is_empty());
    }
}
