//! `potluck put`: local files, streamed to the daemon without waiting for each.
//!
//! One thread walks the files and sends them, another adds up how much there is, and the caller's listens to how far it is.

use super::failure::{self, Failure};
use crate::{
    cli::Put,
    complaint::Complaint,
    interrupt,
    local::{
        client::{self, Sender},
        frame::FrameKind,
        message::{PutFailed, PutItem, PutProgress, Request, SMALL_FILE_BYTES_MAX},
    },
    place::{Place, escape},
    terminal::{Progress, Terminal, count, rate, seconds},
};
use potluck_node::{FileMeta, PutOptions, PutReport};
use potluck_spaces::{Name, Path as SpacePath};
use potluck_types::{ByteSize, Clock, SpaceName, SystemClock, Timestamp};
use serde::Serialize;
use std::{
    collections::HashMap,
    fs::{self, File, FileType, Metadata},
    io::{self, Read, Seek},
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, UNIX_EPOCH},
};

/// Bytes that are read at once from a large file.
const READ_BYTES: usize = 1 << 20;
/// Links and devices that are told one by one; the rest is counted.
const SKIPPED_TOLD_MAX: usize = 20;

/// What is put, and where.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// The local file or folder; standard input when none.
    pub(crate) local: Option<PathBuf>,
    /// Its place in the space.
    pub(crate) path: SpacePath,
}

/// Something local that a space has none of.
#[derive(Debug, Serialize)]
pub(crate) struct Skipped {
    /// Which.
    path: String,
    /// What it is.
    kind: &'static str,
}

/// What came of a put.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    /// What the node says.
    #[serde(flatten)]
    pub(crate) report: PutReport,
    /// What could not be put.
    pub(crate) failed: Vec<Failure>,
    /// What was left out.
    pub(crate) skipped: Vec<Skipped>,
    /// How long it took.
    pub(crate) seconds: f64,
}

/// `potluck put`.
pub(super) fn run(home: &Path, put: &Put, terminal: Terminal) -> Result<(), Complaint> {
    let sources = sources(put)?;
    refuse_nothing(&sources)?;
    interrupt::on_interrupt(move || {
        terminal.note("\nInterrupted. The same command again goes on where this one ended.");
    });
    let outcome = terminal.insist(|confirmed| {
        let options = PutOptions {
            survive: put.survive,
            strict: put.strict,
            confirmed,
        };
        send(home, &put.place.space, &sources, options, &put.exclude, terminal)
    })?;
    if let [only] = &outcome.failed[..]
        && outcome.report.files == 0
        && outcome.skipped.is_empty()
    {
        return Err(only.complaint.clone());
    }
    for Skipped { path, kind } in outcome.skipped.iter().take(SKIPPED_TOLD_MAX) {
        terminal.note(&format!("skipped {kind} {}", escape(path)));
    }
    failure::tell(&outcome.failed, terminal);
    terminal.result(&outcome, || {
        if terminal.quiet {
            String::new()
        } else {
            summary(&outcome, &put.place, &sources)
        }
    });
    match outcome.failed.len() as u64 {
        0 => Ok(()),
        failed => Err(Complaint::failed(format!("{} could not be put", count(failed, "file")))
            .hint("the same command again stores what is missing, and sends nothing twice")),
    }
}

/// Where each path goes.
fn sources(put: &Put) -> Result<Vec<Source>, Complaint> {
    if put.exact && put.paths.len() > 1 {
        return Err(Complaint::usage("`-T` takes one PATH, and there are several"));
    }
    let source = |local: &PathBuf| {
        if local == Path::new("-") {
            if put.paths.len() > 1 {
                return Err(Complaint::usage(
                    "standard input is put alone, and there are several PATHs",
                ));
            }
            if put.place.is_directory {
                return Err(unnamed("standard input", &put.place));
            }
            return Ok(Source {
                local: None,
                path: put.place.path.clone(),
            });
        }
        let real = fs::canonicalize(local).map_err(|error| Complaint::io("cannot read", local, &error))?;
        if put.exact && put.place.is_directory && !real.is_dir() {
            return Err(unnamed(&local.display().to_string(), &put.place));
        }
        if put.exact {
            return Ok(Source {
                local: Some(real),
                path: put.place.path.clone(),
            });
        }
        // A link is followed when it is named, and keeps its own name.
        let named = local.file_name().or(real.file_name());
        let named = named.ok_or_else(|| {
            Complaint::usage(format!("{} has no name", local.display()))
                .hint("`-T` puts its content under the place itself")
        })?;
        Ok(Source {
            path: put.place.path.join(name_of(named)?),
            local: Some(real),
        })
    };
    let sources: Vec<Source> = put.paths.iter().map(source).collect::<Result<_, _>>()?;
    let mut places = HashMap::new();
    for Source { local, path } in &sources {
        let local = local.as_deref().unwrap_or(Path::new("-"));
        if let Some(other) = places.insert(path, local) {
            let message = format!(
                "{} and {} would both be {}",
                other.display(),
                local.display(),
                put.place.at(path)
            );
            return Err(
                Complaint::usage(message).hint("put them one after the other, each into a directory of its own")
            );
        }
    }
    Ok(sources)
}

