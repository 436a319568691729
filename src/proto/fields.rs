//! Header fields: what is hop-by-hop, what is ours to write, what never passes (RFC 9110 section 7.6, RFC 7239).
//!
//! The maps are edited in place and never rebuilt: hyper pairs the peer's spelling of a name with its values by their
//! order. Every function strips first and sets afterwards, so that nobody can strip what we set (CVE-2021-32813).

mod forwarded;
pub(crate) mod grammar;
mod host;
#[cfg(test)]
pub(crate) mod testing;

use std::borrow::Cow;

use http::header::{
    ALT_SVC, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderMap, StatusCode, Version};

pub(crate) use forwarded::told;
pub use forwarded::{Asked, Hop, asked};
pub use host::{Host, host, is_https};

use super::extensions::{self, Deflate};

/// The beginning of every name of the opening handshake.
pub(crate) const SEC_WEBSOCKET: &str = "sec-websocket-";
const X_FORWARDED: &str = "x-forwarded-";
const PROXY: &str = "proxy-";

/// Between two neighbours only (RFC 9110 section 7.6.1), beside what `Connection` names and every `Proxy-*`.
/// `Proxy` itself is no field at all, but CGI makes HTTP_PROXY of it (CVE-2016-5385).
const HOP_BY_HOP: [&str; 8] =
    ["connection", "http2-settings", "keep-alive", "proxy", "te", "trailer", "transfer-encoding", "upgrade"];

/// What applications believe about the client, its address or the target, although only a proxy can know: from a peer
/// that is not trusted it never passes. Beside every `X-Forwarded-*`.
const ASSERTED: [&str; 9] = [
    "forwarded",
    "true-client-ip",
    "via",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-original-host",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
];

/// The same, of single products and frameworks. They pass from a trusted peer as they came and are never written by us, so
/// an operator may set or remove them. A closed list: what is not here passes (decision 18).
const BELIEVED: [&str; 23] = [
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-pseudo-ipv4",
    "client-ip",
    "fastly-client-ip",
    "forwarded-for",
    "front-end-https",
    "http-client-ip",
    "wl-proxy-client-cert",
    "wl-proxy-client-ip",
    "wl-proxy-ssl",
    "x-appengine-user-ip",
    "x-azure-clientip",
    "x-client-cert",
    "x-envoy-external-address",
    "x-forwarded",
    "x-original-forwarded-for",
    "x-originating-ip",
    "x-proxyuser-ip",
    "x-remote-addr",
    "x-remote-ip",
    "x-scheme",
    "x-url-scheme",
];

/// Fields that `Connection` may not remove, beside every `Sec-WebSocket-*`: they are end-to-end (RFC 9110 section 7.6.1
/// forbids to name such), and we have decided by them.
const NOT_NOMINABLE: [HeaderName; 2] = [HOST, ORIGIN];

/// The fields of the handshake that a client sends.
const OF_THE_REQUEST: [HeaderName; 4] =
    [SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_EXTENSIONS];
/// Those that a server sends.
const OF_THE_ANSWER: [HeaderName; 3] = [SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_EXTENSIONS];

/// What the upstream is offered, after the route's rules.
#[derive(Debug, Clone, Copy, Default)]
pub struct Passed<'a> {
    /// The Host to send; `None` passes the client's.
    pub host: Option<&'a str>,
    pub subprotocols: &'a [String],
    pub deflate: &'a [Deflate],
}

/// Turns the fields of the client's request into those of the upgrade request to the upstream.
///
/// End-to-end fields pass, `Sec-WebSocket-Key` and `-Version` among them. Hop-by-hop fields, what `Connection` names,
/// `Expect` and `Content-Length` (there is no body) do not, nor do names that look like one of ours. `X-Forwarded-For`,
/// `-Proto`, `-Host`, `Forwarded` and `Via` are written by us: behind what a trusted proxy sent, in place of what
/// anybody else did.
pub fn upstream_headers(headers: &mut HeaderMap, hop: &Hop<'_>, passed: &Passed<'_>) {
    // A handshake is HTTP/1.1, or refused.
    forward(headers, Version::HTTP_11, hop, passed.host);
    remove_all(headers, |name| name.as_str().starts_with(SEC_WEBSOCKET) && !OF_THE_REQUEST.contains(name));
    headers.remove(EXPECT);
    headers.remove(CONTENT_LENGTH);
    set(headers, SEC_WEBSOCKET_PROTOCOL, subprotocols_value(passed.subprotocols));
    set(headers, SEC_WEBSOCKET_EXTENSIONS, extensions::offer_value(passed.deflate));
    write_upgrade(headers);
}

/// What stands behind the head of a plain request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Nothing. A `Content-Length: 0` passes as it came: some servers want one with every POST.
    Empty,
    Length(u64),
    Chunked,
}

