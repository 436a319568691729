//! What this machine gives a gateway: open files (descriptors) and local ports. Whether that is enough for its limits.
//!
//! In: a configuration. Out: warnings for people; the limit of open files is raised as far as it may be. What needs so
//! much is counted by plain functions.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;

use rlimit::Resource;

use crate::config::model::{Config, ListenerAddress, Position, Route, Server, Target, Upstream};
use crate::config::{Loaded, Problem};

/// Open files that are neither connections nor listeners: standard streams, timers, signals, logs, names being resolved.
const OTHER_FILES: usize = 100;

/// Before the first socket is opened: raises the limit of open files to its hard limit, and says what is not enough.
pub fn prepare(config: &Config) {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => {
            if let Some(few) = TooFewFiles::of(config, limit) {
                tracing::warn!("limits {few}; {}", few.help());
            }
        }
        Err(error) => tracing::warn!(%error, "the limit of open files cannot be raised"),
    }
    for (upstream, address) in strangers(config) {
        tracing::warn!(upstream = upstream.name, "{address}, one of `source_addresses`, is no address of this machine");
    }
}

/// What limits allow and this machine does not.
pub fn warnings(loaded: &Loaded) -> Vec<Problem> {
    let (config, source) = (&loaded.config, &loaded.source);
    let mut warnings = Vec::new();
    let files = Resource::NOFILE.get_hard().ok().and_then(|limit| TooFewFiles::of(config, limit));
    if let Some(few) = files {
        let at = config.limits.sessions_at;
        warnings.push(source.problem(at, "limits", few.to_string(), Some(few.help())));
    }
    for upstream in config.upstreams.values() {
        let key = format!("upstream.{}", upstream.name);
        if let Some(few) = local_ports().and_then(|ports| TooFewPorts::of(config, upstream, ports)) {
            warnings.push(source.problem(Position::default(), &key, few.to_string(), Some(few.help())));
        }
    }
    for (upstream, address) in strangers(config) {
        let key = format!("upstream.{}.source_addresses", upstream.name);
        let help = "add it to an interface, or take it out".to_owned();
        let message = format!("{address} is no address of this machine");
        warnings.push(source.problem(Position::default(), key, message, Some(help)));
    }
    for (at, key, message, help) in places(config) {
        warnings.push(source.problem(at, key, message, Some(help.to_owned())));
    }
    warnings
}

/// Files that the start would make, and where it could not.
fn places(config: &Config) -> Vec<(Position, &'static str, String, &'static str)> {
    let mut wrong = Vec::new();
    let make = "make the folder, or choose another path: the start fails without it";
    let sockets = config.listeners.iter().map(|listener| (listener.address_at, "listener.address", &listener.address));
    let admin = config.admin.iter().map(|admin| (admin.address_at, "admin.address", &admin.address));
    for (at, key, address) in sockets.chain(admin) {
        if let ListenerAddress::Unix(path) = address
            && let Some(folder) = missing_folder(path)
        {
            wrong.push((at, key, format!("{} is no folder of this machine", folder.display()), make));
        }
    }
    if let Some(file) = &config.log.file {
        if file.is_dir() {
            let help = "name a file in it: the start fails otherwise";
            wrong.push((Position::default(), "log.file", format!("{} is a directory", file.display()), help));
        } else if let Some(folder) = missing_folder(file) {
            let message = format!("{} is no folder of this machine", folder.display());
            wrong.push((Position::default(), "log.file", message, make));
        }
    }
    wrong
}

/// The folder of a file, where it is not there.
fn missing_folder(file: &Path) -> Option<&Path> {
    file.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir())
}

/// Source addresses that this machine does not have.
fn strangers(config: &Config) -> impl Iterator<Item = (&Upstream, IpAddr)> {
    let sources = |upstream: &'_ Upstream| upstream.source_addresses.clone().into_iter();
    let all =
        config.upstreams.values().flat_map(move |upstream| sources(upstream).map(move |source| (&**upstream, source)));
    all.filter(|(_, address)| !is_ours(*address))
}

fn is_ours(address: IpAddr) -> bool {
    let bound = TcpListener::bind(SocketAddr::new(address, 0));
    !matches!(bound, Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable)
}

/// The limits allow more connections than files can be open.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("may need {} open files, and {limit} are allowed here: {needed}", .needed.all())]
struct TooFewFiles {
    needed: OpenFiles,
    limit: u64,
}

impl TooFewFiles {
    fn of(config: &Config, limit: u64) -> Option<TooFewFiles> {
        let needed = OpenFiles::of(config);
        (needed.all() > limit).then_some(TooFewFiles { needed, limit })
    }

    fn help(&self) -> String {
        let needed = self.needed.all();
        format!(
            "raise the hard limit (systemd: LimitNOFILE={needed}, Docker: --ulimit nofile={needed}), or lower \
             `limits.connections` and `limits.sessions`"
        )
    }
}

