//! Machines in network namespaces on one bridge, some of them behind routers, and what can be wrong with the ways between them.
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
/// Those of a router.
const INSIDE: &str = "inside";
const OUTSIDE: &str = "outside";

/// See the module. The namespaces are removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Network {
    machines: usize,
    /// The last so many are behind routers.
    behind: usize,
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

/// The address of a machine, or of its router.
pub(crate) fn address(machine: usize) -> String {
    format!("10.77.0.{}", machine + 1)
}

/// The address of a machine in the network of its router, or of that.
fn address_inside(machine: usize, host: u8) -> String {
    format!("192.168.{}.{host}", machine + 1)
}

fn router(machine: usize) -> String {
    format!("{PREFIX}-router-{machine}")
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

/// Packets that are for others are passed on in a namespace.
fn forward(namespace: &str) -> Result<(), Failure> {
    let on = "echo 1 > /proc/sys/net/ipv4/ip_forward";
    run("ip", &["netns", "exec", namespace, "sh", "-c", on])
}

/// A line from a namespace to the bridge.
fn plug_in(namespace: &str, device: &str, machine: usize) -> Result<(), Failure> {
    let bridge = bridge();
    ip(&format!(
        "-n {namespace} link add {device} type veth peer name m{machine} netns {bridge}"
    ))?;
    ip(&format!("-n {bridge} link set m{machine} master bridge up"))
}

impl Network {
    /// So many machines, of which the last ones are behind routers: each takes no connections from outside, and the last one's has other ports
    /// for each host that is spoken to, so that nobody can tell where it will be heard from.
    pub(crate) fn build(machines: usize, behind: usize) -> Result<Self, Failure> {
        remove_all();
        let mut network = Self {
            machines,
            behind,
            has_netem: false,
        };
        let bridge = bridge();
        ip(&format!("netns add {bridge}"))?;
        if behind > 0
            && let Err(failure) = forward(&bridge)
        {
            println!("there are no routers on this machine: {failure}");
            network.behind = 0;
        }
        ip(&format!("-n {bridge} link add bridge type bridge"))?;
        ip(&format!("-n {bridge} link set bridge up"))?;
        for machine in 0..machines {
            let (namespace, address) = (namespace(machine), network.listens_at(machine));
            ip(&format!("netns add {namespace}"))?;
            if network.is_behind(machine) {
                network.build_router(machine)?;
            } else {
                plug_in(&namespace, LINE, machine)?;
            }
            ip(&format!("-n {namespace} addr add {address}/24 dev {LINE}"))?;
            ip(&format!("-n {namespace} link set {LINE} up"))?;
            ip(&format!("-n {namespace} link set lo up"))?;
            if network.is_behind(machine) {
                let way_out = address_inside(machine, 1);
                ip(&format!("-n {namespace} route add default via {way_out}"))?;
            }
        }
        network.has_netem = network.delay(0, 3).is_ok();
        network.calm(0);
        Ok(network)
    }

    fn is_behind(&self, machine: usize) -> bool {
        machine + self.behind >= self.machines
    }

    /// Where a machine itself has its line.
    pub(crate) fn listens_at(&self, machine: usize) -> String {
        match self.is_behind(machine) {
            true => address_inside(machine, 2),
            false => address(machine),
        }
    }

    fn build_router(&self, machine: usize) -> Result<(), Failure> {
        let router = router(machine);
        ip(&format!("netns add {router}"))?;
        plug_in(&router, OUTSIDE, machine)?;
        let (namespace, inside, outside) = (namespace(machine), address_inside(machine, 1), address(machine));
        ip(&format!(
            "-n {namespace} link add {LINE} type veth peer name {INSIDE} netns {router}"
        ))?;
        ip(&format!("-n {router} addr add {inside}/24 dev {INSIDE}"))?;
        ip(&format!("-n {router} addr add {outside}/24 dev {OUTSIDE}"))?;
        for device in [INSIDE, OUTSIDE] {
            ip(&format!("-n {router} link set {device} up"))?;
        }
        forward(&router)?;
        let ports = if machine + 1 == self.machines {
            "fully-random"
        } else {
            ""
        };
        let rules = format!(
            "add table ip router; \
             add chain ip router leave {{ type nat hook postrouting priority srcnat; }}; \
             add rule ip router leave oifname {OUTSIDE} masquerade {ports}; \
             add chain ip router pass {{ type filter hook forward priority 0; }}; \
             add rule ip router pass iifname {OUTSIDE} ct state new drop; \
             add chain ip router take {{ type filter hook input priority 0; }}; \
             add rule ip router take iifname {OUTSIDE} ct state new drop"
        );
        nft(&router, &rules)
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
