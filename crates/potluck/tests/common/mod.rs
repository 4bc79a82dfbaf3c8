//! Real nodes: processes of the program on loopback, each with a home and a log of its own.
#![allow(dead_code, clippy::unwrap_used, unreachable_pub)]

use serde_json::Value;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

pub const PATIENCE: Duration = Duration::from_secs(20);
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);

/// How the nodes of a test run.
#[derive(Clone, Debug)]
pub struct Setup {
    pub home: PathBuf,
    pub capacity: &'static str,
    pub grace: &'static str,
    /// Added to the environment of the daemon, not of the commands.
    pub environment: Vec<(&'static str, String)>,
    /// The network namespace that the daemon runs in, and its address there; loopback when none.
    pub place: Option<(String, String)>,
}

impl Setup {
    pub fn at(home: PathBuf) -> Self {
        Self {
            home,
            capacity: "1GB",
            grace: "2s",
            environment: Vec::new(),
            place: None,
        }
    }

    pub fn found(self) -> Node {
        self.start(&["up", "--name", "test"])
    }

    pub fn join(self, ticket: &str) -> Node {
        self.start(&["join", ticket])
    }

    #[track_caller]
    fn start(self, how: &[&str]) -> Node {
        let mut node = Node {
            home: self.home.clone(),
            setup: self,
            process: None,
        };
        node.spawn(how);
        node.answers();
        node
    }
}

/// A node of a test: killed when it is dropped.
pub struct Node {
    pub home: PathBuf,
    setup: Setup,
    process: Option<Child>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn potluck(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_potluck"));
    command.arg("--home").arg(home);
    command
}

impl Node {
    pub fn start(home: PathBuf, ticket: Option<&str>) -> Self {
        match ticket {
            Some(ticket) => Setup::at(home).join(ticket),
            None => Setup::at(home).found(),
        }
    }

    fn spawn(&mut self, how: &[&str]) {
        let mut command = potluck(&self.home);
        let mut address = "127.0.0.1";
        if let Some((namespace, its_address)) = &self.setup.place {
            let mut within = Command::new("ip");
            within
                .args(["netns", "exec", namespace])
                .arg(command.get_program())
                .args(command.get_args());
            (command, address) = (within, its_address);
        }
        command
            .args(how)
            .args(["--listen", &format!("{address}:0"), "--no-mdns"]);
        command.args(["--capacity", self.setup.capacity, "--grace", self.setup.grace]);
        command.envs(self.setup.environment.iter().cloned());
        let log = OpenOptions::new().create(true).append(true).open(self.log_path());
        self.process = Some(command.stdout(Stdio::null()).stderr(log.unwrap()).spawn().unwrap());
    }

    /// Starts the daemon, and waits for nothing.
    pub fn launch(&mut self) {
        assert!(self.process.is_none(), "it runs");
        self.spawn(&["up"]);
    }

    /// Waits until the daemon answers; fails with its log when it has ended instead.
    #[track_caller]
    pub fn answers(&mut self) {
        let begun = Instant::now();
        while !self.run(&["status", "--json"]).status.success() {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none() && begun.elapsed() < PATIENCE,
                "the node does not start ({ended:?}):\n{}",
                self.log()
            );
            thread::sleep(POLL);
        }
    }

    /// Starts the daemon again on the same home.
    #[track_caller]
    pub fn restart(&mut self) {
        self.launch();
        self.answers();
    }

    /// As a power cut for the process: it does nothing more.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// As [`Node::kill`], but does not wait until it is dead.
    pub fn kill_without_waiting(&mut self) -> Child {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process
    }

    /// The id of its process, while it runs.
    pub fn process(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// In order.
    #[track_caller]
    pub fn stop(&mut self) {
        let output = self.run(&["stop"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(self.process.take().unwrap().wait().unwrap().success());
    }

    /// Changes the environment of the daemon from its next start on.
    pub fn environment(&mut self, environment: Vec<(&'static str, String)>) {
        self.setup.environment = environment;
    }

    fn log_path(&self) -> PathBuf {
        self.home.with_extension("log")
    }

    /// All that the daemon has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        potluck(&self.home).args(arguments).output().unwrap()
    }

    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert!(
            output.status.success(),
            "{arguments:?}: {}\n{}",
            text(&output.stderr),
            self.log()
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What it says.
    #[track_caller]
    pub fn said(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// It fails with this exit code, and says why; gives what it says.
    #[track_caller]
    pub fn fails(&self, arguments: &[&str], code: i32) -> String {
        let output = self.run(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.starts_with("error: "));
        said
    }

    pub fn live(&self) -> usize {
        let status = self.json(&["status"]);
        let nodes = status["nodes"].as_array().unwrap();
        nodes.iter().filter(|node| node["status"] != "away").count()
    }

    /// Bytes of this node's disk that the pool uses.
    pub fn used(&self) -> u64 {
        let status = self.json(&["status"]);
        status["nodes"][0]["used"].as_u64().unwrap()
    }

    /// The files of its shard store whose names end so, in order.
    pub fn store_files(&self, end: &str) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = fs::read_dir(self.home.join("store"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_str().unwrap().ends_with(end))
            .collect();
        files.sort();
        files
    }
}

/// A pool of nodes of one person, all of which see each other.
pub fn pool_of(nodes: usize, setup: impl Fn(usize) -> Setup) -> Vec<Node> {
    let mut pool = vec![setup(0).found()];
    let invitation = pool[0].json(&["invite", "--mine", "--uses", "20", "--yes"]);
    let ticket = invitation["ticket"].as_str().unwrap();
    pool.extend((1..nodes).map(|number| setup(number).join(ticket)));
    all_see(&pool);
    pool
}

/// Waits until all nodes see each other.
#[track_caller]
pub fn all_see(pool: &[Node]) {
    until("all see each other", || {
        pool.iter().all(|node| node.live() == pool.len())
    });
}

#[track_caller]
pub fn until(what: &str, holds: impl FnMut() -> bool) {
    within(PATIENCE, what, holds);
}

#[track_caller]
pub fn within(time: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < time, "not within {time:?}: {what}");
        thread::sleep(POLL);
    }
}

/// Tells whoever runs the tests; what is printed in the usual way is shown for failed ones only.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Numbers that look random, the same for the same seed (Knuth's linear congruential generator).
pub struct Random(pub u64);

impl Random {
    pub fn byte(&mut self) -> u8 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 56) as u8
    }

    /// Below a bound.
    pub fn below(&mut self, bound: usize) -> usize {
        let number = (0..4).fold(0, |number, _| number << 8 | usize::from(self.byte()));
        number % bound
    }
}

pub fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    (0..len).map(|_| random.byte()).collect()
}

/// Changes one bit of a file.
pub fn flip(file: &Path, at: u64, bit: u8) {
    use std::os::unix::fs::FileExt;
    let file = File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << (bit % 8))], at).unwrap();
}
