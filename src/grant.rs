//! What let a session in: an API key today. It can be taken back while the session lives.

use std::sync::atomic::{AtomicBool, Ordering};

/// Held by the key and by every session that it let in.
#[derive(Debug, Default)]
pub struct Grant(AtomicBool);

impl Grant {
    /// For good. [`crate::relay::registry::Registry::end_revoked`] tells the sessions.
    pub fn revoke(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub fn is_revoked(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
