//! On TLS: handshakes that never end, garbage behind one that did, keys that are changed without end.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;

use crate::camp::{self, Bounds, MIB, NO_LIMITS, Siege, scale};
use crate::support::client::{Peer, request};
use crate::support::gateway::{Gateway, config, folder};
use crate::support::http::status;
use crate::support::tls::{self, Authority, Stream};

/// A gateway that echoes on its first listener, and over TLS on its second.
pub fn start(authority: &Authority) -> Gateway {
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
            assert!(ended(stream), "{name}");
        }
    });
}

/// Each update makes the other side compute new keys.
#[test]
fn keys_that_are_changed_without_end() {
    let authority = Authority::new("siege");
    let bounds = Bounds { memory: 8 * MIB, time: Duration::from_secs(60) };
    let storms = scale(5, 500);
    Siege::around("key updates without end", || start(&authority)).attack(&bounds, |siege| {
        for _ in 0..storms {
            let mut peer = open(siege, &authority);
            let Stream::Client(stream) = peer.tls() else { unreachable!("a client") };
            let more = |_: &usize| stream.conn.refresh_traffic_keys().is_ok() && stream.flush().is_ok();
            (0..10_000).take_while(more).count();
            assert!(ended(stream), "only so many without a message between");
        }
    });
    let updates = scale(1_000, 50_000);
    Siege::around("a key update with each message", || start(&authority)).attack(&bounds, |siege| {
        let mut peer = open(siege, &authority);
        for _ in 0..updates {
            let Stream::Client(stream) = peer.tls() else { unreachable!("a client") };
            stream.conn.refresh_traffic_keys().expect("TLS 1.3");
            camp::say(&mut peer, b"under new keys");
        }
    });
}

/// What is left to read is an alert at most, and then the end, in whatever way.
fn ended(stream: &mut impl Read) -> bool {
    let mut rest = Vec::new();
    let end = stream.read_to_end(&mut rest);
    rest.len() < 200 && end.err().is_none_or(|error| error.kind() != ErrorKind::WouldBlock)
}

/// The client's side of TLS 1.2 behind its handshake, written by hand: rustls asks for no renegotiation.
struct Renegotiating {
    key: LessSafeKey,
    salt: [u8; 4],
    sequence: u64,
    socket: TcpStream,
}

impl Renegotiating {
    fn open(siege: &Siege, authority: &Authority) -> Renegotiating {
        let mut config = authority.client_of(&[&rustls::version::TLS12]);
        config.enable_secret_extraction = true;
        let mut peer = tls::connect(siege.gateway.addresses()[1], "localhost", &config).expect("TLS 1.2");
        peer.write(request("/", "").as_bytes());
        assert_eq!(status(&peer.head()), 101);
        let Stream::Client(stream) = peer.into_stream() else { unreachable!("a client") };
        let (connection, socket) = stream.into_parts();
        let (sequence, secrets) = connection.dangerous_extract_secrets().expect("it is allowed").tx;
        let ConnectionTrafficSecrets::Aes256Gcm { key, iv } = secrets else { panic!("the first suite of rustls") };
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).expect("a key"));
        let salt = iv.as_ref()[..4].try_into().expect("four bytes");
        Renegotiating { key, salt, sequence, socket }
    }

    /// A ClientHello within the session: a record as RFC 5288 section 3 makes it.
    fn ask(&mut self) -> std::io::Result<()> {
        // No session, one suite, no compression, no extension.
        let hello = [&[1, 0, 0, 41, 3, 3][..], &[7; 32], &[0, 0, 2, 0xc0, 0x2c, 1, 0]].concat();
        let explicit = self.sequence.to_be_bytes();
        let nonce = Nonce::assume_unique_for_key([&self.salt[..], &explicit].concat().try_into().expect("12 bytes"));
        let additional = [&explicit[..], &[22, 3, 3, 0, hello.len() as u8]].concat();
        let mut sealed = hello;
        self.key.seal_in_place_append_tag(nonce, Aad::from(additional), &mut sealed).expect("it seals");
        self.sequence += 1;
        let record = [&[22, 3, 3, 0, (8 + sealed.len()) as u8][..], &explicit, &sealed].concat();
        self.socket.write_all(&record)
    }
}

#[test]
fn renegotiation_without_end() {
    let authority = Authority::new("siege");
    let bounds = Bounds { memory: 8 * MIB, time: Duration::from_secs(60) };
    let storms = scale(10, 1_000);
    Siege::around("renegotiation without end", || start(&authority)).attack(&bounds, |siege| {
        for _ in 0..storms {
            let mut client = Renegotiating::open(siege, &authority);
            // The first is refused by a warning (RFC 5246 section 7.2.2), who goes on is cut.
            (0..1_000).take_while(|_| client.ask().is_ok()).count();
            assert!(ended(&mut client.socket));
        }
    });
}
