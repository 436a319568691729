//! `tidegate explain` says what the gateway does: both are asked the same, over generated requests.

mod support;

use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config as Runs, TestRunner};
use support::client::{KEY, Peer};
use support::gateway::Gateway;
use support::http::{reply, status};
use support::upstream::{answering, switching};
use tidegate::config;
use tidegate::config::model::Config;
use tidegate::explain::{Explanation, Question, Verdict, explain};

const ROUTES: &str = r#"
[limits]
handshakes_per_client = "off"

[[listener]]
address = "127.0.0.1:0"
trusted_proxies = ["127.0.0.1"]

[[route]]
name = "page"
path = "/page"
page = "chat"

[[route]]
name = "chat"
host = "chat.example.com"
path = "/chat"
upstream = "app"
origins = ["same-origin", "https://*.example.com"]
subprotocols = ["chat.v2", "chat.v1"]
subprotocol_required = true

[[route]]
name = "below"
host = "*.example.com"
upstream = "app"
origins = ["any"]
compression = "off"

[[route]]
name = "slashes"
path = "/files"
upstream = "app"
encoded_slashes = true
http = true

[[route]]
name = "exact"
path = "/chat/"
path_exact = true
upstream = "other"

[[route]]
name = "tenant"
path = "/files"
headers = { X-Tenant = "a" }
upstream = "other"
http = true

[[route]]
name = "version"
path = "/files"
query = { version = "2" }
upstream = "other"

[[route]]
name = "strip"
host = "10.0.0.1"
path = "/chat"
strip_prefix = true
upstream = "app"
http = true

[[route]]
name = "rewrite"
host = "example.com"
path = "/chat/"
path_exact = true
rewrite = { prefix = "/new" }
upstream = "other"

[[route]]
name = "https"
host = "chat.example.com"
path = "/files"
upstream = "app"
redirect = "https"

[[route]]
name = "moved"
host = "example.com"
path = "/"
redirect = { to = "https://www.example.com{path}", status = 307 }

[[route]]
name = "fixed"
host = "10.0.0.1"
path = "/none"
respond = { status = 410, body = "gone" }

[[route]]
name = "files"
host = "example.com"
path = "/page"
files = { folder = "." }

[[route]]
name = "v2"
path = "/"
subprotocol = "chat.v2"
upstream = "other"
"#;

fn text(upstream: std::net::SocketAddr) -> String {
    format!(
        "{ROUTES}\n[upstream.app]\nservers = [\"ws://{upstream}/base\"]\n\
         [upstream.other]\nservers = [\"ws://{upstream}/other\"]\n"
    )
}

/// What stands before every path that reaches an upstream.
fn base(upstream: &str) -> &'static str {
    match upstream {
        "app" => "/base",
        "other" => "/other",
        name => panic!("no upstream {name}"),
    }
}

fn parsed(text: &str) -> Config {
    config::parse(text, Path::new("config.toml")).expect("the configuration is right").config
}

/// One request, as a client on the wire and a question to `explain` see it.
#[derive(Debug, Clone)]
struct Ask {
    upgrade: bool,
    host: &'static str,
    path: &'static str,
    origin: Option<&'static str>,
    subprotocols: Vec<&'static str>,
    more: Vec<&'static str>,
}

fn asks() -> impl Strategy<Value = Ask> {
    let host =
        select(vec!["chat.example.com", "a.example.com", "example.com", "CHAT.example.com.", "10.0.0.1", "no host"]);
    let path = select(vec![
        "/chat",
        "/chat/",
        "/chat/room?token=1",
        "/files?version=2",
        "/chatter",
        "//chat",
        "/c%68at",
        "/page",
        "/page/config.toml",
        "/page/.hidden",
        "/files/a%2Fb",
        "/chat/../files",
        "/chat/%2e%2e/files",
        "/files;x=1",
        "/files/..;/chat",
        "/",
        "/none",
    ]);
    let origin = proptest::option::of(select(vec![
        "https://a.example.com",
        "https://chat.example.com",
        "http://chat.example.com",
        "https://evil.test",
        "null",
        "a b",
    ]));
    let subprotocols =
        proptest::sample::subsequence(vec!["chat.v1", "other", "chat.v2", "bad name"], 0..=2).prop_shuffle();
    let more = proptest::sample::subsequence(
        vec![
            "Sec-WebSocket-Version: 8",
            "Sec-WebSocket-Extensions: permessage-deflate",
            "Content-Length: 1",
            "Origin: https://a.example.com",
            "X-Tenant: a",
            "X-Tenant: b",
            "X-Forwarded-For: 203.0.113.7",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: a.example.com",
            "Forwarded: for=\"[2001:db8::1]\"",
            "Upgrade: h2c",
        ],
        0..=2,
    );
    let upgrade = prop::bool::weighted(0.9);
    let any = (upgrade, host, path, origin, subprotocols, more).prop_map(
        |(upgrade, host, path, origin, subprotocols, more)| Ask { upgrade, host, path, origin, subprotocols, more },
    );
    // Few random requests ask for these, and each kind of answer has to be seen.
    let plain = any.clone().prop_map(|ask| Ask { upgrade: false, host: "10.0.0.1", path: "/files/a%2Fb", ..ask });
    let page = any.clone().prop_map(|ask| Ask { upgrade: false, host: "10.0.0.1", path: "/page", ..ask });
    let no_page =
        any.clone().prop_map(|ask| Ask { upgrade: false, host: "10.0.0.1", path: "/page/config.toml", ..ask });
    let moved = any.clone().prop_map(|ask| Ask { host: "example.com", path: "/none", subprotocols: vec![], ..ask });
    let fixed = any.clone().prop_map(|ask| Ask { host: "10.0.0.1", path: "/none", subprotocols: vec![], ..ask });
    let file =
        any.clone().prop_map(|ask| Ask { upgrade: false, host: "example.com", path: "/page/config.toml", ..ask });
    prop_oneof![8 => any, 1 => file, 1 => page, 1 => no_page, 1 => plain, 1 => moved, 1 => fixed]
}

