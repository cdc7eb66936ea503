//! A request's body on its way to the upstream, as fast as that takes it (RFC 9113 section 5.2).

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use hyper::body::Body as _;
use tokio::task::AbortHandle;

use crate::proxy::forward::body::{RequestBody, UploadError};
use crate::proxy::forward::headers;
use crate::proxy::forward::place::Place;

/// How much of a body is kept until its response comes, in case the upstream refuses the request. Such a refusal comes at once, and a
/// larger body is hardly there by then.
const MOST_KEPT: usize = 64 * 1024;

/// A body and the stream that it goes by.
pub(super) struct Upload {
    body: RequestBody,
    /// `None` before it is open, and once there is nothing more to send.
    stream: Option<SendStream<Bytes>>,
    /// What the upstream has no room for yet.
    held: Option<Bytes>,
    kept: Kept,
    /// Whether there is no body and the stream is to be a tunnel.
    is_tunnel: bool,
}

/// What of a body was sent; `None` once that is too much. A copy: a piece of a buffer would keep it from the next read.
struct Kept(Option<Vec<u8>>);

impl Kept {
    fn keep(&mut self, piece: &[u8]) {
        self.0 = self.0.take().filter(|kept| kept.len() + piece.len() <= MOST_KEPT);
        if let Some(kept) = &mut self.0 {
            kept.extend_from_slice(piece);
        }
    }
}

impl Upload {
    pub(super) fn new(body: RequestBody, is_tunnel: bool) -> Self {
        Self { body, stream: None, held: None, kept: Kept(Some(Vec::new())), is_tunnel }
    }

    /// Whether the head is all there is to send.
    pub(super) fn is_empty(&self) -> bool {
        self.body.is_end_stream() && !self.is_tunnel
    }

    /// It goes by this stream, which the head has left open.
    pub(super) fn begin(&mut self, stream: SendStream<Bytes>) {
        self.stream = Some(stream);
    }

    /// Sends what the client has sent and the upstream takes. Ready at the body's end, and when the upstream wants no more of it:
    /// whether that is a failure the response tells (RFC 9113 section 8.1).
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UploadError>> {
        let Some(stream) = self.stream.as_mut().filter(|_| !self.is_tunnel) else {
            return Poll::Ready(Ok(()));
        };
        let sent = ready!(Self::send(stream, &mut self.body, &mut self.held, &mut self.kept, cx));
        if sent.is_err() {
            stream.send_reset(Reason::CANCEL);
        }
        self.stream = None;
        Poll::Ready(sent)
    }

    fn send(
        stream: &mut SendStream<Bytes>,
        body: &mut RequestBody,
        held: &mut Option<Bytes>,
        kept: &mut Kept,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), UploadError>> {
        loop {
            // So that a reset is heard while the client is waited for.
            if stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            if held.is_some() {
                while stream.capacity() == 0 {
                    if !matches!(ready!(stream.poll_capacity(cx)), Some(Ok(_))) {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
            if let Some(piece) = held.take() {
                let ends = body.is_end_stream();
                if stream.send_data(piece, ends).is_err() || ends {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let Some(frame) = ready!(Pin::new(&mut *body).poll_frame(cx)).transpose()? else {
                let _ = stream.send_data(Bytes::new(), true);
                return Poll::Ready(Ok(()));
            };
            match frame.into_data() {
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => {
                    // Room is asked for when there is something to put there, and at first for a byte: what a stream has been given all
                    // others lack. The whole is asked for when it is handed over.
                    stream.reserve_capacity(1);
                    kept.keep(&piece);
                    *held = Some(piece);
                }
                Err(frame) => {
                    kept.0 = None;
                    let mut trailers = frame.into_trailers().unwrap_or_default();
                    headers::remove_hop_by_hop(&mut trailers);
                    stream.reserve_capacity(0);
                    let _ = stream.send_trailers(trailers);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    /// Goes on in a task of its own, if there is something left.
    pub(super) fn spawn(mut self) -> Option<Task> {
        self.stream.as_ref()?;
        self.kept.0 = None;
        let place = Rc::default();
        let held = Rc::clone(&place);
        let task = tokio::task::spawn_local(async move {
            // What went wrong the stream tells, which is reset.
            let _ = poll_fn(|cx| self.poll(cx)).await;
            drop(held);
        });
        Some(Task { handle: task.abort_handle(), place })
    }

    /// The stream, which was left open.
    pub(super) fn into_stream(self) -> Option<SendStream<Bytes>> {
        self.stream
    }

    /// The body as it was before it was sent, if all of it is still there.
    pub(super) fn into_whole_body(self) -> Option<RequestBody> {
        let mut body = self.body;
        body.rewind(self.kept.0?.into());
        Some(body)
    }
}

/// An upload in a task of its own.
pub(super) struct Task {
    handle: AbortHandle,
    /// The stream's, once nobody else has it.
    place: Rc<Cell<Option<Place>>>,
}

impl Task {
    /// Ends it where it is.
    pub(super) fn abort(&self) {
        self.handle.abort();
    }

    /// Lets it go on, with the stream's place until its end.
    pub(super) fn finish(self, place: Option<Place>) {
        self.place.set(place);
    }
}
