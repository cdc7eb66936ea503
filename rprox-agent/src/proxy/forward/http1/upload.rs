//! A request on its way to the upstream: its head, and what body it has.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes};
use http::header::TRAILER;
use http::{HeaderMap, HeaderName};
use hyper::body::Body as _;
use tokio::task::AbortHandle;

use super::head::{Length, write_field};
use super::shared::Shared;
use crate::proxy::forward::body::{RequestBody, UploadError};
use crate::proxy::forward::headers::tokens;

/// Why a request can't be sent to its end.
#[derive(Debug)]
pub(super) enum Failed {
    /// The connection takes no more. A response may have come all the same.
    Socket(io::Error),
    /// There is no more to be had.
    Body(UploadError),
}

/// What is to be sent, and how far it has come.
pub(super) struct Upload {
    socket: Shared,
    /// The request's head, or what goes before the next piece of its body.
    before: Vec<u8>,
    /// How much of that is sent.
    sent: usize,
    data: Bytes,
    /// What goes behind it.
    behind: &'static [u8],
    body: RequestBody,
    chunked: bool,
    /// The names of fields that may be trailers: those that the head announces.
    announced: Vec<HeaderName>,
    /// Whether a byte has gone out.
    begun: bool,
    /// Whether the body has ended.
    ended: bool,
}

impl Upload {
    /// Of a `head` that is written already, and the `body` that it announces.
    pub(super) fn new(
        socket: &Shared,
        head: Vec<u8>,
        body: RequestBody,
        length: Option<Length>,
        headers: &HeaderMap,
    ) -> Self {
        let chunked = length == Some(Length::Chunked);
        let announced = if chunked { announced(headers) } else { Vec::new() };
        Self {
            socket: socket.clone(),
            before: head,
            sent: 0,
            data: Bytes::new(),
            behind: b"",
            ended: body.is_none(),
            body,
            chunked,
            announced,
            begun: false,
        }
    }

    /// Whether a byte of it has gone out, or been taken from its body.
    pub(super) fn is_begun(&self) -> bool {
        self.begun
    }

    /// Whether it has a body.
    pub(super) fn has_body(&self) -> bool {
        !self.body.is_none()
    }

    /// Its parts, to be used again.
    pub(super) fn into_parts(self) -> (Vec<u8>, RequestBody) {
        (self.before, self.body)
    }

    /// Sends on, until all is sent.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        loop {
            let waits = !self.ended && self.data.is_empty() && self.poll_body(cx).map_err(Failed::Body)?;
            if self.is_written() {
                // TLS may hold back what it was given.
                ready!(self.socket.poll_flush(cx)).map_err(Failed::Socket)?;
                if waits {
                    return Poll::Pending;
                }
                if self.ended {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            ready!(self.poll_write(cx)).map_err(Failed::Socket)?;
        }
    }

    fn is_written(&self) -> bool {
        self.sent == self.before.len() && self.data.is_empty() && self.behind.is_empty()
    }

    /// Asks for the next piece of the body, so that it goes out together with what is before it; whether it must be waited for.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Result<bool, UploadError> {
        // Behind a piece comes the end of its chunk.
        if !self.behind.is_empty() {
            return Ok(false);
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
        match frame.map(hyper::body::Frame::into_data) {
            None => self.end(&HeaderMap::new()),
            Some(Ok(data)) if data.is_empty() => {}
            Some(Ok(data)) => {
                if self.chunked {
                    let _ = write!(self.before, "{:X}\r\n", data.len());
                    self.behind = b"\r\n";
                }
                self.data = data;
                if self.body.is_end_stream() {
                    self.ended = true;
                    if self.chunked {
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
        if !self.chunked {
            return;
        }
        self.before.extend_from_slice(b"0\r\n");
        for (name, value) in trailers.iter().filter(|(name, _)| self.announced.contains(name)) {
            write_field(name, value, &mut self.before);
        }
        self.before.extend_from_slice(b"\r\n");
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let before = &self.before[self.sent..];
        let slices = [IoSlice::new(before), IoSlice::new(&self.data), IoSlice::new(self.behind)];
        let slices = if self.data.is_empty() && self.behind.is_empty() { &slices[..1] } else { &slices };
        let mut written = ready!(self.socket.poll_write(cx, slices))?;
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
        Poll::Ready(Ok(()))
    }
}

/// The trailers that a request announces (RFC 9110 section 6.6.2). What belongs into its head is none, whoever says so.
fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    let names = headers.get_all(TRAILER).iter().flat_map(tokens);
    names.filter_map(|name| HeaderName::try_from(name).ok()).filter(may_be_trailer).collect()
}

/// Whether a field means what it means behind a body too (RFC 9110 section 6.5.1).
fn may_be_trailer(name: &HeaderName) -> bool {
    use http::header::{
        AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
        CONTENT_TYPE, COOKIE, HOST, MAX_FORWARDS, PROXY_AUTHORIZATION, SET_COOKIE, TE, TRANSFER_ENCODING,
    };
    const HEADS: [HeaderName; 15] = [
        AUTHORIZATION,
        CACHE_CONTROL,
        CONNECTION,
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_RANGE,
        CONTENT_TYPE,
        COOKIE,
        HOST,
        MAX_FORWARDS,
        PROXY_AUTHORIZATION,
        SET_COOKIE,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
    ];
    !HEADS.contains(name)
}

/// An upload in a task of its own, so that it goes on while nobody takes the response.
pub(super) struct Task {
    handle: AbortHandle,
    outcome: Rc<RefCell<Outcome>>,
}

#[derive(Default)]
struct Outcome {
    result: Option<Result<(), Failed>>,
    waiting: Option<Waker>,
}

impl Task {
    pub(super) fn spawn(mut upload: Upload) -> Self {
        let outcome = Rc::new(RefCell::new(Outcome::default()));
        let handle = tokio::task::spawn_local({
            let outcome = Rc::clone(&outcome);
            async move {
                let result = std::future::poll_fn(|cx| upload.poll(cx)).await;
                // The body first: it tells the client's connection what became of it.
                drop(upload);
                let mut outcome = outcome.borrow_mut();
                outcome.result = Some(result);
                if let Some(waiting) = outcome.waiting.take() {
                    waiting.wake();
                }
            }
        });
        Self { handle: handle.abort_handle(), outcome }
    }

    /// What has become of it; the task of `cx` is woken when there is something to tell.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Result<(), Failed>> {
        let mut outcome = self.outcome.borrow_mut();
        if let Some(result) = outcome.result.take() {
            return Poll::Ready(result);
        }
        outcome.waiting = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Ends it where it is.
    pub(super) fn abort(&self) {
        self.handle.abort();
    }
}
