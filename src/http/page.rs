//! Pages that are built in: a request's head in, a whole response out; no I/O.
//!
//! A page is one file with one inline style and one inline script. Both run by their hash: a Content-Security-Policy
//! without `unsafe-inline` protects the page from whatever else might ever get into it.

use std::sync::LazyLock;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::header::{self, HeaderName};
use http::uri::Authority;
use http::{HeaderValue, Method, Response, StatusCode, request};
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;

use crate::config::model::Page;

const CHAT: &str = include_str!("../backend/chat.html");

/// What is computed once from a page's file.
struct Built {
    text: &'static str,
    /// A strong validator (RFC 9110 section 8.8.3).
    etag: String,
    /// Sources of `script-src` and `style-src`.
    script: String,
    style: String,
}

static CHAT_BUILT: LazyLock<Built> = LazyLock::new(|| Built::new(CHAT));

/// Answers a GET or HEAD of a page (see [`crate::policy::files::page`]): the page, or 304 when the client has it already.
pub fn answer(page: Page, parts: &request::Parts) -> Response<Bytes> {
    let built = match page {
        Page::Chat => &*CHAT_BUILT,
    };
    let mut answer = Response::new(Bytes::new());
    let headers = answer.headers_mut();
    for (name, value) in GUARDS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::ETAG, checked(&built.etag));
    headers.insert(header::CONTENT_SECURITY_POLICY, checked(&built.policy(host(parts))));
    if has_already(parts, &built.etag) {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        return answer;
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_LENGTH, built.text.len().into());
    if parts.method == Method::GET {
        *answer.body_mut() = Bytes::from_static(built.text.as_bytes());
    }
    answer
}

/// A page is nobody's frame, guesses no type and tells no other site where its reader was.
const GUARDS: [(HeaderName, &str); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

impl Built {
    fn new(text: &'static str) -> Self {
        let source = |tag| format!("'sha256-{}'", BASE64_STANDARD.encode(sha256(inline(text, tag).as_bytes())));
        Self {
            text,
            etag: format!("\"{}\"", &BASE64_URL_SAFE_NO_PAD.encode(sha256(text.as_bytes()))[..22]),
            script: source("script"),
            style: source("style"),
        }
    }

    /// In `connect-src`, `'self'` covers WebSockets of the same origin in CSP level 3 only; the host serves older ones.
    fn policy(&self, host: Option<&str>) -> String {
        let Self { script, style, .. } = self;
        let sockets = host.map(|host| format!(" ws://{host} wss://{host}")).unwrap_or_default();
        format!(
            "default-src 'none'; script-src {script}; style-src {style}; img-src data:; connect-src 'self'{sockets}; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
        )
    }
}

/// What stands between `<tag>` and `</tag>`: the bytes that a browser hashes.
fn inline<'a>(text: &'a str, tag: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("<{tag}>")).expect("a built-in page has one inline style and script");
    rest.split_once(&format!("</{tag}>")).expect("a built-in page closes its tags").0
}

/// By way of the TLS provider, which is here anyway: a hash crate for two hashes at start-up is one more to trust.
fn sha256(bytes: &[u8]) -> Vec<u8> {
    let suite = TLS13_AES_128_GCM_SHA256.tls13().expect("it is a TLS 1.3 suite");
    suite.common.hash_provider.hash(bytes).as_ref().to_vec()
}

/// The host that the client asked for, where it can stand in a policy: a `;` or a space would begin a rule of its own.
fn host(parts: &request::Parts) -> Option<&str> {
    let host = match parts.uri.authority() {
        Some(authority) => authority.as_str(),
        None => parts.headers.get(header::HOST)?.to_str().ok()?,
    };
    let plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte));
    (plain && host.parse::<Authority>().is_ok()).then_some(host)
}

/// `If-None-Match` (RFC 9110 section 13.1.2): a list, compared weakly, or `*`.
fn has_already(parts: &request::Parts, etag: &str) -> bool {
    let fields = parts.headers.get_all(header::IF_NONE_MATCH);
    fields.iter().filter_map(|field| field.to_str().ok()).flat_map(|field| field.split(',')).any(|tag| {
        let tag = tag.trim();
        tag == "*" || tag.trim_start_matches("W/") == etag
    })
}

