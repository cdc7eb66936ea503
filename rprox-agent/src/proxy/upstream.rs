//! Upstreams: the names that routes lead to.

#![forbid(unsafe_code)]

/// How to speak to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS, by prior knowledge (RFC 9113 section 3.3).
    H2c,
}

/// A name and port that serve a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// Absolute and in lower case, `container-registry.dns.podman.`, or an IP address.
    pub name: String,
    /// The port; `None`: SRV records say.
    pub port: Option<u16>,
    /// How to speak to it.
    pub protocol: Protocol,
    /// The name and port as the configuration has them, for logs.
    pub authority: String,
}
