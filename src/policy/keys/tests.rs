use http::Request;
use http::header::HeaderName;
use proptest::prelude::*;

use super::*;
use crate::config::model::KeyPlaces;
use crate::proto::refusal::Refusal;

const ADA: &str = "0123456789abcdef";
const BOB: &str = "fedcba9876543210";

fn set(text: &str) -> KeySet {
    KeySet::parse(text.as_bytes()).expect("sound keys")
}

/// The name of a key that a request carries in its query.
fn name(set: &KeySet, key: &str) -> Option<String> {
    let (taken, ..) = taken("/?k={}".replace("{}", key), &[], &[]);
    set.find(&taken.expect("a key").key).map(|key| key.name.to_string())
}

#[test]
fn what_a_file_may_hold() {
    let long = "k".repeat(512);
    #[rustfmt::skip]
    let rows = [
        ("a key alone is named by its line", format!("{ADA}\n"), vec![(ADA, "line 1")]),
        ("a name, a colon, a key", format!("ada: {ADA}"), vec![(ADA, "ada")]),
        ("a name and a key", format!("ada {ADA}"), vec![(ADA, "ada")]),
        ("any white space", format!("\t ada:\t{ADA}  \r\n"), vec![(ADA, "ada")]),
        ("two keys of one name, while one replaces the other", format!("a: {ADA}\na: {BOB}"), vec![(ADA, "a"), (BOB, "a")]),
        ("empty lines and comments", format!("# both\n\n  # of them\nada: {ADA} # until May\n{BOB}#x\n"),
            vec![(ADA, "ada"), ("fedcba9876543210%23x", "line 5")]),
        ("a byte order mark", format!("\u{feff}ada: {ADA}"), vec![(ADA, "ada")]),
        ("comments in any script", format!("# für Ada\n{ADA}"), vec![(ADA, "line 2")]),
        ("a colon within a key that has a name", format!("ada: user:{ADA}"), vec![("user:0123456789abcdef", "ada")]),
        ("the longest key", long.clone(), vec![(long.as_str(), "line 1")]),
    ];
    for (what, text, keys) in rows {
        let set = set(&text);
        assert_eq!(set.len(), keys.len(), "{what}");
        for (key, expected) in keys {
            assert_eq!(name(&set, key).as_deref(), Some(expected), "{what}");
        }
        assert_eq!(name(&set, "0123456789abcdeF"), None, "{what}");
    }
}

#[test]
fn what_is_wrong_with_a_file() {
    let line = |line, fault| BadKeys::Line { line, fault };
    #[rustfmt::skip]
    let rows = [
        ("nothing", String::new(), BadKeys::Empty),
        ("comments only", "# soon\n\n".into(), BadKeys::Empty),
        ("short", "\nada: 0123456789abcde".into(), line(2, Fault::Short)),
        ("a name alone", "ada\n".into(), line(1, Fault::Short)),
        ("long", "k".repeat(513), line(1, Fault::Long)),
        ("three words", format!("ada {ADA} x"), line(1, Fault::Words)),
        ("no space behind the colon", format!("ada:{ADA}"), line(1, Fault::Colon)),
        ("no name before the colon", format!(": {ADA}"), line(1, Fault::Name)),
        ("a name that is not ASCII", format!("žofie: {ADA}"), line(1, Fault::Name)),
        ("a long name", format!("{}: {ADA}", "n".repeat(81)), line(1, Fault::Name)),
        ("a key that is not ASCII", "ž123456789abcdef".into(), line(1, Fault::NotVisible)),
        ("a control byte", "0123456789abcdef\u{7}".into(), line(1, Fault::NotVisible)),
        ("twice", format!("a: {ADA}\nb: {BOB}\n\nc: {ADA}"), line(4, Fault::Repeated(1))),
    ];
    for (what, text, expected) in rows {
        let bad = KeySet::parse(text.as_bytes()).expect_err(what);
        assert_eq!(bad, expected, "{what}");
        let told = format!("{bad} {bad:?}");
        assert!(!told.contains("0123456789") && !told.contains("ada"), "{what}: {told}");
    }
    assert_eq!(KeySet::parse(b"0123456789abcdef\xff").expect_err("not UTF-8"), BadKeys::NotUtf8);
}

