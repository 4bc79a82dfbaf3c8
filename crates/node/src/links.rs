//! Links: publishing what they show, keeping that up to date, and ending them.
//!
//! What a link shows is a listing: the files below a directory, or one file, each with the key to its content. It is stored as a file of the space, in a directory that no path
//! leads to, so that it is pinned, repaired and coded anew like all others. A reference to it, sealed for who has the link, is published in the log. Only the machines of
//! who made a link can tell its key: they publish again when what it shows has changed.

mod listing;
mod open;
mod readers;

#[cfg(fuzzing)]
pub(crate) use listing::{encode as listing_of, read as read_listing};
pub use open::Linked;
pub(crate) use open::{Opened, open, tell};
pub(crate) use readers::{Readers, give_share};

use crate::{
    apart::{self, Given},
    api::{FileMeta, LinkInfo, LinkMade, LinkOptions, PutOptions},
    areas, charters, checkpoint,
    error::{LinkError, MetaError, NodeError},
    names::{self, Batch},
    shared::Shared,
    space::OpenSpace,
    spaces, sweep,
    upload::Upload,
};
use listing::Listing;
use potluck_crypto::{BoxKey, KeyShare, Link, LinkId, Purpose, derive};
use potluck_spaces::{
    Change, DirId, EpochId, Fate, File, FileId, Head, Links, Name, Path, Publication, Published, Tree, TreeError, Value,
};
use potluck_types::{
    Hash, NodeId, SpaceId, SpaceName, StripeId, Timestamp, UserId, from_canonical,
    sabotage::{self, Bug},
    to_canonical,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Cursor,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

const VERSION: u8 = 1;
const SHOWN: &str = "potluck/link/1";
const ABOUT: &str = "potluck/link-about/1";
const KEY: &str = "potluck/link-key/1";
/// How soon after a change it is looked whether a link shows something else, on the machine that is to say so.
const LOOK_DELAY: Duration = Duration::from_secs(1);
/// The same on the person's other machines, which have nothing left to do then.
const LOOK_DELAY_OTHERS: Duration = Duration::from_secs(15);
/// At most a twentieth of the time goes into looking.
const PAUSE_PER_LOOK: u32 = 20;
/// How often a link is published again at most, while what it leads to changes all the time: each time is an entry of the log.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(10);
/// When it is tried again after something failed.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// A listing that nothing was said of for so long is of a link that was never made.
const LEFT_BEHIND_AFTER: Duration = Duration::from_secs(3600);
/// Links that are read at once.
const PAGE: usize = 64;
/// Of a link's id this much at least must be said to mean it.
const ID_CHARS_MIN: usize = 4;

/// For who has the link: what it shows.
#[derive(Serialize, Deserialize)]
struct Shown {
    version: u8,
    /// What it is called.
    name: Name,
    /// The [`Listing`]; none when what the link leads to is gone.
    listing: Option<File>,
}

/// For who reads the space: what a link leads to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct About {
    version: u8,
    target: Target,
    made: Timestamp,
    needs_password: bool,
    readers: Option<u32>,
    /// The hash of the listing; none when there is nothing to list.
    digest: Option<Hash>,
}

/// For who made the link.
#[derive(Serialize, Deserialize)]
struct Kept {
    link: String,
    key: BoxKey,
}

/// What a link leads to. A directory may be moved, and a file may be overwritten.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Target {
    Directory(DirId),
    File(DirId, Name),
}

/// What is to be published of a link. What is for readers of the space is sealed when it is written down, under the key that is in use then.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    publication: Publication,
    about: Vec<u8>,
}

impl Draft {
    /// One that says nothing to readers of the space beside.
    pub(crate) fn of(publication: Publication) -> Self {
        Self {
            publication,
            about: Vec::new(),
        }
    }

    /// As it goes into an entry that is sealed under this epoch's key.
    pub(crate) fn seal(&self, space: &OpenSpace, epoch: Option<EpochId>) -> Result<Publication, NodeError> {
        let ring = space.ring();
        let key = ring.keys.of(epoch).ok_or(NodeError::NoKey)?;
        let associated = place(space.id(), self.publication.link);
        let about = key.seal(purpose(ABOUT, &associated), &self.about, &*space.entropy);
        Ok(Publication {
            about: ByteBuf::from(about),
            ..self.publication.clone()
        })
    }

