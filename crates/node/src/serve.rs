//! Answers to what other nodes ask.

use crate::{
    branch, charters, checkpoint,
    control::{Check, Event, ReportSum},
    error::NodeError,
    error::Refusal,
    links,
    logs::{self, Knowledge},
    mend, names, probe,
    protocol::{
        self, BATCH_MAX, COMPARED_MAX, Credential, HOLDERS_MAX, Inspected, JoinReply, JoinRequest, PoolReply,
        PoolRequest, ShardReply, ShardRequest,
    },
    records::{Admission, Certificate, PoolRecord, Sent, VERSION, sign},
    shared::Shared,
    stripes, sweep,
};
use bytes::Bytes;
use potluck_crypto::{Signed, Speaker, TicketSecret, UserKeys};
use potluck_net::{Incoming, Message, Protocol};
use potluck_store::{GetError, PutError, Store};
use potluck_types::{Entropy, Hash, NodeId, ShardId, SpaceId, StripeId, UnverifiedShard, limits, proof};
use serde_bytes::ByteBuf;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// How long it may take to compare many spaces: a part of what is waited for an answer.
const COMPARING_MAX: Duration = Duration::from_secs(5);

/// Answers one request. A request that makes no sense gets none.
pub(crate) async fn serve(shared: Arc<Shared>, incoming: Incoming) {
    let Incoming {
        peer,
        protocol,
        message,
        reply,
    } = incoming;
    let answer = match protocol {
        Protocol::Lane => None,
        Protocol::Join => match protocol::decode(&message) {
            Ok(request) => Some(protocol::encode(&join(&shared, peer, request).await)),
            Err(_) => None,
        },
        Protocol::Pool => match protocol::decode(&message) {
            Ok(request) => Some(protocol::encode(&pool(&shared, peer, request).await)),
            Err(_) => None,
        },
        Protocol::Shard => match protocol::decode(&message) {
            Ok(request) => {
                let (answer, body) = shard(&shared, peer, request, message.body).await;
                Some(Message {
                    body,
                    ..protocol::encode(&answer)
                })
            }
            Err(_) => None,
        },
    };
    match answer {
        Some(answer) => reply.send(answer),
        None => tracing::debug!(peer = %peer.short(), protocol = protocol.name(), "a request makes no sense"),
    }
}

async fn join(shared: &Arc<Shared>, node: NodeId, request: JoinRequest) -> JoinReply {
    if matches!(request.credential, Credential::Standing) {
        let last = shared.with_control(|control| control.roster.last_word(node).cloned());
        return last.map_or(JoinReply::Refused(Refusal::NotAMember), JoinReply::Standing);
    }
    match admit(shared, node, request).await {
        Ok((records, keys)) => {
            for record in records {
                shared.introduce(record).await;
            }
            let records = shared.with_control(|control| Sent::of(control.roster.records()));
            let keys = keys.iter().flat_map(|keys| keys.all());
            let mut seeds = keys.map(|key| ByteBuf::from(key.seed().to_vec()));
            JoinReply::Welcome {
                records,
                user_seed: seeds.next(),
                later_seeds: seeds.collect(),
            }
        }
        Err(refusal) => {
            tracing::info!(node = %node.short(), %refusal, "a node is not let in");
            JoinReply::Refused(refusal)
        }
    }
}

