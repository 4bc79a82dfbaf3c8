//! One history: a plan is carried out, and everything that the pool has promised is checked.

mod checkpoints;
mod links;
mod snapshots;

use crate::{
    ledger::{Content, Ledger, Promise, Safety, Seen},
    machine::RETENTION,
    memory,
    plan::{Episode, Fault, Plan, Removing, Scale, Step, Work},
    pool::{Pool, REGION},
    world::{Diary, dice, lock},
};
use links::{Link, OfLink};
use potluck_node::{
    Access, FileMeta, HealthInfo, Held, LinkError, Name, Node, NodeError, NodeStatus, Path, PutOptions, PutReport,
    RemoveOptions, Setting, Space, SpaceOptions, Status, TreeError,
};
use potluck_placement::default_survive;
use potluck_types::{Dice, Geometry, NodeId, SpaceId, SpaceName, StripeId, Timestamp};
use snapshots::{OfSnapshot, Snapshot};
use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    io::Cursor,
    panic,
    sync::{Arc, Mutex, Once},
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, error::Elapsed, sleep, sleep_until, timeout},
};

/// The folder that is a space of its own, and what it is called.
const FOUNDED: &str = "folder-2";
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// So soon a machine that was taken out learns nothing more.
const SHUT_OUT_AFTER: Duration = MINUTE;
/// So soon all with whom nothing is wrong have heard of what was acknowledged, and links show it.
const HEARD_AFTER: Duration = Duration::from_secs(600);
/// No operation takes longer, whatever is wrong.
const OPERATION_MAX: Duration = HOUR;
/// So soon a pool is whole again when all are here.
const CONVERGENCE_MAX: Duration = Duration::from_secs(12 * 3600);
/// So much later where a member has turned: it is doubted for a day after its last lie, for two more if anything about it is wrong again soon after, and its room may be needed.
const DOUBT_MAX: Duration = Duration::from_secs(4 * 24 * 3600);
/// Nothing happens in a whole pool for so long.
const QUIET: Duration = HOUR;
/// What was removed is gone from all disks so long after it was to be kept: those that were off in between count a day later, and after a clock that was ahead
/// once, what is removed is kept for twice its time and a day at most.
const FREED_AFTER: Duration = RETENTION.saturating_add(Duration::from_secs(3 * 24 * 3600));

/// What is said of an operation that took longer.
const HANGS: &str = "it hangs";

/// What came of a history.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Outcome {
    /// Simulated time.
    pub passed: Duration,
    /// What went wrong, by number in the catalogue and name, and how often.
    pub faults: BTreeMap<(u8, &'static str), u64>,
    /// Promises that were looked at.
    pub checks: u64,
    /// Operations of people.
    pub operations: u64,
    /// Those of them that were refused or had no answer.
    pub refused: u64,
    /// Checkpoints that were made.
    pub checkpoints: u64,
    /// How often one was taken by a machine that came later.
    pub checkpoints_taken: u64,
    /// Bytes that repairs stored.
    pub repaired: u64,
    /// Bytes that the network carried.
    pub carried: u64,
    /// Events of the diary.
    pub events: u64,
    /// The hash of all of them.
    pub hash: String,
    /// Bytes of memory that all nodes of this process took at most, beside their disks.
    pub memory: usize,
    /// The first promise that was broken.
    pub violation: Option<String>,
}

/// What a person's operation gave.
enum Done {
    Put(Content, Result<PutReport, String>),
    /// Whether there was anything that could be.
    Removed(Result<bool, String>),
    Read(Seen),
}

/// An operation on a file that has ended.
struct OfFile {
    user: usize,
    path: String,
    machine: usize,
    done: Done,
}

/// An operation that has ended.
enum Finished {
    File(OfFile),
    Snapshot(OfSnapshot),
    Link(OfLink),
    /// By which machine, and whether it made one.
    Checkpoint(usize, Result<bool, String>),
}

/// A space: whose it is, and whether they founded it; else it is their private one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    owner: usize,
    is_founded: bool,
}

struct History {
    pool: Pool,
    ledger: Ledger,
    busy: BTreeSet<(usize, String)>,
    /// When a change of each file was begun or ended last.
    touched: BTreeMap<(usize, String), Instant>,
    snapshots: Vec<Snapshot>,
    snapshots_taken: u64,
    links: Vec<Link>,
    links_made: u64,
    /// Which machine has taken which checkpoint of which space.
    checkpoints_taken: BTreeSet<(usize, SpaceId, Timestamp)>,
    /// What is chosen when snapshots and links are looked at.
    dice: Dice,
    works: JoinSet<Finished>,
    /// Domains in which something is wrong in this episode.
    hurt: BTreeSet<usize>,
    /// Machines that were taken out in this episode, since when, and what must stay unknown to them.
    shut_out: BTreeMap<usize, (Instant, BTreeMap<String, Vec<Content>>)>,
    episode_is_flood: bool,
    /// Spaces whose data is to be in one region alone.
    confined: BTreeSet<SpaceId>,
    memory: Arc<Mutex<memory::Watch>>,
    outcome: Outcome,
}

