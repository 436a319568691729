//! The upstream's leg of the opening handshake: an answer that counts is one for a naive reading and for tungstenite, and
//! what the client gets of it is the upgrade and nothing of the upstream's own connection.

use std::io::Cursor;

use http::header::{HeaderMap, HeaderValue, SEC_WEBSOCKET_EXTENSIONS};
use http::{Request, response};
use tidegate::proto::extensions;
use tidegate::proto::fields::{answer_headers, refusal_headers};
use tidegate::proto::handshake::{BadAnswer, accept, check_answer};
use tungstenite::handshake::derive_accept_key;

use super::head::{holds, members, response};
use super::scan::Tape;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const SUBPROTOCOLS: [&str; 2] = ["chat.v2", "mqtt"];

/// A byte for what was offered, then the head.
pub fn run(data: &[u8]) {
    let Some((choice, text)) = data.split_first() else { return };
    let Some(parts) = response(text) else { return };
    assert_eq!(accept(KEY), derive_accept_key(KEY.as_bytes()));
    let subprotocols: Vec<String> =
        SUBPROTOCOLS[..usize::from(choice % 3)].iter().map(|name| (*name).to_owned()).collect();
    let offers = [
        "",
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; server_max_window_bits=10, permessage-deflate; server_no_context_takeover",
    ];
    let offer = HeaderValue::from_static(offers[usize::from(choice >> 4 & 3)]);
    let deflate = extensions::offers(&HeaderMap::from_iter([(SEC_WEBSOCKET_EXTENSIONS, offer)]));
    match check_answer(&parts, KEY, &subprotocols, &deflate) {
        Err(BadAnswer::Status(status)) => assert_ne!(status, 101),
        Err(_) => {}
        Ok(agreed) => {
            naive(&parts, &subprotocols);
            assert_eq!(agreed.subprotocol, members(&parts.headers, "sec-websocket-protocol").pop());
            assert_eq!(agreed.deflate, !members(&parts.headers, "sec-websocket-extensions").is_empty());
            assert!(!agreed.deflate || !deflate.is_empty(), "an extension that was not offered");
            let passed = passed(&parts);
            naive(&passed, &subprotocols);
            tungstenite(&passed, &subprotocols);
        }
    }
    let mut refusal = parts.headers.clone();
    refusal_headers(parts.status, &mut refusal);
    no_neighbours(&refusal, &parts.headers);
    let required = members(&refusal, "upgrade");
    assert!(required.is_empty() || parts.status == 426, "RFC 9110 section 15.5.22");
    assert_eq!(refusal.contains_key("connection"), refusal.contains_key("upgrade"), "RFC 9110 section 7.8");
    assert!(
        !(parts.headers.contains_key("transfer-encoding") && refusal.contains_key("content-length")),
        "RFC 9112 section 6.3"
    );
}

/// RFC 6455 section 4.1, naively.
fn naive(parts: &response::Parts, subprotocols: &[String]) {
    let headers = &parts.headers;
    let only = |name: &str| {
        let mut lines = headers.get_all(name).iter();
        lines.next().filter(|_| lines.next().is_none()).map(|line| line.to_str().unwrap_or("?").to_owned())
    };
    assert_eq!((parts.status.as_u16(), parts.version), (101, http::Version::HTTP_11));
    assert_eq!(only("upgrade").map(|word| word.to_ascii_lowercase()).as_deref(), Some("websocket"));
    assert!(holds(headers, "connection", "upgrade"));
    assert_eq!(only("sec-websocket-accept").as_deref(), Some(&*derive_accept_key(KEY.as_bytes())));
    assert!(
        !headers.contains_key("sec-websocket-protocol")
            || only("sec-websocket-protocol").is_some_and(|name| subprotocols.contains(&name))
    );
}

/// What the client gets.
fn passed(parts: &response::Parts) -> response::Parts {
    let mut passed = parts.clone();
    answer_headers(&mut passed.headers);
    no_neighbours(&passed.headers, &parts.headers);
    let headers = &passed.headers;
    assert_eq!(
        (members(headers, "connection"), members(headers, "upgrade")),
        (vec!["Upgrade".to_owned()], vec!["websocket".to_owned()])
    );
    assert!(!headers.contains_key("content-length"), "RFC 9110 section 8.6");
    passed
}

/// Nothing that concerns one connection, nor what its sender says does.
fn no_neighbours(headers: &HeaderMap, came: &HeaderMap) {
    for name in headers.keys().map(|name| name.as_str()) {
        let is_hop =
            ["keep-alive", "te", "trailer", "transfer-encoding", "proxy", "http2-settings", "alt-svc"].contains(&name);
        assert!(!is_hop && !name.starts_with("proxy-"), "{name} has passed");
        let is_fixed =
            ["connection", "upgrade", "host", "origin"].contains(&name) || name.starts_with("sec-websocket-");
        assert!(is_fixed || !holds(came, "connection", name), "{name} was named by Connection");
    }
}

/// What tungstenite makes of the answer, as the client that asked.
fn tungstenite(parts: &response::Parts, subprotocols: &[String]) {
    let mut text = b"HTTP/1.1 101 Switching Protocols\r\n".to_vec();
    for (name, value) in &parts.headers {
        text.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    text.extend(b"\r\n");
    let mut request = Request::builder()
        .uri("ws://app.test/")
        .header("Host", "app.test")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", KEY);
    if !subprotocols.is_empty() {
        request = request.header("Sec-WebSocket-Protocol", subprotocols.join(", "));
    }
    let request = request.body(()).expect("a request");
    let tape = Tape(Cursor::new(&text));
    if let Err(error) = tungstenite::client(request, tape) {
        // It counts an answer without the subprotocol that was offered as none; RFC 6455 section 4.1 does not.
        let silent = !parts.headers.contains_key("sec-websocket-protocol") && !subprotocols.is_empty();
        assert!(silent, "{error}: {parts:?}");
    }
}
