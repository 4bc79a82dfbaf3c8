//! Putting: bytes become chunks, pieces and stripes, and then names. Streaming, with a bounded number of bytes under way.
//!
//! Small files gather in packs. What was stored is written to the log as it goes, so that an upload that breaks off and is begun again finds its
//! chunks there.

mod piece;
mod recode;
mod repack;

pub(crate) use recode::{Recoding, look};

use crate::{
    api::{FileMeta, PutOptions, PutReport},
    claims::Claim,
    error::NodeError,
    names::{self, Batch},
    rails::{self, Loss},
    shared::Shared,
    space::OpenSpace,
    stripes::{self, Stored},
};
use bytes::Bytes;
use piece::{Became, Finished, PieceUnderWay, building, look_up, refuse_degraded, seal_node, store_piece};
pub(crate) use piece::{Safety, claim_live, geometry_now};
use potluck_dag::{Chunks, Content, ManifestBuilder, Packer, Slot, Stripe, manifest};
use potluck_net::{Pace, Window};
use potluck_placement::default_survive;
use potluck_spaces::{AreaId, Change, DirId, Fate, File, FileId, Found, Head, Kv, Name, Path, Tree, TreeError, Value};
use potluck_types::{Geometry, StripeId, limits, to_canonical};
use serde_bytes::ByteBuf;
use std::{
    collections::{HashMap, VecDeque},
    io::{self, Read},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::mpsc,
    task::JoinHandle,
    time::Instant,
};

/// Files up to this are packed with others: below it, a stripe of its own costs more than its bytes.
const PACK_FILE_BYTES_MAX: usize = 256 << 10;
/// How often what is stored of a file that is still being put is written down: what is lost of it when this node ends.
const KEEP_INTERVAL: Duration = Duration::from_secs(5);
/// A stripe that is stored within this could have come with more others.
const STRIPE_QUICK: Duration = Duration::from_secs(1);
/// One that takes longer had better come with fewer.
const STRIPE_SLOW: Duration = Duration::from_secs(4);
/// What of a file is read to see whether it is one of those.
const HEAD_BYTES: u64 = PACK_FILE_BYTES_MAX as u64 + 1;
/// Pieces that wait for an earlier one of their file to be stored, with those that are being stored: each is a reference of some hundred bytes by then.
const PIECES_AHEAD_MAX: usize = 4 * limits::WRITE_WINDOW_STRIPES;
/// Lists of so many stripes are compared to see whether a file has changed. With fewer it has no manifest node, and may share its only stripe with others;
/// the longest are those of 64 GiB, 2 MiB each.
const COMPARED_STRIPES: RangeInclusive<u64> = 3..=1 << 16;
/// Stripes that one change names itself; longer lists come before it.
const USES_INLINE_MAX: usize = 16;

/// An upload of any number of files. Nothing of it is acknowledged before [`Upload::finish`], or [`Upload::flush`].
pub struct Upload {
    space: OpenSpace,
    options: PutOptions,
    safety: Safety,
    geometry: Geometry,
    /// Stripes under way at once: fewer where they take long, so that each is whole soon.
    window: Arc<Window>,
    packer: Packer,
    packed: Vec<Packed>,
    packs: VecDeque<PackUnderWay>,
    batch: Batch,
    written_at: Instant,
    directories: HashMap<Path, DirId>,
    /// No person sees what is put, or misses what it takes the place of.
    is_hidden: bool,
    /// Versions that the batch takes the names of.
    overwriting: u64,
    /// More was overwritten than is without a question, and the person has said yes.
    is_answered: bool,
    replicating: Option<JoinHandle<Result<Option<u8>, NodeError>>>,
    report: PutReport,
}

/// A small file that waits in the packer.
struct Packed {
    path: Path,
    meta: FileMeta,
    slot: Slot,
    /// The area that it is put into, if it is one.
    area: Option<AreaId>,
}

struct PackUnderWay {
    piece: PieceUnderWay,
    files: Vec<Packed>,
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upload")
            .field("report", &self.report)
            .finish_non_exhaustive()
    }
}

impl Upload {
    /// For a person, who hears at once what cannot be.
    pub(crate) fn begin(space: OpenSpace, options: PutOptions) -> Result<Self, NodeError> {
        space.refuse_when_full()?;
        space.refuse_reader()?;
        space.refuse_nowhere()?;
        let safety = Safety::of(space.id(), options, space.settings()?);
        if options.strict {
            refuse_degraded(&space, space.id(), safety)?;
        }
        let geometry = geometry_now(&space, safety)?;
        Ok(Self::new(space, options, safety, geometry))
    }

