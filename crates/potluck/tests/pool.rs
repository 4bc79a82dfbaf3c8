//! The main job with real processes: files go in on one machine, it dies, and they come out of another.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Node, bytes, until};
use serde_json::Value;
use std::{fs, os::unix::fs::PermissionsExt, path::Path};

/// Sizes on both sides of every rule: none, inline, packed, one piece, many.
fn make_tree(folder: &Path) {
    fs::create_dir_all(folder.join("deep/er/empty")).unwrap();
    let sizes = [0, 1, 3_000, 5_000, 100_000, 262_144, 262_145, 1_500_000, 9_000_000];
    for (number, size) in sizes.into_iter().enumerate() {
        let place = if number % 2 == 0 { "deep/er" } else { "." };
        fs::write(
            folder.join(place).join(format!("{number} naïve\u{1b}[31m.bin")),
            bytes(size, number as u64),
        )
        .unwrap();
    }
    fs::write(folder.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(folder.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    (0..300).for_each(|number| fs::write(folder.join(format!("small-{number}")), bytes(4096, number)).unwrap());
}

#[track_caller]
fn assert_same(one: &Path, other: &Path) {
    let names = |folder: &Path| {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(one), names(other), "in {}", one.display());
    for name in names(one) {
        let (one, other) = (one.join(&name), other.join(&name));
        let (left, right) = (fs::metadata(&one).unwrap(), fs::metadata(&other).unwrap());
        if left.is_dir() {
            assert_same(&one, &other);
            continue;
        }
        assert_eq!(left.permissions().mode() & 0o111, right.permissions().mode() & 0o111);
        let millis = |time: std::time::SystemTime| time.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
        assert_eq!(millis(left.modified().unwrap()), millis(right.modified().unwrap()));
        assert!(
            fs::read(&one).unwrap() == fs::read(&other).unwrap(),
            "{} differs",
            one.display()
        );
    }
}

#[test]
fn a_tree_outlives_the_machine_that_stored_it() {
    let folder = tempfile::tempdir().unwrap();
    let home = |number: usize| folder.path().join(format!("node-{number}"));
    let tree = folder.path().join("tree");
    make_tree(&tree);

    let first = Node::start(home(1), None);
    let invitation = first.json(&["invite", "--mine", "--uses", "2", "--yes"]);
    let ticket = invitation["ticket"].as_str().unwrap();
    let second = Node::start(home(2), Some(ticket));
    let third = Node::start(home(3), Some(ticket));
    until("all see each other", || {
        [&first, &second, &third].iter().all(|node| node.live() == 3)
    });

    let put = first.json(&["put", tree.to_str().unwrap(), "home:/backup", "--strict"]);
    assert_eq!(
        (put["survives"].as_u64(), put["failed"].as_array().map(Vec::len)),
        (Some(1), Some(0))
    );
    drop(first);

    let back = folder.path().join("back");
    let get = ["get", "home:/backup/tree", back.to_str().unwrap()];
    assert_eq!(third.json(&get)["files"], put["files"]);
    assert_same(&tree, &back);
    let again = third.json(&get);
    assert_eq!((&again["files"], &again["unchanged"]), (&Value::from(0), &put["files"]));

    // The same through the other commands.
    let large = fs::read(tree.join("deep/er/8 naïve\u{1b}[31m.bin")).unwrap();
    let place = "home:/backup/tree/deep/er/8 naïve\u{1b}[31m.bin";
    let range = second.run(&["get", place, "-", "--range", "4194300-8388700"]);
    assert!(range.stdout == large[4_194_300..=8_388_700]);
    assert!(second.run(&["cat", place]).stdout == large);
    let listing = second.run(&["ls", "-r", "home:/backup"]);
    assert!(!listing.stdout.contains(&0x1b), "a name commands the terminal");
    assert_eq!(
        String::from_utf8_lossy(&listing.stdout)
            .lines()
            .filter(|line| !line.ends_with('/'))
            .count() as u64,
        put["files"]
    );
    second.fails(&["get", "home:/nothing"], 3);
    second.fails(&["put", tree.to_str().unwrap(), "home:/x", "--survive", "9"], 2);
    second.fails(&["rm", "home:/backup"], 1);
    assert_eq!(
        second.json(&["rm", "-r", "home:/backup", "--yes"])["removed"],
        put["files"]
    );
    third.fails(&["join", "potluck1nonsense"], 6);
    assert!(second.run(&["stop"]).status.success());
    second.fails(&["status"], 4);
    let up = second.run(&["up", "--detach"]);
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    assert!(second.run(&["ls"]).status.success());
    assert!(second.run(&["stop"]).status.success());
}

#[test]
fn a_client_that_talks_nonsense_or_vanishes_costs_only_itself() {
    use std::{io::Write, os::unix::net::UnixStream};
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path().join("node"), None);
    let socket = node.home.join("api.sock");
    let put = br#"{"do":"put","options":{"survive":null,"strict":false}}"#;
    let file = br#"{"file":{"path":"/half","meta":{"modified":0,"executable":false},"len":null}}"#;
    let frame = |kind: u8, payload: &[u8]| {
        [
            &[kind][..],
            &u32::try_from(payload.len()).unwrap().to_le_bytes(),
            payload,
        ]
        .concat()
    };
    let half = [frame(1, put), frame(4, file), frame(5, &[7; 1000]), vec![5, 255, 255]].concat();
    for bytes in [
        vec![],
        vec![0xff; 64],
        vec![1, 255, 255, 255, 255],
        frame(1, b"{"),
        frame(9, b"x"),
        half,
    ] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(&bytes).unwrap();
    }
    // Those that stay and say nothing take no more than their places.
    let silent: Vec<_> = (0..32).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    assert_eq!(node.live(), 1);
    drop(silent);
    node.fails(&["cat", "home:/half"], 3);
}
