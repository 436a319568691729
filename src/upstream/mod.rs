//! Reaching an upstream server: which one is next, and the opening handshake with it.

pub mod balance;
pub mod body;
pub mod dial;
mod health;
pub mod kept;
pub mod member;
pub mod resolve;
pub mod sticky;
pub mod tls;
pub mod tries;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderValue, request};
use rustls::ClientConfig;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::model::{self, Balance, ClientBy, Fate, Passive, Server, Upstream};
use crate::drain::Drain;
use crate::limits::Permit;
use crate::policy::client::{self, Client, ClientKey};
use crate::proto::fields::Hop;
use crate::proto::refusal::Refusal;
use crate::relay::Cause;
use crate::socket::Sources;
use balance::{Candidate, Rule, choose, hash};
use health::Hindrance;
use health::watch::watch;
use kept::Kept;
use member::{Member, ServerStatus, State, Vitals};
use sticky::{Lesson, Sticky, Wish};
use tries::Budget;

/// When to come back while all servers are taken out by hand.
const BY_HAND: Duration = Duration::from_secs(10);

/// The servers of one upstream, and whose turn it is. Servers come and go; a server's counts and health outlive the
/// configuration that it came with.
#[derive(Debug)]
pub struct Pool {
    pub upstream: Arc<Upstream>,
    /// Set when one of the servers speaks TLS.
    tls: Option<Arc<ClientConfig>>,
    sticky: Sticky,
    sources: Sources,
    /// Held from the look at loads and health until the place is taken, so that of many handshakes at once each sees the
    /// others.
    set: Mutex<Set>,
    /// How many members there are, for those who need no more than that.
    size: AtomicUsize,
    /// Of retries.
    budget: Budget,
    /// Who checks the servers is told that they are others now.
    changed: Arc<Notify>,
    /// Ends the checks, as does the end of the pool.
    checks: CancellationToken,
    _end: DropGuard,
    /// The checks of the pool that this one renews.
    checks_before: Option<CancellationToken>,
    /// How sessions are drained; `None` before the pool is in service.
    drain_rules: Mutex<Option<model::Drain>>,
}

#[derive(Debug, Default)]
struct Set {
    members: Vec<Arc<Member>>,
    /// What [`choose`] remembers, of each member.
    credit: Vec<i64>,
    /// Gone, but with sessions or requests.
    leaving: Vec<Arc<Member>>,
    /// What [`choose`] is shown: filled anew each time, and kept for its room.
    candidates: Vec<Candidate>,
}

impl Set {
    /// A member of that name and address, be it on its way out.
    fn find(&self, server: &str, address: Option<SocketAddr>) -> Option<&Arc<Member>> {
        self.members.iter().chain(&self.leaving).find(|member| member.has_key(server, address))
    }

    /// What is wanted of all addresses of a server, and so of one that comes to them.
    fn by_hand(&self, server: &str) -> State {
        let of_server = self.members.iter().filter(|member| member.server.text == server);
        let mut states = of_server.map(|member| member.vitals.health().by_hand());
        let first = states.next().unwrap_or_default();
        if states.all(|state| state == first) { first } else { State::Up }
    }

    /// Puts `members` in the place of those that were. Who stays keeps its credit.
    fn replace(&mut self, members: Vec<Arc<Member>>) {
        let of_old = |member: &Arc<Member>| self.members.iter().position(|old| old.is(member));
        let credit = members.iter().map(|member| of_old(member).map_or(0, |index| self.credit[index])).collect();
        let old = std::mem::replace(&mut self.members, members);
        self.credit = credit;
        self.leaving.extend(old);
        self.members.iter().for_each(|member| member.vitals.gone.store(false, Ordering::SeqCst));
        self.leaving.retain(|old| !self.members.iter().any(|member| member.is(old)));
        self.forget();
    }

    fn forget(&mut self) {
        self.leaving.retain(|member| member.vitals.load() > 0);
    }
}

/// A server that was chosen, with a place there.
#[derive(Debug)]
pub struct Chosen {
    pub member: Arc<Member>,
    pub permit: Permit,
}

/// What a server is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    Session,
    /// Plain HTTP.
    Request,
}

impl Pool {
    pub fn new(upstream: Arc<Upstream>, tls: Option<Arc<ClientConfig>>, sticky: Sticky) -> Self {
        let budget = Budget::new(upstream.retry_budget);
        let members = upstream.servers.iter().map(|server| {
            Arc::new(Member::new(server, None, Arc::new(kept(&upstream)), Vitals::new(&upstream, false)))
        });
        let members = members.collect();
        Pool::with(upstream, tls, sticky, budget, members, Set::default(), None)
    }

