//! An HTTP/2 connection to an endpoint (RFC 9113), which requests share.
//!
//! The connection has a task of its own, which reads and writes for all of its streams. A request's task opens a stream, sends the body
//! while the response is waited for, and takes that. What is left of the body then gets a task, so that it goes on while nobody takes
//! the response.

#![forbid(unsafe_code)]

mod connection;
mod connections;
mod error;
mod response;
mod tunnel;
mod upload;

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use h2::ext::Protocol;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response};
use hyper::body::Body as _;
use tokio::time::Instant;

use self::connection::Connection;
pub use self::connections::{Coming, Connections, Shared};
pub use self::error::Error;
pub use self::response::Incoming;
pub use self::tunnel::Duplex;
use self::upload::{Task, Upload};
use super::body::RequestBody;
use super::connect::WEBSOCKET;
use super::dial::{Dial, Io};
use super::failure::{Broken, Failure, SendError};
use super::headers;
use super::place::Place;
use super::request::{Beside, UpstreamRequest};
use super::retry::Copy;
use crate::proxy::timer::lazy::LazyTimer;

/// A connection as one request has it: a stream at most.
pub struct Http2 {
    connection: Rc<Connection>,
    /// The request, while its body is sent and the response has come.
    upload: Option<Task>,
    /// The way to the upstream of a stream that has become a tunnel.
    sender: Option<SendStream<Bytes>>,
    /// The stream's among those of the connection, until it is an upload's or a tunnel's.
    place: Option<Place>,
    timer: LazyTimer,
}

impl Http2 {
    /// Speaks it on a connection that is made.
    pub(super) async fn new(io: Io, dial: &Dial<'_>) -> Result<Self, Failure> {
        let connection = Connection::open(io, dial.config).await;
        Ok(Self::on(&Rc::new(connection.map_err(|error| Broken::from(Error::from(error)))?)))
    }

    fn on(connection: &Rc<Connection>) -> Self {
        let (place, timer) = (Some(connection.place()), LazyTimer::new(connection.shortest_wait));
        Self { connection: Rc::clone(connection), upload: None, sender: None, place, timer }
    }

    /// Whether the connection takes no more requests: it has ended, or is about to (GOAWAY).
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// Whether the endpoint takes an extended CONNECT for a WebSocket (RFC 8441 section 3), which its first word tells.
    pub async fn takes_websockets(&self) -> bool {
        self.connection.takes_extended_connect().await
    }

    /// Sends a request and waits for the head of its response, for `limit` at most once it is sent. A CONNECT is one for a WebSocket, whose
    /// stream is a [tunnel](Self::tunnel) after success.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub async fn send(
        &mut self,
        request: UpstreamRequest,
        beside: Beside<'_>,
        limit: Duration,
    ) -> Result<Response<Incoming>, SendError> {
        let UpstreamRequest { mut head, body } = request;
        // The endpoint may say of any request that it did nothing with it.
        let copy = Copy::of(&head);
        if let Some(forwarded) = beside.forwarded {
            forwarded.insert(&mut head.headers);
        }
        say_length(&mut head, &body);
        head.extensions.clear();
        let is_connect = head.method == Method::CONNECT;
        if is_connect {
            head.extensions.insert(Protocol::from_static(WEBSOCKET));
        }
        let head = Request::from_parts(*head, ());
        let progress = body.progress();
        let mut upload = Upload::new(body, is_connect);
        let Self { connection, timer, .. } = self;
        let start = Instant::now();
        let is_open = Cell::new(false);
        let answered = {
            let mut answer = pin!(connection.answer(head, &mut upload, beside, &is_open));
            poll_fn(|cx| {
                if let Poll::Ready(answered) = answer.as_mut().poll(cx) {
                    return Poll::Ready(answered);
                }
                let since = match &progress {
                    None => start,
                    Some(progress) => progress.upstreams_turn().unwrap_or_else(Instant::now),
                };
                timer.poll(cx, since + limit).map(|()| {
                    // It may be the endpoint's word and not its fault that nothing was sent.
                    let is_busy = !is_open.get() && connection.has_too_many();
                    Err(if is_busy { Failure::Busy } else { Failure::ResponseTimeout })
                })
            })
            .await
        };
        match answered {
            Ok(response) => {
                if is_connect {
                    self.sender = upload.into_stream().filter(|_| response.status().is_success());
                } else {
                    self.upload = upload.spawn();
                }
                let length = headers::content_length(response.headers());
                Ok(response.map(|stream| Incoming::new(stream, length)))
            }
            // It has waited long enough.
            Err(Failure::Busy) => Err(SendError::sent(Failure::Busy, None)),
            Err(failure) => {
                let was_sent =
                    !matches!(&failure, Failure::Broken(Broken::Http2(error)) if error.is_unprocessed());
                let again = |body| UpstreamRequest { body, ..copy.into_request() };
                Err(SendError { failure, request: upload.into_whole_body().map(again), was_sent })
            }
        }
    }

    /// The stream as a tunnel, once a CONNECT has had success; what comes is the response's `body`.
    pub fn tunnel(&mut self, body: Incoming) -> Option<Duplex> {
        Some(Duplex::new(self.sender.take()?, body.into_stream(), self.place.take()))
    }

    /// Lets what is left of the request's body be sent.
    pub fn finish_upload(mut self) {
        if let Some(upload) = self.upload.take() {
            upload.finish(self.place.take());
        }
    }

    /// For the waits of its request.
    pub fn timer(&mut self) -> &mut LazyTimer {
        &mut self.timer
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        if let Some(upload) = &self.upload {
            upload.abort();
        }
    }
}

/// Says how long the body is where that is known and not said: of none, if the method makes one likely (RFC 9110 section 8.6).
fn say_length(head: &mut Parts, body: &RequestBody) {
    let Some(length) = body.size_hint().exact() else { return };
    if length > 0 || !matches!(head.method, Method::GET | Method::HEAD | Method::DELETE | Method::CONNECT) {
        head.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
}
