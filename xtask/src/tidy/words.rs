//! What must not stand in a file: places on one person's machine, notes to oneself, names that say nothing, and, in the crates
//! that only decide, anything that waits or looks at the world.

use super::{File, Finding};
use crate::lexer::{code, product_part};

/// This file alone names what it forbids.
const SELF: &str = "xtask/src/tidy/words.rs";

/// Folders of a machine.
const MACHINE: [&str; 5] = ["/work", "/root", "/home", "/tmp/target", "/Users"];

/// Notes to oneself.
const NOTES: [&str; 6] = ["TODO", "FIXME", "XXX", "HACK", "todo!", "dbg!"];

/// Names that say nothing of what a thing is, and what to write instead.
const EMPTY: [(&str, &str); 5] = [
    ("manager", "name what it does"),
    ("utils", "name what is in it"),
    ("helper", "name what it does"),
    ("agent", "name it: node, steward, holder"),
    ("misc", "name what is in it"),
];

/// Where one of [`EMPTY`] is a term of another's specification.
const TERMS: [&str; 3] = ["agent_version", "agent version", "user agent"];

/// Crates that decide and leave the world to others, and what only the world has.
const PURE: [&str; 5] = ["types", "crypto", "dag", "placement", "spaces"];
const WORLD: [&str; 7] = [
    "std::fs",
    "std::net",
    "std::thread",
    "std::process",
    "Instant::now",
    "SystemTime::now",
    "println!",
];

/// The one door to the clock and to randomness.
const DOOR: &str = "crates/types/src/clock.rs";

pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files
        .iter()
        .filter(|file| file.path != SELF && !file.path.ends_with("Cargo.lock"))
    {
        findings.extend(machine(file));
        findings.extend(empty(file));
        if file.is_rust() {
            findings.extend(opening(file));
        }
        if file.is_product() {
            findings.extend(notes(file));
            findings.extend(world(file));
        }
    }
    findings
}

fn machine(file: &File) -> Vec<Finding> {
    on_lines(file, &file.text, |line| {
        let found = MACHINE.into_iter().find(|folder| {
            line.match_indices(folder).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                let after = line[at + folder.len()..].chars().next();
                let is_part = |letter: Option<char>, more: &[char]| {
                    letter.is_some_and(|letter| letter.is_alphanumeric() || more.contains(&letter))
                };
                !is_part(before, &['_', '-', '.', '}', '>']) && !is_part(after, &['_', '.'])
            })
        });
        found.map(|folder| {
            (
                format!("`{folder}` is a place on one machine"),
                "write a path that anyone has",
            )
        })
    })
}

fn empty(file: &File) -> Vec<Finding> {
    on_lines(file, &file.text, |line| {
        let mut plain = line.to_ascii_lowercase();
        for term in TERMS {
            plain = plain.replace(term, "");
        }
        let mut words = plain.split(|letter: char| !letter.is_ascii_alphanumeric());
        let found = words.find_map(|word| EMPTY.into_iter().find(|(empty, _)| *empty == word));
        found.map(|(word, remedy)| (format!("`{word}` says nothing"), remedy))
    })
}

/// A file says first what it is; a test module beside its parent need not.
fn opening(file: &File) -> Option<Finding> {
    let is_test_module =
        file.path.ends_with("/tests.rs") || file.path.contains("/tests/") && file.path.ends_with("/mod.rs");
    if file.text.starts_with("//!") || is_test_module {
        return None;
    }
    let remedy = "begin it with `//!`: what it is, its parts, what it guarantees";
    Some(Finding::new(
        format!("{}:1", file.path),
        "it does not say what it is",
        remedy,
    ))
}

fn notes(file: &File) -> Vec<Finding> {
    on_lines(file, product_part(&file.text), |line| {
        let found = NOTES.into_iter().find(|note| {
            line.match_indices(note).any(|(at, _)| {
                let neighbours = [line[..at].chars().next_back(), line[at + note.len()..].chars().next()];
                !neighbours
                    .into_iter()
                    .flatten()
                    .any(|letter| letter.is_alphanumeric() || letter == '_')
            })
        });
        found.map(|note| (format!("`{note}` is a note to oneself"), "do it, or file an issue"))
    })
}

fn world(file: &File) -> Vec<Finding> {
    let is_pure = PURE
        .iter()
        .any(|name| file.path.starts_with(&format!("crates/{name}/src/")));
    if !is_pure || file.path == DOOR {
        return Vec::new();
    }
    on_lines(file, &code(product_part(&file.text)).text, |line| {
        let found = WORLD.into_iter().find(|name| line.contains(name));
        found.map(|name| {
            (
                format!("`{name}` in a crate that only decides"),
                "take it as an argument",
            )
        })
    })
}

fn on_lines(file: &File, text: &str, look: impl Fn(&str) -> Option<(String, &'static str)>) -> Vec<Finding> {
    let lines = text.lines().enumerate();
    lines
        .filter_map(|(at, line)| {
            look(line).map(|(what, remedy)| Finding::new(format!("{}:{}", file.path, at + 1), what, remedy))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_file(path: &str, text: &str, expected: &[&str]) {
        let file = File {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let found: Vec<_> = check(&[file])
            .into_iter()
            .map(|finding| format!("{} {}", finding.place, finding.what))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn places_on_one_machine_are_found() {
        check_file("a.md", "in /home/anna", &["a.md:1 `/home` is a place on one machine"]);
        check_file("a.md", "cd '/work'", &["a.md:1 `/work` is a place on one machine"]);
        check_file(
            "a.md",
            "/workspace, and/work, ~/home, $HOME/home, https://x.org/home/, crates/work, ${X}/root",
            &["a.md:1 `/home` is a place on one machine"],
        );
    }

    #[test]
    fn names_that_say_nothing_are_found() {
        check_file("a.md", "a\nThe cache Manager", &["a.md:2 `manager` says nothing"]);
        check_file("a.md", "the agent version of libp2p, reagent, managers", &[]);
        check_file(
            "crates/x/src/io_utils.rs",
            "//! x\nuse io_utils;",
            &["crates/x/src/io_utils.rs:2 `utils` says nothing"],
        );
    }

    #[test]
    fn notes_are_found_in_the_product() {
        check_file(
            "crates/x/src/a.rs",
            "//! x\n// TODO: y",
            &["crates/x/src/a.rs:2 `TODO` is a note to oneself"],
        );
        check_file(
            "crates/x/src/a.rs",
            "//! x\nTODOS; toodo!()\n#[cfg(test)]\nmod tests { todo!() }",
            &[],
        );
        check_file("crates/x/tests/a.rs", "//! TODO", &[]);
    }

    #[test]
    fn files_say_what_they_are() {
        check_file(
            "crates/x/src/a.rs",
            "fn x() {}",
            &["crates/x/src/a.rs:1 it does not say what it is"],
        );
        check_file("crates/x/src/a/tests.rs", "use super::*;", &[]);
        check_file("crates/x/tests/common/mod.rs", "use super::*;", &[]);
    }

    #[test]
    fn deciding_crates_keep_to_themselves() {
        let source = "//! x\n// std::fs\nuse std::fs;";
        check_file(
            "crates/dag/src/a.rs",
            source,
            &["crates/dag/src/a.rs:3 `std::fs` in a crate that only decides"],
        );
        check_file("crates/store/src/a.rs", source, &[]);
    }
}
