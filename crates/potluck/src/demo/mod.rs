//! `potluck demo`: the main job, on this machine, with real processes, disks and connections. Six nodes; files go in; two nodes die, the writer among
//! them; every byte comes back through a third; the pool mends itself; one more dies; every byte comes back again. Then two people share a space, and change
//! one file while they are cut off from each other.

pub(crate) mod data;
mod people;

use crate::{
    command::{
        get::{self, Parts, Target},
        put::{self, Source},
        status,
    },
    complaint::Complaint,
    config, interrupt,
    machines::{POLL, Plan, Pool},
    place::Place,
    terminal::{Terminal, count, rate, seconds, table},
};
use data::Stored;
use potluck_node::{HealthInfo, NodeStatus, PutOptions, Status, Which};
use potluck_spaces::{Name, Path as SpacePath};
use potluck_types::{ByteSize, NodeId, SpaceName};
use serde::Serialize;
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A checkout up to this is stored as it is; a larger one would make a tedious demo.
const CHECKOUT_BYTES_MAX: u64 = 512 << 20;
/// What the demo needs on the disk for each byte that it stores: itself, fetched, coded, and mended.
const DISK_FACTOR: u64 = 5;
/// How long the repair may take.
const REPAIR_TIMEOUT: Duration = Duration::from_secs(75);
/// How often in a row nothing must be left to repair: a plan may be in the making.
const REPAIR_LOOKS: u32 = 20;
/// Nodes of the pool.
const NODES: usize = 6;
/// Short, so that one need not wait: two lost nodes are noticed and mended in seconds.
const GRACE: &str = "3s";
/// Who is lost: the writer first.
const KILLED: [usize; 2] = [1, 2];
const READER: usize = 3;
const KILLED_LATER: usize = 4;
const READER_LATER: usize = 5;

/// One line of the table at the end.
#[derive(Debug, Serialize)]
struct Step {
    what: String,
    bytes: u64,
    seconds: f64,
}

/// What the demo found.
#[derive(Debug, Serialize)]
struct Findings {
    steps: Vec<Step>,
    files: u64,
    bytes: u64,
    stored_bytes: u64,
    repair_read: u64,
    repair_written: u64,
    after_repair: HealthInfo,
    identical: bool,
    /// What both people see of the file that both changed.
    versions: Vec<String>,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    homes: Option<Vec<PathBuf>>,
}

/// `potluck demo`.
pub(crate) fn run(input: Option<&Path>, keep: bool, terminal: Terminal) -> Result<(), Complaint> {
    let begun = Instant::now();
    let folder = std::env::temp_dir().join(format!("potluck-demo-{}", std::process::id()));
    let inputs = inputs(input, terminal)?;
    let mut files = Vec::new();
    for (local, name) in &inputs.named {
        data::survey(local, Path::new(name.as_str()), &inputs.exclude, &mut files);
    }
    let bytes = files.iter().map(Stored::len).sum::<u64>() + (256 << 20);
    check_disk(bytes * DISK_FACTOR, "demo")?;
    let plan = Plan {
        folder,
        name: "demo",
        nodes: NODES,
        machines: &[],
        are_one_person: true,
        capacity: ByteSize(bytes * 3 + (1 << 30)),
        grace: GRACE,
    };
    let pool = Pool::new(plan, keep)?;
    interrupt::on_interrupt({
        let remains = pool.remains();
        move || remains.clear()
    });
    let demo = Demo { pool, inputs, terminal };
    match demo.perform(files, begun) {
        Ok(mut findings) => {
            findings.homes = keep.then(|| (1..=NODES).map(|number| demo.pool.home(number)).collect());
            terminal.result(&findings, || demo.tell(&findings));
            Ok(())
        }
        Err(complaint) => {
            demo.pool.discard();
            Err(complaint)
        }
    }
}

/// What is stored beside the generated data.
#[derive(Default)]
struct Inputs {
    /// Files and folders, and the names that they get.
    named: Vec<(PathBuf, Name)>,
    /// Names that are left out of them.
    exclude: Vec<String>,
}

