//! The daemon's end of the socket: one request a connection. A client that is slow, silent or gone costs its own connection only.

use super::{
    downloads,
    frame::{Frame, FrameKind, HEADER_BYTES, Header, PAYLOAD_BYTES_MAX},
    handles::{Handles, Inbound},
    message::{About, FileStat, PAGE_ENTRIES_MAX, Page, Request},
    readable::Readable,
    uploads,
};
use crate::complaint::{Complaint, Kind};
use potluck_node::{Entry, Kind as EntryKind, Node, NodeError, PutOptions, Space, Which};
use potluck_spaces::{Path, TreeError};
use rustix::net::{RecvFlags, recv};
use serde::Serialize;
use std::{fs::File, io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader, BufWriter, Interest},
    net::{UnixListener, UnixStream, unix::OwnedWriteHalf},
    sync::{Notify, Semaphore},
    time::timeout,
};
use zeroize::Zeroizing;

/// Commands that are served at once: more than a person starts, and with a frame each far below the memory of a daemon.
const SERVED_MAX: usize = 64;
/// Commands that are served or wait for their turn.
const CONNECTIONS_MAX: usize = 512;
const _: () = assert!(SERVED_MAX < CONNECTIONS_MAX);
/// How long a client may take to say what it wants.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the rest of what a client sends is still taken after its request failed, so that it reads why.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes that are gathered before they are sent or looked at.
const BUFFER_BYTES: usize = 256 << 10;

/// What a connection needs to serve its request.
#[derive(Debug)]
pub(crate) struct Service {
    /// The node.
    pub(crate) node: Node,
    /// What it says of itself.
    pub(crate) about: About,
    /// Told when a client ends the daemon.
    pub(crate) stop: Notify,
}

/// Frames from a client.
#[derive(Debug)]
pub(super) struct Frames {
    reader: BufReader<Inbound>,
    handles: Handles,
}

/// Frames to a client.
#[derive(Debug)]
pub(super) struct Replies(BufWriter<OwnedWriteHalf>);

/// Why a request ends without a reply.
#[derive(Debug)]
pub(super) enum Ended {
    /// The client is told.
    Complaint(Complaint),
    /// There is no client any more, or none that makes sense.
    Gone,
}

impl<E: Into<Complaint>> From<E> for Ended {
    fn from(error: E) -> Self {
        Self::Complaint(error.into())
    }
}

/// The client cannot be spoken to.
#[allow(clippy::needless_pass_by_value, reason = "fits `map_err`")]
pub(super) fn gone(error: io::Error) -> Ended {
    tracing::debug!(%error, "a client went away");
    Ended::Gone
}

