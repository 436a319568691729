//! `[[route]]`: one at a time, then against each other.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use crate::config::model::{
    ClientBy, Compression, Conditions, FieldEdits, Heartbeat, HostPattern, Limits, OriginPattern, Origins, PingMode,
    PlainRules, Position, Refuse, RelayRules, Route, Subprotocols,
};
use crate::config::problem::Source;
use crate::config::read::Reader;
use crate::config::show;
use crate::config::tree::{Entry, Node};
use crate::config::value::{self, Parsed, Wrong, boolean, number, one_of, or_off, show_duration, string};

use super::access::{access, keys};
use super::limits::route_limits;
use super::rates::Rates;
use super::target::{rewrite, target, warn_of_idle_keys};
use super::{Upstreams, all, repeated};

/// Host, path, whether it is exact, conditions.
type Matches = (HostPattern, String, bool, Conditions);

/// A route whose name may still be missing, with the places that the other routes are compared at.
pub(super) struct RouteRead {
    pub key: String,
    at: Position,
    name: Option<(String, Position)>,
    /// What it matches, when both could be read.
    matches: Option<Matches>,
    pub upstream: Option<String>,
    pub client: Option<(ClientBy, Position)>,
    route: Option<Route>,
}

pub(super) fn route(
    mut table: Reader<'_, '_>,
    upstreams: &Upstreams,
    source: &Source,
    wider: Option<&Limits>,
) -> RouteRead {
    let at = table.at();
    warn_of_idle_keys(&table);
    let name = table.value("name", |node| Ok((string(value::name)(node)?, node.at)));
    let host_written = table.written("host").is_some();
    let host = table.value("host", string(value::host_pattern));
    let host = if host_written { host } else { Some(HostPattern::Any) };
    let encoded_slashes = table.value("encoded_slashes", boolean);
    let path_exact = table.value("path_exact", boolean);
    let exact = path_exact == Some(true);
    let path = table.value("path", string(|text| value::path(text, encoded_slashes == Some(true), exact)));
    let conditions = conditions(&mut table);
    let subprotocols = subprotocols(&mut table, conditions.as_ref());
    let [request_headers, response_headers] =
        ["request_headers", "response_headers"].map(|key| table.table(key).and_then(edits));
    let host_header_written = table.written("host_header").is_some();
    let host_header = table.value("host_header", string(value::host_header));
    let origins = origins(&mut table);
    let (upstream, https_only, target) = target(&mut table, upstreams);
    let rewrite = rewrite(&mut table, path.as_deref(), encoded_slashes == Some(true), exact);
    let (limits, rates) = table.table("limits").and_then(|table| route_limits(table, wider)).unzip();
    let relay = relay_rules(&mut table, rates);
    let refuse = table.value("refuse", one_of(&[("http", Refuse::Http), ("close", Refuse::Close)]));
    let client = table.value("client", |node| Ok((string(value::client)(node)?, node.at)));
    let access = access(&mut table);
    let keys_written = table.written("keys").is_some();
    let keys = table.table("keys").and_then(|table| keys(table, source));
    let plain = plain_rules(&mut table);
    let key = table.path().to_owned();
    let matches = || Some((host?, path?, path_exact?, conditions?));
    let matches = matches();
    table.finish();

    let build = || {
        let (host, path, path_exact, conditions) = matches.clone()?;
        Some(Route {
            name: String::new(),
            host,
            path,
            path_exact,
            conditions,
            encoded_slashes: encoded_slashes?,
            target: target?,
            https_only: https_only?,
            rewrite: rewrite?,
            origins: origins?,
            subprotocols: subprotocols?,
            request_headers: request_headers.clone()?,
            response_headers: response_headers.clone()?,
            host_header: if host_header_written { Some(host_header?) } else { None },
            relay: relay?,
            refuse: refuse?,
            client: client.clone()?.0,
            access: access?,
            keys: if keys_written { Some(keys?) } else { None },
            limits: limits?,
            plain: plain?,
        })
    };
    let route = build();
    RouteRead { key, at, name, matches, upstream, client, route }
}

