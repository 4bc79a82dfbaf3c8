//! `potluck space`, with real processes: what a person types and sees, and `kill -9` at any moment of it.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Node, Random, Setup, bytes, pool_of, potluck, text, until};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

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

#[test]
fn a_quota_holds_and_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let pool = pool(folder.path(), 2);
    let file = folder.path().join("report");
    fs::write(&file, bytes(3_000_000, 1)).unwrap();
    let file = file.to_str().unwrap();
    pool[0].said(&["space", "create", "work", "--quota", "4MB"]);
    pool[0].said(&["put", file, "work:/"]);
    let full = pool[0].fails(&["put", file, "work:/again"], 1);
    for part in [
        "may hold 4.00 MB",
        "holds 3.00 MB",
        "trash --empty",
        "space set SPACE --quota",
    ] {
        assert!(full.contains(part), "{part}: {full}");
    }
    assert!(
        pool[0]
            .said(&["space", "info", "work"])
            .contains("it may hold 4.00 MB, with what is in its trash")
    );
    assert_eq!(pool[0].json(&["space", "info", "work"])["quota"], 4_000_000);
    pool[0].said(&["space", "set", "work", "--quota", "default"]);
    pool[0].said(&["put", file, "work:/again"]);
    assert!(pool[0].json(&["space", "info", "work"])["quota"].is_null());
    assert!(
        !pool[0]
            .run(&["space", "set", "work", "--quota", "much"])
            .status
            .success()
    );
}

