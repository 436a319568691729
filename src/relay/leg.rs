//! One side of a session: its stream, what it sends (scanned), and what waits to be written to it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::clock::{Facts, Progress, Watch};
use super::end::{Codes, Side, Traffic};
use super::toll::{Paid, Toll};
use crate::config::model::OnExcess;
use crate::limits::throttle::Throttle;
use crate::proto::close::Code;
use crate::proto::frame::{Control, Opcode};
use crate::proto::scan::{Scanner, Step};

/// A Close without a code, in records (RFC 6455 section 7.1.5).
pub const NO_CODE: Code = 1005;

/// What becomes of the bytes that a side sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sends {
    /// To the other side.
    Relayed,
    /// Nowhere, but they are still scanned: its Close is awaited.
    Awaited,
    /// Nowhere: its Close was seen, or its frames cannot be trusted any more.
    Ignored,
}

pub struct Leg<S> {
    io: S,
    pub side: Side,
    /// Bytes that were read and have not passed, from `early_at` on: those that came behind its head, and later those that
    /// wait for their turn. They go first.
    early: Bytes,
    early_at: usize,
    pub scanner: Scanner,
    pub toll: Toll,
    pub sends: Sends,
    /// Messages of it, or parts of one, did not pass on.
    pub dropped: bool,
    /// It ended its stream, or the stream broke.
    pub ended: bool,
    /// Nothing can be written to it any more.
    pub deaf: bool,
    shut: bool,
    /// What it did not take yet. While there is something, the other side is not read.
    held: Vec<u8>,
    held_at: usize,
    /// Since when it has refused bytes, see [`Leg::heed_refusal`].
    pub refused: Option<Instant>,
    unflushed: bool,
    /// A newer ping replaces one that could not be answered yet (RFC 6455 section 5.5.3). Boxed: rare, and 127 bytes.
    pub pong: Option<Box<Control>>,
    pub ping_due: bool,
    pub close_due: Option<Box<Control>>,
    /// `sent` counts from when it is to be written next; see [`Leg::codes`].
    pub codes: Codes,
    pub watch: Watch,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Leg<S> {
    pub fn new(io: S, early: Bytes, side: Side, mut scanner: Scanner, toll: Toll, now: Instant) -> Self {
        if toll.counts_messages() {
            scanner.count_messages();
        }
        // Also an empty rest keeps the 8 KiB alive that its head was read into.
        let early = if early.is_empty() { Bytes::new() } else { early };
        Leg {
            io,
            side,
            early,
            early_at: 0,
            scanner,
            toll,
            sends: Sends::Relayed,
            dropped: false,
            ended: false,
            deaf: false,
            shut: false,
            held: Vec::new(),
            held_at: 0,
            refused: None,
            unflushed: false,
            pong: None,
            ping_due: false,
            close_due: None,
            codes: Codes::default(),
            watch: Watch::new(now),
        }
    }

    /// Our frames towards an upstream are masked: we are its client (RFC 6455 section 5.1).
    pub fn mask(&self) -> Option<[u8; 4]> {
        (self.side == Side::Upstream).then(rand::random)
    }

    /// Whether it refused bytes that still wait.
    pub fn refuses(&self) -> bool {
        !self.held.is_empty()
    }

    /// The codes for the record, which claims no Close that was never written.
    pub fn codes(&self) -> Codes {
        Codes { sent: self.codes.sent.filter(|_| !self.refuses()), ..self.codes }
    }

    /// Whether it closed, and nobody has answered it nor is going to.
    pub fn owed(&self) -> bool {
        let unanswered = self.codes.sent.is_none() && self.close_due.is_none();
        self.codes.received.is_some() && unanswered && !self.deaf
    }

    /// Whether what has passed of it ends with a message.
    pub fn is_between_messages(&self) -> bool {
        self.scanner.at_boundary() && !self.scanner.mid_message()
    }

    pub fn traffic(&self) -> Traffic {
        Traffic { messages: self.scanner.messages(), bytes: self.scanner.bytes() }
    }

    /// Other terms hold from `now` on; `throttle` where what is paid from is another one.
    pub fn renew(&mut self, on_excess: OnExcess, throttle: Option<Option<Arc<Throttle>>>, now: Instant) {
        if self.sends != Sends::Relayed {
            return;
        }
        let counted = self.toll.counts_messages();
        self.toll.renew(on_excess, throttle, now);
        match (counted, self.toll.counts_messages()) {
            (false, true) => self.scanner.count_messages(),
            // Also the one that waits.
            (true, false) => self.scanner.admit_all(),
            _ => {}
        }
    }

    /// Whether it may not be read before its turn. Lets the message pass whose turn has come.
    pub fn waits(&mut self, now: Instant) -> bool {
        if self.sends != Sends::Relayed {
            self.toll.lift();
            self.scanner.admit_all();
            return false;
        }
        match self.toll.go_on(now) {
            Err(_) => return true,
            Ok(true) => self.scanner.admit(),
            Ok(false) => {}
        }
        false
    }

    /// Scans what does not pass on.
    pub fn skip(&mut self, input: &[u8]) -> Step {
        let (step, data) = self.scanner.skip(input);
        self.dropped |= data;
        step
    }

    /// Pays for the message that begins, which may pass then.
    pub fn pay_message(&mut self, now: Instant) -> Paid {
        let paid = self.toll.message(now);
        if paid == Paid::GoOn {
            self.scanner.admit();
        }
        paid
    }

    /// Pays for the data bytes that have passed since there were `before`.
    pub fn pay_bytes(&mut self, before: u64, now: Instant) -> Paid {
        match self.scanner.bytes() - before {
            0 => Paid::GoOn,
            bytes => self.toll.bytes(bytes, now),
        }
    }

    /// Whether it refuses bytes or waits for its turn, or just ceased to.
    pub fn is_held_up(&self) -> bool {
        self.refuses() || self.refused.is_some() || !self.early.is_empty() || self.toll.until().is_some()
    }

    /// Whether there is a frame of ours for it.
    pub fn has_due(&self) -> bool {
        self.pong.is_some() || self.ping_due || self.close_due.is_some()
    }

    /// Bytes that it makes us hold, in both directions.
    pub fn holds(&self) -> usize {
        self.held.len() + self.early.len()
    }

    /// Notes since when it has refused bytes without a pause.
    pub fn heed_refusal(&mut self, now: Instant) {
        self.refused = if self.refuses() { self.refused.or(Some(now)) } else { None };
    }

    pub fn facts(&self, held_back: bool) -> Facts {
        let progress = Progress { frame: self.scanner.frames(), bytes: self.scanner.bytes() };
        Facts { held_back, refuses: self.refuses(), frame: self.scanner.mid_frame().then_some(progress) }
    }

    /// Reads what it sent into `input`; `Ok(0)` is the end of its stream.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, input: &mut [u8]) -> Poll<io::Result<usize>> {
        if !self.early.is_empty() {
            let early = &self.early[self.early_at..];
            let n = early.len().min(input.len());
            input[..n].copy_from_slice(&early[..n]);
            self.early_at += n;
            return Poll::Ready(Ok(n));
        }
        let mut buf = ReadBuf::new(input);
        Pin::new(&mut self.io).poll_read(cx, &mut buf).map_ok(|()| buf.filled().len())
    }

