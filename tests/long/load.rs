//! Who uses the gateway during the run: one thread each, until they are told to stop. Whatever comes back otherwise than it
//! was sent, lost, doubled or out of its turn, ends the run.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use crate::support::client::{BINARY, CLOSE, Frame, PING, PONG, Peer, TEXT, close_payload, header, masked, request};
use crate::support::dice::{Dice, message};
use crate::support::http::status;
use crate::support::tls;

/// Where the gateway is, and what all of them share.
pub struct World {
    pub plain: SocketAddr,
    pub secure: SocketAddr,
    pub trust: ClientConfig,
    pub stop: AtomicBool,
    pub counts: Counts,
}

/// What was done.
#[derive(Default)]
pub struct Counts {
    /// Messages that came back, or were heard, as they were sent.
    pub messages: AtomicU64,
    pub sessions: AtomicU64,
    pub requests: AtomicU64,
    pub events: AtomicU64,
    /// Sessions that a drain ended (1012), and those that lost their server (1011). All of them came back.
    pub moved: AtomicU64,
    pub bereft: AtomicU64,
    /// Messages that were under way then.
    pub crossed: AtomicU64,
    pub lost: AtomicU64,
    /// Handshakes that were answered with 502 then.
    pub refused: AtomicU64,
}

impl World {
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Sleeps, but not beyond the end.
    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.stopped() && Instant::now() < until {
            thread::sleep(until.saturating_duration_since(Instant::now()).min(Duration::from_millis(100)));
        }
    }

    fn connect(&self, secure: bool) -> Peer {
        match secure {
            false => Peer::connect(self.plain),
            true => tls::connect(self.secure, "localhost", &self.trust).expect("no TLS handshake fails"),
        }
    }

    /// A session of the client with this number, which a proxy in front of the gateway would name. Those who come back all
    /// at once when a server was killed may find the budget of retries used up (502): they come again.
    fn open(&self, secure: bool, path: &str, client: u32) -> Peer {
        for _ in 0..20 {
            let mut peer = self.connect(secure);
            peer.write(request(path, &forwarded(client)).as_bytes());
            let head = peer.head();
            if status(&head) == 101 {
                add(&self.counts.sessions, 1);
                return peer;
            }
            assert_eq!((status(&head), path), (502, "/pool"), "{head}");
            add(&self.counts.refused, 1);
            thread::sleep(Duration::from_millis(200));
        }
        panic!("no session at {path} after twenty tries");
    }
}

fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

fn forwarded(client: u32) -> String {
    format!("X-Forwarded-For: {}\r\n", std::net::Ipv4Addr::from(0x0a00_0000 | client))
}

/// A client of an echo. Each of its sessions has numbers of its own.
struct Echo<'a> {
    world: &'a World,
    peer: Peer,
    session: u64,
    sent: u64,
    size: usize,
    /// Pings without a pong yet: newer ones may take their place (RFC 6455 section 5.5.3).
    pings: u64,
}

/// What a round came to.
enum Round {
    Whole,
    /// The session was ended, with this code, and so many were not answered.
    Ended(u16, u64),
}

impl<'a> Echo<'a> {
    fn new(world: &'a World, peer: Peer, size: usize) -> Echo<'a> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let session = NUMBER.fetch_add(1, Ordering::Relaxed);
        Echo { world, peer, session, sent: 0, size, pings: 0 }
    }

    /// So many at once, a ping between them, and all of them back.
    fn round(&mut self, count: u64) -> Round {
        let messages: Vec<_> = (0..count).map(|n| message(self.session, self.sent + n, self.size)).collect();
        for (n, message) in messages.iter().enumerate() {
            if n == 1 && self.peer.try_write(&masked(PING, b"between")).is_ok() {
                self.pings += 1;
            }
            // In two frames, now and then.
            let written = match (self.sent + n as u64) % 3 {
                0 => self.peer.try_write(&fragments(message)),
                _ => self.peer.try_write(&masked(BINARY, message)),
            };
            if written.is_err() {
                break;
            }
        }
        for (n, message) in (self.sent..).zip(&messages) {
            match self.receive() {
                Ok(back) => assert!(back == *message, "session {}: {n} came as {} bytes", self.session, back.len()),
                Err(code) => return Round::Ended(code, self.sent + count - n),
            }
            add(&self.world.counts.messages, 1);
        }
        self.sent += count;
        Round::Whole
    }

    /// The code with which the session was ended while nobody looked.
    fn ended_meanwhile(&mut self) -> Option<u16> {
        while self.peer.has_more() {
            match self.peer.frame() {
                frame if frame.opcode == PING => drop(self.peer.try_write(&masked(PONG, &frame.payload))),
                frame if frame.opcode == CLOSE => return Some(self.answer(&frame)),
                frame => panic!("nobody asked for {frame:?}"),
            }
        }
        None
    }

    /// Answers a Close, behind which nothing comes.
    fn answer(&mut self, close: &Frame) -> u16 {
        let _ = self.peer.try_write(&masked(CLOSE, &close.payload));
        assert!(self.peer.rest().is_empty(), "behind a Close");
        close.close().0
    }

