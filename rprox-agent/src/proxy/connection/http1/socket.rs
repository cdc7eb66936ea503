//! A client's connection as its requests' bodies and its responses share it.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Frame, SizeHint};
use socket2::SockRef;
use tokio::io::AsyncWrite;
use tokio_util::io::poll_read_buf;

use super::head::{self, Body, Head, Refusal};
use crate::proxy::connection::ClientStream;
use crate::proxy::connection::client::Client;
use crate::proxy::connection::io::ClientIo;
use crate::proxy::http1::bulk::{self, Pace, Piped, Sink};
use crate::proxy::http1::chunks::{Chunks, Piece, Sender};
use crate::proxy::http1::rest::Rest;
use crate::proxy::http1::section::Strict;
use crate::proxy::http1::{Flaw, rooms};
use crate::proxy::socket::pipe::Pipe;
use crate::proxy::socket::stream::{self, Stream};

/// The least room for what is left of a body whose length is known.
const SMALLEST_BODY: usize = 4096;

/// How much of any other is read at a time, at least.
const SMALLEST_READ: usize = 16 * 1024;

/// How much of a body that nobody wants is passed over, so that the connection can go on.
const PASSED_OVER: usize = 64 * 1024;

/// The connection.
#[derive(Clone)]
pub struct Socket(Rc<RefCell<Inner>>);

struct Inner {
    client: Rc<Client>,
    io: ClientIo<ClientStream>,
    /// What was read and not taken yet.
    buffer: BytesMut,
    /// How much of a body to read next.
    room: usize,
    /// How a body comes.
    pace: Pace,
    /// How far the next head has been looked for.
    strict: Strict,
    /// What is still to come of a request; `None` where nobody can tell.
    rest: Option<Rest>,
    /// Whether the client has closed its half.
    is_half_closed: bool,
    /// Whether the request's body is still somebody's.
    is_wanted: bool,
    /// Who waits for the body's end.
    waiting: Option<Waker>,
}

/// What has become of the wait for a head.
pub(super) enum Next {
    /// It is there.
    Request(Head),
    /// It is there, and not to be served.
    Refused(Refusal),
    /// Nothing is asked.
    Nothing,
    /// The client has closed the connection.
    Closed,
}

/// Why a body can't be read on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// It ended early.
    #[error("the connection was closed before the request was complete")]
    Closed,
    /// Two could read it in two ways.
    #[error("the request is malformed: {0}")]
    Malformed(&'static str),
    /// What comes behind it is too large.
    #[error("the request's trailers are too large")]
    TooLarge,
}

impl From<Flaw> for Error {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Malformed(what) => Self::Malformed(what),
            Flaw::TooLarge => Self::TooLarge,
        }
    }
}

