//! Machines in network namespaces on one bridge, and what can be wrong with the ways between them.
//!
//! Nothing of it touches the network of the host: the bridge is in a namespace, too.

use crate::run::{Failure, run, within};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{io, process::Command, time::Duration};

/// What the namespaces are called; whatever is called so was left by a run that was killed.
const PREFIX: &str = "potluck-chaos";
/// The interface of a machine.
const LINE: &str = "line";

/// See the module. The namespaces are removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Network {
    machines: usize,
    /// Whether the kernel can delay and lose packets itself.
    has_netem: bool,
}

impl Drop for Network {
    fn drop(&mut self) {
        remove_all();
    }
}

/// Removes all namespaces of chaos runs.
fn remove_all() {
    let Ok(output) = Command::new("ip").args(["netns", "list"]).output() else {
        return;
    };
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    for name in names.lines().filter_map(|line| line.split_whitespace().next()) {
        if name.starts_with(PREFIX) {
            kill_all_in(name);
            let _ = run("ip", &["netns", "del", name]);
        }
    }
}

/// Kills what runs in a namespace still.
fn kill_all_in(name: &str) {
    let Ok(output) = Command::new("ip").args(["netns", "pids", name]).output() else {
        return;
    };
    let pids = String::from_utf8_lossy(&output.stdout).into_owned();
    let pids = pids.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?));
    pids.for_each(|pid| _ = kill_process(pid, Signal::KILL));
}

/// The namespace of a machine.
pub(crate) fn namespace(machine: usize) -> String {
    format!("{PREFIX}-{machine}")
}

/// The address of a machine.
pub(crate) fn address(machine: usize) -> String {
    format!("10.77.0.{}", machine + 1)
}

fn bridge() -> String {
    format!("{PREFIX}-bridge")
}

/// Bytes and packets that a machine has sent so far.
pub(crate) fn sent(machine: usize) -> Result<(u64, u64), Failure> {
    let namespace = namespace(machine);
    let mut command = Command::new("ip");
    command.args(["-n", &namespace, "-s", "-j", "link", "show", LINE]);
    let ended = within(&mut command, Duration::from_secs(10))?;
    let told: Value = serde_json::from_str(&ended.out).map_err(|error| Failure(format!("ip -s link: {error}")))?;
    let sent = &told[0]["stats64"]["tx"];
    match (sent["bytes"].as_u64(), sent["packets"].as_u64()) {
        (Some(bytes), Some(packets)) => Ok((bytes, packets)),
        _ => Err(Failure(format!(
            "ip -s link tells nothing of {LINE}: {}{}",
            ended.out, ended.err
        ))),
    }
}

/// What comes before the rules for packets that arrive.
const INPUT: &str = "add table inet chaos; add chain inet chaos input { type filter hook input priority 0; };";

fn nft(namespace: &str, rules: &str) -> Result<(), Failure> {
    run("ip", &["netns", "exec", namespace, "nft", rules])
}

/// Words of a command: machines have no spaces in their names.
fn ip(words: &str) -> Result<(), Failure> {
    run("ip", &words.split(' ').collect::<Vec<_>>())
}

impl Network {
    pub(crate) fn build(machines: usize) -> Result<Self, Failure> {
        remove_all();
        let mut network = Self {
            machines,
            has_netem: false,
        };
        let bridge = bridge();
        ip(&format!("netns add {bridge}"))?;
        ip(&format!("-n {bridge} link add bridge type bridge"))?;
        ip(&format!("-n {bridge} link set bridge up"))?;
        for machine in 0..machines {
            let (namespace, address) = (namespace(machine), address(machine));
            ip(&format!("netns add {namespace}"))?;
            ip(&format!(
                "-n {namespace} link add {LINE} type veth peer name m{machine} netns {bridge}"
            ))?;
            ip(&format!("-n {bridge} link set m{machine} master bridge up"))?;
            ip(&format!("-n {namespace} addr add {address}/24 dev {LINE}"))?;
            ip(&format!("-n {namespace} link set {LINE} up"))?;
            ip(&format!("-n {namespace} link set lo up"))?;
        }
        network.has_netem = network.delay(0, 3).is_ok();
        network.calm(0);
        Ok(network)
    }

    pub(crate) fn has_netem(&self) -> bool {
        self.has_netem
    }

    /// The way to all others is down.
    pub(crate) fn cut_off(&self, machine: usize) -> Result<(), Failure> {
        ip(&format!("-n {} link set m{machine} down", bridge()))
    }

