//! Servers that are asked whether they are well: what counts as an answer, and what becomes of those that give none.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use support::admin::json;
use support::client::{PING, Peer, masked, unmasked};
use support::eventually;
use support::gateway::Gateway;
use support::http::Head;
use support::servers::{Process, closed, connections_to, echoes, leave, list, processes};
use support::upstream::{agreeing, answering, field, serve, switching};

/// A gateway in front of `servers` that are checked; `upstream` are further lines of their table, and `more` of the file.
fn config(servers: &str, active: &str, upstream: &str, more: &str) -> String {
    format!(
        "[limits]\nhandshakes_per_client = \"off\"\n\n[[listener]]\naddress = \"127.0.0.1:0\"\n\n\
         [[route]]\nname = \"app\"\nupstream = \"app\"\n\n\
         [upstream.app]\nservers = [{servers}]\nhealth.active = {{ interval = \"50ms\", timeout = \"1s\"{active} }}\n\
         {upstream}\n{more}\n"
    )
}

/// A server of a test: what it is, where it is, and what its check says: nothing when it is well.
type Row = (&'static str, SocketAddr, Option<&'static str>);

/// Has all of them checked, and sees that every one of them is found to be what it is.
fn are_found(rows: &[Row], active: &str, more: impl Fn(SocketAddr) -> String) {
    // Those that are well begin as down, so that it shows.
    for well in [true, false] {
        let rows: Vec<_> = rows.iter().filter(|(_, _, why)| why.is_none() == well).collect();
        let servers = rows.iter().map(|(_, address, _)| more(*address)).collect::<Vec<_>>().join(", ");
        let initial = if well { "down" } else { "up" };
        let gateway = Gateway::start(&config(&servers, &format!("{active}, initial = \"{initial}\""), "", ""));
        for (what, address, why) in rows {
            let line = gateway.log(&format!("{address}"));
            let told = why.map_or("\"healthy: ", |_| "\"unhealthy: ");
            assert!(line.contains(told) || line.contains(&told[1..]), "{what}: {line}");
            assert!(line.contains(why.unwrap_or("")), "{what}: {line}");
        }
    }
}

fn plain(address: SocketAddr) -> String {
    format!("\"ws://{address}\"")
}

fn answers(text: &'static str) -> SocketAddr {
    answering(move |_| text.into()).0
}

/// Agrees on a WebSocket and then sends this.
fn opening(frames: Vec<u8>) -> SocketAddr {
    answering(move |head| [switching(head, "").into_bytes(), frames.clone()].concat()).0
}

/// Agrees, says much, pings, and answers a ping.
fn talkative() -> SocketAddr {
    serve(|mut peer| {
        let Some(head) = peer.try_head() else { return };
        let noise = [unmasked(1, &[b'x'; 100_000]), unmasked(PING, b"you"), unmasked(2, b"more")].concat();
        peer.write(&[switching(&head, "").into_bytes(), noise].concat());
        let ping = peer.frame();
        assert_eq!((ping.opcode, ping.masked, ping.payload.len()), (PING, true, 8));
        peer.write(&unmasked(10, b"another"));
        peer.write(&unmasked(10, &ping.payload));
        assert_eq!(peer.frame().close(), (1000, String::new()));
    })
}

#[test]
fn a_connection_is_enough_for_tcp() {
    let rows = [("listens", answers(""), None), ("nobody listens", closed(), Some("Connection refused"))];
    are_found(&rows, "", plain);
}

