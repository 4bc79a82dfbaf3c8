//! A pool on this machine, for `demo` and `bench`: processes of this program, with homes of their own in a temporary folder.

use crate::{
    command::status,
    complaint::Complaint,
    local::{
        client,
        message::{About, Request},
    },
};
use potluck_node::{Invitation, InviteOptions, NodeStatus};
use potluck_types::{ByteSize, NodeId};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

/// How long a node may take to come up, and all to see each other.
const TIMEOUT: Duration = Duration::from_secs(40);
pub(crate) const POLL: Duration = Duration::from_millis(50);
/// The same when it is measured how long a node takes.
/// Where a node listens that nobody looks for by its port.
const ANY_PORT: &str = "127.0.0.1:0";
const POLL_CLOSELY: Duration = Duration::from_millis(1);
/// Lines of a node's log that are shown when it does not come up.
const LOG_LINES_SHOWN: usize = 10;

/// The processes and the folder, to be cleared away from whichever thread ends the demo.
#[derive(Clone, Debug)]
pub(crate) struct Remains {
    folder: PathBuf,
    children: Arc<Mutex<Vec<Option<Child>>>>,
}

/// The pool. Cleared away when it is dropped, unless it is kept.
#[derive(Debug)]
pub(crate) struct Pool {
    remains: Remains,
    plan: Plan,
    kept: bool,
}

/// What kind of pool.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Where all of it is kept.
    pub(crate) folder: PathBuf,
    /// The name of the pool.
    pub(crate) name: &'static str,
    /// How many nodes.
    pub(crate) nodes: usize,
    /// What they are called; those that have no name here by this machine's.
    pub(crate) machines: &'static [&'static str],
    /// Whether all of them are one person's; else each is another's.
    pub(crate) are_one_person: bool,
    /// What each offers.
    pub(crate) capacity: ByteSize,
    /// How long an absent node is waited for.
    pub(crate) grace: &'static str,
}

impl Pool {
    /// A folder for it all; nothing runs yet.
    pub(crate) fn new(plan: Plan, kept: bool) -> Result<Self, Complaint> {
        crate::config::make_home(&plan.folder)?;
        let children = Arc::new(Mutex::new((0..plan.nodes).map(|_| None).collect()));
        let folder = plan.folder.clone();
        Ok(Self {
            remains: Remains { folder, children },
            plan,
            kept,
        })
    }

    /// What is to be cleared away after an interrupt.
    pub(crate) fn remains(&self) -> Remains {
        self.remains.clone()
    }

    /// The home of a node, counted from 1 as people do.
    pub(crate) fn home(&self, number: usize) -> PathBuf {
        self.remains.folder.join(format!("node-{number}"))
    }

