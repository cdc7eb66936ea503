//! Connections to endpoints, kept for the next request.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use tokio::time::Instant;

use super::body::Source;
use super::choice::Connection;
use super::dial::{Connected, Dial};
use super::endpoint::{Endpoint, Idle, Use, Way};
use super::failure::{Failure, SendError};
use super::http1::Http1;
use super::http2::{Http2, Shared};
use super::place::Place;
use super::request::{Beside, UpstreamRequest};
use crate::proxy::health::{Board, Verdict};
use crate::proxy::http1::rooms::Rooms;
use crate::proxy::metrics::Metrics;
use crate::proxy::timer::lazy::LazyTimer;
use crate::proxy::timer::timeout;
use crate::proxy::upstream::set::HealthCheck;
use crate::proxy::upstream::{Protocol, Upstream};

/// A worker's endpoints with their connections.
#[derive(Default)]
pub struct Pool {
    metrics: Arc<Metrics>,
    health: Arc<Board>,
    endpoints: RefCell<HashMap<Way, Rc<Endpoint>>>,
    rooms: Rc<Rooms>,
}

/// A connection, or a stream of one, for one request. Dropped, an HTTP/1.1 connection is closed: it is in the middle of a
/// message.
pub struct Lease {
    link: Link,
    used: Use,
    /// Whether the rest of the request's body is never sent.
    left_body: bool,
}

enum Link {
    Http1 {
        link: Box<Http1>,
        place: Place,
        reused: bool,
    },
    Http2 {
        link: Box<Http2>,
        _place: Rc<Place>,
        reused: bool,
    },
    /// For one client, and over with its request.
    Alone {
        link: Connected,
        _place: Place,
    },
}

impl Pool {
    /// A pool of no endpoint; `health` is where checks say how endpoints are.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, health: Arc<Board>) -> Self {
        Self { metrics, health, ..Self::default() }
    }

    /// What `check` says of an endpoint.
    pub fn verdict(&self, way: &Way, check: &Arc<HealthCheck>) -> Arc<Verdict> {
        self.health.verdict(way, check)
    }

    /// The endpoint of `upstream` at `address`.
    pub fn endpoint(&self, address: SocketAddr, upstream: &Upstream) -> Rc<Endpoint> {
        let mut endpoints = self.endpoints.borrow_mut();
        let way = Way::new(address, upstream);
        let endpoint = endpoints.entry(way.clone()).or_insert_with(|| {
            let counts = self.metrics.endpoints.of(address);
            Rc::new(Endpoint::new(way, counts, Rc::clone(&self.rooms)))
        });
        Rc::clone(endpoint)
    }

    /// Closes the idle connections to addresses that no longer serve.
    pub fn forget(&self, addresses: &[SocketAddr]) {
        let endpoints = self.endpoints.borrow();
        for endpoint in endpoints.values().filter(|endpoint| addresses.contains(&endpoint.way.address)) {
            endpoint.forget();
        }
    }

    /// Closes connections that were not used for `limit` or that the upstream has closed.
    pub fn sweep(&self, limit: Duration) {
        self.endpoints.borrow_mut().retain(|_, endpoint| {
            let is_kept = |idle: &mut Idle| idle.since.elapsed() < limit && idle.link.is_usable();
            endpoint.idle.borrow_mut().retain_mut(is_kept);
            endpoint.http2.sweep(limit);
            endpoint.is_connected() || Rc::strong_count(endpoint) > 1
        });
    }
}

fn take_idle(endpoint: &Endpoint, limit: Duration) -> Option<Link> {
    let idle = &mut *endpoint.idle.borrow_mut();
    let Idle { mut link, place, since } = idle.pop()?;
    let now = Instant::now();
    if now.saturating_duration_since(since) < limit {
        link.is_taken(now);
        return Some(Link::Http1 { link, place, reused: true });
    }
    // The others are older still.
    idle.clear();
    None
}

