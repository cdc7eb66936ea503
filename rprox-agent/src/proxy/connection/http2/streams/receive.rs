//! What the client sends on its streams, until it is read.

#![forbid(unsafe_code)]

use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::Reason;
use http::HeaderMap;

use super::{CONNECTION_WINDOW, Reset, STREAM_WINDOW, Streams, remember};
use crate::proxy::connection::http2::frame::WINDOW_UPDATE;

impl Streams {
    /// Lets it send as much as we take, on all streams together.
    pub(in super::super) fn open_window(&mut self) {
        let more = CONNECTION_WINDOW - self.receive_window;
        self.write(WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        self.receive_window = CONNECTION_WINDOW;
    }

    /// Data came, for whatever stream; false: more than it may send.
    pub(in super::super) fn has_come(&mut self, bytes: u32) -> bool {
        let left = self.receive_window.checked_sub(bytes);
        self.receive_window = left.unwrap_or(0);
        left.is_some()
    }

    /// Data of an open stream, in a frame of `size`. An error is the stream's; `Ok(false)`: more than it may send.
    pub(in super::super) fn take_data(
        &mut self,
        id: u32,
        data: &[u8],
        size: u32,
        is_last: bool,
    ) -> Result<bool, Reset> {
        let Some(stream) = self.all.get_mut(&id) else { return Ok(true) };
        let Some(window) = stream.receive_window.checked_sub(size) else { return Ok(false) };
        stream.receive_window = window;
        let length = data.len();
        if let Some(left) = &mut stream.left {
            let more = left.checked_sub(length as u64).filter(|left| *left == 0 || !is_last);
            let Some(more) = more else {
                self.gives_back(size as usize);
                return Err(Reset(Reason::PROTOCOL_ERROR));
            };
            *left = more;
        }
        let is_wanted = stream.has_receiver;
        if is_wanted {
            // Copied: a few bytes should not keep the buffer that they came in, and that is used again at once.
            stream.received.extend_from_slice(data);
        }
        stream.has_received_all |= is_last;
        stream.reader.take().into_iter().for_each(Waker::wake);
        let padding = size as usize - length;
        if is_wanted {
            self.gives_back_on(id, padding);
        } else {
            self.gives_back(size as usize);
        }
        self.settle(id);
        Ok(true)
    }

    /// Trailers of an open stream.
    pub(in super::super) fn take_trailers(&mut self, id: u32, trailers: HeaderMap) -> Result<(), Reset> {
        let Some(stream) = self.all.get_mut(&id) else { return Ok(()) };
        if stream.left.is_some_and(|left| left > 0) {
            return Err(Reset(Reason::PROTOCOL_ERROR));
        }
        stream.trailers = Some(Box::new(trailers)).filter(|trailers| !trailers.is_empty());
        stream.has_received_all = true;
        stream.reader.take().into_iter().for_each(Waker::wake);
        self.settle(id);
        Ok(())
    }

    /// The next data; `None` at its end.
    pub(in super::super) fn poll_data(
        &mut self,
        id: u32,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Bytes, Reset>>> {
        let Some(stream) = self.all.get_mut(&id) else { return Poll::Ready(None) };
        if !stream.received.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut stream.received).freeze())));
        }
        if let Some(reason) = stream.reset {
            return Poll::Ready(Some(Err(Reset(reason))));
        }
        if stream.has_received_all {
            return Poll::Ready(None);
        }
        remember(&mut stream.reader, cx);
        Poll::Pending
    }

    /// What came behind the data.
    pub(in super::super) fn take_received_trailers(&mut self, id: u32) -> Option<HeaderMap> {
        self.all.get_mut(&id)?.trailers.take().map(|trailers| *trailers)
    }

    /// Whether all that there is of a request was read.
    pub(in super::super) fn is_read(&self, id: u32) -> bool {
        self.all.get(&id).is_none_or(|stream| {
            stream.has_received_all && stream.received.is_empty() && stream.trailers.is_none()
        })
    }

    /// Data was taken: the client may send as much again.
    pub(in super::super) fn gives_back_on(&mut self, id: u32, bytes: usize) {
        self.gives_back(bytes);
        let Some(stream) = self.all.get_mut(&id) else { return };
        if stream.has_received_all || !stream.is_open {
            return;
        }
        stream.taken += u32::try_from(bytes).unwrap_or(u32::MAX);
        if stream.taken >= STREAM_WINDOW / 2 {
            let more = std::mem::take(&mut stream.taken);
            stream.receive_window += more;
            self.write(WINDOW_UPDATE, 0, id, &more.to_be_bytes());
        }
    }

    /// The same of the connection alone.
    pub(in super::super) fn gives_back(&mut self, bytes: usize) {
        self.taken += u32::try_from(bytes).unwrap_or(u32::MAX);
        if self.taken >= CONNECTION_WINDOW / 2 {
            let more = std::mem::take(&mut self.taken);
            self.receive_window += more;
            self.write(WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        }
    }

    /// Nobody reads the stream any more.
    pub(in super::super) fn drop_receiver(&mut self, id: u32) {
        if let Some(stream) = self.all.get_mut(&id) {
            stream.has_receiver = false;
            stream.trailers = None;
            let unread = std::mem::take(&mut stream.received).len();
            self.gives_back(unread);
        }
        self.let_go(id);
    }
}
