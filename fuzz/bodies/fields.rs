//! Header lists on their way through: what is hop-by-hop ends here, nobody but a trusted proxy says who the client is, the
//! two dialects of that say the same to the next hop, and all else passes as it came.

use std::net::{IpAddr, Ipv4Addr};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, Version};
use tidegate::config::model::TrustedProxies;
use tidegate::policy::client::{Address, Peer, identify};
use tidegate::proto::fields::{
    Framing, Hop, Host, Passed, asked, edit, plain_answer_headers, plain_headers, plain_trailers, upstream_headers,
};

use super::head::{headers, holds, members};

const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// A byte for the way it comes and what it is, then the fields.
pub fn run(data: &[u8]) {
    let Some((way, text)) = data.split_first() else { return };
    let came = headers(text);
    let is = |bit: u8| way >> bit & 1 == 1;
    let host = Host { name: "app.test".to_owned(), port: is(3).then_some(8080) };
    let peer = (!is(4)).then_some(IpAddr::V4(PEER));
    let hop = Hop { peer, trusted_peer: is(0), tls: is(1), host: &host };
    let mut out = came.clone();
    match way >> 5 {
        0 | 1 => {
            upstream_headers(&mut out, &hop, &Passed::default());
            request(&came, &out, &hop, true);
            assert_eq!(
                (members(&out, "connection"), members(&out, "upgrade")),
                (vec!["Upgrade".to_owned()], vec!["websocket".to_owned()])
            );
            assert!(!out.contains_key("content-length") && !out.contains_key("expect"));
        }
        2 | 3 => {
            let framing =
                [Framing::Empty, Framing::Length(7), Framing::Chunked][usize::from(way >> 2 & 1) + usize::from(is(1))];
            plain_headers(&mut out, Version::HTTP_11, &hop, None, framing);
            request(&came, &out, &hop, false);
            assert!(!out.contains_key("upgrade"));
            let lengths: Vec<_> = out.get_all("content-length").iter().collect();
            let chunked = members(&out, "transfer-encoding");
            match framing {
                Framing::Empty => assert_eq!(chunked, [""; 0]),
                Framing::Length(_) => assert!(lengths == ["7"] && chunked.is_empty(), "RFC 9112 section 6.3"),
                Framing::Chunked => assert!(lengths.is_empty() && chunked == ["chunked"], "RFC 9112 section 6.3"),
            }
        }
        4 => {
            plain_answer_headers(StatusCode::OK, &mut out);
            assert!(!out.contains_key("connection") && !out.contains_key("upgrade") && !out.contains_key("alt-svc"));
            no_hops(&came, &out, &["trailer"]);
            kept(&came, &out, |name| ["trailer", "content-length", "alt-svc"].contains(&name));
        }
        5 => {
            plain_trailers(&mut out);
            no_hops(&came, &out, &[]);
            for name in out.keys() {
                let folded = fold(name);
                assert!(
                    !is_told(&folded) && !["host", "origin", "content-length", "expect"].contains(&&*folded),
                    "{name}"
                );
                assert!(!folded.starts_with("sec-websocket-"));
            }
        }
        _ => {
            let set = [(HeaderName::from_static("x-user"), HeaderValue::from_static("me"))];
            edit(&mut out, &[HeaderName::from_static("x-old")], &set);
            for name in out.keys().map(fold) {
                assert_ne!(name, "x-old");
            }
            assert_eq!(out.get_all("x-user").iter().collect::<Vec<_>>(), ["me"]);
            assert_eq!(out.keys().filter(|name| fold(name) == "x-user").count(), 1);
        }
    }
}

/// The name as CGI and its heirs read it.
fn fold(name: &HeaderName) -> String {
    name.as_str().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

/// What tells of the client or the target.
fn is_told(folded: &str) -> bool {
    let told = ["forwarded", "true-client-ip", "via", "x-client-ip", "x-cluster-client-ip", "x-original-host"];
    let more = ["x-original-url", "x-real-ip", "x-rewrite-url"];
    let products = "cf-connecting-ip cf-connecting-ipv6 cf-pseudo-ipv4 client-ip fastly-client-ip forwarded-for \
                    front-end-https http-client-ip wl-proxy-client-cert wl-proxy-client-ip wl-proxy-ssl \
                    x-appengine-user-ip x-azure-clientip x-client-cert x-envoy-external-address x-forwarded \
                    x-original-forwarded-for x-originating-ip x-proxyuser-ip x-remote-addr x-remote-ip x-scheme \
                    x-url-scheme";
    told.contains(&folded)
        || more.contains(&folded)
        || products.split(' ').any(|name| name == folded)
        || folded.starts_with("x-forwarded-")
}

fn is_hop(folded: &str) -> bool {
    let names =
        ["connection", "http2-settings", "keep-alive", "proxy", "te", "trailer", "transfer-encoding", "upgrade"];
    names.contains(&folded) || folded.starts_with("proxy-")
}

const OURS: [&str; 5] = ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];

