//! What the gateway would do with a request, check by check: `tidegate explain`.
//!
//! It runs [`decide`] and [`Plan::offered`](crate::policy::decide::Plan::offered), as the gateway does, and watches them. Nothing is dialled and nothing
//! counted: the limits are told, not asked.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use http::header::{
    CONNECTION, HOST, HeaderName, HeaderValue, InvalidHeaderName, InvalidHeaderValue, ORIGIN, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, Request, StatusCode, Uri, request};
use percent_encoding::percent_decode_str;

use crate::config::model::{
    ClientBy, Config, Keys, Listener, ListenerAddress, RelayRules, Route, RouteRates, Upstream,
};
use crate::http::marks::Marks;
use crate::keyring::{BadFile, Keyrings};
use crate::policy::client::{self, Address, ClientKey, Identities, Peer};
use crate::policy::decide::{Check, Decision, Denied, Plan, Visitor, Watch, decide};
use crate::policy::{access, route, sticky};
use crate::proto::refusal::Refusal;
use crate::proto::trace::{Parent, RequestId, Trace};
use crate::upstream;

/// Any 16 bytes: the key proves nothing (RFC 6455 section 1.3).
const KEY: HeaderValue = HeaderValue::from_static("dGlkZWdhdGUgZXhwbGFpbg==");

