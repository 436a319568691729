//! Who the client is, end to end: PROXY headers, chains of proxies, Unix sockets, identities. What the log says and what
//! the upstream is told.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use support::client::{Peer, TEXT, masked, request, unmasked};
use support::gateway::{Gateway, config, folder};
use support::http::{Head, Reply, status};
use support::tls::{self, Authority};
use support::upstream::{Seen, agreeing, answering, serve, switching};
use support::{PATIENCE, eventually};

const SHELL: &str = "exec \"$0\" \"$@\"";
const PROXIED: &str = "trusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]\nproxy_protocol = true";
/// A line for 198.51.100.7, and the same in version 2 with an extension.
const LINE: &[u8] = b"PROXY TCP4 198.51.100.7 10.0.0.1 4711 443\r\n";
const BINARY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10\xc6\x33\x64\x07\x0a\0\0\x01\x12\x67\x01\xbb\x04\0\x01\0";

/// Upstreams that agree to everything answer no Close.
const NO_WAIT: &str = "close_timeout = \"100ms\"\n";

/// The configuration of an upstream that agrees to everything, behind a listener with these lines.
fn behind(listener: &str, route: &str, more: &str) -> (String, Seen) {
    let (upstream, seen) = agreeing();
    (listen(&config(upstream, &format!("{NO_WAIT}{route}"), more), listener), seen)
}

fn listen(text: &str, lines: &str) -> String {
    text.replacen("\"127.0.0.1:0\"\n", &format!("\"127.0.0.1:0\"\n{lines}\n"), 1)
}

/// Sends a header and a request in one write, takes the 101 and leaves.
fn opens(address: SocketAddr, header: &[u8], head: &Head) {
    let mut peer = Peer::connect(address);
    peer.write(&[header, head.text().as_bytes()].concat());
    let answer = peer.head();
    assert_eq!(status(&answer), 101, "{answer}");
}

/// What the upstream was told, and whom the log names.
fn told(seen: &Seen, gateway: &Gateway, sessions: usize) -> (String, String, String) {
    let wire = Reply { head: seen.last(), body: Vec::new() };
    let mut records = String::new();
    eventually("the session's record", || {
        records = gateway.log("session ended");
        records.lines().count() == sessions
    });
    let record = records.lines().last().expect("a record");
    let client = record.split(" client=").nth(1).and_then(|rest| rest.split(' ').next()).expect("a client");
    (client.to_owned(), wire.all("x-forwarded-for").join(" | "), wire.all("forwarded").join(" | "))
}

/// Name, PROXY header and request; the client's address, X-Forwarded-For and the addresses of Forwarded.
type Row<'a> = (&'a str, &'a [u8], &'a Head, &'a str, &'a str, &'a str);

