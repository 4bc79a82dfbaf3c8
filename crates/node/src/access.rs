//! Who could do what in a space, and since when: the records of its charter, its links, and where its data may be, as one log. All of it is signed, and checked when it comes in.

use crate::{
    api::{AccessChange, AccessEvent, Person},
    areas,
    error::NodeError,
    links, share,
    space::OpenSpace,
};
use potluck_crypto::{PublicKey, Record, Signed};
use potluck_spaces::{AreaId, Charter, CharterRecord, Grant, GrantId, Revocation};
use potluck_types::{ByteSize, SpaceName, Timestamp, UserId};
use std::collections::{BTreeMap, BTreeSet};

/// What changed who can read or write in a space, the latest first.
pub(crate) fn events(space: &OpenSpace, called: &SpaceName) -> Result<Vec<AccessEvent>, NodeError> {
    let charter = space.charters.of(&space.read()?, space.id())?;
    let known: BTreeMap<UserId, Person> = share::people(space)
        .into_iter()
        .map(|person| (person.user, person))
        .collect();
    let person = |user: UserId| known.get(&user).cloned().unwrap_or_else(|| Person::unknown(user));
    let speaker = |key: PublicKey| person(charter.speakers().whose(key).user);
    let mut events = Vec::new();
    let mut add = |at, by, what| events.push(AccessEvent { at, by: Some(by), what });
    let grants = Grants::of(&charter);
    for record in charter.records() {
        match record {
            CharterRecord::Founding(signed) => {
                if let Some((key, founding)) = opened(signed) {
                    add(founding.created, speaker(key), AccessChange::Founded);
                }
            }
            CharterRecord::Grant(signed) => {
                if let Some((key, grant)) = opened(signed) {
                    let what = AccessChange::LetIn {
                        person: person(grant.user),
                        may_write: grant.may_write,
                        until: grant.until,
                        quota: grant.quota.map(ByteSize),
                        may_share: grant.may_share,
                        prefix: match grant.area {
                            Some(area) => Some(of_area(space, area)?),
                            None => None,
                        },
                        counted: grants.holds_after(&signed.hash(), &grant, grant.at),
                    };
                    // What others have given has the owner's signature, too, once their machines have heard of it.
                    let user = charter.speakers().whose(key).user;
                    if grant.under.is_none() || Some(user) != charter.owner() || grants.count_of(&grant) == 1 {
                        add(grant.at, speaker(key), what);
                    }
                }
            }
            CharterRecord::Revocation(signed) => {
                let Some((key, revocation)) = opened(signed) else {
                    continue;
                };
                for user in grants.out_by(&revocation) {
                    let (person, prefix) = (person(user), None);
                    add(revocation.at, speaker(key), AccessChange::TakenOut { person, prefix });
                }
                if let Some(area) = revocation.area {
                    for user in grants.out_of(&revocation) {
                        let (person, prefix) = (person(user), Some(of_area(space, area)?));
                        add(revocation.at, speaker(key), AccessChange::TakenOut { person, prefix });
                    }
                }
            }
            CharterRecord::Succession(signed) => {
                if let Some((key, succession)) = opened(signed) {
                    add(succession.at, speaker(key), AccessChange::KeyReplaced);
                }
            }
            CharterRecord::Stop(signed) => {
                if let Some((key, stop)) = opened(signed) {
                    let machines = stop.ends.iter().map(|(machine, _)| *machine).collect();
                    add(stop.at, speaker(key), AccessChange::MachinesLost { machines });
                }
            }
            CharterRecord::Epoch(_) => {}
        }
    }
    events.extend(of_links(space, called, &person)?);
    let residence = space.with_control(|control| {
        let residence = control.roster.residence(space.id())?;
        Some((residence.at, residence.regions.clone()))
    });
    if let Some((at, regions)) = residence {
        let by = charter.owner().map(person);
        let what = AccessChange::Confined { regions };
        events.push(AccessEvent { at, by, what });
    }
    events.sort_by_key(|event| std::cmp::Reverse(event.at));
    // Each machine of the owner's says what counts when a key was replaced.
    events.dedup_by(|a, b| (&a.by, &a.what) == (&b.by, &b.what));
    Ok(events)
}

/// What an area is called now.
fn of_area(space: &OpenSpace, area: AreaId) -> Result<String, NodeError> {
    Ok(areas::called(space, &space.read()?, area)?.to_string())
}

/// All grants of a charter, and when they were ended.
struct Grants {
    given: BTreeMap<GrantId, Grant>,
    ended: BTreeMap<GrantId, Timestamp>,
}

