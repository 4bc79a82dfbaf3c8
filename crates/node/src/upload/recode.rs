//! Coding anew: what was stored when the pool was smaller gets the coding that the pool can give now, and what needs more machines than
//! there are, one that fits.
//!
//! Only who holds the key to a space can do it, since manifests name stripes. Of a person's nodes one does it, the first in the space's order. The
//! sealed bytes stay as they are: nothing is opened but manifests.

use super::{
    Upload, Uses,
    piece::{Became, Finished, PieceUnderWay, Safety, building, claim_live, known_piece},
};
use crate::{
    api::PutOptions,
    control::Domains,
    download::read_piece,
    error::{NodeError, ShardsError},
    files::{FileAt, Files},
    names,
    shared::Shared,
    space::OpenSpace,
    stripes::{self, Effort},
};
use potluck_dag::{Content, ManifestBuilder, Piece, Tree as Manifest, Walk, stripe};
use potluck_placement::{default_survive, geometry, survivable};
use potluck_spaces::{Change, DirId, File, FileId, Settings, TreeError};
use potluck_types::{Geometry, Timestamp, from_canonical, limits, to_canonical};
use serde_bytes::ByteBuf;
use std::{collections::VecDeque, sync::Arc, time::Duration};

/// Stripes under way at once: few, as nobody waits for them.
const WINDOW: usize = 4;
/// When everything is looked through again although the pool is as it was.
const AGAIN_AFTER: Duration = Duration::from_secs(24 * 3600);
/// How soon after an absence has become long it is looked again.
const GONE_MARGIN: Duration = Duration::from_millis(100);
/// How often it is looked at least whether the pool is another one.
const LOOK_INTERVAL: Duration = Duration::from_secs(600);
/// The same after something failed; at most a tenth of the time goes into looking.
const RETRY_AFTER: Duration = Duration::from_secs(10);
const RETRY_PER_LOOK: u32 = 10;
/// What takes this much more room than it must, in percent, is worth storing anew.
const WASTE_PERCENT: usize = 125;

/// How it goes.
#[derive(Default, Debug)]
pub(crate) struct Recoding {
    /// The failure domains that all was looked through for, when, and how long after it is looked again.
    looked: Option<(Domains, Timestamp, Duration)>,
    /// Files that are still to be coded anew.
    pub(crate) left: u64,
    /// For how many failure domains there are where the space may be, if it may not be everywhere, and since when that is so.
    confined: Option<(usize, Timestamp)>,
}

/// A file that is to be coded anew.
struct Found {
    at: FileAt,
    manifest: Manifest,
    target: Geometry,
}

/// Looks whether something is to be coded anew, and does it, if this is the node to do it and the pool has been as it is for a while.
/// Gives how long after it to look again, if nothing happens before.
pub(crate) async fn look(space: &OpenSpace) -> Duration {
    let next = look_now(space).await.min(LOOK_INTERVAL);
    let now = space.steady();
    let next_gone = space.with_control(|control| control.until_next_gone(now));
    next_gone.map_or(next, |gone| next.min(gone + GONE_MARGIN))
}

async fn look_now(space: &OpenSpace) -> Duration {
    let now = space.steady();
    let until_settled = space.with_control(|control| control.until_settled(now));
    if !until_settled.is_zero() {
        return until_settled;
    }
    let Some(domains) = space.with_control(|control| control.settled_domains(now, space.id())) else {
        return LOOK_INTERVAL;
    };
    let patience = less_safe_in(space, domains, now);
    let looked = space.opened().recoding.lock().expect("never poisoned").looked;
    let left = looked
        .filter(|(seen, ..)| *seen == domains)
        .map_or(Duration::ZERO, |(_, at, pause)| pause.saturating_sub(now.since(at)));
    if left > Duration::ZERO {
        return left;
    }
    if space.refuse_when_full().is_err() {
        return RETRY_AFTER;
    }
    let done = match Box::pin(all(space, domains, patience.is_zero())).await {
        Ok(done) => done,
        Err(error) => {
            tracing::info!(%error, "older files are not yet coded anew");
            Done::Failed
        }
    };
    let ended = space.steady();
    let pause = match done {
        Done::All => AGAIN_AFTER,
        Done::ButLessSafe => patience,
        Done::Failed => RETRY_AFTER.max(ended.since(now).saturating_mul(RETRY_PER_LOOK)),
    };
    let mut recoding = space.opened().recoding.lock().expect("never poisoned");
    (recoding.looked, recoding.left) = (Some((domains, ended, pause)), 0);
    pause
}