impl Connection for Lease {
    fn idle(used: Use, limit: Duration, only_http1: bool) -> Result<Self, Use> {
        let endpoint = used.endpoint();
        let is_wanted = match endpoint.way.protocol {
            Protocol::Http1 => false,
            Protocol::Https => !only_http1,
            Protocol::H2c => true,
        };
        let shared = if is_wanted { endpoint.http2.share() } else { None };
        match shared.map(Link::from).or_else(|| take_idle(endpoint, limit)) {
            Some(link) => {
                endpoint.counts.reuses.increment();
                Ok(Self { link, used, left_body: false })
            }
            None => Err(used),
        }
    }

    /// A stream of a connection that there is, or a new one.
    async fn make(used: Use, dial: &Dial<'_>) -> Result<Self, (Failure, Use)> {
        let endpoint = used.endpoint();
        let link = match (endpoint.way.protocol, endpoint.speaks_http2.get()) {
            _ if dial.preface.is_some() => alone(endpoint, dial).await,
            (Protocol::Http1, _) | (Protocol::Https, Some(false)) => open(endpoint, dial, None).await,
            (Protocol::Https, _) if dial.only_http1 => open(endpoint, dial, None).await,
            (Protocol::H2c | Protocol::Https, _) => stream(endpoint, dial).await,
        };
        match link {
            Ok(link) => Ok(Self { link, used, left_body: false }),
            Err(failure) => Err((endpoint.not_connected(failure), used)),
        }
    }

    fn endpoint(&self) -> &Rc<Endpoint> {
        self.endpoint()
    }

    fn is_reused(&self) -> bool {
        self.is_reused()
    }

    fn keep(self) {
        self.give_back(false);
    }
}

/// A connection that nobody else has or will have.
async fn alone(endpoint: &Endpoint, dial: &Dial<'_>) -> Result<Link, Failure> {
    let place = Place::take(&endpoint.open, dial.config.limits.upstream_connections).ok_or(Failure::Busy)?;
    Ok(Link::Alone { link: dial.connect(&endpoint.way).await?, _place: place })
}

/// A connection that is made, for this request first; where it was `wanting` one of HTTP/2, others wait for its streams.
async fn open(endpoint: &Endpoint, dial: &Dial<'_>, wanting: Option<Place>) -> Result<Link, Failure> {
    let place = Place::take(&endpoint.open, dial.config.limits.upstream_connections).ok_or(Failure::Busy)?;
    let coming = wanting.map(|wanting| endpoint.http2.come(wanting));
    let connected = dial.connect(&endpoint.way).await?;
    endpoint.counts.connects.increment();
    match connected {
        Connected::Http1(link) => {
            if !dial.only_http1 {
                endpoint.speaks_http2.set(Some(false));
                endpoint.http2.share_none();
            }
            Ok(Link::Http1 { link, place, reused: false })
        }
        Connected::Http2(link) => {
            endpoint.speaks_http2.set(Some(true));
            let place = Rc::new(place);
            endpoint.http2.add(&link, &place, coming, dial.limit);
            Ok(Link::Http2 { link, _place: place, reused: false })
        }
    }
}

/// A stream of an HTTP/2 connection, which is made if it takes another. Where it turns out that the endpoint would rather speak HTTP/1.1, a
/// connection of that.
async fn stream(endpoint: &Endpoint, dial: &Dial<'_>) -> Result<Link, Failure> {
    // Who waits for somebody else's connection waits no longer than for one of its own.
    match timeout(dial.limit, endpoint.http2.find(dial.reached)).await.ok_or(Failure::ConnectTimeout)? {
        Ok(shared) => Ok(shared.into()),
        Err(wanting) => open(endpoint, dial, Some(wanting)).await,
    }
}

impl From<Shared> for Link {
    fn from(Shared { link, place }: Shared) -> Self {
        Self::Http2 { link, _place: place, reused: true }
    }
}

