//! A client's connection, from accept to close: TLS, which HTTP it speaks, its time-outs, and how it ends.

#![forbid(unsafe_code)]

pub mod body;
pub mod client;
pub mod framing;
pub mod http2;
pub mod interim;
pub mod io;
pub mod patience;

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::UPGRADE;
use http::{Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1::{self, Parts};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use self::body::ClientBody;
use self::client::{Client, Deadline};
use self::framing::Body;
use self::http2::Http2;
use self::interim::Interim;
use self::io::ClientIo;
use super::access_log::{Outcome, Record};
use super::admission::Place;
use super::drain::{Stop, Ticket};
use super::forward::{self, ResponseBody};
use super::listen;
use super::live::Live;
use super::metrics::{HandshakeFailure, Limit, TlsVersion};
use super::passthrough;
use super::proxy_protocol::{self, Ends, HeaderError};
use super::timer::LazyTimer;
use super::tls::{Accepted, TlsConnection};
use super::worker::Worker;

/// What an HTTP/2 client that knows the server speaks it sends first (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Room for a usual request's head, so that a connection's first read is also all it takes.
const FIRST_READ: usize = 4096;

/// When an HTTP/1.1 connection that nothing is asked for gives back the memory for it.
const REST_AFTER: Duration = Duration::from_secs(1);

/// Serves the connection until it ends.
pub async fn serve(worker: Rc<Worker>, mut tcp: TcpStream, peer: SocketAddr, secure: bool) {
    let ticket = worker.drain.enter();
    let metrics = Arc::clone(&worker.metrics);
    metrics.client_connections_open.up();
    // The rarer and larger ways are boxed: a task is moved when it is made, at the size of its largest.
    if let Some(ends) = ends(&worker, &mut tcp, peer).await
        && let Some(_place) = place(&worker, &tcp, ends.client, secure)
    {
        if secure {
            Box::pin(serve_tls(worker, tcp, ends, ticket)).await;
        } else {
            serve_plain(worker, tcp, ends, ticket).await;
        }
    }
    metrics.client_connections_open.down();
}

/// Whose connection it is; `None` where a load balancer was to say that and did not.
async fn ends(worker: &Worker, tcp: &mut TcpStream, peer: SocketAddr) -> Option<Ends> {
    let own = Ends { client: peer, server: tcp.local_addr().unwrap_or(peer) };
    let live = worker.live();
    if !contains(&live.config.proxy_protocol, peer.ip()) {
        return Some(own);
    }
    match Box::pin(proxy_protocol::receive(tcp, live.config.timeouts.header)).await {
        Ok(ends) => Some(ends.unwrap_or(own)),
        Err(HeaderError::Closed) => None,
        Err(error) => {
            worker.metrics.proxy_headers_refused.increment();
            tracing::warn!(%peer, "connection refused: {error}");
            None
        }
    }
}

/// A place among the client's connections; `None` where it has as many as it may, which it is told.
fn place(worker: &Worker, tcp: &TcpStream, client: SocketAddr, secure: bool) -> Option<Place> {
    let config = &worker.live().config;
    let limits = &config.limits;
    let trusted = contains(&config.trusted_proxies, client.ip());
    let limit = if trusted { usize::MAX } else { limits.client_connections };
    let place = worker.shared.clients.enter(client.ip(), limits.client_prefix, limit);
    if place.is_none() {
        worker.metrics.limit_hits[Limit::ClientConnections].increment();
        tracing::debug!(%client, "limits.client_connections reached: connection refused");
        if !secure {
            listen::refuse(tcp, "too many connections from this address");
        }
    }
    place
}

fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    // Before the address is made comparable: the usual list is empty.
    !networks.is_empty() && networks.iter().any(|network| network.contains(&address.to_canonical()))
}

