//! Letting other people into a space, and taking them out again; and the names by which people know each other.

use crate::{
    api::{Access, Ended, LetIn, Member, Person, SpaceInfo, Unshared},
    areas, charters,
    error::{MetaError, NodeError},
    links, logs, names,
    protocol::PoolRequest,
    records::{Called, Certificate, PoolRecord, sign},
    shared::Shared,
    space::OpenSpace,
    spaces,
};
use potluck_crypto::SigningKey;
use potluck_spaces::{AreaId, Charter, CharterError, Grant, GrantId, GrantTo, Keys, Log, Path, Reader};
use potluck_types::{ByteSize, NodeId, SpaceName, Timestamp, UserId, UserName, limits};
use serde_bytes::ByteBuf;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

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
        let known = control.roster.last_called(shared.user).cloned();
        (control.roster.pool(), control.roster.certificate_seq(me), known)
    });
    let certificate = Certificate {
        called: called.or(known),
        ..Certificate::new(&shared.keys(), pool, me, seq.saturating_add(1))
    };
    let record = PoolRecord::Certificate(sign(shared.keys().signing(), &certificate));
    shared.introduce(record).await;
}

/// What this person wants to be called from now on.
pub(crate) async fn call_me(shared: &Arc<Shared>, name: UserName) {
    let at = shared.now();
    certify(shared, Some(Called { at, name })).await;
}

/// The people of the pool, this one first.
pub(crate) fn people(shared: &Shared) -> Vec<Person> {
    let me = shared.user;
    shared.with_control(|control| {
        let roster = &control.roster;
        let mut people: Vec<Person> = roster
            .users()
            .map(|user| Person {
                user,
                name: roster.called(user),
                is_me: user == me,
                machines: roster.nodes().filter(|(_, of)| *of == user).count() as u64,
                can_be_let_in: roster.reader(user).is_some(),
            })
            .collect();
        people.sort_by_key(|person| (!person.is_me, person.name.is_none(), person.name.clone(), person.user));
        people
    })
}