    /// One that was published, to be said again.
    pub(crate) fn again(space: &OpenSpace, epoch: Option<EpochId>, publication: &Publication) -> Option<Self> {
        Some(Self {
            about: open_about(space, epoch, publication)?,
            publication: publication.clone(),
        })
    }
}

/// A link that this person made.
struct Mine {
    published: Published,
    about: About,
    kept: Kept,
}

impl Mine {
    fn of(space: &OpenSpace, published: Published) -> Option<Self> {
        let Publication { link, shown, key, .. } = &published.publication;
        shown.as_ref()?;
        let associated = place(space.id(), *link);
        let kept = space.keys().link_keys().find_map(|link_key| {
            let opened = link_key.open(purpose(KEY, &associated), key);
            opened.ok()
        })?;
        Some(Self {
            about: about(space, &published)?,
            kept: from_canonical(&kept).ok()?,
            published,
        })
    }

    fn id(&self) -> LinkId {
        self.published.publication.link
    }

    /// What it shows to who has it.
    fn shown(&self, space: &OpenSpace) -> Option<Shown> {
        let associated = place(space.id(), self.id());
        let shown = self.published.publication.shown.as_ref()?;
        let plain = self.kept.key.open(purpose(SHOWN, &associated), shown).ok()?;
        from_canonical(&plain).ok()
    }
}

/// Where a message of a link belongs.
pub(crate) fn place(space: SpaceId, link: LinkId) -> Vec<u8> {
    [&space.as_bytes()[..], link.as_bytes()].concat()
}

fn purpose<'a>(context: &'static str, associated: &'a [u8]) -> Purpose<'a> {
    Purpose { context, associated }
}

fn open_about(space: &OpenSpace, epoch: Option<EpochId>, publication: &Publication) -> Option<Vec<u8>> {
    let associated = place(space.id(), publication.link);
    let ring = space.ring();
    ring.keys
        .of(epoch)?
        .open(purpose(ABOUT, &associated), &publication.about)
        .ok()
}

fn about(space: &OpenSpace, published: &Published) -> Option<About> {
    let plain = open_about(space, published.epoch, &published.publication)?;
    from_canonical(&plain)
        .ok()
        .filter(|about: &About| about.version == VERSION)
}

impl Target {
    /// Stores anew what lies in one piece with what the link does not show: whoever has it is given the key.
    async fn lies_apart(&self, space: &OpenSpace) -> Result<(), NodeError> {
        apart::store(space, &self.given(space)?).await
    }

    /// Those that could not be stored anew.
    fn sharing(&self, space: &OpenSpace) -> Result<BTreeSet<FileId>, NodeError> {
        let sharing = apart::sharing(space, &space.read()?, &self.given(space)?)?;
        Ok(sharing.into_iter().flatten().map(|(at, _)| at.file.id).collect())
    }

    fn given(&self, space: &OpenSpace) -> Result<Given, NodeError> {
        Ok(match self {
            Self::Directory(id) => Given::Directory(*id),
            Self::File(parent, name) => {
                let heads = Tree::of(space.id()).heads(&space.read()?, *parent, name)?;
                Given::Name(*parent, name.clone(), heads)
            }
        })
    }

    /// What a link leads to that led to this, where that was made anew, as a directory that is shared alone.
    fn now(self, space: &OpenSpace) -> Result<Self, NodeError> {
        let kv = space.read()?;
        let anew = |dir: DirId| match dir == DirId::ROOT || space.view().path_of(&kv, dir)?.is_some() {
            true => Ok::<_, NodeError>(dir),
            false => Ok(areas::now_at(space, &kv, dir)?.unwrap_or(dir)),
        };
        Ok(match self {
            Self::Directory(id) => Self::Directory(anew(id)?),
            Self::File(parent, name) => Self::File(anew(parent)?, name),
        })
    }

