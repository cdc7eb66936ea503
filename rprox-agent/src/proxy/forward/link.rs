//! One connection to an endpoint.

#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::body::{RequestBody, UploadError};
use super::dial::Io;
pub use super::dial::{Connected, Dial};
use super::failure::Failure;
use crate::proxy::timer::LazyTimer;
use crate::proxy::worker::LocalExecutor;

type Sent = TrySendError<Request<RequestBody>>;

/// What moves a connection on, until it ends or changes to another protocol.
type Machine = Pin<Box<dyn Future<Output = hyper::Result<()>>>>;

/// An HTTP/1.1 connection, which serves one request at a time.
///
/// The machine behind it runs inside the task that sends the request: its socket wakes that task, and the response is there
/// in the same moment, without a word between tasks. Only a request with a body gets a task of its own for it, since then
/// both directions must move even while the client takes nothing.
pub struct Http1 {
    sender: http1::SendRequest<RequestBody>,
    connection: Option<Machine>,
    /// The machine's own task, where it has one.
    task: Option<AbortHandle>,
    /// Whether the body of its request is never sent.
    left_body: bool,
    timer: LazyTimer,
}

/// A stream of an HTTP/2 connection, whose machine has a task of its own.
pub struct Http2 {
    sender: http2::SendRequest<RequestBody>,
    timer: LazyTimer,
    grain: Duration,
}

/// Why there is no response.
pub struct SendError {
    /// Why.
    pub failure: Failure,
    /// The request, if not a byte of it was sent.
    pub unsent: Option<Box<Request<RequestBody>>>,
}

impl Http1 {
    /// Speaks it on a connection that is made.
    pub(super) async fn new(io: TokioIo<Io>, dial: &Dial<'_>) -> Result<Self, Failure> {
        let mut builder = http1::Builder::new();
        builder.max_header_size(dial.config.limits.header_bytes);
        let (sender, connection) = builder.handshake(io).await.map_err(Failure::Broken)?;
        Ok(Self {
            sender,
            connection: Some(Box::pin(connection.with_upgrades())),
            task: None,
            left_body: false,
            timer: LazyTimer::new(dial.config.shortest_wait),
        })
    }

    /// Sends a request and waits for the head of its response, for `limit` at most once it is sent.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
        limit: Duration,
    ) -> Result<Response<Incoming>, SendError> {
        if !request.body().is_none()
            && let Some(connection) = self.connection.take()
        {
            let task = tokio::task::spawn_local(async move {
                // Who waits for the response hears of the error too.
                let _ = connection.await;
            });
            self.task = Some(task.abort_handle());
        }
        let progress = request.body().progress();
        let mut response = pin!(self.sender.try_send_request(request));
        let mut sent = None;
        poll_fn(|cx| {
            drive(&mut self.connection, cx);
            if let Poll::Ready(response) = response.as_mut().poll(cx) {
                return Poll::Ready(response.map_err(SendError::from));
            }
            let since = match &progress {
                None => *sent.get_or_insert_with(Instant::now),
                Some(progress) => progress.upstreams_turn().unwrap_or_else(Instant::now),
            };
            self.timer.poll(cx, since + limit).map(|()| Err(SendError::late()))
        })
        .await
    }

    /// Moves the connection on if that is up to the caller's task; whether it was.
    pub fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        drive(&mut self.connection, cx)
    }

    /// Whether it can take another request. What the kernel knows of its end already is noticed.
    pub fn is_usable(&mut self) -> bool {
        drive(&mut self.connection, &mut Context::from_waker(std::task::Waker::noop()));
        self.sender.is_ready()
    }

    /// Whether the last response left it ready for another request.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Ends it, also in the middle of sending a request's body.
    pub fn abort(self) {
        self.stop();
    }

    fn stop(&self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }

    /// The rest of the request is not wanted, and so it ends when it is dropped.
    pub fn leaves_body(&mut self) {
        self.left_body = true;
    }

    /// Whether that is so.
    #[must_use]
    pub fn has_left_body(&self) -> bool {
        self.left_body
    }

    /// For the waits of its request.
    pub fn timer(&mut self) -> &mut LazyTimer {
        &mut self.timer
    }
}

impl Drop for Http1 {
    fn drop(&mut self) {
        if self.left_body {
            self.stop();
        }
    }
}

fn drive(connection: &mut Option<Machine>, cx: &mut Context<'_>) -> bool {
    let Some(running) = connection else { return false };
    if running.as_mut().poll(cx).is_ready() {
        // Dropping it tells who waits, with the request if it was not sent.
        *connection = None;
    }
    true
}

impl Http2 {
    /// Speaks it on a connection that is made.
    pub(super) async fn new(io: TokioIo<Io>, dial: &Dial<'_>) -> Result<Self, Failure> {
        let mut builder = http2::Builder::new(LocalExecutor);
        builder.max_header_list_size(u32::try_from(dial.config.limits.header_bytes).unwrap_or(u32::MAX));
        let (sender, connection) = builder.handshake(io).await.map_err(Failure::Broken)?;
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

    /// As [`Http1::send`].
    ///
    /// # Errors
    ///
    /// When there is no response.
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
        limit: Duration,
    ) -> Result<Response<Incoming>, SendError> {
        let progress = request.body().progress();
        let mut response = pin!(self.sender.try_send_request(request));
        let start = Instant::now();
        poll_fn(|cx| {
            if let Poll::Ready(response) = response.as_mut().poll(cx) {
                return Poll::Ready(response.map_err(SendError::from));
            }
            let since = match &progress {
                None => start,
                Some(progress) => progress.upstreams_turn().unwrap_or_else(Instant::now),
            };
            self.timer.poll(cx, since + limit).map(|()| Err(SendError::late()))
        })
        .await
    }

    /// For the waits of its request.
    pub fn timer(&mut self) -> &mut LazyTimer {
        &mut self.timer
    }
}

impl SendError {
    fn late() -> Self {
        Self { failure: Failure::ResponseTimeout, unsent: None }
    }
}

impl From<Sent> for SendError {
    fn from(mut error: Sent) -> Self {
        let unsent = error.take_message().map(Box::new);
        Self { failure: upload_error(error.into_error()), unsent }
    }
}

/// What went wrong with the client's body was only passed on by hyper.
fn upload_error(error: hyper::Error) -> Failure {
    let upload = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<UploadError>());
    match upload {
        Some(UploadError::Stalled) => Failure::Upload(UploadError::Stalled),
        Some(UploadError::TooLarge) => Failure::Upload(UploadError::TooLarge),
        Some(UploadError::Broken(_)) => Failure::Upload(UploadError::Broken(error.into())),
        None => Failure::Broken(error),
    }
}
