//! What upstreams are told about the client: `X-Forwarded-*` and `Forwarded` (RFC 7239).

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::IpAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{FORWARDED, HeaderName};
use http::{HeaderMap, HeaderValue};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// The bytes of `for="[…]";proto=https`, the address as long as one can be.
const LONGEST_PREFIX: usize = 64;

/// A connection's forwarding fields. What they say hardly changes from one request to the next, so it is made once.
pub struct Forwarding {
    address: HeaderValue,
    proto: HeaderValue,
    /// `for=…;proto=…`, to which the host is added.
    prefix: HeaderValue,
    last: RefCell<Option<(HeaderValue, HeaderValue)>>,
}

impl Forwarding {
    /// For a connection from `peer`.
    #[must_use]
    pub fn new(peer: IpAddr, secure: bool) -> Self {
        let proto = if secure { "https" } else { "http" };
        let (open, close) = if peer.is_ipv6() { ("for=\"[", "]\"") } else { ("for=", "") };
        let mut prefix = BytesMut::with_capacity(LONGEST_PREFIX);
        prefix.put_slice(open.as_bytes());
        // Never fails: there is always room.
        let _ = write!(prefix, "{peer}");
        let address = open.len()..prefix.len();
        for part in [close, ";proto=", proto] {
            prefix.put_slice(part.as_bytes());
        }
        let prefix = prefix.freeze();
        Self {
            address: visible(prefix.slice(address)),
            proto: HeaderValue::from_static(proto),
            prefix: visible(prefix),
            last: RefCell::new(None),
        }
    }

    /// Sets the fields of a request for `authority`: those of a peer that is `trusted` with what it says about its own
    /// clients are kept and extended, anybody else's replaced.
    pub fn apply(&self, headers: &mut HeaderMap, authority: &HeaderValue, trusted: bool) {
        let forwarded = self.forwarded(authority);
        if trusted {
            extend(headers, FOR, &self.address);
            extend(headers, FORWARDED, &forwarded);
            headers.entry(PROTO).or_insert_with(|| self.proto.clone());
            if !authority.is_empty() {
                headers.entry(HOST).or_insert_with(|| authority.clone());
            }
        } else {
            headers.insert(FOR, self.address.clone());
            headers.insert(FORWARDED, forwarded);
            headers.insert(PROTO, self.proto.clone());
            headers.insert(HOST, authority.clone());
            if authority.is_empty() {
                headers.remove(HOST);
            }
            headers.remove(PORT);
            headers.remove(REAL_IP);
        }
    }

    fn forwarded(&self, authority: &HeaderValue) -> HeaderValue {
        let mut last = self.last.borrow_mut();
        match &*last {
            Some((host, forwarded)) if host == authority => forwarded.clone(),
            _ => {
                // A checked authority holds neither quote nor backslash, so it needs no escapes.
                let forwarded = if authority.is_empty() {
                    self.prefix.clone()
                } else {
                    visible(
                        [self.prefix.as_bytes(), b";host=\"", authority.as_bytes(), b"\""].concat().into(),
                    )
                };
                *last = Some((authority.clone(), forwarded.clone()));
                forwarded
            }
        }
    }
}

/// Adds `value` at the end of the list that the field is, over however many lines it goes.
fn extend(headers: &mut HeaderMap, name: HeaderName, value: &HeaderValue) {
    let mut list = BytesMut::new();
    for earlier in headers.get_all(&name) {
        list.put_slice(earlier.as_bytes());
        list.put_slice(b", ");
    }
    list.put_slice(value.as_bytes());
    // Made of header values, and so one.
    if let Ok(list) = HeaderValue::from_maybe_shared(list.freeze()) {
        headers.insert(name, list);
    }
}

fn visible(text: Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(text).unwrap_or(HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(peer: &str, secure: bool, trusted: bool, fields: &[(&HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let forwarding = Forwarding::new(peer.parse().unwrap(), secure);
        forwarding.apply(&mut headers, &HeaderValue::from_static("a.example:8443"), trusted);
        headers
    }

    #[test]
    fn a_stranger_s_fields_are_replaced() {
        let claims = [
            (&FOR, "6.6.6.6"),
            (&FORWARDED, "for=6.6.6.6"),
            (&PROTO, "https"),
            (&HOST, "x"),
            (&REAL_IP, "6"),
        ];
        let headers = apply("192.0.2.1", false, false, &claims);
        assert_eq!(headers[FOR], "192.0.2.1");
        assert_eq!(headers[PROTO], "http");
        assert_eq!(headers[HOST], "a.example:8443");
        assert_eq!(headers[FORWARDED], "for=192.0.2.1;proto=http;host=\"a.example:8443\"");
        assert!(!headers.contains_key(REAL_IP));
        assert_eq!(headers.len(), 4);
    }

    #[test]
    fn a_trusted_proxy_s_fields_are_extended() {
        let claims = [
            (&FOR, "198.51.100.7"),
            (&FOR, "198.51.100.8"),
            (&FORWARDED, "for=198.51.100.7;proto=https"),
            (&PROTO, "https"),
            (&HOST, "b.example"),
        ];
        let headers = apply("192.0.2.1", false, true, &claims);
        assert_eq!(headers[FOR], "198.51.100.7, 198.51.100.8, 192.0.2.1");
        assert_eq!(headers[PROTO], "https");
        assert_eq!(headers[HOST], "b.example");
        let forwarded = "for=198.51.100.7;proto=https, for=192.0.2.1;proto=http;host=\"a.example:8443\"";
        assert_eq!(headers[FORWARDED], forwarded);
    }

    #[test]
    fn a_trusted_proxy_that_says_nothing_is_the_client() {
        let headers = apply("192.0.2.1", true, true, &[]);
        assert_eq!(headers[FOR], "192.0.2.1");
        assert_eq!(headers[PROTO], "https");
        assert_eq!(headers[HOST], "a.example:8443");
    }

    #[test]
    fn ipv6_is_in_brackets_and_quotes_where_rfc_7239_wants_them() {
        let headers = apply("2001:db8::1", true, false, &[]);
        assert_eq!(headers[FOR], "2001:db8::1");
        assert_eq!(headers[FORWARDED], "for=\"[2001:db8::1]\";proto=https;host=\"a.example:8443\"");
    }
}
