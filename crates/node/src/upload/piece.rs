//! Pieces: how one is coded for the machines that are here, whether it is stored already, and storing it.

use crate::{
    api::PutOptions,
    claims::Claim,
    control::AtHand,
    error::{MetaError, NodeError, ShardsError},
    shared::Shared,
    space::OpenSpace,
    stripes::{self, Stored},
};
use bytes::Bytes;
use potluck_dag::{Piece, Stripe, seal_piece};
use potluck_placement::{GeometryError, default_survive, survivable};
use potluck_spaces::{Liveness, Pins, Settings};
use potluck_types::{Geometry, SpaceId, StripeId, from_canonical};
use std::sync::Arc;
use tokio::{sync::OwnedSemaphorePermit, task::JoinHandle};

/// How often stored bytes may have been coded anew for them still to be found.
const RECODED_MAX: usize = 4;
/// How often a piece is stored: each time some may turn out not to be here.
const STORE_ATTEMPTS: u32 = 3;

/// A piece that is being sealed and stored, or looked for where it was stored before.
pub(super) type PieceUnderWay = JoinHandle<Result<Finished, NodeError>>;

/// A piece of a file, and what the log must say of it.
pub(super) struct Finished {
    pub(super) piece: Piece,
    pub(super) fingerprint: Option<[u8; 32]>,
    pub(super) became: Became,
}

/// What became of it.
pub(super) enum Became {
    /// Its stripe is new.
    Stored(Stored),
    /// Its stripe was there already.
    Found {
        /// Losses that it survives now.
        survives: u8,
        /// Holds on to it until the log says that this file uses it too.
        claim: Claim<StripeId>,
    },
}

impl Became {
    pub(super) fn into_claim(self) -> Option<Claim<StripeId>> {
        match self {
            Self::Stored(_) => None,
            Self::Found { claim, .. } => Some(claim),
        }
    }
}

pub(super) fn seal_node(
    node: &[u8],
    geometry: Geometry,
    entropy: &dyn potluck_types::Entropy,
    nodes: &mut Vec<Stripe>,
) -> Result<Piece, potluck_dag::SealPieceError> {
    let sealed = seal_piece(node, geometry, entropy)?;
    nodes.push(sealed.stripe);
    Ok(sealed.piece)
}

pub(super) fn building(error: impl std::fmt::Display) -> NodeError {
    NodeError::Store(format!("the manifest cannot be built: {error}"))
}

/// How safe what is put is to be.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Safety {
    /// How many losses it was asked to survive: fewer are refused.
    asked: Option<u8>,
    /// How many its space is to survive, as far as the pool can give that.
    wished: Option<u8>,
    /// Whether all machines must be here.
    pub(super) strict: bool,
    /// Of which space the data is.
    space: Option<SpaceId>,
}

impl Safety {
    /// What these options ask for in a space of which this was said.
    pub(super) fn of(space: SpaceId, options: PutOptions, settings: Settings) -> Self {
        Self {
            space: Some(space),
            asked: options.survive,
            wished: settings.survive,
            strict: options.strict,
        }
    }

    /// How many losses somebody said that it is to survive.
    pub(super) fn said(self) -> Option<u8> {
        self.asked.or(self.wished)
    }
}

/// How a stripe is to be coded for the machines that there are. Some may be away for a moment: then for those that are here, and anew when
/// they are back.
pub(crate) fn geometry_now(shared: &Shared, safety: Safety) -> Result<Geometry, GeometryError> {
    let AtHand {
        expected,
        eligible,
        here,
    } = shared.at_hand(safety.space);
    // What is usual is promised also while some are away, as far as it goes without them; what was asked for, or is to be strict, without a but.
    let usual = safety.wished.unwrap_or_else(|| default_survive(expected));
    let survive = match safety.asked {
        Some(asked) => asked,
        None if safety.strict => usual,
        None => usual.min(survivable(eligible)),
    };
    let wanted = potluck_placement::geometry(eligible, survive)?;
    if safety.strict || here >= usize::from(wanted.k() + wanted.m().min(1)) {
        Ok(wanted)
    } else {
        potluck_placement::geometry(here, survive.min(survivable(here)))
    }
}

