//! A member that turns: it answers with garbage, with wrong shards, not at all, or floods. Reads finish from the others, with the right bytes, and
//! nothing that it says is believed.

use crate::common::{Pool, bytes, connect, eventually, key_in, within};
use bytes::Bytes;
use potluck_crypto::SigningKey;
use potluck_net::{Endpoint, Message, NetworkConfig, Protocol};
use potluck_node::{Node, NodeStatus};
use potluck_types::{NodeId, ShardId, SpaceId, StripeId, to_canonical};
use serde::Serialize;
use serde_bytes::ByteBuf;
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// As `docs/protocol.md` has them.
#[derive(Serialize)]
enum ShardReply {
    Shard {
        space: SpaceId,
        index: u8,
        descriptor: ByteBuf,
    },
}

#[derive(Serialize)]
enum ShardRequest {
    Put {
        space: SpaceId,
        index: u8,
        descriptor: ByteBuf,
    },
    Drop(ShardId),
}

#[derive(Serialize)]
enum PoolRequest {
    Append { space: SpaceId, entries: Vec<ByteBuf> },
    Released { space: SpaceId, stripes: Vec<StripeId> },
}

/// How the turned member answers for shards.
#[derive(Clone, Copy, Debug)]
enum Manner {
    Garbage,
    WrongShard,
    HugeShard,
    Silence,
    NoAnswer,
}

/// Takes the place of a node. Gives its end of the network, and how often it was asked for shards.
async fn turn(key: &SigningKey, honest: &[&Node], manner: Manner) -> (Endpoint, Arc<AtomicUsize>) {
    let network = NetworkConfig {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        mdns: false,
        relay: true,
    };
    let (endpoint, mut inbox) = potluck_net::start(key, &network).await.unwrap();
    let members: BTreeSet<NodeId> = honest.iter().map(|node| node.identity().node).collect();
    endpoint.set_members(members);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            tokio::select! {
                event = inbox.events.recv() => if event.is_none() { return },
                incoming = inbox.requests.recv() => {
                    let Some(incoming) = incoming else { return };
                    if incoming.protocol != Protocol::Shard {
                        incoming.reply.send(Message::new(&b"\xff\x00nonsense"[..]));
                        continue;
                    }
                    count.fetch_add(1, Ordering::SeqCst);
                    let forged = |len| Message {
                        header: to_canonical(&ShardReply::Shard {
                            space: SpaceId::from_bytes([1; 32]),
                            index: 0,
                            descriptor: ByteBuf::from(vec![7; 100]),
                        })
                        .into(),
                        body: vec![9; len].into(),
                    };
                    match manner {
                        Manner::Garbage => incoming.reply.send(Message::new(vec![0xa5; 60_000])),
                        Manner::WrongShard => incoming.reply.send(forged(500_000)),
                        Manner::HugeShard => incoming.reply.send(forged(64 << 20)),
                        Manner::Silence => kept.push(incoming.reply),
                        Manner::NoAnswer => drop(incoming.reply),
                    }
                }
            }
        }
    });
    connect(&endpoint, honest).await;
    (endpoint, asked)
}

/// Whether a node takes another for being here.
async fn sees(node: &Node, other: NodeId) -> bool {
    let nodes = node.status().await.unwrap().nodes;
    nodes.iter().any(|info| info.id == other && info.away_since.is_none())
}

async fn get(node: &Node) -> Vec<u8> {
    let download = node.private().download(&"/file".parse().unwrap(), None).await.unwrap();
    download.read_to_end().await.unwrap()
}