type Broken = Result<(), String>;

/// Who holds which shard.
struct Holder {
    id: NodeId,
    machine: usize,
    domain: usize,
    index: u8,
}

/// What all disks hold of a stripe.
struct Book {
    geometry: Geometry,
    /// What it was brought for: the word of who brought it, that may have been garbled on its way.
    spaces: BTreeSet<SpaceId>,
    holders: Vec<Holder>,
}

thread_local! {
    /// What panicked last in this thread. Tasks of a node that panic end alone, and nobody else would hear of it.
    static PANIC: Cell<Option<String>> = const { Cell::new(None) };
}

fn note_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |about| {
            PANIC.set(Some(about.to_string()));
            usual(about);
        }));
    });
    PANIC.set(None);
}

/// Runs something in simulated time. What panicked meanwhile comes along.
pub(crate) fn in_simulated_time<T>(work: impl Future<Output = T>) -> (T, Option<String>) {
    note_panics();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without input and output");
    let result = runtime.block_on(work);
    // Tasks of machines that were killed may still wait for something.
    runtime.shutdown_background();
    (result, PANIC.take())
}

/// Carries a plan out. `aloud` prints what happens.
pub(crate) fn run(plan: &Plan, aloud: bool) -> Outcome {
    let plan = plan.clone();
    // It ends after the tasks of all nodes.
    let memory = Arc::new(Mutex::new(memory::Watch::begin(plan.users.len())));
    let watch = Arc::clone(&memory);
    let (mut outcome, panicked) = in_simulated_time(async move {
        let begun = Instant::now();
        let (diary, seed) = (Diary::new(begun, aloud), plan.seed);
        let mut history = History {
            pool: Pool::new(plan, diary.clone(), begun),
            ledger: Ledger::new(),
            busy: BTreeSet::new(),
            touched: BTreeMap::new(),
            snapshots: Vec::new(),
            snapshots_taken: 0,
            links: Vec::new(),
            links_made: 0,
            checkpoints_taken: BTreeSet::new(),
            dice: dice(seed, "looks", 0),
            works: JoinSet::new(),
            hurt: BTreeSet::new(),
            shut_out: BTreeMap::new(),
            episode_is_flood: false,
            confined: BTreeSet::new(),
            memory: watch,
            outcome: Outcome::default(),
        };
        let broken = history.tell().await;
        let mut outcome = history.outcome;
        outcome.violation = broken.err().map(|reason| {
            let hours = begun.elapsed().as_secs() / 3600;
            format!("after {} days and {} hours: {reason}", hours / 24, hours % 24)
        });
        if let Some(violation) = &outcome.violation {
            diary.tell(violation);
        }
        outcome.passed = begun.elapsed();
        outcome.faults = history.pool.injected.clone();
        outcome.carried = history.pool.weather.bytes();
        outcome.memory = lock(&history.memory).peak();
        (outcome.events, outcome.hash) = diary.close();
        outcome
    });
    outcome.violation = panicked.or(outcome.violation);
    outcome
}

/// The history of a seed.
pub fn history(seed: u64, scale: Scale, aloud: bool) -> Outcome {
    run(&Plan::draw(seed, scale), aloud)
}

impl History {
    async fn tell(&mut self) -> Broken {
        self.pool.gather().await?;
        sleep(MINUTE).await;
        self.found_spaces().await?;
        self.becomes_whole("at the beginning").await?;
        for (number, episode) in self.pool.plan.episodes.clone().iter().enumerate() {
            self.pool.diary.tell(&format!(
                "episode {number}: {:?}, victims {:?}{}",
                episode.network,
                episode.victims,
                if episode.is_flood { ", a flood" } else { "" }
            ));
            self.live_through(episode).await?;
            self.pool.diary.tell("all is mended");
            self.pool.heal().await?;
            self.finish_works().await?;
            self.becomes_whole(&format!("after episode {number}")).await?;
            self.hurt.clear();
            self.all_is_as_promised().await?;
            self.snapshots_hold().await?;
            self.links_show().await?;
            self.history_is_here().await?;
            self.scrub().await?;
            self.stays_quiet().await?;
            self.books_agree().await?;
            self.confine_spaces().await?;
        }
        self.everything_goes().await
    }

    /// Each person founds a space of their own; or the first founds one, and lets the others in.
    async fn found_spaces(&mut self) -> Broken {
        let mut people = BTreeSet::new();
        for machine in &self.pool.machines {
            if people.insert(machine.user)
                && let Some(node) = &machine.node
            {
                if self.pool.plan.is_shared && people.len() > 1 {
                    let owner = self.pool.node(0).ok_or("the first machine does not run")?;
                    let_in(owner, node, self.pool.plan.is_alone).await?;
                    continue;
                }
                let name = FOUNDED.parse().expect("a name");
                let is_confined = self
                    .pool
                    .plan
                    .confined
                    .as_ref()
                    .is_some_and(|confined| !confined.is_late);
                let options = if is_confined {
                    confined()
                } else {
                    SpaceOptions::default()
                };
                let founded = node.create_space_with(name, options).await;
                let founded = founded.map_err(|error| format!("a space cannot be founded: {error}"))?;
                if is_confined {
                    self.confined.insert(founded.id);
                }
            }
        }
        Ok(())
    }