/// What came of coding anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Done {
    /// All that should be.
    All,
    /// All but what would be less safe than it is, and has time.
    ButLessSafe,
    /// Not all.
    Failed,
}

/// How long nothing is made less safe than it is, since the space may be where there are too few machines for it: who says so by mistake, or has stolen the key to say it, has taken
/// nothing away by then. As long as an absent machine is waited for.
fn less_safe_in(space: &OpenSpace, domains: Domains, now: Timestamp) -> Duration {
    let is_confined = space.regions(space.id()).is_some();
    let mut recoding = space.opened().recoding.lock().expect("never poisoned");
    let known = recoding.confined.filter(|(all, _)| *all == domains.all);
    recoding.confined = is_confined.then(|| known.unwrap_or((domains.all, now)));
    let since = recoding.confined.map(|(_, since)| since);
    drop(recoding);
    let patience = space.with_control(|control| control.gone_after());
    since.map_or(Duration::ZERO, |since| patience.saturating_sub(now.since(since)))
}

/// Codes everything anew that should be.
async fn all(space: &OpenSpace, domains: Domains, may_be_less_safe: bool) -> Result<Done, NodeError> {
    let mut left = 0;
    let mut search = Search::new(space, domains, may_be_less_safe);
    while search.next().await?.is_some() {
        left += 1;
    }
    let done = match search.held_back {
        0 => Done::All,
        files => {
            tracing::info!(
                files,
                "these would be less safe where the space may be, and stay where they are for now"
            );
            Done::ButLessSafe
        }
    };
    if left == 0 {
        return Ok(done);
    }
    tracing::info!(
        files = left,
        domains = domains.here,
        "coding older files anew for this many failure domains"
    );
    let options = PutOptions {
        strict: true,
        ..PutOptions::default()
    };
    let safety = Safety::of(space.id(), options, Settings::default());
    let mut upload = Upload::new(space.clone(), options, safety, geometry(domains.here, 0)?);
    let mut failed = false;
    let mut search = Search::new(space, domains, may_be_less_safe);
    set_left(space, left);
    while let Some(found) = search.next().await? {
        let now = space.steady();
        if space.with_control(|control| control.settled_domains(now, space.id())) != Some(domains) {
            failed = true;
            break;
        }
        let path = found.at.path.clone();
        if let Err(error) = upload.recode(found).await {
            tracing::info!(%path, %error, "a file is not yet coded anew");
            failed = true;
        }
        left = left.saturating_sub(1);
        set_left(space, left);
    }
    upload.finish().await?;
    Ok(if failed { Done::Failed } else { done })
}

fn set_left(space: &OpenSpace, left: u64) {
    space.opened().recoding.lock().expect("never poisoned").left = left;
}

/// Goes through all files, and gives those that are to be coded anew.
struct Search {
    space: OpenSpace,
    domains: Domains,
    may_be_less_safe: bool,
    /// Files that would be less safe, and are left alone.
    held_back: u64,
    files: Files,
}

impl Search {
    fn new(space: &OpenSpace, domains: Domains, may_be_less_safe: bool) -> Self {
        Self {
            space: space.clone(),
            domains,
            may_be_less_safe,
            held_back: 0,
            // With what links show, which no path leads to.
            files: Files::below(space, vec![DirId::ROOT, DirId::LINKS]).and_trash(),
        }
    }

    async fn next(&mut self) -> Result<Option<Found>, NodeError> {
        while let Some(at) = self.files.next().await? {
            if let Some((manifest, target)) = to_be_recoded(&self.space, &at.file, self.domains).await? {
                if target.m() < at.file.survives && !self.may_be_less_safe {
                    self.held_back += 1;
                    continue;
                }
                return Ok(Some(Found { at, manifest, target }));
            }
        }
        Ok(None)
    }
}

/// The manifest of a file and the coding that it should have, if it has not.
async fn to_be_recoded(
    space: &OpenSpace,
    file: &File,
    domains: Domains,
) -> Result<Option<(Manifest, Geometry)>, NodeError> {
    if file.is_erased() {
        return Ok(None);
    }
    let content: Content = from_canonical(&file.content).map_err(TreeError::from)?;
    let Content::Tree(manifest) = content else {
        return Ok(None);
    };
    let mut piece = manifest.root().clone();
    let mut found = better(&piece, file, domains)?;
    if manifest.depth() > 0 && found.is_none() {
        // The first piece of the data stands for all: a file is coded in one way.
        let mut walk = Walk::new(manifest.clone(), 0..1);
        while let Some(part) = walk.next() {
            if part.data_range().is_some() {
                piece = part.tree.root().clone();
                break;
            }
            let node = read_piece(
                (space.shared(), space.id()),
                part.tree.root(),
                0..part.tree.root().len(),
                true,
            )
            .await?;
            walk.descend(&part, &node).map_err(building)?;
        }
        found = better(&piece, file, domains)?;
    }
    Ok(found.map(|target| (manifest, target)))
}

