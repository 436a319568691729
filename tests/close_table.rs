//! The close table, row by row, with the real binary: what the client, the upstream and the log are told.
//!
//! Rows whose trigger this version does not have (revoked access, overload, removed routes) are in relay.rs, where the order
//! to end comes through the registry. Below the table: upstreams that misbehave, by name.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use serde_json::Value;

mod support;

use support::PATIENCE;
use support::client::{BINARY, CLOSE, Frame, PING, PONG, Peer, TEXT, close_payload, header, masked, request, unmasked};
use support::gateway::{Gateway, config};
use support::upstream::{scripted, serve, switching};

/// An open session, both peers of which the test plays.
struct Row {
    gateway: Gateway,
    client: Peer,
    upstream: Peer,
}

/// What the record says: to and from the client, to and from the upstream.
type Codes = [Option<u64>; 4];

const JSON: &str = "[log]\nformat = \"json\"\n";
const CONTINUATION: u8 = 0;

impl Row {
    /// `route` are lines of the route's, `tables` further tables.
    fn open(route: &str, tables: &str) -> Row {
        let (address, arrivals) = scripted();
        let gateway = Gateway::start(&config(address, route, &format!("{JSON}\n{tables}")));
        let client = Peer::open(gateway.address(), "/");
        let (upstream, _) = arrivals.recv_timeout(PATIENCE).expect("the upstream is dialled");
        Row { gateway, client, upstream }
    }

    /// The client hears a Close, answers it, and its stream ends.
    fn client_is_told(&mut self, code: u16, reason: &str) {
        told(&mut self.client, code, reason);
        self.client.write(&masked(CLOSE, &close_payload(code, "")));
        assert_eq!(self.client.next_frame(), None, "nothing behind the Close");
    }

    /// The upstream hears a Close, answers it, and ends the connection, as servers do.
    fn upstream_is_told(&mut self, code: u16, reason: &str) {
        told(&mut self.upstream, code, reason);
        self.upstream.write(&unmasked(CLOSE, &close_payload(code, "")));
        self.upstream.finish();
        assert_eq!(self.upstream.next_frame(), None, "nothing behind the Close");
    }

    /// The culprit hears a Close behind which its stream ends; what it says is not heard any more.
    fn culprit_is_told(culprit: &mut Peer, code: u16, reason: &str) {
        told(culprit, code, reason);
        assert_eq!(culprit.next_frame(), None, "nothing behind the Close");
        culprit.finish();
    }

    fn record(&self, cause: &str, side: &str, codes: Codes) -> Value {
        record(&self.gateway, cause, side, codes)
    }
}

fn record(gateway: &Gateway, cause: &str, side: &str, codes: Codes) -> Value {
    let record: Value = serde_json::from_str(&gateway.end_record()).expect("one line of JSON");
    assert_eq!((record["cause"].as_str(), record["side"].as_str()), (Some(cause), Some(side)), "{record}");
    let names = ["close_to_client", "close_from_client", "close_to_upstream", "close_from_upstream"];
    assert_eq!(names.map(|name| record[name].as_u64()), codes, "{record}");
    record
}

fn told(peer: &mut Peer, code: u16, reason: &str) {
    assert_eq!(peer.frame().close(), (code, reason.to_owned()));
}

/// Answers pings until a Close comes; the Close.
fn alive_until_close(peer: &mut Peer, mask: bool) -> Frame {
    loop {
        let frame = peer.frame();
        match frame.opcode {
            PING if mask => peer.write(&masked(PONG, &frame.payload)),
            PING => peer.write(&unmasked(PONG, &frame.payload)),
            CLOSE => return frame,
            _ => {}
        }
    }
}

// ---- client_closed, upstream_closed ----

