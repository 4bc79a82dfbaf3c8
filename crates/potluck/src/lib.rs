//! Potluck's command line: it speaks with the person, with the daemon of a home, and runs that daemon.
//!
//! - `cli`: what a person types. `command`: what is done then. `terminal`: what is printed.
//! - `complaint`: what a person is told when it fails, and the exit code.
//! - `config`, `place`, `span`: configuration, places and times, as they are typed.
//! - `daemon`: the node's process. `heap`: its allocator. `fresh`: a folder that becomes its home. `local`: the socket between it and the
//!   commands.
//! - `demo`: the main job in one command. `bench`: how fast it is. `machines`: the pool of processes that both use.
//!
//! It is a library for the fuzzer alone, which knocks at the local socket; all that others call is [`main`].
//!
//! Only `Node` is known of the product, and no file of a person's is opened by the daemon: commands read and write them.

mod bench;
mod cli;
mod command;
mod complaint;
mod config;
mod daemon;
mod demo;
mod fresh;
#[cfg(fuzzing)]
pub mod fuzzing;
mod heap;
mod interrupt;
mod local;
mod machines;
mod moment;
mod place;
mod span;
mod terminal;

use clap::{Parser, error::ErrorKind};
use cli::{Cli, Command};
use complaint::Complaint;
use place::ParsePlaceError;
use std::{error::Error, process::ExitCode};
use terminal::Terminal;
use tracing_subscriber::EnvFilter;

/// Does what was typed, and gives the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misunderstood(&error),
    };
    log(&cli);
    if cli.command.runs_node() {
        heap::share();
    }
    let terminal = Terminal {
        json: cli.global.json,
        quiet: cli.global.quiet,
        yes: cli.global.yes,
    };
    match command::run(cli, terminal) {
        Ok(()) => ExitCode::SUCCESS,
        Err(complaint) => {
            terminal.complain(&complaint);
            ExitCode::from(complaint.kind.exit_code())
        }
    }
}

/// Help and version go to standard output; mistakes are told as clap tells them, or as JSON when that was asked for. A place that is
/// none is a complaint like any other: there may be no such space.
fn misunderstood(error: &clap::Error) -> ExitCode {
    let is_help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    let json = !is_help && std::env::args_os().any(|argument| argument == "--json");
    let place = error.source().and_then(|cause| cause.downcast_ref::<ParsePlaceError>());
    let complaint = match place {
        Some(place) => Complaint::from(place.clone()),
        None if json => Complaint::usage(first_line(error)).hint("`potluck help COMMAND` says how it is meant"),
        None => {
            // Nobody reads it: there is nothing else to say.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let terminal = Terminal {
        json,
        quiet: false,
        yes: false,
    };
    terminal.complain(&complaint);
    ExitCode::from(complaint.kind.exit_code())
}

fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    text.lines()
        .next()
        .unwrap_or_default()
        .trim_start_matches("error: ")
        .to_owned()
}

/// Logs go to standard error: of the product what matters, of its libraries what warns. `RUST_LOG` says it in detail.
fn log(cli: &Cli) {
    let default = match cli.global.verbose {
        _ if cli.global.quiet => "error",
        // What it finds, it tells in its own words.
        0 if matches!(cli.command, Command::Fsck { .. }) => "error",
        0 if cli.command.runs_node() => "warn,libp2p_kad=error,potluck=info",
        0 => "warn",
        1 => "info,potluck=debug",
        _ => "debug,potluck=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
}
