//! The opening handshake, end to end: the real binary between a raw client and scripted upstreams, read on the wire.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use support::client::{ACCEPT, KEY, Peer, TEXT, close_payload, masked, request, unmasked};
use support::gateway::{Gateway, config};
use support::http::{Head, Reply, status};
use support::tls::Authority;
use support::upstream::{agreeing, answering, field, serve, serve_tls, switching};
use support::{PATIENCE, eventually};

/// Lines that end up in a route of the default configuration.
const NO_LIMITS: &str = "[limits]\nhandshakes_per_client = \"off\"\n";

/// Values of a field on the wire, with the name in exactly this spelling.
fn spelled(head: &str, name: &str) -> Vec<String> {
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    fields.filter(|(found, _)| *found == name).map(|(_, value)| value.to_owned()).collect()
}

#[test]
fn every_refusal_has_its_status_its_fields_and_its_record_and_nothing_is_dialled() {
    let (upstream, seen) = agreeing();
    let route = "origins = [\"same-origin\", \"https://*.example.com\"]\nsubprotocols = [\"chat.v1\"]\n\
                 subprotocol_required = true\nhost = \"localhost\"";
    let gateway = Gateway::start(&config(upstream, route, NO_LIMITS));
    let good =
        |path: &str| Head::new(path).with("Origin: https://a.example.com").with("Sec-WebSocket-Protocol: chat.v1");
    assert!(good("/good").opens(gateway.address()), "the request that the rows edit is right");
    eventually("the good one was dialled", || seen.connections() == 1);

    type Edit = fn(Head) -> Head;
    let rows: [(&str, u16, &str, Edit); 31] = [
        ("no Host", 400, "host_missing", |h| h.without("Host")),
        ("two Hosts", 400, "host_repeated", |h| h.with("Host: localhost")),
        ("a Host that is none", 400, "host_malformed", |h| h.set("Host: local host")),
        ("another host", 404, "no_route", |h| h.set("Host: elsewhere")),
        ("POST", 400, "method", |h| h.line("POST /row HTTP/1.1")),
        ("HTTP/1.0", 400, "http_version", |h| h.line("GET /row HTTP/1.0")),
        ("a body", 400, "has_body", |h| h.with("Content-Length: 1")),
        ("Transfer-Encoding", 400, "has_body", |h| h.with("Transfer-Encoding: chunked")),
        ("no Upgrade", 426, "not_an_upgrade", |h| h.without("Upgrade")),
        ("Upgrade: h2c", 426, "not_an_upgrade", |h| h.set("Upgrade: h2c")),
        ("no Connection", 426, "connection_lacks_upgrade", |h| h.without("Connection")),
        ("Connection: close", 426, "connection_lacks_upgrade", |h| h.set("Connection: close")),
        ("no version", 426, "version", |h| h.without("Sec-WebSocket-Version")),
        ("version 8", 426, "version", |h| h.set("Sec-WebSocket-Version: 8")),
        ("two versions", 426, "version", |h| h.with("Sec-WebSocket-Version: 13")),
        ("no key", 400, "key_missing", |h| h.without("Sec-WebSocket-Key")),
        ("two keys", 400, "key_repeated", |h| h.with("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")),
        ("a short key", 400, "key_malformed", |h| h.set("Sec-WebSocket-Key: c2hvcnQ=")),
        ("a key that is no base64", 400, "key_malformed", |h| h.set("Sec-WebSocket-Key: ???")),
        ("no Origin", 403, "origin_missing", |h| h.without("Origin")),
        ("another origin", 403, "origin_not_allowed", |h| h.set("Origin: https://evil.test")),
        ("the parent of a wildcard", 403, "origin_not_allowed", |h| h.set("Origin: https://example.com")),
        ("a wildcard's look-alike", 403, "origin_not_allowed", |h| h.set("Origin: https://evilexample.com")),
        ("the wrong scheme", 403, "origin_not_allowed", |h| h.set("Origin: http://a.example.com")),
        ("Origin: null", 403, "origin_not_allowed", |h| h.set("Origin: null")),
        ("two Origins", 403, "origin_malformed", |h| h.with("Origin: https://b.example.com")),
        ("an Origin with a byte that is none", 403, "origin_malformed", |h| {
            h.set("Origin: https://a\u{80}.example.com")
        }),
        ("no subprotocol", 400, "subprotocol_required", |h| h.without("Sec-WebSocket-Protocol")),
        ("another subprotocol", 400, "subprotocol_required", |h| h.set("Sec-WebSocket-Protocol: chat.v9")),
        ("a subprotocol twice", 400, "subprotocol_repeated", |h| h.set("Sec-WebSocket-Protocol: chat.v1, chat.v1")),
        ("an empty subprotocol", 400, "subprotocols_malformed", |h| h.set("Sec-WebSocket-Protocol: chat.v1,,")),
    ];
    for (number, (name, expected, label, edit)) in rows.into_iter().enumerate() {
        let path = format!("/row-{number}-");
        let head = edit(good(&path)).text().replace("/row HTTP", &format!("{path} HTTP"));
        let answer = support::http::ask(gateway.address(), head.as_bytes());
        assert_eq!(answer.status(), expected, "{name}: {answer:?}");
        let connection = answer.all("connection").join(", ").to_ascii_lowercase();
        assert!(connection.contains("close"), "{name} closes: {answer:?}");
        if expected == 426 {
            assert_eq!(answer.all("upgrade"), ["websocket"], "{name}: {answer:?}");
            assert!(connection.contains("upgrade"), "{name}: {answer:?}");
        }
        if label == "version" {
            assert_eq!(spelled(&answer.head, "Sec-WebSocket-Version"), ["13"], "{name}: {answer:?}");
        }
        assert!(answer.text().ends_with('\n') && answer.text().len() > 10, "{name} says why: {answer:?}");
        let record = gateway.log(&path);
        assert_eq!(record.lines().count(), 1, "{name}: {record}");
        assert!(record.contains(&format!("reason=\"{label}\"")), "{name}: {record}");
        assert!(record.contains(&format!("status={expected}")), "{name}: {record}");
        assert!(record.contains("client=127.0.0.1"), "{name}: {record}");
    }
    assert_eq!(seen.connections(), 1, "nothing was dialled for a refused request");
}

