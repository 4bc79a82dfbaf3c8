//! What a daemon tells the allocator of the C library; others take no notice.

use std::{env, os::unix::process::CommandExt, process::Command, thread};

/// The heaps that glibc's threads share, read when a process starts.
const HEAPS: &str = "MALLOC_ARENA_MAX";
/// One for each core, within these.
const HEAPS_MIN: usize = 2;
const HEAPS_MAX: usize = 8;
/// Freed blocks up to this stay with the process. More than a window of a file that is put, less than the 32 MiB at which glibc
/// stops to learn.
const KEPT_BLOCK_BYTES: usize = 24 << 20;

/// Lets the threads of this process share as many heaps as there are cores. glibc makes eight for each core, and what one thread frees stays in its
/// heap: the sixty that read and write made twice to three times as much resident as was in use. It reads this when a process starts, so this one
/// begins again, once: same process id, same arguments, nothing read yet.
pub(crate) fn share() {
    let is_glibc = cfg!(all(target_os = "linux", target_env = "gnu"));
    if !is_glibc || env::var_os(HEAPS).is_some() {
        return;
    }
    let heaps = thread::available_parallelism().map_or(HEAPS_MIN, |cores| cores.get().clamp(HEAPS_MIN, HEAPS_MAX));
    let mut arguments = env::args_os();
    let (Some(name), Ok(program)) = (arguments.next(), env::current_exe()) else {
        return;
    };
    let error = Command::new(program)
        .arg0(name)
        .args(arguments)
        .env(HEAPS, heaps.to_string())
        .exec();
    tracing::debug!(%error, "more memory is used than must be");
}

/// Keeps the allocator from giving every large block back to the system, which zeroes it, page by page, for the next that asks: a
/// twelfth of what a put takes in the kernel. glibc counts as large what is larger than the largest block that it gave back so far, so it gets one to
/// give back.
pub(crate) fn keep_freed_blocks() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(KEPT_BLOCK_BYTES)));
}
