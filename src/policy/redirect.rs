//! Where a redirect leads: a place that the configuration writes, or the same host over TLS.
//!
//! Of the request only the target is kept, behind a host that stands already: nothing a client sends can choose the host.

use http::{HeaderValue, StatusCode, Uri};

use super::route;
use crate::config::model::{Location, Route};
use crate::proto::fields::Host;
use crate::proto::refusal::Refusal;

/// Permanent, and the method stays (RFC 9110 section 15.4.9).
pub const HTTPS_STATUS: StatusCode = StatusCode::PERMANENT_REDIRECT;

/// What the redirects of folders have that lie in a folder that is served.
pub const SLASH_STATUS: StatusCode = StatusCode::TEMPORARY_REDIRECT;

/// `redirect = "https"`.
pub fn https() -> Location {
    Location { front: "https://".to_owned(), same_host: true, behind: String::new(), keeps_path: true }
}

/// The `Location` for a request of this target to this host.
///
/// # Errors
/// When the target cannot stand in a field.
pub fn location(to: &Location, host: &Host, uri: &Uri) -> Result<HeaderValue, Refusal> {
    let mut text = to.front.clone();
    if to.same_host {
        text += &Host { name: host.name.clone(), port: None }.to_string();
    }
    text += &to.behind;
    if to.keeps_path {
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        // `http` leaves the slash out of a target like `http://host?query`.
        text += if target.starts_with('/') { "" } else { "/" };
        append_ascii(&mut text, target);
    }
    HeaderValue::try_from(text).map_err(|_| Refusal::TargetMalformed)
}

/// From the path of a route to the folder that it serves: the links of an index.html are relative to the slash. The path is
/// the configuration's, for `//host` would be one.
pub fn slash(route: &Route, uri: &Uri) -> Option<HeaderValue> {
    let query = route::rest(route, uri.path_and_query().map_or("/", |target| target.as_str()));
    if route.path_exact || !(query.is_empty() || query.starts_with('?')) {
        return None;
    }
    let mut text = format!("{}/", route.path);
    append_ascii(&mut text, query);
    HeaderValue::try_from(text).ok()
}

/// A URI is ASCII (RFC 3986 section 2), but some clients send letters beyond it as they are.
fn append_ascii(text: &mut String, target: &str) {
    for part in target.split_inclusive(|c: char| !c.is_ascii()) {
        let plain = part.trim_end_matches(|c: char| !c.is_ascii());
        text.push_str(plain);
        text.extend(part[plain.len()..].bytes().map(|byte| format!("%{byte:02X}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        let to = |front: &str, same_host, behind: &str, keeps_path| Location {
            front: front.to_owned(),
            same_host,
            behind: behind.to_owned(),
            keeps_path,
        };
        #[rustfmt::skip]
        let rows = [
            ("https", https(), "a.test:8080", "/x?y=1", "https://a.test/x?y=1"),
            ("https, the root", https(), "A.test.", "/", "https://a.test/"),
            ("https, IPv6", https(), "[::1]:80", "/x", "https://[::1]/x"),
            ("byte for byte", https(), "a.test", "//evil.test/%7e?//", "https://a.test//evil.test/%7e?//"),
            ("a letter beyond ASCII", https(), "a.test", "/é/x?éé", "https://a.test/%C3%A9/x?%C3%A9%C3%A9"),
            ("absolute form", https(), "a.test", "http://a.test/x?y", "https://a.test/x?y"),
            ("absolute form without a path", https(), "a.test", "http://a.test?y", "https://a.test/?y"),
            ("a port", to("https://", true, ":8443", true), "a.test", "/x", "https://a.test:8443/x"),
            ("another host", to("https://b.test", false, "", true), "a.test", "/@c.test", "https://b.test/@c.test"),
            ("a path in front", to("https://b.test", false, "/old", true), "a.test", "/x", "https://b.test/old/x"),
            ("fixed", to("https://b.test", false, "/new?a=b", false), "a.test", "/x?y", "https://b.test/new?a=b"),
        ];
        for (name, to, host, uri, expected) in rows {
            let found = location(&to, &host.parse().unwrap(), &uri.parse().unwrap());
            assert_eq!(found.unwrap(), expected, "{name}");
        }
    }
}
