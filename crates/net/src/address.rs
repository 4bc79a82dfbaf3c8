//! Addresses: where a node listens and where it can be reached.

use libp2p::{Multiaddr, multiaddr};
use potluck_types::{NodeId, limits};
use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};
use tokio::{net::TcpStream, time::timeout};

/// Why text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an address: write IP:PORT, or a multiaddr such as /ip4/192.0.2.1/tcp/4720")]
pub struct ParseAddressError {
    /// The start of what was given.
    pub text: String,
}

/// One way to reach a node: an IP address or a DNS name, with TCP or QUIC. Its text form is a multiaddr,
/// <https://github.com/multiformats/multiaddr>, without the node's id.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(Multiaddr);

impl Address {
    /// Whether only this machine can use it.
    pub fn is_loopback(&self) -> bool {
        self.0.iter().next().is_some_and(|part| match part {
            multiaddr::Protocol::Ip4(ip) => ip.is_loopback(),
            multiaddr::Protocol::Ip6(ip) => ip.is_loopback(),
            _ => false,
        })
    }

    /// Whether something takes connections there; `None` where that cannot be told without a handshake, as over QUIC.
    pub async fn answers(&self, within: Duration) -> Option<bool> {
        if !self.0.iter().any(|part| matches!(part, multiaddr::Protocol::Tcp(_))) {
            return None;
        }
        let connecting = async {
            for address in self.resolve().await {
                if let Some(address) = socket_address(&address)
                    && TcpStream::connect(address).await.is_ok()
                {
                    return true;
                }
            }
            false
        };
        Some(timeout(within, connecting).await.unwrap_or(false))
    }

    /// Whether it is a plain one that we would dial: host and port, TCP or QUIC, nothing relayed or unknown.
    fn is_plain(address: &Multiaddr) -> bool {
        use multiaddr::Protocol::{Dns, Dns4, Dns6, Ip4, Ip6, QuicV1, Tcp, Udp};
        let parts: Vec<_> = address.iter().collect();
        matches!(parts[..], [Ip4(_) | Ip6(_) | Dns(_) | Dns4(_) | Dns6(_), Tcp(_)])
            || matches!(
                parts[..],
                [Ip4(_) | Ip6(_) | Dns(_) | Dns4(_) | Dns6(_), Udp(_), QuicV1]
            )
    }

    pub(crate) fn from_multiaddr(address: &Multiaddr) -> Option<Self> {
        let plain: Multiaddr = address
            .iter()
            .filter(|part| !matches!(part, multiaddr::Protocol::P2p(_)))
            .collect();
        Self::is_plain(&plain).then_some(Self(plain))
    }

    /// With DNS names looked up by the operating system's resolver.
    pub(crate) async fn resolve(&self) -> Vec<Multiaddr> {
        use multiaddr::Protocol::{Dns, Dns4, Dns6, Tcp, Udp};
        let mut parts = self.0.iter();
        let (Some(host), Some(transport)) = (parts.next(), parts.next()) else {
            return Vec::new();
        };
        let (Dns(name) | Dns4(name) | Dns6(name)) = &host else {
            return vec![self.0.clone()];
        };
        let (Tcp(port) | Udp(port)) = transport else {
            return Vec::new();
        };
        let found = match tokio::net::lookup_host((name.as_ref(), port)).await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%name, %error, "the name does not resolve");
                return Vec::new();
            }
        };
        let fits = |ip: &SocketAddr| match host {
            Dns4(_) => ip.is_ipv4(),
            Dns6(_) => ip.is_ipv6(),
            _ => true,
        };
        let rest: Vec<_> = self.0.iter().skip(1).collect();
        found
            .filter(fits)
            .map(|ip| rest.iter().cloned().fold(Multiaddr::from(ip.ip()), Multiaddr::with))
            .collect()
    }
}

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        let wrong = || ParseAddressError {
            text: text.chars().take(80).collect(),
        };
        if text.len() > limits::ADDRESS_BYTES_MAX {
            return Err(wrong());
        }
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return Ok(Self(
                Multiaddr::from(socket.ip()).with(multiaddr::Protocol::Tcp(socket.port())),
            ));
        }
        text.parse()
            .ok()
            .and_then(|address| Self::from_multiaddr(&address))
            .ok_or_else(wrong)
    }
}

/// The IP address and TCP port of an address without names.
fn socket_address(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        multiaddr::Protocol::Ip4(ip) => ip.into(),
        multiaddr::Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match parts.next()? {
        multiaddr::Protocol::Tcp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Where to listen: an IP address and a port (0 picks a free one), with TCP and QUIC both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listen(pub SocketAddr);

impl Listen {
    pub(crate) fn multiaddrs(self) -> [Multiaddr; 2] {
        let ip = Multiaddr::from(self.0.ip());
        [
            ip.clone().with(multiaddr::Protocol::Tcp(self.0.port())),
            ip.with(multiaddr::Protocol::Udp(self.0.port()))
                .with(multiaddr::Protocol::QuicV1),
        ]
    }
}

impl FromStr for Listen {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        text.parse().map(Self).map_err(|_| ParseAddressError {
            text: text.chars().take(80).collect(),
        })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Whether an address is reached over TCP.
pub(crate) fn is_tcp(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, multiaddr::Protocol::Tcp(_)))
}

pub(crate) fn peer_id(node: NodeId) -> libp2p::PeerId {
    node.to_string().parse().expect("a node id is written as a PeerId")
}

/// The node behind a PeerId; none for keys that are not Ed25519.
pub(crate) fn node_id(peer: &libp2p::PeerId) -> Option<NodeId> {
    peer.to_base58().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_addresses_are_taken() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(
                text.parse::<Address>().ok().map(|a| a.to_string()).as_deref(),
                expected,
                "{text}"
            );
        };
        check("192.0.2.1:4720", Some("/ip4/192.0.2.1/tcp/4720"));
        check("[::1]:4720", Some("/ip6/::1/tcp/4720"));
        check(
            "/dns4/nas.example/udp/4720/quic-v1",
            Some("/dns4/nas.example/udp/4720/quic-v1"),
        );
        check(
            "/ip4/192.0.2.1/tcp/4720/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
            Some("/ip4/192.0.2.1/tcp/4720"),
        );
        for wrong in [
            "",
            "nas.example",
            "/unix/%2ftmp%2fx",
            "/ip4/1.2.3.4/tcp/1/ws",
            "/memory/1",
            "/ip4/1.2.3.4/udp/1",
            "/ip4/1.2.3.4",
        ] {
            check(wrong, None);
        }
    }

    #[test]
    fn a_node_is_its_peer_id() {
        let node = NodeId::from_bytes(*potluck_types::Hash::of(b"any").as_bytes());
        assert_eq!(node_id(&peer_id(node)), Some(node));
    }
}
