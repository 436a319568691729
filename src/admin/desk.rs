//! What is asked, answered. Here the interface meets what runs; nothing here knows of connections.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderMap, StatusCode};
use serde::Deserializer as _;
use serde::de::{Error as _, MapAccess, Visitor};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::answer::{Answer, Problem};
use super::query::Query;
use super::sessions::{List, Session};
use super::table::Call;
use crate::config::diff::describe;
use crate::gateway::{Gateway, ReloadError};
use crate::live::Live;
use crate::observe::log::{self, chain};
use crate::observe::metrics::{CertificateNow, Format, Now, OpenSessions, ServerNow, TrafficNow};
use crate::observe::process::unix_seconds;
use crate::relay::Cause;
use crate::relay::registry::{Clients, Page, Selector};
use crate::upstream::member::State;

/// Sessions of one page.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1000;
/// Sessions that are written in one go: some 50 µs of work.
const BATCH: usize = 64;

/// What a request brings.
#[derive(Debug)]
pub struct Ask {
    /// Of its path, in their order.
    pub variables: Vec<String>,
    pub query: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What answers.
#[derive(Debug)]
pub struct Desk {
    gateway: Weak<Gateway>,
    /// Where the gateway runs, which is not where this answers.
    relay: Handle,
    /// The file of the configuration; `None` where it is built in.
    file: Option<PathBuf>,
    began: SystemTime,
}

/// What one request is answered from.
struct View {
    gateway: Arc<Gateway>,
    /// The configuration in service when it came.
    live: Arc<Live>,
    desk: Arc<Desk>,
}

impl Desk {
    /// To be called where the gateway runs.
    pub fn new(gateway: Weak<Gateway>, file: Option<PathBuf>) -> Self {
        Desk { gateway, relay: Handle::current(), file, began: SystemTime::now() }
    }

    /// # Errors
    /// When what is asked cannot be answered.
    pub async fn answer(self: Arc<Self>, call: Call, ask: Ask) -> Result<Answer, Problem> {
        let gone = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopped", "the gateway has stopped");
        let gateway = self.gateway.upgrade().ok_or_else(gone)?;
        let view = View { live: gateway.current(), gateway, desk: self };
        let failed = |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", "the gateway's log says why");
        // In a task of its own, so that a panic is answered.
        tokio::spawn(async move { view.look(call, &ask).await }).await.map_err(failed)?
    }
}

impl View {
    async fn look(&self, call: Call, ask: &Ask) -> Result<Answer, Problem> {
        // Probes may ask in whatever way they like.
        let query = if call.is_open() { Query::default() } else { Query::read(&ask.query)? };
        if !call.has_parameters() {
            query.finish()?;
        }
        if !call.has_body() && !ask.body.is_empty() {
            return Err(Problem::bad("nothing here reads a body: put filters into the query"));
        }
        match call {
            Call::Health => Ok(Answer::json(&json!({ "status": "ok" }))),
            Call::Ready => Ok(self.ready()),
            Call::Metrics => Ok(self.metrics(&ask.headers)),
            Call::Status => Ok(Answer::json(&self.status())),
            Call::Sessions => self.sessions(query).await,
            Call::CloseSessions => self.close_sessions(query),
            Call::Session => self.session(id(&ask.variables)?),
            Call::CloseSession => self.close_session(id(&ask.variables)?, query),
            Call::Drain => self.drain(&ask.body),
            Call::Reload => self.reload().await,
            Call::Upstreams => Ok(Answer::json(&self.upstreams())),
            Call::SetServer => self.set_server(&ask.variables, &ask.body),
            Call::Config => Ok(Answer::json(&self.live.config.shown)),
        }
    }

    fn ready(&self) -> Answer {
        match self.live.drain.ready() {
            true => Answer::json(&json!({ "ready": true })),
            false => {
                Answer::json(&json!({ "ready": false, "reason": "draining" })).with(StatusCode::SERVICE_UNAVAILABLE)
            }
        }
    }

