//! The admin interface: what each endpoint answers, who may ask, and that no client can. `tidegate ctl` against it.

mod support;

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::admin::{call, json};
use support::client::{Peer, TEXT, close_payload, masked, request};
use support::eventually;
use support::gateway::{Gateway, folder};
use support::http::{Head, Reply, ask, status};
use support::tls::Authority;
use support::upstream::{Seen, agreeing, serve};
use tidegate::admin::table::TABLE;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const EXEC: &str = "exec \"$0\" \"$@\"";

/// Two routes, `a` and `b`, to two upstreams of one server; `admin` is what stands in [admin] beside its address.
fn configuration(admin: &str) -> (String, Seen) {
    let (server, seen) = agreeing();
    let (other, _) = agreeing();
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n\
         [[route]]\nname = \"a\"\npath = \"/a\"\nupstream = \"a\"\nclose_timeout = \"200ms\"\n\
         [[route]]\nname = \"b\"\npath = \"/b\"\nupstream = \"b\"\nclose_timeout = \"200ms\"\n\
         [upstream.a]\nservers = [\"ws://{server}\"]\n[upstream.b]\nservers = [\"ws://{other}\"]\n\
         [drain]\nwindow = \"1s\"\ngrace = \"1s\"\n[admin]\naddress = \"127.0.0.1:0\"\n{admin}\n"
    );
    (text, seen)
}

fn start(admin: &str) -> Gateway {
    Gateway::start(&configuration(admin).0)
}

fn body(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap_or_else(|error| panic!("{error}: {}", reply.text()))
}

/// Ids of the sessions that a query finds.
fn ids(gateway: &Gateway, query: &str) -> Vec<u64> {
    let found = json(gateway.admin(), &format!("GET /sessions{query}"));
    found["sessions"].as_array().expect("a list").iter().map(|session| session["id"].as_u64().expect("an id")).collect()
}