/// Turns the fields of a plain request into those of ours to the upstream.
///
/// As for the upgrade request, but: `Content-Length` or `Transfer-Encoding` tells what our own leg carries, never both
/// (RFC 9112 section 6.3); `TE: trailers` and `Trailer` pass, because trailers do; `Expect: 100-continue` passes where
/// there is a body; no upgrade of any kind is asked for.
pub fn plain_headers(headers: &mut HeaderMap, version: Version, hop: &Hop<'_>, host: Option<&str>, framing: Framing) {
    let trailers = grammar::holds_token(headers, TE, "trailers");
    let announced: Vec<HeaderValue> = headers.get_all(TRAILER).iter().cloned().collect();
    forward(headers, version, hop, host);
    remove_all(headers, |name| name.as_str().starts_with(SEC_WEBSOCKET));
    if framing == Framing::Empty || !is_continue(headers) {
        headers.remove(EXPECT);
    }
    match framing {
        Framing::Empty => {}
        Framing::Length(length) => {
            headers.insert(CONTENT_LENGTH, length.into());
        }
        Framing::Chunked => {
            headers.remove(CONTENT_LENGTH);
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            announce(headers, announced);
        }
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        // RFC 9110 section 10.1.4: TE is hop-by-hop, and says so.
        headers.insert(CONNECTION, HeaderValue::from_static("TE"));
    }
}

/// Turns the fields of the upstream's answer to plain HTTP into those of ours.
pub fn plain_answer_headers(status: StatusCode, headers: &mut HeaderMap) {
    let announced: Vec<HeaderValue> = headers.get_all(TRAILER).iter().cloned().collect();
    let chunked = headers.contains_key(TRANSFER_ENCODING);
    refusal_headers(status, headers);
    if chunked {
        announce(headers, announced);
    }
}

/// Leaves of a trailer section what may stand in one: nothing that frames, routes, or only a proxy may say (RFC 9110
/// section 6.5.1).
pub fn plain_trailers(trailers: &mut HeaderMap) {
    strip_hop_by_hop(trailers);
    remove_all(trailers, |name| {
        let folded = folded(name);
        is_lookalike(name)
            || is_claim(&folded)
            || folded.starts_with(SEC_WEBSOCKET)
            || [HOST, ORIGIN, CONTENT_LENGTH, EXPECT].contains(name)
    });
}

/// Whether `Expect` holds 100-continue and nothing else (RFC 9110 section 10.1.1).
pub fn is_continue(headers: &HeaderMap) -> bool {
    let mut members = grammar::members(headers, EXPECT);
    members.next().is_some_and(|member| member.eq_ignore_ascii_case(b"100-continue")) && members.next().is_none()
}

fn announce(headers: &mut HeaderMap, trailers: Vec<HeaderValue>) {
    for line in trailers {
        headers.append(TRAILER, line);
    }
}

/// What every request of ours has in common: stripped, then Host, our own element of the way, and Via.
fn forward(headers: &mut HeaderMap, version: Version, hop: &Hop<'_>, host: Option<&str>) {
    let told = if hop.trusted_peer { told(headers) } else { forwarded::Told::default() };
    strip_hop_by_hop(headers);
    remove_all(headers, is_lookalike);
    if !hop.trusted_peer {
        remove_all(headers, |name| is_claim(name.as_str()));
    }
    if let Some(host) = host.and_then(|host| HeaderValue::from_str(host).ok()) {
        headers.insert(HOST, host);
    }
    forwarded::write(headers, hop, &told);
    // RFC 9110 section 7.6.3: the version in which it was received.
    let via: &[u8] = if version == Version::HTTP_10 { b"1.0 tidegate" } else { b"1.1 tidegate" };
    append_to_list(headers, VIA, via);
}

/// Turns the fields of the upstream's 101 into those of ours: end-to-end fields pass, also `Set-Cookie` and
/// `Sec-WebSocket-Accept`; what concerns the upstream's own connection does not (CVE-2026-55458, CVE-2026-105299).
pub fn answer_headers(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    remove_all(headers, |name| name.as_str().starts_with(SEC_WEBSOCKET) && !OF_THE_ANSWER.contains(name));
    headers.remove(ALT_SVC);
    // RFC 9110 section 8.6: not in a 1xx. What follows is frames.
    headers.remove(CONTENT_LENGTH);
    write_upgrade(headers);
}

