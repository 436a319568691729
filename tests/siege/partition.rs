//! A network that falls apart: nobody says goodbye, packets vanish. In a namespace of its own, where the system permits one.

use std::process::Command;
use std::time::Duration;

use crate::camp::{Bounds, MIB, Siege, say, scale};
use crate::support::client::Peer;
use crate::support::eventually;

fn link(state: &str) {
    let set = Command::new("ip").args(["link", "set", "lo", state]).status();
    assert!(set.expect("ip runs").success());
}

#[test]
fn a_network_that_falls_apart() {
    let within = |command: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--net", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""]);
        unshare.args(command).status().is_ok_and(|status| status.success())
    };
    if !within(&["true"]) {
        eprintln!("siege: this system permits no network namespace: a_network_that_falls_apart was not run");
        return;
    }
    let this = std::env::current_exe().expect("a path");
    let this = this.to_str().expect("UTF-8");
    assert!(within(&[this, "--ignored", "--exact", "partition::in_a_namespace", "--nocapture"]));
}

#[test]
#[ignore = "takes down the loopback interface: a_network_that_falls_apart runs it in a namespace"]
fn in_a_namespace() {
    let count = scale(100, 2_000);
    let bounds = Bounds { memory: count as u64 * 16 * 1024 + 4 * MIB, time: Duration::from_secs(60) };
    let heartbeat = "heartbeat = { interval = \"1s\", timeout = \"1s\" }";
    Siege::lay("a network that falls apart", heartbeat, "").attack_alone(&bounds, |siege| {
        let mut peers: Vec<Peer> = (0..count).map(|_| Peer::open(siege.address(), "/")).collect();
        peers.iter_mut().for_each(|peer| say(peer, b"alive"));
        let lost = || siege.gateway.output().matches("_lost\"").count();
        let before = lost();
        link("down");
        eventually("every session is noticed", || lost() >= before + count);
        link("up");
        peers
    });
}
