//! One check of one server: a connection, a page, or a WebSocket with a ping.
//!
//! It goes the way of a client's request, TLS included, and counts as none. Nothing of an answer is kept.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    CONNECTION, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE, USER_AGENT,
};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::Empty;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::config::model::{Active, CheckKind, Server, ServerAddress};
use crate::proto::close;
use crate::proto::frame::{Control, Opcode};
use crate::proto::handshake::{self, BadAnswer};
use crate::proto::scan::{Event, Rules, Scanner, Until, Violation};
use crate::relay::Stream;
use crate::relay::session::Opened;
use crate::upstream::Pool;
use crate::upstream::dial::{self, Answer, DialError};
use crate::upstream::member::Member;

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    #[error("the check took longer than health.active.timeout")]
    Timeout,
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("its answer is no WebSocket's")]
    Handshake(#[from] BadAnswer),
    #[error("it closed the WebSocket before it answered a ping{}", .0.map(|code| format!(", with {code}")).unwrap_or_default())]
    Closed(Option<close::Code>),
    #[error("it broke a rule of WebSockets")]
    Violation(#[from] Violation),
    #[error("the WebSocket broke off before a ping was answered")]
    Io(#[from] std::io::Error),
}

impl CheckError {
    /// See [`DialError::blames_server`].
    pub fn blames_server(&self) -> bool {
        !matches!(self, CheckError::Dial(error) if !error.blames_server())
    }
}

/// Checks a server.
///
/// # Errors
/// When it is not well; see [`CheckError`].
pub(super) async fn probe(pool: &Pool, member: &Member, rules: &Active) -> Result<(), CheckError> {
    timeout(rules.timeout, ask(pool, member, rules)).await.unwrap_or(Err(CheckError::Timeout))
}

async fn ask(pool: &Pool, member: &Member, rules: &Active) -> Result<(), CheckError> {
    match rules.kind {
        CheckKind::Tcp => dial::open(pool, member).await.map(drop).map_err(CheckError::Dial),
        CheckKind::Http => {
            let mut request = request(&member.server, rules);
            request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            match dial::dial(pool, member, request).await? {
                Answer::Refused(answer) if is_good(answer.status(), rules) => Ok(()),
                Answer::Refused(answer) => Err(CheckError::Status(answer.status())),
                Answer::Switched { .. } => Err(CheckError::Status(StatusCode::SWITCHING_PROTOCOLS)),
            }
        }
        CheckKind::WebSocket => {
            let key = STANDARD.encode(rand::random::<[u8; 16]>());
            match dial::dial(pool, member, offer(&member.server, rules, &key)).await? {
                Answer::Switched { parts, opened } => {
                    handshake::check_answer(&parts, &key, rules.subprotocol.as_slice(), &[])?;
                    ping(opened).await
                }
                Answer::Refused(answer) => Err(CheckError::Status(answer.status())),
            }
        }
    }
}

fn is_good(status: StatusCode, rules: &Active) -> bool {
    rules.statuses.iter().any(|range| range.contains(&status.as_u16()))
}

fn request(server: &Server, rules: &Active) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.method_mut() = Method::GET;
    // Both are checked with the configuration.
    *request.uri_mut() = format!("{}{}", server.base, rules.path).parse().unwrap_or_default();
    let headers = request.headers_mut();
    let host = rules.host.clone().unwrap_or_else(|| host(server));
    headers.insert(HOST, HeaderValue::try_from(host).unwrap_or(HeaderValue::from_static("localhost")));
    headers.insert(USER_AGENT, HeaderValue::from_static("tidegate-check"));
    for (name, value) in &rules.headers {
        headers.insert(name, value.clone());
    }
    request
}

fn host(server: &Server) -> String {
    match &server.address {
        ServerAddress::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
        ServerAddress::Tcp { host, port } => format!("{host}:{port}"),
        ServerAddress::Unix(_) => "localhost".to_owned(),
    }
}

/// RFC 6455 section 4.1.
fn offer(server: &Server, rules: &Active, key: &str) -> Request<Empty<Bytes>> {
    let mut request = request(server, rules);
    let headers = request.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::try_from(key).expect("base64 is a valid value"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    if let Some(Ok(name)) = rules.subprotocol.as_deref().map(HeaderValue::from_str) {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, name);
    }
    request
}

/// Pings, waits for the answer whatever else comes, and takes leave.
async fn ping(opened: Opened<Stream>) -> Result<(), CheckError> {
    let Opened { mut stream, early } = opened;
    let payload: [u8; 8] = rand::random();
    let write = |control: Control| control.encode(Some(rand::random()));
    stream.write_all(write(Control::new(Opcode::Ping, &payload)).as_ref()).await?;
    stream.flush().await?;
    let mut scanner = Scanner::new(Rules {
        masked: false,
        deflate: false,
        frame_bytes_max: u64::MAX,
        message_bytes_max: u64::MAX,
        fragments_max: None,
        strict: false,
    });
    let mut is_answered = is_answered(&mut scanner, &early, &payload)?;
    let mut buffer = [0; 4096];
    while !is_answered {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Err(CheckError::Closed(None));
        }
        is_answered = self::is_answered(&mut scanner, &buffer[..read], &payload)?;
    }
    stream.write_all(write(Control::close(close::NORMAL, "")).as_ref()).await?;
    // It is well whatever it thinks of that.
    tokio::spawn(stream.linger());
    Ok(())
}

/// Whether the Pong to `payload` is in what came (RFC 6455 section 5.5.3).
fn is_answered(scanner: &mut Scanner, mut bytes: &[u8], payload: &[u8]) -> Result<bool, CheckError> {
    loop {
        let step = scanner.scan(bytes, Until::Event);
        bytes = &bytes[step.taken..];
        match step.event {
            Some(Event::Control(control)) if control.opcode() == Opcode::Pong && control.payload() == payload => {
                return Ok(true);
            }
            Some(Event::Control(control)) if control.opcode() == Opcode::Close => {
                return Err(CheckError::Closed(control.close_reason().map(|reason| reason.code)));
            }
            Some(Event::Violation(violation)) => return Err(violation.into()),
            Some(_) => {}
            None if bytes.is_empty() => return Ok(false),
            None => {}
        }
    }
}
