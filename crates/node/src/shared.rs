//! What all tasks of a node share: keys, handles, and the core behind its lock.

use crate::{
    agreed::Agreed,
    api::HealthInfo,
    charters::Charters,
    claims::Claims,
    control::{Action, AtHand, Check, Control, Event, ReportSum},
    devices::Hearing,
    download::PieceCache,
    due::Due,
    error::{MetaError, NodeError},
    forks::Forks,
    freeing::Freeing,
    home::Home,
    links::LinkState,
    meta::Meta,
    protocol::{self, PoolReply, PoolRequest, ShardReply, ShardRequest},
    rails::Rails,
    space::OpenSpace,
    spaces::Spaces,
    turns::Turns,
    twin::Twin,
    watch::Watch,
};
use bytes::Bytes;
use futures::StreamExt;
use potluck_crypto::{SigningKey, UserKeys};
use potluck_net::{Address, Course, Endpoint, Protocol, RequestError};
use potluck_placement::View;
use potluck_spaces::FileId;
use potluck_store::Store;
use potluck_types::{
    ByteSize, Clock, Entropy, Hash, MachineName, NodeId, Region, ShardId, SpaceId, StripeId, Timestamp, UserId, Zone,
};
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, atomic::AtomicBool},
    time::Duration,
};
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::{Notify, Semaphore, mpsc},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How often members that are away are tried because a reader waits, how many of them, and how long they are waited for.
const REACH_INTERVAL: Duration = Duration::from_secs(30);
const REACHED_MAX: usize = 32;
const REACHED_AT_ONCE: usize = 16;
const REACH_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a node that kept a reader waiting is asked after others: about what a lost connection takes to be noticed.
const SUSPICION: Duration = Duration::from_secs(5);
/// How soon it is looked what a loss means.
const LOOK_DELAY: Duration = Duration::from_secs(5);

/// See the module.
pub(crate) struct Shared {
    pub(crate) node_key: SigningKey,
    /// Its person.
    pub(crate) user: UserId,
    /// All keys of theirs that this machine was given.
    pub(crate) user_keys: RwLock<Arc<UserKeys>>,
    /// What follows when somebody's key is replaced.
    pub(crate) hearing: Hearing,
    /// The spaces of this node's person.
    pub(crate) spaces: Spaces,
    /// Charters of spaces that are kept here.
    pub(crate) charters: Charters,
    pub(crate) endpoint: Endpoint,
    pub(crate) store: Store,
    pub(crate) meta: Arc<Meta>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) control: Mutex<Control>,
    /// To the driver, which applies what the core says.
    pub(crate) events: mpsc::UnboundedSender<Event>,
    /// Sealed bytes that writes may have under way.
    pub(crate) write_window: Arc<Semaphore>,
    /// What keeps a person from losing more than they meant to.
    pub(crate) rails: Rails,
    /// Whether another node runs with the same identity.
    pub(crate) twin: Twin,
    /// Stripes that uploads found stored already and have not named yet.
    pub(crate) claims: Claims<StripeId>,
    /// Shards of which is asked whether they may go.
    pub(crate) freeing: Freeing,
    /// Versions that uploads are writing.
    pub(crate) writing: Claims<FileId>,
    pub(crate) watch: Mutex<Watch>,
    pub(crate) cache: PieceCache,
    pub(crate) links: LinkState,
    /// Nodes that lately kept a reader waiting, and until when others are asked first.
    pub(crate) suspects: Mutex<BTreeMap<NodeId, Timestamp>>,
    /// When those that are away were tried last because a reader waited, and who was reached.
    pub(crate) reached: tokio::sync::Mutex<Option<(Timestamp, Vec<NodeId>)>>,
    /// Whose logs part here.
    pub(crate) forks: Forks,
    /// Whose turn it is to fetch of a log.
    pub(crate) fetching: Turns,
    /// Held while what the core knows is written down.
    pub(crate) saving: tokio::sync::Mutex<()>,
    /// Which stewards know what is held here, and how they see the pool.
    pub(crate) agreed_reports: Mutex<Agreed<(ReportSum, Hash)>>,
    /// Which keepers of logs know the same of them: the hash of what they were asked about.
    pub(crate) agreed_logs: Mutex<Agreed<Hash>>,
    /// Where this node listens.
    pub(crate) addresses: Mutex<Vec<Address>>,
    /// What it announces besides.
    pub(crate) announce: Vec<Address>,
    pub(crate) capacity: ByteSize,
    pub(crate) zone: Option<Zone>,
    pub(crate) region: Option<Region>,
    pub(crate) name: Option<MachineName>,
    pub(crate) leaving: AtomicBool,
    /// It ends its membership itself.
    pub(crate) parting: AtomicBool,
    /// Whoever connects is greeted, and says what this node lacks.
    pub(crate) greetings: TaskTracker,
    /// A member has given all its records since this node started.
    pub(crate) caught_up: AtomicBool,
    pub(crate) stopping: CancellationToken,
    /// This node was a member, and is none any more.
    pub(crate) taken_out: CancellationToken,
    pub(crate) started: tokio::time::Instant,
    /// What time it was then.
    pub(crate) started_at: Timestamp,
    /// When it is looked next whether all live stripes are there, and whether some should be coded anew.
    pub(crate) watch_due: Due,
    pub(crate) recode_due: Due,
    /// When notes are compared next with some member.
    pub(crate) catch_up_due: Due,
    /// When it is looked next whether all that is held here is used.
    pub(crate) sweep_due: Due,
    /// What this node says of itself has changed and was told.
    pub(crate) news: Notify,
    /// The core has handled something: it may want to be called at another time.
    pub(crate) handled: Notify,
    /// Its lock ends with the node.
    pub(crate) home: Home,
}

