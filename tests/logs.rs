//! The log of the real binary: what leaves a line, what never stands in one, rotation, sampling, traces and request ids.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::client::{CLOSE, Peer, TEXT, close_payload, masked, request, unmasked};
use support::eventually;
use support::gateway::{Gateway, folder};
use support::http::{Head, Reply, ask, status};
use support::upstream::{Seen, answering, field, switching};

const SECRET: &str = "s3cr3t";

/// Agrees to handshakes and closes at once, but at `/open`; has a page, and fails at `/broken`.
fn upstream() -> (std::net::SocketAddr, Seen) {
    answering(|head| match head.split(' ').nth(1) {
        Some("/open") => switching(head, "").into_bytes(),
        _ if field(head, "upgrade").is_some() => {
            [switching(head, "").into_bytes(), unmasked(CLOSE, &close_payload(1000, ""))].concat()
        }
        Some("/broken") => {
            b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_vec()
        }
        _ => b"HTTP/1.1 200 OK\r\nConnection: close\r\nX-Request-Id: of-the-upstream\r\nContent-Length: 5\r\n\r\nplain"
            .to_vec(),
    })
}

fn config(upstream: std::net::SocketAddr, log: &str) -> String {
    format!(
        r#"
[limits]
handshakes_per_client = "off"

[[listener]]
address = "127.0.0.1:0"

[[listener]]
address = "127.0.0.1:0"
trusted_proxies = ["127.0.0.1"]

[[route]]
name = "app"
path = "/"
upstream = "app"
http = true
origins = ["any"]

[[route]]
name = "keyed"
path = "/keyed"
upstream = "app"
http = true
origins = ["any"]
keys = {{ file = "keys.txt", header = "X-API-Key", query = "key", bearer = true }}

[[route]]
name = "moved"
path = "/moved"
redirect = {{ to = "https://elsewhere.test{{path}}" }}

[[route]]
name = "fixed"
path = "/fixed"
respond = {{ status = 410, body = "gone" }}

[[route]]
name = "page"
path = "/page"
page = "chat"

[[route]]
name = "files"
path = "/files"
files = {{ folder = "public" }}

[upstream.app]
servers = ["ws://{upstream}"]
retries = 0

[log]
{log}
"#
    )
}

/// A folder with the keys of the route `keyed`, and the files of the route `files`.
fn home() -> std::path::PathBuf {
    let folder = folder();
    fs::create_dir(folder.join("public")).expect("a folder");
    fs::write(folder.join("public/hello.txt"), "hello").expect("written");
    fs::write(folder.join("keys.txt"), "somebody: a-key-that-no-test-sends-0123456789\n").expect("written");
    folder
}

fn start(log: &str) -> (Gateway, Seen) {
    let (upstream, seen) = upstream();
    (Gateway::start_in(home(), &config(upstream, log), "exec \"$0\" \"$@\""), seen)
}

fn get(target: &str, more: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n{more}\r\n")
}

/// A session that ends as sessions do; the head of its 101.
fn session(gateway: &Gateway, listener: usize, path: &str, more: &str) -> String {
    let mut peer = Peer::connect(gateway.addresses()[listener]);
    peer.write(request(path, more).as_bytes());
    let head = peer.head();
    assert_eq!(status(&head), 101, "{head}");
    assert_eq!(peer.frame().close().0, 1000);
    peer.write(&masked(CLOSE, &close_payload(1000, "")));
    peer.rest();
    head
}

fn records(text: &str) -> Vec<Value> {
    let of = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text.lines().filter(|line| line.starts_with('{')).map(of).collect()
}

/// The records with this message and path (or route), once there are `count`.
fn found(gateway: &Gateway, message: &str, count: usize) -> Vec<Value> {
    let mut all = Vec::new();
    eventually(&format!("{count} records: {message}"), || {
        all = records(&gateway.output());
        all.retain(|record| record["message"] == message);
        all.len() >= count
    });
    assert_eq!(all.len(), count, "{all:?}");
    all
}

