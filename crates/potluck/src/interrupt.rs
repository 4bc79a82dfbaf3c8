//! What is tidied up when a person presses Ctrl-C.

use std::{sync::Mutex, thread};
use tokio::signal::unix::{SignalKind, signal};

type Tidy = Box<dyn FnOnce() + Send>;

/// The exit code of a process that Ctrl-C ended, as shells have it.
const INTERRUPTED: i32 = 130;

/// Does this, and ends the process, at Ctrl-C and when it is terminated.
pub(crate) fn on_interrupt(tidy: impl FnOnce() + Send + 'static) {
    let tidy: Mutex<Option<Tidy>> = Mutex::new(Some(Box::new(tidy)));
    thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
            return;
        };
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
            if let Some(tidy) = tidy.lock().ok().and_then(|mut tidy| tidy.take()) {
                tidy();
            }
            std::process::exit(INTERRUPTED);
        });
    });
}
