//! Frame headers (RFC 6455 section 5.2), masking (5.3) and control frames (5.5).
//!
//! In: bytes that may begin with a header. Out: the header, or why there is none. Rules that depend on the direction,
//! on other frames or on limits are the scanner's.

use std::fmt;

use super::close::{self, Code};

/// The longest frame header: two bytes, a 64-bit length, a masking key.
pub const HEADER_MAX: usize = 14;
/// The longest payload of a control frame (section 5.5).
pub const CONTROL_MAX: usize = 125;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
/// The 7-bit length that says: a 16-bit length follows.
const LEN_16: u8 = 126;
/// The 7-bit length that says: a 64-bit length follows.
const LEN_64: u8 = 127;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    Continuation = 0x0,
    Text = 0x1,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xA,
}

impl Opcode {
    /// `None` for the reserved ones: 3 to 7 and 11 to 15.
    #[inline]
    pub fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }

    #[inline]
    pub fn bits(self) -> u8 {
        self as u8
    }

    /// Close, Ping, Pong (section 5.5).
    #[inline]
    pub fn is_control(self) -> bool {
        self.bits() & 0x8 != 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub fin: bool,
    /// RSV1 is 4, RSV2 is 2, RSV3 is 1.
    pub rsv: u8,
    pub opcode: Opcode,
    pub mask: Option<[u8; 4]>,
    pub payload_len: u64,
}

/// What bytes that begin a frame hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// A header and how many bytes it takes.
    Whole(Header, usize),
    /// A header begins, and ends beyond these bytes.
    Incomplete,
    /// No frame of ours can begin so.
    Faulty(Fault),
}

/// Why bytes cannot begin a frame, whoever sent them and whatever came before (section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Opcodes 3 to 7 and 11 to 15.
    ReservedOpcode(u8),
    /// "The minimal number of bytes MUST be used to encode the length."
    LengthNotMinimal,
    /// "The most significant bit MUST be 0."
    LengthTopBit,
}

impl Header {
    /// Reads the header at the front of `bytes`. A fault is reported as soon as the bytes that show it are there.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Parsed {
        let &[first, ref rest @ ..] = bytes else {
            return Parsed::Incomplete;
        };
        let Some(opcode) = Opcode::from_bits(first & 0x0F) else {
            return Parsed::Faulty(Fault::ReservedOpcode(first & 0x0F));
        };
        let &[second, ref rest @ ..] = rest else {
            return Parsed::Incomplete;
        };
        let (payload_len, rest) = match second & !MASKED {
            LEN_16 => {
                let Some((len, rest)) = rest.split_first_chunk() else {
                    return Parsed::Incomplete;
                };
                let len = u64::from(u16::from_be_bytes(*len));
                if len < u64::from(LEN_16) {
                    return Parsed::Faulty(Fault::LengthNotMinimal);
                }
                (len, rest)
            }
            LEN_64 => {
                let Some((len, rest)) = rest.split_first_chunk() else {
                    return Parsed::Incomplete;
                };
                let len = u64::from_be_bytes(*len);
                if len > i64::MAX as u64 {
                    return Parsed::Faulty(Fault::LengthTopBit);
                }
                if len <= u64::from(u16::MAX) {
                    return Parsed::Faulty(Fault::LengthNotMinimal);
                }
                (len, rest)
            }
            len => (u64::from(len), rest),
        };
        let (mask, rest) = if second & MASKED == 0 {
            (None, rest)
        } else {
            let Some((key, rest)) = rest.split_first_chunk() else {
                return Parsed::Incomplete;
            };
            (Some(*key), rest)
        };
        let header = Self { fin: first & FIN != 0, rsv: first >> 4 & 0x7, opcode, mask, payload_len };
        Parsed::Whole(header, bytes.len() - rest.len())
    }

    /// Writes the header to the front of `out` and says how many bytes it took. A `payload_len` of 2^63 or more has no
    /// legal form.
    pub fn format(&self, out: &mut [u8; HEADER_MAX]) -> usize {
        out[0] = if self.fin { FIN } else { 0 } | (self.rsv & 0x7) << 4 | self.opcode.bits();
        let (short, mut len) = match self.payload_len {
            len if len < u64::from(LEN_16) => (len as u8, 2),
            len if len <= u64::from(u16::MAX) => {
                out[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                (LEN_16, 4)
            }
            len => {
                out[2..10].copy_from_slice(&len.to_be_bytes());
                (LEN_64, 10)
            }
        };
        out[1] = short;
        if let Some(key) = self.mask {
            out[1] |= MASKED;
            out[len..len + 4].copy_from_slice(&key);
            len += 4;
        }
        len
    }
}

/// Masks or unmasks `bytes`, the first of which is byte `offset` of the payload (section 5.3).
#[inline]
pub fn mask(mut key: [u8; 4], offset: usize, bytes: &mut [u8]) {
    key.rotate_left(offset % 4);
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    // Eight bytes at a time, which the compiler makes as wide as the machine's registers.
    let (chunks, tail) = bytes.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// A whole control frame, unmasked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Control {
    opcode: Opcode,
    len: u8,
    payload: [u8; CONTROL_MAX],
}

