//! One session: both legs, one task, one timer.
//!
//! In: two streams behind their 101, the route's rules. Out: an [`End`]. Each poll moves what both sides sent, writes our
//! own frames only between two of theirs, and reads a side only while the other takes what it got (back-pressure).
//! Ends in three steps: a cause is found and told → answers are awaited → both streams are shut and drained, in bounded time.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::num::NonZeroU32;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};

use super::clock::Verdict;
use super::end::{Cause, Codes, Detail, End, Excess, Side};
use super::leg::{Leg, NO_CODE, Sends, code};
use super::registry::{Entry, Flow, Living, Order, Texts};
use super::scratch::{self, Scratch};
use super::toll::{Paid, Toll};
use crate::config::model::{Heartbeat, PingMode, Rate, RelayRules};
use crate::limits::terms::{Account, Change};
use crate::limits::throttle::Sender;
use crate::observe::metrics::Metrics;
use crate::proto::close::Code;
use crate::proto::frame::{Control, Opcode};
use crate::proto::scan::{Event, Rules, Scanner, Until, Violation};

/// Rounds of one poll: rustls serves reads from memory, which tokio's own budget does not see. Few, for everybody else waits
/// meanwhile: at 16, a message took seconds beside 200 upstreams that flooded.
const ROUNDS: usize = 2;
/// Reads of one side before it is the other's turn.
const READS: usize = 4;
/// How long a peer may take to end its stream after both Closes, before we drop it.
const LINGER: Duration = Duration::from_secs(2);
/// How long what the other side still sends may hold up the Close of one that broke a rule.
const VERDICT_WAIT: Duration = Duration::from_secs(1);
/// How long a side that can no longer be written to is still read.
const DEAF_GRACE: Duration = Duration::from_millis(500);
/// Without a heartbeat, a client that was silent for so long is asked before an upstream's ping is answered for it.
const FRESH: Duration = Duration::from_secs(25);

/// Both sides of a WebSocket, from the 101 to the end.
pub struct Session<S> {
    client: Leg<S>,
    upstream: Leg<S>,
    account: Account,
    /// Of the heartbeat, in milliseconds; see [`jitter`].
    interval: Option<NonZeroU32>,
    entry: Entry,
    /// This task's, as the timer and the registry know it.
    waker: Waker,
    /// The payload of our pings: tells our pongs from those of others.
    nonce: [u8; 8],
    last_data: Instant,
    leaving: Option<Box<Leaving>>,
    /// Boxed: a session lives long without.
    ending: Option<Box<Ending>>,
    /// The timer is to be set earlier than it stands.
    rearm: Option<Instant>,
    /// A side takes nothing any more; see [`Session::heed_deaf`].
    doomed: bool,
}

/// A leg's stream and the bytes that arrived behind its head.
pub struct Opened<S> {
    pub stream: S,
    pub early: Bytes,
}

/// It was told to end, and messages are on their way. Until they are through nothing ends.
struct Leaving {
    order: Order,
    until: Instant,
    /// The message in whose midst the client was then, by its number.
    upload: Option<u64>,
}

struct Ending {
    cause: Cause,
    side: Side,
    detail: Detail,
    phase: Phase,
    /// When the phase is over at the latest.
    deadline: Instant,
    /// The Close that waits for that of the other side, so that what it still sends passes.
    ///
    /// To one that broke a rule: what the other side answered to the messages before the fault goes first, as it would
    /// without us (Autobahn 3.2 to 3.4, 4.1.3, 5.15). To an upstream whose client was asked to leave: whatever the client
    /// sent before it knew goes first.
    withheld: Option<(Side, Box<Control>)>,
    /// Of an end that was ordered with patience: for so long what the client sent before it knew may pass, while it moves.
    until: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Closes go out, their answers are awaited, what was on its way passes.
    Closing,
    /// Both sides answered; both streams are to end.
    Lingering,
    /// Somebody did not answer in time; both streams are ended by us.
    Forced,
}

/// What the bytes of a side brought about.
enum Happening {
    Closed(Control),
    Violated(Violation),
    Exceeded(Excess),
    EndOfStream,
    Broke(io::ErrorKind),
}

/// What [`pump`] needs to know of the session.
struct Pass {
    now: Instant,
    forward_pings: bool,
    /// What control frames pay by.
    control: Option<Rate>,
    nonce: [u8; 8],
    /// The client showed life lately: an upstream's ping may be answered for it.
    client_fresh: bool,
    /// The session ends as soon as the upstream's stream stands between two messages.
    parting: bool,
    /// What came of it, for the metrics: this side answered our ping after so long; one of ours was written.
    round_trip: Cell<Option<Duration>>,
    pinged: Cell<bool>,
}

