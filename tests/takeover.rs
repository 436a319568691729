//! A new process takes over from a running one while clients come all the time; what systemd hands over and is told.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use support::client::{CLOSE, Peer, TEXT, masked, request};
use support::eventually;
use support::gateway::{Gateway, folder};
use support::http::status;
use support::servers::Process;

/// How long clients come. Longer by hand: `TAKEOVER_SECONDS=30 cargo test --release --test takeover`.
fn span() -> Duration {
    let seconds = std::env::var("TAKEOVER_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(5))
}

/// Clients that connect, open a WebSocket, send a message and leave, again and again.
struct Clients {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Clients {
    fn begin(address: SocketAddr) -> Clients {
        let (stop, served, failures) = (Arc::default(), Arc::default(), Arc::default());
        let mut clients = Clients { stop, served, failures, threads: Vec::new() };
        for _ in 0..4 {
            let (stop, served, failures) = (clients.stop.clone(), clients.served.clone(), clients.failures.clone());
            clients.threads.push(thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match visit(address) {
                        Ok(()) => _ = served.fetch_add(1, Ordering::Relaxed),
                        Err(failure) => failures.lock().expect("not poisoned").push(failure),
                    }
                }
            }));
        }
        clients
    }

    fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }

    fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client");
        }
        (self.served.load(Ordering::Relaxed), std::mem::take(&mut self.failures.lock().expect("not poisoned")))
    }
}

/// Fine is a 101 and then the echo, or a Close that says that the gateway restarts.
fn visit(address: SocketAddr) -> Result<(), String> {
    let stream = TcpStream::connect(address).map_err(|error| format!("connecting: {error}"))?;
    let mut peer = Peer::new(stream);
    peer.try_write(request("/", "").as_bytes()).map_err(|error| format!("writing the head: {error}"))?;
    let head = peer.try_head().ok_or_else(|| format!("no answer, reset: {}", peer.cut))?;
    if status(&head) != 101 {
        return Err(format!("refused: {head}"));
    }
    let _ = peer.try_write(&masked(TEXT, b"hello"));
    match peer.next_frame() {
        Some(frame) if frame.opcode == TEXT && frame.payload == b"hello" => Ok(()),
        Some(frame) if frame.opcode == CLOSE && frame.close().0 == 1012 => Ok(()),
        frame => Err(format!("within the session: {frame:?}, reset: {}", peer.cut)),
    }
}

fn config(address: SocketAddr, upstream: SocketAddr, listener: &str) -> String {
    format!(
        "[limits]\nhandshakes_per_client = \"off\"\n\n[[listener]]\naddress = \"{address}\"\n{listener}\n\n\
         [[route]]\nupstream = \"echo\"\n\n[upstream.echo]\nservers = [\"ws://{upstream}\"]\n\n[drain]\ngrace = \"10s\"\n"
    )
}

/// Twice in a row the next process is started, and the one before told to stop when that is ready, which is when `start`
/// returns.
fn take_over(mut old: Gateway, start: impl Fn() -> Gateway) {
    let clients = Clients::begin(old.address());
    let living = Peer::open(old.address(), "/");
    let begun = Instant::now();
    for takeover in 1..=2 {
        eventually("clients are served", || {
            clients.served() > 50 * takeover && begun.elapsed() > span() / 3 * takeover as u32
        });
        let new = start();
        old.signal("TERM");
        assert!(old.wait().success(), "the old process ended well");
        assert!(old.output().contains("session ended"), "it served some");
        old = new;
    }
    let before = clients.served();
    eventually("the last process serves", || clients.served() > before + 50 && begun.elapsed() > span());
    let (served, failures) = clients.end();
    assert!(failures.is_empty(), "{} of {served} failed: {:#?}", failures.len(), &failures[..failures.len().min(5)]);
    let mut living = living;
    assert_eq!(living.frame().close().0, 1012, "who was connected to the first process was told");
    println!("{served} clients, none refused");
}

/// What docs/operating.md tells for systemd: both processes have the same socket.
#[test]
fn a_socket_that_both_were_handed_loses_nobody() {
    let upstream = Process::start("127.0.0.1:0".parse().expect("an address"));
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let config = config(socket.local_addr().expect("an address"), upstream.address, "");
    let start = || Gateway::start_handed(&config, socket.try_clone().expect("a duplicate"), "");
    take_over(start(), start);
}

/// And without systemd: each process has a socket of its own at the same port.
#[test]
fn a_port_that_both_listen_at_loses_nobody() {
    let upstream = Process::start("127.0.0.1:0".parse().expect("an address"));
    let free = "127.0.0.1:0".parse().expect("an address");
    let old = Gateway::start(&config(free, upstream.address, "reuse_port = true"));
    let config = config(old.address(), upstream.address, "reuse_port = true");
    take_over(old, || Gateway::start(&config));
}

