//! `potluck bench`: how fast this machine does the main work, with real processes, disks and connections, and how that compares with the
//! least that the work needs: sealing, coding, hashing, and files, measured in the same run ([`Yardstick`]).

mod usage;

use crate::{
    command::{
        files,
        get::{self, Parts, Target},
        put::{self, Source},
        status,
    },
    complaint::Complaint,
    demo::{
        check_disk,
        data::{self, Noise},
    },
    interrupt,
    machines::{Plan, Pool},
    place::Place,
    terminal::{Terminal, count, rate, seconds, table},
};
use potluck_node::{PutOptions, Which, yardstick::Yardstick};
use potluck_spaces::{Name, Path as SpacePath};
use potluck_types::{ByteSize, Geometry, SpaceName};
use serde::Serialize;
use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};
use usage::Usage;

/// What the disk must hold for each byte of the large file: itself, coded, fetched, and the same for the yardstick.
const DISK_FACTOR: u64 = 9;
/// The length of a small file.
const SMALL_BYTES: u64 = 4096;
/// Small files in a directory.
const DIRECTORY_FILES: u64 = 10_000;
/// Above this share of all processors' time they are what bounds the work, in percent.
const BUSY_PERCENT: f64 = 85.0;
/// How long a node is left alone before its memory is looked at.
const IDLE_TIME: Duration = Duration::from_secs(3);

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// The large file.
    pub(crate) size: ByteSize,
    /// Nodes of the pool.
    pub(crate) nodes: u8,
    /// Small files.
    pub(crate) files: u64,
    /// Files that a node has when its start is measured.
    pub(crate) objects: u64,
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Line {
    what: String,
    bytes: u64,
    files: u64,
    seconds: f64,
    /// What the same work takes at least, when that was measured.
    limit_seconds: Option<f64>,
    /// Processor time of all nodes and of this command, together.
    cpu_seconds: f64,
    /// How busy all processors were, in percent.
    busy_percent: f64,
    /// Bytes that all nodes wrote to disk.
    written: u64,
}

impl Line {
    fn ratio(&self) -> Option<f64> {
        Some(self.limit_seconds? / self.seconds.max(1e-9))
    }

    fn pace(&self) -> String {
        if self.files > 1 {
            format!("{:.0} files/s", self.files as f64 / self.seconds.max(1e-9))
        } else {
            rate(self.bytes, Duration::from_secs_f64(self.seconds))
        }
    }
}

/// A node with nothing to do.
#[derive(Debug, Serialize)]
struct Idle {
    files: u64,
    ready_seconds: f64,
    resident: Option<u64>,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Findings {
    nodes: u8,
    geometry: (u8, u8),
    lines: Vec<Line>,
    /// The most memory of the node that stores, and of the others.
    peak: Option<(u64, u64)>,
    idle: Option<Idle>,
}

/// `potluck bench`.
pub(crate) fn run(options: Options, terminal: Terminal) -> Result<(), Complaint> {
    let needed = options.size.0 * DISK_FACTOR + (options.files + options.objects) * SMALL_BYTES * 6 + (1 << 30);
    check_disk(needed, "bench")?;
    let folder = std::env::temp_dir().join(format!("potluck-bench-{}", std::process::id()));
    let plan = Plan {
        folder,
        name: "bench",
        nodes: usize::from(options.nodes),
        machines: &[],
        are_one_person: true,
        capacity: ByteSize(options.size.0 * 4 + (8 << 30)),
        grace: "15m",
    };
    let pool = Pool::new(plan.clone(), false)?;
    interrupt::on_interrupt({
        let remains = pool.remains();
        move || remains.clear()
    });
    let mut bench = Bench {
        pool,
        plan,
        options,
        terminal,
        lines: Vec::new(),
    };
    let findings = bench.measure()?;
    terminal.result(&findings, || tell(&findings));
    Ok(())
}

struct Bench {
    pool: Pool,
    plan: Plan,
    options: Options,
    terminal: Terminal,
    lines: Vec<Line>,
}

/// When a measurement began, and what had been used by then.
struct Begun {
    at: Instant,
    usage: Vec<Usage>,
}

impl Bench {
    fn say(&self, text: &str) {
        self.terminal.note(text);
    }

