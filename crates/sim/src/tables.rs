//! What the docs tell in numbers, as tables: how long data lasts, computed and tried; what a resting pool costs; how soon a large one is whole again.

#![allow(clippy::print_stdout, reason = "this is a program for a terminal")]

use crate::{
    jobs::each_seed,
    plot::{Line, svg},
};
use clap::Args;
use potluck_placement::{default_survive, geometry};
use potluck_sim::{Count, Loss, PoolModel, Quiet, Trial, nines, quiet, recover, try_pool};
use std::{path::PathBuf, time::Duration};

const YEAR_HOURS: f64 = 24.0 * 365.25;

/// What is assumed of machines and homes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Assumptions {
    /// Of a hundred machines so many are lost for good in a year.
    #[arg(long, default_value_t = 10.0)]
    machines_lost_percent: f64,
    /// Of a hundred homes so many lose all machines at once in a year: fire, water, theft.
    #[arg(long, default_value_t = 0.3)]
    homes_lost_percent: f64,
    /// Days until another machine is there in the place of one that was lost.
    #[arg(long, default_value_t = 30.0)]
    replaced_after_days: f64,
    /// Gigabytes that a machine holds.
    #[arg(long, default_value_t = 1000.0)]
    gigabytes: f64,
    /// Shards of a million that go bad on a machine in a year.
    #[arg(long, default_value_t = 10.0)]
    rot_per_million: f64,
    /// Days in which all shards are read and checked.
    #[arg(long, default_value_t = 14.0)]
    scrub_days: f64,
    /// Hours that an absent machine is waited for.
    #[arg(long, default_value_t = 0.25)]
    grace_hours: f64,
}

/// A pool of the table.
struct Common {
    name: &'static str,
    /// Failure domains, and machines in each.
    domains: usize,
    machines_each: usize,
    /// Bytes a second that each machine sends.
    rate: f64,
    /// Whether each domain is a home of its own.
    is_apart: bool,
}

const LAN: f64 = 100e6;
const UPLINK: f64 = 2.5e6;

const fn common(name: &'static str, domains: usize, machines_each: usize, rate: f64, is_apart: bool) -> Common {
    Common {
        name,
        domains,
        machines_each,
        rate,
        is_apart,
    }
}

const POOLS: [Common; 12] = [
    common("2 machines in one home", 2, 1, LAN, false),
    common("3 machines in one home", 3, 1, LAN, false),
    common("5 machines in one home", 5, 1, LAN, false),
    common("2 homes with 3 machines each, as zones", 2, 3, UPLINK, true),
    common("3 homes with 2 machines each, as zones", 3, 2, UPLINK, true),
    common("3 machines in 3 homes", 3, 1, UPLINK, true),
    common("4 machines in 4 homes", 4, 1, UPLINK, true),
    common("5 machines in 5 homes", 5, 1, UPLINK, true),
    common("8 machines in 8 homes", 8, 1, UPLINK, true),
    common("12 machines in 12 homes", 12, 1, UPLINK, true),
    common("30 machines in 30 homes", 30, 1, UPLINK, true),
    common("100 machines in 100 homes", 100, 1, UPLINK, true),
];

impl Assumptions {
    /// What a pool makes of them, for data that survives so many losses.
    fn model(&self, pool: &Common, survives: u8) -> Option<PoolModel> {
        let geometry = geometry(pool.domains, survives).ok()?;
        let machine = self.machines_lost_percent / 100.0 / YEAR_HOURS;
        let home = self.homes_lost_percent / 100.0 / YEAR_HOURS;
        let home = if pool.is_apart { home } else { 0.0 };
        // Of each lost shard k others are read and one is written, by all who are left.
        let left = (pool.domains * pool.machines_each - 1) as f64;
        let bytes = (f64::from(geometry.k()) + 1.0) * self.gigabytes * 1e9;
        let transfer = bytes / (left * pool.rate) / 3600.0;
        let repair = self.grace_hours + transfer;
        let replaced = self.replaced_after_days * 24.0;
        // In a zone with several machines another one takes the shards of one that is lost.
        let replacement = if pool.machines_each > 1 {
            (machine * repair + home * replaced) / (machine + home)
        } else {
            replaced
        };
        Some(PoolModel {
            domains: pool.domains,
            geometry,
            loss_rate: machine + home,
            repair,
            urgent_repair: transfer,
            replacement,
            latent: self.rot_per_million / 1e6 / YEAR_HOURS * self.scrub_days * 24.0 / 2.0,
        })
    }

