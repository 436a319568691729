//! Rates that wait, readers that are slow, and bytes that are held: the relay with paused time, and one run of the binary.
//!
//! The closes that they lead to are in close_table.rs; any frames with any rates are in relay.rs.

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate::config::model::{
    ByteRate, Compression, Heartbeat, OnExcess, PingMode, Rate, RelayRules, RouteRates, Scoped,
};
use tidegate::limits::terms::{Account, Standing, Terms};
use tidegate::policy::client::ClientKey;
use tidegate::relay::end::{Detail, Side};
use tidegate::relay::registry::{Order, Registry};
use tidegate::relay::session::Opened;
use tidegate::relay::{Cause, End, Session};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

#[path = "relay/wire.rs"]
#[allow(dead_code, reason = "relay.rs plays more with it")]
mod wire;

mod support;

use support::PATIENCE;
use support::client::{BINARY, CLOSE, PING, PONG, Peer, TEXT, close_payload, masked, unmasked};
use support::gateway::{Gateway, config};
use support::upstream::{scripted, serve, switching};
use wire::{Take, Wire};

const CONTINUATION: u8 = 0;

fn rules() -> RelayRules {
    RelayRules {
        heartbeat: None,
        idle_timeout: None,
        max_age: None,
        frame_timeout: seconds(60),
        slow_timeout: None,
        close_timeout: seconds(5),
        frame_bytes_max: u64::MAX,
        message_bytes_max: u64::MAX,
        fragments_max: None,
        ping: PingMode::Answer,
        compression: Compression::Pass,
        strict: false,
        control_per_session: None,
        on_excess: OnExcess::Delay,
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn rate(count: u32, per: Duration) -> Option<Rate> {
    Some(Rate { count: NonZeroU32::new(count).expect("not zero"), per })
}

fn byte_rate(bytes: u64) -> Option<ByteRate> {
    Some(ByteRate { bytes: NonZeroU64::new(bytes).expect("not zero"), per: seconds(1) })
}

fn messages_of_session(count: u32, per: Duration) -> RouteRates {
    RouteRates { messages: Scoped { session: rate(count, per), ..Scoped::default() }, ..RouteRates::default() }
}

fn bytes_of_session(bytes: u64) -> RouteRates {
    RouteRates { bytes: Scoped { session: byte_rate(bytes), ..Scoped::default() }, ..RouteRates::default() }
}

/// A route, as its sessions know it.
fn route(rules: RelayRules, rates: RouteRates) -> Arc<Standing> {
    Standing::new(Arc::new(Terms::new(rules, rates, 1000)))
}

/// A session that runs, and its two peers in the hands of the test.
struct Relay {
    client: Wire,
    upstream: Wire,
    session: JoinHandle<End>,
}

impl Relay {
    fn start(rules: RelayRules, rates: RouteRates) -> Relay {
        Relay::of_client(&route(rules, rates), 1, &Arc::default())
    }

    fn of_client(route: &Arc<Standing>, client: u8, registry: &Arc<Registry>) -> Relay {
        let entry = registry.enter(support::about(registry));
        let account = Account::new(route.clone(), ClientKey::from(IpAddr::from([192, 0, 2, client])).into());
        let ((client, near), (upstream, far)) = (Wire::new(), Wire::new());
        let opened = |stream| Opened { stream, early: Bytes::new() };
        let mut session = Session::new(opened(near), opened(far), account, false, entry);
        Relay { client, upstream, session: tokio::spawn(async move { session.run().await }) }
    }

    async fn end(self) -> End {
        timeout(seconds(86_400), self.session).await.expect("it ends").expect("it does not panic")
    }
}

fn texts(wire: &Wire) -> Vec<String> {
    let text = |payload: Vec<u8>| String::from_utf8(payload).expect("text");
    wire.frames().into_iter().filter(|frame| frame.opcode == TEXT).map(|frame| text(frame.payload)).collect()
}

/// When `wire` has got as many messages as these, in this order; looks every 5 ms.
async fn arrive(wire: &Wire, expected: &[String]) -> Duration {
    let (began, mut got) = (Instant::now(), Vec::new());
    while got.len() < expected.len() {
        assert!(began.elapsed() < seconds(3600), "{} of {} have come", got.len(), expected.len());
        sleep(millis(5)).await;
        got.extend(texts(wire));
    }
    assert_eq!(got, expected);
    began.elapsed()
}

fn numbered(count: usize) -> (Vec<String>, Vec<u8>) {
    let texts: Vec<String> = (0..count).map(|number| format!("message {number}")).collect();
    let bytes = texts.iter().flat_map(|text| masked(TEXT, text.as_bytes())).collect();
    (texts, bytes)
}

fn within(took: Duration, least: Duration, most: Duration) {
    assert!(took >= least && took <= most, "{took:?} is not between {least:?} and {most:?}");
}

// ---- Messages ----

#[tokio::test(start_paused = true)]
async fn five_sessions_of_a_client_share_its_rate_and_two_clients_do_not() {
    let messages = Scoped { client: rate(100, seconds(1)), ..Scoped::default() };
    let rates = RouteRates { messages, ..RouteRates::default() };
    let (route, registry) = (route(rules(), rates), Arc::default());
    let session = |client| Relay::of_client(&route, client, &registry);
    let sessions = Vec::from_iter((0..5).map(|_| session(1)));
    let other = session(2);
    let (texts, bytes) = numbered(200);
    sessions.iter().for_each(|session| session.client.send(&bytes));
    let (first, of_other) = numbered(100);
    other.client.send(&of_other);
    assert!(arrive(&other.upstream, &first).await < millis(20), "another client has a rate of its own");
    let began = Instant::now();
    for session in &sessions {
        arrive(&session.upstream, &texts).await;
    }
    within(began.elapsed(), millis(8500), seconds(11));
    assert_eq!(registry.held_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_timer_costs_no_rate() {
    // Four turns fall into each millisecond of the timer.
    let relay = Relay::start(rules(), messages_of_session(4000, seconds(1)));
    let (texts, bytes) = numbered(12_000);
    relay.client.send(&bytes);
    within(arrive(&relay.upstream, &texts).await, millis(1990), millis(2100));
}

#[tokio::test(start_paused = true)]
async fn a_message_of_many_frames_counts_once() {
    let relay = Relay::start(rules(), messages_of_session(2, seconds(3600)));
    let mut bytes = Vec::new();
    for _ in 0..2 {
        for number in 0..10 {
            let mut frame = masked(if number == 0 { TEXT } else { CONTINUATION }, b"part");
            frame[0] &= if number < 9 { 0x7f } else { 0xff };
            bytes.extend(frame);
        }
    }
    relay.client.send(&bytes);
    relay.client.send(&masked(TEXT, b"the third"));
    sleep(seconds(1)).await;
    assert_eq!(relay.upstream.frames().len(), 20);
    sleep(seconds(1795)).await;
    assert!(relay.upstream.frames().is_empty());
    sleep(seconds(10)).await;
    assert_eq!(texts(&relay.upstream), ["the third"]);
}

#[tokio::test(start_paused = true)]
async fn what_stands_behind_a_waiting_message_waits_and_the_rest_goes_on() {
    let heartbeat = Some(Heartbeat { interval: seconds(20), timeout: seconds(10) });
    let rules = RelayRules { heartbeat, idle_timeout: Some(seconds(300)), ..rules() };
    let relay = Relay::start(rules, messages_of_session(1, seconds(3600)));
    relay.client.send(&[masked(TEXT, b"one"), masked(TEXT, b"two")].concat());
    relay.client.send(&[masked(PING, b"?"), masked(CLOSE, &close_payload(4000, "bye"))].concat());
    // The upstream lives: it answers, and asks.
    let upstream = relay.upstream.clone();
    let living = tokio::spawn(async move {
        let mut seen = Vec::new();
        loop {
            sleep(seconds(5)).await;
            upstream.send(&unmasked(PING, b"upstream"));
            for frame in upstream.frames() {
                if frame.opcode == PING {
                    upstream.send(&unmasked(PONG, &frame.payload));
                }
                seen.push((frame.opcode, frame.payload));
                if frame.opcode == CLOSE {
                    return seen;
                }
            }
        }
    });
    relay.upstream.send(&unmasked(TEXT, b"down"));
    sleep(seconds(3590)).await;
    let to_client = relay.client.frames();
    assert_eq!(to_client[0].is(), (TEXT, &b"down"[..]), "the other direction goes on");
    assert!(!to_client.iter().any(|frame| frame.payload == b"?"), "the ping stands behind the message");
    let pings = to_client.iter().filter(|frame| frame.opcode == PING).count();
    assert!((170..=205).contains(&pings), "one an interval, for it may have vanished: {pings}");
    assert!(!relay.session.is_finished(), "a side that we do not read is neither dead nor idle");
    let seen = timeout(seconds(60), living).await.expect("the Close comes").expect("no panic");
    let pongs = seen.iter().filter(|(opcode, _)| *opcode == PONG).count();
    assert!(pongs > 700, "the upstream's pings are answered meanwhile: {pongs}");
    let texts: Vec<&[u8]> = seen.iter().filter(|(opcode, _)| *opcode == TEXT).map(|(_, text)| &text[..]).collect();
    assert_eq!(texts, [b"one", b"two"]);
    assert_eq!(seen.last(), Some(&(CLOSE, close_payload(4000, "bye"))));
    assert!(relay.client.frames().iter().any(|frame| frame.is() == (PONG, &b"?"[..])));
}

#[tokio::test(start_paused = true)]
async fn a_sender_of_too_much_is_read_in_small_pieces() {
    let registry = Arc::<Registry>::default();
    let relay = Relay::of_client(&route(rules(), messages_of_session(10, seconds(1))), 1, &registry);
    let (_, bytes) = numbered(100_000);
    relay.client.send(&bytes);
    sleep(seconds(500)).await;
    for _ in 0..100 {
        sleep(millis(100)).await;
        let held = registry.held_bytes();
        assert!(held > 0 && held <= 4096, "{held} bytes are held");
    }
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_stops_does_not_wait_for_turns() {
    let registry = Arc::<Registry>::default();
    let relay = Relay::of_client(&route(rules(), messages_of_session(1, seconds(3600))), 1, &registry);
    relay.client.send(&[masked(TEXT, b"one"), masked(TEXT, b"two")].concat());
    relay.client.send(&masked(CLOSE, &close_payload(1012, "")));
    sleep(seconds(1)).await;
    assert!(registry.held_bytes() > 0);
    registry.end_all(Cause::Drain);
    let end = relay.end().await;
    assert_eq!((end.cause, end.client.received), (Cause::Drain, Some(1012)), "its answer is read past the message");
    assert_eq!(registry.held_bytes(), 0);
}

/// Twenty messages of a client that answers the Close of a drain at once: what its upstream gets, and the end.
async fn drained(rates: RouteRates, patience: u64) -> (Vec<String>, End) {
    let registry = Arc::<Registry>::default();
    let relay = Relay::of_client(&route(rules(), rates), 1, &registry);
    relay.client.send(&numbered(20).1);
    relay.client.send(&masked(CLOSE, &close_payload(1012, "")));
    sleep(millis(10)).await;
    registry.end_all(Order { patience: seconds(patience), ..Cause::Drain.into() });
    let upstream = relay.upstream.clone();
    let end = relay.end().await;
    let mut frames = upstream.frames();
    assert_eq!(frames.pop().map(|close| close.opcode), Some(CLOSE), "the upstream is told");
    let text = |payload: Vec<u8>| String::from_utf8(payload).expect("text");
    (frames.into_iter().map(|frame| text(frame.payload)).collect(), end)
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_pass_what_waits_for_its_turn_for_as_long_as_its_grace() {
    let all = numbered(20).0;
    let (got, end) = drained(messages_of_session(2, seconds(1)), 30).await;
    assert_eq!((got, end.detail, end.client.received), (all.clone(), Detail::None, Some(1012)));
    within(end.duration, seconds(9), seconds(17));
    let (got, end) = drained(messages_of_session(2, seconds(1)), 7).await;
    assert_eq!((&got[..], end.detail), (&all[..got.len()], Detail::Undelivered));
    assert!((15..=16).contains(&got.len()), "{} have come", got.len());
    assert_eq!(end.from_client.messages, got.len() as u64, "the record counts what passed");
    let (got, end) = drained(messages_of_session(2, seconds(3600)), 60).await;
    assert_eq!((&got[..], end.detail), (&all[..2], Detail::Undelivered));
    within(end.duration, seconds(5), seconds(13));
}

// ---- Bytes ----

#[tokio::test(start_paused = true)]
async fn a_message_larger_than_the_bucket_passes_over_time() {
    let relay = Relay::start(rules(), bytes_of_session(10_000));
    let message = masked(BINARY, &[7; 100_000]);
    relay.client.send(&message);
    let (began, mut got) = (Instant::now(), Vec::new());
    while got.len() < message.len() {
        sleep(millis(10)).await;
        got.extend(relay.upstream.written());
        // A burst at first, a piece ahead of what is paid, and the header.
        let allowed = 20_000 + 10 * began.elapsed().as_millis() as usize + 100;
        assert!(got.len() <= allowed, "{} bytes after {:?}", got.len(), began.elapsed());
    }
    assert!(got == message);
    within(began.elapsed(), seconds(8), millis(9100));
}

#[tokio::test(start_paused = true)]
async fn a_new_session_of_a_client_does_not_begin_with_a_new_bucket() {
    let bytes = Scoped { client: byte_rate(1000), ..Scoped::default() };
    let rates = RouteRates { bytes, ..RouteRates::default() };
    let (route, registry) = (route(rules(), rates), Arc::default());
    for _ in 0..3 {
        let relay = Relay::of_client(&route, 1, &registry);
        relay.client.send(&masked(BINARY, &[0; 10_000]));
        sleep(millis(1)).await;
        relay.session.abort();
    }
    let last = Relay::of_client(&route, 1, &registry);
    last.client.send(&masked(TEXT, b"in turn"));
    within(arrive(&last.upstream, &["in turn".to_owned()]).await, millis(900), millis(2100));
}

// ---- Control frames ----

#[tokio::test(start_paused = true)]
async fn pings_beyond_their_rate_are_read_later() {
    let relay =
        Relay::start(RelayRules { control_per_session: rate(10, seconds(1)), ..rules() }, RouteRates::default());
    let pings: Vec<u8> = (0..100).flat_map(|number| masked(PING, &[number])).collect();
    relay.client.send(&pings);
    relay.client.send(&masked(TEXT, b"behind"));
    sleep(seconds(1)).await;
    let early = relay.client.frames().len();
    assert!((18..=22).contains(&early), "{early} pongs in the first second");
    within(arrive(&relay.upstream, &["behind".to_owned()]).await, seconds(7), seconds(9));
    let payloads: Vec<Vec<u8>> = relay.client.frames().into_iter().map(|frame| frame.payload).collect();
    assert_eq!(payloads.last(), Some(&vec![99]));
}

// ---- Slow consumers ----

#[tokio::test(start_paused = true)]
async fn a_side_that_takes_nothing_ends_as_a_slow_consumer_also_without_a_heartbeat() {
    for (side, code) in [(Side::Client, None), (Side::Upstream, Some(1011))] {
        let registry = Arc::<Registry>::default();
        let rules = RelayRules { slow_timeout: Some(seconds(30)), ..rules() };
        let relay = Relay::of_client(&route(rules, RouteRates::default()), 1, &registry);
        let (slow, fast) =
            if side == Side::Client { (&relay.client, &relay.upstream) } else { (&relay.upstream, &relay.client) };
        slow.takes(Take::Bytes(100));
        let message =
            |len| if side == Side::Client { unmasked(BINARY, &vec![0; len]) } else { masked(BINARY, &vec![0; len]) };
        fast.send(&message(10_000));
        sleep(seconds(29)).await;
        assert!(!relay.session.is_finished() && registry.held_bytes() > 9_000);
        let end = relay.end().await;
        assert_eq!((end.cause, end.side, end.detail), (Cause::SlowConsumer, side, Detail::None));
        within(end.duration, seconds(30), seconds(38));
        assert_eq!(end.client.sent, code, "a client that takes nothing cannot be told");
        assert_eq!(registry.held_bytes(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_slow_but_takes_all_in_time_goes_on() {
    let relay = Relay::start(RelayRules { slow_timeout: Some(seconds(10)), ..rules() }, RouteRates::default());
    relay.client.takes(Take::Bytes(0));
    relay.upstream.send(&unmasked(BINARY, &[0; 1 << 20]));
    for _ in 0..100 {
        sleep(seconds(9)).await;
        relay.client.takes(Take::Bytes(70_000));
        sleep(millis(1)).await;
        if relay.client.written().is_empty() {
            break;
        }
    }
    assert!(!relay.session.is_finished());
}

#[tokio::test(start_paused = true)]
async fn an_echo_is_not_blamed_for_a_client_that_reads_slowly() {
    let rules = RelayRules { slow_timeout: Some(seconds(10)), ..rules() };
    let relay = Relay::start(rules, RouteRates::default());
    // Neither takes anything; the client began.
    relay.client.takes(Take::Bytes(0));
    relay.upstream.send(&unmasked(BINARY, &[0; 1 << 20]));
    sleep(seconds(5)).await;
    relay.upstream.takes(Take::Bytes(0));
    relay.client.send(&masked(BINARY, &[0; 1 << 20]));
    // It takes what was held, and no more: the upstream had refused for four seconds then, and gets its time anew.
    sleep(seconds(4)).await;
    relay.client.takes(Take::Bytes(66_000));
    sleep(seconds(7)).await;
    assert!(!relay.session.is_finished());
    let end = relay.end().await;
    assert_eq!((end.cause, end.side), (Cause::SlowConsumer, Side::Client));
}

// ---- What is held ----

#[tokio::test(start_paused = true)]
async fn over_the_budget_those_that_have_held_for_longest_go_at_once() {
    let registry = Arc::new(Registry::new(25_000));
    let mut stuck = Vec::new();
    for _ in 0..3 {
        let relay = Relay::of_client(&route(rules(), RouteRates::default()), 1, &registry);
        relay.client.takes(Take::Bytes(0));
        relay.upstream.send(&unmasked(BINARY, &[0; 10_000]));
        sleep(seconds(1)).await;
        stuck.push(relay);
    }
    assert!(registry.held_bytes() <= 25_000, "{} bytes are held", registry.held_bytes());
    assert!(registry.has_room());
    let finished: Vec<bool> = stuck.iter().map(|relay| relay.session.is_finished()).collect();
    assert!(!finished[1] && !finished[2]);
    let first = stuck.remove(0);
    let upstream = first.upstream.clone();
    let end = first.end().await;
    assert_eq!((end.cause, end.side, end.detail), (Cause::SlowConsumer, Side::Client, Detail::HeldBytes));
    let told = upstream.frames().pop().expect("a Close");
    assert_eq!(told.is(), (CLOSE, &close_payload(1001, "session ended by the gateway")[..]));
    stuck.iter().for_each(|relay| relay.session.abort());
    sleep(millis(1)).await;
    assert_eq!(registry.held_bytes(), 0, "also of those that were cut");
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_waits_goes_too_and_is_told_why() {
    let registry = Arc::new(Registry::new(1000));
    let relay = Relay::of_client(&route(rules(), messages_of_session(1, seconds(3600))), 1, &registry);
    relay.client.send(&numbered(1000).1);
    let end = relay.end().await;
    assert_eq!((end.cause, end.side, end.detail), (Cause::RateLimited, Side::Client, Detail::HeldBytes));
    assert_eq!(registry.held_bytes(), 0);
}

// ---- From end to end ----

#[test]
fn a_thousand_messages_of_a_client_pass_an_echo_in_their_time() {
    let echo = serve(|mut peer| {
        let head = peer.head();
        peer.write(switching(&head, "").as_bytes());
        while let Some(frame) = peer.next_frame() {
            if peer.try_write(&unmasked(frame.opcode, &frame.payload)).is_err() || frame.opcode == CLOSE {
                return;
            }
        }
    });
    let gateway = Gateway::start(&config(echo, "limits = { messages_per_client = \"100/s\" }", ""));
    let mut sessions = Vec::from_iter((0..5).map(|_| Peer::open(gateway.address(), "/")));
    let (texts, bytes) = numbered(200);
    let began = std::time::Instant::now();
    sessions.iter_mut().for_each(|session| session.write(&bytes));
    std::thread::scope(|scope| {
        for session in &mut sessions {
            let texts = &texts;
            scope.spawn(move || {
                for text in texts {
                    assert_eq!(session.frame().payload, text.as_bytes());
                }
            });
        }
    });
    // Slow machines have their time; earlier than the rate allows it can never be.
    within(began.elapsed(), millis(8500), seconds(20));
}

#[test]
fn a_client_that_vanishes_while_its_messages_wait_frees_its_place() {
    let (upstream, connections) = scripted();
    let route = "heartbeat = { interval = \"200ms\", timeout = \"20s\" }\n\
                 limits = { messages_per_session = \"2/h\", sessions_per_client = 1 }";
    let gateway = Gateway::start(&config(upstream, route, ""));
    let mut client = Peer::open(gateway.address(), "/");
    let (mut server, _) = connections.recv_timeout(PATIENCE).expect("a connection");
    client.write(&numbered(5).1);
    assert_eq!([server.frame().payload, server.frame().payload], [b"message 0", b"message 1"]);
    client.reset();
    let record = gateway.end_record();
    assert!(record.contains("cause=\"client_lost\"") && record.contains("messages_from_client=2 "), "{record}");
    Peer::open(gateway.address(), "/");
}

// ---- Other terms ----

#[tokio::test(start_paused = true)]
async fn a_session_that_nothing_wakes_takes_other_terms_each_time() {
    let (route, registry) = (route(rules(), messages_of_session(1, seconds(3600))), Arc::default());
    let relay = Relay::of_client(&route, 1, &registry);
    let changed = |rules: RelayRules, rates: RouteRates| {
        route.put(Arc::new(route.current().renew(rules, rates, 1000)));
        registry.renew(|_| true);
    };
    for round in 0..4 {
        let (texts, bytes) = numbered(2);
        relay.client.send(&bytes);
        sleep(millis(10)).await;
        assert_eq!(self::texts(&relay.upstream), texts[..1], "round {round}: the second waits");
        changed(
            RelayRules { slow_timeout: Some(seconds(60 + round)), ..rules() },
            messages_of_session(1, seconds(3600)),
        );
        sleep(millis(10)).await;
        assert!(self::texts(&relay.upstream).is_empty(), "round {round}: other rules, the same rate");
        changed(rules(), messages_of_session(1, seconds(60 + round)));
        sleep(millis(10)).await;
        assert_eq!(self::texts(&relay.upstream), texts[1..], "round {round}: another rate, and full purses");
        changed(rules(), RouteRates::default());
        changed(rules(), messages_of_session(1, seconds(3600)));
        sleep(millis(10)).await;
    }
    changed(RelayRules { idle_timeout: Some(millis(5)), ..rules() }, RouteRates::default());
    sleep(millis(10)).await;
    assert!(relay.session.is_finished() || relay.client.frames().iter().any(|frame| frame.opcode == CLOSE));
}
