//! Bad input: each kind gets the answer of the design, costs bounded memory, and leaves honest clients served.

mod support;

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use support::client::{BINARY, CLOSE, PING, PONG, Peer, TEXT, header, masked, request, unmasked};
use support::gateway::{Gateway, config};
use support::http::{Head, ask, status};
use support::tls::{self, Authority};
use support::upstream::{agreeing, answering, serve, switching};
use support::{PATIENCE, eventually};

const NO_LIMITS: &str = "[limits]\nhandshakes_per_client = \"off\"\nsessions_per_client = \"off\"\n";
const MIB: u64 = 1024 * 1024;

/// An upstream that returns every frame.
fn echo() -> SocketAddr {
    serve(|mut peer| {
        let Some(head) = peer.try_head() else { return };
        peer.write(switching(&head, "").as_bytes());
        while let Some(frame) = peer.next_frame() {
            if peer.try_write(&unmasked(frame.opcode, &frame.payload)).is_err() || frame.opcode == CLOSE {
                return;
            }
        }
    })
}

/// An honest client is served.
fn honest(address: SocketAddr) {
    let mut peer = Peer::open(address, "/");
    peer.write(&masked(TEXT, b"honest"));
    assert_eq!(peer.frame().payload, b"honest");
}

/// A listener with these lines.
fn listener(text: &str, lines: &str) -> String {
    text.replacen("\"127.0.0.1:0\"\n", &format!("\"127.0.0.1:0\"\n{lines}\n"), 1)
}

#[test]
fn malformed_heads_get_an_answer_and_never_reach_an_upstream() {
    let (upstream, seen) = agreeing();
    let gateway = Gateway::start(&config(upstream, "", NO_LIMITS));
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let with = |more: &str| format!("GET / HTTP/1.1\r\nHost: localhost\r\n{upgrade}{more}\r\n").into_bytes();
    let line = |line: &str| format!("{line}\r\nHost: localhost\r\n{upgrade}\r\n").into_bytes();
    let rows: Vec<(&str, Vec<u8>, u16)> = vec![
        ("a ClientHello", [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &[7; 500]].concat(), 400),
        ("no request", b"hello\r\n\r\n".to_vec(), 400),
        ("another protocol", b"SSH-2.0-OpenSSH_9.6\r\n\r\n".to_vec(), 400),
        ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 400),
        ("HTTP/3", line("GET / HTTP/3.0"), 400),
        ("HTTP/0.9", b"GET /\r\n\r\n".to_vec(), 400),
        ("HTTP/1.0", line("GET / HTTP/1.0"), 400),
        ("CONNECT", line("CONNECT localhost:443 HTTP/1.1"), 400),
        ("OPTIONS *", line("OPTIONS * HTTP/1.1"), 400),
        ("a line that is folded", with("X: a\r\n b\r\n"), 400),
        ("a space before the colon", with("X : a\r\n"), 400),
        ("a space before the name", b"GET / HTTP/1.1\r\n Host: localhost\r\n\r\n".to_vec(), 400),
        ("no name", with(": a\r\n"), 400),
        ("no colon", with("X\r\n"), 400),
        ("NUL in a value", with("X: a\0b\r\n"), 400),
        ("NUL in a name", with("X\0Y: a\r\n"), 400),
        ("NUL in the target", line("GET /a\0b HTTP/1.1"), 400),
        ("CR in a value", with("X: a\rb\r\n"), 400),
        ("a body", with("Content-Length: 5\r\n\r\nhello"), 400),
        ("two lengths", with("Content-Length: 0\r\nContent-Length: 5\r\n"), 400),
        ("a list of lengths", with("Content-Length: 0, 0\r\n"), 400),
        ("a length with a sign", with("Content-Length: +0\r\n"), 400),
        ("a negative length", with("Content-Length: -1\r\n"), 400),
        ("a length in hex", with("Content-Length: 0x0\r\n"), 400),
        ("length and chunks", with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), 400),
        ("chunks", with("Transfer-Encoding: chunked\r\n"), 400),
        ("chunks, obfuscated", with("Transfer-Encoding: xchunked\r\n"), 400),
        ("chunks, not last", with("Transfer-Encoding: chunked, identity\r\n"), 400),
        ("200 fields", with(&"X-Field: y\r\n".repeat(200)), 431),
        ("a field of 1 MiB", with(&format!("X: {}\r\n", "y".repeat(1 << 20))), 431),
        ("a target of 1 MiB", line(&format!("GET /{} HTTP/1.1", "y".repeat(1 << 20))), 431),
        ("1 MiB without an end", vec![b'x'; 1 << 20], 431),
    ];
    for (name, bytes, expected) in rows {
        let reply = ask(gateway.address(), &bytes);
        assert_eq!(reply.status(), expected, "{name}: {reply:?}");
        assert!(!reply.text().contains("HTTP/1.1 "), "{name}: one answer: {reply:?}");
        assert_eq!(reply.all("connection").last().map(String::as_str), Some("close"), "{name}: {reply:?}");
        assert!(Head::new("/").opens(gateway.address()), "an honest client after {name}");
    }
    let honest = seen.heads();
    assert!(honest.iter().all(|head| head.starts_with("GET / HTTP/1.1\r\nHost: localhost\r\n")), "{honest:?}");
    assert_eq!(seen.connections(), 32, "only the honest ones were dialled");
    eventually("one line for each", || gateway.output().matches(" refused reason=").count() >= 32);
    assert_eq!(gateway.output().matches(" refused reason=").count(), 32, "{}", gateway.output());
}

