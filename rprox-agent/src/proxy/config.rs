//! The validated configuration: what the agent does, whole and free of contradictions.
//!
//! [`Config::load`] reads the file, lets flags win over it, and refuses the whole with every mistake it finds, each with its
//! line. What it returns needs no further checks.

#![forbid(unsafe_code)]

mod acme;
mod admin;
mod build;
mod error;
mod file;
mod files;
mod flags;
mod health;
mod log;
mod memory;
mod nearest;
mod passthrough;
mod podman;
mod routes;
mod schema;
mod terms;
mod tls;
mod units;
mod upgrade;
mod upstreams;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

pub use self::acme::{AcmeChallenge, AcmeConfig, ExternalAccount};
pub use self::admin::{AdminConfig, AdminListen, admin_socket};
pub use self::error::{ConfigError, Mistake};
pub use self::files::named_files;
pub use self::flags::Flags;
pub use self::health::PassiveHealth;
pub use self::log::{AccessFormat, Log, Traceparent};
pub use self::memory::MemoryLimit;
pub use self::podman::PodmanConfig;
pub(super) use self::routes::parse_path;
pub use self::schema::schema;
pub use self::terms::Terms;
pub use self::tls::{TlsConfig, TlsVersion};
pub(super) use self::upgrade::default as default_upgrade;
pub use self::upstreams::Retries;
use crate::proxy::route::Route;

/// Everything the agent is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to accept.
    pub listen: Listen,
    /// How to look names up.
    pub dns: DnsConfig,
    /// Certificates: the global ones first, then the routes' own.
    pub certificates: Vec<CertificateFiles>,
    /// How TLS is spoken.
    pub tls: TlsConfig,
    /// Where what must outlive the process is kept, if anywhere.
    pub state: Option<PathBuf>,
    /// Certificates from an ACME server.
    pub acme: Option<AcmeConfig>,
    /// Routes by the labels of containers, if they are wanted.
    pub podman: Option<PodmanConfig>,
    /// `Strict-Transport-Security` of routes that say nothing of it.
    pub hsts: Option<HeaderValue>,
    /// Routes, no two for the same host and path.
    pub routes: Vec<Arc<Route>>,
    /// Peers whose connections begin with a PROXY header.
    pub proxy_protocol: Vec<IpNet>,
    /// Peers whose forwarding headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// How long running requests may take to finish once the agent is told to stop.
    pub drain_timeout: Duration,
    /// Worker threads.
    pub workers: NonZeroUsize,
    /// How long to wait for what.
    pub timeouts: Timeouts,
    /// How often requests are sent again.
    pub retries: Retries,
    /// The shortest time that any request waits for its upstream: how finely clocks have to go.
    pub shortest_wait: Duration,
    /// When endpoints are left out.
    pub passive_health: PassiveHealth,
    /// How much to take.
    pub limits: Limits,
    /// What to log.
    pub log: Log,
    /// Where to answer the operator.
    pub admin: AdminConfig,
    /// Whether the configuration is loaded anew when its files change.
    pub watch: bool,
}

impl Config {
    /// Whether the forwarding headers of `peer` are believed.
    #[must_use]
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(&peer))
    }
}

/// The addresses to accept on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Plain HTTP.
    pub http: Vec<SocketAddr>,
    /// HTTP over TLS.
    pub https: Vec<SocketAddr>,
}

/// How names are looked up and how long answers are used.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DnsConfig {
    /// DNS servers; none means those of `/etc/resolv.conf`.
    #[serde(deserialize_with = "units::dns_servers")]
    #[schemars(with = "schema::OneOrMany<String>")]
    pub servers: Vec<SocketAddr>,
    /// The domain that upstream names without a dot are in.
    #[serde(deserialize_with = "units::domain")]
    #[schemars(with = "Option<String>")]
    pub search: Option<String>,
    /// The shortest time that an answer is used, also one that says there is nothing by a name.
    #[serde(deserialize_with = "units::positive_duration")]
    #[schemars(with = "schema::Duration")]
    pub min_ttl: Duration,
    /// The longest time that an answer is used.
    #[serde(deserialize_with = "units::positive_duration")]
    #[schemars(with = "schema::Duration")]
    pub max_ttl: Duration,
    /// How long the last good answer serves while DNS fails.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "schema::Duration")]
    pub stale: Duration,
    /// How long one query waits for its answer.
    #[serde(deserialize_with = "units::positive_duration")]
    #[schemars(with = "schema::Duration")]
    pub timeout: Duration,
    /// How many times a query is sent before the look-up fails.
    #[serde(deserialize_with = "units::count")]
    pub attempts: usize,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            search: None,
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(10),
            stale: Duration::from_mins(5),
            timeout: Duration::from_secs(2),
            attempts: 2,
        }
    }
}

