use std::collections::HashSet;

use http::Request;
use proptest::prelude::*;

use super::*;
use crate::proto::fields::testing::lines;

fn proxies() -> TrustedProxies {
    TrustedProxies { networks: ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap()).into(), unix: false }
}

/// `local`, or an IP address.
fn address(text: &str) -> Address {
    if text == "local" { Address::Local } else { text.parse::<IpAddr>().unwrap().into() }
}

#[test]
fn clients_behind_proxies() {
    const PROXY: &str = "10.0.0.1";
    let many = format!("{}x-forwarded-for: 198.51.100.7", "x-forwarded-for: 1.2.3.4\n".repeat(90));
    let long = format!("x-forwarded-for: {}198.51.100.7", "10.0.0.2,".repeat(1500));
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
        ("spaces and tabs around members", PROXY, "x-forwarded-for: \t 1.2.3.4 ,\t198.51.100.7 \t", "198.51.100.7"),
        ("a space within an address", PROXY, "x-forwarded-for: 198.51. 100.7", PROXY),
        ("two addresses in one member", PROXY, "x-forwarded-for: 1.2.3.4 198.51.100.7", PROXY),
        ("an empty field", PROXY, "x-forwarded-for: ", PROXY),
        ("nothing but commas", PROXY, "x-forwarded-for: , ,,", PROXY),
        ("an empty line behind a line", PROXY, "x-forwarded-for: 198.51.100.7\nx-forwarded-for: ", "198.51.100.7"),
        ("a client's own line, then the proxy's", PROXY, "x-forwarded-for: 10.9.9.9\nx-forwarded-for: 198.51.100.7",
            "198.51.100.7"),
        ("many lines", PROXY, &many, "198.51.100.7"),
        ("many members", PROXY, &long, "198.51.100.7"),
        ("a quoted address", PROXY, "x-forwarded-for: \"198.51.100.7\"", PROXY),
        ("an address as a number", PROXY, "x-forwarded-for: 3325256711", PROXY),
        ("an address in hexadecimal", PROXY, "x-forwarded-for: 0xc6.51.100.7", PROXY),
        ("an address of two numbers", PROXY, "x-forwarded-for: 198.7", PROXY),
        ("a network", PROXY, "x-forwarded-for: 198.51.100.0/24", PROXY),
        ("a name", PROXY, "x-forwarded-for: localhost", PROXY),
        ("a Unix socket of nginx", PROXY, "x-forwarded-for: 198.51.100.7, unix:", PROXY),
        ("port 0", PROXY, "x-forwarded-for: 198.51.100.7:0", "198.51.100.7"),
        ("a port without digits", PROXY, "x-forwarded-for: 198.51.100.7:", PROXY),
        ("a port of six digits", PROXY, "x-forwarded-for: 198.51.100.7:471100", PROXY),
        ("IPv6 with a port but no brackets is another address", PROXY, "x-forwarded-for: 2001:db8::7:4711",
            "2001:db8::7:4711"),
        ("IPv6 with an open bracket", PROXY, "x-forwarded-for: [2001:db8::7", PROXY),
        ("IPv4 in brackets", PROXY, "x-forwarded-for: [198.51.100.7]:4711", PROXY),
        ("IPv4 written as IPv6 in brackets", PROXY, "x-forwarded-for: [::ffff:198.51.100.7]:4711", "198.51.100.7"),
        ("IPv4 written as IPv6, in hexadecimal", PROXY, "x-forwarded-for: ::ffff:c633:6407", "198.51.100.7"),
        ("a proxy written as IPv6, in hexadecimal", PROXY, "x-forwarded-for: 198.51.100.7, ::ffff:a00:2", "198.51.100.7"),
        ("a translated address is an IPv6 address", PROXY, "x-forwarded-for: 64:ff9b::a00:2", "64:ff9b::a00:2"),
        ("RFC 7239, spaces", PROXY, "forwarded:  for=1.2.3.4 ;proto=http ,\tfor=198.51.100.7; proto=https ",
            "198.51.100.7"),
        ("RFC 7239, empty members", PROXY, "forwarded: , for=198.51.100.7,, ", "198.51.100.7"),
        ("RFC 7239, two lines", PROXY, "forwarded: for=1.2.3.4\nforwarded: for=198.51.100.7", "198.51.100.7"),
        ("RFC 7239, a quoted IPv4", PROXY, "forwarded: for=\"198.51.100.7\"", "198.51.100.7"),
        ("RFC 7239, a quote with escapes", PROXY, "forwarded: for=\"198.51.100\\.7\"", "198.51.100.7"),
        ("RFC 7239, IPv6 without quotes", PROXY, "forwarded: for=[2001:db8::7]", PROXY),
        ("RFC 7239, IPv6 without brackets", PROXY, "forwarded: for=\"2001:db8::7\"", "2001:db8::7"),
        ("RFC 7239, IPv4 written as IPv6", PROXY, "forwarded: for=\"[::ffff:198.51.100.7]\"", "198.51.100.7"),
        ("RFC 7239, a comma within a quote", PROXY, "forwarded: for=\"1.2.3.4, for=198.51.100.7\"", PROXY),
        ("RFC 7239, for twice in an element", PROXY, "forwarded: for=1.2.3.4;for=198.51.100.7", PROXY),
        ("RFC 7239, a hidden node behind a proxy", PROXY, "forwarded: for=198.51.100.7, for=_x, for=10.0.0.2",
            "10.0.0.2"),
        ("RFC 7239, unknown behind a proxy", PROXY, "forwarded: for=198.51.100.7, for=unknown, for=10.0.0.2",
            "10.0.0.2"),
        ("RFC 7239, one broken line hides all", PROXY, "forwarded: for=198.51.100.7\nforwarded: for", PROXY),
        ("one who opens a Unix socket", "local", "x-forwarded-for: 198.51.100.7", "local"),
    ];
    for (name, peer, sent, expected) in rows {
        let peer = Peer::new(address(peer), &proxies());
        let expected = Client { address: address(expected), trusted_peer: peer.trusted };
        assert_eq!(
            peer.trusted,
            !matches!(peer.address, Address::Local) && peer.address != address("192.0.2.1"),
            "{name}"
        );
        assert_eq!(identify(peer, &proxies(), &lines(sent)), expected, "{name}");
    }
}