    fn status(&self) -> Value {
        let (taken, last) = (self.live.taken(), self.gateway.reloads().last());
        let now = SystemTime::now();
        let since = |then: SystemTime| now.duration_since(then).unwrap_or_default().as_secs_f64();
        let certificates = self.certificates().into_iter().map(|certificate| {
            let left = certificate.expires - unix_seconds(now);
            json!({ "at": certificate.at, "file": certificate.file, "expires_in_seconds": left })
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": since(self.desk.began),
            "ready": self.live.drain.ready(),
            "sessions": self.live.drain.sessions().len(),
            "connections": taken.connections,
            "held_bytes": self.live.drain.sessions().held_bytes(),
            "config": {
                "file": self.desk.file.as_ref().map(|file| file.display().to_string()),
                "loaded_seconds_ago": since(last.loaded),
                "reloads": self.gateway.reloads().good(),
                "reloads_failed": self.gateway.reloads().failed(),
                "last_reload_error": last.error,
            },
            "certificates": certificates.collect::<Vec<_>>(),
        })
    }

    async fn reload(&self) -> Result<Answer, Problem> {
        let gateway = self.gateway.clone();
        // What a reload opens belongs to the threads that relay.
        let reloaded = self.desk.relay.spawn(async move { gateway.reload().await }).await;
        let reloaded = reloaded.unwrap_or(Err(ReloadError::Panicked)).map_err(|error| {
            let (status, reason) = match &error {
                ReloadError::BuiltIn | ReloadError::Stopping => (StatusCode::CONFLICT, "not_now"),
                ReloadError::Problems(_) | ReloadError::Build(_) => (StatusCode::UNPROCESSABLE_ENTITY, "not_reloaded"),
                ReloadError::Panicked => (StatusCode::INTERNAL_SERVER_ERROR, "failed"),
            };
            Problem::new(status, reason, chain(&error))
        })?;
        let changes = describe(&reloaded.diff, &reloaded.restart);
        let changes: Vec<&str> = changes.lines().filter(|_| !reloaded.is_empty()).collect();
        let warnings: Vec<String> = reloaded.warnings.iter().map(|warning| warning.line()).collect();
        Ok(Answer::json(&json!({
            "changes": changes,
            "certificates": reloaded.certificates,
            "warnings": warnings,
        })))
    }

    // Sessions.

    async fn sessions(&self, mut query: Query) -> Result<Answer, Problem> {
        let limit = query.parsed("limit", "a number from 1 to 1000")?.unwrap_or(PAGE);
        let after = query.parsed("after", "the id of a session")?.unwrap_or_default();
        let selector = selector(&mut query)?;
        query.finish()?;
        if !(1..=PAGE_MAX).contains(&limit) {
            return Err(Problem::bad(format!("limit={limit}: a number from 1 to {PAGE_MAX} is wanted")));
        }
        let registry = self.live.drain.sessions();
        let page = registry.page(&selector, Page { after, limit });
        let mut list = List::begin(page.total, page.next);
        for batch in page.ids.chunks(BATCH) {
            batch.iter().filter_map(|id| registry.info(*id)).for_each(|info| list.push(&Session::of(&info)));
            list.end_part();
            // Whoever waits for this processor, and for this thread, goes first.
            std::thread::yield_now();
            tokio::task::yield_now().await;
        }
        Ok(Answer::parts(list.end()))
    }

    fn session(&self, id: u64) -> Result<Answer, Problem> {
        let info = self.live.drain.sessions().info(id).ok_or_else(|| no_session(id))?;
        Ok(Answer::json(&Session::of(&info)))
    }

    fn close_sessions(&self, mut query: Query) -> Result<Answer, Problem> {
        let (all, dry_run, cause) = (query.flag("all")?, query.flag("dry_run")?, cause(&mut query)?);
        let selector = selector(&mut query)?;
        query.finish()?;
        if !all && selector == Selector::default() {
            return Err(Problem::bad("this would close every session: add a filter, or all=true if that is meant"));
        }
        self.all_known(&selector)?;
        let registry = self.live.drain.sessions();
        let selected = if dry_run { registry.find(&selector).len() } else { registry.end_where(&selector, cause) };
        Ok(Answer::json(&json!({ "selected": selected, "dry_run": dry_run })))
    }

