//! A process that has run out of descriptors.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::camp::{self, Bounds, MIB, NO_LIMITS, Siege, scale};
use crate::support::client::{Peer, request};
use crate::support::eventually;
use crate::support::gateway::{Gateway, config};

const DESCRIPTORS: usize = 256;

/// A connection that is asked for, whether the other side has room for it or not.
fn knock(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_nonblocking(true).expect("an option");
    // Under way, or refused at once.
    let _ = socket.connect(&address.into());
    socket
}

#[test]
fn no_descriptor_is_left() {
    let flood = scale(500, 5_000);
    let bounds = Bounds { memory: 16 * MIB, time: Duration::from_secs(60) };
    let text = config(camp::echo(), "", NO_LIMITS);
    let start = || Gateway::start_with_descriptors(&text, DESCRIPTORS);
    Siege::around("no descriptor is left", start).closed().attack(&bounds, |siege| {
        let held: Vec<Socket> = (0..flood).map(|_| knock(siege.address())).collect();
        for socket in &held {
            // Where it came through.
            let _ = socket.send(request("/", "").as_bytes());
        }
        siege.gateway.log("cannot accept connections");
        // The honest inside are served, and nobody runs in circles.
        let before = siege.gateway.processor_time();
        thread::sleep(Duration::from_secs(1));
        let used = siege.gateway.processor_time().saturating_sub(before);
        assert!(used < Duration::from_millis(500), "{used:?} of processor time in a second without descriptors");
        drop(held);
        eventually("clients are let in again", || {
            let mut peer = Peer::connect(siege.address());
            peer.try_write(request("/", "").as_bytes()).is_ok() && peer.try_head().is_some_and(|h| h.contains(" 101 "))
        });
    });
}
