//! Every living session: what is known of it, for those who look, and a way to end it, for those who may.
//!
//! In: sessions as they begin, and what they publish. Out: lists, sums, orders to end. A look goes shard by shard and holds
//! a lock only while it picks sessions, so that none waits for somebody who reads a long list.

mod living;
mod select;
mod ways;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::Waker;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::limits::held::{Held, Share};
use crate::observe::metrics::Metrics;
use ways::{Move, Ways};

pub use living::{About, Flow, Living, Order, PerSecond, Texts, Way};
pub use select::{Clients, NoClients, Page, Seen, Selected, Selector, SessionInfo};

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
    /// What those who come from now on are told at once: an [`Order`], packed. 0: nothing.
    closing: AtomicU64,
    shards: [Mutex<Shard>; SHARDS],
    /// Those that the configuration names, and those that sessions still go.
    ways: RwLock<Ways>,
    /// Where sessions tell what no sum over them shows. They live as long as this: as the process.
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Shard {
    living: HashMap<u64, Arc<Living>>,
    /// Of those that have ended, by the number of their way: under the same lock, so that a sum over both has each session
    /// once.
    ended: Vec<Total>,
}

/// What sessions have carried that went one way, ended ones and living ones together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Total {
    /// Sessions that live.
    pub open: usize,
    pub ended: u64,
    pub flow: Flow,
}

