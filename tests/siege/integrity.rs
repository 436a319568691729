//! Integrity under load: numbered and checked messages of all sizes in fragments of all sizes, with pings between and clients
//! that abort; over ws and wss. Nothing is corrupted, lost, doubled or reordered.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use crate::camp::{self, Bounds, MIB, NO_LIMITS, Siege, scale};
use crate::support::client::{BINARY, CLOSE, PING, PONG, Peer, header, request};
use crate::support::dice::{Dice, message};
use crate::support::gateway::{Gateway, config, folder};
use crate::support::tls::{self, Authority};

const MESSAGE_MAX: usize = 256 * 1024;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Small ones mostly, none and the largest too.
fn size(dice: &mut Dice) -> usize {
    match dice.below(20) {
        0 => 0,
        1 => MESSAGE_MAX,
        2..5 => dice.below(MESSAGE_MAX),
        _ => dice.below(2_000),
    }
}

/// The frames of a message, cut at random, with pings between some of them. Returns how many pings there are.
fn frames(message: &[u8], dice: &mut Dice) -> (Vec<u8>, usize) {
    let (mut bytes, mut pings, mut at) = (Vec::new(), 0, 0);
    let mut first = BINARY;
    loop {
        let length = match dice.below(4) {
            0 => dice.below(message.len() - at + 1),
            _ => message.len() - at,
        };
        let last = at + length == message.len();
        push(&mut bytes, if last { 0x80 | first } else { first }, &message[at..at + length]);
        (at, first) = (at + length, 0);
        if last {
            return (bytes, pings);
        }
        if dice.below(2) == 0 {
            push(&mut bytes, 0x80 | PING, b"between");
            pings += 1;
        }
    }
}

fn push(bytes: &mut Vec<u8>, first: u8, payload: &[u8]) {
    bytes.extend_from_slice(&header(first, true, payload.len() as u64));
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// The next message, and how many pongs came before its end.
fn receive(peer: &mut Peer) -> (Vec<u8>, usize) {
    let (mut message, mut pongs) = (Vec::new(), 0);
    loop {
        let frame = peer.frame();
        match frame.opcode {
            PONG => {
                assert_eq!(frame.payload, b"between");
                pongs += 1;
            }
            PING => push_to(peer, 0x80 | PONG, &frame.payload),
            0 | BINARY => {
                message.extend_from_slice(&frame.payload);
                if frame.fin {
                    return (message, pongs);
                }
            }
            _ => panic!("{frame:?}"),
        }
    }
}

fn push_to(peer: &mut Peer, first: u8, payload: &[u8]) {
    let mut bytes = Vec::new();
    push(&mut bytes, first, payload);
    peer.write(&bytes);
}

/// One client: sessions one after the other, each ended in its way after a while. Returns how many messages came back.
fn client(number: u64, rounds: u64, open: impl Fn() -> Peer) -> u64 {
    let mut dice = Dice(number);
    let mut peer = open();
    let (mut sent, mut pongs, mut pings) = (0, 0, 0);
    for round in 0..rounds {
        // Several small ones are under way at once, and one large one by itself.
        let sizes: Vec<usize> = (0..1 + dice.below(4)).map(|_| size(&mut dice)).collect();
        let sizes = if sizes.iter().sum::<usize>() > 32 * 1024 { &sizes[..1] } else { &sizes[..] };
        let messages: Vec<_> = sizes.iter().zip(sent..).map(|(size, n)| message(number, n, *size)).collect();
        for message in &messages {
            let (bytes, more) = frames(message, &mut dice);
            pings += more;
            peer.write(&bytes);
        }
        for (message, n) in messages.iter().zip(sent..) {
            let (back, more) = receive(&mut peer);
            pongs += more;
            assert!(back == *message, "session {number}: message {n} of {} came as {}", message.len(), back.len());
        }
        sent += messages.len() as u64;
        if round + 1 < rounds && dice.below(10) == 0 {
            // Newer pings may take the place of those that could not be answered yet (RFC 6455 section 5.5.3).
            assert!(pongs <= pings, "{pongs} pongs for {pings} pings");
            (pongs, pings) = (0, 0);
            leave(peer, &mut dice);
            peer = open();
        }
    }
    push_to(&mut peer, 0x80 | CLOSE, &1000_u16.to_be_bytes());
    loop {
        match peer.frame() {
            frame if frame.opcode == CLOSE => {
                assert_eq!(frame.close().0, 1000);
                return sent;
            }
            frame => assert!(frame.opcode == PONG, "nothing is doubled: {frame:?}"),
        }
    }
}

/// In good order, by a reset, or in the middle of a message.
fn leave(mut peer: Peer, dice: &mut Dice) {
    match dice.below(3) {
        0 => push_to(&mut peer, 0x80 | CLOSE, &1001_u16.to_be_bytes()),
        1 => peer.reset(),
        _ => {
            let (bytes, _) = frames(&message(0, 0, 10_000), dice);
            let _ = peer.try_write(&bytes[..bytes.len() / 2]);
        }
    }
}

#[test]
fn every_message_comes_back_as_it_was_sent() {
    let clients = scale(60, 500);
    let rounds = scale(15, 60);
    let authority = Authority::new("integrity");
    let tls_client = authority.client(None);
    let start = || {
        let folder = folder();
        let (certificate, key) = authority.issue(&["localhost"]).write(&folder, "server");
        let secure = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = {{ certificate = {certificate:?}, key = {key:?} }}\n"
        );
        let route = "limits = { control_per_session = \"off\" }";
        Gateway::start_in(folder, &config(camp::echo(), route, &format!("{secure}{NO_LIMITS}")), "exec \"$0\" \"$@\"")
    };
    let bounds = Bounds { memory: clients * 96 * 1024 + 16 * MIB, time: Duration::from_secs(280) };
    Siege::around("integrity over ws and wss", start).attack(&bounds, |siege| {
        let [plain, secure]: [SocketAddr; 2] = siege.gateway.addresses().try_into().expect("two listeners");
        let messages: u64 = thread::scope(|scope| {
            let threads: Vec<_> = (0..clients)
                .map(|number| {
                    let tls_client = &tls_client;
                    let open = move || match number % 2 {
                        0 => Peer::open(plain, "/"),
                        _ => {
                            let mut peer = tls::connect(secure, "localhost", tls_client).expect("TLS");
                            peer.write(request("/", "").as_bytes());
                            assert!(peer.head().starts_with("HTTP/1.1 101 "));
                            peer
                        }
                    };
                    scope.spawn(move || client(number, rounds, open))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("nothing is wrong")).sum()
        });
        eprintln!("  {messages} messages came back to {clients} clients");
        assert!(messages > clients * rounds, "{messages}");
    });
}
