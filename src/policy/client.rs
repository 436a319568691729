//! Who a client is: the address that counts, and the key under which it is limited.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::HeaderMap;
use ipnet::IpNet;

use crate::proto::fields;

/// Whose request it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The peer's, or the one that a trusted proxy gives. IPv4 is never written as IPv6 here.
    pub address: IpAddr,
    /// The peer is a trusted proxy: what it forwards counts.
    pub trusted_peer: bool,
}

/// What limits count by: an IPv4 address, or an IPv6 /64, for one subscriber has at least all of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientKey(Network);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Network {
    V4([u8; 4]),
    /// The first 64 bits.
    V6([u8; 8]),
}

/// Finds the client behind the trusted proxies: from the peer backwards along X-Forwarded-For, or along Forwarded where
/// the former is absent, to the first address that is not trusted. A malformed or hidden one ends the walk at the last
/// good one. What a peer that is not trusted sends never counts.
pub fn identify(peer: IpAddr, trusted: &[IpNet], headers: &HeaderMap) -> Client {
    let peer = peer.to_canonical();
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    if !is_trusted(&peer) {
        return Client { address: peer, trusted_peer: false };
    }
    let mut address = peer;
    for node in fields::told(headers).nodes.into_iter().rev() {
        let Some(behind) = node else { break };
        address = behind;
        if !is_trusted(&address) {
            break;
        }
    }
    Client { address, trusted_peer: true }
}

impl From<IpAddr> for ClientKey {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => Network::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Network::V6([a, b, c, d, e, f, g, h])
            }
        })
    }
}

impl From<&Client> for ClientKey {
    fn from(client: &Client) -> Self {
        client.address.into()
    }
}

impl fmt::Display for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Network::V4(octets) => Ipv4Addr::from(octets).fmt(f),
            Network::V6(octets) => {
                let network = u128::from(u64::from_be_bytes(octets)) << 64;
                write!(f, "{}/64", Ipv6Addr::from(network))
            }
        }
    }
}