impl Ask {
    fn on_the_wire(&self) -> String {
        let mut head = format!("GET {} HTTP/1.1\r\nHost: {}\r\n", self.path, self.host);
        if self.upgrade {
            head += "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n";
            head += &format!("Sec-WebSocket-Key: {KEY}\r\n");
        } else {
            head += "Connection: close\r\n";
        }
        let origin = self.origin.iter().map(|origin| format!("Origin: {origin}"));
        let subprotocols = self.subprotocols.iter().map(|name| format!("Sec-WebSocket-Protocol: {name}"));
        for field in origin.chain(subprotocols).chain(self.more.iter().map(|field| (*field).to_owned())) {
            head += &format!("{field}\r\n");
        }
        head + "\r\n"
    }

    fn question(&self) -> Question {
        let scheme = if self.upgrade { "ws" } else { "http" };
        // The Host stands in a field of its own, so that it may be one that no URL has.
        let headers = std::iter::once(format!("Host: {}", self.host));
        Question {
            method: http::Method::GET,
            url: format!("{scheme}://127.0.0.1{}", self.path),
            origin: self.origin.map(str::to_owned),
            from: "127.0.0.1".parse().expect("an address"),
            headers: headers.chain(self.more.iter().map(|field| (*field).to_owned())).collect(),
            subprotocols: self.subprotocols.iter().map(|name| (*name).to_owned()).collect(),
            listener: None,
        }
    }
}

/// What the upstream saw is what the explanation says that it would.
fn assert_reached(explanation: &Explanation, upstream: &str, head: &str, ask: &Ask) {
    let line = head.lines().next().unwrap_or_default();
    let target = line.split(' ').nth(1).unwrap_or_default();
    let told = explanation.findings.iter().find(|(name, _)| *name == "upstream").expect("told");
    let path = target.split('?').next().unwrap_or_default();
    assert!(told.1.ends_with(&format!(" with path {path}")), "{told:?}: {line}");
    let route = &explanation.findings.iter().find(|(name, _)| *name == "route").expect("told").1;
    let expected = match route.as_str() {
        "strip" => ask.path.replace("//chat", "/chat").replace("c%68at", "chat").replacen("/chat", "", 1),
        "rewrite" => "/new".to_owned(),
        _ => ask.path.to_owned(),
    };
    let slash = if expected.starts_with('/') { "" } else { "/" };
    assert_eq!(target, format!("{}{slash}{expected}", base(upstream)), "{explanation}");
}

