//! TLS as configured: certificates by name, client certificates, versions, ALPN, tickets, and every file error by its
//! message.
//!
//! Handshakes run in memory between our server's and a client's configuration.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, NamedGroup, ServerConfig, SignatureScheme};
use tidegate::config::model::{CertificateFiles, ClientAuth, ListenerTls, Position, TlsVersions, UpstreamTls};
use tidegate::listen::tls::{self, TlsError};
use tidegate::pem;
use tidegate::pem::identity::provider;
use tidegate::upstream;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

const CERTIFICATE_AT: Position = Position { line: 10, column: 1 };
const KEY_AT: Position = Position { line: 11, column: 1 };
const CA_AT: Position = Position { line: 12, column: 1 };

mod names {
    use super::*;

    #[tokio::test]
    async fn the_certificate_is_chosen_by_sni() {
        let folder = Folder::new();
        let certificates = [
            folder.pair("first", &["first.example.com"]),
            folder.pair("chat", &["chat.example.com", "*.example.com"]),
            folder.pair("deep", &["*.a.example.com", "192.0.2.1"]),
            folder.pair("late", &["*.example.com", "example.com"]),
        ];
        let config = tls::load(&listener(&certificates)).unwrap();
        let rows = [
            ("an exact name", "chat.example.com", "chat"),
            ("an exact name before a wildcard", "first.example.com", "first"),
            ("mixed case", "ChAt.eXample.COM", "chat"),
            ("a wildcard", "other.example.com", "chat"),
            ("a wildcard in mixed case", "OTHER.Example.com", "chat"),
            ("a wildcard stands for one label alone", "b.other.example.com", "first"),
            ("a wildcard below", "b.a.example.com", "deep"),
            ("a wildcard is not its parent", "a.example.com", "chat"),
            ("the parent by its own name", "example.com", "late"),
            ("an unknown name", "example.org", "first"),
            ("an address sends no SNI", "192.0.2.1", "first"),
        ];
        for (what, sni, expected) in rows {
            let (_, client) = handshake(&config, &any_server(&[&TLS13]), sni).await;
            let shown = shown(&client.expect(what));
            assert_eq!(shown, folder.der(expected), "{what}: {sni} did not get {expected}");
        }
    }

    #[tokio::test]
    async fn no_sni_gets_the_first_certificate() {
        let folder = Folder::new();
        let certificates = [folder.pair("first", &["first.example.com"]), folder.pair("chat", &["chat.example.com"])];
        let config = tls::load(&listener(&certificates)).unwrap();
        let mut client = any_server(&[&TLS13]);
        client.enable_sni = false;
        let (_, client) = handshake(&config, &client, "chat.example.com").await;
        assert_eq!(shown(&client.unwrap()), folder.der("first"));
    }

    #[tokio::test]
    async fn of_two_certificates_for_a_name_the_client_gets_one_that_it_can_verify() {
        let folder = Folder::new();
        let ecdsa = folder.pair("ecdsa", &["chat.example.com"]);
        let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
        let rsa = folder.pair_with("rsa", &["chat.example.com"], key, |_| {});
        let config = tls::load(&listener(&[ecdsa, rsa])).unwrap();
        for (scheme, expected) in
            [(SignatureScheme::RSA_PSS_SHA256, "rsa"), (SignatureScheme::ECDSA_NISTP256_SHA256, "ecdsa")]
        {
            let mut client = any_server(&[&TLS13]);
            client.dangerous().set_certificate_verifier(Arc::new(AnyServer(vec![scheme])));
            let (_, client) = handshake(&config, &client, "chat.example.com").await;
            assert_eq!(shown(&client.unwrap()), folder.der(expected), "{scheme:?}");
        }
    }

    #[test]
    fn certificates_are_listed_with_names_and_expiry() {
        let folder = Folder::new();
        let certificates = [folder.pair("one", &["Chat.example.com", "*.example.com", "192.0.2.1", "2001:db8::1"])];
        let listed = tls::certificates(&listener(&certificates)).unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].names, ["chat.example.com", "*.example.com", "192.0.2.1", "2001:db8::1"]);
        let days = (listed[0].not_after - OffsetDateTime::now_utc()).whole_days();
        assert!((29..=30).contains(&days), "{days}");
    }
}

