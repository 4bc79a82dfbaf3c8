//! Coding anew: what was stored when the pool was smaller gets the coding that the pool can give now, and what needs more machines than
//! there are, one that fits.
//!
//! Only who holds the key to a space can do it, since manifests name stripes. Of a person's nodes one does it, the first in the space's order. The
//! sealed bytes stay as they are: nothing is opened but manifests.

use super::{Finished, PieceUnderWay, Upload, Uses, building, claim_live, known_piece};
use crate::{
    api::PutOptions,
    download::read_piece,
    error::{NodeError, ShardsError},
    shared::Shared,
    stripes,
};
use potluck_dag::{Content, ManifestBuilder, Piece, Tree as Manifest, Walk, stripe};
use potluck_placement::{default_survive, geometry, survivable};
use potluck_spaces::{Change, DirId, File, FileId, Head, Name, OpId, Tree, TreeError, Value};
use potluck_types::{Geometry, Timestamp, from_canonical, limits, to_canonical};
use serde_bytes::ByteBuf;
use std::{collections::VecDeque, sync::Arc, time::Duration};

/// Names that one step of the search reads.
const PAGE: usize = 256;
/// Stripes under way at once: few, as nobody waits for them.
const WINDOW: usize = 4;
/// When everything is looked through again although the pool is as it was.
const AGAIN_AFTER: Duration = Duration::from_secs(24 * 3600);
/// The same after something failed.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// What takes this much more room than it must, in percent, is worth storing anew.
const WASTE_PERCENT: usize = 125;

/// How it goes.
#[derive(Default, Debug)]
pub(crate) struct Recoding {
    /// The failure domains that all was looked through for, when, and whether all of it was done.
    looked: Option<(usize, Timestamp, bool)>,
    /// Files that are still to be coded anew.
    pub(crate) left: u64,
}

/// A file that is to be coded anew.
struct Found {
    parent: DirId,
    name: Name,
    of: OpId,
    file: File,
    manifest: Manifest,
    target: Geometry,
}

/// Looks whether something is to be coded anew, and does it, if this is the node to do it and the pool has been as it is for a while.
pub(crate) async fn look(shared: &Arc<Shared>) {
    let Ok(_alone) = shared.recoding_alone.try_lock() else {
        return;
    };
    let now = shared.now();
    let Some(domains) = shared.with_control(|control| control.settled_domains(now, shared.space)) else {
        return;
    };
    let looked = shared.recoding.lock().expect("never poisoned").looked;
    let is_due = looked.is_none_or(|(seen, at, done)| {
        seen != domains || now.since(at) >= if done { AGAIN_AFTER } else { RETRY_AFTER }
    });
    if !is_due {
        return;
    }
    let done = match all(shared, domains).await {
        Ok(done) => done,
        Err(error) => {
            tracing::info!(%error, "older files are not yet coded anew");
            false
        }
    };
    let mut recoding = shared.recoding.lock().expect("never poisoned");
    *recoding = Recoding {
        looked: Some((domains, shared.now(), done)),
        left: 0,
    };
}

/// Codes everything anew that should be; whether all of it was done.
async fn all(shared: &Arc<Shared>, domains: usize) -> Result<bool, NodeError> {
    let mut left = 0;
    let mut search = Search::new(shared, domains);
    while search.next().await?.is_some() {
        left += 1;
    }
    if left == 0 {
        return Ok(true);
    }
    tracing::info!(
        files = left,
        domains,
        "coding older files anew for this many failure domains"
    );
    let options = PutOptions {
        survive: None,
        strict: true,
    };
    let mut upload = Upload::new(Arc::clone(shared), options)?;
    let mut failed = false;
    let mut search = Search::new(shared, domains);
    set_left(shared, left);
    while let Some(found) = search.next().await? {
        let now = shared.now();
        if shared.with_control(|control| control.settled_domains(now, shared.space)) != Some(domains) {
            failed = true;
            break;
        }
        let name = found.name.clone();
        if let Err(error) = upload.recode(found).await {
            tracing::info!(name = name.as_str(), %error, "a file is not yet coded anew");
            failed = true;
        }
        left = left.saturating_sub(1);
        set_left(shared, left);
    }
    upload.finish().await?;
    Ok(!failed)
}

