//! Plain HTTP: which requests may pass, and which may be sent a second time.

use http::header::{ACCEPT, TRANSFER_ENCODING};
use http::{HeaderMap, Method, request};

use super::fields::grammar;
use super::refusal::Refusal;

/// Whether a request that opens no WebSocket may pass.
///
/// # Errors
/// `TRACE`: the answer would show the client what proxies add (RFC 9110 section 9.3.8). A body in a transfer coding that
/// we do not decode: without its field, which is hop-by-hop, nobody behind us would know of it (RFC 9112 section 6.1).
pub fn check(parts: &request::Parts) -> Result<(), Refusal> {
    if parts.method == Method::TRACE {
        return Err(Refusal::Trace);
    }
    if is_coded(&parts.headers) { Err(Refusal::TransferCoding) } else { Ok(()) }
}

/// Whether a transfer coding beside `chunked` was used.
pub fn is_coded(headers: &HeaderMap) -> bool {
    let mut codings = grammar::members(headers, TRANSFER_ENCODING);
    codings.next().is_some_and(|coding| !coding.eq_ignore_ascii_case(b"chunked")) || codings.next().is_some()
}

/// Whether a request does the same when it is done twice (RFC 9110 section 9.2.2).
pub fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}

/// Whether a refusal is to be told in JSON (RFC 9457): a member of `Accept` names it. Text is for everybody else.
pub fn wants_problem(headers: &HeaderMap) -> bool {
    grammar::members(headers, ACCEPT).any(|member| {
        let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let range = parts.next().unwrap_or_default();
        let named = [&b"application/problem+json"[..], b"application/json"];
        named.iter().any(|name| range.eq_ignore_ascii_case(name)) && !parts.any(is_zero)
    })
}

/// `q=0`, `q=0.000`: not acceptable (RFC 9110 section 12.4.2).
fn is_zero(parameter: &[u8]) -> bool {
    matches!(parameter, [b'q' | b'Q', b'=', weight @ ..] if weight.iter().all(|byte| matches!(byte, b'0' | b'.')))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn what_may_pass() {
        #[rustfmt::skip]
        let rows = [
            ("GET", &[][..], Ok(())),
            ("PROPFIND", &[], Ok(())),
            ("TRACE", &[], Err(Refusal::Trace)),
            ("POST", &["chunked"], Ok(())),
            ("POST", &["Chunked"], Ok(())),
            ("POST", &["gzip, chunked"], Err(Refusal::TransferCoding)),
            ("POST", &["gzip", "chunked"], Err(Refusal::TransferCoding)),
            ("POST", &["chunked", "chunked"], Err(Refusal::TransferCoding)),
            ("POST", &["identity"], Err(Refusal::TransferCoding)),
        ];
        for (method, codings, expected) in rows {
            let mut request = Request::builder().method(method);
            for coding in codings {
                request = request.header(TRANSFER_ENCODING, *coding);
            }
            let (parts, ()) = request.body(()).expect("a request").into_parts();
            assert_eq!(check(&parts), expected, "{method} {codings:?}");
        }
    }
    #[test]
    fn who_wants_json() {
        let rows = [
            (None, false),
            (Some("*/*"), false),
            (Some("text/html,application/xhtml+xml,*/*;q=0.8"), false),
            (Some("application/json, text/plain, */*"), true),
            (Some("text/html, Application/Problem+JSON;q=0.5"), true),
            (Some("application/json;q=0"), false),
            (Some("application/json; q=0.0"), false),
            (Some("application/jsonx"), false),
        ];
        for (accept, expected) in rows {
            let headers = accept.map(|accept| (ACCEPT, accept.parse().expect("a value"))).into_iter().collect();
            assert_eq!(wants_problem(&headers), expected, "{accept:?}");
        }
    }
}
