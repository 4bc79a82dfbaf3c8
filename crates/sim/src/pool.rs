//! A pool of simulated machines, and everything that can be done to it.

use crate::{
    liar::Liar,
    machine::Machine,
    plan::{Fault, NetworkKind, Plan},
    weather::{CALM, Climate, SharedWeather, SimWeather},
    world::{Diary, dice},
};
use potluck_net::MemoryNetwork;
use potluck_node::{InviteOptions, Node};
use potluck_store::{Crash, MemoryDisk, Mishap};
use potluck_types::{Dice, NodeId, Zone};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// After how long of silence a connection counts as lost.
const SILENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether the power is gone.
const POWER_POLL: Duration = Duration::from_millis(20);
/// As `potluck leave` looks whether all is handed over: so often in a row.
const DEPARTURE_LOOKS: u32 = 4;
const DEPARTURE_POLL: Duration = Duration::from_millis(500);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// What is done later.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Later {
    /// The machine is switched on, if it is not.
    Start(usize),
    /// So many times more it is killed as soon as it runs.
    Crash(usize, u32),
    /// Whether the power has gone by itself.
    LookAtPower(usize),
    /// Connections that nothing goes through are lost.
    Silence(usize),
    /// It is stopped no longer.
    Thaw(usize),
    /// Its ways are open again.
    Open(usize),
    /// They close and open, so many times more.
    Flap(usize, u32),
    /// Its disk and its network are as they should be.
    Recover(usize),
    /// How far it is with handing over what it holds; so many times in a row there was nothing left.
    LookAtDeparture(usize, u32),
    /// Its person says that it is lost.
    Forget(usize),
    /// A new machine takes its place.
    Replace(usize),
}

/// See the module.
pub(crate) struct Pool {
    pub(crate) plan: Plan,
    pub(crate) machines: Vec<Machine>,
    pub(crate) network: MemoryNetwork,
    pub(crate) weather: SharedWeather,
    pub(crate) diary: Diary,
    pub(crate) dice: Dice,
    /// What is due, in order; those of one time in the order in which they were thought of.
    later: BTreeMap<(Instant, u64), Later>,
    thought_of: u64,
    /// What machines were some time ago.
    images: BTreeMap<usize, MemoryDisk>,
    cut_off: BTreeSet<NodeId>,
    /// Whose disks have reported errors.
    failed_disks: BTreeSet<usize>,
    pub(crate) injected: BTreeMap<(u8, &'static str), u64>,
    /// Who has turned, in place of the machine.
    liars: BTreeMap<usize, Liar>,
    /// Who ever has.
    pub(crate) turned: BTreeSet<NodeId>,
    /// Who hands over what it holds, to leave.
    departing: BTreeSet<usize>,
    /// Who is lost or taken out and not yet replaced; and whether the pool has been told.
    gone: BTreeMap<usize, bool>,
    begun: Instant,
}

/// Where some data is to be, in some histories.
pub(crate) const REGION: &str = "inside";

fn crash_of(torn: u64) -> Crash {
    match torn % 3 {
        0 => Crash::LoseAll,
        1 => Crash::Torn(torn),
        _ => Crash::Scattered(torn),
    }
}

impl Pool {
    /// Machines that are not switched on yet.
    pub(crate) fn new(plan: Plan, diary: Diary, begun: Instant) -> Self {
        let weather = Arc::new(SimWeather::new(dice(plan.seed, "weather", 0), diary.clone()));
        let alone = (0..plan.domains.len()).all(|i| plan.domains[i] == i);
        let zone = |domain: usize| -> Option<Zone> {
            let name = format!("zone-{domain}");
            (!alone).then(|| name.parse().expect("letters and digits"))
        };
        let machines = (0..plan.users.len())
            .map(|i| {
                let mut machine = Machine::new(i, plan.users[i], zone(plan.domains[i]), plan.seed, begun);
                machine.is_crowded = plan.crowded == Some(i);
                machine.region = plan.confined.as_ref().map(|confined| {
                    let region = if confined.inside[i] { REGION } else { "elsewhere" };
                    region.parse().expect("letters")
                });
                machine.make_room();
                machine
            })
            .collect();
        Self {
            dice: dice(plan.seed, "pool", 0),
            machines,
            network: MemoryNetwork::with_weather(Arc::<SimWeather>::clone(&weather)),
            weather,
            diary,
            later: BTreeMap::new(),
            thought_of: 0,
            images: BTreeMap::new(),
            cut_off: BTreeSet::new(),
            failed_disks: BTreeSet::new(),
            injected: BTreeMap::new(),
            liars: BTreeMap::new(),
            turned: BTreeSet::new(),
            departing: BTreeSet::new(),
            gone: BTreeMap::new(),
            begun,
            plan,
        }
    }

