//! What happens in a simulated history, drawn from its seed before it begins: so that any part of it can be left out, to find the part that matters.
//!
//! A history is a row of episodes. In each some machines, at most as many failure domains as data survives the loss of, suffer one thing or another, while people
//! go on working; then all that can be mended is mended, and the pool must become whole by itself. In some episodes far more is away at once, for a while.

use crate::{liar::Manner, world};
use potluck_types::Dice;
use std::{collections::BTreeSet, time::Duration};

/// How large a history is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scale {
    /// Machines of the pool.
    pub nodes: usize,
    /// Days that pass.
    pub days: u64,
}

/// A whole history.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// Whose each machine is.
    pub(crate) users: Vec<usize>,
    /// With which each machine fails together.
    pub(crate) domains: Vec<usize>,
    /// Whether all people work in one space that the first of them has founded, in place of one each.
    pub(crate) is_shared: bool,
    /// Whether the others are let into one directory of it alone: only the first does what takes all of the space.
    pub(crate) is_alone: bool,
    /// Where what people have in the spaces that they found may be, when not everywhere.
    pub(crate) confined: Option<Confined>,
    /// A machine whose disk others have filled: it has room for names, and none for shards.
    pub(crate) crowded: Option<usize>,
    pub(crate) episodes: Vec<Episode>,
}

/// Two of three failure domains stand in one region, where some data is to be.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Confined {
    /// Whether each machine stands there.
    pub(crate) inside: Vec<bool>,
    /// Whether that is said only when there is data already.
    pub(crate) is_late: bool,
}

impl Confined {
    /// Fewer would bear fewer losses than the pool does.
    const DOMAINS_MIN: usize = 5;

    fn draw(seed: u64, domains: &[usize]) -> Option<Self> {
        let mut dice = world::dice(seed, "regions", 0);
        let is_inside = |domain: &usize| domain % 3 != 2;
        let within: BTreeSet<usize> = domains.iter().copied().filter(is_inside).collect();
        let is_drawn = dice.roll(3) == 0 && within.len() >= Self::DOMAINS_MIN;
        is_drawn.then(|| Self {
            inside: domains.iter().map(is_inside).collect(),
            is_late: dice.roll(2) == 0,
        })
    }
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Episode {
    pub(crate) length: Duration,
    pub(crate) network: NetworkKind,
    /// Machines that may suffer: their domains are as many as data survives the loss of, or more when it is a flood.
    pub(crate) victims: BTreeSet<usize>,
    /// More is away at once than can be borne: what cannot be read must come back with those who come back.
    pub(crate) is_flood: bool,
    /// In order of time.
    pub(crate) steps: Vec<(Duration, Step)>,
}

/// How the network is during an episode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NetworkKind {
    Calm,
    /// Packets are lost.
    Lossy,
    /// Long ways.
    Distant,
    /// Gossip is lost, late, repeated and out of order.
    Rumours,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Step {
    Work(Work),
    Snapshot(SnapshotWork),
    Link(LinkWork),
    /// An owner's machine makes a checkpoint.
    Checkpoint {
        chance: u64,
    },
    Fault {
        machine: usize,
        fault: Fault,
    },
}

/// What people do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Work {
    /// A new file, or new content for one that is there.
    Put {
        file: u64,
        len: usize,
        content: u64,
        chance: u64,
    },
    Remove {
        file: u64,
        chance: u64,
        /// What becomes of it.
        how: Removing,
    },
    Read {
        file: u64,
        chance: u64,
    },
}

/// What people do with snapshots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SnapshotWork {
    Take {
        chance: u64,
    },
    /// A file is read as one has it.
    Read {
        chance: u64,
    },
    /// All that one has is brought back.
    Restore {
        chance: u64,
    },
    Remove {
        chance: u64,
    },
}

/// What becomes of what is removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Removing {
    ToTheTrash,
    /// It is let go of at once.
    Now,
    /// It is erased, with all its versions.
    ForEver,
}

/// What people do with links.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LinkWork {
    Make { chance: u64 },
    Open { chance: u64 },
    Revoke { chance: u64 },
}

/// What goes wrong with a machine. The numbers are those of the catalogue of faults.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    Rot { share: u64 },
    PowerCut { torn: u64 },
    Phantom,
    Misdirected,
    Misread,
    ReadErrors,
    WriteErrors,
    SyncErrors,
    DiskFull,
    SlowDisk,
    RolledBack,
    Wiped,
    ReadOnly,
    OutOfFiles,
    KillAtStep { steps: u64 },
    Stopped,
    KillNow,
    CrashLoop,
    ClockJump { days: i64 },
    ClockDrift { parts_per_million: i64 },
    Loss,
    OneWay,
    Bridge,
    Flapping,
    Swizzle,
    SlowSender,
    CutOff,
    Garbled,
    Turned { manner: Manner },
    Restart,
    Expelled,
    Replaced,
    Moves,
}

