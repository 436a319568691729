//! Who is let in, end to end: the real binary, networks and API keys, read on the wire and in the log.

mod support;

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::Receiver;

use support::admin;
use support::client::{CLOSE, Peer, TEXT, close_payload, masked, unmasked};
use support::gateway::{Gateway, config, folder};
use support::http::{Head, Reply, ask, status};
use support::upstream::{Seen, agreeing, answering, field, scripted, switching};
use support::{PATIENCE, eventually};

const ADA: &str = "ada-0123456789/+=";
const BOB: &str = "bob.fedcba9876543210";
const WRONG: &str = "eve-guesses-something";
/// Every word that must never be seen outside.
const SECRETS: [&str; 4] = [ADA, BOB, WRONG, "ada-0123456789%2F%2B%3D"];
const EVERY_PLACE: &str = "keys = { file = \"keys.txt\", header = \"X-API-Key\", query = \"key\", bearer = true }";

fn both() -> String {
    format!("# who may come\nada: {ADA}\n{BOB}\n")
}

/// A gateway whose route wants a key of `keys.txt`.
fn gateway(upstream: std::net::SocketAddr, route: &str, more: &str) -> Gateway {
    let folder = folder();
    fs::write(folder.join("keys.txt"), both()).expect("written");
    let more = format!("[log]\nlevel = \"trace\"\n{more}");
    Gateway::start_in(folder, &config(upstream, route, &more), "exec \"$0\" \"$@\"")
}

/// Everything that the gateway has printed, with its level at the finest.
#[track_caller]
fn tells_no_key(gateway: &Gateway) {
    let output = gateway.output();
    for secret in SECRETS {
        assert!(!output.contains(secret), "{secret} is in the log:\n{output}");
    }
}

#[track_caller]
fn saw_no_key(seen: &Seen) {
    for head in seen.heads() {
        assert!(!SECRETS.iter().any(|secret| head.contains(secret)), "{head}");
        assert!(!head.to_ascii_lowercase().contains("bearer"), "{head}");
    }
}

/// Replaces a file as editors and secret stores do.
fn replace(file: &Path, text: &str) {
    let next = file.with_extension("next");
    fs::write(&next, text).expect("written");
    fs::rename(next, file).expect("renamed");
}

#[test]
fn a_key_opens_from_every_place_and_the_upstream_never_sees_it() {
    let (upstream, seen) = answering(|head| {
        let chosen = field(head, "sec-websocket-protocol");
        let more = chosen.map(|_| "Sec-WebSocket-Protocol: chat\r\n".to_owned()).unwrap_or_default();
        switching(head, &more).into_bytes()
    });
    // Nobody answers the gateway's Close there.
    let gateway = gateway(upstream, &format!("close_timeout = \"50ms\"\n{EVERY_PLACE}"), "");
    #[rustfmt::skip]
    let rows = [
        ("a field", Head::new("/x?a=1").with(&format!("X-API-Key: {ADA}")), "/x?a=1", None, None, "ada"),
        ("a field, in small letters", Head::new("/x").with(&format!("x-api-key: {BOB}")), "/x", None, None, "line 3"),
        ("the query", Head::new("/x?a=%20&key=ada-0123456789%2F%2B%3D&b=+&&c"), "/x?a=%20&b=+&&c", None, None, "ada"),
        ("the query, unencoded", Head::new(&format!("/x?key={ADA}")), "/x", None, None, "ada"),
        ("a subprotocol", Head::new("/x").with(&format!("Sec-WebSocket-Protocol: chat, bearer.{BOB}")),
            "/x", Some("chat"), Some("chat"), "line 3"),
        ("a subprotocol, encoded", Head::new("/x").with("Sec-WebSocket-Protocol: bearer.ada-0123456789%2F%2B%3D, chat"),
            "/x", Some("chat"), Some("chat"), "ada"),
        ("where the service has none", Head::new("/x").with(&format!("Sec-WebSocket-Protocol: bearer, bearer.{BOB}")),
            "/x", None, Some("bearer"), "line 3"),
        ("where it may have one", Head::new("/x").with(&format!("Sec-WebSocket-Protocol: bearer, chat, bearer.{BOB}")),
            "/x", Some("chat"), Some("chat"), "line 3"),
    ];
    for (number, (what, head, target, offered, answered, name)) in rows.into_iter().enumerate() {
        let mut peer = Peer::connect(gateway.address());
        peer.write(head.text().as_bytes());
        let answer = peer.head();
        assert_eq!(status(&answer), 101, "{what}: {answer}");
        assert_eq!(field(&answer, "sec-websocket-protocol").as_deref(), answered, "{what}");
        let seen = seen.last();
        assert!(seen.starts_with(&format!("GET {target} HTTP/1.1\r\n")), "{what}: {seen}");
        assert_eq!(field(&seen, "sec-websocket-protocol").as_deref(), offered, "{what}");
        assert_eq!(field(&seen, "x-api-key"), None, "{what}");
        drop(peer);
        eventually("its record", || gateway.output().matches("session ended").count() == number + 1);
        let output = gateway.output();
        let record = output.lines().rfind(|line| line.contains("session ended")).expect("just seen");
        assert!(record.contains(&format!("key=\"{name}\"")), "{what}: {record}");
    }
    saw_no_key(&seen);
    tells_no_key(&gateway);
}

