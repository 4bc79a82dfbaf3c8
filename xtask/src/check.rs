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
const STEPS: [Step; 5] = [
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

/// Runs every step; fails when one did.
pub(crate) fn run(root: &Path) -> ExitCode {
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut outcomes = Vec::new();
    let deny = has_deny(&cargo).then_some(&DENY);
    if deny.is_none() {
        println!("cargo-deny is not installed: `cargo xtask tidy` checks licences and sources alone");
    }
    for Step { arguments, variables } in STEPS.iter().chain(deny) {
        let name = format!("cargo {}", arguments.join(" "));
        println!("==> {name}");
        let started = Instant::now();
        let mut command = Command::new(&cargo);
        command
            .args(*arguments)
            .envs(variables.iter().copied())
            .current_dir(root);
        let passed = match command.status() {
            Ok(status) => status.success(),
            Err(error) => {
                println!("it does not start: {error}");
                false
            }
        };
        outcomes.push((name, passed, started.elapsed().as_secs_f64()));
    }
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

fn has_deny(cargo: &str) -> bool {
    let mut command = Command::new(cargo);
    command
        .args(["deny", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
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