#[test]
fn a_page_has_a_good_status() {
    let rows = [
        ("200", answers("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), None),
        ("its body never comes", answers("HTTP/1.1 204 No Content\r\n\r\n"), None),
        ("302", answers("HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n"), None),
        ("404", answers("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), Some("it answered 404")),
        ("503", answers("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"), Some("it answered 503")),
        ("switches", agreeing().0, Some("it answered 101")),
        ("says nothing", answers(""), Some("longer than health.active.timeout")),
        ("no HTTP", answers("SSH-2.0\r\n\r\n"), Some("not HTTP/1.1")),
        ("closes", serve(drop), Some("ended the connection")),
        ("nobody listens", closed(), Some("Connection refused")),
    ];
    are_found(&rows, ", kind = \"http\"", plain);
    let rows = [
        ("404 is wanted", answers("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), None),
        ("200 is not", answers("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), Some("it answered 200")),
    ];
    are_found(&rows, ", kind = \"http\", status = [404, \"500-599\"]", plain);
}

#[test]
fn a_websocket_answers_a_ping() {
    let echo = Process::start("127.0.0.1:0".parse().expect("an address"));
    let stopped = Process::start("127.0.0.1:0".parse().expect("an address"));
    stopped.signal("STOP");
    let rows = [
        ("a real server", echo.address, None),
        ("one that says much before", talkative(), None),
        ("agrees and says nothing", agreeing().0, Some("longer than health.active.timeout")),
        ("stands still", stopped.address, Some("longer than health.active.timeout")),
        ("refuses", answers("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"), Some("it answered 403")),
        (
            "another accept",
            answers(
                "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: no\r\n\r\n",
            ),
            Some("no WebSocket's"),
        ),
        ("closes", opening(unmasked(8, &[3, 0xf5])), Some("with 1013")),
        ("masks its frames", opening(masked(1, b"text")), Some("was masked")),
        ("page without upgrade", answers("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), Some("it answered 200")),
    ];
    are_found(&rows, ", kind = \"websocket\"", plain);
}

#[test]
fn over_tls_where_the_server_has_it() {
    let authority = support::tls::Authority::new("test");
    let server = authority.issue(&["127.0.0.1"]).server();
    let folder = support::gateway::folder();
    let ca = folder.join("ca.pem");
    std::fs::write(&ca, authority.pem()).expect("written");
    let good = support::upstream::serve_tls(server, |mut peer| {
        let Some(head) = peer.try_head() else { return };
        match head.contains("websocket") {
            true => {
                peer.write(switching(&head, "").as_bytes());
                let ping = peer.frame();
                peer.write(&unmasked(10, &ping.payload));
            }
            false => peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        }
        peer.drain();
    });
    let plain = serve(|mut peer| {
        peer.bytes(1);
        peer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    for kind in ["tcp", "http", "websocket"] {
        let servers = format!("\"wss://{good}\", \"wss://{plain}\"");
        let upstream = format!("tls = {{ ca = \"{}\" }}", ca.display());
        for (initial, told, address) in [("up", "unhealthy: ", plain), ("down", "healthy: ", good)] {
            let active = format!(", kind = \"{kind}\", initial = \"{initial}\"");
            let gateway = Gateway::start(&config(&servers, &active, &upstream, ""));
            let line = gateway.log(&format!("wss://{address}"));
            assert!(line.contains(told), "{kind}: {line}");
            assert!(told == "healthy: " || line.contains("TLS"), "{kind}: {line}");
        }
    }
    let _ = std::fs::remove_dir_all(folder);
}

#[test]
fn what_a_check_asks_for() {
    let (address, seen) = answering(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec());
    let servers = format!("\"ws://{address}/base\"");
    let active =
        ", kind = \"http\", path = \"/health?full=1\", host = \"app.internal\", headers = { X-Check = \"yes\" }";
    let _gateway = Gateway::start(&config(&servers, active, "", ""));
    eventually("it is asked twice", || seen.connections() > 1);
    let head = seen.heads().remove(0);
    assert!(head.starts_with("GET /base/health?full=1 HTTP/1.1\r\n"), "{head}");
    let fields =
        [("host", "app.internal"), ("x-check", "yes"), ("connection", "close"), ("user-agent", "tidegate-check")];
    for (name, value) in fields {
        assert_eq!(field(&head, name).as_deref(), Some(value), "{head}");
    }

    let (address, seen) = agreeing();
    let active = ", kind = \"websocket\", subprotocol = \"mqtt\"";
    let _gateway = Gateway::start(&config(&list(&[address]), active, "", ""));
    eventually("it is asked", || !seen.heads().is_empty());
    let head = seen.last();
    assert_eq!(field(&head, "sec-websocket-protocol").as_deref(), Some("mqtt"), "{head}");
    assert_eq!(field(&head, "host"), Some(address.to_string()), "{head}");
}

/// A page that is well until it is told not to be.
fn moody() -> (SocketAddr, Arc<AtomicBool>, Arc<AtomicBool>) {
    let (well, asked) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let (is_well, is_asked) = (well.clone(), asked.clone());
    let (address, _) = answering(move |head| {
        if head.contains("upgrade: websocket") || head.contains("Upgrade: websocket") {
            is_asked.store(true, Ordering::SeqCst);
            return switching(head, "").into_bytes();
        }
        match is_well.load(Ordering::SeqCst) {
            true => b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(),
            false => b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n".to_vec(),
        }
    });
    (address, well, asked)
}

/// One that is alone, too: a 503 at once is better than a server that says itself that it is not well.
#[test]
fn when_none_is_well_the_answer_comes_at_once() {
    let (address, well, asked) = moody();
    let admin = "[admin]\naddress = \"127.0.0.1:0\"";
    let gateway = Gateway::start(&config(&list(&[address]), ", kind = \"http\"", "", admin));
    assert!(Head::new("/").opens(gateway.address()));
    well.store(false, Ordering::SeqCst);
    assert!(gateway.log("unhealthy: its checks fail").contains("it answered 500"));
    let told = json(gateway.admin(), "GET /upstreams")["upstreams"][0]["servers"][0].take();
    assert_eq!(told["condition"], "unhealthy");
    assert!(told["failure"].as_str().is_some_and(|why| why.contains("it answered 500")), "{told}");
    asked.store(false, Ordering::SeqCst);
    let reply = Head::new("/").ask(gateway.address());
    assert_eq!((reply.status(), reply.all("retry-after")), (503, vec!["1".to_owned()]), "{reply:?}");
    gateway.log("reason=\"no_healthy_server\"");
    assert!(!asked.load(Ordering::SeqCst), "nothing is dialled");
    well.store(true, Ordering::SeqCst);
    gateway.log("healthy: it answers its checks");
    assert!(Head::new("/").opens(gateway.address()));
}

/// The clients of a killed server get 1011, no other client notices, new ones are served at once; the dead one gets nothing
/// until its checks are good again, and the counts stay true.
#[test]
fn one_of_three_is_killed_under_load_and_comes_back() {
    let (mut processes, servers) = processes(3);
    let upstream = "balance = \"least-connections\"";
    let gateway = Gateway::start(&config(&servers, ", kind = \"websocket\"", upstream, ""));
    let address = gateway.address();
    let mut peers: Vec<_> = (0..30).map(|_| Peer::open(address, "/")).collect();
    let stop = AtomicBool::new(false);
    let killed = processes[1].address;
    std::thread::scope(|scope| {
        let load = |mut peer: Peer| {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if peer.try_write(&masked(1, b"load")).is_err() {
                        return Err(0);
                    }
                    match peer.next_frame() {
                        Some(frame) if frame.opcode == 1 => assert_eq!(frame.payload, b"load"),
                        Some(frame) => return Err(frame.close().0),
                        None => return Err(1006),
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
                Ok(peer)
            })
        };
        let clients: Vec<_> = peers.drain(..).map(load).collect();
        processes[1].kill();
        for _ in 0..20 {
            leave(Peer::open(address, "/"));
        }
        eventually("its clients have heard", || clients.iter().filter(|client| client.is_finished()).count() == 10);
        stop.store(true, Ordering::Relaxed);
        let ends: Vec<_> = clients.into_iter().map(|client| client.join().expect("no panic")).collect();
        assert_eq!(ends.iter().filter(|end| matches!(end, Err(1011))).count(), 10, "each of its clients is told");
        peers = ends.into_iter().filter_map(Result::ok).collect();
        assert_eq!(peers.len(), 20, "and nobody else");
    });
    assert!(gateway.log("unhealthy: its checks fail").contains(&killed.to_string()));
    let tried = || gateway.output().matches("trying another").count();
    let before = tried();
    for _ in 0..30 {
        leave(Peer::open(address, "/"));
    }
    assert_eq!(tried(), before, "nobody is sent there");
    assert!(!gateway.output().contains("reason="), "{}", gateway.output());

    processes[1] = Process::start(killed);
    assert!(gateway.log("healthy: it answers its checks").contains(&killed.to_string()));
    // The counts are true: it is the emptiest by ten. Its checks have connections of their own.
    peers.extend((0..10).map(|_| Peer::open(address, "/")));
    eventually("ten sessions each", || processes.iter().all(|process| connections_to(process.address) == 10));
    peers.iter_mut().for_each(|peer| echoes(peer, b"after"));
}

#[test]
fn what_becomes_of_sessions_of_a_server_that_stands_still() {
    let rows = [("keep", None), ("drain", Some(1012)), ("close", Some(1011))];
    for (fate, code) in rows {
        let (processes, servers) = processes(2);
        let on_unhealthy = format!("health.on_unhealthy = \"{fate}\"");
        let gateway = Gateway::start(&config(&servers, ", kind = \"websocket\"", &on_unhealthy, ""));
        let mut peers: Vec<_> = (0..6).map(|_| Peer::open(gateway.address(), "/")).collect();
        processes[0].signal("STOP");
        let line = gateway.log("unhealthy: its checks fail");
        assert!(line.contains(&processes[0].address.to_string()) && line.contains("timeout"), "{line}");
        // In turn: the first, the third and the fifth are with it.
        let (mut stopped, mut others): (Vec<_>, Vec<_>) = peers.drain(..).enumerate().partition(|(at, _)| at % 2 == 0);
        if let Some(code) = code {
            for (_, peer) in &mut stopped {
                assert_eq!(peer.frame().close().0, code, "{fate}");
            }
        }
        others.iter_mut().for_each(|(_, peer)| echoes(peer, b"others"));
        for _ in 0..4 {
            let mut peer = Peer::open(gateway.address(), "/");
            echoes(&mut peer, b"new ones");
            leave(peer);
        }
        processes[0].signal("CONT");
        assert!(gateway.log("healthy: it answers its checks").contains(&processes[0].address.to_string()));
        if code.is_none() {
            stopped.iter_mut().for_each(|(_, peer)| echoes(peer, b"it was never told"));
        }
        let cause = if fate == "close" { "cause=\"upstream_lost\"" } else { "cause=\"drain\"" };
        let expected = if code.is_some() { 3 } else { 0 };
        drop(stopped);
        eventually("each has its record", || gateway.output().matches(cause).count() == expected);
    }
}

/// A server that says of itself that it is not well may hear yet what becomes of its sessions.
#[test]
fn a_server_that_is_not_well_is_told() {
    let (well, (closes, heard)) = (Arc::new(AtomicBool::new(true)), std::sync::mpsc::channel());
    let (is_well, closes) = (well.clone(), std::sync::Mutex::new(closes));
    let address = serve(move |mut peer| {
        let Some(head) = peer.try_head() else { return };
        if !head.contains("websocket") {
            let status = if is_well.load(Ordering::SeqCst) { "200 OK" } else { "503 Service Unavailable" };
            return peer.write(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes());
        }
        peer.write(switching(&head, "").as_bytes());
        let close = peer.frame();
        let _ = closes.lock().expect("not poisoned").send(close.close());
        peer.write(&unmasked(8, &close.payload));
    });
    let upstream = "health.on_unhealthy = \"close\"";
    let gateway = Gateway::start(&config(&list(&[address]), ", kind = \"http\"", upstream, ""));
    let mut peer = Peer::open(gateway.address(), "/");
    well.store(false, Ordering::SeqCst);
    assert_eq!(peer.frame().close(), (1011, "upstream is not healthy".to_owned()));
    let told = heard.recv_timeout(support::PATIENCE).expect("it is told");
    assert_eq!(told, (1001, "session ended by the gateway".to_owned()));
    peer.write(&masked(8, &[3, 0xf3]));
    let record = gateway.end_record();
    assert!(record.contains("cause=\"upstream_lost\"") && record.contains("side=\"gateway\""), "{record}");
}

/// A reload takes a server out and back: its sessions end by rule, all others stay, and the counts are true throughout.
#[test]
fn a_reload_takes_a_server_out_and_back() {
    let (processes, servers) = processes(3);
    let upstream = "balance = \"least-connections\"\non_removed = \"drain\"";
    let without = list(&[processes[0].address, processes[2].address]);
    let text = |servers: &str| config(servers, "", upstream, "");
    let gateway = Gateway::start(&text(&servers));
    let reload = |servers: &str, times: usize| {
        std::fs::write(gateway.directory.join("config.toml"), text(servers)).expect("written");
        gateway.signal("HUP");
        eventually("it is reloaded", || gateway.output().matches("reloaded: ").count() == times);
    };
    let mut peers: Vec<_> = (0..6).map(|_| Peer::open(gateway.address(), "/")).collect();
    reload(&without, 1);
    // In turn: the second and the fifth are with it.
    for gone in [4, 1] {
        assert_eq!(peers.remove(gone).frame().close().0, 1012);
    }
    peers.extend((0..2).map(|_| Peer::open(gateway.address(), "/")));
    reload(&servers, 2);
    peers.extend((0..3).map(|_| Peer::open(gateway.address(), "/")));
    peers.iter_mut().for_each(|peer| echoes(peer, b"through both"));
    let of = || processes.iter().map(|process| connections_to(process.address)).collect::<Vec<_>>();
    // Checks have connections of their own, for a moment.
    eventually("three sessions each", || of() == [3, 3, 3]);
}
