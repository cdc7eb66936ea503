//! A stream in the hands of who serves it.

#![forbid(unsafe_code)]

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, StatusCode};

use super::streams::{Reset, Shared};

/// What is sent on a stream. Dropped before its end, it resets the stream once nobody receives either.
pub(in crate::proxy::connection) struct Sender {
    streams: Shared,
    id: u32,
}

/// What is received on a stream.
pub struct Receiver {
    streams: Shared,
    id: u32,
}

/// Both ends of a stream that has begun.
pub(super) fn pair(streams: &Shared, id: u32) -> (Sender, Receiver) {
    (Sender { streams: Rc::clone(streams), id }, Receiver { streams: Rc::clone(streams), id })
}

impl Sender {
    /// Sends a response's head; an interim one's is never the last.
    pub(super) fn head(&self, status: StatusCode, headers: &HeaderMap, is_last: bool) -> Result<(), Reset> {
        self.streams.borrow_mut().send_section(self.id, Some(status), headers, is_last)
    }

    /// Sends trailers, and ends the stream.
    pub(super) fn trailers(&self, trailers: &HeaderMap) -> Result<(), Reset> {
        self.streams.borrow_mut().send_section(self.id, None, trailers, true)
    }

    /// Ready when it may be looked for data to send.
    pub(super) fn poll_turn(&self, cx: &Context<'_>) -> Poll<Result<(), Reset>> {
        self.streams.borrow_mut().poll_turn(self.id, cx)
    }

    /// Sends as much of `data` as can be now, and the stream's end with the last byte if it `is_last`. Returns how much.
    pub(super) fn poll_data(
        &self,
        cx: &Context<'_>,
        data: &[u8],
        is_last: bool,
    ) -> Poll<Result<usize, Reset>> {
        let streams = &mut *self.streams.borrow_mut();
        ready!(streams.poll_room(self.id, cx))?;
        Poll::Ready(streams.send_data(self.id, data, is_last))
    }

    /// Ends the stream.
    pub(super) fn end(&self) -> Result<(), Reset> {
        self.streams.borrow_mut().send_end(self.id)
    }

    /// Ends the stream in the middle.
    pub(super) fn reset(&self, reason: Reason) {
        self.streams.borrow_mut().reset(self.id, reason);
    }

    /// An error once the stream was reset; else the task is woken then.
    pub(super) fn poll_reset(&self, cx: &Context<'_>) -> Result<(), Reset> {
        self.streams.borrow_mut().poll_reset(self.id, cx)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.streams.borrow_mut().drop_sender(self.id);
    }
}

impl Receiver {
    /// The next data; `None` at its end. What is taken is to be [given back](Self::gives_back).
    pub fn poll_data(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Reset>>> {
        self.streams.borrow_mut().poll_data(self.id, cx)
    }

    /// The client may send so much again.
    pub fn gives_back(&mut self, bytes: usize) {
        self.streams.borrow_mut().gives_back_on(self.id, bytes);
    }

    /// What came behind the data.
    pub fn trailers(&mut self) -> Option<HeaderMap> {
        self.streams.borrow_mut().take_received_trailers(self.id)
    }

    /// Whether everything was read.
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        self.streams.borrow().is_read(self.id)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.streams.borrow_mut().drop_receiver(self.id);
    }
}
