//! A stream that a test plays by hand: what it gives to a reader, what it takes from a writer, when it breaks.
//!
//! Beside it an independent reader of frames, on tungstenite's header parser.

use std::collections::VecDeque;
use std::io::{self, Cursor, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tungstenite::protocol::frame::FrameHeader;

/// Far more polls than any test of ours needs: beyond it somebody spins.
const POLLS_MAX: usize = 200_000;

/// What one poll of a reader gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Give {
    Bytes(Vec<u8>),
    /// Nothing now, but it wakes at once.
    Pending,
    End,
    Fail(ErrorKind),
}

/// What a writer's polls meet.
#[derive(Debug, Clone)]
pub enum Take {
    All,
    /// So many bytes more, then nothing.
    Bytes(usize),
    /// For ever around: at most so many bytes in one write; 0 is Pending, and wakes at once.
    Pattern(Vec<usize>, usize),
    Fail(ErrorKind),
}

#[derive(Debug)]
struct State {
    gives: VecDeque<Give>,
    takes: Take,
    read: usize,
    written: Vec<u8>,
    writes: usize,
    shut: bool,
    polls: usize,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// The test's end of a [`Stream`].
#[derive(Debug, Clone)]
pub struct Wire(Arc<Mutex<State>>);

/// The session's end.
#[derive(Debug)]
pub struct Stream(Wire);

impl Wire {
    pub fn new() -> (Wire, Stream) {
        let wire = Wire(Arc::new(Mutex::new(State {
            gives: VecDeque::new(),
            takes: Take::All,
            read: 0,
            written: Vec::new(),
            writes: 0,
            shut: false,
            polls: 0,
            reader: None,
            writer: None,
        })));
        (wire.clone(), Stream(wire))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("not poisoned")
    }

    fn polled(&self) -> MutexGuard<'_, State> {
        let mut state = self.state();
        state.polls += 1;
        assert!(state.polls < POLLS_MAX, "somebody spins");
        state
    }

    pub fn give(&self, gives: impl IntoIterator<Item = Give>) {
        let mut state = self.state();
        state.gives.extend(gives);
        if let Some(waker) = state.reader.take() {
            waker.wake();
        }
    }

    pub fn send(&self, bytes: &[u8]) {
        self.give([Give::Bytes(bytes.to_vec())]);
    }

    pub fn takes(&self, takes: Take) {
        let mut state = self.state();
        state.takes = takes;
        if let Some(waker) = state.writer.take() {
            waker.wake();
        }
    }

    /// How many bytes the session has read.
    pub fn read(&self) -> usize {
        self.state().read
    }

    pub fn polls(&self) -> usize {
        self.state().polls
    }

    /// In how many writes that took something.
    pub fn writes(&self) -> usize {
        self.state().writes
    }

    /// Whether the session has ended its half.
    pub fn is_shut(&self) -> bool {
        self.state().shut
    }

    /// Takes what was written since the last time.
    pub fn written(&self) -> Vec<u8> {
        std::mem::take(&mut self.state().written)
    }

    /// The same as frames, and no half one behind them.
    pub fn frames(&self) -> Vec<Frame> {
        let (frames, rest) = frames(&self.written());
        assert!(rest.is_empty(), "half a frame behind {frames:?}: {rest:?}");
        frames
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.polled();
        match state.gives.pop_front() {
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(Give::Pending) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Give::End) => {
                // It stays ended.
                state.gives.push_front(Give::End);
                Poll::Ready(Ok(()))
            }
            Some(Give::Fail(kind)) => {
                state.gives.push_front(Give::Fail(kind));
                Poll::Ready(Err(kind.into()))
            }
            Some(Give::Bytes(bytes)) => {
                let n = bytes.len().min(buf.remaining());
                buf.put_slice(&bytes[..n]);
                state.read += n;
                if n < bytes.len() {
                    state.gives.push_front(Give::Bytes(bytes[n..].to_vec()));
                }
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.0.polled();
        assert!(!state.shut, "written after its end: {bytes:?}");
        let n = match &mut state.takes {
            Take::All => bytes.len(),
            Take::Bytes(left) => {
                let n = bytes.len().min(*left);
                *left -= n;
                n
            }
            Take::Pattern(pattern, at) => {
                let n = pattern[*at % pattern.len()].min(bytes.len());
                *at += 1;
                if n == 0 {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                n
            }
            Take::Fail(kind) => return Poll::Ready(Err((*kind).into())),
        };
        if n == 0 {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        state.written.extend_from_slice(&bytes[..n]);
        state.writes += 1;
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write(cx, &pieces.iter().flat_map(|piece| piece.iter().copied()).collect::<Vec<_>>())
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.polled().shut = true;
        Poll::Ready(Ok(()))
    }
}

/// A frame from the wire, unmasked, with the bytes that it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub opcode: u8,
    pub masked: bool,
    pub payload: Vec<u8>,
    pub raw: Vec<u8>,
}

impl Frame {
    /// The opcode and the payload.
    pub fn is(&self) -> (u8, &[u8]) {
        (self.opcode, &self.payload)
    }
}

/// The whole frames at the front of `bytes`, and what is left behind them.
pub fn frames(bytes: &[u8]) -> (Vec<Frame>, Vec<u8>) {
    let mut frames = Vec::new();
    let mut at = 0;
    loop {
        let mut cursor = Cursor::new(&bytes[at..]);
        let Some((header, len)) = FrameHeader::parse(&mut cursor).expect("a legal header") else { break };
        let start = at + cursor.position() as usize;
        let Some(payload) = bytes.get(start..start + len as usize) else { break };
        let mut payload = payload.to_vec();
        if let Some(key) = header.mask {
            payload.iter_mut().enumerate().for_each(|(at, byte)| *byte ^= key[at % 4]);
        }
        let end = start + len as usize;
        frames.push(Frame {
            opcode: header.opcode.into(),
            masked: header.mask.is_some(),
            payload,
            raw: bytes[at..end].to_vec(),
        });
        at = end;
    }
    (frames, bytes[at..].to_vec())
}
