//! The opening handshake (RFC 6455 section 4): reading the client's offer, checking the upstream's answer.
//!
//! In: the heads of requests and answers. Out: an [`Offer`] or a [`Refusal`], an [`Agreement`] or a [`BadAnswer`].
//! Nothing is allocated for a request that fails an earlier check.

use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, request, response};
use sha1::{Digest, Sha1};

use super::extensions::{self, BadExtensions, Deflate};
use super::fields;
use super::fields::grammar::{holds_token, is_token};
use super::refusal::Refusal;

/// Section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Bytes of a decoded key (section 4.1).
const KEY_BYTES: usize = 16;
/// Some clients draw 22 random letters instead of 16 random bytes, which leaves bits behind the last byte. The key
/// passes as it came, so this costs nothing.
const KEY_BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// A request that asks for a WebSocket, checked. Serves HTTP/1.1 Upgrade; later extended CONNECT (RFC 8441, 9220).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// `Sec-WebSocket-Key` as it came.
    pub key: String,
    /// In the client's order.
    pub subprotocols: Vec<String>,
    /// The offers of `permessage-deflate`, in the client's order, strictly parsed. Everything else was dropped.
    pub deflate: Vec<Deflate>,
}

/// What both ends agreed on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Agreement {
    pub subprotocol: Option<String>,
    pub deflate: bool,
}

/// Why an upstream's 101 does not count. For the log; the client learns [`Refusal::UpstreamBadAnswer`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    #[error("its status is {}, not 101", .0.as_u16())]
    Status(StatusCode),
    #[error("it is not HTTP/1.1")]
    HttpVersion,
    #[error("its Upgrade is not `websocket`")]
    Upgrade,
    #[error("its Connection does not hold `upgrade`")]
    Connection,
    #[error("it has no Sec-WebSocket-Accept")]
    AcceptMissing,
    #[error("it repeats Sec-WebSocket-Accept")]
    AcceptRepeated,
    #[error("its Sec-WebSocket-Accept does not belong to the key")]
    AcceptWrong,
    #[error("it repeats Sec-WebSocket-Protocol")]
    SubprotocolRepeated,
    /// Quoted, so that it cannot forge a log line.
    #[error("it chose the subprotocol {0:?}, which was not offered")]
    SubprotocolNotOffered(String),
    #[error(transparent)]
    Extensions(#[from] BadExtensions),
}

/// Whether the request tries an upgrade of any kind: its connection is never used for another request.
///
/// `Connection: upgrade` alone does not count: many a proxy in front of us sends it with every request.
pub fn tries_upgrade(parts: &request::Parts) -> bool {
    parts.method == Method::CONNECT
        || parts.headers.keys().any(|name| {
            let name = fields::folded(name);
            name == UPGRADE.as_str() || name.starts_with(fields::SEC_WEBSOCKET)
        })
}

/// Whether the request is meant to open a WebSocket, well or badly. Other upgrades are offers that a server may ignore
/// (RFC 9110 section 7.8): curl makes one for h2c with every first request.
pub fn tries_websocket(parts: &request::Parts) -> bool {
    parts.method == Method::CONNECT
        || holds_token(&parts.headers, UPGRADE, "websocket")
        || parts.headers.keys().any(|name| fields::folded(name).starts_with(fields::SEC_WEBSOCKET))
}

/// Method, version, body, Upgrade, Connection, Sec-WebSocket-Version and -Key, in the order of the design, then the
/// offered subprotocols and extensions.
///
/// # Errors
/// The first rule that is broken.
pub fn read(parts: &request::Parts) -> Result<Offer, Refusal> {
    let headers = &parts.headers;
    // Plain HTTP, whatever its method: told what is spoken here, not what is wrong with a handshake that it is not.
    if !tries_upgrade(parts) {
        return Err(Refusal::NotAnUpgrade);
    }
    if parts.method != Method::GET {
        return Err(Refusal::Method);
    }
    if parts.version != Version::HTTP_11 {
        return Err(Refusal::HttpVersion);
    }
    no_body(headers)?;
    if !holds_token(headers, UPGRADE, "websocket") {
        return Err(Refusal::NotAnUpgrade);
    }
    if !holds_token(headers, CONNECTION, "upgrade") {
        return Err(Refusal::ConnectionLacksUpgrade);
    }
    if only(headers, &SEC_WEBSOCKET_VERSION).is_none_or(|version| version.as_bytes() != b"13") {
        return Err(Refusal::Version);
    }
    let key = key(headers)?;
    let subprotocols = subprotocols(headers)?;
    Ok(Offer { key, subprotocols, deflate: extensions::offers(headers) })
}

