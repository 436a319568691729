use std::collections::HashSet;
use std::time::Duration;

use http::{Request, Response};

use super::*;
use crate::proto::close;
use crate::proto::fields::testing::{change, lines};
use crate::proto::frame::CONTROL_MAX;

/// Section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const H10: Version = Version::HTTP_10;
const H11: Version = Version::HTTP_11;

/// A handshake as a browser sends it, changed.
fn request(method: &str, version: Version, changes: &str) -> request::Parts {
    let request = Request::builder().method(method).version(version).uri("/chat");
    let mut parts = request.body(()).unwrap().into_parts().0;
    parts.headers = lines(&format!(
        "host: example.com\nupgrade: websocket\nconnection: Upgrade\nsec-websocket-version: 13\n\
         sec-websocket-key: {KEY}"
    ));
    change(&mut parts.headers, changes);
    parts
}

/// An answer that agrees, changed.
fn answer(status: u16, version: Version, changes: &str) -> response::Parts {
    let answer = Response::builder().status(status).version(version);
    let mut parts = answer.body(()).unwrap().into_parts().0;
    parts.headers = lines(&format!("upgrade: websocket\nconnection: Upgrade\nsec-websocket-accept: {ACCEPT}"));
    change(&mut parts.headers, changes);
    parts
}

#[test]
fn accept_key_of_the_rfc_example() {
    assert_eq!(accept(KEY), ACCEPT);
}

#[test]
fn offers_that_are_read() {
    #[rustfmt::skip]
    let rows = [
        ("as a browser sends it", ""),
        ("upgrade in another case", "upgrade: WebSocket"),
        ("upgrade is a list", "upgrade: h2c, websocket"),
        ("upgrade over two lines", "upgrade: h2c\nupgrade: websocket"),
        ("connection is a list (Kong#5465)", "connection: keep-alive, Upgrade"),
        ("connection over two lines", "connection: keep-alive\nconnection: upgrade"),
        ("connection with tabs and empty members", "connection: ,\tUPGRADE\t,"),
        ("content-length 0", "content-length: 0"),
        ("content-length 0 twice", "content-length: 0\ncontent-length: 00"),
        ("a key with loose bits behind its last byte", "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAB=="),
    ];
    for (name, changes) in rows {
        let parts = request("GET", H11, changes);
        let offer = read(&parts).unwrap_or_else(|refusal| panic!("{name}: {refusal:?}"));
        assert_eq!(offer.key.as_bytes(), parts.headers["sec-websocket-key"].as_bytes(), "{name}");
        assert!(tries_upgrade(&parts), "{name}");
    }
}

