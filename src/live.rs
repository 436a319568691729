//! What every connection of a gateway shares: the configuration in service and what was built from it.
//!
//! A reload builds another [`Live`] beside this one and puts it into [`Current`]. Whoever serves a request reads it once and
//! keeps it to the end of that request; nothing that lives longer holds one.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::config::model::{Config, Listener, ListenerAddress};
use crate::drain::Drain;
use crate::keyring::Keyrings;
use crate::limits::{Limits, ListenerEntry, Taken};
use crate::listen::open::Sharing;
use crate::listen::tls::Served;
use crate::observe::metrics::Metrics;
use crate::policy::client::Identities;
use crate::upstream::Pool;
use crate::upstream::tls::Trusted;

/// The configuration in service, whichever that is.
#[derive(Debug)]
pub struct Current(ArcSwap<Live>);

/// A configuration in service. What does not depend on it (`drain`, `identities`) is the same in the one after it.
#[derive(Debug)]
pub struct Live {
    pub config: Config,
    pub limits: Limits,
    pub drain: Drain,
    pub keyrings: Keyrings,
    pub identities: Arc<Identities>,
    /// In the order of the configuration.
    pub doors: Vec<Arc<Door>>,
    /// Every upstream of `config`, by name.
    pub pools: HashMap<String, Arc<Pool>>,
    /// What the upstreams with TLS run on, by name.
    pub trusted: HashMap<String, Arc<Trusted>>,
}

/// A listener in service.
#[derive(Debug)]
pub struct Door {
    /// The same in the next configuration, whatever else of the listener is another.
    pub id: u64,
    pub listener: Arc<Listener>,
    pub entry: Arc<ListenerEntry>,
    /// Where it really listens: port 0 became a port.
    pub address: ListenerAddress,
    pub sharing: Sharing,
    pub tls: Option<Arc<Served>>,
    /// Cancelled when the listener is no more, and when the gateway stops.
    pub closed: CancellationToken,
}

impl Current {
    pub fn new(live: Live) -> Arc<Current> {
        Arc::new(Current(ArcSwap::from_pointee(live)))
    }

    pub fn load(&self) -> Arc<Live> {
        self.0.load_full()
    }

    pub(crate) fn put(&self, live: Arc<Live>) {
        self.0.store(live);
    }
}

impl Live {
    /// The servers of an upstream that a route names.
    pub fn pool(&self, upstream: &str) -> &Arc<Pool> {
        self.pools.get(upstream).expect("a Config names only upstreams that it has")
    }

    /// The pools of all upstreams, in no order.
    pub fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.pools.values()
    }

    /// A listener as it is now; `None` when it is no more.
    pub fn door(&self, id: u64) -> Option<&Arc<Door>> {
        self.doors.iter().find(|door| door.id == id)
    }

    /// The same, as it was last where it is no more.
    pub fn latest<'a>(&'a self, door: &'a Arc<Door>) -> &'a Arc<Door> {
        self.door(door.id).unwrap_or(door)
    }

    /// The certificates that we show, to clients and to upstreams.
    pub fn certificates(&self) -> Vec<Shown<'_>> {
        let listeners =
            self.doors.iter().filter_map(|door| Some((door, door.tls.as_ref()?, door.listener.tls.as_ref()?)));
        let listeners = listeners.flat_map(|(door, served, configured)| {
            let at = At::Listener(&door.listener.address);
            served.certificates.iter().zip(&configured.certificates).map(move |(shown, files)| Shown {
                at,
                file: &files.certificate,
                names: &shown.names,
                not_after: shown.not_after,
            })
        });
        let upstreams = self.config.upstreams.values().filter_map(|upstream| {
            let leaf = &self.trusted.get(&upstream.name)?.identity.as_ref()?.leaf;
            let (at, file) = (At::Upstream(&upstream.name), &upstream.tls.client.as_ref()?.certificate);
            Some(Shown { at, file, names: &leaf.names, not_after: leaf.not_after })
        });
        listeners.chain(upstreams).collect()
    }

    /// What happens is told here.
    pub fn metrics(&self) -> &Metrics {
        self.drain.sessions().metrics()
    }

    /// What clients take of the limits now.
    pub fn taken(&self) -> Taken {
        Taken { of_servers: self.pools.values().map(|pool| pool.sessions()).sum(), ..self.limits.taken() }
    }
}

/// A certificate in service.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    pub at: At<'a>,
    /// As it was read; the file may hold another one by now.
    pub file: &'a Path,
    /// DNS names and addresses, as [`Certificate`](crate::listen::tls::Certificate) has them.
    pub names: &'a [String],
    pub not_after: OffsetDateTime,
}

/// Where a certificate is shown.
#[derive(Debug, Clone, Copy)]
pub enum At<'a> {
    Listener(&'a ListenerAddress),
    /// By its name.
    Upstream(&'a str),
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Listener(address) => write!(f, "listener {address}"),
            At::Upstream(name) => write!(f, "upstream {name}"),
        }
    }
}