    /// Each person says where the data of their space may be, if they have not yet.
    async fn confine_spaces(&mut self) -> Broken {
        if self.pool.plan.confined.is_none() || !self.confined.is_empty() {
            return Ok(());
        }
        self.pool
            .diary
            .tell("what is in the spaces of people is to be in one region alone");
        let mut people = BTreeSet::new();
        for (i, node) in self.running() {
            let user = self.pool.machines[i].user;
            let is_owner = user == 0 || !self.pool.plan.is_shared;
            if is_owner && self.pool.is_member(i) && !people.contains(&user) {
                people.insert(user);
                let set = node.set_space(&FOUNDED.parse().expect("a name"), confined()).await;
                let set = set.map_err(|error| format!("machine {i} cannot say where data may be: {error}"))?;
                self.confined.insert(set.id);
            }
        }
        self.becomes_whole("when some data is to be in one region alone").await
    }

    /// What is to be in one region is nowhere else, once the pool is whole.
    async fn nothing_is_elsewhere(&self, books: &BTreeMap<StripeId, Book>) -> Broken {
        let Some(confined) = &self.pool.plan.confined else {
            return Ok(());
        };
        for (stripe, book) in books {
            let is_outside = |holder: &&Holder| !confined.inside.get(holder.machine).copied().unwrap_or_default();
            let outside = book.holders.iter().find(is_outside);
            let is_confined = book.spaces.iter().all(|space| self.confined.contains(space));
            if let Some(holder) = outside.filter(|_| is_confined)
                && self.tell_of(*stripe, book).await == Some(true)
            {
                return Err(format!(
                    "machine {} has a shard of stripe {}, and stands where that may not be",
                    holder.machine,
                    stripe.short()
                ));
            }
        }
        Ok(())
    }

    async fn live_through(&mut self, episode: &Episode) -> Broken {
        self.pool.set_network(episode.network);
        self.pool.take_images(&episode.victims);
        self.episode_is_flood = episode.is_flood;
        let begun = Instant::now();
        for (at, step) in &episode.steps {
            self.until(begun + *at).await?;
            match step {
                Step::Work(work) => self.begin(*work),
                Step::Snapshot(work) => self.begin_with_snapshot(*work),
                Step::Link(work) => self.begin_with_link(*work),
                Step::Checkpoint { chance } => self.begin_with_checkpoint(*chance),
                Step::Fault { machine, fault } => self.strike(*machine, *fault).await,
            }
        }
        self.until(begun + episode.length).await?;
        self.shut_out_is_shut_out().await
    }

