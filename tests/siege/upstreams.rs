//! Upstreams that die in every way: by a signal, by a reset within a frame, by half a close, by standing still.

use std::io::{BufRead, BufReader};
use std::net::{Shutdown, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::camp::{self, Bounds, MIB, NO_LIMITS, Siege, scale};
use crate::support::client::{PING, PONG, Peer, TEXT, header, masked};
use crate::support::gateway::{Gateway, config};
use crate::support::upstream::{serve, switching};

/// `tidegate backend echo` as a process of its own. Dropping it kills it.
struct Echo(Child, SocketAddr);

impl Echo {
    fn start() -> Echo {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["backend", "echo", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let line = BufReader::new(child.stdout.take().expect("piped")).lines().next().expect("a line").expect("UTF-8");
        let address = line.split("ws://").nth(1).expect("an address").trim_end_matches('/').parse();
        Echo(child, address.expect("an address"))
    }

    fn signal(&self, name: &str) {
        let kill = Command::new("kill").args(["-s", name, &self.0.id().to_string()]).status();
        assert!(kill.expect("kill runs").success());
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A route `/victim` to a server of its own, beside the echo of the honest.
fn beside(victim: SocketAddr) -> Gateway {
    let victim = format!(
        "[[route]]\nname = \"victim\"\npath = \"/victim\"\nupstream = \"victim\"\n\
         heartbeat = {{ interval = \"1s\", timeout = \"1s\" }}\n\
         [upstream.victim]\nservers = [\"ws://{victim}\"]\n"
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

#[test]
fn servers_that_are_killed_or_stopped() {
    let count = scale(100, 2_000);
    let bounds = Bounds { memory: count * 8 * 1024 + 8 * MIB, time: Duration::from_secs(60) };
    for (name, signal) in [("a server is killed", "KILL"), ("a server is stopped", "STOP")] {
        let server = Echo::start();
        Siege::around(name, || beside(server.1)).attack(&bounds, |siege| {
            let mut peers: Vec<Peer> = (0..count).map(|_| Peer::open(siege.address(), "/victim")).collect();
            peers.iter_mut().for_each(|peer| camp::say(peer, b"alive"));
            server.signal(signal);
            // Each by itself: they answer the gateway's pings until then.
            thread::scope(|scope| {
                let told: Vec<_> = peers.iter_mut().map(|peer| scope.spawn(|| told(peer))).collect();
                told.into_iter().for_each(|told| assert_eq!(told.join().expect("a Close"), 1011));
            });
        });
    }
}

#[test]
fn servers_that_break_off() {
    let count = scale(60, 1_000);
    let bounds = Bounds { memory: count as u64 * 8 * 1024 + 8 * MIB, time: Duration::from_secs(60) };
    // Speaks when spoken to: with half a frame, and then in one of three ways.
    let server = serve(|mut peer| {
        let Some(head) = peer.try_head() else { return };
        let _ = peer.try_write(switching(&head, "").as_bytes());
        let Some(frame) = peer.whole_frame() else { return };
        let _ = peer.try_write(&[&header(0x82, false, 70_000)[..], &[9; 30_000]].concat());
        match &frame.payload[..] {
            b"reset" => peer.reset(),
            b"close" => drop(peer),
            _ => {
                // It says that it will send nothing more, and goes on reading.
                let _ = peer.stream().shutdown(Shutdown::Write);
                peer.drain();
            }
        }
    });
    Siege::around("servers that break off within a frame", || beside(server)).attack(&bounds, |siege| {
        let mut peers: Vec<Peer> = (0..count).map(|_| Peer::open(siege.address(), "/victim")).collect();
        for (n, peer) in peers.iter_mut().enumerate() {
            peer.write(&masked(TEXT, [&b"reset"[..], b"close", b"half"][n % 3]));
        }
        // A frame that was begun cannot be ended, so no Close can follow it: the stream ends, and soon.
        peers.iter_mut().for_each(|peer| while peer.whole_frame().is_some() {});
    });
}
