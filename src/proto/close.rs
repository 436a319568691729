//! Close codes and Close payloads (RFC 6455 sections 5.5.1 and 7.4).
//!
//! In: the payload of a Close frame, unmasked. Out: what it says, or the rule it breaks. Nothing is allocated while a
//! payload is only checked.

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
///
/// 1004 is reserved, 1005, 1006 and 1015 are only for reporting and never on the wire, 1016 to 2999 are unassigned.
/// 1014 (bad gateway) is in the registry, so a peer that sends it breaks no rule; we never send it ourselves, because
/// several clients close with 1002 over it.
pub fn may_be_sent(code: Code) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// What a peer's Close frame said; `None` is an empty payload (1005).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    pub code: Code,
    pub text: String,
}

/// The rule that a Close payload breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// One byte is too short for a code (section 5.5.1).
    OneByte,
    /// A code that must not be sent (section 7.4).
    Code(Code),
    /// The reason is not UTF-8 (section 5.5.1).
    NotUtf8,
}

/// The code and the reason of a Close payload, both absent where it is empty (section 5.5.1).
pub fn parse(payload: &[u8]) -> Result<Option<(Code, &str)>, Malformed> {
    let (code, text) = match payload {
        [] => return Ok(None),
        [_] => return Err(Malformed::OneByte),
        [high, low, text @ ..] => (Code::from_be_bytes([*high, *low]), text),
    };
    if !may_be_sent(code) {
        return Err(Malformed::Code(code));
    }
    let text = str::from_utf8(text).map_err(|_| Malformed::NotUtf8)?;
    Ok(Some((code, text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_may_be_sent() {
        for (codes, allowed) in [
            (0..=999, false),
            (1000..=1003, true),
            (1004..=1006, false),
            (1007..=1014, true),
            (1015..=2999, false),
            (3000..=4999, true),
            (5000..=u16::MAX, false),
        ] {
            for code in codes {
                assert_eq!(may_be_sent(code), allowed, "{code}");
            }
        }
    }

    #[test]
    fn codes_that_we_send_may_be_sent() {
        for code in [NORMAL, GOING_AWAY, PROTOCOL_ERROR, INVALID_PAYLOAD, POLICY, TOO_BIG, INTERNAL, RESTART, TRY_AGAIN]
        {
            assert!(may_be_sent(code), "{code}");
        }
    }

    #[test]
    fn payloads() {
        for (rule, payload, expected) in [
            ("empty", &b""[..], Ok(None)),
            ("one byte", b"\x03", Err(Malformed::OneByte)),
            ("a code alone", b"\x03\xe8", Ok(Some((1000, "")))),
            ("a code and a reason", b"\x03\xe9bye \xe2\x82\xac", Ok(Some((1001, "bye €")))),
            ("1005 is never sent", b"\x03\xed", Err(Malformed::Code(1005))),
            ("1014 may come", b"\x03\xf6", Ok(Some((1014, "")))),
            ("the code is looked at before the reason", b"\x00\x00\xff", Err(Malformed::Code(0))),
            ("a reason that is not UTF-8", b"\x03\xe8\xff", Err(Malformed::NotUtf8)),
            ("a reason that ends inside a character", b"\x03\xe8\xe2\x82", Err(Malformed::NotUtf8)),
        ] {
            assert_eq!(parse(payload), expected, "{rule}");
        }
    }
}
