//! One request, one server after the other: until one answers, or until it may not be tried again.
//!
//! In: a request that is ready to be written, but for its target. Out: the last server and what it said. Nothing is sent
//! twice that could be done twice: a handshake has no body, and no frame flows before its 101.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::Empty;

use super::body::{Answer as Answered, End, Upload};
use super::dial::{self, Answer, DialError};
use super::kept::{self, Unanswered};
use super::member::Member;
use super::sticky::Wish;
use super::{Chosen, For, Pool};
use crate::config::model::Server;
use crate::observe::log;
use crate::observe::metrics::{Dialled, Metrics};
use crate::proto::refusal::Refusal;

/// The tries of one request.
struct Tries<'a> {
    pool: &'a Pool,
    wish: Wish,
    /// Servers that failed.
    tried: Vec<Arc<Member>>,
    what: For,
}

impl<'a> Tries<'a> {
    fn new(pool: &'a Pool, wish: Wish, what: For) -> Self {
        Tries { pool, wish, tried: Vec::new(), what }
    }

    fn first(&self) -> Result<Chosen, Refusal> {
        self.pool.budget.earn();
        self.next()
    }

    fn next(&self) -> Result<Chosen, Refusal> {
        self.pool.choose(&self.wish, &self.tried, self.what)
    }

    /// Whether another try is possible at all, so that a copy of the request is worth its cost.
    fn left(&self) -> bool {
        let others = self.pool.size().saturating_sub(1);
        self.tried.len() < (self.pool.upstream.retries as usize).min(others)
    }

    /// Another server, when there is one and the budget allows it. A try that `reached_nobody` costs nothing: the next is
    /// the first work that a server has with this request.
    fn after(&mut self, failed: &Chosen, reached_nobody: bool, why: &str) -> Option<Chosen> {
        if !self.left() {
            return None;
        }
        let (upstream, address) = (&failed.member.server.text, failed.member.shown());
        self.tried.push(failed.member.clone());
        // Before the choice: who is chosen after its time aside has one try, and it would be lost.
        if !reached_nobody && !self.pool.budget.spend() {
            tracing::info!(upstream, address, detail = why, "failed, and the budget of retries is used up");
            return None;
        }
        let Ok(next) = self.next() else {
            if !reached_nobody {
                self.pool.budget.refund();
            }
            return None;
        };
        let member = &next.member;
        tracing::info!(
            upstream,
            address,
            next = member.server.text,
            at = member.shown(),
            detail = why,
            "failed, trying another"
        );
        Some(next)
    }
}

/// Opens a WebSocket with one of the servers; `target` is that of the request there.
///
/// # Errors
/// When no server has a place, or the target is too long.
pub async fn dial(
    pool: &Pool,
    wish: Wish,
    mut request: Request<Empty<Bytes>>,
    target: impl Fn(&Server) -> Result<Uri, Refusal>,
    metrics: &Metrics,
) -> Result<(Chosen, Result<Answer, DialError>), Refusal> {
    let mut tries = Tries::new(pool, wish, For::Session);
    let mut chosen = tries.first()?;
    loop {
        let mut sent = if tries.left() { request.clone() } else { std::mem::take(&mut request) };
        *sent.uri_mut() = target(&chosen.member.server)?;
        let answer = dial::dial(pool, &chosen.member, sent).await;
        metrics.dialled(&pool.upstream.name, &chosen.member.server.text, outcome(&answer));
        let why = match &answer {
            Ok(Answer::Refused(response)) if is_down(response.status()) => response.status().to_string(),
            Ok(_) => {
                pool.served(&chosen.member);
                return Ok((chosen, answer));
            }
            Err(error) => log::chain(error),
        };
        if !matches!(&answer, Err(error) if !error.blames_server()) {
            pool.failed(&chosen.member, &why);
        }
        let reached_nobody = answer.as_ref().is_err_and(DialError::reached_nobody);
        match tries.after(&chosen, reached_nobody, &why) {
            Some(next) => chosen = next,
            None => return Ok((chosen, answer)),
        }
    }
}

