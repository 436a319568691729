//! What the gateway runs on. Built only by [`super::parse`] (and by tests): every value here is already valid.
//!
//! Durations are [`Duration`], sizes are bytes. "Off" is `None`. Names follow `config.toml`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use ipnet::IpNet;

use crate::proto::fields;

/// The whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    pub runtime: Runtime,
    pub limits: Limits,
    pub listeners: Vec<Listener>,
    /// In the order of the file; which one serves a request is decided by [`crate::policy::route`].
    pub routes: Vec<Arc<Route>>,
    pub upstreams: BTreeMap<String, Arc<Upstream>>,
    pub dns: Dns,
    pub backends: Vec<Backend>,
    pub log: Log,
    pub drain: Drain,
    pub reload: Reload,
    /// `None`: there is no admin interface.
    pub admin: Option<Admin>,
    /// All of it as JSON, without secrets, for those who ask what runs.
    pub shown: serde_json::Value,
}

impl Config {
    /// Every file of certificates, keys and authorities that it names.
    pub fn certificate_files(&self) -> impl Iterator<Item = PathBuf> {
        let pair = |files: &CertificateFiles| [files.certificate.clone(), files.key.clone()];
        let listeners = self.listeners.iter().filter_map(|listener| listener.tls.as_ref()).flat_map(move |tls| {
            let ca = match &tls.client_auth {
                ClientAuth::Off => None,
                ClientAuth::Optional { ca, .. } | ClientAuth::Required { ca, .. } => Some(ca.clone()),
            };
            tls.certificates.iter().flat_map(pair).chain(ca)
        });
        let upstreams = self.upstreams.values().flat_map(move |upstream| {
            let UpstreamTls { ca, client, .. } = &upstream.tls;
            client.iter().flat_map(pair).chain(ca.iter().map(|(ca, _)| ca.clone()))
        });
        listeners.chain(upstreams)
    }
}

/// `[reload]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reload {
    /// Also when a file changes.
    pub watch: bool,
}

/// `[runtime]`
#[derive(Debug, Clone)]
pub struct Runtime {
    /// Worker threads; `None` is `"auto"`: one for each processor that this process may use.
    pub workers: Option<NonZeroUsize>,
}

/// `[limits]`: of the whole gateway.
#[derive(Debug, Clone)]
pub struct Limits {
    /// WebSocket sessions open at once.
    pub sessions: usize,
    /// Where that stands; the default position where it is left out.
    pub sessions_at: Position,
    /// TCP connections open at once, those that have not finished their handshake included.
    pub connections: usize,
    /// Connections that have not finished their handshake (TLS, PROXY header, request head). `None` is `"off"`.
    pub connections_pending: Option<usize>,
    /// Sessions open at once from one client (address; IPv6 by /64). `None` is `"off"`.
    pub sessions_per_client: Option<usize>,
    /// Opening handshakes of one client. `None` is `"off"`.
    pub handshakes_per_client: Option<Rate>,
    /// Bits of an IPv6 address that make a client, from 32 to 128.
    pub ipv6_prefix: u8,
    /// Bytes that all sessions together hold: refused by a slow peer, or waiting for a rate.
    pub held_bytes: usize,
}

/// So many events in a period: `"10/s"`, `"600/m"`. Its burst is `count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub count: NonZeroU32,
    pub per: Duration,
}

/// So many bytes in a period: `"1MiB/s"`. Its burst is `bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRate {
    pub bytes: NonZeroU64,
    pub per: Duration,
}

/// The message and byte rates of a route, for each direction. `None` is `"off"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RouteRates {
    /// Data messages, however many fragments they have.
    pub messages: Scoped<Rate>,
    /// Payload bytes of data frames.
    pub bytes: Scoped<ByteRate>,
}

/// A rate of one session, of all sessions of one client on a route, and of all sessions of the route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scoped<T> {
    pub session: Option<T>,
    pub client: Option<T>,
    pub route: Option<T>,
}

