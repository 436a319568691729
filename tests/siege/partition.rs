//! A network that falls apart: nobody says goodbye, packets vanish. In a namespace of its own, where the system permits one.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use crate::camp::{self, Bounds, MIB, Siege, heartbeat, scale};
use crate::support::client::{PONG, Peer, masked, request};
use crate::support::eventually;
use crate::support::http::status;
use crate::support::servers::Process;
use crate::upstreams::{beside, victims};

/// The part of the loopback network that is cut off; all else goes on.
const ISLAND: [u8; 4] = [127, 9, 0, 1];
/// Local addresses are looked up before any rule, unless that is moved.
const PREPARE: &str =
    "ip link set lo up && ip rule add pref 100 lookup local && ip rule del pref 0 && exec \"$0\" \"$@\"";

/// What the island sends vanishes (`add`), acknowledgements too, or passes again (`del`). What is sent to it has to find its
/// way: a rule against that would tell the sender at once.
fn cut_off(word: &str) {
    let rule = Command::new("ip").args(["rule", word, "pref", "10", "from", "127.9.0.0/16", "blackhole"]).status();
    assert!(rule.expect("ip runs").success());
}

#[test]
fn a_network_that_falls_apart() {
    let within = |command: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--net", "sh", "-c", PREPARE]);
        unshare.args(command).status().is_ok_and(|status| status.success())
    };
    if !within(&["true"]) {
        eprintln!("siege: this system permits no network namespace: a_network_that_falls_apart was not run");
        return;
    }
    let this = std::env::current_exe().expect("a path");
    let this = this.to_str().expect("UTF-8");
    let cases = ["partition::clients_in_a_namespace", "partition::a_server_in_a_namespace"];
    let run = |case| within(&[this, "--ignored", "--exact", case, "--nocapture"]);
    cases.into_iter().for_each(|case| assert!(run(case), "{case}"));
}

#[test]
#[ignore = "changes the network's rules: a_network_that_falls_apart runs it in a namespace"]
fn clients_in_a_namespace() {
    let count = scale(100, 2_000);
    let bounds = Bounds { memory: count as u64 * 16 * 1024 + 4 * MIB, time: Duration::from_secs(60) };
    Siege::lay("clients whose network fails", &heartbeat(), "").attack(&bounds, |siege| {
        let open = || Peer::connect_from(IpAddr::from(ISLAND), siege.address()).opened("/");
        let answer = |peer: &mut Peer| {
            while let Some(frame) = peer.whole_frame() {
                let _ = peer.try_write(&masked(PONG, &frame.payload));
            }
        };
        let lost = || siege.gateway.output().matches("cause=\"client_lost\"").count();
        camp::crowd(count, open, answer, || {
            let before = lost();
            cut_off("add");
            eventually("every session is noticed", || lost() >= before + count);
            cut_off("del");
        });
    });
}

#[test]
#[ignore = "changes the network's rules: a_network_that_falls_apart runs it in a namespace"]
fn a_server_in_a_namespace() {
    let count = scale(100, 2_000);
    let bounds = Bounds { memory: count as u64 * 16 * 1024 + 4 * MIB, time: Duration::from_secs(60) };
    let server = Process::start((ISLAND, 0).into());
    Siege::around("a server whose network fails", || beside(server.address)).attack(&bounds, |siege| {
        victims(siege, count, || cut_off("add"));
        let ask = || {
            let mut peer = Peer::connect(siege.address());
            peer.write(request("/victim", "").as_bytes());
            status(&peer.head())
        };
        assert_eq!(ask(), 504, "who comes now is told in time");
        cut_off("del");
        eventually("it is served again", || ask() == 101);
    });
}
