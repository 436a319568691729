//! Wiring: builds the rooms from a `Config`, starts and stops them.
//!
//! Everything that can fail is done before the first connection is accepted: files read, sockets bound.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::admin::desk::Desk;
use crate::admin::{Door as AdminDoor, OpenError};
use crate::backend;
use crate::config::model::{Config, Listener, ListenerAddress};
use crate::config::{Loaded, show};
use crate::http::serve::{self, At, Secured};
use crate::keyring::{self, BadFile, Keyrings};
use crate::limits::{Limits, ListenerEntry, Taken};
use crate::listen::accept::{self, Accepted, SecureError, Socket, Trouble};
use crate::listen::inherit;
use crate::listen::open::{Open, Sharing, open};
use crate::listen::proxy::{self, ProxyError};
use crate::listen::tls::{self, TlsError};
use crate::live::Live;
use crate::notify;
use crate::observe::log::{self, Refused};
use crate::observe::progress;
use crate::policy::access;
use crate::policy::client::{Address, Peer};
use crate::relay::Stream;
use crate::upstream::{self, Pool};

/// How often limits forget clients that are gone.
const SWEEP: Duration = Duration::from_secs(10);

/// How long clients that were accepted before another process took over may take to be answered.
const SETTLE: Duration = Duration::from_secs(2);
/// How often that is looked at.
const SETTLED: Duration = Duration::from_millis(50);

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    live: Arc<Live>,
    listeners: Vec<(ListenerAddress, bool)>,
    /// A listener is another process's, too.
    shares: bool,
    /// Where the admin interface listens.
    admin: Option<ListenerAddress>,
    /// Stops what goes on until the last session has ended: the embedded backends, the admin interface.
    backends: CancellationToken,
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
    #[error("upstream {name}")]
    UpstreamTls { name: String, source: Box<TlsError> },
}

impl From<TlsError> for StartError {
    fn from(error: TlsError) -> Self {
        StartError::Tls(Box::new(error))
    }
}

fn listen_hint(address: &ListenerAddress, error: &io::Error) -> &'static str {
    match (address, error.kind()) {
        (ListenerAddress::Tcp(_), _) => hint(error),
        (_, io::ErrorKind::AddrInUse) => " (another program listens there, or the file is no socket)",
        (_, io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound) => {
            " (its folder must be there, and be ours to write)"
        }
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
    let gateway = Gateway::start(loaded.config).await?;
    let bound: Vec<_> = gateway.listeners().iter().map(|(address, _)| address.clone()).collect();
    let workers = Handle::current().metrics().num_workers();
    print!("{}", show::start_up(gateway.config(), &bound, gateway.admin(), workers));
    // A closed standard output is no reason not to serve.
    let _ = io::stdout().flush();
    notify::ready();
    let sessions = gateway.live.drain.sessions().clone();
    let every = gateway.config().log.progress;
    tokio::spawn(progress::write(sessions.clone(), move || every));
    tokio::spawn(notify::keep_telling(move || format!("{} sessions", sessions.len())));
    let signal = signals.next().await;
    notify::stopping();
    tracing::info!(signal, sessions = gateway.live.drain.sessions().len(), "stopping; a second signal ends at once");
    tokio::select! {
        cut = gateway.stop() => {
            if cut > 0 {
                tracing::warn!(sessions = cut, "drain.grace is over: sessions were cut");
            }
            tracing::info!("stopped");
        }
        signal = signals.next() => tracing::warn!(signal, "second signal: ended at once"),
    }
    Ok(())
}

