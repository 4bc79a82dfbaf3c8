//! A person's spaces: their private one, and those that its catalogue names. The catalogue is a directory of the private space that no path leads to, so a space's name is
//! on all of the person's machines, in their recovery kit, and in the trash for a while after it was removed.

use crate::{
    api::{CheckpointInfo, Part, RemoveOptions, Setting, SpaceInfo, SpaceOptions, SpaceRemoval, TrashInfo},
    branch, charters, checkpoint, collect, edit,
    error::{MetaError, NodeError},
    links, logs,
    names::{self, Batch},
    rails::{Loss, MassChange},
    residence, share,
    shared::Shared,
    space::{OpenSpace, Opened},
    sweep,
};
use potluck_spaces::{
    AreaId, Change, Charter, DirId, Fate, Head, Kept, Keys, Kv, Name, OpId, Path, RETENTION_MAX, Scope, Settings,
    Table, Trash, Tree, Value, checkpoint::is_begun, make_anew, scope_read,
};
use potluck_types::{ByteSize, Regions, SpaceId, SpaceName, StripeId, Timestamp, limits};
use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

/// Names that the catalogue may have: spaces of one's own, and of others.
const SPACES_MAX: usize = 2 * limits::SPACES_PER_USER_MAX;
/// Entries that are opened in one transaction.
const UNSEALED_AT_ONCE: usize = 64;

/// A space that the catalogue names.
#[derive(Clone)]
struct Catalogued {
    /// What people call it: of two that were given one name apart, the later has another one.
    name: SpaceName,
    id: SpaceId,
    /// The names that the catalogue has for it, or has in the trash, and what gave them. More than one when machines have named it apart.
    entries: Vec<(Name, Vec<OpId>)>,
    /// When what is in the trash has come to its end; none while it has a name.
    until: Option<Timestamp>,
}

/// A space of this person, and what is in memory of it, if its charter is here.
#[derive(Clone)]
struct Mounted {
    space: Catalogued,
    opened: Option<Arc<Opened>>,
}

/// See the module.
pub(crate) struct Spaces {
    private: Arc<Opened>,
    others: Mutex<BTreeMap<SpaceId, Mounted>>,
}

impl Spaces {
    /// Only the private one, until the catalogue was read: see [`refresh`].
    pub(crate) fn of(private: Opened) -> Self {
        Self {
            private: Arc::new(private),
            others: Mutex::default(),
        }
    }

    /// The person's private space.
    pub(crate) fn private(&self) -> &Arc<Opened> {
        &self.private
    }

    /// A space, if its keys are here.
    pub(crate) fn opened(&self, space: SpaceId) -> Option<Arc<Opened>> {
        if space == self.private.id() {
            return Some(Arc::clone(&self.private));
        }
        self.lock().get(&space)?.opened.clone()
    }

    /// All spaces whose keys are here, the private one first; those in the trash, too.
    pub(crate) fn all_opened(&self) -> Vec<Arc<Opened>> {
        let others = self.lock();
        let others = others.values().filter_map(|mounted| mounted.opened.clone());
        std::iter::once(Arc::clone(&self.private)).chain(others).collect()
    }

    /// All spaces, whether their keys are here or not.
    pub(crate) fn ids(&self) -> Vec<SpaceId> {
        std::iter::once(self.private.id())
            .chain(self.lock().keys().copied())
            .collect()
    }

    /// Whether the catalogue has it.
    pub(crate) fn is_catalogued(&self, space: SpaceId) -> bool {
        self.lock().contains_key(&space)
    }

