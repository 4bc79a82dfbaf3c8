//! Open files over the local socket: a command opens a file as its person may, and the daemon reads it by the descriptor. That saves
//! copying every byte through the socket, and the daemon still opens nothing of a person's by itself.

use rustix::{
    cmsg_space,
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recvmsg, sendmsg,
    },
};
use std::{
    collections::VecDeque,
    fs::File,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, Interest, ReadBuf},
    net::unix::OwnedReadHalf,
};

/// Descriptors that may have come ahead of the frames that they belong to.
const WAITING_MAX: usize = 64;

/// The daemon's children, if it ever has any, get none of them.
#[cfg(target_os = "linux")]
const RECEIVE: RecvFlags = RecvFlags::CMSG_CLOEXEC;
#[cfg(not(target_os = "linux"))]
const RECEIVE: RecvFlags = RecvFlags::empty();

/// Sends bytes, which must not be none, and with the first of them a descriptor.
pub(super) fn send(stream: &UnixStream, mut bytes: &[u8], file: &File) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [file.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    while !bytes.is_empty() {
        match sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()) {
            Ok(sent) => {
                bytes = &bytes[sent..];
                control.clear();
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Descriptors that came, in order, and were not taken yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Handles(Arc<Mutex<VecDeque<OwnedFd>>>);

impl Handles {
    /// The next one.
    pub(super) fn take(&self) -> Option<File> {
        self.0.lock().expect("never poisoned").pop_front().map(File::from)
    }
}

/// The reading half of a connection, which keeps the descriptors that come with the bytes.
#[derive(Debug)]
pub(super) struct Inbound {
    half: OwnedReadHalf,
    handles: Handles,
}

impl Inbound {
    pub(super) fn new(half: OwnedReadHalf) -> (Self, Handles) {
        let handles = Handles::default();
        let inbound = Self {
            half,
            handles: handles.clone(),
        };
        (inbound, handles)
    }

    fn receive(&self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let stream: &tokio::net::UnixStream = self.half.as_ref();
        let received = recvmsg(stream, &mut [IoSliceMut::new(bytes)], &mut control, RECEIVE)?;
        let mut waiting = self.handles.0.lock().expect("never poisoned");
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                waiting.extend(descriptors);
            }
        }
        if waiting.len() > WAITING_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "more descriptors than frames",
            ));
        }
        Ok(received.bytes)
    }
}

impl AsyncRead for Inbound {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let stream: &tokio::net::UnixStream = self.half.as_ref();
            ready!(stream.poll_read_ready(context))?;
            let unfilled = buffer.initialize_unfilled();
            match stream.try_io(Interest::READABLE, || self.receive(unfilled)) {
                Ok(received) => {
                    buffer.advance(received);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn each_descriptor_comes_with_its_bytes() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let files: Vec<File> = (0..3u8)
            .map(|number| {
                let mut file = tempfile::tempfile().unwrap();
                file.write_all(&[number]).unwrap();
                file.rewind().unwrap();
                file
            })
            .collect();
        for file in &files {
            send(&ours, b"frame", file).unwrap();
            (&ours).write_all(b"and more").unwrap();
        }
        drop(ours);
        let (half, _writer) = tokio::net::UnixStream::from_std(theirs).unwrap().into_split();
        let (mut inbound, handles) = Inbound::new(half);
        let mut text = Vec::new();
        inbound.read_to_end(&mut text).await.unwrap();
        assert_eq!(text, b"frameand more".repeat(3));
        for number in 0..3u8 {
            let mut content = Vec::new();
            handles.take().unwrap().read_to_end(&mut content).unwrap();
            assert_eq!(content, [number]);
        }
        assert!(handles.take().is_none());
    }

    #[tokio::test]
    async fn a_flood_of_descriptors_ends_the_connection() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let file = tempfile::tempfile().unwrap();
        for _ in 0..=WAITING_MAX {
            send(&ours, b"x", &file).unwrap();
        }
        let (half, _writer) = tokio::net::UnixStream::from_std(theirs).unwrap().into_split();
        let (mut inbound, _handles) = Inbound::new(half);
        let error = inbound.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
