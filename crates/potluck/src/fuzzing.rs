//! Doors for the fuzzer: what people type, what is in the configuration, and the local socket. Only there when it builds.

use crate::{
    config::Settings,
    local::{
        frame::{Frame, FrameKind, HEADER_BYTES, Header},
        message::{About, GetItem, PutItem, Request},
        server::{self, Service},
    },
    place::{ByteRange, Place, escape},
    span::Span,
};
use potluck_node::fuzzing::Server;
use potluck_types::ByteSize;
use serde::de::DeserializeOwned;
use std::path::Path;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::{Notify, Semaphore},
};

/// Places, ranges and spans as they are typed, and names as they are shown.
///
/// # Panics
/// When one does not come back from its text, or a name could command a terminal.
pub fn typed(text: &str) {
    if let Ok(place) = text.parse::<Place>() {
        // What is shown is escaped; the path itself is the target of another.
        assert!(place.to_string().starts_with(&format!("{}:/", place.space)));
    }
    if let Ok(span) = text.parse::<Span>() {
        assert_eq!(span.to_string().parse(), Ok(span));
    }
    if let Ok(range) = text.parse::<ByteRange>() {
        for len in [0, 1, 1000, u64::MAX] {
            let bytes = range.of(len);
            assert!(bytes.start <= bytes.end);
        }
    }
    assert!(!escape(text).chars().any(char::is_control));
}

/// The text of a configuration file.
///
/// # Panics
/// When what is taken does not come back from its own text.
pub fn config(text: &str) {
    let file = Path::new("config.toml");
    if let Ok(settings) = Settings::from_toml(text, file) {
        let again = Settings::from_toml(&settings.to_toml(), file);
        assert_eq!(again.expect("its own text"), settings);
    }
}

/// A frame, and each of the messages that may be in one.
///
/// # Panics
/// When a header is taken that would be written otherwise.
pub fn frame(bytes: &[u8]) {
    let Some((header, payload)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return;
    };
    let Ok(decoded) = Header::decode(*header) else { return };
    assert_eq!(decoded.encode(), *header);
    fn check<T: DeserializeOwned>(frame: &Frame) {
        let _ = frame.json::<T>();
    }
    let frame = Frame {
        kind: decoded.kind,
        payload: payload[..decoded.len.min(payload.len())].to_vec(),
    };
    check::<Request>(&frame);
    check::<PutItem>(&frame);
    check::<GetItem>(&frame);
}

/// The daemon of a node that runs, without its process and its socket.
pub struct Daemon {
    server: Server,
    service: Service,
    turns: Semaphore,
}

impl Daemon {
    /// Runs a node in this folder, which is empty.
    pub fn start(folder: &Path) -> Self {
        let server = Server::start(folder);
        let node = server.node().clone();
        let about = About {
            identity: node.identity(),
            pid: 0,
            version: String::new(),
            capacity: ByteSize(0),
            grace_seconds: 0,
            open_files_max: 0,
        };
        let service = Service {
            node,
            about,
            stop: Notify::new(),
        };
        Self {
            server,
            service,
            turns: Semaphore::new(1),
        }
    }

    /// What a command sends, from its first byte to its last. One that asks for a recovery kit is left out: that takes a second, on purpose.
    ///
    /// # Panics
    /// When the daemon hangs, or answers with what is no frame.
    pub fn converse(&self, bytes: &[u8]) {
        if bytes.windows(6).any(|word| word == b"backup") {
            return;
        }
        let answer = self.server.run(async {
            let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
            let (mut reader, mut writer) = ours.into_split();
            let client = async {
                // Who is refused early hears why, and is not read to the end.
                let _ = writer.write_all(bytes).await;
                let _ = writer.shutdown().await;
            };
            let mut answer = Vec::new();
            let (_, _, read) = tokio::join!(
                client,
                server::converse(theirs, &self.service, &self.turns),
                reader.read_to_end(&mut answer)
            );
            read.map(|_| answer)
        });
        if let Ok(answer) = answer {
            check_answer(&answer);
        }
        self.server.reset();
    }
}

/// An answer is a hello, and whole frames of those that a daemon sends.
fn check_answer(mut answer: &[u8]) {
    let mut is_first = true;
    while let Some((header, rest)) = answer.split_first_chunk::<HEADER_BYTES>() {
        let header = Header::decode(*header).expect("a frame");
        assert_eq!(header.kind == FrameKind::Hello, is_first);
        assert!(!matches!(header.kind, FrameKind::Request | FrameKind::Handle));
        answer = rest.get(header.len..).expect("a whole frame");
        is_first = false;
    }
    assert!(answer.is_empty());
}

/// Inputs for each of these to begin from, with the names of their targets.
pub fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let frame = |kind: FrameKind, payload: &[u8]| [&Header::of(kind, payload).encode()[..], payload].concat();
    let request = |json: &str| frame(FrameKind::Request, json.as_bytes());
    let (put, get) = (
        request(r#"{"do":"put","options":{"survive":null,"strict":false}}"#),
        request(r#"{"do":"get"}"#),
    );
    let meta = r#""meta":{"modified":1,"executable":false}"#;
    let small = format!(r#"{{"file":{{"path":"/a/b",{meta},"len":7}}}}"#);
    let large = format!(r#"{{"file":{{"path":"/c",{meta},"len":null}}}}"#);
    let item = |json: &str| frame(FrameKind::Item, json.as_bytes());
    let (data, end) = (frame(FrameKind::Data, b"potluck"), frame(FrameKind::End, b""));
    let files = [
        &put[..],
        &item(r#"{"directory":"/d"}"#),
        &item(&small),
        &data,
        &end,
        &item(&large),
        &data,
        &data,
        &end,
        &end,
    ]
    .concat();
    let fetched = [&get[..], &item(r#"{"path":"/a/b","range":{"span":[1,3]}}"#), &end].concat();
    let mut seeds = vec![
        ("local", "put", files),
        ("local", "get", fetched.clone()),
        ("request", "get", fetched),
    ];
    for (name, json) in [
        ("about", r#"{"do":"about"}"#),
        ("status", r#"{"do":"status"}"#),
        (
            "invite",
            r#"{"do":"invite","options":{"uses":1,"expires":{"secs":9,"nanos":0},"mine":false}}"#,
        ),
        ("list", r#"{"do":"list","path":"/","recursive":true}"#),
        ("stat", r#"{"do":"stat","path":"/a/b"}"#),
        ("remove", r#"{"do":"remove","path":"/a","recursive":true}"#),
        ("rename", r#"{"do":"rename","from":"/c","to":"/e/f"}"#),
        ("sweep", r#"{"do":"sweep","abandoned_after":{"secs":0,"nanos":0}}"#),
        ("leave", r#"{"do":"leave-progress"}"#),
    ] {
        seeds.push(("local", name, request(json)));
        seeds.push(("request", name, request(json)));
    }
    let texts = [
        (
            "config",
            "all",
            "listen = [\"0.0.0.0:4720\"]\nannounce = []\ncapacity = \"200GB\"\nzone = \"attic\"\nmachine = \"nas\"\nmdns = true\nrelay = true\ngrace = \"15m\"\nfsync = true\n",
        ),
        ("config", "unknown", "listne = 1\n"),
        ("place", "place", "home:/photos/a.jpg"),
        ("place", "range", "0-99"),
        ("place", "span", "15m"),
        ("place", "escape", "\u{1b}[31m\u{202e}"),
    ];
    seeds.extend(texts.map(|(target, name, text)| (target, name, text.as_bytes().to_vec())));
    seeds
}
