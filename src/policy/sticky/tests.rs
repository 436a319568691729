use http::Request;
use proptest::prelude::*;

use super::*;

fn parts(target: &str, cookies: &[&str]) -> request::Parts {
    let mut request = Request::builder().uri(target);
    for line in cookies {
        request = request.header(COOKIE, *line);
    }
    request.body(()).expect("a request").into_parts().0
}

fn key() -> Key {
    Key::parse(b"0123456789abcdef").expect("a key")
}

#[test]
fn keys_of_files() {
    let long = "x".repeat(KEY_BYTES_MAX + 1);
    #[rustfmt::skip]
    let rows = [
        ("a key", "0123456789abcdef", None),
        ("with white space around it", "\n  0123456789abcdef \r\n", None),
        ("nothing", " \n", Some(BadKey::Words)),
        ("two words", "0123456789abcdef 0123456789abcdef", Some(BadKey::Words)),
        ("a short one", "0123456789abcde", Some(BadKey::Short)),
        ("a long one", &long, Some(BadKey::Long)),
        ("not ASCII", "0123456789abcdéf", Some(BadKey::NotVisible)),
        ("a control byte", "0123456789abcd\x07ef", Some(BadKey::NotVisible)),
    ];
    for (name, text, expected) in rows {
        assert_eq!(Key::parse(text.as_bytes()).err(), expected, "{name}");
    }
}

#[test]
fn a_seal_belongs_to_one_server_of_one_upstream_and_one_key() {
    let sealed = key().seal("app", 7);
    assert_eq!(sealed.len(), SEALED_CHARS);
    assert_eq!(sealed, Key::parse(b"0123456789abcdef\n").unwrap().seal("app", 7), "another gateway");
    assert_eq!(key().open("app", sealed.as_bytes()), Some(7));
    assert_eq!(key().open("other", sealed.as_bytes()), None);
    assert_eq!(Key::parse(b"0123456789abcdeF").unwrap().open("app", sealed.as_bytes()), None);
    assert_eq!(Key::random().open("app", Key::random().seal("app", 7).as_bytes()), None);
}

#[test]
fn cookies_of_requests() {
    let [a, b] = [1, 2].map(|server| key().seal("app", server));
    let foreign = Key::random().seal("app", 1);
    #[rustfmt::skip]
    let rows: [(&str, Vec<String>, Option<u64>); 15] = [
        ("none", vec![], None),
        ("ours", vec![format!("tidegate={a}")], Some(1)),
        ("among others", vec![format!("x=y; tidegate={b}; z=1")], Some(2)),
        ("without spaces", vec![format!("x=y;tidegate={b};z=1")], Some(2)),
        ("in another line", vec!["x=y".into(), format!("tidegate={a}")], Some(1)),
        ("two of the name", vec![format!("tidegate={b}; tidegate={a}")], Some(2)),
        ("a forged one beside ours", vec![format!("tidegate=forged; tidegate={a}")], Some(1)),
        ("of another key", vec![format!("tidegate={foreign}")], None),
        ("hundreds of forged ones", vec![format!("{}tidegate={a}", format!("tidegate={foreign};").repeat(300))], None),
        ("another name", vec![format!("xtidegate={a}; tidegate2={a}; Tidegate={a}")], None),
        ("empty", vec!["tidegate=".into(), "tidegate".into(), "=".into(), ";".into()], None),
        ("quoted", vec![format!("tidegate=\"{a}\"")], None),
        ("too short, too long", vec![format!("tidegate={}", &a[1..]), format!("tidegate={a}A")], None),
        ("not base64url", vec![format!("tidegate={}", "!".repeat(32)), format!("tidegate={}", "+".repeat(32))], None),
        ("an address", vec!["tidegate=10.0.0.1:9000".into()], None),
    ];
    for (name, cookies, expected) in rows {
        let lines: Vec<&str> = cookies.iter().map(String::as_str).collect();
        assert_eq!(server(&parts("/", &lines).headers, "tidegate", &key(), "app"), expected, "{name}");
    }
}

#[test]
fn cookies_that_are_set() {
    let sealed = key().seal("app", 1);
    let cookie = |path: &str, same_site| StickyCookie { name: "c".into(), path: path.into(), same_site, key: None };
    #[rustfmt::skip]
    let rows = [
        ("/", SameSite::Lax, false, "; Path=/; HttpOnly; SameSite=Lax"),
        ("/", SameSite::Lax, true, "; Path=/; HttpOnly; SameSite=Lax; Secure"),
        ("/chat", SameSite::Strict, true, "; Path=/chat; HttpOnly; SameSite=Strict; Secure"),
        ("/", SameSite::None, true, "; Path=/; HttpOnly; SameSite=None; Secure"),
        ("/", SameSite::None, false, "; Path=/; HttpOnly"),
    ];
    for (path, same_site, secure, expected) in rows {
        let set = set_cookie(&cookie(path, same_site), &sealed, secure);
        assert_eq!(set.to_str().unwrap(), format!("c={sealed}{expected}"));
        let pair = set.to_str().unwrap().split(';').next().unwrap().to_owned();
        assert_eq!(server(&parts("/", &[&pair]).headers, "c", &key(), "app"), Some(1), "it is read again");
    }
}