/// The records that let a node in, and the keys that it is given if it is another machine of this node's person.
async fn admit(
    shared: &Arc<Shared>,
    node: NodeId,
    request: JoinRequest,
) -> Result<(Vec<PoolRecord>, Option<Arc<UserKeys>>), Refusal> {
    let (pool, is_full, seq) = shared.with_control(|control| {
        let is_member = control.roster.user_of(node).is_some();
        (
            control.roster.pool(),
            !is_member && control.roster.members().len() >= limits::POOL_NODES_MAX,
            control.roster.certificate_seq(node),
        )
    });
    if request.pool != pool {
        return Err(Refusal::OtherPool);
    }
    shared.refuse_old_key().map_err(|_| Refusal::Replaced)?;
    refuse_taken_out(shared, node)?;
    if is_full {
        return Err(Refusal::TooMany);
    }
    match request.credential {
        Credential::Ticket { secret, certificate } => {
            let Speaker { user, .. } = certified(shared, &certificate, node, pool)?;
            redeem(shared, node, secret, false).await?;
            let admission = Admission {
                version: VERSION,
                pool,
                user,
                at: shared.now(),
            };
            let admission = PoolRecord::Admission(sign(shared.keys().signing(), &admission));
            Ok((vec![admission, PoolRecord::Certificate(certificate)], None))
        }
        Credential::TicketForMine { secret } => {
            let generation = redeem(shared, node, secret, true).await?;
            // That may have taken a while. A machine that is lost meanwhile is given nothing.
            refuse_taken_out(shared, node)?;
            let keys = shared.keys();
            let (now, in_use) = shared.with_control(|control| {
                let roster = &control.roster;
                (roster.generation(shared.user), roster.key(shared.user))
            });
            if now != generation || keys.signing().public() != in_use {
                return Err(Refusal::Replaced);
            }
            let certificate = Certificate::new(&keys, pool, node, seq.saturating_add(1));
            let certificate = PoolRecord::Certificate(sign(keys.signing(), &certificate));
            Ok((vec![certificate], Some(keys)))
        }
        Credential::Member { certificate } => {
            let Speaker { user, .. } = certified(shared, &certificate, node, pool)?;
            if shared.with_control(|control| control.roster.is_user(user)) {
                Ok((vec![PoolRecord::Certificate(certificate)], None))
            } else {
                Err(Refusal::NotAMember)
            }
        }
        Credential::Standing => Err(Refusal::NotAMember),
    }
}

/// Whose word the certificate is, if it makes this node a member's in this pool, by the key that they have now.
fn certified(
    shared: &Shared,
    certificate: &Signed<Certificate>,
    node: NodeId,
    pool: potluck_types::PoolId,
) -> Result<Speaker, Refusal> {
    let verified = certificate.open().map_err(|_| Refusal::NotAMember)?;
    let value = verified.value();
    if value.node != node || value.pool != pool || !value.active || value.version != VERSION {
        return Err(Refusal::NotAMember);
    }
    shared.with_control(|control| {
        let speaker = control.roster.speakers().whose(verified.signer());
        match speaker.generation < control.roster.generation(speaker.user) {
            true => Err(Refusal::Replaced),
            false => Ok(speaker),
        }
    })
}

/// Whoever has a machine that was taken out has its keys, and its ticket.
fn refuse_taken_out(shared: &Shared, node: NodeId) -> Result<(), Refusal> {
    shared.with_control(|control| {
        let roster = &control.roster;
        match roster.owner_of(node).is_some() && roster.user_of(node).is_none() {
            true => Err(Refusal::TakenOut),
            false => Ok(()),
        }
    })
}

/// Uses a ticket up, durably, before anything is given for it. Gives how often this person's key had been replaced when that began.
async fn redeem(shared: &Arc<Shared>, node: NodeId, secret: [u8; 16], mine: bool) -> Result<u32, Refusal> {
    let task = Arc::clone(shared);
    let now = shared.now();
    let generation = shared.with_control(|control| control.roster.generation(shared.user));
    let used = Shared::blocking(move || {
        task.meta
            .with_invite(TicketSecret::from_bytes(secret).hash(), |invite| {
                let Some(invite) = invite.as_mut().filter(|invite| invite.mine == mine) else {
                    return Err(Refusal::UnknownTicket);
                };
                // A machine that was lost may know it.
                if invite.mine && invite.generation != generation {
                    return Err(Refusal::Replaced);
                }
                if invite.used_by.contains(&node) {
                    return Ok(());
                }
                if now >= invite.expires {
                    return Err(Refusal::Expired);
                }
                invite.uses_left = invite.uses_left.checked_sub(1).ok_or(Refusal::Used)?;
                invite.used_by.push(node);
                Ok(())
            })
    })
    .await;
    let used = used.unwrap_or_else(|error| {
        tracing::error!(%error, "a ticket cannot be checked");
        Err(Refusal::UnknownTicket)
    });
    used.map(|()| generation)
}

