//! Listing, removing, renaming, and what is known of a file.

use super::{
    failure::{self, Failure},
    trash,
};
use crate::{
    complaint::{Complaint, Kind as ComplaintKind},
    local::{
        client,
        frame::FrameKind,
        message::{FileStat, Page, Request, Source},
    },
    place::{Place, Spot, escape},
    terminal::{Terminal, count, table},
};
use potluck_node::{Entry, Kind, RemoveOptions, RemoveReport, Which};
use std::path::Path;

/// Asks for the names of a directory, a page at a time. Tells why there may be more of them, if so.
pub(crate) fn pages(
    home: &Path,
    place: &Spot,
    recursive: bool,
    mut each: impl FnMut(Page) -> Result<(), Complaint>,
) -> Result<Option<Complaint>, Complaint> {
    let (_sender, mut receiver) = client::open(
        home,
        &Request::List {
            from: place.from.clone(),
            path: place.path.clone(),
            recursive,
        },
    )?;
    loop {
        let frame = receiver.frame()?;
        match frame.kind {
            FrameKind::Item => each(frame.json().map_err(|error| client::lost(&error))?)?,
            FrameKind::Reply => return frame.json().map_err(|error| client::lost(&error)),
            other => return Err(client::unexpected(other)),
        }
    }
}

/// Asks what is known of a file or directory.
pub(super) fn stat_of(home: &Path, place: &Spot, which: Which) -> Result<FileStat, Complaint> {
    client::call(
        home,
        &Request::Stat {
            from: place.from.clone(),
            path: place.path.clone(),
            which,
        },
    )
}

/// `potluck ls`.
pub(super) fn list(
    home: &Path,
    place: &Spot,
    long: bool,
    recursive: bool,
    terminal: Terminal,
) -> Result<(), Complaint> {
    let lacking = pages(home, place, recursive, |page| {
        if terminal.json {
            for entry in &page.entries {
                let path = page.directory.join(entry.name.clone());
                terminal.value(&serde_json::json!({ "path": path, "entry": entry }));
            }
            return Ok(());
        }
        let name = |entry: &Entry| {
            let name = if recursive {
                page.directory.join(entry.name.clone()).to_string()
            } else {
                entry.name.as_str().to_owned()
            };
            let slash = if entry.kind == Kind::Directory { "/" } else { "" };
            format!("{}{slash}", escape(&name))
        };
        if long {
            let rows: Vec<Vec<String>> = page.entries.iter().map(|entry| long_row(entry, name(entry))).collect();
            terminal.line(&table(&rows));
        } else {
            let names: Vec<String> = page.entries.iter().map(name).collect();
            terminal.line(&names.join("\n"));
        }
        Ok(())
    })?;
    lacking.map_or(Ok(()), Err)
}

fn long_row(entry: &Entry, name: String) -> Vec<String> {
    let size = match entry.kind {
        Kind::Directory => "-".to_owned(),
        Kind::File => entry.len.to_string(),
    };
    let kind = match (entry.kind, entry.executable) {
        (Kind::Directory, _) => "d",
        (Kind::File, true) => "x",
        (Kind::File, false) => "-",
    };
    let modified = if entry.modified.as_millis() == 0 {
        "-".to_owned()
    } else {
        entry.modified.to_string()
    };
    vec![kind.to_owned(), format!("{size:>12}"), format!("{modified:<20}"), name]
}

/// `potluck rm`. One that is not there does not keep the others.
pub(super) fn remove(
    home: &Path,
    places: &[Place],
    options: RemoveOptions,
    terminal: Terminal,
) -> Result<(), Complaint> {
    let (mut done, mut failed) = (RemoveReport::default(), Vec::new());
    for place in places {
        let removed = terminal.insist(|confirmed| {
            let request = Request::Remove {
                space: place.space.clone(),
                path: place.path.clone(),
                options: RemoveOptions { confirmed, ..options },
            };
            client::call::<RemoveReport>(home, &request)
        });
        match removed {
            Ok(removed) => {
                done.files += removed.files;
                done.until = done.until.max(removed.until);
                done.emptied.files += removed.emptied.files;
                done.emptied.bytes += removed.emptied.bytes;
                done.held += removed.held + removed.emptied.held;
            }
            Err(complaint) if places.len() == 1 || complaint.kind == ComplaintKind::NoDaemon => return Err(complaint),
            Err(complaint) => failed.push(Failure {
                path: place.to_string(),
                complaint,
            }),
        }
    }
    failure::tell(&failed, terminal);
    let value = serde_json::json!({
        "removed": done.files, "until": done.until, "emptied": done.emptied, "held": done.held, "failed": failed,
    });
    terminal.result(&value, || {
        if terminal.quiet {
            String::new()
        } else {
            removed(done, places)
        }
    });
    failure::sum_up(failed, "removed")
}

