//! `potluck explain`: where a file's data is, how many losses it survives, and what is being done for it.

use super::status::{cause_in_words, losses, rough};
use crate::{
    complaint::Complaint,
    local::{client, message::Request},
    place::Place,
    terminal::{Terminal, count, listed, table},
};
use potluck_node::{ExplainOptions, Explanation, MachineShare, NodeStatus, StripeWork};
use potluck_types::{ByteSize, Clock, SystemClock, Timestamp};
use std::path::Path;

/// `potluck explain`.
pub(super) fn run(home: &Path, place: &Place, check: bool, terminal: Terminal) -> Result<(), Complaint> {
    let request = Request::Explain {
        space: place.space.clone(),
        path: place.path.clone(),
        options: ExplainOptions { check },
    };
    let explanation: Explanation = client::call(home, &request)?;
    terminal.result(&explanation, || describe(place, &explanation, check, SystemClock.now()));
    Ok(())
}

fn describe(place: &Place, explanation: &Explanation, check: bool, now: Timestamp) -> String {
    let mut text = format!("{place}: {}\n", what(explanation));
    for sentence in safety(explanation) {
        text.push_str(&format!("{sentence}\n"));
    }
    if !explanation.machines.is_empty() {
        text.push_str(&format!("\n{}\n", machines(explanation, check, now)));
    }
    for advice in advice(place, explanation, check) {
        text.push_str(&format!("→ {advice}\n"));
    }
    text.trim_end().to_owned()
}

/// How much it is, and how it is stored.
fn what(explanation: &Explanation) -> String {
    let Explanation {
        files,
        bytes,
        inline,
        stripes,
        ..
    } = explanation;
    let size = ByteSize(*bytes);
    match (files, inline, stripes) {
        (0, ..) => "no files.".to_owned(),
        (1, 1, _) => format!("{size}, stored with its name."),
        (1, ..) => {
            let geometries = explanation.told.iter().filter_map(|told| told.geometry);
            let coding = geometries.max().map_or(String::new(), |(k, m)| match k {
                1 => format!(
                    ", each as {}",
                    count(u64::from(m) + 1, "copy").replace("copys", "copies")
                ),
                k => format!(", each as {k} data and {m} parity shards"),
            });
            format!("{size}, in {}{coding}.", count(*stripes, "stripe"))
        }
        (files, inline, stripes) => {
            let inline = match inline {
                0 => String::new(),
                1 => "; 1 file is stored with its name".to_owned(),
                inline => format!("; {inline} files are stored with their names"),
            };
            format!(
                "{}, {size}, in {}{inline}.",
                count(*files, "file"),
                count(*stripes, "stripe")
            )
        }
    }
}

/// What it survives, and what is being done.
fn safety(explanation: &Explanation) -> Vec<String> {
    let promised = explanation.promised;
    let mut sentences = Vec::new();
    match explanation.least() {
        _ if explanation.files == 0 => {}
        Some(least) if least >= promised => {
            sentences.push(format!("Survives {}, as it was made to.", losses(least)));
        }
        Some(least) => sentences.push(format!(
            "Survives {}; it was made to survive {promised}.",
            losses(least)
        )),
        None => sentences.push(format!(
            "Cannot be read now: too few shards of {} of {} are here.",
            explanation.unreadable,
            count(explanation.stripes, "stripe")
        )),
    }
    if explanation.survives.len() > 1 {
        for (survived, number) in &explanation.survives {
            let verb = if *number == 1 { "survives" } else { "survive" };
            sentences.push(format!(
                "{number} of {} {verb} {}.",
                count(explanation.stripes, "stripe"),
                losses(*survived)
            ));
        }
    }
    if let Some(regions) = &explanation.regions {
        let listed = listed(regions, "and");
        let there = match explanation.machines_there {
            1 => "one machine of the pool stands".to_owned(),
            machines => format!("{machines} machines of the pool stand"),
        };
        sentences.push(match explanation.elsewhere {
            0 => format!("All of it is in {listed}, where the space is to be kept: {there} there."),
            elsewhere => format!(
                "{} elsewhere yet: the space is to be kept in {listed} only, where {there}.",
                match elsewhere {
                    1 => "1 shard is".to_owned(),
                    more => format!("{more} shards are"),
                }
            ),
        });
    }
    let mut is_quiet = true;
    for (work, number) in &explanation.work {
        let stripes = count(*number, "stripe");
        let sentence = match work {
            StripeWork::Nothing => continue,
            StripeWork::Mending => format!("{stripes} under repair now."),
            StripeWork::Queued => format!("{stripes} to be repaired next."),
            StripeWork::Waiting { cause, until } => {
                let until = until.map_or(String::new(), |until| format!(", until {until} at the latest"));
                format!("{stripes} waiting: {}{until}.", cause_in_words(cause))
            }
        };
        is_quiet = false;
        sentences.push(sentence);
    }
    if explanation.unheard > 0 {
        sentences.push(format!(
            "{} of which no steward says anything: what is done for them is not known here.",
            count(explanation.unheard, "stripe")
        ));
    } else if is_quiet && explanation.stripes > 0 && explanation.unreadable == 0 {
        sentences.push("Nothing is to be done.".to_owned());
    }
    sentences
}

