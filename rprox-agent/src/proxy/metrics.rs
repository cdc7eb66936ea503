//! What a worker counts.
//!
//! Each worker has a [`Metrics`] of its own, which nobody else writes, so counting is an addition in memory that no other
//! processor holds. Who scrapes reads all of them and adds up. To count something new, give it a line in `metrics!` below.

#![forbid(unsafe_code)]

mod cell;
mod define;
mod family;
mod histogram;

use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;

pub use self::cell::{Counter, Gauge, Label, Labelled};
pub use self::define::{Kind, Labels, Series, Value, labelled};
pub use self::family::{EndpointMetrics, Family, PassthroughMetrics, RouteMetrics};
pub use self::histogram::{Histogram, Sum};

define::metrics! {
    /// Client connections accepted
    counter client_connections = "rprox_client_connections";
    /// Client connections open
    gauge client_connections_open = "rprox_client_connections_open";
    /// Requests that were sent to an upstream once more
    counter retries = "rprox_upstream_retries";
    /// Connections upgraded to another protocol, by HTTP/1.1 or extended CONNECT
    counter tunnels = "rprox_tunnels";
    /// Upgraded connections open
    gauge tunnels_open = "rprox_tunnels_open";
    /// Requests over HTTP/1.1 that can't be parsed or could be read two ways; they are in no other number
    counter requests_malformed = "rprox_requests_malformed";
    /// HTTP/2 connections ended for frames that only make work: resets at once, CONTINUATION or DATA without end
    counter http2_floods = "rprox_http2_floods";
    /// Connections refused for want of a good PROXY header
    counter proxy_headers_refused = "rprox_proxy_headers_refused";
    /// Retries that were not made, since the budget was used up
    counter retries_refused = "rprox_upstream_retries_refused";
    /// Connections and requests refused or cut by a limit
    counter limit_hits = "rprox_limit_hits", by limit: Limit;
    /// TLS handshakes that succeeded
    counter tls_handshakes = "rprox_tls_handshakes", by version: TlsVersion;
    /// TLS handshakes that resumed a session
    counter tls_sessions_resumed = "rprox_tls_sessions_resumed";
    /// TLS handshakes that failed
    counter tls_handshakes_failed = "rprox_tls_handshakes_failed", by reason: HandshakeFailure;
}

cell::labels! {
    /// What became of a request.
    pub enum Class {
        /// The connection speaks another protocol now.
        Switched = "1xx",
        /// It succeeded.
        Success = "2xx",
        /// It is to be found elsewhere, or has not changed.
        Redirection = "3xx",
        /// The client's mistake.
        ClientError = "4xx",
        /// The agent's or the upstream's.
        ServerError = "5xx",
        /// The client left before there was a response.
        ClientLeft = "none",
    }
}

impl Class {
    /// That of a response's status.
    #[must_use]
    pub fn of(status: Option<StatusCode>) -> Self {
        match status.map(|status| status.as_u16()) {
            None => Self::ClientLeft,
            Some(..200) => Self::Switched,
            Some(..300) => Self::Success,
            Some(..400) => Self::Redirection,
            Some(..500) => Self::ClientError,
            Some(_) => Self::ServerError,
        }
    }
}

cell::labels! {
    /// What was hit, by its key in the configuration.
    pub enum Limit {
        /// `limits.connections`
        Connections = "connections",
        /// `limits.memory`
        Memory = "memory",
        /// `limits.requests`
        Requests = "requests",
        /// `limits.passes`
        Passes = "passes",
        /// `limits.client_connections`
        ClientConnections = "client_connections",
        /// `limits.client_rate`, and `timeouts.body` where a client was waited for
        ClientRate = "client_rate",
        /// `limits.header_bytes` and `limits.headers`
        Headers = "headers",
        /// `limits.requests_in_flight`
        RequestsInFlight = "requests_in_flight",
        /// `limits.resets`
        Resets = "resets",
        /// `limits.streams`
        Streams = "streams",
        /// `timeouts.header`
        HeaderTimeout = "timeouts.header",
        /// `limits.body_bytes`
        BodyBytes = "body_bytes",
        /// `limits.upstream_connections`
        UpstreamConnections = "upstream_connections",
        /// `timeouts.expect`
        ExpectTimeout = "timeouts.expect",
        /// `timeouts.half_closed`
        HalfClosed = "timeouts.half_closed",
        /// `timeouts.tunnel`
        TunnelTimeout = "timeouts.tunnel",
    }
}

cell::labels! {
    /// A version of TLS.
    pub enum TlsVersion {
        /// RFC 5246
        Tls12 = "1.2",
        /// RFC 8446
        Tls13 = "1.3",
    }
}

cell::labels! {
    /// Why a TLS handshake failed.
    pub enum HandshakeFailure {
        /// No certificate is for the name asked for
        UnrecognizedName = "unrecognized_name",
        /// The client left
        Closed = "closed",
        /// It took longer than `timeouts.header`
        TimedOut = "timed_out",
        /// The client refused what it saw, or we what it showed
        Refused = "refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_workers_count_is_added_up() {
        let workers = [Arc::new(Metrics::default()), Arc::new(Metrics::default())];
        for worker in &workers {
            worker.client_connections.add(2);
            worker.client_connections_open.up();
            worker.limit_hits[Limit::BodyBytes].increment();
        }
        workers[0].client_connections_open.down();
        let series = Metrics::sum(&workers);
        let find = |name: &str| series.iter().find(|series| series.name == name).unwrap();
        assert_eq!(find("rprox_client_connections").values, [(vec![], Value::Number(4))]);
        assert_eq!(find("rprox_client_connections_open").values, [(vec![], Value::Number(1))]);
        let hits = &find("rprox_limit_hits").values;
        let has = |limit: &str, count| hits.contains(&labelled("limit", limit, count));
        assert!(has("body_bytes", 2) && has("connections", 0), "{hits:?}");
    }

    #[test]
    fn a_route_keeps_its_numbers_over_a_reload_and_one_that_is_gone_has_none() {
        let metrics = Metrics::default();
        let before = metrics.routes.of(["a/", "b/", ""].into_iter());
        before[0].requests[Class::Success].increment();
        let after = metrics.routes.of(["c/", "a/", ""].into_iter());
        assert_eq!(after[1].requests[Class::Success].get(), 1);
        let mut labels: Vec<_> = metrics.routes.all().into_iter().map(|(label, _)| label).collect();
        labels.sort();
        assert_eq!(labels, ["", "a/", "c/"]);
    }

    #[test]
    fn beyond_a_thousand_endpoints_the_others_are_counted_together() {
        let metrics = Metrics::default();
        for port in 1..=2000 {
            metrics.endpoints.of(SocketAddr::from(([10, 0, 0, 1], port))).connects.increment();
        }
        let all = metrics.endpoints.all();
        assert_eq!(all.len(), 1001);
        let others = all.iter().find(|(label, _)| label.is_none()).unwrap();
        assert_eq!(others.1.connects.get(), 1000);
    }

    #[test]
    fn no_two_workers_share_a_cache_line() {
        assert_eq!(align_of::<Metrics>(), 128);
    }
}
