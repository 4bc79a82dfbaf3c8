//! A narrow way to the others: the line of a home. Nothing that waits for it counts as lost, and it carries nothing twice.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Setup, bytes, note, pool_of, potluck, text, until};
use std::{fs, io, process::Command};

/// Network namespaces on one bridge; removed when it is dropped.
struct Network {
    name: String,
    members: usize,
}

impl Drop for Network {
    fn drop(&mut self) {
        for member in 0..=self.members {
            let _ = run("ip", &format!("netns del {}", self.namespace(member)));
        }
    }
}

fn run(program: &str, arguments: &str) -> io::Result<()> {
    let output = Command::new(program).args(arguments.split(' ')).output()?;
    if output.status.success() {
        Ok(())
    } else {
        let said = text(&output.stderr);
        Err(io::Error::other(format!("{program} {arguments}: {}", said.trim())))
    }
}

impl Network {
    /// Where nobody may make one, or tools are missing, says so and gives none.
    fn of(members: usize) -> Option<Self> {
        let network = Self {
            name: format!("potluck-{}", std::process::id()),
            members,
        };
        match network.build() {
            Ok(()) => Some(network),
            Err(error) => {
                note(&format!("SKIPPED: no network can be made here: {error}"));
                None
            }
        }
    }

    /// The last is the bridge's.
    fn namespace(&self, member: usize) -> String {
        format!("{}-{member}", self.name)
    }

    fn address(member: usize) -> String {
        format!("10.77.0.{}", member + 1)
    }

    fn build(&self) -> io::Result<()> {
        let bridge = self.namespace(self.members);
        run("ip", &format!("netns add {bridge}"))?;
        run("ip", &format!("-n {bridge} link add bridge type bridge"))?;
        run("ip", &format!("-n {bridge} link set bridge up"))?;
        for member in 0..self.members {
            let (namespace, address) = (self.namespace(member), Self::address(member));
            run("ip", &format!("netns add {namespace}"))?;
            run(
                "ip",
                &format!("-n {namespace} link add line type veth peer name m{member} netns {bridge}"),
            )?;
            run("ip", &format!("-n {bridge} link set m{member} master bridge up"))?;
            run("ip", &format!("-n {namespace} addr add {address}/24 dev line"))?;
            run("ip", &format!("-n {namespace} link set line up"))?;
            run("ip", &format!("-n {namespace} link set lo up"))?;
        }
        Ok(())
    }

    /// Limits what a member sends, and what it gets.
    fn limit(&self, member: usize, rate: &str) -> io::Result<()> {
        let bucket = format!("root tbf rate {rate} burst 64kb latency 200ms");
        let (namespace, bridge) = (self.namespace(member), self.namespace(self.members));
        run("tc", &format!("-n {namespace} qdisc add dev line {bucket}"))?;
        run("tc", &format!("-n {bridge} qdisc add dev m{member} {bucket}"))
    }

    /// Bytes that a member has sent, and that it got.
    fn carried(&self, member: usize) -> (u64, u64) {
        let read = |direction: &str| {
            let output = Command::new("ip")
                .args(["netns", "exec", &self.namespace(member), "cat"])
                .arg(format!("/sys/class/net/line/statistics/{direction}_bytes"))
                .output()
                .unwrap();
            text(&output.stdout).trim().parse::<u64>().unwrap()
        };
        (read("tx"), read("rx"))
    }
}

#[test]
fn a_home_behind_a_narrow_line_stores_goes_on_and_reads() {
    let Some(network) = Network::of(3) else { return };
    let folder = tempfile::tempdir().unwrap();
    let pool = pool_of(3, |member| Setup {
        place: Some((network.namespace(member), Network::address(member))),
        grace: "1m",
        ..Setup::at(folder.path().join(format!("node-{member}")))
    });
    if let Err(error) = network.limit(0, "8mbit") {
        note(&format!("SKIPPED: no line can be made narrow here: {error}"));
        return;
    }
    // Two data shards and one parity shard, of which two go over the line: as many bytes as the file has, 8 s at best.
    let content = bytes(8_000_000, 1);
    until("each knows what the others hold", || {
        pool.iter()
            .all(|node| node.json(&["status"])["health"]["gathering"] == 0)
    });
    let (file, back) = (folder.path().join("file"), folder.path().join("back"));
    fs::write(&file, &content).unwrap();
    let start = network.carried(0).0;
    let put = pool[0].json(&["put", file.to_str().unwrap(), "home:/"]);
    assert_eq!((&put["survives"], &put["degraded"]), (&1.into(), &0.into()), "{put}");
    let sent = network.carried(0).0 - start;
    assert!(sent < 8_000_000 * 5 / 4, "{sent} bytes were sent");
    let health = &pool[1].json(&["status"])["health"];
    assert_eq!(health["repair_written"], 0, "{health}");

    let start = network.carried(0).1;
    let got_back = pool[0].run(&["get", "home:/file", back.to_str().unwrap()]);
    assert!(got_back.status.success(), "{}", text(&got_back.stderr));
    assert!(fs::read(&back).unwrap() == content);
    // Of two shards one is here, or none.
    let got = network.carried(0).1 - start;
    assert!(got < 8_000_000 * 5 / 4, "{got} bytes came");

    // One that is broken off goes on where it was.
    let larger = folder.path().join("larger");
    fs::write(&larger, bytes(16_000_000, 2)).unwrap();
    let command = ["put", larger.to_str().unwrap(), "home:/"];
    let start = network.carried(0).0;
    let mut broken_off = potluck(&pool[0].home).args(command).spawn().unwrap();
    until("most of it is sent", || network.carried(0).0 - start > 12_000_000);
    broken_off.kill().unwrap();
    broken_off.wait().unwrap();
    let put = pool[0].json(&command);
    assert!(put["deduplicated"].as_u64() > Some(2_000_000), "it begins anew: {put}");
}