/// One entry of `origins`.
enum Allowed {
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
            "any" => Ok(Allowed::Any),
            "none" => Ok(Allowed::None),
            "same-origin" => Ok(Allowed::SameOrigin),
            _ => value::origin(text).map(Allowed::Pattern),
        }),
    )?;
    if list.is_empty() {
        let wrong = Wrong::new("an empty list would refuse everyone");
        table.wrong(at, "origins", wrong.help("leave it out for [\"same-origin\", \"none\"], or write [\"any\"]"));
    }
    let mut origins = Origins { any: false, none: false, same_origin: false, list: Vec::new() };
    let (count, sound) = (list.len(), list.iter().all(Option::is_some));
    for allowed in list.into_iter().flatten() {
        match allowed {
            Allowed::Any => origins.any = true,
            Allowed::None => origins.none = true,
            Allowed::SameOrigin => origins.same_origin = true,
            Allowed::Pattern(pattern) if origins.list.contains(&pattern) => {}
            Allowed::Pattern(pattern) => origins.list.push(pattern),
        }
    }
    if origins.any && count > 1 {
        let wrong = Wrong::new("\"any\" stands beside others, which it would make meaningless");
        table.wrong(at, "origins", wrong.help("write [\"any\"] alone, or leave \"any\" out"));
    }
    sound.then_some(origins)
}

fn conditions(table: &mut Reader<'_, '_>) -> Option<Conditions> {
    let [headers_at, query_at, subprotocol_at] = ["headers", "query", "subprotocol"].map(|key| table.written(key));
    let field = |entry: &Entry| Ok((value::field_name(&entry.key)?, string(value::field_value)(&entry.node)?));
    let parameter = |entry: &Entry| Ok((value::parameter(&entry.key)?, value::text(&entry.node)?.to_owned()));
    let headers = table.pairs("headers", field);
    let query = table.pairs("query", parameter);
    let subprotocol = table.value("subprotocol", string(value::subprotocol));
    let mut headers = if headers_at.is_some() { all(headers?)? } else { Vec::new() };
    let mut query = if query_at.is_some() { all(query?)? } else { Vec::new() };
    headers.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
    query.sort();
    differ(table, "headers", headers_at, headers.iter().map(|(name, _)| name));
    Some(Conditions { headers, query, subprotocol: if subprotocol_at.is_some() { Some(subprotocol?) } else { None } })
}

/// Names of header fields in different spellings are one.
fn differ<'a>(table: &Reader<'_, '_>, key: &str, at: Option<Position>, names: impl Iterator<Item = &'a HeaderName>) {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            let wrong = Wrong::new(format!("{name} stands twice: its case does not count"));
            table.wrong(at.unwrap_or_default(), key, wrong.help("remove one of them"));
        }
    }
}

/// A header field that is set.
pub(super) fn field(entry: &Entry) -> Parsed<(HeaderName, HeaderValue)> {
    let value = string(value::field_value)(&entry.node)?;
    let value = HeaderValue::try_from(value).map_err(|_| Wrong::new("is not the value of a header field"))?;
    Ok((value::edited_field(&entry.key)?, value))
}

fn edits(mut table: Reader<'_, '_>) -> Option<FieldEdits> {
    let (set_at, remove_at) = (table.written("set"), table.written("remove"));
    let set = table.pairs("set", field);
    let remove = table.list("remove", string(value::edited_field));
    let edits = set.and_then(all).zip(remove.and_then(all)).map(|(set, remove)| FieldEdits { set, remove });
    if let Some(FieldEdits { set, remove }) = &edits {
        differ(&table, "set", set_at, set.iter().map(|(name, _)| name));
        differ(&table, "remove", remove_at, remove.iter());
        if let (Some(name), Some(at)) = (remove.iter().find(|name| set.iter().any(|(set, _)| set == *name)), remove_at)
        {
            let wrong = Wrong::new(format!("{name} is set, so that what was there is gone"));
            table.wrong(at, "remove", wrong.help("leave it out here"));
        }
    }
    table.finish();
    edits
}

fn subprotocols(table: &mut Reader<'_, '_>, conditions: Option<&Conditions>) -> Option<Subprotocols> {
    let at = table.written("subprotocols");
    let list = table.list("subprotocols", |node| Ok((string(value::subprotocol)(node)?, node.at)));
    let require = table.value("subprotocol_required", boolean);
    let good: Vec<_> = list.iter().flatten().flatten().collect();
    for ((name, at), _) in repeated(&good, |(name, at)| (name.clone(), *at)) {
        let wrong = Wrong::new(format!("{name:?} stands twice in the list"));
        table.wrong(*at, "subprotocols", wrong.help("remove one of them"));
    }
    if let (Some([]), Some(true), Some(at)) = (list.as_deref(), require, at) {
        let wrong = Wrong::new("an empty list and `subprotocol_required` refuse everyone");
        table.wrong(at, "subprotocols", wrong.help("name a subprotocol"));
    }
    let list = match (at, list) {
        (None, _) => None,
        (Some(_), list) => Some(all(list?)?.into_iter().map(|(name, _)| name).collect::<Vec<_>>()),
    };
    if let (Some(list), Some(name), Some(at)) = (&list, conditions.and_then(|c| c.subprotocol.as_ref()), at)
        && !list.contains(name)
    {
        let wrong = Wrong::new(format!("{name:?}, which every client of this route offers, does not pass"));
        table.warn(at, "subprotocols", wrong.help(format!("add {name:?} to the list")));
    }
    Some(Subprotocols { list, require: require? })
}

