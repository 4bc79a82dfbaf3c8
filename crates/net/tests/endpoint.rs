//! What the node relies on, over real sockets on loopback and over the in-memory twin alike.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use bytes::Bytes;
use potluck_crypto::SigningKey;
use potluck_net::{
    Address, Endpoint, Event, Inbox, MemoryNetwork, Message, NetworkConfig, Protocol, RequestError, start,
};
use potluck_types::{NodeId, limits};
use std::{collections::BTreeSet, time::Duration};

struct Node {
    endpoint: Endpoint,
    inbox: Inbox,
    addresses: Vec<Address>,
}

impl Node {
    fn id(&self) -> NodeId {
        self.endpoint.id()
    }

    async fn event(&mut self, wanted: impl Fn(&Event) -> bool) {
        loop {
            let event = self.inbox.events.recv().await.expect("the network runs");
            if wanted(&event) {
                return;
            }
        }
    }

    /// Waits for gossip of a connected node. When that arrives, so has what the node says of itself: where it is, and whether it is a relay.
    async fn hears_of(&mut self, other: &Endpoint) {
        let by = other.id();
        let heard = self.event(|event| matches!(event, Event::Gossip { author, .. } if *author == by));
        let say = async {
            loop {
                other.publish(Bytes::from_static(b"here")).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = heard => {}
            () = say => {}
        }
    }

    /// Answers every request with its own bytes, from now on.
    fn echo(mut self) -> Endpoint {
        let endpoint = self.endpoint.clone();
        tokio::spawn(async move {
            let _events = self.inbox.events;
            while let Some(incoming) = self.inbox.requests.recv().await {
                incoming.reply.send(incoming.message);
            }
        });
        endpoint
    }
}

async fn over_sockets(seed: u8, config: &NetworkConfig) -> Node {
    let (endpoint, mut inbox) = start(&SigningKey::from_seed(&[seed; 32]), config).await.unwrap();
    let mut addresses = Vec::new();
    // TCP and QUIC.
    while addresses.len() < 2 * config.listen.len() {
        if let Some(Event::Listening(address)) = inbox.events.recv().await {
            addresses.push(address);
        }
    }
    Node {
        endpoint,
        inbox,
        addresses,
    }
}

/// A node that takes no connections, as behind a router, and has dialled these.
async fn behind_a_router(seed: u8, dialled: &[&Node]) -> Node {
    let config = NetworkConfig {
        listen: Vec::new(),
        mdns: false,
        relay: true,
    };
    let node = over_sockets(seed, &config).await;
    let members = dialled.iter().map(|relay| relay.id());
    node.endpoint.set_members(members.chain((1..=9).map(id_of)).collect());
    for relay in dialled {
        node.endpoint
            .connect(relay.id(), relay.addresses.clone())
            .await
            .unwrap();
    }
    node
}

fn id_of(seed: u8) -> NodeId {
    SigningKey::from_seed(&[seed; 32]).node_id()
}

#[derive(Clone)]
enum Kind {
    Sockets,
    Memory(MemoryNetwork),
}

impl Kind {
    async fn node(&self, seed: u8) -> Node {
        match self {
            Self::Memory(network) => {
                let (endpoint, inbox) = network.join(id_of(seed));
                Node {
                    endpoint,
                    inbox,
                    addresses: Vec::new(),
                }
            }
            Self::Sockets => {
                let config = NetworkConfig {
                    listen: vec!["127.0.0.1:0".parse().unwrap()],
                    mdns: false,
                    relay: true,
                };
                over_sockets(seed, &config).await
            }
        }
    }