impl Socket {
    /// The `client`'s, by `io`, from which `buffer` has been read already.
    pub(in crate::proxy::connection) fn new(
        client: Rc<Client>,
        io: ClientIo<ClientStream>,
        buffer: BytesMut,
    ) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            client,
            buffer,
            io,
            room: SMALLEST_READ,
            pace: Pace::Bulk,
            strict: Strict::default(),
            rest: Some(Rest::Exact(0)),
            is_half_closed: false,
            is_wanted: false,
            waiting: None,
        })))
    }

    /// Whose it is.
    pub(super) fn client(&self) -> Rc<Client> {
        Rc::clone(&self.0.borrow().client)
    }

    /// Waits for the next request's head, which may have so many bytes and fields.
    ///
    /// # Errors
    ///
    /// When the connection breaks, or ends in the middle of the head.
    pub(super) fn poll_head(
        &self,
        cx: &mut Context<'_>,
        bytes: usize,
        fields: usize,
    ) -> Poll<Result<Next, Error>> {
        let mut inner = self.0.borrow_mut();
        let inner = &mut *inner;
        loop {
            if !inner.buffer.is_empty() {
                match inner.strict.find(&inner.buffer) {
                    Ok(Some((start, end))) if end <= bytes => {
                        inner.strict = Strict::default();
                        let head = inner.buffer.split_to(end).freeze().slice(start..);
                        return Poll::Ready(Ok(match head::read(&head, fields) {
                            Ok(head) => {
                                inner.begin(head.body, bytes);
                                Next::Request(head)
                            }
                            Err(refusal) => inner.refuse(refusal),
                        }));
                    }
                    Ok(None) if inner.buffer.len() < bytes => inner.client.has_read(),
                    Ok(_) => return Poll::Ready(Ok(inner.refuse(Refusal::TooLarge))),
                    Err(what) => return Poll::Ready(Ok(inner.refuse(Refusal::Malformed(what)))),
                }
            }
            if inner.is_half_closed || ready!(inner.poll_first(cx))? == 0 {
                let is_between = inner.buffer.is_empty();
                return Poll::Ready(if is_between { Ok(Next::Closed) } else { Err(Error::Closed) });
            }
        }
    }

    /// The body of the request whose head was the last; `None` if it has none.
    pub(super) fn body(&self) -> Option<Incoming> {
        let mut inner = self.0.borrow_mut();
        if inner.is_end() {
            return None;
        }
        inner.is_wanted = true;
        Some(Incoming(self.clone()))
    }

    /// Notices that the client is gone, while all of its request is there and it waits for the response.
    ///
    /// # Errors
    ///
    /// When it is.
    pub(super) fn poll_gone(&self, cx: &mut Context<'_>) -> Result<(), Error> {
        let mut inner = self.0.borrow_mut();
        if inner.is_unwatched() {
            return Ok(());
        }
        // What it sends already of its next request can wait.
        if !inner.is_end() || inner.is_half_closed || !inner.buffer.is_empty() {
            return Ok(());
        }
        if inner.poll_first(cx)? == Poll::Ready(0) {
            inner.client.closes_its_half();
        }
        Ok(())
    }

    /// Whether nobody would notice that the client is gone.
    pub(super) fn is_unwatched(&self) -> bool {
        self.0.borrow().is_unwatched()
    }

    /// Whether it needs nothing as long as nothing comes.
    pub(super) fn can_rest(&self) -> bool {
        let inner = self.0.borrow();
        inner.io.get_ref().is_plain() && inner.buffer.is_empty() && !inner.is_half_closed
    }

    /// Has it noticed from now on.
    ///
    /// # Errors
    ///
    /// When that can't be done.
    pub(super) fn watch(&self) -> io::Result<()> {
        match self.0.borrow_mut().io.get_mut() {
            Stream::Plain(tcp) => tcp.watched().map(drop),
            Stream::Tls(_) => Ok(()),
        }
    }

    /// Whether another request may follow, as far as can be told while the response is still to be sent.
    pub(super) fn may_go_on(&self, cx: &mut Context<'_>) -> bool {
        let mut inner = self.0.borrow_mut();
        inner.is_wanted || inner.pass_over(cx)
    }

    /// Waits until the request has been taken to its end, if somebody does; whether another may follow.
    pub(super) fn poll_rest(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut inner = self.0.borrow_mut();
        if inner.is_wanted {
            inner.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if !inner.pass_over(cx) {
            return Poll::Ready(false);
        }
        if inner.buffer.is_empty() {
            // A connection on which nothing comes should hold nothing.
            inner.buffer = BytesMut::new();
        }
        inner.room = SMALLEST_READ;
        Poll::Ready(true)
    }

    /// Writes what goes out before the response, and is no beginning of it.
    pub(super) fn poll_write_early(
        &self,
        cx: &mut Context<'_>,
        early: &mut BytesMut,
    ) -> Poll<io::Result<()>> {
        self.0.borrow_mut().io.poll_write_early(cx, early)
    }

    /// The connection and what was read of it, for another protocol; `None` while its last request is somebody's.
    pub(super) fn into_stream(self) -> Option<(ClientStream, Bytes)> {
        let inner = Rc::into_inner(self.0)?.into_inner();
        Some((inner.io.into_stream(), inner.buffer.freeze()))
    }

    /// Has the connection end so that nobody takes what was sent for all there was.
    pub(super) fn reset(&self) {
        match self.0.borrow().io.get_ref() {
            Stream::Plain(tcp) => {
                let set = |socket| SockRef::from(&socket).set_linger(Some(Duration::ZERO));
                if let Err(error) = tcp.socket().and_then(set) {
                    tracing::debug!(%error, "SO_LINGER refused");
                }
            }
            // Here the lack of a closing alert says it (RFC 8446 section 6.1).
            Stream::Tls(_) => {}
        }
    }
}

impl Inner {
    /// A request that isn't served may still be on its way.
    fn refuse(&self, refusal: Refusal) -> Next {
        self.client.has_read();
        Next::Refused(refusal)
    }

    fn begin(&mut self, body: Body, trailers: usize) {
        self.pace = Pace::Bulk;
        self.rest = Some(match body {
            Body::Length(length) => {
                let left = length.saturating_sub(self.buffer.len() as u64);
                self.room = rooms::for_rest(left, SMALLEST_BODY);
                if left > 0 && !self.buffer.is_empty() {
                    self.pace = Pace::Begun;
                }
                Rest::Exact(length)
            }
            Body::Chunked => Rest::Chunked(Chunks::new(Sender::Client, trailers)),
        });
    }

    fn is_unwatched(&self) -> bool {
        matches!(self.io.get_ref(), Stream::Plain(tcp) if tcp.is_unwatched())
    }

    fn is_end(&self) -> bool {
        self.rest.as_ref().is_some_and(Rest::is_end)
    }

