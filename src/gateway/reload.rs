//! Another configuration in place of the one in service, without losing a connection.
//!
//! Built beside the old one, then put in its place at once. Anything wrong: the old one stays, and who asked, the log and a
//! counter learn of it. See docs/decisions/0026-reload.md.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::build::Built;
use super::inspect::inspect;
use super::watch::Stamps;
use super::{Gateway, StartError, serve_all};
use crate::config::diff::{Change, Diff};
use crate::config::{self, Loaded, Problem, Problems, show};
use crate::live::Live;
use crate::notify;
use crate::observe::log;
use crate::relay::Cause;
use crate::relay::registry::Selector;
use crate::upstream::{Pool, resolve};

/// For so long a listener that goes may take to close its socket.
const CLOSING: Duration = Duration::from_secs(1);

/// What runs, as it was loaded.
#[derive(Debug)]
pub(super) struct Running {
    loaded: Loaded,
    /// Of the files when they were last read, also in vain.
    pub stamps: Stamps,
}

impl Running {
    pub fn new(loaded: Loaded) -> Running {
        let stamps = Stamps::of(&files(&loaded));
        Running { loaded, stamps }
    }

    /// The file that it was read from; `None` where it is built in.
    pub fn file(&self) -> Option<&Path> {
        self.loaded.file.as_deref()
    }
}

/// The files that a reload reads, but for those of API keys, which are watched in any case.
pub(super) fn files(loaded: &Loaded) -> Vec<PathBuf> {
    loaded.file.iter().cloned().chain(loaded.config.certificate_files()).collect()
}

/// What a reload brought about.
#[derive(Debug, Clone)]
pub struct Reloaded {
    pub diff: Diff,
    /// Listeners and upstreams whose certificates or authorities are others now.
    pub certificates: usize,
    /// What was changed, and stays as it was until a restart.
    pub restart: Vec<Change>,
    /// What is allowed but hardly meant.
    pub warnings: Vec<Problem>,
}

impl Reloaded {
    /// Whether nothing was changed but perhaps certificates.
    pub fn is_empty(&self) -> bool {
        self.diff.is_empty() && self.restart.is_empty()
    }
}

/// Why the configuration in service stays.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error("the built-in example runs, which no file can change: restart with --config")]
    BuiltIn,
    #[error("the gateway stops")]
    Stopping,
    #[error(transparent)]
    Problems(#[from] Problems),
    #[error(transparent)]
    Build(#[from] StartError),
    #[error("the reload panicked: this is a fault of the gateway, please report it")]
    Panicked,
}

/// How many reloads there were.
#[derive(Debug)]
pub struct Reloads {
    good: AtomicU64,
    failed: AtomicU64,
    last: Mutex<Last>,
}

/// What came of the last one.
#[derive(Debug, Clone)]
pub struct Last {
    /// When the configuration in service was loaded.
    pub loaded: SystemTime,
    /// Why a newer one was not put in its place.
    pub error: Option<String>,
}

impl Default for Reloads {
    fn default() -> Self {
        let last = Mutex::new(Last { loaded: SystemTime::now(), error: None });
        Reloads { good: AtomicU64::default(), failed: AtomicU64::default(), last }
    }
}

impl Reloads {
    pub fn good(&self) -> u64 {
        self.good.load(Ordering::Relaxed)
    }

    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    pub fn last(&self) -> Last {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn went_well(&self) {
        self.good.fetch_add(1, Ordering::Relaxed);
        *self.lock() = Last { loaded: SystemTime::now(), error: None };
    }

    fn went_wrong(&self, error: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.lock().error = Some(error);
    }
}

/// `listeners +1 -0 ~1, routes +0 -0 ~2, upstreams +0 -0 ~0, certificates ~1`
impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Diff { listeners, routes, upstreams, .. } = &self.diff;
        write!(f, "listeners {listeners}, routes {routes}, upstreams {upstreams}, certificates ~{}", self.certificates)
    }
}

impl Gateway {
    /// Reads the configuration again with all of its files, and puts it into service. May be called by anybody at any time;
    /// one reload is done after the other.
    ///
    /// # Errors
    /// Whatever is wrong: nothing has changed then.
    pub async fn reload(self: &Arc<Self>) -> Result<Reloaded, ReloadError> {
        let gateway = self.clone();
        // In a task of its own: whoever asked may go away, and a reload that has begun is to come to its end.
        let reload = tokio::spawn(async move {
            let mut running = gateway.running.lock().await;
            notify::reloading();
            let result = gateway.try_reload(&mut running).await;
            gateway.note(&result);
            notify::ready();
            result
        });
        reload.await.unwrap_or(Err(ReloadError::Panicked))
    }