/// `Sec-WebSocket-Accept` for a key (section 4.2.2).
pub fn accept(key: &str) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

/// Checks an upstream's 101 against what was offered to it (section 4.1; CVE-2024-23326: a 200 is no upgrade).
///
/// # Errors
/// The first rule that is broken.
pub fn check_answer(
    parts: &response::Parts,
    key: &str,
    subprotocols: &[String],
    deflate: &[Deflate],
) -> Result<Agreement, BadAnswer> {
    let headers = &parts.headers;
    if parts.status != StatusCode::SWITCHING_PROTOCOLS {
        return Err(BadAnswer::Status(parts.status));
    }
    if parts.version != Version::HTTP_11 {
        return Err(BadAnswer::HttpVersion);
    }
    // Section 4.1: the value *is* websocket; a list would leave open what is spoken now.
    if only(headers, &UPGRADE).is_none_or(|value| !value.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        return Err(BadAnswer::Upgrade);
    }
    if !holds_token(headers, CONNECTION, "upgrade") {
        return Err(BadAnswer::Connection);
    }
    check_accept(headers, key)?;
    let subprotocol = chosen_subprotocol(headers, subprotocols)?;
    let deflate = extensions::answer(headers, deflate)?.is_some();
    Ok(Agreement { subprotocol, deflate })
}

/// A body would be bytes before the upstream's 101 (CVE-2026-69243).
fn no_body(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.contains_key(TRANSFER_ENCODING) {
        return Err(Refusal::HasBody);
    }
    // hyper lets through what is a number and, where it stands twice, the same number.
    let is_zero = |line: &HeaderValue| !line.is_empty() && line.as_bytes().iter().all(|digit| *digit == b'0');
    if headers.get_all(CONTENT_LENGTH).iter().all(is_zero) { Ok(()) } else { Err(Refusal::HasBody) }
}

fn key(headers: &HeaderMap) -> Result<String, Refusal> {
    if !headers.contains_key(SEC_WEBSOCKET_KEY) {
        return Err(Refusal::KeyMissing);
    }
    let key = only(headers, &SEC_WEBSOCKET_KEY).ok_or(Refusal::KeyRepeated)?;
    let key = key.to_str().map_err(|_| Refusal::KeyMalformed)?;
    // Decoded on the stack; room for more than a key may hold, so that a longer one is seen as longer.
    let mut decoded = [0; KEY_BYTES + 2];
    match KEY_BASE64.decode_slice(key, &mut decoded) {
        Ok(KEY_BYTES) => Ok(key.to_owned()),
        _ => Err(Refusal::KeyMalformed),
    }
}

/// The offered subprotocols. Section 4.1, 10: non-empty tokens, each once. Stricter than RFC 9110's lists, which may have empty members:
/// upstreams refuse those, too.
///
/// # Errors
/// When they are no list of tokens, or one stands there twice.
pub fn subprotocols(headers: &HeaderMap) -> Result<Vec<String>, Refusal> {
    let mut names = Vec::new();
    let mut seen = HashSet::new();
    for line in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
        let line = line.to_str().map_err(|_| Refusal::SubprotocolsMalformed)?;
        for name in line.split(',').map(|name| name.trim_matches([' ', '\t'])) {
            if !is_token(name) {
                return Err(Refusal::SubprotocolsMalformed);
            }
            if !seen.insert(name) {
                return Err(Refusal::SubprotocolRepeated);
            }
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn check_accept(headers: &HeaderMap, key: &str) -> Result<(), BadAnswer> {
    if !headers.contains_key(SEC_WEBSOCKET_ACCEPT) {
        return Err(BadAnswer::AcceptMissing);
    }
    let found = only(headers, &SEC_WEBSOCKET_ACCEPT).ok_or(BadAnswer::AcceptRepeated)?;
    if found.as_bytes() == accept(key).as_bytes() { Ok(()) } else { Err(BadAnswer::AcceptWrong) }
}

fn chosen_subprotocol(headers: &HeaderMap, offered: &[String]) -> Result<Option<String>, BadAnswer> {
    if !headers.contains_key(SEC_WEBSOCKET_PROTOCOL) {
        return Ok(None);
    }
    let chosen = only(headers, &SEC_WEBSOCKET_PROTOCOL).ok_or(BadAnswer::SubprotocolRepeated)?;
    match offered.iter().find(|name| name.as_bytes() == chosen.as_bytes()) {
        Some(name) => Ok(Some(name.clone())),
        None => Err(BadAnswer::SubprotocolNotOffered(String::from_utf8_lossy(chosen.as_bytes()).into_owned())),
    }
}

/// The value of a field that stands there exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    lines.next().filter(|_| lines.next().is_none())
}

#[cfg(test)]
mod tests;
