//! Tables become the model, and what fits in itself is checked against the rest.
//!
//! In: the tree of a file. Out: a [`Config`] that cannot be wrong, or every problem. Opens no file and no socket
//! itself: whether a certificate serves is asked of the caller's [`Inspect`].

mod access;
mod admin;
mod limits;
mod listener;
mod rates;
mod route;
mod target;
mod upstream;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use super::Inspect;
use super::effective::effective;
use super::model::{
    AccessLog, Admin, Backend, BackendKind, ClientBy, Config, Dns, Drain, Listener, ListenerAddress, Log, LogFormat,
    LogLevel, Position, Reload, Runtime, ServerAddress, TraceParent, Upstream,
};
use super::problem::{Problem, Problems, Source};
use super::read::{Findings, Reader};
use super::tree::{Node, Tree, Value};
use super::value::{self, Parsed, Wrong, boolean, number, one_of, string};
use admin::{admin, nobody_routes_there};
use limits::limits;
use listener::listener;
use route::{RouteRead, named, route, routes_differ};
use upstream::upstream;

/// The configuration and its warnings.
pub(super) fn check(source: &Source, inspect: &Inspect<'_>, tree: Tree) -> Result<(Config, Vec<Problem>), Problems> {
    let findings = Findings::new(source, inspect);
    let config = config(Reader::root(&findings, tree.root), source);
    let (problems, absences, warnings) = findings.into_parts();
    let broken_lines: Vec<usize> = tree.problems.iter().map(|problem| problem.at.line).collect();
    let meant = |problem: &Problem| {
        let line = problem.at.line;
        !broken_lines.contains(&line) && line < tree.trusted_before
    };
    let absences = absences.into_iter().filter(|_| !tree.incomplete);
    let problems = problems.into_iter().filter(meant).chain(absences).chain(tree.problems.iter().cloned());
    match (Problems::collect(problems), config) {
        (Some(problems), _) => Err(problems),
        (None, Some(config)) => Ok((config, warnings)),
        (None, None) => unreachable!("what cannot be read leaves a problem"),
    }
}

/// The first backend of a file, whatever else is in it.
pub(super) fn only_backend(source: &Source, tree: Tree) -> Option<BackendKind> {
    let findings = Findings::new(source, &|_| None);
    let mut root = Reader::root(&findings, tree.root);
    let read = root.tables("backend")?.into_iter().next().map(backend)?;
    read.value.map(|backend| backend.kind)
}

fn config(mut root: Reader<'_, '_>, source: &Source) -> Option<Config> {
    let runtime = root.table("runtime").and_then(runtime);
    let limits = root.table("limits").and_then(limits);
    let listeners = some_of(&mut root, "listener", |table| listener(table, source, limits.as_ref()));
    let backends = each(root.tables("backend"), backend);
    let upstreams: Upstreams = root
        .named("upstream")
        .into_iter()
        .map(|(name, at, table)| {
            let upstream = table.and_then(|table| upstream(&name, table, source, limits.as_ref()));
            (name, (at, upstream))
        })
        .collect();
    let routes = some_of(&mut root, "route", |table| route(table, &upstreams, source, limits.as_ref()));
    let dns = root.table("dns").and_then(dns);
    let log = root.table("log").and_then(|table| log(table, source));
    let drain = root.table("drain").and_then(drain);
    let reload = root.table("reload").and_then(reload);
    let admin_at = root.written("admin");
    let admin = root.table("admin").map(|table| admin(table, source));

    addresses_differ(&root, &listeners, &backends, admin.as_ref());
    routes_differ(&root, &routes);
    upstreams_are_used(&root, &upstreams, &routes);
    servers_are_not_ours(&root, &upstreams, &listeners);
    nobody_routes_there(&root, &upstreams, admin.as_ref());
    headers_have_a_sender(&root, &routes, &listeners);
    root.finish();

    Some(Config {
        runtime: runtime?,
        limits: limits?,
        listeners: values(listeners)?,
        routes: named(routes)?,
        upstreams: upstreams.into_iter().map(|(name, (_, upstream))| Some((name, upstream?))).collect::<Option<_>>()?,
        dns: dns?,
        backends: values(backends)?,
        log: log?,
        drain: drain?,
        reload: reload?,
        admin: if admin_at.is_some() { Some(admin?.value?) } else { None },
        shown: effective(source),
    })
}

