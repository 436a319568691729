//! Passive health: what handshakes and requests themselves tell of a server.
//!
//! In: that a try failed or was answered, and when. Out: whether the server may be chosen. Time is an argument; nothing
//! here waits, and nobody is asked.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::model::Passive as Rules;

/// What its handshakes and requests tell of one server.
#[derive(Debug, Default)]
pub struct Passive {
    /// In a row.
    failures: u32,
    aside: Option<Aside>,
}

/// A server that is left alone.
#[derive(Debug, Clone, Copy)]
struct Aside {
    until: Instant,
    /// For so long.
    time: Duration,
    /// Its time was over, and one try is under way; another is let in at `until`, should nobody hear of this one again.
    trial: bool,
}

impl Passive {
    /// When it may be chosen again; `None`: it may be now.
    pub fn aside(&self, now: Instant) -> Option<Instant> {
        self.aside.map(|aside| aside.until).filter(|until| *until > now)
    }

    /// It was chosen. When its time aside has just ended, the others stay away until it is known how this one fared, at
    /// most for `trial`.
    pub fn chosen(&mut self, now: Instant, trial: Duration) {
        if let Some(aside) = &mut self.aside {
            *aside = Aside { until: now + trial, trial: true, ..*aside };
        }
    }

    /// It answered. Returns whether it had been put aside.
    pub fn served(&mut self) -> bool {
        self.failures = 0;
        self.aside.take().is_some()
    }

    /// A try failed. Returns for how long the server is put aside when it is now: each time in a row for twice as long.
    pub fn failed(&mut self, rules: &Rules, now: Instant) -> Option<Duration> {
        let time = match self.aside {
            // Of a try that began before.
            Some(Aside { trial: false, .. }) => return None,
            Some(aside) => aside.time.saturating_mul(2).min(rules.aside_max),
            None => {
                self.failures += 1;
                if self.failures < rules.failures {
                    return None;
                }
                rules.aside
            }
        };
        self.aside = Some(Aside { until: now + time, time, trial: false });
        Some(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const TRIAL: Duration = Duration::from_secs(8);
    const RULES: Rules = Rules { failures: 3, aside: Duration::from_secs(10), aside_max: Duration::from_secs(30) };

    fn dead(now: Instant) -> Passive {
        let mut health = Passive::default();
        assert_eq!([0; 3].map(|_| health.failed(&RULES, now)), [None, None, Some(10 * SECOND)]);
        health
    }

    #[test]
    fn three_failures_in_a_row_put_it_aside() {
        let now = Instant::now();
        let health = dead(now);
        assert_eq!(health.aside(now), Some(now + 10 * SECOND));
        assert_eq!(health.aside(now + 10 * SECOND), None);
    }

    #[test]
    fn an_answer_in_between_begins_the_row_again() {
        let now = Instant::now();
        let mut health = Passive::default();
        for _ in 0..5 {
            assert_eq!([0; 2].map(|_| health.failed(&RULES, now)), [None, None]);
            assert!(!health.served());
        }
        assert_eq!(health.aside(now), None);
    }

    #[test]
    fn late_failures_do_not_keep_it_away_longer() {
        let now = Instant::now();
        let mut health = dead(now);
        assert_eq!(health.failed(&RULES, now + 9 * SECOND), None);
        assert_eq!(health.aside(now + 10 * SECOND), None);
    }

    #[test]
    fn one_try_after_its_time_and_then_twice_as_long() {
        let mut now = Instant::now();
        let mut health = dead(now);
        let mut time = 10 * SECOND;
        for expected in [20, 30, 30].map(Duration::from_secs) {
            now += time;
            assert_eq!(health.aside(now), None, "it may be tried");
            health.chosen(now, TRIAL);
            assert_eq!(health.aside(now), Some(now + TRIAL), "by one");
            now += SECOND;
            assert_eq!(health.failed(&RULES, now), Some(expected), "one failure is enough");
            time = expected;
        }
        now += time;
        health.chosen(now, TRIAL);
        assert!(health.served());
        assert_eq!(health.aside(now), None);
        assert_eq!(health.failed(&RULES, now), None, "and it has three again");
    }

    #[test]
    fn a_try_of_which_nobody_hears_makes_room_for_another() {
        let now = Instant::now();
        let mut health = dead(now);
        health.chosen(now + 10 * SECOND, TRIAL);
        assert_eq!(health.aside(now + 10 * SECOND + TRIAL), None);
    }
}
