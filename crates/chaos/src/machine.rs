//! One machine: a daemon in its namespace, with its home on a small disk of its own.

use crate::{
    network::{Network, namespace},
    run::{Ended, Failure, run, within},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::{
        fs::{FileExt, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The disk of a machine, in bytes, and what the pool may use of it.
const DISK: &str = "400m";
const CAPACITY: &str = "300MB";
/// How long an absent machine is waited for: short, so that repair is a part of the run.
const GRACE: &str = "5s";
const RETENTION: &str = "0s";
/// How long a daemon may take to answer after it was started.
const START: Duration = Duration::from_secs(90);
/// How long `status` may take.
const STATUS: Duration = Duration::from_secs(30);
/// A file that fills the disk.
const FILLER: &str = "filler";

/// Where a person sits who types commands.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    pub(crate) index: usize,
    program: PathBuf,
    home: PathBuf,
}

/// See the module. The daemon is killed and the disk unmounted when it is dropped.
pub(crate) struct Machine {
    pub(crate) seat: Seat,
    disk: PathBuf,
    /// Its address.
    line: String,
    log: PathBuf,
    daemon: Option<Child>,
    /// What is added to its clock, as `faketime` takes it.
    clock: Option<String>,
    /// The version that it runs with, and another one that it may change to.
    versions: Option<[PathBuf; 2]>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
        unmount(&self.disk);
    }
}

/// Unmounts a disk, also one that is in use.
pub(crate) fn unmount(disk: &Path) {
    if let Some(disk) = disk.to_str() {
        let _ = run("umount", &["--lazy", disk]);
    }
}

/// Unmounts the disks of runs that were killed.
pub(crate) fn unmount_all() {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    for line in mounts.lines().filter(|line| line.starts_with("potluck-chaos ")) {
        if let Some(disk) = line.split(' ').nth(1) {
            unmount(Path::new(disk));
        }
    }
}

/// Where the library that makes a clock wrong is, if it is installed.
pub(crate) fn faketime() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?;
    folders
        .filter_map(Result::ok)
        .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.exists())
}

impl Seat {
    /// A command as the person at this machine types it.
    pub(crate) fn potluck(&self, arguments: &[&str], limit: Duration) -> Result<Ended, Failure> {
        let mut command = Command::new(&self.program);
        command.arg("--home").arg(&self.home).args(arguments);
        within(&mut command, limit)
    }

    /// A ticket for one more machine of the same person.
    pub(crate) fn ticket(&self) -> Result<String, Failure> {
        let ended = self.potluck(&["invite", "--mine", "--yes", "--json", "--uses", "20"], STATUS)?;
        let ticket = serde_json::from_str::<Value>(&ended.out).ok();
        let ticket = ticket.and_then(|value| Some(value["ticket"].as_str()?.to_owned()));
        ticket.ok_or_else(|| Failure(format!("no ticket: {}", ended.err)))
    }

    /// What `status` says.
    pub(crate) fn status(&self) -> Result<Value, Failure> {
        let ended = self.potluck(&["status", "--json"], STATUS)?;
        if !ended.is_good() {
            return Err(Failure(ended.err));
        }
        serde_json::from_str(&ended.out).map_err(|error| Failure(error.to_string()))
    }
}

impl Machine {
    /// A machine with an empty disk below a folder.
    pub(crate) fn new(index: usize, network: &Network, program: &Path, folder: &Path) -> Result<Self, Failure> {
        Self::with_disk(index, network, program, folder, DISK)
    }

    /// The same with a disk of another size, as `mount` takes it.
    pub(crate) fn with_disk(
        index: usize,
        network: &Network,
        program: &Path,
        folder: &Path,
        size: &str,
    ) -> Result<Self, Failure> {
        let disk = folder.join(format!("disk-{index}"));
        fs::create_dir_all(&disk).map_err(|error| Failure(format!("{}: {error}", disk.display())))?;
        let path = disk
            .to_str()
            .ok_or_else(|| Failure("the folder has a strange name".to_owned()))?;
        run(
            "mount",
            &["-t", "tmpfs", "-o", &format!("size={size}"), "potluck-chaos", path],
        )?;
        Ok(Self {
            seat: Seat {
                index,
                program: program.to_owned(),
                home: disk.join("home"),
            },
            line: network.listens_at(index),
            log: folder.join(format!("machine-{index}.log")),
            disk,
            daemon: None,
            clock: None,
            versions: None,
        })
    }

