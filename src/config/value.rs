//! Single values: durations, sizes, rates, addresses, origins, hosts, paths. Text in, a valid value or a [`Wrong`] out.
//!
//! Strict: one way to write a thing, and a refusal names it. No position, no file and no environment here.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroU64};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::HeaderName;
use http::uri::PathAndQuery;
use ipnet::{IpNet, Ipv4Net};

use super::model::{
    Balance, ByteRate, ClientBy, HostPattern, ListenerAddress, Location, Network, OriginPattern, Rate, Server,
    ServerAddress,
};
use super::tree::{Node, Value};
use crate::policy::origin::default_port;
use crate::policy::route;
use crate::proto::fields;
use crate::proto::fields::grammar::is_token;
use crate::proto::refusal::Refusal;

/// Why a value is refused, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub message: String,
    pub help: Option<String>,
}

impl Wrong {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

pub(super) type Parsed<T> = Result<T, Wrong>;

/// The longest duration: timers must stay within what a clock can hold.
const DURATION_MAX: Duration = Duration::from_secs(365 * 86_400);
const DURATION_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZE_UNITS: [(&str, u64); 7] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];
const RATE_UNITS: [(&str, u64); 3] = [("s", 1), ("m", 60), ("h", 3_600)];

// Nodes: the TOML type, then the text.

pub(super) fn text(node: &Node) -> Parsed<&str> {
    match &node.value {
        Value::Text(text) => Ok(text),
        _ => Err(Wrong::new(format!("{} stands where a string is wanted", node.kind())).help("put it in quotes")),
    }
}

/// A reader of strings out of a reader of text.
pub(super) fn string<T>(parse: impl Fn(&str) -> Parsed<T>) -> impl Fn(&Node) -> Parsed<T> {
    move |node| match &node.value {
        // A bare number is most often a quantity without its unit: that is what to say.
        Value::Integer(number) => match parse(&number.to_string()) {
            Ok(_) => text(node).map(|_| unreachable!("a number is no string")),
            Err(wrong) => Err(wrong),
        },
        _ => parse(text(node)?),
    }
}

pub(super) fn boolean(node: &Node) -> Parsed<bool> {
    match &node.value {
        Value::Bool(value) => Ok(*value),
        Value::Text(text) if text == "true" || text == "false" => {
            let value = text == "true";
            if node.substituted { Ok(value) } else { Err(quoted(text)) }
        }
        Value::Text(text) => Err(Wrong::new(format!("{text:?} is neither true nor false"))),
        _ => Err(Wrong::new(format!("{} stands where true or false is wanted", node.kind()))),
    }
}

pub(super) fn number(range: RangeInclusive<u64>) -> impl Fn(&Node) -> Parsed<u64> {
    move |node| {
        let number = match &node.value {
            Value::Integer(number) => *number,
            Value::Text(text) => match text.parse() {
                Ok(_) if !node.substituted => return Err(quoted(text)),
                Ok(number) => number,
                Err(_) => return Err(Wrong::new(format!("{text:?} is not a number"))),
            },
            _ => {
                return Err(Wrong::new(format!("{} stands where a number is wanted", node.kind())));
            }
        };
        match u64::try_from(number) {
            Ok(number) if range.contains(&number) => Ok(number),
            Ok(number) if number < *range.start() && *range.end() >= u64::from(u32::MAX) => {
                Err(Wrong::new(format!("{number} is not allowed")).help(format!("at least {}", range.start())))
            }
            _ => Err(Wrong::new(format!("{number} is not allowed")).help(format!(
                "from {} to {}",
                range.start(),
                range.end()
            ))),
        }
    }
}

fn quoted(text: &str) -> Wrong {
    Wrong::new(format!("{text:?} is a string")).help(format!("write {text} without quotes"))
}

/// `"off"`, or else what `parse` reads.
pub(super) fn or_off<T>(parse: impl Fn(&Node) -> Parsed<T>) -> impl Fn(&Node) -> Parsed<Option<T>> {
    move |node| match &node.value {
        Value::Text(text) if text == "off" => Ok(None),
        Value::Bool(false) => Err(Wrong::new("false does not turn this off").help("write \"off\"")),
        _ => parse(node)
            .map(Some)
            .map_err(|wrong| Wrong { help: wrong.help.map(|help| format!("{help}, or \"off\"")), ..wrong }),
    }
}

