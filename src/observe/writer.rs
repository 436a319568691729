//! Where log lines go: standard error, or a file that is opened again when it was moved away.
//!
//! In: whole lines from any thread. They wait in a bounded buffer for one thread that writes: nobody else ever waits for a
//! disk or a pipe. What finds the buffer full is lost, counted and told.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait, in bytes: some seconds of a busy gateway.
const WAITING_MAX: usize = 1 << 20;
/// How long the last lines may take at the end of the process.
const LAST_LINES: Duration = Duration::from_secs(1);
/// After a write that failed.
const FULL: Duration = Duration::from_millis(100);
/// Owner and group: addresses of clients are nobody else's business.
const MODE: u32 = 0o640;

/// The way to the writing thread. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Lines(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// There is something to do for the thread.
    work: Condvar,
    /// Everything is written.
    done: Condvar,
    reopen: AtomicBool,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    writing: bool,
}

/// Where they are written.
pub enum Target {
    Stream(Box<dyn Write + Send>),
    File { path: PathBuf, file: File },
}

impl Target {
    /// Opens a log file to append to; it is made where it is not there.
    ///
    /// # Errors
    /// Those of the system.
    pub fn file(path: &Path) -> io::Result<Target> {
        Ok(Target::File { path: path.to_owned(), file: open(path)? })
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Target::File { path, file } = self {
            *file = open(path)?;
        }
        Ok(())
    }

