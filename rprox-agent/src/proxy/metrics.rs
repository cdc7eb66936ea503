//! What a worker counts.
//!
//! Each worker has a [`Metrics`] of its own, which nobody else writes, so counting is an addition in memory that no other
//! processor holds. Who scrapes reads all of them and adds up. To count something new, give it a line in `metrics!` below.

#![forbid(unsafe_code)]

mod cell;
mod define;

use std::sync::Arc;

pub use self::cell::{Counter, Gauge, Label, Labelled};
pub use self::define::{Kind, LabelPair, Series};

define::metrics! {
    /// Client connections accepted
    counter client_connections = "rprox_client_connections";
    /// Client connections open
    gauge client_connections_open = "rprox_client_connections_open";
    /// Connections upgraded to another protocol, by HTTP/1.1 or extended CONNECT
    counter tunnels = "rprox_tunnels";
    /// Upgraded connections open
    gauge tunnels_open = "rprox_tunnels_open";
    /// Connections refused for want of a good PROXY header
    counter proxy_headers_refused = "rprox_proxy_headers_refused";
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
    /// What was hit, by its key in the configuration.
    pub enum Limit {
        /// `limits.connections`
        Connections = "connections",
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
        /// `timeouts.header`
        HeaderTimeout = "timeouts.header",
        /// `limits.body_bytes`
        BodyBytes = "body_bytes",
        /// `limits.upstream_connections`
        UpstreamConnections = "upstream_connections",
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
        assert_eq!(find("rprox_client_connections").values, [(None, 4)]);
        assert_eq!(find("rprox_client_connections_open").values, [(None, 1)]);
        let hits = &find("rprox_limit_hits").values;
        assert!(hits.contains(&(Some(("limit", "body_bytes".into())), 2)), "{hits:?}");
        assert!(hits.contains(&(Some(("limit", "connections".into())), 0)), "{hits:?}");
    }

    #[test]
    fn no_two_workers_share_a_cache_line() {
        assert_eq!(align_of::<Metrics>(), 128);
    }
}