/// A certificate chain and its private key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateFiles {
    /// The chain, the server's own certificate first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// How long to wait before giving up.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// For a request's whole header section, and for a TLS handshake.
    #[serde(deserialize_with = "units::positive_duration")]
    #[schemars(with = "schema::Duration")]
    pub header: Duration,
    /// For the next request on a client connection.
    #[serde(deserialize_with = "units::positive_duration")]
    #[schemars(with = "schema::Duration")]
    pub idle: Duration,
    /// Between two pieces of a body, either way.
    #[serde(deserialize_with = "units::positive_duration")]
    #[schemars(with = "schema::Duration")]
    pub body: Duration,
    /// For a response to begin once the client has closed its half of the connection.
    #[serde(deserialize_with = "units::positive_duration")]
    #[schemars(with = "schema::Duration")]
    pub half_closed: Duration,
    /// For a connection to an endpoint, with its TLS handshake.
    #[serde(deserialize_with = "units::positive_duration")]
    #[schemars(with = "schema::Duration")]
    pub connect: Duration,
    /// Before another endpoint is tried beside one that doesn't answer (RFC 8305, "Connection Attempt Delay").
    #[serde(deserialize_with = "units::positive_duration")]
    #[schemars(with = "schema::Duration")]
    pub attempt_delay: Duration,
    /// For the first byte of an upstream's response.
    #[serde(deserialize_with = "units::positive_duration")]
    #[schemars(with = "schema::Duration")]
    pub response: Duration,
    /// For an upstream to ask for a body that its client sends only then (`Expect: 100-continue`); 0: the agent asks for it.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "schema::Duration")]
    pub expect: Duration,
    /// For either side of an upgraded connection to send something.
    #[serde(deserialize_with = "units::positive_duration")]
    #[schemars(with = "schema::Duration")]
    pub tunnel: Duration,
    /// Before an unused upstream connection is closed.
    #[serde(deserialize_with = "units::positive_duration")]
    #[schemars(with = "schema::Duration")]
    pub upstream_idle: Duration,
}

impl Timeouts {
    /// The shortest of those that a client's connection has.
    #[must_use]
    pub fn shortest_for_clients(&self) -> Duration {
        self.header.min(self.idle).min(self.body).min(self.half_closed)
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            header: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            body: Duration::from_mins(1),
            half_closed: Duration::from_secs(5),
            connect: Duration::from_secs(2),
            attempt_delay: Duration::from_millis(250),
            response: Duration::from_mins(1),
            expect: Duration::from_secs(1),
            tunnel: Duration::from_hours(1),
            upstream_idle: Duration::from_secs(30),
        }
    }
}

/// How much to take before refusing.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Client connections of the whole process.
    #[serde(deserialize_with = "units::count")]
    pub connections: usize,
    /// Memory that the process may hold before it refuses connections and requests, at least 16 MiB; by default 80 % of what its control
    /// group may have.
    #[schemars(with = "Option<schema::Memory>")]
    pub memory: MemoryLimit,
    /// Times that a request may come by that has come by before.
    #[serde(deserialize_with = "units::count")]
    pub passes: usize,
    /// Bytes in a message's header section, and in all interim responses to a request; at least 8 KiB.
    #[serde(deserialize_with = "units::header_bytes")]
    #[schemars(with = "schema::Size")]
    pub header_bytes: usize,
    /// Fields in a message's header section.
    #[serde(deserialize_with = "units::count")]
    pub headers: usize,
    /// Requests that a client connection serves before it ends.
    #[serde(deserialize_with = "units::count")]
    pub requests: u32,
    /// Concurrent HTTP/2 streams of a client connection.
    #[serde(deserialize_with = "units::count")]
    pub streams: u32,
    /// Bytes in a request's body; `None`: no limit.
    #[serde(deserialize_with = "units::body_bytes")]
    #[schemars(with = "Option<schema::Size>")]
    pub body_bytes: Option<u64>,
    /// Connections of one client address; a trusted proxy has no such limit.
    #[serde(deserialize_with = "units::count")]
    pub client_connections: usize,
    /// Bits of an IPv6 address that are one client's.
    #[serde(deserialize_with = "units::ipv6_prefix")]
    pub client_prefix: u8,
    /// Bytes a second that a client must send of a body or take of a response, on average; 0: any.
    #[serde(deserialize_with = "units::rate")]
    #[schemars(with = "schema::Size")]
    pub client_rate: u32,
    /// Requests being served at once, for each worker.
    #[serde(deserialize_with = "units::count")]
    pub requests_in_flight: usize,
    /// Requests of an HTTP/2 connection that the client gives up within a minute.
    #[serde(deserialize_with = "units::count")]
    pub resets: u32,
    /// Connections to one endpoint, for each worker.
    #[serde(deserialize_with = "units::count")]
    pub upstream_connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            memory: MemoryLimit::default(),
            passes: 3,
            header_bytes: 64 << 10,
            headers: 100,
            requests: 10_000,
            streams: 128,
            body_bytes: None,
            client_connections: 4096,
            client_prefix: 64,
            client_rate: 128,
            requests_in_flight: 8192,
            resets: 200,
            upstream_connections: 256,
        }
    }
}
