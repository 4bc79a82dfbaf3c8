//! How requests lie on a stream.
//!
//! A stream carries one request and its reply, then perhaps the next request: the opener may keep it and use it
//! again, so that its flow-control window stays grown. Each message is
//!
//! ```text
//! status  u8      0 in a request; in a reply 0, or why there is none (see `Status`)
//! header  u32 LE  length in bytes, at most the protocol's limit
//! body    u32 LE  length in bytes, at most the protocol's limit
//! header bytes, body bytes
//! ```

use bytes::{Bytes, BytesMut};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use potluck_types::limits;
use std::{io, time::Duration};
use tokio::time::timeout;

/// A protocol of the pool: its name on the wire, who may open it, and how large its messages are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Protocol {
    /// Asking to be let in: the only one open to strangers.
    Join,
    /// Asking where the peer's bulk lane is. Answered by the network itself.
    Lane,
    /// Control: membership, reports, names.
    Pool,
    /// Shards.
    Shard,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Join, Self::Lane, Self::Pool, Self::Shard];

    /// The name that is negotiated.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Join => "/potluck/join/1",
            Self::Lane => "/potluck/lane/1",
            Self::Pool => "/potluck/pool/1",
            Self::Shard => "/potluck/shard/1",
        }
    }

    /// Whether one who is no member may open it.
    pub const fn open_to_strangers(self) -> bool {
        matches!(self, Self::Join)
    }

    /// Requests that one node may have under way at another at once; more wait at the asker.
    pub(crate) const fn requests_max(self) -> usize {
        match self {
            Self::Join => 2,
            Self::Lane => 2,
            Self::Pool => 24,
            Self::Shard => 36,
        }
    }

    const fn header_bytes_max(self, way: Way) -> usize {
        match (self, way) {
            // Who is let in gets the records of all members.
            (Self::Join, Way::Reply) | (Self::Pool, _) => limits::MESSAGE_BYTES_MAX,
            (Self::Join, Way::Request) | (Self::Shard, _) => 64 << 10,
            (Self::Lane, _) => 2 * limits::ADDRESSES_MAX,
        }
    }

    const fn body_bytes_max(self) -> usize {
        match self {
            Self::Join | Self::Lane | Self::Pool => 0,
            Self::Shard => limits::SHARD_BYTES_MAX,
        }
    }
}

/// Which way a message goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    Request,
    Reply,
}

/// A request or a reply: a header that is decoded whole, and a body that is passed on as it is.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Message {
    /// An encoded record.
    pub header: Bytes,
    /// Bulk bytes, often none.
    pub body: Bytes,
}

impl Message {
    /// A message without a body.
    pub fn new(header: impl Into<Bytes>) -> Self {
        Self {
            header: header.into(),
            body: Bytes::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.header.len() + self.body.len()
    }
}

/// The first byte of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Status {
    Ok = 0,
    /// The asker is no member.
    NotAMember = 1,
    /// The node gave no answer: it is stopping, or could not make sense of the request.
    Unanswered = 2,
}

impl Status {
    fn from_byte(byte: u8) -> io::Result<Self> {
        match byte {
            0 => Ok(Self::Ok),
            1 => Ok(Self::NotAMember),
            2 => Ok(Self::Unanswered),
            other => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("status {other} has no meaning"),
            )),
        }
    }
}

const _: () = assert!(
    Protocol::Join.requests_max()
        + Protocol::Lane.requests_max()
        + Protocol::Pool.requests_max()
        + Protocol::Shard.requests_max()
        == limits::STREAMS_PER_PEER_MAX
);

const PREAMBLE_BYTES: usize = 9;

/// How much memory is made ready at a time for what is read.
const STEP_BYTES: usize = 256 << 10;