#[test]
fn everything_that_is_answered_leaves_a_line_and_ids_join_them() {
    let (gateway, seen) = start("format = \"json\"");
    let address = gateway.address();
    let rows = [
        ("a page of the upstream's", "/plain", 200, "app", 5),
        ("its failure", "/broken", 503, "app", 0),
        ("a redirect", "/moved", 308, "moved", 0),
        ("a fixed answer", "/fixed", 410, "fixed", 4),
        ("a built-in page", "/page", 200, "page", include_str!("../src/backend/chat.html").len()),
        ("a file", "/files/hello.txt", 200, "files", 5),
    ];
    for (at, (name, path, status, route, bytes)) in rows.into_iter().enumerate() {
        let reply = ask(address, get(path, "").as_bytes());
        assert_eq!(reply.status(), status, "{name}");
        let record = &found(&gateway, "request", at + 1)[at];
        assert_eq!((&record["status"], &record["path"]), (&status.into(), &path.into()), "{name}");
        assert_eq!((&record["route"], &record["method"]), (&route.into(), &"GET".into()), "{name}");
        assert_eq!((&record["bytes"], &record["broke_off"]), (&bytes.into(), &Value::Null), "{name}: {record}");
        assert_eq!((&record["client"], &record["host"]), (&"127.0.0.1".into(), &"app.test".into()), "{name}");
        assert_eq!(reply.all("x-request-id"), [record["request"].as_str().expect("an id")], "{name}");
        if route == "app" {
            let head = seen.last();
            assert_eq!(field(&head, "x-request-id").as_deref(), record["request"].as_str(), "{name}");
            let parent = field(&head, "traceparent").expect("begun");
            assert_eq!(parent.split('-').nth(1), record["trace"].as_str(), "{name}");
            assert!(record["upstream"].is_string(), "{name}");
        }
    }
    for (at, (path, status)) in [("/fixed/../x", 400), ("/page/other", 404)].into_iter().enumerate() {
        let refused = ask(address, get(path, "").as_bytes());
        assert_eq!(refused.status(), status);
        let record = &found(&gateway, "refused", at + 1)[at];
        assert_eq!(refused.all("x-request-id"), [record["request"].as_str().expect("an id")]);
    }

    let head = session(&gateway, 0, "/chat", "");
    let (opened, ended) = (&found(&gateway, "session opened", 1)[0], &found(&gateway, "session ended", 1)[0]);
    for name in ["request", "trace", "session", "route", "client", "upstream"] {
        assert!(!opened[name].is_null(), "{name}: {opened}");
        assert_eq!(opened[name], ended[name], "{name}");
    }
    assert_eq!(field(&head, "x-request-id").as_deref(), opened["request"].as_str());
    assert_eq!(field(&seen.last(), "x-request-id").as_deref(), opened["request"].as_str());
}

