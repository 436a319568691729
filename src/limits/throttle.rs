//! The message and byte rates of one session: its own, those of its client and those of its route, all at once.
//!
//! It reserves in every bucket and tells when the last of them agrees. Who waits, and how, is the relay's business.

use std::sync::Arc;

use tokio::time::Instant;

use super::bucket::{Bucket, Pace, Ticks};
use crate::config::model::RouteRates;

/// Who sends: each direction has buckets of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    Client,
    Upstream,
}

/// What may be sent in one direction.
#[derive(Debug, Default)]
struct Purse {
    messages: Bucket,
    bytes: Bucket,
}

/// What may be sent in both directions: by one session, or by all that share it.
#[derive(Debug, Default)]
pub struct Purses {
    client: Purse,
    upstream: Purse,
}

impl Purses {
    fn of(&self, sender: Sender) -> &Purse {
        match sender {
            Sender::Client => &self.client,
            Sender::Upstream => &self.upstream,
        }
    }

    /// Whether new ones would do as well: nothing is remembered in them.
    pub fn is_full(&self, now: Instant) -> bool {
        let full = |purse: &Purse| purse.messages.is_full(now) && purse.bytes.is_full(now);
        full(&self.client) && full(&self.upstream)
    }
}

/// Rates that count together, and the purses that they are paid from.
#[derive(Debug)]
struct Scope {
    messages: Option<Pace>,
    bytes: Option<Pace>,
    purses: Arc<Purses>,
}

/// What one session pays for what passes. Nothing in it waits.
#[derive(Debug)]
pub struct Throttle {
    scopes: Box<[Scope]>,
    /// Those of the session alone, where it has rates of its own.
    own: Option<Arc<Purses>>,
    messages: bool,
    /// The smallest burst of the byte rates.
    piece: Option<u64>,
}

impl Throttle {
    /// `clients` are shared by the sessions of one client on this route (several where it is counted by more than one key),
    /// `route` by all sessions of the route. `None` where no rate applies.
    pub fn new(rates: &RouteRates, clients: &[Arc<Purses>], route: &Arc<Purses>) -> Option<Arc<Self>> {
        Throttle::with_own(rates, Arc::default(), clients, route)
    }

    /// The same, where the session has paid from purses of its `own` before.
    pub fn with_own(
        rates: &RouteRates,
        own: Arc<Purses>,
        clients: &[Arc<Purses>],
        route: &Arc<Purses>,
    ) -> Option<Arc<Self>> {
        let RouteRates { messages, bytes } = rates;
        let of_session = (messages.session, bytes.session, own.clone());
        let own = (messages.session.is_some() || bytes.session.is_some()).then_some(own);
        let of_clients = clients.iter().map(|client| (messages.client, bytes.client, client.clone()));
        let of_route = (messages.route, bytes.route, route.clone());
        let scopes: Box<[Scope]> = std::iter::once(of_session)
            .chain(of_clients)
            .chain([of_route])
            .filter(|(messages, bytes, _)| messages.is_some() || bytes.is_some())
            .map(|(messages, bytes, purses)| Scope {
                messages: messages.map(Pace::from),
                bytes: bytes.map(Pace::from),
                purses,
            })
            .collect();
        let messages = scopes.iter().any(|scope| scope.messages.is_some());
        let piece = scopes.iter().filter_map(|scope| scope.bytes.map(|pace| pace.burst())).min();
        (!scopes.is_empty()).then(|| Arc::new(Throttle { scopes, own, messages, piece }))
    }

    /// The purses of the session alone, where it has rates of its own.
    pub fn own(&self) -> Option<&Arc<Purses>> {
        self.own.as_ref()
    }

    /// Whether messages are to be paid for.
    pub fn counts_messages(&self) -> bool {
        self.messages
    }

    /// How many bytes may pass in one piece; `None` where bytes cost nothing.
    pub fn piece(&self) -> Option<u64> {
        self.piece
    }

    /// Whether a message could pass now.
    pub fn has_message(&self, sender: Sender, now: Instant) -> bool {
        self.paid(sender, |purse| &purse.messages, |scope| scope.messages.as_ref())
            .all(|(bucket, pace)| bucket.has(pace, 1, now))
    }

    /// Reserves one message: when it may pass.
    pub fn take_message(&self, sender: Sender, now: Instant) -> Instant {
        let at = Ticks::of(now);
        let buckets = self.paid(sender, |purse| &purse.messages, |scope| scope.messages.as_ref());
        now + buckets.map(|(bucket, pace)| bucket.reserve(pace, 1, at)).max().unwrap_or_default()
    }

    /// Pays for bytes that have passed: when the next may. With zero bytes, when the first may.
    pub fn take_bytes(&self, sender: Sender, bytes: u64, now: Instant) -> Instant {
        let at = Ticks::of(now);
        let buckets = self.paid(sender, |purse| &purse.bytes, |scope| scope.bytes.as_ref());
        now + buckets.map(|(bucket, pace)| bucket.reserve(pace, bytes, at)).max().unwrap_or_default()
    }

