//! A member that has turned: it has the key of a machine and its place in the network, and not its honesty. What it held counts still, until it is asked to prove it.

use bytes::Bytes;
use potluck_net::{Endpoint, Incoming, MemoryNetwork, Message, Protocol};
use potluck_types::{Dice, Hash, NodeId, SpaceId, StripeId, from_canonical_or_later, to_canonical};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::{task::JoinHandle, time::timeout};

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

#[derive(Serialize, Deserialize)]
enum PoolRequest {
    Frontier {
        space: SpaceId,
        #[serde(default)]
        is_chartered: bool,
        /// Left out: then the other tells in any case.
        #[serde(default, skip_serializing)]
        digest: Option<Hash>,
    },
    Compare(Vec<(SpaceId, Hash)>),
    Released {
        space: SpaceId,
        stripes: Vec<StripeId>,
    },
}

#[derive(Serialize)]
enum PoolReply {
    Done,
    Compared(Vec<bool>),
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
    /// It says that it has taken what it is told, and gives for ever what was so when it was asked first, signatures and all: logs, links, members.
    Ages,
}

impl Manner {
    pub(crate) const ALL: [Self; 7] = [
        Self::Forgets,
        Self::Forges,
        Self::Withholds,
        Self::Complains,
        Self::Ignores,
        Self::Babbles,
        Self::Ages,
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
            let (mut ignored, mut past) = (Vec::new(), Past::default());
            loop {
                let incoming = tokio::select! {
                    event = inbox.events.recv() => if event.is_some() { continue } else { return },
                    incoming = inbox.requests.recv() => incoming,
                };
                let Some(Incoming {
                    protocol,
                    message,
                    reply,
                    ..
                }) = incoming
                else {
                    return;
                };
                if manner == Manner::Ages && protocol == Protocol::Pool {
                    match past.answer(&endpoint, &others, &message, &mut dice).await {
                        Some(message) => reply.send(message),
                        None => ignored.push(reply),
                    }
                    continue;
                }
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

/// What was true when it was asked first.
#[derive(Default)]
struct Past(BTreeMap<Bytes, Message>);

impl Past {
    /// It does not know much itself, so it asks others once. Nothing where nobody answers.
    async fn answer(
        &mut self,
        endpoint: &Endpoint,
        others: &[NodeId],
        asked: &Message,
        dice: &mut Dice,
    ) -> Option<Message> {
        let done = Some(Message::new(to_canonical(&PoolReply::Done)));
        let question = match from_canonical_or_later::<PoolRequest>(&asked.header) {
            // It knows all that one could bring, or wants to tell what it knows.
            Ok(PoolRequest::Compare(spaces)) => {
                let same = spaces.iter().map(|_| dice.roll(2) == 0).collect();
                return Some(Message::new(to_canonical(&PoolReply::Compared(same))));
            }
            Ok(PoolRequest::Released { .. }) => return done,
            Ok(frontier @ PoolRequest::Frontier { .. }) => Message::new(to_canonical(&frontier)),
            Err(_) if TELLING.contains(&kind(&asked.header)) => return done,
            Err(_) => asked.clone(),
        };
        if !self.0.contains_key(&question.header) {
            for other in others {
                let asked = endpoint.request(*other, Protocol::Pool, &question);
                if let Ok(Ok(answer)) = timeout(PATIENCE, asked).await
                    && kind(&answer.header) != b"Failed"
                {
                    self.0.insert(question.header.clone(), answer);
                    break;
                }
            }
        }
        self.0.get(&question.header).cloned()
    }
}

/// How long it waits for each of the others.
const PATIENCE: Duration = Duration::from_secs(1);
/// Requests that tell something and ask nothing.
const TELLING: [&[u8]; 4] = [b"Append", b"CheckReports", b"Records", b"Report"];

/// Which of the forms of a choice it is: a text, or a map with one.
fn kind(header: &[u8]) -> &[u8] {
    let text = header.strip_prefix(&[0xa1]).unwrap_or(header);
    let Some((first, text)) = text.split_first() else {
        return &[];
    };
    &text[..text.len().min(usize::from(first & 0x1f))]
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
        Manner::Withholds | Manner::Ages if is_shard => shard(ShardReply::Failed("not now".to_owned())),
        Manner::Forges if is_shard => Some(Message {
            header: to_canonical(&ShardReply::Shard {
                space: SpaceId::from_bytes([1; 32]),
                index: dice.roll(20) as u8,
                descriptor: ByteBuf::from(vec![7; 100]),
            })
            .into(),
            body: vec![9; 1 + dice.roll(200_000) as usize].into(),
        }),
        Manner::Withholds | Manner::Ages => pool(PoolReply::Failed("not now".to_owned())),
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
