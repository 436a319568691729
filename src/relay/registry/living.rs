//! What is known of one living session, for other tasks to see, and the order to end that they may leave for it.
//!
//! The session publishes its traffic with relaxed stores after it has pumped; readers may see one number a moment older
//! than the next. Nothing here takes a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use atomic_waker::AtomicWaker;
use tokio::time::Instant;

use crate::observe::log::Leaves;
use crate::policy::client::Address;
use crate::policy::keys::Key;
use crate::proto::trace::Trace;
use crate::relay::end::{Cause, Traffic};

/// In a packed [`Order`], above the number of its cause.
const CUT: u64 = 1 << 7;

/// Recent rates are those of so long.
const WINDOW: Duration = Duration::from_secs(10);

/// Which way sessions go through the gateway: in at a listener, by a route, to a server. Shared by all that go it.
#[derive(Debug, PartialEq, Eq)]
pub struct Way {
    /// As the configuration names it.
    pub listener: Box<str>,
    pub route: Box<str>,
    pub upstream: Box<str>,
    /// As the configuration names it.
    pub server: Box<str>,
    /// Its place among the totals.
    pub(super) number: usize,
}

impl Way {
    /// Listener, upstream and server of what is left of a route's forgotten ways.
    pub(super) const REST: [&str; 3] = [""; 3];

    /// Whether it is what is left of forgotten ways: of servers that the configuration does not name any more.
    pub fn is_rest(&self) -> bool {
        self.server.is_empty()
    }
}

/// Who opened a session, and where.
#[derive(Debug)]
pub struct About {
    pub way: Arc<Way>,
    /// Which of the servers that the configuration names so: each address of a name is one. Unique in this process.
    pub member: u64,
    pub client: Address,
    /// It came over TLS.
    pub secure: bool,
    /// The API key that let it in. The session ends when its grant is revoked.
    pub key: Option<Key>,
    /// Of its opening handshake.
    pub trace: Trace,
    pub leaves: Leaves,
}

/// A session on the list.
#[derive(Debug)]
pub struct Living {
    /// Unique in this process, from 1 on.
    pub id: u64,
    pub about: About,
    pub opened: Instant,
    /// See [`Order::pack`]; 0: none.
    order: AtomicU64,
    pub(super) waker: AtomicWaker,
    /// It has held bytes for longest, and is to give them up.
    pub(super) make_room: AtomicBool,
    /// Its route may hold it to other terms now.
    pub(super) renew: AtomicBool,
    /// What it holds.
    pub(super) held: AtomicUsize,
    /// Since when it has held some, in milliseconds from the beginning of the registry.
    pub(super) since: AtomicU64,
    from_client: Counter,
    from_upstream: Counter,
    texts: [AtomicU64; 2],
    recent: Recent,
}

/// Messages and bytes that both sides have sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flow {
    pub from_client: Traffic,
    pub from_upstream: Traffic,
    pub texts: Texts,
}

/// Of the messages those that are text; the others are binary.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Texts {
    pub from_client: u64,
    pub from_upstream: u64,
}

/// What both sides together sent of late.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PerSecond {
    pub messages: f64,
    pub bytes: f64,
}

/// What a session is told by somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    pub cause: Cause,
    /// After how many seconds the client is asked to come back; 0: it is not asked.
    pub retry_after: u16,
    /// How long a message that is on its way may hold up the end. Where it is not zero, the client is asked to leave
    /// before the upstream is told.
    pub patience: Duration,
    /// Its time is over: it ends as it stands.
    pub cut: bool,
}

#[derive(Debug, Default)]
struct Counter {
    messages: AtomicU64,
    bytes: AtomicU64,
}

/// Two windows of time: what was sent before the present one began, and what in the one before.
#[derive(Debug, Default)]
struct Recent {
    /// The number of the window in which traffic was last seen.
    window: AtomicU32,
    before: Counter,
    last: Counter,
}