    /// The first machine founds the pool, the first of each person joins it, and then their others.
    pub(crate) async fn gather(&mut self) -> Result<(), String> {
        let (network, mut first_of) = (self.network.clone(), BTreeMap::new());
        for i in 0..self.machines.len() {
            let user = self.machines[i].user;
            let id = match (first_of.get(&user).copied(), i) {
                (_, 0) => self.machines[i]
                    .found(&network)
                    .await
                    .map_err(|error| error.to_string())?,
                (of_same, _) => {
                    let inviter = of_same.unwrap_or(0);
                    let options = InviteOptions {
                        uses: 1,
                        expires: HOUR,
                        mine: of_same.is_some(),
                    };
                    let invited = self.node(inviter).ok_or("the inviter runs not")?.invite(options).await;
                    let ticket = invited.map_err(|error| error.to_string())?.ticket;
                    let joined = self.machines[i].join(&network, &ticket).await;
                    joined.map_err(|error| error.to_string())?
                }
            };
            first_of.entry(user).or_insert(i);
            self.weather.set_disk(id, self.machines[i].disk());
        }
        Ok(())
    }

    /// Another machine comes with a ticket, of a person of its own.
    pub(crate) async fn add(&mut self, ticket: &str) -> Result<usize, String> {
        let (i, network) = (self.machines.len(), self.network.clone());
        let mut machine = Machine::new(i, i, None, self.plan.seed, self.begun);
        let joined = machine.join(&network, ticket).await;
        let id = joined.map_err(|error| error.to_string())?;
        self.weather.set_disk(id, machine.disk());
        self.machines.push(machine);
        Ok(i)
    }

    pub(crate) fn node(&self, i: usize) -> Option<&Node> {
        self.machines[i].node.as_ref()
    }

    /// Whether its node runs and belongs to the pool.
    pub(crate) fn is_member(&self, i: usize) -> bool {
        self.node(i).is_some() && !self.gone.contains_key(&i)
    }

    /// Another machine of the same person.
    fn other_of_same(&self, i: usize) -> Option<&Node> {
        let is_one = |j: &usize| *j != i && self.machines[*j].user == self.machines[i].user && self.is_member(*j);
        (0..self.machines.len()).find(is_one).and_then(|j| self.node(j))
    }

    /// Whether its person has another machine that is in the pool, and stays.
    fn is_replaceable(&self, i: usize) -> bool {
        let stays = |j: &usize| !self.gone.contains_key(j) && !self.departing.contains(j);
        let is_same = |j: &usize| *j != i && self.machines[*j].user == self.machines[i].user;
        (0..self.machines.len()).filter(is_same).any(|j| stays(&j))
    }

    fn id(&self, i: usize) -> NodeId {
        self.machines[i].id.expect("it has run")
    }

    fn others(&self, i: usize) -> Vec<NodeId> {
        let others = self.machines.iter().filter(|machine| machine.index != i);
        others.filter_map(|machine| machine.id).collect()
    }

    /// When something is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.later.keys().next().map(|(at, _)| *at)
    }

    fn after(&mut self, delay: Duration, what: Later) {
        self.thought_of += 1;
        self.later.insert((Instant::now() + delay, self.thought_of), what);
    }

    fn some_time(&mut self, least: Duration, most: Duration) -> Duration {
        let spread = u64::try_from((most - least).as_millis()).unwrap_or(1);
        least + Duration::from_millis(self.dice.roll(spread))
    }

