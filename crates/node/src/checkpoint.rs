//! Checkpoints of a space: made now and then by a machine of its owner, and taken by machines that have read nothing of it yet, which need not replay its logs then.
//!
//! A checkpoint lies where the listings of links lie, is pinned and repaired as they are, and published as they are, under an id that follows from the key in use: so whoever keeps the space's log
//! tells where it is to who reads the space, and to nobody else. It counts by the signature of the machine that made it. The logs before it are fetched afterwards.

use crate::{
    api::{CheckpointInfo, FileMeta, HistoryInfo, PutOptions},
    branch, charters,
    download::Download,
    error::{MetaError, NodeError},
    links::{self, Draft},
    logs,
    meta::{ReadKv, WriteKv},
    names,
    protocol::{PoolReply, PoolRequest},
    shared::{AskError, Shared},
    space::OpenSpace,
    spaces,
    upload::Upload,
    verify,
};
use futures::future::join_all;
use potluck_crypto::{BoxKey, LinkId, Purpose, Signed, derive};
use potluck_dag::Content;
use potluck_spaces::{
    AppendError, Charter, Checkpoint, CheckpointError, DirId, File, Frontier, Kv, Links, Log, Logged, Path, Position,
    Publication, Published, Table, Trash, Tree, Unfilled,
    checkpoint::{self, PAGE_BYTES_MAX, Pages},
};
use potluck_types::{NodeId, SpaceId, UserId, from_canonical, limits};
use serde_bytes::ByteBuf;
use std::{
    cmp::Reverse,
    collections::BTreeSet,
    io::{self, Read},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

const SEALED: &str = "potluck/checkpoint-sealed/1";
/// Entries that were written since the last checkpoint, or since the beginning, before one is made. Fewer are replayed in a moment.
const ENTRIES_MIN: u64 = 2000;
/// And one for so many file versions: an entry has about as many changes when many files are put at once, so that no more goes into checkpoints than into the logs.
const FILES_PER_ENTRY: u64 = 100;
/// Epochs whose checkpoints are asked for, the last ones.
const EPOCHS: usize = 16;
/// Pages that are taken in one transaction.
const PAGES: usize = 16;
/// Entries that are read at once.
const PAGE: usize = 256;
/// How long who asks waits until one is taken, less than others wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Entries of the logs before a checkpoint that are taken in one transaction, in bytes.
const FILL_BYTES: usize = 512 << 10;

/// The ids that checkpoints of a space are published under, one for each key that is known of it.
pub(crate) fn ids(space: &OpenSpace) -> BTreeSet<LinkId> {
    let ring = space.ring();
    ring.keys.epochs().map(|(_, key)| derive::checkpoint_id(key)).collect()
}

fn purpose(associated: &[u8]) -> Purpose<'_> {
    Purpose {
        context: SEALED,
        associated,
    }
}

/// Opens what is published, with the machine that has signed it.
fn open(space: SpaceId, key: &BoxKey, publication: &Publication) -> Option<(Checkpoint, NodeId)> {
    let associated = links::place(space, publication.link);
    let plain = key.open(purpose(&associated), publication.shown.as_ref()?).ok()?;
    let verified = Signed::<Checkpoint>::from_bytes(&plain).ok()?.open().ok()?;
    let by = NodeId::from_bytes(*verified.signer().as_bytes());
    let made = verified.into_value();
    (made.space == space && made.is_readable()).then_some((made, by))
}

/// The same as [`look`], on the first of the person's machines that are here: one of them is enough.
pub(crate) async fn look_as_first(space: &OpenSpace) -> Result<bool, NodeError> {
    let me = space.user;
    let is_first = space.with_control(|control| {
        let mut mine = control.live_peers();
        mine.retain(|node| control.roster.user_of(*node) == Some(me));
        mine.into_iter().all(|other| space.me() < other)
    });
    Ok(is_first && look(space).await?)
}

