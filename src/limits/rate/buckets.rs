//! Where governor keeps the buckets of clients: a bounded number, each for as long as it is not full.

use governor::nanos::Nanos;
use governor::state::keyed::ShrinkableKeyedStateStore;
use governor::state::{InMemoryState, NotKeyed, StateStore};

use crate::limits::shards::{Shards, shard_max};
use crate::policy::client::ClientKey;

/// For each client the time at which its bucket is full again, in nanoseconds since the limiter began.
#[derive(Debug)]
pub struct Buckets {
    full_at: Shards<ClientKey, u64>,
    shard_max: usize,
    /// What one cell costs, in nanoseconds.
    period: u64,
    /// The one bucket of all clients beyond the maximum.
    newcomers: InMemoryState,
}

impl Buckets {
    pub fn new(max: usize, period: Nanos) -> Self {
        Buckets {
            full_at: Shards::default(),
            shard_max: shard_max(max),
            period: period.into(),
            newcomers: InMemoryState::default(),
        }
    }

    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.full_at.bytes()
    }
}

impl StateStore for Buckets {
    type Key = ClientKey;

    fn measure_and_replace<T, F, E>(&self, key: &ClientKey, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut shard = self.full_at.of(key);
        if let Some(full_at) = shard.map.get_mut(key) {
            let (verdict, next) = measure(Some((*full_at).into()))?;
            *full_at = next.into();
            return Ok(verdict);
        }
        let (verdict, next) = measure(None)?;
        let next = u64::from(next);
        // A full bucket from which one cell was taken is full again after a period, so now is a period before that.
        let now = next.saturating_sub(self.period);
        if !shard.has_room(self.shard_max, |full_at| *full_at > now) {
            drop(shard);
            return self.newcomers.measure_and_replace(&NotKeyed::NonKey, measure);
        }
        shard.map.insert(*key, next);
        Ok(verdict)
    }
}

impl ShrinkableKeyedStateStore<ClientKey> for Buckets {
    fn retain_recent(&self, drop_below: Nanos) {
        // governor asks a period too early, as if a bucket could not be full before.
        let now = u64::from(drop_below).saturating_add(self.period);
        self.full_at.retain(|full_at| *full_at > now);
    }

    fn len(&self) -> usize {
        self.full_at.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
