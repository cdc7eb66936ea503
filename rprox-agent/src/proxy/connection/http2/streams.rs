//! What the streams of a connection share with it: what is to be sent, the windows, and who waits for them.

#![forbid(unsafe_code)]

mod receive;
mod send;
mod windows;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Waker};

use bytes::BytesMut;
use foldhash::HashMap;
use h2::Reason;
use http::HeaderMap;

use super::frame::{self, RST_STREAM};
use super::hpack::Encoder;

/// The most that a window may be (RFC 9113 section 6.9.1).
const LARGEST_WINDOW: i64 = (1 << 31) - 1;

/// The windows while nobody has said anything else.
const WINDOW: u32 = 65_535;

/// The windows for what the client sends: one upload that nobody takes must not stop the connection's others.
pub(super) const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// How much waits to be sent before streams have to wait; what rustls encrypts at once, too.
const MOST: usize = 64 * 1024;

/// How many streams that we have reset are remembered: what the client sent before it knew is no fault.
const REMEMBERED: usize = 128;

/// A worker's buffer, for whichever of its connections has something to send.
pub type Spare = Rc<Cell<Vec<u8>>>;

/// A connection's streams, as it and each of them have them.
pub(super) type Shared = Rc<RefCell<Streams>>;

/// Why a stream is over before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream was reset: {0}")]
pub struct Reset(pub Reason);

/// The streams of a connection.
pub(super) struct Streams {
    all: HashMap<u32, Stream>,
    /// How many of them are not closed.
    open: usize,
    /// The newest that the client has begun.
    newest: u32,
    forgotten: VecDeque<u32>,
    encoder: Encoder,
    /// What is to be sent; the worker's buffer while there is something.
    out: Vec<u8>,
    /// How much of it was sent.
    sent: usize,
    spare: Spare,
    /// How much may be sent.
    window: i64,
    /// How much may be sent on a new stream.
    initial_window: i64,
    /// How large a frame may be that is sent.
    payload: usize,
    /// How much the client may send.
    receive_window: u32,
    /// How much of what it has sent was taken since it was last told.
    taken: u32,
    /// Streams with data that wait for the connection's window or for room.
    waiting: VecDeque<u32>,
    /// Streams without that wait for room to look for some.
    in_turn: VecDeque<u32>,
    /// The connection's task; `None` while it runs.
    task: Option<Waker>,
}

/// A stream, until it is closed and nobody has it any more.
#[expect(clippy::struct_excessive_bools, reason = "they are facts of their own")]
struct Stream {
    /// How much may be sent.
    window: i64,
    receive_window: u32,
    taken: u32,
    /// What has come and was not read.
    received: BytesMut,
    trailers: Option<Box<HeaderMap>>,
    /// What is to come yet, if the head says so.
    left: Option<u64>,
    has_received_all: bool,
    has_sent_all: bool,
    reset: Option<Reason>,
    is_open: bool,
    has_sender: bool,
    has_receiver: bool,
    is_waiting: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Stream {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

fn remember(place: &mut Option<Waker>, cx: &Context<'_>) {
    if !place.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *place = Some(cx.waker().clone());
    }
}

/// What is known of a stream that a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// The client has not begun it.
    Idle,
    /// More of it may come.
    Open,
    /// The client has said that nothing more comes.
    HalfClosed,
    /// It is over, by both ends or by the client.
    Closed,
    /// We have reset it, which the client may not know yet.
    Reset,
}

impl Streams {
    pub(super) fn new(spare: Spare) -> Self {
        Self {
            all: HashMap::default(),
            open: 0,
            newest: 0,
            forgotten: VecDeque::new(),
            encoder: Encoder::new(),
            out: Vec::new(),
            sent: 0,
            spare,
            window: WINDOW.into(),
            initial_window: WINDOW.into(),
            payload: frame::PAYLOAD,
            receive_window: WINDOW,
            taken: 0,
            waiting: VecDeque::new(),
            in_turn: VecDeque::new(),
            task: None,
        }
    }

