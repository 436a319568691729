//! wss end to end: certificates, versions, client certificates, and what a start says of files that are wrong.

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustls::ProtocolVersion;
use rustls::version::{TLS12, TLS13};
use support::client::{BINARY, Peer, TEXT, close_payload, masked, request, unmasked};
use support::gateway::{Gateway, config, folder};
use support::http::status;
use support::tls::{self, Authority};
use support::upstream::{serve, switching};

const SHELL: &str = "exec \"$0\" \"$@\"";

/// The configuration of a TLS listener in front of an upstream that returns every frame.
fn text(tls: &str) -> String {
    let upstream = serve(|mut peer| {
        let Some(head) = peer.try_head() else { return };
        peer.write(switching(&head, "").as_bytes());
        while let Some(frame) = peer.next_frame() {
            if peer.try_write(&unmasked(frame.opcode, &frame.payload)).is_err() {
                return;
            }
        }
    });
    listen(&config(upstream, "", ""), tls)
}

fn listen(text: &str, tls: &str) -> String {
    text.replacen("\"127.0.0.1:0\"\n", &format!("\"127.0.0.1:0\"\ntls = {{ {tls} }}\n"), 1)
}

fn pair((certificate, key): &(std::path::PathBuf, std::path::PathBuf)) -> String {
    format!("certificate = {certificate:?}, key = {key:?}")
}

#[test]
fn the_first_start_makes_a_certificate_and_the_second_uses_it() {
    let certs = folder().join("certs");
    let (certificate, key) = (certs.join("localhost.pem"), certs.join("localhost.key"));
    let text = text(&format!("{}, development = true", pair(&(certificate.clone(), key.clone()))));
    let gateway = Gateway::start(&text);
    assert!(gateway.output().contains("listening on wss://"), "{}", gateway.output());
    assert!(gateway.log("made a development certificate").contains("localhost.pem"));
    let mode = fs::metadata(&key).expect("a key").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "for its owner's eyes alone");
    let made = (fs::read(&certificate).expect("a certificate"), fs::read(&key).expect("a key"));

    let client = tls::trusting(&String::from_utf8(made.0.clone()).expect("PEM"));
    let mut peer = tls::connect(gateway.address(), "localhost", &client).expect("TLS");
    peer.write(&[request("/", "").as_bytes(), &masked(TEXT, b"early")].concat());
    assert_eq!(status(&peer.head()), 101);
    assert_eq!(peer.frame().payload, b"early");
    let large = vec![7; 1 << 20];
    peer.write(&masked(2, &large));
    assert!(peer.frame().payload == large);
    peer.write(&masked(8, &close_payload(1000, "bye")));
    assert_eq!(peer.frame().close(), (1000, "bye".to_owned()));
    assert_eq!(peer.next_frame(), None);
    assert!(!peer.cut, "TLS ends in good order");
    assert!(gateway.end_record().contains("client_closed"));
    // The addresses of loopback are names, too.
    tls::meet(gateway.address(), "127.0.0.1", &client).expect("TLS by address");
    drop(gateway);

    let gateway = Gateway::start(&text);
    assert!(!gateway.output().contains("made a development certificate"), "{}", gateway.output());
    assert_eq!((fs::read(&certificate).expect("a certificate"), fs::read(&key).expect("a key")), made);
    tls::meet(gateway.address(), "localhost", &client).expect("TLS");
    let _ = fs::remove_dir_all(certs.parent().expect("a folder"));
}

