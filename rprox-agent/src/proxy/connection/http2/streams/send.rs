//! What is to be sent to the client: each frame is written when a stream has it, and goes out with those of others.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use foldhash::HashMap;
use h2::Reason;
use http::{HeaderMap, StatusCode};

use super::{MOST, Reset, Stream, Streams, remember};
use crate::proxy::connection::http2::frame::{
    self, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, Head,
};

/// Room for so many streams may stay while there is none.
const FEW: usize = 16;

impl Streams {
    /// While the connection's task runs nobody has to wake it.
    pub(in super::super) fn runs(&mut self) {
        self.task = None;
    }

    /// It waits now.
    pub(in super::super) fn waits(&mut self, cx: &Context<'_>) {
        self.task = Some(cx.waker().clone());
        if self.all.is_empty() && self.all.capacity() > FEW {
            // Nothing is asked for: it may stay so for long.
            self.all = HashMap::default();
            self.waiting = VecDeque::new();
            self.in_turn = VecDeque::new();
        }
    }

    fn out(&mut self) -> &mut Vec<u8> {
        if self.out.is_empty() {
            if self.out.capacity() == 0 {
                self.out = self.spare.take();
                self.out.reserve(MOST);
            }
            if let Some(task) = &self.task {
                task.wake_by_ref();
            }
        }
        &mut self.out
    }

