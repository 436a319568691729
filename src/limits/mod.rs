//! How many at once, and how many handshakes in a time: of the gateway, a listener, a route, a client.
//!
//! Permits are fields of what they limit and free themselves when it is dropped, after a panic too. Each gauge is exact:
//! it is taken with one atomic step or under its lock, never looked at first and taken later.

pub mod bucket;
mod clients;
pub mod held;
mod permit;
mod rate;
mod shards;
pub mod terms;
pub mod throttle;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::config::model::{self, Config, ListenerAddress, Rate, Route};
use crate::policy::client::ClientKey;
use crate::proto::refusal::Refusal;

use clients::{ClientPermit, Counts};
pub use permit::{Gauge, Permit};
use rate::{Overall, PerClient};
use terms::{Standing, Terms};
use throttle::Throttle;

/// Clients with a bucket of their own, for each rate.
const CLIENTS_MAX: usize = 200_000;
/// Clients without sessions whose purses a route remembers.
const LEFT_MAX: usize = 100_000;

/// The counts and limiters of one gateway under one configuration. Those of the next one go on from them: see
/// [`Limits::renew`].
#[derive(Debug)]
pub struct Limits {
    connections: Arc<Gauge>,
    pending: Arc<Gauge>,
    sessions: Arc<Gauge>,
    clients: Option<Counts>,
    handshakes: Option<Rated<PerClient>>,
    farewells: Arc<Farewells>,
    /// Those of the configuration in its order, then those that are no more and whose connections or sessions still live.
    listeners: Vec<(ListenerAddress, Arc<ListenerEntry>)>,
    /// Those too that are no more and whose sessions still live.
    routes: HashMap<String, Arc<RouteEntry>>,
}

/// What the connections of a listener share.
#[derive(Debug)]
pub struct ListenerEntry {
    connections: Arc<Gauge>,
    pending: Arc<Gauge>,
    sessions: Arc<Gauge>,
}

/// What the sessions of a route share.
#[derive(Debug)]
pub struct RouteEntry {
    sessions: Arc<Gauge>,
    clients: Option<Counts>,
    handshakes: Option<Rated<Overall>>,
    handshakes_per_client: Option<Rated<PerClient>>,
    terms: Arc<Terms>,
    standing: Arc<Standing>,
}

/// A limiter and its rate. As long as the rate stays, so does what was counted.
#[derive(Debug)]
struct Rated<L> {
    rate: Rate,
    limiter: Arc<L>,
}

impl<L> Rated<L> {
    fn renew(before: Option<&Self>, rate: Option<Rate>, new: impl FnOnce(Rate) -> L) -> Option<Self> {
        let rate = rate?;
        let kept = before.filter(|before| before.rate == rate).map(|before| before.limiter.clone());
        Some(Rated { rate, limiter: kept.unwrap_or_else(|| Arc::new(new(rate))) })
    }
}

/// The place of a TCP connection, for as long as it lives.
#[derive(Debug)]
pub struct Place {
    _gateway: Permit,
    _listener: Permit,
}

/// Held by a connection until a WebSocket handshake of its was agreed on. One that serves pages only holds it to its end:
/// between two requests nobody knows what comes next.
#[derive(Debug)]
pub struct Pending {
    _gateway: Permit,
    _listener: Permit,
}

/// What a session holds for as long as it lives.
#[derive(Debug)]
pub struct Permits {
    _gateway: Permit,
    _listener: Permit,
    _route: Permit,
    _clients: Box<[ClientPermit]>,
}

/// Who asks for a session, and where.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// What the client counts by: its address, and another key where the route has one that clients write themselves.
    pub keys: &'a [ClientKey],
    pub listener: &'a ListenerEntry,
    pub route: &'a RouteEntry,
}

/// Which cap of connections is reached; `Display` is its key in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    #[error("limits.connections")]
    Connections,
    #[error("listener.limits.connections")]
    ListenerConnections,
    #[error("limits.connections_pending")]
    Pending,
    #[error("listener.limits.connections_pending")]
    ListenerPending,
}