#[test]
fn each_endpoint_keeps_its_contract() {
    let gateway = start("");
    let _session = Peer::open(gateway.address(), "/a");
    let rows = [
        ("GET /healthz", "", 200, "application/json", "\"status\":\"ok\""),
        ("HEAD /healthz", "", 200, "application/json", ""),
        ("GET /readyz", "", 200, "application/json", "\"ready\":true"),
        ("GET /metrics", "", 200, "text/plain; version=0.0.4; charset=utf-8", "tidegate_sessions_open{"),
        ("GET /status", "", 200, "application/json", "\"version\":"),
        ("GET /sessions", "", 200, "application/json", "\"total\":1"),
        ("GET /sessions?route=b", "", 200, "application/json", "\"total\":0"),
        ("GET /sessions?rout=b", "", 400, "application/problem+json", "unknown parameter `rout`"),
        ("GET /sessions?limit=0", "", 400, "application/problem+json", "from 1 to 1000"),
        ("GET /sessions?client=x", "", 400, "application/problem+json", "an address, a network"),
        ("GET /sessions/1", "", 200, "application/json", "\"route\":\"a\""),
        ("GET /sessions/99", "", 404, "application/problem+json", "no session 99 is open"),
        ("GET /sessions/x", "", 400, "application/problem+json", "no id of a session"),
        ("DELETE /sessions", "", 400, "application/problem+json", "add a filter, or all=true"),
        ("DELETE /sessions?dry_run=true", "", 400, "application/problem+json", "add a filter, or all=true"),
        ("DELETE /sessions?all=true&dry_run=true", "", 200, "application/json", "\"selected\":1"),
        ("DELETE /sessions?route=a&cause=because", "", 400, "application/problem+json", "access_revoked (1008)"),
        ("DELETE /sessions/99", "", 404, "application/problem+json", "no session 99 is open"),
        ("POST /drain", "", 400, "application/problem+json", "a body is wanted"),
        ("POST /drain", "{}", 400, "application/problem+json", "a body is wanted"),
        ("POST /drain", "{\"all\":true,\"route\":\"a\"}", 400, "application/problem+json", "a body is wanted"),
        ("POST /drain", "{\"client\":\"x\"}", 400, "application/problem+json", "an address, a network"),
        ("POST /drain", "{\"route\":\"b\"}", 202, "application/json", "\"sessions\":0"),
        ("POST /drain", "{\"route\":\"none\"}", 404, "application/problem+json", "known: a, b"),
        ("POST /drain", "{\"upstream\":\"x\",\"route\":\"a\"}", 404, "application/problem+json", "known: a, b"),
        ("POST /drain", "{\"server\":\"ws://x\"}", 404, "application/problem+json", "known: ws://127.0.0.1:"),
        ("POST /drain", "{\"route\":\"a\",\"route\":\"b\"}", 400, "application/problem+json", "`route` stands twice"),
        ("DELETE /sessions?route=none", "", 404, "application/problem+json", "known: a, b"),
        ("DELETE /sessions?listener=x&dry_run=true", "", 404, "application/problem+json", "known: 127.0.0.1:0"),
        ("DELETE /sessions?messages_above=-inf", "", 400, "application/problem+json", "messages in a second is wanted"),
        ("GET /sessions?bytes_above=NaN", "", 400, "application/problem+json", "bytes in a second is wanted"),
        ("GET /upstreams", "", 200, "application/json", "\"condition\":\"up\""),
        ("PUT /upstreams/a/servers/1", "{\"state\":\"drain\"}", 200, "application/json", "\"state\":\"drain\""),
        ("PUT /upstreams/a/servers/1", "{\"state\":\"up\"}", 200, "application/json", "\"state\":\"up\""),
        ("PUT /upstreams/a/servers/1", "{\"state\":\"off\"}", 400, "application/problem+json", "a body is wanted"),
        ("PUT /upstreams/a/servers/1", "", 400, "application/problem+json", "a body is wanted"),
        ("PUT /upstreams/a/servers/0", "{\"state\":\"up\"}", 404, "application/problem+json", "from 1 to 1"),
        ("PUT /upstreams/x/servers/1", "{\"state\":\"up\"}", 404, "application/problem+json", "known: a, b"),
        ("GET /config", "", 200, "application/json", "\"head_timeout\":\"10s\""),
        ("GET /config?x", "", 400, "application/problem+json", "unknown parameter `x`"),
        ("GET /", "", 404, "application/problem+json", "docs/openapi.yaml"),
        ("PATCH /config", "", 405, "application/problem+json", "this path takes GET"),
        ("GET /config", "{}", 400, "application/problem+json", "put filters into the query"),
    ];
    for (request, sent, expected, kind, text) in rows {
        let reply = call(gateway.admin(), request, &[], sent);
        assert_eq!(reply.status(), expected, "{request}: {}", reply.text());
        assert_eq!(reply.all("content-type"), [kind], "{request}");
        assert_eq!(reply.all("cache-control"), ["no-store"], "{request}");
        assert!(reply.text().contains(text), "{request}: {}", reply.text());
        if kind == "application/problem+json" {
            let problem = body(&reply);
            assert_eq!((&problem["status"], &problem["type"]), (&json!(expected), &json!("about:blank")), "{request}");
            assert!(problem["title"].is_string() && problem["reason"].is_string(), "{request}: {problem}");
        }
    }
    assert_eq!(call(gateway.admin(), "PATCH /sessions", &[], "").all("allow"), ["GET, DELETE"]);
    assert_eq!(json(gateway.admin(), "GET /sessions")["total"], 1, "nothing of it closed the session");
}