    /// Does what is due.
    pub(crate) async fn do_due(&mut self) {
        while let Some(entry) = self.later.first_entry().filter(|entry| entry.key().0 <= Instant::now()) {
            let what = entry.remove();
            self.do_later(what).await;
        }
    }

    async fn do_later(&mut self, what: Later) {
        match what {
            Later::Start(i) => self.start(i).await,
            Later::Crash(i, times) => {
                if self.node(i).is_some() {
                    self.kill(i, Crash::KeepAll);
                }
                let pause = self.some_time(Duration::from_millis(100), 5 * Duration::from_secs(1));
                self.after(Duration::from_millis(1), Later::Start(i));
                if times > 0 {
                    self.after(pause, Later::Crash(i, times - 1));
                }
            }
            Later::LookAtPower(i) => {
                let disk = self.machines[i].disk();
                if disk.is_off() {
                    let torn = self.dice.roll(u64::MAX);
                    self.kill(i, crash_of(torn));
                    let pause = self.some_time(Duration::from_secs(5), 30 * MINUTE);
                    self.after(pause, Later::Start(i));
                } else if self.node(i).is_some() {
                    self.after(POWER_POLL, Later::LookAtPower(i));
                }
            }
            Later::Silence(i) => {
                let me = self.id(i);
                for other in self.others(i) {
                    if self.weather.is_closed(me, other) || self.weather.is_closed(other, me) {
                        self.network.unlink(me, other);
                    }
                }
            }
            Later::Thaw(i) => self.weather.set_frozen(self.id(i), false),
            Later::Open(i) => self.close(i, false, |_| true),
            Later::Flap(i, times) => {
                let is_closed = times % 2 == 1;
                self.close(i, is_closed, |_| true);
                self.after(SILENCE, Later::Silence(i));
                let pause = self.some_time(Duration::from_secs(5), 2 * MINUTE);
                if times > 0 {
                    self.after(pause, Later::Flap(i, times - 1));
                }
            }
            Later::Recover(i) => self.recover(i),
            Later::LookAtDeparture(i, looks) => self.look_at_departure(i, looks).await,
            Later::Forget(i) => match self.forget(i).await {
                Ok(()) => {
                    let pause = self.some_time(MINUTE, HOUR);
                    self.after(pause, Later::Replace(i));
                }
                Err(_) => self.after(5 * MINUTE, Later::Forget(i)),
            },
            Later::Replace(i) => {
                if let Err(reason) = self.replace(i).await {
                    self.diary.tell(&format!("machine {i} is not replaced yet: {reason}"));
                    self.after(5 * MINUTE, Later::Replace(i));
                }
            }
        }
    }

    /// Goes when all that it holds is handed over, as `potluck leave` does.
    async fn look_at_departure(&mut self, i: usize, looks: u32) {
        if !self.departing.contains(&i) {
            return;
        }
        let Some(node) = self.node(i).cloned() else {
            return self.after(MINUTE, Later::LookAtDeparture(i, 0));
        };
        match node.leave_progress().await {
            Ok(progress) if !progress.is_leaving => {
                // It was started anew meanwhile.
                let _ = node.leave().await;
                self.after(MINUTE, Later::LookAtDeparture(i, 0));
            }
            Ok(progress) if progress.shards_left == 0 && looks + 1 >= DEPARTURE_LOOKS => {
                if let Err(reason) = node.part().await {
                    self.diary.tell(&format!("machine {i} does not leave: {reason}"));
                    return self.after(MINUTE, Later::LookAtDeparture(i, 0));
                }
                self.diary.tell(&format!("machine {i} has left"));
                self.machines[i].stop().await;
                self.departing.remove(&i);
                self.gone.insert(i, true);
                let pause = self.some_time(Duration::from_secs(1), HOUR);
                self.after(pause, Later::Replace(i));
            }
            Ok(progress) if progress.shards_left == 0 => {
                self.after(DEPARTURE_POLL, Later::LookAtDeparture(i, looks + 1));
            }
            _ => self.after(MINUTE, Later::LookAtDeparture(i, 0)),
        }
    }

