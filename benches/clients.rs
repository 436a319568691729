//! What distinct clients cost that come once and do not come back: bytes of resident memory for each at the peak, and what
//! is left of it when their buckets are full again.
//!
//! `cargo bench --bench clients [-- CLIENTS]` starts the binary of the same profile behind a trusted proxy, which we play,
//! and lets that many clients (200,000 unless told) try one handshake each. Both limits count: a rate of the gateway and
//! one of the route. Ends with an error above 256 bytes each, or when after a minute more than a tenth is left.

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use support::client::request;
use support::gateway::Gateway;
use support::upstream::agreeing;

const CLIENT_BYTES: u64 = 256;
const THREADS: u32 = 4;
const MINUTE: Duration = Duration::from_secs(60);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    let clients: u32 = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(200_000);
    let (upstream, _) = agreeing();
    // A bucket is full again 30 s after one handshake: nobody is forgotten before the last one came. One session is
    // allowed and taken, so that each handshake is counted and then refused, without the cost of an upstream.
    let gateway = Gateway::start(&format!(
        "[limits]\nsessions = 1\nhandshakes_per_client = \"2/m\"\n\n[log]\nlevel = \"warn\"\n\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n\n\
         [[route]]\nupstream = \"app\"\nlimits = {{ handshakes_per_client = \"2/m\" }}\n\n\
         [upstream.app]\nservers = [\"ws://{upstream}\"]\n"
    ));
    let address = gateway.address();
    let mut held = TcpStream::connect(address).expect("the gateway listens");
    held.write_all(request("/", "").as_bytes()).expect("it is written");
    assert_eq!(status(&mut held), 101);
    // The same few, many times: warms what connections need.
    run(address, clients, |number| number % 4);
    let before = gateway.resident();
    let began = Instant::now();
    run(address, clients, |number| 1_000 + number);
    let took = began.elapsed();
    let peak = gateway.resident();
    let last = Instant::now();
    while last.elapsed() < MINUTE && gateway.resident() > before * 102 / 100 {
        thread::sleep(Duration::from_millis(500));
    }
    let (after, waited) = (gateway.resident(), last.elapsed());
    let each = peak.saturating_sub(before) / u64::from(clients);
    println!("{clients} handshakes in {:.1} s", took.as_secs_f64());
    println!("\n| what | measured | at most |\n|---|---:|---:|");
    println!("| bytes per client at the peak | {each} | {CLIENT_BYTES} |");
    println!("| resident memory before, KiB | {} | |", before / 1024);
    println!("| at the peak | {} | |", peak / 1024);
    println!("| {:.0} s after the last | {} | {} |", waited.as_secs_f64(), after / 1024, before * 11 / 10 / 1024);
    // `exit` runs no destructors: a gateway that is not dropped here would outlive us.
    drop(gateway);
    std::process::exit(if each <= CLIENT_BYTES && after <= before * 11 / 10 { 0 } else { 1 });
}

/// One handshake of each client, all of them refused.
fn run(address: SocketAddr, clients: u32, client: impl Fn(u32) -> u32 + Sync) {
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let client = &client;
            scope.spawn(move || {
                for number in (thread..clients).step_by(THREADS as usize) {
                    let from = Ipv4Addr::from(0x0b00_0000 + client(number));
                    let mut stream = TcpStream::connect(address).expect("the gateway listens");
                    // Leaves no port behind that waits for a minute: there are 28,000 of them.
                    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("an option");
                    let head = request("/", &format!("X-Forwarded-For: {from}\r\n"));
                    stream.write_all(head.as_bytes()).expect("it is written");
                    assert!([429, 503].contains(&status(&mut stream)));
                }
            });
        }
    });
}

fn status(stream: &mut TcpStream) -> u16 {
    stream.set_read_timeout(Some(support::PATIENCE)).expect("an option");
    let mut head = [0; 512];
    let n = stream.read(&mut head).expect("an answer");
    String::from_utf8_lossy(&head[..n]).split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
}
