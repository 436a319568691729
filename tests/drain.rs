//! How the gateway empties itself: the pace and the phases over paused time, then whole drains with the real binary.
//!
//! `cargo test --release --test drain -- two_thousand --nocapture` prints the figures of a drain of 2,000 clients.

mod support;

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use support::PATIENCE;
use support::client::{BINARY, CLOSE, PING, PONG, Peer, TEXT, close_payload, header, masked, request, unmasked};
use support::gateway::{Gateway, config};
use support::servers::{self, Process};
use support::upstream::{scripted, switching};
use tidegate::config::model::Drain as Rules;
use tidegate::drain::Drain;
use tidegate::relay::Cause;
use tidegate::relay::registry::{About, Entry, Order, Selector};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

// ---- The pace and the phases, over paused time ----

fn rules(delay: u64, window: u64, grace: u64) -> Rules {
    let [delay, window, grace] = [delay, window, grace].map(Duration::from_secs);
    Rules { delay, window, grace }
}

fn enter(drain: &Drain, route: &str, server: &str, client: [u8; 4]) -> Entry {
    let sessions = drain.sessions();
    let client = std::net::IpAddr::from(client).into();
    let way = sessions.way("listener", route, "upstream", server);
    sessions.enter(About { client, way, ..support::about(sessions) })
}

/// A session that leaves as soon as it is told to: what it was told, and when.
async fn obedient(entry: Entry) -> (Order, Instant) {
    let order = poll_fn(|cx| {
        entry.watch(cx.waker());
        entry.ordered().map_or(Poll::Pending, Poll::Ready)
    });
    (order.await, Instant::now())
}

/// One that is in the midst of something, and leaves only when it is cut.
async fn stubborn(entry: Entry) -> (Order, Instant) {
    let order = poll_fn(|cx| {
        entry.watch(cx.waker());
        entry.ordered().filter(|order| order.cut).map_or(Poll::Pending, Poll::Ready)
    });
    (order.await, Instant::now())
}

#[tokio::test(start_paused = true)]
async fn sessions_are_closed_at_an_even_pace() {
    let drain = Drain::new(usize::MAX);
    let mut sessions: JoinSet<_> = (0..2000).map(|_| obedient(enter(&drain, "a", "s", [1; 4]))).collect();
    let began = Instant::now();
    assert_eq!(drain.stop(&rules(0, 10, 30)).await, 0);
    assert!(began.elapsed() >= Duration::from_secs(9) && began.elapsed() < Duration::from_secs(11));
    let mut closed = [0; 20];
    let mut retries = HashMap::<u16, usize>::new();
    while let Some(told) = sessions.join_next().await {
        let (order, at) = told.expect("no panic");
        assert_eq!((order.cause, order.patience, order.cut), (Cause::Drain, Duration::from_secs(30), false));
        closed[((at - began).as_millis() / 500).min(19) as usize] += 1;
        *retries.entry(order.retry_after).or_default() += 1;
    }
    assert!(closed.iter().all(|closed| (95..=105).contains(closed)), "{closed:?}");
    assert!(retries.keys().all(|seconds| (1..=10).contains(seconds)), "{retries:?}");
    assert!(retries.len() == 10 && retries.values().all(|clients| (100..=300).contains(clients)), "{retries:?}");
}