#[test]
fn the_name_asked_for_chooses_the_certificate() {
    let authority = Authority::new("test");
    let folder = folder();
    let (first, second) = (authority.issue(&["first.test"]), authority.issue(&["second.test", "*.wild.test"]));
    let (one, two) = (first.write(&folder, "first"), second.write(&folder, "second"));
    let tls = format!("{}, certificates = [{{ {} }}]", pair(&one), pair(&two));
    let gateway = Gateway::start_in(folder, &text(&tls), SHELL);
    let rows = [("first.test", &first), ("second.test", &second), ("SECOND.test", &second), ("a.wild.test", &second)];
    for (name, expected) in rows {
        let met = tls::meet(gateway.address(), name, &authority.client(None)).expect(name);
        assert_eq!(met.certificate, *expected.leaf(), "{name}");
        assert_eq!(status(&met.head), 101, "{name}");
    }
    // The first serves the rest; it is for the client to refuse it.
    for name in ["other.test", "a.b.wild.test", "wild.test"] {
        assert!(tls::meet(gateway.address(), name, &authority.client(None)).is_err(), "{name}");
    }
}

#[test]
fn versions_and_protocols_are_agreed_on() {
    let authority = Authority::new("test");
    let identity = authority.issue(&["localhost"]);
    let start = |more: &str| {
        let folder = folder();
        let files = identity.write(&folder, "server");
        Gateway::start_in(folder, &text(&format!("{}{more}", pair(&files))), SHELL)
    };
    let gateway = start("");
    let (old, new) = (authority.client_of(&[&TLS12]), authority.client_of(&[&TLS13]));
    for (client, version) in [(&old, ProtocolVersion::TLSv1_2), (&new, ProtocolVersion::TLSv1_3)] {
        let met = tls::meet(gateway.address(), "localhost", client).expect("TLS");
        assert_eq!((met.version, status(&met.head)), (version, 101));
        assert_eq!(met.protocol, None, "not asked, not said");
    }
    let offering = |protocols: &[&[u8]]| {
        let mut client = authority.client(None);
        client.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        tls::meet(gateway.address(), "localhost", &client)
    };
    let http11 = Some(b"http/1.1".to_vec());
    assert_eq!(offering(&[b"http/1.1"]).expect("TLS").protocol, http11);
    assert_eq!(offering(&[b"h2", b"http/1.1"]).expect("TLS").protocol, http11);
    assert!(offering(&[b"h2"]).is_err(), "RFC 7301: no protocol in common");

    let gateway = start(", min_version = \"1.3\"");
    assert!(tls::meet(gateway.address(), "localhost", &old).is_err());
    assert!(tls::meet(gateway.address(), "localhost", &new).is_ok());
}

#[test]
fn a_ticket_of_one_connection_serves_on_every_other_and_on_every_worker() {
    let authority = Authority::new("test");
    let folder = folder();
    let files = authority.issue(&["localhost"]).write(&folder, "server");
    let text = format!(
        "{}\n[runtime]\nworkers = 4\n\n\
                        [limits]\nhandshakes_per_client = \"off\"\n",
        text(&pair(&files))
    );
    let gateway = Gateway::start_in(folder, &text, SHELL);
    for version in [&TLS12, &TLS13] {
        // Clones of it share their tickets.
        let client = authority.client_of(&[version]);
        let meet = || tls::meet(gateway.address(), "localhost", &client).expect("TLS").resumed;
        assert!(!meet(), "{version:?}: there is no ticket yet");
        // One after the other they land on any worker; all at once on all of them.
        assert!((0..16).all(|_| meet()), "{version:?}");
        let at_once = || {
            std::thread::scope(|scope| {
                let all: Vec<_> = (0..2).map(|_| scope.spawn(meet)).collect();
                all.into_iter().all(|one| one.join().expect("it ends"))
            })
        };
        assert!((0..8).all(|_| at_once()), "{version:?}");
    }
}

