//! The twin: endpoints of one process, joined by in-memory pipes. The same requests, limits and membership
//! checks as over libp2p; links can be cut and healed by the test.

use crate::{
    endpoint::{Command, ConnectError, Endpoint, Event, Inbox, OpenError, Shared},
    serve::{self, Incoming},
};
use potluck_types::NodeId;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex},
};
use tokio::sync::mpsc;
use tokio_util::compat::TokioAsyncReadCompatExt;

/// Bytes under way in one direction of a pipe.
const PIPE_BYTES: usize = 256 << 10;
const COMMANDS_MAX: usize = 256;
const EVENTS_MAX: usize = 4096;

struct Port {
    events: mpsc::Sender<Event>,
    requests: mpsc::Sender<Incoming>,
    shared: Arc<Shared>,
    topic: Option<String>,
}

#[derive(Default)]
struct Hub {
    ports: BTreeMap<NodeId, Port>,
    links: BTreeSet<(NodeId, NodeId)>,
    cut: BTreeSet<(NodeId, NodeId)>,
    streams: Vec<(NodeId, NodeId, tokio::task::AbortHandle)>,
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}

impl Hub {
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
#[derive(Clone, Default)]
pub struct MemoryNetwork(Arc<Mutex<Hub>>);

impl fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryNetwork").finish_non_exhaustive()
    }
}

impl MemoryNetwork {
    /// Adds a node.
    pub fn join(&self, id: NodeId) -> (Endpoint, Inbox) {
        let (commands_sender, commands) = mpsc::channel(COMMANDS_MAX);
        let (events, events_receiver) = mpsc::channel(EVENTS_MAX);
        let (requests, requests_receiver) = mpsc::channel(COMMANDS_MAX);
        let shared = Arc::new(Shared::default());
        let port = Port {
            events,
            requests,
            shared: Arc::clone(&shared),
            topic: None,
        };
        self.lock().ports.insert(id, port);
        tokio::spawn(self.clone().drive(id, commands));
        (
            Endpoint::new(id, commands_sender, shared),
            Inbox {
                requests: requests_receiver,
                events: events_receiver,
            },
        )
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

    async fn drive(self, id: NodeId, mut commands: mpsc::Receiver<Command>) {
        let mut goodbye = None;
        while let Some(command) = commands.recv().await {
            if let Command::Close { done } = command {
                goodbye = Some(done);
                break;
            }
            self.on_command(id, command);
        }
        let mut hub = self.lock();
        hub.ports.remove(&id);
        let peers: Vec<_> = hub
            .links
            .iter()
            .filter(|(a, b)| *a == id || *b == id)
            .copied()
            .collect();
        for (a, b) in peers {
            hub.unlink(a, b);
        }
        if let Some(done) = goodbye {
            let _ = done.send(());
        }
    }

    fn on_command(&self, id: NodeId, command: Command) {
        let mut hub = self.lock();
        match command {
            Command::Connect { node, done, .. } => {
                let _ = done.send(Self::link(&mut hub, id, node));
            }
            Command::Disconnect(node) => hub.unlink(id, node),
            Command::Close { .. } => unreachable!("taken by the loop"),
            Command::Open { node, protocol, done } => {
                let port = hub.ports.get(&node).filter(|_| hub.links.contains(&pair(id, node)));
                let Some(port) = port else {
                    let _ = done.send(Err(OpenError::NotConnected));
                    return;
                };
                let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
                let server = serve::serve(
                    theirs.compat(),
                    id,
                    protocol,
                    Arc::clone(&port.shared),
                    port.requests.clone(),
                );
                let task = tokio::spawn(server).abort_handle();
                hub.streams.retain(|(_, _, task)| !task.is_finished());
                hub.streams.push((id, node, task));
                let _ = done.send(Ok(Box::new(ours.compat())));
            }
            Command::Subscribe(topic) => {
                if let Some(port) = hub.ports.get_mut(&id) {
                    port.topic = Some(topic);
                }
            }
            Command::Publish(data) => {
                let topic = hub.ports.get(&id).and_then(|port| port.topic.clone());
                for (node, port) in &hub.ports {
                    let reached = hub.links.contains(&pair(id, *node)) && port.topic == topic && topic.is_some();
                    if reached && port.shared.is_member(id) {
                        hub.tell(
                            *node,
                            Event::Gossip {
                                author: id,
                                data: data.clone(),
                            },
                        );
                    }
                }
            }
        }
    }

    fn link(hub: &mut Hub, from: NodeId, to: NodeId) -> Result<(), ConnectError> {
        if hub.links.contains(&pair(from, to)) {
            return Ok(());
        }
        if !hub.ports.contains_key(&to) || hub.cut.contains(&pair(from, to)) {
            return Err(ConnectError::Unreachable {
                node: to.short(),
                reason: "the link is cut".to_owned(),
            });
        }
        hub.links.insert(pair(from, to));
        hub.tell(from, Event::Connected(to));
        hub.tell(to, Event::Connected(from));
        Ok(())
    }
}
