//! Which pages may connect, by the request's `Origin` (RFC 6455 section 10.2, RFC 6454).
//!
//! A browser sends the cookies of the target with every WebSocket handshake, whichever page opened it: without this check
//! any page acts in its visitor's name (CVE-2026-112085, CVE-2026-44211).

use http::HeaderMap;
use http::header::ORIGIN;

use crate::config::model::{OriginPattern, Origins};
use crate::proto::fields::Host;
use crate::proto::handshake::Refusal;

/// One origin in normal form (RFC 6454 section 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Lower case.
    pub scheme: String,
    /// Lower case, no trailing dot, no brackets.
    pub host: String,
    /// The scheme's default filled in; 0 for a scheme that has none (`chrome-extension`).
    pub port: u16,
}

/// Whether the route lets this request's origin connect. `secure` and `host` are what the client itself asked for
/// ([`crate::proto::fields::asked`]).
///
/// # Errors
/// When there is more than one Origin, or one that is malformed, missing or not allowed.
pub fn check(origins: &Origins, headers: &HeaderMap, secure: bool, host: &Host) -> Result<(), Refusal> {
    let mut lines = headers.get_all(ORIGIN).iter();
    let Some(line) = lines.next() else {
        return if origins.any || origins.none { Ok(()) } else { Err(Refusal::OriginMissing) };
    };
    // Even where any may connect: the upstream could read another one than we do.
    let text = line.to_str().ok().filter(|text| is_one_word(text)).ok_or(Refusal::OriginMalformed)?;
    if lines.next().is_some() {
        return Err(Refusal::OriginMalformed);
    }
    if origins.any {
        return Ok(());
    }
    // RFC 6454 section 7.3: `null` is whoever hides where it comes from, a sandboxed frame for one.
    if text == "null" {
        return Err(Refusal::OriginNotAllowed);
    }
    let origin = Origin::parse(text).ok_or(Refusal::OriginMalformed)?;
    let same = origins.same_origin && origin.is_same(secure, host);
    if same || origins.list.iter().any(|pattern| origin.matches(pattern)) {
        Ok(())
    } else {
        Err(Refusal::OriginNotAllowed)
    }
}

/// The port that a scheme implies.
pub fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

impl Origin {
    /// `scheme://host[:port]` and nothing else (RFC 6454 section 7.1); names beyond ASCII come in punycode.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
        // `Host` takes a colon without a port, an origin has none.
        if !is_scheme || authority.ends_with(':') {
            return None;
        }
        let host: Host = authority.parse().ok()?;
        let scheme = scheme.to_ascii_lowercase();
        let port = host.port_or(default_port(&scheme).unwrap_or(0));
        Some(Self { scheme, host: host.name, port })
    }

    fn is_same(&self, secure: bool, host: &Host) -> bool {
        let (scheme, port) = if secure { ("https", 443) } else { ("http", 80) };
        self.scheme == scheme && self.host == host.name && self.port == host.port_or(port)
    }

    fn matches(&self, pattern: &OriginPattern) -> bool {
        let host = if pattern.below { is_below(&self.host, &pattern.host) } else { self.host == pattern.host };
        self.scheme == pattern.scheme && self.port == pattern.port && host
    }
}

/// Whether `name` is a proper subdomain, at any depth: neither `example.com` itself nor `evil-example.com`.
pub(super) fn is_below(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent).and_then(|front| front.strip_suffix('.')).is_some_and(|labels| !labels.is_empty())
}

/// Not empty, and without what would make it a list.
fn is_one_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
}
