//! What does not depend on how busy the machine is: bytes per idle session, what those who left leave behind, what a
//! message of 1 GiB does, system calls per echoed message.
//!
//! `cargo bench --bench idle [-- SESSIONS]` starts the binary of the same profile with a raw upstream of its own, opens
//! that many sessions (5,000 unless told), and reads the gateway's resident memory; the calls are counted by `strace`.
//! Ends with an error when a figure is more than a tenth above the one that stands here: then either mend it, or write
//! the new one down and say in the commit what it buys.

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::client::{BINARY, PONG, header, masked, session};
use support::gateway::{Gateway, config};
use support::{eventually, upstream};

/// Bytes of resident memory per idle ws session.
const SESSION_BYTES: u64 = 2_275;
/// How often sessions come and leave, and what the process may be then in the last round as a share of the first.
const ROUNDS: usize = 10;
const CHURN_MAX: f64 = 1.15;
/// System calls per echoed message: a wait, a read and a write for each direction.
const CALLS: f64 = 6.0;
/// Echoes that are counted.
const ECHOES: u64 = 2_000;
const MESSAGE_BYTES: u64 = 1 << 30;
const MESSAGE_LEFT_MAX: u64 = 2 * 1024 * 1024;
/// Sessions that warm the allocator and the thread's buffers before anything is measured.
const WARM: usize = 50;

fn main() {
    // `cargo bench` passes flags of its own; `cargo test --benches` only wants to see that this starts.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    let sessions = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(5_000);
    let idle = idle(sessions);
    let churn = churn(sessions);
    let message = message();
    let calls = calls();
    let (idle_max, calls_max) = (SESSION_BYTES * 11 / 10, CALLS * 1.1);
    println!("\n| what | measured | at most |\n|---|---:|---:|");
    println!("| bytes per idle ws session ({sessions} open) | {idle} | {idle_max} |");
    println!("| resident memory of round {ROUNDS} of {sessions} sessions / round 1 | {churn:.2} | {CHURN_MAX} |");
    println!("| bytes left after a message of 1 GiB | {message} | {MESSAGE_LEFT_MAX} |");
    println!("| system calls per echoed message, one at a time | {calls:.2} | {calls_max:.2} |");
    let kept = idle <= idle_max && churn <= CHURN_MAX && message <= MESSAGE_LEFT_MAX && calls <= calls_max;
    std::process::exit(if kept { 0 } else { 1 });
}

const LIMITS: &str = "[limits]\nsessions_per_client = \"off\"\nhandshakes_per_client = \"off\"\n\
                      [log]\nlevel = \"warn\"\n";

fn idle(sessions: usize) -> u64 {
    let gateway = Gateway::start(&config(Holder::start().address, "heartbeat = \"off\"", LIMITS));
    let mut open = Vec::with_capacity(sessions + WARM);
    for _ in 0..WARM {
        open.push(session(gateway.address()));
    }
    let before = gateway.resident();
    for _ in 0..sessions {
        open.push(session(gateway.address()));
    }
    still(&gateway).saturating_sub(before) / sessions as u64
}

/// Resident memory, once it stands still: connection tasks end a moment after their 101.
fn still(gateway: &Gateway) -> u64 {
    let mut last = gateway.resident();
    eventually("resident memory stands still", || {
        std::thread::sleep(Duration::from_millis(300));
        let now = gateway.resident();
        std::mem::replace(&mut last, now) == now
    });
    last
}

/// Sessions that come and leave in rounds: resident memory with those of the last round open, over the first one's.
fn churn(sessions: usize) -> f64 {
    let holder = Holder::start();
    let gateway = Gateway::start(&config(holder.address, "heartbeat = \"off\"", LIMITS));
    let descriptors = format!("/proc/{}/fd", gateway.process());
    let descriptors = || std::fs::read_dir(&descriptors).expect("the gateway lives").count();
    let before = descriptors();
    let rounds: Vec<u64> = (0..ROUNDS)
        .map(|_| {
            let open: Vec<_> = (0..sessions).map(|_| session(gateway.address())).collect();
            let resident = still(&gateway);
            drop(open);
            holder.kept.lock().expect("not poisoned").clear();
            eventually("all sessions are gone", || descriptors() <= before);
            resident
        })
        .collect();
    println!("resident MiB of each round: {:?}", rounds.iter().map(|bytes| bytes >> 20).collect::<Vec<_>>());
    rounds[ROUNDS - 1] as f64 / rounds[0] as f64
}

