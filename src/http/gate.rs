//! The walk of one request: who may come in, and to which upstream. Reads like a table of contents.
//!
//! In: a request head. Out: the answer, and for a 101 what the relay needs. Nothing is dialled for a request that fails
//! an earlier check, and no byte of the client's reaches an upstream before that upstream agreed.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_TYPE, HOST, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, SET_COOKIE,
    UPGRADE,
};
use http::{Request, Response, StatusCode, Uri, Version, request};
use http_body_util::{Either, Empty, Full};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::held::End;
use super::marks::Marks;
use super::{files, fixed, pass, spelling};
use crate::config::model::{Keys, Refuse, Route, Server};
use crate::drain::Drain;
use crate::limits::terms::Account;
use crate::limits::{Asking, Pending, Permit, Permits, Place};
use crate::live::{Door, Live};
use crate::observe::log::{self, Refused};
use crate::policy::client::{self, Client, ClientKey, Peer};
use crate::policy::decide::{Decision, Denied, Offered, Plan, Visitor, decide};
use crate::policy::keys;
use crate::policy::route;
use crate::proto::fields::{self, Passed};
use crate::proto::refusal::Refusal;
use crate::proto::trace::Trace;
use crate::proto::{handshake, plain};
use crate::relay::registry::{About, Entry};
use crate::relay::session::Opened;
use crate::relay::{Session, Stream, farewell};
use crate::upstream::body::Answer as Answered;
use crate::upstream::dial::Answer;
use crate::upstream::{Chosen, tries};

/// The body of an answer: ours, or as it comes: the upstream's to a handshake that it refused, a file, the upstream's to
/// plain HTTP.
pub type Body = Either<Full<Bytes>, Either<Either<Incoming, files::Body>, Answered>>;

/// The connection that a request came on.
pub struct Arrival {
    pub peer: Peer,
    /// Whether it came over TLS.
    pub secure: bool,
    /// As it was when the connection came.
    pub door: Arc<Door>,
    /// Until a handshake was agreed on.
    pub pending: Mutex<Option<Pending>>,
    /// What becomes of the end of what the client sends.
    pub end: Arc<End>,
}

impl Arrival {
    fn has_agreed(&self) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// What goes on after a 101 of ours.
pub enum Handover {
    Session(Box<Agreed>),
    /// The refusal that a browser can read (`refuse = "close"`).
    Close {
        code: u16,
        reason: String,
    },
}

/// A WebSocket on which both sides said 101.
pub struct Agreed {
    upstream: Opened<Stream>,
    deflate: bool,
    account: Account,
    permits: Permits,
    /// With the server.
    server_permit: Permit,
    entry: Entry,
}

impl Handover {
    /// Runs what was agreed on, to its end, in a task of its own. The connection keeps its place for as long.
    pub fn spawn(self, client: Opened<Stream>, place: Place, drain: &Drain) {
        match self {
            Handover::Session(agreed) => drain.spawn(agreed.run(client, place)),
            Handover::Close { code, reason } => drain.spawn(async move {
                farewell::close(client, code, &reason).await;
                drop(place);
            }),
        }
    }
}

impl Agreed {
    /// Not an `async fn`: what goes into the session is not to be kept beside it for as long as it lives.
    fn run(self, client: Opened<Stream>, place: Place) -> impl Future<Output = ()> {
        let Agreed { upstream, deflate, account, permits, server_permit, entry } = self;
        let mut session = Session::new(client, upstream, account, deflate, entry);
        async move {
            log::session_opened(session.living());
            let end = session.run().await;
            log::session_ended(session.living(), &end);
            session.metrics().ended(&session.living().about.way.route, &end);
            drop((permits, server_permit, place));
        }
    }
}

/// Why a request got no further, and what is known for the log.
pub(super) struct Refusing {
    refusal: Refusal,
    /// The upstream's own answer, where the refusal is its.
    answer: Option<Response<Incoming>>,
    upstream: Option<String>,
    detail: Option<String>,
}

impl Refusing {
    pub(super) fn upstream(refusal: Refusal, server: &str, detail: Option<String>) -> Self {
        Refusing { upstream: Some(server.to_owned()), detail, ..refusal.into() }
    }

