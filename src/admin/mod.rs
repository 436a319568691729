//! The admin interface: what operators and Prometheus ask, on a listener of its own.
//!
//! In: a configuration and what runs. Out: answers. Nothing of it can be reached through a listener for clients. Each
//! connection brings one request, in bounded time. All of it happens on one thread of its own, so that no session waits for
//! somebody who reads a list, and who asks is answered while the others are busy.

pub mod answer;
pub mod client;
pub mod ctl;
pub mod desk;
pub mod guard;
pub mod query;
pub mod sessions;
pub mod table;
pub mod token;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::runtime::Builder;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::config::model::{Admin, ListenerAddress, Secret, Token};
use crate::gateway::listen_hint;
use crate::listen::accept::{self, Socket};
use crate::listen::tls::{self, TlsError};
use crate::listen::unix::UnixSocket;
use crate::observe::log;
use crate::policy::client::Address;
use crate::relay::Stream;
use crate::socket;
use answer::{Answer, Parts, Problem};
use desk::{Ask, Desk};
use guard::Guard;
use token::BadToken;

/// Connections at once. Who comes then takes the place of the one that came first and is not being answered.
const CONNECTIONS: usize = 128;
/// For TLS, and for the head of the request.
const HEAD: Duration = Duration::from_secs(10);
/// For the file of the token.
const READ: Duration = Duration::from_secs(5);
/// Threads that read it, so that one that blocks does not make more and more of them.
const READERS: usize = 4;
/// For the rest: the body, and until the answer was taken.
const WHOLE: Duration = Duration::from_secs(60);
const HEAD_BYTES: usize = 16 * 1024;
const BODY_BYTES: usize = 64 * 1024;
/// When no descriptor is left.
const BACKOFF: Duration = Duration::from_millis(100);

/// The interface, bound to its address.
pub struct Door {
    socket: Socket,
    /// The one that it really has: port 0 became a port.
    pub address: ListenerAddress,
    tls: Option<TlsAcceptor>,
    admin: Admin,
}

/// Why the interface cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot listen on {address} for [admin]{}", listen_hint(.address, .source))]
    Listen { address: ListenerAddress, source: io::Error },
    #[error(transparent)]
    Tls(#[from] Box<TlsError>),
    #[error("the token of [admin]")]
    Token(#[from] BadToken),
}

impl Door {
    /// Binds the address, and reads certificates and token once, so that a wrong one is told at the start.
    ///
    /// # Errors
    /// When the address is taken or a file cannot be used.
    pub fn open(admin: &Admin) -> Result<Door, OpenError> {
        if let Some(token) = &admin.token {
            token.current()?;
        }
        let tls =
            admin.tls.as_ref().map(|files| tls::load(files).map_err(Box::new)).transpose()?.map(TlsAcceptor::from);
        let (socket, address) =
            bind(admin).map_err(|source| OpenError::Listen { address: admin.address.clone(), source })?;
        Ok(Door { socket, address, tls, admin: admin.clone() })
    }

    /// Answers on a thread of its own until `stop` is cancelled; cancels `ended` when it has stopped.
    ///
    /// # Errors
    /// Those of the system, before anything is answered.
    pub async fn start(self, desk: Arc<Desk>, stop: CancellationToken, ended: CancellationToken) -> io::Result<()> {
        let (began, has_begun) = oneshot::channel();
        let ended = ended.drop_guard();
        let serving = move || {
            // Dropped last: behind the runtime with all connections.
            let _ended = ended;
            let runtime = match Builder::new_current_thread()
                .enable_all()
                .thread_name("admin")
                .max_blocking_threads(READERS)
                .build()
            {
                Ok(runtime) => runtime,
                Err(error) => return drop(began.send(Err(error))),
            };
            runtime.block_on(stop.run_until_cancelled_owned(self.serve(desk, began)));
            // A file of the token that blocks is not waited for.
            runtime.shutdown_background();
        };
        thread::Builder::new().name("admin".to_owned()).spawn(serving)?;
        has_begun.await.unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into()))
    }

    async fn serve(self, desk: Arc<Desk>, began: oneshot::Sender<io::Result<()>>) {
        let Door { socket, tls, admin, .. } = self;
        let socket = match socket.here() {
            Ok(socket) => socket,
            Err(error) => return drop(began.send(Err(error))),
        };
        let _ = began.send(Ok(()));
        let (admin, places) = (Arc::new(admin), Arc::new(Semaphore::new(CONNECTIONS)));
        let mut open: VecDeque<Open> = VecDeque::new();
        loop {
            match socket.accept().await {
                Ok((stream, peer)) => {
                    open.retain(|open| !open.task.is_finished());
                    if open.len() >= CONNECTIONS {
                        make_room(&mut open);
                    }
                    let place = places.clone().acquire_owned().await.expect("it is never closed");
                    let (tls, admin, desk) = (tls.clone(), admin.clone(), desk.clone());
                    let answering = Arc::new(AtomicBool::new(false));
                    let answers = answering.clone();
                    let task = tokio::spawn(async move {
                        connection(stream, peer, tls, &admin, desk, &answers).await;
                        drop(place);
                    });
                    open.push_back(Open { task: task.abort_handle(), answering });
                    // What it has sent already is read before the next one can ask for its place.
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    tracing::debug!(error = %error, "cannot accept a connection for [admin]");
                    tokio::time::sleep(BACKOFF).await;
                }
            }
        }
    }
}

/// A connection, from its first byte to its last.
struct Open {
    task: AbortHandle,
    /// Its request is there, and its answer not yet sent: it keeps its place.
    answering: Arc<AtomicBool>,
}

