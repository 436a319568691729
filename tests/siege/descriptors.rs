//! A process that has run out of descriptors.

use std::thread;
use std::time::Duration;

use crate::camp::{self, Bounds, MIB, NO_LIMITS, Siege, scale};
use crate::support::client::{Peer, request};
use crate::support::eventually;
use crate::support::gateway::{Gateway, config};

const DESCRIPTORS: usize = 256;

#[test]
fn no_descriptor_is_left() {
    let flood = scale(500, 5_000);
    let bounds = Bounds { memory: 16 * MIB, time: Duration::from_secs(60) };
    let text = config(camp::echo(), "", NO_LIMITS);
    let start = || Gateway::start_with_descriptors(&text, DESCRIPTORS);
    Siege::around("no descriptor is left", start).attack_alone(&bounds, |siege| {
        let mut inside: Vec<Peer> = (0..10).map(|_| Peer::open(siege.address(), "/")).collect();
        let held: Vec<Peer> = (0..flood)
            .map(|_| {
                let mut peer = Peer::connect(siege.address());
                let _ = peer.try_write(request("/", "").as_bytes());
                peer
            })
            .collect();
        siege.gateway.log("cannot accept connections");
        // Those inside are served, and nobody runs in circles.
        let before = siege.gateway.processor_time();
        for _ in 0..10 {
            inside.iter_mut().for_each(|peer| camp::say(peer, b"still served"));
            thread::sleep(Duration::from_millis(100));
        }
        let used = siege.gateway.processor_time() - before;
        assert!(used < Duration::from_millis(400), "{used:?} of processor time in a second without descriptors");
        drop(held);
        eventually("clients are let in again", || {
            let mut peer = Peer::connect(siege.address());
            peer.try_write(request("/", "").as_bytes()).is_ok() && peer.try_head().is_some_and(|h| h.contains(" 101 "))
        });
    });
}
