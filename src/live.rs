//! What every connection of a gateway shares: the configuration and what was built from it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::model::Config;
use crate::drain::Drain;
use crate::keyring::Keyrings;
use crate::limits::{Limits, Taken};
use crate::observe::metrics::Metrics;
use crate::policy::client::Identities;
use crate::upstream::Pool;

/// A configuration in service.
#[derive(Debug)]
pub struct Live {
    pub config: Config,
    pub limits: Limits,
    pub drain: Drain,
    pub keyrings: Keyrings,
    pub identities: Identities,
    pools: HashMap<String, Arc<Pool>>,
}

impl Live {
    /// `pools` has every upstream of `config`, by name.
    pub fn new(config: Config, limits: Limits, keyrings: Keyrings, pools: HashMap<String, Arc<Pool>>) -> Self {
        let drain = Drain::new(config.limits.held_bytes);
        Live { config, limits, drain, keyrings, identities: Identities::default(), pools }
    }

    /// The servers of an upstream that a route names.
    pub fn pool(&self, upstream: &str) -> &Arc<Pool> {
        self.pools.get(upstream).expect("a Config names only upstreams that it has")
    }

    /// The pools of all upstreams, in no order.
    pub fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.pools.values()
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