/// The request to explain.
#[derive(Debug, Clone)]
pub struct Question {
    /// `ws://`, `wss://`, or `http://`, `https://` for a request that is no handshake.
    pub url: String,
    /// Of a request that is no handshake.
    pub method: Method,
    pub origin: Option<String>,
    /// The peer that connects.
    pub from: IpAddr,
    /// Fields as they would be sent, `Name: value`. They stand beside those of the handshake; a `Host` replaces ours.
    pub headers: Vec<String>,
    /// In the client's order.
    pub subprotocols: Vec<String>,
    /// The address of the listener that it comes to, as the configuration writes it; needed where several would do.
    pub listener: Option<String>,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum BadQuestion {
    #[error("{0:?} is no URL: write one like wss://chat.example.com/chat")]
    Url(String),
    #[error("{0:?} is no scheme that is served here: ws, wss, http or https")]
    Scheme(String),
    #[error("{0:?} is no header field: write it as 'Name: value'")]
    Header(String),
    #[error("the header name in {field:?} is not valid")]
    HeaderName { field: String, source: InvalidHeaderName },
    #[error("the header value in {field:?} is not valid")]
    HeaderValue { field: String, source: InvalidHeaderValue },
    #[error("the listener {address} {}: ask with {} to it", if *.tls { "has TLS" } else { "is without TLS" }, if *.tls { "wss or https" } else { "ws or http" })]
    OtherScheme { address: String, tls: bool },
    #[error("no listener {}: give one with --listener, or change the scheme", if *.tls { "has TLS" } else { "is without TLS" })]
    NoListener { tls: bool },
    #[error("the API keys in {}", .file.display())]
    Keys { file: PathBuf, source: BadFile },
    #[error("no listener has the address {0}: see `tidegate check`")]
    UnknownListener(String),
}

/// What would become of a request.
#[derive(Debug)]
pub struct Explanation {
    /// What was found, in the order of the checks.
    pub findings: Vec<(&'static str, String)>,
    pub verdict: Verdict,
}

#[derive(Debug)]
pub enum Verdict {
    /// It goes to a server of this upstream.
    Upstream(String),
    /// It passes as plain HTTP to a server of this upstream.
    Plain(String),
    /// It is answered with a page that is built in.
    Page,
    /// It is sent to this address.
    Redirect(String, StatusCode),
    /// It gets the answer that the route fixes.
    Respond(StatusCode),
    /// It is answered with this file, or 404 where that is not there.
    File(PathBuf),
    /// The check that it does not pass.
    Refused(Check, Refusal),
    /// The connection is closed before anything is read, or answered.
    Closed(&'static str),
}

/// Explains what `config` makes of a request.
///
/// # Errors
/// When the question is none; see [`BadQuestion`].
pub fn explain(config: &Config, question: &Question) -> Result<Explanation, BadQuestion> {
    let uri: Uri = question.url.parse().map_err(|_| BadQuestion::Url(question.url.clone()))?;
    let (secure, upgrade) = match uri.scheme_str() {
        Some("ws") => (false, true),
        Some("wss") => (true, true),
        Some("http") => (false, false),
        Some("https") => (true, false),
        scheme => return Err(BadQuestion::Scheme(scheme.unwrap_or_default().to_owned())),
    };
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let listener = listener(config, question.listener.as_deref(), port, secure)?;
    let mut parts = head(&uri, upgrade, question)?;
    let keyrings = Keyrings::load(config).map_err(|(file, source)| BadQuestion::Keys { file, source })?;
    let address = match listener.address {
        ListenerAddress::Tcp(_) => question.from.into(),
        ListenerAddress::Unix(_) => Address::Local,
    };
    let peer = Peer::new(address, &listener.trusted_proxies);
    let visitor = Visitor { peer, secure, listener: Arc::new(listener.clone()) };
    if let Some(why) = closed(listener, &peer) {
        let findings = listener_and_client(&visitor, peer.address, "");
        return Ok(Explanation { findings: findings.0, verdict: Verdict::Closed(why) });
    }
    Ok(follow(config, &keyrings, &mut parts, &visitor))
}

/// What happens before a request is read.
fn closed(listener: &Listener, peer: &Peer) -> Option<&'static str> {
    if access::drops(&listener.access, peer) {
        Some("`allow` and `deny` of the listener do not let this address in")
    } else if listener.proxy_protocol.is_some() && !peer.trusted {
        Some("`proxy_protocol` wants a PROXY header, and this address is not one of `trusted_proxies`")
    } else {
        None
    }
}

/// The walk of the gateway, up to the dial.
fn follow(config: &Config, keyrings: &Keyrings, parts: &mut request::Parts, visitor: &Visitor) -> Explanation {
    let client = client::identify(visitor.peer, &visitor.listener.trusted_proxies, &parts.headers);
    let trusted = if client.trusted_peer { ", told by a trusted proxy" } else { "" };
    let mut findings = listener_and_client(visitor, client.address, trusted);
    findings.add("trace", traced(config, parts, client.trusted_peer));
    let keys = |keys: &Keys| keyrings.current(keys);
    let verdict = match decide(parts, visitor, client, &config.routes, keys, &mut findings) {
        Err(Denied { check, refusal, .. }) => Verdict::Refused(check, refusal),
        Ok(Decision::Page(_, page)) => {
            findings.add("page", format!("{page:?}").to_lowercase());
            Verdict::Page
        }
        Ok(Decision::Redirect(_, location, status)) => {
            Verdict::Redirect(String::from_utf8_lossy(location.as_bytes()).into_owned(), status)
        }
        Ok(Decision::Respond(_, respond)) => Verdict::Respond(respond.status),
        Ok(Decision::File(_, folder, below)) => {
            let below = below.split('?').next().unwrap_or_default();
            let below = percent_decode_str(below.trim_start_matches('/')).decode_utf8_lossy();
            Verdict::File(folder.path.join(&*below))
        }
        Ok(Decision::Plain(passage)) => {
            findings.edited(passage.route);
            findings.sticky(passage.upstream, parts);
            findings.add(Check::Upstream.label(), upstream(passage.route, passage.upstream, parts));
            Verdict::Plain(passage.upstream.name.clone())
        }
        Ok(Decision::Session(plan)) => {
            findings.add(Check::Limits.label(), limits(config, &visitor.listener, &plan, parts));
            match plan.offered(&mut findings) {
                Err(refusal) => Verdict::Refused(Check::Subprotocol, refusal),
                Ok(_) => {
                    findings.edited(plan.route);
                    findings.sticky(plan.upstream, parts);
                    findings.add(Check::Upstream.label(), upstream(plan.route, plan.upstream, parts));
                    Verdict::Upstream(plan.upstream.name.clone())
                }
            }
        }
    };
    Explanation { findings: findings.0, verdict }
}

fn listener_and_client(visitor: &Visitor, client: Address, more: &str) -> Findings {
    let mut findings = Findings::default();
    let tls = if visitor.secure { " (TLS)" } else { "" };
    findings.add("listener", format!("{}{tls}", visitor.listener.address));
    findings.add("client", format!("{client}{more}"));
    findings
}

/// What the records would call it.
fn traced(config: &Config, parts: &request::Parts, trusted: bool) -> String {
    let Trace { request, parent } = Marks::of(parts, trusted, &config.log).trace;
    let request = match request {
        RequestId::Given(id) => format!("request id {id}"),
        RequestId::Made(_) => "a request id is made".to_owned(),
    };
    let parent = match parent {
        Parent::Given(id) => format!("traceparent passes, trace {id}"),
        Parent::Begun { .. } => "a trace begins".to_owned(),
        Parent::None => "no trace".to_owned(),
    };
    format!("{request}, {parent}")
}

/// The listener that a client of this URL would reach: the named one, or the first of its port and kind, or of its kind.
fn listener<'a>(config: &'a Config, named: Option<&str>, port: u16, tls: bool) -> Result<&'a Listener, BadQuestion> {
    if let Some(address) = named {
        let mut listeners = config.listeners.iter();
        let found = listeners.find(|listener| listener.address.to_string() == address);
        let found = found.ok_or_else(|| BadQuestion::UnknownListener(address.to_owned()))?;
        let has_tls = found.tls.is_some();
        let other = || BadQuestion::OtherScheme { address: address.to_owned(), tls: has_tls };
        return if has_tls == tls { Ok(found) } else { Err(other()) };
    }
    let fits = |listener: &&Listener| listener.tls.is_some() == tls;
    let mut candidates = config.listeners.iter().filter(fits);
    let is_of_port = |address: &ListenerAddress| match address {
        ListenerAddress::Tcp(address) => address.port() == port,
        ListenerAddress::Unix(_) => false,
    };
    let of_port = candidates.clone().find(|listener| is_of_port(&listener.address));
    of_port.or_else(|| candidates.next()).ok_or(BadQuestion::NoListener { tls })
}

