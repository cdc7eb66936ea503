//! An HTTP/2 client's connection (RFC 9113): its frames are read and written here, and each stream has a task while it is served.

#![forbid(unsafe_code)]

mod duplex;
mod frame;
pub mod handles;
mod hpack;
mod receive;
mod section;
mod settings;
pub mod stream;
pub mod streams;

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

use self::frame::{Fault, GOAWAY, HEAD, Head, PING};
use self::receive::{Event, FAREWELL, Receive};
use self::stream::Stream;
use self::streams::{Shared, Streams};
use super::HTTP2_PREFACE;
use super::client::Client;

/// How much is read at once: a full frame and the beginning of another.
const READ: usize = 2 * frame::PAYLOAD;

/// No stream has a higher number.
const LAST_STREAM: u32 = 0x7fff_ffff;

/// A connection that is being served.
pub struct Http2<S> {
    client: Rc<Client>,
    socket: S,
    /// What was read and not taken; the worker's buffer while there is something.
    input: BytesMut,
    has_preface: bool,
    receive: Receive,
    streams: Shared,
    course: Course,
    is_unflushed: bool,
}

/// Where the connection is on its way to its end.
#[derive(Debug)]
enum Course {
    Serving,
    /// The client has been told to begin nothing more, and may not have heard it.
    Leaving,
    /// Nothing more is taken; what runs is finished.
    Finishing,
    /// What there is to say is sent, and then the connection is closed.
    Closing(Option<Failure>),
}

/// Why the connection ended that did not end well.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The socket, or TLS.
    #[error(transparent)]
    Socket(#[from] io::Error),
    /// The client departs from the standard.
    #[error("HTTP/2: {0}")]
    Protocol(Reason),
    /// Frames that only make work.
    #[error("HTTP/2: too many frames that only make work")]
    Flood,
}

/// What there is to read.
enum Read {
    /// The client has closed its end.
    End,
    /// Nothing at the moment.
    Waits,
    /// Nothing until what is to be sent has been.
    BackedUp,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Http2<S> {
    /// Serves the client by its `socket`, from which `input` has been read already.
    pub fn new(client: Rc<Client>, socket: S, input: BytesMut) -> Self {
        let worker = &client.worker;
        let live = worker.live();
        let limits = &live.config.limits;
        let mut streams = Streams::new(Rc::clone(&worker.gathered));
        settings::introduce(&mut streams, limits);
        Self {
            receive: Receive::new(limits, Arc::clone(&worker.metrics)),
            socket,
            input,
            has_preface: false,
            streams: Rc::new(RefCell::new(streams)),
            course: Course::Serving,
            is_unflushed: false,
            client,
        }
    }

    /// Whose it is.
    pub fn client(&self) -> &Rc<Client> {
        &self.client
    }

    /// Moves it on, until it has ended.
    ///
    /// # Errors
    ///
    /// When it does not end well.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.streams.borrow_mut().runs();
        let polled = self.poll_both(cx);
        self.streams.borrow_mut().waits(cx);
        polled
    }