    /// What is at a path.
    fn at(space: &OpenSpace, path: &Path) -> Result<Self, NodeError> {
        let found = space.view().find(&space.read()?, path)?;
        let Some(found) = found else {
            return Ok(Self::Directory(DirId::ROOT));
        };
        Ok(match found.heads.first().map(|head| &head.value) {
            Some(Value::Directory(id)) => Self::Directory(*id),
            // A copy is shown under a name that is not stored: it follows from what it conflicts with.
            _ if found.is_copy => return Err(LinkError::Conflict(path.clone()).into()),
            _ => Self::File(found.parent, found.name),
        })
    }

    /// Where it is now; none when it is gone.
    fn path(&self, space: &OpenSpace) -> Result<Option<Path>, NodeError> {
        let (kv, view) = (space.read()?, space.view());
        Ok(match self {
            Self::Directory(id) => view.path_of(&kv, *id)?,
            Self::File(parent, name) => {
                let found = view.named(&kv, *parent, name)?;
                let parent = view.path_of(&kv, *parent)?;
                parent
                    .filter(|_| found.is_some())
                    .map(|parent| parent.join(name.clone()))
            }
        })
    }

    fn is_file(&self) -> bool {
        matches!(self, Self::File(..))
    }
}

/// Makes a link to what is at a path.
pub(crate) async fn make(
    space: &OpenSpace,
    called: &SpaceName,
    path: &Path,
    options: LinkOptions,
) -> Result<LinkMade, NodeError> {
    space.refuse_reader()?;
    space.refuse_partial("makes links")?;
    let target = Target::at(space, path)?;
    let now = space.now();
    if let Some(until) = options.until.filter(|until| *until <= now) {
        return Err(LinkError::Expired(until).into());
    }
    target.lies_apart(space).await?;
    let listing = Listing::of(space, &target, &BTreeSet::new())
        .await?
        .ok_or_else(|| TreeError::NotFound(path.clone()))?;
    let pool = space.with_control(|control| control.roster.pool());
    let link = Link::generate(pool, space.id(), options.password.is_some(), &*space.entropy);
    let share = options.readers.map(|_| KeyShare::generate(&*space.entropy));
    if let (Some(readers), Some(share)) = (options.readers, &share) {
        // Before anybody could ask.
        readers::begin(space, link.id(), Readers::new(&link, share.clone(), readers)).await?;
    }
    let key = {
        let (link, password) = (link.clone(), options.password);
        Shared::blocking(move || link.key(password.as_deref(), share.as_ref())).await
    };
    let about = About {
        version: VERSION,
        target,
        made: now,
        needs_password: link.needs_password,
        readers: options.readers,
        digest: None,
    };
    let text = link.to_string();
    let kept = Kept {
        link: text.clone(),
        key,
    };
    let publication = Publication {
        key: ByteBuf::from(derive::link_key(space.keys().signing()).seal(
            purpose(KEY, &place(space.id(), link.id())),
            &to_canonical(&kept),
            &*space.entropy,
        )),
        until: options.until,
        counted_by: options.readers.map(|_| space.me()),
        ..Publication::end_of(link.id())
    };
    let (files, bytes) = (listing.files, listing.bytes);
    let name = name_of(space, called, &about.target)?.ok_or_else(|| TreeError::NotFound(path.clone()))?;
    publish(space, publication, &kept.key, about, name, Some(listing)).await?;
    let made = Links::of(space.id())
        .get(&space.read()?, link.id())
        .map_err(MetaError::reading)?;
    let info = made
        .and_then(|made| info(space, called, &made))
        .ok_or(LinkError::NoSuchLink(text.clone()))?;
    Ok(LinkMade {
        link: text,
        files,
        bytes,
        info,
    })
}

/// What who has a link sees it called; nothing when what it leads to is gone.
fn name_of(space: &OpenSpace, called: &SpaceName, target: &Target) -> Result<Option<Name>, NodeError> {
    let path = target.path(space)?;
    let name = path.map(|path| match path.split() {
        Some((_, name)) => Ok(name.clone()),
        None => spaces::entry_of(called),
    });
    name.transpose()
}