    /// The next message, or the code with which the session was ended.
    fn receive(&mut self) -> Result<Vec<u8>, u16> {
        let mut message = Vec::new();
        loop {
            let frame =
                self.peer.whole_frame().unwrap_or_else(|| panic!("session {} ends without a Close", self.session));
            match frame.opcode {
                PING => drop(self.peer.try_write(&masked(PONG, &frame.payload))),
                PONG => self.pong(&frame),
                CLOSE => return Err(self.answer(&frame)),
                _ => {
                    message.extend_from_slice(&frame.payload);
                    if frame.fin {
                        return Ok(message);
                    }
                }
            }
        }
    }

    fn pong(&mut self, frame: &Frame) {
        assert!(frame.payload == b"between" && self.pings > 0, "a pong to nothing: {frame:?}");
        self.pings -= 1;
    }

    /// In good order, and nothing came twice.
    fn leave(mut self) {
        self.peer.write(&masked(CLOSE, &close_payload(1000, "")));
        match self.receive() {
            Err(code) => assert!([1000, 1011, 1012].contains(&code), "session {}: {code}", self.session),
            Ok(message) => panic!("session {}: {} bytes more than were sent", self.session, message.len()),
        }
    }
}

/// A message in two frames.
fn fragments(message: &[u8]) -> Vec<u8> {
    let (first, second) = message.split_at(message.len() / 2);
    let [mut one, mut two] = [masked(BINARY, first), masked(0, second)];
    one[0] &= 0x7f;
    one.append(&mut two);
    one
}

/// A session that lives from the beginning to the end, and loses nothing.
pub fn steady(world: &World, client: u32) {
    const SIZES: [usize; 4] = [64, 2_000, 16 * 1024, 200 * 1024];
    let size = SIZES[client as usize / 2 % SIZES.len()];
    let peer = world.open(client % 2 == 1, "/steady", client);
    let mut echo = Echo::new(world, peer, size);
    let (count, pause) = if size > 100_000 { (1, 2_000) } else { (3, 600) };
    while !world.stopped() {
        if let Round::Ended(code, _) = echo.round(count) {
            panic!("a session that nobody drained was ended with {code}");
        }
        world.pause(Duration::from_millis(pause));
    }
    echo.leave();
}

/// Sessions whose servers are drained and killed: they come back, and lose only what was under way when they were ended.
pub fn moving(world: &World, client: u32) {
    let mut dice = Dice(client.into());
    while !world.stopped() {
        let peer = world.open(client % 2 == 1, "/pool", client);
        let mut echo = Echo::new(world, peer, 40 << dice.below(12));
        let ended = loop {
            if let Some(code) = echo.ended_meanwhile() {
                break Some((code, 0));
            }
            match echo.round(3) {
                Round::Ended(code, unanswered) => break Some((code, unanswered)),
                Round::Whole if world.stopped() => break None,
                Round::Whole => world.pause(Duration::from_millis(300)),
            }
        };
        match ended {
            None => echo.leave(),
            Some((code, unanswered)) => {
                let counts = &world.counts;
                let (sessions, messages) = match code {
                    1012 => (&counts.moved, &counts.crossed),
                    1011 => (&counts.bereft, &counts.lost),
                    _ => panic!("ended with {code}"),
                };
                add(sessions, 1);
                add(messages, unanswered);
            }
        }
    }
}

/// Many that say something every half a minute, and are pinged before.
pub fn quiet(world: &World, sessions: u32) {
    let open = |n| Echo::new(world, world.open(n % 4 == 0, "/quiet", 0x0100_0000 + n), 30);
    let mut echoes: Vec<_> = (0..sessions).map(open).collect();
    let mut next = Instant::now();
    while !world.stopped() {
        for echo in &mut echoes {
            if let Round::Ended(code, _) = echo.round(1) {
                panic!("a quiet session was ended with {code}");
            }
            if world.stopped() {
                break;
            }
            next += Duration::from_secs(30) / sessions;
            world.pause(next.saturating_duration_since(Instant::now()));
        }
    }
    echoes.into_iter().for_each(Echo::leave);
}

/// A member of a chat: hears what each says once and in its order.
pub fn member(world: &World, client: u32) {
    let mut peer = world.open(client % 2 == 1, "/chat", client);
    let mut heard: HashMap<u64, u64> = HashMap::new();
    let mut said = 0;
    while !world.stopped() {
        peer.write(&masked(TEXT, format!("{client} {said}").as_bytes()));
        said += 1;
        // What the others say meanwhile waits in the sockets.
        while heard.get(&u64::from(client)) != Some(&(said - 1)) {
            let frame = peer.frame();
            match frame.opcode {
                PING => peer.write(&masked(PONG, &frame.payload)),
                TEXT => add(&world.counts.messages, hear(&frame.payload, &mut heard).into()),
                _ => panic!("{frame:?}"),
            }
        }
        world.pause(Duration::from_millis(1_200));
    }
    peer.write(&masked(CLOSE, &close_payload(1000, "")));
    peer.rest();
}