impl<T> Default for Scoped<T> {
    fn default() -> Self {
        Scoped { session: None, client: None, route: None }
    }
}

/// Where a value stands in its file: for errors that are found after parsing (a certificate that does not match its key).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// Counted from 1; 0 where there is no file.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
}

/// `[[listener]]`
#[derive(Debug, Clone)]
pub struct Listener {
    pub address: ListenerAddress,
    pub address_at: Position,
    /// Other processes of ours may listen there, too. Never on a Unix socket.
    pub reuse_port: bool,
    /// Never on a Unix socket.
    pub tls: Option<ListenerTls>,
    /// Peers whose `X-Forwarded-*`, `Forwarded` and PROXY headers count.
    pub trusted_proxies: TrustedProxies,
    /// How long a trusted proxy may take to send its PROXY header; `None` where none is spoken.
    pub proxy_protocol: Option<Duration>,
    /// From the first byte of the ClientHello to Finished.
    pub tls_timeout: Duration,
    /// From the accepted connection (or the last answer) to the end of the request head.
    pub head_timeout: Duration,
    /// Bytes of a request head.
    pub head_bytes_max: usize,
    /// Header fields of a request.
    pub headers_max: usize,
    /// Which clients are served at all; see [`crate::policy::access`].
    pub access: Access,
    pub limits: ListenerLimits,
}

/// `limits` of a listener. `None` is `"off"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListenerLimits {
    /// WebSocket sessions open at once.
    pub sessions: Option<usize>,
    /// TCP connections open at once.
    pub connections: Option<usize>,
    /// Those that have not finished their handshake.
    pub connections_pending: Option<usize>,
}

/// `allow` and `deny` of a listener or a route.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Empty: everybody.
    pub allow: Vec<Network>,
    /// Wins over `allow`.
    pub deny: Vec<Network>,
}

/// Some clients, by their address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    Any,
    /// Peers of Unix sockets.
    Unix,
    /// Never IPv4 written as IPv6.
    Ip(IpNet),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenerAddress {
    Tcp(SocketAddr),
    /// An absolute path.
    Unix(PathBuf),
}

/// As the file writes it.
impl fmt::Display for ListenerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenerAddress::Tcp(address) => address.fmt(f),
            ListenerAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `trusted_proxies`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    pub networks: Vec<IpNet>,
    /// Whoever can open the Unix socket of the listener.
    pub unix: bool,
}

/// `tls` of a listener.
#[derive(Debug, Clone)]
pub struct ListenerTls {
    /// At least one. The first serves clients whose SNI matches none.
    pub certificates: Vec<CertificateFiles>,
    /// Make a self-signed certificate at the first pair of paths when neither file is there.
    pub development: bool,
    pub client_auth: ClientAuth,
    pub versions: TlsVersions,
}

impl ListenerTls {
    /// Whether nobody gets in without a certificate.
    pub fn demands_certificate(&self) -> bool {
        matches!(self.client_auth, ClientAuth::Required { .. })
    }
}

#[derive(Debug, Clone)]
pub struct CertificateFiles {
    pub certificate: PathBuf,
    pub certificate_at: Position,
    pub key: PathBuf,
    pub key_at: Position,
}

/// Whether a client must show a certificate.
#[derive(Debug, Clone)]
pub enum ClientAuth {
    Off,
    /// Checked when shown.
    Optional {
        ca: PathBuf,
        ca_at: Position,
    },
    Required {
        ca: PathBuf,
        ca_at: Position,
    },
}

/// The oldest TLS version accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersions {
    From12,
    Only13,
}

