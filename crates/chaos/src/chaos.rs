//! The run: people work on all machines, things go wrong, all is mended again; every answer is held against what was promised.

use crate::{
    ledger::{Content, Promise, Seen, Verdict},
    machine::{Machine, Seat},
    network::Network,
    plan::{Dice, Episode, Fault},
    quiet::{self, Cost},
    run::{Ended, Failure},
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Files that people work with.
const FILES: u64 = 24;
/// People who work at the same time.
const PEOPLE: u64 = 3;
/// No command may take longer on a machine with which nothing is wrong.
const COMMAND_MAX: Duration = Duration::from_secs(180);
/// How long a machine may give what was before.
const STALE_MAX: Duration = Duration::from_secs(45);
/// So soon all is whole again when everything was mended.
const WHOLE_MAX: Duration = Duration::from_secs(600);
/// No daemon may ever take more memory: it is bounded, whatever goes wrong and however much is stored.
const MEMORY_MAX: u64 = 512 << 20;
/// Bits that flip in a database.
const NAMES_FLIPPED: u64 = 4;
/// Larger packets vanish where large ones do: IPv6 promises 1,280 bytes.
const LARGE_PACKET: u64 = 1300;
/// How long a fault lasts before the next, or the end of the episode.
const FAULT_LASTS: Duration = Duration::from_secs(12);
const POLL: Duration = Duration::from_millis(500);

/// What was counted.
#[derive(Default, Debug)]
pub(crate) struct Sums {
    /// Commands by name and outcome.
    pub(crate) commands: BTreeMap<(&'static str, &'static str), u64>,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    pub(crate) bytes: u64,
    /// What took longest: seconds, and what it was.
    pub(crate) slowest: Vec<(f64, String)>,
    pub(crate) whole_after: Vec<f64>,
    pub(crate) checks: u64,
    /// The most memory that a daemon has taken, in bytes.
    pub(crate) memory: u64,
}

/// What people and faults share.
struct State {
    promises: BTreeMap<String, Promise>,
    busy: BTreeSet<String>,
    hurt: BTreeSet<usize>,
    /// People rest: nobody begins anything.
    is_resting: bool,
    sums: Sums,
    broken: Option<String>,
}

/// See the module.
pub(crate) struct Chaos {
    state: Mutex<State>,
    network: Network,
    machines: Mutex<Vec<Machine>>,
    seats: Vec<Seat>,
    folder: PathBuf,
    begun: Instant,
    survives: usize,
    /// There is another version of the program.
    has_other: bool,
    over: AtomicBool,
    number: AtomicU64,
}

impl Chaos {
    /// A pool of so many machines, all of one person, that sees itself whole. The last ones are behind routers. With another version of the program every second
    /// one begins with that.
    pub(crate) fn begin(
        count: usize,
        behind: usize,
        program: &Path,
        other: Option<&Path>,
        folder: &Path,
    ) -> Result<Self, Failure> {
        let network = Network::build(count, behind)?;
        let mut machines = Vec::new();
        for index in 0..count {
            let mut machine = Machine::new(index, &network, program, folder)?;
            if let Some(other) = other {
                machine.may_change(other, folder)?;
                if index % 2 == 1 {
                    machine.change_version()?;
                }
            }
            machines.push(machine);
        }
        machines[0].found()?;
        let ticket = machines[0].seat.ticket()?;
        for machine in &mut machines[1..] {
            machine.join(&ticket)?;
        }
        let chaos = Self {
            state: Mutex::new(State {
                promises: BTreeMap::new(),
                busy: BTreeSet::new(),
                hurt: BTreeSet::new(),
                is_resting: false,
                sums: Sums::default(),
                broken: None,
            }),
            seats: machines.iter().map(|machine| machine.seat.clone()).collect(),
            survives: if count >= 4 { 2 } else { 1 },
            has_other: other.is_some(),
            network,
            machines: Mutex::new(machines),
            folder: folder.to_owned(),
            begun: Instant::now(),
            over: AtomicBool::new(false),
            number: AtomicU64::new(0),
        };
        chaos.becomes_whole("at the beginning");
        Ok(chaos)
    }

    /// What it costs while nothing happens.
    pub(crate) fn rest(&self, time: Duration) -> Result<Cost, Failure> {
        quiet::measure(&self.machines(), time)
    }

    /// Lives through episodes until the time is over, something is broken, or somebody says so. Gives what was counted, and what was broken.
    /// With `only` nothing but these faults comes.
    pub(crate) fn live(self, seed: u64, length: Duration, only: &[Fault], stop: &AtomicBool) -> (Sums, Option<String>) {
        let mut possible = if only.is_empty() {
            Fault::ALL.to_vec()
        } else {
            only.to_vec()
        };
        if !self.network.has_netem() {
            possible.retain(|fault| *fault != Fault::Slow);
            self.tell("this kernel has no netem: nothing is delayed but by queues");
        }
        if crate::machine::faketime().is_none() {
            possible.retain(|fault| !matches!(fault, Fault::ClockAhead | Fault::ClockBehind));
            self.tell("libfaketime is not installed: clocks are right (on Debian: apt-get install faketime)");
        }
        if !self.has_other {
            possible.retain(|fault| *fault != Fault::OtherVersion);
        }
        if possible.is_empty() {
            let nothing = "nothing of what was asked for can go wrong on this machine";
            return (Sums::default(), Some(nothing.to_owned()));
        }
        thread::scope(|scope| {
            for person in 0..PEOPLE {
                let chaos = &self;
                scope.spawn(move || chaos.work(Dice::new(seed ^ (person + 1).rotate_left(40))));
            }
            let mut dice = Dice::new(seed);
            while self.begun.elapsed() < length && self.is_well() && !stop.load(Ordering::Relaxed) {
                let episode = Episode::draw(&mut dice, self.seats.len(), self.survives, &possible);
                if let Err(failure) = self.live_through(&episode, &mut dice) {
                    self.breaks(format!("a fault could not be made, or mended: {failure}"));
                }
                if !self.is_well() {
                    // Nobody waits for one that is frozen.
                    let _ = self.mend(&episode);
                }
            }
            self.over.store(true, Ordering::Relaxed);
        });
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        (state.sums, state.broken)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn machines(&self) -> MutexGuard<'_, Vec<Machine>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, what: &str) {
        println!("{:>7.1} s  {what}", self.begun.elapsed().as_secs_f64());
    }

    fn breaks(&self, what: String) {
        self.tell(&format!("BROKEN: {what}"));
        self.state().broken.get_or_insert(what);
    }

    fn is_well(&self) -> bool {
        self.state().broken.is_none()
    }

    fn live_through(&self, episode: &Episode, dice: &mut Dice) -> Result<(), Failure> {
        for (machine, fault) in &episode.faults {
            self.tell(&format!("machine {machine}: {}", fault.name()));
            {
                let mut state = self.state();
                *state.sums.faults.entry(fault.name()).or_default() += 1;
                state.hurt.insert(*machine);
                state.promises.values_mut().for_each(|promise| promise.hurt(*machine));
            }
            self.strike(*machine, *fault, episode, dice)?;
            self.pause(FAULT_LASTS);
        }
        self.tell("all is mended");
        self.mend(episode)?;
        if !self.becomes_whole("after an episode") {
            return Ok(());
        }
        let is_rotten = |(_, fault): &(usize, Fault)| matches!(fault, Fault::Rot | Fault::RotAsleep);
        if episode.faults.iter().any(is_rotten) {
            self.find_rot()?;
        }
        self.state().hurt.clear();
        self.check_all(dice);
        self.check_memory();
        Ok(())
    }

    fn check_memory(&self) {
        let most = self
            .machines()
            .iter()
            .filter_map(Machine::memory_peak)
            .max()
            .unwrap_or(0);
        let mut state = self.state();
        state.sums.checks += 1;
        state.sums.memory = state.sums.memory.max(most);
        drop(state);
        if most > MEMORY_MAX {
            self.breaks(format!("a daemon has taken {most} bytes of memory"));
        }
    }

    fn pause(&self, length: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < length && self.is_well() {
            thread::sleep(POLL);
        }
    }

    fn strike(&self, index: usize, fault: Fault, episode: &Episode, dice: &mut Dice) -> Result<(), Failure> {
        let others = || (0..self.seats.len()).filter(move |other| *other != index);
        let mut machines = self.machines();
        let machine = &mut machines[index];
        match fault {
            Fault::Killed => machine.kill(),
            Fault::CrashLoop => {
                for _ in 0..3 {
                    machine.kill();
                    machine.start(None)?;
                }
            }
            Fault::Frozen => machine.freeze(),
            Fault::CutOff => self.network.cut_off(index)?,
            Fault::OneWay => {
                for other in others().filter(|other| other % 2 == 0) {
                    self.network.block(index, other)?;
                }
            }
            Fault::Bridge => {
                // Where there is but one victim, another does not hear it, and suffers from nothing else.
                let next = (index + 1) % self.seats.len();
                let other = episode.victims.iter().copied().find(|other| *other != index);
                let other = other.unwrap_or(next);
                self.network.block(index, other)?;
                self.network.block(other, index)?;
            }
            Fault::Narrow => self.network.narrow(index, 2000)?,
            Fault::Lossy => self.network.lose(index, 10)?,
            Fault::Slow => self.network.delay(index, 150)?,
            Fault::BlackHole => self.network.swallow_large(index, LARGE_PACKET)?,
            Fault::NoUdp => self.network.refuse_udp(index)?,
            Fault::Rebound => self.network.rebind(index)?,
            Fault::FullDisk => machine.fill(),
            Fault::Rot | Fault::RotAsleep => {
                if fault == Fault::RotAsleep {
                    machine.kill();
                }
                let flipped = machine.rot(20, |sides| dice.roll(sides));
                self.tell(&format!("{flipped} bits are flipped"));
                if fault == Fault::RotAsleep {
                    machine.start(None)?;
                }
            }
            Fault::RotNames => {
                machine.kill();
                let flipped = machine.rot_names(NAMES_FLIPPED, |sides| dice.roll(sides));
                self.tell(&format!("{flipped} bits are flipped"));
                if machine.start(None).is_err() {
                    self.tell("it does not start with that");
                    machine.kill();
                }
            }
            Fault::ClockAhead | Fault::ClockBehind => {
                machine.kill();
                let clock = if fault == Fault::ClockAhead { "+1d" } else { "-1d" };
                machine.start(Some(clock.to_owned()))?;
            }
            Fault::OtherVersion => {
                machine.kill();
                machine.change_version()?;
                let before = machine.log_len();
                if let Err(failure) = machine.start(None) {
                    // An older one may not read what a newer one has written: it says so, and changes nothing.
                    if !machine.has_refused(before) {
                        return Err(failure);
                    }
                    self.tell("it does not start with an older version, and says so: it goes back");
                    machine.kill();
                    machine.change_version()?;
                    machine.start(None)?;
                }
            }
        }
        Ok(())
    }

    fn mend(&self, episode: &Episode) -> Result<(), Failure> {
        let has_wrong_clock = |index: usize| {
            let is_clock = |fault: Fault| matches!(fault, Fault::ClockAhead | Fault::ClockBehind);
            episode
                .faults
                .iter()
                .any(|(victim, fault)| *victim == index && is_clock(*fault))
        };
        let has_rotten_names = |index: usize| episode.faults.contains(&(index, Fault::RotNames));
        for index in &episode.victims {
            self.network.mend(*index)?;
            let mut machines = self.machines();
            let machine = &mut machines[*index];
            machine.thaw();
            machine.unfill();
            if has_wrong_clock(*index) || machine.has_ended() {
                // A daemon may end when its disk is full: it says so, and is started again by whoever looks after it.
                machine.kill();
            }
            if has_rotten_names(*index) {
                machine.kill();
                if !self.repair(machine)? {
                    self.come_back(machine, episode)?;
                }
            }
            if !machine.is_running() {
                machine.start(None)?;
            }
        }
        Ok(())
    }

    /// Checks and repairs the home of a machine that does not run. Whether it is sound then.
    fn repair(&self, machine: &Machine) -> Result<bool, Failure> {
        let check = |arguments: &[&str]| {
            let ended = machine.seat.potluck(arguments, COMMAND_MAX)?;
            if !matches!(ended.code(), Some(0..=6)) || ended.err.contains("panicked") {
                self.breaks(format!(
                    "potluck {} ended with {:?}: {}",
                    arguments.join(" "),
                    ended.code(),
                    ended.err
                ));
            }
            let report: Value = serde_json::from_str(&ended.out).map_err(|_| Failure(ended.err.clone()))?;
            let findings = report["findings"].as_array().into_iter().flatten();
            let wrong = findings.filter(|finding| finding["repaired"] == false);
            let wrong: Vec<_> = wrong
                .map(|finding| format!("{}: {}", finding["place"], finding["what"]))
                .collect();
            Ok::<_, Failure>((ended.is_good(), wrong.join("; ")))
        };
        let (_, found) = check(&["fsck", "--json"])?;
        self.tell(&format!("its home is checked: {found}"));
        check(&["fsck", "--repair", "--json"])?;
        let (is_sound, left) = check(&["fsck", "--json"])?;
        self.tell(&if is_sound {
            "it is repaired".to_owned()
        } else {
            format!("it comes back with a ticket: {left}")
        });
        Ok(is_sound)
    }

    /// A machine of which the database cannot be repaired comes back with a ticket, as what it was.
    fn come_back(&self, machine: &mut Machine, episode: &Episode) -> Result<(), Failure> {
        let sound = self.seats.iter().find(|seat| !episode.victims.contains(&seat.index));
        let sound = sound.ok_or_else(|| Failure("nobody is left".to_owned()))?;
        machine.drop_names()?;
        machine.join(&sound.ticket()?)
    }

    /// Every machine says that all are here and all is well, within the time.
    fn becomes_whole(&self, when: &str) -> bool {
        let begun = Instant::now();
        let mut last = String::new();
        while begun.elapsed() < WHOLE_MAX {
            let complaint = self.seats.iter().find_map(|seat| match seat.status() {
                Ok(status) => complaint(&status).map(|complaint| format!("machine {}: {complaint}", seat.index)),
                Err(failure) => Some(format!("machine {}: {failure}", seat.index)),
            });
            match complaint {
                None => {
                    let took = begun.elapsed().as_secs_f64();
                    self.tell(&format!("whole after {took:.1} s"));
                    let mut state = self.state();
                    state.sums.whole_after.push(took);
                    state.sums.checks += 1;
                    return true;
                }
                Some(complaint) => last = complaint,
            }
            if !self.is_well() {
                return false;
            }
            thread::sleep(POLL);
        }
        self.breaks(format!("the pool does not become whole {when}: {last}"));
        false
    }

    /// Lets every machine prove every shard, so that what has rotted is found, and waits until it is made anew.
    fn find_rot(&self) -> Result<(), Failure> {
        let ended = self.seats[0].potluck(&["explain", "home:/", "--check", "--json"], COMMAND_MAX)?;
        let explanation: Value = serde_json::from_str(&ended.out).map_err(|_| Failure(ended.err))?;
        let failed: u64 = explanation["machines"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|share| share["failed"].as_u64())
            .sum();
        self.tell(&format!("{failed} shards are found damaged"));
        self.becomes_whole("after what rotted was found");
        Ok(())
    }

    /// People rest, and every file is read on two machines.
    fn check_all(&self, dice: &mut Dice) {
        self.state().is_resting = true;
        while !self.state().busy.is_empty() {
            thread::sleep(POLL);
        }
        let paths: Vec<_> = self.state().promises.keys().cloned().collect();
        for path in &paths {
            for _ in 0..2 {
                let seat = &self.seats[dice.below(self.seats.len())];
                let seen = self.read(seat, path, true);
                let mut state = self.state();
                state.sums.checks += 1;
                if let (Some(promise), Some(seen)) = (state.promises.get_mut(path), seen) {
                    let content = match &seen {
                        Seen::Bytes(bytes) => promise.which(bytes),
                        _ => None,
                    };
                    promise.settle(content, self.survives);
                }
            }
        }
        self.tell(&format!("{} files are as promised", paths.len()));
        self.state().is_resting = false;
    }

    /// What one person does until it is over.
    fn work(&self, mut dice: Dice) {
        while !self.over.load(Ordering::Relaxed) && self.is_well() {
            let path = format!("folder-{}/file-{}", dice.roll(3), dice.roll(FILES / 3));
            let (sound, any, is_known) = {
                let mut state = self.state();
                let sound: Vec<_> = self
                    .seats
                    .iter()
                    .filter(|seat| !state.hurt.contains(&seat.index))
                    .collect();
                let sound = sound.get(dice.below(sound.len())).copied();
                if state.is_resting || !state.busy.insert(path.clone()) {
                    drop(state);
                    thread::sleep(POLL);
                    continue;
                }
                let any = &self.seats[dice.below(self.seats.len())];
                (sound, any, state.promises.contains_key(&path))
            };
            match (dice.roll(100), sound) {
                (0..45, Some(sound)) => {
                    // What is there is changed by who has heard of it; a new file may come from anywhere.
                    let seat = if is_known { sound } else { any };
                    let content = draw(&mut dice);
                    self.put(seat, &path, content);
                }
                (45..60, Some(sound)) if is_known => self.remove(sound, &path),
                (_, sound) if is_known => {
                    let seat = if dice.roll(4) == 0 { any } else { sound.unwrap_or(any) };
                    drop(self.read(seat, &path, false));
                }
                _ => {}
            }
            self.state().busy.remove(&path);
            thread::sleep(Duration::from_millis(20 + dice.roll(200)));
        }
    }

    fn file(&self) -> PathBuf {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        self.folder.join(format!("file-{number}"))
    }

    /// Runs a command, and counts how it ended.
    fn command(&self, seat: &Seat, name: &'static str, arguments: &[&str]) -> Option<Ended> {
        let was_hurt = self.state().hurt.contains(&seat.index);
        let ended = match seat.potluck(arguments, COMMAND_MAX) {
            Ok(ended) => ended,
            Err(failure) => {
                self.breaks(format!("a command does not start: {failure}"));
                return None;
            }
        };
        let told = format!("potluck {} on machine {}", arguments.join(" "), seat.index);
        let outcome = match ended.code() {
            None => "without an end",
            Some(0) => "done",
            Some(3) => "not there",
            Some(_) => "failed",
        };
        let is_hurt = {
            let mut state = self.state();
            *state.sums.commands.entry((name, outcome)).or_default() += 1;
            state.sums.slowest.push((ended.took.as_secs_f64(), told.clone()));
            state.sums.slowest.sort_by(|one, other| other.0.total_cmp(&one.0));
            state.sums.slowest.truncate(5);
            was_hurt || state.hurt.contains(&seat.index)
        };
        let is_strange = ended.code().is_some_and(|code| !(0..=6).contains(&code)) || ended.err.contains("panicked");
        if is_strange {
            self.breaks(format!("{told} ended with {:?}: {}", ended.code(), ended.err));
        } else if ended.status.is_none() && !is_hurt {
            self.breaks(format!("{told} took over {COMMAND_MAX:?}"));
        }
        Some(ended)
    }

    fn put(&self, seat: &Seat, path: &str, content: Content) {
        // A file takes its name with it, into the directory.
        let own = self.file();
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let file = own.join(name);
        if let Err(error) = fs::create_dir(&own).and_then(|()| fs::write(&file, content.bytes())) {
            return self.breaks(format!("{}: {error}", file.display()));
        }
        self.state()
            .promises
            .entry(path.to_owned())
            .or_default()
            .attempt(Some(content));
        let (from, to) = (file.to_string_lossy().into_owned(), format!("home:/{directory}/"));
        let was_hurt = self.state().hurt.contains(&seat.index);
        let ended = self.command(seat, "put", &["put", &from, &to, "--json", "--yes"]);
        let _ = fs::remove_dir_all(&own);
        let Some(ended) = ended.filter(Ended::is_good) else {
            return;
        };
        let survives = serde_json::from_str::<Value>(&ended.out)
            .ok()
            .and_then(|report| report["survives"].as_u64());
        let Some(survives) = survives else {
            return self.breaks(format!("a put does not say what it survives: {}", ended.out));
        };
        let mut state = self.state();
        state.sums.bytes += content.len as u64;
        let hurt = state.hurt.clone();
        if let Some(promise) = state.promises.get_mut(path) {
            let survives = usize::try_from(survives).unwrap_or(0);
            match was_hurt || hurt.contains(&seat.index) {
                true => promise.acknowledge_apart(content, survives, &hurt),
                false => promise.acknowledge(Some(content), survives, &hurt),
            }
        }
    }

    fn remove(&self, seat: &Seat, path: &str) {
        if let Some(promise) = self.state().promises.get_mut(path) {
            promise.attempt(None);
        }
        let Some(ended) = self.command(seat, "rm", &["rm", &format!("home:/{path}"), "--yes"]) else {
            return;
        };
        let mut state = self.state();
        let hurt = state.hurt.clone();
        if let Some(promise) = state.promises.get_mut(path)
            && (ended.is_good() || ended.code() == Some(3))
        {
            promise.acknowledge(None, usize::MAX, &hurt);
        }
    }

    /// Reads a file, and judges what came. What is stale must become right soon.
    fn read(&self, seat: &Seat, path: &str, is_mended: bool) -> Option<Seen> {
        let begun = Instant::now();
        loop {
            let was_hurt = !is_mended && self.state().hurt.contains(&seat.index);
            let file = self.file();
            let (from, to) = (format!("home:/{path}"), file.to_string_lossy().into_owned());
            let ended = self.command(seat, "get", &["get", &from, &to])?;
            let seen = match (ended.status, ended.code()) {
                (None, _) => Seen::Nothing,
                (_, Some(0)) => fs::read(&file).map_or_else(|error| Seen::Refused(error.to_string()), Seen::Bytes),
                (_, Some(3)) => Seen::Absent,
                _ => Seen::Refused(ended.err),
            };
            let _ = fs::remove_file(&file);
            let (verdict, promise, is_hurt) = {
                let mut state = self.state();
                state.sums.checks += 1;
                if let Seen::Bytes(bytes) = &seen {
                    state.sums.bytes += bytes.len() as u64;
                }
                let promise = state.promises.get(path)?.clone();
                let is_hurt = was_hurt || (!is_mended && state.hurt.contains(&seat.index));
                (promise.judge(&seen), promise, is_hurt)
            };
            let told = match &seen {
                Seen::Bytes(bytes) => format!("{} other bytes", bytes.len()),
                Seen::Absent => "no such file".to_owned(),
                Seen::Refused(why) => why.trim().to_owned(),
                Seen::Nothing => "nothing".to_owned(),
            };
            match verdict {
                Verdict::Right => return Some(seen),
                Verdict::Excused if !is_mended => return None,
                // A machine with which something is wrong may know less, or say why it cannot tell. It gives nothing that never was.
                Verdict::Stale => {
                    *self
                        .state()
                        .sums
                        .commands
                        .entry(("get", "an earlier state"))
                        .or_default() += 1;
                    if is_hurt {
                        return None;
                    }
                }
                Verdict::Wrong | Verdict::Excused if is_hurt && !matches!(seen, Seen::Bytes(_)) => return None,
                Verdict::Wrong | Verdict::Excused => {
                    self.breaks(format!("{path} on machine {}: {told}; {promise:?}", seat.index));
                    return None;
                }
            }
            if begun.elapsed() > STALE_MAX {
                self.breaks(format!(
                    "{path} on machine {} is an earlier state for {STALE_MAX:?}: {told}; {promise:?}",
                    seat.index
                ));
                return None;
            }
            thread::sleep(POLL);
        }
    }
}

/// Short files, long ones, and some in between.
fn draw(dice: &mut Dice) -> Content {
    let most = [100, 5000, 300_000, 3_000_000, 12_000_000];
    let most = most[dice.below(most.len())];
    let len = 1 + dice.below(most);
    Content {
        seed: dice.roll(u64::MAX),
        len,
    }
}

/// Why a pool is not whole yet, if it is not.
fn complaint(status: &Value) -> Option<String> {
    let nodes = status["nodes"].as_array().into_iter().flatten();
    if let Some(node) = nodes.clone().find(|node| node["status"] == "doubted") {
        return Some(format!("{} is doubted, and nothing is wrong with it", node["name"]));
    }
    if let Some(node) = nodes.clone().find(|node| node["status"] == "away") {
        return Some(format!("{} is away", node["name"]));
    }
    if status["silent"].as_array().is_some_and(|silent| !silent.is_empty()) {
        return Some("somebody does not answer".to_owned());
    }
    let health = &status["health"];
    let counts = [
        "unreadable",
        "lost",
        "endangered",
        "mending",
        "queued",
        "gathering",
        "recoding",
    ];
    if let Some(count) = counts.into_iter().find(|count| health[count].as_u64() != Some(0)) {
        return Some(format!("{count}: {}", health[count]));
    }
    let waiting = health["waiting"].as_object().into_iter().flatten();
    let waits = waiting.map(|(cause, _)| cause).find(|cause| *cause != "unnamed");
    waits.map(|cause| format!("something waits: {cause}"))
}