#[test]
fn spaces_are_made_named_removed_and_brought_back() {
    let folder = tempfile::tempdir().unwrap();
    let pool = pool(folder.path(), 3);
    let (first, second) = (&pool[0], &pool[1]);
    let file = folder.path().join("report");
    fs::write(&file, bytes(9_000_000, 1)).unwrap();
    let file = file.to_str().unwrap();

    assert!(
        first
            .said(&["space", "create", "work"])
            .contains("potluck put FOLDER work:/")
    );
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
    let explained = second.said(&["explain", "work:/2026/report", "--check"]);
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
    assert!(
        first
            .said(&["space", "rm", "work", "--yes"])
            .contains("potluck space restore work")
    );
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
    assert!(first.said(&["trash", "office:/"]).contains("office:/2026/report"));
    assert!(first.said(&["trash", "home:/"]).contains("empty"));
    assert!(first.said(&["trash"]).contains("office:/2026/report"));
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
        anna.said(&["people"]).contains("bob") && bob.said(&["people"]).contains("anna")
    });
    assert_eq!(bob.json(&["whoami"])["name"], "bob");

    anna.json(&["space", "create", "work"]);
    anna.json(&["put", note, "work:/"]);
    assert!(
        anna.said(&["share", "work", "--with", "bob"])
            .contains("potluck accept work")
    );
    until("the offer arrives", || {
        bob.said(&["space", "ls"]).contains("shared with you")
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
    let info = anna.said(&["space", "info", "work"]);
    assert!(
        info.contains("reads and writes") && !info.contains("lets others in"),
        "{info}"
    );

    let said = anna.said(&["share", "work", "--with", "bob", "--write", "--may-share"]);
    assert!(said.contains("read and change work, and let others in"), "{said}");
    assert!(anna.said(&["space", "info", "work"]).contains("lets others in"));
    assert!(anna.said(&["access", "work"]).contains("and let others in"));
    until("he knows that he may let others in", || {
        bob.json(&["space", "info", "annas"])["may_share"] == true
    });
    bob.fails(&["share", "annas", "--with", "anna"], 2);
    bob.fails(&["share", "annas", "--with", "anna", "--may-share"], 6);
    bob.fails(&["unshare", "annas", "--with", "anna"], 6);

    assert!(
        anna.said(&["unshare", "work", "--with", "bob"])
            .contains("may have kept")
    );
    anna.json(&["put", note, "work:/secret"]);
    until("he knows", || bob.said(&["space", "ls"]).contains("not in it any more"));
    bob.fails(&["put", note, "annas:/more"], 6);
    bob.fails(&["stat", "annas:/secret"], 3);
    assert_eq!(bob.run(&["cat", "annas:/mine/note"]).stdout, b"a note");
    anna.fails(&["unshare", "work", "--with", "bob"], 3);
    anna.fails(&["share", "work", "--with", "nobody"], 3);
    anna.fails(&["share", "home", "--with", "bob"], 2);
    bob.fails(&["accept", "none"], 3);
}

#[test]
fn a_space_is_kept_in_its_region_and_that_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let regions = ["", "eu", "eu", "us"];
    let pool = pool_of(regions.len(), |number| {
        let mut setup = Setup::at(folder.path().join(format!("node-{number}")));
        if !regions[number].is_empty() {
            setup.environment.push(("POTLUCK_REGION", regions[number].to_owned()));
        }
        setup
    });
    let first = &pool[0];
    let file = folder.path().join("report");
    fs::write(&file, bytes(3_000_000, 1)).unwrap();
    let file = file.to_str().unwrap();
    until("all regions are known", || {
        first.said(&["status"]).matches(" eu ").count() == 2
    });

    let wrong = first.fails(&["space", "create", "tax", "--region", "eruope"], 6);
    assert!(
        wrong.contains("no machine of eruope") && wrong.contains("machines of eu, us"),
        "{wrong}"
    );
    first.fails(&["space", "create", "tax", "--region", "e u"], 2);
    let made = first.json(&["space", "create", "tax", "--region", "eu"]);
    assert_eq!(
        (&made["regions"][0], &made["machines_there"]),
        (&"eu".into(), &2.into())
    );
    first.said(&["put", file, "tax:/"]);
    let explained = first.said(&["explain", "tax:/report"]);
    assert!(explained.contains("All of it is in eu") && explained.contains("2 machines of the pool stand there"));
    let machines = first.json(&["explain", "tax:/report"]);
    let outside = machines["machines"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|machine| machine["region"] != "eu");
    assert!(outside.into_iter().all(|machine| machine["shards"] == 0), "{machines}");

    // Less safe than it is: that is asked about, and takes its time.
    let asked = first.fails(&["space", "set", "tax", "--region", "us"], 6);
    assert!(
        asked.contains("survives the loss of 0, in place of 1 machines") && asked.contains("--yes"),
        "{asked}"
    );
    let set = first.said(&["space", "set", "tax", "--region", "us", "--yes"]);
    assert!(set.contains("survives no loss of that"), "{set}");
    until("a copy is there, and the others stay", || {
        let explained = first.json(&["explain", "tax:/report"]);
        let machines = explained["machines"].as_array().unwrap();
        let there = |region: &str| {
            machines
                .iter()
                .filter(|machine| machine["region"] == region && machine["shards"] != 0)
                .count()
        };
        explained["work"].to_string().contains("no-region") && there("us") == 1 && there("eu") == 2
    });
    assert!(first.said(&["explain", "tax:/report"]).contains("elsewhere yet"));
    first.said(&["space", "set", "tax", "--region", "us,eu"]);
    until("all is where it may be", || {
        let explained = first.json(&["explain", "tax:/report"]);
        explained["elsewhere"] == 0 && explained["short_files"] == 0
    });
    assert_eq!(first.run(&["cat", "tax:/report"]).stdout, bytes(3_000_000, 1));
    assert!(first.json(&["space", "set", "tax", "--region", "default"])["regions"].is_null());
    assert!(first.said(&["access", "tax"]).contains("let its data be everywhere"));
}