#[test]
fn the_document_has_what_the_table_has() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.yaml");
    let text = std::fs::read_to_string(path).expect("docs/openapi.yaml");
    assert!(text.starts_with("openapi: 3.1"), "OpenAPI 3.1");
    let paths = text.split("\npaths:\n").nth(1).expect("paths").split("\ncomponents:\n").next().expect("paths");
    let (mut documented, mut path) = (Vec::new(), "");
    for line in paths.lines() {
        if let Some(found) = line.strip_prefix("  /").and_then(|_| line.trim().strip_suffix(':')) {
            path = found;
        } else if let Some(method) = line.strip_prefix("    ").and_then(|line| line.strip_suffix(':'))
            && ["get", "put", "post", "delete"].contains(&method)
        {
            documented.push(format!("{} {path}", method.to_uppercase()));
        }
    }
    documented.sort();
    let mut answered: Vec<String> = TABLE.iter().map(|row| format!("{} {}", row.method, row.path)).collect();
    answered.sort();
    assert_eq!(documented, answered);
}

#[test]
fn sessions_are_filtered_and_paged() {
    let gateway = start("");
    let mut sessions: Vec<Peer> = (0..5).map(|_| Peer::open(gateway.address(), "/a")).collect();
    sessions.extend((0..2).map(|_| Peer::open(gateway.address(), "/b")));
    for _ in 0..100 {
        sessions[6].write(&masked(TEXT, &[b'x'; 1000]));
    }
    eventually("its rate is seen", || ids(&gateway, "?messages_above=5") == [7]);
    let one = json(gateway.admin(), "GET /sessions/7");
    assert_eq!((&one["route"], &one["upstream"], &one["client"]), (&json!("b"), &json!("b"), &json!("127.0.0.1")));
    assert_eq!(one["from_client"], json!({ "messages": 100, "bytes": 100_000 }));
    assert!(one["opened"].as_str().is_some_and(|opened| opened.ends_with('Z')), "{one}");
    let listener = gateway_listener(&one);
    let rows: [(&str, &[u64]); 10] = [
        ("", &[1, 2, 3, 4, 5, 6, 7]),
        ("?route=b", &[6, 7]),
        ("?upstream=a", &[1, 2, 3, 4, 5]),
        ("?client=127.0.0.0/8&route=b", &[6, 7]),
        ("?client=192.0.2.1", &[]),
        ("?older_than=1h", &[]),
        ("?bytes_above=5000", &[7]),
        ("?key=nobody", &[]),
        ("?limit=2&after=3", &[4, 5]),
        (&format!("?listener={listener}&limit=1"), &[1]),
    ];
    for (query, expected) in rows {
        assert_eq!(ids(&gateway, query), expected, "{query}");
    }
    let (mut after, mut seen) = (0, Vec::new());
    loop {
        let page = json(gateway.admin(), &format!("GET /sessions?limit=3&after={after}"));
        assert_eq!(page["total"], 7);
        seen.push(page["sessions"].as_array().expect("a list").len());
        match page["next"].as_u64() {
            Some(next) => after = next,
            None => break,
        }
    }
    assert_eq!(seen, [3, 3, 1]);
}

fn gateway_listener(session: &Value) -> String {
    session["listener"].as_str().expect("a listener").to_owned()
}

#[test]
fn closed_sessions_are_told_why_and_others_stay() {
    let gateway = start("");
    let mut sessions: Vec<Peer> =
        ["/a", "/a", "/b"].into_iter().map(|path| Peer::open(gateway.address(), path)).collect();
    let delete = |target: &str| body(&call(gateway.admin(), &format!("DELETE /sessions{target}"), &[], ""));
    assert_eq!(delete("?route=a&dry_run=true"), json!({ "selected": 2, "dry_run": true }));
    assert_eq!(ids(&gateway, ""), [1, 2, 3]);
    assert_eq!(delete("/1?cause=access_revoked"), json!({ "selected": 1, "dry_run": false }));
    assert_eq!(sessions[0].frame().close().0, 1008);
    assert_eq!(delete("?route=a"), json!({ "selected": 1, "dry_run": false }));
    assert_eq!(sessions[1].frame().close().0, 1012);
    eventually("they are gone", || ids(&gateway, "") == [3]);
    assert!(gateway.log("asked of [admin]").contains("method=DELETE"));
}

