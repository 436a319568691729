//! Tables become the model, and what fits in itself is checked against the rest.
//!
//! In: the tree of a file. Out: a [`Config`] that cannot be wrong, or every problem. Opens no file and no socket:
//! certificates are loaded later, by [`crate::listen::tls`].

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;

use super::model::{
    Backend, BackendKind, CertificateFiles, ClientAuth, Compression, Config, Drain, Heartbeat, HostPattern, Limits,
    Listener, ListenerTls, Log, LogFormat, LogLevel, OriginPattern, Origins, Page, PingMode, Position, Refuse,
    RelayRules, Route, Runtime, ServerAddress, Subprotocols, Target, TlsVersions, Upstream, UpstreamTls,
};
use super::problem::{Problem, Problems, Source};
use super::read::{Findings, Reader};
use super::show;
use super::tree::{Node, Tree, Value};
use super::value::{self, Parsed, Wrong, boolean, nearest, number, one_of, or_off, show_duration, string};

/// The configuration and its warnings.
pub(super) fn check(source: &Source, tree: Tree) -> Result<(Config, Vec<Problem>), Problems> {
    let findings = Findings::new(source);
    let config = config(Reader::root(&findings, tree.root), source);
    let (problems, absences, warnings) = findings.into_parts();
    let broken_lines: Vec<usize> = tree.problems.iter().map(|problem| problem.at.line).collect();
    let meant = |problem: &Problem| {
        let line = problem.at.line;
        !(tree.incomplete && broken_lines.contains(&line)) && line < tree.trusted_before
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
    let findings = Findings::new(source);
    let mut root = Reader::root(&findings, tree.root);
    let backend = root.tables("backend").into_iter().next().and_then(backend);
    backend.map(|backend| backend.kind)
}

fn config(mut root: Reader<'_, '_>, source: &Source) -> Option<Config> {
    let runtime = root.table("runtime").and_then(runtime);
    let limits = root.table("limits").and_then(limits);
    let listeners = root.tables("listener").into_iter().map(|table| listener(table, source)).collect::<Vec<_>>();
    let backends = root.tables("backend").into_iter().map(backend).collect::<Vec<_>>();
    let upstreams: BTreeMap<_, _> =
        root.named("upstream").into_iter().map(|(name, table)| upstream(name, table, source)).collect();
    let routes = root.tables("route").into_iter().map(|table| route(table, &upstreams)).collect::<Vec<_>>();
    let log = root.table("log").and_then(log);
    let drain = root.table("drain").and_then(drain);

    for (name, list) in [("listener", listeners.len()), ("route", routes.len())] {
        if list == 0 {
            let help = match name {
                "listener" => "add [[listener]] with `address = \"127.0.0.1:8080\"`",
                _ => "add [[route]] with `upstream = \"NAME\"`",
            };
            root.absent(Position::default(), "", Wrong::new(format!("no {name}: nothing would be served")).help(help));
        }
    }
    addresses_differ(&root, &listeners, &backends);
    routes_differ(&root, &routes);
    upstreams_are_used(&root, &upstreams, &routes);
    servers_are_not_ours(&root, &upstreams, &listeners);
    root.finish();

    Some(Config {
        runtime: runtime?,
        limits: limits?,
        listeners: listeners.into_iter().collect::<Option<_>>()?,
        routes: named(routes)?,
        upstreams: upstreams.into_iter().map(|(name, (_, upstream))| Some((name, upstream?))).collect::<Option<_>>()?,
        backends: backends.into_iter().collect::<Option<_>>()?,
        log: log?,
        drain: drain?,
    })
}

// Tables.

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

fn limits(mut table: Reader<'_, '_>) -> Option<Limits> {
    let sessions = table.value("sessions", count);
    let connections = table.value("connections", count);
    let sessions_per_client = table.value("sessions_per_client", or_off(count));
    let handshakes_per_client = table.value("handshakes_per_client", or_off(string(value::rate)));
    table.finish();
    Some(Limits {
        sessions: sessions?,
        connections: connections?,
        sessions_per_client: sessions_per_client?,
        handshakes_per_client: handshakes_per_client?,
    })
}

fn listener(mut table: Reader<'_, '_>, source: &Source) -> Option<Listener> {
    let address = table.value("address", |node| Ok((string(value::socket_address)(node)?, node.at)));
    let tls_written = table.written("tls").is_some();
    let tls = table.table("tls").and_then(|tls| listener_tls(tls, source));
    let everyone = table.written("trusted_proxies");
    let trusted_proxies = table.list("trusted_proxies", string(value::network));
    let tls_timeout = table.value("tls_timeout", string(value::duration));
    let head_timeout = table.value("head_timeout", string(value::duration));
    // hyper takes no smaller buffer than 8 KiB.
    let head_bytes_max = table.value("head_bytes_max", |node| {
        let bytes = string(value::size)(node)?;
        match (8 << 10..=1 << 20).contains(&bytes) {
            true => Ok(bytes as usize),
            false => Err(Wrong::new(format!("{} is not allowed", value::show_size(bytes))).help("from 8KiB to 1MiB")),
        }
    });
    let headers_max = table.value("headers_max", number(16..=1000));
    if let Some(nets) = &trusted_proxies
        && nets.iter().any(|net| net.prefix_len() == 0)
        && let Some(at) = everyone
    {
        let wrong = Wrong::new("every client is trusted, so every client can claim any address");
        table.warn(at, "trusted_proxies", wrong.help("list only the networks of your own proxies"));
    }
    if let (Some((address, at)), Some(tls)) = (&address, &tls)
        && tls.development
        && !address.ip().is_loopback()
    {
        let wrong = Wrong::new("a development certificate is believed by nobody else");
        table.warn(*at, "address", wrong.help("use a real certificate, or listen on 127.0.0.1"));
    }
    table.finish();
    let (address, address_at) = address?;
    Some(Listener {
        address,
        address_at,
        tls: if tls_written { Some(tls?) } else { None },
        trusted_proxies: trusted_proxies?,
        tls_timeout: tls_timeout?,
        head_timeout: head_timeout?,
        head_bytes_max: head_bytes_max?,
        headers_max: headers_max? as usize,
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Auth {
    Off,
    Optional,
    Required,
}

fn listener_tls(mut table: Reader<'_, '_>, source: &Source) -> Option<ListenerTls> {
    let first = certificate_pair(&mut table, source);
    let more: Vec<_> = table
        .tables("certificates")
        .into_iter()
        .map(|mut table| {
            let pair = certificate_pair(&mut table, source);
            table.finish();
            pair.ok().flatten()
        })
        .collect();
    let development_at = table.written("development");
    let development = table.value("development", boolean);
    let auth_at = table.written("client_auth");
    let auth = table.value(
        "client_auth",
        one_of(&[("off", Auth::Off), ("optional", Auth::Optional), ("required", Auth::Required)]),
    );
    let ca_at = table.written("client_ca");
    let ca = table.value("client_ca", file(source));
    let versions = table.value("min_version", one_of(&[("1.2", TlsVersions::From12), ("1.3", TlsVersions::Only13)]));

    match (auth, ca_at) {
        (Some(Auth::Off), Some(at)) => {
            let wrong = Wrong::new("is given, but `client_auth` is \"off\": no client would be checked");
            table.wrong(at, "client_ca", wrong.help("add `client_auth = \"required\"`, or remove it"));
        }
        (Some(Auth::Optional | Auth::Required), None) => {
            let wrong = Wrong::new("is missing: `client_auth` needs to know whom to believe");
            table.absent(auth_at.unwrap_or(table.at()), "client_ca", wrong.help("add `client_ca = \"FILE.pem\"`"));
        }
        _ => {}
    }
    let none_given = matches!(first, Ok(None)) && more.is_empty();
    if development == Some(true) && matches!(first, Ok(None)) {
        let wrong = Wrong::new("needs `certificate` and `key`: where the certificate is to be made");
        table.absent(development_at.unwrap_or(table.at()), "development", wrong);
    } else if none_given {
        let wrong = Wrong::new("no certificate").help("add `certificate = \"FILE.pem\"` and `key = \"FILE.key\"`");
        table.absent(table.at(), "certificate", wrong);
    }
    table.finish();

    let certificates = first.ok()?.into_iter().map(Some).chain(more).collect::<Option<Vec<_>>>()?;
    let client_auth = match (auth?, ca) {
        (Auth::Off, _) => ClientAuth::Off,
        (Auth::Optional, ca) => ca.map(|(ca, ca_at)| ClientAuth::Optional { ca, ca_at })?,
        (Auth::Required, ca) => ca.map(|(ca, ca_at)| ClientAuth::Required { ca, ca_at })?,
    };
    Some(ListenerTls { certificates, development: development?, client_auth, versions: versions? })
}

/// A pair that is wrong, with its problem reported.
struct Refused;

/// `certificate` and `key`, which come together or not at all.
fn certificate_pair(table: &mut Reader<'_, '_>, source: &Source) -> Result<Option<CertificateFiles>, Refused> {
    let (certificate_at, key_at) = (table.written("certificate"), table.written("key"));
    let certificate = table.value("certificate", file(source));
    let key = table.value("key", file(source));
    match (certificate_at, key_at) {
        (Some(at), None) => table.absent(at, "key", Wrong::new("is missing: a certificate needs its private key")),
        (None, Some(at)) => table.absent(at, "certificate", Wrong::new("is missing: a key needs its certificate")),
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {}
    }
    match (certificate, key) {
        (Some((certificate, certificate_at)), Some((key, key_at))) => {
            Ok(Some(CertificateFiles { certificate, certificate_at, key, key_at }))
        }
        _ => Err(Refused),
    }
}

/// An upstream that is wrong in itself still has a name that routes may use.
type Upstreams = BTreeMap<String, (Position, Option<Arc<Upstream>>)>;

fn upstream(name: String, mut table: Reader<'_, '_>, source: &Source) -> (String, (Position, Option<Arc<Upstream>>)) {
    let at = table.at();
    if let Err(wrong) = value::name(&name) {
        table.wrong(at, "", wrong);
    }
    let servers_at = table.written("servers");
    let servers = table.list("servers", |node| Ok((string(value::server)(node)?, node.at)));
    let connect_timeout = table.value("connect_timeout", string(value::duration));
    let handshake_timeout = table.value("handshake_timeout", string(value::duration));
    let tls_at = table.written("tls");
    let tls = table.table("tls").and_then(|tls| upstream_tls(tls, source));
    if let Some(servers) = &servers {
        if servers.is_empty() {
            let at = servers_at.unwrap_or(at);
            table.wrong(
                at,
                "servers",
                Wrong::new("at least one server is needed").help("like [\"ws://127.0.0.1:9000\"]"),
            );
        }
        if let Some(at) = tls_at.filter(|_| !servers.iter().any(|(server, _)| server.tls)) {
            table.warn(at, "tls", Wrong::new("has no effect: no server is wss://"));
        }
        for ((server, at), _) in repeated(servers, |(server, at)| ((&server.address, server.tls, &server.base), *at)) {
            let wrong = Wrong::new(format!("{} stands twice in the list", server.text));
            table.wrong(*at, "servers", wrong.help("remove one of them"));
        }
    }
    table.finish();
    let build = || {
        Some(Arc::new(Upstream {
            name: name.clone(),
            servers: servers?.into_iter().map(|(server, _)| server).collect(),
            connect_timeout: connect_timeout?,
            handshake_timeout: handshake_timeout?,
            tls: tls?,
        }))
    };
    let built = build();
    (name, (at, built))
}

fn upstream_tls(mut table: Reader<'_, '_>, source: &Source) -> Option<UpstreamTls> {
    let ca = table.value("ca", file(source));
    let server_name = table.value("server_name", string(value::server_name));
    let client = certificate_pair(&mut table, source);
    table.finish();
    Some(UpstreamTls { ca, server_name, client: client.ok()? })
}

fn backend(mut table: Reader<'_, '_>) -> Option<Backend> {
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
    table.finish();
    let (interval, history) = (interval?, history? as usize);
    let (listen, listen_at) = listen?;
    let kind = match kind? {
        Kind::Echo => BackendKind::Echo,
        Kind::Clock => BackendKind::Clock { interval },
        Kind::Chat => BackendKind::Chat { history },
    };
    Some(Backend { kind, listen, listen_at })
}

fn log(mut table: Reader<'_, '_>) -> Option<Log> {
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
    table.finish();
    Some(Log { format: format?, level: level? })
}

fn drain(mut table: Reader<'_, '_>) -> Option<Drain> {
    let grace = table.value("grace", string(value::duration_or_zero));
    table.finish();
    Some(Drain { grace: grace? })
}

// Routes.

/// A route whose name may still be missing, with the places that the other routes are compared at.
struct RouteRead {
    key: String,
    at: Position,
    name: Option<(String, Position)>,
    /// What it matches, when both could be read.
    matches: Option<(HostPattern, String)>,
    upstream: Option<String>,
    route: Option<Route>,
}

fn route(mut table: Reader<'_, '_>, upstreams: &Upstreams) -> RouteRead {
    let at = table.at();
    let name = table.value("name", |node| Ok((string(value::name)(node)?, node.at)));
    let host_written = table.written("host").is_some();
    let host = table.value("host", string(value::host_pattern));
    let host = if host_written { host } else { Some(HostPattern::Any) };
    let encoded_slashes = table.value("encoded_slashes", boolean);
    let path = table.value("path", string(|text| value::path(text, encoded_slashes == Some(true))));
    let subprotocols = subprotocols(&mut table);
    let host_header_written = table.written("host_header").is_some();
    let host_header = table.value("host_header", string(value::host_header));
    let origins = origins(&mut table);
    let (upstream, target) = target(&mut table, upstreams);
    let relay = relay_rules(&mut table);
    let refuse = table.value("refuse", one_of(&[("http", Refuse::Http), ("close", Refuse::Close)]));
    let (key, matches) = (table.path().to_owned(), host.zip(path));
    table.finish();

    let build = || {
        let (host, path) = matches.clone()?;
        Some(Route {
            name: String::new(),
            host,
            path,
            encoded_slashes: encoded_slashes?,
            target: target?,
            origins: origins?,
            subprotocols: subprotocols?,
            host_header: if host_header_written { Some(host_header?) } else { None },
            relay: relay?,
            refuse: refuse?,
        })
    };
    let route = build();
    RouteRead { key, at, name, matches, upstream, route }
}

/// The name of the upstream, even where there is none of that name, and the target.
fn target(table: &mut Reader<'_, '_>, upstreams: &Upstreams) -> (Option<String>, Option<Target>) {
    /// What a page has no use for: it is plain HTTP and opens no session.
    const SESSIONS_ONLY: [&str; 18] = [
        "origins",
        "subprotocols",
        "subprotocol_required",
        "host_header",
        "heartbeat",
        "idle_timeout",
        "max_age",
        "frame_timeout",
        "close_timeout",
        "frame_bytes_max",
        "message_bytes_max",
        "fragments_max",
        "ping",
        "compression",
        "strict",
        "refuse",
        "encoded_slashes",
        "upstream",
    ];
    let (upstream_at, page_at) = (table.written("upstream"), table.written("page"));
    let upstream = table.value("upstream", |node| Ok((value::text(node)?.to_owned(), node.at)));
    let page = table.value("page", one_of(&[("chat", Page::Chat)]));
    match (upstream_at, page_at) {
        (Some(_), Some(at)) => {
            let wrong = Wrong::new("stands beside `upstream`: a route has one target");
            table.wrong(at, "page", wrong.help("remove one of them"));
        }
        (None, None) => {
            let wrong = Wrong::new("is missing: a route needs a target");
            table.absent(table.at(), "upstream", wrong.help("add `upstream = \"NAME\"`, or `page = \"chat\"`"));
        }
        (None, Some(_)) => {
            for key in SESSIONS_ONLY {
                if let Some(at) = table.written(key) {
                    table.warn(at, key, Wrong::new("has no effect on a page"));
                }
            }
        }
        (Some(_), None) => {}
    }
    let Some((name, at)) = upstream else {
        return (None, page.map(Target::Page));
    };
    let target = match upstreams.get(&name) {
        Some((_, upstream)) => upstream.clone().map(Target::Upstream),
        None => {
            let known: Vec<&str> = upstreams.keys().map(String::as_str).collect();
            let known_list = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let wrong = Wrong::new(format!("no upstream {name:?} (known: {known_list})"));
            let wrong = match nearest(&name, known) {
                Some(near) => wrong.help(format!("did you mean {near:?}?")),
                None => wrong.help(format!("add [upstream.{name}]")),
            };
            table.absent(at, "upstream", wrong);
            None
        }
    };
    (Some(name), target)
}

#[derive(Clone)]
enum Origin {
    Any,
    None,
    SameOrigin,
    Pattern(OriginPattern),
}

fn origins(table: &mut Reader<'_, '_>) -> Option<Origins> {
    let at = table.written("origins").unwrap_or(table.at());
    let list = table.list(
        "origins",
        string(|text| match text {
            "any" => Ok(Origin::Any),
            "none" => Ok(Origin::None),
            "same-origin" => Ok(Origin::SameOrigin),
            _ => value::origin(text).map(Origin::Pattern),
        }),
    )?;
    if list.is_empty() {
        let wrong = Wrong::new("an empty list would refuse everyone");
        table.wrong(at, "origins", wrong.help("leave it out for [\"same-origin\", \"none\"], or write [\"any\"]"));
    }
    let mut origins = Origins { any: false, none: false, same_origin: false, list: Vec::new() };
    let count = list.len();
    for origin in list {
        match origin {
            Origin::Any => origins.any = true,
            Origin::None => origins.none = true,
            Origin::SameOrigin => origins.same_origin = true,
            Origin::Pattern(pattern) if origins.list.contains(&pattern) => {}
            Origin::Pattern(pattern) => origins.list.push(pattern),
        }
    }
    if origins.any && count > 1 {
        let wrong = Wrong::new("\"any\" stands beside others, which it would make meaningless");
        table.wrong(at, "origins", wrong.help("write [\"any\"] alone, or leave \"any\" out"));
    }
    Some(origins)
}

fn subprotocols(table: &mut Reader<'_, '_>) -> Option<Subprotocols> {
    let at = table.written("subprotocols");
    let list = table.list("subprotocols", |node| Ok((string(value::subprotocol)(node)?, node.at)));
    let require = table.value("subprotocol_required", boolean);
    if let Some(list) = &list {
        for ((name, at), _) in repeated(list, |(name, at)| (name, *at)) {
            let wrong = Wrong::new(format!("{name:?} stands twice in the list"));
            table.wrong(*at, "subprotocols", wrong.help("remove one of them"));
        }
        if let (true, Some(true), Some(at)) = (list.is_empty(), require, at) {
            let wrong = Wrong::new("an empty list and `subprotocol_required` refuse everyone");
            table.wrong(at, "subprotocols", wrong.help("name a subprotocol"));
        }
    }
    let list = match (at, list) {
        (None, _) => None,
        (Some(_), list) => Some(list?.into_iter().map(|(name, _)| name).collect()),
    };
    Some(Subprotocols { list, require: require? })
}

fn relay_rules(table: &mut Reader<'_, '_>) -> Option<RelayRules> {
    let (frame_at, message_at) = (table.written("frame_bytes_max"), table.written("message_bytes_max"));
    let heartbeat_at = table.written("heartbeat");
    let size_or_off = |node: &Node| Ok(or_off(string(value::size))(node)?.unwrap_or(u64::MAX));

    let heartbeat = heartbeat(table);
    let idle_timeout = table.value("idle_timeout", or_off(string(value::duration)));
    let max_age = table.value("max_age", or_off(string(value::duration)));
    let frame_timeout = table.value("frame_timeout", string(value::duration));
    let close_timeout = table.value("close_timeout", string(value::duration));
    let mut frame_bytes_max = table.value("frame_bytes_max", size_or_off);
    let message_bytes_max = table.value("message_bytes_max", size_or_off);
    let fragments_max = table.value("fragments_max", or_off(number(1..=u64::from(u32::MAX))));
    let ping = table.value("ping", one_of(&[("answer", PingMode::Answer), ("forward", PingMode::Forward)]));
    let compression = table.value("compression", one_of(&[("pass", Compression::Pass), ("off", Compression::Off)]));
    let strict = table.value("strict", boolean);

    if let (Some(frame), Some(message)) = (frame_bytes_max, message_bytes_max)
        && frame > message
    {
        match frame_at {
            // An operator who lowers the message alone means both.
            None => frame_bytes_max = Some(message),
            Some(at) => {
                let default = if message_at.is_none() { ", the default" } else { "" };
                let show = |bytes| {
                    if bytes == u64::MAX { "off".to_owned() } else { value::show_size(bytes) }
                };
                let (frame, message) = (show(frame), show(message));
                let wrong = Wrong::new(format!("{frame} is above `message_bytes_max` ({message}{default})"));
                table.wrong(
                    at,
                    "frame_bytes_max",
                    wrong.help("a message is at least one frame: raise that one as well"),
                );
            }
        }
    }
    if let (Some(Some(heartbeat)), Some(at)) = (heartbeat, heartbeat_at)
        && heartbeat.timeout > heartbeat.interval
    {
        let dead_after = show_duration(heartbeat.interval + heartbeat.timeout);
        let wrong =
            Wrong::new(format!("`timeout` is longer than `interval`: a dead peer is noticed after {dead_after}"));
        table.warn(at, "heartbeat", wrong);
    }
    Some(RelayRules {
        heartbeat: heartbeat?,
        idle_timeout: idle_timeout?,
        max_age: max_age?,
        frame_timeout: frame_timeout?,
        close_timeout: close_timeout?,
        frame_bytes_max: frame_bytes_max?,
        message_bytes_max: message_bytes_max?,
        fragments_max: fragments_max?.and_then(|count| NonZeroU32::new(count as u32)),
        ping: ping?,
        compression: compression?,
        strict: strict?,
    })
}

/// `Some(None)` is `"off"`.
fn heartbeat(table: &mut Reader<'_, '_>) -> Option<Option<Heartbeat>> {
    let Some(mut beat) = table.table("heartbeat") else {
        return Some(None);
    };
    let interval = beat.value("interval", string(value::duration));
    let timeout = beat.value("timeout", string(value::duration));
    beat.finish();
    Some(Some(Heartbeat { interval: interval?, timeout: timeout? }))
}

/// Gives each route without a name one made of what it matches.
fn named(routes: Vec<RouteRead>) -> Option<Vec<Arc<Route>>> {
    let mut taken: Vec<String> = routes.iter().filter_map(|read| Some(read.name.as_ref()?.0.clone())).collect();
    let mut list = Vec::new();
    for read in routes {
        let mut route = read.route?;
        route.name = match read.name {
            Some((name, _)) => name,
            None => {
                let name = format!("{}{}", show::host(&route.host), route.path);
                let others = (2..).map(|count| format!("{name}#{count}"));
                let free = std::iter::once(name.clone()).chain(others).find(|name| !taken.contains(name))?;
                taken.push(free.clone());
                free
            }
        };
        list.push(Arc::new(route));
    }
    Some(list)
}

// What one table cannot know alone.

fn addresses_differ(root: &Reader<'_, '_>, listeners: &[Option<Listener>], backends: &[Option<Backend>]) {
    let listeners = listeners.iter().enumerate().filter_map(|(index, listener)| {
        let listener = listener.as_ref()?;
        Some((listener.address, listener.address_at, format!("listener[{}].address", index + 1)))
    });
    let backends = backends.iter().enumerate().filter_map(|(index, backend)| {
        let backend = backend.as_ref()?;
        Some((backend.listen, backend.listen_at, format!("backend[{}].listen", index + 1)))
    });
    // Port 0 is another port each time.
    let mut all: Vec<_> = listeners.chain(backends).filter(|(address, ..)| address.port() != 0).collect();
    all.sort_by_key(|(_, at, _)| at.line);
    for ((address, at, key), first) in repeated(&all, |(address, at, _)| (*address, *at)) {
        let wrong = Wrong::new(format!("{address} is taken in line {first} already"));
        root.wrong(*at, key, wrong.help("choose another port"));
    }
}

fn routes_differ(root: &Reader<'_, '_>, routes: &[RouteRead]) {
    let names: Vec<_> =
        routes.iter().filter_map(|read| read.name.as_ref().map(|(name, at)| (name, *at, &read.key))).collect();
    for ((name, at, key), first) in repeated(&names, |(name, at, _)| (*name, *at)) {
        let wrong = Wrong::new(format!("the name {name:?} is taken in line {first} already"));
        root.wrong(*at, &format!("{key}.name"), wrong.help("choose another name"));
    }
    let matches: Vec<_> =
        routes.iter().filter_map(|read| read.matches.as_ref().map(|matches| (matches, read))).collect();
    for (((host, path), read), first) in repeated(&matches, |(matches, read)| (*matches, read.at)) {
        let host = match show::host(host) {
            host if host.is_empty() => "any host".to_owned(),
            host => format!("host {host}"),
        };
        let wrong = Wrong::new(format!("{host} with path {path} belongs to the route in line {first} already"));
        root.wrong(read.at, &read.key, wrong.help("change `path` or `host`, or remove one of the routes"));
    }
}

fn upstreams_are_used(root: &Reader<'_, '_>, upstreams: &Upstreams, routes: &[RouteRead]) {
    for (name, (at, _)) in upstreams {
        if !routes.iter().any(|read| read.upstream.as_ref() == Some(name)) {
            root.warn(*at, &format!("upstream.{name}"), Wrong::new("no route goes there"));
        }
    }
}

/// A gateway that dials itself would answer one handshake with a thousand of its own.
fn servers_are_not_ours(root: &Reader<'_, '_>, upstreams: &Upstreams, listeners: &[Option<Listener>]) {
    let ours: Vec<SocketAddr> = listeners.iter().flatten().map(|listener| listener.address).collect();
    for (name, (at, upstream)) in upstreams {
        let servers = upstream.iter().flat_map(|upstream| &upstream.servers);
        for server in servers {
            let ServerAddress::Tcp { host, port } = &server.address else {
                continue;
            };
            let dialled = host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, *port));
            if dialled.is_some_and(|address| ours.contains(&address)) {
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

fn count(node: &Node) -> Parsed<usize> {
    number(1..=u64::from(u32::MAX))(node).map(|count| count as usize)
}

/// A file of the configuration, with the place that names it.
fn file(source: &Source) -> impl Fn(&Node) -> Parsed<(PathBuf, Position)> {
    move |node| Ok((source.resolve(value::file_name(value::text(node)?)?), node.at))
}