#[test]
fn a_key_that_stays_keeps_its_grant_and_one_that_goes_loses_it() {
    let before = set(&format!("ada: {ADA}\nbob: {BOB}"));
    let grant = |set: &KeySet, key: &str| {
        let (taken, ..) = taken(format!("/?k={key}"), &[], &[]);
        set.find(&taken.expect("a key").key).expect("known").grant.clone()
    };
    let (ada, bob) = (grant(&before, ADA), grant(&before, BOB));
    let after = before.successor(format!("new-name: {ADA}").as_bytes()).expect("sound");
    assert!(!bob.is_revoked(), "nothing is revoked before the old keys are out of service");
    assert_eq!(before.revoke_missing(&after), 1);
    assert!(bob.is_revoked() && !ada.is_revoked());
    assert!(Arc::ptr_eq(&ada, &grant(&after, ADA)), "the session of a key that stays is reached later, too");
    assert_eq!(name(&after, ADA).as_deref(), Some("new-name"));
    let again = after.successor(format!("{ADA}\n{BOB}").as_bytes()).expect("sound");
    assert!(!grant(&again, BOB).is_revoked(), "a key that comes back is another grant");
    assert!(bob.is_revoked());
}

#[test]
fn nothing_that_is_printed_holds_a_key() {
    let set = set(&format!("ada: {ADA}"));
    let (taken, ..) = taken(format!("/?k={ADA}"), &[], &[]);
    let taken = taken.expect("a key");
    let printed = format!("{set:?} {taken:?} {:?} {:?}", taken.key, set.find(&taken.key));
    assert!(!printed.contains(ADA) && printed.contains("ada"), "{printed}");
}

/// What was taken from a request (places: header `x-api-key`, query `k`, bearer), its target, fields and offer behind it.
fn taken(
    target: String,
    fields: &[(&str, &str)],
    offer: &[&str],
) -> (Result<Taken, Refusal>, String, String, Vec<String>) {
    let places =
        KeyPlaces { header: Some(HeaderName::from_static("x-api-key")), query: Some("k".into()), bearer: true };
    taken_from(&places, target, fields, offer)
}

fn taken_from(
    places: &KeyPlaces,
    target: String,
    fields: &[(&str, &str)],
    offer: &[&str],
) -> (Result<Taken, Refusal>, String, String, Vec<String>) {
    let mut request = Request::builder().uri(target);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let (mut parts, ()) = request.body(()).expect("a request").into_parts();
    let mut offer: Vec<String> = offer.iter().map(|name| (*name).to_owned()).collect();
    let taken = take(places, &mut parts, &mut offer);
    let left = parts.headers.iter().map(|(name, value)| format!("{name}={};", value.to_str().expect("ASCII")));
    (taken, parts.uri.to_string(), left.collect(), offer)
}

/// As text: the key, or the label of the refusal.
fn shown(taken: &Result<Taken, Refusal>) -> String {
    match taken {
        Ok(taken) => String::from_utf8_lossy(taken.key.reveal()).into_owned(),
        Err(refusal) => format!("! {}", refusal.label()),
    }
}

