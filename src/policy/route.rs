//! Which route serves a request, and under which path the upstream sees it.
//!
//! Matching works on the path's normal form, forwarding on the client's bytes. A path that an upstream could read
//! otherwise than we did is refused: it would pass the rules of one route and be served as another's.

use std::borrow::Cow;
use std::sync::Arc;

use http::{Uri, request};

use super::client::identity::{only, parameter};
use super::origin::is_below;
use crate::config::model::{Conditions, HostPattern, Route};
use crate::proto::fields::Host;
use crate::proto::handshake;
use crate::proto::refusal::Refusal;

/// The route for a request: of those that match, the one with the most specific host (exact, then the longest wildcard,
/// then any), then an exact path, then the longest prefix, then the most conditions, then the first in the file.
///
/// # Errors
/// When the path is refused, when it holds an encoded slash and the route does not allow them, or when no route
/// matches.
pub fn find<'a>(routes: &'a [Arc<Route>], host: &Host, parts: &request::Parts) -> Result<&'a Arc<Route>, Refusal> {
    let normal = normalise(parts.uri.path(), true)?;
    let mut best: Option<(Rank, &Arc<Route>)> = None;
    for route in routes {
        let Some(rank) = host_rank(&route.host, &host.name).filter(|_| is_at(route, &normal)) else {
            continue;
        };
        let rank = (rank, route.path_exact, route.path.len(), route.conditions.count());
        // Only a better one replaces: among equals the first stays.
        if best.is_none_or(|(found, _)| rank > found) && hold(&route.conditions, parts) {
            best = Some((rank, route));
        }
    }
    let (_, route) = best.ok_or(Refusal::NoRoute)?;
    if !route.encoded_slashes && normal.contains(ENCODED_SLASH) {
        return Err(Refusal::PathEncodedSlash);
    }
    Ok(route)
}

/// The normal form of a path: unreserved characters decoded, the others encoded in upper case (RFC 3986 section 6.2.2),
/// `//` collapsed.
///
/// # Errors
/// For what servers read in different ways: dot segments (also encoded, also with path parameters as in `/..;/`),
/// encoded slashes unless allowed, backslashes, control bytes, encodings that are none; and for what does not begin
/// with a slash.
pub fn normalise(path: &str, encoded_slashes: bool) -> Result<Cow<'_, str>, Refusal> {
    if !path.starts_with('/') {
        return Err(Refusal::TargetMalformed);
    }
    let normal = if is_plain(path) { Cow::Borrowed(path) } else { Cow::Owned(decode(path, encoded_slashes)?) };
    // Some servers decode %2F before they resolve dot segments, so both kinds of slash separate here.
    let mut segments = normal.split('/').flat_map(|segment| segment.split(ENCODED_SLASH));
    if segments.any(is_dot_segment) {
        return Err(Refusal::PathDotSegment);
    }
    Ok(normal)
}

/// The request target for the upstream: the server's base, then path and query as the client wrote them, with the route's
/// rewriting of the part that matched.
pub fn target(route: &Route, base: &str, uri: &Uri) -> String {
    let target = uri.path_and_query().map_or("/", |both| both.as_str());
    let (front, target) = match &route.rewrite {
        Some(front) => (front.as_str(), rest(route, target)),
        None => ("", target),
    };
    // `http` leaves the slash out of a target like `http://host?query`, and of a path nothing may be left.
    let slash = if front.is_empty() && !target.starts_with('/') { "/" } else { "" };
    format!("{base}{front}{slash}{target}")
}

/// What stands behind the path of a route that matches, query included. A path begins with one slash, for a target like
/// `//host/x` names a host to many a server.
pub(super) fn rest<'a>(route: &Route, target: &'a str) -> &'a str {
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    if route.path_exact {
        return query;
    }
    // No encoding stands for the slash that ends a segment, so both forms have the same segments.
    let segments = route.path.split('/').filter(|segment| !segment.is_empty());
    let path = segments.fold(path, |path, _| {
        let segment = path.trim_start_matches('/');
        &segment[segment.find('/').unwrap_or(segment.len())..]
    });
    let kept = path.trim_start_matches('/').len() + usize::from(path.starts_with('/'));
    &target[target.len() - query.len() - kept..]
}

