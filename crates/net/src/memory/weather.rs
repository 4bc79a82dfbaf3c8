//! What happens on the way between two nodes of an in-memory network: clear weather, unless a simulation says otherwise.

use potluck_types::NodeId;
use std::time::Duration;

/// Delays, holds up, damages, loses and repeats what is under way. Asked in the order in which things happen, so that a seeded one is repeatable.
pub trait Weather: Send + Sync {
    /// How long so many bytes of a stream take from one node to another. `None` while nothing gets through: what is under way waits, and arrives when the way is
    /// free again if its sender still waits.
    fn delay(&self, from: NodeId, to: NodeId, bytes: usize) -> Option<Duration>;

    /// Changes bytes of a stream: damage that no checksum below has noticed.
    fn damage(&self, from: NodeId, to: NodeId, bytes: &mut [u8]);

    /// How long each copy of a gossip message of so many bytes takes that one node passes on to another: none when it is lost, several when it is repeated.
    fn gossip(&self, from: NodeId, to: NodeId, bytes: usize) -> Vec<Duration>;
}

/// Everything arrives at once, as it was sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clear;

impl Weather for Clear {
    fn delay(&self, _: NodeId, _: NodeId, _: usize) -> Option<Duration> {
        Some(Duration::ZERO)
    }

    fn damage(&self, _: NodeId, _: NodeId, _: &mut [u8]) {}

    fn gossip(&self, _: NodeId, _: NodeId, _: usize) -> Vec<Duration> {
        vec![Duration::ZERO]
    }
}