impl Control {
    /// `payload` beyond 125 bytes is cut.
    pub fn new(opcode: Opcode, payload: &[u8]) -> Self {
        debug_assert!(opcode.is_control(), "{opcode:?} is no control frame");
        let len = payload.len().min(CONTROL_MAX);
        let mut control = Self { opcode, len: len as u8, payload: [0; CONTROL_MAX] };
        control.payload[..len].copy_from_slice(&payload[..len]);
        control
    }

    /// A Close frame; `text` is cut at a character boundary so that it fits.
    pub fn close(code: Code, text: &str) -> Self {
        let mut end = text.len().min(CONTROL_MAX - 2);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut payload = [0; CONTROL_MAX];
        payload[..2].copy_from_slice(&code.to_be_bytes());
        payload[2..2 + end].copy_from_slice(&text.as_bytes()[..end]);
        Self::new(Opcode::Close, &payload[..2 + end])
    }

    /// A frame as it came from the wire: `payload` is still masked with `key`.
    pub(super) fn received(opcode: Opcode, key: Option<[u8; 4]>, payload: &[u8]) -> Self {
        let mut control = Self::new(opcode, payload);
        if let Some(key) = key {
            mask(key, 0, &mut control.payload[..usize::from(control.len)]);
        }
        control
    }

    pub fn opcode(&self) -> Opcode {
        self.opcode
    }

    pub fn payload(&self) -> &[u8] {
        &self.payload[..usize::from(self.len)]
    }

    /// What a Close frame says; `None` where it says nothing (1005), and for other frames.
    pub fn close_reason(&self) -> Option<close::Reason> {
        if self.opcode != Opcode::Close {
            return None;
        }
        // The scanner lets no malformed payload through, and we write none.
        let (code, text) = close::parse(self.payload()).ok()??;
        Some(close::Reason { code, text: text.to_owned() })
    }

    /// The frame's bytes; masked with `key` where it goes to a server.
    pub fn encode(&self, key: Option<[u8; 4]>) -> Encoded {
        let header = Header { fin: true, rsv: 0, opcode: self.opcode, mask: key, payload_len: self.len.into() };
        let mut head = [0; HEADER_MAX];
        let start = header.format(&mut head);
        let end = start + usize::from(self.len);
        let mut bytes = [0; 2 + 4 + CONTROL_MAX];
        bytes[..start].copy_from_slice(&head[..start]);
        bytes[start..end].copy_from_slice(self.payload());
        if let Some(key) = key {
            mask(key, 0, &mut bytes[start..end]);
        }
        Encoded { len: end as u8, bytes }
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}(\"{}\")", self.opcode, self.payload().escape_ascii())
    }
}

/// The bytes of a control frame on the wire (at most 2 + 4 + 125).
#[derive(Clone, Copy)]
pub struct Encoded {
    len: u8,
    bytes: [u8; 2 + 4 + CONTROL_MAX],
}

impl AsRef<[u8]> for Encoded {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn headers() {
        let header = |payload_len| Header { fin: true, rsv: 0, opcode: Opcode::Binary, mask: None, payload_len };
        let key = Some([1, 2, 3, 4]);
        for (rule, bytes, expected) in [
            ("nothing", &b""[..], Parsed::Incomplete),
            ("one byte", b"\x82", Parsed::Incomplete),
            ("empty payload", b"\x82\x00", Parsed::Whole(header(0), 2)),
            ("7-bit length", b"\x82\x7dxyz", Parsed::Whole(header(125), 2)),
            ("16-bit length, least", b"\x82\x7e\x00\x7e", Parsed::Whole(header(126), 4)),
            ("16-bit length, most", b"\x82\x7e\xff\xff", Parsed::Whole(header(65_535), 4)),
            ("16-bit length, cut", b"\x82\x7e\xff", Parsed::Incomplete),
            ("16-bit length, not minimal", b"\x82\x7e\x00\x7d", Parsed::Faulty(Fault::LengthNotMinimal)),
            ("64-bit length, least", b"\x82\x7f\0\0\0\0\0\x01\0\0", Parsed::Whole(header(65_536), 10)),
            (
                "64-bit length, most",
                b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff",
                Parsed::Whole(header(i64::MAX as u64), 10),
            ),
            ("64-bit length, cut", b"\x82\x7f\0\0\0\0\0\x01\0", Parsed::Incomplete),
            ("64-bit length, not minimal", b"\x82\x7f\0\0\0\0\0\0\xff\xff", Parsed::Faulty(Fault::LengthNotMinimal)),
            ("64-bit length, top bit", b"\x82\x7f\x80\0\0\0\0\0\0\0", Parsed::Faulty(Fault::LengthTopBit)),
            ("masked", b"\x82\x85\x01\x02\x03\x04", Parsed::Whole(Header { mask: key, ..header(5) }, 6)),
            ("masked, cut", b"\x82\x85\x01\x02\x03", Parsed::Incomplete),
            ("flags", b"\x71\x00", Parsed::Whole(Header { fin: false, rsv: 7, opcode: Opcode::Text, ..header(0) }, 2)),
            ("RSV1 is 4", b"\xc2\x00", Parsed::Whole(Header { rsv: 4, ..header(0) }, 2)),
            ("a reserved opcode shows in the first byte", b"\x83", Parsed::Faulty(Fault::ReservedOpcode(3))),
        ] {
            assert_eq!(Header::parse(bytes), expected, "{rule}");
        }
    }