/// Makes one if there is more to replay by now than that would be worth. Whether it did.
pub(crate) async fn look(space: &OpenSpace) -> Result<bool, NodeError> {
    if !may_make(space).await? {
        return Ok(false);
    }
    let_go_of_erased(space).await?;
    follow(space).await?;
    let task = space.clone();
    let is_due = Shared::blocking(move || {
        let kv = task.read()?;
        let log = Log::of(task.id());
        let totals = Trash::of(task.id()).totals(&kv).map_err(MetaError::reading)?;
        let written = entries(&log.frontier(&kv).map_err(MetaError::reading)?);
        let before = current(&task, &kv)?.map_or(0, |made| made.entries());
        let files = totals.files + totals.kept;
        let is_due = written.saturating_sub(before) >= ENTRIES_MIN.max(files / FILES_PER_ENTRY);
        Ok::<_, NodeError>((files, is_due))
    });
    match is_due.await? {
        // Where nothing is left, nothing is kept.
        (0, _) => let_go(space).await.map(|()| false),
        (_, true) => Box::pin(make(space)).await,
        (_, false) => Ok(false),
    }
}

/// Lets go of a checkpoint that does not stand for an entry which erases something: it may have the keys to that.
async fn let_go_of_erased(space: &OpenSpace) -> Result<(), NodeError> {
    let task = space.clone();
    let is_stale = Shared::blocking(move || {
        let kv = task.read()?;
        match current(&task, &kv)? {
            Some(made) => erases_after(&task, &kv, &made.logs()),
            None => Ok(false),
        }
    });
    match is_stale.await? {
        true => let_go(space).await,
        false => Ok(()),
    }
}

/// Whether something was erased by an entry that is not among these.
fn erases_after(space: &OpenSpace, kv: &impl Kv, logs: &Frontier) -> Result<bool, NodeError> {
    let log = Log::of(space.id());
    for (device, position) in log.frontier(kv).map_err(MetaError::reading)? {
        let mut at = logs.get(&device).map_or(0, |position| position.seq);
        while at < position.seq {
            let page = log.entries_after(kv, device, at, PAGE).map_err(MetaError::reading)?;
            if page.is_empty() {
                break;
            }
            for logged in &page {
                if logged.checked_before().map_err(AppendError::from)?.erases.is_some() {
                    return Ok(true);
                }
            }
            at += page.len() as u64;
        }
    }
    Ok(false)
}

/// Whether this node's person may make one: who owns the space and has all of it. Of a directory that is or was shared alone an entry is checked by those before it, which who takes a checkpoint does not have.
async fn may_make(space: &OpenSpace) -> Result<bool, NodeError> {
    let charter = charters::known(space.shared(), space.id()).await?;
    let is_owner = charter.owner().is_none_or(|owner| owner == space.user);
    Ok(is_owner && space.may_write() && !space.is_partial() && charter.areas().is_empty())
}

fn entries(logs: &Frontier) -> u64 {
    logs.values().fold(0, |sum, position| position.seq.saturating_add(sum))
}

impl CheckpointInfo {
    pub(crate) fn of(made: &Checkpoint) -> Self {
        Self {
            made: made.at,
            entries: made.entries(),
        }
    }
}

/// The checkpoint that is published, if it is still stored.
pub(crate) fn current(space: &OpenSpace, kv: &impl Kv) -> Result<Option<Checkpoint>, NodeError> {
    Ok(stored(space, kv)?.map(|(_, made, _)| made))
}

/// What it is published under, it, and where its file is by now.
fn stored(space: &OpenSpace, kv: &impl Kv) -> Result<Option<(LinkId, Checkpoint, File)>, NodeError> {
    let ring = space.ring();
    let Some(key) = ring.keys.of(ring.current()) else {
        return Ok(None);
    };
    let id = derive::checkpoint_id(key);
    let published = Links::of(space.id()).get(kv, id).map_err(MetaError::reading)?;
    let owner = space.charters.of(kv, space.id())?.owner();
    let made = published.and_then(|published| open(space.id(), key, &published.publication));
    // Whoever writes to the space can publish something under its id.
    let Some((made, _)) = made.filter(|(_, by)| is_believed(space, owner, *by)) else {
        return Ok(None);
    };
    let name = links::listing_name(id, logs::digest(&made.logs(), None));
    let file = links::stored(space, &name)?;
    Ok(file.map(|file| (id, made, file)))
}