mod handshakes {
    use super::*;

    #[tokio::test]
    async fn versions() {
        let folder = Folder::new();
        let pair = folder.pair("one", &["localhost"]);
        let rows = [
            (TlsVersions::From12, &TLS12, true),
            (TlsVersions::From12, &TLS13, true),
            (TlsVersions::Only13, &TLS13, true),
            (TlsVersions::Only13, &TLS12, false),
        ];
        for (versions, offered, agreed) in rows {
            let listener = ListenerTls { versions, ..listener(std::slice::from_ref(&pair)) };
            let (server, client) =
                handshake(&tls::load(&listener).unwrap(), &any_server(&[offered]), "localhost").await;
            assert_eq!(server.is_ok(), agreed, "server: {versions:?} {offered:?}");
            assert_eq!(client.is_ok(), agreed, "client: {versions:?} {offered:?}");
        }
    }

    #[tokio::test]
    async fn alpn() {
        let folder = Folder::new();
        let config = tls::load(&listener(&[folder.pair("one", &["localhost"])])).unwrap();
        /// What the client offers, and what is agreed on: `Some("")` is a connection without ALPN.
        type Row = (&'static str, &'static [&'static str], Option<&'static str>);
        let rows: [Row; 4] = [
            ("http/1.1", &["http/1.1"], Some("http/1.1")),
            ("both", &["h2", "http/1.1"], Some("http/1.1")),
            ("none at all", &[], Some("")),
            ("h2 alone", &["h2"], None),
        ];
        for (what, offered, agreed) in rows {
            let mut client = any_server(&[&TLS13]);
            client.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
            let (server, client) = handshake(&config, &client, "localhost").await;
            match agreed {
                Some(protocol) => {
                    let client = client.unwrap();
                    let agreed = client.get_ref().1.alpn_protocol().unwrap_or_default();
                    assert_eq!(agreed, protocol.as_bytes(), "{what}");
                }
                None => {
                    assert!(server.is_err(), "{what}");
                    let told = client.map(drop).unwrap_err().to_string();
                    assert!(told.contains("NoApplicationProtocol"), "{what}: {told}");
                }
            }
        }
    }

    #[tokio::test]
    async fn client_certificates() {
        let folder = Folder::new();
        let (ca, other) = (Authority::new(&folder, "ca"), Authority::new(&folder, "other"));
        let server = folder.pair("server", &["localhost"]);
        let right = ca.issue(&folder, "right");
        let wrong = other.issue(&folder, "wrong");
        let (ca, ca_at) = (ca.path, CA_AT);
        let off = ClientAuth::Off;
        let optional = ClientAuth::Optional { ca: ca.clone(), ca_at };
        let required = ClientAuth::Required { ca, ca_at };
        let rows = [
            (&off, None, true),
            (&off, Some(&right), true),
            (&optional, None, true),
            (&optional, Some(&right), true),
            (&optional, Some(&wrong), false),
            (&required, None, false),
            (&required, Some(&right), true),
            (&required, Some(&wrong), false),
        ];
        for (client_auth, shown, accepted) in rows {
            let listener = ListenerTls { client_auth: client_auth.clone(), ..listener(std::slice::from_ref(&server)) };
            let client = upstream_config(&server, shown.cloned());
            let (server, _) = handshake(&tls::load(&listener).unwrap(), &client, "localhost").await;
            let shown = shown.map(|files| &files.certificate);
            assert_eq!(server.is_ok(), accepted, "{client_auth:?}, shown {shown:?}: {:?}", server.err());
        }
    }

    #[tokio::test]
    async fn both_legs_agree_on_a_post_quantum_group() {
        let folder = Folder::new();
        let pair = folder.pair("one", &["localhost"]);
        let config = tls::load(&listener(std::slice::from_ref(&pair))).unwrap();
        let (server, client) = handshake(&config, &upstream_config(&pair, None), "localhost").await;
        let (server, client) = (server.unwrap(), client.unwrap());
        let group = server.get_ref().1.negotiated_key_exchange_group().unwrap();
        assert_eq!(group.name(), NamedGroup::X25519MLKEM768);
        assert_eq!(client.get_ref().1.negotiated_key_exchange_group().unwrap().name(), group.name());
        assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(client.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    }

    #[tokio::test]
    async fn sessions_are_resumed_from_tickets() {
        let folder = Folder::new();
        let pair = folder.pair("one", &["localhost"]);
        let config = tls::load(&listener(std::slice::from_ref(&pair))).unwrap();
        let client = upstream_config(&pair, None);
        assert_eq!(kind_after_exchange(&config, &client).await, Some(HandshakeKind::Full));
        assert_eq!(kind_after_exchange(&config, &client).await, Some(HandshakeKind::Resumed));
    }

    #[tokio::test]
    async fn a_ticket_of_one_listener_does_not_pass_another_ones_client_certificate_check() {
        let folder = Folder::new();
        let pair = folder.pair("one", &["localhost"]);
        let open = listener(std::slice::from_ref(&pair));
        let (ca, ca_at) = (Authority::new(&folder, "ca").path, CA_AT);
        let guarded = ListenerTls { client_auth: ClientAuth::Required { ca, ca_at }, ..open.clone() };
        let (open, guarded) = (tls::load(&open).unwrap(), tls::load(&guarded).unwrap());
        let client = upstream_config(&pair, None);
        assert_eq!(kind_after_exchange(&open, &client).await, Some(HandshakeKind::Full));
        let (server, _) = handshake(&guarded, &client, "localhost").await;
        assert!(server.is_err());
    }

    #[tokio::test]
    async fn an_upstream_with_the_wrong_name_or_authority_is_refused() {
        let folder = Folder::new();
        let (pair, other) = (folder.pair("one", &["localhost", "127.0.0.1"]), folder.pair("other", &["localhost"]));
        let config = tls::load(&listener(std::slice::from_ref(&pair))).unwrap();
        let rows = [
            (&pair, "localhost", true),
            (&pair, "127.0.0.1", true),
            (&pair, "::1", false),
            (&other, "localhost", false),
        ];
        for (ca, name, accepted) in rows {
            let (_, client) = handshake(&config, &upstream_config(ca, None), name).await;
            assert_eq!(client.is_ok(), accepted, "{name} with {}", ca.certificate.display());
        }
    }

    #[tokio::test]
    async fn garbage_instead_of_a_client_hello_is_an_error() {
        let folder = Folder::new();
        let config = tls::load(&listener(&[folder.pair("one", &["localhost"])])).unwrap();
        for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[22, 3, 1, 255, 255, 1], &[0xff; 300]] {
            let (near, mut far) = tokio::io::duplex(1024);
            far.write_all(garbage).await.unwrap();
            far.shutdown().await.unwrap();
            let accepted = bounded(TlsAcceptor::from(config.clone()).accept(near)).await;
            assert!(accepted.is_err(), "{garbage:?}");
        }
    }
}

mod file_errors {
    use super::*;