    /// What one machine sends to another does not arrive; what the other sends does.
    pub(crate) fn block(&self, from: usize, to: usize) -> Result<(), Failure> {
        ip(&format!(
            "-n {} route replace blackhole {}/32",
            namespace(from),
            address(to)
        ))
    }

    /// So many of a hundred packets that a machine gets are dropped.
    pub(crate) fn lose(&self, machine: usize, percent: u64) -> Result<(), Failure> {
        nft(
            &namespace(machine),
            &format!("{INPUT} add rule inet chaos input iifname {LINE} numgen random mod 100 < {percent} drop"),
        )
    }

    /// No UDP reaches a machine, and none of its own gets out.
    pub(crate) fn refuse_udp(&self, machine: usize) -> Result<(), Failure> {
        let rules = format!(
            "{INPUT} add chain inet chaos output {{ type filter hook output priority 0; }}; \
             add rule inet chaos input iifname {LINE} meta l4proto udp drop; \
             add rule inet chaos output oifname {LINE} meta l4proto udp drop"
        );
        nft(&namespace(machine), &rules)
    }

    /// What a machine sends comes from other ports than before, also on connections that there are.
    pub(crate) fn rebind(&self, machine: usize) -> Result<(), Failure> {
        let rules = format!(
            "add table ip chaosnat; add chain ip chaosnat post {{ type nat hook postrouting priority srcnat; }}; \
             add rule ip chaosnat post oifname {LINE} meta l4proto {{ tcp, udp }} masquerade to :20000-60000 random"
        );
        nft(&namespace(machine), &rules)
    }

    /// Larger packets vanish on their way from and to a machine, and nobody is told.
    pub(crate) fn swallow_large(&self, machine: usize, bytes: u64) -> Result<(), Failure> {
        let port = format!("m{machine}");
        for (namespace, device) in [(namespace(machine), LINE), (bridge(), &port)] {
            // Each packet by itself: the kernel passes on many as one otherwise.
            ip(&format!("-n {namespace} link set {device} gso_max_segs 1"))?;
            nft(
                &namespace,
                &format!(
                    "add table netdev {port}; add chain netdev {port} large {{ type filter hook ingress device {device} priority 0; }}; \
                     add rule netdev {port} large meta length > {bytes} drop"
                ),
            )?;
        }
        Ok(())
    }

    /// What a machine sends goes no faster; what is too much waits up to two seconds.
    pub(crate) fn narrow(&self, machine: usize, kilobits: u64) -> Result<(), Failure> {
        self.weather(machine, &format!("tbf rate {kilobits}kbit burst 32kb latency 2s"))
    }

    /// What a machine sends takes longer. Needs a kernel that can.
    pub(crate) fn delay(&self, machine: usize, millis: u64) -> Result<(), Failure> {
        self.weather(machine, &format!("netem delay {millis}ms {}ms", millis / 3))
    }

    fn weather(&self, machine: usize, queue: &str) -> Result<(), Failure> {
        let words = format!("-n {} qdisc replace dev {LINE} root {queue}", namespace(machine));
        run("tc", &words.split(' ').collect::<Vec<_>>())
    }

    fn calm(&self, machine: usize) {
        let words = format!("-n {} qdisc del dev {LINE} root", namespace(machine));
        let _ = run("tc", &words.split(' ').collect::<Vec<_>>());
    }

    /// All ways of a machine are as they were.
    pub(crate) fn mend(&self, machine: usize) -> Result<(), Failure> {
        let (namespace, port) = (namespace(machine), format!("m{machine}"));
        ip(&format!("-n {} link set {port} up", bridge()))?;
        let _ = nft(&namespace, "delete table inet chaos");
        let _ = nft(&namespace, "delete table ip chaosnat");
        for (namespace, device) in [(&namespace, LINE), (&bridge(), &port)] {
            ip(&format!("-n {namespace} link set {device} gso_max_segs 65535"))?;
            let _ = nft(namespace, &format!("delete table netdev {port}"));
        }
        for other in 0..self.machines {
            for (from, to) in [(machine, other), (other, machine)] {
                let words = format!("-n {} route del blackhole {}/32", self::namespace(from), address(to));
                let _ = ip(&words);
            }
        }
        self.calm(machine);
        Ok(())
    }
}

/// Tools that must be there, and the Debian packages that have them.
pub(crate) fn missing_tools() -> Vec<&'static str> {
    let is_there = |program: &str| match Command::new(program).arg("-V").output() {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    };
    [("ip", "iproute2"), ("tc", "iproute2"), ("nft", "nftables")]
        .into_iter()
        .filter(|(program, _)| !is_there(program))
        .map(|(_, package)| package)
        .collect()
}
