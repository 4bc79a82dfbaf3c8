//! Disks that rot, fill up or lose files, and clocks that are wrong: the program starts or says what is wrong, never gives a
//! wrong byte, and in a pool makes good what is damaged.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Node, PATIENCE, Setup, all_see, bytes, flip, note, pool_of, text, until, within};
use serde_json::json;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// What a disk does to the store of a node that does not run.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Damage {
    /// A bit in the payload of a shard.
    Payload,
    /// A bit in the header of a record.
    Record,
    /// A bit in the header of a pack.
    Header,
    Truncated,
    NoIndex,
    GarbledIndex,
    NoPack,
    NoPackAndNoIndex,
    NoSuperblock,
}

use Damage::{GarbledIndex, Header, NoIndex, NoPack, NoPackAndNoIndex, NoSuperblock, Payload, Record, Truncated};

const ALL: [Damage; 9] = [
    Payload,
    Record,
    Header,
    Truncated,
    NoIndex,
    GarbledIndex,
    NoPack,
    NoPackAndNoIndex,
    NoSuperblock,
];

impl Damage {
    /// Whether shards are lost by it.
    fn loses_shards(self) -> bool {
        matches!(self, Payload | Record | Truncated | NoPack | NoPackAndNoIndex)
    }

    fn befalls(self, node: &Node) {
        let packs = node.store_files(".pack");
        let (pack, index) = (&packs[0], node.home.join("store/index.redb"));
        let len = fs::metadata(pack).unwrap().len();
        match self {
            // Shards of the large file fill the middle of the first pack.
            Payload => flip(pack, len / 2, 3),
            // The first record begins behind the pack's header; byte 40 of it is of the stripe's id.
            Record => flip(pack, 128 + 40, 1),
            Header => flip(pack, 50, 6),
            Truncated => fs::File::options()
                .write(true)
                .open(pack)
                .unwrap()
                .set_len(len / 3)
                .unwrap(),
            NoIndex => fs::remove_file(index).unwrap(),
            GarbledIndex => fs::write(index, bytes(100_000, 9)).unwrap(),
            NoPack => fs::remove_file(pack).unwrap(),
            NoPackAndNoIndex => {
                fs::remove_file(pack).unwrap();
                fs::remove_file(index).unwrap();
            }
            NoSuperblock => fs::remove_file(node.home.join("store/STORE")).unwrap(),
        }
    }
}

type Files = BTreeMap<String, Vec<u8>>;

/// Files of every kind, on the disk and in memory.
fn make(folder: &Path, seed: u64) -> Files {
    fs::create_dir_all(folder).unwrap();
    let sizes = [900, 30_000, 200_000, 300_000, 700_000, 4_000_000];
    let made = sizes.into_iter().enumerate().map(|(number, size)| {
        let (name, content) = (format!("{number}"), bytes(size, seed << 8 | number as u64));
        fs::write(folder.join(&name), &content).unwrap();
        (name, content)
    });
    made.collect()
}

