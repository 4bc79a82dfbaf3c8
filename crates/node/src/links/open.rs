//! Opening a link: what is published of it is asked of those who keep its space, and what it shows is read as any file is.

use super::{
    SHOWN, Shown, VERSION,
    listing::{self, LISTING_BYTES_MAX},
    place, purpose, readers,
};
use crate::{
    api::{Entry, Kind, LinkContent, Stat},
    download::Download,
    error::{LinkError, MetaError, NodeError},
    names,
    protocol::{PoolReply, PoolRequest},
    shared::Shared,
};
use potluck_crypto::{KeyShare, Link, LinkId};
use potluck_dag::Content;
use potluck_spaces::{File, Links, Name, Path, Published, TreeError};
use potluck_types::{NodeId, SpaceId, Timestamp, from_canonical, limits, to_canonical};
use serde_bytes::ByteBuf;
use std::{
    collections::{BTreeMap, VecDeque},
    ops::{Bound, Range},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::Instant;
use zeroize::Zeroizing;

/// What links show stays in memory for a moment: a command asks several times.
const OPENED_FOR: Duration = Duration::from_secs(60);
const OPENED_MAX: usize = 8;
/// Members that are asked at once, where those who should know do not.
const ASKED_AT_ONCE: usize = 16;
/// How often it is tried: what a link shows may be replaced while it is read.
const ATTEMPTS: usize = 3;

/// What a link shows, at one moment. Cheap to clone.
#[derive(Clone)]
pub struct Linked {
    shared: Arc<Shared>,
    space: SpaceId,
    content: Arc<LinkContent>,
    files: Arc<BTreeMap<Path, File>>,
}

impl std::fmt::Debug for Linked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Linked")
            .field("content", &self.content)
            .finish_non_exhaustive()
    }
}

/// A link that was opened, with its password.
struct Recent {
    link: Link,
    password: Option<Zeroizing<String>>,
    /// Which publication was read.
    read: (Timestamp, NodeId),
    until: Instant,
    linked: Linked,
}

/// Links that were opened lately.
#[derive(Default)]
pub(crate) struct Opened(Mutex<VecDeque<Recent>>);

impl Opened {
    /// What a link shows, if that was read before.
    fn get(&self, link: &Link, password: Option<&str>, read: (Timestamp, NodeId)) -> Option<Linked> {
        let recent = self.0.lock().expect("never poisoned");
        let is_it = |recent: &&Recent| {
            let same_password = recent.password.as_ref().map(|text| text.as_str()) == password;
            recent.link == *link && recent.read == read && same_password
        };
        recent.iter().find(is_it).map(|recent| recent.linked.clone())
    }

    fn put(&self, new: Recent) {
        let mut recent = self.0.lock().expect("never poisoned");
        recent.retain(|recent| recent.link != new.link);
        recent.push_back(new);
        let files = |recent: &VecDeque<Recent>| recent.iter().map(|recent| recent.linked.files.len()).sum::<usize>();
        while recent.len() > OPENED_MAX || (recent.len() > 1 && files(&recent) > limits::LINK_ENTRIES_MAX) {
            recent.pop_front();
        }
    }

    fn forget(&self) {
        let mut recent = self.0.lock().expect("never poisoned");
        recent.retain(|recent| Instant::now() < recent.until);
    }
}

impl Linked {
    /// What it shows as a whole.
    pub fn content(&self) -> &LinkContent {
        &self.content
    }

    /// A file or directory in detail. The root of a link to a file is that file.
    pub fn stat(&self, path: &Path) -> Result<Stat, NodeError> {
        let entry = self.entry(path).ok_or_else(|| TreeError::NotFound(path.clone()))?;
        Ok(Stat {
            path: path.clone(),
            entry,
            survives: self.files.get(path).map_or(0, |file| file.survives),
            stripes: 0,
        })
    }

    fn entry(&self, path: &Path) -> Option<Entry> {
        let name = match path.split() {
            Some((_, name)) => name.clone(),
            None => self.content.name.clone(),
        };
        if let Some(file) = self.files.get(path) {
            return Some(entry_of(name, file));
        }
        let mut below = self.files.range((Bound::Included(path.clone()), Bound::Unbounded));
        let is_directory = path.names().is_empty() || below.next().is_some_and(|(next, _)| is_below(path, next));
        is_directory.then(|| self.directory(name))
    }

    fn directory(&self, name: Name) -> Entry {
        Entry {
            name,
            kind: Kind::Directory,
            len: 0,
            modified: self.content.shown,
            executable: false,
            copy_of: None,
        }
    }