pub(super) const ENCODED_SLASH: &str = "%2F";

/// Host, whether the path is exact, the length of the path, the number of conditions.
type Rank = (HostRank, bool, usize, usize);

/// Higher is more specific; wildcards by the length of their suffix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum HostRank {
    Any,
    Below(usize),
    Exact,
}

fn host_rank(pattern: &HostPattern, name: &str) -> Option<HostRank> {
    match pattern {
        HostPattern::Any => Some(HostRank::Any),
        HostPattern::Below(parent) => is_below(name, parent).then_some(HostRank::Below(parent.len())),
        HostPattern::Exact(exact) => (exact == name).then_some(HostRank::Exact),
    }
}

fn is_at(route: &Route, path: &str) -> bool {
    if route.path_exact { route.path == path } else { is_prefix(&route.path, path) }
}

/// A field or parameter that is there twice holds no condition: an upstream could go by the other one.
fn hold(conditions: &Conditions, parts: &request::Parts) -> bool {
    let field = |name| only(parts.headers.get_all(name).iter());
    let is_offered =
        |name: &String| handshake::subprotocols(&parts.headers).is_ok_and(|offered| offered.contains(name));
    conditions.headers.iter().all(|(name, value)| field(name).is_some_and(|found| found == value.as_str()))
        && conditions.query.iter().all(|(name, value)| parameter(parts, name).is_some_and(|v| *v == *value.as_bytes()))
        && conditions.subprotocol.iter().all(is_offered)
}

/// Whether the prefix ends where a segment does.
fn is_prefix(prefix: &str, path: &str) -> bool {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether nothing has to be decoded, collapsed or refused but dot segments.
fn is_plain(path: &str) -> bool {
    !path.contains("//") && path.bytes().all(|byte| byte == b'/' || is_path_byte(byte))
}

fn decode(path: &str, encoded_slashes: bool) -> Result<String, Refusal> {
    let mut normal = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'/' if normal.ends_with('/') => {}
            b'/' => normal.push('/'),
            b'%' => {
                let digits = [bytes.next(), bytes.next()].map(|digit| digit.and_then(|d| char::from(d).to_digit(16)));
                let [Some(high), Some(low)] = digits else {
                    return Err(Refusal::TargetMalformed);
                };
                match (high << 4 | low) as u8 {
                    b'/' if !encoded_slashes => return Err(Refusal::PathEncodedSlash),
                    b'\\' => return Err(Refusal::PathBackslash),
                    control if control.is_ascii_control() => return Err(Refusal::PathControl),
                    plain if is_unreserved(plain) => normal.push(char::from(plain)),
                    other => normal.push_str(&format!("%{other:02X}")),
                }
            }
            b'\\' => return Err(Refusal::PathBackslash),
            byte if byte.is_ascii_control() => return Err(Refusal::PathControl),
            byte if is_path_byte(byte) => normal.push(char::from(byte)),
            // `[`, `|` or a letter beyond ASCII: against the grammar, but browsers and others send them, and nobody
            // reads them in two ways.
            byte => normal.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok(normal)
}

/// `.` or `..`, also with path parameters, which Java servers cut off before they resolve the segment.
fn is_dot_segment(segment: &str) -> bool {
    let is_dots = |rest: &str| rest.is_empty() || rest.starts_with(';') || rest.starts_with("%3B");
    [".", ".."].iter().any(|dots| segment.strip_prefix(dots).is_some_and(is_dots))
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// RFC 3986 section 3.3, without `%`.
fn is_path_byte(byte: u8) -> bool {
    is_unreserved(byte) || b"!$&'()*+,;=:@".contains(&byte)
}

#[cfg(test)]
mod tests;
