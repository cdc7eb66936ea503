//! The validated configuration: what the agent does, whole and free of contradictions.

#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::cli::LogFormat;
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
    /// Routes, in the file's order.
    pub routes: Vec<Route>,
    /// Peers whose forwarding headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// How long running requests may take to finish once the agent is told to stop.
    pub drain_timeout: Duration,
    /// Worker threads.
    pub workers: NonZeroUsize,
    /// How long to wait for what.
    pub timeouts: Timeouts,
    /// How much to take.
    pub limits: Limits,
    /// What to log.
    pub log: Log,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// DNS servers; none means those of `/etc/resolv.conf`.
    pub servers: Vec<SocketAddr>,
    /// The domain that upstream names without a dot are in.
    pub search: Option<String>,
    /// The shortest time that an answer is used.
    pub min_ttl: Duration,
    /// The longest time that an answer is used.
    pub max_ttl: Duration,
    /// How long the last good answer serves while DNS fails.
    pub stale: Duration,
    /// How long one query waits for its answer.
    pub timeout: Duration,
    /// How many times a query is sent before the look-up fails.
    pub attempts: usize,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a request's whole header section, and for a TLS handshake.
    pub header: Duration,
    /// For the next request on a client connection.
    pub idle: Duration,
    /// Between two pieces of a body, either way.
    pub body: Duration,
    /// For a connection to an endpoint.
    pub connect: Duration,
    /// For the first byte of an upstream's response.
    pub response: Duration,
    /// Before an unused upstream connection is closed.
    pub upstream_idle: Duration,
}

/// How much to take before refusing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Client connections of the whole process.
    pub connections: usize,
    /// Bytes in a message's header section.
    pub header_bytes: usize,
    /// Fields in a message's header section.
    pub headers: usize,
    /// Concurrent HTTP/2 streams of a client connection.
    pub streams: u32,
    /// Bytes in a request's body; `None`: no limit.
    pub body_bytes: Option<u64>,
    /// Connections to one endpoint, for each worker.
    pub upstream_connections: usize,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A level or an `EnvFilter` directive list.
    pub level: String,
    /// Text or JSON.
    pub format: LogFormat,
    /// Whether each request gets a line.
    pub access: bool,
}
