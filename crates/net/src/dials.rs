//! Dials that somebody asked for: TCP first; all that is known soon after, when that does not answer; and then by relays.
//!
//! The kernel ends a TCP connection with its process, so that others notice at once; a QUIC connection is missed after ten seconds. QUIC is for
//! where there is no other way. Nothing here dials: it says what to try next.

use crate::{address::is_tcp, endpoint::ConnectError};
use libp2p::{Multiaddr, PeerId, swarm::ConnectionId};
use std::collections::HashMap;
use tokio::sync::oneshot;

type Dialled = oneshot::Sender<Result<(), ConnectError>>;

/// One peer that is being dialled.
#[derive(Default)]
struct Dial {
    waiting: Vec<Dialled>,
    known: Vec<Multiaddr>,
    others: Vec<Multiaddr>,
    attempts: Vec<ConnectionId>,
    next: Turn,
    /// Which of all dials it is.
    number: u64,
    reasons: Vec<String>,
}

/// What is tried after TCP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// The other addresses.
    Others,
    /// Relays.
    Relays,
}

/// What is to be tried next in a dial.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
enum Turn {
    /// Its addresses are being found.
    #[default]
    Resolve,
    Try(Stage),
    Nothing,
}

/// What follows from the end of an attempt.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Nothing: others are under way, or nobody asked.
    Wait,
    /// These are due.
    Try(Stage),
    /// There is no way to it: who asked is to be told.
    GiveUp,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Dials {
    under_way: HashMap<PeerId, Dial>,
    /// How many there have been.
    count: u64,
}

impl Dials {
    /// Somebody asks for a peer. If nobody did before its addresses are to be found: gives the number of the dial then.
    pub(crate) fn ask(&mut self, peer: PeerId, done: Dialled) -> Option<u64> {
        let dial = self.under_way.entry(peer).or_default();
        dial.waiting.push(done);
        if dial.waiting.len() > 1 {
            return None;
        }
        self.count += 1;
        dial.number = self.count;
        Some(self.count)
    }

    /// Whether news is of the dial that is under way, and not of one before it.
    pub(crate) fn is_this(&self, peer: PeerId, number: u64) -> bool {
        self.under_way.get(&peer).is_some_and(|dial| dial.number == number)
    }

    /// The addresses to try first.
    pub(crate) fn first(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
        let (first, others) = addresses.iter().cloned().partition(is_tcp);
        if let Some(dial) = self.under_way.get_mut(&peer) {
            dial.known.extend(addresses);
            dial.others = others;
            dial.next = Turn::Try(Stage::Others);
        }
        first
    }

    /// Those of these addresses that are news for a dial under way: who asked first may have known none.
    pub(crate) fn more(&mut self, peer: PeerId, mut addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
        let Some(dial) = self.under_way.get_mut(&peer) else {
            return Vec::new();
        };
        addresses.retain(|address| !dial.known.contains(address));
        dial.known.extend(addresses.iter().cloned());
        addresses
    }

    /// The addresses to try next, beside what the routing table knows: once.
    pub(crate) fn widen(&mut self, peer: PeerId) -> Option<Vec<Multiaddr>> {
        let dial = self.due(peer, Stage::Others)?;
        dial.next = Turn::Try(Stage::Relays);
        Some(std::mem::take(&mut dial.others))
    }

    /// Whether relays are to be tried now: once, and after the rest.
    pub(crate) fn go_round(&mut self, peer: PeerId) -> bool {
        let dial = self.due(peer, Stage::Relays);
        dial.map(|dial| dial.next = Turn::Nothing).is_some()
    }

    /// The dial of a peer, if it is the turn of this.
    fn due(&mut self, peer: PeerId, stage: Stage) -> Option<&mut Dial> {
        self.under_way
            .get_mut(&peer)
            .filter(|dial| dial.next == Turn::Try(stage))
    }

    /// An attempt is under way.
    pub(crate) fn began(&mut self, peer: PeerId, attempt: ConnectionId) {
        if let Some(dial) = self.under_way.get_mut(&peer) {
            dial.attempts.push(attempt);
        }
    }

