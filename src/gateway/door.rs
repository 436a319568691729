//! A listener while it serves: its socket, and each connection up to HTTP.
//!
//! The socket stays through reloads; every new connection is treated by the configuration that is in service when it comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::StartError;
use crate::config::model::Listener;
use crate::http::serve::{self, Secured};
use crate::limits::ListenerEntry;
use crate::listen::accept::{self, Accepted, SecureError, Trouble};
use crate::listen::open::{self, Open, Sharing};
use crate::listen::proxy::{self, ProxyError};
use crate::listen::tls::{self, Served};
use crate::live::{Current, Door, Live};
use crate::observe::log::{self, Refused};
use crate::policy::access;
use crate::policy::client::{Address, Peer};
use crate::relay::Stream;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Opens a listener, or goes on with the one `before`, which has its socket already.
pub(super) fn open(
    listener: &Listener,
    entry: Arc<ListenerEntry>,
    before: Option<&Arc<Door>>,
    closed: impl FnOnce() -> CancellationToken,
) -> Result<(Arc<Door>, Option<Open>), StartError> {
    let tls = match &listener.tls {
        Some(tls) => {
            if let Some(made) = tls::ensure_development(tls)? {
                tracing::info!("{made}");
            }
            Some(Served::load(tls, before.and_then(|door| door.tls.as_ref()))?)
        }
        None => None,
    };
    let listener = Arc::new(listener.clone());
    if let Some(before) = before {
        let (address, closed) = (before.address.clone(), before.closed.clone());
        let door = Door { id: before.id, listener, entry, address, sharing: before.sharing, tls, closed };
        return Ok((Arc::new(door), None));
    }
    let opened =
        open::open(&listener).map_err(|source| StartError::Listen { address: listener.address.clone(), source })?;
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let (address, sharing) = (opened.address.clone(), opened.sharing);
    Ok((Arc::new(Door { id, listener, entry, address, sharing, tls, closed: closed() }), Some(opened)))
}

/// Accepts connections until the listener is no more.
pub(super) async fn serve(Open { socket, sharing, .. }: Open, door: Arc<Door>, current: Arc<Current>) {
    let drain = current.load().drain.clone();
    let mut trouble = Trouble::default();
    let place = || {
        let live = current.load();
        live.limits.connection(&live.latest(&door).entry)
    };
    loop {
        tokio::select! {
            () = door.closed.cancelled() => break,
            () = drain.left(), if sharing != Sharing::Alone => break,
            accepted = accept::next(&socket, place, &mut trouble) => enter(accepted, &door, &current),
        }
    }
    if sharing == Sharing::ReusePort {
        accept::last(socket, place, &mut trouble).into_iter().for_each(|accepted| enter(accepted, &door, &current));
    }
}

/// Treats a new connection as the configuration says that is in service now.
fn enter(accepted: Accepted, door: &Arc<Door>, current: &Arc<Current>) {
    let live = current.load();
    let door = live.latest(door).clone();
    let peer = Peer::new(accepted.peer, &door.listener.trusted_proxies);
    if access::drops(&door.listener.access, &peer) {
        tracing::debug!(client = %peer.address, "closed a connection that `allow` and `deny` do not let in");
        return;
    }
    live.drain.spawn(connection(accepted, door, current.clone()));
}

/// The PROXY header and TLS where the listener has them, then HTTP.
async fn connection(accepted: Accepted, door: Arc<Door>, current: Arc<Current>) {
    let Accepted { mut stream, peer: address, place, pending } = accepted;
    let listener = &door.listener;
    let mut peer = Peer::new(address, &listener.trusted_proxies);
    if let Some(timeout) = listener.proxy_protocol {
        let read = tokio::select! {
            () = door.closed.cancelled() => return,
            read = proxy::read(&mut stream, peer, &listener.trusted_proxies, timeout) => read,
        };
        match read {
            Ok(behind) => peer = behind,
            Err(error) => return not_proxied(&error, address, &current.load()),
        }
    }
    let secured = match (&door.tls, stream) {
        (Some(tls), Stream::Tcp(stream)) => {
            let acceptor = TlsAcceptor::from(tls.config.clone());
            let secure = tokio::select! {
                () = door.closed.cancelled() => return,
                secure = accept::secure(stream, &acceptor, listener.tls_timeout) => secure,
            };
            match secure {
                Ok(stream) => Secured { stream, peer, place, pending, secure: true },
                Err(error) => return not_secured(&error, peer.address, &current.load()),
            }
        }
        // A Unix socket has no TLS.
        (_, stream) => Secured { stream, peer, place, pending, secure: false },
    };
    serve::connection(secured, door, current).await;
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
