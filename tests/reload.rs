//! Reload: another configuration under load, and no connection is lost; what changes for whom; what is wrong changes nothing.
//!
//! `TIDEGATE_RELOADS=10000 cargo test --release --test reload thousand` reloads more often than a thousand times.

mod support;

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use support::client::{BINARY, CLOSE, Peer, TEXT, close_payload, masked, unmasked};
use support::eventually;
use support::gateway::{self, folder};
use support::http::{Head, status};
use support::tls::{self, Authority};
use support::upstream::{serve, switching};
use tidegate::config;
use tidegate::config::model::ListenerAddress;
use tidegate::gateway::inspect::inspect;
use tidegate::gateway::{Gateway, ReloadError, Reloaded};
use tidegate::limits::Taken;
use tidegate::live::Live;
use tokio::runtime::Runtime;

/// A gateway in this process, with a file of its own.
struct Running {
    runtime: Runtime,
    gateway: Arc<Gateway>,
    folder: PathBuf,
}

impl Running {
    fn start(text: &str) -> Running {
        Running::start_in(folder(), text)
    }

    fn start_in(folder: PathBuf, text: &str) -> Running {
        let file = folder.join("config.toml");
        fs::write(&file, text).expect("written");
        let runtime = Runtime::new().expect("a runtime");
        let loaded = config::load(&file, &inspect).unwrap_or_else(|problems| panic!("{problems}"));
        let gateway = runtime.block_on(Gateway::start(loaded)).expect("it starts");
        Running { runtime, gateway, folder }
    }

    fn reload(&self, text: &str) -> Result<Reloaded, ReloadError> {
        fs::write(self.folder.join("config.toml"), text).expect("written");
        self.runtime.block_on(self.gateway.reload())
    }

    fn reloaded(&self, text: &str) -> Reloaded {
        self.reload(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        let tcp = |(address, _)| match address {
            ListenerAddress::Tcp(address) => Some(address),
            ListenerAddress::Unix(_) => None,
        };
        self.gateway.listeners().into_iter().filter_map(tcp).collect()
    }

    fn address(&self) -> SocketAddr {
        self.addresses()[0]
    }

    fn is_empty(&self) -> bool {
        self.gateway.taken() == Taken::default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A listener, routes and the upstream "app"; `route` are lines of the route "app", `more` whatever else.
fn text(upstream: SocketAddr, route: &str, more: &str) -> String {
    format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n\n[[route]]\nname = \"app\"\npath = \"/app\"\nupstream = \"app\"\n{route}\n\n\
         [upstream.app]\nservers = [\"ws://{upstream}\"]\n\n{more}\n"
    )
}

/// An upstream that returns every message.
fn echo() -> SocketAddr {
    serve(|mut peer| {
        let Some(head) = peer.try_head() else { return };
        if peer.try_write(switching(&head, "").as_bytes()).is_err() {
            return;
        }
        let _ = peer.stream().set_read_timeout(None);
        while let Some(frame) = peer.next_frame() {
            if peer.try_write(&unmasked(frame.opcode, &frame.payload)).is_err() || frame.opcode == CLOSE {
                return;
            }
        }
    })
}

fn says(peer: &mut Peer, text: &str) -> bool {
    peer.write(&masked(TEXT, text.as_bytes()));
    peer.frame().payload == text.as_bytes()
}

/// Closes in good order.
fn leave(mut peer: Peer) {
    peer.write(&masked(CLOSE, &close_payload(1000, "")));
    assert_eq!(peer.frame().close().0, 1000);
    peer.rest();
}

/// Sends numbered messages until it is told to stop, and checks that each comes back once and in its turn.
fn echoes(address: SocketAddr, number: usize, stop: &AtomicBool) -> usize {
    let mut peer = Peer::open(address, "/app");
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let texts: Vec<String> = (sent..sent + 4).map(|count| format!("{number}: message {count}")).collect();
        peer.write(&texts.iter().flat_map(|text| masked(TEXT, text.as_bytes())).collect::<Vec<_>>());
        for text in &texts {
            assert_eq!(peer.frame().payload, text.as_bytes(), "client {number}: in its turn, once");
        }
        sent += texts.len();
    }
    leave(peer);
    sent
}

#[test]
fn a_thousand_reloads_under_load_lose_nothing() {
    const CLIENTS: usize = 8;
    let reloads = std::env::var("TIDEGATE_RELOADS").ok().and_then(|count| count.parse().ok()).unwrap_or(1000);
    let upstream = echo();
    // Each has something else than the one before: limits, rates, another route, listener and upstream.
    let variants = [
        text(upstream, "", ""),
        text(upstream, "message_bytes_max = \"1MiB\"\nheartbeat = { interval = \"5s\", timeout = \"5s\" }", ""),
        text(
            upstream,
            "limits = { messages_per_session = \"100000/s\" }",
            "[[route]]\nname = \"b\"\npath = \"/b\"\nupstream = \"app\"",
        ),
        text(
            upstream,
            "limits = { bytes_per_client = \"1GiB/s\", sessions = 1000 }",
            &format!(
                "[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\nname = \"c\"\npath = \"/c\"\nupstream = \"c\"\n[upstream.c]\nservers = [\"ws://{upstream}\"]"
            ),
        ),
    ];
    let running = Running::start(&variants[0]);
    let (address, stop) = (running.address(), AtomicBool::new(false));
    let mut generations: Vec<Weak<Live>> = Vec::new();
    let began = Instant::now();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let stop = &stop;
                scope.spawn(move || echoes(address, number, stop))
            })
            .collect();
        eventually("all clients are in", || running.gateway.taken().sessions == CLIENTS);
        let opened = || running.gateway.current().drain.sessions().len();
        for turn in 1..=reloads {
            running.reloaded(&variants[turn % variants.len()]);
            generations.push(Arc::downgrade(&running.gateway.current()));
            if turn % 50 == 0 {
                assert_eq!(opened(), CLIENTS, "nobody was ended");
                let mut passing = Peer::open(running.address(), "/app");
                assert!(says(&mut passing, "a new session"), "new ones are served");
                leave(passing);
                eventually("it is gone", || opened() == CLIENTS);
            }
        }
        stop.store(true, Ordering::Relaxed);
        let sent: usize = clients.into_iter().map(|client| client.join().expect("no message is lost")).sum();
        assert!(sent >= reloads, "{sent} messages over {reloads} reloads");
        println!("{reloads} reloads in {:?}, {sent} messages", began.elapsed());
    });
    assert_eq!((running.gateway.reloads().good(), running.gateway.reloads().failed()), (reloads as u64, 0));
    eventually("every count is at zero", || running.is_empty());
    let last = generations.pop().expect("at least one");
    assert!(last.upgrade().is_some());
    eventually("older generations are freed", || generations.iter().all(|live| live.strong_count() == 0));
}