    /// Two nodes of one pool, connected.
    async fn pair(&self) -> (Node, Node) {
        let (mut a, mut b) = (self.node(1).await, self.node(2).await);
        let members = BTreeSet::from([a.id(), b.id()]);
        for node in [&a, &b] {
            node.endpoint.set_members(members.clone());
            node.endpoint.subscribe("pool".to_owned()).await;
        }
        a.endpoint.connect(b.id(), b.addresses.clone()).await.unwrap();
        let (a_id, b_id) = (a.id(), b.id());
        a.event(|event| *event == Event::Connected(b_id)).await;
        b.event(|event| *event == Event::Connected(a_id)).await;
        (a, b)
    }
}

/// A handful of dials follow one that failed: other addresses, and what the routing table tries.
const KNOCKS_MAX: usize = 20;

fn tcp_port(address: &Address) -> Option<u16> {
    let text = address.to_string();
    let (_, port) = text.split_once("/tcp/")?;
    port.parse().ok()
}

fn both() -> [Kind; 2] {
    [Kind::Sockets, Kind::Memory(MemoryNetwork::default())]
}

#[tokio::test]
async fn requests_are_answered_whatever_their_size() {
    for kind in both() {
        let (a, b) = kind.pair().await;
        let b = b.echo();
        for len in [0, 1, 64 << 10, limits::SHARD_BYTES_MAX] {
            let message = Message {
                header: Bytes::from_static(b"put"),
                body: vec![7; len].into(),
            };
            assert_eq!(
                a.endpoint.request(b.id(), Protocol::Shard, &message).await.unwrap(),
                message
            );
        }
    }
}

#[tokio::test]
async fn many_requests_at_once_all_get_their_own_answer() {
    for kind in both() {
        let (a, b) = kind.pair().await;
        let b = b.echo();
        let requests = (0..1000u32).map(|i| {
            let (endpoint, to) = (a.endpoint.clone(), b.id());
            tokio::spawn(async move {
                let message = Message {
                    header: i.to_le_bytes().to_vec().into(),
                    body: vec![i as u8; 5000].into(),
                };
                assert_eq!(endpoint.request(to, Protocol::Shard, &message).await.unwrap(), message);
            })
        });
        for request in requests.collect::<Vec<_>>() {
            request.await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_stranger_may_only_ask_to_join() {
    for kind in both() {
        let (a, mut b) = (kind.node(1).await, kind.node(2).await);
        a.endpoint.connect(b.id(), b.addresses.clone()).await.unwrap();
        let a_id = a.id();
        b.event(|event| *event == Event::Connected(a_id)).await;
        let b = b.echo();
        let message = Message::new(&b"please"[..]);
        assert_eq!(
            a.endpoint.request(b.id(), Protocol::Join, &message).await.unwrap(),
            message
        );
        for protocol in [Protocol::Pool, Protocol::Shard] {
            let answer = a.endpoint.request(b.id(), protocol, &message).await;
            assert!(matches!(answer, Err(RequestError::NotAMember)), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn one_that_ends_says_goodbye() {
    for kind in both() {
        let (mut a, b) = kind.pair().await;
        b.endpoint.close().await;
        let gone = Event::Disconnected(b.id());
        let told = tokio::time::timeout(Duration::from_secs(5), a.event(|event| *event == gone)).await;
        assert!(told.is_ok(), "the other end does not hear of it");
    }
}

#[tokio::test]
async fn one_in_whose_place_is_another_is_dialled_when_asked_and_not_over_and_over() {
    let (mut a, b) = Kind::Sockets.pair().await;
    let other = Kind::Sockets.node(3).await;
    let place = other.addresses.iter().find_map(tcp_port).expect("it listens on TCP");
    let _other = other.echo();
    let (gone, addresses) = (b.id(), b.addresses.clone());
    a.hears_of(&b.endpoint).await;
    b.endpoint.close().await;
    // Until it has heard of that, it is connected, and asking for the connection succeeds.
    a.event(|event| *event == Event::Disconnected(gone)).await;
    let port = addresses.iter().find_map(tcp_port).expect("it listens on TCP");
    let listener = loop {
        match tokio::net::TcpListener::bind(("127.0.0.1", port)).await {
            Ok(listener) => break listener,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let knocks = tokio::spawn(async move {
        let mut knocks = 0;
        while knocks < KNOCKS_MAX
            && let Ok(Ok((mut caller, _))) = tokio::time::timeout(Duration::from_secs(1), listener.accept()).await
        {
            knocks += 1;
            tokio::spawn(async move {
                let mut called = tokio::net::TcpStream::connect(("127.0.0.1", place)).await?;
                tokio::io::copy_bidirectional(&mut caller, &mut called).await
            });
        }
        knocks
    });
    assert!(a.endpoint.connect(gone, addresses).await.is_err());
    let knocks = knocks.await.unwrap();
    assert!((1..KNOCKS_MAX).contains(&knocks), "{knocks} dials");
}

#[tokio::test]
async fn messages_over_the_limit_are_refused_before_they_are_read() {
    for kind in both() {
        let (a, b) = kind.pair().await;
        let b = b.echo();
        let message = Message {
            header: vec![0; 100 << 10].into(),
            body: Bytes::new(),
        };
        assert!(a.endpoint.request(b.id(), Protocol::Shard, &message).await.is_err());
        let small = Message::new(&b"still here"[..]);
        assert_eq!(
            a.endpoint.request(b.id(), Protocol::Shard, &small).await.unwrap(),
            small
        );
    }
}

#[tokio::test]
async fn one_that_does_not_answer_says_so() {
    for kind in both() {
        let (a, mut b) = kind.pair().await;
        let b_id = b.id();
        let question = Message::new(&b"?"[..]);
        let request = a.endpoint.request(b_id, Protocol::Pool, &question);
        let serve = async { drop(b.inbox.requests.recv().await) };
        let (answer, ()) = tokio::join!(request, serve);
        assert!(matches!(answer, Err(RequestError::Unanswered)), "{answer:?}");
    }
}

#[tokio::test]
async fn gossip_reaches_members() {
    for kind in both() {
        let (a, mut b) = kind.pair().await;
        let a_id = a.id();
        let expected = Event::Gossip {
            author: a_id,
            data: Bytes::from_static(b"news"),
        };
        // Over sockets the mesh forms after the connection: what is published before reaches nobody.
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(100));
        loop {
            tokio::select! {
                _ = tick.tick() => a.endpoint.publish(Bytes::from_static(b"news")).await,
                event = b.inbox.events.recv() => if event == Some(expected.clone()) { break },
            }
        }
    }
}

#[tokio::test]
async fn a_lost_peer_is_noticed() {
    for kind in both() {
        let (a, mut b) = kind.pair().await;
        let a_id = a.id();
        drop(a);
        b.event(|event| *event == Event::Disconnected(a_id)).await;
        let answer = b.endpoint.request(a_id, Protocol::Pool, &Message::default()).await;
        assert!(matches!(answer, Err(RequestError::NotConnected)), "{answer:?}");
    }
}

#[tokio::test]
async fn another_key_at_the_address_is_not_the_node() {
    let (a, b) = (Kind::Sockets.node(1).await, Kind::Sockets.node(2).await);
    let other = SigningKey::from_seed(&[3; 32]).node_id();
    let outcome = a.endpoint.connect(other, b.addresses.clone()).await;
    assert!(outcome.unwrap_err().to_string().contains("another node answers there"));
}

/// Until the other has a place at a relay, it is not reached.
async fn connect_soon(from: &Endpoint, to: NodeId) {
    let connected = async {
        while from.connect(to, Vec::new()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let connected = tokio::time::timeout(Duration::from_secs(30), connected).await;
    connected.expect("no relay leads there");
}

#[tokio::test]
async fn two_behind_routers_meet_by_a_relay_and_by_another_when_it_dies() {
    let mut relays = Vec::new();
    for seed in [1, 2] {
        let relay = Kind::Sockets.node(seed).await;
        relay.endpoint.set_members((1..=4).map(id_of).collect());
        relays.push(relay);
    }
    let dialled: Vec<_> = relays.iter().collect();
    let (mut a, b) = (behind_a_router(3, &dialled).await, behind_a_router(4, &dialled).await);
    let b = b.echo();
    let message = Message {
        header: Bytes::from_static(b"put"),
        body: vec![7; limits::SHARD_BYTES_MAX].into(),
    };
    connect_soon(&a.endpoint, b.id()).await;
    while !relays.is_empty() {
        let by = a
            .endpoint
            .relay_of(b.id())
            .expect("there is no other way")
            .expect("it is known");
        let answer = a.endpoint.request(b.id(), Protocol::Shard, &message).await.unwrap();
        assert_eq!(answer, message);
        let at = relays.iter().position(|relay| relay.id() == by).expect("a relay");
        drop(relays.swap_remove(at));
        let gone = Event::Disconnected(b.id());
        a.event(|event| *event == gone).await;
        if !relays.is_empty() {
            connect_soon(&a.endpoint, b.id()).await;
        }
    }
    assert_eq!(a.endpoint.relay_of(b.id()), None);
    assert!(a.endpoint.connect(b.id(), Vec::new()).await.is_err());
}

#[tokio::test]
async fn a_relay_carries_for_members_only() {
    let relay = Kind::Sockets.node(1).await;
    relay.endpoint.set_members([1, 3, 4].map(id_of).into());
    relay.endpoint.subscribe("pool".to_owned()).await;
    let waits = behind_a_router(4, &[&relay]).await.echo();
    let member = behind_a_router(3, &[&relay]).await;
    connect_soon(&member.endpoint, waits.id()).await;
    let mut stranger = behind_a_router(5, &[&relay]).await;
    stranger.endpoint.subscribe("pool".to_owned()).await;
    stranger.hears_of(&relay.endpoint).await;
    for _ in 0..3 {
        let refused = stranger.endpoint.connect(waits.id(), Vec::new()).await;
        assert!(refused.unwrap_err().to_string().contains("no address of it is known"));
        // It keeps no place for a stranger either.
        assert!(member.endpoint.connect(stranger.id(), Vec::new()).await.is_err());
    }
    // Nothing else was in the way.
    relay.endpoint.set_members([1, 3, 4, 5].map(id_of).into());
    connect_soon(&stranger.endpoint, waits.id()).await;
}

#[tokio::test]
async fn one_that_is_to_be_no_relay_is_none() {
    let config = NetworkConfig {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        mdns: false,
        relay: false,
    };
    let unwilling = over_sockets(1, &config).await;
    let relay = Kind::Sockets.node(2).await;
    for node in [&unwilling, &relay] {
        node.endpoint.set_members((1..=4).map(id_of).collect());
    }
    let dialled = [&unwilling, &relay];
    let (a, b) = (behind_a_router(3, &dialled).await, behind_a_router(4, &dialled).await);
    connect_soon(&a.endpoint, b.id()).await;
    assert_eq!(a.endpoint.relay_of(b.id()), Some(Some(relay.id())));
}

#[tokio::test]
async fn nobody_at_the_address_is_said() {
    let a = Kind::Sockets.node(1).await;
    let other = SigningKey::from_seed(&[3; 32]).node_id();
    // Port 1 of loopback: nothing listens there.
    let outcome = a.endpoint.connect(other, vec!["127.0.0.1:1".parse().unwrap()]).await;
    assert!(outcome.unwrap_err().to_string().contains("refused"));
}
