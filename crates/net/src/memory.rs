//! The twin: endpoints of one process, joined by in-memory pipes. The same requests, limits and membership
//! checks as over libp2p; links can be cut and healed, and what is under way has its own weather.

mod pipe;
mod weather;

pub use weather::Weather;

use crate::{
    endpoint::{Command, ConnectError, Endpoint, Event, Inbox, OpenError, Shared},
    serve::{self, Incoming},
};
use bytes::Bytes;
use pipe::pipe;
use potluck_types::{NodeId, limits};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::mpsc;
use weather::Clear;

const COMMANDS_MAX: usize = 256;
const EVENTS_MAX: usize = 4096;

struct Port {
    /// Tells a node that came back from the one that it was before.
    number: u64,
    events: mpsc::Sender<Event>,
    requests: mpsc::Sender<Incoming>,
    shared: Arc<Shared>,
    topic: Option<String>,
}

struct Hub {
    weather: Arc<dyn Weather>,
    ports: BTreeMap<NodeId, Port>,
    joined: u64,
    links: BTreeSet<(NodeId, NodeId)>,
    cut: BTreeSet<(NodeId, NodeId)>,
    streams: Vec<(NodeId, NodeId, tokio::task::AbortHandle)>,
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}

impl Hub {
    fn is_there(&self, node: NodeId, number: u64) -> bool {
        self.ports.get(&node).is_some_and(|port| port.number == number)
    }

    fn leave(&mut self, node: NodeId) {
        self.ports.remove(&node);
        let of = |(a, b): &&(NodeId, NodeId)| *a == node || *b == node;
        for (a, b) in self.links.iter().filter(of).copied().collect::<Vec<_>>() {
            self.unlink(a, b);
        }
    }

    fn link(&mut self, from: NodeId, number: u64, to: NodeId) -> Result<(), ConnectError> {
        if !self.is_there(from, number) {
            return Err(ConnectError::Closed);
        }
        if self.links.contains(&pair(from, to)) {
            return Ok(());
        }
        if !self.ports.contains_key(&to) || self.cut.contains(&pair(from, to)) {
            return Err(unreachable_node(to, "the link is cut"));
        }
        self.links.insert(pair(from, to));
        self.tell(from, Event::Connected(to));
        self.tell(to, Event::Connected(from));
        Ok(())
    }

    fn tell(&self, node: NodeId, event: Event) {
        if let Some(port) = self.ports.get(&node)
            && port.events.try_send(event).is_err()
        {
            tracing::debug!(node = %node.short(), "an event is lost: the node is gone or does not read");
        }
    }

    fn unlink(&mut self, a: NodeId, b: NodeId) {
        if !self.links.remove(&pair(a, b)) {
            return;
        }
        self.streams.retain(|(x, y, task)| {
            let stays = pair(*x, *y) != pair(a, b);
            if !stays {
                task.abort();
            }
            stays && !task.is_finished()
        });
        for (node, peer) in [(a, b), (b, a)] {
            if let Some(port) = self.ports.get(&node) {
                port.shared.forget(peer);
            }
            self.tell(node, Event::Disconnected(peer));
        }
    }
}

/// A network of one process.
#[derive(Clone)]
pub struct MemoryNetwork(Arc<Mutex<Hub>>);

impl Default for MemoryNetwork {
    fn default() -> Self {
        Self::with_weather(Arc::new(Clear))
    }
}

impl fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryNetwork").finish_non_exhaustive()
    }
}

impl MemoryNetwork {
    /// One on which this happens to what is under way.
    pub fn with_weather(weather: Arc<dyn Weather>) -> Self {
        Self(Arc::new(Mutex::new(Hub {
            weather,
            ports: BTreeMap::new(),
            joined: 0,
            links: BTreeSet::new(),
            cut: BTreeSet::new(),
            streams: Vec::new(),
        })))
    }

    /// Adds a node; one of the same key that is there already is cut off.
    pub fn join(&self, id: NodeId) -> (Endpoint, Inbox) {
        let (commands_sender, commands) = mpsc::channel(COMMANDS_MAX);
        let (events, events_receiver) = mpsc::channel(EVENTS_MAX);
        let (requests, requests_receiver) = mpsc::channel(COMMANDS_MAX);
        let shared = Arc::new(Shared::default());
        let number = {
            let mut hub = self.lock();
            hub.leave(id);
            hub.joined += 1;
            let port = Port {
                number: hub.joined,
                events,
                requests,
                shared: Arc::clone(&shared),
                topic: None,
            };
            hub.ports.insert(id, port);
            hub.joined
        };
        tokio::spawn(self.clone().drive(id, number, commands));
        (
            Endpoint::new(id, commands_sender, shared),
            Inbox {
                requests: requests_receiver,
                events: events_receiver,
            },
        )
    }