#[test]
fn lowered_limits_bite_within_a_second() {
    let upstream = echo();
    let running = Running::start(&text(upstream, "", ""));
    let open = || Peer::open(running.address(), "/app");
    let second = Duration::from_secs(1);

    // A size: the next message is too big. What was allowed before passes on.
    let mut peer = open();
    assert!(says(&mut peer, &"x".repeat(1000)));
    running.reloaded(&text(upstream, "message_bytes_max = \"100B\"", ""));
    assert!(says(&mut peer, "still here"));
    peer.write(&masked(TEXT, &[b'x'; 101]));
    assert_eq!(peer.frame().close().0, 1009);
    drop(peer);

    // A rate: the burst passes, then it is one in half a second.
    running.reloaded(&text(upstream, "", ""));
    let mut peer = open();
    for _ in 0..50 {
        assert!(says(&mut peer, "without a rate"));
    }
    running.reloaded(&text(upstream, "limits = { messages_per_session = \"2/s\" }", ""));
    let began = Instant::now();
    for _ in 0..4 {
        assert!(says(&mut peer, "with a rate"));
    }
    assert!(began.elapsed() > Duration::from_millis(900), "two at once, then two more: {:?}", began.elapsed());

    // Who waits for a rate that is raised waits no longer.
    running.reloaded(&text(upstream, "limits = { messages_per_session = \"1/h\" }", ""));
    assert!(says(&mut peer, "the burst"));
    peer.write(&masked(TEXT, b"waits"));
    assert_eq!(peer.within(Duration::from_millis(100)), b"");
    running.reloaded(&text(upstream, "limits = { messages_per_session = \"10/s\" }", ""));
    let began = Instant::now();
    assert_eq!(peer.frame().payload, b"waits");
    assert!(began.elapsed() < second, "{:?}", began.elapsed());

    // A cap counts for those who come. Who is in stays.
    let more = open();
    running.reloaded(&text(upstream, "limits = { sessions = 1 }", ""));
    let refused = Head::new("/app").ask(running.address());
    assert_eq!(refused.status(), 503);
    assert!(says(&mut peer, "nobody is thrown out"));
    leave(more);
    leave(peer);

    // A time: whoever is over it is ended.
    running.reloaded(&text(upstream, "", ""));
    let mut peer = open();
    assert!(says(&mut peer, "soon idle"));
    thread::sleep(Duration::from_millis(150));
    running.reloaded(&text(upstream, "idle_timeout = \"100ms\"", ""));
    let began = Instant::now();
    assert_eq!(peer.frame().close().0, 1001);
    assert!(began.elapsed() < second, "{:?}", began.elapsed());
    drop(peer);
    eventually("every count is at zero", || running.is_empty());
}