impl Shared {
    /// Others are asked first, for a while.
    pub(crate) fn suspect(&self, nodes: impl Iterator<Item = NodeId>) {
        let until = self.steady() + SUSPICION;
        self.suspects
            .lock()
            .expect("never poisoned")
            .extend(nodes.map(|node| (node, until)));
    }

    pub(crate) fn is_suspect(&self, node: NodeId) -> bool {
        let until = self.suspects.lock().expect("never poisoned").get(&node).copied();
        until.is_some_and(|until| self.steady() < until)
    }

    /// Tries to connect to members that are away, as a reader waits for what they may hold: it may be long until they are due to be dialled. Gives those that are
    /// reached. Many readers that wait at the same time try once, and while nobody comes, each waits once in a while only.
    pub(crate) async fn reach_out(&self) -> Vec<NodeId> {
        let mut reached = self.reached.lock().await;
        if let Some((at, nodes)) = &*reached
            && self.steady().since(*at) < REACH_INTERVAL
        {
            return nodes.clone();
        }
        // A reader that goes away meanwhile has tried.
        *reached = Some((self.steady(), Vec::new()));
        let absent = self.with_control(|control| control.absent(REACHED_MAX));
        let dial = |(node, addresses): (NodeId, Vec<String>)| async move {
            let addresses = addresses.iter().filter_map(|address| address.parse().ok()).collect();
            let connected = tokio::time::timeout(REACH_TIMEOUT, self.endpoint.connect(node, addresses)).await;
            matches!(connected, Ok(Ok(()))).then_some(node)
        };
        let dials = futures::stream::iter(absent)
            .map(dial)
            .buffer_unordered(REACHED_AT_ONCE);
        let came: Vec<_> = dials.filter_map(std::future::ready).collect().await;
        *reached = Some((self.steady(), came.clone()));
        came
    }

    /// The person's own space.
    pub(crate) fn private(self: &Arc<Self>) -> OpenSpace {
        OpenSpace::new(self, self.spaces.private())
    }

    /// A space, if this node has its key.
    pub(crate) fn open_space(self: &Arc<Self>, space: SpaceId) -> Option<OpenSpace> {
        self.spaces.opened(space).map(|opened| OpenSpace::new(self, &opened))
    }

    /// Those of them that its person may write to.
    pub(crate) fn written_spaces(self: &Arc<Self>) -> Vec<OpenSpace> {
        let mut spaces = self.open_spaces();
        spaces.retain(OpenSpace::may_write);
        spaces
    }