/// Says where a checkpoint lies, if that is elsewhere by now: it was coded anew, as machines came or went.
pub(crate) async fn follow(space: &OpenSpace) -> Result<(), NodeError> {
    let task = space.clone();
    let found = Shared::blocking(move || stored(&task, &task.read()?)).await?;
    match found {
        Some((id, made, file)) if file.content != made.content && may_make(space).await? => {
            let moved = Checkpoint::new(space.id(), made.at, &made.logs(), file.content);
            publish(space, id, &moved).await.map(drop)
        }
        _ => Ok(()),
    }
}

/// Signs a checkpoint, and publishes it in the place of the last. Whether there is room for what it says.
async fn publish(space: &OpenSpace, id: LinkId, made: &Checkpoint) -> Result<bool, NodeError> {
    let ring = space.ring();
    let key = ring.keys.of(ring.current()).ok_or(NodeError::NoKey)?;
    let signed = match Signed::sign(&space.node_key, made) {
        Ok(signed) => signed,
        Err(error) => {
            tracing::info!(%error, "a checkpoint of so many logs is not made");
            links::unname(space, id).await?;
            return Ok(false);
        }
    };
    let shown = key.seal(
        purpose(&links::place(space.id(), id)),
        &signed.to_bytes(),
        &*space.entropy,
    );
    let publication = Publication {
        shown: Some(ByteBuf::from(shown)),
        ..Publication::end_of(id)
    };
    let digest = logs::digest(&made.logs(), None);
    links::say(space, Draft::of(publication), Some(digest)).await?;
    Ok(true)
}

/// Makes one of what is known here, and publishes it in the place of the last. Whether there was anything to say.
pub(crate) async fn make(space: &OpenSpace) -> Result<bool, NodeError> {
    // What is erased meanwhile is in none.
    let _one_at_a_time = space.opened().erasing.lock().await;
    if !may_make(space).await? {
        return Ok(false);
    }
    branch::know_own_log(space).await;
    let ring = space.ring();
    let id = derive::checkpoint_id(ring.keys.of(ring.current()).ok_or(NodeError::NoKey)?);
    let task = space.clone();
    let begun = Shared::blocking(move || {
        let kv = task.read()?;
        let logs = Log::of(task.id()).frontier(&kv).map_err(MetaError::reading)?;
        let has_areas = !task.charters.of(&kv, task.id())?.areas().is_empty();
        // What somebody has ended is ended for good, until there is another key.
        let published = Links::of(task.id()).get(&kv, id).map_err(MetaError::reading)?;
        let is_ended = published.is_some_and(|published| published.publication.shown.is_none());
        let pages = Pages::of(task.id(), &kv).map_err(MetaError::reading)?;
        let pages = pages.filter(|_| !has_areas && !is_ended);
        Ok::<_, NodeError>(pages.map(|pages| (logs, Rows::of(kv, pages))))
    });
    let Some((logs, rows)) = begun.await?.filter(|(logs, _)| !logs.is_empty()) else {
        return Ok(false);
    };
    let now = space.now();
    let name = links::listing_name(id, logs::digest(&logs, None));
    let meta = FileMeta {
        modified: now,
        executable: false,
    };
    let mut upload = Upload::hidden(space.clone(), PutOptions::default(), DirId::LINKS)?;
    Box::pin(upload.put_blocking(Path::root().join(name.clone()), meta, rows)).await?;
    upload.finish().await?;
    let Some(file) = links::stored(space, &name)? else {
        return Ok(false);
    };
    let (task, of) = (space.clone(), logs.clone());
    if Shared::blocking(move || erases_after(&task, &task.read()?, &of)).await? {
        // Another machine has erased something since.
        links::unname(space, id).await?;
        return Ok(false);
    }
    let made = Checkpoint::new(space.id(), now, &logs, file.content);
    if !publish(space, id, &made).await? {
        return Ok(false);
    }
    tracing::info!(space = %space.id().short(), entries = made.entries(), bytes = file.len, "a checkpoint of the space is made");
    // Those under former keys are of no use any more.
    for former in ids(space).into_iter().filter(|other| *other != id) {
        let published = Links::of(space.id()).get(&space.read()?, former);
        let shows = published
            .map_err(MetaError::reading)?
            .is_some_and(|published| published.publication.shown.is_some());
        if shows {
            links::say(space, Draft::of(Publication::end_of(former)), None).await?;
        }
    }
    Ok(true)
}