    /// Starts all of them, the first alone and the others with its ticket, and waits until all see each other.
    pub(crate) fn start(&self) -> Result<(), Complaint> {
        let nodes = self.plan.nodes;
        self.spawn(1, None, ANY_PORT)?;
        self.wait_for(1)?;
        if nodes == 1 {
            return Ok(());
        }
        let options = InviteOptions {
            uses: u32::try_from(nodes).unwrap_or(u32::MAX),
            expires: Duration::from_secs(600),
            mine: self.plan.are_one_person,
        };
        let invitation: Invitation = client::call(&self.home(1), &Request::Invite { options })?;
        (2..=nodes).try_for_each(|number| self.spawn(number, Some(&invitation.ticket), ANY_PORT))?;
        (2..=nodes).try_for_each(|number| self.wait_for(number))?;
        self.until(TIMEOUT, POLL, "the nodes do not all see each other", || {
            for number in 1..=nodes {
                let status = status::ask(&self.home(number))?;
                let live = status
                    .nodes
                    .iter()
                    .filter(|node| node.status != NodeStatus::Away)
                    .count();
                if live < nodes {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    /// Starts a node that was stopped or killed, and waits until it answers; gives how long that took.
    pub(crate) fn restart(&self, number: usize) -> Result<Duration, Complaint> {
        self.restart_at(number, ANY_PORT)
    }

    /// The same at an address where the others look for it.
    pub(crate) fn restart_at(&self, number: usize, listen: &str) -> Result<Duration, Complaint> {
        let begun = Instant::now();
        self.spawn(number, None, listen)?;
        self.until(TIMEOUT, POLL_CLOSELY, &format!("node {number} does not answer"), || {
            self.answers(number)
        })?;
        Ok(begun.elapsed())
    }

    /// Ends a node in order, and waits until it has ended.
    pub(crate) fn stop(&self, number: usize) -> Result<(), Complaint> {
        client::call::<()>(&self.home(number), &Request::Stop)?;
        if let Ok(mut children) = self.remains.children.lock()
            && let Some(mut child) = children[number - 1].take()
        {
            child
                .wait()
                .map_err(|error| Complaint::failed(format!("node {number} does not end: {error}")))?;
        }
        Ok(())
    }

    /// The process of a node.
    pub(crate) fn process(&self, number: usize) -> Option<u32> {
        let children = self.remains.children.lock().ok()?;
        Some(children[number - 1].as_ref()?.id())
    }

    fn spawn(&self, number: usize, ticket: Option<&str>, listen: &str) -> Result<(), Complaint> {
        let failed = |error| Complaint::failed(format!("node {number} does not start: {error}"));
        let log = File::create(self.log(number)).map_err(failed)?;
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        for name in [
            "POTLUCK_LISTEN",
            "POTLUCK_ANNOUNCE",
            "POTLUCK_CAPACITY",
            "POTLUCK_ZONE",
            "POTLUCK_GRACE",
        ] {
            command.env_remove(name);
        }
        command.arg("--home").arg(self.home(number)).arg("--json");
        match ticket {
            // In the environment, as it is no argument that others could read.
            Some(ticket) => command.arg("join").env("POTLUCK_TICKET", ticket),
            None if self.home(number).exists() => command.arg("up"),
            None => command.args(["up", &format!("--name={}", self.plan.name)]),
        };
        command.args([
            &format!("--listen={listen}"),
            "--no-mdns",
            &format!("--grace={}", self.plan.grace),
        ]);
        command.arg(format!("--capacity={}", self.plan.capacity.0));
        if let Some(name) = self.plan.machines.get(number - 1) {
            command.arg(format!("--machine={name}"));
        }
        command.arg(if self.kept { "--session" } else { "--tied" });
        command
            .stdin(if self.kept { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::null())
            .stderr(log);
        let child = command.spawn().map_err(failed)?;
        if let Ok(mut children) = self.remains.children.lock() {
            children[number - 1] = Some(child);
        }
        Ok(())
    }

    fn wait_for(&self, number: usize) -> Result<(), Complaint> {
        self.until(TIMEOUT, POLL, &format!("node {number} does not answer"), || {
            self.answers(number)
        })
    }

    /// Whether a node answers; an error when it has ended.
    fn answers(&self, number: usize) -> Result<bool, Complaint> {
        let ended = match self.remains.children.lock() {
            Ok(mut children) => children[number - 1]
                .as_mut()
                .and_then(|child| child.try_wait().ok().flatten()),
            Err(_) => None,
        };
        if ended.is_some() {
            return Err(Complaint::failed(format!(
                "node {number} ended:\n{}",
                self.log_end(number)
            )));
        }
        Ok(client::call::<About>(&self.home(number), &Request::About).is_ok())
    }

    /// Waits until something holds.
    pub(crate) fn until(
        &self,
        timeout: Duration,
        poll: Duration,
        otherwise: &str,
        mut holds: impl FnMut() -> Result<bool, Complaint>,
    ) -> Result<(), Complaint> {
        let begun = Instant::now();
        while !holds()? {
            if begun.elapsed() > timeout {
                let complaint = Complaint::failed(format!("{otherwise} after {} s", timeout.as_secs()));
                return Err(complaint.hint(format!(
                    "`--keep` leaves the nodes' logs in {}",
                    self.remains.folder.display()
                )));
            }
            thread::sleep(poll);
        }
        Ok(())
    }

    /// Where a node listens, `IP:PORT`.
    pub(crate) fn address(&self, number: usize) -> Result<String, Complaint> {
        let about: About = client::call(&self.home(number), &Request::About)?;
        let of = |address: &String| {
            let (ip, port) = address.strip_prefix("/ip4/")?.split_once("/tcp/")?;
            Some(format!("{ip}:{port}"))
        };
        let mut addresses = about.identity.addresses.iter().filter_map(of);
        addresses
            .next()
            .ok_or_else(|| Complaint::failed(format!("node {number} listens nowhere")))
    }

    /// The id of a node.
    pub(crate) fn id(&self, number: usize) -> Result<NodeId, Complaint> {
        Ok(client::call::<About>(&self.home(number), &Request::About)?
            .identity
            .node)
    }

    /// Ends a node as a power cut would.
    pub(crate) fn kill(&self, number: usize) {
        if let Ok(mut children) = self.remains.children.lock()
            && let Some(mut child) = children[number - 1].take()
        {
            // It may have ended already, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Deletes all that a node had.
    pub(crate) fn wipe(&self, number: usize) -> Result<(), Complaint> {
        let home = self.home(number);
        fs::remove_dir_all(&home).map_err(|error| Complaint::io("cannot wipe", &home, &error))
    }

    fn log(&self, number: usize) -> PathBuf {
        self.remains.folder.join(format!("node-{number}.log"))
    }

    fn log_end(&self, number: usize) -> String {
        let text = fs::read_to_string(self.log(number)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }

    /// Clears it away also if it was to be kept: it failed before there was anything to keep.
    pub(crate) fn discard(mut self) {
        self.kept = false;
    }

    /// Whether it stays when the demo ends.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept
    }

    /// The folder of it all.
    pub(crate) fn folder(&self) -> &Path {
        &self.remains.folder
    }
}

impl Remains {
    /// Ends every node, and removes every file.
    pub(crate) fn clear(&self) {
        if let Ok(mut children) = self.children.lock() {
            for child in children.iter_mut().flatten() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if !self.kept {
            self.remains.clear();
        }
    }
}