#[test]
fn it_says_what_the_gateway_answers() {
    let (upstream, seen) = answering(|head| match support::upstream::field(head, "upgrade") {
        Some(_) => switching(head, "").into_bytes(),
        None => b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nplain".to_vec(),
    });
    let text = text(upstream);
    let config = parsed(&text);
    let gateway = Gateway::start(&text);
    let mut verdicts = [0; 7];
    let mut runner = TestRunner::new(Runs { cases: 400, failure_persistence: None, ..Runs::default() });
    let cases = std::cell::RefCell::new(&mut verdicts);
    runner
        .run(&asks(), |ask| {
            let explanation = explain(&config, &ask.question()).expect("a question");
            let mut peer = Peer::connect(gateway.address());
            peer.write(ask.on_the_wire().as_bytes());
            let mut verdicts = cases.borrow_mut();
            match &explanation.verdict {
                Verdict::Upstream(name) => {
                    verdicts[0] += 1;
                    let head = peer.head();
                    prop_assert_eq!(status(&head), 101, "{}: {}", explanation, head);
                    let last = seen.last();
                    assert_reached(&explanation, name, &last, &ask);
                    let offered = explanation.findings.iter().find(|(name, _)| *name == "subprotocol").expect("told");
                    let passed = support::upstream::field(&last, "sec-websocket-protocol").unwrap_or("none".to_owned());
                    prop_assert_eq!(&offered.1, &passed);
                }
                Verdict::Plain(name) => {
                    verdicts[3] += 1;
                    prop_assert_eq!(reply(&mut peer).text(), "plain");
                    let last = seen.last();
                    assert_reached(&explanation, name, &last, &ask);
                }
                Verdict::Page => {
                    verdicts[1] += 1;
                    prop_assert_eq!(reply(&mut peer).status(), 200);
                }
                Verdict::Redirect(location, expected) => {
                    verdicts[4] += 1;
                    let reply = reply(&mut peer);
                    prop_assert_eq!(reply.status(), expected.as_u16(), "{}: {:?}", explanation, reply);
                    prop_assert_eq!(reply.all("location"), vec![location.clone()]);
                }
                Verdict::Respond(expected) => {
                    verdicts[5] += 1;
                    let reply = reply(&mut peer);
                    prop_assert_eq!(reply.status(), expected.as_u16(), "{}: {:?}", explanation, reply);
                    prop_assert_eq!(reply.text(), "gone");
                }
                Verdict::File(file) => {
                    verdicts[6] += 1;
                    let reply = reply(&mut peer);
                    let expected = if file.ends_with("config.toml") { 200 } else { 404 };
                    prop_assert_eq!(reply.status(), expected, "{}: {:?}", explanation, reply);
                }
                Verdict::Closed(why) => prop_assert!(false, "the listener is open to everybody: {}", why),
                Verdict::Refused(_, refusal) => {
                    verdicts[2] += 1;
                    let reply = reply(&mut peer);
                    prop_assert_eq!(reply.status(), refusal.status().as_u16(), "{}: {:?}", explanation, reply);
                    prop_assert_eq!(reply.text(), format!("{refusal}\n"));
                }
            }
            Ok(())
        })
        .expect("explain and the gateway agree");
    assert!(verdicts.iter().all(|count| *count > 0), "every kind of answer was seen: {verdicts:?}");
}