#[tokio::test(start_paused = true)]
async fn clients_come_back_over_as_long_a_time_as_they_left_in() {
    let drain = Drain::new(usize::MAX);
    let sessions: JoinSet<_> = (0..400).map(|_| obedient(enter(&drain, "a", "s", [1; 4]))).collect();
    assert_eq!(drain.stop(&rules(0, 1200, 30)).await, 0);
    let retries = Vec::from_iter(sessions.join_all().await.into_iter().map(|(order, _)| order.retry_after));
    assert!(retries.iter().all(|seconds| (1..=1200).contains(seconds)), "{retries:?}");
    assert!(
        retries.iter().any(|seconds| *seconds < 300) && retries.iter().any(|seconds| *seconds > 900),
        "{retries:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_few_sessions_do_not_take_the_whole_window() {
    for (sessions, most) in [(0, 50), (1, 200), (10, 1100)] {
        let drain = Drain::new(usize::MAX);
        let sessions: JoinSet<_> = (0..sessions).map(|_| obedient(enter(&drain, "a", "s", [1; 4]))).collect();
        let began = Instant::now();
        assert_eq!(drain.stop(&rules(0, 60, 30)).await, 0);
        assert!(began.elapsed() < Duration::from_millis(most), "{:?}", began.elapsed());
        sessions.join_all().await;
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_not_ready_at_once_and_serves_on_for_the_delay() {
    let drain = Drain::new(usize::MAX);
    let session = tokio::spawn(obedient(enter(&drain, "a", "s", [1; 4])));
    assert!(drain.ready());
    let stopping = tokio::spawn({
        let drain = drain.clone();
        async move { drain.stop(&rules(5, 10, 30)).await }
    });
    sleep(Duration::from_secs(4)).await;
    assert!(!drain.ready() && !drain.has_begun() && !session.is_finished());
    sleep(Duration::from_millis(1001)).await;
    assert!(drain.has_begun());
    assert_eq!(session.await.expect("no panic").0.cause, Cause::Drain);
    assert_eq!(stopping.await.expect("no panic"), 0);
    let late = obedient(enter(&drain, "a", "s", [1; 4])).await;
    assert_eq!(late.0.cause, Cause::Drain, "one whose handshake was under way");
}

#[tokio::test(start_paused = true)]
async fn what_is_left_after_the_grace_is_cut_and_counted() {
    let drain = Drain::new(usize::MAX);
    let good: JoinSet<_> = (0..7).map(|_| obedient(enter(&drain, "a", "s", [1; 4]))).collect();
    let bad: JoinSet<_> = (0..3).map(|_| stubborn(enter(&drain, "a", "s", [1; 4]))).collect();
    let began = Instant::now();
    assert_eq!(drain.empty(&rules(2, 1, 5)).await, 3);
    assert!(began.elapsed() >= Duration::from_millis(7900) && began.elapsed() < Duration::from_millis(8200));
    assert!(good.join_all().await.iter().all(|(order, _)| !order.cut));
    assert!(bad.join_all().await.iter().all(|(order, _)| order.cut && order.cause == Cause::Drain));
    let again = Instant::now();
    assert_eq!(drain.stop(&rules(2, 1, 5)).await, 0);
    assert!(again.elapsed() < Duration::from_millis(50), "who was emptied need not wait again");
}

#[tokio::test(start_paused = true)]
async fn a_part_is_closed_and_the_rest_stays() {
    let text = |text: &str| Some(text.to_owned());
    let all = Selector::default;
    let client = Some("10.0.0.0/8".parse().expect("a network"));
    let table = [
        ("a route", Selector { route: text("b"), ..all() }, Cause::RouteRemoved, [false, true, false, false]),
        ("a server", Selector { server: text("t"), ..all() }, Cause::Drain, [false, false, true, false]),
        ("a client", Selector { client, ..all() }, Cause::Drain, [false, false, false, true]),
        ("nobody", Selector { id: Some(99), ..all() }, Cause::Drain, [false; 4]),
    ];
    for (name, selector, cause, expected) in table {
        let drain = Drain::new(usize::MAX);
        let ways = [("a", "s", [1; 4]), ("b", "s", [1; 4]), ("a", "t", [1; 4]), ("a", "s", [10, 1, 1, 1])];
        let sessions = ways.map(|(route, server, client)| tokio::spawn(obedient(enter(&drain, route, server, client))));
        assert_eq!(drain.close(&selector, cause, &rules(5, 1, 5)).await, 0);
        assert_eq!(sessions.each_ref().map(|session| session.is_finished()), expected, "{name}");
        assert!(drain.ready() && !drain.has_begun(), "{name}");
        for (session, _) in sessions.into_iter().zip(expected).filter(|(_, told)| *told) {
            let (order, _) = session.await.expect("no panic");
            assert_eq!((order.cause, order.retry_after), (cause, u16::from(cause == Cause::Drain)), "{name}");
        }
    }
}

// ---- Whole drains ----

const LIMITS: &str = "[limits]\nsessions_per_client = \"off\"\nhandshakes_per_client = \"off\"\n\
                      [log]\nformat = \"json\"\n";

fn gateway(upstream: SocketAddr, route: &str, drain: &str) -> Gateway {
    Gateway::start(&config(upstream, route, &format!("{LIMITS}[drain]\n{drain}\n")))
}

/// So many clients as there are descriptors for: two for each here, and two in the gateway.
fn clients(wanted: usize) -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("Linux");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    let max = line.split_whitespace().nth(3).and_then(|max| max.parse().ok()).unwrap_or(usize::MAX);
    let clients = wanted.min(max.saturating_sub(300) / 2);
    println!("{clients} clients, {max} descriptors");
    clients
}

/// What the end records say, as pairs of a key and how often it had a value.
fn records(gateway: &Gateway, key: &str) -> HashMap<String, usize> {
    let mut found = HashMap::new();
    for line in gateway.output().lines().filter(|line| line.contains("\"session ended\"")) {
        let record: serde_json::Value = serde_json::from_str(line).expect("JSON");
        *found.entry(record[key].to_string().trim_matches('"').to_owned()).or_default() += 1;
    }
    found
}

/// An upstream that echoes, answers a Close, and notes what else it hears.
async fn echo() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let told = Arc::new(AtomicUsize::new(0));
    let count = told.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let told = count.clone();
            tokio::spawn(async move {
                let mut wire = Wire { stream, read: Vec::new() };
                let head = wire.head().await;
                wire.stream.write_all(switching(&head, "").as_bytes()).await.expect("it is written");
                while let Some((opcode, payload)) = wire.frame().await {
                    let answer = if opcode == PING { PONG } else { opcode };
                    let _ = wire.stream.write_all(&unmasked(answer, &payload)).await;
                    if opcode == CLOSE {
                        assert_eq!(payload[..2], 1001_u16.to_be_bytes());
                        told.fetch_add(1, Ordering::SeqCst);
                        break;
                    }
                }
            });
        }
    });
    (address, told)
}

