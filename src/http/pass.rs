//! Plain HTTP through the gateway: pages, polling, server-sent events, uploads. Streams both ways and holds nothing back.
//!
//! In: a request that its route lets pass. Out: the upstream's answer as it comes, or why there is none. Nothing here may
//! wait for a whole body, and no request reaches a server that its route does not name.

use std::sync::Arc;

use http::header::{ACCEPT_ENCODING, CONNECTION, HeaderValue, SET_COOKIE};
use http::{Request, Response, Version, request};
use hyper::body::{Body as _, Incoming};

use super::gate::{Refusing, target};
use super::marks::Marks;
use super::serve::Patience;
use crate::live::Live;
use crate::observe::log;
use crate::policy::decide::{Passage, Visitor};
use crate::policy::sticky;
use crate::proto::fields::{self, Framing};
use crate::proto::plain;
use crate::proto::refusal::Refusal;
use crate::proto::trace::Trace;
use crate::upstream::body::{Answer, Course, End, Upload};
use crate::upstream::{Chosen, tries};

/// Sends the request to a server of the route's upstream and returns the answer.
pub async fn pass(
    mut parts: request::Parts,
    body: Incoming,
    passage: &Passage<'_>,
    visitor: &Visitor,
    marks: &Marks,
    live: &Live,
) -> Result<Response<Answer>, Refusing> {
    let pool = live.pool(&passage.upstream.name);
    let wish = pool.wish(&parts, &passage.client, live.config.limits.ipv6_prefix, &passage.hop(visitor));
    if wish.opens_session() {
        // What the answer tells has to be readable here.
        parts.headers.remove(ACCEPT_ENCODING);
    }
    let record = marks.record(passage.route, &passage.client, &parts);
    let course = Arc::new(Course::default());
    let request = request(parts, body, passage, visitor, &marks.trace, &course);
    let (uri, patience) = (request.uri().clone(), passage.rules.request_timeout);
    let sending = tries::send(pool, wish, request, |server| target(passage.route, server, &uri), patience);
    let (sent, record) = log::unless_left(record, sending).await;
    let (chosen, result) = sent?;
    let Chosen { member, permit } = chosen;
    let server = &member.server;
    let refused = |refusal, detail| Refusing::upstream(refusal, &server.text, detail);
    let mut response = result.map_err(|error| match course.ended() {
        Some(End::Silent) => Refusal::BodyTimeout.into(),
        Some(End::Broken) => Refusal::BodyMalformed.into(),
        _ => refused(error.refusal(), Some(log::chain(&error))),
    })?;
    if let Err(bad) = plain::check_framing(response.headers_mut()) {
        response.body_mut().forsake();
        return Err(refused(Refusal::UpstreamBadAnswer, Some(bad.to_string())));
    }
    if let Some(lesson) = pool.lesson(&wish, &member) {
        response.body_mut().set_lesson(lesson);
    }
    let cut = response.body().cuts_upload();
    live.metrics().passed(&passage.route.name, response.status().as_u16());
    response.body_mut().set_permit(permit);
    response.body_mut().set_idle_timeout(passage.rules.answer_idle_timeout);
    fields::plain_answer_headers(response.status(), response.headers_mut());
    if cut {
        // RFC 9112 section 9.6: then the client's connection ends, too, and it is told.
        response.headers_mut().append(CONNECTION, HeaderValue::from_static("close"));
    }
    // What shared caches keep is for everybody; and nobody is to stay with a server that is down.
    if !sticky::is_shared(response.headers())
        && !tries::is_down(response.status())
        && let Some(cookie) = pool.set_cookie(&wish, &member)
    {
        response.headers_mut().append(SET_COOKIE, cookie);
        sticky::keep_private(response.headers_mut());
    }
    *response.version_mut() = Version::HTTP_11;
    response.extensions_mut().insert(Patience { max: passage.rules.body_timeout, upload: course });
    if let Some(mut record) = record {
        record.upstream = Some(server.text.as_str().into());
        response.extensions_mut().insert(record);
    }
    Ok(response)
}

/// The request to the upstream: the client's, with our fields.
fn request(
    mut parts: request::Parts,
    body: Incoming,
    passage: &Passage<'_>,
    visitor: &Visitor,
    trace: &Trace,
    course: &Arc<Course>,
) -> Request<Upload> {
    let framing = match body.size_hint().exact() {
        _ if body.is_end_stream() => Framing::Empty,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    };
    let expects = framing != Framing::Empty && fields::is_continue(&parts.headers);
    let host = passage.route.host_header.as_deref();
    fields::plain_headers(&mut parts.headers, parts.version, &passage.hop(visitor), host, framing);
    trace.pass(&mut parts.headers);
    passage.route.request_headers.apply(&mut parts.headers);
    let upload = match framing {
        Framing::Empty => Upload::empty(course.clone()),
        _ => Upload::new(body, passage.rules.body_timeout, expects, course.clone()),
    };
    parts.version = Version::HTTP_11;
    let mut request = Request::from_parts(parts, upload);
    if expects {
        let course = course.clone();
        hyper::ext::on_informational(&mut request, move |answer| {
            if answer.status() == http::StatusCode::CONTINUE {
                course.wanted();
            }
        });
    }
    request
}