#[track_caller]
fn put(node: &Node, folder: &Path) {
    let output = node.run(&["put", "-T", folder.to_str().unwrap(), "home:/data"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// Reads everything in each way. What comes is right; where it is not all, the exit code and a sentence say so. Gives how many
/// files cannot be read.
#[track_caller]
fn unreadable(node: &Node, scratch: &Path, files: &Files) -> usize {
    let mut missing = 0;
    for (name, content) in files {
        let place = format!("home:/data/{name}");
        let local = scratch.join(name);
        let _ = fs::remove_file(&local);
        let output = node.run(&["get", &place, local.to_str().unwrap()]);
        if output.status.success() {
            assert!(fs::read(&local).unwrap() == *content, "{name} is wrong");
        } else {
            let said = text(&output.stderr);
            assert!(said.starts_with("error: ") && said.len() > 20, "{name}: {said}");
            assert!(!local.exists(), "{name} is there in part");
            missing += 1;
        }
        let printed = node.run(&["cat", &place]);
        assert_eq!(printed.status.success(), output.status.success(), "{name}");
        assert!(content.starts_with(&printed.stdout), "{name} is wrong");
        let middle = content.len() / 2;
        let range = node.run(&["get", &place, "-", "--range", &format!("{middle}-")]);
        assert!(content[middle..].starts_with(&range.stdout), "{name} is wrong");
    }
    missing
}

#[test]
fn a_lone_node_with_a_damaged_store_starts_and_gives_right_bytes_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let scratch = folder.path().join("scratch");
    fs::create_dir_all(&scratch).unwrap();
    for (number, damage) in ALL.into_iter().enumerate() {
        let tree = folder.path().join(format!("tree-{number}"));
        let files = make(&tree, number as u64);
        let mut node = Node::start(folder.path().join(format!("node-{number}")), None);
        put(&node, &tree);
        node.stop();
        damage.befalls(&node);
        node.restart();
        if damage.loses_shards() {
            // Nobody else has them: they are missed by name, at the start or by the scrub that begins with it.
            until(&format!("{damage:?} is named"), || {
                node.log().contains("damaged") || node.log().contains("repaired as it opened")
            });
            assert!(unreadable(&node, &scratch, &files) > 0, "{damage:?} did nothing");
        } else {
            assert_eq!(unreadable(&node, &scratch, &files), 0, "{damage:?}\n{}", node.log());
        }
        if damage.loses_shards() && damage != NoPackAndNoIndex {
            let status = node.json(&["status"]);
            assert!(status["health"]["damaged"].as_u64() > Some(0), "{damage:?}: {status}");
        }
        // It works on.
        let more = folder.path().join(format!("more-{number}"));
        let files = make(&more, 100 + number as u64);
        put(&node, &more);
        assert_eq!(unreadable(&node, &scratch, &files), 0, "{damage:?}");
        node.stop();
        node.restart();
        assert_eq!(unreadable(&node, &scratch, &files), 0, "{damage:?}");
    }
}

#[test]
fn fsck_tells_of_every_damage_and_puts_it_right() {
    let folder = tempfile::tempdir().unwrap();
    for (number, damage) in ALL.into_iter().enumerate() {
        let tree = folder.path().join(format!("tree-{number}"));
        make(&tree, number as u64);
        let mut node = Node::start(folder.path().join(format!("node-{number}")), None);
        put(&node, &tree);
        node.fails(&["fsck"], 6);
        node.stop();
        let sound = node.json(&["fsck"]);
        assert_eq!(sound["findings"], json!([]), "{damage:?}");
        assert!(
            sound["shards"].as_u64() > Some(3) && sound["entries"].as_u64() > Some(0),
            "{sound}"
        );
        damage.befalls(&node);
        let told = node.fails(&["fsck"], 1);
        assert!(
            told.contains("found") && told.contains("--repair"),
            "{damage:?}: {told}"
        );
        let repaired = node.run(&["fsck", "--repair"]);
        assert!(repaired.status.success(), "{damage:?}: {}", text(&repaired.stderr));
        assert!(
            text(&repaired.stdout).contains("repaired"),
            "{}",
            text(&repaired.stdout)
        );
        assert_eq!(node.json(&["fsck"])["findings"], json!([]), "{damage:?}");
        node.restart();
    }
}

#[test]
fn a_pool_finds_names_and_mends_what_one_disk_damages() {
    let folder = tempfile::tempdir().unwrap();
    let (tree, scratch) = (folder.path().join("tree"), folder.path().join("scratch"));
    fs::create_dir_all(&scratch).unwrap();
    let files = make(&tree, 1);
    let mut pool = pool_of(4, |number| Setup {
        // Only damage makes repairs here, not the short absences.
        grace: "10m",
        ..Setup::at(folder.path().join(format!("node-{number}")))
    });
    put(&pool[0], &tree);
    let healthy = |node: &Node, stripes: u64| {
        let health = node.json(&["status"])["health"].clone();
        health["survives"] == json!({ "2": stripes }) && health["endangered"] == 0 && health["mending"] == 0
    };
    let counted = pool[0].json(&["status"])["health"]["survives"].clone();
    let stripes: u64 = counted
        .as_object()
        .unwrap()
        .values()
        .filter_map(serde_json::Value::as_u64)
        .sum();
    until("all is well at first", || healthy(&pool[0], stripes));

    let losses = ALL.into_iter().filter(|damage| damage.loses_shards());
    for (number, damage) in losses.enumerate() {
        let victim = 1 + number % 3;
        pool[victim].stop();
        let repaired = |node: &Node| node.json(&["status"])["health"]["repair_written"].as_u64().unwrap();
        let before = repaired(&pool[0]);
        let said = pool[victim].log().len();
        damage.befalls(&pool[victim]);
        pool[victim].restart();
        // While it is mended, too.
        assert_eq!(unreadable(&pool[victim], &scratch, &files), 0, "{damage:?}");
        assert_eq!(unreadable(&pool[0], &scratch, &files), 0, "{damage:?}");
        all_see(&pool);
        until(&format!("{damage:?} is named"), || {
            let log = pool[victim].log();
            log[said..].contains("damaged") || log[said..].contains("repaired as it opened")
        });
        within(Duration::from_secs(90), "something is mended", || {
            repaired(&pool[0]) > before
        });
        within(Duration::from_secs(90), "all is well again", || {
            healthy(&pool[0], stripes)
        });

        if !matches!(damage, Truncated | NoPackAndNoIndex) {
            continue;
        }
        // The proof: two others go, and what was mended is needed.
        for other in (1..4).filter(|other| *other != victim) {
            pool[other].kill();
        }
        assert_eq!(unreadable(&pool[victim], &scratch, &files), 0, "{damage:?}");
        for other in (1..4).filter(|other| *other != victim) {
            pool[other].restart();
        }
        all_see(&pool);
        within(Duration::from_secs(90), "all is well with all back", || {
            healthy(&pool[0], stripes)
        });
    }
}

/// A file system in memory that is unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where nobody may mount: the test says so and proves nothing then.
    fn mount(at: PathBuf, size: &str) -> Option<Self> {
        fs::create_dir_all(&at).unwrap();
        let options = format!("size={size},mode=0700");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "potluck-test"])
            .arg(&at)
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(at)),
            Ok(output) => {
                note(&format!(
                    "SKIPPED: a small disk cannot be mounted here: {}",
                    text(&output.stderr).trim()
                ));
                None
            }
            Err(error) => {
                note(&format!("SKIPPED: a small disk cannot be mounted here: {error}"));
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// What a full disk and a full quota have in common. `room` is more than half of what fits, and less than all.
#[track_caller]
fn fills_up_and_recovers(node: &mut Node, folder: &Path, room: usize) {
    let write = |name: &str, len: usize, seed: u64| {
        let file = folder.join(name);
        fs::write(&file, bytes(len, seed)).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let kept = write("kept", room / 4, 1);
    let first = write("first", room / 2, 2);
    let large = write("large", room * 2, 3);
    let get = |node: &Node, name: &str, from: &str| {
        let output = node.run(&["cat", &format!("home:/{name}")]);
        output.status.success() && output.stdout == fs::read(from).unwrap()
    };
    for file in [&kept, &first] {
        let output = node.run(&["put", file, "home:/"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let said = node.fails(&["put", &large, "home:/"], 1);
    assert!(
        said.contains("No space left") || said.contains("the store is full"),
        "{said}"
    );
    assert!(said.contains("hint: make room"), "{said}");
    node.fails(&["cat", "home:/large"], 3);
    assert!(get(node, "kept", &kept) && get(node, "first", &first));

    // Also when it starts that way.
    node.stop();
    node.restart();
    assert!(get(node, "kept", &kept) && get(node, "first", &first));
    node.kill();
    node.restart();
    assert!(get(node, "kept", &kept));

    // Removing makes room, when compaction has been by: at the start, and every minute.
    let output = node.run(&["rm", "--now", "home:/first"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    until("its shards are let go of", || {
        node.log().contains("freeing what no file uses")
    });
    node.stop();
    node.restart();
    let again = write("again", room / 4, 4);
    let mut said = String::new();
    within(2 * PATIENCE, "there is room again", || {
        let output = node.run(&["put", &again, "home:/"]);
        said = text(&output.stderr);
        output.status.success()
    });
    assert!(get(node, "kept", &kept) && get(node, "again", &again), "{said}");
}

#[test]
fn a_full_disk_refuses_what_does_not_fit_and_keeps_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(folder.path().join("disk"), "100m") else {
        return;
    };
    let mut node = Setup {
        // More than there is.
        capacity: "200MB",
        ..Setup::at(disk.0.join("node"))
    }
    .found();
    fills_up_and_recovers(&mut node, folder.path(), 60_000_000);
}

#[test]
fn a_full_quota_refuses_what_does_not_fit_and_keeps_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Setup {
        capacity: "100MB",
        ..Setup::at(folder.path().join("node"))
    }
    .found();
    fills_up_and_recovers(&mut node, folder.path(), 60_000_000);
}

/// What makes a process see another time; `None` where it is not installed: the test says so and proves nothing then.
fn wrong_clock(hours: i32) -> Option<Vec<(&'static str, String)>> {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let library = folders
        .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.exists());
    let Some(library) = library else {
        note("SKIPPED: libfaketime is not installed; on Debian: apt-get install faketime");
        return None;
    };
    Some(vec![
        ("LD_PRELOAD", library.to_str().unwrap().to_owned()),
        ("FAKETIME", format!("{hours:+}h")),
        // Timers go on as they are: it is the clock on the wall that is wrong.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
    ])
}

#[test]
fn a_node_whose_clock_is_an_hour_ahead_is_a_member_as_any() {
    one_clock_is_wrong(1);
}

#[test]
fn a_node_whose_clock_is_an_hour_behind_is_a_member_as_any() {
    one_clock_is_wrong(-1);
}

fn one_clock_is_wrong(hours: i32) {
    let Some(environment) = wrong_clock(hours) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    // The second is wrong from the start: it joins that way.
    let mut pool = pool_of(3, |number| Setup {
        environment: if number == 1 { environment.clone() } else { Vec::new() },
        ..Setup::at(folder.path().join(format!("node-{number}")))
    });
    let file = |name: &str, len: usize, seed: u64| {
        let file = folder.path().join(name);
        fs::write(&file, bytes(len, seed)).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let gives = |node: &Node, place: &str, from: &str| node.run(&["cat", place]).stdout == fs::read(from).unwrap();
    let put = |node: &Node, from: &str, place: &str| {
        let output = node.run(&["put", "-T", from, place, "--strict"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    };

    // Each puts, and all get.
    for (number, writer) in pool.iter().enumerate() {
        let from = file(&format!("file-{number}"), 2_000_000, number as u64);
        let place = format!("home:/{number}");
        put(writer, &from, &place);
        for reader in &pool {
            until("every node gives it", || gives(reader, &place, &from));
        }
    }
    // Whoever changes a name last has the word, whatever the clocks say.
    let (one, other) = (file("one", 300_000, 10), file("other", 300_000, 11));
    for (first, second) in [(0, 1), (1, 0)] {
        let place = format!("home:/by-{second}");
        put(&pool[first], &one, &place);
        until("the other knows", || gives(&pool[second], &place, &one));
        put(&pool[second], &other, &place);
        until("the later one holds", || {
            pool.iter().all(|node| gives(node, &place, &other))
        });
        assert!(pool[first].run(&["rm", &place]).status.success());
        until("it is gone everywhere", || {
            pool.iter()
                .all(|node| node.run(&["stat", &place]).status.code() == Some(3))
        });
    }
    // A ticket of the wrong one is good, also one for a short time.
    let invitation = pool[1].json(&["invite", "--mine", "--expires", "30m", "--yes"]);
    pool.push(Setup::at(folder.path().join("node-3")).join(invitation["ticket"].as_str().unwrap()));
    all_see(&pool);
    // As is one of a right one, used by a wrong one.
    let invitation = pool[0].json(&["invite", "--mine", "--expires", "30m", "--yes"]);
    let late = Setup {
        environment: environment.clone(),
        ..Setup::at(folder.path().join("node-4"))
    };
    pool.push(late.join(invitation["ticket"].as_str().unwrap()));
    all_see(&pool);

    // The clock is set right, and the node comes back at another port: the others believe what it says of itself.
    pool[1].stop();
    pool[1].environment(Vec::new());
    pool[1].restart();
    all_see(&pool);
    let port = pool[1].json(&["status"])["nodes"][0]["addresses"][0].clone();
    let me = pool[1].json(&["status"])["nodes"][0]["id"].clone();
    until("the others know its new address", || {
        pool.iter().all(|node| {
            let status = node.json(&["status"]);
            let nodes = status["nodes"].as_array().unwrap();
            nodes
                .iter()
                .any(|node| node["id"] == me && node["addresses"][0] == port)
        })
    });
    let from = file("last", 2_000_000, 20);
    put(&pool[1], &from, "home:/last");
    for reader in &pool {
        until("every node gives it", || gives(reader, "home:/last", &from));
    }
}
