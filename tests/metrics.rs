//! The metrics, as Prometheus reads them: the format, their values in a run that is known, and how many there can be.

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use support::admin::{call, metrics};
use support::client::{BINARY, Peer, TEXT, close_payload, masked, request};
use support::exposition::Exposition;
use support::gateway::Gateway;
use support::http::status;
use support::upstream::{agreeing, serve, switching};
use support::{eventually, tls};

/// A gateway with an admin interface and these routes behind a plain listener.
fn start(routes: &str, upstream: SocketAddr, more: &str) -> Gateway {
    Gateway::start(&format!(
        "[limits]\nhandshakes_per_client = \"off\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n{routes}\n\
         [upstream.app]\nservers = [\"ws://{upstream}\"]\n[admin]\naddress = \"127.0.0.1:0\"\n{more}\n"
    ))
}

const ROUTE: &str = "[[route]]\nname = \"app\"\nupstream = \"app\"\n";

/// Returns what it gets, and a Close with its own code.
fn echo() -> SocketAddr {
    serve(|mut peer| {
        let Some(head) = peer.try_head() else { return };
        peer.write(switching(&head, "").as_bytes());
        while let Some(frame) = peer.next_frame() {
            if peer.try_write(&support::client::unmasked(frame.opcode, &frame.payload)).is_err() {
                return;
            }
        }
    })
}

fn scrape(gateway: &Gateway) -> Exposition {
    Exposition::parse(&metrics(gateway.admin()))
}

/// Scrapes until the series has that sum.
fn wait_for(gateway: &Gateway, name: &str, labels: &[(&str, &str)], value: f64) -> Exposition {
    let mut last = Exposition::default();
    eventually(&format!("{name}{labels:?} is {value}"), || {
        last = scrape(gateway);
        last.sum(name, labels) == value
    });
    last
}

#[test]
fn the_exposition_is_well_formed_in_both_formats() {
    let gateway = start("[[route]]\nname = \"a \\\\ \\\"quoted\\\" route\"\nupstream = \"app\"\n", echo(), "");
    let mut peer = Peer::open(gateway.address(), "/");
    peer.write(&masked(TEXT, b"hello"));
    peer.frame();
    let found = wait_for(&gateway, "tidegate_messages_total", &[("from", "upstream"), ("kind", "text")], 1.0);
    let labels = &found.0["tidegate_messages_total"].samples[0].1;
    assert_eq!(labels["route"], "a \\ \"quoted\" route");
    for name in
        ["tidegate_build_info", "process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"]
    {
        assert!(found.0.contains_key(name), "{name}");
    }
    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
    let reply = call(gateway.admin(), "GET /metrics", &[accept], "");
    assert_eq!(reply.all("content-type"), ["application/openmetrics-text; version=1.0.0; charset=utf-8"]);
    assert!(reply.text().ends_with("# EOF\n") && reply.text().contains("# TYPE tidegate_handshakes counter\n"));
    let reply = call(gateway.admin(), "GET /metrics", &[], "");
    assert_eq!(reply.all("content-type"), ["text/plain; version=0.0.4; charset=utf-8"]);
}

