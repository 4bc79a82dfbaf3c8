//! Whether peers still answer: libp2p's pings, the more seldom the larger the pool is, so that all of them together cost a node no more than in one of [`CROWD`] members.

use crate::endpoint::Shared;
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    ping,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm,
    },
};
use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

/// How often a peer is pinged, and how long it may take: a process that is stopped, or a machine that sleeps, counts as gone after both.
const INTERVAL: Duration = Duration::from_secs(15);
const TIMEOUT: Duration = Duration::from_secs(15);
/// Pools of more members ping each more seldom. With a thousand it is told within four minutes: the grace period is longer.
const CROWD: u32 = 75;

/// How often one peer is pinged in a pool of so many members.
fn interval(members: usize) -> Duration {
    let members = u32::try_from(members).unwrap_or(u32::MAX);
    INTERVAL.max(INTERVAL.saturating_mul(members) / CROWD)
}

/// See the module. A connection is pinged as is right for the pool when it is made.
pub(crate) struct Behaviour {
    shared: Arc<Shared>,
    events: ping::Behaviour,
}

impl Behaviour {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            events: ping::Behaviour::default(),
        }
    }

    fn now(&self) -> ping::Behaviour {
        let interval = interval(self.shared.member_count());
        ping::Behaviour::new(ping::Config::new().with_interval(interval).with_timeout(TIMEOUT))
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = THandler<ping::Behaviour>;
    type ToSwarm = ping::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.now()
            .handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.now()
            .handle_established_outbound_connection(connection, peer, address, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.events.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        self.events.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.events.poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_cost_a_node_no_more_in_a_large_pool() {
        for members in [1, 5, 75] {
            assert_eq!(interval(members), INTERVAL);
        }
        for members in [76, 100, 1000] {
            let per_second = members as f64 / interval(members).as_secs_f64();
            assert!((per_second - 5.0).abs() < 1e-6, "{members}: {per_second} a second");
        }
        assert_eq!(interval(1000), Duration::from_secs(200));
    }
}