#[test]
fn client_closed() {
    for (code, reason) in [(1000, "bye"), (3000, ""), (4999, "é")] {
        let mut row = Row::open("", "");
        row.client.write(&masked(CLOSE, &close_payload(code, reason)));
        told(&mut row.upstream, code, reason);
        row.upstream.write(&unmasked(CLOSE, &close_payload(4321, "the upstream's own")));
        row.upstream.finish();
        told(&mut row.client, 4321, "the upstream's own");
        assert_eq!(row.client.next_frame(), None, "the server ends the connection");
        row.client.finish();
        let code = u64::from(code);
        row.record("client_closed", "client", [Some(4321), Some(code), Some(code), Some(4321)]);
    }
}

#[test]
fn upstream_closed() {
    for (code, reason) in [(1001, "restart"), (3999, "kicked")] {
        let mut row = Row::open("", "");
        row.upstream.write(&unmasked(CLOSE, &close_payload(code, reason)));
        told(&mut row.client, code, reason);
        row.client.write(&masked(CLOSE, &close_payload(1000, "")));
        told(&mut row.upstream, 1000, "");
        row.upstream.finish();
        assert_eq!(row.client.next_frame(), None);
        row.client.finish();
        let code = u64::from(code);
        row.record("upstream_closed", "upstream", [Some(code), Some(1000), Some(1000), Some(code)]);
    }
}

#[test]
fn a_close_without_a_code_stays_without() {
    let mut row = Row::open("", "");
    row.client.write(&masked(CLOSE, b""));
    let frame = row.upstream.frame();
    assert_eq!((frame.opcode, frame.payload.len(), frame.masked), (CLOSE, 0, true));
    row.upstream.write(&unmasked(CLOSE, b""));
    row.upstream.finish();
    assert_eq!(row.client.frame().payload, b"");
    row.client.finish();
    row.record("client_closed", "client", [Some(1005); 4]);
}

#[test]
fn client_closed_and_the_upstream_just_hangs_up() {
    let mut row = Row::open("", "");
    row.client.write(&masked(CLOSE, &close_payload(1000, "bye")));
    told(&mut row.upstream, 1000, "bye");
    drop(row.upstream);
    told(&mut row.client, 1000, "");
    assert_eq!(row.client.next_frame(), None);
    row.client.finish();
    record(&row.gateway, "client_closed", "client", [Some(1000), Some(1000), Some(1000), None]);
}

#[test]
fn upstream_closed_and_the_client_just_hangs_up() {
    let mut row = Row::open("", "");
    row.upstream.write(&unmasked(CLOSE, &close_payload(4000, "bye")));
    told(&mut row.client, 4000, "bye");
    drop(row.client);
    told(&mut row.upstream, 4000, "");
    row.upstream.finish();
    record(&row.gateway, "upstream_closed", "upstream", [Some(4000), None, Some(4000), Some(4000)]);
}

// ---- client_lost, upstream_lost ----

#[test]
fn client_lost_by_a_reset() {
    let mut row = Row::open("", "");
    row.client.reset();
    told(&mut row.upstream, 1001, "client left");
    row.upstream.write(&unmasked(CLOSE, &close_payload(1001, "")));
    row.upstream.finish();
    assert_eq!(row.upstream.next_frame(), None);
    let record = record(&row.gateway, "client_lost", "client", [None, None, Some(1001), Some(1001)]);
    assert_eq!(record["detail"], "connection reset");
}

#[test]
fn client_lost_by_its_end_without_a_close() {
    let mut row = Row::open("", "");
    row.client.finish();
    row.upstream_is_told(1001, "client left");
    assert_eq!(row.client.rest(), b"", "the client is told nothing");
    let record = row.record("client_lost", "client", [None, None, Some(1001), Some(1001)]);
    assert_eq!(record["detail"], "end of stream without a Close");
}

#[test]
fn client_lost_by_its_heartbeat() {
    let mut row = Row::open("heartbeat = { interval = \"1s\", timeout = \"900ms\" }", "");
    assert_eq!(alive_until_close(&mut row.upstream, false).close(), (1001, "client left".to_owned()));
    row.upstream.write(&unmasked(CLOSE, &close_payload(1001, "")));
    row.upstream.finish();
    let frame = row.client.frame();
    assert_eq!(frame.opcode, PING);
    assert_eq!(row.client.rest(), b"");
    let record = row.record("client_lost", "client", [None, None, Some(1001), Some(1001)]);
    assert_eq!(record["detail"], "no answer to a ping");
}

