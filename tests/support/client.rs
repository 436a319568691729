//! A WebSocket client that writes and reads bytes as they are, so that it can break every rule.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use super::PATIENCE;
use super::tls::Stream;

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The example key of RFC 6455 section 1.3, and what has to come back for it.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A frame as it came over the wire, unmasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub fin: bool,
    pub rsv: u8,
    pub opcode: u8,
    pub masked: bool,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code and reason of a Close.
    pub fn close(&self) -> (u16, String) {
        assert_eq!(self.opcode, CLOSE, "a Close, not {self:?}");
        let code = u16::from_be_bytes([self.payload[0], self.payload[1]]);
        (code, String::from_utf8(self.payload[2..].to_vec()).expect("UTF-8"))
    }
}

/// One end of a connection: bytes and frames, each read bounded in time.
pub struct Peer {
    stream: Stream,
    read: Vec<u8>,
    /// The stream ended by a reset, or TLS without a close_notify.
    pub cut: bool,
}

impl Peer {
    pub fn new(stream: TcpStream) -> Peer {
        Peer::over(Stream::Plain(stream))
    }

    pub fn over(stream: Stream) -> Peer {
        let socket = stream.socket();
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        socket.set_nodelay(true).expect("an option");
        Peer { stream, read: Vec::new(), cut: false }
    }

    pub fn connect(address: SocketAddr) -> Peer {
        Peer::new(TcpStream::connect(address).expect("it listens"))
    }

    /// The same from an address of this machine's: another client, as a gateway sees it.
    pub fn connect_from(source: IpAddr, address: SocketAddr) -> Peer {
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None);
        let socket = socket.expect("a socket");
        socket.bind(&SocketAddr::new(source, 0).into()).expect("an address of this machine");
        socket.connect(&address.into()).expect("it listens");
        Peer::new(socket.into())
    }

    /// Connects and completes the opening handshake for `path`.
    pub fn open(address: SocketAddr, path: &str) -> Peer {
        Peer::connect(address).opened(path)
    }

    /// Completes the opening handshake for `path`.
    pub fn opened(mut self, path: &str) -> Peer {
        self.write(request(path, "").as_bytes());
        let head = self.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        self
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.try_write(bytes).expect("it is written");
    }

    /// Like `write`, for peers that may already be gone.
    pub fn try_write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// The bytes of a head, its empty line included.
    pub fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = self.read.drain(..end + 4).collect();
                return String::from_utf8(head).expect("a head in UTF-8");
            }
            assert!(self.more(), "the stream ended within a head: {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    /// The bytes of a head, or `None` when the stream ends before it does.
    pub fn try_head(&mut self) -> Option<String> {
        while !self.read.windows(4).any(|window| window == b"\r\n\r\n") {
            if !self.more() {
                return None;
            }
        }
        Some(self.head())
    }

    /// Reads to the end of the stream, however it ends and however long it takes.
    pub fn drain(&mut self) {
        let _ = self.stream().set_read_timeout(None);
        let _ = std::io::copy(&mut self.stream, &mut std::io::sink());
    }

    /// Whether something has arrived that was not read yet, or the stream has ended.
    pub fn has_more(&self) -> bool {
        self.stream().set_nonblocking(true).expect("an option");
        let peeked = self.stream().peek(&mut [0]);
        self.stream().set_nonblocking(false).expect("an option");
        !self.read.is_empty() || peeked.is_ok()
    }

    /// Whatever arrives within this time.
    pub fn within(&mut self, time: std::time::Duration) -> Vec<u8> {
        self.stream().set_read_timeout(Some(time)).expect("a timeout");
        let mut buffer = [0; 16 * 1024];
        if let Ok(n) = self.stream.read(&mut buffer) {
            self.read.extend_from_slice(&buffer[..n]);
        }
        self.stream().set_read_timeout(Some(PATIENCE)).expect("a timeout");
        std::mem::take(&mut self.read)
    }

    pub fn frame(&mut self) -> Frame {
        self.next_frame().expect("a frame, not the end of the stream")
    }

    /// The next frame, or `None` at the end of the stream between two frames.
    pub fn next_frame(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, length)) = parse(&self.read) {
                self.read.drain(..length);
                return Some(frame);
            }
            if !self.more() {
                assert!(self.read.is_empty(), "the stream ended within a frame: {:?}", self.read);
                return None;
            }
        }
    }

    /// The next frame, or `None` when the stream ends, be it within a frame.
    pub fn whole_frame(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, length)) = parse(&self.read) {
                self.read.drain(..length);
                return Some(frame);
            }
            if !self.more() {
                return None;
            }
        }
    }

    /// A chunk of a chunked body (RFC 9112 section 7.1); `None` for the last one, whose trailers are left to read.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = self.line();
        let length = usize::from_str_radix(line.split(';').next().expect("a size").trim(), 16)
            .unwrap_or_else(|_| panic!("a chunk's size: {line:?}"));
        if length == 0 {
            return None;
        }
        let chunk = self.bytes(length);
        assert_eq!(self.bytes(2), b"\r\n", "behind a chunk");
        Some(chunk)
    }

    /// A line, without its end.
    pub fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.read.windows(2).position(|window| window == b"\r\n") {
                let line: Vec<u8> = self.read.drain(..end + 2).collect();
                return String::from_utf8(line[..end].to_vec()).expect("a line in UTF-8");
            }
            assert!(self.more(), "the stream ended within a line: {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    /// Exactly `n` bytes.
    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        while self.read.len() < n {
            assert!(self.more(), "the stream ended early");
        }
        self.read.drain(..n).collect()
    }

    /// Everything until the end of the stream; a reset counts as one.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.more() {}
        std::mem::take(&mut self.read)
    }

    /// Reads some more; false at the end of the stream.
    fn more(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(n) => {
                self.read.extend_from_slice(&buffer[..n]);
                true
            }
            // TLS that ends without a word of it counts as an end, too.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof) => {
                self.cut = true;
                false
            }
            Err(error) => panic!("reading: {error}; so far {:?}", String::from_utf8_lossy(&self.read)),
        }
    }

    /// Ends our half.
    pub fn finish(&mut self) {
        self.stream.finish();
    }

    /// Closes with a reset.
    pub fn reset(self) {
        socket2::SockRef::from(self.stream()).set_linger(Some(std::time::Duration::ZERO)).expect("an option");
    }

    pub fn stream(&self) -> &TcpStream {
        self.stream.socket()
    }

    pub fn into_stream(self) -> Stream {
        self.stream
    }

    pub fn tls(&mut self) -> &mut Stream {
        &mut self.stream
    }
}