    /// For what is kept in a directory that no path leads to: paths begin there. It takes the place of what is there, and nothing is kept of that.
    pub(crate) fn hidden(space: OpenSpace, options: PutOptions, directory: DirId) -> Result<Self, NodeError> {
        let mut upload = Self::begin(space, options)?;
        upload.directories.insert(Path::root(), directory);
        upload.is_hidden = true;
        Ok(upload)
    }

    /// For pieces that are coded in this way.
    fn new(space: OpenSpace, options: PutOptions, safety: Safety, geometry: Geometry) -> Self {
        let now = space.steady();
        let usual = || default_survive(space.with_control(|control| control.expected_if_all_stay(space.id(), now)));
        let wanted = safety.said().unwrap_or_else(usual);
        Self {
            space,
            options,
            safety,
            geometry,
            window: Arc::new(Window::adapting(Pace::new(
                limits::WRITE_WINDOW_STRIPES,
                STRIPE_QUICK,
                STRIPE_SLOW,
            ))),
            packer: Packer::new(),
            packed: Vec::new(),
            packs: VecDeque::new(),
            batch: Batch::default(),
            written_at: Instant::now(),
            directories: HashMap::new(),
            is_hidden: false,
            overwriting: 0,
            is_answered: false,
            replicating: None,
            report: PutReport {
                survives: geometry.m(),
                wanted,
                ..PutReport::default()
            },
        }
    }

    /// What was done so far.
    pub fn report(&self) -> PutReport {
        self.report
    }

    /// Makes a directory and those above it, where they are missing.
    pub async fn make_directory(&mut self, path: &Path) -> Result<(), NodeError> {
        self.directory(path).await.map(drop)
    }

    /// Puts one file. Its bytes are read to the end before this returns; it has its name once the upload is finished or flushed.
    pub async fn put_file(
        &mut self,
        path: Path,
        meta: FileMeta,
        mut reader: impl AsyncRead + Send + Unpin + 'static,
    ) -> Result<(), NodeError> {
        let mut head = Vec::new();
        if let Err(source) = (&mut reader).take(HEAD_BYTES).read_to_end(&mut head).await {
            return Err(NodeError::Source { path, source });
        }
        self.put_parts(path, meta, head, tokio_util::io::SyncIoBridge::new(reader))
            .await
    }

    /// Puts one file as [`Upload::put_file`] does, from a reader that blocks: an open file of this machine, say.
    pub async fn put_blocking(
        &mut self,
        path: Path,
        meta: FileMeta,
        mut reader: impl Read + Send + 'static,
    ) -> Result<(), NodeError> {
        let read = Shared::blocking(move || {
            let mut head = Vec::new();
            let read = reader.by_ref().take(HEAD_BYTES).read_to_end(&mut head);
            read.map(|_| (head, reader))
        });
        match read.await {
            Ok((head, reader)) => self.put_parts(path, meta, head, reader).await,
            Err(source) => Err(NodeError::Source { path, source }),
        }
    }

    /// Puts what lies in `head`, and then in `rest` when the head is as long as a head can be.
    async fn put_parts(
        &mut self,
        path: Path,
        meta: FileMeta,
        head: Vec<u8>,
        rest: impl Read + Send + 'static,
    ) -> Result<(), NodeError> {
        if path.names().is_empty() {
            return Err(TreeError::IsADirectory(path).into());
        }
        // At once, not when all its bytes are stored, or packed with those of others.
        let (parent, name) = path.split().expect("not the root");
        let directory = self.directory(&parent).await?;
        let found = self.space.view().named(&self.space.read()?, directory, name)?;
        if found.is_some_and(|found| is_directory(&found)) {
            return Err(TreeError::IsADirectory(path).into());
        }
        let before = self.report;
        self.report.files += 1;
        self.report.bytes += head.len() as u64;
        if head.len() > PACK_FILE_BYTES_MAX {
            let put = self.put_large((path, directory), meta, head, rest).await;
            if put.is_err() {
                (self.report.files, self.report.bytes) = (before.files, before.bytes);
            }
            return put;
        }
        // What is hidden has keys to others, and its own is given away.
        if let Some(content) = inline(&head).filter(|_| !self.is_hidden || head.is_empty()) {
            return self
                .name_file(
                    &path,
                    &meta,
                    FileId::generate(directory.area(), &*self.space.entropy),
                    &content,
                    Vec::new(),
                )
                .await;
        }
        // What is in an area lies in no piece with what is not.
        if self.packed.last().is_some_and(|last| last.area != directory.area()) {
            self.close_pack().await?;
        }
        let slot = match self.packer.push(&head) {
            Some(slot) => slot,
            None => {
                self.close_pack().await?;
                self.packer.push(&head).expect("an empty pack takes a small file")
            }
        };
        self.packed.push(Packed {
            path,
            meta,
            slot,
            area: directory.area(),
        });
        Ok(())
    }