#[test]
fn upstream_lost_by_a_reset() {
    let mut row = Row::open("", "");
    row.upstream.reset();
    told(&mut row.client, 1011, "upstream connection lost");
    row.client.write(&masked(CLOSE, &close_payload(1011, "")));
    assert_eq!(row.client.next_frame(), None);
    row.client.finish();
    let record = record(&row.gateway, "upstream_lost", "upstream", [Some(1011), Some(1011), None, None]);
    assert_eq!(record["detail"], "connection reset");
}

#[test]
fn upstream_lost_by_its_end_without_a_close() {
    let mut row = Row::open("", "");
    row.upstream.finish();
    row.client_is_told(1011, "upstream connection lost");
    assert_eq!(row.upstream.rest(), b"", "the upstream is told nothing");
    row.client.finish();
    row.record("upstream_lost", "upstream", [Some(1011), Some(1011), None, None]);
}

#[test]
fn upstream_lost_by_its_heartbeat() {
    let mut row = Row::open("heartbeat = { interval = \"1s\", timeout = \"900ms\" }", "");
    assert_eq!(alive_until_close(&mut row.client, true).close(), (1011, "upstream connection lost".to_owned()));
    row.client.write(&masked(CLOSE, &close_payload(1011, "")));
    assert_eq!(row.client.next_frame(), None);
    row.client.finish();
    let record = row.record("upstream_lost", "upstream", [Some(1011), Some(1011), None, None]);
    assert_eq!(record["detail"], "no answer to a ping");
}

// ---- Broken rules ----

#[test]
fn protocol_error_by_the_client() {
    let mut row = Row::open("", "");
    row.client.write(&unmasked(TEXT, b"not masked"));
    Row::culprit_is_told(&mut row.client, 1002, "protocol error");
    row.upstream_is_told(1001, "client misbehaved");
    let record = row.record("protocol_error", "client", [Some(1002), None, Some(1001), Some(1001)]);
    assert_eq!(record["detail"], "a frame from a client was not masked");
}

#[test]
fn protocol_error_by_the_upstream() {
    let mut row = Row::open("", "");
    row.upstream.write(&[0x83, 0]);
    Row::culprit_is_told(&mut row.upstream, 1002, "protocol error");
    row.client_is_told(1011, "upstream misbehaved");
    row.client.finish();
    let record = row.record("protocol_error", "upstream", [Some(1011), Some(1011), Some(1002), None]);
    assert_eq!(record["detail"], "a frame had the reserved opcode 3");
}

#[test]
fn invalid_payload_by_the_client() {
    let mut row = Row::open("strict = true", "");
    row.client.write(&masked(TEXT, b"\xff"));
    Row::culprit_is_told(&mut row.client, 1007, "payload is not UTF-8");
    row.upstream_is_told(1001, "client misbehaved");
    row.record("invalid_payload", "client", [Some(1007), None, Some(1001), Some(1001)]);
}

#[test]
fn invalid_payload_by_the_upstream() {
    let mut row = Row::open("strict = true", "");
    row.upstream.write(&unmasked(TEXT, b"\xff"));
    Row::culprit_is_told(&mut row.upstream, 1007, "payload is not UTF-8");
    row.client_is_told(1011, "upstream misbehaved");
    row.client.finish();
    row.record("invalid_payload", "upstream", [Some(1011), Some(1011), Some(1007), None]);
}

#[test]
fn text_is_not_looked_at_without_strict() {
    let mut row = Row::open("", "");
    row.client.write(&masked(TEXT, b"\xff"));
    assert_eq!(row.upstream.frame().payload, b"\xff");
}