/// Something was erased: a checkpoint that was made before may have the keys to it.
pub(crate) fn let_go_soon(space: &OpenSpace) {
    let space = space.clone();
    tokio::spawn(async move {
        if !space.may_write() || space.is_partial() {
            return;
        }
        if let Err(error) = let_go_of_erased(&space).await {
            tracing::info!(space = %space.id().short(), %error, "a checkpoint from before something was erased is still there");
        }
    });
}

/// Lets go of what is stored of checkpoints: it has keys to what is erased. Until the next is made there is none.
pub(crate) async fn let_go(space: &OpenSpace) -> Result<(), NodeError> {
    for id in ids(space) {
        links::unname(space, id).await?;
    }
    Ok(())
}

/// The pages, each behind its length.
struct Rows {
    kv: ReadKv,
    pages: Pages,
    page: io::Cursor<Vec<u8>>,
}

impl Rows {
    fn of(kv: ReadKv, pages: Pages) -> Self {
        Self {
            kv,
            pages,
            page: io::Cursor::default(),
        }
    }
}

impl Read for Rows {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.page.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let Some(page) = self.pages.next(&self.kv).map_err(io::Error::other)? else {
                return Ok(0);
            };
            let len = u32::try_from(page.len()).map_err(io::Error::other)?;
            self.page = io::Cursor::new([&len.to_be_bytes()[..], &page].concat());
        }
    }
}

/// Takes the checkpoint that a peer knows of, where nothing of the space is here yet, and goes on from there. Entries are refused meanwhile.
pub(crate) async fn take(space: &OpenSpace, peer: NodeId) -> Result<(), NodeError> {
    if !may_take(space).await? {
        return Ok(());
    }
    if has_no_logs(space).await? && !take_and_open(space, Some(peer)).await? {
        return Err(AppendError::Begun.into());
    }
    spaces::read(space).await
}

/// Opens what waits for its key, but for what a checkpoint stands for that can be taken. Whether that was done in time: who asks waits no longer than others wait for an answer,
/// and it goes on meanwhile, also when nobody asks any more.
pub(crate) fn take_and_open(
    space: &OpenSpace,
    peer: Option<NodeId>,
) -> Pin<Box<dyn Future<Output = Result<bool, NodeError>> + Send>> {
    let space = space.clone();
    // Boxed, as what is missing of a log is fetched, and then opened by this.
    Box::pin(async move {
        let opening = async {
            let turn = Arc::clone(&space.opened().taking).lock_owned().await;
            let task = space.clone();
            let opening = tokio::spawn(async move {
                if let Err(error) = take_best(&task, peer).await {
                    tracing::info!(space = %task.id().short(), %error, "no checkpoint is taken, and the logs are replayed");
                }
                let opened = spaces::open_waiting(&task).await;
                drop(turn);
                opened
            });
            opening.await
        };
        match tokio::time::timeout(PATIENCE, opening).await {
            Ok(Ok(opened)) => opened.map(|()| true),
            Ok(Err(error)) => {
                tracing::warn!(space = %space.id().short(), %error, "a checkpoint is not taken to its end");
                Ok(true)
            }
            Err(_) => Ok(false),
        }
    })
}