    /// Everything put so far is durable and has its names when this returns.
    pub async fn flush(&mut self) -> Result<PutReport, NodeError> {
        self.close_pack().await?;
        while let Some(pack) = self.packs.pop_front() {
            self.finish_pack(pack).await?;
        }
        self.write_batch().await?;
        if let Some(replicating) = self.replicating.take() {
            let _before = replicating.await.map_err(|_| NodeError::Stopping)??;
        }
        // What could not be read may have been put again.
        self.space.watch.lock().expect("never poisoned").call_again();
        if std::mem::take(&mut self.is_answered) {
            rails::answer(&self.space, self.space.usual_fate()?).await?;
        }
        if let Some(losses) = names::replicate(&self.space).await? {
            self.report.survives = self.report.survives.min(losses);
        }
        Ok(self.report)
    }

    /// Writes down what was stored of an upload that failed, so that it is found when it is begun again, and collected when it is not.
    pub async fn keep(&mut self) -> Result<(), NodeError> {
        self.write_batch().await
    }

    /// As [`Upload::flush`], for the last time.
    pub async fn finish(mut self) -> Result<PutReport, NodeError> {
        self.flush().await
    }

    async fn put_large(
        &mut self,
        (path, directory): (Path, DirId),
        meta: FileMeta,
        head: Vec<u8>,
        reader: impl Read + Send + 'static,
    ) -> Result<(), NodeError> {
        let head_len = head.len() as u64;
        let bytes_before = self.report.bytes - head_len;
        let mut chunks = chunks(self.space.clone(), head, reader);
        let id = FileId::generate(directory.area(), &*self.space.entropy);
        let mut builder = ManifestBuilder::new();
        let mut under_way: VecDeque<PieceUnderWay> = VecDeque::new();
        let mut uses = Uses::of(id);
        let _writing = self.space.writing.claim(id);
        let mut len = 0u64;
        let mut broken = None;
        let room = names::room(&self.space, &path)?;
        while let Some(chunk) = chunks.recv().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(source) => {
                    broken = Some(source);
                    break;
                }
            };
            len += chunk.len() as u64;
            // At once, not when all of it was sent.
            room.refuse(len)?;
            self.report.bytes = bytes_before + len.max(head_len);
            under_way.push_back(self.begin_piece(chunk, true).await?);
            while let Some(next) = due(&mut under_way, PieceUnderWay::is_finished) {
                self.append_piece(&mut builder, &mut uses, next).await?;
            }
        }
        for piece in under_way {
            self.append_piece(&mut builder, &mut uses, piece).await?;
        }
        if let Some(source) = broken {
            // What came so far is found when the file is put again.
            uses.write(&mut self.batch);
            return Err(NodeError::Source { path, source });
        }
        let tree = self.finish_manifest(builder, &mut uses).await?;
        let content = tree.map_or_else(|| Content::Inline(Bytes::new()), Content::Tree);
        let stripes = uses.finish(&mut self.batch);
        self.name_file(&path, &meta, id, &content, stripes).await
    }

    async fn finish_manifest(
        &mut self,
        builder: ManifestBuilder,
        uses: &mut Uses,
    ) -> Result<Option<potluck_dag::Tree>, NodeError> {
        let mut nodes = Vec::new();
        let (geometry, entropy) = (self.geometry_now(), Arc::clone(&self.space.entropy));
        let tree = builder
            .finish(&mut |node| seal_node(node, geometry, &*entropy, &mut nodes))
            .map_err(building)?;
        self.store_nodes(nodes, uses).await?;
        Ok(tree)
    }

    async fn append_piece(
        &mut self,
        builder: &mut ManifestBuilder,
        uses: &mut Uses,
        piece: PieceUnderWay,
    ) -> Result<(), NodeError> {
        let finished = self.finish_piece(piece).await?;
        self.note(&finished);
        uses.claims.extend(finished.became.into_claim());
        uses.add(finished.piece.stripe(), &mut self.batch);
        let mut nodes = Vec::new();
        let (geometry, entropy) = (self.geometry_now(), Arc::clone(&self.space.entropy));
        builder
            .push(finished.piece, &mut |node| {
                seal_node(node, geometry, &*entropy, &mut nodes)
            })
            .map_err(building)?;
        self.store_nodes(nodes, uses).await?;
        if self.batch.is_full() || self.written_at.elapsed() >= KEEP_INTERVAL {
            // What an entry pins, it says the use of: so a pin without a use was left behind.
            uses.write(&mut self.batch);
            self.write_batch().await?;
        }
        Ok(())
    }

    async fn store_nodes(&mut self, nodes: Vec<Stripe>, uses: &mut Uses) -> Result<(), NodeError> {
        for stripe in nodes {
            let id = stripe.id;
            let stored = stripes::store(self.space.shared(), self.space.id(), stripe, self.options.strict).await?;
            self.count(&stored);
            self.batch.pins.push(id);
            uses.add(id, &mut self.batch);
        }
        Ok(())
    }

    /// Begins to store a chunk, unless the space has it already. Waits until there is room for it among the bytes under way.
    async fn begin_piece(&mut self, chunk: Bytes, dedup: bool) -> Result<PieceUnderWay, NodeError> {
        let (space, safety, geometry) = (self.space.clone(), self.safety, self.geometry_now());
        let (fingerprint, known) = if dedup {
            look_up(&space, chunk.clone(), geometry).await?
        } else {
            (None, None)
        };
        let cost = u32::try_from(chunk.len()).expect("a chunk is smaller");
        let window = Arc::clone(&space.write_window);
        let permit = window.acquire_many_owned(cost).await.map_err(|_| NodeError::Stopping)?;
        let place = self.window.place().await;
        Ok(tokio::spawn(async move {
            if let Some((piece, claim)) = known
                && let Some(survives) =
                    stripes::survival(space.shared(), space.id(), piece.stripe(), piece.geometry()).await
                && (survives >= geometry.m() || !safety.strict)
            {
                return Ok(Finished {
                    piece,
                    fingerprint: None,
                    became: Became::Found { survives, claim },
                });
            }
            let (piece, stored) = store_piece(&space, chunk, geometry, safety, permit).await?;
            place.done();
            Ok(Finished {
                piece,
                fingerprint,
                became: Became::Stored(stored),
            })
        }))
    }

    async fn finish_piece(&mut self, piece: PieceUnderWay) -> Result<Finished, NodeError> {
        piece.await.map_err(|_| NodeError::Stopping)?
    }

    /// Notes in the batch and in the report what became of a piece.
    fn note(&mut self, finished: &Finished) {
        // A stripe that is used again is pinned again: the pin of its first user may end first.
        self.batch.pins.push(finished.piece.stripe());
        match &finished.became {
            Became::Stored(stored) => self.count(stored),
            // It may lie on fewer machines than it did: those that were away then may be here, and its shards not made anew yet.
            Became::Found { survives, .. } => {
                self.report.deduplicated += u64::from(finished.piece.len());
                self.count_survival(*survives);
            }
        }
        if let Some(fingerprint) = finished.fingerprint {
            self.batch
                .dedup
                .push((fingerprint, to_canonical(&finished.piece.whole())));
        }
    }

    fn count(&mut self, stored: &Stored) {
        self.report.stored += stored.bytes;
        self.count_survival(stored.survives);
    }

    fn count_survival(&mut self, survives: u8) {
        self.report.degraded += u64::from(survives < self.geometry.m());
        self.report.survives = self.report.survives.min(survives);
    }

    /// How what comes next is coded: machines come and go while a large file is put.
    fn geometry_now(&self) -> Geometry {
        geometry_now(&self.space, self.safety).unwrap_or(self.geometry)
    }

    async fn close_pack(&mut self) -> Result<(), NodeError> {
        if self.packer.is_empty() {
            return Ok(());
        }
        let plain = Bytes::from(self.packer.take());
        let piece = self.begin_piece(plain, true).await?;
        let files = std::mem::take(&mut self.packed);
        self.packs.push_back(PackUnderWay { piece, files });
        while let Some(pack) = due(&mut self.packs, |pack| pack.piece.is_finished()) {
            self.finish_pack(pack).await?;
        }
        Ok(())
    }

    async fn finish_pack(&mut self, pack: PackUnderWay) -> Result<(), NodeError> {
        let PackUnderWay { piece, files } = pack;
        let finished = self.finish_piece(piece).await?;
        self.note(&finished);
        for Packed { path, meta, slot, area } in files {
            let part = finished.piece.slot(slot).expect("the slot is in the pack");
            let stripe = part.stripe();
            let content = Content::Tree(potluck_dag::Tree::leaf(part).expect("a packed file has bytes"));
            let id = FileId::generate(area, &*self.space.entropy);
            self.name_file(&path, &meta, id, &content, vec![stripe]).await?;
        }
        self.batch.claims.extend(finished.became.into_claim());
        Ok(())
    }

    /// The change that gives a file its name, in place of what has it now.
    async fn name_file(
        &mut self,
        path: &Path,
        meta: &FileMeta,
        id: FileId,
        content: &Content,
        uses: Vec<StripeId>,
    ) -> Result<(), NodeError> {
        let (parent, name) = path.split().expect("not the root");
        let directory = self.directory(&parent).await?;
        if id.area() != directory.area() {
            // It has become part of one that is shared alone, or was moved into one, while this was put.
            return Err(NodeError::OtherArea(path.clone()));
        }
        let mut kv = self.space.read()?;
        let found = self.space.view().named(&kv, directory, name)?;
        if uses.is_empty() && found.is_some() && matches!(content, Content::Tree(_)) {
            // The list of its stripes is to be compared.
            self.write_batch().await?;
            kv = self.space.read()?;
        }
        if found.as_ref().is_some_and(is_directory) {
            return Err(TreeError::IsADirectory(path.clone()).into());
        }
        // What conflicts with it stays until a person says what is to become of it.
        let (heads, copy_of) = match found {
            Some(found) => {
                let copy_of = found.is_copy.then(|| found.name.clone());
                (found.into_latest(), copy_of)
            }
            None => (Vec::new(), None),
        };
        let file = File {
            id,
            len: content.len(),
            modified: meta.modified,
            executable: meta.executable,
            content: ByteBuf::from(to_canonical(content)),
            uses,
            survives: self.geometry.m(),
            asked: self.safety.said(),
        };
        let (file, fate) = match (&heads[..], &copy_of) {
            ([head], None) if !self.is_hidden && self.is_there(&kv, head, &file)? => {
                match self.put_again((directory, name), head, file) {
                    Some(file) => (file, Fate::moved_for(self.space.retention()?)),
                    None => return self.write_batch_if_full().await,
                }
            }
            _ => {
                let fate = self.fate_of(&kv, &heads, &file)?;
                (file, fate)
            }
        };
        self.batch.bytes += 200 + name.as_str().len() + file.content.len() + 34 * file.uses.len();
        let mut replaces = heads.into_iter().map(|head| head.op).collect();
        if let Some(register) = copy_of {
            // From now on it has the name that it was shown under.
            self.batch.changes.push(Change::Set {
                parent: directory,
                name: register,
                value: None,
                replaces: std::mem::take(&mut replaces),
                fate,
            });
        }
        self.batch.changes.push(Change::Set {
            parent: directory,
            name: name.clone(),
            value: Some(Value::File(file)),
            replaces,
            fate,
        });
        self.write_batch_if_full().await
    }

    /// Whether a file has the content already that is put, and is to survive as much.
    fn is_there(&self, kv: &impl Kv, head: &Head, file: &File) -> Result<bool, NodeError> {
        let Value::File(known) = &head.value else {
            return Ok(false);
        };
        let is_as_safe = (known.survives, &known.asked) == (file.survives, &file.asked);
        Ok(is_as_safe && has_same_content(&self.space, kv, known, file)?)
    }

    /// A file is put again with the content that it has: it has had that since it was put, wherever that lies from now on. Gives what is left to be said, if it looks newer.
    fn put_again(&mut self, (parent, name): (DirId, &Name), head: &Head, file: File) -> Option<File> {
        let Value::File(known) = &head.value else {
            return Some(file);
        };
        if (known.modified, known.executable) != (file.modified, file.executable) {
            return Some(file);
        }
        if known.content != file.content {
            self.batch.bytes += 300 + name.as_str().len() + file.content.len() + 34 * file.uses.len();
            self.batch.changes.push(Change::Recode {
                parent,
                name: name.clone(),
                of: head.op,
                file,
            });
        }
        None
    }

    /// What becomes of the versions that a file takes the place of. Refused when more is overwritten than the person may have meant.
    fn fate_of(&mut self, kv: &impl Kv, heads: &[Head], file: &File) -> Result<Fate, NodeError> {
        if self.is_hidden {
            return Ok(Fate::Carried);
        }
        let others = || {
            heads.iter().filter_map(|head| match &head.value {
                Value::File(file) => Some(file),
                Value::Directory(_) | Value::Space(_) => None,
            })
        };
        let mut is_same = true;
        for other in others() {
            is_same &= has_same_content(&self.space, kv, other, file)?;
        }
        if is_same {
            return Ok(Fate::moved_for(self.space.retention()?));
        }
        // It may lie in other stripes since.
        if others().all(|other| other.len == file.len && other.modified == file.modified) {
            return Ok(Fate::shelved_for(self.space.retention()?));
        }
        self.overwriting += others().count() as u64;
        match rails::refuse_mass(&self.space, kv, Loss::Overwrite, self.overwriting) {
            Err(NodeError::Mass(_)) if self.options.confirmed => self.is_answered = true,
            refused => refused?,
        }
        self.space.usual_fate()
    }

    async fn directory(&mut self, path: &Path) -> Result<DirId, NodeError> {
        if let Some(id) = self.directories.get(path) {
            // It may have been made anew since, as one that is shared alone.
            let is_there = self.is_hidden || *id == DirId::ROOT || {
                let place = Tree::of(self.space.id()).place_of(&self.space.read()?, *id);
                place.map_err(TreeError::from)?.is_some()
            };
            if is_there {
                return Ok(*id);
            }
        }
        // New directories are written at once: what is put into them must find them.
        self.write_batch().await?;
        let kv = self.space.read()?;
        let (changes, id) = self.space.view().make_directories(&kv, path, &*self.space.entropy)?;
        if !changes.is_empty() {
            self.batch.changes = changes;
            self.write_batch().await?;
        }
        self.directories.insert(path.clone(), id);
        Ok(id)
    }

    async fn write_batch_if_full(&mut self) -> Result<(), NodeError> {
        if self.batch.is_full() {
            self.write_batch().await
        } else {
            Ok(())
        }
    }

    /// Writes the batch here, and begins to bring it to the custodians.
    async fn write_batch(&mut self) -> Result<(), NodeError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let space = self.space.clone();
        Shared::blocking(move || space.refuse_when_full()).await?;
        self.written_at = Instant::now();
        let batch = std::mem::take(&mut self.batch);
        self.overwriting = 0;
        let unpinned = Box::pin(names::write(&self.space, batch)).await?;
        if !unpinned.is_empty() {
            crate::sweep::announce(&self.space, unpinned);
        }
        if self.replicating.as_ref().is_none_or(JoinHandle::is_finished) {
            if let Some(replicated) = self.replicating.take() {
                replicated.await.map_err(|_| NodeError::Stopping)??;
            }
            let space = self.space.clone();
            self.replicating = Some(tokio::spawn(async move { names::replicate(&space).await }));
        }
        Ok(())
    }
}