/// Stores a listing, and says durably that the link shows it; of none, that what it leads to is gone.
async fn publish(
    space: &OpenSpace,
    publication: Publication,
    key: &BoxKey,
    about: About,
    name: Name,
    listing: Option<Listing>,
) -> Result<(), NodeError> {
    let link = publication.link;
    let digest = listing.as_ref().map(Listing::digest);
    let stored = match &listing {
        Some(listing) => Some(Box::pin(store(space, link, listing)).await?),
        None => None,
    };
    let shown = Shown {
        version: VERSION,
        name,
        listing: stored.map(|file| File {
            uses: Vec::new(),
            ..file
        }),
    };
    let shown = key.seal(
        purpose(SHOWN, &place(space.id(), link)),
        &to_canonical(&shown),
        &*space.entropy,
    );
    say(
        space,
        Draft {
            publication: Publication {
                shown: Some(ByteBuf::from(shown)),
                ..publication
            },
            about: to_canonical(&About { digest, ..about }),
        },
        digest,
    )
    .await
}

/// The name of a listing among those of all links.
pub(crate) fn listing_name(link: LinkId, digest: Hash) -> Name {
    let short = digest.to_string();
    let name = format!("{link}-{}", &short[short.len() - 16..]);
    name.try_into().expect("letters and digits")
}

/// The listing of a link with this name, if it is stored.
pub(crate) fn stored(space: &OpenSpace, name: &Name) -> Result<Option<File>, NodeError> {
    let heads = Tree::of(space.id()).heads(&space.read()?, DirId::LINKS, name)?;
    Ok(heads.into_iter().find_map(|head| match head.value {
        Value::File(file) => Some(file).filter(|file| !file.is_erased()),
        Value::Directory(_) | Value::Space(_) => None,
    }))
}

async fn store(space: &OpenSpace, link: LinkId, listing: &Listing) -> Result<File, NodeError> {
    let name = listing_name(link, listing.digest());
    if let Some(file) = stored(space, &name)? {
        return Ok(file);
    }
    let meta = FileMeta {
        modified: space.now(),
        executable: false,
    };
    let mut upload = Upload::hidden(space.clone(), PutOptions::default(), DirId::LINKS)?;
    let path = Path::root().join(name.clone());
    upload
        .put_blocking(path.clone(), meta, Cursor::new(listing.to_bytes()))
        .await?;
    upload.finish().await?;
    Ok(stored(space, &name)?.ok_or(TreeError::NotFound(path))?)
}

/// Writes down what is published, removes the listings of the link other than the one with this hash, and makes that durable.
pub(crate) async fn say(space: &OpenSpace, draft: Draft, digest: Option<Hash>) -> Result<(), NodeError> {
    let link = draft.publication.link;
    let current = digest.map(|digest| listing_name(link, digest));
    let batch = Batch {
        changes: without(space, link, current.as_ref())?,
        links: vec![draft],
        ..Batch::default()
    };
    write(space, batch).await
}

/// Removes all that is stored of what is published under this id, and says nothing of it.
pub(crate) async fn unname(space: &OpenSpace, link: LinkId) -> Result<(), NodeError> {
    let batch = Batch {
        changes: without(space, link, None)?,
        ..Batch::default()
    };
    match batch.is_empty() {
        true => Ok(()),
        false => write(space, batch).await,
    }
}

/// Lets go of listings of which stripes are lost. They say nothing that is not in the logs: those of links are stored anew, and of checkpoints the next will be. Whether there were any.
pub(crate) async fn let_go_of_lost(space: &OpenSpace, lost: BTreeSet<StripeId>) -> Result<bool, NodeError> {
    let task = space.clone();
    let find = move || {
        let (kv, tree) = (task.read()?, Tree::of(task.id()));
        let mut changes = Vec::new();
        for (name, heads) in listings(&task, None)? {
            let mut gone = Vec::new();
            for head in heads {
                if let Value::File(file) = &head.value
                    && tree
                        .stripes_of(&kv, file.id)?
                        .iter()
                        .any(|stripe| lost.contains(stripe))
                {
                    gone.push(head);
                }
            }
            if !gone.is_empty() {
                changes.push(unnamed(name, &gone));
            }
        }
        Ok::<_, NodeError>(changes)
    };
    let changes = Shared::blocking(find).await?;
    if changes.is_empty() {
        return Ok(false);
    }
    let batch = Batch {
        changes,
        ..Batch::default()
    };
    write(space, batch).await?;
    changed(space.shared());
    Ok(true)
}

