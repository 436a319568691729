//! Bodies of plain HTTP on their way between the legs: one frame at a time, as it comes, and nothing kept.
//!
//! Each side is read only when the other takes what came before: back-pressure reaches the sender. A body that fails ends
//! with an error, never like a whole one.

use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use atomic_waker::AtomicWaker;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::kept::{self, Kept, Link};
use super::sticky::Lesson;
use crate::limits::Permit;
use crate::proto::fields;

/// How long the body of a request with `Expect: 100-continue` waits for a server that may not know of that
/// (RFC 9110 section 10.1.1). What curl waits, too.
const CONTINUE: Duration = Duration::from_secs(1);

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("nothing came within {}", match .0 { Leg::Client => "body_timeout", Leg::Upstream => "answer_idle_timeout" })]
    Silent(Leg),
    #[error(transparent)]
    Broken(#[from] hyper::Error),
}

/// From where a body comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leg {
    Client,
    Upstream,
}

/// The body of a request.
#[derive(Debug)]
pub struct Upload {
    source: Option<Incoming>,
    silence: Silence,
    course: Arc<Course>,
    hold: Option<Hold>,
}

impl Upload {
    /// `body_timeout`: how long the client may be silent. `hold`: nothing is asked of the client before the server wants
    /// it ([`Course::wanted`]).
    pub fn new(source: Incoming, body_timeout: Duration, hold: bool, course: Arc<Course>) -> Self {
        let hold = hold.then(|| Hold { timer: Box::pin(sleep(CONTINUE)) });
        if hold.is_none() {
            course.wanted();
        }
        Upload { source: Some(source), silence: Silence::new(Some(body_timeout)), course, hold }
    }

    pub fn empty(course: Arc<Course>) -> Self {
        course.end(End::Whole);
        Upload { source: None, silence: Silence::new(None), course, hold: None }
    }

    pub fn course(&self) -> &Arc<Course> {
        &self.course
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Upload { source, silence, course, hold } = self.get_mut();
        let Some(source) = source else { return Poll::Ready(None) };
        if let Some(held) = hold {
            ready!(held.poll(cx, course));
            *hold = None;
        }
        match Pin::new(&mut *source).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                silence.broken();
                course.moved();
                if source.is_end_stream() {
                    course.end(End::Whole);
                }
                Poll::Ready(Some(Ok(cleaned(frame))))
            }
            Poll::Ready(Some(Err(error))) => {
                course.end(End::Broken);
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                course.end(End::Whole);
                Poll::Ready(None)
            }
            Poll::Pending => {
                course.waits();
                ready!(silence.poll(cx));
                course.end(End::Silent);
                Poll::Ready(Some(Err(BodyError::Silent(Leg::Client))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.source.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.source.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.course.end(End::Dropped);
    }
}

/// Holds a body back until the server has said 100, or has had the time to.
#[derive(Debug)]
struct Hold {
    timer: Pin<Box<Sleep>>,
}

impl Hold {
    fn poll(&mut self, cx: &mut Context<'_>, course: &Course) -> Poll<()> {
        course.waker.register(cx.waker());
        match course.wanted.load(Ordering::Acquire) {
            WANTED => Poll::Ready(()),
            // The server has answered without it.
            UNWANTED => Poll::Pending,
            _ => {
                ready!(self.timer.as_mut().poll(cx));
                course.wanted();
                Poll::Ready(())
            }
        }
    }
}

const UNKNOWN: u8 = 0;
const WANTED: u8 = 1;
const UNWANTED: u8 = 2;

/// How far the body of a request has come: told by the body, read by who waits for the answer.
#[derive(Debug)]
pub struct Course {
    state: Mutex<State>,
    wanted: AtomicU8,
    waker: AtomicWaker,
}

#[derive(Debug)]
struct State {
    /// Since when the server has all that came; `None` while the client is waited for.
    since: Option<Instant>,
    end: Option<End>,
}

/// How the body of a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Whole,
    /// The client sent nothing for too long.
    Silent,
    /// The client left, or sent what is no body.
    Broken,
    /// Nobody takes more of it.
    Dropped,
}

impl Default for Course {
    fn default() -> Self {
        let state = State { since: Some(Instant::now()), end: None };
        Course { state: Mutex::new(state), wanted: AtomicU8::new(UNKNOWN), waker: AtomicWaker::new() }
    }
}

impl Course {
    /// Since when it is the server's turn; `None` while it is the client's.
    pub fn since(&self) -> Option<Instant> {
        self.lock().since
    }

    pub fn ended(&self) -> Option<End> {
        self.lock().end
    }

