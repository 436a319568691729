//! What every case shares: a gateway, what it takes at rest, honest clients, and what is asserted of all of it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::{CLOSE, PING, PONG, Peer, TEXT, masked, unmasked};
use crate::support::eventually;
use crate::support::gateway::{Gateway, config};
use crate::support::upstream::{serve, switching};

/// Limits of one client would end the load before it begins.
pub const NO_LIMITS: &str = "[limits]\nhandshakes_per_client = \"off\"\nsessions_per_client = \"off\"\n";
pub const MIB: u64 = 1024 * 1024;

/// By how much the median of what honest clients wait for may grow under attack. The attackers and the backends run on the
/// same processors, so it is not the gateway alone that is measured: what this would catch is a gateway that stands still.
const FACTOR: u32 = 100;
/// Processor time that a gateway at rest may use in [`REST`]: two ticks of the system's clock.
const RESTING: Duration = Duration::from_millis(20);
const REST: Duration = Duration::from_millis(400);

/// `short`, or `full` when the whole is asked for.
pub fn scale<T>(short: T, full: T) -> T {
    match std::env::var("TIDEGATE_SIEGE") {
        Ok(form) if form == "full" => full,
        _ => short,
    }
}

/// One case: they run one after the other, or each would measure the others.
pub struct Siege {
    name: &'static str,
    pub gateway: Gateway,
    began: Instant,
    resident: u64,
    descriptors: usize,
    quiet: Waits,
    _alone: MutexGuard<'static, ()>,
}

/// What a case may cost.
pub struct Bounds {
    /// Bytes above what it had at rest, at the peak.
    pub memory: u64,
    /// For the attack, without what stands around it.
    pub time: Duration,
}

/// How long honest clients waited.
#[derive(Debug, Default, Clone)]
struct Waits {
    echoes: Vec<Duration>,
    /// From connecting to the first echo.
    openings: Vec<Duration>,
}

impl Siege {
    /// A gateway in front of an echo, with these lines for its route and behind it.
    pub fn lay(name: &'static str, route: &str, more: &str) -> Siege {
        Siege::around(name, || Gateway::start(&config(echo(), route, &format!("{more}\n{NO_LIMITS}"))))
    }

    /// A gateway that the case starts itself. It is to echo on `/`.
    pub fn around(name: &'static str, start: impl FnOnce() -> Gateway) -> Siege {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let gateway = start();
        // The first sessions pay for what is kept: buffers of the workers, tables, the allocator's own.
        let warm: Vec<_> = (0..64).map(|_| Peer::open(gateway.address(), "/")).collect();
        drop(warm);
        let quiet = Honest::open(gateway.address()).serve_for(Duration::from_millis(400));
        let before = at_rest(&gateway, usize::MAX);
        let resident = gateway.resident();
        Siege { name, gateway, began: Instant::now(), resident, descriptors: before, quiet, _alone: alone }
    }

    pub fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    /// Runs `attack` while honest clients are served, asserts its bounds, and that all is as before when it is over.
    /// What it returns is held until then: peers that are still connected.
    pub fn attack<T>(self, bounds: &Bounds, attack: impl FnOnce(&Siege) -> T) {
        let over = AtomicBool::new(false);
        let address = self.address();
        let waits = thread::scope(|scope| {
            let honest = scope.spawn(|| Honest::open(address).serve_until(&over));
            // Ends the honest ones when the attack fails, too.
            let ended = SetWhenDropped(&over);
            let held = self.measured(bounds, attack);
            drop(ended);
            let waits = honest.join().expect("honest clients are served");
            drop(held);
            waits
        });
        for (what, now, quiet) in
            [("echo", &waits.echoes, &self.quiet.echoes), ("opening", &waits.openings, &self.quiet.openings)]
        {
            let (now, quiet, slowest) = (median(now), median(quiet), now.iter().max().expect("some"));
            eprintln!("  {what}: {now:?}, {quiet:?} when it is quiet, {slowest:?} the slowest");
            assert!(now <= quiet * FACTOR, "{}: {what} {now:?}, {quiet:?} before", self.name);
        }
        self.lifted();
    }

    /// The same without honest clients beside: where the attack leaves no place for them, which is the point of it, or
    /// brings its own.
    pub fn attack_alone<T>(self, bounds: &Bounds, attack: impl FnOnce(&Siege) -> T) {
        drop(self.measured(bounds, attack));
        self.lifted();
    }

