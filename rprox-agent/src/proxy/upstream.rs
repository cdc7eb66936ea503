//! Upstreams: the names that routes lead to.

#![forbid(unsafe_code)]

pub mod set;
pub mod tls;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use thiserror::Error;

use self::tls::UpstreamTls;

use super::host;

/// How to speak to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS, by prior knowledge (RFC 9113 section 3.3).
    H2c,
    /// HTTP/2 or HTTP/1.1 over TLS, whichever of them the endpoint chooses (RFC 7301).
    Https,
}

/// A name and port that serve a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// Absolute and in lower case, `container-registry.dns.podman.`, or an IP address without brackets.
    pub name: String,
    /// The port; `None`: the name's SRV records say (RFC 2782).
    pub port: Option<u16>,
    /// How to speak to it.
    pub protocol: Protocol,
    /// How to do TLS with it, where the protocol is HTTPS; set after [`parse`](Self::parse).
    pub tls: Option<Arc<UpstreamTls>>,
    /// The name and port as the configuration has them, for logs.
    pub authority: String,
}

/// Why a text is not an upstream.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum UpstreamError {
    /// A scheme that is none of ours.
    #[error("upstream {0:?}: unknown scheme; use http://, https:// or h2c://, or leave it out for HTTP/1.1")]
    Scheme(String),
    /// Something after the port.
    #[error("upstream {0:?}: write NAME:PORT and nothing after it; the request's own path is sent")]
    Path(String),
    /// A port that is none.
    #[error("upstream {0:?}: the port must be a number from 1 to 65535")]
    Port(String),
    /// An address alone.
    #[error(
        "upstream {0:?}: an address needs a port (ADDRESS:PORT, an IPv6 address in brackets); only a name has SRV records"
    )]
    AddressWithoutPort(String),
    /// A name that is none.
    #[error("upstream {0:?}: not a host name; letters, digits, '-', '_' and '.', at most 63 in a label")]
    Name(String),
}

impl Upstream {
    /// Reads `NAME:PORT`, `NAME` (its SRV records say where), `ADDRESS:PORT` or `[ADDRESS]:PORT`, each after an optional
    /// `http://`, `https://` or `h2c://`. A name without a dot is in the domain `search`, where there is one.
    ///
    /// # Errors
    ///
    /// When `text` is none of these.
    pub fn parse(text: &str, search: Option<&str>) -> Result<Self, UpstreamError> {
        let whole = || text.to_owned();
        let (protocol, authority) = match text.split_once("://") {
            None | Some(("http", _)) => (Protocol::Http1, text.strip_prefix("http://").unwrap_or(text)),
            Some(("h2c", authority)) => (Protocol::H2c, authority),
            Some(("https", authority)) => (Protocol::Https, authority),
            Some(_) => return Err(UpstreamError::Scheme(whole())),
        };
        if authority.contains(['/', '?', '#']) {
            return Err(UpstreamError::Path(whole()));
        }
        let (name, port) = split_port(authority).ok_or_else(|| UpstreamError::Port(whole()))?;
        let address = match name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(literal) => match literal.parse::<Ipv6Addr>() {
                Ok(address) => Some(IpAddr::V6(address)),
                Err(_) => return Err(UpstreamError::Name(whole())),
            },
            None => name.parse::<IpAddr>().ok(),
        };
        let name = match address {
            Some(_) if port.is_none() => return Err(UpstreamError::AddressWithoutPort(whole())),
            Some(address) => address.to_string(),
            None => absolute(name, search).ok_or_else(|| UpstreamError::Name(whole()))?,
        };
        Ok(Self { name, port, protocol, tls: None, authority: authority.to_owned() })
    }

    /// The name that a certificate of it is expected to be for, unless the configuration says another: the name as it is
    /// written, or what a service's name stands for (RFC 6125 section 6.2.1), `web` in `_https._tcp.web`.
    #[must_use]
    pub fn host(&self) -> &str {
        let mut host = split_port(&self.authority).map_or(self.authority.as_str(), |(host, _)| host);
        while let Some((_, rest)) = host.split_once('.').filter(|(label, _)| label.starts_with('_')) {
            host = rest;
        }
        host
    }

    /// The address, where the upstream is one and needs no look-up.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.name.parse().ok()
    }
}

/// The name and the port of `authority`; `None` when what stands for a port is none.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let is_bare_ipv6 = authority.parse::<Ipv6Addr>().is_ok();
    match authority.rsplit_once(':') {
        Some((name, port)) if !is_bare_ipv6 && !port.ends_with(']') => {
            let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
            Some((name, Some(port)))
        }
        _ => Some((authority, None)),
    }
}

/// `name` in lower case and with a trailing dot, in the domain `search` if it has no dot itself.
fn absolute(name: &str, search: Option<&str>) -> Option<String> {
    let mut absolute = match search {
        Some(domain) if !name.contains('.') => format!("{name}.{domain}"),
        _ => name.to_owned(),
    };
    if absolute.ends_with('.') {
        absolute.pop();
    }
    if !host::is_name(&absolute) {
        return None;
    }
    absolute.make_ascii_lowercase();
    absolute.push('.');
    Some(absolute)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (String, Option<u16>, Protocol) {
        let upstream = Upstream::parse(text, Some("dns.podman")).unwrap();
        (upstream.name, upstream.port, upstream.protocol)
    }

    #[test]
    fn every_form_is_read() {
        use Protocol::{H2c, Http1, Https};
        for (text, name, port, protocol) in [
            ("container-registry:80", "container-registry.dns.podman.", Some(80), Http1),
            ("Container-Registry.dns.Podman:80", "container-registry.dns.podman.", Some(80), Http1),
            ("web.", "web.", None, Http1),
            ("_http._tcp.web.example.com", "_http._tcp.web.example.com.", None, Http1),
            ("http://web:3000", "web.dns.podman.", Some(3000), Http1),
            ("h2c://web:3000", "web.dns.podman.", Some(3000), H2c),
            ("https://web:8443", "web.dns.podman.", Some(8443), Https),
            ("192.0.2.1:80", "192.0.2.1", Some(80), Http1),
            ("[2001:DB8::1]:80", "2001:db8::1", Some(80), Http1),
        ] {
            assert_eq!(parse(text), (name.to_owned(), port, protocol), "{text}");
        }
    }

    #[test]
    fn a_certificate_is_expected_to_be_for_the_name_as_written() {
        for (text, host) in [
            ("https://web:8443", "web"),
            ("https://_https._tcp.web.example.com", "web.example.com"),
            ("https://[::1]:443", "[::1]"),
        ] {
            assert_eq!(Upstream::parse(text, Some("dns.podman")).unwrap().host(), host);
        }
    }

    #[test]
    fn without_a_search_domain_a_bare_name_stays_bare() {
        assert_eq!(Upstream::parse("web:80", None).unwrap().name, "web.");
    }

    #[test]
    fn each_mistake_has_its_reason() {
        for (text, reason) in [
            ("h2://web:443", "unknown scheme"),
            ("ftp://web", "unknown scheme"),
            ("web:80/path", "nothing after it"),
            ("web:http", "from 1 to 65535"),
            ("web:0", "from 1 to 65535"),
            ("web:65536", "from 1 to 65535"),
            ("192.0.2.1", "needs a port"),
            ("[::1]", "needs a port"),
            ("::1", "needs a port"),
            ("", "not a host name"),
            (":80", "not a host name"),
            ("we b:80", "not a host name"),
            ("[web]:80", "not a host name"),
            ("a..b:80", "not a host name"),
        ] {
            let error = Upstream::parse(text, Some("dns.podman")).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
