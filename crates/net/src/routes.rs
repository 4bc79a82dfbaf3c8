//! The ways to other nodes: direct ones, and through relays; and which members are to be relays.
//!
//! Of two machines behind routers neither can dial the other. But both have dialled members that anybody can dial, and one of these can carry what
//! they say to each other, encrypted between the two. A node that does not reach all members asks a few to keep a place for it; who wants to reach
//! it goes by them. Which ones that are nobody has to say: both ends rank members in the same order, that of the node to be reached. Nothing here
//! dials or listens: it says what to try.

use crate::address::peer_id;
use libp2p::{
    Multiaddr,
    core::{ConnectedPoint, Endpoint, transport::ListenerId},
    multiaddr::Protocol,
    swarm::ConnectionId,
};
use potluck_types::{Hash, NodeId};
use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// So many relays keep a place for one node: when one dies the others are there.
const RELAYS: usize = 3;
/// So many relays are tried at a time to reach one node.
const CIRCUITS: usize = 8;
/// How long one is left alone that has refused to be a relay.
const REFUSED: Duration = Duration::from_secs(60);
/// How often a direct way is tried to one that is reached by a relay only.
const STRAIGHTEN_INTERVAL: Duration = Duration::from_secs(300);
/// How long a relayed connection is kept beside a direct one: what is under way on it ends meanwhile.
const SUPERFLUOUS: Duration = Duration::from_secs(120);

/// One connection.
#[derive(Debug)]
enum Way {
    Direct {
        address: Multiaddr,
        /// Whether the other end takes connections there, from anybody as it seems.
        is_open: bool,
        since: Instant,
    },
    Relayed {
        by: Option<NodeId>,
    },
}

#[derive(Debug)]
struct Peer {
    ways: HashMap<ConnectionId, Way>,
    /// Whether it says that it is a relay for members.
    is_relay: bool,
    /// When a direct way was tried last, or it was first connected.
    tried: Instant,
}

impl Peer {
    /// The best of its direct ways: one that it takes connections on, if there is one.
    fn direct(&self) -> Option<(&Multiaddr, bool)> {
        let direct = self.ways.values().filter_map(|way| match way {
            Way::Direct { address, is_open, .. } => Some((address, *is_open)),
            Way::Relayed { .. } => None,
        });
        direct.max_by_key(|(_, is_open)| *is_open)
    }
}

/// How a node is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reach {
    Direct,
    Relayed(Option<NodeId>),
    Gone,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Routes {
    me: NodeId,
    peers: HashMap<NodeId, Peer>,
    /// Who keeps a place for us, or has been asked to.
    places: HashMap<ListenerId, NodeId>,
    refused: HashMap<NodeId, Instant>,
}

impl Routes {
    pub(crate) fn new(me: NodeId) -> Self {
        Self {
            me,
            peers: HashMap::new(),
            places: HashMap::new(),
            refused: HashMap::new(),
        }
    }

    /// Whose ways they are.
    pub(crate) fn me(&self) -> NodeId {
        self.me
    }

    /// A connection is there.
    pub(crate) fn opened(&mut self, node: NodeId, connection: ConnectionId, point: &ConnectedPoint, now: Instant) {
        let way = if point.is_relayed() {
            let by = self.relay_on(point);
            Way::Relayed { by }
        } else {
            // Where there is a relayed connection already, both ends may have dialled at once: that says nothing about others.
            let is_punched = self.peers.get(&node).is_some_and(|peer| peer.direct().is_none());
            let is_dialled = matches!(
                point,
                ConnectedPoint::Dialer {
                    role_override: Endpoint::Dialer,
                    ..
                }
            );
            Way::Direct {
                address: point.get_remote_address().clone(),
                is_open: is_dialled && !is_punched,
                since: now,
            }
        };
        let new = || Peer {
            ways: HashMap::new(),
            is_relay: false,
            tried: now,
        };
        let peer = self.peers.entry(node).or_insert_with(new);
        peer.ways.insert(connection, way);
    }