    /// Its person says on another machine that it belongs to them no longer.
    async fn forget(&mut self, i: usize) -> Result<(), String> {
        let other = self.other_of_same(i).cloned().ok_or("nobody can say so")?;
        other.forget(self.id(i)).await.map_err(|error| error.to_string())?;
        self.diary.tell(&format!("machine {i} is a member no longer"));
        self.gone.insert(i, true);
        Ok(())
    }

    /// A new machine of the same person comes in its place.
    async fn replace(&mut self, i: usize) -> Result<(), String> {
        let other = self.other_of_same(i).cloned().ok_or("nobody can invite it")?;
        self.liars.remove(&i);
        if self.node(i).is_some() {
            self.kill(i, Crash::KeepAll);
        }
        let options = InviteOptions {
            uses: 1,
            expires: HOUR,
            mine: true,
        };
        let invited = other.invite(options).await.map_err(|error| error.to_string())?;
        self.machines[i].set_disk(MemoryDisk::default());
        self.machines[i].make_room();
        let network = self.network.clone();
        let joined = self.machines[i].join(&network, &invited.ticket).await;
        let id = joined.map_err(|error| error.to_string())?;
        self.weather.set_disk(id, self.machines[i].disk());
        self.gone.remove(&i);
        self.images.remove(&i);
        self.failed_disks.remove(&i);
        self.diary.tell(&format!("machine {i} is a new one"));
        Ok(())
    }

    fn recover(&mut self, i: usize) {
        let disk = self.machines[i].disk();
        disk.recover();
        self.machines[i].make_room();
        let id = self.id(i);
        self.weather.set_slow(id, None);
        self.weather.set_garbling(id, None);
    }

    /// Closes or opens the ways between a machine and those others of which this says so.
    fn close(&mut self, i: usize, closed: bool, which: impl Fn(usize) -> bool) {
        let me = self.id(i);
        if !closed {
            self.cut_off.remove(&me);
        }
        for (at, other) in self.others(i).into_iter().enumerate() {
            // Who is cut off from all stays so.
            if which(at) && (closed || !self.cut_off.contains(&other)) {
                self.weather.set_closed(me, other, closed);
                self.weather.set_closed(other, me, closed);
            }
        }
    }

    pub(crate) fn kill(&mut self, i: usize, crash: Crash) {
        self.diary.tell(&format!("machine {i} is killed: {crash:?}"));
        let network = self.network.clone();
        self.machines[i].kill(&network, crash);
        self.weather.set_disk(self.id(i), self.machines[i].disk());
    }

    pub(crate) async fn start(&mut self, i: usize) {
        if self.node(i).is_some() || self.gone.contains_key(&i) {
            return;
        }
        self.liars.remove(&i);
        let network = self.network.clone();
        match self.machines[i].start(&network).await {
            Ok(_) => self.diary.tell(&format!("machine {i} runs")),
            Err(error) => {
                self.diary.tell(&format!("machine {i} does not start: {error}"));
                self.after(5 * MINUTE, Later::Start(i));
            }
        }
    }

    /// Notes how machines are now, to be rolled back to it later.
    pub(crate) fn take_images(&mut self, of: &BTreeSet<usize>) {
        let image = |i: &usize| (*i, self.machines[*i].disk().image());
        self.images = of.iter().map(image).collect();
    }

    pub(crate) fn set_network(&self, kind: NetworkKind) {
        let far = Climate {
            delay: Duration::from_millis(40),
            jitter: Duration::from_millis(60),
            rate: 2 << 20,
            ..CALM
        };
        self.weather.set_climate(match kind {
            NetworkKind::Calm => CALM,
            NetworkKind::Lossy => Climate { lost: 30, ..CALM },
            NetworkKind::Distant => far,
            NetworkKind::Rumours => Climate {
                gossip_lost: 300,
                gossip_twice: 300,
                ..far
            },
        });
    }

    pub(crate) fn has_suffered(&self, fault: Fault) -> bool {
        self.injected.contains_key(&fault.kind())
    }

