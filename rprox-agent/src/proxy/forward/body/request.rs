//! A request's body on its way to the upstream.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::proxy::config::Config;
use crate::proxy::connection::body::{BodyError, ClientBody};
use crate::proxy::connection::client::Client;
use crate::proxy::connection::interim::Interim;
use crate::proxy::connection::patience::Patience;
use crate::proxy::forward::expect::{Hold, Question};
use crate::proxy::forward::failure::Failure;
use crate::proxy::forward::{forwarded, headers};
use crate::proxy::http1::bulk::{Bulk, Piped};
use crate::proxy::timer::lazy::LazyTimer;
use crate::proxy::timer::timeout;
use crate::proxy::tls::identity;
use crate::proxy::worker::roster::Stop;

/// How much of an HTTP/2 client's body is read that nobody wants, at most.
const LINGER_BYTES: usize = 1 << 20;

/// How long the client has to notice that, at most.
const LINGER_TIME: Duration = Duration::from_secs(1);

/// Why a request's body could not be passed on.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The client stopped sending.
    #[error("the client sent less of its body than limits.client_rate for timeouts.body")]
    Stalled,
    /// It is over the limit.
    #[error("the request's body is larger than limits.body_bytes")]
    TooLarge,
    /// The client's connection broke, or the body is malformed.
    #[error("the request's body can't be read: {0}")]
    Broken(#[from] BodyError),
}

impl UploadError {
    /// The status to answer with, for whoever still listens.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Stalled => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Broken(_) => StatusCode::BAD_REQUEST,
        }
    }

    /// What the client is told.
    #[must_use]
    pub fn public(&self) -> &'static str {
        match self {
            Self::Stalled => "the request's body did not arrive in time",
            Self::TooLarge => "the request's body is too large",
            Self::Broken(_) => "the request's body can't be read",
        }
    }
}

/// A request's body on its way to the upstream.
pub struct RequestBody(Option<Box<Upload>>);

struct Upload {
    incoming: ClientBody,
    client: Rc<Client>,
    /// Whether the client waits for a word before it sends anything.
    expects: bool,
    /// Where that word goes when the body is first asked for.
    word: Option<Interim>,
    /// Until the upstream has given its own.
    hold: Option<Hold>,
    /// How long it is, as far as that was said.
    length: Option<u64>,
    /// What may still come; `None`: no limit.
    left: Option<u64>,
    /// What was read once and is to be read again, in front of the rest.
    again: Bytes,
    /// For the wait for the client's next piece.
    patience: Patience,
    timer: Option<LazyTimer>,
    progress: Rc<Progress>,
    ended: bool,
}

/// Who is waited for while a request's body is sent.
pub struct Progress(Cell<Option<Instant>>);

impl Progress {
    /// Since when it is the upstream's turn, to take more or to answer; `None` while it is the client's, to send more.
    #[must_use]
    pub fn upstreams_turn(&self) -> Option<Instant> {
        self.0.get()
    }
}

impl RequestBody {
    /// The body that `incoming` is, which is waited for with `patience`; costs nothing where there is none. `expects`: the
    /// client sends it once it is asked to, by way of `interim`.
    ///
    /// # Errors
    ///
    /// When it says already that it is too large.
    pub fn new(
        incoming: ClientBody,
        client: &Rc<Client>,
        config: &Config,
        patience: Patience,
        expects: bool,
        interim: Option<&Interim>,
    ) -> Result<Self, Failure> {
        if incoming.is_end_stream() {
            return Ok(Self(None));
        }
        let (left, length) = (config.limits.body_bytes, incoming.size_hint().exact());
        let upload = Upload {
            client: Rc::clone(client),
            expects,
            word: interim.filter(|_| expects).cloned(),
            hold: None,
            length,
            left,
            again: Bytes::new(),
            patience,
            timer: None,
            progress: Rc::new(Progress(Cell::new(Some(Instant::now())))),
            ended: false,
            incoming,
        };
        // Made first: dropping it tells the client's connection that a body is left unread.
        match (left, length) {
            (Some(limit), Some(length)) if length > limit => Err(Failure::Upload(UploadError::TooLarge)),
            _ => Ok(Self(Some(Box::new(upload)))),
        }
    }

    /// No body.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Whether the client would be glad to hear first whether it is wanted.
    #[must_use]
    pub(in crate::proxy::forward) fn is_expected(&self) -> bool {
        self.0.as_ref().is_some_and(|upload| upload.expects)
    }

    /// Has all that was `read` read again.
    pub(in crate::proxy::forward) fn rewind(&mut self, read: Bytes) {
        if let Some(upload) = &mut self.0 {
            upload.again = read;
        }
    }