/// It claims its shards still, takes others, and has none of them. Until it is asked to prove one, nobody knows.
#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_prove_what_it_claims_is_doubted_and_drained() {
    let mut pool = Pool::of(6, Duration::from_secs(3600)).await;
    let content = bytes(1, 48_000_000);
    pool.put(0, "/file", &content).await;
    let ids: BTreeSet<_> = pool.running().iter().map(|node| node.identity().node).collect();
    eventually("all are found honest", || async {
        // What is claimed may not be known to all at the first round; and it is chance who has something to ask of whom.
        let mut proved = BTreeSet::new();
        for node in pool.running() {
            Box::pin(within("an audit", node.audit())).await;
            for info in node.status().await.unwrap().nodes {
                let audit = info.audit;
                assert_eq!(audit.wrong + audit.lost + audit.unknown, 0, "{audit:?}");
                proved.extend((audit.proved > 0).then_some(info.id));
            }
        }
        proved == ids
    })
    .await;
    pool.kill(5).await;
    let key = key_in(&pool.members[5].home, "node.key");
    let honest = pool.running();
    let (endpoint, asked) = turn(&key, &honest, Manner::WrongShard).await;
    let id = endpoint.id();
    let seen_as = |node: &Node| {
        let node = node.clone();
        async move {
            let nodes = node.status().await.unwrap().nodes;
            nodes.into_iter().find(|info| info.id == id).unwrap()
        }
    };
    for node in &honest {
        eventually("it is taken for the member", || async {
            seen_as(node).await.status == NodeStatus::Live
        })
        .await;
    }
    eventually("all doubt it", || async {
        futures::future::join_all(honest.iter().map(|node| node.audit())).await;
        let seen = futures::future::join_all(honest.iter().map(|node| seen_as(node))).await;
        seen.iter().all(|info| info.status == NodeStatus::Doubted)
    })
    .await;
    let mut wrong = 0;
    for node in &honest {
        let seen = seen_as(node).await.audit.wrong;
        let advice = node.status().await.unwrap().advice;
        assert!(
            seen == 0 || advice.iter().any(|line| line.contains("could not prove")),
            "{advice:?}"
        );
        wrong += seen;
    }
    assert!(asked.load(Ordering::SeqCst) > 0 && wrong > 0);
    // What it said that it holds is made anew on the others, and it is not needed.
    eventually("all is whole without it", || async {
        let health = honest[0].status().await.unwrap().health;
        health.gathering == 0 && health.endangered == 0 && health.unreadable == 0 && health.worst() == Some(2)
    })
    .await;
    drop(endpoint);
    let health = honest[0].status().await.unwrap().health;
    assert_eq!((health.worst(), health.endangered), (Some(2), 0), "{health:?}");
    assert!(within("a read", get(honest[1])).await == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_turns_costs_only_itself() {
    let mut pool = Pool::of(5, Duration::from_secs(3600)).await;
    let content = bytes(1, 24_000_000);
    pool.put(0, "/file", &content).await;
    for node in &pool.running()[1..4] {
        eventually("the name arrives", || async {
            node.private().stat(&"/file".parse().unwrap()).await.is_ok()
        })
        .await;
    }
    pool.kill(4).await;
    let key = key_in(&pool.members[4].home, "node.key");
    let honest = pool.running();
    let mut asked_in_all = 0;
    for manner in [
        Manner::Garbage,
        Manner::WrongShard,
        Manner::HugeShard,
        Manner::NoAnswer,
        Manner::Silence,
    ] {
        let (endpoint, asked) = turn(&key, &honest, manner).await;
        let id = endpoint.id();
        eventually("it is taken for the member", || sees(honest[1], id)).await;
        for node in &honest[1..] {
            let got = within("a read", get(node)).await;
            assert!(got == content, "{manner:?}: other bytes came");
        }
        asked_in_all += asked.load(Ordering::SeqCst);
        attack(&endpoint, honest[0].identity().node).await;
        drop(endpoint);
        eventually("it is known to be gone", || async { !sees(honest[1], id).await }).await;
    }
    assert!(asked_in_all > 0, "it was never asked: nothing was shown");
    // Nothing that it said was believed: all is there, for whoever reads it.
    assert!(within("the last read", get(honest[0])).await == content);
    let listed = honest[0].private().list(&"/".parse().unwrap(), None, 10).await.unwrap();
    assert_eq!(listed.len(), 1);
}

/// What it asks of others: garbage, forged shards, forged log entries, deletions that are not its to ask for.
async fn attack(endpoint: &Endpoint, victim: NodeId) {
    let space = SpaceId::from_bytes([3; 32]);
    let stripe = StripeId::from_bytes([4; 32]);
    let requests = [
        (Protocol::Pool, Message::new(vec![0xff; 1_000_000])),
        (Protocol::Pool, Message::default()),
        (Protocol::Shard, Message::new(vec![0xa0; 60_000])),
        (
            Protocol::Shard,
            Message {
                header: to_canonical(&ShardRequest::Put {
                    space,
                    index: 0,
                    descriptor: ByteBuf::from(vec![1; 200]),
                })
                .into(),
                body: Bytes::from(vec![2; 4_000_000]),
            },
        ),
        (
            Protocol::Shard,
            Message::new(to_canonical(&ShardRequest::Drop(ShardId { stripe, index: 0 }))),
        ),
        (
            Protocol::Pool,
            Message::new(to_canonical(&PoolRequest::Append {
                space,
                entries: vec![ByteBuf::from(vec![5; 1000]); 100],
            })),
        ),
        (
            Protocol::Pool,
            Message::new(to_canonical(&PoolRequest::Released {
                space,
                stripes: vec![stripe; 4096],
            })),
        ),
    ];
    for (protocol, message) in &requests {
        // Refused or not answered; but the victim goes on, and says so in time.
        let _ = within("an answer to nonsense", endpoint.request(victim, *protocol, message)).await;
    }
    let flood = (0..200).map(|_| endpoint.request(victim, Protocol::Shard, &requests[3].1));
    within("an end of the flood", futures::future::join_all(flood)).await;
}