/// Whether it is what somebody says, which has to be the next of theirs.
fn hear(event: &[u8], heard: &mut HashMap<u64, u64>) -> bool {
    let event: serde_json::Value = serde_json::from_slice(event).expect("JSON");
    if event["type"] != "chat-message" {
        return false;
    }
    let (from, number) = event["message"].as_str().and_then(|text| text.split_once(' ')).expect("two numbers");
    let (from, number): (u64, u64) = (from.parse().expect("one"), number.parse().expect("two"));
    // A newcomer hears others from where they are.
    let last = heard.insert(from, number);
    assert!(last.is_none_or(|last| last + 1 == number), "{number} of {from} after {last:?}");
    true
}

/// Short sessions of ever other clients, which leave in every way.
pub fn churn(world: &World, number: u32) {
    let mut dice = Dice(u64::from(number) << 40);
    while !world.stopped() {
        let client = 0x0200_0000 + dice.below(1 << 20) as u32;
        let peer = world.open(dice.below(4) == 0, "/pool", client);
        let mut echo = Echo::new(world, peer, dice.below(3_000) + 16);
        if let Round::Whole = echo.round(1) {
            match dice.below(4) {
                0 => echo.peer.reset(),
                1 => {
                    let bytes = masked(BINARY, &[7; 5_000]);
                    let _ = echo.peer.try_write(&bytes[..bytes.len() / 2]);
                }
                _ => echo.leave(),
            }
        }
        world.pause(Duration::from_millis(60 + dice.below(120) as u64));
    }
}

/// Requests of plain HTTP, several on a connection, and polls that open Socket.IO sessions.
pub fn pages(world: &World, number: u32) {
    let mut polls = 0;
    while !world.stopped() {
        let mut peer = world.connect(number % 2 == 1);
        for turn in 0..20 {
            let forwarded = forwarded(0x0300_0000 + number);
            let (path, expected) = match turn % 4 {
                0 => {
                    polls += 1;
                    (format!("/plain/socket.io/?EIO=4&transport=polling&n={number}-{polls}"), None)
                }
                1 => (format!("/plain/socket.io/?EIO=4&transport=polling&sid={number}-{polls}"), Some(2)),
                _ => ("/plain/page".to_owned(), Some(crate::upstream::PAGE)),
            };
            peer.write(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{forwarded}\r\n").as_bytes());
            let head = peer.head();
            assert_eq!(status(&head), 200, "{head}");
            let length = crate::support::upstream::field(&head, "content-length").and_then(|text| text.parse().ok());
            let body = peer.bytes(length.expect("a length"));
            assert!(expected.is_none_or(|length| body.len() == length), "{path}: {} bytes", body.len());
            add(&world.counts.requests, 1);
            world.pause(Duration::from_millis(250));
            if world.stopped() {
                break;
            }
        }
    }
}

/// Streams of server-sent events, left and opened again.
pub fn events(world: &World, number: u32) {
    while !world.stopped() {
        let mut peer = world.connect(number % 2 == 1);
        let forwarded = forwarded(0x0300_1000 + number);
        peer.write(format!("GET /plain/events HTTP/1.1\r\nHost: localhost\r\n{forwarded}\r\n").as_bytes());
        assert_eq!(status(&peer.head()), 200);
        for event in 0..60 {
            let chunk = peer.chunk().expect("it goes on");
            assert_eq!(chunk, format!("data: {event}\n\n").as_bytes());
            add(&world.counts.events, 1);
            if world.stopped() {
                return;
            }
        }
    }
}

/// Peers that keep no rule, one after the other, each held for a while.
pub fn rude(world: &World) {
    let mut dice = Dice(99);
    let mut held: Vec<Peer> = Vec::new();
    for turn in 0.. {
        if world.stopped() {
            return;
        }
        let client = 0x0400_0000 + dice.below(1 << 20) as u32;
        match turn % 6 {
            // Reads nothing of what comes without end.
            0 => held.push(world.open(false, "/flood", client)),
            // Answers no ping.
            1 => held.push(world.open(turn % 4 == 1, "/zombie", client)),
            // Half a head, half a TLS handshake.
            2 => {
                let mut peer = Peer::connect(world.plain);
                let _ = peer.try_write(b"GET / HTTP/1.1\r\nHost: local");
                held.push(peer);
            }
            3 => {
                let mut peer = Peer::connect(world.secure);
                let _ = peer.try_write(&[0x16, 3, 1, 2, 0, 1, 0]);
                held.push(peer);
            }
            4 => {
                let mut peer = world.open(turn % 4 == 0, "/small", client);
                let _ = peer.try_write(&[&header(0x80 | BINARY, true, 1 << 20)[..], b"mask"].concat());
                assert_eq!(peer.frame().close().0, 1009, "too big");
            }
            _ => {
                let mut peer = world.open(false, "/small", client);
                peer.write(&crate::support::client::unmasked(TEXT, b"not masked"));
                assert_eq!(peer.frame().close().0, 1002, "not masked");
            }
        }
        if held.len() > 12 {
            held.remove(0);
        }
        world.pause(Duration::from_millis(700));
    }
}
