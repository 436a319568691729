//! Every metric, with its name, its labels and its meaning, and how they are written for Prometheus.
//!
//! In: what happened ([`Metrics`], for the life of the process) and what is so now ([`Now`], gathered at each scrape). Out:
//! OpenMetrics, or the older text format. Labels hold names of the configuration and words of closed lists, never what a
//! client sent. Nothing here is called for a message: sessions count theirs themselves.

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelValue, EncodeMetric,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::process::Process;
use crate::proto::close::Code;
use crate::proto::refusal::Refusal;
use crate::relay::registry::Flow;
use crate::relay::{End, Side};

/// From a fast loopback upstream to `connect_timeout` and `handshake_timeout` together.
const HANDSHAKE_SECONDS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// From a second to a week.
const SESSION_SECONDS: [f64; 11] =
    [1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0, 604_800.0];

/// From a machine beside this one to the timeout of most heartbeats.
const ROUND_TRIP_SECONDS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0];

/// `le` and other labels are put behind these.
type Labels<const N: usize> = [(&'static str, Cow<'static, str>); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;
type Histograms = Family<Labels<1>, Histogram, fn() -> Histogram>;

/// What has happened since the process began. A reload changes nothing in it, but that servers can be forgotten that it took
/// away.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    handshakes: Counters<2>,
    refusals: Counters<2>,
    opened_seconds: Histogram,
    refused_seconds: Histogram,
    session_seconds: Histogram,
    ended: Counters<3>,
    closes: Counters<3>,
    connects: Counters<3>,
    /// The labels of `connects`, so that those of servers that are gone can be found.
    dialled: Mutex<Vec<Labels<3>>>,
    requests: Counters<2>,
    /// Of clients and of upstreams.
    pings: [Counter; 2],
    round_trips: [Histogram; 2],
    throttled: [Counter<f64, AtomicU64>; 2],
}

/// What became of a connection to a server that was dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialled {
    /// The server answered the handshake with 101.
    Opened,
    /// With another status.
    Refused,
    Failed(&'static str),
}

impl Dialled {
    fn label(self) -> &'static str {
        match self {
            Dialled::Opened => "opened",
            Dialled::Refused => "refused",
            Dialled::Failed(why) => why,
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let handshakes = Family::default();
        registry.register(
            "tidegate_handshakes",
            "Opening handshakes. opened: 101; refused: by the gateway; failed: because of the upstream",
            handshakes.clone(),
        );
        let refusals = Family::default();
        registry.register(
            "tidegate_refusals",
            "Requests that were refused, handshakes and others, by the reason that the log gives",
            refusals.clone(),
        );
        let seconds: Histograms = Family::new_with_constructor(|| Histogram::new(HANDSHAKE_SECONDS));
        registry.register(
            "tidegate_handshake_seconds",
            "From the head of a handshake to the gateway's answer, dialling included",
            seconds.clone(),
        );
        let session_seconds = Histogram::new(SESSION_SECONDS);
        registry.register("tidegate_session_seconds", "How long ended sessions lived", session_seconds.clone());
        let ended = Family::default();
        registry.register(
            "tidegate_sessions_ended",
            "Ended sessions, by the cause that the log gives and the side that brought it about",
            ended.clone(),
        );
        let closes = Family::default();
        registry.register(
            "tidegate_closes",
            "Close frames that clients and upstreams were sent, and those received from them, by code; 1005: without one",
            closes.clone(),
        );
        let connects = Family::default();
        registry.register(
            "tidegate_upstream_connects",
            "Handshakes that were tried with a server, by what came of them",
            connects.clone(),
        );
        let requests = Family::default();
        registry.register(
            "tidegate_http_requests",
            "Requests of plain HTTP that an upstream answered, by class of status",
            requests.clone(),
        );
        let pings: Counters<1> = Family::default();
        registry.register(
            "tidegate_pings_sent",
            "Pings of the gateway's own to quiet clients and upstreams",
            pings.clone(),
        );
        let round_trips: Histograms = Family::new_with_constructor(|| Histogram::new(ROUND_TRIP_SECONDS));
        registry.register(
            "tidegate_ping_round_trip_seconds",
            "From a ping of the gateway's own to the pong that answers it",
            round_trips.clone(),
        );
        let throttled: Family<Labels<1>, Counter<f64, AtomicU64>> = Family::default();
        registry.register(
            "tidegate_throttled_seconds",
            "For how long sides of sessions, which sent more than a rate allows, were not read",
            throttled.clone(),
        );
        let peers = [Side::Client, Side::Upstream].map(|side| [word("peer", side.label())]);
        let pings = peers.each_ref().map(|peer| pings.get_or_create_owned(peer));
        let round_trips = peers.each_ref().map(|peer| round_trips.get_or_create_owned(peer));
        let throttled = peers.each_ref().map(|peer| throttled.get_or_create_owned(peer));
        let of = |outcome| seconds.get_or_create_owned(&[("outcome", Cow::Borrowed(outcome))]);
        let (opened_seconds, refused_seconds) = (of("opened"), of("refused"));
        Metrics {
            registry,
            handshakes,
            refusals,
            opened_seconds,
            refused_seconds,
            session_seconds,
            ended,
            closes,
            connects,
            dialled: Mutex::default(),
            requests,
            pings,
            round_trips,
            throttled,
        }
    }