/// The removal of the listings of a link other than this one.
fn without(space: &OpenSpace, link: LinkId, current: Option<&Name>) -> Result<Vec<Change>, NodeError> {
    let listings = listings(space, Some(link))?.into_iter();
    let others = listings.filter(|(name, _)| Some(name) != current);
    Ok(others.map(|(name, heads)| unnamed(name, &heads)).collect())
}

async fn write(space: &OpenSpace, batch: Batch) -> Result<(), NodeError> {
    let given_up = names::write(space, batch).await?;
    if !given_up.is_empty() {
        sweep::announce(space, given_up);
    }
    names::replicate(space).await.map(drop)
}

fn unnamed(name: Name, heads: &[Head]) -> Change {
    Change::Set {
        parent: DirId::LINKS,
        name,
        value: None,
        replaces: heads.iter().map(|head| head.op).collect(),
        fate: Fate::Carried,
    }
}

/// The listings that are stored: of one link, or of all.
fn listings(space: &OpenSpace, link: Option<LinkId>) -> Result<Vec<(Name, Vec<Head>)>, NodeError> {
    let prefix = link.map_or_else(String::new, |link| format!("{link}-"));
    let mut after: Option<Name> = link.map(|link| link.to_string().try_into().expect("letters and digits"));
    let (kv, mut found) = (space.read()?, Vec::new());
    loop {
        let page = Tree::of(space.id()).list(&kv, DirId::LINKS, after.as_ref(), PAGE)?;
        let Some(last) = page.last() else { return Ok(found) };
        after = Some(last.name.clone());
        let before = found.len();
        let all = page.len();
        let of_it = page
            .into_iter()
            .filter(|listed| listed.name.as_str().starts_with(&prefix));
        found.extend(of_it.map(|listed| (listed.name, listed.heads)));
        if found.len() - before < all {
            return Ok(found);
        }
    }
}

/// All links into a space that show something, with those of others.
fn all(space: &OpenSpace) -> Result<Vec<Published>, NodeError> {
    let mut links = with_ended(space)?;
    links.retain(|published| published.publication.shown.is_some());
    Ok(links)
}

/// All links into a space, with those that were ended.
pub(crate) fn with_ended(space: &OpenSpace) -> Result<Vec<Published>, NodeError> {
    let mut links = published(space)?;
    let checkpoints = checkpoint::ids(space);
    links.retain(|published| !checkpoints.contains(&published.publication.link));
    Ok(links)
}

/// All that is published in a space.
fn published(space: &OpenSpace) -> Result<Vec<Published>, NodeError> {
    let (kv, links) = (space.read()?, Links::of(space.id()));
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = links.list(&kv, after, PAGE).map_err(MetaError::reading)?;
        let Some(last) = page.last() else { return Ok(found) };
        after = Some(last.publication.link);
        found.extend(page);
    }
}

/// The links into a space, the latest first.
pub(crate) fn list(space: &OpenSpace, called: &SpaceName) -> Result<Vec<LinkInfo>, NodeError> {
    let mut infos: Vec<_> = all(space)?
        .iter()
        .filter_map(|published| info(space, called, published))
        .collect();
    infos.sort_by_key(|info| std::cmp::Reverse(info.made));
    Ok(infos)
}

/// A link as it is listed; none when it was ended, or cannot be read here.
pub(crate) fn info(space: &OpenSpace, called: &SpaceName, published: &Published) -> Option<LinkInfo> {
    let about = about(space, published)?;
    let mine = Mine::of(space, published.clone());
    let link = published.publication.link;
    let readers = space.meta.readers(link).ok().flatten();
    let path = about.target.path(space).ok().flatten();
    Some(LinkInfo {
        id: link.to_string(),
        space: called.clone(),
        path: path.map(|path| path.to_string()),
        is_directory: !about.target.is_file(),
        person: space.author(published.device),
        made: about.made,
        shown: published.clock,
        until: published.publication.until,
        needs_password: about.needs_password,
        readers_max: about.readers,
        readers: readers.map(|readers| readers.count()),
        link: mine.map(|mine| mine.kept.link),
    })
}

