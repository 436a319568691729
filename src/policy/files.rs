//! Which file of a folder a request asks for. Nothing is opened here: whether there is one, and whether it lies within the
//! folder, is for `http::files` to find out.

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
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        return Err(Refusal::PageMethod);
    }
    let rest = route::rest(route, parts.uri.path_and_query().map_or("/", |target| target.as_str()));
    let below = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    // In the normal form no encoding hides a dot.
    let path = route::normalise(below.split('?').next().unwrap_or_default(), true)?;
    let mut segments = path.split('/').flat_map(|segment| segment.split(ENCODED_SLASH));
    let is_hidden = |segment: &str| segment.starts_with('.') && segment != WELL_KNOWN;
    if segments.any(is_hidden) { Err(Refusal::FileNotFound) } else { Ok(below) }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::config;

    #[test]
    fn what_is_asked_for() {
        let route = |path: &str, exact: bool| {
            let text = format!(
                "[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\npath = {path:?}\npath_exact = {exact}\n\
                 files = {{ folder = \"public\" }}\n"
            );
            config::parse(&text, "config.toml".as_ref()).expect("it is right").config.routes[0].clone()
        };
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
            let (parts, ()) = Request::builder().method(method).uri(target).body(()).unwrap().into_parts();
            assert_eq!(below(route, &parts), expected, "{name}");
        }
    }
}
