//! Plain HTTP: which requests may pass, and which may be sent a second time.

use http::header::{ACCEPT, CONTENT_LENGTH, TRANSFER_ENCODING};
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

/// Why nobody can tell where an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadFraming {
    #[error("its transfer coding is not chunked")]
    Coded,
    #[error("its Content-Length is not one number")]
    Length,
}

/// Checks the framing of an upstream's answer, and leaves one `Content-Length` where the same one is repeated. hyper reads
/// the field only where it needs it: never for HEAD, and it passes a list on as it came.
///
/// # Errors
/// RFC 9110 section 8.6: another length than one number must not be forwarded. A transfer coding that we do not decode
/// would reach the client unnamed (RFC 9112 section 6.1).
pub fn check_framing(headers: &mut HeaderMap) -> Result<(), BadFraming> {
    if is_coded(headers) {
        return Err(BadFraming::Coded);
    }
    // RFC 9112 section 6.3: the coding overrides the length, which goes no further then.
    if headers.contains_key(TRANSFER_ENCODING) || !headers.contains_key(CONTENT_LENGTH) {
        return Ok(());
    }
    let length = length(headers).ok_or(BadFraming::Length)?;
    headers.insert(CONTENT_LENGTH, length.into());
    Ok(())
}

/// The length on which all lines and members agree. An empty member is none: unlike in other lists, nothing may be missing.
fn length(headers: &HeaderMap) -> Option<u64> {
    let lines = headers.get_all(CONTENT_LENGTH).iter().map(|line| line.as_bytes());
    let mut lengths = lines.flat_map(|line| line.split(|byte| *byte == b',')).map(|member| {
        let digits = member.trim_ascii();
        // `parse` would take a sign, too.
        let text = std::str::from_utf8(digits).ok().filter(|_| digits.iter().all(u8::is_ascii_digit))?;
        text.parse().ok()
    });
    let first = lengths.next()??;
    lengths.all(|length| length == Some(first)).then_some(first)
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
    fn lengths_and_codings_of_answers() {
        use BadFraming::{Coded, Length};
        #[rustfmt::skip]
        let rows = [
            ("none", &[][..], &[][..], Ok(None)),
            ("one", &[], &["2"], Ok(Some("2"))),
            ("nothing", &[], &["0"], Ok(Some("0"))),
            ("the same in a list (RFC 9110 8.6)", &[], &["2, 2"], Ok(Some("2"))),
            ("the same on two lines", &[], &["2", "2"], Ok(Some("2"))),
            ("the same in other digits", &[], &["02,2"], Ok(Some("2"))),
            ("two in a list", &[], &["2, 3"], Err(Length)),
            ("two on two lines", &[], &["2", "3"], Err(Length)),
            ("a list with a hole", &[], &["2,"], Err(Length)),
            ("empty", &[], &[""], Err(Length)),
            ("a word", &[], &["abc"], Err(Length)),
            ("negative", &[], &["-5"], Err(Length)),
            ("a sign", &[], &["+5"], Err(Length)),
            ("a fraction", &[], &["5.0"], Err(Length)),
            ("beyond 64 bits", &[], &["18446744073709551616"], Err(Length)),
            ("chunked", &["chunked"], &[], Ok(None)),
            ("chunked overrides the length (RFC 9112 6.3)", &["chunked"], &["abc"], Ok(Some("abc"))),
            ("another coding", &["gzip"], &[], Err(Coded)),
            ("another coding before chunked", &["gzip, chunked"], &[], Err(Coded)),
            ("a coding and a length", &["gzip"], &["2"], Err(Coded)),
        ];
        for (name, codings, lengths, expected) in rows {
            let mut headers = HeaderMap::new();
            for coding in codings {
                headers.append(TRANSFER_ENCODING, coding.parse().expect("a value"));
            }
            for length in lengths {
                headers.append(CONTENT_LENGTH, length.parse().expect("a value"));
            }
            let checked = check_framing(&mut headers);
            let left: Vec<&str> =
                headers.get_all(CONTENT_LENGTH).iter().filter_map(|line| line.to_str().ok()).collect();
            match expected {
                Ok(expected) => assert_eq!((checked, left), (Ok(()), Vec::from_iter(expected)), "{name}"),
                Err(bad) => assert_eq!(checked, Err(bad), "{name}"),
            }
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
