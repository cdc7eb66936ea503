//! The upstreams of a route, and how requests are spread over their endpoints.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;

use super::Upstream;
use crate::proxy::config::Timeouts;
use crate::proxy::proxy_protocol;

/// The most that an upstream can weigh.
pub const HEAVIEST: u32 = 1000;

/// The upstreams that serve a route.
#[derive(Clone, Debug)]
pub struct UpstreamSet {
    /// Each with its weight; one at least, of which one at least has a weight.
    pub upstreams: Box<[Weighted]>,
    /// How to choose among the endpoints.
    pub balance: Balancing,
    /// Cookies that bring clients back to their endpoint.
    pub sticky: Option<Box<Sticky>>,
    /// How endpoints are asked whether they are well.
    pub health: Option<Arc<HealthCheck>>,
    /// How long to wait for what.
    pub timeouts: UpstreamTimeouts,
    /// The PROXY header that connections begin with.
    pub proxy_protocol: Option<proxy_protocol::Version>,
    /// For logs: the upstreams as the configuration has them.
    pub label: String,
}

/// An upstream of several.
#[derive(Clone, Debug)]
pub struct Weighted {
    /// The upstream.
    pub upstream: Arc<Upstream>,
    /// Its share of the requests, however many endpoints it has. 0: none.
    pub weight: u32,
    /// The file with the authorities that its certificate may be from.
    pub ca: Option<PathBuf>,
}

/// How to choose an endpoint. Weights hold in both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balancing {
    /// Of two chosen at random, the one with fewer requests running.
    #[default]
    LeastConnections,
    /// One after the other.
    RoundRobin,
}

/// How a client is brought back to the endpoint that served it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sticky {
    /// The cookie's name.
    pub cookie: String,
    /// The path that it is for: the route's.
    pub path: String,
    /// How long a browser keeps it; `None`: until it is closed.
    pub max_age: Option<Duration>,
    /// What makes the marks of endpoints ones that nobody else can make.
    pub secret: String,
}

/// How an endpoint is asked whether it is well.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HealthCheck {
    /// What is asked for.
    pub path: PathAndQuery,
    /// How often.
    pub interval: Duration,
    /// How long the answer may take, with the connection.
    pub timeout: Duration,
    /// How many good answers in a row make it well again.
    pub healthy: u32,
    /// How many bad ones in a row have it left out.
    pub unhealthy: u32,
    /// The statuses that are good; none: 200 to 399.
    pub status: Vec<u16>,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            path: PathAndQuery::from_static("/"),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            healthy: 1,
            unhealthy: 3,
            status: Vec::new(),
        }
    }
}

impl HealthCheck {
    /// Whether `status` is a good answer.
    #[must_use]
    pub fn accepts(&self, status: u16) -> bool {
        if self.status.is_empty() { (200..400).contains(&status) } else { self.status.contains(&status) }
    }
}

/// How long a route's requests wait for their upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamTimeouts {
    /// For a connection to an endpoint, with its TLS handshake.
    pub connect: Duration,
    /// For the first byte of the response.
    pub response: Duration,
    /// Between two pieces of a body, either way.
    pub body: Duration,
}

impl UpstreamSet {
    /// One upstream and the defaults.
    #[must_use]
    pub fn of(upstream: Upstream) -> Self {
        Self {
            label: upstream.authority.clone(),
            upstreams: [Weighted { upstream: Arc::new(upstream), weight: 1, ca: None }].into(),
            balance: Balancing::default(),
            sticky: None,
            health: None,
            timeouts: UpstreamTimeouts::from(&Timeouts::default()),
            proxy_protocol: None,
        }
    }

    /// The first upstream as the configuration has it.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.upstreams.first().map_or("", |first| first.upstream.authority.as_str())
    }
}

impl From<&Timeouts> for UpstreamTimeouts {
    fn from(timeouts: &Timeouts) -> Self {
        Self { connect: timeouts.connect, response: timeouts.response, body: timeouts.body }
    }
}
