use http::Request;
use proptest::prelude::*;

use super::testing::{lines, text};
use super::*;
use crate::proto::refusal::Refusal;

const HANDSHAKE: &str = "host: example.com\nupgrade: websocket\nconnection: Upgrade\nsec-websocket-version: 13\n\
                         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\n";

/// What the upstream gets of a handshake with these lines more, from 192.0.2.1 without TLS.
fn forwarded_from(trusted_peer: bool, more: &str) -> HeaderMap {
    let host: Host = "example.com".parse().unwrap();
    let hop = Hop { peer: Some([192, 0, 2, 1].into()), trusted_peer, tls: false, host: &host };
    let mut headers = lines(&format!("{HANDSHAKE}{more}"));
    upstream_headers(&mut headers, &hop, &Passed::default());
    headers
}

fn has(headers: &HeaderMap, name: &str) -> bool {
    headers.contains_key(name)
}

fn one<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let values: Vec<&HeaderValue> = headers.get_all(name).iter().collect();
    assert_eq!(values.len(), 1, "{name}: {values:?}");
    values[0].to_str().unwrap()
}

#[test]
fn the_whole_of_a_plain_handshake() {
    let expected = [
        "connection: Upgrade",
        "forwarded: for=192.0.2.1;proto=http;host=example.com",
        "host: example.com",
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        "sec-websocket-version: 13",
        "upgrade: websocket",
        "via: 1.1 tidegate",
        "x-forwarded-for: 192.0.2.1",
        "x-forwarded-host: example.com",
        "x-forwarded-proto: http",
    ];
    assert_eq!(text(&forwarded_from(false, "")), expected);
    assert_eq!(text(&forwarded_from(true, "")), expected);
}

#[test]
fn end_to_end_fields_pass() {
    let headers = forwarded_from(
        false,
        "cookie: a=b\ncookie: c=d\nauthorization: Bearer x\norigin: https://example.com\nuser-agent: x\nx-app_id: 7",
    );
    assert_eq!(headers.get_all("cookie").iter().count(), 2);
    for name in ["authorization", "origin", "user-agent", "x-app_id"] {
        assert!(has(&headers, name), "{name}");
    }
}