    /// A connection is gone.
    pub(crate) fn closed(&mut self, node: NodeId, connection: ConnectionId) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.ways.remove(&connection);
            if peer.ways.is_empty() {
                self.peers.remove(&node);
            }
        }
    }

    /// A node says whether it is a relay.
    pub(crate) fn offers(&mut self, node: NodeId, is_relay: bool) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.is_relay = is_relay;
        }
    }

    /// How a node is reached now.
    pub(crate) fn reach(&self, node: NodeId) -> Reach {
        let Some(peer) = self.peers.get(&node) else {
            return Reach::Gone;
        };
        if peer.direct().is_some() {
            return Reach::Direct;
        }
        let by = peer.ways.values().find_map(|way| match way {
            Way::Relayed { by } => *by,
            Way::Direct { .. } => None,
        });
        Reach::Relayed(by)
    }

    fn relay_on(&self, point: &ConnectedPoint) -> Option<NodeId> {
        let address = match point {
            ConnectedPoint::Dialer { address, .. } => address,
            ConnectedPoint::Listener { local_addr, .. } => local_addr,
        };
        let before: Multiaddr = address
            .iter()
            .take_while(|part| *part != Protocol::P2pCircuit)
            .collect();
        let named = before.iter().find_map(|part| match part {
            Protocol::P2p(peer) => crate::address::node_id(&peer),
            _ => None,
        });
        named.or_else(|| {
            let is_it = |peer: &Peer| peer.direct().is_some_and(|(address, _)| *address == before);
            self.peers.iter().find(|(_, peer)| is_it(peer)).map(|(node, _)| *node)
        })
    }

    /// The relays to a node among those that are connected, the likeliest first, and whether it takes connections.
    fn relays(&self, to: NodeId) -> Vec<(NodeId, &Multiaddr, bool)> {
        let mut relays: Vec<_> = self
            .peers
            .iter()
            .filter(|(node, peer)| peer.is_relay && **node != to)
            .filter_map(|(node, peer)| peer.direct().map(|(address, is_open)| (*node, address, is_open)))
            .collect();
        relays.sort_by_cached_key(|(node, address, _)| {
            let both = [to.as_bytes().as_slice(), node.as_bytes()].concat();
            (!is_public(address), *Hash::of(&both).as_bytes())
        });
        relays
    }

    /// Addresses of a node by way of relays. It can wait at those alone that it has dialled, and who has dialled whom is chance among those that take connections: half are those
    /// that this node has dialled, and half any.
    pub(crate) fn circuits(&self, to: NodeId) -> Vec<Multiaddr> {
        let (open, others): (Vec<_>, Vec<_>) = self.relays(to).into_iter().partition(|(_, _, is_open)| *is_open);
        let from_others = CIRCUITS / 2;
        let of_open = CIRCUITS - others.len().min(from_others);
        let relays = open.into_iter().take(of_open).chain(others);
        relays
            .take(CIRCUITS)
            .map(|(relay, address, _)| circuit(relay, address))
            .collect()
    }

    /// Where a node is, if there is a direct way to it.
    pub(crate) fn host(&self, node: NodeId) -> Option<IpAddr> {
        let (address, _) = self.peers.get(&node)?.direct()?;
        direct_host(address)
    }

    /// Whom to ask now for a place, given whether there are members that are not reached directly.
    pub(crate) fn whom_to_ask(&mut self, is_any_away: bool, now: Instant) -> Vec<(NodeId, Multiaddr)> {
        self.refused.retain(|_, since| now.duration_since(*since) < REFUSED);
        if !is_any_away {
            return Vec::new();
        }
        self.relays(self.me)
            .into_iter()
            .filter(|(relay, _, is_open)| {
                *is_open && !self.refused.contains_key(relay) && !self.places.values().any(|asked| asked == relay)
            })
            .take(RELAYS.saturating_sub(self.places.len()))
            .map(|(relay, address, _)| (relay, circuit(relay, address)))
            .collect()
    }

    /// A relay was asked.
    pub(crate) fn asked(&mut self, relay: NodeId, listener: ListenerId) {
        self.places.insert(listener, relay);
    }

    /// A relay keeps our place no more, or never did. Gives which.
    pub(crate) fn ended(&mut self, listener: ListenerId) -> Option<NodeId> {
        self.places.remove(&listener)
    }

    /// A relay does not want to be one.
    pub(crate) fn refused(&mut self, relay: NodeId, now: Instant) {
        self.refused.insert(relay, now);
    }

    /// Nodes to which a direct way is to be tried again.
    pub(crate) fn whom_to_straighten(&mut self, now: Instant) -> Vec<NodeId> {
        let due = |peer: &Peer| peer.direct().is_none() && now.duration_since(peer.tried) >= STRAIGHTEN_INTERVAL;
        let late = self.peers.iter_mut().filter(|(_, peer)| due(peer));
        late.map(|(node, peer)| {
            peer.tried = now;
            *node
        })
        .collect()
    }

    /// Relayed connections that nobody needs any more.
    pub(crate) fn superfluous(&self, now: Instant) -> Vec<ConnectionId> {
        let is_old = |way: &Way| match way {
            Way::Direct { since, .. } => now.duration_since(*since) >= SUPERFLUOUS,
            Way::Relayed { .. } => false,
        };
        let straight = self.peers.values().filter(|peer| peer.ways.values().any(is_old));
        let ways = straight.flat_map(|peer| &peer.ways);
        ways.filter(|(_, way)| matches!(way, Way::Relayed { .. }))
            .map(|(connection, _)| *connection)
            .collect()
    }
}

