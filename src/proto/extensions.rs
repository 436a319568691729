//! Sec-WebSocket-Extensions (RFC 6455 section 9.1) and the parameters of permessage-deflate (RFC 7692 section 7.1).
//!
//! Only permessage-deflate passes. What a client offers is filtered: an offer that is not exactly right is dropped, for
//! a session without compression is better than none. What an upstream answers is checked: anything odd is an error.

use std::fmt;

use http::HeaderMap;
use http::header::{HeaderValue, SEC_WEBSOCKET_EXTENSIONS};

use super::fields::grammar::{self, Element};

const NAME: &str = "permessage-deflate";
const SERVER_NO_CONTEXT_TAKEOVER: &str = "server_no_context_takeover";
const CLIENT_NO_CONTEXT_TAKEOVER: &str = "client_no_context_takeover";
const SERVER_MAX_WINDOW_BITS: &str = "server_max_window_bits";
const CLIENT_MAX_WINDOW_BITS: &str = "client_max_window_bits";

/// One offer of, or answer with, `permessage-deflate`. `Display` is the element as it stands in the header.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Deflate {
    pub server_no_context_takeover: bool,
    pub client_no_context_takeover: bool,
    pub server_max_window_bits: Option<u8>,
    /// `Some(None)`: offered without a value.
    pub client_max_window_bits: Option<Option<u8>>,
}

/// Why an upstream's Sec-WebSocket-Extensions does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadExtensions {
    #[error("Sec-WebSocket-Extensions is not well-formed")]
    Malformed,
    #[error("an extension other than permessage-deflate was chosen")]
    Unknown,
    #[error("permessage-deflate was chosen twice")]
    Repeated,
    #[error("permessage-deflate was chosen with parameters that are not legal in an answer")]
    Parameters,
    #[error("permessage-deflate was chosen as it was not offered")]
    NotOffered,
}

/// The well-formed offers of permessage-deflate, in the client's order. Unknown extensions and malformed elements are
/// dropped. Where the field as a whole breaks the grammar, everything is: an upstream might cut it up in another way.
pub fn offers(headers: &HeaderMap) -> Vec<Deflate> {
    let Some(elements) = elements(headers) else {
        return Vec::new();
    };
    elements.iter().filter(|element| is_named(element, NAME)).filter_map(|element| deflate(&element[1..])).collect()
}

/// The header value that offers these; `None` when there are none.
pub fn offer_value(offers: &[Deflate]) -> Option<HeaderValue> {
    if offers.is_empty() {
        return None;
    }
    let text: Vec<String> = offers.iter().map(Deflate::to_string).collect();
    HeaderValue::from_str(&text.join(", ")).ok()
}

/// What an upstream answered to these offers. `None`: no extension.
///
/// # Errors
/// When the answer is anything but one permessage-deflate whose parameters are legal as an answer to one of the offers.
pub fn answer(headers: &HeaderMap, offers: &[Deflate]) -> Result<Option<Deflate>, BadExtensions> {
    let elements = elements(headers).ok_or(BadExtensions::Malformed)?;
    if elements.iter().any(|element| !is_named(element, NAME)) {
        return Err(BadExtensions::Unknown);
    }
    let answer = match elements.as_slice() {
        [] => return Ok(None),
        [element] => deflate(&element[1..]).ok_or(BadExtensions::Parameters)?,
        _ => return Err(BadExtensions::Repeated),
    };
    // RFC 7692 section 7.1.2.2: in an answer it always has a value.
    if answer.client_max_window_bits == Some(None) {
        return Err(BadExtensions::Parameters);
    }
    if offers.iter().any(|offer| answer.answers(offer)) { Ok(Some(answer)) } else { Err(BadExtensions::NotOffered) }
}