fn checked(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).expect("made of visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: &str, target: &str, fields: &[(&str, &str)]) -> Response<Bytes> {
        let mut request = http::Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        answer(Page::Chat, &request.body(()).unwrap().into_parts().0)
    }

    fn field<'a>(answer: &'a Response<Bytes>, name: &str) -> &'a str {
        answer.headers().get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// Rule, method, target, header fields; status, bytes of the body.
    type Row<'a> = (&'a str, &'a str, &'a str, &'a [(&'a str, &'a str)], u16, usize);

    #[test]
    fn the_page_is_answered_by_rule() {
        let etag = CHAT_BUILT.etag.as_str();
        let weak = format!("W/{etag}");
        let list = format!("\"other\", {etag}");
        let rows: &[Row] = &[
            ("GET", "GET", "/", &[], 200, CHAT.len()),
            ("the query does not count", "GET", "/?room=blue", &[], 200, CHAT.len()),
            ("absolute form", "GET", "http://example.com/", &[], 200, CHAT.len()),
            ("HEAD", "HEAD", "/", &[], 200, 0),
            ("the same version", "GET", "/", &[("if-none-match", etag)], 304, 0),
            ("the same version, weakly", "GET", "/", &[("if-none-match", &weak)], 304, 0),
            ("one of a list", "HEAD", "/", &[("if-none-match", &list)], 304, 0),
            ("two fields", "GET", "/", &[("if-none-match", "\"other\""), ("if-none-match", etag)], 304, 0),
            ("any version", "GET", "/", &[("if-none-match", "*")], 304, 0),
            ("another version", "GET", "/", &[("if-none-match", "\"other\"")], 200, CHAT.len()),
        ];
        for (rule, method, target, fields, status, body_bytes) in rows {
            let answer = ask(method, target, fields);
            assert_eq!(answer.status(), *status, "{rule}");
            assert_eq!(answer.body().len(), *body_bytes, "{rule}");
        }
    }

    #[test]
    fn the_page_carries_its_guards() {
        let rows = [
            ("content-type", "text/html; charset=utf-8"),
            ("content-length", &CHAT.len().to_string()),
            ("cache-control", "no-cache"),
            ("etag", &CHAT_BUILT.etag),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
        ];
        for method in ["GET", "HEAD"] {
            let answer = ask(method, "/", &[]);
            for (name, value) in rows {
                assert_eq!(field(&answer, name), value, "{method} {name}");
            }
        }
    }

    #[test]
    fn the_policy_names_the_host_only_where_it_cannot_add_rules() {
        let rows = [
            ("example.com", true),
            ("127.0.0.1:8443", true),
            ("[::1]:8080", true),
            ("example.com; script-src *", false),
            ("a.example b.example", false),
            ("user@example.com", false),
            ("*", false),
            ("", false),
        ];
        for (host, named) in rows {
            let answer = ask("GET", "/", &[("host", host)]);
            let policy = field(&answer, "content-security-policy");
            let expected = if named {
                format!("connect-src 'self' ws://{host} wss://{host};")
            } else {
                "connect-src 'self';".into()
            };
            assert!(policy.contains(&expected), "{host}: {policy}");
            assert!(!policy.contains("unsafe"), "{policy}");
        }
    }

    #[test]
    fn the_policy_allows_what_stands_in_the_page_and_nothing_else_is_inline() {
        // The hash of a known text, so that both sides of the comparison below cannot be wrong together.
        let known = BASE64_STANDARD.encode(sha256(b"alert('Hello, world.');"));
        assert_eq!(known, "qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng=");
        let answer = ask("GET", "/", &[]);
        let policy = field(&answer, "content-security-policy");
        for tag in ["script", "style"] {
            assert_eq!(CHAT.matches(&format!("<{tag}")).count(), 1, "one {tag}");
            let hash = BASE64_STANDARD.encode(sha256(inline(CHAT, tag).as_bytes()));
            assert!(policy.contains(&format!("{tag}-src 'sha256-{hash}';")), "{tag}: {policy}");
        }
        for forbidden in [" style=\"", " onclick=\"", "javascript:", "innerHTML", "http://", "https://", "\r"] {
            let page = CHAT.replace("http://www.w3.org/2000/svg", "");
            assert!(!page.contains(forbidden), "{forbidden}");
        }
    }
}
