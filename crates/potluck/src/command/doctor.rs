//! `potluck doctor`: is this machine's part of the pool in order, and if not, what mends it?

use super::status::{self, health};
use crate::{
    complaint::Complaint,
    config::{self, Settings},
    local::{
        client,
        message::{About, Request},
    },
    place::escape,
    terminal::{Terminal, count},
};
use potluck_node::{Node, NodeInfo, NodeStatus, Probe, Status};
use potluck_types::ByteSize;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr, TcpStream},
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, SystemTime},
};

/// Free bytes below which a disk is nearly full.
const FREE_BYTES_MIN: u64 = 1 << 30;
/// Open files that a node in a large pool needs.
const OPEN_FILES_MIN: u64 = 1024;
/// How long a port of this machine may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Clocks this far apart are told.
const CLOCK_TOLERANCE_MILLIS: u64 = 30_000;

/// How a check came out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One check.
#[derive(Debug, Serialize)]
struct Check {
    what: &'static str,
    verdict: Verdict,
    found: String,
    remedy: Option<String>,
}

fn ok(what: &'static str, found: impl Into<String>) -> Check {
    Check {
        what,
        verdict: Verdict::Ok,
        found: found.into(),
        remedy: None,
    }
}

fn warn(what: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Check {
    Check {
        what,
        verdict: Verdict::Warn,
        found: found.into(),
        remedy: Some(remedy.into()).filter(|remedy| !remedy.is_empty()),
    }
}

fn fail(what: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Check {
    Check {
        verdict: Verdict::Fail,
        ..warn(what, found, remedy)
    }
}

/// `potluck doctor`.
pub(super) fn run(home: &Path, terminal: Terminal) -> Result<(), Complaint> {
    let mut checks = vec![folder(home), configuration(home)];
    if Node::has_pool(home) {
        checks.extend(node(home));
    } else {
        checks.extend([disk(home, None), nobody()]);
    }
    let failed = checks.iter().filter(|check| check.verdict == Verdict::Fail).count() as u64;
    terminal.result(&checks, || checks.iter().map(tell).collect::<Vec<_>>().join("\n"));
    match failed {
        0 => Ok(()),
        failed => Err(Complaint::failed(format!("{} found", count(failed, "problem")))),
    }
}

/// What only a home that belongs to a pool has.
fn node(home: &Path) -> Vec<Check> {
    let mut checks = keys(home);
    checks.push(clock(home));
    match client::call::<About>(home, &Request::About) {
        Ok(about) => {
            checks.push(ok(
                "daemon",
                format!("process {} answers, version {}", about.pid, about.version),
            ));
            checks.push(open_files(about.open_files_max));
            let status = status::ask(home);
            let used = status.as_ref().ok().and_then(|status| status.nodes.first());
            checks.push(disk(
                home,
                Some((about.capacity, used.map_or(ByteSize(0), |node| node.used))),
            ));
            checks.extend(store(home));
            checks.push(port(&about));
            match status {
                Ok(status) => {
                    checks.push(members(&status));
                    if status.nodes.iter().any(|node| node.status == NodeStatus::Live) {
                        let failed =
                            |complaint: Complaint| vec![fail("reach", complaint.message, complaint.hints.join("; "))];
                        checks.extend(from_others(home).unwrap_or_else(failed));
                    }
                    checks.push(data(&status));
                }
                Err(complaint) => checks.push(fail("pool", complaint.message, complaint.hints.join("; "))),
            }
        }
        Err(complaint) => {
            checks.push(disk(home, None));
            checks.push(fail("daemon", complaint.message, complaint.hints.join("; ")));
        }
    }
    checks
}

fn nobody() -> Check {
    fail(
        "node",
        "none lives here yet",
        "found a pool with `potluck up`, or join one with `potluck join TICKET`; `--home DIR` names another home",
    )
}

fn tell(check: &Check) -> String {
    let mark = match check.verdict {
        Verdict::Ok => "ok  ",
        Verdict::Warn => "warn",
        Verdict::Fail => "FAIL",
    };
    let remedy = check
        .remedy
        .as_ref()
        .map(|remedy| format!("\n{:16}→ {}", "", escape(remedy)))
        .unwrap_or_default();
    format!("{mark}  {:<10}{}{remedy}", check.what, escape(&check.found))
}

fn folder(home: &Path) -> Check {
    const WHAT: &str = "home";
    match fs::metadata(home) {
        Err(error) => warn(WHAT, format!("{}: {error}", home.display()), ""),
        Ok(metadata) if !metadata.is_dir() => fail(
            WHAT,
            format!("{} is a file, and a home is a folder", home.display()),
            "name another: `--home DIR`",
        ),
        Ok(metadata) if metadata.uid() != rustix::process::geteuid().as_raw() => fail(
            WHAT,
            format!("{} belongs to another user", home.display()),
            format!("chown it, or run as that user: sudo chown -R $USER {}", home.display()),
        ),
        Ok(metadata) if metadata.mode() & 0o077 != 0 => warn(
            WHAT,
            format!("{} can be entered by other users", home.display()),
            format!("chmod 700 {}", home.display()),
        ),
        Ok(_) => ok(WHAT, home.display().to_string()),
    }
}

fn configuration(home: &Path) -> Check {
    match Settings::effective(Settings::default(), home) {
        Ok(_) if !config::file(home).exists() => ok("config", "no file: the defaults hold"),
        Ok(_) => ok("config", config::file(home).display().to_string()),
        Err(complaint) => fail("config", complaint.message, complaint.hints.join("; ")),
    }
}

fn keys(home: &Path) -> Vec<Check> {
    let check = |name: &str| {
        let file = home.join(name);
        match fs::metadata(&file) {
            Err(error) => fail(
                "keys",
                format!("{}: {error}", file.display()),
                "restore it from a backup, or come back with `potluck keys restore FILE` on a new home",
            ),
            Ok(metadata) if metadata.mode() & 0o077 != 0 => fail(
                "keys",
                format!("{} can be read by other users", file.display()),
                format!("chmod 600 {}", file.display()),
            ),
            Ok(_) => ok("keys", name),
        }
    };
    let bare = ["node.key", "user.key"];
    if !Node::is_locked(home) {
        return bare.map(check).into();
    }
    let mut checks = vec![check("keys.locked")];
    let in_the_open = bare.iter().filter(|name| home.join(name).exists());
    checks.extend(in_the_open.map(|name| {
        warn(
            "keys",
            format!("{} lies there, too, under no passphrase", home.join(name).display()),
            "the next start removes it: `potluck stop`, then `potluck up --detach`",
        )
    }));
    checks
}

/// A clock that stands before the newest of our own files was set back, or was wrong then.
fn clock(home: &Path) -> Check {
    let newest = ["meta.redb", "lock", "user.key"]
        .iter()
        .filter_map(|name| fs::metadata(home.join(name)).ok()?.modified().ok())
        .max()
        .unwrap_or(SystemTime::UNIX_EPOCH);
    match newest.duration_since(SystemTime::now()) {
        Ok(ahead) if ahead > Duration::from_secs(60) => warn(
            "clock",
            format!(
                "it stands {} min before files that this node wrote",
                ahead.as_secs() / 60
            ),
            "set it: timedatectl set-ntp true",
        ),
        _ => ok("clock", "not before what this node wrote"),
    }
}

fn open_files(most: u64) -> Check {
    if most == 0 || most >= OPEN_FILES_MIN {
        ok(
            "files",
            if most == 0 {
                "no limit on open files".to_owned()
            } else {
                format!("up to {most} may be open")
            },
        )
    } else {
        warn(
            "files",
            format!("only {most} may be open"),
            "raise it: `ulimit -n 65536` before `potluck up`, or LimitNOFILE= in the systemd unit",
        )
    }
}

/// The store of a daemon that runs: files that were deleted stay open, and look well until it ends.
fn store(home: &Path) -> Option<Check> {
    let folder = home.join("store");
    let gone = format!("{} is gone, although the daemon works in it", folder.display());
    let remedy = "put it back if it was moved, then `potluck stop` and `potluck up --detach`: what is lost is made anew from the others";
    (!folder.is_dir()).then(|| fail("store", gone, remedy))
}

/// `promised`: what is offered, and what of it is in use.
fn disk(home: &Path, promised: Option<(ByteSize, ByteSize)>) -> Check {
    match config::free_bytes(home) {
        Err(complaint) => fail("disk", complaint.message, complaint.hints.join("; ")),
        Ok(free) if free < FREE_BYTES_MIN => fail(
            "disk",
            format!("{} free", ByteSize(free)),
            "make room, or offer less with `potluck up --capacity SIZE`",
        ),
        Ok(free) => {
            let Some((capacity, used)) = promised else {
                return ok("disk", format!("{} free", ByteSize(free)));
            };
            let found = format!("{} free, {capacity} offered, of which {used} are used", ByteSize(free));
            if capacity.0.saturating_sub(used.0) > free {
                warn(
                    "disk",
                    found,
                    "more is promised than there is room for: `potluck up --capacity SIZE`, or make room",
                )
            } else {
                ok("disk", found)
            }
        }
    }
}

fn port(about: &About) -> Check {
    const WHAT: &str = "port";
    let addresses: Vec<SocketAddr> = about
        .identity
        .addresses
        .iter()
        .filter_map(|text| tcp_address(text))
        .collect();
    let answers = |address: &&SocketAddr| TcpStream::connect_timeout(address, CONNECT_TIMEOUT).is_ok();
    match addresses.iter().find(answers) {
        Some(address) if addresses.iter().all(|address| address.ip().is_loopback()) => warn(
            WHAT,
            format!("{address} answers, but only this machine can reach it"),
            "fine for a try; else `potluck up --listen 0.0.0.0:4720`",
        ),
        Some(address) => ok(WHAT, format!("{address} answers")),
        None if addresses.is_empty() => fail(WHAT, "the node listens nowhere", "`potluck up --listen 0.0.0.0:4720`"),
        None => fail(
            WHAT,
            format!("{} does not answer", addresses[0]),
            "does a firewall stop it? Allow TCP and UDP on this port",
        ),
    }
}

/// What the other machines say: where they reach this one, and what time it is.
fn from_others(home: &Path) -> Result<Vec<Check>, Complaint> {
    let probes: Vec<Probe> = client::call(home, &Request::Probe)?;
    if probes.is_empty() {
        let remedy = "is their version older? `potluck status` shows who is here";
        return Ok(vec![warn(
            "reach",
            "none of the others said whether it reaches this node",
            remedy,
        )]);
    }
    Ok(vec![reach(&probes), clocks(&probes)])
}

fn reach(probes: &[Probe]) -> Check {
    const WHAT: &str = "reach";
    let mut by_address: BTreeMap<&str, u64> = BTreeMap::new();
    for (address, answers) in probes.iter().flat_map(|probe| &probe.reached) {
        *by_address.entry(address).or_default() += u64::from(*answers);
    }
    let reaching = |probe: &&Probe| probe.reached.iter().any(|(_, answers)| *answers);
    let (all, some) = (probes.len() as u64, probes.iter().filter(reaching).count() as u64);
    let best = by_address.iter().max_by_key(|(_, reached)| **reached);
    match best {
        Some((address, _)) if some == all => {
            ok(WHAT, format!("{} can connect to this one ({address})", of_others(all)))
        }
        _ if some == 0 => warn(
            WHAT,
            format!("{} asked, and none can connect to this one", of_others(all)),
            "others are reached from here, or by a member that both reach; faster: forward port 4720 (TCP and UDP) and 4721 (TCP) to this machine, and `potluck up --announce PUBLIC-IP:4720`",
        ),
        _ => warn(
            WHAT,
            format!("{some} of {} can connect to this one", of_others(all)),
            "`--announce` an address that all can reach, or forward the port",
        ),
    }
}

fn of_others(number: u64) -> String {
    count(number, "other node")
}

/// Whether this clock or another is wrong: the one that differs from most.
fn clocks(probes: &[Probe]) -> Check {
    const WHAT: &str = "clock";
    let is_off = |probe: &&Probe| probe.clock_ahead_millis.unsigned_abs() > CLOCK_TOLERANCE_MILLIS;
    let off: Vec<&Probe> = probes.iter().filter(is_off).collect();
    let Some(first) = off.first() else {
        return ok(WHAT, format!("agrees with {}", of_others(probes.len() as u64)));
    };
    let seconds = first.clock_ahead_millis / 1000;
    let (seconds, direction) = (seconds.unsigned_abs(), if seconds < 0 { "ahead of" } else { "behind" });
    let found = match off.len() {
        all if all == probes.len() => format!(
            "this machine's is {seconds} s {direction} that of {}",
            of_others(all as u64)
        ),
        _ => format!(
            "it is {seconds} s {direction} that of node {}, and agrees with others",
            first.node.short()
        ),
    };
    warn(
        WHAT,
        found,
        "set the one that is wrong: timedatectl set-ntp true. Of two edits the one with the later clock wins",
    )
}

/// The IP address and TCP port in an address, if it has them.
fn tcp_address(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let mut parts = text.strip_prefix('/')?.split('/');
    let ip: IpAddr = match (parts.next()?, parts.next()?) {
        ("ip4" | "ip6", ip) => ip.parse().ok()?,
        _ => return None,
    };
    match (parts.next()?, parts.next()?) {
        ("tcp", port) => Some(SocketAddr::new(ip, port.parse().ok()?)),
        _ => None,
    }
}

fn members(status: &Status) -> Check {
    let away: Vec<String> = status
        .nodes
        .iter()
        .filter(|node| node.status == NodeStatus::Away)
        .map(NodeInfo::called)
        .collect();
    let all = status.nodes.len() as u64;
    if away.is_empty() {
        return ok("members", format!("{} here", count(all, "node")));
    }
    let found = format!("{} of {all} away: {}", away.len(), away.join(", "));
    if away.len() as u64 + 1 == all {
        return fail(
            "members",
            found,
            "is this machine's network up? If the others run, can it reach their addresses?",
        );
    }
    warn(
        "members",
        found,
        "start `potluck up` there; what one that will not come back held is made anew; if it is yours, `potluck forget NODE` takes it out of the pool",
    )
}

fn data(status: &Status) -> Check {
    let found = health(&status.health).join(" ");
    let remedy = status.advice.join(" ");
    if status.health.worst().is_none() {
        fail("data", found, remedy)
    } else if status.health.gathering > 0 {
        warn("data", found, "ask again in a moment")
    } else if status.health.endangered > 0 {
        warn(
            "data",
            found,
            if remedy.is_empty() {
                "it is being repaired: `potluck status --watch`".to_owned()
            } else {
                remedy
            },
        )
    } else if status.health.worst() == Some(0) && status.nodes.len() > 1 {
        let soon = "files are coded anew when another machine has come: `potluck status --watch`";
        warn("data", found, if remedy.is_empty() { soon.to_owned() } else { remedy })
    } else {
        ok("data", found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_forms_are_understood() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(
                tcp_address(text).map(|address| address.to_string()).as_deref(),
                expected,
                "{text}"
            );
        };
        check("127.0.0.1:4720", Some("127.0.0.1:4720"));
        check("/ip4/192.0.2.1/tcp/4720", Some("192.0.2.1:4720"));
        check("/ip6/::1/tcp/1", Some("[::1]:1"));
        check("/ip4/192.0.2.1/udp/4720/quic-v1", None);
        check("/dns/example.org/tcp/1", None);
        check("", None);
    }
}
