//! The command's end of the socket. Blocking: a command does one thing at a time.

use super::{
    frame::{Frame, FrameKind, HEADER_BYTES, Header, PAYLOAD_BYTES_MAX},
    handles,
    message::Request,
    socket,
};
use crate::complaint::{Complaint, Kind};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

/// Bytes that are gathered before they are sent: many small files go in one write.
const BUFFER_BYTES: usize = 256 << 10;

/// What a client sends.
#[derive(Debug)]
pub(crate) struct Sender(BufWriter<UnixStream>);

/// What a client receives.
#[derive(Debug)]
pub(crate) struct Receiver(BufReader<UnixStream>);

/// Asks the daemon of a home for something; more may be sent and received then.
pub(crate) fn open(home: &Path, request: &Request) -> Result<(Sender, Receiver), Complaint> {
    let path = socket::find(home);
    let stream = UnixStream::connect(&path).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => Complaint::io("cannot open", &path, &error),
        _ => no_daemon(home),
    })?;
    let twin = stream.try_clone().map_err(|error| lost(&error))?;
    let mut sender = Sender(BufWriter::with_capacity(BUFFER_BYTES, stream));
    sender
        .json(FrameKind::Request, request)
        .and_then(|()| sender.flush())
        .map_err(|error| lost(&error))?;
    Ok((sender, Receiver(BufReader::with_capacity(BUFFER_BYTES, twin))))
}

/// Asks, and waits for the answer.
pub(crate) fn call<T: DeserializeOwned>(home: &Path, request: &Request) -> Result<T, Complaint> {
    let (_sender, mut receiver) = open(home, request)?;
    receiver.reply()
}

/// Nobody answers on the socket.
pub(crate) fn no_daemon(home: &Path) -> Complaint {
    let complaint = Complaint::new(Kind::NoDaemon, format!("no potluck runs on {}", home.display()));
    let here = home.display();
    // Not by opening what is in it: a daemon that starts right now needs that for itself.
    if home.join("user.key").exists() {
        complaint.hint(format!("start it: potluck up --detach --home {here}"))
    } else {
        complaint
            .hint(format!("found a pool there: potluck up --detach --home {here}"))
            .hint("or name the home of the one that runs: --home DIR, or POTLUCK_HOME")
    }
}

/// The connection broke.
pub(crate) fn lost(error: &io::Error) -> Complaint {
    Complaint::new(Kind::NoDaemon, format!("the daemon went away: {error}"))
        .hint("its log, if it was started with --detach, is HOME/log/potluck.log; then: potluck up --detach")
}

impl Sender {
    /// Sends JSON.
    pub(crate) fn json(&mut self, kind: FrameKind, value: &impl Serialize) -> io::Result<()> {
        let payload = serde_json::to_vec(value).map_err(io::Error::other)?;
        self.frame(kind, &payload)
    }

    /// Sends bytes of a file, in as many frames as that takes.
    pub(crate) fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        bytes
            .chunks(PAYLOAD_BYTES_MAX)
            .try_for_each(|part| self.frame(FrameKind::Data, part))
    }

    /// Sends the end of a file or of the files.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        self.frame(FrameKind::End, &[])
    }

    /// Sends an open file, to be read from where it stands to its end.
    pub(crate) fn handle(&mut self, file: &File) -> io::Result<()> {
        self.0.flush()?;
        let header = Header::of(FrameKind::Handle, &[]).encode();
        handles::send(self.0.get_ref(), &header, file)
    }

    /// Sends what is gathered.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }

    /// Ends the connection, also for who still receives.
    pub(crate) fn hang_up(&self) {
        // It may be gone already.
        let _ = self.0.get_ref().shutdown(std::net::Shutdown::Both);
    }

    fn frame(&mut self, kind: FrameKind, payload: &[u8]) -> io::Result<()> {
        self.0.write_all(&Header::of(kind, payload).encode())?;
        self.0.write_all(payload)
    }
}

impl Receiver {
    /// The next frame. One that says that all failed is a complaint.
    pub(crate) fn frame(&mut self) -> Result<Frame, Complaint> {
        let frame = self.read().map_err(|error| lost(&error))?;
        if frame.kind == FrameKind::Error {
            return Err(frame.json().map_err(|error| lost(&error))?);
        }
        Ok(frame)
    }

    /// The answer, with nothing before it.
    pub(crate) fn reply<T: DeserializeOwned>(&mut self) -> Result<T, Complaint> {
        let frame = self.frame()?;
        match frame.kind {
            FrameKind::Reply => frame.json().map_err(|error| lost(&error)),
            other => Err(unexpected(other)),
        }
    }

    /// Ends the connection, also for who still sends.
    pub(crate) fn hang_up(&self) {
        // It may be gone already.
        let _ = self.0.get_ref().shutdown(std::net::Shutdown::Both);
    }

    fn read(&mut self) -> io::Result<Frame> {
        let mut header = [0; HEADER_BYTES];
        self.0.read_exact(&mut header)?;
        let Header { kind, len } = Header::decode(header)?;
        let mut payload = vec![0; len];
        self.0.read_exact(&mut payload)?;
        Ok(Frame { kind, payload })
    }
}

/// The daemon speaks, but another version of this language.
pub(crate) fn unexpected(kind: FrameKind) -> Complaint {
    Complaint::failed(format!(
        "the daemon answered with a frame that makes no sense here: {kind:?}"
    ))
    .hint("is it of another version? `potluck stop`, then `potluck up --detach`")
}
