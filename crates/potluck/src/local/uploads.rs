//! A put over the local socket: a stream of files in, progress out.

use super::{
    frame::{Frame, FrameKind},
    message::{PutFailed, PutItem, PutProgress, SMALL_FILE_BYTES_MAX},
    server::{Ended, Frames, Replies, gone},
};
use crate::complaint::Complaint;
use bytes::{Buf, Bytes};
use potluck_node::{FileMeta, NodeError, PutOptions, Space, Upload};
use potluck_spaces::{Path, TreeError};
use std::{
    fs::File,
    io::{self, Read},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::mpsc,
};

/// How often progress is told: often enough for a bar to move.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// How often files get their names for good while others still come. Each time the pipeline runs dry once, for about
/// 50 ms, so that this costs half a percent.
const FLUSH_INTERVAL: Duration = Duration::from_secs(10);
/// Frames of a large file between socket and chunker, so that neither waits for the other: 4 MiB at most.
const FRAMES_AHEAD_MAX: usize = 4;
/// Failures that wait to be told.
const FAILURES_MAX: usize = 64;

/// What is known of a put while it goes on.
struct Progress {
    files: AtomicU64,
    bytes: Arc<AtomicU64>,
    durable: Mutex<potluck_node::PutReport>,
    reading: Mutex<Option<Path>>,
    /// Whether the client has gone away: nothing more is read, and what is under way is kept for the next time.
    gone: Arc<AtomicBool>,
    failures: mpsc::Sender<PutFailed>,
}

/// Serves a put.
pub(super) async fn put(
    space: &Space,
    options: PutOptions,
    frames: &mut Frames,
    replies: &mut Replies,
) -> Result<(), Ended> {
    let upload = space.upload(options)?;
    let (failures, mut failed) = mpsc::channel(FAILURES_MAX);
    let progress = Progress {
        files: AtomicU64::new(0),
        bytes: Arc::default(),
        durable: Mutex::default(),
        reading: Mutex::default(),
        gone: Arc::default(),
        failures,
    };
    let mut taking = Box::pin(take(upload, frames, &progress));
    let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
    let report = loop {
        let told = tokio::select! {
            report = &mut taking => break report?,
            Some(failure) = failed.recv() => replies.json(FrameKind::Failed, &failure).await,
            _ = ticks.tick() => replies.item(&progress.now()).await,
        };
        if told.is_err() {
            progress.gone.store(true, Ordering::Relaxed);
        }
    };
    drop(taking);
    while let Ok(failure) = failed.try_recv() {
        replies.json(FrameKind::Failed, &failure).await?;
    }
    replies.reply(&report).await
}

impl Progress {
    fn now(&self) -> PutProgress {
        PutProgress {
            files: self.files.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            durable: *self.durable.lock().expect("never poisoned"),
            reading: self.reading.lock().expect("never poisoned").clone(),
        }
    }

    fn read(&self, path: Option<&Path>) {
        *self.reading.lock().expect("never poisoned") = path.cloned();
    }
}

/// Takes files until the client says that there are no more, and makes them durable.
async fn take(mut upload: Upload, frames: &mut Frames, progress: &Progress) -> Result<potluck_node::PutReport, Ended> {
    let taken = take_all(&mut upload, frames, progress).await;
    if taken.is_err()
        && let Err(error) = upload.keep().await
    {
        tracing::debug!(%error, "what was stored of a put that failed is not written down");
    }
    taken
}

async fn take_all(
    upload: &mut Upload,
    frames: &mut Frames,
    progress: &Progress,
) -> Result<potluck_node::PutReport, Ended> {
    let mut flushed = Instant::now();
    loop {
        let frame = frames.read().await.map_err(gone)?;
        match frame.kind {
            FrameKind::Item => {
                let item: PutItem = frame
                    .json()
                    .map_err(|error| Complaint::failed(format!("an item is unreadable: {error}")))?;
                let (path, outcome, files) = match item {
                    PutItem::Directory(path) => {
                        let outcome = upload.make_directory(&path).await;
                        (path, outcome, 0)
                    }
                    PutItem::File { path, meta, len } => {
                        let small = len.is_some_and(|len| len <= SMALL_FILE_BYTES_MAX);
                        let outcome = if small {
                            put_small(upload, &path, meta, frames, progress).await?
                        } else {
                            progress.read(Some(&path));
                            let put = put_large(upload, &path, meta, frames, progress).await;
                            progress.read(None);
                            put?
                        };
                        (path, outcome, 1)
                    }
                };
                match outcome {
                    Ok(()) => _ = progress.files.fetch_add(files, Ordering::Relaxed),
                    Err(error) if concerns_only(&error, &path) => {
                        let failure = PutFailed {
                            path,
                            complaint: error.into(),
                        };
                        progress.failures.send(failure).await.map_err(|_| Ended::Gone)?;
                    }
                    Err(error) => return Err(error.into()),
                }
                if flushed.elapsed() >= FLUSH_INTERVAL {
                    let report = upload.flush().await?;
                    *progress.durable.lock().expect("never poisoned") = report;
                    flushed = Instant::now();
                }
            }
            FrameKind::End => return Ok(upload.flush().await?),
            _ => return Err(Complaint::failed("a frame came where a file or the end was expected").into()),
        }
    }
}

