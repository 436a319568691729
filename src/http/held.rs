//! The client's stream as hyper reads it, its end held back while an answer of ours is in the making.
//!
//! A client may end its side behind a complete request and wait for the answer, as `nc -N` does. hyper has one choice for all
//! requests: to answer those, or to notice clients that left. Here a request that waits for an upstream ends with its client,
//! and every other one is answered, for that takes no longer than to find out.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::relay::stream::Stream;

/// What becomes of the end of what a client sends. One task has both ends of it, so that the order of accesses is its own.
#[derive(Debug, Default)]
pub struct End {
    held: AtomicBool,
    came: AtomicBool,
}

impl End {
    /// From now on the end is held back, or hyper learns of it.
    pub fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Relaxed);
    }

    /// The end came and is held back: nothing will follow what is being answered.
    pub fn is_held(&self) -> bool {
        self.came.load(Ordering::Relaxed) && self.held.load(Ordering::Relaxed)
    }

    /// The end was held back, and hyper may learn of it now.
    pub fn is_let_go(&self) -> bool {
        !self.held.load(Ordering::Relaxed) && self.came.swap(false, Ordering::Relaxed)
    }
}

pub struct Held {
    pub stream: Stream,
    pub end: Arc<End>,
}

impl AsyncRead for Held {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let room = buf.remaining();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if room > 0 && buf.remaining() == room && self.end.held.load(Ordering::Relaxed) {
            self.end.came.store(true, Ordering::Relaxed);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Held {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
