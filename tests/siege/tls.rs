//! On TLS: handshakes that never end, garbage behind one that did, keys that are changed without end.

use std::io::Write;
use std::time::Duration;

use crate::camp::{self, Bounds, MIB, NO_LIMITS, Siege, scale};
use crate::support::client::{Peer, request};
use crate::support::gateway::{Gateway, config, folder};
use crate::support::http::status;
use crate::support::tls::{self, Authority, Stream};

/// A gateway that echoes on its first listener, and over TLS on its second.
fn start(authority: &Authority) -> Gateway {
    let folder = folder();
    let (certificate, key) = authority.issue(&["localhost"]).write(&folder, "server");
    let secure = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\ntls_timeout = \"2s\"\n\
         tls = {{ certificate = {certificate:?}, key = {key:?} }}\n"
    );
    Gateway::start_in(folder, &config(camp::echo(), "", &format!("{secure}{NO_LIMITS}")), "exec \"$0\" \"$@\"")
}

fn open(siege: &Siege, authority: &Authority) -> Peer {
    let mut peer = tls::connect(siege.gateway.addresses()[1], "localhost", &authority.client(None)).expect("TLS");
    peer.write(request("/", "").as_bytes());
    assert_eq!(status(&peer.head()), 101);
    peer
}

#[test]
fn slow_tls_handshakes() {
    let authority = Authority::new("siege");
    let count = scale(200, 3_000);
    let bounds = Bounds { memory: count * 48 * 1024 + 4 * MIB, time: Duration::from_secs(60) };
    Siege::around("slow TLS handshakes", || start(&authority)).attack(&bounds, |siege| {
        let address = siege.gateway.addresses()[1];
        let mut slow: Vec<Peer> = (0..count).map(|_| Peer::connect(address)).collect();
        // The beginning of a ClientHello of 512 bytes.
        let hello = [&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 200]].concat();
        for byte in hello.chunks(1).take(40) {
            for peer in &mut slow {
                let _ = peer.try_write(byte);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        open(siege, &authority);
        slow.iter_mut().for_each(|peer| assert!(peer.rest().len() < 100, "at most an alert"));
    });
}

#[test]
fn garbage_behind_a_tls_handshake() {
    let authority = Authority::new("siege");
    let count = scale(40, 400);
    let bounds = Bounds { memory: 12 * MIB, time: Duration::from_secs(60) };
    let rows: [(&str, Vec<u8>); 5] = [
        ("zeros", vec![0; 1 << 16]),
        ("a record that does not decrypt", [&[23, 3, 3, 0x10, 0][..], &[0x5a; 4096]].concat()),
        ("a thousand empty records", [23, 3, 3, 0, 0].repeat(1_000)),
        ("another handshake", [&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 506]].concat()),
        ("warnings without end", [21, 3, 3, 0, 2, 1, 0].repeat(1_000)),
    ];
    Siege::around("garbage behind a TLS handshake", || start(&authority)).attack(&bounds, |siege| {
        for n in 0..count {
            let (name, garbage) = &rows[n % rows.len()];
            let mut peer = open(siege, &authority);
            let mut socket = peer.stream();
            let _ = socket.write_all(garbage);
            let Stream::Client(stream) = peer.tls() else { unreachable!("a client") };
            let mut scrap = Vec::new();
            // An alert, a Close, or a reset: it ends.
            let _ = std::io::Read::read_to_end(stream, &mut scrap);
            assert!(scrap.len() < 200, "{name}: {} bytes", scrap.len());
        }
    });
}

/// The renegotiation of TLS 1.3: each update makes the other side compute new keys.
#[test]
fn keys_that_are_changed_without_end() {
    let authority = Authority::new("siege");
    let updates = scale(5_000, 100_000);
    let bounds = Bounds { memory: 8 * MIB, time: Duration::from_secs(60) };
    Siege::around("key updates", || start(&authority)).attack(&bounds, |siege| {
        let mut peer = open(siege, &authority);
        let Stream::Client(stream) = peer.tls() else { unreachable!("a client") };
        for _ in 0..updates {
            stream.conn.refresh_traffic_keys().expect("TLS 1.3");
            if stream.flush().is_err() {
                return;
            }
        }
        // It was borne, so it still works.
        camp::say(&mut peer, b"under new keys");
    });
}
