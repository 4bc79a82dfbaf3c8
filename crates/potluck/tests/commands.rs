//! What commands say and leave behind when something is not as it should be.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Node, Setup, bytes, potluck, text, until};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    ffi::OsStr,
    fs,
    io::{Read, Write},
    os::unix::{
        ffi::OsStrExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

fn node_in(folder: &Path) -> Node {
    Node::start(folder.join("node"), None)
}

#[track_caller]
fn check(output: &Output, code: i32, says: &str) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(says), "{said:?} lacks {says:?}");
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

fn send(signal: Signal, process: u32) {
    let process = Pid::from_raw(process.try_into().unwrap()).unwrap();
    kill_process(process, signal).unwrap();
}

/// Stops a process, and waits until none of its threads runs.
fn freeze(process: u32) {
    send(Signal::STOP, process);
    until("the process is stopped", || {
        fs::read_dir(format!("/proc/{process}/task")).unwrap().all(|thread| {
            let stat = fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
            stat.rsplit_once(") ").unwrap().1.starts_with('T')
        })
    });
}

#[test]
fn what_has_no_room_failed_and_can_be_helped() {
    let folder = tempfile::tempdir().unwrap();
    let node = Setup {
        capacity: "64MiB",
        ..Setup::at(folder.path().join("node"))
    }
    .found();
    let large = folder.path().join("large");
    fs::write(&large, bytes(80_000_000, 1)).unwrap();
    // The second time nothing takes a shard any more.
    for _ in 0..2 {
        let said = node.fails(&["put", large.to_str().unwrap(), "home:/"], 1);
        assert!(
            said.contains("no room") && said.contains("--capacity") && said.contains("potluck invite"),
            "{said}"
        );
    }
}

#[test]
fn a_start_that_is_refused_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let inviter = node_in(folder.path());
    let ticket = inviter.json(&["invite"])["ticket"].as_str().unwrap().to_owned();
    drop(Node::start(folder.path().join("second"), Some(&ticket)));

    let deep = folder.path().join("new/deep");
    let prepared = folder.path().join("prepared");
    fs::create_dir(&prepared).unwrap();
    fs::write(prepared.join("config.toml"), "mdns = false\n").unwrap();
    for detach in [&[][..], &["--detach"]] {
        let start = |home: &Path, how: &[&str]| {
            let common = ["--listen", "127.0.0.1:0", "--no-mdns", "--capacity", "1GB"];
            run(potluck(home).args(how).args(common).args(detach))
        };
        for home in [&deep, &prepared] {
            check(&start(home, &["join", &ticket]), 6, "used already");
            check(&start(home, &["up", "--announce", "nowhere"]), 2, "not an address");
            check(&start(home, &["up", "--name", ""]), 2, "not a name for a pool");
        }
        assert!(!folder.path().join("new").exists());
        let left: Vec<_> = fs::read_dir(&prepared)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["config.toml"]);
    }
    let doctor = run(potluck(&deep).arg("doctor"));
    assert!(
        text(&doctor.stdout).contains("potluck join"),
        "{}",
        text(&doctor.stdout)
    );
    assert!(!text(&doctor.stdout).contains("backup"), "{}", text(&doctor.stdout));
}