    /// The pool of a changed configuration: servers that stay keep their sessions, health, turns and addresses. Those that
    /// do not get nothing new. The old pool goes on for those who have it.
    pub fn renew(&self, upstream: Arc<Upstream>, tls: Option<Arc<ClientConfig>>, mut sticky: Sticky) -> Self {
        sticky.inherit(&self.sticky);
        let budget = self.budget.renew(upstream.retry_budget);
        let (old, credit, leaving) = {
            let set = self.set();
            (set.members.clone(), set.credit.clone(), set.leaving.clone())
        };
        let old = Set { members: old, credit, leaving, ..Set::default() };
        let same = self.upstream.keepalive == upstream.keepalive
            && self.upstream.keepalive_timeout == upstream.keepalive_timeout;
        let same_tls = self.tls.is_none() && tls.is_none()
            || self.tls.as_ref().zip(tls.as_ref()).is_some_and(|(old, new)| Arc::ptr_eq(old, new));
        let stays = |server: &Server, member: &Member| {
            let keeps = same && (same_tls || !server.tls);
            let kept = if keeps { member.kept.clone() } else { Arc::new(kept(&upstream)) };
            Arc::new(Member::new(server, member.address, kept, member.vitals.clone()))
        };
        let mut members = Vec::new();
        for server in &upstream.servers {
            let known: Vec<_> = old.members.iter().filter(|member| member.server.text == server.text).collect();
            members.extend(known.iter().map(|member| stays(server, member)));
            if known.is_empty() {
                members.push(match old.find(&server.text, None) {
                    Some(leaving) => stays(server, leaving),
                    None => {
                        Arc::new(Member::new(server, None, Arc::new(kept(&upstream)), Vitals::new(&upstream, true)))
                    }
                });
            }
        }
        Pool::with(upstream, tls, sticky, budget, members, old, Some(self.checks.clone()))
    }

    fn with(
        upstream: Arc<Upstream>,
        tls: Option<Arc<ClientConfig>>,
        sticky: Sticky,
        budget: Budget,
        members: Vec<Arc<Member>>,
        mut set: Set,
        checks_before: Option<CancellationToken>,
    ) -> Self {
        let size = AtomicUsize::new(members.len());
        set.replace(members);
        let sources = Sources::new(&upstream.source_addresses);
        let (set, changed, checks) = (Mutex::new(set), Arc::default(), CancellationToken::new());
        let _end = checks.clone().drop_guard();
        let drain_rules = Mutex::default();
        Pool { upstream, tls, sticky, sources, set, size, budget, changed, checks, _end, checks_before, drain_rules }
    }

    /// The configuration has it no more: its sessions stay or end as `on_removed` says.
    pub fn remove(&self, drain: &Drain) {
        health::watch::remove(self, drain);
    }

