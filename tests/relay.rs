//! The relay over streams that the test plays by hand, with paused time: hours pass in no time, and nothing is raced.
//!
//! What it has to do is said by the names of the tests; the close table from end to end is in close_table.rs.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tidegate::config::model::{
    ByteRate, Compression, Heartbeat, OnExcess, PingMode, Rate, RelayRules, RouteRates, Scoped,
};
use tidegate::limits::terms::{Account, Standing, Terms};
use tidegate::policy::client::ClientKey;
use tidegate::relay::end::{Detail, Side, Traffic};
use tidegate::relay::registry::{Flow, Order, Registry, Selector, Texts, Total};
use tidegate::relay::session::Opened;
use tidegate::relay::{Cause, End, Session};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

#[path = "relay/wire.rs"]
mod wire;

mod support;

use support::client::{BINARY, CLOSE, PING, PONG, TEXT, close_payload, header, masked, unmasked};
use wire::{Frame, Give, Stream, Take, Wire, frames};

const CONTINUATION: u8 = 0;

/// Generous, so that each test turns on only what it is about.
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

/// A session that runs, and its two peers in the hands of the test.
struct Relay {
    client: Wire,
    upstream: Wire,
    registry: Arc<Registry>,
    session: JoinHandle<End>,
    began: Instant,
}

/// Of a session on a route of its own.
fn account(rules: RelayRules, rates: RouteRates) -> Account {
    let client = ClientKey::from(IpAddr::from([192, 0, 2, 1]));
    Account::new(Standing::new(Arc::new(Terms::new(rules, rates, 1000))), client.into())
}

impl Relay {
    fn start(rules: RelayRules) -> Relay {
        Relay::early(rules, b"", b"")
    }

    /// With bytes that came right behind the heads.
    fn early(rules: RelayRules, client_early: &[u8], upstream_early: &[u8]) -> Relay {
        Relay::with(rules, RouteRates::default(), Arc::default(), [client_early, upstream_early])
    }

    /// With rates to pay and a registry to be in.
    fn with(rules: RelayRules, rates: RouteRates, registry: Arc<Registry>, early: [&[u8]; 2]) -> Relay {
        let (client, client_stream) = Wire::new();
        let (upstream, upstream_stream) = Wire::new();
        let opened = |stream: Stream, early: &[u8]| Opened { stream, early: Bytes::copy_from_slice(early) };
        let [client_early, upstream_early] = early;
        let mut session = Session::new(
            opened(client_stream, client_early),
            opened(upstream_stream, upstream_early),
            account(rules, rates),
            false,
            registry.enter(support::about(&registry)),
        );
        Relay {
            client,
            upstream,
            registry,
            session: tokio::spawn(async move { session.run().await }),
            began: Instant::now(),
        }
    }

    fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Waits for the end, a day at the most.
    async fn end(self) -> End {
        timeout(seconds(86_400), self.session).await.expect("it ends").expect("it does not panic")
    }

    /// Both peers end their streams; the end that this brings.
    async fn hang_up(self) -> End {
        self.client.give([Give::End]);
        self.upstream.give([Give::End]);
        self.end().await
    }
}

/// Lets everything happen that can happen without time passing.
async fn calm() {
    sleep(Duration::from_millis(1)).await;
}

fn close(code: u16, reason: &str) -> (u8, Vec<u8>) {
    (CLOSE, close_payload(code, reason))
}

/// Opcodes and payloads, for comparing.
fn told(wire: &Wire) -> Vec<(u8, Vec<u8>)> {
    wire.frames().into_iter().map(|frame| (frame.opcode, frame.payload)).collect()
}

fn concat<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    parts.into_iter().flatten().copied().collect()
}

/// A frame that is no message of its own.
fn fragment(opcode: u8, fin: bool, mask: bool, payload: &[u8]) -> Vec<u8> {
    let mut frame = if mask { masked(opcode, payload) } else { unmasked(opcode, payload) };
    if !fin {
        frame[0] &= 0x7f;
    }
    frame
}

// ---- What passes ----

#[tokio::test(start_paused = true)]
async fn messages_pass_as_they_are_both_ways() {
    let relay = Relay::start(rules());
    let up = concat([&masked(TEXT, b"hello")[..], &masked(BINARY, &[7; 70_000])]);
    let down = concat([&unmasked(TEXT, b"")[..], &unmasked(BINARY, &[9; 300])]);
    relay.client.send(&up);
    relay.upstream.send(&down);
    calm().await;
    assert!(relay.upstream.written() == up);
    assert!(relay.client.written() == down);
}

#[tokio::test(start_paused = true)]
async fn a_frame_is_forwarded_while_it_still_arrives() {
    let relay = Relay::start(rules());
    let mut start = header(0x82, true, 1 << 40);
    start.extend_from_slice(&[1, 2, 3, 4]);
    start.extend_from_slice(b"the first bytes of a tebibyte");
    relay.client.send(&start);
    calm().await;
    assert_eq!(relay.upstream.written(), start);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_holds_back_the_sender_and_nothing_is_lost() {
    for down in [true, false] {
        let relay = Relay::start(rules());
        let (fast, slow) = if down { (&relay.upstream, &relay.client) } else { (&relay.client, &relay.upstream) };
        slow.takes(Take::Bytes(1000));
        let mut sent = Vec::new();
        for n in 0..100_u8 {
            let frame = if down { unmasked(BINARY, &vec![n; 50_000]) } else { masked(BINARY, &vec![n; 50_000]) };
            fast.send(&frame);
            sent.extend(frame);
        }
        sleep(seconds(30)).await;
        let read = fast.read();
        assert!(read <= 1000 + 2 * 65_536, "read {read} bytes ahead");
        sleep(seconds(30)).await;
        assert_eq!(fast.read(), read, "back-pressure holds");
        slow.takes(Take::All);
        calm().await;
        assert!(slow.written() == sent, "same bytes, same order");
        relay.hang_up().await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_direction_moves_while_the_other_is_stuck() {
    let relay = Relay::start(rules());
    relay.upstream.takes(Take::Bytes(0));
    relay.client.send(&masked(TEXT, b"stuck"));
    relay.upstream.send(&unmasked(TEXT, b"moves"));
    calm().await;
    assert_eq!(told(&relay.client), [(TEXT, b"moves".to_vec())]);
}

#[tokio::test(start_paused = true)]
async fn early_bytes_go_first_on_both_sides() {
    let up = concat([&masked(TEXT, b"early up")[..], &masked(TEXT, b"cut")]);
    let down = concat([&unmasked(TEXT, b"early down")[..], &unmasked(TEXT, b"cut")]);
    let relay = Relay::early(rules(), &up[..up.len() - 1], &down[..down.len() - 1]);
    relay.client.send(&up[up.len() - 1..]);
    relay.upstream.send(&down[down.len() - 1..]);
    calm().await;
    assert_eq!(relay.upstream.written(), up);
    assert_eq!(relay.client.written(), down);
}

#[tokio::test(start_paused = true)]
async fn more_early_bytes_than_one_read_takes() {
    let up = masked(BINARY, &[5; 200_000]);
    let relay = Relay::early(rules(), &up, b"");
    calm().await;
    assert!(relay.upstream.written() == up);
}

#[tokio::test(start_paused = true)]
async fn it_works_over_duplex_streams_too() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mut client, near) = tokio::io::duplex(1000);
    let (mut upstream, far) = tokio::io::duplex(1000);
    let opened = |stream| Opened { stream, early: Bytes::new() };
    let registry = Arc::new(Registry::default());
    let mut session = Session::new(
        opened(near),
        opened(far),
        account(rules(), RouteRates::default()),
        false,
        registry.enter(support::about(&registry)),
    );
    let session = tokio::spawn(async move { session.run().await });
    let message = masked(BINARY, &[3; 100_000]);
    let expected = message.clone();
    let writer = tokio::spawn(async move {
        client.write_all(&message).await.unwrap();
        client.write_all(&masked(CLOSE, &close_payload(1000, "bye"))).await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        answer
    });
    let mut received = vec![0; expected.len()];
    upstream.read_exact(&mut received).await.unwrap();
    assert!(received == expected);
    let mut farewell = [0; 2 + 4 + 5];
    upstream.read_exact(&mut farewell).await.unwrap();
    assert_eq!(frames(&farewell).0[0].is(), (CLOSE, &close_payload(1000, "bye")[..]));
    upstream.write_all(&unmasked(CLOSE, &close_payload(1000, "bye"))).await.unwrap();
    upstream.shutdown().await.unwrap();
    assert_eq!(writer.await.unwrap(), unmasked(CLOSE, &close_payload(1000, "bye")));
    assert_eq!(session.await.unwrap().cause, Cause::ClientClosed);
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_sleeps() {
    let relay = Relay::start(rules());
    calm().await;
    let before = relay.client.polls();
    sleep(seconds(3600)).await;
    let polls = relay.client.polls() - before;
    assert!(polls < 300, "{polls} reads in an idle hour");
}

// ---- Pings ----

#[tokio::test(start_paused = true)]
async fn pings_are_answered_where_they_arrive_and_not_forwarded() {
    let relay = Relay::start(rules());
    relay.client.send(&masked(PING, b"from the client"));
    relay.upstream.send(&unmasked(PING, b"from the upstream"));
    relay.client.send(&masked(PONG, b"unasked"));
    relay.upstream.send(&unmasked(PONG, b"unasked"));
    calm().await;
    assert_eq!(told(&relay.client), [(PONG, b"from the client".to_vec())]);
    let frames = relay.upstream.frames();
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].is(), (PONG, &b"from the upstream"[..]));
    assert!(frames[0].masked, "RFC 6455 section 5.1");
}