#[test]
fn values_are_those_of_a_known_run() {
    let gateway = start(ROUTE, echo(), "");
    let server = format!("ws://{}", echo_of(&gateway));
    let app = ("route", "app");
    for _ in 0..3 {
        let mut peer = Peer::open(gateway.address(), "/");
        for _ in 0..4 {
            peer.write(&masked(BINARY, &[7; 100]));
            peer.frame();
        }
        peer.write(&masked(8, &close_payload(4321, "done")));
        peer.rest();
    }
    Peer::open(gateway.address(), "/").reset();
    let mut rude = Peer::open(gateway.address(), "/");
    rude.write(&support::client::unmasked(TEXT, b"not masked"));
    rude.rest();
    let mut refused = Peer::connect(gateway.address());
    refused.write(request("/", "Origin: https://elsewhere.example\r\n").as_bytes());
    assert_eq!(status(&refused.head()), 403);
    drop(refused);
    let open = Peer::open(gateway.address(), "/");

    wait_for(&gateway, "tidegate_connections_open", &[], 1.0);
    let found = wait_for(&gateway, "tidegate_sessions_ended_total", &[], 5.0);
    type Labels<'a> = &'a [(&'a str, &'a str)];
    let rows: &[(&str, Labels<'_>, f64)] = &[
        ("tidegate_handshakes_total", &[app, ("outcome", "opened")], 6.0),
        ("tidegate_handshakes_total", &[app, ("outcome", "refused")], 1.0),
        ("tidegate_refusals_total", &[app, ("reason", "origin_not_allowed")], 1.0),
        ("tidegate_refusals_total", &[], 1.0),
        ("tidegate_handshake_seconds_count", &[("outcome", "opened")], 6.0),
        ("tidegate_handshake_seconds_count", &[("outcome", "refused")], 1.0),
        ("tidegate_sessions_open", &[app, ("upstream", "app"), ("server", &server)], 1.0),
        ("tidegate_sessions_ended_total", &[app, ("cause", "client_closed"), ("side", "client")], 3.0),
        ("tidegate_sessions_ended_total", &[app, ("cause", "client_lost")], 1.0),
        ("tidegate_sessions_ended_total", &[app, ("cause", "protocol_error"), ("side", "client")], 1.0),
        ("tidegate_session_seconds_count", &[], 5.0),
        ("tidegate_closes_total", &[("peer", "client"), ("direction", "received"), ("code", "4xxx")], 3.0),
        ("tidegate_closes_total", &[("peer", "client"), ("direction", "sent"), ("code", "1002")], 1.0),
        ("tidegate_messages_total", &[app, ("from", "client"), ("kind", "binary")], 12.0),
        ("tidegate_messages_total", &[app, ("from", "client"), ("kind", "text")], 0.0),
        ("tidegate_messages_total", &[app, ("from", "upstream")], 12.0),
        ("tidegate_message_bytes_total", &[app, ("from", "client")], 1200.0),
        ("tidegate_upstream_connects_total", &[("server", &server), ("outcome", "opened")], 6.0),
        ("tidegate_upstream_server_addresses", &[("server", &server), ("state", "up")], 1.0),
        ("tidegate_connections_open", &[], 1.0),
        ("tidegate_held_bytes", &[], 0.0),
        ("tidegate_client_entries", &[("table", "sessions")], 1.0),
        ("tidegate_client_entries", &[("table", "sticky")], 0.0),
        ("tidegate_draining", &[], 0.0),
        ("tidegate_config_reloads_total", &[("outcome", "failed")], 0.0),
        ("tidegate_config_last_reload_ok", &[], 1.0),
        ("tidegate_log_lines_lost_total", &[], 0.0),
    ];
    for (name, labels, value) in rows {
        assert_eq!(found.sum(name, labels), *value, "{name}{labels:?}");
    }
    drop(open);
}

/// The server of the only upstream, as the gateway knows it.
fn echo_of(gateway: &Gateway) -> String {
    let upstreams = support::admin::json(gateway.admin(), "GET /upstreams");
    let server = upstreams["upstreams"][0]["servers"][0]["server"].as_str().expect("a server").to_owned();
    server.trim_start_matches("ws://").to_owned()
}

#[test]
fn pings_and_waits_are_counted() {
    let limits = "heartbeat = { interval = \"200ms\", timeout = \"5s\" }\n\
                  limits = { messages_per_session = \"2/s\" }\n";
    let gateway = start(&format!("{ROUTE}{limits}"), echo(), "");
    let mut peer = Peer::open(gateway.address(), "/");
    let ping = peer.frame();
    peer.write(&masked(10, &ping.payload));
    let found = wait_for(&gateway, "tidegate_ping_round_trip_seconds_count", &[("peer", "client")], 1.0);
    assert!(found.sum("tidegate_pings_sent_total", &[("peer", "client")]) >= 1.0);
    assert_eq!(found.sum("tidegate_throttled_seconds_total", &[]), 0.0);
    for _ in 0..3 {
        peer.write(&masked(TEXT, b"x"));
    }
    eventually("a wait is counted", || {
        let waited = scrape(&gateway).sum("tidegate_throttled_seconds_total", &[("peer", "client")]);
        waited > 0.2 && waited < 2.0
    });
}

#[test]
fn what_goes_wrong_with_servers_is_counted() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let (refusing, _) = support::upstream::answering(|_| b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n".to_vec());
    let gateway = Gateway::start(&format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\npath = \"/gone\"\nupstream = \"gone\"\n\
         [[route]]\npath = \"/no\"\nupstream = \"no\"\n[upstream.gone]\nservers = [\"ws://{closed}\"]\n\
         [upstream.no]\nservers = [\"ws://{refusing}\"]\n[admin]\naddress = \"127.0.0.1:0\"\n"
    ));
    for (path, expected) in [("/gone", 502), ("/no", 401)] {
        let mut peer = Peer::connect(gateway.address());
        peer.write(request(path, "").as_bytes());
        assert_eq!(status(&peer.head()), expected);
    }
    let found = scrape(&gateway);
    let connects = |upstream, outcome| {
        found.sum("tidegate_upstream_connects_total", &[("upstream", upstream), ("outcome", outcome)])
    };
    assert_eq!((connects("gone", "not_connected"), connects("no", "refused")), (1.0, 1.0));
    assert_eq!(found.sum("tidegate_handshakes_total", &[("outcome", "failed")]), 2.0);
}

#[test]
fn certificates_tell_when_they_expire() {
    let folder = support::gateway::folder();
    let identity = tls::Authority::new("Test").issue_between(&["localhost"], 2020, 2100);
    let (certificate, key) = identity.write(&folder, "a");
    let config = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = {{ certificate = {certificate:?}, key = {key:?} }}\n\
         {ROUTE}[upstream.app]\nservers = [\"ws://{}\"]\n[admin]\naddress = \"127.0.0.1:0\"\n",
        agreeing().0
    );
    let gateway = Gateway::start_in(folder, &config, "exec \"$0\" \"$@\"");
    let file = certificate.display().to_string();
    let expires = scrape(&gateway).sum("tidegate_certificate_expiry_timestamp_seconds", &[("file", &file)]);
    assert_eq!(expires, 4_102_444_800.0, "the first second of 2100");
}