/// `[[route]]`
#[derive(Debug, Clone)]
pub struct Route {
    /// Unique among routes.
    pub name: String,
    pub host: HostPattern,
    /// In normal form, begins with `/`. A prefix that matches on segment boundaries, without a trailing slash unless it is
    /// the root; or with `path_exact` the whole path.
    pub path: String,
    pub path_exact: bool,
    pub conditions: Conditions,
    /// Whether `%2F` may stand in a path.
    pub encoded_slashes: bool,
    pub target: Target,
    /// `redirect = "https"`: who did not come over TLS is sent there.
    pub https_only: bool,
    /// What stands for `path` towards the upstream: nothing, or it begins with `/`. `None`: it stays.
    pub rewrite: Option<String>,
    pub origins: Origins,
    pub subprotocols: Subprotocols,
    /// Of every request to the upstream, after what the gateway does to it.
    pub request_headers: FieldEdits,
    /// Of every answer to the client, the gateway's own too.
    pub response_headers: FieldEdits,
    /// The Host to send upstream; `None` passes the client's.
    pub host_header: Option<String>,
    pub relay: RelayRules,
    pub refuse: Refuse,
    pub client: ClientBy,
    pub access: Access,
    /// The API keys, of which a client needs one; `None`: it needs none.
    pub keys: Option<Keys>,
    pub limits: RouteLimits,
    /// `http = true`: plain HTTP passes too. `None`: WebSockets only.
    pub plain: Option<PlainRules>,
}

/// What a request must hold beside host and path: all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Conditions {
    /// In the order of their names, so that equal conditions compare equal.
    pub headers: Vec<(HeaderName, String)>,
    /// Decoded; in the order of their names.
    pub query: Vec<(String, String)>,
    /// One that the client offers.
    pub subprotocol: Option<String>,
}

/// `request_headers` or `response_headers`: no field that frames, forwards or belongs to the handshake.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldEdits {
    /// In place of what is there.
    pub set: Vec<(HeaderName, HeaderValue)>,
    pub remove: Vec<HeaderName>,
}

impl FieldEdits {
    pub fn apply(&self, headers: &mut HeaderMap) {
        fields::edit(headers, &self.remove, &self.set);
    }
}

/// `limits` of a route. `None` is `"off"`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteLimits {
    /// WebSocket sessions open at once.
    pub sessions: Option<usize>,
    /// Those of one client.
    pub sessions_per_client: Option<usize>,
    /// Opening handshakes of all clients together.
    pub handshakes: Option<Rate>,
    /// Opening handshakes of one client.
    pub handshakes_per_client: Option<Rate>,
    pub rates: RouteRates,
}

/// `client` of a route: by what its clients are told apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientBy {
    Address,
    /// From trusted proxies, in place of the address.
    Header(HeaderName),
    /// The client's own word, beside its address.
    Cookie(String),
    /// The same; percent-encoding undone.
    Query(String),
}

/// How long the parts of a plain HTTP request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainRules {
    /// From the end of the request to the head of its answer. `None` is `"off"`.
    pub request_timeout: Option<Duration>,
    /// How long a body may stand still because of the client: it sends no more, or takes no more of the answer.
    pub body_timeout: Duration,
    /// How long the upstream may be silent within the body of an answer. `None` is `"off"`.
    pub answer_idle_timeout: Option<Duration>,
}

impl Conditions {
    /// How many there are: a route with more of them is the more specific one.
    pub fn count(&self) -> usize {
        self.headers.len() + self.query.len() + usize::from(self.subprotocol.is_some())
    }

    /// Whether no request holds both.
    pub fn exclude(&self, other: &Conditions) -> bool {
        fn differ<N: PartialEq>(one: &[(N, String)], other: &[(N, String)]) -> bool {
            one.iter().any(|(name, value)| other.iter().any(|(known, wanted)| known == name && wanted != value))
        }
        differ(&self.headers, &other.headers) || differ(&self.query, &other.query)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Any,
    /// Lower case, no port, no trailing dot.
    Exact(String),
    /// `*.example.com`, kept as `example.com`: any name below it, not the name itself.
    Below(String),
}

#[derive(Debug, Clone)]
pub enum Target {
    Upstream(Arc<Upstream>),
    /// A page that is built in, answered to GET and HEAD of exactly the route's path.
    Page(Page),
    Redirect(Redirect),
    Respond(Respond),
    Files(Folder),
    /// `https_only` is all there is.
    Nothing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    pub to: Location,
    pub status: StatusCode,
}

/// Where a redirect leads: never to a host that is neither written here nor the one that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// `https://`, and the host where it is written.
    pub front: String,
    /// Then the host that the client asked for, without its port.
    pub same_host: bool,
    /// Then a port, a path, or both.
    pub behind: String,
    /// Then path and query of the request.
    pub keeps_path: bool,
}

