//! What one side pays for what it sends, and whether it has to wait for its turn.
//!
//! A message is paid before its first byte passes; bytes and control frames once they have passed. In: the throttle of the
//! session and the time of the poll. A side that waits is not read, and the session's one timer knows until when.

use std::sync::Arc;

use tokio::time::Instant;

use super::end::Excess;
use super::scratch::READ_BYTES;
use crate::config::model::{OnExcess, Rate};
use crate::limits::bucket::Bucket;
use crate::limits::throttle::{Sender, Throttle};

/// A side that sends more than may pass is read in pieces so small: the rest is kept by its kernel, not by us.
const SHORT: usize = 4 * 1024;

pub struct Toll {
    sender: Sender,
    throttle: Option<Arc<Throttle>>,
    control: Bucket,
    on_excess: OnExcess,
    wait: Option<Wait>,
    short: bool,
}

#[derive(Clone, Copy)]
struct Wait {
    until: Instant,
    /// For a message that is paid.
    message: bool,
}

/// What paying brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paid {
    GoOn,
    /// Nothing more is to pass before its turn.
    Wait,
    /// It sent too much, and the route says that this ends the session.
    Exceeded(Excess),
}

impl Toll {
    /// Debts of those who used its purses before it are waited for first.
    pub fn new(sender: Sender, throttle: Option<Arc<Throttle>>, on_excess: OnExcess, now: Instant) -> Self {
        let mut toll = Toll { sender, throttle, control: Bucket::default(), on_excess, wait: None, short: false };
        if on_excess == OnExcess::Delay {
            toll.bytes(0, now);
        }
        toll
    }

    /// Other terms hold from `now` on. Who waited for what has another rate now need not wait any more: that one begins with
    /// full purses.
    pub fn renew(&mut self, on_excess: OnExcess, throttle: Option<Option<Arc<Throttle>>>, now: Instant) {
        self.on_excess = on_excess;
        let Some(throttle) = throttle else { return };
        self.throttle = throttle;
        if let Some(wait) = &mut self.wait {
            wait.until = now;
        }
    }

    /// What is paid from.
    pub fn throttle(&self) -> Option<&Arc<Throttle>> {
        self.throttle.as_ref()
    }

    /// Whether each message is to be paid for.
    pub fn counts_messages(&self) -> bool {
        self.throttle.as_ref().is_some_and(|throttle| throttle.counts_messages())
    }

    pub fn message(&mut self, now: Instant) -> Paid {
        let Some(throttle) = &self.throttle else { return Paid::GoOn };
        // Looked at first: a message that never passes is not to cost the others of its client anything.
        if self.on_excess == OnExcess::Close && !throttle.has_message(self.sender, now) {
            return Paid::Exceeded(Excess::Messages);
        }
        let turn = throttle.take_message(self.sender, now);
        self.turn(turn, now, Excess::Messages)
    }

    pub fn bytes(&mut self, bytes: u64, now: Instant) -> Paid {
        match &self.throttle {
            None => Paid::GoOn,
            Some(throttle) => {
                let turn = throttle.take_bytes(self.sender, bytes, now);
                self.turn(turn, now, Excess::Bytes)
            }
        }
    }

    /// The rate is not kept here, where it would cost every idle session what only a ping needs.
    pub fn control(&mut self, rate: Rate, now: Instant) -> Paid {
        let turn = self.control.take(&rate.into(), 1, now);
        self.turn(turn, now, Excess::Control)
    }

    fn turn(&mut self, turn: Instant, now: Instant, excess: Excess) -> Paid {
        if turn <= now {
            return Paid::GoOn;
        }
        if self.on_excess == OnExcess::Close {
            return Paid::Exceeded(excess);
        }
        let earlier = self.wait.unwrap_or(Wait { until: turn, message: false });
        let message = earlier.message || excess == Excess::Messages;
        self.wait = Some(Wait { until: earlier.until.max(turn), message });
        Paid::Wait
    }

    /// Until when it waits; that can be past already.
    pub fn until(&self) -> Option<Instant> {
        self.wait.map(|wait| wait.until)
    }

    /// Goes on when its turn has come. Whether it still waits, or else whether the message that waited is paid.
    pub fn go_on(&mut self, now: Instant) -> Result<bool, Instant> {
        match self.wait {
            Some(wait) if wait.until > now => Err(wait.until),
            _ => Ok(self.wait.take().is_some_and(|wait| wait.message)),
        }
    }

    /// What it sends passes no more: nothing is to be paid for.
    pub fn lift(&mut self) {
        self.wait = None;
        self.throttle = None;
    }

    /// How much may be read at once.
    pub fn piece(&self) -> usize {
        let most = if self.short { SHORT } else { READ_BYTES };
        let burst = self.throttle.as_ref().and_then(|throttle| throttle.piece());
        burst.map_or(most, |burst| usize::try_from(burst).unwrap_or(most).min(most))
    }

    /// Learns from a read of `n` bytes, of which `kept` could not pass; `fresh`: they came from its stream just now.
    pub fn did_read(&mut self, n: usize, kept: usize, fresh: bool) {
        let caught_up = fresh && n < SHORT;
        self.short = kept > 0 || (self.short && !caught_up);
    }
}
