//! A stream of HTTP/2: a request, and what is sent back for it.

#![forbid(unsafe_code)]

use std::error::Error;
use std::future::poll_fn;
use std::iter;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, DATE};
use http::response::Parts;
use http::{HeaderValue, Method, Request, Response};
use hyper::body::Body as _;

use super::duplex::Duplex;
use crate::proxy::connection::body::{ClientBody, StreamBody};
use crate::proxy::connection::client::Client;
use crate::proxy::connection::interim::Interim;
use crate::proxy::forward::body::DownloadError;
use crate::proxy::forward::{self, ResponseBody, headers};
use crate::proxy::metrics::Limit;

/// Serves a request to the end of its response, or of the tunnel that it becomes.
pub(super) async fn serve(
    client: Rc<Client>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    if let Err(error) = exchange(&client, request, &mut respond).await {
        tracing::debug!(client = %client.peer, %error, "stream ended early");
    }
}

async fn exchange(
    client: &Rc<Client>,
    request: Request<RecvStream>,
    respond: &mut SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let (head, incoming) = request.into_parts();
    let length = headers::content_length(&head.headers);
    let is_connect = head.method == Method::CONNECT;
    if head.headers.contains_key(CONTENT_LENGTH) && (is_connect || length.is_none()) {
        // Malformed (RFC 9113 section 8.1.1): a CONNECT has no body, only a stream.
        respond.send_reset(Reason::PROTOCOL_ERROR);
        return Ok(());
    }
    let (body, tunnel_end) = if is_connect {
        (ClientBody::None, Some(incoming))
    } else {
        (ClientBody::Http2(StreamBody::new(incoming, length)), None)
    };
    let response = answer(client, Request::from_parts(head, body), respond).await?;
    deliver(client, response, respond, tunnel_end).await
}

async fn deliver(
    client: &Client,
    response: Response<ResponseBody>,
    respond: &mut SendResponse<Bytes>,
    tunnel_end: Option<RecvStream>,
) -> Result<(), h2::Error> {
    let (mut head, mut body) = response.into_parts();
    head.headers.entry(DATE).or_insert_with(|| client.worker.date());
    if let (Some(tunnel), Some(incoming)) = (body.take_tunnel(), tunnel_end) {
        let stream = send_head(respond, head, false)?;
        // A task is made at the size of its largest way, and this is a rare one.
        Box::pin(tunnel.run(Duplex::new(stream, incoming), Bytes::new())).await;
        return Ok(());
    }
    let is_whole = body.is_end_stream();
    if let Some(length) = body.size_hint().exact().filter(|_| !is_whole) {
        head.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    let stream = send_head(respond, head, is_whole)?;
    if is_whole { Ok(()) } else { send_body(body, stream).await }
}

/// The response, and before it the interim ones; neither once the client has given the request up.
async fn answer(
    client: &Rc<Client>,
    request: Request<ClientBody>,
    respond: &mut SendResponse<Bytes>,
) -> Result<Response<ResponseBody>, h2::Error> {
    let interim = Interim::new(client.worker.live().config.limits.header_bytes);
    let mut answer = pin!(forward::handle(client, request, Some(&interim)));
    let answered = poll_fn(|cx| {
        let answered = answer.as_mut().poll(cx);
        if let Poll::Ready(reason) = respond.poll_reset(cx)? {
            return Poll::Ready(Err(reason.into()));
        }
        for response in interim.take(cx) {
            respond.send_informational(response)?;
        }
        answered.map(Ok)
    })
    .await;
    if interim.was_exceeded() {
        client.worker.metrics.limit_hits[Limit::Headers].increment();
    }
    answered
}

fn send_head(
    respond: &mut SendResponse<Bytes>,
    head: Parts,
    is_whole: bool,
) -> Result<SendStream<Bytes>, h2::Error> {
    let response = Response::from_parts(head, ());
    respond.send_response(response, is_whole).inspect_err(|_| respond.send_reset(Reason::INTERNAL_ERROR))
}

async fn send_body(body: ResponseBody, mut stream: SendStream<Bytes>) -> Result<(), h2::Error> {
    let mut body = pin!(body);
    loop {
        let frame = poll_fn(|cx| {
            poll_given_up(&mut stream, cx)?;
            body.as_mut().poll_frame(cx).map(Ok::<_, h2::Error>)
        });
        let frame = match frame.await? {
            None => return stream.send_data(Bytes::new(), true),
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                stream.send_reset(reason(&error));
                return Ok(());
            }
        };
        let frame = match frame.into_data() {
            Ok(data) => {
                let is_last = body.is_end_stream();
                if !data.is_empty() {
                    poll_fn(|cx| poll_room(&mut stream, cx)).await?;
                }
                stream.send_data(data, is_last)?;
                if is_last {
                    return Ok(());
                }
                continue;
            }
            Err(frame) => frame,
        };
        if let Ok(trailers) = frame.into_trailers() {
            return stream.send_trailers(trailers);
        }
    }
}

/// An error once the client has reset the stream; else the task is woken then.
pub(super) fn poll_given_up(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Result<(), h2::Error> {
    match stream.poll_reset(cx)? {
        Poll::Ready(reason) => Err(reason.into()),
        Poll::Pending => Ok(()),
    }
}

/// Ready when the client's windows let the stream go on.
///
/// Only what is there to be sent asks for a part of the connection's window, and only for a byte of it: h2 asks for the rest when it has
/// the bytes. A stream that took its part in advance could keep those of others waiting, who would have to send first.
pub(super) fn poll_room(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
    poll_given_up(stream, cx)?;
    if stream.capacity() == 0 {
        stream.reserve_capacity(1);
    }
    while stream.capacity() == 0 {
        match ready!(stream.poll_capacity(cx)) {
            Some(capacity) => capacity?,
            None => return Poll::Ready(Err(Reason::STREAM_CLOSED.into())),
        };
    }
    Poll::Ready(Ok(()))
}

/// What a stream is reset with whose body breaks off: what the upstream's was, if it was one. That it was refused, and can be sent
/// again for nothing was done (RFC 9113 section 8.7), is no more true when there is a response.
fn reason(error: &DownloadError) -> Reason {
    let causes = iter::successors(Some(error as &(dyn Error + 'static)), |&error| error.source());
    let mut reasons = causes.filter_map(|cause| cause.downcast_ref::<h2::Error>()?.reason());
    let told = reasons.next().filter(|reason| *reason != Reason::REFUSED_STREAM);
    told.unwrap_or(Reason::INTERNAL_ERROR)
}
