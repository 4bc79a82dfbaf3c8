//! The libp2p swarm, and the task that drives it: takes commands of the endpoint, reports events.

use crate::{
    Address, Listen,
    address::{is_tcp, node_id, peer_id},
    bulk,
    dials::{Dials, Next, Stage},
    endpoint::{CLOSE_TIMEOUT, Command, ConnectError, Endpoint, Event, Inbox, Shared},
    pulse,
    routes::{Reach, Routes, is_public, is_relayed},
    serve::{self, Incoming},
    substreams::{self, Inbound, Placed},
};
use bytes::Bytes;
use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, connection_limits, dcutr, gossipsub, identify, kad, mdns,
    memory_connection_limits, ping, relay,
    swarm::{
        ConnectionId, DialError, FromSwarm, NetworkBehaviour, NewExternalAddrCandidate, SwarmEvent,
        behaviour::toggle::Toggle,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use potluck_crypto::SigningKey;
use potluck_types::{NodeId, limits};
use std::{
    collections::{BTreeSet, HashMap},
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

/// Commands that wait for the swarm's task; their senders wait, too.
const COMMANDS_MAX: usize = 256;
/// Events that wait for the node. A node that falls further behind stops the network until it catches up.
const EVENTS_MAX: usize = 1024;
/// Requests that wait for the node.
const REQUESTS_MAX: usize = 256;
/// A gossip message: a signed record and its envelope.
const GOSSIP_BYTES_MAX: usize = 64 << 10;
/// How long one who is no member may stay connected: long enough to join.
const STRANGER_TIMEOUT: Duration = Duration::from_secs(30);
/// When other addresses are tried beside TCP: a handshake half around the world takes less.
const WIDEN_DELAY: Duration = Duration::from_millis(700);
/// When relays are tried, too: a direct way that takes longer to find is found while one of theirs is used.
const RELAY_DELAY: Duration = Duration::from_millis(1500);
/// How long a relay carries one connection: the two then have to make a new one.
const CIRCUIT_DURATION: Duration = Duration::from_secs(24 * 3600);
/// How many connections a member may have made by a relay one after the other, and how long until it may have one more.
const CIRCUIT_BURST: NonZeroU32 = NonZeroU32::new(256).expect("not zero");
const CIRCUIT_INTERVAL: Duration = Duration::from_secs(1);
/// How often strangers are looked for, and relays.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(10);
/// How often the routing table is filled up: the pool's records say where members are, and it is asked only about one that is not there.
const ROUTING_INTERVAL: Duration = Duration::from_secs(6 * 3600);
/// Connections are kept while unused: a pool's members need each other at any moment.
const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// New connections are refused while the process uses more than this share of the machine's memory.
const MEMORY_SHARE_MAX: f64 = 0.8;

/// What the overlay needs to know.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Where to listen.
    pub listen: Vec<Listen>,
    /// Whether to announce ourselves on the local network, and to look for others there.
    pub mdns: bool,
    /// Whether to carry what members say to each other that cannot reach each other.
    pub relay: bool,
}

/// Why the network does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Another program listens there, or the address is not ours.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// What was asked for.
        address: Listen,
        /// What the operating system says.
        reason: String,
    },
    /// The overlay refuses its configuration, or the operating system a socket.
    #[error("cannot start the network: {reason}")]
    Setup {
        /// What it says.
        reason: String,
    },
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    limits: connection_limits::Behaviour,
    memory: memory_connection_limits::Behaviour,
    substreams: substreams::Behaviour,
    identify: identify::Behaviour,
    pulse: pulse::Behaviour,
    kademlia: kad::Behaviour<kad::store::MemoryStore>,
    gossipsub: gossipsub::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
    relay: relay::Behaviour,
    relayed: relay::client::Behaviour,
    punch: dcutr::Behaviour,
}

fn setup(error: impl std::fmt::Display) -> StartError {
    StartError::Setup {
        reason: error.to_string(),
    }
}