    pub(crate) fn print(&self) {
        println!("| pool | survives | coding | repair | a stripe is lost in a year with | nines | and with the home |");
        println!("| --- | --- | --- | --- | --- | --- | --- |");
        for pool in &POOLS {
            let usual = default_survive(pool.domains);
            for survives in [usual, usual + 1] {
                let Some(model) = self.model(pool, survives) else {
                    continue;
                };
                let loss = model.yearly_loss();
                let with_home = if pool.is_apart {
                    "counted".to_owned()
                } else {
                    let all = loss + self.homes_lost_percent / 100.0;
                    format!("{:.1}", nines(all))
                };
                println!(
                    "| {} | {survives}{} | {} of {} | {} | {loss:.1e} | {:.1} | {with_home} |",
                    pool.name,
                    if survives == usual { ", as usual" } else { "" },
                    model.geometry.k(),
                    model.geometry.n(),
                    hours(model.repair),
                    nines(loss),
                );
            }
        }
    }
}

fn hours(hours: f64) -> String {
    if hours < 48.0 {
        format!("{hours:.1} h")
    } else {
        format!("{:.1} d", hours / 24.0)
    }
}

/// What is tried: machines that die far too often, until files are lost.
#[derive(Args, Clone, Debug)]
pub(crate) struct Trials {
    /// Machines of each pool that offer room.
    #[arg(long, default_value_t = 5)]
    machines: usize,
    /// Hours that a machine lasts, on the whole.
    #[arg(long, default_value_t = 30.0)]
    life_hours: f64,
    /// Hours until it is replaced, on the whole.
    #[arg(long, default_value_t = 6.0)]
    replacement_hours: f64,
    /// Days that each pool is watched at most.
    #[arg(long, default_value_t = 30.0)]
    days: f64,
    /// Pools.
    #[arg(long, default_value_t = 40)]
    pools: u64,
    /// The first of their seeds.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl Trials {
    pub(crate) fn run(&self, jobs: usize) -> Result<(), String> {
        let trial = Trial {
            domains: self.machines,
            life: Duration::from_secs_f64(self.life_hours * 3600.0),
            replacement: Duration::from_secs_f64(self.replacement_hours * 3600.0),
            horizon: Duration::from_secs_f64(self.days * 86_400.0),
        };
        let (mut count, mut failed) = (Count::default(), Ok(()));
        each_seed(
            self.seed..self.seed + self.pools,
            jobs,
            |seed| try_pool(trial, seed),
            |seed, counted| match counted {
                Ok(more) => count.add(&more),
                Err(error) => failed = Err(format!("seed {seed}: {error}")),
            },
        );
        failed?;
        let model = count.model(&trial);
        println!(
            "{} pools of {} machines, coded {} of {}; {} machines lost; a repair took {:.2} h ({} of them timed)",
            self.pools,
            self.machines,
            model.geometry.k(),
            model.geometry.n(),
            count.machines,
            model.repair,
            count.repairs,
        );
        println!(
            "of each shard made anew {:.2} were read",
            count.repair_read as f64 / count.repair_written.max(1) as f64
        );
        println!(
            "{} of {} files lost in {:.0} hours, by {} of the pools",
            count.losses, count.files, count.file_hours, count.pools_hit
        );
        if count.losses == 0 {
            return Err("none was lost: let machines die sooner, or watch more pools".to_owned());
        }
        let (seen, computed) = (count.mean_time_to_loss(), model.mean_time_to_loss());
        println!(
            "until a file is lost: {seen:.0} h seen, {computed:.0} h computed, {:.2} times as long (give or take {:.2})",
            seen / computed,
            seen / computed / (count.pools_hit as f64).sqrt()
        );
        Ok(())
    }
}

