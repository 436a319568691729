//! The relay between two streams that the fuzzer plays: what they send, where it is cut, what they take, when they stop,
//! and how time passes.
//!
//! What goes in comes out, byte for byte, but for our own control frames between the frames of the peers; one Close at the
//! most, and nothing behind it; one end, in time, whose record is right; and bounded memory all along.

#[path = "../../tests/relay/wire.rs"]
mod wire;

use std::io::ErrorKind;
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use arbitrary::Unstructured;
use bytes::Bytes;
use tidegate::config::model::{
    ByteRate, Compression, Heartbeat, Log, OnExcess, PingMode, Rate, RelayRules, RouteRates, Scoped,
};
use tidegate::limits::terms::{Account, Standing, Terms};
use tidegate::observe::log::Leaves;
use tidegate::policy::client::{Address, ClientKey};
use tidegate::proto::frame::Opcode;
use tidegate::proto::scan::Rules;
use tidegate::proto::trace::Trace;
use tidegate::relay::end::{Codes, Detail};
use tidegate::relay::registry::{About, Order, Registry};
use tidegate::relay::session::Opened;
use tidegate::relay::{Cause, End, Session, Side};
use tokio::time::{sleep, timeout};

use super::scan::{Reading, read};
use wire::{Frame, Give, Take, Wire, frames};

const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Every session ends by then.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// What two sides may make us hold: one read of 64 KiB for each, and the pongs to one that is nothing but pings.
const HELD_MAX: usize = 512 * 1024;
/// What one side sends at most, so that small writes come to an end.
const SENT_MAX: usize = 150_000;
const STEPS_MAX: usize = 80;
const CLOSE_TIMEOUT_MAX: Duration = Duration::from_secs(5);
const PATIENCE_MAX: Duration = Duration::from_secs(15);
/// Clients that a rate is counted for; there is one.
const CLIENTS_MAX: usize = 10;

pub fn run(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let mut source = Unstructured::new(data);
    let played = runtime.expect("a runtime").block_on(play(&mut source));
    // An input that ends too early is none.
    let _ = played;
}

/// One of the two, and what it did.
struct Peer {
    side: Side,
    wire: Wire,
    /// Made, and not sent yet.
    queue: Vec<u8>,
    sent: Vec<u8>,
    /// It has refused bytes for as long as it liked.
    was_stuck: bool,
    /// It ended, broke or stopped to take anything.
    is_troubled: bool,
}

impl Peer {
    fn flush(&mut self, most: usize) {
        let rest = self.queue.split_off(self.queue.len().min(most));
        let piece = std::mem::replace(&mut self.queue, rest);
        if !piece.is_empty() {
            self.sent.extend_from_slice(&piece);
            self.wire.give([Give::Bytes(piece)]);
        }
    }

    fn has_room(&self, more: usize) -> bool {
        self.queue.len() + self.sent.len() + more <= SENT_MAX
    }

    /// Puts a frame behind the queue: mostly a right one, sometimes with what breaks a rule.
    fn frame(&mut self, source: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        let [first, size, odd]: [u8; 3] = source.arbitrary()?;
        let len = if size < 200 { usize::from(size) } else { usize::from(size - 199) * 1250 };
        if !self.has_room(len + 14) {
            return Ok(());
        }
        let payload = match size {
            0..200 => source.bytes(len.min(source.len()))?.to_vec(),
            _ => vec![source.arbitrary::<u8>()? & 0x7f; len],
        };
        let masked = (self.side == Side::Client) != (odd == 0xff);
        let mut frame = vec![first];
        let flag = if masked { 0x80 } else { 0 };
        match payload.len() {
            len if len < 126 => frame.push(len as u8 | flag),
            len if len < 65_536 => {
                frame.push(126 | flag);
                frame.extend((len as u16).to_be_bytes());
            }
            len => {
                frame.push(127 | flag);
                frame.extend((len as u64).to_be_bytes());
            }
        }
        let key = [odd, size, 3, 4];
        if masked {
            frame.extend(key);
        }
        frame.extend(payload.iter().enumerate().map(|(at, byte)| if masked { byte ^ key[at % 4] } else { *byte }));
        self.queue.extend(frame);
        Ok(())
    }