    /// All spaces that this node has the key of.
    pub(crate) fn open_spaces(self: &Arc<Self>) -> Vec<OpenSpace> {
        let opened = self.spaces.all_opened();
        opened.iter().map(|opened| OpenSpace::new(self, opened)).collect()
    }

    /// The keys of this node's person.
    pub(crate) fn keys(&self) -> Arc<UserKeys> {
        Arc::clone(&self.user_keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_keys(&self, keys: UserKeys) {
        *self.user_keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    /// Refuses what has to be signed with the person's key, where that was replaced and this machine was not given the next.
    pub(crate) fn refuse_old_key(&self) -> Result<(), NodeError> {
        let in_use = self.with_control(|control| control.roster.key(self.user));
        match self.keys().signing().public() == in_use {
            true => Ok(()),
            false => Err(NodeError::OldKey),
        }
    }

    pub(crate) fn me(&self) -> NodeId {
        self.endpoint.id()
    }

    /// The time of the day, for what others read. It may jump.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The time by which absences are counted and work is planned: it goes on from when this node started, whatever happens to its clock.
    pub(crate) fn steady(&self) -> Timestamp {
        self.started_at + self.started.elapsed()
    }

    /// Asks for a look soon: whether any files are missing, and whether some should be coded anew.
    pub(crate) fn look_within(&self, delay: Duration) {
        self.watch_due.within(delay);
        self.recode_due.within(delay);
    }

    /// Compares what a holder has with what it has reported, and tells the driver when that lets something begin.
    pub(crate) fn check(&self, holder: NodeId, sum: ReportSum, view: Hash) -> Check {
        let ((check, is_news), is_same) = self.with_control(|control| {
            let checked = control.check(holder, sum, view);
            (checked, view == control.view_digest())
        });
        if is_news {
            self.tell(Event::Tick);
        }
        if holder != self.me() {
            let mut agreed = self.agreed_reports();
            if agreed.get(holder).map_or(!is_same, |(_, seen)| *seen != view) {
                // It may have given up since what it looks after as this node sees the pool.
                agreed.forget(holder);
            }
            if check == Check::Agrees && !agreed.knows(holder) {
                self.tell(Event::Open);
            }
        }
        check
    }

    pub(crate) fn agreed_reports(&self) -> MutexGuard<'_, Agreed<(ReportSum, Hash)>> {
        self.agreed_reports.lock().expect("never poisoned")
    }

    pub(crate) fn agreed_logs(&self) -> MutexGuard<'_, Agreed<Hash>> {
        self.agreed_logs.lock().expect("never poisoned")
    }

    /// A peer greets: where this node has not noticed that it connected anew, it may know nothing any more of what it has agreed to.
    pub(crate) fn greeted_by(&self, peer: NodeId) {
        let forgotten = [self.agreed_logs().forget(peer), self.agreed_reports().forget(peer)];
        if forgotten.contains(&true) {
            self.tell(Event::Open);
        }
    }

    /// A report did not reach a steward, or it has another idea of what is held here: it is asked soon.
    pub(crate) fn tell_again(&self, steward: NodeId) {
        self.agreed_reports().forget(steward);
        self.tell(Event::Open);
    }

    /// Tells the core, through the driver. Never blocks: an event is small, and each stands for work that was bounded before.
    pub(crate) fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }

    /// Shards of this node were found damaged, and were dropped.
    pub(crate) fn lose(&self, damaged: Vec<ShardId>) {
        self.tell(Event::Damaged(damaged.len() as u64));
        self.tell(Event::Gone(damaged));
        self.watch.lock().expect("never poisoned").call();
        self.look_within(LOOK_DELAY);
    }

    pub(crate) fn with_control<R>(&self, look: impl FnOnce(&mut Control) -> R) -> R {
        look(&mut self.control.lock().expect("the core never panics"))
    }

    pub(crate) fn handle(&self, event: Event) -> Vec<Action> {
        let now = self.steady();
        let actions = self.with_control(|control| control.handle(now, event));
        self.handled.notify_one();
        actions
    }

