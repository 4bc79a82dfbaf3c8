//! A get over the local socket: the client names files, the daemon sends them in that order.
//!
//! The next files are begun while one is sent, so that many small ones do not wait for the network one by one.

use super::{
    frame::FrameKind,
    message::{GetFile, GetItem},
    readable::Readable,
    server::{Ended, Frames, Replies, gone},
};
use crate::complaint::Complaint;
use potluck_node::{Download, Kind, NodeError, Stat};
use potluck_spaces::TreeError;
use potluck_types::limits;
use std::{collections::VecDeque, ops::Range};
use tokio::sync::mpsc;

/// Files begun ahead of the one that is sent.
const FILES_AHEAD_MAX: usize = 16;
/// Their bytes, together: a longer file has a window of its own, and is begun when it is its turn.
const BYTES_AHEAD_MAX: u64 = limits::READ_WINDOW_BYTES as u64 / 4;
/// How often a file may be replaced by another while its first bytes are awaited.
const REPLACED_MAX: u32 = 3;
/// Names that the client may send ahead.
const NAMES_AHEAD_MAX: usize = 256;

/// A file whose first pieces are under way.
struct Begun {
    item: GetItem,
    file: GetFile,
    download: Download,
}

/// What was named and is not yet sent, in order.
#[derive(Default)]
struct Ahead {
    begun: VecDeque<Result<Begun, Complaint>>,
    bytes: u64,
}

/// Serves a get.
pub(super) async fn get(from: &Readable, frames: &mut Frames, replies: &mut Replies) -> Result<(), Ended> {
    let (sender, wanted) = mpsc::channel(NAMES_AHEAD_MAX);
    let reading = read_names(frames, sender);
    let sending = send_files(from, wanted, replies);
    tokio::try_join!(reading, sending).map(drop)
}

async fn send_files(from: &Readable, mut wanted: mpsc::Receiver<GetItem>, replies: &mut Replies) -> Result<(), Ended> {
    let mut ahead = Ahead::default();
    let mut held = None;
    loop {
        while ahead.begun.len() < FILES_AHEAD_MAX {
            let next = match held.take() {
                Some(looked_up) => looked_up,
                None if ahead.begun.is_empty() => match wanted.recv().await {
                    Some(item) => look_up(from, item).await,
                    None => break,
                },
                None => match wanted.try_recv() {
                    Ok(item) => look_up(from, item).await,
                    Err(_) => break,
                },
            };
            if next.as_ref().is_ok_and(|next| !ahead.has_room_for(next)) {
                held = Some(next);
                break;
            }
            ahead.push(begin(from, next).await);
        }
        match ahead.next() {
            Some(Ok(begun)) => send(from, begun, replies).await?,
            Some(Err(complaint)) => replies.json(FrameKind::Failed, &complaint).await?,
            None => return replies.reply(&()).await,
        }
        if ahead.begun.is_empty() {
            replies.flush().await?;
        }
    }
}

/// A file, and which of its bytes are wanted.
struct LookedUp {
    item: GetItem,
    file: GetFile,
    range: Option<Range<u64>>,
}

async fn look_up(from: &Readable, item: GetItem) -> Result<LookedUp, Complaint> {
    let stat = from.stat(&item.path, item.which).await?;
    let Some(Stat { entry, .. }) = stat.filter(|stat| stat.entry.kind == Kind::File) else {
        return Err(NodeError::Tree(TreeError::IsADirectory(item.path)).into());
    };
    let range = item.range.as_ref().map(|range| range.of(entry.len));
    let len = range.as_ref().map_or(entry.len, |range| range.end - range.start);
    Ok(LookedUp {
        file: GetFile {
            path: item.path.clone(),
            entry,
            len,
        },
        item,
        range,
    })
}

impl Ahead {
    fn has_room_for(&self, next: &LookedUp) -> bool {
        self.begun.is_empty() || self.bytes + next.file.len <= BYTES_AHEAD_MAX
    }

    fn push(&mut self, begun: Result<Begun, Complaint>) {
        self.bytes += begun.as_ref().map_or(0, |begun| begun.file.len);
        self.begun.push_back(begun);
    }

    fn next(&mut self) -> Option<Result<Begun, Complaint>> {
        let next = self.begun.pop_front()?;
        if let Ok(begun) = &next {
            self.bytes -= begun.file.len;
        }
        Some(next)
    }
}

async fn begin(from: &Readable, next: Result<LookedUp, Complaint>) -> Result<Begun, Complaint> {
    let LookedUp { item, file, range } = next?;
    let download = from.download(&item.path, item.which, range).await?;
    let len = download.len;
    Ok(Begun {
        item,
        file: GetFile { len, ..file },
        download,
    })
}

/// A file that ends before its length has a failure in place of its end. One that was replaced before its first bytes came is sent as what it is now.
async fn send(from: &Readable, mut begun: Begun, replies: &mut Replies) -> Result<(), Ended> {
    let mut left = REPLACED_MAX;
    while left > 0 && begun.download.was_replaced().await {
        left -= 1;
        begun = match begin(from, look_up(from, begun.item).await).await {
            Ok(begun) => begun,
            Err(complaint) => return replies.json(FrameKind::Failed, &complaint).await,
        };
    }
    let Begun { file, mut download, .. } = begun;
    replies.json(FrameKind::Item, &file).await?;
    while let Some(bytes) = download.next().await {
        match bytes {
            Ok(bytes) => replies.data(&bytes).await?,
            Err(error) => return replies.json(FrameKind::Failed, &Complaint::from(error)).await,
        }
    }
    replies.end().await
}

async fn read_names(frames: &mut Frames, sender: mpsc::Sender<GetItem>) -> Result<(), Ended> {
    loop {
        let frame = frames.read().await.map_err(gone)?;
        match frame.kind {
            FrameKind::Item => {
                let item = frame
                    .json()
                    .map_err(|error| Complaint::failed(format!("an item is unreadable: {error}")))?;
                sender.send(item).await.map_err(|_| Ended::Gone)?;
            }
            FrameKind::End => return Ok(()),
            _ => return Err(Complaint::failed("a frame came where a name or the end was expected").into()),
        }
    }
}
