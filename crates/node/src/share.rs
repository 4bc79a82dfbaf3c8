//! Letting other people into a space, and taking them out again; and the names by which people know each other.

use crate::{
    api::{Access, Member, Person, SpaceInfo, Unshared},
    charters,
    error::{MetaError, NodeError},
    links, names,
    protocol::PoolRequest,
    records::{Called, Certificate, PoolRecord, sign},
    shared::Shared,
    space::OpenSpace,
    spaces,
};
use potluck_crypto::{Recipient, derive::recipient_key};
use potluck_spaces::{Charter, CharterRecord, GrantTo, Keys, Log};
use potluck_types::{NodeId, SpaceName, UserId, UserName};
use serde_bytes::ByteBuf;
use std::{collections::BTreeMap, sync::Arc};

/// Says whom messages for this person are wrapped for, if no certificate of this node does: it was made by a version that knew of none.
pub(crate) async fn introduce(shared: &Arc<Shared>) {
    let me = shared.me();
    let lacks = shared.with_control(|control| {
        let own = control.roster.certificate(me);
        own.is_some_and(|own| own.active && own.recipient.is_none())
    });
    if lacks {
        certify(shared, None).await;
    }
}

/// Gives this node another certificate, with what its person wants to be called, if that is said.
async fn certify(shared: &Arc<Shared>, called: Option<Called>) {
    let me = shared.me();
    let (pool, seq, known) = shared.with_control(|control| {
        let known = control.roster.certificate(me).and_then(|own| own.called.clone());
        (control.roster.pool(), control.roster.certificate_seq(me), known)
    });
    let certificate = Certificate {
        called: called.or(known),
        ..Certificate::new(&shared.user_key, pool, me, seq + 1)
    };
    let record = PoolRecord::Certificate(sign(&shared.user_key, &certificate));
    shared.introduce(record).await;
}

/// What this person wants to be called from now on.
pub(crate) async fn call_me(shared: &Arc<Shared>, name: UserName) {
    let at = shared.now();
    certify(shared, Some(Called { at, name })).await;
}

/// The people of the pool, this one first.
pub(crate) fn people(shared: &Shared) -> Vec<Person> {
    let me = shared.user_key.user_id();
    shared.with_control(|control| {
        let roster = &control.roster;
        let mut people: Vec<Person> = roster
            .users()
            .map(|user| Person {
                user,
                name: roster.called(user),
                is_me: user == me,
                machines: roster.nodes().filter(|(_, of)| *of == user).count() as u64,
                can_be_let_in: roster.recipient(user).is_some(),
            })
            .collect();
        people.sort_by_key(|person| (!person.is_me, person.name.is_none(), person.name.clone(), person.user));
        people
    })
}

/// The person whom someone means by a name, by an id, or by the end of one.
pub(crate) fn find(shared: &Shared, text: &str) -> Result<Person, NodeError> {
    let people = people(shared);
    let fits = |person: &&Person| {
        let id = person.user.to_string();
        person.name.as_ref().is_some_and(|name| name.as_str() == text) || (text.len() >= 6 && id.ends_with(text))
    };
    let mut found = people.iter().filter(fits);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one.clone()),
        (Some(_), Some(_)) => Err(NodeError::SeveralPeople(text.to_owned())),
        (None, _) => Err(NodeError::NoSuchPerson(text.to_owned())),
    }
}

fn recipient_of(shared: &Shared, person: &Person) -> Result<Recipient, NodeError> {
    let recipient = shared.with_control(|control| control.roster.recipient(person.user));
    recipient.ok_or_else(|| NodeError::NotReached(person.called()))
}

/// Lets a person into a space.
pub(crate) async fn share(
    shared: &Arc<Shared>,
    name: &SpaceName,
    with: &str,
    access: Access,
) -> Result<Member, NodeError> {
    let space = own(shared, name).await?;
    let person = find(shared, with)?;
    if person.is_me {
        return Err(NodeError::WithYourself);
    }
    let to = GrantTo {
        user: person.user,
        recipient: recipient_of(shared, &person)?,
        may_write: access.may_write,
        until: access.until,
        called: name.to_string(),
    };
    let task = space.clone();
    let now = shared.now();
    change(&space, move |charter, keys| {
        let grant = charter.next_grant(&task.user_key, &to, keys, now, &*task.entropy)?;
        // What was granted before ends with it: what is said last holds.
        let before = charter.grants(now).any(|grant| grant.user == to.user);
        if !before {
            return Ok(vec![grant]);
        }
        let ended = charter.next_revocation(&task.user_key, to.user, ends(&task, to.user)?, now)?;
        Ok(vec![ended, grant])
    })
    .await?;
    spread(&space, person.user).await?;
    let members = members(shared, name).await?;
    let member = members.into_iter().find(|member| member.person.user == person.user);
    member.ok_or_else(|| NodeError::NotShared(person.called()))
}

