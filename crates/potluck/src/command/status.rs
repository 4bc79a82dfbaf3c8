//! `potluck status`: who is here, what is safe, what is being repaired and why.

use crate::{
    complaint::Complaint,
    local::{client, message::Request},
    place::escape,
    terminal::{Terminal, count, table},
};
use potluck_node::{HealthInfo, NodeInfo, NodeStatus, Status};
use potluck_types::{ByteSize, Clock, SystemClock, Timestamp};
use std::{path::Path, thread, time::Duration};

/// How often `--watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Files that cannot be read, of which the names are told.
const UNREADABLE_TOLD: usize = 10;

/// `potluck status`.
pub(super) fn run(home: &Path, watch: bool, terminal: Terminal) -> Result<(), Complaint> {
    loop {
        let status = ask(home)?;
        let text = || report(&status, SystemClock.now());
        match watch {
            false => {
                terminal.result(&status, text);
                return Ok(());
            }
            true if terminal.json => terminal.value(&status),
            true => terminal.redraw(&text()),
        }
        thread::sleep(WATCH_INTERVAL);
    }
}

/// The pool as the node of this home sees it.
pub(crate) fn ask(home: &Path) -> Result<Status, Complaint> {
    client::call(home, &Request::Status)
}

fn report(status: &Status, now: Timestamp) -> String {
    let live: Vec<&NodeInfo> = status
        .nodes
        .iter()
        .filter(|node| node.status != NodeStatus::Away)
        .collect();
    let used = status.nodes.iter().map(|node| node.used.0).sum();
    let offered = status.nodes.iter().map(|node| node.capacity.0).sum();
    let mut text = format!(
        "Pool `{}`: {} of {} here, {} used of {}\n\n{}\n\n",
        escape(&status.identity.pool_name),
        live.len(),
        count(status.nodes.len() as u64, "node"),
        ByteSize(used),
        ByteSize(offered),
        nodes(status, now),
    );
    for sentence in health(&status.health) {
        text.push_str(&format!("{sentence}\n"));
    }
    if status.unreadable_files > 0 {
        text.push_str(&unreadable(status));
    }
    if status.conflicts > 0 {
        text.push_str(&format!(
            "{} in conflict: `potluck conflicts` shows which.\n",
            count(status.conflicts, "name")
        ));
    }
    if status.trash.files > 0 {
        text.push_str(&format!(
            "The trash holds {} ({}) that can be brought back: `potluck trash` shows them.\n",
            count(status.trash.files, "file"),
            ByteSize(status.trash.bytes)
        ));
    }
    text.push_str(&audits(status));
    let (k, m) = status.geometry;
    text.push_str(&format!(
        "New data survives {} ({k} data and {m} parity shards); at most {} can be asked for.\n",
        count(status.default_survive.into(), "lost machine"),
        status.survivable
    ));
    if !status.silent.is_empty() {
        let silent = count(status.silent.len() as u64, "node");
        text.push_str(&format!("{silent} did not say how their data is: it is not counted.\n"));
    }
    for advice in &status.advice {
        text.push_str(&format!("→ {}\n", escape(advice)));
    }
    text.trim_end().to_owned()
}

/// How the others have stood this node's challenges to prove what they say that they hold.
fn audits(status: &Status) -> String {
    let sum = |of: fn(&NodeInfo) -> u64| status.nodes.iter().map(of).sum::<u64>();
    match (sum(|node| node.audit.proved), sum(|node| node.audit.wrong)) {
        (0, 0) => String::new(),
        (proved, 0) => format!("Asked by this node to prove what they hold, the others did, {proved} times.\n"),
        (proved, wrong) => format!(
            "Asked by this node to prove what they hold, the others could not {wrong} of {} times.\n",
            proved + wrong
        ),
    }
}