/// What is taken at a moment. All zero when nobody is connected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    pub connections: usize,
    /// Connections without an agreed handshake.
    pub pending: usize,
    /// Sessions that are open or being dialled.
    pub sessions: usize,
    /// The same three, as the listeners count them.
    pub of_listeners: [usize; 3],
    /// Sessions as the routes count them.
    pub of_routes: usize,
    /// Sessions as the upstream servers count them.
    pub of_servers: usize,
    /// Clients with sessions: of the gateway, and of each route that counts them.
    pub clients: usize,
}

impl Limits {
    pub fn new(config: &Config) -> Self {
        Limits::follow(None, config)
    }

    /// Those of another configuration: what is taken stays taken, and a limiter whose rate stays goes on as it is. Listeners
    /// are known by their address, routes by their name. Nothing changes for anybody before [`Limits::put`].
    pub fn renew(&self, config: &Config) -> Self {
        Limits::follow(Some(self), config)
    }

    fn follow(before: Option<&Limits>, config: &Config) -> Self {
        let limits = &config.limits;
        let mut listeners = before.map(|before| before.listeners.clone()).unwrap_or_default();
        let entry = |listener: &model::Listener| {
            let known = listeners.iter().position(|(address, _)| *address == listener.address);
            let before = known.map(|index| listeners.remove(index).1);
            (listener.address.clone(), ListenerEntry::follow(before.as_deref(), &listener.limits))
        };
        let renewed: Vec<_> = config.listeners.iter().map(entry).collect();
        listeners.retain(|(_, entry)| !entry.is_idle());
        let mut routes = before.map(|before| before.routes.clone()).unwrap_or_default();
        let entry = |route: &Arc<Route>| {
            let before = routes.remove(&route.name);
            (route.name.clone(), Arc::new(RouteEntry::follow(before.as_deref(), route, limits.sessions)))
        };
        let entries: Vec<_> = config.routes.iter().map(entry).collect();
        routes.retain(|_, entry| entry.sessions.taken() > 0);
        routes.extend(entries);
        Limits {
            connections: follow(before.map(|before| &before.connections), limits.connections),
            pending: follow(before.map(|before| &before.pending), limits.connections_pending),
            sessions: follow(before.map(|before| &before.sessions), limits.sessions),
            clients: counts(before.and_then(|before| before.clients.as_ref()), limits.sessions_per_client),
            handshakes: Rated::renew(
                before.and_then(|before| before.handshakes.as_ref()),
                limits.handshakes_per_client,
                |rate| PerClient::new(rate, CLIENTS_MAX),
            ),
            farewells: before.map_or_else(|| Arc::new(Farewells::new()), |before| before.farewells.clone()),
            listeners: renewed.into_iter().chain(listeners).collect(),
            routes,
        }
    }

    /// Puts these in the place of others: what sessions are held to from now on. They are to be woken then.
    pub fn put(&self, before: &Limits) {
        for (name, entry) in &before.routes {
            match self.routes.get(name).filter(|after| !Arc::ptr_eq(after, entry)) {
                Some(after) => after.standing.put(after.terms.clone()),
                None => entry.standing.remove(),
            }
        }
    }

    /// The entry of a listener, by its place in the configuration.
    pub fn listener(&self, index: usize) -> Arc<ListenerEntry> {
        self.listeners[index].1.clone()
    }

    /// The entry of a route of the configuration, by its name.
    pub fn route(&self, name: &str) -> &Arc<RouteEntry> {
        &self.routes[name]
    }

    /// A place for one more TCP connection.
    ///
    /// # Errors
    /// The cap that is reached; nothing stays taken.
    pub fn connection(&self, listener: &ListenerEntry) -> Result<(Place, Pending), Full> {
        let place = Place {
            _gateway: self.connections.enter().ok_or(Full::Connections)?,
            _listener: listener.connections.enter().ok_or(Full::ListenerConnections)?,
        };
        let pending = Pending {
            _gateway: self.pending.enter().ok_or(Full::Pending)?,
            _listener: listener.pending.enter().ok_or(Full::ListenerPending)?,
        };
        Ok((place, pending))
    }