    fn measure(&mut self) -> Result<Findings, Complaint> {
        self.say(&format!(
            "Starting {} on this machine.",
            count(self.options.nodes.into(), "node")
        ));
        self.pool.start()?;
        let geometry = status::ask(&self.pool.home(1))?.geometry;
        if self.options.size.0 > 0 {
            self.large(geometry)?;
        }
        if self.options.files > 0 {
            self.small()?;
        }
        let peak = self.peak();
        (1..=self.plan.nodes).for_each(|number| self.pool.kill(number));
        let idle = if self.options.objects > 0 {
            Some(self.idle()?)
        } else {
            None
        };
        Ok(Findings {
            nodes: self.options.nodes,
            geometry,
            lines: std::mem::take(&mut self.lines),
            peak,
            idle,
        })
    }

    /// One large file, put through the first node and fetched through the last.
    fn large(&mut self, (k, m): (u8, u8)) -> Result<(), Complaint> {
        let size = self.options.size.0 / 8 * 8;
        let source = self.folder("large")?.join("large.bin");
        let failed = |error| Complaint::io("cannot make test data in", &source, &error);
        self.say(&format!("Making {} of data.", ByteSize(size)));
        Noise::new(1).write(&source, size).map_err(failed)?;
        let geometry =
            Geometry::new(k, m).ok_or_else(|| Complaint::failed(format!("no stripe has {k} + {m} shards")))?;
        let scratch = self.folder("yardstick")?;
        let scratched = |error| Complaint::io("cannot measure the disk at", &scratch, &error);
        let mut yardstick = Yardstick::new(&scratch, size, geometry, self.plan.nodes);
        self.say("Measuring what this machine can do at best.");
        let put_limit = yardstick.put().map_err(scratched)?;
        self.say(&format!("Storing {} through node 1.", ByteSize(size)));
        self.put("put", &source, "large.bin", Some(put_limit))?;
        // Again, and the mean of both: what else runs on this machine comes and goes.
        let put_limit = (put_limit + yardstick.put().map_err(scratched)?) / 2;
        self.set_limit(put_limit);
        self.say(&format!("Fetching it through node {}.", self.plan.nodes));
        let get_limit = yardstick.get().map_err(scratched)?;
        self.get("get", "large.bin", &source, Some(get_limit))?;
        let get_limit = (get_limit + yardstick.get().map_err(scratched)?) / 2;
        self.set_limit(get_limit);
        fs::remove_dir_all(&scratch).map_err(scratched)
    }

    /// Sets the limit of what was measured last.
    fn set_limit(&mut self, limit: Duration) {
        if let Some(line) = self.lines.last_mut() {
            line.limit_seconds = Some(limit.as_secs_f64());
        }
    }

    /// Many small files, in one directory.
    fn small(&mut self) -> Result<(), Complaint> {
        let number = self.options.files;
        self.say(&format!(
            "Storing {} of {}.",
            count(number, "file"),
            ByteSize(SMALL_BYTES)
        ));
        let source = self.folder("small")?;
        make_small(&source, number)?;
        self.put("put, small files", &source, "small", None)?;
        let begun = self.begin();
        let mut names = 0;
        files::pages(
            &self.pool.home(1),
            &Place::root().at(&path("small")?).into(),
            false,
            |page| {
                names += page.entries.len() as u64;
                Ok(())
            },
        )?;
        self.end(&begun, "list them", 0, names, None);
        self.get("get, small files", "small", &source, None)
    }