/// Those of some users whom the pool knows, without one.
fn others_of(shared: &Shared, without: UserId, users: &BTreeSet<UserId>) -> Vec<Person> {
    let mut others = people(shared);
    others.retain(|one| one.user != without && users.contains(&one.user));
    others
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

fn reader(shared: &Shared, person: &Person) -> Result<Reader, NodeError> {
    let reader = shared.with_control(|control| control.roster.reader(person.user));
    reader.ok_or_else(|| NodeError::NotReached(person.called()))
}

/// Lets a person into a space, or into a directory of it alone.
pub(crate) async fn share(
    shared: &Arc<Shared>,
    name: &SpaceName,
    prefix: Option<&Path>,
    with: &str,
    access: Access,
) -> Result<LetIn, NodeError> {
    let space = to_share(shared, name)?;
    let person = find(shared, with)?;
    if person.is_me {
        return Err(NodeError::WithYourself);
    }
    if access.until.is_some_and(|until| until <= shared.now()) {
        return Err(NodeError::OverAlready);
    }
    let charter = charters::known(shared, space.id()).await?;
    let (me, now) = (shared.user, shared.now());
    let reader = reader(shared, &person)?;
    let is_owner = charter.owner() == Some(me);
    if !is_owner && !charter.grants(now).any(|grant| grant.user == me && grant.may_share) {
        return Err(NodeError::MayNotShare(name.clone()));
    }
    // What is refused is refused before a directory is made anew for it.
    let known = match prefix {
        Some(prefix) => areas::known(&space, &space.read()?, prefix)?,
        None => None,
    };
    let called = match prefix.and_then(Path::split) {
        Some((_, directory)) => format!("{name}/{directory}"),
        None => name.to_string(),
    };
    let mut to = GrantTo {
        reader: Reader { area: known, ..reader },
        may_write: access.may_write,
        until: access.until,
        quota: access.quota.map(|quota| quota.0),
        may_share: access.may_share,
        under: None,
        since: None,
        called,
    };
    if !is_owner && prefix.is_none() && space.is_partial() {
        return Err(NodeError::NotYoursToGive {
            person: person.called(),
            what: "into all of it: you have a directory of it, and can let them into that: `--prefix`",
        });
    }
    let own = charter.shares(me, known, now);
    let own = own.filter(|(_, own)| prefix.is_none() || known.is_some() || own.area.is_none());
    if !is_owner {
        let (_, own) = own.ok_or_else(|| NodeError::MayNotShare(name.clone()))?;
        refuse_beyond(&charter, own, &person, &to, now)?;
    }
    if let Some(prefix) = prefix.filter(|_| known.is_none()) {
        if charter.is_full_of_areas() {
            return Err(CharterError::TooManyAreas.into());
        }
        let made_under = space.ring().current();
        to.reader.area = Some(areas::make(&space, prefix).await?);
        to.since = made_under.and_then(|epoch| charter.depth(epoch));
    } else if known.is_some_and(|known| !charter.areas().contains(&known)) {
        // It was made one, and then nobody was let in: there may have been other keys since.
        to.since = Some(0);
    }
    match own {
        None => let_in(&space, to).await?,
        Some((under, own)) => pass_on(&space, (under, own), &person, to).await?,
    }
    spread(&space, &BTreeSet::from([person.user])).await?;
    let members = members(shared, name).await?;
    let is_it = |member: &Member| member.person.user == person.user && member.prefix.as_ref() == prefix;
    let member = members.into_iter().find(is_it);
    let (after, now) = (charters::known(shared, space.id()).await?, shared.now());
    let others = |users: BTreeSet<UserId>| others_of(shared, person.user, &users);
    let (readers, writers) = (after.readers(now), after.writers(now));
    let ended = ended(&space, &charter, &after, person.user)?;
    Ok(LetIn {
        ended,
        member: member.ok_or_else(|| NodeError::NotShared(person.called()))?,
        out: others(charter.readers(now).difference(&readers).copied().collect()),
        only_read: others(&(&charter.writers(now) - &writers) & &readers),
    })
}

/// What a person could do before, and cannot any more, of what they were let into.
fn ended(space: &OpenSpace, before: &Charter, after: &Charter, user: UserId) -> Result<Vec<Ended>, NodeError> {
    let (kv, now) = (space.read()?, space.now());
    let mut ended = Vec::new();
    for grant in before.grants(now).filter(|grant| grant.user == user) {
        let goes_on = after.grants(now).any(|other| {
            let is_there = other.area.is_none() || other.area == grant.area;
            other.user == user && is_there && (other.may_write || !grant.may_write)
        });
        if !goes_on {
            let prefix = match grant.area {
                Some(area) => Some(areas::called(space, &kv, area)?),
                None => None,
            };
            let may_write = grant.may_write;
            ended.push(Ended { prefix, may_write });
        }
    }
    ended.dedup();
    Ok(ended)
}

/// Lets somebody into a space of this person's.
async fn let_in(space: &OpenSpace, to: GrantTo) -> Result<(), NodeError> {
    let (task, now) = (space.clone(), space.now());
    change(space, move |charter, keys| {
        let (owner, Reader { user, area, .. }) = (task.keys(), to.reader);
        make_own(charter, owner.signing(), now)?;
        let grant = charter.next_grant(owner.signing(), &to, keys, now, &*task.entropy)?;
        // What was granted before ends with it: what is said last holds. Whom they have let in stay in, if they still may.
        let before: BTreeSet<_> = charter
            .grants(now)
            .filter(|grant| grant.user == user)
            .map(|grant| grant.area)
            .collect();
        // What they have of other directories stays theirs, unless this is more, or was.
        let (ends_all, ends_this) = (area.is_none() || before.contains(&None), before.contains(&area));
        let carried = charter.next_carried(owner.signing(), &grant, now)?;
        if !before.is_empty() && (ends_all || ends_this) {
            let ends = ends(&task, &charter.let_in_by(user))?;
            let ended = (user, area.filter(|_| !ends_all));
            charter.join(&charter.next_revocation(owner.signing(), ended, ends, now)?)?;
        }
        charter.join(&grant)?;
        carried.iter().try_for_each(|record| charter.join(record).map(drop))?;
        // Of a directory that was made before they were let in, other keys may be needed.
        if area.is_some() && needs_epoch(&task, charter, keys) {
            begin_epoch(&task, charter, keys)?;
        }
        Ok(())
    })
    .await
    .map(drop)
}

/// Signs what others have given once more: it counts then whatever becomes of their keys, and all know what is ended that was given.
fn make_own(charter: &mut Charter, owner: &SigningKey, now: Timestamp) -> Result<(), NodeError> {
    charter.join_all(&charter.next_copies(owner, now)?);
    Ok(())
}

/// Lets somebody into a space of another's, under a grant that says that this person may.
async fn pass_on(
    space: &OpenSpace,
    (under, own): (GrantId, &Grant),
    person: &Person,
    to: GrantTo,
) -> Result<(), NodeError> {
    let (now, until) = (space.now(), to.until.or(own.until));
    let task = space.clone();
    let given = change(space, move |charter, keys| {
        let user = task.keys();
        let to = GrantTo {
            until,
            under: Some(under),
            called: match (charter.called(&user), to.called.split_once('/')) {
                (Some(space), Some((_, directory))) => format!("{space}/{directory}"),
                (Some(space), None) => space,
                (None, _) => to.called,
            },
            ..to
        };
        charter.join(&charter.next_grant(user.signing(), &to, keys, now, &*task.entropy)?)?;
        Ok(())
    })
    .await;
    match given {
        Err(NodeError::Charter(CharterError::TooManyUnderOne)) => Err(NodeError::NotYoursToGive {
            person: person.called(),
            what: "in: you have let in as many as you may, until the owner shares the space with you anew",
        }),
        given => given.map(drop),
    }
}

/// Refuses what whoever has this grant cannot give, and what whom it is for has already.
fn refuse_beyond(
    charter: &Charter,
    own: &Grant,
    person: &Person,
    to: &GrantTo,
    now: Timestamp,
) -> Result<(), NodeError> {
    // For as long as this person, where nothing else is said.
    let until = to.until.or(own.until);
    let beyond = match () {
        () if charter.is_barred(person.user, to.reader.area) => Some("in again: the owner has taken them out"),
        () if to.may_share => Some("let others in: only the owner says who may"),
        () if to.may_write && !own.may_write => Some("change it: you may only read it yourself"),
        () if to.may_write && own.quota.is_some() => {
            Some("change it: what you may put there yourself is bounded, and whoever you let in can only read it")
        }
        () if own.until.is_some_and(|end| until.is_none_or(|until| until > end)) => {
            Some("in for so long: your own time ends before")
        }
        () => None,
    };
    if let Some(what) = beyond {
        let person = person.called();
        return Err(NodeError::NotYoursToGive { person, what });
    }
    let has_it = |grant: &Grant| {
        let is_as_long = grant.until.is_none_or(|end| until.is_some_and(|until| until <= end));
        let is_as_much = match (to.may_write, grant.quota) {
            (false, _) => true,
            (true, None) => grant.may_write,
            (true, Some(may_put)) => grant.may_write && to.quota.is_some_and(|quota| quota <= may_put),
        };
        let is_there = grant.area.is_none() || grant.area == to.reader.area;
        grant.user == person.user && is_as_long && is_as_much && is_there
    };
    if charter.owner() == Some(person.user) || charter.grants(now).any(has_it) {
        return Err(NodeError::IsIn(person.called()));
    }
    Ok(())
}

/// Takes a person out of a space, or out of a directory that they were let into. What they have read they may keep; what is written from now on is sealed under a key that they do not have.
pub(crate) async fn unshare(
    shared: &Arc<Shared>,
    name: &SpaceName,
    prefix: Option<&Path>,
    with: &str,
) -> Result<Unshared, NodeError> {
    let space = own(shared, name).await?;
    let person = find(shared, with)?;
    let removed = charters::known(shared, space.id()).await?.areas();
    let removed = removed.into_iter().find(|area| prefix == Some(&areas::removed(*area)));
    let area = match prefix {
        Some(_) if removed.is_some() => removed,
        Some(prefix) => Some(areas::at(&space, prefix)?.ok_or_else(|| NodeError::NotShared(person.called()))?),
        None => None,
    };
    // Whose time is over may have the key until it is another.
    let is_in = |charter: &Charter| match area {
        Some(_) => charter
            .grants(shared.now())
            .any(|grant| grant.user == person.user && grant.area == area),
        None => charter.readers(shared.now()).contains(&person.user) || charter.has_key(person.user),
    };
    if person.is_me || !is_in(&*charters::known(shared, space.id()).await?) {
        return Err(NodeError::NotShared(person.called()));
    }
    // What they wrote until now counts, as far as it is known to anybody who is here.
    if let Err(error) = logs::catch_up(&space).await {
        tracing::info!(%error, "what counts of who is taken out is what is known here");
    }
    let (task, user, now) = (space.clone(), person.user, shared.now());
    let mut leaving = charters::known(shared, space.id()).await?.leaving_with(user, area, now);
    if area.is_none() {
        leaving.insert(user);
    }
    let mut links = 0;
    for user in &leaving {
        links += links::count_of(&space, *user)?;
    }
    change(&space, move |charter, keys| {
        let owner = task.keys();
        let before = charter.clone();
        make_own(charter, owner.signing(), now)?;
        let ends = ends(&task, &charter.let_in_by(user))?;
        let end = |charter: &mut Charter| {
            let revocation = charter.next_revocation(owner.signing(), (user, area), ends.clone(), now)?;
            charter.join(&revocation)
        };
        // There may be room for that alone.
        if let Err(CharterError::TooMuch) = end(charter) {
            *charter = before;
            end(charter)?;
        }
        begin_epoch(&task, charter, keys)
    })
    .await?;
    let told: BTreeSet<_> = leaving.iter().copied().chain([user]).collect();
    spread(&space, &told).await?;
    links::withdraw_of_leavers(&space).await?;
    let away = shared.with_control(|control| {
        let live = control.live_peers();
        let nodes = control.roster.nodes().filter(|(_, of)| told.contains(of));
        nodes.filter(|(node, _)| !live.contains(node)).count() as u64
    });
    Ok(Unshared {
        person,
        away,
        with_them: others_of(shared, user, &leaving),
        links,
    })
}

/// How far the logs of people's devices are known here.
fn ends(space: &OpenSpace, users: &BTreeSet<UserId>) -> Result<Vec<(NodeId, u64)>, NodeError> {
    let frontier = Log::of(space.id())
        .frontier(&space.read()?)
        .map_err(MetaError::reading)?;
    let of_them = |device: NodeId| {
        let owner = space.with_control(|control| control.roster.owner_of(device));
        owner.is_some_and(|owner| users.contains(&owner))
    };
    let theirs = frontier.into_iter().filter(|(device, _)| of_them(*device));
    Ok(theirs.map(|(device, position)| (device, position.seq)).collect())
}

/// Those who may read a space, and what is wrapped for each; without those of whom that is not known. An epoch is for so many at most: whom the owner has let in come first.
fn readers(shared: &Shared, charter: &Charter) -> Vec<Reader> {
    let (me, now) = (shared.keys(), shared.now());
    let reader = |user: UserId| match user == shared.user {
        true => Some(Reader::of(&me)),
        false => shared.with_control(|control| control.roster.reader(user)),
    };
    let (direct, others): (Vec<_>, Vec<_>) = charter.grants(now).partition(|grant| grant.under.is_none());
    let owner = charter.owner().map(|owner| (owner, None));
    let granted = direct.into_iter().chain(others).map(|grant| (grant.user, grant.area));
    let whole = charter.whole_readers(now);
    let mut seen = BTreeSet::new();
    let each = owner.into_iter().chain(granted);
    // Who reads all of it reads each directory.
    let each = each.filter(|(user, area)| area.is_none() || !whole.contains(user));
    let each = each
        .filter(|reader| seen.insert(*reader))
        .take(limits::SPACE_READERS_MAX);
    each.filter_map(|(user, area)| Some(Reader { area, ..reader(user)? }))
        .collect()
}

/// Adds an epoch for those who may read a space.
pub(crate) fn begin_epoch(shared: &Shared, charter: &mut Charter, keys: &Keys) -> Result<(), NodeError> {
    let owner = shared.keys();
    let epoch = charter.next_epoch(owner.signing(), &readers(shared, charter), keys, &*shared.entropy)?;
    charter.join(&epoch)?;
    Ok(())
}

/// How far the logs of lost machines are known here of those who write to a space, or did; where its charter has not said as much. What was said once only a machine raises that was there when
/// the person's key was replaced: one that has come since may have been given what the lost one wrote later.
fn unsaid_ends(space: &OpenSpace, charter: &Charter) -> Result<Vec<(NodeId, u64)>, NodeError> {
    let key = space.keys().signing().public();
    let lost: BTreeSet<NodeId> = space.with_control(|control| {
        let roster = &control.roster;
        let replaced = roster.speakers().users().filter(|user| charter.knows(*user));
        let lost = replaced.flat_map(|user| roster.lost(user));
        let may_raise = roster
            .last_rotation(space.user)
            .is_some_and(|last| last.keeps(space.me()));
        lost.filter(|node| may_raise || !charter.ends(key, *node)).collect()
    });
    if lost.is_empty() {
        return Ok(Vec::new());
    }
    let frontier = Log::of(space.id())
        .frontier(&space.read()?)
        .map_err(MetaError::reading)?;
    let end = |node: NodeId| (node, frontier.get(&node).map_or(0, |position| position.seq));
    let is_unsaid = |(node, seq): &(NodeId, u64)| charter.lacks_end(key, *node, *seq);
    Ok(lost.into_iter().map(end).filter(is_unsaid).collect())
}

/// How long after somebody's time is over the key is made another.
const AFTER_END: Duration = Duration::from_secs(1);
/// How long those are waited for who may be the only ones that keep what a lost machine wrote.
const END_PATIENCE: Duration = Duration::from_secs(7 * 86_400);

/// Whether a key was replaced so lately that those are waited for.
fn is_recent(space: &OpenSpace) -> bool {
    let now = space.now();
    space.with_control(|control| {
        let roster = &control.roster;
        let rotations = roster.speakers().users().filter_map(|user| roster.last_rotation(user));
        let last = rotations.map(|rotation| rotation.at).max();
        last.is_some_and(|at| now < at + END_PATIENCE)
    })
}

/// Whether some are not here who have to be asked before it is said how far the logs of lost machines count, since what only they keep would end with that. Machines of this person that were
/// there when their key was replaced can say more when they are back.
fn awaits_keepers(space: &OpenSpace) -> bool {
    let mut custodians = names::usual_custodians(space, space.id());
    // Who kept it before it was said where it may be.
    if space.regions(space.id()).is_some() {
        custodians.extend(names::former_custodians(space, space.id()));
    }
    space.with_control(|control| {
        let (own, live) = (control.roster.last_rotation(space.user), control.live_peers());
        let may_say_more = |node: &NodeId| own.is_some_and(|own| own.keeps(*node));
        let mut away = custodians
            .iter()
            .filter(|node| **node != space.me() && !live.contains(node));
        away.any(|node| !may_say_more(node))
    })
}

/// Says, of a space of this person's, how far the logs of lost machines count: as far as anybody knows them who keeps them.
pub(crate) async fn end_logs(space: &OpenSpace) -> Result<(), NodeError> {
    let charter = charters::known(space.shared(), space.id()).await?;
    if charter.owner() != Some(space.user)
        || space.refuse_old_key().is_err()
        || unsaid_ends(space, &charter)?.is_empty()
    {
        return Ok(());
    }
    let is_waiting = awaits_keepers(space);
    let live = space.with_control(|control| control.live_peers());
    let mut keepers = names::keepers(space, space.id(), &space.present_view());
    keepers.extend(names::usual_custodians(space, space.id()));
    keepers.retain(|node| live.contains(node));
    let asked = logs::catch_up_from(space, keepers).await;
    // One that gives no good answer is not waited for without end either.
    if is_recent(space) {
        asked?;
        if is_waiting {
            return Ok(());
        }
    }
    let task = space.clone();
    let is_changed = change(space, move |charter, _| {
        let ends = unsaid_ends(&task, charter)?;
        if let Some(stop) = charter.next_stop(task.keys().signing(), ends, task.now())? {
            charter.join(&stop)?;
        }
        Ok(())
    })
    .await?;
    if is_changed {
        names::replicate(space).await?;
    }
    Ok(())
}

/// Begins another epoch of a space of this person's, where others have the key that is in use than those who may read; and ends the links of those who may not any more.
pub(crate) async fn renew(space: &OpenSpace) {
    if let Err(error) = renew_now(space).await {
        tracing::warn!(space = %space.id().short(), %error, "the key of a space is to be another, and is not yet");
    }
}

async fn renew_now(space: &OpenSpace) -> Result<(), NodeError> {
    let charter = charters::known(space.shared(), space.id()).await?;
    if charter.owner() != Some(space.user) || space.refuse_old_key().is_err() {
        return Ok(());
    }
    if !charter.follows(space.keys().signing().public()) {
        // None of this person's machines has said what counts, as far as is known here; one that has just come knows of nothing yet.
        let is_alone =
            space.with_control(|control| control.live_peers().is_empty() && control.roster.members().len() > 1);
        if is_alone {
            return Ok(());
        }
        logs::catch_up(space).await?;
    }
    let (task, now) = (space.clone(), space.now());
    let is_changed = change(space, move |charter, keys| {
        let owner = task.keys();
        if !charter.follows(owner.signing().public()) {
            charter.succeed(&owner, task.now())?;
        }
        make_own(charter, owner.signing(), now)?;
        if needs_epoch(&task, charter, keys) {
            begin_epoch(&task, charter, keys)?;
        }
        Ok(())
    })
    .await?;
    // When the next one's time is over, the key is to be another.
    if let Some(end) = charters::known(space.shared(), space.id()).await?.next_end(now) {
        space.sweep_due.within(end.since(now) + AFTER_END);
    }
    links::withdraw_of_leavers(space).await?;
    if is_changed {
        // Custodians hear of it where logs are compared.
        names::replicate(space).await?;
    }
    Ok(())
}

pub(crate) fn needs_epoch(shared: &Shared, charter: &Charter, keys: &Keys) -> bool {
    let former_tags = |user: UserId| match user == shared.user {
        true => Reader::former_tags(&shared.keys()),
        false => shared.with_control(|control| control.roster.former_tags(user)),
    };
    let reached = readers(shared, charter).into_iter();
    let reached = reached.map(|reader| (reader.user, former_tags(reader.user))).collect();
    charter.needs_epoch(&reached, keys, shared.now())
}

/// A space of this person's that can be shared.
async fn own(shared: &Arc<Shared>, name: &SpaceName) -> Result<OpenSpace, NodeError> {
    to_share(shared, name)?;
    spaces::own(shared, name).await
}

/// A space that can be shared, whosever it is.
fn to_share(shared: &Arc<Shared>, name: &SpaceName) -> Result<OpenSpace, NodeError> {
    if name.is_home() {
        return Err(NodeError::HomeIsPrivate);
    }
    shared.refuse_old_key()?;
    spaces::find(shared, name)
}

/// Adds records to a charter, all or none. Whether there are any.
async fn change(
    space: &OpenSpace,
    add: impl FnOnce(&mut Charter, &Keys) -> Result<(), NodeError> + Send + 'static,
) -> Result<bool, NodeError> {
    let task = space.clone();
    let is_changed =
        Shared::blocking(move || charters::change(&task, task.id(), |charter| add(charter, &task.ring().keys)));
    let is_changed = is_changed.await?;
    if is_changed {
        spaces::learn(space.shared(), space.id()).await?;
    }
    Ok(is_changed)
}

/// Tells the custodians, who hear of it where logs are compared, and the machines of some people that are here, what has changed of a charter.
async fn spread(space: &OpenSpace, users: &BTreeSet<UserId>) -> Result<(), NodeError> {
    names::replicate(space).await?;
    let charter = charters::known(space.shared(), space.id()).await?;
    let records = charter.records().map(|record| ByteBuf::from(record.to_bytes()));
    let peers = space.with_control(|control| {
        let live = control.live_peers().into_iter();
        let is_theirs = |node: &NodeId| control.roster.user_of(*node).is_some_and(|user| users.contains(&user));
        live.filter(is_theirs).collect::<Vec<_>>()
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
    let owner = charter.owner().unwrap_or(shared.user);
    let whole = charter.whole_readers(now);
    // What is for less than all of it counts where a person has no more.
    let mut granted = BTreeMap::<(UserId, Option<AreaId>), Vec<&Grant>>::new();
    let writes_all = |user: UserId| charter.written_areas(user, now).is_none();
    for grant in charter.grants(now) {
        let is_more = !whole.contains(&grant.user) || (grant.may_write && !writes_all(grant.user));
        if grant.area.is_none() || is_more {
            granted.entry((grant.user, grant.area)).or_default().push(grant);
        }
    }
    let task = space.clone();
    let used = Shared::blocking(move || names::used_by(&task, &task.read()?)).await?;
    let used = |user: UserId| ByteSize(used.get(&user).copied().unwrap_or_default());
    let kv = space.read()?;
    let prefix = |area: AreaId| areas::called(&space, &kv, area);
    let everybody = people(shared);
    let person = |user: UserId| {
        let known = everybody.iter().find(|person| person.user == user).cloned();
        known.unwrap_or_else(|| Person::unknown(user))
    };
    let first = Member {
        person: person(owner),
        is_owner: true,
        access: Access {
            may_write: true,
            since: charter.created(),
            until: None,
            quota: None,
            may_share: true,
        },
        prefix: None,
        by: None,
        used: used(owner),
    };
    // Of several who let one in, all that any of them gives.
    let others = granted.iter().map(|((user, area), grants)| {
        let is_endless = grants.iter().any(|grant| grant.until.is_none());
        let by = |grant: &&Grant| charter.given_by(grant).filter(|by| *by != owner);
        Ok(Member {
            person: person(*user),
            is_owner: false,
            prefix: area.map(prefix).transpose()?,
            access: Access {
                may_write: grants.iter().any(|grant| grant.may_write),
                since: grants.iter().map(|grant| grant.at).min(),
                until: grants
                    .iter()
                    .filter_map(|grant| grant.until)
                    .max()
                    .filter(|_| !is_endless),
                quota: charter.quota(*user, now).map(ByteSize),
                may_share: grants.iter().any(|grant| grant.may_share),
            },
            by: match grants.iter().any(|grant| grant.under.is_none()) {
                true => None,
                false => grants.iter().find_map(by).map(person),
            },
            used: used(*user),
        })
    });
    std::iter::once(Ok(first)).chain(others).collect()
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
        (None, _) => {
            // Who is let in anew has it already, under whatever name.
            let mut known = spaces::list(shared, false).await?.into_iter();
            if let Some(known) = known.find(|info| !info.is_mine && info.may_read && fits(&info)) {
                return Ok(known);
            }
            // Or had it, and has put it away.
            let mut removed = spaces::list(shared, true).await?.into_iter();
            let removed = removed.find(|info| !info.is_mine && fits(&info));
            let removed = removed.ok_or_else(|| NodeError::NoSuchOffer(offer.to_owned()))?;
            return spaces::restore(shared, &removed.name).await;
        }
    };
    let name = called.unwrap_or_else(|| info.name.clone());
    spaces::mount(shared, &name, info.id).await?;
    // What was written before comes now, not when somebody writes next.
    if let Some(space) = shared.open_space(info.id)
        && let Err(error) = logs::catch_up(&space).await
    {
        tracing::info!(%error, "what was written in the space comes when who keeps it is here");
    }
    spaces::info(shared, &name).await
}
