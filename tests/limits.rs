//! Caps on sessions and connections, and rates of handshakes: each told in its way, never one over, nothing left behind.

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use support::client::{Peer, close_payload, masked, request};
use support::dice::Dice;
use support::eventually;
use support::gateway::Gateway;
use support::http::{Head, status};
use support::upstream::{agreeing, serve, switching};
use tidegate::config;
use tidegate::config::model::ListenerAddress;
use tidegate::limits::Taken;

/// A configuration of its parts: what stands in each table besides what has to.
#[derive(Clone, Copy, Default)]
struct Parts<'a> {
    limits: &'a str,
    listener: &'a str,
    route: &'a str,
    upstream: &'a str,
}

impl Parts<'_> {
    fn text(&self, servers: &[SocketAddr]) -> String {
        let servers: Vec<String> = servers.iter().map(|server| format!("\"ws://{server}\"")).collect();
        format!(
            "[limits]\n{}\n\n[[listener]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.0/8\"]\nlimits = {{ {} }}\n\n\
             [[route]]\nname = \"app\"\nupstream = \"app\"\nclose_timeout = \"1s\"\n{}\n\n\
             [upstream.app]\nservers = [{}]\nhandshake_timeout = \"500ms\"\n{}\n",
            self.limits,
            self.listener,
            self.route,
            servers.join(", "),
            self.upstream
        )
    }
}

fn open(address: SocketAddr, n: usize) -> Vec<Peer> {
    (0..n).map(|_| Peer::open(address, "/")).collect()
}

/// Ends a session in good order.
fn leave(mut peer: Peer) {
    peer.write(&masked(8, &close_payload(1000, "")));
    peer.rest();
}

/// Opens a session as soon as there is a place: the gateway counts one until both its sides are gone.
fn open_again(address: SocketAddr) -> Peer {
    let mut opened = None;
    eventually("there is a place again", || {
        let mut peer = Peer::connect(address);
        peer.write(request("/", "").as_bytes());
        opened = (status(&peer.head()) == 101).then_some(peer);
        opened.is_some()
    });
    opened.expect("just seen")
}

#[test]
fn each_cap_is_told_in_its_way_and_frees_itself() {
    let (none, off) = (Parts::default(), "handshakes_per_client = \"off\"");
    #[rustfmt::skip]
    let rows = [
        ("sessions_gateway", 503, 1013, Parts { limits: "sessions = 2", ..none }),
        ("sessions_listener", 503, 1013, Parts { listener: "sessions = 2", ..none }),
        ("sessions_route", 503, 1013, Parts { route: "limits = { sessions = 2 }", ..none }),
        ("sessions_client", 429, 1008, Parts { limits: "sessions_per_client = 2", ..none }),
        ("sessions_client_route", 429, 1008, Parts { route: "limits = { sessions_per_client = 2 }", ..none }),
        ("sessions_upstream", 503, 1013, Parts { upstream: "sessions_per_server = 2", ..none }),
    ];
    for (label, expected, code, parts) in rows {
        let (upstream, seen) = agreeing();
        let limits = format!("{off}\n{}", parts.limits);
        let gateway = Gateway::start(&Parts { limits: &limits, ..parts }.text(&[upstream]));
        let mut held = open(gateway.address(), 2);
        let reply = Head::new("/").ask(gateway.address());
        assert_eq!((reply.status(), &reply.all("retry-after")[..]), (expected, &["5".to_owned()][..]), "{label}");
        assert!(gateway.log("refused").contains(&format!("reason=\"{label}\"")), "{label}");
        assert_eq!(seen.connections(), 2, "{label}: nothing was dialled for it");
        leave(held.pop().expect("held"));
        held.push(open_again(gateway.address()));
        assert_eq!(Head::new("/").ask(gateway.address()).status(), expected, "{label}: full again");

        let route = format!("refuse = \"close\"\n{}", parts.route);
        let gateway = Gateway::start(&Parts { limits: &limits, route: &route, ..parts }.text(&[upstream]));
        let _held = open(gateway.address(), 2);
        let close = Peer::open(gateway.address(), "/").frame();
        assert_eq!((close.opcode, &close.payload[..2]), (8, &u16::to_be_bytes(code)[..]), "{label}");
        assert!(close.payload[2..].starts_with(b"too many sessions are open"), "{label}");
    }
}

#[test]
fn each_rate_is_told_in_its_way() {
    let none = Parts::default();
    let rows = [
        ("handshake_rate", 429, Parts { limits: "handshakes_per_client = \"2/h\"", ..none }),
        ("handshake_rate_client_route", 429, Parts { route: "limits = { handshakes_per_client = \"2/h\" }", ..none }),
        ("handshake_rate_route", 503, Parts { route: "limits = { handshakes = \"2/h\" }", ..none }),
    ];
    for (label, expected, parts) in rows {
        let (upstream, _) = agreeing();
        let gateway = Gateway::start(&parts.text(&[upstream]));
        open(gateway.address(), 2);
        let reply = Head::new("/").ask(gateway.address());
        assert_eq!(reply.status(), expected, "{label}");
        let after: u32 = reply.all("retry-after")[0].parse().expect("seconds");
        assert!((1_700..=1_800).contains(&after), "{label}: {after}");
        assert!(gateway.log("refused").contains(&format!("reason=\"{label}\"")), "{label}");
        let other = Head::new("/").with("X-Forwarded-For: 192.0.2.7");
        assert_eq!(other.opens(gateway.address()), expected == 429, "{label}: another client");
    }
}