/// Serves clients until the future is dropped.
pub(crate) async fn serve(listener: UnixListener, service: Arc<Service>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let turns = Arc::new(Semaphore::new(SERVED_MAX));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                    turn_away(&stream);
                    continue;
                };
                let (service, turns) = (Arc::clone(&service), Arc::clone(&turns));
                tokio::spawn(async move {
                    let _permit = permit;
                    converse(stream, &service, &turns).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the local socket takes no connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Tells one client too many.
fn turn_away(stream: &UnixStream) {
    let complaint = Complaint::failed(format!("{CONNECTIONS_MAX} commands are at work already"))
        .hint("again when some of them have ended; one `put` or `get` takes any number of files");
    let Ok(payload) = serde_json::to_vec(&complaint) else {
        return;
    };
    let frame = [&Header::of(FrameKind::Error, &payload).encode()[..], &payload].concat();
    // Nothing was sent there yet, so this fits; who has gone needs no answer.
    let _ = stream.try_write(&frame);
}

/// Serves one client, when it is its turn.
pub(crate) async fn converse(mut stream: UnixStream, service: &Service, turns: &Semaphore) {
    if !is_owner(&stream) {
        tracing::warn!("another user of this machine knocked at the local socket");
        return;
    }
    // Before its turn comes: who waits for others knows that the daemon lives.
    let hello = Header::of(FrameKind::Hello, &[]).encode();
    if stream.write_all(&hello).await.is_err() {
        return;
    }
    if !speaks(&stream).await {
        return;
    }
    let Ok(_turn) = turns.acquire().await else { return };
    let (reader, writer) = stream.into_split();
    let (inbound, handles) = Inbound::new(reader);
    let mut frames = Frames {
        reader: BufReader::with_capacity(BUFFER_BYTES, inbound),
        handles,
    };
    let mut replies = Replies(BufWriter::with_capacity(BUFFER_BYTES, writer));
    let request = match timeout(REQUEST_TIMEOUT, frames.read()).await {
        Ok(Ok(frame)) => Zeroizing::new(frame.payload),
        _ => return,
    };
    let outcome = match serde_json::from_slice(&request) {
        Ok(request) => Box::pin(answer(request, service, &mut frames, &mut replies)).await,
        Err(error) => Err(Ended::Complaint(
            Complaint::failed(format!("the daemon does not understand the command: {error}"))
                .hint("is it of another version? `potluck stop`, then `potluck up --detach`"),
        )),
    };
    if let Err(Ended::Complaint(complaint)) = outcome {
        tracing::info!(%complaint, "a command failed");
        if replies.json(FrameKind::Error, &complaint).await.is_ok() && replies.flush().await.is_ok() {
            let _ = timeout(DRAIN_TIMEOUT, async { while frames.read().await.is_ok() {} }).await;
        }
    }
}

/// Waits for the first byte of a request; whether it comes. Who only wanted to hear hello, or says nothing, takes nobody's turn.
async fn speaks(stream: &UnixStream) -> bool {
    let peek = || {
        let (_, read) = recv(stream, &mut [0; 1][..], RecvFlags::PEEK)?;
        Ok(read > 0)
    };
    matches!(
        timeout(REQUEST_TIMEOUT, stream.async_io(Interest::READABLE, peek)).await,
        Ok(Ok(true))
    )
}

/// Whether the other end is us, or root, who can be us anyway.
fn is_owner(stream: &UnixStream) -> bool {
    let us = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == us || peer.uid() == 0)
}

async fn answer(request: Request, service: &Service, frames: &mut Frames, replies: &mut Replies) -> Result<(), Ended> {
    let node = &service.node;
    // These need the others, or what they know, and a node that was started just now has yet to find them.
    if let Request::Put { .. }
    | Request::Get { .. }
    | Request::List { .. }
    | Request::Stat { .. }
    | Request::Versions { .. }
    | Request::Log { .. }
    | Request::AccessLog { .. }
    | Request::Verify { .. }
    | Request::Differences { .. }
    | Request::Conflicts { .. }
    | Request::Settle { .. }
    | Request::Explain { .. }
    | Request::Remove { .. }
    | Request::Erasable { .. }
    | Request::Erase { .. }
    | Request::Erasures
    | Request::Trash { .. }
    | Request::EmptyTrash { .. }
    | Request::AcceptLosses
    | Request::Restore { .. }
    | Request::Rename { .. }
    | Request::TakeSnapshot { .. }
    | Request::Snapshots { .. }
    | Request::RestoreSnapshot { .. }
    | Request::RemoveSnapshot { .. }
    | Request::Link { .. }
    | Request::Links { .. }
    | Request::RevokeLink { .. }
    | Request::CreateSpace { .. }
    | Request::SetSpace { .. }
    | Request::Spaces { .. }
    | Request::SpaceInfo { .. }
    | Request::RemoveSpace { .. }
    | Request::RestoreSpace { .. }
    | Request::RenameSpace { .. }
    | Request::Share { .. }
    | Request::Unshare { .. }
    | Request::Members { .. }
    | Request::Accept { .. } = request
    {
        node.gathered().await;
    }
    match request {
        Request::About => {
            let about = About {
                identity: node.identity(),
                ..service.about.clone()
            };
            replies.reply(&about).await
        }
        Request::Status => replies.reply(&node.status().await?).await,
        Request::Invite { options } => replies.reply(&node.invite(options).await?).await,
        Request::List { from, path, recursive } => {
            let lacking = list(&Readable::of(node, &from).await?, path, recursive, replies).await?;
            replies.reply(&lacking).await
        }
        Request::Explain { space, path, options } => {
            replies.reply(&node.space(&space)?.explain(&path, options).await?).await
        }
        Request::Stat { from, path, which } => {
            let stat = stat(&Readable::of(node, &from).await?, path, which).await?;
            replies.reply(&stat).await
        }
        Request::Versions { space, path } => {
            let versions = node.space(&space)?.versions(&path).await?;
            for page in versions.chunks(PAGE_ENTRIES_MAX / 16) {
                replies.json(FrameKind::Item, &page).await?;
            }
            replies.reply(&()).await
        }
        Request::Differences { space, path, since } => {
            let differences = node.space(&space)?.differences(&path, since).await?;
            for page in differences.chunks(PAGE_ENTRIES_MAX / 16) {
                replies.json(FrameKind::Item, &page).await?;
            }
            replies.reply(&()).await
        }
        Request::Log { space, path, since } => {
            let mut changes = node.space(&space)?.changes(&path, since);
            loop {
                let done = changes.next().await?;
                if done.is_empty() {
                    return replies.reply(&()).await;
                }
                for page in done.chunks(PAGE_ENTRIES_MAX / 16) {
                    replies.json(FrameKind::Item, &page).await?;
                }
            }
        }
        Request::AccessLog { space } => {
            for page in node.access_log(&space).await?.chunks(PAGE_ENTRIES_MAX / 16) {
                replies.json(FrameKind::Item, &page).await?;
            }
            replies.reply(&()).await
        }
        Request::Verify { space } => replies.reply(&node.verify(&space).await?).await,
        Request::Conflicts { space, path } => {
            let mut conflicts = node.space(&space)?.conflicts(&path);
            loop {
                let found = conflicts.next().await?;
                if found.is_empty() {
                    return replies.reply(&()).await;
                }
                for mut conflict in found {
                    conflict.versions.truncate(PAGE_ENTRIES_MAX / 4);
                    replies.json(FrameKind::Item, &[conflict]).await?;
                }
            }
        }
        Request::Settle { space, path, how } => replies.reply(&node.space(&space)?.settle(&path, how).await?).await,
        Request::Put { space, options } => uploads::put(&node.space(&space)?, options, frames, replies).await,
        Request::Get { from } => downloads::get(&Readable::of(node, &from).await?, frames, replies).await,
        Request::Remove { space, path, options } => {
            replies.reply(&node.space(&space)?.remove(&path, options).await?).await
        }
        Request::Erasable { space, path } => replies.reply(&node.space(&space)?.erasable(&path).await?).await,
        Request::Erase { space, path, known } => {
            let erased = node.space(&space)?.erase(&space, &path, known).await?;
            replies.reply(&erased).await
        }
        Request::Erasures => replies.reply(&node.erasures().await?).await,
        Request::Trash { space, path } => {
            let mut listing = node.space(&space)?.trash(&path).await?;
            loop {
                let versions = listing.next().await?;
                if versions.is_empty() {
                    return replies.reply(&()).await;
                }
                for page in versions.chunks(PAGE_ENTRIES_MAX / 16) {
                    replies.json(FrameKind::Item, &page).await?;
                }
            }
        }
        Request::EmptyTrash { space, path } => replies.reply(&node.space(&space)?.empty_trash(&path).await?).await,
        Request::AcceptLosses => {
            node.accept_losses().await?;
            replies.reply(&()).await
        }
        Request::Restore { space, path, options } => {
            replies
                .reply(&node.space(&space)?.bring_back(&path, options).await?)
                .await
        }
        Request::Sweep { abandoned_after } => replies.reply(&node.sweep(abandoned_after).await?).await,
        Request::Rename { space, from, to } => {
            let space = node.space(&space)?;
            make_parent(&space, &from, &to).await?;
            space.rename(&from, &to).await?;
            replies.reply(&()).await
        }
        Request::TakeSnapshot { space, name } => replies.reply(&node.space(&space)?.take_snapshot(name).await?).await,
        Request::Snapshots { space } => {
            for page in node.space(&space)?.snapshots().await?.chunks(PAGE_ENTRIES_MAX / 16) {
                replies.json(FrameKind::Item, &page).await?;
            }
            replies.reply(&()).await
        }
        Request::RestoreSnapshot { space, name, path, to } => {
            let report = node.space(&space)?.restore_snapshot(&name, &path, to).await?;
            replies.reply(&report).await
        }
        Request::RemoveSnapshot { space, name } => {
            replies.reply(&node.space(&space)?.remove_snapshot(&name).await?).await
        }
        Request::Link { space, path, options } => replies.reply(&node.link(&space, &path, options).await?).await,
        Request::Links { space } => {
            for page in node.links(&space).await?.chunks(PAGE_ENTRIES_MAX / 16) {
                replies.json(FrameKind::Item, &page).await?;
            }
            replies.reply(&()).await
        }
        Request::RevokeLink { link } => replies.reply(&node.revoke_link(&link).await?).await,
        Request::CreateSpace { name, options } => replies.reply(&node.create_space_with(name, options).await?).await,
        Request::SetSpace { name, options } => replies.reply(&node.set_space(&name, options).await?).await,
        Request::Spaces { removed } => {
            let mut spaces = node.spaces(removed).await?;
            spaces.extend(node.offers().await?);
            replies.reply(&spaces).await
        }
        Request::People => replies.reply(&node.people()).await,
        Request::CallMe { name } => {
            node.call_me(name).await;
            replies.reply(&()).await
        }
        Request::Share {
            space,
            with,
            prefix,
            access,
        } => {
            let let_in = match prefix {
                Some(prefix) => node.share_below(&space, &prefix, &with, access).await?,
                None => node.share(&space, &with, access).await?,
            };
            replies.reply(&let_in).await
        }
        Request::Unshare { space, with, prefix } => {
            let gone = match prefix {
                Some(prefix) => node.unshare_below(&space, &prefix, &with).await?,
                None => node.unshare(&space, &with).await?,
            };
            replies.reply(&gone).await
        }
        Request::Members { space } => replies.reply(&node.members(&space).await?).await,
        Request::Accept { offer, called } => replies.reply(&node.accept(&offer, called).await?).await,
        Request::SpaceInfo { name } => replies.reply(&node.space_info(&name).await?).await,
        Request::RemoveSpace { name, options } => replies.reply(&node.remove_space(&name, options).await?).await,
        Request::RestoreSpace { name } => replies.reply(&node.restore_space(&name).await?).await,
        Request::RenameSpace { from, to } => {
            node.rename_space(&from, &to).await?;
            replies.reply(&()).await
        }
        Request::Backup { passphrase } => {
            let (passphrase, kit) = (Zeroizing::new(passphrase), node.kit().await?);
            let text = tokio::task::spawn_blocking(move || kit.encrypt(&passphrase))
                .await
                .map_err(|_| NodeError::Stopping)??;
            replies.reply(&String::from_utf8_lossy(&text)).await
        }
        Request::Leave => {
            node.leave().await?;
            replies.reply(&()).await
        }
        Request::Stay => {
            node.stay();
            replies.reply(&()).await
        }
        Request::LockKeys { passphrase } => {
            let passphrase = Zeroizing::new(passphrase);
            node.lock_keys(passphrase.as_str().into()).await?;
            replies.reply(&()).await
        }
        Request::UnlockKeys => replies.reply(&node.unlock_keys().await?).await,
        Request::LeaveProgress => replies.reply(&node.leave_progress().await?).await,
        Request::Probe => replies.reply(&node.probe().await).await,
        Request::Forget { node: gone } => {
            node.forget(gone).await?;
            replies.reply(&()).await
        }
        Request::Revoke { nodes, stays } => replies.reply(&node.revoke(&nodes, &stays).await?).await,
        Request::Reconcile { which } => replies.reply(&node.reconcile(which).await?).await,
        Request::Follow { node: followed } => replies.reply(&node.follow(followed).await?).await,
        Request::Part => {
            node.part().await?;
            replies.reply(&()).await?;
            service.stop.notify_one();
            Ok(())
        }
        Request::Stop => {
            replies.reply(&()).await?;
            service.stop.notify_one();
            Ok(())
        }
    }
}

async fn stat(from: &Readable, path: Path, which: Which) -> Result<FileStat, Ended> {
    let stat = from.stat(&path, which).await?;
    Ok(FileStat {
        path,
        survives: stat.as_ref().map_or(0, |stat| stat.survives),
        stripes: stat.as_ref().map_or(0, |stat| stat.stripes),
        entry: stat.map(|stat| stat.entry),
    })
}

/// Makes the directory that something is moved into, when there is none: as with `put`, nobody need make it first.
async fn make_parent(space: &Space, from: &Path, to: &Path) -> Result<(), NodeError> {
    let Some((parent, _)) = to.split().filter(|(parent, _)| !parent.names().is_empty()) else {
        return Ok(());
    };
    let is_missing = matches!(space.stat(&parent).await, Err(NodeError::Tree(TreeError::NotFound(_))));
    if !is_missing || to.is_within(from) {
        return Ok(());
    }
    // What is not there is not moved, and nothing is made for it.
    space.stat(from).await?;
    let mut upload = space.upload(PutOptions::default())?;
    upload.make_directory(&parent).await?;
    upload.flush().await.map(drop)
}

/// Sends the names of a directory, and of those below it when that is asked for, each directory whole before the next. Tells
/// why there may be more, if so.
async fn list(from: &Readable, path: Path, recursive: bool, replies: &mut Replies) -> Result<Option<Complaint>, Ended> {
    let lacking = from.lacking().await.map(|reason| {
        Complaint::failed(format!("this machine may not know all names: {reason}"))
            .hint("other machines of yours may list them all; where this one's disk is full, make room on it")
    });
    let stat = from.stat(&path, Which::Latest).await?;
    if let Some(entry) = stat
        .map(|stat| stat.entry)
        .filter(|entry| entry.kind == EntryKind::File)
    {
        replies
            .item(&Page {
                directory: path.split().map_or(path.clone(), |(parent, _)| parent),
                entries: vec![entry],
            })
            .await?;
        return Ok(lacking);
    }
    let mut waiting = vec![path];
    while let Some(directory) = waiting.pop() {
        let mut below = Vec::new();
        let mut after = None;
        loop {
            let entries: Vec<Entry> = from.list(&directory, after.as_ref(), PAGE_ENTRIES_MAX).await?;
            let Some(last) = entries.last() else { break };
            after = Some(last.name.clone());
            if recursive {
                let directories = entries.iter().filter(|entry| entry.kind == EntryKind::Directory);
                below.extend(directories.map(|entry| directory.join(entry.name.clone())));
            }
            replies
                .item(&Page {
                    directory: directory.clone(),
                    entries,
                })
                .await?;
        }
        waiting.extend(below.into_iter().rev());
    }
    Ok(lacking)
}

impl Frames {
    /// The next frame, within its limits.
    pub(super) async fn read(&mut self) -> io::Result<Frame> {
        let mut header = [0; HEADER_BYTES];
        self.reader.read_exact(&mut header).await?;
        let Header { kind, len } = Header::decode(header)?;
        let mut payload = vec![0; len];
        self.reader.read_exact(&mut payload).await?;
        Ok(Frame { kind, payload })
    }

    /// The file that came with a frame that says so.
    pub(super) fn handle(&mut self) -> io::Result<File> {
        self.handles
            .take()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a file was announced, and none came"))
    }
}

impl Replies {
    /// The answer. It is the last frame.
    pub(super) async fn reply(&mut self, value: &impl Serialize) -> Result<(), Ended> {
        self.json(FrameKind::Reply, value).await?;
        self.flush().await
    }

    /// One of several, seen by the client at once.
    pub(super) async fn item(&mut self, value: &impl Serialize) -> Result<(), Ended> {
        self.json(FrameKind::Item, value).await?;
        self.flush().await
    }

    /// A frame of JSON, sent when the buffer is full or flushed.
    pub(super) async fn json(&mut self, kind: FrameKind, value: &impl Serialize) -> Result<(), Ended> {
        let payload = serde_json::to_vec(value)
            .map_err(|error| Complaint::failed(format!("the answer has no text form: {error}")))?;
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(Complaint::new(Kind::Failed, "the answer is too long for the local socket").into());
        }
        self.frame(kind, &payload).await
    }

    /// Bytes of a file.
    pub(super) async fn data(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        for part in bytes.chunks(PAYLOAD_BYTES_MAX) {
            self.frame(FrameKind::Data, part).await?;
        }
        Ok(())
    }

    /// The end of a file.
    pub(super) async fn end(&mut self) -> Result<(), Ended> {
        self.frame(FrameKind::End, &[]).await
    }

    /// Sends what is gathered.
    pub(super) async fn flush(&mut self) -> Result<(), Ended> {
        self.0.flush().await.map_err(gone)
    }

    async fn frame(&mut self, kind: FrameKind, payload: &[u8]) -> Result<(), Ended> {
        self.0
            .write_all(&Header::of(kind, payload).encode())
            .await
            .map_err(gone)?;
        self.0.write_all(payload).await.map_err(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asks_for_nothing_takes_no_turn() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"{").await.unwrap();
        assert!(speaks(&ours).await);
        // It is still there.
        assert_eq!(ours.read_u8().await.unwrap(), b'{');
        drop(theirs);
        assert!(!speaks(&ours).await);
    }
}
