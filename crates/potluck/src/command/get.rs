//! `potluck get`: files from the daemon into the local file system.
//!
//! One thread lists and asks, so that names are ahead of bytes; the caller's receives; a few finish files, so that the disk's syncs overlap. A file
//! is written beside its place and renamed: it is there whole, or not at all.

use super::{
    failure::{self, Failure},
    files,
    put::{modified, special},
};
use crate::{
    complaint::{Complaint, Kind as ComplaintKind},
    config::Settings,
    interrupt,
    local::{
        client::{self, Receiver, Sender},
        frame::FrameKind,
        message::{GetFile, GetItem, Page, Request},
    },
    place::{ByteRange, Spot, escape},
    terminal::{Progress, Terminal, count, rate, seconds},
};
use potluck_node::{Entry, Kind, Which};
use potluck_spaces::Path as SpacePath;
use potluck_types::ByteSize;
use serde::Serialize;
use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, UNIX_EPOCH},
};

/// Files that are asked for ahead of the one that is received.
const ASKED_MAX: usize = 1024;
/// Threads that finish files: as many syncs overlap.
const FINISHERS: usize = 16;
/// Bytes of a file that are kept in memory until it ends; a longer one goes to the disk as it comes.
const IN_MEMORY_BYTES_MAX: usize = 1 << 20;
/// Bytes of a file that are sent to disk together while more of it comes.
const SYNC_BYTES: usize = 32 << 20;
/// What came of a get.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Outcome {
    /// Files fetched.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Files that were there already.
    pub(crate) unchanged: u64,
    /// What is not there.
    pub(crate) failed: Vec<Failure>,
    /// How long it took.
    pub(crate) seconds: f64,
}

/// What to get, and where to.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// A file or directory.
    pub(crate) place: Spot,
    /// Its local place: the file itself, or the folder that gets the directory's content.
    pub(crate) local: PathBuf,
    /// Which version of a file.
    pub(crate) which: Which,
    /// Which bytes; all when none.
    pub(crate) range: Option<ByteRange>,
    /// Whether each file is synced to the disk.
    pub(crate) fsync: bool,
}

/// `potluck get`.
pub(super) fn run(
    home: &Path,
    place: &Spot,
    dest: Option<&Path>,
    (which, range): (Which, Option<ByteRange>),
    terminal: Terminal,
) -> Result<(), Complaint> {
    if dest == Some(Path::new("-")) {
        return print(home, place, which, range);
    }
    let stat = files::stat_of(home, place, which)?;
    let is_file = stat.entry.as_ref().is_some_and(|entry| entry.kind == Kind::File);
    if range.is_some() && !is_file {
        return Err(Complaint::usage(format!(
            "{place} is a directory: `--range` is for one file"
        )));
    }
    if which != Which::Latest && !is_file {
        return Err(Complaint::usage(format!(
            "{place} is a directory: `--at` and `--version` are for one file"
        ))
        .hint(format!(
            "as a whole it comes back with: potluck restore {place} --at TIME"
        )));
    }
    let name = stat
        .entry
        .as_ref()
        .map_or(place.root_name(), |entry| entry.name.as_str());
    let local = match dest {
        None => PathBuf::from(name),
        Some(dest) if is_file && (dest.is_dir() || dest.as_os_str().as_encoded_bytes().ends_with(b"/")) => {
            dest.join(name)
        }
        Some(dest) => dest.to_owned(),
    };
    if is_file {
        make_room(place, &local)?;
    }
    let fsync = Settings::effective(Settings::default(), home)?.fsync.unwrap_or(true);
    let parts = Parts::default();
    interrupt::on_interrupt({
        let parts = parts.clone();
        move || parts.remove_all()
    });
    let target = Target {
        place: place.clone(),
        local,
        which,
        range,
        fsync,
    };
    let outcome = fetch(home, &target, &parts, terminal)?;
    if is_file && let Some(Failure { complaint, .. }) = outcome.failed.first() {
        return Err(complaint.clone());
    }
    failure::tell(&outcome.failed, terminal);
    terminal.result(&outcome, || {
        if terminal.quiet {
            String::new()
        } else {
            summary(&outcome, &target.local)
        }
    });
    failure::sum_up(outcome.failed, "fetched")
        .map_err(|complaint| complaint.hint("the same command again fetches what is missing"))
}

