//! Before the upgrade: heads that dribble, that never end, that hold too much.

use std::time::Duration;

use crate::camp::{Bounds, MIB, Siege, scale};
use crate::support::client::{Peer, request};
use crate::support::gateway::{Gateway, config};
use crate::support::http::status;
use crate::{camp, support};

#[test]
fn slow_heads() {
    let text = config(camp::echo(), "", camp::NO_LIMITS);
    let text = text.replacen("\"127.0.0.1:0\"\n", "\"127.0.0.1:0\"\nhead_timeout = \"2s\"\n", 1);
    let count = scale(300, 4_000);
    // hyper takes 8 KiB for a head, and as much again once a part of one is there; the rest is the connection's own, its
    // answer and its line in the log.
    let bounds = Bounds { memory: count * 28 * 1024 + 2 * MIB, time: Duration::from_secs(60) };
    Siege::around("slow heads", || Gateway::start(&text)).attack(&bounds, |siege| {
        let mut slow: Vec<Peer> = (0..count).map(|_| Peer::connect(siege.address())).collect();
        for byte in request("/", "").as_bytes().chunks(1).take(30) {
            for peer in &mut slow {
                let _ = peer.try_write(byte);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        for peer in &mut slow {
            // All were cut at the same time; those whose last byte crossed the answer see a reset.
            if let Some(head) = peer.try_head() {
                assert_eq!(status(&head), 408, "{head}");
            }
            peer.rest();
        }
    });
}

#[test]
fn header_bombs() {
    let count = scale(100, 3_000);
    let bounds = Bounds { memory: 8 * MIB, time: Duration::from_secs(60) };
    Siege::lay("header bombs", "", "").attack(&bounds, |siege| {
        let many: String = (0..10_000).map(|n| format!("x-{n}: 1\r\n")).collect();
        let rows = [
            ("a field without end", format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "y".repeat(1 << 20))),
            ("ten thousand fields", request("/", &many)),
            ("a target without end", format!("GET /{} HTTP/1.1\r\n", "z".repeat(1 << 20))),
            ("empty fields", request("/", &"a:\r\n".repeat(3_000))),
        ];
        for _ in 0..count / rows.len() {
            for (name, bomb) in &rows {
                let mut peer = Peer::connect(siege.address());
                let _ = peer.try_write(bomb.as_bytes());
                // A reset may overtake the answer where bytes were not read.
                if let Some(head) = peer.try_head() {
                    assert!([400, 414, 431].contains(&status(&head)), "{name}: {head}");
                    assert!(!head.contains("101"), "{name}");
                }
            }
        }
    });
}

/// They say that they want a WebSocket and never read what they are told.
#[test]
fn refusals_that_nobody_reads() {
    let count = scale(300, 4_000);
    let bounds = Bounds { memory: count as u64 * 8 * 1024 + 8 * MIB, time: Duration::from_secs(60) };
    Siege::lay("refusals that nobody reads", "path = \"/\"\norigins = [\"none\"]", "").attack(&bounds, |siege| {
        let evil = request("/", "Origin: https://evil.example\r\n");
        let peers: Vec<Peer> = (0..count)
            .map(|_| {
                let mut peer = Peer::connect(siege.address());
                peer.write(evil.as_bytes());
                peer
            })
            .collect();
        support::eventually("all are refused", || siege.gateway.output().matches("refused").count() >= count);
        peers
    });
}
