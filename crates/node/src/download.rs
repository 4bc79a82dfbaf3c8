//! Getting: a manifest is walked, and a window of pieces is fetched ahead of the reader, each from any *k* of its holders. A file that is coded anew meanwhile is read on from where it
//! lies then.

use crate::{
    api::{VersionId, Which},
    edit,
    error::{NodeError, ShardsError},
    logs,
    shared::Shared,
    space::OpenSpace,
    stripes::{self, Effort},
    versions,
};
use bytes::Bytes;
use potluck_dag::{Content, Part, Piece, Walk, stripe};
use potluck_spaces::{OpId, Path};
use potluck_types::{SpaceId, StripeId, limits};
use serde_bytes::ByteBuf;
use std::{
    collections::VecDeque,
    fmt,
    ops::Range,
    sync::{Arc, Mutex},
};
use tokio::{
    sync::{OnceCell, OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinHandle,
};

/// Sealed pieces that were read lately: the small files of a pack are read one after the other.
const CACHE_PIECES_MAX: usize = 8;

/// Sealed pieces, there or on their way: whoever wants one that is on its way waits for it.
#[derive(Default)]
pub(crate) struct PieceCache(Mutex<VecDeque<(StripeId, Arc<OnceCell<Bytes>>)>>);

impl PieceCache {
    async fn get_or_fetch(
        &self,
        stripe: StripeId,
        fetch: impl Future<Output = Result<Bytes, NodeError>>,
    ) -> Result<Bytes, NodeError> {
        let cell = {
            let mut pieces = self.0.lock().expect("never poisoned");
            if let Some((_, cell)) = pieces.iter().find(|(id, _)| *id == stripe) {
                Arc::clone(cell)
            } else {
                if pieces.len() >= CACHE_PIECES_MAX {
                    pieces.pop_front();
                }
                let cell = Arc::new(OnceCell::new());
                pieces.push_back((stripe, Arc::clone(&cell)));
                cell
            }
        };
        // Of several the first fetches; when that fails, the next tries.
        Ok(cell.get_or_try_init(|| fetch).await?.clone())
    }
}

/// The bytes of a file or of a range of it, in order.
#[derive(Debug)]
pub struct Download {
    /// How many bytes will come.
    pub len: u64,
    bytes: mpsc::Receiver<Result<Bytes, NodeError>>,
    /// What came, and was looked at before anybody asked for it.
    first: Option<Result<Bytes, NodeError>>,
    of: Option<Named>,
}

/// What was looked up, and what was found.
struct Named {
    space: OpenSpace,
    path: Path,
    which: Which,
    found: OpId,
}

impl fmt::Debug for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Named")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Download {
    /// The next bytes; `None` at the end. After an error there are no more.
    pub async fn next(&mut self) -> Option<Result<Bytes, NodeError>> {
        match self.first.take() {
            Some(first) => Some(first),
            None => self.bytes.recv().await,
        }
    }

    /// Waits for the first bytes. Whether they cannot be read, and what was looked up is another file by now, or gone: this node had not heard of it, and has since. Then the name is
    /// to be looked up again.
    pub async fn was_replaced(&mut self) -> bool {
        if self.first.is_none() {
            self.first = self.bytes.recv().await;
        }
        let Some(Err(NodeError::Shards(ShardsError::Unreadable { .. }))) = &self.first else {
            return false;
        };
        let Some(Named {
            space,
            path,
            which,
            found,
        }) = self.of.take()
        else {
            return false;
        };
        let now = Shared::blocking(move || versions::head(&space, &path, which)).await;
        now.map_or(true, |now| now.op != found)
    }

    /// All of them at once, for small files.
    pub async fn read_to_end(mut self) -> Result<Vec<u8>, NodeError> {
        let mut all = Vec::new();
        while let Some(bytes) = self.next().await {
            all.extend_from_slice(&bytes?);
        }
        Ok(all)
    }

    /// Of a version of a path, or of a range of it; a range that goes beyond its end ends there.
    pub(crate) async fn of_version(
        space: &OpenSpace,
        path: &Path,
        which: Which,
        range: Option<Range<u64>>,
    ) -> Result<Self, NodeError> {
        let (task, at) = (space.clone(), path.clone());
        let head = Shared::blocking(move || versions::head(&task, &at, which)).await?;
        let (file, content) = edit::content_of(path, &head.value)?;
        let range = within(path, content.len(), range)?;
        let place = Place {
            space: space.clone(),
            path: path.clone(),
            version: VersionId::of(head.op),
            lies: file.content,
        };
        let of = Named {
            space: space.clone(),
            path: path.clone(),
            which,
            found: head.op,
        };
        Ok(Self {
            of: Some(of),
            ..Self::begin((Arc::clone(space.shared()), space.id()), content, range, Some(place))
        })
    }

    /// Of a file of a space at a path, or of a range of it; a range that goes beyond its end ends there.
    pub(crate) fn of_file(
        (shared, space): (&Arc<Shared>, SpaceId),
        content: Content,
        path: &Path,
        range: Option<Range<u64>>,
    ) -> Result<Self, NodeError> {
        let range = within(path, content.len(), range)?;
        Ok(Self::begin((Arc::clone(shared), space), content, range, None))
    }

    fn begin(
        (shared, space): (Arc<Shared>, SpaceId),
        mut content: Content,
        range: Range<u64>,
        mut place: Option<Place>,
    ) -> Self {
        let len = range.end - range.start;
        let (sender, bytes) = mpsc::channel(2);
        tokio::spawn(async move {
            let mut at = range.start;
            while let Err(error) = send_content((&shared, space), content, &mut at, range.end, &sender).await {
                let moved = match &mut place {
                    Some(place) if matches!(error, NodeError::Shards(ShardsError::Unreadable { .. })) => {
                        place.look_again().await
                    }
                    _ => None,
                };
                let Some(moved) = moved else {
                    let _ = sender.send(Err(error)).await;
                    return;
                };
                content = moved;
            }
        });
        Self {
            len,
            bytes,
            first: None,
            of: None,
        }
    }
}