impl Deflate {
    /// Whether this answer accepts that offer (RFC 7692 section 7.1).
    fn answers(&self, offer: &Self) -> bool {
        // 7.1.1.1: what the client asks of the server must be granted; the server may volunteer it.
        let server_takeover = self.server_no_context_takeover || !offer.server_no_context_takeover;
        // 7.1.2.1: the same, with the same or a smaller value.
        let server_bits = match (offer.server_max_window_bits, self.server_max_window_bits) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(offered), Some(chosen)) => chosen <= offered,
        };
        // 7.1.2.2: only where the client said that it understands it, and not above its own limit.
        let client_bits = match (offer.client_max_window_bits, self.client_max_window_bits) {
            (_, None) => true,
            (Some(Some(offered)), Some(Some(chosen))) => chosen <= offered,
            (Some(None), Some(Some(_))) => true,
            (None, Some(_)) | (_, Some(None)) => false,
        };
        // 7.1.1.2: client_no_context_takeover may be answered whether it was offered or not.
        server_takeover && server_bits && client_bits
    }
}

impl fmt::Display for Deflate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAME)?;
        if self.server_no_context_takeover {
            write!(f, "; {SERVER_NO_CONTEXT_TAKEOVER}")?;
        }
        if self.client_no_context_takeover {
            write!(f, "; {CLIENT_NO_CONTEXT_TAKEOVER}")?;
        }
        if let Some(bits) = self.server_max_window_bits {
            write!(f, "; {SERVER_MAX_WINDOW_BITS}={bits}")?;
        }
        match self.client_max_window_bits {
            None => Ok(()),
            Some(None) => write!(f, "; {CLIENT_MAX_WINDOW_BITS}"),
            Some(Some(bits)) => write!(f, "; {CLIENT_MAX_WINDOW_BITS}={bits}"),
        }
    }
}

/// The elements of all lines, each beginning with the name of an extension; `None` when a line is not well-formed.
fn elements(headers: &HeaderMap) -> Option<Vec<Element<'_>>> {
    let mut all = Vec::new();
    for line in headers.get_all(SEC_WEBSOCKET_EXTENSIONS) {
        all.extend(grammar::elements(line)?);
    }
    // A name has no value, and a quoted value must be a token without its quotes (RFC 6455 section 9.1).
    let well_formed = all.iter().all(|element| {
        element[0].1.is_none() && element.iter().filter_map(|(_, value)| value.as_ref()).all(|v| grammar::is_token(v))
    });
    well_formed.then_some(all)
}

fn is_named(element: &Element<'_>, name: &str) -> bool {
    element[0].0 == name
}

/// The parameters of a permessage-deflate; `None` for an unknown, repeated or illegal one (RFC 7692 section 7).
fn deflate(parameters: &[grammar::Parameter<'_>]) -> Option<Deflate> {
    let mut deflate = Deflate::default();
    for (name, value) in parameters {
        match (*name, value.as_deref()) {
            (SERVER_NO_CONTEXT_TAKEOVER, None) => once(&mut deflate.server_no_context_takeover, true)?,
            (CLIENT_NO_CONTEXT_TAKEOVER, None) => once(&mut deflate.client_no_context_takeover, true)?,
            (SERVER_MAX_WINDOW_BITS, Some(value)) => once(&mut deflate.server_max_window_bits, Some(bits(value)?))?,
            (CLIENT_MAX_WINDOW_BITS, None) => once(&mut deflate.client_max_window_bits, Some(None))?,
            (CLIENT_MAX_WINDOW_BITS, Some(value)) => {
                once(&mut deflate.client_max_window_bits, Some(Some(bits(value)?)))?;
            }
            _ => return None,
        }
    }
    Some(deflate)
}

/// Sets what was not set yet.
fn once<T: Default + PartialEq>(slot: &mut T, value: T) -> Option<()> {
    if *slot != T::default() {
        return None;
    }
    *slot = value;
    Some(())
}

/// 8 to 15 in decimal, without leading zeros (RFC 7692 section 7.1.2): anything else has crashed clients
/// (CVE-2026-2229).
fn bits(value: &str) -> Option<u8> {
    let bits = value.parse().ok().filter(|bits| (8..=15).contains(bits))?;
    // `parse` also takes a sign and leading zeros.
    value.bytes().next().filter(|first| matches!(first, b'1' | b'8' | b'9')).map(|_| bits)
}

#[cfg(test)]
mod tests;
