//! Doors for the fuzzer: decoders that no other crate sees. Only there when it builds.

use crate::{
    Message, Protocol,
    wire::{read_preamble, read_rest},
};
use futures::io::Cursor;
use potluck_types::limits;

/// Bytes that a peer sends on a stream of a protocol. Gives the messages in them.
pub fn stream(protocol: Protocol, bytes: &[u8]) -> Vec<Message> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime without I/O");
    runtime.block_on(async {
        let (mut stream, mut messages) = (Cursor::new(bytes), Vec::new());
        while let Ok(Some(preamble)) = read_preamble(&mut stream, protocol, limits::STALL_TIMEOUT).await {
            match read_rest(&mut stream, &preamble).await {
                Ok(message) => messages.push(message),
                Err(_) => break,
            }
        }
        messages
    })
}