async fn serve_tls(worker: Rc<Worker>, tcp: TcpStream, ends: Ends, ticket: Ticket) {
    let live = worker.live();
    // What a handshake needs should not stay for as long as its connection.
    match Box::pin(shake_hands(&worker, &live, tcp, ends.client)).await {
        Some(Accepted::Terminated(connection)) => {
            drop(live);
            let TlsConnection { stream, http2, secured, .. } = *connection;
            let client = Client::new(Rc::clone(&worker), ends, Some(secured), http2);
            Box::pin(serve_http(client, stream, Bytes::new(), ticket)).await;
        }
        Some(Accepted::Passthrough(opening)) => {
            Box::pin(passthrough::serve(worker, live, opening, ends, ticket)).await;
        }
        Some(Accepted::Validated) | None => {}
    }
}

/// `None` where it fails, which is the client's concern more than ours.
async fn shake_hands(worker: &Worker, live: &Live, tcp: TcpStream, peer: SocketAddr) -> Option<Accepted> {
    let metrics = &worker.metrics;
    let accepted = timeout(live.config.timeouts.header, live.tls.accept(tcp, &live.routes)).await;
    let (failure, error) = match accepted {
        Ok(Ok(accepted)) => {
            if let Accepted::Terminated(connection) = &accepted {
                let version = if connection.tls13 { TlsVersion::Tls13 } else { TlsVersion::Tls12 };
                metrics.tls_handshakes[version].increment();
                metrics.tls_sessions_resumed.add(u64::from(connection.resumed));
            }
            return Some(accepted);
        }
        Ok(Err(error)) => (error.failure(), error.to_string()),
        Err(_) => (HandshakeFailure::TimedOut, "longer than timeouts.header".to_owned()),
    };
    metrics.tls_handshakes_failed[failure].increment();
    tracing::debug!(client = %peer, error, "TLS handshake failed");
    None
}

async fn serve_plain(worker: Rc<Worker>, mut tcp: TcpStream, ends: Ends, ticket: Ticket) {
    let sniffed = timeout(worker.live().config.timeouts.header, sniff(&mut tcp)).await;
    let Ok(Ok(first)) = sniffed else { return };
    let http2 = first.starts_with(HTTP2_PREFACE);
    let client = Client::new(Rc::clone(&worker), ends, None, http2);
    serve_http(client, tcp, first, ticket).await;
}

/// Reads as much as tells HTTP/2's preface from an HTTP/1.1 request.
async fn sniff(tcp: &mut TcpStream) -> std::io::Result<Bytes> {
    let mut first = Vec::with_capacity(FIRST_READ);
    loop {
        let read = tcp.read_buf(&mut first).await?;
        let length = first.len().min(HTTP2_PREFACE.len());
        if read == 0 || length == HTTP2_PREFACE.len() || first[..length] != HTTP2_PREFACE[..length] {
            return Ok(first.into());
        }
    }
}

async fn serve_http<S>(client: Client, stream: S, first: Bytes, mut ticket: Ticket)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let client = Rc::new(client);
    let live = client.worker.live();
    let io = ClientIo::new(stream, first, Rc::clone(&client));
    let ended = if client.http2 {
        let mut connection = Box::new(Http2::new(&live.http2, Rc::clone(&client), io));
        run(&client, &mut *connection, &mut ticket).await.map(drop)
    } else {
        serve_http1(&client, io, &mut ticket).await
    };
    if let Err(error) = ended {
        match &error {
            ConnectionError::Http1(error) => refused(&client, error),
            ConnectionError::Http2(error) if is_flood(error) => {
                client.worker.metrics.http2_floods.increment();
            }
            _ => {}
        }
        tracing::debug!(client = %client.peer, error = &error as &dyn std::error::Error, "client connection failed");
    }
}