#[test]
fn a_folder_of_documents_is_no_home() {
    let folder = tempfile::tempdir().unwrap();
    let letter = folder.path().join("letter.txt");
    fs::write(&letter, "Dear").unwrap();
    for detach in [&[][..], &["--detach"]] {
        check(
            &run(potluck(folder.path()).arg("up").args(detach)),
            2,
            "holds other files, such as `letter.txt`",
        );
        check(&run(potluck(&letter).arg("up").args(detach)), 2, "is a file");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_daemon_that_hangs_is_named_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let node = node_in(folder.path());
    let process = node.process().unwrap();
    freeze(process);
    let begun = Instant::now();
    let commands: Vec<_> = [&["status"][..], &["ls"], &["stop"], &["up"], &["up", "--detach"]]
        .map(|command| {
            let mut command_line = potluck(&node.home);
            command_line.args(command).stdin(Stdio::null()).stdout(Stdio::null());
            command_line.stderr(Stdio::piped()).spawn().unwrap()
        })
        .into();
    for command in commands {
        check(&command.wait_with_output().unwrap(), 5, &format!("kill -9 {process}"));
    }
    assert!(begun.elapsed() < Duration::from_secs(15));
    send(Signal::CONT, process);
    assert_eq!(node.live(), 1);
}

#[test]
fn a_daemon_that_hangs_over_a_request_is_named_too() {
    let home = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(home.path().join("api.sock")).unwrap();
    let status = potluck(home.path())
        .arg("status")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let hello = [9, 0, 0, 0, 0];
    stream.write_all(&hello).unwrap();
    // It takes its time, and lives.
    listener.accept().unwrap().0.write_all(&hello).unwrap();
    // Then it does so no more.
    let output = status.wait_with_output().unwrap();
    check(&output, 5, &format!("kill -9 {}", std::process::id()));
}

#[test]
fn one_command_too_many_is_turned_away() {
    let folder = tempfile::tempdir().unwrap();
    let node = node_in(folder.path());
    let crowd: Vec<_> = (0..512)
        .map(|_| {
            let mut stream = UnixStream::connect(node.home.join("api.sock")).unwrap();
            stream.read_exact(&mut [0; 5]).unwrap();
            stream
        })
        .collect();
    let said = node.fails(&["status"], 1);
    assert!(said.contains("512 commands are at work"), "{said}");
    drop(crowd);
    until("there is room again", || node.run(&["status"]).status.success());
}

#[test]
fn one_that_is_missing_does_not_keep_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let node = node_in(folder.path());
    for name in ["one", "two"] {
        let file = folder.path().join(name);
        fs::write(&file, name).unwrap();
        node.json(&["put", file.to_str().unwrap(), "home:/"]);
    }
    let output = node.run(&["cat", "home:/one", "home:/none", "home:/two"]);
    assert_eq!(text(&output.stdout), "onetwo");
    check(&output, 3, "home:/none: there is no /none");

    let output = node.run(&["rm", "home:/none", "home:/one", "home:/", "home:/two", "--json"]);
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&said["removed"], said["failed"].as_array().unwrap().len()),
        (&2.into(), 2)
    );
    assert_eq!(output.status.code(), Some(3));
    check(
        &node.run(&["rm", "home:/", "home:/none"]),
        1,
        "2 files could not be removed",
    );
    assert!(node.run(&["ls"]).stdout.is_empty());
}

#[test]
fn two_files_of_one_put_do_not_take_one_name() {
    let folder = tempfile::tempdir().unwrap();
    let node = node_in(folder.path());
    let both = ["a/same", "b/same"].map(|name| folder.path().join(name));
    for source in &both {
        fs::create_dir_all(source).unwrap();
        fs::write(source.join("file"), source.to_str().unwrap()).unwrap();
    }
    let [a, b] = both.each_ref().map(|source| source.to_str().unwrap());
    let said = node.fails(&["put", a, b, "home:/"], 2);
    assert!(said.contains("would both be home:/same"), "{said}");
    assert!(node.run(&["ls"]).stdout.is_empty());
}

