//! A member that has turned: it has the key of a machine and its place in the network, and not its honesty. What it held counts still, until it is asked to prove it.

use potluck_net::{Incoming, MemoryNetwork, Message, Protocol};
use potluck_types::{Dice, NodeId, SpaceId, StripeId, to_canonical};
use serde::Serialize;
use serde_bytes::ByteBuf;
use std::collections::BTreeSet;
use tokio::task::JoinHandle;

/// As `docs/protocol.md` has them.
#[derive(Serialize)]
enum ShardReply {
    Stored,
    Shard {
        space: SpaceId,
        index: u8,
        descriptor: ByteBuf,
    },
    Absent,
    Damaged,
    Failed(String),
}

#[derive(Serialize)]
enum PoolRequest {
    Released { space: SpaceId, stripes: Vec<StripeId> },
}

#[derive(Serialize)]
enum PoolReply {
    Done,
    Located(Vec<Vec<u8>>),
    Failed(String),
}

/// How it answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Manner {
    /// It says that it has stored what it was given, and has nothing when it is asked.
    Forgets,
    /// It sends other bytes.
    Forges,
    /// It says that it cannot just now.
    Withholds,
    /// It says each time that it found damage just now.
    Complains,
    /// It takes requests, and does not answer.
    Ignores,
    /// It answers with noise, and floods others with it.
    Babbles,
}

impl Manner {
    pub(crate) const ALL: [Self; 6] = [
        Self::Forgets,
        Self::Forges,
        Self::Withholds,
        Self::Complains,
        Self::Ignores,
        Self::Babbles,
    ];
}

/// See the module. It stays until it is dropped.
pub(crate) struct Liar(JoinHandle<()>);

impl Drop for Liar {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Liar {
    /// Takes a member's place among the others.
    pub(crate) fn turn(
        network: &MemoryNetwork,
        id: NodeId,
        others: Vec<NodeId>,
        manner: Manner,
        mut dice: Dice,
    ) -> Self {
        let (endpoint, mut inbox) = network.join(id);
        let members: BTreeSet<NodeId> = others.iter().copied().collect();
        endpoint.set_members(members);
        Self(tokio::spawn(async move {
            for other in &others {
                let _ = endpoint.connect(*other, Vec::new()).await;
            }
            let mut ignored = Vec::new();
            loop {
                let incoming = tokio::select! {
                    event = inbox.events.recv() => if event.is_some() { continue } else { return },
                    incoming = inbox.requests.recv() => incoming,
                };
                let Some(Incoming { protocol, reply, .. }) = incoming else {
                    return;
                };
                match answer(manner, protocol, &mut dice) {
                    Some(message) => reply.send(message),
                    None => ignored.push(reply),
                }
                if manner == Manner::Babbles && !others.is_empty() {
                    let victim = others[dice.roll(others.len() as u64) as usize];
                    let (endpoint, message) = (endpoint.clone(), babble(&mut dice));
                    tokio::spawn(async move { endpoint.request(victim, Protocol::Pool, &message).await });
                }
            }
        }))
    }
}

/// Nothing is for requests that are never answered.
fn answer(manner: Manner, protocol: Protocol, dice: &mut Dice) -> Option<Message> {
    let shard = |reply: ShardReply| Some(Message::new(to_canonical(&reply)));
    let pool = |reply: PoolReply| Some(Message::new(to_canonical(&reply)));
    let is_shard = protocol == Protocol::Shard;
    match manner {
        Manner::Ignores => None,
        Manner::Babbles => Some(noise(dice)),
        // It seems to be the best of members to those who bring something, or compare.
        Manner::Forgets if is_shard && dice.roll(2) == 0 => shard(ShardReply::Stored),
        Manner::Forgets if is_shard => shard(ShardReply::Absent),
        Manner::Complains if is_shard => shard(ShardReply::Damaged),
        Manner::Withholds if is_shard => shard(ShardReply::Failed("not now".to_owned())),
        Manner::Forges if is_shard => Some(Message {
            header: to_canonical(&ShardReply::Shard {
                space: SpaceId::from_bytes([1; 32]),
                index: dice.roll(20) as u8,
                descriptor: ByteBuf::from(vec![7; 100]),
            })
            .into(),
            body: vec![9; 1 + dice.roll(200_000) as usize].into(),
        }),
        Manner::Withholds => pool(PoolReply::Failed("not now".to_owned())),
        Manner::Forges => pool(PoolReply::Located(vec![(0..20).collect(); 1 + dice.roll(100) as usize])),
        Manner::Forgets | Manner::Complains => pool(PoolReply::Done),
    }
}

fn noise(dice: &mut Dice) -> Message {
    let byte = dice.roll(256) as u8;
    Message::new(vec![byte; 1 + dice.roll(60_000) as usize])
}

/// Noise, or a lie about what nobody uses any more.
fn babble(dice: &mut Dice) -> Message {
    if dice.roll(2) == 0 {
        return noise(dice);
    }
    let mut id = [0; 32];
    id[..8].copy_from_slice(&dice.roll(u64::MAX).to_le_bytes());
    Message::new(to_canonical(&PoolRequest::Released {
        space: SpaceId::from_bytes(id),
        stripes: vec![StripeId::from_bytes(id); 1 + dice.roll(4096) as usize],
    }))
}
