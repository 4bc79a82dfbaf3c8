//! What was removed and overwritten: showing it, bringing it back, letting go of it.

use crate::{
    complaint::Complaint,
    local::{client, message::Request},
    moment::Moment,
    place::{Place, escape},
    terminal::{Terminal, count, table},
};
use potluck_node::{Emptied, RestoreOptions, RestoreReport, SpaceInfo, Status, TrashInfo, Trashed, VersionId};
use potluck_spaces::Path as SpacePath;
use potluck_types::{ByteSize, Clock, SpaceName, SystemClock, Timestamp};
use serde::Serialize;
use std::{ops::ControlFlow, path::Path, time::Duration};

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
pub(super) fn run(home: &Path, place: Option<&Place>, wish: Wish, terminal: Terminal) -> Result<(), Complaint> {
    let places = || match place {
        Some(place) => Ok(vec![place.clone()]),
        None => roots(home),
    };
    match wish {
        Wish::List => list(home, &places()?, terminal),
        Wish::Empty => match place {
            Some(place) => empty(home, std::slice::from_ref(place), terminal),
            None => empty(home, &roots_of(home, may_empty)?, terminal),
        },
        Wish::Accept => accept(home, terminal),
    }
}

/// All spaces.
pub(super) fn roots(home: &Path) -> Result<Vec<Place>, Complaint> {
    roots_of(home, |_| true)
}

fn roots_of(home: &Path, which: impl Fn(&SpaceInfo) -> bool) -> Result<Vec<Place>, Complaint> {
    let spaces: Vec<SpaceInfo> = client::call(home, &Request::Spaces { removed: false })?;
    let here = spaces.into_iter().filter(|space| space.is_here && !space.is_offered);
    Ok(here.filter(which).map(|space| Place::root_of(space.name)).collect())
}

/// What is in the trash of a space that one only reads, or has a part of, is for others to let go of.
fn may_empty(space: &SpaceInfo) -> bool {
    space.may_write && space.parts.is_empty()
}

/// A file version of a space.
#[derive(Serialize)]
struct InSpace<'a> {
    space: &'a SpaceName,
    #[serde(flatten)]
    trashed: &'a Trashed,
}

/// Asks for what the trash has of a path and below it, some at a time.
fn pages(home: &Path, place: &Place, mut each: impl FnMut(Vec<Trashed>)) -> Result<(), Complaint> {
    let request = Request::Trash {
        space: place.space.clone(),
        path: place.path.clone(),
    };
    client::pages(home, &request, |page| {
        each(page);
        ControlFlow::Continue(())
    })
}

fn list(home: &Path, places: &[Place], terminal: Terminal) -> Result<(), Complaint> {
    let heading = ["      SIZE", "REMOVED", "BY", "UNTIL", "PATH"]
        .map(str::to_owned)
        .to_vec();
    let (mut rows, mut is_empty) = (vec![heading], true);
    for place in places {
        pages(home, place, |page| {
            if terminal.json {
                let space = &place.space;
                page.iter()
                    .for_each(|trashed| terminal.value(&InSpace { space, trashed }));
                return;
            }
            is_empty = false;
            rows.extend(page.iter().map(|trashed| row(place, trashed)));
            if rows.len() >= ROWS_TOGETHER {
                terminal.line(&table(&std::mem::take(&mut rows)));
            }
        })?;
    }
    if !is_empty && !rows.is_empty() {
        terminal.line(&table(&rows));
    }
    if is_empty && !terminal.json && !terminal.quiet {
        terminal.line(&match places {
            [place] if !place.path.names().is_empty() => format!("The trash has nothing of {place}."),
            _ => "The trash is empty.".to_owned(),
        });
    }
    Ok(())
}

fn row(place: &Place, trashed: &Trashed) -> Vec<String> {
    let overwritten = if trashed.overwritten { "  (overwritten)" } else { "" };
    vec![
        format!("{:>10}", ByteSize(trashed.len).to_string()),
        trashed.removed.to_string(),
        escape(&trashed.machine),
        match &trashed.snapshot {
            Some(name) => format!("held by the snapshot {}", escape(name.as_str())),
            None => trashed.until.to_string(),
        },
        format!("{}{overwritten}", place.at(&trashed.path)),
    ]
}

