//! The logs of spaces among nodes: how far each is known, and bringing them from one to another.

use crate::{
    branch, charters, checkpoint,
    error::{MetaError, NodeError},
    names::{keepers, take_entries},
    protocol::{COMPARED_MAX, PoolReply, PoolRequest},
    residence,
    shared::{AskError, Shared},
    space::OpenSpace,
    sweep,
};
use potluck_net::RequestError;
use potluck_spaces::{Frontier, Log, Logged, Position, Table};
use potluck_types::{Hash, NodeId, SpaceId, StripeId, limits, to_canonical};
use serde_bytes::ByteBuf;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
};

/// How far this node knows the logs of a space.
pub(crate) async fn frontier(shared: &Arc<Shared>, space: SpaceId) -> Result<Arc<Frontier>, NodeError> {
    if let Some(known) = shared.meta.remembered_frontier(space) {
        return Ok(known);
    }
    let task = Arc::clone(shared);
    Shared::blocking(move || Ok(task.meta.frontier(space)?)).await
}

/// What others are offered of them: not the logs of those who are nobody's any more, which nobody takes.
pub(crate) async fn offered(shared: &Arc<Shared>, space: SpaceId) -> Result<Frontier, NodeError> {
    let known = frontier(shared, space).await?;
    let offered = shared.with_control(|control| {
        let is_owned = |(device, _): &(&NodeId, &Position)| control.roster.owner_of(**device).is_some();
        let offered = known.iter().filter(is_owned);
        offered.map(|(device, position)| (*device, *position)).collect()
    });
    Ok(offered)
}

/// What this node knows of a space, to be compared with what others know.
pub(crate) struct Knowledge {
    pub(crate) logs: Frontier,
    /// The digest of the charter; none where there is none.
    pub(crate) charter: Option<Hash>,
}

impl Knowledge {
    pub(crate) async fn of(shared: &Arc<Shared>, space: SpaceId) -> Result<Self, NodeError> {
        Ok(Self {
            logs: offered(shared, space).await?,
            charter: charters::known(shared, space).await?.digest(),
        })
    }

    pub(crate) fn digest(&self) -> Hash {
        digest(&self.logs, self.charter)
    }
}

/// What those have in common who know the same of a space's logs and of its charter.
pub(crate) fn digest(known: &Frontier, charter: Option<Hash>) -> Hash {
    let known: Vec<_> = known.iter().collect();
    Hash::of(&to_canonical(&(known, charter)))
}

/// How far this node knows the log of one device.
pub(crate) async fn known(shared: &Arc<Shared>, space: SpaceId, device: NodeId) -> Result<Option<Position>, NodeError> {
    Ok(frontier(shared, space).await?.get(&device).copied())
}

/// The spaces whose logs this node keeps.
pub(crate) async fn spaces(shared: &Arc<Shared>) -> Result<Vec<SpaceId>, NodeError> {
    let task = Arc::clone(shared);
    Shared::blocking(move || Ok(Table::Frontier.spaces(&task.read()?).map_err(MetaError::reading)?)).await
}

/// What a peer knows of the logs of a space.
enum Theirs {
    /// What this node knows.
    Same,
    Other(Frontier),
}