/// Opens a session with little state of our own.
/// An upstream that accepts upgrades and keeps them, in one thread.
struct Holder {
    address: SocketAddr,
    kept: Arc<Mutex<Vec<TcpStream>>>,
}

impl Holder {
    fn start() -> Holder {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let holder = Holder { address: listener.local_addr().expect("an address"), kept: Arc::default() };
        let kept = holder.kept.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut head = [0; 2048];
                let n = stream.read(&mut head).unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..n]).into_owned();
                let mut kept = kept.lock().expect("not poisoned");
                let _ = stream.write_all(upstream::switching(&head, "").as_bytes());
                kept.push(stream);
            }
        });
        holder
    }
}

/// Sends one frame of 1 GiB; the upstream counts it and says so.
fn message() -> u64 {
    let server = upstream::serve(|mut peer| {
        let head = peer.head();
        peer.write(upstream::switching(&head, "").as_bytes());
        let mut stream = peer.stream().try_clone().expect("a descriptor");
        let mut left = MESSAGE_BYTES + 14;
        let mut buffer = vec![0; 256 * 1024];
        while left > 0 {
            match stream.read(&mut buffer) {
                Ok(n) if n > 0 => left = left.saturating_sub(n as u64),
                _ => return,
            }
        }
        peer.write(&support::client::unmasked(BINARY, b"done"));
        peer.rest();
    });
    let limits = "frame_bytes_max = \"2GiB\"\nmessage_bytes_max = \"2GiB\"";
    let gateway = Gateway::start(&config(server, limits, LIMITS));
    let mut peer = support::client::Peer::open(gateway.address(), "/");
    peer.write(&masked(PONG, b"warm"));
    let before = gateway.resident();
    let mut stream = peer.stream().try_clone().expect("a descriptor");
    let mut head = header(0x80 | BINARY, true, MESSAGE_BYTES);
    head.extend_from_slice(&[1, 2, 3, 4]);
    stream.write_all(&head).expect("it is written");
    let piece = vec![0x5a; 1 << 20];
    let mut most = before;
    for number in 0..MESSAGE_BYTES / piece.len() as u64 {
        stream.write_all(&piece).expect("it is written");
        if number % 64 == 0 {
            most = most.max(gateway.resident());
        }
    }
    assert_eq!(peer.frame().payload, b"done");
    println!("1 GiB passed; at most {} bytes above the start on the way", most.saturating_sub(before));
    gateway.resident().saturating_sub(before)
}

/// Counts the gateway's system calls while one client echoes, one message at a time.
fn calls() -> f64 {
    let server = upstream::serve(|mut peer| {
        let head = peer.head();
        peer.write(upstream::switching(&head, "").as_bytes());
        while let Some(frame) = peer.next_frame() {
            peer.write(&support::client::unmasked(frame.opcode, &frame.payload));
        }
    });
    let gateway = Gateway::start(&config(server, "heartbeat = \"off\"", &format!("{LIMITS}[runtime]\nworkers = 1\n")));
    let mut peer = support::client::Peer::open(gateway.address(), "/");
    let mut echo = |times: u64| {
        for _ in 0..times {
            peer.write(&masked(BINARY, &[7; 128]));
            assert_eq!(peer.frame().payload.len(), 128);
        }
    };
    echo(10);
    let table = gateway.directory.join("calls");
    let mut strace = Command::new("strace")
        .args(["-f", "-c", "-p", &gateway.process().to_string(), "-o"])
        .arg(&table)
        .stderr(Stdio::null())
        .spawn()
        .expect("strace is installed (Debian: apt-get install strace)");
    let status = format!("/proc/{}/status", gateway.process());
    eventually("strace looks on", || {
        let status = std::fs::read_to_string(&status).expect("the gateway lives");
        status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
    });
    echo(ECHOES);
    let interrupted = Command::new("kill").args(["-s", "INT", &strace.id().to_string()]).status();
    assert!(interrupted.expect("kill runs").success());
    strace.wait().expect("strace ends");
    let table = std::fs::read_to_string(&table).expect("strace wrote its table");
    let total = table.lines().find(|line| line.ends_with("total")).expect("a line with the total");
    let calls: f64 = total.split_whitespace().nth(3).and_then(|calls| calls.parse().ok()).expect("a number of calls");
    calls / ECHOES as f64
}
