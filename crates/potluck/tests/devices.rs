//! `potluck device`, with real processes: what a person types and sees, and `kill -9` in the middle of it.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Node, Random, Setup, all_see, bytes, pool_of, potluck, text, until};
use serde_json::Value;
use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

fn machines(node: &Node) -> Vec<Value> {
    node.json(&["device", "ls"]).as_array().unwrap().clone()
}

fn id(node: &Node) -> String {
    let status = node.json(&["status"]);
    status["identity"]["node"].as_str().unwrap().to_owned()
}

fn put(node: &Node, folder: &Path, name: &str) {
    let file = folder.join(name);
    fs::write(&file, bytes(300_000, name.len() as u64)).unwrap();
    node.said(&["put", file.to_str().unwrap(), "home:/"]);
}

#[track_caller]
fn reads(node: &Node, name: &str) {
    let place = format!("home:/{name}");
    until("the name arrives", || node.run(&["stat", &place]).status.success());
    assert!(node.run(&["cat", &place]).stdout == bytes(300_000, name.len() as u64));
}

#[test]
fn a_machine_is_added_listed_and_taken_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut pool = pool_of(3, |number| Setup::at(folder.path().join(format!("node-{number}"))));
    let ticket = pool[0].json(&["device", "add", "--yes"])["ticket"]
        .as_str()
        .unwrap()
        .to_owned();
    pool.push(Setup::at(folder.path().join("late")).join(&ticket));
    all_see(&pool);
    put(&pool[0], folder.path(), "before");
    reads(&pool[3], "before");
    assert_eq!(machines(&pool[0]).len(), 4);
    let listed = pool[0].said(&["device", "ls"]);
    assert!(listed.contains("this node") && listed.contains("live"), "{listed}");
    let ids: Vec<_> = pool.iter().map(id).collect();
    let kit = folder.path().join("kit");
    let secret = folder.path().join("passphrase");
    fs::write(&secret, "correct horse battery staple").unwrap();
    let passphrase = format!("--passphrase-file={}", secret.display());
    pool[0].said(&["keys", "backup", kit.to_str().unwrap(), &passphrase]);
    // Nothing is done that was not meant.
    assert!(pool[0].fails(&["device", "revoke", &ids[3]], 2).contains("--yes"));
    assert!(
        pool[0]
            .fails(&["device", "revoke", &ids[0], "--yes"], 2)
            .contains("another one of yours")
    );
    assert!(
        pool[0]
            .fails(&["device", "revoke", "nothing", "--yes"], 3)
            .contains("called `nothing`")
    );
    assert_eq!(machines(&pool[0]).len(), 4);
    let told = pool[0].said(&["device", "revoke", &ids[3], "--yes"]);
    for part in [
        "is no machine of yours any more",
        "1 space of yours",
        "potluck keys backup",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    until("it has ended", || !pool[3].run(&["status"]).status.success());
    pool[3].kill();
    put(&pool[0], folder.path(), "afterwards");
    for node in &pool[..3] {
        until("it is not listed", || machines(node).len() == 3);
        reads(node, "before");
        reads(node, "afterwards");
    }
    // It does not come back, with its home or with a kit from before.
    let home = folder.path().join("late");
    let again = potluck(&home)
        .args(["up", "--listen", "127.0.0.1:0", "--no-mdns"])
        .output()
        .unwrap();
    assert!(!again.status.success());
    let home = folder.path().join("restored");
    let restore = [
        "keys",
        "restore",
        kit.to_str().unwrap(),
        &passphrase,
        "--listen",
        "127.0.0.1:0",
        "--no-mdns",
    ];
    let refused = potluck(&home).args(restore).output().unwrap();
    assert!(
        text(&refused.stderr).contains("key was replaced"),
        "{}",
        text(&refused.stderr)
    );
    // One that was forgotten has the key, too.
    pool[2].kill();
    until("it is away", || pool[0].live() == 2);
    pool[0].said(&["forget", &ids[2], "--yes"]);
    assert_eq!(
        pool[0].json(&["device", "revoke", &ids[2], "--yes"])["nodes"][0].as_str(),
        Some(&*ids[2])
    );
    reads(&pool[1], "afterwards");
    // What was done is not done again, and nothing is done that nobody could mean.
    let again = pool[0].fails(&["device", "revoke", &ids[2], "--yes"], 6);
    assert!(again.contains("already"), "{again}");
    let kept = &ids[1];
    pool[0].fails(&["device", "revoke", &kept[kept.len() - 1..], "--yes"], 3);
    pool[0].fails(&["device", "reconcile", "--yes"], 2);
    pool[0].fails(&["device", "reconcile", "nobody", "--yes"], 3);
    reads(&pool[1], "afterwards");
}

#[test]
fn kill_9_leaves_a_lost_machine_in_or_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut pool = pool_of(2, |number| Setup::at(folder.path().join(format!("node-{number}"))));
    put(&pool[0], folder.path(), "first");
    let mut random = Random(11);
    for round in 0..6 {
        let ticket = pool[1].json(&["device", "add", "--yes"])["ticket"]
            .as_str()
            .unwrap()
            .to_owned();
        let lost = Setup::at(folder.path().join(format!("lost-{round}"))).join(&ticket);
        until("all see each other", || {
            [&pool[0], &pool[1], &lost].iter().all(|node| node.live() == 3)
        });
        let (id, home, wait) = (id(&lost), pool[0].home.clone(), random.below(150) as u64);
        drop(lost);
        let gone = id.clone();
        let typed = thread::spawn(move || {
            let revoked = potluck(&home)
                .args(["device", "revoke", &gone, "--yes"])
                .output()
                .unwrap();
            revoked.status.success()
        });
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(wait) {
            thread::yield_now();
        }
        pool[0].kill();
        let was_told = typed.join().unwrap();
        pool[0].restart();
        until("both see each other again", || {
            pool[1].live() >= 2 && pool[0].live() >= 2
        });
        let is_in = |node: &Node| machines(node).iter().any(|machine| machine["id"] == *id);
        if was_told {
            assert!(!is_in(&pool[0]), "it was said that it is out");
        } else {
            until("both say the same", || is_in(&pool[0]) == is_in(&pool[1]));
            if is_in(&pool[0]) {
                pool[0].said(&["device", "revoke", &id, "--yes"]);
            }
        }
        until("it is out everywhere", || !is_in(&pool[0]) && !is_in(&pool[1]));
        // Both write, and read each other's.
        for (writer, reader) in [(0, 1), (1, 0)] {
            let name = format!("of-{writer}{}", "x".repeat(round));
            until("it may write", || {
                let file = folder.path().join(&name);
                fs::write(&file, bytes(300_000, name.len() as u64)).unwrap();
                pool[writer]
                    .run(&["put", file.to_str().unwrap(), "home:/"])
                    .status
                    .success()
            });
            reads(&pool[reader], &name);
        }
    }
    reads(&pool[1], "first");
}
