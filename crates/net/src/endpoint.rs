//! The handle that the node holds on the network. It is the same over libp2p and in memory: a backend opens
//! streams and reports events; requests, their limits and the reuse of streams are here.

use crate::{
    Address,
    bulk::Bulk,
    course::{Course, Watched},
    routes::Reach,
    serve::{Incoming, Stream},
    window::Window,
    wire::{self, Message, Protocol, Status},
};
use bytes::Bytes;
use potluck_types::{
    NodeId, limits,
    sabotage::{self, Bug},
};
use std::{
    collections::{BTreeSet, HashMap},
    fmt, io,
    net::IpAddr,
    sync::{Arc, Mutex, OnceLock, RwLock},
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// How long an answer may take to begin: a disk may have to wake up, and to sync. A process that is stopped looks the same from outside.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a goodbye may take.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// What the network tells the node.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A node is reachable now; its key is proved.
    Connected(NodeId),
    /// The last connection to a node is gone.
    Disconnected(NodeId),
    /// We can be reached here.
    Listening(Address),
    /// A node may be reachable there: seen on the local network, or told by the node itself.
    Discovered(NodeId, Address),
    /// A member published this to the pool.
    Gossip {
        /// Who signed the message (not who passed it on).
        author: NodeId,
        /// What it says.
        data: Bytes,
    },
}

