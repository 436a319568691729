//! What a message pays: our buckets beside governor's check of the same rate.
//!
//! `cargo bench --bench limits`. All rates are so high that nothing waits.

use std::hint::black_box;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use governor::{Quota, RateLimiter};
use tidegate::config::model::{ByteRate, Rate, RouteRates, Scoped};
use tidegate::limits::bucket::{Bucket, Pace};
use tidegate::limits::throttle::{Sender, Throttle};
use tokio::time::Instant;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let second = Duration::from_secs(1);
    let count = NonZeroU32::new(100_000_000).expect("not zero");
    let rate = Rate { count, per: second };
    let bytes = ByteRate { bytes: NonZeroU64::new(100 << 30).expect("not zero"), per: second };
    let mut group = criterion.benchmark_group("limits");

    let (bucket, pace) = (Bucket::default(), Pace::from(rate));
    let now = Instant::now();
    group.bench_function("bucket, take one", |bench| bench.iter(|| bucket.take(&pace, 1, black_box(now))));
    // As governor does it: with a look at the clock.
    group.bench_function("bucket, take one, with the clock", |bench| {
        bench.iter(|| bucket.take(&pace, 1, Instant::now()))
    });
    let governor = RateLimiter::direct(Quota::per_second(count));
    group.bench_function("governor, check one", |bench| bench.iter(|| governor.check().is_ok()));

    let rates = RouteRates {
        messages: Scoped { session: Some(rate), client: Some(rate), route: Some(rate) },
        bytes: Scoped { session: Some(bytes), client: Some(bytes), route: Some(bytes) },
    };
    let throttle = Throttle::new(&rates, &[Arc::default()], &Arc::default()).expect("rates");
    group.bench_function("throttle, a message and its bytes in three scopes", |bench| {
        bench.iter(|| {
            let now = black_box(now);
            throttle.take_message(Sender::Client, now).max(throttle.take_bytes(Sender::Client, 128, now))
        });
    });
    group.finish();
    criterion.final_summary();
}
