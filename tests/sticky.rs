//! Clients come back to the server that they met: by the gateway's cookie, and by the session id of Socket.IO.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use support::client::{Peer, request};
use support::gateway::{Gateway, folder};
use support::http::{Reply, ask, status};
use support::tls::{Authority, connect};
use support::upstream::{answering, field, switching};
use tidegate::config;
use tidegate::explain::{Question, explain};

/// A server that says its name, and opens a Socket.IO session of that name where it is asked to.
fn named(name: usize) -> SocketAddr {
    answering(move |head| {
        if head.to_ascii_lowercase().contains("upgrade: websocket") {
            return switching(head, &format!("X-Server: {name}\r\n")).into_bytes();
        }
        let target = head.split(' ').nth(1).expect("a request line");
        let (more, body) = match target {
            "/public" => ("Cache-Control: public, max-age=60\r\n", "ok".to_owned()),
            "/max-age" => ("Cache-Control: max-age=3600\r\n", "ok".to_owned()),
            "/expires" => ("Expires: Fri, 01 Jan 2100 00:00:00 GMT\r\n", "ok".to_owned()),
            "/no-store" => ("Cache-Control: No-Store\r\n", "ok".to_owned()),
            "/cookie" => ("Set-Cookie: own=1\r\n", "ok".to_owned()),
            target if target.contains("transport=polling") && !target.contains("sid=") => {
                ("", format!("0{{\"sid\":\"of-{name}\",\"upgrades\":[\"websocket\"]}}"))
            }
            _ => ("", "ok".to_owned()),
        };
        let length = body.len();
        format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nX-Server: {name}\r\n{more}Content-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    })
    .0
}

fn config(servers: &[SocketAddr], sticky: &str) -> String {
    let servers: Vec<_> = servers.iter().map(|server| format!("\"ws://{server}\"")).collect();
    format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n\n[[route]]\nname = \"app\"\nupstream = \"app\"\nhttp = true\n\n\
         [upstream.app]\nservers = [{}]\nsticky = {sticky}\n",
        servers.join(", ")
    )
}

fn get(gateway: SocketAddr, path: &str, cookie: Option<&str>) -> Reply {
    let cookie = cookie.map(|cookie| format!("Cookie: {cookie}\r\n")).unwrap_or_default();
    let reply = ask(
        gateway,
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept-Encoding: gzip\r\n{cookie}\r\n")
            .as_bytes(),
    );
    assert_eq!(reply.status(), 200, "{}", reply.head);
    reply
}

fn server_of(head: &str) -> usize {
    field(head, "x-server").and_then(|name| name.parse().ok()).unwrap_or_else(|| panic!("{head}"))
}

/// The pair of the cookie that was set.
fn set(head: &str) -> Option<String> {
    let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with("set-cookie: tidegate="))?;
    Some(line["set-cookie: ".len()..].split(';').next().expect("a pair").to_owned())
}

/// Opens a session and returns the head of its 101.
fn open(gateway: SocketAddr, path: &str, cookie: Option<&str>) -> String {
    let cookie = cookie.map(|cookie| format!("Cookie: {cookie}\r\n")).unwrap_or_default();
    let mut peer = Peer::connect(gateway);
    peer.write(request(path, &cookie).as_bytes());
    let head = peer.head();
    assert_eq!(status(&head), 101, "{head}");
    head
}

#[test]
fn a_cookie_leads_plain_requests_and_sessions_to_the_same_server() {
    let servers = [0, 1, 2].map(named);
    let gateway = Gateway::start(&config(&servers, "{ cookie = {} }"));
    for _ in 0..6 {
        let first = get(gateway.address(), "/", None);
        let line = first.all("set-cookie").concat();
        let cookie = set(&first.head).expect("a cookie");
        assert_eq!(line, format!("{cookie}; Path=/; HttpOnly; SameSite=Lax"));
        for server in servers {
            assert!(!cookie.contains(&server.port().to_string()), "it names no server: {cookie}");
        }
        for _ in 0..3 {
            let again = get(gateway.address(), "/", Some(&format!("a=b; {cookie}")));
            assert_eq!((server_of(&again.head), set(&again.head)), (server_of(&first.head), None));
            let session = open(gateway.address(), "/", Some(&cookie));
            assert_eq!((server_of(&session), set(&session)), (server_of(&first.head), None));
        }
    }
    let session = open(gateway.address(), "/", None);
    let cookie = set(&session).expect("a cookie of the 101");
    assert_eq!(server_of(&get(gateway.address(), "/", Some(&cookie)).head), server_of(&session));
}