/// RFC 9112 section 2.2 lets a lone LF end a line. The upstream gets a head of ours, so both read the same.
#[test]
fn lone_line_feeds_are_never_passed_on() {
    let (upstream, seen) = agreeing();
    let gateway = Gateway::start(&config(upstream, "", NO_LIMITS));
    let mut peer = Peer::connect(gateway.address());
    peer.write(request("/", "X: y\r\n").replace("\r\n", "\n").as_bytes());
    assert_eq!(status(&peer.head()), 101);
    let head = seen.last();
    assert_eq!(head.matches('\n').count(), head.matches("\r\n").count(), "{head:?}");
    assert!(head.contains("X: y\r\n"), "{head:?}");
}

#[test]
fn nothing_behind_a_refused_upgrade_is_read_as_a_request() {
    let smuggled = request("/smuggled", "");
    let (refusing, seen) = answering(|_| b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nnope".to_vec());
    let gateway = Gateway::start(&config(refusing, "", NO_LIMITS));
    let rows = [
        ("refused here", Head::new("/").set("Sec-WebSocket-Version: 8").text(), 426, 0),
        ("with a body", Head::new("/").with(&format!("Content-Length: {}", smuggled.len())).text(), 400, 0),
        ("with chunks", Head::new("/").with("Transfer-Encoding: chunked").text() + "0\r\n\r\n", 400, 0),
        ("h2c", Head::new("/").set("Upgrade: h2c").text(), 426, 0),
        ("CONNECT", Head::new("/").line("CONNECT localhost:80 HTTP/1.1").text(), 400, 0),
        ("no route for CONNECT's form", Head::new("/").line("CONNECT / HTTP/1.1").text(), 400, 0),
        ("refused by the upstream", Head::new("/").text(), 403, 1),
    ];
    for (name, first, expected, dialled) in rows {
        let before = seen.connections();
        let reply = ask(gateway.address(), (first + &smuggled).as_bytes());
        assert_eq!(reply.status(), expected, "{name}: {reply:?}");
        assert!(!reply.text().contains("HTTP/1.1 "), "{name}: {reply:?}");
        assert_eq!(seen.connections() - before, dialled, "{name}");
    }
    assert!(seen.heads().iter().all(|head| !head.contains("smuggled")), "{:?}", seen.heads());
    assert!(!gateway.output().contains("smuggled"), "{}", gateway.output());
}

#[test]
fn a_head_that_dribbles_is_cut_and_honest_clients_are_served_meanwhile() {
    let gateway = Gateway::start(&listener(&config(echo(), "", NO_LIMITS), "head_timeout = \"1s\""));
    let address = gateway.address();
    let started = Instant::now();
    let mut slow: Vec<Peer> = (0..100).map(|_| Peer::connect(address)).collect();
    let text = request("/", "");
    for byte in text.as_bytes().chunks(1).take(20) {
        for peer in &mut slow {
            let _ = peer.try_write(byte);
        }
        honest(address);
    }
    for mut peer in slow {
        let head = peer.head();
        assert_eq!(status(&head), 408, "{head}");
        assert!(head.contains("Connection: close\r\n"), "{head}");
        assert!(String::from_utf8_lossy(&peer.rest()).contains("in time"));
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert!(gateway.log("head_timeout").contains("status=408"));
    // One that says nothing at all is closed without a word.
    let mut silent = Peer::connect(address);
    assert_eq!(silent.rest(), b"");
}

/// hyper has no deadline for an answer that nobody reads: such clients would keep their places for ever.
#[test]
fn a_client_that_never_reads_its_answer_loses_its_place() {
    let (upstream, _) = answering(|_| {
        let body = vec![b'x'; 64 << 20];
        [format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), &body].concat()
    });
    let text = listener(&config(upstream, "", &format!("{NO_LIMITS}connections = 2\n")), "head_timeout = \"500ms\"");
    let gateway = Gateway::start(&text);
    let deaf: Vec<Peer> = (0..2)
        .map(|_| {
            let mut peer = Peer::connect(gateway.address());
            peer.write(request("/", "").as_bytes());
            peer
        })
        .collect();
    eventually("both are refused by the upstream", || gateway.output().matches("upstream_refused").count() == 2);
    eventually("a place is free", || {
        let mut peer = Peer::connect(gateway.address());
        peer.try_write(request("/", "").as_bytes()).is_ok() && peer.try_head().is_some()
    });
    drop(deaf);
}

#[test]
fn frames_that_dribble_pass() {
    let gateway = Gateway::start(&config(echo(), "", NO_LIMITS));
    let mut peer = Peer::open(gateway.address(), "/");
    let frames = [masked(TEXT, b"slowly"), masked(BINARY, &[9; 300]), masked(PING, b"ping")].concat();
    for byte in frames.chunks(1) {
        peer.write(byte);
    }
    // The pong is ours and may overtake what goes to the upstream and back.
    let (pongs, data): (Vec<_>, Vec<_>) = (0..3).map(|_| peer.frame()).partition(|frame| frame.opcode == PONG);
    assert_eq!(pongs.iter().map(|frame| &frame.payload[..]).collect::<Vec<_>>(), [b"ping"]);
    assert_eq!(data.iter().map(|frame| &frame.payload[..]).collect::<Vec<_>>(), [&b"slowly"[..], &[9; 300]]);
}

#[test]
fn messages_that_claim_to_be_endless_are_refused_by_their_header() {
    let gateway = Gateway::start(&config(echo(), "", NO_LIMITS));
    honest(gateway.address());
    let before = gateway.resident();
    // The top bit is against RFC 6455 section 5.2; the others are above the limit of a frame.
    for (length, code) in [(1_u64 << 63, 1002), (u64::MAX, 1002), (1 << 62, 1009), ((1 << 63) - 1, 1009)] {
        let mut peer = Peer::open(gateway.address(), "/");
        let _ = peer.try_write(&[header(0x82, true, length), vec![1, 2, 3, 4], vec![0; 1000]].concat());
        assert_eq!(peer.frame().close().0, code, "{length}");
    }
    assert!(gateway.resident() < before + 2 * MIB, "{} from {before}", gateway.resident());
    honest(gateway.address());
}

#[test]
fn floods_of_pings_that_are_never_read_cost_no_memory() {
    let gateway = Gateway::start(&config(echo(), "", NO_LIMITS));
    honest(gateway.address());
    let before = gateway.resident();
    let pings = masked(PING, &[b'p'; 125]).repeat(500);
    let mut flooding: Vec<Peer> = (0..4).map(|_| Peer::open(gateway.address(), "/")).collect();
    let started = Instant::now();
    for _ in 0..200 {
        for peer in &mut flooding {
            // Blocked or closed is an answer, too.
            peer.stream().set_write_timeout(Some(Duration::from_millis(20))).expect("a timeout");
            let _ = peer.try_write(&pings);
        }
        if started.elapsed() > PATIENCE / 2 {
            break;
        }
    }
    assert!(gateway.resident() < before + 4 * MIB, "{} from {before}", gateway.resident());
    honest(gateway.address());
}

#[test]
fn what_arrives_before_the_upstream_agrees_costs_no_memory() {
    let stalling = serve(|mut peer| peer.drain());
    let gateway = Gateway::start(&config(stalling, "", &format!("handshake_timeout = \"1m\"\n\n{NO_LIMITS}")));
    let warm = ask(gateway.address(), b"GET /.. HTTP/1.1\r\nHost: x\r\n\r\n\r\n".as_slice());
    assert_eq!(warm.status(), 400);
    let before = gateway.resident();
    let mut peers = Vec::new();
    for _ in 0..20 {
        let mut peer = Peer::connect(gateway.address());
        peer.stream().set_write_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        peer.write(request("/", "").as_bytes());
        let _ = peer.try_write(&vec![b'x'; 4 << 20]);
        peers.push(peer);
    }
    assert!(gateway.resident() < before + 4 * MIB, "{} from {before}", gateway.resident());
}

fn tls_gateway(lines: &str) -> (Gateway, Authority) {
    let authority = Authority::new("test");
    let folder = support::gateway::folder();
    let (certificate, key) = authority.issue(&["localhost"]).write(&folder, "server");
    let tls = format!("tls = {{ certificate = {certificate:?}, key = {key:?} }}\n{lines}");
    let text = listener(&config(echo(), "", NO_LIMITS), &tls);
    (Gateway::start_in(folder, &text, "exec \"$0\" \"$@\""), authority)
}

#[test]
fn tls_garbage_and_silence_are_cut() {
    let (gateway, authority) = tls_gateway("tls_timeout = \"1s\"");
    let address = gateway.address();
    let served = || {
        let mut peer = tls::connect(address, "localhost", &authority.client(None)).expect("TLS");
        peer.write(request("/", "").as_bytes());
        assert_eq!(status(&peer.head()), 101);
    };
    let silent: Vec<Peer> = (0..50).map(|_| Peer::connect(address)).collect();
    let rows: [(&str, Vec<u8>); 6] = [
        ("a record of zeros", vec![0; 1000]),
        ("a handshake of garbage", [&[22, 3, 1, 0x40, 0][..], &[0xff; 16_384]].concat()),
        ("an endless record", [&[22, 3, 1, 0xff, 0xff][..], &vec![1; 1 << 20]].concat()),
        ("an alert", vec![21, 3, 3, 0, 2, 2, 40]),
        ("half a ClientHello", vec![22, 3, 1, 2, 0, 1, 0]),
        ("another protocol", b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()),
    ];
    for (name, bytes) in rows {
        let started = Instant::now();
        let mut peer = Peer::connect(address);
        let _ = peer.try_write(&bytes);
        let answer = peer.rest();
        assert!(answer.len() < 100, "{name}: at most an alert: {answer:?}");
        assert!(started.elapsed() < Duration::from_secs(5), "{name}");
        served();
    }
    for mut peer in silent {
        assert_eq!(peer.rest(), b"");
    }
    assert!(!gateway.output().contains("panicked"), "{}", gateway.output());
}

#[test]
fn plain_http_on_the_tls_port_is_told_what_to_do() {
    let (gateway, _) = tls_gateway("");
    let rows: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST / HTTP/1.1\r\n\r\n",
        b"G",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    for bytes in rows {
        let reply = ask(gateway.address(), bytes);
        assert_eq!(reply.status(), 400, "{reply:?}");
        assert!(reply.text().contains("wss://"), "{reply:?}");
    }
    eventually("all are logged", || gateway.output().matches("reason=\"plain_http\" status=400").count() == 4);
}

/// One line for each refused handshake, whatever stands in it, and nothing that a terminal would obey.
#[test]
fn values_from_outside_cannot_forge_a_log_line() {
    let (upstream, _) = agreeing();
    for format in ["human", "json"] {
        let text = config(upstream, "path = \"/app\"", &format!("{NO_LIMITS}[log]\nformat = \"{format}\"\n"));
        let gateway = Gateway::start(&text);
        // ESC and the C1 controls, a mark that turns the direction of writing, quotes, what JSON ends with.
        let evil = "\u{9b}31m\u{85}\u{202e}\u{2066}\u{2028}\"}\\n{\"reason\":\"forged\" status=200";
        let rows = [
            Head::new("/app").with(&format!("Origin: http://{evil}")),
            Head::new("/app").set(&format!("Host: {evil}")),
            Head::new("/app").with("Origin: a\tb"),
            Head::new(&format!("/{}", evil.replace(' ', ""))),
            Head::new("/%0a%1b%5b31m"),
            Head::new("/nothing").with(&format!("User-Agent: {evil}")).with(&format!("Referer: {evil}")),
            Head::new("/nothing?token=secret"),
            Head::new("/app").line("GET /app\u{1b}[31m HTTP/1.1"),
            Head::new("/app").with("X: \u{1b}[31m"),
            Head::new("/app").with("Origin: http://x\ny: reason=forged"),
        ];
        let count = rows.len();
        for head in rows {
            let reply = head.ask(gateway.address());
            assert!((400..500).contains(&reply.status()), "{reply:?}");
        }
        eventually("all are logged", || gateway.output().lines().filter(|l| l.contains("refused")).count() >= count);
        let output = gateway.output();
        let log: Vec<&str> = output.lines().filter(|line| line.contains("refused")).collect();
        assert_eq!(log.len(), count, "{output}");
        let odd = |c: char| {
            c.is_control()
                || ('\u{202a}'..='\u{202e}').contains(&c)
                || ('\u{2066}'..='\u{2069}').contains(&c)
                || c == '\u{2028}'
        };
        for line in log {
            assert!(!line.contains(odd), "{format}: {line:?}");
            assert!(!line.contains("secret"), "{format}: {line}");
            if format == "json" {
                let record: serde_json::Value = serde_json::from_str(line).expect("one object");
                assert_ne!(record["reason"], "forged");
                assert_ne!(record["status"], 200);
            }
            assert!(line.len() < 1200, "{format}: {line}");
        }
    }
}

#[test]
fn a_log_line_stays_short() {
    let (upstream, _) = agreeing();
    let gateway = Gateway::start(&config(upstream, "host = \"localhost\"", NO_LIMITS));
    let long = "x".repeat(5000);
    let head = Head::new(&format!("/{long}")).set(&format!("Host: {long}")).with(&format!("Origin: http://{long}"));
    assert_eq!(head.ask(gateway.address()).status(), 400);
    let record = gateway.log("refused");
    assert!(record.len() < 1200, "{} bytes", record.len());
}

#[test]
fn accepting_recovers_when_no_descriptor_was_left() {
    let gateway = Gateway::start_with_descriptors(&config(echo(), "", NO_LIMITS), 64);
    let address = gateway.address();
    honest(address);
    let held: Vec<Peer> = (0..150).map(|_| Peer::connect(address)).collect();
    gateway.log("cannot accept connections");
    let before = gateway.processor_time();
    thread::sleep(Duration::from_secs(2));
    let used = gateway.processor_time().saturating_sub(before);
    assert!(used < Duration::from_millis(500), "{used:?} of processor time while nothing could be done");
    // Places come and go meanwhile; that is no news.
    drop(held);
    for _ in 0..20 {
        honest(address);
    }
    assert_eq!(gateway.output().matches("cannot accept connections").count(), 1, "{}", gateway.output());
}

#[test]
fn without_descriptors_for_upstreams_sessions_are_refused_not_lost() {
    let gateway = Gateway::start_with_descriptors(&config(echo(), "", NO_LIMITS), 64);
    let address = gateway.address();
    let mut open = Vec::new();
    let mut refused = 0;
    for _ in 0..40 {
        let mut peer = Peer::connect(address);
        peer.write(request("/", "").as_bytes());
        peer.stream().set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        match peer.within(Duration::from_millis(500)) {
            head if head.starts_with(b"HTTP/1.1 101") => open.push(peer),
            head if head.starts_with(b"HTTP/1.1 502") => refused += 1,
            // Not accepted yet.
            head if head.is_empty() => break,
            head => panic!("{}", String::from_utf8_lossy(&head)),
        }
    }
    assert!(open.len() > 10, "{} open, {refused} refused", open.len());
    drop(open);
    eventually("served again", || {
        let mut peer = Peer::connect(address);
        peer.write(request("/", "").as_bytes());
        peer.within(Duration::from_secs(1)).starts_with(b"HTTP/1.1 101")
    });
}
