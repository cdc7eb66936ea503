//! What upstreams are told about the client: `X-Forwarded-*` and `Forwarded` (RFC 7239).

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io::Write as _;
use std::net::IpAddr;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{FORWARDED, HeaderName};
use http::{HeaderMap, HeaderValue};

use super::headers;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// The bytes of a request's lines without its authority, the address as long as one can be.
const LONGEST_LINES: usize = 256;

/// A connection's forwarding fields. What they say hardly changes from one request to the next, so it is made once.
pub struct Forwarding {
    peer: IpAddr,
    secure: bool,
    last: RefCell<Option<Rc<Forwarded>>>,
}

/// The fields of one request, which stay beside its own until it is sent. They keep nothing of the request, for they stay with its
/// connection.
pub struct Forwarded {
    /// As HTTP/1.1 writes them, one for each of [`NAMES`], the last only where there is an authority.
    lines: Bytes,
    /// Where in them it is.
    authority: Range<usize>,
}

/// What a request is told of by [`Forwarded`].
const NAMES: [HeaderName; 4] = [FOR, FORWARDED, PROTO, HOST];

impl Forwarded {
    fn new(forwarding: &Forwarding, authority: &HeaderValue) -> Self {
        let mut lines = Vec::with_capacity(LONGEST_LINES + 2 * authority.len());
        line(&FOR, &mut lines, |lines| forwarding.write_address(lines));
        line(&FORWARDED, &mut lines, |lines| forwarding.write_element(authority, lines));
        line(&PROTO, &mut lines, |lines| lines.extend_from_slice(forwarding.proto().as_bytes()));
        if !authority.is_empty() {
            line(&HOST, &mut lines, |lines| lines.extend_from_slice(authority.as_bytes()));
        }
        let end = lines.len() - b"\r\n".len();
        let authority = end - authority.len()..end;
        Self { lines: lines.into_boxed_slice().into(), authority }
    }

    fn is_of(&self, authority: &HeaderValue) -> bool {
        &self.lines[self.authority.clone()] == authority.as_bytes()
    }

    /// As HTTP/1.1 writes them.
    #[must_use]
    pub fn lines(&self) -> &[u8] {
        &self.lines
    }

    /// Puts them among a request's own.
    pub fn insert(&self, headers: &mut HeaderMap) {
        for (name, line) in NAMES.iter().zip(self.lines.split(|byte| *byte == b'\n')) {
            let value = line.get(name.as_str().len() + b": ".len()..);
            if let Some(value) = value.and_then(|value| value.strip_suffix(b"\r")) {
                headers.insert(name, visible(self.lines.slice_ref(value)));
            }
        }
    }
}

impl Forwarding {
    /// For a connection from `peer`.
    #[must_use]
    pub fn new(peer: IpAddr, secure: bool) -> Self {
        Self { peer, secure, last: RefCell::new(None) }
    }

    /// The fields of a request for `authority`. What a peer says about its own clients that is `trusted` with that is kept and
    /// extended, where it stands; anybody else's goes, and ours is returned, to be sent with the rest.
    #[must_use]
    pub fn apply(
        &self,
        headers: &mut HeaderMap,
        authority: &HeaderValue,
        trusted: bool,
    ) -> Option<Rc<Forwarded>> {
        if !trusted {
            remove_claims(headers);
            return Some(self.all(authority));
        }
        extend(headers, FOR, |list| self.write_address(list));
        extend(headers, FORWARDED, |list| self.write_element(authority, list));
        headers.entry(PROTO).or_insert_with(|| HeaderValue::from_static(self.proto()));
        if !authority.is_empty() {
            headers.entry(HOST).or_insert_with(|| authority.clone());
        }
        None
    }

    fn all(&self, authority: &HeaderValue) -> Rc<Forwarded> {
        let mut last = self.last.borrow_mut();
        if let Some(last) = last.as_ref().filter(|last| last.is_of(authority)) {
            return Rc::clone(last);
        }
        Rc::clone(last.insert(Rc::new(Forwarded::new(self, authority))))
    }

    fn proto(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    fn write_address(&self, into: &mut Vec<u8>) {
        // Memory takes whatever it is given.
        let _ = write!(into, "{}", self.peer);
    }

    /// This hop's element of `Forwarded`.
    fn write_element(&self, authority: &HeaderValue, into: &mut Vec<u8>) {
        let (open, close) = if self.peer.is_ipv6() { ("for=\"[", "]\"") } else { ("for=", "") };
        into.extend_from_slice(open.as_bytes());
        self.write_address(into);
        for part in [close, ";proto=", self.proto()] {
            into.extend_from_slice(part.as_bytes());
        }
        if !authority.is_empty() {
            // A checked authority holds neither quote nor backslash, so it needs no escapes.
            into.extend_from_slice(b";host=\"");
            into.extend_from_slice(authority.as_bytes());
            into.push(b'"');
        }
    }
}

/// Takes off what only a trusted proxy may say.
pub fn remove_claims(headers: &mut HeaderMap) {
    headers::remove_all(headers, [FOR, FORWARDED, PROTO, HOST, PORT, REAL_IP]);
}

/// Writes a field's line, whose value `write` writes.
fn line(name: &HeaderName, lines: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    lines.extend_from_slice(name.as_str().as_bytes());
    lines.extend_from_slice(b": ");
    write(lines);
    lines.extend_from_slice(b"\r\n");
}

/// Adds what `write` writes at the end of the list that the field is, over however many lines it goes.
fn extend(headers: &mut HeaderMap, name: HeaderName, write: impl FnOnce(&mut Vec<u8>)) {
    let mut list = Vec::new();
    for earlier in headers.get_all(&name) {
        list.extend_from_slice(earlier.as_bytes());
        list.extend_from_slice(b", ");
    }
    write(&mut list);
    // Made of header values, and so one.
    if let Ok(list) = HeaderValue::from_maybe_shared(Bytes::from(list)) {
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
        let authority = HeaderValue::from_static("a.example:8443");
        if let Some(forwarded) = forwarding.apply(&mut headers, &authority, trusted) {
            let names = [FOR, FORWARDED, PROTO, HOST, PORT, REAL_IP];
            assert!(names.iter().all(|name| !headers.contains_key(name)), "{headers:?}");
            forwarded.insert(&mut headers);
            let lines = String::from_utf8(forwarded.lines().to_vec()).unwrap();
            let written = lines.lines().filter_map(|line| line.split_once(": "));
            assert!(written.eq(headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap()))));
        }
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