/// Why a node is not connected.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nobody answers at these addresses, or somebody else does.
    #[error("cannot reach node {node}: {reason}")]
    Unreachable {
        /// The node's short id.
        node: String,
        /// What the transports say.
        reason: String,
    },
    /// The endpoint is closed.
    #[error("the network is shut down")]
    Closed,
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// There is no connection to the node.
    #[error("not connected")]
    NotConnected,
    /// The node does not speak the protocol.
    #[error("the node does not speak {0}")]
    Unsupported(&'static str),
    /// The node does not count us among its pool's members.
    #[error("the node does not know us as a member of its pool")]
    NotAMember,
    /// The node gave no answer to this request.
    #[error("the node did not answer this request")]
    Unanswered,
    /// The stream broke or stalled.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

/// Why a stream cannot be opened.
#[derive(Debug)]
pub(crate) enum OpenError {
    NotConnected,
    Unsupported,
    Io(io::Error),
}

pub(crate) type BoxStream = Box<dyn Stream>;

/// What the handle asks of its backend.
pub(crate) enum Command {
    Connect {
        node: NodeId,
        addresses: Vec<Address>,
        done: oneshot::Sender<Result<(), ConnectError>>,
    },
    Disconnect(NodeId),
    /// Say goodbye to all; then nothing more.
    Close {
        done: oneshot::Sender<()>,
    },
    Open {
        node: NodeId,
        protocol: Protocol,
        done: oneshot::Sender<Result<BoxStream, OpenError>>,
    },
    Subscribe(String),
    Publish(Bytes),
}

/// What handle, backend and serving tasks share.
#[derive(Default)]
pub(crate) struct Shared {
    members: RwLock<BTreeSet<NodeId>>,
    budgets: Mutex<HashMap<NodeId, Arc<Semaphore>>>,
    streams: Mutex<HashMap<(NodeId, Protocol), Arc<Streams>>>,
    hosts: Mutex<HashMap<NodeId, IpAddr>>,
    /// Of those that are reached by a relay alone, which it is, where that is known.
    relays: Mutex<HashMap<NodeId, Option<NodeId>>>,
    bulk: OnceLock<Bulk>,
}

/// The streams to one peer by one protocol: places for those in use, and those that wait for the next request. There are
/// never more of the latter than there were places.
struct Streams {
    window: Arc<Window>,
    /// Of all requests together.
    course: Course,
    idle: Mutex<Vec<BoxStream>>,
}

impl Shared {
    pub(crate) fn set_members(&self, mut members: BTreeSet<NodeId>) {
        let mut current = self.members.write().expect("never poisoned");
        if sabotage::is_planted(Bug::ServeTakenOut) {
            members.extend(&*current);
        }
        *current = members;
    }

    pub(crate) fn is_member(&self, node: NodeId) -> bool {
        self.members.read().expect("never poisoned").contains(&node)
    }

    /// Whether there is a member of which this is so.
    pub(crate) fn is_any_member(&self, is_so: impl FnMut(NodeId) -> bool) -> bool {
        self.members.read().expect("never poisoned").iter().copied().any(is_so)
    }

    pub(crate) fn member_count(&self) -> usize {
        self.members.read().expect("never poisoned").len()
    }

    /// Waits until the peer's messages in our memory leave room for another `bytes`.
    pub(crate) async fn budget(&self, peer: NodeId, bytes: usize) -> OwnedSemaphorePermit {
        let budget = {
            let mut budgets = self.budgets.lock().expect("never poisoned");
            let new = || Arc::new(Semaphore::new(limits::PEER_BYTES_IN_FLIGHT_MAX));
            Arc::clone(budgets.entry(peer).or_insert_with(new))
        };
        let bytes = u32::try_from(bytes).expect("messages are limited to less");
        budget.acquire_many_owned(bytes).await.expect("never closed")
    }

    /// Where a peer is connected from or to, directly.
    pub(crate) fn set_host(&self, peer: NodeId, host: IpAddr) {
        self.hosts.lock().expect("never poisoned").insert(peer, host);
    }

    /// There is no direct way to a peer any more.
    pub(crate) fn forget_host(&self, peer: NodeId) {
        self.hosts.lock().expect("never poisoned").remove(&peer);
        if let Some(bulk) = self.bulk() {
            bulk.forget(peer);
        }
    }

    /// How a peer is reached now.
    pub(crate) fn set_relay(&self, peer: NodeId, reach: Reach) {
        let mut relays = self.relays.lock().expect("never poisoned");
        match reach {
            Reach::Relayed(by) => relays.insert(peer, by),
            Reach::Direct | Reach::Gone => relays.remove(&peer),
        };
    }

    /// The lane for shards, if this node has one.
    pub(crate) fn bulk(&self) -> Option<&Bulk> {
        self.bulk.get()
    }

    pub(crate) fn set_bulk(&self, bulk: Bulk) {
        let _ = self.bulk.set(bulk);
    }

    fn streams(&self, peer: NodeId, protocol: Protocol) -> Arc<Streams> {
        let new = || {
            Arc::new(Streams {
                window: Arc::new(match protocol {
                    Protocol::Shard => Window::of_requests(protocol.requests_max()),
                    _ => Window::fixed(protocol.requests_max()),
                }),
                course: Course::default(),
                idle: Mutex::default(),
            })
        };
        Arc::clone(
            self.streams
                .lock()
                .expect("never poisoned")
                .entry((peer, protocol))
                .or_insert_with(new),
        )
    }

    /// Keeps no streams to a peer: those in use end with their requests.
    pub(crate) fn forget_streams(&self, peer: NodeId) {
        self.streams
            .lock()
            .expect("never poisoned")
            .retain(|(node, _), _| *node != peer);
    }

    /// Forgets all that belonged to a peer that is gone. What it still has in memory keeps its own permit.
    pub(crate) fn forget(&self, peer: NodeId) {
        self.forget_streams(peer);
        self.budgets.lock().expect("never poisoned").remove(&peer);
        self.forget_host(peer);
    }
}

/// The node's end of the network. Cheap to clone; the network runs until the last clone is dropped.
#[derive(Clone)]
pub struct Endpoint {
    id: NodeId,
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

/// What comes in: requests to answer, and events. Both are bounded: a node that does not read slows its peers.
pub struct Inbox {
    /// Requests of peers.
    pub requests: mpsc::Receiver<Incoming>,
    /// What happens on the network.
    pub events: mpsc::Receiver<Event>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

impl Endpoint {
    pub(crate) fn new(id: NodeId, commands: mpsc::Sender<Command>, shared: Arc<Shared>) -> Self {
        Self { id, commands, shared }
    }

    /// Who we are.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Says who belongs to the pool. All others reach [`Protocol::Join`] only, and their gossip is dropped.
    pub fn set_members(&self, members: BTreeSet<NodeId>) {
        self.shared.set_members(members);
    }

    /// Takes part in the gossip of a pool.
    pub async fn subscribe(&self, topic: String) {
        let _ = self.commands.send(Command::Subscribe(topic)).await;
    }

    /// Tells all members. Best effort: a member that is away learns it in another way.
    pub async fn publish(&self, data: Bytes) {
        let _ = self.commands.send(Command::Publish(data)).await;
    }

    /// Connects to a node, at these addresses and at those that are known of it. Returns at once when connected.
    pub async fn connect(&self, node: NodeId, addresses: Vec<Address>) -> Result<(), ConnectError> {
        let (done, outcome) = oneshot::channel();
        self.commands
            .send(Command::Connect { node, addresses, done })
            .await
            .map_err(|_| ConnectError::Closed)?;
        outcome.await.map_err(|_| ConnectError::Closed)?
    }

    /// Whether a node is reached by a relay alone; and which that is, if it is known.
    pub fn relay_of(&self, node: NodeId) -> Option<Option<NodeId>> {
        self.shared.relays.lock().expect("never poisoned").get(&node).copied()
    }

    /// Closes all connections to a node.
    pub async fn disconnect(&self, node: NodeId) {
        let _ = self.commands.send(Command::Disconnect(node)).await;
    }

    /// Closes all connections, and waits a moment until those at their other ends know. They would notice by themselves, later.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        let closing = async {
            if self.commands.send(Command::Close { done }).await.is_ok() {
                let _ = closed.await;
            }
        };
        let _ = tokio::time::timeout(2 * CLOSE_TIMEOUT, closing).await;
    }

    /// Sends a request to a connected node and waits for the answer.
    ///
    /// A request may arrive twice (a kept stream that breaks is replaced once): requests are idempotent.
    pub async fn request(&self, node: NodeId, protocol: Protocol, message: &Message) -> Result<Message, RequestError> {
        self.request_watched(node, protocol, message, &Course::default()).await
    }

    /// Does as [`Endpoint::request`] does, and tells meanwhile whether it gets on.
    pub async fn request_watched(
        &self,
        node: NodeId,
        protocol: Protocol,
        message: &Message,
        course: &Course,
    ) -> Result<Message, RequestError> {
        let streams = self.shared.streams(node, protocol);
        let place = streams.window.place().await;
        let courses = [course, &streams.course];
        courses.into_iter().for_each(Course::moved);
        loop {
            let kept = streams.idle.lock().expect("never poisoned").pop();
            let is_new = kept.is_none();
            let mut stream = match kept {
                Some(stream) => stream,
                None => match self.open_lane(node, protocol).await {
                    Some(lane) => lane,
                    None => self.open(node, protocol).await?,
                },
            };
            let mut watched = Watched {
                stream: &mut stream,
                courses,
            };
            let (status, answer) = match exchange(&mut watched, protocol, message).await {
                Ok(answer) => answer,
                // The peer closed it while it was idle: another one will do.
                Err(error) if !is_new && error.kind() != io::ErrorKind::TimedOut => continue,
                Err(error) => return Err(error.into()),
            };
            // Before the place is free, so that who gets it finds the stream.
            if status == Status::Ok {
                streams.idle.lock().expect("never poisoned").push(stream);
            }
            place.done();
            return match status {
                Status::Ok => Ok(answer),
                Status::NotAMember => Err(RequestError::NotAMember),
                Status::Unanswered => Err(RequestError::Unanswered),
            };
        }
    }

    /// How long nothing has moved of all requests to a node by this protocol, those that have their turn.
    pub fn quiet(&self, node: NodeId, protocol: Protocol) -> Duration {
        self.shared.streams(node, protocol).course.quiet().unwrap_or_default()
    }

    /// A connection of its own for shards, where there is a way.
    async fn open_lane(&self, node: NodeId, protocol: Protocol) -> Option<BoxStream> {
        let bulk = self.shared.bulk().filter(|_| protocol == Protocol::Shard)?;
        let host = *self.shared.hosts.lock().expect("never poisoned").get(&node)?;
        let ask = async || {
            let question = Message::default();
            // Boxed, as it is this very function that asks.
            let answer = Box::pin(self.request(node, Protocol::Lane, &question)).await;
            Some(answer.ok()?.header.to_vec())
        };
        bulk.open(node, host, ask).await
    }

    async fn open(&self, node: NodeId, protocol: Protocol) -> Result<BoxStream, RequestError> {
        let (done, opened) = oneshot::channel();
        let command = Command::Open { node, protocol, done };
        self.commands
            .send(command)
            .await
            .map_err(|_| RequestError::NotConnected)?;
        opened
            .await
            .map_err(|_| RequestError::NotConnected)?
            .map_err(|error| match error {
                OpenError::NotConnected => RequestError::NotConnected,
                OpenError::Unsupported => RequestError::Unsupported(protocol.name()),
                OpenError::Io(error) => RequestError::Io(error),
            })
    }
}

async fn exchange<S: Stream>(stream: &mut S, protocol: Protocol, message: &Message) -> io::Result<(Status, Message)> {
    debug_assert!(message.len() <= limits::MESSAGE_BYTES_MAX + limits::SHARD_BYTES_MAX);
    wire::write(stream, Status::Ok, message).await?;
    let preamble = wire::read_preamble(stream, protocol, wire::Way::Reply, ANSWER_TIMEOUT).await?;
    let preamble = preamble.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    let answer = wire::read_rest(stream, &preamble).await?;
    Ok((preamble.status, answer))
}
