//! One server of an upstream: what it is told to do, what is known of it, and how much it has to do.
//!
//! A [`Member`] belongs to one configuration. Its [`Vitals`] do not: they outlive a reload, and so do the sessions that
//! they count.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::time::Instant;

use super::For;
use super::balance::hash;
use super::health::{Health, Hindrance};
use super::kept::Kept;
use crate::config::model::{Server, Upstream};
use crate::limits::Gauge;

/// A server that sessions and requests may be sent to.
#[derive(Debug)]
pub struct Member {
    pub server: Server,
    /// Where its name leads; `None`: the name is resolved at each connection, or is none.
    pub address: Option<SocketAddr>,
    /// What it is called in a hash.
    pub(super) name: u64,
    pub(super) kept: Arc<Kept>,
    pub(super) vitals: Arc<Vitals>,
}

/// What is true of a server whatever the configuration says.
#[derive(Debug)]
pub(super) struct Vitals {
    pub sessions: Arc<Gauge>,
    /// Of plain HTTP, until the end of the answer.
    pub requests: Arc<Gauge>,
    health: Mutex<Health>,
    /// The pool in service does not have it any more.
    pub gone: AtomicBool,
    /// Unique in this process, from 1 on.
    id: u64,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

/// What somebody wants of a server, by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    #[default]
    Up,
    /// It gets nothing new but what belongs to a session that it has.
    Drain,
    /// It gets nothing at all, and is not checked.
    Down,
}

impl State {
    pub fn label(self) -> &'static str {
        match self {
            State::Up => "up",
            State::Drain => "drain",
            State::Down => "down",
        }
    }
}

/// How a server stands: the first that applies, from the last to the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    Up,
    /// Its handshakes failed; it is tried again after its time.
    Aside,
    /// Its checks failed.
    Unhealthy,
    /// By hand: nothing new.
    Drain,
    /// By hand: nothing at all.
    Down,
    /// The configuration or its name does not have it any more; it has sessions yet.
    Leaving,
}

impl Condition {
    pub fn label(self) -> &'static str {
        match self {
            Condition::Up => "up",
            Condition::Aside => "aside",
            Condition::Unhealthy => "unhealthy",
            Condition::Drain => "drain",
            Condition::Down => "down",
            Condition::Leaving => "leaving",
        }
    }
}

/// One server as it is at this moment, for people and metrics.
#[derive(Debug, Clone)]
pub struct ServerStatus {
    /// As the configuration wrote it.
    pub server: String,
    pub address: Option<SocketAddr>,
    pub weight: u32,
    pub backup: bool,
    pub condition: Condition,
    pub by_hand: State,
    /// Why its last check failed; `None`: it did not, or nobody checks it.
    pub failure: Option<String>,
    /// Open or being dialled.
    pub sessions: usize,
    /// Plain requests on their way.
    pub requests: usize,
    /// Of the condition, but for `Leaving`.
    pub since: SystemTime,
}

impl Vitals {
    /// Of a server that is new; `joins`: the others are there already.
    pub fn new(upstream: &Upstream, joins: bool) -> Arc<Vitals> {
        let up = upstream.active.as_ref().is_none_or(|active| active.initially_up);
        let health = Mutex::new(Health::new(up, joins, Instant::now()));
        Arc::new(Vitals {
            sessions: Gauge::new(None),
            requests: Gauge::new(None),
            health,
            gone: AtomicBool::new(false),
            id: NEXT.fetch_add(1, Ordering::Relaxed),
        })
    }

    pub fn gauge(&self, what: For) -> &Arc<Gauge> {
        match what {
            For::Session => &self.sessions,
            For::Request => &self.requests,
        }
    }

    pub fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sessions that are open or being dialled, and requests on their way.
    pub fn load(&self) -> usize {
        self.sessions.taken() + self.requests.taken()
    }
}

impl Member {
    pub(super) fn new(server: &Server, address: Option<SocketAddr>, kept: Arc<Kept>, vitals: Arc<Vitals>) -> Self {
        let name = hash(server.text.as_bytes()) ^ address.map_or(0, |address| hash(address.to_string().as_bytes()));
        Member { server: server.clone(), address, name, kept, vitals }
    }

    /// What its sessions know it by.
    pub fn id(&self) -> u64 {
        self.vitals.id
    }

    /// Whether this is that server, be it of another configuration.
    pub(super) fn is(&self, other: &Member) -> bool {
        Arc::ptr_eq(&self.vitals, &other.vitals)
    }

    pub(super) fn has_key(&self, server: &str, address: Option<SocketAddr>) -> bool {
        self.server.text == server && self.address == address
    }

    /// The address, for the log.
    pub(super) fn shown(&self) -> Option<tracing::field::DisplayValue<SocketAddr>> {
        self.address.map(tracing::field::display)
    }

    pub(super) fn status(&self, now: Instant, leaving: bool) -> ServerStatus {
        let health = self.vitals.health();
        let condition = match health.hindrance(now) {
            _ if leaving => Condition::Leaving,
            Some(Hindrance::Hand(State::Down)) => Condition::Down,
            Some(Hindrance::Hand(_)) => Condition::Drain,
            Some(Hindrance::Unhealthy) => Condition::Unhealthy,
            Some(Hindrance::Aside(_)) => Condition::Aside,
            None => Condition::Up,
        };
        ServerStatus {
            server: self.server.text.clone(),
            address: self.address,
            weight: self.server.weight,
            backup: self.server.backup,
            condition,
            by_hand: health.by_hand(),
            failure: health.failure().map(str::to_owned),
            sessions: self.vitals.sessions.taken(),
            requests: self.vitals.requests.taken(),
            since: SystemTime::now() - now.saturating_duration_since(health.since()),
        }
    }
}
