//! The backend behind every peer: a server that answers 101 and echoes frames, in the thread of the load.
//!
//! Sessions on `/fan` are sent what [`Backend::fan`] says, those on `/flood` 64 MiB, and those on `/deaf` are not read.
//! Pings are answered, and counted: a gateway should keep them. A request without a key is plain HTTP.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tungstenite::handshake::derive_accept_key;

use crate::client::lend;
use crate::codec::{self, BINARY, CLOSE, Frames, PING, PONG, Part};
use crate::plain;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;
/// What a reader that has stopped is offered, and in messages of what size.
pub const OFFERED: usize = 64 << 20;
pub const PIECE: usize = 64 << 10;

#[derive(Default)]
struct Shared {
    /// Connections that are open.
    live: Cell<usize>,
    pings: Cell<u64>,
    fans: RefCell<Vec<Rc<RefCell<Socket>>>>,
    release: Notify,
}

#[derive(Clone)]
pub struct Backend {
    pub address: SocketAddr,
    shared: Rc<Shared>,
}

impl Backend {
    pub fn start() -> io::Result<Backend> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let listener = socket.listen(BACKLOG)?;
        let backend = Backend { address: listener.local_addr()?, shared: Rc::default() };
        spawn_local(accept(listener, backend.shared.clone()));
        Ok(backend)
    }

    pub fn live(&self) -> usize {
        self.shared.live.get()
    }

    /// Pings that came through to here.
    pub fn pings(&self) -> u64 {
        self.shared.pings.get()
    }

    pub fn fans(&self) -> usize {
        self.shared.fans.borrow().len()
    }

    /// Ends the sessions on `/flood` and `/deaf`.
    pub fn release(&self) {
        self.shared.release.notify_waiters();
    }

    /// Sends `frame` to every session on `/fan`.
    pub async fn fan(&self, frame: &[u8]) {
        let fans = self.shared.fans.borrow().clone();
        for socket in fans {
            socket.borrow_mut().out.extend_from_slice(frame);
            // A failure is told to the task that reads.
            let _ = poll_fn(|cx| socket.borrow_mut().poll_drain(cx)).await;
        }
    }
}

async fn accept(listener: TcpListener, shared: Rc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let shared = shared.clone();
        shared.live.set(shared.live.get() + 1);
        spawn_local(async move {
            // A connection that breaks is gone, and counted so.
            let _ = serve(stream, &shared).await;
            shared.live.set(shared.live.get() - 1);
        });
    }
}

async fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut head = Vec::with_capacity(1024);
    while !head.ends_with(b"\r\n\r\n") {
        // A client of ours sends nothing before it has its 101.
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let text = String::from_utf8_lossy(&head);
    let key = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim())
    });
    let Some(key) = key else {
        return plain::answer(stream, head).await;
    };
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    stream.write_all(answer.as_bytes()).await?;
    if text.starts_with("GET /flood ") {
        return tokio::select! {
            result = flood(stream) => result,
            () = shared.release.notified() => Ok(()),
        };
    }
    if text.starts_with("GET /deaf ") {
        shared.release.notified().await;
        return Ok(());
    }
    let fan = text.starts_with("GET /fan ");
    let socket = Rc::new(RefCell::new(Socket::new(stream)));
    if fan {
        shared.fans.borrow_mut().push(socket.clone());
    }
    let result = poll_fn(|cx| socket.borrow_mut().poll(cx, &shared.pings)).await;
    if fan {
        shared.fans.borrow_mut().retain(|other| !Rc::ptr_eq(other, &socket));
    }
    result
}

/// Offers messages, and stays.
async fn flood(mut stream: TcpStream) -> io::Result<()> {
    let mut frame = Vec::new();
    codec::server_frame(BINARY, &vec![0x5a; PIECE], &mut frame);
    // A client of ours cannot take a frame with its 101.
    stream.readable().await?;
    for _ in 0..OFFERED / PIECE {
        stream.write_all(&frame).await?;
    }
    std::future::pending().await
}

struct Socket {
    stream: TcpStream,
    frames: Frames,
    opcode: u8,
    /// The payload of a control frame.
    control: Vec<u8>,
    out: Vec<u8>,
    at: usize,
    closing: bool,
}

impl Socket {
    fn new(stream: TcpStream) -> Socket {
        Socket {
            stream,
            frames: Frames::default(),
            opcode: 0,
            control: Vec::new(),
            out: Vec::new(),
            at: 0,
            closing: false,
        }
    }

    /// Echoes until the stream ends.
    fn poll(&mut self, cx: &mut Context<'_>, pings: &Cell<u64>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_drain(cx))?;
            if self.closing {
                return Pin::new(&mut self.stream).poll_shutdown(cx);
            }
            let taken = lend(|buffer| {
                let mut read = ReadBuf::new(buffer);
                ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
                self.take(read.filled_mut(), pings);
                Poll::Ready(io::Result::Ok(read.filled().len()))
            });
            if ready!(taken)? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.at < self.out.len() {
            self.at += ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out[self.at..]))?;
        }
        self.out.clear();
        self.at = 0;
        Poll::Ready(Ok(()))
    }

    fn take(&mut self, input: &mut [u8], pings: &Cell<u64>) {
        let Socket { frames, opcode, control, out, closing, .. } = self;
        frames.walk(input, |part| match part {
            Part::Head { opcode: new, len } => {
                *opcode = new;
                if new < CLOSE {
                    codec::header(new, len, false, out);
                }
            }
            Part::Payload(bytes) if *opcode < CLOSE => out.extend_from_slice(bytes),
            Part::Payload(bytes) => control.extend_from_slice(bytes),
            Part::End => {
                match *opcode {
                    PING => {
                        pings.set(pings.get() + 1);
                        codec::server_frame(PONG, control, out);
                    }
                    CLOSE => {
                        codec::server_frame(CLOSE, control, out);
                        *closing = true;
                    }
                    _ => {}
                }
                control.clear();
            }
        });
    }
}
