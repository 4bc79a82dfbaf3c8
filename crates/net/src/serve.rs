//! The answering side: reads requests off inbound streams, within each peer's budget, and hands them to the node.

use crate::{
    bulk::Bulk,
    endpoint::Shared,
    wire::{self, Message, Protocol, Status},
};
use futures::{AsyncRead, AsyncWrite, AsyncWriteExt};
use potluck_types::{NodeId, limits};
use std::{io, sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

/// How long an opener may keep a stream without using it.
const IDLE_STREAM_TIMEOUT: Duration = Duration::from_secs(120);

/// Anything that a stream can be made of.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A request of a peer, to be answered.
#[derive(Debug)]
pub struct Incoming {
    /// Who asks. The connection has proved its key.
    pub peer: NodeId,
    /// By which protocol.
    pub protocol: Protocol,
    /// What it asks.
    pub message: Message,
    /// Where the answer goes.
    pub reply: Reply,
}

/// The way back to the asker. Dropped unused, it tells the asker that there is no answer.
#[derive(Debug)]
pub struct Reply {
    sender: oneshot::Sender<Message>,
}

impl Reply {
    /// Sends the answer. One who has gone in the meantime is no error.
    pub fn send(self, message: Message) {
        let _ = self.sender.send(message);
    }
}

/// Answers the requests of one stream, until the peer ends it or breaks a rule.
pub(crate) async fn serve<S: Stream>(
    mut stream: S,
    peer: NodeId,
    protocol: Protocol,
    shared: Arc<Shared>,
    requests: mpsc::Sender<Incoming>,
) {
    let outcome = async {
        while let Some(preamble) =
            wire::read_preamble(&mut stream, protocol, wire::Way::Request, IDLE_STREAM_TIMEOUT).await?
        {
            if !(protocol.open_to_strangers() || shared.is_member(peer)) {
                wire::write(&mut stream, Status::NotAMember, &Message::default()).await?;
                break;
            }
            let (message, budget) = {
                let budget = shared.budget(peer, preamble.len()).await;
                (wire::read_rest(&mut stream, &preamble).await?, budget)
            };
            if protocol == Protocol::Lane {
                let ports = shared.bulk().map(Bulk::announcement).unwrap_or_default();
                wire::write(&mut stream, Status::Ok, &Message::new(ports)).await?;
                continue;
            }
            answer(&mut stream, peer, protocol, message, &requests, budget).await?;
        }
        stream.close().await
    };
    let outcome: io::Result<()> = outcome.await;
    if let Err(error) = outcome {
        tracing::debug!(peer = %peer.short(), protocol = protocol.name(), %error, "stream ended");
    }
}

async fn answer<S: Stream>(
    stream: &mut S,
    peer: NodeId,
    protocol: Protocol,
    message: Message,
    requests: &mpsc::Sender<Incoming>,
    _budget: OwnedSemaphorePermit,
) -> io::Result<()> {
    let (sender, receiver) = oneshot::channel();
    let incoming = Incoming {
        peer,
        protocol,
        message,
        reply: Reply { sender },
    };
    let answer = match requests.send(incoming).await {
        Ok(()) => receiver.await.ok(),
        Err(_) => None,
    };
    match answer {
        Some(answer) => wire::write(stream, Status::Ok, &answer).await,
        None => wire::write(stream, Status::Unanswered, &Message::default()).await,
    }
}

const _: () = assert!(limits::PEER_BYTES_IN_FLIGHT_MAX > limits::MESSAGE_BYTES_MAX + limits::SHARD_BYTES_MAX);