/// Ends a link: by its text, or by the start of its id. Gives what it was.
pub(crate) async fn revoke(shared: &Arc<Shared>, which: &str) -> Result<LinkInfo, NodeError> {
    let id = which.parse::<Link>().map(|link| link.id().to_string());
    let id = id.unwrap_or_else(|_| which.to_ascii_lowercase());
    let mut found = Vec::new();
    for space in shared.open_spaces() {
        let Some(called) = shared.spaces.name(space.id()) else {
            continue;
        };
        let links = all(&space)?.into_iter();
        let fits = |published: &Published| published.publication.link.to_string().starts_with(&id);
        found.extend(
            links
                .filter(|published| id.len() >= ID_CHARS_MIN && fits(published))
                .map(|published| (space.clone(), called.clone(), published)),
        );
    }
    let (space, called, published) = match (found.pop(), found.is_empty()) {
        (Some(one), true) => one,
        (Some(_), false) => return Err(LinkError::SeveralLinks(which.to_owned()).into()),
        (None, _) => return Err(LinkError::NoSuchLink(which.to_owned()).into()),
    };
    space.refuse_reader()?;
    let told = info(&space, &called, &published).ok_or(LinkError::NoSuchLink(id))?;
    withdraw(&space, published.publication.link).await?;
    Ok(told)
}

/// Says that a link shows nothing any more. That is for good.
async fn withdraw(space: &OpenSpace, link: LinkId) -> Result<(), NodeError> {
    if !sabotage::is_planted(Bug::KeepLinks) {
        say(space, Draft::of(Publication::end_of(link)), None).await?;
    }
    readers::end(space, link).await
}

/// Whose a link is: whoever has signed what it shows.
fn maker(space: &OpenSpace, published: &Published) -> Option<UserId> {
    space.with_control(|control| control.roster.owner_of(published.device))
}

/// How many links into a space a person has.
pub(crate) fn count_of(space: &OpenSpace, person: UserId) -> Result<u64, NodeError> {
    let links = all(space)?;
    let theirs = links.iter().filter(|published| maker(space, published) == Some(person));
    Ok(theirs.count() as u64)
}

/// Ends the links into a space of those who may not read it any more, or not all of it.
pub(crate) async fn withdraw_of_leavers(space: &OpenSpace) -> Result<(), NodeError> {
    let readers = charters::known(space.shared(), space.id())
        .await?
        .whole_readers(space.now());
    let mut theirs = all(space)?;
    theirs.retain(|published| maker(space, published).is_some_and(|maker| !readers.contains(&maker)));
    withdraw_these(space, &theirs).await
}

/// Ends all links into a space that is removed, or those that a person has made; none of a space that this node's person may not write to.
pub(crate) async fn withdraw_all(space: &OpenSpace, of: Option<UserId>) -> Result<(), NodeError> {
    if !space.may_write() {
        return Ok(());
    }
    let mut links = all(space)?;
    links.retain(|published| of.is_none() || maker(space, published) == of);
    withdraw_these(space, &links).await
}

/// Ends the links of this node's person that a machine has the keys of which is theirs no more.
pub(crate) async fn withdraw_of_former_keys(space: &OpenSpace) -> Result<(), NodeError> {
    // One that was not given the key that is in use would take those for former ones that were made with it.
    if space.refuse_old_key().is_err() {
        return Ok(());
    }
    let former: Vec<_> = space.keys().link_keys().skip(1).collect();
    if former.is_empty() {
        return Ok(());
    }
    let is_former = |published: &Published| {
        let Publication { link, shown, key, .. } = &published.publication;
        let associated = place(space.id(), *link);
        shown.is_some()
            && former
                .iter()
                .any(|former| former.open(purpose(KEY, &associated), key).is_ok())
    };
    let mut links = all(space)?;
    links.retain(|published| maker(space, published) == Some(space.user) && is_former(published));
    withdraw_these(space, &links).await
}

