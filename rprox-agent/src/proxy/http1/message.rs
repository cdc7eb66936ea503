//! A message on its way out: its head, and what body it has.

#![forbid(unsafe_code)]

use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderName};
use hyper::body::{Body, Frame};

use super::bulk::{Bulk, Piped, Sink};
use super::{fields, rooms};
use crate::proxy::socket::pipe::{self, Pipe};

/// Why a message can't be sent to its end.
#[derive(Debug)]
pub enum Failed<E> {
    /// The connection takes no more.
    Socket(io::Error),
    /// There is no more to be had of its body.
    Body(E),
}

/// How a body is told from what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coding {
    /// By its length, or the connection's end.
    Plain,
    /// By chunks, with these trailers behind them where there are some.
    Chunked(Vec<HeaderName>),
}

/// What is to be sent, and how far it has come.
pub struct Outgoing<B> {
    /// The message's head, or what goes before the next piece of its body.
    before: Vec<u8>,
    /// How much of that is sent.
    sent: usize,
    data: Bytes,
    /// What goes behind it, of a body that comes in bulk.
    pipe: Option<Pipe>,
    /// How much of it to take into one next.
    most: usize,
    /// What goes behind it, of chunks.
    behind: &'static [u8],
    body: B,
    coding: Coding,
    /// Whether a byte has gone out, or been taken from its body.
    begun: bool,
    /// Whether the body has ended.
    ended: bool,
    /// Whether the connection ends behind it.
    is_last: bool,
}

impl<B: Bulk + Body<Data = Bytes> + Unpin> Outgoing<B> {
    /// Of a `head` that is written already, and the `body` that it announces, if it `has_body`.
    pub fn new(head: Vec<u8>, body: B, has_body: bool, coding: Coding) -> Self {
        Self {
            before: head,
            sent: 0,
            data: Bytes::new(),
            pipe: None,
            most: rooms::MOST,
            behind: b"",
            body,
            coding,
            begun: false,
            ended: !has_body,
            is_last: false,
        }
    }

    /// The connection is closed as soon as it is sent.
    pub fn is_last(&mut self) {
        self.is_last = true;
    }

    /// Whether a byte of it has gone out, or been taken from its body.
    pub fn is_begun(&self) -> bool {
        self.begun
    }

    /// Its body.
    pub fn body(&self) -> &B {
        &self.body
    }

    /// The room that its head had, to be used again, and its body.
    pub fn into_parts(self) -> (Vec<u8>, B) {
        (self.before, self.body)
    }

    /// Sends on, until all is sent.
    ///
    /// # Errors
    ///
    /// When that can't be.
    pub fn poll<S>(&mut self, cx: &mut Context<'_>, socket: &mut S) -> Poll<Result<(), Failed<B::Error>>>
    where
        S: Sink + Unpin,
    {
        let mut left = pipe::TURN;
        loop {
            let waits =
                !self.ended && !self.has_piece() && self.poll_body(cx, socket).map_err(Failed::Body)?;
            if self.is_written() {
                // TLS may hold back what it was given.
                ready!(Pin::new(&mut *socket).poll_flush(cx)).map_err(Failed::Socket)?;
                if waits {
                    return Poll::Pending;
                }
                if self.ended {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let piped = ready!(self.poll_write(cx, socket)).map_err(Failed::Socket)?;
            left = left.saturating_sub(piped);
            if left == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    fn is_written(&self) -> bool {
        self.sent == self.before.len() && !self.has_piece() && self.behind.is_empty()
    }

    fn has_piece(&self) -> bool {
        !self.data.is_empty() || self.pipe.is_some()
    }

    /// Asks for the next piece of the body, so that it goes out together with what is before it; whether it must be waited for.
    fn poll_body<S: Sink>(&mut self, cx: &mut Context<'_>, socket: &S) -> Result<bool, B::Error> {
        // Behind a piece comes the end of its chunk.
        if !self.behind.is_empty() {
            return Ok(false);
        }
        if self.coding == Coding::Plain && socket.takes_pipes() {
            match self.body.poll_piped(cx, self.most) {
                Poll::Pending => return Ok(true),
                Poll::Ready(None) => {}
                Poll::Ready(Some(piped)) => {
                    let Piped { first, pipe } = piped?;
                    self.begun = true;
                    self.data = first;
                    self.pipe = Some(pipe);
                    self.ended = self.body.is_end_stream();
                    return Ok(false);
                }
            }
        }
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => return Ok(true),
            Poll::Ready(frame) => frame.transpose()?,
        };
        self.begun = true;
        if self.sent == self.before.len() {
            self.before.clear();
            self.sent = 0;
        }
        match frame.map(Frame::into_data) {
            None => self.end(&HeaderMap::new()),
            Some(Ok(data)) if data.is_empty() => {}
            Some(Ok(data)) => {
                let chunked = self.coding != Coding::Plain;
                if chunked {
                    // Writing to a Vec can't fail.
                    let _ = write!(self.before, "{:X}\r\n", data.len());
                    self.behind = b"\r\n";
                }
                self.data = data;
                if self.body.is_end_stream() {
                    self.ended = true;
                    if chunked {
                        self.behind = b"\r\n0\r\n\r\n";
                    }
                }
            }
            Some(Err(frame)) => self.end(&frame.into_trailers().unwrap_or_default()),
        }
        Ok(false)
    }

    fn end(&mut self, trailers: &HeaderMap) {
        self.ended = true;
        let Coding::Chunked(announced) = &self.coding else { return };
        self.before.extend_from_slice(b"0\r\n");
        for (name, value) in trailers.iter().filter(|(name, _)| announced.contains(name)) {
            fields::write(name, value, &mut self.before);
        }
        self.before.extend_from_slice(b"\r\n");
    }

    /// Writes what is next; how much of that went through a pipe.
    fn poll_write<S: Sink + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut S,
    ) -> Poll<io::Result<usize>> {
        let before = &self.before[self.sent..];
        if let Some(pipe) = self.pipe.as_mut().filter(|_| before.is_empty() && self.data.is_empty()) {
            let drained = socket.poll_drain(cx, pipe);
            if drained.is_pending() {
                // What a slow receiver leaves in it should not be more than in a buffer.
                self.most = (self.most / 2).max(rooms::MOST);
            }
            let drained = ready!(drained)?;
            if pipe.is_empty() {
                self.pipe = None;
                self.most = (self.most * 2).min(pipe::SIZE);
            }
            return Poll::Ready(Ok(drained));
        }
        let slices = [IoSlice::new(before), IoSlice::new(&self.data), IoSlice::new(self.behind)];
        let mut written = if self.is_last && self.ended && self.pipe.is_none() {
            ready!(socket.poll_write_last(cx, &slices))?
        } else if self.data.is_empty() && self.behind.is_empty() {
            ready!(Pin::new(socket).poll_write(cx, before))?
        } else if before.is_empty() && self.behind.is_empty() {
            ready!(Pin::new(socket).poll_write(cx, &self.data))?
        } else {
            ready!(Pin::new(socket).poll_write_vectored(cx, &slices))?
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.begun = true;
        let of_before = written.min(before.len());
        self.sent += of_before;
        written -= of_before;
        let of_data = written.min(self.data.len());
        self.data.advance(of_data);
        self.behind = &self.behind[written - of_data..];
        Poll::Ready(Ok(0))
    }
}