#[test]
fn offers_that_are_refused() {
    use Refusal as R;
    #[rustfmt::skip]
    let rows = [
        ("POST", "POST", H11, "", R::Method),
        ("HEAD", "HEAD", H11, "", R::Method),
        ("CONNECT (CVE-2026-71324)", "CONNECT", H11, "", R::Method),
        ("lower-case get", "get", H11, "", R::Method),
        ("HTTP/1.0", "GET", H10, "", R::HttpVersion),
        ("HTTP/2 without extended CONNECT", "GET", Version::HTTP_2, "", R::HttpVersion),
        ("a body (CVE-2026-69243)", "GET", H11, "content-length: 5", R::HasBody),
        ("a body longer than 64 bits", "GET", H11, "content-length: 18446744073709551616", R::HasBody),
        ("content-length differs", "GET", H11, "content-length: 0\ncontent-length: 5", R::HasBody),
        ("content-length is a list", "GET", H11, "content-length: 0, 0", R::HasBody),
        ("content-length has a sign", "GET", H11, "content-length: +0", R::HasBody),
        ("content-length is empty", "GET", H11, "content-length: ", R::HasBody),
        ("content-length is hexadecimal", "GET", H11, "content-length: 0x0", R::HasBody),
        ("chunked", "GET", H11, "transfer-encoding: chunked", R::HasBody),
        ("transfer-encoding: identity", "GET", H11, "transfer-encoding: identity", R::HasBody),
        ("both framings", "GET", H11, "content-length: 0\ntransfer-encoding: chunked", R::HasBody),
        ("no upgrade", "GET", H11, "-upgrade", R::NotAnUpgrade),
        ("h2c (CVE-2026-73548)", "GET", H11, "upgrade: h2c", R::NotAnUpgrade),
        ("a longer name", "GET", H11, "upgrade: websocket2", R::NotAnUpgrade),
        ("a version behind the name", "GET", H11, "upgrade: websocket/13", R::NotAnUpgrade),
        ("no connection", "GET", H11, "-connection", R::ConnectionLacksUpgrade),
        ("connection: keep-alive", "GET", H11, "connection: keep-alive", R::ConnectionLacksUpgrade),
        ("connection: upgraded", "GET", H11, "connection: upgraded", R::ConnectionLacksUpgrade),
        ("no version", "GET", H11, "-sec-websocket-version", R::Version),
        ("version 8", "GET", H11, "sec-websocket-version: 8", R::Version),
        ("version list", "GET", H11, "sec-websocket-version: 13, 8", R::Version),
        ("version twice", "GET", H11, "sec-websocket-version: 13\nsec-websocket-version: 13", R::Version),
        ("version 013", "GET", H11, "sec-websocket-version: 013", R::Version),
        ("no key (CVE-2026-73565)", "GET", H11, "-sec-websocket-key", R::KeyMissing),
        ("key twice", "GET", H11, "sec-websocket-key: AAAA\nsec-websocket-key: AAAA", R::KeyRepeated),
        ("key empty", "GET", H11, "sec-websocket-key: ", R::KeyMalformed),
        ("key of 15 bytes", "GET", H11, "sec-websocket-key: AAAAAAAAAAAAAAAAAAAA", R::KeyMalformed),
        ("key of 17 bytes", "GET", H11, "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAAA=", R::KeyMalformed),
        ("key of 30 bytes", "GET", H11, "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", R::KeyMalformed),
        ("key without padding", "GET", H11, "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ", R::KeyMalformed),
        ("key not in base64", "GET", H11, "sec-websocket-key: dGhlIHNhbXBsZSBub25j*Q==", R::KeyMalformed),
        ("key beyond ASCII", "GET", H11, "sec-websocket-key: dGhlIHNhbXBsZSBub25jé==", R::KeyMalformed),
        ("subprotocol is no token", "GET", H11, "sec-websocket-protocol: chat v1", R::SubprotocolsMalformed),
        ("subprotocol is empty", "GET", H11, "sec-websocket-protocol: a,,b", R::SubprotocolsMalformed),
        ("subprotocols are none", "GET", H11, "sec-websocket-protocol: ", R::SubprotocolsMalformed),
        ("subprotocol is quoted", "GET", H11, "sec-websocket-protocol: \"a\"", R::SubprotocolsMalformed),
        ("subprotocol beyond ASCII", "GET", H11, "sec-websocket-protocol: é", R::SubprotocolsMalformed),
        ("subprotocol twice", "GET", H11, "sec-websocket-protocol: a, a", R::SubprotocolRepeated),
        ("subprotocol twice over lines", "GET", H11, "sec-websocket-protocol: a\nsec-websocket-protocol: b, a",
            R::SubprotocolRepeated),
    ];
    for (name, method, version, changes, refusal) in rows {
        assert_eq!(read(&request(method, version, changes)), Err(refusal), "{name}");
    }
}

#[test]
fn first_broken_rule_in_the_order_of_the_design() {
    use Refusal as R;
    let broken = [
        ("content-length: 5", R::HasBody),
        ("upgrade: h2c", R::NotAnUpgrade),
        ("connection: close", R::ConnectionLacksUpgrade),
        ("sec-websocket-version: 8", R::Version),
        ("sec-websocket-key: short", R::KeyMalformed),
        ("sec-websocket-protocol: a, a", R::SubprotocolRepeated),
    ];
    let from = |first: usize| broken[first..].iter().map(|(change, _)| *change).collect::<Vec<_>>().join("\n");
    assert_eq!(read(&request("POST", H10, &from(0))), Err(R::Method));
    assert_eq!(read(&request("GET", H10, &from(0))), Err(R::HttpVersion));
    for (first, (_, refusal)) in broken.iter().enumerate() {
        assert_eq!(read(&request("GET", H11, &from(first))), Err(refusal.clone()));
    }
}

#[test]
fn offered_subprotocols_and_extensions_keep_the_clients_order() {
    let offer = read(&request(
        "GET",
        H11,
        "sec-websocket-protocol: chat.v2 ,\tchat.v1\nsec-websocket-protocol: CHAT.v1\n\
         sec-websocket-extensions: x-webkit-deflate-frame, permessage-deflate; client_max_window_bits",
    ))
    .unwrap();
    assert_eq!(offer.subprotocols, ["chat.v2", "chat.v1", "CHAT.v1"]);
    assert_eq!(offer.deflate, [Deflate { client_max_window_bits: Some(None), ..Deflate::default() }]);
}

