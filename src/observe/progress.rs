//! A line from time to time for each session that lives (`log.progress`), so that long ones are seen before they end.
//!
//! A task of its own looks at what sessions publish anyway: no message pays for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::log;
use crate::relay::registry::Registry;

/// How often it is looked who is due, at most and at least.
const LOOK: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];
/// A session's turn within a period follows from its id: lines come evenly, also when all came back at the same time.
const TURNS: u64 = 1024;

/// Writes the lines, for ever. `every` is asked again and again; `None`: nothing is written.
pub async fn write(sessions: Arc<Registry>, every: impl Fn() -> Option<Duration>) {
    let began = Instant::now();
    let mut looked = Duration::ZERO;
    loop {
        sleep(every().map_or(LOOK[1], |every| (every / 20).clamp(LOOK[0], LOOK[1]))).await;
        let now = began.elapsed();
        if let Some(every) = every() {
            sessions.each().filter(|living| is_due(living.id, every, looked, now)).for_each(|living| {
                log::session_lives(&living);
            });
        }
        looked = now;
    }
}

/// Whether a session's turn comes between two moments.
fn is_due(id: u64, every: Duration, after: Duration, until: Duration) -> bool {
    let every = every.as_nanos().max(1);
    let offset = every * u128::from(id % TURNS) / u128::from(TURNS);
    let turns = |at: Duration| (at.as_nanos() + offset) / every;
    turns(after) != turns(until)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_session_has_one_turn_in_a_period_and_they_are_spread() {
        let every = Duration::from_secs(60);
        let due = |from, to| (0..1024).filter(|id| is_due(*id, every, secs(from), secs(to))).count();
        assert_eq!(due(600, 660), 1024);
        for begin in (600..660).step_by(6) {
            assert!((95..=110).contains(&due(begin, begin + 6)), "{}", due(begin, begin + 6));
        }
        assert_eq!(due(600, 600), 0);
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }
}