    fn poll_both(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            let mut is_backed_up = false;
            if !matches!(self.course, Course::Closing(_)) {
                match self.poll_receive(cx) {
                    Ok(Read::Waits) => {}
                    Ok(Read::BackedUp) => is_backed_up = true,
                    Ok(Read::End) => self.close(None, Reason::CANCEL),
                    Err(Failure::Socket(error)) => return Poll::Ready(Err(error.into())),
                    Err(failure) => self.fail(failure),
                }
                if matches!(self.course, Course::Finishing) && self.streams.borrow().open() == 0 {
                    self.course = Course::Closing(None);
                }
            }
            let sent = self.poll_send(cx);
            if let Course::Closing(failure) = &mut self.course {
                if let Ok(()) = ready!(sent) {
                    let _ = ready!(Pin::new(&mut self.socket).poll_shutdown(cx));
                }
                return Poll::Ready(failure.take().map_or(Ok(()), Err));
            }
            match sent {
                Poll::Ready(Ok(())) if is_backed_up => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Ready(Ok(())) | Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Takes all frames that have come.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Result<Read, Failure> {
        loop {
            while self.take_frame()? {
                if self.streams.borrow().is_backed_up() {
                    return Ok(Read::BackedUp);
                }
            }
            if self.input.capacity() == 0 {
                self.input = self.client.worker.input.take();
            }
            self.input.reserve(READ);
            match poll_read_buf(Pin::new(&mut self.socket), cx, &mut self.input)? {
                Poll::Ready(0) => return Ok(Read::End),
                Poll::Ready(_) => {}
                Poll::Pending => {
                    self.rest();
                    return Ok(Read::Waits);
                }
            }
        }
    }

    /// Gives the buffer back. What has come of a frame stays, in as much room as it needs.
    fn rest(&mut self) {
        if self.input.len() < READ / 4 {
            let begun = BytesMut::from(&self.input[..]);
            self.input.clear();
            self.client.worker.input.set(std::mem::replace(&mut self.input, begun));
        }
    }

    /// Takes the next frame; false: it has not come whole.
    fn take_frame(&mut self) -> Result<bool, Failure> {
        if !self.has_preface {
            let length = self.input.len().min(HTTP2_PREFACE.len());
            if self.input[..length] != HTTP2_PREFACE[..length] {
                return Err(Failure::Protocol(Reason::PROTOCOL_ERROR));
            }
            if length < HTTP2_PREFACE.len() {
                return Ok(false);
            }
            self.input.advance(length);
            self.has_preface = true;
        }
        let Some(head) = self.input.first_chunk().map(Head::read) else { return Ok(false) };
        if head.length > frame::PAYLOAD {
            return Err(Failure::Protocol(Reason::FRAME_SIZE_ERROR));
        }
        if self.input.len() < HEAD + head.length {
            return Ok(false);
        }
        self.input.advance(HEAD);
        let shared = Rc::clone(&self.streams);
        let streams = &mut *shared.borrow_mut();
        let taken = self.receive.take(streams, head, &self.input[..head.length]);
        self.input.advance(head.length);
        let event = match taken {
            Ok(event) => event,
            Err(Fault::Stream(id, reason)) => match self.receive.fault(streams, id, reason) {
                Ok(()) => Event::Nothing,
                Err(_) => return Err(Failure::Flood),
            },
            Err(Fault::Connection(reason)) => return Err(Failure::Protocol(reason)),
            Err(Fault::Flood) => return Err(Failure::Flood),
        };
        match event {
            Event::Request(id, parts, is_whole) => {
                let (sender, receiver) = handles::pair(&self.streams, id);
                let stream = Stream::new(Rc::clone(&self.client), parts, is_whole, sender, receiver);
                let worker = &self.client.worker;
                worker.streams.give(worker, stream);
            }
            Event::Pong if matches!(self.course, Course::Leaving) => self.leaves(streams),
            Event::GoAway => self.leaves(streams),
            Event::Pong | Event::Nothing => {}
        }
        Ok(true)
    }
}

impl<S: AsyncWrite + Unpin> Http2<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let streams = &mut *self.streams.borrow_mut();
        while !streams.unsent().is_empty() {
            let sent = ready!(Pin::new(&mut self.socket).poll_write(cx, streams.unsent()))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            streams.was_sent(sent);
            self.is_unflushed = true;
        }
        if self.is_unflushed {
            ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
            self.is_unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S> Http2<S> {
    /// Takes no more requests, finishes what runs, ends.
    pub fn finish(&mut self) {
        if matches!(self.course, Course::Serving) {
            // What it begins before it hears that is served (RFC 9113 section 6.8).
            self.course = Course::Leaving;
            let streams = &mut *self.streams.borrow_mut();
            goaway(streams, LAST_STREAM, Reason::NO_ERROR);
            streams.write(PING, 0, 0, FAREWELL);
        }
    }

    /// Ends at once and tells the client that it asks for too much.
    pub fn refuse(&mut self) {
        self.fail(Failure::Protocol(Reason::ENHANCE_YOUR_CALM));
    }

    /// Nothing that the client begins from now on is served.
    fn leaves(&mut self, streams: &mut Streams) {
        if matches!(self.course, Course::Serving | Course::Leaving) {
            self.course = Course::Finishing;
            self.receive.last = streams.newest();
            goaway(streams, streams.newest(), Reason::NO_ERROR);
        }
    }

    fn fail(&mut self, failure: Failure) {
        let reason = match failure {
            Failure::Protocol(reason) => reason,
            Failure::Flood => Reason::ENHANCE_YOUR_CALM,
            Failure::Socket(_) => Reason::INTERNAL_ERROR,
        };
        {
            let streams = &mut *self.streams.borrow_mut();
            goaway(streams, streams.newest(), reason);
        }
        // What it has sent meanwhile must not keep it from being told.
        self.client.body_left_unread();
        self.close(Some(failure), reason);
    }

    fn close(&mut self, failure: Option<Failure>, reason: Reason) {
        self.streams.borrow_mut().end(reason);
        self.course = Course::Closing(failure);
    }
}

impl<S> Drop for Http2<S> {
    fn drop(&mut self) {
        self.streams.borrow_mut().end(Reason::CANCEL);
    }
}

fn goaway(streams: &mut Streams, last: u32, reason: Reason) {
    let [l1, l2, l3, l4] = last.to_be_bytes();
    let [r1, r2, r3, r4] = u32::from(reason).to_be_bytes();
    streams.write(GOAWAY, 0, 0, &[l1, l2, l3, l4, r1, r2, r3, r4]);
}