#[test]
fn a_trusted_unix_socket() {
    let proxies = TrustedProxies { unix: true, ..proxies() };
    let rows = [
        ("tells nothing", "", "local"),
        ("one proxy", "x-forwarded-for: 198.51.100.7", "198.51.100.7"),
        ("a proxy behind it", "x-forwarded-for: 198.51.100.7, 10.0.0.2", "198.51.100.7"),
        ("an invention further left", "x-forwarded-for: 10.9.9.9, 198.51.100.7", "198.51.100.7"),
        ("malformed", "x-forwarded-for: 198.51.100.7, unix:", "local"),
        ("RFC 7239", "forwarded: for=198.51.100.7", "198.51.100.7"),
    ];
    for (name, sent, expected) in rows {
        let client = identify(Peer::new(Address::Local, &proxies), &proxies, &lines(sent));
        assert_eq!(client, Client { address: address(expected), trusted_peer: true }, "{name}");
    }
}

/// What the proxy's connection is taken for, then what a chain behind it adds.
#[test]
fn clients_behind_a_proxy_header() {
    const SENT: &str = "x-forwarded-for: 203.0.113.9, 198.51.100.7";
    let client = |text: &str| Header::Client(text.parse().unwrap());
    #[rustfmt::skip]
    let rows = [
        ("a client", client("192.0.2.1"), "", "192.0.2.1", false),
        ("what a client adds does not count", client("192.0.2.1"), SENT, "192.0.2.1", false),
        ("a proxy further out", client("10.0.0.2"), SENT, "198.51.100.7", true),
        ("a proxy further out that tells nothing", client("10.0.0.2"), "", "10.0.0.2", true),
        ("a proxy further out, written as IPv6", client("::ffff:10.0.0.2"), SENT, "198.51.100.7", true),
        ("the proxy itself", Header::Local, "", "10.0.0.1", true),
        ("the proxy itself, for another", Header::Local, SENT, "198.51.100.7", true),
        ("a client that nobody knows", Header::Unknown, "", "10.0.0.1", false),
        ("what a client that nobody knows adds does not count", Header::Unknown, SENT, "10.0.0.1", false),
    ];
    for (name, header, sent, expected, trusted_peer) in rows {
        let peer = Peer::new(address("10.0.0.1"), &proxies()).behind(header, &proxies());
        let client = identify(peer, &proxies(), &lines(sent));
        assert_eq!(client, Client { address: address(expected), trusted_peer }, "{name}");
    }
}