/// Whether a directory has the name.
fn is_directory(found: &Found) -> bool {
    matches!(found.heads[0].value, Value::Directory(_))
}

/// Whether a file that is put has the content that another one has: the same, or of the same pieces. The nodes of its manifest are sealed anew each time, and are the only stripes that
/// differ then.
fn has_same_content(space: &OpenSpace, kv: &impl Kv, old: &File, new: &File) -> Result<bool, NodeError> {
    if old.content == new.content {
        return Ok(true);
    }
    let tree = Tree::of(space.id());
    let stripes = |file: &File| match file.uses.is_empty() {
        true => tree.stripes_of(kv, file.id),
        false => Ok(file.uses.clone()),
    };
    let count = match new.uses.len() as u64 {
        0 => tree.count_stripes(kv, new.id)?,
        few => few,
    };
    if old.len != new.len || !COMPARED_STRIPES.contains(&count) || tree.count_stripes(kv, old.id)? != count {
        return Ok(false);
    }
    let (before, now) = (stripes(old)?, stripes(new)?);
    let differing = before.iter().zip(&now).filter(|(a, b)| a != b).count();
    Ok(differing <= node_count(before.len()))
}

/// How many of so many stripes of a file hold nodes of its manifest.
fn node_count(stripes: usize) -> usize {
    let nodes = |mut pieces: usize| {
        let mut nodes = 0;
        while pieces > 1 {
            pieces = pieces.div_ceil(limits::MANIFEST_CHILDREN_MAX);
            nodes += pieces;
        }
        nodes
    };
    (0..=stripes)
        .rev()
        .map(nodes)
        .zip((0..=stripes).rev())
        .find(|(nodes, pieces)| nodes + pieces <= stripes)
        .map_or(0, |(nodes, _)| nodes)
}

