//! Seeds in several threads.

use std::{
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Works on each seed, in so many threads, and takes what comes of it, one after the other, in no order.
pub(crate) fn each_seed<T>(
    seeds: Range<u64>,
    jobs: usize,
    work: impl Fn(u64) -> T + Sync,
    take: impl FnMut(u64, T) + Send,
) {
    let (next, take) = (AtomicU64::new(seeds.start), Mutex::new(take));
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let done = work(seed);
                    take.lock().unwrap_or_else(PoisonError::into_inner)(seed, done);
                }
            });
        }
    });
}