#[test]
fn clients_behind_proxy_headers_and_chains() {
    let (text, seen) = behind(PROXIED, "", "");
    let gateway = Gateway::start(&text);
    let spoofed = Head::new("/").with("X-Forwarded-For: 6.6.6.6").with("Forwarded: for=6.6.6.6");
    let chain = Head::new("/").with("X-Forwarded-For: 6.6.6.6, 203.0.113.9");
    let rfc7239 = Head::new("/").with("Forwarded: for=6.6.6.6, for=\"[2001:db8::9]:_p\"");
    let v4 = "198.51.100.7";
    #[rustfmt::skip]
    let rows: [Row<'_>; 11] = [
        ("a line", LINE, &Head::new("/"), v4, v4, "for=198.51.100.7"),
        ("version 2", BINARY, &Head::new("/"), v4, v4, "for=198.51.100.7"),
        ("what the client adds", LINE, &spoofed, v4, v4, "for=198.51.100.7"),
        ("what the client adds, version 2", BINARY, &chain, v4, v4, "for=198.51.100.7"),
        ("IPv6", b"PROXY TCP6 2001:db8::7 fd00::1 4711 443\r\n", &chain, "2001:db8::7", "2001:db8::7",
            "for=\"[2001:db8::7]\""),
        ("IPv4 written as IPv6", b"PROXY TCP6 ::ffff:198.51.100.7 ::ffff:10.0.0.1 4711 443\r\n", &chain, v4, v4,
            "for=198.51.100.7"),
        ("a trusted proxy in front of the proxy", b"PROXY TCP4 10.0.0.2 10.0.0.1 1 2\r\n", &chain, "203.0.113.9",
            "6.6.6.6, 203.0.113.9, 10.0.0.2", "for=6.6.6.6, for=203.0.113.9, for=10.0.0.2"),
        ("the same in RFC 7239", b"PROXY TCP4 10.0.0.2 10.0.0.1 1 2\r\n", &rfc7239, "2001:db8::9",
            "6.6.6.6, 2001:db8::9, 10.0.0.2", "for=6.6.6.6, for=\"[2001:db8::9]:_p\", for=10.0.0.2"),
        ("the proxy itself", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", &chain, "203.0.113.9",
            "6.6.6.6, 203.0.113.9, 127.0.0.1", "for=6.6.6.6, for=203.0.113.9, for=127.0.0.1"),
        ("nobody knows", b"PROXY UNKNOWN\r\n", &chain, "127.0.0.1", "127.0.0.1", "for=127.0.0.1"),
        ("nobody knows, version 2", b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0", &chain, "127.0.0.1", "127.0.0.1",
            "for=127.0.0.1"),
    ];
    for (at, (name, header, head, client, x_for, rfc7239)) in rows.into_iter().enumerate() {
        opens(gateway.address(), header, head);
        let (found, found_x, found_rfc) = told(&seen, &gateway, at + 1);
        assert_eq!((found.as_str(), found_x.as_str()), (client, x_for), "{name}");
        assert_eq!(found_rfc.split(';').next(), Some(rfc7239), "{name}: {found_rfc}");
    }
}

#[test]
fn a_header_in_pieces_and_frames_right_behind() {
    let upstream = serve(|mut peer| {
        let head = peer.head();
        peer.write(switching(&head, "").as_bytes());
        let frame = peer.frame();
        peer.write(&unmasked(TEXT, &frame.payload));
        peer.drain();
    });
    let gateway = Gateway::start(&listen(&config(upstream, "", ""), PROXIED));
    for header in [LINE, BINARY] {
        let mut peer = Peer::connect(gateway.address());
        for byte in header {
            peer.write(&[*byte]);
        }
        peer.write(&[request("/", "").as_bytes(), &masked(TEXT, b"early")].concat());
        assert_eq!(status(&peer.head()), 101);
        assert_eq!(peer.frame().payload, b"early");
    }
}

#[test]
fn a_header_in_front_of_tls() {
    let authority = Authority::new("test");
    let folder = folder();
    let (certificate, key) = authority.issue(&["localhost"]).write(&folder, "server");
    let tls = format!("tls = {{ certificate = {certificate:?}, key = {key:?} }}\n{PROXIED}");
    let (text, seen) = behind(&tls, "", "");
    let gateway = Gateway::start_in(folder, &text, SHELL);
    for (at, header) in [LINE, BINARY].into_iter().enumerate() {
        let mut socket = std::net::TcpStream::connect(gateway.address()).expect("it listens");
        socket.write_all(header).expect("it is written");
        let mut peer = tls::connect_over(socket, "localhost", &authority.client(None)).expect("TLS behind the header");
        peer.write(request("/", "X-Forwarded-For: 6.6.6.6\r\n").as_bytes());
        assert_eq!(status(&peer.head()), 101);
        drop(peer);
        let (client, x_for, _) = told(&seen, &gateway, at + 1);
        assert_eq!((client.as_str(), x_for.as_str()), ("198.51.100.7", "198.51.100.7"));
    }
    // TLS without a header is no header.
    assert!(tls::connect(gateway.address(), "localhost", &authority.client(None)).is_err());
    assert!(gateway.log("proxy_header_missing").contains("client=127.0.0.1"));
}

