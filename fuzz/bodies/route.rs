//! Paths and routes: what matched lies within the route's path also for an eager reader, who decodes everything, takes
//! backslashes for slashes, drops path parameters and resolves dots; and the upstream is asked for what the route says.

use std::sync::Arc;

use http::{Request, Uri};
use tidegate::config::model::{Conditions, HostPattern, Route, Target};
use tidegate::policy::route::{find, normalise, target};
use tidegate::proto::fields::Host;

use super::head::{headers, site};

/// A byte for the host, then the target, then fields.
pub fn run(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else { return };
    let mut blocks = rest.splitn(2, |byte| *byte == b'\n');
    let Ok(uri) = Uri::try_from(blocks.next().unwrap_or_default()) else { return };
    let fields = blocks.next().unwrap_or_default();
    let names = ["other.test", "app.test", "a.app.test", "page.test", "b.a.app.test"];
    let host = Host { name: names[usize::from(choice % 5)].to_owned(), port: None };
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.uri = uri;
    parts.headers = headers(fields);
    let path = parts.uri.path();
    normal_form(path);

    let routes = &site().routes;
    let Ok(route) = find(routes, &host, &parts) else { return };
    let (seen, slashes_hidden) = eager(path);
    assert!(seen.starts_with(&segments(&route.path)), "{path:?} is not within {:?}", route.path);
    assert!(!slashes_hidden || route.encoded_slashes, "{path:?} hides a slash");
    assert!(!route.path_exact || seen == segments(&route.path), "{path:?} is not {:?}", route.path);
    if !slashes_hidden && !path.contains(';') && !path.contains("%3B") && !path.contains("%3b") {
        is_best(routes, route, &host, path);
    }
    if let Target::Upstream(upstream) = &route.target {
        for base in upstream.servers.iter().map(|server| server.base.as_str()) {
            asked_for(route, base, &parts.uri);
        }
    }
}

fn normal_form(path: &str) {
    for encoded_slashes in [false, true] {
        let Ok(normal) = normalise(path, encoded_slashes) else { continue };
        assert!(normal.starts_with('/') && !normal.contains("//"), "{normal:?}");
        assert_eq!(normalise(&normal, encoded_slashes).as_deref(), Ok(&*normal), "a normal form is its own");
        let legal = |byte: u8| byte.is_ascii_graphic() && !b"\\?#\"<>[]^`{|}".contains(&byte);
        assert!(normal.bytes().all(legal), "{normal:?}");
        assert_eq!(eager(&normal).0, eager(path).0, "it means something else");
    }
    assert!(normalise(path, true).is_ok() || normalise(path, false).is_err(), "what is stricter lets no more pass");
    let (seen, _) = eager(path);
    let has_dots = path.split(['/', '\\']).any(|segment| [&b"."[..], b".."].contains(&&*decode(segment)));
    if has_dots {
        assert!(normalise(path, true).is_err(), "{path:?} has dot segments; eager readers see {seen:?}");
    }
}

/// The segments that an eager reader sees, and whether slashes were encoded.
fn eager(path: &str) -> (Vec<Vec<u8>>, bool) {
    let decoded: Vec<u8> = decode(path);
    let slashes = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'/').count();
    let hidden = slashes(&decoded) > slashes(path.as_bytes());
    let mut seen: Vec<Vec<u8>> = Vec::new();
    for segment in decoded.split(|byte| [b'/', b'\\'].contains(byte)) {
        let segment = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        match segment {
            b"" | b"." => {}
            b".." => {
                seen.pop();
            }
            other => seen.push(other.to_vec()),
        }
    }
    (seen, hidden)
}

fn decode(text: &str) -> Vec<u8> {
    let mut decoded = Vec::new();
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let digits = text.get(at + 1..at + 3).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match digits.filter(|_| bytes[at] == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    decoded
}

fn segments(path: &str) -> Vec<Vec<u8>> {
    eager(path).0
}

/// No other route of those without conditions would have been better, by a second way to compare them.
fn is_best(routes: &[Arc<Route>], found: &Route, host: &Host, path: &str) {
    let seen = segments(path);
    let fits = |route: &Route| match &route.host {
        HostPattern::Any => Some(0),
        HostPattern::Exact(name) => (*name == host.name).then_some(usize::MAX),
        HostPattern::Below(name) => host
            .name
            .strip_suffix(&**name)
            .is_some_and(|front| front.ends_with('.') && front.len() > 1)
            .then_some(name.len()),
    };
    let has_slash = decode(path).ends_with(b"/");
    for other in routes.iter().filter(|route| !std::ptr::eq(&***route, found)) {
        let Conditions { headers, query, subprotocol } = &other.conditions;
        if !headers.is_empty() || !query.is_empty() || subprotocol.is_some() {
            continue;
        }
        let prefix = segments(&other.path);
        let serves = if other.path_exact { seen == prefix && !has_slash } else { seen.starts_with(&prefix) };
        let Some(rank) = fits(other).filter(|_| serves) else { continue };
        let other = (rank, other.path_exact, prefix.len());
        let chosen = (fits(found), found.path_exact, segments(&found.path).len());
        assert!(chosen >= (Some(other.0), other.1, other.2), "{path:?} went to {}", found.name);
    }
}

/// What the upstream sees: its base, the route's rewriting, then the client's own bytes.
fn asked_for(route: &Route, base: &str, uri: &Uri) {
    let target = target(route, base, uri);
    let client = uri.path_and_query().map_or("/", |both| both.as_str());
    let (path, query) = client.split_at(client.find('?').unwrap_or(client.len()));
    assert!(target.starts_with(base) && target.starts_with('/'), "{target:?}");
    assert!(target.ends_with(query), "{target:?} has lost its query");
    assert!(base.is_empty() && route.rewrite.is_none() || !target.starts_with("//"), "{target:?} names a host");
    assert!(Uri::try_from(&*target).is_ok(), "{target:?} is no target");
    let asked = segments(&target[..target.len() - query.len()]);
    let Some(front) = &route.rewrite else {
        assert!(
            target == format!("{base}{}{client}", if path.is_empty() { "/" } else { "" }),
            "{target:?} is not {client:?}"
        );
        return;
    };
    let behind = segments(path).split_off(segments(&route.path).len());
    assert_eq!(asked, [segments(base), segments(front), behind].concat(), "{target:?} of {client:?}");
}