#[test]
fn paths_that_can_be_read_in_two_ways_are_refused() {
    let (upstream, seen) = agreeing();
    let gateway = Gateway::start(&config(upstream, "path = \"/app\"", NO_LIMITS));
    let rows = [
        ("/app/../secret", 400),
        ("/app/%2e%2e/secret", 400),
        ("/app/.%2E/secret", 400),
        ("/app/./x", 400),
        ("/app/..;/secret", 400),
        ("/app/..%2fsecret", 400),
        ("/app/a%2fx", 400),
        ("/app%2fx", 404),
        ("/app\\x", 400),
        ("/app%5cx", 400),
        ("/app/%00", 400),
        ("/app/%0d%0aX:%20y", 400),
        ("/app/%zz", 400),
        ("/app/%2", 400),
        ("/apple", 404),
        ("/", 404),
        ("*", 400),
        ("app", 400),
    ];
    for (path, expected) in rows {
        let answer = Head::new(path).ask(gateway.address());
        assert_eq!(answer.status(), expected, "{path}: {answer:?}");
    }
    assert_eq!(seen.connections(), 0);

    // What passes arrives byte for byte, the query too.
    let rows = [
        "/app",
        "/app/",
        "/app//x",
        "//app/x",
        "/%61pp/x",
        "/app/%C3%BC?q=%2e%2e/%2F&&=",
        "/app?a=../b",
        "/app/x?",
        "/app/...",
        "/app/a%20b;c=d",
        "/app/[1]|{2}",
    ];
    for path in rows {
        assert!(Head::new(path).opens(gateway.address()), "{path}");
        assert_eq!(seen.last().lines().next(), Some(format!("GET {path} HTTP/1.1").as_str()));
    }
}

/// RFC 9110 section 7.4.
#[test]
fn a_target_of_https_needs_tls_here_or_in_front() {
    let (upstream, seen) = agreeing();
    let gateway = Gateway::start(&config(upstream, "", NO_LIMITS));
    for target in ["https://localhost:443/x", "wss://localhost:443/x"] {
        let told = Head::new(target).set("Host: localhost:443").with("X-Forwarded-Proto: https");
        assert_eq!(told.ask(gateway.address()).status(), 421, "{target}");
        assert!(gateway.log("target_unsecured").contains("status=421"));
    }
    assert_eq!(seen.connections(), 0);
    let behind = config(upstream, "", NO_LIMITS).replacen(
        "[[listener]]\n",
        "[[listener]]\ntrusted_proxies = [\"127.0.0.1\"]\n",
        1,
    );
    let behind = Gateway::start(&behind);
    let request = Head::new("https://localhost/x");
    assert_eq!(request.ask(behind.address()).status(), 421, "it says nothing of TLS");
    assert!(request.with("X-Forwarded-Proto: https").opens(behind.address()));
}

#[test]
fn an_absolute_target_must_name_the_host() {
    let (upstream, seen) = agreeing();
    let gateway = Gateway::start(&config(upstream, "", NO_LIMITS));
    let other = Head::new("http://other/x").ask(gateway.address());
    assert_eq!(other.status(), 400, "{other:?}");
    assert!(gateway.log("host_mismatch").contains("status=400"));
    assert_eq!(seen.connections(), 0);
    assert!(Head::new("http://localhost/x?y").opens(gateway.address()));
    assert!(seen.last().starts_with("GET /x?y HTTP/1.1\r\n"), "{}", seen.last());
}

#[test]
fn origins_decide_who_connects() {
    let (upstream, _) = agreeing();
    let route = |name: &str, origins: &str| {
        format!("[[route]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = \"test\"\n{origins}\n\n")
    };
    let text = [
        "[[listener]]\naddress = \"127.0.0.1:0\"\n\n".to_owned(),
        route("default", ""),
        route("same", "origins = [\"same-origin\"]"),
        route("exact", "origins = [\"https://chat.example.com\"]"),
        route("wild", "origins = [\"https://*.example.com\"]"),
        route("none", "origins = [\"none\"]"),
        route("any", "origins = [\"any\"]"),
        format!("[upstream.test]\nservers = [\"ws://{upstream}\"]\n\n{NO_LIMITS}"),
    ]
    .concat();
    let gateway = Gateway::start(&text);
    let rows: [(&str, Option<&str>, bool); 20] = [
        ("default", None, true),
        ("default", Some("http://localhost"), true),
        ("default", Some("http://evil.test"), false),
        ("same", None, false),
        ("same", Some("http://localhost"), true),
        ("same", Some("http://LOCALHOST:80"), true),
        ("same", Some("https://localhost"), false),
        ("same", Some("http://localhost:81"), false),
        ("same", Some("http://localhost.evil.test"), false),
        ("exact", Some("https://chat.example.com"), true),
        ("exact", Some("https://chat.example.com:443"), true),
        ("exact", Some("https://chat.example.com:8443"), false),
        ("exact", Some("https://chat.example.com.evil.test"), false),
        ("wild", Some("https://a.b.example.com"), true),
        ("wild", Some("https://example.com"), false),
        ("none", None, true),
        ("none", Some("http://localhost"), false),
        ("any", None, true),
        ("any", Some("https://evil.test"), true),
        ("any", Some("null"), true),
    ];
    for (route, origin, passes) in rows {
        let mut head = Head::new(&format!("/{route}"));
        if let Some(origin) = origin {
            head = head.with(&format!("Origin: {origin}"));
        }
        let mut peer = Peer::connect(gateway.address());
        peer.write(head.text().as_bytes());
        assert_eq!(status(&peer.head()), if passes { 101 } else { 403 }, "{route} {origin:?}");
    }
}

#[test]
fn subprotocols_are_filtered_in_the_clients_order() {
    let (upstream, seen) = agreeing();
    let gateway = Gateway::start(&config(upstream, "subprotocols = [\"v2\", \"v1\"]", NO_LIMITS));
    let rows = [("v1, v2", Some("v1, v2")), ("v3, v1", Some("v1")), ("v2", Some("v2")), ("V1", None), ("v3", None)];
    for (offered, passed) in rows {
        assert!(Head::new("/").with(&format!("Sec-WebSocket-Protocol: {offered}")).opens(gateway.address()));
        assert_eq!(field(&seen.last(), "sec-websocket-protocol").as_deref(), passed, "{offered}");
    }
}

#[test]
fn only_permessage_deflate_is_offered_upstream() {
    let (upstream, seen) = agreeing();
    let off = "\n\n[[route]]\nname = \"off\"\npath = \"/off\"\nupstream = \"test\"\ncompression = \"off\"";
    let gateway = Gateway::start(&config(upstream, off, NO_LIMITS));
    let rows = [
        ("/", "permessage-deflate", Some("permessage-deflate")),
        (
            "/",
            "x-webkit-deflate-frame, permessage-deflate; client_max_window_bits",
            Some("permessage-deflate; client_max_window_bits"),
        ),
        (
            "/",
            "permessage-deflate; server_max_window_bits=10, permessage-deflate",
            Some("permessage-deflate; server_max_window_bits=10, permessage-deflate"),
        ),
        ("/", "permessage-deflate; server_max_window_bits=99", None),
        ("/", "permessage-deflate; server_max_window_bits=08", None),
        ("/", "permessage-deflate; unknown", None),
        ("/", "permessage-deflate; client_no_context_takeover; client_no_context_takeover", None),
        ("/", "bbf-usp-protocol", None),
        ("/", "permessage-deflate;;", None),
        ("/off", "permessage-deflate", None),
    ];
    for (path, offered, passed) in rows {
        assert!(Head::new(path).with(&format!("Sec-WebSocket-Extensions: {offered}")).opens(gateway.address()));
        assert_eq!(field(&seen.last(), "sec-websocket-extensions").as_deref(), passed, "{offered}");
    }
}