#[test]
fn an_answer_that_breaks_off_is_told_when_it_is_over() {
    let (upstream, _) = answering(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbegin".to_vec());
    let gateway = Gateway::start_in(home(), &config(upstream, "format = \"json\"\nsample = 0"), "exec \"$0\" \"$@\"");
    let mut peer = Peer::connect(gateway.address());
    peer.write(get("/long", "").as_bytes());
    peer.head();
    assert_eq!(peer.bytes(5), b"begin");
    assert!(records(&gateway.output()).iter().all(|record| record["message"] != "request"), "it is not over");
    drop(peer);
    let record = &found(&gateway, "request", 1)[0];
    assert_eq!((&record["bytes"], &record["broke_off"]), (&5.into(), &true.into()), "{record}");
}

/// hyper takes no more of a file than its length, and never sees its end.
#[test]
fn a_file_that_was_sent_is_whole_and_one_that_was_not_broke_off() {
    const LARGE: usize = 64 << 20;
    let folder = home();
    fs::File::create(folder.join("public/large")).and_then(|file| file.set_len(LARGE as u64)).expect("a hole");
    let (upstream, _) = upstream();
    let gateway = Gateway::start_in(folder, &config(upstream, "format = \"json\""), "exec \"$0\" \"$@\"");
    let rows = [
        ("", 200, LARGE),
        ("Range: bytes=1000-99999\r\n", 206, 99_000),
        ("Range: bytes=99999999-\r\n", 416, 0),
        ("If-None-Match: *\r\n", 304, 0),
    ];
    for (at, (more, status, bytes)) in rows.into_iter().enumerate() {
        assert_eq!(ask(gateway.address(), get("/files/large", more).as_bytes()).status(), status);
        let record = &found(&gateway, "request", at + 1)[at];
        assert_eq!((&record["status"], &record["bytes"]), (&status.into(), &bytes.into()), "{record}");
        assert_eq!(record["broke_off"], Value::Null, "{record}");
    }
    let mut peer = Peer::connect(gateway.address());
    peer.write(get("/files/large", "").as_bytes());
    peer.bytes(100_000);
    drop(peer);
    let record = &found(&gateway, "request", rows.len() + 1)[rows.len()];
    assert_eq!(record["broke_off"], Value::Bool(true), "{record}");
}

/// As `nc -N` does: what is ours to say is said, and what an upstream would have to say is not waited for.
#[test]
fn a_client_that_ends_its_side_gets_what_is_ours_and_a_line_in_any_case() {
    let (silent, seen) = answering(|_| Vec::new());
    let folder = home();
    fs::write(folder.join("public/large"), vec![b'x'; 8 << 20]).expect("written");
    let gateway = Gateway::start_in(folder, &config(silent, "format = \"json\""), "exec \"$0\" \"$@\"");
    let send = |path: &str| {
        let mut stream = TcpStream::connect(gateway.address()).expect("it listens");
        stream.set_read_timeout(Some(support::PATIENCE)).expect("a timeout");
        let head = format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("it is written");
        stream.shutdown(Shutdown::Write).expect("it ends");
        stream
    };
    let rows = [
        ("/page", 200),
        ("/fixed", 410),
        ("/moved", 308),
        ("/files/hello.txt", 200),
        ("/files/large", 200),
        ("/files/none", 404),
        ("/keyed", 401),
    ];
    for (path, expected) in rows {
        let mut stream = send(path);
        // Whoever reads slowly keeps some of the answer in the gateway.
        std::thread::sleep(Duration::from_millis(if path == "/files/large" { 200 } else { 0 }));
        let mut text = Vec::new();
        stream.read_to_end(&mut text).expect("the gateway ends it");
        let at = text.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
        let head = String::from_utf8_lossy(&text[..at]).into_owned();
        assert_eq!(status(&head), expected, "{path}");
        let length: usize = field(&head, "content-length").map_or(0, |length| length.parse().expect("a number"));
        assert_eq!(text.len() - at, length, "{path}");
    }
    assert_eq!(found(&gateway, "request", 5).iter().filter(|record| record["broke_off"] == true).count(), 0);
    found(&gateway, "refused", 2);
    let mut text = Vec::new();
    send("/plain").read_to_end(&mut text).expect("the gateway ends it");
    assert!(text.is_empty(), "{}", String::from_utf8_lossy(&text));
    // The same when it leaves later.
    let mut peer = Peer::connect(gateway.address());
    peer.write(get("/later", "").as_bytes());
    eventually("the upstream has it", || seen.heads().iter().any(|head| head.contains("/later")));
    drop(peer);
    for record in &found(&gateway, "request", 7)[5..] {
        let fields = (&record["broke_off"], &record["status"], &record["bytes"]);
        assert_eq!(fields, (&true.into(), &Value::Null, &0.into()), "{record}");
    }
}

#[test]
fn a_head_request_is_whole_without_a_body() {
    let (gateway, _) = start("format = \"json\"");
    let head = get("/page", "").replacen("GET", "HEAD", 1);
    assert_eq!(ask(gateway.address(), head.as_bytes()).status(), 200);
    let record = &found(&gateway, "request", 1)[0];
    assert_eq!((&record["broke_off"], &record["bytes"]), (&Value::Null, &0.into()), "{record}");
}

/// Where secrets travel: none of these places is ever in the log, at any level, whatever became of the request.
#[test]
fn no_secret_is_in_any_line() {
    for format in ["human", "json"] {
        let (gateway, _) = start(&format!("format = \"{format}\"\nlevel = \"trace\""));
        let places: [(&str, String, String); 17] = [
            ("query", format!("/x?token={SECRET}"), String::new()),
            ("query with a fragment", format!("/x?a=b#{SECRET}"), String::new()),
            ("path parameter", format!("/x;jsessionid={SECRET}/y"), String::new()),
            ("absolute target with a password", format!("http://user:{SECRET}@app.test/x"), String::new()),
            ("key in the query", format!("/keyed?key={SECRET}"), String::new()),
            ("key in its header", "/keyed".to_owned(), format!("X-API-Key: {SECRET}\r\n")),
            ("cookie", "/x".to_owned(), format!("Cookie: session={SECRET}; theme=dark\r\n")),
            ("Authorization", "/x".to_owned(), format!("Authorization: Bearer {SECRET}\r\n")),
            ("Proxy-Authorization", "/x".to_owned(), format!("Proxy-Authorization: Basic {SECRET}\r\n")),
            ("a header that is not one", "/x".to_owned(), format!("X-Auth {SECRET}: a\r\n")),
            ("Referer", "/x".to_owned(), format!("Referer: https://app.test/?code={SECRET}\r\n")),
            ("User-Agent", "/x".to_owned(), format!("User-Agent: {SECRET}\r\n")),
            ("Origin with a password", "/x".to_owned(), format!("Origin: https://user:{SECRET}@app.test\r\n")),
            ("X-Request-Id of anybody", "/x".to_owned(), format!("X-Request-Id: {SECRET}\r\n")),
            ("traceparent", "/x".to_owned(), format!("traceparent: 00-{SECRET}\r\n")),
            ("tracestate", "/x".to_owned(), format!("tracestate: a={SECRET}\r\n")),
            ("Forwarded", "/x".to_owned(), format!("Forwarded: for={SECRET}\r\n")),
        ];
        for (at, (name, target, more)) in places.iter().enumerate() {
            let plain = get(&target.replace("/x", &format!("/x{at}")), more);
            let handshake = Head::new(target).with(more.trim_end()).text();
            for head in [plain.clone(), plain.replace("Host: app.test", "Host: a b"), handshake.clone()] {
                let mut peer = Peer::connect(gateway.address());
                peer.write(head.as_bytes());
                assert!(peer.try_head().is_some(), "{name} is answered");
            }
        }
        let handshakes = [
            ("subprotocol", format!("Sec-WebSocket-Protocol: bearer.{SECRET}, v1")),
            ("subprotocol as others spell it", format!("Sec-WebSocket-Protocol: access_token, {SECRET}")),
            ("extension", format!("Sec-WebSocket-Extensions: {SECRET}; a=\"{SECRET}\"")),
            ("key of the handshake", format!("Sec-WebSocket-Key: {SECRET}")),
        ];
        for (name, line) in &handshakes {
            for path in ["/x", "/keyed"] {
                let mut peer = Peer::connect(gateway.address());
                peer.write(Head::new(path).set(line).text().as_bytes());
                assert!(peer.try_head().is_some(), "{name} is answered");
            }
        }
        let host = Head::new("/x").set(&format!("Host: user:{SECRET}@app.test"));
        assert_eq!(host.ask(gateway.address()).status(), 400);
        let last = ask(gateway.address(), get("/the-last-one", "").as_bytes());
        assert_eq!(last.status(), 200);
        gateway.log("/the-last-one");
        let output = gateway.output();
        for line in output.lines() {
            assert!(!line.contains(SECRET), "{format}: {line}");
        }
        let lines =
            output.lines().filter(|line| ["refused", "session", "request"].iter().any(|word| line.contains(word)));
        assert!(lines.count() >= 3 * places.len(), "each of them left a line: {output}");
    }
}

#[test]
fn a_file_that_was_moved_away_is_opened_again() {
    let (gateway, _) = start("format = \"json\"\nfile = \"access.log\"");
    let (now, old) = (gateway.directory.join("access.log"), gateway.directory.join("access.log.1"));
    let paths = |file: &Path| {
        let all = records(&fs::read_to_string(file).unwrap_or_default());
        let paths = all.iter().filter_map(|record| record["path"].as_str().map(str::to_owned));
        paths.collect::<Vec<_>>()
    };
    assert_eq!(ask(gateway.address(), get("/one", "").as_bytes()).status(), 200);
    eventually("the first line is in the file", || paths(&now) == ["/one"]);
    fs::rename(&now, &old).expect("moved");
    assert_eq!(ask(gateway.address(), get("/two", "").as_bytes()).status(), 200);
    eventually("until it is told, it goes on in the old one", || paths(&old) == ["/one", "/two"]);
    assert!(!now.exists());
    gateway.signal("USR1");
    eventually("there is a new file", || now.exists());
    assert_eq!(ask(gateway.address(), get("/three", "").as_bytes()).status(), 200);
    eventually("the third line is in the new one", || paths(&now) == ["/three"]);
    assert_eq!(paths(&old), ["/one", "/two"]);
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(&now).expect("there").permissions().mode() & 0o777, 0o640);
    assert!(!gateway.output().contains("\"message\""), "nothing of it is on standard error");

    // A folder that is gone: the old file goes on.
    let away = gateway.directory.join("away");
    fs::rename(&now, &away).expect("moved");
    fs::create_dir(&now).expect("made");
    gateway.signal("USR1");
    eventually("it is told", || fs::read_to_string(&away).is_ok_and(|text| text.contains("cannot be opened again")));
    assert_eq!(ask(gateway.address(), get("/four", "").as_bytes()).status(), 200);
    eventually("the fourth line is in the old one", || paths(&away) == ["/three", "/four"]);
    fs::remove_dir(&now).expect("removed");
}

