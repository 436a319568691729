//! Every living session, so that somebody else can end it: the drain, or whoever takes back what let it in.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use atomic_waker::AtomicWaker;

use super::end::Cause;
use crate::grant::Grant;

/// Locks are spread over this many shards; a session takes one at its beginning and one at its end.
const SHARDS: usize = 16;

/// The living sessions of a gateway.
#[derive(Debug, Default)]
pub struct Registry {
    next: AtomicU64,
    /// What those who come from now on are told at once. 0: nothing.
    closing: AtomicU8,
    shards: [Mutex<HashMap<u64, Arc<Order>>>; SHARDS],
}

/// An order to end, left by another task. 0: none.
#[derive(Debug, Default)]
struct Order {
    cause: AtomicU8,
    waker: AtomicWaker,
    /// What let the session in, where that can be taken back.
    grant: Option<Arc<Grant>>,
}

impl Order {
    fn give(&self, cause: u8) {
        let _ = self.cause.compare_exchange(0, cause, Ordering::AcqRel, Ordering::Relaxed);
        self.waker.wake();
    }

    fn give_if_revoked(&self) {
        if self.grant.as_ref().is_some_and(|grant| grant.is_revoked()) {
            self.give(Cause::AccessRevoked as u8);
        }
    }
}

/// A session's own entry; dropping it takes the session off the list.
#[derive(Debug)]
pub struct Entry {
    id: u64,
    order: Arc<Order>,
    registry: Arc<Registry>,
}

impl Registry {
    /// Puts a session on the list. It ends when its grant is revoked.
    pub fn enter(self: &Arc<Self>, grant: Option<Arc<Grant>>) -> Entry {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let order = Arc::new(Order { grant, ..Order::default() });
        self.shard(id).insert(id, order.clone());
        // Read after the insert: whoever orders all to end either finds this entry or is seen here.
        order.give(self.closing.load(Ordering::SeqCst));
        order.give_if_revoked();
        Entry { id, order, registry: self.clone() }
    }

    /// Orders every session to end for `cause`, those too that are just beginning. The first order counts.
    pub fn end_all(&self, cause: Cause) {
        self.closing.store(cause as u8, Ordering::SeqCst);
        for shard in &self.shards {
            for order in lock(shard).values() {
                order.give(cause as u8);
            }
        }
    }

    /// Orders the sessions to end whose grant was revoked.
    pub fn end_revoked(&self) {
        for shard in &self.shards {
            lock(shard).values().for_each(|order| order.give_if_revoked());
        }
    }

    /// How many sessions live.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, id: u64) -> MutexGuard<'_, HashMap<u64, Arc<Order>>> {
        lock(&self.shards[id as usize % SHARDS])
    }
}

/// A map of entries is whole after any panic: each operation is one insert or remove.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Entry {
    /// The number of this session, unique in this process, from 1 on.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Wakes `waker` when this session is told to end. To be called before the first [`Entry::ordered`].
    pub fn watch(&self, waker: &Waker) {
        self.order.waker.register(waker);
    }

    /// The cause for which this session was told to end.
    pub fn ordered(&self) -> Option<Cause> {
        Cause::from_number(self.order.cause.load(Ordering::Acquire))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.registry.shard(self.id).remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_reaches_living_sessions_and_the_first_counts() {
        let registry = Arc::new(Registry::default());
        let session = registry.enter(None);
        assert_eq!(session.ordered(), None);
        registry.end_all(Cause::Drain);
        registry.end_all(Cause::RouteRemoved);
        assert_eq!(session.ordered(), Some(Cause::Drain));
    }

    #[test]
    fn a_session_that_begins_during_a_drain_is_told_too() {
        let registry = Arc::new(Registry::default());
        registry.end_all(Cause::Drain);
        assert_eq!(registry.enter(None).ordered(), Some(Cause::Drain));
    }

    #[test]
    fn a_revoked_grant_ends_its_sessions_and_no_other() {
        let registry = Arc::new(Registry::default());
        let [good, bad] = [0, 1].map(|_| Arc::new(Grant::default()));
        let sessions = [Some(good), Some(bad.clone()), None, Some(bad.clone())].map(|grant| registry.enter(grant));
        registry.end_revoked();
        assert!(sessions.iter().all(|session| session.ordered().is_none()));
        bad.revoke();
        registry.end_revoked();
        let revoked = Some(Cause::AccessRevoked);
        assert_eq!(sessions.each_ref().map(|session| session.ordered()), [None, revoked, None, revoked]);
    }

    #[test]
    fn a_session_whose_grant_was_revoked_while_it_began_is_told_too() {
        let registry = Arc::new(Registry::default());
        let grant = Arc::new(Grant::default());
        grant.revoke();
        registry.end_revoked();
        assert_eq!(registry.enter(Some(grant)).ordered(), Some(Cause::AccessRevoked));
    }

    #[test]
    fn a_dropped_session_is_off_the_list() {
        let registry = Arc::new(Registry::default());
        let sessions: Vec<_> = (0..100).map(|_| registry.enter(None)).collect();
        assert_eq!(registry.len(), 100);
        drop(sessions);
        assert!(registry.is_empty());
    }
}
