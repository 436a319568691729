//! How the gateway empties itself and stops: in phases that everybody can see, at a pace, within a deadline.
//!
//! ready → leaving (still serves, so that balancers can notice) → begun (no new sessions, those that live are asked to
//! leave one after the other) → shut (nothing is accepted). hyper's own graceful shutdown forgets upgraded connections, so
//! every connection and session runs in this tracker.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::seq::SliceRandom;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;

use crate::config::model::Drain as Rules;
use crate::relay::Cause;
use crate::relay::registry::{Living, Order, Registry, Selector};

/// A few sessions do not need the whole window.
const STEP_MAX: Duration = Duration::from_millis(100);
/// How often it is seen who has left.
const LOOK: Duration = Duration::from_millis(20);
/// How long those that were cut may take to write their records.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The stop of one gateway. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Drain {
    leaving: Arc<AtomicBool>,
    begun: CancellationToken,
    /// Somebody else takes the new connections. Cancelled with `begun`, or before.
    left: CancellationToken,
    shut: CancellationToken,
    tasks: TaskTracker,
    sessions: Arc<Registry>,
}

impl Drain {
    /// `held_bytes`: what all sessions together may hold.
    pub fn new(held_bytes: usize) -> Self {
        let begun = CancellationToken::default();
        Drain {
            leaving: Arc::default(),
            left: begun.child_token(),
            begun,
            shut: CancellationToken::default(),
            tasks: TaskTracker::default(),
            sessions: Arc::new(Registry::new(held_bytes)),
        }
    }

    /// Runs a connection or a session; [`Drain::stop`] waits for it.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// The living sessions.
    pub fn sessions(&self) -> &Arc<Registry> {
        &self.sessions
    }

    /// Whether new clients are welcome: what a readiness probe asks. They are served for a while after it is false.
    pub fn ready(&self) -> bool {
        !self.leaving.load(Ordering::Acquire)
    }

    /// From now on it is not ready.
    pub fn unready(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    /// Leaves new connections to those who share our listeners. What was accepted before is served as ever.
    pub fn leave(&self) {
        self.left.cancel();
    }

    /// Resolves when new connections are left to others, at the latest when new sessions are refused.
    pub fn left(&self) -> WaitForCancellationFuture<'_> {
        self.left.cancelled()
    }

    /// Resolves when new sessions are refused.
    pub fn begun(&self) -> WaitForCancellationFuture<'_> {
        self.begun.cancelled()
    }

    /// Cancelled when nothing is accepted any more, and by who has it: for a listener that can end before.
    pub fn part(&self) -> CancellationToken {
        self.shut.child_token()
    }

    /// Whether new sessions are refused.
    pub fn has_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Empties the gateway and waits until everything has ended, plain requests too; at most for the delay, the window and
    /// the grace together. Returns how many sessions had to be cut.
    pub async fn stop(&self, rules: &Rules) -> usize {
        self.dismiss(rules).await;
        self.shut.cancel();
        self.tasks.close();
        let over = async {
            self.tasks.wait().await;
            until(rules.grace, || self.sessions.is_empty()).await;
        };
        let _ = timeout(rules.grace, over).await;
        self.cut().await
    }

    /// Empties the gateway of its sessions, for good: not ready at once, no new sessions after the delay, and those that
    /// live are closed as by [`Drain::close`]. Its listeners go on to answer. Returns how many had to be cut.
    pub async fn empty(&self, rules: &Rules) -> usize {
        self.dismiss(rules).await;
        until(rules.grace, || self.sessions.is_empty()).await;
        self.cut().await
    }

    /// Closes the sessions that `selector` selects, each between two messages, at an even pace over the window. The clients
    /// get 1012 and may come back at once. Returns how many had to be cut.
    pub async fn close(&self, selector: &Selector, cause: Cause, rules: &Rules) -> usize {
        let mut left = self.sessions.find(selector);
        self.pace(left.clone(), cause, rules).await;
        let mut is_over = || {
            left.retain(|living| self.sessions.has(living.id));
            left.is_empty()
        };
        until(rules.grace, &mut is_over).await;
        let cut = self.sessions.cut(&left);
        until(LAST_WORDS, || !left.iter().any(|living| self.sessions.has(living.id))).await;
        cut
    }

    /// Up to the last order to leave. Who comes to it a second time need not wait again for balancers to notice.
    async fn dismiss(&self, rules: &Rules) {
        self.unready();
        if !self.has_begun() {
            sleep(rules.delay).await;
        }
        self.begun.cancel();
        let sessions = self.sessions.find(&Selector::default());
        tracing::info!(sessions = sessions.len(), window = rules.window.as_secs_f64(), "closing sessions");
        self.pace(sessions, Cause::Drain, rules).await;
        // Those whose handshakes were under way.
        self.sessions.end_all(order(Cause::Drain, rules));
    }

    /// Orders the sessions to end, in no order, one in each step of the window at a random point of it: as many in each
    /// moment, and none that knows when.
    async fn pace(&self, mut sessions: Vec<Arc<Living>>, cause: Cause, rules: &Rules) {
        sessions.shuffle(&mut rand::rng());
        let step = rules.window.checked_div(sessions.len() as u32).unwrap_or_default().min(STEP_MAX);
        let mut begin = Instant::now();
        for living in sessions {
            sleep_until(begin + step.mul_f64(rand::random())).await;
            living.end(order(cause, rules));
            if self.sessions.is_empty() {
                return;
            }
            begin += step;
        }
    }

    /// Cuts all that are left.
    async fn cut(&self) -> usize {
        let cut = self.sessions.cut(&self.sessions.find(&Selector::default()));
        until(LAST_WORDS, || self.sessions.is_empty()).await;
        cut
    }
}

/// What a session is told. The clients of a gateway that goes come back over as long a time as they left in.
fn order(cause: Cause, rules: &Rules) -> Order {
    let seconds = u16::try_from(rules.window.as_secs()).unwrap_or(u16::MAX);
    let retry_after = if cause == Cause::Drain { rand::random_range(1..=seconds.max(1)) } else { 0 };
    Order { retry_after, patience: rules.grace, ..cause.into() }
}

/// Waits for a condition, at most so long.
async fn until(time: Duration, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            sleep(LOOK).await;
        }
    };
    let _ = timeout(time, wait).await;
}