/// Pools that are measured while nothing happens.
#[derive(Args, Clone, Debug)]
pub(crate) struct Sizes {
    /// How many machines each has.
    #[arg(long, value_delimiter = ',', default_value = "5,10,20,40")]
    machines: Vec<usize>,
    /// Files that each person has stored.
    #[arg(long, default_value_t = 8)]
    files: usize,
    /// Their seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Draws it, too.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

impl Sizes {
    pub(crate) fn run(&self) -> Result<(), String> {
        println!("| machines | requests and replies, KB a node and hour | gossip, KB a node and hour |");
        println!("| --- | --- | --- |");
        let mut measured = Vec::new();
        for machines in &self.machines {
            let quiet = quiet(*machines, self.files, self.seed);
            let quiet = quiet.map_err(|error| format!("{machines} machines: {error}"))?;
            println!("| {machines} | {:.1} | {:.1} |", quiet.asked / 1e3, quiet.heard / 1e3);
            measured.push(quiet);
        }
        self.draw(&measured)
    }

    fn draw(&self, measured: &[Quiet]) -> Result<(), String> {
        let Some(file) = &self.plot else {
            return Ok(());
        };
        let line = |name, of: fn(&Quiet) -> f64| {
            let points = measured.iter().map(|quiet| (quiet.nodes as f64, of(quiet) / 1e3));
            Line {
                name,
                points: points.collect(),
            }
        };
        let lines = [
            line("requests and replies that a machine sends", |quiet| quiet.asked),
            line("gossip that a machine hears", |quiet| quiet.heard),
        ];
        let drawn = svg("machines of the pool", "KB an hour, while nothing happens", &lines);
        std::fs::write(file, drawn).map_err(|error| format!("{}: {error}", file.display()))
    }
}

/// A large pool that loses machines.
#[derive(Args, Clone, Debug)]
pub(crate) struct Losses {
    /// Machines of the pool.
    #[arg(long, default_value_t = 1000)]
    machines: usize,
    /// Stripes.
    #[arg(long, default_value_t = 10_000_000)]
    stripes: u64,
    /// How many machines are lost at once.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    lost: Vec<usize>,
    /// They are one zone.
    #[arg(long)]
    together: bool,
    /// How many losses the data survives.
    #[arg(long, default_value_t = 2)]
    survive: u8,
    /// Bytes of a shard: an eighteenth of 4 MiB.
    #[arg(long, default_value_t = 233_024)]
    shard: u32,
    /// Bytes a second that each machine sends and receives: 100 Mbit/s.
    #[arg(long, default_value_t = 12_500_000)]
    rate: u64,
}

impl Losses {
    pub(crate) fn run(&self) -> Result<(), String> {
        println!(
            "| machines | stripes | lost | coding | stripes touched | beyond repair | made anew | whole after | at least | beside the grace period |"
        );
        println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
        for lost in &self.lost {
            let loss = Loss {
                nodes: self.machines,
                stripes: self.stripes,
                lost: *lost,
                together: self.together,
                survives: self.survive,
                shard_len: self.shard,
                rate: self.rate,
            };
            let recovered = recover(loss);
            let recovered = recovered.map_err(|error| format!("{lost} of {} machines lost: {error}", self.machines))?;
            let ratio =
                (recovered.took - recovered.grace).as_secs_f64() / (recovered.least - recovered.grace).as_secs_f64();
            println!(
                "| {} | {} | {lost} | {} of {} | {} | {} | {} shards, {} read | {:.0} s | {:.0} s | {ratio:.2} times |",
                self.machines,
                self.stripes,
                recovered.geometry.k(),
                recovered.geometry.n(),
                recovered.touched,
                recovered.gone,
                recovered.made,
                recovered.read,
                recovered.took.as_secs_f64(),
                recovered.least.as_secs_f64(),
            );
        }
        Ok(())
    }
}