#[test]
fn only_who_has_the_token_is_answered() {
    let (text, _) = configuration("token_file = \"token\"");
    let place = folder();
    std::fs::write(place.join("token"), format!("{TOKEN}\n")).expect("written");
    let gateway = Gateway::start_in(place, &text, EXEC);
    let admin = gateway.admin();
    let with = |token: &str| call(admin, "GET /sessions", &[&format!("Authorization: Bearer {token}")], "");
    for open in ["GET /healthz", "GET /readyz"] {
        assert_eq!(call(admin, open, &[], "").status(), 200, "{open}: probes have no token");
    }
    for row in TABLE.iter().filter(|row| !row.call.is_open()) {
        let reply = call(admin, &format!("{} {}", row.method, row.path.replace(['{', '}'], "")), &[], "");
        assert_eq!(reply.status(), 401, "{} {}", row.method, row.path);
        assert_eq!(reply.all("www-authenticate"), ["Bearer"]);
    }
    assert_eq!(call(admin, "GET /nothing", &[], "").status(), 401, "nobody learns what is there");
    assert_eq!(with("0123456789abcdef").status(), 401);
    assert_eq!(with(TOKEN).status(), 200);
    let other = TOKEN.replace('0', "9");
    std::fs::write(gateway.directory.join("token"), &other).expect("written");
    assert_eq!((with(TOKEN).status(), with(&other).status()), (401, 200), "a new token counts at once");
    std::fs::remove_file(gateway.directory.join("token")).expect("it was there");
    assert_eq!(with(&other).status(), 500, "without its token nobody gets in");
    assert!(!gateway.output().contains(&other) && !gateway.output().contains(TOKEN), "no log has it");
}

#[test]
fn a_pipe_in_place_of_the_token_freezes_nothing() {
    let place = folder();
    let file = place.join("token");
    std::fs::write(&file, TOKEN).expect("written");
    let mut gateway = Gateway::start_in(place, &configuration("token_file = \"token\"").0, EXEC);
    std::fs::remove_file(&file).expect("it was there");
    support::make_pipe(&file);
    let token = format!("Authorization: Bearer {TOKEN}");
    assert_eq!(call(gateway.admin(), "GET /status", &[&token], "").status(), 500);
    assert!(gateway.log("nobody is let in").contains("is no regular file"), "{}", gateway.output());
    assert_eq!(call(gateway.admin(), "GET /healthz", &[], "").status(), 200);
    gateway.signal("TERM");
    assert!(gateway.wait().success());
}

#[test]
fn pages_and_proxies_are_refused() {
    let gateway = start("");
    let asked = |host: &str, field: &str| {
        let text = format!("GET /sessions HTTP/1.1\r\nHost: {host}\r\n{field}\r\n");
        let reply = ask(gateway.admin(), text.as_bytes());
        (reply.status(), body(&reply)["reason"].as_str().unwrap_or_default().to_owned())
    };
    let rows = [
        ("rebinding.example:9090", "", "host"),
        ("127.0.0.1:9090", "Origin: https://evil.example\r\n", "cross_site"),
        ("127.0.0.1:9090", "Sec-Fetch-Site: cross-site\r\n", "cross_site"),
        ("127.0.0.1:9090", "Via: 1.1 proxy\r\n", "proxied"),
        ("127.0.0.1:9090", "X-Forwarded-For: 192.0.2.1\r\n", "proxied"),
    ];
    for (host, field, reason) in rows {
        assert_eq!(asked(host, field), (403, reason.to_owned()), "{host} {field}");
    }
    assert_eq!(asked("localhost", "").0, 200);
}

#[test]
fn bodies_are_bounded_and_json() {
    let gateway = start("");
    let put = |fields: &str, body: &str| {
        let head = "PUT /upstreams/a/servers/1 HTTP/1.1\r\nHost: localhost\r\n";
        ask(gateway.admin(), format!("{head}{fields}\r\n{body}").as_bytes()).status()
    };
    let right = "{\"state\":\"up\"}";
    assert_eq!(put("Content-Length: 14\r\n", right), 415, "a form could send that");
    assert_eq!(put("Content-Type: text/plain\r\nContent-Length: 14\r\n", right), 415);
    assert_eq!(put("Content-Type: application/json; charset=utf-8\r\nContent-Length: 14\r\n", right), 200);
    let large = "x".repeat(70_000);
    assert_eq!(put("Content-Type: application/json\r\nContent-Length: 70000\r\n", &large), 413);
    let chunked = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    assert_eq!(put("Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n", &chunked), 413);
}