async fn pool(shared: &Arc<Shared>, peer: NodeId, request: PoolRequest) -> PoolReply {
    match request {
        PoolRequest::Hello { digest: _, state } => {
            if let Some(state @ PoolRecord::State(_)) = state {
                shared.greeted_by(peer);
                shared.tell(Event::Record(state));
            }
            shared.with_control(|control| PoolReply::Hello {
                digest: control.digest(),
                state: control.own_state(),
            })
        }
        PoolRequest::Records(records) => {
            for record in records.known() {
                shared.introduce(record).await;
            }
            PoolReply::Done
        }
        PoolRequest::PullRecords => {
            PoolReply::Records(shared.with_control(|control| Sent::of(control.roster.records())))
        }
        PoolRequest::Report { first, shards, gone } => {
            shared
                .apply(Event::Reported {
                    from: peer,
                    first,
                    shards,
                    gone,
                })
                .await;
            PoolReply::Done
        }
        PoolRequest::CheckReports { count, sum, view } => {
            let sum = ReportSum {
                count,
                sum: u128::from_le_bytes(sum),
            };
            match shared.check(peer, sum, view) {
                Check::Agrees => PoolReply::Done,
                Check::Differs => PoolReply::Differs,
                Check::OtherView => PoolReply::OtherView,
            }
        }
        PoolRequest::Locate { stripes } if stripes.len() <= BATCH_MAX => {
            let store = shared.store.clone();
            let find = move || {
                stripes
                    .iter()
                    .map(|stripe| store.indexes_of(*stripe).unwrap_or_default())
                    .collect()
            };
            PoolReply::Located(Shared::blocking(find).await)
        }
        PoolRequest::Spaces { stripes } if stripes.len() <= BATCH_MAX => {
            PoolReply::Spaces(sweep::local_spaces(shared, stripes).await)
        }
        PoolRequest::Append { space, entries } => {
            let taken = async {
                if let Some(open) = shared.open_space(space) {
                    checkpoint::take(&open, peer).await?;
                }
                names::take_entries(shared, space, entries).await
            };
            match taken.await {
                Ok(_) => PoolReply::Done,
                Err(error) => PoolReply::Failed(error.to_string()),
            }
        }
        PoolRequest::Frontier {
            space,
            is_chartered,
            digest,
        } => match known_logs(shared, space, is_chartered, digest).await {
            Ok(reply) => reply,
            Err(error) => PoolReply::Failed(error.to_string()),
        },
        PoolRequest::Compare(spaces) if spaces.len() <= COMPARED_MAX && spaces.is_sorted_by(|a, b| a.0 < b.0) => {
            PoolReply::Compared(compare(shared, spaces).await)
        }
        PoolRequest::Compare(_) => PoolReply::Failed(format!(
            "more than {COMPARED_MAX} spaces in one request, or not in their order"
        )),
        PoolRequest::Charter { space, records } => match charters::exchange(shared, space, records).await {
            Ok(missing) => PoolReply::Charter(missing),
            Err(error) => PoolReply::Failed(error.to_string()),
        },
        PoolRequest::Fetch { space, device, after } => fetch(shared, space, device, after).await,
        PoolRequest::GivenUp { space, seq, hash } => match branch::stands_by(shared, space, (seq, hash)).await {
            Ok(position) => PoolReply::StandsBy(position),
            Err(error) => PoolReply::Failed(error.to_string()),
        },
        PoolRequest::Liveness { space, stripes } if stripes.len() <= BATCH_MAX => {
            match sweep::local_liveness(shared, space, stripes).await {
                Some(verdicts) => PoolReply::Liveness(verdicts),
                None => PoolReply::Failed("the logs kept here cannot be read".to_owned()),
            }
        }
        PoolRequest::Released { space, stripes } if stripes.len() <= BATCH_MAX => {
            // It is a hint, which costs a question to the custodians: for those who have a reason to know.
            let has_reason = shared.with_control(|control| {
                let is_owner = control.is_of(peer, space);
                is_owner || stripes.iter().all(|stripe| control.is_steward(*stripe, peer))
            });
            if has_reason {
                let shared = Arc::clone(shared);
                tokio::spawn(async move { sweep::release(&shared, space, stripes).await });
            }
            PoolReply::Done
        }
        PoolRequest::Health => {
            let now = shared.steady();
            PoolReply::Health {
                counts: shared.health(now),
                used: shared.store.stats().on_disk,
            }
        }
        PoolRequest::Survival { stripes } if stripes.len() <= BATCH_MAX => {
            let now = shared.steady();
            PoolReply::Survival(shared.with_control(|control| control.survivals(&stripes, now)))
        }
        PoolRequest::Probe => PoolReply::Probe {
            reached: probe::reached(shared, peer).await,
            now: shared.now(),
        },
        PoolRequest::StateOf { node } => {
            PoolReply::Records(shared.with_control(|control| Sent::of(control.roster.state_record(node))))
        }
        PoolRequest::Holders { stripes } if stripes.len() <= HOLDERS_MAX => {
            let now = shared.steady();
            PoolReply::Holders(shared.with_control(|control| control.known(&stripes, now)))
        }
        PoolRequest::Inspect { stripes } if stripes.len() <= HOLDERS_MAX => {
            let store = shared.store.clone();
            PoolReply::Inspected(Shared::blocking(move || inspect(&store, &stripes)).await)
        }
        PoolRequest::Link { space, link } => links::tell(shared, space, link).await,
        PoolRequest::LinkShare { space, link, proof } => links::give_share(shared, (space, link), proof, peer).await,
        PoolRequest::Recount => {
            shared.tell_again(peer);
            PoolReply::Done
        }
        PoolRequest::Holders { .. } | PoolRequest::Inspect { .. } => {
            PoolReply::Failed(format!("more than {HOLDERS_MAX} stripes in one request"))
        }
        PoolRequest::Locate { .. }
        | PoolRequest::Spaces { .. }
        | PoolRequest::Liveness { .. }
        | PoolRequest::Released { .. }
        | PoolRequest::Survival { .. } => PoolReply::Failed(format!("more than {BATCH_MAX} stripes in one request")),
    }
}

