//! The bulk lane: shards travel on TCP connections of their own, with TLS 1.3 under the certificates of libp2p and no multiplexer, wherever both
//! ends reach each other directly. Elsewhere they travel on libp2p streams, as all else does.
//!
//! A node says on request (`/potluck/lane/1`) at which ports its lane listens; the host is the one that the two are
//! connected by already. What lies on a lane is what lies on a stream of `/potluck/shard/1` (see `wire`), and the same budgets hold.

use crate::{
    Listen,
    address::node_id,
    endpoint::{BoxStream, Shared},
    serve::{self, Incoming},
    tls::{Session, TlsStream},
    wire::Protocol,
};
use libp2p::{identity::Keypair, tls::certificate};
use potluck_types::{NodeId, limits};
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig,
    SignatureScheme,
    client::{
        ResolvesClientCert, Resumption, UnbufferedClientConnection,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        NoServerSessionStorage, UnbufferedServerConnection,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, SingleCertAndKey},
};
#[cfg(target_os = "linux")]
use socket2::SockRef;
use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::timeout,
};

const ALPN: &[u8] = b"potluck/bulk/1";
/// See [`prepare`]: as much as is encrypted at a time.
const UNSENT_BYTES_MAX: u32 = 128 << 10;
/// How long a connection and its handshake may take. A direct neighbour answers in milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long no lane is tried to a node whose lane did not answer: it is behind a firewall, most likely.
const SHUT_TIME: Duration = Duration::from_secs(60);
/// Handshakes under way at once; more are hung up on.
const HANDSHAKES_MAX: usize = 64;
/// Lanes that one peer may have open towards us; it closes some while it opens others.
const LANES_PER_PEER_MAX: usize = Protocol::Shard.requests_max() + 16;
/// How long accepting waits after the operating system had no connection to give, for want of file descriptors most likely.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Where a peer's lane is.
#[derive(Clone, Copy)]
enum Route {
    Unknown,
    At(SocketAddr),
    Shut { until: Instant },
}

/// Both sides of the lane.
pub(crate) struct Bulk {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    ports: Vec<u16>,
    routes: Mutex<HashMap<NodeId, Arc<tokio::sync::Mutex<Route>>>>,
    places: Mutex<HashMap<NodeId, Arc<Semaphore>>>,
}

/// Listens beside each of these addresses: at the next port if one was asked for and the next is free, else at any.
pub(crate) async fn listen(addresses: &[Listen], keypair: &Keypair) -> Result<(Bulk, Vec<TcpListener>), String> {
    let mut listeners = Vec::new();
    for Listen(address) in addresses {
        let beside = match address.port() {
            0 => None,
            port => port.checked_add(1),
        };
        let listener = match beside {
            Some(port) => match TcpListener::bind((address.ip(), port)).await {
                Ok(listener) => Ok(listener),
                Err(_) => TcpListener::bind((address.ip(), 0)).await,
            },
            None => TcpListener::bind((address.ip(), 0)).await,
        };
        listeners.push(listener.map_err(|error| error.to_string())?);
    }
    let ports = listeners
        .iter()
        .map(|listener| listener.local_addr().map(|address| address.port()))
        .collect::<io::Result<_>>()
        .map_err(|error| error.to_string())?;
    let (client, server) = tls(keypair).map_err(|error| error.to_string())?;
    let bulk = Bulk {
        client: Arc::new(client),
        server: Arc::new(server),
        ports,
        routes: Mutex::default(),
        places: Mutex::default(),
    };
    Ok((bulk, listeners))
}

impl Bulk {
    /// The ports of our lane, as they are sent: two bytes each, little-endian.
    pub(crate) fn announcement(&self) -> Vec<u8> {
        self.ports.iter().flat_map(|port| port.to_le_bytes()).collect()
    }

    /// Forgets a peer that is gone.
    pub(crate) fn forget(&self, peer: NodeId) {
        self.routes.lock().expect("never poisoned").remove(&peer);
        self.places.lock().expect("never poisoned").remove(&peer);
    }

    /// A new connection to a peer's lane; `None` when there is no way to it. `ask` gets the peer's announcement.
    pub(crate) async fn open(
        &self,
        peer: NodeId,
        host: IpAddr,
        ask: impl AsyncFnOnce() -> Option<Vec<u8>>,
    ) -> Option<BoxStream> {
        let route = {
            let mut routes = self.routes.lock().expect("never poisoned");
            Arc::clone(
                routes
                    .entry(peer)
                    .or_insert_with(|| Arc::new(tokio::sync::Mutex::new(Route::Unknown))),
            )
        };
        // Those who come first find the way for all who wait here.
        let mut found = route.lock().await;
        match *found {
            Route::Shut { until } if Instant::now() < until => return None,
            Route::At(address) => {
                drop(found);
                let stream = self.connect(peer, address).await;
                if stream.is_none() {
                    *route.lock().await = Route::Unknown;
                }
                return stream;
            }
            Route::Unknown | Route::Shut { .. } => {}
        }
        for port in ask()
            .await
            .unwrap_or_default()
            .chunks_exact(2)
            .take(limits::ADDRESSES_MAX)
        {
            let address = SocketAddr::new(host, u16::from_le_bytes([port[0], port[1]]));
            if let Some(stream) = self.connect(peer, address).await {
                *found = Route::At(address);
                return Some(stream);
            }
        }
        tracing::debug!(peer = %peer.short(), %host, "no bulk lane: shards travel on streams");
        *found = Route::Shut {
            until: Instant::now() + SHUT_TIME,
        };
        None
    }