#[test]
fn many_silent_connections_do_not_keep_others_out() {
    let gateway = start("");
    let half = "POST /reload HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n";
    let rows = [("silence", String::new()), ("half a head", half.to_owned()), ("half a body", format!("{half}\r\n{{"))];
    for (what, sent) in rows {
        // More than there are places, and none of them ends by itself within ten seconds.
        let began = Instant::now();
        let mut kept = Vec::new();
        for _ in 0..300 {
            let mut peer = Peer::connect(gateway.admin());
            // One that has lost its place may be gone by now.
            let _ = peer.try_write(sent.as_bytes());
            kept.push(peer);
        }
        assert_eq!(call(gateway.admin(), "GET /healthz", &[], "").status(), 200, "{what}");
        assert!(began.elapsed() < Duration::from_secs(8), "{what}: {:?}", began.elapsed());
    }
}

#[test]
fn no_client_reaches_it() {
    // An upstream that leads there by a way that `check` cannot see: bytes are passed on as they are.
    let admin: Arc<OnceLock<SocketAddr>> = Arc::default();
    let behind = admin.clone();
    let pipe = serve(move |peer| {
        let there = TcpStream::connect(behind.get().expect("the gateway runs")).expect("it listens");
        let (mut from, mut to) = (peer.stream().try_clone().expect("a copy"), there.try_clone().expect("a copy"));
        std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        let (mut from, mut to) = (there, peer.stream().try_clone().expect("a copy"));
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let (server, seen) = agreeing();
    let gateway = Gateway::start(&format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n\
         [[route]]\npath = \"/\"\nupstream = \"app\"\nhttp = true\nrequest_timeout = \"5s\"\n\
         [[route]]\nhost = \"looped.example\"\nupstream = \"looped\"\nhttp = true\n\
         request_headers = {{ remove = [\"Origin\"] }}\nhost_header = \"127.0.0.1\"\norigins = [\"any\"]\n\
         [upstream.app]\nservers = [\"ws://{server}\"]\nkeepalive = 0\n\
         [upstream.looped]\nservers = [\"ws://{pipe}\"]\n[admin]\naddress = \"127.0.0.1:0\"\n"
    ));
    admin.set(gateway.admin()).expect("once");
    for row in TABLE {
        let path = row.path.replace(['{', '}'], "");
        let before = seen.connections();
        let text = format!("{} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", row.method);
        let _ = ask(gateway.address(), text.as_bytes());
        assert_eq!(seen.connections(), before + 1, "{path} went to the service, as every path does");
        let text = format!("{} {path} HTTP/1.1\r\nHost: looped.example\r\nConnection: close\r\n\r\n", row.method);
        let reply = ask(gateway.address(), text.as_bytes());
        match row.call.is_open() {
            true => assert_eq!(reply.status(), 200, "{path} tells nothing"),
            false => assert_eq!((reply.status(), &body(&reply)["reason"]), (403, &json!("proxied")), "{path}"),
        }
    }
    let upgrade = Head::new("/sessions").set("Host: looped.example").ask(gateway.address());
    assert_eq!(upgrade.status(), 403);
}

#[test]
fn a_unix_socket_is_for_its_owner() {
    let place = folder();
    let socket = place.join("admin.sock");
    let (text, _) = configuration("");
    let text = text
        .replace("[admin]\naddress = \"127.0.0.1:0\"", &format!("[admin]\naddress = \"unix:{}\"", socket.display()));
    let mut gateway = Gateway::start_in(place, &text, EXEC);
    let mode = std::fs::symlink_metadata(&socket).expect("it listens").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let status = ctl(&gateway, &["status", "--json"]);
    assert_eq!(status.status.code(), Some(0), "{status:?}");
    assert!(String::from_utf8_lossy(&status.stdout).contains("\"ready\": true"));
    gateway.signal("TERM");
    assert!(gateway.wait().success());
    assert!(!socket.exists(), "it goes with the gateway");
}

#[test]
fn nothing_that_operators_ask_is_done_by_a_thread_that_relays() {
    let gateway = start("");
    let time = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", gateway.process())).expect("it runs");
        let mut of = [0_u64; 2];
        for task in tasks.map(|task| task.expect("an entry").path()) {
            let stat = std::fs::read_to_string(task.join("schedstat")).expect("a thread");
            let name = std::fs::read_to_string(task.join("comm")).expect("a thread");
            let nanoseconds: u64 = stat.split(' ').next().and_then(|text| text.parse().ok()).expect("a number");
            of[usize::from(name.trim() == "admin")] += nanoseconds;
        }
        of
    };
    let before = time();
    for _ in 0..200 {
        call(gateway.admin(), "GET /metrics", &[], "");
    }
    let [others, admin] = time().into_iter().zip(before).map(|(after, before)| after - before).collect::<Vec<_>>()[..]
    else {
        panic!("two sums")
    };
    assert!(others * 10 < admin, "200 answers took {admin} ns of their thread, and {others} ns of others");
}

