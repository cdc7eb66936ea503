//! A body of which much comes: it goes from socket to socket through a pipe, without a copy to here and back.

#![forbid(unsafe_code)]

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use hyper::body::Body;
use tokio::net::TcpStream;

use super::rest::Rest;
use crate::proxy::socket::pipe::{BULK, Pipe, Pipes};

/// How much must be left of a body. Less is read at once, and copied while the processor's cache has it.
const LEAST: u64 = 256 * 1024;

/// How a body comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Its beginning came with its head, and more may be there to go out together with that.
    Begun,
    /// Much at a time, or so it is to be expected.
    Bulk,
    /// Little at a time.
    Little,
}

impl Pace {
    /// After a piece of so many bytes.
    #[must_use]
    pub fn after(bytes: usize) -> Self {
        if bytes >= BULK { Self::Bulk } else { Self::Little }
    }
}

/// A piece of a body: what was read before, then what is in the pipe.
pub struct Piped {
    /// What goes first.
    pub first: Bytes,
    /// What goes behind it.
    pub pipe: Pipe,
}

impl Piped {
    /// What is in the `pipe` of a body's `rest`, behind what is in `buffer`; both go without it from now on, and `pace` is as it came.
    #[must_use]
    pub fn take(pipe: Pipe, buffer: &mut BytesMut, rest: &mut Rest, pace: &mut Pace) -> Self {
        *pace = Pace::after(pipe.len());
        let piece = Self { first: buffer.split().freeze(), pipe };
        rest.passes(piece.bytes());
        piece
    }

    /// How many bytes it is.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.first.len() + self.pipe.len()
    }
}

/// A body that can be had through a pipe.
pub trait Bulk: Body {
    /// Its next piece, of which `most` bytes may be in a pipe, if that comes from a socket and much is to be expected; `None` where it had
    /// better be copied.
    ///
    /// # Errors
    ///
    /// As `poll_frame` does.
    fn poll_piped(&mut self, _: &mut Context<'_>, _most: usize) -> Poll<Option<Result<Piped, Self::Error>>> {
        Poll::Ready(None)
    }
}

impl Bulk for http_body_util::Full<Bytes> {}

/// Who takes it.
pub trait Sink: tokio::io::AsyncWrite {
    /// Whether it takes bytes from a pipe.
    fn takes_pipes(&self) -> bool;

    /// Takes what is in the pipe, as far as it has room; how much that was.
    ///
    /// # Errors
    ///
    /// When the connection breaks.
    fn poll_drain(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>>;

    /// Writes as many of the slices' bytes as there is room for; they are the last, and the close is to follow at once. Where that
    /// makes no difference they are written like any others.
    ///
    /// # Errors
    ///
    /// When the connection breaks.
    fn poll_write_last(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>>
    where
        Self: Unpin,
    {
        Pin::new(self).poll_write_vectored(cx, slices)
    }
}

/// How much is to come of a body's `rest`, of which so many bytes are read already, if it is much and its length known.
#[must_use]
pub fn much_to_come(rest: &Rest, buffered: usize) -> Option<u64> {
    let Rest::Exact(left) = rest else { return None };
    Some(left.saturating_sub(buffered as u64)).filter(|left| *left >= LEAST)
}

/// Takes of a body's `rest`, of which `buffered` bytes are read already, what `from` has of it, `most` bytes at most. An empty pipe: the
/// connection has ended. `None`: it isn't worth it, or can't be done.
///
/// # Errors
///
/// When the connection breaks.
pub fn poll_piped(
    cx: &mut Context<'_>,
    from: &TcpStream,
    rest: &Rest,
    buffered: usize,
    most: usize,
    pipes: &Pipes,
) -> Poll<io::Result<Option<Pipe>>> {
    let Some(left) = much_to_come(rest, buffered) else { return Poll::Ready(Ok(None)) };
    let Some(mut pipe) = pipes.take() else { return Poll::Ready(Ok(None)) };
    match pipe.poll_fill(cx, from, usize::try_from(left).map_or(most, |left| left.min(most))) {
        Poll::Ready(Ok(Some(1..))) => Poll::Ready(Ok(Some(pipe))),
        // What is there goes on, whatever comes behind it.
        _ if buffered > 0 => Poll::Ready(Ok(None)),
        filled => filled.map_ok(|filled| filled.map(|_| pipe)),
    }
}