impl Living {
    pub(super) fn new(id: u64, about: About, opened: Instant) -> Self {
        Living {
            id,
            about,
            opened,
            order: AtomicU64::new(0),
            waker: AtomicWaker::new(),
            make_room: AtomicBool::new(false),
            renew: AtomicBool::new(false),
            held: AtomicUsize::new(0),
            since: AtomicU64::new(0),
            from_client: Counter::default(),
            from_upstream: Counter::default(),
            texts: Default::default(),
            recent: Recent::default(),
        }
    }

    /// Orders it to end. The first order counts, unless a later one has less patience: a session that leaves in its own time
    /// must not outlive the key that let it in. True when this is the one.
    pub fn end(&self, order: impl Into<Order>) -> bool {
        self.give(order.into().pack())
    }

    /// Ends it as it stands, whatever it was ordered before.
    pub(super) fn cut(&self) {
        let first = Order::from(Cause::Drain).pack();
        let cut = |before| Some(CUT | if before == 0 { first } else { before });
        let _ = self.order.fetch_update(Ordering::AcqRel, Ordering::Relaxed, cut);
        self.waker.wake();
    }

    /// 0 is no order.
    pub(super) fn give(&self, packed: u64) -> bool {
        let replaces = |before| (before == 0 || Order::is_sooner(packed, before)).then_some(packed);
        let counts = self.order.fetch_update(Ordering::AcqRel, Ordering::Relaxed, replaces).is_ok();
        self.waker.wake();
        counts
    }

    pub(super) fn give_if_revoked(&self) {
        if self.about.key.as_ref().is_some_and(|key| key.grant.is_revoked()) {
            self.end(Cause::AccessRevoked);
        }
    }

    /// An order, to make room, or to look at its route again.
    #[inline]
    pub(super) fn has_news(&self) -> bool {
        let asked = |asked: &AtomicBool| asked.load(Ordering::Relaxed);
        self.order.load(Ordering::Relaxed) != 0 || asked(&self.make_room) || asked(&self.renew)
    }

    /// What it was ordered.
    pub fn ordered(&self) -> Option<Order> {
        Order::unpack(self.order.load(Ordering::Acquire))
    }

    /// What has passed so far.
    pub fn flow(&self) -> Flow {
        let [client, upstream] = self.texts.each_ref().map(|texts| texts.load(Ordering::Relaxed));
        Flow {
            from_client: self.from_client.read(),
            from_upstream: self.from_upstream.read(),
            texts: Texts { from_client: client, from_upstream: upstream },
        }
    }

    /// The rate of the last seconds; `began` is the registry's beginning.
    pub(super) fn rate(&self, began: Instant, now: Instant) -> PerSecond {
        let at = now.saturating_duration_since(began);
        let total = self.flow().total();
        let so_far = total.since(self.recent.before.read());
        let (last, present) = match window(at).checked_sub(self.recent.window.load(Ordering::Relaxed)) {
            Some(0) => (self.recent.last.read(), so_far),
            Some(1) => (so_far, Traffic::default()),
            _ => (Traffic::default(), Traffic::default()),
        };
        // Of the last window only the part counts that is less than a window ago.
        let share = 1.0 - (at.as_secs_f64() / WINDOW.as_secs_f64()).fract();
        // Of a young session nothing is older than itself.
        let span = now.saturating_duration_since(self.opened).clamp(Duration::from_secs(1), WINDOW).as_secs_f64();
        let rate = |last: u64, present: u64| (last as f64 * share + present as f64) / span;
        PerSecond { messages: rate(last.messages, present.messages), bytes: rate(last.bytes, present.bytes) }
    }