/// Starts the network on the current tokio runtime. Listens before it returns.
pub async fn start(key: &SigningKey, config: &NetworkConfig) -> Result<(Endpoint, Inbox), StartError> {
    let keypair = libp2p::identity::Keypair::ed25519_from_bytes(*key.seed()).map_err(setup)?;
    let lane = bulk::listen(&config.listen, &keypair).await;
    let (inbound_sender, inbound) = mpsc::unbounded_channel();
    let (with_mdns, with_relay) = (config.mdns, config.relay);
    let shared = Arc::new(Shared::default());
    let mut swarm = libp2p::SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(
            libp2p::tcp::Config::default().nodelay(true),
            libp2p::tls::Config::new,
            libp2p::yamux::Config::default,
        )
        .map_err(setup)?
        .with_quic()
        .with_relay_client(libp2p::tls::Config::new, libp2p::yamux::Config::default)
        .map_err(setup)?
        .with_behaviour(|keypair, relayed| {
            let mut made = behaviour(keypair, inbound_sender, with_mdns, relayed, Arc::clone(&shared))?;
            let status = if with_relay {
                relay::Status::Enable
            } else {
                relay::Status::Disable
            };
            made.relay.set_status(Some(status));
            Ok(made)
        })
        .map_err(setup)?
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE_CONNECTION_TIMEOUT))
        .build();
    for address in &config.listen {
        // libp2p shares ports, so that it can dial from them; two nodes must not.
        if address.0.port() != 0
            && let Err(error) = std::net::TcpListener::bind(address.0)
        {
            return Err(StartError::Listen {
                address: *address,
                reason: error.to_string(),
            });
        }
        for multiaddr in address.multiaddrs() {
            let reason = |error: &dyn std::fmt::Display| StartError::Listen {
                address: *address,
                reason: error.to_string(),
            };
            swarm.listen_on(multiaddr).map_err(|error| reason(&error))?;
        }
    }
    let (commands_sender, commands) = mpsc::channel(COMMANDS_MAX);
    let (events, events_receiver) = mpsc::channel(EVENTS_MAX);
    let (requests, requests_receiver) = mpsc::channel(REQUESTS_MAX);
    let mut lanes = JoinSet::new();
    match lane {
        Ok((bulk, listeners)) => {
            shared.set_bulk(bulk);
            for listener in listeners {
                lanes.spawn(bulk::accept(listener, Arc::clone(&shared), requests.clone()));
            }
        }
        Err(error) => tracing::warn!(error, "no bulk lane: shards travel on streams"),
    }
    // Names are looked up outside the loop: a slow resolver holds up its own dial only.
    let (dial_news, dial_inbox) = mpsc::channel(COMMANDS_MAX);
    let driver = Driver {
        swarm,
        commands,
        inbound,
        events,
        requests,
        shared: Arc::clone(&shared),
        topic: None,
        dials: Dials::default(),
        dial_news,
        strangers: HashMap::new(),
        routes: Routes::new(key.node_id()),
        _lanes: lanes,
    };
    tokio::spawn(driver.run(dial_inbox));
    let endpoint = Endpoint::new(key.node_id(), commands_sender, shared);
    Ok((
        endpoint,
        Inbox {
            requests: requests_receiver,
            events: events_receiver,
        },
    ))
}

type BehaviourError = Box<dyn std::error::Error + Send + Sync>;

