//! The client's socket as hyper sees it: it reports what moves, and closes without losing the response.

#![forbid(unsafe_code)]

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::client::Client;
use crate::proxy::timer::LazyTimer;

/// Room for a usual request's head.
const FIRST_BYTES: usize = 4096;

/// How much of an unwanted body is read while lingering, at most.
const LINGER_BYTES: usize = 1 << 20;

/// How long lingering lasts, at most.
const LINGER_TIME: std::time::Duration = std::time::Duration::from_secs(2);

/// A byte that is allowed nowhere in a head, in place of the one that makes a message ambiguous: hyper then does all that a
/// malformed message calls for.
const POISON: u8 = 0;

/// A stream that tells its [`Client`] what it does, and holds back what may not be read yet, or ever.
pub struct ClientIo<S> {
    stream: S,
    /// What was read and hyper hasn't got yet.
    held: Bytes,
    /// What is left of interim responses that stand between two messages of hyper's: nothing of its goes out before them.
    interim: BytesMut,
    client: Rc<Client>,
    closing: Closing,
}

/// How far closing has come.
enum Closing {
    No,
    Lingering { timer: LazyTimer, deadline: Instant, left: usize },
}

impl<S> ClientIo<S> {
    /// `first` are the bytes that have been read from `stream` already.
    pub fn new(stream: S, first: Bytes, client: Rc<Client>) -> Self {
        Self { stream, held: first, interim: BytesMut::new(), client, closing: Closing::No }
    }

    /// How many of the bytes are good. The one behind them is to be replaced by [`POISON`] if the second is true.
    fn judge(&self, bytes: &[u8]) -> (usize, bool) {
        self.client.has_read();
        let taken = self.client.framing.borrow_mut().take(bytes);
        if let Some(reason) = taken.refused {
            tracing::debug!(client = %self.client.peer, "request refused: {reason}");
        }
        (taken.length, taken.refused.is_some())
    }

    /// Gives what may be given of the bytes that are held.
    fn poll_held(&mut self, cx: &Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let room = self.held.len().min(buffer.remaining());
        let (good, refused) = self.judge(&self.held[..room]);
        buffer.put_slice(&self.held.split_to(good));
        if refused {
            buffer.put_slice(&[POISON]);
        } else if good == 0 {
            self.client.framing.borrow_mut().wait(cx);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether nothing is held back, either way.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty() && self.interim.is_empty()
    }

    /// The stream, and what was read of it that hyper hasn't got.
    pub fn into_stream(self) -> (S, Bytes) {
        (self.stream, self.held)
    }

    fn note_write(&self, result: &Poll<io::Result<usize>>) {
        match result {
            Poll::Ready(written) => self.client.has_written(written.as_ref().copied().unwrap_or_default()),
            Poll::Pending => self.client.write_blocked(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.client.framing.borrow().is_refused() {
            return Poll::Ready(Ok(()));
        }
        if !this.held.is_empty() {
            return this.poll_held(cx, buffer);
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        let read = &mut buffer.filled_mut()[before..];
        if read.is_empty() {
            // hyper would take it for the end of the connection, and asks again after the response.
            return if this.client.closes_its_half() { Poll::Pending } else { Poll::Ready(Ok(())) };
        }
        let (mut given, refused) = this.judge(read);
        if refused {
            read[given] = POISON;
            given += 1;
        }
        this.held = Bytes::copy_from_slice(&read[given..]);
        buffer.set_filled(before + given);
        if given == 0 {
            this.client.framing.borrow_mut().wait(cx);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> ClientIo<S> {
    /// Waits for bytes, without room for them before they come; false at the client's end.
    pub fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut space = [const { MaybeUninit::uninit() }; FIRST_BYTES];
        let mut piece = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece))?;
        self.held = Bytes::copy_from_slice(piece.filled());
        Poll::Ready(Ok(!self.held.is_empty()))
    }
}

impl<S: AsyncWrite + Unpin> ClientIo<S> {
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.interim.is_empty() {
            let result = Pin::new(&mut self.stream).poll_write(cx, &self.interim);
            if result.is_pending() {
                self.client.write_blocked();
            }
            let written = ready!(result)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.interim.advance(written);
            self.client.has_moved(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note_write(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note_write(&result);
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes when it has written all that it has, so here a message has ended and none begun: it gets the response
        // only once the interim ones are taken.
        let this = &mut *self;
        this.client.take_interim(cx, &mut this.interim);
        ready!(this.poll_interim(cx))?;
        // TLS holds bytes back that the socket does not take: they block here.
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        if result.is_pending() {
            self.client.write_blocked();
        }
        result
    }

    /// Closes the sending half, then reads what the client still sends until it closes its own: the kernel answers bytes
    /// that nobody reads with a reset, which makes the client drop a response that it hasn't read yet (RFC 9112 section 9.6).
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.closing {
                // Without TLS there is nothing to say but what closing says.
                Closing::No if this.client.secure.is_none() && !this.client.should_linger() => {
                    return Poll::Ready(Ok(()));
                }
                Closing::No => {
                    ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
                    if !this.client.should_linger() {
                        return Poll::Ready(Ok(()));
                    }
                    this.closing = Closing::Lingering {
                        timer: LazyTimer::new(LINGER_TIME),
                        deadline: Instant::now() + LINGER_TIME,
                        left: LINGER_BYTES,
                    };
                }
                Closing::Lingering { timer, deadline, left } => {
                    if *left == 0 || timer.poll(cx, *deadline).is_ready() {
                        return Poll::Ready(Ok(()));
                    }
                    let mut scratch = [0; 4096];
                    let mut buffer = ReadBuf::new(&mut scratch);
                    let read = Pin::new(&mut this.stream).poll_read(cx, &mut buffer);
                    if ready!(read).is_err() || buffer.filled().is_empty() {
                        return Poll::Ready(Ok(()));
                    }
                    *left = left.saturating_sub(buffer.filled().len());
                }
            }
        }
    }
}