    fn takes(&mut self, takes: Take) {
        self.was_stuck |= matches!(takes, Take::Bytes(_));
        self.is_troubled |= matches!(takes, Take::Fail(_));
        self.wire.takes(takes);
    }
}

struct Setting {
    rules: RelayRules,
    rates: RouteRates,
    deflate: bool,
    held_max: usize,
    early: [usize; 2],
}

impl Setting {
    fn take(source: &mut Unstructured<'_>) -> arbitrary::Result<Setting> {
        let flags: u16 = source.arbitrary()?;
        let is = |bit: u8| flags >> bit & 1 == 1;
        let [times, sizes, rate, early]: [u8; 4] = source.arbitrary()?;
        let seconds = |n: u8| Duration::from_secs(n.into());
        let (short, long) = (times % 8 + 1, times / 8 + 5);
        let count = NonZeroU32::from(std::num::NonZeroU8::new(rate).unwrap_or(std::num::NonZeroU8::MIN));
        let rate = Rate { count, per: Duration::from_secs(1) };
        let bytes = ByteRate {
            bytes: NonZeroU64::from(count).saturating_mul(NonZeroU64::MIN.saturating_add(63)),
            per: rate.per,
        };
        let messages = Scoped { session: is(9).then_some(rate), client: None, route: is(10).then_some(rate) };
        let rules = RelayRules {
            heartbeat: is(0).then_some(Heartbeat { interval: seconds(long), timeout: seconds(short) }),
            idle_timeout: is(1).then_some(seconds(long)),
            max_age: Some(MAX_AGE),
            frame_timeout: seconds(long),
            slow_timeout: is(2).then_some(seconds(long)),
            close_timeout: seconds(short).min(CLOSE_TIMEOUT_MAX),
            frame_bytes_max: if is(3) { u64::from(sizes) * 16 } else { u64::MAX },
            message_bytes_max: if is(4) { u64::from(sizes) * 32 } else { u64::MAX },
            fragments_max: NonZeroU32::new(u32::from(sizes)).filter(|_| is(5)),
            ping: if is(6) { PingMode::Forward } else { PingMode::Answer },
            compression: Compression::Pass,
            strict: is(7),
            control_per_session: is(11).then_some(rate),
            on_excess: if is(8) { OnExcess::Close } else { OnExcess::Delay },
        };
        let bytes = Scoped { session: None, client: is(12).then_some(bytes), route: None };
        Ok(Setting {
            rules,
            rates: RouteRates { messages, bytes },
            deflate: is(13),
            held_max: if is(14) { 4096 } else { usize::MAX },
            early: [early % 16, early / 16].map(usize::from),
        })
    }

    /// Nothing that was sent has to wait, and nothing is ended for what it costs.
    fn is_free(&self) -> bool {
        self.rates == RouteRates::default() && self.rules.control_per_session.is_none() && self.held_max == usize::MAX
    }

    fn read(&self, peer: &Peer) -> Reading {
        let rules = Rules {
            masked: peer.side == Side::Client,
            deflate: self.deflate,
            frame_bytes_max: self.rules.frame_bytes_max,
            message_bytes_max: self.rules.message_bytes_max,
            fragments_max: self.rules.fragments_max,
            strict: self.rules.strict,
        };
        read(&rules, &peer.sent)
    }
}