    fn paid(
        &self,
        sender: Sender,
        bucket: impl Fn(&Purse) -> &Bucket,
        pace: impl Fn(&Scope) -> Option<&Pace>,
    ) -> impl Iterator<Item = (&Bucket, &Pace)> {
        self.scopes.iter().filter_map(move |scope| Some((bucket(scope.purses.of(sender)), pace(scope)?)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::bucket::tests::{Model, byte_rate, periods, rate};
    use super::*;
    use crate::config::model::Scoped;

    const NONE: Duration = Duration::ZERO;
    const SECOND: Duration = Duration::from_secs(1);

    fn messages(session: Option<u32>, client: Option<u32>, route: Option<u32>) -> RouteRates {
        let rate = |count| rate(count, SECOND);
        let messages = Scoped { session: session.map(rate), client: client.map(rate), route: route.map(rate) };
        RouteRates { messages, ..RouteRates::default() }
    }

    #[test]
    fn without_rates_there_is_no_throttle() {
        let shared = Arc::default();
        assert!(Throttle::new(&RouteRates::default(), &[Arc::clone(&shared)], &shared).is_none());
        assert!(Throttle::new(&messages(None, Some(1), None), &[], &shared).is_none());
    }

    #[test]
    fn five_sessions_of_a_client_share_what_two_clients_do_not() {
        let rates = messages(None, Some(10), None);
        let [one, two] = [Arc::<Purses>::default(), Arc::default()];
        let session = |client: &Arc<Purses>| {
            Throttle::new(&rates, std::slice::from_ref(client), &Arc::default()).expect("a rate")
        };
        let (sessions, other) = (Vec::from_iter((0..5).map(|_| session(&one))), session(&two));
        let now = Instant::now();
        let waits = |throttle: &Throttle| throttle.take_message(Sender::Client, now) - now;
        for _ in 0..2 {
            assert!(sessions.iter().all(|session| waits(session) == NONE));
        }
        assert!(!sessions[3].has_message(Sender::Client, now));
        assert_eq!(waits(&sessions[3]), Duration::from_millis(100));
        assert_eq!(waits(&sessions[1]), Duration::from_millis(200));
        assert_eq!(waits(&other), NONE);
        assert_eq!(sessions[0].take_message(Sender::Upstream, now), now, "each direction has its own");
        assert!(!one.is_full(now) && one.is_full(now + SECOND * 2));
    }

    #[test]
    fn the_slowest_of_several_rates_decides() {
        let rates = messages(Some(1), Some(2), Some(100));
        let throttle = Throttle::new(&rates, &[Arc::default()], &Arc::default()).expect("rates");
        let now = Instant::now();
        let waits = Vec::from_iter((0..4).map(|_| (throttle.take_message(Sender::Client, now) - now).as_secs()));
        assert_eq!(waits, [0, 1, 2, 3]);
        assert!(throttle.counts_messages() && throttle.piece().is_none());
    }

    #[test]
    fn a_newcomer_waits_for_the_debt_of_those_before_it() {
        let bytes = Scoped { client: Some(byte_rate(1000, SECOND)), ..Scoped::default() };
        let rates = RouteRates { bytes, ..RouteRates::default() };
        let client = Arc::<Purses>::default();
        let session = || Throttle::new(&rates, std::slice::from_ref(&client), &Arc::default()).expect("a rate");
        let now = Instant::now();
        assert_eq!(session().piece(), Some(1000));
        assert_eq!(session().take_bytes(Sender::Client, 0, now), now);
        assert_eq!(session().take_bytes(Sender::Client, 4000, now), now + SECOND * 3);
        assert_eq!(session().take_bytes(Sender::Client, 0, now), now + SECOND * 3);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Any sessions of any clients: each message's turn is the latest of what the models of its three buckets say.
        #[test]
        fn every_rate_holds_at_once(
            counts in prop::array::uniform3(prop::option::of(1..200_u32)),
            per in periods(),
            takes in prop::collection::vec((0..500_000_000_u64, 0..6_usize), 1..300),
        ) {
            let scoped = |[session, client, route]: [Option<u32>; 3]| {
                let rate = |count| rate(count, per);
                Scoped { session: session.map(rate), client: client.map(rate), route: route.map(rate) }
            };
            let rates = RouteRates { messages: scoped(counts), ..RouteRates::default() };
            let clients: [Arc<Purses>; 2] = Default::default();
            let route = Arc::<Purses>::default();
            let sessions: Vec<_> = (0..6)
                .map(|number| Throttle::new(&rates, &[clients[number % 2].clone()], &route))
                .collect();
            let model = |count: Option<u32>| count.map(|count| Model::new(count.into(), per));
            let mut of_session = Vec::from_iter((0..6).map(|_| model(counts[0])));
            let mut of_client = [model(counts[1]), model(counts[1])];
            let mut of_route = model(counts[2]);
            let (start, mut now) = (Instant::now(), 0);
            for (pause, number) in takes {
                now += pause;
                let models = [&mut of_session[number], &mut of_client[number % 2], &mut of_route];
                let right = models.into_iter().flatten().map(|model| model.take(1, now)).max().unwrap_or(now);
                let turn = sessions[number].as_ref().map_or(now, |throttle| {
                    (throttle.take_message(Sender::Client, start + Duration::from_nanos(now)) - start).as_nanos() as u64
                });
                prop_assert!(turn.abs_diff(right) <= 32 + (right >> 20), "{turn} is not {right}");
            }
        }
    }
}
