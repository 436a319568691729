//! Answers that a route fixes: a redirect, or a status with a body. No I/O.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Response, StatusCode};

use crate::config::model::Respond;

/// Sends the client elsewhere.
pub fn redirect(location: HeaderValue, status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response.headers_mut().insert(LOCATION, location);
    response
}

/// Says what the configuration says.
pub fn respond(respond: &Respond) -> Response<Bytes> {
    let mut response = Response::new(respond.body.clone());
    *response.status_mut() = respond.status;
    if !respond.body.is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, respond.content_type.clone());
    }
    response
}