    /// Changes the good pair and says what is to be read about it, and at which position.
    type Row = (&'static str, fn(&Folder, &mut CertificateFiles), &'static str, Position);

    #[test]
    fn each_says_what_is_wrong_and_where() {
        let rows: &[Row] = &[
            (
                "no certificate file",
                |_, f| remove(&f.certificate),
                "one.pem: there is no such file: correct the path",
                CERTIFICATE_AT,
            ),
            ("no key file", |_, f| remove(&f.key), "one.key: there is no such file: correct the path", KEY_AT),
            (
                "a folder for a certificate",
                |d, f| f.certificate = d.path.clone(),
                "is a directory: name the file in it",
                CERTIFICATE_AT,
            ),
            ("a folder for a key", |d, f| f.key = d.path.clone(), "is a directory: name the file in it", KEY_AT),
            (
                "an empty certificate file",
                |_, f| write(&f.certificate, " \n"),
                "one.pem: the file is empty",
                CERTIFICATE_AT,
            ),
            ("an empty key file", |_, f| write(&f.key, ""), "one.key: the file is empty", KEY_AT),
            (
                "text for a certificate",
                |_, f| write(&f.certificate, "hello"),
                "one.pem: holds no certificate: a PEM file has one between",
                CERTIFICATE_AT,
            ),
            (
                "text for a key",
                |_, f| write(&f.key, "hello"),
                "one.key: holds no private key: a PEM file has one between",
                KEY_AT,
            ),
            (
                "half a certificate",
                |_, f| cut(&f.certificate),
                "one.pem: a PEM block in it is damaged: copy the file anew",
                CERTIFICATE_AT,
            ),
            (
                "a certificate that is no certificate",
                |_, f| write(&f.certificate, block("CERTIFICATE")),
                "one.pem: certificate 1 in the file cannot be read",
                CERTIFICATE_AT,
            ),
            (
                "a key that is no key",
                |_, f| write(&f.key, block("PRIVATE KEY")),
                "one.key: a key of this kind does not serve: use RSA",
                KEY_AT,
            ),
            (
                "a DER certificate",
                |d, f| write(&f.certificate, d.der("one")),
                "one.pem: holds DER, not PEM: convert it with `openssl x509 -inform der",
                CERTIFICATE_AT,
            ),
            (
                "an encrypted key",
                |_, f| write(&f.key, block("ENCRYPTED PRIVATE KEY")),
                "one.key: the private key is encrypted: decrypt it with `openssl pkey",
                KEY_AT,
            ),
            (
                "the two swapped",
                |_, f| std::mem::swap(&mut f.certificate, &mut f.key),
                "one.key: holds a private key, not a certificate: this looks swapped with `key`",
                CERTIFICATE_AT,
            ),
            (
                "the certificate twice",
                |_, f| f.key = f.certificate.clone(),
                "one.pem: holds a certificate, not a private key: this looks swapped with `certificate`",
                KEY_AT,
            ),
            (
                "two keys",
                |d, f| append(&f.key, &d.pair("other", &["localhost"]).key),
                "one.key: holds 2 private keys: leave the one",
                KEY_AT,
            ),
            (
                "another certificate's key",
                |d, f| f.key = d.pair("other", &["localhost"]).key,
                "other.key: does not belong to ",
                KEY_AT,
            ),
            (
                "the chain upside down",
                upside_down,
                "one.pem: the key belongs to certificate 2 in the file: put that one first",
                CERTIFICATE_AT,
            ),
            (
                "expired",
                |d, f| *f = d.dated("one", (2025, 1), (2026, 3)),
                "one.pem: expired on 3 March 2026: renew it",
                CERTIFICATE_AT,
            ),
            (
                "not yet valid",
                |d, f| *f = d.dated("one", (3024, 4), (3025, 4)),
                "one.pem: is not valid before 3 April 3024: wait for that day",
                CERTIFICATE_AT,
            ),
            (
                "no names",
                |d, f| *f = d.pair("one", &[]),
                "one.pem: names no DNS name and no IP address in subjectAltName",
                CERTIFICATE_AT,
            ),
        ];
        for (what, change, message, at) in rows {
            let folder = Folder::new();
            let mut files = folder.pair("one", &["localhost"]);
            change(&folder, &mut files);
            let error = tls::load(&listener(&[files])).expect_err(what);
            assert!(error.to_string().contains(message), "{what}: {error}");
            assert_eq!(error.at(), *at, "{what}");
            assert!(error.path().is_some_and(|path| path.starts_with(&folder.path)), "{what}");
        }
    }