#[test]
fn what_cannot_be_fetched_is_counted_once_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let node = node_in(folder.path());
    let tree = folder.path().join("tree");
    fs::create_dir_all(tree.join("below")).unwrap();
    for name in ["one", "below/two", "below/three"] {
        fs::write(tree.join(name), name).unwrap();
    }
    node.json(&["put", tree.to_str().unwrap(), "home:/"]);
    let fetched = folder.path().join("fetched");
    fs::create_dir(&fetched).unwrap();
    fs::write(fetched.join("below"), "in the way").unwrap();
    let output = node.run(&["get", "home:/tree", fetched.to_str().unwrap(), "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["files"], 1);
    let failed = said["failed"].as_array().unwrap();
    let failed: Vec<&str> = failed.iter().map(|failure| failure["path"].as_str().unwrap()).collect();
    assert!(
        failed.contains(&"/tree/below/two") && failed.contains(&"/tree/below/three"),
        "{failed:?}"
    );
    fs::remove_file(fetched.join("below")).unwrap();
    assert_eq!(node.json(&["get", "home:/tree", fetched.to_str().unwrap()])["files"], 2);
}

#[test]
fn what_a_space_has_none_of_is_skipped_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let node = node_in(folder.path());
    let tree = folder.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), "1").unwrap();
    std::os::unix::fs::symlink("file", tree.join("link")).unwrap();
    let socket = tree.join("socket");
    let _socket = UnixListener::bind(&socket).unwrap();

    let said = node.fails(&["put", socket.to_str().unwrap(), "home:/"], 1);
    assert!(
        said.contains("nothing was put") && said.contains("is a socket"),
        "{said}"
    );
    let output = node.run(&["put", tree.to_str().unwrap(), "home:/"]);
    check(&output, 0, "skipped link ");
    check(&output, 0, "skipped socket ");
    let put = node.json(&["put", tree.to_str().unwrap(), "home:/"]);
    assert_eq!(put["skipped"].as_array().unwrap().len(), 2);

    // Of several the bad ones are warned of; a single one is the error itself.
    let nameless = tree.join(OsStr::from_bytes(b"\xff"));
    fs::write(&nameless, "2").unwrap();
    let output = node.run(&["put", tree.to_str().unwrap(), "home:/"]);
    check(&output, 1, "the name is not UTF-8");
    let plain = folder.path().join("plain");
    fs::write(&plain, "3").unwrap();
    let said = node.fails(&["put", plain.to_str().unwrap(), "home:/tree/file"], 1);
    assert!(said.contains("is a file, not a directory"), "{said}");

    // Nor does a file replace one of these where it is fetched to.
    let said = node.fails(&["get", "home:/tree/file", socket.to_str().unwrap()], 1);
    assert!(said.contains("is a socket"), "{said}");
    let link = tree.join("link");
    node.fails(&["get", "home:/tree/file", link.to_str().unwrap()], 1);
    assert!(link.is_symlink());
}

#[test]
fn a_place_is_taken_as_it_is_typed() {
    let folder = tempfile::tempdir().unwrap();
    let node = node_in(folder.path());
    let file = folder.path().join("file");
    fs::write(&file, "1").unwrap();
    let file = file.to_str().unwrap();

    node.fails(&["put", "-", "home:/directory/"], 2);
    node.fails(&["put", "-T", file, "home:/directory/"], 2);
    node.json(&["put", file, "home:/"]);
    // Directories are made on the way, but not for nothing.
    node.fails(&["mv", "home:/none", "home:/new/name"], 3);
    node.fails(&["stat", "home:/new"], 3);
    assert_eq!(node.json(&["mv", "home:/file", "home:/new/name"])["path"], "/new/name");
    assert_eq!(
        node.json(&["mv", "home:/new/name", "home:/other/"])["path"],
        "/other/name"
    );

    let said = node.fails(&["mv", "home:/other/name", "home:/other"], 2);
    assert!(said.contains("the same"), "{said}");
    let said = node.fails(&["ls", "work:/"], 3);
    assert!(said.contains("hint: "), "{said}");
    node.fails(&["ls", "home:/.."], 2);
    let said = node.fails(&["leave", "--yes"], 6);
    assert!(said.contains("no other machine is here"), "{said}");
    let fetched = folder.path().join("no/such/folder/name");
    node.json(&["get", "home:/other/name", fetched.to_str().unwrap()]);
    assert_eq!(fs::read(&fetched).unwrap(), b"1");
    let within_a_file = fetched.join("name");
    node.fails(&["get", "home:/other/name", within_a_file.to_str().unwrap()], 1);
    node.fails(&["invite", "--expires", "0s"], 2);
    check(&node.run(&["completions", "bash", "--json"]), 2, "not JSON");
    let said = node.fails(&["keys", "restore", file, "--passphrase-file", file], 1);
    assert!(said.contains(&format!("{file}: this is not a recovery kit")), "{said}");
}