impl Grants {
    fn of(charter: &Charter) -> Self {
        let (mut given, mut ended) = (BTreeMap::new(), BTreeMap::<GrantId, Timestamp>::new());
        for record in charter.records() {
            match record {
                CharterRecord::Grant(signed) => given.extend(opened(signed).map(|(_, grant)| (signed.hash(), grant))),
                CharterRecord::Revocation(signed) => {
                    let Some((_, revocation)) = opened(signed) else {
                        continue;
                    };
                    for grant in revocation.grants {
                        let at = ended.entry(grant).or_insert(revocation.at);
                        *at = revocation.at.min(*at);
                    }
                }
                _ => {}
            }
        }
        Self { given, ended }
    }

    /// How often the same was given: once by each who has signed it.
    fn count_of(&self, grant: &Grant) -> usize {
        self.given.values().filter(|known| *known == grant).count()
    }

    /// Whether a grant holds right after a time, as far as it was given and ended.
    fn holds_after(&self, id: &GrantId, grant: &Grant, at: Timestamp) -> bool {
        self.holds(id, grant, at, |end| end <= at)
    }

    /// The same right before it.
    fn holds_before(&self, id: &GrantId, grant: &Grant, at: Timestamp) -> bool {
        self.holds(id, grant, at, |end| end < at)
    }

    fn holds(&self, id: &GrantId, grant: &Grant, at: Timestamp, is_over: impl Fn(Timestamp) -> bool) -> bool {
        let is_ended = |id: &GrantId| self.ended.get(id).is_some_and(|end| is_over(*end));
        grant.at <= at && !is_ended(id) && !grant.under.as_ref().is_some_and(is_ended)
    }

    /// Those who could read a directory before a revocation and cannot any more, but can read others.
    fn out_of(&self, revocation: &Revocation) -> BTreeSet<UserId> {
        let here = || self.given.iter().filter(|(_, grant)| grant.area == revocation.area);
        let before = here().filter(|(id, grant)| self.holds_before(id, grant, revocation.at));
        let mut out: BTreeSet<_> = before.map(|(_, grant)| grant.user).collect();
        let after = here().filter(|(id, grant)| self.holds_after(id, grant, revocation.at));
        for (_, grant) in after {
            out.remove(&grant.user);
        }
        let all_out = self.out_by(revocation);
        out.retain(|user| !all_out.contains(user));
        out
    }

    /// Whom a revocation takes out: not who is in by another grant, as one who was given other rights in the same moment.
    fn out_by(&self, revocation: &Revocation) -> BTreeSet<UserId> {
        let named: BTreeSet<&GrantId> = revocation.grants.iter().collect();
        let mut out = BTreeSet::new();
        for (id, grant) in &self.given {
            let is_named = named.contains(id) || grant.under.as_ref().is_some_and(|under| named.contains(under));
            if is_named && self.holds_before(id, grant, revocation.at) {
                out.insert(grant.user);
            }
        }
        for (id, grant) in &self.given {
            if self.holds_after(id, grant, revocation.at) {
                out.remove(&grant.user);
            }
        }
        out
    }
}

fn opened<T: Record>(signed: &Signed<T>) -> Option<(PublicKey, T)> {
    let verified = signed.open().ok()?;
    Some((verified.signer(), verified.into_value()))
}

/// When links were made, and ended.
fn of_links(
    space: &OpenSpace,
    called: &SpaceName,
    person: &impl Fn(UserId) -> Person,
) -> Result<Vec<AccessEvent>, NodeError> {
    let mut events = Vec::new();
    if space.is_partial() {
        // What links lead to is for those who have all of the space.
        return Ok(events);
    }
    for published in links::with_ended(space)? {
        let by = space
            .with_control(|control| control.roster.owner_of(published.device))
            .map(person);
        let link = published.publication.link.to_string();
        let (at, what): (Timestamp, _) = match links::info(space, called, &published) {
            Some(info) => (
                info.made,
                AccessChange::LinkMade {
                    link,
                    path: info.path,
                    until: info.until,
                    needs_password: info.needs_password,
                },
            ),
            None if published.publication.shown.is_none() => (published.clock, AccessChange::LinkEnded { link }),
            // What it leads to cannot be read here; it opens all the same.
            None => {
                let made = AccessChange::LinkMade {
                    link,
                    path: None,
                    until: published.publication.until,
                    needs_password: false,
                };
                (published.clock, made)
            }
        };
        events.push(AccessEvent { at, by, what });
    }
    Ok(events)
}