#[test]
fn hostile_requests_make_no_new_series() {
    let gateway = start(ROUTE, echo(), "[log]\nlevel = \"warn\"");
    let before = shape(&hostile(&gateway, 0..300));
    let found = hostile(&gateway, 300..10_300);
    assert!(found.sum("tidegate_refusals_total", &[]) > 9_000.0);
    assert_eq!(shape(&found), before, "series that were not there before");
    assert!(found.series() < 500, "{} series", found.series());
}

/// Each with a path of its own, and some with an origin, a subprotocol or a close code of their own.
fn hostile(gateway: &Gateway, numbers: std::ops::Range<usize>) -> Exposition {
    let mut pages = Peer::connect(gateway.address());
    for number in numbers {
        let path = format!("/{number}?{number}");
        match number % 20 {
            0 => {
                let mut peer = Peer::connect(gateway.address());
                peer.write(request(&path, &format!("Sec-WebSocket-Protocol: p{number}\r\n")).as_bytes());
                assert_eq!(status(&peer.head()), 101);
                let code = 3000 + number % 1000 + 1000 * (number / 20 % 2);
                peer.write(&masked(8, &close_payload(code as u16, &number.to_string())));
                peer.rest();
            }
            1 | 2 => {
                let mut peer = Peer::connect(gateway.address());
                peer.write(request(&path, &format!("Origin: https://evil-{number}.example\r\n")).as_bytes());
                assert_eq!(status(&peer.head()), 403);
            }
            _ => {
                pages
                    .write(format!("M{number} {path} HTTP/1.1\r\nHost: h{number}\r\nX-{number}: 1\r\n\r\n").as_bytes());
                let head = pages.head();
                assert_eq!(status(&head), 426);
                let length = head
                    .to_ascii_lowercase()
                    .split("content-length: ")
                    .nth(1)
                    .and_then(|rest| rest.split("\r\n").next()?.parse().ok());
                pages.bytes(length.expect("a length"));
            }
        }
    }
    wait_for(gateway, "tidegate_sessions_open", &[], 0.0)
}

/// The series without their values.
fn shape(found: &Exposition) -> BTreeMap<String, usize> {
    found.0.iter().map(|(name, family)| (name.clone(), family.samples.len())).collect()
}

#[test]
fn counters_never_go_back_while_sessions_come_and_go() {
    let gateway = start(ROUTE, echo(), "");
    let address = gateway.address();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let mut peer = Peer::open(address, "/");
                    peer.write(&masked(TEXT, b"hello"));
                    peer.frame();
                }
            });
        }
        let mut last = BTreeMap::new();
        for _ in 0..40 {
            for (name, family) in scrape(&gateway).0.into_iter().filter(|(_, family)| family.kind == "counter") {
                for (_, labels, value) in family.samples {
                    let before = last.insert((name.clone(), labels.clone()), value).unwrap_or(0.0);
                    assert!(value >= before, "{name}{labels:?} went from {before} to {value}");
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/grafana/tidegate.json");
    let text = std::fs::read_to_string(path).expect("the dashboard");
    let dashboard: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let mut expressions = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            expressions.push(target["expr"].as_str().expect("an expression").to_owned());
        }
    }
    for variable in dashboard["templating"]["list"].as_array().expect("variables") {
        expressions.extend(variable["query"].as_str().map(str::to_owned));
    }
    // Each of what is counted happens once: a family without a series is not written.
    let (plain, _) = support::upstream::answering(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec());
    let routes = format!("{ROUTE}[[route]]\npath = \"/plain\"\nupstream = \"plain\"\nhttp = true\n");
    let gateway = start(&routes, echo(), &format!("[upstream.plain]\nservers = [\"ws://{plain}\"]"));
    let mut peer = Peer::open(gateway.address(), "/");
    peer.write(&masked(8, &close_payload(1000, "")));
    peer.rest();
    for (path, expected) in [("/plain", 200), ("/", 426)] {
        let text = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert_eq!(support::http::ask(gateway.address(), text.as_bytes()).status(), expected);
    }
    let found = wait_for(&gateway, "tidegate_sessions_ended_total", &[], 1.0);
    let samples: std::collections::BTreeSet<&str> =
        found.0.values().flat_map(|family| &family.samples).map(|(name, ..)| name.as_str()).collect();
    let families: std::collections::BTreeSet<&str> = found.0.keys().map(String::as_str).collect();
    let mut named = 0;
    for expression in &expressions {
        for word in expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            if word.starts_with("tidegate_") || word.starts_with("process_") {
                named += 1;
                assert!(samples.contains(word) || families.contains(word), "{word} of {expression}");
            }
        }
    }
    assert!(named > 30, "{named}");
}
