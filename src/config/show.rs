//! A configuration in words: what start-up and `tidegate check` print.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::model::{
    Admin, Backend, BackendKind, Conditions, Config, HostPattern, Listener, ListenerAddress, Origins, Page, Route,
    Target,
};
use super::value::show_duration;

/// What start-up prints: one line for each listener, the workers, the routes, and the address to open in a browser.
///
/// `bound` are the addresses really listened on, in the order of the listeners: port 0 became a port. `workers` are those
/// that run: "auto" became a number. The same goes for `admin`.
pub fn start_up(config: &Config, bound: &[ListenerAddress], admin: Option<&ListenerAddress>, workers: usize) -> String {
    let mut out = String::new();
    for (listener, address) in config.listeners.iter().zip(bound) {
        let _ = writeln!(out, "listening on {}", place(listener, address));
    }
    if let (Some(rules), Some(address)) = (&config.admin, admin) {
        let _ = writeln!(out, "admin at {}", admin_place(rules, address));
    }
    let auto = if config.runtime.workers.is_none() { " (auto)" } else { "" };
    let _ = writeln!(out, "workers: {workers}{auto}");
    let _ = write!(out, "\n{}", routes(config));
    if let Some(address) = page_address(config, bound) {
        let _ = writeln!(out, "\nopen {address} in a browser");
    }
    out
}

/// What `tidegate check` says of a configuration without problems.
pub fn summary(config: &Config) -> String {
    let mut out = String::new();
    for listener in &config.listeners {
        let tls = match &listener.tls {
            Some(tls) => {
                let made = if tls.development { " (made where it is missing)" } else { "" };
                format!("  {}{made}", tls.certificates[0].certificate.display())
            }
            None => String::new(),
        };
        let _ = writeln!(out, "would listen on {}{tls}", place(listener, &listener.address));
    }
    if let Some(admin) = &config.admin {
        let _ = writeln!(out, "would answer operators on {}", admin_place(admin, &admin.address));
    }
    let _ = write!(out, "\n{}", routes(config));
    if !config.upstreams.is_empty() {
        let rows = config.upstreams.values().map(|upstream| {
            let servers: Vec<&str> = upstream.servers.iter().map(|server| server.text.as_str()).collect();
            let timeouts = [upstream.connect_timeout, upstream.handshake_timeout].map(show_duration);
            vec![upstream.name.clone(), servers.join(", "), timeouts.join(" + ")]
        });
        let _ = write!(out, "\n{}", table(&["UPSTREAM", "SERVERS", "CONNECT + ANSWER TIMEOUT"], rows));
    }
    if !config.backends.is_empty() {
        let _ = write!(out, "\n{}", table(&["BACKEND", "LISTENS ON"], config.backends.iter().map(backend)));
    }
    out
}

/// A host as the file writes it; empty for any host.
pub(super) fn host(pattern: &HostPattern) -> String {
    match pattern {
        HostPattern::Any => String::new(),
        HostPattern::Exact(name) if name.contains(':') => format!("[{name}]"),
        HostPattern::Exact(name) => name.clone(),
        HostPattern::Below(name) => format!("*.{name}"),
    }
}

fn routes(config: &Config) -> String {
    let rows = config.routes.iter().map(|route| {
        let host = if route.host == HostPattern::Any { "any".to_owned() } else { host(&route.host) };
        let origins = match route.target {
            Target::Upstream(_) => origins(&route.origins),
            _ => "-".to_owned(),
        };
        vec![route.name.clone(), host, path(route), target(route), origins]
    });
    table(&["ROUTE", "HOST", "PATH", "GOES TO", "ORIGINS"], rows)
}

/// The path with its conditions: `= /chat (x-tenant, ?version)`.
fn path(route: &Route) -> String {
    let Conditions { headers, query, subprotocol } = &route.conditions;
    let exact = if route.path_exact { "= " } else { "" };
    // Without the values: one may be a secret.
    let headers = headers.iter().map(|(name, _)| name.to_string());
    let query = query.iter().map(|(name, _)| format!("?{name}"));
    let subprotocol = subprotocol.iter().map(|name| format!("subprotocol {name}"));
    let conditions: Vec<String> = headers.chain(query).chain(subprotocol).collect();
    let conditions = if conditions.is_empty() { String::new() } else { format!(" ({})", conditions.join(", ")) };
    format!("{exact}{}{conditions}", route.path)
}