/// The stripes of a file: a short list stays with its name, a long one goes ahead of it in parts.
struct Uses {
    file: FileId,
    part: u32,
    stripes: Vec<StripeId>,
    claims: Vec<Claim<StripeId>>,
    all_inline: bool,
}

impl Uses {
    fn of(file: FileId) -> Self {
        Self {
            file,
            part: 0,
            stripes: Vec::new(),
            claims: Vec::new(),
            all_inline: true,
        }
    }

    fn add(&mut self, stripe: StripeId, batch: &mut Batch) {
        self.stripes.push(stripe);
        if self.stripes.len() >= limits::PINS_PER_ENTRY_MAX / 4 {
            self.write(batch);
        }
    }

    fn write(&mut self, batch: &mut Batch) {
        if self.stripes.is_empty() {
            return;
        }
        self.all_inline = false;
        let stripes = std::mem::take(&mut self.stripes);
        batch.claims.append(&mut self.claims);
        batch.bytes += 34 * stripes.len() + 64;
        batch.changes.push(Change::Uses {
            file: self.file,
            part: self.part,
            stripes,
        });
        self.part += 1;
    }

    fn finish(mut self, batch: &mut Batch) -> Vec<StripeId> {
        if self.all_inline && self.stripes.len() <= USES_INLINE_MAX {
            batch.claims.append(&mut self.claims);
            return self.stripes;
        }
        self.write(batch);
        Vec::new()
    }
}

