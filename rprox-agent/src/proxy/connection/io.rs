//! The client's socket: it reports what moves, and closes without losing the response.

#![forbid(unsafe_code)]

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::client::Client;
use crate::proxy::socket::pipe::Pipe;
use crate::proxy::socket::stream::Stream;
use crate::proxy::timer::lazy::LazyTimer;

/// How much of an unwanted body is read while lingering, at most.
const LINGER_BYTES: usize = 1 << 20;

/// How long lingering lasts, at most.
const LINGER_TIME: std::time::Duration = std::time::Duration::from_secs(2);

/// A stream that tells its [`Client`] what it does.
pub struct ClientIo<S> {
    stream: S,
    client: Rc<Client>,
    closing: Closing,
}

/// How far closing has come.
enum Closing {
    No,
    Lingering { timer: LazyTimer, deadline: Instant, left: usize },
}

impl<S> ClientIo<S> {
    /// The `client`'s stream.
    pub fn new(stream: S, client: Rc<Client>) -> Self {
        Self { stream, client, closing: Closing::No }
    }

    /// The stream.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Likewise.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// The stream, for another protocol.
    pub fn into_stream(self) -> S {
        self.stream
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
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<T> ClientIo<Stream<T>> {
    /// Writes the last, as [`Stream::poll_write_last`] does.
    pub fn poll_write_last(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>>
    where
        T: AsyncWrite + Unpin,
    {
        let result = self.stream.poll_write_last(cx, slices);
        self.note_write(&result);
        result
    }

    /// Takes what is in the pipe, as [`Stream::poll_drain`] does.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        let result = self.stream.poll_drain(cx, pipe);
        self.note_write(&result);
        result
    }
}

impl<S: AsyncWrite + Unpin> ClientIo<S> {
    /// Writes what goes out before a response, and is no beginning of it.
    pub fn poll_write_early(&mut self, cx: &mut Context<'_>, early: &mut BytesMut) -> Poll<io::Result<()>> {
        while !early.is_empty() {
            let result = Pin::new(&mut self.stream).poll_write(cx, early);
            if result.is_pending() {
                self.client.write_blocked();
            }
            let written = ready!(result)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            early.advance(written);
            self.client.has_moved(written);
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
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
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note_write(&result);
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