#[test]
fn keys_of_addresses() {
    #[rustfmt::skip]
    let rows = [
        ("192.0.2.1", 64, "192.0.2.1"),
        ("192.0.2.1", 128, "192.0.2.1"),
        ("::ffff:192.0.2.1", 64, "192.0.2.1"),
        ("::ffff:192.0.2.1", 32, "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", 64, "2001:db8:1:2::/64"),
        ("2001:db8:1:2:3:4:5:6", 32, "2001:db8::/32"),
        ("2001:db8:1:2:3:4:5:6", 48, "2001:db8:1::/48"),
        ("2001:db8:1:2ff:3:4:5:6", 56, "2001:db8:1:200::/56"),
        ("2001:db8:1:2:3:4:5:6", 128, "2001:db8:1:2:3:4:5:6/128"),
        ("2001:db8:1:2::", 64, "2001:db8:1:2::/64"),
        ("::1", 64, "::/64"),
        // Translated from IPv4, 6to4.
        ("64:ff9b::192.0.2.1", 64, "192.0.2.1"),
        ("64:ff9b:1::192.0.2.1", 64, "64:ff9b:1::/64"),
        ("2002:c000:201:7::1", 64, "192.0.2.1"),
        ("2002:c000:201:8::2", 64, "192.0.2.1"),
        ("local", 64, "local"),
    ];
    for (text, prefix, expected) in rows {
        assert_eq!(ClientKey::of(address(text), prefix).to_string(), expected, "{text} by {prefix}");
    }
    let key = |text: &str| ClientKey::of(address(text), 64);
    assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::"));
    assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
    assert_ne!(key("0.0.0.0"), key("::"));
    assert!(size_of::<ClientKey>() <= 18, "one for each client is kept");
}

/// A request with this target and these fields.
fn request(target: &str, sent: &str) -> request::Parts {
    let (mut parts, ()) = Request::builder().uri(target).body(()).unwrap().into_parts();
    parts.headers = lines(sent);
    parts
}

#[test]
fn identities_of_requests() {
    let header = ClientBy::Header("x-user".parse().unwrap());
    let cookie = ClientBy::Cookie("sid".to_owned());
    let query = ClientBy::Query("token".to_owned());
    let long = format!("cookie: sid={}", "x".repeat(4097));
    let longest = format!("cookie: sid={}", "x".repeat(4096));
    #[rustfmt::skip]
    let rows = [
        ("a header", &header, "/", "x-user: bob", true),
        ("a header in another case", &header, "/", "X-User: bob", true),
        ("no header", &header, "/?x-user=bob", "cookie: x-user=bob", false),
        ("an empty header", &header, "/", "x-user: ", false),
        ("two headers", &header, "/", "x-user: bob\nx-user: eve", false),
        ("the same header twice", &header, "/", "x-user: bob\nx-user: bob", false),
        ("two headers in one line", &header, "/", "x-user: eve, bob", false),
        ("a name that looks alike", &header, "/", "x_user: bob", false),
        ("a cookie", &cookie, "/", "cookie: sid=1", true),
        ("a cookie among others", &cookie, "/", "cookie: a=b; sid=1;c=d", true),
        ("a cookie in a second line", &cookie, "/", "cookie: a=b\ncookie: sid=1", true),
        ("a cookie that holds =", &cookie, "/", "cookie: sid=1=", true),
        ("no cookie", &cookie, "/?sid=1", "x-sid: 1", false),
        ("a longer name", &cookie, "/", "cookie: xsid=1; sidx=1", false),
        ("another case", &cookie, "/", "cookie: SID=1", false),
        ("an empty cookie", &cookie, "/", "cookie: sid=", false),
        ("a name without a value", &cookie, "/", "cookie: sid", false),
        ("a cookie twice", &cookie, "/", "cookie: sid=1; sid=1", false),
        ("a cookie in two lines", &cookie, "/", "cookie: sid=1\ncookie: sid=2", false),
        ("the longest cookie", &cookie, "/", &longest, true),
        ("a longer cookie", &cookie, "/", &long, false),
        ("a parameter", &query, "/a?token=1", "", true),
        ("a parameter among others", &query, "/?a&token=1&b=c", "", true),
        ("an encoded name", &query, "/?%74oken=1", "", true),
        ("an empty query", &query, "/?", "", false),
        ("no query", &query, "/token=1", "", false),
        ("an empty parameter", &query, "/?token=", "", false),
        ("a parameter without a value", &query, "/?token", "", false),
        ("a parameter twice", &query, "/?token=1&token=2", "", false),
        ("a parameter twice, once encoded", &query, "/?token=1&%74oken=2", "", false),
        ("another case of a parameter", &query, "/?Token=1", "", false),
        ("the address", &ClientBy::Address, "/?token=1", "x-user: bob\ncookie: sid=1", false),
    ];
    let identities = Identities::default();
    for (name, by, target, sent, found) in rows {
        assert_eq!(identities.key(by, &request(target, sent)).is_some(), found, "{name}");
    }
    let token = |target: &str| identities.key(&query, &request(target, ""));
    assert_eq!(token("/?token=a%3db"), token("/other?x=y&token=a=b"), "decoded");
    assert_eq!(token("/?token=100%"), token("/?token=100%"), "what is encoded wrongly stays");
    assert_ne!(token("/?token=100%"), token("/?token=100%25x"));
    let written = [
        identities.key(&header, &request("/", "x-user: bob")),
        identities.key(&cookie, &request("/", "cookie: sid=bob")),
        token("/?token=bob"),
        token("/?token=Bob"),
        Identities::default().key(&query, &request("/?token=bob", "")),
    ];
    assert_eq!(HashSet::from(written).len(), 5, "kind, name, value and process tell them apart");
    let shown = format!("{identities:?} {:?} {}", written[0], written[0].expect("a key"));
    assert!(!shown.contains("bob"), "{shown}");
}

