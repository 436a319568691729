use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::model::{
    Access, ClientBy, Compression, Conditions, FieldEdits, OnExcess, Origins, Page, PingMode, Refuse, RelayRules,
    RouteLimits, Subprotocols, Target,
};

/// A route named by what it matches: `host/path`, `*.host/path` or `*/path`; `host=/path` where the path is exact. Behind
/// it conditions: `Name:value`, `?name=value`, `+subprotocol`.
fn route(text: &str) -> Arc<Route> {
    let mut words = text.split(' ');
    let (host, path) = words.next().unwrap().split_at(text.find('/').unwrap());
    let (host, path_exact) = host.strip_suffix('=').map_or((host, false), |host| (host, true));
    let mut conditions = Conditions::default();
    for word in words {
        if let Some(name) = word.strip_prefix('+') {
            conditions.subprotocol = Some(name.to_owned());
        } else if let Some((name, value)) = word.strip_prefix('?').and_then(|pair| pair.split_once('=')) {
            conditions.query.push((name.to_owned(), value.to_owned()));
        } else {
            let (name, value) = word.split_once(':').unwrap();
            conditions.headers.push((name.parse().unwrap(), value.to_owned()));
        }
    }
    let host = match host {
        "*" => HostPattern::Any,
        _ => match host.strip_prefix("*.") {
            Some(parent) => HostPattern::Below(parent.to_owned()),
            None => HostPattern::Exact(host.to_owned()),
        },
    };
    Arc::new(Route {
        name: text.to_owned(),
        host,
        path: path.to_owned(),
        path_exact,
        conditions,
        encoded_slashes: false,
        target: Target::Page(Page::Chat),
        https_only: false,
        rewrite: None,
        origins: Origins { any: true, none: false, same_origin: false, list: Vec::new() },
        subprotocols: Subprotocols { list: None, require: false },
        request_headers: FieldEdits::default(),
        response_headers: FieldEdits::default(),
        host_header: None,
        relay: RelayRules {
            heartbeat: None,
            idle_timeout: None,
            max_age: None,
            frame_timeout: Duration::from_secs(1),
            slow_timeout: None,
            close_timeout: Duration::from_secs(1),
            frame_bytes_max: 1,
            message_bytes_max: 1,
            fragments_max: None,
            ping: PingMode::Answer,
            compression: Compression::Off,
            strict: false,
            control_per_session: None,
            on_excess: OnExcess::Delay,
        },
        refuse: Refuse::Http,
        client: ClientBy::Address,
        access: Access::default(),
        keys: None,
        limits: RouteLimits::default(),
        plain: None,
    })
}

type Fields<'a> = &'a [(&'a str, &'a str)];