fn unnamed(what: &str, place: &Place) -> Complaint {
    let place = place.to_string();
    Complaint::usage(format!("{place} is a directory: {what} needs a name in it"))
        .hint(format!("write `{}/NAME`", place.trim_end_matches('/')))
}

/// When nothing of what was named can be put, that is a failure and no empty success.
fn refuse_nothing(sources: &[Source]) -> Result<(), Complaint> {
    let special_source = |source: &Source| {
        let local = source.local.as_deref()?;
        let kind = special(fs::symlink_metadata(local).ok()?.file_type())?;
        Some(format!("{} is a {kind}", local.display()))
    };
    let Some(all) = sources.iter().map(special_source).collect::<Option<Vec<_>>>() else {
        return Ok(());
    };
    let complaint = Complaint::failed(format!("nothing was put: {}", all.join(", ")));
    Err(complaint
        .hint("a space keeps files and folders")
        .hint("what a pipe or device gives: `potluck put - home:/NAME < PIPE`"))
}

/// What it is, if it is neither file nor folder.
pub(super) fn special(kind: FileType) -> Option<&'static str> {
    if kind.is_file() || kind.is_dir() {
        None
    } else if kind.is_symlink() {
        Some("link")
    } else if kind.is_fifo() {
        Some("pipe")
    } else if kind.is_socket() {
        Some("socket")
    } else {
        Some("device")
    }
}

fn name_of(name: &std::ffi::OsStr) -> Result<Name, Complaint> {
    let text = name
        .to_str()
        .ok_or_else(|| Complaint::failed("the name is not UTF-8").hint("rename it"))?;
    Name::try_from(text.to_owned()).map_err(|error| Complaint::failed(error.to_string()))
}

fn summary(outcome: &Outcome, place: &Place, sources: &[Source]) -> String {
    let report = &outcome.report;
    let time = Duration::from_secs_f64(outcome.seconds);
    let called = match sources {
        [one] => format!(" as {}", place.at(&one.path)),
        _ => String::new(),
    };
    if report.files == 0 && !outcome.failed.is_empty() {
        return "Nothing was put.".to_owned();
    }
    let mut text = format!(
        "Put {}{called}: {} in {} ({}). It survives {}.",
        count(report.files, "file"),
        ByteSize(report.bytes),
        seconds(time),
        rate(report.bytes, time),
        count(report.survives.into(), "lost machine"),
    );
    if report.deduplicated > 0 {
        text.push_str(&format!(
            "\n{} of it were stored already.",
            ByteSize(report.deduplicated)
        ));
    }
    if report.survives < report.wanted {
        text.push_str(&format!(
            "\nIt is to survive {}, and will once it is mended and the machines for that are here: `potluck status` shows how far that is.",
            report.wanted
        ));
    } else if report.degraded > 0 {
        text.push_str(&format!(
            "\n{} lie on fewer machines than wanted, and will be mended first: `potluck status` shows it.",
            count(report.degraded, "stripe")
        ));
    }
    if !outcome.skipped.is_empty() {
        text.push_str(&format!(
            "\nSkipped {}: a space keeps files and folders, no links, pipes, sockets or devices.",
            outcome.skipped.len()
        ));
    }
    text
}

/// What the threads of a put share.
#[derive(Default)]
struct Shared {
    total: AtomicU64,
    skipped: Mutex<Vec<Skipped>>,
    failed: Mutex<Vec<Failure>>,
    over: AtomicBool,
    /// The small file that is being read: one that is not of a disk may block.
    reading: Mutex<Option<PathBuf>>,
}