fn relay_rules(table: &mut Reader<'_, '_>, rates: Option<Rates>) -> Option<RelayRules> {
    let (frame_at, message_at) = (table.written("frame_bytes_max"), table.written("message_bytes_max"));
    let heartbeat_at = table.written("heartbeat");
    let size_or_off = |node: &Node| Ok(or_off(string(value::size))(node)?.unwrap_or(u64::MAX));

    let heartbeat = heartbeat(table);
    let idle_timeout = table.value("idle_timeout", or_off(string(value::duration)));
    let max_age = table.value("max_age", or_off(string(value::duration)));
    let frame_timeout = table.value("frame_timeout", string(value::duration));
    let slow_timeout = table.value("slow_timeout", or_off(string(value::duration)));
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
        slow_timeout: slow_timeout?,
        close_timeout: close_timeout?,
        frame_bytes_max: frame_bytes_max?,
        message_bytes_max: message_bytes_max?,
        fragments_max: fragments_max?.and_then(|count| NonZeroU32::new(count as u32)),
        ping: ping?,
        compression: compression?,
        strict: strict?,
        control_per_session: rates.as_ref()?.control_per_session,
        on_excess: rates?.on_excess,
    })
}

/// `Some(None)` is `http = false`.
fn plain_rules(table: &mut Reader<'_, '_>) -> Option<Option<PlainRules>> {
    let written = ["request_timeout", "body_timeout", "answer_idle_timeout"].map(|key| (key, table.written(key)));
    let http = table.value("http", boolean);
    let request_timeout = table.value("request_timeout", or_off(string(value::duration)));
    let body_timeout = table.value("body_timeout", string(value::duration));
    let answer_idle_timeout = table.value("answer_idle_timeout", or_off(string(value::duration)));
    if http == Some(false) && table.written("page").is_none() {
        for (key, at) in written {
            if let Some(at) = at {
                table.warn(at, key, Wrong::new("has no effect without `http = true`"));
            }
        }
    }
    let rules = PlainRules {
        request_timeout: request_timeout?,
        body_timeout: body_timeout?,
        answer_idle_timeout: answer_idle_timeout?,
    };
    Some(http?.then_some(rules))
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
pub(super) fn named(routes: Vec<RouteRead>) -> Option<Vec<Arc<Route>>> {
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

pub(super) fn routes_differ(root: &Reader<'_, '_>, routes: &[RouteRead]) {
    let names: Vec<_> =
        routes.iter().filter_map(|read| read.name.as_ref().map(|(name, at)| (name, *at, &read.key))).collect();
    for ((name, at, key), first) in repeated(&names, |(name, at, _)| (*name, *at)) {
        let wrong = Wrong::new(format!("the name {name:?} is taken in line {first} already"));
        root.wrong(*at, &format!("{key}.name"), wrong.help("choose another name"));
    }
    let matches: Vec<_> =
        routes.iter().filter_map(|read| read.matches.as_ref().map(|matches| (matches, read))).collect();
    // Nothing else can keep a route from ever matching: one that takes all of its requests would be as specific in host,
    // path and number of conditions, and so have the same ones (policy::route has a test of that).
    for (((host, path, _, conditions), read), first) in repeated(&matches, |(matches, read)| (*matches, read.at)) {
        let host = match show::host(host) {
            host if host.is_empty() => "any host".to_owned(),
            host => format!("host {host}"),
        };
        let same = if *conditions == Conditions::default() { "" } else { " and these conditions" };
        let wrong = Wrong::new(format!("{host} with path {path}{same} belongs to the route in line {first} already"));
        root.wrong(read.at, &read.key, wrong.help("change `path` or `host`, or remove one of the routes"));
    }
}