impl Theirs {
    /// It and this node know the same of the space's charter afterwards.
    async fn ask(shared: &Arc<Shared>, peer: NodeId, space: SpaceId) -> Result<Self, String> {
        let is_chartered =
            shared.spaces.is_catalogued(space) || shared.with_control(|control| control.is_chartered(space));
        let ours = Knowledge::of(shared, space).await.map_err(|error| error.to_string())?;
        let request = PoolRequest::Frontier {
            space,
            is_chartered,
            digest: Some(ours.digest()),
        };
        match shared.ask(peer, &request).await {
            Ok(PoolReply::Same) => Ok(Self::Same),
            Ok(PoolReply::Frontier(known)) => Ok(Self::Other(known.into_iter().collect())),
            Ok(PoolReply::Logs { known, charter }) => {
                if ours.charter != charter {
                    charters::compare(shared, peer, space).await?;
                }
                Ok(Self::Other(known.into_iter().collect()))
            }
            Ok(other) => Err(format!("it answered {other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The digest of what this node knows of each of these spaces. One that cannot be read is not among them, and fails alone, when it is asked about by itself.
async fn digests(shared: &Arc<Shared>, spaces: &[SpaceId]) -> BTreeMap<SpaceId, Hash> {
    let mut digests = BTreeMap::new();
    for space in spaces {
        if let Ok(ours) = Knowledge::of(shared, *space).await {
            digests.insert(*space, ours.digest());
        }
    }
    digests
}

/// Of which of these spaces a peer does not know what this node knows, or is not known to. A question for many at a time: mostly there is none.
async fn differing(
    shared: &Arc<Shared>,
    peer: NodeId,
    spaces: &[SpaceId],
    ours: &BTreeMap<SpaceId, Hash>,
) -> Result<BTreeSet<SpaceId>, String> {
    let mut differing: BTreeSet<_> = spaces.iter().copied().collect();
    let all: Vec<_> = differing
        .iter()
        .filter_map(|space| Some((*space, *ours.get(space)?)))
        .collect();
    for compared in all.chunks(COMPARED_MAX) {
        match shared.ask(peer, &PoolRequest::Compare(compared.to_vec())).await {
            Ok(PoolReply::Compared(same)) => {
                let same = compared.iter().zip(same).filter(|(_, is_same)| *is_same);
                same.for_each(|((space, _), _)| _ = differing.remove(space));
            }
            // A version that does not know this question: it is asked about each space by itself.
            Ok(_) | Err(AskError::Refused(_) | AskError::Nonsense(_) | AskError::Request(RequestError::Unanswered)) => {
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(differing)
}

/// Sends a peer what it lacks of a space's logs. Afterwards it has all that this node has.
pub(crate) async fn push(shared: &Arc<Shared>, peer: NodeId, space: SpaceId) -> Result<(), String> {
    let Theirs::Other(known) = Theirs::ask(shared, peer, space).await? else {
        return Ok(());
    };
    if let Some(space) = shared.open_space(space) {
        branch::compare(&space, peer, known.get(&shared.me()).copied()).await?;
    }
    let ours = offered(shared, space).await.map_err(|error| error.to_string())?;
    // A log that is not taken keeps no other.
    let mut failed = Ok(());
    for (device, position) in ours {
        let known = known.get(&device).map_or(0, |position| position.seq);
        failed = failed.and(push_log(shared, peer, space, (device, position), known).await);
    }
    failed
}

/// Sends a peer what it lacks of one device's log: all that comes after what it knows.
async fn push_log(
    shared: &Arc<Shared>,
    peer: NodeId,
    space: SpaceId,
    (device, position): (NodeId, Position),
    known: u64,
) -> Result<(), String> {
    let mut at = known;
    while at < position.seq {
        let entries = entries_after(shared, space, device, at)
            .await
            .map_err(|error| error.to_string())?;
        if entries.is_empty() {
            // What was before a checkpoint is not here yet: others have it.
            return Ok(());
        }
        at += entries.len() as u64;
        match shared.ask(peer, &PoolRequest::Append { space, entries }).await {
            Ok(PoolReply::Done) => {}
            Ok(other) => return Err(format!("it answered {other:?}")),
            Err(error) => return Err(error.to_string()),
        }
        if at < position.seq {
            // Of a long log others may send it the same.
            let Theirs::Other(known) = Theirs::ask(shared, peer, space).await? else {
                return Ok(());
            };
            at = at.max(known.get(&device).map_or(0, |position| position.seq));
        }
    }
    Ok(())
}

/// Fetches from a peer what this node lacks of a space's logs. Gives the stripes that they unpin.
pub(crate) async fn pull(shared: &Arc<Shared>, peer: NodeId, space: SpaceId) -> Result<Vec<StripeId>, String> {
    let theirs = Theirs::ask(shared, peer, space).await?;
    take(shared, peer, space, theirs).await
}

/// The same of many spaces. Gives what came of each.
pub(crate) async fn pull_all(
    shared: &Arc<Shared>,
    peer: NodeId,
    spaces: &[SpaceId],
) -> Vec<(SpaceId, Result<Vec<StripeId>, String>)> {
    let ours = digests(shared, spaces).await;
    let differing = differing(shared, peer, spaces, &ours).await;
    let mut pulled = Vec::with_capacity(spaces.len());
    for space in spaces {
        let taken = match &differing {
            Ok(differing) if differing.contains(space) => pull(shared, peer, *space).await,
            Ok(_) => take(shared, peer, *space, Theirs::Same).await,
            Err(reason) => Err(reason.clone()),
        };
        pulled.push((*space, taken));
    }
    pulled
}

async fn take(shared: &Arc<Shared>, peer: NodeId, space: SpaceId, theirs: Theirs) -> Result<Vec<StripeId>, String> {
    let (mut theirs, is_same) = match theirs {
        Theirs::Same => (Frontier::new(), true),
        Theirs::Other(theirs) => (theirs, false),
    };
    let mut unpinned = Vec::new();
    if let Some(open) = shared.open_space(space) {
        checkpoint::take(&open, peer).await.map_err(|error| error.to_string())?;
        if !is_same {
            // Its own log first: what the others say may have to be answered in it.
            let own = theirs.remove(&shared.me());
            branch::compare(&open, peer, own).await?;
            if let Some(position) = own {
                unpinned.extend(pull_log(shared, peer, space, (shared.me(), position)).await?);
            }
        }
        if !open.opened().knows_own_log.swap(true, Ordering::Relaxed) {
            branch::finish(&open).await;
        }
    }
    // A log that is not to be had, or does not count, keeps no other.
    let mut failed = None;
    for log in theirs {
        match pull_log(shared, peer, space, log).await {
            Ok(more) => unpinned.extend(more),
            Err(error) => failed = Some(error),
        }
    }
    if let Some(open) = shared.open_space(space) {
        checkpoint::fill_soon(&open);
    }
    failed.map_or(Ok(unpinned), Err)
}

/// Fetches one device's log up to where the peer knows it. Of a long one that several peers have, each gives other parts: one is fetched after the other, as none is of use
/// without those before it. A peer that is slow holds up the others only for a moment each time.
pub(crate) async fn pull_log(
    shared: &Arc<Shared>,
    peer: NodeId,
    space: SpaceId,
    (device, position): (NodeId, Position),
) -> Result<Vec<StripeId>, String> {
    let mut unpinned = Vec::new();
    let mut at = 0;
    loop {
        let _turn = shared.fetching.turn((space, device)).await;
        let ours = known(shared, space, device).await.map_err(|error| error.to_string())?;
        let ours = ours.map_or(0, |position| position.seq);
        if ours < at {
            return Err("it gave other entries than it was asked for".to_owned());
        }
        at = ours;
        if at >= position.seq {
            return Ok(unpinned);
        }
        let entries = fetch(shared, peer, space, (device, at)).await?;
        if entries.is_empty() {
            return Err(TELLS_NONE.to_owned());
        }
        at += entries.len() as u64;
        let taken = take_entries(shared, space, entries).await;
        unpinned.extend(taken.map_err(|error| error.to_string())?);
    }
}

/// Asks a peer for entries of a device's log after one of them; it gives as many as go into a message, or none where it has none.
pub(crate) async fn fetch(
    shared: &Shared,
    peer: NodeId,
    space: SpaceId,
    (device, after): (NodeId, u64),
) -> Result<Vec<ByteBuf>, String> {
    match shared.ask(peer, &PoolRequest::Fetch { space, device, after }).await {
        Ok(PoolReply::Entries(entries)) => Ok(entries),
        Ok(other) => Err(format!("it answered {other:?}")),
        Err(error) => Err(error.to_string()),
    }
}

/// The last entry of a device's log that this node and a peer both have.
pub(crate) async fn common(
    shared: &Arc<Shared>,
    peer: NodeId,
    space: SpaceId,
    (device, theirs): (NodeId, Position),
) -> Result<u64, String> {
    let ours = known(shared, space, device).await;
    let ours = ours.map_err(|error| error.to_string())?;
    let mut top = theirs.seq.min(ours.map_or(0, |ours| ours.seq));
    while top > 0 {
        let bottom = top.saturating_sub(limits::APPEND_ENTRIES_MAX as u64);
        let mut at = bottom;
        // A page may end before the histories part: there are limits to its bytes.
        loop {
            let known = entries_after(shared, space, device, at).await;
            let known = known.map_err(|error| error.to_string())?;
            let told = fetch(shared, peer, space, (device, at)).await?;
            let hash = |bytes: &ByteBuf| Logged::from_bytes(bytes).map(|logged| logged.hash()).ok();
            // One may have the changes of an entry still that are erased on the other.
            let same = known.iter().zip(&told);
            let same = same
                .take_while(|(a, b)| hash(a).is_some() && hash(a) == hash(b))
                .count();
            at += same as u64;
            if same == 0 || same < known.len().min(told.len()) {
                break;
            }
        }
        if at > bottom {
            return Ok(at);
        }
        top = bottom;
    }
    Ok(0)
}

/// Of a peer that should have more of a log.
pub(crate) const TELLS_NONE: &str = "it does not tell its entries";

pub(crate) async fn entries_after(
    shared: &Arc<Shared>,
    space: SpaceId,
    device: NodeId,
    after: u64,
) -> Result<Vec<ByteBuf>, NodeError> {
    let task = Arc::clone(shared);
    Shared::blocking(move || {
        let kv = task.read()?;
        let entries = Log::of(space)
            .entries_after(&kv, device, after, limits::APPEND_ENTRIES_MAX)
            .map_err(MetaError::reading)?;
        let bytes = |logged: Logged| ByteBuf::from(logged.to_bytes());
        Ok(entries.into_iter().map(bytes).collect())
    })
    .await
}

/// Fetches what this node lacks of its person's logs from all that keep them and are here, whichever of them fail. After an error it may lack some.
pub(crate) async fn catch_up(space: &OpenSpace) -> Result<(), NodeError> {
    catch_up_from(space, keepers(space, space.id(), &space.present_view())).await
}

/// The same from these nodes.
pub(crate) async fn catch_up_from(space: &OpenSpace, nodes: impl IntoIterator<Item = NodeId>) -> Result<(), NodeError> {
    let mut failed = None;
    for node in nodes {
        match pull(space.shared(), node, space.id()).await {
            Ok(unpinned) if !unpinned.is_empty() => sweep::announce(space, unpinned),
            Ok(_) => {}
            Err(reason) => failed = failed.or(Some(NodeError::Behind { node, reason })),
        }
    }
    failed.map_or(Ok(()), Err)
}

/// The same of many spaces: those of which this node may lack something afterwards, and why.
pub(crate) async fn catch_up_all(shared: &Arc<Shared>, spaces: &[OpenSpace]) -> BTreeMap<SpaceId, NodeError> {
    let mut failed = BTreeMap::new();
    for (node, spaces) in by_keeper(shared, spaces.iter().map(OpenSpace::id)) {
        for (space, pulled) in pull_all(shared, node, &spaces).await {
            match pulled {
                Ok(unpinned) if unpinned.is_empty() => {}
                Ok(unpinned) => {
                    if let Some(space) = shared.open_space(space) {
                        sweep::announce(&space, unpinned);
                    }
                }
                Err(reason) => _ = failed.entry(space).or_insert(NodeError::Behind { node, reason }),
            }
        }
    }
    failed
}

/// The nodes that should have the logs of some spaces now, each with those that it should have.
fn by_keeper(shared: &Arc<Shared>, spaces: impl Iterator<Item = SpaceId>) -> BTreeMap<NodeId, Vec<SpaceId>> {
    let view = shared.present_view();
    let mut by_keeper = BTreeMap::<_, Vec<_>>::new();
    for space in spaces {
        for node in keepers(shared, space, &view) {
            by_keeper.entry(node).or_default().push(space);
        }
    }
    by_keeper
}

/// Brings every space that is kept here to the nodes that should keep it now: its custodians, and its person's machines.
/// Whether all of them have it now. Those that have agreed to just that are asked when `all` are.
pub(crate) async fn hand_out(shared: &Arc<Shared>, all: bool) -> bool {
    let spaces = match spaces(shared).await {
        Ok(spaces) => spaces,
        Err(error) => {
            tracing::warn!(%error, "the spaces kept here cannot be listed");
            return false;
        }
    };
    let mut handed_out = true;
    let mut have_it = BTreeMap::<SpaceId, BTreeSet<NodeId>>::new();
    // Of these nothing has been taken since before all others are asked.
    let refused: BTreeSet<_> = spaces
        .iter()
        .copied()
        .filter(|space| residence::refuse_outside(shared, *space).is_err())
        .collect();
    let ours = digests(shared, &spaces).await;
    let by_keeper = by_keeper(shared, spaces.iter().copied());
    shared.agreed_logs().retain(|node| by_keeper.contains_key(&node));
    for (node, spaces) in by_keeper {
        // What is given up here is not given up for what somebody has said before.
        let is_relied_on = spaces.iter().any(|space| refused.contains(space));
        let known = Hash::of(&to_canonical(
            &spaces.iter().map(|space| (*space, ours.get(space))).collect::<Vec<_>>(),
        ));
        let lacking = if !all && !is_relied_on && shared.agreed_logs().has(node, &known) {
            Ok(BTreeSet::new())
        } else {
            let asked = shared.agreed_logs().ask(node);
            let lacking = differing(shared, node, &spaces, &ours).await;
            let agreed = lacking.as_ref().is_ok_and(BTreeSet::is_empty);
            shared.agreed_logs().answered(asked, node, agreed.then_some(known));
            lacking
        };
        for space in spaces {
            let pushed = match &lacking {
                Ok(lacking) if lacking.contains(&space) => push(shared, node, space).await,
                Ok(_) => Ok(()),
                Err(reason) => Err(reason.clone()),
            };
            match pushed {
                Ok(()) => _ = have_it.entry(space).or_default().insert(node),
                Err(error) => {
                    tracing::debug!(node = %node.short(), error, "a custodian does not take a log");
                    handed_out = false;
                }
            }
        }
    }
    for space in refused {
        let have_it = have_it.remove(&space).unwrap_or_default();
        if let Err(error) = residence::leave(shared, space, &have_it).await {
            tracing::info!(%error, "the log of a space that may not be here is still here");
            handed_out = false;
        }
    }
    if let Err(error) = residence::leave_rest(shared).await {
        tracing::info!(%error, "what is left of the logs of spaces that may not be here is still here");
        handed_out = false;
    }
    handed_out
}
