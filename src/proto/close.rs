//! Close codes and Close payloads (RFC 6455 sections 5.5.1 and 7.4).

/// A status code of a Close frame.
pub type Code = u16;

pub const NORMAL: Code = 1000;
pub const GOING_AWAY: Code = 1001;
pub const PROTOCOL_ERROR: Code = 1002;
pub const INVALID_PAYLOAD: Code = 1007;
pub const POLICY: Code = 1008;
pub const TOO_BIG: Code = 1009;
pub const INTERNAL: Code = 1011;
pub const RESTART: Code = 1012;
pub const TRY_AGAIN: Code = 1013;

/// Whether a peer may put this code into a Close frame (section 7.4.1, 7.4.2 and the IANA registry).
pub fn may_be_sent(code: Code) -> bool {
    todo!("{code}")
}

/// What a peer's Close frame said; `None` is an empty payload (1005).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    pub code: Code,
    pub text: String,
}
