//! What several targets use: nodes that run as long as the fuzzer does.

use potluck::fuzzing::Daemon;
use potluck_crypto::{SigningKey, Speaker, Speakers, UserKeys};
use potluck_node::fuzzing::Server;
use potluck_spaces::{AreaId, Charter, DirId, GrantTo, Machines, Reader};
use potluck_types::{Entropy, NodeId, Timestamp};
use std::{collections::BTreeSet, sync::OnceLock};
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

/// One who was let into [`founded`], and may let others in.
pub fn guest() -> UserKeys {
    UserKeys::new(SigningKey::from_seed(&[3; 32]))
}

/// One who was let into a directory of it alone.
pub fn let_into_a_directory() -> UserKeys {
    UserKeys::new(SigningKey::from_seed(&[6; 32]))
}

/// A space that was founded, and whose it is, by the first of two keys: the same each time.
pub fn founded() -> (UserKeys, Charter) {
    let mut owner = UserKeys::new(SigningKey::from_seed(&[1; 32]));
    let (next, user) = (SigningKey::from_seed(&[2; 32]), owner.id());
    let speakers = Speakers::of([(next.public(), Speaker { user, generation: 1 })]);
    let now = Timestamp::from_millis(1);
    let mut charter = Charter::found(&owner, &speakers, now, &Sevens).expect("a good key");
    let to = GrantTo {
        reader: Reader::of(&guest()),
        may_write: true,
        until: None,
        quota: None,
        may_share: true,
        under: None,
        since: None,
        called: "work".to_owned(),
    };
    let area = AreaId::of_directory(charter.space(), DirId::ROOT, &BTreeSet::new(), &Sevens);
    let alone = GrantTo {
        reader: Reader {
            area: Some(area),
            ..Reader::of(&let_into_a_directory())
        },
        may_share: false,
        called: "work/plans".to_owned(),
        ..to.clone()
    };
    for to in [to, alone] {
        let grant = charter.next_grant(owner.signing(), &to, &charter.keys(&owner, now), now, &Sevens);
        charter.join(&grant.expect("a good key")).expect("room");
    }
    let readers = [
        Reader::of(&owner),
        Reader::of(&guest()),
        Reader {
            area: Some(area),
            ..Reader::of(&let_into_a_directory())
        },
    ];
    let next_epoch = charter.next_epoch(owner.signing(), &readers, &charter.keys(&owner, now), &Sevens);
    charter.join(&next_epoch.expect("good keys")).expect("room");
    owner.push(next);
    (owner, charter)
}

fn with_home<T>(start: impl FnOnce(&TempDir) -> T) -> (T, TempDir) {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    (start(&folder), folder)
}