#[test]
fn a_key_in_the_query_is_cut_out_of_the_target() {
    #[rustfmt::skip]
    let rows = [
        ("alone", "/a?k=v", "v", "/a"),
        ("first", "/a?k=v&b=%20+c&&d", "v", "/a?b=%20+c&&d"),
        ("in the middle", "/a?b&k=v&c", "v", "/a?b&c"),
        ("last", "/a?b=1&k=v", "v", "/a?b=1"),
        ("beside an empty one", "/a?&k=v", "v", "/a?"),
        ("in percent-encoding", "/a?k=a%2Bb%3d", "a+b=", "/a"),
        ("a plus sign is one", "/a?k=a+b", "a+b", "/a"),
        ("an equals sign within", "/a?k=v==", "v==", "/a"),
        ("what is no encoding", "/a?k=%zz%4", "%zz%4", "/a"),
        ("its name encoded", "/a?%6B=v&b", "v", "/a?b"),
        ("empty", "/a?k=", "", "/a"),
        ("no value", "/a?k", "", "/a"),
        ("another name", "/a?K=v&kk=v", "! api_key_missing", "/a?K=v&kk=v"),
        ("twice", "/a?k=v&k=w&b", "! api_key_repeated", "/a?b"),
        ("twice, once in disguise", "/a?k=v&%6b=v", "! api_key_repeated", "/a"),
        ("absolute form", "http://h.test/a?k=v&b", "v", "http://h.test/a?b"),
        ("absolute form without a path", "http://h.test?k=v", "v", "http://h.test/"),
        ("a question mark in the value", "/a?b=?&k=v?", "v?", "/a?b=?"),
    ];
    for (what, target, key, left) in rows {
        let (taken, uri, ..) = taken(target.to_owned(), &[], &[]);
        assert_eq!((shown(&taken).as_str(), uri.as_str()), (key, left), "{what}");
    }
}

#[test]
fn a_key_in_a_field() {
    let own = KeyPlaces { header: Some(HeaderName::from_static("x-api-key")), ..KeyPlaces::default() };
    let token = KeyPlaces { header: Some(HeaderName::from_static("authorization")), ..KeyPlaces::default() };
    #[rustfmt::skip]
    let rows: [(_, _, &[(&str, &str)], _, _); 12] = [
        ("there", &own, &[("x-a", "1"), ("x-api-key", "v")], "v", "x-a=1;"),
        ("any spelling", &own, &[("X-API-KEY", "v")], "v", ""),
        ("not there", &own, &[("authorization", "Bearer v")], "! api_key_missing", "authorization=Bearer v;"),
        ("twice", &own, &[("x-api-key", "v"), ("x-api-key", "v")], "! api_key_repeated", ""),
        ("not percent-decoded", &own, &[("x-api-key", "%41")], "%41", ""),
        ("a token", &token, &[("authorization", "Bearer v")], "v", ""),
        ("a token, the scheme in any case", &token, &[("authorization", "bEARER  v")], "v", ""),
        ("another scheme is the upstream's", &token, &[("authorization", "Basic v")], "! api_key_missing",
            "authorization=Basic v;"),
        ("no space", &token, &[("authorization", "Bearerv")], "! api_key_missing", "authorization=Bearerv;"),
        ("nothing behind the scheme", &token, &[("authorization", "Bearer")], "! api_key_missing", "authorization=Bearer;"),
        ("two tokens", &token, &[("authorization", "Bearer v"), ("authorization", "Bearer w")],
            "! api_key_repeated", ""),
        ("a token and something else", &token, &[("authorization", "Basic v"), ("authorization", "Bearer w")],
            "! api_key_repeated", ""),
    ];
    for (what, places, fields, key, left) in rows {
        let (taken, _, headers, _) = taken_from(places, "/".to_owned(), fields, &[]);
        assert_eq!((shown(&taken).as_str(), headers.as_str()), (key, left), "{what}");
    }
}

