//! X-Forwarded-* and Forwarded (RFC 7239): what a trusted proxy told us, and what we tell the upstream.
//!
//! A peer is believed in one of the two dialects. `X-Forwarded-*` wins where any of it is there: nearly every proxy
//! writes it, and many of those let a `Forwarded` of their client's pass untouched, which anybody could have forged.
//! The upstream gets both dialects, and they say the same.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};

use super::grammar;
use super::host::Host;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// How a request reached us.
#[derive(Debug, Clone, Copy)]
pub struct Hop<'a> {
    /// The peer's own address, not that of a client for whom it speaks; `None` behind a Unix socket, where it has none.
    pub peer: Option<IpAddr>,
    /// It is one of the listener's trusted proxies.
    pub trusted_peer: bool,
    /// It came over TLS.
    pub tls: bool,
    /// What the request's own Host says ([`super::host()`]).
    pub host: &'a Host,
}

/// The scheme and host that the client itself used, in front of all trusted proxies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// `https`/`wss`.
    pub secure: bool,
    pub host: Host,
}

/// One address of the path that a request took; `None` is one that is hidden, unknown or malformed.
pub(crate) type Node = Option<IpAddr>;

/// What the peer told about the request's way to it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    dialect: Dialect,
    /// From the client's side to ours.
    pub nodes: Vec<Node>,
    secure: Option<bool>,
    host: Option<Host>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Dialect {
    #[default]
    Silent,
    X,
    Rfc7239,
}

/// What a trusted peer says that the client asked for, or else what reached us.
pub fn asked(headers: &HeaderMap, hop: &Hop<'_>) -> Asked {
    let told = if hop.trusted_peer { told(headers) } else { Told::default() };
    Asked { secure: told.secure.unwrap_or(hop.tls), host: told.host.unwrap_or_else(|| hop.host.clone()) }
}

/// Reads one dialect. Ask only about a trusted peer.
///
/// Of several schemes or hosts the last counts: the peer itself wrote or let stand that one, while those in front of it
/// may be its client's invention.
pub(crate) fn told(headers: &HeaderMap) -> Told {
    if [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST].iter().any(|name| headers.contains_key(name)) {
        return told_in_x(headers);
    }
    if headers.contains_key(FORWARDED) { told_in_rfc7239(headers) } else { Told::default() }
}

/// Writes our own element behind what was told, in both dialects. The scheme is `https` or `http`, never `wss` or `ws`:
/// applications compare it with these.
pub(super) fn write(headers: &mut HeaderMap, hop: &Hop<'_>, told: &Told) {
    let peer = hop.peer.map(|peer| peer.to_canonical());
    // A peer without an address stands for those that it told of: readers who take the last one find a client there.
    let named = peer.is_some() || told.nodes.is_empty();
    let secure = told.secure.unwrap_or(hop.tls);
    let host = told.host.as_ref().unwrap_or(hop.host);

    if told.dialect == Dialect::Rfc7239 {
        set(headers, X_FORWARDED_FOR, &bare(&told.nodes));
    }
    if named {
        if told.dialect != Dialect::Rfc7239 {
            set(headers, FORWARDED, &translated(&told.nodes, told.secure, told.host.as_ref()));
        }
        // Where the peer has said scheme and host, ours would contradict it: they are those of the last hop.
        let ours = [told.secure.is_none().then_some(secure).map(proto), told.host.is_none().then(|| host_pair(host))];
        let element: Vec<String> = [Some(format!("for={}", node(peer)))].into_iter().chain(ours).flatten().collect();
        super::append_to_list(headers, FORWARDED, element.join(";").as_bytes());
        super::append_to_list(headers, X_FORWARDED_FOR, bare(&[peer]).as_bytes());
    } else {
        // An element of ours would have no `for`, and end the walk of whoever reads from the end.
        set(headers, FORWARDED, &translated(&told.nodes, Some(secure), Some(host)));
    }
    let (scheme, host) = (scheme(secure), host.to_string());
    set(headers, X_FORWARDED_PROTO, scheme);
    set(headers, X_FORWARDED_HOST, &host);
}

fn set(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    super::set(headers, name, HeaderValue::from_str(text).ok());
}

fn scheme(secure: bool) -> &'static str {
    if secure { "https" } else { "http" }
}