/// Takes the one that is known here, or else the best that is known to a peer, or to all who are here and keep the space.
async fn take_best(space: &OpenSpace, peer: Option<NodeId>) -> Result<(), NodeError> {
    if !may_take(space).await? {
        return Ok(());
    }
    // Who changes names waits, as they are not all here.
    let _one_at_a_time = space.opened().names.lock().await;
    // What an earlier run has left.
    give_up(space.shared(), space.id()).await?;
    let task = space.clone();
    let hold = move || {
        task.meta
            .write(|kv| checkpoint::hold(kv, task.id()).map_err(NodeError::from))
    };
    match Shared::blocking(hold).await {
        // Something has come meanwhile.
        Err(NodeError::Checkpoint(CheckpointError::NotEmpty)) => return Ok(()),
        held => held?,
    }
    let taken = take_held(space, peer).await;
    if !matches!(taken, Ok(true))
        && let Err(error) = give_up(space.shared(), space.id()).await
    {
        tracing::warn!(space = %space.id().short(), %error, "what was taken of a checkpoint is still here");
    }
    taken.map(drop)
}

/// Whether one was taken, now that nothing is opened.
async fn take_held(space: &OpenSpace, peer: Option<NodeId>) -> Result<bool, NodeError> {
    space.refuse_when_full()?;
    let peers = match peer {
        Some(peer) => [peer].into(),
        None => names::keepers(space, space.id(), &space.present_view()),
    };
    if peers.is_empty() {
        return Ok(false);
    }
    let Some((made, by)) = find_best(space, &peers).await? else {
        return Ok(false);
    };
    if !has_no_logs(space).await? {
        let _ = tokio::time::timeout(limits::STALL_TIMEOUT, keep_until(space, &made.logs(), &peers)).await;
    }
    let (task, logs) = (space.clone(), made.logs());
    let begin = move || {
        task.meta
            .write(|kv| checkpoint::begin(kv, task.id(), &logs).map_err(NodeError::from))
    };
    Shared::blocking(begin).await?;
    load(space, &made).await?;
    let (task, logs) = (space.clone(), made.logs());
    let finish = move || {
        task.meta
            .write(|kv| checkpoint::finish(kv, task.id(), &logs).map_err(NodeError::from))
    };
    Shared::blocking(finish).await?;
    tracing::info!(space = %space.id().short(), entries = made.entries(), by = %by.short(), "the names of the space are taken from a checkpoint");
    *space.opened().taken.lock().expect("never poisoned") = Some(CheckpointInfo::of(&made));
    links::changed(space);
    Ok(true)
}

/// The one that stands for the most, of that which is known here and those that peers know of.
async fn find_best(space: &OpenSpace, peers: &BTreeSet<NodeId>) -> Result<Option<(Checkpoint, NodeId)>, NodeError> {
    let asked = peers
        .iter()
        .map(|peer| tokio::time::timeout(PATIENCE / 2, find(space, Some(*peer))));
    let told = join_all(asked).await.into_iter().filter_map(|asked| asked.ok()?.ok()?);
    let known = find(space, None).await?;
    Ok(told.chain(known).max_by_key(|(made, _)| made.entries()))
}

/// Fetches what is missing of logs that are kept here, up to where a checkpoint stands for them, from whoever has it. Nothing of that is opened.
async fn keep_until(space: &OpenSpace, logs: &Frontier, peers: &BTreeSet<NodeId>) {
    for (device, until) in logs {
        for peer in peers {
            if let Err(error) = logs::pull_log(space.shared(), *peer, space.id(), (*device, *until)).await {
                tracing::debug!(peer = %peer.short(), error, "it does not tell a log up to a checkpoint");
            }
        }
    }
}

