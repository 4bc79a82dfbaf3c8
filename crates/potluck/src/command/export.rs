//! `potluck export`: all that a space holds about a path, in a folder: the files, their earlier versions, and who did what to them, who could read them, and where they are.

use super::{
    access,
    failure::{self, Failure},
    files,
    get::{self, Parts, Target},
};
use crate::{
    complaint::{Complaint, Kind as ComplaintKind},
    config::Settings,
    interrupt,
    local::{client, message::Request},
    place::{Place, Spot},
    terminal::{Terminal, count},
};
use potluck_node::{
    Did, ExplainOptions, Explanation, Kind, LinkInfo, Member, SnapshotInfo, SpaceInfo, Trashed, Verified, Version,
    VersionState, Which,
};
use potluck_spaces::Path as SpacePath;
use potluck_types::{ByteSize, Clock, Hash, SystemClock, Timestamp};
use serde::Serialize;
use std::{
    collections::HashSet,
    fs::{self, File},
    io::{BufWriter, Write},
    ops::ControlFlow,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// What came of it.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    /// Files that are there now.
    files: u64,
    /// Earlier versions.
    versions: u64,
    /// Bytes of both.
    bytes: u64,
    /// Changes that were told.
    changes: u64,
    /// Changes of who may read and write that were told.
    access: u64,
    /// What could not be fetched.
    failed: Vec<Failure>,
}

/// What `about.json` says.
#[derive(Serialize)]
struct About<'a> {
    place: String,
    exported: Timestamp,
    space: &'a SpaceInfo,
    /// Who may read it now.
    members: &'a [Member],
    /// What was found of the history.
    history: &'a Verified,
    /// Where the data is, if it is there now.
    #[serde(rename = "where")]
    explanation: Option<&'a Explanation>,
}

/// An export under way.
struct Export<'a> {
    home: &'a Path,
    place: &'a Place,
    folder: &'a Path,
    fsync: bool,
    parts: Parts,
    terminal: Terminal,
    outcome: Outcome,
}

/// `potluck export`.
pub(super) fn run(home: &Path, place: &Place, folder: &Path, terminal: Terminal) -> Result<(), Complaint> {
    if folder.exists() && !folder.is_dir() {
        return Err(Complaint::usage(format!("{} is no folder", folder.display())).hint("name a new folder"));
    }
    if fs::read_dir(folder).is_ok_and(|mut there| there.next().is_some()) {
        return Err(Complaint::usage(format!("{} is not empty", folder.display()))
            .hint("name a new folder; what an export has left that broke off has no README.txt, and can be removed"));
    }
    refuse_unknown(home, place)?;
    make(folder)?;
    // Who could read it in the space could; others of this machine could not.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
        .map_err(|error| Complaint::io("cannot close to others", folder, &error))?;
    let parts = Parts::default();
    interrupt::on_interrupt({
        let parts = parts.clone();
        move || parts.remove_all()
    });
    let mut export = Export {
        home,
        place,
        folder,
        fsync: Settings::effective(Settings::default(), home)?.fsync.unwrap_or(true),
        parts,
        terminal,
        outcome: Outcome::default(),
    };
    export.all()?;
    let outcome = export.outcome;
    failure::tell(&outcome.failed, terminal);
    terminal.result(&outcome, || {
        if terminal.quiet {
            return String::new();
        }
        format!(
            "Exported {place} into {}: {} and {}, {}; {} and {} of who may read it. Begin with {}.",
            folder.display(),
            count(outcome.files, "file"),
            count(outcome.versions, "earlier version"),
            ByteSize(outcome.bytes),
            count(outcome.changes, "change"),
            count(outcome.access, "change"),
            folder.join("README.txt").display()
        )
    });
    failure::sum_up(outcome.failed, "exported")
}

/// Refuses what is not there, and never was, as far as anybody has it.
fn refuse_unknown(home: &Path, place: &Place) -> Result<(), Complaint> {
    let complaint = match files::stat_of(home, &Spot::from(place.clone()), Which::Latest) {
        Ok(_) => return Ok(()),
        Err(complaint) if complaint.kind == ComplaintKind::NotFound => complaint,
        Err(complaint) => return Err(complaint),
    };
    let trash = Request::Trash {
        space: place.space.clone(),
        path: place.path.clone(),
    };
    let mut was_there = false;
    client::pages::<Trashed>(home, &trash, |page| {
        was_there |= !page.is_empty();
        ControlFlow::Break(())
    })?;
    match was_there {
        true => Ok(()),
        false => Err(complaint),
    }
}

fn make(folder: &Path) -> Result<(), Complaint> {
    fs::create_dir_all(folder).map_err(|error| Complaint::io("cannot make the folder", folder, &error))
}

