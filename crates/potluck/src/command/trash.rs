//! What was removed and overwritten: showing it, bringing it back, letting go of it.

use crate::{
    complaint::Complaint,
    local::{client, frame::FrameKind, message::Request},
    moment::Moment,
    place::{Place, escape, place_of},
    terminal::{Terminal, count, table},
};
use potluck_node::{Emptied, RestoreOptions, RestoreReport, Status, TrashInfo, Trashed};
use potluck_spaces::Path as SpacePath;
use potluck_types::{ByteSize, Clock, SystemClock, Timestamp};
use std::{path::Path, time::Duration};

/// Rows that are printed together, in columns as wide as the widest of them.
const ROWS_TOGETHER: usize = 1000;
/// Less than this is told by the hour.
const DAYS_TOLD: Duration = Duration::from_secs(2 * 86_400);

/// What `potluck trash` is to do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wish {
    /// Show it.
    List,
    /// Let go of it.
    Empty,
    /// Say that what went was meant to.
    Accept,
}

/// `potluck trash`.
pub(super) fn run(home: &Path, place: &Place, wish: Wish, terminal: Terminal) -> Result<(), Complaint> {
    match wish {
        Wish::List => list(home, place, terminal),
        Wish::Empty => empty(home, place, terminal),
        Wish::Accept => accept(home, terminal),
    }
}

/// Asks for what the trash has of a path and below it, some at a time.
fn pages(home: &Path, path: &SpacePath, mut each: impl FnMut(Vec<Trashed>)) -> Result<(), Complaint> {
    let (_sender, mut receiver) = client::open(home, &Request::Trash { path: path.clone() })?;
    loop {
        let frame = receiver.frame()?;
        match frame.kind {
            FrameKind::Item => each(frame.json().map_err(|error| client::lost(&error))?),
            FrameKind::Reply => return Ok(()),
            other => return Err(client::unexpected(other)),
        }
    }
}

fn list(home: &Path, place: &Place, terminal: Terminal) -> Result<(), Complaint> {
    let heading = ["      SIZE", "REMOVED", "BY", "UNTIL", "PATH"]
        .map(str::to_owned)
        .to_vec();
    let (mut rows, mut is_empty) = (vec![heading], true);
    pages(home, &place.path, |page| {
        if terminal.json {
            page.iter().for_each(|trashed| terminal.value(trashed));
            return;
        }
        is_empty = false;
        rows.extend(page.iter().map(row));
        if rows.len() >= ROWS_TOGETHER {
            terminal.line(&table(&std::mem::take(&mut rows)));
        }
    })?;
    if !is_empty && !rows.is_empty() {
        terminal.line(&table(&rows));
    }
    if is_empty && !terminal.json && !terminal.quiet {
        terminal.line(&match place.path.names() {
            [] => "The trash is empty.".to_owned(),
            _ => format!("The trash has nothing of {place}."),
        });
    }
    Ok(())
}

fn row(trashed: &Trashed) -> Vec<String> {
    let overwritten = if trashed.overwritten { "  (overwritten)" } else { "" };
    vec![
        format!("{:>10}", ByteSize(trashed.len).to_string()),
        trashed.removed.to_string(),
        escape(&trashed.machine),
        trashed.until.to_string(),
        format!("{}{overwritten}", place_of(&trashed.path)),
    ]
}

fn empty(home: &Path, place: &Place, terminal: Terminal) -> Result<(), Complaint> {
    let mut held = TrashInfo::default();
    pages(home, &place.path, |page| {
        held.files += page.len() as u64;
        held.bytes += page.iter().map(|trashed| trashed.len).sum::<u64>();
    })?;
    if held.files > 0 {
        let (files, bytes) = (count(held.files, "file"), ByteSize(held.bytes));
        terminal.confirm(&format!(
            "Let go of {files} ({bytes}) for good? Nobody can bring them back then."
        ))?;
    }
    let emptied: Emptied = client::call(
        home,
        &Request::EmptyTrash {
            path: place.path.clone(),
        },
    )?;
    terminal.result(&emptied, || {
        if terminal.quiet {
            String::new()
        } else {
            format!(
                "{} ({}) gone from the trash.",
                count(emptied.files, "file"),
                ByteSize(emptied.bytes)
            )
        }
    });
    Ok(())
}

fn accept(home: &Path, terminal: Terminal) -> Result<(), Complaint> {
    let status: Status = client::call(home, &Request::Status)?;
    client::call::<()>(home, &Request::AcceptLosses)?;
    let accepted: u64 = status.masses.iter().map(|mass| mass.replaced).sum();
    terminal.result(&serde_json::json!({ "accepted": accepted }), || {
        match (terminal.quiet, accepted) {
            (true, _) => String::new(),
            (false, 0) => "There was nothing to accept.".to_owned(),
            (false, accepted) => format!(
                "{} stay in the trash until their time is over, and no longer.",
                count(accepted, "removed or overwritten file")
            ),
        }
    });
    Ok(())
}

/// As of when something is brought back.
#[derive(Clone, Copy, Debug)]
pub(super) struct When {
    /// As it was then.
    pub(super) at: Option<Moment>,
    /// All that went from then on.
    pub(super) since: Option<Moment>,
}

/// `potluck restore`.
pub(super) fn restore(
    home: &Path,
    place: &Place,
    when: When,
    to: Option<&Place>,
    terminal: Terminal,
) -> Result<(), Complaint> {
    let now = SystemClock.now();
    let options = RestoreOptions {
        at: when.at.map(|at| at.resolve(now)),
        since: when.since.map(|since| since.resolve(now)),
        to: to.map(|to| target(place, to)),
    };
    let request = Request::Restore {
        path: place.path.clone(),
        options: options.clone(),
    };
    let report: RestoreReport = client::call(home, &request)?;
    terminal.result(&report, || {
        if terminal.quiet {
            String::new()
        } else {
            told(
                &report,
                &place_of(options.to.as_ref().unwrap_or(&place.path)),
                options.at.or(options.since),
            )
        }
    });
    match report.skipped {
        0 => Ok(()),
        skipped => Err(
            Complaint::failed(format!("{} could not be brought back", count(skipped, "file")))
                .hint("another machine has let go of their content, or a directory has their name now: `--to PATH` brings them back elsewhere"),
        ),
    }
}

/// A place that is typed as a directory is what it comes into.
fn target(from: &Place, to: &Place) -> SpacePath {
    match from.path.split() {
        Some((_, name)) if to.is_directory => to.path.join(name.clone()),
        _ => to.path.clone(),
    }
}

fn told(report: &RestoreReport, place: &Place, at: Option<Timestamp>) -> String {
    if report.files == 0 && report.skipped == 0 {
        return match at {
            Some(at) => format!("{place} is as it was on {at} already."),
            None => format!(
                "Nothing of {place} is missing. What was overwritten comes back by its own name, or with `--at TIME`."
            ),
        };
    }
    let mut text = format!("Brought back {}: {place}.", count(report.files, "file"));
    if report.replaced > 0 {
        let replaced = count(report.replaced, "file");
        text.push_str(&match report.until {
            Some(until) => format!(
                " {replaced} that had the name can be brought back until {}.",
                day(until)
            ),
            None => format!(" {replaced} that had the name went."),
        });
    }
    text
}

/// A day, where the hour does not matter.
pub(super) fn day(until: Timestamp) -> String {
    let text = until.to_string();
    match until.since(SystemClock.now()) < DAYS_TOLD {
        true => text,
        false => text.split_once('T').map_or(text.clone(), |(day, _)| day.to_owned()),
    }
}