/// One of a few words.
pub(super) fn one_of<T: Copy>(words: &'static [(&'static str, T)]) -> impl Fn(&Node) -> Parsed<T> {
    move |node| {
        let text = text(node)?;
        words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
            let known: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            let wrong = Wrong::new(format!("{text:?} is not one of {}", known.join(", ")));
            match nearest(text, words.iter().map(|(word, _)| *word)) {
                Some(word) => wrong.help(format!("did you mean {word:?}?")),
                None => wrong,
            }
        })
    }
}

/// The candidate that a misspelt word most likely meant.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

// Quantities.

/// A duration above zero.
pub(super) fn duration(text: &str) -> Parsed<Duration> {
    match duration_or_zero(text)? {
        Duration::ZERO => Err(Wrong::new("a duration of zero makes no sense here").help("at least \"1ms\"")),
        duration => Ok(duration),
    }
}

pub(super) fn duration_or_zero(text: &str) -> Parsed<Duration> {
    let (count, unit) = quantity(text, &DURATION_UNITS).map_err(|near| {
        Wrong::new(format!("{text:?} is not a duration")).help(match near {
            Some(near) => format!("write {near:?}"),
            None => "a whole number and a unit: \"500ms\", \"30s\", \"5m\", \"1h\", \"2d\"".to_owned(),
        })
    })?;
    count
        .checked_mul(unit)
        .map(Duration::from_millis)
        .filter(|duration| *duration <= DURATION_MAX)
        .ok_or_else(|| Wrong::new(format!("{text:?} is too long")).help("at most \"365d\""))
}

/// A size in bytes, above zero.
pub(super) fn size(text: &str) -> Parsed<u64> {
    let (count, unit) = quantity(text, &SIZE_UNITS).map_err(|near| {
        Wrong::new(format!("{text:?} is not a size")).help(match near {
            Some(near) => format!("write {near:?}"),
            None => "a whole number and a unit: \"512B\", \"64KiB\", \"16MiB\", \"1GB\"".to_owned(),
        })
    })?;
    match count.checked_mul(unit) {
        Some(0) => Err(Wrong::new("a size of zero makes no sense here")),
        // A frame's length has 63 bits (RFC 6455 section 5.2).
        Some(bytes) if bytes <= i64::MAX as u64 => Ok(bytes),
        _ => Err(Wrong::new(format!("{text:?} is too big"))),
    }
}

/// `"10/s"`: at least one in a period.
pub(super) fn rate(text: &str) -> Parsed<Rate> {
    let help = "a whole number, \"/\" and a unit: \"10/s\", \"600/m\", \"5/h\"";
    let wrong = || Wrong::new(format!("{text:?} is not a rate")).help(help);
    let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
    let (_, seconds) = RATE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let count = whole(count).and_then(|count| u32::try_from(count).ok()).ok_or_else(wrong)?;
    let count = NonZeroU32::new(count).ok_or_else(|| Wrong::new("a rate of zero would refuse everyone"))?;
    Ok(Rate { count, per: Duration::from_secs(*seconds) })
}

/// `"1MiB/s"`: at least a byte in a period.
pub(super) fn byte_rate(text: &str) -> Parsed<ByteRate> {
    let help = "a size, \"/\" and a unit: \"64KiB/s\", \"600MiB/m\", \"10GiB/h\"";
    let wrong = || Wrong::new(format!("{text:?} is not a rate of bytes")).help(help);
    let (bytes, unit) = text.split_once('/').ok_or_else(wrong)?;
    let (_, seconds) = RATE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let bytes = NonZeroU64::new(size(bytes)?).ok_or_else(wrong)?;
    Ok(ByteRate { bytes, per: Duration::from_secs(*seconds) })
}