/// Makes the folder that a file goes into. Refuses what it cannot be written to, and what it would replace although that is more than a
/// file: a link, a pipe, a device.
fn make_room(place: &Spot, local: &Path) -> Result<(), Complaint> {
    let folder = local.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder {
        fs::create_dir_all(folder).map_err(|error| Complaint::io("cannot make the folder", folder, &error))?;
    }
    let Ok(there) = fs::symlink_metadata(local) else {
        return Ok(());
    };
    let local = local.display();
    match special(there.file_type()) {
        _ if there.is_dir() => Err(Complaint::failed(format!("{local} is a folder, and a file is fetched"))
            .hint("remove or rename that one first, or name another place")),
        Some(kind) => Err(
            Complaint::failed(format!("{local} is a {kind}, which a file would replace")).hint(format!(
                "write into it from standard output: potluck get {place} - > {local}"
            )),
        ),
        None => Ok(()),
    }
}

/// `potluck cat`. One that is not there does not keep the others.
pub(super) fn cat(home: &Path, places: &[Spot], which: Which, terminal: Terminal) -> Result<(), Complaint> {
    let mut failed = Vec::new();
    for place in places {
        match print(home, place, which, None) {
            Ok(()) => {}
            Err(complaint) if places.len() == 1 || complaint.kind == ComplaintKind::NoDaemon => return Err(complaint),
            Err(complaint) => failed.push(Failure {
                path: place.to_string(),
                complaint,
            }),
        }
    }
    failure::tell(&failed, terminal);
    failure::sum_up(failed, "printed")
}

fn summary(outcome: &Outcome, local: &Path) -> String {
    let time = Duration::from_secs_f64(outcome.seconds);
    let mut text = format!(
        "Got {} into {}: {} in {} ({}).",
        count(outcome.files, "file"),
        local.display(),
        ByteSize(outcome.bytes),
        seconds(time),
        rate(outcome.bytes, time)
    );
    if outcome.unchanged > 0 {
        text.push_str(&format!(
            " {} there already.",
            if outcome.unchanged == 1 {
                "1 was".to_owned()
            } else {
                format!("{} were", outcome.unchanged)
            }
        ));
    }
    text
}

/// To standard output.
fn print(home: &Path, place: &Spot, which: Which, range: Option<ByteRange>) -> Result<(), Complaint> {
    let mut out = io::stdout().lock();
    let failed = |error: io::Error| match error.kind() {
        // Whoever reads has seen enough.
        io::ErrorKind::BrokenPipe => std::process::exit(0),
        _ => Complaint::failed(format!("cannot write to standard output: {error}")),
    };
    receive(home, place, (which, range), |bytes| {
        out.write_all(bytes).map_err(failed)
    })?;
    out.flush().map_err(failed)
}

/// The bytes of a file, as far as they were wanted.
pub(super) struct Bytes {
    /// Its length.
    pub(super) len: u64,
    /// None when it is longer.
    bytes: Option<Vec<u8>>,
}

impl Bytes {
    /// The file, if it is all there and text.
    pub(super) fn text(&self) -> Option<&str> {
        let text = std::str::from_utf8(self.bytes.as_ref()?).ok()?;
        (!text.contains('\0')).then_some(text)
    }
}

/// A file in memory, unless it is longer than that.
pub(super) fn bytes(home: &Path, place: &Spot, which: Which, max: u64) -> Result<Bytes, Complaint> {
    let stat = files::stat_of(home, place, which)?;
    let len = stat.entry.map_or(0, |entry| entry.len);
    if len > max {
        return Ok(Bytes { len, bytes: None });
    }
    let mut all = Vec::new();
    // It may have grown since.
    let range = Some(ByteRange::Span(0, max)).filter(|_| len > 0);
    receive(home, place, (which, range), |bytes| {
        all.extend_from_slice(bytes);
        Ok(())
    })?;
    Ok(Bytes { len, bytes: Some(all) })
}