#[test]
fn a_server_that_has_all_its_sessions_is_passed_over() {
    let servers = [agreeing(), agreeing(), agreeing()];
    let parts = Parts { upstream: "sessions_per_server = 2", ..Parts::default() };
    let gateway = Gateway::start(&parts.text(&servers.each_ref().map(|(address, _)| *address)));
    let mut held = open(gateway.address(), 6);
    assert_eq!(servers.each_ref().map(|(_, seen)| seen.connections()), [2, 2, 2]);
    assert_eq!(Head::new("/").ask(gateway.address()).status(), 503);
    // Whosever turn it is: only one has a place.
    leave(held.remove(1));
    held.push(open_again(gateway.address()));
    let mut connections = servers.each_ref().map(|(_, seen)| seen.connections());
    connections.sort_unstable();
    assert_eq!(connections, [2, 2, 3]);
}

#[test]
fn refusals_with_a_close_are_bounded_and_then_told_by_status() {
    let (upstream, _) = agreeing();
    let parts = Parts { route: "refuse = \"close\"\nlimits = { sessions = 1 }", ..Parts::default() };
    let gateway = Gateway::start(&parts.text(&[upstream]));
    let _held = Peer::open(gateway.address(), "/");
    let told: Vec<u16> = (0..60)
        .map(|_| {
            let mut peer = Peer::connect(gateway.address());
            peer.write(request("/", "").as_bytes());
            status(&peer.head())
        })
        .collect();
    let closes = told.iter().filter(|status| **status == 101).count();
    assert!((10..60).contains(&closes), "{told:?}");
    assert!(told.iter().all(|status| [101, 503].contains(status)), "{told:?}");
    assert!(told.contains(&503), "{told:?}");
    let other = Head::new("/").with("X-Forwarded-For: 192.0.2.7");
    assert!(other.opens(gateway.address()), "another client has its own share");
}

/// A connection is pending until its handshake is agreed on, also after TLS or a page.
#[test]
fn connections_that_have_not_finished_their_handshake_have_a_cap() {
    let none = Parts::default();
    let rows = [
        ("limits.connections_pending", Parts { limits: "connections_pending = 3", ..none }),
        ("listener.limits.connections_pending", Parts { listener: "connections_pending = 3", ..none }),
    ];
    for (key, parts) in rows {
        let (upstream, _) = agreeing();
        let gateway = Gateway::start(&parts.text(&[upstream]));
        // Sessions are not pending.
        let _open = open(gateway.address(), 8);
        let mut pending: Vec<Peer> = (0..3).map(|_| Peer::connect(gateway.address())).collect();
        for peer in &mut pending {
            peer.write(b"GET / HTTP/1.1\r\n");
        }
        eventually("one more is closed", || {
            Peer::connect(gateway.address()).within(Duration::from_millis(50)).is_empty()
                && gateway.output().contains(key)
        });
        let mut refused = Peer::connect(gateway.address());
        let _ = refused.try_write(request("/", "").as_bytes());
        assert_eq!(refused.try_head(), None, "{key}");
        assert_eq!(gateway.log(&format!("{key} is reached")).lines().count(), 1, "{key}: once in a period");
        // One goes on where it was, another leaves: there is room again.
        pending[0].write(&request("/", "").as_bytes()["GET / HTTP/1.1\r\n".len()..]);
        assert_eq!(status(&pending[0].head()), 101, "{key}");
        drop(pending.pop());
        eventually("there is room again", || {
            let mut peer = Peer::connect(gateway.address());
            let _ = peer.try_write(request("/", "").as_bytes());
            peer.try_head().is_some_and(|head| status(&head) == 101)
        });
    }
}

#[test]
fn a_listener_has_its_own_cap_of_connections() {
    let (upstream, _) = agreeing();
    let text = Parts { listener: "connections = 2", ..Parts::default() }.text(&[upstream]);
    let gateway = Gateway::start(&format!("{text}\n[[listener]]\naddress = \"127.0.0.1:0\"\n"));
    let [small, large] = gateway.addresses()[..] else { panic!("two listeners") };
    let _held = open(small, 2);
    let mut refused = Peer::connect(small);
    let _ = refused.try_write(request("/", "").as_bytes());
    assert_eq!(refused.try_head(), None);
    assert_eq!(open(large, 4).len(), 4, "the other is not touched");
    assert!(gateway.log("is reached").contains("listener.limits.connections"));
}