/// A session as a bare socket, for benches that hold thousands of them.
pub fn session(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the gateway listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("an option");
    stream.write_all(request("/", "").as_bytes()).expect("it is written");
    let mut head = [0; 512];
    let n = stream.read(&mut head).expect("an answer");
    assert!(head[..n].starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head[..n]));
    stream
}

/// A correct upgrade request; `more` are further header lines, each with its line end.
pub fn request(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
}

/// A frame of a client: masked.
pub fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = header(0x80 | opcode, true, payload.len() as u64);
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    bytes
}

/// A frame of a server: not masked.
pub fn unmasked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(0x80 | opcode, false, payload.len() as u64);
    bytes.extend_from_slice(payload);
    bytes
}

/// The payload of a Close.
pub fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes()[..], reason.as_bytes()].concat()
}

/// A header up to its length (the masking key is not written).
pub fn header(first: u8, masked: bool, length: u64) -> Vec<u8> {
    let mask = if masked { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match length {
        0..=125 => bytes.push(mask | length as u8),
        126..=0xffff => {
            bytes.push(mask | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(mask | 127);
            bytes.extend_from_slice(&length.to_be_bytes());
        }
    }
    bytes
}

fn parse(bytes: &[u8]) -> Option<(Frame, usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (length, mut at) = match second & 0x7f {
        126 => (u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?), 10),
        short => (u64::from(short), 2),
    };
    let masked = second & 0x80 != 0;
    let mask: [u8; 4] = if masked { bytes.get(at..at + 4)?.try_into().ok()? } else { [0; 4] };
    at += if masked { 4 } else { 0 };
    let end = at + usize::try_from(length).ok()?;
    let payload = bytes.get(at..end)?.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]).collect();
    let frame = Frame { fin: first & 0x80 != 0, rsv: (first >> 4) & 7, opcode: first & 15, masked, payload };
    Some((frame, end))
}
