//! What many names cost: to store them, to hear of all of them, of few and of none, and to list them. Two machines of one person, nothing goes wrong.

use crate::{
    machine::Machine,
    network::{self, Network},
    run::{Ended, Failure},
};
use serde_json::Value;
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// The folder with more files than any other, and how many it has.
const LARGEST: &str = "ten";
const LARGEST_FILES: u64 = 10_000;
/// Files of each other folder.
const FOLDER_FILES: u64 = 1000;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(1800);
/// After a machine has heard all that is new: what it says to the other meanwhile is counted, too.
const AFTERWARDS: Duration = Duration::from_secs(4);
/// A disk for a million names, and as much again.
const DISK: &str = "8g";

/// The two machines, and the files that the first one puts.
struct Pair {
    // Dropped in this order: who is on the network goes first.
    machines: [Machine; 2],
    _network: Network,
    folder: PathBuf,
}

/// Measures it all, and says what came of it, line by line.
pub(crate) fn measure(files: u64, program: &Path, folder: &Path) -> Result<(), Failure> {
    let network = Network::build(2, 0)?;
    let machine = |index| Machine::with_disk(index, &network, program, folder, DISK);
    let mut pair = Pair {
        machines: [machine(0)?, machine(1)?],
        _network: network,
        folder: folder.to_owned(),
    };
    let tree = pair.write(0, 0..files)?;
    pair.machines[0].found()?;
    let put = pair.typed(0, &["put", &tree, "home:/"])?;
    println!(
        "stored: {:.1} s, and then {} of home",
        put.took.as_secs_f64(),
        size(pair.machines[0].home())?
    );
    let ticket = pair.machines[0].seat.ticket()?;
    let hears_all = |pair: &Pair| pair.count().is_ok_and(|known| known == files);
    let cost = pair.cost_of(|pair| pair.machines[1].join(&ticket), hears_all)?;
    println!(
        "another machine joins and knows all: {cost}, and then {} of home",
        size(pair.machines[1].home())?
    );
    // One of each of a hundred folders, and the last ten thousand.
    for (round, step, count) in [(1, FOLDER_FILES, 100), (2, 1, 10_000)] {
        pair.machines[1].stop()?;
        let numbers = (files.saturating_sub(step * count)..files).step_by(usize::try_from(step).unwrap_or(1));
        let last = numbers.clone().last().ok_or_else(|| Failure("no files".to_owned()))?;
        let changed = pair.write(round, numbers)?;
        pair.typed(0, &["put", &changed, "home:/"])?;
        let (path, content) = (format!("home:/tree/{}", place(last)), content(last, round));
        let hears_last = |pair: &Pair| pair.typed(1, &["cat", &path]).is_ok_and(|said| said.out == content);
        let cost = pair.cost_of(|pair| pair.machines[1].start(None), hears_last)?;
        println!("it was off while {count} were changed: {cost}");
    }
    pair.machines[1].stop()?;
    let cost = pair.cost_of(|pair| pair.machines[1].start(None), |_| true)?;
    println!("it was off while nothing was changed: {cost}");
    let listed = format!("home:/tree/{LARGEST}");
    let mut took = Vec::new();
    for long in [false, true] {
        for _ in 0..7 {
            let arguments: &[&str] = if long { &["ls", "-l", &listed] } else { &["ls", &listed] };
            took.push(pair.typed(1, arguments)?.took);
        }
        took.sort();
        println!(
            "listing a folder of {}{}: {} to {} ms",
            LARGEST_FILES.min(files),
            if long { " with -l" } else { "" },
            took[0].as_millis(),
            took[took.len() - 1].as_millis()
        );
        took.clear();
    }
    Ok(())
}

/// Where a file is in the tree.
fn place(at: u64) -> String {
    match at.checked_sub(LARGEST_FILES) {
        None => format!("{LARGEST}/{at}"),
        Some(rest) => format!("{}/{}", rest / FOLDER_FILES, rest % FOLDER_FILES),
    }
}

fn content(at: u64, round: u64) -> String {
    format!("{at}.{round}")
}

/// What it took from a beginning until something is known.
struct Cost {
    took: Duration,
    bytes: u64,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} s, {:.0} kB between them",
            self.took.as_secs_f64(),
            self.bytes as f64 / 1e3
        )
    }
}

impl Pair {
    /// Writes the files with these numbers into a folder of their own.
    fn write(&self, round: u64, mut numbers: impl Iterator<Item = u64>) -> Result<String, Failure> {
        let tree = self.folder.join(format!("round-{round}")).join("tree");
        let made = numbers.try_for_each(|at| {
            let file = tree.join(place(at));
            match fs::write(&file, content(at, round)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    fs::create_dir_all(file.parent().unwrap_or(&tree))?;
                    fs::write(&file, content(at, round))
                }
                written => written,
            }
        });
        made.map_err(|error| Failure(format!("{}: {error}", tree.display())))?;
        Ok(tree.display().to_string())
    }

    fn typed(&self, machine: usize, arguments: &[&str]) -> Result<Ended, Failure> {
        let ended = self.machines[machine].seat.potluck(arguments, PATIENCE)?;
        match ended.is_good() {
            true => Ok(ended),
            false => Err(Failure(format!("{}: {}", arguments.join(" "), ended.err))),
        }
    }

    /// How many files the second machine knows.
    fn count(&self) -> Result<u64, Failure> {
        let said = self.typed(1, &["space", "info", "home", "--json"])?.out;
        let info: Value = serde_json::from_str(&said).map_err(|error| Failure(error.to_string()))?;
        info["files"].as_u64().ok_or(Failure(said))
    }

    /// What it takes until something that was begun is done.
    fn cost_of(
        &mut self,
        begin: impl FnOnce(&mut Self) -> Result<(), Failure>,
        is_done: impl Fn(&Self) -> bool,
    ) -> Result<Cost, Failure> {
        let (begun, before) = (Instant::now(), sent()?);
        begin(self)?;
        while !is_done(self) {
            if begun.elapsed() > PATIENCE {
                return Err(Failure(format!("not done after {PATIENCE:?}")));
            }
            thread::sleep(Duration::from_millis(100));
        }
        let took = begun.elapsed();
        thread::sleep(AFTERWARDS);
        Ok(Cost {
            took,
            bytes: sent()? - before,
        })
    }
}

/// Bytes that both have sent so far.
fn sent() -> Result<u64, Failure> {
    Ok(network::sent(0)?.0 + network::sent(1)?.0)
}

/// The bytes of all that is in a folder.
fn size(folder: &Path) -> Result<String, Failure> {
    fn add(folder: &Path) -> io::Result<u64> {
        fs::read_dir(folder)?.try_fold(0, |sum, entry| {
            let entry = entry?;
            let metadata = entry.metadata()?;
            Ok(sum
                + if metadata.is_dir() {
                    add(&entry.path())?
                } else {
                    metadata.len()
                })
        })
    }
    let bytes = add(folder).map_err(|error| Failure(format!("{}: {error}", folder.display())))?;
    Ok(format!("{:.0} MB", bytes as f64 / 1e6))
}