fn outcome(answer: &Result<Answer, DialError>) -> Dialled {
    match answer {
        Ok(Answer::Switched { .. }) => Dialled::Opened,
        Ok(Answer::Refused(_)) => Dialled::Refused,
        Err(error) => Dialled::Failed(error.label()),
    }
}

/// Sends a request of plain HTTP. It goes to another server when nothing of it was written to the one
/// before; or when it is idempotent and without a body, and that server failed without an answer or is down. One that
/// took too long for its answer has the work, and is not repeated.
///
/// # Errors
/// When no server may be asked, or the target is too long.
pub async fn send(
    pool: &Pool,
    wish: Wish,
    mut request: Request<Upload>,
    target: impl Fn(&Server) -> Result<Uri, Refusal>,
    patience: Option<Duration>,
) -> Result<(Chosen, Result<Response<Answered>, DialError>), Refusal> {
    let mut tries = Tries::new(pool, wish, For::Request);
    let mut chosen = tries.first()?;
    loop {
        let copy = (tries.left() && kept::is_repeatable(&request)).then(|| kept::copy(&request));
        let course = request.body().course().clone();
        *request.uri_mut() = target(&chosen.member.server)?;
        let (why, again, result) = match kept::send(pool, &chosen.member, request, patience).await {
            Ok(response) => {
                pool.served(&chosen.member);
                if !is_down(response.status()) {
                    return Ok((chosen, Ok(response)));
                }
                (response.status().to_string(), copy, Ok(response))
            }
            // The client's failure is not the server's.
            Err(Unanswered { error, .. }) if matches!(course.ended(), Some(End::Silent | End::Broken)) => {
                return Ok((chosen, Err(error)));
            }
            Err(Unanswered { error: error @ DialError::AnswerTimeout, .. }) => return Ok((chosen, Err(error))),
            Err(Unanswered { error, unsent }) => {
                let why = log::chain(&error);
                if unsent.is_some() && error.blames_server() {
                    pool.failed(&chosen.member, &why);
                }
                (why, unsent.map(|unsent| *unsent).or(copy), Err(error))
            }
        };
        let Some(again) = again else { return Ok((chosen, result)) };
        let reached_nobody = result.as_ref().is_err_and(DialError::reached_nobody);
        match tries.after(&chosen, reached_nobody, &why) {
            Some(next) => (chosen, request) = (next, again),
            None => return Ok((chosen, result)),
        }
    }
}

/// What servers and their own proxies answer when they cannot serve anybody. A 500 is about this request.
pub fn is_down(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// How many retries the requests of an upstream have earned. When all servers fail, retries would multiply the load on
/// what is left of them: so many percent more, and no storm.
#[derive(Debug)]
pub(super) struct Budget {
    /// Of a retry, for each request.
    percent: u32,
    /// In hundredths of a retry.
    left: AtomicU32,
}

/// What a quiet upstream may have saved.
const SAVED: u32 = 10 * RETRY;
const RETRY: u32 = 100;

impl Budget {
    pub fn new(percent: u32) -> Self {
        Budget { percent, left: AtomicU32::new(SAVED) }
    }

    /// What was saved stays.
    pub fn renew(&self, percent: u32) -> Self {
        Budget { percent, left: AtomicU32::new(self.left.load(Ordering::Relaxed)) }
    }

    fn earn(&self) {
        let more = |left: u32| (left < SAVED).then(|| (left + self.percent).min(SAVED));
        // Full is no error.
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    fn refund(&self) {
        self.left.fetch_add(RETRY, Ordering::Relaxed);
    }

    fn spend(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(RETRY)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_more_and_ten_at_first() {
        let budget = Budget::new(20);
        let retries = (0..10_000)
            .filter(|_| {
                budget.earn();
                budget.spend()
            })
            .count();
        assert_eq!(retries, 2_000 + 10 - 1, "the first request earns nothing: it is full");
    }

    #[test]
    fn nothing_is_saved_beyond_ten() {
        let budget = Budget::new(100);
        (0..1_000).for_each(|_| budget.earn());
        assert_eq!((0..100).filter(|_| budget.spend()).count(), 10);
    }
}
