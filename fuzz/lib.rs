//! What several targets use: nodes that run as long as the fuzzer does.

use potluck::fuzzing::Daemon;
use potluck_node::fuzzing::Server;
use std::sync::OnceLock;
use tempfile::TempDir;

/// A node that is asked over the protocols of the pool.
pub fn server() -> &'static Server {
    static SERVER: OnceLock<(Server, TempDir)> = OnceLock::new();
    &SERVER
        .get_or_init(|| with_home(|folder| Server::start(folder.path())))
        .0
}

/// A node that is asked over the local socket.
pub fn daemon() -> &'static Daemon {
    static DAEMON: OnceLock<(Daemon, TempDir)> = OnceLock::new();
    &DAEMON
        .get_or_init(|| with_home(|folder| Daemon::start(folder.path())))
        .0
}

fn with_home<T>(start: impl FnOnce(&TempDir) -> T) -> (T, TempDir) {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    (start(&folder), folder)
}