    /// An attempt did not succeed. The routing table dials, too: those are nobody's.
    pub(crate) fn failed(&mut self, peer: PeerId, attempt: ConnectionId, reason: Option<String>) -> Next {
        let Some(dial) = self.under_way.get_mut(&peer) else {
            return Next::Wait;
        };
        let Some(at) = dial.attempts.iter().position(|other| *other == attempt) else {
            return Next::Wait;
        };
        dial.attempts.swap_remove(at);
        dial.reasons.extend(reason);
        match (dial.attempts.is_empty(), dial.next) {
            (false, _) | (true, Turn::Resolve) => Next::Wait,
            (true, Turn::Try(stage)) => Next::Try(stage),
            (true, Turn::Nothing) => Next::GiveUp,
        }
    }

    /// Tells all who asked, given why attempts failed.
    pub(crate) fn finish(&mut self, peer: PeerId, outcome: impl FnOnce(&[String]) -> Result<(), ConnectError>) {
        let Some(dial) = self.under_way.remove(&peer) else {
            return;
        };
        let outcome = outcome(&dial.reasons);
        for done in dial.waiting {
            let _ = done.send(outcome.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn tcp_is_tried_first_and_the_rest_once() {
        let (peer, mut dials) = (PeerId::random(), Dials::default());
        let (done, mut outcome) = oneshot::channel();
        let number = dials.ask(peer, done).unwrap();
        assert_eq!(dials.ask(peer, oneshot::channel().0), None);
        assert!(dials.is_this(peer, number) && !dials.is_this(peer, number + 1));
        let (tcp, quic) = (address("/ip4/192.0.2.1/tcp/1"), address("/ip4/192.0.2.1/udp/1/quic-v1"));
        assert_eq!(dials.first(peer, vec![quic.clone(), tcp.clone()]), [tcp]);
        let attempts = [1, 2, 3].map(ConnectionId::new_unchecked);
        dials.began(peer, attempts[0]);
        let stranger = ConnectionId::new_unchecked(9);
        assert_eq!(dials.failed(peer, stranger, Some("the table's".into())), Next::Wait);
        assert_eq!(
            dials.failed(peer, attempts[0], Some("refused".into())),
            Next::Try(Stage::Others)
        );
        assert_eq!(dials.widen(peer), Some(vec![quic]));
        assert_eq!(dials.widen(peer), None);
        dials.began(peer, attempts[1]);
        // A member said meanwhile where else it is.
        let (known, news) = (address("/ip4/192.0.2.1/tcp/1"), address("/ip4/192.0.2.7/tcp/1"));
        let both = vec![known, news.clone()];
        assert_eq!(dials.more(peer, both.clone()), std::slice::from_ref(&news));
        assert_eq!(dials.more(peer, both), []);
        assert_eq!(
            dials.failed(peer, attempts[1], Some("silent".into())),
            Next::Try(Stage::Relays)
        );
        assert!(dials.go_round(peer) && !dials.go_round(peer));
        dials.began(peer, attempts[2]);
        assert_eq!(dials.failed(peer, attempts[2], None), Next::GiveUp);
        dials.finish(peer, |reasons| {
            assert_eq!(reasons, ["refused", "silent"]);
            Ok(())
        });
        assert!(outcome.try_recv().is_ok());
        dials.finish(peer, |_| panic!("nobody asks any more"));
        assert_eq!(dials.failed(peer, attempts[1], Some("late".into())), Next::Wait);
    }

    #[test]
    fn one_that_is_late_does_not_end_what_is_under_way() {
        let (peer, mut dials) = (PeerId::random(), Dials::default());
        assert!(dials.ask(peer, oneshot::channel().0).is_some());
        // What somebody else knows fails before the addresses of the first are found.
        let early = ConnectionId::new_unchecked(7);
        dials.began(peer, early);
        assert_eq!(dials.failed(peer, early, None), Next::Wait);
        dials.first(peer, Vec::new());
        let attempts = [1, 2, 3].map(ConnectionId::new_unchecked);
        dials.began(peer, attempts[0]);
        assert!(!dials.go_round(peer), "the other addresses come before the relays");
        assert_eq!(dials.widen(peer), Some(Vec::new()));
        dials.began(peer, attempts[1]);
        assert_eq!(dials.failed(peer, attempts[0], Some("late".into())), Next::Wait);
        assert!(dials.go_round(peer));
        dials.began(peer, attempts[2]);
        assert_eq!(dials.failed(peer, attempts[2], None), Next::Wait);
        assert_eq!(dials.failed(peer, attempts[1], Some("silent".into())), Next::GiveUp);
    }
}
