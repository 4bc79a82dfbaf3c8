//! `potluck space`, with real processes: what a person types and sees, and `kill -9` at any moment of it.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Node, Random, Setup, bytes, pool_of, potluck, text, until};
use serde_json::Value;
use std::{collections::BTreeSet, fs, path::Path, process::Stdio, thread, time::Instant};

fn pool(folder: &Path, nodes: usize) -> Vec<Node> {
    pool_of(nodes, |number| Setup::at(folder.join(format!("node-{number}"))))
}

fn names(node: &Node, arguments: &[&str]) -> BTreeSet<String> {
    let spaces = node.json(arguments);
    let names = spaces
        .as_array()
        .unwrap()
        .iter()
        .map(|space| space["name"].as_str().unwrap().to_owned());
    names.collect()
}

fn said(node: &Node, arguments: &[&str]) -> String {
    let output = node.run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn spaces_are_made_named_removed_and_brought_back() {
    let folder = tempfile::tempdir().unwrap();
    let pool = pool(folder.path(), 3);
    let (first, second) = (&pool[0], &pool[1]);
    let file = folder.path().join("report");
    fs::write(&file, bytes(9_000_000, 1)).unwrap();
    let file = file.to_str().unwrap();

    assert!(said(first, &["space", "create", "work"]).contains("potluck put FOLDER work:/"));
    let used = || pool.iter().map(Node::used).sum::<u64>();
    let empty = used();
    first.json(&["put", file, "work:/2026"]);
    assert_eq!(
        names(first, &["space", "ls"]),
        BTreeSet::from(["home".to_owned(), "work".to_owned()])
    );
    until("the other machine has the file", || {
        second.run(&["stat", "work:/2026/report"]).status.success()
    });
    let fetched = second.run(&["get", "work:/2026/report", "-"]);
    assert!(fetched.stdout == fs::read(file).unwrap(), "{}", text(&fetched.stderr));
    first.fails(&["stat", "home:/2026/report"], 3);
    let explained = said(second, &["explain", "work:/2026/report", "--check"]);
    assert!(explained.starts_with("work:/2026/report: "), "{explained}");
    let info = second.json(&["space", "info", "work"]);
    assert_eq!(
        (&info["files"], &info["bytes"]),
        (&Value::from(1), &Value::from(9_000_000))
    );

    // What makes no sense is refused, and says why.
    first.fails(&["space", "create", "work"], 1);
    first.fails(&["space", "create", "home"], 1);
    first.fails(&["space", "create", "a/b"], 2);
    first.fails(&["space", "rm", "home", "--yes"], 2);
    first.fails(&["space", "rm", "none", "--yes"], 3);
    assert!(first.fails(&["ls", "none:/"], 3).contains("potluck space"));
    first.fails(&["mv", "work:/2026/report", "home:/"], 2);
    first.fails(&["ls", "../work:/"], 2);

    // Removed: asked about, gone everywhere, and whole again.
    assert!(first.fails(&["space", "rm", "work"], 6).contains("--yes"));
    assert!(said(first, &["space", "rm", "work", "--yes"]).contains("potluck space restore work"));
    until("it is gone on the other machine", || {
        !names(second, &["space", "ls"]).contains("work")
    });
    assert!(names(second, &["space", "ls", "--removed"]).contains("work"));
    first.fails(&["ls", "work:/"], 3);
    second.json(&["space", "restore", "work"]);
    second.json(&["space", "mv", "work", "office"]);
    until("it is back under its new name", || {
        first.run(&["stat", "office:/2026/report"]).status.success()
    });
    let fetched = first.run(&["get", "office:/2026/report", "-"]);
    assert!(fetched.stdout == fs::read(file).unwrap(), "{}", text(&fetched.stderr));

    // In each space what is removed is in its own trash.
    first.json(&["rm", "office:/2026/report"]);
    assert!(said(first, &["trash", "office:/"]).contains("office:/2026/report"));
    assert!(said(first, &["trash", "home:/"]).contains("empty"));
    assert!(said(first, &["trash"]).contains("office:/2026/report"));
    assert_eq!(first.json(&["trash"])["space"], "office");
    first.json(&["restore", "office:/2026/report"]);
    let before = used();
    first.json(&["space", "rm", "office", "--now", "--yes"]);
    until("its room is free", || used() < (empty + before) / 2);
    assert!(!names(second, &["space", "ls", "--removed"]).contains("office"));
}

#[test]
fn two_people_share_a_space_until_one_is_taken_out() {
    let folder = tempfile::tempdir().unwrap();
    let anna = Setup::at(folder.path().join("anna")).found();
    let invitation = anna.json(&["invite", "--yes"]);
    let bob = Setup::at(folder.path().join("bob")).join(invitation["ticket"].as_str().unwrap());
    let note = folder.path().join("note");
    fs::write(&note, "a note").unwrap();
    let note = note.to_str().unwrap();
    anna.json(&["id", "anna"]);
    bob.json(&["id", "bob"]);
    until("they know each other's names", || {
        said(&anna, &["people"]).contains("bob") && said(&bob, &["people"]).contains("anna")
    });
    assert_eq!(bob.json(&["whoami"])["name"], "bob");

    anna.json(&["space", "create", "work"]);
    anna.json(&["put", note, "work:/"]);
    assert!(said(&anna, &["share", "work", "--with", "bob"]).contains("potluck accept work"));
    until("the offer arrives", || {
        said(&bob, &["space", "ls"]).contains("shared with you")
    });
    bob.fails(&["ls", "work:/"], 3);
    bob.json(&["accept", "work", "--as", "annas"]);
    until("the file arrives", || {
        bob.run(&["cat", "annas:/note"]).stdout == b"a note"
    });
    assert!(bob.fails(&["put", note, "annas:/mine"], 6).contains("--write"));
    bob.fails(&["share", "annas", "--with", "anna"], 6);

    let member = anna.json(&["share", "work", "--with", "bob", "--write", "--expires", "7d"]);
    assert_eq!(member["access"]["may_write"], true);
    until("it is known that he may write", || {
        bob.run(&["put", note, "annas:/mine"]).status.success()
    });
    until("what he wrote arrives", || {
        anna.run(&["cat", "work:/mine/note"]).stdout == b"a note"
    });
    assert!(said(&anna, &["space", "info", "work"]).contains("reads and writes"));

    assert!(said(&anna, &["unshare", "work", "--with", "bob"]).contains("may have kept"));
    anna.json(&["put", note, "work:/secret"]);
    until("he knows", || {
        said(&bob, &["space", "ls"]).contains("not in it any more")
    });
    bob.fails(&["put", note, "annas:/more"], 6);
    bob.fails(&["stat", "annas:/secret"], 3);
    assert_eq!(bob.run(&["cat", "annas:/mine/note"]).stdout, b"a note");
    anna.fails(&["unshare", "work", "--with", "bob"], 3);
    anna.fails(&["share", "work", "--with", "nobody"], 3);
    anna.fails(&["share", "home", "--with", "bob"], 2);
    bob.fails(&["accept", "none"], 3);
}

/// The daemon dies at any moment of making spaces: what was acknowledged is there and can be used, and what was not is whole or absent.
#[test]
fn a_space_is_founded_whole_or_not_at_all() {
    const ROUNDS: u64 = 25;
    let folder = tempfile::tempdir().unwrap();
    let mut pool = pool(folder.path(), 2);
    let file = folder.path().join("note");
    fs::write(&file, "a note").unwrap();
    let mut random = Random(7);
    let begun = Instant::now();
    pool[0].json(&["space", "create", "warm"]);
    let usual = begun.elapsed();
    let mut acknowledged = BTreeSet::from(["warm".to_owned()]);
    for round in 0..ROUNDS {
        let name = format!("space-{round}");
        let mut create = potluck(&pool[0].home);
        let mut create = create
            .args(["space", "create", &name])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // No synchronisation: the moment is what is tried.
        thread::sleep(usual * u32::from(random.byte()) / 200);
        pool[0].kill();
        if create.wait().unwrap().success() {
            acknowledged.insert(name);
        }
        pool[0].restart();
    }
    let other = &pool[1];
    let spaces = pool[0].json(&["space", "ls"]);
    let founded: BTreeSet<String> = names(&pool[0], &["space", "ls"]);
    assert!(acknowledged.is_subset(&founded), "{acknowledged:?} {founded:?}");
    for space in spaces.as_array().unwrap() {
        let name = space["name"].as_str().unwrap();
        assert_eq!(space["is_here"], true, "{name}");
        let place = format!("{name}:/");
        pool[0].json(&["put", file.to_str().unwrap(), &place]);
        until("the other machine has it", || {
            other.run(&["cat", &format!("{place}note")]).stdout == b"a note"
        });
    }
}