/// Asks for a file, and takes its bytes as they come.
fn receive(
    home: &Path,
    place: &Spot,
    (which, range): (Which, Option<ByteRange>),
    mut take: impl FnMut(&[u8]) -> Result<(), Complaint>,
) -> Result<(), Complaint> {
    let (mut sender, mut receiver) = client::open(
        home,
        &Request::Get {
            from: place.from.clone(),
        },
    )?;
    let asked = sender.json(
        FrameKind::Item,
        &GetItem {
            path: place.path.clone(),
            which,
            range,
        },
    );
    asked
        .and_then(|()| sender.end())
        .and_then(|()| sender.flush())
        .map_err(|error| client::lost(&error))?;
    loop {
        let frame = receiver.frame()?;
        match frame.kind {
            FrameKind::Data => take(&frame.payload)?,
            FrameKind::Failed => return Err(frame.json().map_err(|error| client::lost(&error))?),
            FrameKind::Item | FrameKind::End => {}
            FrameKind::Reply => return Ok(()),
            other @ (FrameKind::Request | FrameKind::Error | FrameKind::Handle | FrameKind::Hello) => {
                return Err(client::unexpected(other));
            }
        }
    }
}

/// Files that are written and not yet renamed: removed when the person gives up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parts(Arc<Mutex<HashSet<PathBuf>>>);

impl Parts {
    fn add(&self, part: &Path) {
        if let Ok(mut parts) = self.0.lock() {
            parts.insert(part.to_owned());
        }
    }

    fn forget(&self, part: &Path) {
        if let Ok(mut parts) = self.0.lock() {
            parts.remove(part);
        }
    }

    pub(crate) fn remove_all(&self) {
        for part in self.0.lock().iter().flat_map(|parts| parts.iter()) {
            let _ = fs::remove_file(part);
        }
    }
}

/// A file that was asked for.
struct Asked {
    path: SpacePath,
    local: PathBuf,
}

/// What the threads of a get share.
struct Shared<'a> {
    target: &'a Target,
    parts: &'a Parts,
    wanted_bytes: AtomicU64,
    unchanged: AtomicU64,
    /// Files that came, and could not be written to their end.
    unfinished: AtomicU64,
    failed: Mutex<Vec<Failure>>,
}

/// Fetches a file or a tree.
pub(crate) fn fetch(home: &Path, target: &Target, parts: &Parts, terminal: Terminal) -> Result<Outcome, Complaint> {
    let (sender, mut receiver) = client::open(
        home,
        &Request::Get {
            from: target.place.from.clone(),
        },
    )?;
    let shared = Shared {
        target,
        parts,
        wanted_bytes: AtomicU64::new(0),
        unchanged: AtomicU64::new(0),
        unfinished: AtomicU64::new(0),
        failed: Mutex::default(),
    };
    let mut progress = terminal.progress("fetching", Some(0));
    let outcome = thread::scope(|scope| {
        let (asked_sender, asked) = mpsc::sync_channel(ASKED_MAX);
        let shared = &shared;
        // The sender is dropped when all is asked for: so who receives learns of the end.
        let asking = scope.spawn(move || shared.ask(home, sender, &asked_sender));
        let received = shared.receive(scope, &mut receiver, &asked, &mut progress);
        if received.is_err() {
            receiver.hang_up();
        }
        drop(asked);
        let asked = asking
            .join()
            .unwrap_or_else(|_| Err(Complaint::failed("the listing broke off")));
        match (asked, received) {
            // Who stops asking hangs up: then why is nearer to the cause than that the connection ended.
            (Err(asking), Err(receiving)) if receiving.kind == ComplaintKind::NoDaemon => Err(asking),
            (Err(complaint), Ok(_)) | (_, Err(complaint)) => Err(complaint),
            (Ok(()), Ok(outcome)) => Ok(outcome),
        }
    })?;
    let seconds = progress.done().as_secs_f64();
    let failed = shared.failed.into_inner().unwrap_or_default();
    Ok(Outcome {
        files: outcome.files - shared.unfinished.into_inner(),
        unchanged: shared.unchanged.into_inner(),
        failed,
        seconds,
        ..outcome
    })
}

