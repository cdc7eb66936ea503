//! The upstreams of a route, and how requests are spread over their endpoints.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use super::Upstream;
use crate::proxy::config::Timeouts;
use crate::proxy::proxy_protocol;

/// The most that an upstream can weigh.
pub const HEAVIEST: u32 = 1000;

/// The upstreams that serve a route.
#[derive(Clone, Debug)]
pub struct UpstreamSet {
    /// Each with its weight; one at least, of which one at least has a weight.
    pub upstreams: Vec<Weighted>,
    /// How to choose among the endpoints.
    pub balance: Balancing,
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
            upstreams: vec![Weighted { upstream: Arc::new(upstream), weight: 1 }],
            balance: Balancing::default(),
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