    /// Begins to check the servers, until the gateway stops; the checks of the pool that this one renews end. To be called
    /// whenever a configuration that has this pool is put into service.
    pub fn start(self: &Arc<Self>, drain: &Drain, rules: &model::Drain) {
        let first = self.drain_rules.lock().unwrap_or_else(PoisonError::into_inner).replace(rules.clone()).is_none();
        if !first {
            return;
        }
        if let Some(before) = &self.checks_before {
            before.cancel();
        }
        let (checks, drain) = (self.checks.clone(), drain.clone());
        let watching = watch(Arc::downgrade(self), drain.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = drain.begun() => {}
                () = checks.cancelled() => {}
                () = watching => {}
            }
        });
    }

    /// Tells where the name of a server leads: it has one member for each address from now on. Addresses that stay keep
    /// all they have; those that do not get nothing new. None at all: it stays as it was, since a name that cannot be
    /// resolved says nothing of its servers.
    pub fn set_addresses(&self, server: &str, addresses: &[SocketAddr]) {
        let Some(configured) = self.upstream.servers.iter().find(|configured| configured.text == server) else {
            return;
        };
        if addresses.is_empty() {
            return;
        }
        // Before the gateway serves, all begin together.
        let joins = self.checks_before.is_some() || self.drain_rules().is_some();
        let mut set = self.set();
        let by_hand = set.by_hand(server);
        let member = |address: &SocketAddr| {
            if let Some(member) = set.find(server, Some(*address)) {
                return member.clone();
            }
            let vitals = Vitals::new(&self.upstream, joins);
            vitals.health().set_by_hand(by_hand, Instant::now());
            Arc::new(Member::new(configured, Some(*address), Arc::new(kept(&self.upstream)), vitals))
        };
        let resolved: Vec<_> = addresses.iter().map(member).collect();
        let first = set.members.iter().position(|member| member.server.text == server).unwrap_or(0);
        let mut members = set.members.clone();
        members.retain(|member| member.server.text != server);
        members.splice(first..first, resolved);
        self.size.store(members.len(), Ordering::Relaxed);
        set.replace(members);
        self.changed.notify_one();
    }

    /// For what a session ends at once that has just begun with `member`: its server went, or its checks failed, meanwhile.
    pub fn ends(&self, member: &Member) -> Option<Cause> {
        let upstream = &self.upstream;
        if upstream.on_removed != Fate::Keep && member.vitals.gone.load(Ordering::SeqCst) {
            return Some(Cause::Drain);
        }
        if upstream.on_unhealthy != Fate::Keep && !member.vitals.health().is_well() {
            return Some(cause(upstream.on_unhealthy));
        }
        None
    }

    /// `None` before the pool is in service.
    fn drain_rules(&self) -> Option<model::Drain> {
        self.drain_rules.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn leaving(&self) -> Vec<Arc<Member>> {
        self.set().leaving.clone()
    }

    fn members(&self) -> Vec<Arc<Member>> {
        self.set().members.clone()
    }

    /// Where the name of a server leads, as it was told last.
    fn addresses(&self, server: &str) -> Vec<SocketAddr> {
        let set = self.set();
        set.members.iter().filter(|member| member.server.text == server).filter_map(|member| member.address).collect()
    }

    /// Takes a server out, or back, by hand: all its addresses, or one. Returns whether there is such a server.
    pub fn set_state(&self, server: &str, address: Option<SocketAddr>, state: State) -> bool {
        let is_meant =
            |member: &&Arc<Member>| member.server.text == server && (address.is_none() || member.address == address);
        let set = self.set();
        let mut found = false;
        for member in set.members.iter().filter(is_meant) {
            found = true;
            if member.vitals.health().set_by_hand(state, Instant::now()) {
                tracing::warn!(upstream = server, address = member.shown(), state = state.label(), "set by hand");
            }
        }
        found
    }

    /// Every server as it is now: those of the configuration in its order, and those that are leaving.
    pub fn servers(&self) -> Vec<ServerStatus> {
        let now = Instant::now();
        let mut set = self.set();
        set.forget();
        let members = set.members.iter().map(|member| member.status(now, false));
        members.chain(set.leaving.iter().map(|member| member.status(now, true))).collect()
    }

    /// What a request asks of the choice: what `balance` hashes, and the server that it should meet again.
    pub fn wish(&self, parts: &request::Parts, client: &Client, ipv6_prefix: u8, hop: &Hop<'_>) -> Wish {
        let key = match &self.upstream.balance {
            Balance::Hash(by) => Some(key(by, parts, client, ipv6_prefix)),
            Balance::RoundRobin | Balance::LeastConnections | Balance::RandomTwo => None,
        };
        let client = || ClientKey::of(client.address, ipv6_prefix);
        Wish { key, ..self.sticky.wish(&self.upstream.name, parts, client, hop) }
    }

    /// The cookie for a client that is served by `member` now, where it has to be told.
    pub fn set_cookie(&self, wish: &Wish, member: &Member) -> Option<HeaderValue> {
        self.sticky.set_cookie(&self.upstream.name, wish, member.name)
    }

    /// Whether cookies are signed with the same key.
    pub fn has_key_of(&self, sticky: &Sticky) -> bool {
        self.sticky.has_key_of(sticky)
    }

    /// Who reads the answer of `member` to a request that opens a session of Socket.IO.
    pub fn lesson(&self, wish: &Wish, member: &Member) -> Option<Lesson> {
        self.sticky.lesson(wish, member.name)
    }

    /// Sessions of Socket.IO whose server is remembered.
    pub fn sticky_sessions(&self) -> usize {
        self.sticky.sessions()
    }

    /// Forgets those that nobody asked for in a long time. To be called now and then.
    pub fn sweep(&self) {
        self.sticky.sweep();
    }

    /// The server for a session or a request, but for those that were tried; one that has all its sessions, or is not to
    /// be chosen, is passed over.
    fn choose(&self, wish: &Wish, tried: &[Arc<Member>], what: For) -> Result<Chosen, Refusal> {
        let cap = match what {
            For::Session => self.upstream.sessions_per_server.unwrap_or(usize::MAX),
            For::Request => usize::MAX,
        };
        let mut set = self.set();
        let Set { members, credit, candidates, .. } = &mut *set;
        let now = Instant::now();
        let candidate = |member: &Arc<Member>| {
            let health = member.vitals.health();
            let has_room = member.vitals.gauge(what).taken() < cap;
            Candidate {
                weight: member.server.weight * health.share(now, self.upstream.slow_start),
                backup: member.server.backup,
                load: member.vitals.load(),
                open: has_room && health.hindrance(now).is_none() && !tried.iter().any(|tried| tried.is(member)),
                name: member.name,
            }
        };
        candidates.clear();
        candidates.extend(members.iter().map(candidate));
        let nobody = || self.nobody(members, now);
        // What belongs to a session goes to a server that takes nothing else any more.
        let may_own = |member: &Arc<Member>| {
            wish.owner == Some(member.name)
                && member.vitals.gauge(what).taken() < cap
                && matches!(member.vitals.health().hindrance(now), None | Some(Hindrance::Hand(State::Drain)))
                && !tried.iter().any(|tried| tried.is(member))
        };
        let owner = wish.owner.and_then(|_| members.iter().position(may_own));
        let met = || wish.met.and_then(|name| balance::find(name, candidates));
        let index = match owner.or_else(met) {
            Some(index) => index,
            None => choose(self.rule(wish.key), candidates, credit).ok_or_else(nobody)?,
        };
        let member = members[index].clone();
        // Another generation of this pool may have taken the last place.
        let permit = member.vitals.gauge(what).enter_below(cap).ok_or_else(nobody)?;
        member.vitals.health().chosen(now, self.trial());
        Ok(Chosen { member, permit })
    }

    /// Why there is nobody: none is to be chosen, and then at once; or those that are have all their sessions.
    fn nobody(&self, members: &[Arc<Member>], now: Instant) -> Refusal {
        let wait = |member: &Arc<Member>| {
            member.vitals.health().hindrance(now).map(|hindrance| match hindrance {
                Hindrance::Aside(until) => until - now,
                Hindrance::Unhealthy => self.upstream.active.as_ref().map_or(BY_HAND, |active| active.interval),
                Hindrance::Hand(_) => BY_HAND,
            })
        };
        match members.iter().map(wait).collect::<Option<Vec<_>>>().and_then(|waits| waits.into_iter().min()) {
            Some(retry_after) => Refusal::NoHealthyServer { retry_after },
            None => Refusal::SessionsUpstream,
        }
    }

    /// How long one try of a server takes, until its answer.
    fn trial(&self) -> Duration {
        self.upstream.connect_timeout + self.upstream.handshake_timeout
    }

    /// How many servers there are to choose from.
    fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    /// The rules of passive health. A server that is alone is never put aside: nobody would serve in its place.
    fn passive(&self) -> Option<&Passive> {
        self.upstream.passive.as_ref().filter(|_| self.size() > 1)
    }

    fn served(&self, member: &Member) {
        if member.vitals.health().served(Instant::now()) {
            tracing::info!(upstream = member.server.text, address = member.shown(), "serves again");
        }
    }

    fn failed(&self, member: &Member, why: &str) {
        let Some(rules) = self.passive() else { return };
        let aside = member.vitals.health().failed(rules, Instant::now());
        if let Some(time) = aside {
            let seconds = time.as_secs_f64();
            let upstream = &member.server.text;
            tracing::warn!(upstream, address = member.shown(), seconds, detail = why, "put aside");
        }
    }

    fn rule(&self, key: Option<u64>) -> Rule {
        match (&self.upstream.balance, key) {
            (Balance::Hash(_), Some(key)) => Rule::Hash(key),
            (Balance::RoundRobin | Balance::Hash(_), _) => Rule::Turn,
            (Balance::LeastConnections, _) => Rule::LeastLoad,
            (Balance::RandomTwo, _) => Rule::OfTwo(rand::random()),
        }
    }

    /// Sessions that are open or being dialled, with all servers.
    pub fn sessions(&self) -> usize {
        let set = self.set();
        set.members.iter().chain(&set.leaving).map(|member| member.vitals.sessions.taken()).sum()
    }

    fn set(&self) -> MutexGuard<'_, Set> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the sessions of an unhealthy server hear.
fn cause(fate: Fate) -> Cause {
    match fate {
        Fate::Close => Cause::UpstreamLost,
        Fate::Keep | Fate::Drain => Cause::Drain,
    }
}

fn kept(upstream: &Upstream) -> Kept {
    Kept::new(upstream.keepalive, upstream.keepalive_timeout)
}

/// A request that does not say who sent it belongs to its address, of IPv6 to its network: without cookies, too, the
/// requests of one client meet.
fn key(by: &ClientBy, parts: &request::Parts, client: &Client, ipv6_prefix: u8) -> u64 {
    match client::value(by, parts) {
        Some(value) => hash(&value),
        None => hash(ClientKey::of(client.address, ipv6_prefix).to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests;
