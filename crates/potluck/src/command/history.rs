//! What files were: their versions, and those that conflict.

use super::trash::{day, roots};
use crate::{
    complaint::Complaint,
    local::{client, message::Request},
    place::{Place, escape},
    terminal::{Terminal, count, table},
};
use potluck_node::{Conflict, Did, Doing, Kind, Settled, Settling, Version, VersionState};
use potluck_types::{ByteSize, SpaceName, Timestamp};
use serde::Serialize;
use std::{ops::ControlFlow, path::Path};

/// `potluck versions`.
pub(super) fn versions(home: &Path, place: &Place, terminal: Terminal) -> Result<(), Complaint> {
    let request = Request::Versions {
        space: place.space.clone(),
        path: place.path.clone(),
    };
    let heading = ["VERSION", "      SIZE", "WRITTEN", "BY", ""]
        .map(str::to_owned)
        .to_vec();
    let mut rows = vec![heading];
    client::pages::<Version>(home, &request, |page| {
        match terminal.json {
            true => page.iter().for_each(|version| terminal.value(version)),
            false => rows.extend(page.iter().map(row)),
        }
        ControlFlow::Continue(())
    })?;
    if !terminal.json {
        terminal.line(&table(&rows));
    }
    Ok(())
}

fn row(version: &Version) -> Vec<String> {
    let state = match &version.state {
        VersionState::Latest => "the latest".to_owned(),
        VersionState::Conflict { name } => format!("conflicts; shown as {}", escape(name.as_str())),
        VersionState::Replaced {
            at,
            machine,
            overwritten,
            moved,
            until,
        } => {
            let done = match (moved, overwritten) {
                (true, true) => "put again",
                (true, false) => "moved",
                (false, true) => "overwritten",
                (false, false) => "removed",
            };
            format!("{done} by {} on {at}, kept until {}", escape(machine), day(*until))
        }
    };
    let mut row = columns(version);
    row.push(state);
    row
}

/// Which version, how long, when, and by whom.
fn columns(version: &Version) -> Vec<String> {
    let size = match version.kind {
        Kind::File => ByteSize(version.len).to_string(),
        Kind::Directory => "directory".to_owned(),
    };
    vec![
        version.id.to_string(),
        format!("{size:>10}"),
        version.stored.to_string(),
        by(&version.machine, version.person.as_deref()),
    ]
}

pub(super) fn by(machine: &str, person: Option<&str>) -> String {
    let machine = escape(machine);
    match person {
        Some(person) => format!("{machine} ({})", escape(person)),
        None => machine,
    }
}

/// `potluck log`.
pub(super) fn log(
    home: &Path,
    place: Option<&Place>,
    since: Timestamp,
    lines: u64,
    terminal: Terminal,
) -> Result<(), Complaint> {
    let places = match place {
        Some(place) => vec![place.clone()],
        None => roots(home)?,
    };
    let mut left = lines;
    for place in places {
        let request = Request::Log {
            space: place.space.clone(),
            path: place.path.clone(),
            since,
        };
        client::pages::<Did>(home, &request, |mut page| {
            page.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left -= page.len() as u64;
            match terminal.json {
                true => page.iter().for_each(|did| {
                    terminal.value(&DoneIn {
                        space: &place.space,
                        did,
                    });
                }),
                false if page.is_empty() => {}
                false => terminal.line(&table(&page.iter().map(|did| done(&place, did)).collect::<Vec<_>>())),
            }
            match left {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        })?;
    }
    Ok(())
}

/// Something that was done in a space.
#[derive(Serialize)]
struct DoneIn<'a> {
    space: &'a SpaceName,
    #[serde(flatten)]
    did: &'a Did,
}

fn done(place: &Place, did: &Did) -> Vec<String> {
    let what = match did.doing {
        Doing::Add => "added",
        Doing::Change => "changed",
        Doing::Remove => "removed",
        Doing::Free => "let go of",
        Doing::Move { .. } => "moved",
    };
    let slash = match did.kind {
        Some(Kind::Directory) => "/",
        _ => "",
    };
    let mut path = format!("{}{slash}", place.at(&did.path));
    if let Doing::Move { from } = &did.doing {
        path.push_str(&format!(", from {}", place.at(from)));
    }
    if let Some(len) = did.len {
        path.push_str(&format!("  ({})", ByteSize(len)));
    }
    vec![
        did.at.to_string(),
        by(&did.machine, did.person.as_deref()),
        what.to_owned(),
        path,
    ]
}

/// A conflict of a space.
#[derive(Serialize)]
struct InSpace<'a> {
    space: &'a SpaceName,
    #[serde(flatten)]
    conflict: &'a Conflict,
}

/// `potluck conflicts`.
pub(super) fn conflicts(home: &Path, place: Option<&Place>, terminal: Terminal) -> Result<(), Complaint> {
    let places = match place {
        Some(place) => vec![place.clone()],
        None => roots(home)?,
    };
    let mut found = 0;
    for place in &places {
        let request = Request::Conflicts {
            space: place.space.clone(),
            path: place.path.clone(),
        };
        client::pages::<Conflict>(home, &request, |page| {
            for conflict in &page {
                found += 1;
                let space = &place.space;
                match terminal.json {
                    true => terminal.value(&InSpace { space, conflict }),
                    false => terminal.line(&told(place, conflict)),
                }
            }
            ControlFlow::Continue(())
        })?;
    }
    if terminal.json || terminal.quiet {
        return Ok(());
    }
    terminal.line(&match found {
        0 => "Nothing conflicts.".to_owned(),
        found => format!(
            "{} in conflict. `potluck conflicts --keep PLACE` keeps the version that PLACE names, and the others go to the trash; `--keep-all` makes each a file of its own.",
            count(found, "name")
        ),
    });
    Ok(())
}

fn told(place: &Place, conflict: &Conflict) -> String {
    let parent = conflict.path.split().map(|(parent, _)| parent).unwrap_or_default();
    let rows: Vec<Vec<String>> = conflict
        .versions
        .iter()
        .map(|version| {
            let at = match &version.state {
                VersionState::Conflict { name } => parent.join(name.clone()),
                VersionState::Latest | VersionState::Replaced { .. } => conflict.path.clone(),
            };
            let mut row = columns(version);
            row[0] = place.at(&at).to_string();
            row
        })
        .collect();
    table(&rows)
}

/// `potluck conflicts --keep` and `--keep-all`.
pub(super) fn settle(home: &Path, place: &Place, how: Settling, terminal: Terminal) -> Result<(), Complaint> {
    let request = Request::Settle {
        space: place.space.clone(),
        path: place.path.clone(),
        how,
    };
    let settled: Settled = client::call(home, &request)?;
    terminal.result(&settled, || {
        if terminal.quiet {
            return String::new();
        }
        let parent = place.path.split().map(|(parent, _)| parent).unwrap_or_default();
        let names = settled.names.iter();
        let names: Vec<String> = names
            .map(|name| place.at(&parent.join(name.clone())).to_string())
            .collect();
        let mut text = match how {
            Settling::KeepThis => format!("{} is the version that you kept.", names.join(", ")),
            Settling::KeepAll => format!("Each has a name of its own now: {}.", names.join(", ")),
        };
        if settled.removed > 0 {
            let others = count(settled.removed, "other");
            text.push_str(&match settled.until {
                Some(until) => format!(" {others} can be brought back until {}.", day(until)),
                None => format!(" {others} went."),
            });
        }
        text
    });
    Ok(())
}
