//! Liveness of one side, as a function of time: when to ping, when to give up.
//!
//! Traffic only stores when it was seen; everything else is decided when the session's one timer fires. Quiet but alive
//! and dead are two things: only a side that answers nothing, or lets a frame hang, is dead.

use std::time::Duration;

use tokio::time::Instant;

use super::end::Detail;
use crate::config::model::Heartbeat;

/// A frame that was begun has to move on by this much within `frame_timeout`, or to end. How far it is, is looked at when
/// the timer fires: of one that stops, the time begins with its last byte; one that dribbles may take it twice.
pub const FRAME_PROGRESS: u64 = 64 * 1024;

/// What the clock remembers of one side.
#[derive(Debug)]
pub struct Watch {
    /// When its bytes last arrived, or it last took bytes after it had been refusing them.
    seen: Instant,
    /// When the ping that it has not answered yet was written.
    pinged: Option<Instant>,
    mark: Option<Mark>,
}

/// What is measured from a moment on.
#[derive(Debug)]
enum Mark {
    /// It was in the middle of this frame, and so far.
    Frame(Progress, Instant),
    /// It is not read. Since when, or when it was last pinged.
    Unread(Instant),
}

/// Which frame a side is in the middle of, and how many payload bytes it has sent in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub frame: u64,
    pub bytes: u64,
}

/// What the session sees of the side at this moment.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// We do not read it, because the other side takes nothing: it cannot show life.
    pub held_back: bool,
    /// It does not take what we have for it, so no ping can reach it either.
    pub refuses: bool,
    pub frame: Option<Progress>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Fine,
    /// Ask it for a sign of life.
    Ping,
    Dead(Detail),
}

impl Watch {
    pub fn new(now: Instant) -> Self {
        Watch { seen: now, pinged: None, mark: None }
    }

    pub fn saw(&mut self, now: Instant) {
        self.seen = now;
    }

    /// A ping of ours went out. An older one that was not answered keeps its time.
    pub fn pinged(&mut self, now: Instant) {
        if !self.asked() {
            self.pinged = Some(now);
        }
    }

    /// Its answer came: how long after the ping. Something else may have shown its life before.
    pub fn answered(&mut self, now: Instant) -> Option<Duration> {
        self.pinged.take().map(|at| now.saturating_duration_since(at))
    }

    /// Whether a ping of ours is on its way.
    pub fn asked(&self) -> bool {
        self.pinged.is_some_and(|at| self.seen < at)
    }

    /// Whether it gave a sign of life within the last `interval`.
    pub fn fresh(&self, now: Instant, interval: Duration) -> bool {
        now.saturating_duration_since(self.seen) <= interval
    }

    /// Decides, and says when to ask again at the latest.
    pub fn check(
        &mut self,
        now: Instant,
        facts: Facts,
        heartbeat: Option<Heartbeat>,
        frame_timeout: Duration,
    ) -> (Verdict, Instant) {
        // Its silence is our doing; that it takes nothing is not. Two sides that hold back each other would else do so for
        // ever: a client that reads nothing, and the echo behind it.
        if facts.held_back && !facts.refuses {
            self.seen = now;
            let Some(heartbeat) = heartbeat else {
                self.mark = None;
                return (Verdict::Fine, now + frame_timeout);
            };
            return self.unread(now, heartbeat);
        }
        let (hung, frame_due) = self.frame(now, facts, frame_timeout);
        if hung {
            return (Verdict::Dead(Detail::FrameTimeout), now);
        }
        let Some(heartbeat) = heartbeat else { return (Verdict::Fine, frame_due) };
        let (verdict, due) = self.beat(now, facts, heartbeat);
        (verdict, due.min(frame_due))
    }

    fn beat(&mut self, now: Instant, facts: Facts, heartbeat: Heartbeat) -> (Verdict, Instant) {
        self.pinged = self.pinged.filter(|at| self.seen < *at);
        let quiet_until = self.seen + heartbeat.interval;
        let lost_at = match self.pinged {
            Some(at) => at + heartbeat.timeout,
            // It takes no bytes, so no ping can be written: silence alone has to tell.
            None if facts.refuses => quiet_until + heartbeat.timeout,
            None if now < quiet_until => return (Verdict::Fine, quiet_until),
            None => return (Verdict::Ping, now + heartbeat.timeout),
        };
        if now >= lost_at { (Verdict::Dead(Detail::HeartbeatLost), now) } else { (Verdict::Fine, lost_at) }
    }

    /// No answer is read of it. But a ping that cannot be written tells that it is gone, and nothing else does.
    fn unread(&mut self, now: Instant, heartbeat: Heartbeat) -> (Verdict, Instant) {
        self.pinged = None;
        let since = match self.mark {
            Some(Mark::Unread(since)) => since,
            _ => now,
        };
        let is_due = now >= since + heartbeat.interval;
        let since = if is_due { now } else { since };
        self.mark = Some(Mark::Unread(since));
        (if is_due { Verdict::Ping } else { Verdict::Fine }, since + heartbeat.interval)
    }