#[test]
fn an_export_has_all_that_is_held_about_a_path() {
    let folder = tempfile::tempdir().unwrap();
    let pool = pool(folder.path(), 2);
    let first = &pool[0];
    let (tree, out) = (folder.path().join("people"), |name: &str| folder.path().join(name));
    fs::create_dir_all(tree.join("anna")).unwrap();
    fs::write(tree.join("anna/cv"), "first").unwrap();
    fs::write(tree.join("photo"), bytes(500_000, 2)).unwrap();
    first.said(&["space", "create", "work"]);
    first.said(&["put", tree.to_str().unwrap(), "work:/"]);
    fs::write(tree.join("anna/cv"), "second").unwrap();
    first.said(&["put", tree.to_str().unwrap(), "work:/"]);
    first.said(&["rm", "work:/people/photo"]);
    let link = first.said(&["link", "work:/people/anna"]);
    first.said(&["snapshot", "create", "work", "then"]);

    let done = first.json(&["export", "work:/people", out("out").to_str().unwrap()]);
    assert_eq!((&done["files"], &done["versions"]), (&1.into(), &2.into()), "{done}");
    let read = |name: &str| fs::read_to_string(out("out").join(name)).unwrap();
    assert_eq!(read("files/anna/cv"), "second");
    let versions = |path: &str| -> Vec<Vec<u8>> {
        let there = fs::read_dir(out("out").join("versions").join(path)).unwrap();
        there.map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
    };
    assert_eq!(versions("people/anna/cv"), [b"first"]);
    assert_eq!(versions("people/photo"), [bytes(500_000, 2)]);
    let lines = |name: &str| -> Vec<Value> {
        read(name)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let did: Vec<String> = lines("log.jsonl")
        .iter()
        .map(|line| line["did"].as_str().unwrap().to_owned())
        .collect();
    assert!(did[0] == "remove" && did.contains(&"change".to_owned()), "{did:?}");
    assert_eq!(lines("snapshots.jsonl")[0]["name"], "then");
    assert_eq!(lines("links.jsonl")[0]["path"], "/people/anna");
    // What opens a link is not given away with it.
    assert!(!read("links.jsonl").contains(link.trim_end()));
    assert_eq!(lines("access.jsonl").last().unwrap()["did"], "founded");
    let about: Value = serde_json::from_str(&read("about.json")).unwrap();
    let digest = &about["history"]["digest"];
    assert_eq!(first.json(&["verify", "work"])["digest"], *digest);
    assert!(read("README.txt").contains(digest.as_str().unwrap()));

    // What was removed; what never was; a folder that is in use.
    let gone = first.json(&["export", "work:/people/photo", out("gone").to_str().unwrap()]);
    assert_eq!((&gone["files"], &gone["versions"]), (&0.into(), &1.into()));
    first.fails(&["export", "work:/nothing", out("nothing").to_str().unwrap()], 3);
    assert!(!out("nothing").exists());
    first.fails(&["export", "work:/", out("out").to_str().unwrap()], 2);
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

#[test]
fn kill_9_while_something_is_erased_harms_nothing_else_and_it_is_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let mut pool = pool(folder.path(), 3);
    let files = folder.path().join("files");
    fs::create_dir(&files).unwrap();
    for at in 0..24 {
        fs::write(files.join(at.to_string()), bytes(20_000, at)).unwrap();
    }
    pool[0].said(&["put", files.to_str().unwrap(), "home:/"]);
    until("all see each other", || pool.iter().all(|node| node.live() == 3));
    let mut random = Random(11);
    for round in 0..8 {
        let (home, gone) = (pool[0].home.clone(), format!("home:/files/{round}"));
        let wait = random.below(500) as u64;
        let typed = {
            let gone = gone.clone();
            thread::spawn(move || potluck(&home).args(["erase", &gone, "--yes"]).output().unwrap())
        };
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(wait) {
            thread::yield_now();
        }
        pool[0].kill();
        let is_acknowledged = typed.join().unwrap().status.success();
        pool[0].restart();
        until("all see each other again", || pool[0].live() == 3);
        let again = pool[0].run(&["erase", &gone, "--yes"]);
        let code = again.status.code();
        assert!(
            code == Some(0) && !is_acknowledged || code == Some(3),
            "{wait} ms, {is_acknowledged}: {again:?}"
        );
        for node in &pool[..2] {
            let there = node.said(&["ls", "home:/files"]);
            assert_eq!(there.lines().count(), 23 - round, "after {wait} ms");
            let got = folder.path().join(format!("got-{round}"));
            node.said(&["get", "home:/files", got.to_str().unwrap()]);
            for at in round + 1..24 {
                let content = fs::read(got.join(at.to_string())).unwrap();
                assert!(content == bytes(20_000, at as u64), "{at} after {wait} ms");
            }
            fs::remove_dir_all(&got).unwrap();
        }
    }
    for node in &mut pool {
        node.kill();
        let report = node.run(&["fsck"]);
        assert!(report.status.success(), "{report:?}");
    }
}

/// A command that dies with its daemon, or has ended before: whether it was said that it is done.
fn typed_and_killed(node: &mut Node, arguments: &[&str], wait: Duration) -> bool {
    let mut command = potluck(&node.home);
    let command = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    let mut typed = command.spawn().unwrap();
    // No synchronisation: the moment is what is tried.
    thread::sleep(wait);
    node.kill();
    let was_told = typed.wait().unwrap().success();
    node.restart();
    was_told
}

#[test]
fn kill_9_lets_somebody_in_or_not_and_out_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let mut anna = Setup::at(folder.path().join("anna")).found();
    let invitation = anna.json(&["invite", "--yes"]);
    let mut bob = Setup::at(folder.path().join("bob")).join(invitation["ticket"].as_str().unwrap());
    anna.json(&["id", "anna"]);
    bob.json(&["id", "bob"]);
    until("they know each other's names", || {
        anna.said(&["people"]).contains("bob") && bob.said(&["people"]).contains("anna")
    });
    anna.json(&["space", "create", "work"]);
    let put = |node: &Node, name: &str| {
        let file = folder.path().join(name);
        fs::write(&file, name).unwrap();
        until("it may be put", || {
            node.run(&["put", file.to_str().unwrap(), "work:/"]).status.success()
        });
    };
    let reads = |node: &Node, name: &str| {
        until("it can be read", || {
            node.run(&["cat", &format!("work:/{name}")]).stdout == name.as_bytes()
        });
    };
    let (share, unshare) = (
        ["share", "work", "--with", "bob", "--write"],
        ["unshare", "work", "--with", "bob"],
    );
    let mut random = Random(13);
    let mut moment = || Duration::from_millis(random.below(150) as u64);
    for round in 0..12 {
        let [note, answer, secret] = ["note", "answer", "secret"].map(|what| format!("{what}-{round}"));
        put(&anna, &note);
        let was_told = typed_and_killed(&mut anna, &share, moment());
        until("both see each other again", || anna.live() == 2 && bob.live() == 2);
        if !was_told {
            // In or not: that can be said again.
            anna.said(&share);
        }
        if round == 0 {
            until("the offer arrives", || {
                bob.said(&["space", "ls"]).contains("shared with you")
            });
            let was_told = typed_and_killed(&mut bob, &["accept", "work"], moment());
            until("both see each other again", || anna.live() == 2 && bob.live() == 2);
            let said = bob.said(&["space", "ls"]);
            assert!(!was_told || !said.contains("shared with you"), "{said}");
            if said.contains("shared with you") {
                bob.said(&["accept", "work"]);
            }
        }
        reads(&bob, &note);
        put(&bob, &answer);
        reads(&anna, &answer);
        let was_told = typed_and_killed(&mut anna, &unshare, moment());
        until("both see each other again", || anna.live() == 2 && bob.live() == 2);
        if !was_told {
            let code = anna.run(&unshare).status.code();
            assert!(matches!(code, Some(0 | 3)), "{code:?}");
        }
        put(&anna, &secret);
        until("he knows", || bob.said(&["space", "ls"]).contains("not in it any more"));
        assert!(!bob.run(&["cat", &format!("work:/{secret}")]).status.success());
        reads(&bob, &note);
        reads(&anna, &answer);
    }
    for node in [&mut anna, &mut bob] {
        node.kill();
        let report = node.run(&["fsck"]);
        assert!(report.status.success(), "{report:?}");
    }
}

