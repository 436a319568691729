//! Whether a server may be chosen: what somebody says by hand, what its checks tell, and what its handshakes tell.
//!
//! The rules are plain: time is an argument, nothing waits, nobody is asked. Only `probe.rs` and `watch.rs` do I/O.

mod active;
mod passive;
mod probe;
pub(super) mod watch;

use std::time::Duration;

use tokio::time::Instant;

use super::member::State;
use crate::config::model;
use active::Active;
use passive::Passive;

/// All of a server's share, for [`Health::share`].
pub const WHOLE: u32 = 100;
/// What a server begins with that comes back: with nothing at all it would never be tried.
const FIRST: u32 = 10;

/// What is known of one server.
#[derive(Debug)]
pub struct Health {
    by_hand: State,
    active: Active,
    passive: Passive,
    /// Why its last check failed; `None`: it did not.
    failure: Option<String>,
    since: Instant,
    /// When it came, or came back.
    back: Option<Instant>,
}

/// Why a server is not to be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hindrance {
    Hand(State),
    /// Its checks fail.
    Unhealthy,
    /// Put aside until then.
    Aside(Instant),
}

impl Health {
    /// Of a server that is new; `joins`: the others are there already.
    pub fn new(up: bool, joins: bool, now: Instant) -> Self {
        Health {
            by_hand: State::Up,
            active: Active::new(up),
            passive: Passive::default(),
            failure: None,
            since: now,
            back: joins.then_some(now),
        }
    }

    /// `None`: it may be chosen.
    pub fn hindrance(&self, now: Instant) -> Option<Hindrance> {
        match self.by_hand {
            State::Up if !self.active.is_up() => Some(Hindrance::Unhealthy),
            State::Up => self.passive.aside(now).map(Hindrance::Aside),
            state => Some(Hindrance::Hand(state)),
        }
    }

    /// How much of its share it gets, of [`WHOLE`], when `slow_start` is the time to all of it.
    pub fn share(&self, now: Instant, slow_start: Option<Duration>) -> u32 {
        let (Some(back), Some(all)) = (self.back, slow_start) else { return WHOLE };
        let part = now.saturating_duration_since(back).as_secs_f64() / all.as_secs_f64();
        FIRST + (f64::from(WHOLE - FIRST) * part.min(1.0)) as u32
    }

    /// Whether its checks are good, or there are none.
    pub fn is_well(&self) -> bool {
        self.active.is_up()
    }

    pub fn by_hand(&self) -> State {
        self.by_hand
    }

    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// The last change.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Returns whether that is a change.
    pub fn set_by_hand(&mut self, state: State, now: Instant) -> bool {
        if self.by_hand == state {
            return false;
        }
        self.by_hand = state;
        self.changed(state == State::Up, now);
        true
    }

    /// It was chosen for a try, which takes at most `trial`.
    pub fn chosen(&mut self, now: Instant, trial: Duration) {
        self.passive.chosen(now, trial);
    }

    /// It answered. Returns whether it had been put aside.
    pub fn served(&mut self, now: Instant) -> bool {
        let back = self.passive.served();
        if back {
            self.changed(true, now);
        }
        back
    }

    /// A try failed. Returns for how long the server is put aside when it is now.
    pub fn failed(&mut self, rules: &model::Passive, now: Instant) -> Option<Duration> {
        let aside = self.passive.failed(rules, now);
        if aside.is_some() {
            self.changed(false, now);
        }
        aside
    }

    /// A check ended, with why it failed. Returns what it is from now on when that has changed: up or not.
    ///
    /// One that comes back is given its time aside: it was most often begun anew.
    pub fn checked(&mut self, failure: Option<String>, rules: &model::Active, now: Instant) -> Option<bool> {
        let good = failure.is_none();
        self.failure = failure;
        if !self.active.checked(good, rules) {
            return None;
        }
        if good {
            self.passive = Passive::default();
        }
        self.changed(good, now);
        Some(good)
    }

    /// Nobody checks it any more.
    pub fn unchecked(&mut self, now: Instant) {
        if !self.active.is_up() {
            self.changed(true, now);
        }
        (self.active, self.failure) = (Active::new(true), None);
    }

    fn changed(&mut self, better: bool, now: Instant) {
        self.since = now;
        if better {
            self.back = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_share_grows_from_a_tenth_to_all() {
        let now = Instant::now();
        let health = Health::new(true, true, now);
        let shares = [0, 10, 20, 30, 40].map(|second| health.share(now + second * SECOND, Some(30 * SECOND)));
        assert_eq!(shares, [10, 40, 70, 100, 100]);
        assert_eq!(health.share(now, None), WHOLE);
        assert_eq!(Health::new(true, false, now).share(now, Some(30 * SECOND)), WHOLE, "one of the first");
    }

    #[test]
    fn every_way_back_begins_with_a_small_share() {
        let begin = Instant::now();
        let passive = model::Passive { failures: 1, aside: SECOND, aside_max: SECOND };
        let rules = |rise, fall| {
            let text = format!(
                "[upstream.a]\nservers = [\"ws://a\"]\nhealth = {{ active = {{ rise = {rise}, fall = {fall} }} }}\n\
                 [[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\nupstream = \"a\"\n"
            );
            let config = crate::config::parse(&text, std::path::Path::new("config.toml")).expect("it is right").config;
            config.upstreams["a"].active.clone().expect("it is there")
        };
        let active = rules(1, 1);
        let rows: [(&str, &dyn Fn(&mut Health, Instant)); 4] = [
            ("by hand", &|health, now| {
                health.set_by_hand(State::Down, now);
                assert_eq!(health.hindrance(now), Some(Hindrance::Hand(State::Down)));
                health.set_by_hand(State::Up, now);
            }),
            ("after its time aside", &|health, now| {
                health.failed(&passive, now - SECOND);
                assert!(health.served(now));
            }),
            ("when its checks are good again", &|health, now| {
                assert_eq!(health.checked(Some("why".to_owned()), &active, now), Some(false));
                assert_eq!((health.hindrance(now), health.failure()), (Some(Hindrance::Unhealthy), Some("why")));
                assert_eq!(health.checked(None, &active, now), Some(true));
            }),
            ("when nobody checks it any more", &|health, now| {
                health.checked(Some("why".to_owned()), &active, now);
                health.unchecked(now);
            }),
        ];
        for (what, goes_and_comes) in rows {
            let mut health = Health::new(true, false, begin);
            let now = begin + 100 * SECOND;
            goes_and_comes(&mut health, now);
            assert_eq!((health.hindrance(now), health.failure(), health.since()), (None, None, now), "{what}");
            assert_eq!(health.share(now, Some(30 * SECOND)), FIRST, "{what}");
        }
    }

    #[test]
    fn both_must_let_it_be_chosen() {
        let now = Instant::now();
        let passive = model::Passive { failures: 1, aside: 10 * SECOND, aside_max: 10 * SECOND };
        let mut health = Health::new(false, false, now);
        health.failed(&passive, now);
        assert_eq!(health.hindrance(now), Some(Hindrance::Unhealthy));
        health.unchecked(now);
        assert_eq!(health.hindrance(now), Some(Hindrance::Aside(now + 10 * SECOND)), "checks say nothing of that");
    }
}
