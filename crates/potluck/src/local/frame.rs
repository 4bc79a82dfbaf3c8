//! Frames: a kind, a length, a payload. Both ends refuse a frame before its payload is read.

use std::io;

/// Bytes before each payload: the kind, and the length as little-endian `u32`.
pub(crate) const HEADER_BYTES: usize = 5;
/// The longest payload. A page of names is shorter, see [`PAGE_ENTRIES_MAX`](super::message::PAGE_ENTRIES_MAX); file
/// content is cut to fit.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum FrameKind {
    /// What the client wants: JSON, the first frame of a connection.
    Request = 1,
    /// The answer, and the end: JSON.
    Reply = 2,
    /// A complaint instead of an answer, and the end: JSON.
    Error = 3,
    /// One of several: a file that follows, a page of names, progress. JSON.
    Item = 4,
    /// Bytes of a file.
    Data = 5,
    /// The end of a file, or of the files. No payload.
    End = 6,
    /// The file that was begun is not to be had: JSON, a complaint.
    Failed = 7,
    /// The file's content: no payload, but a descriptor comes with the first byte. Instead of data and an end.
    Handle = 8,
    /// The daemon lives: its first frame, before it is asked. No payload.
    Hello = 9,
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// There is no such kind.
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    /// It is longer than any may be.
    #[error("a frame of {0} bytes is over the limit of {PAYLOAD_BYTES_MAX}")]
    Length(u32),
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// What a frame's first bytes say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    /// What it is.
    pub(crate) kind: FrameKind,
    /// How many bytes follow; within the limit.
    pub(crate) len: usize,
}

impl Header {
    /// The header of a payload.
    ///
    /// # Panics
    /// When the payload is over the limit: whoever writes a frame cuts it before.
    pub(crate) fn of(kind: FrameKind, payload: &[u8]) -> Self {
        assert!(payload.len() <= PAYLOAD_BYTES_MAX, "payloads are cut to the limit");
        Self {
            kind,
            len: payload.len(),
        }
    }

    /// As it is sent.
    pub(crate) fn encode(self) -> [u8; HEADER_BYTES] {
        let [a, b, c, d] = u32::try_from(self.len).expect("within the limit").to_le_bytes();
        [self.kind as u8, a, b, c, d]
    }

    /// As it was received.
    pub(crate) fn decode(bytes: [u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let [kind, len @ ..] = bytes;
        let kind = match kind {
            1 => FrameKind::Request,
            2 => FrameKind::Reply,
            3 => FrameKind::Error,
            4 => FrameKind::Item,
            5 => FrameKind::Data,
            6 => FrameKind::End,
            7 => FrameKind::Failed,
            8 => FrameKind::Handle,
            9 => FrameKind::Hello,
            other => return Err(FrameError::Kind(other)),
        };
        let len = u32::from_le_bytes(len);
        match usize::try_from(len) {
            Ok(len) if len <= PAYLOAD_BYTES_MAX => Ok(Self { kind, len }),
            _ => Err(FrameError::Length(len)),
        }
    }
}

/// A frame that was received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Frame {
    /// What it is.
    pub(crate) kind: FrameKind,
    /// What it carries.
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The JSON that it carries.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self) -> io::Result<T> {
        serde_json::from_slice(&self.payload).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn hostile_headers_are_refused_or_mean_one_thing(bytes: [u8; HEADER_BYTES]) {
            match Header::decode(bytes) {
                Ok(header) => {
                    prop_assert!(header.len <= PAYLOAD_BYTES_MAX);
                    prop_assert_eq!(header.encode(), bytes);
                }
                Err(FrameError::Kind(kind)) => prop_assert!(!(1..=9).contains(&kind)),
                Err(FrameError::Length(len)) => prop_assert!(len as usize > PAYLOAD_BYTES_MAX),
            }
        }
    }

    #[test]
    fn a_huge_length_is_refused() {
        assert_eq!(
            Header::decode([5, 255, 255, 255, 255]),
            Err(FrameError::Length(u32::MAX))
        );
        assert_eq!(Header::decode([0, 0, 0, 0, 0]), Err(FrameError::Kind(0)));
        assert_eq!(
            Header::decode([6, 0, 0, 0, 0]).unwrap(),
            Header {
                kind: FrameKind::End,
                len: 0
            }
        );
    }
}