    pub(super) fn detailed(refusal: Refusal, detail: String) -> Self {
        Refusing { detail: Some(detail), ..refusal.into() }
    }
}

impl From<Refusal> for Refusing {
    fn from(refusal: Refusal) -> Self {
        Refusing { refusal, answer: None, upstream: None, detail: None }
    }
}

/// Answers one request.
pub async fn walk(request: Request<Incoming>, arrival: &Arrival, live: &Live) -> (Response<Body>, Option<Handover>) {
    let began = Instant::now();
    let (mut parts, body) = request.into_parts();
    let door = live.latest(&arrival.door);
    let listener = door.listener.clone();
    let visitor = &Visitor { peer: arrival.peer.under(&listener.trusted_proxies), secure: arrival.secure, listener };
    let client = client::identify(visitor.peer, &visitor.listener.trusted_proxies, &parts.headers);
    let upgrade = handshake::tries_upgrade(&parts);
    let marks = Marks::of(&parts, client.trusted_peer, &live.config.log);
    let mut seen = Seen::of(&parts, upgrade.then_some(began));
    let keys = |keys: &Keys| live.keyrings.current(keys);
    let decision = decide(&mut parts, visitor, client, &live.config.routes, keys, &mut ());
    let route = decision.as_ref().map_or_else(|denied| denied.route, |decision| Some(decision.route()));
    let given = |route: &Route, mut answer: Response<Bytes>| {
        if let Some(record) = marks.record(route, &client, &parts) {
            answer.extensions_mut().insert(record);
        }
        (answer.map(|body| Either::Left(Full::new(body))), None)
    };
    let (mut response, handover) = match decision {
        Err(Denied { refusal, route, key, .. }) => {
            let refusal = counted(refusal, route, &client, live);
            refuse(refusal.into(), route, key.as_deref(), &client, &seen, &marks, live)
        }
        Ok(Decision::Page(route, page)) => given(route, super::page::answer(page, &parts)),
        Ok(Decision::Redirect(route, location, status)) => given(route, fixed::redirect(location, status)),
        Ok(Decision::Respond(route, respond)) => given(route, fixed::respond(respond)),
        Ok(Decision::File(route, folder, below)) => {
            arrival.has_agreed();
            let record = marks.record(route, &client, &parts);
            let (answer, record) =
                log::unless_left(record, Box::pin(files::answer(folder, route, &below, &parts))).await;
            match answer {
                Ok(mut response) => {
                    if let Some(record) = record {
                        response.extensions_mut().insert(record);
                    }
                    (response.map(|body| Either::Right(Either::Left(Either::Right(body)))), None)
                }
                Err(refusing) => refuse(refusing, Some(route), None, &client, &seen, &marks, live),
            }
        }
        Ok(Decision::Plain(passage)) => {
            arrival.has_agreed();
            arrival.end.hold(false);
            match pass::pass(parts, body, &passage, visitor, &marks, live).await {
                Ok(response) => (response.map(|body| Either::Right(Either::Right(body))), None),
                Err(refusing) => refuse(refusing, Some(passage.route), None, &client, &seen, &marks, live),
            }
        }
        // Boxed: the room that dialling takes would be moved with every plain request, too.
        Ok(Decision::Session(plan)) => match Box::pin(websocket(parts, &plan, visitor, arrival, &marks, live)).await {
            Ok((response, agreed)) => {
                live.metrics().opened(&plan.route.name, began.elapsed());
                (response, Some(Handover::Session(Box::new(agreed))))
            }
            Err(refusing) => {
                seen.key = plan.key.as_ref().map(|key| key.name.clone());
                refuse(refusing, Some(plan.route), Some(&plan.offer.key), &client, &seen, &marks, live)
            }
        },
    };
    marks.trace.answer(response.headers_mut());
    if let Some(route) = route {
        route.response_headers.apply(response.headers_mut());
    }
    // Whatever stands behind a refused upgrade is not read as a request: that is how smuggling begins.
    if (upgrade || live.drain.has_begun()) && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().append(CONNECTION, HeaderValue::from_static("close"));
    }
    (response, handover)
}

/// A guess at an API key counts as a handshake, so that keys cannot be tried faster than sessions be opened.
fn counted(refusal: Refusal, route: Option<&Arc<Route>>, client: &Client, live: &Live) -> Refusal {
    let guessed = matches!(refusal, Refusal::ApiKeyMissing { .. } | Refusal::ApiKeyUnknown { .. });
    match route.filter(|_| guessed) {
        Some(route) => {
            let entry = live.limits.route(&route.name);
            live.limits.handshake(&[address_key(client, live)], entry).err().unwrap_or(refusal)
        }
        None => refusal,
    }
}

