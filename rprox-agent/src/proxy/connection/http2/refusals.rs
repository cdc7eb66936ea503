//! Requests that h2 refuses by itself, for a limit. It tells nobody, so they are known by the frames that it writes.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use h2::{Reason, StreamId};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{Frame, Frames};
use crate::proxy::metrics::{Limit, Metrics};

/// RFC 9113 section 6.2.
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;

/// How many streams are remembered that did not become requests. h2 answers one at once, or when the client reads again.
const PASSED_OVER: usize = 64;

/// Counts the refusals of a connection.
pub(super) struct Refusals {
    metrics: Arc<Metrics>,
    frames: Frames,
    /// The newest stream that has become a request.
    accepted: u32,
    /// Those before it that have not.
    passed_over: VecDeque<u32>,
}

impl Refusals {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, frames: Frames::default(), accepted: 0, passed_over: VecDeque::new() }
    }

    /// The stream has become a request, so what is written for it is not h2's own.
    pub(super) fn accept(&mut self, stream: StreamId) {
        let stream = stream.as_u32();
        // A client's streams have odd numbers.
        for passed in ((self.accepted + 1) | 1..stream).step_by(2).take(PASSED_OVER) {
            if self.passed_over.len() == PASSED_OVER {
                self.passed_over.pop_front();
            }
            self.passed_over.push_back(passed);
        }
        self.accepted = stream;
    }

    fn written(&mut self, bytes: &[u8]) {
        let Self { metrics, frames, accepted, passed_over } = self;
        frames.take(bytes, |Frame { kind, flags, stream, reason }| {
            let limit = if reason == Some(Reason::REFUSED_STREAM.into()) {
                // Nothing but h2's own limit refuses a stream so.
                Limit::Streams
            } else if kind == HEADERS
                && flags & END_STREAM != 0
                && (stream > *accepted || passed_over.contains(&stream))
            {
                // The one response that h2 makes: 431.
                Limit::Headers
            } else {
                return;
            };
            metrics.limit_hits[limit].increment();
        });
    }
}

/// The client's socket, with an eye on what is written to it.
pub(super) struct Watched<S> {
    stream: S,
    refusals: Rc<RefCell<Refusals>>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, refusals: Rc<RefCell<Refusals>>) -> Self {
        Self { stream, refusals }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.refusals.borrow_mut().written(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices))?;
        let mut refusals = self.refusals.borrow_mut();
        let mut left = written;
        for slice in slices {
            let taken = slice.len().min(left);
            refusals.written(&slice[..taken]);
            left -= taken;
        }
        drop(refusals);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
