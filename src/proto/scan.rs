//! The scanner: walks the frames of one direction and says which bytes may pass (RFC 6455 section 5).
//!
//! Bytes in, steps out; no I/O, no clock, no allocation while frames arrive whole. Data frames pass untouched, while
//! they are still arriving. Control frames never pass: they come out as events, and the relay decides. A header's bytes
//! are held until it is complete and allowed (at most 14), so that nothing of a refused frame was written.

use std::num::NonZeroU32;

use super::close::{self, Code};
use super::frame::{CONTROL_MAX, Control, Fault, HEADER_MAX, Header, Opcode, Parsed, mask};
use super::utf8::{self, Utf8};

/// In [`Header::rsv`].
const RSV1: u8 = 0x4;

/// What the scanner enforces in its direction.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// True for what a client sends: every frame must be masked; false: none may be (section 5.1).
    pub masked: bool,
    /// RSV1 is allowed on the first frame of a message (RFC 7692 section 6).
    pub deflate: bool,
    /// Payload bytes of one data frame.
    pub frame_bytes_max: u64,
    /// Payload bytes of one message, summed over its fragments.
    pub message_bytes_max: u64,
    /// Frames of one message.
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
///
/// That ends: a step takes bytes, or has no event, or stands before a message that was not admitted; an empty input never
/// has an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Bytes of a header that began in an earlier input. Empty, or `pass` is at least 1.
    pub held: Held,
    pub pass: usize,
    /// At least `pass`.
    pub taken: usize,
    pub event: Option<Event>,
}

/// The bytes of a header, or of the part of it that has arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    len: u8,
    bytes: [u8; HEADER_MAX],
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl Held {
    /// With as many of `input`'s bytes as a header may still have.
    fn joined(mut self, input: &[u8]) -> Self {
        let len = usize::from(self.len);
        let more = input.len().min(HEADER_MAX - len);
        self.bytes[len..len + more].copy_from_slice(&input[..more]);
        self.len += more as u8;
        self
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A whole Close (already checked), Ping or Pong. After a Close nothing more may be scanned (section 5.5.1).
    Control(Control),
    /// The peer broke a rule. The scanner must not be used any more; if it is, it takes everything and passes nothing.
    Violation(Violation),
    /// A message begins that was not admitted, see [`Scanner::count_messages`]. What passed before it ends with a frame; of
    /// the message nothing was taken by this step. Whoever admits it goes on, whoever does not scans these bytes again later.
    Message,
    /// With [`Until::Boundary`]: what has passed ends with a frame, also where the input ends just there.
    Boundary,
}

/// A broken rule; `Display` is a short sentence for logs and close reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Section 5.1.
    #[error("a frame from a client was not masked")]
    NotMasked,
    /// Section 5.1.
    #[error("a frame from a server was masked")]
    Masked,
    /// Section 5.2.
    #[error("a frame had the reserved opcode {0}")]
    ReservedOpcode(u8),
    /// Section 5.2; RFC 7692 section 6.
    #[error("a frame had a reserved bit set that nobody negotiated")]
    ReservedBits,
    /// Section 5.2.
    #[error("a frame's length was not encoded in the fewest bytes")]
    LengthNotMinimal,
    /// Section 5.2.
    #[error("a frame's 64-bit length had its top bit set")]
    LengthTopBit,
    /// Section 5.5.
    #[error("a control frame was fragmented")]
    ControlFragmented,
    /// Section 5.5.
    #[error("a control frame was longer than 125 bytes")]
    ControlTooLong,
    /// Section 5.4.
    #[error("a continuation frame came without a message to continue")]
    ContinuationWithoutStart,
    /// Section 5.4.
    #[error("a new message began inside a fragmented one")]
    StartInsideMessage,
    /// Section 5.5.1.
    #[error("a close frame had a payload of one byte")]
    CloseOneByte,
    /// Section 7.4.
    #[error("a close frame had the code {0}, which must not be sent")]
    CloseCode(Code),
    /// Section 5.5.1.
    #[error("the reason of a close frame was not UTF-8")]
    CloseReasonNotUtf8,
    /// Section 8.1; only with [`Rules::strict`].
    #[error("a text message was not UTF-8")]
    TextNotUtf8,
    /// [`Rules::frame_bytes_max`].
    #[error("a frame was longer than allowed")]
    FrameTooBig,
    /// [`Rules::message_bytes_max`].
    #[error("a message was longer than allowed")]
    MessageTooBig,
    /// [`Rules::fragments_max`].
    #[error("a message had more fragments than allowed")]
    TooManyFragments,
}