impl Pass {
    /// Whether no more of this side may pass: the end comes here, between two messages.
    fn stops<S: AsyncRead + AsyncWrite + Unpin>(&self, from: &Leg<S>) -> bool {
        self.parting && from.side == Side::Upstream && from.is_between_messages()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// `deflate` tells whether permessage-deflate was agreed on.
    pub fn new(client: Opened<S>, upstream: Opened<S>, account: Account, deflate: bool, entry: Entry) -> Self {
        let (now, throttle) = (Instant::now(), account.throttle());
        let rules = account.rules();
        let scanner = |masked| Scanner::new(scan_rules(rules, masked, deflate));
        let toll = |sender| Toll::new(sender, throttle.clone(), rules.on_excess, now);
        let (from_client, from_upstream) = (toll(Sender::Client), toll(Sender::Upstream));
        let client = Leg::new(client.stream, client.early, Side::Client, scanner(true), from_client, now);
        let upstream = Leg::new(upstream.stream, upstream.early, Side::Upstream, scanner(false), from_upstream, now);
        Session {
            client,
            upstream,
            interval: jitter(rules),
            account,
            entry,
            waker: Waker::noop().clone(),
            nonce: rand::random(),
            last_data: now,
            leaving: None,
            ending: None,
            rearm: None,
            doomed: false,
        }
    }

    pub fn metrics(&self) -> &Metrics {
        self.entry.metrics()
    }

    /// What others see of it.
    pub fn living(&self) -> &Living {
        self.entry.living()
    }

    /// Relays until the end. To be called once.
    // Borrows: a future that owned the session would hold it twice, as its argument and as its variable.
    pub async fn run(&mut self) -> End {
        let first = self.tick(Instant::now());
        let mut sleep = pin!(sleep_until(first));
        poll_fn(|cx| self.poll(cx, sleep.as_mut())).await
    }

    fn poll(&mut self, cx: &mut Context<'_>, mut sleep: Pin<&mut Sleep>) -> Poll<End> {
        let now = Instant::now();
        // A task keeps its waker for life, so the timer and the registry learn it once, not with every message.
        let mut arm = !self.waker.will_wake(cx.waker());
        if arm {
            self.waker.clone_from(cx.waker());
            self.entry.watch(&self.waker);
        }
        if self.entry.has_news() {
            // Whoever brought it took the waker. Looked at only now: more may come.
            self.entry.watch(&self.waker);
            if let Some(end) = self.heed(now) {
                return Poll::Ready(end);
            }
        }
        scratch::with(|scratch| {
            for _ in 0..ROUNDS {
                let again = self.round(cx, scratch, now);
                if let Some(end) = self.over(now) {
                    return Poll::Ready(end);
                }
                if let Some(at) = self.rearm.take().filter(|at| *at < sleep.deadline()) {
                    sleep.as_mut().reset(at);
                    arm = true;
                }
                if (arm || now >= sleep.deadline()) && sleep.as_mut().poll(cx).is_ready() {
                    let next = self.tick(now);
                    sleep.as_mut().reset(next);
                    arm = true;
                    continue;
                }
                arm = false;
                if !again {
                    return Poll::Pending;
                }
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }

    /// Moves what can be moved both ways. True when there may be more to move without anybody waking us for it.
    fn round(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch, now: Instant) -> bool {
        let mut again = false;
        let before = self.flow();
        for side in [Side::Client, Side::Upstream] {
            let pass = self.pass(now);
            let (from, to) = self.from(side);
            let waited = from.toll.until();
            let (more, happening) = pump(from, to, cx, scratch, &pass);
            again |= more;
            self.tell(side, &pass, waited);
            if let Some(happening) = happening {
                self.happened(side, happening, now);
            }
        }
        again |= self.part(now);
        let flow = self.flow();
        if flow != before {
            self.last_data = now;
            self.entry.publish(flow, now);
        }
        self.client.flush(cx);
        self.upstream.flush(cx);
        self.heed_deaf(now);
        self.heed_waits(now);
        // After its turn there may be something to say to the upstream: the answer to a ping of its own.
        let answer = self.upstream.has_due() && can_say(&self.client, &self.upstream, &self.pass(now));
        again | answer | self.settle(cx, now)
    }

    fn flow(&self) -> Flow {
        let texts = Texts { from_client: self.client.scanner.texts(), from_upstream: self.upstream.scanner.texts() };
        Flow { from_client: self.client.traffic(), from_upstream: self.upstream.traffic(), texts }
    }

    fn rules(&self) -> &RelayRules {
        self.account.rules()
    }

    /// Takes what the route holds its sessions to from now on, and lets the timer look at once whether something is due.
    fn renew(&mut self, now: Instant) {
        let Some(change) = self.account.renew(self.client.toll.throttle()) else { return };
        let throttle = match change {
            Change::Rules => None,
            Change::Rates(throttle) => Some(throttle),
        };
        let rules = self.account.rules();
        self.interval = jitter(rules);
        for leg in [&mut self.client, &mut self.upstream] {
            let Rules { masked, deflate, .. } = *leg.scanner.rules();
            leg.scanner.renew(scan_rules(rules, masked, deflate));
            leg.renew(rules.on_excess, throttle.clone(), now);
        }
        self.rearm(now);
    }

    fn interval(&self) -> Option<Duration> {
        self.interval.map(|millis| Duration::from_millis(millis.get().into()))
    }

    fn pass(&self, now: Instant) -> Pass {
        let fresh = self.interval().unwrap_or(FRESH);
        Pass {
            now,
            forward_pings: self.rules().ping == PingMode::Forward,
            control: self.rules().control_per_session,
            nonce: self.nonce,
            // The silence of a side that we do not read is our doing.
            client_fresh: self.client.toll.until().is_some() || self.client.watch.fresh(now, fresh),
            parting: self.is_parting(),
            round_trip: Cell::default(),
            pinged: Cell::default(),
        }
    }

    /// Heeds what other tasks want of it.
    fn heed(&mut self, now: Instant) -> Option<End> {
        if let Some(order) = self.entry.ordered() {
            if order.cut {
                return Some(self.cut(order.cause, now));
            }
            self.obey(order, now);
        }
        if self.entry.has_to_make_room() {
            self.make_room(now);
        }
        if self.entry.has_to_renew() {
            self.renew(now);
        }
        None
    }

    /// Heeds what somebody else ordered; after it, with each poll. A patient order lets the messages pass that are on their
    /// way, and a less patient one may follow it.
    fn obey(&mut self, order: Order, now: Instant) {
        if self.ending.is_some() {
            if order.patience.is_zero() {
                self.pass_no_more(now);
            }
            return;
        }
        if order.patience.is_zero() {
            self.leaving = None;
            return self.leave(order, now);
        }
        let until = now + order.patience;
        if let Some(leaving) = &mut self.leaving {
            if leaving.order != order {
                leaving.order = order;
                leaving.until = leaving.until.min(until);
                self.rearm(until);
            }
            return;
        }
        let upload = (!self.client.is_between_messages()).then(|| self.client.scanner.messages());
        self.leaving = Some(Box::new(Leaving { order, until, upload }));
        self.rearm(until);
    }

    /// Whether it was told to end, and the client is through with the message in whose midst it was: a library that answers
    /// a Close at once would break it off (RFC 6455 section 5.5.1 lets it).
    fn is_parting(&self) -> bool {
        let through = |upload| self.client.is_between_messages() || self.client.scanner.messages() != upload;
        self.ending.is_none() && self.leaving.as_ref().is_some_and(|leaving| leaving.upload.is_none_or(through))
    }

    /// Asks the client to leave, once no message is broken off by it. The upstream is told when the client has: what that
    /// sent on its way out is still delivered. True when it did.
    fn part(&mut self, now: Instant) -> bool {
        if !self.is_parting() || !self.upstream.is_between_messages() {
            return false;
        }
        let Some(leaving) = self.leaving.take() else { return false };
        self.leave(leaving.order, now);
        if let Some(ending) = &mut self.ending {
            ending.until = Some(leaving.until);
            ending.withheld = self.upstream.close_due.take().map(|close| (Side::Upstream, close));
        }
        true
    }

    /// It was asked to leave, and is to end at once now: what it sends passes no more.
    fn pass_no_more(&mut self, now: Instant) {
        let is_patient = |ending: &&mut Box<Ending>| ending.until.is_some_and(|until| now < until);
        if let Some(ending) = self.ending.as_mut().filter(is_patient) {
            ending.until = Some(now);
            self.pronounce(now, true);
        }
    }

    /// Begins the end that was ordered.
    fn leave(&mut self, order: Order, now: Instant) {
        self.end(order.cause, Side::Gateway, Detail::None, now);
        if order.retry_after > 0
            && let Some(close) = &mut self.client.close_due
        {
            **close = Control::close(code(close), &format!("retry-after={}s", order.retry_after));
        }
    }

    /// Ends it as it stands. Nothing more is said to anybody.
    fn cut(&self, cause: Cause, now: Instant) -> End {
        match &self.ending {
            Some(ending) => self.record(ending.cause, ending.side, ending.detail.or(Detail::Cut), now),
            None => self.record(cause, Side::Gateway, Detail::Cut, now),
        }
    }

    /// Tells the metrics what a pump brought; mostly that is nothing. `waited` until then before it.
    fn tell(&self, side: Side, pass: &Pass, waited: Option<Instant>) {
        let (from, to) = match side {
            Side::Upstream => (&self.upstream, &self.client),
            Side::Client | Side::Gateway => (&self.client, &self.upstream),
        };
        if let Some(took) = pass.round_trip.take() {
            self.entry.metrics().answered(from.side, took);
        }
        if pass.pinged.take() {
            self.entry.metrics().pinged(to.side);
        }
        if let Some(until) = from.toll.until()
            && waited.is_none_or(|waited| until > waited)
        {
            let since = waited.map_or(pass.now, |waited| waited.max(pass.now));
            self.entry.metrics().throttled(side, until.saturating_duration_since(since));
        }
    }

    /// Sets the timer to whatever ends first: a wait for a turn, or the patience with a side that takes nothing. Tells
    /// what is held.
    fn heed_waits(&mut self, now: Instant) {
        // With nearly every message nothing waits, and nothing did.
        if !self.client.is_held_up() && !self.upstream.is_held_up() && self.entry.holds_nothing() {
            return;
        }
        self.client.heed_refusal(now);
        self.upstream.heed_refusal(now);
        let turns = [self.client.toll.until(), self.upstream.toll.until()].into_iter().flatten();
        // A turn that has come waits for the other side to take bytes, not for the timer.
        let turns = turns.filter(|until| *until > now);
        let patience = self.stuck().filter(|_| self.ending.is_none()).and_then(|(_, since)| self.lost_patience(since));
        if let Some(at) = turns.chain(patience).min() {
            self.rearm(at);
        }
        self.entry.hold(self.client.holds() + self.upstream.holds(), now);
    }

    /// The side that has refused bytes for longest, and since when.
    fn stuck(&self) -> Option<(Side, Instant)> {
        let sides = [(Side::Client, self.client.refused), (Side::Upstream, self.upstream.refused)];
        sides.into_iter().filter_map(|(side, since)| Some((side, since?))).min_by_key(|(_, since)| *since)
    }

    fn lost_patience(&self, since: Instant) -> Option<Instant> {
        self.rules().slow_timeout.map(|timeout| since + timeout)
    }

    /// The timer fires at `at`, or earlier.
    fn rearm(&mut self, at: Instant) {
        self.rearm = Some(self.rearm.map_or(at, |earlier| earlier.min(at)));
    }

    /// Gives up what it has held for too long, and with it the side for which it did: a Close would come too late.
    fn make_room(&mut self, now: Instant) {
        let waits = |leg: &Leg<S>| leg.toll.until().is_some();
        let (cause, side) = match self.stuck() {
            Some((side, _)) => (Cause::SlowConsumer, side),
            None if waits(&self.client) => (Cause::RateLimited, Side::Client),
            None if waits(&self.upstream) => (Cause::RateLimited, Side::Upstream),
            // It has got rid of it meanwhile.
            None => return,
        };
        self.end(cause, side, Detail::HeldBytes, now);
        self.from(side).0.abandon();
        self.entry.hold(self.client.holds() + self.upstream.holds(), now);
    }

    /// Writing to a side failed: what the other one sends passes nowhere. A Close of its own may still lie in our receive
    /// buffer and tell more than the error does: it gets a moment to be read.
    fn heed_deaf(&mut self, now: Instant) {
        if !self.client.deaf && !self.upstream.deaf {
            return;
        }
        for side in [Side::Client, Side::Upstream] {
            let (from, to) = self.from(side);
            if to.deaf && from.sends == Sends::Relayed {
                from.sends = Sends::Awaited;
            }
        }
        if self.ending.is_none() && !self.doomed {
            self.doomed = true;
            self.rearm(now + DEAF_GRACE);
        }
    }

    /// The leg of a side, and the one across.
    fn from(&mut self, side: Side) -> (&mut Leg<S>, &mut Leg<S>) {
        match side {
            Side::Upstream => (&mut self.upstream, &mut self.client),
            Side::Client | Side::Gateway => (&mut self.client, &mut self.upstream),
        }
    }

    fn happened(&mut self, side: Side, happening: Happening, now: Instant) {
        self.from(side).0.sends = Sends::Ignored;
        match happening {
            Happening::Closed(close) => self.closed(side, close, now),
            Happening::Violated(violation) => {
                self.end(Cause::of(violation), side, Detail::Violation(violation), now);
            }
            Happening::Exceeded(excess) => self.end(Cause::RateLimited, side, Detail::Exceeded(excess), now),
            Happening::EndOfStream => self.end(lost(side), side, Detail::EndOfStream, now),
            Happening::Broke(kind) => {
                self.from(side).0.abandon();
                self.end(lost(side), side, Detail::Io(kind), now);
            }
        }
    }

    /// A peer's Close passes on; the other side answers it, and that answer passes back.
    fn closed(&mut self, side: Side, close: Control, now: Instant) {
        let (cause, answered) = match side {
            Side::Upstream => (Cause::UpstreamClosed, Cause::ClientClosed),
            Side::Client | Side::Gateway => (Cause::ClientClosed, Cause::UpstreamClosed),
        };
        let passes =
            self.ending.as_ref().is_none_or(|ending| ending.cause == answered && ending.phase == Phase::Closing);
        self.end(cause, side, Detail::None, now);
        let (from, to) = self.from(side);
        from.codes.received = Some(code(&close));
        if passes && to.codes.sent.is_none() && !to.deaf {
            to.close_due = Some(Box::new(close));
        }
    }

    /// Begins the end; the first cause wins.
    fn end(&mut self, cause: Cause, side: Side, detail: Detail, now: Instant) {
        if self.ending.is_some() {
            return;
        }
        let (client, upstream) = cause.told(side);
        for (leg, told) in [(&mut self.client, client), (&mut self.upstream, upstream)] {
            leg.drop_due();
            if let Some((code, reason)) = told.filter(|_| !leg.deaf) {
                leg.close_due = Some(Box::new(Control::close(code, reason)));
            }
        }
        let guilty = matches!(detail, Detail::Violation(_));
        let withheld = self.from(side).0.close_due.take_if(|_| guilty).map(|close| (side, close));
        let wait = if withheld.is_some() { VERDICT_WAIT } else { self.rules().close_timeout };
        let deadline = now + wait.min(self.rules().close_timeout);
        let ending = Ending { cause, side, detail, phase: Phase::Closing, deadline, withheld, until: None };
        self.ending = Some(Box::new(ending));
        self.rearm(deadline);
    }

    /// Lets the withheld Close go once nothing can come before it any more, or `late`. True when it does.
    fn pronounce(&mut self, now: Instant, late: bool) -> bool {
        let Some(side) = self.ending.as_ref().and_then(|ending| ending.withheld.as_ref()).map(|(side, _)| *side) else {
            return false;
        };
        let (to, other) = self.from(side);
        let told = other.close_due.is_some() || other.codes.sent.is_some();
        let answered = !told || silent(other) || other.deaf;
        if !answered && !late {
            return false;
        }
        // One that has closed by itself gets an answer instead.
        let is_open = !to.deaf && to.codes == Codes::default();
        let deadline = now + self.rules().close_timeout;
        let Some(ending) = &mut self.ending else { return false };
        let withheld = ending.withheld.take();
        ending.deadline = deadline;
        self.rearm(deadline);
        if let Some((_, close)) = withheld.filter(|_| is_open) {
            self.from(side).0.close_due = Some(close);
        }
        true
    }

    /// Whether what the client sent before it knew still moves on: it may hold up an end that was ordered with patience, each
    /// time for `close_timeout`.
    fn is_moving(&mut self, now: Instant) -> bool {
        let close_timeout = self.rules().close_timeout;
        // What an upstream refuses moves until that counts as slow. It may be long: what its kernel took is not seen here.
        let is_slow = |since| self.lost_patience(since).is_some_and(|due| now >= due);
        let moved = match self.client.toll.until() {
            _ if self.upstream.refused.is_some_and(|since| !is_slow(since)) => now,
            // What waits for its turn moves when that comes.
            Some(turn) => turn.max(self.last_data),
            None => self.last_data,
        };
        let Some(ending) = self.ending.as_mut().filter(|ending| ending.phase == Phase::Closing) else { return false };
        let Some(until) = ending.until.filter(|until| moved < *until) else { return false };
        let deadline = until.min(moved + close_timeout);
        let moves = deadline > now;
        if moves {
            ending.deadline = deadline;
        }
        moves
    }

    /// Takes the end forward: answers for those who cannot, shuts what has nothing left to say. True when that changed
    /// what is to be done.
    fn settle(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut answering = false;
        for side in [Side::Client, Side::Upstream] {
            let (from, to) = self.from(side);
            if !silent(from) {
            } else if !from.scanner.at_boundary() {
                // The frame that stands half-written will never be whole, so nothing can be put behind it.
                to.drop_due();
            } else if from.sends == Sends::Ignored && to.owed() {
                // Whoever closed gets its answer from us, since the other side gives none (RFC 6455 section 5.5.1).
                to.close_due = to.codes.received.map(answer).map(Box::new);
                answering = true;
            }
        }
        if answering || self.pronounce(now, false) {
            return true;
        }
        let Some(ending) = &mut self.ending else { return false };
        let client = finished(&self.client, &self.upstream);
        let upstream = finished(&self.upstream, &self.client);
        if client || ending.phase == Phase::Forced {
            self.client.shut(cx);
        }
        // The server ends the connection first (RFC 6455 section 7.1.1): wait for an upstream that answered.
        let server_first = self.upstream.closed() && !self.upstream.ended && now < ending.deadline;
        if (upstream && !server_first) || ending.phase == Phase::Forced {
            self.upstream.shut(cx);
        }
        if client && upstream && ending.phase == Phase::Closing {
            ending.phase = Phase::Lingering;
            let deadline = now + LINGER.min(self.account.rules().close_timeout);
            ending.deadline = deadline;
            self.rearm(deadline);
            return true;
        }
        false
    }

    /// What the timer brings about; returns when it has to fire next.
    fn tick(&mut self, now: Instant) -> Instant {
        let next = match self.ending {
            None => self.live(now),
            Some(_) => now,
        };
        let linger = now + LINGER.min(self.rules().close_timeout);
        if self.ending.as_ref().is_some_and(|ending| now >= ending.deadline) && !self.is_moving(now) {
            self.pronounce(now, true);
        }
        let Some(ending) = &mut self.ending else { return next };
        if now >= ending.deadline && ending.phase == Phase::Closing {
            ending.phase = Phase::Forced;
            ending.deadline = linger;
            self.client.dropped |= self.upstream.refuses() || !self.client.is_between_messages();
            self.client.sends = Sends::Ignored;
            self.upstream.sends = Sends::Ignored;
        }
        ending.deadline
    }

    /// The checks of a session that goes on. Returns when they are due again.
    fn live(&mut self, now: Instant) -> Instant {
        let RelayRules { max_age, idle_timeout, frame_timeout, heartbeat, .. } = *self.rules();
        let heartbeat = heartbeat.zip(self.interval()).map(|(heartbeat, interval)| Heartbeat { interval, ..heartbeat });
        let mut next = now + frame_timeout;
        if self.client.toll.until().or(self.upstream.toll.until()).is_some() {
            // What waits for its turn is not idle.
            self.last_data = now;
        }
        if let Some((side, since)) = self.stuck()
            && let Some(due) = self.lost_patience(since)
        {
            if now >= due {
                self.end(Cause::SlowConsumer, side, Detail::None, now);
                return now;
            }
            next = next.min(due);
        }
        if let Some(leaving) = &self.leaving {
            if now >= leaving.until {
                let order = leaving.order;
                self.leave(order, now);
                return now;
            }
            next = next.min(leaving.until);
        }
        let opened = self.entry.living().opened;
        for (limit, since, cause) in [(max_age, opened, Cause::MaxAge), (idle_timeout, self.last_data, Cause::Idle)] {
            let Some(due) = limit.map(|limit| since + limit) else { continue };
            if now >= due {
                self.end(cause, Side::Gateway, Detail::None, now);
                return now;
            }
            next = next.min(due);
        }
        for side in [Side::Client, Side::Upstream] {
            let (leg, other) = self.from(side);
            let facts = leg.facts(other.refuses() || leg.toll.until().is_some());
            let (verdict, due) = match leg.deaf {
                true => (Verdict::Dead(Detail::Io(io::ErrorKind::BrokenPipe)), now),
                false => leg.watch.check(now, facts, heartbeat, frame_timeout),
            };
            match verdict {
                Verdict::Fine => {}
                Verdict::Ping => leg.ping_due = true,
                Verdict::Dead(detail) => {
                    leg.abandon();
                    self.end(lost(side), side, detail, now);
                    return now;
                }
            }
            next = next.min(due);
        }
        next
    }

    fn over(&self, now: Instant) -> Option<End> {
        let ending = self.ending.as_ref()?;
        let expired = ending.phase != Phase::Closing && now >= ending.deadline;
        let over = expired || (self.client.done() && self.upstream.done());
        let is_lost = ending.until.is_some() && (self.client.dropped || self.upstream.refuses());
        let detail = ending.detail.or(if is_lost { Detail::Undelivered } else { Detail::None });
        over.then(|| self.record(ending.cause, ending.side, detail, now))
    }

    fn record(&self, cause: Cause, side: Side, detail: Detail, now: Instant) -> End {
        End {
            cause,
            side,
            detail,
            client: self.client.codes(),
            upstream: self.upstream.codes(),
            from_client: self.client.traffic(),
            from_upstream: self.upstream.traffic(),
            duration: now.saturating_duration_since(self.entry.living().opened),
        }
    }
}

/// Moves what `from` sent to `to`, and what we have to say to `to`, until one of them has to be waited for. Tells whether
/// it stopped before that.
fn pump<S: AsyncRead + AsyncWrite + Unpin>(
    from: &mut Leg<S>,
    to: &mut Leg<S>,
    cx: &mut Context<'_>,
    scratch: &mut Scratch,
    pass: &Pass,
) -> (bool, Option<Happening>) {
    for _ in 0..READS {
        if pass.stops(from) {
            return (true, None);
        }
        if to.refuses() {
            take_held(from, to, cx, pass);
            // What passes on no more can be read all the same: the answer to our Close may be in it.
            if to.refuses() && from.sends == Sends::Relayed {
                return (false, None);
            }
        }
        if can_say(from, to, pass) {
            scratch.output.clear();
            say(from, to, &mut scratch.output, pass);
            to.write(cx, &mut [IoSlice::new(&scratch.output)]);
        }
        if from.ended || from.waits(pass.now) {
            return (false, None);
        }
        let happening = match from.poll_read(cx, &mut scratch.input[..from.toll.piece()]) {
            Poll::Pending => return (false, None),
            Poll::Ready(Ok(0)) => {
                from.ended = true;
                Some(Happening::EndOfStream)
            }
            // TLS without close_notify: browsers leave like this.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                from.ended = true;
                Some(Happening::EndOfStream)
            }
            Poll::Ready(Err(error)) => Some(Happening::Broke(error.kind())),
            Poll::Ready(Ok(n)) => {
                from.watch.saw(pass.now);
                if from.sends == Sends::Ignored {
                    from.keep(n, &[]);
                    None
                } else {
                    pass_on(from, to, cx, scratch, n, pass)
                }
            }
        };
        if happening.is_some() {
            return (true, happening);
        }
    }
    (true, None)
}

/// Offers `to` again what it refused. Whoever began to refuse only while the other did too gets its time anew: many a
/// program reads nothing while it cannot write.
fn take_held<S: AsyncRead + AsyncWrite + Unpin>(from: &mut Leg<S>, to: &mut Leg<S>, cx: &mut Context<'_>, pass: &Pass) {
    let since = to.refused;
    if to.write_held(cx) {
        to.watch.saw(pass.now);
    }
    if !to.refuses() && from.refused > since {
        from.refused = Some(pass.now);
    }
}

/// Scans what was read, answers pings, passes the rest.
fn pass_on<S: AsyncRead + AsyncWrite + Unpin>(
    from: &mut Leg<S>,
    to: &mut Leg<S>,
    cx: &mut Context<'_>,
    scratch: &mut Scratch,
    n: usize,
    pass: &Pass,
) -> Option<Happening> {
    let Scratch { input, output, pongs } = scratch;
    pongs.clear();
    let mut gather = Gather::new(&input[..n], output);
    let mut at = 0;
    let paid_bytes = from.scanner.bytes();
    let mut rest = n;
    let mut happening = loop {
        let relayed = from.sends == Sends::Relayed;
        let stops = pass.parting && from.side == Side::Upstream;
        let until = if relayed && (stops || due(to, pass)) { Until::Boundary } else { Until::Event };
        let step = if relayed { from.scanner.scan(&input[at..n], until) } else { from.skip(&input[at..n]) };
        if relayed {
            gather.copy(step.held.as_ref());
            gather.run(at..at + step.pass);
        }
        at += step.taken;
        let paid = match step.event {
            None => break None,
            Some(Event::Violation(violation)) => break Some(Happening::Violated(violation)),
            Some(Event::Boundary) if pass.stops(from) => {
                rest = at;
                break None;
            }
            Some(Event::Boundary) => {
                if due(to, pass) {
                    say(from, to, gather.own(), pass);
                }
                continue;
            }
            Some(Event::Message) => from.pay_message(pass.now),
            Some(Event::Control(close)) if close.opcode() == Opcode::Close => break Some(Happening::Closed(close)),
            Some(Event::Control(control)) => {
                match control.opcode() {
                    Opcode::Pong if control.payload() == pass.nonce => {
                        pass.round_trip.set(from.watch.answered(pass.now))
                    }
                    _ if pass.forward_pings && relayed => gather.copy(control.encode(to.mask()).as_ref()),
                    Opcode::Ping => pong(from, to, &control, pongs, pass),
                    _ => {}
                }
                match pass.control.filter(|_| relayed) {
                    Some(rate) => from.toll.control(rate, pass.now),
                    None => Paid::GoOn,
                }
            }
        };
        match paid {
            Paid::GoOn => {}
            Paid::Wait => {
                rest = at;
                break None;
            }
            Paid::Exceeded(excess) => break Some(Happening::Exceeded(excess)),
        }
    };
    if let Paid::Exceeded(excess) = from.pay_bytes(paid_bytes, pass.now) {
        happening = happening.or(Some(Happening::Exceeded(excess)));
    }
    // Behind a Close or a fault nothing counts any more.
    from.keep(n, if happening.is_none() { &input[rest..n] } else { &[] });
    to.write(cx, &mut gather.pieces());
    if !pongs.is_empty() {
        from.write(cx, &mut [IoSlice::new(pongs)]);
    }
    happening
}

/// Answers a ping of `from`: at once where its stream stands between two frames, else as soon as it does.
fn pong<S: AsyncRead + AsyncWrite + Unpin>(
    from: &mut Leg<S>,
    to: &mut Leg<S>,
    ping: &Control,
    pongs: &mut Vec<u8>,
    pass: &Pass,
) {
    if from.codes.sent.is_some() || from.close_due.is_some() || from.deaf {
        return;
    }
    let answer = Control::new(Opcode::Pong, ping.payload());
    let trusted = may_answer(from, pass);
    if trusted && from.pong.is_none() && !from.refuses() && to.scanner.at_boundary() {
        pongs.extend_from_slice(answer.encode(from.mask()).as_ref());
    } else {
        from.pong = Some(Box::new(answer));
    }
    // A zombie must not look healthy from behind: ask the client before answering for it.
    if !trusted {
        to.ping_due |= !to.watch.asked();
    }
}

/// Whether a ping of this side may be answered now.
fn may_answer<S>(leg: &Leg<S>, pass: &Pass) -> bool {
    leg.side == Side::Client || pass.client_fresh
}

/// Whether a frame of ours may go to this side as soon as it is between frames. None follows our Close.
fn due<S>(to: &Leg<S>, pass: &Pass) -> bool {
    let waits = to.close_due.is_some() || to.ping_due || (to.pong.is_some() && may_answer(to, pass));
    waits && to.codes.sent.is_none()
}

/// Whether that can be now: `to` takes bytes, and the last that it got of `from` was the end of a frame.
fn can_say<S: AsyncRead + AsyncWrite + Unpin>(from: &Leg<S>, to: &Leg<S>, pass: &Pass) -> bool {
    due(to, pass) && !to.refuses() && from.scanner.at_boundary()
}

/// Puts our frames for `to` into its stream. After our Close nothing of `from` passes any more.
fn say<S: AsyncRead + AsyncWrite + Unpin>(from: &mut Leg<S>, to: &mut Leg<S>, output: &mut Vec<u8>, pass: &Pass) {
    pass.pinged.set(pass.pinged.get() | to.ping_due);
    // When a side that we do not read has answered says nothing.
    if to.ping_due && !from.refuses() && to.toll.until().is_none() {
        to.watch.pinged(pass.now);
    }
    to.take_due(output, may_answer(to, pass), &pass.nonce);
    if to.codes.sent.is_some() && from.sends == Sends::Relayed {
        from.sends = Sends::Awaited;
    }
}

/// Whether nothing of this side passes on any more.
fn silent<S>(leg: &Leg<S>) -> bool {
    leg.ended || leg.sends != Sends::Relayed
}

/// Whether everything was said to `leg`, and answered where an answer can come: not from one that has closed, has ended
/// its stream, or whose frames cannot be trusted.
fn finished<S: AsyncRead + AsyncWrite + Unpin>(leg: &Leg<S>, other: &Leg<S>) -> bool {
    let said = silent(other) && leg.close_due.is_none() && !leg.refuses();
    said && (leg.codes.sent.is_none() || leg.sends == Sends::Ignored)
}

fn lost(side: Side) -> Cause {
    match side {
        Side::Upstream => Cause::UpstreamLost,
        Side::Client | Side::Gateway => Cause::ClientLost,
    }
}

/// The answer to a Close: its own code (RFC 6455 section 5.5.1).
fn answer(received: Code) -> Control {
    match received {
        NO_CODE => Control::new(Opcode::Close, &[]),
        code => Control::close(code, ""),
    }
}

/// The interval of the heartbeat, up to a tenth shorter, so that sessions that began together do not ping together.
fn jitter(rules: &RelayRules) -> Option<NonZeroU32> {
    let interval = rules.heartbeat?.interval.mul_f64(rand::random_range(0.9..=1.0));
    Some(NonZeroU32::new(interval.as_millis().try_into().unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN))
}

fn scan_rules(rules: &RelayRules, masked: bool, deflate: bool) -> Rules {
    Rules {
        masked,
        deflate,
        frame_bytes_max: rules.frame_bytes_max,
        message_bytes_max: rules.message_bytes_max,
        fragments_max: rules.fragments_max,
        strict: rules.strict,
    }
}

/// What goes out of one read: mostly one run of it, written as it lies. Frames of ours lie between two runs; all three
/// leave in one write. Only what is between more of them is copied.
struct Gather<'a> {
    input: &'a [u8],
    front: Range<usize>,
    between: &'a mut Vec<u8>,
    back: Range<usize>,
}

impl<'a> Gather<'a> {
    fn new(input: &'a [u8], between: &'a mut Vec<u8>) -> Self {
        between.clear();
        Gather { input, front: 0..0, between, back: 0..0 }
    }

    /// Puts a run of the input behind the rest.
    fn run(&mut self, range: Range<usize>) {
        let last = if self.between.is_empty() && self.back.is_empty() { &mut self.front } else { &mut self.back };
        if Range::is_empty(last) {
            *last = range;
        } else if last.end == range.start {
            last.end = range.end;
        } else if !range.is_empty() {
            self.own();
            self.back = range;
        }
    }

    fn copy(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.own().extend_from_slice(bytes);
        }
    }

    /// Where bytes of our own go, behind the rest.
    fn own(&mut self) -> &mut Vec<u8> {
        self.between.extend_from_slice(&self.input[std::mem::take(&mut self.back)]);
        self.between
    }

    fn pieces(&self) -> [IoSlice<'_>; 3] {
        [&self.input[self.front.clone()], self.between.as_slice(), &self.input[self.back.clone()]].map(IoSlice::new)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Pieces of the input with gaps between them, and bytes of our own: out they come in the order they were put.
        #[test]
        fn what_is_gathered_keeps_its_order(
            steps in prop::collection::vec((0..3_usize, 0..20_usize, prop::collection::vec(200..=255_u8, 0..4)), 0..12),
        ) {
            let input: Vec<u8> = (0..240).map(|at| (at % 200) as u8).collect();
            let (mut output, mut expected) = (vec![1; 3], Vec::new());
            let mut gather = Gather::new(&input, &mut output);
            let mut at = 0;
            for (gap, length, own) in steps {
                let start = (at + gap).min(input.len());
                at = (start + length).min(input.len());
                gather.run(start..at);
                gather.copy(&own);
                expected.extend_from_slice(&input[start..at]);
                expected.extend_from_slice(&own);
            }
            let gathered: Vec<u8> = gather.pieces().iter().flat_map(|piece| piece.iter().copied()).collect();
            prop_assert_eq!(gathered, expected);
        }
    }
}
