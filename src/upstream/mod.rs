//! Reaching an upstream server: which one is next, and the opening handshake with it.

pub mod dial;
pub mod tls;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::ClientConfig;

use crate::config::model::{Server, Upstream};

/// The servers of one upstream, and whose turn it is.
#[derive(Debug)]
pub struct Pool {
    pub upstream: Arc<Upstream>,
    /// Set when one of the servers speaks TLS.
    tls: Option<Arc<ClientConfig>>,
    turn: AtomicUsize,
}

impl Pool {
    pub fn new(upstream: Arc<Upstream>, tls: Option<Arc<ClientConfig>>) -> Self {
        Pool { upstream, tls, turn: AtomicUsize::new(0) }
    }

    /// The server whose turn it is.
    pub fn next(&self) -> &Server {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        &self.upstream.servers[turn % self.upstream.servers.len()]
    }
}
