//! Tidegate beside nginx, HAProxy and Envoy: what a message, a session, a handshake and a ping cost each of them.
//!
//! `benches/compare/run` installs the peers, builds everything and starts this. The proxies run on one processor, load and
//! backend on another; what is told is the proxies' own processor time and memory. Repetitions are interleaved
//! (A B C A B C), so that a noisy minute hits all alike, and the best one counts.

mod backend;
mod blind;
mod churn;
mod client;
mod codec;
mod loads;
mod peers;
mod plain;
mod report;
mod stopped;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use tokio::task::LocalSet;

use backend::Backend;
use blind::Blind;
use client::Target;
use loads::{Echo, Hello, OnTime, Times, until};
use peers::{Kind, Peer, Place};
use report::{Report, Unit};
use stopped::{Stopped, Who};

#[derive(Debug, Parser)]
#[command(name = "compare")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compares
    Measure(Measure),
    /// Is a relay that looks at nothing
    Relay { name: String, port: u16, backend: std::net::SocketAddr },
}

#[derive(Debug, clap::Args)]
struct Measure {
    /// What to measure; everything unless told
    #[arg(value_enum)]
    sections: Vec<Section>,
    /// About two minutes: fewer and shorter repetitions, fewer sessions
    #[arg(long)]
    quick: bool,
    /// The proxies run before everything else on their processor
    #[arg(long)]
    first: bool,
    /// Only these peers
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only this column of `ws` and `wss`; may be given again
    #[arg(long = "column")]
    columns: Vec<String>,
    /// Repetitions, of which the best counts
    #[arg(long)]
    repetitions: Option<usize>,
    /// Where the certificate is, and where the peers' files go
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    tidegate: PathBuf,
    #[arg(long, default_value = "/usr/sbin/nginx")]
    nginx: PathBuf,
    #[arg(long, default_value = "/usr/sbin/haproxy")]
    haproxy: PathBuf,
    #[arg(long, default_value = "envoy")]
    envoy: PathBuf,
    /// Where the JSON goes: `result.json` in `dir` unless told
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Processor time per message
    Ws,
    /// The same over TLS
    Wss,
    /// Memory of a session at rest
    Idle,
    /// Processor time per opening handshake
    Handshake,
    /// How late messages are that are sent on time
    Latency,
    /// One message to many sessions
    Fan,
    /// Clients' pings
    Ping,
    /// Memory after sessions came and left in rounds
    Churn,
    /// Readers that have stopped while the other side goes on
    Stopped,
    /// Plain HTTP: processor time per request
    Http,
}