async fn withdraw_these(space: &OpenSpace, links: &[Published]) -> Result<(), NodeError> {
    let mut failed = Ok(());
    for published in links {
        failed = failed.and(withdraw(space, published.publication.link).await);
    }
    failed
}

/// Something has changed in a space: links may show something else.
pub(crate) fn changed(shared: &Shared) {
    let me = shared.user;
    let first = shared.with_control(|control| {
        let live = control.live_peers().into_iter();
        let mine = live.filter(|node| control.roster.user_of(*node) == Some(me));
        mine.min().is_none_or(|other: NodeId| shared.me() < other)
    });
    shared
        .links
        .due
        .within(if first { LOOK_DELAY } else { LOOK_DELAY_OTHERS });
}

/// Looks whether the links of this person show what there is. Gives how long after it to look again, if nothing happens before.
pub(crate) async fn look(shared: &Arc<Shared>) -> Duration {
    let begun = shared.steady();
    let busy = shared.links.pause_until().since(begun);
    if !busy.is_zero() {
        return busy;
    }
    let mut next = Duration::MAX;
    for space in shared.written_spaces() {
        if space.is_partial() {
            // Who was let into no more than a directory makes none, and what they made before others end.
            continue;
        }
        match look_in(&space).await {
            Ok(until) => next = next.min(until),
            Err(error) => {
                tracing::info!(space = %space.id().short(), %error, "links do not show yet what has changed");
                next = next.min(RETRY_AFTER);
            }
        }
    }
    let ended = shared.steady();
    shared
        .links
        .pause(ended + ended.since(begun).saturating_mul(PAUSE_PER_LOOK));
    next
}