/// Ctrl-C in the middle, whenever that is: nothing half is left, and the exit code says it.
#[test]
fn ctrl_c_ends_with_130() {
    let folder = tempfile::tempdir().unwrap();
    let node = node_in(folder.path());
    let mut put = potluck(&node.home)
        .args(["put", "-", "home:/endless"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = put.stdin.take().unwrap();
    input.write_all(&bytes(4_000_000, 1)).unwrap();
    send(Signal::INT, put.id());
    check(&put.wait_with_output().unwrap(), 130, "Interrupted");
    node.fails(&["stat", "home:/endless"], 3);
    until("the daemon goes on", || node.live() == 1);
}

#[test]
fn what_is_removed_is_shown_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let node = node_in(folder.path());
    let tree = folder.path().join("tree");
    fs::create_dir(&tree).unwrap();
    for name in ["one", "two"] {
        fs::write(tree.join(name), name).unwrap();
    }
    let put = || node.json(&["put", tree.to_str().unwrap(), "home:/"]);
    put();
    fs::write(tree.join("one"), "another").unwrap();
    put();
    let removed = node.run(&["rm", "-r", "home:/tree"]);
    let said = text(&removed.stdout);
    assert!(
        said.starts_with("Removed 2 files. They can be brought back until 2"),
        "{said}"
    );
    assert!(said.trim_end().ends_with(": potluck restore home:/tree"), "{said}");

    let listed = text(&node.run(&["trash"]).stdout);
    assert!(
        listed.starts_with("      SIZE") || listed.starts_with("SIZE"),
        "{listed}"
    );
    assert_eq!(listed.matches("home:/tree/one").count(), 2, "{listed}");
    assert!(listed.contains("home:/tree/one  (overwritten)"), "{listed}");
    let status = text(&node.run(&["status"]).stdout);
    assert!(status.contains("The trash holds 3 files"), "{status}");
    assert_eq!(node.json(&["status"])["trash"]["files"], 3);

    let back = text(&node.run(&["restore", "home:/tree"]).stdout);
    assert_eq!(back.trim_end(), "Brought back 2 files: home:/tree.");
    assert_eq!(text(&node.run(&["cat", "home:/tree/one"]).stdout), "another");
    let back = node.json(&["restore", "home:/tree/one", "--to", "home:/older"]);
    assert_eq!(back["files"], 1);
    assert_eq!(text(&node.run(&["cat", "home:/older"]).stdout), "one");
    let said = node.fails(&["restore", "home:/tree/one", "--to", "home:/older"], 3);
    assert!(said.contains("potluck trash"), "{said}");
    node.fails(&["restore", "home:/never"], 3);
    node.fails(&["restore", "home:/tree", "--at", "soon"], 2);
    assert_eq!(node.json(&["restore", "home:/tree/one", "--at", "0s"])["files"], 0);

    let said = text(&node.run(&["rm", "--now", "home:/older"]).stdout);
    assert_eq!(said.trim_end(), "Removed 1 file.");
    assert_eq!(text(&node.run(&["trash"]).stdout).trim_end(), "The trash is empty.");
    node.json(&["rm", "home:/tree/one"]);
    check(&run(potluck(&node.home).args(["trash", "--empty"])), 2, "--yes");
    assert_eq!(node.json(&["trash", "--empty", "--yes"])["files"], 1);
    assert_eq!(
        text(&node.run(&["trash", "home:/tree"]).stdout).trim_end(),
        "The trash has nothing of home:/tree."
    );
}

#[test]
fn much_at_once_is_asked_about() {
    let folder = tempfile::tempdir().unwrap();
    let node = node_in(folder.path());
    let tree = folder.path().join("tree");
    fs::create_dir(&tree).unwrap();
    for number in 0..120 {
        fs::write(tree.join(number.to_string()), "good").unwrap();
    }
    let put = ["put", tree.to_str().unwrap(), "home:/"];
    node.json(&put);
    let output = run(potluck(&node.home).args(["rm", "-r", "home:/tree"]));
    check(&output, 6, "this would remove 120 of 120 files of your space");
    check(&output, 6, "--yes");
    for number in 0..120 {
        fs::write(tree.join(number.to_string()), "encrypted").unwrap();
    }
    let output = run(potluck(&node.home).args(put));
    check(&output, 6, "this would overwrite");
    let overwritten = node.json(&["status"])["trash"]["files"].as_u64().unwrap();
    assert!(overwritten <= 60, "{overwritten}");
    let output = node.run(&[&put[..], &["--yes"]].concat());
    check(&output, 0, "");
    assert_eq!(node.json(&["status"])["trash"]["files"], 120);
    assert_eq!(node.json(&["rm", "-r", "home:/tree", "--yes"])["removed"], 120);
    assert_eq!(node.json(&["trash", "--accept"])["accepted"], 0);
}

#[test]
fn what_a_file_was_is_listed_read_and_brought_back() {
    let folder = tempfile::tempdir().unwrap();
    let node = node_in(folder.path());
    let local = folder.path().join("report.txt");
    for content in ["one", "two and more", "three"] {
        fs::write(&local, content).unwrap();
        node.json(&["put", local.to_str().unwrap(), "home:/d/"]);
    }
    let documents = |args: &[&str]| -> Vec<serde_json::Value> {
        let output = node.run(&[&["--json"], args].concat());
        let lines = text(&output.stdout);
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let versions = documents(&["versions", "home:/d/report.txt"]);
    let lens: Vec<_> = versions
        .iter()
        .map(|version| version["len"].as_u64().unwrap())
        .collect();
    assert_eq!(lens, [5, 12, 3]);
    assert_eq!(versions[0]["state"], "latest");
    let second = versions[1]["id"].as_str().unwrap();
    let read = |args: &[&str]| text(&node.run(&[&["cat", "home:/d/report.txt"], args].concat()).stdout);
    assert_eq!(read(&["--version", second]), "two and more");
    assert_eq!(read(&["--at", "0s"]), "three");
    let copy = folder.path().join("copy.txt");
    node.run(&["get", "--version", second, "home:/d/report.txt", copy.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(&copy).unwrap(), "two and more");
    let listed = text(&node.run(&["versions", "home:/d/report.txt"]).stdout);
    assert!(
        listed.contains("the latest") && listed.matches("overwritten by").count() == 2,
        "{listed}"
    );

    for (args, code, says) in [
        (
            &["get", "--version", "0123456789ab", "home:/d/report.txt", "-"][..],
            3,
            "no version 0123456789ab",
        ),
        (
            &["get", "--at", "1d", "home:/d/report.txt", "-"],
            3,
            "has no version of",
        ),
        (
            &["cat", "--version", "nonsense", "home:/d/report.txt"],
            2,
            "is not a version",
        ),
        (
            &["get", "--at", "0s", "home:/d"],
            2,
            "potluck restore home:/d --at TIME",
        ),
        (&["versions", "home:/none"], 3, "there is no"),
        (&["versions", "home:/"], 1, "is a directory"),
        (
            &["conflicts", "--keep", "home:/d/report.txt"],
            1,
            "nothing conflicts with",
        ),
        (&["conflicts", "--keep"], 2, "required"),
    ] {
        let said = node.fails(args, code);
        assert!(said.contains(says), "{said:?} lacks {says:?}");
    }
    assert_eq!(text(&node.run(&["conflicts"]).stdout).trim_end(), "Nothing conflicts.");

    node.run(&["restore", "--version", second, "home:/d/report.txt"]);
    assert_eq!(read(&[]), "two and more");
    node.run(&["mv", "home:/d/report.txt", "home:/moved.txt"]);
    node.run(&["rm", "home:/moved.txt"]);
    let did: Vec<String> = documents(&["log", "home:/"])
        .iter()
        .map(|did| format!("{} {}", did["did"].as_str().unwrap(), did["path"].as_str().unwrap()))
        .collect();
    assert_eq!(
        did,
        [
            "remove /moved.txt",
            "move /moved.txt",
            "change /d/report.txt",
            "change /d/report.txt",
            "change /d/report.txt",
            "add /d/report.txt",
            "add /d",
        ]
    );
    assert_eq!(documents(&["log", "-n", "2", "home:/"]).len(), 2);
    // What is brought back is there again, each at its place; what is let go of is no removal like any other.
    let tree = folder.path().join("tree");
    fs::create_dir(&tree).unwrap();
    for name in ["one", "two"] {
        fs::write(tree.join(name), name).unwrap();
    }
    node.run(&["put", tree.to_str().unwrap(), "home:/"]);
    node.run(&["rm", "-r", "--yes", "home:/tree"]);
    node.run(&["restore", "home:/tree"]);
    node.run(&["rm", "--now", "--yes", "home:/tree/one"]);
    let mut did: Vec<String> = documents(&["log", "-n", "4", "home:/tree"])
        .iter()
        .map(|did| format!("{} {}", did["did"].as_str().unwrap(), did["path"].as_str().unwrap()))
        .collect();
    did.sort();
    assert_eq!(did, ["add /tree", "add /tree/one", "add /tree/two", "free /tree/one"]);
    assert!(documents(&["log", "home:/", "--since", "2099-01-01"]).is_empty());
}