    /// Takes what a session needs, before anything is dialled for it. The rates go first: a refused handshake counts.
    /// Then the caps, the cheapest first.
    ///
    /// # Errors
    /// The refusal of the first limit that is reached; no place stays taken.
    pub fn enter(&self, asking: &Asking<'_>) -> Result<Permits, Refusal> {
        let Asking { keys, listener, route } = *asking;
        self.handshake(keys, route)?;
        Ok(Permits {
            _gateway: self.sessions.enter().ok_or(Refusal::SessionsGateway)?,
            _listener: listener.sessions.enter().ok_or(Refusal::SessionsListener)?,
            _route: route.sessions.enter().ok_or(Refusal::SessionsRoute)?,
            _clients: self.client_permits(keys, route)?,
        })
    }

    /// Counts a handshake. Each client's own rates before the route's: who is over their own takes nothing from the others.
    ///
    /// # Errors
    /// The refusal of the first rate that is exceeded.
    pub fn handshake(&self, keys: &[ClientKey], route: &RouteEntry) -> Result<(), Refusal> {
        for key in keys {
            if let Some(rate) = &self.handshakes {
                rate.limiter.check(*key).map_err(|retry_after| Refusal::HandshakeRate { retry_after })?;
            }
            if let Some(rate) = &route.handshakes_per_client {
                let checked = rate.limiter.check(*key);
                checked.map_err(|retry_after| Refusal::HandshakeRateClientRoute { retry_after })?;
            }
        }
        match &route.handshakes {
            Some(rate) => rate.limiter.check().map_err(|retry_after| Refusal::HandshakeRateRoute { retry_after }),
            None => Ok(()),
        }
    }

    fn client_permits(&self, keys: &[ClientKey], route: &RouteEntry) -> Result<Box<[ClientPermit]>, Refusal> {
        let caps = [(&self.clients, Refusal::SessionsClient), (&route.clients, Refusal::SessionsClientRoute)];
        let caps = caps.iter().filter_map(|(counts, refusal)| Some((counts.as_ref()?, refusal)));
        let each = caps.flat_map(|(counts, refusal)| keys.iter().map(move |key| (counts, *key, refusal)));
        each.map(|(counts, key, refusal)| counts.enter(key).ok_or_else(|| refusal.clone())).collect()
    }

    /// Whether a client may be refused with a Close, which costs a handshake and a while of its connection.
    pub fn may_close(&self, client: ClientKey) -> bool {
        self.farewells.may_close(client)
    }

    /// What is taken now, but for `of_servers`, which the pools know.
    pub fn taken(&self) -> Taken {
        let of_listeners =
            |gauge: fn(&ListenerEntry) -> &Gauge| self.listeners.iter().map(|(_, entry)| gauge(entry).taken()).sum();
        let counts = self.routes.values().filter_map(|route| route.clients.as_ref()).chain(&self.clients);
        Taken {
            connections: self.connections.taken(),
            pending: self.pending.taken(),
            sessions: self.sessions.taken(),
            of_listeners: [
                of_listeners(|listener| &listener.connections),
                of_listeners(|listener| &listener.pending),
                of_listeners(|listener| &listener.sessions),
            ],
            of_routes: self.routes.values().map(|route| route.sessions.taken()).sum(),
            of_servers: 0,
            clients: counts.map(|counts| counts.clients()).sum(),
        }
    }

    /// Clients that the rates remember. They are forgotten when their bucket is full again.
    pub fn remembered(&self) -> usize {
        let purses = self.routes.values().map(|route| route.terms.clients());
        self.rates().map(PerClient::clients).chain(purses).sum()
    }

