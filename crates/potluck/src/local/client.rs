//! The command's end of the socket. Blocking: a command does one thing at a time.

use super::{
    frame::{Frame, FrameKind, HEADER_BYTES, Header, PAYLOAD_BYTES_MAX},
    handles,
    message::Request,
    socket,
};
use crate::complaint::{Complaint, Kind};
use potluck_node::Node;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
    sockopt::{Timeout, set_socket_timeout, socket_peercred},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    ops::ControlFlow,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

/// Bytes that are gathered before they are sent: many small files go in one write.
const BUFFER_BYTES: usize = 256 << 10;
/// How long the daemon may take to say hello, which it does before anything else, however busy it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// After so long without a word from a daemon that works on a request it is asked for one more hello.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long that may take it: longer, since what it has begun would have to begin again.
const SIGN_OF_LIFE_TIMEOUT: Duration = Duration::from_secs(20);

/// What a client sends.
#[derive(Debug)]
pub(crate) struct Sender(BufWriter<UnixStream>);

/// What a client receives.
#[derive(Debug)]
pub(crate) struct Receiver(BufReader<Answering>);

/// A connection whose end is noticed also when the daemon hangs: it may take its time over a request, but lives meanwhile.
#[derive(Debug)]
struct Answering {
    stream: UnixStream,
    home: PathBuf,
}

/// Asks the daemon of a home for something; more may be sent and received then.
pub(crate) fn open(home: &Path, request: &Request) -> Result<(Sender, Receiver), Complaint> {
    let stream = reach(home, HELLO_TIMEOUT)?;
    let answering = Answering {
        stream: stream.try_clone().map_err(|error| lost(&error))?,
        home: home.to_owned(),
    };
    let mut sender = Sender(BufWriter::with_capacity(BUFFER_BYTES, stream));
    sender
        .json(FrameKind::Request, request)
        .and_then(|()| sender.flush())
        .map_err(|error| lost(&error))?;
    Ok((sender, Receiver(BufReader::with_capacity(BUFFER_BYTES, answering))))
}

/// Asks, and waits for the answer.
pub(crate) fn call<T: DeserializeOwned>(home: &Path, request: &Request) -> Result<T, Complaint> {
    let (_sender, mut receiver) = open(home, request)?;
    receiver.reply()
}

/// Asks for a list that has no end but the last of it, some of it at a time, until that is enough.
pub(crate) fn pages<T: DeserializeOwned>(
    home: &Path,
    request: &Request,
    mut each: impl FnMut(Vec<T>) -> ControlFlow<()>,
) -> Result<(), Complaint> {
    let (_sender, mut receiver) = open(home, request)?;
    loop {
        let frame = receiver.frame()?;
        match frame.kind {
            FrameKind::Item => {
                if each(frame.json().map_err(|error| lost(&error))?).is_break() {
                    return Ok(());
                }
            }
            FrameKind::Reply => return Ok(()),
            other => return Err(unexpected(other)),
        }
    }
}

/// A connection to the daemon of a home, which lives. From then on it may take its time: there are long requests. Reading
/// ends after a long silence with [`io::ErrorKind::WouldBlock`].
fn reach(home: &Path, hello_timeout: Duration) -> Result<UnixStream, Complaint> {
    let path = socket::find(home);
    let stream = dial(&path, hello_timeout).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => Complaint::io("cannot open", &path, &error),
        io::ErrorKind::WouldBlock => silent(home, None),
        _ => no_daemon(home),
    })?;
    let mut header = [0; HEADER_BYTES];
    let heard = stream
        .set_read_timeout(Some(hello_timeout))
        .and_then(|()| (&stream).read_exact(&mut header))
        .and_then(|()| Ok(Header::decode(header)?));
    match heard {
        Ok(Header {
            kind: FrameKind::Hello,
            len: 0,
        }) => {}
        Ok(Header {
            kind: FrameKind::Error,
            len,
        }) => {
            let mut payload = vec![0; len];
            let complaint = (&stream).read_exact(&mut payload).and_then(|()| {
                let kind = FrameKind::Error;
                Frame { kind, payload }.json()
            });
            return Err(complaint.unwrap_or_else(|error| lost(&error)));
        }
        Ok(Header { kind, .. }) => return Err(unexpected(kind)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(silent(home, Some(&stream))),
        Err(error) => return Err(lost(&error)),
    }
    stream
        .set_read_timeout(Some(SILENCE_TIMEOUT))
        .and_then(|()| stream.set_write_timeout(None))
        .map_err(|error| lost(&error))?;
    Ok(stream)
}

