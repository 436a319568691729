//! Answers of the admin interface: JSON, text, and problems as RFC 9457 describes them.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{Response, StatusCode};
use hyper::body::{Body, Frame, SizeHint};
use serde::Serialize;

const JSON: &str = "application/json";

/// What is answered.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    kind: &'static str,
    body: Parts,
    more: Option<(HeaderName, HeaderValue)>,
}

/// A body that is all there, written part by part: one long write would hold up others on its processor.
#[derive(Debug)]
pub struct Parts(VecDeque<Bytes>);

impl Answer {
    pub fn text(kind: &'static str, body: String) -> Self {
        Answer { status: StatusCode::OK, kind, body: body.into(), more: None }
    }

    pub fn json(value: &impl Serialize) -> Self {
        let mut body = serde_json::to_string(value).expect("nothing of ours fails to be JSON");
        body.push('\n');
        Answer::text(JSON, body)
    }

    /// JSON that is written already.
    pub fn parts(parts: Vec<Bytes>) -> Self {
        Answer { status: StatusCode::OK, kind: JSON, body: Parts(parts.into()), more: None }
    }

    pub fn with(self, status: StatusCode) -> Self {
        Answer { status, ..self }
    }

    pub fn into_response(self) -> Response<Parts> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.kind));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.extend(self.more);
        response
    }
}

impl From<String> for Parts {
    fn from(text: String) -> Parts {
        Parts(VecDeque::from([text.into()]))
    }
}

impl Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|part| part.len() as u64).sum())
    }
}

/// Why a request is not answered as it was meant. `Display` of the detail is a sentence with the next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub status: StatusCode,
    /// One word, for programs and the log.
    pub reason: &'static str,
    pub detail: Cow<'static, str>,
    more: Option<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub fn new(status: StatusCode, reason: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Problem { status, reason, detail: detail.into(), more: None }
    }

    /// What was asked cannot be understood.
    pub fn bad(detail: impl Into<Cow<'static, str>>) -> Self {
        Problem::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }

    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Problem::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// RFC 6750 section 3.
    pub fn challenge(self, challenge: &'static str) -> Self {
        Problem { more: Some((WWW_AUTHENTICATE, HeaderValue::from_static(challenge))), ..self }
    }

    /// RFC 9110 section 15.5.6.
    pub fn allow(self, methods: &str) -> Self {
        let methods = HeaderValue::try_from(methods).expect("names of methods");
        Problem { more: Some((ALLOW, methods)), ..self }
    }
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Answer {
        let body = serde_json::json!({
            "type": "about:blank",
            "title": problem.status.canonical_reason(),
            "status": problem.status.as_u16(),
            "detail": problem.detail,
            "reason": problem.reason,
        });
        Answer {
            status: problem.status,
            kind: "application/problem+json",
            body: format!("{body}\n").into(),
            more: problem.more,
        }
    }
}
