//! A stream of HTTP/2 as the two ways of a tunnel.

#![forbid(unsafe_code)]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::handles::{Receiver, Sender};
use super::streams::Reset;

/// What the client sends, and what it is sent.
pub(super) struct Duplex {
    send: Sender,
    receive: Receiver,
    /// What has come and was not read yet.
    unread: Bytes,
}

impl Duplex {
    pub(super) fn new(send: Sender, receive: Receiver) -> Self {
        Self { send, receive, unread: Bytes::new() }
    }
}

impl AsyncRead for Duplex {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.unread.is_empty() {
            match ready!(this.receive.poll_data(cx)) {
                Some(Ok(data)) => this.unread = data,
                // Some clients close a WebSocket's stream by a reset (RFC 8441 section 5).
                None | Some(Err(Reset(Reason::NO_ERROR | Reason::CANCEL))) => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        let length = this.unread.len().min(buffer.remaining());
        buffer.put_slice(&this.unread[..length]);
        this.unread.advance(length);
        this.receive.gives_back(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.send.poll_data(cx, bytes, false).map_err(broken)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's task sends by itself; here a client that has gone is noticed while nothing is to be sent.
        Poll::Ready(self.send.poll_reset(cx).map_err(broken))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.send.end().map_err(broken))
    }
}

fn broken(error: Reset) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, error)
}
