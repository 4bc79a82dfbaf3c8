//! The machines of one person, and what becomes of the person's key when one of them is lost: every machine has it, so it is replaced.
//!
//! A *rotation* brings the next key to the machines that stay, and says which of what the keys before have signed counts (`records`, `roster`). Who hears of it asks the
//! machine that is out for nothing, and answers it nothing, from then on. Each machine that stays says for the spaces of its person what it knew of until it heard of that; what is written
//! from then on is sealed under keys that the lost machine does not have, and its logs end where anybody knows them to. The owners of other spaces do the same for those.
//!
//! Two machines that have not heard of each other can each make one. Everybody goes by the one that they heard of first, until the person has one of the machines *reconcile* the two; that is
//! theirs to decide, as whoever has the lost machine can make one, too.

use crate::{
    api::{Reconciled, Revoked, Rival},
    charters,
    error::{HomeError, MetaError, NodeError},
    links, logs, names,
    records::{Kept, PoolRecord, Rotation, VERSION},
    share,
    shared::Shared,
    spaces,
};
use potluck_crypto::{Purpose, Recipient, Signed, SigningKey, UserKeys, derive::machine_key};
use potluck_spaces::Table;
use potluck_types::{NodeId, SpaceId, UserId, limits};
use serde_bytes::ByteBuf;
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

/// What the next key of a person is wrapped for.
fn purpose(user: &UserId) -> Purpose<'_> {
    Purpose {
        context: Rotation::WRAP,
        associated: user.as_bytes(),
    }
}

/// The key that a rotation has for a machine.
fn given(rotation: &Rotation, machine: &SigningKey) -> Option<SigningKey> {
    let kept = rotation.machines.iter().find(|kept| kept.node == machine.node_id())?;
    let seed = machine_key(machine).unwrap(purpose(&rotation.user), &kept.seed).ok()?;
    let key = SigningKey::from_seed(seed.first_chunk()?);
    (key.public() == rotation.key).then_some(key)
}

/// Takes from rotations what they have for a machine. Whether its person has keys now that these did not have.
pub(crate) fn follow<'r>(
    keys: &mut UserKeys,
    rotations: impl Iterator<Item = &'r Rotation>,
    machine: &SigningKey,
) -> bool {
    let mut is_news = false;
    for rotation in rotations {
        if !keys.contains(rotation.key)
            && let Some(key) = given(rotation, machine)
        {
            keys.push(key);
            is_news = true;
        }
    }
    is_news
}

/// Held while it is done what follows when somebody's key is replaced.
#[derive(Default)]
pub(crate) struct Hearing {
    /// On this machine alone, which waits for nobody.
    at_once: Mutex<()>,
    /// Where others are asked and told.
    together: tokio::sync::Mutex<()>,
    /// Somebody waits for that: who comes then need not.
    is_due: AtomicBool,
}

/// Takes machines out of their person's hands. What they have they may keep; nothing that comes later is for them, and nothing that they say later counts. The person has said of all
/// others that they stay: whoever has a lost machine may have certified one of their own.
pub(crate) async fn revoke(
    shared: &Arc<Shared>,
    gone: &BTreeSet<NodeId>,
    stays: &BTreeSet<NodeId>,
) -> Result<Revoked, NodeError> {
    if gone.contains(&shared.me()) {
        return Err(NodeError::RevokeSelf);
    }
    let owners: Vec<_> = shared.with_control(|control| {
        let owner = |node: &NodeId| (*node, control.roster.owner_of(*node));
        gone.iter().map(owner).collect()
    });
    if let Some((node, _)) = owners.iter().find(|(_, owner)| *owner != Some(shared.user)) {
        return Err(NodeError::NotYours(*node));
    }
    let out = shared.with_control(|control| gone.iter().find(|node| control.roster.is_lost(**node)).copied());
    if let Some(node) = out {
        return Err(NodeError::OutAlready(node));
    }
    let _one_at_a_time = shared.hearing.together.lock().await;
    shared.refuse_old_key()?;
    // What they wrote until now counts, as far as it is known to anybody who is here.
    catch_up(shared).await;
    let mut links = 0;
    for space in shared.written_spaces() {
        links += links::count_of(&space, shared.user)?;
    }
    let rotation = rotation(shared, gone, None)?;
    let is_said = |node: &&NodeId| **node == shared.me() || stays.contains(*node);
    let mut machines = rotation.machines.iter().map(|kept| &kept.node);
    if let Some(unsaid) = machines.find(|node| !is_said(node)) {
        return Err(NodeError::NotSaid(*unsaid));
    }
    replace(shared, &rotation, &[shared.keys().signing().clone()]).await?;
    follow_up(shared).await?;
    let (owned, granted): (Vec<_>, Vec<_>) = shared
        .open_spaces()
        .into_iter()
        .partition(|space| shared.with_control(|control| control.is_owned(space.id(), shared.user)));
    Ok(Revoked {
        nodes: gone.iter().copied().collect(),
        spaces: owned.len() as u64,
        of_others: granted.len() as u64,
        links,
        away: away(shared, &rotation),
        unreached: unreached(&rotation),
    })
}