// The small tables.

fn runtime(mut table: Reader<'_, '_>) -> Option<Runtime> {
    let workers = table.value("workers", |node| match &node.value {
        Value::Text(text) if text == "auto" => Ok(None),
        _ => number(1..=1024)(node)
            .map(|count| NonZeroUsize::new(count as usize))
            .map_err(|wrong| Wrong { help: wrong.help.or(Some("a number, or \"auto\"".to_owned())), ..wrong }),
    });
    table.finish();
    Some(Runtime { workers: workers? })
}

/// An upstream that is wrong in itself still has a name that routes may use.
type Upstreams = BTreeMap<String, (Position, Option<Arc<Upstream>>)>;

/// A listener or a backend: its address counts for the others even when something else in it is wrong.
struct Bound<T> {
    /// With its place and its key.
    address: Option<(ListenerAddress, Position)>,
    key: String,
    value: Option<T>,
}

fn values<T>(list: Vec<Bound<T>>) -> Option<Vec<T>> {
    list.into_iter().map(|bound| bound.value).collect()
}

fn backend(mut table: Reader<'_, '_>) -> Bound<Backend> {
    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        Echo,
        Clock,
        Chat,
    }
    let kind = table.value("kind", one_of(&[("echo", Kind::Echo), ("clock", Kind::Clock), ("chat", Kind::Chat)]));
    let listen = table.value("listen", |node| Ok((string(value::socket_address)(node)?, node.at)));
    let (interval_at, history_at) = (table.written("interval"), table.written("history"));
    let interval = table.value("interval", string(value::duration));
    let history = table.value("history", number(0..=10_000));
    for (key, at, owner) in [("interval", interval_at, Kind::Clock), ("history", history_at, Kind::Chat)] {
        if let (Some(kind), Some(at)) = (kind, at)
            && kind != owner
        {
            let owner = if owner == Kind::Clock { "clock" } else { "chat" };
            table.warn(at, key, Wrong::new(format!("has no effect: it is for kind = {owner:?}")));
        }
    }
    if let Some((address, at)) = listen
        && !address.ip().is_loopback()
    {
        let wrong = Wrong::new("an embedded server has no access rules of its own");
        table.warn(at, "listen", wrong.help("listen on 127.0.0.1 and reach it through a route"));
    }
    let key = table.path_of("listen");
    table.finish();
    let build = || {
        let (listen, listen_at) = listen?;
        let (interval, history) = (interval?, history? as usize);
        let kind = match kind? {
            Kind::Echo => BackendKind::Echo,
            Kind::Clock => BackendKind::Clock { interval },
            Kind::Chat => BackendKind::Chat { history },
        };
        Some(Backend { kind, listen, listen_at })
    };
    let address = listen.map(|(address, at)| (ListenerAddress::Tcp(address), at));
    Bound { address, key, value: build() }
}

fn dns(mut table: Reader<'_, '_>) -> Option<Dns> {
    let max_at = table.written("ttl_max");
    let servers = table.list("servers", string(value::name_server));
    let ttl_min = table.value("ttl_min", string(value::duration));
    let ttl_max = table.value("ttl_max", string(value::duration));
    if let (Some(at), Some(min), Some(max)) = (max_at, ttl_min, ttl_max)
        && max < min
    {
        table.wrong(at, "ttl_max", Wrong::new("less than `ttl_min`").help("write at least as much"));
    }
    table.finish();
    // Left out, it gives way to a longer `ttl_min`.
    Some(Dns { servers: all(servers?)?, ttl_min: ttl_min?, ttl_max: ttl_max?.max(ttl_min?) })
}