/// Sends files to the daemon of a home, and waits until they are durable.
pub(crate) fn send(
    home: &Path,
    space: &SpaceName,
    sources: &[Source],
    options: PutOptions,
    exclude: &[String],
    terminal: Terminal,
) -> Result<Outcome, Complaint> {
    let (sender, mut receiver) = client::open(
        home,
        &Request::Put {
            space: space.clone(),
            options,
        },
    )?;
    let shared = Shared::default();
    let is_known = sources.iter().all(|source| source.local.is_some());
    let mut progress = terminal.progress("storing", is_known.then_some(0));
    let report = thread::scope(|scope| {
        let walk = Walk {
            shared: &shared,
            exclude,
        };
        scope.spawn(move || {
            sources
                .iter()
                .try_for_each(|source| walk.measure(source.local.as_deref()?))
        });
        scope.spawn(move || walk.send_all(sender, sources));
        let report = listen(&mut receiver, &shared, is_known, &mut progress);
        shared.over.store(true, Ordering::Relaxed);
        if report.is_err() {
            receiver.hang_up();
        }
        report
    })?;
    let seconds = progress.done().as_secs_f64();
    Ok(Outcome {
        report,
        failed: shared.failed.into_inner().unwrap_or_default(),
        skipped: shared.skipped.into_inner().unwrap_or_default(),
        seconds,
    })
}

fn listen(
    receiver: &mut client::Receiver,
    shared: &Shared,
    is_known: bool,
    progress: &mut Progress,
) -> Result<PutReport, Complaint> {
    loop {
        let frame = receiver.frame()?;
        match frame.kind {
            FrameKind::Item => {
                let at: PutProgress = frame.json().map_err(|error| client::lost(&error))?;
                if is_known {
                    progress.of(shared.total.load(Ordering::Relaxed).max(at.bytes));
                }
                progress.at(at.bytes, &besides(&at, shared, progress));
            }
            FrameKind::Failed => {
                let PutFailed { path, complaint } = frame.json().map_err(|error| client::lost(&error))?;
                shared.fail(path.to_string(), complaint);
            }
            FrameKind::Reply => return frame.json().map_err(|error| client::lost(&error)),
            other => return Err(client::unexpected(other)),
        }
    }
}

/// Files so far; when nothing moves, also what is waited for.
fn besides(at: &PutProgress, shared: &Shared, progress: &Progress) -> String {
    let files = count(at.files, "file");
    let Some(still) = progress.still() else { return files };
    let still = seconds(still);
    let here = shared.reading.lock().ok().and_then(|reading| reading.clone());
    match (here, &at.reading) {
        (Some(local), _) => format!(
            "{files}; {} has given no byte for {still}",
            escape(&local.display().to_string())
        ),
        (None, Some(path)) => format!(
            "{files}; nothing has moved for {still}, in {}",
            escape(&path.to_string())
        ),
        (None, None) => format!("{files}; nothing has moved for {still}"),
    }
}

impl Shared {
    fn skip(&self, path: &Path, kind: &'static str) {
        if let Ok(mut skipped) = self.skipped.lock() {
            let path = path.display().to_string();
            skipped.push(Skipped { path, kind });
        }
    }

    fn read(&self, local: Option<&Path>) {
        if let Ok(mut reading) = self.reading.lock() {
            *reading = local.map(Path::to_owned);
        }
    }

    fn fail(&self, path: String, complaint: Complaint) {
        if let Ok(mut failed) = self.failed.lock() {
            failed.push(Failure { path, complaint });
        }
    }
}

/// A walk over local files.
#[derive(Clone, Copy)]
struct Walk<'a> {
    shared: &'a Shared,
    exclude: &'a [String],
}

