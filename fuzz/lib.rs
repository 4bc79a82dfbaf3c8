//! What several targets use: nodes that run as long as the fuzzer does.

use potluck::fuzzing::Daemon;
use potluck_crypto::{SigningKey, Speaker, Speakers, UserKeys};
use potluck_node::fuzzing::Server;
use potluck_spaces::{Charter, Machines};
use potluck_types::{Entropy, NodeId, Timestamp};
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

/// Always the same.
pub struct Sevens;

impl Entropy for Sevens {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(7);
    }
}

/// Machines that have no names.
pub struct Nameless;

impl Machines for Nameless {
    fn called(&self, machine: NodeId) -> String {
        machine.short()
    }
}

/// A space that was founded, and whose it is, by the first of two keys: the same each time.
pub fn founded() -> (UserKeys, Charter) {
    let mut owner = UserKeys::new(SigningKey::from_seed(&[1; 32]));
    let (next, user) = (SigningKey::from_seed(&[2; 32]), owner.id());
    let speakers = Speakers::of([(next.public(), Speaker { user, generation: 1 })]);
    let charter = Charter::found(&owner, &speakers, Timestamp::from_millis(1), &Sevens);
    owner.push(next);
    (owner, charter.expect("a good key"))
}

fn with_home<T>(start: impl FnOnce(&TempDir) -> T) -> (T, TempDir) {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    (start(&folder), folder)
}
