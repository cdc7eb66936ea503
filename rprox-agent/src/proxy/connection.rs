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
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use ipnet::IpNet;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

use self::client::{Client, Deadline};
use self::http2::Http2;
use self::io::ClientIo;
use super::admission::Place;
use super::listen::{self, Admission};
use super::live::Live;
use super::metrics::{HandshakeFailure, Limit, TlsVersion};
use super::passthrough;
use super::proxy_protocol::{self, Ends, HeaderError};
use super::socket::lazy_tcp::LazyTcp;
use super::socket::stream::{self, Stream};
use super::timer::timeout;
use super::tls::{Accepted, Recorded, TlsConnection};
use super::worker::Worker;
use super::worker::parking::Parked;
use super::worker::roster::{Stop, Ticket};
use super::worker::tasks::{Tasks, Work};

/// What an HTTP/2 client that knows the server speaks it sends first (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A client's connection.
type ClientStream = Stream<TlsStream<Recorded>>;

/// A connection whose beginning has been read.
///
/// Its task is as large as its largest moment, and there are as many as connections. So each way is small or in a box, and what a connection's
/// beginning needs is no part of the rest.
enum Opened {
    /// HTTP/1.1.
    Http1(http1::Socket),
    /// HTTP/2.
    Http2(Box<Http2<ClientIo<ClientStream>>>),
    /// TLS that is the upstream's business.
    Passthrough(Pin<Box<dyn Future<Output = ()>>>),
}

/// A connection that wants a task.
pub struct Arrival {
    /// There is room for it.
    pub admission: Admission,
    /// Where it comes from.
    pub from: Origin,
}

/// Where a connection comes from.
pub enum Origin {
    /// A client that has just connected.
    Client {
        /// The connection.
        tcp: LazyTcp,
        /// Its other end.
        peer: SocketAddr,
        /// Whether it begins with TLS.
        secure: bool,
    },
    /// A rest, which its client has ended.
    Parking(Box<Parked>),
}

/// A connection that is served, among its client's and the worker's.
type Begun = (Place, Ticket, Opened);

impl Work for Arrival {
    fn tasks(worker: &Worker) -> &Tasks<Self> {
        &worker.arrivals
    }

    /// Serves the connection until it ends or rests.
    #[expect(clippy::manual_async_fn, reason = "an async fn has room for its argument twice")]
    fn run(mut self) -> impl Future<Output = ()> {
        async move {
            let worker = self.admission.worker();
            let Some((place, mut ticket, opened)) = (match self.from {
                Origin::Client { ref mut tcp, peer, secure: false } => open(worker, tcp, peer).await,
                Origin::Client { tcp, peer, secure: true } => Box::pin(open_tls(worker, tcp, peer)).await,
                Origin::Parking(parked) => Some(go_on(worker, *parked)),
            }) else {
                return;
            };
            match opened {
                Opened::Http1(socket) => {
                    if let Some((tcp, client)) = http1::serve(socket, &mut ticket).await {
                        park(self.admission, place, ticket, tcp, &client);
                    }
                }
                Opened::Http2(http2) => Box::pin(serve_http2(http2, &mut ticket)).await,
                Opened::Passthrough(served) => served.await,
            }
        }
    }
}

/// Finds out who speaks, and what; `None` where the connection is not to be served.
async fn open(worker: &Rc<Worker>, tcp: &mut LazyTcp, peer: SocketAddr) -> Option<Begun> {
    let mut ticket = worker.roster.enter();
    let ends = ends(worker, tcp, peer).await?;
    let place = place(worker, tcp, ends.client, false)?;
    let deadline = Instant::now() + worker.live().config.timeouts.header;
    let first = sniff(tcp, &mut ticket, deadline).await?;
    let http2 = first.starts_with(HTTP2_PREFACE);
    let client = Rc::new(Client::new(Rc::clone(worker), ends, None, http2, deadline));
    Some((place, ticket, Opened::http(client, Stream::Plain(tcp.take()), first)))
}

/// The same of a connection that begins with TLS.
async fn open_tls(worker: &Rc<Worker>, mut tcp: LazyTcp, peer: SocketAddr) -> Option<Begun> {
    let ticket = worker.roster.enter();
    let ends = ends(worker, &mut tcp, peer).await?;
    let place = place(worker, &tcp, ends.client, true)?;
    let live = worker.live();
    let opened = match shake_hands(worker, &live, tcp, ends.client).await? {
        Accepted::Terminated(connection) => {
            let deadline = Instant::now() + live.config.timeouts.header;
            let TlsConnection { stream, http2, secured, .. } = *connection;
            let client = Rc::new(Client::new(Rc::clone(worker), ends, Some(secured), http2, deadline));
            Opened::http(client, Stream::Tls(stream), BytesMut::new())
        }
        Accepted::Passthrough(opening) => {
            Opened::Passthrough(Box::pin(passthrough::serve(Rc::clone(worker), live, opening, ends)))
        }
        Accepted::Validated => return None,
    };
    Some((place, ticket, opened))
}

/// Lets a connection rest.
fn park(admission: Admission, place: Place, ticket: Ticket, tcp: LazyTcp, client: &Client) {
    let (Some(deadline), Ok(tcp)) = (client.idle_until(), tcp.into_unwatched()) else { return };
    let parked = Parked { place, ticket, tcp, ends: client.ends, served: client.served(), deadline };
    Rc::clone(admission.worker()).parking.park(admission, Box::new(parked));
}