impl Walk<'_> {
    /// Adds up the bytes below; ends early when the put is over.
    fn measure(self, local: &Path) -> Option<()> {
        if self.shared.over.load(Ordering::Relaxed) {
            return None;
        }
        // What cannot be read is told by who sends it.
        let Ok(metadata) = fs::symlink_metadata(local) else {
            return Some(());
        };
        if metadata.is_file() {
            self.shared.total.fetch_add(metadata.len(), Ordering::Relaxed);
        } else if metadata.is_dir() {
            for below in fs::read_dir(local).into_iter().flatten().flatten() {
                if !self.is_excluded(&below.file_name()) {
                    self.measure(&below.path())?;
                }
            }
        }
        Some(())
    }

    /// When the daemon goes away, who listens to it knows why.
    fn send_all(self, mut sender: Sender, sources: &[Source]) {
        let mut send = || -> io::Result<()> {
            for source in sources {
                match &source.local {
                    Some(local) => self.send(&mut sender, local, &source.path)?,
                    None => send_input(&mut sender, &source.path)?,
                }
            }
            sender.end()?;
            sender.flush()
        };
        if let Err(error) = send() {
            tracing::debug!(%error, "the daemon takes no more");
        }
    }

    /// In order of names, so that a tree is put the same way each time.
    fn send(self, sender: &mut Sender, local: &Path, path: &SpacePath) -> io::Result<()> {
        let failed = |complaint| self.shared.fail(local.display().to_string(), complaint);
        let metadata = match fs::symlink_metadata(local) {
            Ok(metadata) => metadata,
            Err(error) => {
                failed(Complaint::io("cannot look at", local, &error));
                return Ok(());
            }
        };
        if metadata.is_file() {
            return self.send_file(sender, local, path);
        }
        if let Some(kind) = special(metadata.file_type()) {
            self.shared.skip(local, kind);
            return Ok(());
        }
        if !path.names().is_empty() {
            sender.json(FrameKind::Item, &PutItem::Directory(path.clone()))?;
        }
        let entries = fs::read_dir(local).and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
        let mut names: Vec<std::ffi::OsString> = match entries {
            Ok(names) => names,
            Err(error) => {
                failed(Complaint::io("cannot read", local, &error));
                return Ok(());
            }
        };
        names.sort();
        for name in names.iter().filter(|name| !self.is_excluded(name)) {
            match name_of(name) {
                Ok(as_name) => self.send(sender, &local.join(name), &path.join(as_name))?,
                Err(complaint) => self.shared.fail(local.join(name).display().to_string(), complaint),
            }
        }
        Ok(())
    }

    /// A file that cannot be read is left out; one that fails half-way is taken back.
    fn send_file(self, sender: &mut Sender, local: &Path, path: &SpacePath) -> io::Result<()> {
        let failed = |error| {
            let complaint = Complaint::io("cannot read", local, &error);
            self.shared.fail(local.display().to_string(), complaint);
        };
        let opened = File::open(local).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, mut file) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                failed(error);
                return Ok(());
            }
        };
        let meta = meta_of(&metadata);
        let begin = |sender: &mut Sender, len| {
            let (path, meta) = (path.clone(), meta.clone());
            let len = Some(len);
            sender.json(FrameKind::Item, &PutItem::File { path, meta, len })
        };
        if metadata.len() <= SMALL_FILE_BYTES_MAX {
            let mut head = Vec::with_capacity(usize::try_from(metadata.len() + 1).unwrap_or(0));
            self.shared.read(Some(local));
            let read = file.by_ref().take(SMALL_FILE_BYTES_MAX + 1).read_to_end(&mut head);
            self.shared.read(None);
            if let Err(error) = read {
                failed(error);
                return Ok(());
            }
            let len = head.len() as u64;
            if len <= SMALL_FILE_BYTES_MAX {
                begin(sender, len)?;
                sender.data(&head)?;
                return sender.end();
            }
            // It grew meanwhile.
            if let Err(error) = file.rewind() {
                failed(error);
                return Ok(());
            }
        }
        begin(sender, metadata.len().max(SMALL_FILE_BYTES_MAX + 1))?;
        sender.handle(&file)
    }

    fn is_excluded(self, name: &std::ffi::OsStr) -> bool {
        self.exclude.iter().any(|excluded| name == excluded.as_str())
    }
}

/// Standard input; when it cannot be read, the daemon is told to forget the file, and says so to who listens.
fn send_bytes(sender: &mut Sender, file: &mut impl Read) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return sender.end(),
            Ok(len) => sender.data(&buffer[..len])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return sender.json(
                    FrameKind::Failed,
                    &Complaint::failed(format!("it cannot be read: {error}")),
                );
            }
        }
    }
}

fn send_input(sender: &mut Sender, path: &SpacePath) -> io::Result<()> {
    let meta = FileMeta {
        modified: SystemClock.now(),
        executable: false,
    };
    sender.json(
        FrameKind::Item,
        &PutItem::File {
            path: path.clone(),
            meta,
            len: None,
        },
    )?;
    send_bytes(sender, &mut io::stdin().lock())
}

/// What a space keeps of a local file.
pub(crate) fn meta_of(metadata: &Metadata) -> FileMeta {
    FileMeta {
        modified: modified(metadata),
        executable: metadata.permissions().mode() & 0o100 != 0,
    }
}

/// When a local file was last changed. Nothing is older than 1970.
pub(crate) fn modified(metadata: &Metadata) -> Timestamp {
    let since = metadata
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