/// How a file should be coded for so many domains.
fn target(file: &File, domains: usize) -> Result<Geometry, NodeError> {
    let wanted = file
        .asked
        .unwrap_or_else(|| default_survive(domains).max(file.survives));
    Ok(geometry(domains, wanted.min(survivable(domains)))?)
}

/// Small pieces are copied, whatever the coding.
fn goal(sealed_len: usize, target: Geometry) -> Geometry {
    if sealed_len <= limits::REPLICATE_SEALED_BYTES_MAX {
        Geometry::new(1, target.m()).expect("fewer shards than a geometry that exists")
    } else {
        target
    }
}

/// The coding that a file gets if this piece of it survives less than it could with who is here: because it was made so, or because it has more
/// shards than there are domains for, and those missing are not expected back. Also if it has more than there are members; or if it takes far more room
/// than it must, and nobody is away: an absence alone is no reason to store everything anew.
fn better(piece: &Piece, file: &File, domains: Domains) -> Result<Option<Geometry>, NodeError> {
    if domains.here == 0 {
        return Ok(None);
    }
    let has = piece.geometry();
    let now = target(file, domains.here)?;
    let goal_now = goal(piece.sealed_len(), now);
    let too_many_for = |domains: usize| usize::from(has.n()) > domains.max(1) && has.n() > goal_now.n();
    let survives_here = (usize::from(has.m()) + domains.here).saturating_sub(has.n().into());
    let is_short = too_many_for(domains.expected) && survives_here < usize::from(goal_now.m());
    if has.m() < goal_now.m() || is_short || too_many_for(domains.all) {
        return Ok(Some(now));
    }
    if domains.here != domains.expected {
        return Ok(None);
    }
    let room = |geometry: Geometry, by: Geometry| usize::from(geometry.n()) * usize::from(by.k());
    let wastes = has.m() <= goal_now.m() && 100 * room(has, goal_now) >= WASTE_PERCENT * room(goal_now, has);
    Ok(wastes.then_some(now))
}

impl Upload {
    async fn recode(&mut self, found: Found) -> Result<(), NodeError> {
        let Found { at, manifest, target } = found;
        let FileAt {
            parent, name, op, file, ..
        } = at;
        self.geometry = target;
        let id = FileId::generate(parent.area(), &*self.space.entropy);
        let mut uses = Uses::of(id);
        let _writing = self.space.writing.claim(id);
        let manifest = if manifest.depth() == 0 {
            let under_way = self.begin_recode(manifest.root().clone()).await?;
            let finished = self.finish_piece(under_way).await?;
            self.note(&finished);
            uses.claims.extend(finished.became.into_claim());
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
            of: op,
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
                let node = read_piece((self.space.shared(), self.space.id()), piece, 0..piece.len(), true).await?;
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
        let space = self.space.clone();
        let (goal, strict) = (goal(piece.sealed_len(), self.geometry), self.options.strict);
        let cost = u32::try_from(piece.sealed_len()).expect("a piece is smaller");
        let window = Arc::clone(&space.write_window);
        let permit = window.acquire_many_owned(cost).await.map_err(|_| NodeError::Stopping)?;
        Ok(tokio::spawn(async move {
            let _permit = permit;
            let old = piece.stripe();
            let again = known_piece(&space, old.as_bytes())?.filter(|other| other.geometry() == goal);
            if let Some(other) = again
                && let Some(claim) = claim_live(&space, other.stripe())?
                && let Some(survives) = stripes::survival(space.shared(), space.id(), other.stripe(), goal).await
            {
                return Ok(Finished {
                    piece: piece.recoded(other.stripe(), goal),
                    fingerprint: None,
                    became: Became::Found { survives, claim },
                });
            }
            let gathered = stripes::gather(
                space.shared(),
                Some(space.id()),
                old,
                piece.geometry(),
                &[],
                Effort::Ask,
            )
            .await?;
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
            // The same bytes coded in the same way are the same stripe again: when the pool was small for a while it was given up.
            names::revive(&space, coded.id).await?;
            let stored = stripes::store(space.shared(), space.id(), coded, strict).await?;
            Ok(Finished {
                piece,
                fingerprint: Some(*old.as_bytes()),
                became: Became::Stored(stored),
            })
        }))
    }
}