async fn known_logs(
    shared: &Arc<Shared>,
    space: SpaceId,
    is_chartered: bool,
    theirs: Option<Hash>,
) -> Result<PoolReply, NodeError> {
    let ours = Knowledge::of(shared, space).await?;
    if theirs == Some(ours.digest()) {
        return Ok(PoolReply::Same);
    }
    let known = ours.logs.into_iter().collect();
    Ok(match is_chartered {
        true => PoolReply::Logs {
            known,
            charter: ours.charter,
        },
        false => PoolReply::Frontier(known),
    })
}

/// Of which spaces this node knows the same. Whoever asks more than can be answered soon, asks about the rest by itself.
async fn compare(shared: &Arc<Shared>, spaces: Vec<(SpaceId, Hash)>) -> Vec<bool> {
    let begun = Instant::now();
    let mut same = Vec::with_capacity(spaces.len());
    for (space, theirs) in spaces {
        let is_same = begun.elapsed() < COMPARING_MAX
            && Knowledge::of(shared, space)
                .await
                .is_ok_and(|ours| ours.digest() == theirs);
        same.push(is_same);
    }
    same
}

async fn fetch(shared: &Arc<Shared>, space: SpaceId, device: NodeId, after: u64) -> PoolReply {
    match logs::entries_after(shared, space, device, after).await {
        Ok(entries) => PoolReply::Entries(entries),
        Err(error) => PoolReply::Failed(error.to_string()),
    }
}

