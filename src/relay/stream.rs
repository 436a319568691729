//! The byte streams of both legs behind one type: the relay and hyper are compiled once for all of them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

use super::ahead::Ahead;

/// A connected stream. TLS is boxed: its state is large, and most sessions of a busy gateway are plain.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<Ahead<TcpStream>>>),
}

/// How long a peer may take to read the last that we sent it, and to end its side.
pub const LINGER: Duration = Duration::from_secs(2);
/// What it may still send meanwhile.
const LINGER_BYTES: usize = 1024 * 1024;

impl Stream {
    /// Makes the coming end of a TCP stream a reset. TLS and Unix sockets have none that we could send: TLS shows by the
    /// missing close_notify that more was to come.
    pub fn reset_on_close(&self) {
        if let Stream::Tcp(stream) = self {
            // Failing is no reason to keep it open.
            let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// Ends our side and reads what still comes, within bounds: closing a socket with unread bytes would reset it, and the
    /// peer could lose the answer that it was just sent.
    pub async fn linger(mut self) {
        let ending = async {
            self.shutdown().await?;
            let mut left = LINGER_BYTES;
            let mut scrap = [0; 4096];
            while left > 0 {
                match self.read(&mut scrap).await? {
                    0 => break,
                    n => left = left.saturating_sub(n),
                }
            }
            io::Result::Ok(())
        };
        // Late or broken: it is closed all the same.
        let _ = tokio::time::timeout(LINGER, ending).await;
    }
}

macro_rules! each {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
            Stream::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => poll_records(stream, cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

/// Reads all records that have arrived, as far as `buf` goes. rustls hands them out one by one, and one by one they would
/// be written to the other side.
fn poll_records(
    stream: &mut TlsStream<Ahead<TcpStream>>,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    loop {
        let before = buf.filled().len();
        match Pin::new(&mut *stream).poll_read(cx, buf) {
            Poll::Ready(Err(error)) if before > 0 => {
                stream.get_mut().0.fail(error.kind());
                return Poll::Ready(Ok(()));
            }
            Poll::Pending if before > 0 => return Poll::Ready(Ok(())),
            Poll::Ready(Ok(())) if buf.filled().len() > before && buf.remaining() > 0 && in_memory(stream) => {}
            done => return done,
        }
    }
}

/// Whether more can be had without asking the system.
fn in_memory(stream: &TlsStream<Ahead<TcpStream>>) -> bool {
    let (socket, session) = stream.get_ref();
    socket.has_bytes() || !session.wants_read()
}
