//! What every case shares: a gateway, what it takes at rest, honest clients, and what is asserted of all of it.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::{CLOSE, PING, PONG, Peer, TEXT, masked, unmasked};
use crate::support::gateway::{Gateway, config};
use crate::support::servers::leave;
use crate::support::upstream::{serve, switching};

/// Limits of one client would end the load before it begins.
pub const NO_LIMITS: &str = "[limits]\nhandshakes_per_client = \"off\"\nsessions_per_client = \"off\"\n";
pub const MIB: u64 = 1024 * 1024;

/// By how much the median of what honest clients wait for may grow under attack, and what it may be in any case: attackers,
/// backends and honest clients share the gateway's processors, and each of them has its turn before the answer is there.
const FACTOR: u32 = 20;
const FLOOR: Duration = Duration::from_millis(20);
/// Nobody waits for longer: the median alone would not see a gateway that stands still, for then there is one wait only.
const SLOWEST: Duration = Duration::from_secs(5);
/// Share of a processor that a gateway at rest may use.
const RESTING: f64 = 0.01;
/// How long it may take until all is as before.
const RECOVERY: Duration = Duration::from_secs(30);

/// `short`, or `full` when the whole is asked for.
pub fn scale<T>(short: T, full: T) -> T {
    match std::env::var("TIDEGATE_SIEGE") {
        Ok(form) if form == "full" => full,
        _ => short,
    }
}

/// For sessions whose other side vanishes. Two thousand clients, each a thread, may need seconds to answer a ping.
pub fn heartbeat() -> String {
    let seconds = scale(1, 4);
    format!("heartbeat = {{ interval = \"{seconds}s\", timeout = \"{seconds}s\" }}")
}

/// One case: they run one after the other, or each would measure the others.
pub struct Siege {
    name: &'static str,
    pub gateway: Gateway,
    resident: u64,
    descriptors: usize,
    quiet: Waits,
    /// Honest clients come during the attack, too, and not before it alone.
    newcomers: bool,
    _alone: MutexGuard<'static, ()>,
}

/// What a case may cost.
pub struct Bounds {
    /// Bytes above what it had at rest, at the peak.
    pub memory: u64,
    /// For the attack, without what stands around it.
    pub time: Duration,
}

/// What an attack has cost.
struct Cost {
    time: Duration,
    memory: u64,
    descriptors: usize,
    waits: Waits,
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
        let quiet = Honest::open(gateway.address(), true)
            .serve(|began| began.elapsed() > scale(Duration::from_millis(200), Duration::from_millis(400)));
        let descriptors = at_rest(&gateway, usize::MAX).descriptors;
        let resident = gateway.resident();
        Siege { name, gateway, resident, descriptors, quiet, newcomers: true, _alone: alone }
    }

    /// The attack leaves no place for newcomers, which is the point of it: the honest ones are inside already.
    pub fn closed(self) -> Siege {
        Siege { newcomers: false, ..self }
    }

    pub fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    /// Runs `attack` while honest clients are served, asserts its bounds, and that all is as before when it is over.
    /// What it returns is held until then: peers that are still connected.
    pub fn attack<T>(self, bounds: &Bounds, attack: impl FnOnce(&Siege) -> T) {
        let cost = self.measured(attack);
        // Everything that was taken comes back.
        let rest = at_rest(&self.gateway, self.descriptors);
        self.print(bounds, &cost, &rest);
        assert!(cost.memory <= bounds.memory, "{}: {} bytes, {} allowed", self.name, cost.memory, bounds.memory);
        assert!(cost.time <= bounds.time, "{}: took {:?}", self.name, cost.time);
        self.served("echo", &cost.waits.echoes, &self.quiet.echoes);
        if self.newcomers {
            self.served("opening", &cost.waits.openings, &self.quiet.openings);
        }
        let output = self.gateway.output();
        assert!(!output.contains("panicked"), "{}: {output}", self.name);
        Honest::open(self.address(), true).serve(|began| began.elapsed() > Duration::from_millis(100));
    }

    fn measured<T>(&self, attack: impl FnOnce(&Siege) -> T) -> Cost {
        let honest = Honest::open(self.address(), self.newcomers);
        let (over, left) = (AtomicBool::new(false), AtomicBool::new(false));
        let (memory, descriptors) = (AtomicU64::new(0), AtomicUsize::new(0));
        let (time, waits) = thread::scope(|scope| {
            // Either ends when the attack fails, too.
            let (over, left) = (SetWhenDropped(&over), SetWhenDropped(&left));
            let (is_over, is_left) = (over.0, left.0);
            scope.spawn(|| {
                while !is_left.load(Ordering::SeqCst) {
                    memory.fetch_max(self.gateway.resident(), Ordering::SeqCst);
                    descriptors.fetch_max(self.gateway.count("fd"), Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(20));
                }
            });
            let honest = scope.spawn(move || honest.serve(|_| is_over.load(Ordering::SeqCst)));
            let began = Instant::now();
            let held = attack(self);
            let time = began.elapsed();
            drop(over);
            let waits = honest.join().expect("honest clients are served");
            drop(held);
            drop(left);
            (time, waits)
        });
        let memory = memory.into_inner().saturating_sub(self.resident);
        Cost { time, memory, descriptors: descriptors.into_inner(), waits }
    }

    fn served(&self, what: &str, waits: &[Duration], quiet: &[Duration]) {
        let (now, quiet, slowest) = (median(waits), median(quiet), waits.iter().max().expect("some"));
        assert!(now <= FLOOR.max(quiet * FACTOR), "{}: {what} {now:?}, {quiet:?} before", self.name);
        assert!(*slowest <= SLOWEST, "{}: {what} {slowest:?} at worst", self.name);
    }

    /// A line of the table in docs/conformance.md.
    fn print(&self, bounds: &Bounds, cost: &Cost, rest: &Rest) {
        let mib = |bytes: u64| bytes as f64 / MIB as f64;
        let waits = |now: &[Duration], quiet: &[Duration]| {
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            let (median, quiet, slowest) = (ms(median(now)), ms(median(quiet)), ms(*now.iter().max().expect("some")));
            format!("{median:.2} ms, {:.1} ×, {slowest:.0} ms", median / quiet)
        };
        let openings = match self.newcomers {
            true => waits(&cost.waits.openings, &self.quiet.openings),
            false => "none can".to_owned(),
        };
        eprintln!(
            "\n| {} | {:.1} s | {:.1} of {:.0} MiB | {}, {}, {} | {:.1} % | {} | {openings} |",
            self.name,
            cost.time.as_secs_f64(),
            mib(cost.memory),
            mib(bounds.memory),
            self.descriptors,
            cost.descriptors,
            rest.descriptors,
            rest.processor * 100.0,
            waits(&cost.waits.echoes, &self.quiet.echoes),
        );
    }
}

struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A gateway that has nothing to do.
struct Rest {
    descriptors: usize,
    /// Share of one processor.
    processor: f64,
}

/// Waits until the gateway does nothing with at most so many descriptors.
fn at_rest(gateway: &Gateway, most: usize) -> Rest {
    let (began, rest) = (Instant::now(), scale(Duration::from_millis(250), Duration::from_millis(500)));
    loop {
        let (before, used) = (gateway.count("fd"), gateway.processor_time());
        thread::sleep(rest);
        let (descriptors, used) = (gateway.count("fd"), gateway.processor_time().saturating_sub(used));
        let processor = used.as_secs_f64() / rest.as_secs_f64();
        if descriptors == before && descriptors <= most && processor <= RESTING {
            return Rest { descriptors, processor };
        }
        let waited = began.elapsed();
        assert!(waited < RECOVERY, "never at rest: {descriptors} descriptors of {most}, {processor:.3} of a processor");
    }
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    *times.get(times.len() / 2).expect("some")
}

/// Clients that keep every rule: four sessions that stay, and a new one now and then.
struct Honest {
    address: SocketAddr,
    sessions: Vec<Peer>,
    newcomers: bool,
    waits: Waits,
}

impl Honest {
    fn open(address: SocketAddr, newcomers: bool) -> Honest {
        let sessions = (0..4).map(|_| Peer::open(address, "/")).collect();
        Honest { address, sessions, newcomers, waits: Waits::default() }
    }

    /// Until it is over, and ten rounds at least; what is asked knows when they began.
    fn serve(mut self, over: impl Fn(Instant) -> bool) -> Waits {
        let began = Instant::now();
        let mut rounds = 0;
        while rounds < 10 || !over(began) {
            self.round();
            rounds += 1;
        }
        self.sessions.into_iter().for_each(leave);
        self.waits
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
        if self.newcomers {
            let began = Instant::now();
            let mut peer = Peer::open(self.address, "/");
            say(&mut peer, b"hello");
            self.waits.openings.push(began.elapsed());
            leave(peer);
        }
    }
}

/// So many clients, each in a thread: once all of them are served, `trouble` begins, and each does what `then` says until it
/// returns. They come one after the other, for a rush is another case, and those that are there answer pings meanwhile.
pub fn crowd(count: usize, open: impl Fn() -> Peer + Sync, then: impl Fn(&mut Peer) + Sync, trouble: impl FnOnce()) {
    let there: Mutex<Vec<TcpStream>> = Mutex::default();
    thread::scope(|scope| {
        // When something is wrong they wait for nothing any more.
        let _hang_up = HangUp(&there);
        let client = || {
            let mut there = there.lock().unwrap_or_else(PoisonError::into_inner);
            let mut peer = open();
            say(&mut peer, b"alive");
            there.push(peer.stream().try_clone().expect("a descriptor"));
            drop(there);
            then(&mut peer);
        };
        let clients: Vec<_> = (0..count).map(|_| scope.spawn(client)).collect();
        let began = Instant::now();
        while there.lock().unwrap_or_else(PoisonError::into_inner).len() < count {
            assert!(began.elapsed() < Duration::from_secs(60) && !clients.iter().any(|c| c.is_finished()), "all stay");
            thread::sleep(Duration::from_millis(5));
        }
        trouble();
        clients.into_iter().for_each(|client| client.join().expect("as it should be"));
    });
}

struct HangUp<'a>(&'a Mutex<Vec<TcpStream>>);

impl Drop for HangUp<'_> {
    fn drop(&mut self) {
        for stream in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = stream.shutdown(Shutdown::Both);
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