/// The same in one space. Gives how long after it the first link ends.
async fn look_in(space: &OpenSpace) -> Result<Duration, NodeError> {
    let now = space.now();
    let (mut next, mut failed) = (Duration::MAX, None);
    let Some(called) = space.spaces.name(space.id()) else {
        return Ok(next);
    };
    let links = mine(space).await?;
    clear(space, now).await?;
    checkpoint::follow(space).await?;
    for mine in links {
        if let Some(until) = mine.published.publication.until {
            if until <= now {
                withdraw(space, mine.id()).await?;
                continue;
            }
            next = next.min(until.since(now));
        }
        let (link, now) = (mine.id(), space.steady());
        let said = space.links.said().get(&link).copied();
        let wait = said.map_or(Duration::ZERO, |said| PUBLISH_INTERVAL.saturating_sub(now.since(said)));
        if !wait.is_zero() {
            // It may have changed since.
            next = next.min(wait);
        } else {
            // One that cannot be shown keeps no other.
            match show(space, &called, mine).await {
                Ok(true) => _ = space.links.said().insert(link, now),
                Ok(false) => _ = space.links.said().remove(&link),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
    }
    failed.map_or(Ok(next), Err)
}

/// Publishes at once what the links of this person into a space show.
pub(crate) async fn show_now(space: &OpenSpace) -> Result<(), NodeError> {
    let Some(called) = space.spaces.name(space.id()) else {
        return Ok(());
    };
    let mut failed = Ok(());
    for mine in mine(space).await? {
        failed = failed.and(Box::pin(show(space, &called, mine)).await.map(drop));
    }
    failed
}

/// How many links that others have made lead to a path, to something below it, or to what it is in.
pub(crate) fn count_of_others(space: &OpenSpace, path: &Path) -> Result<u64, NodeError> {
    let mut count = 0;
    for published in all(space)? {
        let about = about(space, &published).filter(|_| Mine::of(space, published.clone()).is_none());
        let target = about.map(|about| about.target.path(space)).transpose()?.flatten();
        count += u64::from(target.is_some_and(|target| target.is_within(path) || path.is_within(&target)));
    }
    Ok(count)
}

async fn mine(space: &OpenSpace) -> Result<Vec<Mine>, NodeError> {
    let task = space.clone();
    Shared::blocking(move || {
        let mine = all(&task)?
            .into_iter()
            .filter_map(|published| Mine::of(&task, published));
        Ok(mine.collect())
    })
    .await
}

/// Removes listings that this machine has stored and then said nothing of: it ended in between.
async fn clear(space: &OpenSpace, now: Timestamp) -> Result<(), NodeError> {
    let task = space.clone();
    let left_behind = Shared::blocking(move || {
        let mut left_behind = Vec::new();
        let stored = listings(&task, None)?;
        if stored.is_empty() {
            return Ok(left_behind);
        }
        let shown: BTreeSet<String> = published(&task)?
            .iter()
            .filter(|published| published.publication.shown.is_some())
            .map(|published| published.publication.link.to_string())
            .collect();
        for (name, heads) in stored {
            let link = name.as_str().split('-').next().unwrap_or_default();
            let is_own = |head: &Head| head.op.device == task.me() && now.since(head.clock) > LEFT_BEHIND_AFTER;
            if !shown.contains(link) && heads.iter().all(is_own) {
                left_behind.push(unnamed(name, &heads));
            }
        }
        Ok::<_, NodeError>(left_behind)
    })
    .await?;
    if left_behind.is_empty() {
        return Ok(());
    }
    let batch = Batch {
        changes: left_behind,
        ..Batch::default()
    };
    sweep::announce(space, names::write(space, batch).await?);
    names::replicate(space).await.map(drop)
}

/// Publishes what a link shows, if that is something else than it was. Whether it is.
async fn show(space: &OpenSpace, called: &SpaceName, mut mine: Mine) -> Result<bool, NodeError> {
    let task = space.clone();
    let target = mine.about.target.clone();
    mine.about.target = Shared::blocking(move || target.now(&task)).await?;
    let target = &mine.about.target;
    let without = match target.lies_apart(space).await {
        Ok(()) => BTreeSet::new(),
        // Those it does not show until they are.
        Err(error) => {
            tracing::info!(%error, "files that lie in one piece with others are not apart yet, and no link shows them");
            target.sharing(space)?
        }
    };
    let listing = match Listing::of(space, target, &without).await {
        // It goes on showing what there was.
        Err(NodeError::Link(LinkError::TooLarge)) => return Ok(false),
        listing => listing?,
    };
    let digest = listing.as_ref().map(Listing::digest);
    let shown = mine.shown(space);
    let before = shown.as_ref().map(|shown| shown.name.clone());
    let name = match name_of(space, called, &mine.about.target)?.or(before) {
        Some(name) => name,
        None => spaces::entry_of(called)?,
    };
    let is_current = shown.is_some_and(|shown| {
        let there = digest.and_then(|digest| stored(space, &listing_name(mine.id(), digest)).ok().flatten());
        // The listing itself may lie in other stripes by now.
        shown.listing.map(|file| file.content) == there.map(|file| file.content) && shown.name == name
    });
    if (is_current && digest == mine.about.digest) || sabotage::is_planted(Bug::LeaveLinks) {
        return Ok(false);
    }
    publish(
        space,
        mine.published.publication,
        &mine.kept.key,
        mine.about,
        name,
        listing,
    )
    .await?;
    Ok(true)
}

/// What a node keeps of links in memory.
pub(crate) struct LinkState {
    /// When it is looked next whether they show what there is.
    pub(crate) due: crate::due::Due,
    pause_until: Mutex<Timestamp>,
    /// Links that were published again lately, and when.
    said: Mutex<BTreeMap<LinkId, Timestamp>>,
    /// Those of others that were opened lately.
    pub(crate) opened: Opened,
}

impl Default for LinkState {
    fn default() -> Self {
        Self {
            due: crate::due::Due::after(Duration::MAX),
            pause_until: Mutex::default(),
            said: Mutex::default(),
            opened: Opened::default(),
        }
    }
}

impl LinkState {
    fn said(&self) -> MutexGuard<'_, BTreeMap<LinkId, Timestamp>> {
        self.said.lock().expect("never poisoned")
    }

    fn pause_until(&self) -> Timestamp {
        *self.pause_until.lock().expect("never poisoned")
    }

    fn pause(&self, until: Timestamp) {
        *self.pause_until.lock().expect("never poisoned") = until;
    }
}
