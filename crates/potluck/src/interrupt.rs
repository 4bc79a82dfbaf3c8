//! What is tidied up when a person presses Ctrl-C.

use std::thread;
use tokio::signal::unix::{SignalKind, signal};

/// The exit codes of a process that Ctrl-C ended, and of one that was terminated, as shells have them.
const INTERRUPTED: i32 = 130;
const TERMINATED: i32 = 143;

/// Does this, and ends the process, at Ctrl-C and when it is terminated, from now on.
pub(crate) fn on_interrupt(tidy: impl FnOnce() + Send + 'static) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return;
    };
    let signals = {
        let _context = runtime.enter();
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    };
    let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
        return;
    };
    thread::spawn(move || {
        let code = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => INTERRUPTED,
                _ = terminate.recv() => TERMINATED,
            }
        });
        tidy();
        std::process::exit(code);
    });
}