#[test]
fn a_key_in_a_subprotocol() {
    #[rustfmt::skip]
    let rows: [(_, &[&str], _, &[&str], _); 10] = [
        ("beside the service's", &["chat", "bearer.v"], "v", &["chat"], None),
        ("before them", &["bearer.v", "b", "a"], "v", &["b", "a"], None),
        ("with a dot", &["chat", "bearer.a.b"], "a.b", &["chat"], None),
        ("in percent-encoding", &["chat", "bearer.a%2Fb%3D"], "a/b=", &["chat"], None),
        ("the service has none", &["bearer", "bearer.v"], "v", &[], Some("bearer")),
        ("the service may have one", &["chat", "bearer", "bearer.v"], "v", &["chat"], Some("bearer")),
        ("alone", &["bearer.v"], "! api_key_alone", &[], None),
        ("twice", &["chat", "bearer.v", "bearer.w"], "! api_key_repeated", &["chat"], None),
        ("the case counts", &["Bearer.v"], "! api_key_missing", &["Bearer.v"], None),
        ("none", &["chat", "bearer"], "! api_key_missing", &["chat"], None),
    ];
    for (what, offer, key, left, fallback) in rows {
        let (taken, _, _, rest) = taken("/".to_owned(), &[], offer);
        assert_eq!(
            (shown(&taken).as_str(), rest),
            (key, left.iter().map(|name| (*name).to_owned()).collect()),
            "{what}"
        );
        assert_eq!(taken.ok().and_then(|taken| taken.fallback), fallback, "{what}");
    }
}

#[test]
fn one_key_in_one_place() {
    let (key, field) = ("/?k=v".to_owned(), [("x-api-key", "v")]);
    assert_eq!(shown(&taken(key.clone(), &field, &[]).0), "! api_key_repeated");
    assert_eq!(shown(&taken(key.clone(), &[], &["chat", "bearer.v"]).0), "! api_key_repeated");
    let no_bearer = KeyPlaces { query: Some("k".into()), ..KeyPlaces::default() };
    let (taken, _, headers, offer) = taken_from(&no_bearer, key, &field, &["bearer.v", "bearer"]);
    assert_eq!(shown(&taken), "v", "what is no place is not looked at");
    assert_eq!((headers.as_str(), offer), ("x-api-key=v;", vec!["bearer.v".to_owned(), "bearer".to_owned()]));
}

#[test]
fn what_a_401_says() {
    let field = |name| KeyPlaces { header: Some(HeaderName::from_static(name)), ..KeyPlaces::default() };
    assert!(!is_bearer(&field("x-api-key")) && is_bearer(&field("authorization")));
    assert!(is_bearer(&KeyPlaces { bearer: true, ..KeyPlaces::default() }));
    let rows = [
        (Refusal::ApiKeyMissing { bearer: true }, "Bearer"),
        (Refusal::ApiKeyUnknown { bearer: true }, "Bearer error=\"invalid_token\""),
        (Refusal::ApiKeyMissing { bearer: false }, "ApiKey"),
        (Refusal::ApiKeyUnknown { bearer: false }, "ApiKey"),
    ];
    for (refusal, challenge) in rows {
        let headers = refusal.headers();
        assert_eq!(headers.len(), 1, "{refusal:?}");
        assert_eq!((headers[0].0.as_str(), headers[0].1.as_bytes()), ("www-authenticate", challenge.as_bytes()));
    }
}

proptest! {
    /// Whatever stands around it, the key comes out and everything else stays.
    #[test]
    fn the_rest_of_a_query_stays_as_it_came(
        before in "([a-jl-z0-9=._~+]{0,8}&){0,3}",
        after in "(&[a-jl-z0-9=._~+]{0,8}){0,3}",
        key in "[!-~]{16,40}",
    ) {
        let encoded: String = key.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let (taken, uri, ..) = taken(format!("/p?{before}k={encoded}{after}"), &[], &[]);
        prop_assert_eq!(shown(&taken), key);
        let rest = match (before.is_empty(), after.is_empty()) {
            (true, true) => String::new(),
            (true, false) => format!("?{}", &after[1..]),
            (false, _) => format!("?{}{after}", &before[..before.len() - 1]),
        };
        prop_assert_eq!(uri, format!("/p{rest}"));
    }

    /// Neither a file nor a request makes it panic.
    #[test]
    fn anything_may_come(file in proptest::collection::vec(any::<u8>(), 0..200), query in "[!-~&&[^#\"<>\\\\^`{|}]]{0,60}") {
        let _ = KeySet::parse(&file);
        let _ = taken(format!("/?{query}"), &[], &[]);
    }
}