async fn play(source: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let setting = Setting::take(source)?;
    let registry = Arc::new(Registry::new(setting.held_max));
    let terms = Terms::new(setting.rules.clone(), setting.rates, CLIENTS_MAX);
    let mut gateway = Gateway { registry, standing: Standing::new(Arc::new(terms)), ordered: false, renewed: false };
    let mut streams = Vec::new();
    let mut peers = Vec::new();
    for (side, early) in [Side::Client, Side::Upstream].into_iter().zip(setting.early) {
        let (wire, stream) = Wire::new();
        let sent = source.bytes(early.min(source.len()))?.to_vec();
        streams.push(Opened { stream, early: Bytes::copy_from_slice(&sent) });
        peers.push(Peer { side, wire, queue: Vec::new(), sent, was_stuck: false, is_troubled: false });
    }
    let (Some(upstream), Some(client)) = (streams.pop(), streams.pop()) else { unreachable!("there are two") };
    let key = ClientKey::from(IpAddr::from([192, 0, 2, 1]));
    let account = Account::new(gateway.standing.clone(), key.into());
    let entry = gateway.registry.enter(gateway.about());
    let mut session = Session::new(client, upstream, account, setting.deflate, entry);
    let session = tokio::spawn(async move { session.run().await });

    for _ in 0..STEPS_MAX {
        if source.is_empty() {
            break;
        }
        step(source, &setting, &mut peers, &mut gateway).await?;
        let held = gateway.registry.held_bytes();
        assert!(held <= HELD_MAX, "{held} bytes are held");
    }
    for peer in &mut peers {
        peer.flush(usize::MAX);
        if !peer.is_troubled {
            peer.takes(Take::All);
        }
    }
    calm().await;
    let readings = [setting.read(&peers[0]), setting.read(&peers[1])];
    let mut written = [Vec::new(), Vec::new()];
    for (peer, written) in peers.iter().zip(&mut written) {
        written.extend(peer.wire.written());
    }
    let goes_on = |reading: &Reading| {
        reading.faults.is_empty() && !reading.controls.iter().any(|(opcode, _)| *opcode == Opcode::Close)
    };
    let untroubled = !gateway.ordered && !peers.iter().any(|peer| peer.is_troubled) && readings.iter().all(goes_on);
    let told = |written: &[u8]| frames(written).0.iter().any(|frame| frame.opcode == CLOSE);
    if untroubled
        && setting.is_free()
        && !gateway.renewed
        && !session.is_finished()
        && !written.iter().any(|written| told(written))
    {
        assert_eq!(gateway.registry.held_bytes(), 0, "nothing is held back from those who take everything");
        for (to, reading) in [(1, &readings[0]), (0, &readings[1])] {
            assert!(data(&written[to]) == reading.passed, "not all has come out");
        }
    }
    let end = timeout(MAX_AGE * 2, session).await.expect("it ends").expect("it does not panic");
    assert_eq!((gateway.registry.held_bytes(), gateway.registry.len()), (0, 0));
    for (peer, written) in peers.iter().zip(&mut written) {
        written.extend(peer.wire.written());
    }
    ended(&setting, &end, &readings, &gateway);
    for (to, codes) in [(0, end.client), (1, end.upstream)] {
        heard(&setting, &end, &peers[to], codes, &readings[1 - to], &readings[to], &written[to]);
    }
    Ok(())
}

/// What the gateway does to the session.
struct Gateway {
    registry: Arc<Registry>,
    standing: Arc<Standing>,
    ordered: bool,
    renewed: bool,
}

impl Gateway {
    fn about(&self) -> About {
        About {
            way: self.registry.way("listener", "route", "upstream", "server"),
            member: 1,
            client: Address::Local,
            secure: false,
            key: None,
            trace: Trace::of(&http::HeaderMap::new(), false, None, [1; 32]),
            leaves: Leaves::of(&Log::default(), 0),
        }
    }
}