#[test]
fn frame_too_big_by_the_client() {
    let mut row = Row::open("frame_bytes_max = \"1KiB\"", "");
    row.client.write(&masked(BINARY, &[0; 1024]));
    assert_eq!(row.upstream.frame().payload.len(), 1024, "the limit itself is allowed");
    // The header is enough: nobody waits for 2^62 bytes.
    row.client.write(&header(0x82, true, 1 << 62));
    row.client.write(&[0; 4]);
    Row::culprit_is_told(&mut row.client, 1009, "frame too big");
    row.upstream_is_told(1001, "client misbehaved");
    row.record("frame_too_big", "client", [Some(1009), None, Some(1001), Some(1001)]);
}

#[test]
fn frame_too_big_by_a_client_that_sends_all_of_it_before_it_reads() {
    let mut row = Row::open("frame_bytes_max = \"1KiB\"", "");
    // More than socket buffers hold: were it not read, its writer would be stuck, or the Close lost in a reset.
    row.client.write(&masked(BINARY, &vec![0; 32 << 20]));
    Row::culprit_is_told(&mut row.client, 1009, "frame too big");
    row.upstream_is_told(1001, "client misbehaved");
    row.record("frame_too_big", "client", [Some(1009), None, Some(1001), Some(1001)]);
}

#[test]
fn frame_too_big_by_the_upstream() {
    let mut row = Row::open("frame_bytes_max = \"1KiB\"", "");
    row.upstream.write(&unmasked(BINARY, &[0; 1025]));
    Row::culprit_is_told(&mut row.upstream, 1009, "frame too big");
    row.client_is_told(1011, "upstream misbehaved");
    row.client.finish();
    row.record("frame_too_big", "upstream", [Some(1011), Some(1011), Some(1009), None]);
}

/// Two frames of one message, 1 KiB and one byte.
fn fragments(frame: fn(u8, &[u8]) -> Vec<u8>) -> [Vec<u8>; 2] {
    let mut first = frame(BINARY, &[0; 1024]);
    first[0] &= 0x7f;
    [first, frame(CONTINUATION, b"!")]
}

#[test]
fn message_too_big_by_the_client() {
    let mut row = Row::open("message_bytes_max = \"1KiB\"", "");
    let [first, second] = fragments(masked);
    row.client.write(&first);
    assert_eq!(row.upstream.frame().payload.len(), 1024);
    row.client.write(&second);
    Row::culprit_is_told(&mut row.client, 1009, "message too big");
    row.upstream_is_told(1001, "client misbehaved");
    let record = row.record("message_too_big", "client", [Some(1009), None, Some(1001), Some(1001)]);
    assert_eq!(record["bytes_from_client"], 1024);
}

#[test]
fn message_too_big_by_the_upstream() {
    let mut row = Row::open("message_bytes_max = \"1KiB\"", "");
    let [first, second] = fragments(unmasked);
    row.upstream.write(&first);
    row.upstream.write(&second);
    Row::culprit_is_told(&mut row.upstream, 1009, "message too big");
    assert_eq!(row.client.frame().payload.len(), 1024);
    row.client_is_told(1011, "upstream misbehaved");
    row.client.finish();
    row.record("message_too_big", "upstream", [Some(1011), Some(1011), Some(1009), None]);
}

// ---- rate_limited, slow_consumer ----

/// An hour's rate, so that nothing is raced.
const TWO: &str = "limits = { messages_per_client = \"2/h\", on_excess = \"close\" }";

#[test]
fn rate_limited_by_the_client() {
    let mut row = Row::open(TWO, "");
    for text in ["one", "two", "three"] {
        row.client.write(&masked(TEXT, text.as_bytes()));
    }
    row.upstream.frame();
    assert_eq!(row.upstream.frame().payload, b"two");
    row.upstream_is_told(1001, "session ended by the gateway");
    Row::culprit_is_told(&mut row.client, 1008, "rate limit exceeded");
    let record = row.record("rate_limited", "client", [Some(1008), None, Some(1001), Some(1001)]);
    assert_eq!(record["detail"], "more messages than allowed");
}

