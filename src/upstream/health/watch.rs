//! The checks of a pool's servers: one task for each, for as long as the server and the pool are there.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::probe::{CheckError, probe};
use crate::config::model::{Active, Fate};
use crate::drain::Drain;
use crate::observe::log;
use crate::relay::Cause;
use crate::relay::registry::Selector;
use crate::upstream::member::{Member, State};
use crate::upstream::{Pool, cause};

/// The first check of a server comes within this time, or its interval when that is shorter: soon, and not all at once.
const SOON: Duration = Duration::from_secs(1);

/// Ends the sessions of a server that is not to have any.
fn end(pool: &Pool, member: &Member, drain: &Drain, fate: Fate, cause: Cause) {
    let selector = Selector { member: Some(member.id()), ..Selector::default() };
    match fate {
        Fate::Keep => {}
        Fate::Drain => {
            if let Some(rules) = pool.drain_rules() {
                let drain = drain.clone();
                tokio::spawn(async move { drain.close(&selector, cause, &rules).await });
            }
        }
        Fate::Close => _ = drain.sessions().end_where(&selector, cause),
    }
}

/// Ends the sessions of an upstream that is gone, servers and all.
pub fn remove(pool: &Pool, drain: &Drain) {
    for member in pool.members().into_iter().chain(pool.leaving()) {
        if !member.vitals.gone.swap(true, Ordering::SeqCst) {
            end(pool, &member, drain, pool.upstream.on_removed, Cause::Drain);
        }
    }
}

/// Has every server of a pool checked, those too that come later, and ends sessions of those that go.
pub async fn watch(pool: Weak<Pool>, drain: Drain) {
    let mut checks: Vec<(Arc<Member>, AbortOnDropHandle<()>)> = Vec::new();
    loop {
        let changed = {
            let Some(pool) = pool.upgrade() else { return };
            for member in pool.leaving() {
                if !member.vitals.gone.swap(true, Ordering::SeqCst) {
                    end(&pool, &member, &drain, pool.upstream.on_removed, Cause::Drain);
                }
            }
            let members = pool.members();
            checks.retain(|(checked, _)| members.iter().any(|member| Arc::ptr_eq(member, checked)));
            match &pool.upstream.active {
                None => unchecked(&members),
                Some(rules) => {
                    for member in members {
                        if !checks.iter().any(|(checked, _)| Arc::ptr_eq(&member, checked)) {
                            let task = check(Arc::downgrade(&pool), member.clone(), rules.clone(), drain.clone());
                            checks.push((member, AbortOnDropHandle::new(tokio::spawn(task))));
                        }
                    }
                }
            }
            pool.changed.clone()
        };
        changed.notified().await;
    }
}

/// What former checks told of servers does not count any more.
fn unchecked(members: &[Arc<Member>]) {
    let now = Instant::now();
    members.iter().for_each(|member| member.vitals.health().unchecked(now));
}

/// Checks a server again and again.
async fn check(pool: Weak<Pool>, member: Arc<Member>, rules: Active, drain: Drain) {
    sleep(rules.interval.min(SOON).mul_f64(rand::random())).await;
    loop {
        let Some(pool) = pool.upgrade() else { return };
        // Whoever took it down works on it.
        if member.vitals.health().by_hand() != State::Down {
            let result = probe(&pool, &member, &rules).await;
            let failure = result.as_ref().err().map(|error| log::chain(error));
            let says_something = result.as_ref().err().is_none_or(CheckError::blames_server);
            if says_something && checked(&member, &rules, failure) == Some(false) {
                let fate = pool.upstream.on_unhealthy;
                end(&pool, &member, &drain, fate, cause(fate));
            }
        }
        drop(pool);
        sleep(jittered(rules.interval, rules.jitter)).await;
    }
}

/// Notes and tells what a check has shown. Returns what the server is from now on, when that has changed: well or not.
fn checked(member: &Member, rules: &Active, failure: Option<String>) -> Option<bool> {
    let change = member.vitals.health().checked(failure.clone(), rules, Instant::now());
    let (upstream, address) = (&member.server.text, member.shown());
    match (change, failure) {
        (Some(true), _) => tracing::info!(upstream, address, "healthy: it answers its checks"),
        (Some(false), why) => tracing::warn!(upstream, address, detail = why, "unhealthy: its checks fail"),
        (None, Some(why)) => tracing::debug!(upstream, address, detail = why, "a check failed"),
        (None, None) => {}
    }
    change
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