    /// Time passes; what is due is done, and operations end.
    async fn until(&mut self, end: Instant) -> Broken {
        loop {
            lock(&self.memory).look()?;
            let look = Instant::now() + memory::LOOK;
            let due = self.pool.next_due();
            let next = due.map_or(end, |due| due.min(end)).min(look);
            tokio::select! {
                biased;
                Some(finished) = self.works.join_next() => {
                    let finished = finished.map_err(|error| format!("an operation panicked: {error}"))?;
                    self.note(finished)?;
                }
                () = sleep_until(next) => {
                    self.pool.do_due().await;
                    if next >= end {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn finish_works(&mut self) -> Broken {
        while let Some(finished) = self.works.join_next().await {
            let finished = finished.map_err(|error| format!("an operation panicked: {error}"))?;
            self.note(finished)?;
        }
        Ok(())
    }

    async fn strike(&mut self, machine: usize, fault: Fault) {
        let domain = self.pool.plan.domains[machine];
        self.hurt.insert(domain);
        if fault.loses() {
            self.ledger.values_mut().for_each(|promise| promise.lose(domain));
            self.snapshots.iter_mut().for_each(|snapshot| snapshot.lose(domain));
            self.links.iter_mut().for_each(|link| link.lose(domain));
        }
        if self.pool.node(machine).is_some() || fault.destroys() {
            self.pool.suffer(machine, fault).await;
        }
        if fault == Fault::Expelled && !self.pool.is_member(machine) {
            self.shut_out
                .entry(machine)
                .or_insert_with(|| (Instant::now(), BTreeMap::new()));
        }
    }

    /// Whose a file is, of one that a person works on: what is in a space of all is the first person's.
    fn owner_of(&self, user: usize, path: &str) -> usize {
        let is_common = self.pool.plan.is_shared && path.starts_with(FOUNDED);
        if is_common { 0 } else { user }
    }

    /// Who does what takes all of a space: where others were let into a directory alone, its owner.
    fn whole_in(&self, worker: usize, path: &str) -> usize {
        let is_common = self.pool.plan.is_alone && path.starts_with(FOUNDED);
        if is_common { 0 } else { worker }
    }

    /// Somebody who works on a person's file: in a space of all anybody does.
    fn worker_of(&self, user: usize, path: &str, chance: u64) -> usize {
        let is_common = self.pool.plan.is_shared && path.starts_with(FOUNDED);
        if is_common {
            (chance % self.persons() as u64) as usize
        } else {
            user
        }
    }

    fn persons(&self) -> usize {
        self.pool.plan.users.iter().max().map_or(1, |most| most + 1)
    }

    /// A machine of a person, one that nothing is wrong with if there is one and it must be.
    fn machine_of(&self, user: usize, chance: u64, sound: bool) -> Option<usize> {
        let fits = |i: &usize| {
            let machine = &self.pool.machines[*i];
            let is_hurt = self.hurt.contains(&self.pool.plan.domains[*i]);
            machine.user == user && self.pool.is_member(*i) && !(sound && is_hurt)
        };
        let fitting: Vec<usize> = (0..self.pool.machines.len()).filter(fits).collect();
        let at = (chance >> 8) as usize % fitting.len().max(1);
        fitting.get(at).copied()
    }

    /// The same, with its node.
    fn node_of(&self, user: usize, chance: u64, sound: bool) -> Option<(usize, Node)> {
        let machine = self.machine_of(user, chance, sound)?;
        Some((machine, self.pool.node(machine).cloned()?))
    }

    /// A space of a person: as often the one that they founded as their files are there.
    fn place_of(&self, user: usize, chance: u64) -> Place {
        let folder = if chance % 3 == 2 { FOUNDED } else { "folder-0" };
        Place::of(self.owner_of(user, folder), folder)
    }

    /// Somebody who works in a space.
    fn worker_in(&self, place: Place, chance: u64) -> usize {
        let path = if place.is_founded { FOUNDED } else { "" };
        self.whole_in(self.worker_of(place.owner, path, chance), path)
    }

    /// What is written into the log of a space now survives the loss of so many domains; those in which something is wrong may be lost already.
    fn safety_now(&self, place: Place) -> Safety {
        let plan = &self.pool.plan;
        let confined = plan.confined.as_ref().filter(|_| place.is_founded);
        let keeps = |machine: &usize| confined.is_none_or(|confined| confined.inside[*machine]);
        let domains = (0..plan.domains.len()).filter(keeps).map(|i| plan.domains[i]);
        let sound: BTreeSet<usize> = domains.filter(|domain| !self.hurt.contains(domain)).collect();
        let mut safety = Safety::of(default_survive(sound.len()));
        self.hurt.iter().for_each(|domain| safety.lose(*domain));
        safety
    }

    /// A change of a file begins or ends. Who has not heard of a snapshot yet may let go of what it has.
    fn touch(&mut self, key: &(usize, String)) {
        self.touched.insert(key.clone(), Instant::now());
        for snapshot in &mut self.snapshots {
            snapshot.touch(key);
        }
    }

    /// Nobody waits for ever on a machine with which nothing is wrong.
    fn refuse_to_hang(&self, machine: usize, reason: &str, what: &str) -> Broken {
        if reason == HANGS && !self.hurt.contains(&self.pool.plan.domains[machine]) {
            return Err(format!("machine {machine}: {what} took over {OPERATION_MAX:?}"));
        }
        Ok(())
    }

    fn begin(&mut self, work: Work) {
        let (file, chance) = match work {
            Work::Put { file, chance, .. } | Work::Remove { file, chance, .. } | Work::Read { file, chance } => {
                (file, chance)
            }
        };
        let path = format!("folder-{}/file-{file}", file % 3);
        let worker = (chance % self.persons() as u64) as usize;
        let is_for_good = matches!(work, Work::Remove { how, .. } if how != Removing::ToTheTrash);
        let worker = if is_for_good {
            self.whole_in(worker, &path)
        } else {
            worker
        };
        let user = self.owner_of(worker, &path);
        let key = (user, path.clone());
        let is_known = self.ledger.contains_key(&key);
        // What is there is changed by who has heard of it; a new file, or a look, may come from anybody.
        let sound = is_known && !matches!(work, Work::Read { .. });
        let Some(machine) = self.machine_of(worker, chance, sound) else {
            return;
        };
        if self.busy.contains(&key) || (!is_known && !matches!(work, Work::Put { .. })) {
            return;
        }
        let Some(node) = self.pool.node(machine).cloned() else {
            return;
        };
        self.outcome.operations += 1;
        self.busy.insert(key.clone());
        if !matches!(work, Work::Read { .. }) {
            self.touch(&key);
        }
        let promise = self.ledger.entry(key).or_default();
        self.pool
            .diary
            .tell(&format!("machine {machine}: {work:?} of person {user}, {path}"));
        match work {
            Work::Put { len, content, .. } => {
                let content = Content { seed: content, len };
                promise.attempt(Some(content));
                for (since, secrets) in self.shut_out.values_mut() {
                    // Who is cut off itself may not have heard of it.
                    if since.elapsed() > SHUT_OUT_AFTER && !self.hurt.contains(&self.pool.plan.domains[machine]) {
                        secrets.entry(path.clone()).or_default().push(content);
                    }
                }
                self.works.spawn(async move {
                    let put = timeout(OPERATION_MAX, put(&node, &path, content)).await;
                    let done = Done::Put(content, put.unwrap_or_else(|_| Err(HANGS.to_owned())));
                    Finished::File(OfFile {
                        user,
                        path,
                        machine,
                        done,
                    })
                });
            }
            Work::Remove { how, .. } => {
                promise.attempt(None);
                if how == Removing::ForEver {
                    // No snapshot keeps it.
                    let key = (user, path.clone());
                    self.snapshots.iter_mut().for_each(|snapshot| snapshot.forget(&key));
                }
                self.works.spawn(async move {
                    let removed = timeout(OPERATION_MAX, remove(&node, &path, how)).await;
                    let done = Done::Removed(removed.unwrap_or_else(|_| Err(HANGS.to_owned())));
                    Finished::File(OfFile {
                        user,
                        path,
                        machine,
                        done,
                    })
                });
            }
            Work::Read { .. } => {
                self.works.spawn(async move {
                    let seen = read(&node, &path).await;
                    Finished::File(OfFile {
                        user,
                        path,
                        machine,
                        done: Done::Read(seen),
                    })
                });
            }
        }
    }

    fn note(&mut self, finished: Finished) -> Broken {
        match finished {
            Finished::File(file) => self.note_file(file),
            Finished::Snapshot(snapshot) => self.note_snapshot(snapshot),
            Finished::Link(link) => self.note_link(link),
            Finished::Checkpoint(machine, made) => self.note_checkpoint(machine, made),
        }
    }

    fn note_file(&mut self, finished: OfFile) -> Broken {
        let OfFile {
            user,
            path,
            machine,
            done,
        } = finished;
        let key = (user, path.clone());
        self.busy.remove(&key);
        if !matches!(done, Done::Read(_)) {
            self.touch(&key);
        }
        let is_hurt = self.hurt.contains(&self.pool.plan.domains[machine]);
        // Machines that run and with which something is wrong may have taken a part, and lose it.
        let faulty: Vec<usize> = self.hurt.iter().copied().collect();
        let is_lenient = is_hurt || self.episode_is_flood;
        let judge = |promise: &Promise, seen: &Seen| {
            if is_lenient {
                promise.judge_lenient(seen)
            } else {
                promise.judge(seen)
            }
        };
        let promise = self.ledger.entry(key).or_default();
        let told = match &done {
            Done::Put(content, Ok(report)) => {
                promise.acknowledge(Some(*content), report.survives);
                faulty.iter().for_each(|domain| promise.lose(*domain));
                format!("{path} of person {user} is stored, survives {}", report.survives)
            }
            Done::Removed(Ok(true)) => {
                promise.acknowledge(None, u8::MAX);
                format!("{path} of person {user} is removed")
            }
            Done::Removed(Ok(false)) => {
                self.outcome.checks += 1;
                promise.withdraw(None);
                // Whoever has not heard of a file has removed nothing.
                judge(promise, &Seen::Absent)
                    .map_err(|reason| format!("machine {machine}, {path} of person {user}: {reason}; {promise:?}"))?;
                format!("{path} of person {user} is not there to be removed")
            }
            Done::Put(_, Err(reason)) | Done::Removed(Err(reason)) => {
                self.outcome.refused += 1;
                format!("{path} of person {user}: {reason}")
            }
            Done::Read(seen) => {
                self.outcome.checks += 1;
                judge(promise, seen)
                    .map_err(|reason| format!("machine {machine}, {path} of person {user}: {reason}; {promise:?}"))?;
                format!("{path} of person {user} is as promised")
            }
        };
        if let Done::Put(_, Err(reason)) | Done::Removed(Err(reason)) = &done {
            self.refuse_to_hang(machine, reason, &format!("{path} of person {user}"))?;
        }
        self.pool.diary.tell(&told);
        Ok(())
    }

    /// What was written since a machine was taken out it does not know, though it has its person's key still, and goes on asking.
    async fn shut_out_is_shut_out(&mut self) -> Broken {
        for (machine, (_, secrets)) in std::mem::take(&mut self.shut_out) {
            let Some(node) = self.pool.node(machine).cloned() else {
                continue;
            };
            if self.pool.is_member(machine) {
                // A new one has come in its place.
                continue;
            }
            for (path, contents) in secrets {
                self.outcome.checks += 1;
                if let Ok(Seen::Bytes(bytes)) = timeout(MINUTE, read(&node, &path)).await
                    && contents.iter().any(|content| content.bytes() == bytes)
                {
                    return Err(format!(
                        "machine {machine} was taken out, and has read {path} as it was written since"
                    ));
                }
            }
        }
        Ok(())
    }

    fn running(&self) -> Vec<(usize, Node)> {
        let machines = self.pool.machines.iter();
        machines
            .filter_map(|machine| Some((machine.index, machine.node.clone()?)))
            .collect()
    }

    /// Everybody is here, and says that all is well.
    async fn becomes_whole(&mut self, when: &str) -> Broken {
        let begun = Instant::now();
        let mut last = String::new();
        let patience = CONVERGENCE_MAX
            + if self.pool.turned.is_empty() {
                Duration::ZERO
            } else {
                DOUBT_MAX
            };
        while begun.elapsed() < patience {
            self.until(Instant::now() + 2 * MINUTE).await?;
            let running = self.running();
            if running.len() < self.pool.machines.len() {
                last = "machines do not start".to_owned();
                continue;
            }
            last.clear();
            for (i, node) in &running {
                let status = node.status().await.map_err(|error| error.to_string())?;
                if let Some(doubted) = self.doubted_for_nothing(&status) {
                    return Err(format!(
                        "machine {i} doubts machine {doubted}, which has done nothing wrong"
                    ));
                }
                if !status.silent.is_empty() || !is_well(&status.health) {
                    last = format!(
                        "machine {i} says: {:?}, silent {:?}",
                        status.health,
                        status.silent.len()
                    );
                    break;
                }
                for restored in status.parted {
                    let followed = node.follow(restored).await;
                    last = format!("machine {i} kept what another has given up: {followed:?}");
                    self.pool.diary.tell(&last);
                }
                if status.nodes.iter().any(|info| info.status == NodeStatus::Doubted) {
                    // What it held before comes back to it when the doubt ends.
                    last = format!("machine {i} doubts one that has lied, still");
                    break;
                }
            }
            if last.is_empty() {
                self.outcome.checks += 1;
                return Ok(());
            }
        }
        self.tell_of_short().await;
        Err(format!("the pool does not become whole {when}: {last}"))
    }

    /// A machine that is doubted, and has never turned.
    fn doubted_for_nothing(&self, status: &Status) -> Option<usize> {
        let is_doubted = |id: NodeId| {
            status
                .nodes
                .iter()
                .any(|info| info.id == id && info.status == NodeStatus::Doubted)
        };
        let is_wronged = |id: NodeId| !self.pool.turned.contains(&id) && is_doubted(id);
        let mut machines = self.pool.machines.iter();
        let doubted = machines.find(|machine| machine.id.is_some_and(is_wronged));
        doubted.map(|machine| machine.index)
    }

    /// Every file is read, on two machines of its person.
    async fn all_is_as_promised(&mut self) -> Broken {
        let keys: Vec<_> = self.ledger.keys().cloned().collect();
        for (user, path) in keys {
            for turn in 0..2u64 {
                let chance = self.pool.dice.roll(1 << 40) + turn;
                let worker = self.worker_of(user, &path, chance);
                let Some(machine) = self.machine_of(worker, chance, false) else {
                    continue;
                };
                let Some(node) = self.pool.node(machine).cloned() else {
                    continue;
                };
                node.gathered().await;
                let seen = read(&node, &path).await;
                self.outcome.checks += 1;
                let promise = &self.ledger[&(user, path.clone())];
                promise.judge(&seen).map_err(|reason| {
                    format!("all is mended; machine {machine}, {path} of person {user}: {reason}; {promise:?}")
                })?;
                // From now on only this is allowed.
                let content = match &seen {
                    Seen::Bytes(bytes) => Some(&bytes[..]),
                    Seen::Absent => None,
                    Seen::Refused(_) => continue,
                };
                let survived = u8::try_from(self.pool.plan.survives()).unwrap_or(u8::MAX);
                if let Some(promise) = self.ledger.get_mut(&(user, path.clone())) {
                    promise.settle(content, survived);
                }
            }
        }
        Ok(())
    }

    /// Damage that nobody has met yet is found, as it would be within two weeks, and mended.
    async fn scrub(&mut self) -> Broken {
        let mut damaged = 0;
        for (_, node) in self.running() {
            damaged += node.scrub().await.map_err(|error| error.to_string())?;
        }
        if damaged > 0 {
            self.pool
                .diary
                .tell(&format!("scrubs have found {damaged} damaged shards"));
        }
        // Those who have just read everything may have met some, too.
        self.becomes_whole("after the scrubs").await
    }

    /// Nothing is repaired or moved while nothing changes.
    async fn stays_quiet(&mut self) -> Broken {
        let before = self.repaired().await;
        self.outcome.repaired += before.1;
        self.until(Instant::now() + QUIET).await?;
        let after = self.repaired().await;
        self.outcome.checks += 1;
        if before != after {
            return Err(format!(
                "repairs go on in a pool that is whole: {before:?} became {after:?}"
            ));
        }
        Ok(())
    }

    async fn repaired(&self) -> (u64, u64) {
        let (mut read, mut written) = (0, 0);
        for (_, node) in self.running() {
            if let Ok(status) = node.status().await {
                read = read.max(status.health.repair_read);
                written = written.max(status.health.repair_written);
            }
        }
        (read, written)
    }

    /// What all disks hold.
    async fn books(&self) -> Result<BTreeMap<StripeId, Book>, String> {
        let mut books: BTreeMap<StripeId, Book> = BTreeMap::new();
        for (i, node) in self.running() {
            let (id, domain) = (node.identity().node, self.pool.plan.domains[i]);
            let held = node.held(None, usize::MAX).await.map_err(|error| error.to_string())?;
            if self.pool.machines[i].is_crowded && !held.is_empty() {
                return Err(format!("machine {i} is full, and was given {} shards", held.len()));
            }
            for Held { shard, geometry, space } in held {
                let book = books.entry(shard.stripe).or_insert_with(|| Book {
                    geometry,
                    spaces: BTreeSet::new(),
                    holders: Vec::new(),
                });
                book.spaces.insert(space);
                book.holders.push(Holder {
                    id,
                    machine: i,
                    domain,
                    index: shard.index,
                });
            }
        }
        Ok(books)
    }

    /// Tells of a stripe, and whether somebody uses it; none when nobody says.
    async fn tell_of(&self, stripe: StripeId, book: &Book) -> Option<bool> {
        let (_, node) = self.running().into_iter().next()?;
        let mut is_used = None;
        for space in &book.spaces {
            if let Some(verdicts) = node.in_use(*space, &[stripe]).await {
                is_used = Some(is_used == Some(true) || verdicts == [true]);
            }
        }
        let holders = book.holders.iter();
        let held: Vec<_> = holders
            .map(|holder| format!("{} at {}", holder.index, holder.id.short()))
            .collect();
        let (stripe, geometry) = (stripe.short(), book.geometry);
        self.pool.diary.tell(&format!(
            "stripe {stripe} of {geometry:?}, in use: {is_used:?}, is held as {held:?}"
        ));
        is_used
    }

    /// Tells of all stripes that are less than whole.
    async fn tell_of_short(&self) {
        for (stripe, book) in self.books().await.unwrap_or_default() {
            if !book.survives_any() {
                self.tell_of(stripe, &book).await;
            }
        }
    }

    /// What machines hold is what their health says.
    async fn books_agree(&mut self) -> Broken {
        let books = self.books().await?;
        self.nothing_is_elsewhere(&books).await?;
        let (_, node) = self.running().into_iter().next().ok_or("no machine runs")?;
        let health = node.status().await.map_err(|error| error.to_string())?.health;
        let mut short = 0;
        for (stripe, book) in &books {
            // What nobody uses may be on its way out.
            if !book.survives_any() && self.tell_of(*stripe, book).await == Some(true) {
                short += 1;
            }
        }
        self.outcome.checks += books.len() as u64;
        if health.endangered + health.unreadable < short {
            return Err(format!(
                "health claims too much: {} stripes survive less than they should, and it knows of {}",
                short,
                health.endangered + health.unreadable
            ));
        }
        Ok(())
    }

    /// What was removed takes no room any more.
    async fn everything_goes(&mut self) -> Broken {
        self.snapshots_go().await?;
        let keys: Vec<_> = self.ledger.keys().cloned().collect();
        for (user, path) in keys {
            if let Some(machine) = self.machine_of(user, 0, false)
                && let Some(node) = self.pool.node(machine).cloned()
            {
                remove(&node, &path, Removing::ToTheTrash)
                    .await
                    .map_err(|error| format!("{path} cannot be removed: {error}"))?;
            }
        }
        self.until(Instant::now() + RETENTION + FREED_AFTER).await?;
        let mut left = 0;
        for (stripe, book) in &self.books().await? {
            // What was brought for a space that was garbled on its way is nobody's, and nobody says that it may go.
            let is_nobodys = self.tell_of(*stripe, book).await.is_none() && self.pool.has_suffered(Fault::Garbled);
            left += if is_nobodys { 0 } else { book.holders.len() };
        }
        self.outcome.checks += 1;
        if left > 0 {
            return Err(format!(
                "{left} shards are left of what was removed {FREED_AFTER:?} ago"
            ));
        }
        Ok(())
    }
}

impl Book {
    /// Whether *k* different shards remain whichever *m* domains are lost: by trying all of them, unlike the product.
    fn survives_any(&self) -> bool {
        let (needed, lost) = (self.geometry.k().into(), self.geometry.m().into());
        let used: BTreeSet<usize> = self.holders.iter().map(|holder| holder.domain).collect();
        let used: Vec<usize> = used.into_iter().collect();
        let most_lost = (1u32 << used.len()) - 1;
        let is_left = |lost: u32| {
            let left = self.holders.iter().filter(|holder| {
                let at = used.iter().position(|domain| *domain == holder.domain);
                at.is_some_and(|at| lost & (1 << at) == 0)
            });
            left.map(|holder| holder.index).collect::<BTreeSet<_>>().len() >= needed
        };
        let losses = (0..=most_lost).filter(|set| set.count_ones() == lost);
        used.len() >= lost as usize && losses.into_iter().all(is_left)
    }
}

pub(crate) fn is_well(health: &HealthInfo) -> bool {
    let HealthInfo {
        unreadable,
        endangered,
        mending,
        queued,
        gathering,
        lost,
        recoding,
        waiting,
        ..
    } = health;
    unreadable + endangered + mending + queued + gathering + lost + recoding == 0
        && waiting.keys().all(|cause| cause == "unnamed")
}

pub(crate) async fn put(node: &Node, path: &str, content: Content) -> Result<PutReport, String> {
    let path = path.parse().map_err(|error| format!("{error}"))?;
    let meta = FileMeta {
        modified: Timestamp::from_millis(1),
        executable: false,
    };
    let work = async {
        let mut upload = space_of(node, &path)?.upload(PutOptions::default())?;
        upload.put_blocking(path, meta, Cursor::new(content.bytes())).await?;
        upload.finish().await
    };
    work.await.map_err(|error: NodeError| error.to_string())
}

/// Whether there was anything to be removed.
async fn remove(node: &Node, path: &str, how: Removing) -> Result<bool, String> {
    let path = path.parse().map_err(|error| format!("{error}"))?;
    let space = space_of(node, &path).map_err(|error| error.to_string())?;
    let removed = match how {
        Removing::ForEver => erase(&space, &path).await,
        Removing::ToTheTrash | Removing::Now => {
            let options = RemoveOptions {
                now: how == Removing::Now,
                ..RemoveOptions::default()
            };
            space.remove(&path, options).await.map(drop)
        }
    };
    match removed {
        Ok(()) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error.to_string()),
    }
}

async fn erase(space: &Space, path: &Path) -> Result<(), NodeError> {
    let known = space.erasable(path).await?.known;
    let called = "simulated".parse().expect("letters");
    Box::pin(space.erase(&called, path, known)).await.map(drop)
}

pub(crate) async fn read(node: &Node, path: &str) -> Seen {
    let Ok(path) = path.parse() else {
        return Seen::Absent;
    };
    let work = async { space_of(node, &path)?.download(&path, None).await?.read_to_end().await };
    see(work).await
}

/// What whoever waits for a file sees.
async fn see(work: impl Future<Output = Result<Vec<u8>, NodeError>>) -> Seen {
    match timeout(OPERATION_MAX, work).await {
        Ok(Ok(bytes)) => Seen::Bytes(bytes),
        Ok(Err(error)) if is_unknown(&error) => Seen::Absent,
        Ok(Err(error)) => Seen::Refused(error.to_string()),
        Err(_) => Seen::Refused(HANGS.to_owned()),
    }
}

/// What whoever waits for something is told.
fn told<T>(result: Result<Result<T, NodeError>, Elapsed>) -> Result<T, String> {
    match result {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(HANGS.to_owned()),
    }
}

/// The owner lets the person of another node into the space that they founded, or into the directory alone that all files there are in. They take it under the same name.
async fn let_in(owner: &Node, node: &Node, is_alone: bool) -> Broken {
    let name: SpaceName = FOUNDED.parse().expect("a name");
    let access = Access {
        may_write: true,
        ..Access::default()
    };
    let with = node.identity().user.to_string();
    let shared = match is_alone {
        true => {
            let directory: Path = format!("/{FOUNDED}").parse().expect("a path");
            let made = async {
                let mut upload = owner.space(&name)?.upload(PutOptions::default())?;
                upload.make_directory(&directory).await?;
                upload.finish().await
            };
            made.await
                .map_err(|error| format!("a directory cannot be made: {error}"))?;
            owner.share_below(&name, &directory, &with, access).await
        }
        false => owner.share(&name, &with, access).await,
    };
    shared.map_err(|error| format!("nobody can be let in: {error}"))?;
    let accepted = timeout(10 * MINUTE, async {
        while node.accept(FOUNDED, None).await.is_err() {
            sleep(MINUTE).await;
        }
    });
    accepted.await.map_err(|_| "what is shared is not offered".to_owned())
}

fn confined() -> SpaceOptions {
    SpaceOptions {
        regions: Setting::To([REGION.parse().expect("letters")].into()),
        ..SpaceOptions::default()
    }
}

impl Place {
    /// A third of a person's files is in a space that they founded, the others in the private one.
    fn of(owner: usize, path: &str) -> Self {
        let is_founded = path.starts_with(FOUNDED);
        Self { owner, is_founded }
    }

    fn name(self) -> SpaceName {
        if self.is_founded {
            FOUNDED.parse().expect("a name")
        } else {
            SpaceName::home()
        }
    }

    fn space(self, node: &Node) -> Result<Space, NodeError> {
        node.space(&self.name())
    }

    /// Whether a file is in it.
    fn has(self, (owner, path): &(usize, String)) -> bool {
        Self::of(*owner, path) == self
    }
}

fn space_of(node: &Node, path: &Path) -> Result<Space, NodeError> {
    let folder = path.names().first().map_or("", Name::as_str);
    Place::of(0, folder).space(node)
}

/// One of several.
fn pick<T>(of: &[T], chance: u64) -> Option<&T> {
    of.get((chance % of.len().max(1) as u64) as usize)
}

fn is_absent(error: &NodeError) -> bool {
    matches!(error, NodeError::Tree(TreeError::NotFound(_)))
}

/// Whether nothing is known here of what is asked for.
fn is_unknown(error: &NodeError) -> bool {
    is_absent(error)
        || matches!(
            error,
            NodeError::NoSuchSpace(_)
                | NodeError::NoSuchSnapshot(_)
                | NodeError::NoSuchVersion { .. }
                | NodeError::Link(LinkError::Gone(_))
        )
}
