//! Connections to endpoints, kept for the next request.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Context;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::body::RequestBody;
use super::failure::Failure;
use super::link::{Http1, Http2, SendError};
use crate::proxy::config::Config;
use crate::proxy::timer::LazyTimer;
use crate::proxy::upstream::Protocol;

/// A worker's connections.
#[derive(Default)]
pub struct Pool {
    endpoints: RefCell<HashMap<SocketAddr, Endpoint>>,
}

#[derive(Default)]
struct Endpoint {
    /// The latest last: it is the likeliest to live, and the others can go.
    idle: Vec<Idle>,
    /// HTTP/1.1 connections, idle and in use.
    open: Rc<Cell<usize>>,
    /// The one HTTP/2 connection; locked while it is made.
    http2: Rc<Mutex<Option<Http2>>>,
    /// When a stream of it was last asked for.
    http2_used: Option<Instant>,
}

struct Idle {
    link: Http1,
    place: Place,
    since: Instant,
}

/// One of the connections that an endpoint may have.
struct Place(Rc<Cell<usize>>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A connection, or a stream of one, for one request. Dropped, an HTTP/1.1 connection is closed: it is in the middle of a
/// message.
pub struct Lease {
    link: Link,
    pool: Rc<Pool>,
    address: SocketAddr,
}

enum Link {
    Http1 { link: Http1, place: Place, reused: bool },
    Http2(Http2),
}

impl Pool {
    /// A connection to `address`, an idle one if there is one.
    ///
    /// # Errors
    ///
    /// When connecting fails or too many connections are open.
    pub async fn lease(
        self: &Rc<Self>,
        config: &Config,
        protocol: Protocol,
        address: SocketAddr,
    ) -> Result<Lease, Failure> {
        let link = match protocol {
            Protocol::Http1 => match self.take_idle(config, address) {
                Some(link) => link,
                // Rare, and large: it should not make every request's future large.
                None => Box::pin(self.connect(config, address)).await?,
            },
            Protocol::H2c => Box::pin(self.stream(config, address)).await?,
        };
        Ok(Lease { link, pool: Rc::clone(self), address })
    }

    fn take_idle(&self, config: &Config, address: SocketAddr) -> Option<Link> {
        let mut endpoints = self.endpoints.borrow_mut();
        let idle = &mut endpoints.get_mut(&address)?.idle;
        let Idle { link, place, since } = idle.pop()?;
        if since.elapsed() < config.timeouts.upstream_idle {
            return Some(Link::Http1 { link, place, reused: true });
        }
        // The others are older still.
        idle.clear();
        None
    }

    async fn connect(&self, config: &Config, address: SocketAddr) -> Result<Link, Failure> {
        let place = {
            let mut endpoints = self.endpoints.borrow_mut();
            let open = &endpoints.entry(address).or_default().open;
            if open.get() >= config.limits.upstream_connections {
                return Err(Failure::Busy);
            }
            open.set(open.get() + 1);
            Place(Rc::clone(open))
        };
        let link = Http1::connect(address, config).await?;
        Ok(Link::Http1 { link, place, reused: false })
    }

    async fn stream(&self, config: &Config, address: SocketAddr) -> Result<Link, Failure> {
        let shared = {
            let mut endpoints = self.endpoints.borrow_mut();
            let endpoint = endpoints.entry(address).or_default();
            endpoint.http2_used = Some(Instant::now());
            Rc::clone(&endpoint.http2)
        };
        let mut connection = shared.lock().await;
        let connection = match &mut *connection {
            Some(connection) if !connection.is_closed() => connection,
            slot => slot.insert(Http2::connect(address, config).await?),
        };
        Ok(Link::Http2(connection.share(config)))
    }

    /// Closes the idle connections to addresses that no longer serve.
    pub fn forget(&self, addresses: &[SocketAddr]) {
        let mut endpoints = self.endpoints.borrow_mut();
        for address in addresses {
            if let Some(endpoint) = endpoints.get_mut(address) {
                endpoint.idle.clear();
                endpoint.http2 = Rc::default();
                endpoint.http2_used = None;
            }
        }
    }

    /// Closes connections that were not used for `limit` or that the upstream has closed.
    pub fn sweep(&self, limit: Duration) {
        self.endpoints.borrow_mut().retain(|_, endpoint| {
            endpoint.idle.retain_mut(|idle| idle.since.elapsed() < limit && idle.link.is_usable());
            if endpoint.http2_used.is_some_and(|used| used.elapsed() >= limit) {
                endpoint.http2 = Rc::default();
                endpoint.http2_used = None;
            }
            endpoint.open.get() > 0 || endpoint.http2_used.is_some()
        });
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
        request: Request<RequestBody>,
        limit: Duration,
    ) -> Result<Response<Incoming>, SendError> {
        match &mut self.link {
            Link::Http1 { link, .. } => link.send(request, limit).await,
            Link::Http2(link) => link.send(request, limit).await,
        }
    }

    /// Whether the connection has served another request before, so that its end may have nothing to do with this one.
    #[must_use]
    pub fn is_reused(&self) -> bool {
        matches!(self.link, Link::Http1 { reused: true, .. } | Link::Http2(_))
    }

    /// Moves the connection on if that is up to the caller's task; whether it was.
    pub fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.link {
            Link::Http1 { link, .. } => link.drive(cx),
            Link::Http2(_) => false,
        }
    }

    /// For the waits of this request.
    pub fn timer(&mut self) -> &mut LazyTimer {
        match &mut self.link {
            Link::Http1 { link, .. } => link.timer(),
            Link::Http2(link) => link.timer(),
        }
    }

    /// The response has been read to its end: the connection is for the next request, if it can take one. It can't while
    /// the request's body is still on its way; then it ends after that, or at once if `stop`.
    pub fn give_back(self, stop: bool) {
        let Link::Http1 { mut link, place, .. } = self.link else { return };
        if link.is_ready() || link.is_usable() {
            let mut endpoints = self.pool.endpoints.borrow_mut();
            let idle = Idle { link, place, since: Instant::now() };
            endpoints.entry(self.address).or_default().idle.push(idle);
        } else if stop {
            link.abort();
        }
    }
}