#[test]
fn a_token_in_authorization() {
    let (upstream, seen) = agreeing();
    let gateway = gateway(upstream, "keys = { file = \"keys.txt\", header = \"Authorization\" }", "");
    assert!(Head::new("/").with(&format!("Authorization: Bearer {ADA}")).opens(gateway.address()));
    assert_eq!(field(&seen.last(), "authorization"), None);
    let basic = Head::new("/").with("Authorization: Basic YTpi").ask(gateway.address());
    assert_eq!((basic.status(), basic.all("www-authenticate")), (401, vec!["Bearer".to_owned()]));
    tells_no_key(&gateway);
}

#[test]
fn without_a_right_key_nothing_is_dialled() {
    let (upstream, seen) = agreeing();
    let gateway = gateway(upstream, EVERY_PLACE, "");
    let offer = |list: &str| Head::new("/").with(&format!("Sec-WebSocket-Protocol: {list}"));
    let invalid = "Bearer error=\"invalid_token\"";
    #[rustfmt::skip]
    let rows = [
        ("no key", Head::new("/"), 401, "api_key_missing", Some("Bearer")),
        ("a wrong field", Head::new("/").with(&format!("X-API-Key: {WRONG}")), 401, "api_key_unknown", Some(invalid)),
        ("an empty field", Head::new("/").with("X-API-Key:"), 401, "api_key_unknown", Some(invalid)),
        ("a wrong query", Head::new(&format!("/?key={WRONG}")), 401, "api_key_unknown", Some(invalid)),
        ("a wrong subprotocol", offer(&format!("chat, bearer.{WRONG}")), 401, "api_key_unknown", Some(invalid)),
        ("a part of a key", Head::new(&format!("/?key={}", &BOB[..19])), 401, "api_key_unknown", Some(invalid)),
        ("more than a key", Head::new(&format!("/?key={BOB}x")), 401, "api_key_unknown", Some(invalid)),
        ("the name of a key", Head::new("/?key=ada"), 401, "api_key_unknown", Some(invalid)),
        ("two keys", Head::new(&format!("/?key={BOB}")).with(&format!("X-API-Key: {BOB}")), 400, "api_key_repeated", None),
        ("a key as the only subprotocol", offer(&format!("bearer.{BOB}")), 400, "api_key_alone", None),
    ];
    for (number, (what, head, expected, label, challenge)) in rows.into_iter().enumerate() {
        let answer = head.ask(gateway.address());
        assert_eq!(answer.status(), expected, "{what}: {answer:?}");
        assert_eq!(answer.all("www-authenticate"), Vec::from_iter(challenge), "{what}");
        assert!(!SECRETS.iter().any(|secret| answer.text().contains(secret)), "{what}: {answer:?}");
        eventually("its record", || gateway.output().matches(" refused ").count() == number + 1);
        let output = gateway.output();
        let record = output.lines().rfind(|line| line.contains(" refused ")).expect("just seen");
        assert!(record.contains(&format!("reason=\"{label}\" status={expected}")), "{what}: {record}");
    }
    assert_eq!(seen.connections(), 0);
    tells_no_key(&gateway);
}