fn target(route: &Route) -> String {
    let https = "redirect to https";
    let target = match &route.target {
        Target::Upstream(upstream) => format!("upstream {}", upstream.name),
        Target::Page(Page::Chat) => "page chat".to_owned(),
        Target::Redirect(redirect) => format!("redirect {}", redirect.status.as_u16()),
        Target::Respond(respond) => format!("respond {}", respond.status.as_u16()),
        Target::Files(folder) => format!("files {}", folder.path.display()),
        Target::Nothing => return https.to_owned(),
    };
    if route.https_only { format!("{https}, {target}") } else { target }
}

fn origins(origins: &Origins) -> String {
    let words = [(origins.any, "any"), (origins.same_origin, "same-origin"), (origins.none, "none")];
    let words = words.into_iter().filter(|(holds, _)| *holds).map(|(_, word)| word.to_owned());
    let list = origins.list.iter().map(|origin| {
        let host = match origin.below {
            true => HostPattern::Below(origin.host.clone()),
            false => HostPattern::Exact(origin.host.clone()),
        };
        let port = match (origin.scheme.as_str(), origin.port) {
            ("http", 80) | ("https", 443) | (_, 0) => String::new(),
            (_, port) => format!(":{port}"),
        };
        format!("{}://{}{port}", origin.scheme, self::host(&host))
    });
    words.chain(list).collect::<Vec<_>>().join(", ")
}

fn backend(backend: &Backend) -> Vec<String> {
    let kind = match backend.kind {
        BackendKind::Echo => "echo".to_owned(),
        BackendKind::Clock { interval } => format!("clock, every {}", show_duration(interval)),
        BackendKind::Chat { history } => format!("chat, history of {history}"),
    };
    vec![kind, backend.listen.to_string()]
}

/// The first page at a place that a browser on this machine can open, over TLS only when there is no plain listener.
fn page_address(config: &Config, bound: &[ListenerAddress]) -> Option<String> {
    let page = config.routes.iter().find(|route| matches!(route.target, Target::Page(_)))?;
    let plain_first = |(listener, _): &(&Listener, &SocketAddr)| listener.tls.is_some();
    let tcp = config.listeners.iter().zip(bound).filter_map(|(listener, address)| match address {
        ListenerAddress::Tcp(address) if listener.proxy_protocol.is_none() => Some((listener, address)),
        // No browser gets in there.
        ListenerAddress::Tcp(_) | ListenerAddress::Unix(_) => None,
    });
    let (listener, address) = tcp.min_by_key(plain_first)?;
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let address = SocketAddr::new(ip, address.port());
    let base = match &page.host {
        HostPattern::Exact(name) => {
            format!("{}://{}:{}", scheme(listener, "http"), host(&HostPattern::Exact(name.clone())), address.port())
        }
        _ => url(listener, "http", address),
    };
    Some(format!("{base}{}", page.path))
}

/// Where a listener really listens, for people: `wss://127.0.0.1:8443`.
pub fn place(listener: &Listener, address: &ListenerAddress) -> String {
    let header = if listener.proxy_protocol.is_some() { " (PROXY protocol)" } else { "" };
    match address {
        ListenerAddress::Tcp(address) => format!("{}{header}", url(listener, "ws", *address)),
        ListenerAddress::Unix(_) => format!("{address}{header}"),
    }
}

fn admin_place(admin: &Admin, address: &ListenerAddress) -> String {
    match address {
        ListenerAddress::Tcp(address) => format!("http{}://{address}", if admin.tls.is_some() { "s" } else { "" }),
        ListenerAddress::Unix(_) => address.to_string(),
    }
}

fn url(listener: &Listener, plain: &str, address: SocketAddr) -> String {
    format!("{}://{address}", scheme(listener, plain))
}

fn scheme(listener: &Listener, plain: &str) -> String {
    format!("{plain}{}", if listener.tls.is_some() { "s" } else { "" })
}

/// Columns as wide as their widest cell; nothing trails.
pub(crate) fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head = head.iter().map(|cell| (*cell).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let (mut out, mut line) = (String::new(), String::new());
    for row in &rows {
        line.clear();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}