fn empty(home: &Path, places: &[Place], terminal: Terminal) -> Result<(), Complaint> {
    let mut loose = TrashInfo::default();
    for place in places {
        pages(home, place, |page| {
            for trashed in page.iter().filter(|trashed| trashed.snapshot.is_none()) {
                loose.files += 1;
                loose.bytes += trashed.len;
            }
        })?;
    }
    if loose.files > 0 {
        let (files, bytes) = (count(loose.files, "file"), ByteSize(loose.bytes));
        terminal.confirm(&format!(
            "Let go of {files} ({bytes}) for good? Nobody can bring them back then."
        ))?;
    }
    let mut emptied = Emptied::default();
    for place in places {
        let request = Request::EmptyTrash {
            space: place.space.clone(),
            path: place.path.clone(),
        };
        let of_it: Emptied = client::call(home, &request)?;
        emptied.files += of_it.files;
        emptied.bytes += of_it.bytes;
        emptied.held += of_it.held;
    }
    terminal.result(&emptied, || {
        if terminal.quiet {
            String::new()
        } else {
            let held = match emptied.held {
                0 => String::new(),
                1 => " 1 stays: a snapshot holds it (`potluck snapshot ls`).".to_owned(),
                held => format!(" {held} stay: snapshots hold them (`potluck snapshot ls`)."),
            };
            format!(
                "{} ({}) gone from the trash.{held}",
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
    let accepted: u64 = status.masses.iter().map(|mass| mass.mass.replaced).sum();
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
    /// This version of a file.
    pub(super) version: Option<VersionId>,
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
        version: when.version,
        to: to.map(|to| target(place, to)).transpose()?,
    };
    let request = Request::Restore {
        space: place.space.clone(),
        path: place.path.clone(),
        options: options.clone(),
    };
    let shown = place.at(options.to.as_ref().unwrap_or(&place.path));
    let unchanged = match options.at.or(options.since) {
        _ if options.version.is_some() => format!("{shown} has this version already."),
        Some(at) => format!("{shown} is as it was on {at} already."),
        None => format!(
            "Nothing of {shown} is missing. What was overwritten comes back by its own name, or with `--at TIME`."
        ),
    };
    bring_back(home, &request, &shown, &unchanged, terminal)
}

/// Asks for what is to be brought back, and says what was; or else that nothing changed.
pub(super) fn bring_back(
    home: &Path,
    request: &Request,
    shown: &Place,
    unchanged: &str,
    terminal: Terminal,
) -> Result<(), Complaint> {
    let report: RestoreReport = client::call(home, request)?;
    terminal.result(&report, || match (terminal.quiet, report.files + report.skipped) {
        (true, _) => String::new(),
        (false, 0) => unchanged.to_owned(),
        (false, _) => told(&report, shown),
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
pub(super) fn target(from: &Place, to: &Place) -> Result<SpacePath, Complaint> {
    same_space(from, to, "brought back")?;
    Ok(match from.path.split() {
        Some((_, name)) if to.is_directory => to.path.join(name.clone()),
        _ => to.path.clone(),
    })
}

/// What is told apart by its space is not moved from one to another: each has keys of its own.
pub(super) fn same_space(from: &Place, to: &Place, done: &str) -> Result<(), Complaint> {
    if from.space == to.space {
        return Ok(());
    }
    let name = from
        .path
        .names()
        .last()
        .map_or("NAME".to_owned(), |name| escape(name.as_str()));
    Err(Complaint::usage(format!(
        "{from} and {to} are in two spaces, and nothing is {done} across"
    ))
    .hint(format!(
        "fetch it and put it there: potluck get {from} && potluck put {name} {to}"
    )))
}

fn told(report: &RestoreReport, place: &Place) -> String {
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
