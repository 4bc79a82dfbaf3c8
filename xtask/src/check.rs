//! All that must pass before a change is taken, one step after the other, with the time of each.
//!
//! A step that fails does not hide what the next ones find.

use std::{
    env,
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

/// A command, and what must be set for it.
struct Step {
    arguments: &'static [&'static str],
    variables: &'static [(&'static str, &'static str)],
}

const fn step(arguments: &'static [&'static str]) -> Step {
    Step {
        arguments,
        variables: &[],
    }
}

/// What cargo is asked, the quick ones first. Tests run as README.md says.
const STEPS: [Step; 8] = [
    step(&["fmt", "--all", "--check"]),
    step(&["xtask", "tidy"]),
    step(&[
        "clippy",
        "--release",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]),
    step(&["test", "--release", "--workspace"]),
    step(&[
        "run",
        "--release",
        "--package",
        "potluck-sim",
        "--",
        "--seeds",
        "0..20",
        "--days",
        "10",
    ]),
    step(&[
        "build",
        "--release",
        "--package",
        "potluck",
        "--package",
        "potluck-chaos",
    ]),
    step(&[
        "run",
        "--release",
        "--package",
        "potluck-chaos",
        "--",
        "--seed",
        "1",
        "--minutes",
        "2",
    ]),
    Step {
        arguments: &[
            "doc",
            "--release",
            "--workspace",
            "--no-deps",
            "--document-private-items",
        ],
        variables: &[("RUSTDOCFLAGS", "-D warnings")],
    },
];

/// Advisories are left out: their database is on the network.
const DENY: Step = step(&["deny", "--offline", "check", "bans", "licenses", "sources"]);

/// Every fuzz target, half a minute each.
const FUZZ: Step = step(&["30"]);
const FUZZ_PROGRAM: &str = "fuzz/run";

/// Runs every step; fails when one did.
pub(crate) fn run(root: &Path) -> ExitCode {
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let deny = answers(&cargo, &["deny", "--version"]).then_some(&DENY);
    if deny.is_none() {
        println!("cargo-deny is not installed: `cargo xtask tidy` checks licences and sources alone");
    }
    let fuzz = answers("c++", &["--version"]).then_some(&FUZZ);
    if fuzz.is_none() {
        println!("there is no C++ compiler: the fuzz targets are left out");
    }
    let fuzzer = root.join(FUZZ_PROGRAM);
    let with_cargo = STEPS.iter().chain(deny).map(|step| (Path::new(&cargo), "cargo", step));
    let steps = with_cargo.chain(fuzz.map(|step| (fuzzer.as_path(), FUZZ_PROGRAM, step)));
    let outcomes: Vec<_> = steps
        .map(|(program, called, step)| step.run(root, program, called))
        .collect();
    println!();
    for (name, passed, seconds) in &outcomes {
        println!("{} {seconds:>8.1} s  {name}", if *passed { "pass" } else { "FAIL" });
    }
    if outcomes.iter().all(|(_, passed, _)| *passed) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

impl Step {
    /// Runs it with a program that people call so; tells whether it passed, and how many seconds it took.
    fn run(&self, root: &Path, program: &Path, called: &str) -> (String, bool, f64) {
        let name = format!("{called} {}", self.arguments.join(" "));
        println!("==> {name}");
        let started = Instant::now();
        let mut command = Command::new(program);
        command
            .args(self.arguments)
            .envs(self.variables.iter().copied())
            .current_dir(root);
        let passed = match command.status() {
            Ok(status) => status.success(),
            Err(error) => {
                println!("it does not start: {error}");
                false
            }
        };
        (name, passed, started.elapsed().as_secs_f64())
    }
}

/// Whether there is such a program.
fn answers(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tests_run_as_the_readme_says() {
        let readme = include_str!("../../README.md");
        let step = STEPS.iter().find(|step| step.arguments[0] == "test").unwrap();
        assert!(readme.contains(&format!("\ncargo {}\n", step.arguments.join(" "))));
    }
}
