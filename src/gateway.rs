//! Wiring: builds the rooms from a `Config`, starts and stops them, and puts another configuration in place of the one in
//! service.
//!
//! Everything that can fail is done before the first connection is accepted: files read, sockets bound.

mod build;
mod door;
pub mod inspect;
mod reload;
mod watch;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::admin::desk::Desk;
use crate::admin::{Door as AdminDoor, OpenError};
use crate::backend;
use crate::config::diff::Diff;
use crate::config::model::ListenerAddress;
use crate::config::{Loaded, show};
use crate::keyring::BadFile;
use crate::limits::Taken;
use crate::listen::inherit;
use crate::listen::open::{Open, Sharing};
use crate::listen::tls::TlsError;
use crate::live::{Current, Door, Live};
use crate::notify;
use crate::observe::{log, progress};
use crate::upstream::resolve;
use crate::upstream::sticky;
use build::Built;
use reload::Running;

pub use reload::{Last, ReloadError, Reloaded, Reloads};

/// How often limits forget clients that are gone.
const SWEEP: Duration = Duration::from_secs(10);

/// How long clients that were accepted before another process took over may take to be answered.
const SETTLE: Duration = Duration::from_secs(2);
/// How long the admin interface may take to stop: a file of its own may block.
const ENDING: Duration = Duration::from_secs(1);
/// How often that is looked at.
const SETTLED: Duration = Duration::from_millis(50);

/// One reload at a time: files are read, and names resolved, while it is held.
#[expect(clippy::disallowed_types, reason = "held across an await, by whoever reloads, and by no session")]
type Alone<T> = tokio::sync::Mutex<T>;

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    current: Arc<Current>,
    /// What runs, as its file has it. Held while a reload is under way: one after the other.
    running: Alone<Running>,
    reloads: Reloads,
    /// Where the admin interface listens.
    admin: Option<ListenerAddress>,
    /// Stops what goes on until the last session has ended: the embedded backends, the admin interface.
    beside: CancellationToken,
    /// Cancelled when the admin interface has stopped and the file of its socket is gone.
    admin_ended: CancellationToken,
}

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}{}", listen_hint(.address, .source))]
    Listen { address: ListenerAddress, source: io::Error },
    #[error("the embedded {kind} server cannot listen on {address}{}", hint(.source))]
    Backend { kind: &'static str, address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Tls(Box<TlsError>),
    #[error("the API keys in {}", .file.display())]
    Keys { file: PathBuf, source: BadFile },
    #[error("cannot listen for signals")]
    Signals(#[source] io::Error),
    #[error(transparent)]
    Admin(#[from] OpenError),
    #[error("[admin] cannot be served on a thread of its own")]
    AdminThread(#[source] io::Error),
    #[error("upstream {name}")]
    UpstreamTls { name: String, source: Box<TlsError> },
    #[error("upstream {name}")]
    Sticky { name: String, source: Box<sticky::BadFile> },
}

impl From<TlsError> for StartError {
    fn from(error: TlsError) -> Self {
        StartError::Tls(Box::new(error))
    }
}

/// The next step when an address cannot be listened on.
pub(crate) fn listen_hint(address: &ListenerAddress, error: &io::Error) -> &'static str {
    match (address, error.kind()) {
        (ListenerAddress::Tcp(_), _) => hint(error),
        (_, io::ErrorKind::AddrInUse) => " (another program listens there, or the file is no socket)",
        (_, io::ErrorKind::NotFound) => " (its folder is missing: make it, or choose another path)",
        (_, io::ErrorKind::PermissionDenied) => " (let the user that runs tidegate write into its folder)",
        _ => "",
    }
}

/// The next step for the commonest failures of bind.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (another program listens there: stop it, or choose another port)",
        io::ErrorKind::PermissionDenied => " (ports below 1024 need a privilege: choose a higher one)",
        io::ErrorKind::AddrNotAvailable => " (this machine has no such address)",
        _ => "",
    }
}

/// Runs a gateway until SIGTERM or SIGINT, then stops it in good order; a second signal ends it at once.
///
/// # Errors
/// When it cannot start; see [`StartError`].
pub async fn run(loaded: Loaded) -> Result<(), StartError> {
    let mut signals = Signals::listen().map_err(StartError::Signals)?;
    tokio::spawn(log::rotation().map_err(StartError::Signals)?);
    let gateway = Gateway::start(loaded).await?;
    let live = gateway.current();
    let bound: Vec<_> = live.doors.iter().map(|door| door.address.clone()).collect();
    let workers = Handle::current().metrics().num_workers();
    print!("{}", show::start_up(&live.config, &bound, gateway.admin(), workers));
    drop(live);
    // A closed standard output is no reason not to serve.
    let _ = io::stdout().flush();
    notify::ready();
    let sessions = gateway.current().drain.sessions().clone();
    let of = Arc::downgrade(&gateway);
    tokio::spawn(progress::write(sessions.clone(), move || of.upgrade()?.current().config.log.progress));
    let open = sessions.clone();
    tokio::spawn(notify::keep_telling(move || format!("{} sessions", open.len())));
    let signal = loop {
        match signals.next().await {
            // Beside the wait for signals: whoever wants to stop need not wait for slow files.
            "SIGHUP" => drop(tokio::spawn(reload(gateway.clone()))),
            signal => break signal,
        }
    };
    notify::stopping();
    tracing::info!(signal, sessions = sessions.len(), "stopping; a second signal ends at once");
    tokio::select! {
        cut = gateway.stop() => {
            if cut > 0 {
                tracing::warn!(sessions = cut, "drain.grace is over: sessions were cut");
            }
            tracing::info!("stopped");
        }
        signal = signals.second() => {
            tracing::warn!(signal, "second signal: ended at once");
            gateway.close().await;
        }
    }
    Ok(())
}

