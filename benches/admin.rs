//! What looking on costs: how long `tidegate ctl` takes with many sessions open, and what lists and scrapes do to the
//! latency of those that are busy.
//!
//! `cargo bench --bench admin [-- SESSIONS]` starts the binary of the same profile, with an echo server in a process of its
//! own, opens that many sessions (9,000 unless told), and echoes over four more, in turns with and without somebody who
//! lists every session and scrapes the metrics each half second. Ends with an error where `ctl` takes more than 100 ms, or
//! the 99th percentile grows by more than a fifth.

#[path = "../tests/support/mod.rs"]
mod support;

use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::admin::{call, json};
use support::client::{BINARY, Peer, masked, session};
use support::gateway::{Gateway, config};
use support::servers::{self, Process};

/// `ctl`, process start included.
const CTL_MAX: Duration = Duration::from_millis(100);
const P99_MAX: f64 = 1.2;
const CALLS: usize = 20;
const ECHOING: usize = 4;
/// Between two messages of a session.
const PAUSE: Duration = Duration::from_millis(1);
const TURNS: usize = 8;
const TURN: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(500);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    let sessions: usize = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(9_000);
    let echo = Process::of("echo", servers::any());
    let more = "[limits]\nsessions_per_client = \"off\"\nhandshakes_per_client = \"off\"\n\
                [log]\nlevel = \"warn\"\n[admin]\naddress = \"127.0.0.1:0\"\n";
    let gateway = Gateway::start(&config(echo.address, "heartbeat = \"off\"", more));
    let open: Vec<TcpStream> = (0..sessions).map(|_| session(gateway.address())).collect();
    println!("{sessions} sessions are open\n\n| `tidegate ctl` | median | slowest of {CALLS} |\n|---|---:|---:|");
    let one = json(gateway.admin(), "GET /sessions?limit=1")["sessions"][0]["id"].to_string();
    let mut slowest = Duration::ZERO;
    for arguments in [
        vec!["sessions", "--limit", "100"],
        vec!["sessions", "--client", "192.0.2.1"],
        vec!["sessions"],
        vec!["sessions", &one],
        vec!["close", "--all", "--dry-run"],
        vec!["close", &one],
        vec!["status"],
    ] {
        let mut times: Vec<Duration> = (0..CALLS).map(|_| ctl(&gateway, &arguments)).collect();
        times.sort();
        let shown: Vec<&str> = arguments.iter().map(|word| if *word == one { "ID" } else { word }).collect();
        let shown = shown.join(" ");
        println!("| {shown} | {:.0?} | {:.0?} |", times[CALLS / 2], times[CALLS - 1]);
        slowest = slowest.max(times[CALLS / 2]);
    }
    let (quiet, watched) = latencies(&gateway);
    let ratio = at(&watched, 0.99).as_secs_f64() / at(&quiet, 0.99).as_secs_f64();
    println!("\n| echo of 128 bytes | half | 99 % | 99.9 % |\n|---|---:|---:|---:|");
    for (what, times) in [("nobody looks", &quiet), ("lists and scrapes", &watched)] {
        println!("| {what} | {:.0?} | {:.0?} | {:.0?} |", at(times, 0.5), at(times, 0.99), at(times, 0.999));
    }
    println!("\n99 %: {ratio:.2} times as long (at most {P99_MAX})");
    drop((open, gateway, echo));
    std::process::exit(if slowest <= CTL_MAX && ratio <= P99_MAX { 0 } else { 1 });
}

/// The time that a call takes from its start to its end. Closing the same session twice may be refused.
fn ctl(gateway: &Gateway, arguments: &[&str]) -> Duration {
    let began = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .arg("ctl")
        .args(arguments)
        .args(["--address", &gateway.admin().to_string()])
        .stdout(Stdio::null())
        .output()
        .expect("it runs");
    let took = began.elapsed();
    assert!(output.status.success() || arguments[0] == "close", "{}", String::from_utf8_lossy(&output.stderr));
    took
}

/// Round trips without and with somebody who looks, sorted; in turns, so that a busy machine is busy for both.
fn latencies(gateway: &Gateway) -> (Vec<Duration>, Vec<Duration>) {
    let mut peers: Vec<Peer> = (0..ECHOING).map(|_| Peer::open(gateway.address(), "/")).collect();
    let (mut quiet, mut watched) = (Vec::new(), Vec::new());
    turn(&mut peers);
    for number in 0..TURNS {
        let looking = AtomicBool::new(number % 2 == 1);
        thread::scope(|scope| {
            scope.spawn(|| {
                while looking.load(Ordering::Relaxed) {
                    look(gateway.admin());
                    thread::sleep(LOOK);
                }
            });
            let times = turn(&mut peers);
            if number % 2 == 1 {
                watched.extend(times)
            } else {
                quiet.extend(times)
            }
            looking.store(false, Ordering::Relaxed);
        });
    }
    quiet.sort();
    watched.sort();
    (quiet, watched)
}

/// Takes it in as it comes: what a reader makes of it would cost on the same processors, and is none of the gateway's.
fn look(admin: SocketAddr) {
    let mut after = 0;
    loop {
        let reply = call(admin, &format!("GET /sessions?limit=1000&after={after}"), &[], "");
        let text = std::str::from_utf8(&reply.body).expect("UTF-8");
        let next = text.find("\"next\":").map(|at| &text[at + 7..]).expect("a page tells of the next");
        let digits = next.trim_start().split(|c: char| !c.is_ascii_digit()).next().expect("one part");
        match digits.parse() {
            Ok(next) => after = next,
            Err(_) => break,
        }
    }
    assert_eq!(call(admin, "GET /metrics", &[], "").status(), 200);
}

fn turn(peers: &mut [Peer]) -> Vec<Duration> {
    let message = masked(BINARY, &[7; 128]);
    let echo = &|peer: &mut Peer| {
        let (began, mut times) = (Instant::now(), Vec::new());
        while began.elapsed() < TURN {
            let sent = Instant::now();
            peer.write(&message);
            peer.frame();
            times.push(sent.elapsed());
            thread::sleep(PAUSE);
        }
        times
    };
    thread::scope(|scope| {
        let threads: Vec<_> = peers.iter_mut().map(|peer| scope.spawn(move || echo(peer))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    })
}

/// The time within which this share of them was back.
fn at(sorted: &[Duration], share: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}
