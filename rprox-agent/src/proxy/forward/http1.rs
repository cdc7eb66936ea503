//! An HTTP/1.1 connection to an endpoint (RFC 9112), which serves one request at a time.
//!
//! It runs inside the task of the request: its socket wakes that task, and the response is there in the same moment, without a word
//! between tasks. Only a request whose body is not there at once gets a task to send it, since then both directions must move even
//! while the client takes nothing.

#![forbid(unsafe_code)]

mod error;
mod head;
mod shared;
mod upload;

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Response, StatusCode};
use hyper::body::{Frame, SizeHint};
use tokio::time::Instant;

pub use self::error::Error;
use self::head::{Head, Length};
use self::shared::Shared;
pub use self::shared::Switched;
use self::upload::{Task, Upload};
use super::body::RequestBody;
use super::dial::{Dial, Io};
use super::failure::{Broken, Failure, SendError};
use super::forwarded::Forwarded;
use super::request::{Beside, UpstreamRequest};
use crate::proxy::http1::bulk::{Pace, Piped};
use crate::proxy::http1::chunks::{Chunks, Piece, Sender};
use crate::proxy::http1::message::{Coding, Failed};
use crate::proxy::http1::rest::Rest;
use crate::proxy::http1::rooms::{self, Rooms};
use crate::proxy::http1::{section, trailers};
use crate::proxy::socket::pipe::Pipes;
use crate::proxy::timer::lazy::LazyTimer;

/// Room for a usual response's head and a small body.
const FIRST_READ: usize = 8 * 1024;

/// A connection.
pub struct Http1 {
    socket: Shared,
    /// What was read and not taken yet.
    buffer: BytesMut,
    /// Where its room comes from.
    rooms: Rc<Rooms>,
    /// How much to read next.
    room: usize,
    /// How a body comes.
    pace: Pace,
    rest: Rest,
    /// The request, while its body is sent.
    upload: Option<Task>,
    /// What a request's head is written to.
    scratch: Vec<u8>,
    /// How long a header section may be.
    header_bytes: usize,
    /// Whether another request may follow, as far as was said.
    keeps_alive: bool,
    /// For how long the endpoint may acknowledge nothing, and whether that is waived for a body, which it may take as slowly as it likes.
    user_timeout: Duration,
    is_waived: bool,
    timer: LazyTimer,
    /// When it was taken for a request that is still to be sent.
    taken: Option<Instant>,
}

impl Http1 {
    /// Speaks it on a connection that is made.
    pub(super) fn new(io: Io, dial: &Dial<'_>) -> Self {
        Self {
            socket: Shared::new(io),
            buffer: BytesMut::new(),
            rooms: Rc::clone(dial.rooms),
            room: FIRST_READ,
            pace: Pace::Bulk,
            rest: Rest::Exact(0),
            upload: None,
            scratch: Vec::new(),
            header_bytes: dial.config.limits.header_bytes,
            keeps_alive: true,
            user_timeout: dial.limit,
            is_waived: false,
            timer: LazyTimer::new(dial.config.shortest_wait),
            taken: None,
        }
    }