/// A range of a file of this length.
fn within(path: &Path, len: u64, range: Option<Range<u64>>) -> Result<Range<u64>, NodeError> {
    let range = range.unwrap_or(0..len);
    if range.start > len || (range.start == len && len > 0) || range.start > range.end {
        return Err(NodeError::Range {
            path: path.clone(),
            len,
            start: range.start,
        });
    }
    Ok(range.start..range.end.min(len))
}

/// Where a version is named that is being read.
struct Place {
    space: OpenSpace,
    path: Path,
    version: VersionId,
    /// Where its content was last.
    lies: ByteBuf,
}

impl Place {
    /// Where the version lies, if that is elsewhere by now: it was coded anew, perhaps before this node heard of it.
    async fn look_again(&mut self) -> Option<Content> {
        let heard = logs::catch_up(&self.space);
        if let Ok(Err(error)) = tokio::time::timeout(limits::STALL_TIMEOUT, heard).await {
            tracing::debug!(%error, "whether a file lies elsewhere by now is what is known here");
        }
        let (space, path, which) = (self.space.clone(), self.path.clone(), Which::Version(self.version));
        let found = Shared::blocking(move || edit::content_of(&path, &versions::head(&space, &path, which)?.value));
        let (file, content) = found.await.ok()?;
        let is_moved = file.content != self.lies;
        self.lies = file.content;
        is_moved.then_some(content)
    }
}

type Sender = mpsc::Sender<Result<Bytes, NodeError>>;

