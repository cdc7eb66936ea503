//! What a worker counts.
//!
//! Each worker has a [`Metrics`] of its own, which nobody else writes, so counting is an addition in memory that no other
//! processor holds. Who scrapes reads all of them and adds up. To count something new, give it a line in `metrics!` below.

#![forbid(unsafe_code)]

mod cell;
mod define;

use std::sync::Arc;

pub use self::cell::{Counter, Gauge, Label, Labelled};
pub use self::define::{Kind, Series};

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
}

cell::labels! {
    /// What was hit, by its key in the configuration.
    pub enum Limit {
        /// `limits.connections`
        Connections = "connections",
        /// `limits.body_bytes`
        BodyBytes = "body_bytes",
        /// `limits.upstream_connections`
        UpstreamConnections = "upstream_connections",
        /// `timeouts.tunnel`
        TunnelTimeout = "timeouts.tunnel",
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
        assert!(hits.contains(&(Some(("limit", "body_bytes")), 2)), "{hits:?}");
        assert!(hits.contains(&(Some(("limit", "connections")), 0)), "{hits:?}");
    }

    #[test]
    fn no_two_workers_share_a_cache_line() {
        assert_eq!(align_of::<Metrics>(), 128);
    }
}