/// A number and the factor of its unit; or, of what is close to one, how it would be written.
fn quantity(text: &str, units: &[(&str, u64)]) -> Result<(u64, u64), Option<String>> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (count, unit) = text.split_at(digits);
    let exact = units.iter().find(|(name, _)| *name == unit);
    if let (Some(count), Some((_, factor))) = (whole(count), exact) {
        return Ok((count, *factor));
    }
    let plain_unit = if units[0].0 == "B" { "B" } else { "s" };
    let unit = match unit.trim_start() {
        "" => plain_unit.to_lowercase(),
        unit => unit.to_lowercase(),
    };
    let is_word = !count.is_empty() && unit.chars().all(char::is_alphabetic);
    let same = |(name, _): &&(&str, u64)| name.to_lowercase() == unit;
    let begins = |(name, _): &&(&str, u64)| name.to_lowercase().starts_with(&unit[..1]);
    let near = || units.iter().find(same).or_else(|| units.iter().find(begins));
    Err(match is_word && unit.is_ascii() {
        true => near().map(|(name, _)| format!("{count}{name}")),
        false => None,
    })
}

/// Digits alone: `u64::from_str` would take a sign as well.
fn whole(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Balance::RoundRobin => f.write_str("round-robin"),
            Balance::LeastConnections => f.write_str("least-connections"),
            Balance::RandomTwo => f.write_str("random-two"),
            Balance::Hash(ClientBy::Address) => f.write_str("hash:client"),
            Balance::Hash(ClientBy::Header(name)) => write!(f, "hash:header:{name}"),
            Balance::Hash(ClientBy::Cookie(name)) => write!(f, "hash:cookie:{name}"),
            Balance::Hash(ClientBy::Query(name)) => write!(f, "hash:query:{name}"),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, show_period(self.per))
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", show_size(self.bytes.get()), show_period(self.per))
    }
}

fn show_period(per: Duration) -> &'static str {
    RATE_UNITS.iter().find(|(_, seconds)| Duration::from_secs(*seconds) == per).map_or("s", |(name, _)| name)
}

/// As [`duration`] reads it, in the largest unit that holds it.
pub(super) fn show_duration(duration: Duration) -> String {
    show(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &DURATION_UNITS)
}

/// As [`size`] reads it, in the largest binary unit that holds it.
pub(super) fn show_size(bytes: u64) -> String {
    show(bytes, &SIZE_UNITS[..4])
}

fn show(count: u64, units: &[(&str, u64)]) -> String {
    let (name, factor) =
        units.iter().rev().find(|(_, factor)| count != 0 && count.is_multiple_of(*factor)).unwrap_or(&units[0]);
    format!("{}{name}", count / factor)
}

// Addresses.

/// Where a listener listens.
pub(super) fn listener_address(text: &str) -> Parsed<ListenerAddress> {
    match text.strip_prefix("unix:") {
        Some(path) => unix_path(path, text).map(ListenerAddress::Unix),
        None => socket_address(text).map(ListenerAddress::Tcp),
    }
}

/// An address to listen on.
pub(super) fn socket_address(text: &str) -> Parsed<SocketAddr> {
    text.parse().map_err(|_| {
        let wrong = Wrong::new(format!("{text:?} is not an IP address and port"));
        let port = text.rsplit_once(':').map_or("8080", |(_, port)| port);
        match text.rsplit_once(':') {
            Some(("", _)) => wrong.help(format!("for every address write \"0.0.0.0:{port}\" or \"[::]:{port}\"")),
            Some(("localhost", _)) => wrong.help(format!("write \"127.0.0.1:{port}\" or \"[::1]:{port}\"")),
            _ if text.parse::<Ipv6Addr>().is_ok() => wrong.help(format!("write \"[{text}]:8080\"")),
            _ => wrong.help("like \"127.0.0.1:8080\", \"0.0.0.0:8080\" or \"[::]:8080\""),
        }
    })
}

