//! Runs many histories, and tells what was broken; or computes and measures what docs tell in numbers (`tables`).

#![allow(clippy::print_stdout, reason = "this is a program for a terminal")]

mod jobs;
mod plot;
mod tables;

use clap::{Parser, Subcommand};
use jobs::each_seed;
use potluck_sim::{Outcome, Scale, history, shrink};
use std::{
    collections::BTreeMap,
    ops::Range,
    process::ExitCode,
    time::{Duration, Instant},
};
use tracing_subscriber::EnvFilter;

/// Simulates pools of Potluck nodes, from seeds: years in minutes, with everything going wrong that can.
#[derive(Parser, Debug)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    instead: Option<Instead>,
    /// The seeds: FIRST..BEYOND, or one.
    #[arg(long, default_value = "0..100", value_parser = seeds)]
    seeds: Range<u64>,
    /// Machines of each pool.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(2..=100))]
    nodes: u64,
    /// Days that pass in each history.
    #[arg(long, default_value_t = 30)]
    days: u64,
    /// Histories at a time, each in a thread of its own.
    #[arg(long, default_value_t = threads())]
    jobs: usize,
    /// Prints what happens; for one seed.
    #[arg(long)]
    aloud: bool,
    /// Does not look for a shorter history when a promise is broken.
    #[arg(long)]
    no_shrink: bool,
}

#[derive(Subcommand, Debug)]
enum Instead {
    /// Computes how long data lasts in common pools, as a table.
    Durability(tables::Assumptions),
    /// Lets machines of real pools die and be replaced far too often, and compares how soon files are lost with what is computed.
    Trial(tables::Trials),
    /// Measures what a pool costs in which nothing happens, by the number of its machines.
    Quiet(tables::Sizes),
    /// Loses machines of a large pool, and tells how soon all is whole again: real planners, transfers by a model.
    Recovery(tables::Losses),
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("`{text}`: {error}"));
    let range = match text.split_once("..") {
        Some((first, beyond)) => number(first)?..number(beyond)?,
        None => number(text)?..number(text)? + 1,
    };
    if range.is_empty() {
        return Err("there is no seed in this range: write FIRST..BEYOND".to_owned());
    }
    Ok(range)
}

/// What all histories came to.
#[derive(Default)]
struct Sum {
    histories: u64,
    passed: Duration,
    faults: BTreeMap<(u8, &'static str), u64>,
    checks: u64,
    operations: u64,
    refused: u64,
    checkpoints: (u64, u64),
    repaired: u64,
    carried: u64,
    events: u64,
    memory: usize,
    broken: BTreeMap<u64, String>,
}

impl Sum {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.histories += 1;
        self.passed += outcome.passed;
        for (kind, count) in outcome.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        self.checks += outcome.checks;
        self.operations += outcome.operations;
        self.refused += outcome.refused;
        self.checkpoints.0 += outcome.checkpoints;
        self.checkpoints.1 += outcome.checkpoints_taken;
        self.repaired += outcome.repaired;
        self.carried += outcome.carried;
        self.events += outcome.events;
        self.memory = self.memory.max(outcome.memory);
        if let Some(violation) = outcome.violation {
            self.broken.insert(seed, violation);
        }
    }

    fn print(&self, took: Duration) {
        let years = self.passed.as_secs_f64() / (365.25 * 86_400.0);
        let per_hour = years / took.as_secs_f64() * 3600.0;
        println!(
            "\n{} histories, {years:.1} simulated years in {:.0} s: {per_hour:.0} years an hour",
            self.histories,
            took.as_secs_f64()
        );
        println!(
            "{} operations ({} refused or without an answer), {} checks, {} events",
            self.operations, self.refused, self.checks, self.events
        );
        let (made, taken) = self.checkpoints;
        println!("{made} checkpoints made, and {taken} times one was taken by a machine that came later");
        println!(
            "{:.1} MB made anew by repairs, {:.1} MB carried",
            self.repaired as f64 / 1e6,
            self.carried as f64 / 1e6
        );
        println!(
            "{:.0} MB of memory in all nodes of the histories told at one time, at most, beside their disks",
            self.memory as f64 / 1e6
        );
        println!("faults:");
        for ((number, name), count) in &self.faults {
            println!("  {number:>2} {name:<32} {count:>9}");
        }
    }
}

fn ended(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            println!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // What nodes complain of while their disks fail is of interest for one seed at most.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match &arguments.instead {
        Some(Instead::Durability(assumptions)) => {
            assumptions.print();
            return ExitCode::SUCCESS;
        }
        Some(Instead::Trial(trials)) => return ended(trials.run(arguments.jobs)),
        Some(Instead::Quiet(sizes)) => return ended(sizes.run()),
        Some(Instead::Recovery(losses)) => return ended(losses.run()),
        None => {}
    }
    let scale = Scale {
        nodes: arguments.nodes as usize,
        days: arguments.days,
    };
    let begun = Instant::now();
    let mut sum = Sum::default();
    each_seed(
        arguments.seeds.clone(),
        arguments.jobs,
        |seed| history(seed, scale, arguments.aloud),
        |seed, outcome| {
            if let Some(violation) = &outcome.violation {
                println!("seed {seed}: {violation}");
            }
            sum.add(seed, outcome);
        },
    );
    sum.print(begun.elapsed());
    let Some((seed, violation)) = sum.broken.first_key_value() else {
        println!("no promise was broken");
        return ExitCode::SUCCESS;
    };
    println!(
        "\n{} seeds broke a promise. The first, {seed}: {violation}",
        sum.broken.len()
    );
    println!(
        "Again: cargo run -p potluck-sim --release -- --seeds {seed} --nodes {} --days {} --aloud",
        arguments.nodes, arguments.days
    );
    if !arguments.no_shrink
        && let Some(short) = shrink(*seed, scale)
    {
        println!("\nShort ({} histories tried):", short.attempts);
        short.story.iter().for_each(|line| println!("  {line}"));
        println!("  {}", short.outcome.violation.unwrap_or_default());
    }
    ExitCode::FAILURE
}