#[test]
fn who_may_not_choose() {
    let (text, seen) = behind(&format!("{PROXIED}\nproxy_protocol_timeout = \"300ms\""), "", "");
    let gateway = Gateway::start(&text);
    let head = request("/", "");
    let too_long = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"[..], &[0; 100]].concat();
    #[rustfmt::skip]
    let rows: [(&str, &[u8], &str); 9] = [
        ("a trusted proxy without a header", head.as_bytes(), "proxy_header_missing"),
        ("a header in lower case", b"proxy TCP4 198.51.100.7 10.0.0.1 4711 443\r\n", "proxy_header_missing"),
        ("a port above 65535", b"PROXY TCP4 198.51.100.7 10.0.0.1 65536 443\r\n", "proxy_header_malformed"),
        ("a leading zero", b"PROXY TCP4 198.51.100.07 10.0.0.1 4711 443\r\n", "proxy_header_malformed"),
        ("an extra space", b"PROXY TCP4  198.51.100.7 10.0.0.1 4711 443\r\n", "proxy_header_malformed"),
        ("version 3", b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c", "proxy_header_malformed"),
        ("a length that does not fit", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04\xc6\x33\x64\x07", "proxy_header_malformed"),
        ("a length beyond all bounds", &too_long, "proxy_header_malformed"),
        ("a header that is cut", b"PROXY TCP4 198.51.100.7 ", "proxy_header_timeout"),
    ];
    for (at, (name, bytes, reason)) in rows.into_iter().enumerate() {
        let mut peer = Peer::connect(gateway.address());
        let _ = peer.try_write(bytes);
        assert_eq!(peer.rest(), b"", "{name}: nothing is answered");
        let mut lines = String::new();
        eventually(name, || {
            lines = gateway.output().lines().filter(|line| line.contains("closed before a request")).collect();
            lines.matches("closed before").count() == at + 1
        });
        let last = lines.rsplit("closed before").next().expect("a line");
        assert!(last.contains(&format!("reason=\"{reason}\" client=127.0.0.1")), "{name}: {last}");
    }
    assert_eq!(seen.connections(), 0);

    // One who is not trusted cannot begin with a header, nor without one.
    let (text, seen) = behind("trusted_proxies = [\"10.0.0.0/8\"]\nproxy_protocol = true", "", "");
    let gateway = Gateway::start(&text);
    for bytes in [&[LINE, head.as_bytes()].concat(), head.as_bytes()] {
        let mut peer = Peer::connect(gateway.address());
        let _ = peer.try_write(bytes);
        assert_eq!(peer.rest(), b"");
    }
    assert!(gateway.log("proxy_not_trusted").contains("client=127.0.0.1"));
    assert_eq!(seen.connections(), 0);

    // Without the key a header is no HTTP, whoever sends it.
    let (text, _) = behind("trusted_proxies = [\"127.0.0.1\"]", "", "");
    let gateway = Gateway::start(&text);
    assert_eq!(support::http::ask(gateway.address(), &[LINE, head.as_bytes()].concat()).status(), 400);
}

#[test]
fn a_header_that_never_goes_on_does_not_hold_up_the_end() {
    let (text, _) = behind(&format!("{PROXIED}\nproxy_protocol_timeout = \"10m\""), "", "[drain]\ngrace = \"10m\"");
    let mut gateway = Gateway::start(&text);
    let mut peer = Peer::connect(gateway.address());
    peer.write(b"PROXY TCP4 ");
    opens(gateway.address(), LINE, &Head::new("/"));
    gateway.signal("TERM");
    assert!(gateway.wait().success());
    assert_eq!(peer.rest(), b"");
}

// Unix sockets.

fn unix(folder: &Path, more: &str, upstream: SocketAddr) -> String {
    let address = format!("\"unix:{}\"\n{more}\n", folder.join("gate.sock").display());
    config(upstream, NO_WAIT, "").replacen("\"127.0.0.1:0\"\n", &address, 1)
}

/// Sends a request over the gateway's socket; the head of the answer, and the connection.
fn ask(folder: &Path, bytes: &[u8]) -> (String, UnixStream) {
    let mut stream = UnixStream::connect(folder.join("gate.sock")).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(bytes).expect("it is written");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    (String::from_utf8(head).expect("UTF-8"), stream)
}

#[test]
fn a_session_over_a_unix_socket() {
    let upstream = serve(|mut peer| {
        let head = peer.head();
        peer.write(switching(&head, "").as_bytes());
        while let Some(frame) = peer.next_frame() {
            if peer.try_write(&unmasked(frame.opcode, &frame.payload)).is_err() {
                return;
            }
        }
    });
    let folder = folder();
    let socket = folder.join("gate.sock");
    let mut gateway = Gateway::start_in(folder.clone(), &unix(&folder, "", upstream), SHELL);
    assert!(gateway.output().contains(&format!("listening on unix:{}\n", socket.display())), "{}", gateway.output());
    let metadata = fs::symlink_metadata(&socket).expect("it is there");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    let (head, mut stream) = ask(&folder, &[request("/", "").as_bytes(), &masked(TEXT, b"early")].concat());
    assert_eq!(status(&head), 101);
    let mut frame = [0; 7];
    stream.read_exact(&mut frame).expect("a frame");
    assert_eq!(&frame[2..], b"early");
    drop(stream);
    assert!(gateway.end_record().contains(" client=local "));
    gateway.signal("TERM");
    assert!(gateway.wait().success());
    assert!(!socket.exists(), "its file goes with it");
}

#[test]
fn whom_a_unix_socket_speaks_for() {
    const CHAIN: &str = "X-Forwarded-For: 6.6.6.6, 198.51.100.7\r\nX-Forwarded-Proto: https\r\n";
    let rows = [
        ("not trusted", "", "", CHAIN, "local", "unknown", "for=unknown;proto=http;host=localhost"),
        (
            "trusted",
            "trusted_proxies = [\"unix\"]",
            "",
            "",
            "local",
            "unknown",
            "for=unknown;proto=http;host=localhost",
        ),
        (
            "trusted, for another",
            "trusted_proxies = [\"unix\"]",
            "",
            CHAIN,
            "198.51.100.7",
            "6.6.6.6, 198.51.100.7",
            "for=6.6.6.6, for=198.51.100.7;proto=https;host=localhost",
        ),
        (
            "trusted, with a PROXY header",
            "trusted_proxies = [\"unix\"]\nproxy_protocol = true",
            "PROXY TCP4 198.51.100.7 10.0.0.1 4711 443\r\n",
            CHAIN,
            "198.51.100.7",
            "198.51.100.7",
            "for=198.51.100.7;proto=http;host=localhost",
        ),
    ];
    for (name, listener, header, fields, client, x_for, rfc7239) in rows {
        let (upstream, seen) = agreeing();
        let folder = folder();
        let gateway = Gateway::start_in(folder.clone(), &unix(&folder, listener, upstream), SHELL);
        let (head, stream) = ask(&folder, format!("{header}{}", request("/", fields)).as_bytes());
        assert_eq!(status(&head), 101, "{name}");
        drop(stream);
        let expected = (client.to_owned(), x_for.to_owned(), rfc7239.to_owned());
        assert_eq!(told(&seen, &gateway, 1), expected, "{name}");
    }
}

#[test]
fn files_in_the_way_of_a_unix_socket() {
    let (upstream, _) = agreeing();
    let folder = folder();
    let socket = folder.join("gate.sock");
    let text = unix(&folder, "", upstream);
    let fails = |why: &str| {
        fs::write(folder.join("config.toml"), &text).expect("written");
        let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["run", "--config"])
            .arg(folder.join("config.toml"))
            .output()
            .expect("the binary runs");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{why}: {told}");
        assert!(told.contains("cannot listen on unix:") && told.contains("another program listens there"), "{told}");
    };
    fs::write(&socket, "a file").expect("written");
    fails("a file that is no socket");
    assert_eq!(fs::read(&socket).expect("it is left alone"), b"a file");
    fs::remove_file(&socket).expect("removed");

    let another = UnixListener::bind(&socket).expect("a socket");
    fails("somebody listens there");
    UnixStream::connect(&socket).expect("it is left alone");

    // Nobody listens any more, as after a crash.
    drop(another);
    assert!(socket.exists());
    let mut gateway = Gateway::start_in(folder.clone(), &text, SHELL);
    assert_eq!(status(&ask(&folder, request("/", "").as_bytes()).0), 101);

    // Somebody else's by now.
    fs::remove_file(&socket).expect("removed");
    let another = UnixListener::bind(&socket).expect("a socket");
    gateway.signal("TERM");
    assert!(gateway.wait().success());
    assert!(socket.exists(), "the file of another stays");
    drop(another);
}

#[test]
fn the_peers_of_a_unix_socket_are_one_client() {
    let (upstream, _) = agreeing();
    let folder = folder();
    let text = unix(&folder, "", upstream) + "\n[limits]\nsessions_per_client = 1\n";
    let _gateway = Gateway::start_in(folder.clone(), &text, SHELL);
    let (head, _held) = ask(&folder, request("/", "").as_bytes());
    assert_eq!(status(&head), 101);
    assert_eq!(status(&ask(&folder, request("/", "").as_bytes()).0), 429);
}

// Keys.

#[test]
fn a_header_of_a_trusted_proxy_is_the_client() {
    let limits = "[limits]\nsessions_per_client = 1\n";
    let (text, _) = behind("trusted_proxies = [\"127.0.0.1\"]", "client = \"header:X-User\"", limits);
    let gateway = Gateway::start(&text);
    let mut held = Vec::new();
    let mut asks = |fields: &str| {
        let mut peer = Peer::connect(gateway.address());
        peer.write(request("/", fields).as_bytes());
        let status = status(&peer.head());
        held.push(peer);
        status
    };
    #[rustfmt::skip]
    let rows = [
        ("one user", "X-User: kim\r\nX-Forwarded-For: 198.51.100.7\r\n", 101),
        ("another user at the same address", "X-User: tom\r\nX-Forwarded-For: 198.51.100.7\r\n", 101),
        ("the same user at another address", "X-User: kim\r\nX-Forwarded-For: 198.51.100.8\r\n", 429),
        ("nobody: the address", "X-Forwarded-For: 198.51.100.7\r\n", 101),
        ("nobody at the same address", "X-Forwarded-For: 198.51.100.7\r\n", 429),
        ("two users: the address", "X-User: x\r\nX-User: y\r\nX-Forwarded-For: 198.51.100.7\r\n", 429),
    ];
    for (name, fields, expected) in rows {
        assert_eq!(asks(fields), expected, "{name}");
    }
    let output = gateway.output();
    assert!(!output.contains("kim") && !output.contains("tom"), "no identity in the log: {output}");

    let (text, _) = behind("", "client = \"header:X-User\"", limits);
    let gateway = Gateway::start(&text);
    let _held = {
        let mut peer = Peer::connect(gateway.address());
        peer.write(request("/", "X-User: ada\r\n").as_bytes());
        assert_eq!(status(&peer.head()), 101);
        peer
    };
    assert_eq!(Head::new("/").with("X-User: bob").ask(gateway.address()).status(), 429, "anybody could write it");
}

#[test]
fn networks_of_ipv6_are_one_client() {
    let (upstream, _) = answering(|head| switching(head, "").into_bytes());
    let limits = "[limits]\nsessions_per_client = 1\nipv6_prefix = 56\n";
    let gateway = Gateway::start(&listen(&config(upstream, "", limits), "trusted_proxies = [\"127.0.0.1\"]"));
    let mut held = Vec::new();
    let rows = [
        ("2001:db8:1:100::1", 101),
        ("2001:db8:1:1ff:5::1", 429),
        ("2001:db8:1:200::1", 101),
        ("192.0.2.1", 101),
        ("::ffff:192.0.2.1", 429),
        ("64:ff9b::192.0.2.1", 429),
        ("2002:c000:201:7::1", 429),
        ("192.0.2.2", 101),
    ];
    for (address, expected) in rows {
        let mut peer = Peer::connect(gateway.address());
        peer.write(request("/", &format!("X-Forwarded-For: {address}\r\n")).as_bytes());
        assert_eq!(status(&peer.head()), expected, "{address}");
        held.push(peer);
    }
}
