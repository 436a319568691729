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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::fields::testing::lines;

    #[test]
    fn clients_behind_proxies() {
        const PROXY: &str = "10.0.0.1";
        #[rustfmt::skip]
        let rows = [
            ("a peer that is not trusted", "192.0.2.1", "x-forwarded-for: 198.51.100.7\nforwarded: for=198.51.100.7",
                "192.0.2.1"),
            ("a trusted peer that tells nothing", PROXY, "", PROXY),
            ("one proxy", PROXY, "x-forwarded-for: 198.51.100.7", "198.51.100.7"),
            ("a client's own invention is further left", PROXY, "x-forwarded-for: 1.2.3.4, 198.51.100.7",
                "198.51.100.7"),
            ("an invention that looks trusted", PROXY, "x-forwarded-for: 10.9.9.9, 198.51.100.7", "198.51.100.7"),
            ("two proxies", PROXY, "x-forwarded-for: 198.51.100.7, 10.0.0.2", "198.51.100.7"),
            ("two proxies over two lines", PROXY, "x-forwarded-for: 198.51.100.7\nx-forwarded-for: 10.0.0.2",
                "198.51.100.7"),
            ("only proxies", PROXY, "x-forwarded-for: 10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("malformed at the right end", PROXY, "x-forwarded-for: 198.51.100.7, x", PROXY),
            ("malformed behind a proxy", PROXY, "x-forwarded-for: 198.51.100.7, x, 10.0.0.2", "10.0.0.2"),
            ("hidden", PROXY, "x-forwarded-for: unknown", PROXY),
            ("empty members", PROXY, "x-forwarded-for: 198.51.100.7, ,", "198.51.100.7"),
            ("with a port", PROXY, "x-forwarded-for: 198.51.100.7:4711", "198.51.100.7"),
            ("with a bad port", PROXY, "x-forwarded-for: 198.51.100.7:x", PROXY),
            ("octal digits", PROXY, "x-forwarded-for: 198.51.100.007", PROXY),
            ("IPv6", PROXY, "x-forwarded-for: 2001:db8::7", "2001:db8::7"),
            ("IPv6 in brackets with a port", PROXY, "x-forwarded-for: [2001:db8::7]:4711", "2001:db8::7"),
            ("IPv6 in brackets with a bad port", PROXY, "x-forwarded-for: [2001:db8::7]:x", PROXY),
            ("IPv6 in brackets with text behind it", PROXY, "x-forwarded-for: [2001:db8::7]x", PROXY),
            ("IPv6 with a zone", PROXY, "x-forwarded-for: fe80::1%eth0", PROXY),
            ("IPv4 written as IPv6", "::ffff:10.0.0.1", "x-forwarded-for: ::ffff:198.51.100.7", "198.51.100.7"),
            ("a proxy written as IPv6", PROXY, "x-forwarded-for: 198.51.100.7, ::ffff:10.0.0.2", "198.51.100.7"),
            ("an IPv6 proxy", "fd00::1", "x-forwarded-for: 198.51.100.7", "198.51.100.7"),
            ("RFC 7239", PROXY, "forwarded: for=198.51.100.7;proto=https, for=10.0.0.2", "198.51.100.7"),
            ("RFC 7239, IPv6", PROXY, "forwarded: For=\"[2001:db8::7]:4711\"", "2001:db8::7"),
            ("RFC 7239, obfuscated port", PROXY, "forwarded: for=\"198.51.100.7:_port\"", "198.51.100.7"),
            ("RFC 7239, hidden", PROXY, "forwarded: for=198.51.100.7, for=_hidden", PROXY),
            ("RFC 7239, an element without for", PROXY, "forwarded: for=198.51.100.7, proto=https", PROXY),
            ("RFC 7239, a swallowing quote", PROXY, "forwarded: for=\"x, for=198.51.100.7", PROXY),
            ("X-Forwarded-For wins", PROXY, "forwarded: for=1.2.3.4\nx-forwarded-for: 198.51.100.7", "198.51.100.7"),
            ("any X-Forwarded-* wins", PROXY, "forwarded: for=1.2.3.4\nx-forwarded-proto: https", PROXY),
            ("a name that looks alike", PROXY, "x_forwarded_for: 1.2.3.4", PROXY),
        ];
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap()).into();
        for (name, peer, sent, address) in rows {
            let trusted_peer = peer != "192.0.2.1";
            let expected = Client { address: address.parse().unwrap(), trusted_peer };
            assert_eq!(identify(peer.parse().unwrap(), &trusted, &lines(sent)), expected, "{name}");
        }
    }

    #[test]
    fn keys_of_clients() {
        #[rustfmt::skip]
        let rows = [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:db8:1:2::", "2001:db8:1:2::/64"),
            ("::1", "::/64"),
        ];
        for (address, expected) in rows {
            assert_eq!(ClientKey::from(address.parse::<IpAddr>().unwrap()).to_string(), expected);
        }
        let key = |address: &str| ClientKey::from(address.parse::<IpAddr>().unwrap());
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_ne!(key("0.0.0.0"), key("::"));
        assert!(size_of::<ClientKey>() <= 9, "one for each client is kept");
    }
}