#[test]
fn a_file_that_cannot_be_opened_is_told_at_the_start() {
    let folder = home();
    let (upstream, _) = upstream();
    fs::write(folder.join("config.toml"), config(upstream, "file = \"nowhere/access.log\"")).expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["run", "--config"])
        .arg(folder.join("config.toml"))
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("nowhere/access.log"), "{text}");
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn what_goes_wrong_is_never_sampled_away() {
    let (gateway, seen) = start("format = \"json\"\nsample = 0");
    for _ in 0..20 {
        session(&gateway, 0, "/chat", "");
        assert_eq!(ask(gateway.address(), get("/plain", "").as_bytes()).status(), 200);
    }
    let parent = field(&seen.last(), "traceparent").expect("begun");
    assert!(parent.ends_with("-00"), "what leaves no line is not sampled: {parent}");
    assert_eq!(ask(gateway.address(), get("/broken", "").as_bytes()).status(), 503);
    assert_eq!(ask(gateway.address(), get("/moved/..", "").as_bytes()).status(), 400);
    let mut peer = Peer::open(gateway.address(), "/open");
    peer.write(&unmasked(TEXT, b"not masked"));
    peer.rest();
    assert_eq!(found(&gateway, "request", 1)[0]["status"], 503);
    assert_eq!(found(&gateway, "refused", 1)[0]["reason"], "path_dot_segment");
    assert_eq!(found(&gateway, "session ended", 1)[0]["cause"], "protocol_error");
    assert!(records(&gateway.output()).iter().all(|record| record["message"] != "session opened"));
}