impl Shared<'_> {
    /// Lists what is wanted, and asks for what is not there yet. When that fails, nothing more will come: who receives must not wait for it.
    fn ask(&self, home: &Path, mut sender: Sender, asked: &mpsc::SyncSender<Asked>) -> Result<(), Complaint> {
        let outcome = self.ask_all(home, &mut sender, asked);
        if outcome.is_err() {
            sender.hang_up();
        }
        outcome
    }

    fn ask_all(&self, home: &Path, sender: &mut Sender, asked: &mpsc::SyncSender<Asked>) -> Result<(), Complaint> {
        let target = self.target;
        let lost = |error: io::Error| client::lost(&error);
        let stat = files::stat_of(home, &target.place, target.which)?;
        match stat.entry.filter(|entry| entry.kind == Kind::File) {
            Some(entry) => {
                let len = target
                    .range
                    .map_or(entry.len, |range| range.of(entry.len).end - range.of(entry.len).start);
                self.wanted_bytes.fetch_add(len, Ordering::Relaxed);
                sender
                    .json(
                        FrameKind::Item,
                        &GetItem {
                            path: target.place.path.clone(),
                            which: target.which,
                            range: target.range,
                        },
                    )
                    .map_err(lost)?;
                // Nobody takes it when receiving has failed, and that is told.
                let _ = asked.send(Asked {
                    path: target.place.path.clone(),
                    local: target.local.clone(),
                });
            }
            None => {
                if fs::metadata(&target.local).is_ok_and(|there| !there.is_dir()) {
                    let complaint = format!("{} is a file, and a directory is fetched", target.local.display());
                    return Err(Complaint::failed(complaint).hint("name a folder, or a place where nothing is"));
                }
                fs::create_dir_all(&target.local)
                    .map_err(|error| Complaint::io("cannot make", &target.local, &error))?;
                let lacking = files::pages(home, &target.place, true, |page| {
                    let Some(folder) = self.folder(&page.directory)? else {
                        self.refuse_all(&page);
                        return Ok(());
                    };
                    for entry in &page.entries {
                        let (path, local) = (
                            page.directory.join(entry.name.clone()),
                            folder.join(entry.name.as_str()),
                        );
                        match entry.kind {
                            Kind::Directory => self.make_folder(&path, &local),
                            Kind::File if is_there(&local, entry) => _ = self.unchanged.fetch_add(1, Ordering::Relaxed),
                            Kind::File => {
                                self.wanted_bytes.fetch_add(entry.len, Ordering::Relaxed);
                                sender
                                    .json(
                                        FrameKind::Item,
                                        &GetItem {
                                            path: path.clone(),
                                            which: Which::Latest,
                                            range: None,
                                        },
                                    )
                                    .map_err(lost)?;
                                if asked.send(Asked { path, local }).is_err() {
                                    return Err(Complaint::failed("receiving broke off"));
                                }
                            }
                        }
                    }
                    sender.flush().map_err(lost)
                })?;
                if let Some(complaint) = lacking {
                    self.fail(&target.place.path, complaint);
                }
            }
        }
        sender.end().and_then(|()| sender.flush()).map_err(lost)
    }

    /// The local folder of a directory; none when something else is in its place, which was told then.
    fn folder(&self, directory: &SpacePath) -> Result<Option<PathBuf>, Complaint> {
        let depth = self.target.place.path.names().len();
        let mut folder = self.target.local.clone();
        for name in directory.names().get(depth..).unwrap_or_default() {
            // Checked as the name was made; a slip there must not write outside.
            if matches!(name.as_str(), "." | "..") || name.as_str().contains('/') {
                return Err(Complaint::new(
                    ComplaintKind::Refused,
                    format!("`{}` is no name for a folder", escape(name.as_str())),
                ));
            }
            folder.push(name.as_str());
            if !fs::symlink_metadata(&folder).is_ok_and(|metadata| metadata.is_dir()) {
                return Ok(None);
            }
        }
        Ok(Some(folder))
    }

    /// A link in the place of a folder is not followed: it may lead out of the destination.
    fn make_folder(&self, path: &SpacePath, local: &Path) {
        if fs::symlink_metadata(local).is_ok_and(|metadata| metadata.is_dir()) {
            return;
        }
        if let Err(error) = fs::create_dir(local) {
            self.fail(path, Complaint::io("cannot make", local, &error));
        }
    }

    /// Files whose folder cannot be made.
    fn refuse_all(&self, page: &Page) {
        for entry in page.entries.iter().filter(|entry| entry.kind == Kind::File) {
            let complaint =
                Complaint::failed("something else is where its folder should be").hint("remove or rename that first");
            self.fail(&page.directory.join(entry.name.clone()), complaint);
        }
    }

    fn fail(&self, path: &SpacePath, complaint: Complaint) {
        if let Ok(mut failed) = self.failed.lock() {
            failed.push(Failure {
                path: path.to_string(),
                complaint,
            });
        }
    }

    fn receive<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
        receiver: &mut Receiver,
        asked: &mpsc::Receiver<Asked>,
        progress: &mut Progress,
    ) -> Result<Outcome, Complaint> {
        let (jobs, next_job) = mpsc::sync_channel::<(SpacePath, Part)>(FINISHERS);
        let next_job = Arc::new(Mutex::new(next_job));
        for _ in 0..FINISHERS {
            let next_job = Arc::clone(&next_job);
            scope.spawn(move || {
                while let Some((path, part)) = next_job.lock().ok().and_then(|jobs| jobs.recv().ok()) {
                    if let Err(complaint) = part.finish(self) {
                        self.unfinished.fetch_add(1, Ordering::Relaxed);
                        self.fail(&path, complaint);
                    }
                }
            });
        }
        // One at a time: a file that comes while another is on its way to disk is synced with its next bytes.
        let (syncs, next_sync) = mpsc::sync_channel::<File>(0);
        scope.spawn(move || next_sync.into_iter().for_each(|file| drop(file.sync_data())));
        let mut outcome = Outcome::default();
        while let Ok(Asked { path, local }) = asked.recv() {
            match self.receive_file(receiver, local, &syncs, &mut outcome, progress)? {
                Ok(part) => {
                    outcome.files += 1;
                    jobs.send((path, part))
                        .map_err(|_| Complaint::failed("the files could not be finished"))?;
                }
                Err(complaint) => self.fail(&path, complaint),
            }
        }
        receiver.reply::<()>().map(|()| outcome)
    }

    /// One file. The inner complaint is about this file alone.
    fn receive_file(
        &self,
        receiver: &mut Receiver,
        local: PathBuf,
        syncs: &mpsc::SyncSender<File>,
        outcome: &mut Outcome,
        progress: &mut Progress,
    ) -> Result<Result<Part, Complaint>, Complaint> {
        let frame = receiver.frame()?;
        let json_lost = |error: io::Error| client::lost(&error);
        let file: GetFile = match frame.kind {
            FrameKind::Item => frame.json().map_err(json_lost)?,
            FrameKind::Failed => return Ok(Err(frame.json().map_err(json_lost)?)),
            other => return Err(client::unexpected(other)),
        };
        let mut part = Ok(Part {
            local,
            entry: file.entry,
            content: Vec::new(),
            file: None,
            unsynced: 0,
        });
        let mut received = 0;
        loop {
            let frame = receiver.frame()?;
            match frame.kind {
                FrameKind::Data => {
                    received += frame.payload.len() as u64;
                    outcome.bytes += frame.payload.len() as u64;
                    progress.of(self.wanted_bytes.load(Ordering::Relaxed));
                    progress.at(outcome.bytes, &count(outcome.files, "file"));
                    if let Ok(good) = &mut part {
                        match good.write(&frame.payload, self) {
                            Ok(()) => good.hasten(syncs, self),
                            // The rest of it is passed over.
                            Err(complaint) => part = Err(complaint),
                        }
                    }
                }
                FrameKind::End if received == file.len => return Ok(part),
                FrameKind::End => return Ok(Err(Complaint::failed(format!("{received} of {} bytes came", file.len)))),
                FrameKind::Failed => {
                    if let Ok(part) = part {
                        part.give_up(self);
                    }
                    return Ok(Err(frame.json().map_err(json_lost)?));
                }
                other => return Err(client::unexpected(other)),
            }
        }
    }
}