impl Fault {
    /// Its number in the catalogue, and its name.
    pub(crate) fn kind(self) -> (u8, &'static str) {
        match self {
            Self::Rot { .. } => (1, "bit rot"),
            Self::PowerCut { .. } => (2, "torn write at a power cut"),
            Self::Phantom => (3, "phantom write"),
            Self::Misdirected => (4, "misdirected write"),
            Self::Misread => (5, "misdirected read"),
            Self::ReadErrors => (6, "read errors"),
            Self::WriteErrors => (7, "write errors"),
            Self::SyncErrors => (8, "sync fails, then succeeds"),
            Self::DiskFull => (9, "disk full"),
            Self::SlowDisk => (10, "slow disk"),
            Self::RolledBack => (11, "rolled back to an old image"),
            Self::Wiped => (12, "data wiped, identity kept"),
            Self::ReadOnly => (13, "read-only remount"),
            Self::OutOfFiles => (15, "out of file descriptors"),
            Self::KillAtStep { .. } => (16, "kill at a change of the disk"),
            Self::Stopped => (17, "process stopped for a while"),
            Self::KillNow => (18, "kill"),
            Self::CrashLoop => (19, "crash loop"),
            Self::ClockJump { .. } => (24, "clock jump"),
            Self::ClockDrift { .. } => (25, "clock drift"),
            Self::Loss => (27, "packet loss"),
            Self::OneWay => (30, "one-way partition"),
            Self::Bridge => (31, "bridge partition"),
            Self::Flapping => (32, "flapping"),
            Self::Swizzle => (33, "swizzle-clog"),
            Self::SlowSender => (34, "slow-loris"),
            Self::CutOff => (30, "cut off"),
            Self::Garbled => (39, "corruption past the checksum"),
            Self::Turned { manner: Manner::Ages } => (43, "a member that tells what was, signed"),
            Self::Turned { .. } => (40, "a member that lies"),
            Self::Expelled => (45, "taken out while it runs"),
            Self::Restart => (46, "restart in order"),
            Self::Replaced => (46, "lost, forgotten and replaced"),
            Self::Moves => (46, "leaves in order, and is replaced"),
        }
    }

    /// Whether what the machine held may be lost for good.
    pub(crate) fn destroys(self) -> bool {
        matches!(
            self,
            Self::Rot { .. }
                | Self::Phantom
                | Self::Misdirected
                | Self::RolledBack
                | Self::Wiped
                | Self::SyncErrors
                | Self::ReadErrors
                | Self::Expelled
                | Self::Replaced
        )
    }

    /// Whether what the machine held counts as lost, for a while at least. One that leaves in order hands it over first.
    pub(crate) fn loses(self) -> bool {
        self != Self::Moves
    }
}

const HOUR: Duration = Duration::from_secs(3600);
/// Files that one person has at most.
const FILES_MAX: u64 = 24;

fn pick<T: Copy>(dice: &mut Dice, of: &[T]) -> T {
    of[dice.roll(of.len() as u64) as usize]
}

fn moment(dice: &mut Dice, length: Duration) -> Duration {
    Duration::from_millis(dice.roll(u64::try_from(length.as_millis()).unwrap_or(1)))
}

fn length(dice: &mut Dice) -> usize {
    let most = match dice.roll(10) {
        0..4 => 4 << 10,
        4..8 => 200 << 10,
        8 => 700 << 10,
        _ => 2 << 20,
    };
    1 + dice.roll(most) as usize
}

fn work(dice: &mut Dice) -> Work {
    let (file, chance) = (dice.roll(FILES_MAX), dice.roll(u64::MAX));
    match dice.roll(10) {
        0..5 => Work::Put {
            file,
            len: length(dice),
            content: dice.roll(u64::MAX),
            chance,
        },
        5 => Work::Remove {
            file,
            chance,
            how: Removing::ToTheTrash,
        },
        _ => Work::Read { file, chance },
    }
}