/// Whether no entry of the space is here.
async fn has_no_logs(space: &OpenSpace) -> Result<bool, NodeError> {
    let task = space.clone();
    Shared::blocking(move || Ok(Log::of(task.id()).is_empty(&task.read()?).map_err(MetaError::reading)?)).await
}

/// Whether one is of use here, or is being taken.
async fn may_take(space: &OpenSpace) -> Result<bool, NodeError> {
    let task = space.clone();
    Shared::blocking(move || {
        let (kv, id) = (task.read()?, task.id());
        let is_wanted = !task.is_partial() && checkpoint::is_wanted(&kv, id).map_err(MetaError::reading)?;
        Ok(is_wanted || checkpoint::is_begun(&kv, id).map_err(MetaError::reading)?)
    })
    .await
}

/// Removes what is left of one that was not taken to its end.
async fn give_up(shared: &Arc<Shared>, space: SpaceId) -> Result<(), MetaError> {
    let task = Arc::clone(shared);
    Shared::blocking(move || {
        if !checkpoint::is_begun(&task.read()?, space).map_err(MetaError::reading)? {
            return Ok(());
        }
        let step = |kv: &mut WriteKv<'_>| checkpoint::give_up(kv, space).map_err(MetaError::writing);
        while !task.meta.write(step)? {}
        Ok::<_, MetaError>(())
    })
    .await
}

/// The same of all spaces: the last run may have ended while it took one.
pub(crate) async fn give_up_all(shared: &Arc<Shared>) -> Result<(), MetaError> {
    let task = Arc::clone(shared);
    let begun = Shared::blocking(move || Table::Begun.spaces(&task.read()?).map_err(MetaError::reading));
    for space in begun.await? {
        give_up(shared, space).await?;
    }
    Ok(())
}

/// The checkpoint that stands for the most of those that count and are known here, or to a peer.
async fn find(space: &OpenSpace, peer: Option<NodeId>) -> Result<Option<(Checkpoint, NodeId)>, NodeError> {
    let ring = space.ring();
    let charter = charters::known(space.shared(), space.id()).await?;
    let mut keys: Vec<_> = ring.keys.epochs().collect();
    keys.sort_by_key(|(epoch, _)| Reverse(epoch.and_then(|epoch| charter.depth(epoch))));
    let mut found = None::<(Checkpoint, NodeId)>;
    for (_, key) in keys.into_iter().take(EPOCHS) {
        let link = derive::checkpoint_id(key);
        let published = match peer {
            None => {
                let task = space.clone();
                let get = move || {
                    Links::of(task.id())
                        .get(&task.read()?, link)
                        .map_err(MetaError::reading)
                };
                Shared::blocking(get).await?
            }
            Some(peer) => match ask(space, peer, link).await {
                Ok(published) => published,
                Err(_) => break,
            },
        };
        let made = published.and_then(|published| open(space.id(), key, &published.publication));
        if let Some((made, by)) = made.filter(|(made, by)| counts(space, &charter, made, *by))
            && found.as_ref().is_none_or(|(known, _)| known.entries() < made.entries())
        {
            found = Some((made, by));
        }
    }
    Ok(found)
}

/// What a peer knows to be published under an id.
async fn ask(space: &OpenSpace, peer: NodeId, link: LinkId) -> Result<Option<Published>, AskError> {
    let request = PoolRequest::Link {
        space: space.id(),
        link,
    };
    let PoolReply::Link(Some(told)) = space.ask(peer, &request).await? else {
        return Ok(None);
    };
    let published = from_canonical::<Published>(&told).ok();
    Ok(published.filter(|published| published.publication.link == link))
}

/// Whether a checkpoint counts here: a machine of the owner's has made it, or one of this node's own person, and it stands for nothing that does not count. One that stands for this machine's own log, too, is
/// of one that has lost its database: it hears what it wrote.
fn counts(space: &OpenSpace, charter: &Charter, made: &Checkpoint, by: NodeId) -> bool {
    let ends = |(device, position): (&NodeId, &Position)| verify::counted(space, charter, *device) >= position.seq;
    let logs = made.logs();
    is_believed(space, charter.owner(), by) && !logs.contains_key(&space.me()) && logs.iter().all(ends)
}

