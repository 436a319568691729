//! After the upgrade: peers that fall silent, that never read, and frames that are meant to exhaust.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::camp::{self, Bounds, Count, MIB, NO_LIMITS, Siege, scale};
use crate::support::client::{BINARY, PING, PONG, Peer, TEXT, header, masked, unmasked};
use crate::support::eventually;
use crate::support::gateway::{Gateway, config};
use crate::support::upstream::{serve, switching};

const PIECE: usize = 64 * 1024;

/// How often the gateway has ended a session for this cause.
fn ended(siege: &Siege, cause: &str) -> usize {
    siege.gateway.output().matches(&format!("cause=\"{cause}\"")).count()
}

/// They answer no ping, as a phone does that lost its network.
#[test]
fn zombies() {
    let count = scale(200, 4_000);
    let bounds = Bounds { memory: count as u64 * 16 * 1024 + 2 * MIB, time: Duration::from_secs(60) };
    let heartbeat = "heartbeat = { interval = \"1s\", timeout = \"1s\" }";
    Siege::lay("zombies", heartbeat, "").attack(&bounds, |siege| {
        let before = ended(siege, "client_lost");
        let zombies: Vec<Peer> = (0..count).map(|_| Peer::open(siege.address(), "/")).collect();
        eventually("all are noticed", || ended(siege, "client_lost") >= before + count);
        zombies
    });
}

/// An upstream that floods on `/flood` once it was spoken to, never reads on `/deaf`, and echoes elsewhere.
fn flooding(offered: u64, sent: &Count) -> Gateway {
    let sent = sent.clone();
    let upstream = serve(move |mut peer| {
        let Some(head) = peer.try_head() else { return };
        if peer.try_write(switching(&head, "").as_bytes()).is_err() {
            return;
        }
        if head.starts_with("GET /flood ") && peer.whole_frame().is_some() {
            let frame = unmasked(BINARY, &vec![0x5a; PIECE]);
            for _ in 0..offered / PIECE as u64 {
                if peer.try_write(&frame).is_err() {
                    return;
                }
                sent.fetch_add(PIECE as u64, Ordering::SeqCst);
            }
        } else if head.starts_with("GET /deaf ") {
            thread::sleep(Duration::from_secs(60));
        } else {
            camp::give_back(&mut peer);
        }
    });
    // They stand still for the whole case, and are noticed soon after it.
    Gateway::start(&config(upstream, "heartbeat = \"off\"\nslow_timeout = \"4s\"", NO_LIMITS))
}

/// Until a figure that only grows has stopped to.
fn stands_still(what: &str, figure: &AtomicU64) {
    eventually(what, || {
        let before = figure.load(Ordering::SeqCst);
        thread::sleep(Duration::from_millis(500));
        before > 0 && figure.load(Ordering::SeqCst) == before
    });
}

#[test]
fn readers_that_stop_while_a_gibibyte_comes() {
    let count = scale(20, 200);
    let bounds = Bounds { memory: count * 128 * 1024 + 4 * MIB, time: Duration::from_secs(60) };
    let sent = Count::default();
    Siege::around("stopped readers", || flooding(1 << 30, &sent)).attack(&bounds, |siege| {
        let mut stopped: Vec<Peer> = (0..count).map(|_| Peer::open(siege.address(), "/flood")).collect();
        for peer in &mut stopped {
            peer.write(&masked(TEXT, b"begin"));
        }
        stands_still("the upstreams are held back", &sent);
        assert!(sent.load(Ordering::SeqCst) < count * 24 * MIB, "held back, not buffered");
        stopped
    });
}

/// Sends until no more is taken, at most 24 MiB.
fn fill(peer: &mut Peer, frame: &[u8]) {
    let most = 24 * MIB as usize / PIECE;
    peer.stream().set_write_timeout(Some(Duration::from_millis(50))).expect("a timeout");
    let taken = (0..most).take_while(|_| peer.try_write(frame).is_ok()).count();
    assert!(taken < most, "held back, not buffered");
}

#[test]
fn upstreams_that_stop_while_clients_send() {
    let count = scale(20, 200);
    let bounds = Bounds { memory: count * 128 * 1024 + 4 * MIB, time: Duration::from_secs(60) };
    Siege::around("stopped upstreams", || flooding(0, &Count::default())).attack(&bounds, |siege| {
        let mut clients: Vec<Peer> = (0..count).map(|_| Peer::open(siege.address(), "/deaf")).collect();
        let frame = masked(BINARY, &vec![0x5a; PIECE]);
        thread::scope(|scope| {
            for some in clients.chunks_mut(25) {
                scope.spawn(|| some.iter_mut().for_each(|peer| fill(peer, &frame)));
            }
        });
        clients
    });
}