    #[test]
    fn reserved_opcodes() {
        for bits in 0..16 {
            let opcode = Opcode::from_bits(bits);
            assert_eq!(opcode.is_none(), matches!(bits, 3..=7 | 11..=15), "{bits}");
            assert!(opcode.is_none_or(|opcode| opcode.bits() == bits && opcode.is_control() == (bits >= 8)));
        }
    }

    #[test]
    fn a_close_text_is_cut_between_characters() {
        let text = "€".repeat(42); // 126 bytes
        let close = Control::close(1001, &text);
        assert_eq!(close.payload().len(), 2 + 123);
        assert_eq!(close.close_reason(), Some(close::Reason { code: 1001, text: "€".repeat(41) }));
        let close = Control::close(1001, &format!("a{text}"));
        assert_eq!(close.close_reason().map(|reason| reason.text), Some(format!("a{}", "€".repeat(40))));
    }

    #[test]
    fn close_reasons() {
        assert_eq!(Control::new(Opcode::Close, b"").close_reason(), None);
        assert_eq!(Control::new(Opcode::Ping, b"\x03\xe8").close_reason(), None);
        let reason = close::Reason { code: 1000, text: "bye".to_owned() };
        assert_eq!(Control::close(1000, "bye").close_reason(), Some(reason));
    }

    #[test]
    fn control_frames_on_the_wire() {
        let ping = Control::new(Opcode::Ping, b"Hello");
        // The examples of section 5.7, as pings.
        assert_eq!(ping.encode(None).as_ref(), b"\x89\x05Hello");
        let masked = ping.encode(Some([0x37, 0xfa, 0x21, 0x3d]));
        assert_eq!(masked.as_ref(), b"\x89\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
        assert_eq!(Control::new(Opcode::Pong, &[0; 126]).encode(Some([1; 4])).as_ref().len(), 2 + 4 + 125);
    }

    fn any_header() -> impl Strategy<Value = Header> {
        let opcode = prop::sample::select(vec![0_u8, 1, 2, 8, 9, 10]);
        let len = prop_oneof![0..300_u64, 65_500..65_600_u64, 0..=i64::MAX as u64];
        (any::<bool>(), 0..8_u8, opcode, any::<Option<[u8; 4]>>(), len).prop_map(|(fin, rsv, opcode, mask, len)| {
            Header { fin, rsv, opcode: Opcode::from_bits(opcode).expect("none is reserved"), mask, payload_len: len }
        })
    }

    proptest! {
        #[test]
        fn parse_undoes_format(header in any_header(), behind in prop::collection::vec(any::<u8>(), 0..4)) {
            let mut out = [0; HEADER_MAX];
            let len = header.format(&mut out);
            let bytes = [&out[..len], &behind].concat();
            prop_assert_eq!(Header::parse(&bytes), Parsed::Whole(header, len));
            for cut in 0..len {
                prop_assert_eq!(Header::parse(&bytes[..cut]), Parsed::Incomplete);
            }
        }

        #[test]
        fn format_agrees_with_tungstenite(header in any_header()) {
            use tungstenite::protocol::frame::FrameHeader;
            let theirs = FrameHeader {
                is_final: header.fin,
                rsv1: header.rsv & 4 != 0,
                rsv2: header.rsv & 2 != 0,
                rsv3: header.rsv & 1 != 0,
                opcode: header.opcode.bits().into(),
                mask: header.mask,
            };
            let mut expected = Vec::new();
            theirs.format(header.payload_len, &mut expected).unwrap();
            let mut out = [0; HEADER_MAX];
            let len = header.format(&mut out);
            prop_assert_eq!(&out[..len], &expected[..]);
        }

        #[test]
        fn mask_is_byte_by_byte_from_its_offset(
            key: [u8; 4],
            offset in 0..1000_usize,
            bytes in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let expected: Vec<u8> = (offset..).zip(&bytes).map(|(at, byte)| byte ^ key[at % 4]).collect();
            let mut masked = bytes.clone();
            mask(key, offset, &mut masked);
            prop_assert_eq!(&masked, &expected);
            mask(key, offset, &mut masked);
            prop_assert_eq!(masked, bytes);
        }
    }
}
