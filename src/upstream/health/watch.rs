//! The checks of a pool's servers: one task for each, for as long as the server and the pool are there.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::probe::probe;
use crate::config::model::Active;
use crate::drain::Drain;
use crate::observe::log;
use crate::upstream::Pool;
use crate::upstream::member::{Member, State};

/// The first check of a server comes within this time, or its interval when that is shorter: soon, and not all at once.
const SOON: Duration = Duration::from_secs(1);

/// Has every server of a pool checked, those too that come later.
pub async fn watch(pool: Weak<Pool>, drain: Drain) {
    let mut checks: Vec<(Arc<Member>, AbortOnDropHandle<()>)> = Vec::new();
    loop {
        let changed = {
            let Some(pool) = pool.upgrade() else { return };
            let Some(rules) = &pool.upstream.active else { return unchecked(&pool) };
            let members = pool.members();
            checks.retain(|(checked, _)| members.iter().any(|member| Arc::ptr_eq(member, checked)));
            for member in members {
                if !checks.iter().any(|(checked, _)| Arc::ptr_eq(&member, checked)) {
                    let task = check(Arc::downgrade(&pool), member.clone(), rules.clone());
                    checks.push((member, AbortOnDropHandle::new(tokio::spawn(task))));
                }
            }
            pool.changed.clone()
        };
        changed.notified().await;
    }
}

/// What former checks told of the servers does not count any more.
fn unchecked(pool: &Pool) {
    let now = Instant::now();
    pool.members().iter().for_each(|member| member.vitals.health().unchecked(now));
}

/// Checks a server again and again.
async fn check(pool: Weak<Pool>, member: Arc<Member>, rules: Active) {
    sleep(rules.interval.min(SOON).mul_f64(rand::random())).await;
    loop {
        let Some(pool) = pool.upgrade() else { return };
        // Whoever took it down works on it.
        if member.vitals.health().by_hand() != State::Down {
            let failure = probe(&pool, &member, &rules).await.err().map(|error| log::chain(&error));
            checked(&member, &rules, failure);
        }
        drop(pool);
        sleep(jittered(rules.interval, rules.jitter)).await;
    }
}

fn checked(member: &Member, rules: &Active, failure: Option<String>) {
    let change = member.vitals.health().checked(failure.clone(), rules, Instant::now());
    let (upstream, address) = (&member.server.text, member.shown());
    match (change, failure) {
        (Some(true), _) => tracing::info!(upstream, address, "healthy: it answers its checks"),
        (Some(false), why) => tracing::warn!(upstream, address, detail = why, "unhealthy: its checks fail"),
        (None, Some(why)) => tracing::debug!(upstream, address, detail = why, "a check failed"),
        (None, None) => {}
    }
}

fn jittered(interval: Duration, percent: u32) -> Duration {
    let part = f64::from(percent) / 100.0;
    interval.mul_f64(1.0 + part * (2.0 * rand::random::<f64>() - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_its_bounds() {
        let second = Duration::from_secs(1);
        let drawn: Vec<_> = (0..1000).map(|_| jittered(second, 20)).collect();
        let bounds = Duration::from_millis(800)..=Duration::from_millis(1200);
        assert!(drawn.iter().all(|drawn| bounds.contains(drawn)));
        assert!(drawn.iter().any(|drawn| *drawn < second) && drawn.iter().any(|drawn| *drawn > second));
        assert_eq!(jittered(second, 0), second);
    }
}