#[test]
fn the_clients_spelling_reaches_the_upstream_and_ours_is_the_rfcs() {
    let (upstream, seen) = agreeing();
    let gateway = Gateway::start(&config(upstream, "", NO_LIMITS));
    let head = Head::new("/x?q")
        .set(&format!("SEC-WEBSOCKET-KEY: {KEY}"))
        .set("sec-websocket-version: 13")
        .with("X-ODD-nAmE: 1")
        .with("x-odd-name: 2")
        .with("X-Other: \u{e9}")
        .with("Cookie: a=b");
    assert!(head.opens(gateway.address()));
    let wire = seen.last();
    assert_eq!(spelled(&wire, "SEC-WEBSOCKET-KEY"), [KEY], "{wire}");
    assert_eq!(spelled(&wire, "sec-websocket-version"), ["13"], "{wire}");
    assert_eq!(spelled(&wire, "X-ODD-nAmE"), ["1"], "{wire}");
    assert_eq!(spelled(&wire, "x-odd-name"), ["2"], "{wire}");
    assert_eq!(spelled(&wire, "X-Other"), ["\u{e9}"], "{wire}");
    assert_eq!(spelled(&wire, "Cookie"), ["a=b"], "{wire}");
    assert_eq!(spelled(&wire, "Host"), ["localhost"], "{wire}");
    assert_eq!(spelled(&wire, "Connection"), ["Upgrade"], "{wire}");
    assert_eq!(spelled(&wire, "Upgrade"), ["websocket"], "{wire}");
    assert_eq!(spelled(&wire, "X-Forwarded-For"), ["127.0.0.1"], "{wire}");
    assert_eq!(spelled(&wire, "X-Forwarded-Proto"), ["http"], "{wire}");
    assert_eq!(spelled(&wire, "X-Forwarded-Host"), ["localhost"], "{wire}");
    assert_eq!(spelled(&wire, "Forwarded").len(), 1, "{wire}");
    assert_eq!(spelled(&wire, "Via"), ["1.1 tidegate"], "{wire}");

    assert!(Head::new("/").opens(gateway.address()));
    let wire = seen.last();
    assert_eq!(spelled(&wire, "Sec-WebSocket-Key"), [KEY], "{wire}");
    assert_eq!(spelled(&wire, "Sec-WebSocket-Version"), ["13"], "{wire}");
}

#[test]
fn the_upstreams_spelling_reaches_the_client() {
    let (upstream, _) = answering(|head| {
        let more = "SET-cookie: a=1; Path=/\r\nSet-Cookie: b=2\r\nx-Server: Odd\r\nDate: today\r\n";
        switching(head, more).into_bytes()
    });
    let gateway = Gateway::start(&config(upstream, "", NO_LIMITS));
    let mut peer = Peer::connect(gateway.address());
    peer.write(request("/", "").as_bytes());
    let head = peer.head();
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    assert_eq!(spelled(&head, "Sec-WebSocket-Accept"), [ACCEPT], "{head}");
    assert_eq!(spelled(&head, "SET-cookie"), ["a=1; Path=/"], "{head}");
    assert_eq!(spelled(&head, "Set-Cookie"), ["b=2"], "{head}");
    assert_eq!(spelled(&head, "x-Server"), ["Odd"], "{head}");
    assert_eq!(spelled(&head, "Connection"), ["Upgrade"], "{head}");
    assert_eq!(spelled(&head, "Upgrade"), ["websocket"], "{head}");
    assert!(!head.contains("Sec-Websocket"), "{head}");
    assert!(!head.to_ascii_lowercase().contains("content-length"), "{head}");
}

#[test]
fn what_is_between_two_neighbours_does_not_pass() {
    let (upstream, seen) = answering(|head| {
        let more = "Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nAlt-Svc: h3=\":443\"\r\nX-Private: 1\r\n\
                    Trailer: x\r\nTE: x\r\nContent-Length: 0\r\nX-Kept: 1\r\n";
        let answer = switching(head, more);
        answer.replace("Connection: Upgrade", "Connection: Upgrade, X-Private, keep-alive").into_bytes()
    });
    let gateway = Gateway::start(&config(upstream, "", NO_LIMITS));
    let head = Head::new("/")
        .set("Connection: keep-alive, Upgrade, X-Named, Host, Sec-WebSocket-Key, X-Forwarded-For")
        .set("Upgrade: h2c, websocket")
        .with("X-Named: 1")
        .with("Keep-Alive: 5")
        .with("TE: trailers")
        .with("Trailer: x")
        .with("Proxy-Authorization: Basic x")
        .with("Proxy-Connection: keep-alive")
        .with("HTTP2-Settings: x")
        .with("Expect: 100-continue")
        .with("Content-Length: 0")
        .with("X_Forwarded_For: 6.6.6.6")
        .with("Sec_WebSocket_Key: other")
        .with("X_Real_IP: 6.6.6.6")
        .with("X-Forwarded-For: 6.6.6.6")
        .with("X-Forwarded-Proto: https")
        .with("X-Forwarded-Host: evil.test")
        .with("X-Forwarded-User: root")
        .with("X-Real-IP: 6.6.6.6")
        .with("Forwarded: for=6.6.6.6")
        .with("Via: 1.1 forged")
        .with("X-Kept: 1");
    let mut peer = Peer::connect(gateway.address());
    peer.write(head.text().as_bytes());
    let answer = Reply { head: peer.head(), body: Vec::new() };
    assert_eq!(answer.status(), 101, "{answer:?}");
    for gone in ["keep-alive", "proxy-authenticate", "alt-svc", "x-private", "trailer", "te", "content-length"] {
        assert!(answer.all(gone).is_empty(), "{gone}: {answer:?}");
    }
    assert_eq!(answer.all("x-kept"), ["1"], "{answer:?}");
    assert_eq!(answer.all("connection"), ["Upgrade"], "{answer:?}");

    let wire = Reply { head: seen.last(), body: Vec::new() };
    let gone = [
        "x-named",
        "keep-alive",
        "te",
        "trailer",
        "proxy-authorization",
        "proxy-connection",
        "http2-settings",
        "expect",
        "content-length",
        "x_forwarded_for",
        "sec_websocket_key",
        "x_real_ip",
        "x-real-ip",
        "x-forwarded-user",
    ];
    for gone in gone {
        assert!(wire.all(gone).is_empty(), "{gone}: {wire:?}");
    }
    assert!(!wire.head.contains("6.6.6.6") && !wire.head.contains("evil") && !wire.head.contains("forged"), "{wire:?}");
    assert_eq!(wire.all("upgrade"), ["websocket"], "{wire:?}");
    assert_eq!(wire.all("connection"), ["Upgrade"], "{wire:?}");
    assert_eq!(wire.all("host"), ["localhost"], "{wire:?}");
    assert_eq!(wire.all("sec-websocket-key"), [KEY], "{wire:?}");
    assert_eq!(wire.all("x-forwarded-for"), ["127.0.0.1"], "{wire:?}");
    assert_eq!(wire.all("x-kept"), ["1"], "{wire:?}");
}

