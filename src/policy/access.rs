//! Which clients may come at all, by their address: `allow` and `deny` of listeners and routes.

use crate::config::model::{Access, Network};
use crate::policy::client::{Address, Peer};
use crate::proto::refusal::Refusal;

/// Checks a client against the rules of its listener and of its route: both must let it in.
///
/// # Errors
/// [`Refusal::AccessDenied`].
pub fn check(listener: &Access, route: &Access, client: Address) -> Result<(), Refusal> {
    let admitted = [listener, route].iter().all(|access| admits(access, client));
    if admitted { Ok(()) } else { Err(Refusal::AccessDenied) }
}

/// Whether a peer is closed right after accept. A trusted proxy is not: the clients behind it are looked at one by one,
/// with their requests.
pub fn drops(listener: &Access, peer: &Peer) -> bool {
    !peer.trusted && !admits(listener, peer.address)
}

/// `deny` wins over `allow`; an empty `allow` lets everybody in.
fn admits(access: &Access, client: Address) -> bool {
    let is_in = |list: &[Network]| list.iter().any(|network| holds(network, client));
    !is_in(&access.deny) && (access.allow.is_empty() || is_in(&access.allow))
}

fn holds(network: &Network, client: Address) -> bool {
    match (network, client) {
        (Network::Any, _) | (Network::Unix, Address::Local) => true,
        (Network::Ip(network), Address::Ip(address)) => network.contains(&address),
        (Network::Unix, Address::Ip(_)) | (Network::Ip(_), Address::Local) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::config::model::TrustedProxies;

    /// `unix`, or an address.
    fn client(text: &str) -> Address {
        if text == "unix" { Address::Local } else { text.parse::<IpAddr>().expect("an address").into() }
    }

    fn access(allow: &str, deny: &str) -> Access {
        let list = |text: &str| {
            let network = |word: &str| match word {
                "any" => Network::Any,
                "unix" => Network::Unix,
                _ => Network::Ip(word.parse().expect("a network")),
            };
            text.split_whitespace().map(network).collect()
        };
        Access { allow: list(allow), deny: list(deny) }
    }

    #[test]
    fn who_is_let_in() {
        #[rustfmt::skip]
        let rows = [
            ("no rules", "", "", "192.0.2.1", true),
            ("no rules, a Unix peer", "", "", "unix", true),
            ("allowed", "192.0.2.0/24", "", "192.0.2.1", true),
            ("not allowed", "192.0.2.0/24", "", "198.51.100.1", false),
            ("the first address of a network", "192.0.2.64/26", "", "192.0.2.64", true),
            ("the last one", "192.0.2.64/26", "", "192.0.2.127", true),
            ("the one before it", "192.0.2.64/26", "", "192.0.2.63", false),
            ("the one behind it", "192.0.2.64/26", "", "192.0.2.128", false),
            ("one address", "192.0.2.1/32", "", "192.0.2.1", true),
            ("its neighbour", "192.0.2.1/32", "", "192.0.2.2", false),
            ("IPv6, the last one", "2001:db8::/33", "", "2001:db8:7fff:ffff:ffff:ffff:ffff:ffff", true),
            ("IPv6, the one behind it", "2001:db8::/33", "", "2001:db8:8000::", false),
            ("denied", "", "192.0.2.0/24", "192.0.2.1", false),
            ("not denied", "", "192.0.2.0/24", "198.51.100.1", true),
            ("deny wins over allow", "192.0.2.0/24", "192.0.2.0/24", "192.0.2.1", false),
            ("a hole in what is allowed", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", false),
            ("beside the hole", "10.0.0.0/8", "10.1.0.0/16", "10.2.0.0", true),
            ("no hole in what is denied", "10.1.0.0/16", "10.0.0.0/8", "10.1.2.3", false),
            ("the second of a list", "192.0.2.0/24 10.0.0.0/8", "", "10.0.0.1", true),
            ("mapped into IPv6, allowed", "192.0.2.0/24", "", "::ffff:192.0.2.1", true),
            ("mapped into IPv6, denied", "", "192.0.2.0/24", "::ffff:192.0.2.1", false),
            ("all of IPv4 is not IPv6", "0.0.0.0/0", "", "2001:db8::1", false),
            ("all of IPv6 is not IPv4", "::/0", "", "::ffff:192.0.2.1", false),
            ("compatible addresses are no IPv4", "192.0.2.0/24", "", "::192.0.2.1", false),
            ("any is both", "any", "", "2001:db8::1", true),
            ("any is Unix, too", "any", "", "unix", true),
            ("nobody", "", "any", "192.0.2.1", false),
            ("nobody, Unix", "", "any", "unix", false),
            ("nobody, whatever is allowed", "any", "any", "192.0.2.1", false),
            ("Unix only", "unix", "", "unix", true),
            ("Unix only, an address", "unix", "", "127.0.0.1", false),
            ("networks hold no Unix peer", "0.0.0.0/0 ::/0", "", "unix", false),
            ("Unix denied", "", "unix", "unix", false),
            ("Unix denied, an address", "", "unix", "192.0.2.1", true),
        ];
        for (name, allow, deny, who, expected) in rows {
            assert_eq!(admits(&access(allow, deny), client(who)), expected, "{name}");
        }
    }

    #[test]
    fn listener_and_route_must_both_agree() {
        let (all, ten, not_one) = (access("", ""), access("10.0.0.0/8", ""), access("", "10.1.0.0/16"));
        let rows = [
            (&all, &all, "192.0.2.1", true),
            (&ten, &all, "192.0.2.1", false),
            (&all, &ten, "192.0.2.1", false),
            (&ten, &not_one, "10.2.0.1", true),
            (&ten, &not_one, "10.1.0.1", false),
            (&not_one, &ten, "10.1.0.1", false),
        ];
        for (listener, route, who, expected) in rows {
            let verdict = check(listener, route, client(who));
            assert_eq!(verdict.is_ok(), expected, "{listener:?} {route:?} {who}");
            assert!(verdict.is_ok() || verdict == Err(Refusal::AccessDenied));
        }
    }

    #[test]
    fn who_is_closed_at_once() {
        let only_lan = access("10.0.0.0/8", "");
        let networks = vec!["192.0.2.1/32".parse().expect("a network")];
        let proxies = TrustedProxies { networks, unix: false };
        let rows = [
            ("allowed", "10.0.0.1", false),
            ("not allowed", "198.51.100.1", true),
            ("a trusted proxy, whose clients are looked at later", "192.0.2.1", false),
            ("a trusted proxy, mapped", "::ffff:192.0.2.1", false),
            ("a Unix peer", "unix", true),
        ];
        for (name, who, expected) in rows {
            assert_eq!(drops(&only_lan, &Peer::new(client(who), &proxies)), expected, "{name}");
        }
    }
}
