//! The buffers of a worker thread: borrowed for one poll of one session, so that an idle session owns none.

use std::cell::RefCell;

/// 64 KiB serve messages well; larger ones help bulk streams only a little (measured on prototypes).
pub const READ_BYTES: usize = 64 * 1024;

pub struct Scratch {
    /// What was read last.
    pub input: Box<[u8]>,
    /// What goes out, where it is not one piece of the input.
    pub output: Vec<u8>,
    /// Pongs that go back where the input came from.
    pub pongs: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        RefCell::new(Scratch {
            input: vec![0; READ_BYTES].into_boxed_slice(),
            output: Vec::new(),
            pongs: Vec::new(),
        });
}

/// Lends this thread's buffers to `work`, which polls one session and never another one inside.
pub fn with<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with(|scratch| work(&mut scratch.borrow_mut()))
}