#[test]
fn a_page_can_read_why_its_key_was_refused() {
    let (upstream, seen) = agreeing();
    let gateway = gateway(upstream, &format!("refuse = \"close\"\n{EVERY_PLACE}"), "");
    let rows = [
        (format!("bearer.{WRONG}, chat, other"), Some("chat")),
        (format!("bearer, bearer.{WRONG}"), Some("bearer")),
        (format!("bearer.{BOB}"), None),
    ];
    for (offer, answered) in rows {
        let mut peer = Peer::connect(gateway.address());
        peer.write(Head::new("/").with(&format!("Sec-WebSocket-Protocol: {offer}")).text().as_bytes());
        let head = peer.head();
        assert_eq!(status(&head), 101, "{head}");
        let line = answered.map(|name| format!("Sec-WebSocket-Protocol: {name}"));
        assert_eq!(head.lines().find(|line| line.starts_with("Sec-WebSocket-Protocol")), line.as_deref(), "{head}");
        assert_eq!(peer.frame().close().0, 1008);
    }
    assert_eq!(seen.connections(), 0);
    tells_no_key(&gateway);
}

#[test]
fn guesses_at_a_key_are_handshakes() {
    let (upstream, seen) = agreeing();
    let gateway = gateway(upstream, EVERY_PLACE, "[limits]\nhandshakes_per_client = \"3/h\"");
    let guess = || Head::new(&format!("/?key={WRONG}")).ask(gateway.address()).status();
    assert_eq!([guess(), guess(), guess(), guess()], [401, 401, 401, 429]);
    let right = Head::new(&format!("/?key={BOB}")).ask(gateway.address()).status();
    assert_eq!(right, 429, "who guesses too often does not learn that one was right");
    assert_eq!(seen.connections(), 0);
}

/// Opens a session with a key.
fn open(gateway: &Gateway, upstream: &Receiver<(Peer, String)>, key: &str) -> (Peer, Peer) {
    let mut client = Peer::connect(gateway.address());
    client.write(Head::new("/").with(&format!("X-API-Key: {key}")).text().as_bytes());
    let server = upstream.recv_timeout(PATIENCE).expect("a connection").0;
    assert_eq!(status(&client.head()), 101);
    (client, server)
}

fn opens(gateway: &Gateway, key: &str) -> bool {
    let mut client = Peer::connect(gateway.address());
    client.write(Head::new("/").with(&format!("X-API-Key: {key}")).text().as_bytes());
    status(&client.head()) == 101
}

fn revoked(client: &mut Peer, server: &mut Peer) {
    assert_eq!(client.frame().close(), (1008, "access revoked".to_owned()));
    client.write(&masked(CLOSE, &close_payload(1008, "")));
    assert_eq!(server.frame().close().0, 1001);
    server.write(&unmasked(CLOSE, &close_payload(1001, "")));
}

fn talks(client: &mut Peer, server: &mut Peer) {
    client.write(&masked(TEXT, b"still here"));
    assert_eq!(server.frame().payload, b"still here");
}

#[test]
fn a_key_that_leaves_the_file_ends_its_sessions_and_no_others() {
    let (upstream, connections) = scripted();
    let gateway = gateway(upstream, EVERY_PLACE, "");
    let file = gateway.directory.join("keys.txt");
    let mut ada = open(&gateway, &connections, ADA);
    let mut bob = open(&gateway, &connections, BOB);

    replace(&file, &format!("bob: {BOB}\ncarol: carols-own-0123456789\n"));
    revoked(&mut ada.0, &mut ada.1);
    let record = gateway.log("access_revoked");
    assert!(record.contains("cause=\"access_revoked\" side=\"gateway\""), "{record}");
    assert!(record.contains("key=\"ada\"") && record.contains("close_to_client=1008"), "{record}");
    assert!(record.contains("close_to_upstream=1001"), "{record}");
    assert!(!opens(&gateway, ADA) && opens(&gateway, "carols-own-0123456789"));
    talks(&mut bob.0, &mut bob.1);

    // In place, and the session outlived a file in which its key had another name.
    fs::write(&file, "carol: carols-own-0123456789\n").expect("written");
    revoked(&mut bob.0, &mut bob.1);
    assert!(gateway.log("API keys were read again").contains("revoked=1"));
    tells_no_key(&gateway);
}