#[test]
fn with_tls_a_certificate_is_demanded() {
    let place = folder();
    let (ours, theirs) = (Authority::new("Gateways"), Authority::new("Operators"));
    let ca = |name: &str, authority: &Authority| {
        let path = place.join(name);
        std::fs::write(&path, authority.pem()).expect("written");
        path.display().to_string()
    };
    let (ours_ca, theirs_ca) = (ca("ours.pem", &ours), ca("theirs.pem", &theirs));
    let (certificate, key) = ours.issue(&["gateway.internal"]).write(&place, "gateway");
    let (own, own_key) = theirs.issue(&["operator"]).write(&place, "operator");
    let (text, _) =
        configuration(&format!("tls = {{ certificate = {certificate:?}, key = {key:?}, client_ca = {theirs_ca:?} }}"));
    let gateway = Gateway::start_in(place, &text, EXEC);
    let address = format!("https://{}", gateway.admin());
    let with = ["--address", &address, "--ca", &ours_ca, "--server-name", "gateway.internal"];
    let (own, own_key) = (own.display().to_string(), own_key.display().to_string());
    let certified = ctl(&gateway, &[&["status"], &with[..], &["--certificate", &own, "--key", &own_key]].concat());
    assert_eq!(certified.status.code(), Some(0), "{certified:?}");
    let nobody = ctl(&gateway, &[&["status"], &with[..]].concat());
    assert_eq!(nobody.status.code(), Some(1), "{nobody:?}");
    assert_eq!(call(gateway.admin(), "GET /healthz", &[], "").status(), 400, "plain HTTP is told what to do");
}

#[test]
fn a_part_is_drained_and_then_the_whole() {
    let gateway = start("");
    let mut sessions: Vec<Peer> =
        ["/a", "/a", "/b"].into_iter().map(|path| Peer::open(gateway.address(), path)).collect();
    let (code, out, _) = told(&gateway, &["drain", "--route", "a"]);
    assert_eq!((code, out.as_str()), (0, "2 sessions are closed over 1s\n"));
    for peer in &mut sessions[..2] {
        assert_eq!(peer.frame().close().0, 1012);
        peer.write(&masked(8, &close_payload(1012, "")));
    }
    eventually("they are gone", || ids(&gateway, "") == [3]);
    assert_eq!(json(gateway.admin(), "GET /readyz"), json!({ "ready": true }), "new ones are welcome");
    drop(Peer::open(gateway.address(), "/a"));
    let (code, _, _) = told(&gateway, &["drain", "--all"]);
    assert_eq!(code, 0);
    eventually("it is not ready", || call(gateway.admin(), "GET /readyz", &[], "").status() == 503);
    assert_eq!(sessions[2].frame().close().0, 1012);
    assert_eq!(call(gateway.admin(), "GET /healthz", &[], "").status(), 200, "it lives, and answers");
    eventually("new sessions are refused", || {
        let mut peer = Peer::connect(gateway.address());
        peer.write(request("/a", "").as_bytes());
        peer.try_head().is_some_and(|head| status(&head) == 503)
    });
    assert_eq!(call(gateway.admin(), "POST /reload", &[], "").status(), 409);
    assert!(support::admin::metrics(gateway.admin()).contains("tidegate_draining 1\n"));
}

