//! Upstreams that die in every way: by a signal, by a reset within a frame, by half a close, by standing still.

use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use crate::camp::{self, Bounds, MIB, NO_LIMITS, Siege, scale};
use crate::support::client::{PING, PONG, Peer, TEXT, header, masked};
use crate::support::gateway::{Gateway, config};
use crate::support::servers::{self, Process};
use crate::support::upstream::{serve, switching};

/// A route `/victim` to a server of its own, beside the echo of the honest.
pub fn beside(victim: SocketAddr) -> Gateway {
    let victim = format!(
        "[[route]]\nname = \"victim\"\npath = \"/victim\"\nupstream = \"victim\"\n\
         {}\n[upstream.victim]\nservers = [\"ws://{victim}\"]\n",
        camp::heartbeat()
    );
    Gateway::start(&config(camp::echo(), "", &format!("{victim}{NO_LIMITS}")))
}

/// Reads to the Close, answering pings; its code.
fn told(peer: &mut Peer) -> u16 {
    loop {
        let frame = peer.frame();
        match frame.opcode {
            PING => drop(peer.try_write(&masked(PONG, &frame.payload))),
            8 => return frame.close().0,
            _ => {}
        }
    }
}

/// Clients of `/victim`, and what `trouble` brings them, which is 1011.
pub fn victims(siege: &Siege, count: usize, trouble: impl FnOnce()) {
    camp::crowd(count, || Peer::open(siege.address(), "/victim"), |peer| assert_eq!(told(peer), 1011), trouble);
}

#[test]
fn servers_that_are_killed_or_stopped() {
    let count = scale(100, 2_000);
    let bounds = Bounds { memory: count as u64 * 8 * 1024 + 8 * MIB, time: Duration::from_secs(60) };
    for (name, signal) in [("a server is killed", "KILL"), ("a server is stopped", "STOP")] {
        let server = Process::start(servers::any());
        Siege::around(name, || beside(server.address)).attack(&bounds, |siege| {
            victims(siege, count, || server.signal(signal));
        });
    }
}

#[test]
fn servers_that_break_off() {
    let count = scale(60, 1_000);
    let bounds = Bounds { memory: count as u64 * 8 * 1024 + 8 * MIB, time: Duration::from_secs(60) };
    // Speaks when spoken to: with half a frame or a whole one, and then in one of three ways.
    let server = serve(|mut peer| {
        let Some(head) = peer.try_head() else { return };
        let _ = peer.try_write(switching(&head, "").as_bytes());
        let Some(frame) = peer.whole_frame() else { return };
        let (part, end) = frame.payload.split_at(5);
        let length = if part == b"half " { 30_000 } else { 70_000 };
        let _ = peer.try_write(&[&header(0x82, false, 70_000)[..], &vec![9; length]].concat());
        match end {
            b"reset" => peer.reset(),
            b"close" => drop(peer),
            _ => {
                // It says that it will send nothing more, and goes on reading.
                let _ = peer.stream().shutdown(Shutdown::Write);
                peer.drain();
            }
        }
    });
    let ways = ["half reset", "half close", "half shut", "wholereset", "wholeclose", "wholeshut"];
    Siege::around("servers that break off", || beside(server)).attack(&bounds, |siege| {
        let mut peers: Vec<Peer> = (0..count).map(|_| Peer::open(siege.address(), "/victim")).collect();
        for (n, peer) in peers.iter_mut().enumerate() {
            peer.write(&masked(TEXT, ways[n % ways.len()].as_bytes()));
        }
        for (n, peer) in peers.iter_mut().enumerate() {
            match ways[n % ways.len()] {
                way if way.starts_with("whole") => assert_eq!(told(peer), 1011, "{way}"),
                // A reset may overtake what was sent before, as if nothing had been.
                way => {
                    let last = std::iter::from_fn(|| peer.whole_frame()).filter(|frame| frame.opcode != PING).last();
                    // A frame that was begun cannot be ended, so no Close can follow it: the stream ends, and soon.
                    assert!(last.is_none_or(|frame| way == "half reset" && frame.close().0 == 1011), "{way}");
                }
            }
        }
    });
}
