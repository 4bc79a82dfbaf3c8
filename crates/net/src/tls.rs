//! TLS on a TCP connection, driven through rustls's unbuffered interface: records are decrypted where they were received, and many travel in
//! one system call. Buffers of rustls's own would be filled 4 KiB and emptied 16 KiB at a time, and copied once more in between.
//!
//! What is written is sent when enough of it has come together, or by a flush. A connection that waits for its next message holds no buffers.

use bytes::{Buf, BytesMut};
use futures::{AsyncRead, AsyncWrite};
use rustls::{
    CommonState,
    client::{ClientConnectionData, UnbufferedClientConnection},
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{AppDataRecord, ConnectionState, UnbufferedStatus},
};
use std::{
    error::Error,
    future::poll_fn,
    io,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::{io::AsyncWrite as _, net::TcpStream};
use tokio_util::io::poll_read_buf;

/// A record with the most that any may carry and add (RFC 8446, section 5.2).
const RECORD_BYTES_MAX: usize = 5 + (16 << 10) + 256;
/// What is received before it is decrypted: eight records, which still lie in a core's cache then.
const RECEIVE_BYTES: usize = 8 * RECORD_BYTES_MAX;
/// What is encrypted before it is sent: as much.
const SEND_BYTES: usize = 8 * (16 << 10);

/// One end of a connection as rustls has it.
pub(crate) trait Session: Send + Unpin {
    /// What it knows besides.
    type Data;
    /// What follows from the records at the front of these bytes.
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    /// What both ends have.
    fn common(&self) -> &CommonState;
}

impl Session for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

impl Session for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

/// See the module.
pub(crate) struct TlsStream<S> {
    tcp: TcpStream,
    session: S,
    /// Received, and not decrypted.
    incoming: BytesMut,
    /// Decrypted, and not read: the end of a record that its reader had no room for.
    plain: BytesMut,
    outgoing: Outgoing,
}

/// Encrypted, and not sent.
#[derive(Default)]
struct Outgoing {
    /// Grows to what one sending takes, and is zeroed but once.
    buffer: Vec<u8>,
    /// What of it waits.
    waiting: Range<usize>,
}

/// Where a connection is once all that came was worked off.
#[derive(PartialEq, Eq)]
enum Stage {
    /// The handshake waits for the peer.
    Handshake,
    Open,
    /// The peer sends nothing more.
    Closed,
}

impl<S: Session> TlsStream<S> {
    /// Shakes hands.
    pub(crate) async fn new(tcp: TcpStream, session: S) -> io::Result<Self> {
        let mut stream = Self {
            tcp,
            session,
            incoming: BytesMut::new(),
            plain: BytesMut::new(),
            outgoing: Outgoing::default(),
        };
        poll_fn(|cx| {
            loop {
                let (stage, _) = stream.turn(&mut [], &[])?;
                ready!(stream.poll_send(cx))?;
                if stage == Stage::Open {
                    return Poll::Ready(Ok(()));
                }
                if stage == Stage::Closed || ready!(stream.poll_receive(cx))? == 0 {
                    return Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof)));
                }
            }
        })
        .await?;
        Ok(stream)
    }

    /// What both ends know of the connection.
    pub(crate) fn common(&self) -> &CommonState {
        self.session.common()
    }

    /// Works off what came, and then encrypts `text` if the connection is open. Tells how many bytes were decrypted into `buffer`; what
    /// finds no room there waits in `plain`.
    fn turn(&mut self, buffer: &mut [u8], text: &[u8]) -> io::Result<(Stage, usize)> {
        let mut read = 0;
        loop {
            let UnbufferedStatus { mut discard, state } = self.session.process(&mut self.incoming);
            let stage = match state.map_err(invalid)? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let AppDataRecord { discard: more, payload } = record.map_err(invalid)?;
                        discard += more;
                        let (now, later) = payload.split_at(payload.len().min(buffer.len() - read));
                        buffer[read..read + now.len()].copy_from_slice(now);
                        read += now.len();
                        self.plain.extend_from_slice(later);
                    }
                    // The rest of what came waits for a reader with room for it.
                    (text.is_empty() && read == buffer.len()).then_some(Stage::Open)
                }
                ConnectionState::EncodeTlsData(mut message) => {
                    self.outgoing.append(0, |room| message.encode(room))?;
                    None
                }
                // It goes with what is sent next.
                ConnectionState::TransmitTlsData(sent) => {
                    sent.done();
                    None
                }
                ConnectionState::WriteTraffic(mut traffic) => {
                    self.outgoing.append(text.len(), |room| traffic.encrypt(text, room))?;
                    Some(Stage::Open)
                }
                ConnectionState::BlockedHandshake => Some(Stage::Handshake),
                ConnectionState::PeerClosed | ConnectionState::Closed => Some(Stage::Closed),
                other => return Err(invalid(format!("unexpected: {other:?}"))),
            };
            self.incoming.advance(discard);
            if let Some(stage) = stage {
                return Ok((stage, read));
            }
        }
    }

    /// Receives what is there; 0 bytes when the peer has ended the connection.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.tcp.poll_read_ready(cx)?.is_pending() {
            if self.incoming.is_empty() {
                self.incoming = BytesMut::new();
            }
            return Poll::Pending;
        }
        let room = self.incoming.capacity() - self.incoming.len();
        if self.incoming.is_empty() || room < RECORD_BYTES_MAX {
            self.incoming.reserve(RECEIVE_BYTES - self.incoming.len());
        }
        poll_read_buf(Pin::new(&mut self.tcp), cx, &mut self.incoming)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Outgoing { buffer, waiting } = &mut self.outgoing;
        while waiting.start < waiting.end {
            let sent = ready!(Pin::new(&mut self.tcp).poll_write(cx, &buffer[waiting.clone()]))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            waiting.start += sent;
        }
        *waiting = 0..0;
        Poll::Ready(Ok(()))
    }
}

