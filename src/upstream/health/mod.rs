//! Whether a server may be chosen: what somebody says by hand, and what its handshakes tell.
//!
//! Time is an argument; nothing here waits, and nobody is asked.

mod passive;

use std::time::Duration;

use tokio::time::Instant;

use super::member::State;
use crate::config::model;
use passive::Passive;

/// What is known of one server.
#[derive(Debug)]
pub struct Health {
    by_hand: State,
    passive: Passive,
    since: Instant,
}

/// Why a server is not to be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hindrance {
    /// Put aside until then.
    Aside(Instant),
    Hand(State),
}

impl Default for Health {
    fn default() -> Self {
        Health { by_hand: State::Up, passive: Passive::default(), since: Instant::now() }
    }
}

impl Health {
    /// `None`: it may be chosen.
    pub fn hindrance(&self, now: Instant) -> Option<Hindrance> {
        match self.by_hand {
            State::Up => self.passive.aside(now).map(Hindrance::Aside),
            state => Some(Hindrance::Hand(state)),
        }
    }

    pub fn by_hand(&self) -> State {
        self.by_hand
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
        (self.by_hand, self.since) = (state, now);
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
            self.since = now;
        }
        back
    }

    /// A try failed. Returns for how long the server is put aside when it is now.
    pub fn failed(&mut self, rules: &model::Passive, now: Instant) -> Option<Duration> {
        let aside = self.passive.failed(rules, now);
        if aside.is_some() {
            self.since = now;
        }
        aside
    }
}
