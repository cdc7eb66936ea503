//! An HTTP/1.1 client's connection (RFC 9112), which has one request served at a time.
//!
//! Everything runs in the connection's own task. What a request needs is there as long as the request: a connection on which nothing
//! is asked has neither buffers nor the state of a request.

#![forbid(unsafe_code)]

mod head;
mod response;
mod socket;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use http::request::Parts;
use http::{Method, Response, Version};
use http_body_util::Full;
use hyper::body::Body as _;
use tokio::time::Instant;

use self::head::{Head, Refusal};
use self::response::Asked;
use self::socket::Next;
pub use self::socket::{Error, Incoming, Socket};
use super::ConnectionError;
use super::body::ClientBody;
use super::client::{Client, Deadline};
use super::interim::{self, Interim};
use crate::proxy::access_log::{Outcome, Record};
use crate::proxy::forward::tunnel::Tunnel;
use crate::proxy::forward::{self, ResponseBody};
use crate::proxy::http1::message::{Coding, Failed, Outgoing};
use crate::proxy::metrics::Limit;
use crate::proxy::respond;
use crate::proxy::socket::lazy_tcp::LazyTcp;
use crate::proxy::socket::stream::Stream;
use crate::proxy::timer::timeout;
use crate::proxy::worker::roster::{Stop, Ticket};

/// How long a new connection is served before anybody looks whether its client is still there. Most have their answer before.
const UNWATCHED: Duration = Duration::from_millis(100);

/// How long a connection on which nothing is asked keeps its task: to park it and to give it one again are four system calls.
const ACTIVE: Duration = Duration::from_secs(1);

/// Room for a usual response's head.
const HEAD_ROOM: usize = 512;

/// A connection that is being served.
struct Server<'a> {
    client: Rc<Client>,
    socket: Socket,
    ticket: &'a mut Ticket,
}

/// What comes behind an exchange.
enum After {
    /// Another, if the client wants one.
    Request,
    /// Nothing.
    Close,
    /// A rest.
    Parking,
    /// Another protocol.
    Tunnel(Box<Tunnel>),
}

/// A connection that rests, and whose it is.
pub(super) type Rested = (LazyTcp, Rc<Client>);

/// Serves the connection to its end, or until it rests.
pub(super) async fn serve(socket: Socket, ticket: &mut Ticket) -> Option<Rested> {
    let mut server = Server { client: socket.client(), socket, ticket };
    match server.serve().await {
        Ok(After::Parking) => {
            let Stream::Plain(tcp) = server.socket.into_stream()?.0 else { return None };
            return Some((tcp, server.client));
        }
        Ok(After::Tunnel(tunnel)) => {
            if let Some((stream, first)) = server.socket.into_stream() {
                Box::pin(tunnel.run(stream, first)).await;
            }
        }
        Ok(After::Request | After::Close) => server.close().await,
        Err(error) => error.report(&server.client),
    }
    None
}