#[test]
fn rate_limited_by_the_upstream() {
    let mut row = Row::open("limits = { bytes = \"100B/h\", on_excess = \"close\" }", "");
    row.upstream.write(&unmasked(BINARY, &[1; 98]));
    row.upstream.write(&unmasked(BINARY, &[2; 98]));
    assert_eq!(row.client.frame().payload, [1; 98]);
    assert_eq!(row.client.frame().payload, [2; 98], "what has passed has passed");
    row.client_is_told(1008, "upstream exceeded its rate limit");
    row.client.finish();
    Row::culprit_is_told(&mut row.upstream, 1001, "session ended by the gateway");
    let record = row.record("rate_limited", "upstream", [Some(1008), Some(1008), Some(1001), None]);
    assert_eq!(record["detail"], "more bytes than allowed");
}

#[test]
fn rate_limited_by_pings() {
    let mut row = Row::open("limits = { control_per_session = \"2/h\", on_excess = \"close\" }", "");
    row.client.write(&[masked(PING, b"1"), masked(PING, b"2"), masked(PING, b"3")].concat());
    let mut opcodes = vec![row.client.frame().opcode];
    while let Some(frame) = row.client.next_frame() {
        opcodes.push(frame.opcode);
    }
    assert!(opcodes.starts_with(&[PONG, PONG]) && opcodes.ends_with(&[CLOSE]), "{opcodes:?}");
    row.client.finish();
    row.upstream_is_told(1001, "session ended by the gateway");
    row.record("rate_limited", "client", [Some(1008), None, Some(1001), Some(1001)]);
}

/// Writes messages until nothing more is taken, in a thread of its own.
fn flood(mut peer: Peer, message: Vec<u8>) -> std::thread::JoinHandle<Peer> {
    std::thread::spawn(move || {
        while peer.try_write(&message).is_ok() {}
        peer
    })
}

#[test]
fn slow_consumer_on_the_clients_side() {
    let Row { gateway, client, upstream } = Row::open("slow_timeout = \"300ms\"\nclose_timeout = \"300ms\"", "");
    let flood = flood(upstream, unmasked(BINARY, &[0; 65_000]));
    let record: Value = serde_json::from_str(&gateway.end_record()).expect("one line of JSON");
    assert_eq!((&record["cause"], &record["side"]), (&"slow_consumer".into(), &"client".into()), "{record}");
    assert_eq!(record["close_to_client"], Value::Null, "a client that takes nothing cannot be told");
    drop(client);
    flood.join().expect("the flood ends with the session");
}

#[test]
fn slow_consumer_on_the_upstreams_side() {
    let row = Row::open("slow_timeout = \"300ms\"\nclose_timeout = \"300ms\"", "");
    let Row { gateway, mut client, upstream } = row;
    let other = Peer::new(client.stream().try_clone().expect("a second handle"));
    let flood = flood(other, masked(BINARY, &[0; 65_000]));
    told(&mut client, 1011, "upstream reads too slowly");
    record(&gateway, "slow_consumer", "upstream", [Some(1011), None, None, None]);
    drop(upstream);
    flood.join().expect("the flood ends with the session");
}

// ---- The gateway's own causes ----

#[test]
fn idle() {
    let mut row = Row::open("idle_timeout = \"500ms\"", "");
    row.client.write(&masked(PING, b"no data"));
    assert_eq!(row.client.frame().payload, b"no data");
    row.client_is_told(1001, "idle for too long");
    row.upstream_is_told(1001, "session ended by the gateway");
    row.client.finish();
    row.record("idle", "gateway", [Some(1001); 4]);
}

#[test]
fn max_age() {
    let mut row = Row::open("max_age = \"500ms\"", "");
    row.client_is_told(1012, "session reached its maximum age");
    row.upstream_is_told(1001, "session ended by the gateway");
    row.client.finish();
    row.record("max_age", "gateway", [Some(1012), Some(1012), Some(1001), Some(1001)]);
}

#[test]
fn drain() {
    let mut row = Row::open("", "[drain]\nwindow = \"1s\"\n");
    row.gateway.signal("TERM");
    row.client_is_told(1012, "retry-after=1s");
    row.upstream_is_told(1001, "session ended by the gateway");
    row.client.finish();
    row.record("drain", "gateway", [Some(1012), Some(1012), Some(1001), Some(1001)]);
    assert_eq!(row.gateway.wait().code(), Some(0));
}