    #[test]
    fn the_source_carries_the_rest() {
        let folder = Folder::new();
        let files = folder.pair("one", &["localhost"]);
        cut(&files.certificate);
        let error = tls::load(&listener(&[files])).unwrap_err();
        let source = std::error::Error::source(&error).expect("a source").to_string();
        assert!(source.contains("missing"), "{source}");
    }

    #[test]
    fn an_authority_file_is_checked_too() {
        let folder = Folder::new();
        let pair = folder.pair("one", &["localhost"]);
        let missing = folder.path.join("none.pem");
        let required = |ca: &Path| ClientAuth::Required { ca: ca.to_owned(), ca_at: CA_AT };
        let load = |ca: &Path| {
            let client_auth = required(ca);
            tls::load(&ListenerTls { client_auth, ..listener(std::slice::from_ref(&pair)) }).map(drop)
        };
        let connect = |ca: &Path| {
            let ca = Some((ca.to_owned(), CA_AT));
            upstream::tls::client_config(&UpstreamTls { ca, ..UpstreamTls::default() }).map(drop)
        };
        let garbage = folder.path.join("garbage.pem");
        write(&garbage, block("CERTIFICATE"));
        for (ca, message) in [
            (&missing, "none.pem: there is no such file"),
            (&pair.key, "one.key: holds a private key, not a certificate"),
            (&garbage, "garbage.pem: certificate 1 in the file cannot be used as an authority"),
        ] {
            for error in [load(ca).unwrap_err(), connect(ca).unwrap_err()] {
                assert!(error.to_string().contains(message), "{error}");
                assert_eq!(error.at(), CA_AT);
            }
        }
    }