fn asked(arguments: &[&str]) -> (Option<i32>, String, String) {
    let folder = support::gateway::folder();
    let file = folder.join("config.toml");
    std::fs::write(&file, text("127.0.0.1:9".parse().expect("an address"))).expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["explain", "--config"])
        .arg(&file)
        .args(arguments)
        .output()
        .expect("the binary runs");
    std::fs::remove_dir_all(folder).expect("removed");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn what_the_command_prints_and_returns() {
    let (code, out, err) = asked(&[
        "ws://chat.example.com/chat/room",
        "--origin",
        "https://www.example.com",
        "--from",
        "192.0.2.1",
        "--subprotocol",
        "chat.v1",
    ]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    for line in [
        "client       192.0.2.1",
        "route        chat",
        "origin       https://www.example.com",
        "subprotocol  chat.v1",
        "upstream     app: ws://127.0.0.1:9/base with path /base/chat/room",
        "would be opened to upstream app",
    ] {
        assert!(out.lines().any(|found| found == line), "{line:?} in:\n{out}");
    }
    let (code, out, _) = asked(&["ws://chat.example.com/chat", "--origin", "https://evil.test"]);
    assert_eq!(code, Some(3), "{out}");
    assert!(out.contains("origin       refused: this origin may not connect"), "{out}");
    assert!(out.contains("would be refused with 403 Forbidden (origin_not_allowed)"), "{out}");
}

#[test]
fn edited_fields_are_told_without_their_values() {
    let edits = "http = true\nrequest_headers = { set = { Authorization = \"secret\" }, remove = [\"Cookie\"] }\n\
                 response_headers = { remove = [\"Server\"] }\n";
    let text = text("127.0.0.1:9".parse().expect("an address")).replace("http = true\n", edits);
    let ask =
        Ask { upgrade: false, host: "10.0.0.1", path: "/files", origin: None, subprotocols: vec![], more: vec![] };
    let told = explain(&parsed(&text), &ask.question()).expect("a question").to_string();
    assert!(told.contains("request      removes cookie, sets authorization\n"), "{told}");
    assert!(told.contains("answer       removes server\n"), "{told}");
    assert!(!told.contains("secret"), "{told}");
}

/// Two listeners of a kind, of which one lets not everybody in, one wants a PROXY header, and one has TLS.
const DOORS: &str = r#"
[[listener]]
address = "127.0.0.1:8080"

[[listener]]
address = "0.0.0.0:80"
deny = ["203.0.113.0/24"]

[[listener]]
address = "127.0.0.1:9000"
proxy_protocol = true
trusted_proxies = ["192.0.2.0/24"]

[[listener]]
address = "0.0.0.0:443"
tls = { certificate = "a.pem", key = "a.key" }

[[route]]
path = "/"
upstream = "app"
origins = ["any"]
http = true

[[route]]
path = "/static"
files = { folder = "public" }

[upstream.app]
servers = ["ws://127.0.0.1:9001"]
"#;

#[test]
fn the_way_to_a_request() {
    let config = parsed(DOORS);
    let ask = |line: &str| {
        let mut words = line.split(' ');
        let (method, url) = (words.next().expect("a method"), words.next().expect("a URL"));
        let question = Question {
            method: method.parse().expect("a method"),
            url: url.to_owned(),
            origin: None,
            from: words.next().expect("an address").parse().expect("an address"),
            headers: vec![],
            subprotocols: vec![],
            listener: words.next().map(str::to_owned),
        };
        explain(&config, &question).map_or_else(|error| error.to_string(), |told| told.to_string())
    };
    #[rustfmt::skip]
    let rows = [
        ("the port of the scheme", "GET ws://app.test/ 127.0.0.1", "listener     0.0.0.0:80\n"),
        ("a port", "GET ws://app.test:8080/ 127.0.0.1", "listener     127.0.0.1:8080\n"),
        ("no such port: the first of its kind", "GET ws://app.test:1/ 127.0.0.1", "listener     127.0.0.1:8080\n"),
        ("TLS", "GET wss://app.test/ 127.0.0.1", "listener     0.0.0.0:443 (TLS)\n"),
        ("a peer that `deny` has", "GET ws://app.test/ 203.0.113.9", "would be closed without an answer: `allow` and `deny`"),
        ("a peer that sends no PROXY header", "GET ws://app.test:9000/ 127.0.0.1", "would be closed without an answer: `proxy_protocol`"),
        ("one that may", "GET ws://app.test:9000/ 192.0.2.1", "would be opened to upstream app"),
        ("plain HTTP to TLS", "GET http://app.test/ 127.0.0.1 0.0.0.0:443", "has TLS: ask with wss or https to it"),
        ("TLS to a plain listener", "GET wss://app.test/ 127.0.0.1 0.0.0.0:80", "is without TLS: ask with ws or http to it"),
        ("a user in the URL", "GET http://user:word@app.test/ 127.0.0.1", "would be passed as plain HTTP to upstream app"),
        ("a file's name is decoded", "GET http://app.test/static/a%20b/%C3%A9.html 127.0.0.1", "the file public/a b/é.html,"),
        ("a method", "POST http://app.test/static/a 127.0.0.1", "(page_method)"),
        ("TRACE", "TRACE http://app.test/ 127.0.0.1", "(trace)"),
    ];
    for (what, line, expected) in rows {
        let told = ask(line);
        assert!(told.contains(expected), "{what}: {told}");
    }
}

#[test]
fn what_is_no_question_is_told_with_the_next_step() {
    #[rustfmt::skip]
    let rows: [(&[&str], &str); 6] = [
        (&["ftp://chat.example.com/"], "\"ftp\" is no scheme that is served here"),
        (&["chat"], "is no scheme that is served here"),
        (&["ws://a b/"], "write one like wss://chat.example.com/chat"),
        (&["wss://chat.example.com/"], "no listener has TLS"),
        (&["ws://chat.example.com/", "--header", "nonsense"], "write it as 'Name: value'"),
        (&["ws://chat.example.com/", "--listener", "127.0.0.1:9"], "see `tidegate check`"),
    ];
    for (arguments, expected) in rows {
        let (code, _, err) = asked(arguments);
        assert_eq!(code, Some(1), "{arguments:?}");
        assert!(err.contains(expected), "{arguments:?}: {err}");
    }
}

#[test]
fn the_example_of_the_readme_is_what_it_prints() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).expect("README.md");
    let (_, behind) = readme.split_once("```sh\ntidegate explain ").expect("an example");
    let (command, behind) = behind.split_once("\n```\n\n```text\n").expect("what it prints");
    let (expected, _) = behind.split_once("\n```").expect("the end of that");
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .current_dir(root)
        .arg("explain")
        .args(command.split_whitespace())
        .output()
        .expect("the binary runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), expected);
    assert_eq!(output.status.code(), Some(3));
}