impl Server<'_> {
    /// Answers request after request; what comes behind the last.
    async fn serve(&mut self) -> Result<After, ConnectionError> {
        loop {
            let head = match self.next().await? {
                Next::Request(head) => head,
                Next::Refused(refusal) => {
                    Box::pin(self.refuse(refusal)).await?;
                    return Ok(After::Close);
                }
                Next::Closed => return Ok(After::Close),
                Next::Nothing => return Ok(After::Parking),
            };
            // Boxed, so that it takes no room while the connection rests.
            let exchange = Box::pin(exchange(Rc::clone(&self.client), self.socket.clone(), head));
            match self.attend(exchange).await? {
                After::Request if self.rest().await? => {
                    if self.has_asked_once() {
                        return Ok(After::Parking);
                    }
                }
                After::Request => return Ok(After::Close),
                after => return Ok(after),
            }
        }
    }

    /// Waits for the next request.
    async fn next(&mut self) -> Result<Next, ConnectionError> {
        let limits = {
            let limits = &self.client.worker.live().config.limits;
            (limits.header_bytes, limits.headers)
        };
        poll_fn(|cx| {
            let _ = self.ticket.poll_stop(cx);
            if self.client.is_idle() && self.client.worker.ends_idle() {
                return Poll::Ready(Ok(Next::Closed));
            }
            if let Poll::Ready(next) = self.socket.poll_head(cx, limits.0, limits.1) {
                return Poll::Ready(next.map_err(ConnectionError::Http1));
            }
            if let Some(time) = self.rests_from() {
                return self.ticket.poll_deadline(cx, time).map(|()| Ok(Next::Nothing));
            }
            match ready!(self.poll_deadline(cx)) {
                Deadline::Idle => Poll::Ready(Ok(Next::Closed)),
                deadline => Poll::Ready(Err(ConnectionError::TimedOut(deadline))),
            }
        })
        .await
    }

    /// Whether nothing has been asked but the first request, for which nobody had to wait: of most connections nothing more is.
    fn has_asked_once(&self) -> bool {
        self.client.served() == 1 && self.socket.is_unwatched() && self.may_rest_until().is_some()
    }

    /// Until when the connection may rest; `None` where it can't.
    fn may_rest_until(&self) -> Option<Instant> {
        self.client.idle_until().filter(|_| self.socket.can_rest())
    }

    /// When the connection is parked if nothing is asked until then; `None` where something else comes first.
    fn rests_from(&self) -> Option<Instant> {
        let idle = self.client.worker.live().config.timeouts.idle.checked_sub(ACTIVE)?;
        self.may_rest_until()?.checked_sub(idle)
    }

    /// Does this while the connection's time-outs run.
    async fn attend<T>(
        &mut self,
        mut work: impl Future<Output = Result<T, ConnectionError>> + Unpin,
    ) -> Result<T, ConnectionError> {
        let mut watch_from = None;
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(done) = Pin::new(&mut work).poll(cx) {
                    return Poll::Ready(done);
                }
                if !self.socket.is_unwatched() {
                    return self.poll_deadline(cx).map(|deadline| Err(ConnectionError::TimedOut(deadline)));
                }
                let watch_from = *watch_from.get_or_insert_with(|| Instant::now() + UNWATCHED);
                ready!(self.ticket.poll_deadline(cx, watch_from));
                self.socket.watch().map_err(|error| ConnectionError::Http1(error.into()))?;
            }
        })
        .await
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Deadline> {
        let Some((deadline, what)) = self.client.deadline() else { return Poll::Pending };
        ready!(self.ticket.poll_deadline(cx, deadline));
        self.client.counts(what);
        Poll::Ready(what)
    }

    /// Waits until the last request has been taken to its end; whether another may follow.
    async fn rest(&mut self) -> Result<bool, ConnectionError> {
        let socket = self.socket.clone();
        self.attend(poll_fn(|cx| socket.poll_rest(cx).map(Ok))).await
    }

    /// Tells the client why its request is not served.
    async fn refuse(&mut self, refusal: Refusal) -> Result<(), ConnectionError> {
        let worker = &self.client.worker;
        match refusal {
            Refusal::Malformed(_) => worker.metrics.requests_malformed.increment(),
            Refusal::TooLarge | Refusal::TargetTooLong => {
                worker.metrics.limit_hits[Limit::Headers].increment();
            }
        }
        tracing::debug!(client = %self.client.peer, "request refused: {refusal}");
        let (parts, text) = respond::text(refusal.status(), &refusal.to_string()).into_parts();
        let log = &worker.live().config.log;
        if log.access {
            let record = Record::unread(self.client.peer, self.client.secure.is_some());
            let bytes = text.len() as u64;
            let outcome =
                Outcome { status: Some(parts.status), bytes, received: None, lasted: Duration::ZERO };
            worker.access_log.write(log.access_format, &record, outcome);
        }
        let asked =
            Asked { version: Version::HTTP_11, is_head: false, takes_trailers: false, keeps_alive: false };
        let mut head = Vec::new();
        response::write(&parts, Some(text.len() as u64), asked, || worker.date(), &mut head);
        let mut outgoing = Outgoing::new(head, Full::new(text), true, Coding::Plain);
        let mut socket = self.socket.clone();
        let sent = poll_fn(|cx| {
            outgoing.poll(cx, &mut socket).map_err(|failed| match failed {
                Failed::Socket(error) => ConnectionError::Http1(error.into()),
                Failed::Body(never) => match never {},
            })
        });
        self.attend(sent).await
    }

    async fn close(&mut self) {
        let closed = poll_fn(|cx| tokio::io::AsyncWrite::poll_shutdown(Pin::new(&mut self.socket), cx));
        let _ = timeout(self.client.worker.live().config.timeouts.header, closed).await;
    }
}

