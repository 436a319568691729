//! How a session ended: one cause out of one closed list, the side that ended it, and what each side was told.
//!
//! The log record, and later metrics and the admin API, use the labels of this file and no others.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::proto::close::{self, Code};
use crate::proto::scan::{Violation, ViolationKind};

/// Who ended a session, or who broke a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Upstream,
    Gateway,
}

impl Side {
    pub fn label(self) -> &'static str {
        match self {
            Side::Client => "client",
            Side::Upstream => "upstream",
            Side::Gateway => "gateway",
        }
    }
}

/// Why a session ended. The first cause wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    ClientClosed = 1,
    UpstreamClosed,
    /// Reset, end of stream without a Close, or silence after a ping.
    ClientLost,
    /// The same, or its server failed its health checks.
    UpstreamLost,
    ProtocolError,
    /// Text that is not UTF-8, or a Close reason that is not.
    InvalidPayload,
    FrameTooBig,
    MessageTooBig,
    RateLimited,
    AccessRevoked,
    SlowConsumer,
    Overloaded,
    Idle,
    Drain,
    MaxAge,
    RouteRemoved,
}

/// What one side is told: a close code and a reason. `None`: nothing can or should be said.
pub type Told = Option<(Code, &'static str)>;

impl Cause {
    /// Every cause, in the order of their numbers.
    pub const ALL: [Cause; 16] = [
        Cause::ClientClosed,
        Cause::UpstreamClosed,
        Cause::ClientLost,
        Cause::UpstreamLost,
        Cause::ProtocolError,
        Cause::InvalidPayload,
        Cause::FrameTooBig,
        Cause::MessageTooBig,
        Cause::RateLimited,
        Cause::AccessRevoked,
        Cause::SlowConsumer,
        Cause::Overloaded,
        Cause::Idle,
        Cause::Drain,
        Cause::MaxAge,
        Cause::RouteRemoved,
    ];

    pub fn label(self) -> &'static str {
        match self {
            Cause::ClientClosed => "client_closed",
            Cause::UpstreamClosed => "upstream_closed",
            Cause::ClientLost => "client_lost",
            Cause::UpstreamLost => "upstream_lost",
            Cause::ProtocolError => "protocol_error",
            Cause::InvalidPayload => "invalid_payload",
            Cause::FrameTooBig => "frame_too_big",
            Cause::MessageTooBig => "message_too_big",
            Cause::RateLimited => "rate_limited",
            Cause::AccessRevoked => "access_revoked",
            Cause::SlowConsumer => "slow_consumer",
            Cause::Overloaded => "overloaded",
            Cause::Idle => "idle",
            Cause::Drain => "drain",
            Cause::MaxAge => "max_age",
            Cause::RouteRemoved => "route_removed",
        }
    }

    /// The cause of a broken rule.
    pub fn of(violation: Violation) -> Cause {
        match violation.kind() {
            ViolationKind::Protocol => Cause::ProtocolError,
            ViolationKind::InvalidPayload => Cause::InvalidPayload,
            ViolationKind::FrameTooBig => Cause::FrameTooBig,
            ViolationKind::MessageTooBig => Cause::MessageTooBig,
        }
    }

    /// The close table: what the client and the upstream are told when `side` brought this about.
    ///
    /// Where a peer closed, its own Close is passed on instead, so both are `None` here.
    pub fn told(self, side: Side) -> (Told, Told) {
        const LEFT: Told = Some((close::GOING_AWAY, "client left"));
        const GONE: Told = Some((close::GOING_AWAY, "session ended by the gateway"));
        match self {
            Cause::ClientClosed | Cause::UpstreamClosed => (None, None),
            Cause::ClientLost => (None, LEFT),
            // It may be able to hear yet.
            Cause::UpstreamLost if side == Side::Gateway => (Some((close::INTERNAL, "upstream is not healthy")), GONE),
            Cause::UpstreamLost => (Some((close::INTERNAL, "upstream connection lost")), None),
            Cause::ProtocolError => blame(side, (close::PROTOCOL_ERROR, "protocol error")),
            Cause::InvalidPayload => blame(side, (close::INVALID_PAYLOAD, "payload is not UTF-8")),
            Cause::FrameTooBig => blame(side, (close::TOO_BIG, "frame too big")),
            Cause::MessageTooBig => blame(side, (close::TOO_BIG, "message too big")),
            Cause::RateLimited if side == Side::Upstream => {
                (Some((close::POLICY, "upstream exceeded its rate limit")), GONE)
            }
            Cause::RateLimited => (Some((close::POLICY, "rate limit exceeded")), GONE),
            Cause::AccessRevoked => (Some((close::POLICY, "access revoked")), GONE),
            Cause::SlowConsumer if side == Side::Upstream => {
                (Some((close::INTERNAL, "upstream reads too slowly")), GONE)
            }
            Cause::SlowConsumer => (Some((close::POLICY, "reading too slowly")), GONE),
            Cause::Overloaded => (Some((close::TRY_AGAIN, "overloaded, try again later")), GONE),
            Cause::Idle => (Some((close::GOING_AWAY, "idle for too long")), GONE),
            Cause::Drain => (Some((close::RESTART, "gateway is restarting")), GONE),
            Cause::MaxAge => (Some((close::RESTART, "session reached its maximum age")), GONE),
            Cause::RouteRemoved => (Some((close::RESTART, "route was removed")), GONE),
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Cause> {
        Cause::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }
}

/// The culprit hears what it did; the other side only that the session is over.
fn blame(side: Side, culprit: (Code, &'static str)) -> (Told, Told) {
    match side {
        Side::Upstream => (Some((close::INTERNAL, "upstream misbehaved")), Some(culprit)),
        Side::Client | Side::Gateway => (Some(culprit), Some((close::GOING_AWAY, "client misbehaved"))),
    }
}

/// What lies behind a cause, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    None,
    Violation(Violation),
    /// The stream ended without a Close.
    EndOfStream,
    Io(std::io::ErrorKind),
    /// No answer to a ping.
    HeartbeatLost,
    /// A frame that was begun did not move on.
    FrameTimeout,
    /// A rate was exceeded on a route whose `on_excess` is `"close"`.
    Exceeded(Excess),
    /// The gateway held more bytes than `limits.held_bytes`, and this session had held some for longest.
    HeldBytes,
    /// It was not over when the time for a drain was.
    Cut,
    /// The client was asked to leave, and what it sent did not all reach the upstream in time.
    Undelivered,
}

impl Detail {
    /// The other, where there is nothing to tell.
    pub fn or(self, other: Detail) -> Detail {
        if self == Detail::None { other } else { self }
    }
}

/// Of what a side sent too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    Messages,
    Bytes,
    Control,
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Detail::None => Ok(()),
            Detail::Violation(violation) => violation.fmt(f),
            Detail::EndOfStream => f.write_str("end of stream without a Close"),
            Detail::Io(kind) => kind.fmt(f),
            Detail::HeartbeatLost => f.write_str("no answer to a ping"),
            Detail::FrameTimeout => f.write_str("a frame was begun and not ended in time"),
            Detail::Exceeded(Excess::Messages) => f.write_str("more messages than allowed"),
            Detail::Exceeded(Excess::Bytes) => f.write_str("more bytes than allowed"),
            Detail::Exceeded(Excess::Control) => f.write_str("more pings and pongs than allowed"),
            Detail::Cut => f.write_str("cut: `drain.grace` was over"),
            Detail::Undelivered => f.write_str("not all that the client sent was delivered"),
            Detail::HeldBytes => f.write_str("the gateway held too many bytes, and longest for this session"),
        }
    }
}

/// One direction's share of a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Data messages begun.
    pub messages: u64,
    /// Payload bytes of data frames.
    pub bytes: u64,
}

/// The close codes of one side; 1005 stands for a Close without a code.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Codes {
    /// In the Close that we wrote to it.
    pub sent: Option<Code>,
    /// In the Close that it sent.
    pub received: Option<Code>,
}

/// The record of an ended session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub cause: Cause,
    pub side: Side,
    pub detail: Detail,
    pub client: Codes,
    pub upstream: Codes,
    pub from_client: Traffic,
    pub from_upstream: Traffic,
    pub duration: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_back_to_their_cause() {
        for cause in Cause::ALL {
            assert_eq!(Cause::from_number(cause as u8), Some(cause));
        }
        assert_eq!(Cause::from_number(0), None);
        assert_eq!(Cause::from_number(17), None);
    }

    #[test]
    fn no_cause_is_told_as_1014() {
        for cause in Cause::ALL {
            for side in [Side::Client, Side::Upstream, Side::Gateway] {
                let (client, upstream) = cause.told(side);
                assert!([client, upstream].iter().flatten().all(|(code, _)| *code != 1014));
            }
        }
    }
}