#[test]
fn limits_that_stay_remember_and_those_that_change_begin_anew() {
    let upstream = echo();
    let limits = |handshakes: &str, path: &str| {
        text(
            upstream,
            &format!(
                "limits = {{ handshakes_per_client = \"{handshakes}\", messages_per_client = \"3/h\", sessions = 50 }}"
            ),
            path,
        )
    };
    let running = Running::start(&limits("2/h", ""));
    let opens = || Head::new("/app").opens(running.address());
    let mut first = Peer::open(running.address(), "/app");
    assert!(says(&mut first, "one of three"));
    assert!(opens() && !opens(), "two in an hour");
    running.reloaded(&limits("2/h", "[limits]\nsessions = 99\n"));
    assert!(!opens(), "they are still spent");
    running.reloaded(&limits("5/h", ""));
    assert!(opens(), "another rate");
    assert!(says(&mut first, "two of three"));
    assert!(says(&mut first, "three of three"));
    running.reloaded(&limits("5/h", "[limits]\nsessions = 98\n"));
    first.write(&masked(TEXT, b"waits"));
    assert_eq!(first.within(Duration::from_millis(200)), b"", "spent is spent, through all reloads");
    running.reloaded(&text(upstream, "", ""));
    assert_eq!(first.frame().payload, b"waits");
    leave(first);
    eventually("every count is at zero", || running.is_empty());
}

#[test]
fn a_removed_route_ends_its_sessions_and_no_others() {
    let upstream = echo();
    let other = "[[route]]\nname = \"other\"\npath = \"/other\"\nupstream = \"app\"\n";
    let running = Running::start(&text(upstream, "", other));
    let mut kept = Peer::open(running.address(), "/app");
    let mut gone: Vec<_> = (0..5).map(|_| Peer::open(running.address(), "/other")).collect();
    let reloaded = running.reloaded(&text(upstream, "", ""));
    assert_eq!(reloaded.diff.routes.removed, ["other"]);
    for peer in &mut gone {
        assert_eq!(peer.frame().close().0, 1012);
    }
    assert_eq!(Head::new("/other").ask(running.address()).status(), 404);
    assert!(says(&mut kept, "still here"));
    // One of that name that comes later is another route.
    running.reloaded(&text(upstream, "", other));
    let mut new = Peer::open(running.address(), "/other");
    assert!(says(&mut new, "a new session"));
    gone.clear();
    leave(new);
    leave(kept);
    eventually("every count is at zero", || running.is_empty());
}

#[test]
fn an_upstream_that_goes_takes_its_sessions_along_as_on_removed_says() {
    let (upstream, server) = (echo(), echo());
    for (fate, stays) in [("keep", true), ("drain", false), ("close", false)] {
        let to =
            |upstream: &str| format!("[[route]]\nname = \"other\"\npath = \"/other\"\nupstream = \"{upstream}\"\n");
        let other = format!("[upstream.other]\nservers = [\"ws://{server}\"]\non_removed = \"{fate}\"\n");
        let window = "[drain]\nwindow = \"1s\"\n";
        let running = Running::start(&text(upstream, "", &format!("{}{other}{window}", to("other"))));
        let mut session = Peer::open(running.address(), "/other");
        let reloaded = running.reloaded(&text(upstream, "", &format!("{}{window}", to("app"))));
        assert_eq!(reloaded.diff.upstreams.removed, ["other"]);
        assert_eq!(reloaded.diff.ended.is_empty(), stays, "{fate}");
        match stays {
            true => assert!(says(&mut session, "still here"), "{fate}"),
            false => assert_eq!(session.frame().close().0, 1012, "{fate}"),
        }
    }
}