    /// Forgets clients whose bucket is full again, and gives their memory back. To be called now and then.
    pub fn sweep(&self) {
        self.rates().for_each(PerClient::sweep);
        self.routes.values().for_each(|route| route.terms.sweep());
    }

    fn rates(&self) -> impl Iterator<Item = &PerClient> {
        let of_routes = self.routes.values().filter_map(|route| route.handshakes_per_client.as_ref());
        let rates = of_routes.chain(&self.handshakes).map(|rate| &*rate.limiter);
        rates.chain([&self.farewells.per_client])
    }
}

/// The gauge that goes on from another one.
fn follow(before: Option<&Arc<Gauge>>, max: impl Into<Option<usize>>) -> Arc<Gauge> {
    match before {
        Some(before) => before.renew(max),
        None => Gauge::new(max),
    }
}

fn counts(before: Option<&Counts>, max: Option<usize>) -> Option<Counts> {
    max.map(|max| before.map_or_else(|| Counts::new(max), |before| before.renew(max)))
}

impl ListenerEntry {
    fn follow(before: Option<&ListenerEntry>, limits: &model::ListenerLimits) -> Arc<Self> {
        Arc::new(ListenerEntry {
            connections: follow(before.map(|before| &before.connections), limits.connections),
            pending: follow(before.map(|before| &before.pending), limits.connections_pending),
            sessions: follow(before.map(|before| &before.sessions), limits.sessions),
        })
    }

    fn is_idle(&self) -> bool {
        self.connections.taken() == 0 && self.sessions.taken() == 0
    }
}

impl RouteEntry {
    fn follow(before: Option<&RouteEntry>, route: &Route, of_gateway: usize) -> Self {
        let limits = &route.limits;
        let clients_max = limits.sessions.unwrap_or(of_gateway).saturating_add(LEFT_MAX);
        let (relay, rates) = (route.relay.clone(), limits.rates);
        let terms = Arc::new(match before {
            Some(before) => before.terms.renew(relay, rates, clients_max),
            None => Terms::new(relay, rates, clients_max),
        });
        let standing = before.map(|before| &before.standing).filter(|standing| !standing.is_removed());
        RouteEntry {
            sessions: follow(before.map(|before| &before.sessions), limits.sessions),
            clients: counts(before.and_then(|before| before.clients.as_ref()), limits.sessions_per_client),
            handshakes: Rated::renew(
                before.and_then(|before| before.handshakes.as_ref()),
                limits.handshakes,
                Overall::new,
            ),
            handshakes_per_client: Rated::renew(
                before.and_then(|before| before.handshakes_per_client.as_ref()),
                limits.handshakes_per_client,
                |rate| PerClient::new(rate, CLIENTS_MAX),
            ),
            standing: standing.cloned().unwrap_or_else(|| Standing::new(terms.clone())),
            terms,
        }
    }

    /// The route, as its sessions know it.
    pub fn standing(&self) -> &Arc<Standing> {
        &self.standing
    }

    /// What a session pays from whose client has these keys; `None` where no rate applies.
    pub fn throttle(&self, keys: &[ClientKey]) -> Option<Arc<Throttle>> {
        self.terms.throttle(keys)
    }
}

/// Bounds on refusals with a Close (`refuse = "close"`). Beyond them the answer is the plain status: a page that connects
/// again at once would otherwise make its refusals dearer for us than what it was refused for.
#[derive(Debug)]
struct Farewells {
    per_client: PerClient,
    overall: Overall,
}

impl Farewells {
    /// A page with a few tabs gets its codes.
    const PER_CLIENT: u32 = 10;
    /// Each lasts 2 s at most, so that no more than 1,000 are under way.
    const OVERALL: u32 = 500;
    const CLIENTS_MAX: usize = 20_000;

