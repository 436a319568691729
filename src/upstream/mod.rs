//! Reaching an upstream server: which one is next, and the opening handshake with it.

pub mod balance;
pub mod body;
pub mod dial;
mod health;
pub mod kept;
pub mod tls;
pub mod tries;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::request;
use rustls::ClientConfig;
use tokio::time::Instant;

use crate::config::model::{Balance, ClientBy, Passive, Server, Upstream};
use crate::limits::{Gauge, Permit};
use crate::policy::client::{self, Client, ClientKey};
use crate::proto::refusal::Refusal;
use crate::socket::Sources;
use balance::{Candidate, Rule, choose, hash};
use health::Health;
use kept::Kept;
use tries::Budget;

/// The servers of one upstream, and whose turn it is.
#[derive(Debug)]
pub struct Pool {
    pub upstream: Arc<Upstream>,
    /// Set when one of the servers speaks TLS.
    tls: Option<Arc<ClientConfig>>,
    sources: Sources,
    /// Of each server, as `upstream` has them.
    members: Box<[Member]>,
    /// What [`choose`] remembers. Held from the look at loads and health until the place is taken, so that of many
    /// handshakes at once each sees the others.
    credit: Mutex<Box<[i64]>>,
    /// Of retries.
    budget: Budget,
}

/// What a server has to do at this moment.
#[derive(Debug)]
struct Member {
    name: u64,
    sessions: Arc<Gauge>,
    /// Of plain HTTP, until the end of the answer.
    requests: Arc<Gauge>,
    kept: Arc<Kept>,
    health: Mutex<Health>,
}

impl Member {
    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server that was chosen, with a place there.
#[derive(Debug)]
pub struct Chosen<'a> {
    pub server: &'a Server,
    index: usize,
    kept: &'a Arc<Kept>,
    pub permit: Permit,
}

impl Pool {
    pub fn new(upstream: Arc<Upstream>, tls: Option<Arc<ClientConfig>>) -> Self {
        let member = |server: &Server| Member {
            name: hash(server.text.as_bytes()),
            sessions: Gauge::new(upstream.sessions_per_server),
            requests: Gauge::new(None),
            kept: Arc::new(Kept::new(upstream.keepalive, upstream.keepalive_timeout)),
            health: Mutex::default(),
        };
        let members: Box<[_]> = upstream.servers.iter().map(member).collect();
        let credit = Mutex::new(vec![0; members.len()].into());
        let budget = Budget::new(upstream.retry_budget);
        let sources = Sources::new(&upstream.source_addresses);
        Pool { upstream, tls, sources, members, credit, budget }
    }

    /// What `balance` hashes of a request; `None` where it hashes nothing.
    pub fn key(&self, parts: &request::Parts, client: &Client, ipv6_prefix: u8) -> Option<u64> {
        match &self.upstream.balance {
            Balance::Hash(by) => Some(key(by, parts, client, ipv6_prefix)),
            Balance::RoundRobin | Balance::LeastConnections | Balance::RandomTwo => None,
        }
    }

