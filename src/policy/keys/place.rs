//! Where a request carries its key, and how it gets rid of it before an upstream sees it.

use std::fmt;

use http::header::{AUTHORIZATION, HeaderMap, HeaderName};
use http::uri::PathAndQuery;
use http::{Uri, request};

use crate::config::model::KeyPlaces;
use crate::proto::refusal::Refusal;

/// The subprotocol that carries a key: a page can set no header for its WebSocket.
const BEARER_KEY: &str = "bearer.";
/// What a client offers beside it when its service knows no subprotocol. Browsers end a connection for which none of
/// those that they offered was chosen (WHATWG WebSockets, "establish a WebSocket connection").
const BEARER: &str = "bearer";

/// A key as a request has it. Not yet known to be right.
pub struct Presented(Vec<u8>);

impl Presented {
    pub(super) fn reveal(&self) -> &[u8] {
        &self.0
    }
}

/// So that no log, panic or test shows it.
impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Presented(…)")
    }
}

/// What was taken out of a request.
#[derive(Debug)]
pub struct Taken {
    pub key: Presented,
    /// The subprotocol to answer where the upstream chooses none: the client offered it for that.
    pub fallback: Option<&'static str>,
}

/// Takes the key out of a request: what is left of the head and of the offered subprotocols is for the upstream. All
/// else stays byte for byte as it came.
///
/// # Errors
/// When there is no key, when there is more than one (RFC 6750 section 2: nobody could tell which one counts), and when
/// the key is the only subprotocol, so that none could be answered.
pub fn take(places: &KeyPlaces, parts: &mut request::Parts, offered: &mut Vec<String>) -> Result<Taken, Refusal> {
    let mut found = Vec::new();
    if let Some(name) = &places.header {
        take_header(name, &mut parts.headers, &mut found);
    }
    if let Some(name) = &places.query {
        take_query(name, &mut parts.uri, &mut found);
    }
    let fallback = if places.bearer { take_subprotocol(offered, &mut found)? } else { None };
    let key = found.pop().ok_or(Refusal::ApiKeyMissing { bearer: is_bearer(places) })?;
    if found.is_empty() { Ok(Taken { key: Presented(key), fallback }) } else { Err(Refusal::ApiKeyRepeated) }
}

/// Whether a key is carried as a bearer token (RFC 6750), which a 401 has to say.
pub fn is_bearer(places: &KeyPlaces) -> bool {
    places.bearer || places.header.as_ref() == Some(&AUTHORIZATION)
}

fn take_header(name: &HeaderName, headers: &mut HeaderMap, found: &mut Vec<Vec<u8>>) {
    if name != AUTHORIZATION {
        found.extend(headers.get_all(name).iter().map(|value| value.as_bytes().to_vec()));
        headers.remove(name);
        return;
    }
    // Other schemes are the upstream's affair. A request has one Authorization (RFC 9110 section 11.6.2): where a
    // second one stands beside a token, which of them counts is anybody's guess, so both count.
    let tokens: Vec<_> = headers.get_all(name).iter().filter_map(|value| bearer_token(value.as_bytes())).collect();
    if !tokens.is_empty() {
        let others = headers.get_all(name).iter().filter(|value| bearer_token(value.as_bytes()).is_none());
        found.extend(others.map(|value| value.as_bytes().to_vec()));
        found.extend(tokens.into_iter().map(<[u8]>::to_vec));
        headers.remove(name);
    }
}

/// `Bearer TOKEN` (RFC 6750 section 2.1; the scheme in any case, RFC 9110 section 11.1).
fn bearer_token(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(6)?;
    let is_bearer = scheme.eq_ignore_ascii_case(b"bearer") && token.first() == Some(&b' ');
    is_bearer.then(|| token.trim_ascii_start())
}

/// Parameters of that name, also an encoded one.
fn take_query(name: &str, uri: &mut Uri, found: &mut Vec<Vec<u8>>) {
    let Some(query) = uri.query() else { return };
    let mut rest = Vec::new();
    let before = found.len();
    for parameter in query.split('&') {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if decoded(key) == name.as_bytes() { found.push(decoded(value)) } else { rest.push(parameter) }
    }
    if found.len() == before {
        return;
    }
    let query = if rest.is_empty() { String::new() } else { format!("?{}", rest.join("&")) };
    let shorter = format!("{}{query}", uri.path());
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(shorter).expect("a part of what was valid"));
    *uri = Uri::from_parts(parts).expect("only the query is shorter");
}

/// Without the names that are ours. They may carry a key in percent-encoding, for not every character of a key may
/// stand in a token.
fn take_subprotocol(offered: &mut Vec<String>, found: &mut Vec<Vec<u8>>) -> Result<Option<&'static str>, Refusal> {
    let before = found.len();
    found.extend(offered.iter().filter_map(|name| name.strip_prefix(BEARER_KEY)).map(decoded));
    let fallback = offered.iter().any(|name| name == BEARER).then_some(BEARER);
    offered.retain(|name| name != BEARER && !holds_key(name));
    let alone = found.len() > before && offered.is_empty() && fallback.is_none();
    if alone { Err(Refusal::ApiKeyAlone) } else { Ok(fallback) }
}

/// Whether a subprotocol may hold a key, so that it is never answered.
pub fn holds_key(subprotocol: &str) -> bool {
    subprotocol.starts_with(BEARER_KEY)
}

/// Percent-encoding undone; what is none stays as it is.
fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        let digit = |at: usize| behind.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        let (byte, behind) = match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => ((high << 4 | low) as u8, &behind[2..]),
            _ => (*first, behind),
        };
        bytes.push(byte);
        rest = behind;
    }
    bytes
}
