use proptest::prelude::*;

use super::*;
use crate::proto::fields::testing::lines;

/// Offers or an answer in these lines of Sec-WebSocket-Extensions, joined by a line feed; `pmd` stands for the name.
fn field(text: &str) -> HeaderMap {
    let text = text.replace("pmd", NAME);
    let of = |line: &str| format!("sec-websocket-extensions: {line}\n");
    lines(&text.split('\n').map(of).collect::<String>())
}

#[test]
fn offers_that_pass() {
    #[rustfmt::skip]
    let rows = [
        ("as Chromium sends it", "pmd; client_max_window_bits", "pmd; client_max_window_bits"),
        ("every parameter", "pmd;client_max_window_bits=9;server_max_window_bits=10;client_no_context_takeover\
            ;server_no_context_takeover", "pmd; server_no_context_takeover; client_no_context_takeover; \
            server_max_window_bits=10; client_max_window_bits=9"),
        ("the smallest and the largest window", "pmd; server_max_window_bits=8; client_max_window_bits=15",
            "pmd; server_max_window_bits=8; client_max_window_bits=15"),
        ("a fallback in the client's order", "pmd; server_max_window_bits=10, pmd",
            "pmd; server_max_window_bits=10, pmd"),
        ("a fallback on a second line", "pmd; server_max_window_bits=10\npmd",
            "pmd; server_max_window_bits=10, pmd"),
        ("a quoted value that is a token", "pmd; server_max_window_bits=\"10\"", "pmd; server_max_window_bits=10"),
        ("a quoted value with a quoted pair", "pmd; server_max_window_bits=\"1\\0\"", "pmd; server_max_window_bits=10"),
        ("empty list members", " , pmd,\t,", "pmd"),
        ("an unknown extension is dropped", "x-webkit-deflate-frame, pmd", "pmd"),
        ("an unknown extension with odd values", "x-a; b=\"c\"; d=e; f, pmd", "pmd"),
        ("an unknown parameter drops its element", "pmd; x, pmd", "pmd"),
        ("a repeated parameter drops its element", "pmd; client_max_window_bits; client_max_window_bits=10", ""),
        ("a repeated flag drops its element", "pmd; server_no_context_takeover; server_no_context_takeover", ""),
        ("a flag with a value", "pmd; server_no_context_takeover=1", ""),
        ("server_max_window_bits without a value", "pmd; server_max_window_bits", ""),
        ("window bits below 8", "pmd; server_max_window_bits=7", ""),
        ("window bits above 15 (CVE-2026-2229)", "pmd; server_max_window_bits=16", ""),
        ("window bits beyond a byte", "pmd; server_max_window_bits=265", ""),
        ("window bits with a leading zero", "pmd; server_max_window_bits=08", ""),
        ("window bits with a sign", "pmd; client_max_window_bits=+9", ""),
        ("window bits that are no number", "pmd; client_max_window_bits=a", ""),
        ("another case is another name", "Permessage-Deflate", ""),
        ("a longer name", "pmd2", ""),
        ("no list at all", "", ""),
    ];
    for (name, offered, passed) in rows {
        let offers = offers(&field(offered));
        let value = offer_value(&offers).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(value.unwrap_or_default(), passed.replace("pmd", NAME), "{name}");
    }
}

#[test]
fn a_field_that_breaks_the_grammar_offers_nothing() {
    #[rustfmt::skip]
    let rows = [
        ("no separator", "pmd, a b"),
        ("an empty parameter", "pmd, a;"),
        ("a parameter without a name", "pmd, a; =b"),
        ("a value that is missing", "pmd, a; b="),
        ("whitespace around the equals sign", "pmd, a; b = c"),
        ("a quote that never ends", "pmd, a; b=\"c"),
        ("a quoted pair that never ends", "pmd, a; b=\"c\\"),
        ("a quoted value that is no token", "pmd, a; b=\"c d\""),
        ("a quoted value that is empty", "pmd, a; b=\"\""),
        ("text behind a quoted value", "pmd, a; b=\"c\"d"),
        ("a name with a value", "pmd, a=b"),
        ("a separator as a name", "pmd, (a)"),
        ("a byte beyond ASCII", "pmd, é"),
        ("a bad second line", "pmd\na;"),
    ];
    for (name, offered) in rows {
        assert_eq!(offers(&field(offered)), [], "{name}");
        assert_eq!(answer(&field(offered), &[Deflate::default()]), Err(BadExtensions::Malformed), "{name}");
    }
}