#[test]
fn a_trusted_proxy_is_believed() {
    let (upstream, seen) = agreeing();
    let text = config(upstream, "origins = [\"same-origin\"]", NO_LIMITS).replacen(
        "\"127.0.0.1:0\"\n",
        "\"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n",
        1,
    );
    let gateway = Gateway::start(&text);
    let head = Head::new("/")
        .with("X-Forwarded-For: 6.6.6.6, 192.0.2.7")
        .with("X-Forwarded-Proto: https")
        .with("X-Forwarded-Host: chat.example.com")
        .with("Origin: https://chat.example.com");
    assert!(head.opens(gateway.address()), "same-origin is what the client asked for");
    let wire = Reply { head: seen.last(), body: Vec::new() };
    assert_eq!(wire.all("x-forwarded-for"), ["6.6.6.6, 192.0.2.7, 127.0.0.1"], "{wire:?}");
    assert_eq!(wire.all("x-forwarded-proto"), ["https"], "{wire:?}");
    assert_eq!(wire.all("x-forwarded-host"), ["chat.example.com"], "{wire:?}");
    assert!(gateway.log("session ended").contains("client=192.0.2.7"));
}

#[test]
fn host_header_and_the_servers_base_path() {
    let (upstream, seen) = agreeing();
    let text = config(upstream, "host_header = \"backend.internal:81\"", NO_LIMITS)
        .replace(&format!("ws://{upstream}"), &format!("ws://{upstream}/base"));
    let gateway = Gateway::start(&text);
    let rows = [("/", "/base/"), ("/a/b?c=d", "/base/a/b?c=d"), ("/?x", "/base/?x")];
    for (path, target) in rows {
        assert!(Head::new(path).opens(gateway.address()));
        let wire = seen.last();
        assert!(wire.starts_with(&format!("GET {target} HTTP/1.1\r\n")), "{wire}");
        assert_eq!(spelled(&wire, "Host"), ["backend.internal:81"], "{wire}");
        assert_eq!(spelled(&wire, "X-Forwarded-Host"), ["localhost"], "{wire}");
    }
}

/// CVE-2026-2833: bytes behind an upgrade request reached the server before it agreed.
#[test]
fn no_byte_of_the_clients_passes_before_the_upstreams_101() {
    let upstream = serve(|mut peer| {
        let head = peer.head();
        let early = peer.within(Duration::from_millis(300));
        assert_eq!(early, b"", "nothing but the head before the 101");
        // The server's first frame comes in the same segment.
        let answer = [switching(&head, "").as_bytes(), &unmasked(TEXT, b"welcome")].concat();
        peer.write(&answer);
        let frame = peer.frame();
        peer.write(&unmasked(TEXT, &[b"got ", &frame.payload[..]].concat()));
        peer.drain();
    });
    let gateway = Gateway::start(&config(upstream, "", NO_LIMITS));
    let mut peer = Peer::connect(gateway.address());
    peer.write(&[request("/", "").as_bytes(), &masked(TEXT, b"early")].concat());
    assert_eq!(status(&peer.head()), 101);
    assert_eq!(peer.frame().payload, b"welcome");
    assert_eq!(peer.frame().payload, b"got early");
}

#[test]
fn many_early_bytes_of_both_sides_arrive_in_order() {
    let many: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
    let sent = many.clone();
    let upstream = serve(move |mut peer| {
        let head = peer.head();
        peer.write(&[switching(&head, "").as_bytes(), &unmasked(TEXT, b"a"), &unmasked(2, &sent)].concat());
        let frame = peer.frame();
        peer.write(&unmasked(2, &frame.payload));
        peer.drain();
    });
    let gateway = Gateway::start(&config(upstream, "", NO_LIMITS));
    let mut peer = Peer::connect(gateway.address());
    peer.write(&[request("/", "").as_bytes(), &masked(2, &many)].concat());
    assert_eq!(status(&peer.head()), 101);
    assert_eq!(peer.frame().payload, b"a");
    assert!(peer.frame().payload == many);
    assert!(peer.frame().payload == many);
}

#[test]
fn informational_answers_are_skipped() {
    let (upstream, _) = answering(|head| {
        let early = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        [early.as_bytes(), switching(head, "X-Last: 1\r\n").as_bytes()].concat()
    });
    let gateway = Gateway::start(&config(upstream, "", NO_LIMITS));
    let mut peer = Peer::connect(gateway.address());
    peer.write(request("/", "").as_bytes());
    let head = peer.head();
    assert_eq!(status(&head), 101, "{head}");
    assert_eq!(spelled(&head, "X-Last"), ["1"], "{head}");
    assert!(!head.contains("Link"), "{head}");
}