    /// What the person calls a space that is not in the trash.
    pub(crate) fn name(&self, space: SpaceId) -> Option<SpaceName> {
        if space == self.private.id() {
            return Some(SpaceName::home());
        }
        let others = self.lock();
        let mounted = others.get(&space).filter(|mounted| mounted.space.until.is_none())?;
        Some(mounted.space.name.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<SpaceId, Mounted>> {
        self.others.lock().expect("never poisoned")
    }

    fn find(&self, name: &SpaceName, is_removed: bool) -> Option<Mounted> {
        let others = self.lock();
        let fits = |mounted: &&Mounted| mounted.space.name == *name && mounted.space.until.is_some() == is_removed;
        // Of several that were removed the last.
        others
            .values()
            .filter(fits)
            .max_by_key(|mounted| mounted.space.until)
            .cloned()
    }
}

/// What the catalogue has.
fn catalogue(private: SpaceId, kv: &impl Kv) -> Result<BTreeMap<SpaceId, Catalogued>, NodeError> {
    let mut named = BTreeMap::<SpaceId, Catalogued>::new();
    for listed in Tree::of(private).list(kv, DirId::SPACES, None, SPACES_MAX)? {
        let Ok(name) = listed.name.as_str().parse::<SpaceName>() else {
            continue;
        };
        for (at, head) in Head::distinct(&listed.heads).enumerate() {
            let Value::Space(id) = head.value else { continue };
            let same = listed.heads.iter().filter(|other| other.value == head.value);
            let space = named.entry(id).or_insert_with(|| Catalogued {
                name: if at == 0 { name.clone() } else { told_apart(&name, id) },
                id,
                entries: Vec::new(),
                until: None,
            });
            let ops = same.map(|head| head.op).collect();
            space.entries.push((listed.name.clone(), ops));
        }
    }
    let mut removed = BTreeMap::<SpaceId, Catalogued>::new();
    let kept = Trash::of(private).list(kv, DirId::SPACES, None, SPACES_MAX);
    for (entry, kept) in kept.map_err(MetaError::reading)? {
        let Ok(name) = entry.as_str().parse::<SpaceName>() else {
            continue;
        };
        for Kept { head, removal, .. } in kept {
            let Value::Space(id) = head.value else { continue };
            let space = removed.entry(id).or_insert_with(|| Catalogued {
                name: name.clone(),
                id,
                entries: Vec::new(),
                until: None,
            });
            space.until = space.until.max(Some(removal.until));
            space.entries.push((entry.clone(), vec![head.op]));
        }
    }
    // One that has a name is in use, whatever names it had before.
    removed.retain(|id, _| !named.contains_key(id));
    named.extend(removed);
    Ok(named)
}

/// Whether a space has a name, and is not in the trash.
pub(crate) fn is_named(private: &OpenSpace, space: SpaceId) -> Result<bool, NodeError> {
    let spaces = catalogue(private.id(), &private.read()?)?;
    Ok(spaces.get(&space).is_some_and(|space| space.until.is_none()))
}

/// The name of a space whose own name another has, too.
fn told_apart(name: &SpaceName, id: SpaceId) -> SpaceName {
    let end = format!(".{}", id.short());
    let start: String = name.as_str().chars().take(64 - end.len()).collect();
    (start + &end).parse().expect("letters, digits and a dot")
}

/// Reads the catalogue, opens what can be opened, and fetches what is not here yet.
pub(crate) fn refresh(shared: &Arc<Shared>) -> Pin<Box<dyn Future<Output = Result<(), NodeError>> + Send>> {
    let shared = Arc::clone(shared);
    // Boxed, as what is fetched is followed by this once more.
    Box::pin(async move {
        let task = Arc::clone(&shared);
        let (opened, missing) = Shared::blocking(move || refresh_now(&task)).await?;
        for space in opened {
            begin_reading(&OpenSpace::new(&shared, &space)).await?;
        }
        for space in missing {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move { fetch(&shared, space).await });
        }
        Ok(())
    })
}

/// Spaces that were opened just now, and those whose charters are still to be fetched.
fn refresh_now(shared: &Arc<Shared>) -> Result<(Vec<Arc<Opened>>, Vec<SpaceId>), NodeError> {
    let kv = shared.read()?;
    let (mut opened, mut missing) = (Vec::new(), Vec::new());
    let spaces = catalogue(shared.spaces.private.id(), &kv)?;
    let mut others = shared.spaces.lock();
    let mut before = std::mem::take(&mut *others);
    for (id, space) in spaces {
        let known = before.remove(&id);
        let was_known = known.is_some();
        let mut is_open = known.and_then(|mounted| mounted.opened);
        if is_open.is_none() {
            let charter = shared.charters.of(&kv, id)?;
            is_open = Opened::chartered(&charter, &shared.keys(), shared.now()).map(Arc::new);
            match &is_open {
                Some(space) => opened.push(Arc::clone(space)),
                None if !was_known => missing.push(id),
                None => {}
            }
        }
        others.insert(id, Mounted { space, opened: is_open });
    }
    Ok((opened, missing))
}

/// The charter of a space says more than before: its keys may be others, or here for the first time.
pub(crate) fn learn(
    shared: &Arc<Shared>,
    space: SpaceId,
) -> Pin<Box<dyn Future<Output = Result<(), NodeError>> + Send>> {
    let shared = Arc::clone(shared);
    // Boxed, as an epoch that is to follow is learned, too.
    Box::pin(async move {
        let task = Arc::clone(&shared);
        let opened = Shared::blocking(move || {
            if let Some(opened) = task.spaces.opened(space) {
                opened.learn(&task)?;
                return Ok(Some(opened));
            }
            let mut others = task.spaces.lock();
            let Some(mounted) = others.get_mut(&space) else {
                return Ok::<_, NodeError>(None);
            };
            if mounted.opened.is_none() {
                let charter = task.charters.of(&task.read()?, space)?;
                mounted.opened = Opened::chartered(&charter, &task.keys(), task.now()).map(Arc::new);
            }
            Ok(mounted.opened.clone())
        });
        match opened.await? {
            Some(opened) => begin_reading(&OpenSpace::new(&shared, &opened)).await,
            None => Ok(()),
        }
    })
}

/// Opens what waits for a key that is here by now, and learns of the spaces that it names.
pub(crate) async fn read(space: &OpenSpace) -> Result<(), NodeError> {
    unseal(space).await?;
    match space.id() == space.spaces.private.id() {
        true => refresh(space.shared()).await,
        false => Ok(()),
    }
}

/// Reads what waited for the keys that are here now.
async fn begin_reading(space: &OpenSpace) -> Result<(), NodeError> {
    read_anew(space).await?;
    read(space).await?;
    let space = space.clone();
    tokio::spawn(async move { share::renew(&space).await });
    Ok(())
}

/// Reads more of the space, or less, where the person is let into more by now, or into less.
pub(crate) async fn read_anew(space: &OpenSpace) -> Result<(), NodeError> {
    let task = space.clone();
    let is_as_it_should_be = move |task: &OpenSpace| {
        let read = scope_read(task.id(), &task.read()?).map_err(MetaError::reading)?;
        Ok::<_, NodeError>(read == *task.ring().keys.scope())
    };
    if Shared::blocking(move || is_as_it_should_be(&task)).await? {
        return Ok(());
    }
    checkpoint::whole(space).await?;
    let _one_at_a_time = space.opened().names.lock().await;
    let task = space.clone();
    Shared::blocking(move || {
        if is_as_it_should_be(&task)? {
            return Ok(());
        }
        let (ring, tree) = (task.ring(), Tree::of(task.id()).learning_at(task.elapsed()));
        task.meta
            .write(|kv| potluck_spaces::read_anew(task.id(), kv, &ring.keys, tree).map_err(NodeError::from))
    })
    .await
}

/// Makes the tables of a database of an older version anew from the logs, where the person has the keys. Each space at once, or not at all: what is left is done at the
/// next start.
pub(crate) async fn make_current(shared: &Arc<Shared>) -> Result<(), MetaError> {
    if shared.meta.is_current()? {
        return Ok(());
    }
    let task = Arc::clone(shared);
    Shared::blocking(move || {
        for space in Table::Frontier.spaces(&task.meta.read()?).map_err(MetaError::reading)? {
            let keys = keys(&task, space)?;
            if !keys.is_empty() {
                let tree = Tree::of(space).learning_at(task.elapsed());
                task.meta
                    .write(|kv| make_anew(space, kv, &keys, tree).map_err(|error| MetaError::writing(error.into())))?;
            }
        }
        task.meta.made_current()
    })
    .await
}

/// The keys that this node's person has of a space.
fn keys(shared: &Shared, space: SpaceId) -> Result<Keys, MetaError> {
    let charter = shared.charters.of(&shared.meta.read()?, space)?;
    Ok(match space == shared.spaces.private.id() && !charter.is_private() {
        true => Keys::private(shared.keys().private_space_key()),
        false => charter.keys(&shared.keys(), shared.now()),
    })
}

/// Opens the entries that waited for a key, or takes what they add up to. Whoever takes entries does this afterwards: the key may have come meanwhile, when they were not waiting yet.
pub(crate) async fn unseal(space: &OpenSpace) -> Result<(), NodeError> {
    let task = space.clone();
    let waits = move || {
        let kv = task.read()?;
        let is_taking =
            is_begun(&kv, task.id()).map_err(MetaError::reading)? && task.opened().taking.try_lock().is_err();
        // Who takes a checkpoint opens the rest.
        Ok::<_, NodeError>(!is_taking && !Tree::of(task.id()).is_unsealed(&kv)?)
    };
    if Shared::blocking(waits).await? {
        checkpoint::take_and_open(space, None).await?;
    }
    Ok(())
}

/// Opens the entries that waited for a key.
pub(crate) async fn open_waiting(space: &OpenSpace) -> Result<(), NodeError> {
    loop {
        let task = space.clone();
        let named = Shared::blocking(move || {
            if Tree::of(task.id()).is_unsealed(&task.read()?)? {
                return Ok(None);
            }
            let ring = task.ring();
            let tree = Tree::of(task.id()).learning_at(task.elapsed());
            task.meta
                .write(|kv| Ok::<_, NodeError>(tree.unseal(kv, &ring.keys, UNSEALED_AT_ONCE)?))
        })
        .await?;
        let Some(named) = named else { return Ok(()) };
        names::pin_where_contested(space, named).await?;
    }
}

/// Fetches the charter and the logs of a space from whoever keeps them.
async fn fetch(shared: &Arc<Shared>, space: SpaceId) {
    for node in names::keepers(shared, space, &shared.present_view()) {
        if let Err(error) = logs::pull(shared, node, space).await {
            tracing::debug!(node = %node.short(), space = %space.short(), error, "it does not tell what it keeps of a space");
        }
    }
}

/// A space by the name that the person gave it.
pub(crate) fn find(shared: &Arc<Shared>, name: &SpaceName) -> Result<OpenSpace, NodeError> {
    if name.is_home() {
        return Ok(shared.private());
    }
    let mounted = shared.spaces.find(name, false);
    let Mounted { opened, .. } = mounted.ok_or_else(|| NodeError::NoSuchSpace(name.clone()))?;
    let opened = opened.ok_or_else(|| NodeError::SpaceNotHere(name.clone()))?;
    Ok(OpenSpace::new(shared, &opened))
}

/// A space of which this person is the owner.
pub(crate) async fn own(shared: &Arc<Shared>, name: &SpaceName) -> Result<OpenSpace, NodeError> {
    let space = find(shared, name)?;
    let me = shared.user;
    if !name.is_home() && charters::known(shared, space.id()).await?.owner() != Some(me) {
        return Err(NodeError::NotYourSpace(name.clone()));
    }
    Ok(space)
}

/// Founds a space.
pub(crate) async fn create(
    shared: &Arc<Shared>,
    name: SpaceName,
    options: SpaceOptions,
) -> Result<SpaceInfo, NodeError> {
    let settings = changed(Settings::default(), &options)?;
    let private = shared.private();
    // Another machine of the person's may have given the name away.
    settle(&private).await;
    let user = shared.keys();
    let charter = Charter::found(&user, &shared.charters.speakers(), shared.now(), &*shared.entropy)?;
    if let Setting::To(regions) = options.regions {
        // Before it is there: nothing of it is to be anywhere else, not for a moment.
        refuse_new(&private, &name)?;
        residence::say(shared, &charter, regions).await?;
    }
    let id = {
        let _one_at_a_time = private.opened().names.lock().await;
        let (task, called) = (private.clone(), name.clone());
        Shared::blocking(move || found(&task, &called, &charter, settings)).await?
    };
    refresh(shared).await?;
    // What nobody else knows of, nobody has to be asked about.
    if let Some(space) = shared.open_space(id) {
        space.opened().knows_own_log.store(true, Ordering::Relaxed);
        names::replicate(&space).await?;
    }
    names::replicate(&private).await?;
    listed(shared, id, &name).await
}

/// Refuses a name that is taken, and one space too many.
fn refuse_new(private: &OpenSpace, name: &SpaceName) -> Result<(), NodeError> {
    refuse_new_in(private, &private.read()?, name)
}

fn refuse_new_in(private: &OpenSpace, kv: &impl Kv, name: &SpaceName) -> Result<(), NodeError> {
    let entry = entry_of(name)?;
    let spaces = Tree::of(private.id()).list(kv, DirId::SPACES, None, SPACES_MAX)?;
    let user = private.user;
    let founded = private.with_control(|control| control.founded_by(user));
    if founded >= limits::SPACES_PER_USER_MAX || spaces.len() >= SPACES_MAX {
        return Err(NodeError::TooManySpaces(founded));
    }
    if name.is_home() || spaces.iter().any(|listed| listed.name == entry) {
        return Err(NodeError::SpaceExists(name.clone()));
    }
    private.refuse_old_key()
}

/// All of it is written down in one transaction: the charter, the first entry of the log, and the name.
fn found(private: &OpenSpace, name: &SpaceName, charter: &Charter, settings: Settings) -> Result<SpaceId, NodeError> {
    let entry = entry_of(name)?;
    let claimed = private.claims.lock();
    private.meta.write(|kv| {
        refuse_new_in(private, kv, name)?;
        charter.save(kv).map_err(MetaError::writing)?;
        let opened = Opened::chartered(charter, &private.keys(), private.now()).expect("its founder has its key");
        // Before it is written down: the first entry is its founder's.
        charters::learn(private, charter.clone());
        let space = OpenSpace::new(private.shared(), &Arc::new(opened));
        let mut first = Batch::default();
        if settings != Settings::default() {
            first.changes.push(Change::Settings(settings));
        }
        names::write_in(&space, kv, &claimed, &first)?;
        names::write_in(private, kv, &claimed, &naming(entry, charter.space(), Vec::new()))?;
        Ok(charter.space())
    })
}

/// What holds then. Refused when nothing can make it hold.
fn changed(settings: Settings, options: &SpaceOptions) -> Result<Settings, NodeError> {
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let changed = Settings {
        survive: options.survive.or(settings.survive),
        keep_ms: options.retention.map(millis).or(settings.keep_ms),
        quota: options.quota.map(|quota| quota.0).or(settings.quota),
    };
    let most = potluck_placement::survivable(usize::MAX);
    if changed.survive.is_some_and(|survive| survive > most) {
        return Err(NodeError::SurvivesTooMany(most));
    }
    if changed.retention().is_some_and(|retention| retention > RETENTION_MAX) {
        return Err(NodeError::KeptTooLong(RETENTION_MAX.as_secs() / 86_400));
    }
    Ok(changed)
}

/// Says what is to hold in a space from now on. Only its owner does.
pub(crate) async fn set(shared: &Arc<Shared>, name: &SpaceName, options: SpaceOptions) -> Result<SpaceInfo, NodeError> {
    let space = own(shared, name).await?;
    if let Err(error) = logs::catch_up(&space).await {
        tracing::info!(%error, "what holds in the space is what is known here");
    }
    let settings = space.settings()?;
    let changed = changed(settings, &options)?;
    match options.regions {
        Setting::Unchanged => {}
        Setting::To(regions) => residence::set(&space, regions, options.confirmed).await?,
        Setting::Usual => residence::set(&space, Regions::new(), true).await?,
    }
    if changed != settings {
        let mut batch = Batch::default();
        batch.changes.push(Change::Settings(changed));
        names::write(&space, batch).await?;
        names::replicate(&space).await?;
    }
    listed(shared, space.id(), name).await
}

/// The name that a space has as an entry of a directory.
pub(crate) fn entry_of(name: &SpaceName) -> Result<Name, NodeError> {
    Ok(Name::try_from(name.to_string()).map_err(potluck_spaces::TreeError::from)?)
}

/// Gives a space a name.
fn naming(name: Name, space: SpaceId, replaces: Vec<OpId>) -> Batch {
    let mut batch = Batch::default();
    batch.changes.push(Change::Set {
        parent: DirId::SPACES,
        name,
        value: Some(Value::Space(space)),
        replaces,
        fate: Fate::Carried,
    });
    batch
}

/// Takes all its names from a space.
fn unnaming(space: Catalogued, fate: Fate) -> impl Iterator<Item = Change> {
    let entries = space.entries.into_iter();
    entries.map(move |(name, replaces)| Change::Set {
        parent: DirId::SPACES,
        name,
        value: None,
        replaces,
        fate,
    })
}

/// Before names are given: what the person's other machines and the custodians know of them is known here, as far as they are here.
async fn settle(private: &OpenSpace) {
    branch::know_own_log(private).await;
    if let Err(error) = logs::catch_up(private).await {
        tracing::info!(%error, "names of spaces are those that are known here");
    }
}

/// Writes changes of the catalogue, and makes them durable.
async fn write(private: &OpenSpace, batch: Batch) -> Result<(), NodeError> {
    names::write(private, batch).await?;
    refresh(private.shared()).await?;
    names::replicate(private).await.map(drop)
}

/// Gives a space that somebody else has founded a name.
pub(crate) async fn mount(shared: &Arc<Shared>, name: &SpaceName, space: SpaceId) -> Result<(), NodeError> {
    let private = shared.private();
    settle(&private).await;
    refuse_taken(shared, name)?;
    write(&private, naming(entry_of(name)?, space, Vec::new())).await
}

/// Spaces that other people have let this one into, and that have no name here yet; each by what its owner calls it.
pub(crate) async fn offers(shared: &Arc<Shared>) -> Result<Vec<SpaceInfo>, NodeError> {
    let task = Arc::clone(shared);
    Shared::blocking(move || {
        let (kv, me) = (task.read()?, task.user);
        let keys = task.keys();
        let mut offers = Vec::new();
        for space in task.with_control(|control| control.readable(me)) {
            if task.spaces.lock().contains_key(&space) {
                continue;
            }
            let charter = task.charters.of(&kv, space)?;
            if charter.owner() == Some(me) {
                continue;
            }
            let called = charter.called(&keys).and_then(|name| name.parse().ok());
            let name = called.unwrap_or_else(|| told_apart(&"space".parse().expect("a name"), space));
            offers.push(SpaceInfo {
                is_offered: true,
                ..described(&task, name, &charter)
            });
        }
        Ok(offers)
    })
    .await
}

/// The directories of a space that this person was let into, where that is not all of it.
fn parts(shared: &Shared, charter: &Charter, now: Timestamp) -> Vec<Part> {
    let Scope::Areas { areas, .. } = charter.scope(&shared.keys(), now) else {
        return Vec::new();
    };
    let part = |(area, name): (AreaId, String)| {
        let granted = charter
            .grants(now)
            .filter(|grant| grant.user == shared.user && grant.area == Some(area));
        let granted: Vec<_> = granted.collect();
        let is_endless = granted.iter().any(|grant| grant.until.is_none());
        Some(Part {
            path: format!("/{name}").parse().ok()?,
            may_write: granted.iter().any(|grant| grant.may_write),
            until: granted
                .iter()
                .filter_map(|grant| grant.until)
                .max()
                .filter(|_| !is_endless),
        })
    };
    let mut parts: Vec<_> = areas.into_iter().filter_map(part).collect();
    parts.sort_by_cached_key(|part| part.path.to_string());
    parts
}

fn described(shared: &Shared, name: SpaceName, charter: &Charter) -> SpaceInfo {
    let (me, id, owner, now) = (shared.user, charter.space(), charter.owner(), shared.now());
    let is_mine = owner == Some(me);
    SpaceInfo {
        name,
        id,
        owner,
        owner_name: owner.and_then(|owner| shared.with_control(|control| control.roster.called(owner))),
        is_mine,
        may_read: shared.with_control(|control| control.may_read(me, id)),
        may_write: shared.with_control(|control| control.may_write(me, id)),
        may_share: is_mine || charter.grants(now).any(|grant| grant.user == me && grant.may_share),
        is_offered: false,
        parts: parts(shared, charter, now),
        files: 0,
        bytes: 0,
        trash: TrashInfo::default(),
        created: charter.created(),
        until: None,
        is_here: true,
        survive: None,
        retention: None,
        quota: None,
        regions: None,
        machines_there: None,
        checkpoint: None,
        taken: None,
        history: None,
    }
}

/// Gives a space another name. It is this person's alone: others call it what they like.
pub(crate) async fn rename(shared: &Arc<Shared>, from: &SpaceName, to: &SpaceName) -> Result<(), NodeError> {
    let private = shared.private();
    settle(&private).await;
    let mounted = shared
        .spaces
        .find(from, false)
        .ok_or_else(|| NodeError::NoSuchSpace(from.clone()))?;
    refuse_taken(shared, to)?;
    let mut batch = naming(entry_of(to)?, mounted.space.id, Vec::new());
    batch.changes.extend(unnaming(mounted.space, Fate::Carried));
    write(&private, batch).await
}

fn refuse_taken(shared: &Shared, name: &SpaceName) -> Result<(), NodeError> {
    if name.is_home() || shared.spaces.find(name, false).is_some() {
        return Err(NodeError::SpaceExists(name.clone()));
    }
    Ok(())
}

/// Removes a space with all that is in it. It can be brought back for as long as was configured, unless it is to go now.
pub(crate) async fn remove(
    shared: &Arc<Shared>,
    name: &SpaceName,
    options: RemoveOptions,
) -> Result<SpaceRemoval, NodeError> {
    if name.is_home() {
        return Err(NodeError::SpaceStays(name.clone()));
    }
    let private = shared.private();
    settle(&private).await;
    let found = shared.spaces.find(name, false);
    // With `now`, also one that is in the trash already.
    let found = found.or_else(|| shared.spaces.find(name, true).filter(|_| options.now));
    let mounted = found.ok_or_else(|| NodeError::NoSuchSpace(name.clone()))?;
    let id = mounted.space.id;
    let is_mine = charters::known(shared, id).await?.owner() == Some(shared.user);
    let task = Arc::clone(shared);
    let totals = Shared::blocking(move || Trash::of(id).totals(&task.read()?).map_err(MetaError::reading));
    let files = totals.await?.files;
    // What is another person's stays with them, and is offered again.
    if files > 0 && is_mine && !options.confirmed {
        return Err(NodeError::Mass(MassChange {
            loss: Loss::RemoveSpace,
            planned: files,
            lately: 0,
            of: files,
        }));
    }
    let fate = if options.now {
        Fate::Freed
    } else {
        private.usual_fate()?
    };
    let until = shared.now() + private.retention()?;
    if let Some(space) = shared.open_space(id) {
        // Those of others stay in what is another's.
        let whose = (!is_mine).then_some(private.user);
        links::withdraw_all(&space, whose).await?;
    }
    if fate == Fate::Freed {
        end(shared, id).await?;
    }
    let mut batch = Batch::default();
    batch.changes.extend(unnaming(mounted.space, fate));
    write(&private, batch).await?;
    Ok(SpaceRemoval {
        files,
        is_mine,
        until: fate.keeps().then_some(until),
    })
}

/// Brings back a space that was removed, under its name.
pub(crate) async fn restore(shared: &Arc<Shared>, name: &SpaceName) -> Result<SpaceInfo, NodeError> {
    let private = shared.private();
    settle(&private).await;
    let mounted = shared
        .spaces
        .find(name, true)
        .ok_or_else(|| NodeError::NoSuchSpace(name.clone()))?;
    refuse_taken(shared, name)?;
    let Catalogued { id, entries, .. } = mounted.space;
    let replaces = entries.into_iter().flat_map(|(_, ops)| ops).collect();
    write(&private, naming(entry_of(name)?, id, replaces)).await?;
    listed(shared, id, name).await
}

/// Lets go of all that is in a space of this person's, for good.
pub(crate) async fn end(shared: &Arc<Shared>, space: SpaceId) -> Result<(), NodeError> {
    let Some(space) = shared.open_space(space) else {
        return Ok(());
    };
    if charters::known(shared, space.id()).await?.owner() != Some(shared.user) {
        return Ok(());
    }
    let all = RemoveOptions {
        recursive: true,
        now: true,
        confirmed: true,
    };
    edit::remove(&space, &Path::root(), all).await?;
    links::withdraw_all(&space, None).await?;
    checkpoint::let_go(&space).await?;
    let given_up: Vec<StripeId> = collect::give_up(&space, Duration::ZERO).await?;
    sweep::announce(&space, given_up);
    Ok(())
}

/// A space in detail.
pub(crate) async fn info(shared: &Arc<Shared>, name: &SpaceName) -> Result<SpaceInfo, NodeError> {
    listed(shared, find(shared, name)?.id(), name).await
}

/// A space as it is listed.
async fn listed(shared: &Arc<Shared>, id: SpaceId, name: &SpaceName) -> Result<SpaceInfo, NodeError> {
    let all = list(shared, true).await?;
    let info = all.into_iter().find(|space| space.id == id);
    info.ok_or_else(|| NodeError::NoSuchSpace(name.clone()))
}

/// All spaces of this person, by name; with those that were removed and can be brought back.
pub(crate) async fn list(shared: &Arc<Shared>, with_removed: bool) -> Result<Vec<SpaceInfo>, NodeError> {
    let task = Arc::clone(shared);
    Shared::blocking(move || {
        let kv = task.read()?;
        let mut infos = vec![SpaceInfo {
            name: SpaceName::home(),
            id: task.spaces.private.id(),
            owner: Some(task.user),
            owner_name: task.with_control(|control| control.roster.called(task.user)),
            is_mine: true,
            may_read: true,
            may_write: true,
            may_share: false,
            is_offered: false,
            parts: Vec::new(),
            files: 0,
            bytes: 0,
            trash: TrashInfo::default(),
            created: None,
            until: None,
            is_here: true,
            survive: None,
            retention: None,
            quota: None,
            regions: None,
            machines_there: None,
            checkpoint: None,
            taken: None,
            history: None,
        }];
        let others: Vec<Mounted> = task.spaces.lock().values().cloned().collect();
        for Mounted { space, opened } in others {
            if space.until.is_some() && !with_removed {
                continue;
            }
            let charter = task.charters.of(&kv, space.id)?;
            infos.push(SpaceInfo {
                until: space.until,
                is_here: opened.is_some(),
                ..described(&task, space.name, &charter)
            });
        }
        for info in &mut infos {
            let totals = Trash::of(info.id).totals(&kv).map_err(MetaError::reading)?;
            (info.files, info.bytes) = (totals.files, totals.bytes);
            info.trash.files = totals.kept;
            info.trash.bytes = totals.kept_bytes;
            let settings = Tree::of(info.id).settings(&kv).map_err(MetaError::reading)?;
            (info.survive, info.retention) = (settings.survive, settings.retention());
            info.quota = settings.quota.map(ByteSize);
            info.regions = task.regions(info.id);
            info.machines_there = info.regions.as_ref().map(|regions| task.machines_in(regions).0);
            if let Some(open) = task.open_space(info.id) {
                info.checkpoint = checkpoint::current(&open, &kv)?.as_ref().map(CheckpointInfo::of);
                info.taken = *open.opened().taken.lock().expect("never poisoned");
            }
            info.history = checkpoint::history(info.id, &kv)?;
        }
        infos.sort_by_cached_key(|info| (!info.name.is_home(), info.until.is_some(), info.name.clone()));
        Ok(infos)
    })
    .await
}
