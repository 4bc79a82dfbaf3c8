//! Snapshots: naming what a space is now, and bringing that back.

use super::{
    space::say,
    trash::{self, roots},
};
use crate::{
    cli,
    complaint::Complaint,
    local::{client, message::Request},
    place::{Place, escape},
    terminal::{Terminal, count, table},
};
use potluck_node::SnapshotInfo;
use potluck_types::{ByteSize, SpaceName};
use serde::Serialize;
use std::{ops::ControlFlow, path::Path};

/// `potluck snapshot`.
pub(super) fn run(home: &Path, wish: cli::Snapshot, terminal: Terminal) -> Result<(), Complaint> {
    match wish {
        cli::Snapshot::Create { space, name } => create(home, &space, name, terminal),
        cli::Snapshot::Ls { space } => list(home, space, terminal),
        cli::Snapshot::Restore { place, name, to } => restore(home, &place, name, to.as_ref(), terminal),
        cli::Snapshot::Rm { space, name } => remove(home, &space, name, terminal),
    }
}

/// A snapshot, and of which space.
#[derive(Serialize)]
struct InSpace<'a> {
    space: &'a SpaceName,
    #[serde(flatten)]
    info: &'a SnapshotInfo,
}

fn create(home: &Path, space: &SpaceName, name: Option<String>, terminal: Terminal) -> Result<(), Complaint> {
    let request = Request::TakeSnapshot {
        space: space.clone(),
        name: name.map(parsed).transpose()?,
    };
    let info: SnapshotInfo = client::call(home, &request)?;
    let value = InSpace { space, info: &info };
    say(terminal, &value, || {
        let name = escape(info.name.as_str());
        format!(
            "What is in {space} now can be brought back, whatever becomes of it, until you remove the snapshot:\n  potluck snapshot restore {space} {name}"
        )
    });
    Ok(())
}

/// The name of a snapshot, as it was typed.
pub(super) fn parsed(name: String) -> Result<potluck_node::Name, Complaint> {
    name.try_into().map_err(|error: potluck_node::PathError| {
        Complaint::usage(error.to_string()).hint("a snapshot has a name as files have")
    })
}

fn list(home: &Path, space: Option<SpaceName>, terminal: Terminal) -> Result<(), Complaint> {
    let spaces = match space {
        Some(space) => vec![Place::root_of(space)],
        None => roots(home)?,
    };
    let heading = ["SPACE", "SNAPSHOT", "TAKEN", "BY", "HOLDS"]
        .map(str::to_owned)
        .to_vec();
    let mut rows = vec![heading];
    for Place { space, .. } in spaces {
        let request = Request::Snapshots { space: space.clone() };
        client::pages::<SnapshotInfo>(home, &request, |page| {
            for info in &page {
                match terminal.json {
                    true => terminal.value(&InSpace { space: &space, info }),
                    false => rows.push(row(&space, info)),
                }
            }
            ControlFlow::Continue(())
        })?;
    }
    if terminal.json {
        return Ok(());
    }
    if rows.len() == 1 {
        terminal.note("No snapshots. `potluck snapshot create SPACE` takes one.");
        return Ok(());
    }
    terminal.line(&table(&rows));
    Ok(())
}

fn row(space: &SpaceName, info: &SnapshotInfo) -> Vec<String> {
    let machine = escape(&info.machine);
    vec![
        space.to_string(),
        escape(info.name.as_str()),
        info.at.to_string(),
        match &info.person {
            Some(person) => format!("{machine} ({})", escape(person)),
            None => machine,
        },
        match info.held {
            0 => "only what is there still".to_owned(),
            held => format!(
                "{} that {} gone since ({})",
                count(held, "file"),
                if held == 1 { "is" } else { "are" },
                ByteSize(info.held_bytes)
            ),
        },
    ]
}

fn restore(home: &Path, place: &Place, name: String, to: Option<&Place>, terminal: Terminal) -> Result<(), Complaint> {
    let to = to.map(|to| trash::target(place, to)).transpose()?;
    let shown = place.at(to.as_ref().unwrap_or(&place.path));
    let request = Request::RestoreSnapshot {
        space: place.space.clone(),
        name: parsed(name)?,
        path: place.path.clone(),
        to: to.clone(),
    };
    let unchanged = match &to {
        Some(_) => format!("All that the snapshot has of {place} is there as it was: nothing was brought to {shown}."),
        None => format!("All that the snapshot has of {place} is there as it was."),
    };
    trash::bring_back(home, &request, &shown, &unchanged, terminal)
}

fn remove(home: &Path, space: &SpaceName, name: String, terminal: Terminal) -> Result<(), Complaint> {
    let request = Request::RemoveSnapshot {
        space: space.clone(),
        name: parsed(name)?,
    };
    let info: SnapshotInfo = client::call(home, &request)?;
    let value = InSpace { space, info: &info };
    say(terminal, &value, || {
        let held = match info.held {
            0 => String::new(),
            held => format!(
                " What it held of what is not there any more ({}, {}) goes when its time in the trash is over; `potluck trash {space}:/ --empty` lets go of it now.",
                count(held, "file version"),
                ByteSize(info.held_bytes)
            ),
        };
        format!("The snapshot {} of {space} is gone.{held}", escape(info.name.as_str()))
    });
    Ok(())
}