    /// Holds it back until the upstream asks for it or `limit` has passed; with no limit it is sent at once.
    pub(in crate::proxy::forward) fn hold(&mut self, limit: Option<Duration>) -> Option<Question> {
        let upload = self.0.as_mut()?;
        upload.hold = limit.map(Hold::new);
        upload.hold.as_ref().map(Hold::question)
    }

    /// How sending it goes; `None` if there is none.
    #[must_use]
    pub fn progress(&self) -> Option<Rc<Progress>> {
        self.0.as_ref().map(|upload| Rc::clone(&upload.progress))
    }
}

impl Upload {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        ready!(self.poll_wanted(cx));
        if !self.again.is_empty() {
            self.progress.0.set(Some(Instant::now()));
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.again)))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Pending => {
                self.progress.0.set(None);
                self.poll_stalled(cx).map(|()| Some(Err(UploadError::Stalled)))
            }
            Poll::Ready(None) => {
                self.progress.0.set(Some(Instant::now()));
                self.ended = true;
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(Some(Ok(frame))) => {
                let come = self.has_come(frame.data_ref().map_or(0, Bytes::len));
                Poll::Ready(Some(come.map(|()| without_claims(frame))))
            }
        }
    }

    fn poll_piped(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<Option<Result<Piped, UploadError>>> {
        ready!(self.poll_wanted(cx));
        if !self.again.is_empty() {
            return Poll::Ready(None);
        }
        match self.incoming.poll_piped(cx, most) {
            Poll::Pending => {
                self.progress.0.set(None);
                self.poll_stalled(cx).map(|()| Some(Err(UploadError::Stalled)))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(Some(Ok(piped))) => Poll::Ready(Some(self.has_come(piped.bytes()).map(|()| piped))),
        }
    }

    /// Ready when it may be sent.
    fn poll_wanted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(hold) = &mut self.hold {
            ready!(hold.poll(cx));
            self.hold = None;
        }
        if let Some(word) = self.word.take() {
            word.offer(StatusCode::CONTINUE, &HeaderMap::new());
        }
        Poll::Ready(())
    }

    /// So many bytes of it are there, if there may be so many.
    fn has_come(&mut self, bytes: usize) -> Result<(), UploadError> {
        self.patience.moves(bytes);
        self.progress.0.set(Some(Instant::now()));
        self.ended = self.incoming.is_end_stream();
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(bytes as u64).ok_or(UploadError::TooLarge)?;
        }
        Ok(())
    }

    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.patience.waits();
        let Some(deadline) = self.patience.deadline() else { return Poll::Pending };
        self.timer.get_or_insert_with(|| LazyTimer::new(self.patience.most())).poll(cx, deadline)
    }
}

/// Takes out of trailers what a client may not say of itself in the head either: some servers read both as one.
fn without_claims(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            forwarded::remove_claims(&mut trailers);
            identity::remove_claims(&mut trailers, true);
            headers::remove_look_alikes(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let is_early = |upload: &mut Box<Upload>| {
            upload.client.http2 && !upload.ended && upload.client.worker.roster.stop() == Stop::No
        };
        if let Some(upload) = self.0.take_if(is_early) {
            tokio::task::spawn_local(upload.linger());
        }
    }
}

impl Upload {
    /// The upstream wants no more, most likely because it has answered. Dropping what comes resets the stream with `NO_ERROR` (RFC
    /// 9113 section 8.1), and a reset that arrives with the response some clients take for a failure. So it is read on
    /// for a while and thrown away; then nothing more is taken in, which stops the client as well.
    async fn linger(mut self: Box<Self>) {
        let read_on = async {
            let mut left = LINGER_BYTES;
            while left > 0 {
                let frame = poll_fn(|cx| Pin::new(&mut self.incoming).poll_frame(cx)).await;
                let Some(Ok(frame)) = frame else { return };
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            }
            pending::<()>().await;
        };
        let _ = timeout(LINGER_TIME, read_on).await;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.ended {
            self.client.body_left_unread();
        }
    }
}

impl Bulk for RequestBody {
    fn poll_piped(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<Option<Result<Piped, UploadError>>> {
        match &mut self.0 {
            Some(upload) => upload.poll_piped(cx, most),
            None => Poll::Ready(None),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        match &mut self.0 {
            Some(upload) => upload.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|upload| upload.again.is_empty() && upload.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            None => SizeHint::with_exact(0),
            Some(upload) if upload.again.is_empty() => upload.incoming.size_hint(),
            Some(upload) => upload.length.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