/// The key of what a client cannot choose.
fn address_key(client: &Client, live: &Live) -> ClientKey {
    ClientKey::of(client.address, live.config.limits.ipv6_prefix)
}

/// Does what was planned: permits, dial, answer.
async fn websocket(
    parts: request::Parts,
    plan: &Plan<'_>,
    visitor: &Visitor,
    arrival: &Arrival,
    marks: &Marks,
    live: &Live,
) -> Result<(Response<Body>, Agreed), Refusing> {
    if live.drain.has_begun() {
        return Err(Refusal::Draining.into());
    }
    if !live.drain.sessions().has_room() {
        return Err(Refusal::HeldBytes.into());
    }
    let keys = plan.client.keys(&plan.route.client, &parts, live.config.limits.ipv6_prefix, &live.identities);
    let limits = live.limits.route(&plan.route.name);
    let permits = live.limits.enter(&Asking {
        keys: keys.as_slice(),
        listener: &live.latest(&arrival.door).entry,
        route: limits,
    })?;
    arrival.has_agreed();
    arrival.end.hold(false);
    let offered = plan.offered(&mut ())?;
    let pool = live.pool(&plan.upstream.name);
    let wish = pool.wish(&parts, &plan.client, live.config.limits.ipv6_prefix, &plan.hop(visitor));
    let request = upstream_request(parts, plan, visitor, &offered, &marks.trace);
    let uri = request.uri().clone();
    let (chosen, answer) =
        tries::dial(pool, wish, request, |server| target(plan.route, server, &uri), live.metrics()).await?;
    let Chosen { member, permit: server_permit } = chosen;
    let server = &member.server;
    let refused = |refusal, detail| Refusing::upstream(refusal, &server.text, detail);
    let (mut parts, opened) = match answer {
        Ok(Answer::Switched { parts, opened }) => (parts, opened),
        Ok(Answer::Refused(mut response)) => {
            plain::check_framing(response.headers_mut())
                .map_err(|bad| refused(Refusal::UpstreamBadAnswer, Some(bad.to_string())))?;
            let refusal = Refusal::UpstreamRefused(response.status());
            return Err(Refusing { answer: Some(response), ..refused(refusal, None) });
        }
        Err(error) => return Err(refused(error.refusal(), Some(log::chain(&error)))),
    };
    let agreement = handshake::check_answer(&parts, &plan.offer.key, &offered.subprotocols, &offered.deflate)
        .map_err(|bad| refused(Refusal::UpstreamBadAnswer, Some(bad.to_string())))?;
    fields::answer_headers(&mut parts.headers);
    if let (None, Some(fallback)) = (&agreement.subprotocol, plan.fallback) {
        parts.headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(fallback));
    }
    if let Some(cookie) = pool.set_cookie(&wish, &member) {
        parts.headers.append(SET_COOKIE, cookie);
    }
    let sessions = live.drain.sessions();
    let listener = visitor.listener.address.to_string();
    let about = About {
        way: sessions.way(&listener, &plan.route.name, &plan.upstream.name, &server.text),
        member: member.id(),
        client: plan.client.address,
        secure: visitor.secure,
        key: plan.key.clone(),
        trace: marks.trace.clone(),
        leaves: marks.leaves,
    };
    let entry = sessions.enter(about);
    // Looked at behind the entry: who removes a route tells those that he finds there, and this one sees it here.
    if limits.standing().is_removed() {
        return Err(Refusal::NoRoute.into());
    }
    let account = Account::new(limits.standing().clone(), keys);
    // Read when it is on the list: whoever ends the sessions of a server finds this one, or is seen here.
    if let Some(cause) = pool.ends(&member) {
        entry.living().end(cause);
    }
    let deflate = agreement.deflate;
    let agreed = Agreed { upstream: opened, deflate, account, permits, server_permit, entry };
    // The extensions of the upstream's head carry the spelling of its field names to the client.
    Ok((Response::from_parts(parts, Either::Left(Full::default())), agreed))
}

/// The request to the upstream: the client's, with our fields.
fn upstream_request(
    mut parts: request::Parts,
    plan: &Plan<'_>,
    visitor: &Visitor,
    offered: &Offered,
    trace: &Trace,
) -> Request<Empty<Bytes>> {
    let host = plan.route.host_header.as_deref();
    let passed = Passed { host, subprotocols: &offered.subprotocols, deflate: &offered.deflate };
    fields::upstream_headers(&mut parts.headers, &plan.hop(visitor), &passed);
    trace.pass(&mut parts.headers);
    plan.route.request_headers.apply(&mut parts.headers);
    Request::from_parts(parts, Empty::new())
}