#[test]
fn keys_of_clients() {
    const SENT: &str = "x-user: bob\ncookie: sid=1";
    let header = ClientBy::Header("x-user".parse().unwrap());
    let cookie = ClientBy::Cookie("sid".to_owned());
    let query = ClientBy::Query("token".to_owned());
    #[rustfmt::skip]
    let rows = [
        ("the address", &ClientBy::Address, true, SENT, vec!["192.0.2.1"]),
        ("a header of a trusted proxy replaces it", &header, true, SENT, vec!["identity"]),
        ("a header of anybody else does not count", &header, false, SENT, vec!["192.0.2.1"]),
        ("a trusted proxy without the header", &header, true, "", vec!["192.0.2.1"]),
        ("a cookie counts beside it", &cookie, false, SENT, vec!["192.0.2.1", "identity"]),
        ("also behind a trusted proxy", &cookie, true, SENT, vec!["192.0.2.1", "identity"]),
        ("no cookie", &cookie, false, "", vec!["192.0.2.1"]),
        ("a parameter counts beside it", &query, false, SENT, vec!["192.0.2.1", "identity"]),
    ];
    let identities = Identities::default();
    for (name, by, trusted_peer, sent, expected) in rows {
        let client = Client { address: address("192.0.2.1"), trusted_peer };
        let keys = client.keys(by, &request("/?token=1", sent), 64, &identities);
        let shown: Vec<String> = keys.as_slice().iter().map(|key| key.to_string()).collect();
        let shown: Vec<&str> = shown.iter().filter_map(|key| key.split(' ').next()).collect();
        assert_eq!(shown, expected, "{name}");
    }
}

proptest! {
    /// Whatever stands further left, the right-most untrusted address of a trusted chain is the client.
    #[test]
    fn nobody_speaks_for_another(invented in "[ -~]{0,60}", client: u32, hops in prop::collection::vec(any::<u16>(), 0..4)) {
        let client = Address::from(IpAddr::from(Ipv4Addr::from(client)));
        prop_assume!(!is_trusted(client, &proxies()));
        let chain: String = hops.iter().map(|hop| format!(", 10.0.{}.{}", hop >> 8, hop & 255)).collect();
        let headers = lines(&format!("x-forwarded-for: {invented}\nx-forwarded-for: {client}{chain}"));
        let peer = Peer::new(address("10.0.0.1"), &proxies());
        prop_assert_eq!(identify(peer, &proxies(), &headers).address, client);
    }

    #[test]
    fn any_forwarding_fields_are_read(sent in "(forwarded|x-forwarded-for|x-forwarded-host): [ -~]{0,80}") {
        let peer = Peer::new(address("10.0.0.1"), &proxies());
        prop_assert!(identify(peer, &proxies(), &lines(&sent)).trusted_peer);
    }
}