    async fn connect(&self, peer: NodeId, address: SocketAddr) -> Option<BoxStream> {
        let connecting = async {
            let tcp = TcpStream::connect(address).await?;
            prepare(&tcp)?;
            let name = ServerName::IpAddress(address.ip().into());
            let session = UnbufferedClientConnection::new(Arc::clone(&self.client), name).map_err(io::Error::other)?;
            let stream = TlsStream::new(tcp, session).await?;
            if peer_of(&stream) == Some(peer) {
                Ok(stream)
            } else {
                Err(io::Error::new(io::ErrorKind::InvalidData, "another node answers there"))
            }
        };
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(stream)) => Some(Box::new(stream)),
            Ok(Err(error)) => {
                tracing::debug!(peer = %peer.short(), %address, %error, "the bulk lane does not open");
                None
            }
            Err(_) => {
                tracing::debug!(peer = %peer.short(), %address, "the bulk lane does not answer");
                None
            }
        }
    }

    fn places(&self, peer: NodeId) -> Arc<Semaphore> {
        let mut places = self.places.lock().expect("never poisoned");
        Arc::clone(
            places
                .entry(peer)
                .or_insert_with(|| Arc::new(Semaphore::new(LANES_PER_PEER_MAX))),
        )
    }
}

/// Serves a lane until the task is dropped, and all its connections with it.
pub(crate) async fn accept(listener: TcpListener, shared: Arc<Shared>, requests: mpsc::Sender<Incoming>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((tcp, _)) => {
                    if let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() {
                        let (shared, requests) = (Arc::clone(&shared), requests.clone());
                        connections.spawn(async move {
                            let greeted = timeout(CONNECT_TIMEOUT, greet(&shared, tcp)).await;
                            drop(permit);
                            match greeted {
                                Ok(Ok((stream, peer))) => welcome(stream, peer, shared, requests).await,
                                Ok(Err(error)) => tracing::debug!(%error, "a bulk lane was not accepted"),
                                Err(_) => tracing::debug!("a bulk lane was not greeted in time"),
                            }
                        });
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "no connection could be accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

type Accepted = TlsStream<UnbufferedServerConnection>;

/// Little waits in the system to be sent, so that what was written was nearly sent: on a narrow way, a buffer of megabytes would take longer
/// than a peer is waited for.
fn prepare(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    SockRef::from(tcp).set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    Ok(())
}

async fn greet(shared: &Shared, tcp: TcpStream) -> io::Result<(Accepted, NodeId)> {
    prepare(&tcp)?;
    let config = shared.bulk().map(|bulk| Arc::clone(&bulk.server));
    let config = config.ok_or(io::ErrorKind::NotConnected)?;
    let session = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
    let stream = TlsStream::new(tcp, session).await?;
    match peer_of(&stream) {
        Some(peer) if shared.is_member(peer) => Ok((stream, peer)),
        _ => Err(io::Error::new(io::ErrorKind::PermissionDenied, "no member")),
    }
}

async fn welcome(stream: Accepted, peer: NodeId, shared: Arc<Shared>, requests: mpsc::Sender<Incoming>) {
    let Some(places) = shared.bulk().map(|bulk| bulk.places(peer)) else {
        return;
    };
    match places.try_acquire_owned() {
        Ok(_place) => serve::serve(stream, peer, Protocol::Shard, shared, requests).await,
        Err(_) => tracing::debug!(peer = %peer.short(), "the peer opens more lanes than it may: dropped"),
    }
}

/// Whose certificate the other end has shown. The handshake has proved that it holds the key.
fn peer_of<S: Session>(stream: &TlsStream<S>) -> Option<NodeId> {
    let certificates = stream.common().peer_certificates()?;
    let certificate = certificate::parse(certificates.first()?).ok()?;
    node_id(&certificate.peer_id())
}

/// TLS 1.3 under one certificate that both sides of the lane show, made as
/// <https://github.com/libp2p/specs/blob/master/tls/tls.md> says.
pub(crate) fn tls(keypair: &Keypair) -> Result<(ClientConfig, ServerConfig), Box<dyn std::error::Error + Send + Sync>> {
    let (certificate, key) = certificate::generate(keypair)?;
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    // The first that the client offers is taken. What travels here is sealed with AES-256 already: the fastest will do.
    let fastest = if has_aes() {
        CipherSuite::TLS13_AES_128_GCM_SHA256
    } else {
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
    };
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != fastest);
    let provider = Arc::new(provider);
    // Not through rustls's own check of the certificate, which knows nothing of libp2p's extension.
    let key = provider.key_provider.load_private_key(key)?;
    let certified = Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key)));
    let verifier = Arc::new(Verifier);
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&verifier) as Arc<dyn ServerCertVerifier>)
        .with_client_cert_resolver(Arc::clone(&certified) as Arc<dyn ResolvesClientCert>);
    client.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would have to be checked against the members again: a new handshake takes a millisecond.
    client.resumption = Resumption::disabled();
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certified);
    server.alpn_protocols = vec![ALPN.to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    Ok((client, server))
}