#[test]
fn listeners_come_and_go() {
    let upstream = echo();
    let second = "[[listener]]\naddress = \"127.0.0.1:0\"\n";
    let http = "http = true";
    let running = Running::start(&text(upstream, http, ""));
    let reloaded = running.reloaded(&text(upstream, http, second));
    assert_eq!(reloaded.diff.listeners.added, ["127.0.0.1:0#2"]);
    let [first, added] = running.addresses()[..] else { panic!("two listeners") };
    let mut session = Peer::open(added, "/app");
    let mut idle = Peer::connect(added);
    running.reloaded(&text(upstream, http, ""));
    assert_eq!(running.addresses(), [first]);
    eventually("nobody listens there", || {
        TcpStream::connect(added).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    assert!(says(&mut session, "sessions belong to routes"));
    assert_eq!(idle.rest(), b"", "a connection without a request ends");
    // One that is there again the next moment.
    let again = format!("[[listener]]\naddress = \"{added}\"\n");
    for _ in 0..20 {
        running.reloaded(&text(upstream, http, &again));
        leave(Peer::open(added, "/app"));
        running.reloaded(&text(upstream, http, ""));
    }
    // The settings of one that stays hold at once, for its socket too.
    running.reloaded(&text(upstream, http, "").replacen(
        "\"127.0.0.1:0\"\n",
        "\"127.0.0.1:0\"\ndeny = [\"127.0.0.1\"]\n",
        1,
    ));
    assert_eq!(running.addresses(), [first]);
    assert_eq!(Peer::connect(first).rest(), b"", "closed");
    running.reloaded(&text(upstream, http, ""));
    leave(Peer::open(first, "/app"));
    leave(session);
    eventually("every count is at zero", || running.is_empty());
}

#[test]
fn the_next_request_of_a_connection_is_served_by_the_new_configuration() {
    let upstream = echo();
    let page = |status: u16| {
        format!("[[route]]\nname = \"page\"\npath = \"/page\"\nrespond = {{ status = {status}, body = \"so\" }}\n")
    };
    let running = Running::start(&text(upstream, "", &page(200)));
    let mut peer = Peer::connect(running.address());
    let mut ask = || {
        peer.write(b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let head = peer.head();
        assert_eq!(peer.bytes(2), b"so");
        status(&head)
    };
    assert_eq!(ask(), 200);
    running.reloaded(&text(upstream, "", &page(404)));
    assert_eq!(ask(), 404);
}

#[test]
fn what_is_wrong_changes_nothing_and_is_named() {
    let upstream = echo();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let listens = taken.local_addr().expect("an address");
    let folder = folder();
    let (certificate, key) = Authority::new("one").issue(&["localhost"]).write(&folder, "one");
    let (_, other_key) = Authority::new("two").issue(&["localhost"]).write(&folder, "two");
    let expired = Authority::new("three").issue_between(&["localhost"], 2001, 2002).write(&folder, "expired");
    fs::write(folder.join("keys"), "short").expect("written");
    fs::write(folder.join("broken.pem"), "-----BEGIN CERTIFICATE-----\nMIIB\n").expect("written");
    let good = text(upstream, "", "");
    let tls = |certificate: &Path, key: &Path| {
        good.replacen(
            "\"127.0.0.1:0\"\n",
            &format!("\"127.0.0.1:0\"\ntls = {{ certificate = {certificate:?}, key = {key:?} }}\n"),
            1,
        )
    };
    let running = Running::start_in(folder.clone(), &good);
    let before = running.gateway.current();
    let mut session = Peer::open(running.address(), "/app");
    let rows: [(&str, String, &str); 12] = [
        ("no TOML", "[[listener".to_owned(), "config.toml:1"),
        ("an unknown key", text(upstream, "colour = \"red\"", ""), "unknown key"),
        ("a value that is none", text(upstream, "heartbeat = 5", ""), "heartbeat"),
        ("a route to nowhere", good.replace("upstream = \"app\"", "upstream = \"none\""), "no upstream"),
        ("a name twice", format!("{good}\n[[route]]\nname = \"app\"\npath = \"/b\"\nupstream = \"app\"\n"), "is taken"),
        ("an address that is taken", format!("{good}\n[[listener]]\naddress = \"{listens}\"\n"), "cannot listen on"),
        ("no certificate", tls(&folder.join("none.pem"), &key), "none.pem"),
        ("a damaged certificate", tls(&folder.join("broken.pem"), &key), "damaged"),
        ("another key", tls(&certificate, &other_key), "does not belong"),
        ("an expired certificate", tls(&expired.0, &expired.1), "expired on"),
        (
            "keys that are too short",
            text(upstream, "keys = { file = \"keys\", header = \"X-Key\" }", ""),
            "shorter than 16",
        ),
        ("a variable that is not set", good.replace("/app\"", "/${NOT_SET_IN_TESTS}\""), "NOT_SET_IN_TESTS"),
    ];
    let count = rows.len() as u64;
    for (what, text, told) in rows {
        let error = running.reload(&text).expect_err(what);
        let mut said = error.to_string();
        if let ReloadError::Problems(problems) = &error {
            said = problems.iter().map(config::Problem::line).collect::<Vec<_>>().join("\n");
            assert!(said.contains("config.toml:"), "{what} has a line: {said}");
        }
        assert!(said.contains(told), "{what}: {said}");
        assert!(Arc::ptr_eq(&before, &running.gateway.current()), "{what}: the old one stays");
        assert!(says(&mut session, what), "{what}: sessions go on");
        assert!(Head::new("/app").opens(running.address()), "{what}: new ones come");
    }
    fs::remove_file(folder.join("config.toml")).expect("removed");
    let error = running.runtime.block_on(running.gateway.reload()).expect_err("no file");
    assert!(error.to_string().contains("cannot be read"), "{error}");
    assert_eq!((running.gateway.reloads().good(), running.gateway.reloads().failed()), (0, count + 1));
    drop((session, before));
    eventually("every count is at zero", || running.is_empty());
}

#[test]
fn the_built_in_example_cannot_be_reloaded() {
    let loaded = config::parse(&text(echo(), "", ""), Path::new("built-in config.toml")).expect("it is right");
    let runtime = Runtime::new().expect("a runtime");
    let gateway = runtime.block_on(Gateway::start(loaded)).expect("it starts");
    let error = runtime.block_on(gateway.reload()).expect_err("no file");
    assert!(matches!(error, ReloadError::BuiltIn), "{error}");
}

#[test]
fn what_needs_a_restart_stays_and_is_told() {
    let upstream = echo();
    let running = Running::start(&text(upstream, "", "[log]\nlevel = \"warn\"\n"));
    let restart = |text: &str| {
        let restart = running.reloaded(text).restart;
        restart.into_iter().map(|change| change.key).collect::<Vec<_>>()
    };
    let changed = text(upstream, "", "[runtime]\nworkers = 3\n[log]\nlevel = \"error\"\n");
    assert_eq!(restart(&changed), ["runtime.workers", "log.level"]);
    assert_eq!(running.gateway.current().config.runtime.workers, None);
    assert_eq!(restart(&changed), ["runtime.workers", "log.level"], "told each time: they still differ");
    assert_eq!(restart(&text(upstream, "", "[log]\nlevel = \"warn\"\n")), [""; 0]);
}

#[test]
fn certificates_are_rotated_under_handshakes_without_a_failure() {
    let upstream = echo();
    let folder = folder();
    let authority = Authority::new("test");
    let pair = |authority: &Authority| authority.issue(&["localhost"]).write(&folder, "server");
    let (certificate, key) = pair(&authority);
    let tls = format!("tls = {{ certificate = {certificate:?}, key = {key:?} }}");
    let text = text(upstream, "", "[limits]\nhandshakes_per_client = \"off\"\n").replace("/app", "/");
    let text = text.replacen("\"127.0.0.1:0\"\n", &format!("\"127.0.0.1:0\"\n{tls}\n"), 1);
    let running = Running::start_in(folder.clone(), &text);
    let (address, stop, met) = (running.address(), AtomicBool::new(false), AtomicUsize::new(0));
    let client = authority.client(None);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|_| {
                let (stop, met, client) = (&stop, &met, &client);
                scope.spawn(move || {
                    let mut leaves = std::collections::HashSet::new();
                    while !stop.load(Ordering::Relaxed) {
                        let mut fresh = client.clone();
                        fresh.resumption = rustls::client::Resumption::disabled();
                        let found = tls::meet(address, "localhost", &fresh).expect("no handshake fails");
                        assert_eq!(status(&found.head), 101);
                        leaves.insert(found.certificate);
                        met.fetch_add(1, Ordering::Relaxed);
                    }
                    leaves.len()
                })
            })
            .collect();
        for _ in 0..20 {
            let before = met.load(Ordering::Relaxed);
            pair(&authority);
            assert_eq!(running.reloaded(&text).certificates, 1);
            eventually("handshakes go on", || met.load(Ordering::Relaxed) > before + 3);
        }
        stop.store(true, Ordering::Relaxed);
        let leaves: Vec<_> = clients.into_iter().map(|client| client.join().expect("no handshake fails")).collect();
        assert!(leaves.iter().all(|leaves| *leaves > 10), "of 21 certificates they saw {leaves:?}");
    });
    let shown = running.gateway.current();
    let shown = shown.certificates();
    assert_eq!((shown.len(), shown[0].at.to_string().as_str()), (1, "listener 127.0.0.1:0"));
    assert_eq!(shown[0].names, ["localhost"]);
    eventually("every count is at zero", || running.is_empty());
}

