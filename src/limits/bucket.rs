//! A rate as one number: the generic cell rate algorithm (GCRA) on a theoretical arrival time.
//!
//! Taking reserves: time is advanced in any case, and the taker learns when its turn is. So each waits once, in the order
//! of asking, and what is larger than the bucket passes too (docs/decisions/0015-rates-that-wait.md).

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::model::{ByteRate, Rate};

/// Ticks of a nanosecond. Fine enough for gigabytes in a second, coarse enough for 36 years in a `u64`.
const TICKS: u64 = 16;
/// Binary places of a unit's cost, so that what many units cost is right to a tick.
const PLACES: u32 = 16;

/// A little back, so that a time that was taken just before the first use does not lie before it.
static EPOCH: LazyLock<Instant> = LazyLock::new(|| {
    let now = Instant::now();
    now.checked_sub(Duration::from_secs(60)).unwrap_or(now)
});

/// A rate, as buckets count it. Its burst is the count of the rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// What one unit costs, in 2^-[`PLACES`] ticks, rounded up.
    unit: u64,
    /// The same in ticks.
    one: u64,
    /// What a full bucket pays for, in ticks.
    capacity: u64,
    /// Units in a full bucket.
    burst: u64,
}

impl From<Rate> for Pace {
    fn from(rate: Rate) -> Self {
        Pace::new(rate.count.get().into(), rate.per)
    }
}

impl From<ByteRate> for Pace {
    fn from(rate: ByteRate) -> Self {
        Pace::new(rate.bytes.get(), rate.per)
    }
}

impl Pace {
    fn new(burst: u64, per: Duration) -> Self {
        let period = (per.as_nanos() * u128::from(TICKS)) << PLACES;
        let unit = u64::try_from(period.div_ceil(burst.into())).unwrap_or(u64::MAX);
        Pace { unit, one: cost(unit, 1), capacity: cost(unit, burst), burst }
    }

    /// How many units pass at once at most.
    pub fn burst(&self) -> u64 {
        self.burst
    }
}

/// Rounded down, so that a whole burst passes at once in whatever pieces: at most a tick too little each time.
fn cost(unit: u64, n: u64) -> u64 {
    u64::try_from((u128::from(n) * u128::from(unit)) >> PLACES).unwrap_or(u64::MAX)
}

/// One bucket of eight bytes, shared without a lock. All zero is a full one.
///
/// It holds the time, in ticks since the epoch of this process, at which it would be full again.
#[derive(Debug, Default)]
pub struct Bucket(AtomicU64);

impl Bucket {
    /// Reserves `n` units: the instant at which they may pass, `now` at the earliest. None is reserved in vain: what is
    /// asked for later comes later, also when there is more of it than the bucket holds.
    pub fn take(&self, pace: &Pace, n: u64, now: Instant) -> Instant {
        now + self.reserve(pace, n, Ticks::of(now))
    }

    /// [`Bucket::take`] for those who take from several at once: how long until they may pass.
    pub(super) fn reserve(&self, pace: &Pace, n: u64, Ticks(at): Ticks) -> Duration {
        let cost = if n == 1 { pace.one } else { cost(pace.unit, n) };
        let advance = |full: u64| Some(full.max(at).saturating_add(cost));
        // Each bucket stands for itself: nothing else is ordered by it.
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, advance).unwrap_or_else(|full| full);
        let full = before.max(at).saturating_add(cost);
        Duration::from_nanos((full - at).saturating_sub(pace.capacity).div_ceil(TICKS))
    }

    /// Whether `n` units could pass at once. Nothing is taken.
    pub fn has(&self, pace: &Pace, n: u64, now: Instant) -> bool {
        let due = self.0.load(Ordering::Relaxed).saturating_sub(Ticks::of(now).0);
        due.saturating_add(cost(pace.unit, n)) <= pace.capacity
    }

    /// Whether a new bucket would do as well.
    pub fn is_full(&self, now: Instant) -> bool {
        self.0.load(Ordering::Relaxed) <= Ticks::of(now).0
    }
}

/// A time, as buckets count it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticks(u64);

