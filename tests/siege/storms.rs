//! Crowds: those who connect and leave at once, and more than there is room for.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::camp::{Bounds, MIB, NO_LIMITS, Siege, scale};
use crate::support::client::{Peer, masked, request};
use crate::support::eventually;

const THREADS: usize = 4;

#[test]
fn connect_and_reset() {
    let connects = scale(2_000, 50_000);
    let bounds = Bounds { memory: 24 * MIB, time: Duration::from_secs(240) };
    Siege::lay("connect and reset", "", "").attack(&bounds, |siege| {
        let head = request("/", "");
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let head = head.as_bytes();
                scope.spawn(move || {
                    for n in 0..connects / THREADS {
                        let mut socket = TcpStream::connect(siege.address()).expect("it listens");
                        // Cut anywhere: before a byte, within the head, behind it, behind a frame.
                        let whole = [head, &masked(1, b"gone")].concat();
                        let part = (n * 7 + thread * 31) % (whole.len() + 1);
                        let _ = socket.write_all(&whole[..part]);
                        socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("an option");
                    }
                });
            }
        });
    });
}

#[test]
fn floods_above_every_cap() {
    let flood = scale(600, 8_000);
    let bounds = Bounds { memory: 16 * MIB, time: Duration::from_secs(120) };
    let rows = [
        ("a flood above limits.connections", "connections = 100", ""),
        ("a flood above limits.connections_pending", "connections_pending = 50", ""),
        ("a flood above limits.sessions", "sessions = 100", ""),
        ("a flood above the route's sessions", "", "limits = { sessions = 100 }"),
    ];
    for (name, cap, route) in rows {
        let limits = NO_LIMITS.replace("[limits]\n", &format!("[limits]\n{cap}\n"));
        let start = || {
            let text = crate::support::gateway::config(crate::camp::echo(), route, &limits);
            crate::support::gateway::Gateway::start(&text)
        };
        // Its honest clients hold their places; new ones would find none, which is what a cap is for.
        let siege = Siege::around(name, start);
        let mut inside: Vec<Peer> = (0..20).map(|_| Peer::open(siege.address(), "/")).collect();
        siege.attack_alone(&bounds, |siege| {
            let head = request("/", "");
            let mut held = Vec::new();
            for n in 0..flood {
                // As many places as there are, and then one after the other.
                if held.len() >= 150 {
                    held.remove(0);
                }
                let mut peer = Peer::connect(siege.address());
                let _ = peer.try_write(head.as_bytes());
                held.push(peer);
                if n % 50 == 0 {
                    inside.iter_mut().for_each(|peer| crate::camp::say(peer, b"still served"));
                }
            }
            drop(held);
            drop(inside);
            eventually("there is room again", || {
                let mut peer = Peer::connect(siege.address());
                peer.try_write(head.as_bytes()).is_ok() && peer.try_head().is_some_and(|head| head.contains(" 101 "))
            });
        });
    }
}