#[test]
fn clients_may_have_to_show_a_certificate() {
    let (authority, clients, strangers) =
        (Authority::new("server"), Authority::new("clients"), Authority::new("others"));
    let (known, unknown) = (clients.issue(&["someone"]), strangers.issue(&["someone"]));
    let rows = [("required", [false, true, false]), ("optional", [true, true, false])];
    for (rule, expected) in rows {
        let folder = folder();
        let files = authority.issue(&["localhost"]).write(&folder, "server");
        let ca = folder.join("clients.pem");
        fs::write(&ca, clients.pem()).expect("written");
        let tls = format!("{}, client_auth = \"{rule}\", client_ca = {ca:?}", pair(&files));
        let gateway = Gateway::start_in(folder, &text(&tls), SHELL);
        for (shown, passes) in [None, Some(&known), Some(&unknown)].into_iter().zip(expected) {
            let met = tls::meet(gateway.address(), "localhost", &authority.client(shown));
            let what = format!("{rule}, shown: {:?}", shown.map(|identity| std::ptr::eq(identity, &known)));
            assert_eq!(met.is_ok_and(|met| status(&met.head) == 101), passes, "{what}");
        }
    }
}

#[test]
fn over_tls_the_upstream_learns_https_and_same_origin_is_https() {
    let authority = Authority::new("test");
    let folder = folder();
    let files = authority.issue(&["localhost"]).write(&folder, "server");
    let (upstream, seen) = support::upstream::agreeing();
    let gateway = Gateway::start_in(folder, &listen(&config(upstream, "", ""), &pair(&files)), SHELL);
    for (origin, expected) in [("https://localhost", 101), ("http://localhost", 403)] {
        let mut peer: Peer = tls::connect(gateway.address(), "localhost", &authority.client(None)).expect("TLS");
        peer.write(request("/", &format!("Origin: {origin}\r\n")).as_bytes());
        assert_eq!(status(&peer.head()), expected, "{origin}");
    }
    assert!(seen.last().contains("X-Forwarded-Proto: https\r\n"), "{}", seen.last());
}

/// A client that vanishes without a close_notify is lost, not an error of ours.
#[test]
fn tls_that_is_cut_is_a_client_lost() {
    let authority = Authority::new("test");
    let folder = folder();
    let files = authority.issue(&["localhost"]).write(&folder, "server");
    let gateway = Gateway::start_in(folder, &text(&pair(&files)), SHELL);
    let mut peer = tls::connect(gateway.address(), "localhost", &authority.client(None)).expect("TLS");
    peer.write(request("/", "").as_bytes());
    assert_eq!(status(&peer.head()), 101);
    peer.reset();
    let record = gateway.end_record();
    assert!(record.contains("client_lost") && record.contains("close_to_upstream=1001"), "{record}");
}

#[test]
fn records_that_come_together_arrive_whole_and_what_is_behind_a_bad_one_does_not() {
    let authority = Authority::new("test");
    let folder = folder();
    let files = authority.issue(&["localhost"]).write(&folder, "server");
    let gateway = Gateway::start_in(folder, &text(&pair(&files)), SHELL);
    let mut peer = tls::connect(gateway.address(), "localhost", &authority.client(None)).expect("TLS");
    peer.write(request("/", "").as_bytes());
    assert_eq!(status(&peer.head()), 101);
    // Small, a full record and more, small again: a record each at least, all in one write of the socket.
    let sizes = [1, 20_000, 3, 4, 5];
    let frames = sizes.map(|size| masked(BINARY, &vec![7; size]));
    let tls::Stream::Client(stream) = peer.tls() else { panic!("a TLS client") };
    let records = |stream: &mut rustls::ClientConnection| {
        let mut records = Vec::new();
        for frame in &frames {
            stream.writer().write_all(frame).expect("it is encrypted");
            while stream.wants_write() {
                stream.write_tls(&mut records).expect("into memory");
            }
        }
        records
    };
    let bytes = records(&mut stream.conn);
    stream.sock.write_all(&bytes).expect("it is sent");
    for size in sizes {
        assert_eq!(peer.frame().payload.len(), size);
    }
    let tls::Stream::Client(stream) = peer.tls() else { panic!("a TLS client") };
    let mut bytes = records(&mut stream.conn);
    bytes.extend_from_slice(&[23, 3, 3, 0, 32]);
    bytes.extend_from_slice(&[0; 32]);
    bytes.extend_from_slice(&records(&mut stream.conn));
    stream.sock.write_all(&bytes).expect("it is sent");
    let record = gateway.end_record();
    assert!(record.contains("client_lost") && record.contains("messages_from_client=10"), "{record}");
}

