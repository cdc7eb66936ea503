//! A client's connection, from accept to close: TLS, which HTTP it speaks, its time-outs, and how it ends.

#![forbid(unsafe_code)]

pub mod body;
pub mod client;
pub mod http1;
pub mod http2;
pub mod interim;
pub mod io;
pub mod patience;

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::server::TlsStream;

use self::client::{Client, Deadline};
use self::http2::Http2;
use self::io::ClientIo;
use super::admission::Place;
use super::drain::{Stop, Ticket};
use super::listen;
use super::live::Live;
use super::metrics::{HandshakeFailure, Limit, TlsVersion};
use super::passthrough;
use super::proxy_protocol::{self, Ends, HeaderError};
use super::stream::{self, Stream};
use super::timer::LazyTimer;
use super::tls::{Accepted, Recorded, TlsConnection};
use super::worker::Worker;

/// What an HTTP/2 client that knows the server speaks it sends first (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A client's connection.
type ClientStream = Stream<TlsStream<Recorded>>;

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
            let client = Rc::new(Client::new(worker, ends, Some(secured), http2));
            Box::pin(serve_http(client, Stream::Tls(stream), BytesMut::new(), ticket)).await;
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
    let client = Rc::new(Client::new(worker, ends, None, http2));
    serve_http(client, Stream::Plain(tcp), first, ticket).await;
}

/// Reads as much as tells HTTP/2's preface from an HTTP/1.1 request.
async fn sniff(tcp: &mut TcpStream) -> std::io::Result<BytesMut> {
    let mut first = BytesMut::new();
    poll_fn(|cx| {
        loop {
            let read = ready!(stream::poll_first(tcp, cx, &mut first))?;
            let length = first.len().min(HTTP2_PREFACE.len());
            let is_whole = length == HTTP2_PREFACE.len();
            if read == 0 || is_whole || first[..length] != HTTP2_PREFACE[..length] {
                return Poll::Ready(Ok(std::mem::take(&mut first)));
            }
        }
    })
    .await
}

async fn serve_http(client: Rc<Client>, stream: ClientStream, first: BytesMut, mut ticket: Ticket) {
    let ended = if client.http2 {
        Box::pin(serve_http2(&client, stream, first, &mut ticket)).await
    } else {
        http1::serve(&client, stream, first, &mut ticket).await
    };
    if let Err(error) = ended {
        if matches!(error, ConnectionError::Http2(http2::Failure::Flood)) {
            client.worker.metrics.http2_floods.increment();
        }
        tracing::debug!(client = %client.peer, error = &error as &dyn std::error::Error, "client connection failed");
    }
}

/// Why a connection ended that did not end well.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    /// A reset, a request cut short.
    #[error(transparent)]
    Http1(http1::Error),
    /// An upstream has not sent all of a response.
    #[error("a response broke off")]
    Cut,
    /// The same of HTTP/2, and frames that it does not allow.
    #[error(transparent)]
    Http2(http2::Failure),
    /// A time-out passed.
    #[error("{0}")]
    TimedOut(Deadline),
    /// The client asks for much that it then doesn't want (CVE-2023-44487).
    #[error("more requests given up within a minute than limits.resets")]
    Resets,
}

async fn serve_http2(
    client: &Rc<Client>,
    stream: ClientStream,
    first: BytesMut,
    ticket: &mut Ticket,
) -> Result<(), ConnectionError> {
    let io = ClientIo::new(stream, first, Rc::clone(client));
    let mut connection = Http2::new(Rc::clone(client), io);
    let grain = client.grain();
    let mut timer = LazyTimer::new(grain);
    let mut finishing = false;
    let mut is_refused = false;
    poll_fn(|cx: &mut Context<'_>| {
        // A client is told what was not taken any more, so there is no need to wait for its next request.
        if !finishing && ticket.poll_stop(cx) != Stop::No {
            finishing = true;
            connection.finish();
        }
        loop {
            if let Poll::Ready(ended) = connection.poll(cx) {
                let ended = ended.map_err(ConnectionError::Http2);
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
                // Streams have tasks of their own: what they begin to wait for this one isn't told.
                let _ = timer.poll(cx, Instant::now() + grain);
                return Poll::Pending;
            };
            ready!(timer.poll(cx, deadline));
            client.counts(what);
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