/// Whether what this machine says of a space is believed here.
fn is_believed(space: &OpenSpace, owner: Option<UserId>, by: NodeId) -> bool {
    let of = space.with_control(|control| control.roster.user_of(by));
    of.is_some() && (of == owner || of == Some(space.user))
}

/// Takes all pages of a checkpoint.
async fn load(space: &OpenSpace, made: &Checkpoint) -> Result<(), NodeError> {
    let content: Content = from_canonical(&made.content).map_err(CheckpointError::from)?;
    let mut download = Download::of_file((space.shared(), space.id()), content, &Path::root(), None)?;
    let (mut pages, mut rest) = (Vec::new(), Vec::new());
    while let Some(bytes) = download.next().await {
        rest.extend_from_slice(&bytes?);
        while let Some(page) = next_page(&mut rest)? {
            pages.push(page);
            if pages.len() == PAGES {
                take_pages(space, std::mem::take(&mut pages)).await?;
            }
        }
    }
    if !rest.is_empty() {
        return Err(NodeError::CheckpointEnds);
    }
    take_pages(space, pages).await
}

/// Cuts the next page off, if it is there.
fn next_page(rest: &mut Vec<u8>) -> Result<Option<Vec<u8>>, NodeError> {
    let Some((len, _)) = rest.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let len = usize::try_from(u32::from_be_bytes(*len)).unwrap_or(usize::MAX);
    if len > PAGE_BYTES_MAX {
        return Err(CheckpointError::TooLong(len).into());
    }
    if rest.len() < 4 + len {
        return Ok(None);
    }
    let later = rest.split_off(4 + len);
    let page = std::mem::replace(rest, later).split_off(4);
    Ok(Some(page))
}

async fn take_pages(space: &OpenSpace, pages: Vec<Vec<u8>>) -> Result<(), NodeError> {
    let task = space.clone();
    Shared::blocking(move || {
        task.refuse_when_full()?;
        let tree = Tree::of(task.id()).learning_at(task.elapsed());
        task.meta.write(|kv| {
            pages
                .iter()
                .try_for_each(|page| checkpoint::take(kv, tree, page).map_err(NodeError::from))
        })
    })
    .await
}

