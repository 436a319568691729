//! Two relays that look at nothing, as baselines: what tokio's `copy_bidirectional` costs, and how little can be had.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{LocalSet, spawn_local};

/// What a baseline is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blind {
    /// `tokio::io::copy_bidirectional`.
    Copy,
    /// One buffer for all sessions: the floor of what tokio can do.
    Lean,
}

/// Relays from `port` to `backend` for ever.
pub fn run(blind: Blind, port: u16, backend: SocketAddr) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], port)))?;
        let listener: TcpListener = socket.listen(4096)?;
        loop {
            let (mut client, _) = listener.accept().await?;
            spawn_local(async move {
                let mut upstream = TcpStream::connect(backend).await?;
                client.set_nodelay(true)?;
                upstream.set_nodelay(true)?;
                match blind {
                    Blind::Copy => drop(tokio::io::copy_bidirectional(&mut client, &mut upstream).await?),
                    Blind::Lean => lean(client, upstream).await?,
                }
                io::Result::Ok(())
            });
        }
    })
}

async fn lean(client: TcpStream, upstream: TcpStream) -> io::Result<()> {
    let (mut client, mut upstream) = (Side::new(client), Side::new(upstream));
    poll_fn(|cx| {
        let (up, down) = (pump(&mut client, &mut upstream, cx)?, pump(&mut upstream, &mut client, cx)?);
        // A relay for measuring: what ends on one side ends on both.
        if up || down { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

struct Side {
    stream: TcpStream,
    /// What it did not take yet.
    held: Vec<u8>,
    at: usize,
}

impl Side {
    fn new(stream: TcpStream) -> Side {
        Side { stream, held: Vec::new(), at: 0 }
    }
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 * 1024]);
}

/// Moves what can be moved. True at the end of the stream.
fn pump(from: &mut Side, to: &mut Side, cx: &mut Context<'_>) -> io::Result<bool> {
    loop {
        while to.at < to.held.len() {
            match Pin::new(&mut to.stream).poll_write(cx, &to.held[to.at..])? {
                Poll::Ready(n) => to.at += n,
                Poll::Pending => return Ok(false),
            }
        }
        to.held = Vec::new();
        to.at = 0;
        let moved = BUFFER.with(|buffer| {
            let mut buffer = buffer.borrow_mut();
            let mut read = ReadBuf::new(&mut buffer);
            if Pin::new(&mut from.stream).poll_read(cx, &mut read)?.is_pending() {
                return io::Result::Ok(Poll::Pending);
            }
            let mut rest = read.filled();
            let moved = rest.len();
            while !rest.is_empty() {
                match Pin::new(&mut to.stream).poll_write(cx, rest)? {
                    Poll::Ready(n) => rest = &rest[n..],
                    Poll::Pending => break,
                }
            }
            to.held.extend_from_slice(rest);
            Ok(Poll::Ready(moved))
        })?;
        match moved {
            Poll::Pending => return Ok(false),
            Poll::Ready(0) => return Ok(true),
            Poll::Ready(_) => {}
        }
    }
}