/// A connection that is read frame by frame.
struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    async fn open(address: SocketAddr) -> Wire {
        let mut wire = Wire { stream: TcpStream::connect(address).await.expect("it listens"), read: Vec::new() };
        wire.stream.write_all(request("/", "").as_bytes()).await.expect("it is written");
        let head = wire.head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        wire
    }

    async fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                return String::from_utf8(self.read.drain(..end + 4).collect()).expect("UTF-8");
            }
            assert!(self.more().await, "the stream ended within a head");
        }
    }

    /// The next frame, unmasked, or `None` at the end of the stream between two frames.
    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let [first, second, rest @ ..] = &self.read[..] {
                let (mask, length) = (second & 0x80 != 0, usize::from(second & 0x7f));
                assert!(length <= 125, "only short frames here");
                let front = if mask { 4 } else { 0 };
                if rest.len() >= front + length {
                    let opcode = first & 15;
                    let payload = rest[front..front + length].iter().enumerate();
                    let payload = payload.map(|(at, byte)| if mask { byte ^ rest[at % 4] } else { *byte }).collect();
                    self.read.drain(..2 + front + length);
                    return Some((opcode, payload));
                }
            }
            if !self.more().await {
                assert!(self.read.is_empty(), "the stream ended within a frame");
                return None;
            }
        }
    }

    async fn more(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.read).await, Ok(1..))
    }

    /// Echoes messages until a Close comes, answers it, and reads to the end. The Close, and when it came.
    async fn leaves(mut self, pause: Duration) -> (u16, String, Instant) {
        // An echo may be late: the next message does not wait for it.
        let (mut number, mut heard) = (0_u64, 0_u64);
        loop {
            match timeout(pause, self.frame()).await {
                Err(_) => {
                    number += 1;
                    let _ = self.stream.write_all(&masked(BINARY, &number.to_be_bytes())).await;
                }
                Ok(Some((PING, payload))) => _ = self.stream.write_all(&masked(PONG, &payload)).await,
                Ok(Some((BINARY, payload))) => {
                    heard += 1;
                    assert_eq!(payload, heard.to_be_bytes(), "each echo once, in order");
                }
                Ok(Some((CLOSE, payload))) => {
                    let at = Instant::now();
                    let _ = self.stream.write_all(&masked(CLOSE, &payload[..2])).await;
                    assert_eq!(self.frame().await, None, "nothing behind the Close");
                    let reason = String::from_utf8(payload[2..].to_vec()).expect("UTF-8");
                    return (u16::from_be_bytes([payload[0], payload[1]]), reason, at);
                }
                Ok(other) => panic!("a Close or an echo, not {other:?}"),
            }
        }
    }
}

