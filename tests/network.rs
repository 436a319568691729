//! What the machine gives: open files, local addresses and their ports.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use support::client::{Peer, request};
use support::gateway::{Gateway, config, folder};
use support::http::status;
use support::upstream::{agreeing, serve, switching};

const NO_LIMITS: &str = "[limits]\nhandshakes_per_client = \"off\"\n";

/// Asks for a session and returns the head of the answer.
fn ask(gateway: SocketAddr) -> (Peer, String) {
    let mut peer = Peer::connect(gateway);
    peer.write(request("/", "").as_bytes());
    let head = peer.head();
    (peer, head)
}

fn open(gateway: SocketAddr) -> Peer {
    let (peer, head) = ask(gateway);
    assert_eq!(status(&head), 101, "{head}");
    peer
}

/// A configuration whose upstream has further lines.
fn config_with(server: SocketAddr, upstream: &str) -> String {
    format!("{NO_LIMITS}{}", config(server, "", "")) + upstream
}

/// Soft and hard limit of the open files of a process.
fn open_files(process: u32) -> (String, String) {
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).expect("the process lives");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line of open files");
    let mut values = line.trim_start_matches("Max open files").split_whitespace().map(str::to_owned);
    (values.next().expect("soft"), values.next().expect("hard"))
}

#[test]
fn the_limit_of_open_files_is_raised_to_the_hard_one() {
    let (server, _) = agreeing();
    let small = "[limits]\nconnections = 200\nsessions = 200\n";
    let shell = "ulimit -S -n 300 && ulimit -H -n 1000 && exec \"$0\" \"$@\"";
    let gateway = Gateway::start_in(folder(), &format!("{small}{}", config(server, "", "")), shell);
    assert_eq!(open_files(gateway.process()), ("1000".to_owned(), "1000".to_owned()));
    open(gateway.address());
    assert!(!gateway.output().contains("open files"), "it suffices: {}", gateway.output());
}

#[test]
fn a_hard_limit_that_is_too_low_is_told_and_survived() {
    let (server, _) = agreeing();
    let gateway = Gateway::start_with_descriptors(&config_with(server, ""), 256);
    let told = gateway.log("open files");
    assert!(told.contains("256 are allowed here") && told.contains("LimitNOFILE="), "{told}");
    let held: Vec<Peer> = (0..400).map(|_| Peer::connect(gateway.address())).collect();
    gateway.log("cannot accept connections");
    let before = gateway.processor_time();
    thread::sleep(Duration::from_secs(1));
    let used = gateway.processor_time().saturating_sub(before);
    assert!(used < Duration::from_millis(300), "{used:?} of processor time while nothing could be done");
    drop(held);
    for _ in 0..20 {
        open(gateway.address());
    }
    let output = gateway.output();
    assert_eq!(output.matches("cannot accept connections").count(), 1, "{output}");
    assert!(output.lines().count() < 100, "{output}");
}

#[test]
fn a_check_tells_what_the_machine_cannot_give() {
    let rows = [
        ("sessions = 200000", "", "limits: may need 240101 open files, and 256 are allowed here"),
        ("sessions = 60000", "", "upstream.test: `limits.sessions` allows 60000 sessions"),
        ("", "sessions_per_server = 70000", "upstream.test: `sessions_per_server` allows 70000 sessions"),
        ("", "source_addresses = [\"192.0.2.1\"]", "192.0.2.1 is no address of this machine"),
    ];
    let folder = folder();
    for (limits, upstream, expected) in rows {
        let server = SocketAddr::from(([127, 0, 0, 1], 9));
        let text = format!("[limits]\n{limits}\n{}{upstream}", config(server, "", ""));
        // 192.0.2.1 is no loopback address, and the server must fit.
        let text = text.replace("ws://127.0.0.1", "ws://10.0.0.1");
        fs::write(folder.join("config.toml"), text).expect("config.toml is written");
        let check = Command::new("sh")
            .args(["-c", "ulimit -n 256 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_tidegate"), "check", "--config"])
            .arg(folder.join("config.toml"))
            .output()
            .expect("the binary runs");
        let told = String::from_utf8_lossy(&check.stderr);
        assert!(check.status.success(), "a warning is no failure: {told}");
        assert!(told.contains(expected), "{expected}: {told}");
    }
    fs::remove_dir_all(folder).expect("it is ours");
}

