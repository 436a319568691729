//! A socket below TLS, read ahead: rustls asks for 4 KiB at a time, and each would be a system call.
//!
//! In: a socket. Out: the same bytes in the same order, with one system call for up to 64 KiB of them. What was
//! not asked for yet lies in a buffer that the thread lends and gets back as soon as it is empty: an idle session owns none.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Three full records (RFC 8446 section 5.2) and something of a fourth, as much as the relay's own buffer takes.
const AHEAD_BYTES: usize = 64 * 1024;

thread_local! {
    /// The buffer of whoever reads next. Who finds none, because a session that is held back has it, makes one.
    static SPARE: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

#[derive(Debug)]
pub struct Ahead<S> {
    socket: S,
    /// Read from the socket; what lies in `at..end` was not asked for yet.
    bytes: Option<Box<[u8]>>,
    at: usize,
    end: usize,
    /// What the next read is told; see [`Ahead::fail`].
    failed: Option<io::ErrorKind>,
}

impl<S> Ahead<S> {
    pub fn new(socket: S) -> Self {
        Ahead { socket, bytes: None, at: 0, end: 0, failed: None }
    }

    /// Whether the next read is served from memory.
    pub fn has_bytes(&self) -> bool {
        self.bytes.is_some()
    }

    /// Makes the next read fail: an error that was found behind good bytes waits until those were taken.
    pub fn fail(&mut self, kind: io::ErrorKind) {
        self.failed = Some(kind);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(kind) = this.failed.take() {
            return Poll::Ready(Err(kind.into()));
        }
        let bytes = match this.bytes.take() {
            Some(bytes) => bytes,
            None => {
                let mut bytes = SPARE.take().unwrap_or_else(|| vec![0; AHEAD_BYTES].into_boxed_slice());
                let mut read = ReadBuf::new(&mut bytes);
                let polled = Pin::new(&mut this.socket).poll_read(cx, &mut read);
                (this.at, this.end) = (0, read.filled().len());
                if this.end == 0 {
                    SPARE.set(Some(bytes));
                    return polled;
                }
                ready!(polled)?;
                bytes
            }
        };
        let n = buf.remaining().min(this.end - this.at);
        buf.put_slice(&bytes[this.at..this.at + n]);
        this.at += n;
        match this.at < this.end {
            true => this.bytes = Some(bytes),
            false => SPARE.set(Some(bytes)),
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Ahead<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;

    /// Gives what it holds, one piece a read; `None` is not yet, and behind the last piece is the end.
    #[derive(Debug, Default)]
    struct Pieces {
        left: VecDeque<Option<Vec<u8>>>,
        reads: usize,
    }

    impl AsyncRead for Pieces {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            self.reads += 1;
            match self.left.pop_front() {
                Some(None) => Poll::Pending,
                Some(Some(mut piece)) => {
                    let rest = piece.split_off(piece.len().min(buf.remaining()));
                    buf.put_slice(&piece);
                    if !rest.is_empty() {
                        self.left.push_front(Some(rest));
                    }
                    Poll::Ready(Ok(()))
                }
                None => Poll::Ready(Ok(())),
            }
        }
    }

    fn read(ahead: &mut Ahead<Pieces>, most: usize) -> Poll<io::Result<Vec<u8>>> {
        let mut bytes = vec![0; most];
        let mut buf = ReadBuf::new(&mut bytes);
        Pin::new(ahead).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf).map_ok(|()| buf.filled().to_vec())
    }

    #[test]
    fn one_read_of_the_socket_serves_many() {
        let mut ahead = Ahead::new(Pieces { left: [Some(vec![7; 16 << 10])].into(), reads: 0 });
        for _ in 0..4 {
            assert!(matches!(read(&mut ahead, 4096), Poll::Ready(Ok(bytes)) if bytes == [7; 4096]));
        }
        assert_eq!(ahead.socket.reads, 1);
        assert!(!ahead.has_bytes(), "the buffer went back");
    }

    #[test]
    fn a_failure_is_told_once_and_before_the_bytes_behind_it() {
        let mut ahead = Ahead::new(Pieces { left: [Some(vec![7; 8])].into(), reads: 0 });
        ahead.fail(io::ErrorKind::InvalidData);
        assert!(matches!(read(&mut ahead, 8), Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::InvalidData));
        assert!(matches!(read(&mut ahead, 8), Poll::Ready(Ok(bytes)) if bytes == [7; 8]));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Two streams of one thread, read in turns: each gets its own bytes, whoever has the spare buffer.
        #[test]
        fn any_pieces_any_reads_same_bytes(
            pieces in prop::array::uniform2(prop::collection::vec(prop::option::of(1..200_000_usize), 0..6)),
            sizes in prop::collection::vec(1..70_000_usize, 1..8),
        ) {
            let mut number = 0_u32;
            let mut fill = |len: usize| -> Vec<u8> {
                (0..len).map(|_| { number = number.wrapping_mul(1_664_525).wrapping_add(1); (number >> 24) as u8 }).collect()
            };
            let pieces = pieces.map(|side| side.into_iter().map(|len| len.map(&mut fill)).collect::<VecDeque<_>>());
            let expected = pieces.clone().map(|side| side.into_iter().flatten().flatten().collect::<Vec<_>>());
            let mut streams = pieces.map(|left| Ahead::new(Pieces { left, reads: 0 }));
            let mut got = [Vec::new(), Vec::new()];
            let mut ended = [false, false];
            for turn in 0_usize.. {
                let side = turn % 2;
                match read(&mut streams[side], sizes[turn % sizes.len()]) {
                    Poll::Ready(Ok(bytes)) if bytes.is_empty() => ended[side] = true,
                    Poll::Ready(bytes) => got[side].extend(bytes.expect("no failure")),
                    Poll::Pending => prop_assert!(!streams[side].has_bytes(), "nothing waits while the socket is waited for"),
                }
                if ended == [true, true] {
                    break;
                }
            }
            prop_assert!(got == expected);
            prop_assert!(streams.iter().all(|stream| !stream.has_bytes()));
        }
    }
}