/// `files`: a folder that is served, below the route's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    pub path: PathBuf,
    pub at: Position,
}

/// A fixed answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Respond {
    pub status: StatusCode,
    pub body: Bytes,
    pub content_type: HeaderValue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    Chat,
}

/// `origins`: who may connect, by the request's `Origin` (RFC 6455 section 10.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origins {
    /// `"any"`: no check at all.
    pub any: bool,
    /// `"none"`: a request without `Origin` (not a browser) may connect.
    pub none: bool,
    /// `"same-origin"`: scheme, host and port of the Origin are those that the client asked for.
    pub same_origin: bool,
    /// `"https://chat.example.com"`, `"https://*.example.com"`.
    pub list: Vec<OriginPattern>,
}

/// One normalised origin (RFC 6454): lower case, the scheme's default port filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginPattern {
    pub scheme: String,
    /// Without brackets for IPv6.
    pub host: String,
    pub port: u16,
    /// `*.host`: any name below `host`.
    pub below: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subprotocols {
    /// What may pass of the client's offer; `None` passes every name.
    pub list: Option<Vec<String>>,
    /// Refuse a client that offers none of them.
    pub require: bool,
}

/// `keys` of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    pub file: PathBuf,
    pub file_at: Position,
    pub places: KeyPlaces,
}

/// Where a request may carry its key. At least one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyPlaces {
    /// A field that holds the key; in `Authorization` it stands behind `Bearer` (RFC 6750 section 2.1).
    pub header: Option<HeaderName>,
    /// A parameter of the query.
    pub query: Option<String>,
    /// The subprotocol `bearer.KEY`.
    pub bearer: bool,
}

/// How a refused upgrade is told to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refuse {
    /// With an HTTP status.
    Http,
    /// 101, then at once a Close with the code and reason: browsers can read it.
    Close,
}

/// What the relay enforces and answers on a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayRules {
    /// Pings of ours to a side that was quiet for `interval`; dead when nothing came for `timeout` after one.
    pub heartbeat: Option<Heartbeat>,
    /// Ends a session on which no data message began or moved on for so long.
    pub idle_timeout: Option<Duration>,
    /// Ends a session of that age.
    pub max_age: Option<Duration>,
    /// A frame that was begun must move on by 64 KiB, or end, within it.
    pub frame_timeout: Duration,
    /// A side must take within it what it refused, all of it. `None` is `"off"`.
    pub slow_timeout: Option<Duration>,
    /// How long an answer to a Close, and then the peer's end of stream, is awaited.
    pub close_timeout: Duration,
    /// Payload bytes of one frame.
    pub frame_bytes_max: u64,
    /// Payload bytes of one message, over its fragments, as they pass (compressed ones count as such).
    pub message_bytes_max: u64,
    /// Frames of one message. `None` is `"off"`.
    pub fragments_max: Option<NonZeroU32>,
    pub ping: PingMode,
    pub compression: Compression,
    /// Check that text messages are UTF-8 (not possible for compressed ones).
    pub strict: bool,
    /// Pings and pongs of each side. `None` is `"off"`.
    pub control_per_session: Option<Rate>,
    pub on_excess: OnExcess,
}

/// What becomes of a side that sends more than a rate allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExcess {
    /// It is not read until the rate allows it.
    Delay,
    /// The session ends.
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    pub interval: Duration,
    pub timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PingMode {
    /// Answered where they arrive, not forwarded.
    Answer,
    /// Passed on, and so are the pongs.
    Forward,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// An offer of `permessage-deflate` passes to the upstream, and its answer back.
    Pass,
    /// The offer is removed.
    Off,
}