#[test]
fn attempts_at_an_upgrade() {
    #[rustfmt::skip]
    let rows = [
        ("a page", "GET", "accept: */*", false),
        ("connection alone, as some proxies always send it", "GET", "connection: upgrade", false),
        ("websocket", "GET", "upgrade: websocket", true),
        ("h2c (CVE-2026-73548)", "GET", "upgrade: h2c", true),
        ("an empty upgrade", "GET", "upgrade: ", true),
        ("an upgrade with a body", "POST", "upgrade: websocket\ncontent-length: 5", true),
        ("a key alone", "GET", "sec-websocket-key: AAAA", true),
        ("a field that looks like the key", "GET", "sec_websocket.key: AAAA", true),
        ("CONNECT (CVE-2026-71324)", "CONNECT", "", true),
    ];
    for (name, method, fields, expected) in rows {
        let mut parts = Request::builder().method(method).uri("/").body(()).unwrap().into_parts().0;
        parts.headers = lines(fields);
        assert_eq!(tries_upgrade(&parts), expected, "{name}");
    }
}

#[test]
fn answers_that_are_checked() {
    use BadAnswer as B;
    let nothing = || Ok(Agreement::default());
    let chat = || Ok(Agreement { subprotocol: Some("chat".to_owned()), deflate: false });
    let deflate = || Ok(Agreement { subprotocol: None, deflate: true });
    let not_offered = |name: &str| Err(B::SubprotocolNotOffered(name.to_owned()));
    #[rustfmt::skip]
    let rows = [
        ("nothing agreed", 101, H11, "", nothing()),
        ("in another case", 101, H11, "upgrade: WebSocket\nconnection: UPGRADE", nothing()),
        ("connection is a list", 101, H11, "connection: keep-alive, upgrade", nothing()),
        ("subprotocol", 101, H11, "sec-websocket-protocol: chat", chat()),
        ("deflate", 101, H11, "sec-websocket-extensions: permessage-deflate", deflate()),
        ("200 (CVE-2024-23326)", 200, H11, "", Err(B::Status(StatusCode::OK))),
        ("HTTP/1.0", 101, H10, "", Err(B::HttpVersion)),
        ("no upgrade", 101, H11, "-upgrade", Err(B::Upgrade)),
        ("another upgrade", 101, H11, "upgrade: h2c", Err(B::Upgrade)),
        ("two upgrades", 101, H11, "upgrade: websocket, h2c", Err(B::Upgrade)),
        ("no connection", 101, H11, "-connection", Err(B::Connection)),
        ("connection: close", 101, H11, "connection: close", Err(B::Connection)),
        ("no accept", 101, H11, "-sec-websocket-accept", Err(B::AcceptMissing)),
        ("wrong accept (tyk#2708)", 101, H11, "sec-websocket-accept: dGhlIHNhbXBsZSBub25jZQ==", Err(B::AcceptWrong)),
        ("accept in another case", 101, H11, "sec-websocket-accept: S3pPLMBiTxaQ9kYGzzhZRbK+xOo=", Err(B::AcceptWrong)),
        ("accept twice", 101, H11, "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\n\
            sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", Err(B::AcceptRepeated)),
        ("subprotocol in another case", 101, H11, "sec-websocket-protocol: Chat", not_offered("Chat")),
        ("subprotocol list", 101, H11, "sec-websocket-protocol: chat, v2", not_offered("chat, v2")),
        ("subprotocol twice", 101, H11, "sec-websocket-protocol: chat\nsec-websocket-protocol: chat",
            Err(B::SubprotocolRepeated)),
        ("subprotocol empty", 101, H11, "sec-websocket-protocol: ", not_offered("")),
        ("another extension", 101, H11, "sec-websocket-extensions: x-bzip", Err(B::Extensions(BadExtensions::Unknown))),
    ];
    let offered = ["chat".to_owned(), "v2".to_owned()];
    for (name, status, version, changes, expected) in rows {
        let parts = answer(status, version, changes);
        assert_eq!(check_answer(&parts, KEY, &offered, &[Deflate::default()]), expected, "{name}");
    }
    let parts = answer(101, H11, "sec-websocket-extensions: permessage-deflate");
    let unasked = Err(B::Extensions(BadExtensions::NotOffered));
    assert_eq!(check_answer(&parts, KEY, &[], &[]), unasked, "not offered (vertx-http-proxy#41)");
}

#[test]
fn a_bad_answer_cannot_forge_a_log_line() {
    let bad = BadAnswer::SubprotocolNotOffered("a\u{1b}[2J\nINFO all is well".to_owned());
    assert!(!bad.to_string().contains(['\n', '\u{1b}']));
}