fn stalled(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

/// Writes a message, and gives up when the peer takes nothing for [`limits::STALL_TIMEOUT`].
pub(crate) async fn write<S: AsyncWrite + Unpin>(stream: &mut S, status: Status, message: &Message) -> io::Result<()> {
    let mut head = BytesMut::with_capacity(PREAMBLE_BYTES + message.header.len());
    head.extend_from_slice(&[status as u8]);
    for part in [&message.header, &message.body] {
        let len = u32::try_from(part.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        head.extend_from_slice(&len.to_le_bytes());
    }
    head.extend_from_slice(&message.header);
    for mut part in [&head[..], &message.body] {
        while !part.is_empty() {
            let written = timeout(limits::STALL_TIMEOUT, stream.write(part))
                .await
                .map_err(|_| stalled("the peer takes nothing"))??;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            part = &part[written..];
        }
    }
    timeout(limits::STALL_TIMEOUT, stream.flush())
        .await
        .map_err(|_| stalled("the peer takes nothing"))?
}

/// The lengths that a peer announces, checked against the protocol's limits before anything is allocated.
#[derive(Debug)]
pub(crate) struct Preamble {
    pub(crate) status: Status,
    header: usize,
    body: usize,
}

impl Preamble {
    /// What reading the rest takes in memory.
    pub(crate) fn len(&self) -> usize {
        self.header + self.body
    }
}

/// Reads the start of a message; `None` when the stream ends cleanly before it. The first byte may take
/// `patience`: the answer to a request waits for a disk, the next request on an idle stream for a user.
pub(crate) async fn read_preamble<S: AsyncRead + Unpin>(
    stream: &mut S,
    protocol: Protocol,
    way: Way,
    patience: Duration,
) -> io::Result<Option<Preamble>> {
    let mut bytes = [0; PREAMBLE_BYTES];
    let first = timeout(patience, stream.read(&mut bytes))
        .await
        .map_err(|_| stalled("the peer sends nothing"))??;
    if first == 0 {
        return Ok(None);
    }
    timeout(limits::STALL_TIMEOUT, stream.read_exact(&mut bytes[first..]))
        .await
        .map_err(|_| stalled("the peer stopped in the middle of a message"))??;
    let length = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
    let preamble = Preamble {
        status: Status::from_byte(bytes[0])?,
        header: length(1),
        body: length(5),
    };
    if preamble.header > protocol.header_bytes_max(way) || preamble.body > protocol.body_bytes_max() {
        let text = format!(
            "a message of {} + {} bytes is over the limit",
            preamble.header, preamble.body
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(Some(preamble))
}

/// Reads the rest of a message, and gives up when nothing comes for [`limits::STALL_TIMEOUT`].
pub(crate) async fn read_rest<S: AsyncRead + Unpin>(stream: &mut S, preamble: &Preamble) -> io::Result<Message> {
    Ok(Message {
        header: read_part(stream, preamble.header).await?,
        body: read_part(stream, preamble.body).await?,
    })
}

/// The length is within the protocol's limit and, in a request, within what the peer may have in our memory.
async fn read_part<S: AsyncRead + Unpin>(stream: &mut S, len: usize) -> io::Result<Bytes> {
    let mut part = Vec::with_capacity(len);
    let mut read = 0;
    while read < len {
        if read == part.len() {
            // A step at a time, so that what is zeroed is still in the core's cache when it is filled.
            part.resize(len.min(read + STEP_BYTES), 0);
        }
        read += match timeout(limits::STALL_TIMEOUT, stream.read(&mut part[read..])).await {
            Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(outcome) => outcome?,
            Err(_) => return Err(stalled("the peer stopped in the middle of a message")),
        };
    }
    Ok(part.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::io::Cursor;

    #[tokio::test]
    async fn a_message_comes_back() {
        for (header, body) in [
            (0, 0),
            (10, 0),
            (3, STEP_BYTES * 3 + 1),
            (64 << 10, limits::SHARD_BYTES_MAX),
        ] {
            let message = Message {
                header: vec![7; header].into(),
                body: vec![9; body].into(),
            };
            let mut stream = Cursor::new(Vec::new());
            write(&mut stream, Status::Ok, &message).await.unwrap();
            stream.set_position(0);
            let preamble = read_preamble(&mut stream, Protocol::Shard, Way::Request, limits::STALL_TIMEOUT)
                .await
                .unwrap()
                .unwrap();
            assert_eq!(read_rest(&mut stream, &preamble).await.unwrap(), message);
            assert!(
                read_preamble(&mut stream, Protocol::Shard, Way::Request, limits::STALL_TIMEOUT)
                    .await
                    .unwrap()
                    .is_none()
            );
        }
    }

    #[tokio::test]
    async fn announced_lengths_are_limited() {
        let check = async |bytes: &[u8]| {
            let mut stream = Cursor::new(bytes.to_vec());
            assert!(
                read_preamble(&mut stream, Protocol::Shard, Way::Request, limits::STALL_TIMEOUT)
                    .await
                    .is_err()
            );
        };
        check(&[0, 255, 255, 255, 255, 0, 0, 0, 0]).await;
        check(&[0, 0, 0, 0, 0, 255, 255, 255, 127]).await;
        check(&[9, 0, 0, 0, 0, 0, 0, 0, 0]).await;
        check(&[0, 0, 0]).await;
    }

    #[tokio::test]
    async fn a_stranger_asks_briefly_and_may_be_told_of_a_whole_pool() {
        let a_megabyte = [0, 0, 0, 16, 0, 0, 0, 0, 0];
        for (way, is_allowed) in [(Way::Request, false), (Way::Reply, true)] {
            let mut stream = Cursor::new(a_megabyte.to_vec());
            let read = read_preamble(&mut stream, Protocol::Join, way, limits::STALL_TIMEOUT).await;
            assert_eq!(read.is_ok(), is_allowed, "{way:?}");
        }
    }

    #[tokio::test]
    async fn a_cut_message_is_an_error() {
        let mut stream = Cursor::new(vec![0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        let preamble = read_preamble(&mut stream, Protocol::Pool, Way::Request, limits::STALL_TIMEOUT)
            .await
            .unwrap()
            .unwrap();
        assert!(read_rest(&mut stream, &preamble).await.is_err());
    }
}
