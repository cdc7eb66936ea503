//! What a worker knows of one endpoint, and its connections to it.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use super::ejection::{Ejection, Standing};
use super::failure::Failure;
use super::http1::Http1;
use super::http2::Connections;
use super::place::Place;
use crate::proxy::config::PassiveHealth;
use crate::proxy::http1::rooms::Rooms;
use crate::proxy::metrics::EndpointMetrics;
use crate::proxy::upstream::tls::UpstreamTls;
use crate::proxy::upstream::{Protocol, Upstream};

/// Where an endpoint is and how it is spoken to: what tells one from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Way {
    /// Where it is.
    pub address: SocketAddr,
    /// What is spoken.
    pub protocol: Protocol,
    /// How TLS is done, where it is.
    pub tls: Option<Arc<UpstreamTls>>,
}

impl Way {
    /// The way to `address`, an endpoint of `upstream`.
    #[must_use]
    pub fn new(address: SocketAddr, upstream: &Upstream) -> Self {
        Self { address, protocol: upstream.protocol, tls: upstream.tls.clone() }
    }
}

/// An endpoint, shared by all routes of a worker that lead to it.
pub struct Endpoint {
    /// Where it is.
    pub way: Way,
    /// What is counted of it.
    pub counts: Arc<EndpointMetrics>,
    /// Whether it is left out.
    pub ejection: Ejection,
    /// Requests that it serves.
    running: Cell<u32>,
    /// Connections, idle and in use.
    pub(super) open: Rc<Cell<usize>>,
    /// Those of HTTP/1.1 that are for the next request, the latest last: it is the likeliest to live, and the others can go.
    pub(super) idle: RefCell<Vec<Idle>>,
    /// Those of HTTP/2.
    pub(super) http2: Rc<Connections>,
    /// For what is read from it: the worker's.
    pub(super) rooms: Rc<Rooms>,
    /// Over TLS: what it chose the last time. Until it is known, one connection at a time is made.
    pub(super) speaks_http2: Cell<Option<bool>>,
    /// Whether it let `Expect: 100-continue` pass once, and clients waited for nothing.
    ignores_expect: Cell<bool>,
}

/// A connection that no request has.
pub(super) struct Idle {
    pub(super) link: Box<Http1>,
    pub(super) place: Place,
    pub(super) since: Instant,
}

impl Endpoint {
    pub(super) fn new(way: Way, counts: Arc<EndpointMetrics>, rooms: Rc<Rooms>) -> Self {
        Self {
            way,
            counts,
            ejection: Ejection::default(),
            running: Cell::new(0),
            open: Rc::default(),
            idle: RefCell::default(),
            http2: Rc::default(),
            rooms,
            speaks_http2: Cell::new(None),
            ignores_expect: Cell::new(false),
        }
    }

    /// How many requests it serves for this worker.
    #[must_use]
    pub fn running(&self) -> u32 {
        self.running.get()
    }

    /// Whether any connection to it is open, for a request or for the next.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.open.get() > 0
    }

    /// Whether it is no use to ask it by `Expect: 100-continue`.
    #[must_use]
    pub fn ignores_expect(&self) -> bool {
        self.ignores_expect.get()
    }

    /// It did not answer `Expect: 100-continue` in time.
    pub fn lets_expect_pass(&self) {
        self.ignores_expect.set(true);
    }

    /// Counts a connection that could not be made, if that was not for our own limits.
    pub(super) fn not_connected(&self, failure: Failure) -> Failure {
        if !matches!(failure, Failure::Busy) {
            self.counts.connect_failures.increment();
        }
        failure
    }

    /// Connecting failed.
    pub fn connect_failed(&self, rules: &PassiveHealth) {
        let before = self.ejection.is_out();
        if self.ejection.connect_failed(rules) {
            tracing::debug!(endpoint = %self.way.address, "can't be connected to, left out");
        }
        self.tell(before);
    }

    /// Connecting succeeded.
    pub fn connected(&self) {
        let before = self.ejection.is_out();
        self.ejection.connected();
        self.tell(before);
    }

    /// A request got no response.
    pub fn broke(&self, rules: &PassiveHealth) {
        let before = self.ejection.is_out();
        if self.ejection.broke(rules) {
            tracing::warn!(
                endpoint = %self.way.address,
                "left out, since it gave no response to {} requests in a row",
                rules.failures
            );
        }
        self.tell(before);
    }

    /// A response came.
    pub fn answered(&self) {
        let before = self.ejection.is_out();
        self.ejection.answered();
        self.tell(before);
    }

    fn tell(&self, was_out: bool) {
        match (was_out, self.ejection.is_out()) {
            (false, true) => self.counts.left_out.up(),
            (true, false) => self.counts.left_out.down(),
            _ => {}
        }
    }

    /// Closes the connections that no request uses.
    pub(super) fn forget(&self) {
        self.idle.borrow_mut().clear();
        self.http2.forget();
    }
}

/// A request's use of an endpoint, from when it is chosen until the response's body has ended.
pub struct Use {
    endpoint: Rc<Endpoint>,
    probes: bool,
}

impl Use {
    /// Counts a request with `endpoint`; it finds out whether the endpoint is well again, if that is wanted.
    #[must_use]
    pub fn of(endpoint: &Rc<Endpoint>) -> Self {
        endpoint.running.set(endpoint.running.get() + 1);
        endpoint.counts.running.up();
        let standing = endpoint.ejection.standing();
        let probes = matches!(standing, Standing::ProbeConnection | Standing::ProbeRequest);
        if probes {
            endpoint.ejection.probe(true);
        }
        Self { endpoint: Rc::clone(endpoint), probes }
    }

    /// The endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Rc<Endpoint> {
        &self.endpoint
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.endpoint.way.address
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.endpoint.running.set(self.endpoint.running.get() - 1);
        self.endpoint.counts.running.down();
        if self.probes {
            self.endpoint.ejection.probe(false);
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if self.ejection.is_out() {
            self.counts.left_out.down();
        }
    }
}