/// One of each.
#[rustfmt::skip]
fn refusals() -> Vec<Refusal> {
    use Refusal as R;
    vec![
        R::HeadMalformed, R::HeadTooLarge, R::HeadTimeout, R::HostMissing, R::HostRepeated, R::HostMalformed,
        R::HostMismatch, R::TargetMalformed, R::TargetTooLong, R::TargetUnsecured, R::PathDotSegment, R::PathBackslash, R::PathControl, R::PathEncodedSlash,
        R::NoRoute, R::PageMethod, R::FileNotFound, R::FileUnreadable, R::Method, R::HttpVersion, R::HasBody, R::NotAnUpgrade,
        R::ConnectionLacksUpgrade, R::Version, R::KeyMissing, R::KeyRepeated, R::KeyMalformed,
        R::SubprotocolsMalformed, R::SubprotocolRepeated, R::OriginNotAllowed, R::OriginMissing, R::OriginMalformed,
        R::SubprotocolRequired, R::SessionsGateway, R::SessionsClient,
        R::HandshakeRate { retry_after: Duration::MAX }, R::Draining, R::UpstreamUnreachable, R::UpstreamResolve,
        R::UpstreamTls, R::UpstreamConnectTimeout, R::UpstreamHandshakeTimeout, R::UpstreamBadAnswer,
        R::UpstreamRefused(StatusCode::UNAUTHORIZED),
    ]
}

#[test]
fn every_refusal_has_a_label_of_its_own_and_fits_into_a_close() {
    let codes = [None, Some(close::POLICY), Some(close::INTERNAL), Some(close::RESTART), Some(close::TRY_AGAIN)];
    let mut labels = HashSet::new();
    for refusal in refusals() {
        let label = refusal.label();
        assert!(labels.insert(label), "{label} twice");
        assert!(label.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{label}");
        assert!(refusal.close_text().len() <= CONTROL_MAX - 2, "{label}");
        assert!(refusal.status().is_client_error() || refusal.status().is_server_error(), "{label}");
        assert!(codes.contains(&refusal.close_code()), "{label}");
    }
}

#[test]
fn refusals_and_what_they_say() {
    use Refusal as R;
    let rate = |millis| R::HandshakeRate { retry_after: Duration::from_millis(millis) };
    let upgrade = "upgrade: websocket\nconnection: Upgrade";
    let version = format!("sec-websocket-version: 13\n{upgrade}");
    #[rustfmt::skip]
    let rows = [
        (R::HeadMalformed, 400, None, ""),
        (R::HeadTooLarge, 431, None, ""),
        (R::HeadTimeout, 408, None, ""),
        (R::HostMissing, 400, None, ""),
        (R::TargetTooLong, 414, None, ""),
        (R::TargetUnsecured, 421, None, ""),
        (R::PathDotSegment, 400, None, ""),
        (R::NoRoute, 404, None, ""),
        (R::PageMethod, 405, None, "allow: GET, HEAD"),
        (R::Method, 400, None, ""),
        (R::HttpVersion, 400, None, ""),
        (R::HasBody, 400, None, ""),
        (R::NotAnUpgrade, 426, None, upgrade),
        (R::ConnectionLacksUpgrade, 426, None, upgrade),
        (R::Version, 426, None, &version),
        (R::KeyMissing, 400, None, ""),
        (R::OriginNotAllowed, 403, Some(1008), ""),
        (R::OriginMissing, 403, Some(1008), ""),
        (R::OriginMalformed, 403, Some(1008), ""),
        (R::SubprotocolRequired, 400, Some(1008), ""),
        (R::SessionsGateway, 503, Some(1013), "retry-after: 5"),
        (R::SessionsClient, 429, Some(1008), "retry-after: 5"),
        (rate(0), 429, Some(1008), "retry-after: 1"),
        (rate(2001), 429, Some(1008), "retry-after: 3"),
        (R::Draining, 503, Some(1012), "retry-after: 5"),
        (R::UpstreamUnreachable, 502, Some(1011), ""),
        (R::UpstreamResolve, 502, Some(1011), ""),
        (R::UpstreamTls, 502, Some(1011), ""),
        (R::UpstreamConnectTimeout, 504, Some(1011), ""),
        (R::UpstreamHandshakeTimeout, 504, Some(1011), ""),
        (R::UpstreamBadAnswer, 502, Some(1011), ""),
        (R::UpstreamRefused(StatusCode::FORBIDDEN), 403, Some(1008), ""),
        (R::UpstreamRefused(StatusCode::BAD_GATEWAY), 502, Some(1011), ""),
    ];
    for (refusal, status, code, headers) in rows {
        assert_eq!(refusal.status().as_u16(), status, "{refusal:?}");
        assert_eq!(refusal.close_code(), code, "{refusal:?}");
        assert_eq!(refusal.headers().into_iter().collect::<HeaderMap>(), lines(headers), "{refusal:?}");
    }
    assert_eq!(rate(2001).to_string(), "too many handshakes from this client: try again in 3 s");
    assert_eq!(rate(2001).retry_after(), Some(Duration::from_secs(3)));
}