#[test]
fn drain_cuts_who_does_not_answer_at_close_timeout() {
    let mut row = Row::open("close_timeout = \"300ms\"", "[drain]\nwindow = \"0s\"\n");
    let began = Instant::now();
    row.gateway.signal("TERM");
    told(&mut row.client, 1012, "retry-after=1s");
    told(&mut row.upstream, 1001, "session ended by the gateway");
    assert_eq!((row.client.next_frame(), row.upstream.next_frame()), (None, None));
    assert_eq!(row.gateway.wait().code(), Some(0));
    assert!(began.elapsed() >= Duration::from_millis(300), "they had their time");
    row.record("drain", "gateway", [Some(1012), None, Some(1001), None]);
}

#[test]
fn drain_cuts_who_does_not_answer_at_grace() {
    let mut row = Row::open("close_timeout = \"60s\"", "[drain]\nwindow = \"0s\"\ngrace = \"300ms\"\n");
    row.gateway.signal("TERM");
    told(&mut row.client, 1012, "retry-after=1s");
    assert_eq!(row.gateway.wait().code(), Some(0));
    row.gateway.log("sessions were cut");
    row.record("drain", "gateway", [Some(1012), None, None, None]);
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut row = Row::open("close_timeout = \"60s\"", "[drain]\nwindow = \"0s\"\ngrace = \"60s\"\n");
    row.gateway.signal("TERM");
    told(&mut row.client, 1012, "retry-after=1s");
    row.gateway.signal("INT");
    // Bounded by the patience of the tests, which is well below a minute.
    row.gateway.wait();
    row.gateway.log("second signal");
}

// ---- Upstreams that misbehave, by name ----

/// A gateway in front of a server that runs `script` for each connection.
fn before(script: impl Fn(Peer) + Send + Sync + 'static, upstream: &str) -> Gateway {
    Gateway::start(&config(serve(script), "", &format!("{upstream}\n{JSON}")))
}

/// The head of the answer to an upgrade.
fn answer(gateway: &Gateway) -> (String, Peer) {
    let mut client = Peer::connect(gateway.address());
    client.write(request("/", "").as_bytes());
    (client.head(), client)
}

