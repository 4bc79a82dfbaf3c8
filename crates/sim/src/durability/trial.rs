//! Pools of real nodes whose machines die for good and are replaced, until their files are lost.

use super::PoolModel;
use crate::{
    history::{in_simulated_time, is_well, put, read},
    ledger::{Content, Seen},
    machine::GRACE,
    plan::Plan,
    pool::Pool,
    world::{Diary, dice},
};
use potluck_node::{InviteOptions, Node};
use potluck_placement::{default_survive, geometry};
use potluck_store::{Crash, MemoryDisk};
use potluck_types::Dice;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};
use tokio::time::{Instant, sleep_until};

/// Who keeps the names: a machine that offers nothing, and is never lost.
const OWNER: usize = 0;
/// Files of each pool, of one stripe each.
const FILES: usize = 8;
const FILE_BYTES: usize = 100 << 10;
/// How often it is looked what is left.
const LOOK: Duration = Duration::from_secs(300);
/// How often it is looked whether a repair is over.
const LOOK_AT_REPAIR: Duration = Duration::from_secs(15);
const HOUR: f64 = 3600.0;

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// Machines that offer room.
    pub domains: usize,
    /// How long a machine lasts, on the whole.
    pub life: Duration,
    /// How long it takes until it is replaced, on the whole.
    pub replacement: Duration,
    /// How long a pool is watched at most.
    pub horizon: Duration,
}

/// What came of it.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct Count {
    /// Machines lost.
    pub machines: u64,
    /// Files watched.
    pub files: u64,
    /// Files lost.
    pub losses: u64,
    /// Pools that have lost any. Files of one pool go together, so this says how well the mean is known.
    pub pools_hit: u64,
    /// Hours that files were there, all files together.
    pub file_hours: f64,
    /// Repairs of which nothing else came in the way.
    pub repairs: u64,
    /// Hours that these took, together.
    pub repair_hours: f64,
    /// Bytes that were read for them.
    pub repair_read: u64,
    /// Bytes that they wrote.
    pub repair_written: u64,
}

impl Count {
    /// Adds another.
    pub fn add(&mut self, other: &Self) {
        self.machines += other.machines;
        self.files += other.files;
        self.losses += other.losses;
        self.pools_hit += other.pools_hit;
        self.file_hours += other.file_hours;
        self.repairs += other.repairs;
        self.repair_hours += other.repair_hours;
        self.repair_read += other.repair_read;
        self.repair_written += other.repair_written;
    }

    /// The mean time until a file was lost, in hours.
    pub fn mean_time_to_loss(&self) -> f64 {
        self.file_hours / self.losses as f64
    }

    /// What the model is asked to compare with it.
    pub fn model(&self, trial: &Trial) -> PoolModel {
        let repair = self.repair_hours / self.repairs.max(1) as f64;
        PoolModel {
            domains: trial.domains,
            geometry: geometry(trial.domains, default_survive(trial.domains)).expect("the default is always possible"),
            loss_rate: HOUR / trial.life.as_secs_f64(),
            repair,
            urgent_repair: (repair - GRACE.as_secs_f64() / HOUR).max(LOOK_AT_REPAIR.as_secs_f64() / HOUR),
            replacement: trial.replacement.as_secs_f64() / HOUR,
            latent: 0.0,
        }
    }
}

/// A waiting time of this mean.
fn some_time(dice: &mut Dice, mean: Duration) -> Duration {
    let uniform = (dice.roll(1 << 52) + 1) as f64 / (1u64 << 52) as f64;
    mean.mul_f64(-uniform.ln())
}

/// Watches one pool.
///
/// # Errors
///
/// What went wrong that no lost machine explains.
pub fn try_pool(trial: Trial, seed: u64) -> Result<Count, String> {
    let (count, panicked) = in_simulated_time(async move {
        let mut watched = Box::pin(Watched::begin(trial, seed)).await?;
        watched.watch().await?;
        Ok(watched.count)
    });
    panicked.map_or(count, Err)
}

/// What happens next to a machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Dies(usize),
    IsReplaced,
}

/// When a repair began, and what repairs had read and written until then.
#[derive(Clone, Copy)]
struct UnderWay {
    since: Instant,
    before: (u64, u64),
}

struct Watched {
    trial: Trial,
    pool: Pool,
    dice: Dice,
    next: BTreeMap<Instant, Next>,
    /// The repair that is under way, if nothing else came in its way.
    repair: Option<UnderWay>,
    gone: usize,
    files: BTreeSet<usize>,
    count: Count,
}

fn path(file: usize) -> String {
    format!("file-{file}")
}

fn content(file: usize) -> Content {
    Content {
        seed: file as u64,
        len: FILE_BYTES,
    }
}