    /// To be called after each read of `n` bytes that was dealt with: `rest`, its end, waits for its turn.
    pub fn keep(&mut self, n: usize, rest: &[u8]) {
        self.toll.did_read(n, rest.len(), self.early.is_empty());
        if !self.early.is_empty() {
            self.early_at -= rest.len();
            // The block behind a head is 8 KiB or more: it goes with the last byte.
            if self.early_at == self.early.len() {
                self.forget_early();
            }
        } else if !rest.is_empty() {
            self.early = Bytes::copy_from_slice(rest);
        }
    }

    fn forget_early(&mut self) {
        self.early = Bytes::new();
        self.early_at = 0;
    }

    /// Writes `pieces` one behind the other, behind what already waits; what it does not take now is kept.
    pub fn write(&mut self, cx: &mut Context<'_>, mut pieces: &mut [IoSlice<'_>]) {
        if self.deaf || self.shut {
            return;
        }
        // Drops the empty ones at the front.
        IoSlice::advance_slices(&mut pieces, 0);
        while !pieces.is_empty() && self.held.is_empty() {
            let io = Pin::new(&mut self.io);
            let written = match pieces {
                [piece, rest @ ..] if rest.iter().all(|piece| piece.is_empty()) => io.poll_write(cx, piece),
                _ => io.poll_write_vectored(cx, pieces),
            };
            match written {
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.unflushed = true;
                    IoSlice::advance_slices(&mut pieces, n);
                }
                Poll::Ready(_) => {
                    // A Close would be the last of these bytes.
                    self.codes.sent = None;
                    return self.turn_deaf();
                }
                Poll::Pending => break,
            }
        }
        for piece in pieces {
            self.held.extend_from_slice(piece);
        }
    }

    /// Offers again what it refused. True when it took something.
    pub fn write_held(&mut self, cx: &mut Context<'_>) -> bool {
        let mut took = false;
        while self.held_at < self.held.len() {
            match Pin::new(&mut self.io).poll_write(cx, &self.held[self.held_at..]) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    took = true;
                    self.unflushed = true;
                    self.held_at += n;
                }
                Poll::Ready(_) => {
                    self.turn_deaf();
                    return true;
                }
                Poll::Pending => return took,
            }
        }
        if self.held_at > 0 {
            self.held = Vec::new();
            self.held_at = 0;
            self.refused = None;
        }
        took
    }

    /// It is gone: neither read nor written any more.
    pub fn abandon(&mut self) {
        self.ended = true;
        self.sends = Sends::Ignored;
        self.forget_early();
        self.turn_deaf();
    }

    /// Nothing reaches it any more. What it sent before may still be read: a Close often stands there.
    fn turn_deaf(&mut self) {
        self.codes = self.codes();
        self.deaf = true;
        self.held = Vec::new();
        self.held_at = 0;
        self.unflushed = false;
        self.drop_due();
    }

    pub fn drop_due(&mut self) {
        self.pong = None;
        self.ping_due = false;
        self.close_due = None;
    }

    /// Appends our frames that are due to `output`. The caller makes sure that this is between two frames.
    ///
    /// `pong` is false while the pong has to wait for a sign of life from the other side.
    pub fn take_due(&mut self, output: &mut Vec<u8>, pong: bool, ping: &[u8]) {
        if pong && let Some(frame) = self.pong.take() {
            output.extend_from_slice(frame.encode(self.mask()).as_ref());
        }
        if std::mem::take(&mut self.ping_due) {
            output.extend_from_slice(Control::new(Opcode::Ping, ping).encode(self.mask()).as_ref());
        }
        if let Some(frame) = self.close_due.take() {
            output.extend_from_slice(frame.encode(self.mask()).as_ref());
            self.codes.sent = Some(code(&frame));
            self.drop_due();
        }
    }

    /// TLS keeps records back until it is flushed: never park without it.
    pub fn flush(&mut self, cx: &mut Context<'_>) {
        if self.unflushed {
            match Pin::new(&mut self.io).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(_)) => self.turn_deaf(),
                Poll::Pending => {}
            }
        }
    }

    /// Ends our half of the stream, once everything was written: close_notify of TLS, then FIN.
    pub fn shut(&mut self, cx: &mut Context<'_>) {
        if self.shut || self.deaf || self.refuses() {
            return;
        }
        match Pin::new(&mut self.io).poll_shutdown(cx) {
            Poll::Ready(Ok(())) => self.shut = true,
            Poll::Ready(Err(_)) => self.turn_deaf(),
            Poll::Pending => {}
        }
    }

    /// Whether nothing is left to do on it.
    pub fn done(&self) -> bool {
        self.ended && (self.shut || self.deaf)
    }

    /// Whether both Closes were exchanged with it (RFC 6455 section 7.1.4).
    pub fn closed(&self) -> bool {
        self.codes.sent.is_some() && self.codes.received.is_some() && !self.refuses()
    }
}

