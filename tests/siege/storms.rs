//! Crowds: those who connect and leave at once, and more than there is room for.

use std::collections::VecDeque;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use crate::camp::{Bounds, MIB, Siege, echo, scale};
use crate::support::client::{Peer, TEXT, masked, request};
use crate::support::eventually;
use crate::support::gateway::{Gateway, config};
use crate::support::tls::{Authority, hello};
use crate::tls;

const THREADS: usize = 4;

#[test]
fn connect_and_reset() {
    let connects = scale(2_000, 40_000);
    // They come faster than they can be let go: as many are held as the queues of two listeners have, in the midst of TLS.
    let held = connects.min(2 * 4_096) as u64;
    let bounds = Bounds { memory: held * 16 * 1024 + 4 * MIB, time: Duration::from_secs(240) };
    let authority = Authority::new("storm");
    Siege::around("connect and reset", || tls::start(&authority)).attack(&bounds, |siege| {
        let [plain, secure]: [SocketAddr; 2] = siege.gateway.addresses().try_into().expect("two listeners");
        let upgrade = [request("/", "").as_bytes(), &masked(TEXT, b"gone")].concat();
        let hello = hello("localhost", &authority.client(None));
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (address, whole) = if thread % 2 == 0 { (plain, &upgrade) } else { (secure, &hello) };
                scope.spawn(move || {
                    for n in 0..connects / THREADS {
                        let mut socket = TcpStream::connect(address).expect("it listens");
                        // Cut anywhere: before a byte, within the head or the ClientHello, behind it, behind a frame.
                        let part = (n * 7 + thread * 31) % (whole.len() + 1);
                        let _ = socket.write_all(&whole[..part]);
                        socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("an option");
                    }
                });
            }
        });
    });
}

/// Asks for so many sessions and holds some 150 of the connections at a time.
fn flood(siege: &Siege, source: [u8; 4], count: usize) -> VecDeque<Peer> {
    let head = request("/", "");
    let mut held = VecDeque::new();
    for _ in 0..count {
        if held.len() == 150 {
            held.pop_front();
        }
        let mut peer = Peer::connect_from(source.into(), siege.address());
        let _ = peer.try_write(head.as_bytes());
        held.push_back(peer);
    }
    held
}

fn is_let_in(siege: &Siege, source: [u8; 4]) -> bool {
    let mut peer = Peer::connect_from(source.into(), siege.address());
    peer.try_write(request("/", "").as_bytes()).is_ok() && peer.try_head().is_some_and(|head| head.contains(" 101 "))
}

#[test]
fn floods_above_every_cap() {
    let count = scale(400, 4_000);
    let bounds = Bounds { memory: 16 * MIB, time: Duration::from_secs(120) };
    let unlimited = "handshakes_per_client = \"off\"\nsessions_per_client = \"off\"";
    let whole = |limit: &str| (format!("{limit}\n{unlimited}"), "", "", "");
    let (none, other) = (unlimited.to_owned(), [127, 0, 0, 66]);
    // Honest clients hold their places; new ones find none, which is what a cap is for.
    let of_all = [
        ("a flood above limits.connections", whole("connections = 100")),
        ("a flood above limits.connections_pending", whole("connections_pending = 50")),
        ("a flood above limits.sessions", whole("sessions = 100")),
        ("a flood above the listener's connections", (none.clone(), "limits = { connections = 100 }", "", "")),
        ("a flood above the listener's sessions", (none.clone(), "limits = { sessions = 100 }", "", "")),
        ("a flood above the route's sessions", (none.clone(), "", "limits = { sessions = 100 }", "")),
        ("a flood above the server's sessions", (none.clone(), "", "", "sessions_per_server = 100")),
    ];
    // What one client may is its own matter: others come and go.
    let of_one = [
        (
            "one client's flood above its sessions",
            ("sessions_per_client = 100\nhandshakes_per_client = \"off\"".to_owned(), "", "", ""),
        ),
        (
            "one client's flood above its handshakes",
            ("sessions_per_client = \"off\"\nhandshakes_per_client = \"1000/s\"".to_owned(), "", "", ""),
        ),
        ("one client's flood above its sessions of a route", (none, "", "limits = { sessions_per_client = 100 }", "")),
    ];
    for (name, (limits, listener, route, upstream)) in &of_all {
        start(name, limits, listener, route, upstream).closed().attack(&bounds, |siege| {
            drop(flood(siege, other, count));
            eventually("there is room again", || is_let_in(siege, other));
        });
    }
    for (name, (limits, listener, route, upstream)) in &of_one {
        start(name, limits, listener, route, upstream).attack(&bounds, |siege| {
            drop(flood(siege, other, count));
            eventually("there is room again", || is_let_in(siege, other));
        });
    }
}

fn start(name: &'static str, limits: &str, listener: &str, route: &str, upstream: &str) -> Siege {
    let text = config(echo(), route, &format!("[limits]\n{limits}\n"));
    let text = text.replacen("\"127.0.0.1:0\"\n", &format!("\"127.0.0.1:0\"\n{listener}\n"), 1);
    let text = text.replacen("[upstream.test]\n", &format!("[upstream.test]\n{upstream}\n"), 1);
    Siege::around(name, || Gateway::start(&text))
}