    fn new() -> Self {
        let rate = |count| Rate { count: NonZeroU32::new(count).expect("not zero"), per: Duration::from_secs(1) };
        Farewells {
            per_client: PerClient::new(rate(Self::PER_CLIENT), Self::CLIENTS_MAX),
            overall: Overall::new(rate(Self::OVERALL)),
        }
    }

    /// The client first: who is over their own takes nothing from the others.
    fn may_close(&self, client: ClientKey) -> bool {
        self.per_client.check(client).is_ok() && self.overall.check().is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::Path;

    use tokio::time::Instant;

    use super::*;
    use crate::limits::throttle::Sender;

    fn limits(text: &str) -> Limits {
        let text = text.replace("[[listener]]", "[[listener]]\naddress = \"127.0.0.1:0\"");
        let text = format!("{text}\n[upstream.app]\nservers = [\"ws://127.0.0.1:9000\"]\n");
        Limits::new(&crate::config::parse(&text, Path::new("config.toml")).expect("it is right").config)
    }

    fn key(number: u32) -> ClientKey {
        ClientKey::from(IpAddr::V4(Ipv4Addr::from(number)))
    }

    fn ask(limits: &Limits, keys: &[ClientKey]) -> Result<Permits, Refusal> {
        limits.enter(&Asking { keys, listener: &limits.listener(0), route: limits.route("app") })
    }

    const ROUTE: &str = "[[route]]\nname = \"app\"\nupstream = \"app\"\n";

    #[test]
    fn each_cap_has_its_refusal_and_nothing_stays_taken_after_one() {
        #[rustfmt::skip]
        let rows = [
            ("the gateway", format!("[limits]\nsessions = 2\n[[listener]]\n{ROUTE}"), Refusal::SessionsGateway),
            ("the listener", format!("[[listener]]\nlimits = {{ sessions = 2 }}\n{ROUTE}"), Refusal::SessionsListener),
            ("the route", format!("[[listener]]\n{ROUTE}limits = {{ sessions = 2 }}"), Refusal::SessionsRoute),
            ("the client", format!("[limits]\nsessions_per_client = 2\n[[listener]]\n{ROUTE}"), Refusal::SessionsClient),
            ("the client on the route", format!("[[listener]]\n{ROUTE}limits = {{ sessions_per_client = 2 }}"),
                Refusal::SessionsClientRoute),
        ];
        for (name, text, refusal) in rows {
            let limits = limits(&text);
            let held = [ask(&limits, &[key(1)]).expect(name), ask(&limits, &[key(1)]).expect(name)];
            let taken = limits.taken();
            assert_eq!(ask(&limits, &[key(1)]).expect_err(name), refusal, "{name}");
            assert_eq!(limits.taken(), taken, "{name}: nothing stays taken");
            let other = ask(&limits, &[key(2)]).map(drop);
            let told = refusal.status().as_u16();
            assert_eq!(other.is_ok(), told == 429, "{name}: another client");
            drop(held);
            assert_eq!(limits.taken(), Taken::default(), "{name}");
        }
    }

    #[test]
    fn each_rate_has_its_refusal_and_the_clients_own_goes_first() {
        let limits = limits(&format!(
            "[limits]\nhandshakes_per_client = \"6/h\"\n[[listener]]\n\
             {ROUTE}limits = {{ handshakes_per_client = \"2/h\", handshakes = \"3/h\" }}"
        ));
        let label = |number| ask(&limits, &[key(number)]).map(drop).map_err(|refusal| refusal.label());
        assert_eq!([label(1), label(1)], [Ok(()), Ok(())]);
        for _ in 0..4 {
            assert_eq!(label(1), Err("handshake_rate_client_route"));
        }
        assert_eq!(label(1), Err("handshake_rate"), "the refused count");
        assert_eq!(label(2), Ok(()), "and took nothing from the route's");
        assert_eq!(label(3), Err("handshake_rate_route"));
    }

    #[test]
    fn both_keys_of_a_request_are_counted() {
        let limits = limits(&format!(
            "[limits]\nsessions_per_client = 2\n[[listener]]\n{ROUTE}limits = {{ sessions_per_client = 1 }}"
        ));
        let held = ask(&limits, &[key(1), key(7)]).expect("both below");
        assert_eq!(ask(&limits, &[key(2), key(7)]).expect_err("the second key"), Refusal::SessionsClientRoute);
        assert_eq!(ask(&limits, &[key(1), key(8)]).expect_err("the first key"), Refusal::SessionsClientRoute);
        assert_eq!(limits.taken().clients, 4);
        drop(held);
        assert_eq!(limits.taken(), Taken::default());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_comes_back_finds_its_debt_and_is_forgotten_without_one() {
        let limits = limits(&format!("[[listener]]\n{ROUTE}limits = {{ messages_per_client = \"2/s\" }}"));
        let session = |number| limits.route("app").throttle(&[key(number)]).expect("a rate");
        let wait = |number| {
            let now = Instant::now();
            session(number).take_message(Sender::Client, now) - now
        };
        for millis in [0, 0, 500, 1000] {
            assert_eq!(wait(1), Duration::from_millis(millis));
        }
        assert_eq!(wait(2), Duration::ZERO, "another client");
        tokio::time::advance(Duration::from_millis(600)).await;
        limits.sweep();
        assert_eq!(limits.remembered(), 1, "the debt of the first is remembered");
        let held = session(1);
        tokio::time::advance(Duration::from_secs(2)).await;
        limits.sweep();
        assert_eq!(limits.remembered(), 1, "a session holds it");
        drop(held);
        limits.sweep();
        assert_eq!(limits.remembered(), 0);
    }

    #[test]
    fn connections_have_caps_of_their_own() {
        let rows = [
            ("[limits]\nconnections = 2\n[[listener]]\n", Full::Connections),
            ("[[listener]]\nlimits = { connections = 2 }\n", Full::ListenerConnections),
            ("[limits]\nconnections_pending = 2\n[[listener]]\n", Full::Pending),
            ("[[listener]]\nlimits = { connections_pending = 2 }\n", Full::ListenerPending),
        ];
        for (text, full) in rows {
            let limits = limits(&format!("{text}{ROUTE}"));
            let enter = || limits.connection(&limits.listener(0));
            let mut held = [enter().expect("the first"), enter().expect("the second")]
                .map(|(place, pending)| (Some(place), Some(pending)));
            assert_eq!(enter().map(drop), Err(full));
            held[0].1.take();
            let agreed = matches!(full, Full::Pending | Full::ListenerPending);
            assert_eq!(enter().is_ok(), agreed, "{full}: after one has agreed");
            drop(held);
            assert_eq!(limits.taken(), Taken::default());
        }
    }

    #[test]
    fn a_storm_of_sessions_that_panic_leaves_nothing_taken() {
        let limits = limits(&format!(
            "[limits]\nsessions = 7\nhandshakes_per_client = \"off\"\n[[listener]]\n{ROUTE}limits = {{ sessions_per_client = 3 }}"
        ));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let limits = &limits;
                scope.spawn(move || {
                    for turn in 0..50 {
                        let _ = catch_unwind(AssertUnwindSafe(|| {
                            let _permits = ask(limits, &[key(turn % 3)]);
                            assert!(limits.taken().sessions <= 7);
                            assert!((turn + thread) % 2 == 0, "on purpose");
                        }));
                    }
                });
            }
        });
        assert_eq!(limits.taken(), Taken::default());
    }

    #[test]
    fn refusals_with_a_close_are_bounded_for_a_client_and_for_all() {
        let limits = limits(&format!("[[listener]]\n{ROUTE}"));
        let of_one = (0..100).filter(|_| limits.may_close(key(1))).count();
        assert!((10..=20).contains(&of_one), "{of_one} of one client");
        let of_all = (2..5_000).filter(|number| limits.may_close(key(*number))).count();
        assert!((400..=1_500).contains(&of_all), "{of_all} of all");
    }
}
