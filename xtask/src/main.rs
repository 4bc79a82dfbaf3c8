//! The house rules as a program: `cargo xtask tidy` checks what the compiler cannot, `cargo xtask check` runs all that must
//! pass before a change is taken.
//!
//! Parts:
//! - `check`: the steps, each with its time.
//! - `tidy`: the rules over the workspace; each gives findings.
//! - `crates`: what `cargo metadata` says.
//! - `lexer`: Rust source apart: code, comments, literals.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it talks to a terminal")]

mod check;
mod crates;
mod lexer;
mod tidy;

use std::{env, path::PathBuf, process::ExitCode};

const USAGE: &str = "\
usage: cargo xtask COMMAND

  check   all that must pass: format, tidy, clippy, tests, documentation, the fuzz targets where there is a C++
          compiler, and cargo-deny where it is installed
  tidy    the house rules alone: arrows between crates, dependencies and licences, documents, fuzz targets, sources
";

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let command = arguments.next();
    match (command.as_deref(), arguments.next()) {
        (Some("check"), None) => check::run(&root()),
        (Some("tidy"), None) => tidy::run(&root()),
        _ => {
            eprint!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// The folder of the workspace.
fn root() -> PathBuf {
    // As cargo says when it runs this, not as it was compiled: one target folder may serve several clones.
    let here =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    here.parent()
        .expect("this crate is in the workspace's folder")
        .to_owned()
}