    /// The server for a session, but for those that were tried; one that has all its sessions, or is put aside, is passed
    /// over.
    fn next(&self, key: Option<u64>, tried: &[usize]) -> Result<Chosen<'_>, Refusal> {
        self.choose(key, tried, |member| &member.sessions)
    }

    /// The server for a request of plain HTTP.
    fn next_kept(&self, key: Option<u64>, tried: &[usize]) -> Result<Chosen<'_>, Refusal> {
        self.choose(key, tried, |member| &member.requests)
    }

    fn choose(
        &self,
        key: Option<u64>,
        tried: &[usize],
        gauge: impl Fn(&Member) -> &Arc<Gauge>,
    ) -> Result<Chosen<'_>, Refusal> {
        let mut credit = self.credit.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let back: Vec<_> = self.members.iter().map(|member| member.health().aside(now)).collect();
        let candidate = |(index, (server, member)): (usize, (&Server, &Member))| Candidate {
            weight: server.weight,
            backup: server.backup,
            load: member.sessions.taken() + member.requests.taken(),
            open: back[index].is_none() && !tried.contains(&index) && gauge(member).has_room(),
            name: member.name,
        };
        let candidates: Vec<_> = self.upstream.servers.iter().zip(&self.members).enumerate().map(candidate).collect();
        let full = || self.nobody(&back, now);
        let index = choose(self.rule(key), &candidates, &mut credit).ok_or_else(full)?;
        let member = &self.members[index];
        let permit = gauge(member).enter().ok_or_else(full)?;
        member.health().chosen(now, self.trial());
        Ok(Chosen { server: &self.upstream.servers[index], index, kept: &member.kept, permit })
    }

    /// Why there is nobody: all are put aside, and then at once; or those that are not have all their sessions.
    fn nobody(&self, back: &[Option<Instant>], now: Instant) -> Refusal {
        match back.iter().copied().collect::<Option<Vec<_>>>().and_then(|back| back.into_iter().min()) {
            Some(first) => Refusal::NoHealthyServer { retry_after: first - now },
            None => Refusal::SessionsUpstream,
        }
    }

    /// How long one try of a server takes, until its answer.
    fn trial(&self) -> Duration {
        self.upstream.connect_timeout + self.upstream.handshake_timeout
    }

    /// The rules of passive health. A server that is alone is never put aside: nobody would serve in its place.
    fn passive(&self) -> Option<&Passive> {
        self.upstream.passive.as_ref().filter(|_| self.members.len() > 1)
    }

    fn served(&self, index: usize) {
        if self.members[index].health().served() {
            tracing::info!(upstream = self.upstream.servers[index].text, "serves again");
        }
    }

    fn failed(&self, index: usize, why: &str) {
        let Some(rules) = self.passive() else { return };
        let aside = self.members[index].health().failed(rules, Instant::now());
        if let Some(time) = aside {
            let seconds = time.as_secs_f64();
            tracing::warn!(upstream = self.upstream.servers[index].text, seconds, detail = why, "put aside");
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
        self.members.iter().map(|member| member.sessions.taken()).sum()
    }
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
mod tests {
    use std::path::Path;
    use std::sync::Barrier;
    use std::thread;

    use super::*;
    use crate::config;

    const THREADS: usize = 8;

    fn pool(more: &str) -> Pool {
        let text = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\nupstream = \"app\"\n\
             [upstream.app]\nservers = [\"ws://a\", \"ws://b\", \"ws://c\"]\n{more}\n"
        );
        let config = config::parse(&text, Path::new("config.toml")).expect("it is right").config;
        Pool::new(config.upstreams["app"].clone(), None)
    }

    /// Whom many who come at once get.
    fn at_once(pool: &Pool) -> Vec<Chosen<'_>> {
        let barrier = Barrier::new(THREADS);
        thread::scope(|scope| {
            let choose = || {
                barrier.wait();
                pool.next(None, &[]).expect("one is open")
            };
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(choose)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        })
    }

    #[test]
    fn many_at_once_see_each_other() {
        let pool = pool("balance = \"least-connections\"");
        for _ in 0..200 {
            let chosen = at_once(&pool);
            let loads: Vec<_> = pool.members.iter().map(|member| member.sessions.taken()).collect();
            assert!(loads.iter().all(|load| (2..=3).contains(load)), "{loads:?}");
            drop(chosen);
            assert_eq!(pool.sessions(), 0);
        }
    }

    #[test]
    fn many_at_once_try_a_server_once_after_its_time() {
        for _ in 0..50 {
            let pool = pool("health = { passive = { failures = 1, aside = \"1ms\", aside_max = \"1ms\" } }");
            pool.failed(0, "on purpose");
            while pool.members[0].health().aside(Instant::now()).is_some() {
                thread::yield_now();
            }
            let tries = at_once(&pool).iter().filter(|chosen| chosen.index == 0).count();
            assert_eq!(tries, 1);
        }
    }
}