async fn shard(shared: &Arc<Shared>, peer: NodeId, request: ShardRequest, body: Bytes) -> (ShardReply, Bytes) {
    let none = Bytes::new();
    match request {
        ShardRequest::Put {
            space,
            index,
            descriptor,
        } => {
            // Whoever asks may not have heard yet where it may be.
            if !shared.is_inside(space) {
                let reason = "it stands where the data of this space may not be";
                return (ShardReply::Failed(reason.to_owned()), none);
            }
            let unverified = UnverifiedShard {
                descriptor: descriptor.into_vec().into(),
                index,
                payload: body,
            };
            let shard = match Shared::blocking(move || unverified.verify_any()).await {
                Ok(shard) => shard,
                Err(error) => return (ShardReply::Failed(error.to_string()), none),
            };
            let answer = match stripes::keep(shared, space, shard).await {
                Ok(()) => ShardReply::Stored,
                Err(PutError::Full { .. }) => ShardReply::Full,
                Err(PutError::Disk(error)) if error.is_full() => ShardReply::Full,
                Err(error) => ShardReply::Failed(error.to_string()),
            };
            (answer, none)
        }
        ShardRequest::Get(id) => {
            let store = shared.store.clone();
            let found = Shared::blocking(move || {
                let space = store.entry(&id).ok().flatten().map(|entry| entry.space);
                (store.get_unverified(&id), space)
            })
            .await;
            match found {
                (Ok(Some(shard)), Some(space)) => {
                    let descriptor = ByteBuf::from(shard.descriptor.to_vec());
                    (
                        ShardReply::Shard {
                            space,
                            index: shard.index,
                            descriptor,
                        },
                        shard.payload,
                    )
                }
                (Ok(_), _) => (ShardReply::Absent, none),
                (Err(error), _) => {
                    if matches!(error, GetError::Damaged { .. }) {
                        shared.lose(vec![id]);
                    }
                    (ShardReply::Failed(error.to_string()), none)
                }
            }
        }
        ShardRequest::Drop(id) => (drop_copy(shared, peer, id).await, none),
        ShardRequest::Challenge { shard, part } => prove(shared, shard, part).await,
    }
}

/// A part of a shard with its proof. The whole shard is read and checked for it.
async fn prove(shared: &Arc<Shared>, id: ShardId, part: u32) -> (ShardReply, Bytes) {
    let store = shared.store.clone();
    let proved = Shared::blocking(move || {
        let shard = store.get(&id)?;
        let proved = shard.map(|shard| (proof::prove(shard.payload(), part), shard.descriptor().to_bytes()));
        Ok::<_, GetError>(proved)
    });
    let reply = match proved.await {
        Ok(Some((Some((body, proof)), descriptor))) => {
            let descriptor = ByteBuf::from(descriptor);
            return (ShardReply::Proof { descriptor, proof }, body);
        }
        Ok(Some((None, _))) => ShardReply::Failed("the shard has no such part".to_owned()),
        Ok(None) => ShardReply::Absent,
        Err(GetError::Damaged { .. }) => {
            shared.lose(vec![id]);
            ShardReply::Damaged
        }
        Err(error) => ShardReply::Failed(error.to_string()),
    };
    (reply, Bytes::new())
}

/// Which shards of these are held here, and when each was found sound.
pub(crate) fn inspect(store: &Store, stripes: &[StripeId]) -> Vec<Vec<Inspected>> {
    let checked = |stripe: StripeId| {
        let indexes = store.indexes_of(stripe).unwrap_or_default();
        let checked = indexes.into_iter().filter_map(|index| {
            let id = ShardId { stripe, index };
            let geometry = store.entry(&id).ok().flatten()?.geometry;
            let verified_at = store.verified_at(&id).ok().flatten()?;
            Some(Inspected {
                index,
                geometry,
                verified_at,
            })
        });
        checked.collect()
    };
    stripes.iter().map(|stripe| checked(*stripe)).collect()
}

/// Only the stripe's steward, as this node sees it, may say that a copy is not needed; and only while who is here has not just
/// changed: two that both believe to be the steward could each drop the copy that the other keeps.
async fn drop_copy(shared: &Arc<Shared>, peer: NodeId, id: ShardId) -> ShardReply {
    let now = shared.steady();
    if !shared.with_control(|control| control.is_sure_of_steward(id.stripe, peer, now)) {
        return ShardReply::Early;
    }
    match mend::discard(shared, vec![id]).await {
        Ok(()) => ShardReply::Dropped,
        Err(error) => ShardReply::Failed(error),
    }
}

/// A new ticket secret with its hash, for the invitation that is kept.
pub(crate) fn new_secret(entropy: &dyn Entropy) -> (TicketSecret, Hash) {
    let secret = TicketSecret::generate(entropy);
    let hash = secret.hash();
    (secret, hash)
}