/// The code of a checked Close frame.
pub fn code(close: &Control) -> Code {
    match close.payload() {
        [high, low, ..] => u16::from_be_bytes([*high, *low]),
        _ => NO_CODE,
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::limits::throttle::Sender;
    use crate::proto::scan::Rules;

    fn scanner() -> Scanner {
        let max = u64::MAX;
        Scanner::new(Rules {
            masked: true,
            deflate: false,
            frame_bytes_max: max,
            message_bytes_max: max,
            fragments_max: None,
            strict: false,
        })
    }

    #[test]
    fn what_was_kept_back_leaves_no_buffer_behind() {
        let (near, mut far) = tokio::io::duplex(10);
        let mut cx = Context::from_waker(Waker::noop());
        let now = Instant::now();
        let toll = Toll::new(Sender::Client, None, OnExcess::Delay, now);
        let mut leg = Leg::new(near, Bytes::new(), Side::Client, scanner(), toll, now);
        leg.write(&mut cx, &mut [IoSlice::new(&[7; 60]), IoSlice::new(&[]), IoSlice::new(&[7; 40])]);
        assert!(leg.refuses());
        let mut taken = Vec::new();
        while taken.len() < 100 {
            let mut piece = [0; 10];
            let mut buf = ReadBuf::new(&mut piece);
            let _ = Pin::new(&mut far).poll_read(&mut cx, &mut buf);
            taken.extend_from_slice(buf.filled());
            leg.write_held(&mut cx);
        }
        assert_eq!(taken, [7; 100]);
        assert!(!leg.refuses());
        assert_eq!(leg.held.capacity(), 0);
    }
}