    /// It may go on with another version of the program. Whoever sits at it types commands of the version that it runs with.
    pub(crate) fn may_change(&mut self, other: &Path, folder: &Path) -> Result<(), Failure> {
        let current = self.seat.program.clone();
        self.seat.program = folder.join(format!("program-{}", self.seat.index));
        self.versions = Some([current, other.to_owned()]);
        self.link_program()
    }

    fn link_program(&self) -> Result<(), Failure> {
        let Some([current, _]) = &self.versions else {
            return Ok(());
        };
        // Somebody may be about to type a command.
        let (link, next) = (&self.seat.program, self.seat.program.with_extension("next"));
        let linked = symlink(current, &next).and_then(|()| fs::rename(&next, link));
        linked.map_err(|error| Failure(format!("{}: {error}", link.display())))
    }

    /// Changes the version of a machine that does not run.
    pub(crate) fn change_version(&mut self) -> Result<(), Failure> {
        if let Some(versions) = &mut self.versions {
            versions.swap(0, 1);
        }
        self.link_program()
    }

    /// Starts the daemon: `up`, or `join` with a ticket.
    fn spawn(&mut self, how: &[&str]) -> Result<(), Failure> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.map_err(|error| Failure(format!("{}: {error}", self.log.display())))?;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &namespace(self.seat.index)]);
        command
            .arg(&self.seat.program)
            .arg("--home")
            .arg(&self.seat.home)
            .args(how);
        command.args(["--listen", &format!("{}:4720", self.line), "--no-mdns"]);
        command.args(["--capacity", CAPACITY, "--grace", GRACE]);
        command.args(["--machine", &format!("m{}", self.seat.index)]);
        command.env("RUST_LOG", "potluck=info,potluck_node=debug,potluck_net=info");
        if let (Some(clock), Some(library)) = (&self.clock, faketime()) {
            command
                .env("LD_PRELOAD", library)
                .env("FAKETIME", clock)
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        // Ctrl-C is for the run, which ends them in order.
        command.process_group(0);
        let daemon = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.daemon = Some(daemon.map_err(|error| Failure(format!("ip netns exec: {error}")))?);
        Ok(())
    }

    fn answers(&mut self) -> Result<(), Failure> {
        let begun = Instant::now();
        loop {
            if self.seat.status().is_ok() {
                return Ok(());
            }
            let ended = self.daemon.as_mut().and_then(|daemon| daemon.try_wait().ok().flatten());
            if ended.is_some() || begun.elapsed() > START {
                return Err(Failure(format!(
                    "machine {} does not start ({ended:?}): see {}",
                    self.seat.index,
                    self.log.display()
                )));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Founds the pool.
    pub(crate) fn found(&mut self) -> Result<(), Failure> {
        self.configure()?;
        self.spawn(&["up", "--name", "chaos"])?;
        self.answers()
    }

    /// Joins it.
    pub(crate) fn join(&mut self, ticket: &str) -> Result<(), Failure> {
        self.configure()?;
        self.spawn(&["join", ticket])?;
        self.answers()
    }

    fn configure(&self) -> Result<(), Failure> {
        let home = &self.seat.home;
        let written = fs::create_dir_all(home).and_then(|()| {
            fs::write(
                home.join("config.toml"),
                format!("retention = \"{RETENTION}\"\nmass_change_share = 1.0\n"),
            )
        });
        written.map_err(|error| Failure(format!("{}: {error}", home.display())))
    }

    fn pid(&self) -> Option<Pid> {
        let daemon = self.daemon.as_ref()?;
        Pid::from_raw(i32::try_from(daemon.id()).ok()?)
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            let _ = kill_process(pid, signal);
        }
    }

    /// SIGKILL: as when the power of the process is cut.
    pub(crate) fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    /// `potluck stop`: it ends as it should.
    pub(crate) fn stop(&mut self) -> Result<(), Failure> {
        let ended = self.seat.potluck(&["stop"], START)?;
        if !ended.is_good() {
            return Err(Failure(ended.err));
        }
        if let Some(mut daemon) = self.daemon.take() {
            daemon.wait().map_err(|error| Failure(error.to_string()))?;
        }
        Ok(())
    }

    /// Where all is that it keeps.
    pub(crate) fn home(&self) -> &Path {
        &self.seat.home
    }

    /// SIGSTOP: it is there, and does nothing.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Whether the daemon has ended since so many bytes of its log, and has said that it must be another version that takes its home.
    pub(crate) fn has_refused(&mut self, since: u64) -> bool {
        let said = fs::read(&self.log).unwrap_or_default();
        let said =
            String::from_utf8_lossy(said.get(usize::try_from(since).unwrap_or(0)..).unwrap_or_default()).into_owned();
        self.has_ended() && said.contains("update it") && !said.contains("panicked")
    }

    /// Bytes of its log.
    pub(crate) fn log_len(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |metadata| metadata.len())
    }

    /// Starts the daemon again, with a clock that is so wrong, and waits until it answers.
    pub(crate) fn start(&mut self, clock: Option<String>) -> Result<(), Failure> {
        self.clock = clock;
        self.spawn(&["up"])?;
        self.answers()
    }

    /// Bytes of memory that the daemon takes; none when it does not run.
    pub(crate) fn memory(&self) -> Option<u64> {
        self.kernel_says("VmRSS:")
    }

    /// The most that it has taken since it was started.
    pub(crate) fn memory_peak(&self) -> Option<u64> {
        self.kernel_says("VmHWM:")
    }

    fn kernel_says(&self, what: &str) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.daemon.as_ref()?.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(what))?;
        let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kilobytes << 10)
    }

    /// Whether the daemon ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.daemon
            .as_mut()
            .is_some_and(|daemon| matches!(daemon.try_wait(), Ok(Some(_))))
    }

    pub(crate) fn is_running(&self) -> bool {
        self.daemon.is_some()
    }

    /// Somebody else fills the disk.
    pub(crate) fn fill(&self) {
        if let Ok(mut filler) = File::create(self.disk.join(FILLER)) {
            let block = vec![7; 1 << 20];
            while filler.write_all(&block).is_ok() {}
        }
    }

    pub(crate) fn unfill(&self) {
        let _ = fs::remove_file(self.disk.join(FILLER));
    }

    /// Flips a bit in so many places of the stored shards. Gives how many.
    pub(crate) fn rot(&self, places: u64, mut roll: impl FnMut(u64) -> u64) -> u64 {
        let files = fs::read_dir(self.seat.home.join("store"))
            .into_iter()
            .flatten()
            .filter_map(Result::ok);
        let packs: Vec<_> = files
            .map(|file| file.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "pack"))
            .collect();
        let mut flipped = 0;
        for _ in 0..places {
            if let Some(pack) = packs.get(usize::try_from(roll(packs.len().max(1) as u64)).unwrap_or(0)) {
                flipped += u64::from(flip(pack, &mut roll));
            }
        }
        flipped
    }

    /// Flips a bit in so many places of its database. Gives how many.
    pub(crate) fn rot_names(&self, places: u64, mut roll: impl FnMut(u64) -> u64) -> u64 {
        let database = self.database();
        (0..places).map(|_| u64::from(flip(&database, &mut roll))).sum()
    }

    fn database(&self) -> PathBuf {
        self.seat.home.join("meta.redb")
    }

    /// Its database is thrown away, if it has one still.
    pub(crate) fn drop_names(&self) -> Result<(), Failure> {
        let database = self.database();
        match fs::remove_file(&database) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Failure(format!("{}: {error}", database.display())))
            }
            _ => Ok(()),
        }
    }
}

/// Flips one bit of a file, behind its header.
fn flip(path: &Path, mut roll: impl FnMut(u64) -> u64) -> bool {
    let Ok(file) = OpenOptions::new().read(true).write(true).open(path) else {
        return false;
    };
    let len = file.metadata().map_or(0, |metadata| metadata.len());
    let at = 4096 + roll(len.saturating_sub(4097).max(1));
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).is_ok() && file.write_all_at(&[byte[0] ^ (1 << roll(8))], at).is_ok()
}