fn fault(dice: &mut Dice) -> Fault {
    let torn = dice.roll(u64::MAX);
    match dice.roll(34) {
        0 => Fault::Rot {
            share: 1 + dice.roll(50),
        },
        1 => Fault::PowerCut { torn },
        2 => Fault::Phantom,
        3 => Fault::Misdirected,
        4 => Fault::Misread,
        5 => Fault::ReadErrors,
        6 => Fault::WriteErrors,
        7 => Fault::SyncErrors,
        8 => Fault::DiskFull,
        9 => Fault::SlowDisk,
        10 => Fault::RolledBack,
        11 => Fault::Wiped,
        12 => Fault::ReadOnly,
        13 => Fault::OutOfFiles,
        14 | 15 => Fault::KillAtStep {
            steps: 1 + dice.roll(60),
        },
        16 => Fault::Stopped,
        17 => Fault::KillNow,
        18 => Fault::CrashLoop,
        19 => Fault::ClockJump {
            days: pick(dice, &[-365, -30, -1, 1, 30, 365]),
        },
        20 => Fault::ClockDrift {
            parts_per_million: pick(dice, &[-500, 500, 5000]),
        },
        21 => Fault::Loss,
        22 => Fault::OneWay,
        23 => Fault::Bridge,
        24 => Fault::Flapping,
        25 => Fault::Swizzle,
        26 => Fault::SlowSender,
        27 => Fault::CutOff,
        28 => Fault::Garbled,
        29 => Fault::Turned {
            manner: pick(dice, &Manner::ALL),
        },
        30 => Fault::Expelled,
        31 => Fault::Replaced,
        32 => Fault::Moves,
        _ => Fault::Restart,
    }
}

impl Plan {
    /// The history of a seed.
    pub(crate) fn draw(seed: u64, scale: Scale) -> Self {
        let mut dice = world::dice(seed, "plan", 0);
        let persons = 1 + dice.roll(3).min(scale.nodes as u64 / 3) as usize;
        // Each person has two machines at least, so that one can be read where another wrote.
        let users = (0..scale.nodes).map(|i| i % persons).collect();
        let in_zones = dice.roll(3) == 0 && scale.nodes >= 8;
        let domains: Vec<usize> = (0..scale.nodes).map(|i| if in_zones { i / 2 } else { i }).collect();
        let crowded = (dice.roll(4) == 0 && scale.nodes >= 6).then(|| dice.roll(scale.nodes as u64) as usize);
        let mut episodes = Vec::new();
        let (mut passed, whole) = (Duration::ZERO, Duration::from_secs(scale.days * 24 * 3600));
        while passed < whole {
            let episode = Episode::draw(&mut dice, &domains);
            // What comes after an episode until the pool is whole again.
            passed += episode.length + 4 * HOUR;
            episodes.push(episode);
        }
        let is_shared = persons > 1 && world::dice(seed, "people", 0).roll(2) == 0;
        let mut plan = Self {
            seed,
            users,
            is_shared,
            is_alone: is_shared && world::dice(seed, "directories", 0).roll(2) == 0,
            confined: Confined::draw(seed, &domains),
            domains,
            crowded,
            episodes,
        };
        plan.forgive();
        plan.add_snapshots();
        plan.add_links();
        plan.add_erasures();
        plan.add_checkpoints();
        plan
    }

    /// In a third of the histories people take snapshots, and half of what they remove is to go at once.
    fn add_snapshots(&mut self) {
        let mut dice = world::dice(self.seed, "snapshots", 0);
        if dice.roll(3) != 0 {
            return;
        }
        for episode in &mut self.episodes {
            for (_, step) in &mut episode.steps {
                if let Step::Work(Work::Remove { how, .. }) = step
                    && dice.roll(2) == 0
                {
                    *how = Removing::Now;
                }
            }
            episode.add(&mut dice, |dice| {
                let (kind, chance) = (dice.roll(8), dice.roll(u64::MAX));
                Step::Snapshot(match kind {
                    0..3 => SnapshotWork::Take { chance },
                    3..6 => SnapshotWork::Read { chance },
                    6 => SnapshotWork::Restore { chance },
                    _ => SnapshotWork::Remove { chance },
                })
            });
        }
    }

    /// In a third of them people erase.
    fn add_erasures(&mut self) {
        let mut dice = world::dice(self.seed, "erasures", 0);
        if dice.roll(3) != 0 {
            return;
        }
        for episode in &mut self.episodes {
            episode.add(&mut dice, |dice| {
                Step::Work(Work::Remove {
                    file: dice.roll(FILES_MAX),
                    chance: dice.roll(u64::MAX),
                    how: Removing::ForEver,
                })
            });
        }
    }

    /// In half of them there are checkpoints.
    fn add_checkpoints(&mut self) {
        let mut dice = world::dice(self.seed, "checkpoints", 0);
        if dice.roll(2) != 0 {
            return;
        }
        for episode in &mut self.episodes {
            episode.add(&mut dice, |dice| Step::Checkpoint {
                chance: dice.roll(u64::MAX),
            });
        }
    }