#[test]
fn without_reuse_port_the_second_process_is_told_why_not() {
    let upstream = "127.0.0.1:9".parse().expect("an address");
    let old = Gateway::start(&config("127.0.0.1:0".parse().expect("an address"), upstream, "reuse_port = true"));
    let (status, error) = fails(&config(old.address(), upstream, ""), Stdio::null(), "exec \"$0\" \"$@\"");
    assert!(!status && error.contains("another program listens there"), "{error}");
}

#[test]
fn a_unix_socket_is_taken_over_and_its_file_stays() {
    let folder = folder();
    let path = folder.join("handed.sock");
    let socket = UnixListener::bind(&path).expect("bound");
    let upstream = Process::start("127.0.0.1:0".parse().expect("an address"));
    let any = "127.0.0.1:0".parse().expect("an address");
    let config = config(any, upstream.address, "").replace("127.0.0.1:0", &format!("unix:{}", path.display()));
    let mut gateway = Gateway::start_handed(&config, socket.try_clone().expect("a duplicate"), "");
    let mut stream = UnixStream::connect(&path).expect("it listens");
    stream.set_read_timeout(Some(support::PATIENCE)).expect("an option");
    stream.write_all(request("/", "").as_bytes()).expect("written");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 101");
    gateway.signal("TERM");
    assert!(gateway.wait().success());
    assert!(path.exists(), "who opened it removes it");
    std::fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn a_socket_that_no_listener_has_is_told() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address");
    let other = config("127.0.0.1:0".parse().expect("an address"), "127.0.0.1:9".parse().expect("an address"), "");
    let gateway = Gateway::start_handed(&other, socket, "");
    assert!(gateway.log("nobody is served there").contains(&address.to_string()));
}

#[test]
fn a_descriptor_that_is_no_socket_is_refused() {
    let any = config("127.0.0.1:0".parse().expect("an address"), "127.0.0.1:9".parse().expect("an address"), "");
    for (name, shell, expected) in [
        ("a file", "exec 3</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\"", true),
        ("nothing", "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\"", true),
        ("meant for another process", "LISTEN_FDS=1 LISTEN_PID=1 exec \"$0\" \"$@\" --no-such-option", false),
    ] {
        let (status, error) = fails(&any, Stdio::null(), shell);
        assert!(!status, "{name}");
        assert_eq!(error.contains("descriptor 1 of those handed over"), expected, "{name}: {error}");
    }
    let connected = TcpStream::connect(
        TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr().map(|a| (l, a)))
            .map(|(l, a)| {
                std::mem::forget(l);
                a
            })
            .expect("a port"),
    )
    .expect("it listens");
    let shell = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\"";
    let (status, error) = fails(&any, std::os::fd::OwnedFd::from(connected).into(), shell);
    assert!(!status && error.contains("no stream socket that listens"), "{error}");
}

/// Runs the binary to its end; whether that was well, and what it said.
fn fails(config: &str, stdin: Stdio, shell: &str) -> (bool, String) {
    let folder = folder();
    std::fs::write(folder.join("config.toml"), config).expect("written");
    let output = Command::new("sh")
        .args(["-c", shell, env!("CARGO_BIN_EXE_tidegate"), "run", "--config"])
        .arg(folder.join("config.toml"))
        .stdin(stdin)
        .output()
        .expect("it runs");
    std::fs::remove_dir_all(folder).expect("removed");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn systemd_is_told_how_it_goes() {
    let folder = folder();
    let path = folder.join("notify.sock");
    let manager = UnixDatagram::bind(&path).expect("bound");
    manager.set_read_timeout(Some(support::PATIENCE)).expect("an option");
    let next = || {
        let mut message = [0; 4096];
        let length = manager.recv(&mut message).expect("it tells");
        String::from_utf8(message[..length].to_vec()).expect("text")
    };
    let until = |wanted: &str| {
        let deadline = Instant::now() + support::PATIENCE;
        loop {
            let message = next();
            if message.contains(wanted) {
                return message;
            }
            assert!(Instant::now() < deadline, "never: {wanted}");
        }
    };
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let upstream = Process::start("127.0.0.1:0".parse().expect("an address"));
    let config = config(socket.local_addr().expect("an address"), upstream.address, "");
    let more = format!("NOTIFY_SOCKET={} WATCHDOG_USEC=200000 WATCHDOG_PID=$$", path.display());
    let mut gateway = Gateway::start_handed(&config, socket, &more);
    assert_eq!(next().lines().next(), Some("READY=1"), "first of all");
    let session = Peer::open(gateway.address(), "/");
    until("STATUS=1 session");
    let begun = Instant::now();
    for _ in 0..10 {
        until("WATCHDOG=1");
    }
    assert!(begun.elapsed() < Duration::from_millis(10 * 200), "half of WATCHDOG_USEC: {:?}", begun.elapsed());
    drop(session);
    gateway.signal("TERM");
    until("STOPPING=1");
    assert!(gateway.wait().success());
    std::fs::remove_dir_all(folder).expect("removed");
}
