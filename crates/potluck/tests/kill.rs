//! `kill -9` at any moment of a put: what was acknowledged is whole, what was not is whole or absent, and the same put again
//! brings the rest.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Node, Random, Setup, bytes, note, pool_of, potluck, text, until, within};
use serde_json::json;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

const LONE_ROUNDS: u64 = 200;
const POOL_ROUNDS: u64 = 30;
/// The round that is not counted: it tells how long a put takes.
const WARM: u64 = 10_000;
/// Everything so far is compared every so many rounds; else what the round has put.
const GROUP: u64 = 25;

/// What a round puts: lives in its entry, in a pack, in a stripe of its own.
const SIZES: [usize; 4] = [700, 20_000, 90_000, 300_000];

fn folder_of(round: u64) -> String {
    format!("round-{round}")
}

/// The files of a round, on the disk and in memory.
fn make(parent: &Path, round: u64) -> (PathBuf, BTreeMap<String, Vec<u8>>) {
    let folder = parent.join(folder_of(round));
    fs::create_dir_all(&folder).unwrap();
    let mut files = BTreeMap::new();
    for (number, size) in SIZES.into_iter().enumerate() {
        let content = bytes(size + round as usize, round << 8 | number as u64);
        fs::write(folder.join(format!("{number}")), &content).unwrap();
        files.insert(format!("{number}"), content);
    }
    (folder, files)
}

fn begin_put(node: &Node, folder: &Path) -> Child {
    let mut command = potluck(&node.home);
    command.args(["put", folder.to_str().unwrap(), "home:/"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What the pool has of a round. Every file of it must be as it was put: a part of one, or one that cannot be read, is a failure.
#[track_caller]
fn fetch(node: &Node, scratch: &Path, round: u64, expected: &BTreeMap<String, Vec<u8>>) -> usize {
    let place = format!("home:/{}", folder_of(round));
    let _ = fs::remove_dir_all(scratch);
    let output = node.run(&["get", &place, scratch.to_str().unwrap()]);
    match output.status.code() {
        Some(0) => {}
        Some(3) => return 0,
        code => panic!(
            "round {round} is there in part ({code:?}): {}\n{}",
            text(&output.stderr),
            node.log()
        ),
    }
    let mut found = 0;
    for entry in fs::read_dir(scratch).into_iter().flatten() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let content = fs::read(entry.path()).unwrap();
        assert!(
            expected.get(&name) == Some(&content),
            "round {round}: {name} is not what was put"
        );
        found += 1;
    }
    found
}

#[test]
fn a_lone_node_that_is_killed_in_a_put_loses_nothing_that_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let (tree, scratch) = (folder.path().join("tree"), folder.path().join("scratch"));
    let mut node = Node::start(folder.path().join("node"), None);
    let mut random = Random(1);
    let mut all = Vec::new();
    let (mut acknowledged, mut absent, mut partly) = (0, 0, 0);
    // How long a put takes here, so that half of the kills come before its end.
    let (warm, _) = make(&tree, WARM);
    let begun = Instant::now();
    assert!(begin_put(&node, &warm).wait().unwrap().success());
    let usual = begun.elapsed();

    for round in 0..LONE_ROUNDS {
        let (local, files) = make(&tree, round);
        let mut put = begin_put(&node, &local);
        thread::sleep(usual.mul_f64(random.below(1250) as f64 / 1000.0));
        if round % 2 == 0 {
            node.kill();
            node.launch();
        } else {
            // As a supervisor does that starts the next at once: it finds what the dying one still holds.
            let mut dying = node.kill_without_waiting();
            node.launch();
            dying.wait().unwrap();
        }
        if round % 10 == 9 {
            // Again, while it recovers.
            thread::sleep(Duration::from_millis(random.below(80) as u64));
            node.kill();
            node.launch();
        }
        let is_acknowledged = put.wait().unwrap().success();
        node.answers();
        let found = fetch(&node, &scratch, round, &files);
        if is_acknowledged {
            assert_eq!(found, files.len(), "round {round} was acknowledged");
            acknowledged += 1;
        } else if found == 0 {
            absent += 1;
        } else {
            partly += usize::from(found < files.len());
        }
        let again = node.run(&["put", local.to_str().unwrap(), "home:/"]);
        assert!(again.status.success(), "round {round}: {}", text(&again.stderr));
        all.push(files);
        if (round + 1) % GROUP == 0 {
            for (round, files) in all.iter().enumerate() {
                assert_eq!(
                    fetch(&node, &scratch, round as u64, files),
                    files.len(),
                    "round {round}"
                );
            }
        }
    }
    note(&format!(
        "{acknowledged} acknowledged, {absent} absent, {partly} with some of their files, a put takes {usual:?}"
    ));
    assert!(acknowledged > 0 && absent > 0, "the kills all came at the same point");

    assert!(node.run(&["rm", "-r", "home:/", "--now", "--yes"]).status.success());
    assert!(node.run(&["ls"]).stdout.is_empty());
    note(&left_behind(&mut node));
}

/// Bytes that are in use after everything was removed; uploads that broke off are among them, since they are collected later.
fn left_behind(node: &mut Node) -> String {
    until("what was removed is let go of", || {
        node.log().contains("freeing what no file uses")
    });
    let before = node.used();
    // Compaction begins with the start.
    node.kill();
    node.restart();
    let begun = Instant::now();
    while node.used() >= before && begun.elapsed() < Duration::from_secs(5) {
        thread::sleep(Duration::from_millis(100));
    }
    format!(
        "everything was removed: {before} bytes used, {} after a restart",
        node.used()
    )
}

#[test]
fn what_is_removed_leaves_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::start(folder.path().join("node"), None);
    let empty = node.used();
    let file = folder.path().join("file");
    fs::write(&file, bytes(12_000_000, 3)).unwrap();
    let put = ["put", file.to_str().unwrap(), "home:/", "--quiet"];
    assert!(node.run(&put).status.success());
    assert!(node.used() > 12_000_000);
    assert!(node.run(&["rm", "--now", "home:/file"]).status.success());
    until("its shards are let go of", || {
        node.json(&["status"])["health"]["survives"] == json!({})
    });
    node.kill();
    node.restart();
    until("their bytes are free", || node.used() < empty + 1_000_000);
}

