//! A client's socket that remembers what was read from it, for as long as it may be needed once more.

#![forbid(unsafe_code)]

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxy::socket::lazy_tcp::LazyTcp;

/// A socket, and what was read from it.
#[derive(Debug)]
pub struct Recorded {
    tcp: LazyTcp,
    /// `None` once it is of no use.
    read: Option<Vec<u8>>,
}

impl Recorded {
    /// Of a socket that nothing was read from; `wanted` if it is to be remembered at all.
    pub(super) fn new(tcp: LazyTcp, wanted: bool) -> Self {
        Self { tcp, read: wanted.then(Vec::new) }
    }

    /// What has been read, and will be, is of no use.
    pub(super) fn forget(&mut self) {
        self.read = None;
    }

    /// The socket, and what was read from it.
    pub(super) fn into_parts(self) -> (LazyTcp, Vec<u8>) {
        (self.tcp, self.read.unwrap_or_default())
    }
}

impl AsyncRead for Recorded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.tcp).poll_read(cx, buffer))?;
        if let Some(read) = &mut self.read {
            read.extend_from_slice(&buffer.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Recorded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
