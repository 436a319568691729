//! Upstreams of several servers: whose turn it is, and what happens when one of them dies, stands still and comes back.

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use support::client::{Peer, masked, request};
use support::eventually;
use support::gateway::Gateway;
use support::http::{Head, status};
use support::servers::{Process, closed, connections_to, echoes, leave, list, processes};
use support::upstream::{Seen, answering, serve, switching};

/// A gateway in front of `servers`; `route` and `upstream` are further lines of their tables.
fn config(servers: &str, route: &str, upstream: &str) -> String {
    format!(
        "[limits]\nhandshakes_per_client = \"off\"\n\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
         trusted_proxies = [\"127.0.0.0/8\"]\n\n\
         [[route]]\nname = \"app\"\nupstream = \"app\"\nclose_timeout = \"1s\"\n{route}\n\n\
         [upstream.app]\nservers = [{servers}]\n{upstream}\n"
    )
}

/// Says who it is: in the 101, in a plain answer.
fn named(name: usize) -> (SocketAddr, Seen) {
    answering(move |head| match head.to_ascii_lowercase().contains("upgrade: websocket") {
        true => switching(head, &format!("X-Server: {name}\r\n")).into_bytes(),
        false => format!("HTTP/1.1 200 OK\r\nConnection: close\r\nX-Server: {name}\r\nContent-Length: 2\r\n\r\nok")
            .into_bytes(),
    })
}

fn server_of(head: &str) -> usize {
    support::upstream::field(head, "x-server").and_then(|name| name.parse().ok()).unwrap_or_else(|| panic!("{head}"))
}

/// Opens a session, with further header lines, and says with which server.
fn open(gateway: SocketAddr, path: &str, more: &str) -> (Peer, usize) {
    let mut peer = Peer::connect(gateway);
    peer.write(request(path, more).as_bytes());
    let head = peer.head();
    assert_eq!(status(&head), 101, "{head}");
    (peer, server_of(&head))
}

/// Asks in plain HTTP, and says which server answered.
fn ask(gateway: SocketAddr, path: &str, more: &str) -> usize {
    let mut peer = Peer::connect(gateway);
    peer.write(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n").as_bytes());
    let head = peer.head();
    assert_eq!(status(&head), 200, "{head}");
    server_of(&head)
}

#[test]
fn turns_by_weight_and_a_backup_that_waits() {
    let servers: Vec<_> = (0..3).map(named).collect();
    let [a, b, c] = [0, 1, 2].map(|index| servers[index].0);
    let text = format!("{{ url = \"ws://{a}\", weight = 3 }}, \"ws://{b}\", {{ url = \"ws://{c}\", backup = true }}");
    let gateway = Gateway::start(&config(&text, "", "sessions_per_server = 3"));
    let held: Vec<_> = (0..4).map(|_| open(gateway.address(), "/", "")).collect();
    assert_eq!(held.iter().map(|(_, server)| *server).collect::<Vec<_>>(), [0, 0, 1, 0]);
    let more: Vec<_> = (0..3).map(|_| open(gateway.address(), "/", "")).collect();
    assert_eq!(more.iter().map(|(_, server)| *server).collect::<Vec<_>>(), [1, 1, 2], "when the others are full");
}

#[test]
fn the_fewest_sessions_win() {
    let servers: Vec<_> = (0..3).map(named).collect();
    let addresses: Vec<_> = servers.iter().map(|(address, _)| *address).collect();
    let gateway = Gateway::start(&config(&list(&addresses), "", "balance = \"least-connections\""));
    let mut held: Vec<_> = (0..6).map(|_| open(gateway.address(), "/", "")).collect();
    for round in held.chunks(3) {
        assert_eq!(round.iter().map(|(_, server)| *server).collect::<BTreeSet<_>>().len(), 3, "each has one more");
    }
    let (of_one, others): (Vec<_>, Vec<_>) = held.drain(..).partition(|(_, server)| *server == 1);
    of_one.into_iter().for_each(|(peer, _)| leave(peer));
    eventually("their records are written", || gateway.output().matches("session ended").count() == 2);
    let again: Vec<_> = (0..2).map(|_| open(gateway.address(), "/", "")).collect();
    assert_eq!(again.iter().map(|(_, server)| *server).collect::<Vec<_>>(), [1, 1]);
    drop(others);
}

#[test]
fn the_same_client_meets_the_same_server() {
    let servers: Vec<_> = (0..4).map(named).collect();
    let addresses: Vec<_> = servers.iter().map(|(address, _)| *address).collect();
    type More = fn(usize) -> (String, String);
    let rows: [(&str, More); 4] = [
        ("hash:client", |n| ("/".into(), format!("X-Forwarded-For: 192.0.2.{n}\r\n"))),
        ("hash:header:X-User", |n| ("/".into(), format!("X-User: user-{n}\r\n"))),
        ("hash:cookie:session", |n| ("/".into(), format!("Cookie: a=b; session={n}\r\n"))),
        ("hash:query:room", |n| (format!("/?a=b&room={n}"), String::new())),
    ];
    for (balance, more) in rows {
        let gateway = Gateway::start(&config(&list(&addresses), "http = true", &format!("balance = \"{balance}\"")));
        let mut met = BTreeSet::new();
        for n in 0..24 {
            let (path, more) = more(n);
            let server = ask(gateway.address(), &path, &more);
            for _ in 0..2 {
                assert_eq!(open(gateway.address(), &path, &more).1, server, "{balance} {n}");
                assert_eq!(ask(gateway.address(), &path, &more), server, "{balance} {n}");
            }
            met.insert(server);
        }
        assert_eq!(met.len(), 4, "{balance}: all of them have clients");
    }
}

#[test]
fn who_has_no_cookie_is_known_by_the_address() {
    let servers: Vec<_> = (0..4).map(named).collect();
    let addresses: Vec<_> = servers.iter().map(|(address, _)| *address).collect();
    let gateway = Gateway::start(&config(&list(&addresses), "http = true", "balance = \"hash:cookie:session\""));
    let of = |n: usize| ask(gateway.address(), "/", &format!("X-Forwarded-For: 192.0.2.{n}\r\n"));
    let first: Vec<_> = (0..24).map(of).collect();
    assert_eq!(first, (0..24).map(of).collect::<Vec<_>>());
    assert!(first.iter().collect::<BTreeSet<_>>().len() > 1, "not all at one: {first:?}");
}

fn answers(text: &'static str) -> (SocketAddr, Seen) {
    answering(move |_| text.into())
}

#[test]
fn a_handshake_that_fails_is_tried_with_another() {
    let rows: [(&str, (SocketAddr, Seen), &str); 7] = [
        ("nobody listens", (closed(), Seen::default()), "Connection refused"),
        ("closes at once", (serve(drop), Seen::default()), "ended the connection"),
        ("says nothing", answers(""), "handshake_timeout"),
        ("no HTTP", answers("SSH-2.0\r\n\r\n"), "not HTTP/1.1"),
        ("502", answers("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"), "502"),
        ("503", answers("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nno\n"), "503"),
        ("504", answers("HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\n\r\n"), "504"),
    ];
    for (what, (bad, _), told) in rows {
        let (good, seen) = named(1);
        let gateway = Gateway::start(&config(&list(&[bad, good]), "", "handshake_timeout = \"300ms\""));
        for _ in 0..2 {
            assert_eq!(open(gateway.address(), "/a?b=c", "Origin: http://localhost\r\n").1, 1, "{what}");
        }
        let line = gateway.log("failed, trying another");
        assert!(line.contains(told) && line.contains(&format!("{bad}")) && line.contains(&format!("{good}")), "{line}");
        let head = seen.last();
        assert!(head.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{what}: {head}");
        assert_eq!(head.to_ascii_lowercase().matches("\r\nx-forwarded-for:").count(), 1, "{what}: {head}");
    }
}

#[test]
fn a_servers_own_word_is_the_answer() {
    for answer in ["403 Forbidden", "404 Not Found", "429 Too Many Requests", "500 Internal Server Error"] {
        let (bad, _) = answering(move |_| format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n").into_bytes());
        let (good, seen) = named(1);
        let gateway = Gateway::start(&config(&list(&[bad, good]), "", ""));
        let reply = Head::new("/").ask(gateway.address());
        assert_eq!((reply.status(), seen.connections()), (answer[..3].parse().expect("a status"), 0), "{answer}");
    }
}

#[test]
fn the_last_server_is_the_one_that_is_named() {
    let servers = [closed(), closed(), closed(), closed()];
    for (retries, last) in [(0, 0), (1, 1), (2, 2), (10, 3)] {
        let gateway = Gateway::start(&config(&list(&servers), "", &format!("retries = {retries}")));
        assert_eq!(Head::new("/").ask(gateway.address()).status(), 502);
        let refused = gateway.log("reason=");
        assert!(refused.contains(&format!("upstream=\"ws://{}\"", servers[last])), "{retries}: {refused}");
        assert_eq!(gateway.output().matches("trying another").count(), last, "{retries}");
    }
}

/// Two servers that are down, and many who ask: ten retries were saved, then one for each five.
#[test]
fn retries_never_storm() {
    const DOWN: &str = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let plain = ["Upgrade", "Sec-WebSocket-Key", "Sec-WebSocket-Version"]
        .iter()
        .fold(Head::new("/"), |head, name| head.without(name));
    for (route, head) in [("", Head::new("/")), ("http = true", plain.set("Connection: close"))] {
        let (servers, seen): (Vec<_>, Vec<_>) = (0..3).map(|_| answers(DOWN)).unzip();
        let gateway = Gateway::start(&config(&list(&servers), route, "health = { passive = \"off\" }"));
        for _ in 0..50 {
            assert_eq!(head.ask(gateway.address()).status(), 503);
        }
        let asked: usize = seen.iter().map(Seen::connections).sum();
        assert!((50 + 15..=50 + 20).contains(&asked), "{asked} for 50");
        assert!(gateway.output().contains("the budget of retries is used up"));
    }
}

/// The server with the fewest sessions is the one that is dead: everybody is sent there first, and nobody may pay for it.
#[test]
fn a_server_that_nobody_reaches_costs_no_retries() {
    let (good, _) = named(1);
    let upstream = "balance = \"least-connections\"\nretry_budget = 0\nhealth = { passive = \"off\" }";
    let gateway = Gateway::start(&config(&list(&[closed(), good]), "http = true", upstream));
    let sessions: Vec<_> = (0..40).map(|_| open(gateway.address(), "/", "")).collect();
    assert!(sessions.iter().all(|(_, server)| *server == 1));
    (0..40).for_each(|_| assert_eq!(ask(gateway.address(), "/", ""), 1));
    assert_eq!(gateway.output().matches("failed, trying another").count(), 80);
}

#[test]
fn plain_requests_are_repeated_where_that_is_safe() {
    let down = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let post = "Content-Length: 4\r\n";
    // Which server, with what request, and who answers with what.
    #[rustfmt::skip]
    let rows = [
        ("nobody listens, GET", closed(), "GET", "", "", 200),
        ("nobody listens, POST", closed(), "POST", post, "body", 200),
        ("closes at once, GET", serve(drop), "GET", "", "", 200),
        ("closes at once, DELETE", serve(drop), "DELETE", "", "", 200),
        ("reads it and closes, GET", serve(|mut peer| { peer.head(); }), "GET", "", "", 200),
        ("reads it and closes, POST", serve(|mut peer| { peer.head(); peer.bytes(4); }), "POST", post, "body", 502),
        ("reads it and closes, PUT with a body", serve(|mut peer| { peer.head(); peer.bytes(4); }), "PUT", post, "body", 502),
        ("503, GET", answers(down).0, "GET", "", "", 200),
        ("503, POST", answers(down).0, "POST", post, "body", 503),
        ("503, PATCH without a body", answers(down).0, "PATCH", "", "", 503),
        ("too late, GET", answers("").0, "GET", "", "", 504),
    ];
    for (what, bad, method, more, body, expected) in rows {
        let good = serve(|mut peer| {
            let Some(head) = peer.try_head() else { return };
            let length = support::upstream::field(&head, "content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
            let body = peer.bytes(length);
            peer.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes());
            peer.write(&body);
        });
        let route = "http = true\nrequest_timeout = \"300ms\"";
        let gateway = Gateway::start(&config(&list(&[bad, good]), route, ""));
        let head = format!("{method} / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n{body}");
        let reply = support::http::ask(gateway.address(), head.as_bytes());
        assert_eq!(reply.status(), expected, "{what}: {}", gateway.output());
        if expected == 200 {
            assert_eq!(reply.text(), body, "{what}");
        }
    }
}

/// The clients of a killed server get 1011, no other client notices, new ones are served at once, and the server gets
/// sessions when it is back.
#[test]
fn one_of_three_is_killed_under_load_and_comes_back() {
    let (mut processes, servers) = processes(3);
    let health = "health = { passive = { aside = \"300ms\" } }\nbalance = \"least-connections\"";
    let gateway = Gateway::start(&config(&servers, "", health));
    let address = gateway.address();
    let mut peers: Vec<_> = (0..30).map(|_| Peer::open(address, "/")).collect();
    peers.iter_mut().for_each(|peer| echoes(peer, b"before"));
    let of =
        |processes: &[Process]| processes.iter().map(|process| connections_to(process.address)).collect::<Vec<_>>();
    assert_eq!(of(&processes), [10, 10, 10]);

    let stop = std::sync::atomic::AtomicBool::new(false);
    let killed = processes[1].address;
    std::thread::scope(|scope| {
        let clients: Vec<_> = peers
            .drain(..)
            .map(|mut peer| {
                let stop = &stop;
                scope.spawn(move || {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        if peer.try_write(&masked(1, b"load")).is_err() {
                            return Err(0);
                        }
                        match peer.next_frame() {
                            Some(frame) if frame.opcode == 1 => assert_eq!(frame.payload, b"load"),
                            Some(frame) => return Err(frame.close().0),
                            None => return Err(1006),
                        }
                    }
                    Ok(peer)
                })
            })
            .collect();
        processes[1].kill();
        // From here on everybody is served, though the gateway has yet to learn of it.
        for _ in 0..40 {
            leave(Peer::open(address, "/"));
        }
        eventually("its clients have heard", || clients.iter().filter(|client| client.is_finished()).count() == 10);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let ends: Vec<_> = clients.into_iter().map(|client| client.join().expect("no panic")).collect();
        assert_eq!(ends.iter().filter(|end| matches!(end, Err(1011))).count(), 10, "each of its clients is told");
        peers = ends.into_iter().filter_map(Result::ok).collect();
        assert_eq!(peers.len(), 20, "and nobody else");
    });
    assert!(gateway.log("put aside").contains(&killed.to_string()));
    assert!(!gateway.output().contains("reason="), "{}", gateway.output());
    let lost = gateway.output().lines().filter(|line| line.contains("cause=\"upstream_lost\"")).count();
    assert_eq!(lost, 10);

    processes[1] = Process::start(killed);
    eventually("it serves again", || {
        leave(Peer::open(address, "/"));
        gateway.output().contains("serves again")
    });
    // The counts are true: it is the emptiest by ten.
    peers.extend((0..10).map(|_| Peer::open(address, "/")));
    assert_eq!(of(&processes), [10, 10, 10]);
    peers.iter_mut().for_each(|peer| echoes(peer, b"after"));
}

#[test]
fn one_that_stands_still_is_put_aside_until_it_moves_again() {
    let (processes, servers) = processes(2);
    let rules = "handshake_timeout = \"200ms\"\nhealth = { passive = { failures = 2, aside = \"400ms\" } }";
    let gateway = Gateway::start(&config(&servers, "", rules));
    processes[0].signal("STOP");
    eventually("it is put aside", || {
        leave(Peer::open(gateway.address(), "/"));
        gateway.output().contains("put aside")
    });
    let line = gateway.log("put aside");
    assert!(line.contains(&processes[0].address.to_string()) && line.contains("handshake_timeout"), "{line}");
    processes[0].signal("CONT");
    eventually("it serves again", || {
        leave(Peer::open(gateway.address(), "/"));
        gateway.output().contains("serves again")
    });
    assert!(!gateway.output().contains("reason="), "{}", gateway.output());
}

#[test]
fn a_server_that_is_aside_gets_nothing() {
    let (bad, seen) = answers("HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    let (good, _) = named(1);
    let health = "health = { passive = { failures = 4, aside = \"1h\" } }";
    let gateway = Gateway::start(&config(&list(&[bad, good]), "http = true", health));
    for _ in 0..30 {
        assert_eq!(open(gateway.address(), "/", "").1, 1);
        assert_eq!(ask(gateway.address(), "/", ""), 1);
    }
    // Its plain answers do not count: the same page may always be 503. Handshakes alone put it aside.
    assert!(gateway.log("put aside").contains("503"));
    let asked = seen.connections();
    for _ in 0..10 {
        assert_eq!((open(gateway.address(), "/", "").1, ask(gateway.address(), "/", "")), (1, 1));
    }
    assert_eq!(seen.connections(), asked);
}

#[test]
fn when_all_are_aside_the_answer_comes_at_once() {
    const DOWN: &str = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    for (route, refuse) in [("http = true", false), ("refuse = \"close\"", true)] {
        let servers = [answers(DOWN), answers(DOWN)];
        let health = "health = { passive = { failures = 1, aside = \"90s\" } }";
        let addresses = servers.each_ref().map(|(address, _)| *address);
        let gateway = Gateway::start(&config(&list(&addresses), route, health));
        let asked = || servers.iter().map(|(_, seen)| seen.connections()).sum::<usize>();
        let first = Head::new("/").opens(gateway.address());
        assert_eq!((first, asked()), (refuse, 2), "both are tried, and fail");
        if refuse {
            let close = Peer::open(gateway.address(), "/").frame().close();
            assert!(close.0 == 1013 && close.1.starts_with("no server behind this gateway is healthy"), "{close:?}");
        } else {
            let reply = Head::new("/").ask(gateway.address());
            let after: u64 = reply.all("retry-after")[0].parse().expect("seconds");
            assert!(reply.status() == 503 && (80..=90).contains(&after), "{reply:?}");
            let plain =
                support::http::ask(gateway.address(), b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            assert_eq!(plain.status(), 503);
        }
        gateway.log("reason=\"no_healthy_server\"");
        assert_eq!(asked(), 2, "nothing is dialled");
    }
}

#[test]
fn a_server_that_is_alone_is_always_asked() {
    let (bad, seen) = answers("HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    let gateway = Gateway::start(&config(&list(&[bad]), "", "health = { passive = { failures = 1, aside = \"1h\" } }"));
    for _ in 0..5 {
        assert_eq!(Head::new("/").ask(gateway.address()).status(), 503);
    }
    assert_eq!(seen.connections(), 5);
}

#[test]
fn a_clients_failure_is_not_the_servers() {
    let servers = [0, 1].map(|_| serve(|mut peer| peer.drain()));
    let health = "health = { passive = { failures = 1, aside = \"1h\" } }";
    let gateway = Gateway::start(&config(&list(&servers), "http = true", health));
    for _ in 0..4 {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nno size\r\n";
        assert_eq!(support::http::ask(gateway.address(), head.as_bytes()).status(), 400);
    }
    let output = gateway.output();
    assert!(!output.contains("put aside") && !output.contains("trying another"), "{output}");
}

#[test]
fn explain_names_every_server_as_configured() {
    let text = config(
        "{ url = \"ws://a\", weight = 3 }, \"ws://b/base\", { url = \"ws://c\", backup = true }",
        "",
        "balance = \"hash:cookie:session\"",
    );
    let config = tidegate::config::parse(&text, std::path::Path::new("config.toml")).expect("it is right").config;
    let question = tidegate::explain::Question {
        method: http::Method::GET,
        url: "ws://127.0.0.1/x".to_owned(),
        origin: None,
        from: "192.0.2.1".parse().expect("an address"),
        subprotocols: Vec::new(),
        headers: Vec::new(),
        listener: None,
    };
    let found = tidegate::explain::explain(&config, &question).expect("a question").to_string();
    let line = "upstream     app (hash:cookie:session): ws://a with path /x, weight 3, or ws://b/base with path /base/x, \
                or ws://c with path /x, backup";
    assert!(found.lines().any(|found| found == line), "{found}");
}
