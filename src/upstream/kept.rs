//! Plain HTTP to one server over connections that are kept: hyper's client connections, and a stack of idle ones.
//!
//! In: a request that is ready to be written. Out: its answer, whose body holds the connection until it has ended. A
//! connection on which anything went wrong is never used again, and WebSockets never share these (CVE-2026-71324).

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONNECTION, TRANSFER_ENCODING};
use http::{Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::Pool;
use super::body::{Answer, Course, Upload};
use super::dial::{self, ANSWER_HEAD_BYTES, DialError};
use super::member::Member;
use crate::limits::Permit;
use crate::proto::fields::grammar;
use crate::proto::plain;
use crate::relay::Stream;

/// How long a connection whose answer has just ended may take to be ready for the next request: the time its task needs to
/// get its turn.
const TURN: Duration = Duration::from_millis(100);

/// The idle connections to one server, the last used on top.
#[derive(Debug)]
pub struct Kept {
    idle: Mutex<Idle>,
    max: usize,
    timeout: Duration,
}

#[derive(Debug, Default)]
struct Idle {
    links: Vec<(Instant, Link)>,
    /// A task waits for the oldest to become too old.
    reaped: bool,
}

/// One connection. Dropping it ends it, whatever is on its way.
#[derive(Debug)]
pub(super) struct Link {
    sender: SendRequest<Upload>,
    heard: Arc<AtomicBool>,
    _task: AbortOnDropHandle<()>,
}

impl Kept {
    pub fn new(max: usize, timeout: Duration) -> Self {
        Kept { idle: Mutex::default(), max, timeout }
    }

    /// A connection that is ready for a request.
    async fn take(&self) -> Option<Link> {
        loop {
            let (since, mut link) = self.lock().links.pop()?;
            if since.elapsed() < self.timeout && matches!(timeout(TURN, link.sender.ready()).await, Ok(Ok(()))) {
                return Some(link);
            }
        }
    }

    /// Keeps a connection whose answer has ended.
    pub(super) fn put(self: &Arc<Self>, link: Link) {
        if self.max == 0 || link.sender.is_closed() {
            return;
        }
        let mut idle = self.lock();
        if idle.links.len() >= self.max {
            idle.links.remove(0);
        }
        idle.links.push((Instant::now(), link));
        // There is no runtime while it is torn down.
        if !idle.reaped
            && let Ok(runtime) = Handle::try_current()
        {
            idle.reaped = true;
            runtime.spawn(reap(Arc::downgrade(self)));
        }
    }

    /// Ends those that are too old. Returns when the next will be.
    fn sweep(&self) -> Option<Instant> {
        let mut idle = self.lock();
        let fresh = idle.links.iter().position(|(since, _)| since.elapsed() < self.timeout);
        let old = fresh.unwrap_or(idle.links.len());
        idle.links.drain(..old);
        idle.reaped = !idle.links.is_empty();
        idle.links.first().map(|(since, _)| *since + self.timeout)
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn reap(kept: Weak<Kept>) {
    while let Some(next) = kept.upgrade().and_then(|kept| kept.sweep()) {
        sleep_until(next).await;
    }
}

/// Sends `request` to `member` and returns the head of its answer. `patience`: from the moment the server has all of the
/// request to that head; `None`: for ever.
///
/// A kept connection may have been closed by the server just then. The request goes out once more, over a new connection,
/// when nothing of it was written; or when it is idempotent and without a body and the server has not begun to answer
/// (RFC 9110 section 9.2.2, RFC 9112 section 9.3.1).
///
/// # Errors
/// When no answer can be had; see [`Unanswered`].
pub(super) async fn send(
    pool: &Pool,
    member: &Member,
    mut request: Request<Upload>,
    patience: Option<Duration>,
) -> Result<Response<Answer>, Unanswered> {
    let kept = &member.kept;
    let course = request.body().course().clone();
    let repeatable = is_repeatable(&request);
    while let Some(mut link) = kept.take().await {
        let copy = repeatable.then(|| copy(&request));
        link.heard.store(false, Ordering::Relaxed);
        match exchange(&mut link, request, &course, patience).await {
            Ok(response) => return Ok(answer(response, link, kept, course, patience)?),
            Err(Failure::Late) => return Err(DialError::AnswerTimeout.into()),
            Err(Failure::Unsent(unsent)) => request = *unsent,
            Err(Failure::Broken(error)) => match copy {
                Some(copy) if !link.heard.load(Ordering::Relaxed) => {
                    request = copy;
                    break;
                }
                _ => return Err(DialError::Http(error).into()),
            },
        }
    }
    // Boxed: most requests find a connection, and would carry the room that dialling takes.
    let mut link = match Box::pin(open(pool, member)).await {
        Ok(link) => link,
        Err(error) => return Err(Unanswered { error, unsent: Some(Box::new(request)) }),
    };
    match exchange(&mut link, request, &course, patience).await {
        Ok(response) => Ok(answer(response, link, kept, course, patience)?),
        Err(Failure::Late) => Err(DialError::AnswerTimeout.into()),
        Err(Failure::Unsent(unsent)) => Err(Unanswered { error: DialError::Closed, unsent: Some(unsent) }),
        Err(Failure::Broken(error)) => Err(DialError::Http(error).into()),
    }
}

/// Why a server gave no answer, and the request when nothing of it was written.
pub(super) struct Unanswered {
    pub error: DialError,
    pub unsent: Option<Box<Request<Upload>>>,
}

impl From<DialError> for Unanswered {
    fn from(error: DialError) -> Self {
        Unanswered { error, unsent: None }
    }
}

/// Whether a request does the same when it is done twice, and can be.
pub(super) fn is_repeatable(request: &Request<Upload>) -> bool {
    plain::is_idempotent(request.method()) && request.body().is_end_stream()
}

enum Failure {
    /// Nothing of the request was written.
    Unsent(Box<Request<Upload>>),
    Broken(hyper::Error),
    Late,
}

async fn exchange(
    link: &mut Link,
    request: Request<Upload>,
    course: &Course,
    patience: Option<Duration>,
) -> Result<Response<Incoming>, Failure> {
    course.moved();
    let result = in_time(link.sender.try_send_request(request), course, patience).await.ok_or(Failure::Late)?;
    result.map_err(|mut failed| match failed.take_message() {
        Some(unsent) => Failure::Unsent(Box::new(unsent)),
        None => Failure::Broken(failed.into_error()),
    })
}

/// What `work` of a server comes to; `None`: it was the server's turn for longer than `patience`.
async fn in_time<F: Future>(work: F, course: &Course, patience: Option<Duration>) -> Option<F::Output> {
    let mut work = std::pin::pin!(work);
    let Some(patience) = patience else { return Some(work.await) };
    loop {
        // The client's time is not the server's.
        let due = || course.since().unwrap_or_else(Instant::now) + patience;
        match timeout_at(due(), work.as_mut()).await {
            Ok(result) => return Some(result),
            Err(_) if due() > Instant::now() => {}
            Err(_) => return None,
        }
    }
}

/// Waits until a server that has answered early has the rest of the request, too, and keeps the connection then. The
/// clocks are those of before the answer: `patience` is the server's, and the body ends by itself when the client leaves or
/// sends nothing for too long. `permit` is held for as long.
pub(super) async fn complete(
    mut link: Link,
    kept: Arc<Kept>,
    course: Arc<Course>,
    patience: Option<Duration>,
    permit: Option<Permit>,
) {
    if let Some(Ok(())) = in_time(link.sender.ready(), &course, patience).await {
        kept.put(link);
    }
    drop(permit);
}

fn answer(
    response: Response<Incoming>,
    link: Link,
    kept: &Arc<Kept>,
    course: Arc<Course>,
    patience: Option<Duration>,
) -> Result<Response<Answer>, DialError> {
    // Nobody asked for it. What follows is no HTTP.
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(DialError::Switched);
    }
    course.answered();
    let last = is_last(&response);
    Ok(response.map(|source| Answer::new(source, link, kept.clone(), course, patience, last)))
}

/// Whether the server's connection ends behind this answer (RFC 9112 section 9.3).
fn is_last(response: &Response<Incoming>) -> bool {
    let headers = response.headers();
    let endless = response.body().size_hint().exact().is_none() && !headers.contains_key(TRANSFER_ENCODING);
    endless || response.version() == Version::HTTP_10 || grammar::holds_token(headers, CONNECTION, "close")
}

/// The same request, which has no body.
pub(super) fn copy(request: &Request<Upload>) -> Request<Upload> {
    let mut copy = Request::new(Upload::empty(Arc::default()));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    copy
}

async fn open(pool: &Pool, member: &Member) -> Result<Link, DialError> {
    let heard = Arc::new(AtomicBool::new(false));
    let wire = Wire { stream: dial::open(pool, member).await?, heard: heard.clone() };
    let (sender, connection) = http1::Builder::new()
        // Names keep the client's spelling; those that we add get the RFC's.
        .preserve_header_case(true)
        .title_case_headers(true)
        // At most ANSWER_FIELDS: hyper's own default, and told nothing it keeps room for them without filling it.
        .max_buf_size(ANSWER_HEAD_BYTES)
        .handshake::<_, Upload>(TokioIo::new(wire))
        .await
        .map_err(DialError::Http)?;
    let task = tokio::spawn(async move {
        // Whoever waits for an answer gets the error, too.
        if let Err(error) = connection.await {
            tracing::trace!(%error, "a connection to an upstream ended");
        }
    });
    Ok(Link { sender, heard, _task: AbortOnDropHandle::new(task) })
}

/// A stream that notes whether anything was read from it.
#[derive(Debug)]
struct Wire {
    stream: Stream,
    heard: Arc<AtomicBool>,
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.heard.store(true, Ordering::Relaxed);
        }
        result
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
