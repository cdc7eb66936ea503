//! A stream of HTTP/2: a request, and what is sent back for it.

#![forbid(unsafe_code)]

use std::error::Error;
use std::future::poll_fn;
use std::iter;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, ready};

use bytes::{Buf as _, Bytes};
use h2::Reason;
use http::header::{CONTENT_LENGTH, DATE};
use http::{HeaderValue, Method, Response, request};
use hyper::body::Body as _;
use tokio::task::yield_now;

use super::duplex::Duplex;
use super::handles::{Receiver, Sender};
use super::streams::Reset;
use crate::proxy::connection::body::{ClientBody, StreamBody};
use crate::proxy::connection::client::Client;
use crate::proxy::connection::interim::Interim;
use crate::proxy::forward::body::DownloadError;
use crate::proxy::forward::{self, ResponseBody, headers};
use crate::proxy::metrics::Limit;
use crate::proxy::worker::Worker;
use crate::proxy::worker::tasks::{Tasks, Work};

/// A stream that is to be served.
pub struct Stream {
    client: Rc<Client>,
    head: Box<request::Parts>,
    /// Whether the head is all there is of the request.
    is_whole: bool,
    sender: Sender,
    receiver: Receiver,
}

impl Stream {
    pub(super) fn new(
        client: Rc<Client>,
        head: Box<request::Parts>,
        is_whole: bool,
        sender: Sender,
        receiver: Receiver,
    ) -> Self {
        Self { client, head, is_whole, sender, receiver }
    }
}

impl Work for Stream {
    fn tasks(worker: &Worker) -> &Tasks<Self> {
        &worker.streams
    }

    /// Serves a request to the end of its response, or of the tunnel that it becomes.
    async fn run(self) {
        let client = Rc::clone(&self.client);
        if let Err(error) = exchange(self).await {
            tracing::debug!(client = %client.peer, %error, "stream ended early");
        }
    }
}

async fn exchange(stream: Stream) -> Result<(), Reset> {
    let Stream { client, head, is_whole, sender, receiver } = stream;
    // A request that was given up before anybody looked at it.
    if let Err(error) = poll_fn(|cx| Poll::Ready(sender.poll_reset(cx))).await {
        client.request_given_up();
        return Err(error);
    }
    let length = headers::content_length(&head.headers);
    let is_connect = head.method == Method::CONNECT;
    if head.headers.contains_key(CONTENT_LENGTH) && (is_connect || length.is_none()) {
        // Malformed (RFC 9113 section 8.1.1): a CONNECT has no body, only a stream.
        sender.reset(Reason::PROTOCOL_ERROR);
        return Ok(());
    }
    let (body, tunnel_end) = match (is_connect, is_whole) {
        (true, _) => (ClientBody::None, Some(receiver)),
        (false, true) => (ClientBody::None, None),
        (false, false) => (ClientBody::Http2(StreamBody::new(receiver, length)), None),
    };
    let response = answer(&client, head, body, &sender).await?;
    deliver(&client, response, sender, tunnel_end).await
}

async fn deliver(
    client: &Client,
    response: Response<ResponseBody>,
    sender: Sender,
    tunnel_end: Option<Receiver>,
) -> Result<(), Reset> {
    let (mut head, mut body) = response.into_parts();
    head.headers.entry(DATE).or_insert_with(|| client.worker.date());
    if let (Some(tunnel), Some(receiver)) = (body.take_tunnel(), tunnel_end) {
        sender.head(head.status, &head.headers, false)?;
        // A task is made at the size of its largest way, and this is a rare one.
        Box::pin(tunnel.run(Duplex::new(sender, receiver), Bytes::new())).await;
        return Ok(());
    }
    let is_whole = body.is_end_stream();
    if let Some(length) = body.size_hint().exact().filter(|_| !is_whole) {
        head.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    sender.head(head.status, &head.headers, is_whole)?;
    if is_whole { Ok(()) } else { send_body(client, body, &sender).await }
}

/// The response, and before it the interim ones; neither once the client has given the request up.
async fn answer(
    client: &Rc<Client>,
    head: Box<request::Parts>,
    body: ClientBody,
    sender: &Sender,
) -> Result<Response<ResponseBody>, Reset> {
    let interim = Interim::new(client.worker.live().config.limits.header_bytes);
    let mut answer = pin!(forward::handle(client, head, body, Some(&interim)));
    let answered = poll_fn(|cx| {
        let answered = answer.as_mut().poll(cx);
        if answered.is_pending() {
            sender.poll_reset(cx)?;
        }
        for response in interim.take(cx) {
            sender.head(response.status(), response.headers(), false)?;
        }
        answered.map(Ok)
    })
    .await;
    if interim.was_exceeded() {
        client.worker.metrics.limit_hits[Limit::Headers].increment();
    }
    answered
}

async fn send_body(client: &Client, body: ResponseBody, sender: &Sender) -> Result<(), Reset> {
    let mut body = pin!(body);
    let mut has_waited = false;
    loop {
        let frame = poll_fn(|cx| {
            let turn = sender.poll_turn(cx)?;
            has_waited |= turn.is_pending();
            ready!(turn);
            let frame = body.as_mut().poll_frame(cx);
            if frame.is_pending() {
                sender.poll_reset(cx)?;
            }
            frame.map(Ok::<_, Reset>)
        });
        let frame = match frame.await? {
            None => return sender.end(),
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                sender.reset(reason(&error));
                return Ok(());
            }
        };
        let frame = match frame.into_data() {
            Ok(mut data) => {
                let is_last = body.is_end_stream();
                while data.has_remaining() {
                    let sent = poll_fn(|cx| {
                        let sent = sender.poll_data(cx, &data, is_last);
                        has_waited |= sent.is_pending();
                        sent
                    });
                    let sent = sent.await?;
                    data.advance(sent);
                    if data.has_remaining() {
                        client.takes_some(sent);
                    }
                }
                if is_last {
                    return Ok(());
                }
                if std::mem::take(&mut has_waited) {
                    // Those who were woken with it have their turn before it has another.
                    yield_now().await;
                }
                continue;
            }
            Err(frame) => frame,
        };
        if let Ok(mut trailers) = frame.into_trailers() {
            headers::remove_hop_by_hop(&mut trailers);
            return sender.trailers(&trailers);
        }
    }
}

/// What a stream is reset with whose body breaks off: what the upstream's was, if it was one. That it was refused, and can be sent
/// again for nothing was done (RFC 9113 section 8.7), is no more true when there is a response.
fn reason(error: &DownloadError) -> Reason {
    let causes = iter::successors(Some(error as &(dyn Error + 'static)), |&error| error.source());
    let mut reasons = causes.filter_map(|cause| cause.downcast_ref::<h2::Error>()?.reason());
    let told = reasons.next().filter(|reason| *reason != Reason::REFUSED_STREAM);
    told.unwrap_or(Reason::INTERNAL_ERROR)
}
