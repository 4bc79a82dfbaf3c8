//! The house rules over the workspace. A rule is a function of what is there to a list of findings; nothing is changed.
//!
//! - `arrows`: which crate may know which.
//! - `dependencies`: what others wrote: that it is written down, its licence, where it comes from.
//! - `documents`: that they exist, name what exists, and link to what exists.
//! - `fuzz`: that every fuzz target is built, has seeds, and is written of.
//! - `words`: what must not stand in a file.
//! - `size`: the longest files and functions, for everyone to see. No rule.

mod arrows;
mod dependencies;
mod documents;
mod fuzz;
mod size;
mod words;

use crate::crates;
use std::{
    fmt, fs,
    path::Path,
    process::{Command, ExitCode},
};

/// One thing that is not as it should be.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Finding {
    /// File, with the line where there is one.
    place: String,
    what: String,
    remedy: String,
}

impl Finding {
    fn new(place: impl Into<String>, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n    -> {}", self.place, self.what, self.remedy)
    }
}

/// A text file of the project: its path from the root, and what it says.
struct File {
    path: String,
    text: String,
}

impl File {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether it is part of what users run: no test, benchmark, fuzz target, nor this program.
    fn is_product(&self) -> bool {
        self.is_rust()
            && self.path.starts_with("crates/")
            && self.path.contains("/src/")
            && !self.path.ends_with("tests.rs")
    }
}

/// Checks everything, says what was found, and fails when that is anything.
pub(crate) fn run(root: &Path) -> ExitCode {
    let (files, crates) = match (files(root), crates::load(root)) {
        (Ok(files), Ok(crates)) => (files, crates),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("tidy cannot begin: {error}");
            return ExitCode::FAILURE;
        }
    };
    let rules = [
        ("arrows", arrows::check(&crates.members)),
        ("dependencies", dependencies::check(&crates, &files)),
        ("documents", documents::check(&crates.members, &files, root)),
        ("fuzz", fuzz::check(&files, root)),
        ("words", words::check(&files)),
    ];
    size::print(&files);
    let mut count = 0;
    for (rule, mut findings) in rules {
        findings.sort();
        findings.dedup();
        for finding in &findings {
            println!("[{rule}] {finding}");
        }
        count += findings.len();
    }
    match count {
        0 => {
            println!(
                "tidy: {} crates and {} files are in order",
                crates.members.len(),
                files.len()
            );
            ExitCode::SUCCESS
        }
        _ => {
            println!("tidy: {count} to put right");
            ExitCode::FAILURE
        }
    }
}

/// All text files that belong to the project: those that git has, or would take.
fn files(root: &Path) -> Result<Vec<File>, String> {
    let mut command = Command::new("git");
    command
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root);
    let output = command
        .output()
        .map_err(|error| format!("git does not start: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "git ls-files fails: {}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    let paths = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut files = Vec::new();
    for path in paths.split('\0').filter(|path| !path.is_empty()) {
        // One that was just removed, or is no text, has nothing to say.
        if let Ok(text) = fs::read_to_string(root.join(path)) {
            files.push(File {
                path: path.to_owned(),
                text,
            });
        }
    }
    Ok(files)
}

/// The file of this path, if there is one.
fn file<'f>(files: &'f [File], path: &str) -> Option<&'f File> {
    files.iter().find(|file| file.path == path)
}
