//! Pipes, through which `splice` moves bytes from one socket to another without a copy (splice(2)).

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// How much a pipe holds: the most that the kernel lets an unprivileged user have, until its pipes together hold 64 MiB
/// (pipe(7)).
const SIZE: usize = 1024 * 1024;

/// What does where that is not to be had. A smaller pipe is no better than a copy.
const LESS: usize = SIZE / 4;

/// How many pipes a worker has at once. What a slow receiver has not taken stays in one; who gets none copies.
const MOST: usize = 32;

/// How many of them are kept for later.
const KEPT: usize = 4;

/// A worker's pipes.
#[derive(Debug, Default)]
pub struct Pipes {
    /// Empty ones.
    idle: RefCell<Vec<Pipe>>,
    open: Rc<Cell<usize>>,
    are_of_no_use: Cell<bool>,
}

/// A pipe, and how much is in it.
#[derive(Debug)]
pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    held: usize,
    open: Rc<Cell<usize>>,
}

impl Pipes {
    /// An empty pipe, if there may be one more.
    pub(super) fn take(&self) -> Option<Pipe> {
        if self.are_of_no_use.get() {
            return None;
        }
        self.idle.borrow_mut().pop().or_else(|| (self.open.get() < MOST).then(|| Pipe::new(&self.open))?)
    }

    /// Takes an empty pipe back.
    pub(super) fn give_back(&self, pipe: Pipe) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < KEPT {
            idle.push(pipe);
        }
    }

    /// There is no `splice` here, as in some sandboxes.
    pub(super) fn are_of_no_use(&self, error: &io::Error) {
        if !self.are_of_no_use.replace(true) {
            tracing::info!("bytes are copied: splice is refused: {error}");
        }
    }
}

impl Pipe {
    fn new(open: &Rc<Cell<usize>>) -> Option<Self> {
        // For want of files a connection had better be slow than broken.
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        [SIZE, LESS].iter().find(|size| fcntl_setpipe_size(&writer, **size).is_ok())?;
        open.set(open.get() + 1);
        Some(Self { reader, writer, held: 0, open: Rc::clone(open) })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Takes what `from` has into the empty pipe, as far as there is room; 0 at its end.
    pub(super) fn fill(&mut self, from: impl AsFd) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        self.held = splice(from, None, &self.writer, None, SIZE, flags)?;
        Ok(self.held)
    }

    /// Gives `to` what is in the pipe, as far as it takes it.
    pub(super) fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let taken = splice(&self.reader, None, to, None, self.held, flags)?;
        self.held -= taken;
        Ok(taken)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
    }
}

/// Whether `splice` is not to be had for two sockets, rather than that one of them broke.
pub(super) fn is_unsupported(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let unsupported = [Errno::INVAL, Errno::NOSYS, Errno::PERM, Errno::OPNOTSUPP];
    error.raw_os_error().is_some_and(|error| unsupported.iter().any(|code| code.raw_os_error() == error))
}