/// Sends what is from `at` to an end, which is where `at` is then; after an error, it is where to go on.
async fn send_content(
    (shared, space): (&Arc<Shared>, SpaceId),
    content: Content,
    at: &mut u64,
    end: u64,
    sender: &Sender,
) -> Result<(), NodeError> {
    let range = *at..end;
    let tree = match content {
        Content::Inline(bytes) => {
            let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            let _ = sender.send(Ok(bytes.slice(at(range.start)..at(range.end)))).await;
            return Ok(());
        }
        Content::Tree(tree) => tree,
    };
    // Large files read each piece once; only packs and nodes are worth keeping.
    let cached = tree.depth() == 0;
    let window = Arc::new(Semaphore::new(limits::READ_WINDOW_BYTES));
    let (ahead_sender, mut ahead) = mpsc::channel::<Fetched>(64);
    let planner = tokio::spawn({
        let shared = Arc::clone(shared);
        async move {
            let mut walk = Walk::new(tree, range);
            while let Some(part) = walk.next() {
                let Some(wanted) = part.data_range() else {
                    let node = read_piece((&shared, space), part.tree.root(), 0..part.tree.root().len(), true).await?;
                    walk.descend(&part, &node).map_err(|error| damaged(&part, &error))?;
                    continue;
                };
                let piece = part.tree.root().clone();
                let cost = u32::try_from(piece.sealed_len()).expect("a piece is smaller");
                let permit = Arc::clone(&window)
                    .acquire_many_owned(cost)
                    .await
                    .map_err(|_| NodeError::Stopping)?;
                let shared = Arc::clone(&shared);
                let fetch = tokio::spawn(async move {
                    Ok((
                        Bytes::from(read_piece((&shared, space), &piece, wanted, cached).await?),
                        permit,
                    ))
                });
                if ahead_sender.send(fetch).await.is_err() {
                    break;
                }
            }
            Ok::<_, NodeError>(())
        }
    });
    let sent = forward(&mut ahead, at, sender).await;
    if !matches!(sent, Ok(true)) {
        planner.abort();
        return sent.map(drop);
    }
    planner.await.map_err(|_| NodeError::Stopping)?
}

type Fetched = JoinHandle<Result<(Bytes, OwnedSemaphorePermit), NodeError>>;

/// Sends what is fetched, in order. Whether somebody has taken all of it.
async fn forward(ahead: &mut mpsc::Receiver<Fetched>, at: &mut u64, sender: &Sender) -> Result<bool, NodeError> {
    while let Some(fetch) = ahead.recv().await {
        let (bytes, _room) = fetch.await.map_err(|_| NodeError::Stopping)??;
        *at += bytes.len() as u64;
        if sender.send(Ok(bytes)).await.is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn damaged(part: &Part, error: &dyn std::fmt::Display) -> NodeError {
    ShardsError::Damaged {
        stripe: part.tree.root().stripe(),
        reason: error.to_string(),
    }
    .into()
}

async fn fetch_sealed((shared, space): (&Arc<Shared>, SpaceId), piece: &Piece) -> Result<Bytes, NodeError> {
    let stripe = piece.stripe();
    // A steward knows the holders; others know where they should be.
    let known = shared.with_control(|control| control.holders(stripe));
    let gathered = stripes::gather(shared, Some(space), stripe, piece.geometry(), &known, Effort::ReachOut).await?;
    let decoded = Shared::blocking(move || {
        let descriptor = gathered.shards[0].descriptor().clone();
        stripe::decode(&descriptor, &gathered.shards)
    })
    .await;
    decoded.map_err(|error| {
        ShardsError::Damaged {
            stripe,
            reason: error.to_string(),
        }
        .into()
    })
}

/// Fetches and opens a range of a piece of a space.
pub(crate) async fn read_piece(
    (shared, space): (&Arc<Shared>, SpaceId),
    piece: &Piece,
    range: Range<u32>,
    cached: bool,
) -> Result<Vec<u8>, NodeError> {
    let stripe = piece.stripe();
    let fetch = fetch_sealed((shared, space), piece);
    let sealed = if cached {
        shared.cache.get_or_fetch(stripe, fetch).await?
    } else {
        fetch.await?
    };
    let piece = piece.clone();
    let opened = Shared::blocking(move || {
        if sealed.len() != piece.sealed_len() {
            return piece.open(&sealed);
        }
        let part = piece.sealed_range(range.clone());
        piece.open_range(&sealed[part], range)
    });
    opened.await.map_err(|error| {
        ShardsError::Damaged {
            stripe,
            reason: error.to_string(),
        }
        .into()
    })
}