#[test]
fn an_upstreams_own_refusal_reaches_the_client() {
    let rows: [(&str, &'static str, u16, &str); 9] = [
        (
            "length",
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 5\r\n\r\nlogin",
            401,
            "login",
        ),
        (
            "chunked",
            "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n3\r\npe!\r\n0\r\n\r\n",
            403,
            "nope!",
        ),
        ("until close", "HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\ngone", 404, "gone"),
        ("no body", "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", 500, ""),
        (
            "a 200 is no upgrade",
            "HTTP/1.1 200 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nhi",
            200,
            "hi",
        ),
        ("a redirect", "HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n", 302, ""),
        ("no content", "HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
        (
            "hop-by-hop",
            "HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nConnection: x-own\r\nX-Own: 1\r\nKeep-Alive: 1\r\nAlt-Svc: x\r\nContent-Length: 0\r\n\r\n",
            503,
            "",
        ),
        ("HTTP/1.0", "HTTP/1.0 403 Forbidden\r\n\r\nold", 403, "old"),
    ];
    for (name, answer, expected, body) in rows {
        let upstream = serve(move |mut peer| {
            peer.head();
            peer.write(answer.as_bytes());
            // Those without a length end with the stream.
            if !answer.contains("Length") && !answer.contains("chunked") {
                peer.finish();
            }
            peer.drain();
        });
        let gateway = Gateway::start(&config(upstream, "", NO_LIMITS));
        let reply = Head::new("/").ask(gateway.address());
        assert_eq!(reply.status(), expected, "{name}: {reply:?}");
        let text = if reply.all("transfer-encoding").is_empty() { reply.text() } else { dechunked(&reply.text()) };
        assert_eq!(text, body, "{name}: {reply:?}");
        assert!(reply.all("connection").iter().any(|value| value.contains("close")), "{name}: {reply:?}");
        for gone in ["x-own", "keep-alive", "alt-svc", "upgrade"] {
            assert!(reply.all(gone).is_empty(), "{name}: {gone} in {reply:?}");
        }
        for kept in ["WWW-Authenticate: Bearer", "Location: /login", "Retry-After: 7"] {
            assert_eq!(answer.contains(kept), reply.head.contains(kept), "{name}: {reply:?}");
        }
        let record = gateway.log("upstream_refused");
        assert!(record.contains(&format!("status={expected}")) && record.contains(&format!("{upstream}")), "{record}");
    }
}

/// What the client could not read is not the upstream's refusal: RFC 9110 section 8.6, RFC 9112 section 6.1.
#[test]
fn a_refusal_whose_end_nobody_can_tell_is_a_502() {
    #[rustfmt::skip]
    let rows = [
        ("Content-Length: 2, 2", "no", 403),
        ("Content-Length: 2\r\nContent-Length: 2", "no", 403),
        ("Content-Length: 2, 3", "no", 502),
        ("Transfer-Encoding: gzip, chunked", "2\r\nno\r\n0\r\n\r\n", 502),
        ("Transfer-Encoding: gzip", "no", 502),
    ];
    for (field, body, expected) in rows {
        let (upstream, _) = answering(move |_| format!("HTTP/1.1 403 No\r\n{field}\r\n\r\n{body}").into());
        let gateway = Gateway::start(&config(upstream, "", NO_LIMITS));
        let reply = Head::new("/").ask(gateway.address());
        assert_eq!(reply.status(), expected, "{field}: {reply:?}");
        if expected == 403 {
            assert_eq!((reply.all("content-length"), reply.text()), (vec!["2".to_owned()], "no".to_owned()), "{field}");
        } else {
            gateway.log("reason=\"upstream_bad_answer\"");
        }
    }
}

fn dechunked(text: &str) -> String {
    let mut body = String::new();
    let mut rest = text;
    while let Some((length, behind)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("a chunk's length");
        body.push_str(&behind[..length]);
        rest = &behind[length + 2..];
    }
    body
}

#[test]
fn an_upstream_that_answers_wrongly_is_a_502() {
    let wrong_accept = |head: &str| switching(head, "").replace("Accept: ", "Accept: x");
    type Answer = Box<dyn Fn(&str) -> Vec<u8> + Send + Sync>;
    let edit = |from: &'static str, to: &'static str| -> Answer {
        Box::new(move |head| switching(head, "").replace(from, to).into_bytes())
    };
    let more = |more: &'static str| -> Answer { Box::new(move |head| switching(head, more).into_bytes()) };
    let fixed = |text: Vec<u8>| -> Answer { Box::new(move |_| text.clone()) };
    let rows: Vec<(&str, Answer)> = vec![
        ("wrong accept", Box::new(move |head| wrong_accept(head).into_bytes())),
        ("no accept", edit("Sec-WebSocket-Accept", "X-Accept")),
        ("no upgrade", edit("Upgrade: websocket\r\n", "")),
        ("another upgrade", edit("Upgrade: websocket", "Upgrade: h2c")),
        ("no connection", edit("Connection: Upgrade\r\n", "")),
        ("HTTP/1.0", edit("HTTP/1.1", "HTTP/1.0")),
        (
            "accept twice",
            Box::new(|head| {
                let accept = field(&switching(head, ""), "sec-websocket-accept").expect("an accept");
                switching(head, &format!("Sec-WebSocket-Accept: {accept}\r\n")).into_bytes()
            }),
        ),
        ("a subprotocol that nobody offered", more("Sec-WebSocket-Protocol: x\r\n")),
        ("an extension that nobody offered", more("Sec-WebSocket-Extensions: permessage-deflate\r\n")),
        ("nonsense", fixed(b"SSH-2.0-OpenSSH_9.6\r\n\r\n".to_vec())),
        ("nothing", fixed(Vec::new())),
        (
            "a head of 1 MiB",
            fixed([b"HTTP/1.1 101 Switching Protocols\r\nX: ", &vec![b'x'; 1 << 20][..], b"\r\n\r\n"].concat()),
        ),
        (
            "a thousand fields",
            fixed(format!("HTTP/1.1 101 Switching Protocols\r\n{}\r\n", "X: y\r\n".repeat(1000)).into()),
        ),
        ("half a head", fixed(b"HTTP/1.1 101 Switching".to_vec())),
    ];
    for (name, answer) in rows {
        let upstream = serve(move |mut peer| {
            let head = peer.head();
            let answer = answer(&head);
            let complete = answer.ends_with(b"\r\n\r\n");
            if peer.try_write(&answer).is_ok() && complete {
                peer.drain();
            }
        });
        let gateway = Gateway::start(&config(upstream, "", NO_LIMITS));
        let reply = Head::new("/").ask(gateway.address());
        assert_eq!(reply.status(), 502, "{name}: {reply:?}");
        assert!(reply.text().contains("gave no valid answer"), "{name}: {reply:?}");
        assert!(!reply.text().contains(&upstream.to_string()), "{name} tells no address: {reply:?}");
        let record = gateway.log("upstream_bad_answer");
        assert!(record.contains("status=502") && record.contains(&upstream.to_string()), "{name}: {record}");
        assert!(record.contains("detail="), "{name}: {record}");
    }
}

#[test]
fn an_upstream_that_cannot_be_reached_is_a_502_and_a_slow_one_a_504() {
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let gateway = Gateway::start(&config(closed, "", NO_LIMITS));
    let reply = Head::new("/").ask(gateway.address());
    assert_eq!(reply.status(), 502, "{reply:?}");
    assert!(gateway.log("upstream_unreachable").contains("refused"), "{}", gateway.output());

    // A listener whose queue is full does not answer.
    let full = Full::listen();
    let timeouts = "connect_timeout = \"300ms\"\nhandshake_timeout = \"300ms\"";
    let gateway = Gateway::start(&config(full.address, "", &format!("{timeouts}\n\n{NO_LIMITS}")));
    let reply = Head::new("/").ask(gateway.address());
    assert_eq!(reply.status(), 504, "{reply:?}");
    assert!(gateway.log("upstream_connect_timeout").contains("status=504"));

    for (name, answer) in [("silent", ""), ("never ends its head", "HTTP/1.1 101 Switching Protocols\r\nX: ")] {
        let upstream = serve(move |mut peer| {
            peer.head();
            peer.write(answer.as_bytes());
            peer.drain();
        });
        let gateway = Gateway::start(&config(upstream, "", &format!("{timeouts}\n\n{NO_LIMITS}")));
        let reply = Head::new("/").ask(gateway.address());
        assert_eq!(reply.status(), 504, "{name}: {reply:?}");
        assert!(gateway.log("upstream_handshake_timeout").contains("status=504"), "{name}");
    }
}

/// A listener that accepts nothing and whose queue is full: connecting to it takes for ever.
struct Full {
    address: SocketAddr,
    _socket: socket2::Socket,
    _queue: Vec<socket2::Socket>,
}

impl Full {
    fn listen() -> Full {
        use socket2::{Domain, Socket, Type};
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        socket.bind(&any.into()).expect("a port");
        socket.listen(0).expect("it listens");
        let address = socket.local_addr().expect("an address").as_socket().expect("an IP address");
        let mut queue = Vec::new();
        for _ in 0..8 {
            let client = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            client.set_nonblocking(true).expect("an option");
            let _ = client.connect(&address.into());
            queue.push(client);
        }
        thread::sleep(Duration::from_millis(50));
        Full { address, _socket: socket, _queue: queue }
    }
}

#[test]
fn an_upstream_behind_a_unix_socket() {
    let folder = std::env::temp_dir().join(format!("tidegate-unix-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("up.sock");
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).expect("a socket");
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).expect("a head");
            head.push(byte[0]);
        }
        stream.write_all(switching(&String::from_utf8(head).expect("UTF-8"), "").as_bytes()).expect("written");
        stream.write_all(&unmasked(TEXT, b"from a unix socket")).expect("written");
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let any: SocketAddr = "127.0.0.1:1".parse().expect("an address");
    let text = config(any, "", NO_LIMITS).replace("ws://127.0.0.1:1", &format!("unix:{}", path.display()));
    let gateway = Gateway::start(&text);
    let mut peer = Peer::open(gateway.address(), "/");
    assert_eq!(peer.frame().payload, b"from a unix socket");
    drop(peer);
    let _ = std::fs::remove_dir_all(&folder);
    // The socket's file is gone, so is the server.
    assert_eq!(Head::new("/").ask(gateway.address()).status(), 502);
}

#[test]
fn several_servers_are_taken_in_turn() {
    let ((one, seen_one), (two, seen_two), (three, seen_three)) = (agreeing(), agreeing(), agreeing());
    let text = config(one, "", NO_LIMITS)
        .replace(&format!("\"ws://{one}\""), &format!("\"ws://{one}\", \"ws://{two}\", \"ws://{three}\""));
    let gateway = Gateway::start(&text);
    for _ in 0..9 {
        assert!(Head::new("/").opens(gateway.address()));
    }
    assert_eq!([&seen_one, &seen_two, &seen_three].map(|seen| seen.connections()), [3, 3, 3]);
}

/// `refuse = "close"`: a browser cannot read the status of a refused upgrade.
#[test]
fn a_route_can_refuse_with_a_close() {
    let (refusing, _) = answering(|_| b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nnope".to_vec());
    let (broken, _) = answering(|_| b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_vec());
    let (fine, seen) = agreeing();
    let route = |name: &str| {
        format!(
            "[[route]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = \"{name}\"\nrefuse = \"close\"\norigins = [\"none\"]\n\n"
        )
    };
    let server = |name: &str, address: SocketAddr| format!("[upstream.{name}]\nservers = [\"ws://{address}\"]\n\n");
    let text = [
        "[[listener]]\naddress = \"127.0.0.1:0\"\n\n[limits]\nsessions = 1\n\n".to_owned(),
        route("refusing"),
        route("broken"),
        route("fine"),
        server("refusing", refusing),
        server("broken", broken),
        server("fine", fine),
    ]
    .concat();
    let gateway = Gateway::start(&text);
    let closed = |head: &Head| {
        let mut peer = Peer::connect(gateway.address());
        peer.write(head.text().as_bytes());
        let head = peer.head();
        assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
        assert_eq!(spelled(&head, "Sec-WebSocket-Accept"), [ACCEPT], "{head}");
        assert_eq!(spelled(&head, "Upgrade"), ["websocket"], "{head}");
        assert_eq!(spelled(&head, "Connection"), ["Upgrade"], "{head}");
        let (code, reason) = peer.frame().close();
        peer.write(&masked(8, &close_payload(code, "")));
        assert_eq!(peer.next_frame(), None, "nothing behind the Close");
        assert!(reason.len() > 10 && reason.len() <= 123, "{reason}");
        code
    };
    assert_eq!(closed(&Head::new("/fine").with("Origin: https://evil.test")), 1008);
    assert_eq!(closed(&Head::new("/refusing")), 1008);
    assert_eq!(closed(&Head::new("/broken")), 1011);
    let held = Peer::open(gateway.address(), "/fine");
    assert_eq!(closed(&Head::new("/fine")), 1013);
    // No valid handshake, no 101.
    assert_eq!(Head::new("/fine").without("Sec-WebSocket-Key").ask(gateway.address()).status(), 400);
    drop(held);
    assert_eq!(seen.connections(), 1);
}

#[test]
fn wss_upstreams_are_verified() {
    let authority = Authority::new("right");
    let identity = authority.issue(&["localhost", "backend.internal"]);
    let greet = |mut peer: Peer| {
        if let Some(head) = peer.try_head() {
            peer.write(&[switching(&head, "").as_bytes(), &unmasked(TEXT, b"over TLS")].concat());
            peer.drain();
        }
    };
    let upstream = serve_tls(identity.server(), greet);
    let plain = serve(|mut peer| {
        peer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        peer.drain();
    });
    let folder = support::gateway::folder();
    let (right, wrong) = (folder.join("right.pem"), folder.join("wrong.pem"));
    std::fs::write(&right, authority.pem()).expect("written");
    std::fs::write(&wrong, Authority::new("wrong").pem()).expect("written");
    let port = upstream.port();
    let rows = [
        ("the server's host", format!("wss://localhost:{port}"), &right, None, true),
        ("a name of its own", format!("wss://127.0.0.1:{port}"), &right, Some("backend.internal"), true),
        ("the wrong authority", format!("wss://localhost:{port}"), &wrong, None, false),
        ("the wrong name", format!("wss://127.0.0.1:{port}"), &right, None, false),
        ("another name", format!("wss://localhost:{port}"), &right, Some("other.internal"), false),
        ("no TLS there", format!("wss://localhost:{}", plain.port()), &right, None, false),
    ];
    for (name, server, ca, server_name, passes) in rows {
        let mut tls = format!("tls = {{ ca = \"{}\"", ca.display());
        if let Some(server_name) = server_name {
            tls.push_str(&format!(", server_name = \"{server_name}\""));
        }
        let text = config(upstream, "", &format!("{tls} }}\n\n{NO_LIMITS}"));
        let gateway = Gateway::start(&text.replace(&format!("ws://{upstream}"), &server));
        if passes {
            let mut peer = Peer::open(gateway.address(), "/");
            assert_eq!(peer.frame().payload, b"over TLS", "{name}");
            continue;
        }
        let reply = Head::new("/").ask(gateway.address());
        assert_eq!(reply.status(), 502, "{name}: {reply:?}");
        let record = gateway.log("upstream_tls");
        assert!(record.contains("status=502") && record.contains("detail="), "{name}: {record}");
    }
    let _ = std::fs::remove_dir_all(folder);
}

#[test]
fn a_silent_wss_upstream_is_a_504() {
    let upstream = serve(|mut peer| peer.drain());
    let folder = support::gateway::folder();
    let ca = folder.join("ca.pem");
    std::fs::write(&ca, Authority::new("ca").pem()).expect("written");
    let more = format!("handshake_timeout = \"300ms\"\ntls = {{ ca = \"{}\" }}\n", ca.display());
    let text = config(upstream, "", &more).replace("ws://", "wss://");
    let gateway = Gateway::start(&text);
    assert_eq!(Head::new("/").ask(gateway.address()).status(), 504);
    let _ = std::fs::remove_dir_all(folder);
}

/// Opens sessions until there are `n` at once.
fn fill(address: SocketAddr, path: &str, n: usize) -> Vec<Peer> {
    let mut held = Vec::new();
    eventually(&format!("{n} sessions at once"), || {
        while held.len() < n {
            let mut peer = Peer::connect(address);
            // Over the cap of connections there is no answer at all.
            let _ = peer.try_write(request(path, "").as_bytes());
            if peer.try_head().is_none_or(|head| status(&head) != 101) {
                return false;
            }
            held.push(peer);
        }
        true
    });
    held
}

#[test]
fn the_caps_refuse_and_free_themselves() {
    let rows = [("sessions = 3", 503, "sessions_gateway"), ("sessions_per_client = 3", 429, "sessions_client")];
    for (limit, expected, label) in rows {
        let (upstream, seen) = agreeing();
        let gateway = Gateway::start(&config(upstream, "", &format!("{NO_LIMITS}{limit}\n")));
        let mut held = fill(gateway.address(), "/", 3);
        for _ in 0..5 {
            let reply = Head::new("/").ask(gateway.address());
            assert_eq!(reply.status(), expected, "{limit}: {reply:?}");
            let after = reply.all("retry-after");
            assert!(after.len() == 1 && after[0].parse::<u32>().is_ok_and(|s| s > 0), "{limit}: {reply:?}");
        }
        eventually("all are logged", || gateway.output().matches(label).count() == 5);
        assert_eq!(seen.connections(), 3, "{limit}: nothing was dialled for the refused");
        // One leaves in good order, one without a word.
        held.pop().expect("held").write(&masked(8, &close_payload(1000, "")));
        held.pop().expect("held").reset();
        held.extend(fill(gateway.address(), "/", 2));
        assert_eq!(Head::new("/").ask(gateway.address()).status(), expected, "{limit}: full again");
    }
}

#[test]
fn handshakes_of_one_client_have_a_rate() {
    let (upstream, seen) = agreeing();
    let gateway = Gateway::start(&config(upstream, "", "[limits]\nhandshakes_per_client = \"3/m\"\n"));
    // Those that fail an earlier check do not get so far.
    assert_eq!(Head::new("/").without("Sec-WebSocket-Key").ask(gateway.address()).status(), 400);
    let _held = fill(gateway.address(), "/", 3);
    let reply = Head::new("/").ask(gateway.address());
    assert_eq!(reply.status(), 429, "{reply:?}");
    let after = reply.all("retry-after")[0].parse::<u32>().expect("seconds");
    assert!((1..=20).contains(&after), "{reply:?}");
    assert!(gateway.log("handshake_rate").contains("status=429"));
    assert_eq!(seen.connections(), 3);
}

/// An upstream that does what the path says.
fn moody() -> SocketAddr {
    serve(|mut peer| {
        let Some(head) = peer.try_head() else { return };
        let answer = match head.split(' ').nth(1) {
            Some("/ok") => switching(&head, ""),
            Some("/refuses") => "HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nnope".to_owned(),
            Some("/wrong") => switching(&head, "").replace("Accept: ", "Accept: x"),
            Some("/dies") => return,
            _ => String::new(),
        };
        if peer.try_write(answer.as_bytes()).is_ok() {
            peer.drain();
        }
    })
}

#[test]
fn a_storm_of_broken_handshakes_leaves_no_permit_taken() {
    const CAP: usize = 6;
    let rows = [format!("sessions = {CAP}\nsessions_per_client = {CAP}"), format!("connections = {CAP}")];
    for (limits, refuse) in rows.into_iter().zip(["http", "close"]) {
        let more = format!("handshake_timeout = \"500ms\"\n\n{NO_LIMITS}{limits}\n");
        let route = format!("refuse = \"{refuse}\"\nclose_timeout = \"1s\"");
        let gateway = Gateway::start(&config(moody(), &route, &more));
        let address = gateway.address();
        thread::scope(|scope| {
            for seed in 0..8 {
                scope.spawn(move || storm(address, seed));
            }
        });
        // Every place is free again, and there is not one more than there should be.
        let _held = fill(address, "/ok", CAP);
        let mut one_more = Peer::connect(address);
        let _ = one_more.try_write(request("/ok", "").as_bytes());
        match one_more.try_head() {
            Some(head) if refuse == "http" => assert_eq!(status(&head), 503),
            head => assert_eq!(head, None, "{limits}"),
        }
    }
}

/// Forty handshakes that end in every way.
fn storm(address: SocketAddr, seed: usize) {
    for n in 0..40 {
        let path = ["/ok", "/refuses", "/wrong", "/dies", "/stalls"][(n + seed) % 5];
        let text = request(path, "");
        let mut peer = Peer::connect(address);
        match (n * 7 + seed) % 6 {
            // Gone at once, in good order and not, with a half head, with early bytes.
            0 => drop(peer.try_write(text.as_bytes())),
            1 => {
                let _ = peer.try_write(text.as_bytes());
                peer.reset();
            }
            2 => drop(peer.try_write(&text.as_bytes()[..text.len() / 2])),
            3 => drop(peer.try_write(&[text.as_bytes(), &masked(TEXT, b"early")].concat())),
            // After the answer.
            _ => {
                let _ = peer.try_write(text.as_bytes());
                let _ = peer.try_head();
            }
        }
    }
}

#[test]
fn a_client_that_leaves_during_the_dial_frees_everything() {
    let (sender, stalled) = channel();
    let sender = std::sync::Mutex::new(sender);
    let upstream = serve(move |mut peer| {
        let head = peer.head();
        if head.starts_with("GET /ok ") {
            peer.write(switching(&head, "").as_bytes());
            return peer.drain();
        }
        let _ = sender.lock().expect("not poisoned").send(());
        assert_eq!(peer.rest(), b"");
        let _ = sender.lock().expect("not poisoned").send(());
    });
    let more = format!("handshake_timeout = \"10m\"\n\n{NO_LIMITS}sessions = 1\n");
    let gateway = Gateway::start(&config(upstream, "", &more));
    let mut peer = Peer::connect(gateway.address());
    peer.write(request("/stalls", "").as_bytes());
    stalled.recv_timeout(PATIENCE).expect("it was dialled");
    assert_eq!(Head::new("/ok").ask(gateway.address()).status(), 503, "the place is taken");
    drop(peer);
    stalled.recv_timeout(PATIENCE).expect("the upstream's connection ended, too");
    fill(gateway.address(), "/ok", 1);
}

/// A server's base path in front of the longest target that HTTP allows is one that is too long: an answer, no panic.
#[test]
fn a_target_that_is_too_long_for_the_upstream_is_refused() {
    let (upstream, seen) = agreeing();
    let text = config(upstream, "", NO_LIMITS)
        .replace(&format!("ws://{upstream}"), &format!("ws://{upstream}/base"))
        .replacen("\"127.0.0.1:0\"\n", "\"127.0.0.1:0\"\nhead_bytes_max = \"256KiB\"\n", 1);
    let gateway = Gateway::start(&text);
    let reply = Head::new(&format!("/{}", "x".repeat(65_530))).ask(gateway.address());
    assert_eq!(reply.status(), 414, "{}", reply.head);
    assert!(!gateway.output().contains("panicked"), "{}", gateway.output());
    assert!(gateway.log("target_too_long").contains("status=414"));
    // Longer than any target may be: hyper answers, and the record says the same.
    assert_eq!(Head::new(&format!("/{}", "x".repeat(66_000))).ask(gateway.address()).status(), 414);
    assert!(gateway.log("URI too long").contains("reason=\"target_too_long\" status=414"));
    assert_eq!(seen.connections(), 0);
    assert!(Head::new("/").opens(gateway.address()));
}

/// hyper's buffer grows in powers of two; what it holds was let in.
#[test]
fn a_head_is_as_long_as_the_listener_says_and_no_longer() {
    let (upstream, _) = agreeing();
    for (said, max) in [("16KiB", 16_384), ("128KiB", 131_072), ("200KiB", 204_800)] {
        let listener = format!("\"127.0.0.1:0\"\nhead_bytes_max = \"{said}\"\n");
        let text = config(upstream, "", NO_LIMITS).replacen("\"127.0.0.1:0\"\n", &listener, 1);
        let gateway = Gateway::start(&text);
        let of = |bytes: usize| {
            let fixed = request("/", "Cookie: \r\n").len();
            request("/", &format!("Cookie: {}\r\n", "x".repeat(bytes - fixed)))
        };
        for (bytes, expected) in [(max, 101), (max + 1, 431), (max + max / 2, 431), (2 * max - 1, 431)] {
            let head = of(bytes);
            assert_eq!(head.len(), bytes);
            let mut peer = Peer::connect(gateway.address());
            let _ = peer.try_write(head.as_bytes());
            assert_eq!(status(&peer.head()), expected, "{bytes} bytes of {max}");
        }
    }
}

/// The stream is taken back from hyper only when nothing of the answer is left in its buffer.
#[test]
fn a_large_refusal_reaches_a_slow_client_to_its_last_byte() {
    const BODY: usize = 16 << 20;
    let (upstream, _) = answering(|_| {
        [format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {BODY}\r\n\r\n").as_bytes(), &vec![b'x'; BODY]].concat()
    });
    let gateway = Gateway::start(&config(upstream, "", NO_LIMITS));
    let mut peer = Peer::connect(gateway.address());
    peer.write(request("/", "").as_bytes());
    assert_eq!(status(&peer.head()), 403);
    let mut left = BODY;
    while left > 0 {
        left -= peer.bytes(left.min(1 << 20)).len();
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(peer.rest(), b"");
}

#[test]
fn a_connection_may_serve_pages_before_it_becomes_a_session() {
    let (upstream, seen) = agreeing();
    let page = "path = \"/ws\"\n\n[[route]]\nname = \"page\"\npath = \"/\"\npage = \"chat\"";
    let gateway = Gateway::start(&config(upstream, page, NO_LIMITS));
    let mut peer = Peer::connect(gateway.address());
    let page = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let head_only = "HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    // All in one segment: each is answered in turn, and the frame is the session's.
    peer.write(&[page.as_bytes(), head_only.as_bytes(), request("/ws", "").as_bytes(), &masked(9, b"p")].concat());
    let first = peer.head();
    assert_eq!(status(&first), 200);
    peer.bytes(field(&first, "content-length").and_then(|n| n.parse().ok()).expect("a length"));
    assert_eq!(status(&peer.head()), 200);
    assert_eq!(status(&peer.head()), 101);
    let pong = peer.frame();
    assert_eq!((pong.opcode, &pong.payload[..]), (10, &b"p"[..]));
    assert!(seen.last().starts_with("GET /ws "), "{:?}", seen.heads());
    // A WebSocket to the page itself is none.
    assert_eq!(Head::new("/").ask(gateway.address()).status(), 404);
}

#[test]
fn a_handshake_that_is_under_way_when_the_gateway_stops_ends_with_1012() {
    let (sender, waiting) = channel();
    let sender = std::sync::Mutex::new(sender);
    let upstream = serve(move |mut peer| {
        let head = peer.head();
        let _ = sender.lock().expect("not poisoned").send((peer, head));
    });
    let mut gateway = Gateway::start(&config(upstream, "", &format!("handshake_timeout = \"1m\"\n\n{NO_LIMITS}")));
    let address = gateway.address();
    // One that is half a head, one that says nothing: they do not hold up the end.
    let mut half = Peer::connect(address);
    half.write(b"GET / HTTP/1.1\r\nHo");
    let _silent = Peer::connect(address);
    let mut peer = Peer::connect(address);
    peer.write(request("/", "").as_bytes());
    let (mut server, head) = waiting.recv_timeout(PATIENCE).expect("it was dialled");
    gateway.signal("TERM");
    gateway.log("stopping");
    server.write(switching(&head, "").as_bytes());
    assert_eq!(status(&peer.head()), 101);
    assert_eq!(peer.frame().close().0, 1012);
    peer.write(&masked(8, &close_payload(1012, "")));
    assert_eq!(server.frame().close().0, 1001);
    server.write(&unmasked(8, &close_payload(1001, "")));
    server.finish();
    assert!(gateway.wait().success());
    assert!(gateway.output().contains("cause=\"drain\""), "{}", gateway.output());
}

#[test]
fn a_host_is_one_name_or_address_and_a_port() {
    let (upstream, seen) = agreeing();
    let gateway = Gateway::start(&config(upstream, "", NO_LIMITS));
    let wrong = [
        "",
        "a,b",
        "user@localhost",
        "localhost:80abc",
        "localhost:99999",
        "[::1",
        "::1",
        "a/b",
        "a?b",
        "a#b",
        "a\\b",
        "localhost\u{e9}",
        "a b",
        "%6cocalhost",
    ];
    for host in wrong {
        let reply = Head::new("/").set(&format!("Host: {host}")).ask(gateway.address());
        assert_eq!(reply.status(), 400, "{host:?}: {reply:?}");
    }
    for target in ["http://localhost@evil/x", "http://evil@localhost/x", "http://evil:80/x", "http://localhost:81/x"] {
        let reply = Head::new(target).ask(gateway.address());
        assert_eq!(reply.status(), 400, "{target}: {reply:?}");
    }
    assert_eq!(seen.connections(), 0);
    for host in ["LOCALHOST", "localhost:8080", "127.0.0.1", "[::1]:80", "a-b.example.", "a_b"] {
        assert!(Head::new("/").set(&format!("Host: {host}")).opens(gateway.address()), "{host}");
        assert_eq!(spelled(&seen.last(), "Host"), [host]);
    }
}