    #[test]
    fn our_certificate_towards_an_upstream_is_checked_too() {
        let folder = Folder::new();
        let client = Some(folder.dated("one", (2025, 1), (2026, 3)));
        let ca = Some((folder.pair("ca", &["localhost"]).certificate, CA_AT));
        let error = upstream::tls::client_config(&UpstreamTls { ca, server_name: None, client }).unwrap_err();
        assert!(error.to_string().contains("one.pem: expired on 3 March 2026"), "{error}");
        assert_eq!(error.at(), CERTIFICATE_AT);
    }

    #[test]
    fn keys_of_every_form_are_read() {
        let folder = Folder::new();
        let ec = KeyPair::generate().unwrap();
        let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
        for (label, key) in [("EC PRIVATE KEY", ec), ("RSA PRIVATE KEY", rsa)] {
            let inner = pem_block(label, pkcs8_inner(key.serialized_der()));
            let files = folder.pair_with("one", &["localhost"], key, |_| {});
            tls::load(&listener(std::slice::from_ref(&files))).expect("PKCS#8");
            write(&files.key, &inner);
            tls::load(&listener(&[files])).expect(label);
        }
    }

    #[test]
    fn one_file_may_hold_the_certificate_and_the_key() {
        let folder = Folder::new();
        let mut files = folder.pair("one", &["localhost"]);
        append(&files.key, &files.certificate);
        files.certificate = files.key.clone();
        assert_eq!(tls::certificates(&listener(&[files])).unwrap()[0].names, ["localhost"]);
    }

    fn upside_down(folder: &Folder, files: &mut CertificateFiles) {
        let issuer = folder.pair("issuer", &["localhost"]).certificate;
        append(&issuer, &files.certificate);
        fs::rename(issuer, &files.certificate).unwrap();
    }

    /// A block that is good PEM and holds nothing of the kind that it claims.
    fn block(label: &str) -> String {
        pem_block(label, &[0x30, 0x03, 0x02, 0x01, 0x07])
    }

    fn pem_block(label: &str, der: &[u8]) -> String {
        use base64::Engine;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
    }

    /// The OCTET STRING of a PKCS#8 key: the key in its own form, SEC1 or PKCS#1 (RFC 5958 section 2).
    fn pkcs8_inner(pkcs8: &[u8]) -> &[u8] {
        let (_, sequence, _) = element(pkcs8);
        let (_, _version, rest) = element(sequence);
        let (_, _algorithm, rest) = element(rest);
        let (tag, key, _) = element(rest);
        assert_eq!(tag, 0x04);
        key
    }

    /// Tag, content and what follows of a DER element (X.690 section 8.1).
    fn element(der: &[u8]) -> (u8, &[u8], &[u8]) {
        let more = if der[1] < 0x80 { 0 } else { usize::from(der[1] & 0x7f) };
        let length = match more {
            0 => usize::from(der[1]),
            _ => der[2..2 + more].iter().fold(0, |length, byte| length << 8 | usize::from(*byte)),
        };
        let (content, rest) = der[2 + more..].split_at(length);
        (der[0], content, rest)
    }

    fn remove(path: &Path) {
        fs::remove_file(path).unwrap();
    }