    fn close_session(&self, id: u64, mut query: Query) -> Result<Answer, Problem> {
        let cause = cause(&mut query)?;
        query.finish()?;
        let one = Selector { id: Some(id), ..Selector::default() };
        let living = self.live.drain.sessions().find(&one).into_iter().next().ok_or_else(|| no_session(id))?;
        living.end(cause);
        Ok(Answer::json(&json!({ "selected": 1, "dry_run": false })))
    }

    /// Goes on when this is answered.
    fn drain(&self, body: &[u8]) -> Result<Answer, Problem> {
        let selector = drained(body)?;
        selector.as_ref().map_or(Ok(()), |selector| self.all_known(selector))?;
        let (drain, rules) = (self.live.drain.clone(), self.live.config.drain.clone());
        let sessions = drain.sessions().find(selector.as_ref().unwrap_or(&Selector::default())).len();
        let answer = json!({ "sessions": sessions, "window_seconds": rules.window.as_secs_f64() });
        self.desk.relay.spawn(async move {
            let cut = match selector {
                None => drain.empty(&rules).await,
                Some(selector) => drain.close(&selector, Cause::Drain, &rules).await,
            };
            tracing::info!(sessions, cut, "drained, as [admin] was asked to");
        });
        Ok(Answer::json(&answer).with(StatusCode::ACCEPTED))
    }

    /// Refuses a name that neither the configuration nor an open session has: who misspells it must not believe that
    /// there was nothing to close.
    fn all_known(&self, selector: &Selector) -> Result<(), Problem> {
        let Selector { route, upstream, server, listener, .. } = selector.clone();
        let config = &self.live.config;
        let routes = config.routes.iter().map(|route| route.name.clone());
        let upstreams = config.upstreams.keys().cloned();
        let servers =
            config.upstreams.values().flat_map(|upstream| &upstream.servers).map(|server| server.text.clone());
        let listeners = config.listeners.iter().map(|listener| listener.address.to_string());
        let is_open = |alone: Selector| !self.live.drain.sessions().find(&alone).is_empty();
        let none = Selector::default;
        is_known("route", &route, routes, || is_open(Selector { route: route.clone(), ..none() }))?;
        is_known("upstream", &upstream, upstreams, || is_open(Selector { upstream: upstream.clone(), ..none() }))?;
        is_known("server", &server, servers, || is_open(Selector { server: server.clone(), ..none() }))?;
        is_known("listener", &listener, listeners, || is_open(Selector { listener: listener.clone(), ..none() }))
    }

    // Upstreams.

    fn upstreams(&self) -> Value {
        let now = SystemTime::now();
        let upstreams = self.live.config.upstreams.values().map(|upstream| {
            let servers = self.live.pool(&upstream.name).servers();
            let servers = servers.iter().map(|server| {
                let number = upstream.servers.iter().position(|known| known.text == server.server);
                json!({
                    "number": number.map(|index| index + 1),
                    "server": server.server,
                    "address": server.address.map(|address| address.to_string()),
                    "weight": server.weight,
                    "backup": server.backup,
                    "condition": server.condition.label(),
                    "state": server.by_hand.label(),
                    "failure": server.failure,
                    "since_seconds": now.duration_since(server.since).unwrap_or_default().as_secs_f64(),
                    "sessions": server.sessions,
                    "requests": server.requests,
                })
            });
            json!({ "name": upstream.name, "servers": servers.collect::<Vec<_>>() })
        });
        json!({ "upstreams": upstreams.collect::<Vec<_>>() })
    }