#[test]
fn stalls() {
    let gateway = before(
        |mut peer| {
            peer.head();
            peer.rest();
        },
        "handshake_timeout = \"300ms\"",
    );
    let began = Instant::now();
    let (head, _) = answer(&gateway);
    assert!(head.starts_with("HTTP/1.1 504 "), "{head}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn resets() {
    let gateway = before(
        |mut peer| {
            peer.head();
            peer.reset();
        },
        "",
    );
    let (head, _) = answer(&gateway);
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
}

#[test]
fn wrong_accept() {
    let gateway = before(
        |mut peer| {
            peer.head();
            // Right for another key than the client's.
            peer.write(switching("Sec-WebSocket-Key: AQEBAQEBAQEBAQEBAQEBAQ==", "").as_bytes());
            peer.rest();
        },
        "",
    );
    let (head, _) = answer(&gateway);
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
}

#[test]
fn speaks_first() {
    let gateway = before(
        |mut peer| {
            let head = peer.head();
            peer.write(&[switching(&head, "").as_bytes(), &unmasked(TEXT, b"welcome")].concat());
            peer.rest();
        },
        "",
    );
    let mut client = Peer::open(gateway.address(), "/");
    assert_eq!(client.frame().payload, b"welcome");
}

#[test]
fn refuses_with_body() {
    let gateway = before(
        |mut peer| {
            peer.head();
            peer.write(b"HTTP/1.1 403 Forbidden\r\nX-Why: no seat\r\nContent-Length: 12\r\n\r\nnot for you\n");
            peer.rest();
        },
        "",
    );
    let (head, mut client) = answer(&gateway);
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert!(head.to_ascii_lowercase().contains("x-why: no seat\r\n"), "{head}");
    assert_eq!(client.bytes(12), b"not for you\n");
}

#[test]
fn closes_mid_frame() {
    let gateway = before(
        |mut peer| {
            let head = peer.head();
            peer.write(switching(&head, "").as_bytes());
            peer.write(&unmasked(BINARY, &[7; 1000])[..500]);
        },
        "",
    );
    let mut client = Peer::open(gateway.address(), "/");
    assert_eq!(client.rest(), &unmasked(BINARY, &[7; 1000])[..500], "no Close inside the frame: the stream just ends");
    client.finish();
    record(&gateway, "upstream_lost", "upstream", [None; 4]);
}

#[test]
fn masks_its_frames() {
    let (sender, frames) = mpsc::channel();
    let sender = std::sync::Mutex::new(sender);
    let gateway = before(
        move |mut peer| {
            let head = peer.head();
            peer.write(switching(&head, "").as_bytes());
            peer.write(&masked(TEXT, b"masked"));
            let _ = sender.lock().expect("not poisoned").send(peer.frame());
        },
        "",
    );
    let mut client = Peer::open(gateway.address(), "/");
    told(&mut client, 1011, "upstream misbehaved");
    let frame = frames.recv_timeout(PATIENCE).expect("the upstream hears a Close");
    assert_eq!(frame.close(), (1002, "protocol error".to_owned()));
    client.write(&masked(CLOSE, &close_payload(1011, "")));
    assert_eq!(client.next_frame(), None);
    client.finish();
    record(&gateway, "protocol_error", "upstream", [Some(1011), Some(1011), Some(1002), None]);
}

/// Pings until it is told to stop, counted in bytes.
#[derive(Default)]
struct Flood {
    stop: AtomicBool,
    written: AtomicUsize,
}

impl Flood {
    /// Writes them and reads nothing.
    fn run(&self, peer: &mut Peer, ping: &[u8]) {
        let burst = ping.repeat(1000);
        while !self.stop.load(Ordering::Relaxed) && peer.try_write(&burst).is_ok() {
            self.written.fetch_add(burst.len(), Ordering::Relaxed);
        }
    }

    fn stop(&self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.written.load(Ordering::Relaxed)
    }
}

#[test]
fn floods_pings() {
    let (from_upstream, from_client) = (Arc::new(Flood::default()), Arc::new(Flood::default()));
    let flood = from_upstream.clone();
    // The work of every ping, not of the few that pass in time.
    let script = {
        move |mut peer: Peer| {
            let head = peer.head();
            peer.write(switching(&head, "").as_bytes());
            if head.starts_with("GET /flood ") {
                return flood.run(&mut peer, &unmasked(PING, &[b'?'; 125]));
            }
            while let Some(frame) = peer.next_frame().filter(|frame| frame.opcode != CLOSE) {
                peer.write(&unmasked(frame.opcode, &frame.payload));
            }
        }
    };
    let gateway = Gateway::start(&config(serve(script), "limits.control_per_session = \"off\"", JSON));
    let mut honest = Peer::open(gateway.address(), "/");
    let mut echo = |payload: &[u8]| {
        honest.write(&masked(BINARY, payload));
        assert_eq!(honest.frame().payload, payload);
    };
    echo(&[0; 60_000]);
    let before = gateway.resident();
    let _flooded = Peer::open(gateway.address(), "/flood");
    let mut flooder = Peer::open(gateway.address(), "/");
    let by_client = std::thread::spawn({
        let flood = from_client.clone();
        move || flood.run(&mut flooder, &masked(PING, &[b'?'; 125]))
    });
    let (mut largest, began) = (0, Instant::now());
    while began.elapsed() < Duration::from_secs(3) {
        echo(b"still served");
        largest = largest.max(gateway.resident());
    }
    for (side, flood) in [("upstream", &from_upstream), ("client", &from_client)] {
        let written = flood.stop();
        assert!(written > 10 << 20, "the {side}'s was a flood: {written} bytes");
    }
    by_client.join().expect("the flooder ends");
    let growth = largest.saturating_sub(before);
    assert!(growth < 8 << 20, "{growth} bytes more");
}