fn request(came: &HeaderMap, out: &HeaderMap, hop: &Hop<'_>, upgrade: bool) {
    no_hops(came, out, &["connection", "upgrade", "te", "trailer", "transfer-encoding", "content-length"]);
    for name in out.keys() {
        let folded = fold(name);
        let is_exact = folded == name.as_str();
        assert!(
            is_exact || !(is_hop(&folded) || is_told(&folded) || folded.starts_with("sec-websocket-")),
            "{name} looks like ours"
        );
        assert!(hop.trusted_peer || !is_told(&folded) || OURS.contains(&&*folded), "{name} is nobody's to say");
        let handshake =
            ["sec-websocket-key", "sec-websocket-version", "sec-websocket-protocol", "sec-websocket-extensions"];
        assert!(!folded.starts_with("sec-websocket-") || upgrade && handshake.contains(&&*folded), "{name}");
    }
    kept(came, out, |name| {
        OURS.contains(&name)
            || is_told(name) && !hop.trusted_peer
            || name.starts_with("sec-websocket-")
            || ["content-length", "expect", "te", "trailer", "connection"].contains(&name)
    });
    assert_eq!(members(out, "via").last().map(String::as_str), Some("1.1 tidegate"));
    let one = |name: &str| out.get_all(name).iter().count() == 1;
    assert!(one("via") && one("forwarded") && one("x-forwarded-proto") && one("x-forwarded-host"));
    if hop.peer.is_some() {
        assert_eq!(members(out, "x-forwarded-for").last(), Some(&PEER.to_string()));
    }
    if !hop.trusted_peer {
        assert!(one("x-forwarded-for") && members(out, "x-forwarded-for").len() == 1);
        assert_eq!(members(out, "forwarded").len(), 1);
    }
    next_hop(came, out, hop);
}

/// Who trusts us learns the same in both dialects, and what we have learnt ourselves.
fn next_hop(came: &HeaderMap, out: &HeaderMap, hop: &Hop<'_>) {
    let other = Host { name: "other.test".to_owned(), port: None };
    let proxies = TrustedProxies { networks: vec!["10.0.0.0/8".parse().expect("a network")], unix: true };
    let x: HeaderMap = without(out, |name| name == "forwarded");
    let forwarded: HeaderMap = without(out, |name| name.starts_with("x-forwarded-"));
    let told = asked(came, hop);
    for (headers, tls) in [(&x, true), (&x, false), (&forwarded, true), (&forwarded, false)] {
        let next = Hop { peer: Some(PEER.into()), trusted_peer: true, tls, host: &other };
        assert_eq!(asked(headers, &next), told, "{headers:?}");
    }
    let peer = Peer::new(Address::from(IpAddr::from([10, 0, 0, 2])), &proxies);
    let [one, other] = [&x, &forwarded].map(|headers| identify(peer, &proxies, headers));
    assert_eq!(one, other, "{out:?}");
    let own = Peer { address: hop.peer.map_or(Address::Local, Address::from), trusted: hop.trusted_peer };
    let client = identify(own, &proxies, came).address;
    // A Unix socket has no address to tell.
    if client != Address::Local {
        assert_eq!(one.address, client, "{out:?}");
    }
}

fn without(headers: &HeaderMap, unwanted: impl Fn(&str) -> bool) -> HeaderMap {
    let kept = headers.iter().filter(|(name, _)| !unwanted(name.as_str()));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Neither what concerns one connection, but for `own`, nor what its sender says does.
fn no_hops(came: &HeaderMap, out: &HeaderMap, own: &[&str]) {
    for name in out.keys().map(HeaderName::as_str) {
        let named = holds(came, "connection", name)
            && !["host", "origin"].contains(&name)
            && !name.starts_with("sec-websocket-");
        assert!(own.contains(&name) || OURS.contains(&name) || !(is_hop(name) || named), "{name} has passed");
    }
}

/// All else passes, in its order.
fn kept(came: &HeaderMap, out: &HeaderMap, but: impl Fn(&str) -> bool) {
    for name in came.keys() {
        let folded = fold(name);
        let is_lookalike = folded != name.as_str();
        let named = holds(came, "connection", name.as_str()) && !["host", "origin"].contains(&name.as_str());
        if but(&folded) || is_hop(&folded) || is_lookalike || named {
            continue;
        }
        assert!(came.get_all(name).iter().eq(out.get_all(name)), "{name} was lost or changed");
    }
    assert!(out.keys().all(|name| came.contains_key(name)
        || OURS.contains(&name.as_str())
        || is_hop(name.as_str())
        || name == "content-length"));
}