#[test]
fn a_pool_whose_nodes_are_killed_in_puts_loses_nothing_that_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let (tree, scratch) = (folder.path().join("tree"), folder.path().join("scratch"));
    let mut pool = pool_of(4, |number| Setup::at(folder.path().join(format!("node-{number}"))));
    let mut random = Random(2);
    let mut all = Vec::new();
    let (mut acknowledged, mut writer_killed) = (0, 0);
    let (warm, _) = make(&tree, WARM);
    let begun = Instant::now();
    assert!(begin_put(&pool[0], &warm).wait().unwrap().success());
    let usual = begun.elapsed();

    for round in 0..POOL_ROUNDS {
        let (local, files) = make(&tree, round);
        let (writer, victim) = (random.below(pool.len()), random.below(pool.len()));
        let mut put = begin_put(&pool[writer], &local);
        thread::sleep(usual.mul_f64(random.below(1250) as f64 / 1000.0));
        pool[victim].kill();
        let mut is_acknowledged = None;
        if writer != victim {
            // It goes on without the victim.
            until("the put ends", || {
                is_acknowledged = put.try_wait().unwrap();
                is_acknowledged.is_some()
            });
        }
        pool[victim].restart();
        let is_acknowledged = match is_acknowledged {
            Some(status) => status.success(),
            None => put.wait().unwrap().success(),
        };
        common::all_see(&pool);
        acknowledged += usize::from(is_acknowledged);
        writer_killed += usize::from(writer == victim);

        // Any node gives what was acknowledged; the names reach it in their own time.
        let reader = &pool[random.below(pool.len())];
        if is_acknowledged {
            until("the reader has all of it", || {
                fetch(reader, &scratch, round, &files) == files.len()
            });
        } else {
            fetch(reader, &scratch, round, &files);
        }
        let again = pool[writer].run(&["put", local.to_str().unwrap(), "home:/"]);
        assert!(again.status.success(), "round {round}: {}", text(&again.stderr));
        all.push(files);
    }
    note(&format!(
        "{acknowledged} acknowledged, the writer killed {writer_killed} times, a put takes {usual:?}"
    ));
    assert!(acknowledged > 0 && writer_killed > 0);
    for node in &pool {
        for (round, files) in all.iter().enumerate() {
            until("every node gives everything", || {
                fetch(node, &scratch, round as u64, files) == files.len()
            });
        }
    }
    within(Duration::from_secs(60), "all is as safe as it was made to be", || {
        let health = pool[0].json(&["status"])["health"].clone();
        health["endangered"] == 0 && health["unreadable"] == 0 && health["mending"] == 0
    });

    assert!(pool[0].run(&["rm", "-r", "home:/", "--now", "--yes"]).status.success());
    until("the names are gone everywhere", || {
        pool.iter().all(|node| node.run(&["ls"]).stdout.is_empty())
    });
    for node in &mut pool {
        note(&left_behind(node));
    }
}