fn behaviour(
    keypair: &libp2p::identity::Keypair,
    inbound: mpsc::UnboundedSender<Inbound>,
    with_mdns: bool,
    relayed: relay::client::Behaviour,
    shared: Arc<Shared>,
) -> Result<Behaviour, BehaviourError> {
    let peer = keypair.public().to_peer_id();
    let nodes_max = u32::try_from(limits::POOL_NODES_MAX)?;
    let connection_limits = connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(128))
        .with_max_pending_outgoing(Some(128))
        .with_max_established_per_peer(Some(limits::CONNECTIONS_PER_PEER_MAX))
        .with_max_established(Some(2 * nodes_max));
    let gossip = gossipsub::ConfigBuilder::default()
        .max_transmit_size(GOSSIP_BYTES_MAX)
        .validation_mode(gossipsub::ValidationMode::Strict)
        .validate_messages()
        .build()?;
    let mut gossipsub = gossipsub::Behaviour::new(gossipsub::MessageAuthenticity::Signed(keypair.clone()), gossip)?;
    let score = gossipsub::PeerScoreParams {
        // Members are known by their keys. Those of one house, or of one office, are behind one address, and none the worse for it.
        ip_colocation_factor_weight: 0.0,
        ..gossipsub::PeerScoreParams::default()
    };
    gossipsub.with_peer_score(score, gossipsub::PeerScoreThresholds::default())?;
    let mut routing = kad::Config::new(StreamProtocol::new("/potluck/kad/1"));
    routing.set_periodic_bootstrap_interval(Some(ROUTING_INTERVAL));
    // What is in the table is what members say of themselves: no relays, and nothing of strangers.
    routing.set_kbucket_inserts(kad::BucketInserts::Manual);
    let mut kademlia = kad::Behaviour::with_config(peer, kad::store::MemoryStore::new(peer), routing);
    kademlia.set_mode(Some(kad::Mode::Server));
    let mdns = with_mdns
        .then(|| mdns::tokio::Behaviour::new(mdns::Config::default(), peer))
        .transpose()?;
    let relay = relay::Behaviour::new(peer, relaying(&shared));
    Ok(Behaviour {
        limits: connection_limits::Behaviour::new(connection_limits),
        memory: memory_connection_limits::Behaviour::with_max_percentage(MEMORY_SHARE_MAX),
        substreams: substreams::Behaviour::new(inbound),
        identify: identify::Behaviour::new(
            identify::Config::new("/potluck/1".to_owned(), keypair.public())
                .with_agent_version(concat!("potluck/", env!("CARGO_PKG_VERSION")).to_owned())
                .with_cache_size(0),
        ),
        pulse: pulse::Behaviour::new(shared),
        kademlia,
        gossipsub,
        mdns: mdns.into(),
        relay,
        relayed,
        punch: dcutr::Behaviour::new(peer),
    })
}

/// What a relay does for members, and for nobody else.
fn relaying(shared: &Arc<Shared>) -> relay::Config {
    let for_members = || -> Box<dyn relay::RateLimiter> {
        let shared = Arc::clone(shared);
        Box::new(move |peer: PeerId, _: &Multiaddr, _| node_id(&peer).is_some_and(|node| shared.is_member(node)))
    };
    let config = relay::Config {
        max_reservations: limits::POOL_NODES_MAX,
        reservation_rate_limiters: vec![for_members()],
        max_circuits: limits::RELAY_CIRCUITS_MAX,
        max_circuits_per_peer: limits::RELAY_CIRCUITS_PER_PEER_MAX,
        max_circuit_duration: CIRCUIT_DURATION,
        // As much as there is to say.
        max_circuit_bytes: 0,
        circuit_src_rate_limiters: vec![for_members()],
        ..relay::Config::default()
    };
    config.circuit_src_per_peer(CIRCUIT_BURST, CIRCUIT_INTERVAL)
}

/// What a dial waits for.
enum DialNews {
    /// The addresses of its names.
    Resolved(PeerId, Vec<Multiaddr>),
    /// Somebody else asks, with these addresses.
    More(PeerId, Vec<Multiaddr>),
    /// The dial of this number takes so long that what is next in its turn is to be tried as well.
    Late(PeerId, u64, Stage),
}

struct Driver {
    swarm: Swarm<Behaviour>,
    commands: mpsc::Receiver<Command>,
    inbound: mpsc::UnboundedReceiver<Inbound>,
    events: mpsc::Sender<Event>,
    requests: mpsc::Sender<Incoming>,
    shared: Arc<Shared>,
    topic: Option<gossipsub::IdentTopic>,
    dials: Dials,
    /// Of dials: what takes its time elsewhere comes back here.
    dial_news: mpsc::Sender<DialNews>,
    strangers: HashMap<PeerId, Instant>,
    routes: Routes,
    /// Ends with the driver.
    _lanes: JoinSet<()>,
}