/// `[upstream.NAME]`
#[derive(Debug, Clone)]
pub struct Upstream {
    pub name: String,
    /// At least one.
    pub servers: Vec<Server>,
    pub balance: Balance,
    pub sticky: Sticky,
    /// How many other servers a request may be tried with.
    pub retries: u32,
    /// Retries in percent of requests.
    pub retry_budget: u32,
    /// `health.passive`; `None` is `"off"`.
    pub passive: Option<Passive>,
    /// `health.active`; `None` is `"off"`.
    pub active: Option<Active>,
    /// `health.on_unhealthy`: of the sessions of a server whose checks failed.
    pub on_unhealthy: Fate,
    /// Of the sessions of a server that is gone from the configuration, or of an address that its name lost.
    pub on_removed: Fate,
    /// How long a server that comes back takes to its whole share. `None` is `"off"`.
    pub slow_start: Option<Duration>,
    pub connect_timeout: Duration,
    /// From the connection to the end of the answer's head.
    pub handshake_timeout: Duration,
    /// Sessions open at once with one server. `None` is `"off"`.
    pub sessions_per_server: Option<usize>,
    /// Idle connections of plain HTTP that are kept to each server.
    pub keepalive: usize,
    /// For so long.
    pub keepalive_timeout: Duration,
    /// Local addresses of connections to its servers; with none the system chooses.
    pub source_addresses: Vec<IpAddr>,
    pub tls: UpstreamTls,
}

/// `health.passive`: when a server is put aside because of what its handshakes and requests tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passive {
    /// Failures in a row; at least 1.
    pub failures: u32,
    /// For how long at first; each time in a row for twice as long.
    pub aside: Duration,
    /// And never longer.
    pub aside_max: Duration,
}

/// `health.active`: how a server is asked whether it is well, and how often.
#[derive(Debug, Clone)]
pub struct Active {
    pub kind: CheckKind,
    /// Below the server's own path; with a query. Begins with `/`.
    pub path: String,
    /// `Host`; `None` is the server's own.
    pub host: Option<String>,
    /// Offered in a WebSocket's handshake.
    pub subprotocol: Option<String>,
    /// Further fields of the request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// What an answer to plain HTTP may have; at least one.
    pub statuses: Vec<RangeInclusive<u16>>,
    /// From the end of a check to the next.
    pub interval: Duration,
    /// In percent of it.
    pub jitter: u32,
    /// Of a whole check.
    pub timeout: Duration,
    /// So many good ones in a row bring it back; at least 1.
    pub rise: u32,
    /// So many bad ones in a row take it out; at least 1.
    pub fall: u32,
    /// It gets sessions before its first check.
    pub initially_up: bool,
}

/// What a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckKind {
    /// A connection, with TLS where the server has it.
    Tcp,
    /// A GET that is answered with one of the statuses.
    Http,
    /// An opening handshake, and a ping that is answered.
    WebSocket,
}

/// What becomes of sessions that live on a server which gets no new ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Keep,
    /// They end over `drain.window`.
    Drain,
    /// They end at once.
    Close,
}

impl Fate {
    /// As the file writes it.
    pub fn label(self) -> &'static str {
        match self {
            Fate::Keep => "keep",
            Fate::Drain => "drain",
            Fate::Close => "close",
        }
    }
}

/// `balance`: which server is next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Balance {
    RoundRobin,
    LeastConnections,
    RandomTwo,
    /// Consistent hashing of what the request says; of the client's address where it says nothing.
    Hash(ClientBy),
}

/// `sticky`: by what a client comes back to the server that it met before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sticky {
    /// By a cookie of ours.
    pub cookie: Option<StickyCookie>,
    /// By the session id of Socket.IO.
    pub socket_io: bool,
}

/// `sticky.cookie`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StickyCookie {
    pub name: String,
    pub path: String,
    pub same_site: SameSite,
    /// The file of the key that it is signed with; `None`: one is made at the start.
    pub key: Option<(PathBuf, Position)>,
}

