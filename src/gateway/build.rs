//! A configuration becomes what connections share: built completely beside the one in service, which goes on meanwhile.
//!
//! Nothing here can be seen by a client. Whatever fails drops what was built, new sockets included.

use std::collections::HashMap;
use std::sync::Arc;

use super::{StartError, door};
use crate::config::diff::Diff;
use crate::config::model::{Config, Upstream};
use crate::drain::Drain;
use crate::keyring::{Keyrings, Reread};
use crate::limits::Limits;
use crate::listen::open::Open;
use crate::live::{Door, Live};
use crate::upstream::Pool;
use crate::upstream::tls::Trusted;

/// What is ready to be put into service.
pub(super) struct Built {
    pub live: Live,
    /// Of the listeners that are new.
    pub sockets: Vec<(Arc<Door>, Open)>,
    /// Keys that were read again.
    pub reread: Reread,
}

impl Built {
    /// Builds what follows `before`; `diff` says what is another.
    pub fn beside(before: Option<&Live>, config: Config, diff: &Diff) -> Result<Built, StartError> {
        let limits = before.map_or_else(|| Limits::new(&config), |before| before.limits.renew(&config));
        let drain = before.map_or_else(|| Drain::new(config.limits.held_bytes), |before| before.drain.clone());
        let identities = before.map(|before| before.identities.clone()).unwrap_or_default();
        let (keyrings, reread) = before
            .map_or(&Keyrings::default(), |before| &before.keyrings)
            .renew(&config)
            .map_err(|(file, source)| StartError::Keys { file, source })?;
        let trusted = trusted(before, &config)?;
        let pools = pools(before, &config, diff, &trusted);
        let (doors, sockets) = doors(before, &config, &limits, &drain)?;
        let live = Live { config, limits, drain, keyrings, identities, doors, pools, trusted };
        Ok(Built { live, sockets, reread })
    }
}

/// Listeners by their address: the same socket, whatever else of it is another.
#[allow(clippy::type_complexity)] // both halves have their names in `Built`
fn doors(
    before: Option<&Live>,
    config: &Config,
    limits: &Limits,
    drain: &Drain,
) -> Result<(Vec<Arc<Door>>, Vec<(Arc<Door>, Open)>), StartError> {
    let mut known = before.map(|before| before.doors.clone()).unwrap_or_default();
    let (mut doors, mut sockets) = (Vec::new(), Vec::new());
    for (index, listener) in config.listeners.iter().enumerate() {
        let same = known.iter().position(|door| door.listener.address == listener.address);
        let same = same.map(|index| known.remove(index));
        let (door, socket) = door::open(listener, limits.listener(index), same.as_ref(), || drain.part())?;
        sockets.extend(socket.map(|socket| (door.clone(), socket)));
        doors.push(door);
    }
    Ok((doors, sockets))
}

/// What the upstreams with TLS run on. What has not changed is the same.
fn trusted(before: Option<&Live>, config: &Config) -> Result<HashMap<String, Arc<Trusted>>, StartError> {
    let secure = config.upstreams.values().filter(|upstream| upstream.servers.iter().any(|server| server.tls));
    let one = |upstream: &Arc<Upstream>| {
        let name = upstream.name.clone();
        match Trusted::load(&upstream.tls, before.and_then(|before| before.trusted.get(&name))) {
            Ok(trusted) => Ok((name, trusted)),
            Err(source) => Err(StartError::UpstreamTls { name, source: Box::new(source) }),
        }
    };
    secure.map(one).collect()
}

/// The pools of the upstreams. One whose upstream stays as it is is the same.
fn pools(
    before: Option<&Live>,
    config: &Config,
    diff: &Diff,
    trusted: &HashMap<String, Arc<Trusted>>,
) -> HashMap<String, Arc<Pool>> {
    let one = |upstream: &Arc<Upstream>| {
        let name = &upstream.name;
        let (old, new) = (before.and_then(|before| before.trusted.get(name)), trusted.get(name));
        let same = old.map(Arc::as_ptr) == new.map(Arc::as_ptr) && !diff.upstreams.touches(name);
        let tls = new.map(|trusted| trusted.config.clone());
        let pool = match before.and_then(|before| before.pools.get(name)) {
            Some(pool) if same => pool.clone(),
            Some(pool) => Arc::new(pool.renew(upstream.clone(), tls)),
            None => Arc::new(Pool::new(upstream.clone(), tls)),
        };
        (name.clone(), pool)
    };
    config.upstreams.values().map(one).collect()
}