    /// Whether more of it may come: it has not ended, and is not held back from a server that has answered without it.
    pub fn is_under_way(&self) -> bool {
        self.ended().is_none() && self.wanted.load(Ordering::Acquire) != UNWANTED
    }

    /// The server wants the body: it has sent a 100, or is not asked.
    pub fn wanted(&self) {
        self.decide(WANTED);
    }

    /// The server has answered: a body that was held back until now stays where it is.
    pub fn answered(&self) {
        self.decide(UNWANTED);
    }

    /// The server's time begins now.
    pub fn moved(&self) {
        self.lock().since = Some(Instant::now());
    }

    fn decide(&self, wanted: u8) {
        if self.wanted.compare_exchange(UNKNOWN, wanted, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.waker.wake();
        }
    }

    fn waits(&self) {
        self.lock().since = None;
    }

    fn end(&self, end: End) {
        let mut state = self.lock();
        if state.end.is_none() {
            state.since = Some(Instant::now());
            state.end = Some(end);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of an answer, with the connection on which it comes: when it ends whole the connection is kept, once the server
/// has the rest of the request, too; and when it is dropped before that the connection ends at once.
#[derive(Debug)]
pub struct Answer {
    source: Incoming,
    silence: Silence,
    link: Option<Link>,
    kept: Arc<Kept>,
    course: Arc<Course>,
    patience: Option<Duration>,
    last: bool,
    ended: bool,
    lesson: Option<Box<Lesson>>,
    permit: Option<Permit>,
}

impl Answer {
    /// `patience`: how long the server may take nothing of the request. `last`: its connection ends behind the answer.
    pub(super) fn new(
        source: Incoming,
        link: Link,
        kept: Arc<Kept>,
        course: Arc<Course>,
        patience: Option<Duration>,
        last: bool,
    ) -> Self {
        let silence = Silence::new(None);
        let (link, ended) = (Some(link), false);
        Answer { source, silence, link, kept, course, patience, last, ended, lesson: None, permit: None }
    }

    /// The place with the server: it is held until the answer is gone, and all of the request.
    pub fn set_permit(&mut self, permit: Permit) {
        self.permit = Some(permit);
    }

    /// How long the server may send nothing; `None`: for ever.
    pub fn set_idle_timeout(&mut self, max: Option<Duration>) {
        self.silence = Silence::new(max);
    }

    /// Who reads the first bytes, too.
    pub fn set_lesson(&mut self, lesson: Lesson) {
        self.lesson = Some(Box::new(lesson));
    }

    /// Whether the rest of the request will not be read: it is held back for good, or the connection ends here.
    pub fn cuts_upload(&self) -> bool {
        self.course.ended().is_none() && (self.last || !self.course.is_under_way())
    }

    /// Gives the connection up: its next bytes belong to nobody.
    pub fn forsake(&mut self) {
        self.link = None;
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let whole = self.ended || self.source.is_end_stream();
        let Some(link) = self.link.take().filter(|_| whole) else { return };
        if self.course.ended() == Some(End::Whole) {
            self.kept.put(link);
        } else if !self.last
            && self.course.is_under_way()
            && let Ok(runtime) = Handle::try_current()
        {
            // RFC 9110 section 7.5: a server that has answered early may still want all of the request.
            let (kept, course, permit) = (self.kept.clone(), self.course.clone(), self.permit.take());
            runtime.spawn(kept::complete(link, kept, course, self.patience, permit));
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.source).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.silence.broken();
                if let (Some(lesson), Some(bytes)) = (&mut this.lesson, frame.data_ref())
                    && !lesson.read(bytes)
                {
                    this.lesson = None;
                }
                Poll::Ready(Some(Ok(cleaned(frame))))
            }
            Poll::Ready(Some(Err(error))) => {
                this.forsake();
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                this.ended = true;
                Poll::Ready(None)
            }
            Poll::Pending => {
                ready!(this.silence.poll(cx));
                this.forsake();
                Poll::Ready(Some(Err(BodyError::Silent(Leg::Upstream))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.source.size_hint()
    }
}

fn cleaned(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            fields::plain_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

/// How long nothing has come. The timer is armed by silence alone and moved only when it fires.
#[derive(Debug)]
struct Silence {
    max: Option<Duration>,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Silence {
    fn new(max: Option<Duration>) -> Self {
        Silence { max, since: None, timer: None }
    }

    fn broken(&mut self) {
        self.since = None;
    }

    /// Ready when it has lasted too long.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(max) = self.max else { return Poll::Pending };
        let end = *self.since.get_or_insert_with(Instant::now) + max;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= end {
                return Poll::Ready(());
            }
            timer.as_mut().reset(end);
        }
    }
}