#[test]
fn sessions_of_tls_are_resumed_after_a_reload_unless_clients_must_show_more() {
    let upstream = echo();
    let folder = folder();
    let authority = Authority::new("test");
    let (certificate, key) = authority.issue(&["localhost"]).write(&folder, "server");
    fs::write(folder.join("ca.pem"), authority.pem()).expect("written");
    let config = |tls: &str| {
        let tls = format!("\"127.0.0.1:0\"\ntls = {{ certificate = {certificate:?}, key = {key:?}{tls} }}\n");
        text(upstream, "", "").replace("/app", "/").replacen("\"127.0.0.1:0\"\n", &tls, 1)
    };
    let running = Running::start_in(folder.clone(), &config(""));
    let client = authority.client(Some(&authority.issue(&["client"])));
    let resumed = || tls::meet(running.address(), "localhost", &client).expect("it answers").resumed;
    assert!(!resumed());
    eventually("tickets have come", &resumed);
    authority.issue(&["localhost"]).write(&folder, "server");
    assert_eq!(running.reloaded(&config("")).certificates, 1);
    assert!(resumed(), "under another certificate too");
    running.reloaded(&config(", client_auth = \"required\", client_ca = \"ca.pem\""));
    assert!(!resumed(), "a ticket does not stand for a certificate that nobody asked for");
    eventually("tickets of the new kind", &resumed);
    fs::write(folder.join("ca.pem"), format!("{}{}", authority.pem(), Authority::new("more").pem())).expect("written");
    assert_eq!(running.reloaded(&config(", client_auth = \"required\", client_ca = \"ca.pem\"")).certificates, 1);
    assert!(!resumed(), "nor for one of other authorities");
}