/// A local address to connect from.
pub(super) fn source_address(text: &str) -> Parsed<IpAddr> {
    let Ok(address) = text.parse::<IpAddr>() else {
        return Err(Wrong::new(format!("{text:?} is not an IP address")).help("like \"10.0.0.2\" or \"fd00::2\""));
    };
    let address = address.to_canonical();
    let no_host = match address {
        IpAddr::V4(address) => address.is_broadcast(),
        // It would need a zone, which differs from machine to machine.
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    if no_host || address.is_unspecified() || address.is_multicast() {
        return Err(Wrong::new(format!("nothing can be sent from {address}")).help("write an address of this machine"));
    }
    Ok(address)
}

/// A name server, on the port of DNS where none is written.
pub(super) fn name_server(text: &str) -> Parsed<SocketAddr> {
    const PORT: u16 = 53;
    let address = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, PORT));
    match address.or_else(|_| text.parse()) {
        Ok(address) if address.port() > 0 && !address.ip().is_unspecified() => Ok(address),
        _ => {
            let wrong = Wrong::new(format!("{text:?} is not the address of a name server"));
            Err(wrong.help("like \"10.0.0.53\", \"10.0.0.53:5353\" or \"[fd00::53]:5353\""))
        }
    }
}

/// A network, or one address.
pub(super) fn network(text: &str) -> Parsed<IpNet> {
    let address = |text: &str| IpAddr::from_str(text).map(IpNet::from);
    match IpNet::from_str(text).or_else(|_| address(text)) {
        Ok(net) => Ok(canonical(net.trunc())),
        Err(_) => {
            Err(Wrong::new(format!("{text:?} is not a network"))
                .help("like \"10.0.0.0/8\", \"fd00::/8\" or \"10.0.0.7\""))
        }
    }
}

/// IPv4 written as IPv6 is IPv4: addresses are compared in that form.
fn canonical(net: IpNet) -> IpNet {
    match (net.network().to_canonical(), net.prefix_len().checked_sub(96)) {
        (IpAddr::V4(address), Some(prefix)) if net.network().is_ipv6() => {
            Ipv4Net::new(address, prefix).map_or(net, IpNet::V4)
        }
        _ => net,
    }
}

/// By what a route tells its clients apart.
pub(super) fn client(text: &str) -> Parsed<ClientBy> {
    let help = "\"address\", \"header:NAME\", \"cookie:NAME\" or \"query:NAME\"";
    let (kind, name) = text.split_once(':').unwrap_or((text, ""));
    let is_name = is_token(name);
    match (kind, HeaderName::from_bytes(name.as_bytes())) {
        ("address", _) if text == kind => Ok(ClientBy::Address),
        ("header", Ok(name)) => Ok(ClientBy::Header(name)),
        ("cookie", _) if is_name => Ok(ClientBy::Cookie(name.to_owned())),
        ("query", _) if is_name => Ok(ClientBy::Query(name.to_owned())),
        ("header" | "cookie" | "query", _) => {
            Err(Wrong::new(format!("{name:?} is not the name of a {kind}")).help(format!("like \"{kind}:x-user\"")))
        }
        _ => Err(Wrong::new(format!("{text:?} tells no clients apart")).help(help)),
    }
}

/// Which server is next.
pub(super) fn balance(text: &str) -> Parsed<Balance> {
    const WORDS: [&str; 4] = ["round-robin", "least-connections", "random-two", "hash:client"];
    match text.split_once(':') {
        Some(("hash", "client")) => Ok(Balance::Hash(ClientBy::Address)),
        Some(("hash", by)) if by != "address" => client(by).map(Balance::Hash).map_err(|wrong| {
            let help = "\"hash:client\", \"hash:header:NAME\", \"hash:cookie:NAME\" or \"hash:query:NAME\"";
            wrong.help(help)
        }),
        _ => match WORDS.iter().position(|word| *word == text) {
            Some(0) => Ok(Balance::RoundRobin),
            Some(1) => Ok(Balance::LeastConnections),
            Some(_) => Ok(Balance::RandomTwo),
            None => {
                let wrong = Wrong::new(format!("{text:?} is no way to balance"));
                Err(match nearest(text, WORDS) {
                    Some(word) => wrong.help(format!("did you mean {word:?}?")),
                    None => wrong.help("\"round-robin\", \"least-connections\", \"random-two\" or \"hash:client\""),
                })
            }
        },
    }
}

/// An entry of `allow` or `deny`.
pub(super) fn clients(text: &str) -> Parsed<Network> {
    match text {
        "any" => Ok(Network::Any),
        "unix" => Ok(Network::Unix),
        _ => network(text).map(Network::Ip).map_err(|wrong| match nearest(text, ["any", "unix"]) {
            Some(word) => wrong.help(format!("did you mean {word:?}?")),
            None => wrong,
        }),
    }
}

