//! Frame headers (RFC 6455 section 5.2), masking (5.3) and control frames (5.5).

use super::close::Code;

/// The longest frame header: two bytes, a 64-bit length, a masking key.
pub const HEADER_MAX: usize = 14;
/// The longest payload of a control frame (section 5.5).
pub const CONTROL_MAX: usize = 125;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
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

/// Masks or unmasks `bytes`, the first of which is byte `offset` of the payload (section 5.3).
pub fn mask(_key: [u8; 4], _offset: usize, _bytes: &mut [u8]) {
    todo!()
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
    pub fn new(_opcode: Opcode, _payload: &[u8]) -> Self {
        todo!()
    }
    /// A Close frame; `text` is cut at a character boundary so that it fits.
    pub fn close(_code: Code, _text: &str) -> Self {
        todo!()
    }
    pub fn opcode(&self) -> Opcode {
        self.opcode
    }
    pub fn payload(&self) -> &[u8] {
        &self.payload[..self.len as usize]
    }
    /// The frame's bytes; masked with `key` where it goes to a server.
    pub fn encode(&self, _key: Option<[u8; 4]>) -> Encoded {
        todo!()
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
        &self.bytes[..self.len as usize]
    }
}