/// The files of this person that cannot be read, or the first of them.
fn unreadable(status: &Status) -> String {
    let mut text = format!("Of yours, {} cannot be read:\n", count(status.unreadable_files, "file"));
    let told = status.unreadable_paths.iter().take(UNREADABLE_TOLD);
    text.extend(told.map(|path| format!("  {}\n", escape(&path.to_string()))));
    match status.unreadable_files.saturating_sub(UNREADABLE_TOLD as u64) {
        0 => {}
        more => text.push_str(&format!("  and {more} more (`--json` names up to 100)\n")),
    }
    text
}

/// Whether a node is here.
pub(super) fn state(node: &NodeInfo, now: Timestamp) -> String {
    match (node.status, node.away_since) {
        (NodeStatus::Here, _) => "this node".to_owned(),
        (NodeStatus::Live, _) => "live".to_owned(),
        (NodeStatus::Leaving, _) => "leaving".to_owned(),
        (NodeStatus::Doubted, _) => "doubted".to_owned(),
        (NodeStatus::Away, Some(since)) => format!("away for {}", rough(now.since(since))),
        (NodeStatus::Away, None) => "away".to_owned(),
    }
}

fn nodes(status: &Status, now: Timestamp) -> String {
    let mut heading = ["NAME", "NODE", "ZONE", "STATE", "USED", "OFFERED", "ADDRESS"]
        .map(str::to_owned)
        .to_vec();
    let have_regions = status.nodes.iter().any(|node| node.region.is_some());
    if have_regions {
        heading.insert(3, "REGION".to_owned());
    }
    let mut rows = vec![heading];
    for node in &status.nodes {
        let mut row = vec![
            node.name.as_ref().map_or("-", |name| name.as_str()).to_owned(),
            node.id.short(),
            node.zone.as_ref().map_or("-", |zone| zone.as_str()).to_owned(),
            state(node, now),
            node.used.to_string(),
            node.capacity.to_string(),
            address(node, status),
        ];
        if have_regions {
            row.insert(3, node.region.as_ref().map_or("-", |region| region.as_str()).to_owned());
        }
        rows.push(row);
    }
    table(&rows)
}

/// Where a node is, or who leads there.
fn address(node: &NodeInfo, status: &Status) -> String {
    if let Some(relay) = node.relayed_by {
        let called = status.nodes.iter().find(|node| node.id == relay).map(NodeInfo::called);
        return format!("by way of {}", called.unwrap_or_else(|| relay.short()));
    }
    node.addresses.first().map_or("-".to_owned(), |address| escape(address))
}