/// What is stored beside the generated data: what was named, else the checkout that this is started in.
fn inputs(input: Option<&Path>, terminal: Terminal) -> Result<Inputs, Complaint> {
    let named = |path: &Path| {
        let real = fs::canonicalize(path).map_err(|error| Complaint::io("cannot read", path, &error))?;
        let name = real
            .file_name()
            .map_or_else(|| "input".to_owned(), |name| name.to_string_lossy().into_owned());
        let name = Name::try_from(name).map_err(|error| Complaint::usage(error.to_string()))?;
        Ok::<_, Complaint>((real, name))
    };
    if let Some(path) = input {
        return Ok(Inputs {
            named: vec![named(path)?],
            ..Inputs::default()
        });
    }
    let exclude = data::EXCLUDED.map(str::to_owned).to_vec();
    let here = Path::new(".");
    if !here.join(".git").exists() {
        return Ok(Inputs::default());
    }
    let mut files = Vec::new();
    data::survey(here, Path::new(""), &exclude, &mut files);
    let bytes: u64 = files.iter().map(Stored::len).sum();
    if bytes > CHECKOUT_BYTES_MAX {
        terminal.note(&format!(
            "This checkout has {}: it is left out. `--input .` stores it.",
            ByteSize(bytes)
        ));
        return Ok(Inputs::default());
    }
    Ok(Inputs {
        named: vec![named(here)?],
        exclude,
    })
}

/// Refuses to begin what the disk has no room for.
pub(crate) fn check_disk(needed: u64, command: &str) -> Result<(), Complaint> {
    let folder = std::env::temp_dir();
    let free = config::free_bytes(&folder)?;
    if free < needed {
        let (free, needed) = (ByteSize(free), ByteSize(needed));
        return Err(Complaint::failed(format!(
            "`{command}` needs {needed} in {}, and {free} are free",
            folder.display()
        ))
        .hint(format!(
            "name a folder on another disk: TMPDIR=/somewhere potluck {command}"
        )));
    }
    Ok(())
}

struct Demo {
    pool: Pool,
    inputs: Inputs,
    terminal: Terminal,
}

impl Demo {
    fn say(&self, text: &str) {
        self.terminal.note(text);
    }

    fn perform(&self, mut files: Vec<Stored>, begun: Instant) -> Result<Findings, Complaint> {
        let generated = self.pool.folder().join("generated");
        let mut steps = Vec::new();
        self.say(&format!(
            "Starting {NODES} nodes on this machine, and making 256 MiB of data to store."
        ));
        let starting = Instant::now();
        std::thread::scope(|scope| {
            let making = scope.spawn(|| data::generate(&generated));
            self.pool.start()?;
            making
                .join()
                .unwrap_or_else(|_| Err(Complaint::failed("the data could not be made")))
        })?;
        data::survey(&generated, Path::new("generated"), &[], &mut files);
        let total: u64 = files.iter().map(Stored::len).sum();
        self.say(&format!(
            "  {NODES} nodes see each other after {}",
            seconds(starting.elapsed())
        ));

        self.say(&format!(
            "\nStoring {} through node 1.",
            count(files.len() as u64, "file")
        ));
        let stored = self.store(&generated, &mut steps)?;
        let status = status::ask(&self.pool.home(READER))?;
        let stored_bytes = status.nodes.iter().map(|node| node.used.0).sum::<u64>().max(stored);
        self.tell_health(&status.health);

        let lost = [self.pool.id(KILLED[0])?, self.pool.id(KILLED[1])?];
        self.say(&format!(
            "\nKilling nodes 1 and 2 (SIGKILL), and wiping node 1, which the files were stored through. {} are left.",
            NODES - 2
        ));
        KILLED.into_iter().for_each(|number| self.pool.kill(number));
        self.pool.wipe(KILLED[0])?;
        let killed_at = Instant::now();
        // Asked now: the counts of the repairs begin with the nodes, and those of the lost ones are gone.
        let (before, fetched) = std::thread::scope(|scope| {
            let asking = scope.spawn(|| status::ask(&self.pool.home(READER)));
            let fetched = self.fetch(READER, "get, 2 nodes lost", &files, &mut steps);
            (asking.join(), fetched)
        });
        let (before, mut identical) = (
            before
                .ok()
                .and_then(Result::ok)
                .map(|status| status.health)
                .unwrap_or_default(),
            fetched?,
        );

        self.say("\nWaiting for the pool to mend itself.");
        let (mended, mended_at) = self.wait_for_repair(&lost)?;
        let repair = mended.health.clone();
        let repair_read = repair.repair_read.saturating_sub(before.repair_read);
        let repair_written = repair.repair_written.saturating_sub(before.repair_written);
        let seconds = mended_at.duration_since(killed_at).as_secs_f64();
        steps.push(Step {
            what: "repair".to_owned(),
            bytes: repair_written,
            seconds,
        });
        self.tell_health(&repair);
        self.tell_limits(&mended);

        self.say(&format!("\nKilling node {KILLED_LATER} too. {} are left.", NODES - 3));
        self.pool.kill(KILLED_LATER);
        identical &= self.fetch(READER_LATER, "get, 3 nodes lost", &files, &mut steps)?;
        if !identical {
            return Err(Complaint::failed("not every byte came back"));
        }
        let versions = self.share()?;
        Ok(Findings {
            steps,
            files: files.len() as u64,
            bytes: total,
            stored_bytes,
            repair_read,
            repair_written,
            after_repair: repair,
            identical,
            versions,
            seconds: begun.elapsed().as_secs_f64(),
            homes: None,
        })
    }

