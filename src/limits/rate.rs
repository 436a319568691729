//! Rates of opening handshakes (governor, GCRA): of each client, and of all together.

mod buckets;

use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::config::model::Rate;
use crate::policy::client::ClientKey;
use buckets::Buckets;

/// A rate for each client.
#[derive(Debug)]
pub struct PerClient<C: Clock = DefaultClock> {
    limiter: RateLimiter<ClientKey, Buckets, C, NoOpMiddleware<C::Instant>>,
}

impl PerClient {
    /// `clients_max`: clients with a bucket of their own. Known ones keep theirs; newcomers beyond it share one.
    pub fn new(rate: Rate, clients_max: usize) -> Self {
        Self::with_clock(rate, clients_max, DefaultClock::default())
    }
}

impl<C: Clock> PerClient<C> {
    fn with_clock(rate: Rate, clients_max: usize, clock: C) -> Self {
        let quota = quota(rate);
        let buckets = Buckets::new(clients_max, Nanos::from(quota.replenish_interval()));
        PerClient { limiter: RateLimiter::new(quota, buckets, clock) }
    }

    /// # Errors
    /// The time after which the next one may pass.
    pub fn check(&self, client: ClientKey) -> Result<(), Duration> {
        let now = || self.limiter.clock().now();
        self.limiter.check_key(&client).map_err(|until| until.wait_time_from(now()))
    }

    /// Forgets those whose bucket is full again, and gives their memory back.
    pub fn sweep(&self) {
        self.limiter.retain_recent();
    }

    /// Clients that are remembered.
    pub fn clients(&self) -> usize {
        self.limiter.len()
    }
}

/// One rate for all.
#[derive(Debug)]
pub struct Overall(DefaultDirectRateLimiter);

impl Overall {
    pub fn new(rate: Rate) -> Self {
        Overall(RateLimiter::direct(quota(rate)))
    }

    /// # Errors
    /// The time after which the next one may pass.
    pub fn check(&self) -> Result<(), Duration> {
        self.0.check().map_err(|until| until.wait_time_from(self.0.clock().now()))
    }
}

fn quota(rate: Rate) -> Quota {
    let period = rate.per / rate.count.get();
    // A period of zero would be no limit at all; `check` refuses rates that fine.
    Quota::with_period(period).unwrap_or_else(|| Quota::per_second(rate.count)).allow_burst(rate.count)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::num::NonZeroU32;

    use governor::clock::FakeRelativeClock;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn rate(count: u32, per: Duration) -> Rate {
        Rate { count: NonZeroU32::new(count).expect("not zero"), per }
    }

    fn key(number: u32) -> ClientKey {
        ClientKey::from(IpAddr::V4(Ipv4Addr::from(number)))
    }

    fn limiter(rate: Rate, clients_max: usize) -> (PerClient<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (PerClient::with_clock(rate, clients_max, clock.clone()), clock)
    }

    #[test]
    fn a_burst_passes_and_the_next_waits_for_its_turn() {
        let (handshakes, clock) = limiter(rate(5, HOUR), 100);
        for _ in 0..5 {
            assert_eq!(handshakes.check(key(1)), Ok(()));
        }
        assert_eq!(handshakes.check(key(1)), Err(HOUR / 5));
        assert_eq!(handshakes.check(key(2)), Ok(()), "another client");
        clock.advance(HOUR / 5);
        assert_eq!(handshakes.check(key(1)), Ok(()));
        assert_eq!(handshakes.check(key(1)), Err(HOUR / 5));
    }

    #[test]
    fn a_client_is_forgotten_when_its_bucket_is_full_and_not_before() {
        let (handshakes, clock) = limiter(rate(10, Duration::from_secs(10)), 100);
        for _ in 0..4 {
            assert_eq!(handshakes.check(key(1)), Ok(()));
        }
        clock.advance(Duration::from_millis(3_999));
        handshakes.sweep();
        assert_eq!(handshakes.clients(), 1);
        clock.advance(Duration::from_millis(1));
        handshakes.sweep();
        assert_eq!(handshakes.clients(), 0);
    }

    #[test]
    fn beyond_the_maximum_newcomers_share_one_bucket_and_the_known_keep_theirs() {
        let (handshakes, _clock) = limiter(rate(5, HOUR), 6_400);
        for number in 0..20_000 {
            let _ = handshakes.check(key(number));
        }
        assert!((6_400..=7_200).contains(&handshakes.clients()));
        let refused: Vec<_> = (20_000..30_000).filter(|number| handshakes.check(key(*number)).is_err()).collect();
        assert_eq!(refused.len(), 10_000, "the bucket of the newcomers is spent");
        for _ in 0..4 {
            assert_eq!(handshakes.check(key(1)), Ok(()), "a known client has what is left of its own");
        }
        assert!(handshakes.check(key(1)).is_err());
    }

    #[test]
    fn where_full_buckets_take_all_the_room_they_go() {
        let (handshakes, clock) = limiter(rate(1, Duration::from_secs(1)), 640);
        for round in 0..3 {
            let _ = (0..2_000).map(|number| handshakes.check(key(number))).filter(Result::is_ok).count();
            assert!(handshakes.clients() <= 720, "round {round}");
        }
        clock.advance(Duration::from_secs(1));
        assert_eq!(handshakes.check(key(9_999)), Ok(()));
    }

    #[test]
    fn two_hundred_thousand_clients_cost_little_and_leave_nothing() {
        let (handshakes, clock) = limiter(rate(100, Duration::from_secs(1)), 200_000);
        for number in 0..200_000 {
            assert_eq!(handshakes.check(key(number)), Ok(()));
        }
        let bytes = |handshakes: PerClient<FakeRelativeClock>| handshakes.limiter.into_state_store().bytes();
        clock.advance(Duration::from_secs(1));
        handshakes.sweep();
        assert_eq!((handshakes.clients(), bytes(handshakes)), (0, 0));
        let (handshakes, _clock) = limiter(rate(100, Duration::from_secs(1)), 200_000);
        for number in 0..200_000 {
            assert_eq!(handshakes.check(key(number)), Ok(()));
        }
        let each = bytes(handshakes) as f64 / 200_000.0;
        assert!(each <= 64.0, "{each} bytes for each client");
    }
}
