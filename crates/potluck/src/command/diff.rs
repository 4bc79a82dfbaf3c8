//! What has changed: in a directory which files, in a file which lines.

use super::{files, get, snapshot};
use crate::{
    cli,
    complaint::Complaint,
    local::{client, message::Request},
    place::{Place, Spot, escape},
    terminal::{Terminal, count, table},
};
use potluck_node::{Difference, Differing, Kind, SnapshotInfo, Version, VersionState, Which};
use potluck_types::{ByteSize, Clock, SystemClock, Timestamp};
use serde::Serialize;
use similar::TextDiff;
use std::{ops::ControlFlow, path::Path, time::Duration};

/// A file up to this is compared line by line.
const TEXT_BYTES_MAX: u64 = 8 << 20;
/// Lines that are shown around those that differ.
const CONTEXT: usize = 3;
/// How long the fewest lines that differ are looked for; then more are shown than need be.
const PATIENCE: Duration = Duration::from_secs(5);
/// Rows that are printed together.
const ROWS_TOGETHER: usize = 1024;

/// What a file is compared with.
struct Base {
    which: Which,
    told: String,
}

/// How a file differs, as a document.
#[derive(Serialize)]
struct InLines<'a> {
    path: &'a potluck_node::Path,
    before: u64,
    now: u64,
    /// None when one of the two is no text, or long.
    diff: Option<String>,
}

/// `potluck diff`.
pub(super) fn run(home: &Path, wish: &cli::Diff, terminal: Terminal) -> Result<(), Complaint> {
    let place = &wish.place;
    let since = match (&wish.since, &wish.snapshot) {
        (Some(since), _) => Some(since.resolve(SystemClock.now())),
        (None, Some(name)) => Some(moment(home, place, name)?),
        (None, None) => None,
    };
    if is_file(home, place)? {
        return file(home, place, since, wish, terminal);
    }
    if wish.version.is_some() {
        return Err(Complaint::usage(format!("{place} is no file: `--version` is for one")));
    }
    let since = since.ok_or_else(|| {
        Complaint::usage(format!(
            "since when? {place} is no file that could be compared with the version before it"
        ))
        .hint(format!("potluck diff {place} --since 2d"))
        .hint(format!("potluck diff {place} --snapshot NAME"))
    })?;
    tree(home, place, since, terminal)
}

fn is_file(home: &Path, place: &Place) -> Result<bool, Complaint> {
    match files::stat_of(home, &place.clone().into(), Which::Latest) {
        Ok(stat) => Ok(stat.entry.is_some_and(|entry| entry.kind == Kind::File)),
        // It may have been there.
        Err(complaint) if complaint.kind == crate::complaint::Kind::NotFound => Ok(false),
        Err(complaint) => Err(complaint),
    }
}

/// The moment that a snapshot is of.
fn moment(home: &Path, place: &Place, name: &str) -> Result<Timestamp, Complaint> {
    let (name, mut found) = (snapshot::parsed(name.to_owned())?, None);
    let space = place.space.clone();
    client::pages::<SnapshotInfo>(home, &Request::Snapshots { space }, |page| {
        found = found.or(page.iter().find(|info| info.name == name).map(|info| info.at));
        match found {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        }
    })?;
    found.ok_or_else(|| potluck_node::NodeError::NoSuchSnapshot(name).into())
}

fn tree(home: &Path, place: &Place, since: Timestamp, terminal: Terminal) -> Result<(), Complaint> {
    let request = Request::Differences {
        space: place.space.clone(),
        path: place.path.clone(),
        since,
    };
    let (mut rows, mut is_empty) = (Vec::new(), true);
    client::pages::<Difference>(home, &request, |page| {
        is_empty &= page.is_empty();
        match terminal.json {
            true => page.iter().for_each(|differing| terminal.value(differing)),
            false => rows.extend(page.iter().map(|differing| row(place, differing))),
        }
        if rows.len() >= ROWS_TOGETHER {
            terminal.line(&table(&std::mem::take(&mut rows)));
        }
        ControlFlow::Continue(())
    })?;
    if !rows.is_empty() {
        terminal.line(&table(&rows));
    }
    if is_empty {
        terminal.note(&format!("Nothing of {place} has changed since {since}."));
    }
    Ok(())
}