    fn append(path: &Path, more: &Path) {
        let text = fs::read_to_string(path).unwrap() + &fs::read_to_string(more).unwrap();
        write(path, &text);
    }

    fn cut(path: &Path) {
        let text = fs::read_to_string(path).unwrap();
        write(path, &text[..text.len() / 2]);
    }
}

mod development {
    use super::*;

    #[tokio::test]
    async fn it_is_made_once_and_serves_localhost() {
        let folder = Folder::new();
        let listener = development(&folder);
        let files = &listener.certificates[0];
        let made = tls::ensure_development(&listener).unwrap().expect("made");
        assert_eq!((&made.certificate, &made.key, made.renewed), (&files.certificate, &files.key, false));
        assert!(made.to_string().starts_with("made a development certificate for localhost in "), "{made}");
        assert_eq!(mode(&files.key), 0o600);
        assert_eq!(folder.files("certs"), ["localhost.key", "localhost.pem"]);

        let before = fs::read(&files.certificate).unwrap();
        assert_eq!(tls::ensure_development(&listener).unwrap(), None);
        assert_eq!(fs::read(&files.certificate).unwrap(), before);

        let listed = tls::certificates(&listener).unwrap();
        assert_eq!(listed[0].names, ["localhost", "127.0.0.1", "::1"]);
        assert_eq!((made.not_after - listed[0].not_after).whole_seconds(), 0);
        let config = tls::load(&listener).unwrap();
        for name in ["localhost", "127.0.0.1", "::1"] {
            let (_, client) = handshake(&config, &upstream_config(files, None), name).await;
            assert!(client.is_ok(), "{name}: {:?}", client.err());
        }
    }

    #[test]
    fn an_expired_one_is_made_anew() {
        let folder = Folder::new();
        let listener = development(&folder);
        let files = expired(&folder, &listener, "Tidegate development certificate");
        assert!(tls::load(&listener).is_err());
        let made = tls::ensure_development(&listener).unwrap().expect("renewed");
        assert!(made.renewed);
        assert!(made.to_string().contains("(the one there had expired)"), "{made}");
        assert_eq!(mode(&files.key), 0o600);
        assert_eq!(folder.files("certs"), ["localhost.key", "localhost.pem"]);
        tls::load(&listener).expect("in date");
    }

    #[test]
    fn an_expired_certificate_of_somebody_else_is_left_alone() {
        let folder = Folder::new();
        let listener = development(&folder);
        let files = expired(&folder, &listener, "chat.example.com");
        let before = fs::read(&files.certificate).unwrap();
        assert_eq!(tls::ensure_development(&listener).unwrap(), None);
        assert_eq!(fs::read(&files.certificate).unwrap(), before);
        let error = tls::load(&listener).unwrap_err().to_string();
        assert!(error.contains("expired on 3 March 2026"), "{error}");
    }

    #[test]
    fn half_a_pair_is_an_error_that_says_which_half() {
        for (gone, message, at) in [
            ("localhost.key", "localhost.key: is missing, but ", KEY_AT),
            ("localhost.pem", "localhost.pem: is missing, but ", CERTIFICATE_AT),
        ] {
            let folder = Folder::new();
            let listener = development(&folder);
            tls::ensure_development(&listener).unwrap();
            fs::remove_file(folder.path.join("certs").join(gone)).unwrap();
            let error = tls::ensure_development(&listener).unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
            assert_eq!(error.at(), at);
        }
    }