/// Serves HTTP/1.1. While nothing is asked for hyper's state, most of which is buffers of 8 KiB, is let go.
async fn serve_http1<S>(
    client: &Rc<Client>,
    mut io: ClientIo<S>,
    ticket: &mut Ticket,
) -> Result<(), ConnectionError>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    loop {
        let service = service_fn(|request: Request<Incoming>| {
            client.framing.borrow_mut().follows(framing(&request));
            let client = Rc::clone(client);
            async move { Ok::<_, Infallible>(answer(&client, request.map(ClientBody::Http1)).await) }
        });
        // Boxed, so that it takes no room in the task while the connection rests.
        let mut connection = Box::new(client.worker.live().http1.serve_connection(TokioIo::new(io), service));
        let ended = run(client, &mut *connection, ticket).await;
        let tunnel = client.take_tunnel();
        let ended = ended?;
        let Parts { io: inner, read_buf, .. } = connection.into_parts();
        io = inner.into_inner();
        if let Some(tunnel) = tunnel {
            let (stream, held) = io.into_stream();
            Box::pin(tunnel.run(stream, [read_buf, held].concat().into())).await;
            return Ok(());
        }
        if ended == Ended::Resting
            && read_buf.is_empty()
            && io.is_empty()
            && rest(client, &mut io, ticket).await
        {
            continue;
        }
        // hyper doesn't where a request had an Upgrade field; twice does no harm.
        let closed = poll_fn(|cx| Pin::new(&mut io).poll_shutdown(cx));
        let _ = timeout(client.worker.live().config.timeouts.header, closed).await;
        return Ok(());
    }
}

/// Waits for the next request's first bytes; false when the connection is to end without.
async fn rest<S: AsyncRead + Unpin>(client: &Client, io: &mut ClientIo<S>, ticket: &mut Ticket) -> bool {
    let Some((deadline, _)) = client.deadline() else { return false };
    let mut timer = LazyTimer::new(deadline.saturating_duration_since(Instant::now()));
    poll_fn(|cx| {
        if ticket.poll_stop(cx) == Stop::Now {
            return Poll::Ready(false);
        }
        if client.worker.shared.memory.is_short() {
            client.worker.metrics.limit_hits[Limit::Memory].increment();
            return Poll::Ready(false);
        }
        if let Poll::Ready(more) = io.poll_more(cx) {
            return Poll::Ready(more.unwrap_or(false));
        }
        timer.poll(cx, deadline).map(|()| false)
    })
    .await
}

/// Counts and logs a request whose head could not be read, and which hyper has answered.
fn refused(client: &Client, error: &hyper::Error) {
    let metrics = &client.worker.metrics;
    let status = if error.is_parse_too_large() {
        metrics.limit_hits[Limit::Headers].increment();
        // hyper tells it apart by its words alone.
        let is_target = error.to_string().starts_with("URI");
        if is_target { StatusCode::URI_TOO_LONG } else { StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE }
    } else if error.is_parse() {
        metrics.requests_malformed.increment();
        StatusCode::BAD_REQUEST
    } else {
        return;
    };
    let log = &client.worker.live().config.log;
    if log.access {
        let record = Record::unread(client.peer, client.secure.is_some());
        let outcome = Outcome { status: Some(status), bytes: 0, received: None, lasted: Duration::ZERO };
        client.worker.access_log.write(log.access_format, &record, outcome);
    }
}

/// Whether h2 has ended the connection for frames that only make work.
fn is_flood(error: &h2::Error) -> bool {
    error.is_library() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM)
}

/// The response to a request of HTTP/1.1, once the interim ones before it are written; in HTTP/1.0 there are none.
async fn answer(client: &Rc<Client>, request: Request<ClientBody>) -> Response<ResponseBody> {
    if request.version() < Version::HTTP_11 {
        return forward::handle(client, request, None).await;
    }
    let interim = Interim::new(client.worker.live().config.limits.header_bytes);
    client.hears(Some(interim.clone()));
    let response = forward::handle(client, request, Some(&interim)).await;
    // hyper writes the response as soon as it has it.
    interim.taken().await;
    client.hears(None);
    if interim.was_exceeded() {
        client.worker.metrics.limit_hits[Limit::Headers].increment();
    }
    response
}

fn framing(request: &Request<Incoming>) -> Body {
    let body = request.body();
    match body.size_hint().exact() {
        _ if body.is_end_stream() && request.headers().contains_key(UPGRADE) => Body::Open,
        _ if body.is_end_stream() => Body::Length(0),
        length => length.map_or(Body::Chunked, Body::Length),
    }
}

/// Why a connection ended that did not end well.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    /// Malformed requests, a reset, a body cut short.
    #[error(transparent)]
    Http1(hyper::Error),
    /// The same of HTTP/2.
    #[error(transparent)]
    Http2(h2::Error),
    /// A time-out passed.
    #[error("{0}")]
    TimedOut(Deadline),
    /// The client asks for much that it then doesn't want (CVE-2023-44487).
    #[error("more requests given up within a minute than limits.resets")]
    Resets,
}