/// Goes on with a connection that rested.
fn go_on(worker: &Rc<Worker>, parked: Parked) -> Begun {
    let Parked { place, ticket, tcp, ends, served, deadline } = parked;
    let client = Rc::new(Client::back(Rc::clone(worker), ends, served, deadline));
    (place, ticket, Opened::http(client, Stream::Plain(LazyTcp::new(tcp)), BytesMut::new()))
}

impl Opened {
    fn http(client: Rc<Client>, stream: ClientStream, first: BytesMut) -> Self {
        let io = ClientIo::new(stream, Rc::clone(&client));
        if client.http2 {
            Self::Http2(Box::new(Http2::new(client, io, first)))
        } else {
            Self::Http1(http1::Socket::new(client, io, first))
        }
    }
}

/// Whose connection it is; `None` where a load balancer was to say that and did not.
async fn ends(worker: &Worker, tcp: &mut LazyTcp, peer: SocketAddr) -> Option<Ends> {
    let limit = {
        let config = &worker.live().config;
        contains(&config.proxy_protocol, peer.ip()).then_some(config.timeouts.header)
    };
    match limit {
        None => Some(own_ends(tcp, peer)),
        Some(limit) => Box::pin(announced_ends(worker, tcp, peer, limit)).await,
    }
}

fn own_ends(tcp: &LazyTcp, peer: SocketAddr) -> Ends {
    Ends { client: peer, server: tcp.local_addr().unwrap_or(peer) }
}

async fn announced_ends(
    worker: &Worker,
    tcp: &mut LazyTcp,
    peer: SocketAddr,
    limit: Duration,
) -> Option<Ends> {
    let received = proxy_protocol::receive(tcp.watched().ok()?, limit).await;
    match received {
        Ok(ends) => Some(ends.unwrap_or_else(|| own_ends(tcp, peer))),
        Err(HeaderError::Closed) => None,
        Err(error) => {
            worker.metrics.proxy_headers_refused.increment();
            tracing::warn!(%peer, "connection refused: {error}");
            None
        }
    }
}

/// A place among the client's connections; `None` where it has as many as it may, which it is told.
fn place(worker: &Worker, tcp: &LazyTcp, client: SocketAddr, secure: bool) -> Option<Place> {
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

/// `None` where it fails, which is the client's concern more than ours.
async fn shake_hands(worker: &Worker, live: &Live, tcp: LazyTcp, peer: SocketAddr) -> Option<Accepted> {
    let metrics = &worker.metrics;
    let accepted = timeout(live.config.timeouts.header, live.tls.accept(tcp, &live.routes)).await;
    let (failure, error) = match accepted {
        Some(Ok(accepted)) => {
            if let Accepted::Terminated(connection) = &accepted {
                let version = if connection.tls13 { TlsVersion::Tls13 } else { TlsVersion::Tls12 };
                metrics.tls_handshakes[version].increment();
                metrics.tls_sessions_resumed.add(u64::from(connection.resumed));
            }
            return Some(accepted);
        }
        Some(Err(error)) => (error.failure(), error.to_string()),
        None => (HandshakeFailure::TimedOut, "longer than timeouts.header".to_owned()),
    };
    metrics.tls_handshakes_failed[failure].increment();
    tracing::debug!(client = %peer, error, "TLS handshake failed");
    None
}

/// Reads as much as tells HTTP/2's preface from an HTTP/1.1 request, by `deadline`.
async fn sniff(tcp: &mut LazyTcp, ticket: &mut Ticket, deadline: Instant) -> Option<BytesMut> {
    let mut first = BytesMut::new();
    poll_fn(|cx| {
        loop {
            let read = match stream::poll_first(tcp, cx, &mut first) {
                Poll::Ready(Ok(read)) => read,
                Poll::Ready(Err(_)) => return Poll::Ready(None),
                Poll::Pending => return ticket.poll_deadline(cx, deadline).map(|()| None),
            };
            let length = first.len().min(HTTP2_PREFACE.len());
            let is_whole = length == HTTP2_PREFACE.len();
            if read == 0 || is_whole || first[..length] != HTTP2_PREFACE[..length] {
                return Poll::Ready(Some(mem::take(&mut first)));
            }
        }
    })
    .await
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

impl ConnectionError {
    /// Tells of the end of `client`'s connection.
    fn report(&self, client: &Client) {
        if matches!(self, Self::Http2(http2::Failure::Flood)) {
            client.worker.metrics.http2_floods.increment();
        }
        tracing::debug!(client = %client.peer, error = self as &dyn std::error::Error, "client connection failed");
    }
}

async fn serve_http2(mut connection: Box<Http2<ClientIo<ClientStream>>>, ticket: &mut Ticket) {
    let client = Rc::clone(connection.client());
    let served = attend_http2(&client, &mut connection, ticket).await;
    if let Err(error) = served {
        error.report(&client);
    }
}

async fn attend_http2(
    client: &Client,
    connection: &mut Http2<ClientIo<ClientStream>>,
    ticket: &mut Ticket,
) -> Result<(), ConnectionError> {
    let grain = client.worker.live().config.timeouts.shortest_for_clients();
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
                let _ = ticket.poll_deadline(cx, Instant::now() + grain);
                return Poll::Pending;
            };
            ready!(ticket.poll_deadline(cx, deadline));
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
