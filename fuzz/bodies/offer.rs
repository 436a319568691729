//! The client's leg of the opening handshake, through the whole walk of decisions and out to the upstream: who gets in has
//! sent what RFC 6455 section 4.2.1 asks for, may come, and what the upstream is asked is a handshake for tungstenite.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::HeaderMap;
use http::{Method, Request, Uri, request};
use tidegate::policy::client::{Address, Peer, identify};
use tidegate::policy::decide::{Decision, Plan, Visitor, decide};
use tidegate::policy::keys::KeySet;
use tidegate::proto::fields::{Framing, Passed, plain_headers, upstream_headers};
use tidegate::proto::handshake::{self, accept};
use tungstenite::handshake::server::create_response;

use super::head::{API_KEY, holds, members, request, site};

/// A byte for the way it comes, then the head.
pub fn run(data: &[u8]) {
    let Some((way, text)) = data.split_first() else { return };
    let Some(mut parts) = request(text) else { return };
    let listener = site().listeners[usize::from(way & 1)].clone();
    let listener = Arc::new(listener);
    let addresses = [[10, 0, 0, 1], [192, 0, 2, 1], [198, 51, 100, 7], [10, 0, 0, 9]]
        .map(|octets| IpAddr::from(Ipv4Addr::from(octets)));
    let peer = Peer::new(Address::from(addresses[usize::from(way >> 1 & 3)]), &listener.trusted_proxies);
    let visitor = Visitor { peer, secure: way & 8 != 0, listener };
    let client = identify(peer, &visitor.listener.trusted_proxies, &parts.headers);
    let came = parts.clone();

    assert!(handshake::tries_upgrade(&came) || !handshake::tries_websocket(&came));
    if let Ok(offer) = handshake::read(&came) {
        asked_rightly(&came, &offer.key, &offer.subprotocols);
    }
    let keys = Arc::new(KeySet::parse(format!("alice: {API_KEY}\n").as_bytes()).expect("a right file"));
    match decide(&mut parts, &visitor, client, &site().routes, |_| keys.clone(), &mut ()) {
        Err(denied) => {
            assert!(denied.key.is_none() || handshake::read(&came).is_ok(), "only a right handshake has a key")
        }
        Ok(decision) => {
            let route = decision.route().clone();
            if route.name == "inside" || !visitor.listener.access.deny.is_empty() {
                let Address::Ip(IpAddr::V4(ip)) = client.address else { return };
                let inside = ip.octets()[0] == 10;
                assert!(inside || route.name != "inside", "{ip} got in");
                assert!(ip.octets()[..3] != [192, 0, 2] || visitor.listener.access.deny.is_empty(), "{ip} was denied");
            }
            match decision {
                Decision::Session(plan) => opened(&came, &parts, &visitor, &plan),
                Decision::Plain(passage) => {
                    assert!(!handshake::tries_websocket(&came) && came.method != Method::TRACE);
                    let mut headers = parts.headers.clone();
                    plain_headers(&mut headers, came.version, &passage.hop(&visitor), None, Framing::Chunked);
                    assert_eq!(members(&headers, "transfer-encoding"), ["chunked"]);
                    assert!(!headers.contains_key("content-length") && !headers.contains_key("upgrade"));
                }
                Decision::Redirect(route, location, _) => {
                    let location = location.to_str().expect("a URI is ASCII");
                    let to: Uri = location.parse().unwrap_or_else(|error| panic!("{location:?}: {error}"));
                    assert_eq!(to.scheme_str(), Some("https"));
                    let host = to.host().unwrap_or_default();
                    let own = if route.name == "moved" { "new.test".to_owned() } else { asked_host(&came, &visitor) };
                    assert_eq!(host, own, "{location:?} leads elsewhere");
                }
                Decision::Page(..) | Decision::Respond(..) | Decision::File(..) => {}
            }
        }
    }
}

/// The host that counts for a redirect.
fn asked_host(came: &request::Parts, visitor: &Visitor) -> String {
    let host = tidegate::proto::fields::host(came).expect("it was good enough for a route");
    let hop = tidegate::proto::fields::Hop {
        peer: visitor.peer.address.ip(),
        trusted_peer: visitor.peer.trusted,
        tls: visitor.secure,
        host: &host,
    };
    let name = tidegate::proto::fields::asked(&came.headers, &hop).host.name;
    if name.contains(':') { format!("[{name}]") } else { name }
}