/// The name of a cookie (RFC 6265 section 4.1.1).
pub(super) fn cookie_name(text: &str) -> Parsed<String> {
    match is_token(text) {
        true => Ok(text.to_owned()),
        false => Err(Wrong::new(format!("{text:?} is not the name of a cookie")).help("like \"tidegate\"")),
    }
}

/// The path of a cookie (RFC 6265 section 4.1.1): no `;`, which would begin another attribute.
pub(super) fn cookie_path(text: &str) -> Parsed<String> {
    match text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';') {
        true => Ok(text.to_owned()),
        false => Err(Wrong::new(format!("{text:?} is not the path of a cookie")).help("like \"/\"")),
    }
}

/// The name of a header field that holds something of the client's own.
pub(super) fn field_name(text: &str) -> Parsed<HeaderName> {
    let name = HeaderName::from_str(text)
        .map_err(|_| Wrong::new(format!("{text:?} is not the name of a header field")).help("like \"X-API-Key\""))?;
    match fields::is_ours(&name) {
        true => Err(Wrong::new(format!("{text:?} has a meaning of its own")).help("like \"X-API-Key\"")),
        false => Ok(name),
    }
}

/// The name of a header field that a route sets or removes.
pub(super) fn edited_field(text: &str) -> Parsed<HeaderName> {
    let name = HeaderName::from_str(text)
        .map_err(|_| Wrong::new(format!("{text:?} is not the name of a header field")).help("like \"X-Service\""))?;
    match fields::is_fixed(&name) {
        Some(reason) => Err(Wrong::new(format!("{text} {reason}")).help("remove it here")),
        None => Ok(name),
    }
}

/// Where a redirect leads: `https://` or `http://`, a host or `{host}`, and at the end `{path}` or a fixed path.
pub(super) fn location(text: &str) -> Parsed<Location> {
    let example = "like \"https://www.example.com{path}\" or \"https://{host}:8443{path}\"";
    let (rest, keeps_path) = text.strip_suffix("{path}").map_or((text, false), |rest| (rest, true));
    let Some(scheme) = ["https://", "http://"].into_iter().find(|scheme| rest.starts_with(scheme)) else {
        return Err(Wrong::new(format!("{text:?} is no address to send a client to")).help(example));
    };
    let rest = &rest[scheme.len()..];
    let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let port = host.strip_prefix("{host}");
    authority_parts(&port.map_or(host.to_owned(), |port| format!("host{port}")))?;
    if keeps_path && !path.is_empty() && self::path(path, true, false)? == "/" {
        return Err(Wrong::new("\"{path}\" begins with \"/\"").help(example));
    }
    let is_plain = |c: char| c.is_ascii_graphic() && !"{}\\\"<>^`|".contains(c);
    if !path.chars().all(is_plain) {
        return Err(Wrong::new(format!("{path:?} cannot stand in an address")).help("\"{path}\" stands at the end"));
    }
    let front = if port.is_some() { scheme.to_owned() } else { format!("{scheme}{host}") };
    Ok(Location { front, same_host: port.is_some(), behind: format!("{}{path}", port.unwrap_or("")), keeps_path })
}

/// The value of a header field, as conditions compare it and as it is sent.
pub(super) fn field_value(text: &str) -> Parsed<String> {
    let is_value = |c: char| c == '\t' || (' '..='~').contains(&c);
    match text.trim_matches([' ', '\t']) == text && text.chars().all(is_value) {
        true => Ok(text.to_owned()),
        false => Err(Wrong::new(format!("{text:?} is not the value of a header field"))
            .help("visible ASCII characters, with spaces only between them")),
    }
}

/// The name of a parameter of a query, as it is compared: decoded.
pub(super) fn parameter(text: &str) -> Parsed<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => Ok(text.to_owned()),
        false => Err(Wrong::new(format!("{text:?} is not the name of a parameter")).help("letters, digits and -._~")),
    }
}