/// One thing that happens.
async fn step(
    source: &mut Unstructured<'_>,
    setting: &Setting,
    peers: &mut [Peer],
    gateway: &mut Gateway,
) -> arbitrary::Result<()> {
    let op: u8 = source.arbitrary()?;
    let peer = &mut peers[usize::from(op >> 7)];
    match op & 0x0f {
        0..=3 => {
            peer.frame(source)?;
            peer.flush(usize::MAX);
        }
        4 => peer.frame(source)?,
        5 => {
            let len = source.int_in_range(0..=20_usize)?.min(source.len());
            if peer.has_room(len) {
                peer.queue.extend(source.bytes(len)?);
            }
        }
        6 | 7 => peer.flush(source.arbitrary::<u8>()?.into()),
        8 => peer.takes(Take::All),
        9 => {
            let left: u8 = source.arbitrary()?;
            peer.takes(Take::Bytes(left.into()));
        }
        10 => {
            let [a, b, c]: [u8; 3] = source.arbitrary()?;
            // It comes to an end.
            peer.takes(Take::Pattern(vec![a.into(), b.into(), c.into(), 4000], 0));
        }
        11 => peer.wire.give([Give::Pending]),
        12 | 13 => {
            let millis = [1, 20, 300, 999, 1000, 2500, 10_000, 61_000];
            sleep(Duration::from_millis(millis[usize::from(source.arbitrary::<u8>()? % 8)])).await;
        }
        14 => {
            let what: u8 = source.arbitrary()?;
            peer.is_troubled = true;
            match what % 3 {
                0 => peer.wire.give([Give::End]),
                1 => peer.wire.give([Give::Fail(ErrorKind::ConnectionReset)]),
                _ => peer.takes(Take::Fail(ErrorKind::BrokenPipe)),
            }
        }
        15 if op & 0x20 != 0 => {
            let other = Setting::take(source)?;
            // What may be sent stays, so that it can be read in one way.
            let same = setting.rules.clone();
            let rules = RelayRules {
                frame_bytes_max: same.frame_bytes_max,
                message_bytes_max: same.message_bytes_max,
                fragments_max: same.fragments_max,
                strict: same.strict,
                ping: same.ping,
                ..other.rules
            };
            let terms = gateway.standing.current().renew(rules, other.rates, CLIENTS_MAX);
            gateway.standing.put(Arc::new(terms));
            gateway.registry.renew(|_| true);
            gateway.renewed = true;
        }
        _ => {
            let [cause, wait]: [u8; 2] = source.arbitrary()?;
            let causes = [Cause::Drain, Cause::RouteRemoved, Cause::Overloaded, Cause::AccessRevoked];
            let cause = causes[usize::from(cause % 4)];
            gateway.registry.end_all(Order {
                cause,
                retry_after: u16::from(wait / 16),
                patience: PATIENCE_MAX.min(Duration::from_secs(u64::from(wait % 16))),
                cut: false,
            });
            gateway.ordered = true;
        }
    }
    if op & 0x40 == 0 {
        calm().await;
    }
    Ok(())
}

/// Lets everything happen that can happen without time passing.
async fn calm() {
    sleep(Duration::from_millis(1)).await;
}

/// The data frames, with what has arrived of one that is not whole.
fn data(written: &[u8]) -> Vec<u8> {
    let (whole, rest) = frames(written);
    let mut data: Vec<u8> = whole.into_iter().filter(|frame| frame.opcode < 8).flat_map(|frame| frame.raw).collect();
    if rest.first().is_some_and(|first| first & 0x08 == 0) {
        data.extend(rest);
    }
    data
}

/// The cause is one that there was.
fn ended(setting: &Setting, end: &End, [client, upstream]: &[Reading; 2], gateway: &Gateway) {
    // At the most: a second for a verdict, an order's patience, close_timeout, two seconds to linger; timers fire up to a
    // millisecond late.
    let most = MAX_AGE + Duration::from_millis(3_100) + PATIENCE_MAX + CLOSE_TIMEOUT_MAX * 2;
    assert!(end.duration <= most, "{:?}", end.duration);
    let closed = |reading: &Reading| reading.controls.last().is_some_and(|(opcode, _)| *opcode == Opcode::Close);
    let of_side = if end.side == Side::Upstream { upstream } else { client };
    if let Detail::Violation(violation) = end.detail {
        assert!(of_side.faults.contains(&violation), "{violation:?} of {:?}", of_side.faults);
        assert_eq!(end.cause, Cause::of(violation));
    }
    let holds = match end.cause {
        Cause::ClientClosed => end.side == Side::Client && closed(client),
        Cause::UpstreamClosed => end.side == Side::Upstream && closed(upstream),
        Cause::ClientLost => end.side == Side::Client,
        Cause::UpstreamLost => end.side == Side::Upstream,
        Cause::ProtocolError | Cause::InvalidPayload | Cause::FrameTooBig | Cause::MessageTooBig => {
            matches!(end.detail, Detail::Violation(_))
        }
        Cause::RateLimited => gateway.renewed || !setting.is_free(),
        Cause::SlowConsumer => {
            gateway.renewed || setting.rules.slow_timeout.is_some() || setting.held_max != usize::MAX
        }
        Cause::Idle => gateway.renewed || setting.rules.idle_timeout.is_some(),
        Cause::MaxAge => end.duration >= MAX_AGE,
        Cause::Drain | Cause::RouteRemoved | Cause::Overloaded | Cause::AccessRevoked => gateway.ordered,
    };
    assert!(holds, "{end:?}");
    for (traffic, reading) in [(end.from_client, client), (end.from_upstream, upstream)] {
        assert!(traffic.messages <= reading.messages_begun(), "{traffic:?}");
    }
}