/// Sixteen clients that come and go at once. A session counts here from its 101 to the beginning of its end, which is
/// within the time for which the gateway counts it.
#[test]
fn caps_hold_exactly_under_a_storm() {
    const CAP: usize = 5;
    let none = Parts::default();
    let rows = [
        Parts { limits: "sessions = 5\nhandshakes_per_client = \"off\"", ..none },
        Parts { limits: "handshakes_per_client = \"off\"", route: "limits = { sessions_per_client = 5 }", ..none },
        Parts { limits: "handshakes_per_client = \"off\"", upstream: "sessions_per_server = 5", ..none },
    ];
    for parts in rows {
        let upstream = serve(|mut peer| {
            let Some(head) = peer.try_head() else { return };
            peer.write(switching(&head, "").as_bytes());
            if let Some(close) = peer.next_frame() {
                let _ = peer.try_write(&support::client::unmasked(close.opcode, &close.payload));
            }
        });
        let gateway = Gateway::start(&parts.text(&[upstream]));
        let (address, now, most) = (gateway.address(), AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for turn in 0..12 {
                        let peer = open_again(address);
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        thread::yield_now();
                        now.fetch_sub(1, Ordering::SeqCst);
                        if turn % 3 == 0 { peer.reset() } else { leave(peer) }
                    }
                });
            }
        });
        let most = most.into_inner();
        assert!((2..=CAP).contains(&most), "at most {most} at once");
        let _held: Vec<Peer> = (0..CAP).map(|_| open_again(address)).collect();
        assert!([429, 503].contains(&Head::new("/").ask(address).status()), "and there is not one more");
    }
}

// What a storm leaves: gauges read in the same process.

#[test]
fn a_storm_of_3_000_connects_leaves_every_gauge_at_zero() {
    storm(3_000);
}

/// `cargo test --release --test limits -- --ignored`
#[test]
#[ignore = "takes a minute"]
fn a_storm_of_50_000_connects_leaves_every_gauge_at_zero() {
    storm(50_000);
}

/// Half of them are cut at a random point of the handshake, with a reset or without; the others are refused, turned down by
/// the upstream, forgotten by it, or become sessions that end in every way.
fn storm(connects: usize) {
    const THREADS: usize = 8;
    let upstream = serve(|mut peer| {
        let Some(head) = peer.try_head() else { return };
        let answer = match head.split(' ').nth(1) {
            Some("/refuses") => "HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nnope".to_owned(),
            Some("/dies") => return,
            Some("/stalls") => String::new(),
            _ => switching(&head, ""),
        };
        if peer.try_write(answer.as_bytes()).is_ok() {
            peer.drain();
        }
    });
    let parts = Parts {
        limits: "sessions = 40\nconnections = 2000\nconnections_pending = 1900\nhandshakes_per_client = \"off\"",
        listener: "sessions = 39, connections = 1999, connections_pending = 1899",
        route: "refuse = \"close\"\nlimits = { sessions = 38, sessions_per_client = 20 }",
        upstream: "sessions_per_server = 37",
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let loaded = config::parse(&parts.text(&[upstream]), Path::new("config.toml")).expect("it is right");
    let gateway = runtime.block_on(tidegate::gateway::Gateway::start(loaded)).expect("it starts");
    let ListenerAddress::Tcp(address) = gateway.listeners()[0].0 else { panic!("a TCP listener") };
    let over = AtomicUsize::new(0);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (gateway, over) = (&gateway, &over);
            scope.spawn(move || {
                let mut dice = Dice(thread as u64 + 1);
                for _ in 0..connects / THREADS {
                    connect(address, &mut dice);
                    let taken = gateway.taken();
                    over.fetch_max(usize::from(taken.sessions > 40 || taken.of_servers > 37), Ordering::SeqCst);
                }
            });
        }
    });
    assert_eq!(over.into_inner(), 0, "a cap was exceeded");
    eventually("every gauge is at zero", || gateway.taken() == Taken::default());
    assert_eq!(runtime.block_on(gateway.stop()), 0, "no session is left");
}

fn connect(address: SocketAddr, dice: &mut Dice) {
    let path = ["/ok", "/refuses", "/dies", "/stalls"][dice.below(4)];
    let text = request(path, &format!("X-Forwarded-For: 192.0.2.{}\r\n", dice.below(50)));
    let mut peer = Peer::connect(address);
    if dice.below(2) == 0 {
        let _ = peer.try_write(&text.as_bytes()[..dice.below(text.len() + 1)]);
        if dice.below(2) == 0 {
            peer.reset();
        }
        return;
    }
    if peer.try_write(text.as_bytes()).is_err() || (path != "/stalls" && peer.try_head().is_none()) {
        return;
    }
    match dice.below(3) {
        0 => peer.reset(),
        1 => drop(peer.try_write(&masked(8, &close_payload(1000, "")))),
        _ => {}
    }
}