#[test]
fn answers_and_the_offers_that_they_belong_to() {
    use BadExtensions as B;
    const PLAIN: &str = "pmd";
    const BROWSER: &str = "pmd; client_max_window_bits";
    const BITS: &str = "pmd; server_max_window_bits=10; client_max_window_bits=12";
    const TAKEOVER: &str = "pmd; server_no_context_takeover";
    #[rustfmt::skip]
    let rows = [
        ("none", PLAIN, "", Ok(())),
        ("the offer itself", PLAIN, PLAIN, Ok(())),
        ("none was offered", "", PLAIN, Err(B::NotOffered)),
        ("another extension", PLAIN, "x-webkit-deflate-frame", Err(B::Unknown)),
        ("another extension beside it", PLAIN, "pmd, foo", Err(B::Unknown)),
        ("twice", PLAIN, "pmd, pmd", Err(B::Repeated)),
        ("twice over lines", PLAIN, "pmd\npmd", Err(B::Repeated)),
        ("an unknown parameter", PLAIN, "pmd; x", Err(B::Parameters)),
        ("a repeated parameter", BROWSER, "pmd; client_max_window_bits=9; client_max_window_bits=9",
            Err(B::Parameters)),
        ("window bits out of range", BROWSER, "pmd; client_max_window_bits=16", Err(B::Parameters)),
        ("7.1.1.1: granted", TAKEOVER, TAKEOVER, Ok(())),
        ("7.1.1.1: not granted", TAKEOVER, PLAIN, Err(B::NotOffered)),
        ("7.1.1.1: volunteered", PLAIN, TAKEOVER, Ok(())),
        ("7.1.1.2: asked of the client", PLAIN, "pmd; client_no_context_takeover", Ok(())),
        ("7.1.1.2: ignored", "pmd; client_no_context_takeover", PLAIN, Ok(())),
        ("7.1.2.1: the same", BITS, "pmd; server_max_window_bits=10", Ok(())),
        ("7.1.2.1: smaller", BITS, "pmd; server_max_window_bits=9", Ok(())),
        ("7.1.2.1: larger", BITS, "pmd; server_max_window_bits=11", Err(B::NotOffered)),
        ("7.1.2.1: not granted", BITS, PLAIN, Err(B::NotOffered)),
        ("7.1.2.1: volunteered", PLAIN, "pmd; server_max_window_bits=9", Ok(())),
        ("7.1.2.2: with a value", BROWSER, "pmd; client_max_window_bits=8", Ok(())),
        ("7.1.2.2: without a value", BROWSER, BROWSER, Err(B::Parameters)),
        ("7.1.2.2: ignored", BROWSER, PLAIN, Ok(())),
        ("7.1.2.2: above the client's own", BITS, "pmd; server_max_window_bits=10; client_max_window_bits=13",
            Err(B::NotOffered)),
        ("7.1.2.2: the client's own", BITS, "pmd; server_max_window_bits=10; client_max_window_bits=12", Ok(())),
        ("7.1.2.2: not offered", PLAIN, "pmd; client_max_window_bits=15", Err(B::NotOffered)),
        ("the second offer", "pmd; server_max_window_bits=10, pmd", PLAIN, Ok(())),
        ("a mixture of two offers", "pmd; server_max_window_bits=10, pmd; client_max_window_bits",
            "pmd; server_max_window_bits=11; client_max_window_bits=9", Ok(())),
        ("neither of two offers", "pmd; server_max_window_bits=10, pmd; server_no_context_takeover",
            PLAIN, Err(B::NotOffered)),
    ];
    for (name, offered, answered, expected) in rows {
        let found = answer(&field(answered), &offers(&field(offered)));
        assert_eq!(found.map(|_| ()), expected, "{name}");
    }
}

fn any_deflate() -> impl Strategy<Value = Deflate> {
    let bits = || 8..=15_u8;
    let client = proptest::option::of(proptest::option::of(bits()));
    (any::<bool>(), any::<bool>(), proptest::option::of(bits()), client).prop_map(
        |(server, client, server_bits, client_bits)| Deflate {
            server_no_context_takeover: server,
            client_no_context_takeover: client,
            server_max_window_bits: server_bits,
            client_max_window_bits: client_bits,
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(offered in proptest::collection::vec(any_deflate(), 0..4)) {
        let mut headers = HeaderMap::new();
        headers.extend(offer_value(&offered).map(|value| (SEC_WEBSOCKET_EXTENSIONS, value)));
        prop_assert_eq!(offers(&headers), offered);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in "[ -~\t]{0,80}") {
        let headers = field(&bytes);
        let _ = answer(&headers, &offers(&headers));
    }
}