#[test]
fn answers_that_caches_share() {
    #[rustfmt::skip]
    let rows = [
        ("", false), ("no-cache", false), ("private, max-age=60", false), ("max-age=60", false),
        ("public", true), ("max-age=60, Public", true), ("s-maxage=60", true), ("S-MaxAge=0", true),
        ("publicly", false),
    ];
    for (value, expected) in rows {
        let headers = HeaderMap::from_iter([(CACHE_CONTROL, value.parse().unwrap())]);
        assert_eq!(is_shared(&headers), expected, "{value:?}");
    }
}

#[test]
fn session_ids_of_requests() {
    let long = format!("/?sid={}", "x".repeat(SID_BYTES_MAX + 1));
    #[rustfmt::skip]
    let rows = [
        ("/socket.io/?EIO=4&transport=polling&sid=lv_VI97HAXpY6yYWAAAB", Some("lv_VI97HAXpY6yYWAAAB")),
        ("/socket.io/?sid=a%2Bb&EIO=4", Some("a+b")),
        ("/socket.io/?EIO=4&transport=polling", None),
        ("/socket.io/?sid=", None),
        ("/socket.io/?sid=a&sid=b", None),
        ("/socket.io/?asid=a", None),
        (&long, None),
    ];
    for (target, expected) in rows {
        assert_eq!(sid(&parts(target, &[])).as_deref(), expected.map(str::as_bytes), "{target}");
    }
}

#[test]
fn requests_that_open_a_session_by_polling() {
    #[rustfmt::skip]
    let rows = [
        ("GET", "/socket.io/?EIO=4&transport=polling&t=abc", true),
        ("GET", "/engine.io/?transport=polling&EIO=3&b64=1", true),
        ("GET", "/socket.io/?EIO=4&transport=polling&sid=abc", false),
        ("GET", "/socket.io/?EIO=4&transport=websocket", false),
        ("GET", "/socket.io/?transport=polling", false),
        ("GET", "/", false),
        ("POST", "/socket.io/?EIO=4&transport=polling", false),
    ];
    for (method, target, expected) in rows {
        let mut parts = parts(target, &[]);
        parts.method = method.parse().unwrap();
        assert_eq!(opens_polling(&parts), expected, "{method} {target}");
    }
}

#[test]
fn session_ids_of_answers() {
    let late = format!("{}\"sid\":\"a\"", " ".repeat(LOOK_BYTES_MAX));
    let endless = format!("0{{\"sid\":\"{}", "x".repeat(LOOK_BYTES_MAX));
    #[rustfmt::skip]
    let rows: [(&str, &[u8], Found); 10] = [
        ("version 4", br#"0{"sid":"lv_VI97HAXpY6yYWAAAB","upgrades":["websocket"],"pingInterval":25000}"#,
            Found::Sid(b"lv_VI97HAXpY6yYWAAAB".to_vec())),
        ("version 4, with spaces (Python)", br#"0{"sid": "abc", "upgrades": []}"#, Found::Sid(b"abc".to_vec())),
        ("version 3", br#"97:0{"sid":"abc","upgrades":[]}2:40"#, Found::Sid(b"abc".to_vec())),
        ("version 3, binary", b"\x00\x09\x07\xff0{\"sid\":\"abc\"}", Found::Sid(b"abc".to_vec())),
        ("version 3, JSONP", br#"___eio[0]("97:0{\"sid\":\"abc\",\"upgrades\":[]}");"#, Found::Sid(b"abc".to_vec())),
        ("a message", b"42[\"hello\"]", Found::NotYet),
        ("cut in the id", br#"0{"sid":"ab"#, Found::NotYet),
        ("too late", late.as_bytes(), Found::Nothing),
        ("without end", endless.as_bytes(), Found::Nothing),
        ("compressed", &[0x1f; 600], Found::Nothing),
    ];
    for (name, body, expected) in rows {
        assert_eq!(Look::default().read(body), expected, "{name}");
    }
}

proptest! {
    #[test]
    fn an_id_is_found_wherever_the_answer_is_cut(cuts in prop::collection::vec(0_usize..60, 0..4)) {
        let body = br#"0{"sid":"lv_VI97HAXpY6yYWAAAB","upgrades":["websocket"]}"#;
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(body.len())).collect();
        cuts.sort_unstable();
        let mut look = Look::default();
        let mut start = 0;
        let mut found = Found::NotYet;
        for end in cuts.into_iter().chain([body.len()]) {
            found = look.read(&body[start..end]);
            start = end;
            if found != Found::NotYet {
                break;
            }
        }
        prop_assert_eq!(found, Found::Sid(b"lv_VI97HAXpY6yYWAAAB".to_vec()));
    }

    #[test]
    fn whatever_comes_is_bounded(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut look = Look::default();
        for chunk in bytes.chunks(7) {
            if look.read(chunk) != Found::NotYet {
                break;
            }
        }
        prop_assert!(look.seen.len() <= LOOK_BYTES_MAX);
    }

    #[test]
    fn what_is_sealed_is_opened_and_nothing_else(named in any::<u64>(), at in 0..SEALED_CHARS, by in 1..64_u8) {
        let mut sealed = key().seal("app", named).into_bytes();
        prop_assert_eq!(key().open("app", &sealed), Some(named));
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let old = alphabet.iter().position(|letter| *letter == sealed[at]).expect("base64url");
        sealed[at] = alphabet[(old + usize::from(by)) % 64];
        prop_assert_eq!(key().open("app", &sealed), None);
    }
}
