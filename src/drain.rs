//! How the gateway stops: one signal that everybody can see, a tracker of what still runs, a deadline.
//!
//! hyper's own graceful shutdown forgets upgraded connections, so every connection and session runs in this tracker.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;

use crate::relay::Cause;
use crate::relay::registry::Registry;

/// The stop of one gateway. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Drain {
    token: CancellationToken,
    /// Somebody else takes the new connections. Cancelled with `token`, or before.
    left: CancellationToken,
    tasks: TaskTracker,
    sessions: Arc<Registry>,
}

impl Drain {
    /// `held_bytes`: what all sessions together may hold.
    pub fn new(held_bytes: usize) -> Self {
        let sessions = Arc::new(Registry::new(held_bytes));
        let token = CancellationToken::default();
        Drain { left: token.child_token(), token, tasks: TaskTracker::default(), sessions }
    }

    /// Runs a connection or a session; [`Drain::drain`] waits for it.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// The living sessions.
    pub fn sessions(&self) -> &Arc<Registry> {
        &self.sessions
    }

    /// Leaves new connections to those who share our listeners. What was accepted before is served as ever.
    pub fn leave(&self) {
        self.left.cancel();
    }

    /// Resolves when new connections are left to others, at the latest when the gateway begins to stop.
    pub fn left(&self) -> WaitForCancellationFuture<'_> {
        self.left.cancelled()
    }

    /// Resolves when the gateway begins to stop.
    pub fn begun(&self) -> WaitForCancellationFuture<'_> {
        self.token.cancelled()
    }

    /// Cancelled when the gateway begins to stop, and by who has it: for a part of the gateway that can end before.
    pub fn part(&self) -> CancellationToken {
        self.token.child_token()
    }

    /// Whether the gateway stops: nothing new is begun.
    pub fn has_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Ends every session with 1012 and waits for everything to end, at most for `grace`.
    /// Returns how many sessions were still open then.
    pub async fn drain(&self, grace: Duration) -> usize {
        self.token.cancel();
        self.tasks.close();
        self.sessions.end_all(Cause::Drain);
        let _ = tokio::time::timeout(grace, self.tasks.wait()).await;
        self.sessions.len()
    }
}
