//! Clients told apart: how many sessions each has open, and what all sessions of one client share.
//!
//! Counts are exact and last as long as a session; shared entries stay until their buckets are full again, in a bounded
//! number (docs/decisions/0016-counting-clients.md).

use std::sync::Arc;

use tokio::time::Instant;

use super::shards::{Shards, shard_max};
use super::throttle::Purses;
use crate::policy::client::ClientKey;

/// Sessions of each client. A client without sessions has no entry, so open sessions bound their number.
#[derive(Debug)]
pub struct Counts {
    max: u32,
    /// Shared with those that [`Counts::renew`] made.
    sessions: Arc<Shards<ClientKey, u32>>,
}

/// One session of a client.
#[derive(Debug)]
pub struct ClientPermit {
    key: ClientKey,
    sessions: Arc<Shards<ClientKey, u32>>,
}

impl Counts {
    /// `max`: sessions of one client.
    pub fn new(max: usize) -> Self {
        Counts { max: u32::try_from(max).unwrap_or(u32::MAX), sessions: Arc::default() }
    }

    /// The same sessions under another maximum.
    pub fn renew(&self, max: usize) -> Self {
        Counts { sessions: self.sessions.clone(), ..Counts::new(max) }
    }

    /// `None` when the client has as many sessions as it may.
    pub fn enter(&self, key: ClientKey) -> Option<ClientPermit> {
        let mut shard = self.sessions.of(&key);
        let taken = shard.map.get(&key).copied().unwrap_or(0);
        if taken >= self.max {
            return None;
        }
        shard.map.insert(key, taken + 1);
        drop(shard);
        Some(ClientPermit { key, sessions: self.sessions.clone() })
    }

    /// Clients with a session.
    pub fn clients(&self) -> usize {
        self.sessions.len()
    }
}

impl Drop for ClientPermit {
    fn drop(&mut self) {
        let mut shard = self.sessions.of(&self.key);
        match shard.map.get_mut(&self.key) {
            Some(taken) if *taken > 1 => *taken -= 1,
            _ => shard.remove(&self.key),
        }
    }
}

/// What the sessions of one client share.
pub trait Shared: Default {
    /// Nothing would be lost if it were made anew: its buckets are full.
    fn is_fresh(&self, now: Instant) -> bool;
}

impl Shared for Purses {
    fn is_fresh(&self, now: Instant) -> bool {
        self.is_full(now)
    }
}

/// An entry for each client of a route. It stays while a session holds it, and until it is fresh again: whoever comes
/// back has not gained a new one.
#[derive(Debug)]
pub struct Table<E> {
    /// Shared with those that [`Table::renew`] made.
    entries: Arc<Shards<ClientKey, Arc<E>>>,
    shard_max: usize,
    /// What clients beyond the maximum share.
    newcomers: Arc<E>,
}

impl<E: Shared> Table<E> {
    /// `max`: entries. Above the sessions that may be open by as many clients as are to be remembered after they left.
    pub fn new(max: usize) -> Self {
        Table { entries: Arc::default(), shard_max: shard_max(max), newcomers: Arc::default() }
    }

    /// The same entries under another maximum.
    pub fn renew(&self, max: usize) -> Self {
        Table { entries: self.entries.clone(), shard_max: shard_max(max), newcomers: self.newcomers.clone() }
    }

    /// The entry of a client; where all places are taken, a newcomer gets the one of all newcomers.
    pub fn entry(&self, key: ClientKey) -> Arc<E> {
        let mut shard = self.entries.of(&key);
        if let Some(entry) = shard.map.get(&key) {
            return entry.clone();
        }
        let now = Instant::now();
        if !shard.has_room(self.shard_max, |entry| is_kept(entry, now)) {
            return self.newcomers.clone();
        }
        shard.map.entry(key).or_default().clone()
    }

