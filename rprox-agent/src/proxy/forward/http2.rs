//! An HTTP/2 connection to an endpoint, which requests share.

#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use http::Response;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::body::{RequestBody, UploadError};
use super::dial::{Dial, Io};
use super::failure::{Broken, Failure, SendError};
use super::request::UpstreamRequest;
use super::retry::Copy;
use crate::proxy::timer::lazy::LazyTimer;
use crate::proxy::worker::LocalExecutor;

/// A stream of a connection, which has a task of its own.
pub struct Http2 {
    sender: http2::SendRequest<RequestBody>,
    timer: LazyTimer,
    grain: Duration,
}

impl Http2 {
    /// Speaks it on a connection that is made.
    pub(super) async fn new(io: Io, dial: &Dial<'_>) -> Result<Self, Failure> {
        let mut builder = http2::Builder::new(LocalExecutor);
        builder.max_header_list_size(u32::try_from(dial.config.limits.header_bytes).unwrap_or(u32::MAX));
        let (sender, connection) = builder.handshake(TokioIo::new(io)).await.map_err(Broken::from)?;
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        let grain = dial.config.shortest_wait;
        Ok(Self { sender, timer: LazyTimer::new(grain), grain })
    }

    /// Another stream of the same connection.
    #[must_use]
    pub fn share(&self) -> Self {
        Self { sender: self.sender.clone(), timer: LazyTimer::new(self.grain), grain: self.grain }
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends a request and waits for the head of its response, for `limit` at most once it is sent.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub async fn send(
        &mut self,
        request: UpstreamRequest,
        limit: Duration,
    ) -> Result<Response<Incoming>, SendError> {
        let copy = request.may_be_sent_again().then(|| Copy::of(&request.head));
        let progress = request.body.progress();
        let mut response = Box::pin(self.sender.try_send_request(request.into()));
        let start = Instant::now();
        let answered = poll_fn(|cx| {
            if let Poll::Ready(response) = response.as_mut().poll(cx) {
                return Poll::Ready(Ok(response));
            }
            let since = match &progress {
                None => start,
                Some(progress) => progress.upstreams_turn().unwrap_or_else(Instant::now),
            };
            self.timer.poll(cx, since + limit).map(Err)
        });
        let again = || copy.map(Copy::into_request);
        match answered.await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(mut error)) => Err(match error.take_message() {
                Some(request) => SendError::unsent(failure(error.into_error()), request.into()),
                None => SendError::sent(failure(error.into_error()), again()),
            }),
            Err(()) => Err(SendError::sent(Failure::ResponseTimeout, again())),
        }
    }

    /// For the waits of its request.
    pub fn timer(&mut self) -> &mut LazyTimer {
        &mut self.timer
    }
}

/// What went wrong with the client's body was only passed on by hyper.
fn failure(error: hyper::Error) -> Failure {
    let upload = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<UploadError>());
    match upload {
        Some(UploadError::Stalled) => Failure::Upload(UploadError::Stalled),
        Some(UploadError::TooLarge) => Failure::Upload(UploadError::TooLarge),
        Some(UploadError::Broken(_)) => Failure::Upload(UploadError::Broken(error.into())),
        None => Failure::Broken(error.into()),
    }
}