/// A command, and how one sees that it is done.
type Tried<'a> = (Vec<String>, Box<dyn Fn(&Node) -> bool + 'a>);

#[test]
fn kill_9_leaves_any_other_change_done_or_undone() {
    let folder = tempfile::tempdir().unwrap();
    let mut pool = pool(folder.path(), 2);
    let file = folder.path().join("file");
    let put = |node: &Node, content: &str, to: &str| {
        fs::write(&file, content).unwrap();
        until("it is put", || {
            node.run(&["put", file.to_str().unwrap(), to]).status.success()
        });
    };
    let reads = |node: &Node, at: &str| text(&node.run(&["cat", at]).stdout);
    let words = |line: String| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let mut random = Random(17);
    for round in 0..4 {
        let at = |name: &str| format!("home:/{round}/{name}/file");
        for name in ["moved", "removed", "restored", "overwritten"] {
            put(&pool[0], "first", &format!("home:/{round}/{name}/"));
        }
        pool[0].said(&["rm", &at("restored")]);
        pool[0].said(&["snapshot", "create", "home", &format!("s{round}")]);
        put(&pool[0], "second", &format!("home:/{round}/overwritten/"));
        let space = format!("space-{round}");
        let days = round + 2;
        let is_named = |node: &Node, name: &str| names(node, &["space", "ls"]).contains(name);
        let tried: Vec<Tried<'_>> = vec![
            (
                words(format!("mv home:/{round}/moved home:/{round}/there")),
                Box::new(|node| reads(node, &at("there")) == "first" && reads(node, &at("moved")).is_empty()),
            ),
            (
                words(format!("rm --recursive --yes home:/{round}/removed")),
                Box::new(|node| reads(node, &at("removed")).is_empty()),
            ),
            (
                words(format!("restore {}", at("restored"))),
                Box::new(|node| reads(node, &at("restored")) == "first"),
            ),
            (
                words(format!("snapshot restore home s{round} --yes")),
                Box::new(|node| reads(node, &at("overwritten")) == "first"),
            ),
            (
                words(format!("space set home --keep-versions {days}d")),
                Box::new(|node| node.json(&["space", "info", "home"])["retention"]["secs"] == days * 86_400),
            ),
            (
                words(format!("space create {space}")),
                Box::new(|node| is_named(node, &space)),
            ),
            (
                words(format!("space mv {space} {space}-later")),
                Box::new(|node| is_named(node, &format!("{space}-later")) && !is_named(node, &space)),
            ),
            (
                words(format!("space rm {space}-later --yes")),
                Box::new(|node| !is_named(node, &format!("{space}-later"))),
            ),
            (
                words(format!("id name-{round}")),
                Box::new(|node| node.json(&["whoami"])["name"] == format!("name-{round}")),
            ),
        ];
        for (command, is_done) in &tried {
            let arguments: Vec<_> = command.iter().map(String::as_str).collect();
            let wait = Duration::from_millis(random.below(120) as u64);
            let was_told = typed_and_killed(&mut pool[0], &arguments, wait);
            until("both see each other again", || pool.iter().all(|node| node.live() == 2));
            assert!(!was_told || is_done(&pool[0]), "{command:?} after {wait:?}");
            if !is_done(&pool[0]) {
                pool[0].said(&arguments);
            }
            until("it is done on both", || pool.iter().all(is_done));
        }
    }
    for node in &mut pool {
        node.kill();
        let report = node.run(&["fsck"]);
        assert!(report.status.success(), "{report:?}");
    }
}