/// A session's own entry; dropping it takes the session off the list.
#[derive(Debug)]
pub struct Entry {
    living: Arc<Living>,
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
            closing: AtomicU64::new(0),
            shards: Default::default(),
            ways: RwLock::default(),
            metrics: Arc::default(),
        }
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
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
        for living in self.each() {
            let bytes = living.held.load(Ordering::Relaxed);
            if living.make_room.load(Ordering::Relaxed) {
                excess = excess.saturating_sub(bytes);
            } else if bytes > 0 {
                holders.push((living.since.load(Ordering::Relaxed), bytes, living));
            }
        }
        holders.sort_by_key(|(since, ..)| *since);
        for (_, bytes, living) in holders {
            if excess == 0 {
                break;
            }
            living.make_room.store(true, Ordering::Release);
            living.waker.wake();
            excess = excess.saturating_sub(bytes);
        }
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_millis() as u64
    }

    /// The way of a session through the gateway: always the same one for the same names.
    pub fn way(&self, listener: &str, route: &str, upstream: &str, server: &str) -> Arc<Way> {
        let names = [listener, upstream, server];
        let known = self.ways.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(way) = known.find(route, names) {
            return way.clone();
        }
        drop(known);
        self.ways.write().unwrap_or_else(PoisonError::into_inner).way(route, names)
    }

    /// Forgets the servers that the configuration does not name any more, once no session is with them: it would be more
    /// and more. What their sessions carried stays counted for the route.
    pub fn forget(&self, is_served: impl Fn(&str, &str) -> bool) {
        self.metrics.forget(&is_served);
        // Nobody takes up a way meanwhile, or looks at two totals of which one is moved.
        let mut ways = self.ways.write().unwrap_or_else(PoisonError::into_inner);
        for Move { from, to } in ways.forget(|way| !is_served(&way.upstream, &way.server)) {
            for shard in &self.shards {
                let mut shard = lock(shard);
                let Total { ended, flow, .. } = std::mem::take(at(&mut shard.ended, from));
                let rest = at(&mut shard.ended, to);
                rest.ended += ended;
                rest.flow.add(flow);
            }
        }
    }

    /// Puts a session on the list.
    pub fn enter(self: &Arc<Self>, about: About) -> Entry {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let living = Arc::new(Living::new(id, about, Instant::now()));
        self.shard(id).living.insert(id, living.clone());
        // Read after the insert: whoever orders all to end either finds this entry or is seen here.
        let closing = self.closing.load(Ordering::SeqCst);
        if closing != 0 {
            living.give(closing);
        }
        living.give_if_revoked();
        Entry { living, registry: self.clone(), share: self.held.share() }
    }

    /// Orders every session to end, those too that are just beginning; see [`Living::end`].
    pub fn end_all(&self, order: impl Into<Order>) {
        let order = order.into().pack();
        self.closing.store(order, Ordering::SeqCst);
        self.each().for_each(|living| _ = living.give(order));
    }

    /// Orders the sessions that `selector` selects to end, and says for how many this order counts.
    pub fn end_where(&self, selector: &Selector, order: impl Into<Order>) -> usize {
        let order = order.into();
        self.find(selector).iter().filter(|living| living.end(order)).count()
    }

    /// Ends those of these that still live, as they stand. Each leaves its record all the same. Returns how many there were.
    pub fn cut(&self, sessions: &[Arc<Living>]) -> usize {
        let living = sessions.iter().filter(|living| self.has(living.id));
        living.inspect(|living| living.cut()).count()
    }

    /// Orders the sessions to end whose grant was revoked.
    pub fn end_revoked(&self) {
        self.each().for_each(|living| living.give_if_revoked());
    }

    /// The sessions that `selector` selects, by their ids.
    pub fn find(&self, selector: &Selector) -> Vec<Arc<Living>> {
        let mut found = self.selected(selector, |_, living| living.clone());
        found.sort_unstable_by_key(|living| living.id);
        found
    }

    /// A page of the sessions that `selector` selects. Costs what there are sessions, but little for each.
    pub fn page(&self, selector: &Selector, page: Page) -> Selected {
        let mut ids = self.selected(selector, |id, _| id);
        let total = ids.len();
        ids.retain(|id| *id > page.after);
        let has_more = ids.len() > page.limit;
        if has_more {
            ids.select_nth_unstable(page.limit);
            ids.truncate(page.limit);
        }
        ids.sort_unstable();
        Selected { total, next: ids.last().copied().filter(|_| has_more), ids }
    }

    /// What `take` takes of each session that `selector` selects, in no order.
    fn selected<T>(&self, selector: &Selector, take: impl Fn(u64, &Arc<Living>) -> T) -> Vec<T> {
        let now = Instant::now();
        // All: a third of what a list costs would be to look at each.
        let all = *selector == Selector::default();
        let is_meant = |living: &Living| all || self.is_meant(living, selector, now);
        if let Some(id) = selector.id {
            let living = self.shard(id).living.get(&id).cloned();
            return living.filter(|living| is_meant(living)).map(|living| take(id, &living)).into_iter().collect();
        }
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = lock(shard);
            let meant = shard.living.iter().filter(|(_, living)| is_meant(living));
            found.extend(meant.map(|(id, living)| take(*id, living)));
        }
        found
    }

    fn is_meant(&self, living: &Living, selector: &Selector, now: Instant) -> bool {
        let age = now.saturating_duration_since(living.opened);
        let rate = if selector.is_about_rates() { living.rate(self.began, now) } else { PerSecond::default() };
        selector.matches(&Seen { id: living.id, about: &living.about, age, rate })
    }

    /// The sessions of a route, by their ids.
    pub fn sessions_of(&self, route: &str) -> Vec<Arc<Living>> {
        self.find(&Selector { route: Some(route.to_owned()), ..Selector::default() })
    }

    /// What is told of a session; `None` when it has ended.
    pub fn info(&self, id: u64) -> Option<SessionInfo> {
        let living = self.shard(id).living.get(&id).cloned()?;
        let now = Instant::now();
        let age = now.saturating_duration_since(living.opened);
        Some(SessionInfo {
            id: living.id,
            way: living.about.way.clone(),
            client: living.about.client,
            secure: living.about.secure,
            key: living.about.key.as_ref().map(|key| key.name.clone()),
            opened: SystemTime::now() - age,
            age,
            flow: living.flow(),
            rate: living.rate(self.began, now),
            held: living.held.load(Ordering::Relaxed),
            ordered: living.ordered().map(|order| order.cause),
        })
    }

    /// What has passed since the beginning, by the ways that sessions went. Never less than it was before.
    pub fn traffic(&self) -> Vec<(Arc<Way>, Total)> {
        // First, so that none is forgotten while it is added up.
        let ways = self.ways.read().unwrap_or_else(PoisonError::into_inner).all();
        let mut totals = Vec::new();
        let mut living = Vec::new();
        for shard in &self.shards {
            let shard = lock(shard);
            living.extend(shard.living.values().cloned());
            for (number, total) in shard.ended.iter().enumerate() {
                let sum = at(&mut totals, number);
                sum.ended += total.ended;
                sum.flow.add(total.flow);
            }
        }
        for living in &living {
            let sum = at(&mut totals, living.about.way.number);
            sum.open += 1;
            sum.flow.add(living.flow());
        }
        let total = |way: &Arc<Way>| totals.get(way.number).copied().unwrap_or_default();
        ways.into_iter().map(|way| (way.clone(), total(&way))).collect()
    }

    /// Whether it lives.
    pub fn has(&self, id: u64) -> bool {
        self.shard(id).living.contains_key(&id)
    }

    /// Lets the sessions of these routes look what they are held to now.
    pub fn renew(&self, is_meant: impl Fn(&str) -> bool) {
        for living in self.each().filter(|living| is_meant(&living.about.way.route)) {
            living.renew.store(true, Ordering::Release);
            living.waker.wake();
        }
    }

    /// From now on sessions may hold so many bytes together.
    pub fn set_held_bytes(&self, budget: usize) {
        self.held.set_budget(budget);
    }

    /// How many sessions live.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).living.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those that live as their shard is reached.
    pub fn each(&self) -> impl Iterator<Item = Arc<Living>> {
        self.shards.iter().flat_map(|shard| lock(shard).living.values().cloned().collect::<Vec<_>>())
    }

    fn shard(&self, id: u64) -> MutexGuard<'_, Shard> {
        lock(&self.shards[id as usize % SHARDS])
    }
}