/// The next in order, once it is stored, or when too many wait for it. One that takes long keeps no others from being stored meanwhile.
fn due<T>(under_way: &mut VecDeque<T>, is_stored: impl Fn(&T) -> bool) -> Option<T> {
    let is_full = under_way.len() >= PIECES_AHEAD_MAX;
    under_way.pop_front_if(|next| is_full || is_stored(next))
}

fn inline(bytes: &[u8]) -> Option<Content> {
    (bytes.len() <= manifest::INLINE_BYTES_MAX).then(|| Content::Inline(Bytes::copy_from_slice(bytes)))
}

/// Cuts a stream into chunks, a few ahead of who takes them.
fn chunks(space: OpenSpace, head: Vec<u8>, reader: impl Read + Send + 'static) -> mpsc::Receiver<io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(2);
    tokio::spawn(async move {
        let reader = Read::chain(io::Cursor::new(head), reader);
        let mut chunks = Chunks::new(reader, space.dedup_key());
        loop {
            let (chunk, rest) = Shared::blocking(move || (chunks.next(), chunks)).await;
            chunks = rest;
            let Some(chunk) = chunk else { return };
            if sender.send(chunk).await.is_err() {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_counted_among_stripes() {
        let check = |pieces: usize, nodes: usize| assert_eq!(node_count(pieces + nodes), nodes, "{pieces}");
        check(1, 0);
        check(2, 1);
        check(1024, 1);
        check(1025, 3);
        check(5000, 6);
    }

    #[test]
    fn pieces_come_in_order_and_a_slow_one_keeps_a_bounded_number_waiting() {
        let mut stored = VecDeque::from([true, true, false]);
        assert_eq!(due(&mut stored, |is_stored| *is_stored), Some(true));
        assert_eq!(due(&mut stored, |is_stored| *is_stored), Some(true));
        while stored.len() < PIECES_AHEAD_MAX {
            assert_eq!(due(&mut stored, |is_stored| *is_stored), None);
            stored.push_back(true);
        }
        assert_eq!(due(&mut stored, |is_stored| *is_stored), Some(false));
        assert_eq!(due(&mut stored, |is_stored| *is_stored), Some(true));
    }
}