/// The signals that stop a gateway.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> io::Result<Signals> {
        Ok(Signals { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

impl Gateway {
    /// Starts the embedded backends and the listeners of `config`.
    ///
    /// # Errors
    /// When a file cannot be used or an address not be bound; nothing runs then.
    pub async fn start(config: Config) -> Result<Gateway, StartError> {
        let mut doors = Vec::new();
        for listener in &config.listeners {
            doors.push(Door::open(listener)?);
        }
        let admin = config.admin.as_ref().map(AdminDoor::open).transpose()?;
        let mut pools = HashMap::new();
        for upstream in config.upstreams.values() {
            let secure = upstream.servers.iter().any(|server| server.tls);
            let tls = secure
                .then(|| upstream::tls::client_config(&upstream.tls))
                .transpose()
                .map_err(|source| StartError::UpstreamTls { name: upstream.name.clone(), source: Box::new(source) })?;
            pools.insert(upstream.name.clone(), Arc::new(Pool::new(upstream.clone(), tls)));
        }
        let keyrings = Keyrings::load(&config).map_err(|(file, source)| StartError::Keys { file, source })?;
        let backends = CancellationToken::new();
        let mut servers = Vec::new();
        for server in &config.backends {
            let listener = TcpListener::bind(server.listen).await.map_err(|source| StartError::Backend {
                kind: server.kind.label(),
                address: server.listen,
                source,
            })?;
            servers.push(backend::run(server.kind, listener, backends.clone()));
        }
        let limits = Limits::new(&config);
        let live = Arc::new(Live::new(config, limits, keyrings, pools));
        for server in servers {
            tokio::spawn(server);
        }
        let shares = doors.iter().any(|door| door.sharing != Sharing::Alone);
        let listeners = doors.iter().map(|door| (door.address.clone(), door.tls.is_some())).collect();
        for (index, door) in doors.into_iter().enumerate() {
            tokio::spawn(door.serve(live.limits.listener(index), live.clone()));
        }
        live.pools().for_each(|pool| pool.start(&live.drain));
        tokio::spawn(sweep(Arc::downgrade(&live)));
        if let Some(watch) = live.keyrings.watch() {
            tokio::spawn(watch_keys(watch, Arc::downgrade(&live)));
        }
        let address = admin.as_ref().map(|door| door.address.clone());
        if let Some(door) = admin {
            let serving = door.serve(Arc::new(Desk::new(live.clone())));
            tokio::spawn(backends.clone().run_until_cancelled_owned(serving));
        }
        inherit::warn_of_the_rest();
        Ok(Gateway { live, listeners, shares, admin: address, backends })
    }

    /// Where it listens, in the order of the configuration, and whether TLS is spoken there.
    pub fn listeners(&self) -> &[(ListenerAddress, bool)] {
        &self.listeners
    }

    /// Where the admin interface listens.
    pub fn admin(&self) -> Option<&ListenerAddress> {
        self.admin.as_ref()
    }

    pub fn config(&self) -> &Config {
        &self.live.config
    }

    /// What clients take of the limits now. All zero when nobody is connected.
    pub fn taken(&self) -> Taken {
        self.live.taken()
    }

    /// Stops accepting, ends every session with 1012 and waits, at most for `drain.grace`.
    /// Returns how many sessions had to be cut.
    pub async fn stop(&self) -> usize {
        if self.shares {
            self.live.drain.leave();
            self.settle().await;
        }
        let cut = self.live.drain.drain(self.live.config.drain.grace).await;
        self.backends.cancel();
        cut
    }

    /// Waits until those who were accepted before the listeners were left to others are answered.
    async fn settle(&self) {
        let answered = async {
            loop {
                // At least once: a listener may have taken somebody just now.
                tokio::time::sleep(SETTLED).await;
                if self.live.taken().pending == 0 {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(SETTLE, answered).await;
    }
}

/// A listener that is bound and has its certificates.
struct Door {
    listener: Arc<Listener>,
    socket: Socket,
    address: ListenerAddress,
    sharing: Sharing,
    tls: Option<TlsAcceptor>,
}

impl Door {
    fn open(listener: &Listener) -> Result<Door, StartError> {
        let tls = match &listener.tls {
            Some(tls) => {
                if let Some(made) = tls::ensure_development(tls)? {
                    tracing::info!("{made}");
                }
                Some(TlsAcceptor::from(tls::load(tls)?))
            }
            None => None,
        };
        let Open { socket, address, sharing } =
            open(listener).map_err(|source| StartError::Listen { address: listener.address.clone(), source })?;
        Ok(Door { listener: Arc::new(listener.clone()), socket, address, sharing, tls })
    }

    async fn serve(self, entry: Arc<ListenerEntry>, live: Arc<Live>) {
        let Door { listener, socket, sharing, tls, .. } = self;
        let enter = |accepted: Accepted| {
            let peer = Peer::new(accepted.peer, &listener.trusted_proxies);
            if access::drops(&listener.access, &peer) {
                tracing::debug!(client = %peer.address, "closed a connection that `allow` and `deny` do not let in");
                return;
            }
            let at = At { listener: listener.clone(), entry: entry.clone() };
            live.drain.spawn(connection(accepted, tls.clone(), at, live.clone()));
        };
        let mut trouble = Trouble::default();
        loop {
            let leaves = if sharing == Sharing::Alone { live.drain.begun() } else { live.drain.left() };
            tokio::select! {
                () = leaves => break,
                accepted = accept::next(&socket, &entry, &live.limits, &mut trouble) => enter(accepted),
            }
        }
        if sharing == Sharing::ReusePort {
            accept::last(socket, &entry, &live.limits, &mut trouble).into_iter().for_each(enter);
        }
    }
}

/// The PROXY header and TLS where the listener has them, then HTTP.
async fn connection(accepted: Accepted, tls: Option<TlsAcceptor>, at: At, live: Arc<Live>) {
    let Accepted { mut stream, peer: address, place, pending } = accepted;
    let listener = &at.listener;
    let mut peer = Peer::new(address, &listener.trusted_proxies);
    if let Some(timeout) = listener.proxy_protocol {
        let read = tokio::select! {
            () = live.drain.begun() => return,
            read = proxy::read(&mut stream, peer, &listener.trusted_proxies, timeout) => read,
        };
        match read {
            Ok(behind) => peer = behind,
            Err(error) => return not_proxied(&error, address, &live),
        }
    }
    let secured = match (tls, stream) {
        (Some(acceptor), Stream::Tcp(stream)) => {
            let secure = tokio::select! {
                () = live.drain.begun() => return,
                secure = accept::secure(stream, &acceptor, at.listener.tls_timeout) => secure,
            };
            match secure {
                Ok(stream) => Secured { stream, peer, place, pending, secure: true },
                Err(error) => return not_secured(&error, peer.address, &live),
            }
        }
        // A Unix socket has no TLS.
        (_, stream) => Secured { stream, peer, place, pending, secure: false },
    };
    serve::connection(secured, at, live).await;
}

/// Only a proxy of ours gets here or somebody who goes around it; balancers that look whether we live come all the time.
fn not_proxied(error: &ProxyError, address: Address, live: &Live) {
    live.metrics().turned_away(error.label());
    match error {
        ProxyError::Nothing => tracing::debug!(client = %address, "closed: {error}"),
        _ => tracing::info!(reason = error.label(), client = %address, detail = %error, "closed before a request"),
    }
}

/// Plain HTTP is somebody's mistake and was answered; garbage and silence come in swarms from scanners.
fn not_secured(error: &SecureError, address: Address, live: &Live) {
    live.metrics().turned_away(error.label());
    match error {
        SecureError::PlainHttp => log::refused(&Refused {
            reason: "plain_http",
            status: 400,
            client: Some(address),
            detail: Some(error.to_string()),
            ..Refused::default()
        }),
        _ => tracing::debug!(client = %address, error = %error, "TLS handshake failed"),
    }
}

/// Lets the limits forget clients that are gone, for as long as the gateway lives.
async fn sweep(live: std::sync::Weak<Live>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(live) = live.upgrade() else { return };
        live.limits.sweep();
    }
}

/// Reads API keys again when their files change, and ends the sessions of those that are gone, for as long as the gateway
/// lives.
async fn watch_keys(mut watch: keyring::Watch, live: std::sync::Weak<Live>) {
    loop {
        tokio::time::sleep(keyring::LOOK).await;
        // Files block, on a network's share for long.
        let look = tokio::task::spawn_blocking(move || (watch.look(), watch));
        let Ok((revoked, looked)) = look.await else { return };
        watch = looked;
        let Some(live) = live.upgrade() else { return };
        if revoked {
            live.drain.sessions().end_revoked();
        }
    }
}