#[test]
fn a_drain_does_not_save_a_session_whose_key_leaves_the_file() {
    let (upstream, connections) = scripted();
    let more = "[drain]\nwindow = \"0s\"\ngrace = \"60s\"\n[admin]\naddress = \"127.0.0.1:0\"\n";
    let gateway = gateway(upstream, EVERY_PLACE, more);
    let (mut client, mut server) = open(&gateway, &connections, ADA);
    let mut begin = masked(TEXT, b"begin");
    begin[0] &= 0x7f;
    client.write(&begin);
    assert_eq!(server.frame().payload, b"begin");
    assert_eq!(admin::call(gateway.admin(), "POST /drain", &[], "{\"route\":\"test\"}").status(), 202);
    eventually("the session is told to leave", || admin::json(gateway.admin(), "GET /sessions/1")["ending"] == "drain");
    replace(&gateway.directory.join("keys.txt"), &format!("bob: {BOB}\n"));
    revoked(&mut client, &mut server);
    let record = gateway.end_record();
    assert!(record.contains("cause=\"access_revoked\"") && record.contains("close_to_client=1008"), "{record}");
}

#[test]
fn a_file_behind_symlinks_that_are_swapped() {
    let (upstream, connections) = scripted();
    let folder = folder();
    // As Kubernetes mounts a secret: keys.txt -> ..data/keys.txt, ..data -> a folder for each version.
    for (version, text) in [("1", both()), ("2", format!("bob: {BOB}\n"))] {
        fs::create_dir(folder.join(version)).expect("a folder");
        fs::write(folder.join(version).join("keys.txt"), text).expect("written");
    }
    symlink("1", folder.join("..data")).expect("a link");
    symlink("..data/keys.txt", folder.join("keys.txt")).expect("a link");
    let gateway = Gateway::start_in(folder, &config(upstream, EVERY_PLACE, ""), "exec \"$0\" \"$@\"");
    let mut ada = open(&gateway, &connections, ADA);
    let mut bob = open(&gateway, &connections, BOB);
    let next = gateway.directory.join("..next");
    symlink("2", &next).expect("a link");
    fs::rename(next, gateway.directory.join("..data")).expect("swapped");
    revoked(&mut ada.0, &mut ada.1);
    talks(&mut bob.0, &mut bob.1);
    assert!(!opens(&gateway, ADA) && opens(&gateway, BOB));
}

#[test]
fn a_file_that_cannot_be_used_keeps_the_keys_and_is_told_once() {
    let (upstream, connections) = scripted();
    let gateway = gateway(upstream, EVERY_PLACE, "");
    let file = gateway.directory.join("keys.txt");
    let mut ada = open(&gateway, &connections, ADA);
    replace(&file, &format!("ada: {ADA}\nshort: {}\n", &WRONG[..9]));
    let record = gateway.log("were not read again");
    assert!(record.contains("ERROR") && record.contains("line 2: the key is shorter than 16 characters"), "{record}");
    fs::remove_file(&file).expect("removed");
    eventually("that it is gone is told", || gateway.output().contains("No such file"));
    talks(&mut ada.0, &mut ada.1);
    assert!(opens(&gateway, ADA) && opens(&gateway, BOB));

    replace(&file, &format!("bob: {BOB}\n"));
    revoked(&mut ada.0, &mut ada.1);
    let told = gateway.output().matches("were not read again").count();
    assert_eq!(told, 2, "each of the two once: {}", gateway.output());
    assert!(!gateway.output().contains(&WRONG[..9]));
    tells_no_key(&gateway);
}