/// The request head as the client would send it.
fn head(uri: &Uri, upgrade: bool, question: &Question) -> Result<request::Parts, BadQuestion> {
    let bad_url = || BadQuestion::Url(question.url.clone());
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = if upgrade { Method::GET } else { question.method.clone() };
    parts.uri =
        if target.starts_with('/') { target.parse() } else { format!("/{target}").parse() }.map_err(|_| bad_url())?;
    let authority = uri.authority().ok_or_else(bad_url)?;
    let written = question.headers.iter().map(|field| header(field)).collect::<Result<Vec<_>, _>>()?;
    if !written.iter().any(|(name, _)| name == HOST) {
        // Who a URL's user is stands in no Host (RFC 9110 section 4.2.4).
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        parts.headers.insert(HOST, value(host)?);
    }
    if upgrade {
        parts.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        parts.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        parts.headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        parts.headers.insert(SEC_WEBSOCKET_KEY, KEY);
    }
    if let Some(origin) = &question.origin {
        parts.headers.insert(ORIGIN, value(origin)?);
    }
    for name in &question.subprotocols {
        parts.headers.append(SEC_WEBSOCKET_PROTOCOL, value(name)?);
    }
    for (name, value) in written {
        parts.headers.append(name, value);
    }
    Ok(parts)
}

fn header(field: &str) -> Result<(HeaderName, HeaderValue), BadQuestion> {
    let (name, text) = field.split_once(':').ok_or_else(|| BadQuestion::Header(field.to_owned()))?;
    let name = name.parse().map_err(|source| BadQuestion::HeaderName { field: field.to_owned(), source })?;
    Ok((name, value(text.trim_matches([' ', '\t']))?))
}

fn value(text: &str) -> Result<HeaderValue, BadQuestion> {
    HeaderValue::from_str(text).map_err(|source| BadQuestion::HeaderValue { field: text.to_owned(), source })
}

/// Whom the limits would count, and what would be asked, in the order in which it is.
fn limits(config: &Config, listener: &Listener, plan: &Plan<'_>, parts: &request::Parts) -> String {
    let (all, here, route) = (&config.limits, &listener.limits, &plan.route.limits);
    let keys = plan.client.keys(&plan.route.client, parts, all.ipv6_prefix, &Identities::default());
    let counted: Vec<String> = keys.as_slice().iter().map(|key| counted_as(*key, &plan.route.client)).collect();
    let counted = format!("counted as {}", counted.join(" and "));
    let rates = [
        ("handshakes_per_client", all.handshakes_per_client),
        ("route.limits.handshakes_per_client", route.handshakes_per_client),
        ("route.limits.handshakes", route.handshakes),
    ];
    let caps = [
        ("sessions", Some(all.sessions)),
        ("listener.limits.sessions", here.sessions),
        ("route.limits.sessions", route.sessions),
        ("sessions_per_client", all.sessions_per_client),
        ("route.limits.sessions_per_client", route.sessions_per_client),
        ("sessions_per_server", plan.upstream.sessions_per_server),
    ];
    let rates = rates.iter().filter_map(|(key, rate)| Some(format!("{key} {}", rate.as_ref()?)));
    let caps = caps.iter().filter_map(|(key, cap)| Some(format!("{key} {}", cap.as_ref()?)));
    let relayed = relayed(&route.rates, &plan.route.relay);
    std::iter::once(counted).chain(rates).chain(caps).chain(relayed).collect::<Vec<_>>().join(", ")
}

