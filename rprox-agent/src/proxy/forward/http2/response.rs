//! A response's body as it comes.

#![forbid(unsafe_code)]

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use hyper::body::{Frame, SizeHint};

use super::error::Error;

/// A response's body.
pub struct Incoming {
    stream: RecvStream,
    /// How much is to come, as far as that was said; h2 sees to it that no less comes before the stream's end, and no more.
    left: Option<u64>,
}

impl Incoming {
    /// What comes by `stream`, which is `length` as far as that was said.
    pub(super) fn new(stream: RecvStream, length: Option<u64>) -> Self {
        let left = length.or(stream.is_end_stream().then_some(0));
        Self { stream, left }
    }

    /// The stream.
    pub(super) fn into_stream(self) -> RecvStream {
        self.stream
    }

    /// The next of it; `None` at its end.
    ///
    /// # Errors
    ///
    /// When it breaks off.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Poll::Ready(match ready!(self.stream.poll_data(cx)) {
            Some(Ok(data)) => {
                // Taken, so that as much may follow.
                let _ = self.stream.flow_control().release_capacity(data.len());
                self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                Some(Ok(Frame::data(data)))
            }
            Some(Err(error)) => self.breaks(error),
            None => match ready!(self.stream.poll_trailers(cx)) {
                Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
                Err(error) => self.breaks(error),
            },
        })
    }

    /// A reset that is no error leaves whole what is known to be whole.
    fn breaks(&self, error: h2::Error) -> Option<Result<Frame<Bytes>, Error>> {
        let is_whole = self.left == Some(0) && error.reason() == Some(Reason::NO_ERROR);
        (!is_whole).then(|| Err(Error::of_body(error)))
    }

    /// Whether it has been taken whole.
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    /// How long the rest of it is, as far as that is known.
    #[must_use]
    pub fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