/// Whether the other files can go on after this error.
fn concerns_only(error: &NodeError, path: &Path) -> bool {
    match error {
        NodeError::Source { path: of, .. } => of == path,
        NodeError::Tree(TreeError::IsADirectory(of) | TreeError::NotADirectory(of) | TreeError::Exists(of)) => {
            path.is_within(of)
        }
        _ => false,
    }
}

/// The next part of a file: `None` at its end, an error when the client could not read it.
async fn next_part(frames: &mut Frames) -> Result<Option<io::Result<Bytes>>, Ended> {
    part_of(frames.read().await.map_err(gone)?)
}

fn part_of(Frame { kind, payload }: Frame) -> Result<Option<io::Result<Bytes>>, Ended> {
    match kind {
        FrameKind::Data => Ok(Some(Ok(payload.into()))),
        FrameKind::End => Ok(None),
        FrameKind::Failed => Ok(Some(Err(io::Error::other("the file could not be read to its end")))),
        _ => Err(Complaint::failed("a frame came where a file's bytes were expected").into()),
    }
}

async fn put_small(
    upload: &mut Upload,
    path: &Path,
    meta: FileMeta,
    frames: &mut Frames,
    progress: &Progress,
) -> Result<Result<(), NodeError>, Ended> {
    let mut content = Vec::new();
    while let Some(part) = next_part(frames).await? {
        match part {
            Ok(bytes) if content.is_empty() => content = bytes.into(),
            Ok(bytes) => content.extend_from_slice(&bytes),
            Err(source) => {
                return Ok(Err(NodeError::Source {
                    path: path.clone(),
                    source,
                }));
            }
        }
        if content.len() as u64 > SMALL_FILE_BYTES_MAX {
            let source = io::Error::other("the file grew while it was read");
            skip(frames).await?;
            return Ok(Err(NodeError::Source {
                path: path.clone(),
                source,
            }));
        }
    }
    progress.bytes.fetch_add(content.len() as u64, Ordering::Relaxed);
    Ok(upload.put_file(path.clone(), meta, io::Cursor::new(content)).await)
}

async fn put_large(
    upload: &mut Upload,
    path: &Path,
    meta: FileMeta,
    frames: &mut Frames,
    progress: &Progress,
) -> Result<Result<(), NodeError>, Ended> {
    let (sender, receiver) = mpsc::channel(FRAMES_AHEAD_MAX);
    let end = sender.clone();
    let first = frames.read().await.map_err(gone)?;
    if first.kind == FrameKind::Handle {
        let reader = Counted {
            file: frames.handle().map_err(gone)?,
            bytes: Arc::clone(&progress.bytes),
            gone: Arc::clone(&progress.gone),
        };
        return Ok(upload.put_blocking(path.clone(), meta, reader).await);
    }
    let pump = async {
        let mut next = part_of(first)?;
        while let Some(part) = next {
            let (failed, len) = match &part {
                Ok(bytes) => (false, bytes.len() as u64),
                Err(_) => (true, 0),
            };
            progress.bytes.fetch_add(len, Ordering::Relaxed);
            if sender.send(part).await.is_err() && !failed {
                // The node has given the file up: the rest of it is passed over.
                return skip(frames).await;
            }
            if failed {
                break;
            }
            next = next_part(frames).await?;
        }
        drop(sender);
        Ok::<_, Ended>(())
    };
    let reader = Parts {
        parts: receiver,
        now: Bytes::new(),
    };
    let mut pump = Box::pin(pump);
    let mut putting = Box::pin(upload.put_file(path.clone(), meta, reader));
    // When the client goes away, what is under way is still stored; a file that fails waits for the rest of its frames.
    tokio::select! {
        pumped = &mut pump => {
            if pumped.is_err() {
                let _ = end.send(Err(client_gone())).await;
            }
            drop(end);
            let put = putting.await;
            pumped.map(|()| put)
        }
        put = &mut putting => {
            pump.await?;
            Ok(put)
        }
    }
}

fn client_gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the client went away")
}

/// Passes over the rest of a file.
async fn skip(frames: &mut Frames) -> Result<(), Ended> {
    while let Some(Ok(_)) = next_part(frames).await? {}
    Ok(())
}

/// An open file, of which it is counted how much was read.
struct Counted {
    file: File,
    bytes: Arc<AtomicU64>,
    gone: Arc<AtomicBool>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.gone.load(Ordering::Relaxed) {
            return Err(client_gone());
        }
        let len = self.file.read(buffer)?;
        self.bytes.fetch_add(len as u64, Ordering::Relaxed);
        Ok(len)
    }
}

/// A file's parts as a stream of bytes.
struct Parts {
    parts: mpsc::Receiver<io::Result<Bytes>>,
    now: Bytes,
}

impl AsyncRead for Parts {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.now.is_empty() {
            match ready!(self.parts.poll_recv(context)) {
                Some(part) => self.now = part?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let len = self.now.len().min(buffer.remaining());
        buffer.put_slice(&self.now[..len]);
        self.now.advance(len);
        Poll::Ready(Ok(()))
    }
}
