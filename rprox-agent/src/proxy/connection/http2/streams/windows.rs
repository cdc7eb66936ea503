//! How much may be sent, as the client's settings and window updates say (RFC 9113 section 5.2).

#![forbid(unsafe_code)]

use std::task::Waker;

use super::{LARGEST_WINDOW, Streams};
use crate::proxy::connection::http2::frame;

impl Streams {
    /// Its table for header fields holds so much.
    pub(in super::super) fn set_table_size(&mut self, size: u32) {
        self.encoder.set_limit(usize::try_from(size).unwrap_or(usize::MAX));
    }

    /// The largest payload that it takes.
    pub(in super::super) fn set_payload(&mut self, size: u32) {
        // Larger frames only keep others waiting.
        self.payload = usize::try_from(size).unwrap_or(usize::MAX).min(frame::PAYLOAD);
    }

    /// The window that each stream begins with, for those too that have begun (RFC 9113 section 6.9.2); false: one would be too large.
    pub(in super::super) fn set_initial_window(&mut self, size: u32) -> bool {
        let more = i64::from(size) - self.initial_window;
        self.initial_window = size.into();
        for stream in self.all.values_mut() {
            stream.window += more;
            if stream.window > LARGEST_WINDOW {
                return false;
            }
            if stream.window > 0 {
                stream.writer.take().into_iter().for_each(Waker::wake);
            }
        }
        true
    }

    /// The connection's window grows; false: too much.
    pub(in super::super) fn widen(&mut self, more: u32) -> bool {
        self.window += i64::from(more);
        self.let_on();
        self.window <= LARGEST_WINDOW
    }

    /// The stream's window grows; false: too much.
    pub(in super::super) fn widen_stream(&mut self, id: u32, more: u32) -> bool {
        let Some(stream) = self.all.get_mut(&id).filter(|stream| stream.is_open) else { return true };
        stream.window += i64::from(more);
        if stream.window > 0 {
            stream.writer.take().into_iter().for_each(Waker::wake);
        }
        stream.window <= LARGEST_WINDOW
    }
}