    pub(in super::super) fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        frame::write(kind, flags, stream, payload, self.out());
    }

    /// What there is to send.
    pub(in super::super) fn unsent(&self) -> &[u8] {
        &self.out[self.sent..]
    }

    /// So much of it was sent.
    pub(in super::super) fn was_sent(&mut self, bytes: usize) {
        let was_full = self.is_full();
        self.sent += bytes;
        if self.sent == self.out.len() {
            self.sent = 0;
            self.out.clear();
            // The largest that there was need not stay.
            self.out.shrink_to(2 * MOST);
            self.spare.set(std::mem::take(&mut self.out));
        } else if self.sent >= MOST {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
        if self.window > 0 || was_full {
            self.let_on();
        }
    }

    /// Whether as much waits for the socket as streams may make wait.
    fn is_full(&self) -> bool {
        self.unsent().len() >= MOST
    }

    /// How many frames wait beyond what streams may make wait.
    pub(in super::super) fn is_backed_up(&self) -> bool {
        self.unsent().len() > 2 * MOST
    }

    /// Has those who wait for the connection's window, or for room, look again. Who has data comes first, so that few have.
    pub(super) fn let_on(&mut self) {
        if self.is_full() {
            return;
        }
        for id in self.waiting.drain(..).chain(self.in_turn.drain(..)) {
            if let Some(stream) = self.all.get_mut(&id) {
                stream.is_waiting = false;
                stream.writer.take().into_iter().for_each(Waker::wake);
            }
        }
    }

    /// Sends a header section: a response's head, an interim one's, or trailers.
    pub(in super::super) fn send_section(
        &mut self,
        id: u32,
        status: Option<StatusCode>,
        headers: &HeaderMap,
        is_last: bool,
    ) -> Result<(), Reset> {
        self.sendable(id)?;
        let flags = if is_last { END_STREAM } else { 0 };
        self.out();
        let Self { out, encoder, payload, .. } = self;
        let start = out.len();
        Head { length: 0, kind: HEADERS, flags: flags | END_HEADERS, stream: id }.write(out);
        encoder.encode(status, headers, out);
        let length = out.len() - start - frame::HEAD;
        if length <= *payload {
            set_length(out, start, length);
        } else {
            let block = out.split_off(start + frame::HEAD);
            out.truncate(start);
            let pieces = block.chunks(*payload);
            let last = pieces.len() - 1;
            for (number, piece) in pieces.enumerate() {
                let (kind, flags) = if number == 0 { (HEADERS, flags) } else { (CONTINUATION, 0) };
                let flags = if number == last { flags | END_HEADERS } else { flags };
                frame::write(kind, flags, id, piece, out);
            }
        }
        if is_last {
            self.has_sent_all(id);
        }
        Ok(())
    }

    /// Ready when there is room before the socket for a stream that has no data yet: what it took from its upstream sooner would only
    /// wait here. For its window it does not wait, since a client that gives none is to be noticed by what it does not take.
    pub(in super::super) fn poll_turn(&mut self, id: u32, cx: &Context<'_>) -> Poll<Result<(), Reset>> {
        if !self.is_full() {
            return Poll::Ready(Ok(()));
        }
        let stream = self.sendable(id)?;
        remember(&mut stream.writer, cx);
        if !std::mem::replace(&mut stream.is_waiting, true) {
            self.in_turn.push_back(id);
        }
        Poll::Pending
    }

    /// Ready when there is room for data of the stream, in both windows and before the socket.
    pub(in super::super) fn poll_room(&mut self, id: u32, cx: &Context<'_>) -> Poll<Result<(), Reset>> {
        let has_room = self.window > 0 && !self.is_full();
        let stream = self.sendable(id)?;
        if has_room && stream.window > 0 {
            return Poll::Ready(Ok(()));
        }
        remember(&mut stream.writer, cx);
        if !has_room && !std::mem::replace(&mut stream.is_waiting, true) {
            self.waiting.push_back(id);
        }
        Poll::Pending
    }

    /// Sends as much of `data` as there is room for; with the last byte the stream's end, if it `is_last`. Returns how much.
    pub(in super::super) fn send_data(
        &mut self,
        id: u32,
        mut data: &[u8],
        is_last: bool,
    ) -> Result<usize, Reset> {
        let before = self.unsent().len();
        let (all, payload) = (self.window, self.payload);
        let stream = self.sendable(id)?;
        let windows = usize::try_from(stream.window.min(all)).unwrap_or(0);
        let room = MOST.saturating_sub(before).max(frame::PAYLOAD);
        let length = data.len().min(windows).min(room);
        #[expect(clippy::cast_possible_wrap, reason = "at most a window's size")]
        let counted = length as i64;
        stream.window -= counted;
        self.window -= counted;
        let is_end = is_last && length == data.len();
        let mut left = length;
        while left > 0 {
            let piece = left.min(payload);
            left -= piece;
            let flags = if is_end && left == 0 { END_STREAM } else { 0 };
            let (piece, rest) = data.split_at(piece);
            data = rest;
            self.write(DATA, flags, id, piece);
        }
        if is_end {
            self.has_sent_all(id);
        }
        Ok(length)
    }

    /// Ends what is sent on the stream, without more data.
    pub(in super::super) fn send_end(&mut self, id: u32) -> Result<(), Reset> {
        self.sendable(id)?;
        self.write(DATA, END_STREAM, id, &[]);
        self.has_sent_all(id);
        Ok(())
    }

    fn has_sent_all(&mut self, id: u32) {
        if let Some(stream) = self.all.get_mut(&id) {
            stream.has_sent_all = true;
        }
        self.settle(id);
    }

    fn sendable(&mut self, id: u32) -> Result<&mut Stream, Reset> {
        let stream = self.all.get_mut(&id).ok_or(Reset(Reason::STREAM_CLOSED))?;
        match stream.reset {
            Some(reason) => Err(Reset(reason)),
            None if stream.has_sent_all => Err(Reset(Reason::STREAM_CLOSED)),
            None => Ok(stream),
        }
    }

    /// An error once the stream was reset; else the task is woken then.
    pub(in super::super) fn poll_reset(&mut self, id: u32, cx: &Context<'_>) -> Result<(), Reset> {
        let Some(stream) = self.all.get_mut(&id) else { return Ok(()) };
        if let Some(reason) = stream.reset {
            return Err(Reset(reason));
        }
        remember(&mut stream.writer, cx);
        Ok(())
    }

    /// Nobody sends on the stream any more.
    pub(in super::super) fn drop_sender(&mut self, id: u32) {
        if let Some(stream) = self.all.get_mut(&id) {
            stream.has_sender = false;
        }
        self.let_go(id);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a frame's length has 24 bits")]
fn set_length(out: &mut [u8], start: usize, length: usize) {
    out[start..start + 3].copy_from_slice(&(length as u32).to_be_bytes()[1..]);
}