#[test]
fn what_is_set_stands_beside_the_services_own_and_not_in_what_caches_share() {
    let gateway = Gateway::start(&config(&[named(0)], "{ cookie = { name = \"tidegate\", path = \"/\" } }"));
    let both = get(gateway.address(), "/cookie", None).all("set-cookie");
    assert_eq!(both.len(), 2, "{both:?}");
    assert!(both.contains(&"own=1".to_owned()), "{both:?}");
    assert_eq!(get(gateway.address(), "/public", None).all("set-cookie"), Vec::<String>::new());
    #[rustfmt::skip]
    let rows = [
        ("/", vec!["private"]), ("/max-age", vec!["max-age=3600", "private"]), ("/expires", vec!["private"]),
        ("/no-store", vec!["No-Store"]),
    ];
    for (path, expected) in rows {
        let first = get(gateway.address(), path, None);
        assert_eq!(first.all("cache-control"), expected, "{path}");
        let cookie = set(&first.head).expect("a cookie");
        let again = get(gateway.address(), path, Some(&cookie)).all("cache-control");
        assert!(!again.contains(&"private".to_owned()), "{path}: only where the cookie is set: {again:?}");
    }
}

#[test]
fn forged_and_stale_cookies_are_replaced() {
    let servers = [0, 1, 2].map(named);
    let gateway = Gateway::start(&config(&servers, "{ cookie = {} }"));
    let other = Gateway::start(&config(&servers, "{ cookie = {} }"));
    let foreign = set(&get(other.address(), "/", None).head).expect("a cookie");
    let rows = ["tidegate=forged", "tidegate=", "tidegate=../../etc/passwd", "tidegate=127.0.0.1:1", &foreign];
    for forged in rows {
        let reply = get(gateway.address(), "/", Some(forged));
        let cookie = set(&reply.head).unwrap_or_else(|| panic!("{forged}: a new one"));
        assert_ne!(cookie, forged);
        assert_eq!(server_of(&get(gateway.address(), "/", Some(&cookie)).head), server_of(&reply.head), "{forged}");
    }
}

#[test]
fn gateways_with_one_key_agree_also_after_a_restart() {
    let servers = [0, 1, 2].map(named);
    let text = config(&servers, "{ cookie = { key_file = \"sticky.key\" } }");
    let start = || {
        let folder = folder();
        std::fs::write(folder.join("sticky.key"), "0123456789abcdef0123456789abcdef\n").expect("a key");
        Gateway::start_in(folder, &text, "exec \"$0\" \"$@\"")
    };
    let (one, another) = (start(), start());
    let first = get(one.address(), "/", None);
    let cookie = set(&first.head).expect("a cookie");
    drop(one);
    for _ in 0..4 {
        let again = get(another.address(), "/", Some(&cookie));
        assert_eq!((server_of(&again.head), set(&again.head)), (server_of(&first.head), None));
    }
    let config = config::parse(&text, &another.directory.join("config.toml")).expect("it is right").config;
    let told = |cookie: &str| {
        let question = Question {
            method: http::Method::GET,
            url: "http://localhost/".to_owned(),
            origin: None,
            from: [127, 0, 0, 1].into(),
            headers: vec![format!("Cookie: {cookie}")],
            subprotocols: Vec::new(),
            listener: None,
        };
        explain(&config, &question).expect("a question").to_string()
    };
    let server = servers[server_of(&first.head)];
    let told_here = told(&cookie);
    assert!(told_here.contains(&format!("sticky       ws://{server} by its cookie tidegate\n")), "{told_here}");
    let told_of_forged = told("tidegate=forged");
    assert!(told_of_forged.contains("none: its cookie tidegate names no server here"), "{told_of_forged}");
}