/// The machines that stay and are not here.
fn away(shared: &Shared, rotation: &Rotation) -> Vec<NodeId> {
    let live = shared.with_control(|control| control.live_peers());
    let machines = rotation.machines.iter().map(|kept| kept.node);
    machines
        .filter(|machine| *machine != shared.me() && !live.contains(machine))
        .collect()
}

/// Those to which the next key could not be given.
fn unreached(rotation: &Rotation) -> Vec<NodeId> {
    let unreached = rotation.machines.iter().filter(|kept| kept.seed.is_empty());
    unreached.map(|kept| kept.node).collect()
}

/// What replaces the person's key, and that of a rival, for all of their machines but some.
fn rotation(shared: &Shared, gone: &BTreeSet<NodeId>, rival: Option<&Rotation>) -> Result<Rotation, NodeError> {
    let (user, entropy) = (shared.user, &*shared.entropy);
    let next = SigningKey::generate(entropy);
    let mut keys = (*shared.keys()).clone();
    if keys.all().count() >= limits::USER_KEYS_MAX {
        return Err(NodeError::TooManyKeys);
    }
    keys.push(next.clone());
    let own = machine_key(&shared.node_key).recipient();
    let wrap = |recipient: Recipient| recipient.wrap(purpose(&user), next.seed(), entropy).unwrap_or_default();
    shared.with_control(|control| {
        let roster = &control.roster;
        let recipient = |node: NodeId| match node == shared.me() {
            true => Some(own),
            false => roster.state(node).and_then(|state| state.recipient),
        };
        let of_user = roster.nodes().filter(|(_, of)| *of == user);
        let machines: Vec<NodeId> = of_user
            .map(|(node, _)| node)
            .filter(|node| !gone.contains(node))
            .collect();
        let mut lost = roster.lost(user);
        lost.extend(gone);
        lost.retain(|node| !machines.contains(node));
        let former = roster.former(user).filter(|node| !lost.contains(node));
        Ok(Rotation {
            version: VERSION,
            pool: roster.pool(),
            user,
            at: shared.now(),
            key: next.public(),
            claim: next.sign(&Rotation::claim(roster.pool(), user)),
            recipient: keys.recipient(),
            former: former.collect(),
            lost: lost.into_iter().collect(),
            machines: machines
                .into_iter()
                .map(|node| Kept {
                    node,
                    seed: ByteBuf::from(recipient(node).map_or_else(Vec::new, wrap)),
                })
                .collect(),
            admitted: roster.admitted_and_came(user),
            called: roster.last_called(user).cloned(),
            residences: roster.residences_of(user).collect(),
            // Those who follow a rival know nothing of what this machine has followed.
            also: rival.map_or_else(Vec::new, |rival| {
                let followed = roster.rotations(user).chain([rival]);
                followed.map(|rotation| (rotation.key, rotation.claim)).collect()
            }),
        })
    })
}

/// Says that the key is replaced: here first, so that nothing that is signed with it afterwards is taken for good; and with each of these keys, to those who go by it.
async fn replace(shared: &Arc<Shared>, rotation: &Rotation, keys: &[SigningKey]) -> Result<(), NodeError> {
    let sign = |key: &SigningKey| {
        let signed = Signed::sign(key, rotation).map_err(|_| NodeError::TooManyMachines(rotation.machines.len()))?;
        Ok(PoolRecord::Rotation(signed))
    };
    let records = keys.iter().map(sign).collect::<Result<Vec<_>, NodeError>>()?;
    for record in &records {
        shared.keep(record.clone()).await;
    }
    if shared.with_control(|control| control.roster.key(shared.user)) != rotation.key {
        // Another machine was faster.
        return Err(NodeError::OldKey);
    }
    let task = Arc::clone(shared);
    let heard = Shared::blocking(move || hear_now(&task)).await;
    // Whatever cannot be written down here: who is lost is out.
    for record in records {
        shared.tell_all(record).await;
    }
    heard
}

/// Fetches what others know of the spaces that are open here.
async fn catch_up(shared: &Arc<Shared>) {
    for space in shared.open_spaces() {
        if let Err(error) = logs::catch_up(&space).await {
            tracing::info!(space = %space.id().short(), %error, "what counts of a lost machine is what is known here");
        }
    }
}

/// Rotations of this node's person that another machine has made apart, and which this one does not go by.
pub(crate) fn rivals(shared: &Shared) -> Vec<Rival> {
    shared.with_control(|control| {
        let out = control.roster.lost(shared.user);
        let rival = |rival: &Rotation| Rival {
            id: rival.key.user_id(),
            at: rival.at,
            takes_out: rival.lost.iter().filter(|node| !out.contains(node)).copied().collect(),
            keeps: rival.machines.iter().map(|kept| kept.node).collect(),
            can_be_reconciled: given(rival, &shared.node_key).is_some(),
        };
        control.rivals().map(rival).collect()
    })
}