async fn reload(gateway: Arc<Gateway>) {
    // Told in the log.
    let _ = gateway.reload().await;
}

/// The signals that a gateway heeds.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }

    /// The next one that stops.
    async fn second(&mut self) -> &'static str {
        loop {
            match self.next().await {
                "SIGHUP" => tracing::warn!("not reloaded: the gateway stops"),
                signal => return signal,
            }
        }
    }
}

impl Gateway {
    /// Starts the embedded backends and the listeners of a configuration.
    ///
    /// # Errors
    /// When a file cannot be used or an address not be bound; nothing runs then.
    pub async fn start(loaded: Loaded) -> Result<Arc<Gateway>, StartError> {
        let built = Built::beside(None, loaded.config.clone(), &Diff::default())?;
        let admin = loaded.config.admin.as_ref().map(AdminDoor::open).transpose()?;
        let beside = CancellationToken::new();
        let mut servers = Vec::new();
        for server in &loaded.config.backends {
            let listener = TcpListener::bind(server.listen).await.map_err(|source| StartError::Backend {
                kind: server.kind.label(),
                address: server.listen,
                source,
            })?;
            servers.push(backend::run(server.kind, listener, beside.clone()));
        }
        for server in servers {
            tokio::spawn(server);
        }
        let Built { mut live, sockets, .. } = built;
        live.names = resolve::keep(&live.config.dns, live.pools.values()).await;
        let current = Current::new(live);
        serve_all(sockets, &current);
        let live = current.load();
        live.pools().for_each(|pool| pool.start(&live.drain, &live.config.drain));
        let file = loaded.file.clone();
        let gateway = Arc::new(Gateway {
            current: current.clone(),
            running: Alone::new(Running::new(loaded)),
            reloads: Reloads::default(),
            admin: admin.as_ref().map(|door| door.address.clone()),
            beside,
            admin_ended: CancellationToken::new(),
        });
        match admin {
            Some(door) => {
                let desk = Arc::new(Desk::new(Arc::downgrade(&gateway), file));
                let (stop, ended) = (gateway.beside.clone(), gateway.admin_ended.clone());
                door.start(desk, stop, ended).await.map_err(StartError::AdminThread)?;
            }
            None => gateway.admin_ended.cancel(),
        }
        inherit::warn_of_the_rest();
        tokio::spawn(sweep(Arc::downgrade(&gateway)));
        tokio::spawn(watch::keys(Arc::downgrade(&gateway)));
        tokio::spawn(watch::files(Arc::downgrade(&gateway)));
        tokio::spawn(watch::certificates(Arc::downgrade(&gateway)));
        Ok(gateway)
    }

    /// The configuration in service. Not to be kept: a reload puts another one in its place.
    pub fn current(&self) -> Arc<Live> {
        self.current.load()
    }

    /// Where it listens, in the order of the configuration, and whether TLS is spoken there.
    pub fn listeners(&self) -> Vec<(ListenerAddress, bool)> {
        self.current().doors.iter().map(|door| (door.address.clone(), door.tls.is_some())).collect()
    }

    /// Where the admin interface listens.
    pub fn admin(&self) -> Option<&ListenerAddress> {
        self.admin.as_ref()
    }

    /// What clients take of the limits now. All zero when nobody is connected.
    pub fn taken(&self) -> Taken {
        self.current().taken()
    }

    /// How many reloads there were.
    pub fn reloads(&self) -> &Reloads {
        &self.reloads
    }

    /// Empties the gateway as `[drain]` says, see [`Drain::stop`](crate::drain::Drain::stop).
    /// Returns how many sessions had to be cut.
    pub async fn stop(&self) -> usize {
        let live = self.current();
        live.drain.unready();
        if live.doors.iter().any(|door| door.sharing != Sharing::Alone) {
            live.drain.leave();
            self.settle().await;
        }
        let cut = live.drain.stop(&live.config.drain).await;
        self.close().await;
        cut
    }

    /// Stops what goes on beside the sessions, and waits a moment until the admin interface has removed the file of its
    /// socket.
    async fn close(&self) {
        self.beside.cancel();
        let _ = tokio::time::timeout(ENDING, self.admin_ended.cancelled()).await;
    }

    /// Waits until those who were accepted before the listeners were left to others are answered.
    async fn settle(&self) {
        let answered = async {
            loop {
                // At least once: a listener may have taken somebody just now.
                tokio::time::sleep(SETTLED).await;
                if self.taken().pending == 0 {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(SETTLE, answered).await;
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.beside.cancel();
    }
}

/// Lets the listeners accept that were just opened.
fn serve_all(sockets: Vec<(Arc<Door>, Open)>, current: &Arc<Current>) {
    for (door, socket) in sockets {
        tokio::spawn(door::serve(socket, door, current.clone()));
    }
}

/// Lets all who remember something forget clients and servers that are gone, for as long as the gateway lives.
async fn sweep(gateway: Weak<Gateway>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(gateway) = gateway.upgrade() else { return };
        let live = gateway.current();
        live.limits.sweep();
        live.pools().for_each(|pool| pool.sweep());
        let is_served = |upstream: &str, server: &str| {
            let upstream = live.config.upstreams.get(upstream);
            upstream.is_some_and(|upstream| upstream.servers.iter().any(|known| known.text == server))
        };
        live.drain.sessions().forget(is_served);
    }
}
