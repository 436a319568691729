//! Who a client is: the address that counts, and the keys under which it is limited.

pub(super) mod identity;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::{HeaderMap, request};

use crate::config::model::{ClientBy, TrustedProxies};
use crate::proto::fields;
use crate::proto::proxy::Header;

pub use identity::{Identities, value};

/// Where somebody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// IPv4 is never written as IPv6 here.
    Ip(IpAddr),
    /// Behind a Unix socket: on this machine, without an address.
    Local,
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub address: Address,
    /// It is a trusted proxy: what it forwards counts.
    pub trusted: bool,
}

/// Whose request it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The peer's, or the one that a trusted proxy gives.
    pub address: Address,
    /// The peer is a trusted proxy.
    pub trusted_peer: bool,
}

/// What limits count by: an IPv4 address, an IPv6 network, all peers of Unix sockets together, or an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientKey(Who);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Who {
    V4([u8; 4]),
    V6 {
        network: [u8; 16],
        prefix: u8,
    },
    Local,
    /// A keyed hash, never the value itself.
    Identity([u8; 8]),
}

/// The keys of a client: each of them is counted and limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    list: [ClientKey; 2],
    /// The second one counts.
    two: bool,
}

impl Address {
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Address::Ip(ip) => Some(ip),
            Address::Local => None,
        }
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        Address::Ip(ip.to_canonical())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(ip) => ip.fmt(f),
            Address::Local => f.write_str("local"),
        }
    }
}

impl Peer {
    pub fn new(address: Address, proxies: &TrustedProxies) -> Peer {
        Peer { address, trusted: is_trusted(address, proxies) }
    }

    /// The same on a connection that goes on under other rules: nobody becomes trusted on it.
    pub fn under(self, proxies: &TrustedProxies) -> Peer {
        Peer { trusted: self.trusted && is_trusted(self.address, proxies), ..self }
    }

    /// Who speaks on the connection of this trusted proxy, after its PROXY header.
    pub fn behind(self, header: Header, proxies: &TrustedProxies) -> Peer {
        match header {
            Header::Local => self,
            // What follows are the bytes of a client that nobody knows: what they tell about it does not count.
            Header::Unknown => Peer { trusted: false, ..self },
            Header::Client(ip) => Peer::new(ip.into(), proxies),
        }
    }
}

fn is_trusted(address: Address, proxies: &TrustedProxies) -> bool {
    match address {
        Address::Ip(ip) => proxies.networks.iter().any(|network| network.contains(&ip)),
        Address::Local => proxies.unix,
    }
}

/// Finds the client behind the trusted proxies: from the peer backwards along X-Forwarded-For, or along Forwarded where
/// the former is absent, to the first address that is not trusted. A malformed or hidden one ends the walk at the last
/// good one. What a peer that is not trusted sends never counts.
pub fn identify(peer: Peer, proxies: &TrustedProxies, headers: &HeaderMap) -> Client {
    let mut address = peer.address;
    if peer.trusted {
        for node in fields::told(headers).nodes.into_iter().rev() {
            let Some(behind) = node else { break };
            address = behind.into();
            if !is_trusted(address, proxies) {
                break;
            }
        }
    }
    Client { address, trusted_peer: peer.trusted }
}

impl Client {
    /// Under which keys a route counts this client.
    ///
    /// A header counts in place of the address, and only when a trusted proxy sent it. A cookie or query parameter is
    /// the client's own word: it is counted beside the address, so that nobody may do more by inventing another.
    pub fn keys(&self, by: &ClientBy, parts: &request::Parts, ipv6_prefix: u8, identities: &Identities) -> Keys {
        let address = ClientKey::of(self.address, ipv6_prefix);
        match (by, identities.key(by, parts)) {
            (ClientBy::Header(_), Some(identity)) if self.trusted_peer => identity.into(),
            (ClientBy::Cookie(_) | ClientBy::Query(_), Some(identity)) => Keys { list: [address, identity], two: true },
            _ => address.into(),
        }
    }
}

impl Keys {
    /// One or two: the address, or the identity that stands in its place, goes first.
    pub fn as_slice(&self) -> &[ClientKey] {
        if self.two { &self.list } else { &self.list[..1] }
    }
}

impl From<ClientKey> for Keys {
    fn from(only: ClientKey) -> Self {
        Keys { list: [only; 2], two: false }
    }
}

impl ClientKey {
    /// IPv6 counts by the first `ipv6_prefix` bits, for a subscriber has whole networks.
    pub fn of(address: Address, ipv6_prefix: u8) -> Self {
        Self(match address {
            Address::Local => Who::Local,
            Address::Ip(ip) => match ip.to_canonical() {
                IpAddr::V4(address) => Who::V4(address.octets()),
                IpAddr::V6(address) => match embedded(address) {
                    Some(address) => Who::V4(address.octets()),
                    None => {
                        let mask = u128::MAX.checked_shl(128 - u32::from(ipv6_prefix)).unwrap_or(0);
                        Who::V6 { network: (u128::from(address) & mask).to_be_bytes(), prefix: ipv6_prefix }
                    }
                },
            },
        })
    }
}

/// The IPv4 host behind an address that is made of its own.
///
/// Behind a translator (64:ff9b::/96, RFC 6052) all of IPv4 is one /64 and would be one client; with 6to4 (2002::/16,
/// RFC 3056) one host has 65,536 of them.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

/// With IPv6 by /64, the default.
impl From<IpAddr> for ClientKey {
    fn from(address: IpAddr) -> Self {
        ClientKey::of(address.into(), 64)
    }
}

impl ClientKey {
    /// A header, a cookie or a query parameter, and no address.
    pub fn is_identity(&self) -> bool {
        matches!(self.0, Who::Identity(_))
    }
}

impl fmt::Display for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Who::V4(octets) => Ipv4Addr::from(octets).fmt(f),
            Who::V6 { network, prefix } => write!(f, "{}/{prefix}", Ipv6Addr::from(network)),
            Who::Local => Address::Local.fmt(f),
            Who::Identity(hash) => write!(f, "identity {:016x}", u64::from_be_bytes(hash)),
        }
    }
}

#[cfg(test)]
mod tests;