/// What the messages of the session would pay.
fn relayed(rates: &RouteRates, relay: &RelayRules) -> Vec<String> {
    let RouteRates { messages, bytes } = rates;
    let counts = [
        ("messages_per_session", messages.session),
        ("messages_per_client", messages.client),
        ("messages", messages.route),
        ("control_per_session", relay.control_per_session),
    ];
    let bytes = [("bytes_per_session", bytes.session), ("bytes_per_client", bytes.client), ("bytes", bytes.route)];
    let counts = counts.iter().filter_map(|(key, rate)| Some(format!("route.limits.{key} {}", rate.as_ref()?)));
    let bytes = bytes.iter().filter_map(|(key, rate)| Some(format!("route.limits.{key} {}", rate.as_ref()?)));
    counts.chain(bytes).collect()
}

/// An identity is a hash that is another one in each process: its origin tells more.
fn counted_as(key: ClientKey, by: &ClientBy) -> String {
    match by {
        ClientBy::Header(name) if key.is_identity() => format!("its header {name}"),
        ClientBy::Cookie(name) if key.is_identity() => format!("its cookie {name}"),
        ClientBy::Query(name) if key.is_identity() => format!("its query parameter {name}"),
        _ => key.to_string(),
    }
}

/// Where it could go, and as what.
fn upstream(route: &Route, upstream: &Upstream, parts: &request::Parts) -> String {
    let servers = upstream.servers.iter().map(|server| {
        let target = route::target(route, &server.base, &parts.uri);
        let path = target.split('?').next().unwrap_or_default();
        let weight = if server.weight == 1 { String::new() } else { format!(", weight {}", server.weight) };
        let backup = if server.backup { ", backup" } else { "" };
        format!("{} with path {path}{weight}{backup}", server.text)
    });
    let servers = servers.collect::<Vec<_>>().join(", or ");
    let balance = if upstream.servers.len() == 1 { String::new() } else { format!(" ({})", upstream.balance) };
    format!("{}{balance}: {servers}", upstream.name)
}

#[derive(Debug, Default)]
struct Findings(Vec<(&'static str, String)>);

impl Findings {
    /// Without the values: one may be a secret.
    fn edited(&mut self, route: &Route) {
        for (name, edits) in [("request", &route.request_headers), ("answer", &route.response_headers)] {
            let set = edits.set.iter().map(|(name, _)| format!("sets {name}"));
            let remove = edits.remove.iter().map(|name| format!("removes {name}"));
            let edits: Vec<String> = remove.chain(set).collect();
            if !edits.is_empty() {
                self.add(name, edits.join(", "));
            }
        }
    }

    /// Which server the request should meet again.
    fn sticky(&mut self, upstream: &Upstream, parts: &request::Parts) {
        let rules = &upstream.sticky;
        if rules.socket_io && sticky::sid(parts).is_some() {
            self.add("sticky", "the server of its sid, where the running gateway knows that one".to_owned());
        }
        let Some(cookie) = &rules.cookie else { return };
        let name = &cookie.name;
        let met = upstream::sticky::met(upstream, &parts.headers);
        let is_there = client::value(&ClientBy::Cookie(name.clone()), parts).is_some();
        let finding = match met {
            Some(server) => format!("{} by its cookie {name}", server.text),
            None if is_there && cookie.key.is_none() => {
                format!("the server of its cookie {name}, where the running gateway made that one")
            }
            None if is_there => format!("none: its cookie {name} names no server here, and it gets a new one"),
            None => format!("none: it gets a cookie {name}"),
        };
        self.add("sticky", finding);
    }

    fn add(&mut self, name: &'static str, finding: String) {
        self.0.push((name, finding));
    }
}

impl Watch for Findings {
    fn passed(&mut self, check: Check, finding: fmt::Arguments<'_>) {
        self.add(check.label(), finding.to_string());
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, finding) in &self.findings {
            writeln!(f, "{name:<12} {finding}")?;
        }
        match &self.verdict {
            Verdict::Upstream(name) => writeln!(f, "\nwould be opened to upstream {name}"),
            Verdict::Plain(name) => writeln!(f, "\nwould be passed as plain HTTP to upstream {name}"),
            Verdict::Page => writeln!(f, "\nwould be answered with the page"),
            Verdict::Redirect(location, status) => writeln!(f, "\nwould be sent to {location} with {status}"),
            Verdict::File(file) => {
                let file = file.display();
                writeln!(f, "\nwould be answered with the file {file}, or its index.html, if that is there")
            }
            Verdict::Respond(status) => writeln!(f, "\nwould be answered with {status}"),
            Verdict::Closed(why) => writeln!(f, "\nwould be closed without an answer: {why}"),
            Verdict::Refused(check, refusal) => {
                writeln!(f, "{:<12} refused: {refusal}", check.label())?;
                let status = refusal.status();
                write!(f, "\nwould be refused with {status} ({})", refusal.label())?;
                match refusal.close_code() {
                    Some(code) => writeln!(f, "; Close {code} where the route has refuse = \"close\""),
                    None => writeln!(f),
                }
            }
        }
    }
}