#[test]
fn pings_that_are_never_read() {
    let pings = 200_000;
    let bounds = Bounds { memory: 4 * MIB, time: Duration::from_secs(60) };
    for (name, route, unlimited) in [
        ("pings that nobody reads, as many as come", "limits = { control_per_session = \"off\" }", true),
        ("pings that nobody reads, at the rate that is allowed", "", false),
    ] {
        Siege::lay(name, route, "").attack(&bounds, |siege| {
            let mut peers: Vec<Peer> = (0..4).map(|_| Peer::open(siege.address(), "/")).collect();
            let flood = masked(PING, &[b'p'; 125]).repeat(100);
            for peer in &mut peers {
                peer.stream().set_write_timeout(Some(Duration::from_millis(100))).expect("a timeout");
                let all = pings / 100 / 4;
                let taken = (0..all).take_while(|_| peer.try_write(&flood).is_ok()).count();
                assert_eq!(taken == all, unlimited, "{taken} of {all} hundred: held back by the rate alone");
            }
            peers
        });
    }
}

#[test]
fn a_message_of_a_million_fragments() {
    let fragments = scale(100_000, 1_000_000);
    let bounds = Bounds { memory: 4 * MIB, time: Duration::from_secs(120) };
    let begun = Arc::new(AtomicU64::new(0));
    let seen = begun.clone();
    // Counts fragments, and says how many they were at the end of the message.
    let counting = serve(move |mut peer| {
        let Some(head) = peer.try_head() else { return };
        if peer.try_write(switching(&head, "").as_bytes()).is_err() {
            return;
        }
        if !head.starts_with("GET /count ") {
            return camp::give_back(&mut peer);
        }
        let mut fragments = 0_u64;
        while let Some(frame) = peer.whole_frame() {
            fragments += 1;
            seen.fetch_add(1, Ordering::SeqCst);
            if frame.fin {
                let _ = peer.try_write(&unmasked(TEXT, fragments.to_string().as_bytes()));
            }
        }
    });
    let text = config(counting, "", NO_LIMITS);
    Siege::around("a million fragments", || Gateway::start(&text)).attack(&bounds, |siege| {
        let mut peer = Peer::open(siege.address(), "/count");
        let fragment = |first: u8| [&header(first, true, 1)[..], &[0, 0, 0, 0, b'x']].concat();
        peer.write(&fragment(BINARY));
        let middle = fragment(0).repeat(1_000);
        for _ in 0..fragments / 1_000 - 1 {
            peer.write(&middle);
        }
        peer.write(&fragment(0).repeat(998));
        peer.write(&fragment(0x80));
        let answer = loop {
            match peer.frame() {
                frame if frame.opcode == PING => peer.write(&masked(PONG, &frame.payload)),
                frame => break frame.payload,
            }
        };
        assert_eq!(String::from_utf8_lossy(&answer), fragments.to_string());
    });
    // The same where a route has a bound on them.
    Siege::lay("too many fragments", "fragments_max = 1000", "").attack(&bounds, |siege| {
        let mut peer = Peer::open(siege.address(), "/");
        let fragment = |first: u8| [&header(first, true, 1)[..], &[0, 0, 0, 0, b'x']].concat();
        let _ = peer.try_write(&[fragment(BINARY), fragment(0).repeat(5_000)].concat());
        let last = std::iter::from_fn(|| peer.whole_frame()).find(|frame| frame.opcode == 8);
        assert_eq!(last.expect("a Close").close().0, 1009);
    });
    assert!(begun.load(Ordering::SeqCst) >= fragments as u64);
}

/// Ten GiB by its header, and then a byte now and then: it is forwarded while it arrives, and has to move on.
#[test]
fn a_frame_of_ten_gibibytes_that_dribbles() {
    let bounds = Bounds { memory: 4 * MIB, time: Duration::from_secs(60) };
    let route = "frame_bytes_max = \"off\"\nmessage_bytes_max = \"off\"\nframe_timeout = \"2s\"";
    Siege::lay("a frame that dribbles", route, "").attack(&bounds, |siege| {
        let before = ended(siege, "client_lost");
        let mut peers: Vec<Peer> = (0..scale(50, 500)).map(|_| Peer::open(siege.address(), "/")).collect();
        for peer in &mut peers {
            peer.write(&[&header(0x82, true, 10 << 30)[..], &[1, 2, 3, 4]].concat());
        }
        let began = Instant::now();
        while ended(siege, "client_lost") < before + peers.len() {
            assert!(began.elapsed() < Duration::from_secs(20), "{} ended", ended(siege, "client_lost") - before);
            for peer in &mut peers {
                let _ = peer.try_write(b"x");
            }
            thread::sleep(Duration::from_millis(50));
        }
    });
}