/// How many files may be open at most, when all limits are reached.
#[derive(Debug, PartialEq, Eq)]
struct OpenFiles {
    clients: usize,
    /// Towards upstreams: for each session, and on a route with `http = true` for each request.
    upstream: usize,
    http: bool,
    /// Connections that wait for the next request.
    kept: usize,
    /// The other ends of those to the embedded servers, which are ours, too.
    embedded: usize,
    others: usize,
}

impl OpenFiles {
    fn of(config: &Config) -> OpenFiles {
        let clients = config.limits.connections;
        let sessions = config.limits.sessions.min(clients);
        let http: Vec<&Upstream> =
            config.routes.iter().filter(|route| route.plain.is_some()).filter_map(|route| target(route)).collect();
        let upstream = match (config.upstreams.is_empty(), http.is_empty()) {
            (true, _) => 0,
            (false, true) => sessions,
            (false, false) => clients,
        };
        let kept = config
            .upstreams
            .values()
            .filter(|upstream| http.iter().any(|of_route| of_route.name == upstream.name))
            .map(|upstream| upstream.keepalive * upstream.servers.len())
            .sum();
        let embedded = if config.backends.is_empty() { 0 } else { sessions };
        let others = config.listeners.len() + config.backends.len() + OTHER_FILES;
        OpenFiles { clients, upstream, http: !http.is_empty(), kept, embedded, others }
    }

    fn all(&self) -> u64 {
        (self.clients + self.upstream + self.kept + self.embedded + self.others) as u64
    }
}

/// `110000 of clients, 110000 towards upstreams (one for each session and each HTTP request), 105 others`
impl fmt::Display for OpenFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = if self.http { "session and each HTTP request" } else { "session" };
        write!(f, "{} of clients, {} towards upstreams (one for each {whose})", self.clients, self.upstream)?;
        for (count, what) in [(self.kept, "kept for the next request"), (self.embedded, "of the embedded servers")] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        write!(f, ", {} others", self.others)
    }
}

/// The limits allow more sessions than an upstream can have connections.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{cap}` allows {wanted} sessions, and the local ports {per} suffice for {room}")]
struct TooFewPorts {
    cap: &'static str,
    wanted: u64,
    per: &'static str,
    room: u64,
}

impl TooFewPorts {
    fn of(config: &Config, upstream: &Upstream, ports: u64) -> Option<TooFewPorts> {
        // A name may have many addresses, and a Unix socket needs no port.
        let room = |server: &Server| Some(ports * sources_towards(upstream, server.ip()?));
        let rooms: Vec<u64> = upstream.servers.iter().map(room).collect::<Option<_>>()?;
        let least = rooms.iter().copied().min()?;
        if let Some(cap) = upstream.sessions_per_server.filter(|cap| *cap as u64 > least) {
            let (cap, wanted) = ("sessions_per_server", cap as u64);
            return Some(TooFewPorts { cap, wanted, per: "towards one server", room: least });
        }
        let (cap, wanted) = sessions(config, upstream)?;
        let all: u64 = rooms.iter().sum();
        let few = TooFewPorts { cap, wanted, per: "towards all servers", room: all };
        (upstream.sessions_per_server.is_none() && wanted > all).then_some(few)
    }

    fn help(&self) -> String {
        "add `source_addresses` or servers, widen net.ipv4.ip_local_port_range, or lower the limit".to_owned()
    }
}

fn sources_towards(upstream: &Upstream, server: IpAddr) -> u64 {
    let sources = upstream.source_addresses.iter().filter(|source| source.is_ipv4() == server.is_ipv4());
    sources.count().max(1) as u64
}

/// How many sessions an upstream may get where somebody has written that down, and where.
fn sessions(config: &Config, upstream: &Upstream) -> Option<(&'static str, u64)> {
    let routes = config.routes.iter().filter(|route| target(route).is_some_and(|target| target.name == upstream.name));
    let of_routes: Option<usize> = routes.map(|route| route.limits.sessions).sum();
    let of_routes = of_routes.map(|sessions| ("route.limits.sessions", sessions as u64));
    let written = config.limits.sessions_at != Position::default();
    let of_gateway = written.then_some(("limits.sessions", config.limits.sessions as u64));
    of_routes.into_iter().chain(of_gateway).min_by_key(|(_, sessions)| *sessions)
}

fn target(route: &Route) -> Option<&Upstream> {
    match &route.target {
        Target::Upstream(upstream) => Some(upstream),
        _ => None,
    }
}

/// How many ports the system hands out; `None` where it does not say.
fn local_ports() -> Option<u64> {
    ports(&fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?)
}

