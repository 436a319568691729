//! What is limited for the whole gateway: connections, sessions, sessions and handshakes of one client.
//!
//! Permits are fields of what they limit and free themselves when it is dropped, after a panic too.

pub mod bucket;
mod permit;
mod rate;
pub mod throttle;

use std::sync::Arc;

use crate::config::model;
use crate::policy::client::ClientKey;
use crate::proto::refusal::Refusal;

pub use permit::Permit;
use permit::{Clients, Gauge};
use rate::Handshakes;

/// The counts and limiters of one gateway.
#[derive(Debug)]
pub struct Limits {
    connections: Arc<Gauge>,
    sessions: Arc<Gauge>,
    clients: Arc<Clients>,
    handshakes: Option<Handshakes>,
}

/// What a session holds for as long as it lives.
#[derive(Debug)]
pub struct Permits {
    _session: Permit,
    _client: Option<permit::ClientPermit>,
}

impl Limits {
    pub fn new(limits: &model::Limits) -> Self {
        Limits {
            connections: Gauge::new(limits.connections),
            sessions: Gauge::new(limits.sessions),
            clients: Clients::new(limits.sessions_per_client),
            handshakes: limits.handshakes_per_client.map(Handshakes::new),
        }
    }

    /// A place for one more TCP connection; `None` when all are taken.
    pub fn connection(&self) -> Option<Permit> {
        self.connections.enter()
    }

    /// Takes what a session needs, before anything is dialled for it. The rate goes first: a refused handshake counts.
    ///
    /// # Errors
    /// The refusal of the first limit that is reached; nothing stays taken.
    pub fn enter(&self, key: ClientKey) -> Result<Permits, Refusal> {
        self.handshake(key)?;
        let session = self.sessions.enter().ok_or(Refusal::SessionsGateway)?;
        let client = self.clients.enter(key)?;
        Ok(Permits { _session: session, _client: client })
    }

    /// Counts a handshake of a client.
    ///
    /// # Errors
    /// When its rate is exceeded.
    pub fn handshake(&self, client: ClientKey) -> Result<(), Refusal> {
        self.handshakes.as_ref().map_or(Ok(()), |handshakes| handshakes.check(client))
    }

    /// Sessions open now.
    pub fn sessions(&self) -> usize {
        self.sessions.taken()
    }

    /// Forgets clients whose bucket is full again. To be called now and then.
    pub fn sweep(&self) {
        if let Some(handshakes) = &self.handshakes {
            handshakes.sweep();
        }
    }
}