/// What one side got is what the other sent, up to some point, with our own frames between, and its last word is a Close.
fn heard(setting: &Setting, end: &End, to: &Peer, codes: Codes, from_it: &Reading, own: &Reading, written: &[u8]) {
    let (whole, rest) = frames(written);
    let sent = from_it.may_have_passed();
    assert!(sent.starts_with(&data(written)), "{:?} got other bytes than were sent", to.side);
    let controls: Vec<&Frame> = whole.iter().filter(|frame| frame.opcode >= 8).collect();
    let masked = to.side == Side::Upstream;
    assert!(controls.iter().all(|frame| frame.masked == masked), "RFC 6455 section 5.1");

    let closes: Vec<&Frame> = controls.iter().copied().filter(|frame| frame.opcode == CLOSE).collect();
    assert!(closes.len() <= 1, "more than one Close: {closes:?}");
    let code = closes.first().map(|close| {
        assert!(std::ptr::eq(*close, &whole[whole.len() - 1]) && rest.is_empty(), "something stands behind the Close");
        close.payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code))
    });
    assert_eq!(codes.sent, code, "the record is right");
    let is_close_of = |reading: &Reading, payload: &[u8]| {
        reading.controls.iter().any(|(opcode, close)| *opcode == Opcode::Close && close == payload)
    };
    if let Some(close) = closes.first() {
        let ours = [1001, 1002, 1007, 1008, 1009, 1011, 1012, 1013].map(Some);
        let echo =
            own.controls.iter().any(|(opcode, sent)| *opcode == Opcode::Close && sent.starts_with(&close.payload));
        assert!(ours.contains(&code) || is_close_of(from_it, &close.payload) || echo, "{close:?} is nobody's");
    }
    // Half of a frame that is not taken is no reason to say nothing, but nothing can be said.
    let was_lost =
        end.side == to.side && matches!(end.cause, Cause::ClientLost | Cause::UpstreamLost | Cause::SlowConsumer);
    // Over the budget a side that takes nothing is given up, also when the end has begun for another reason.
    let gave_room = end.detail == Detail::HeldBytes && end.side == to.side || setting.held_max != usize::MAX;
    if !to.is_troubled && !to.was_stuck && rest.is_empty() && !was_lost && !gave_room {
        assert!(code.is_some(), "{:?} was not told why: {end:?}", to.side);
    }

    let pongs: Vec<&[u8]> =
        controls.iter().filter(|frame| frame.opcode == PONG).map(|frame| &frame.payload[..]).collect();
    let pings: Vec<&[u8]> =
        controls.iter().filter(|frame| frame.opcode == PING).map(|frame| &frame.payload[..]).collect();
    let sent = |reading: &'_ Reading, which: Opcode| -> Vec<Vec<u8>> {
        reading.controls.iter().filter(|(opcode, _)| *opcode == which).map(|(_, payload)| payload.clone()).collect()
    };
    let asked = sent(own, Opcode::Ping);
    if setting.rules.ping == PingMode::Answer {
        assert!(is_subsequence(&pongs, &asked), "{pongs:?} of {asked:?}");
        assert!(
            pings.windows(2).all(|two| two[0] == two[1]) && pings.iter().all(|ping| ping.len() == 8),
            "our own pings"
        );
    } else {
        let passed = [sent(from_it, Opcode::Pong), asked].concat();
        assert!(pongs.iter().all(|pong| passed.iter().any(|sent| sent == pong)), "{pongs:?} of {passed:?}");
        let theirs = sent(from_it, Opcode::Ping);
        let own: Vec<&&[u8]> = pings.iter().filter(|ping| !theirs.iter().any(|sent| sent == **ping)).collect();
        assert!(own.windows(2).all(|two| two[0] == two[1]) && own.iter().all(|ping| ping.len() == 8), "our own pings");
    }
}

fn is_subsequence(part: &[&[u8]], whole: &[Vec<u8>]) -> bool {
    let mut whole = whole.iter();
    part.iter().all(|wanted| whole.any(|found| found == wanted))
}