    #[test]
    fn none_is_made_unless_asked_for() {
        let folder = Folder::new();
        let listener = ListenerTls { development: false, ..development(&folder) };
        assert_eq!(tls::ensure_development(&listener).unwrap(), None);
        assert!(!folder.path.join("certs").exists());
        assert!(tls::load(&listener).is_err());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error() {
        let folder = Folder::new();
        write(&folder.path.join("certs"), "in the way");
        let error = tls::ensure_development(&development(&folder)).unwrap_err();
        assert!(error.to_string().contains("localhost.key: cannot be written: "), "{error}");
        assert!(std::error::Error::source(&error).is_some());
    }

    fn development(folder: &Folder) -> ListenerTls {
        let certs = folder.path.join("certs");
        let files = files(certs.join("localhost.pem"), certs.join("localhost.key"));
        ListenerTls { development: true, ..listener(&[files]) }
    }

    /// Puts an expired pair where the listener looks for its own.
    fn expired(folder: &Folder, listener: &ListenerTls, common_name: &str) -> CertificateFiles {
        let made = folder.pair_with("old", &["localhost"], KeyPair::generate().unwrap(), |params| {
            params.distinguished_name.push(DnType::CommonName, common_name);
            params.not_after = rcgen::date_time_ymd(2026, 3, 3);
        });
        let files = listener.certificates[0].clone();
        fs::create_dir_all(files.key.parent().unwrap()).unwrap();
        fs::rename(made.certificate, &files.certificate).unwrap();
        fs::rename(made.key, &files.key).unwrap();
        files
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }
}

mod made_certificates {
    use super::*;

    #[test]
    fn files_are_called_after_the_first_name() {
        let rows: [(&[&str], &str); 4] = [
            (&["chat.example.com"], "chat.example.com"),
            (&["*.Example.com", "example.com"], "_wildcard.example.com"),
            (&["192.0.2.1"], "192.0.2.1"),
            (&["2001:db8::1", "localhost"], "2001_db8__1"),
        ];
        for (names, stem) in rows {
            let folder = Folder::new();
            let out = folder.path.join("new/certs");
            let (certificate, key) = make(names, &out).unwrap();
            assert_eq!(certificate, out.join(format!("{stem}.pem")));
            assert_eq!(key, out.join(format!("{stem}.key")));
            assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
            let expected: Vec<_> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
            assert_eq!(tls::certificates(&listener(&[files(certificate, key)])).unwrap()[0].names, expected);
        }
    }

    #[test]
    fn nothing_is_overwritten() {
        for there in ["localhost.pem", "localhost.key"] {
            let folder = Folder::new();
            write(&folder.path.join(there), "mine");
            let error = make(&["localhost"], &folder.path).unwrap_err().to_string();
            assert!(error.contains(&format!("{there}: is there already and is never overwritten")), "{error}");
            assert_eq!(folder.files(""), [there]);
            assert_eq!(fs::read(folder.path.join(there)).unwrap(), b"mine");
        }
    }

    #[test]
    fn names_that_cannot_stand_in_a_certificate_are_refused() {
        let bad = [
            "",
            "*",
            "chat.*.example.com",
            "c*.example.com",
            "*.*.example.com",
            "a b",
            "../up",
            "https://a.example",
            "a.example:443",
            "a.example.",
        ];
        for name in bad {
            let folder = Folder::new();
            let error = make(&["localhost", name], &folder.path).unwrap_err().to_string();
            assert!(error.contains("is no host name: write it as in chat.example.com"), "{name}: {error}");
            assert_eq!(folder.files(""), [""; 0], "{name}");
        }
        let error = make(&[], Path::new("certs")).unwrap_err().to_string();
        assert!(error.contains("name at least one host name"), "{error}");
    }

    fn make(names: &[&str], out: &Path) -> Result<(PathBuf, PathBuf), TlsError> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        tls::make_certificate(&names, out)
    }
}

type Handshake = (io::Result<server::TlsStream<DuplexStream>>, io::Result<client::TlsStream<DuplexStream>>);

async fn handshake(server: &Arc<ServerConfig>, client: &ClientConfig, name: &str) -> Handshake {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let acceptor = TlsAcceptor::from(server.clone());
    let connector = TlsConnector::from(Arc::new(client.clone()));
    bounded(async { tokio::join!(acceptor.accept(near), connector.connect(name, far)) }).await
}

/// One byte from the server brings its tickets, which it sends after the handshake.
async fn kind_after_exchange(server: &Arc<ServerConfig>, client: &ClientConfig) -> Option<HandshakeKind> {
    let (server, client) = handshake(server, client, "localhost").await;
    let (mut server, mut client) = (server.unwrap(), client.unwrap());
    server.write_all(b"!").await.unwrap();
    server.flush().await.unwrap();
    assert_eq!(bounded(client.read_u8()).await.unwrap(), b'!');
    client.get_ref().1.handshake_kind()
}

async fn bounded<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("an end in time")
}

