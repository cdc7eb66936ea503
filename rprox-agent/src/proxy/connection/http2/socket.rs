//! The client's socket as h2 sees it: what h2 writes frame by frame goes out together.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxy::worker::Worker;

/// How much is gathered at most: what rustls encrypts at once, too.
const MOST: usize = 64 * 1024;

/// A socket that gathers what is written to it. h2 asks for a flush before each frame of data that it doesn't copy, so a flush is
/// nothing to it: [`Self::poll_send`] is for who knows when all has been written.
pub(super) struct Socket<S>(Rc<RefCell<Gathering<S>>>);

struct Gathering<S> {
    stream: S,
    worker: Rc<Worker>,
    /// What is to be sent; the worker's buffer while there is something.
    gathered: Vec<u8>,
    /// How much of it has been.
    sent: usize,
    /// Whether the stream may hold some of it back.
    unflushed: bool,
    /// Why sending failed, until h2 has been told.
    failure: Option<io::Error>,
}

impl<S> Socket<S> {
    pub(super) fn new(stream: S, worker: Rc<Worker>) -> Self {
        let gathered = Vec::new();
        let gathering = Gathering { stream, worker, gathered, sent: 0, unflushed: false, failure: None };
        Self(Rc::new(RefCell::new(gathering)))
    }
}

impl<S> Clone for Socket<S> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<S: AsyncWrite + Unpin> Socket<S> {
    /// Sends what was gathered. False: it can't be, which h2 is told when it flushes next.
    pub(super) fn poll_send(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut socket = self.0.borrow_mut();
        let sent = ready!(socket.poll_send(cx));
        Poll::Ready(sent.map_err(|error| socket.failure = Some(error)).is_ok())
    }
}

impl<S: AsyncWrite + Unpin> Gathering<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            ready!(self.poll_write_with(cx, &[]))?;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what was gathered, and `slices` behind it; of those so many bytes were written.
    fn poll_write_with(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        let first = &self.gathered[self.sent..];
        let (written, before) = match slices {
            [] => (stream.poll_write(cx, first), first.len()),
            [one] => (stream.poll_write_vectored(cx, &[IoSlice::new(first), *one]), first.len()),
            [one, two, ..] => {
                (stream.poll_write_vectored(cx, &[IoSlice::new(first), *one, *two]), first.len())
            }
        };
        let written = ready!(written)?;
        self.unflushed = true;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        if written < before {
            self.sent += written;
            return Poll::Ready(Ok(0));
        }
        self.sent = 0;
        if !self.gathered.is_empty() {
            self.gathered.clear();
            self.worker.gathered.set(std::mem::take(&mut self.gathered));
        }
        Poll::Ready(Ok(written - before))
    }

    fn poll_gather(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let length = slices.iter().map(|slice| slice.len()).sum::<usize>();
        while length > 0 && self.gathered.len() + length > MOST {
            let written = ready!(self.poll_write_with(cx, slices))?;
            if written > 0 {
                return Poll::Ready(Ok(written));
            }
        }
        if self.gathered.is_empty() {
            self.gathered = self.worker.gathered.take();
            self.gathered.reserve(MOST);
        }
        for slice in slices {
            self.gathered.extend_from_slice(slice);
        }
        Poll::Ready(Ok(length))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_gather(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_gather(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.borrow_mut().failure.take().map_or(Ok(()), Err))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut socket = self.0.borrow_mut();
        ready!(socket.poll_send(cx))?;
        Pin::new(&mut socket.stream).poll_shutdown(cx)
    }
}