fn told_in_x(headers: &HeaderMap) -> Told {
    Told {
        dialect: Dialect::X,
        nodes: grammar::members(headers, X_FORWARDED_FOR)
            .map(|node| address(std::str::from_utf8(node).ok()?))
            .collect(),
        secure: last(headers, X_FORWARDED_PROTO).and_then(is_secure),
        host: last(headers, X_FORWARDED_HOST).and_then(|host| host.parse().ok()),
    }
}

/// A field that is not well-formed says nothing at all: a quote opened by a client may have swallowed what the proxy
/// wrote.
fn told_in_rfc7239(headers: &HeaderMap) -> Told {
    let mut told = Told { dialect: Dialect::Rfc7239, ..Told::default() };
    for line in headers.get_all(FORWARDED) {
        let Some(elements) = grammar::elements(line) else {
            return Told::default();
        };
        for element in &elements {
            if told.take(element).is_none() {
                return Told::default();
            }
        }
    }
    told
}

impl Told {
    /// RFC 7239 section 4: pairs only, each name at most once in an element.
    fn take(&mut self, element: &grammar::Element<'_>) -> Option<()> {
        let mut seen = Vec::new();
        let mut node = None;
        for (name, value) in element {
            let name = name.to_ascii_lowercase();
            let value = value.as_deref()?;
            match name.as_str() {
                "for" => node = address(value),
                "proto" => self.secure = is_secure(value).or(self.secure),
                "host" => self.host = value.parse().ok().or_else(|| self.host.take()),
                _ => {}
            }
            if seen.contains(&name) {
                return None;
            }
            seen.push(name);
        }
        self.nodes.push(node);
        Some(())
    }
}

/// What was told, as RFC 7239 section 7.4 translates it; scheme and host go with the last hop told.
fn translated(nodes: &[Node], secure: Option<bool>, host: Option<&Host>) -> String {
    let mut elements: Vec<String> = nodes.iter().map(|hop| format!("for={}", node(*hop))).collect();
    let pairs: Vec<String> = [secure.map(proto), host.map(host_pair)].into_iter().flatten().collect();
    if !pairs.is_empty() {
        match elements.last_mut() {
            Some(last) => *last = format!("{last};{}", pairs.join(";")),
            None => elements.push(pairs.join(";")),
        }
    }
    elements.join(", ")
}

fn proto(secure: bool) -> String {
    format!("proto={}", scheme(secure))
}

fn host_pair(host: &Host) -> String {
    format!("host={}", quoted(&host.to_string()))
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`: all of these are in use.
fn address(text: &str) -> Node {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let port_is_fine = port.is_empty() || port.strip_prefix(':').is_some_and(is_node_port);
        let address = address.parse::<Ipv6Addr>().ok().filter(|_| port_is_fine)?;
        return Some(IpAddr::V6(address).to_canonical());
    }
    let (address, port) = text.split_once(':')?;
    address.parse::<Ipv4Addr>().ok().filter(|_| is_node_port(port)).map(IpAddr::V4)
}

/// RFC 7239 section 6: a port, or an obfuscated one.
fn is_node_port(text: &str) -> bool {
    let is_obfuscated =
        |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    let is_number = (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number || text.strip_prefix('_').is_some_and(is_obfuscated)
}

fn is_secure(scheme: &str) -> Option<bool> {
    let is_one_of = |names: [&str; 2]| names.iter().any(|name| scheme.eq_ignore_ascii_case(name));
    if is_one_of(["https", "wss"]) {
        return Some(true);
    }
    is_one_of(["http", "ws"]).then_some(false)
}

fn last(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    grammar::members(headers, name).next_back().and_then(|member| std::str::from_utf8(member).ok())
}

/// As they stand in X-Forwarded-For.
fn bare(nodes: &[Node]) -> String {
    let text = |node: &Node| node.map_or_else(|| "unknown".to_owned(), |address| address.to_string());
    nodes.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// As it stands in Forwarded (section 6).
fn node(node: Node) -> String {
    match node {
        None => "unknown".to_owned(),
        Some(IpAddr::V4(address)) => address.to_string(),
        Some(IpAddr::V6(address)) => format!("\"[{address}]\""),
    }
}

/// A token as it is, anything else in quotes. Only valid hosts come here: nothing in them needs a backslash.
fn quoted(text: &str) -> String {
    if grammar::is_token(text) { text.to_owned() } else { format!("\"{text}\"") }
}
