//! `potluck keys lock`, with real processes: keys under a passphrase, and `kill -9` while they come under it and out again.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Node, Random, Setup, all_see, bytes, pool_of, potluck, text, until};
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::Output,
    thread,
    time::{Duration, Instant},
};

/// The files of a home that have keys.
fn key_files(home: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(home).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    names.filter(|name| name.contains("key")).collect()
}

/// What `up` says on a terminal that nobody types at; it fails.
fn refused(home: &Path, passphrase: Option<&str>) -> Output {
    let mut up = potluck(home);
    up.args(["up", "--listen", "127.0.0.1:0", "--no-mdns"]);
    if let Some(passphrase) = passphrase {
        up.env("POTLUCK_PASSPHRASE", passphrase);
    }
    // In a session without a terminal, or it would be asked for there.
    let output = up.arg("--session").output().unwrap();
    assert!(!output.status.success());
    output
}

fn knows(node: &mut Node, passphrase: &str) {
    node.environment(vec![("POTLUCK_PASSPHRASE", passphrase.to_owned())]);
}

#[test]
fn keys_are_under_a_passphrase_and_the_next_start_asks_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut pool = pool_of(2, |number| Setup::at(folder.path().join(format!("node-{number}"))));
    all_see(&pool);
    let content = bytes(300_000, 1);
    let [file, secret, other] = ["file", "secret", "other"].map(|name| folder.path().join(name));
    fs::write(&file, &content).unwrap();
    fs::write(&secret, "correct horse battery staple\n").unwrap();
    fs::write(&other, "another one altogether\n").unwrap();
    let home = pool[0].home.clone();
    pool[0].said(&["put", file.to_str().unwrap(), "home:/"]);
    let option = format!("--passphrase-file={}", secret.display());
    let told = pool[0].said(&["keys", "lock", &option]);
    assert!(
        told.contains("under the passphrase") && told.contains("meta.redb"),
        "{told}"
    );
    assert_eq!(key_files(&home), ["keys.locked".to_owned()].into());
    let huge = folder.path().join("huge");
    fs::write(&huge, "x".repeat(1_100_000)).unwrap();
    let refused_file = pool[0].fails(&["keys", "lock", "--passphrase-file", huge.to_str().unwrap()], 2);
    assert!(refused_file.contains("1024 bytes at most"), "{refused_file}");
    let doctor = text(&pool[0].run(&["doctor"]).stdout);
    assert!(
        doctor.contains("keys.locked") && !doctor.contains("node.key"),
        "{doctor}"
    );
    // It runs on.
    assert!(pool[0].run(&["cat", "home:/file"]).stdout == content);
    pool[0].kill();
    let locked = String::from_utf8_lossy(&fs::read(home.join("keys.locked")).unwrap()).into_owned();
    assert!(locked.contains("BEGIN AGE ENCRYPTED FILE") && !locked.contains("potluck-secret-key"));
    let asked = text(&refused(&home, None).stderr);
    assert!(asked.contains("passphrase"), "{asked}");
    let wrong = text(&refused(&home, Some("something else")).stderr);
    assert!(
        wrong.contains("does not open") && wrong.contains("keys restore"),
        "{wrong}"
    );
    // What is looked at while nothing runs asks for it, too.
    assert!(pool[0].said(&["fsck", &option]).contains("all sound"));
    let unsaid = potluck(&home).args(["fsck"]).env("POTLUCK_PASSPHRASE", "x").output();
    assert!(!unsaid.unwrap().status.success());
    // In the background, with the passphrase from a file.
    let up = ["up", "--detach", "--listen", "127.0.0.1:0", "--no-mdns", &option];
    pool[0].said(&up);
    assert!(pool[0].run(&["cat", "home:/file"]).stdout == content);
    pool[0].said(&["keys", "lock", &format!("--passphrase-file={}", other.display())]);
    // The key is replaced, and that is under it as well.
    let lost = pool[1].json(&["status"])["identity"]["node"]
        .as_str()
        .unwrap()
        .to_owned();
    pool[0].said(&["device", "revoke", &lost, "--yes"]);
    assert_eq!(key_files(&home), ["keys.locked".to_owned()].into());
    pool[0].said(&["stop"]);
    until("it has ended", || !pool[0].run(&["status"]).status.success());
    assert!(text(&refused(&home, Some("correct horse battery staple")).stderr).contains("does not open"));
    knows(&mut pool[0], "another one altogether");
    pool[0].restart();
    assert!(pool[0].run(&["cat", "home:/file"]).stdout == content);
    pool[0].said(&["put", file.to_str().unwrap(), "home:/again"]);
    assert!(pool[0].said(&["keys", "unlock"]).contains("no passphrase any more"));
    assert!(pool[0].said(&["keys", "unlock"]).contains("were under no passphrase"));
    assert_eq!(key_files(&home), ["node.key", "user.key"].map(str::to_owned).into());
    pool[0].kill();
    pool[0].environment(Vec::new());
    pool[0].restart();
    assert!(pool[0].run(&["cat", "home:/file"]).stdout == content);
}

#[test]
fn kill_9_leaves_keys_under_a_passphrase_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Setup::at(folder.path().join("node")).found();
    let id = node.json(&["status"])["identity"].clone();
    let mut random = Random(17);
    for round in 0..6 {
        let lock = round % 2 == 0;
        let (home, wait) = (node.home.clone(), random.below(if lock { 3000 } else { 30 }) as u64);
        let typed = thread::spawn(move || {
            let mut keys = potluck(&home);
            keys.env("POTLUCK_PASSPHRASE", "correct horse");
            keys.args(["keys", if lock { "lock" } else { "unlock" }])
                .output()
                .unwrap()
        });
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(wait) {
            thread::yield_now();
        }
        node.kill();
        let was_told = typed.join().unwrap().status.success();
        let is_locked = node.home.join("keys.locked").exists();
        assert!(!was_told || is_locked == lock, "it was said to be so");
        if is_locked {
            refused(&node.home, Some("something else"));
        }
        knows(&mut node, "correct horse");
        node.restart();
        let files = key_files(&node.home);
        let whole = match is_locked {
            true => files == ["keys.locked".to_owned()].into(),
            false => files.is_superset(&["node.key", "user.key"].map(str::to_owned).into()),
        };
        assert!(whole, "{files:?}");
        for part in ["node", "user"] {
            assert_eq!(node.json(&["status"])["identity"][part], id[part]);
        }
    }
}
