//! Every living session, so that somebody else can end it: the drain, or whoever takes back what let it in.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use atomic_waker::AtomicWaker;
use tokio::time::Instant;

use super::end::Cause;
use crate::grant::Grant;
use crate::limits::held::{Held, Share};

/// Locks are spread over this many shards; a session takes one at its beginning and one at its end.
const SHARDS: usize = 16;

/// How often sessions are looked for that have to go because too many bytes are held: those that were told to last time
/// need a moment for it.
const RELIEF: Duration = Duration::from_millis(100);

/// The living sessions of a gateway.
#[derive(Debug)]
pub struct Registry {
    began: Instant,
    held: Arc<Held>,
    /// Before that nobody is looked for; in milliseconds from `began`.
    next_relief: AtomicU64,
    next: AtomicU64,
    /// What those who come from now on are told at once. 0: nothing.
    closing: AtomicU8,
    shards: [Mutex<HashMap<u64, Arc<Order>>>; SHARDS],
}

/// An order to end, left by another task (0: none), and what the session holds, for other tasks to see.
#[derive(Debug, Default)]
struct Order {
    cause: AtomicU8,
    waker: AtomicWaker,
    /// What let the session in, where that can be taken back.
    grant: Option<Arc<Grant>>,
    /// It has held bytes for longest, and is to give them up.
    make_room: AtomicBool,
    /// Its route may hold it to other terms now.
    renew: AtomicBool,
    bytes: AtomicUsize,
    /// Since when it has held some, in milliseconds from the beginning of the registry.
    since: AtomicU64,
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
    share: Share,
}

impl Default for Registry {
    fn default() -> Self {
        Registry::new(usize::MAX)
    }
}

impl Registry {
    /// `held_bytes`: what all sessions together may hold.
    pub fn new(held_bytes: usize) -> Self {
        Registry {
            began: Instant::now(),
            held: Held::new(held_bytes),
            next_relief: AtomicU64::new(0),
            next: AtomicU64::new(0),
            closing: AtomicU8::new(0),
            shards: Default::default(),
        }
    }

    /// Bytes that sessions hold: refused by a peer, or waiting for a rate.
    pub fn held_bytes(&self) -> usize {
        self.held.bytes()
    }

    /// Whether a new session may come: no more bytes are held than may be. Where there are too many, makes room.
    pub fn has_room(&self) -> bool {
        let has_room = self.held.excess() == 0;
        if !has_room {
            self.relieve(Instant::now());
        }
        has_room
    }

    /// Tells those sessions to end that have held bytes for longest, until what is left is within the budget.
    fn relieve(&self, now: Instant) {
        let now = self.millis(now);
        let due = |next: u64| (next <= now).then(|| now + RELIEF.as_millis() as u64);
        if self.next_relief.fetch_update(Ordering::AcqRel, Ordering::Relaxed, due).is_err() {
            return;
        }
        let mut excess = self.held.excess();
        let mut holders = Vec::new();
        for shard in &self.shards {
            for order in lock(shard).values() {
                let bytes = order.bytes.load(Ordering::Relaxed);
                if order.make_room.load(Ordering::Relaxed) {
                    excess = excess.saturating_sub(bytes);
                } else if bytes > 0 {
                    holders.push((order.since.load(Ordering::Relaxed), bytes, order.clone()));
                }
            }
        }
        holders.sort_by_key(|(since, ..)| *since);
        for (_, bytes, order) in holders {
            if excess == 0 {
                break;
            }
            order.make_room.store(true, Ordering::Release);
            order.waker.wake();
            excess = excess.saturating_sub(bytes);
        }
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_millis() as u64
    }

    /// Puts a session on the list. It ends when its grant is revoked.
    pub fn enter(self: &Arc<Self>, grant: Option<Arc<Grant>>) -> Entry {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let order = Arc::new(Order { grant, ..Order::default() });
        self.shard(id).insert(id, order.clone());
        // Read after the insert: whoever orders all to end either finds this entry or is seen here.
        order.give(self.closing.load(Ordering::SeqCst));
        order.give_if_revoked();
        Entry { id, order, registry: self.clone(), share: self.held.share() }
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

    /// Lets every session look what its route holds it to now.
    pub fn renew_all(&self) {
        for shard in &self.shards {
            for order in lock(shard).values() {
                order.renew.store(true, Ordering::Release);
                order.waker.wake();
            }
        }
    }

    /// From now on sessions may hold so many bytes together.
    pub fn set_held_bytes(&self, budget: usize) {
        self.held.set_budget(budget);
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

    /// Whether this session is to give up what it holds; asked for once.
    pub fn has_to_make_room(&self) -> bool {
        let asked = &self.order.make_room;
        // Read first: it is looked at with each message.
        asked.load(Ordering::Relaxed) && asked.swap(false, Ordering::Acquire)
    }

    /// Whether its route may hold this session to other terms now; asked for once.
    pub fn has_to_renew(&self) -> bool {
        let asked = &self.order.renew;
        asked.load(Ordering::Relaxed) && asked.swap(false, Ordering::Acquire)
    }

    /// Whether it was last told to hold no bytes.
    pub fn holds_nothing(&self) -> bool {
        self.share.bytes() == 0
    }

    /// Tells how many bytes this session holds now.
    #[inline]
    pub fn hold(&mut self, bytes: usize, now: Instant) {
        if bytes != self.share.bytes() {
            self.change(bytes, now);
        }
    }

    fn change(&mut self, bytes: usize, now: Instant) {
        if self.share.bytes() == 0 {
            self.order.since.store(self.registry.millis(now), Ordering::Relaxed);
        }
        self.order.bytes.store(bytes, Ordering::Relaxed);
        let more = bytes > self.share.bytes();
        self.share.set(bytes);
        if more && self.registry.held.excess() > 0 {
            self.registry.relieve(now);
        }
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
    fn who_has_held_bytes_for_longest_goes_first() {
        let registry = Arc::new(Registry::new(100));
        let begin = registry.began;
        let at = |millis| begin + Duration::from_millis(millis);
        let [mut oldest, mut idle, mut second, mut youngest] = std::array::from_fn(|_| registry.enter(None));
        idle.hold(0, at(0));
        oldest.hold(40, at(1));
        youngest.hold(1, at(2));
        youngest.hold(0, at(3));
        second.hold(50, at(4));
        assert!(registry.has_room());
        youngest.hold(60, at(5));
        assert!(!registry.has_room());
        let told = [&oldest, &idle, &second, &youngest].map(|entry| entry.has_to_make_room());
        assert_eq!(told, [true, false, true, false], "without the oldest it would still be too much");
        youngest.hold(101, at(6));
        assert!(!youngest.has_to_make_room(), "those that were told have a moment");
        drop((oldest, second));
        assert_eq!(registry.held_bytes(), 101);
        youngest.hold(102, at(200));
        assert!(youngest.has_to_make_room() && !youngest.has_to_make_room());
        drop(youngest);
        assert_eq!((registry.held_bytes(), registry.has_room()), (0, true));
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