#[cfg(target_arch = "x86_64")]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

/// Takes every certificate that is one of libp2p's; whose it is, is checked after the handshake.
#[derive(Debug)]
struct Verifier;

impl Verifier {
    fn check(certificate: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let wrong = rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        if !others.is_empty() {
            return Err(wrong);
        }
        certificate::parse(certificate).map(drop).map_err(|_| wrong)
    }

    fn check_signature(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let wrong = |error| rustls::Error::InvalidCertificate(error);
        certificate::parse(certificate)
            .map_err(|_| wrong(CertificateError::BadEncoding))?
            .verify_signature(signed.scheme, message, signed.signature())
            .map_err(|_| wrong(CertificateError::BadSignature))?;
        Ok(HandshakeSignatureValid::assertion())
    }

    fn schemes() -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ED25519,
        ]
    }

    fn no_tls12() -> rustls::Error {
        rustls::Error::General("TLS 1.3 only".to_owned())
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Self::check(certificate, others).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(Self::no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Self::check(certificate, others).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(Self::no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{self, Message, Status};
    use std::collections::BTreeSet;

    const HOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn keypair(seed: u8) -> (Keypair, NodeId) {
        let keypair = Keypair::ed25519_from_bytes([seed; 32]).unwrap();
        let id = node_id(&keypair.public().to_peer_id()).unwrap();
        (keypair, id)
    }

    async fn lane(keypair: &Keypair) -> (Bulk, Vec<TcpListener>) {
        listen(&["127.0.0.1:0".parse().unwrap()], keypair).await.unwrap()
    }

    /// Asks over a lane, and gives the answer's body.
    async fn ask(stream: &mut BoxStream) -> io::Result<usize> {
        let message = Message {
            header: vec![1].into(),
            body: vec![2; 1_000_000].into(),
        };
        wire::write(stream, Status::Ok, &message).await?;
        let preamble = wire::read_preamble(stream, Protocol::Shard, wire::Way::Reply, limits::STALL_TIMEOUT).await?;
        let preamble = preamble.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(wire::read_rest(stream, &preamble).await?.body.len())
    }

    #[tokio::test]
    async fn a_lane_is_for_members_and_for_who_was_meant() {
        let ((us, me), (them, you), (stranger, nobody)) = (keypair(1), keypair(2), keypair(3));
        let (theirs, listeners) = lane(&them).await;
        let announcement = theirs.announcement();
        let shared = Arc::new(Shared::default());
        shared.set_bulk(theirs);
        shared.set_members(BTreeSet::from([me]));
        let (requests, mut receiver) = mpsc::channel(1);
        for listener in listeners {
            tokio::spawn(accept(listener, Arc::clone(&shared), requests.clone()));
        }
        tokio::spawn(async move {
            while let Some(Incoming { message, reply, .. }) = receiver.recv().await {
                reply.send(message);
            }
        });
        let ports = announcement.clone();
        let (ours, _) = lane(&us).await;
        let mut open = ours.open(you, HOST, async || Some(ports)).await.unwrap();
        assert_eq!(ask(&mut open).await.unwrap(), 1_000_000);
        // The way is known now, and nobody is asked.
        let mut again = ours.open(you, HOST, async || unreachable!()).await.unwrap();
        assert_eq!(ask(&mut again).await.unwrap(), 1_000_000);
        // Somebody else than was meant.
        let ports = announcement.clone();
        assert!(ours.open(nobody, HOST, async || Some(ports)).await.is_none());
        assert!(ours.open(nobody, HOST, async || unreachable!()).await.is_none());
        // One who is no member has no answer.
        let (foreign, _) = lane(&stranger).await;
        if let Some(mut open) = foreign.open(you, HOST, async || Some(announcement)).await {
            assert!(ask(&mut open).await.is_err());
        }
    }

    #[tokio::test]
    async fn a_port_that_says_nothing_is_given_up() {
        let ((us, _), (_, you)) = (keypair(1), keypair(2));
        let silent = TcpListener::bind((HOST, 0)).await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let (ours, _) = lane(&us).await;
        let announced = port.to_le_bytes().to_vec();
        assert!(ours.open(you, HOST, async || Some(announced)).await.is_none());
        assert!(ours.open(you, HOST, async || unreachable!()).await.is_none());
    }
}
