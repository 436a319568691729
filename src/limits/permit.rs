//! Counts that cannot leak: taking one gives a value, dropping the value gives it back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// So many at once and no more.
#[derive(Debug)]
pub struct Gauge {
    /// Shared with those that [`Gauge::renew`] made.
    taken: Arc<AtomicUsize>,
    max: usize,
}

/// One place of what is limited. It outlives the gauge that gave it.
#[derive(Debug)]
pub struct Permit(Arc<AtomicUsize>);

impl Gauge {
    /// `None` is no limit; it is counted all the same.
    pub fn new(max: impl Into<Option<usize>>) -> Arc<Self> {
        Arc::new(Gauge { taken: Arc::default(), max: max.into().unwrap_or(usize::MAX) })
    }

    /// The same places under another maximum. What is taken stays taken, also where that is more now.
    pub fn renew(&self, max: impl Into<Option<usize>>) -> Arc<Self> {
        Arc::new(Gauge { taken: self.taken.clone(), max: max.into().unwrap_or(usize::MAX) })
    }

    /// Takes a place; never one too many, however many try at once.
    pub fn enter(&self) -> Option<Permit> {
        self.enter_below(self.max)
    }

    /// [`enter`](Self::enter), with another limit than its own.
    pub fn enter_below(&self, max: usize) -> Option<Permit> {
        self.taken
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |taken| (taken < max).then_some(taken + 1))
            .ok()
            .map(|_| Permit(self.taken.clone()))
    }

    /// Whether there is a place at this moment. To hold it, [`enter`](Self::enter).
    pub fn has_room(&self) -> bool {
        self.taken() < self.max
    }

    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn never_one_over_the_cap_in_a_storm() {
        let gauge = Gauge::new(10);
        let most = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let permit = gauge.enter();
                        most.fetch_max(gauge.taken(), Ordering::Relaxed);
                        drop(permit);
                    }
                });
            }
        });
        assert!(most.into_inner() <= 10);
        assert_eq!(gauge.taken(), 0);
    }

    #[test]
    fn a_panic_gives_its_permit_back() {
        let gauge = Gauge::new(1);
        let held = gauge.clone();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _permit = held.enter();
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        assert!(gauge.enter().is_some());
    }

    #[test]
    fn another_maximum_counts_what_was_taken_before() {
        let before = Gauge::new(3);
        let mut held: Vec<_> = (0..3).map(|_| before.enter().expect("below")).collect();
        let after = before.renew(2);
        drop(before);
        assert!(after.enter().is_none());
        held.truncate(2);
        assert!(after.enter().is_none(), "two are left");
        held.truncate(1);
        held.push(after.enter().expect("one place is free"));
        assert_eq!(after.taken(), 2);
        drop(held);
        assert_eq!(after.taken(), 0);
    }

    #[test]
    fn without_a_limit_it_counts_all_the_same() {
        let gauge = Gauge::new(None);
        let permits: Vec<_> = (0..100).map(|_| gauge.enter().expect("no limit")).collect();
        assert_eq!(gauge.taken(), 100);
        drop(permits);
        assert_eq!(gauge.taken(), 0);
    }
}
