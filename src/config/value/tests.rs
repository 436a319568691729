//! One row per rule; properties for what is both read and shown.

use proptest::prelude::*;

use super::*;
use crate::config::model::Position;

/// `Ok` as shown by `Debug`, or the message and the help.
fn told<T: std::fmt::Debug>(parsed: Parsed<T>) -> String {
    match parsed {
        Ok(value) => format!("{value:?}"),
        Err(Wrong { message, help: None }) => message,
        Err(Wrong { message, help: Some(help) }) => format!("{message}: {help}"),
    }
}

#[track_caller]
fn table<T: std::fmt::Debug>(parse: impl Fn(&str) -> Parsed<T>, rows: &[(&str, &str)]) {
    for (text, expected) in rows {
        assert_eq!(told(parse(text)), *expected, "{text:?}");
    }
}

/// Rows that must be refused, whatever the words.
#[track_caller]
fn refused<T: std::fmt::Debug>(parse: impl Fn(&str) -> Parsed<T>, rows: &[&str]) {
    for text in rows {
        assert!(parse(text).is_err(), "{text:?} was read as {:?}", parse(text).ok());
    }
}

#[test]
fn durations() {
    table(
        duration,
        &[
            ("500ms", "500ms"),
            ("30s", "30s"),
            ("5m", "300s"),
            ("1h", "3600s"),
            ("2d", "172800s"),
            ("365d", "31536000s"),
            ("366d", "\"366d\" is too long: at most \"365d\""),
            ("18446744073709551615d", "\"18446744073709551615d\" is too long: at most \"365d\""),
            ("0s", "a duration of zero makes no sense here: at least \"1ms\""),
            ("30", "\"30\" is not a duration: write \"30s\""),
            ("30 s", "\"30 s\" is not a duration: write \"30s\""),
            ("30S", "\"30S\" is not a duration: write \"30s\""),
            ("30sec", "\"30sec\" is not a duration: write \"30s\""),
            ("5MS", "\"5MS\" is not a duration: write \"5ms\""),
        ],
    );
    refused(duration, &["", "s", "-1s", "+1s", "1.5h", "1h30m", "1s ", " 1s", "٣s", "99999999999999999999s", "1é"]);
    assert_eq!(duration_or_zero("0s"), Ok(Duration::ZERO));
}

#[test]
fn sizes() {
    table(
        size,
        &[
            ("512B", "512"),
            ("64KiB", "65536"),
            ("16MiB", "16777216"),
            ("1GiB", "1073741824"),
            ("64KB", "64000"),
            ("16MB", "16000000"),
            ("1GB", "1000000000"),
            ("0B", "a size of zero makes no sense here"),
            ("64k", "\"64k\" is not a size: write \"64KiB\""),
            ("64kb", "\"64kb\" is not a size: write \"64KB\""),
            ("65536", "\"65536\" is not a size: write \"65536B\""),
            ("9223372036854775807B", "9223372036854775807"),
            ("9223372036854775808B", "\"9223372036854775808B\" is too big"),
            ("18446744073709551615GiB", "\"18446744073709551615GiB\" is too big"),
        ],
    );
    refused(size, &["", "KiB", "-1B", "1.5MiB", "1 0B", "0x10B", "off"]);
}

#[test]
fn rates() {
    let read = |text: &str| rate(text).map(|rate| (rate.count.get(), rate.per.as_secs()));
    table(read, &[("10/s", "(10, 1)"), ("600/m", "(600, 60)"), ("5/h", "(5, 3600)")]);
    table(read, &[("0/s", "a rate of zero would refuse everyone")]);
    refused(read, &["10", "10/", "/s", "10/d", "10 / s", "+1/s", "4294967296/s", "1.5/s", "10/S"]);
}