/// Fetches what is missing of the logs before a checkpoint, by and by, if nobody is about it.
pub(crate) fn fill_soon(space: &OpenSpace) {
    let space = space.clone();
    tokio::spawn(async move {
        let Ok(_one_at_a_time) = space.opened().filling.try_lock() else {
            return;
        };
        let is_filled = Shared::blocking({
            let task = space.clone();
            move || Log::of(task.id()).is_filled(&task.read()?).map_err(MetaError::reading)
        });
        if is_filled.await.unwrap_or(true) {
            return;
        }
        let filled = match fill_from_all(&space).await {
            // What does not count waits for this.
            Ok(()) => charters::cut_logs(space.shared(), space.id()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = filled {
            tracing::info!(space = %space.id().short(), %error, "what was before the checkpoint is not all here yet");
        }
    });
}

/// The same now; an error where some of it is not to be had.
pub(crate) async fn whole(space: &OpenSpace) -> Result<(), NodeError> {
    let _one_at_a_time = space.opened().filling.lock().await;
    fill_from_all(space).await
}

async fn fill_from_all(space: &OpenSpace) -> Result<(), NodeError> {
    let missing = || {
        let task = space.clone();
        Shared::blocking(move || refuse_missing(&task, &task.read()?))
    };
    if missing().await.is_ok() {
        return Ok(());
    }
    for peer in names::keepers(space, space.id(), &space.present_view()) {
        if let Err(error) = fill(space, peer).await {
            tracing::debug!(peer = %peer.short(), error, "it does not tell what was before the checkpoint");
        }
        if missing().await.is_ok() {
            return Ok(());
        }
    }
    missing().await
}

/// Refuses what needs all of the logs, where what was before a checkpoint is not all here.
pub(crate) fn refuse_missing(space: &OpenSpace, kv: &impl Kv) -> Result<(), NodeError> {
    match history(space.id(), kv)? {
        None => Ok(()),
        Some(HistoryInfo { here, of }) => Err(NodeError::HistoryNotHere { here, of }),
    }
}

/// How much of a space's logs is here, where what was before a checkpoint is not; none when all is.
pub(crate) fn history(space: SpaceId, kv: &impl Kv) -> Result<Option<HistoryInfo>, NodeError> {
    let log = Log::of(space);
    let unfilled = log.unfilled(kv).map_err(MetaError::reading)?;
    if unfilled.is_empty() {
        return Ok(None);
    }
    let of = entries(&log.frontier(kv).map_err(MetaError::reading)?);
    let missing = |log: &Unfilled| log.until.seq - log.at.map_or(0, |at| at.seq);
    let missing = unfilled.values().map(missing).sum();
    Ok(Some(HistoryInfo {
        here: of.saturating_sub(missing),
        of,
    }))
}

async fn fill(space: &OpenSpace, peer: NodeId) -> Result<(), String> {
    let task = space.clone();
    let unfilled = Shared::blocking(move || Log::of(task.id()).unfilled(&task.read()?).map_err(MetaError::reading));
    let unfilled = unfilled.await.map_err(|error| error.to_string())?;
    let mut failed = Ok(());
    for (device, log) in unfilled {
        let filled = fill_log(space, peer, device, log.at.map_or(0, |at| at.seq), log.until.seq);
        failed = failed.and(filled.await);
    }
    failed
}

/// Fetches the log of one device up to where the checkpoint is.
async fn fill_log(space: &OpenSpace, peer: NodeId, device: NodeId, mut at: u64, until: u64) -> Result<(), String> {
    while at < until {
        let entries = logs::fetch(space, peer, space.id(), (device, at)).await?;
        if entries.is_empty() {
            return Err(logs::TELLS_NONE.to_owned());
        }
        at += entries.len() as u64;
        let taken = fill_entries(space, device, entries).await;
        if let Err(NodeError::Log(AppendError::Fork { .. } | AppendError::Clock { .. })) = &taken {
            // Somebody has told another log than the one that the checkpoint stands for.
            let task = space.clone();
            let unfilled = Shared::blocking(move || {
                task.meta
                    .write(|kv| Log::of(task.id()).unfill(kv, device).map_err(MetaError::writing))
            });
            unfilled.await.map_err(|error| error.to_string())?;
        }
        taken.map_err(|error| error.to_string())?;
    }
    Ok(())
}

async fn fill_entries(space: &OpenSpace, device: NodeId, entries: Vec<ByteBuf>) -> Result<(), NodeError> {
    let task = space.clone();
    Shared::blocking(move || {
        let mut left = &entries[..];
        while !left.is_empty() {
            task.refuse_when_full()?;
            let mut bytes = 0;
            let fits = |entry: &&ByteBuf| {
                bytes += entry.len();
                bytes <= FILL_BYTES
            };
            let (now, later) = left.split_at(left.iter().take_while(fits).count().max(1));
            left = later;
            let is_last = task.meta.write(|kv| {
                let mut is_last = false;
                for bytes in now {
                    let logged = Logged::from_bytes(bytes).map_err(AppendError::from)?;
                    is_last = Log::of(task.id()).fill(kv, device, &logged)?;
                    if is_last {
                        break;
                    }
                }
                Ok::<_, NodeError>(is_last)
            })?;
            if is_last {
                return Ok(());
            }
        }
        Ok(())
    })
    .await
}

const _: () = assert!(FILL_BYTES >= limits::ENTRY_BYTES_MAX);
