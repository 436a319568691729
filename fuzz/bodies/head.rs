//! Heads of requests and answers out of text, and the gateway that they come to. Lines that no parser of HTTP would let
//! through are left out.

use std::path::Path;
use std::sync::OnceLock;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, request, response};
use tidegate::config::model::Config;
use tidegate::config::parse_with;

const FIELDS_MAX: usize = 40;

/// `GET /chat HTTP/1.1`, then fields.
pub fn request(text: &[u8]) -> Option<request::Parts> {
    let (first, fields) = split(text, b'\n');
    let mut words = first.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let (method, target) = (words.next()?, words.next()?);
    let version = match words.next() {
        None | Some(b"HTTP/1.1") => http::Version::HTTP_11,
        Some(b"HTTP/1.0") => http::Version::HTTP_10,
        _ => return None,
    };
    let request = Request::builder().method(method).uri(target).version(version).body(()).ok()?;
    let (mut parts, ()) = request.into_parts();
    parts.headers = headers(fields);
    Some(parts)
}

/// `101`, then fields.
pub fn response(text: &[u8]) -> Option<response::Parts> {
    let (first, fields) = split(text, b'\n');
    let mut words = first.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let status = words.next()?;
    let version = if words.next() == Some(b"1.0") { http::Version::HTTP_10 } else { http::Version::HTTP_11 };
    let response = Response::builder().status(status).version(version).body(()).ok()?;
    let (mut parts, ()) = response.into_parts();
    parts.headers = headers(fields);
    Some(parts)
}

/// `Name: value`, line by line.
pub fn headers(text: &[u8]) -> HeaderMap {
    let fields = text.split(|byte| *byte == b'\n').filter_map(|line| {
        let (name, value) = split(line, b':');
        Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value.trim_ascii()).ok()?))
    });
    fields.take(FIELDS_MAX).collect()
}

fn split(text: &[u8], at: u8) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| *byte == at).unwrap_or(text.len());
    (&text[..end], text.get(end + 1..).unwrap_or_default())
}

/// The members of a list, naively: commas, and what is around them.
pub fn members(headers: &HeaderMap, name: &str) -> Vec<String> {
    let lines = headers.get_all(name).into_iter().map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned());
    let members = lines
        .flat_map(|line| line.split(',').map(|member| member.trim_matches([' ', '\t']).to_owned()).collect::<Vec<_>>());
    members.filter(|member| !member.is_empty()).collect()
}

pub fn holds(headers: &HeaderMap, name: &str, token: &str) -> bool {
    members(headers, name).iter().any(|member| member.eq_ignore_ascii_case(token))
}

/// A gateway with a route for every rule.
pub fn site() -> &'static Config {
    static SITE: OnceLock<Config> = OnceLock::new();
    SITE.get_or_init(|| {
        let parsed = parse_with(SITE_TEXT, Path::new("site.toml"), &|_| None, &|_| None);
        parsed.unwrap_or_else(|problems| panic!("{problems}")).config
    })
}

pub const API_KEY: &str = "0123456789abcdef";

const SITE_TEXT: &str = r#"
[[listener]]
address = "127.0.0.1:1"
trusted_proxies = ["10.0.0.0/8"]

[[listener]]
address = "127.0.0.1:2"
deny = ["192.0.2.0/24"]

[[route]]
name = "any"
upstream = "app"
http = true

[[route]]
name = "chat"
path = "/chat"
upstream = "app"
origins = ["https://app.test", "https://*.app.test"]

[[route]]
name = "deep"
path = "/chat/deep/er"
upstream = "app"
origins = ["any"]
rewrite = { prefix = "/v2" }
encoded_slashes = true

[[route]]
name = "stripped"
path = "/strip"
upstream = "based"
origins = ["any"]
strip_prefix = true
subprotocols = ["chat.v1", "chat.v2"]

[[route]]
name = "encoded"
path = "/a%20b/~c"
upstream = "based"
origins = ["any"]
strip_prefix = true

[[route]]
name = "exact"
path = "/exact"
path_exact = true
upstream = "app"
rewrite = { prefix = "/there" }
origins = ["any"]
compression = "off"

[[route]]
name = "keyed"
path = "/keyed"
upstream = "app"
origins = ["any"]
keys = { file = "keys.txt", header = "Authorization", query = "api_key", bearer = true }

[[route]]
name = "inside"
path = "/inside"
upstream = "app"
origins = ["any"]
allow = ["10.0.0.0/8"]
http = true

[[route]]
name = "tenant"
path = "/chat"
headers = { X-Tenant = "a" }
query = { v = "2" }
upstream = "app"
origins = ["any"]

[[route]]
name = "dialect"
path = "/chat"
subprotocol = "mqtt"
upstream = "app"
origins = ["any"]
request_headers = { set = { X-Set = "1" }, remove = ["Cookie"] }

[[route]]
name = "hosted"
host = "app.test"
path = "/hosted"
upstream = "app"
origins = ["same-origin"]
host_header = "inner.test:8080"

[[route]]
name = "below"
host = "*.app.test"
upstream = "app"
origins = ["same-origin", "none"]
subprotocols = ["chat.v1"]
subprotocol_required = true

[[route]]
name = "moved"
path = "/old"
redirect = { to = "https://new.test:8443/v2{path}", status = 302 }

[[route]]
name = "port"
path = "/port"
redirect = { to = "https://{host}:8443{path}" }

[[route]]
name = "secure"
path = "/secure"
upstream = "app"
redirect = "https"
origins = ["any"]

[[route]]
name = "fixed"
path = "/fixed"
respond = { status = 410 }

[[route]]
name = "page"
host = "page.test"
page = "chat"

[upstream.app]
servers = ["ws://127.0.0.1:9"]

[upstream.based]
servers = ["ws://127.0.0.1:9/base"]
"#;