fn machines(explanation: &Explanation, check: bool, now: Timestamp) -> String {
    let mut heading: Vec<String> = ["NAME", "NODE", "ZONE", "STATE", "SHARDS", "FOUND SOUND", "NAMES"]
        .map(str::to_owned)
        .to_vec();
    if check {
        heading.insert(6, "PROVED NOW".to_owned());
    }
    let have_regions = explanation.regions.is_some();
    if have_regions {
        heading.insert(3, "REGION".to_owned());
    }
    let mut rows = vec![heading];
    for share in &explanation.machines {
        let mut row = vec![
            share.name.as_ref().map_or("-", |name| name.as_str()).to_owned(),
            share.id.short(),
            share.zone.as_ref().map_or("-", |zone| zone.as_str()).to_owned(),
            state(share.status).to_owned(),
            match (share.shards, share.unconfirmed) {
                (shards, 0) => shards.to_string(),
                (0, unconfirmed) if share.status == NodeStatus::Away => format!("{unconfirmed}, if it comes back"),
                (shards, unconfirmed) => format!("{shards} (and {unconfirmed} not there)"),
            },
            share.verified_at.map_or("-".to_owned(), |at| match now.since(at) {
                age if age.as_secs() < 60 => "just now".to_owned(),
                age => format!("{} ago or later", rough(age)),
            }),
            if share.keeps_names { "kept" } else { "-" }.to_owned(),
        ];
        if check {
            row.insert(6, proved(share));
        }
        if have_regions {
            let region = share.region.as_ref().map_or("-", |region| region.as_str());
            row.insert(3, region.to_owned());
        }
        rows.push(row);
    }
    table(&rows)
}

fn proved(share: &MachineShare) -> String {
    let MachineShare {
        proved,
        failed,
        unanswered,
        ..
    } = *share;
    match (proved + failed + unanswered, failed, unanswered) {
        (0, ..) => "-".to_owned(),
        (all, 0, 0) => format!("all {all}"),
        (all, failed, 0) => format!("{proved} of {all}, {failed} not"),
        (all, failed, unanswered) => format!("{proved} of {all}, {failed} not, {unanswered} unanswered"),
    }
}

fn state(status: NodeStatus) -> &'static str {
    match status {
        NodeStatus::Here => "this node",
        NodeStatus::Live => "live",
        NodeStatus::Away => "away",
        NodeStatus::Leaving => "leaving",
        NodeStatus::Doubted => "doubted",
    }
}

fn advice(place: &Place, explanation: &Explanation, check: bool) -> Vec<String> {
    let mut advice = Vec::new();
    if explanation.files > 1 && explanation.short_files > 0 {
        let some: Vec<String> = explanation
            .short_paths
            .iter()
            .map(|path| place.at(path).to_string())
            .collect();
        let more = explanation.short_files - some.len() as u64;
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        advice.push(format!("Less safe than they were made: {}{more}.", some.join(", ")));
    }
    let is_away = |share: &&MachineShare| share.status == NodeStatus::Away && share.unconfirmed > 0;
    let away: Vec<String> = explanation
        .machines
        .iter()
        .filter(is_away)
        .map(|share| {
            share
                .name
                .as_ref()
                .map_or_else(|| share.id.short(), ToString::to_string)
        })
        .collect();
    if explanation.unreadable > 0 && !away.is_empty() {
        advice.push(format!("Bring back one of {}.", away.join(", ")));
    }
    let waits_for = |wanted: &str| {
        explanation
            .work
            .iter()
            .any(|(work, _)| matches!(work, StripeWork::Waiting { cause, .. } if cause == wanted))
    };
    if waits_for("no-domain") {
        advice.push("Add a machine, or room on one (`potluck status` says which are full).".to_owned());
    }
    if waits_for("no-region")
        && let Some(regions) = &explanation.regions
    {
        advice.push(format!(
            "Add a machine of {} (`potluck up --region`), or say where else it may be: `potluck space set {} --region`.",
            listed(regions, "or"),
            place.space
        ));
    }
    let failed: u64 = explanation.machines.iter().map(|share| share.failed).sum();
    if failed > 0 {
        advice.push(format!(
            "{} could not be proved: they are made anew elsewhere, as far as the others suffice.",
            count(failed, "shard")
        ));
    }
    if !check && explanation.stripes > 0 {
        advice.push("`--check` lets every machine prove a part of each shard now.".to_owned());
    }
    advice
}