pub(super) fn rough(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// How safe the data is, in plain words.
pub(crate) fn health(health: &HealthInfo) -> Vec<String> {
    let stripes = health.stripes();
    let mut sentences = Vec::new();
    match health.worst() {
        _ if stripes == 0 && health.gathering > 0 => {}
        _ if stripes == 0 => sentences.push("No data is stored in stripes yet.".to_owned()),
        None => {
            if health.lost > 0 {
                let lost = is_are(health.lost);
                sentences.push(format!("{lost} lost: no machine has a shard, and none is away."));
            }
            if health.unreadable > 0 {
                let (unreadable, stripes) = (health.unreadable, count(stripes, "stripe"));
                sentences.push(format!("{unreadable} of {stripes} cannot be read now."));
            }
        }
        Some(least) if health.survives.len() == 1 => {
            let all = if health.gathering > 0 {
                "All that is known yet"
            } else {
                "Everything"
            };
            sentences.push(format!(
                "{all} ({}) survives {}.",
                count(stripes, "stripe"),
                losses(least)
            ));
        }
        Some(_) => {}
    }
    if health.survives.len() > 1 || health.worst().is_none() {
        for (survived, number) in &health.survives {
            let verb = if *number == 1 { "survives" } else { "survive" };
            sentences.push(format!(
                "{number} of {} {verb} {}.",
                count(stripes, "stripe"),
                losses(*survived)
            ));
        }
    }
    if health.endangered > 0 {
        sentences.push(format!("{} below what was promised.", is_are(health.endangered)));
    }
    if health.mending + health.queued > 0 {
        sentences.push(format!("Under repair: {} now, {} next.", health.mending, health.queued));
    }
    sentences.extend(causes(health));
    if health.repair_written > 0 {
        let (read, written) = (ByteSize(health.repair_read), ByteSize(health.repair_written));
        sentences.push(format!("Repairs have read {read} and written {written} so far."));
    }
    if health.recoding > 0 {
        sentences.push(format!(
            "{} stored when the pool was another still to be coded anew for it.",
            count(health.recoding, "file")
        ));
    }
    if health.gathering > 0 {
        let nodes = count(health.gathering, "node");
        sentences.push(format!(
            "{nodes} still to hear what the others hold: the counts may change."
        ));
    }
    if health.damaged > 0 {
        sentences.push(format!("{} found damaged and dropped.", count(health.damaged, "shard")));
    }
    sentences
}

/// Why repairs wait.
pub(super) fn causes(health: &HealthInfo) -> Vec<String> {
    let waiting = health.waiting.iter();
    waiting
        .map(|(cause, number)| format!("{} waiting: {}.", is_are(*number), cause_in_words(cause)))
        .collect()
}

pub(super) fn losses(number: u8) -> String {
    match number {
        0 => "no loss".to_owned(),
        number => count(number.into(), "more loss").replace("losss", "losses"),
    }
}

fn is_are(number: u64) -> String {
    if number == 1 {
        "1 stripe is".to_owned()
    } else {
        format!("{number} stripes are")
    }
}

pub(super) fn cause_in_words(cause: &str) -> String {
    match cause {
        "grace" => "an absent machine may come back".to_owned(),
        "no-domain" => "no other machine is free to take a shard".to_owned(),
        "no-region" => "no other machine where the space may be is free to take a shard".to_owned(),
        "too-few-shards" => "too few shards answer".to_owned(),
        "settling" => "not everybody has seen yet what just changed".to_owned(),
        "retry" => "a repair failed, and is tried again".to_owned(),
        "unnamed" => "no file uses it: an upload is under way, or broke off".to_owned(),
        other => escape(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(info: &HealthInfo, expected: &[&str]) {
        assert_eq!(health(info), expected);
    }

    #[test]
    fn health_reads_as_a_person_would_say_it() {
        check(&HealthInfo::default(), &["No data is stored in stripes yet."]);
        let good = HealthInfo {
            survives: [(2, 300)].into(),
            ..HealthInfo::default()
        };
        let starting = HealthInfo {
            gathering: 1,
            ..HealthInfo::default()
        };
        check(
            &starting,
            &["1 node still to hear what the others hold: the counts may change."],
        );
        let ruined = HealthInfo {
            survives: [(0, 8)].into(),
            lost: 2,
            ..HealthInfo::default()
        };
        check(
            &ruined,
            &[
                "2 stripes are lost: no machine has a shard, and none is away.",
                "8 of 10 stripes survive no loss.",
            ],
        );
        check(&good, &["Everything (300 stripes) survives 2 more losses."]);
        let lone = HealthInfo {
            survives: [(0, 1)].into(),
            ..HealthInfo::default()
        };
        check(&lone, &["Everything (1 stripe) survives no loss."]);
        let bad = HealthInfo {
            survives: [(1, 12), (2, 287)].into(),
            unreadable: 1,
            endangered: 13,
            mending: 2,
            queued: 10,
            waiting: [("no-domain".to_owned(), 1)].into(),
            ..HealthInfo::default()
        };
        check(
            &bad,
            &[
                "1 of 300 stripes cannot be read now.",
                "12 of 300 stripes survive 1 more loss.",
                "287 of 300 stripes survive 2 more losses.",
                "13 stripes are below what was promised.",
                "Under repair: 2 now, 10 next.",
                "1 stripe is waiting: no other machine is free to take a shard.",
            ],
        );
    }
}