#[test]
fn a_sample_takes_whole_sessions() {
    let (gateway, _) = start("format = \"json\"\nsample = 50\naccess = [\"opened\", \"ended\"]");
    for _ in 0..60 {
        session(&gateway, 0, "/chat", "");
        ask(gateway.address(), get("/plain", "").as_bytes());
    }
    let of = |message: &str| {
        let all = records(&gateway.output());
        let ids = all.iter().filter(|record| record["message"] == message).map(|record| record["session"].as_u64());
        let mut ids: Vec<_> = ids.collect();
        ids.sort();
        ids
    };
    eventually("those that opened have ended", || of("session opened") == of("session ended"));
    // Of 60 with an even chance, fewer than 10 or more than 50 is less likely than one in ten million.
    assert!((10..=50).contains(&of("session opened").len()), "{}", of("session opened").len());
    assert_eq!(of("request"), [], "they are not in `access`");
}

#[test]
fn a_session_that_lives_says_so() {
    let (gateway, _) = start("format = \"json\"\naccess = []\nprogress = \"200ms\"");
    let mut peer = Peer::open(gateway.address(), "/open");
    peer.write(&masked(TEXT, b"hello"));
    let lives = || {
        let all = records(&gateway.output());
        all.into_iter().filter(|record| record["message"] == "session lives").collect::<Vec<_>>()
    };
    eventually("three lines that know of its message", || {
        lives().iter().filter(|record| record["bytes_from_client"] == 5 && record["messages_from_client"] == 1).count()
            >= 3
    });
    assert!(lives().iter().all(|record| record["session"] == 1 && record["route"] == "app"));
}