/// The cause of the session's end that a violation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViolationKind {
    Protocol,
    InvalidPayload,
    FrameTooBig,
    MessageTooBig,
}

impl Violation {
    pub fn kind(self) -> ViolationKind {
        match self {
            Self::CloseReasonNotUtf8 | Self::TextNotUtf8 => ViolationKind::InvalidPayload,
            Self::FrameTooBig => ViolationKind::FrameTooBig,
            // Too many pieces is one way for a message to be too big: each costs its receiver memory.
            Self::MessageTooBig | Self::TooManyFragments => ViolationKind::MessageTooBig,
            _ => ViolationKind::Protocol,
        }
    }

    /// What the peer that broke the rule is told: 1002, 1007 or 1009.
    pub fn close_code(self) -> Code {
        match self.kind() {
            ViolationKind::Protocol => close::PROTOCOL_ERROR,
            ViolationKind::InvalidPayload => close::INVALID_PAYLOAD,
            ViolationKind::FrameTooBig | ViolationKind::MessageTooBig => close::TOO_BIG,
        }
    }
}

impl From<Fault> for Violation {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::ReservedOpcode(opcode) => Self::ReservedOpcode(opcode),
            Fault::LengthNotMinimal => Self::LengthNotMinimal,
            Fault::LengthTopBit => Self::LengthTopBit,
        }
    }
}

impl From<close::Malformed> for Violation {
    fn from(malformed: close::Malformed) -> Self {
        match malformed {
            close::Malformed::OneByte => Self::CloseOneByte,
            close::Malformed::Code(code) => Self::CloseCode(code),
            close::Malformed::NotUtf8 => Self::CloseReasonNotUtf8,
        }
    }
}

impl From<utf8::Invalid> for Violation {
    fn from(_: utf8::Invalid) -> Self {
        Self::TextNotUtf8
    }
}

/// One direction of one session.
///
/// Whether a data frame may pass is settled at its header. Only `strict` looks further: where a text turns out invalid,
/// nothing passes of what this input has of its frame. So [`Scanner::at_boundary`] is false after a violation only
/// where an earlier input had brought that frame's whole header, which has passed.
pub struct Scanner {
    rules: Rules,
    open: Open,
    /// The fragmented message that is open, until the last byte of its last frame.
    message: Option<Message>,
    /// Of the text message that is open; empty between messages.
    utf8: Utf8,
    messages: u64,
    /// Those of them that are text.
    texts: u64,
    /// How many messages may begin.
    admitted: u64,
    bytes: u64,
    frames: u64,
}

/// What the last input ended in.
enum Open {
    Nothing,
    Header(Held),
    Payload(Payload),
    Control(Box<CutControl>),
    /// A rule was broken; `inside` a frame of which bytes had passed.
    Refused {
        inside: bool,
    },
}

/// What is still to come of a data frame.
#[derive(Clone, Copy)]
struct Payload {
    remaining: u64,
    fin: bool,
    /// Check it for UTF-8.
    text: bool,
    /// Turned so that it begins at the next byte.
    key: Option<[u8; 4]>,
}

#[derive(Clone, Copy)]
struct Message {
    bytes: u64,
    fragments: u32,
    text: bool,
}

/// A control frame whose payload has not all arrived.
struct CutControl {
    opcode: Opcode,
    key: Option<[u8; 4]>,
    payload: [u8; CONTROL_MAX],
    have: usize,
    want: usize,
}

impl CutControl {
    /// Takes what it still wants from the front of `input`; how much that was.
    fn take(&mut self, input: &[u8]) -> usize {
        let more = input.len().min(self.want - self.have);
        self.payload[self.have..self.have + more].copy_from_slice(&input[..more]);
        self.have += more;
        more
    }
}

