//! Who could do what in a space since when, and whether its history is as it was written.

use super::history::by;
use crate::{
    complaint::Complaint,
    local::{client, message::Request},
    place::escape,
    terminal::{Terminal, count, listed, table},
};
use potluck_node::{AccessChange, AccessEvent, Has, Person, Verified};
use potluck_types::{NodeId, SpaceName};
use std::{ops::ControlFlow, path::Path};

/// `potluck access`.
pub(super) fn log(home: &Path, space: &SpaceName, terminal: Terminal) -> Result<(), Complaint> {
    let mut rows = vec![["WHEN", "WHO", "WHAT"].map(str::to_owned).to_vec()];
    events(home, space, |event| match terminal.json {
        true => terminal.value(event),
        false => rows.push(vec![
            event.at.to_string(),
            event.by.as_ref().map_or("-".to_owned(), called),
            in_words(&event.what),
        ]),
    })?;
    if !terminal.json {
        terminal.line(&table(&rows));
    }
    Ok(())
}

/// Asks for what changed who can read or write in a space, the latest first.
pub(super) fn events(home: &Path, space: &SpaceName, mut each: impl FnMut(&AccessEvent)) -> Result<(), Complaint> {
    let request = Request::AccessLog { space: space.clone() };
    client::pages::<AccessEvent>(home, &request, |page| {
        page.iter().for_each(&mut each);
        ControlFlow::Continue(())
    })
}

fn called(person: &Person) -> String {
    escape(&person.called())
}

fn in_words(change: &AccessChange) -> String {
    match change {
        AccessChange::Founded => "founded the space: may do everything in it".to_owned(),
        AccessChange::LetIn {
            person,
            may_write,
            until,
            quota,
            may_share,
            prefix,
            counted,
        } => {
            let what = if *may_write {
                "may read and change it"
            } else {
                "may read it"
            };
            let until = until.map_or(String::new(), |until| format!(", until {until}"));
            let quota = quota.map_or(String::new(), |quota| format!(", and put {quota} there at most"));
            let others = if *may_share { ", and let others in" } else { "" };
            let void = match counted {
                true => "",
                false => " (it did not count: they had no say any more)",
            };
            let below = prefix
                .as_ref()
                .map_or(String::new(), |path| format!(" to {} alone", escape(path)));
            format!("let {} in{below}: {what}{quota}{others}{until}{void}", called(person))
        }
        AccessChange::TakenOut { person, prefix } => {
            let of = prefix
                .as_ref()
                .map_or(String::new(), |path| format!(" of {}", escape(path)));
            format!("took {} out{of}", called(person))
        }
        AccessChange::KeyReplaced => "vouched for what counts, as a key of the owner's was replaced".to_owned(),
        AccessChange::MachinesLost { machines } => {
            format!(
                "ended the logs of lost machines: {}",
                listed(machines.iter().map(NodeId::short), "and")
            )
        }
        AccessChange::LinkMade {
            link,
            path,
            until,
            needs_password,
        } => {
            let path = path.as_ref().map_or("what is gone now".to_owned(), |path| escape(path));
            let until = until.map_or(String::new(), |until| format!(", until {until}"));
            let password = if *needs_password { ", with a password" } else { "" };
            format!("made the link {} to {path}{until}{password}", short(link))
        }
        AccessChange::LinkEnded { link } => format!("ended the link {}", short(link)),
        AccessChange::Confined { regions } if regions.is_empty() => "let its data be everywhere".to_owned(),
        AccessChange::Confined { regions } => format!("had its data kept in {} only", listed(regions, "and")),
    }
}

fn short(link: &str) -> &str {
    link.get(..8).unwrap_or(link)
}

/// `potluck verify`.
pub(super) fn verify(home: &Path, space: &SpaceName, terminal: Terminal) -> Result<(), Complaint> {
    let verified: Verified = client::call(home, &Request::Verify { space: space.clone() })?;
    terminal.result(&verified, || report(space, &verified).join("\n"));
    let differ = verified.compared.iter().any(|compared| compared.has == Has::Another);
    if verified.problems_count == 0 && !differ {
        return Ok(());
    }
    let complaint = Complaint::failed(format!("the history of {space} is not as it was written"));
    Err(match differ {
        true => complaint.hint("ask the people of the machines that have another history for what `potluck verify` says there: the digests tell who has the same"),
        false => complaint.hint("another machine of yours may have it right: `potluck verify` there; `potluck fsck` finds out whether this disk is damaged"),
    })
}

fn report(space: &SpaceName, verified: &Verified) -> Vec<String> {
    let mut lines = Vec::new();
    let entries = format!(
        "{space}: {} by {}",
        count(verified.entries, "entry"),
        count(verified.machines.len() as u64, "machine"),
    );
    lines.push(match verified.problems_count {
        0 => format!("{entries}: each is signed by its machine, comes after the one before it, and was written by who was allowed to."),
        _ => format!("{entries}."),
    });
    for problem in &verified.problems {
        let entry = problem.seq.map_or(String::new(), |seq| format!(", entry {seq}"));
        let whose = problem.machine.map_or("charter".to_owned(), |machine| machine.short());
        lines.push(format!("  {whose}{entry}: {}", escape(&problem.what)));
    }
    if verified.problems_count > verified.problems.len() as u64 {
        let more = verified.problems_count - verified.problems.len() as u64;
        lines.push(format!("  and {more} more"));
    }
    if verified.set_aside > 0 {
        lines.push(format!(
            "{} more do not count: they were written beyond the end of the log of a lost machine, or of somebody who was taken out.",
            count(verified.set_aside, "entry")
        ));
    }
    if verified.records > 0 {
        lines.push(format!(
            "{} of who may read and write, each signed by who may say so: `potluck access {space}` shows them.",
            count(verified.records, "record")
        ));
    }
    for (has, what) in [
        (Has::Same, "has the same"),
        (Has::Part, "has more or less of it, and nothing else"),
        (Has::Another, "has ANOTHER history"),
        (Has::Silent, "did not answer"),
    ] {
        let machines: Vec<String> = verified
            .compared
            .iter()
            .filter(|compared| compared.has == has)
            .map(|compared| {
                let name = compared.name.as_ref().map(ToString::to_string);
                by(&name.unwrap_or_else(|| compared.machine.short()), None)
            })
            .collect();
        match machines.len() {
            0 => {}
            1 => lines.push(format!("{} {what}.", machines[0])),
            _ => lines.push(format!(
                "{} {}.",
                listed(&machines, "and"),
                what.replacen("has", "have", 1)
            )),
        }
    }
    lines.push(format!(
        "Digest: {}\nWhoever reads {space} and has the same history gets the same from `potluck verify`.",
        verified.digest
    ));
    lines
}