/// Whether a cookie comes with requests that begin on another site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameSite {
    /// Only where the address bar leads.
    Lax,
    Strict,
    None,
}

/// One of an upstream's servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub address: ServerAddress,
    /// `wss://`
    pub tls: bool,
    /// Put before the request's path; empty, or begins with `/` and has no trailing slash.
    pub base: String,
    /// As the file wrote it, for logs.
    pub text: String,
    /// Its share beside the others; at least 1.
    pub weight: u32,
    /// Used only when no other server can be.
    pub backup: bool,
}

impl Server {
    /// Its address where that is a number; `None` for names and Unix sockets.
    pub fn ip(&self) -> Option<IpAddr> {
        match &self.address {
            ServerAddress::Tcp { host, .. } => host.parse().ok(),
            ServerAddress::Unix(_) => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ServerAddress {
    /// Host without brackets: a name or an address.
    Tcp {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

/// For `wss://` servers.
#[derive(Debug, Clone, Default)]
pub struct UpstreamTls {
    /// PEM file of authorities; `None` is the system's.
    pub ca: Option<(PathBuf, Position)>,
    /// Name for SNI and verification; `None` is the server's host.
    pub server_name: Option<String>,
    /// Our own certificate.
    pub client: Option<CertificateFiles>,
}

/// `[dns]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// With none those of the system are asked.
    pub servers: Vec<SocketAddr>,
    /// The least and the longest time that an answer is used for.
    pub ttl_min: Duration,
    pub ttl_max: Duration,
}

/// `[[backend]]`: an embedded server on a loopback port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    pub kind: BackendKind,
    pub listen: SocketAddr,
    pub listen_at: Position,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendKind {
    Echo,
    /// Pushes the time at this interval.
    Clock {
        interval: Duration,
    },
    Chat {
        /// Messages of a room that a newcomer is shown.
        history: usize,
    },
}

impl BackendKind {
    pub fn label(self) -> &'static str {
        match self {
            BackendKind::Echo => "echo",
            BackendKind::Clock { .. } => "clock",
            BackendKind::Chat { .. } => "chat",
        }
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    pub level: LogLevel,
    /// `None` is standard error.
    pub file: Option<PathBuf>,
    pub access: AccessLog,
    /// Of 100 requests or sessions on which all goes well, so many leave their lines.
    pub sample: u32,
    /// How often a living session leaves a line. `None` is `"off"`.
    pub progress: Option<Duration>,
    pub traceparent: TraceParent,
}

/// For commands that read no configuration.
impl Default for Log {
    fn default() -> Self {
        Log {
            format: LogFormat::Human,
            level: LogLevel::Info,
            file: None,
            access: AccessLog { requests: true, opened: true, ended: true },
            sample: 100,
            progress: None,
            traceparent: TraceParent::Begin,
        }
    }
}

/// `log.access`: what leaves a line, beside refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessLog {
    pub requests: bool,
    pub opened: bool,
    pub ended: bool,
}

/// What becomes of a request that belongs to no trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceParent {
    /// One begins here.
    Begin,
    /// It goes on without.
    Pass,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Human,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// `[drain]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// How long everybody is still served after the gateway said that it is not ready.
    pub delay: Duration,
    /// Over how long sessions are closed.
    pub window: Duration,
    /// How long those may take to end that were closed last, and plain requests.
    pub grace: Duration,
}

/// `[admin]`
#[derive(Debug, Clone)]
pub struct Admin {
    pub address: ListenerAddress,
    pub address_at: Position,
    /// Of the file of a Unix socket.
    pub socket_mode: u32,
    /// `None`: whoever can connect may do everything.
    pub token: Option<Token>,
    /// Never on a Unix socket. With `client_auth`, a client certificate is always required.
    pub tls: Option<ListenerTls>,
    /// Names by which it may be asked for, beside `localhost` and IP addresses.
    pub hosts: Vec<String>,
}

/// What who asks must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    Written(Secret),
    /// Read anew with each request.
    File(PathBuf, Position),
}

/// A text that no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hidden")
    }
}
