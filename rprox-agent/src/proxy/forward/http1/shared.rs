//! A connection's socket, from which one task may read while another writes.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use crate::proxy::forward::dial::Io;
use crate::proxy::http1::bulk::{self, Sink};
use crate::proxy::http1::rest::Rest;
use crate::proxy::socket::pipe::{Pipe, Pipes};

/// The socket.
#[derive(Clone)]
pub(super) struct Shared(Rc<RefCell<Io>>);

impl Shared {
    pub(super) fn new(io: Io) -> Self {
        Self(Rc::new(RefCell::new(io)))
    }

    /// For how long the endpoint may acknowledge nothing, or have no room for more; `None`: as TCP will.
    pub(super) fn set_user_timeout(&self, limit: Option<Duration>) {
        self.0.borrow().set_user_timeout(limit);
    }

    /// Takes what has come of a body's `rest`, as [`bulk::poll_piped`] does.
    pub(super) fn poll_piped(
        &self,
        cx: &mut Context<'_>,
        rest: &Rest,
        buffered: usize,
        most: usize,
        pipes: &Pipes,
    ) -> Poll<io::Result<Option<Pipe>>> {
        match self.0.borrow_mut().plain() {
            Some(socket) => bulk::poll_piped(cx, socket, rest, buffered, most, pipes),
            None => Poll::Ready(Ok(None)),
        }
    }

    pub(super) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        poll_read_buf(Pin::new(&mut *self.0.borrow_mut()), cx, buffer)
    }
}

impl Sink for Shared {
    fn takes_pipes(&self) -> bool {
        self.0.borrow().is_plain()
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_drain(cx, pipe)
    }
}

impl AsyncWrite for Shared {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write_vectored(cx, slices)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_shutdown(cx)
    }
}

/// The connection once it speaks another protocol than HTTP.
pub struct Switched {
    socket: Shared,
    /// What was read behind the response's head.
    first: Bytes,
}

impl Switched {
    pub(super) fn new(socket: Shared, first: Bytes) -> Self {
        Self { socket, first }
    }
}

impl AsyncRead for Switched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut *self.socket.0.borrow_mut()).poll_read(cx, buffer);
        }
        let length = self.first.len().min(buffer.remaining());
        buffer.put_slice(&self.first[..length]);
        self.first.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Switched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
