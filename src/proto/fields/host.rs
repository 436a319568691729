//! The host that a request asks for (RFC 9110 section 7.2, RFC 9112 section 3.2).

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use http::header::HOST;
use http::{Uri, request};

use crate::proto::refusal::Refusal;

/// Longer than any DNS name (RFC 1035 section 2.3.4).
const NAME_MAX: usize = 255;

/// A host and port in normal form.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host {
    /// Lower case, no trailing dot; an IPv6 address has no brackets here.
    pub name: String,
    /// `None`: the scheme's default.
    pub port: Option<u16>,
}

/// The text is not a host name or address with an optional port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid host")]
pub struct BadHost;

/// The request's host: exactly one Host field, and the same in the target where that is in absolute form.
///
/// # Errors
/// When it is missing, repeated or malformed, or the target names another one: two readers of such a request could see
/// two hosts.
pub fn host(parts: &request::Parts) -> Result<Host, Refusal> {
    let mut lines = parts.headers.get_all(HOST).iter();
    let line = lines.next().ok_or(Refusal::HostMissing)?;
    if lines.next().is_some() {
        return Err(Refusal::HostRepeated);
    }
    let host: Host = line.to_str().map_err(|_| Refusal::HostMalformed)?.parse().map_err(|_| Refusal::HostMalformed)?;
    match target_host(&parts.uri)? {
        Some((named, port)) if named.name != host.name || named.port_or(port) != host.port_or(port) => {
            Err(Refusal::HostMismatch)
        }
        _ => Ok(host),
    }
}

/// The host of a target in absolute form, with its scheme's port. Other schemes than these are not ours to serve.
fn target_host(uri: &Uri) -> Result<Option<(Host, u16)>, Refusal> {
    let Some(authority) = uri.authority() else {
        return Ok(None);
    };
    let port = match uri.scheme_str() {
        Some("http" | "ws") => 80,
        Some("https" | "wss") => 443,
        _ => return Err(Refusal::TargetMalformed),
    };
    // `Host` has no room for userinfo (RFC 9110 section 4.2.4).
    let named = authority.as_str().parse().map_err(|_| Refusal::TargetMalformed)?;
    Ok(Some((named, port)))
}

/// Whether the target is in absolute form and asks for what is served over TLS alone (RFC 9110 section 4.2.2).
pub fn is_https(uri: &Uri) -> bool {
    matches!(uri.scheme_str(), Some("https" | "wss"))
}

impl Host {
    pub fn port_or(&self, default: u16) -> u16 {
        self.port.unwrap_or(default)
    }
}

impl FromStr for Host {
    type Err = BadHost;

    /// `uri-host [":" port]` (RFC 3986 section 3.2.2) without percent-encoding and sub-delimiters: no server that one
    /// could ask for is named so, and each is read in several ways. A name may hold `_`, as many in use do.
    fn from_str(text: &str) -> Result<Self, BadHost> {
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']').ok_or(BadHost)?;
                (address.parse::<Ipv6Addr>().map_err(|_| BadHost)?.to_string(), port)
            }
            None => {
                let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
                (reg_name(name)?, port)
            }
        };
        Ok(Self { name, port: self::port(port)? })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]", self.name)?;
        } else {
            f.write_str(&self.name)?;
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

fn reg_name(text: &str) -> Result<String, BadHost> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if name.len() <= NAME_MAX && name.split('.').all(is_label) { Ok(name.to_ascii_lowercase()) } else { Err(BadHost) }
}

/// Nothing, or a colon and a port; a colon alone is the default port, too (RFC 3986 section 3.2.3).
fn port(text: &str) -> Result<Option<u16>, BadHost> {
    let Some(digits) = text.strip_prefix(':') else {
        return if text.is_empty() { Ok(None) } else { Err(BadHost) };
    };
    if digits.is_empty() {
        return Ok(None);
    }
    if digits.len() > 5 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BadHost);
    }
    digits.parse().ok().filter(|port| *port != 0).map(Some).ok_or(BadHost)
}
