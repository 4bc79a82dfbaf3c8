//! Doors for the fuzzer: decoders that no other crate sees. Only there when it builds.

use crate::{
    Message, Protocol, bulk,
    tls::TlsStream,
    wire::{Way, read_preamble, read_rest},
};
use futures::io::Cursor;
use libp2p::identity::Keypair;
use potluck_types::limits;
use rustls::{
    ClientConfig, ServerConfig,
    client::UnbufferedClientConnection,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, UnbufferedStatus},
};
use socket2::SockRef;
use std::{
    net::Ipv4Addr,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

/// Bytes that a peer sends on a stream of a protocol. Gives the messages in them.
pub fn stream(protocol: Protocol, bytes: &[u8]) -> Vec<Message> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime without I/O");
    runtime.block_on(async {
        let (mut stream, mut messages) = (Cursor::new(bytes), Vec::new());
        while let Ok(Some(preamble)) = read_preamble(&mut stream, protocol, Way::Request, limits::STALL_TIMEOUT).await {
            match read_rest(&mut stream, &preamble).await {
                Ok(message) => messages.push(message),
                Err(_) => break,
            }
        }
        messages
    })
}

/// A bulk port, and the runtime that it is on.
struct Door {
    runtime: Runtime,
    listener: TcpListener,
    config: Arc<ServerConfig>,
}

fn configs() -> (ClientConfig, ServerConfig) {
    let keypair = Keypair::ed25519_from_bytes([1; 32]).expect("any seed is one");
    bulk::tls(&keypair).expect("it was so before")
}

fn door() -> &'static Door {
    static DOOR: OnceLock<Door> = OnceLock::new();
    DOOR.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        Door {
            runtime,
            listener: listener.expect("a free port"),
            config: Arc::new(configs().1),
        }
    })
}

/// Whether somebody who sends these bytes to the bulk port, and no more, has shaken hands.
///
/// # Panics
/// When it does not end.
pub fn greets(bytes: &[u8]) -> bool {
    let Door {
        runtime,
        listener,
        config,
    } = door();
    let client = async {
        let address = listener.local_addr().expect("it listens");
        let mut tcp = TcpStream::connect(address).await.expect("it listens");
        // The port is free again at once: there are more inputs than ports.
        SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).expect("a socket");
        // Who was refused already hears no more.
        let _ = tcp.write_all(bytes).await;
        let _ = tcp.shutdown().await;
        tcp
    };
    let server = async {
        let (tcp, _) = listener.accept().await.expect("somebody connects");
        SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).expect("a socket");
        let session = UnbufferedServerConnection::new(Arc::clone(config)).expect("it was so before");
        TlsStream::new(tcp, session).await.is_ok()
    };
    let both = async { tokio::join!(client, server) };
    let ended = runtime.block_on(async { tokio::time::timeout(limits::STALL_TIMEOUT, both).await });
    ended.expect("the end of what was sent ends it").1
}

/// How a client greets, for the fuzzer to begin from. Random numbers are in it.
pub fn client_hello() -> Vec<u8> {
    let name = Ipv4Addr::LOCALHOST.into();
    let session = UnbufferedClientConnection::new(Arc::new(configs().0), std::net::IpAddr::V4(name).into());
    let mut session = session.expect("it was so before");
    let UnbufferedStatus { state, .. } = session.process_tls_records(&mut []);
    let Ok(ConnectionState::EncodeTlsData(mut hello)) = state else {
        unreachable!("a client speaks first");
    };
    let mut bytes = vec![0; 4096];
    let len = hello.encode(&mut bytes).expect("there is room");
    bytes.truncate(len);
    bytes
}