/// The head of a request for this target, with these fields.
fn head(target: &str, fields: Fields) -> request::Parts {
    let mut request = http::Request::builder().uri(target);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

#[test]
fn normal_forms() {
    use Refusal as R;
    #[rustfmt::skip]
    let rows = [
        ("the root", "/", Ok("/")),
        ("as it is", "/chat/a-b._~", Ok("/chat/a-b._~")),
        ("a trailing slash stays", "/chat/", Ok("/chat/")),
        ("unreserved bytes are decoded", "/%63h%61%74/%2D%7e", Ok("/chat/-~")),
        ("case counts", "/Chat", Ok("/Chat")),
        ("sub-delimiters stay", "/a!$&'()*+,;=:@", Ok("/a!$&'()*+,;=:@")),
        ("encoded sub-delimiters stay encoded", "/%3a%40", Ok("/%3A%40")),
        ("digits in upper case", "/%c3%a9", Ok("/%C3%A9")),
        ("slashes collapse", "//chat///a//", Ok("/chat/a/")),
        ("a double encoding stays one", "/%252e%252e/a", Ok("/%252e%252e/a")),
        ("an encoded query stays in the path", "/a%3Fb", Ok("/a%3Fb")),
        ("an encoded space", "/a%20b", Ok("/a%20b")),
        ("brackets as browsers send them", "/a[1]|", Ok("/a%5B1%5D%7C")),
        ("raw UTF-8 is as if encoded", "/é", Ok("/%C3%A9")),
        ("three dots are a name", "/.../a", Ok("/.../a")),
        ("a name that begins with dots", "/..a/.b", Ok("/..a/.b")),
        ("a name that ends with dots", "/a../b.", Ok("/a../b.")),
        ("path parameters", "/a;v=1/b", Ok("/a;v=1/b")),
        ("a dot segment", "/a/../b", Err(R::PathDotSegment)),
        ("a single dot", "/./a", Err(R::PathDotSegment)),
        ("a dot segment at the end", "/a/..", Err(R::PathDotSegment)),
        ("an encoded dot segment", "/a/%2e%2E/b", Err(R::PathDotSegment)),
        ("a half encoded dot segment", "/a/.%2e/b", Err(R::PathDotSegment)),
        ("an encoded single dot", "/%2e", Err(R::PathDotSegment)),
        ("a dot segment behind two slashes", "/a//..//b", Err(R::PathDotSegment)),
        ("a dot segment with parameters", "/a/..;/b", Err(R::PathDotSegment)),
        ("a dot segment with parameters and text", "/a/..;x=y/b", Err(R::PathDotSegment)),
        ("a single dot with parameters", "/.;/b", Err(R::PathDotSegment)),
        ("an encoded semicolon", "/a/..%3b/b", Err(R::PathDotSegment)),
        ("both semicolons", "/a/..%3b;/b", Err(R::PathDotSegment)),
        ("everything encoded", "/a/%2e%2e%3B/b", Err(R::PathDotSegment)),
        ("an encoded slash", "/a%2Fb", Err(R::PathEncodedSlash)),
        ("an encoded slash in lower case", "/a%2fb", Err(R::PathEncodedSlash)),
        ("a dot segment behind encoded slashes", "/a%2f..%2fb", Err(R::PathEncodedSlash)),
        ("a backslash", "/a\\..\\b", Err(R::PathBackslash)),
        ("an encoded backslash", "/a%5Cb", Err(R::PathBackslash)),
        ("NUL", "/a%00", Err(R::PathControl)),
        ("an encoded line feed", "/a%0d%0ab", Err(R::PathControl)),
        ("DEL", "/a%7F", Err(R::PathControl)),
        ("raw DEL", "/a\u{7f}", Err(R::PathControl)),
        ("half an encoding", "/a%2", Err(R::TargetMalformed)),
        ("a percent sign alone", "/100%", Err(R::TargetMalformed)),
        ("digits that are none", "/a%zz", Err(R::TargetMalformed)),
        ("digits with a sign", "/a%+1", Err(R::TargetMalformed)),
        ("digits beyond ASCII", "/a%é", Err(R::TargetMalformed)),
        ("asterisk form", "*", Err(R::TargetMalformed)),
        ("authority form", "", Err(R::TargetMalformed)),
        ("no slash", "a/b", Err(R::TargetMalformed)),
    ];
    for (name, path, expected) in rows {
        assert_eq!(normalise(path, false).as_deref().map_err(Clone::clone), expected, "{name}");
    }
}

#[test]
fn normal_forms_with_encoded_slashes() {
    use Refusal as R;
    #[rustfmt::skip]
    let rows = [
        ("allowed", "/a%2fb", Ok("/a%2Fb")),
        ("never decoded", "/a/%2F", Ok("/a/%2F")),
        ("a dot segment behind one", "/a%2f..", Err(R::PathDotSegment)),
        ("a dot segment in front of one", "/a/..%2fb", Err(R::PathDotSegment)),
        ("a dot segment between two", "/a%2f%2e%2e%2fb", Err(R::PathDotSegment)),
        ("with parameters", "/a%2f..;%2fb", Err(R::PathDotSegment)),
        ("an encoded backslash is none", "/a%5cb", Err(R::PathBackslash)),
    ];
    for (name, path, expected) in rows {
        assert_eq!(normalise(path, true).as_deref().map_err(Clone::clone), expected, "{name}");
    }
}

#[test]
fn the_most_specific_route_wins() {
    use Refusal as R;
    let routes = [
        "*/",
        "*/chat",
        "*.example.com/",
        "*.a.example.com/chat",
        "chat.example.com/",
        "chat.example.com/chat",
        "chat.example.com/chat/room",
        "only.example/here",
        "2001:db8::1/",
    ]
    .map(route);
    #[rustfmt::skip]
    let rows = [
        ("any host, any path", "other.example", "/x", Ok("*/")),
        ("any host, a path", "other.example", "/chat", Ok("*/chat")),
        ("a deeper path", "other.example", "/chat/x", Ok("*/chat")),
        ("a trailing slash", "other.example", "/chat/", Ok("*/chat")),
        ("not on a segment boundary", "other.example", "/chats", Ok("*/")),
        ("an encoded slash is no boundary", "other.example", "/chat%2Fx", Err(R::PathEncodedSlash)),
        ("the normal form matches", "other.example", "//%63hat", Ok("*/chat")),
        ("an exact host before a longer path", "chat.example.com", "/x", Ok("chat.example.com/")),
        ("an exact host before a wildcard", "chat.example.com", "/chat", Ok("chat.example.com/chat")),
        ("the longest path", "chat.example.com", "/chat/room/7", Ok("chat.example.com/chat/room")),
        ("a wildcard before any host", "b.example.com", "/chat", Ok("*.example.com/")),
        ("the longer wildcard", "b.a.example.com", "/chat", Ok("*.a.example.com/chat")),
        ("the shorter wildcard where the longer has no such path", "b.a.example.com", "/x", Ok("*.example.com/")),
        ("the apex of a wildcard", "example.com", "/", Ok("*/")),
        ("a suffix that is no subdomain", "evil-example.com", "/", Ok("*/")),
        ("IPv6", "[2001:DB8::1]:8080", "/", Ok("2001:db8::1/")),
        ("the port does not count, nor case nor a dot", "Chat.Example.Com.:8080", "/", Ok("chat.example.com/")),
        ("an exact host that lacks the path falls back", "only.example", "/there", Ok("*/")),
        ("a path that is refused", "chat.example.com", "/chat/../x", Err(R::PathDotSegment)),
    ];
    for (name, host, path, expected) in rows {
        let found = find(&routes, &host.parse().unwrap(), &head(path, &[]));
        assert_eq!(found.map(|route| route.name.as_str()), expected, "{name}");
    }
    assert_eq!(find(&routes[7..], &"only.example".parse().unwrap(), &head("/", &[])).map(|_| ()), Err(R::NoRoute));
    assert_eq!(find(&[], &"only.example".parse().unwrap(), &head("/", &[])).map(|_| ()), Err(R::NoRoute));
}

#[test]
fn the_first_of_two_equal_routes_wins() {
    let routes = ["a.example/x", "a.example/x"].map(route);
    let found = find(&routes, &"a.example".parse().unwrap(), &head("/x", &[])).unwrap();
    assert!(Arc::ptr_eq(found, &routes[0]));
}

#[test]
fn exact_paths() {
    let routes = ["*=/", "*/chat", "*=/chat", "*=/chat/room/", "a.example/chat"].map(route);
    #[rustfmt::skip]
    let rows = [
        ("the path itself", "b.example", "/chat", Ok("*=/chat")),
        ("with a query", "b.example", "/chat?x", Ok("*=/chat")),
        ("in normal form", "b.example", "//c%68at", Ok("*=/chat")),
        ("a trailing slash is another path", "b.example", "/chat/", Ok("*/chat")),
        ("below it", "b.example", "/chat/room", Ok("*/chat")),
        ("with a trailing slash of its own", "b.example", "/chat/room/", Ok("*=/chat/room/")),
        ("the root alone", "b.example", "/", Ok("*=/")),
        ("not what is below the root", "b.example", "/x", Err(Refusal::NoRoute)),
        ("the host counts more", "a.example", "/chat", Ok("a.example/chat")),
    ];
    for (name, host, path, expected) in rows {
        let found = find(&routes, &host.parse().unwrap(), &head(path, &[]));
        assert_eq!(found.map(|route| route.name.as_str()), expected, "{name}");
    }
}

#[test]
fn conditions() {
    let routes = [
        "*/chat",
        "*/chat x-tenant:a",
        "*/chat x-tenant:a ?version=2",
        "*/chat ?version=2",
        "*/chat +mqtt",
        "*/chat/room",
        "*=/chat/exact",
        "*/chat/exact x-tenant:a ?version=2",
    ]
    .map(route);
    let tenant = ("X-Tenant", "a");
    let offer = |list| ("Sec-WebSocket-Protocol", list);
    #[rustfmt::skip]
    let rows: [(&str, &str, Fields, &str); 22] = [
        ("none holds", "/chat", &[], "*/chat"),
        ("a field", "/chat", &[tenant], "*/chat x-tenant:a"),
        ("another value", "/chat", &[("X-Tenant", "b")], "*/chat"),
        ("case of a value counts", "/chat", &[("X-Tenant", "A")], "*/chat"),
        ("a field that is there twice", "/chat", &[tenant, ("X-Tenant", "b")], "*/chat"),
        ("the same one twice", "/chat", &[tenant, tenant], "*/chat"),
        ("a list", "/chat", &[("X-Tenant", "a, b")], "*/chat"),
        ("a parameter", "/chat?version=2", &[], "*/chat ?version=2"),
        ("an encoded one", "/chat?a&%76ersion=%32", &[], "*/chat ?version=2"),
        ("a parameter that is there twice", "/chat?version=2&version=1", &[], "*/chat"),
        ("the second without a value", "/chat?version=2&version", &[], "*/chat"),
        ("a name that begins so", "/chat?versions=2", &[], "*/chat"),
        ("case of a parameter counts", "/chat?Version=2", &[], "*/chat"),
        ("two conditions before one", "/chat?version=2", &[tenant], "*/chat x-tenant:a ?version=2"),
        ("the first of as many", "/chat", &[tenant, offer("mqtt")], "*/chat x-tenant:a"),
        ("a subprotocol", "/chat", &[offer("mqtt")], "*/chat +mqtt"),
        ("one of several", "/chat", &[offer("chat, mqtt"), offer("x")], "*/chat +mqtt"),
        ("case of a subprotocol counts", "/chat", &[offer("MQTT")], "*/chat"),
        ("an offer that is malformed", "/chat", &[offer("mqtt, ,")], "*/chat"),
        ("a longer path before conditions", "/chat/room?version=2", &[tenant], "*/chat/room"),
        ("an exact path before conditions", "/chat/exact?version=2", &[tenant], "*=/chat/exact"),
        ("conditions of the longer path", "/chat/exact/x?version=2", &[tenant], "*/chat/exact x-tenant:a ?version=2"),
    ];
    for (name, target, fields, expected) in rows {
        let found = find(&routes, &"a.example".parse().unwrap(), &head(target, fields));
        assert_eq!(found.map(|route| route.name.as_str()), Ok(expected), "{name}");
    }
}

#[test]
fn encoded_slashes_are_the_routes_decision() {
    let mut files = (*route("*/files")).clone();
    files.encoded_slashes = true;
    let routes = [route("*/"), Arc::new(files)];
    let host = "a.example".parse().unwrap();
    assert_eq!(find(&routes, &host, &head("/files/a%2fb", &[])).unwrap().path, "/files");
    assert_eq!(find(&routes, &host, &head("/other/a%2fb", &[])).map(|_| ()), Err(Refusal::PathEncodedSlash));
    assert_eq!(find(&routes, &host, &head("/files/..%2fb", &[])).map(|_| ()), Err(Refusal::PathDotSegment));
}

#[test]
fn targets_for_the_upstream() {
    #[rustfmt::skip]
    let rows = [
        ("as it is", "", "/chat?a=b", "/chat?a=b"),
        ("byte for byte", "", "//%63hat/%7e?%2f&x=[1]", "//%63hat/%7e?%2f&x=[1]"),
        ("behind a base", "/base", "/chat/?", "/base/chat/?"),
        ("the root behind a base", "/base", "/", "/base/"),
        ("absolute form", "/base", "http://example.com/chat?x", "/base/chat?x"),
        ("absolute form without a path", "", "http://example.com", "/"),
        ("absolute form with a query alone", "/base", "http://example.com?x", "/base/?x"),
    ];
    for (name, base, uri, expected) in rows {
        assert_eq!(target(&route("*/chat"), base, &uri.parse().unwrap()), expected, "{name}");
    }
}

fn rewriting(text: &str, rewrite: &str) -> Arc<Route> {
    Arc::new(Route { rewrite: Some(rewrite.to_owned()), ..(*route(text)).clone() })
}

#[test]
fn rewritten_targets() {
    #[rustfmt::skip]
    let rows = [
        ("stripped", "*/app", "", "", "/app/room", "/room"),
        ("nothing is left but the root", "*/app", "", "", "/app", "/"),
        ("a trailing slash", "*/app", "", "", "/app/", "/"),
        ("the query stays", "*/app", "", "", "/app?a=/app", "/?a=/app"),
        ("the query stays behind a path", "*/app", "", "", "/app/room?a//b?c", "/room?a//b?c"),
        ("the rest stays byte for byte", "*/app", "", "", "/app/%63hat//%7e/?%2f", "/%63hat//%7e/?%2f"),
        ("the prefix in another form", "*/app", "", "", "//%61pp/room", "/room"),
        ("slashes within the prefix", "*/app/v1", "", "", "/app///v1/room", "/room"),
        ("no host comes into being", "*/app", "", "", "/app//evil.test/x", "/evil.test/x"),
        ("nor from many slashes", "*/app", "", "", "/app////evil.test", "/evil.test"),
        ("slashes at the end", "*/app", "", "", "/app//", "/"),
        ("an encoded slash stays", "*/app", "", "", "/app/%2fx", "/%2fx"),
        ("a segment that is there twice", "*/app", "", "", "/app/app/x", "/app/x"),
        ("parameters of the next segment", "*/app", "", "", "/app/;x=1/y", "/;x=1/y"),
        ("behind a base", "*/app", "", "/base", "/app", "/base/"),
        ("a base and a rest", "*/app", "", "/base", "/app//x", "/base/x"),
        ("absolute form", "*/app", "", "", "http://a.test/app/x?y", "/x?y"),
        ("absolute form without a path", "*/", "/new", "", "http://a.test?x", "/new?x"),
        ("rewritten", "*/app", "/new", "", "/app/room", "/new/room"),
        ("rewritten alone", "*/app", "/new", "", "/app", "/new"),
        ("rewritten with its slash", "*/app", "/new", "", "/app/", "/new/"),
        ("rewritten with slashes", "*/app", "/new", "", "/app//room", "/new/room"),
        ("put in front", "*/", "/new", "", "/room", "/new/room"),
        ("put in front of the root", "*/", "/new", "/base", "/", "/base/new/"),
        ("stripping the root", "*/", "", "", "//room", "/room"),
        ("an exact path", "*=/app/", "/new", "", "/app/?x", "/new?x"),
        ("an exact path with a slash", "*=/app", "/new/", "", "//app", "/new/"),
        ("an exact path stripped", "*=/app", "", "/base", "/app?x", "/base/?x"),
    ];
    for (name, matched, rewrite, base, uri, expected) in rows {
        assert_eq!(target(&rewriting(matched, rewrite), base, &uri.parse().unwrap()), expected, "{name}");
    }
}

proptest! {
    /// A route that never gets a request would have to be one of two that match the same: `check` refuses those, and has
    /// nothing else to look for.
    #[test]
    fn of_routes_that_differ_each_has_a_request_of_its_own(
        names in proptest::collection::btree_set(
            "(\\*|\\*\\.a\\.test|\\*\\.b\\.a\\.test|a\\.test|b\\.a\\.test)=?/(a(/b)?)?( x:[12])?( y:1)?( \\?q=[12])?( \\+[st])?",
            1..12,
        ),
    ) {
        let routes: Vec<_> = names.iter().map(|name| route(name)).collect();
        for own in &routes {
            let host = match &own.host {
                HostPattern::Any => "other.test".to_owned(),
                HostPattern::Exact(name) => name.clone(),
                HostPattern::Below(parent) => format!("only-here.{parent}"),
            };
            let below = if own.path_exact { "" } else { "/only-here" };
            let query: Vec<String> =
                own.conditions.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let target = format!("{}{below}?{}", own.path.trim_end_matches('/'), query.join("&"));
            let target = if target.starts_with('/') { target } else { format!("/{target}") };
            let fields = own.conditions.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let offer = own.conditions.subprotocol.iter().map(|name| ("sec-websocket-protocol", name.as_str()));
            let parts = head(&target, &fields.chain(offer).collect::<Vec<_>>());
            let found = find(&routes, &host.parse().unwrap(), &parts);
            prop_assert_eq!(found.map(|route| route.name.as_str()), Ok(own.name.as_str()), "{} {}", host, target);
        }
    }

    #[test]
    fn a_normal_form_is_its_own_normal_form(
        path in "/([a-zA-Z/.;%é\\[-]|%2[eEfF]|%5[cC]|%3[bB]|%[0-9a-fA-F]{2}|//){0,24}",
        slashes: bool,
    ) {
        if let Ok(once) = normalise(&path, slashes) {
            let twice = normalise(&once, slashes);
            prop_assert_eq!(twice.as_deref(), Ok(&*once));
        }
    }

    /// However often and in whatever order an upstream decodes, cuts off parameters and splits.
    #[test]
    fn a_normal_form_never_climbs(path in "/([a./;]|%2[eEfF]|%3[bB]|%5c|%61){0,16}", slashes: bool) {
        if let Ok(normal) = normalise(&path, slashes) {
            let decoded = normal.replace("%2F", "/").replace("%3B", ";").replace("%5C", "\\");
            for segment in decoded.split(['/', '\\']) {
                let name = segment.split(';').next().unwrap();
                prop_assert!(name != "." && name != "..", "{} in {}", segment, normal);
            }
            prop_assert!(!normal.contains("//") && normal.is_ascii());
        }
    }

    /// What the upstream sees is, in normal form, the normal form of the request with its front replaced.
    #[test]
    fn a_rewritten_path_has_the_normal_form_that_is_expected(
        prefix in "(/[ab]){0,2}",
        rewrite in "(/[xy]){0,2}",
        base in "(/base)?",
        before in "/{1,2}",
        between in "/{1,3}",
        rest in "([abx./;:]|%2[eEfF]|%61|%3[bB]|//){0,12}",
        query in "(\\?[a/?%2f]{0,4})?",
    ) {
        let asked = format!("{}{between}{rest}", prefix.replace('/', &before).replace('a', "%61"));
        let route = rewriting(&format!("*{}", if prefix.is_empty() { "/" } else { &prefix }), &rewrite);
        let Ok(uri) = format!("{asked}{query}").parse::<Uri>() else { return Ok(()) };
        let Ok(normal) = normalise(uri.path(), true) else { return Ok(()) };
        prop_assume!(is_at(&route, &normal));
        let seen = target(&route, &base, &uri);
        let path = seen.split('?').next().unwrap();
        prop_assert!(seen.starts_with('/') && !seen.starts_with("//"), "{}", seen);
        let expected = format!("{base}{rewrite}{}", &normal[prefix.len()..]);
        let expected = if expected.is_empty() { "/".to_owned() } else { expected };
        let found = normalise(path, true);
        prop_assert_eq!(found.as_deref(), Ok(expected.as_str()), "{} of {}", seen, asked);
        prop_assert!(seen.ends_with(&*query) && uri.path().ends_with(rest.trim_start_matches('/')), "{}", seen);
        prop_assert!(seen.parse::<Uri>().unwrap().authority().is_none(), "{}", seen);
    }

    #[test]
    fn any_text_is_read_without_a_panic(path in "/?[ -~é\u{0}-\u{1f}]{0,40}", slashes: bool) {
        let _ = normalise(&path, slashes);
    }
}