    fn measured<T>(&self, bounds: &Bounds, attack: impl FnOnce(&Siege) -> T) -> T {
        let over = AtomicBool::new(false);
        let peak = AtomicU64::new(0);
        let (held, took) = thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    peak.fetch_max(self.gateway.resident(), Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(10));
                }
            });
            let _over = SetWhenDropped(&over);
            let began = Instant::now();
            (attack(self), began.elapsed())
        });
        let grown = peak.into_inner().saturating_sub(self.resident);
        eprintln!("\nsiege: {}: {:.1} s, {:.1} MiB", self.name, took.as_secs_f64(), grown as f64 / MIB as f64);
        assert!(grown <= bounds.memory, "{}: {grown} bytes more than at rest, {} allowed", self.name, bounds.memory);
        assert!(took <= bounds.time, "{}: took {took:?}", self.name);
        held
    }

    /// Everything that was taken has come back.
    fn lifted(self) {
        at_rest(&self.gateway, self.descriptors);
        let output = self.gateway.output();
        assert!(!output.contains("panicked"), "{}: {output}", self.name);
        Honest::open(self.address()).serve_for(Duration::from_millis(100));
        // Bounded as a whole, whatever the parts were.
        assert!(self.began.elapsed() < Duration::from_secs(400), "{}", self.name);
    }
}

struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Waits until the gateway does nothing with at most so many descriptors; returns how many it has.
fn at_rest(gateway: &Gateway, most: usize) -> usize {
    let mut open = 0;
    eventually("the gateway is at rest, and no descriptor too many is open", || {
        let (before, used) = (descriptors(gateway), gateway.processor_time());
        thread::sleep(REST);
        open = descriptors(gateway);
        open == before && open <= most && gateway.processor_time() - used <= RESTING
    });
    open
}

/// Descriptors that a gateway has open.
pub fn descriptors(gateway: &Gateway) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", gateway.process())).expect("the process lives").count()
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    *times.get(times.len() / 2).expect("some")
}

/// Clients that keep every rule: four sessions that stay, and a new one now and then.
pub struct Honest {
    address: SocketAddr,
    sessions: Vec<Peer>,
    waits: Waits,
}

impl Honest {
    pub fn open(address: SocketAddr) -> Honest {
        let sessions = (0..4).map(|_| Peer::open(address, "/")).collect();
        Honest { address, sessions, waits: Waits::default() }
    }

    fn round(&mut self) {
        for _ in 0..5 {
            for peer in &mut self.sessions {
                let began = Instant::now();
                say(peer, b"as it was sent");
                self.waits.echoes.push(began.elapsed());
            }
            thread::sleep(Duration::from_millis(2));
        }
        let began = Instant::now();
        let mut peer = Peer::open(self.address, "/");
        say(&mut peer, b"hello");
        self.waits.openings.push(began.elapsed());
        peer.write(&masked(CLOSE, &1000_u16.to_be_bytes()));
        while peer.next_frame().is_some() {}
    }

    fn leave(self) -> Waits {
        for mut peer in self.sessions {
            peer.write(&masked(CLOSE, &1000_u16.to_be_bytes()));
            while peer.next_frame().is_some() {}
        }
        self.waits
    }

    fn serve_until(mut self, over: &AtomicBool) -> Waits {
        loop {
            self.round();
            if over.load(Ordering::SeqCst) {
                return self.leave();
            }
        }
    }

    fn serve_for(mut self, time: Duration) -> Waits {
        let began = Instant::now();
        loop {
            self.round();
            if began.elapsed() > time {
                return self.leave();
            }
        }
    }
}

/// An echo, with the pings in between answered.
pub fn say(peer: &mut Peer, text: &[u8]) {
    peer.write(&masked(TEXT, text));
    loop {
        let frame = peer.frame();
        match frame.opcode {
            PING => peer.write(&masked(PONG, &frame.payload)),
            _ => {
                assert_eq!((frame.opcode, &frame.payload[..]), (TEXT, text));
                return;
            }
        }
    }
}

/// An upstream that returns every frame, and answers a Close.
pub fn echo() -> SocketAddr {
    serve(|mut peer| {
        let Some(head) = peer.try_head() else { return };
        if peer.try_write(switching(&head, "").as_bytes()).is_ok() {
            // Sessions that are held are quiet for as long as the case takes.
            peer.stream().set_read_timeout(None).expect("an option");
            give_back(&mut peer);
        }
    })
}

/// Returns every frame until the stream ends, in whatever way.
pub fn give_back(peer: &mut Peer) {
    while let Some(frame) = peer.whole_frame() {
        let mut bytes = unmasked(frame.opcode, &frame.payload);
        if !frame.fin {
            bytes[0] &= 0x7f;
        }
        if peer.try_write(&bytes).is_err() || frame.opcode == CLOSE {
            return;
        }
    }
}

/// Threads of an upstream count with this what they saw.
pub type Count = Arc<AtomicU64>;