#[test]
fn a_reload_says_what_it_changed_or_why_it_did_not() {
    let gateway = start("");
    let file = gateway.directory.join("config.toml");
    let text = std::fs::read_to_string(&file).expect("it is there");
    let reload = || call(gateway.admin(), "POST /reload", &[], "");
    assert_eq!(body(&reload())["changes"], json!([]), "nothing has changed");
    std::fs::write(&file, text.replace("path = \"/b\"", "path = \"/b\"\nidle_timeout = \"5m\"")).expect("written");
    let reply = reload();
    assert_eq!(reply.status(), 200, "{}", reply.text());
    assert!(reply.text().contains("idle_timeout"), "{}", reply.text());
    let config = json(gateway.admin(), "GET /config");
    assert_eq!(config["route"][1]["idle_timeout"], "5m");
    std::fs::write(&file, text.replace("upstream = \"b\"", "upstream = \"c\"")).expect("written");
    let reply = reload();
    assert_eq!((reply.status(), &body(&reply)["reason"]), (422, &json!("not_reloaded")));
    assert!(reply.text().contains("no upstream \\\"c\\\""), "{}", reply.text());
    let (code, _, error) = told(&gateway, &["reload"]);
    assert!(code == 1 && error.contains("no upstream \"c\""), "{error}");
    let status = json(gateway.admin(), "GET /status");
    assert_eq!((&status["config"]["reloads"], &status["config"]["reloads_failed"]), (&json!(2), &json!(2)));
    assert!(status["config"]["last_reload_error"].as_str().is_some_and(|error| error.contains("no upstream")));
    let metrics = support::admin::metrics(gateway.admin());
    for line in [
        "tidegate_config_reloads_total{outcome=\"ok\"} 2\n",
        "tidegate_config_reloads_total{outcome=\"failed\"} 2\n",
        "tidegate_config_last_reload_ok 0\n",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    std::fs::write(&file, format!("{text}token = \"{TOKEN}\"\n")).expect("written");
    let (code, out, _) = told(&gateway, &["reload"]);
    assert!(
        code == 0 && out.contains("admin.token") && out.contains("needs a restart") && !out.contains(TOKEN),
        "{out}"
    );
    assert!(!json(gateway.admin(), "GET /config")["admin"]["token"].is_string(), "it does not hold yet");
}

// tidegate ctl.

fn ctl(gateway: &Gateway, arguments: &[&str]) -> Output {
    let named = arguments.contains(&"--address");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("ctl").args(arguments).env_remove("TIDEGATE_ADMIN_TOKEN");
    if !named {
        command.arg("--config").arg(gateway.directory.join("config.toml"));
    }
    command.output().expect("it runs")
}

/// What it prints, of a gateway on a port that the system chose.
fn told(gateway: &Gateway, arguments: &[&str]) -> (i32, String, String) {
    let address = gateway.admin().to_string();
    let output = ctl(gateway, &[arguments, &["--address", &address]].concat());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("a code"), text(&output.stdout), text(&output.stderr))
}