#[test]
fn addresses_to_listen_on() {
    table(
        socket_address,
        &[
            ("0.0.0.0:8080", "0.0.0.0:8080"),
            ("[::]:8080", "[::]:8080"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            (
                ":8080",
                "\":8080\" is not an IP address and port: for every address write \"0.0.0.0:8080\" or \"[::]:8080\"",
            ),
            (
                "localhost:8080",
                "\"localhost:8080\" is not an IP address and port: write \"127.0.0.1:8080\" or \"[::1]:8080\"",
            ),
            ("::1", "\"::1\" is not an IP address and port: write \"[::1]:8080\""),
        ],
    );
    refused(socket_address, &["", "8080", "127.0.0.1", "127.0.0.1:65536", "example.com:80", "*:80"]);
}

#[test]
fn networks() {
    table(
        network,
        &[
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.0.0.7", "10.0.0.7/32"),
            ("::1", "::1/128"),
            ("fd00::/8", "fd00::/8"),
            ("::ffff:10.1.2.3", "10.1.2.3/32"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::/0", "::/0"),
        ],
    );
    refused(network, &["", "10.0.0.0/33", "10.0.0", "localhost", "10.0.0.0/8 "]);
}

#[test]
fn servers_of_an_upstream() {
    let read = |text: &str| {
        server(text).map(|server| match server.address {
            ServerAddress::Tcp { host, port } => (host, port, server.tls, server.base),
            ServerAddress::Unix(path) => (path.display().to_string(), 0, server.tls, server.base),
        })
    };
    table(
        read,
        &[
            ("ws://10.0.0.1:9000", "(\"10.0.0.1\", 9000, false, \"\")"),
            ("ws://Backend.Internal", "(\"backend.internal\", 80, false, \"\")"),
            ("wss://backend", "(\"backend\", 443, true, \"\")"),
            ("wss://backend:9443/base/x", "(\"backend\", 9443, true, \"/base/x\")"),
            ("ws://backend/", "(\"backend\", 80, false, \"\")"),
            ("ws://[::1]:9000", "(\"::1\", 9000, false, \"\")"),
            ("unix:/run/chat.sock", "(\"/run/chat.sock\", 0, false, \"\")"),
            ("http://a:1", "http:// is not a WebSocket scheme: write \"ws://a:1\""),
            ("https://a/b", "https:// is not a WebSocket scheme: write \"wss://a/b\""),
            ("ws://me:secret@a", "a user name cannot stand in a server's address"),
            (
                "ws://a?x=1",
                "\"?x=1\" cannot stand in a server's address: the query of the client's request is passed on as it is",
            ),
            ("ws://a/b/", "\"/b/\" is not in normal form: write \"/b\""),
            ("unix:run/x", "\"unix:run/x\" is not an absolute path: like \"unix:/run/service.sock\""),
            ("ws://a:99999", "\"99999\" is not a port: a number from 1 to 65535"),
        ],
    );
    refused(
        read,
        &[
            "",
            "a",
            "a:80",
            "ws:",
            "ws:/a",
            "ws://",
            "ws:///x",
            "ws://:80",
            "ws://a:",
            "ws://a:0",
            "ws://a:+1",
            "tcp://a",
            "ws://a#f",
            "ws://a b",
            "ws://[::1",
            "ws://::1",
            "ws://[zz]",
            "unix:",
            "unix://run/x",
            "ws://a/../b",
            "ws://a/%zz",
        ],
    );
    let long = format!("unix:/{}", "x".repeat(107));
    refused(read, &[&long]);
}

#[test]
fn hosts_of_a_route() {
    table(
        host_pattern,
        &[
            ("Chat.Example.COM.", "Exact(\"chat.example.com\")"),
            ("*.example.com", "Below(\"example.com\")"),
            ("127.0.0.1", "Exact(\"127.0.0.1\")"),
            ("[::1]", "Exact(\"::1\")"),
            ("*", "\"*\" is not a host: leave `host` out for any host"),
            ("a.com:80", "a host has no port: listeners decide on ports: write \"a.com\""),
            ("https://a.com", "a host has no scheme: write \"a.com\""),
            ("bücher.de", "\"bücher.de\" is not an ASCII host name: write its xn-- form (punycode)"),
            ("::1", "\"::1\" has no brackets: write \"[::1]\""),
        ],
    );
    refused(
        host_pattern,
        &[
            "",
            ".",
            "a..b",
            "-a.com",
            "a-.com",
            "*.*.com",
            "a.*.com",
            "*.10.0.0.1",
            "1.2.3",
            "a b",
            "a/b",
            "*.",
            "[::1]:80",
            "a\nb",
        ],
    );
    refused(host_pattern, &[&"a".repeat(64), &["a"; 128].join(".")]);
}

#[test]
fn origins_by_rfc_6454() {
    let read = |text: &str| origin(text).map(|o| (o.scheme, o.host, o.port, o.below));
    table(
        read,
        &[
            ("https://Example.com", "(\"https\", \"example.com\", 443, false)"),
            ("HTTP://example.com", "(\"http\", \"example.com\", 80, false)"),
            ("http://localhost:3000", "(\"http\", \"localhost\", 3000, false)"),
            ("https://*.example.com:8443", "(\"https\", \"example.com\", 8443, true)"),
            ("https://[::1]", "(\"https\", \"::1\", 443, false)"),
            ("capacitor://localhost:1", "(\"capacitor\", \"localhost\", 1, false)"),
            ("capacitor://localhost", "(\"capacitor\", \"localhost\", 0, false)"),
            ("https://example.com/", "an origin has no path: write \"https://example.com\""),
            ("wss://example.com", "the origin is the page's, not the socket's: write \"https://example.com\""),
            ("example.com", "\"example.com\" is not an origin: write \"https://example.com\""),
            ("same-orgin", "\"same-orgin\" is not an origin: did you mean \"same-origin\"?"),
            (
                "*",
                "\"*\" is not an origin: like \"https://example.com\", \"https://*.example.com\", \
               \"same-origin\", \"none\" or \"any\"",
            ),
            (
                "null",
                "\"null\" is not an origin: like \"https://example.com\", \"https://*.example.com\", \
                  \"same-origin\", \"none\" or \"any\"",
            ),
        ],
    );
    refused(
        read,
        &[
            "",
            "://a",
            "https://",
            "https://*",
            "https://*.",
            "https://a.*.com",
            "https://u@a",
            "https://a:0",
            "https://a b",
            "https://*.10.0.0.1",
            "1http://a",
        ],
    );
}

#[test]
fn paths_in_normal_form() {
    table(
        |text| path(text, false, false),
        &[
            ("/", "\"/\""),
            ("/chat", "\"/chat\""),
            ("/a/b.c~d_e-f/%C3%A9/@:!", "\"/a/b.c~d_e-f/%C3%A9/@:!\""),
            ("chat", "\"chat\" does not begin with \"/\": write \"/chat\""),
            ("/chat/", "\"/chat/\" is not in normal form: write \"/chat\""),
            ("//a///b", "\"//a///b\" is not in normal form: write \"/a/b\""),
            ("/%63hat", "\"/%63hat\" is not in normal form: write \"/chat\""),
            ("/%c3%a9", "\"/%c3%a9\" is not in normal form: write \"/%C3%A9\""),
            ("/é x", "\"/é x\" is not in normal form: write \"/%C3%A9%20x\""),
            ("/a?x=1", "a path has no query and no fragment: write \"/a\""),
            ("/a/*", "a path needs no \"*\": all below it belongs to it: write \"/a\""),
            ("/a/../b", "\".\" and \"..\" cannot be segments of a path"),
            ("/a/%2e%2E/b", "\".\" and \"..\" cannot be segments of a path"),
            ("/a%", "\"%\" without two hex digits: write %25 for a percent sign"),
            (
                "/a%2Fb",
                "%2F stands in a path that accepts no encoded slashes: add `encoded_slashes = true`, or write \"/\"",
            ),
        ],
    );
    refused(
        |text| path(text, true, false),
        &["", "/a\\b", "/a%5Cb", "/a%00b", "/a%7F", "/a/..;/b", "/./a", "/a%2", "/a%+1"],
    );
    assert_eq!(path("/a%2Fb", true, false), Ok("/a%2Fb".to_owned()));
}

#[test]
fn subprotocols_are_tokens() {
    table(subprotocol, &[("chat.v2", "\"chat.v2\""), ("graphql-transport-ws", "\"graphql-transport-ws\"")]);
    refused(subprotocol, &["", "a b", "a,b", "\"a\"", "é", "a/b"]);
}

#[test]
fn near_words() {
    let words = ["sessions", "connections", "ping", "host"];
    let rows = [("session", Some("sessions")), ("Sessions", Some("sessions")), ("pign", Some("ping"))];
    for (word, expected) in rows.into_iter().chain([("hots", Some("host")), ("compression", None), ("", None)]) {
        assert_eq!(nearest(word, words), expected, "{word:?}");
    }
}

fn node(value: Value, substituted: bool) -> Node {
    Node { at: Position::default(), substituted, value }
}

#[test]
fn a_substituted_string_stands_for_a_number_or_a_bool() {
    let text = |text: &str, substituted| node(Value::Text(text.to_owned()), substituted);
    assert_eq!(number(1..=9)(&text("7", true)), Ok(7));
    assert_eq!(told(number(1..=9)(&text("7", false))), "\"7\" is a string: write 7 without quotes");
    assert_eq!(told(number(1..=9)(&text("10", true))), "10 is not allowed: from 1 to 9");
    assert_eq!(boolean(&text("true", true)), Ok(true));
    assert_eq!(told(boolean(&text("true", false))), "\"true\" is a string: write true without quotes");
    assert_eq!(told(boolean(&text("yes", true))), "\"yes\" is neither true nor false");
}

#[test]
fn a_bare_number_is_told_its_unit() {
    let read = or_off(string(duration));
    assert_eq!(told(read(&node(Value::Integer(30), false))), "\"30\" is not a duration: write \"30s\", or \"off\"");
    assert_eq!(told(read(&node(Value::Bool(false), false))), "false does not turn this off: write \"off\"");
    let read = string(name);
    assert_eq!(
        told(read(&node(Value::Integer(3), false))),
        "a number stands where a string is wanted: put it in quotes"
    );
}

proptest! {
    #[test]
    fn durations_read_as_shown(millis in 1..=DURATION_MAX.as_millis() as u64) {
        let value = Duration::from_millis(millis);
        prop_assert_eq!(duration(&show_duration(value)), Ok(value));
    }

    #[test]
    fn sizes_read_as_shown(bytes in 1..=i64::MAX as u64) {
        prop_assert_eq!(size(&show_size(bytes)), Ok(bytes));
    }

    #[test]
    fn what_is_read_is_shown_in_its_largest_unit(count in 1u64..=364, unit in 0..5usize) {
        let text = format!("{count}{}", DURATION_UNITS[unit].0);
        let value = duration(&text).unwrap();
        prop_assert!(show_duration(value).len() <= text.len());
        prop_assert_eq!(duration(&show_duration(value)), Ok(value));
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,40}") {
        let _ = (duration(&text), size(&text), rate(&text), socket_address(&text), network(&text));
        let _ = (server(&text), host_pattern(&text), origin(&text), path(&text, true, false), host_header(&text));
        let _ = (server(&format!("ws://{text}")), origin(&format!("https://{text}")), path(&format!("/{text}"), false, false));
    }

    #[test]
    fn the_normal_form_that_is_told_is_right(text in "/[a-zA-Z0-9%/._~ é-]{0,30}") {
        if let Err(Wrong { message, help: Some(help) }) = path(&text, true, false)
            && message.ends_with("normal form")
        {
            let right = help.strip_prefix("write \"").and_then(|rest| rest.strip_suffix('"')).unwrap_or("");
            prop_assert_eq!(path(right, true, false), Ok(right.to_owned()));
        }
    }
}