/// One server of an upstream.
pub(super) fn server(text: &str) -> Parsed<Server> {
    let help = "like \"ws://host:port\", \"wss://host:port/base\" or \"unix:/run/service.sock\"";
    let (scheme, rest) =
        text.split_once(':').ok_or_else(|| Wrong::new(format!("{text:?} has no scheme")).help(help))?;
    let tls = match scheme {
        "unix" => return unix_server(rest, text),
        "ws" => false,
        "wss" => true,
        "http" | "https" => {
            let right = text.replacen("http", "ws", 1);
            return Err(Wrong::new(format!("{scheme}:// is not a WebSocket scheme")).help(format!("write {right:?}")));
        }
        _ => return Err(Wrong::new(format!("{text:?} is not the address of a server")).help(help)),
    };
    let rest = rest
        .strip_prefix("//")
        .ok_or_else(|| Wrong::new(format!("{text:?} is not the address of a server")).help(help))?;
    if let Some(mark) = rest.find(['?', '#']) {
        return Err(Wrong::new(format!("{:?} cannot stand in a server's address", &rest[mark..]))
            .help("the query of the client's request is passed on as it is"));
    }
    let (authority, base) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if authority.contains('@') {
        return Err(Wrong::new("a user name cannot stand in a server's address"));
    }
    let (host, port) = authority_parts(authority)?;
    let port = port.unwrap_or(if tls { 443 } else { 80 });
    let base = if base.is_empty() { String::new() } else { path(base, true, false)? };
    let base = if base == "/" { String::new() } else { base };
    Ok(Server {
        address: ServerAddress::Tcp { host, port },
        tls,
        base,
        text: text.to_owned(),
        weight: 1,
        backup: false,
    })
}

fn unix_server(path: &str, text: &str) -> Parsed<Server> {
    let address = ServerAddress::Unix(unix_path(path, text)?);
    Ok(Server { address, tls: false, base: String::new(), text: text.to_owned(), weight: 1, backup: false })
}

fn unix_path(path: &str, text: &str) -> Parsed<PathBuf> {
    // The longest path that fits sockaddr_un.
    const PATH_MAX: usize = 107;
    if !path.starts_with('/') || path.starts_with("//") {
        return Err(Wrong::new(format!("{text:?} is not an absolute path")).help("like \"unix:/run/service.sock\""));
    }
    if path.len() > PATH_MAX || path.contains('\0') {
        return Err(Wrong::new(format!("a socket's path has at most {PATH_MAX} bytes and no NUL")));
    }
    Ok(PathBuf::from(path))
}

/// Splits `host`, `host:port`, `[v6]:port`; the host in normal form, without brackets.
fn authority_parts(authority: &str) -> Parsed<(String, Option<u16>)> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let port = match port {
        None => None,
        Some(text) => match whole(text).and_then(|port| u16::try_from(port).ok()) {
            Some(port) if port > 0 => Some(port),
            _ => {
                return Err(Wrong::new(format!("{text:?} is not a port")).help("a number from 1 to 65535"));
            }
        },
    };
    Ok((host_name(host)?, port))
}

/// A host in normal form: a lower-case name without trailing dot, or an IP address without brackets.
pub(super) fn host_name(text: &str) -> Parsed<String> {
    if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let address = Ipv6Addr::from_str(inner);
        return address
            .map(|address| address.to_string())
            .map_err(|_| Wrong::new(format!("{text:?} is not an IPv6 address")));
    }
    if let Ok(address) = IpAddr::from_str(text) {
        return match address {
            IpAddr::V4(_) => Ok(address.to_string()),
            IpAddr::V6(_) => {
                Err(Wrong::new(format!("{text:?} has no brackets")).help(format!("write \"[{address}]\"")))
            }
        };
    }
    if !text.is_ascii() {
        return Err(Wrong::new(format!("{text:?} is not an ASCII host name")).help("write its xn-- form (punycode)"));
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let is_label = |label: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let numeric = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    if name.len() > 253 || numeric || !name.split('.').all(is_label) {
        return Err(Wrong::new(format!("{text:?} is not a host name")));
    }
    Ok(name)
}

/// A host that can have others below it.
fn domain_name(text: &str) -> Parsed<String> {
    let name = host_name(text)?;
    match name.parse::<IpAddr>() {
        Ok(_) => Err(Wrong::new(format!("nothing is below the address {text}"))),
        Err(_) => Ok(name),
    }
}