    /// Tells what has passed. Only the session itself does.
    pub(super) fn publish(&self, flow: Flow, began: Instant, now: Instant) {
        let window = window(now.saturating_duration_since(began));
        let recent = self.recent.window.load(Ordering::Relaxed);
        if window != recent {
            let total = self.flow().total();
            let last = total.since(self.recent.before.read());
            self.recent.last.write(if window == recent + 1 { last } else { Traffic::default() });
            self.recent.before.write(total);
            self.recent.window.store(window, Ordering::Relaxed);
        }
        self.from_client.write(flow.from_client);
        self.from_upstream.write(flow.from_upstream);
        let Texts { from_client, from_upstream } = flow.texts;
        for (to, texts) in self.texts.iter().zip([from_client, from_upstream]) {
            to.store(texts, Ordering::Relaxed);
        }
    }
}

/// The number of the window; of u32 for as long as a machine lives.
fn window(at: Duration) -> u32 {
    (at.as_secs() / WINDOW.as_secs()) as u32
}

impl Counter {
    fn read(&self) -> Traffic {
        Traffic { messages: self.messages.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }

    fn write(&self, traffic: Traffic) {
        self.messages.store(traffic.messages, Ordering::Relaxed);
        self.bytes.store(traffic.bytes, Ordering::Relaxed);
    }
}

impl Flow {
    /// Both directions together.
    pub fn total(self) -> Traffic {
        let (client, upstream) = (self.from_client, self.from_upstream);
        Traffic { messages: client.messages + upstream.messages, bytes: client.bytes + upstream.bytes }
    }

    pub fn add(&mut self, other: Flow) {
        for (to, of) in [(&mut self.from_client, other.from_client), (&mut self.from_upstream, other.from_upstream)] {
            to.messages += of.messages;
            to.bytes += of.bytes;
        }
        self.texts.from_client += other.texts.from_client;
        self.texts.from_upstream += other.texts.from_upstream;
    }
}

impl Traffic {
    /// Numbers that are read while they change may be one older than the other.
    fn since(self, before: Traffic) -> Traffic {
        Traffic {
            messages: self.messages.saturating_sub(before.messages),
            bytes: self.bytes.saturating_sub(before.bytes),
        }
    }
}

impl From<Cause> for Order {
    /// At once.
    fn from(cause: Cause) -> Self {
        Order { cause, retry_after: 0, patience: Duration::ZERO, cut: false }
    }
}

impl Order {
    /// As one number, so that an order is seen whole. Never 0. The patience becomes tenths of a second, rounded up.
    pub(super) fn pack(self) -> u64 {
        let tenths = self.patience.as_millis().div_ceil(100);
        let patience = u64::from(u32::try_from(tenths).unwrap_or(u32::MAX));
        let cut = if self.cut { CUT } else { 0 };
        patience << 32 | u64::from(self.retry_after) << 16 | cut | self.cause as u64
    }

    /// Whether this one, packed, has less patience than the one before it. None has less than one that cuts.
    fn is_sooner(packed: u64, before: u64) -> bool {
        before & CUT == 0 && packed >> 32 < before >> 32
    }

    fn unpack(packed: u64) -> Option<Order> {
        let [p3, p2, p1, p0, high, low, _, cause] = (packed & !CUT).to_be_bytes();
        let cause = Cause::from_number(cause)?;
        let patience = Duration::from_millis(100 * u64::from(u32::from_be_bytes([p3, p2, p1, p0])));
        let retry_after = u16::from_be_bytes([high, low]);
        Some(Order { cause, retry_after, patience, cut: packed & CUT != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_one_number() {
        for cut in [false, true] {
            for cause in Cause::ALL {
                let order = Order { cause, retry_after: 50_000, patience: Duration::from_secs(60_000), cut };
                assert_eq!(Order::unpack(order.pack()), Some(order));
            }
        }
        let order = Order { patience: Duration::from_millis(1), ..Cause::Drain.into() };
        assert_eq!(Order::unpack(order.pack()).map(|order| order.patience), Some(Duration::from_millis(100)));
        assert_eq!(Order::unpack(0), None);
    }
}