#[test]
fn files_that_are_wrong_stop_the_start_with_a_word_about_them() {
    let authority = Authority::new("test");
    let folder = folder();
    let good = authority.issue(&["localhost"]).write(&folder, "good");
    let other = authority.issue(&["localhost"]).write(&folder, "other");
    let old = authority.issue_between(&["localhost"], 2019, 2020).write(&folder, "old");
    let early = authority.issue_between(&["localhost"], 2090, 2091).write(&folder, "early");
    let nonsense = folder.join("nonsense.pem");
    fs::write(&nonsense, "nonsense").expect("written");
    let missing = folder.join("missing.pem");
    let rows = [
        ("a missing certificate", pair(&(missing.clone(), good.1.clone())), "missing.pem"),
        ("a missing key", pair(&(good.0.clone(), missing.clone())), "missing.pem"),
        ("the key of another", pair(&(good.0.clone(), other.1.clone())), "key"),
        ("no certificate in the file", pair(&(nonsense.clone(), good.1.clone())), "nonsense.pem"),
        ("no key in the file", pair(&(good.0.clone(), nonsense.clone())), "nonsense.pem"),
        ("swapped files", pair(&(good.1.clone(), good.0.clone())), "good.key"),
        ("an expired certificate", pair(&old), "2020"),
        ("one that is not valid yet", pair(&early), "2090"),
        (
            "half of a development pair",
            format!("{}, development = true", pair(&(good.0.clone(), missing.clone()))),
            "missing.pem",
        ),
        (
            "a folder that cannot be made",
            format!("{}, development = true", pair(&(nonsense.join("a.pem"), nonsense.join("a.key")))),
            "nonsense.pem",
        ),
        (
            "no authority for clients",
            format!("{}, client_auth = \"required\", client_ca = {missing:?}", pair(&good)),
            "missing.pem",
        ),
    ];
    for (name, tls, word) in rows {
        let (code, output) = start_fails(&folder, &text(&tls));
        assert_eq!(code, Some(1), "{name}: {output}");
        assert!(output.contains(word), "{name}: {output}");
        assert!(!output.contains("panicked") && !output.contains("listening"), "{name}: {output}");
    }
    // An upstream's authority, too.
    let (code, output) = start_fails(
        &folder,
        &format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n\n[[route]]\nupstream = \"up\"\n\n\
             [upstream.up]\nservers = [\"wss://localhost:1\"]\ntls = {{ ca = {missing:?} }}\n"
        ),
    );
    assert!(code == Some(1) && output.contains("missing.pem"), "{output}");
    let _ = fs::remove_dir_all(folder);
}

fn start_fails(folder: &Path, text: &str) -> (Option<i32>, String) {
    let file = folder.join("config.toml");
    fs::write(&file, text).expect("written");
    let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["run", "--config"])
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut code = None;
    support::eventually("the start fails", || {
        code = child.try_wait().expect("waiting");
        code.is_some()
    });
    let output = child.wait_with_output().expect("its output");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn a_tls_handshake_that_never_goes_on_does_not_hold_up_the_end() {
    let authority = Authority::new("test");
    let folder = folder();
    let files = authority.issue(&["localhost"]).write(&folder, "server");
    let text = text("").replace("tls = {  }", &format!("tls = {{ {} }}\ntls_timeout = \"10m\"", pair(&files)));
    let mut gateway = Gateway::start_in(folder, &text, SHELL);
    tls::meet(gateway.address(), "localhost", &authority.client(None)).expect("TLS");
    let mut silent = Peer::connect(gateway.address());
    silent.write(&[22, 3, 1]);
    gateway.signal("TERM");
    assert!(gateway.wait().success());
}