/// Whether a connection to or from there goes by a relay.
pub(crate) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// By way of a relay; whose node it leads to is said beside it.
fn circuit(relay: NodeId, address: &Multiaddr) -> Multiaddr {
    let place: Multiaddr = address
        .iter()
        .filter(|part| !matches!(part, Protocol::P2p(_)))
        .collect();
    place.with(Protocol::P2p(peer_id(relay))).with(Protocol::P2pCircuit)
}

/// The host at the other end of a connection that goes through no relay.
pub(crate) fn direct_host(address: &Multiaddr) -> Option<IpAddr> {
    if is_relayed(address) {
        return None;
    }
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// Whether a host is not in somebody's own network: there are ways to it from everywhere.
pub(crate) fn is_public(address: &Multiaddr) -> bool {
    match direct_host(address) {
        Some(IpAddr::V4(ip)) => {
            let [a, b, ..] = ip.octets();
            // 100.64.0.0/10 is within providers, RFC 6598.
            let is_shared = a == 100 && b & 0xc0 == 64;
            !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || is_shared)
        }
        // Global unicast, RFC 4291.
        Some(IpAddr::V6(ip)) => ip.segments()[0] & 0xe000 == 0x2000,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::core::transport::PortUse;

    fn node(seed: u8) -> NodeId {
        potluck_crypto::SigningKey::from_seed(&[seed; 32]).node_id()
    }

    fn connection(id: usize) -> ConnectionId {
        ConnectionId::new_unchecked(id)
    }

    fn dialled(address: &str) -> ConnectedPoint {
        ConnectedPoint::Dialer {
            address: address.parse().unwrap(),
            role_override: Endpoint::Dialer,
            port_use: PortUse::Reuse,
        }
    }

    fn taken(local: &str, from: &str) -> ConnectedPoint {
        ConnectedPoint::Listener {
            local_addr: local.parse().unwrap(),
            send_back_addr: from.parse().unwrap(),
        }
    }

    /// What a node knows that has dialled relays at these addresses.
    fn routes(me: NodeId, relays: &[(u8, &str)], now: Instant) -> Routes {
        let mut routes = Routes::new(me);
        for (seed, address) in relays {
            routes.opened(node(*seed), connection(usize::from(*seed)), &dialled(address), now);
            routes.offers(node(*seed), true);
        }
        routes
    }

    const PUBLIC: [(u8, &str); 12] = [
        (10, "/ip4/198.51.100.10/tcp/4720"),
        (11, "/ip4/198.51.100.11/tcp/4720"),
        (12, "/ip4/198.51.100.12/udp/4720/quic-v1"),
        (13, "/ip6/2001:db8::13/tcp/4720"),
        (14, "/ip4/198.51.100.14/tcp/4720"),
        (15, "/ip4/198.51.100.15/tcp/4720"),
        (16, "/ip4/198.51.100.16/tcp/4720"),
        (17, "/ip4/198.51.100.17/tcp/4720"),
        (18, "/ip4/198.51.100.18/tcp/4720"),
        (19, "/ip4/198.51.100.19/tcp/4720"),
        (20, "/ip4/198.51.100.20/tcp/4720"),
        (21, "/ip4/198.51.100.21/tcp/4720"),
    ];

    #[test]
    fn where_one_waits_others_look_whatever_else_each_has_at_home() {
        let now = Instant::now();
        let home = |seed: u8, address: &'static str| [&PUBLIC[..], &[(seed, address)]].concat();
        let mut waits = routes(node(1), &home(31, "/ip4/192.168.1.7/tcp/4720"), now);
        let looks = routes(node(2), &home(32, "/ip4/10.0.0.7/tcp/4720"), now);
        assert!(waits.whom_to_ask(false, now).is_empty());
        let asked = waits.whom_to_ask(true, now);
        assert_eq!(asked.len(), RELAYS);
        let tried = looks.circuits(node(1));
        assert_eq!(tried.len(), CIRCUITS);
        for (place, tried) in asked.iter().zip(&tried) {
            assert_eq!(place.1, *tried);
        }
        assert_ne!(tried, looks.circuits(node(3)), "each node has relays of its own");
    }

    #[test]
    fn who_is_reachable_finds_a_relay_though_others_have_dialled_it() {
        let now = Instant::now();
        let mut waits = routes(node(1), &PUBLIC, now);
        let mut looks = Routes::new(node(2));
        for (seed, address) in PUBLIC {
            let point = match seed % 2 {
                0 => dialled(address),
                _ => taken("/ip4/198.51.100.2/tcp/4720", address),
            };
            looks.opened(node(seed), connection(seed.into()), &point, now);
            looks.offers(node(seed), true);
        }
        let asked = waits.whom_to_ask(true, now);
        let tried = looks.circuits(node(1));
        assert_eq!(tried.len(), CIRCUITS);
        assert!(
            asked.iter().all(|(_, place)| tried.contains(place)),
            "{asked:?} {tried:?}"
        );
    }

    #[test]
    fn one_that_refuses_is_asked_later_and_another_in_its_place() {
        let now = Instant::now();
        let mut routes = routes(node(1), &PUBLIC[..4], now);
        let asked = routes.whom_to_ask(true, now);
        let listeners: Vec<_> = asked.iter().map(|_| ListenerId::next()).collect();
        for ((relay, _), listener) in asked.iter().zip(&listeners) {
            routes.asked(*relay, *listener);
        }
        assert!(routes.whom_to_ask(true, now).is_empty());
        assert_eq!(routes.ended(listeners[0]), Some(asked[0].0));
        assert_eq!(routes.ended(listeners[0]), None);
        routes.refused(asked[0].0, now);
        let instead = routes.whom_to_ask(true, now);
        assert_eq!(instead.len(), 1);
        assert!(asked.iter().all(|(relay, _)| *relay != instead[0].0));
        routes.asked(instead[0].0, ListenerId::next());
        routes.ended(listeners[1]);
        routes.refused(asked[1].0, now);
        assert!(routes.whom_to_ask(true, now).is_empty(), "the rest has refused");
        let later = routes.whom_to_ask(true, now + REFUSED);
        assert_eq!(later.len(), 1);
        assert!(asked[..2].iter().any(|(relay, _)| *relay == later[0].0));
    }

    #[test]
    fn only_one_that_takes_connections_is_asked() {
        let now = Instant::now();
        let mut routes = Routes::new(node(1));
        // It has dialled us.
        routes.opened(
            node(2),
            connection(1),
            &taken("/ip4/10.0.0.1/tcp/1", "/ip4/10.0.0.2/tcp/9"),
            now,
        );
        // Both have dialled, told to over a relay.
        let by_relay = dialled("/ip4/198.51.100.10/tcp/4720/p2p-circuit");
        routes.opened(node(3), connection(2), &by_relay, now);
        assert_eq!(routes.reach(node(3)), Reach::Relayed(None));
        routes.opened(node(3), connection(3), &dialled("/ip4/203.0.113.3/tcp/4720"), now);
        assert_eq!(routes.reach(node(3)), Reach::Direct);
        // It is reached by a relay alone, and has said that it is one.
        routes.opened(node(4), connection(4), &by_relay, now);
        for seed in 2..=4 {
            routes.offers(node(seed), true);
        }
        assert!(routes.whom_to_ask(true, now).is_empty());
        routes.opened(node(5), connection(5), &dialled("/ip4/198.51.100.10/tcp/4720"), now);
        assert!(
            routes.whom_to_ask(true, now).is_empty(),
            "it does not say that it is a relay"
        );
        routes.offers(node(5), true);
        assert_eq!(routes.whom_to_ask(true, now).len(), 1);
    }

    #[test]
    fn a_direct_way_is_tried_again_and_takes_the_place_of_a_relayed_one() {
        let now = Instant::now();
        let relay = PUBLIC[0];
        let mut routes = routes(node(1), &[relay], now);
        let name = peer_id(node(relay.0));
        let (local, from) = (
            format!("{}/p2p/{name}/p2p-circuit", relay.1),
            format!("/p2p/{}", peer_id(node(2))),
        );
        routes.opened(node(2), connection(1), &taken(&local, &from), now);
        assert_eq!(routes.reach(node(2)), Reach::Relayed(Some(node(relay.0))));
        assert!(routes.whom_to_straighten(now + STRAIGHTEN_INTERVAL / 2).is_empty());
        let late = now + STRAIGHTEN_INTERVAL;
        assert_eq!(routes.whom_to_straighten(late), [node(2)]);
        assert!(routes.whom_to_straighten(late).is_empty());
        routes.opened(node(2), connection(2), &dialled("/ip4/203.0.113.3/tcp/4720"), late);
        assert!(routes.superfluous(late).is_empty());
        assert_eq!(routes.superfluous(late + SUPERFLUOUS), [connection(1)]);
        routes.closed(node(2), connection(2));
        assert_eq!(routes.reach(node(2)), Reach::Relayed(Some(node(relay.0))));
        routes.closed(node(2), connection(1));
        assert_eq!(routes.reach(node(2)), Reach::Gone);
    }

    #[test]
    fn a_relay_without_its_name_is_known_by_its_address() {
        let now = Instant::now();
        let mut routes = routes(node(1), &PUBLIC[..2], now);
        let local = format!("{}/p2p-circuit", PUBLIC[1].1);
        routes.opened(node(2), connection(1), &taken(&local, "/p2p-circuit"), now);
        assert_eq!(routes.reach(node(2)), Reach::Relayed(Some(node(11))));
    }

    #[test]
    fn hosts_of_private_networks_are_not_public() {
        for (address, expected) in [
            ("/ip4/198.51.100.1/tcp/1", true),
            ("/ip4/192.168.1.1/tcp/1", false),
            ("/ip4/100.64.0.1/tcp/1", false),
            ("/ip4/100.128.0.1/tcp/1", true),
            ("/ip4/127.0.0.1/tcp/1", false),
            ("/ip6/2001:db8::1/udp/1/quic-v1", true),
            ("/ip6/fd00::1/tcp/1", false),
            ("/ip6/fe80::1/tcp/1", false),
            ("/ip4/198.51.100.1/tcp/1/p2p-circuit", false),
        ] {
            assert_eq!(is_public(&address.parse().unwrap()), expected, "{address}");
        }
    }
}