impl Scanner {
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            open: Open::Nothing,
            message: None,
            utf8: Utf8::default(),
            messages: 0,
            texts: 0,
            admitted: u64::MAX,
            bytes: 0,
            frames: 0,
        }
    }

    /// Other limits hold from the next frame on: one whose header has passed goes on under those that it began under. What
    /// a fragmented message had before counts.
    pub fn renew(&mut self, rules: Rules) {
        self.rules = rules;
    }

    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// From now on each message has to be admitted before its first byte passes.
    pub fn count_messages(&mut self) {
        self.admitted = self.messages;
    }

    /// One message more may pass.
    pub fn admit(&mut self) {
        self.admitted = self.admitted.saturating_add(1);
    }

    /// Every message may pass.
    pub fn admit_all(&mut self) {
        self.admitted = u64::MAX;
    }

    /// Whether this is the first frame of a message that was not admitted.
    #[inline]
    fn has_to_wait(&self, header: &Header) -> bool {
        self.messages == self.admitted && header.opcode != Opcode::Continuation
    }

    /// Walks `input`, which follows what was taken before.
    pub fn scan(&mut self, input: &[u8], until: Until) -> Step {
        let mut step = Step { held: Held::default(), pass: 0, taken: 0, event: None };
        if let Err(violation) = self.walk(input, until, &mut step) {
            self.open = Open::Refused { inside: !self.at_boundary() };
            step.taken = input.len();
            step.event = Some(Event::Violation(violation));
        }
        step
    }

    /// Walks `input` to the next event, where nothing may pass any more: none of it is counted. Whether there was data in it.
    pub fn skip(&mut self, input: &[u8]) -> (Step, bool) {
        let before = (self.messages, self.texts, self.bytes);
        let step = self.scan(input, Until::Event);
        let data = before != (self.messages, self.texts, self.bytes);
        (self.messages, self.texts, self.bytes) = before;
        (step, data)
    }

    /// Whether what has passed so far ends between two frames: a control frame may be written here.
    pub fn at_boundary(&self) -> bool {
        !matches!(self.open, Open::Payload(_) | Open::Refused { inside: true })
    }

    /// Whether the peer has begun a frame (its header, a payload, a control frame) and not ended it. False after a
    /// violation: nothing is waited for.
    pub fn mid_frame(&self) -> bool {
        matches!(self.open, Open::Header(_) | Open::Payload(_) | Open::Control(_))
    }

    /// Whether a fragmented message is open: from the header of its first frame to the last byte of its last one.
    pub fn mid_message(&self) -> bool {
        self.message.is_some()
    }

    /// Data messages begun: counted when the header of the first frame is complete, and passes.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Those of them that are text; the others are binary.
    pub fn texts(&self) -> u64 {
        self.texts
    }

    /// Payload bytes of data frames that were taken: counted as they pass.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Frames begun, control frames included: tells one frame from the next. Counted at a frame's first byte, so that
    /// the count stays the same while one frame dribbles in, and a frame that is refused counts too.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Keeps `step.pass` at the end of what may pass, so that an error needs no repair.
    fn walk(&mut self, input: &[u8], until: Until, step: &mut Step) -> Result<(), Violation> {
        if !matches!(self.open, Open::Nothing) {
            self.resume(input, step)?;
            if step.event.is_some() {
                return Ok(());
            }
            if until == Until::Boundary && step.pass > 0 && matches!(self.open, Open::Nothing) {
                step.event = Some(Event::Boundary);
                return Ok(());
            }
        }
        // Whatever is still open now has taken the whole input.
        let mut at = step.taken;
        while at < input.len() {
            self.frames += 1;
            let rest = &input[at..];
            match Header::parse(rest) {
                Parsed::Whole(header, len) if !header.opcode.is_control() => {
                    if self.has_to_wait(&header) {
                        self.frames -= 1;
                        step.event = Some(Event::Message);
                        break;
                    }
                    at += len + self.data_frame(&header, &rest[len..])?;
                    step.pass = at;
                    if until == Until::Boundary && matches!(self.open, Open::Nothing) {
                        step.event = Some(Event::Boundary);
                        break;
                    }
                }
                Parsed::Whole(header, len) => {
                    step.taken = at + len;
                    return self.control_frame(&header, input, step);
                }
                Parsed::Incomplete => {
                    self.open = Open::Header(Held::default().joined(rest));
                    at = input.len();
                }
                Parsed::Faulty(fault) => return Err(fault.into()),
            }
        }
        step.taken = at;
        Ok(())
    }

    /// Goes on with what the last input ended in. Either it ends in this input, or it takes all of it.
    #[inline(never)]
    fn resume(&mut self, input: &[u8], step: &mut Step) -> Result<(), Violation> {
        match &mut self.open {
            Open::Nothing => {}
            Open::Refused { .. } => step.taken = input.len(),
            Open::Payload(payload) => {
                let payload = *payload;
                step.taken = self.payload(payload, input)?;
                step.pass = step.taken;
            }
            Open::Header(held) => {
                let held = *held;
                self.open = Open::Nothing;
                return self.resume_header(held, input, step);
            }
            Open::Control(cut) => {
                step.taken = cut.take(input);
                if cut.have == cut.want {
                    let event = control_event(cut.opcode, cut.key, &cut.payload[..cut.want])?;
                    self.open = Open::Nothing;
                    step.event = Some(event);
                }
            }
        }
        Ok(())
    }

    fn resume_header(&mut self, held: Held, input: &[u8], step: &mut Step) -> Result<(), Violation> {
        let joined = held.joined(input);
        match Header::parse(joined.as_ref()) {
            Parsed::Whole(header, len) => {
                // The header was not complete in what was held, so that at least one byte of it is here.
                let at = len - usize::from(held.len);
                if header.opcode.is_control() {
                    step.taken = at;
                    return self.control_frame(&header, input, step);
                }
                if self.has_to_wait(&header) {
                    self.open = Open::Header(held);
                    step.event = Some(Event::Message);
                    return Ok(());
                }
                step.taken = at + self.data_frame(&header, &input[at..])?;
                step.pass = step.taken;
                step.held = held;
            }
            Parsed::Incomplete => {
                self.open = Open::Header(joined);
                step.taken = input.len();
            }
            Parsed::Faulty(fault) => return Err(fault.into()),
        }
        Ok(())
    }

    /// A data frame whose payload begins with `rest`: how much of `rest` it takes. Nothing must be open.
    #[inline]
    fn data_frame(&mut self, header: &Header, rest: &[u8]) -> Result<usize, Violation> {
        self.check(header)?;
        let text = if header.opcode == Opcode::Continuation {
            self.continue_message(header)?
        } else {
            self.begin_message(header)?
        };
        // Most frames come whole and are not looked into: nothing of them needs to be remembered.
        if header.payload_len <= rest.len() as u64 && !text {
            self.bytes += header.payload_len;
            self.end_frame(header.fin);
            return Ok(header.payload_len as usize);
        }
        let payload = Payload { remaining: header.payload_len, fin: header.fin, text, key: header.mask };
        let taken = self.payload(payload, rest);
        if taken.is_err() && header.opcode != Opcode::Continuation {
            // Nothing of it passes, so that it never began.
            self.messages -= 1;
            self.texts -= u64::from(header.opcode == Opcode::Text);
        }
        taken
    }

    /// A control frame whose payload begins at `step.taken`.
    #[inline(never)]
    fn control_frame(&mut self, header: &Header, input: &[u8], step: &mut Step) -> Result<(), Violation> {
        self.check(header)?;
        if !header.fin {
            return Err(Violation::ControlFragmented);
        }
        if header.payload_len > CONTROL_MAX as u64 {
            return Err(Violation::ControlTooLong);
        }
        let want = header.payload_len as usize;
        let rest = &input[step.taken..];
        if let Some(payload) = rest.get(..want) {
            let event = control_event(header.opcode, header.mask, payload)?;
            step.taken += want;
            step.event = Some(event);
        } else {
            let Header { opcode, mask: key, .. } = *header;
            let mut cut = Box::new(CutControl { opcode, key, payload: [0; CONTROL_MAX], have: 0, want });
            step.taken += cut.take(rest);
            self.open = Open::Control(cut);
        }
        Ok(())
    }

    /// The rules that look at one header alone.
    #[inline]
    fn check(&self, header: &Header) -> Result<(), Violation> {
        if header.rsv != 0 {
            self.check_rsv(header)?;
        }
        // Section 5.1.
        match (self.rules.masked, header.mask.is_some()) {
            (true, false) => Err(Violation::NotMasked),
            (false, true) => Err(Violation::Masked),
            _ => Ok(()),
        }
    }

    /// Section 5.2, and RFC 7692 section 6: RSV1 marks a message, so it belongs on the first frame alone.
    fn check_rsv(&self, header: &Header) -> Result<(), Violation> {
        let is_start = matches!(header.opcode, Opcode::Text | Opcode::Binary);
        if header.rsv == RSV1 && is_start && self.rules.deflate { Ok(()) } else { Err(Violation::ReservedBits) }
    }

    /// The first frame of a message (section 5.4), and its limits; whether the payload is to be checked for UTF-8.
    #[inline]
    fn begin_message(&mut self, header: &Header) -> Result<bool, Violation> {
        if self.message.is_some() {
            return Err(Violation::StartInsideMessage);
        }
        self.check_size(header, 0)?;
        let text = self.rules.strict && header.opcode == Opcode::Text && header.rsv & RSV1 == 0;
        self.messages += 1;
        self.texts += u64::from(header.opcode == Opcode::Text);
        // A message of one frame needs no record: most messages are that.
        if !header.fin {
            self.message = Some(Message { bytes: header.payload_len, fragments: 1, text });
        }
        Ok(text)
    }

    /// A later frame of a message (section 5.4), as [`Self::begin_message`].
    fn continue_message(&mut self, header: &Header) -> Result<bool, Violation> {
        let Some(mut message) = self.message else {
            return Err(Violation::ContinuationWithoutStart);
        };
        message.bytes = self.check_size(header, message.bytes)?;
        message.fragments = message.fragments.saturating_add(1);
        if self.rules.fragments_max.is_some_and(|max| message.fragments > max.get()) {
            return Err(Violation::TooManyFragments);
        }
        self.message = Some(message);
        Ok(message.text)
    }

    /// The limits of a frame, and of its message, of which `before` came in earlier frames; the message's size by now.
    #[inline]
    fn check_size(&self, header: &Header, before: u64) -> Result<u64, Violation> {
        if header.payload_len > self.rules.frame_bytes_max {
            return Err(Violation::FrameTooBig);
        }
        match before.checked_add(header.payload_len) {
            Some(bytes) if bytes <= self.rules.message_bytes_max => Ok(bytes),
            _ => Err(Violation::MessageTooBig),
        }
    }

    /// Takes from `input` what belongs to the payload: how much that was.
    fn payload(&mut self, mut payload: Payload, input: &[u8]) -> Result<usize, Violation> {
        let len = usize::try_from(payload.remaining).map_or(input.len(), |remaining| remaining.min(input.len()));
        payload.remaining -= len as u64;
        if payload.text {
            self.check_text(&mut payload, &input[..len])?;
        }
        self.bytes += len as u64;
        if payload.remaining > 0 {
            self.open = Open::Payload(payload);
        } else {
            self.open = Open::Nothing;
            self.end_frame(payload.fin);
        }
        Ok(len)
    }

    #[inline]
    fn end_frame(&mut self, fin: bool) {
        if fin {
            self.message = None;
        }
    }

    /// Section 8.1: `bytes` come next in a text, and end it where they end a last frame.
    fn check_text(&mut self, payload: &mut Payload, bytes: &[u8]) -> Result<(), Violation> {
        match &mut payload.key {
            None => self.utf8.push(bytes)?,
            Some(key) => {
                // Unmasked piece by piece on the stack; what passes stays masked.
                let mut piece = [0; 512];
                for masked in bytes.chunks(piece.len()) {
                    let piece = &mut piece[..masked.len()];
                    piece.copy_from_slice(masked);
                    mask(*key, 0, piece);
                    self.utf8.push(piece)?;
                }
                // Pieces but the last are whole turns of the key.
                key.rotate_left(bytes.len() % 4);
            }
        }
        if payload.remaining == 0 && payload.fin {
            self.utf8.end()?;
        }
        Ok(())
    }
}

fn control_event(opcode: Opcode, key: Option<[u8; 4]>, payload: &[u8]) -> Result<Event, Violation> {
    let control = Control::received(opcode, key, payload);
    if opcode == Opcode::Close {
        close::parse(control.payload())?;
    }
    Ok(Event::Control(control))
}

#[cfg(test)]
mod tests;
