//! The access log: one event for each request.

#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use http::{Method, StatusCode, Version};

/// The target of the events, for log filters.
pub const TARGET: &str = "access";

/// What nginx logs for a client that left before its answer; there is no official status for it.
const CLIENT_LEFT: u16 = 499;

/// What is known of a request so far; written when it is dropped, which is when the response's body has ended.
#[derive(Debug)]
pub struct Record {
    /// The address of the connection's other end.
    pub client: IpAddr,
    /// When the request's head was read.
    pub start: Instant,
    /// `HTTP/1.1` and the like.
    pub version: Version,
    /// `GET` and the like.
    pub method: Method,
    /// The normalised host; empty while unknown.
    pub host: String,
    /// The path. Never the query: secrets travel in it.
    pub path: String,
    /// The response's status; `None` when there was no response.
    pub status: Option<StatusCode>,
    /// Bytes of the response's body.
    pub bytes: u64,
    /// The route's label; empty when there was none.
    pub route: String,
    /// Who answered; `None`: the agent did.
    pub endpoint: Option<SocketAddr>,
}

impl Drop for Record {
    fn drop(&mut self) {
        tracing::info!(
            target: TARGET,
            client = %self.client,
            host = self.host,
            method = %self.method,
            path = self.path,
            protocol = ?self.version,
            status = self.status.map_or(CLIENT_LEFT, |status| status.as_u16()),
            bytes = self.bytes,
            duration_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX),
            route = self.route,
            endpoint = self.endpoint.map(tracing::field::display),
            "request"
        );
    }
}