    /// Fails with the number of bytes that were written all the same.
    fn write_all(&mut self, lines: &[u8]) -> Result<(), usize> {
        let mut written = 0;
        while written < lines.len() {
            let rest = &lines[written..];
            let once = match self {
                Target::Stream(stream) => stream.write(rest),
                Target::File { file, .. } => file.write(rest),
            };
            match once {
                Ok(0) => return Err(written),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(written),
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(MODE).open(path)
}

impl Lines {
    /// Begins the thread that writes to `target`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn to(target: Target) -> io::Result<Lines> {
        let lines = Lines(Arc::default());
        let shared = lines.0.clone();
        std::thread::Builder::new().name("log".to_owned()).spawn(move || shared.write(target))?;
        Ok(lines)
    }

    /// Opens the file again before the next line is written.
    pub fn reopen(&self) {
        self.0.reopen.store(true, Ordering::Release);
        // Under the lock, or the thread could look before and sleep after.
        let _state = self.0.lock();
        self.0.work.notify_one();
    }

    /// How many lines were lost so far.
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Waits until everything is written, at most a second.
    pub fn flush(&self) {
        let state = self.0.lock();
        let waits = |state: &mut State| !state.waiting.is_empty() || state.writing;
        drop(self.0.done.wait_timeout_while(state, LAST_LINES, waits));
    }
}

/// A whole line at a time, which is how tracing-subscriber writes.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        if state.waiting.len() + line.len() > WAITING_MAX {
            self.0.lost.fetch_add(1, Ordering::Relaxed);
        } else {
            state.waiting.extend_from_slice(line);
            self.0.work.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Lines;

    fn make_writer(&'a self) -> &'a Lines {
        self
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, mut target: Target) {
        let (mut lines, mut told) = (Vec::new(), 0);
        // What is still to be written of a line that has begun: a disk may be full in the middle of one.
        let mut torn: Vec<u8> = Vec::new();
        loop {
            self.take(&mut lines);
            if self.reopen.swap(false, Ordering::AcqRel) {
                match target.reopen() {
                    // It ends where it began, in the other file.
                    Ok(()) => self.lose(&std::mem::take(&mut torn)),
                    Err(error) => tracing::error!(%error, "the log file cannot be opened again: the old one goes on"),
                }
            }
            let goes_on = !torn.is_empty();
            lines.splice(..0, torn.drain(..));
            if let Err(written) = target.write_all(&lines) {
                let mut rest = &lines[written..];
                let in_a_line = lines[..written].last().map_or(goes_on, |last| *last != b'\n');
                if let (true, Some(end)) = (in_a_line, rest.iter().position(|byte| *byte == b'\n')) {
                    torn.extend_from_slice(&rest[..=end]);
                    rest = &rest[end + 1..];
                }
                self.lose(rest);
                // A full disk is full for a while. It is told when it takes lines again.
                std::thread::sleep(FULL);
                continue;
            }
            let lost = self.lost.load(Ordering::Relaxed);
            if lost > told {
                // It waits in the buffer like any other line.
                tracing::warn!(lines = lost - told, "log lines were lost: they came faster than they could be written");
                told = lost;
            }
        }
    }

    fn lose(&self, lines: &[u8]) {
        let count = lines.iter().filter(|byte| **byte == b'\n').count();
        self.lost.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Waits for lines, and changes them for the empty buffer: who logs never waits for who writes.
    fn take(&self, lines: &mut Vec<u8>) {
        lines.clear();
        lines.shrink_to(WAITING_MAX / 16);
        let mut state = self.lock();
        state.writing = false;
        self.done.notify_all();
        let nothing = |state: &mut State| state.waiting.is_empty() && !self.reopen.load(Ordering::Acquire);
        let mut state = self.work.wait_while(state, nothing).unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut state.waiting, lines);
        state.writing = true;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// A disk that takes a write when the test lets it.
    struct Slow {
        lets: Receiver<()>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.lets.recv().map_err(|_| io::Error::other("the test is over"))?;
            let _ = self.written.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A disk with so much room.
    #[derive(Clone, Default)]
    struct Small(Arc<Mutex<(usize, Vec<u8>)>>);

    impl Small {
        fn holds(&self) -> String {
            String::from_utf8(self.0.lock().expect("sound").1.clone()).expect("UTF-8")
        }

        fn grow(&self, room: usize) {
            self.0.lock().expect("sound").0 += room;
        }
    }

    impl Write for Small {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut disk = self.0.lock().expect("sound");
            let count = bytes.len().min(disk.0 - disk.1.len());
            disk.1.extend_from_slice(&bytes[..count]);
            if count == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(count) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_a_full_disk_cut_goes_on_when_there_is_room() {
        let disk = Small::default();
        disk.grow(9);
        let lines = Lines::to(Target::Stream(Box::new(disk.clone()))).expect("a thread");
        let say = |text: &[u8]| {
            (&lines).write_all(text).expect("never fails");
            lines.flush();
        };
        say(b"first\nsecond\nthird\n");
        say(b"fourth\n");
        assert_eq!((disk.holds().as_str(), lines.lost()), ("first\nsec", 2));
        disk.grow(2);
        say(b"fifth\n");
        assert_eq!((disk.holds().as_str(), lines.lost()), ("first\nsecon", 3));
        disk.grow(100);
        say(b"sixth\n");
        assert_eq!((disk.holds().as_str(), lines.lost()), ("first\nsecond\nsixth\n", 3));
    }

    #[test]
    fn a_disk_that_stands_still_holds_nobody_up_and_what_is_lost_is_counted() {
        let ((lets, let_through), (written, arrives)) = (channel(), channel());
        let lines = Lines::to(Target::Stream(Box::new(Slow { lets: let_through, written }))).expect("a thread");
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        (&lines).write_all(b"first\n").expect("never fails");
        // Until the thread has taken it, and stands.
        while !lines.0.lock().writing {
            std::thread::yield_now();
        }
        for _ in 0..WAITING_MAX / line.len() + 7 {
            (&lines).write_all(&line).expect("never fails");
        }
        assert_eq!(lines.lost(), 7);
        lets.send(()).expect("it waits");
        lets.send(()).expect("it waits");
        lines.flush();
        assert_eq!(arrives.recv().expect("written"), b"first\n");
        assert_eq!(arrives.recv().expect("written").len(), WAITING_MAX, "whole lines, in one write");
    }
}
