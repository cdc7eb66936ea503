//! Pipes, through which `splice` moves bytes from one socket to another without a copy (splice(2)).

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// From this on a piece is worth a pipe: it spares two copies, and costs a system call.
pub const BULK: usize = 16 * 1024;

/// How much a pipe holds: the most that the kernel lets an unprivileged user have, until its pipes together hold 64 MiB
/// (pipe(7)).
pub const SIZE: usize = 1024 * 1024;

/// How much may move from one socket to another before it is others' turn.
pub const TURN: usize = 1024 * 1024;

/// What does where that is not to be had. A smaller pipe is no better than a copy.
const LESS: usize = SIZE / 4;

/// How many pipes a worker has at once. What a slow receiver has not taken stays in one; who gets none copies.
const MOST: usize = 32;

/// How many of them are kept for later.
const KEPT: usize = 4;

/// A worker's pipes.
#[derive(Debug, Default)]
pub struct Pipes(Rc<Pool>);

#[derive(Debug, Default)]
struct Pool {
    /// Empty ones.
    idle: RefCell<Vec<Ends>>,
    open: Rc<Cell<usize>>,
    are_of_no_use: Cell<bool>,
}

/// A pipe, and how much is in it. Dropped empty it is there for the next.
#[derive(Debug)]
pub struct Pipe {
    ends: Ends,
    held: usize,
    pool: Rc<Pool>,
}

/// The ends of a pipe.
#[derive(Clone, Debug)]
struct Ends(Rc<Open>);

#[derive(Debug)]
struct Open {
    reader: OwnedFd,
    writer: OwnedFd,
    count: Rc<Cell<usize>>,
}

impl Pipes {
    /// An empty pipe, if there may be one more.
    #[must_use]
    pub fn take(&self) -> Option<Pipe> {
        let pool = &self.0;
        if pool.are_of_no_use.get() {
            return None;
        }
        let idle = pool.idle.borrow_mut().pop();
        let ends = idle.or_else(|| (pool.open.get() < MOST).then(|| Ends::new(&pool.open))?)?;
        Some(Pipe { ends, held: 0, pool: Rc::clone(pool) })
    }
}

impl Ends {
    fn new(count: &Rc<Cell<usize>>) -> Option<Self> {
        // For want of files a connection had better be slow than broken.
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        [SIZE, LESS].iter().find(|size| fcntl_setpipe_size(&writer, **size).is_ok())?;
        count.set(count.get() + 1);
        Some(Self(Rc::new(Open { reader, writer, count: Rc::clone(count) })))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.count.set(self.count.get() - 1);
    }
}

impl Pipe {
    /// How many bytes are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Takes what `from` has, `most` bytes at most, into the pipe, which is empty; how much that was, 0 at the end of what it has. `None`:
    /// there is no `splice` here, as in some sandboxes, and there will be no pipe any more.
    ///
    /// # Errors
    ///
    /// When the connection breaks.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        most: usize,
    ) -> Poll<io::Result<Option<usize>>> {
        loop {
            ready!(from.poll_read_ready(cx))?;
            let filled = from.try_io(Interest::READABLE, || {
                Ok(splice(from, None, &self.ends.0.writer, None, most.min(SIZE), flags())?)
            });
            match filled {
                Ok(filled) => {
                    self.held = filled;
                    return Poll::Ready(Ok(Some(filled)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if is_unsupported(&error) => {
                    if !self.pool.are_of_no_use.replace(true) {
                        tracing::info!("bytes are copied: splice is refused: {error}");
                    }
                    return Poll::Ready(Ok(None));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Gives `to` what is in the pipe, as far as it takes it; how much that was.
    ///
    /// # Errors
    ///
    /// When the connection breaks.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            ready!(to.poll_write_ready(cx))?;
            let taken = to.try_io(Interest::WRITABLE, || {
                Ok(splice(&self.ends.0.reader, None, to, None, self.held, flags())?)
            });
            match taken {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(taken) => {
                    self.held -= taken;
                    return Poll::Ready(Ok(taken));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut idle = self.pool.idle.borrow_mut();
        if self.is_empty() && idle.len() < KEPT {
            idle.push(self.ends.clone());
        }
    }
}

fn flags() -> SpliceFlags {
    SpliceFlags::MOVE | SpliceFlags::NONBLOCK
}

/// Whether `splice` is not to be had for two sockets, rather than that one of them broke.
fn is_unsupported(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let unsupported = [Errno::INVAL, Errno::NOSYS, Errno::PERM, Errno::OPNOTSUPP];
    error.raw_os_error().is_some_and(|error| unsupported.iter().any(|code| code.raw_os_error() == error))
}