/// Replaces the keys of two rotations that were made apart by one, for the machines that are the person's here and that neither took out. Whoever is known only where the other one counts has to
/// be let in again: nobody is taken over from it, as whoever has a lost machine could have made it.
pub(crate) async fn reconcile(shared: &Arc<Shared>, which: Option<UserId>) -> Result<Reconciled, NodeError> {
    let _one_at_a_time = shared.hearing.together.lock().await;
    shared.refuse_old_key()?;
    let mut rivals: Vec<Rotation> = shared.with_control(|control| control.rivals().cloned().collect());
    rivals.retain(|rival| which.is_none_or(|which| rival.key.user_id() == which));
    if rivals.is_empty() {
        return Err(NodeError::NoRival);
    }
    let mut with_keys = rivals
        .iter()
        .filter_map(|rival| Some((rival, given(rival, &shared.node_key)?)));
    let (rival, theirs) = match (with_keys.next(), with_keys.next()) {
        (Some(one), None) => one,
        (Some(_), Some(_)) => return Err(NodeError::SeveralRivals),
        (None, _) => return Err(NodeError::NotGiven),
    };
    let mut keys = (*shared.keys()).clone();
    let mine = keys.signing().clone();
    if !keys.contains(rival.key) {
        keys.add(theirs.clone());
        shared.home.set_user_keys(&keys, &*shared.entropy).map_err(told)?;
        shared.set_keys(keys);
    }
    let mut gone: BTreeSet<NodeId> = rival.lost.iter().copied().collect();
    gone.remove(&shared.me());
    let next = rotation(shared, &gone, Some(rival))?;
    replace(shared, &next, &[mine, theirs]).await?;
    follow_up(shared).await?;
    Ok(Reconciled {
        lost: next.lost.clone(),
        away: away(shared, &next),
        unreached: unreached(&next),
    })
}

/// Somebody's key was replaced, perhaps this node's person's.
pub(crate) async fn hear(shared: &Arc<Shared>) -> Result<(), NodeError> {
    let task = Arc::clone(shared);
    let heard = Shared::blocking(move || hear_now(&task)).await;
    // Who waits already does the rest for this one, too.
    if shared.hearing.is_due.swap(true, Ordering::AcqRel) {
        return heard;
    }
    let _one_at_a_time = shared.hearing.together.lock().await;
    shared.hearing.is_due.store(false, Ordering::Release);
    heard.and(follow_up(shared).await)
}

/// Does all that follows, in one space after the other; one that fails keeps no other, and is looked after again in time. The first failure is told.
async fn follow_up(shared: &Arc<Shared>) -> Result<(), NodeError> {
    let mut failed = Ok(());
    let mut note = |space: SpaceId, done: Result<(), NodeError>| {
        if let Err(error) = &done {
            tracing::warn!(space = %space.short(), %error, "what follows from a key that was replaced is not all done");
        }
        failed = std::mem::replace(&mut failed, Ok(())).and(done);
    };
    for space in shared.spaces.ids() {
        note(space, spaces::learn(shared, space).await);
    }
    // What was signed with the new key was not taken before.
    catch_up(shared).await;
    let task = Arc::clone(shared);
    let chartered =
        Shared::blocking(move || Ok::<_, NodeError>(Table::Charter.spaces(&task.read()?).map_err(MetaError::reading)?));
    for space in chartered.await? {
        note(space, charters::cut_logs(shared, space).await);
    }
    for space in shared.written_spaces() {
        note(space.id(), links::withdraw_of_former_keys(&space).await);
        share::renew(&space).await;
        if let Err(error) = share::end_logs(&space).await {
            tracing::info!(space = %space.id().short(), %error, "how far the log of a lost machine counts is not known yet");
        }
        // What this machine has vouched for may be what another one waits for.
        if let Err(error) = names::replicate(&space).await {
            tracing::debug!(space = %space.id().short(), %error, "custodians hear later of what counts in a space");
        }
    }
    failed
}

/// Does the same as [`hear`], in the background.
pub(crate) fn hear_soon(shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        if let Err(error) = hear(&shared).await {
            tracing::error!(%error, "what follows from a key that was replaced is not all done");
        }
    });
}

/// What follows at once, and on this machine alone.
pub(crate) fn hear_now(shared: &Shared) -> Result<(), NodeError> {
    let _one_at_a_time = shared.hearing.at_once.lock().expect("never poisoned");
    let (rotations, speakers) = shared.with_control(|control| {
        let rotations: Vec<Rotation> = control.roster.rotations(shared.user).cloned().collect();
        (rotations, control.roster.speakers().clone())
    });
    let mut keys = (*shared.keys()).clone();
    let mut kept = Ok(());
    if follow(&mut keys, rotations.iter(), &shared.node_key) {
        kept = shared.home.set_user_keys(&keys, &*shared.entropy).map_err(told);
        // One that could not be written down is in the rotation.
        shared.set_keys(keys);
    }
    // Not before: whoever hears of another's succession has to be able to say what is known here.
    charters::hear(shared, speakers);
    let vouched = charters::vouch(shared);
    charters::look_again(shared)?;
    shared.spaces.private().learn(shared)?;
    kept.and(vouched)
}

fn told(error: HomeError) -> NodeError {
    MetaError {
        action: "keeping a key",
        source: error.into(),
    }
    .into()
}