impl Outgoing {
    /// Lets `encode` add records with `len` bytes of text at most, behind one that TLS itself has to send.
    fn append<E: Error + Send + Sync + 'static>(
        &mut self,
        len: usize,
        encode: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> io::Result<()> {
        let room = self.waiting.end + len.next_multiple_of(RECORD_BYTES_MAX) + RECORD_BYTES_MAX;
        if self.buffer.len() < room {
            self.buffer.resize(room, 0);
        }
        self.waiting.end += encode(&mut self.buffer[self.waiting.end..]).map_err(invalid)?;
        Ok(())
    }
}

impl<S: Session> AsyncRead for TlsStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.plain.is_empty() {
            let len = this.plain.len().min(buffer.len());
            this.plain.copy_to_slice(&mut buffer[..len]);
            return Poll::Ready(Ok(len));
        }
        this.plain = BytesMut::new();
        loop {
            let (stage, read) = this.turn(buffer, &[])?;
            if read > 0 || buffer.is_empty() || stage == Stage::Closed {
                return Poll::Ready(Ok(read));
            }
            if ready!(this.poll_receive(cx))? == 0 {
                let whole = this.incoming.is_empty();
                return Poll::Ready(if whole {
                    Ok(0)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                });
            }
        }
    }
}

impl<S: Session> AsyncWrite for TlsStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, text: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.outgoing.waiting.len() >= SEND_BYTES {
            ready!(this.poll_send(cx))?;
        }
        let text = &text[..text.len().min(SEND_BYTES)];
        match this.turn(&mut [], text)? {
            (Stage::Open, _) => Poll::Ready(Ok(text.len())),
            _ => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        this.outgoing = Outgoing::default();
        Poll::Ready(Ok(()))
    }

    /// Ends the connection. The messages on it say how long they are, so that it needs no farewell of TLS's own.
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.tcp).poll_shutdown(cx)
    }
}

fn invalid(error: impl Into<Box<dyn Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bulk;
    use futures::{AsyncReadExt, AsyncWriteExt};
    use libp2p::identity::Keypair;
    use std::sync::Arc;
    use tokio::net::TcpListener;

    async fn pair() -> (
        TlsStream<UnbufferedClientConnection>,
        TlsStream<UnbufferedServerConnection>,
    ) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, server) = bulk::tls(&Keypair::generate_ed25519()).unwrap();
        let client = async {
            let tcp = TcpStream::connect(address).await.unwrap();
            let name = address.ip().into();
            TlsStream::new(tcp, UnbufferedClientConnection::new(Arc::new(client), name).unwrap()).await
        };
        let server = async {
            let (tcp, _) = listener.accept().await.unwrap();
            TlsStream::new(tcp, UnbufferedServerConnection::new(Arc::new(server)).unwrap()).await
        };
        let (client, server) = tokio::join!(client, server);
        (client.unwrap(), server.unwrap())
    }

    #[tokio::test]
    async fn bytes_written_in_any_pieces_are_read_in_any_pieces() {
        let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
        let (client, server) = pair().await;
        let (mut client_reads, mut client_writes) = client.split();
        let (mut server_reads, mut server_writes) = server.split();
        // Both directions at once, so that each writer has records to pass on to the reader.
        let there = async {
            for piece in bytes.chunks(70_001) {
                client_writes.write_all(piece).await.unwrap();
            }
            client_writes.close().await.unwrap();
        };
        let back = async {
            for piece in bytes.chunks(1_000_003) {
                server_writes.write_all(piece).await.unwrap();
                server_writes.flush().await.unwrap();
            }
        };
        let arrives = async {
            let mut read = vec![0; bytes.len()];
            for piece in read.chunks_mut(1009) {
                server_reads.read_exact(piece).await.unwrap();
            }
            assert!(read == bytes);
            assert_eq!(server_reads.read(&mut [0; 9]).await.unwrap(), 0);
        };
        let returns = async {
            let mut read = vec![0; bytes.len()];
            client_reads.read_exact(&mut read).await.unwrap();
            assert!(read == bytes);
        };
        tokio::join!(there, back, arrives, returns);
    }

    #[tokio::test]
    async fn a_record_that_is_cut_off_is_an_error() {
        let (mut client, mut server) = pair().await;
        client.write_all(&[7; 1000]).await.unwrap();
        client.outgoing.waiting.end -= 1;
        client.close().await.unwrap();
        let error = server.read(&mut [0; 1000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_changed_record_is_an_error() {
        let (mut client, mut server) = pair().await;
        client.write_all(&[7; 1000]).await.unwrap();
        client.outgoing.buffer[100] ^= 1;
        client.flush().await.unwrap();
        let error = server.read(&mut [0; 1000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
