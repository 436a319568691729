//! A server's side of one WebSocket: the opening handshake, and an end that the peer can understand.
//!
//! tungstenite checks the request and runs the frames. The head is read and answered here, because tungstenite says
//! nothing to a request that it refuses, and writes header names in lower case, which strict clients do not take.

use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use http::HeaderValue;
use http::header::{SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tungstenite::error::{Error, ProtocolError};
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

/// Bytes of a request head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// tungstenite takes its read buffer at once: its default of 128 KiB would be the cost of every idle session.
const BUFFER_BYTES: usize = 4 << 10;
/// For the peer's answer to our Close, and once more for its end of stream.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

pub type Socket = WebSocketStream<TcpStream>;

/// What one session may make us hold, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// One message from the peer.
    pub message_bytes_max: usize,
    /// Written by us, not yet taken by the kernel.
    pub unsent_bytes_max: usize,
    /// The kernel's send buffer; `None` leaves it to the kernel, which lets it grow to megabytes.
    pub send_buffer_bytes: Option<usize>,
}

/// How a session is to end.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The peer closed, and has its answer, or it is gone.
    ByPeer,
    /// We close, with this code and reason.
    Close(CloseCode, &'static str),
}

impl End {
    pub const STOPPING: Self = Self::Close(CloseCode::Away, "the server is stopping");
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        match error {
            Error::Capacity(_) => Self::Close(CloseCode::Size, "the message is too big"),
            Error::Utf8(_) => Self::Close(CloseCode::Invalid, "the text is not UTF-8"),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::ByPeer,
            Error::Protocol(_) => Self::Close(CloseCode::Protocol, "that breaks RFC 6455"),
            _ => Self::ByPeer,
        }
    }
}

/// Reads the request, answers it, and gives the socket with the path that was asked for (without its query).
pub async fn open(mut stream: TcpStream, limits: Limits) -> io::Result<(Socket, String)> {
    stream.set_nodelay(true)?;
    if let Some(bytes) = limits.send_buffer_bytes {
        socket2::SockRef::from(&stream).set_send_buffer_size(bytes)?;
    }
    let (head, early) = match read_head(&mut stream).await? {
        Head::Complete { head, early } => (head, early),
        Head::TooLong => return refuse(stream, &Refusal::HEAD_TOO_LONG).await,
    };
    let answer = Request::try_parse(&head).and_then(|request| {
        let (_, request) = request.ok_or(Error::Protocol(ProtocolError::HandshakeIncomplete))?;
        Ok((create_response(&request)?, request))
    });
    let (response, request) = match answer {
        Ok(answer) => answer,
        Err(error) => return refuse(stream, &Refusal::of(&error)).await,
    };
    stream.write_all(&switching(&response.headers()[SEC_WEBSOCKET_ACCEPT], first_subprotocol(&request))).await?;
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_write_buffer_size(limits.unsent_bytes_max)
        .max_message_size(Some(limits.message_bytes_max))
        .max_frame_size(Some(limits.message_bytes_max));
    let path = request.uri().path().to_owned();
    Ok((WebSocketStream::from_partially_read(stream, early, Role::Server, Some(config)).await, path))
}

/// Ends the session so that a peer which still sends can read why.
pub async fn finish(mut socket: Socket, end: End) {
    if let End::Close(code, reason) = end {
        let frame = CloseFrame { code, reason: reason.into() };
        let handshake = async {
            socket.close(Some(frame)).await?;
            while socket.next().await.transpose()?.is_some() {}
            Ok::<(), Error>(())
        };
        if timeout(CLOSE_TIMEOUT, handshake).await.is_err() {
            // It takes nothing more: a reset frees what waits for it in the kernel, a FIN would wait behind that.
            let _ = socket2::SockRef::from(socket.get_ref()).set_linger(Some(Duration::ZERO));
            return;
        }
    }
    depart(socket.get_mut()).await;
}

/// FIN, then what the peer still sends is read and thrown away, for a bounded time: a socket that is closed with bytes
/// unread resets the connection, and the reset overtakes what we said last.
async fn depart(stream: &mut TcpStream) {
    if stream.shutdown().await.is_ok() {
        let mut rest = [0; 1024];
        let drained = async { while matches!(stream.read(&mut rest).await, Ok(1..)) {} };
        let _ = timeout(CLOSE_TIMEOUT, drained).await;
    }
}

enum Head {
    Complete { head: Vec<u8>, early: Vec<u8> },
    TooLong,
}

/// Up to the empty line. It is parsed once, when it is whole: parsing at each read would cost its square.
async fn read_head(stream: &mut TcpStream) -> io::Result<Head> {
    let mut head = Vec::with_capacity(1 << 10);
    loop {
        let searched = head.len().saturating_sub(3);
        if stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(at) = head[searched..].windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let early = head.split_off(searched + at + 4);
            return Ok(Head::Complete { head, early });
        }
        if head.len() > HEAD_BYTES_MAX {
            return Ok(Head::TooLong);
        }
    }
}

/// The 101 of RFC 6455 section 4.2.2, in its spelling.
fn switching(accept: &HeaderValue, subprotocol: Option<&str>) -> Vec<u8> {
    let mut answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n".to_vec();
    answer.extend_from_slice(b"Sec-WebSocket-Accept: ");
    answer.extend_from_slice(accept.as_bytes());
    if let Some(subprotocol) = subprotocol {
        answer.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        answer.extend_from_slice(subprotocol.as_bytes());
    }
    answer.extend_from_slice(b"\r\n\r\n");
    answer
}

fn first_subprotocol(request: &Request) -> Option<&str> {
    let offers = request.headers().get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    offers.split(',').map(str::trim).find(|offer| !offer.is_empty())
}

struct Refusal {
    status: &'static str,
    header: &'static str,
    words: &'static str,
}

impl Refusal {
    const HEAD_TOO_LONG: Self =
        Self { status: "431 Request Header Fields Too Large", header: "", words: "The request head is too long.\n" };
    const NO_UPGRADE: Self = Self {
        status: "426 Upgrade Required",
        header: "Upgrade: websocket\r\n",
        words: "This server speaks WebSocket only: connect with a WebSocket client.\n",
    };
    const VERSION: Self = Self {
        status: "426 Upgrade Required",
        header: "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        words: "Sec-WebSocket-Version must be 13.\n",
    };
    const METHOD: Self =
        Self { status: "405 Method Not Allowed", header: "Allow: GET\r\n", words: "The method must be GET.\n" };
    const MALFORMED: Self =
        Self { status: "400 Bad Request", header: "", words: "The request is no opening handshake of RFC 6455.\n" };

    fn of(error: &Error) -> Self {
        match error {
            Error::Protocol(
                ProtocolError::MissingUpgradeWebSocketHeader | ProtocolError::MissingConnectionUpgradeHeader,
            ) => Self::NO_UPGRADE,
            Error::Protocol(ProtocolError::MissingSecWebSocketVersionHeader) => Self::VERSION,
            Error::Protocol(ProtocolError::WrongHttpMethod) => Self::METHOD,
            _ => Self::MALFORMED,
        }
    }
}

async fn refuse<T>(mut stream: TcpStream, refusal: &Refusal) -> io::Result<T> {
    let Refusal { status, header, words } = refusal;
    let length = words.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\n{header}Content-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{words}"
    );
    stream.write_all(answer.as_bytes()).await?;
    depart(&mut stream).await;
    Err(io::Error::new(io::ErrorKind::InvalidData, *status))
}