#[test]
fn request_ids_of_trusted_proxies_count() {
    let (gateway, seen) = start("format = \"json\"");
    let id = "7c9e6679-7425-40de-944b-e07fc1f90ae7";
    let given = format!("X-Request-Id: {id}\r\n");
    for (name, listener, line, taken) in [
        ("a trusted proxy's", 1, given.as_str(), true),
        ("anybody's", 0, given.as_str(), false),
        ("a trusted proxy's that is none", 1, "X-Request-Id: a b\r\n", false),
        ("a trusted proxy's, twice", 1, "X-Request-Id: a\r\nX-Request-Id: b\r\n", false),
        ("none", 1, "", false),
    ] {
        let plain = |reply: &Reply| reply.all("x-request-id");
        let address = gateway.addresses()[listener];
        let answered = plain(&ask(address, get("/plain", line).as_bytes()));
        let [answered] = &answered[..] else { panic!("{name}: {answered:?}") };
        assert_eq!(field(&seen.last(), "x-request-id").as_deref(), Some(answered.as_str()), "{name}");
        let head = session(&gateway, listener, "/chat", line);
        let opened = field(&head, "x-request-id").expect("told");
        assert_eq!(field(&seen.last(), "x-request-id").as_deref(), Some(opened.as_str()), "{name}");
        for found in [answered, &opened] {
            let made = found.len() == 32 && found.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert_eq!((found == id, made), (taken, !taken), "{name}: {found}");
            gateway.log(found);
        }
    }
}

#[test]
fn traces_pass_or_begin() {
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    let valid = format!("traceparent: {PARENT}\r\ntracestate: a=1\r\n");
    let nominated = "Connection: close, X-Request-Id, traceparent\r\n";
    let rows: [(&str, &str, Option<&str>, bool); 5] = [
        ("a valid one passes", &valid, Some(PARENT), true),
        ("one with another line passes no more than once", "TraceParent: 00-x-y-z\r\ntracestate: a=1\r\n", None, false),
        ("in upper case it is none", &valid.replace("bf92f", "BF92F"), None, false),
        ("none", "", None, false),
        ("nobody can remove ours", nominated, None, false),
    ];
    for begin in ["begin", "pass"] {
        let (gateway, seen) = start(&format!("format = \"json\"\ntraceparent = \"{begin}\""));
        for (name, lines, expected, state) in &rows {
            for listener in [0, 1] {
                ask(gateway.addresses()[listener], get("/plain", lines).as_bytes());
                let plain = seen.last();
                session(&gateway, listener, "/chat", lines);
                for head in [plain, seen.last()] {
                    let parent = field(&head, "traceparent");
                    match (expected, begin) {
                        (Some(_), _) => assert_eq!(parent.as_deref(), *expected, "{name}: {head}"),
                        (None, "begin") => {
                            let parent = parent.unwrap_or_else(|| panic!("{name}: {head}"));
                            assert!(
                                parent.starts_with("00-") && parent.len() == 55 && parent.ends_with("-01"),
                                "{name}"
                            );
                        }
                        _ => assert_eq!(parent, None, "{name}: {head}"),
                    }
                    assert_eq!(field(&head, "tracestate").is_some(), *state, "{name}: {head}");
                    assert!(field(&head, "x-request-id").is_some(), "{name}: {head}");
                }
            }
        }
    }
}

#[test]
fn a_log_that_nobody_reads_holds_no_session_up() {
    let (upstream, _) = upstream();
    let folder = home();
    let shell = format!("mkfifo {0}/pipe && exec \"$0\" \"$@\" 2<>{0}/pipe", folder.display());
    let mut gateway = Gateway::start_in(folder, &config(upstream, ""), &shell);
    // A pipe takes 64 KiB, the buffer a MiB; each of these leaves some 800 bytes.
    let long = "x".repeat(180);
    let one = format!("GET /fixed/{long} HTTP/1.1\r\nHost: {long}.test\r\n\r\n");
    let mut peer = Peer::connect(gateway.address());
    for _ in 0..40 {
        peer.write(one.repeat(100).as_bytes());
        for _ in 0..100 {
            assert_eq!(status(&peer.head()), 410);
            peer.bytes(4);
        }
    }
    let begun = Instant::now();
    session(&gateway, 0, "/chat", "");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    gateway.signal("TERM");
    assert!(gateway.wait().success(), "and it ends");
}