/// Serves a request to the end of its response.
async fn exchange(client: Rc<Client>, mut socket: Socket, head: Head) -> Result<After, ConnectionError> {
    let Head { parts, keeps_alive, takes_trailers, .. } = head;
    let version = parts.version;
    let is_head = parts.method == Method::HEAD;
    let body = socket.body();
    let has_body = body.is_some();
    let body = body.map_or(ClientBody::None, ClientBody::Http1);
    let (response, early) = answer(&client, &socket, parts, body).await?;
    let (parts, mut body) = response.into_parts();
    let mut keeps_alive = keeps_alive && may_ask_again(&client);
    if keeps_alive && has_body {
        // Else the client would ask on a connection that is about to be closed.
        keeps_alive = poll_fn(|cx| Poll::Ready(socket.may_go_on(cx))).await;
    }
    let length = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
    let tunnel = body.take_tunnel();
    let mut written = Vec::with_capacity(HEAD_ROOM);
    written.extend_from_slice(&early);
    let asked = Asked { version, is_head, takes_trailers, keeps_alive };
    let behind = response::write(&parts, length, asked, || client.worker.date(), &mut written);
    let mut outgoing = Outgoing::new(written, body, behind.has_body, behind.coding);
    // Whoever has the request's body may keep the connection a little longer.
    if !behind.keeps_alive && tunnel.is_none() && !has_body {
        outgoing.is_last();
    }
    let sent = poll_fn(|cx| {
        let sent = outgoing.poll(cx, &mut socket);
        if sent.is_pending() {
            socket.poll_gone(cx).map_err(ConnectionError::Http1)?;
        }
        sent.map_err(|failed| match failed {
            Failed::Socket(error) => ConnectionError::Http1(error.into()),
            Failed::Body(_) => ConnectionError::Cut,
        })
    });
    if let Err(error) = sent.await {
        if behind.until_close {
            socket.reset();
        }
        return Err(error);
    }
    Ok(match tunnel {
        Some(tunnel) => After::Tunnel(Box::new(tunnel)),
        None if behind.keeps_alive => After::Request,
        None => After::Close,
    })
}

/// The response, and what is left to be written of the interim ones before it; in HTTP/1.0 there are none.
async fn answer(
    client: &Rc<Client>,
    socket: &Socket,
    parts: Box<Parts>,
    body: ClientBody,
) -> Result<(Response<ResponseBody>, BytesMut), ConnectionError> {
    let is_1_0 = parts.version < Version::HTTP_11;
    let interim = (!is_1_0).then(|| Interim::new(client.worker.live().config.limits.header_bytes));
    let mut early = BytesMut::new();
    let mut answer = std::pin::pin!(forward::handle(client, parts, body, interim.as_ref()));
    let response = poll_fn(|cx| {
        let answered = answer.as_mut().poll(cx);
        if let Some(interim) = &interim {
            interim.take(cx).iter().for_each(|response| interim::encode(response, &mut early));
        }
        if let Poll::Ready(response) = answered {
            return Poll::Ready(Ok(response));
        }
        if let Poll::Ready(Err(error)) = socket.poll_write_early(cx, &mut early) {
            return Poll::Ready(Err(ConnectionError::Http1(error.into())));
        }
        socket.poll_gone(cx).map_err(ConnectionError::Http1)?;
        Poll::Pending
    });
    let response = response.await?;
    if interim.as_ref().is_some_and(Interim::was_exceeded) {
        client.worker.metrics.limit_hits[Limit::Headers].increment();
    }
    Ok((response, early))
}

/// Whether the client may send another request behind the one that is answered now.
fn may_ask_again(client: &Client) -> bool {
    if client.was_last_request(&client.worker.live().config.limits) {
        client.worker.metrics.limit_hits[Limit::Requests].increment();
        return false;
    }
    client.worker.roster.stop() != Stop::Now
}