#[test]
fn ctl_lists_closes_and_sets() {
    let gateway = start("");
    let mut sessions: Vec<Peer> =
        ["/a", "/b", "/b"].into_iter().map(|path| Peer::open(gateway.address(), path)).collect();
    let (code, out, _) = told(&gateway, &["sessions"]);
    assert_eq!(code, 0);
    assert!(out.starts_with("ID  ROUTE  CLIENT") && out.ends_with("\n3 sessions\n"), "{out}");
    let (_, out, _) = told(&gateway, &["sessions", "--route", "b", "--json"]);
    let parsed: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&parsed["total"], parsed["sessions"].as_array().map(Vec::len)), (&json!(2), Some(2)));
    let (_, out, _) = told(&gateway, &["sessions", "--limit", "2"]);
    assert!(out.ends_with("\n2 of 3 sessions\n"), "{out}");
    let (_, out, _) = told(&gateway, &["close", "--route", "b", "--dry-run"]);
    assert_eq!(out, "2 sessions would be closed\n");
    let (_, out, _) = told(&gateway, &["close", "1"]);
    assert_eq!(out, "1 session is closed\n");
    assert_eq!(sessions[0].frame().close().0, 1012);
    let (_, out, _) = told(&gateway, &["upstreams", "b", "1", "drain"]);
    assert!(out.ends_with(" is now drain\n"), "{out}");
    let (_, out, _) = told(&gateway, &["upstreams"]);
    assert!(out.starts_with("UPSTREAM  N  SERVER") && out.contains("drain"), "{out}");
    let mut refused = Peer::connect(gateway.address());
    refused.write(request("/b", "").as_bytes());
    assert_eq!(status(&refused.head()), 503, "its only server takes nothing new");
    let (code, out, _) = told(&gateway, &["status"]);
    assert!(code == 0 && out.contains("up for") && out.contains("sessions, "), "{out}");
}

#[test]
fn ctl_says_what_to_do() {
    let (text, _) = configuration(&format!("token = \"{TOKEN}\""));
    let gateway = Gateway::start(&text);
    let (code, _, error) = told(&gateway, &["status"]);
    assert!(code == 1 && error.contains("a token is needed") && error.contains("--token-file"), "{error}");
    std::fs::write(gateway.directory.join("wrong"), "0123456789abcdeX").expect("written");
    let wrong = gateway.directory.join("wrong").display().to_string();
    let (code, _, error) = told(&gateway, &["status", "--token-file", &wrong]);
    assert!(code == 1 && error.contains("this is not the token"), "{error}");

    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let output = ctl(&gateway, &["status", "--address", &nobody.to_string()]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && error.contains("does the gateway run, with [admin]"), "{error}");

    let place = folder();
    let none = text.split("[admin]").next().expect("the rest").to_owned();
    std::fs::write(place.join("config.toml"), none).expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["ctl", "status", "--config"])
        .arg(place.join("config.toml"))
        .output()
        .expect("it runs");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && error.contains("has no [admin]: add"), "{error}");
    for usage in [
        &["sessions", "--rout", "a"][..],
        &["sessions", "--limit", "0"],
        &["close"],
        &["close", "--dry-run"],
        &["drain"],
    ] {
        assert_eq!(ctl(&gateway, usage).status.code(), Some(2), "{usage:?} is told by clap");
    }

    // While the file is wrong the gateway runs on, and can be asked.
    std::fs::write(place.join("config.toml"), format!("{text}\n[bogus]\n")).expect("written");
    let command = |folder: &Path, more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["ctl", "status"])
            .args(more)
            .current_dir(folder)
            .output();
        let output = output.expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, error) = command(&place, &[]);
    assert!(
        code == Some(1) && error.contains("bogus") && error.contains("name the gateway's admin interface: --address"),
        "{error}"
    );
    std::fs::write(place.join("token"), TOKEN).expect("written");
    let address = gateway.admin().to_string();
    assert_eq!(command(&place, &["--address", &address, "--token-file", "token"]), (Some(0), String::new()));
    std::fs::remove_file(place.join("config.toml")).expect("it was written above");
    let (code, error) = command(&place, &[]);
    assert!(
        code == Some(1) && error.contains("there is no config.toml here: name the gateway's with --config"),
        "{error}"
    );
    std::fs::remove_dir_all(place).expect("it was made above");
}