    /// Stores everything; gives the bytes of shards that this made.
    fn store(&self, generated: &Path, steps: &mut Vec<Step>) -> Result<u64, Complaint> {
        let root = SpacePath::root();
        let generated_name =
            Name::try_from("generated".to_owned()).map_err(|error| Complaint::failed(error.to_string()))?;
        let mut sources = vec![Source {
            local: Some(generated.to_owned()),
            path: root.join(generated_name),
        }];
        for (local, name) in &self.inputs.named {
            sources.push(Source {
                local: Some(local.clone()),
                path: root.join(name.clone()),
            });
        }
        let options = PutOptions {
            survive: Some(2),
            strict: true,
            ..PutOptions::default()
        };
        let outcome = put::send(
            &self.pool.home(1),
            &SpaceName::home(),
            &sources,
            options,
            &self.inputs.exclude,
            self.terminal,
        )?;
        for failure in &outcome.failed {
            self.terminal.warn(&format!("{}: {}", failure.path, failure.complaint));
        }
        let (bytes, time) = (outcome.report.bytes, Duration::from_secs_f64(outcome.seconds));
        self.say(&format!(
            "  {} durable in {} ({})",
            ByteSize(bytes),
            seconds(time),
            rate(bytes, time)
        ));
        steps.push(Step {
            what: "put, 6 nodes".to_owned(),
            bytes,
            seconds: outcome.seconds,
        });
        Ok(outcome.report.stored)
    }

    /// Fetches everything through a node, and compares every byte. Whether it is the same.
    fn fetch(&self, number: usize, what: &str, files: &[Stored], steps: &mut Vec<Step>) -> Result<bool, Complaint> {
        self.say(&format!("Fetching everything through node {number}."));
        let local = self.pool.folder().join("fetched");
        let target = Target {
            place: Place::root().into(),
            local: local.clone(),
            which: Which::Latest,
            range: None,
            fsync: false,
        };
        let outcome = get::fetch(&self.pool.home(number), &target, &Parts::default(), self.terminal)?;
        for failure in outcome.failed.iter().take(5) {
            self.terminal.warn(&format!("{}: {}", failure.path, failure.complaint));
        }
        let (bytes, time) = (outcome.bytes, Duration::from_secs_f64(outcome.seconds));
        let comparison = data::compare(files, &local);
        for name in comparison.differ.iter().take(5) {
            self.terminal
                .warn(&format!("{name} is missing, or not what was stored"));
        }
        if !comparison.changed.is_empty() {
            let changed = count(comparison.changed.len() as u64, "file");
            self.terminal.warn(&format!(
                "{changed} were edited here while the demo ran, and cannot be compared: {}",
                comparison.changed.join(", ")
            ));
        }
        let verdict = if comparison.differ.is_empty() {
            "every byte is the same"
        } else {
            "NOT the same"
        };
        self.say(&format!(
            "  {} in {} ({}); {} compared: {verdict}",
            ByteSize(bytes),
            seconds(time),
            rate(bytes, time),
            count(comparison.same + comparison.differ.len() as u64, "file"),
        ));
        steps.push(Step {
            what: what.to_owned(),
            bytes,
            seconds: outcome.seconds,
        });
        fs::remove_dir_all(&local).map_err(|error| Complaint::io("cannot remove", &local, &error))?;
        Ok(comparison.differ.is_empty())
    }