/// The certificate that the server showed.
fn shown(client: &client::TlsStream<DuplexStream>) -> Vec<u8> {
    client.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn listener(certificates: &[CertificateFiles]) -> ListenerTls {
    ListenerTls {
        certificates: certificates.to_vec(),
        development: false,
        client_auth: ClientAuth::Off,
        versions: TlsVersions::From12,
    }
}

/// The gateway's own client, which trusts that server certificate alone.
fn upstream_config(server: &CertificateFiles, client: Option<CertificateFiles>) -> ClientConfig {
    let ca = Some((server.certificate.clone(), CA_AT));
    let config = upstream::tls::client_config(&UpstreamTls { ca, server_name: None, client }).unwrap();
    Arc::unwrap_or_clone(config)
}

fn files(certificate: PathBuf, key: PathBuf) -> CertificateFiles {
    let (certificate_at, key_at) = (CERTIFICATE_AT, KEY_AT);
    CertificateFiles { certificate, certificate_at, key, key_at }
}

fn write(path: &Path, contents: impl AsRef<[u8]>) {
    fs::write(path, contents).unwrap();
}

/// A folder for one test, removed at its end.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("tidegate-tls-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self { path }
    }

    /// A self-signed certificate for these names, valid for 30 days, as `stem.pem` and `stem.key`.
    fn pair(&self, stem: &str, names: &[&str]) -> CertificateFiles {
        self.pair_with(stem, names, KeyPair::generate().unwrap(), |_| {})
    }

    /// One that is valid from the third of a month to the third of another.
    fn dated(&self, stem: &str, (from, month): (i32, u8), (to, end): (i32, u8)) -> CertificateFiles {
        self.pair_with(stem, &["localhost"], KeyPair::generate().unwrap(), |params| {
            params.not_before = rcgen::date_time_ymd(from, month, 3);
            params.not_after = rcgen::date_time_ymd(to, end, 3);
        })
    }

    fn pair_with(
        &self,
        stem: &str,
        names: &[&str],
        key: KeyPair,
        change: impl FnOnce(&mut CertificateParams),
    ) -> CertificateFiles {
        let mut params = valid_params(names);
        change(&mut params);
        self.save(stem, &params.self_signed(&key).unwrap(), &key)
    }

    fn save(&self, stem: &str, certificate: &rcgen::Certificate, key: &KeyPair) -> CertificateFiles {
        let files = files(self.path.join(format!("{stem}.pem")), self.path.join(format!("{stem}.key")));
        write(&files.certificate, certificate.pem());
        write(&files.key, key.serialize_pem());
        files
    }

    fn der(&self, stem: &str) -> Vec<u8> {
        pem::certificates(&self.path.join(format!("{stem}.pem"))).unwrap()[0].to_vec()
    }

    /// Names of the files in a folder below, in order.
    fn files(&self, below: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path.join(below)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn valid_params(names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_before = OffsetDateTime::now_utc() - time::Duration::DAY;
    params.not_after = OffsetDateTime::now_utc() + time::Duration::days(30);
    params
}

/// An authority for client certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    path: PathBuf,
}

impl Authority {
    fn new(folder: &Folder, stem: &str) -> Self {
        let mut params = valid_params(&[]);
        params.distinguished_name.push(DnType::CommonName, stem);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let path = folder.save(stem, &params.self_signed(&key).unwrap(), &key).certificate;
        Self { issuer: Issuer::new(params, key), path }
    }

    fn issue(&self, folder: &Folder, stem: &str) -> CertificateFiles {
        let key = KeyPair::generate().unwrap();
        let certificate = valid_params(&["client.example.com"]).signed_by(&key, &self.issuer).unwrap();
        folder.save(stem, &certificate, &key)
    }
}

/// A client that takes any certificate, to see which one it is shown.
fn any_server(versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
    let schemes = provider().signature_verification_algorithms.supported_schemes();
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(schemes)))
        .with_no_client_auth()
}

#[derive(Debug)]
struct AnyServer(Vec<SignatureScheme>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}