#[test]
fn each_source_address_has_its_turn() {
    let (sender, seen) = channel();
    let server = serve(move |mut peer| {
        let head = peer.head();
        let from = peer.stream().peer_addr().expect("connected").ip().to_string();
        sender.send(from).expect("the test listens");
        peer.write(switching(&head, "").as_bytes());
        peer.drain();
    });
    let sources = "source_addresses = [\"127.0.0.2\", \"127.0.0.3\"]";
    let gateway = Gateway::start(&config_with(server, sources));
    let _held: Vec<_> = (0..6).map(|_| open(gateway.address())).collect();
    let seen: Vec<_> = seen.try_iter().collect();
    assert_eq!(seen, ["127.0.0.2", "127.0.0.3"].repeat(3));
}

/// In a network of its own, with eight local ports: from one address to one server there can be eight sessions.
#[test]
#[cfg(target_os = "linux")]
fn ports_are_shared_between_servers_and_each_source_has_its_own() {
    const ALONE: &str = "TIDEGATE_TEST_IN_A_NETWORK_OF_ITS_OWN";
    const NAME: &str = "ports_are_shared_between_servers_and_each_source_has_its_own";
    if std::env::var_os(ALONE).is_none() {
        let prepare = "ip link set lo up && test -w /proc/sys/net/ipv4/ip_local_port_range";
        let unshare = |line: &str| {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "--net", "sh", "-c", line]);
            command
        };
        if !unshare(prepare).output().is_ok_and(|output| output.status.success()) {
            // Not allowed here. That ports are bound late is what a test of src/socket.rs sees.
            eprintln!("skipped: no network of its own");
            return;
        }
        let output = unshare(&format!("{prepare} && exec \"$0\" --exact {NAME} --nocapture"))
            .arg(std::env::current_exe().expect("a path"))
            .env(ALONE, "1")
            .output()
            .expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}");
        return;
    }

    let (sender, seen) = channel();
    let server = || {
        let sender = sender.clone();
        serve(move |mut peer| {
            let (head, stream) = (peer.head(), peer.stream());
            let (to, from) = (stream.local_addr().expect("bound"), stream.peer_addr().expect("connected"));
            sender.send((to, from)).expect("the test listens");
            peer.write(switching(&head, "").as_bytes());
            peer.drain();
        })
    };
    let (one, other) = (server(), server());
    let servers = format!("servers = [\"ws://{one}\", \"ws://{other}\"]");
    let text =
        config_with(one, "health = { passive = \"off\" }").replace(&format!("servers = [\"ws://{one}\"]"), &servers);
    let text = text.replace("address = \"127.0.0.1:0\"", "address = \"0.0.0.0:0\"");
    let first = Gateway::start(&format!("{text}\nsource_addresses = [\"127.0.0.2\"]"));
    let second = Gateway::start(&format!("{text}\nsource_addresses = [\"127.0.0.3\", \"127.0.0.4\"]"));
    // Those that listen have their ports already.
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "20000 20007").expect("it is ours");

    let fill = |gateway: &Gateway| {
        let mut held = Vec::new();
        loop {
            // Towards each address of the gateway a client has all ports, too.
            let towards = [127, 0, 1, u8::try_from(held.len()).expect("few")];
            let (peer, head) = ask((towards, gateway.address().port()).into());
            if status(&head) == 502 {
                return held;
            }
            assert_eq!(status(&head), 101, "{head}");
            held.push(peer);
            assert!(held.len() <= 100, "there is no end of ports");
        }
    };
    let held = fill(&first);
    assert_eq!(held.len(), 16, "eight to each server: {}", first.output());
    let refused = first.log("no local port is left");
    assert!(refused.contains("source_addresses"), "{refused}");
    let pairs: BTreeSet<_> = seen.try_iter().collect();
    let mut ports = BTreeMap::<u16, usize>::new();
    pairs.iter().for_each(|(_, from)| *ports.entry(from.port()).or_default() += 1);
    assert!(ports.values().all(|servers| *servers == 2), "the same ports towards both: {pairs:?}");
    drop(held);
    assert_eq!(fill(&second).len(), 32, "each address has all of them: {}", second.output());
}
