//! Dialling one server: connect, TLS, opening handshake. Each step has its deadline.
//!
//! In: a request head that is ready to be written. Out: a stream behind a 101, or the server's own refusal.
//! The connection serves this one handshake only and is never pooled: an upgrade was tried on it.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixStream, lookup_host};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::member::Member;
use super::{Pool, resolve, tls};
use crate::config::model::ServerAddress;
use crate::proto::refusal::Refusal;
use crate::relay::Stream;
use crate::relay::ahead::Ahead;
use crate::relay::session::Opened;
use crate::socket::{self, ConnectError};

/// How long the body of a refusal may take to reach the client.
const REFUSAL_BODY: Duration = Duration::from_secs(30);
/// Header fields and bytes of an answer's head.
pub(super) const ANSWER_FIELDS: usize = 100;
pub(super) const ANSWER_HEAD_BYTES: usize = 64 * 1024;

/// What a server answered.
pub enum Answer {
    /// 101; not checked yet. Bytes that came behind its head are in `opened.early`.
    Switched { parts: response::Parts, opened: Opened<Stream> },
    /// Anything else: its own refusal, body included.
    Refused(Response<Incoming>),
}

/// Why a server could not be reached or made sense of.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("its name cannot be resolved")]
    Resolve(#[source] io::Error),
    #[error("its name has not been resolved yet; the log says why")]
    Unresolved,
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("connecting failed")]
    ConnectUnix(#[source] io::Error),
    #[error("connecting took longer than connect_timeout")]
    ConnectTimeout,
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    #[error("the name is not one that TLS can verify")]
    ServerName,
    #[error("the answer took longer than handshake_timeout")]
    HandshakeTimeout,
    #[error("the answer took longer than request_timeout")]
    AnswerTimeout,
    #[error("the server switched protocols, which nobody asked for")]
    Switched,
    #[error("the server ended the connection at once")]
    Closed,
    #[error("the server ended the connection or its answer is not HTTP/1.1")]
    Http(#[source] hyper::Error),
}

impl DialError {
    /// One word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            DialError::Resolve(_) | DialError::Unresolved => "not_resolved",
            DialError::Connect(_) | DialError::ConnectUnix(_) => "not_connected",
            DialError::ConnectTimeout => "connect_timeout",
            DialError::Tls(_) | DialError::ServerName => "tls_failed",
            DialError::HandshakeTimeout | DialError::AnswerTimeout => "answer_timeout",
            DialError::Http(_) | DialError::Switched | DialError::Closed => "bad_answer",
        }
    }

    /// What the client is told.
    pub fn refusal(&self) -> Refusal {
        match self {
            DialError::Resolve(_) | DialError::Unresolved => Refusal::UpstreamResolve,
            DialError::Connect(_) | DialError::ConnectUnix(_) => Refusal::UpstreamUnreachable,
            DialError::ConnectTimeout => Refusal::UpstreamConnectTimeout,
            DialError::Tls(_) | DialError::ServerName => Refusal::UpstreamTls,
            DialError::HandshakeTimeout => Refusal::UpstreamHandshakeTimeout,
            DialError::AnswerTimeout => Refusal::UpstreamAnswerTimeout,
            DialError::Http(_) | DialError::Switched | DialError::Closed => Refusal::UpstreamBadAnswer,
        }
    }

    /// Whether no server has anything to do with it yet: the next one that is asked is the first.
    pub(super) fn reached_nobody(&self) -> bool {
        matches!(
            self,
            DialError::Resolve(_) | DialError::Unresolved | DialError::Connect(_) | DialError::ConnectUnix(_)
        )
    }

    /// Whether it says something of the server, and not only that we had no descriptor left: that strikes all servers
    /// alike, and is over sooner than their time aside.
    pub(super) fn blames_server(&self) -> bool {
        !matches!(self, DialError::Connect(ConnectError::Socket(_)))
    }
}

/// Connects to `member` and sends it `request`.
///
/// # Errors
/// When no answer can be had in time; see [`DialError`].
pub async fn dial(pool: &Pool, member: &Member, request: Request<Empty<Bytes>>) -> Result<Answer, DialError> {
    let stream = connect_in_time(pool, member).await?;
    let deadline = Instant::now() + pool.upstream.handshake_timeout;
    match timeout_at(deadline, handshake(pool, member, stream, request)).await {
        Ok(answer) => answer,
        Err(_) => Err(DialError::HandshakeTimeout),
    }
}