#[test]
fn a_file_that_cannot_be_used_does_not_start() {
    let folder = folder();
    let text = config("127.0.0.1:9".parse().expect("an address"), EVERY_PLACE, "");
    fs::write(folder.join("config.toml"), &text).expect("written");
    let check = || {
        let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["check", "--config"])
            .arg(folder.join("config.toml"))
            .output()
            .expect("it runs");
        (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
    };
    let (code, told) = check();
    assert_eq!(code, Some(1));
    assert!(told.contains("config.toml:7:17 route[1].keys.file: cannot be read: No such file"), "{told}");
    fs::write(folder.join("keys.txt"), format!("ada: {ADA}\n\nada: {ADA}\n")).expect("written");
    let (code, told) = check();
    assert_eq!(code, Some(1));
    assert!(told.contains("route[1].keys.file: cannot be used: line 3: the key stands in line 1 already"), "{told}");
    assert!(!told.contains(ADA), "{told}");
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn networks_of_a_route_go_by_the_clients_address() {
    let (upstream, seen) = agreeing();
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let routes = format!(
        "{listener}[[route]]\nname = \"test\"\nupstream = \"test\"\nallow = [\"192.0.2.0/24\", \"2001:db8::/32\"]\n\
         deny = [\"192.0.2.128/25\"]\n[[route]]\npath = \"/page\"\npage = \"chat\"\nallow = [\"192.0.2.1\"]\n\
         [upstream.test]\nservers = [\"ws://{upstream}\"]\n"
    );
    let gateway = Gateway::start(&routes);
    let from = |address: &str| Head::new("/").with(&format!("X-Forwarded-For: {address}"));
    for (address, expected) in [
        ("192.0.2.127", true),
        ("192.0.2.128", false),
        ("198.51.100.1", false),
        ("2001:db8::1", true),
        ("2001:db9::1", false),
        ("::ffff:192.0.2.1", true),
        ("192.0.2.1, 198.51.100.1", false),
    ] {
        let before = seen.connections();
        if expected {
            assert!(from(address).opens(gateway.address()), "{address}");
        } else {
            let answer = from(address).ask(gateway.address());
            assert_eq!(answer.status(), 403, "{address}");
            assert_eq!(seen.connections(), before, "{address}: nothing is dialled");
        }
    }
    assert!(gateway.log("access_denied").contains("client=192.0.2.128"));
    let page = |address: &str| -> Reply {
        let text = format!("GET /page HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX-Forwarded-For: {address}\r\n\r\n");
        ask(gateway.address(), text.as_bytes())
    };
    assert_eq!([page("192.0.2.1").status(), page("192.0.2.2").status()], [200, 403]);
}

#[test]
fn a_listener_closes_peers_that_it_does_not_let_in() {
    let (upstream, seen) = agreeing();
    let listener = |rules: &str| format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{rules}\n");
    let gateway = Gateway::start(&format!(
        "{}{}{}",
        listener("deny = [\"127.0.0.0/8\"]"),
        listener("deny = [\"127.0.0.0/8\"]\ntrusted_proxies = [\"127.0.0.1\"]"),
        config(upstream, "", "[log]\nlevel = \"debug\"\n"),
    ));
    let [denied, behind_a_proxy, open] = gateway.addresses()[..] else { panic!("three listeners") };
    for _ in 0..3 {
        let mut stream = TcpStream::connect(denied).expect("the kernel accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        assert_eq!(stream.read(&mut [0; 1]).expect("an end"), 0, "closed without a word");
    }
    let record = gateway.log("closed a connection");
    assert!(record.lines().all(|line| line.contains("DEBUG")), "{record}");
    let proxied = Head::new("/").with("X-Forwarded-For: 192.0.2.1");
    assert!(proxied.opens(behind_a_proxy), "its client is let in");
    assert_eq!(Head::new("/").ask(behind_a_proxy).status(), 403, "the proxy itself is a client that is not");
    assert!(Head::new("/").opens(open));
    eventually("two were dialled", || seen.connections() == 2);
}
