//! Dials that somebody asked for: TCP first, and all that is known soon after, when that does not answer.
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
    is_resolved: bool,
    is_wide: bool,
    reasons: Vec<String>,
}

/// What follows from the end of an attempt.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Nothing: others are under way, or nobody asked.
    Wait,
    /// The other addresses are due.
    Widen,
    /// There is no way to it: who asked is to be told.
    GiveUp,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Dials(HashMap<PeerId, Dial>);

impl Dials {
    /// Somebody asks for a peer. Whether nobody did before: then its addresses are to be found.
    pub(crate) fn ask(&mut self, peer: PeerId, done: Dialled) -> bool {
        let dial = self.0.entry(peer).or_default();
        dial.waiting.push(done);
        dial.waiting.len() == 1
    }

    /// The addresses to try first.
    pub(crate) fn first(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
        let (first, others) = addresses.iter().cloned().partition(is_tcp);
        if let Some(dial) = self.0.get_mut(&peer) {
            dial.known.extend(addresses);
            dial.others = others;
            dial.is_resolved = true;
        }
        first
    }

    /// Those of these addresses that are news for a dial under way: who asked first may have known none.
    pub(crate) fn more(&mut self, peer: PeerId, mut addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
        let Some(dial) = self.0.get_mut(&peer) else {
            return Vec::new();
        };
        addresses.retain(|address| !dial.known.contains(address));
        dial.known.extend(addresses.iter().cloned());
        addresses
    }

    /// The addresses to try next, beside what the routing table knows: once.
    pub(crate) fn widen(&mut self, peer: PeerId) -> Option<Vec<Multiaddr>> {
        // The news that one is late may be of a dial before this one.
        let dial = self.0.get_mut(&peer).filter(|dial| dial.is_resolved && !dial.is_wide)?;
        dial.is_wide = true;
        Some(std::mem::take(&mut dial.others))
    }

    /// An attempt is under way.
    pub(crate) fn began(&mut self, peer: PeerId, attempt: ConnectionId) {
        if let Some(dial) = self.0.get_mut(&peer) {
            dial.attempts.push(attempt);
        }
    }

    /// An attempt did not succeed. The routing table dials, too: those are nobody's.
    pub(crate) fn failed(&mut self, peer: PeerId, attempt: ConnectionId, reason: Option<String>) -> Next {
        let Some(dial) = self.0.get_mut(&peer) else {
            return Next::Wait;
        };
        let Some(at) = dial.attempts.iter().position(|other| *other == attempt) else {
            return Next::Wait;
        };
        dial.attempts.swap_remove(at);
        dial.reasons.extend(reason);
        match (dial.attempts.is_empty(), dial.is_wide) {
            (false, _) => Next::Wait,
            (true, false) => Next::Widen,
            (true, true) => Next::GiveUp,
        }
    }

    /// Tells all who asked, given why attempts failed.
    pub(crate) fn finish(&mut self, peer: PeerId, outcome: impl FnOnce(&[String]) -> Result<(), ConnectError>) {
        let Some(dial) = self.0.remove(&peer) else {
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
        assert!(dials.ask(peer, done));
        assert!(!dials.ask(peer, oneshot::channel().0));
        let (tcp, quic) = (address("/ip4/192.0.2.1/tcp/1"), address("/ip4/192.0.2.1/udp/1/quic-v1"));
        assert_eq!(dials.first(peer, vec![quic.clone(), tcp.clone()]), [tcp]);
        let attempts = [ConnectionId::new_unchecked(1), ConnectionId::new_unchecked(2)];
        dials.began(peer, attempts[0]);
        let stranger = ConnectionId::new_unchecked(9);
        assert_eq!(dials.failed(peer, stranger, Some("the table's".into())), Next::Wait);
        assert_eq!(dials.failed(peer, attempts[0], Some("refused".into())), Next::Widen);
        assert_eq!(dials.widen(peer), Some(vec![quic]));
        assert_eq!(dials.widen(peer), None);
        dials.began(peer, attempts[1]);
        // A member said meanwhile where else it is.
        let (known, news) = (address("/ip4/192.0.2.1/tcp/1"), address("/ip4/192.0.2.7/tcp/1"));
        let both = vec![known, news.clone()];
        assert_eq!(dials.more(peer, both.clone()), std::slice::from_ref(&news));
        assert_eq!(dials.more(peer, both), []);
        assert_eq!(dials.failed(peer, attempts[1], Some("silent".into())), Next::GiveUp);
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
        assert!(dials.ask(peer, oneshot::channel().0));
        dials.first(peer, Vec::new());
        let attempts = [ConnectionId::new_unchecked(1), ConnectionId::new_unchecked(2)];
        dials.began(peer, attempts[0]);
        assert_eq!(dials.widen(peer), Some(Vec::new()));
        dials.began(peer, attempts[1]);
        assert_eq!(dials.failed(peer, attempts[0], Some("late".into())), Next::Wait);
        assert_eq!(dials.failed(peer, attempts[1], Some("silent".into())), Next::GiveUp);
    }
}