/// Ends the connection that came first of those that are not being answered: they are silent, or have their answer.
fn make_room(open: &mut VecDeque<Open>) {
    let idle = open.iter().position(|open| !open.answering.load(Ordering::Relaxed));
    if let Some(first) = idle.and_then(|index| open.remove(index)) {
        first.task.abort();
        tracing::debug!("all places of [admin] are taken: the connection that was silent for longest has lost its own");
    }
}

fn bind(admin: &Admin) -> io::Result<(Socket, ListenerAddress)> {
    match &admin.address {
        ListenerAddress::Tcp(address) => {
            let socket = socket::listen(*address, false)?;
            let address = ListenerAddress::Tcp(socket.local_addr()?);
            Ok((Socket::Tcp(socket), address))
        }
        ListenerAddress::Unix(path) => {
            let socket = UnixSocket::listen(path, admin.socket_mode)?;
            Ok((Socket::Unix(socket), admin.address.clone()))
        }
    }
}

/// TLS, one request, its answer.
async fn connection(
    stream: Stream,
    peer: Address,
    tls: Option<TlsAcceptor>,
    admin: &Arc<Admin>,
    desk: Arc<Desk>,
    answering: &Arc<AtomicBool>,
) {
    let stream = match (stream, tls) {
        (Stream::Tcp(stream), Some(acceptor)) => match accept::secure(stream, &acceptor, HEAD).await {
            Ok(stream) => stream,
            Err(error) => return tracing::debug!(client = %peer, error = %error, "TLS handshake with [admin] failed"),
        },
        (stream, _) => stream,
    };
    let service = service_fn(|request| {
        let (admin, desk, answering) = (admin.clone(), desk.clone(), answering.clone());
        // Boxed, because hyper wants the future to be Unpin where the stream is to be taken back.
        Box::pin(async move { Ok::<_, Infallible>(serve(request, peer, &admin, desk, &answering).await) })
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .without_shutdown();
    let served = tokio::time::timeout(HEAD + WHOLE, serving).await;
    answering.store(false, Ordering::Relaxed);
    match served {
        Ok(Ok(parts)) => parts.io.into_inner().linger().await,
        Ok(Err(error)) => {
            tracing::debug!(client = %peer, error = %log::chain(&error), "a request to [admin] broke off")
        }
        Err(_) => tracing::debug!(client = %peer, "a request to [admin] took too long"),
    }
}

async fn serve(
    request: Request<Incoming>,
    peer: Address,
    admin: &Admin,
    desk: Arc<Desk>,
    answering: &AtomicBool,
) -> Response<Parts> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let answer = answer(request, admin, desk, answering).await.unwrap_or_else(|problem| {
        let reason = problem.reason;
        tracing::info!(reason, client = %peer, %method, path = log::shortened(&path), "refused by [admin]");
        problem.into()
    });
    if !method.is_safe() {
        let status = answer.status.as_u16();
        tracing::info!(status, client = %peer, %method, path = log::shortened(&path), "asked of [admin]");
    }
    answer.into_response()
}

/// Who asks comes first, what is asked second, how it is asked last.
async fn answer(
    request: Request<Incoming>,
    admin: &Admin,
    desk: Arc<Desk>,
    answering: &AtomicBool,
) -> Result<Answer, Problem> {
    let (parts, body) = request.into_parts();
    let found = table::find(&parts.method, parts.uri.path());
    if !found.as_ref().is_ok_and(|(row, _)| row.call.is_open()) {
        admit(&parts.headers, admin).await?;
    }
    let (row, variables) = found?;
    let body = read(body, &parts.headers).await?;
    answering.store(true, Ordering::Relaxed);
    desk.answer(
        row.call,
        Ask { variables, query: parts.uri.query().unwrap_or_default().to_owned(), headers: parts.headers, body },
    )
    .await
}

async fn admit(headers: &HeaderMap, admin: &Admin) -> Result<(), Problem> {
    let token = match &admin.token {
        Some(token) => Some(current(token).await?),
        None => None,
    };
    // With `tls` alone anybody gets a connection; with client certificates only who has one.
    let certified = admin.tls.as_ref().is_some_and(|tls| tls.demands_certificate());
    let trusted = certified || matches!(admin.address, ListenerAddress::Unix(_));
    Guard { token: token.as_ref(), trusted, hosts: &admin.hosts }.admit(headers)
}

/// The token as it is now. On another thread: its file may block, on a network's share for long, and probes are to be
/// answered meanwhile.
async fn current(token: &Token) -> Result<Secret, Problem> {
    let token = token.clone();
    let reading = tokio::task::spawn_blocking(move || token.current());
    let error = match tokio::time::timeout(READ, reading).await {
        Ok(Ok(Ok(secret))) => return Ok(secret),
        Ok(Ok(Err(error))) => log::chain(&error),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "its file did not answer in time".to_owned(),
    };
    tracing::error!(error, "the token of [admin] cannot be read: nobody is let in");
    let detail = "the gateway cannot read its token: its log says why";
    Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "token_unreadable", detail))
}

async fn read(body: Incoming, headers: &HeaderMap) -> Result<Bytes, Problem> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    // What a form can send without asking is no JSON.
    let json = |kind: &http::HeaderValue| {
        let kind = kind.to_str().unwrap_or_default();
        kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
    };
    if !headers.get(CONTENT_TYPE).is_some_and(json) {
        let detail = "a body is JSON here: send `Content-Type: application/json`";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", detail));
    }
    match tokio::time::timeout(HEAD, Limited::new(body, BODY_BYTES).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "a body has 64 KiB at most"))
        }
        Ok(Err(_)) => Err(Problem::bad("the body is not whole")),
        Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body did not arrive in time")),
    }
}
