//! A pool of real processes: each machine is a daemon of the program that ships, in a network namespace and on a disk of its own. People put, get, overwrite and
//! remove, everything goes wrong that can, and a checker knows what was promised. `docs/chaos.md` says more.
//!
//! Parts:
//! - `plan`: what goes wrong, drawn from a seed. `network` and `machine` do it.
//! - `ledger`: what was promised.
//! - `chaos`: the run.
//! - `quiet` and `names`: what it costs while nothing goes wrong.
//!
//! **Invariant:** it knows nothing of the product but its command line: nothing of it is linked.

#![allow(clippy::print_stdout, reason = "this is a program for a terminal")]

mod chaos;
mod ledger;
mod machine;
mod names;
mod network;
mod plan;
mod quiet;
mod run;

use chaos::{Chaos, Sums};
use clap::Parser;
use plan::Fault;
use quiet::Cost;
use run::Failure;
use rustix::process::geteuid;
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Lets a pool of real processes live through everything that can go wrong, and checks every answer.
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    /// What goes wrong follows from it, but not to the millisecond: this is real time [default: another each time]
    #[arg(long)]
    seed: Option<u64>,
    /// For so many minutes, and until the last episode has ended.
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Machines.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(2..=60))]
    nodes: u64,
    /// So many of them are behind routers, which let nobody in [default: two of five or more; none with `--quiet` and `--other`]
    #[arg(long, value_name = "MACHINES", conflicts_with = "names")]
    behind: Option<u64>,
    /// Only this goes wrong, by its name in the report; may be given several times.
    #[arg(long, value_name = "FAULT")]
    only: Vec<Fault>,
    /// Nothing goes wrong and nobody works: tells what the pool costs then.
    #[arg(long)]
    quiet: bool,
    /// Nothing goes wrong, and there are so many small files: tells what it costs two machines to store them, to hear of them, and to list them.
    #[arg(long, value_name = "FILES", conflicts_with_all = ["quiet", "nodes", "minutes", "only"])]
    names: Option<u64>,
    /// The program [default: `potluck` beside this one]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Another version of it: every second machine begins with that, and machines change from one to the other and back.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quiet", "names"])]
    other: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(reason) = cannot() {
        println!("SKIPPED: {reason}");
        return ExitCode::SUCCESS;
    }
    let seed = arguments.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::from(now.subsec_nanos())
    });
    let only: String = arguments
        .only
        .iter()
        .map(|fault| format!(" --only '{}'", fault.name()))
        .collect();
    let other = arguments.other.as_ref();
    let other = other.map_or_else(String::new, |other| format!(" --other {}", other.display()));
    let again = format!(
        "potluck-chaos --seed {seed} --minutes {} --nodes {} --behind {}{only}{other}",
        arguments.minutes,
        arguments.nodes,
        behind(&arguments)
    );
    if arguments.names.is_none() {
        println!("{again}");
    }
    let folder = env::temp_dir().join(format!("potluck-chaos-{}", std::process::id()));
    match live(&arguments, seed, &folder) {
        Ok(Lived::Quietly(cost)) => {
            let _ = fs::remove_dir_all(&folder);
            println!(
                "{} machines: each sends {:.2} MB an hour in {:.1} packets a second, and takes {:.1} MB of memory",
                arguments.nodes,
                cost.sent / 1e6,
                cost.packets,
                cost.memory / 1e6
            );
            ExitCode::SUCCESS
        }
        Ok(Lived::Counting) => {
            let _ = fs::remove_dir_all(&folder);
            ExitCode::SUCCESS
        }
        Ok(Lived::Through(sums, broken)) => {
            report(&sums);
            match broken {
                None => {
                    let _ = fs::remove_dir_all(&folder);
                    println!("no promise was broken");
                    ExitCode::SUCCESS
                }
                Some(what) => {
                    println!("BROKEN: {what}");
                    println!("the logs are in {}; much the same again: {again}", folder.display());
                    ExitCode::FAILURE
                }
            }
        }
        Err(failure) => {
            println!("FAILED: {failure}; what there is of logs is in {}", folder.display());
            ExitCode::FAILURE
        }
    }
}