    /// Something goes wrong with a machine.
    pub(crate) async fn suffer(&mut self, i: usize, fault: Fault) {
        if self.gone.contains_key(&i) {
            return;
        }
        if matches!(fault, Fault::Expelled | Fault::Replaced | Fault::Moves) && !self.is_replaceable(i) {
            self.diary.tell(&format!(
                "machine {i} stays: its person has no other to bring a new one in"
            ));
            return;
        }
        self.diary.tell(&format!("machine {i}: {fault:?}"));
        *self.injected.entry(fault.kind()).or_default() += 1;
        let a_while = self.some_time(MINUTE, 6 * HOUR);
        let pack = || ".pack".to_owned();
        let disk = self.machines[i].disk();
        match fault {
            Fault::Rot { share } => self.rot(i, share),
            Fault::PowerCut { torn } => {
                self.kill(i, crash_of(torn));
                self.after(a_while, Later::Start(i));
            }
            Fault::KillNow => {
                self.kill(i, Crash::KeepAll);
                self.after(a_while, Later::Start(i));
            }
            Fault::KillAtStep { steps } => {
                disk.cut_at(disk.steps() + steps);
                self.after(POWER_POLL, Later::LookAtPower(i));
            }
            Fault::CrashLoop => self.after(Duration::ZERO, Later::Crash(i, 6)),
            Fault::Restart => {
                self.machines[i].stop().await;
                self.weather.set_disk(self.id(i), self.machines[i].disk());
                let pause = self.some_time(Duration::from_secs(1), 10 * MINUTE);
                self.after(pause, Later::Start(i));
            }
            Fault::RolledBack => {
                self.kill(i, Crash::KeepAll);
                if let Some(image) = self.images.get(&i) {
                    self.machines[i].set_disk(image.image());
                    self.weather.set_disk(self.id(i), self.machines[i].disk());
                }
                self.after(MINUTE, Later::Start(i));
            }
            Fault::Wiped => {
                self.kill(i, Crash::KeepAll);
                self.machines[i].disk().wipe(|name| name.starts_with("home/store/"));
                self.after(MINUTE, Later::Start(i));
            }
            Fault::Phantom => disk.befall(Mishap::Phantom(pack(), 2)),
            Fault::Misdirected => disk.befall(Mishap::Misdirected(pack(), 4096, 1)),
            Fault::Misread => disk.befall(Mishap::Misread(pack(), 8192, 2)),
            Fault::ReadErrors => {
                let from = self.dice.roll(1 << 20);
                disk.befall(Mishap::Reads(pack(), from..from + 65_536));
            }
            Fault::WriteErrors => disk.befall(Mishap::Writes(pack(), 3)),
            Fault::SyncErrors => disk.befall(Mishap::Syncs(pack(), 2)),
            Fault::DiskFull => {
                let room = self.dice.roll(2 << 20);
                disk.leave_free(Some(room));
            }
            Fault::ReadOnly => disk.befall(Mishap::ReadOnly),
            Fault::OutOfFiles => disk.befall(Mishap::Opens(20)),
            Fault::SlowDisk => self.weather.set_slow(self.id(i), Some(Duration::from_secs(3))),
            Fault::SlowSender => self.weather.set_slow(self.id(i), Some(Duration::from_secs(15))),
            Fault::Stopped => {
                self.weather.set_frozen(self.id(i), true);
                self.after(SILENCE, Later::Silence(i));
                let pause = self.some_time(MINUTE, 10 * MINUTE);
                self.after(pause, Later::Thaw(i));
            }
            Fault::ClockJump { days } => self.machines[i].clock.jump(days * 24 * 3_600_000),
            Fault::ClockDrift { parts_per_million } => self.machines[i].clock.drift(parts_per_million),
            Fault::Loss => self.weather.set_climate(Climate { lost: 100, ..CALM }),
            Fault::OneWay => {
                let me = self.id(i);
                for other in self.others(i) {
                    self.weather.set_closed(me, other, true);
                }
                self.after(SILENCE, Later::Silence(i));
                self.after(a_while, Later::Open(i));
            }
            Fault::Bridge => {
                self.close(i, true, |at| at % 2 == 0);
                self.after(SILENCE, Later::Silence(i));
                self.after(a_while, Later::Open(i));
            }
            Fault::CutOff | Fault::Swizzle => {
                self.cut_off.insert(self.id(i));
                self.close(i, true, |_| true);
                self.after(SILENCE, Later::Silence(i));
                self.after(a_while, Later::Open(i));
            }
            Fault::Flapping => self.after(Duration::ZERO, Later::Flap(i, 41)),
            Fault::Garbled => self.weather.set_garbling(self.id(i), Some(20)),
            Fault::Turned { manner } => {
                self.kill(i, Crash::KeepAll);
                let dice = Dice(self.dice.roll(u64::MAX));
                let liar = Liar::turn(&self.network, self.id(i), self.others(i), manner, dice);
                self.liars.insert(i, liar);
                self.turned.insert(self.id(i));
                self.after(a_while, Later::Start(i));
            }
            Fault::Expelled => {
                // It runs on, and tries what it could before, until the end of the episode.
                if let Err(reason) = self.forget(i).await {
                    self.diary.tell(&format!("machine {i} stays a member: {reason}"));
                }
            }
            Fault::Replaced => {
                self.liars.remove(&i);
                self.kill(i, Crash::LoseAll);
                self.departing.remove(&i);
                self.gone.insert(i, false);
                self.after(a_while, Later::Forget(i));
            }
            Fault::Moves => {
                if let Some(node) = self.node(i).cloned()
                    && self.departing.insert(i)
                {
                    let _ = node.leave().await;
                    self.after(MINUTE, Later::LookAtDeparture(i, 0));
                }
            }
        }
        let fails = matches!(
            fault,
            Fault::WriteErrors | Fault::SyncErrors | Fault::ReadOnly | Fault::OutOfFiles | Fault::DiskFull
        );
        if fails {
            self.failed_disks.insert(i);
        }
        let passes = matches!(
            fault,
            Fault::ReadErrors
                | Fault::DiskFull
                | Fault::ReadOnly
                | Fault::SlowDisk
                | Fault::SlowSender
                | Fault::Garbled
                | Fault::OutOfFiles
        );
        if passes {
            self.after(a_while, Later::Recover(i));
        }
    }

