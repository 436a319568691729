//! Which sessions somebody means, and what is told of them. Pure.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;

use super::living::{About, Flow, PerSecond, Way};
use crate::policy::client::Address;
use crate::relay::end::Cause;

/// Every session that fits in all that is set here; the default fits all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selector {
    pub id: Option<u64>,
    /// The name of its route.
    pub route: Option<String>,
    /// The name of its upstream.
    pub upstream: Option<String>,
    /// Its server, as the configuration names it.
    pub server: Option<String>,
    /// Its [`About::member`].
    pub member: Option<u64>,
    /// Its listener, as the configuration names it.
    pub listener: Option<String>,
    pub client: Option<Clients>,
    /// The name of its API key.
    pub key: Option<String>,
    pub older_than: Option<Duration>,
    /// Both directions together, over the last ten seconds.
    pub messages_above: Option<f64>,
    pub bytes_above: Option<f64>,
}

/// Clients by their address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    Network(IpNet),
    /// Behind a Unix socket.
    Local,
}

/// What a [`Selector`] looks at.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    pub id: u64,
    pub about: &'a About,
    pub age: Duration,
    pub rate: PerSecond,
}

/// A part of a long list, in the order of the ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// It begins behind this id; 0: at the beginning.
    pub after: u64,
    pub limit: usize,
}

/// A page, and of how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// All that fit, on this page or not.
    pub total: usize,
    pub ids: Vec<u64>,
    /// Behind which id the next page begins; `None`: this is the last one.
    pub next: Option<u64>,
}

/// What is told of a living session.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionInfo {
    pub id: u64,
    pub way: Arc<Way>,
    pub client: Address,
    /// It came over TLS.
    pub secure: bool,
    /// The name of its API key.
    pub key: Option<Arc<str>>,
    pub opened: SystemTime,
    pub age: Duration,
    pub flow: Flow,
    /// Over the last ten seconds.
    pub rate: PerSecond,
    /// Bytes that wait in the gateway.
    pub held: usize,
    /// Why it was ordered to end.
    pub ordered: Option<Cause>,
}

impl Selector {
    pub(super) fn is_about_rates(&self) -> bool {
        self.messages_above.is_some() || self.bytes_above.is_some()
    }

    pub fn matches(&self, seen: &Seen<'_>) -> bool {
        let way = &seen.about.way;
        let named = |wanted: &Option<String>, name: &str| wanted.as_ref().is_none_or(|wanted| wanted == name);
        self.id.is_none_or(|id| id == seen.id)
            && named(&self.route, &way.route)
            && named(&self.upstream, &way.upstream)
            && named(&self.server, &way.server)
            && self.member.is_none_or(|member| member == seen.about.member)
            && named(&self.listener, &way.listener)
            && self.client.is_none_or(|clients| clients.contain(seen.about.client))
            && self.key.as_ref().is_none_or(|key| seen.about.key.as_ref().is_some_and(|own| *own.name == **key))
            && self.older_than.is_none_or(|age| seen.age > age)
            && self.messages_above.is_none_or(|rate| seen.rate.messages > rate)
            && self.bytes_above.is_none_or(|rate| seen.rate.bytes > rate)
    }
}

impl Clients {
    fn contain(self, address: Address) -> bool {
        match (self, address) {
            (Clients::Network(network), Address::Ip(ip)) => network.contains(&ip),
            (Clients::Local, Address::Local) => true,
            (Clients::Network(_), Address::Local) | (Clients::Local, Address::Ip(_)) => false,
        }
    }
}

/// Neither an address, nor a network, nor `local`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write an address, a network such as 10.0.0.0/8, or local")]
pub struct NoClients;

impl FromStr for Clients {
    type Err = NoClients;

    fn from_str(text: &str) -> Result<Self, NoClients> {
        if text == "local" {
            return Ok(Clients::Local);
        }
        let network = text.parse::<IpAddr>().map(|ip| ip.to_canonical().into()).or_else(|_| text.parse());
        network.map(Clients::Network).map_err(|_| NoClients)
    }
}

impl fmt::Display for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Clients::Network(network) => network.fmt(f),
            Clients::Local => f.write_str("local"),
        }
    }
}

impl Default for Page {
    fn default() -> Self {
        Page { after: 0, limit: 100 }
    }
}
