//! Reaching an upstream server: which one is next, and the opening handshake with it.

pub mod body;
pub mod dial;
pub mod kept;
pub mod tls;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::ClientConfig;

use crate::config::model::{Server, Upstream};
use crate::limits::{Gauge, Permit};
use kept::Kept;

/// The servers of one upstream, and whose turn it is.
#[derive(Debug)]
pub struct Pool {
    pub upstream: Arc<Upstream>,
    /// Set when one of the servers speaks TLS.
    tls: Option<Arc<ClientConfig>>,
    turn: AtomicUsize,
    /// Sessions of each server.
    sessions: Box<[Arc<Gauge>]>,
    /// Of plain HTTP, one for each server.
    kept: Vec<Arc<Kept>>,
}

impl Pool {
    pub fn new(upstream: Arc<Upstream>, tls: Option<Arc<ClientConfig>>) -> Self {
        let sessions = upstream.servers.iter().map(|_| Gauge::new(upstream.sessions_per_server)).collect();
        let kept = || Arc::new(Kept::new(upstream.keepalive, upstream.keepalive_timeout));
        let kept = upstream.servers.iter().map(|_| kept()).collect();
        Pool { upstream, tls, turn: AtomicUsize::new(0), sessions, kept }
    }

    /// The server whose turn it is, with a place there; one that has all its sessions is passed over. `None` when all do.
    pub fn next(&self) -> Option<(&Server, Permit)> {
        let servers = &self.upstream.servers;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let order = (0..servers.len()).map(|step| (turn.wrapping_add(step)) % servers.len());
        order.into_iter().find_map(|index| Some((&servers[index], self.sessions[index].enter()?)))
    }

    /// The server whose turn it is for plain HTTP, with the connections that are kept to it.
    pub fn next_kept(&self) -> (&Server, &Arc<Kept>) {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.kept.len();
        (&self.upstream.servers[turn], &self.kept[turn])
    }

    /// Sessions that are open or being dialled, with all servers.
    pub fn sessions(&self) -> usize {
        self.sessions.iter().map(|gauge| gauge.taken()).sum()
    }
}