/// `"32768\t60999"`, both included.
fn ports(range: &str) -> Option<u64> {
    let mut ends = range.split_whitespace().map(str::parse::<u64>);
    let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
    (last + 1).checked_sub(first)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    fn loaded(limits: &str, route: &str, upstream: &str, more: &str) -> Loaded {
        let text = format!(
            "[limits]\nconnections = 1000\n{limits}\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
             [[route]]\nupstream = \"app\"\n{route}\n[upstream.app]\n{upstream}\n{more}\n"
        );
        config::parse(&text, Path::new("config.toml")).expect("it is right")
    }

    #[test]
    fn what_limits_need_of_open_files() {
        let one = "servers = [\"ws://10.0.0.1\"]";
        let two = "servers = [\"ws://10.0.0.1\", \"ws://10.0.0.2\"]\nkeepalive = 10";
        let echo = "[[backend]]\nkind = \"echo\"\nlisten = \"127.0.0.1:9001\"";
        let rows = [
            ("two for a session, one for a connection", "sessions = 700", "", one, "", 1000 + 700 + 1),
            ("no session without a connection", "sessions = 5000", "", one, "", 1000 + 1000 + 1),
            ("plain HTTP and its kept connections", "sessions = 700", "http = true", two, "", 1000 + 1000 + 20 + 1),
            ("embedded servers have the other end", "sessions = 700", "", one, echo, 1000 + 700 + 700 + 2),
        ];
        for (rule, limits, route, upstream, more, needed) in rows {
            let files = OpenFiles::of(&loaded(limits, route, upstream, more).config);
            assert_eq!(files.all(), (needed + OTHER_FILES) as u64, "{rule}: {files}");
        }
    }

    #[test]
    fn why_so_many_files_are_open_is_told() {
        let echo = "[[backend]]\nkind = \"echo\"\nlisten = \"127.0.0.1:9001\"";
        let upstream = "servers = [\"ws://10.0.0.1\"]\nkeepalive = 10";
        let few = |route: &str, more: &str| {
            let config = loaded("sessions = 700", route, upstream, more).config;
            TooFewFiles::of(&config, 256).expect("too few").to_string()
        };
        assert_eq!(
            few("", ""),
            "may need 1801 open files, and 256 are allowed here: 1000 of clients, 700 towards upstreams (one for each \
             session), 101 others"
        );
        assert_eq!(
            few("http = true", echo),
            "may need 2812 open files, and 256 are allowed here: 1000 of clients, 1000 towards upstreams (one for each \
             session and each HTTP request), 10 kept for the next request, 700 of the embedded servers, 102 others"
        );
    }

    #[test]
    fn what_limits_need_of_ports() {
        let one = "servers = [\"ws://10.0.0.1\"]";
        let three = "servers = [\"ws://10.0.0.1\", \"ws://10.0.0.2\"]\n\
                     source_addresses = [\"10.0.0.7\", \"10.0.0.8\", \"fd00::7\"]";
        let few = |cap, wanted, per, room| Some(TooFewPorts { cap, wanted, per, room });
        let all = "towards all servers";
        let each = "towards one server";
        let rows = [
            ("a default is nobody's wish", "", "", one, None),
            ("just enough", "sessions = 100", "", one, None),
            ("too few", "sessions = 101", "", one, few("limits.sessions", 101, all, 100)),
            ("the narrower limit counts", "sessions = 101", "limits = { sessions = 100 }", one, None),
            ("of the route", "", "limits = { sessions = 101 }", one, few("route.limits.sessions", 101, all, 100)),
            ("each source has all of them", "sessions = 400", "", three, None),
            ("towards each server", "sessions = 401", "", three, few("limits.sessions", 401, all, 400)),
            ("a name may have many", "sessions = 101", "", "servers = [\"ws://app\"]", None),
            ("a Unix socket needs none", "sessions = 101", "", "servers = [\"unix:/run/app\"]", None),
            (
                "the cap of a server",
                "sessions = 400",
                "",
                "servers = [\"ws://10.0.0.1\"]\nsessions_per_server = 101",
                few("sessions_per_server", 101, each, 100),
            ),
            (
                "which keeps the rest away",
                "sessions = 400",
                "",
                "servers = [\"ws://10.0.0.1\"]\nsessions_per_server = 100",
                None,
            ),
        ];
        for (rule, limits, route, upstream, expected) in rows {
            let config = loaded(limits, route, upstream, "").config;
            assert_eq!(TooFewPorts::of(&config, &config.upstreams["app"], 100), expected, "{rule}");
        }
    }

    #[test]
    fn the_range_of_ports_includes_its_ends() {
        assert_eq!(ports("32768\t60999\n"), Some(28_232));
        assert_eq!(ports("1024 1024"), Some(1));
        assert_eq!(ports("9 8"), Some(0));
        assert_eq!(ports("2000 1000"), None);
        assert_eq!(ports(""), None);
    }

    #[test]
    fn an_address_that_is_not_ours_is_told() {
        // TEST-NET-1 (RFC 5737).
        let upstream = "servers = [\"ws://10.0.0.1\"]\nsource_addresses = [\"192.0.2.1\"]";
        let warnings = warnings(&loaded("", "", upstream, ""));
        assert!(warnings.iter().any(|warning| warning.message.contains("no address of this machine")), "{warnings:?}");
    }
}