/// A shard is whole after any panic: a session is put there, or taken off and added to what has ended.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The total of a way.
fn at(totals: &mut Vec<Total>, number: usize) -> &mut Total {
    if totals.len() <= number {
        totals.resize(number + 1, Total::default());
    }
    &mut totals[number]
}

impl Entry {
    /// What is known of this session.
    pub fn living(&self) -> &Living {
        &self.living
    }

    pub fn metrics(&self) -> &Metrics {
        &self.registry.metrics
    }

    /// Wakes `waker` once, when there is news for this session. To be called before it looks for the first time, and again
    /// whenever there was some.
    pub fn watch(&self, waker: &Waker) {
        self.living.waker.register(waker);
    }

    /// What this session was told by somebody else.
    pub fn ordered(&self) -> Option<Order> {
        self.living.ordered()
    }

    /// Tells what has passed so far, for others to see.
    pub fn publish(&self, flow: Flow, now: Instant) {
        self.living.publish(flow, self.registry.began, now);
    }

    /// Whether it was told something. Looked at with each message.
    #[inline]
    pub fn has_news(&self) -> bool {
        self.living.has_news()
    }

    /// Whether this session is to give up what it holds; asked for once.
    pub fn has_to_make_room(&self) -> bool {
        self.living.make_room.swap(false, Ordering::AcqRel)
    }

    /// Whether its route may hold this session to other terms now; asked for once.
    pub fn has_to_renew(&self) -> bool {
        self.living.renew.swap(false, Ordering::AcqRel)
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
            self.living.since.store(self.registry.millis(now), Ordering::Relaxed);
        }
        self.living.held.store(bytes, Ordering::Relaxed);
        let more = bytes > self.share.bytes();
        self.share.set(bytes);
        if more && self.registry.held.excess() > 0 {
            self.registry.relieve(now);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut shard = self.registry.shard(self.living.id);
        shard.living.remove(&self.living.id);
        let total = at(&mut shard.ended, self.living.about.way.number);
        total.ended += 1;
        total.flow.add(self.living.flow());
    }
}

#[cfg(test)]
pub(crate) mod tests;
