//! Names of servers: looked up beside the traffic, again when their time to live is over.
//!
//! In: the pools of a configuration. Out: each of their names has a member for each of its addresses, of both families.
//! What is known stays until something else is known: a resolver that fails takes no server away. Numeric addresses and
//! Unix sockets never come here, nor does `localhost`, which needs no DNS (RFC 6761 section 6.3).

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, lookup::Lookup, system_conf};
use tokio::net::lookup_host;
use tokio::sync::mpsc::{Sender, channel};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::Pool;
use crate::config::model::{Dns, Server, ServerAddress};
use crate::observe::log;

/// How long a start waits for names.
const FIRST: Duration = Duration::from_secs(3);
/// How soon a change of the hosts file is seen.
const HOSTS: Duration = Duration::from_secs(5);
/// After a failure: at first, and never longer.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(30);

/// Why nothing new is known of a name.
#[derive(Debug, thiserror::Error)]
enum ResolveError {
    #[error("it has no address")]
    Nothing,
    #[error("`source_addresses` has none for any of its addresses")]
    Sources,
    #[error("no name server can be read from the system: set `dns.servers`")]
    System(#[source] NetError),
    #[error("no answer")]
    Net(#[from] NetError),
}

/// Whether a host's address has to be asked for.
pub(super) fn is_name(host: &str) -> bool {
    let local = |name: &str| name == "localhost" || name.ends_with(".localhost");
    host.parse::<IpAddr>().is_err() && !local(host)
}

/// The names that are kept resolved, until this is dropped.
#[derive(Debug, Default)]
pub struct Names(#[allow(dead_code, reason = "held for its drop")] Vec<AbortOnDropHandle<()>>);

/// Keeps the names of `pools` resolved. Returns when each of which nothing is known was looked up once, or is late:
/// connections to it are refused until it leads somewhere.
pub async fn keep(dns: &Dns, pools: impl Iterator<Item = &Arc<Pool>>) -> Names {
    let mut names = Vec::new();
    let dns = Arc::new(dns.clone());
    // Nothing is ever sent: it ends with the last sender.
    let (first, mut looked_up) = channel::<Infallible>(1);
    for pool in pools {
        for server in &pool.upstream.servers {
            if let ServerAddress::Tcp { host, port } = &server.address
                && is_name(host)
            {
                let name = Resolved::new(server, host, *port, pool);
                let first = name.is_unknown().then(|| first.clone());
                let task = tokio::spawn(name.keep(dns.clone(), pool.clone(), first));
                names.push(AbortOnDropHandle::new(task));
            }
        }
    }
    drop(first);
    if timeout(FIRST, looked_up.recv()).await.is_err() {
        tracing::warn!("names of servers are still being looked up; serving without them");
    }
    Names(names)
}

/// The name of one server, and where it leads as far as is known.
struct Resolved {
    server: String,
    host: String,
    port: u16,
    ipv4: Vec<IpAddr>,
    ipv6: Vec<IpAddr>,
    /// In a row.
    failures: u32,
}

/// What was learnt of a name.
struct Found {
    /// `None`: nothing, so that what was known stays.
    ipv4: Option<Vec<IpAddr>>,
    ipv6: Option<Vec<IpAddr>>,
    /// For so long.
    valid: Duration,
}

impl Resolved {
    fn new(server: &Server, host: &str, port: u16, pool: &Pool) -> Self {
        let known = pool.addresses(&server.text).into_iter().map(|address| address.ip());
        let (ipv4, ipv6) = known.partition(IpAddr::is_ipv4);
        Resolved { server: server.text.clone(), host: host.to_owned(), port, ipv4, ipv6, failures: 0 }
    }

    fn is_unknown(&self) -> bool {
        self.ipv4.is_empty() && self.ipv6.is_empty()
    }

    /// `first` is dropped when it was looked up once.
    async fn keep(mut self, dns: Arc<Dns>, pool: Arc<Pool>, mut first: Option<Sender<Infallible>>) {
        loop {
            let wait = match look_up(&dns, &self.host).await.and_then(|found| self.learn(found, &pool)) {
                Ok(valid) => {
                    if self.failures > 0 {
                        tracing::info!(upstream = self.server, "its name is resolved again");
                    }
                    self.failures = 0;
                    valid.clamp(dns.ttl_min, dns.ttl_max)
                }
                Err(error) => self.failed(&error),
            };
            drop(first.take());
            sleep(wait).await;
        }
    }

    /// Puts what was found in the place of what was known.
    fn learn(&mut self, found: Found, pool: &Pool) -> Result<Duration, ResolveError> {
        self.ipv4 = found.ipv4.unwrap_or_else(|| std::mem::take(&mut self.ipv4));
        self.ipv6 = found.ipv6.unwrap_or_else(|| std::mem::take(&mut self.ipv6));
        let all = self.ipv4.iter().chain(&self.ipv6).copied();
        let fit: Vec<IpAddr> = all.filter(|address| pool.sources.fit(*address)).collect();
        if fit.is_empty() {
            return Err(ResolveError::Sources);
        }
        let addresses: Vec<_> = reachable(fit).into_iter().map(|address| SocketAddr::new(address, self.port)).collect();
        if pool.addresses(&self.server) != addresses {
            tracing::info!(upstream = self.server, ?addresses, "resolved");
            pool.set_addresses(&self.server, &addresses);
        }
        Ok(found.valid)
    }

    fn failed(&mut self, error: &ResolveError) -> Duration {
        if self.failures == 0 {
            let known = self.ipv4.len() + self.ipv6.len();
            let detail = log::chain(error);
            tracing::warn!(
                upstream = self.server,
                known,
                detail,
                "its name cannot be resolved; the known addresses stay"
            );
        }
        self.failures = self.failures.saturating_add(1);
        AGAIN.saturating_mul(1 << self.failures.min(8) >> 1).min(AGAIN_MAX)
    }
}

/// The hosts file, then DNS, then whatever else the system knows (nsswitch.conf: multicast DNS, the machine's own name).
async fn look_up(dns: &Dns, host: &str) -> Result<Found, ResolveError> {
    if let Some(found) = of_hosts_file(host) {
        return Ok(found);
    }
    match ask(dns, host).await {
        Err(error) if dns.servers.is_empty() => of_system(host, dns.ttl_max).await.map_err(|_| error),
        found => found,
    }
}

/// A name that stands in the hosts file has the addresses that stand there, and no others.
fn of_hosts_file(host: &str) -> Option<Found> {
    let (name, hosts) = (Name::from_ascii(host).ok()?, Hosts::from_system().ok()?);
    let of = |kind| hosts.lookup_static_host(&Query::query(name.clone(), kind));
    let (ipv4, ipv6) = (of(RecordType::A), of(RecordType::AAAA));
    let addresses = |lookup: &Option<Lookup>| lookup.as_ref().map(addresses).unwrap_or_default();
    let found = Found { ipv4: Some(addresses(&ipv4)), ipv6: Some(addresses(&ipv6)), valid: HOSTS };
    (ipv4.is_some() || ipv6.is_some()).then_some(found)
}

async fn of_system(host: &str, valid: Duration) -> io::Result<Found> {
    let (ipv4, ipv6) = lookup_host((host, 0)).await?.map(|address| address.ip()).partition(IpAddr::is_ipv4);
    Ok(Found { ipv4: Some(ipv4), ipv6: Some(ipv6), valid: valid.min(AGAIN_MAX) })
}

/// Asks for both families of each name that is meant, until one has an address.
async fn ask(dns: &Dns, host: &str) -> Result<Found, ResolveError> {
    // Read again each time: it changes when the machine moves to another network.
    let (config, mut options) = match dns.servers.is_empty() {
        true => system_conf::read_system_conf().map_err(ResolveError::System)?,
        false => (servers(&dns.servers), ResolverOpts::default()),
    };
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    let names = names(host, &config, options.ndots)?;
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    let resolver = builder.build()?;
    for name in names {
        let ask = |kind| resolver.lookup(name.clone(), kind);
        let (ipv4, ipv6) = tokio::join!(ask(RecordType::A), ask(RecordType::AAAA));
        if let Some(found) = both(answer(ipv4), answer(ipv6))? {
            return Ok(found);
        }
    }
    Err(ResolveError::Nothing)
}

fn servers(list: &[SocketAddr]) -> ResolverConfig {
    let server = |address: &SocketAddr| {
        let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
        connections.iter_mut().for_each(|connection| connection.port = address.port());
        NameServerConfig::new(address.ip(), true, connections)
    };
    ResolverConfig::from_parts(None, Vec::new(), list.iter().map(server).collect())
}

/// The names that `host` may mean, in the order of resolv.conf(5): one with enough dots as it stands first.
fn names(host: &str, config: &ResolverConfig, ndots: usize) -> Result<Vec<Name>, ResolveError> {
    let mut name = Name::from_ascii(host).map_err(NetError::from)?;
    name.set_fqdn(false);
    let search = config.search().iter().chain(config.domain().filter(|_| config.search().is_empty()));
    let mut names: Vec<Name> = search.filter_map(|domain| name.clone().append_domain(domain).ok()).collect();
    let as_it_stands = if host.matches('.').count() >= ndots { 0 } else { names.len() };
    names.insert(as_it_stands, name);
    names.iter_mut().for_each(|name| name.set_fqdn(true));
    Ok(names)
}

type Answer = Result<(Vec<IpAddr>, Duration), NetError>;

fn answer(lookup: Result<Lookup, NetError>) -> Answer {
    match lookup {
        Ok(lookup) => {
            let valid = lookup.valid_until().saturating_duration_since(Instant::now());
            Ok((addresses(&lookup), valid))
        }
        // That there is none is an answer, too.
        Err(NetError::Dns(DnsError::NoRecordsFound(none)))
            if matches!(none.response_code, ResponseCode::NoError | ResponseCode::NXDomain) =>
        {
            Ok((Vec::new(), Duration::MAX))
        }
        Err(error) => Err(error),
    }
}

fn addresses(lookup: &Lookup) -> Vec<IpAddr> {
    let mut addresses: Vec<_> = lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect();
    // Name servers change the order from answer to answer.
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// What the answers for both families say together; `None`: neither has an address. When one of them failed, what was
/// known of that family stays.
fn both(ipv4: Answer, ipv6: Answer) -> Result<Option<Found>, ResolveError> {
    let is_some = |answer: &Answer| answer.as_ref().is_ok_and(|(addresses, _)| !addresses.is_empty());
    if !is_some(&ipv4) && !is_some(&ipv6) {
        return match (ipv4, ipv6) {
            (Ok(_), Ok(_)) => Ok(None),
            (Err(error), _) | (_, Err(error)) => Err(error.into()),
        };
    }
    let valid = |answer: &Answer| answer.as_ref().map_or(AGAIN_MAX, |(_, valid)| *valid);
    let valid = valid(&ipv4).min(valid(&ipv6));
    let list = |answer: Answer| answer.ok().map(|(addresses, _)| addresses);
    Ok(Some(Found { ipv4: list(ipv4), ipv6: list(ipv6), valid }))
}

/// Without those to which this machine has no route (RFC 6724 section 5, rule 1): on a machine without IPv6 every other
/// connection would fail first. All of them, when it has a route to none.
fn reachable(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let reachable: Vec<_> = addresses.iter().copied().filter(|address| has_route(*address)).collect();
    if reachable.is_empty() { addresses } else { reachable }
}

/// Connecting a datagram socket chooses a route and sends nothing.
fn has_route(address: IpAddr) -> bool {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((address, 9))).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(addresses: &[&str], seconds: u64) -> Answer {
        let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
        Ok((addresses, Duration::from_secs(seconds)))
    }

    fn none() -> Answer {
        Ok((Vec::new(), Duration::MAX))
    }

    fn failed() -> Answer {
        Err(NetError::Timeout)
    }

    #[test]
    fn what_both_families_say_together() {
        type Said = Option<(Option<usize>, Option<usize>, Duration)>;
        let said = |ipv4, ipv6| -> Result<Said, ()> {
            let found = both(ipv4, ipv6).map_err(|_| ())?;
            Ok(found.map(|found| (found.ipv4.map(|list| list.len()), found.ipv6.map(|list| list.len()), found.valid)))
        };
        let one = ["10.0.0.1"];
        let seconds = Duration::from_secs;
        assert_eq!(
            said(ok(&one, 9), ok(&["::1", "::2"], 7)),
            Ok(Some((Some(1), Some(2), seconds(7)))),
            "the shorter time"
        );
        assert_eq!(said(ok(&one, 9), none()), Ok(Some((Some(1), Some(0), seconds(9)))), "one family");
        assert_eq!(said(ok(&one, 900), failed()), Ok(Some((Some(1), None, AGAIN_MAX))), "the other one soon again");
        assert_eq!(said(none(), none()), Ok(None), "the next name of the search list");
        assert_eq!(said(none(), failed()), Err(()), "nobody knows");
        assert_eq!(said(failed(), failed()), Err(()));
    }

    #[test]
    fn the_search_list_as_in_resolv_conf() {
        let cluster = "search one.test two.test\noptions ndots:2\nnameserver 10.0.0.53";
        let rows = [
            ("domain one.test\nnameserver 10.0.0.53", "app", &["app.one.test.", "app."][..]),
            ("nameserver 10.0.0.53", "app.test", &["app.test."]),
            (cluster, "app", &["app.one.test.", "app.two.test.", "app."]),
            (cluster, "app.space", &["app.space.one.test.", "app.space.two.test.", "app.space."]),
            (cluster, "app.space.svc", &["app.space.svc.", "app.space.svc.one.test.", "app.space.svc.two.test."]),
            (cluster, "my_app", &["my_app.one.test.", "my_app.two.test.", "my_app."]),
        ];
        for (text, host, expected) in rows {
            let (config, options) = system_conf::parse_resolv_conf(text).expect("it is right");
            let names = names(host, &config, options.ndots).expect("a name");
            assert_eq!(names.iter().map(Name::to_string).collect::<Vec<_>>(), expected, "{host}");
        }
    }

    #[test]
    fn what_is_no_name() {
        for host in ["10.0.0.1", "::1", "localhost", "app.localhost"] {
            assert!(!is_name(host), "{host}");
        }
        for host in ["app", "app.example.com", "localhost.example.com", "1.2.3"] {
            assert!(is_name(host), "{host}");
        }
    }

    #[test]
    fn failures_wait_longer_each_time() {
        let mut name = Resolved {
            server: String::new(),
            host: String::new(),
            port: 0,
            ipv4: Vec::new(),
            ipv6: Vec::new(),
            failures: 0,
        };
        let waits: Vec<_> = (0..300).map(|_| name.failed(&ResolveError::Nothing).as_secs()).collect();
        assert_eq!(waits[..7], [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(waits[299], 30);
    }
}