    /// Forgets clients without sessions whose entry is fresh again.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.entries.retain(|entry| is_kept(entry, now));
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

/// Under the lock of its shard: nobody else can take an entry that only the table holds.
fn is_kept<E: Shared>(entry: &mut Arc<E>, now: Instant) -> bool {
    Arc::strong_count(entry) > 1 || !entry.is_fresh(now)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    fn key(number: u32) -> ClientKey {
        ClientKey::from(IpAddr::V4(Ipv4Addr::from(number)))
    }

    #[test]
    fn clients_are_counted_apart_and_forgotten_at_zero() {
        let counts = Counts::new(2);
        let first = counts.enter(key(1)).expect("below the cap");
        let second = counts.enter(key(1)).expect("at the cap");
        assert!(counts.enter(key(1)).is_none(), "over the cap");
        let other = counts.enter(key(2)).expect("another client");
        drop((first, second, other));
        assert_eq!(counts.clients(), 0);
    }

    #[test]
    fn never_one_session_over_the_cap_in_a_storm() {
        let counts = Counts::new(3);
        let open = [const { AtomicUsize::new(0) }; 4];
        let most = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..8_u32 {
                let (counts, open, most) = (&counts, &open, &most);
                scope.spawn(move || {
                    for turn in 0..4_000 {
                        let client = (thread + turn) % 4;
                        let Some(permit) = counts.enter(key(client)) else { continue };
                        let now = open[client as usize].fetch_add(1, Ordering::SeqCst) + 1;
                        most.fetch_max(now, Ordering::SeqCst);
                        std::thread::yield_now();
                        open[client as usize].fetch_sub(1, Ordering::SeqCst);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(most.into_inner(), 3);
        assert_eq!(counts.clients(), 0);
    }

    #[test]
    fn sessions_of_many_clients_leave_no_memory() {
        let counts = Counts::new(1);
        let permits: Vec<_> = (0..100_000).map(|number| counts.enter(key(number)).expect("below the cap")).collect();
        let each = counts.sessions.bytes() / permits.len();
        assert!(each <= 48, "{each} bytes for each client");
        drop(permits);
        let left = counts.sessions.bytes();
        assert!(left <= 64 * 1024, "{left} bytes are left");
    }

    /// Stands for buckets: spent by hand.
    #[derive(Debug, Default)]
    struct Spent(AtomicBool);

    impl Shared for Spent {
        fn is_fresh(&self, _now: Instant) -> bool {
            !self.0.load(Ordering::SeqCst)
        }
    }

    fn spend(entry: &Spent) {
        entry.0.store(true, Ordering::SeqCst);
    }

    #[test]
    fn an_entry_stays_while_a_session_holds_it_and_until_it_is_fresh() {
        let table = Table::<Spent>::new(1000);
        let first = table.entry(key(1));
        let second = table.entry(key(1));
        assert!(Arc::ptr_eq(&first, &second), "one client, one entry");
        drop(second);
        table.sweep();
        assert_eq!(table.len(), 1, "a session holds it");
        spend(&first);
        drop(first);
        table.sweep();
        assert_eq!(table.len(), 1, "whoever comes back has spent already");
        let again = table.entry(key(1));
        assert!(again.0.swap(false, Ordering::SeqCst));
        drop(again);
        table.sweep();
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn beyond_the_maximum_newcomers_share_and_the_known_keep_their_own() {
        let table = Table::<Spent>::new(6_400);
        let most = 6_400 * 9 / 8;
        let entries: Vec<_> = (0..100_000).map(|number| table.entry(key(number))).collect();
        assert!(table.len() > 6_400 && table.len() <= most, "{}", table.len());
        let shared = |entry: &Arc<Spent>| Arc::ptr_eq(entry, &table.newcomers);
        assert_eq!(entries.iter().filter(|entry| !shared(entry)).count(), table.len());
        let (number, own) = entries.iter().enumerate().find(|(_, entry)| !shared(entry)).expect("one of the first");
        assert!(Arc::ptr_eq(own, &table.entry(key(number as u32))), "a known client keeps its own");
        drop(entries);
        table.sweep();
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn a_crowded_table_makes_room_by_itself() {
        let table = Table::<Spent>::new(640);
        let newcomers = (0..1_500).filter(|number| Arc::ptr_eq(&table.entry(key(*number)), &table.newcomers)).count();
        // Nobody holds the first ones any more: each shard throws them out once before it turns somebody away.
        assert!(newcomers < 1_500 - table.len(), "{newcomers} beside {}", table.len());
        assert!(table.len() <= 640 * 9 / 8);
    }
}