fn log(mut table: Reader<'_, '_>, source: &Source) -> Option<Log> {
    /// A line of the access log.
    #[derive(Clone, Copy, PartialEq)]
    enum Left {
        Requests,
        Opened,
        Ended,
    }
    let format = table.value("format", one_of(&[("human", LogFormat::Human), ("json", LogFormat::Json)]));
    let level = table.value(
        "level",
        one_of(&[
            ("error", LogLevel::Error),
            ("warn", LogLevel::Warn),
            ("info", LogLevel::Info),
            ("debug", LogLevel::Debug),
            ("trace", LogLevel::Trace),
        ]),
    );
    let file = table.value("file", file(source));
    let lines = one_of(&[("requests", Left::Requests), ("opened", Left::Opened), ("ended", Left::Ended)]);
    let access = table.list("access", lines);
    let sample = table.value("sample", number(0..=100));
    let progress = table.value("progress", value::or_off(string(value::duration)));
    let traceparent = table.value("traceparent", one_of(&[("begin", TraceParent::Begin), ("pass", TraceParent::Pass)]));
    table.finish();
    let access = all(access?)?;
    let leaves = |line| access.contains(&line);
    Some(Log {
        format: format?,
        level: level?,
        file: file.map(|(path, _)| path),
        access: AccessLog {
            requests: leaves(Left::Requests),
            opened: leaves(Left::Opened),
            ended: leaves(Left::Ended),
        },
        sample: sample? as u32,
        progress: progress?,
        traceparent: traceparent?,
    })
}

fn drain(mut table: Reader<'_, '_>) -> Option<Drain> {
    let delay = table.value("delay", string(value::duration_or_zero));
    let window = table.value("window", string(value::duration_or_zero));
    let grace = table.value("grace", string(value::duration_or_zero));
    table.finish();
    Some(Drain { delay: delay?, window: window?, grace: grace? })
}

fn reload(mut table: Reader<'_, '_>) -> Option<Reload> {
    let watch = table.value("watch", boolean);
    table.finish();
    Some(Reload { watch: watch? })
}

// What one table cannot know alone.

fn addresses_differ(
    root: &Reader<'_, '_>,
    listeners: &[Bound<Listener>],
    backends: &[Bound<Backend>],
    admin: Option<&Bound<Admin>>,
) {
    let shares = |bound: &Bound<Listener>| bound.value.as_ref().is_some_and(|listener| listener.reuse_port);
    let listeners = listeners.iter().map(|bound| (&bound.address, &bound.key, shares(bound)));
    let backends = backends.iter().map(|bound| (&bound.address, &bound.key, false));
    let admin = admin.map(|bound| (&bound.address, &bound.key, false));
    let mut all: Vec<_> = listeners
        .chain(backends)
        .chain(admin)
        .filter_map(|(address, key, shares)| address.as_ref().map(|(address, at)| (address, *at, key, shares)))
        // Port 0 is another port each time.
        .filter(|(address, ..)| !matches!(address, ListenerAddress::Tcp(address) if address.port() == 0))
        .collect();
    all.sort_by_key(|(_, at, ..)| at.line);
    for (index, (address, at, key, shared)) in all.iter().enumerate() {
        let clashes = |(other, _, _, shares): &&(&ListenerAddress, Position, &String, bool)| {
            address == other || is_part(address, other) && !(*shared && *shares)
        };
        let Some((other, first, ..)) = all[..index].iter().find(clashes) else { continue };
        let wrong = match address == other {
            true => Wrong::new(format!("{address} is taken in line {} already", first.line)),
            false => Wrong::new(format!("{address} cannot be opened beside {other} in line {}", first.line)),
        };
        let what = if matches!(address, ListenerAddress::Tcp(_)) { "port" } else { "path" };
        root.wrong(*at, key, wrong.help(format!("choose another {what}")));
    }
}

/// Whether one of them is an address of the other, which is all addresses of its family.
fn is_part(one: &ListenerAddress, other: &ListenerAddress) -> bool {
    let (ListenerAddress::Tcp(one), ListenerAddress::Tcp(other)) = (one, other) else { return false };
    let all = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && one.is_ipv4() == other.is_ipv4() && all
}

fn upstreams_are_used(root: &Reader<'_, '_>, upstreams: &Upstreams, routes: &[RouteRead]) {
    for (name, (at, _)) in upstreams {
        if !routes.iter().any(|read| read.upstream.as_ref() == Some(name)) {
            root.warn(*at, &format!("upstream.{name}"), Wrong::new("no route goes there"));
        }
    }
}