    /// Bytes of a frame that never ends are no sign of life for ever.
    fn frame(&mut self, now: Instant, facts: Facts, timeout: Duration) -> (bool, Instant) {
        let Some(frame) = facts.frame.filter(|_| !facts.held_back) else {
            self.mark = None;
            return (false, now + timeout);
        };
        match self.mark {
            Some(Mark::Frame(mark, at)) if mark.frame == frame.frame && frame.bytes < mark.bytes + FRAME_PROGRESS => {
                (now >= at + timeout, at + timeout)
            }
            _ => {
                // Nothing came since it was last seen, so that this far it has been since then.
                self.mark = Some(Mark::Frame(frame, self.seen));
                (false, self.seen + timeout)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Option<Heartbeat> =
        Some(Heartbeat { interval: Duration::from_secs(25), timeout: Duration::from_secs(10) });
    const FRAME: Duration = Duration::from_secs(60);
    const CALM: Facts = Facts { held_back: false, refuses: false, frame: None };

    fn seconds(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_quiet_side_is_pinged_and_lost_only_without_an_answer() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        assert_eq!(watch.check(seconds(start, 24), CALM, BEAT, FRAME), (Verdict::Fine, seconds(start, 25)));
        assert_eq!(watch.check(seconds(start, 25), CALM, BEAT, FRAME), (Verdict::Ping, seconds(start, 35)));
        watch.pinged(seconds(start, 25));
        assert_eq!(watch.check(seconds(start, 34), CALM, BEAT, FRAME), (Verdict::Fine, seconds(start, 35)));
        let lost = watch.check(seconds(start, 35), CALM, BEAT, FRAME).0;
        assert_eq!(lost, Verdict::Dead(Detail::HeartbeatLost));
        watch.saw(seconds(start, 35));
        assert_eq!(watch.check(seconds(start, 35), CALM, BEAT, FRAME), (Verdict::Fine, seconds(start, 60)));
    }

    #[test]
    fn a_ping_that_could_not_be_written_yet_does_not_kill() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        assert_eq!(watch.check(seconds(start, 30), CALM, BEAT, FRAME).0, Verdict::Ping);
        assert_eq!(watch.check(seconds(start, 90), CALM, BEAT, FRAME).0, Verdict::Ping);
    }

    #[test]
    fn a_ping_after_an_answered_one_counts_from_its_own_time() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        watch.pinged(seconds(start, 1));
        watch.saw(seconds(start, 2));
        assert!(!watch.asked());
        watch.pinged(seconds(start, 40));
        watch.pinged(seconds(start, 45));
        assert!(watch.asked());
        assert_eq!(watch.check(seconds(start, 46), CALM, BEAT, FRAME), (Verdict::Fine, seconds(start, 50)));
    }

    #[test]
    fn a_side_that_is_held_back_is_not_blamed_for_silence() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        watch.pinged(start + Duration::from_millis(1));
        let held = Facts { held_back: true, frame: Some(Progress { frame: 1, bytes: 1 }), ..CALM };
        assert_eq!(watch.check(seconds(start, 500), held, BEAT, FRAME).0, Verdict::Fine);
        assert_eq!(watch.check(seconds(start, 524), CALM, BEAT, FRAME).0, Verdict::Fine);
    }

    #[test]
    fn a_side_that_is_not_read_is_pinged_and_not_asked_for_an_answer() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        let held = Facts { held_back: true, ..CALM };
        let mut check = |at| watch.check(seconds(start, at), held, BEAT, FRAME);
        assert_eq!(check(10), (Verdict::Fine, seconds(start, 35)));
        assert_eq!(check(34), (Verdict::Fine, seconds(start, 35)));
        for at in [35, 60, 85] {
            assert_eq!(check(at), (Verdict::Ping, seconds(start, at + 25)));
            assert_eq!(check(at + 1), (Verdict::Fine, seconds(start, at + 25)), "one is enough");
        }
        assert_eq!(watch.check(seconds(start, 90), CALM, BEAT, FRAME), (Verdict::Fine, seconds(start, 111)));
    }

    #[test]
    fn the_clock_of_an_idle_session_is_small() {
        assert!(size_of::<Watch>() <= 64, "{}", size_of::<Watch>());
    }

    #[test]
    fn a_side_that_takes_nothing_and_says_nothing_is_dead() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        let stuck = Facts { refuses: true, ..CALM };
        assert_eq!(watch.check(seconds(start, 34), stuck, BEAT, FRAME), (Verdict::Fine, seconds(start, 35)));
        assert_eq!(watch.check(seconds(start, 35), stuck, BEAT, FRAME).0, Verdict::Dead(Detail::HeartbeatLost));
    }

    #[test]
    fn a_frame_that_hangs_is_dead_and_one_that_moves_is_not() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        let mut check = |seen, at, frame, bytes| {
            watch.saw(seconds(start, seen));
            let facts = Facts { frame: Some(Progress { frame, bytes }), ..CALM };
            watch.check(seconds(start, at), facts, None, FRAME)
        };
        assert_eq!(check(0, 0, 1, 0), (Verdict::Fine, seconds(start, 60)));
        assert_eq!(check(60, 60, 1, FRAME_PROGRESS).0, Verdict::Fine);
        assert_eq!(check(119, 119, 1, FRAME_PROGRESS + 1).0, Verdict::Fine);
        let hung = check(120, 120, 1, 2 * FRAME_PROGRESS - 1).0;
        assert_eq!(hung, Verdict::Dead(Detail::FrameTimeout));
        assert_eq!(check(120, 120, 2, 2 * FRAME_PROGRESS - 1).0, Verdict::Fine);
        // It stopped long before anybody looked.
        assert_eq!(check(130, 170, 3, 0), (Verdict::Fine, seconds(start, 190)));
        assert_eq!(check(130, 190, 3, 0).0, Verdict::Dead(Detail::FrameTimeout));
        // While it is not read its time does not run, whether it is pinged or not.
        for heartbeat in [None, BEAT] {
            let mut check = |at, held_back| {
                let facts = Facts { held_back, frame: Some(Progress { frame: 4, bytes: 0 }), ..CALM };
                watch.saw(seconds(start, at));
                watch.check(seconds(start, at), facts, heartbeat, FRAME).0
            };
            assert_eq!([check(200, false), check(210, true), check(300, false)], [Verdict::Fine; 3]);
        }
    }
}