async fn connect_in_time(pool: &Pool, member: &Member) -> Result<Stream, DialError> {
    let deadline = Instant::now() + pool.upstream.connect_timeout;
    timeout_at(deadline, connect(pool, member)).await.unwrap_or(Err(DialError::ConnectTimeout))
}

/// A connection for plain HTTP: TCP within `connect_timeout`, TLS within `handshake_timeout`.
///
/// # Errors
/// When there is none in time; see [`DialError`].
pub(super) async fn open(pool: &Pool, member: &Member) -> Result<Stream, DialError> {
    let stream = connect_in_time(pool, member).await?;
    let deadline = Instant::now() + pool.upstream.handshake_timeout;
    timeout_at(deadline, secure(pool, member, stream)).await.unwrap_or(Err(DialError::HandshakeTimeout))
}

async fn connect(pool: &Pool, member: &Member) -> Result<Stream, DialError> {
    if let Some(address) = member.address {
        return Ok(Stream::Tcp(socket::connect(address, &pool.sources).await?));
    }
    match &member.server.address {
        ServerAddress::Tcp { host, .. } if resolve::is_name(host) => Err(DialError::Unresolved),
        ServerAddress::Tcp { host, port } => {
            let addresses = lookup_host((host.as_str(), *port)).await.map_err(DialError::Resolve)?;
            let mut failure = DialError::Resolve(io::ErrorKind::NotFound.into());
            for address in addresses {
                match socket::connect(address, &pool.sources).await {
                    Ok(stream) => return Ok(Stream::Tcp(stream)),
                    Err(error) => failure = error.into(),
                }
            }
            Err(failure)
        }
        ServerAddress::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix).map_err(DialError::ConnectUnix),
    }
}

async fn secure(pool: &Pool, member: &Member, stream: Stream) -> Result<Stream, DialError> {
    match (stream, &member.server.address, &pool.tls) {
        (Stream::Tcp(stream), ServerAddress::Tcp { host, .. }, Some(config)) if member.server.tls => {
            let name = tls::server_name(&pool.upstream.tls, host).map_err(|_| DialError::ServerName)?;
            let connector = TlsConnector::from(config.clone());
            let stream = connector.connect(name, Ahead::new(stream)).await.map_err(DialError::Tls)?;
            Ok(Stream::Tls(Box::new(stream.into())))
        }
        (stream, _, _) => Ok(stream),
    }
}

async fn handshake(
    pool: &Pool,
    member: &Member,
    stream: Stream,
    request: Request<Empty<Bytes>>,
) -> Result<Answer, DialError> {
    let stream = secure(pool, member, stream).await?;
    let (mut sender, connection) = http1::Builder::new()
        // Names keep the client's spelling; those that we add get the RFC's.
        .preserve_header_case(true)
        .title_case_headers(true)
        .max_headers(ANSWER_FIELDS)
        .max_buf_size(ANSWER_HEAD_BYTES)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(DialError::Http)?;
    let mut connection = Some(connection);
    let mut response = pin!(sender.send_request(request));
    let response = poll_fn(|cx| {
        let mut over = None;
        if let Some(open) = &mut connection
            && let Poll::Ready(result) = open.poll_without_shutdown(cx)
        {
            over = Some(result);
        }
        match response.as_mut().poll(cx) {
            Poll::Ready(response) => Poll::Ready(response),
            // The connection is over and the response is not there: it knows why.
            Poll::Pending => match over {
                Some(Err(error)) => Poll::Ready(Err(error)),
                Some(Ok(())) | None => Poll::Pending,
            },
        }
    })
    .await
    .map_err(DialError::Http)?;
    let Some(mut connection) = connection.take() else { unreachable!("taken only here") };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        tokio::spawn(tokio::time::timeout(REFUSAL_BODY, connection));
        return Ok(Answer::Refused(response));
    }
    poll_fn(|cx| connection.poll_without_shutdown(cx)).await.map_err(DialError::Http)?;
    let taken = connection.into_parts();
    let opened = Opened { stream: taken.io.into_inner(), early: taken.read_buf };
    Ok(Answer::Switched { parts: response.into_parts().0, opened })
}