    /// Takes a node off the network without a goodbye, as when its process is killed: those connected to it notice at once.
    pub fn kill(&self, id: NodeId) {
        self.lock().leave(id);
    }

    /// Breaks the link between two nodes, as when neither hears the other for too long.
    pub fn unlink(&self, a: NodeId, b: NodeId) {
        self.lock().unlink(a, b);
    }

    /// Cuts or heals the link between two nodes.
    pub fn set_cut(&self, a: NodeId, b: NodeId, cut: bool) {
        let mut hub = self.lock();
        if cut {
            hub.cut.insert(pair(a, b));
            hub.unlink(a, b);
        } else {
            hub.cut.remove(&pair(a, b));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Hub> {
        self.0.lock().expect("never poisoned")
    }

    async fn drive(self, id: NodeId, number: u64, mut commands: mpsc::Receiver<Command>) {
        let mut goodbye = None;
        while let Some(command) = commands.recv().await {
            if let Command::Close { done } = command {
                goodbye = Some(done);
                break;
            }
            self.on_command(id, number, command);
        }
        let mut hub = self.lock();
        if hub.is_there(id, number) {
            hub.leave(id);
        }
        if let Some(done) = goodbye {
            let _ = done.send(());
        }
    }

    fn on_command(&self, id: NodeId, number: u64, command: Command) {
        let mut hub = self.lock();
        let is_there = hub.is_there(id, number);
        match command {
            Command::Connect { node, done, .. } => {
                let way = [hub.weather.delay(id, node, 0), hub.weather.delay(node, id, 0)];
                let (network, round_trip) = (self.clone(), way[0].zip(way[1]).map(|(there, back)| there + back));
                if round_trip == Some(Duration::ZERO) {
                    let _ = done.send(hub.link(id, number, node));
                    return;
                }
                tokio::spawn(async move {
                    tokio::time::sleep(round_trip.unwrap_or(limits::DIAL_TIMEOUT)).await;
                    let outcome = match round_trip {
                        Some(_) => network.lock().link(id, number, node),
                        None => Err(unreachable_node(node, "nothing gets through")),
                    };
                    let _ = done.send(outcome);
                });
            }
            Command::Disconnect(node) if is_there => hub.unlink(id, node),
            Command::Close { .. } => unreachable!("taken by the loop"),
            Command::Open { node, protocol, done } => {
                let port = hub
                    .ports
                    .get(&node)
                    .filter(|_| is_there && hub.links.contains(&pair(id, node)));
                let Some(port) = port else {
                    let _ = done.send(Err(OpenError::NotConnected));
                    return;
                };
                let (ours, theirs) = pipe(id, node, &hub.weather);
                let server = serve::serve(theirs, id, protocol, Arc::clone(&port.shared), port.requests.clone());
                let task = tokio::spawn(server).abort_handle();
                hub.streams.retain(|(_, _, task)| !task.is_finished());
                hub.streams.push((id, node, task));
                let _ = done.send(Ok(Box::new(ours)));
            }
            Command::Subscribe(topic) => {
                if let Some(port) = hub.ports.get_mut(&id).filter(|_| is_there) {
                    port.topic = Some(topic);
                }
            }
            Command::Publish(data) if is_there => self.spread(&hub, id, &data),
            Command::Disconnect(_) | Command::Publish(_) => {}
        }
    }

    /// Gossip goes from node to node, each link its own way.
    fn spread(&self, hub: &Hub, author: NodeId, data: &Bytes) {
        let topic = hub.ports.get(&author).and_then(|port| port.topic.clone());
        let (mut reached, mut front) = (BTreeSet::from([author]), vec![(author, Duration::ZERO)]);
        while let Some((from, after)) = front.pop() {
            for (node, port) in &hub.ports {
                let is_next = hub.links.contains(&pair(from, *node)) && port.topic == topic && topic.is_some();
                if !is_next || !port.shared.is_member(author) || reached.contains(node) {
                    continue;
                }
                for delay in hub.weather.gossip(from, *node, data.len()) {
                    if reached.insert(*node) {
                        front.insert(0, (*node, after + delay));
                    }
                    self.deliver(hub, author, *node, data, after + delay);
                }
            }
        }
    }

    fn deliver(&self, hub: &Hub, author: NodeId, to: NodeId, data: &Bytes, after: Duration) {
        let event = Event::Gossip {
            author,
            data: data.clone(),
        };
        if after.is_zero() {
            hub.tell(to, event);
            return;
        }
        let network = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            network.lock().tell(to, event);
        });
    }
}

fn unreachable_node(node: NodeId, reason: &str) -> ConnectError {
    ConnectError::Unreachable {
        node: node.short(),
        reason: reason.to_owned(),
    }
}