    /// How the stripes are that this node looks after, and what it does about files.
    pub(crate) fn health(&self, now: Timestamp) -> HealthInfo {
        let known = self.with_control(|control| control.health(now));
        let watch = self.watch.lock().expect("never poisoned");
        let (lost, unreadable) = watch.counted();
        HealthInfo {
            lost,
            unreadable: known.unreadable + unreadable,
            // What was dropped as damaged is in nobody's report: until the next round it is not known whether any stripe went with it.
            gathering: known.gathering.max(u64::from(known.damaged > 0 && watch.is_due())),
            recoding: self.left_to_recode(),
            ..known
        }
    }

    /// Files of this person that are still to be coded anew.
    fn left_to_recode(&self) -> u64 {
        let spaces = self.spaces.all_opened();
        let left = spaces
            .iter()
            .map(|space| space.recoding.lock().expect("never poisoned").left);
        left.sum()
    }

    /// The failure domains that new data is coded for this moment: that of a space, or any.
    pub(crate) fn at_hand(&self, space: Option<SpaceId>) -> AtHand {
        let now = self.steady();
        self.with_control(|control| control.at_hand(space, now))
    }

    /// The pool as it is this moment for the data of a space.
    pub(crate) fn present_view_for(&self, space: SpaceId) -> View {
        let now = self.steady();
        self.with_control(|control| control.present_view_for(space, now))
    }

    pub(crate) fn present_view(&self) -> View {
        let now = self.steady();
        self.with_control(|control| control.present_view(now))
    }

    /// Asks a member something.
    pub(crate) async fn ask(&self, node: NodeId, request: &PoolRequest) -> Result<PoolReply, AskError> {
        let request = protocol::encode(request);
        let asked = self.endpoint.request(node, Protocol::Pool, &request).await;
        let reply = self.heard(node, asked).await?;
        match protocol::decode(&reply).map_err(|error| AskError::Nonsense(error.to_string()))? {
            PoolReply::Failed(reason) => Err(AskError::Refused(reason)),
            reply => Ok(reply),
        }
    }

    /// Asks a member about a shard.
    pub(crate) async fn ask_shard(
        &self,
        node: NodeId,
        request: &ShardRequest,
        body: Bytes,
        course: &Course,
    ) -> Result<(ShardReply, Bytes), AskError> {
        let request = protocol::encode_with(request, body);
        let asked = self
            .endpoint
            .request_watched(node, Protocol::Shard, &request, course)
            .await;
        let reply = self.heard(node, asked).await?;
        match protocol::decode(&reply).map_err(|error| AskError::Nonsense(error.to_string()))? {
            ShardReply::Failed(reason) => Err(AskError::Refused(reason)),
            answer => Ok((answer, reply.body)),
        }
    }

    /// One that is silent is not here, whatever its sockets say, and nobody else should wait for it; one that is here after all comes back at once.
    async fn heard<R>(&self, node: NodeId, outcome: Result<R, RequestError>) -> Result<R, AskError> {
        let outcome = outcome.map_err(AskError::from);
        if outcome.as_ref().is_err_and(AskError::is_silence) {
            self.endpoint.disconnect(node).await;
        }
        outcome
    }

    /// Runs work that computes or waits for a disk off the async threads; where there is but one thread, as in a simulation, on that.
    pub(crate) async fn blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
        if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
            tokio::task::yield_now().await;
            return work();
        }
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// What the disk has room for yet is kept for removals.
    pub(crate) fn refuse_when_full(&self) -> Result<(), NodeError> {
        if self.meta.has_room() {
            return Ok(());
        }
        let home = self.home.path().to_owned();
        Err(NodeError::DiskFull { home })
    }

    /// Reads the tables of spaces.
    pub(crate) fn read(&self) -> Result<crate::meta::ReadKv, MetaError> {
        self.meta.read()
    }
}

/// Why a member gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("it answered: {0}")]
    Refused(String),
    #[error("its answer makes no sense: {0}")]
    Nonsense(String),
}

impl AskError {
    /// Whether the member neither answered nor refused.
    fn is_silence(&self) -> bool {
        matches!(self, Self::Request(RequestError::Io(error)) if error.kind() == io::ErrorKind::TimedOut)
    }
}
