//! `[upstream.NAME]`.

use std::sync::Arc;

use crate::config::Files;
use crate::config::model::{Active, CheckKind, Fate, Limits, Passive, Position, Server, Upstream, UpstreamTls};
use crate::config::problem::Source;
use crate::config::read::Reader;
use crate::config::tree::Node;
use crate::config::value::{self, Parsed, Wrong, boolean, number, one_of, or_off, string};

use super::limits::cap;
use super::listener::certificate_pair;
use super::route::field;
use super::{all, file, repeated};

pub(super) fn upstream(
    name: &str,
    mut table: Reader<'_, '_>,
    source: &Source,
    wider: Option<&Limits>,
) -> Option<Arc<Upstream>> {
    if let Err(wrong) = value::name(name) {
        table.wrong_itself(wrong);
    }
    let servers_at = table.written("servers");
    let address = |node: &Node| Ok((string(value::server)(node)?, node.at));
    let servers = table.values_or_tables("servers", address, server);
    let balance = table.value("balance", string(value::balance));
    let retries = table.value("retries", number(0..=10));
    let retry_budget = table.value("retry_budget", number(0..=100));
    let connect_timeout = table.value("connect_timeout", string(value::duration));
    let handshake_timeout = table.value("handshake_timeout", string(value::duration));
    let per_server = cap(&mut table, "sessions_per_server");
    per_server.warn_above(&table, "limits.sessions", wider.map(|limits| limits.sessions));
    let keepalive = table.value("keepalive", number(0..=10_000));
    let keepalive_timeout = table.value("keepalive_timeout", string(value::duration));
    let tls_at = table.written("tls");
    let tls = table.table("tls").and_then(|tls| upstream_tls(tls, source));
    let health = table.table("health").and_then(health);
    let slow_start = table.value("slow_start", or_off(string(value::duration)));
    let on_removed = table.value("on_removed", fate);
    let secure = servers.iter().flatten().flatten().any(|(server, _)| server.tls);
    if let Some(tls) = tls.as_ref().filter(|_| secure) {
        table.inspect(Files::Upstream(tls), |at| format!("tls{}", key_at(tls, at)));
    }
    let good: Vec<_> = servers.iter().flatten().flatten().collect();
    if let (Some(servers), Some(at)) = (&servers, servers_at) {
        if servers.is_empty() {
            let wrong = Wrong::new("at least one server is needed");
            table.wrong(at, "servers", wrong.help("like [\"ws://127.0.0.1:9000\"]"));
        }
        let plain = servers.iter().all(|server| matches!(server, Some((server, _)) if !server.tls));
        if let (true, Some(at)) = (plain, tls_at) {
            table.warn(at, "tls", Wrong::new("has no effect: no server is wss://"));
        }
    }
    let parts =
        |(server, at): &&'_ (Server, Position)| ((server.address.clone(), server.tls, server.base.clone()), *at);
    for ((server, at), _) in repeated(&good, parts) {
        let wrong = Wrong::new(format!("{} stands twice in the list", server.text));
        table.wrong(*at, "servers", wrong.help("remove one of them"));
    }
    if let [(first, at), ..] = good[..]
        && good.iter().all(|(server, _)| server.backup)
    {
        let wrong = Wrong::new(format!("{} and all others are backups", first.text));
        table.warn(*at, "servers", wrong.help("leave `backup` out of those that are used first"));
    }
    table.finish();
    let (passive, active, on_unhealthy) = health?;
    Some(Arc::new(Upstream {
        name: name.to_owned(),
        servers: all(servers?)?.into_iter().map(|(server, _)| server).collect(),
        balance: balance?,
        retries: retries? as u32,
        retry_budget: retry_budget? as u32,
        passive,
        active,
        on_unhealthy,
        on_removed: on_removed?,
        slow_start: slow_start?,
        connect_timeout: connect_timeout?,
        handshake_timeout: handshake_timeout?,
        sessions_per_server: per_server.value?,
        keepalive: keepalive? as usize,
        keepalive_timeout: keepalive_timeout?,
        tls: tls?,
    }))
}

fn health(mut table: Reader<'_, '_>) -> Option<(Option<Passive>, Option<Active>, Fate)> {
    let on_unhealthy_at = table.written("on_unhealthy");
    let passive = table.table("passive").map(passive);
    let active = table.table("active").map(active);
    let on_unhealthy = table.value("on_unhealthy", fate);
    if let (None, Some(Fate::Drain | Fate::Close), Some(at)) = (&active, on_unhealthy, on_unhealthy_at) {
        let wrong = Wrong::new("has no effect: nobody checks the servers");
        table.warn(at, "on_unhealthy", wrong.help("add `active = { … }`"));
    }
    table.finish();
    // None is "off", and Some(None) was refused.
    let passive = passive.map_or(Some(None), |rules| rules.map(Some));
    let active = active.map_or(Some(None), |rules| rules.map(Some));
    Some((passive?, active?, on_unhealthy?))
}