#[test]
fn on_sighup_and_when_a_file_changes() {
    let upstream = echo();
    let folder = folder();
    for name in ["one", "two"] {
        fs::create_dir(folder.join(name)).expect("a folder");
    }
    let watched = |more: &str| text(upstream, more, "[reload]\nwatch = true\n");
    let mut gateway = gateway::Gateway::start_in(folder.clone(), &text(upstream, "", ""), "exec \"$0\" \"$@\"");
    let mut session = Peer::open(gateway.address(), "/app");
    fs::write(folder.join("config.toml"), watched("")).expect("written");
    gateway.signal("HUP");
    assert!(gateway.log("reloaded: ").contains("listeners +0 -0 ~0, routes +0 -0 ~0, upstreams +0 -0 ~0"));
    // From now on it looks by itself.
    fs::write(folder.join("config.toml"), watched("colour = \"red\"")).expect("written");
    let said = gateway.log("unknown key");
    assert!(said.contains("config.toml:8:1 route[1].colour"), "{said}");
    gateway.log("not reloaded: ");
    assert!(says(&mut session, "still here"));
    // As Kubernetes does it: a link to a link to a folder, which is swapped.
    fs::write(folder.join("one/config.toml"), watched("idle_timeout = \"1h\"")).expect("written");
    fs::write(folder.join("two/config.toml"), watched("message_bytes_max = \"10B\"")).expect("written");
    symlink("one", folder.join("data")).expect("a link");
    symlink("data/config.toml", folder.join("link")).expect("a link");
    fs::rename(folder.join("link"), folder.join("config.toml")).expect("swapped");
    gateway.log("routes +0 -0 ~1");
    symlink("two", folder.join("next")).expect("a link");
    fs::rename(folder.join("next"), folder.join("data")).expect("swapped");
    eventually("the limit bites", || peer_is_refused(&mut session));
    assert_eq!(gateway.output().matches("not reloaded").count(), 1, "once for each change: {}", gateway.output());
    gateway.signal("TERM");
    assert!(gateway.wait().success());
}