impl Driver {
    /// Until the endpoint or its inbox is dropped.
    async fn run(mut self, mut dial_news: mpsc::Receiver<DialNews>) {
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING_INTERVAL);
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => {
                    if let Some(event) = self.on_swarm_event(event) && self.events.send(event).await.is_err() {
                        return;
                    }
                }
                command = self.commands.recv() => match command {
                    Some(Command::Connect { node, addresses, done }) => self.on_connect(peer_id(node), addresses, done),
                    Some(Command::Close { done }) => {
                        self.say_goodbye().await;
                        let _ = done.send(());
                        return;
                    }
                    Some(command) => self.on_command(command),
                    None => return,
                },
                Some(news) = dial_news.recv() => match news {
                    DialNews::Resolved(peer, addresses) => self.dial(peer, addresses),
                    DialNews::More(peer, addresses) => self.dial_more(peer, addresses),
                    DialNews::Late(peer, number, _) if !self.dials.is_this(peer, number) => {}
                    DialNews::Late(peer, _, stage) => self.go_on(peer, stage),
                },
                Some(inbound) = self.inbound.recv() => self.on_inbound(inbound),
                _ = housekeeping.tick() => {
                    self.dismiss_strangers();
                    self.tend_routes();
                }
                // A node that has stopped reading is gone: its connections must not look alive.
                () = self.events.closed() => return,
            }
        }
    }

    /// QUIC tells the other end nothing when a process just ends.
    async fn say_goodbye(&mut self) {
        let peers: Vec<_> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let ended = async {
            while self.swarm.connected_peers().next().is_some() {
                self.swarm.next().await;
            }
        };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, ended).await;
    }

    fn on_command(&mut self, command: Command) {
        let behaviour = self.swarm.behaviour_mut();
        match command {
            Command::Connect { .. } | Command::Close { .. } => unreachable!("taken by the loop"),
            Command::Disconnect(node) => {
                let _ = self.swarm.disconnect_peer_id(peer_id(node));
            }
            Command::Open { node, protocol, done } => behaviour.substreams.open(peer_id(node), protocol, done),
            Command::Subscribe(topic) => {
                let topic = gossipsub::IdentTopic::new(topic);
                if let Err(error) = behaviour.gossipsub.subscribe(&topic) {
                    tracing::warn!(%error, "cannot take part in the pool's gossip");
                }
                self.topic = Some(topic);
            }
            Command::Publish(data) => {
                if let Some(topic) = &self.topic
                    && let Err(error) = behaviour.gossipsub.publish(topic.clone(), data)
                {
                    tracing::debug!(%error, "gossip not sent");
                }
            }
        }
    }

    fn on_connect(&mut self, peer: PeerId, addresses: Vec<Address>, done: oneshot::Sender<Result<(), ConnectError>>) {
        if self.swarm.is_connected(&peer) {
            let _ = done.send(Ok(()));
            return;
        }
        let number = self.dials.ask(peer, done);
        let news = self.dial_news.clone();
        tokio::spawn(async move {
            let found = futures::future::join_all(addresses.iter().map(Address::resolve)).await;
            let Some(number) = number else {
                let _ = news.send(DialNews::More(peer, found.concat())).await;
                return;
            };
            let _ = news.send(DialNews::Resolved(peer, found.concat())).await;
            tokio::time::sleep(WIDEN_DELAY).await;
            let _ = news.send(DialNews::Late(peer, number, Stage::Others)).await;
            tokio::time::sleep(RELAY_DELAY - WIDEN_DELAY).await;
            let _ = news.send(DialNews::Late(peer, number, Stage::Relays)).await;
        });
    }

    /// Tries what was not known when the dial began.
    fn dial_more(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let news = self.dials.more(peer, addresses);
        if !news.is_empty() {
            let options = DialOpts::peer_id(peer).addresses(news);
            self.attempt(peer, options.condition(PeerCondition::Disconnected).build());
        }
    }

    fn dial(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let first = self.dials.first(peer, addresses);
        if first.is_empty() {
            self.widen(peer);
        } else {
            let options = DialOpts::peer_id(peer).addresses(first);
            self.attempt(peer, options.condition(PeerCondition::Disconnected).build());
        }
    }

    fn widen(&mut self, peer: PeerId) {
        if let Some(others) = self.dials.widen(peer) {
            let options = DialOpts::peer_id(peer)
                .addresses(others)
                .extend_addresses_through_behaviour();
            self.attempt(peer, options.condition(PeerCondition::Disconnected).build());
        }
    }

    fn go_on(&mut self, peer: PeerId, stage: Stage) {
        match stage {
            Stage::Others => self.widen(peer),
            Stage::Relays => self.go_round(peer),
        }
    }

    /// Tries to reach it by relays.
    fn go_round(&mut self, peer: PeerId) {
        if self.dials.go_round(peer) {
            let circuits = node_id(&peer).map(|node| self.routes.circuits(node));
            let options = DialOpts::peer_id(peer).addresses(circuits.unwrap_or_default());
            self.attempt(peer, options.condition(PeerCondition::Disconnected).build());
        }
    }

    fn attempt(&mut self, peer: PeerId, options: DialOpts) {
        let attempt = options.connection_id();
        self.dials.began(peer, attempt);
        if let Err(error) = self.swarm.dial(options) {
            self.on_dial_error(peer, attempt, &error);
        }
    }

    fn on_dial_error(&mut self, peer: PeerId, attempt: ConnectionId, error: &DialError) {
        if self.swarm.is_connected(&peer) {
            self.dials.finish(peer, |_| Ok(()));
            return;
        }
        match self.dials.failed(peer, attempt, plain_reason(error)) {
            Next::Wait => {}
            Next::Try(stage) => self.go_on(peer, stage),
            Next::GiveUp => {
                let node = node_id(&peer).map(|node| node.short()).unwrap_or_default();
                self.dials.finish(peer, |reasons| {
                    let reason = match reasons {
                        [] => "no address of it is known".to_owned(),
                        reasons => reasons.join("; "),
                    };
                    Err(ConnectError::Unreachable { node, reason })
                });
                // Perhaps a member knows where the node is now: the next dial will find it in the routing table.
                self.swarm.behaviour_mut().kademlia.get_closest_peers(peer);
            }
        }
    }

    fn on_inbound(&mut self, inbound: Inbound) {
        let Inbound {
            peer,
            protocol,
            stream,
            place,
        } = inbound;
        if let Some(node) = node_id(&peer) {
            let stream = Placed { stream, _place: place };
            tokio::spawn(serve::serve(
                stream,
                node,
                protocol,
                Arc::clone(&self.shared),
                self.requests.clone(),
            ));
        }
    }

    fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) -> Option<Event> {
        match event {
            SwarmEvent::NewListenAddr { address, .. } => {
                let plain = Address::from_multiaddr(&address)?;
                // Behind a firewall that changes no addresses it is where holes are punched to.
                if is_public(&address) {
                    let candidate = FromSwarm::NewExternalAddrCandidate(NewExternalAddrCandidate { addr: &address });
                    self.swarm.behaviour_mut().punch.on_swarm_event(candidate);
                }
                // A relay has to say an address of its own to whom it keeps a place for.
                self.swarm.add_external_address(address);
                Some(Event::Listening(plain))
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.swarm.remove_external_address(&address);
                None
            }
            SwarmEvent::ConnectionEstablished {
                peer_id: peer,
                connection_id,
                num_established,
                endpoint,
                ..
            } => {
                self.dials.finish(peer, |_| Ok(()));
                let node = node_id(&peer)?;
                let before = self.routes.reach(node);
                self.routes.opened(node, connection_id, &endpoint, Instant::now());
                self.note_reach(node, before);
                if !self.shared.is_member(node) {
                    self.strangers.entry(peer).or_insert_with(Instant::now);
                }
                (num_established.get() == 1).then_some(Event::Connected(node))
            }
            SwarmEvent::ConnectionClosed {
                peer_id: peer,
                connection_id,
                num_established,
                ..
            } => {
                let node = node_id(&peer)?;
                let before = self.routes.reach(node);
                self.routes.closed(node, connection_id);
                self.note_reach(node, before);
                (num_established == 0).then(|| {
                    self.strangers.remove(&peer);
                    self.shared.forget(node);
                    Event::Disconnected(node)
                })
            }
            SwarmEvent::OutgoingConnectionError {
                peer_id: Some(peer),
                connection_id,
                error,
            } => {
                self.on_dial_error(peer, connection_id, &error);
                None
            }
            SwarmEvent::ListenerClosed {
                listener_id, reason, ..
            } => {
                let relay = self.routes.ended(listener_id);
                match (relay, reason) {
                    (Some(relay), Err(error)) => {
                        tracing::debug!(relay = %relay.short(), %error, "a relay keeps no place for this node");
                        self.routes.refused(relay, Instant::now());
                        self.tend_routes();
                    }
                    // Its connection is gone, or it did not answer: it is asked again when it is time to.
                    (_, Ok(())) => {}
                    (None, Err(error)) => tracing::warn!(%error, "a listener failed"),
                }
                None
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "a listener failed");
                None
            }
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event),
            _ => None,
        }
    }

    fn on_behaviour_event(&mut self, event: BehaviourEvent) -> Option<Event> {
        match event {
            BehaviourEvent::Identify(identify::Event::Received {
                peer_id: peer, info, ..
            }) => {
                let node = node_id(&peer).filter(|node| self.shared.is_member(*node))?;
                self.routes
                    .offers(node, info.protocols.contains(&relay::HOP_PROTOCOL_NAME));
                self.tend_routes();
                let addresses: Vec<_> = info
                    .listen_addrs
                    .into_iter()
                    .filter_map(|address| Address::from_multiaddr(&address))
                    .collect();
                for address in addresses.into_iter().take(limits::ADDRESSES_MAX) {
                    tracing::trace!(node = %node.short(), %address, "the node says where it is");
                    if let Ok(address) = address.to_string().parse() {
                        self.swarm.behaviour_mut().kademlia.add_address(&peer, address);
                    }
                }
                None
            }
            BehaviourEvent::Mdns(mdns::Event::Discovered(mut found)) => {
                // One event a call: of several addresses the first that fits is told, TCP before others; all go to the table.
                let (mut told, mut relayed) = (None, BTreeSet::new());
                found.sort_by_key(|(_, address)| !is_tcp(address));
                for (peer, address) in found {
                    if let Some(node) = node_id(&peer)
                        && let Some(plain) = Address::from_multiaddr(&address)
                    {
                        self.swarm.behaviour_mut().kademlia.add_address(&peer, address);
                        if matches!(self.routes.reach(node), Reach::Relayed(_)) {
                            relayed.insert(node);
                        }
                        told.get_or_insert(Event::Discovered(node, plain));
                    }
                }
                relayed.into_iter().for_each(|node| self.straighten(node));
                told
            }
            BehaviourEvent::Pulse(ping::Event {
                peer,
                connection,
                result: Err(error),
            }) => {
                // A stopped process keeps its sockets: what no longer answers is not connected.
                tracing::debug!(%peer, %error, "the peer does not answer pings");
                self.swarm.close_connection(connection);
                None
            }
            BehaviourEvent::Gossipsub(gossipsub::Event::Message {
                propagation_source,
                message_id,
                message,
            }) => {
                let author = message
                    .source
                    .as_ref()
                    .and_then(node_id)
                    .filter(|node| self.shared.is_member(*node));
                let verdict = match author {
                    Some(_) => gossipsub::MessageAcceptance::Accept,
                    None => gossipsub::MessageAcceptance::Ignore,
                };
                let gossipsub = &mut self.swarm.behaviour_mut().gossipsub;
                gossipsub.report_message_validation_result(&message_id, &propagation_source, verdict);
                author.map(|author| Event::Gossip {
                    author,
                    data: Bytes::from(message.data),
                })
            }
            _ => None,
        }
    }

    /// The ways to a node have changed.
    fn note_reach(&mut self, node: NodeId, before: Reach) {
        let now = self.routes.reach(node);
        self.shared.set_relay(node, now);
        match self.routes.host(node) {
            Some(host) => self.shared.set_host(node, host),
            None => self.shared.forget_host(node),
        }
        if let (Reach::Relayed(_), Reach::Direct) = (before, now) {
            // Kept streams are on the long way.
            self.shared.forget_streams(node);
        }
    }

    /// Asks for places at relays, tries direct ways again, and closes what they have made superfluous.
    fn tend_routes(&mut self) {
        let now = Instant::now();
        let routes = &self.routes;
        let is_away = |node: NodeId| node != routes.me() && routes.reach(node) != Reach::Direct;
        let is_any_away = self.shared.is_any_member(is_away);
        for (relay, address) in self.routes.whom_to_ask(is_any_away, now) {
            match self.swarm.listen_on(address) {
                Ok(listener) => self.routes.asked(relay, listener),
                Err(error) => tracing::warn!(%error, "a relay cannot be asked"),
            }
        }
        for node in self.routes.whom_to_straighten(now) {
            self.straighten(node);
        }
        for connection in self.routes.superfluous(now) {
            self.swarm.close_connection(connection);
        }
    }

    /// Tries direct ways to a node beside the relay.
    fn straighten(&mut self, node: NodeId) {
        // At the addresses that the routing table has, and mDNS: no relay is among them.
        let options = DialOpts::peer_id(peer_id(node)).condition(PeerCondition::Always);
        if let Err(error) = self.swarm.dial(options.build()) {
            tracing::debug!(%error, "there is no direct way to try");
        }
    }

    fn dismiss_strangers(&mut self) {
        let shared = Arc::clone(&self.shared);
        let is_member = |peer: &PeerId| node_id(peer).is_some_and(|node| shared.is_member(node));
        self.strangers.retain(|peer, _| !is_member(peer));
        // One that was a member keeps nothing that it had as one: no place at this relay, and no connections by it.
        for peer in self.swarm.connected_peers().filter(|peer| !is_member(peer)) {
            self.strangers.entry(*peer).or_insert_with(Instant::now);
        }
        let late: Vec<_> = self
            .strangers
            .iter()
            .filter(|(_, since)| since.elapsed() > STRANGER_TIMEOUT)
            .map(|(peer, _)| *peer)
            .collect();
        for peer in late {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }
}

/// What a person can use of a dial error: the last cause, not the tree of attempts.
fn plain_reason(error: &DialError) -> Option<String> {
    Some(match error {
        // Beside those that failed.
        DialError::NoAddresses => return None,
        DialError::WrongPeerId { .. } => "another node answers there".to_owned(),
        DialError::Transport(attempts) => {
            let mut reasons: Vec<_> = attempts
                .iter()
                // Why no relay leads there is of no use beside why it is not reached otherwise.
                .filter(|(address, _)| !is_relayed(address))
                .map(|(address, error)| {
                    let mut cause: &dyn std::error::Error = error;
                    while let Some(deeper) = cause.source() {
                        cause = deeper;
                    }
                    let place: Multiaddr = address
                        .iter()
                        .filter(|part| !matches!(part, libp2p::multiaddr::Protocol::P2p(_)))
                        .collect();
                    format!("{place}: {cause}")
                })
                .collect();
            if reasons.is_empty() {
                return None;
            }
            reasons.sort();
            reasons.dedup();
            reasons.truncate(4);
            reasons.join("; ")
        }
        other => other.to_string(),
    })
}