    /// Sends a request and waits for the head of its response, for `limit` at most once it is sent.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub async fn send(
        &mut self,
        mut request: UpstreamRequest,
        beside: Beside<'_>,
        limit: Duration,
    ) -> Result<Response<()>, SendError> {
        if !self.is_usable() {
            return Err(SendError::unsent(Broken::from(Error::Closed), request));
        }
        let body = std::mem::replace(&mut request.body, RequestBody::none());
        let length = Length::of(&body);
        let mut head = std::mem::take(&mut self.scratch);
        head.clear();
        let more = beside.forwarded.map_or(&[][..], Forwarded::lines);
        head::write(&request.head, more, length, &mut head);
        let progress = body.progress();
        let coding = match length {
            Some(Length::Chunked) => Coding::Chunked(trailers::announced(&request.head.headers)),
            _ => Coding::Plain,
        };
        let mut upload = Some(Upload::new(head, body, length.is_some(), coding));
        let (mut sent, mut looked_at) = (self.taken.take(), 0);
        let failure = poll_fn(|cx| {
            if let Some(sending) = &mut upload {
                match sending.poll(cx, &mut self.socket) {
                    Poll::Ready(Ok(())) => {
                        self.scratch = upload.take().map_or_else(Vec::new, |done| done.into_parts().0);
                    }
                    Poll::Ready(Err(Failed::Socket(error))) if !sending.is_begun() => {
                        return Poll::Ready(Err(Broken::from(Error::from(error)).into()));
                    }
                    // What the upstream said before it closed may still be read.
                    Poll::Ready(Err(Failed::Socket(_))) => {
                        self.keeps_alive = false;
                        upload = None;
                    }
                    Poll::Ready(Err(Failed::Body(error))) => {
                        upload = None;
                        return Poll::Ready(Err(Failure::Upload(error)));
                    }
                    Poll::Pending if !sending.body().is_none() => {
                        self.waive_user_timeout();
                        let socket = &self.socket;
                        self.upload = upload.take().map(|upload| Task::spawn(upload, socket.clone()));
                    }
                    Poll::Pending => {}
                }
            }
            self.watch_upload(cx)?;
            if let Poll::Ready(response) = self.poll_head(cx, &request.head.method, beside, &mut looked_at) {
                return Poll::Ready(response.map_err(|error| Broken::from(error).into()));
            }
            let since = match &progress {
                None => *sent.get_or_insert_with(Instant::now),
                Some(progress) => progress.upstreams_turn().unwrap_or_else(Instant::now),
            };
            self.timer.poll(cx, since + limit).map(|()| Err(Failure::ResponseTimeout))
        });
        let failure = match failure.await {
            Ok(response) => return Ok(response),
            Err(failure) => failure,
        };
        self.keeps_alive = false;
        Err(match upload {
            Some(upload) if !upload.is_begun() => {
                request.body = upload.into_parts().1;
                SendError::unsent(failure, request)
            }
            _ => SendError::sent(failure, progress.is_none().then_some(request)),
        })
    }

    fn waive_user_timeout(&mut self) {
        self.socket.set_user_timeout(None);
        self.is_waived = true;
    }

    /// Hears what has become of the upload, while it has a task.
    fn watch_upload(&mut self, cx: &Context<'_>) -> Result<(), Failure> {
        let Some(Poll::Ready(result)) = self.upload.as_ref().map(|upload| upload.poll(cx)) else {
            return Ok(());
        };
        self.upload = None;
        match result {
            Ok(()) => Ok(()),
            Err(Failed::Socket(_)) => {
                self.keeps_alive = false;
                Ok(())
            }
            Err(Failed::Body(error)) => {
                self.keeps_alive = false;
                Err(Failure::Upload(error))
            }
        }
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        method: &Method,
        beside: Beside<'_>,
        looked_at: &mut usize,
    ) -> Poll<Result<Response<()>, Error>> {
        loop {
            let Some(end) = section::end(&self.buffer, *looked_at) else {
                *looked_at = self.buffer.len();
                if *looked_at >= self.header_bytes {
                    return Poll::Ready(Err(Error::TooLarge));
                }
                if ready!(self.poll_read(cx))? == 0 {
                    return Poll::Ready(Err(Error::Closed));
                }
                continue;
            };
            if end > self.header_bytes {
                return Poll::Ready(Err(Error::TooLarge));
            }
            *looked_at = 0;
            let section = self.buffer.split_to(end).freeze();
            let Head { response, length, keeps_alive } = head::read(&section, method)?;
            if response.status().is_informational() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                beside.hears(response.status(), response.headers());
                continue;
            }
            self.keeps_alive &= keeps_alive;
            self.pace = Pace::Bulk;
            self.rest = match length {
                Length::Exact(length) => {
                    let left = length.saturating_sub(self.buffer.len() as u64);
                    self.read_rest(cx, left, beside.body_with_head);
                    Rest::Exact(length)
                }
                Length::Chunked => Rest::Chunked(Chunks::new(Sender::Upstream, self.header_bytes)),
                Length::UntilClose => Rest::UntilClose,
            };
            return Poll::Ready(Ok(response));
        }
    }

    /// Makes ready for what is `left` of a body whose beginning came with the head. Where that filled its room there is more already: what one
    /// read takes goes to the client in one write with the head, if that is `wanted`.
    fn read_rest(&mut self, cx: &mut Context<'_>, left: u64, wanted: bool) {
        let is_there = wanted && self.room > FIRST_READ;
        self.room = rooms::for_rest(left, FIRST_READ);
        if is_there && (1..rooms::MOST as u64).contains(&left) {
            // Whatever is wrong is so at the next read.
            let _ = self.poll_read(cx);
        }
    }

    /// The next of the response's body; `None` at its end.
    ///
    /// # Errors
    ///
    /// When it breaks off.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            match self.rest.next(&mut self.buffer) {
                Ok(Piece::More) => {}
                Ok(piece) => return Poll::Ready(piece.into_frame().map(Ok)),
                Err(flaw) => return Poll::Ready(Some(Err(self.fails(flaw.into())))),
            }
            match self.poll_read(cx) {
                Poll::Pending if self.watch_upload(cx).is_err() => {
                    return Poll::Ready(Some(Err(self.fails(Error::Upload))));
                }
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) if matches!(self.rest, Rest::UntilClose) => {
                    self.rest = Rest::Exact(0);
                    return Poll::Ready(None);
                }
                Poll::Ready(Ok(0)) => return Poll::Ready(Some(Err(self.fails(Error::Closed)))),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(self.fails(error.into())))),
            }
        }
    }

    /// The next of the response's body through a pipe; `None` where it had better be copied.
    ///
    /// # Errors
    ///
    /// When it breaks off.
    pub fn poll_piped(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        pipes: &Pipes,
    ) -> Poll<Option<Result<Piped, Error>>> {
        if self.pace == Pace::Little {
            return Poll::Ready(None);
        }
        match self.socket.poll_piped(cx, &self.rest, self.buffer.len(), most, pipes) {
            Poll::Pending if self.watch_upload(cx).is_err() => {
                Poll::Ready(Some(Err(self.fails(Error::Upload))))
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(None)) => Poll::Ready(None),
            Poll::Ready(Ok(Some(pipe))) if pipe.is_empty() => {
                Poll::Ready(Some(Err(self.fails(Error::Closed))))
            }
            Poll::Ready(Ok(Some(pipe))) => {
                let piece = Piped::take(pipe, &mut self.buffer, &mut self.rest, &mut self.pace);
                Poll::Ready(Some(Ok(piece)))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(self.fails(error.into())))),
        }
    }

    /// Lets others have its room while nothing is in it, unless a large body is on its way.
    fn leave_room(&mut self) {
        if self.buffer.is_empty() && self.room == FIRST_READ {
            self.rooms.give_back(std::mem::take(&mut self.buffer));
        }
    }

    fn fails(&mut self, error: Error) -> Error {
        self.keeps_alive = false;
        error
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        if self.buffer.capacity() == 0 {
            self.buffer = self.rooms.take();
        }
        self.buffer.reserve(self.room);
        let read = self.socket.poll_read(cx, &mut self.buffer);
        if read.is_pending() {
            self.leave_room();
        }
        let read = ready!(read)?;
        self.room = rooms::after(read, self.room, FIRST_READ);
        self.pace = Pace::after(read);
        Poll::Ready(Ok(read))
    }

    /// Whether the response's body has been taken whole.
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        self.rest.is_end()
    }

    /// How long the rest of the response's body is, as far as that is known.
    #[must_use]
    pub fn size_hint(&self) -> SizeHint {
        self.rest.size_hint()
    }

    /// Whether the last request is over, and left it so that another can be sent.
    pub fn is_ready(&mut self) -> bool {
        let _ = self.watch_upload(&Context::from_waker(Waker::noop()));
        self.keeps_alive && self.upload.is_none() && self.is_end_stream() && self.buffer.is_empty()
    }

    /// Whether another request can be sent. What the kernel knows already of the connection's end, or of bytes that nobody asked for, is
    /// noticed.
    pub fn is_usable(&mut self) -> bool {
        self.is_ready() && self.poll_read(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// It is taken for a request, which is sent at once.
    pub fn is_taken(&mut self, now: Instant) {
        self.taken = Some(now);
    }

    /// It waits for a request now: it should be small, and its endpoint quick to answer.
    pub fn rest(&mut self) {
        if self.room > FIRST_READ {
            self.room = FIRST_READ;
            self.buffer = BytesMut::new();
        }
        self.leave_room();
        self.scratch.shrink_to(FIRST_READ);
        if std::mem::take(&mut self.is_waived) {
            self.socket.set_user_timeout(Some(self.user_timeout));
        }
    }

    /// Lets what is left of the request's body be sent, and ends then.
    pub fn finish_upload(mut self) {
        // The task has the socket.
        self.upload = None;
    }

    /// The connection, once it speaks another protocol.
    #[must_use]
    pub fn switch(&mut self) -> Switched {
        self.keeps_alive = false;
        self.waive_user_timeout();
        Switched::new(self.socket.clone(), self.buffer.split().freeze())
    }

    /// For the waits of its request.
    pub fn timer(&mut self) -> &mut LazyTimer {
        &mut self.timer
    }
}

impl Drop for Http1 {
    fn drop(&mut self) {
        if let Some(upload) = &self.upload {
            upload.abort();
        }
    }
}
