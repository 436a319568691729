//! One connection, from its first byte to the hand-over to the relay, or to its end.
//!
//! hyper parses heads and writes answers; the stream is taken back from it without a shutdown, so that a session gets the
//! bytes behind the head, and a refused client can still read its answer.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep};

use super::gate::{self, Arrival, Body, Handover};
use super::held::{End, Held};
use crate::limits::{Pending, Place};
use crate::live::{Current, Door, Live};
use crate::observe::log::{self, Answered, Refused};
use crate::policy::client::Peer;
use crate::proto::refusal::Refusal;
use crate::relay::session::Opened;
use crate::relay::stream::{self, Stream};
use crate::upstream::body::Course;

/// hyper's own minimum.
const HEAD_BUFFER_MIN: usize = 8192;
/// Header fields of a request that hyper reads unless told otherwise.
const HYPER_HEADERS_MAX: usize = 100;

/// A connection whose transport is ready: TLS, where the listener has it, is done.
pub struct Secured {
    pub stream: Stream,
    pub peer: Peer,
    pub place: Place,
    pub pending: Pending,
    /// Whether the client came over TLS.
    pub secure: bool,
}

/// Serves the connection's requests, each by the configuration in service when it comes; a WebSocket goes on in a task of
/// its own, and this one's state is gone.
pub async fn connection(secured: Secured, door: Arc<Door>, current: Arc<Current>) {
    let Secured { stream, peer, place, pending, secure } = secured;
    let (listener, closed) = (door.listener.clone(), door.closed.clone());
    // hyper knows a deadline for heads alone: a client that never reads its answer would stay for ever.
    let patience = 2 * listener.head_timeout;
    let progress = Arc::new(Mutex::new(Progress::new(false, patience)));
    let end = Arc::new(End::default());
    let arrival = Arc::new(Arrival { peer, secure, door, pending: Mutex::new(Some(pending)), end: end.clone() });
    let service = {
        let (progress, current) = (progress.clone(), current.clone());
        service_fn(move |request: Request<Incoming>| {
            let (progress, live, arrival) = (progress.clone(), current.load(), arrival.clone());
            // Before hyper reads on, which it does before it asks for the answer.
            arrival.end.hold(hyper::body::Body::is_end_stream(request.body()));
            // Boxed, because hyper wants the future to be Unpin where the stream is to be taken back.
            Box::pin(async move {
                let (begun, bodiless) = (Instant::now(), request.method() == Method::HEAD);
                let unframed = request.version() == Version::HTTP_10;
                *lock(&progress) = Progress { unframed, ..Progress::new(true, patience) };
                let (mut response, handover) = gate::walk(request, &arrival, &live).await;
                let (patience, upload) = match response.extensions_mut().remove() {
                    Some(Patience { max, upload }) => (max, Some(upload)),
                    None => (patience, None),
                };
                let record = response.extensions_mut().remove::<log::Request>();
                let tally = record.map(|record| Box::new(Tally::new(record, begun, bodiless, &response)));
                let given = Some(Instant::now());
                *lock(&progress) = Progress { handover, given, unframed, upload, ..Progress::new(true, patience) };
                Ok(response.map(|body| Watched { body, progress, tally }))
            }) as Pin<Box<dyn Future<Output = Result<Response<Watched>, Infallible>> + Send>>
        })
    };
    let mut builder = http1::Builder::new();
    // With its own default hyper keeps room for that many without filling it, for each request.
    if listener.headers_max != HYPER_HEADERS_MAX {
        builder.max_headers(listener.headers_max);
    }
    let mut connection = builder
        .timer(TokioTimer::new())
        .header_read_timeout(listener.head_timeout)
        // The buffer grows in powers of two: alone, it lets heads in that are nearly twice as long.
        .max_header_size(listener.head_bytes_max)
        .max_buf_size(listener.head_bytes_max.max(HEAD_BUFFER_MIN))
        // Names keep the upstream's spelling; those that we add look like the RFC's.
        .preserve_header_case(true)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(Held { stream, end: end.clone() }), service);
    let drain = current.load().drain.clone();
    let mut begun = pin!(drain.begun());
    let mut closed = pin!(closed.cancelled());
    let mut told = false;
    let mut timer = pin!(sleep(patience));
    let outcome = std::future::poll_fn(|cx| {
        if !told {
            let (closed, begun) = (closed.as_mut().poll(cx).is_ready(), begun.as_mut().poll(cx).is_ready());
            let asked = (closed || begun) && lock(&progress).asked;
            if asked || end.is_held() {
                told = true;
                Pin::new(&mut connection).graceful_shutdown();
            } else if closed {
                // hyper would wait for a first head that has begun; nobody was promised an answer yet. While the gateway
                // drains there is one, and hyper would close a connection that has said nothing.
                return Poll::Ready(Some(Ok(())));
            }
        }
        if let Poll::Ready(result) = connection.poll_without_shutdown(cx) {
            return Poll::Ready(Some(result));
        }
        // hyper read before it answered, and has to be told that it may read, or need not, once more.
        if end.is_let_go() || (end.is_held() && !told) {
            cx.waker().wake_by_ref();
        }
        loop {
            // Read after the poll, which may have brought an answer.
            let Some(due) = lock(&progress).due() else { return Poll::Pending };
            // Moved forward only when it fires: a busy answer has no use for it.
            if timer.deadline() > due {
                timer.as_mut().reset(due);
            }
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= due {
                return Poll::Ready(None);
            }
            timer.as_mut().reset(due);
        }
    })
    .await;
    let parts = connection.into_parts();
    let stream = parts.io.into_inner().stream;
    let (handover, unframed) = {
        let mut progress = lock(&progress);
        (progress.handover.take(), progress.unframed)
    };
    match (handover, outcome) {
        // Also when the 101 could not be written: the upstream is told that the client left, and so is the log.
        (Some(handover), Some(_)) => {
            let opened = Opened { stream, early: parts.read_buf };
            handover.spawn(opened, place, &current.load().drain);
        }
        (None, Some(Ok(()))) => stream.linger().await,
        (None, Some(Err(error))) if error.is_user() => {
            tracing::debug!(client = %peer.address, error = %log::chain(&error), "an answer broke off");
            cut(&stream, unframed);
        }
        (None, Some(Err(error))) => failed(stream, &error, &parts.read_buf, peer, &current.load()).await,
        (_, None) => {
            tracing::debug!(client = %peer.address, "the client did not take its answer in time");
            cut(&stream, unframed);
        }
    }
}