    /// A handshake that got its 101.
    pub fn opened(&self, route: &str, took: Duration) {
        self.handshakes.get_or_create(&[name("route", route), word("outcome", "opened")]).inc();
        self.opened_seconds.observe(took.as_secs_f64());
    }

    /// A request that was refused; `took` where it was a handshake.
    pub fn refused(&self, route: Option<&str>, refusal: &Refusal, took: Option<Duration>) {
        let route = route.unwrap_or_default();
        self.refusals.get_or_create(&[name("route", route), word("reason", refusal.label())]).inc();
        if let Some(took) = took {
            let outcome = if refusal.is_upstreams() { "failed" } else { "refused" };
            self.handshakes.get_or_create(&[name("route", route), word("outcome", outcome)]).inc();
            self.refused_seconds.observe(took.as_secs_f64());
        }
    }

    /// A connection that was closed before there was a request.
    pub fn turned_away(&self, reason: &'static str) {
        self.refusals.get_or_create(&[word("route", ""), word("reason", reason)]).inc();
    }

    pub fn ended(&self, route: &str, end: &End) {
        let (cause, side) = (word("cause", end.cause.label()), word("side", end.side.label()));
        self.ended.get_or_create(&[name("route", route), cause, side]).inc();
        self.session_seconds.observe(end.duration.as_secs_f64());
        for (side, codes) in [(Side::Client, end.client), (Side::Upstream, end.upstream)] {
            for (direction, code) in [("sent", codes.sent), ("received", codes.received)] {
                let Some(code) = code else { continue };
                let labels = [word("peer", side.label()), word("direction", direction), word("code", bucket(code))];
                self.closes.get_or_create(&labels).inc();
            }
        }
    }

    /// A ping of ours was written to a side.
    pub fn pinged(&self, side: Side) {
        self.pings[peer(side)].inc();
    }

    /// A side answered one.
    pub fn answered(&self, side: Side, took: Duration) {
        self.round_trips[peer(side)].observe(took.as_secs_f64());
    }

    /// A side has to wait so much longer for its turn.
    pub fn throttled(&self, side: Side, time: Duration) {
        self.throttled[peer(side)].inc_by(time.as_secs_f64());
    }

    /// A handshake that was tried with a server, which the configuration names so.
    pub fn dialled(&self, upstream: &str, server: &str, outcome: Dialled) {
        let labels = [name("upstream", upstream), name("server", server), word("outcome", outcome.label())];
        if let Some(count) = self.connects.get(&labels) {
            count.inc();
            return;
        }
        self.connects.get_or_create(&labels).inc();
        self.dialled.lock().unwrap_or_else(PoisonError::into_inner).push(labels);
    }