#[test]
fn a_pipe_in_place_of_the_configuration_holds_nothing_up() {
    let folder = folder();
    let keys = folder.join("keys");
    fs::write(&keys, "ada: 0123456789abcdef0123\n").expect("written");
    let text = text(echo(), &format!("keys = {{ file = {:?}, query = \"key\" }}", keys.display().to_string()), "");
    let mut gateway = gateway::Gateway::start_in(folder.clone(), &text, "exec \"$0\" \"$@\"");
    let mut session = Peer::open(gateway.address(), "/app?key=0123456789abcdef0123");
    fs::remove_file(folder.join("config.toml")).expect("it was there");
    support::make_pipe(&folder.join("config.toml"));
    gateway.signal("HUP");
    assert!(gateway.log("config.toml").contains("is no regular file"), "{}", gateway.output());
    fs::write(&keys, "bob: fedcba98765432100123\n").expect("written");
    assert_eq!(session.frame().close().0, 1008, "the key is gone");
    drop(session);
    gateway.signal("TERM");
    assert!(gateway.wait().success());
}

#[test]
fn a_pipe_serves_at_the_start_and_never_again() {
    let text = text(echo(), "", "");
    // Through a pipe without a name, as `<(...)` of a shell is one.
    let start = "echo $$ >\"$3.pid\"; exec \"$0\" run --config /dev/stdin";
    let shell = format!("cat \"$3\" | sh -c '{start}' \"$0\" \"$@\"");
    let gateway = gateway::Gateway::start_in(folder(), &text, &shell);
    let mut session = Peer::open(gateway.address(), "/app");
    let process = fs::read_to_string(gateway.directory.join("config.toml.pid")).expect("the shell wrote it");
    let kill = |signal: &str| Command::new("kill").args(["-s", signal, process.trim()]).status().expect("kill runs");
    assert!(kill("HUP").success());
    assert!(gateway.log("/dev/stdin").contains("is no regular file"), "{}", gateway.output());
    gateway.log("not reloaded: ");
    assert!(says(&mut session, "still here"));
    assert!(kill("KILL").success());
}

/// Whether a message of 11 bytes is too long by now: the client's own, or the echo of one that passed just before.
fn peer_is_refused(peer: &mut Peer) -> bool {
    peer.write(&masked(BINARY, b"eleven byte"));
    let frame = peer.frame();
    frame.opcode == CLOSE && [1009, 1011].contains(&frame.close().0)
}

#[test]
fn diff_tells_what_a_reload_would_do() {
    let folder = folder();
    let upstream = "127.0.0.1:9000".parse().expect("an address");
    let old = text(upstream, "", "[[route]]\nname = \"gone\"\npath = \"/gone\"\nupstream = \"app\"\n");
    let new = text(upstream, "idle_timeout = \"5m\"\norigins = [\"any\"]", "[runtime]\nworkers = 2\n");
    fs::write(folder.join("old.toml"), &old).expect("written");
    fs::write(folder.join("new.toml"), &new).expect("written");
    fs::write(folder.join("bad.toml"), "[[listener").expect("written");
    let diff = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .arg("diff")
            .args(arguments)
            .current_dir(&folder)
            .output();
        let output = output.expect("the binary runs");
        (output.status.code(), String::from_utf8(output.stdout).expect("UTF-8"))
    };
    assert_eq!(diff(&["old.toml", "old.toml"]), (Some(0), "nothing would change\n".to_owned()));
    assert_eq!(diff(&["old.toml", "bad.toml"]).0, Some(1));
    let (code, said) = diff(&["old.toml", "new.toml"]);
    assert_eq!(code, Some(3), "{said}");
    for line in [
        "- route gone: its sessions are closed with 1012",
        "~ route app: its sessions stay",
        "    idle_timeout: \"off\" -> \"5m\" (open sessions too)",
        "    origins: ",
        "~ runtime.workers: \"auto\" -> 2 (needs a restart)",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    let (code, said) = diff(&["old.toml", "new.toml", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((code, &json["routes"]["removed"][0]), (Some(3), &serde_json::json!("gone")));
    assert_eq!(json["restart"][0]["key"], "runtime.workers");
    let _ = fs::remove_dir_all(&folder);
}