    fn put(&mut self, what: &str, source: &Path, name: &str, limit: Option<Duration>) -> Result<(), Complaint> {
        let sources = [Source {
            local: Some(source.to_owned()),
            path: path(name)?,
        }];
        let options = PutOptions {
            survive: None,
            strict: true,
            ..PutOptions::default()
        };
        let begun = self.begin();
        let outcome = put::send(
            &self.pool.home(1),
            &SpaceName::home(),
            &sources,
            options,
            &[],
            self.terminal,
        )?;
        if let Some(failure) = outcome.failed.into_iter().next() {
            return Err(failure.complaint);
        }
        self.end(&begun, what, outcome.report.bytes, outcome.report.files, limit);
        Ok(())
    }

    fn get(&mut self, what: &str, name: &str, source: &Path, limit: Option<Duration>) -> Result<(), Complaint> {
        let fetched = self.folder("fetched")?;
        let local = fetched.join(name);
        let target = Target {
            place: Place::root().at(&path(name)?).into(),
            local: local.clone(),
            which: Which::Latest,
            range: None,
            fsync: true,
        };
        let begun = self.begin();
        let home = self.pool.home(self.plan.nodes);
        let outcome = get::fetch(&home, &target, &Parts::default(), self.terminal)?;
        if let Some(failure) = outcome.failed.into_iter().next() {
            return Err(failure.complaint);
        }
        self.end(&begun, what, outcome.bytes, outcome.files, limit);
        let mut originals = Vec::new();
        data::survey(source, Path::new(name), &[], &mut originals);
        if !data::compare(&originals, &fetched).differ.is_empty() {
            return Err(Complaint::failed(format!("{what}: not every byte came back")));
        }
        fs::remove_dir_all(&fetched).map_err(|error| Complaint::io("cannot remove", &local, &error))
    }

    /// A node alone, with many files, started anew.
    fn idle(&self) -> Result<Idle, Complaint> {
        let number = self.options.objects;
        self.say(&format!("Filling one node with {}.", count(number, "file")));
        let plan = Plan {
            folder: self.plan.folder.join("idle"),
            nodes: 1,
            ..self.plan.clone()
        };
        let source = self.folder("many")?;
        make_small(&source, number)?;
        let pool = Pool::new(plan, false)?;
        pool.start()?;
        let sources = [Source {
            local: Some(source),
            path: path("many")?,
        }];
        let outcome = put::send(
            &pool.home(1),
            &SpaceName::home(),
            &sources,
            PutOptions::default(),
            &[],
            self.terminal,
        )?;
        if let Some(failure) = outcome.failed.into_iter().next() {
            return Err(failure.complaint);
        }
        pool.stop(1)?;
        let ready = pool.restart(1)?;
        thread::sleep(IDLE_TIME);
        let resident = pool.process(1).and_then(Usage::of).map(|usage| usage.resident);
        Ok(Idle {
            files: outcome.report.files,
            ready_seconds: ready.as_secs_f64(),
            resident,
        })
    }

    fn folder(&self, name: &str) -> Result<PathBuf, Complaint> {
        let folder = self.plan.folder.join(name);
        fs::create_dir_all(&folder).map_err(|error| Complaint::io("cannot make", &folder, &error))?;
        Ok(folder)
    }

    /// The nodes, and this process.
    fn processes(&self) -> Vec<u32> {
        (1..=self.plan.nodes)
            .filter_map(|number| self.pool.process(number))
            .chain([std::process::id()])
            .collect()
    }

    fn begin(&self) -> Begun {
        let used = |process: u32| Usage::of(process).unwrap_or_default();
        Begun {
            usage: self.processes().into_iter().map(used).collect(),
            at: Instant::now(),
        }
    }