    fn set_server(&self, variables: &[String], body: &[u8]) -> Result<Answer, Problem> {
        let wanted = "a body is wanted: {\"state\": \"up\"}, or drain, or down";
        let state = match fields(body, wanted)?.as_slice() {
            [(name, Value::String(state))] if name == "state" => match state.as_str() {
                "up" => State::Up,
                "drain" => State::Drain,
                "down" => State::Down,
                _ => return Err(Problem::bad(wanted)),
            },
            _ => return Err(Problem::bad(wanted)),
        };
        let [name, number] = variables else { return Err(Problem::not_found("no such server")) };
        let upstream = self.live.config.upstreams.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.live.config.upstreams.keys().map(String::as_str).collect();
            Problem::not_found(format!("no upstream {name:?} (known: {})", known.join(", ")))
        })?;
        let count = upstream.servers.len();
        let server = number.parse().ok().and_then(|number: usize| upstream.servers.get(number.checked_sub(1)?));
        let server =
            server.ok_or_else(|| Problem::not_found(format!("servers of {name} have numbers from 1 to {count}")))?;
        self.live.pool(name).set_state(&server.text, None, state);
        Ok(Answer::json(&json!({ "server": server.text, "state": state.label() })))
    }

    // Metrics.

    fn metrics(&self, headers: &HeaderMap) -> Answer {
        let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
        let format = Format::wanted(accept.unwrap_or_default());
        Answer::text(format.content_type(), self.live.metrics().expose(self.now(), format))
    }

    fn now(&self) -> Now {
        let taken = self.live.taken();
        let reloads = self.gateway.reloads();
        let last = reloads.last();
        let mut sessions: BTreeMap<_, usize> = BTreeMap::new();
        let mut traffic: BTreeMap<String, TrafficNow> = BTreeMap::new();
        for (way, total) in self.live.drain.sessions().traffic() {
            let [route, upstream, server] = [&way.route, &way.upstream, &way.server].map(|name| name.to_string());
            // Nobody is open on what is left of forgotten ways.
            if !way.is_rest() {
                *sessions.entry((route.clone(), upstream, server)).or_default() += total.open;
            }
            let of_route = || TrafficNow { route: route.clone(), flow: Default::default() };
            traffic.entry(route.clone()).or_insert_with(of_route).flow.add(total.flow);
        }
        let open = |((route, upstream, server), open)| OpenSessions { route, upstream, server, open };
        Now {
            version: env!("CARGO_PKG_VERSION"),
            sessions: sessions.into_iter().map(open).collect(),
            traffic: traffic.into_values().collect(),
            connections: taken.connections,
            connections_pending: taken.pending,
            held_bytes: self.live.drain.sessions().held_bytes(),
            client_entries: [
                ("sessions", taken.clients),
                ("rates", self.live.limits.remembered()),
                ("sticky", self.live.pools().map(|pool| pool.sticky_sessions()).sum()),
            ],
            draining: !self.live.drain.ready(),
            servers: self.servers(),
            reloads: [reloads.good(), reloads.failed()],
            config_loaded: unix_seconds(last.loaded),
            config_ok: last.error.is_none(),
            certificates: self.certificates(),
            log_lines_lost: log::lost(),
        }
    }

    fn servers(&self) -> Vec<ServerNow> {
        let mut states: BTreeMap<(String, String, &'static str), usize> = BTreeMap::new();
        for name in self.live.config.upstreams.keys() {
            for server in self.live.pool(name).servers() {
                *states.entry((name.clone(), server.server, server.condition.label())).or_default() += 1;
            }
        }
        let now = |((upstream, server, state), addresses)| ServerNow { upstream, server, state, addresses };
        states.into_iter().map(now).collect()
    }

    fn certificates(&self) -> Vec<CertificateNow> {
        let mut found: BTreeMap<(String, String), f64> = BTreeMap::new();
        for certificate in self.live.certificates() {
            let expires = certificate.not_after.unix_timestamp() as f64;
            found.insert((certificate.at.to_string(), certificate.file.display().to_string()), expires);
        }
        found.into_iter().map(|((at, file), expires)| CertificateNow { at, file, expires }).collect()
    }
}