/// An answer that breaks off must not look whole. Chunks and lengths show it; where the end of the stream is the end of the
/// answer, only a reset does (RFC 9112 section 8).
fn cut(stream: &Stream, unframed: bool) {
    if unframed {
        stream.reset_on_close();
    }
}

/// How long a client may take nothing of what it was given, when all of its request is there.
#[derive(Debug, Clone)]
pub struct Patience {
    pub max: Duration,
    pub upload: Arc<Course>,
}

/// What the requests of a connection have come to.
struct Progress {
    /// There was a request.
    asked: bool,
    handover: Option<Handover>,
    /// Since when something is there for the client to take; `None` while an answer, or more of it, is in the making.
    given: Option<Instant>,
    patience: Duration,
    /// The body of the request, which may go on behind its answer.
    upload: Option<Arc<Course>>,
    /// The request was HTTP/1.0, whose answers may end with the stream.
    unframed: bool,
}

impl Progress {
    fn new(asked: bool, patience: Duration) -> Self {
        Progress { asked, handover: None, given: None, patience, upload: None, unframed: false }
    }

    fn due(&self) -> Option<Instant> {
        let given = self.given?;
        let since = match &self.upload {
            // It has clocks of its own.
            Some(upload) if upload.is_under_way() => Instant::now(),
            Some(upload) => upload.since().map_or(given, |since| given.max(since)),
            None => given,
        };
        Some(since + self.patience)
    }
}

/// A body that notes whose turn it is: hyper asks for more of it when the client has taken what came before.
struct Watched {
    body: Body,
    progress: Arc<Mutex<Progress>>,
    /// Where the request leaves a record.
    tally: Option<Box<Tally>>,
}

/// What was taken of an answer. The record is written when the answer is gone, however that came about.
struct Tally {
    record: log::Request,
    begun: Instant,
    status: StatusCode,
    bytes: u64,
    /// `Content-Length`: hyper asks for no more than that, so that a body which does not know its end is never seen to end.
    length: Option<u64>,
    whole: bool,
}

impl Tally {
    fn new(record: log::Request, begun: Instant, bodiless: bool, response: &Response<Body>) -> Self {
        let length = response.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        Tally { record, begun, status: response.status(), bytes: 0, length, whole: bodiless }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let Some(tally) = self.tally.take() else { return };
        let sent = tally.length == Some(tally.bytes);
        let whole = tally.whole || sent || hyper::body::Body::is_end_stream(&self.body);
        let (status, bytes) = (Some(tally.status.as_u16()), tally.bytes);
        tally.record.answered(Answered { status, bytes, whole, duration: tally.begun.elapsed() });
    }
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = <Body as hyper::body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        lock(&self.progress).given = frame.is_ready().then(Instant::now);
        if let Some(tally) = &mut self.tally {
            match &frame {
                Poll::Ready(Some(Ok(frame))) => tally.bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
                Poll::Ready(None) => tally.whole = true,
                Poll::Ready(Some(Err(_))) | Poll::Pending => {}
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

fn lock(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A head that could not be read. hyper has answered the malformed ones; one that is late is ours to answer.
async fn failed(mut stream: Stream, error: &hyper::Error, read: &[u8], peer: Peer, live: &Live) {
    let refusal = match error {
        error if error.is_timeout() && read.is_empty() => return stream.linger().await,
        error if error.is_timeout() => Refusal::HeadTimeout,
        // hyper has no other word for it.
        error if error.to_string() == "URI too long" => Refusal::TargetTooLong,
        error if error.is_parse_too_large() => Refusal::HeadTooLarge,
        error if error.is_parse() => Refusal::HeadMalformed,
        // The client went away.
        _ => return,
    };
    live.metrics().refused(None, &refusal, None);
    log::refused(&Refused {
        reason: refusal.label(),
        status: refusal.status().as_u16(),
        client: Some(peer.address),
        detail: Some(log::chain(error)),
        ..Refused::default()
    });
    // hyper has answered the others.
    let unanswered = match refusal {
        Refusal::HeadTimeout => Some(format!("{refusal}\n")),
        Refusal::HeadMalformed if error.is_parse_version_h2() => {
            Some("this port speaks HTTP/1.1, not HTTP/2\n".to_owned())
        }
        _ => None,
    };
    if let Some(text) = unanswered {
        let answer = format!(
            "HTTP/1.1 {}\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {}\r\n\r\n{text}",
            refusal.status(),
            text.len()
        );
        if tokio::time::timeout(stream::LINGER, stream.write_all(answer.as_bytes())).await.is_err() {
            return;
        }
    }
    stream.linger().await;
}