#[tokio::test(start_paused = true)]
async fn ten_pings_in_one_read_get_ten_pongs_in_order() {
    let relay = Relay::start(rules());
    let pings: Vec<u8> = (0..10).flat_map(|n| masked(PING, &[n])).collect();
    relay.client.send(&pings);
    calm().await;
    assert_eq!(told(&relay.client), (0..10).map(|n| (PONG, vec![n])).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn pings_between_messages_leave_the_messages_alone() {
    let relay = Relay::start(rules());
    let (first, last) = (masked(TEXT, b"one"), masked(TEXT, b"two"));
    relay.client.send(&concat([&first[..], &masked(PING, b"?"), &last]));
    calm().await;
    assert_eq!(relay.upstream.written(), concat([&first[..], &last]));
    assert_eq!(told(&relay.client), [(PONG, b"?".to_vec())]);
}

#[tokio::test(start_paused = true)]
async fn a_pong_waits_for_the_end_of_a_frame_and_the_newest_ping_wins() {
    let relay = Relay::start(rules());
    let frame = unmasked(BINARY, &[1; 1000]);
    relay.upstream.send(&frame[..500]);
    calm().await;
    for payload in [b"1", b"2", b"3"] {
        relay.client.send(&masked(PING, payload));
        calm().await;
    }
    assert_eq!(relay.client.written(), &frame[..500], "nothing inside the frame");
    let behind = unmasked(TEXT, b"the next one");
    let writes = relay.client.writes();
    relay.upstream.send(&concat([&frame[500..], &behind]));
    calm().await;
    assert_eq!(relay.client.written(), concat([&frame[500..], &unmasked(PONG, b"3")[..], &behind]));
    assert_eq!(relay.client.writes() - writes, 1, "the pong leaves with what is around it");
}

#[tokio::test(start_paused = true)]
async fn a_write_around_a_pong_may_be_cut_anywhere() {
    let (frame, pong, behind) = (unmasked(BINARY, &[1; 20]), unmasked(PONG, b"?"), unmasked(TEXT, b"behind"));
    for cut in 1..12 + pong.len() + behind.len() {
        let relay = Relay::start(rules());
        relay.upstream.send(&frame[..10]);
        calm().await;
        relay.client.send(&masked(PING, b"?"));
        calm().await;
        relay.client.takes(Take::Bytes(cut));
        relay.upstream.send(&concat([&frame[10..], &behind]));
        calm().await;
        relay.client.takes(Take::All);
        calm().await;
        assert_eq!(relay.client.written(), concat([&frame[..], &pong, &behind]), "cut behind {cut} bytes");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pong_goes_between_the_fragments_of_a_message() {
    let relay = Relay::start(rules());
    relay.upstream.send(&fragment(TEXT, false, false, b"a mess"));
    calm().await;
    relay.client.send(&masked(PING, b"?"));
    calm().await;
    relay.upstream.send(&fragment(CONTINUATION, true, false, b"age"));
    calm().await;
    let frames: Vec<u8> = relay.client.frames().iter().map(|frame| frame.opcode).collect();
    assert_eq!(frames, [TEXT, PONG, CONTINUATION]);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_pings_that_reads_no_pongs_is_answered_with_the_last() {
    let relay = Relay::start(rules());
    relay.upstream.takes(Take::Bytes(0));
    for n in 0..10_000_u16 {
        relay.upstream.send(&unmasked(PING, &n.to_be_bytes()));
    }
    calm().await;
    assert_eq!(relay.upstream.read(), 10_000 * 4, "the flood is read, not queued");
    relay.upstream.takes(Take::All);
    calm().await;
    let pongs = relay.upstream.frames();
    assert!(pongs.len() < 50, "{} pongs were kept", pongs.len());
    assert_eq!(pongs.last().expect("one").payload, 9_999_u16.to_be_bytes());
}

#[tokio::test(start_paused = true)]
async fn forwarded_pings_and_pongs_pass_and_only_our_own_pong_is_swallowed() {
    let heartbeat = Heartbeat { interval: seconds(20), timeout: seconds(10) };
    let relay = Relay::start(RelayRules { ping: PingMode::Forward, heartbeat: Some(heartbeat), ..rules() });
    relay.client.send(&concat([&masked(PING, b"up")[..], &masked(PONG, b"theirs")]));
    relay.upstream.send(&unmasked(PING, b"down"));
    calm().await;
    assert_eq!(told(&relay.upstream), [(PING, b"up".to_vec()), (PONG, b"theirs".to_vec())]);
    assert_eq!(told(&relay.client), [(PING, b"down".to_vec())]);
    sleep(seconds(20)).await;
    let ours = relay.client.frames();
    assert_eq!((ours.len(), ours[0].opcode), (1, PING), "our heartbeat");
    relay.client.send(&masked(PONG, &ours[0].payload));
    relay.upstream.send(&unmasked(PONG, &relay.upstream.frames()[0].payload));
    calm().await;
    assert_eq!((told(&relay.upstream), told(&relay.client)), (vec![], vec![]));
    sleep(seconds(15)).await;
    assert!(!relay.session.is_finished(), "the swallowed pongs counted");
}

#[tokio::test(start_paused = true)]
async fn an_upstreams_ping_is_answered_only_while_the_client_is_alive() {
    let relay = Relay::start(rules());
    relay.upstream.send(&unmasked(PING, b"first"));
    calm().await;
    assert_eq!(told(&relay.upstream), [(PONG, b"first".to_vec())], "the client has just come");
    sleep(seconds(40)).await;
    relay.upstream.send(&unmasked(PING, b"second"));
    calm().await;
    assert_eq!(told(&relay.upstream), []);
    let asked = relay.client.frames();
    assert_eq!((asked.len(), asked[0].opcode), (1, PING), "the client is asked first");
    relay.upstream.send(&unmasked(PING, b"third"));
    calm().await;
    assert_eq!((told(&relay.upstream), told(&relay.client)), (vec![], vec![]), "it is asked once");
    relay.client.send(&masked(PONG, &asked[0].payload));
    calm().await;
    assert_eq!(told(&relay.upstream), [(PONG, b"third".to_vec())]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_answered_is_asked_again_when_it_is_quiet_again() {
    let relay = Relay::start(rules());
    for round in 0..3 {
        sleep(seconds(40)).await;
        for ping in [b"a", b"b"] {
            relay.upstream.send(&unmasked(PING, ping));
            calm().await;
        }
        let asked = relay.client.frames();
        assert_eq!(asked.len(), 1, "round {round}: asked once");
        relay.client.send(&masked(PONG, &asked[0].payload));
        calm().await;
        assert_eq!(told(&relay.upstream), [(PONG, b"b".to_vec())], "round {round}");
    }
}

// ---- Liveness and time ----

/// Keeps a side alive: something of it arrives each second.
fn keep_alive(wire: &Wire, frame: Vec<u8>) {
    let wire = wire.clone();
    tokio::spawn(async move {
        loop {
            wire.send(&frame);
            sleep(seconds(1)).await;
        }
    });
}

#[tokio::test(start_paused = true)]
async fn a_side_that_answers_no_ping_is_lost() {
    for side in [Side::Client, Side::Upstream] {
        let heartbeat = Heartbeat { interval: seconds(20), timeout: seconds(10) };
        let relay = Relay::start(RelayRules { heartbeat: Some(heartbeat), ..rules() });
        let (quiet, alive) = match side {
            Side::Client => (relay.client.clone(), relay.upstream.clone()),
            _ => (relay.upstream.clone(), relay.client.clone()),
        };
        keep_alive(&alive, if side == Side::Client { unmasked(PONG, b"") } else { masked(PONG, b"") });
        sleep(Duration::from_millis(17_900)).await;
        assert_eq!(told(&quiet), [], "not before nine tenths of the interval");
        sleep(Duration::from_millis(2_200)).await;
        let frames = told(&quiet);
        assert_eq!((frames.len(), frames[0].0), (1, PING));
        sleep(Duration::from_millis(7_800)).await;
        assert!(!alive.frames().iter().any(|frame| frame.opcode == CLOSE), "it has its time to answer");
        sleep(Duration::from_millis(2_200)).await;
        let (cause, closed) = match side {
            Side::Client => (Cause::ClientLost, close(1001, "client left")),
            _ => (Cause::UpstreamLost, close(1011, "upstream connection lost")),
        };
        assert_eq!(told(&alive), [closed]);
        assert_eq!(told(&quiet), []);
        let end = relay.end().await;
        assert_eq!((end.cause, end.side, end.detail), (cause, side, Detail::HeartbeatLost));
        assert!(end.duration <= seconds(38), "{:?}", end.duration);
    }
}

#[tokio::test(start_paused = true)]
async fn a_side_that_answers_pings_lives_for_ever() {
    let heartbeat = Heartbeat { interval: seconds(20), timeout: seconds(10) };
    let relay = Relay::start(RelayRules { heartbeat: Some(heartbeat), ..rules() });
    for _ in 0..3600 {
        sleep(seconds(1)).await;
        for frame in relay.client.frames() {
            relay.client.send(&masked(PONG, &frame.payload));
        }
        for frame in relay.upstream.frames() {
            relay.upstream.send(&unmasked(PONG, &frame.payload));
        }
    }
    assert!(!relay.session.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_is_held_back_is_not_taken_for_dead() {
    let heartbeat = Heartbeat { interval: seconds(20), timeout: seconds(10) };
    let relay = Relay::start(RelayRules { heartbeat: Some(heartbeat), ..rules() });
    keep_alive(&relay.upstream, unmasked(PONG, b""));
    relay.upstream.takes(Take::Bytes(0));
    relay.client.send(&masked(BINARY, &[0; 200_000]));
    sleep(seconds(600)).await;
    assert!(!relay.session.is_finished(), "the upstream is alive and slow, and we do not read the client");
}

#[tokio::test(start_paused = true)]
async fn a_side_that_neither_takes_nor_says_anything_is_lost() {
    let heartbeat = Heartbeat { interval: seconds(20), timeout: seconds(10) };
    let relay = Relay::start(RelayRules { heartbeat: Some(heartbeat), ..rules() });
    relay.upstream.takes(Take::Bytes(0));
    relay.client.send(&masked(BINARY, &[0; 200_000]));
    let client = relay.client.clone();
    let end = relay.end().await;
    assert_eq!((end.cause, end.detail), (Cause::UpstreamLost, Detail::HeartbeatLost));
    assert!(end.duration <= seconds(40), "{:?}", end.duration);
    assert_eq!(told(&client).last(), Some(&close(1011, "upstream connection lost")));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_of_an_echo_does_not_hold_it_for_ever() {
    let heartbeat = Heartbeat { interval: seconds(20), timeout: seconds(10) };
    let relay = Relay::start(RelayRules { heartbeat: Some(heartbeat), ..rules() });
    // The client does not read, so the echo does not read either: both are held back, each by the other.
    relay.client.takes(Take::Bytes(0));
    relay.upstream.takes(Take::Bytes(0));
    relay.client.send(&masked(BINARY, &[0; 200_000]));
    relay.upstream.send(&unmasked(BINARY, &[0; 200_000]));
    let end = relay.end().await;
    assert_eq!((end.cause, end.detail), (Cause::ClientLost, Detail::HeartbeatLost));
    assert!(end.duration >= seconds(28) && end.duration <= seconds(60), "{:?}", end.duration);
}

#[tokio::test(start_paused = true)]
async fn an_echo_that_is_slow_both_ways_goes_on() {
    let heartbeat = Heartbeat { interval: seconds(20), timeout: seconds(10) };
    let relay = Relay::start(RelayRules { heartbeat: Some(heartbeat), ..rules() });
    relay.client.send(&masked(BINARY, &[0; 200_000]));
    relay.upstream.send(&unmasked(BINARY, &[0; 200_000]));
    for _ in 0..100 {
        relay.client.takes(Take::Bytes(100));
        relay.upstream.takes(Take::Bytes(100));
        sleep(seconds(9)).await;
    }
    assert!(!relay.session.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_never_ends_ends_the_session() {
    let relay = Relay::start(RelayRules { frame_timeout: seconds(10), ..rules() });
    relay.client.send(&masked(BINARY, &[0; 1000])[..20]);
    let dribble = relay.client.clone();
    tokio::spawn(async move {
        loop {
            sleep(seconds(1)).await;
            dribble.send(b"x");
        }
    });
    let (client, upstream) = (relay.client.clone(), relay.upstream.clone());
    let end = relay.end().await;
    assert_eq!((end.cause, end.side, end.detail), (Cause::ClientLost, Side::Client, Detail::FrameTimeout));
    assert!(end.duration >= seconds(10) && end.duration <= seconds(20 + 8), "{:?}", end.duration);
    assert_eq!(told(&client), []);
    assert!(upstream.is_shut(), "no Close fits into the frame; the end of the stream has to tell");
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_stops_is_given_no_more_than_its_time() {
    for heartbeat in [None, rules().heartbeat] {
        let relay = Relay::start(RelayRules { frame_timeout: seconds(10), heartbeat, ..rules() });
        sleep(seconds(3)).await;
        relay.client.send(&masked(TEXT, b"hello")[..1]);
        sleep(Duration::from_millis(9_950)).await;
        assert_eq!(told(&relay.upstream), []);
        sleep(Duration::from_millis(100)).await;
        assert_eq!(told(&relay.upstream), [close(1001, "client left")]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_frame_that_moves_on_is_let_through() {
    let relay = Relay::start(RelayRules { frame_timeout: seconds(10), ..rules() });
    let mut start = header(0x82, false, 1 << 40);
    start.extend_from_slice(&[0; 10]);
    relay.upstream.send(&start);
    for _ in 0..100 {
        sleep(seconds(5)).await;
        relay.upstream.send(&[0; 64 * 1024]);
    }
    assert!(!relay.session.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_session_without_data_is_idle_whatever_its_pings_say() {
    let relay = Relay::start(RelayRules { idle_timeout: Some(seconds(60)), ..rules() });
    keep_alive(&relay.client, masked(PING, b"here"));
    sleep(seconds(50)).await;
    relay.client.send(&masked(TEXT, b"a message"));
    sleep(seconds(59)).await;
    assert!(!relay.session.is_finished());
    let (client, upstream) = (relay.client.clone(), relay.upstream.clone());
    let (age, end) = (relay.age(), relay.end().await);
    assert!(age >= seconds(109));
    assert_eq!((end.cause, end.side), (Cause::Idle, Side::Gateway));
    assert!(end.duration < seconds(110 + 8), "{:?}", end.duration);
    assert_eq!(told(&client).last(), Some(&close(1001, "idle for too long")));
    assert_eq!(told(&upstream).last(), Some(&close(1001, "session ended by the gateway")));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_still_on_its_way_is_not_idle() {
    let relay = Relay::start(RelayRules { idle_timeout: Some(seconds(60)), ..rules() });
    let mut start = header(0x82, false, 1 << 40);
    start.extend_from_slice(&[0; 10]);
    relay.upstream.send(&start);
    for _ in 0..100 {
        sleep(seconds(5)).await;
        relay.upstream.send(&[0; 64 * 1024]);
    }
    assert!(!relay.session.is_finished(), "a long download is no idle session");
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_at_its_maximum_age() {
    let relay = Relay::start(RelayRules { max_age: Some(seconds(100)), ..rules() });
    keep_alive(&relay.client, masked(TEXT, b"busy"));
    sleep(seconds(99)).await;
    assert!(!relay.upstream.frames().iter().any(|frame| frame.opcode == CLOSE));
    sleep(seconds(2)).await;
    assert_eq!(told(&relay.client), [close(1012, "session reached its maximum age")]);
    assert_eq!(told(&relay.upstream).last(), Some(&close(1001, "session ended by the gateway")));
    assert_eq!(relay.end().await.cause, Cause::MaxAge);
}

// ---- Closing ----

#[tokio::test(start_paused = true)]
async fn a_close_passes_with_code_and_reason_and_so_does_its_answer() {
    for payload in [close_payload(1000, "bye"), close_payload(4321, "é"), close_payload(3000, ""), vec![]] {
        for side in [Side::Client, Side::Upstream] {
            let relay = Relay::start(rules());
            let (up, down) = (masked(CLOSE, &payload), unmasked(CLOSE, &payload));
            let (client, upstream) = (relay.client.clone(), relay.upstream.clone());
            match side {
                Side::Client => client.send(&up),
                _ => upstream.send(&down),
            }
            calm().await;
            let other = if side == Side::Client { &upstream } else { &client };
            assert_eq!(told(other), [(CLOSE, payload.clone())]);
            match side {
                Side::Client => upstream.send(&down),
                _ => client.send(&up),
            }
            calm().await;
            let closer = if side == Side::Client { &client } else { &upstream };
            assert_eq!(told(closer), [(CLOSE, payload.clone())]);
            assert!(client.is_shut() && !upstream.is_shut(), "the server ends the connection first");
            upstream.give([Give::End]);
            client.give([Give::End]);
            let end = relay.end().await;
            let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
            let cause = if side == Side::Client { Cause::ClientClosed } else { Cause::UpstreamClosed };
            assert_eq!((end.cause, end.side), (cause, side));
            assert_eq!((end.client.sent, end.client.received), (Some(code), Some(code)));
            assert_eq!((end.upstream.sent, end.upstream.received), (Some(code), Some(code)));
            assert!(end.duration < seconds(1));
            assert!(upstream.is_shut());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn data_on_its_way_to_the_side_that_closed_still_arrives() {
    let relay = Relay::start(rules());
    relay.client.send(&masked(CLOSE, &close_payload(1000, "")));
    calm().await;
    relay.upstream.send(&concat([&unmasked(TEXT, b"late")[..], &unmasked(CLOSE, &close_payload(1000, ""))]));
    calm().await;
    assert_eq!(told(&relay.client), [(TEXT, b"late".to_vec()), close(1000, "")]);
}

#[tokio::test(start_paused = true)]
async fn nothing_passes_behind_a_close() {
    let relay = Relay::start(rules());
    let behind = concat([&masked(TEXT, b"data")[..], &masked(CLOSE, &close_payload(1001, "")), &masked(PING, b"?")]);
    relay.client.send(&concat([&masked(CLOSE, &close_payload(1000, "first"))[..], &behind]));
    relay.client.send(&behind);
    calm().await;
    assert_eq!(told(&relay.upstream), [close(1000, "first")]);
    assert_eq!(told(&relay.client), []);
    relay.upstream.send(&unmasked(CLOSE, &close_payload(1000, "")));
    let end = relay.hang_up().await;
    assert_eq!((end.cause, end.client.received), (Cause::ClientClosed, Some(1000)));
}

#[tokio::test(start_paused = true)]
async fn two_closes_that_cross_are_each_others_answer() {
    let relay = Relay::start(rules());
    relay.client.send(&masked(CLOSE, &close_payload(4001, "c")));
    relay.upstream.send(&unmasked(CLOSE, &close_payload(4002, "u")));
    calm().await;
    assert_eq!(told(&relay.upstream), [close(4001, "c")]);
    assert_eq!(told(&relay.client), [close(4002, "u")]);
    assert!(relay.hang_up().await.duration < seconds(1));
}

#[tokio::test(start_paused = true)]
async fn a_close_that_the_upstream_leaves_unanswered_is_answered_by_us() {
    for last in [Give::End, Give::Fail(ErrorKind::ConnectionReset)] {
        let relay = Relay::start(rules());
        relay.client.send(&masked(CLOSE, &close_payload(1000, "bye")));
        calm().await;
        relay.upstream.give([last]);
        calm().await;
        assert_eq!(told(&relay.client), [close(1000, "")], "servers often just end the connection");
        assert!(relay.client.is_shut());
        relay.client.give([Give::End]);
        let end = relay.end().await;
        assert_eq!((end.cause, end.client.sent, end.upstream.received), (Cause::ClientClosed, Some(1000), None));
        assert!(end.duration < seconds(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_that_the_client_leaves_unanswered_is_answered_by_us() {
    let relay = Relay::start(rules());
    relay.upstream.send(&unmasked(CLOSE, &close_payload(3999, "bye")));
    calm().await;
    relay.client.give([Give::End]);
    calm().await;
    assert_eq!(told(&relay.upstream), [close(3999, "")]);
    relay.upstream.give([Give::End]);
    let end = relay.end().await;
    assert_eq!((end.cause, end.upstream.sent), (Cause::UpstreamClosed, Some(3999)));
}

#[tokio::test(start_paused = true)]
async fn a_close_that_is_not_answered_in_time_is_answered_by_us() {
    for side in [Side::Client, Side::Upstream] {
        let relay = Relay::start(rules());
        let closer = if side == Side::Client { relay.client.clone() } else { relay.upstream.clone() };
        let payload = close_payload(1000, "bye");
        closer.send(&if side == Side::Client { masked(CLOSE, &payload) } else { unmasked(CLOSE, &payload) });
        sleep(Duration::from_millis(4900)).await;
        assert_eq!(told(&closer), []);
        sleep(Duration::from_millis(200)).await;
        assert_eq!(told(&closer), [close(1000, "")]);
        assert!(closer.is_shut());
        let end = relay.end().await;
        assert_eq!((end.client.sent, end.upstream.sent), (Some(1000), Some(1000)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_handshake_is_bounded_when_nobody_answers() {
    for cause in Cause::ALL.into_iter().filter(|cause| cause.told(Side::Gateway).0.is_some()) {
        let relay = Relay::start(rules());
        relay.registry.end_all(cause);
        let end = relay.end().await;
        assert_eq!(end.cause, cause);
        assert!(end.duration >= seconds(5) && end.duration <= seconds(8), "{cause:?}: {:?}", end.duration);
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_handshake_is_bounded_when_nobody_reads() {
    let relay = Relay::start(rules());
    relay.client.takes(Take::Bytes(0));
    relay.upstream.takes(Take::Bytes(0));
    relay.registry.end_all(Cause::Drain);
    let end = relay.end().await;
    assert!(end.duration <= seconds(8), "{:?}", end.duration);
    assert_eq!((end.client.sent, end.upstream.sent), (None, None), "a record claims no Close that was never written");
}

#[tokio::test(start_paused = true)]
async fn a_close_handshake_is_bounded_when_a_peer_never_ends_its_stream() {
    for (client_ends, upstream_ends) in [(false, false), (true, false), (false, true)] {
        let relay = Relay::start(rules());
        relay.client.send(&masked(CLOSE, &close_payload(1000, "")));
        relay.upstream.send(&unmasked(CLOSE, &close_payload(1000, "")));
        relay.client.give(client_ends.then_some(Give::End));
        relay.upstream.give(upstream_ends.then_some(Give::End));
        let (client, upstream) = (relay.client.clone(), relay.upstream.clone());
        let end = relay.end().await;
        assert!(end.duration <= seconds(3), "{:?}", end.duration);
        assert!(client.is_shut() && upstream.is_shut(), "ended by us before it is dropped");
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_handshake_is_bounded_when_a_peer_floods() {
    let relay = Relay::start(rules());
    for wire in [&relay.client, &relay.upstream] {
        let (wire, mask) = (wire.clone(), std::ptr::eq(wire, &relay.client));
        tokio::spawn(async move {
            loop {
                wire.send(&if mask { masked(TEXT, &[b'x'; 10_000]) } else { unmasked(TEXT, &[b'x'; 10_000]) });
                sleep(Duration::from_millis(10)).await;
            }
        });
    }
    sleep(seconds(1)).await;
    relay.registry.end_all(Cause::Drain);
    let (client, upstream) = (relay.client.clone(), relay.upstream.clone());
    let end = relay.end().await;
    assert!(end.duration <= seconds(9), "{:?}", end.duration);
    for wire in [client, upstream] {
        let frames = wire.frames();
        let closes = frames.iter().filter(|frame| frame.opcode == CLOSE).count();
        assert_eq!((closes, frames.last().map(|frame| frame.opcode)), (1, Some(CLOSE)), "the Close is the last word");
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_of_ours_comes_behind_the_frame_that_is_half_written() {
    let relay = Relay::start(rules());
    let frame = unmasked(BINARY, &[1; 1000]);
    relay.upstream.send(&frame[..400]);
    calm().await;
    relay.registry.end_all(Cause::Drain);
    calm().await;
    assert_eq!(relay.client.written(), &frame[..400]);
    assert_eq!(told(&relay.upstream), [close(1001, "session ended by the gateway")]);
    relay.upstream.send(&concat([&frame[400..], &unmasked(TEXT, b"not any more")]));
    calm().await;
    let expected = concat([&frame[400..], &unmasked(CLOSE, &close_payload(1012, "gateway is restarting"))]);
    assert_eq!(relay.client.written(), expected);
    relay.client.send(&masked(CLOSE, &close_payload(1012, "")));
    relay.upstream.send(&unmasked(CLOSE, &close_payload(1001, "")));
    assert!(relay.hang_up().await.duration < seconds(1));
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_does_not_end_in_time_gets_no_close_inside() {
    let relay = Relay::start(rules());
    let frame = unmasked(BINARY, &[1; 1000]);
    relay.upstream.send(&frame[..400]);
    calm().await;
    relay.registry.end_all(Cause::Drain);
    let client = relay.client.clone();
    let end = relay.end().await;
    assert_eq!(client.written(), &frame[..400]);
    assert!(client.is_shut());
    assert_eq!(end.client.sent, None);
    assert!(end.duration <= seconds(8));
}

#[tokio::test(start_paused = true)]
async fn every_cause_of_the_gateway_tells_both_sides() {
    let left = "session ended by the gateway";
    for (cause, code, reason) in [
        (Cause::RateLimited, 1008, "rate limit exceeded"),
        (Cause::AccessRevoked, 1008, "access revoked"),
        (Cause::SlowConsumer, 1008, "reading too slowly"),
        (Cause::Overloaded, 1013, "overloaded, try again later"),
        (Cause::Idle, 1001, "idle for too long"),
        (Cause::Drain, 1012, "gateway is restarting"),
        (Cause::MaxAge, 1012, "session reached its maximum age"),
        (Cause::RouteRemoved, 1012, "route was removed"),
    ] {
        let relay = Relay::start(rules());
        sleep(seconds(100)).await;
        relay.registry.end_all(cause);
        calm().await;
        assert_eq!(told(&relay.client), [close(code, reason)], "{cause:?}");
        assert_eq!(told(&relay.upstream), [close(1001, left)], "{cause:?}");
        relay.client.send(&masked(CLOSE, &close_payload(code, "")));
        calm().await;
        assert!(relay.client.is_shut(), "{cause:?}: a client that answered need not wait for the upstream");
        relay.upstream.send(&unmasked(CLOSE, &close_payload(1001, "")));
        let end = relay.hang_up().await;
        assert_eq!((end.cause, end.side), (cause, Side::Gateway));
        assert_eq!((end.client.sent, end.client.received), (Some(code), Some(code)));
        assert_eq!((end.upstream.sent, end.upstream.received), (Some(1001), Some(1001)));
        assert!(end.duration < seconds(101), "{cause:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_read_while_the_other_side_is_stuck() {
    let relay = Relay::start(rules());
    relay.upstream.takes(Take::Bytes(0));
    relay.registry.end_all(Cause::Drain);
    calm().await;
    assert_eq!(told(&relay.client), [close(1012, "gateway is restarting")]);
    relay.client.send(&masked(CLOSE, &close_payload(1012, "")));
    calm().await;
    assert!(relay.client.is_shut());
    let end = relay.end().await;
    assert_eq!(end.client.received, Some(1012));
}

#[tokio::test(start_paused = true)]
async fn the_first_cause_wins() {
    let relay = Relay::start(rules());
    relay.registry.end_all(Cause::Drain);
    calm().await;
    relay.client.give([Give::Fail(ErrorKind::ConnectionReset)]);
    relay.upstream.send(b"\xff\xff garbage");
    let end = relay.end().await;
    assert_eq!((end.cause, end.side, end.detail), (Cause::Drain, Side::Gateway, Detail::None));
}

#[tokio::test(start_paused = true)]
async fn what_comes_behind_our_close_is_not_counted() {
    let relay = Relay::start(rules());
    relay.client.send(&masked(TEXT, b"in time"));
    calm().await;
    relay.registry.end_all(Cause::Idle);
    calm().await;
    relay.client.send(&concat([&masked(TEXT, b"late")[..], &fragment(TEXT, false, true, b"half")]));
    relay.upstream.send(&concat([&unmasked(BINARY, b"late")[..], &unmasked(CLOSE, &close_payload(1001, ""))]));
    calm().await;
    relay.client.send(&concat([&fragment(CONTINUATION, true, true, b"half")[..], &masked(CLOSE, b"")]));
    assert_eq!(told(&relay.upstream), [(TEXT, b"in time".to_vec()), close(1001, GONE)]);
    let registry = relay.registry.clone();
    let end = relay.hang_up().await;
    assert_eq!(end.from_client, Traffic { messages: 1, bytes: 7 });
    assert_eq!(end.from_upstream, Traffic::default());
    let flow = registry.traffic()[0].1.flow;
    assert_eq!((flow.from_client, flow.from_upstream), (end.from_client, end.from_upstream), "metrics tell the same");
    assert_eq!((flow.texts.from_client, flow.texts.from_upstream), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_comes_for_a_side_that_is_gone_is_not_counted() {
    for (gives, takes) in
        [(Some(Give::Fail(ErrorKind::ConnectionReset)), None), (None, Some(Take::Fail(ErrorKind::BrokenPipe)))]
    {
        let relay = Relay::start(rules());
        relay.upstream.send(&unmasked(TEXT, b"in time"));
        calm().await;
        relay.client.give(gives);
        if let Some(takes) = takes {
            relay.client.takes(takes);
        }
        relay.client.give([Give::Bytes(masked(PING, b"its pong fails"))]);
        calm().await;
        for _ in 0..3 {
            relay.upstream.send(&unmasked(TEXT, b"nobody is there"));
            calm().await;
        }
        sleep(seconds(1)).await;
        relay.upstream.send(&unmasked(CLOSE, &close_payload(1001, "")));
        let end = relay.end().await;
        assert_eq!((end.cause, end.upstream.received), (Cause::ClientLost, Some(1001)));
        assert_eq!(end.from_upstream, Traffic { messages: 1, bytes: 7 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_text_of_which_nothing_passed_is_not_counted() {
    let relay = Relay::start(RelayRules { strict: true, ..rules() });
    relay.client.send(&concat([&masked(TEXT, b"good")[..], &masked(TEXT, b"\xff")]));
    calm().await;
    let end = relay.hang_up().await;
    assert_eq!((end.cause, end.from_client), (Cause::InvalidPayload, Traffic { messages: 1, bytes: 4 }));
}

// ---- A drain that waits for messages ----

const GOODBYE: &str = "retry-after=8s";
const GONE: &str = "session ended by the gateway";

fn patient() -> Order {
    Order { retry_after: 8, patience: seconds(20), ..Cause::Drain.into() }
}

#[tokio::test(start_paused = true)]
async fn what_the_client_sends_before_it_leaves_is_delivered_and_then_the_upstream_is_told() {
    let relay = Relay::start(rules());
    relay.registry.end_all(patient());
    calm().await;
    assert_eq!(told(&relay.client), [close(1012, GOODBYE)]);
    assert_eq!(told(&relay.upstream), []);
    relay.client.send(&masked(TEXT, b"before it knew"));
    relay.upstream.send(&unmasked(TEXT, b"too late"));
    calm().await;
    relay.client.send(&masked(CLOSE, &close_payload(1012, "")));
    calm().await;
    assert_eq!(told(&relay.upstream), [(TEXT, b"before it knew".to_vec()), close(1001, GONE)]);
    assert!(relay.client.is_shut());
    relay.upstream.send(&unmasked(CLOSE, &close_payload(1001, "")));
    calm().await;
    assert_eq!(told(&relay.client), [], "nothing behind the Close");
    let end = relay.hang_up().await;
    assert_eq!((end.cause, end.side, end.detail), (Cause::Drain, Side::Gateway, Detail::None));
    assert_eq!((end.client.received, end.upstream.sent, end.upstream.received), (Some(1012), Some(1001), Some(1001)));
    assert!(end.duration < seconds(1));
}

#[tokio::test(start_paused = true)]
async fn a_client_in_the_midst_of_a_message_is_told_when_it_is_through() {
    let relay = Relay::start(rules());
    relay.client.send(&fragment(BINARY, false, true, b"one"));
    calm().await;
    relay.registry.end_all(patient());
    sleep(seconds(10)).await;
    relay.upstream.send(&unmasked(TEXT, b"meanwhile"));
    calm().await;
    assert_eq!(told(&relay.client), [(TEXT, b"meanwhile".to_vec())], "between the fragments it hears nothing");
    relay.client.send(&concat([&fragment(CONTINUATION, true, true, b"two"), &masked(BINARY, &[7; 1000])[..500]]));
    calm().await;
    assert_eq!(told(&relay.client), [close(1012, GOODBYE)], "a message that begins meanwhile is its own affair");
    relay.client.send(&masked(BINARY, &[7; 1000])[500..]);
    relay.client.send(&masked(CLOSE, &close_payload(1012, "")));
    calm().await;
    let frames = told(&relay.upstream);
    assert_eq!((frames.len(), frames[2].1.len(), &frames[3]), (4, 1000, &close(1001, GONE)));
}

#[tokio::test(start_paused = true)]
async fn a_client_is_told_between_two_messages_of_the_upstream() {
    let relay = Relay::start(rules());
    relay.upstream.send(&fragment(TEXT, false, false, b"one"));
    calm().await;
    relay.registry.end_all(patient());
    relay.upstream.send(&fragment(CONTINUATION, false, false, b"two"));
    calm().await;
    assert!(told(&relay.client).iter().all(|(opcode, _)| *opcode != CLOSE));
    let last = fragment(CONTINUATION, true, false, b"three");
    relay.upstream.send(&concat([&last[..], &unmasked(TEXT, b"not any more"), &unmasked(TEXT, b"nor this")]));
    calm().await;
    assert_eq!(told(&relay.client), [(CONTINUATION, b"three".to_vec()), close(1012, GOODBYE)]);
}

#[tokio::test(start_paused = true)]
async fn a_message_of_many_mebibytes_is_waited_for() {
    let relay = Relay::start(rules());
    let frame = unmasked(BINARY, &vec![7; 100 << 20]);
    for (number, piece) in frame.chunks(1 << 20).enumerate() {
        relay.upstream.send(piece);
        sleep(Duration::from_millis(150)).await;
        if number == 10 {
            relay.registry.end_all(patient());
        }
    }
    calm().await;
    let written = relay.client.written();
    assert!(written.starts_with(&frame), "all of it came through");
    assert_eq!(written[frame.len()..], unmasked(CLOSE, &close_payload(1012, GOODBYE)));
}

#[tokio::test(start_paused = true)]
async fn a_message_is_not_waited_for_without_end() {
    for client_sends in [true, false] {
        let relay = Relay::start(rules());
        match client_sends {
            true => relay.client.send(&masked(BINARY, &[7; 1000])[..500]),
            false => relay.upstream.send(&unmasked(BINARY, &[7; 1000])[..500]),
        }
        calm().await;
        relay.registry.end_all(patient());
        sleep(seconds(19)).await;
        assert!(!relay.session.is_finished());
        let (client, upstream) = (relay.client.clone(), relay.upstream.clone());
        let end = relay.end().await;
        assert!(end.duration >= seconds(20) && end.duration < seconds(28), "{:?}", end.duration);
        let (whole, stuck) = if client_sends { (client, upstream) } else { (upstream, client) };
        assert_eq!(whole.frames().len(), 1, "the side whose stream stands between two frames is told");
        assert_eq!(stuck.written().len(), 500, "nothing is put into the frame");
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_is_told_without_the_answer_of_a_client_that_gives_none() {
    let relay = Relay::start(rules());
    relay.registry.end_all(patient());
    sleep(seconds(4)).await;
    assert_eq!(told(&relay.upstream), []);
    sleep(seconds(2)).await;
    assert_eq!(told(&relay.upstream), [close(1001, GONE)]);
    let end = relay.end().await;
    assert_eq!((end.client.sent, end.client.received, end.upstream.sent), (Some(1012), None, Some(1001)));
    assert!(end.duration < seconds(13), "{:?}", end.duration);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_reads_slowly_still_gets_what_the_client_sent_before_it_knew() {
    for (takes, delivered, detail) in [(100_000, 20, Detail::None), (0, 0, Detail::Undelivered)] {
        let relay = Relay::start(RelayRules { slow_timeout: Some(seconds(20)), ..rules() });
        relay.upstream.takes(Take::Bytes(0));
        let message = masked(BINARY, &[7; 60_000]);
        (0..20).for_each(|_| relay.client.send(&message));
        calm().await;
        relay.registry.end_all(Order { patience: seconds(300), ..patient() });
        relay.client.send(&masked(CLOSE, &close_payload(1012, "")));
        let (mut written, upstream) = (Vec::new(), relay.upstream.clone());
        // Each pause is longer than `close_timeout`.
        for _ in 0..15 {
            sleep(seconds(8)).await;
            upstream.takes(Take::Bytes(takes));
            calm().await;
            written.extend(upstream.written());
        }
        let end = relay.end().await;
        assert!(written.len() >= delivered * message.len(), "{} bytes", written.len());
        assert_eq!((end.cause, end.detail), (Cause::Drain, detail));
        assert!(takes > 0 || end.duration < seconds(33), "one that takes nothing is slow: {:?}", end.duration);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_no_close_is_waited_for_while_it_sends() {
    let relay = Relay::start(rules());
    relay.registry.end_all(patient());
    for number in 0..12 {
        sleep(seconds(1)).await;
        assert!(told(&relay.upstream).iter().all(|(opcode, _)| *opcode != CLOSE), "after {number} s");
        relay.client.send(&masked(TEXT, b"on its way"));
    }
    sleep(seconds(4)).await;
    assert_eq!(told(&relay.upstream).len(), 1);
    sleep(seconds(2)).await;
    assert_eq!(told(&relay.upstream), [close(1001, GONE)]);
    let end = relay.end().await;
    assert_eq!((end.from_client.messages, end.detail), (12, Detail::None));
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_closes_before_it_is_told_gets_an_answer() {
    let relay = Relay::start(rules());
    relay.registry.end_all(patient());
    calm().await;
    relay.upstream.send(&unmasked(CLOSE, &close_payload(1000, "enough")));
    calm().await;
    relay.client.send(&masked(CLOSE, &close_payload(1012, "")));
    calm().await;
    assert_eq!(told(&relay.upstream), [close(1000, "")]);
    let end = relay.hang_up().await;
    assert_eq!((end.cause, end.upstream.received), (Cause::Drain, Some(1000)));
    assert!(end.duration < seconds(1));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_closes_while_messages_are_waited_for_is_the_cause() {
    let relay = Relay::start(rules());
    relay.upstream.send(&fragment(TEXT, false, false, b"one"));
    calm().await;
    relay.registry.end_all(patient());
    calm().await;
    relay.client.send(&masked(CLOSE, &close_payload(4001, "bye")));
    calm().await;
    assert_eq!(told(&relay.upstream), [close(4001, "bye")]);
    relay.upstream.send(&unmasked(CLOSE, &close_payload(4001, "bye")));
    assert_eq!(relay.hang_up().await.cause, Cause::ClientClosed);
}

#[tokio::test(start_paused = true)]
async fn an_urgent_order_behind_a_patient_one_ends_a_message_at_once() {
    for (cause, code) in [(Cause::AccessRevoked, 1008_u16), (Cause::UpstreamLost, 1011)] {
        let relay = Relay::start(rules());
        relay.client.send(&fragment(BINARY, false, true, b"one"));
        calm().await;
        relay.registry.end_all(patient());
        calm().await;
        relay.registry.end_all(cause);
        calm().await;
        relay.client.send(&fragment(CONTINUATION, false, true, b"two"));
        calm().await;
        assert_eq!(told(&relay.client)[0].1[..2], code.to_be_bytes(), "{cause:?}");
        assert_eq!(told(&relay.upstream), [(BINARY, b"one".to_vec()), close(1001, GONE)], "{cause:?}");
        let end = relay.end().await;
        assert_eq!((end.cause, end.side), (cause, Side::Gateway));
        assert!(end.duration < seconds(8), "{:?}", end.duration);
    }
}

#[tokio::test(start_paused = true)]
async fn an_urgent_order_behind_the_close_lets_nothing_more_pass() {
    let relay = Relay::start(rules());
    relay.registry.end_all(patient());
    calm().await;
    relay.client.send(&masked(TEXT, b"before"));
    calm().await;
    relay.registry.end_all(Cause::AccessRevoked);
    calm().await;
    relay.client.send(&masked(TEXT, b"behind"));
    calm().await;
    assert_eq!(told(&relay.client), [close(1012, GOODBYE)]);
    assert_eq!(told(&relay.upstream), [(TEXT, b"before".to_vec()), close(1001, GONE)]);
    let end = relay.hang_up().await;
    assert_eq!((end.cause, end.client.sent), (Cause::Drain, Some(1012)), "what it was told stays the cause");
}

#[tokio::test(start_paused = true)]
async fn the_less_patient_of_two_orders_counts() {
    let order = |cause: Cause, patience| Order { patience: seconds(patience), ..cause.into() };
    let [sooner, later] = [5, 20].map(|patience| order(Cause::RouteRemoved, patience));
    for (second, cause, lasts) in [(sooner, Cause::RouteRemoved, 11), (later, Cause::Drain, 20)] {
        let relay = Relay::start(rules());
        relay.client.send(&fragment(BINARY, false, true, b"one"));
        calm().await;
        relay.registry.end_all(patient());
        sleep(seconds(6)).await;
        relay.registry.end_all(second);
        let client = relay.client.clone();
        sleep(seconds(lasts - 7)).await;
        assert_eq!(told(&client), []);
        sleep(seconds(2)).await;
        assert_eq!(told(&client).len(), 1);
        assert_eq!(relay.end().await.cause, cause);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_cut_leaves_its_record_at_once() {
    type Begin<'a> = &'a dyn Fn(&Relay);
    let cases: [(&str, Begin<'_>, Cause); 4] = [
        ("idle", &|_| {}, Cause::Drain),
        ("ordered", &|relay| relay.registry.end_all(patient()), Cause::Drain),
        ("in the midst of a message", &|relay| relay.client.send(&masked(TEXT, b"hello")[..8]), Cause::Drain),
        (
            "closed, and not answered",
            &|relay| relay.client.send(&masked(CLOSE, &close_payload(1000, ""))),
            Cause::ClientClosed,
        ),
    ];
    for (name, begin, cause) in cases {
        let relay = Relay::start(rules());
        begin(&relay);
        calm().await;
        let living = relay.registry.find(&Selector::default());
        assert_eq!(relay.registry.cut(&living), 1);
        let registry = relay.registry.clone();
        let end = relay.end().await;
        assert_eq!((end.cause, end.detail), (cause, Detail::Cut), "{name}");
        assert!(end.duration < seconds(1), "{name}");
        assert_eq!(registry.cut(&living), 0);
    }
}

// ---- Broken peers ----

#[tokio::test(start_paused = true)]
async fn a_reset_between_frames_is_told_to_the_other_side() {
    for (broken, cause, detail) in [
        (Give::Fail(ErrorKind::ConnectionReset), Cause::ClientLost, Detail::Io(ErrorKind::ConnectionReset)),
        (Give::End, Cause::ClientLost, Detail::EndOfStream),
        (Give::Fail(ErrorKind::UnexpectedEof), Cause::ClientLost, Detail::EndOfStream),
    ] {
        let relay = Relay::start(rules());
        relay.client.give([broken.clone()]);
        calm().await;
        assert_eq!(told(&relay.upstream), [close(1001, "client left")]);
        relay.upstream.send(&unmasked(CLOSE, &close_payload(1001, "")));
        relay.upstream.give([Give::End]);
        let end = relay.end().await;
        assert_eq!((end.cause, end.side, end.detail), (cause, Side::Client, detail));
        assert_eq!((end.client.sent, end.client.received), (None, None));

        let relay = Relay::start(rules());
        relay.upstream.give([broken]);
        calm().await;
        assert_eq!(told(&relay.client), [close(1011, "upstream connection lost")]);
        relay.client.send(&masked(CLOSE, &close_payload(1011, "")));
        relay.client.give([Give::End]);
        let end = relay.end().await;
        assert_eq!((end.cause, end.side, end.detail), (Cause::UpstreamLost, Side::Upstream, detail));
        assert_eq!((end.upstream.sent, end.upstream.received), (None, None));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_inside_a_frame_ends_the_other_stream_without_a_close() {
    for side in [Side::Client, Side::Upstream] {
        let relay = Relay::start(rules());
        let frame = if side == Side::Client { masked(BINARY, &[1; 100]) } else { unmasked(BINARY, &[1; 100]) };
        let (broken, other) = match side {
            Side::Client => (&relay.client, relay.upstream.clone()),
            _ => (&relay.upstream, relay.client.clone()),
        };
        broken.give([Give::Bytes(frame[..50].to_vec()), Give::Fail(ErrorKind::ConnectionReset)]);
        calm().await;
        assert_eq!(other.written(), &frame[..50], "no Close fits into a frame");
        assert!(other.is_shut());
        other.give([Give::End]);
        let end = relay.end().await;
        assert_eq!(end.side, side);
        assert!(end.duration < seconds(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_half_header_at_the_end_of_a_stream_is_not_passed_and_a_close_can_follow() {
    let relay = Relay::start(rules());
    relay.client.give([Give::Bytes(masked(BINARY, &[0; 300])[..5].to_vec()), Give::End]);
    calm().await;
    assert_eq!(told(&relay.upstream), [close(1001, "client left")]);
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_client_still_gets_what_was_on_its_way() {
    let relay = Relay::start(rules());
    relay.client.give([Give::End]);
    calm().await;
    relay.upstream.send(&concat([&unmasked(TEXT, b"late")[..], &unmasked(CLOSE, &close_payload(1001, ""))]));
    calm().await;
    assert_eq!(told(&relay.client), [(TEXT, b"late".to_vec())]);
    assert!(relay.client.is_shut());
    relay.upstream.give([Give::End]);
    assert_eq!(relay.end().await.cause, Cause::ClientLost);
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_upstream_still_gets_what_was_on_its_way() {
    let relay = Relay::start(rules());
    relay.upstream.give([Give::End]);
    calm().await;
    relay.client.send(&concat([&masked(TEXT, b"late")[..], &masked(CLOSE, &close_payload(1011, ""))]));
    calm().await;
    assert_eq!(told(&relay.upstream), [(TEXT, b"late".to_vec())]);
    assert_eq!(told(&relay.client), [close(1011, "upstream connection lost")]);
    assert!(relay.client.is_shut() && relay.upstream.is_shut());
}

#[tokio::test(start_paused = true)]
async fn a_close_in_the_receive_buffer_tells_more_than_a_failed_write() {
    let relay = Relay::start(rules());
    relay.upstream.takes(Take::Fail(ErrorKind::BrokenPipe));
    relay.client.send(&masked(TEXT, b"into the void"));
    calm().await;
    relay.upstream.send(&unmasked(CLOSE, &close_payload(4000, "kicked")));
    calm().await;
    assert_eq!(told(&relay.client), [close(4000, "kicked")]);
    relay.client.send(&masked(CLOSE, &close_payload(4000, "")));
    let end = relay.hang_up().await;
    assert_eq!((end.cause, end.upstream.received, end.upstream.sent), (Cause::UpstreamClosed, Some(4000), None));
}

#[tokio::test(start_paused = true)]
async fn a_side_that_cannot_be_written_to_and_says_nothing_is_lost() {
    let relay = Relay::start(rules());
    relay.upstream.takes(Take::Fail(ErrorKind::BrokenPipe));
    relay.client.send(&masked(TEXT, b"into the void"));
    sleep(seconds(1)).await;
    assert_eq!(told(&relay.client), [close(1011, "upstream connection lost")]);
    let end = relay.end().await;
    assert_eq!((end.cause, end.detail), (Cause::UpstreamLost, Detail::Io(ErrorKind::BrokenPipe)));
}

#[tokio::test(start_paused = true)]
async fn a_record_claims_no_close_that_could_not_be_written() {
    let relay = Relay::start(rules());
    relay.client.takes(Take::Fail(ErrorKind::BrokenPipe));
    relay.client.send(&masked(PING, b"its pong fails"));
    calm().await;
    relay.client.send(&masked(CLOSE, &close_payload(1000, "")));
    let end = relay.end().await;
    assert_eq!((end.cause, end.client.received, end.client.sent), (Cause::ClientClosed, Some(1000), None));
}

#[tokio::test(start_paused = true)]
async fn a_violation_is_told_to_both_and_the_culprits_stream_ends_behind_the_close() {
    for side in [Side::Client, Side::Upstream] {
        let relay = Relay::start(rules());
        let good = if side == Side::Client { masked(TEXT, b"good") } else { unmasked(TEXT, b"good") };
        let bad = if side == Side::Client { unmasked(TEXT, b"bad") } else { masked(TEXT, b"bad") };
        let (culprit, other) = match side {
            Side::Client => (relay.client.clone(), relay.upstream.clone()),
            _ => (relay.upstream.clone(), relay.client.clone()),
        };
        culprit.send(&concat([&good[..], &bad]));
        calm().await;
        let (to_other, answer) = match side {
            Side::Client => (close(1001, "client misbehaved"), unmasked(CLOSE, &close_payload(1001, ""))),
            _ => (close(1011, "upstream misbehaved"), masked(CLOSE, &close_payload(1011, ""))),
        };
        assert_eq!(told(&other), [(TEXT, b"good".to_vec()), to_other]);
        assert!(told(&culprit).is_empty(), "what the other side answered before goes first");
        other.send(&answer);
        calm().await;
        assert_eq!(told(&culprit), [close(1002, "protocol error")]);
        assert!(culprit.is_shut(), "none of its frames is believed, so that no answer can be awaited");
        let end = relay.hang_up().await;
        assert_eq!((end.cause, end.side), (Cause::ProtocolError, side));
        assert!(end.duration < seconds(1));
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_answered_before_a_fault_goes_before_its_close() {
    for (side, good, bad, answer) in [
        (Side::Client, masked(TEXT, b"good"), unmasked(TEXT, b"bad"), unmasked(TEXT, b"answer")),
        (Side::Upstream, unmasked(TEXT, b"good"), masked(TEXT, b"bad"), masked(TEXT, b"answer")),
    ] {
        let relay = Relay::start(rules());
        let (culprit, other) = match side {
            Side::Upstream => (&relay.upstream, &relay.client),
            _ => (&relay.client, &relay.upstream),
        };
        culprit.send(&concat([&good[..], &bad]));
        calm().await;
        sleep(Duration::from_millis(900)).await;
        other.send(&answer);
        calm().await;
        assert_eq!(told(culprit), [(TEXT, b"answer".to_vec())], "by the {side:?}");
        // The other side does not answer our Close: the culprit waits no longer than a second for its own.
        sleep(Duration::from_millis(200)).await;
        assert_eq!(told(culprit), [close(1002, "protocol error")], "by the {side:?}");
        assert_eq!(relay.hang_up().await.cause, Cause::ProtocolError);
    }
}

#[tokio::test(start_paused = true)]
async fn no_ping_follows_our_close() {
    let heartbeat = Heartbeat { interval: seconds(1), timeout: seconds(10) };
    let relay = Relay::start(RelayRules { strict: true, heartbeat: Some(heartbeat), ..rules() });
    let text = masked(TEXT, &[b'x'; 100]);
    relay.client.send(&text[..50]);
    calm().await;
    relay.client.send(&[0xff; 30]);
    calm().await;
    sleep(Duration::from_millis(1500)).await;
    relay.upstream.send(&unmasked(PING, b"is it alive?"));
    calm().await;
    assert_eq!(told(&relay.client), [close(1007, "payload is not UTF-8")]);
    assert_eq!(relay.hang_up().await.cause, Cause::InvalidPayload);
}

#[tokio::test(start_paused = true)]
async fn limits_are_told_with_1009() {
    let limits = RelayRules { frame_bytes_max: 100, message_bytes_max: 150, ..rules() };
    let fragments = |mask| {
        concat([&fragment(TEXT, false, mask, &[b'x'; 100])[..], &fragment(CONTINUATION, true, mask, &[b'x'; 51])])
    };
    for (name, up, cause, reason) in [
        ("one frame", masked(TEXT, &[b'x'; 101]), Cause::FrameTooBig, "frame too big"),
        ("over fragments", fragments(true), Cause::MessageTooBig, "message too big"),
    ] {
        let relay = Relay::start(limits.clone());
        relay.client.send(&up);
        calm().await;
        assert_eq!(told(&relay.upstream).last(), Some(&close(1001, "client misbehaved")), "{name}");
        sleep(seconds(1)).await;
        assert_eq!(told(&relay.client), [close(1009, reason)], "{name}");
        assert_eq!(relay.hang_up().await.cause, cause, "{name}");
    }
    let relay = Relay::start(limits);
    relay.upstream.send(&fragments(false));
    calm().await;
    assert_eq!(told(&relay.client).last(), Some(&close(1011, "upstream misbehaved")));
    sleep(seconds(1)).await;
    assert_eq!(told(&relay.upstream), [close(1009, "message too big")]);
    assert_eq!(relay.hang_up().await.side, Side::Upstream);
}

// ---- Any frames, any cuts, any writes ----

/// A frame before it is masked or not.
#[derive(Clone)]
struct Plain {
    opcode: u8,
    fin: bool,
    payload: Vec<u8>,
}

impl std::fmt::Debug for Plain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}{}:{}", self.opcode, if self.fin { "." } else { "…" }, self.payload.len())
    }
}

fn any_control() -> impl Strategy<Value = Plain> {
    (prop::sample::select(vec![PING, PONG]), prop::collection::vec(any::<u8>(), 0..=125))
        .prop_map(|(opcode, payload)| Plain { opcode, fin: true, payload })
}

/// One message in 1 to 4 frames, with pings and pongs before each.
fn any_message() -> impl Strategy<Value = Vec<Plain>> {
    let payload = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..300),
        1 => (65_000..70_000_usize).prop_map(|len| vec![0x5a; len]),
    ];
    let part = (prop::collection::vec(any_control(), 0..3), payload);
    (prop::bool::ANY, prop::collection::vec(part, 1..4)).prop_map(|(text, parts)| {
        let last = parts.len() - 1;
        let mut frames = Vec::new();
        for (at, (controls, payload)) in parts.into_iter().enumerate() {
            frames.extend(controls);
            let opcode = if at > 0 { CONTINUATION } else { [BINARY, TEXT][usize::from(text)] };
            frames.push(Plain { opcode, fin: at == last, payload });
        }
        frames
    })
}

/// What one side sends, how it arrives, and how that side takes what comes.
#[derive(Debug, Clone)]
struct Play {
    frames: Vec<Plain>,
    /// How far each piece reaches; 0 is a Pending.
    cuts: Vec<usize>,
    takes: Vec<usize>,
}

fn any_play() -> impl Strategy<Value = Play> {
    let messages = prop::collection::vec(any_message(), 0..6).prop_map(|messages| messages.concat());
    let cuts = prop::collection::vec(prop_oneof![1 => Just(0_usize), 3 => 1..20_usize, 1 => 20..70_000_usize], 0..20);
    let takes = prop::collection::vec(prop_oneof![1 => Just(0_usize), 3 => 1..50_usize, 1 => Just(1 << 20)], 0..12);
    (messages, cuts, takes).prop_map(|(frames, mut cuts, mut takes)| {
        // Each comes to an end: a peer that does not is another test's.
        cuts.push(4000);
        takes.push(4000);
        Play { frames, cuts, takes }
    })
}

impl Play {
    fn encode(&self, mask: bool) -> Vec<Vec<u8>> {
        self.frames.iter().map(|frame| fragment(frame.opcode, frame.fin, mask, &frame.payload)).collect()
    }

    fn gives(&self, bytes: &[u8]) -> Vec<Give> {
        let (mut gives, mut at, mut cuts) = (Vec::new(), 0, self.cuts.iter().cycle());
        while at < bytes.len() {
            let end = (at + cuts.next().expect("at least one")).min(bytes.len());
            gives.push(if end == at { Give::Pending } else { Give::Bytes(bytes[at..end].to_vec()) });
            at = end;
        }
        gives
    }

    /// The payloads of its pings.
    fn pings(&self) -> Vec<Vec<u8>> {
        self.frames.iter().filter(|frame| frame.opcode == PING).map(|frame| frame.payload.clone()).collect()
    }
}

/// Data frames as they came, everything else apart.
fn apart(frames: Vec<Frame>) -> (Vec<u8>, Vec<Frame>) {
    let (data, control): (Vec<Frame>, Vec<Frame>) = frames.into_iter().partition(|frame| frame.opcode < 8);
    (data.into_iter().flat_map(|frame| frame.raw).collect(), control)
}

fn is_subsequence(part: &[Vec<u8>], whole: &[Vec<u8>]) -> bool {
    let mut whole = whole.iter();
    part.iter().all(|wanted| whole.any(|found| found == wanted))
}

/// Rates that delay: all of them, some, or none.
fn any_rates() -> impl Strategy<Value = (RouteRates, Option<Rate>)> {
    let per = seconds(1);
    let rate =
        || prop::option::of((1..20_u32).prop_map(move |count| Rate { count: count.try_into().expect("not 0"), per }));
    let bytes = (2000..200_000_u64).prop_map(move |bytes| ByteRate { bytes: bytes.try_into().expect("not 0"), per });
    let bytes = prop::option::of(bytes);
    let messages = (rate(), rate()).prop_map(|(session, client)| Scoped { session, client, route: None });
    let bytes = (bytes.clone(), bytes).prop_map(|(client, route)| Scoped { session: None, client, route });
    (messages, bytes, rate()).prop_map(|(messages, bytes, control)| (RouteRates { messages, bytes }, control))
}

/// Plays both sides until all is quiet, then closes from one of them or both.
async fn played(
    up: Play,
    down: Play,
    (rates, control_per_session): (RouteRates, Option<Rate>),
    client_closes: bool,
    upstream_closes: bool,
) -> Result<(), TestCaseError> {
    let limited = rates != RouteRates::default() || control_per_session.is_some();
    let registry = Arc::new(Registry::default());
    let rules = RelayRules { control_per_session, ..rules() };
    let relay = Relay::with(rules, rates, registry.clone(), [b""; 2]);
    let sides = [(&relay.client, &relay.upstream, &up, true), (&relay.upstream, &relay.client, &down, false)];
    for (wire, _, play, _) in sides {
        wire.takes(Take::Pattern(play.takes.clone(), 0));
    }
    for (wire, _, play, mask) in sides {
        wire.give(play.gives(&play.encode(mask).concat()));
    }
    sleep(if limited { seconds(3600) } else { Duration::from_millis(1) }).await;
    prop_assert_eq!(registry.held_bytes(), 0);
    for (wire, other, play, mask) in sides {
        let sent: Vec<u8> = play.encode(mask).into_iter().filter(|frame| frame[0] & 0x08 == 0).flatten().collect();
        let written = other.written();
        let (whole, rest) = frames(&written);
        prop_assert!(rest.is_empty(), "nothing stays half-written, or held back");
        let (data, ours) = apart(whole);
        prop_assert!(data == sent, "the same data frames, byte for byte");
        // What is no data towards `other` are our answers to its own pings.
        let asked = if mask { down.pings() } else { up.pings() };
        let (answers, pings): (Vec<_>, Vec<_>) = ours.iter().partition(|frame| frame.opcode == PONG);
        let pongs: Vec<Vec<u8>> = answers.iter().map(|frame| frame.payload.clone()).collect();
        prop_assert!(ours.iter().all(|frame| frame.masked == mask));
        prop_assert!(is_subsequence(&pongs, &asked), "{:?} of {:?}", pongs, asked);
        // Held back for long enough, a ping of the upstream's finds a client that has to prove first that it is alive.
        prop_assert!(pings.iter().all(|frame| frame.opcode == PING && limited && !mask), "{:?}", pings);
        prop_assert!(pongs.last() == asked.last() || (limited && mask), "the newest ping is answered");
        let _ = wire;
    }
    if client_closes {
        relay.client.send(&masked(CLOSE, &close_payload(4001, "c")));
    }
    if upstream_closes {
        relay.upstream.send(&unmasked(CLOSE, &close_payload(4002, "u")));
    }
    calm().await;
    if client_closes {
        prop_assert_eq!(told(&relay.upstream), [close(4001, "c")]);
    }
    if upstream_closes {
        prop_assert_eq!(told(&relay.client), [close(4002, "u")]);
    }
    let end = relay.hang_up().await;
    let expected = match (client_closes, upstream_closes) {
        (true, _) => Cause::ClientClosed,
        (false, true) => Cause::UpstreamClosed,
        (false, false) => Cause::ClientLost,
    };
    prop_assert_eq!(end.cause, expected);
    let payload = |play: &Play| {
        let data = play.frames.iter().filter(|frame| frame.opcode < 8);
        data.map(|frame| frame.payload.len() as u64).sum::<u64>()
    };
    prop_assert_eq!((end.from_client.bytes, end.from_upstream.bytes), (payload(&up), payload(&down)));
    let texts = |play: &Play| play.frames.iter().filter(|frame| frame.opcode == 1).count() as u64;
    let texts = Texts { from_client: texts(&up), from_upstream: texts(&down) };
    let flow = Flow { from_client: end.from_client, from_upstream: end.from_upstream, texts };
    let totals: Vec<Total> = registry.traffic().into_iter().map(|(_, total)| total).collect();
    prop_assert_eq!(totals, [Total { open: 0, ended: 1, flow }], "the record's numbers are the registry's");
    prop_assert!(limited || end.duration < seconds(1));
    Ok(())
}

/// What goes wrong, or ends the session, on one side or in the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Drain,
    /// A drain that waits for messages.
    Leave,
    Close(Side),
    End(Side),
    Reset(Side),
    /// A frame that breaks a rule.
    Violation(Side),
    /// Writing to it fails, while it can still be read.
    Deaf(Side),
    /// It takes nothing any more.
    Stuck(Side),
}

impl Trouble {
    /// Whether this side is the one that is broken, so that it need not hear anything.
    fn breaks(self, side: Side) -> bool {
        [Trouble::End(side), Trouble::Reset(side), Trouble::Deaf(side), Trouble::Stuck(side)].contains(&self)
    }

    fn strike(self, relay: &Relay) {
        let wire = |side| if side == Side::Client { &relay.client } else { &relay.upstream };
        match self {
            Trouble::Drain => relay.registry.end_all(Cause::Drain),
            Trouble::Leave => relay.registry.end_all(Order { patience: seconds(3), ..Cause::Drain.into() }),
            Trouble::Close(Side::Client) => relay.client.send(&masked(CLOSE, &close_payload(4001, "c"))),
            Trouble::Close(_) => relay.upstream.send(&unmasked(CLOSE, &close_payload(4002, "u"))),
            Trouble::End(side) => wire(side).give([Give::End]),
            Trouble::Reset(side) => wire(side).give([Give::Fail(ErrorKind::ConnectionReset)]),
            Trouble::Violation(side) => wire(side).send(&[0x83, 0x83]),
            Trouble::Deaf(side) => wire(side).takes(Take::Fail(ErrorKind::BrokenPipe)),
            Trouble::Stuck(side) => wire(side).takes(Take::Bytes(0)),
        }
    }
}

fn any_trouble() -> impl Strategy<Value = Trouble> {
    let side = || prop::bool::ANY.prop_map(|client| if client { Side::Client } else { Side::Upstream });
    prop_oneof![
        Just(Trouble::Drain),
        Just(Trouble::Leave),
        side().prop_map(Trouble::Close),
        side().prop_map(Trouble::End),
        side().prop_map(Trouble::Reset),
        side().prop_map(Trouble::Violation),
        side().prop_map(Trouble::Deaf),
        side().prop_map(Trouble::Stuck),
    ]
}

/// Plays both sides in small pieces; troubles strike between them, wherever that is in a frame.
async fn troubled(up: Play, down: Play, troubles: Vec<(usize, Trouble)>) -> Result<(), TestCaseError> {
    let relay = Relay::start(RelayRules { max_age: Some(seconds(3600)), ..rules() });
    let sides = [(Side::Client, &relay.client, &up, true), (Side::Upstream, &relay.upstream, &down, false)];
    for (_, wire, play, _) in sides {
        wire.takes(Take::Pattern(play.takes.clone(), 0));
    }
    let gives = sides.map(|(_, _, play, mask)| play.gives(&play.encode(mask).concat()));
    let last = troubles.iter().map(|(at, _)| *at).max().unwrap_or(0);
    for at in 0..=last {
        for ((_, wire, ..), gives) in sides.iter().zip(&gives) {
            wire.give(gives.get(at).cloned());
        }
        calm().await;
        for (_, trouble) in troubles.iter().filter(|(when, _)| *when == at) {
            trouble.strike(&relay);
            calm().await;
        }
    }
    let (client, upstream) = (relay.client.clone(), relay.upstream.clone());
    let sent = [&down, &up].map(|play| {
        let frames = play.encode(std::ptr::eq(play, &up)).into_iter();
        frames.filter(|frame| frame[0] & 0x08 == 0).flatten().collect::<Vec<u8>>()
    });
    let end = relay.end().await;
    // A side that is stuck, or stops within a frame, is noticed later than at once.
    let ended_by_trouble = end.cause != Cause::MaxAge && end.detail != Detail::FrameTimeout;
    // At the most: a second for the client's verdict, close_timeout, two to linger; timers fire up to a millisecond late.
    // Who is asked to leave may end a message, and the upstream is told after the client.
    let leaves = troubles.iter().any(|(_, trouble)| *trouble == Trouble::Leave);
    let most = if leaves { 16_200 } else { 8_100 };
    prop_assert!(!ended_by_trouble || end.duration < Duration::from_millis(most), "{:?}", end.duration);
    for (side, wire, codes, sent) in
        [(Side::Client, client, end.client, &sent[0]), (Side::Upstream, upstream, end.upstream, &sent[1])]
    {
        let (whole, rest) = frames(&wire.written());
        let closes: Vec<&Frame> = whole.iter().filter(|frame| frame.opcode == CLOSE).collect();
        prop_assert!(closes.len() <= 1, "one Close: {closes:?}");
        if let [close] = closes[..] {
            prop_assert_eq!(Some(close), whole.last(), "nothing behind the Close");
            prop_assert!(rest.is_empty() || wire.is_shut(), "nothing behind the Close");
        }
        let code =
            closes.first().map(|close| close.payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code)));
        prop_assert_eq!(codes.sent, code, "the record is right");
        let hangs = end.detail == Detail::FrameTimeout && end.side == side;
        let healthy = !hangs && !troubles.iter().any(|(_, trouble)| trouble.breaks(side));
        prop_assert!(!healthy || !rest.is_empty() || code.is_some(), "{:?} is told why", side);
        prop_assert!(!healthy || wire.is_shut(), "{:?}: its stream is ended", side);
        let (mut data, ours) = apart(whole);
        prop_assert!(ours.iter().all(|frame| [CLOSE, PONG, PING].contains(&frame.opcode)));
        // Half of a Close of ours that a peer would not take is no data.
        if rest.first().is_some_and(|first| first & 0x08 == 0) {
            data.extend(rest);
        }
        // Inside a frame, a Close or what was to break a rule is payload.
        let other = if side == Side::Client { Side::Upstream } else { Side::Client };
        let spoils = [Trouble::Violation(other), Trouble::Close(other)];
        let spoilt = troubles.iter().any(|(_, trouble)| spoils.contains(trouble));
        prop_assert!(spoilt || sent.starts_with(&data), "what arrives is what was sent, up to some point");
    }
    Ok(())
}

fn paused(play: impl Future<Output = Result<(), TestCaseError>>) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(play)
}

proptest! {
    // What fails becomes a test with a name above, not a file of seeds.
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_frames_any_cuts_any_writes(
        up in any_play(),
        down in any_play(),
        client_closes: bool,
        upstream_closes: bool,
    ) {
        paused(played(up, down, Default::default(), client_closes, upstream_closes))?;
    }

    #[test]
    fn rates_that_delay_lose_and_reorder_nothing(up in any_play(), down in any_play(), rates in any_rates()) {
        paused(played(up, down, rates, true, false))?;
    }

    #[test]
    fn any_trouble_anywhere_is_told_once_and_in_time(
        up in any_play(),
        down in any_play(),
        troubles in prop::collection::vec((0..40_usize, any_trouble()), 1..4),
    ) {
        paused(troubled(up, down, troubles))?;
    }
}