/// Whether a file was fetched before: one with this size and time is taken for the same.
fn is_there(local: &Path, entry: &Entry) -> bool {
    fs::symlink_metadata(local)
        .is_ok_and(|there| there.is_file() && there.len() == entry.len && modified(&there) == entry.modified)
}

/// A file that is being written.
struct Part {
    local: PathBuf,
    entry: Entry,
    content: Vec<u8>,
    file: Option<(File, PathBuf)>,
    /// Bytes that were written since it was sent to disk.
    unsynced: usize,
}

impl Part {
    fn write(&mut self, bytes: &[u8], shared: &Shared<'_>) -> Result<(), Complaint> {
        if self.file.is_none() && self.content.len() + bytes.len() <= IN_MEMORY_BYTES_MAX {
            self.content.extend_from_slice(bytes);
            return Ok(());
        }
        self.unsynced += bytes.len();
        let written = self.open(shared).and_then(|file| file.write_all(bytes));
        written.map_err(|error| {
            self.remove(shared);
            Complaint::io("cannot write", &self.local, &error)
        })
    }

    /// Sends what was written to disk while more of it comes, so that the sync at its end has little left to wait for. It is that one which
    /// tells of errors: with a handle of its own, this one takes none from it.
    fn hasten(&mut self, syncs: &mpsc::SyncSender<File>, shared: &Shared<'_>) {
        if shared.target.fsync
            && self.unsynced >= SYNC_BYTES
            && let Some((_, part)) = &self.file
            && File::open(part).is_ok_and(|file| syncs.try_send(file).is_ok())
        {
            self.unsynced = 0;
        }
    }