fn id(variables: &[String]) -> Result<u64, Problem> {
    let id = variables.first().map(String::as_str).unwrap_or_default();
    id.parse().map_err(|_| Problem::bad(format!("{id:?} is no id of a session: they are numbers")))
}

fn no_session(id: u64) -> Problem {
    Problem::not_found(format!("no session {id} is open"))
}

fn is_known(
    what: &str,
    asked: &Option<String>,
    names: impl Iterator<Item = String>,
    is_open: impl FnOnce() -> bool,
) -> Result<(), Problem> {
    let Some(asked) = asked else { return Ok(()) };
    let names: BTreeSet<String> = names.collect();
    if names.contains(asked) || is_open() {
        return Ok(());
    }
    let known = Vec::from_iter(names).join(", ");
    Err(Problem::not_found(format!("no {what} {asked:?} (known: {known})")))
}

/// The fields of an object. Of two with one name most readers take the last, some the first: it is refused.
fn fields(body: &[u8], wanted: &'static str) -> Result<Vec<(String, Value)>, Problem> {
    struct Fields;

    impl<'de> Visitor<'de> for Fields {
        type Value = Vec<(String, Value)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut fields: Self::Value = Vec::new();
            while let Some((name, value)) = map.next_entry::<String, Value>()? {
                if fields.iter().any(|(known, _)| *known == name) {
                    return Err(A::Error::custom(format!("`{name}` stands twice")));
                }
                fields.push((name, value));
            }
            Ok(fields)
        }
    }

    let mut reader = serde_json::Deserializer::from_slice(body);
    let fields = reader.deserialize_map(Fields).and_then(|fields| reader.end().map(|()| fields));
    fields.map_err(|error| Problem::bad(format!("{wanted} ({error})")))
}

/// What is to be drained: `None` is the whole gateway.
fn drained(body: &[u8]) -> Result<Option<Selector>, Problem> {
    let wanted = "a body is wanted: {\"all\": true}, or some of route, upstream, server and client, as strings";
    let fields = fields(body, wanted)?;
    match fields.as_slice() {
        [] => return Err(Problem::bad(wanted)),
        [(name, Value::Bool(true))] if name == "all" => return Ok(None),
        _ => {}
    }
    let mut selector = Selector::default();
    for (name, value) in fields {
        let text = value.as_str().ok_or_else(|| Problem::bad(wanted))?.to_owned();
        match name.as_str() {
            "route" => selector.route = Some(text),
            "upstream" => selector.upstream = Some(text),
            "server" => selector.server = Some(text),
            "client" => {
                let clients = text.parse::<Clients>();
                selector.client = Some(clients.map_err(|error| Problem::bad(format!("client {text:?}: {error}")))?);
            }
            _ => return Err(Problem::bad(wanted)),
        }
    }
    Ok(Some(selector))
}

/// The filters of a query: each that is there must fit.
fn selector(query: &mut Query) -> Result<Selector, Problem> {
    Ok(Selector {
        id: None,
        route: query.take("route"),
        upstream: query.take("upstream"),
        server: query.take("server"),
        member: None,
        listener: query.take("listener"),
        client: query.parsed::<Clients>("client", "an address, a network such as 10.0.0.0/8, or local")?,
        key: query.take("key"),
        older_than: query.duration("older_than")?,
        messages_above: query.rate("messages_above", "messages in a second")?,
        bytes_above: query.rate("bytes_above", "bytes in a second")?,
    })
}

/// What closed sessions are told: to come back elsewhere, unless they are not wanted.
fn cause(query: &mut Query) -> Result<Cause, Problem> {
    match query.take("cause").as_deref() {
        None | Some("drain") => Ok(Cause::Drain),
        Some("access_revoked") => Ok(Cause::AccessRevoked),
        Some(other) => Err(Problem::bad(format!("cause={other}: drain (1012) or access_revoked (1008) is wanted"))),
    }
}