    /// Until the lost nodes are known to be lost, and nothing is left that could be mended; gives how it is then, and since when.
    fn wait_for_repair(&self, lost: &[NodeId]) -> Result<(Status, Instant), Complaint> {
        let (mut looks, mut mended_at) = (0, Instant::now());
        let mut last = None;
        let mut progress = self.terminal.progress("mending", None);
        let home = self.pool.home(READER);
        let waited = self
            .pool
            .until(REPAIR_TIMEOUT, POLL, "the pool has not mended itself", || {
                let status = status::ask(&home)?;
                let health = &status.health;
                let noticed = status
                    .nodes
                    .iter()
                    .filter(|node| lost.contains(&node.id))
                    .all(|node| node.status == NodeStatus::Away);
                let waits = health
                    .waiting
                    .iter()
                    .any(|(cause, number)| !["no-domain", "unnamed"].contains(&&**cause) && *number > 0);
                let is_done = noticed
                    && health.mending + health.queued == 0
                    && !waits
                    && health.gathering == 0
                    && status.silent.is_empty();
                if !is_done || looks == 0 {
                    mended_at = Instant::now();
                }
                looks = if is_done { looks + 1 } else { 0 };
                progress.at(
                    health.repair_written,
                    &format!("{} under repair, {} next", health.mending, health.queued),
                );
                last = Some(status);
                Ok(looks >= REPAIR_LOOKS)
            });
        progress.done();
        if let Err(complaint) = waited {
            // A slow machine is no failure, as long as another node may be lost.
            match &last {
                Some(status) if status.health.worst().is_some_and(|least| least >= 1) => {
                    self.terminal.warn(&format!("{complaint}: the rest goes on meanwhile"));
                }
                _ => return Err(complaint),
            }
        }
        last.map(|status| (status, mended_at))
            .ok_or_else(|| Complaint::failed("no node said how the repair goes"))
    }

    fn tell_health(&self, health: &HealthInfo) {
        for sentence in status::health(health) {
            self.say(&format!("  {sentence}"));
        }
    }

    /// What so few nodes cannot give, said plainly.
    fn tell_limits(&self, status: &Status) {
        if status.health.endangered > 0 {
            let here = status
                .nodes
                .iter()
                .filter(|node| node.status != NodeStatus::Away)
                .count();
            self.say(&format!(
                "  This was made to survive 2 losses of {NODES} nodes. {here} nodes are too few for all its shards to lie apart, so part of it\n  \
                 survives fewer until another machine joins or comes back. Nothing else is left to mend."
            ));
        }
    }

    fn tell(&self, findings: &Findings) -> String {
        let mut rows = vec![["STEP", "BYTES", "TIME", "RATE"].map(str::to_owned).to_vec()];
        for step in &findings.steps {
            let time = Duration::from_secs_f64(step.seconds);
            rows.push(vec![
                step.what.clone(),
                ByteSize(step.bytes).to_string(),
                seconds(time),
                rate(step.bytes, time),
            ]);
        }
        let mut text = format!(
            "\n{}\n\nStored       {} for {} of {}: {:.2} times as much\nRepair       read {}, wrote {}\nEverything   {}, every byte the same\n",
            table(&rows),
            ByteSize(findings.stored_bytes),
            ByteSize(findings.bytes),
            count(findings.files, "file"),
            findings.stored_bytes as f64 / findings.bytes.max(1) as f64,
            ByteSize(findings.repair_read),
            ByteSize(findings.repair_written),
            seconds(Duration::from_secs_f64(findings.seconds)),
        );
        text.push_str(&self.tell_kept());
        text.trim_end().to_owned()
    }

    fn tell_kept(&self) -> String {
        if !self.pool.is_kept() {
            return String::new();
        }
        let program = std::env::current_exe().map_or_else(|_| "potluck".to_owned(), |path| path.display().to_string());
        let live: Vec<usize> = (1..=NODES)
            .filter(|number| ![KILLED[0], KILLED[1], KILLED_LATER].contains(number))
            .collect();
        let numbers: Vec<String> = live.iter().map(ToString::to_string).collect();
        let folder = self.pool.folder().display();
        format!(
            "\nNodes {} still run. To use them:\n  export POTLUCK_HOME={}\n  {program} status\n  {program} ls -l home:/generated\n\
             To end them, and remove all:\n  for n in {}; do {program} stop --home {folder}/node-$n; done; rm -r {folder}\n",
            numbers.join(", "),
            self.pool.home(READER).display(),
            numbers.join(" "),
        )
    }
}