/// The `host` of a route.
pub(super) fn host_pattern(text: &str) -> Parsed<HostPattern> {
    if text == "*" {
        return Err(Wrong::new("\"*\" is not a host").help("leave `host` out for any host"));
    }
    if let Some((_, after)) = text.split_once("://") {
        return Err(Wrong::new("a host has no scheme").help(format!("write {after:?}")));
    }
    if let Some((name, port)) = text.rsplit_once(':')
        && !text.ends_with(']')
        && whole(port).is_some()
        && !name.contains(':')
    {
        return Err(Wrong::new("a host has no port: listeners decide on ports").help(format!("write {name:?}")));
    }
    match text.strip_prefix("*.") {
        Some(below) => domain_name(below).map(HostPattern::Below),
        None => host_name(text).map(HostPattern::Exact),
    }
}

/// The value of a `Host` field: `host` or `host:port`.
pub(super) fn host_header(text: &str) -> Parsed<String> {
    authority_parts(text).map(|_| text.to_owned())
}

/// The target of a health check, below a server's own path.
pub(super) fn check_path(text: &str) -> Parsed<String> {
    let whole = text.parse::<PathAndQuery>().is_ok_and(|parsed| parsed.as_str() == text);
    match text.starts_with('/') && !text.starts_with("//") && whole {
        true => Ok(text.to_owned()),
        false => Err(Wrong::new(format!("{text:?} is not a path")).help("like \"/healthz\" or \"/ready?full=1\"")),
    }
}

