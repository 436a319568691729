//! The scanner: walks the frames of one direction and says which bytes may pass (RFC 6455 section 5).
//!
//! Bytes in, steps out; no I/O, no clock, no allocation while frames arrive whole. Data frames pass untouched, while they
//! are still arriving. Control frames never pass: they come out as events, and the relay decides. A header's bytes are
//! held until the header is complete and allowed (at most 14), so that nothing of a refused frame was written.

use std::num::NonZeroU32;

use super::frame::{Control, HEADER_MAX};

/// What the scanner enforces in its direction.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// True for what a client sends: every frame must be masked; false: none may be (section 5.1).
    pub masked: bool,
    /// RSV1 is allowed on the first frame of a message (RFC 7692 section 6).
    pub deflate: bool,
    pub frame_bytes_max: u64,
    pub message_bytes_max: u64,
    pub fragments_max: Option<NonZeroU32>,
    /// Check text messages for UTF-8 (those without RSV1).
    pub strict: bool,
}

/// Where a scan has to stop before its input ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// At the next event, or the end of the input.
    Event,
    /// Also at the first frame boundary at which bytes have passed: something waits to be written between frames.
    Boundary,
}

/// One step. The caller writes `held`, then `input[..pass]`, then looks at `event`, and scans `input[taken..]` next,
/// until `taken` was the whole input and `event` is `None`.
pub struct Step {
    /// Bytes of a header that began in an earlier input.
    pub held: Held,
    pub pass: usize,
    /// At least `pass`.
    pub taken: usize,
    pub event: Option<Event>,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Held {
    len: u8,
    bytes: [u8; HEADER_MAX],
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }
}

pub enum Event {
    /// A whole Close (already checked), Ping or Pong.
    Control(Control),
    /// The peer broke a rule. The scanner must not be used any more.
    Violation(Violation),
    /// With [`Until::Boundary`]: what has passed ends with a frame.
    Boundary,
}

/// A broken rule; `Display` is a short sentence for logs and close reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    Placeholder,
}

pub struct Scanner {
    _rules: Rules,
}

impl Scanner {
    pub fn new(_rules: Rules) -> Self {
        todo!()
    }
    pub fn scan(&mut self, _input: &[u8], _until: Until) -> Step {
        todo!()
    }
    /// Whether what has passed so far ends between two frames: a control frame may be written here.
    pub fn at_boundary(&self) -> bool {
        todo!()
    }
    /// Whether the peer has begun a frame (its header, a payload, a control frame) and not ended it.
    pub fn mid_frame(&self) -> bool {
        todo!()
    }
    /// Whether a fragmented message is open.
    pub fn mid_message(&self) -> bool {
        todo!()
    }
    /// Data messages begun.
    pub fn messages(&self) -> u64 {
        todo!()
    }
    /// Payload bytes of data frames that were taken.
    pub fn bytes(&self) -> u64 {
        todo!()
    }
    /// Frames begun, control frames included: tells one frame from the next.
    pub fn frames(&self) -> u64 {
        todo!()
    }
}
