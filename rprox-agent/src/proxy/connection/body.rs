//! A request's body as its client's connection gives it.

#![forbid(unsafe_code)]

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use hyper::body::{Body, Frame, SizeHint};

use super::http1::{self, Incoming};

/// What comes of a request behind its head.
pub enum ClientBody {
    /// Nothing that is the request's.
    None,
    /// What follows its head on the connection.
    Http1(Incoming),
    /// A stream's data and trailers.
    Http2(StreamBody),
}

/// The body that comes by a stream of HTTP/2.
pub struct StreamBody {
    stream: RecvStream,
    /// As the head says.
    length: Option<u64>,
    data_ended: bool,
}

/// Why a body can't be read on: malformed, or its connection ended.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Of HTTP/1.1.
    #[error(transparent)]
    Http1(#[from] http1::Error),
    /// As h2 says.
    #[error(transparent)]
    Http2(#[from] h2::Error),
    /// As the client says that was to send it on by HTTP/2.
    #[error(transparent)]
    Sent(#[from] hyper::Error),
}

impl StreamBody {
    /// `length` is what the head says, and h2 holds the client to.
    #[must_use]
    pub fn new(stream: RecvStream, length: Option<u64>) -> Self {
        Self { stream, length, data_ended: false }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_ended {
            if let Some(data) = ready!(self.stream.poll_data(cx)) {
                let data = data.inspect(|data| {
                    // It can only fail if more is given back than was taken.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                });
                return Poll::Ready(whole_if_unwanted(data.map(Frame::data)));
            }
            self.data_ended = true;
        }
        let trailers = ready!(self.stream.poll_trailers(cx)).transpose();
        Poll::Ready(trailers.and_then(|trailers| whole_if_unwanted(trailers.map(Frame::trailers))))
    }
}

/// A client that has its answer may leave the rest of its request out (RFC 9113 section 8.1).
fn whole_if_unwanted<T>(read: Result<T, h2::Error>) -> Option<Result<T, h2::Error>> {
    match read {
        Err(error) if error.reason() == Some(Reason::NO_ERROR) => None,
        read => Some(read),
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::None => Poll::Ready(None),
            Self::Http1(incoming) => incoming.poll_frame(cx).map_err(BodyError::Http1),
            Self::Http2(body) => body.poll_frame(cx).map_err(BodyError::Http2),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::None => true,
            Self::Http1(incoming) => incoming.is_end_stream(),
            Self::Http2(body) => body.stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::None => SizeHint::with_exact(0),
            Self::Http1(incoming) => incoming.size_hint(),
            Self::Http2(body) => body.length.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