    /// Forgets the servers of upstreams that are not served any more.
    pub fn forget(&self, is_served: impl Fn(&str, &str) -> bool) {
        self.dialled.lock().unwrap_or_else(PoisonError::into_inner).retain(|labels| {
            let [(_, upstream), (_, server), _] = labels;
            let is_kept = is_served(upstream, server);
            if !is_kept {
                self.connects.remove(labels);
            }
            is_kept
        });
    }

    /// A request of plain HTTP whose answer is on its way.
    pub fn passed(&self, route: &str, status: u16) {
        self.requests.get_or_create(&[name("route", route), word("status", class(status))]).inc();
    }

    /// Everything, in the format.
    pub fn expose(&self, now: Now, format: Format) -> String {
        let mut present = Registry::default();
        present.register_collector(Box::new(now));
        let mut text = String::new();
        let written =
            [&self.registry, &present].into_iter().try_for_each(|registry| encode_registry(&mut text, registry));
        written.and_then(|()| encode_eof(&mut text)).expect("a String takes everything");
        match format {
            Format::OpenMetrics => text,
            Format::Text => older(&text),
        }
    }
}

/// What a scrape asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    OpenMetrics,
    /// Prometheus' text format, version 0.0.4.
    Text,
}

impl Format {
    /// By the `Accept` field of a scrape.
    pub fn wanted(accept: &str) -> Format {
        if accept.contains("application/openmetrics-text") { Format::OpenMetrics } else { Format::Text }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The older format describes a counter by the name of its samples, and knows no end mark.
fn older(text: &str) -> String {
    let counters: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut out = String::with_capacity(text.len());
    for line in text.lines().filter(|line| *line != "# EOF") {
        let described = ["# HELP ", "# TYPE "].into_iter().find_map(|mark| {
            let (name, rest) = line.strip_prefix(mark)?.split_once(' ')?;
            counters.contains(&name).then(|| format!("{mark}{name}_total {rest}\n"))
        });
        match described {
            Some(line) => out.push_str(&line),
            None => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

/// What is so at the moment of a scrape.
#[derive(Debug, Default)]
pub struct Now {
    pub version: &'static str,
    /// Sessions with each server, by route.
    pub sessions: Vec<OpenSessions>,
    /// By route.
    pub traffic: Vec<TrafficNow>,
    pub connections: usize,
    pub connections_pending: usize,
    pub held_bytes: usize,
    /// Of each table that has entries of clients, how many.
    pub client_entries: [(&'static str, usize); 3],
    pub draining: bool,
    pub servers: Vec<ServerNow>,
    /// That went well, and that failed.
    pub reloads: [u64; 2],
    /// When the configuration that runs was loaded, in seconds of Unix time.
    pub config_loaded: f64,
    /// The last reload went well, or there was none.
    pub config_ok: bool,
    pub certificates: Vec<CertificateNow>,
    pub log_lines_lost: u64,
}

#[derive(Debug)]
pub struct OpenSessions {
    pub route: String,
    pub upstream: String,
    pub server: String,
    pub open: usize,
}

/// What sessions have carried since the process began, ended ones and open ones.
#[derive(Debug)]
pub struct TrafficNow {
    pub route: String,
    pub flow: Flow,
}

#[derive(Debug)]
pub struct ServerNow {
    pub upstream: String,
    pub server: String,
    /// A word of a closed list.
    pub state: &'static str,
    /// So many of its addresses are in that state.
    pub addresses: usize,
}

#[derive(Debug)]
pub struct CertificateNow {
    /// Where it is shown: `listener 0.0.0.0:443`, `upstream chat`.
    pub at: String,
    pub file: String,
    /// In seconds of Unix time.
    pub expires: f64,
}

impl Collector for Now {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let sessions = self.sessions.iter().map(|now| {
            let labels = [("route", now.route.as_str()), ("upstream", &now.upstream), ("server", &now.server)];
            (labels, now.open)
        });
        gauges(&mut to, "tidegate_sessions_open", "WebSocket sessions that are open", sessions)?;
        self.traffic(&mut to)?;
        gauge(&mut to, "tidegate_connections_open", "Connections of clients that are open", self.connections)?;
        gauge(
            &mut to,
            "tidegate_connections_pending",
            "Connections of clients whose handshake is not finished",
            self.connections_pending,
        )?;
        gauge(
            &mut to,
            "tidegate_held_bytes",
            "Bytes that sessions hold: refused by a slow peer, or waiting for a rate",
            self.held_bytes,
        )?;
        let entries = self.client_entries.map(|(table, entries)| ([("table", table)], entries));
        gauges(
            &mut to,
            "tidegate_client_entries",
            "What is remembered of clients: those with sessions, rates that are not full again, sticky Socket.IO sessions",
            entries,
        )?;
        gauge(&mut to, "tidegate_draining", "1 while the gateway stops", usize::from(self.draining))?;
        let servers = self.servers.iter().map(|now| {
            ([("upstream", now.upstream.as_str()), ("server", &now.server), ("state", now.state)], now.addresses)
        });
        gauges(
            &mut to,
            "tidegate_upstream_server_addresses",
            "Addresses of a server, by the state that they are in; only those that are up get new sessions",
            servers,
        )?;
        let outcomes = ["ok", "failed"].map(|outcome| [("outcome", outcome)]);
        let reloads = outcomes.into_iter().zip(self.reloads);
        counters(&mut to, "tidegate_config_reloads", "Reloads of the configuration", reloads)?;
        gauge(
            &mut to,
            "tidegate_config_loaded_timestamp_seconds",
            "When the configuration that runs was loaded",
            self.config_loaded,
        )?;
        gauge(
            &mut to,
            "tidegate_config_last_reload_ok",
            "0 where the last reload failed, and an older configuration runs",
            usize::from(self.config_ok),
        )?;
        let certificates = self.certificates.iter();
        let certificates = certificates.map(|now| ([("at", now.at.as_str()), ("file", &now.file)], now.expires));
        gauges(
            &mut to,
            "tidegate_certificate_expiry_timestamp_seconds",
            "When a certificate expires that is shown to clients or to upstreams",
            certificates,
        )?;
        let help = "Lines of the log that came faster than they could be written";
        counter(&mut to, "tidegate_log_lines_lost", help, self.log_lines_lost)?;
        gauges(&mut to, "tidegate_build_info", "1, with the version", [([("version", self.version)], 1_usize)])?;
        process(&mut to)
    }
}

impl Now {
    fn traffic(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let sides = || {
            self.traffic.iter().flat_map(|TrafficNow { route, flow }| {
                let Flow { from_client, from_upstream, texts } = flow;
                let [client, upstream] = [Side::Client, Side::Upstream].map(|side| (route.as_str(), side.label()));
                [(client, from_client, texts.from_client), (upstream, from_upstream, texts.from_upstream)]
            })
        };
        let messages = sides().flat_map(|((route, from), sent, texts)| {
            let of = |kind, count| ([("route", route), ("from", from), ("kind", kind)], count);
            [of("text", texts), of("binary", sent.messages.saturating_sub(texts))]
        });
        counters(to, "tidegate_messages", "Data messages that began to pass", messages)?;
        let bytes = sides().map(|((route, from), sent, _)| ([("route", route), ("from", from)], sent.bytes));
        counters(
            to,
            "tidegate_message_bytes",
            "Payload bytes of data frames that passed, compressed ones as they are",
            bytes,
        )
    }
}

/// The names that Prometheus' own libraries use; none of them where the system does not tell.
fn process(to: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let Some(process) = Process::now() else { return Ok(()) };
    gauge(to, "process_resident_memory_bytes", "Resident memory", process.resident_bytes)?;
    gauge(to, "process_virtual_memory_bytes", "Virtual memory", process.virtual_bytes)?;
    gauge(to, "process_open_fds", "Open file descriptors", process.descriptors)?;
    gauge(to, "process_max_fds", "How many there may be", process.descriptors_max)?;
    gauge(to, "process_threads", "Threads", process.threads)?;
    gauge(to, "process_start_time_seconds", "When the process began, in seconds of Unix time", process.started)?;
    counter(to, "process_cpu_seconds", "Processor time that was used", process.cpu_seconds)
}

fn gauge<V>(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: V) -> fmt::Result
where
    V: EncodeGaugeValue,
    ConstGauge<V>: EncodeMetric,
{
    ConstGauge::new(value).encode(to.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn gauges<V, K, const N: usize>(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = ([(&'static str, K); N], V)>,
) -> fmt::Result
where
    V: EncodeGaugeValue,
    K: EncodeLabelValue,
    ConstGauge<V>: EncodeMetric,
{
    let mut family = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in series {
        ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn counters<K, const N: usize>(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = ([(&'static str, K); N], u64)>,
) -> fmt::Result
where
    K: EncodeLabelValue,
{
    let mut family = to.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in series {
        ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn counter<V>(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: V) -> fmt::Result
where
    V: EncodeCounterValue,
    ConstCounter<V>: EncodeMetric,
{
    ConstCounter::new(value).encode(to.encode_descriptor(name, help, None, MetricType::Counter)?)
}

fn peer(side: Side) -> usize {
    usize::from(side == Side::Upstream)
}

/// A label whose value is a word of a closed list.
fn word(label: &'static str, value: &'static str) -> (&'static str, Cow<'static, str>) {
    (label, Cow::Borrowed(value))
}

/// One whose value the configuration names.
fn name(label: &'static str, value: &str) -> (&'static str, Cow<'static, str>) {
    (label, Cow::Owned(value.to_owned()))
}

/// Peers choose their codes: those without a meaning of their own are counted together.
fn bucket(code: Code) -> &'static str {
    match code {
        1000 => "1000",
        1001 => "1001",
        1002 => "1002",
        1003 => "1003",
        1005 => "1005",
        1007 => "1007",
        1008 => "1008",
        1009 => "1009",
        1010 => "1010",
        1011 => "1011",
        1012 => "1012",
        1013 => "1013",
        1014 => "1014",
        3000..=3999 => "3xxx",
        4000..=4999 => "4xxx",
        _ => "other",
    }
}

fn class(status: u16) -> &'static str {
    match status {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        500..=599 => "5xx",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_names_counters_as_their_samples() {
        let metrics = Metrics::new();
        metrics.opened("a\"b\\c\nd", Duration::from_millis(3));
        let open = metrics.expose(Now::default(), Format::OpenMetrics);
        let older = metrics.expose(Now::default(), Format::Text);
        assert!(open.contains("# TYPE tidegate_handshakes counter\n") && open.ends_with("# EOF\n"), "{open}");
        assert!(older.contains("# TYPE tidegate_handshakes_total counter\n") && !older.contains("# EOF"), "{older}");
        let sample = "tidegate_handshakes_total{route=\"a\\\"b\\\\c\\nd\",outcome=\"opened\"} 1\n";
        assert!(open.contains(sample) && older.contains(sample), "{older}");
        assert!(older.contains("# TYPE tidegate_handshake_seconds histogram\n"), "{older}");
    }

    #[test]
    fn a_server_that_is_gone_leaves_no_series() {
        let metrics = Metrics::new();
        let series =
            || metrics.expose(Now::default(), Format::Text).matches("tidegate_upstream_connects_total{").count();
        for server in ["ws://a", "ws://b"] {
            for outcome in [Dialled::Opened, Dialled::Failed("not_connected"), Dialled::Opened] {
                metrics.dialled("chat", server, outcome);
            }
        }
        assert_eq!(series(), 4);
        metrics.forget(|upstream, server| (upstream, server) == ("chat", "ws://a"));
        assert_eq!(series(), 2);
        metrics.dialled("chat", "ws://b", Dialled::Opened);
        assert_eq!(series(), 3, "it is back");
        metrics.forget(|_, _| false);
        assert_eq!(series(), 0);
    }

    #[test]
    fn codes_that_peers_choose_are_few() {
        let labels: std::collections::BTreeSet<_> = (0..=Code::MAX).map(bucket).collect();
        assert!(labels.len() < 20, "{labels:?}");
    }
}