fn main() -> ExitCode {
    // `cargo bench` and `cargo test --benches` start this bare: numbers need the peers, see `run`.
    let bare = std::env::args().skip(1).all(|argument| argument.starts_with("--"));
    if bare && !std::env::args().any(|argument| argument == "--help") {
        println!("benches/compare/run does the comparison");
        return ExitCode::SUCCESS;
    }
    let done = match Arguments::parse().command {
        Some(Command::Relay { name, port, backend }) => {
            blind::run(if name == "lean" { Blind::Lean } else { Blind::Copy }, port, backend)
        }
        Some(Command::Measure(arguments)) => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .and_then(|runtime| LocalSet::new().block_on(&runtime, measure(arguments))),
        None => Ok(()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

/// How much of everything.
struct Scale {
    repetitions: usize,
    echo: Times,
    steady: Times,
    handshakes: usize,
    idle: &'static [usize],
    /// Sessions of a round: ws, wss.
    churn: [usize; 2],
}

/// Rounds of coming and leaving.
const ROUNDS: usize = 10;
/// Readers that have stopped.
const STOPPED: usize = 50;
const STOPPED_TABLE: &str = "a reader that has stopped";

impl Scale {
    fn of(arguments: &Measure) -> Scale {
        let (short, long) = (Duration::from_millis(200), Duration::from_secs(1));
        let mut scale = match arguments.quick {
            true => Scale {
                repetitions: 2,
                echo: Times { warm: short, window: long / 2 },
                steady: Times { warm: short, window: long * 2 },
                handshakes: 640,
                idle: &[1000],
                churn: [2000, 500],
            },
            false => Scale {
                repetitions: 5,
                echo: Times { warm: short, window: long },
                steady: Times { warm: short, window: long * 3 },
                handshakes: 1920,
                idle: &[1000, 9000],
                churn: [9000, 2000],
            },
        };
        scale.repetitions = arguments.repetitions.unwrap_or(scale.repetitions).max(1);
        scale
    }
}

/// The whole comparison.
struct Bench {
    place: Place,
    kinds: Vec<Kind>,
    /// All of them when empty.
    columns: Vec<String>,
    scale: Scale,
    backend: Backend,
    report: Report,
}

async fn measure(arguments: Measure) -> io::Result<()> {
    let scale = Scale::of(&arguments);
    let Measure { sections, first, only, columns, dir, tidegate, nginx, haproxy, envoy, json, quick, .. } = arguments;
    let place = Place { first, dir: dir.canonicalize()?, tidegate, nginx, haproxy, envoy };
    let wanted = |kind: &Kind| only.is_empty() || only.iter().any(|name| name == kind.name());
    let (kinds, missing): (Vec<_>, Vec<_>) = Kind::ALL.into_iter().filter(wanted).partition(|kind| place.has(*kind));
    let report = Report::new(&place, &kinds, &missing, quick, scale.repetitions);
    let mut bench = Bench { place, kinds, columns, scale, backend: Backend::start()?, report };
    let all = Section::value_variants();
    for section in all.iter().filter(|section| sections.is_empty() || sections.contains(section)) {
        bench.section(*section).await?;
    }
    print!("{}", bench.report.markdown());
    let json = json.unwrap_or_else(|| bench.place.dir.join("result.json"));
    std::fs::write(json, bench.report.json())
}

impl Bench {
    async fn section(&mut self, section: Section) -> io::Result<()> {
        match section {
            Section::Ws | Section::Wss => self.echo(section == Section::Wss).await,
            Section::Idle => self.idle().await,
            Section::Handshake => self.handshakes().await,
            Section::Latency => self.latency().await,
            Section::Fan => self.fan_out().await,
            Section::Ping => self.pings().await,
            Section::Churn => self.churn().await,
            Section::Stopped => self.stopped().await,
            Section::Http => self.plain_http().await,
        }
    }

    /// Starts the peers that can take part.
    fn peers(&self, part: impl Fn(Kind) -> bool) -> io::Result<Vec<Peer>> {
        let kinds = self.kinds.iter().copied().filter(|kind| part(*kind));
        kinds.map(|kind| Peer::start(kind, &self.place, self.backend.address)).collect()
    }

    /// Notes a figure, or why there is none.
    fn note(&mut self, table: &str, unit: Unit, column: &str, kind: Kind, figure: io::Result<f64>) {
        match figure {
            Ok(figure) => self.report.add(table, unit, column, kind, figure),
            Err(error) => eprintln!("{table}, {column}: {}: {error}", kind.name()),
        }
    }

    /// Waits until no session of the last load is left.
    async fn settled(&self) -> io::Result<()> {
        until("the backend's sessions are gone", || self.backend.live() == 0).await
    }

    async fn echo(&mut self, secure: bool) -> io::Result<()> {
        let loads: &[(&str, Echo)] = &[
            ("32 B", Echo { sessions: 64, bytes: 32, deep: 1 }),
            ("128 B", Echo { sessions: 64, bytes: 128, deep: 1 }),
            ("1 KiB", Echo { sessions: 64, bytes: 1024, deep: 1 }),
            ("16 KiB", Echo { sessions: 64, bytes: 16 << 10, deep: 1 }),
            ("1 MiB", Echo { sessions: 8, bytes: 1 << 20, deep: 1 }),
            ("128 B, 16 deep", Echo { sessions: 64, bytes: 128, deep: 16 }),
        ];
        let peers = self.peers(|kind| if secure { kind.speaks_tls() } else { true })?;
        let scheme = if secure { "wss" } else { "ws" };
        for _ in 0..self.scale.repetitions {
            for (column, load) in loads {
                let named = self.columns.iter().any(|name| name == column);
                let left_out = secure && matches!(*column, "32 B" | "1 KiB");
                if !(named || self.columns.is_empty() && !left_out) {
                    continue;
                }
                for peer in &peers {
                    self.settled().await?;
                    let window = loads::echo(&target(peer, secure), *load, self.scale.echo, &|| peer.cpu_ns()).await;
                    if peer.kind != Kind::Direct {
                        let cpu = window.as_ref().map(loads::Window::cpu_us).map_err(clone);
                        self.note(&format!("{scheme}: CPU"), Unit::MicrosPerMessage, column, peer.kind, cpu);
                    }
                    let rate = window.map(|window| window.per_second() / 1e3);
                    self.note(&format!("{scheme}: throughput"), Unit::ThousandsPerSecond, column, peer.kind, rate);
                }
            }
        }
        self.settled().await
    }

    async fn idle(&mut self) -> io::Result<()> {
        for secure in [false, true] {
            for count in self.scale.idle {
                let column = format!("{}, {count}", if secure { "wss" } else { "ws" });
                for kind in self.kinds.clone() {
                    if kind == Kind::Direct || (secure && !kind.speaks_tls()) {
                        continue;
                    }
                    // A new process each time: memory is hard to give back.
                    let peer = Peer::start(kind, &self.place, self.backend.address)?;
                    let figure = loads::idle(&target(&peer, secure), *count, &|| peer.resident_kib()).await;
                    drop(peer);
                    self.settled().await?;
                    self.note("memory", Unit::KibPerSession, &column, kind, figure);
                }
            }
        }
        Ok(())
    }

    async fn handshakes(&mut self) -> io::Result<()> {
        let peers = self.peers(Kind::speaks_tls)?;
        let hellos = [
            ("ws", Hello::Plain),
            ("wss, full", Hello::Full),
            ("wss, full, X25519MLKEM768 offered", Hello::PostQuantum),
            ("wss, resumed", Hello::Resumed),
        ];
        for _ in 0..self.scale.repetitions {
            for (column, hello) in hellos {
                for peer in &peers {
                    self.settled().await?;
                    let target = target(peer, hello != Hello::Plain);
                    let window = loads::handshakes(&target, hello, self.scale.handshakes, &|| peer.cpu_ns()).await;
                    let cpu = window.as_ref().map(loads::Window::cpu_us).map_err(clone);
                    self.note("handshakes: CPU", Unit::MicrosPerHandshake, column, peer.kind, cpu);
                    let rate = window.map(|window| window.per_second() / 1e3);
                    self.note("handshakes: throughput", Unit::ThousandsPerSecond, column, peer.kind, rate);
                }
            }
        }
        self.settled().await
    }

    async fn latency(&mut self) -> io::Result<()> {
        let peers = self.peers(|_| true)?;
        let load = OnTime { kind: loads::Kind::Message, sessions: 200, per_second: 5_000 };
        for _ in 0..self.scale.repetitions {
            for peer in &peers {
                self.settled().await?;
                let done = loads::on_time(&target(peer, false), load, self.scale.steady, &|| peer.cpu_ns()).await;
                for (column, share) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
                    let late = done.as_ref().map(|(_, latencies)| quantile(latencies, share)).map_err(clone);
                    self.note("latency", Unit::Micros, column, peer.kind, late);
                }
                if peer.kind != Kind::Direct {
                    let cpu = done.map(|(window, _)| window.cpu_us());
                    self.note("latency", Unit::Micros, "CPU per message", peer.kind, cpu);
                }
            }
        }
        self.settled().await
    }

    async fn fan_out(&mut self) -> io::Result<()> {
        // A blind relay does as well, but the sessions of a rival are what is compared.
        let peers = self.peers(|kind| kind != Kind::Direct)?;
        for _ in 0..self.scale.repetitions {
            for peer in &peers {
                self.settled().await?;
                let target = target(peer, false);
                let window = loads::fan_out(&target, &self.backend, 500, self.scale.echo, &|| peer.cpu_ns()).await;
                let cpu = window.map(|window| window.cpu_us());
                self.note("fan-out", Unit::MicrosPerDelivery, "128 B to 500 sessions", peer.kind, cpu);
            }
        }
        self.settled().await
    }

    async fn pings(&mut self) -> io::Result<()> {
        let peers = self.peers(|kind| kind != Kind::Direct)?;
        let load = OnTime { kind: loads::Kind::Ping, sessions: 100, per_second: 10_000 };
        for _ in 0..self.scale.repetitions {
            for peer in &peers {
                self.settled().await?;
                let before = self.backend.pings();
                let done = loads::on_time(&target(peer, false), load, self.scale.steady, &|| peer.cpu_ns()).await;
                let reached = (self.backend.pings() - before) as f64;
                let cpu = done.map(|(window, _)| window.cpu_us());
                self.note("pings", Unit::MicrosPerPing, "CPU", peer.kind, cpu);
                self.note("pings", Unit::MicrosPerPing, "that reached the backend", peer.kind, Ok(reached));
            }
        }
        self.settled().await
    }

    async fn churn(&mut self) -> io::Result<()> {
        for (secure, sessions) in [false, true].into_iter().zip(self.scale.churn) {
            let table = format!("churn: {ROUNDS} rounds of {sessions} sessions, {}", if secure { "wss" } else { "ws" });
            for kind in self.kinds.clone() {
                if kind == Kind::Direct || (secure && !kind.speaks_tls()) {
                    continue;
                }
                let peer = Peer::start(kind, &self.place, self.backend.address)?;
                let (target, resident) = (target(&peer, secure), || peer.resident_kib());
                let done = churn::churn(&target, &self.backend, sessions, ROUNDS, &resident).await;
                drop(peer);
                self.settled().await?;
                let ends = done.map(|rounds| (rounds[0], rounds[rounds.len() - 1]));
                let mut note = |column: &str, figure: &dyn Fn(churn::Round, churn::Round) -> f64| {
                    let figure = ends.as_ref().map(|(first, last)| figure(*first, *last)).map_err(clone);
                    self.note(&table, Unit::Mib, column, kind, figure);
                };
                note("open, first", &|first, _| first.open as f64 / 1024.0);
                note("open, last", &|_, last| last.open as f64 / 1024.0);
                note("open, ratio", &|first, last| last.open as f64 / first.open as f64);
                note("left, first", &|first, _| first.left as f64 / 1024.0);
                note("left, last", &|_, last| last.left as f64 / 1024.0);
                note("left, ratio", &|first, last| last.left as f64 / first.left as f64);
            }
        }
        Ok(())
    }

    async fn stopped(&mut self) -> io::Result<()> {
        let variants = [
            ("ws, client", false, Who::Client),
            ("ws, upstream", false, Who::Upstream),
            ("wss, client", true, Who::Client),
        ];
        for _ in 0..self.scale.repetitions {
            for (column, secure, who) in variants {
                for kind in self.kinds.clone() {
                    if kind == Kind::Direct || (secure && !kind.speaks_tls()) {
                        continue;
                    }
                    // A new process each time, because the memory of the last load would be used again.
                    let peer = Peer::start(kind, &self.place, self.backend.address)?;
                    let beside = !secure && who == Who::Client;
                    self.those_who_go_on(&peer, "alone", beside).await?;
                    let (resident, kernel) = (|| peer.resident_kib(), || peer.kernel_kib(self.backend.address));
                    let stopped = Stopped::open(&target(&peer, secure), who, STOPPED, &resident, &kernel).await;
                    let figure = stopped.as_ref().map(|stopped| stopped.resident_kib).map_err(clone);
                    self.note(STOPPED_TABLE, Unit::KibPerStopped, &format!("{column}: resident"), kind, figure);
                    let figure = stopped.as_ref().map(|stopped| stopped.kernel_kib).map_err(clone);
                    self.note(STOPPED_TABLE, Unit::KibPerStopped, &format!("{column}: kernel"), kind, figure);
                    if beside && stopped.is_ok() {
                        self.those_who_go_on(&peer, "beside", true).await?;
                    }
                    if let Ok(stopped) = stopped {
                        stopped.leave(&self.backend).await;
                    }
                    drop(peer);
                    self.settled().await?;
                }
            }
        }
        Ok(())
    }

    async fn plain_http(&mut self) -> io::Result<()> {
        let peers = self.peers(|kind| kind == Kind::Tidegate || kind.rival() || kind == Kind::Direct)?;
        for _ in 0..self.scale.repetitions {
            for (column, secure) in [("1 KiB", false), ("1 KiB, TLS", true)] {
                for peer in peers.iter().filter(|peer| !secure || peer.kind.speaks_tls()) {
                    let window = plain::load(&target(peer, secure), 64, self.scale.echo, &|| peer.cpu_ns()).await;
                    if peer.kind != Kind::Direct {
                        let cpu = window.as_ref().map(loads::Window::cpu_us).map_err(clone);
                        self.note("http: CPU", Unit::MicrosPerRequest, column, peer.kind, cpu);
                    }
                    let rate = window.map(|window| window.per_second() / 1e3);
                    self.note("http: throughput", Unit::ThousandsPerSecond, column, peer.kind, rate);
                }
            }
        }
        // They keep their connections to the backend as long as they live.
        drop(peers);
        self.settled().await
    }

    /// Warms the proxy up with the honest load, and notes what it cost when `told`.
    async fn those_who_go_on(&mut self, peer: &Peer, column: &str, told: bool) -> io::Result<()> {
        let (target, cpu) = (target(peer, false), || peer.cpu_ns());
        let echo = Echo { sessions: 64, bytes: 128, deep: 1 };
        let window = loads::echo(&target, echo, self.scale.echo, &cpu).await;
        if told {
            let table = "readers that go on";
            self.note(
                table,
                Unit::MicrosBeside,
                &format!("CPU, {column}"),
                peer.kind,
                window.map(|window| window.cpu_us()),
            );
            let load = OnTime { kind: loads::Kind::Message, sessions: 100, per_second: 2_000 };
            let done = loads::on_time(&target, load, self.scale.steady, &cpu).await;
            for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
                let late = done.as_ref().map(|(_, latencies)| quantile(latencies, share)).map_err(clone);
                self.note(table, Unit::MicrosBeside, &format!("{name}, {column}"), peer.kind, late);
            }
        }
        Ok(())
    }
}

fn target(peer: &Peer, secure: bool) -> Target {
    match secure {
        true => Target { address: peer.wss, tls: Some(client::tls(false, false)) },
        false => Target { address: peer.ws, tls: None },
    }
}

/// In µs.
fn quantile(sorted_ns: &[u32], share: f64) -> f64 {
    let at = ((sorted_ns.len() as f64 * share) as usize).min(sorted_ns.len().saturating_sub(1));
    sorted_ns.get(at).map_or(f64::NAN, |ns| f64::from(*ns) / 1e3)
}

/// An error that two figures need.
fn clone(error: &io::Error) -> io::Error {
    io::Error::other(error.to_string())
}