/// A file that gets one JSON document a line.
struct Lines {
    path: PathBuf,
    file: BufWriter<File>,
    count: u64,
    failed: Option<std::io::Error>,
}

impl Lines {
    fn create(path: PathBuf) -> Result<Self, Complaint> {
        let file = File::create(&path).map_err(|error| Complaint::io("cannot write", &path, &error))?;
        Ok(Self {
            path,
            file: BufWriter::new(file),
            count: 0,
            failed: None,
        })
    }

    fn add(&mut self, value: &impl Serialize) {
        if self.failed.is_some() {
            return;
        }
        self.count += 1;
        let written = serde_json::to_writer(&mut self.file, value).map_err(std::io::Error::from);
        self.failed = written.and_then(|()| self.file.write_all(b"\n")).err();
    }

    fn end(mut self) -> Result<u64, Complaint> {
        let ended = match self.failed {
            Some(error) => Err(error),
            None => self.file.flush().and_then(|()| self.file.get_ref().sync_all()),
        };
        ended.map_err(|error| Complaint::io("cannot write", &self.path, &error))?;
        Ok(self.count)
    }
}

/// A value with the path that it is of.
#[derive(Serialize)]
struct OfPath<'a, T> {
    path: &'a SpacePath,
    #[serde(flatten)]
    value: &'a T,
}

