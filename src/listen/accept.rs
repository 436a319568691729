//! The accept loop: a socket becomes an [`Accepted`] connection, or is counted and closed.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::tls;
use crate::limits::{Limits, Permit};
use crate::relay::Stream;

/// Connections that the kernel keeps for us while we are busy.
const BACKLOG: u32 = 4096;
/// Kernel buffers of one socket, before the kernel doubles them: a reader that has stopped must not cost megabytes.
const SOCKET_BUFFER_BYTES: u32 = 256 * 1024;
/// Unsent bytes that the kernel takes before it says "not writable": keeps pings and Closes close to the front.
const NOTSENT_BYTES: u32 = 128 * 1024;
/// How long to wait when no descriptor or memory is left.
const BACKOFF: Duration = Duration::from_millis(100);

/// For so long nothing may go wrong until accepting counts as recovered: at the limit of open files every connection that
/// ends lets one in, which is no news.
const CALM: Duration = Duration::from_secs(5);

/// When accepting last failed; `None` while all is well.
#[derive(Debug, Default)]
pub struct Trouble(Option<Instant>);

/// A TCP connection that has its place.
pub struct Accepted {
    pub stream: TcpStream,
    pub peer: SocketAddr,
    pub permit: Permit,
}

/// Binds a listening socket.
///
/// # Errors
/// Those of the system: the address is in use, or not ours, or the port needs a privilege.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if address.is_ipv6() {
        // "[::]:80" beside "0.0.0.0:80" must not collide, whatever the system's default is.
        socket2::SockRef::from(&socket).set_only_v6(true)?;
    }
    socket.set_reuseaddr(true)?;
    // Accepted sockets inherit both; the receive buffer has to be set before the window is negotiated.
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Connects to `address` with the same bounds.
///
/// # Errors
/// Those of the system.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    let stream = socket.connect(address).await?;
    tune(&stream);
    Ok(stream)
}

/// Small frames leave at once. Failing to set an option is no reason to refuse a peer.
fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(NOTSENT_BYTES);
}

/// The next connection that has a place. Never fails: what the system cannot give now is asked for again later.
pub async fn next(listener: &TcpListener, limits: &Limits, trouble: &mut Trouble) -> Accepted {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if trouble.0.is_some_and(|last| last.elapsed() >= CALM) {
                    trouble.0 = None;
                    tracing::info!("accepting connections again");
                }
                match limits.connection() {
                    Some(permit) => {
                        tune(&stream);
                        return Accepted { stream, peer, permit };
                    }
                    None => {
                        tracing::debug!(client = %peer, "closed a connection that has no place");
                        if trouble.0.replace(Instant::now()).is_none() {
                            tracing::warn!(
                                "limits.connections is reached: new connections are closed until others end"
                            );
                        }
                    }
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
        Ok(Stream::TlsServer(Box::new(acceptor.accept(stream).await?)))
    };
    tokio::time::timeout(timeout, handshake).await.unwrap_or(Err(SecureError::Timeout))
}

async fn explain(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(tls::PLAIN_HTTP_ANSWER).await?;
    crate::http::serve::linger(Stream::Tcp(stream)).await;
    Ok(())
}