/// How many machines are behind routers. Each of these must reach others, and the first has founded the pool.
fn behind(arguments: &Arguments) -> u64 {
    let usual = match arguments.nodes {
        5.. if !arguments.quiet && arguments.other.is_none() => 2,
        _ => 0,
    };
    arguments.behind.unwrap_or(usual).min(arguments.nodes.saturating_sub(1))
}

/// Why it cannot run here, if so.
fn cannot() -> Option<String> {
    if !geteuid().is_root() {
        return Some("network namespaces and mounts need root".to_owned());
    }
    let missing = network::missing_tools();
    (!missing.is_empty()).then(|| format!("tools are missing; on Debian: apt-get install {}", missing.join(" ")))
}

/// What came of it.
enum Lived {
    Quietly(Cost),
    /// It was told on the way.
    Counting,
    /// What was counted, and what was broken.
    Through(Sums, Option<String>),
}

fn live(arguments: &Arguments, seed: u64, folder: &Path) -> Result<Lived, Failure> {
    let program = match &arguments.program {
        Some(program) => program.clone(),
        None => env::current_exe()
            .map_err(|error| Failure(error.to_string()))?
            .with_file_name("potluck"),
    };
    let program = found(&program, "`cargo build --release` makes it")?;
    let other = arguments.other.as_ref();
    let other = other.map(|other| found(other, "build it in a checkout of another version"));
    let other = other.transpose()?;
    machine::unmount_all();
    fs::create_dir_all(folder).map_err(|error| Failure(format!("{}: {error}", folder.display())))?;
    let stop = Arc::new(AtomicBool::new(false));
    end_on_ctrl_c(&stop);
    if let Some(files) = arguments.names {
        return names::measure(files, &program, folder).map(|()| Lived::Counting);
    }
    let [nodes, behind] = [arguments.nodes, behind(arguments)].map(|count| usize::try_from(count).unwrap_or(0));
    let chaos = Chaos::begin(nodes, behind, &program, other.as_deref(), folder)?;
    let time = Duration::from_secs_f64(arguments.minutes * 60.0);
    if arguments.quiet {
        return chaos.rest(time).map(Lived::Quietly);
    }
    let (sums, broken) = chaos.live(seed, time, &arguments.only, &stop);
    Ok(Lived::Through(sums, broken))
}

/// Where a program is, from wherever it is started.
fn found(program: &Path, hint: &str) -> Result<PathBuf, Failure> {
    let found = fs::canonicalize(program);
    found.map_err(|error| Failure(format!("{}: {error}: {hint}", program.display())))
}

/// The first Ctrl-C lets the episode end, and everything be cleaned up.
fn end_on_ctrl_c(stop: &Arc<AtomicBool>) {
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if let Ok(runtime) = runtime {
            let _ = runtime.block_on(tokio::signal::ctrl_c());
            println!("ending after this episode");
            stop.store(true, Ordering::Relaxed);
        }
    });
}

fn report(sums: &Sums) {
    println!("\ncommands:");
    for ((name, outcome), count) in &sums.commands {
        println!("  {name:<4} {outcome:<18} {count:>7}");
    }
    println!("{:.1} MB put and got, {} checks", sums.bytes as f64 / 1e6, sums.checks);
    println!("faults:");
    for (fault, count) in &sums.faults {
        println!("  {fault:<24} {count:>5}");
    }
    let slowest = sums.whole_after.iter().copied().fold(0.0, f64::max);
    println!(
        "whole again {} times, after {slowest:.1} s at most",
        sums.whole_after.len()
    );
    println!("a daemon takes {:.0} MB of memory at most", sums.memory as f64 / 1e6);
    println!("slowest:");
    for (seconds, what) in &sums.slowest {
        println!("  {seconds:>7.1} s  {what}");
    }
}