    /// How many are not closed.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// How many there are, with those that are closed and not done with.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn newest(&self) -> u32 {
        self.newest
    }

    pub(super) fn known(&self, id: u32) -> Known {
        match self.all.get(&id).filter(|stream| stream.is_open) {
            _ if id > self.newest || id.is_multiple_of(2) => Known::Idle,
            Some(stream) if stream.has_received_all => Known::HalfClosed,
            Some(_) => Known::Open,
            None if self.forgotten.contains(&id) => Known::Reset,
            None => Known::Closed,
        }
    }

    /// The client has begun a stream, which is not served if `begin` isn't called for it.
    pub(super) fn names(&mut self, id: u32) {
        self.newest = id;
    }

    /// The stream is served from now on, by one who has a sender and a receiver.
    pub(super) fn begin(&mut self, id: u32, left: Option<u64>, is_whole: bool) {
        let stream = Stream {
            window: self.initial_window,
            receive_window: STREAM_WINDOW,
            taken: 0,
            received: BytesMut::new(),
            trailers: None,
            left,
            has_received_all: is_whole,
            has_sent_all: false,
            reset: None,
            is_open: true,
            has_sender: true,
            has_receiver: true,
            is_waiting: false,
            reader: None,
            writer: None,
        };
        self.all.insert(id, stream);
        self.open += 1;
    }

    /// Counts the stream out once it is closed, and forgets it once nobody has it either.
    fn settle(&mut self, id: u32) {
        let Some(stream) = self.all.get_mut(&id) else { return };
        let is_closed = stream.reset.is_some() || (stream.has_received_all && stream.has_sent_all);
        if is_closed && std::mem::take(&mut stream.is_open) {
            self.open -= 1;
            if self.open == 0
                && let Some(task) = &self.task
            {
                // It may have waited for that.
                task.wake_by_ref();
            }
        }
        if is_closed && !stream.has_sender && !stream.has_receiver {
            let unread = stream.received.len();
            self.all.remove(&id);
            self.gives_back(unread);
        }
    }

    /// Ends the stream at once.
    pub(super) fn reset(&mut self, id: u32, reason: Reason) {
        if self.all.get(&id).is_some_and(|stream| !stream.is_open) {
            return;
        }
        self.refuse(id, reason);
        self.was_reset(id, reason);
    }

    /// Tells the client that a stream is reset, which need not be one that is served.
    pub(super) fn refuse(&mut self, id: u32, reason: Reason) {
        self.write(RST_STREAM, 0, id, &u32::from(reason).to_be_bytes());
        if self.forgotten.len() == REMEMBERED {
            self.forgotten.pop_front();
        }
        self.forgotten.push_back(id);
    }

    /// The stream is over, as one end says.
    pub(super) fn was_reset(&mut self, id: u32, reason: Reason) {
        let Some(stream) = self.all.get_mut(&id).filter(|stream| stream.is_open) else { return };
        stream.reset = Some(reason);
        stream.wake();
        let unread = std::mem::take(&mut stream.received).len();
        self.gives_back(unread);
        self.settle(id);
    }

    /// All streams are over, for the connection is.
    pub(super) fn end(&mut self, reason: Reason) {
        let open: Vec<u32> = self.all.iter().filter(|(_, one)| one.is_open).map(|(id, _)| *id).collect();
        for id in open {
            self.was_reset(id, reason);
        }
    }

    /// A stream that nobody has and that is not closed is of no use.
    fn let_go(&mut self, id: u32) {
        if let Some(stream) = self.all.get(&id)
            && !stream.has_sender
            && !stream.has_receiver
            && stream.is_open
        {
            // The response is whole, and the rest of the request is not wanted (RFC 9113 section 8.1).
            let reason = if stream.has_sent_all { Reason::NO_ERROR } else { Reason::CANCEL };
            self.reset(id, reason);
        }
        self.settle(id);
    }
}

#[cfg(test)]
mod tests;