fn set_left(shared: &Shared, left: u64) {
    shared.recoding.lock().expect("never poisoned").left = left;
}

/// Goes through all files, and gives those that are to be coded anew.
struct Search<'a> {
    shared: &'a Arc<Shared>,
    domains: usize,
    directories: Vec<(DirId, Option<Name>)>,
    files: VecDeque<(DirId, Name, OpId, File)>,
}

impl<'a> Search<'a> {
    fn new(shared: &'a Arc<Shared>, domains: usize) -> Self {
        Self {
            shared,
            domains,
            directories: vec![(DirId::ROOT, None)],
            files: VecDeque::new(),
        }
    }

    async fn next(&mut self) -> Result<Option<Found>, NodeError> {
        loop {
            while let Some((parent, name, of, file)) = self.files.pop_front() {
                if let Some((manifest, target)) = to_be_recoded(self.shared, &file, self.domains).await? {
                    return Ok(Some(Found {
                        parent,
                        name,
                        of,
                        file,
                        manifest,
                        target,
                    }));
                }
            }
            let Some((directory, after)) = self.directories.pop() else {
                return Ok(None);
            };
            let task = Arc::clone(self.shared);
            let page = Shared::blocking(move || {
                let kv = task.read()?;
                let page = Tree::of(task.space).list(&kv, directory, after.as_ref(), PAGE)?;
                Ok::<_, NodeError>(page)
            })
            .await?;
            if let Some(last) = page.last() {
                self.directories.push((directory, Some(last.name.clone())));
            }
            for listed in page {
                for Head { op, value, .. } in listed.heads {
                    match value {
                        Value::Directory(id) => self.directories.push((id, None)),
                        Value::File(file) => self.files.push_back((directory, listed.name.clone(), op, file)),
                    }
                }
            }
        }
    }
}

/// The manifest of a file and the coding that it should have, if it has not.
async fn to_be_recoded(
    shared: &Arc<Shared>,
    file: &File,
    domains: usize,
) -> Result<Option<(Manifest, Geometry)>, NodeError> {
    let content: Content = from_canonical(&file.content).map_err(TreeError::from)?;
    let Content::Tree(manifest) = content else {
        return Ok(None);
    };
    let wanted = file
        .asked
        .unwrap_or_else(|| default_survive(domains).max(file.survives));
    let target = geometry(domains, wanted.min(survivable(domains)))?;
    let mut piece = manifest.root().clone();
    if manifest.depth() > 0 && !is_amiss(&piece, target, domains) {
        // The first piece of the data stands for all: a file is coded in one way.
        let mut walk = Walk::new(manifest.clone(), 0..1);
        while let Some(part) = walk.next() {
            if part.data_range().is_some() {
                piece = part.tree.root().clone();
                break;
            }
            let node = read_piece(shared, part.tree.root(), 0..part.tree.root().len(), true).await?;
            walk.descend(&part, &node).map_err(building)?;
        }
    }
    Ok(is_amiss(&piece, target, domains).then_some((manifest, target)))
}

/// Small pieces are copied, whatever the coding.
fn goal(sealed_len: usize, target: Geometry) -> Geometry {
    if sealed_len <= limits::REPLICATE_SEALED_BYTES_MAX {
        Geometry::new(1, target.m()).expect("fewer shards than a geometry that exists")
    } else {
        target
    }
}

/// Whether a piece survives less than it should, needs more domains than there are, or takes far more room than it must.
fn is_amiss(piece: &Piece, target: Geometry, domains: usize) -> bool {
    let (has, goal) = (piece.geometry(), goal(piece.sealed_len(), target));
    let room = |geometry: Geometry, by: Geometry| usize::from(geometry.n()) * usize::from(by.k());
    has.m() < goal.m()
        || (usize::from(has.n()) > domains.max(1) && has.n() > goal.n())
        || (has.m() <= goal.m() && 100 * room(has, goal) >= WASTE_PERCENT * room(goal, has))
}