    fn end(&mut self, begun: &Begun, what: &str, bytes: u64, files: u64, limit: Option<Duration>) {
        let time = begun.at.elapsed();
        let processes = self.processes();
        let now = processes.iter().map(|process| Usage::of(*process).unwrap_or_default());
        let used: Vec<Usage> = now.zip(&begun.usage).map(|(now, before)| now.since(*before)).collect();
        let cpu: f64 = used.iter().map(|usage| usage.cpu.as_secs_f64()).sum();
        let cores = thread::available_parallelism().map_or(1, usize::from);
        // The last is this process: what it writes is the reader's own.
        let written = used[..used.len() - 1].iter().map(|usage| usage.written).sum();
        let line = Line {
            what: what.to_owned(),
            bytes,
            files,
            seconds: time.as_secs_f64(),
            limit_seconds: limit.map(|limit| limit.as_secs_f64()),
            cpu_seconds: cpu,
            busy_percent: 100.0 * cpu / (time.as_secs_f64() * cores as f64).max(1e-9),
            written,
        };
        self.say(&format!("  {}, {}", seconds(time), line.pace()));
        self.lines.push(line);
    }

    fn peak(&self) -> Option<(u64, u64)> {
        let peaks: Vec<u64> = (1..=self.plan.nodes)
            .filter_map(|number| Some(Usage::of(self.pool.process(number)?)?.peak))
            .collect();
        let (first, others) = peaks.split_first()?;
        Some((*first, others.iter().copied().max().unwrap_or(0)))
    }
}

fn path(name: &str) -> Result<SpacePath, Complaint> {
    let name = Name::try_from(name.to_owned()).map_err(|error| Complaint::failed(error.to_string()))?;
    Ok(SpacePath::root().join(name))
}

fn make_small(folder: &Path, number: u64) -> Result<(), Complaint> {
    let failed = |error| Complaint::io("cannot make test data in", folder, &error);
    let mut noise = Noise::new(number);
    for file in 0..number {
        let directory = if number > DIRECTORY_FILES {
            let directory = folder.join(format!("{:03}", file / DIRECTORY_FILES));
            fs::create_dir_all(&directory).map_err(failed)?;
            directory
        } else {
            folder.to_owned()
        };
        noise
            .write(&directory.join(format!("{file:07}")), SMALL_BYTES)
            .map_err(failed)?;
    }
    Ok(())
}

fn tell(findings: &Findings) -> String {
    let head = ["WORK", "TIME", "RATE", "AT BEST", "RATIO", "BOUND BY", "WRITTEN"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for line in &findings.lines {
        let what = if line.files > 1 {
            format!("{} ({})", line.what, line.files)
        } else {
            format!("{} {}", line.what, ByteSize(line.bytes))
        };
        let limit = line.limit_seconds.map(Duration::from_secs_f64);
        let bound = if line.busy_percent >= BUSY_PERCENT {
            format!("processors ({:.0} % busy)", line.busy_percent)
        } else {
            format!("waiting ({:.0} % busy)", line.busy_percent)
        };
        let written = match line.bytes {
            0 => String::new(),
            bytes => format!("{:.2} ×", line.written as f64 / bytes as f64),
        };
        rows.push(vec![
            what,
            format!("{:.2} s", line.seconds),
            line.pace(),
            limit.map(seconds).unwrap_or_default(),
            line.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            bound,
            written,
        ]);
    }
    let (k, m) = findings.geometry;
    let mut text = format!(
        "\n{}\n\nAt best      the same bytes sealed, coded, hashed and written with fsync by all cores of this machine, with no pool around it\n\
         Written      bytes that the nodes wrote to disk, for each byte stored; coding alone makes {:.2} ({k} data and {m} parity shards)",
        table(&rows),
        f64::from(k + m) / f64::from(k),
    );
    if let Some((first, others)) = findings.peak {
        text.push_str(&format!(
            "\nMemory       at most {} in the node that stored, {} in the others",
            ByteSize(first),
            ByteSize(others)
        ));
    }
    if let Some(idle) = &findings.idle {
        let resident = idle
            .resident
            .map_or_else(|| "unknown".to_owned(), |bytes| ByteSize(bytes).to_string());
        text.push_str(&format!(
            "\nIdle         a node with {} answers {:.0} ms after it is started, and has {resident} resident",
            count(idle.files, "file"),
            idle.ready_seconds * 1000.0,
        ));
    }
    text
}
