//! The accept loop: a socket becomes an [`Accepted`] connection, or is counted and closed.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::tls;
use super::unix::UnixSocket;
use crate::limits::{Full, Pending, Place};
use crate::policy::client::Address;
use crate::relay::Stream;
use crate::relay::ahead::Ahead;
use crate::socket;

/// How long to wait when no descriptor or memory is left.
const BACKOFF: Duration = Duration::from_millis(100);

/// For so long nothing may go wrong until accepting counts as recovered: at the limit of open files every connection that
/// ends lets one in, which is no news.
const CALM: Duration = Duration::from_secs(5);

/// When accepting last failed; `None` while all is well.
#[derive(Debug, Default)]
pub struct Trouble(Option<Instant>);

/// What is listened on.
#[derive(Debug)]
pub enum Socket {
    Tcp(TcpListener),
    Unix(UnixSocket),
}

impl Socket {
    /// Accepts on the runtime of the caller from now on.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn here(self) -> io::Result<Socket> {
        Ok(match self {
            Socket::Tcp(listener) => Socket::Tcp(TcpListener::from_std(listener.into_std()?)?),
            Socket::Unix(socket) => Socket::Unix(socket.here()?),
        })
    }

    pub(crate) async fn accept(&self) -> io::Result<(Stream, Address)> {
        match self {
            Socket::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Stream::Tcp(stream), peer.ip().into()))
            }
            Socket::Unix(socket) => Ok((Stream::Unix(socket.listener.accept().await?.0), Address::Local)),
        }
    }
}

/// A connection that has its place.
pub struct Accepted {
    pub stream: Stream,
    pub peer: Address,
    pub place: Place,
    pub pending: Pending,
}

/// The next connection for which `place` has one. Never fails: what the system cannot give now is asked for again later.
pub async fn next(
    from: &Socket,
    place: impl Fn() -> Result<(Place, Pending), Full>,
    trouble: &mut Trouble,
) -> Accepted {
    loop {
        match from.accept().await {
            Ok((stream, peer)) => {
                if let Some(accepted) = placed(stream, peer, &place, trouble) {
                    return accepted;
                }
            }
            // The peer left before we looked.
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                if trouble.0.replace(Instant::now()).is_none() {
                    tracing::error!(
                        error = %error,
                        "cannot accept connections; trying again every {} ms (is the limit of open files too low?)",
                        BACKOFF.as_millis()
                    );
                }
                tokio::time::sleep(BACKOFF).await;
            }
        }
    }
}

/// Closes the socket, and takes what waited in it: the kernel would reset it.
pub fn last(from: Socket, place: impl Fn() -> Result<(Place, Pending), Full>, trouble: &mut Trouble) -> Vec<Accepted> {
    // A Unix socket is shared with nobody that could take over.
    let Socket::Tcp(socket) = from else { return Vec::new() };
    // tokio asks the kernel only after it was told of something; here the kernel's own word counts.
    let Ok(socket) = socket.into_std() else { return Vec::new() };
    let mut taken = Vec::new();
    while let Ok((stream, peer)) = socket.accept() {
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        let Ok(stream) = stream else { continue };
        taken.extend(placed(Stream::Tcp(stream), peer.ip().into(), &place, trouble));
    }
    taken
}

/// Gives a connection its place, or closes it.
fn placed(
    stream: Stream,
    peer: Address,
    place: impl Fn() -> Result<(Place, Pending), Full>,
    trouble: &mut Trouble,
) -> Option<Accepted> {
    if trouble.0.is_some_and(|last| last.elapsed() >= CALM) {
        trouble.0 = None;
        tracing::info!("accepting connections again");
    }
    match place() {
        Ok((place, pending)) => {
            if let Stream::Tcp(stream) = &stream {
                socket::tune(stream);
            }
            Some(Accepted { stream, peer, place, pending })
        }
        Err(full) => {
            tracing::debug!(client = %peer, limit = %full, "closed a connection that has no place");
            if trouble.0.replace(Instant::now()).is_none() {
                tracing::warn!("{full} is reached: new connections are closed until others end");
            }
            None
        }
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// Why a client did not get through the TLS handshake.
#[derive(Debug, thiserror::Error)]
pub enum SecureError {
    #[error("not complete within tls_timeout")]
    Timeout,
    #[error("the client spoke plain HTTP")]
    PlainHttp,
    #[error(transparent)]
    Tls(#[from] io::Error),
}

impl SecureError {
    /// One word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            SecureError::Timeout => "tls_timeout",
            SecureError::PlainHttp => "plain_http",
            SecureError::Tls(_) => "tls_failed",
        }
    }
}

/// The TLS handshake, ClientHello to Finished within one deadline. Plain HTTP gets an answer that says what to do.
///
/// # Errors
/// See [`SecureError`]; the connection is closed then.
pub async fn secure(stream: TcpStream, acceptor: &TlsAcceptor, timeout: Duration) -> Result<Stream, SecureError> {
    let handshake = async {
        let mut first = [0; 8];
        let n = stream.peek(&mut first).await?;
        if tls::looks_like_http(&first[..n]) {
            explain(stream).await?;
            return Err(SecureError::PlainHttp);
        }
        let stream = acceptor.accept(Ahead::new(stream)).await?;
        Ok(Stream::Tls(Box::new(stream.into())))
    };
    tokio::time::timeout(timeout, handshake).await.unwrap_or(Err(SecureError::Timeout))
}

async fn explain(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(tls::PLAIN_HTTP_ANSWER).await?;
    Stream::Tcp(stream).linger().await;
    Ok(())
}