    /// One directory, in order of names, after a name, up to a number.
    pub fn list(&self, path: &Path, after: Option<&Name>, limit: usize) -> Result<Vec<Entry>, NodeError> {
        let found = self.stat(path)?;
        if found.entry.kind == Kind::File {
            return Err(TreeError::NotADirectory(path.clone()).into());
        }
        let first = after.map_or_else(|| path.clone(), |after| path.join(after.clone()));
        let below = self.files.range((Bound::Excluded(first), Bound::Unbounded));
        let below = below.take_while(|(at, _)| is_below(path, at));
        let mut entries: Vec<Entry> = Vec::new();
        for (at, file) in below {
            let name = &at.names()[path.names().len()];
            if after.is_some_and(|after| name <= after) || entries.last().is_some_and(|last| last.name == *name) {
                continue;
            }
            if entries.len() >= limit {
                break;
            }
            entries.push(match at.names().len() == path.names().len() + 1 {
                true => entry_of(name.clone(), file),
                false => self.directory(name.clone()),
            });
        }
        Ok(entries)
    }

    /// Begins to get a file, or a range of it; a range that goes beyond its end ends there.
    pub fn download(&self, path: &Path, range: Option<Range<u64>>) -> Result<Download, NodeError> {
        let file = match self.files.get(path) {
            Some(file) => file,
            None => {
                self.stat(path)?;
                return Err(TreeError::IsADirectory(path.clone()).into());
            }
        };
        let content: Content = from_canonical(&file.content).map_err(TreeError::from)?;
        Download::of_file((&self.shared, self.space), content, path, range)
    }
}

fn is_below(directory: &Path, path: &Path) -> bool {
    path.names().len() > directory.names().len() && path.names().starts_with(directory.names())
}

fn entry_of(name: Name, file: &File) -> Entry {
    Entry {
        name,
        kind: Kind::File,
        len: file.len,
        modified: file.modified,
        executable: file.executable,
        copy_of: None,
    }
}

/// Opens a link, with its password where it has one.
pub(crate) async fn open(shared: &Arc<Shared>, link: &Link, password: Option<&str>) -> Result<Linked, NodeError> {
    let pool = shared.with_control(|control| control.roster.pool());
    if !link.is_into(pool) {
        return Err(LinkError::OtherPool.into());
    }
    let password = match (link.needs_password, password) {
        (true, None) => return Err(LinkError::NeedsPassword.into()),
        (true, password) => password,
        (false, _) => None,
    };
    let mut attempt = 1;
    loop {
        match open_now(shared, link, password).await {
            // What it shows was replaced meanwhile, or is about to be.
            Err(NodeError::Shards(error)) if attempt < ATTEMPTS => {
                tracing::debug!(%error, "what a link shows cannot be read: it is asked for again");
                attempt += 1;
            }
            opened => return opened,
        }
    }
}

async fn open_now(shared: &Arc<Shared>, link: &Link, password: Option<&str>) -> Result<Linked, NodeError> {
    let (space, id) = (link.space, link.id());
    let found = find(shared, space, id).await?.ok_or(LinkError::Unknown)?;
    let until = found.publication.until;
    let sealed = found.publication.shown.ok_or(LinkError::Revoked)?;
    if let Some(until) = until.filter(|until| *until <= shared.now()) {
        return Err(LinkError::Expired(until).into());
    }
    let read = (found.clock, found.device);
    if let Some(linked) = shared.links.opened.get(link, password, read) {
        return Ok(linked);
    }
    let share = match found.publication.counted_by {
        Some(node) => Some(share_of(shared, node, link).await?),
        None => None,
    };
    let key = {
        let (link, password) = (
            link.clone(),
            password.map(|password| Zeroizing::new(password.to_owned())),
        );
        Shared::blocking(move || link.key(password.as_ref().map(|text| text.as_str()), share.as_ref())).await
    };
    let wrong = || match link.needs_password {
        true => LinkError::WrongPassword,
        false => LinkError::Damaged,
    };
    let plain = key
        .open(purpose(SHOWN, &place(space, id)), &sealed)
        .map_err(|_| wrong())?;
    let shown: Shown = from_canonical(&plain).map_err(|_| LinkError::Damaged)?;
    if shown.version != VERSION {
        return Err(LinkError::Damaged.into());
    }
    let file = shown.listing.ok_or_else(|| LinkError::Gone(shown.name.to_string()))?;
    if file.len > LISTING_BYTES_MAX {
        return Err(LinkError::TooLarge.into());
    }
    let content: Content = from_canonical(&file.content).map_err(|_| LinkError::Damaged)?;
    let bytes = Download::of_file((shared, space), content, &Path::root(), None)?
        .read_to_end()
        .await?;
    let files = Shared::blocking(move || listing::read(&bytes))
        .await
        .ok_or(LinkError::Damaged)?;
    // What is at the root is shown alone.
    let is_file = files.contains_key(&Path::root());
    if is_file && files.len() > 1 {
        return Err(LinkError::Damaged.into());
    }
    let content = LinkContent {
        name: shown.name,
        is_file,
        files: files.len() as u64,
        bytes: files
            .values()
            .fold(0, |bytes: u64, file| bytes.saturating_add(file.len)),
        shown: found.clock,
        until,
    };
    let linked = Linked {
        space,
        shared: Arc::clone(shared),
        content: Arc::new(content),
        files: Arc::new(files),
    };
    shared.links.opened.put(Recent {
        link: link.clone(),
        password: password.map(|password| Zeroizing::new(password.to_owned())),
        read,
        until: Instant::now() + OPENED_FOR,
        linked: linked.clone(),
    });
    let task = Arc::downgrade(shared);
    tokio::spawn(async move {
        tokio::time::sleep(OPENED_FOR).await;
        if let Some(shared) = task.upgrade() {
            shared.links.opened.forget();
        }
    });
    Ok(linked)
}

