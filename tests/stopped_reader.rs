//! A peer that reads nothing while the other one goes on sending: bounded memory, nobody else waits, nothing is lost.

mod support;

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use support::client::{BINARY, Peer, TEXT, masked, request, unmasked};
use support::gateway::{Gateway, config};
use support::tls::{self, Authority};
use support::upstream::{serve, switching};
use support::{PATIENCE, eventually};

const SETTINGS: &str = "[limits]\nhandshakes_per_client = \"off\"\nsessions_per_client = \"off\"\n";
const STOPPED: u64 = 20;
const PIECE: usize = 64 * 1024;
/// What is offered to a reader that has stopped.
const OFFERED: u64 = 64 << 20;
/// What may be taken of it: the buffers of four sockets, those of the peers as large as the system makes them.
const TAKEN_MAX: u64 = 24 << 20;
/// What a stopped session may cost the gateway's process: a piece for the one that refuses it, and what TLS keeps.
const SESSION_MAX: u64 = 128 * 1024;

/// An upstream that floods on `/flood` once it was spoken to, never reads on `/deaf`, and echoes elsewhere.
fn upstream(flooded: Arc<AtomicU64>) -> SocketAddr {
    serve(move |mut peer| {
        let head = peer.head();
        peer.write(switching(&head, "").as_bytes());
        if head.starts_with("GET /deaf ") {
            loop {
                thread::park();
            }
        }
        while let Some(frame) = peer.next_frame() {
            if head.starts_with("GET /flood ") {
                return flood(&mut peer, &flooded);
            }
            if peer.try_write(&unmasked(frame.opcode, &frame.payload)).is_err() {
                return;
            }
        }
    })
}

/// Messages that begin with their number.
fn flood(peer: &mut Peer, flooded: &AtomicU64) {
    for number in 0..OFFERED / PIECE as u64 {
        let mut payload = vec![0x5a; PIECE];
        payload[..8].copy_from_slice(&number.to_le_bytes());
        if peer.try_write(&unmasked(BINARY, &payload)).is_err() {
            return;
        }
        flooded.fetch_add(PIECE as u64, Ordering::SeqCst);
    }
}

fn start(flooded: &Arc<AtomicU64>) -> Gateway {
    Gateway::start(&config(upstream(flooded.clone()), "heartbeat = \"off\"", SETTINGS))
}

/// A session that is served throughout.
struct Honest(Peer);

impl Honest {
    fn open(gateway: &Gateway) -> Honest {
        let mut honest = Honest(Peer::open(gateway.address(), "/"));
        honest.echo();
        honest
    }

    fn echo(&mut self) {
        for size in [5, 200, PIECE] {
            self.0.write(&masked(TEXT, &vec![b'h'; size]));
            assert_eq!(self.0.frame().payload.len(), size);
        }
    }
}

/// Waits until a figure that only grows has stopped to, and serves an honest client meanwhile.
fn stands_still(what: &str, honest: &mut Honest, read: impl Fn() -> u64) -> u64 {
    let mut last = 0;
    eventually(what, || {
        honest.echo();
        thread::sleep(Duration::from_millis(300));
        let now = read();
        std::mem::replace(&mut last, now) == now && now > 0
    });
    last
}

fn bounded(gateway: &Gateway, before: u64) {
    // A little for what the process grows by anyway.
    let most = before + STOPPED * SESSION_MAX + (1 << 20);
    assert!(gateway.resident() < most, "{} of at most {most}, from {before}", gateway.resident());
}

#[test]
fn clients_that_read_nothing_cost_little_and_lose_nothing() {
    let flooded = Arc::new(AtomicU64::new(0));
    let gateway = start(&flooded);
    let mut honest = Honest::open(&gateway);
    let before = gateway.resident();
    let mut stopped: Vec<_> = (0..STOPPED).map(|_| Peer::open(gateway.address(), "/flood")).collect();
    for peer in &mut stopped {
        peer.write(&masked(TEXT, b"begin"));
    }
    let sent = stands_still("the upstreams are held back", &mut honest, || flooded.load(Ordering::SeqCst));
    assert!(sent < STOPPED * TAKEN_MAX, "held back, not buffered: {sent}");
    bounded(&gateway, before);
    Honest::open(&gateway);

    let mut peer = stopped.pop().expect("one of them");
    for number in 0..OFFERED / PIECE as u64 {
        let payload = peer.frame().payload;
        assert_eq!((payload.len(), &payload[..8]), (PIECE, &number.to_le_bytes()[..]));
    }
}

#[test]
fn clients_over_tls_that_read_nothing_cost_little() {
    let flooded = Arc::new(AtomicU64::new(0));
    let authority = Authority::new("test");
    let folder = support::gateway::folder();
    let (certificate, key) = authority.issue(&["localhost"]).write(&folder, "server");
    let text = config(upstream(flooded.clone()), "heartbeat = \"off\"", SETTINGS);
    let tls = format!("\"127.0.0.1:0\"\ntls = {{ certificate = {certificate:?}, key = {key:?} }}\n");
    let gateway = Gateway::start_in(folder, &text.replacen("\"127.0.0.1:0\"\n", &tls, 1), "exec \"$0\" \"$@\"");
    let client = authority.client(None);
    let open = |path: &str| {
        let mut peer = tls::connect(gateway.address(), "localhost", &client).expect("TLS");
        peer.write(request(path, "").as_bytes());
        assert!(peer.head().starts_with("HTTP/1.1 101 "));
        peer
    };
    let mut honest = Honest(open("/"));
    // Every worker pays for its first TLS.
    (0..10).for_each(|_| Honest(open("/")).echo());
    let before = gateway.resident();
    let mut stopped: Vec<_> = (0..STOPPED).map(|_| open("/flood")).collect();
    for peer in &mut stopped {
        peer.write(&masked(TEXT, b"begin"));
    }
    let sent = stands_still("the upstreams are held back", &mut honest, || flooded.load(Ordering::SeqCst));
    assert!(sent < STOPPED * TAKEN_MAX, "held back, not buffered: {sent}");
    bounded(&gateway, before);
}

#[test]
fn upstreams_that_read_nothing_cost_little() {
    let gateway = start(&Arc::default());
    let mut honest = Honest::open(&gateway);
    let before = gateway.resident();
    let stopped: Vec<_> = (0..STOPPED).map(|_| Peer::open(gateway.address(), "/deaf")).collect();
    thread::scope(|scope| {
        for peer in &stopped {
            scope.spawn(|| {
                let taken = send_until_refused(peer.stream());
                assert!(taken < TAKEN_MAX, "held back, not buffered: {taken}");
            });
        }
        honest.echo();
    });
    honest.echo();
    bounded(&gateway, before);
    Honest::open(&gateway);
}

/// Sends messages until none is taken for a while; how many bytes were.
fn send_until_refused(mut stream: &TcpStream) -> u64 {
    stream.set_write_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let frame = masked(BINARY, &vec![0x5a; PIECE]);
    let mut taken = 0;
    while taken < OFFERED {
        match stream.write(&frame[(taken % frame.len() as u64) as usize..]) {
            Ok(n) => taken += n as u64,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(error) => panic!("the session broke: {error}"),
        }
    }
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    taken
}
