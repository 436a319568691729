//! Which file of a folder a request asks for, and whether it asks for a built-in page. Nothing is opened here: whether there
//! is such a file, and whether it lies within the folder, is for `http::files` to find out.

use http::{Method, request};

use super::route::{self, ENCODED_SLASH};
use crate::config::model::Route;
use crate::proto::refusal::Refusal;

/// The one hidden folder that is there to be seen (RFC 8615).
const WELL_KNOWN: &str = ".well-known";

/// What stands behind the route's path, as the client wrote it: begins with a slash, and has the query.
///
/// # Errors
/// For other methods than GET and HEAD; for what is hidden, as if it were not there.
pub fn below(route: &Route, parts: &request::Parts) -> Result<String, Refusal> {
    only_read(parts)?;
    let rest = route::rest(route, parts.uri.path_and_query().map_or("/", |target| target.as_str()));
    let below = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    // In the normal form no encoding hides a dot.
    let path = route::normalise(below.split('?').next().unwrap_or_default(), true)?;
    let mut segments = path.split('/').flat_map(|segment| segment.split(ENCODED_SLASH));
    let is_hidden = |segment: &str| segment.starts_with('.') && segment != WELL_KNOWN;
    if segments.any(is_hidden) { Err(Refusal::FileNotFound) } else { Ok(below) }
}

/// A route's page stands at the route's path, and nothing below it; the query does not count.
///
/// # Errors
/// For other paths, and for other methods than GET and HEAD.
pub fn page(route: &Route, parts: &request::Parts) -> Result<(), Refusal> {
    if route::normalise(parts.uri.path(), true)? != route.path {
        return Err(Refusal::NoRoute);
    }
    only_read(parts)
}

fn only_read(parts: &request::Parts) -> Result<(), Refusal> {
    if matches!(parts.method, Method::GET | Method::HEAD) { Ok(()) } else { Err(Refusal::PageMethod) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::Request;

    use super::*;
    use crate::config;

    fn route(path: &str, rest: &str) -> Arc<Route> {
        let text = format!("[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\npath = {path:?}\n{rest}\n");
        config::parse(&text, "config.toml".as_ref()).expect("it is right").config.routes[0].clone()
    }

    fn head(method: &str, target: &str) -> request::Parts {
        Request::builder().method(method).uri(target).body(()).unwrap().into_parts().0
    }

    #[test]
    fn what_is_asked_for() {
        let route = |path, exact| route(path, &format!("path_exact = {exact}\nfiles = {{ folder = \"public\" }}"));
        let (all, some, one) = (route("/", false), route("/static", false), route("/about", true));
        let hidden = Err(Refusal::FileNotFound);
        let ok = |below: &str| Ok(below.to_owned());
        #[rustfmt::skip]
        let rows = [
            ("the root", &all, "GET", "/", ok("/")),
            ("a file", &all, "GET", "/a/b.js?v=1", ok("/a/b.js?v=1")),
            ("HEAD", &all, "HEAD", "/a", ok("/a")),
            ("POST", &all, "POST", "/a", Err(Refusal::PageMethod)),
            ("OPTIONS", &all, "OPTIONS", "/a", Err(Refusal::PageMethod)),
            ("encoded stays so", &all, "GET", "/%61%20b", ok("/%61%20b")),
            ("no host comes of two slashes", &all, "GET", "//evil.test/x", ok("/evil.test/x")),
            ("absolute form", &all, "GET", "http://a.test/x", ok("/x")),
            ("below the route", &some, "GET", "/static/a.js?v=1", ok("/a.js?v=1")),
            ("the route itself", &some, "GET", "/static", ok("/")),
            ("the route itself, with a query", &some, "GET", "/static?v=1", ok("/?v=1")),
            ("the route, encoded", &some, "GET", "/st%61tic/%61", ok("/%61")),
            ("an exact path", &one, "GET", "/about?v=1", ok("/?v=1")),
            ("hidden", &all, "GET", "/.env", hidden.clone()),
            ("hidden, encoded", &all, "GET", "/%2eenv", hidden.clone()),
            ("a hidden folder", &some, "GET", "/static/.git/config", hidden.clone()),
            ("hidden behind an encoded slash", &all, "GET", "/a%2F.env", hidden.clone()),
            ("three dots", &all, "GET", "/.../a", hidden.clone()),
            ("well-known", &all, "GET", "/.well-known/security.txt", ok("/.well-known/security.txt")),
            ("hidden below well-known", &all, "GET", "/.well-known/.env", hidden),
            ("out of it", &some, "GET", "/static/../x", Err(Refusal::PathDotSegment)),
            ("out of it, encoded", &some, "GET", "/static/%2e%2E/x", Err(Refusal::PathDotSegment)),
        ];
        for (name, route, method, target, expected) in rows {
            assert_eq!(below(route, &head(method, target)), expected, "{name}");
        }
    }

    #[test]
    fn a_page_stands_at_one_path() {
        let (root, chat) = (route("/", "page = \"chat\""), route("/chat", "page = \"chat\""));
        #[rustfmt::skip]
        let rows = [
            ("the root", &root, "GET", "/", Ok(())),
            ("HEAD", &root, "HEAD", "/", Ok(())),
            ("a query does not count", &root, "GET", "/?room=blue", Ok(())),
            ("absolute form", &root, "GET", "http://example.com/", Ok(())),
            ("two slashes are one", &root, "GET", "//", Ok(())),
            ("POST", &root, "POST", "/", Err(Refusal::PageMethod)),
            ("what browsers ask for by themselves", &root, "GET", "/favicon.ico", Err(Refusal::NoRoute)),
            ("whatever the method", &root, "POST", "/favicon.ico", Err(Refusal::NoRoute)),
            ("a path", &chat, "GET", "/chat?room=blue", Ok(())),
            ("encoded", &chat, "GET", "/c%68at", Ok(())),
            ("below it", &chat, "GET", "/chat/", Err(Refusal::NoRoute)),
        ];
        for (name, route, method, target, expected) in rows {
            assert_eq!(page(route, &head(method, target)), expected, "{name}");
        }
    }
}