/// Turns the fields of an upstream's own refusal into those of ours.
pub fn refusal_headers(status: StatusCode, headers: &mut HeaderMap) {
    let wanted: Vec<HeaderValue> = match status {
        StatusCode::UPGRADE_REQUIRED => headers.get_all(UPGRADE).iter().cloned().collect(),
        _ => Vec::new(),
    };
    // RFC 9112 section 6.3: Transfer-Encoding overrides Content-Length; the latter must not be forwarded then.
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    strip_hop_by_hop(headers);
    // It would lead the client around the gateway.
    headers.remove(ALT_SVC);
    // RFC 9110 section 15.5.22: a 426 says what is required; section 7.8: and Upgrade never goes without its option.
    if !wanted.is_empty() {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    for line in wanted {
        headers.append(UPGRADE, line);
    }
}

/// The name as an application may read it: CGI and its heirs turn every odd character into an underscore, so that
/// `X_Forwarded.For` and `X-Forwarded-For` become one (CVE-2026-33433, -54763, -88011). `http` has lower-cased it.
pub(crate) fn folded(name: &HeaderName) -> Cow<'_, str> {
    let name = name.as_str();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if name.chars().all(is_plain) { name.into() } else { name.replace(|c| !is_plain(c), "-").into() }
}

/// Hop-by-hop fields and those that `Connection` names.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let nominated: Vec<HeaderName> =
        grammar::members(headers, CONNECTION).filter_map(|name| HeaderName::from_bytes(name).ok()).collect();
    for name in nominated.iter().filter(|name| may_be_nominated(name)) {
        headers.remove(name);
    }
    remove_all(headers, |name| is_hop_by_hop(name.as_str()));
}

fn may_be_nominated(name: &HeaderName) -> bool {
    !NOT_NOMINABLE.contains(name) && !name.as_str().starts_with(SEC_WEBSOCKET)
}

/// Whether a field is the protocol's or a proxy's, so that nothing of the client's own can travel in it.
pub(crate) fn is_ours(name: &HeaderName) -> bool {
    let folded = folded(name);
    is_hop_by_hop(&folded)
        || is_asserted(&folded)
        || folded.starts_with(SEC_WEBSOCKET)
        || [HOST, ORIGIN, CONTENT_LENGTH, EXPECT, COOKIE].iter().any(|name| name.as_str() == folded)
}

/// Why a configuration may not set or remove a field, in a request or an answer; `None`: it may.
pub(crate) fn is_fixed(name: &HeaderName) -> Option<&'static str> {
    let folded = folded(name);
    match &*folded {
        // The operator alone knows it, and no client can have written it.
        "x-forwarded-prefix" => None,
        "host" => Some("is what `host_header` is for"),
        "content-length" | "expect" => Some("frames the body"),
        folded if is_hop_by_hop(folded) => Some("belongs to one connection and is the gateway's to write"),
        folded if is_asserted(folded) => Some("tells who the client is and is the gateway's to write"),
        folded if folded.starts_with(SEC_WEBSOCKET) => Some("belongs to the handshake"),
        _ => None,
    }
}

/// Removes and sets fields, whatever the peer's spelling of their names: `X_User` must not stand beside the `X-User` that
/// is set.
pub fn edit(headers: &mut HeaderMap, remove: &[HeaderName], set: &[(HeaderName, HeaderValue)]) {
    let named = remove.iter().chain(set.iter().map(|(name, _)| name));
    for unwanted in named {
        let unwanted = folded(unwanted);
        remove_all(headers, |name| folded(name) == unwanted);
    }
    for (name, value) in set {
        headers.insert(name, value.clone());
    }
}

fn is_hop_by_hop(name: &str) -> bool {
    HOP_BY_HOP.contains(&name) || name.starts_with(PROXY)
}

fn is_asserted(name: &str) -> bool {
    ASSERTED.contains(&name) || name.starts_with(X_FORWARDED)
}

/// Whether some application takes it for a proxy's word about the client.
fn is_claim(name: &str) -> bool {
    is_asserted(name) || BELIEVED.contains(&name)
}

/// Whether the name could be taken for one that we write, believe or decide by.
fn is_lookalike(name: &HeaderName) -> bool {
    let Cow::Owned(folded) = folded(name) else {
        return false;
    };
    let end_to_end = [HOST, ORIGIN, CONTENT_LENGTH, EXPECT];
    is_claim(&folded)
        || is_hop_by_hop(&folded)
        || folded.starts_with(SEC_WEBSOCKET)
        || end_to_end.iter().any(|name| name.as_str() == folded)
}

fn remove_all(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| unwanted(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// RFC 6455 section 4.1, in its spelling.
fn write_upgrade(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

fn subprotocols_value(names: &[String]) -> Option<HeaderValue> {
    if names.is_empty() { None } else { HeaderValue::from_str(&names.join(", ")).ok() }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>) {
    match value {
        Some(value) => headers.insert(name, value),
        None => headers.remove(name),
    };
}

/// One more member behind the lines of a list field, all of them joined to one line: readers of the first line only
/// exist.
fn append_to_list(headers: &mut HeaderMap, name: HeaderName, member: &[u8]) {
    let lines = headers.get_all(&name).iter().map(HeaderValue::as_bytes).filter(|line| !line.is_empty());
    let joined = lines.chain([member]).collect::<Vec<_>>().join(&b", "[..]);
    set(headers, name, HeaderValue::from_bytes(&joined).ok());
}

#[cfg(test)]
mod tests;
