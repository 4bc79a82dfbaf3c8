//! `potluck fsck`: is what lies in the home sound, and if not, what of it can be put right without the pool?

use super::keys;
use crate::{
    cli,
    complaint::{Complaint, Kind},
    daemon,
    fresh::BESIDE,
    place::escape,
    terminal::{Terminal, count, count_entries, seconds},
};
use potluck_node::{Finding, FsckOptions, FsckReport, HomeError, fsck};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

/// `potluck fsck`.
pub(super) fn run(
    home: &Path,
    repair: bool,
    passphrase: &cli::Passphrase,
    terminal: Terminal,
) -> Result<(), Complaint> {
    // One that runs is told of at once; one that is about to end is waited for.
    daemon::refuse_running(home)?;
    let options = FsckOptions {
        repair,
        others: BESIDE.map(str::to_owned).into(),
        passphrase: keys::opener(home, passphrase, terminal)?.map(|passphrase| passphrase.as_str().into()),
    };
    let mut bar = terminal.progress("checking", Some(0));
    let report = fsck(home, &options, |at| {
        bar.of(at.total.0);
        bar.at(at.bytes.0, at.doing);
    });
    let time = bar.done();
    let report = report.map_err(|error| match error {
        HomeError::Locked { .. } => Complaint::new(Kind::Refused, error.to_string())
            .hint("a home is checked while nothing runs on it: `potluck stop`, then the same again"),
        error => error.into(),
    })?;
    terminal.result(&document(home, &report), || tell(&report, repair, time));
    verdict(&report)
}

fn verdict(report: &FsckReport) -> Result<(), Complaint> {
    let wrong = report.wrong().count() as u64;
    if wrong == 0 {
        return Ok(());
    }
    let complaint = Complaint::failed(format!("{} found", count(wrong, "problem")));
    match report.wrong().filter(|finding| finding.fault.repair().is_some()).count() {
        0 => Err(complaint),
        repairable => Err(complaint.hint(format!(
            "`potluck fsck --repair` puts {repairable} right; while the machine has trouble with its disk, copy the home first"
        ))),
    }
}

fn document(home: &Path, report: &FsckReport) -> Value {
    let finding = |finding: &Finding| {
        json!({
            "place": finding.place,
            "what": finding.fault.to_string(),
            "repaired": finding.is_repaired,
            "repair": finding.fault.repair(),
            "remedy": finding.fault.remedy(),
        })
    };
    json!({
        "home": home,
        "records": report.records,
        "entries": report.entries,
        "shards": report.shards,
        "bytes": report.bytes,
        "unfilled": report.unfilled,
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
    })
}

fn tell(report: &FsckReport, repair: bool, time: Duration) -> String {
    let mut lines: Vec<String> = report.findings.iter().map(|finding| line(finding, repair)).collect();
    if report.unfilled > 0 {
        lines.push(format!(
            "not checked: the names of {}, which are taken from a checkpoint, and the history, which is not all here yet; both come while the node runs",
            count(report.unfilled, "space"),
        ));
    }
    lines.push(format!(
        "{}, {} of logs and {} ({}) checked in {}: {}",
        count(report.records, "record"),
        count_entries(report.entries),
        count(report.shards, "shard"),
        report.bytes,
        seconds(time),
        outcome(report),
    ));
    lines.join("\n")
}

fn outcome(report: &FsckReport) -> String {
    let (all, wrong) = (report.findings.len() as u64, report.wrong().count() as u64);
    match (wrong, all - wrong) {
        (0, 0) => "all sound".to_owned(),
        (wrong, 0) => count(wrong, "problem"),
        (0, repaired) => format!("{} repaired", count(repaired, "problem")),
        (wrong, repaired) => format!("{} repaired, {wrong} left", count(repaired, "problem")),
    }
}

fn line(finding: &Finding, repair: bool) -> String {
    let mark = if finding.is_repaired { "repaired" } else { "WRONG" };
    let what = format!("{}: {}", finding.place, finding.fault);
    let hint = |text: String| format!("\n{:10}→ {text}", "");
    let repairs = finding.fault.repair().filter(|_| !finding.is_repaired);
    let repairs = repairs.map_or_else(String::new, |does| match repair {
        true => hint(format!(
            "it could not be repaired: the log says why (`-v`); --repair {does}"
        )),
        false => hint(format!("--repair {does}")),
    });
    let remedy = finding
        .fault
        .remedy()
        .map_or_else(String::new, |remedy| hint(remedy.to_owned()));
    format!("{mark:<8}  {}{repairs}{remedy}", escape(&what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_node::Fault;

    #[test]
    fn what_is_found_is_told_with_what_to_do() {
        let finding = Finding {
            place: "node.key".to_owned(),
            fault: Fault::Exposed,
            is_repaired: false,
        };
        let told = line(&finding, false);
        assert!(
            told.contains("WRONG") && told.contains("--repair takes the right"),
            "{told}"
        );
        let mut report = FsckReport::default();
        assert!(verdict(&report).is_ok() && outcome(&report) == "all sound");
        report.findings.push(finding);
        let complaint = verdict(&report).unwrap_err();
        assert_eq!(complaint.kind, Kind::Failed);
        assert!(complaint.hints[0].contains("puts 1 right"), "{complaint:?}");
        report.findings[0].is_repaired = true;
        assert!(verdict(&report).is_ok());
        assert_eq!(outcome(&report), "1 problem repaired");
    }
}
