//! Counts that cannot leak: taking one gives a value, dropping the value gives it back.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::policy::client::ClientKey;
use crate::proto::refusal::Refusal;

/// So many at once and no more.
#[derive(Debug)]
pub struct Gauge {
    taken: AtomicUsize,
    max: usize,
}

/// One place of what is limited.
#[derive(Debug)]
pub struct Permit(Arc<Gauge>);

impl Gauge {
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Gauge { taken: AtomicUsize::new(0), max })
    }

    /// Takes a place; never one too many, however many try at once.
    pub fn enter(self: &Arc<Self>) -> Option<Permit> {
        self.taken
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |taken| (taken < self.max).then_some(taken + 1))
            .ok()
            .map(|_| Permit(self.clone()))
    }

    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

const SHARDS: usize = 16;

/// Sessions of each client. A client without sessions has no entry.
#[derive(Debug)]
pub struct Clients {
    max: Option<usize>,
    hasher: RandomState,
    shards: [Mutex<HashMap<ClientKey, usize>>; SHARDS],
}

/// One session of a client.
#[derive(Debug)]
pub struct ClientPermit {
    key: ClientKey,
    clients: Arc<Clients>,
}

impl Clients {
    /// `max`: sessions of one client; `None` is no limit, and nothing is counted then.
    pub fn new(max: Option<usize>) -> Arc<Self> {
        Arc::new(Clients { max, hasher: RandomState::new(), shards: Default::default() })
    }

    /// # Errors
    /// [`Refusal::SessionsClient`] when the client has as many sessions as it may.
    pub fn enter(self: &Arc<Self>, key: ClientKey) -> Result<Option<ClientPermit>, Refusal> {
        let Some(max) = self.max else { return Ok(None) };
        let mut shard = self.shard(key);
        let taken = shard.get(&key).copied().unwrap_or(0);
        if taken >= max {
            return Err(Refusal::SessionsClient);
        }
        shard.insert(key, taken + 1);
        Ok(Some(ClientPermit { key, clients: self.clone() }))
    }

    fn shard(&self, key: ClientKey) -> MutexGuard<'_, HashMap<ClientKey, usize>> {
        let shard = &self.shards[self.hasher.hash_one(key) as usize % SHARDS];
        // Each operation leaves the map whole, so a poisoned lock hides nothing.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ClientPermit {
    fn drop(&mut self) {
        let mut shard = self.clients.shard(self.key);
        match shard.get_mut(&self.key) {
            Some(taken) if *taken > 1 => *taken -= 1,
            _ => {
                shard.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn key(address: &str) -> ClientKey {
        ClientKey::from(address.parse::<IpAddr>().expect("an address"))
    }

    fn entries(clients: &Clients) -> usize {
        clients.shards.iter().map(|shard| shard.lock().expect("not poisoned").len()).sum()
    }

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
    fn clients_are_counted_apart_and_forgotten_at_zero() {
        let clients = Clients::new(Some(2));
        let first = clients.enter(key("192.0.2.1")).expect("below the cap");
        let second = clients.enter(key("192.0.2.1")).expect("at the cap");
        assert_eq!(clients.enter(key("192.0.2.1")).expect_err("over the cap"), Refusal::SessionsClient);
        let other = clients.enter(key("192.0.2.2")).expect("another client");
        drop((first, second, other));
        assert_eq!(entries(&clients), 0);
    }
}
