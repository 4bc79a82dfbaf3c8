//! Our behaviour in the swarm: it opens a stream to a peer on command, and takes every stream that peers open.
//!
//! An inbound stream is never dropped for want of a reader. What is limited is how many one peer may have
//! open ([`limits::STREAMS_PER_PEER_MAX`]); an honest opener waits for a place at its own side.

use crate::{
    endpoint::{BoxStream, OpenError},
    routes::is_relayed,
    wire::Protocol,
};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    core::{Endpoint, InboundUpgrade, OutboundUpgrade, UpgradeInfo, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
        NotifyHandler, Stream, StreamUpgradeError, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};
use potluck_types::limits;
use std::{
    collections::{HashMap, HashSet, VecDeque},
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// How long negotiating a stream may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Streams that a peer closed at its side while our task has not noticed yet.
const CLOSING_STREAMS_SLACK: usize = 16;

/// A stream that a peer opened.
pub(crate) struct Inbound {
    pub(crate) peer: PeerId,
    pub(crate) protocol: Protocol,
    pub(crate) stream: Stream,
    pub(crate) place: OwnedSemaphorePermit,
}

/// The wish for a stream, and where it goes.
pub(crate) struct Open {
    protocol: Protocol,
    done: oneshot::Sender<Result<BoxStream, OpenError>>,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Open").field(&self.protocol).finish()
    }
}

/// Negotiates one of some protocols and gives the bare stream.
#[derive(Clone)]
pub(crate) struct Bare(Vec<Protocol>);

impl UpgradeInfo for Bare {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0
            .iter()
            .map(|protocol| StreamProtocol::new(protocol.name()))
            .collect::<Vec<_>>()
            .into_iter()
    }
}

impl InboundUpgrade<Stream> for Bare {
    type Output = (Stream, Option<Protocol>);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, info: StreamProtocol) -> Self::Future {
        ready(Ok((
            stream,
            self.0.into_iter().find(|protocol| protocol.name() == info.as_ref()),
        )))
    }
}

impl OutboundUpgrade<Stream> for Bare {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, _: StreamProtocol) -> Self::Future {
        ready(Ok(stream))
    }
}

/// The part of the behaviour that lives in one connection.
pub(crate) struct Handler {
    peer: PeerId,
    opens: VecDeque<Open>,
    inbound: mpsc::UnboundedSender<Inbound>,
    places: Arc<Semaphore>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = Infallible;
    type InboundProtocol = Bare;
    type OutboundProtocol = Bare;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Open;

    fn listen_protocol(&self) -> SubstreamProtocol<Bare, ()> {
        SubstreamProtocol::new(Bare(Protocol::ALL.to_vec()), ())
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Bare, Open, Infallible>> {
        match self.opens.pop_front() {
            Some(open) => Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(Bare(vec![open.protocol]), open).with_timeout(OPEN_TIMEOUT),
            }),
            None => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, open: Open) {
        self.opens.push_back(open);
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Bare, Bare, (), Open>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, Some(protocol)),
                ..
            }) => match Arc::clone(&self.places).try_acquire_owned() {
                Ok(place) => {
                    let _ = self.inbound.send(Inbound {
                        peer: self.peer,
                        protocol,
                        stream,
                        place,
                    });
                }
                Err(_) => tracing::debug!(peer = %self.peer, "the peer opens more streams than it may: dropped"),
            },
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info }) => {
                let _ = info.done.send(Ok(Box::new(stream)));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                let error = match error {
                    StreamUpgradeError::NegotiationFailed => OpenError::Unsupported,
                    StreamUpgradeError::Timeout => OpenError::Io(io::ErrorKind::TimedOut.into()),
                    StreamUpgradeError::Io(error) => OpenError::Io(error),
                    StreamUpgradeError::Apply(never) => match never {},
                };
                let _ = info.done.send(Err(error));
            }
            _ => {}
        }
    }
}

/// The connections to a peer, and the places for the streams that it opens.
struct Connected {
    direct: HashSet<ConnectionId>,
    relayed: HashSet<ConnectionId>,
    places: Arc<Semaphore>,
}

/// See the module.
pub(crate) struct Behaviour {
    inbound: mpsc::UnboundedSender<Inbound>,
    connected: HashMap<PeerId, Connected>,
    opens: VecDeque<(PeerId, Open)>,
}

impl Behaviour {
    /// Streams that peers open go to `inbound`; it is bounded by what peers may have open.
    pub(crate) fn new(inbound: mpsc::UnboundedSender<Inbound>) -> Self {
        Self {
            inbound,
            connected: HashMap::new(),
            opens: VecDeque::new(),
        }
    }

    pub(crate) fn open(
        &mut self,
        peer: PeerId,
        protocol: Protocol,
        done: oneshot::Sender<Result<BoxStream, OpenError>>,
    ) {
        if self.connected.contains_key(&peer) {
            self.opens.push_back((peer, Open { protocol, done }));
        } else {
            let _ = done.send(Err(OpenError::NotConnected));
        }
    }

    fn handler(&mut self, peer: PeerId, connection: ConnectionId, is_relayed: bool) -> Handler {
        let new = || Connected {
            direct: HashSet::new(),
            relayed: HashSet::new(),
            places: Arc::new(Semaphore::new(limits::STREAMS_PER_PEER_MAX + CLOSING_STREAMS_SLACK)),
        };
        let connected = self.connected.entry(peer).or_insert_with(new);
        if is_relayed {
            connected.relayed.insert(connection);
        } else {
            connected.direct.insert(connection);
        }
        Handler {
            peer,
            opens: VecDeque::new(),
            inbound: self.inbound.clone(),
            places: Arc::clone(&connected.places),
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer, connection, is_relayed(local)))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer, connection, is_relayed(address)))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        let (peer, connection) = match event {
            FromSwarm::ConnectionClosed(closed) => (closed.peer_id, closed.connection_id),
            // Another behaviour denied the connection after this one had made its handler.
            FromSwarm::ListenFailure(failed) => match failed.peer_id {
                Some(peer) => (peer, failed.connection_id),
                None => return,
            },
            FromSwarm::DialFailure(failed) => match failed.peer_id {
                Some(peer) => (peer, failed.connection_id),
                None => return,
            },
            _ => return,
        };
        if let Some(connected) = self.connected.get_mut(&peer) {
            connected.direct.remove(&connection);
            connected.relayed.remove(&connection);
            if connected.direct.is_empty() && connected.relayed.is_empty() {
                self.connected.remove(&peer);
            }
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        match self.opens.pop_front() {
            Some((peer_id, event)) => {
                // A relay is the longer way, and others wait at it. Of direct ways the last is the likeliest to be there still.
                let direct = self
                    .connected
                    .get(&peer_id)
                    .and_then(|connected| connected.direct.iter().max());
                let handler = direct.map_or(NotifyHandler::Any, |connection| NotifyHandler::One(*connection));
                Poll::Ready(ToSwarm::NotifyHandler {
                    peer_id,
                    handler,
                    event,
                })
            }
            None => Poll::Pending,
        }
    }
}

/// A stream with its place among those of its peer.
pub(crate) struct Placed {
    pub(crate) stream: Stream,
    pub(crate) _place: OwnedSemaphorePermit,
}

impl futures::AsyncRead for Placed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl futures::AsyncWrite for Placed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