#[test]
fn over_tls_the_cookie_is_for_tls_alone() {
    let authority = Authority::new("test");
    let folder = folder();
    authority.issue(&["localhost"]).write(&folder, "server");
    let text = config(&[named(0)], "{ cookie = { same_site = \"none\" } }")
        .replace(":0\"\n", ":0\"\ntls = { certificate = \"server.pem\", key = \"server.key\" }\n");
    let gateway = Gateway::start_in(folder, &text, "exec \"$0\" \"$@\"");
    let mut peer = connect(gateway.address(), "localhost", &authority.client(None)).expect("TLS");
    peer.write(request("/", "").as_bytes());
    let head = peer.head();
    assert_eq!(status(&head), 101, "{head}");
    let line = field(&head, "set-cookie").expect("a cookie");
    assert!(line.ends_with("; Path=/; HttpOnly; SameSite=None; Secure"), "{line}");
}

#[test]
fn a_server_that_is_gone_is_left_for_another_and_a_new_cookie() {
    let (here, down) = (Arc::new(AtomicBool::new(false)), named(1));
    let gone = here.clone();
    // It answers 503 from then on.
    let first = answering(move |head| {
        if gone.load(Ordering::SeqCst) {
            return b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nX-Server: 0\r\nContent-Length: 0\r\n\r\n"
                .to_vec();
        }
        match head.to_ascii_lowercase().contains("upgrade: websocket") {
            true => switching(head, "X-Server: 0\r\n").into_bytes(),
            false => b"HTTP/1.1 200 OK\r\nConnection: close\r\nX-Server: 0\r\nContent-Length: 2\r\n\r\nok".to_vec(),
        }
    })
    .0;
    let gateway = Gateway::start(&config(&[first, down], "{ cookie = {} }"));
    let session = open(gateway.address(), "/", None);
    assert_eq!(server_of(&session), 0);
    let cookie = set(&session).expect("a cookie");
    here.store(true, Ordering::SeqCst);
    let session = open(gateway.address(), "/", Some(&cookie));
    assert_eq!(server_of(&session), 1);
    let new = set(&session).expect("a new cookie");
    assert_ne!(new, cookie);
    here.store(false, Ordering::SeqCst);
    for _ in 0..3 {
        assert_eq!(server_of(&get(gateway.address(), "/", Some(&new)).head), 1, "it stays, now that it is there");
    }
}

#[test]
fn a_session_of_socket_io_meets_its_server_without_cookies() {
    let servers = [0, 1, 2].map(named);
    let path = |more: &str| format!("/socket.io/?EIO=4&{more}");
    let gateway = Gateway::start(&config(&servers, "{ socket_io = true }"));
    let mut met = [false; 3];
    for _ in 0..9 {
        let opened = get(gateway.address(), &path("transport=polling&t=abc"), None);
        assert_eq!(opened.all("set-cookie"), Vec::<String>::new());
        let server = server_of(&opened.head);
        met[server] = true;
        let sid = format!("&sid=of-{server}");
        for _ in 0..3 {
            assert_eq!(
                server_of(&get(gateway.address(), &path(&format!("transport=polling{sid}")), None).head),
                server
            );
        }
        assert_eq!(server_of(&open(gateway.address(), &path(&format!("transport=websocket{sid}")), None)), server);
    }
    assert_eq!(met, [true; 3], "the balance goes on for new ones");
    let without = Gateway::start(&config(&servers, "{}"));
    let opened = server_of(&get(without.address(), &path("transport=polling"), None).head);
    let again: Vec<_> = (0..3)
        .map(|_| server_of(&get(without.address(), &path(&format!("transport=polling&sid=of-{opened}")), None).head))
        .collect();
    assert!(again.iter().any(|server| *server != opened), "without it they part: {again:?}");
}