/// Takes a person out of a space. What they have read they may keep; what is written from now on is sealed under a key that they do not have.
pub(crate) async fn unshare(shared: &Arc<Shared>, name: &SpaceName, with: &str) -> Result<Unshared, NodeError> {
    let space = own(shared, name).await?;
    let person = find(shared, with)?;
    let is_in = |members: &[Member]| members.iter().any(|member| member.person.user == person.user);
    if person.is_me || !is_in(&members(shared, name).await?) {
        return Err(NodeError::NotShared(person.called()));
    }
    // What they wrote until now counts, as far as it is known to anybody who is here.
    if let Err(error) = names::catch_up(&space).await {
        tracing::info!(%error, "what counts of who is taken out is what is known here");
    }
    let links = links::count_of(&space, person.user)?;
    let (task, user, now) = (space.clone(), person.user, shared.now());
    change(&space, move |charter, keys| {
        let revocation = charter.next_revocation(&task.user_key, user, ends(&task, user)?, now)?;
        let mut after = charter.clone();
        after.join(&revocation)?;
        let epoch = after.next_epoch(&task.user_key, &readers(&task, &after), keys, &*task.entropy)?;
        Ok(vec![revocation, epoch])
    })
    .await?;
    spread(&space, person.user).await?;
    links::withdraw_of_leavers(&space).await?;
    let away = shared.with_control(|control| {
        let live = control.live_peers();
        let nodes = control.roster.nodes().filter(|(_, of)| *of == person.user);
        nodes.filter(|(node, _)| !live.contains(node)).count() as u64
    });
    Ok(Unshared { person, away, links })
}

/// How far the logs of a person's devices are known here.
fn ends(space: &OpenSpace, user: UserId) -> Result<Vec<(NodeId, u64)>, NodeError> {
    let frontier = Log::of(space.id())
        .frontier(&space.read()?)
        .map_err(MetaError::reading)?;
    let of_them = |device: NodeId| space.with_control(|control| control.roster.owner_of(device)) == Some(user);
    let theirs = frontier.into_iter().filter(|(device, _)| of_them(*device));
    Ok(theirs.map(|(device, position)| (device, position.seq)).collect())
}

/// Those who may read a space, and what is wrapped for each; without those of whom that is not known.
fn readers(shared: &Shared, charter: &Charter) -> Vec<(UserId, Recipient)> {
    let recipient = |user: UserId| match user == shared.user_key.user_id() {
        true => Some(recipient_key(&shared.user_key).recipient()),
        false => shared.with_control(|control| control.roster.recipient(user)),
    };
    let readers = charter.readers(shared.now()).into_iter();
    readers.filter_map(|user| Some((user, recipient(user)?))).collect()
}

/// Begins another epoch of a space of this person's, where others have the key that is in use than those who may read, and ends the links of those who may not any more.
pub(crate) async fn renew(space: &OpenSpace) {
    if let Err(error) = renew_now(space).await {
        tracing::warn!(space = %space.id().short(), %error, "the key of a space is to be another, and is not yet");
    }
}

async fn renew_now(space: &OpenSpace) -> Result<(), NodeError> {
    let charter = charters::known(space.shared(), space.id()).await?;
    if charter.owner() != Some(space.user_key.user_id()) {
        return Ok(());
    }
    links::withdraw_of_leavers(space).await?;
    if !needs_epoch(space, &charter) {
        return Ok(());
    }
    let task = space.clone();
    change(space, move |charter, keys| {
        if !needs_epoch(&task, charter) {
            return Ok(Vec::new());
        }
        let epoch = charter.next_epoch(&task.user_key, &readers(&task, charter), keys, &*task.entropy)?;
        Ok(vec![epoch])
    })
    .await?;
    // Custodians hear of it where logs are compared.
    names::replicate(space).await.map(drop)
}