    async fn try_reload(&self, running: &mut Running) -> Result<Reloaded, ReloadError> {
        let file = running.file().ok_or(ReloadError::BuiltIn)?.to_owned();
        let before = self.current();
        if before.drain.has_begun() {
            return Err(ReloadError::Stopping);
        }
        let old = running.loaded.clone();
        let prepare = {
            let before = before.clone();
            // Files block, on a network's share for long.
            move || -> (Stamps, Result<_, ReloadError>) {
                let mut stamps = Stamps::of(&files(&old));
                let result = config::load_again(&file, &inspect).map_err(ReloadError::from).and_then(|mut new| {
                    stamps.add(&files(&new));
                    let restart = new.keep_from(&old);
                    let diff = Diff::between(&old, &new);
                    let built = Built::beside(Some(&before), new.config.clone(), &diff)?;
                    stamps.retain(&files(&new));
                    Ok((new, built, diff, restart))
                });
                (stamps, result)
            }
        };
        let (stamps, prepared) = tokio::task::spawn_blocking(prepare).await.map_err(|_| ReloadError::Panicked)?;
        running.stamps = stamps;
        let (new, mut built, diff, restart) = prepared?;
        built.live.names = resolve::keep(&built.live.config.dns, built.live.pools.values()).await;
        // Looked at again: what was opened meanwhile would never be closed.
        if before.drain.has_begun() {
            return Err(ReloadError::Stopping);
        }
        let certificates = self.put(&before, built, &diff);
        self.closed(&before).await;
        let warnings = new.warnings.clone();
        running.loaded = new;
        Ok(Reloaded { diff, certificates, restart, warnings })
    }

    /// Puts what was built into service. Returns of how many listeners and upstreams the certificates are others now.
    ///
    /// In this order: sessions that begin meanwhile are held to the new terms or woken for them; whoever asks from here on
    /// is served by the new configuration; then those are told whom it does not serve any more.
    fn put(&self, before: &Live, built: Built, diff: &Diff) -> usize {
        let Built { live, sockets, reread } = built;
        let certificates = renewed(before, &live);
        let live = Arc::new(live);
        let changed = live.limits.put(&before.limits);
        self.current.put(live.clone());
        for (door, _) in &sockets {
            tracing::info!("listening on {}", show::place(&door.listener, &door.address));
        }
        serve_all(sockets, &self.current);
        let is_new =
            |(name, pool): &(&String, &Arc<Pool>)| before.pools.get(*name).is_none_or(|old| !Arc::ptr_eq(old, pool));
        live.pools.iter().filter(is_new).for_each(|(_, pool)| pool.start(&live.drain, &live.config.drain));
        for door in before.doors.iter().filter(|door| live.door(door.id).is_none()) {
            door.closed.cancel();
            tracing::info!("no longer listening on {}", show::place(&door.listener, &door.address));
        }
        let sessions = live.drain.sessions();
        sessions.set_held_bytes(live.config.limits.held_bytes);
        sessions.renew(|route| changed.contains(route));
        if reread.put() {
            sessions.end_revoked();
        }
        for route in &diff.routes.removed {
            let removed = Selector { route: Some(route.clone()), ..Selector::default() };
            let (drain, rules) = (live.drain.clone(), live.config.drain.clone());
            tokio::spawn(async move { drain.close(&removed, Cause::RouteRemoved, &rules).await });
        }
        for upstream in &diff.upstreams.removed {
            before.pools.get(upstream).into_iter().for_each(|pool| pool.remove(&live.drain));
        }
        certificates
    }

    /// Waits until the sockets of listeners that went are closed, so that the next reload can open them again.
    async fn closed(&self, before: &Live) {
        let live = self.current();
        for door in before.doors.iter().filter(|door| live.door(door.id).is_none()) {
            let _ = tokio::time::timeout(CLOSING, door.gone.cancelled()).await;
        }
    }

    fn note(&self, result: &Result<Reloaded, ReloadError>) {
        match result {
            Ok(reloaded) => {
                self.reloads.went_well();
                for warning in &reloaded.warnings {
                    tracing::warn!("{}", warning.line());
                }
                for Change { key, .. } in &reloaded.restart {
                    tracing::warn!(key, "changed, but stays as it was until a restart");
                }
                if reloaded.certificates > 0 {
                    self.warn_of_expiry();
                }
                tracing::info!("reloaded: {reloaded}");
            }
            Err(ReloadError::Problems(problems)) => {
                self.reloads.went_wrong(problems.to_string());
                for problem in problems.iter() {
                    tracing::error!("{}", problem.line());
                }
                let problems = problems.len();
                tracing::error!(problems, "not reloaded: the configuration from before stays in service");
            }
            Err(error) => {
                let error = log::chain(error);
                self.reloads.went_wrong(error.clone());
                tracing::error!(error, "not reloaded: the configuration from before stays in service");
            }
        }
    }
}

/// Listeners and upstreams that stay, and whose certificates or authorities do not.
fn renewed(before: &Live, after: &Live) -> usize {
    let listeners = after.doors.iter().filter_map(|door| Some((before.door(door.id)?, door)));
    let listeners = listeners.filter_map(|(old, new)| Some((old.tls.as_ref()?, new.tls.as_ref()?)));
    let upstreams = after.trusted.iter().filter_map(|(name, new)| Some((before.trusted.get(name)?, new)));
    listeners.filter(|(old, new)| !Arc::ptr_eq(old, new)).count()
        + upstreams.filter(|(old, new)| !Arc::ptr_eq(old, new)).count()
}
