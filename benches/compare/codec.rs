//! WebSocket frames, as small as a load needs them (RFC 6455 section 5.2). Independent of the gateway's own code.

/// The masking key of every frame that a client of ours sends; not zero, so that masks are real.
pub const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// Appends the header of a whole message.
pub fn header(opcode: u8, len: u64, masked: bool, out: &mut Vec<u8>) {
    let bit = u8::from(masked) << 7;
    out.push(0x80 | opcode);
    match len {
        0..=125 => out.push(bit | len as u8),
        126..=0xffff => {
            out.push(bit | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(bit | 127);
            out.extend_from_slice(&len.to_be_bytes());
        }
    }
}

/// Appends a masked frame.
pub fn client_frame(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    header(opcode, payload.len() as u64, true, out);
    out.extend_from_slice(&MASK);
    let at = out.len();
    out.extend_from_slice(payload);
    unmask(&mut out[at..], MASK);
}

/// Appends a frame as a server writes it.
pub fn server_frame(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    header(opcode, payload.len() as u64, false, out);
    out.extend_from_slice(payload);
}

/// What the bytes of a stream are.
pub enum Part<'a> {
    Head {
        opcode: u8,
        len: u64,
    },
    /// Unmasked.
    Payload(&'a [u8]),
    End,
}

/// Walks the frames of one direction, cut as they may be.
#[derive(Default)]
pub struct Frames {
    head: [u8; 14],
    have: usize,
    inside: bool,
    remaining: u64,
    /// Turned so that it begins at the next byte; zeros where nothing is masked.
    key: [u8; 4],
}

impl Frames {
    /// Tells `each` the parts of `input`, which is unmasked in place.
    pub fn walk(&mut self, input: &mut [u8], mut each: impl FnMut(Part<'_>)) {
        let mut at = 0;
        while at < input.len() {
            if self.inside {
                let len = self.remaining.min((input.len() - at) as u64) as usize;
                let piece = &mut input[at..at + len];
                if self.key != [0; 4] {
                    unmask(piece, self.key);
                    self.key.rotate_left(len % 4);
                }
                each(Part::Payload(piece));
                self.remaining -= len as u64;
                at += len;
            } else {
                self.head[self.have] = input[at];
                self.have += 1;
                at += 1;
                if self.have < 2 || self.have < self.header_len() {
                    continue;
                }
                self.open();
                each(Part::Head { opcode: self.head[0] & 0xf, len: self.remaining });
            }
            if self.inside && self.remaining == 0 {
                self.inside = false;
                each(Part::End);
            }
        }
    }

    fn header_len(&self) -> usize {
        let extended = match self.head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + extended + if self.head[1] & 0x80 == 0 { 0 } else { 4 }
    }

    fn open(&mut self) {
        let (mut len, mut at) = (u64::from(self.head[1] & 0x7f), 2);
        let wide = match len {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if wide > 0 {
            len = self.head[at..at + wide].iter().fold(0, |len, byte| len << 8 | u64::from(*byte));
            at += wide;
        }
        self.key = [0; 4];
        if self.head[1] & 0x80 != 0 {
            self.key.copy_from_slice(&self.head[at..at + 4]);
        }
        self.inside = true;
        self.remaining = len;
        self.have = 0;
    }
}

fn unmask(bytes: &mut [u8], key: [u8; 4]) {
    let wide = u64::from_ne_bytes([key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3]]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key) {
        *byte ^= key;
    }
    // At most seven bytes are left: the key once around, then again.
    for (byte, key) in rest.iter_mut().skip(4).zip(key) {
        *byte ^= key;
    }
}