/// The seconds of `retry-after=8s`.
fn seconds(reason: &str) -> u64 {
    let number = reason.strip_prefix("retry-after=").and_then(|rest| rest.strip_suffix('s'));
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no such reason: {reason:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_clients_leave_over_ten_seconds() {
    let count = clients(2000);
    let (upstream, told) = echo().await;
    let mut gateway = gateway(upstream, "", "window = \"10s\"");
    let mut clients = JoinSet::new();
    for number in 0..count {
        // Some talk all the time.
        let pause = if number % 8 == 0 { Duration::from_millis(500) } else { PATIENCE * 10 };
        clients.spawn(Wire::open(gateway.address()).await.leaves(pause));
    }
    let began = Instant::now();
    gateway.signal("TERM");
    let mut bins = [0_usize; 20];
    let mut last = Duration::ZERO;
    let mut retries = HashMap::<u64, usize>::new();
    while let Some(left) = clients.join_next().await {
        let (code, reason, at) = left.expect("no panic");
        assert_eq!(code, 1012);
        *retries.entry(seconds(&reason)).or_default() += 1;
        bins[((at - began).as_millis() / 500).min(19) as usize] += 1;
        last = last.max(at - began);
    }
    assert!(gateway.wait().success());
    let flat = count / 20;
    println!("closes in each half second, {flat} if flat: {bins:?}; the last after {last:?}");
    println!("clients asked to come back after so many seconds: {retries:?}");
    assert!(bins.iter().all(|bin| bin.abs_diff(flat) * 10 <= 3 * flat), "within 30 % of {flat}: {bins:?}");
    assert!(retries.len() == 10 && retries.keys().all(|seconds| (1..=10).contains(seconds)), "{retries:?}");
    assert_eq!(told.load(Ordering::SeqCst), count, "each upstream side got its 1001");
    assert_eq!(records(&gateway, "cause"), HashMap::from([("drain".to_owned(), count)]));
    assert_eq!(records(&gateway, "close_from_client"), HashMap::from([("1012".to_owned(), count)]));
    assert_eq!(records(&gateway, "close_from_upstream"), HashMap::from([("1001".to_owned(), count)]));
}

/// Clients that never answer the Close, that read nothing while much is sent to them, and those in the midst of a
/// message of 100 MiB, each way.
#[test]
fn nobody_is_forgotten_and_a_large_message_is_delivered_whole() {
    const MESSAGE: usize = 100 << 20;
    const EACH: usize = 20;
    let (upstream, connections) = scripted();
    let route = "close_timeout = \"1s\"\nslow_timeout = \"off\"\nheartbeat = \"off\"\nframe_bytes_max = \"1GiB\"\n\
                 message_bytes_max = \"1GiB\"";
    let mut gateway = gateway(upstream, route, "window = \"1s\"\ngrace = \"15s\"");
    let open = || (Peer::open(gateway.address(), "/"), connections.recv_timeout(PATIENCE).expect("a connection").0);
    let mut polite: Vec<_> = (0..EACH).map(|_| open()).collect();
    let mut silent: Vec<_> = (0..EACH).map(|_| open()).collect();
    let deaf: Vec<_> = (0..EACH)
        .map(|_| {
            let (client, mut server) = open();
            server.stream().set_write_timeout(Some(Duration::from_millis(50))).expect("a timeout");
            while server.try_write(&unmasked(BINARY, &[7; 60_000])).is_ok() {}
            (client, server)
        })
        .collect();
    let (mut uploader, mut receiver) = open();
    let (mut downloader, mut sender) = open();
    let payload = vec![7; MESSAGE / 2];
    let taken = std::thread::spawn(move || {
        let bytes = receiver.bytes(14 + MESSAGE).len();
        (receiver, bytes)
    });
    let got = std::thread::spawn(move || {
        let bytes = downloader.bytes(10 + MESSAGE).len();
        (downloader, bytes)
    });
    uploader.write(&header(0x80 | BINARY, true, MESSAGE as u64));
    uploader.write(&[1, 2, 3, 4]);
    sender.write(&header(0x80 | BINARY, false, MESSAGE as u64));
    uploader.write(&payload);
    sender.write(&payload);

    gateway.signal("TERM");
    for (client, server) in &mut polite {
        assert_eq!(client.frame().close(), (1012, "retry-after=1s".to_owned()));
        client.write(&masked(TEXT, b"on its way"));
        client.write(&masked(CLOSE, &close_payload(1012, "")));
        assert_eq!(server.frame().payload, b"on its way");
        assert_eq!(server.frame().close().0, 1001);
        server.write(&unmasked(CLOSE, &close_payload(1001, "")));
        server.finish();
    }
    for (client, server) in &mut silent {
        assert_eq!(client.frame().close().0, 1012);
        assert_eq!(server.frame().close().0, 1001, "without the client's answer");
    }
    // The window is over: both were told, and wait for the end of their messages.
    uploader.write(&payload);
    sender.write(&payload);
    let (mut receiver, bytes) = taken.join().expect("no panic");
    assert_eq!(bytes, 14 + MESSAGE);
    let (mut downloader, bytes) = got.join().expect("no panic");
    assert_eq!(bytes, 10 + MESSAGE);
    for (client, server) in [(&mut uploader, &mut receiver), (&mut downloader, &mut sender)] {
        assert_eq!(client.frame().close().0, 1012);
        client.write(&masked(CLOSE, &close_payload(1012, "")));
        assert_eq!(server.frame().close().0, 1001);
        server.write(&unmasked(CLOSE, &close_payload(1001, "")));
        server.finish();
    }
    assert!(gateway.wait().success());
    let all = 3 * EACH + 2;
    assert_eq!(records(&gateway, "cause"), HashMap::from([("drain".to_owned(), all)]));
    let told = HashMap::from([("1012".to_owned(), 2 * EACH + 2), ("null".to_owned(), EACH)]);
    assert_eq!(records(&gateway, "close_to_client"), told, "no record claims a Close that was never written");
    drop(deaf);
}

#[test]
fn messages_that_wait_for_their_turn_are_delivered() {
    let (upstream, connections) = scripted();
    let route = "close_timeout = \"500ms\"\nlimits = { messages_per_session = \"4/s\" }";
    let mut gateway = gateway(upstream, route, "window = \"0s\"\ngrace = \"30s\"");
    let mut client = Peer::open(gateway.address(), "/");
    let (mut server, _) = connections.recv_timeout(PATIENCE).expect("a connection");
    for number in 0..12 {
        client.write(&masked(BINARY, &[number]));
    }
    assert_eq!(server.frame().payload, [0]);
    gateway.signal("TERM");
    assert_eq!(client.frame().close().0, 1012);
    client.write(&masked(CLOSE, &close_payload(1012, "")));
    for number in 1..12 {
        assert_eq!(server.frame().payload, [number]);
    }
    assert_eq!(server.frame().close().0, 1001);
    server.write(&unmasked(CLOSE, &close_payload(1001, "")));
    server.finish();
    assert!(gateway.wait().success());
    assert_eq!(records(&gateway, "messages_from_client"), HashMap::from([("12".to_owned(), 1)]));
    assert_eq!(records(&gateway, "detail"), HashMap::from([("null".to_owned(), 1)]));
}

#[test]
fn what_is_cut_is_counted_and_leaves_its_record() {
    let (upstream, connections) = scripted();
    let mut gateway = gateway(upstream, "close_timeout = \"1m\"", "window = \"0s\"\ngrace = \"500ms\"");
    let mut peers: Vec<_> =
        (0..10).map(|_| (Peer::open(gateway.address(), "/"), connections.recv_timeout(PATIENCE))).collect();
    peers[0].0.write(&masked(TEXT, b"half of it")[..8]);
    gateway.signal("TERM");
    assert!(gateway.wait().success());
    assert!(gateway.log("sessions were cut").contains("\"sessions\":10"));
    assert_eq!(records(&gateway, "cause"), HashMap::from([("drain".to_owned(), 10)]));
    assert_eq!(records(&gateway, "detail"), HashMap::from([("cut: `drain.grace` was over".to_owned(), 10)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstreams_that_are_killed_meanwhile_do_not_hold_it_up() {
    let backend = Process::start(servers::any());
    let mut gateway = gateway(backend.address, "", "window = \"3s\"");
    let mut clients = JoinSet::new();
    for _ in 0..100 {
        clients.spawn(Wire::open(gateway.address()).await.leaves(Duration::from_millis(300)));
    }
    gateway.signal("TERM");
    let mut codes = HashMap::<u16, usize>::new();
    let mut backend = Some(backend);
    while let Some(left) = clients.join_next().await {
        *codes.entry(left.expect("no panic").0).or_default() += 1;
        if codes.values().sum::<usize>() == 20 {
            backend.take();
        }
    }
    assert!(gateway.wait().success());
    assert!(codes[&1012] >= 20 && codes[&1011] > 0 && codes.len() == 2, "{codes:?}");
    let causes = records(&gateway, "cause");
    assert_eq!(causes.values().sum::<usize>(), 100, "{causes:?}");
}

#[test]
fn new_clients_are_served_in_the_delay_and_refused_in_the_window() {
    let (upstream, connections) = scripted();
    let mut gateway = gateway(upstream, "http = true", "delay = \"2s\"\nwindow = \"10s\"");
    let address = gateway.address();
    let mut sessions: Vec<_> = (0..20)
        .map(|_| (Peer::open(address, "/"), connections.recv_timeout(PATIENCE).expect("a connection").0))
        .collect();
    // It has connected, and not said what it wants.
    let early = Peer::connect(address);
    gateway.signal("TERM");
    gateway.log("stopping");
    sessions.push((Peer::open(address, "/"), connections.recv_timeout(PATIENCE).expect("served as before").0));
    gateway.log("closing sessions");
    let late = Peer::connect(address);
    for mut peer in [late, early] {
        peer.write(request("/", "").as_bytes());
        let head = peer.head().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 503 "), "{head}");
        assert!(head.contains("\r\nretry-after: ") && head.contains("\r\nconnection: close\r\n"), "{head}");
    }
    for (client, server) in &mut sessions {
        assert_eq!(client.frame().close().0, 1012);
        client.write(&masked(CLOSE, &close_payload(1012, "")));
        assert_eq!(server.frame().close().0, 1001);
        server.write(&unmasked(CLOSE, &close_payload(1001, "")));
        server.finish();
    }
    assert!(gateway.wait().success());
}