/// RFC 6455 section 4.2.1, naively.
fn asked_rightly(came: &request::Parts, key: &str, subprotocols: &[String]) {
    let headers = &came.headers;
    let count = |name: &str| headers.get_all(name).iter().count();
    assert_eq!((&came.method, came.version), (&Method::GET, http::Version::HTTP_11));
    assert!(holds(headers, "upgrade", "websocket") && holds(headers, "connection", "upgrade"));
    assert_eq!((count("sec-websocket-key"), count("sec-websocket-version")), (1, 1));
    assert_eq!(headers["sec-websocket-version"], "13");
    assert_eq!(headers["sec-websocket-key"], key);
    let lenient = key.len() == 24 && key.ends_with("==") && STANDARD.decode([&key[..21], "A=="].concat()).is_ok();
    assert!(lenient, "{key:?} is no 16 bytes");
    assert_eq!(count("transfer-encoding"), 0);
    assert!(
        headers.get_all("content-length").iter().all(|length| length.as_bytes().iter().all(|digit| *digit == b'0'))
    );
    assert_eq!(members(headers, "sec-websocket-protocol"), subprotocols);
    let distinct: std::collections::HashSet<&String> = subprotocols.iter().collect();
    assert_eq!(distinct.len(), subprotocols.len(), "each is offered once");
}

fn opened(came: &request::Parts, parts: &request::Parts, visitor: &Visitor, plan: &Plan<'_>) {
    asked_rightly(came, &plan.offer.key, &handshake::read(came).expect("it is one").subprotocols);
    let origins: Vec<&http::HeaderValue> = came.headers.get_all("origin").iter().collect();
    let origin = origins.first().map(|origin| String::from_utf8_lossy(origin.as_bytes()).to_ascii_lowercase());
    let route = plan.route;
    // An operator's "any" asks nothing of it.
    if !route.origins.any {
        assert!(origins.len() <= 1, "more than one Origin");
    }
    match (&*route.name, origin) {
        ("chat", origin) => {
            let origin = origin.unwrap_or_else(|| panic!("this route wants an Origin"));
            let host = origin.strip_prefix("https://").expect("https").trim_end_matches(":443").trim_end_matches('.');
            assert!(host == "app.test" || host.ends_with(".app.test"), "{origin:?} got in");
        }
        ("hosted", None) => panic!("this route wants an Origin"),
        _ => {}
    }
    let mut headers: HeaderMap = parts.headers.clone();
    let Ok(offered) = plan.offered(&mut ()) else { return };
    let passed =
        Passed { host: route.host_header.as_deref(), subprotocols: &offered.subprotocols, deflate: &offered.deflate };
    upstream_headers(&mut headers, &plan.hop(visitor), &passed);
    route.request_headers.apply(&mut headers);
    if let Some(only) = &route.subprotocols.list {
        assert!(members(&headers, "sec-websocket-protocol").iter().all(|name| only.contains(name)));
    }
    if route.keys.is_some() {
        assert!(plan.key.is_some(), "this route wants a key");
        let query = parts.uri.query().unwrap_or_default();
        assert!(!query.split('&').any(|pair| pair.split('=').next() == Some("api_key")), "the key stands in {query:?}");
        let told = members(&headers, "sec-websocket-protocol");
        assert!(!told.iter().any(|name| name.starts_with("bearer.")), "the key stands in {told:?}");
        let authorization = headers.get_all("authorization").iter();
        assert!(!authorization.into_iter().any(|value| value.as_bytes().to_ascii_lowercase().starts_with(b"bearer ")));
    }
    // A key with bits behind its last byte passes as it came, and not every server takes it.
    if STANDARD.decode(&plan.offer.key).is_err() {
        return;
    }
    // Another implementation takes it for a handshake, and answers it with the same key.
    let mut request = Request::builder().uri("/").body(()).expect("a request");
    *request.headers_mut() = headers;
    let answer = create_response(&request).unwrap_or_else(|error| panic!("{error}: {request:?}"));
    assert_eq!(answer.headers()["sec-websocket-accept"], accept(&plan.offer.key));
}
