//! Plain HTTP through the real gateway: what reaches the upstream, what reaches the client, and when.

mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config as Runs, TestRunner};
use support::client::{Peer, TEXT, masked};
use support::gateway::{Gateway, config};
use support::http::{Head, Reply, ask, reply, status};
use support::tls::{self, Authority};
use support::upstream::{answering, field, serve, serve_tls, switching};
use support::{PATIENCE, eventually};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A gateway in front of `upstream` that passes plain HTTP; `route` has further keys of the route.
fn gateway(upstream: SocketAddr, route: &str) -> Gateway {
    gateway_with(upstream, route, "", "")
}

/// `more` stands below the upstream, `rest` behind everything.
fn gateway_with(upstream: SocketAddr, route: &str, more: &str, rest: &str) -> Gateway {
    let text = config(upstream, &format!("http = true\n{route}"), rest);
    let servers = format!("servers = [\"ws://{upstream}\"]");
    Gateway::start(&text.replace(&servers, &format!("{servers}\n{more}")))
}

/// An upstream whose connections the test itself plays.
fn played() -> (SocketAddr, Receiver<Peer>) {
    let (sender, receiver) = channel();
    let sender: Mutex<Sender<_>> = sender.into();
    let address = serve(move |peer| {
        let _ = sender.lock().expect("not poisoned").send(peer);
    });
    (address, receiver)
}

fn next(connections: &Receiver<Peer>) -> Peer {
    connections.recv_timeout(PATIENCE).expect("a connection of the gateway")
}

/// A request with these lines behind its Host.
fn request(line: &str, fields: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n")
}

fn get(path: &str) -> String {
    request(&format!("GET {path}"), "")
}

/// The head of an answer and its body of known length.
fn answer(peer: &mut Peer) -> Reply {
    let head = peer.head();
    let length = field(&head, "content-length").map_or(0, |length| length.parse().expect("a length"));
    let body = peer.bytes(length);
    Reply { head, body }
}