#[test]
fn fields_that_do_not_reach_the_upstream() {
    #[rustfmt::skip]
    let rows = [
        ("RFC 9110 7.6.1", "keep-alive: timeout=5"),
        ("RFC 9110 7.6.1", "proxy-connection: keep-alive"),
        ("RFC 9110 7.6.1", "te: trailers"),
        ("RFC 9110 6.6.2", "trailer: x"),
        ("RFC 9112 6.1", "transfer-encoding: chunked"),
        ("RFC 9110 11.7.1", "proxy-authenticate: Basic"),
        ("RFC 9110 11.7.2", "proxy-authorization: Basic eDp5"),
        ("RFC 9113 3.2.1 of old", "http2-settings: AAMAAABkAAQAAP__"),
        ("no body follows", "expect: 100-continue"),
        ("no body follows", "content-length: 0"),
        ("CVE-2016-5385", "proxy: http://evil.example"),
        ("not a client's", "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ("not offered by the route", "sec-websocket-protocol: chat"),
        ("not offered by the route", "sec-websocket-extensions: permessage-deflate"),
        ("CVE-2026-33433", "x_forwarded_for: 10.0.0.1"),
        ("CVE-2026-33433", "x-forwarded_for: 10.0.0.1"),
        ("CVE-2026-54763", "x.forwarded.for: 10.0.0.1"),
        ("CVE-2026-88011", "x_forwarded_host: evil.example"),
        ("looks like one of ours", "x~forwarded~proto: https"),
        ("looks like one of ours", "x_real_ip: 10.0.0.1"),
        ("looks like the handshake", "sec_websocket_key: x"),
        ("looks like the handshake", "sec-websocket_protocol: x"),
        ("looks like a framing field", "transfer_encoding: chunked"),
        ("looks like a framing field", "content_length: 5"),
        ("looks like hop-by-hop", "proxy_authorization: Basic eDp5"),
    ];
    for (name, line) in rows {
        let field = line.split(':').next().unwrap();
        for trusted in [false, true] {
            assert!(!has(&forwarded_from(trusted, line), field), "{name}: {line}");
        }
    }
}

#[test]
fn fields_that_pass_from_a_trusted_proxy_only() {
    #[rustfmt::skip]
    let rows = [
        "x-real-ip: 10.0.0.1", "true-client-ip: 10.0.0.1", "x-client-ip: 10.0.0.1", "x-cluster-client-ip: 10.0.0.1",
        "x-original-url: /admin", "x-rewrite-url: /admin", "x-original-host: evil.example", "x-forwarded-port: 443",
        "x-forwarded-prefix: /admin", "x-forwarded-server: a", "x-forwarded-client-cert: Subject=admin",
    ];
    let believed = BELIEVED.map(|name| format!("{name}: 10.0.0.1"));
    for line in rows.into_iter().chain(believed.iter().map(String::as_str)) {
        let field = line.split(':').next().unwrap();
        assert!(!has(&forwarded_from(false, line), field), "{line}");
        assert!(has(&forwarded_from(true, line), field), "{line}");
        let spelled = line.replacen('-', "_", 1);
        let field = spelled.split(':').next().unwrap();
        assert!(field == "via" || !has(&forwarded_from(true, &spelled), field), "{spelled}");
    }
}

#[test]
fn connection_options() {
    let headers = forwarded_from(false, "connection: x-a,, X-B\nconnection: x-c\nx-a: 1\nx-b: 2\nx-c: 3\nx-d: 4");
    assert!(["x-a", "x-b", "x-c"].iter().all(|name| !has(&headers, name)), "what it names");
    assert!(has(&headers, "x-d"), "what it does not name");
    assert_eq!(one(&headers, "connection"), "Upgrade", "written afresh (CVE-2026-105299)");

    let everything = "connection: host, origin, sec-websocket-key, sec-websocket-version, x-forwarded-for, via, \
                      x-forwarded-proto, x-forwarded-host, forwarded, upgrade\norigin: https://example.com";
    let headers = forwarded_from(false, everything);
    let expected = text(&forwarded_from(false, "origin: https://example.com"));
    assert_eq!(text(&headers), expected, "it cannot remove what we decide by or write (CVE-2021-32813)");

    let headers = forwarded_from(true, "connection: x-forwarded-for\nx-forwarded-for: 198.51.100.7");
    assert_eq!(one(&headers, "x-forwarded-for"), "192.0.2.1");
}

#[test]
fn what_the_route_lets_through_is_offered() {
    let host: Host = "example.com".parse().unwrap();
    let hop = Hop { peer: Some([192, 0, 2, 1].into()), trusted_peer: false, tls: true, host: &host };
    let mut headers = lines(&format!(
        "{HANDSHAKE}sec-websocket-protocol: a\nsec-websocket-protocol: b, c\nsec-websocket-extensions: x-foo"
    ));
    let subprotocols = ["a".to_owned(), "c".to_owned()];
    let deflate = [Deflate { client_max_window_bits: Some(None), ..Deflate::default() }];
    let passed = Passed { host: Some("inner.example:81"), subprotocols: &subprotocols, deflate: &deflate };
    upstream_headers(&mut headers, &hop, &passed);
    assert_eq!(one(&headers, "sec-websocket-protocol"), "a, c");
    assert_eq!(one(&headers, "sec-websocket-extensions"), "permessage-deflate; client_max_window_bits");
    assert_eq!(one(&headers, "host"), "inner.example:81", "the route sets it");
    assert_eq!(one(&headers, "x-forwarded-host"), "example.com", "the client's own");
    assert_eq!(one(&headers, "x-forwarded-proto"), "https", "never wss (traefik#6388)");
}

/// Peer 192.0.2.1 without TLS, Host example.com; what the upstream learns. `xf-` stands for `x-forwarded-`.
#[test]
fn forwarding_fields() {
    const OURS: &str = "for=192.0.2.1;proto=http;host=example.com";
    #[rustfmt::skip]
    let rows = [
        // name, trusted, sent; X-Forwarded-For, -Proto, -Host, Via; Forwarded
        ("spoofed", false,
            "xf-for: 10.0.0.1\nxf-proto: https\nxf-host: evil.example\nforwarded: for=10.0.0.1\nvia: 2 x",
            "192.0.2.1", "http", "example.com", "1.1 tidegate", "OURS"),
        ("appended", true, "xf-for: 198.51.100.7\nvia: 2 front",
            "198.51.100.7, 192.0.2.1", "http", "example.com", "2 front, 1.1 tidegate", "for=198.51.100.7, OURS"),
        ("several lines become one", true, "xf-for: 198.51.100.7\nxf-for: 198.51.100.8\nvia: 2 a\nvia: 2 b",
            "198.51.100.7, 198.51.100.8, 192.0.2.1", "http", "example.com", "2 a, 2 b, 1.1 tidegate",
            "for=198.51.100.7, for=198.51.100.8, OURS"),
        ("scheme and host are kept", true, "xf-for: 198.51.100.7\nxf-proto: https\nxf-host: Shop.Example:8443",
            "198.51.100.7, 192.0.2.1", "https", "shop.example:8443", "1.1 tidegate",
            "for=198.51.100.7;proto=https;host=\"shop.example:8443\", for=192.0.2.1"),
        ("wss is https (drydock#887)", true, "xf-proto: wss",
            "192.0.2.1", "https", "example.com", "1.1 tidegate", "proto=https, for=192.0.2.1;host=example.com"),
        ("an unknown scheme says nothing", true, "xf-proto: gopher",
            "192.0.2.1", "http", "example.com", "1.1 tidegate", "OURS"),
        ("the last scheme and host count", true, "xf-proto: http, https\nxf-host: evil.example, good.example",
            "192.0.2.1", "https", "good.example", "1.1 tidegate", "proto=https;host=good.example, for=192.0.2.1"),
        ("a malformed host says nothing", true, "xf-host: a\"b",
            "192.0.2.1", "http", "example.com", "1.1 tidegate", "OURS"),
        ("IPv6 and a hidden node", true, "xf-for: unknown, 2001:db8::7, [2001:db8::8]:99",
            "unknown, 2001:db8::7, [2001:db8::8]:99, 192.0.2.1", "http", "example.com", "1.1 tidegate",
            "for=unknown, for=\"[2001:db8::7]\", for=\"[2001:db8::8]\", OURS"),
        ("RFC 7239", true,
            "forwarded: for=\"[2001:db8::7]:4711\";proto=https;host=\"a.example:8443\", for=_x;by=203.0.113.1",
            "2001:db8::7, unknown, 192.0.2.1", "https", "a.example:8443", "1.1 tidegate",
            "for=\"[2001:db8::7]:4711\";proto=https;host=\"a.example:8443\", for=_x;by=203.0.113.1, for=192.0.2.1"),
        ("RFC 7239 over two lines", true, "forwarded: For=198.51.100.7; Proto=HTTPS\nforwarded: FOR=198.51.100.8",
            "198.51.100.7, 198.51.100.8, 192.0.2.1", "https", "example.com", "1.1 tidegate",
            "For=198.51.100.7; Proto=HTTPS, FOR=198.51.100.8, for=192.0.2.1;host=example.com"),
        ("Forwarded that a front proxy let pass", true, "xf-for: 198.51.100.7\nforwarded: for=10.0.0.1;proto=https",
            "198.51.100.7, 192.0.2.1", "http", "example.com", "1.1 tidegate", "for=198.51.100.7, OURS"),
        ("a quote that swallows the proxy's part", true, "forwarded: for=\"a, for=198.51.100.7",
            "192.0.2.1", "http", "example.com", "1.1 tidegate", "OURS"),
        ("a pair twice", true, "forwarded: for=198.51.100.7;for=10.0.0.1",
            "192.0.2.1", "http", "example.com", "1.1 tidegate", "OURS"),
        ("a pair without a value", true, "forwarded: for",
            "192.0.2.1", "http", "example.com", "1.1 tidegate", "OURS"),
        ("empty fields", true, "xf-for: \nvia: ",
            "192.0.2.1", "http", "example.com", "1.1 tidegate", "OURS"),
    ];
    for (name, trusted, sent, x_for, x_proto, x_host, via, rfc7239) in rows {
        let headers = forwarded_from(trusted, &sent.replace("xf-", "x-forwarded-"));
        assert_eq!(one(&headers, "x-forwarded-for"), x_for, "{name}");
        assert_eq!(one(&headers, "x-forwarded-proto"), x_proto, "{name}");
        assert_eq!(one(&headers, "x-forwarded-host"), x_host, "{name}");
        assert_eq!(one(&headers, "forwarded"), rfc7239.replace("OURS", OURS), "{name}");
        assert_eq!(one(&headers, "via"), via, "{name}");
    }
}

#[test]
fn addresses_of_the_peer_as_they_are_written() {
    #[rustfmt::skip]
    let rows = [
        ("192.0.2.1", "192.0.2.1", "for=192.0.2.1;proto=https;host=\"[2001:db8::1]:8443\""),
        ("2001:db8::7", "2001:db8::7", "for=\"[2001:db8::7]\";proto=https;host=\"[2001:db8::1]:8443\""),
        ("::ffff:192.0.2.1", "192.0.2.1", "for=192.0.2.1;proto=https;host=\"[2001:db8::1]:8443\""),
    ];
    let host: Host = "[2001:DB8::1]:8443".parse().unwrap();
    for (peer, x_for, rfc7239) in rows {
        let hop = Hop { peer: peer.parse().ok(), trusted_peer: false, tls: true, host: &host };
        let mut headers = lines(HANDSHAKE);
        upstream_headers(&mut headers, &hop, &Passed::default());
        assert_eq!(one(&headers, "x-forwarded-for"), x_for);
        assert_eq!(one(&headers, "forwarded"), rfc7239);
    }
}

/// It adds nothing behind those that it told of: who takes the last one finds a client.
#[test]
fn a_peer_behind_a_unix_socket_has_no_address() {
    #[rustfmt::skip]
    let rows = [
        ("nothing told", true, "", "unknown", "for=unknown;proto=http;host=inner.example"),
        ("told", true, "x-forwarded-for: 198.51.100.7", "198.51.100.7",
            "for=198.51.100.7;proto=http;host=inner.example"),
        ("all told", true, "x-forwarded-for: 198.51.100.7\nx-forwarded-proto: https\nx-forwarded-host: a.example",
            "198.51.100.7", "for=198.51.100.7;proto=https;host=a.example"),
        ("told in RFC 7239", true, "forwarded: for=198.51.100.7;proto=https;host=a.example", "198.51.100.7",
            "for=198.51.100.7;proto=https;host=a.example"),
        // An element without `for` would be its last hop for whoever reads it from its end.
        ("half told in RFC 7239", true, "forwarded: for=\"[2001:db8::7]:80\", for=198.51.100.7;proto=https, ",
            "2001:db8::7, 198.51.100.7", "for=\"[2001:db8::7]\", for=198.51.100.7;proto=https;host=inner.example"),
        ("not trusted", false, "x-forwarded-for: 198.51.100.7", "unknown", "for=unknown;proto=http;host=inner.example"),
    ];
    let host: Host = "inner.example".parse().unwrap();
    for (name, trusted_peer, sent, x_for, rfc7239) in rows {
        let hop = Hop { peer: None, trusted_peer, tls: false, host: &host };
        let mut headers = lines(&format!("{HANDSHAKE}\n{sent}"));
        upstream_headers(&mut headers, &hop, &Passed::default());
        assert_eq!(one(&headers, "x-forwarded-for"), x_for, "{name}");
        assert_eq!(one(&headers, "forwarded"), rfc7239, "{name}");
    }
}

#[test]
fn what_the_client_asked_for() {
    #[rustfmt::skip]
    let rows = [
        ("nothing told", true, "", false, "inner.example"),
        ("told", true, "x-forwarded-proto: https\nx-forwarded-host: shop.example", true, "shop.example"),
        ("told in RFC 7239", true, "forwarded: proto=https;host=shop.example", true, "shop.example"),
        ("not trusted", false, "x-forwarded-proto: https\nx-forwarded-host: shop.example", false, "inner.example"),
        ("not trusted in RFC 7239", false, "forwarded: proto=https;host=shop.example", false, "inner.example"),
    ];
    let host: Host = "inner.example".parse().unwrap();
    for (name, trusted_peer, sent, secure, expected) in rows {
        let hop = Hop { peer: Some([192, 0, 2, 1].into()), trusted_peer, tls: false, host: &host };
        let expected = Asked { secure, host: expected.parse().unwrap() };
        assert_eq!(asked(&lines(sent), &hop), expected, "{name}");
    }
}

#[test]
fn fields_of_the_upstreams_101() {
    let mut headers = lines(
        "connection: keep-alive, Upgrade, X-Inner\nupgrade: WebSocket\nsec-websocket-accept: a\n\
         sec-websocket-protocol: chat\nsec-websocket-extensions: permessage-deflate\nset-cookie: a=b\n\
         set-cookie: c=d\nserver: x\nx-inner: 1\n\
         keep-alive: timeout=5\nalt-svc: h3=\":443\"\nproxy-authenticate: Basic\nproxy-status: x\ntrailer: x\nte: x\n\
         transfer-encoding: chunked\ncontent-length: 5\nsec-websocket-key: x",
    );
    answer_headers(&mut headers);
    let expected = [
        "connection: Upgrade",
        "sec-websocket-accept: a",
        "sec-websocket-extensions: permessage-deflate",
        "sec-websocket-protocol: chat",
        "server: x",
        "set-cookie: a=b",
        "set-cookie: c=d",
        "upgrade: websocket",
    ];
    assert_eq!(text(&headers), expected, "CVE-2026-55458");

    let mut headers = lines("connection: Upgrade, Sec-WebSocket-Accept\nupgrade: websocket\nsec-websocket-accept: a");
    answer_headers(&mut headers);
    assert_eq!(one(&headers, "sec-websocket-accept"), "a", "Connection cannot remove it");
}

#[test]
fn fields_of_the_upstreams_refusal() {
    #[rustfmt::skip]
    let rows = [
        ("hop-by-hop",
            "connection: close, x-a\nx-a: 1\nkeep-alive: x\nupgrade: h2c\nproxy-authenticate: Basic\nalt-svc: x",
            vec![]),
        ("end-to-end", "www-authenticate: Basic\nset-cookie: a=b\ncontent-length: 5", vec!["content-length: 5",
            "set-cookie: a=b", "www-authenticate: Basic"]),
        ("both framings", "content-length: 5\ntransfer-encoding: chunked", vec![]),
    ];
    for (name, sent, expected) in rows {
        let mut headers = lines(sent);
        refusal_headers(StatusCode::FORBIDDEN, &mut headers);
        assert_eq!(text(&headers), expected, "{name}");
    }
}

#[test]
fn a_426_keeps_what_it_requires() {
    #[rustfmt::skip]
    let rows = [
        ("one", "connection: upgrade, close\nupgrade: websocket", vec!["connection: Upgrade", "upgrade: websocket"]),
        ("two lines", "connection: Upgrade\nupgrade: a/1\nupgrade: b",
            vec!["connection: Upgrade", "upgrade: a/1", "upgrade: b"]),
        ("without its option", "upgrade: websocket", vec!["connection: Upgrade", "upgrade: websocket"]),
        ("named by none", "connection: close", vec![]),
    ];
    for (name, sent, expected) in rows {
        let (mut refusal, mut plain) = (lines(sent), lines(sent));
        refusal_headers(StatusCode::UPGRADE_REQUIRED, &mut refusal);
        plain_answer_headers(StatusCode::UPGRADE_REQUIRED, &mut plain);
        assert_eq!(
            (text(&refusal), text(&plain)),
            (expected.iter().map(|&line| line.to_owned()).collect(), text(&refusal)),
            "{name}"
        );
    }
}

#[test]
fn fields_of_a_plain_request() {
    use Framing::{Chunked, Empty, Length};

    let host: Host = "example.com".parse().unwrap();
    let hop = Hop { peer: Some([192, 0, 2, 1].into()), trusted_peer: false, tls: true, host: &host };
    #[rustfmt::skip]
    let rows = [
        ("end-to-end", "cookie: a\norigin: https://evil.test\nte: gzip", Empty,
            vec!["cookie: a", "origin: https://evil.test"]),
        ("no upgrade of any kind", "connection: Upgrade, HTTP2-Settings\nupgrade: h2c\nhttp2-settings: x", Empty, vec![]),
        ("a length of nothing stays", "content-length: 0", Empty, vec!["content-length: 0"]),
        ("a length", "content-length: 5", Length(5), vec!["content-length: 5"]),
        ("a length that Connection names", "connection: content-length\ncontent-length: 5", Length(5),
            vec!["content-length: 5"]),
        ("chunked", "transfer-encoding: chunked\ntrailer: x-sum", Chunked,
            vec!["trailer: x-sum", "transfer-encoding: chunked"]),
        ("both", "transfer-encoding: chunked\ncontent-length: 5", Chunked, vec!["transfer-encoding: chunked"]),
        ("trailers of a body without chunks", "trailer: x-sum\ncontent-length: 5", Length(5), vec!["content-length: 5"]),
        ("trailers are welcome", "te: gzip, trailers", Empty, vec!["connection: TE", "te: trailers"]),
        ("100-continue", "expect: 100-Continue\ncontent-length: 5", Length(5),
            vec!["content-length: 5", "expect: 100-Continue"]),
        ("100-continue without a body", "expect: 100-continue", Empty, vec![]),
        ("another expectation", "expect: 100-continue, x\ncontent-length: 5", Length(5), vec!["content-length: 5"]),
        ("look-alikes and claims", "content_length: 9\nx_forwarded_for: 6.6.6.6\nx-real-ip: 6.6.6.6\nvia: x", Empty, vec![]),
    ];
    let ours = "forwarded: for=192.0.2.1;proto=https;host=example.com\nhost: example.com\nvia: 1.1 tidegate\n\
                x-forwarded-for: 192.0.2.1\nx-forwarded-host: example.com\nx-forwarded-proto: https";
    for (name, sent, framing, theirs) in rows {
        let mut headers = lines(&format!("host: example.com\n{sent}"));
        plain_headers(&mut headers, Version::HTTP_11, &hop, None, framing);
        let mut expected: Vec<&str> = ours.split('\n').chain(theirs).collect();
        expected.sort_unstable();
        assert_eq!(text(&headers), expected, "{name}");
    }
    let mut headers = lines("host: example.com");
    plain_headers(&mut headers, Version::HTTP_11, &hop, Some("inner.test:81"), Empty);
    assert_eq!((one(&headers, "host"), one(&headers, "x-forwarded-host")), ("inner.test:81", "example.com"));
    let mut headers = lines("host: example.com");
    plain_headers(&mut headers, Version::HTTP_10, &hop, None, Empty);
    assert_eq!(one(&headers, "via"), "1.0 tidegate", "RFC 9110 section 7.6.3");
}

#[test]
fn fields_of_the_answer_to_a_plain_request() {
    #[rustfmt::skip]
    let rows = [
        ("hop-by-hop", "connection: close, x-a\nx-a: 1\nkeep-alive: x\nupgrade: h2c\nalt-svc: x\nproxy-status: x", vec![]),
        ("trailers", "transfer-encoding: chunked\ntrailer: x-sum", vec!["trailer: x-sum"]),
        ("trailers without chunks", "trailer: x-sum\ncontent-length: 5", vec!["content-length: 5"]),
        ("both framings", "content-length: 5\ntransfer-encoding: chunked", vec![]),
        ("end-to-end", "set-cookie: a\nset-cookie: b\ndate: x", vec!["date: x", "set-cookie: a", "set-cookie: b"]),
    ];
    for (name, sent, expected) in rows {
        let mut headers = lines(sent);
        plain_answer_headers(StatusCode::OK, &mut headers);
        assert_eq!(text(&headers), expected, "{name}");
    }
}

#[test]
fn trailers_frame_and_claim_nothing() {
    let mut trailers = lines(
        "x-sum: 1\nhost: x\norigin: x\ncontent-length: 5\ntransfer-encoding: chunked\nconnection: x\nx-forwarded-for: x\n\
         x_real_ip: x\nforwarded: x\nvia: x\nsec-websocket-key: x\ncontent_length: 5\nproxy-x: x",
    );
    plain_trailers(&mut trailers);
    assert_eq!(text(&trailers), ["x-sum: 1"]);
}

#[test]
fn hosts_of_requests() {
    use Refusal as R;
    let ok = |name: &str, port| Ok(Host { name: name.to_owned(), port });
    #[rustfmt::skip]
    let rows = [
        ("a name", "/", "host: example.com", ok("example.com", None)),
        ("in another case, with a port", "/", "host: Example.COM:8080", ok("example.com", Some(8080))),
        ("a trailing dot", "/", "host: example.com.:80", ok("example.com", Some(80))),
        ("an empty port", "/", "host: example.com:", ok("example.com", None)),
        ("IPv4", "/", "host: 192.0.2.1:80", ok("192.0.2.1", Some(80))),
        ("IPv6 in normal form", "/", "host: [2001:DB8:0::1]:80", ok("2001:db8::1", Some(80))),
        ("an underscore", "/", "host: my_service", ok("my_service", None)),
        ("punycode", "/", "host: xn--bcher-kva.example", ok("xn--bcher-kva.example", None)),
        ("missing (RFC 9112 3.2)", "/", "", Err(R::HostMissing)),
        ("twice", "/", "host: a\nhost: b", Err(R::HostRepeated)),
        ("twice the same", "/", "host: a\nhost: a", Err(R::HostRepeated)),
        ("empty", "/", "host: ", Err(R::HostMalformed)),
        ("userinfo", "/", "host: good.example@evil.example", Err(R::HostMalformed)),
        ("a list", "/", "host: a, b", Err(R::HostMalformed)),
        ("a path", "/", "host: a/b", Err(R::HostMalformed)),
        ("a space", "/", "host: a b", Err(R::HostMalformed)),
        ("percent-encoding", "/", "host: a%2eb", Err(R::HostMalformed)),
        ("beyond ASCII", "/", "host: bücher.example", Err(R::HostMalformed)),
        ("an empty label", "/", "host: a..b", Err(R::HostMalformed)),
        ("two trailing dots", "/", "host: a..", Err(R::HostMalformed)),
        ("a leading dot", "/", "host: .a", Err(R::HostMalformed)),
        ("a dot alone", "/", "host: .", Err(R::HostMalformed)),
        ("a port alone", "/", "host: :80", Err(R::HostMalformed)),
        ("a port that is no number", "/", "host: a:b", Err(R::HostMalformed)),
        ("a port with a sign", "/", "host: a:+80", Err(R::HostMalformed)),
        ("port 0", "/", "host: a:0", Err(R::HostMalformed)),
        ("a port that is too large", "/", "host: a:65536", Err(R::HostMalformed)),
        ("a port of six digits", "/", "host: a:000080", Err(R::HostMalformed)),
        ("two ports", "/", "host: a:80:80", Err(R::HostMalformed)),
        ("IPv6 without brackets", "/", "host: 2001:db8::1", Err(R::HostMalformed)),
        ("IPv6 with a zone", "/", "host: [fe80::1%25eth0]", Err(R::HostMalformed)),
        ("IPv6 with text behind it", "/", "host: [::1]x", Err(R::HostMalformed)),
        ("IPv6 without its end", "/", "host: [::1", Err(R::HostMalformed)),
        ("IPv4 in brackets", "/", "host: [127.0.0.1]", Err(R::HostMalformed)),
        ("absolute form", "http://example.com/a", "host: example.com", ok("example.com", None)),
        ("absolute form with the default port", "http://Example.com:80/a", "host: example.com", ok("example.com",
            None)),
        ("absolute form of wss", "wss://example.com/a", "host: example.com:443", ok("example.com", Some(443))),
        ("absolute form, another host", "http://evil.example/a", "host: example.com", Err(R::HostMismatch)),
        ("absolute form, another port", "http://example.com:81/a", "host: example.com", Err(R::HostMismatch)),
        ("absolute form with userinfo", "http://a:b@example.com/a", "host: example.com", Err(R::TargetMalformed)),
        ("absolute form, another scheme", "ftp://example.com/a", "host: example.com", Err(R::TargetMalformed)),
        ("authority form", "example.com:443", "host: example.com:443", Err(R::TargetMalformed)),
    ];
    for (name, target, fields, expected) in rows {
        let mut parts = Request::builder().uri(target).body(()).unwrap().into_parts().0;
        parts.headers = lines(fields);
        assert_eq!(host(&parts), expected, "{name}");
    }
}

proptest! {
    #[test]
    fn a_host_that_was_read_is_written_and_read_again(text in "[a-zA-Z0-9_.:\\[\\]-]{0,40}") {
        if let Ok(host) = text.parse::<Host>() {
            prop_assert_eq!(host.to_string().parse(), Ok(host));
        }
    }

    /// Whatever comes, what we write stands there once, and nothing hop-by-hop is left.
    #[test]
    fn what_we_write_is_ours(
        trusted: bool,
        sent in proptest::collection::vec(
            (
                "(x-forwarded-(for|proto|host)|forwarded|via|connection|upgrade|x_forwarded_for|te|cookie)",
                "[ -~]{0,30}",
            ),
            0..12,
        ),
    ) {
        let more: String = sent.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        let headers = forwarded_from(trusted, &more);
        let ours = "x-forwarded-for x-forwarded-proto x-forwarded-host forwarded via connection upgrade";
        for name in ours.split(' ') {
            prop_assert_eq!(headers.get_all(name).iter().count(), 1, "{}", name);
        }
        prop_assert!(headers["x-forwarded-for"].as_bytes().ends_with(b"192.0.2.1"));
        prop_assert!(!headers.contains_key("te") && !headers.contains_key("x_forwarded_for"));
        if !trusted {
            prop_assert_eq!(&headers["x-forwarded-for"], "192.0.2.1");
            prop_assert_eq!(&headers["forwarded"], "for=192.0.2.1;proto=http;host=example.com");
        }
    }
}