/// What went, and how it comes back.
fn removed(done: RemoveReport, places: &[Place]) -> String {
    let mut text = format!("Removed {}.", count(done.files, "file"));
    if done.emptied.files > 0 {
        text = format!(
            "Removed {}, and let go of {} in the trash.",
            count(done.files, "file"),
            count(done.emptied.files, "version")
        );
    }
    match done.held {
        0 => {}
        1 => text.push_str(" 1 stays in the trash: a snapshot holds it (`potluck snapshot ls`)."),
        held => text.push_str(&format!(
            " {held} stay in the trash: snapshots hold them (`potluck snapshot ls`)."
        )),
    }
    if let Some(until) = done.until {
        let they = if done.files == 1 { "It" } else { "They" };
        let place = match places {
            [only] => only.to_string(),
            _ => "PLACE".to_owned(),
        };
        text.push_str(&format!(
            " {they} can be brought back until {}: potluck restore {place}",
            trash::day(until)
        ));
    }
    text
}

/// `potluck mv`. Into a directory that is there or typed as one, as `mv` of files does.
pub(super) fn rename(home: &Path, from: &Place, to: &Place, terminal: Terminal) -> Result<(), Complaint> {
    trash::same_space(from, to, "moved")?;
    let is_directory = match stat_of(home, &to.clone().into(), Which::Latest) {
        Ok(stat) => stat.entry.is_none_or(|entry| entry.kind == Kind::Directory),
        Err(complaint) if complaint.kind == ComplaintKind::NotFound => to.is_directory,
        Err(complaint) => return Err(complaint),
    };
    let target = match from.path.split() {
        Some((_, name)) if is_directory => to.path.join(name.clone()),
        Some(_) => to.path.clone(),
        None => return Err(Complaint::usage("the root of a space cannot be moved")),
    };
    if target == from.path {
        return Err(Complaint::usage(format!(
            "{from} is there already: both places are the same"
        )));
    }
    client::call::<()>(
        home,
        &Request::Rename {
            space: from.space.clone(),
            from: from.path.clone(),
            to: target.clone(),
        },
    )?;
    terminal.result(&serde_json::json!({ "path": target }), || {
        if terminal.quiet {
            String::new()
        } else {
            format!("{from} is {} now.", to.at(&target))
        }
    });
    Ok(())
}

/// `potluck stat`.
pub(super) fn stat(home: &Path, place: &Spot, terminal: Terminal) -> Result<(), Complaint> {
    let stat = stat_of(home, place, Which::Latest)?;
    terminal.result(&stat, || describe(place, &stat));
    Ok(())
}

fn describe(place: &Spot, stat: &FileStat) -> String {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![row("name", place.to_string())];
    let file = stat.entry.as_ref().filter(|entry| entry.kind == Kind::File);
    rows.push(row(
        "kind",
        if file.is_some() { "file" } else { "directory" }.to_owned(),
    ));
    if let Some(entry) = file {
        rows.push(row("size", format!("{} bytes", entry.len)));
        rows.push(row("changed", entry.modified.to_string()));
        rows.push(row(
            "executable",
            if entry.executable { "yes" } else { "no" }.to_owned(),
        ));
        rows.push(row("made to survive", count(stat.survives.into(), "lost machine")));
        // How it is stored is for those who are in its space.
        if let Source::Space(_) = place.from {
            let stored = match stat.stripes {
                0 => "with its name".to_owned(),
                stripes => format!("in {}", count(stripes, "stripe")),
            };
            rows.push(row("stored", stored));
        }
        if let Some(original) = &entry.copy_of {
            rows.push(row("conflicts with", escape(original.as_str())));
        }
    }
    table(&rows)
}