/// A keep-alive server that answers every request with what `answer` makes of its head.
fn keeping(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> (SocketAddr, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let address = serve(move |mut peer| {
        counted.fetch_add(1, Ordering::SeqCst);
        while let Some(head) = peer.try_head() {
            let length = field(&head, "content-length").map_or(0, |length| length.parse().expect("a length"));
            peer.bytes(length);
            if peer.try_write(&answer(&head)).is_err() {
                return;
            }
        }
    });
    (address, connections)
}

/// Whether a line of the head begins so, in this spelling.
fn has(head: &str, line: &str) -> bool {
    head.lines().any(|found| found == line)
}

// What passes, and as what.

#[test]
fn a_request_and_its_answer_pass_with_our_fields() {
    let (upstream, seen) = answering(|_| {
        b"HTTP/1.1 201 Made It\r\nSET-cookie: a=1\r\nSet-Cookie: b=2\r\nx-Odd: 1\r\nConnection: keep-alive, X-Private\r\n\
          X-Private: 1\r\nKeep-Alive: timeout=5\r\nAlt-Svc: h3=\":443\"\r\nProxy-Authenticate: x\r\nUpgrade: h2c\r\n\
          Content-Length: 5\r\n\r\nhello"
            .to_vec()
    });
    let gateway = gateway(upstream, "");
    let mut peer = Peer::connect(gateway.address());
    peer.write(
        request(
            "POST //a/%7Eb?q=%2F..&x",
            "x-Custom: 1\r\nCookie: s=1\r\nContent-Length: 4\r\nConnection: X-Named, keep-alive\r\nX-Named: 1\r\n\
             Keep-Alive: 5\r\nTE: gzip\r\nTrailer: x\r\nProxy-Authorization: x\r\nX_Forwarded_For: 6.6.6.6\r\n\
             X-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nCF-Connecting-IP: 6.6.6.6\r\nClient_IP: 6.6.6.6\r\nFront-End-Https: on\r\n\
             Forwarded: for=6.6.6.6\r\nContent_Length: 9\r\n\
             Origin: https://evil.test\r\nExpect: nonsense\r\n",
        )
        .as_bytes(),
    );
    peer.write(b"body");
    let reply = answer(&mut peer);
    assert_eq!((reply.status(), reply.text().as_str()), (201, "hello"), "{reply:?}");
    for line in ["SET-cookie: a=1", "Set-Cookie: b=2", "x-Odd: 1"] {
        assert!(has(&reply.head, line), "{line}: {reply:?}");
    }
    for gone in ["x-private", "keep-alive", "alt-svc", "proxy-authenticate", "upgrade", "connection"] {
        assert!(reply.all(gone).is_empty(), "{gone}: {reply:?}");
    }
    let head = seen.last();
    assert_eq!(head.lines().next(), Some("POST //a/%7Eb?q=%2F..&x HTTP/1.1"));
    for line in [
        "Host: app.test",
        "x-Custom: 1",
        "Cookie: s=1",
        "Content-Length: 4",
        "Origin: https://evil.test",
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-Proto: http",
        "X-Forwarded-Host: app.test",
        "Forwarded: for=127.0.0.1;proto=http;host=app.test",
        "Via: 1.1 tidegate",
    ] {
        assert!(has(&head, line), "{line}: {head}");
    }
    for gone in [
        "x-named",
        "keep-alive",
        "te",
        "trailer",
        "proxy-authorization",
        "x_forwarded_for",
        "x-real-ip",
        "cf-connecting-ip",
        "client_ip",
        "front-end-https",
        "content_length",
        "expect",
        "connection",
        "upgrade",
        "transfer-encoding",
    ] {
        assert_eq!(field(&head, gone), None, "{gone}: {head}");
    }
}

#[test]
fn via_names_the_version_in_which_a_request_came() {
    let (upstream, seen) = answering(|_| OK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").into());
    let gateway = gateway(upstream, "");
    for version in ["1.0", "1.1"] {
        let text = request("GET /", "Connection: close\r\n").replace("HTTP/1.1", &format!("HTTP/{version}"));
        assert_eq!(ask(gateway.address(), text.as_bytes()).status(), 200);
        assert_eq!(field(&seen.last(), "via"), Some(format!("{version} tidegate")));
    }
}

#[test]
fn a_route_sets_and_removes_fields_both_ways() {
    let (upstream, seen) = answering(|head| match field(head, "upgrade") {
        Some(_) => switching(head, "X-Powered-By: service\r\nSet-Cookie: a=1\r\n").into_bytes(),
        None => b"HTTP/1.1 200 OK\r\nX-Powered-By: service\r\nServer: one\r\nServer: two\r\nSet-Cookie: a=1\r\n\
                  Content-Length: 2\r\n\r\nok"
            .to_vec(),
    });
    let edits = "request_headers = { set = { Authorization = \"Basic c2VydmljZQ==\", X-User = \"gateway\", \
                 X-Forwarded-Prefix = \"/app\" }, remove = [\"X-Debug\", \"Cookie\"] }\n\
                 response_headers = { set = { Server = \"edge\", Strict-Transport-Security = \"max-age=60\" }, \
                 remove = [\"X-Powered-By\"] }\n\
                 path = \"/app\"";
    let gateway = gateway(upstream, edits);
    let sent = "X-User: admin\r\nX_User: admin\r\nx-user: root\r\nX-Debug: 1\r\nX_DEBUG: 1\r\nCookie: s=1\r\n\
                Authorization: Bearer mine\r\nX-Forwarded-Prefix: /evil\r\nX-Kept: 1\r\n";
    let check = |head: &str| {
        for (name, expected) in [
            ("authorization", Some("Basic c2VydmljZQ==")),
            ("x-user", Some("gateway")),
            ("x-forwarded-prefix", Some("/app")),
            ("x-kept", Some("1")),
            ("x_user", None),
            ("x-debug", None),
            ("x_debug", None),
            ("cookie", None),
        ] {
            let lines = head.lines().filter_map(|line| line.split_once(": "));
            let found: Vec<&str> =
                lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect();
            assert_eq!(found, Vec::from_iter(expected), "{name}: {head}");
        }
    };
    let told = |head: &str, of_the_service: bool| {
        assert_eq!(field(head, "server").as_deref(), Some("edge"), "{head}");
        assert_eq!(head.matches("dge\r\n").count(), 1, "{head}");
        assert_eq!(field(head, "strict-transport-security").as_deref(), Some("max-age=60"), "{head}");
        assert_eq!(field(head, "x-powered-by"), None, "{head}");
        assert_eq!(field(head, "set-cookie").is_some(), of_the_service, "{head}");
    };
    let mut peer = Peer::connect(gateway.address());
    peer.write(request("GET /app", sent).as_bytes());
    let plain = answer(&mut peer);
    assert_eq!(plain.text(), "ok");
    told(&plain.head, true);
    check(&seen.last());
    // The handshake on the same connection, and a refusal of our own.
    peer.write(Head::new("/app").text().replacen("Host", &format!("{sent}Host"), 1).as_bytes());
    let switched = peer.head();
    assert_eq!(status(&switched), 101, "{switched}");
    told(&switched, true);
    check(&seen.last());
    let refused = Head::new("/app").without("sec-websocket-key").ask(gateway.address());
    assert_eq!(refused.status(), 400);
    told(&refused.head, false);
    assert!(Head::new("/other").ask(gateway.address()).all("server").is_empty(), "no route, no edits");
}

#[test]
fn the_body_is_framed_as_it_is() {
    type Row = (&'static str, &'static str, &'static str, &'static str, &'static [&'static str]);
    #[rustfmt::skip]
    let rows: [Row; 9] = [
        ("GET", "GET /", "", "", &[]),
        ("POST without a body", "POST /", "Content-Length: 0\r\n", "", &["Content-Length: 0"]),
        ("POST", "POST /", "Content-Length: 3\r\n", "abc", &["Content-Length: 3"]),
        ("chunked", "PUT /", "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n", &["Transfer-Encoding: chunked"]),
        ("GET with a body", "GET /", "Content-Length: 3\r\n", "abc", &["Content-Length: 3"]),
        ("GET with chunks", "GET /", "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n",
            &["Transfer-Encoding: chunked"]),
        ("both: chunked counts", "POST /", "Content-Length: 99\r\nTransfer-Encoding: chunked\r\n",
            "3\r\nabc\r\n0\r\n\r\n", &["Transfer-Encoding: chunked"]),
        ("both, the other way round", "POST /", "Transfer-Encoding: chunked\r\nContent-Length: 99\r\n",
            "3\r\nabc\r\n0\r\n\r\n", &["Transfer-Encoding: chunked"]),
        ("a length that Connection names", "DELETE /", "Connection: content-length\r\nContent-Length: 3\r\n", "abc",
            &["Content-Length: 3"]),
    ];
    for (name, line, fields, body, expected) in rows {
        let (upstream, connections) = played();
        let gateway = gateway(upstream, "");
        let mut peer = Peer::connect(gateway.address());
        peer.write(request(line, fields).as_bytes());
        peer.write(body.as_bytes());
        let mut server = next(&connections);
        let head = server.head();
        let framing: Vec<&str> = head
            .lines()
            .filter(|line| {
                let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
                name == "content-length" || name == "transfer-encoding"
            })
            .collect();
        assert_eq!(framing, expected, "{name}: {head}");
        let received = match expected.first() {
            None | Some(&"Content-Length: 0") => Vec::new(),
            Some(line) if line.starts_with("Content") => server.bytes(3),
            Some(_) => {
                let chunk = server.chunk().expect("a chunk");
                assert_eq!(server.chunk(), None, "{name}");
                assert_eq!(server.line(), "", "{name}");
                chunk
            }
        };
        let sent: &[u8] = if body.is_empty() { b"" } else { b"abc" };
        assert_eq!(received, sent, "{name}");
        server.write(OK.as_bytes());
        assert_eq!(answer(&mut peer).text(), "ok", "{name}");
        assert!(server.within(Duration::from_millis(50)).is_empty(), "{name}: nothing more comes");
    }
}

#[test]
fn what_does_not_pass() {
    let (upstream, seen) = answering(|_| OK.into());
    let gateway = gateway(upstream, "path = \"/app\"");
    #[rustfmt::skip]
    let rows = [
        ("TRACE", request("TRACE /app", ""), 405, "trace"),
        ("CONNECT", request("CONNECT app.test:443", ""), 400, ""),
        ("a coding that we do not know", request("POST /app", "Transfer-Encoding: gzip, chunked\r\n"), 501, "transfer_coding"),
        ("another host in the target", request("GET http://evil.test/app", ""), 400, "host_mismatch"),
        ("dot segments", get("/app/../x"), 400, "path_dot_segment"),
        ("encoded dot segments", get("/app/%2e%2e/x"), 400, "path_dot_segment"),
        ("an encoded slash", get("/app/a%2fb"), 400, "path_encoded_slash"),
        ("a path of no route", get("/apple"), 404, "no_route"),
        ("no Host", "GET /app HTTP/1.1\r\n\r\n".to_owned(), 400, "host_missing"),
        ("two Hosts", request("GET /app", "Host: evil.test\r\n"), 400, "host_repeated"),
        ("two lengths", request("POST /app", "Content-Length: 1\r\nContent-Length: 2\r\n"), 400, "head_malformed"),
        ("a handshake without its key", request("GET /app", "Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n"), 400, "key_missing"),
        ("a handshake that lost its Upgrade", request("GET /app", "Sec-WebSocket-Key: x\r\n"), 426, "not_an_upgrade"),
        ("one with an underscore", request("GET /app", "Sec_WebSocket_Key: x\r\n"), 426, "not_an_upgrade"),
    ];
    for (name, request, expected, reason) in rows {
        let mut peer = Peer::connect(gateway.address());
        peer.write(request.as_bytes());
        let head = peer.head();
        assert_eq!(status(&head), expected, "{name}: {head}");
        gateway.log(&format!("reason=\"{reason}"));
        if expected == 405 {
            assert!(field(&head, "allow").is_some_and(|allow| allow.contains("GET")), "{head}");
        }
    }
    assert_eq!(seen.connections(), 0, "nothing of it was dialled");
}

#[test]
fn a_route_without_http_answers_426() {
    let (upstream, seen) = answering(|_| OK.into());
    let gateway = Gateway::start(&config(upstream, "", ""));
    let reply = ask(gateway.address(), request("GET /", "Connection: close\r\n").as_bytes());
    assert_eq!(reply.status(), 426, "{reply:?}");
    assert_eq!(seen.connections(), 0);
}

#[test]
fn access_rules_hold_for_plain_http_too() {
    let (upstream, seen) = answering(|_| OK.into());
    let gateway = gateway(upstream, "deny = [\"127.0.0.0/8\"]");
    assert_eq!(ask(gateway.address(), request("GET /", "Connection: close\r\n").as_bytes()).status(), 403);
    assert_eq!(seen.connections(), 0);
    gateway.log("reason=\"access_denied\"");
}

#[test]
fn an_api_key_is_asked_for_and_kept_from_the_upstream() {
    let (upstream, seen) = answering(|_| OK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").into());
    let folder = support::gateway::folder();
    std::fs::write(folder.join("keys.txt"), "ada: ada-0123456789-abc\n").expect("written");
    let keys = "http = true\nkeys = { file = \"keys.txt\", header = \"X-API-Key\", query = \"key\", bearer = true }";
    let gateway = Gateway::start_in(folder, &config(upstream, keys, ""), "exec \"$0\" \"$@\"");
    #[rustfmt::skip]
    let rows = [
        ("none", get("/"), 401),
        ("a wrong one", request("GET /", "X-API-Key: eve-guesses-something\r\n"), 401),
        ("a field", request("GET /a?b=1", "X-API-Key: ada-0123456789-abc\r\n"), 200),
        ("the query", get("/a?b=1&key=ada-0123456789-abc"), 200),
    ];
    for (name, request, expected) in rows {
        let mut peer = Peer::connect(gateway.address());
        peer.write(request.as_bytes());
        assert_eq!(status(&peer.head()), expected, "{name}");
    }
    let heads = seen.heads();
    assert_eq!(heads.len(), 2);
    assert!(heads.iter().all(|head| head.starts_with("GET /a?b=1 ") && !head.contains("ada-")), "{heads:?}");
}

#[test]
fn websockets_and_plain_http_share_a_route() {
    let (upstream, _) = answering(|head| match field(head, "upgrade") {
        Some(_) => switching(head, "").into_bytes(),
        None => OK.into(),
    });
    let gateway = gateway(upstream, "");
    let mut plain = Peer::connect(gateway.address());
    plain.write(get("/").as_bytes());
    assert_eq!(answer(&mut plain).text(), "ok");
    // On the same connection: a page, then its socket.
    plain.write(Head::new("/").text().as_bytes());
    assert_eq!(status(&plain.head()), 101);
    plain.write(&masked(TEXT, b"hello"));
}

#[test]
fn an_offer_of_h2c_is_plain_http_and_ends_the_connection() {
    let (upstream, seen) = answering(|_| OK.into());
    let gateway = gateway(upstream, "");
    let fields = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";
    let smuggled = get("/smuggled");
    let reply = ask(gateway.address(), (request("GET /", fields) + &smuggled).as_bytes());
    assert_eq!((reply.status(), reply.text().as_str()), (200, "ok"));
    assert_eq!(reply.all("connection"), ["close"]);
    for gone in ["upgrade", "http2-settings", "connection"] {
        assert_eq!(field(&seen.last(), gone), None, "{gone}");
    }
    assert_eq!(seen.heads().len(), 1, "what stands behind it is not read as a request");
}

#[test]
fn refusals_of_ours_are_text_or_json() {
    let upstream = "127.0.0.1:1".parse().expect("an address");
    let gateway = gateway(upstream, "");
    let reply = ask(gateway.address(), request("GET /", "Connection: close\r\n").as_bytes());
    assert_eq!(reply.status(), 502, "{reply:?}");
    assert_eq!(reply.all("content-type"), ["text/plain; charset=utf-8"]);
    assert_eq!(reply.text(), "the server behind this gateway cannot be reached\n");
    let fields = "Connection: close\r\nAccept: application/json, text/plain, */*\r\n";
    let reply = ask(gateway.address(), request("GET /", fields).as_bytes());
    assert_eq!(reply.all("content-type"), ["application/problem+json"]);
    let problem: serde_json::Value = serde_json::from_slice(&reply.body).expect("JSON");
    assert_eq!((problem["status"].as_u64(), problem["reason"].as_str()), (Some(502), Some("upstream_unreachable")));
    assert_eq!(problem["detail"], "the server behind this gateway cannot be reached");
    // A HEAD has no body, also of ours.
    let reply = ask(gateway.address(), request("HEAD /", "Connection: close\r\n").as_bytes());
    assert_eq!((reply.status(), reply.body.len()), (502, 0), "{reply:?}");
}

#[test]
fn answers_pass_as_they_are() {
    #[rustfmt::skip]
    let rows = [
        ("an error", "GET", "HTTP/1.1 503 Down\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nwait", 503, "wait"),
        ("a redirect", "GET", "HTTP/1.1 302 Found\r\nLocation: http://inner/x\r\nContent-Length: 0\r\n\r\n", 302, ""),
        ("HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 123\r\n\r\n", 200, ""),
        ("HEAD of chunks", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, ""),
        ("204", "DELETE", "HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n", 204, ""),
        ("304", "GET", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 123\r\n\r\n", 304, ""),
        ("1xx first", "GET", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
            HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok"),
        ("chunks and a length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n\
            2\r\nok\r\n0\r\n\r\n", 200, "2\r\nok\r\n0\r\n\r\n"),
        ("an empty reason", "GET", "HTTP/1.1 299 \r\nContent-Length: 2\r\n\r\nok", 299, "ok"),
    ];
    for (name, method, text, expected, body) in rows {
        let (upstream, connections) = keeping(move |_| text.into());
        let gateway = gateway(upstream, "");
        let mut peer = Peer::connect(gateway.address());
        peer.write(request(&format!("{method} /"), "").as_bytes());
        let head = peer.head();
        assert_eq!(status(&head), expected, "{name}: {head}");
        // The connection is usable behind it: no byte too many, none missing.
        assert_eq!(peer.bytes(body.len()), body.as_bytes(), "{name}");
        peer.write(request(&format!("{method} /again"), "Connection: close\r\n").as_bytes());
        let again = peer.head();
        assert_eq!(status(&again), expected, "{name}: {again}");
        assert_eq!(peer.rest(), body.as_bytes(), "{name}");
        let lengths = [&head, &again].map(|head| field(head, "content-length"));
        match name {
            "HEAD" => assert_eq!(lengths, [Some("123".to_owned()), Some("123".to_owned())], "{name}"),
            // A 304 may go without (RFC 9110 section 8.6); hyper leaves it out.
            "HEAD of chunks" | "204" | "304" | "chunks and a length" => {
                assert_eq!(lengths, [None, None], "{name}: {head}")
            }
            _ => {}
        }
        assert_eq!(connections.load(Ordering::SeqCst), 1, "{name}: the upstream's connection is kept");
    }
}

/// RFC 9110 section 8.6: a list passes as the one number that it repeats, and what is no number not at all.
#[test]
fn lengths_that_an_upstream_made_up_do_not_reach_the_client() {
    #[rustfmt::skip]
    let rows = [
        ("the same twice", "Content-Length: 2, 2", Some("2")),
        ("the same on two lines", "Content-Length: 2\r\nContent-Length: 2", Some("2")),
        ("two in a list", "Content-Length: 2, 3", None),
        ("two on two lines", "Content-Length: 2\r\nContent-Length: 3", None),
        ("a word", "Content-Length: abc", None),
        ("negative", "Content-Length: -5", None),
        ("a coding that nobody decodes", "Transfer-Encoding: gzip, chunked", None),
    ];
    for (name, fields, expected) in rows {
        let (upstream, connections) = played();
        let gateway = gateway(upstream, "");
        for (method, body) in [("GET", "ok"), ("HEAD", "")] {
            let mut peer = Peer::connect(gateway.address());
            peer.write(request(&format!("{method} /"), "Connection: close\r\n").as_bytes());
            let mut server = next(&connections);
            server.head();
            server.write(format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{fields}\r\n\r\n{body}").as_bytes());
            let reply = reply(&mut peer);
            match expected {
                Some(length) => {
                    assert_eq!((reply.status(), reply.text().as_str()), (200, body), "{name}, {method}: {reply:?}");
                    assert_eq!(reply.all("content-length"), [length], "{name}, {method}");
                }
                None => {
                    assert_eq!(reply.status(), 502, "{name}, {method}: {reply:?}");
                    gateway.log("reason=\"upstream_bad_answer\"");
                }
            }
        }
    }
}

#[test]
fn an_upstreams_426_says_what_it_requires() {
    let (upstream, _) = answering(|_| {
        b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: foo/2\r\nConnection: upgrade\r\nContent-Length: 2\r\n\r\nno"
            .to_vec()
    });
    let gateway = gateway(upstream, "");
    for text in [request("GET /", "Connection: close\r\n"), Head::new("/").text()] {
        let reply = ask(gateway.address(), text.as_bytes());
        assert_eq!((reply.status(), reply.text().as_str()), (426, "no"), "{reply:?}");
        assert_eq!(reply.all("upgrade"), ["foo/2"], "{reply:?}");
        assert!(reply.all("connection").iter().any(|value| value.starts_with("Upgrade")), "{reply:?}");
    }
}

// Streaming.

#[test]
fn each_event_arrives_while_the_answer_stays_open() {
    let (upstream, connections) = played();
    // Timeouts that must not cut it: it is quiet for longer than each.
    let gateway = gateway(upstream, "request_timeout = \"200ms\"\nbody_timeout = \"200ms\"");
    let mut peer = Peer::connect(gateway.address());
    peer.write(request("GET /events", "Accept: text/event-stream\r\n").as_bytes());
    let mut server = next(&connections);
    server.head();
    server.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
    let head = peer.head();
    assert_eq!(status(&head), 200);
    assert_eq!(field(&head, "transfer-encoding").as_deref(), Some("chunked"));
    for number in 0..5 {
        let event = format!("data: {number}\n\n");
        server.write(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes());
        assert_eq!(peer.chunk(), Some(event.into_bytes()));
        if number == 2 {
            assert!(peer.within(Duration::from_millis(700)).is_empty(), "quiet, and not cut");
        }
    }
    // Parts of a chunk pass, too: nothing waits for its end.
    server.write(b"a\r\nhalf ");
    assert_eq!(peer.chunk(), Some(b"half ".to_vec()));
    server.write(b"whole\r\n0\r\n\r\n");
    assert_eq!(peer.chunk(), Some(b"whole".to_vec()));
    assert_eq!(peer.chunk(), None);
}

#[test]
fn an_answer_that_ends_with_its_connection_streams_too() {
    let (upstream, connections) = played();
    let gateway = gateway(upstream, "");
    let mut peer = Peer::connect(gateway.address());
    peer.write(get("/events").as_bytes());
    let mut server = next(&connections);
    server.head();
    server.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n");
    assert_eq!(status(&peer.head()), 200);
    assert_eq!(peer.chunk(), Some(b"data: 1\n\n".to_vec()));
    server.write(b"data: 2\n\n");
    assert_eq!(peer.chunk(), Some(b"data: 2\n\n".to_vec()));
    drop(server);
    assert_eq!(peer.chunk(), None);
}

#[test]
fn an_upload_arrives_while_it_is_sent_and_so_does_its_answer() {
    let (upstream, connections) = played();
    let gateway = gateway(upstream, "request_timeout = \"200ms\"");
    let mut peer = Peer::connect(gateway.address());
    peer.write(request("POST /up", "Transfer-Encoding: chunked\r\n").as_bytes());
    let mut server = next(&connections);
    server.head();
    peer.write(b"3\r\none\r\n");
    assert_eq!(server.chunk(), Some(b"one".to_vec()));
    // The client's time is not the server's: this is longer than `request_timeout`.
    assert!(server.within(Duration::from_millis(600)).is_empty());
    peer.write(b"3\r\ntwo\r\n");
    assert_eq!(server.chunk(), Some(b"two".to_vec()));
    // An answer that begins before the request has ended.
    server.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nheard\r\n");
    assert_eq!(status(&peer.head()), 200);
    assert_eq!(peer.chunk(), Some(b"heard".to_vec()));
    peer.write(b"5\r\nthree\r\n0\r\n\r\n");
    assert_eq!(server.chunk(), Some(b"three".to_vec()));
    assert_eq!(server.chunk(), None);
    server.write(b"0\r\n\r\n");
    assert_eq!(peer.chunk(), None);
}

/// RFC 9110 section 7.5: the answer may come before the request has ended, also all of it.
#[test]
fn an_upload_goes_on_behind_an_answer_that_came_early() {
    let (upstream, connections) = played();
    let gateway = gateway(upstream, "body_timeout = \"500ms\"");
    let mut peer = Peer::connect(gateway.address());
    peer.write(request("POST /up", "Content-Length: 10\r\n").as_bytes());
    let mut server = next(&connections);
    server.head();
    server.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 3\r\n\r\nyes");
    let reply = answer(&mut peer);
    assert_eq!((reply.status(), reply.text().as_str()), (202, "yes"));
    assert!(reply.all("connection").is_empty(), "{reply:?}");
    // For longer than `body_timeout` in all, but the client is never silent for so long.
    for byte in b"0123456789" {
        peer.write(&[*byte]);
        assert_eq!(server.bytes(1), [*byte]);
        assert!(server.within(Duration::from_millis(100)).is_empty());
    }
    // Both connections are good for more.
    peer.write(request("POST /more", "Transfer-Encoding: chunked\r\n").as_bytes());
    server.head();
    server.write(b"HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(status(&peer.head()), 204);
    let block = vec![b'x'; 64 * 1024];
    for _ in 0..50 {
        peer.write(format!("{:x}\r\n", block.len()).as_bytes());
        peer.write(&block);
        peer.write(b"\r\n");
    }
    peer.write(b"0\r\n\r\n");
    let mut received = 0;
    while let Some(chunk) = server.chunk() {
        received += chunk.len();
    }
    assert_eq!((received, server.line().as_str()), (50 * block.len(), ""));
    peer.write(get("/last").as_bytes());
    server.head();
    server.write(OK.as_bytes());
    assert_eq!(answer(&mut peer).text(), "ok");
    assert!(connections.try_recv().is_err());
}

/// Neither a client that stops, nor one that leaves, nor a server that takes nothing keeps it alive.
#[test]
fn an_upload_behind_its_answer_ends_in_time() {
    let (upstream, connections) = played();
    let gateway = gateway(upstream, "body_timeout = \"300ms\"\nrequest_timeout = \"300ms\"");
    let begin = || {
        let mut peer = Peer::connect(gateway.address());
        peer.write(request("POST /up", &format!("Content-Length: {LARGE}\r\n")).as_bytes());
        let mut server = next(&connections);
        server.head();
        server.write(OK.as_bytes());
        assert_eq!(answer(&mut peer).text(), "ok");
        (peer, server)
    };
    let (mut peer, mut server) = begin();
    assert_eq!((server.rest().len(), peer.rest().len()), (0, 0), "a client that stops");
    let (peer, mut server) = begin();
    drop(peer);
    assert_eq!(server.rest().len(), 0, "a client that leaves");
    let (mut peer, server) = begin();
    let block = vec![b'x'; 1024 * 1024];
    let mut written = 0;
    while peer.try_write(&block).is_ok() {
        written += block.len();
        assert!(written < LARGE, "a server that takes nothing");
    }
    drop(server);
}

/// RFC 9112 section 9.6: where the rest of an upload is not read, the connection ends, and says so.
#[test]
fn an_answer_that_cuts_its_upload_says_that_the_connection_ends() {
    #[rustfmt::skip]
    let rows = [
        ("the server will close", "", "HTTP/1.1 413 No\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"),
        ("HTTP/1.0", "", "HTTP/1.0 413 No\r\nContent-Length: 2\r\n\r\nno"),
        ("it ends with the connection", "", "HTTP/1.1 413 No\r\n\r\nno"),
        ("held back", "Expect: 100-continue\r\n", "HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno"),
    ];
    for (name, fields, text) in rows {
        let (upstream, connections) = played();
        let gateway = gateway(upstream, "");
        let mut peer = Peer::connect(gateway.address());
        peer.write(request("POST /up", &format!("{fields}Content-Length: 10\r\n")).as_bytes());
        let mut server = next(&connections);
        server.head();
        server.write(text.as_bytes());
        // The others end without waiting for that.
        if name == "it ends with the connection" {
            server.finish();
        }
        let reply = reply(&mut peer);
        assert_eq!(reply.all("connection"), ["close"], "{name}: {reply:?}");
        assert!(reply.text().contains("no"), "{name}: {reply:?}");
    }
}

#[test]
fn trailers_pass_both_ways_and_only_such_as_may() {
    let (upstream, connections) = played();
    let gateway = gateway(upstream, "");
    let mut peer = Peer::connect(gateway.address());
    let fields = "TE: trailers\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, X-Forwarded-For\r\n";
    peer.write(request("POST /up", fields).as_bytes());
    peer.write(b"3\r\none\r\n0\r\nX-Sum: 1\r\nX-Other: 3\r\nX-Forwarded-For: 6.6.6.6\r\nContent-Length: 9\r\n\r\n");
    let mut server = next(&connections);
    let head = server.head();
    assert_eq!(field(&head, "te").as_deref(), Some("trailers"), "{head}");
    assert_eq!(field(&head, "connection").as_deref(), Some("TE"), "{head}");
    assert_eq!(server.chunk(), Some(b"one".to_vec()));
    assert_eq!(server.chunk(), None);
    assert_eq!((server.line().as_str(), server.line().as_str()), ("X-Sum: 1", ""));
    server
        .write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Set-Cookie\r\n\r\n2\r\nok\r\n0\r\n");
    server.write(b"X-Sum: 2\r\nX-Other: 3\r\nConnection: x\r\n\r\n");
    assert_eq!(field(&peer.head(), "trailer").as_deref(), Some("X-Sum, Set-Cookie"));
    assert_eq!(peer.chunk(), Some(b"ok".to_vec()));
    assert_eq!(peer.chunk(), None);
    assert_eq!((peer.line().as_str(), peer.line().as_str()), ("X-Sum: 2", ""));
}

#[test]
fn a_client_that_expects_100_gets_it_from_the_server() {
    let (upstream, connections) = played();
    // It would be kept for longer than the test waits.
    let gateway = gateway_with(upstream, "", "keepalive_timeout = \"60s\"", "");
    let fields = "Expect: 100-continue\r\nContent-Length: 3\r\n";
    // It wants the body.
    let mut peer = Peer::connect(gateway.address());
    peer.write(request("PUT /up", fields).as_bytes());
    let mut server = next(&connections);
    assert_eq!(field(&server.head(), "expect").as_deref(), Some("100-continue"));
    assert!(peer.within(Duration::from_millis(200)).is_empty(), "not before the server says so");
    server.write(b"HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(status(&peer.head()), 100);
    peer.write(b"abc");
    assert_eq!(server.bytes(3), b"abc");
    server.write(OK.as_bytes());
    assert_eq!(answer(&mut peer).text(), "ok");
    // It does not, and says so at once: the client keeps its body.
    let mut peer = Peer::connect(gateway.address());
    peer.write(request("PUT /up", fields).as_bytes());
    server.head();
    server.write(b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno");
    let reply = answer(&mut peer);
    assert_eq!((reply.status(), reply.text().as_str()), (401, "no"));
    assert_eq!(peer.rest(), b"", "and no 100 behind it");
    assert!(server.rest().is_empty(), "a connection with half a request on it is not used again");
    // It knows nothing of that and waits: the body goes out all the same.
    let mut peer = Peer::connect(gateway.address());
    peer.write(request("PUT /up", fields).as_bytes());
    let mut server = next(&connections);
    server.head();
    assert_eq!(status(&peer.head()), 100);
    peer.write(b"abc");
    assert_eq!(server.bytes(3), b"abc");
    server.write(OK.as_bytes());
    assert_eq!(answer(&mut peer).text(), "ok");
}

/// Bytes of the large bodies.
const LARGE: usize = 256 * 1024 * 1024;
/// What the gateway may hold of them.
const HELD: u64 = 6 * 1024 * 1024;

#[test]
fn a_reader_that_has_stopped_stops_the_sender() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let (upstream, connections) = played();
    let gateway = gateway(upstream, "");
    let before = {
        let mut peer = Peer::connect(gateway.address());
        peer.write(get("/").as_bytes());
        next(&connections).try_write(OK.as_bytes()).expect("written");
        answer(&mut peer);
        gateway.resident()
    };
    let block = vec![b'x'; 64 * 1024];
    // Download.
    let mut peer = Peer::connect(gateway.address());
    peer.write(get("/large").as_bytes());
    let mut server = next(&connections);
    server.head();
    let writing = std::thread::spawn({
        let (block, counted) = (block.clone(), counted.clone());
        move || {
            server.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n").as_bytes());
            for _ in 0..LARGE / block.len() {
                server.write(&block);
                counted.fetch_add(block.len(), Ordering::SeqCst);
            }
            server
        }
    });
    peer.head();
    let stuck = standstill(&sent);
    assert!(stuck < 16 * 1024 * 1024, "the upstream could write {stuck} bytes that nobody reads");
    assert!(gateway.resident() < before + HELD, "{} of {before}", gateway.resident());
    for _ in 0..LARGE / block.len() {
        assert!(peer.bytes(block.len()) == block);
    }
    let mut server = writing.join().expect("all of it was written");
    assert!(gateway.resident() < before + HELD, "{} of {before}", gateway.resident());
    // Upload, over the same connections.
    sent.store(0, Ordering::SeqCst);
    let writing = std::thread::spawn({
        let block = block.clone();
        move || {
            peer.write(request("POST /large", &format!("Content-Length: {LARGE}\r\n")).as_bytes());
            for _ in 0..LARGE / block.len() {
                peer.write(&block);
                counted.fetch_add(block.len(), Ordering::SeqCst);
            }
            peer
        }
    });
    server.head();
    let stuck = standstill(&sent);
    assert!(stuck < 16 * 1024 * 1024, "the client could write {stuck} bytes that nobody reads");
    for _ in 0..LARGE / block.len() {
        assert!(server.bytes(block.len()) == block);
    }
    server.write(OK.as_bytes());
    assert_eq!(answer(&mut writing.join().expect("all of it was written")).text(), "ok");
    assert!(gateway.resident() < before + HELD, "{} of {before}", gateway.resident());
}

/// The count when it has not changed for a while.
fn standstill(count: &AtomicUsize) -> usize {
    let mut last = (count.load(Ordering::SeqCst), Instant::now());
    eventually("it stands still", || {
        let now = count.load(Ordering::SeqCst);
        if now != last.0 || now == 0 {
            last = (now, Instant::now());
        }
        last.1.elapsed() > Duration::from_millis(500)
    });
    last.0
}

// Connections to the upstream.

#[test]
fn connections_are_kept_for_a_while_and_only_so_many() {
    let (upstream, connections) = keeping(|_| OK.into());
    let gateway = gateway_with(upstream, "", "keepalive = 1\nkeepalive_timeout = \"300ms\"", "");
    let mut peers: Vec<Peer> = (0..2).map(|_| Peer::connect(gateway.address())).collect();
    for _ in 0..10 {
        for peer in &mut peers {
            peer.write(get("/").as_bytes());
            assert_eq!(answer(peer).text(), "ok");
        }
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1, "one after the other needs one connection");

    let (upstream, connections) = played();
    let gateway = gateway_with(upstream, "", "keepalive = 1\nkeepalive_timeout = \"300ms\"", "");
    let mut peers: Vec<Peer> = (0..2).map(|_| Peer::connect(gateway.address())).collect();
    for peer in &mut peers {
        peer.write(get("/").as_bytes());
    }
    let mut servers: Vec<Peer> = (0..2).map(|_| next(&connections)).collect();
    for server in &mut servers {
        server.head();
        server.write(OK.as_bytes());
    }
    for peer in &mut peers {
        answer(peer);
    }
    // One is closed because there is no room for two, the other in its time.
    for server in &mut servers {
        assert_eq!(server.rest(), b"");
    }
}

#[test]
fn keepalive_0_keeps_nothing() {
    let (upstream, connections) = keeping(|_| OK.into());
    let gateway = gateway_with(upstream, "", "keepalive = 0", "");
    let mut peer = Peer::connect(gateway.address());
    for _ in 0..3 {
        peer.write(get("/").as_bytes());
        assert_eq!(answer(&mut peer).text(), "ok");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 3);
}

#[test]
fn a_request_on_a_connection_that_the_server_closes_is_sent_again_only_when_that_is_safe() {
    #[rustfmt::skip]
    let rows = [
        ("GET", request("GET /", ""), "", "", true),
        ("HEAD", request("HEAD /", ""), "", "", true),
        ("DELETE", request("DELETE /", ""), "", "", true),
        ("PUT without a body", request("PUT /", "Content-Length: 0\r\n"), "", "", true),
        ("POST", request("POST /", "Content-Length: 0\r\n"), "", "", false),
        ("an unknown method", request("PROPFIND /", ""), "", "", false),
        ("GET with a body", request("GET /", "Content-Length: 3\r\n"), "abc", "", false),
        ("PUT with a body", request("PUT /", "Content-Length: 3\r\n"), "abc", "", false),
        ("an answer that has begun", request("GET /", ""), "", "HTTP/1.1 200 O", false),
    ];
    for (name, again, body, begun, safe) in rows {
        let (upstream, connections) = played();
        let gateway = gateway(upstream, "");
        let mut peer = Peer::connect(gateway.address());
        peer.write(get("/first").as_bytes());
        let mut server = next(&connections);
        server.head();
        server.write(OK.as_bytes());
        assert_eq!(answer(&mut peer).text(), "ok");
        // The second arrives, and then the server goes away.
        peer.write(again.as_bytes());
        peer.write(body.as_bytes());
        let head = server.head();
        server.bytes(body.len());
        server.write(begun.as_bytes());
        drop(server);
        if safe {
            let mut server = next(&connections);
            assert_eq!(server.head(), head, "{name}: the same once more");
            server.write(b"HTTP/1.1 204 No Content\r\n\r\n");
            assert_eq!(status(&peer.head()), 204, "{name}");
        } else {
            assert_eq!(status(&peer.head()), 502, "{name}");
            gateway.log("reason=\"upstream_bad_answer\"");
        }
        assert!(connections.try_recv().is_err(), "{name}: once more, not twice");
    }
}

#[test]
fn a_request_on_a_new_connection_is_never_sent_again() {
    let (upstream, connections) = played();
    let gateway = gateway(upstream, "");
    let mut peer = Peer::connect(gateway.address());
    peer.write(get("/").as_bytes());
    next(&connections).head();
    assert_eq!(status(&peer.head()), 502);
    assert!(connections.try_recv().is_err());
}

#[test]
fn a_server_that_was_closed_meanwhile_is_no_reason_to_fail_whatever_the_method() {
    let (upstream, connections) = played();
    let gateway = gateway(upstream, "");
    let mut peer = Peer::connect(gateway.address());
    peer.write(get("/").as_bytes());
    let mut server = next(&connections);
    server.head();
    server.write(OK.as_bytes());
    answer(&mut peer);
    drop(server);
    std::thread::sleep(Duration::from_millis(100));
    peer.write(request("POST /", "Content-Length: 3\r\n").as_bytes());
    peer.write(b"abc");
    let mut server = next(&connections);
    server.head();
    assert_eq!(server.bytes(3), b"abc");
    server.write(OK.as_bytes());
    assert_eq!(answer(&mut peer).text(), "ok");
}

#[test]
fn what_an_upstream_says_unasked_answers_nobody() {
    let (upstream, connections) = played();
    let gateway = gateway(upstream, "");
    let mut peer = Peer::connect(gateway.address());
    peer.write(get("/").as_bytes());
    let mut server = next(&connections);
    server.head();
    // A second answer behind the first: the next request must not get it.
    server.write(format!("{OK}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").as_bytes());
    assert_eq!(answer(&mut peer).text(), "ok");
    peer.write(get("/second").as_bytes());
    let mut fresh = next(&connections);
    assert!(fresh.head().starts_with("GET /second "));
    fresh.write(OK.as_bytes());
    assert_eq!(answer(&mut peer).text(), "ok");
    assert_eq!(server.rest(), b"", "the first connection is gone");
}

// Upstreams that misbehave.

#[test]
fn upstreams_that_misbehave() {
    let endless: Vec<u8> = [b"HTTP/1.1 200 OK\r\n".to_vec(), b"X: y\r\n".repeat(100_000)].concat();
    let long: Vec<u8> = [&b"HTTP/1.1 200 OK\r\nX: "[..], &b"y".repeat(1 << 20)].concat();
    #[rustfmt::skip]
    let rows: [(&str, Vec<u8>, u16, &str); 12] = [
        ("nonsense", b"\x15\x03\x01nonsense\r\n\r\n".to_vec(), 502, "upstream_bad_answer"),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\n".to_vec(), 502, "upstream_bad_answer"),
        ("headers without end", endless, 502, "upstream_bad_answer"),
        ("a header without end", long, 502, "upstream_bad_answer"),
        ("a header with a line break", b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n".to_vec(), 502, "upstream_bad_answer"),
        ("no colon", b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n".to_vec(), 502, "upstream_bad_answer"),
        ("two lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok".to_vec(), 502, "upstream_bad_answer"),
        ("a length that is none", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nok".to_vec(), 502, "upstream_bad_answer"),
        ("another coding", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".to_vec(), 502, "upstream_bad_answer"),
        ("101", switching("", "").into_bytes(), 502, "upstream_bad_answer"),
        ("nothing", Vec::new(), 504, "upstream_answer_timeout"),
        ("half a head", b"HTTP/1.1 200 OK\r\nContent-".to_vec(), 504, "upstream_answer_timeout"),
    ];
    for (name, bytes, expected, reason) in rows {
        let (upstream, seen) = answering(move |_| bytes.clone());
        let gateway = gateway(upstream, "request_timeout = \"300ms\"");
        let reply = ask(gateway.address(), request("GET /", "Connection: close\r\n").as_bytes());
        assert_eq!(reply.status(), expected, "{name}: {reply:?}");
        assert!(gateway.log("refused").contains(reason), "{name}: {}", gateway.output());
        assert_eq!(seen.connections(), 1, "{name}");
    }
}

#[test]
fn a_flood_of_1xx_ends_in_time_and_costs_no_memory() {
    let (upstream, connections) = played();
    let gateway = gateway(upstream, "request_timeout = \"500ms\"");
    let before = gateway.resident();
    let mut peer = Peer::connect(gateway.address());
    peer.write(request("GET /", "Connection: close\r\n").as_bytes());
    let mut server = next(&connections);
    server.head();
    let flood = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".repeat(100);
    while server.try_write(&flood).is_ok() {}
    assert_eq!(status(&peer.head()), 504);
    assert!(gateway.resident() < before + HELD);
}

#[test]
fn an_answer_that_breaks_off_never_looks_whole() {
    #[rustfmt::skip]
    let rows = [
        ("a length", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", "HTTP/1.1"),
        ("chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "HTTP/1.1"),
        ("a bad chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nnonsense\r\n", "HTTP/1.1"),
        ("chunks, to an old client", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "HTTP/1.0"),
    ];
    for (name, text, version) in rows {
        let (upstream, connections) = played();
        let gateway = gateway(upstream, "");
        let mut peer = Peer::connect(gateway.address());
        peer.write(get("/").replace("HTTP/1.1", version).as_bytes());
        let mut server = next(&connections);
        server.head();
        server.write(text.as_bytes());
        let head = peer.head();
        let first = peer.bytes(2);
        drop(server);
        let rest = [first, peer.rest()].concat();
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{name}: {rest:?}");
        let length = field(&head, "content-length").and_then(|length| length.parse::<usize>().ok());
        let framed = length.is_some_and(|length| rest.len() < length) || field(&head, "transfer-encoding").is_some();
        assert!(framed || peer.cut, "{name}: nothing says that more was to come: {head}{rest:?}");
    }
}

#[test]
fn an_upstream_that_falls_silent_within_an_answer_is_cut_when_the_route_says_so() {
    let (upstream, connections) = played();
    let gateway = gateway(upstream, "answer_idle_timeout = \"300ms\"");
    let mut peer = Peer::connect(gateway.address());
    peer.write(get("/").as_bytes());
    let mut server = next(&connections);
    server.head();
    server.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n");
    peer.head();
    assert_eq!(peer.chunk(), Some(b"ok".to_vec()));
    assert!(!peer.rest().ends_with(b"0\r\n\r\n"));
    assert_eq!(server.rest(), b"", "and the upstream is left");
}

// Clients that misbehave.

#[test]
fn a_client_that_leaves_ends_the_request_to_the_upstream() {
    let (upstream, connections) = played();
    let gateway = gateway(upstream, "");
    type Way = (&'static str, fn(&mut Peer));
    let ways: [Way; 4] = [
        ("before the answer", |_| {}),
        ("within an answer", |server| {
            server.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
        }),
        ("within an event stream that is quiet", |server| {
            server.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        }),
        ("within an answer with a length", |server| server.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")),
    ];
    for (name, play) in ways {
        let mut peer = Peer::connect(gateway.address());
        peer.write(get("/").as_bytes());
        let mut server = next(&connections);
        server.head();
        play(&mut server);
        if name != "before the answer" {
            peer.head();
        }
        let left = Instant::now();
        drop(peer);
        assert_eq!(server.rest(), b"", "{name}");
        assert!(left.elapsed() < Duration::from_secs(2), "{name}: {:?}", left.elapsed());
    }
}

#[test]
fn an_upload_that_breaks_off_never_looks_whole() {
    #[rustfmt::skip]
    let rows = [
        ("a length", "Content-Length: 9\r\n", "abc"),
        ("chunks", "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n"),
        ("a bad chunk", "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\nnonsense\r\n"),
    ];
    for (name, fields, body) in rows {
        let (upstream, connections) = played();
        let gateway = gateway(upstream, "");
        let mut peer = Peer::connect(gateway.address());
        peer.write(request("POST /", fields).as_bytes());
        peer.write(body.as_bytes());
        let mut server = next(&connections);
        server.head();
        if name != "a bad chunk" {
            let _ = server.bytes(3);
            drop(peer);
        } else {
            let head = peer.head();
            assert_eq!(status(&head), 400, "{head}");
        }
        assert!(!server.rest().ends_with(b"0\r\n\r\n"), "{name}");
    }
}

#[test]
fn an_upload_that_stands_still_is_cut() {
    let (upstream, connections) = played();
    let gateway = gateway(upstream, "body_timeout = \"300ms\"\nrequest_timeout = \"300ms\"");
    let mut peer = Peer::connect(gateway.address());
    peer.write(request("POST /", "Content-Length: 9\r\n").as_bytes());
    peer.write(b"abc");
    let mut server = next(&connections);
    server.head();
    assert_eq!(status(&peer.head()), 408);
    assert_eq!(server.rest(), b"abc");
    gateway.log("reason=\"body_timeout\"");
    let _ = peer.rest();
}

#[test]
fn a_client_that_takes_nothing_of_its_answer_is_cut() {
    let (upstream, connections) = played();
    let gateway = gateway(upstream, "body_timeout = \"500ms\"");
    let mut peer = Peer::connect(gateway.address());
    peer.write(get("/").as_bytes());
    let mut server = next(&connections);
    server.head();
    server.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
    let block = vec![b'x'; 64 * 1024];
    let started = Instant::now();
    while server.try_write(&block).is_ok() {
        assert!(started.elapsed() < PATIENCE, "it was never cut");
    }
    peer.head();
    assert!(peer.rest().len() < 100_000_000);
}

// The gateway's own end.

#[test]
fn a_drain_lets_requests_finish_and_closes_the_connections() {
    let (upstream, connections) = played();
    let mut gateway = gateway(upstream, "");
    let mut idle = Peer::connect(gateway.address());
    idle.write(get("/").as_bytes());
    let mut server = next(&connections);
    server.head();
    server.write(OK.as_bytes());
    answer(&mut idle);
    let mut waiting = Peer::connect(gateway.address());
    waiting.write(get("/slow").as_bytes());
    server.head();
    let mut streaming = Peer::connect(gateway.address());
    streaming.write(get("/stream").as_bytes());
    let mut stream = next(&connections);
    stream.head();
    stream.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n");
    streaming.head();
    assert_eq!(streaming.chunk(), Some(b"ok".to_vec()));
    gateway.signal("TERM");
    assert_eq!(idle.rest(), b"", "an idle connection ends at once");
    server.write(OK.as_bytes());
    let reply = answer(&mut waiting);
    assert_eq!((reply.text().as_str(), reply.all("connection")), ("ok", vec!["close".to_owned()]));
    assert_eq!(waiting.rest(), b"");
    stream.write(b"3\r\nend\r\n0\r\n\r\n");
    assert_eq!(streaming.chunk(), Some(b"end".to_vec()));
    assert_eq!(streaming.chunk(), None);
    assert!(gateway.wait().success());
}

// Which upstream, and how it is reached.

#[test]
fn upstreams_over_tls_and_unix_sockets_and_clients_over_tls() {
    let folder = support::gateway::folder();
    let authority = Authority::new("test");
    std::fs::write(folder.join("ca.pem"), authority.pem()).expect("written");
    let identity = authority.issue(&["localhost"]);
    let (certificate, key) = identity.write(&folder, "server");
    let play = |mut peer: Peer| {
        while let Some(head) = peer.try_head() {
            assert_eq!(field(&head, "x-forwarded-proto").as_deref(), Some("https"), "{head}");
            peer.write(OK.as_bytes());
        }
    };
    let secure = serve_tls(identity.server(), play);
    let path = folder.join("pass.sock");
    let unix = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for mut stream in unix.incoming().map_while(Result::ok) {
            let mut buffer = [0; 4096];
            while stream.read(&mut buffer).is_ok_and(|n| n > 0) {
                let _ = stream.write_all(OK.as_bytes());
            }
        }
    });
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = {{ certificate = {certificate:?}, key = {key:?} }}\n\
         [[route]]\npath = \"/tls\"\nupstream = \"tls\"\nhttp = true\n\
         [[route]]\npath = \"/unix\"\nupstream = \"unix\"\nhttp = true\n\
         [upstream.tls]\nservers = [\"wss://127.0.0.1:{}\"]\ntls = {{ ca = {:?}, server_name = \"localhost\" }}\n\
         [upstream.unix]\nservers = [\"unix:{}\"]\n",
        secure.port(),
        folder.join("ca.pem"),
        path.display()
    );
    let gateway = Gateway::start_in(folder, &text, "exec \"$0\" \"$@\"");
    let mut peer = tls::connect(gateway.address(), "localhost", &authority.client(None)).expect("TLS");
    for path in ["/tls", "/unix", "/tls", "/unix"] {
        peer.write(get(path).as_bytes());
        assert_eq!(answer(&mut peer).text(), "ok", "{path}");
    }
}

/// The routes of the property, each with an upstream of its own: host, path, and further keys.
const ROUTES: [(&str, &str, &str); 11] = [
    ("a.test", "/", ""),
    ("a.test", "/api", ""),
    ("a.test", "/api", EXACT),
    ("a.test", "/a", STRIP),
    ("a.test", "/api/admin", REWRITE),
    ("b.test", "/api", ""),
    ("b.test", "/api", TENANT),
    ("b.test", "/a", RESPOND),
    ("a.test", "/API", HTTPS),
    ("b.test", "/api/admin", ""),
    ("b.test", "/api/admin/", EXACT),
];
const EXACT: &str = "path_exact = true";
const TENANT: &str = "headers = { X-Tenant = \"a\" }";

/// No request reaches an upstream through these two.
const RESPOND: &str = "respond = { status = 404 }";
const HTTPS: &str = "redirect = \"https\"";
const STRIP: &str = "strip_prefix = true";
const REWRITE: &str = "rewrite = { prefix = \"/new/v2\" }";

/// The path that was asked for, of the one that the server saw.
fn asked_for(route: (&str, &str, &str), target: &str) -> Option<String> {
    match route.2 {
        STRIP => Some(format!("{}{target}", route.1)),
        REWRITE => Some(format!("{}{}", route.1, target.strip_prefix("/new/v2")?)),
        _ => Some(target.to_owned()),
    }
}

/// The route for which a request was meant, by what its server got to see: a second word on `policy::route`.
fn meant(host: &str, target: &str, tenants: &[&str]) -> Option<usize> {
    let segments = read_again(target);
    let slash = target.split('?').next().is_some_and(|path| path.ends_with('/'));
    let rank = |(route_host, path, more): (&str, &str, &str)| {
        let prefix: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        let below = segments.iter().map(String::as_str).take(prefix.len()).eq(prefix.iter().copied());
        let holds = match more {
            EXACT => segments.len() == prefix.len() && slash == path.ends_with('/'),
            TENANT => tenants == ["a"],
            _ => true,
        };
        (route_host == host && below && holds).then_some((more == EXACT, prefix.len(), more == TENANT))
    };
    let ranked = ROUTES.iter().enumerate().filter_map(|(number, route)| Some((rank(*route)?, number)));
    ranked.max_by_key(|(rank, _)| *rank).map(|(_, number)| number)
}

/// A server that keeps its connections, frames strictly, and tells what it got: the number of its route, and the head.
fn recording(route: usize, got: Arc<Mutex<Vec<(usize, String)>>>) -> SocketAddr {
    serve(move |mut peer| {
        while let Some(head) = peer.try_head() {
            got.lock().expect("not poisoned").push((route, head.clone()));
            if field(&head, "transfer-encoding").is_some() {
                while peer.chunk().is_some() {}
                while !peer.line().is_empty() {}
            } else {
                let length = field(&head, "content-length").map_or(0, |length| length.parse().expect("a length"));
                peer.bytes(length);
            }
            peer.write(OK.as_bytes());
        }
    })
}

/// What a server behind the gateway could take the path for: decoded, without empty segments.
fn read_again(target: &str) -> Vec<String> {
    let path = target.split(['?', '#']).next().expect("a path");
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let [first, behind @ ..] = rest {
        let code = behind.get(..2).and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        match (first, code) {
            (b'%', Some(code)) => {
                bytes.push(code);
                rest = &behind[2..];
            }
            _ => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    let path = String::from_utf8_lossy(&bytes).replace('\\', "/");
    path.split('/').filter(|segment| !segment.is_empty()).map(str::to_owned).collect()
}

#[test]
fn no_request_reaches_an_upstream_that_its_route_does_not_name() {
    let got = Arc::new(Mutex::new(Vec::new()));
    let mut text = "[[listener]]\naddress = \"127.0.0.1:0\"\nhead_timeout = \"100ms\"\n".to_owned();
    for (number, (host, path, more)) in ROUTES.iter().enumerate() {
        let address = recording(number, got.clone());
        if *more == RESPOND {
            text += &format!("[[route]]\nhost = {host:?}\npath = {path:?}\n{more}\n");
            continue;
        }
        text += &format!(
            "[[route]]\nhost = {host:?}\npath = {path:?}\n{more}\nupstream = \"u{number}\"\nhttp = true\n\
             request_timeout = \"1s\"\nbody_timeout = \"100ms\"\n[upstream.u{number}]\nservers = [\"ws://{address}\"]\n"
        );
    }
    let gateway = Gateway::start(&text);
    let odd = ["CONNECT", "TRACE", "get", "G\u{0}T"];
    let method =
        prop_oneof![6 => select(vec!["GET", "POST", "DELETE", "PUT", "OPTIONS", "HEAD"]), 1 => select(odd.to_vec())];
    let piece = prop_oneof![
        3 => select(vec!["/", "/", "api", "api", "/api/", "admin", "a", ";", ";x=1", "?", "%61pi", "%2e", "//", "API"]),
        1 => select(vec![
            "..", ".", "%2E%2e", "%2f", "%5c", "\\", "%00", "%", "#", "\t", "http://b.test", "*", "@", ":80", "%0d%0a", "\u{e4}",
        ]),
    ];
    let target = proptest::collection::vec(piece, 0..5).prop_map(|pieces| format!("/{}", pieces.concat()));
    let target = prop_oneof![
        8 => target.clone(),
        2 => select(vec!["/api", "/api/a", "/api/admin", "/api/admin/", "/api/admin//a"]).prop_map(str::to_owned),
        1 => target.clone().prop_map(|target| format!("http://b.test{target}")),
        1 => target.prop_map(|target| target[1..].to_owned()),
    ];
    let host = prop_oneof![
        4 => select(vec!["a.test", "b.test", "A.TEST.", "b.test:80"]),
        1 => select(vec!["c.test", "a.test, b.test", "a.test/api", ""]),
    ];
    let hidden = "GET /api/admin HTTP/1.1\r\nHost: b.test\r\nX-Hidden: 1\r\n\r\n";
    let field_ = select(vec![
        "Host: b.test",
        " Host: b.test",
        "Host : b.test",
        "X-Forwarded-Host: b.test",
        "X-Tenant: a",
        "X-Tenant: a",
        "X-Tenant: b",
        "X_Tenant: a",
        "X-Original-URL: /api/admin",
        "X-Rewrite-URL: /api/admin",
        "Content-Length: 0",
        "Content-Length: 5",
        "Content-Length: +5",
        "Content-Length: 3, 3",
        "Content_Length: 80",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        "Transfer_Encoding: chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: \u{b}chunked",
        "Connection: content-length, transfer-encoding, host",
        "Upgrade: h2c",
        "Upgrade: websocket",
        "Expect: 100-continue",
        "X: a\nContent-Length: 80",
        "X: a\rb",
        "Connection: close",
        "TE: trailers",
        "Trailer: Host",
    ]);
    let fields = proptest::collection::vec(field_, 0..3);
    let body = select(vec![
        String::new(),
        hidden.to_owned(),
        format!("0\r\n\r\n{hidden}"),
        format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len()),
        format!("5;x=\n\r\nhello\r\n0\r\nHost: b.test\r\n\r\n{hidden}"),
        format!("5 \r\nhello\r\n0\r\n\r\n{hidden}"),
        format!("-1\r\n{hidden}"),
        format!("ffffffffffffffff1\r\n{hidden}"),
        format!("hello{hidden}"),
    ]);
    let count = std::cell::Cell::new(0);
    let reached = std::cell::RefCell::new(std::collections::BTreeSet::new());
    let mut runner = TestRunner::new(Runs { cases: 2000, failure_persistence: None, ..Runs::default() });
    runner
        .run(&(method, target, host, fields, body), |(method, target, host, fields, body)| {
            let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
            let mut peer = Peer::connect(gateway.address());
            let text = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n{body}");
            let _ = peer.try_write(text.as_bytes());
            // A good request behind it, and then nothing more.
            let _ = peer.try_write(b"GET /end HTTP/1.1\r\nHost: c.test\r\nConnection: close\r\n\r\n");
            let _ = peer.rest();
            for (route, head) in got.lock().expect("not poisoned").drain(..) {
                count.set(count.get() + 1);
                let (host, ..) = ROUTES[route];
                let line = head.lines().next().unwrap_or_default();
                let words: Vec<&str> = line.split(' ').collect();
                prop_assert!(words.len() == 3 && words[2] == "HTTP/1.1", "no request line: {:?} of {:?}", head, text);
                let hosts: Vec<_> =
                    head.lines().filter(|line| line.to_ascii_lowercase().starts_with("host:")).collect();
                prop_assert_eq!(hosts.len(), 1, "{:?} of {:?}", &head, &text);
                let asked = hosts[0][5..].trim().to_ascii_lowercase();
                let asked = asked.split(':').next().unwrap_or_default().trim_end_matches('.');
                prop_assert_eq!(asked, host, "{:?} of {:?}", &head, &text);
                let segments = read_again(words[1]);
                prop_assert!(!segments.iter().any(|segment| segment == ".." || segment == "."), "{:?}", &head);
                let tenants = head.lines().filter_map(|line| line.split_once(": "));
                let tenants: Vec<&str> =
                    tenants.filter(|(name, _)| name.eq_ignore_ascii_case("x-tenant")).map(|(_, value)| value).collect();
                // A target that names a host to its reader is only the client's own, as it came.
                let own = ROUTES[route].2 != STRIP || !words[1].starts_with("//");
                prop_assert!(own && words[1].starts_with('/'), "{:?} of {:?}", &head, &text);
                let asked = asked_for(ROUTES[route], words[1]).unwrap_or_default();
                let meant = meant(host, &asked, &tenants);
                prop_assert_eq!(meant, Some(route), "{:?} of {:?}", &head, &text);
                reached.borrow_mut().insert(route);
                let framings = ["content-length", "transfer-encoding"].map(|name| field(&head, name).is_some());
                prop_assert!(framings != [true, true], "{:?}", &head);
            }
            Ok(())
        })
        .expect("every request reaches its own upstream");
    assert!(count.get() > 500, "requests passed: {}", count.get());
    let silent = ROUTES.iter().filter(|(.., more)| [RESPOND, HTTPS].contains(more)).count();
    assert_eq!(reached.into_inner().len(), ROUTES.len() - silent, "every other route had some");
    assert!(!gateway.output().contains("panicked"), "{}", gateway.output());
}