/// What is published of a link, as far as it is known here: what is for those who read its space is left out.
pub(crate) async fn published(
    shared: &Arc<Shared>,
    space: SpaceId,
    link: LinkId,
) -> Result<Option<Published>, NodeError> {
    let task = Arc::clone(shared);
    let found = Shared::blocking(move || Links::of(space).get(&task.read()?, link).map_err(MetaError::reading));
    let mut found = found.await?;
    if let Some(Published { publication, .. }) = &mut found {
        (publication.about, publication.key) = (ByteBuf::new(), ByteBuf::new());
        if publication.until.is_some_and(|until| until <= shared.now()) {
            // Who asks learns that it has ended, and nothing else.
            publication.shown = publication.shown.as_ref().map(|_| ByteBuf::new());
        }
    }
    Ok(found)
}

/// What was published last of a link, as far as anybody knows who is here: the custodians are asked, and all others where they know nothing of it.
async fn find(shared: &Arc<Shared>, space: SpaceId, link: LinkId) -> Result<Option<Published>, NodeError> {
    let mut found = published(shared, space, link).await?;
    let view = shared.present_view();
    let mut keepers = names::custodians(space, &view);
    keepers.retain(|node| *node != shared.me());
    let live = shared.with_control(|control| control.live_peers());
    let others: Vec<NodeId> = live.into_iter().filter(|node| !keepers.contains(node)).collect();
    let rounds = std::iter::once(&keepers[..]).chain(others.chunks(ASKED_AT_ONCE));
    for round in rounds {
        let asked = round.iter().map(|node| ask(shared, *node, space, link));
        let told = futures::future::join_all(asked).await.into_iter().flatten();
        found = found.into_iter().chain(told).max_by_key(Published::rank);
        if found.is_some() {
            break;
        }
    }
    Ok(found)
}

async fn ask(shared: &Arc<Shared>, node: NodeId, space: SpaceId, link: LinkId) -> Option<Published> {
    match shared.ask(node, &PoolRequest::Link { space, link }).await {
        Ok(PoolReply::Link(bytes)) => from_canonical(&bytes?)
            .ok()
            .filter(|known: &Published| known.publication.link == link),
        Ok(_) => None,
        Err(error) => {
            tracing::debug!(node = %node.short(), %error, "what a link shows is not told");
            None
        }
    }
}

/// What is published of a link, as an answer.
pub(crate) async fn tell(shared: &Arc<Shared>, space: SpaceId, link: LinkId) -> PoolReply {
    match published(shared, space, link).await {
        Ok(found) => PoolReply::Link(found.map(|found| ByteBuf::from(to_canonical(&found)))),
        Err(error) => PoolReply::Failed(error.to_string()),
    }
}

/// The share of a link's key that the machine gives away which counts its readers.
async fn share_of(shared: &Arc<Shared>, node: NodeId, link: &Link) -> Result<KeyShare, NodeError> {
    let (space, id, proof) = (link.space, link.id(), link.proof());
    if node == shared.me() {
        return readers::give(shared, (space, id), proof, node).await;
    }
    match shared
        .ask(node, &PoolRequest::LinkShare { space, link: id, proof })
        .await
    {
        Ok(PoolReply::LinkShare(Some(share))) => Ok(share),
        Ok(PoolReply::LinkShare(None)) => Err(LinkError::UsedUp.into()),
        answer => {
            let reason = answer.map_or_else(|error| error.to_string(), |other| format!("it answered {other:?}"));
            let name = shared.with_control(|control| control.roster.state(node).and_then(|state| state.name.clone()));
            Err(LinkError::NotCounted {
                machine: name.map_or_else(|| node.short(), |name| name.to_string()),
                reason,
            }
            .into())
        }
    }
}
