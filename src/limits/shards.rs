//! A map in shards: each has a lock of its own, held for one operation, and gives its memory back as it empties.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Enough that handshakes on all processors seldom meet, and that growing moves a small part of the entries at a time.
const SHARDS: usize = 64;
/// A crowded shard is searched for what may go at most so often: during an attack a search may find nothing.
const SEARCH: Duration = Duration::from_secs(1);
/// Below this many places a shard is left as it is.
const PLACES_MIN: usize = 16;

/// The places of each shard where `max` entries are to fit. An eighth more, for keys do not spread evenly.
pub const fn shard_max(max: usize) -> usize {
    max.div_ceil(SHARDS) * 9 / 8
}

#[derive(Debug)]
pub struct Shards<K, V> {
    // Not the hasher of the maps within: keys that share a shard would share their first bits there.
    hasher: RandomState,
    shards: [Mutex<Shard<K, V>>; SHARDS],
}

#[derive(Debug)]
pub struct Shard<K, V> {
    pub map: HashMap<K, V>,
    searched: Option<Instant>,
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        let shard = || Mutex::new(Shard { map: HashMap::new(), searched: None });
        Shards { hasher: RandomState::new(), shards: std::array::from_fn(|_| shard()) }
    }
}

impl<K: Eq + Hash, V> Shards<K, V> {
    /// The shard of a key. Keys are spread by a secret of this process: nobody can crowd one shard on purpose.
    pub fn of(&self, key: &K) -> MutexGuard<'_, Shard<K, V>> {
        lock(&self.shards[self.hasher.hash_one(key) as usize % SHARDS])
    }

    pub fn retain(&self, mut keep: impl FnMut(&mut V) -> bool) {
        for shard in &self.shards {
            lock(shard).retain(&mut keep);
        }
    }

    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).map.len()).sum()
    }
}

impl<K: Eq + Hash, V> Shard<K, V> {
    /// Whether one more entry has room beside at most `max - 1` others; looks for what may go where there is none.
    pub fn has_room(&mut self, max: usize, keep: impl FnMut(&mut V) -> bool) -> bool {
        if self.map.len() >= max && self.searched.is_none_or(|last| last.elapsed() >= SEARCH) {
            self.retain(keep);
            self.searched = Some(Instant::now());
        }
        self.map.len() < max
    }

    pub fn remove(&mut self, key: &K) {
        self.map.remove(key);
        self.shrink();
    }

    fn retain(&mut self, mut keep: impl FnMut(&mut V) -> bool) {
        self.map.retain(|_, value| keep(value));
        self.shrink();
    }

    /// A map keeps what it once needed; after an attack that is nearly all of it.
    fn shrink(&mut self) {
        let len = self.map.len();
        if self.map.capacity() > PLACES_MIN && len < self.map.capacity() / 4 {
            self.map.shrink_to(len * 2);
        }
    }
}

/// Each operation leaves a map whole, so a poisoned lock hides nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
impl<K: Eq + Hash, V> Shards<K, V> {
    /// Bytes that the maps take: a control byte for each bucket beside the entry (hashbrown).
    pub fn bytes(&self) -> usize {
        let buckets = |capacity: usize| if capacity == 0 { 0 } else { (capacity * 8 / 7).next_power_of_two() };
        let of = |shard: &Mutex<Shard<K, V>>| buckets(lock(shard).map.capacity()) * (size_of::<(K, V)>() + 1);
        self.shards.iter().map(of).sum()
    }
}