    /// Flips bits of stored shards.
    fn rot(&mut self, i: usize, bits: u64) {
        let disk = self.machines[i].disk();
        let packs = disk.packs();
        for _ in 0..bits {
            if packs.is_empty() {
                return;
            }
            let name = &packs[self.dice.roll(packs.len() as u64) as usize];
            let (at, bit) = (self.dice.roll(u64::MAX), self.dice.roll(8));
            disk.tamper(name, |bytes| {
                if !bytes.is_empty() {
                    let at = (at % bytes.len() as u64) as usize;
                    bytes[at] ^= 1 << bit;
                }
            });
        }
    }

    /// All that can be mended is: machines are switched on, ways are open, disks work, clocks are set.
    pub(crate) async fn heal(&mut self) -> Result<(), String> {
        self.later.clear();
        self.weather.clear_up();
        self.cut_off.clear();
        for i in 0..self.machines.len() {
            if self.machines[i].disk().is_off() {
                self.kill(i, Crash::LoseAll);
            }
            self.recover(i);
            self.machines[i].disk().stay_on();
            self.machines[i].clock.jump(0);
            self.machines[i].clock.drift(0);
            if self.failed_disks.remove(&i) && self.node(i).is_some() {
                // Whoever mends a disk starts the node anew.
                self.kill(i, Crash::KeepAll);
            }
            self.start(i).await;
        }
        for i in std::mem::take(&mut self.departing) {
            // Who has not left by now stays.
            if let Some(node) = self.node(i) {
                node.stay();
            }
        }
        for (i, is_told) in self.gone.clone() {
            if !is_told {
                self.forget(i).await?;
            }
            let replaced = self.replace(i).await;
            replaced.map_err(|reason| format!("machine {i} cannot be replaced: {reason}"))?;
        }
        Ok(())
    }
}