impl Upload {
    async fn recode(&mut self, found: Found) -> Result<(), NodeError> {
        let Found {
            parent,
            name,
            of,
            file,
            manifest,
            target,
        } = found;
        self.geometry = target;
        let id = FileId::generate(&*self.shared.entropy);
        let mut uses = Uses::of(id);
        let _writing = self.shared.writing.claim(id);
        let manifest = if manifest.depth() == 0 {
            let under_way = self.begin_recode(manifest.root().clone()).await?;
            let finished = self.finish_piece(under_way).await?;
            self.note(&finished);
            uses.claims.extend(finished.claim);
            uses.add(finished.piece.stripe(), &mut self.batch);
            Manifest::leaf(finished.piece).map_err(building)?
        } else {
            self.recode_tree(&manifest, &mut uses).await?
        };
        let content = ByteBuf::from(to_canonical(&Content::Tree(manifest)));
        let uses = uses.finish(&mut self.batch);
        self.batch.bytes += 300 + name.as_str().len() + content.len() + 34 * uses.len();
        self.batch.changes.push(Change::Recode {
            parent,
            name,
            of,
            file: File {
                id,
                content,
                uses,
                survives: target.m(),
                ..file
            },
        });
        self.write_batch_if_full().await
    }

    async fn recode_tree(&mut self, manifest: &Manifest, uses: &mut Uses) -> Result<Manifest, NodeError> {
        let mut builder = ManifestBuilder::new();
        let mut under_way: VecDeque<PieceUnderWay> = VecDeque::new();
        let mut walk = Walk::new(manifest.clone(), 0..manifest.len());
        while let Some(part) = walk.next() {
            let piece = part.tree.root();
            if part.data_range().is_none() {
                let node = read_piece(&self.shared, piece, 0..piece.len(), true).await?;
                walk.descend(&part, &node).map_err(building)?;
                continue;
            }
            under_way.push_back(self.begin_recode(piece.clone()).await?);
            if under_way.len() >= WINDOW {
                let next = under_way.pop_front().expect("not empty");
                self.append_piece(&mut builder, uses, next).await?;
            }
        }
        for piece in under_way {
            self.append_piece(&mut builder, uses, piece).await?;
        }
        let tree = self.finish_manifest(builder, uses).await?;
        tree.ok_or_else(|| building("it has no pieces"))
    }

    /// Begins to code a piece anew, unless its stripe was already: many small files share one.
    async fn begin_recode(&self, piece: Piece) -> Result<PieceUnderWay, NodeError> {
        let shared = Arc::clone(&self.shared);
        let (goal, strict) = (goal(piece.sealed_len(), self.geometry), self.options.strict);
        let cost = u32::try_from(piece.sealed_len()).expect("a piece is smaller");
        let window = Arc::clone(&shared.write_window);
        let permit = window.acquire_many_owned(cost).await.map_err(|_| NodeError::Stopping)?;
        Ok(tokio::spawn(async move {
            let _permit = permit;
            let old = piece.stripe();
            let again = known_piece(&shared, old.as_bytes())?.filter(|other| other.geometry() == goal);
            if let Some(other) = again
                && let Some(claim) = claim_live(&shared, other.stripe())?
                && stripes::is_there(&shared, other.stripe(), goal).await
            {
                return Ok(Finished {
                    piece: piece.recoded(other.stripe(), goal),
                    fingerprint: None,
                    stored: None,
                    claim: Some(claim),
                });
            }
            let gathered = stripes::gather(&shared, old, piece.geometry(), &[]).await?;
            let coded = Shared::blocking(move || {
                let descriptor = gathered.shards[0].descriptor().clone();
                let sealed = stripe::decode(&descriptor, &gathered.shards)?;
                Ok::<_, stripe::DecodeError>(stripe::encode(sealed.to_vec(), goal))
            })
            .await;
            let damaged = |error: &dyn std::fmt::Display| ShardsError::Damaged {
                stripe: old,
                reason: error.to_string(),
            };
            let coded = coded
                .map_err(|error| damaged(&error))?
                .map_err(|error| damaged(&error))?;
            let piece = piece.recoded(coded.id, goal);
            let stored = stripes::store(&shared, shared.space, coded, strict).await?;
            Ok(Finished {
                piece,
                fingerprint: Some(*old.as_bytes()),
                stored: Some(stored),
                claim: None,
            })
        }))
    }
}