/// One status of an answer, or a range of them.
pub(super) fn statuses(node: &Node) -> Parsed<RangeInclusive<u16>> {
    let shown = match &node.value {
        Value::Integer(number) => number.to_string(),
        _ => text(node)?.to_owned(),
    };
    let status = |text: &str| whole(text).and_then(|n| u16::try_from(n).ok()).filter(|n| (200..=599).contains(n));
    let (first, last) = shown.split_once('-').unwrap_or((&shown, &shown));
    match (status(first), status(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        _ => Err(Wrong::new(format!("{shown} is no final status")).help("like 204 or \"200-299\", from 200 to 599")),
    }
}

/// A name for TLS: checked against the server's certificate.
pub(super) fn server_name(text: &str) -> Parsed<String> {
    let name = host_name(text)?;
    match rustls::pki_types::ServerName::try_from(name.as_str()) {
        Ok(_) => Ok(name),
        Err(_) => Err(Wrong::new(format!("{text:?} cannot be the name of a TLS server"))),
    }
}

/// An entry of `origins` that is not a word (RFC 6454 section 4).
pub(super) fn origin(text: &str) -> Parsed<OriginPattern> {
    let help = "like \"https://example.com\", \"https://*.example.com\", \"same-origin\", \"none\" or \"any\"";
    let Some((scheme, rest)) = text.split_once("://") else {
        let wrong = Wrong::new(format!("{text:?} is not an origin"));
        return Err(match nearest(text, ["same-origin", "none", "any"]) {
            Some(word) => wrong.help(format!("did you mean {word:?}?")),
            None if host_name(text.strip_prefix("*.").unwrap_or(text)).is_ok() && text.contains('.') => {
                wrong.help(format!("write \"https://{text}\""))
            }
            None => wrong.help(help),
        });
    };
    let scheme = scheme.to_ascii_lowercase();
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.chars().all(is_scheme) {
        return Err(Wrong::new(format!("{scheme:?} is not a scheme")).help(help));
    }
    if let Some(mark) = rest.find(['/', '?', '#']) {
        return Err(Wrong::new("an origin has no path").help(format!("write \"{scheme}://{}\"", &rest[..mark])));
    }
    let (below, authority) = match rest.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    if authority.contains(['*', '@']) {
        return Err(
            Wrong::new(format!("{text:?} is not an origin")).help("\"*.\" may stand once, right behind \"://\"")
        );
    }
    let (host, port) = authority_parts(authority)?;
    let host = if below { domain_name(&host)? } else { host };
    if let "ws" | "wss" = scheme.as_str() {
        let right = format!("{}://{rest}", scheme.replacen("ws", "http", 1));
        return Err(Wrong::new("the origin is the page's, not the socket's").help(format!("write {right:?}")));
    }
    // Schemes of apps (`capacitor://localhost`) have no default port: 0 stands for none, as in a request's Origin.
    let port = port.or(default_port(&scheme)).unwrap_or(0);
    Ok(OriginPattern { scheme, host, port, below })
}

/// A subprotocol's name: a token (RFC 6455 section 4.1, RFC 9110 section 5.6.2).
pub(super) fn subprotocol(text: &str) -> Parsed<String> {
    let is_tchar = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    match !text.is_empty() && text.chars().all(is_tchar) {
        true => Ok(text.to_owned()),
        false => Err(Wrong::new(format!("{text:?} is not the name of a subprotocol"))
            .help("letters, digits and !#$%&'*+-.^_`|~")),
    }
}

/// Whether nothing in it turns a line around, breaks it or hides in it: control characters, format characters (Cf), and
/// all spaces and separators but the one. They are what `Debug` escapes, quotes aside.
fn is_seen(text: &str) -> bool {
    let plain: String = text.chars().filter(|c| !['"', '\'', '\\'].contains(c)).collect();
    plain.escape_debug().eq(plain.chars())
}

/// A name that stands in logs, metrics and tables.
pub(super) fn name(text: &str) -> Parsed<String> {
    const NAME_MAX: usize = 80;
    match text.trim() == text && !text.is_empty() && text.len() <= NAME_MAX && is_seen(text) {
        true => Ok(text.to_owned()),
        false => Err(Wrong::new(format!("{text:?} cannot be a name"))
            .help(format!("1 to {NAME_MAX} bytes that can be seen: no control or format characters, no outer spaces"))),
    }
}

pub(super) fn file_name(text: &str) -> Parsed<&str> {
    match text.is_empty() || text.contains('\0') {
        true => Err(Wrong::new("the path of a file is wanted")),
        false => Ok(text),
    }
}

// Paths.

/// A path that is already in normal form ([`route::normalise`]): the whole one where it is `exact`, or a prefix, which has
/// a trailing slash only where it is the root.
pub(super) fn path(text: &str, encoded_slashes: bool, exact: bool) -> Parsed<String> {
    if let Some(path) = text.strip_prefix('=').map(str::trim_start).filter(|path| path.starts_with('/')) {
        return Err(Wrong::new("\"=\" stands in no path").help(format!("write {path:?} and `path_exact = true`")));
    }
    if !text.starts_with('/') {
        return Err(Wrong::new(format!("{text:?} does not begin with \"/\"")).help(format!("write \"/{text}\"")));
    }
    if let Some(mark) = text.find(['?', '#']) {
        let right = if mark == 0 { "/" } else { &text[..mark] };
        return Err(Wrong::new("a path has no query and no fragment").help(format!("write {right:?}")));
    }
    if let Some(before) = text.strip_suffix("/*") {
        let right = if before.is_empty() { "/" } else { before };
        return Err(Wrong::new("a path needs no \"*\": all below it belongs to it").help(format!("write {right:?}")));
    }
    // The same function as for requests: a route that is not in their normal form would never match.
    let normal = route::normalise(text, encoded_slashes).map_err(|refusal| match refusal {
        Refusal::PathEncodedSlash => Wrong::new("%2F stands in a path that accepts no encoded slashes")
            .help("add `encoded_slashes = true`, or write \"/\""),
        Refusal::PathDotSegment => Wrong::new("\".\" and \"..\" cannot be segments of a path"),
        Refusal::PathBackslash => Wrong::new("a backslash cannot stand in a path"),
        Refusal::PathControl => Wrong::new("a control character cannot stand in a path"),
        _ => Wrong::new("\"%\" without two hex digits").help("write %25 for a percent sign"),
    })?;
    // A prefix ends where a segment does, so the slash behind it says nothing.
    let normal = match normal.strip_suffix('/') {
        Some(front) if !front.is_empty() && !exact => front.to_owned(),
        _ => normal.into_owned(),
    };
    match normal == text {
        true => Ok(normal),
        false => Err(Wrong::new(format!("{text:?} is not in normal form")).help(format!("write {normal:?}"))),
    }
}

#[cfg(test)]
mod tests;
