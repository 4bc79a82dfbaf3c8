//! `potluck link`, `snapshot` and `diff`, with real processes: what a person types and sees, and `kill -9` in the middle of it.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Node, Random, Setup, bytes, potluck, text, until};
use serde_json::Value;
use std::{
    fs,
    path::Path,
    process::{Output, Stdio},
    thread,
    time::{Duration, Instant},
};

fn documents(node: &Node, arguments: &[&str]) -> Vec<Value> {
    let lines = node.said(&[&["--json"], arguments].concat());
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Two people: the second joins the first one's pool with a ticket.
fn two_people(folder: &Path) -> (Node, Node) {
    let anna = Setup::at(folder.join("anna")).found();
    let ticket = anna.json(&["invite"])["ticket"].as_str().unwrap().to_owned();
    let bob = Setup::at(folder.join("bob")).join(&ticket);
    for node in [&anna, &bob] {
        until("both see each other", || node.live() == 2);
    }
    (anna, bob)
}

fn with_input(node: &Node, arguments: &[&str], input: &str) -> Output {
    let mut command = potluck(&node.home);
    let child = command.args(arguments).stdin(Stdio::piped());
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_link_is_listed_read_and_ended() {
    let folder = tempfile::tempdir().unwrap();
    let (anna, bob) = two_people(folder.path());
    let tree = folder.path().join("trip");
    fs::create_dir_all(tree.join("sea")).unwrap();
    fs::write(tree.join("note"), "a note").unwrap();
    fs::write(tree.join("sea/photo"), bytes(2_000_000, 1)).unwrap();
    anna.said(&["space", "create", "photos"]);
    anna.said(&["put", tree.to_str().unwrap(), "photos:/2026"]);
    let link = anna.said(&["link", "photos:/2026/trip"]).trim_end().to_owned();
    assert!(link.starts_with("potlink1") && !link.contains(char::is_whitespace));
    let below = |path: &str| format!("{link}/{path}");

    assert_eq!(bob.said(&["ls", "-r", &link]), "/note\n/sea/\n/sea/photo\n");
    assert_eq!(bob.said(&["cat", &below("note")]), "a note");
    assert!(bob.said(&["stat", &below("sea/photo")]).contains("2000000 bytes"));
    // Where nobody who looks at the processes sees it.
    let unseen = with_input(&bob, &["cat", "-"], &format!("{link}/note\n"));
    assert_eq!(text(&unseen.stdout), "a note", "{}", text(&unseen.stderr));
    let nothing = with_input(&bob, &["ls", "-"], "");
    assert_eq!(nothing.status.code(), Some(2), "{}", text(&nothing.stderr));
    let copy = folder.path().join("copy");
    let got = bob.said(&["get", &link, copy.to_str().unwrap()]);
    assert!(got.contains("Got 2 files"), "{got}");
    assert!(fs::read(copy.join("sea/photo")).unwrap() == bytes(2_000_000, 1));
    let got = bob.said(&["get", &link, copy.to_str().unwrap()]);
    assert!(got.contains("2 were there already"), "{got}");
    let part = bob.run(&["get", &below("sea/photo"), "-", "--range", "5-9"]);
    assert_eq!(part.stdout, bytes(2_000_000, 1)[5..10]);
    // What comes later is there as well.
    fs::write(tree.join("later"), "later").unwrap();
    anna.said(&["put", tree.to_str().unwrap(), "photos:/2026"]);
    until("what came later is seen", || {
        bob.run(&["cat", &below("later")]).stdout == b"later"
    });

    // Of a file that a link shows it is not said how it is stored.
    assert!(!bob.said(&["stat", &below("sea/photo")]).contains("with its name"));
    // A link with a password, for one machine.
    let password = folder.path().join("password");
    fs::write(&password, "open sesame\n").unwrap();
    let password = password.to_str().unwrap();
    let arguments = [
        "link",
        "photos:/2026/trip/note",
        "--max-downloads",
        "1",
        "--expires",
        "7d",
    ];
    let secret = anna.said(&[&arguments[..], &["--password-file", password]].concat());
    let secret = secret.trim_end();
    assert_eq!(bob.said(&["cat", secret, "--password-file", password]), "a note");
    let note = folder.path().join("note");
    let got = with_input(
        &bob,
        &["get", secret, note.to_str().unwrap(), "--password-file", "-"],
        "open sesame",
    );
    assert!(got.status.success() && fs::read(&note).unwrap() == b"a note");
    let wrong = with_input(&bob, &["cat", secret, "--password-file", "-"], "sesame");
    assert_eq!(wrong.status.code(), Some(6), "{}", text(&wrong.stderr));
    assert!(text(&wrong.stderr).contains("the password is wrong"));

    // What the list tells, and not the links themselves unless that is asked for.
    let listed = anna.said(&["link", "ls"]);
    assert!(listed.contains("opened on 1 of 1 machine") && listed.contains("photos:/2026/trip/"));
    assert!(!listed.contains(&link) && anna.said(&["link", "ls", "--show"]).contains(&link));
    let all = documents(&anna, &["link", "ls", "photos"]);
    assert_eq!((all.len(), &all[0]["link"]), (2, &Value::Null));

    for (node, arguments, code, says) in [
        (&bob, &["cat", &below("none")][..], 3, "there is no /none"),
        (&bob, &["cat", &link], 1, "is a directory"),
        (&bob, &["ls", &format!("{link}q")], 2, "mistyped or incomplete"),
        (&bob, &["rm", &link], 2, "this is a link"),
        (
            &bob,
            &["get", "--at", "1h", &below("note"), "-"],
            2,
            "no earlier versions",
        ),
        (&bob, &["link", "revoke", &link], 3, "there is no link"),
        (&anna, &["link", "photos:/none"], 3, "there is no /none"),
        (
            &anna,
            &["link", "photos:/2026", "--max-downloads", "0"],
            2,
            "max-downloads",
        ),
        (&anna, &["link"], 2, "SPACE:/PATH"),
    ] {
        let said = node.fails(arguments, code);
        assert!(said.contains(says), "{said:?} lacks {says:?}");
    }
    // A space that is removed takes its links along.
    anna.said(&["space", "create", "passing"]);
    anna.said(&["put", tree.join("note").to_str().unwrap(), "passing:/"]);
    let passing = anna.said(&["link", "passing:/"]).trim_end().to_owned();
    assert_eq!(bob.said(&["ls", &passing]), "note\n");
    anna.said(&["--yes", "space", "rm", "passing"]);
    bob.fails(&["ls", &passing], 6);
    let ended = anna.said(&["link", "revoke", &link]);
    assert!(ended.contains("photos:/2026/trip opens nothing any more"), "{ended}");
    let said = bob.fails(&["get", &link, copy.to_str().unwrap()], 6);
    assert!(said.contains("withdrawn"), "{said}");
}

/// Whatever moment it is: who was told a link can give it to others, and who was told that it ended is done with it.
#[test]
fn kill_9_leaves_links_and_snapshots_whole_or_absent() {
    let folder = tempfile::tempdir().unwrap();
    let (mut anna, bob) = two_people(folder.path());
    let file = folder.path().join("file");
    fs::write(&file, bytes(300_000, 2)).unwrap();
    anna.said(&["put", file.to_str().unwrap(), "home:/"]);
    let mut random = Random(7);
    let mut links = vec![anna.said(&["link", "home:/file"]).trim_end().to_owned()];
    anna.said(&["snapshot", "create", "home", "first"]);
    let mut snapshots = vec!["first".to_owned()];
    for round in 0..10 {
        let (name, wait) = (format!("s{round}"), random.below(120) as u64);
        let home = anna.home.clone();
        let typed = thread::spawn(move || {
            let link = potluck(&home).args(["link", "home:/file"]).output().unwrap();
            let snapshot = potluck(&home)
                .args(["snapshot", "create", "home", &name])
                .output()
                .unwrap();
            let link = link.status.success().then(|| text(&link.stdout).trim_end().to_owned());
            (link, snapshot.status.success().then_some(name))
        });
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(wait) {
            thread::yield_now();
        }
        anna.kill();
        let (link, snapshot) = typed.join().unwrap();
        links.extend(link);
        snapshots.extend(snapshot);
        anna.restart();
    }
    until("both see each other again", || bob.live() == 2);
    for link in &links {
        assert!(bob.run(&["cat", link]).stdout == bytes(300_000, 2));
    }
    let taken = documents(&anna, &["snapshot", "ls", "home"]);
    let names: Vec<_> = taken.iter().map(|taken| taken["name"].as_str().unwrap()).collect();
    for name in &snapshots {
        assert!(names.contains(&&**name), "{name} of {names:?}");
    }
    // Every link that there is can be ended, and opens nothing then.
    let listed = documents(&anna, &["link", "ls", "--show"]);
    assert!(listed.len() >= links.len());
    for info in &listed {
        anna.said(&["link", "revoke", info["id"].as_str().unwrap()]);
        bob.fails(&["cat", info["link"].as_str().unwrap()], 6);
    }
}

#[test]
fn what_has_changed_is_told_and_a_snapshot_brings_it_back() {
    let folder = tempfile::tempdir().unwrap();
    let node = Setup::at(folder.path().join("node")).found();
    let tree = folder.path().join("d");
    fs::create_dir(&tree).unwrap();
    for (name, content) in [
        ("changed", "one\ntwo\nthree\n"),
        ("gone", "gone"),
        ("moved", "moved"),
        ("same", "x"),
    ] {
        fs::write(tree.join(name), content).unwrap();
    }
    let put = |name: &str, content: &str| {
        fs::write(tree.join(name), content).unwrap();
        node.said(&["put", tree.join(name).to_str().unwrap(), "home:/d/"]);
    };
    node.said(&["put", tree.to_str().unwrap(), "home:/"]);
    assert!(
        node.said(&["snapshot", "create", "home", "before"])
            .contains("potluck snapshot restore home before")
    );
    put("changed", "one\n2\nthree\n");
    put("added", "added");
    node.said(&["rm", "--now", "home:/d/gone"]);
    node.said(&["mv", "home:/d/moved", "home:/elsewhere"]);
    let differences = |arguments: &[&str]| -> Vec<String> {
        let all = documents(&node, &[&["diff"], arguments].concat());
        let told = |one: &Value| format!("{} {}", one["what"].as_str().unwrap(), one["path"].as_str().unwrap());
        all.iter().map(told).collect()
    };
    assert_eq!(
        differences(&["home", "--snapshot", "before"]),
        [
            "added /d/added",
            "changed /d/changed",
            "removed /d/gone",
            "moved /elsewhere"
        ]
    );
    assert_eq!(differences(&["home:/d/", "--since", "0s"]), [""; 0]);
    let told = node.said(&["diff", "home:/", "--snapshot", "before"]);
    assert!(
        told.contains("home:/d/moved -> home:/elsewhere") && told.contains("14 B -> 12 B"),
        "{told}"
    );
    // Of a file: its lines, against the version before, or any other.
    for against in [&[][..], &["--snapshot", "before"]] {
        let lines = node.said(&[&["diff", "home:/d/changed"], against].concat());
        assert!(lines.contains("@@ -1,3 +1,3 @@\n one\n-two\n+2\n three"), "{lines}");
    }
    put("binary", "\0one");
    put("binary", "\0two");
    assert!(node.said(&["diff", "home:/d/binary"]).contains("not text"));

    for (arguments, code, says) in [
        (&["diff", "home:/d"][..], 2, "since when?"),
        (&["diff", "home:/none", "--since", "1h"], 3, "there is no /none"),
        (&["diff", "home:/d", "--snapshot", "none"], 3, "no snapshot `none`"),
        (&["diff", "home:/d/same"], 1, "no other version"),
        (
            &["snapshot", "create", "home", "before"],
            1,
            "a snapshot `before` already",
        ),
        (
            &["snapshot", "create", "home", "a/b"],
            2,
            "a snapshot has a name as files have",
        ),
        (&["snapshot", "restore", "home", "none"], 3, "no snapshot `none`"),
        (&["snapshot", "rm", "home", "none"], 3, "no snapshot `none`"),
    ] {
        let said = node.fails(arguments, code);
        assert!(said.contains(says), "{said:?} lacks {says:?}");
    }

    let emptied = node.said(&["--yes", "trash", "--empty"]);
    assert!(emptied.contains("snapshots hold them"), "{emptied}");
    assert!(node.said(&["snapshot", "ls"]).contains("that are gone since"));
    let restored = node.said(&["snapshot", "restore", "home", "before"]);
    assert!(restored.contains("Brought back 3 files"), "{restored}");
    assert_eq!(
        node.said(&["cat", "home:/d/changed", "home:/d/gone", "home:/d/moved"]),
        "one\ntwo\nthree\ngonemoved"
    );
    let again = node.said(&["snapshot", "restore", "home", "before"]);
    assert!(again.contains("is there as it was"), "{again}");
    node.said(&["snapshot", "rm", "home", "before"]);
    assert!(documents(&node, &["snapshot", "ls"]).is_empty());
}
