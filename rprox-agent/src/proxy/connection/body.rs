//! A request's body as its client's connection gives it.

#![forbid(unsafe_code)]

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::http1::{self, Incoming};
use super::http2::handles::Receiver;
use super::http2::streams::Reset;
use crate::proxy::http1::bulk::{Bulk, Piped};

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
    stream: Receiver,
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
    /// Of HTTP/2.
    #[error(transparent)]
    Http2(#[from] Reset),
    /// As the client says that was to send it on by HTTP/2.
    #[error(transparent)]
    Sent(#[from] hyper::Error),
}

impl StreamBody {
    /// `length` is what the head says, and the client is held to.
    #[must_use]
    pub fn new(stream: Receiver, length: Option<u64>) -> Self {
        Self { stream, length, data_ended: false }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Reset>>> {
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    self.stream.gives_back(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // By whatever code: what the client left out must not look whole to the upstream.
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_ended = true,
            }
        }
        Poll::Ready(self.stream.trailers().map(|trailers| Ok(Frame::trailers(trailers))))
    }
}

impl Bulk for ClientBody {
    fn poll_piped(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<Option<Result<Piped, BodyError>>> {
        match self {
            Self::Http1(incoming) => incoming.poll_piped(cx, most).map_err(BodyError::Http1),
            Self::None | Self::Http2(_) => Poll::Ready(None),
        }
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