/// What a server is asked for: the client's target as the route rewrites it, below the server's own path.
///
/// # Errors
/// When both together are longer than a target may be.
pub(super) fn target(route: &Route, server: &Server, uri: &Uri) -> Result<Uri, Refusal> {
    route::target(route, &server.base, uri).parse().map_err(|_| Refusal::TargetTooLong)
}

/// Tells the client why not, in the way of the route, and the log.
fn refuse(
    refusing: Refusing,
    route: Option<&Arc<Route>>,
    key: Option<&str>,
    client: &Client,
    seen: &Seen,
    marks: &Marks,
    live: &Live,
) -> (Response<Body>, Option<Handover>) {
    let Refusing { refusal, answer, upstream, detail } = refusing;
    log::refused(&Refused {
        reason: refusal.label(),
        status: refusal.status().as_u16(),
        client: Some(client.address),
        host: seen.host.as_deref(),
        path: Some(&seen.path),
        origin: seen.origin.as_deref(),
        route: route.map(|route| route.name.as_str()),
        upstream: upstream.as_deref(),
        key: seen.key.as_deref(),
        detail,
        trace: Some(&marks.trace),
    });
    let took = seen.began.map(|began| began.elapsed());
    live.metrics().refused(route.map(|route| route.name.as_str()), &refusal, took);
    let aloud = route.is_some_and(|route| route.refuse == Refuse::Close);
    if let (true, Some(key), Some(code)) = (aloud, key, refusal.close_code())
        && live.limits.may_close(address_key(client, live))
    {
        let handover = Handover::Close { code, reason: refusal.close_text() };
        return (switching(key, seen.subprotocol.as_deref()), Some(handover));
    }
    let response = match answer {
        Some(answer) => {
            let (mut parts, body) = answer.into_parts();
            fields::refusal_headers(parts.status, &mut parts.headers);
            parts.version = Version::HTTP_11;
            Response::from_parts(parts, Either::Right(Either::Left(Either::Left(body))))
        }
        None => ours(&refusal, seen.problem),
    };
    (response, None)
}

/// Our own refusal over HTTP.
fn ours(refusal: &Refusal, problem: bool) -> Response<Body> {
    let (kind, text) = match problem {
        true => ("application/problem+json", problem_details(refusal)),
        false => ("text/plain; charset=utf-8", format!("{refusal}\n")),
    };
    let mut response = Response::new(Either::Left(Full::new(Bytes::from(text))));
    *response.status_mut() = refusal.status();
    *response.extensions_mut() = spelling::rfc();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    for (name, value) in refusal.headers() {
        headers.append(name, value);
    }
    response
}

/// RFC 9457. `reason` is the log's.
fn problem_details(refusal: &Refusal) -> String {
    let status = refusal.status();
    let details = serde_json::json!({
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "detail": refusal.to_string(),
        "reason": refusal.label(),
    });
    format!("{details}\n")
}

/// Our own 101, before a Close that says why not. Browsers that offered subprotocols would not read it where none was
/// chosen.
fn switching(key: &str, subprotocol: Option<&str>) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::default()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.extensions_mut() = spelling::rfc();
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let accept = HeaderValue::try_from(handshake::accept(key)).expect("base64 is a valid value");
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(name) = subprotocol.and_then(|name| HeaderValue::from_str(name).ok()) {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, name);
    }
    response
}

/// What the log tells of a request that is refused.
struct Seen {
    host: Option<String>,
    path: String,
    origin: Option<Vec<u8>>,
    /// The first subprotocol offered that holds no key.
    subprotocol: Option<String>,
    /// The name of its API key, once that was found.
    key: Option<Arc<str>>,
    /// A refusal is wanted in JSON.
    problem: bool,
    /// When it came, where it is a handshake.
    began: Option<Instant>,
}

impl Seen {
    fn of(parts: &request::Parts, began: Option<Instant>) -> Seen {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        Seen {
            host: parts.headers.get(HOST).map(text),
            path: parts.uri.path().to_owned(),
            origin: parts.headers.get(ORIGIN).map(|origin| origin.as_bytes().to_vec()),
            subprotocol: handshake::subprotocols(&parts.headers)
                .into_iter()
                .flatten()
                .find(|name| !keys::holds_key(name)),
            key: None,
            problem: plain::wants_problem(&parts.headers),
            began,
        }
    }
}