fn fate(node: &Node) -> Parsed<Fate> {
    one_of(&[("keep", Fate::Keep), ("drain", Fate::Drain), ("close", Fate::Close)])(node)
}

fn active(mut table: Reader<'_, '_>) -> Option<Active> {
    const KINDS: &[(&str, CheckKind)] =
        &[("tcp", CheckKind::Tcp), ("http", CheckKind::Http), ("websocket", CheckKind::WebSocket)];
    const OF_REQUESTS: [&str; 3] = ["path", "host", "headers"];
    let written: Vec<_> = table.known_keys().map(|(key, at)| (key.to_owned(), at)).collect();
    let has_host = table.written("host").is_some();
    let has_subprotocol = table.written("subprotocol").is_some();
    let statuses_at = table.written("status");
    let kind = table.value("kind", one_of(KINDS));
    let path = table.value("path", string(value::check_path));
    let host = table.value("host", string(value::host_header));
    let headers = table.pairs("headers", |entry| match entry.key.eq_ignore_ascii_case("host") {
        true => Err(Wrong::new("Host is what `host` is for").help("write `host = …` beside `headers`")),
        false => field(entry),
    });
    let subprotocol = table.value("subprotocol", string(value::subprotocol));
    let statuses = table.list("status", value::statuses);
    let interval = table.value("interval", string(value::duration));
    let jitter = table.value("jitter", number(0..=50));
    let timeout = table.value("timeout", string(value::duration));
    let rise = table.value("rise", number(1..=1000));
    let fall = table.value("fall", number(1..=1000));
    let initially_up = table.value("initial", one_of(&[("up", true), ("down", false)]));
    if let (Some([]), Some(at)) = (statuses.as_deref(), statuses_at) {
        table.wrong(at, "status", Wrong::new("no answer would be good").help("like [200, \"300-399\"]"));
    }
    for (key, at) in &written {
        let is_used = match key.as_str() {
            "status" => kind == Some(CheckKind::Http),
            "subprotocol" => kind == Some(CheckKind::WebSocket),
            key if OF_REQUESTS.contains(&key) => kind != Some(CheckKind::Tcp),
            _ => true,
        };
        if !is_used && kind.is_some() {
            table.warn(
                *at,
                key,
                Wrong::new("has no effect with this `kind`").help("remove it, or choose another kind"),
            );
        }
    }
    table.finish();
    Some(Active {
        kind: kind?,
        path: path?,
        host: if has_host { Some(host?) } else { None },
        headers: all(headers?)?,
        subprotocol: if has_subprotocol { Some(subprotocol?) } else { None },
        statuses: all(statuses?)?,
        interval: interval?,
        jitter: jitter? as u32,
        timeout: timeout?,
        rise: rise? as u32,
        fall: fall? as u32,
        initially_up: initially_up?,
    })
}

fn passive(mut table: Reader<'_, '_>) -> Option<Passive> {
    let max_at = table.written("aside_max");
    let failures = table.value("failures", number(1..=1000));
    let aside = table.value("aside", string(value::duration));
    let aside_max = table.value("aside_max", string(value::duration));
    if let (Some(at), Some(aside), Some(max)) = (max_at, aside, aside_max)
        && max < aside
    {
        table.wrong(at, "aside_max", Wrong::new("less than `aside`").help("write at least as much"));
    }
    table.finish();
    // Left out, it gives way to a longer `aside`.
    Some(Passive { failures: failures? as u32, aside: aside?, aside_max: aside_max?.max(aside?) })
}

/// A server with more than its address.
fn server(mut table: Reader<'_, '_>) -> Option<(Server, Position)> {
    let at = table.at();
    let server = table.value("url", string(value::server));
    let weight = table.value("weight", number(1..=1000));
    let backup = table.value("backup", boolean);
    table.finish();
    Some((Server { weight: weight? as u32, backup: backup?, ..server? }, at))
}

/// Which key of `tls` stands at a position.
fn key_at(tls: &UpstreamTls, at: Position) -> &'static str {
    match (&tls.ca, &tls.client) {
        (Some((_, ca_at)), _) if *ca_at == at => ".ca",
        (_, Some(files)) if files.certificate_at == at => ".certificate",
        (_, Some(files)) if files.key_at == at => ".key",
        _ => "",
    }
}

fn upstream_tls(mut table: Reader<'_, '_>, source: &Source) -> Option<UpstreamTls> {
    let ca = table.value("ca", file(source));
    let server_name = table.value("server_name", string(value::server_name));
    let client = certificate_pair(&mut table, source);
    table.finish();
    Some(UpstreamTls { ca, server_name, client: client.ok()? })
}