    /// In a third of them people make links.
    fn add_links(&mut self) {
        let mut dice = world::dice(self.seed, "links", 0);
        if dice.roll(3) != 0 {
            return;
        }
        for episode in &mut self.episodes {
            episode.add(&mut dice, |dice| {
                let (kind, chance) = (dice.roll(8), dice.roll(u64::MAX));
                Step::Link(match kind {
                    0..3 => LinkWork::Make { chance },
                    3..7 => LinkWork::Open { chance },
                    _ => LinkWork::Revoke { chance },
                })
            });
        }
    }

    /// One machine turns once: who turns again and again is rightly doubted for a month.
    fn forgive(&mut self) {
        let steps = self.episodes.iter_mut().flat_map(|episode| &mut episode.steps);
        let faults = steps.filter_map(|(_, step)| match step {
            Step::Fault { fault, .. } => Some(fault),
            Step::Work(_) | Step::Snapshot(_) | Step::Link(_) | Step::Checkpoint { .. } => None,
        });
        let turns = faults.filter(|fault| matches!(fault, Fault::Turned { .. }));
        turns.skip(1).for_each(|fault| *fault = Fault::Restart);
    }

    /// So many machines, each of a person of its own, to which nothing happens.
    pub(crate) fn uneventful(seed: u64, machines: usize) -> Self {
        Self {
            seed,
            users: (0..machines).collect(),
            domains: (0..machines).collect(),
            is_shared: false,
            is_alone: false,
            confined: None,
            crowded: None,
            episodes: Vec::new(),
        }
    }

    /// How many losses data of this pool survives.
    pub(crate) fn survives(&self) -> usize {
        let with_room = (0..self.domains.len()).filter(|i| Some(*i) != self.crowded);
        let domains: BTreeSet<_> = with_room.map(|i| self.domains[i]).collect();
        usize::from(potluck_placement::default_survive(domains.len()))
    }
}

impl Episode {
    /// Adds a few steps, at any time.
    fn add(&mut self, dice: &mut Dice, step: impl Fn(&mut Dice) -> Step) {
        for _ in 0..2 + dice.roll(6) {
            let when = moment(dice, self.length);
            self.steps.push((when, step(dice)));
        }
        self.steps.sort_by_key(|(when, _)| *when);
    }

    fn draw(dice: &mut Dice, domains: &[usize]) -> Self {
        let length = HOUR * (6 + dice.roll(36) as u32);
        let nodes = domains.len();
        let is_flood = dice.roll(6) == 0;
        let all: BTreeSet<_> = domains.iter().copied().collect();
        let survived = u64::from(potluck_placement::default_survive(all.len()));
        let count = if is_flood {
            all.len() as u64 / 2
        } else {
            dice.roll(survived + 1)
        };
        let mut struck = BTreeSet::new();
        while (struck.len() as u64) < count {
            struck.insert(dice.roll(all.len() as u64) as usize);
        }
        let victims: BTreeSet<usize> = (0..nodes).filter(|i| struck.contains(&domains[*i])).collect();
        let at = |dice: &mut Dice| moment(dice, length);
        let mut steps: Vec<(Duration, Step)> = Vec::new();
        for _ in 0..3 + dice.roll(8) {
            let when = at(dice);
            steps.push((when, Step::Work(work(dice))));
        }
        let victims_in_order: Vec<usize> = victims.iter().copied().collect();
        if is_flood {
            let when = at(dice);
            let fault = pick(
                dice,
                &[
                    Fault::CutOff,
                    Fault::KillNow,
                    Fault::PowerCut { torn: 7 },
                    Fault::Stopped,
                ],
            );
            steps.extend(victims_in_order.iter().map(|machine| {
                let step = Step::Fault {
                    machine: *machine,
                    fault,
                };
                (when, step)
            }));
        } else if !victims_in_order.is_empty() {
            for _ in 0..1 + dice.roll(4) {
                let (when, machine) = (at(dice), pick(dice, &victims_in_order));
                let fault = fault(dice);
                steps.push((when, Step::Fault { machine, fault }));
                // People are at work when it happens.
                let near = when.saturating_sub(Duration::from_millis(dice.roll(100)));
                steps.push((near, Step::Work(work(dice))));
            }
        }
        steps.sort_by_key(|(when, _)| *when);
        let network = pick(
            dice,
            &[
                NetworkKind::Calm,
                NetworkKind::Calm,
                NetworkKind::Lossy,
                NetworkKind::Distant,
                NetworkKind::Rumours,
            ],
        );
        Self {
            length,
            network,
            victims,
            is_flood,
            steps,
        }
    }
}