/// How a connection ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// For good.
    Closed,
    /// Nothing is asked for at the moment.
    Resting,
}

/// What HTTP/1.1's and HTTP/2's connections have in common.
trait Connection {
    /// Moves it on, until it has ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>>;

    /// Takes no more requests, finishes what runs, ends.
    fn finish(&mut self);

    /// Ends at once and says that it was too much, where there is a word for that.
    fn refuse(&mut self);
}

impl<I, S> Connection for http1::Connection<I, S>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
    S: HttpService<Incoming, ResBody = ResponseBody, Error = Infallible>,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        Pin::new(self).poll(cx).map_err(ConnectionError::Http1)
    }

    fn finish(&mut self) {
        Pin::new(self).graceful_shutdown();
    }

    fn refuse(&mut self) {
        self.finish();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection for Http2<S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        self.poll(cx).map_err(ConnectionError::Http2)
    }

    fn finish(&mut self) {
        self.finish();
    }

    fn refuse(&mut self) {
        self.refuse();
    }
}

async fn run(
    client: &Client,
    connection: &mut impl Connection,
    ticket: &mut Ticket,
) -> Result<Ended, ConnectionError> {
    let grain = {
        let timeouts = &client.worker.live().config.timeouts;
        timeouts.header.min(timeouts.idle).min(timeouts.body).min(timeouts.half_closed).min(REST_AFTER)
    };
    let mut timer = LazyTimer::new(grain);
    let mut finishing = false;
    let mut is_refused = false;
    poll_fn(|cx: &mut Context<'_>| {
        let stop = ticket.poll_stop(cx);
        // Over HTTP/2 a client is told what was not taken any more; over HTTP/1.1 one that is just sending could only guess,
        // so while there is time its connection is left to end with its next answer.
        if !finishing && (stop == Stop::Now || (stop == Stop::HandOver && client.http2)) {
            finishing = true;
            connection.finish();
        }
        loop {
            if let Poll::Ready(ended) = connection.poll(cx) {
                let ended = ended.map(|()| Ended::Closed);
                return Poll::Ready(if is_refused { Err(ConnectionError::Resets) } else { ended });
            }
            if !finishing && client.was_last_request(&client.worker.live().config.limits) {
                client.worker.metrics.limit_hits[Limit::Requests].increment();
                finishing = true;
                connection.finish();
                continue;
            }
            if !finishing && client.worker.shared.memory.is_short() && client.is_idle() {
                client.worker.metrics.limit_hits[Limit::Memory].increment();
                finishing = true;
                client.last_grace();
                connection.finish();
                continue;
            }
            if !is_refused && client.gives_up_too_much() {
                client.worker.metrics.limit_hits[Limit::Resets].increment();
                is_refused = true;
                connection.refuse();
                continue;
            }
            let Some((deadline, what)) = client.deadline() else {
                if client.http2 {
                    // Streams have tasks of their own: what they begin to wait for this one isn't told.
                    let _ = timer.poll(cx, Instant::now() + grain);
                }
                return Poll::Pending;
            };
            let rest = client.idle_since().filter(|_| !finishing).map(|since| since + REST_AFTER);
            if timer.poll(cx, rest.map_or(deadline, |rest| rest.min(deadline))).is_pending() {
                return Poll::Pending;
            }
            if rest.is_some_and(|rest| rest < deadline) && Instant::now() < deadline {
                return Poll::Ready(Ok(Ended::Resting));
            }
            match what {
                Deadline::Head => client.worker.metrics.limit_hits[Limit::HeaderTimeout].increment(),
                Deadline::Taking => client.worker.metrics.limit_hits[Limit::ClientRate].increment(),
                Deadline::HalfClosed => client.worker.metrics.limit_hits[Limit::HalfClosed].increment(),
                Deadline::Idle => {}
            }
            if finishing || !client.is_idle() {
                return Poll::Ready(Err(ConnectionError::TimedOut(what)));
            }
            finishing = true;
            client.last_grace();
            connection.finish();
        }
    })
    .await
}