/// As `UnixStream::connect`, which waits for ever when so many wait for a daemon that hangs that there is no place for one more.
fn dial(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(timeout))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// Somebody has the socket, and does not answer. The kernel knows who it is.
fn silent(home: &Path, stream: Option<&UnixStream>) -> Complaint {
    let home = home.display();
    let process = stream
        .and_then(|stream| socket_peercred(stream).ok())
        .map(|peer| peer.pid);
    let (who, end) = match process {
        Some(process) => (format!(" (process {process})"), format!("kill -9 {process}")),
        None => (String::new(), "end its process with `kill -9`".to_owned()),
    };
    Complaint::new(Kind::Unreachable, format!("the daemon of {home}{who} does not answer"))
        .hint(format!(
            "it hangs, or was stopped: {end}, then: potluck up --detach --home {home}"
        ))
        .hint("what is stored stays, also when it is ended so")
}

/// Nobody answers on the socket.
pub(crate) fn no_daemon(home: &Path) -> Complaint {
    let complaint = Complaint::new(Kind::NoDaemon, format!("no potluck runs on {}", home.display()));
    let here = home.display();
    if Node::has_pool(home) {
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
        let frame = self.read().map_err(|error| {
            let Answering { stream, home } = self.0.get_ref();
            match error.kind() {
                io::ErrorKind::TimedOut => silent(home, Some(stream)),
                _ => lost(&error),
            }
        })?;
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
        let _ = self.0.get_ref().stream.shutdown(std::net::Shutdown::Both);
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

impl Read for Answering {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // One that has ended shows on this connection.
                    if reach(&self.home, SIGN_OF_LIFE_TIMEOUT)
                        .is_err_and(|complaint| complaint.kind == Kind::Unreachable)
                    {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                other => return other,
            }
        }
    }
}

/// The daemon speaks, but another version of this language.
pub(crate) fn unexpected(kind: FrameKind) -> Complaint {
    Complaint::failed(format!(
        "the daemon answered with a frame that makes no sense here: {kind:?}"
    ))
    .hint("is it of another version? `potluck stop`, then `potluck up --detach`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::net::UnixListener, thread};

    /// Reaches a daemon that begins so.
    fn reach_one_that_says(first: &'static [u8]) -> Result<UnixStream, Complaint> {
        let home = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(home.path().join("api.sock")).unwrap();
        let daemon = thread::spawn(move || listener.accept().unwrap().0.write_all(first).unwrap());
        let reached = reach(home.path(), HELLO_TIMEOUT);
        daemon.join().unwrap();
        reached
    }

    #[test]
    fn after_hello_there_is_no_hurry() {
        let stream = reach_one_that_says(&[9, 0, 0, 0, 0]).unwrap();
        assert_eq!(
            (stream.read_timeout().unwrap(), stream.write_timeout().unwrap()),
            (Some(SILENCE_TIMEOUT), None)
        );
    }

    #[test]
    fn what_says_no_hello_is_no_daemon_of_ours() {
        let kind = |first| reach_one_that_says(first).unwrap_err().kind;
        assert_eq!(kind(&[6, 0, 0, 0, 0]), Kind::Failed);
        assert_eq!(kind(&[]), Kind::NoDaemon);
    }

    #[test]
    fn one_too_many_hears_so_in_place_of_hello() {
        let complaint =
            reach_one_that_says(b"\x03\x2e\0\0\0{\"kind\":\"refused\",\"message\":\"busy\",\"hints\":[]}").unwrap_err();
        assert_eq!((complaint.kind, &complaint.message[..]), (Kind::Refused, "busy"));
        let cut = reach_one_that_says(&[3, 4, 0, 0, 0, b'{']).unwrap_err();
        assert_eq!(cut.kind, Kind::NoDaemon);
    }
}