    fn finish(mut self, shared: &Shared<'_>) -> Result<(), Complaint> {
        let finished = self.try_finish(shared);
        if finished.is_err() {
            self.remove(shared);
        }
        finished.map_err(|error| Complaint::io("cannot write", &self.local, &error))
    }

    fn try_finish(&mut self, shared: &Shared<'_>) -> io::Result<()> {
        let modified = UNIX_EPOCH + Duration::from_millis(self.entry.modified.as_millis());
        let file = self.open(shared)?;
        file.set_modified(modified)?;
        if shared.target.fsync {
            file.sync_all()?;
        }
        if let Some((_, part)) = &self.file {
            fs::rename(part, &self.local)?;
            shared.parts.forget(part);
        }
        Ok(())
    }

    /// The file beside, with what was kept in memory.
    fn open(&mut self, shared: &Shared<'_>) -> io::Result<&mut File> {
        if self.file.is_none() {
            static NUMBER: AtomicU64 = AtomicU64::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let part = self
                .local
                .with_file_name(format!(".potluck-{}-{number}.part", std::process::id()));
            let mode = if self.entry.executable { 0o777 } else { 0o666 };
            shared.parts.add(&part);
            let file = OpenOptions::new().create_new(true).write(true).mode(mode).open(&part)?;
            self.file
                .insert((file, part))
                .0
                .write_all(&std::mem::take(&mut self.content))?;
        }
        match &mut self.file {
            Some((file, _)) => Ok(file),
            None => Err(io::Error::other("the file beside is not open")),
        }
    }

    fn give_up(mut self, shared: &Shared<'_>) {
        self.remove(shared);
    }

    fn remove(&mut self, shared: &Shared<'_>) {
        if let Some((_, part)) = self.file.take() {
            let _ = fs::remove_file(&part);
            shared.parts.forget(&part);
        }
    }
}