fn row(place: &Place, differing: &Difference) -> Vec<String> {
    let size = |bytes: Option<u64>| bytes.map_or_else(String::new, |bytes| ByteSize(bytes).to_string());
    let path = place.at(&differing.path);
    let (what, sizes, path) = match &differing.what {
        Differing::Added => ("added", size(differing.now), path.to_string()),
        Differing::Removed => ("removed", size(differing.before), path.to_string()),
        Differing::Changed => (
            "changed",
            format!("{} -> {}", size(differing.before), size(differing.now)),
            path.to_string(),
        ),
        Differing::Moved { from } => ("moved", size(differing.now), format!("{} -> {path}", place.at(from))),
    };
    vec![what.to_owned(), differing.at.to_string(), sizes, path]
}

fn file(
    home: &Path,
    place: &Place,
    since: Option<Timestamp>,
    wish: &cli::Diff,
    terminal: Terminal,
) -> Result<(), Complaint> {
    let base = match (wish.version, since) {
        (Some(version), _) => Base {
            which: Which::Version(version),
            told: format!("version {version}"),
        },
        (None, Some(since)) => Base {
            which: Which::At(since),
            told: since.to_string(),
        },
        (None, None) => before(home, place)?,
    };
    let spot = Spot::from(place.clone());
    let old = get::bytes(home, &spot, base.which, TEXT_BYTES_MAX)?;
    let new = get::bytes(home, &spot, Which::Latest, TEXT_BYTES_MAX)?;
    let lines = match (&old.text(), &new.text()) {
        (Some(old), Some(new)) => {
            let mut diff = TextDiff::configure();
            let diff = diff.timeout(PATIENCE).diff_lines(*old, *new);
            let text = diff
                .unified_diff()
                .context_radius(CONTEXT)
                .header(&format!("{place} ({})", base.told), &format!("{place} (now)"))
                .to_string();
            Some(text)
        }
        _ => None,
    };
    if terminal.json {
        terminal.value(&InLines {
            path: &place.path,
            before: old.len,
            now: new.len,
            diff: lines,
        });
        return Ok(());
    }
    match lines {
        Some(lines) if lines.is_empty() => terminal.note(&format!("{place} is the same as {}.", base.told)),
        Some(lines) => terminal.line(lines.trim_end_matches('\n')),
        None => terminal.line(&format!(
            "{place}: {} ({}), {} now; not text, or longer than {}, so not compared line by line.",
            ByteSize(old.len),
            base.told,
            ByteSize(new.len),
            ByteSize(TEXT_BYTES_MAX)
        )),
    }
    Ok(())
}

/// The version before the one that a file has.
fn before(home: &Path, place: &Place) -> Result<Base, Complaint> {
    let request = Request::Versions {
        space: place.space.clone(),
        path: place.path.clone(),
    };
    let mut versions: Vec<Version> = Vec::new();
    client::pages::<Version>(home, &request, |page| {
        versions.extend(page);
        ControlFlow::Continue(())
    })?;
    let is_earlier = |version: &&Version| version.state != VersionState::Latest && version.kind == Kind::File;
    let earlier = versions.iter().filter(is_earlier).max_by_key(|version| version.stored);
    let Some(version) = earlier else {
        return Err(
            Complaint::failed(format!("there is no other version of {place}")).hint(format!(
                "{} is kept: potluck versions {place}",
                count(versions.len() as u64, "version")
            )),
        );
    };
    Ok(Base {
        which: Which::Version(version.id),
        told: format!(
            "version {} of {}, {}",
            version.id,
            version.stored,
            escape(&version.machine)
        ),
    })
}
