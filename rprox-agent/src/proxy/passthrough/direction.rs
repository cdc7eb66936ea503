//! One way from a socket to another: by a copy while little comes, through a pipe while much does.
//!
//! `splice` spares the copy to here and back, and costs a system call more for each piece. So a piece that fills the buffer is
//! followed by pieces through a pipe, until one is smaller than that. Nothing is taken from the sender before the receiver has
//! taken what was there: where nothing moves there is neither buffer nor pipe.

#![forbid(unsafe_code)]

use std::io::{self, IoSlice};
use std::mem::{self, MaybeUninit};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;

use crate::proxy::socket::pipe::{BULK, Pipe, Pipes, TURN};
use crate::proxy::socket::tcp;

/// Whose connection broke.
pub(super) enum Broken {
    /// That which bytes come from.
    Sender(io::Error),
    /// That which they go to.
    Receiver(io::Error),
}

/// One way.
pub(super) struct Direction<'a> {
    pipes: &'a Pipes,
    /// What was read and not taken yet.
    pending: Bytes,
    /// The pipe in which there is something that was not taken yet.
    filled: Option<Pipe>,
    /// Whether the last piece was a large one.
    in_bulk: bool,
    state: State,
    moved: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The sender may send.
    Open,
    /// The sender has closed its half, which the receiver must be told.
    Closing,
    /// The receiver knows.
    Closed,
}

impl<'a> Direction<'a> {
    /// One way that begins with `first`, before which so much was `moved`.
    pub(super) fn new(first: Bytes, moved: u64, pipes: &'a Pipes) -> Self {
        Self { pipes, pending: first, filled: None, in_bulk: false, state: State::Open, moved }
    }

    /// Whether the receiver knows that the sender has ended.
    pub(super) fn is_over(&self) -> bool {
        self.state == State::Closed
    }

    /// How much was handed over since somebody asked last.
    pub(super) fn moved(&mut self) -> u64 {
        mem::take(&mut self.moved)
    }

    /// Moves bytes until there is nothing to read or no room to write; ready once the sender's end has been passed on. Where the
    /// other way is over that is left to the close of both, which follows.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TcpStream,
        to: &mut TcpStream,
        other_is_over: bool,
    ) -> Poll<Result<(), Broken>> {
        let mut left = TURN;
        loop {
            ready!(self.hand_over(cx, to)).map_err(Broken::Receiver)?;
            match self.state {
                State::Open => {}
                State::Closing => {
                    if !other_is_over {
                        ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Broken::Receiver)?;
                    }
                    self.state = State::Closed;
                    return Poll::Ready(Ok(()));
                }
                State::Closed => return Poll::Ready(Ok(())),
            }
            if left == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let taken = match self.pipe() {
                Some(pipe) => ready!(self.fill(cx, from, pipe)).map_err(Broken::Sender)?,
                None => ready!(self.copy(cx, from, to))?,
            };
            left = left.saturating_sub(taken);
        }
    }

    /// Gives the receiver what it has not taken yet.
    fn hand_over(&mut self, cx: &mut Context<'_>, to: &mut TcpStream) -> Poll<io::Result<()>> {
        while self.pending.has_remaining() {
            let written = ready!(tcp::poll_write(to, cx, &self.pending))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.moved += written as u64;
            self.pending.advance(written);
            if self.pending.is_empty() {
                // Emptied it would still hold its memory.
                self.pending = Bytes::new();
            }
        }
        while let Some(pipe) = &mut self.filled {
            self.moved += ready!(pipe.poll_drain(cx, to))? as u64;
            if pipe.is_empty() {
                self.filled = None;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// A pipe, where one is worth it and to be had.
    fn pipe(&self) -> Option<Pipe> {
        self.in_bulk.then(|| self.pipes.take())?
    }

    /// Takes a piece from the sender into `pipe`, if that can be done; how much it was.
    fn fill(&mut self, cx: &mut Context<'_>, from: &TcpStream, mut pipe: Pipe) -> Poll<io::Result<usize>> {
        let taken = ready!(pipe.poll_fill(cx, from, usize::MAX))?;
        if taken == Some(0) {
            self.state = State::Closing;
        }
        let taken = taken.unwrap_or_default();
        self.in_bulk = taken >= BULK;
        self.filled = Some(pipe).filter(|pipe| !pipe.is_empty());
        Poll::Ready(Ok(taken))
    }

    /// Takes a piece from the sender and gives it to the receiver, as far as that takes it at once; how much it was, unless it is known
    /// that for now it was all.
    fn copy(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
    ) -> Poll<Result<usize, Broken>> {
        let mut space = [const { MaybeUninit::uninit() }; BULK];
        let mut piece = ReadBuf::uninit(&mut space);
        ready!(tcp::poll_read(from, cx, &mut piece)).map_err(Broken::Sender)?;
        let behind = if piece.filled().is_empty() { Ok(Behind::End) } else { behind(cx, from, &mut piece) };
        let bytes = piece.filled();
        self.in_bulk = bytes.len() == BULK;
        if !bytes.is_empty() {
            let is_last = matches!(behind, Ok(Behind::End));
            let written = if is_last {
                tcp::poll_write_last(to, cx, &[IoSlice::new(bytes)])
            } else {
                tcp::poll_write(to, cx, bytes)
            };
            let written = match written.map_err(Broken::Receiver)? {
                Poll::Ready(written) => written,
                Poll::Pending => 0,
            };
            self.moved += written as u64;
            if written < bytes.len() {
                self.pending = Bytes::copy_from_slice(&bytes[written..]);
            }
        }
        let taken = bytes.len();
        match behind.map_err(Broken::Sender)? {
            Behind::End => self.state = State::Closing,
            Behind::Nothing if self.pending.is_empty() => return Poll::Pending,
            Behind::Nothing | Behind::Unknown => {}
        }
        Poll::Ready(Ok(taken))
    }
}

/// What there is behind a piece that was read.
enum Behind {
    /// The sender's end.
    End,
    /// Nothing yet; the task is woken when there is.
    Nothing,
    /// Nobody knows, for want of room.
    Unknown,
}

/// What there is behind the piece that was read, to which is added what came meanwhile. It costs nothing where nothing has.
fn behind(cx: &mut Context<'_>, from: &TcpStream, piece: &mut ReadBuf<'_>) -> io::Result<Behind> {
    while piece.remaining() > 0 {
        let before = piece.filled().len();
        match tcp::poll_read(from, cx, piece)? {
            Poll::Ready(()) if piece.filled().len() > before => {}
            Poll::Ready(()) => return Ok(Behind::End),
            Poll::Pending => return Ok(Behind::Nothing),
        }
    }
    Ok(Behind::Unknown)
}