/// A gateway that dials itself would answer one handshake with a thousand of its own.
fn servers_are_not_ours(root: &Reader<'_, '_>, upstreams: &Upstreams, listeners: &[Bound<Listener>]) {
    let ours: Vec<&ListenerAddress> =
        listeners.iter().filter_map(|bound| bound.address.as_ref().map(|(address, _)| address)).collect();
    for (name, (at, upstream)) in upstreams {
        let servers = upstream.iter().flat_map(|upstream| &upstream.servers);
        for server in servers {
            if dialled(&server.address).is_some_and(|address| ours.contains(&&address)) {
                let wrong = Wrong::new(format!("{} is this gateway's own listener", server.text));
                root.warn(
                    *at,
                    &format!("upstream.{name}.servers"),
                    wrong.help("write the address of the service behind it"),
                );
            }
        }
    }
}

/// Where a server listens, as far as the file tells.
fn dialled(server: &ServerAddress) -> Option<ListenerAddress> {
    match server {
        ServerAddress::Tcp { host, port } => {
            host.parse::<IpAddr>().ok().map(|ip| ListenerAddress::Tcp(SocketAddr::new(ip, *port)))
        }
        ServerAddress::Unix(path) => Some(ListenerAddress::Unix(path.clone())),
    }
}

/// A header of anybody but a trusted proxy never counts.
fn headers_have_a_sender(root: &Reader<'_, '_>, routes: &[RouteRead], listeners: &[Bound<Listener>]) {
    let mut proxies = listeners.iter().filter_map(|bound| Some(&bound.value.as_ref()?.trusted_proxies));
    if listeners.iter().any(|bound| bound.value.is_none()) || proxies.any(|proxies| *proxies != Default::default()) {
        return;
    }
    for read in routes {
        if let Some((ClientBy::Header(name), at)) = &read.client {
            let wrong = Wrong::new(format!("has no effect: no listener trusts a proxy that could send {name}"));
            root.warn(*at, &format!("{}.client", read.key), wrong.help("add `trusted_proxies` to the listener"));
        }
    }
}

/// The items whose key came before, each with the line of the first one.
fn repeated<'a, T, K: Eq + Hash>(items: &'a [T], key: impl Fn(&'a T) -> (K, Position)) -> Vec<(&'a T, usize)> {
    let mut seen = HashMap::new();
    let mut found = Vec::new();
    for item in items {
        let (key, at) = key(item);
        match seen.entry(key) {
            Entry::Occupied(first) => found.push((item, *first.get())),
            Entry::Vacant(vacant) => {
                vacant.insert(at.line);
            }
        }
    }
    found
}

// Small readers.

/// Reads each table of a list; a list that is no list is empty, with its problem reported.
fn each<'f, 's, T>(tables: Option<Vec<Reader<'f, 's>>>, read: impl Fn(Reader<'f, 's>) -> T) -> Vec<T> {
    tables.unwrap_or_default().into_iter().map(read).collect()
}

/// [`each`], where at least one is needed.
fn some_of<'f, 's, T>(root: &mut Reader<'f, 's>, name: &'static str, read: impl Fn(Reader<'f, 's>) -> T) -> Vec<T> {
    let tables = root.tables(name);
    if tables.as_ref().is_some_and(Vec::is_empty) {
        let wrong = Wrong::new(format!("no [[{name}]]: nothing would be served"));
        let help = "see `tidegate check --print-default` for what stands in it";
        root.absent(Position::default(), "", wrong.help(help));
    }
    each(tables, read)
}

/// The elements of a list when all of them are right.
fn all<T>(list: Vec<Option<T>>) -> Option<Vec<T>> {
    list.into_iter().collect()
}

fn count(node: &Node) -> Parsed<usize> {
    number(1..=u64::from(u32::MAX))(node).map(|count| count as usize)
}

/// A file of the configuration, with the place that names it.
fn file(source: &Source) -> impl Fn(&Node) -> Parsed<(PathBuf, Position)> {
    move |node| Ok((source.resolve(value::file_name(value::text(node)?)?), node.at))
}