impl Watched {
    /// A whole pool with files.
    async fn begin(trial: Trial, seed: u64) -> Result<Self, String> {
        let begun = Instant::now();
        let plan = Plan::uneventful(seed, trial.domains + 1);
        let mut pool = Pool::new(plan, Diary::new(begun, false), begun);
        pool.machines[OWNER].is_guest = true;
        pool.gather().await?;
        let mut watched = Self {
            trial,
            pool,
            dice: dice(seed, "deaths", 0),
            next: BTreeMap::new(),
            repair: None,
            gone: 0,
            files: (0..FILES).collect(),
            count: Count {
                files: FILES as u64,
                ..Count::default()
            },
        };
        let owner = watched.owner();
        sleep_until(begun + Duration::from_secs(60)).await;
        for file in 0..FILES {
            put(&owner, &path(file), content(file)).await?;
        }
        while !watched.is_whole().await? {
            sleep_until(Instant::now() + LOOK_AT_REPAIR).await;
            if begun.elapsed() > Duration::from_secs(3600) {
                return Err("the pool does not become whole".to_owned());
            }
        }
        for i in 1..=trial.domains {
            watched.will_die(i);
        }
        Ok(watched)
    }

    fn owner(&self) -> Node {
        self.pool.node(OWNER).cloned().expect("it is never lost")
    }

    fn plan(&mut self, mean: Duration, what: Next) {
        let at = Instant::now() + some_time(&mut self.dice, mean);
        self.next.insert(at, what);
    }

    fn will_die(&mut self, i: usize) {
        self.plan(self.trial.life, Next::Dies(i));
    }

    async fn is_whole(&self) -> Result<bool, String> {
        let status = self.owner().status().await.map_err(|error| error.to_string())?;
        Ok(status.silent.is_empty() && is_well(&status.health))
    }

    /// What repairs of those who are here have read and written.
    async fn repaired(&self) -> Result<(u64, u64), String> {
        let status = self.owner().status().await.map_err(|error| error.to_string())?;
        Ok((status.health.repair_read, status.health.repair_written))
    }

    async fn watch(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        let end = begun + self.trial.horizon;
        while Instant::now() < end && !self.files.is_empty() {
            let look = if self.repair.is_some() { LOOK_AT_REPAIR } else { LOOK };
            let look = Instant::now() + look;
            match self.next.first_entry().filter(|next| *next.key() <= look) {
                Some(entry) => {
                    let (at, next) = entry.remove_entry();
                    sleep_until(at).await;
                    self.happens(next).await?;
                }
                None => sleep_until(look).await,
            }
            if let Some(UnderWay { since, before }) = self.repair
                && self.is_whole().await?
            {
                self.repair = None;
                let (read, written) = self.repaired().await?;
                self.count.repairs += 1;
                self.count.repair_hours += since.elapsed().as_secs_f64() / HOUR;
                self.count.repair_read += read - before.0;
                self.count.repair_written += written - before.1;
            }
            self.look_for_losses(begun).await?;
        }
        self.count.pools_hit = u64::from(self.count.losses > 0);
        self.count.file_hours += self.files.len() as f64 * begun.elapsed().as_secs_f64() / HOUR;
        Ok(())
    }

    async fn happens(&mut self, next: Next) -> Result<(), String> {
        match next {
            Next::Dies(i) => {
                // A repair that has a machine to go to, and nothing else to wait for, is timed.
                let is_alone = self.gone == 0 && self.is_whole().await?;
                self.pool.kill(i, Crash::LoseAll);
                self.pool.machines[i].set_disk(MemoryDisk::default());
                let since = Instant::now();
                let before = self.repaired().await?;
                self.repair = is_alone.then_some(UnderWay { since, before });
                self.count.machines += 1;
                self.gone += 1;
                self.plan(self.trial.replacement, Next::IsReplaced);
            }
            Next::IsReplaced => {
                self.repair = None;
                self.gone -= 1;
                let options = InviteOptions {
                    uses: 1,
                    expires: Duration::from_secs(3600),
                    mine: false,
                };
                let invited = self.owner().invite(options).await;
                let ticket = invited.map_err(|error| error.to_string())?.ticket;
                let i = self.pool.add(&ticket).await?;
                self.will_die(i);
            }
        }
        Ok(())
    }

    /// Whether files are lost: fewer shards of one are left than it takes, on all disks together; or none of them has it as it was, since it was coded anew.
    async fn look_for_losses(&mut self, begun: Instant) -> Result<(), String> {
        let mut left: HashMap<_, BTreeSet<u8>> = HashMap::new();
        let mut needed = HashMap::new();
        for machine in &self.pool.machines {
            let Some(node) = &machine.node else { continue };
            let held = node.held(None, usize::MAX).await.map_err(|error| error.to_string())?;
            for held in held {
                left.entry(held.shard.stripe).or_default().insert(held.shard.index);
                needed.insert(held.shard.stripe, usize::from(held.geometry.k()));
            }
        }
        let sound = left
            .iter()
            .filter(|(stripe, left)| left.len() >= needed[*stripe])
            .count();
        if sound >= self.files.len() {
            return Ok(());
        }
        let mut lost = Vec::new();
        for file in &self.files {
            match read(&self.owner(), &path(*file)).await {
                Seen::Bytes(bytes) if bytes == content(*file).bytes() => {}
                Seen::Refused(_) => lost.push(*file),
                Seen::Bytes(_) => return Err(format!("{} has other bytes", path(*file))),
                Seen::Absent => return Err(format!("{} has no name any more", path(*file))),
            }
        }
        for file in lost {
            self.files.remove(&file);
            self.count.losses += 1;
            self.count.file_hours += begun.elapsed().as_secs_f64() / HOUR;
        }
        Ok(())
    }
}