impl Lease {
    /// Sends a request and waits for the head of its response.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub async fn send(
        &mut self,
        request: UpstreamRequest,
        beside: Beside<'_>,
        limit: Duration,
    ) -> Result<Response<Source>, SendError> {
        match &mut self.link {
            Link::Http1 { link, .. } | Link::Alone { link: Connected::Http1(link), .. } => {
                Ok(link.send(request, beside, limit).await?.map(|()| Source::Http1))
            }
            Link::Http2 { link, .. } | Link::Alone { link: Connected::Http2(link), .. } => {
                Ok(link.send(request, beside, limit).await?.map(Source::Http2))
            }
        }
    }

    /// The endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Rc<Endpoint> {
        self.used.endpoint()
    }

    /// Whether HTTP/2 is spoken.
    #[must_use]
    pub fn is_http2(&self) -> bool {
        matches!(self.link, Link::Http2 { .. } | Link::Alone { link: Connected::Http2(_), .. })
    }

    /// Whether the connection has served another request before, so that its end may have nothing to do with this one.
    #[must_use]
    pub fn is_reused(&self) -> bool {
        matches!(self.link, Link::Http1 { reused: true, .. } | Link::Http2 { reused: true, .. })
    }

    /// Whether the connection is of no more use. One of HTTP/1.1 is so whenever a request gets no response.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        match &self.link {
            Link::Http1 { .. } | Link::Alone { .. } => true,
            Link::Http2 { link, .. } => link.is_closed(),
        }
    }

    /// The rest of the request's body is not wanted, and so it is never sent: a connection of HTTP/1.1 ends with the response.
    pub fn leaves_body(&mut self) {
        self.left_body = true;
    }

    /// Whether that is so.
    #[must_use]
    pub fn has_left_body(&self) -> bool {
        self.left_body
    }

    /// The connection, where it speaks HTTP/1.1.
    #[must_use]
    pub fn http1(&self) -> Option<&Http1> {
        match &self.link {
            Link::Http1 { link, .. } | Link::Alone { link: Connected::Http1(link), .. } => Some(link),
            Link::Http2 { .. } | Link::Alone { .. } => None,
        }
    }

    /// The same, to be moved on.
    pub fn http1_mut(&mut self) -> Option<&mut Http1> {
        match &mut self.link {
            Link::Http1 { link, .. } | Link::Alone { link: Connected::Http1(link), .. } => Some(link),
            Link::Http2 { .. } | Link::Alone { .. } => None,
        }
    }

    /// The connection as this request has it, where it speaks HTTP/2.
    pub fn http2_mut(&mut self) -> Option<&mut Http2> {
        match &mut self.link {
            Link::Http2 { link, .. } | Link::Alone { link: Connected::Http2(link), .. } => Some(link),
            Link::Http1 { .. } | Link::Alone { .. } => None,
        }
    }

    /// For the waits of this request.
    pub fn timer(&mut self) -> &mut LazyTimer {
        match &mut self.link {
            Link::Http1 { link, .. } | Link::Alone { link: Connected::Http1(link), .. } => link.timer(),
            Link::Http2 { link, .. } | Link::Alone { link: Connected::Http2(link), .. } => link.timer(),
        }
    }

    /// The response has been read to its end: the connection is for the next request, if it can take one. It can't while
    /// the request's body is still on its way; then it ends after that, or at once if `stop` or the body isn't wanted.
    pub fn give_back(self, stop: bool) {
        let Self { link, used, left_body } = self;
        let finishes = !stop && !left_body;
        match link {
            Link::Http1 { mut link, place, .. } => {
                if !left_body && link.is_ready() {
                    link.rest();
                    used.endpoint().idle.borrow_mut().push(Idle { link, place, since: Instant::now() });
                } else if finishes {
                    link.finish_upload();
                }
            }
            Link::Alone { link: Connected::Http1(link), .. } if finishes => link.finish_upload(),
            Link::Http2 { link, .. } | Link::Alone { link: Connected::Http2(link), .. } if finishes => {
                link.finish_upload();
            }
            Link::Http2 { .. } | Link::Alone { .. } => {}
        }
    }
}
