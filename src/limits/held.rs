//! The bytes that sessions hold, over the whole gateway: refused by a slow peer, or waiting for a rate.
//!
//! Counted exactly, in shares that give themselves back. Who has to go when there are too many is decided in
//! [`crate::relay::registry`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The count and its budget.
#[derive(Debug)]
pub struct Held {
    bytes: AtomicUsize,
    budget: AtomicUsize,
}

/// What one session holds. Dropping it gives it back, after a panic too.
#[derive(Debug)]
pub struct Share {
    bytes: usize,
    held: Arc<Held>,
}

impl Held {
    pub fn new(budget: usize) -> Arc<Self> {
        Arc::new(Held { bytes: AtomicUsize::new(0), budget: AtomicUsize::new(budget) })
    }

    /// From now on so many bytes may be held.
    pub fn set_budget(&self, budget: usize) {
        self.budget.store(budget, Ordering::Relaxed);
    }

    /// An empty share.
    pub fn share(self: &Arc<Self>) -> Share {
        Share { bytes: 0, held: self.clone() }
    }

    /// Bytes held now.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How many bytes are held beyond the budget.
    pub fn excess(&self) -> usize {
        self.bytes().saturating_sub(self.budget.load(Ordering::Relaxed))
    }
}

impl Share {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn set(&mut self, bytes: usize) {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.held.bytes.fetch_add(more, Ordering::Relaxed),
            None => self.held.bytes.fetch_sub(self.bytes - bytes, Ordering::Relaxed),
        };
        self.bytes = bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn shares_add_up_and_give_themselves_back_after_a_panic() {
        let held = Held::new(100);
        let mut first = held.share();
        first.set(70);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let mut second = held.share();
            second.set(50);
            second.set(40);
            assert_eq!((held.bytes(), held.excess()), (110, 10));
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        assert_eq!((held.bytes(), held.excess()), (70, 0));
        drop(first);
        assert_eq!(held.bytes(), 0);
    }
}