    /// Passes over what is left of a body that nobody wants; whether all of it was there.
    fn pass_over(&mut self, cx: &mut Context<'_>) -> bool {
        let mut left = PASSED_OVER;
        while !self.is_end() {
            match self.poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let Some(less) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else {
                        return false;
                    };
                    left = less;
                }
                Poll::Ready(None) => {}
                Poll::Ready(Some(Err(_))) | Poll::Pending => return false,
            }
        }
        true
    }

    /// Reads without having room for it before it comes.
    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let read = ready!(stream::poll_first(&mut self.io, cx, &mut self.buffer))?;
        self.is_half_closed = read == 0;
        Poll::Ready(Ok(read))
    }

    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let is_exact = matches!(self.rest, Some(Rest::Exact(_)));
        if is_exact {
            self.client.worker.room.reserve(&mut self.buffer, self.room);
        } else {
            self.buffer.reserve(self.room);
        }
        let read = poll_read_buf(Pin::new(&mut self.io), cx, &mut self.buffer);
        if is_exact && self.buffer.is_empty() {
            // Others may read meanwhile.
            self.buffer = BytesMut::new();
        }
        let read = ready!(read)?;
        if read == 0 {
            return Poll::Ready(Err(Error::Closed));
        }
        self.room = rooms::after(read, self.room, SMALLEST_READ);
        self.pace = Pace::after(read);
        Poll::Ready(Ok(()))
    }

    fn poll_piped(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<Option<Result<Piped, Error>>> {
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        if self.pace == Pace::Little || bulk::much_to_come(rest, self.buffer.len()).is_none() {
            return Poll::Ready(None);
        }
        let Some(tcp) = self.io.get_mut().plain() else { return Poll::Ready(None) };
        let pipes = &self.client.worker.pipes;
        let pipe = match ready!(bulk::poll_piped(cx, tcp, rest, self.buffer.len(), most, pipes)) {
            Ok(Some(pipe)) if pipe.is_empty() => Err(Error::Closed),
            Ok(Some(pipe)) => Ok(pipe),
            Ok(None) => return Poll::Ready(None),
            Err(error) => Err(error.into()),
        };
        Poll::Ready(Some(match pipe {
            Ok(pipe) => Ok(Piped::take(pipe, &mut self.buffer, rest, &mut self.pace)),
            Err(error) => {
                self.rest = None;
                Err(error)
            }
        }))
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            if self.pace == Pace::Begun {
                self.pace = Pace::Bulk;
                if let Poll::Ready(Err(error)) = self.poll_more(cx) {
                    self.rest = None;
                    return Poll::Ready(Some(Err(error)));
                }
            }
            let Some(rest) = &mut self.rest else { return Poll::Ready(Some(Err(Error::Closed))) };
            match rest.next(&mut self.buffer) {
                Ok(Piece::More) => {}
                Ok(piece) => {
                    if matches!(rest, Rest::Exact(_)) && self.buffer.is_empty() {
                        // Its room is free once this piece is written.
                        self.buffer = BytesMut::new();
                    }
                    return Poll::Ready(piece.into_frame().map(Ok));
                }
                Err(flaw) => {
                    self.rest = None;
                    return Poll::Ready(Some(Err(flaw.into())));
                }
            }
            if let Err(error) = ready!(self.poll_more(cx)) {
                self.rest = None;
                return Poll::Ready(Some(Err(error)));
            }
        }
    }
}

impl Sink for Socket {
    fn takes_pipes(&self) -> bool {
        self.0.borrow().io.get_ref().is_plain()
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().io.poll_drain(cx, pipe)
    }

    fn poll_write_last(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().io.poll_write_last(cx, slices)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_shutdown(cx)
    }
}

/// A request's body as it comes by the connection.
pub struct Incoming(Socket);

impl Incoming {
    /// The next of it; `None` at its end.
    ///
    /// # Errors
    ///
    /// When it is malformed, or breaks off.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.0.0.borrow_mut().poll_frame(cx)
    }

    /// The next of it through a pipe; `None` where it had better be copied.
    ///
    /// # Errors
    ///
    /// When it breaks off.
    pub fn poll_piped(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<Option<Result<Piped, Error>>> {
        self.0.0.borrow_mut().poll_piped(cx, most)
    }

    /// Whether all of it has been taken.
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        self.0.0.borrow().is_end()
    }

    /// How long the rest of it is, as far as that is known.
    #[must_use]
    pub fn size_hint(&self) -> SizeHint {
        self.0.0.borrow().rest.as_ref().map_or_else(SizeHint::default, Rest::size_hint)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let mut inner = self.0.0.borrow_mut();
        inner.is_wanted = false;
        if !inner.is_end() {
            inner.client.body_left_unread();
        }
        if let Some(waiting) = inner.waiting.take() {
            drop(inner);
            waiting.wake();
        }
    }
}