impl Export<'_> {
    fn all(&mut self) -> Result<(), Complaint> {
        let (home, place) = (self.home, self.place);
        let space = place.space.clone();
        let info: SpaceInfo = client::call(home, &Request::SpaceInfo { name: space.clone() })?;
        self.files()?;
        self.versions()?;
        self.outcome.changes = self.lines::<Did>(
            "log.jsonl",
            &Request::Log {
                space: space.clone(),
                path: place.path.clone(),
                since: Timestamp::default(),
            },
        )?;
        let mut access = Lines::create(self.folder.join("access.jsonl"))?;
        access::events(home, &space, |event| access.add(event))?;
        self.outcome.access = access.end()?;
        let here = place.path.to_string();
        // What it is, is in, or has in it.
        let leads_here = |link: &LinkInfo| {
            let is_below =
                |path: &str, above: &str| above == "/" || path == above || path.starts_with(&format!("{above}/"));
            link.path
                .as_ref()
                .is_none_or(|path| is_below(path, &here) || is_below(&here, path))
        };
        let mut links = Lines::create(self.folder.join("links.jsonl"))?;
        client::pages::<LinkInfo>(home, &Request::Links { space: space.clone() }, |page| {
            for link in page.into_iter().filter(&leads_here) {
                // Whoever has its text reads: that is not for a folder that is given away.
                links.add(&LinkInfo { link: None, ..link });
            }
            ControlFlow::Continue(())
        })?;
        links.end()?;
        self.lines::<SnapshotInfo>("snapshots.jsonl", &Request::Snapshots { space: space.clone() })?;
        let members: Vec<Member> = match space.is_home() {
            true => Vec::new(),
            false => client::call(home, &Request::Members { space: space.clone() })?,
        };
        let history: Verified = client::call(home, &Request::Verify { space: space.clone() })?;
        let explain = Request::Explain {
            space,
            path: place.path.clone(),
            options: ExplainOptions::default(),
        };
        let explanation = match client::call::<Explanation>(home, &explain) {
            Ok(explanation) => Some(explanation),
            Err(complaint) if complaint.kind == ComplaintKind::NotFound => None,
            Err(complaint) => return Err(complaint),
        };
        let about = About {
            place: place.to_string(),
            exported: SystemClock.now(),
            space: &info,
            members: &members,
            history: &history,
            explanation: explanation.as_ref(),
        };
        let text = serde_json::to_string_pretty(&about)
            .map_err(|error| Complaint::failed(format!("what it is cannot be written: {error}")))?;
        self.write("about.json", &text)?;
        self.write("README.txt", &readme(&about))
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Complaint> {
        let path = self.folder.join(name);
        fs::write(&path, text).map_err(|error| Complaint::io("cannot write", &path, &error))
    }

    /// Writes what the daemon tells, page by page.
    fn lines<T: Serialize + serde::de::DeserializeOwned>(
        &self,
        name: &str,
        request: &Request,
    ) -> Result<u64, Complaint> {
        let mut lines = Lines::create(self.folder.join(name))?;
        client::pages::<T>(self.home, request, |page| {
            page.iter().for_each(|item| lines.add(item));
            ControlFlow::Continue(())
        })?;
        lines.end()
    }

    fn fetch(&mut self, place: Place, local: PathBuf, which: Which) -> Result<get::Outcome, Complaint> {
        let target = Target {
            place: Spot::from(place),
            local,
            which,
            range: None,
            fsync: self.fsync,
        };
        let outcome = get::fetch(self.home, &target, &self.parts, self.terminal)?;
        self.outcome.bytes += outcome.bytes;
        Ok(outcome)
    }

    /// What is there now.
    fn files(&mut self) -> Result<(), Complaint> {
        let spot = Spot::from(self.place.clone());
        let stat = match files::stat_of(self.home, &spot, Which::Latest) {
            Ok(stat) => stat,
            // It was removed; its versions tell.
            Err(complaint) if complaint.kind == ComplaintKind::NotFound => return Ok(()),
            Err(complaint) => return Err(complaint),
        };
        let file = stat.entry.filter(|entry| entry.kind == Kind::File);
        let folder = self.folder.join("files");
        make(&folder)?;
        let local = match file {
            Some(entry) => folder.join(entry.name.as_str()),
            None => folder,
        };
        let outcome = self.fetch(self.place.clone(), local, Which::Latest)?;
        self.outcome.files = outcome.files;
        self.outcome.failed.extend(outcome.failed);
        Ok(())
    }

    /// All versions of all that is there, or is in the trash.
    fn versions(&mut self) -> Result<(), Complaint> {
        let mut lines = Lines::create(self.folder.join("versions.jsonl"))?;
        let mut seen = HashSet::new();
        let mut paths = Vec::new();
        let mut is_new = |path: &SpacePath| seen.insert(Hash::of(path.to_string().as_bytes()));
        let spot = Spot::from(self.place.clone());
        let listed = files::pages(self.home, &spot, true, |page| {
            for entry in page.entries.iter().filter(|entry| entry.kind == Kind::File) {
                let name = entry.copy_of.as_ref().unwrap_or(&entry.name);
                let path = page.directory.join(name.clone());
                if is_new(&path) {
                    paths.push(path);
                }
            }
            Ok(())
        });
        let trash = Request::Trash {
            space: self.place.space.clone(),
            path: self.place.path.clone(),
        };
        client::pages::<Trashed>(self.home, &trash, |page| {
            for trashed in page {
                if is_new(&trashed.path) {
                    paths.push(trashed.path);
                }
            }
            ControlFlow::Continue(())
        })?;
        match listed {
            Ok(None) => {}
            Ok(Some(lacking)) => self.outcome.failed.push(Failure {
                path: self.place.to_string(),
                complaint: lacking,
            }),
            // It was removed.
            Err(complaint) if complaint.kind == ComplaintKind::NotFound => {}
            Err(complaint) => return Err(complaint),
        }
        for path in paths {
            let request = Request::Versions {
                space: self.place.space.clone(),
                path: path.clone(),
            };
            let mut earlier = Vec::new();
            client::pages::<Version>(self.home, &request, |page| {
                for version in page {
                    lines.add(&OfPath {
                        path: &path,
                        value: &version,
                    });
                    if version.kind == Kind::File && version.state != VersionState::Latest {
                        earlier.push(version.id);
                    }
                }
                ControlFlow::Continue(())
            })?;
            for version in earlier {
                let mut local = self.folder.join("versions");
                path.names().iter().for_each(|name| local.push(name.as_str()));
                make(&local)?;
                local.push(version.to_string());
                match self.fetch(self.place.at(&path), local, Which::Version(version)) {
                    Ok(outcome) => {
                        self.outcome.versions += outcome.files;
                        self.outcome.failed.extend(outcome.failed);
                    }
                    Err(complaint) => self.outcome.failed.push(Failure {
                        path: format!("{}, version {version}", self.place.at(&path)),
                        complaint,
                    }),
                }
            }
        }
        lines.end().map(drop)
    }
}

fn readme(about: &About<'_>) -> String {
    format!(
        "All that the space {} holds about {}, on {}.

files/           what is there now
versions/        what it was before and can still be brought back, by path and version
versions.jsonl   every version: when, by which machine, what became of it
log.jsonl        what was done with it, the latest first
access.jsonl     who could read and write in the space, since when, and who said so
links.jsonl      links to it, to what it is in, and to what is in it; those of other people, too
snapshots.jsonl  the snapshots of the space
about.json       the space, who may read it now, where the data is, and what was found of the history

The history: {} by {}, {}.
Digest: {}
Whoever reads the space gets the same digest from `potluck verify`, as long as nothing was written since.

What was let go of for good is not here: nobody has it.
",
        about.space.name,
        about.place,
        about.exported,
        count(about.history.entries, "entry"),
        count(about.history.machines.len() as u64, "machine"),
        match about.history.problems_count {
            0 => "each signed, in order, and by who was allowed to write".to_owned(),
            problems => format!("with {}: see about.json", count(problems, "problem")),
        },
        about.history.digest
    )
}