/// Refuses to begin what a strict upload would fail at, or survives less than it is to.
pub(super) fn refuse_degraded(shared: &Shared, space: SpaceId, safety: Safety) -> Result<(), NodeError> {
    let AtHand {
        expected,
        eligible,
        here,
    } = shared.at_hand(safety.space);
    let survive = safety.said().unwrap_or_else(|| default_survive(expected));
    let wanted = potluck_placement::geometry(expected, survive)?.n();
    let fits = || Ok::<_, GeometryError>(here >= potluck_placement::geometry(eligible, survive)?.n().into());
    if survivable(here) >= survive && fits()? {
        return Ok(());
    }
    Err(NodeError::Shards(ShardsError::TooFewDomains {
        stored: u8::try_from(here).unwrap_or(u8::MAX),
        wanted,
        reason: shared.nobody_else(space),
    }))
}

pub(super) async fn store_piece(
    space: &OpenSpace,
    chunk: Bytes,
    mut geometry: Geometry,
    safety: Safety,
    _under_way: OwnedSemaphorePermit,
) -> Result<(Piece, Stored), NodeError> {
    let mut attempts = 0;
    loop {
        let (plain, entropy) = (chunk.clone(), Arc::clone(&space.entropy));
        let sealed = Shared::blocking(move || seal_piece(&plain, geometry, &*entropy))
            .await
            .map_err(building)?;
        attempts += 1;
        match stripes::store(space.shared(), space.id(), sealed.stripe, safety.strict).await {
            Ok(stored) => return Ok((sealed.piece, stored)),
            // One that does not answer was taken for being here: once more, for those that are.
            Err(ShardsError::TooFewDomains { .. }) if !safety.strict && attempts < STORE_ATTEMPTS => {
                geometry = geometry_now(space, safety)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The fingerprint of a chunk, and its piece when the space has it, live, and coded for as many losses.
pub(super) async fn look_up(
    space: &OpenSpace,
    chunk: Bytes,
    geometry: Geometry,
) -> Result<(Option<[u8; 32]>, Option<(Piece, Claim<StripeId>)>), NodeError> {
    let space = space.clone();
    Shared::blocking(move || {
        let fingerprint = *space.dedup_key().fingerprint(&chunk).as_bytes();
        let fits = |piece: &Piece| piece.geometry().m() >= geometry.m() && piece.len() as usize == chunk.len();
        let mut key = fingerprint;
        // What was stored may lie in other stripes since.
        for _ in 0..RECODED_MAX {
            let Some(piece) = known_piece(&space, &key)? else {
                break;
            };
            if fits(&piece)
                && let Some(claim) = claim_live(&space, piece.stripe())?
            {
                return Ok((Some(fingerprint), Some((piece, claim))));
            }
            key = *piece.stripe().as_bytes();
        }
        Ok((Some(fingerprint), None))
    })
    .await
}

/// What was stored under a fingerprint, or in place of a stripe.
pub(super) fn known_piece(space: &OpenSpace, key: &[u8; 32]) -> Result<Option<Piece>, NodeError> {
    let stored = space.read()?.stored(key)?;
    Ok(stored.and_then(|bytes| from_canonical(&bytes).ok()))
}

/// Claims a stripe if the log says that it is live.
pub(crate) fn claim_live(space: &OpenSpace, stripe: StripeId) -> Result<Option<Claim<StripeId>>, NodeError> {
    space.claims.claim_if(stripe, || {
        let state = Pins::of(space.id()).state(&space.read()?, stripe);
        let state = state.map_err(MetaError::reading)?;
        Ok(state.liveness() == Liveness::Live)
    })
}