impl Ticks {
    pub fn of(now: Instant) -> Ticks {
        let since = now.saturating_duration_since(*EPOCH);
        let nanos = since.as_secs().saturating_mul(1_000_000_000).saturating_add(since.subsec_nanos().into());
        Ticks(nanos.saturating_mul(TICKS))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::num::{NonZeroU32, NonZeroU64};

    use proptest::prelude::*;

    use super::*;

    pub fn rate(count: u32, per: Duration) -> Rate {
        Rate { count: NonZeroU32::new(count).expect("not zero"), per }
    }

    pub fn byte_rate(bytes: u64, per: Duration) -> ByteRate {
        ByteRate { bytes: NonZeroU64::new(bytes).expect("not zero"), per }
    }

    /// A token bucket in exact numbers that may go into debt; its level is in units times nanoseconds.
    pub struct Model {
        count: i128,
        per: i128,
        level: i128,
        last: u64,
    }

    impl Model {
        pub fn new(count: u64, per: Duration) -> Self {
            let (count, per) = (i128::from(count), per.as_nanos() as i128);
            Model { count, per, level: count * per, last: 0 }
        }

        /// As [`Bucket::take`], in nanoseconds from the start.
        pub fn take(&mut self, n: u64, now: u64) -> u64 {
            let filled = self.level + i128::from(now - self.last) * self.count;
            self.level = filled.min(self.count * self.per) - i128::from(n) * self.per;
            self.last = now;
            now + (-self.level.min(0)).unsigned_abs().div_ceil(self.count.unsigned_abs()) as u64
        }
    }

    pub fn periods() -> impl Strategy<Value = Duration> {
        prop_oneof![Just(1), Just(60), Just(3600)].prop_map(Duration::from_secs)
    }

    fn nanos(nanos: u64) -> Duration {
        Duration::from_nanos(nanos)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Any arrival times, any sizes: as early as the model and never earlier, in the order of asking.
        #[test]
        fn turns_are_those_of_the_model(
            count in prop_oneof![1..50_u64, 1..68_000_000_000_u64],
            per in periods(),
            takes in prop::collection::vec((prop_oneof![Just(0), 0..3_000_000_000_u64], 0..200_u64), 1..200),
        ) {
            let pace = Pace::from(byte_rate(count, per));
            let (bucket, mut model) = (Bucket::default(), Model::new(count, per));
            let (start, mut now, mut last, mut spent) = (Instant::now(), 0, 0, 0);
            for (index, (pause, share)) in takes.into_iter().enumerate() {
                now += pause;
                // Up to twice the bucket.
                let n = (count * share).div_ceil(100);
                let right = model.take(n, now);
                let turn = (bucket.take(&pace, n, start + nanos(now)) - start).as_nanos() as u64;
                // A tick for each take, a nanosecond for rounding; the last binary place of each unit's cost.
                spent += n;
                let (early, late) = (2 + index as u64 / 16, 1 + (spent >> 20));
                prop_assert!(turn + early >= right && turn <= right + late, "{turn} is not {right}");
                prop_assert!(turn >= last.max(now), "its turn is not before that of an earlier one");
                last = turn;
            }
        }

        /// In whatever pieces it is taken, a full bucket is worth its burst, and not one unit more.
        #[test]
        fn a_burst_passes_at_once_in_any_pieces(
            count in 1..100_000_u64,
            per in periods(),
            cuts in prop::collection::vec(0..100_000_u64, 0..50),
        ) {
            let pace = Pace::from(byte_rate(count, per));
            let (bucket, now) = (Bucket::default(), Instant::now());
            let mut left = count;
            for cut in cuts {
                let n = cut.min(left);
                prop_assert!(bucket.has(&pace, n, now));
                prop_assert_eq!(bucket.take(&pace, n, now), now);
                left -= n;
            }
            prop_assert_eq!(bucket.take(&pace, left, now), now);
            prop_assert!(!bucket.has(&pace, 1, now));
            prop_assert!(bucket.take(&pace, 1, now) > now);
            prop_assert!(!bucket.is_full(now));
        }
    }

    #[test]
    fn many_that_ask_at_once_have_turns_of_their_own() {
        let pace = Pace::from(rate(10, Duration::from_secs(1)));
        let (bucket, now) = (Bucket::default(), Instant::now());
        let mut turns: Vec<Duration> = std::thread::scope(|scope| {
            let ask = || (0..100).map(|_| bucket.take(&pace, 1, now) - now).collect::<Vec<_>>();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        });
        turns.sort();
        for (index, turn) in turns.into_iter().enumerate() {
            assert_eq!(turn, Duration::from_millis(100) * (index as u32).saturating_sub(9), "turn {index}");
        }
    }

    #[test]
    fn a_bucket_fills_again() {
        let pace = Pace::from(rate(5, Duration::from_secs(1)));
        let (bucket, now) = (Bucket::default(), Instant::now());
        assert!(bucket.is_full(now));
        assert_eq!(bucket.take(&pace, 15, now), now + Duration::from_secs(2));
        let later = now + Duration::from_secs(3);
        assert!(bucket.is_full(later) && !bucket.is_full(later - Duration::from_millis(1)));
        assert_eq!(bucket.take(&pace, 5, later), later);
    }

    #[test]
    fn rates_of_gigabytes_are_exact() {
        let pace = Pace::from(byte_rate(3_000_000_000, Duration::from_secs(1)));
        let (bucket, now) = (Bucket::default(), Instant::now());
        let turn = (0..3_000_000).map(|_| bucket.take(&pace, 2000, now)).last().expect("one");
        // Six gigabytes: the first second's worth was in the bucket.
        assert!((turn - now).abs_diff(Duration::from_secs(1)) < Duration::from_millis(1), "{:?}", turn - now);
    }

    #[test]
    fn debts_beyond_the_end_of_time_do_not_wrap() {
        let pace = Pace::from(rate(1, Duration::from_secs(3600)));
        let (bucket, now) = (Bucket::default(), Instant::now());
        for _ in 0..3 {
            assert!(bucket.take(&pace, u64::MAX, now) > now + Duration::from_secs(86_400 * 365 * 30));
        }
    }
}