fn needs_epoch(shared: &Shared, charter: &Charter) -> bool {
    let reached = readers(shared, charter).into_iter().map(|(user, _)| user).collect();
    charter.needs_epoch(&reached, shared.now())
}

/// A space of this person's that can be shared.
async fn own(shared: &Arc<Shared>, name: &SpaceName) -> Result<OpenSpace, NodeError> {
    if name.is_home() {
        return Err(NodeError::HomeIsPrivate);
    }
    spaces::own(shared, name).await
}

/// Adds records to a charter, all or none.
async fn change(
    space: &OpenSpace,
    records: impl FnOnce(&Charter, &Keys) -> Result<Vec<CharterRecord>, NodeError> + Send + 'static,
) -> Result<(), NodeError> {
    let task = space.clone();
    Shared::blocking(move || {
        charters::change(&task, task.id(), |charter| {
            let ring = task.ring();
            for record in records(charter, &ring.keys)? {
                charter.join(&record)?;
            }
            Ok(())
        })
    })
    .await?;
    spaces::learn(space.shared(), space.id()).await
}

/// Tells the custodians, who hear of it where logs are compared, and the machines of a person that are here, what has changed of a charter.
async fn spread(space: &OpenSpace, user: UserId) -> Result<(), NodeError> {
    names::replicate(space).await?;
    let charter = charters::known(space.shared(), space.id()).await?;
    let records = charter.records().map(|record| ByteBuf::from(record.to_bytes()));
    let peers = space.with_control(|control| {
        let live = control.live_peers().into_iter();
        live.filter(|node| control.roster.user_of(*node) == Some(user))
            .collect::<Vec<_>>()
    });
    let request = PoolRequest::Charter {
        space: space.id(),
        records: records.collect(),
    };
    let told = peers.into_iter().map(|peer| space.ask(peer, &request));
    futures::future::join_all(told).await;
    Ok(())
}

/// Who may read a space, and what else, its owner first.
pub(crate) async fn members(shared: &Arc<Shared>, name: &SpaceName) -> Result<Vec<Member>, NodeError> {
    let space = spaces::find(shared, name)?;
    let (charter, now) = (charters::known(shared, space.id()).await?, shared.now());
    let owner = charter.owner().unwrap_or(shared.user_key.user_id());
    let granted = charter.grants(now).map(|grant| {
        let access = Access {
            may_write: grant.may_write,
            since: Some(grant.at),
            until: grant.until,
        };
        (grant.user, access)
    });
    let members: BTreeMap<UserId, Access> = granted.collect();
    let everybody = people(shared);
    let person = |user: UserId| {
        let known = everybody.iter().find(|person| person.user == user).cloned();
        known.unwrap_or(Person {
            user,
            name: None,
            is_me: false,
            machines: 0,
            can_be_let_in: false,
        })
    };
    let first = Member {
        person: person(owner),
        is_owner: true,
        access: Access {
            may_write: true,
            since: charter.created(),
            until: None,
        },
    };
    let others = members.into_iter().map(|(user, access)| Member {
        person: person(user),
        is_owner: false,
        access,
    });
    Ok(std::iter::once(first).chain(others).collect())
}

/// Takes a space that another person has let this one into, under a name of this person's own.
pub(crate) async fn accept(
    shared: &Arc<Shared>,
    offer: &str,
    called: Option<SpaceName>,
) -> Result<SpaceInfo, NodeError> {
    let offers = spaces::offers(shared).await?;
    let fits =
        |info: &&SpaceInfo| info.name.as_str() == offer || (offer.len() >= 6 && info.id.to_string().ends_with(offer));
    let mut found = offers.iter().filter(fits);
    let info = match (found.next(), found.next()) {
        (Some(info), None) => info,
        (Some(_), Some(_)) => return Err(NodeError::SeveralOffers(offer.to_owned())),
        (None, _) => return Err(NodeError::NoSuchOffer(offer.to_owned())),
    };
    let name = called.unwrap_or_else(|| info.name.clone());
    spaces::mount(shared, &name, info.id).await?;
    // What was written before comes now, not when somebody writes next.
    if let Some(space) = shared.open_space(info.id)
        && let Err(error) = names::catch_up(&space).await
    {
        tracing::info!(%error, "what was written in the space comes when who keeps it is here");
    }
    spaces::info(shared, &name).await
}
