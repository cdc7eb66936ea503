//! Requests' heads as clients send them (RFC 9112 sections 2 to 6).
//!
//! RFC 9112 lets a recipient take several `Content-Length` that say the same, or one beside `Transfer-Encoding`. Whoever stands
//! before us may read that differently, so here it is refused.

#![forbid(unsafe_code)]

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TE, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version};
use httparse::{Header, ParserConfig};

use crate::proxy::forward::headers::{self, tokens};
use crate::proxy::http1::Flaw;
use crate::proxy::http1::fields::{self, FIELDS};
use crate::proxy::http1::persistence::Persistence;

/// A longer target does not fit into the type for it.
const TARGET_BYTES: usize = (u16::MAX - 1) as usize;

/// What a client asks, and what its connection has to know of that.
pub(super) struct Head {
    /// The request's own.
    pub(super) parts: Box<Parts>,
    /// What comes behind it.
    pub(super) body: Body,
    /// Whether another request may follow.
    pub(super) keeps_alive: bool,
    /// Whether the client takes trailers.
    pub(super) takes_trailers: bool,
}

/// How a request's body is told from what follows it (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// So many bytes; may be none.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// Why a request is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// It is no HTTP/1.1, or could be read in two ways.
    #[error("the request is malformed: {0}")]
    Malformed(&'static str),
    /// It is beyond `limits.header_bytes` or `limits.headers`.
    #[error("the request's header section is too large")]
    TooLarge,
    /// Its target is beyond 65,534 bytes.
    #[error("the request's target is too long")]
    TargetTooLong,
}

impl Refusal {
    /// The status to answer with.
    #[must_use]
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
        }
    }
}

impl From<Flaw> for Refusal {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Malformed(what) => Self::Malformed(what),
            Flaw::TooLarge => Self::TooLarge,
        }
    }
}

/// Reads a whole `head`, which may have so many `fields`.
///
/// # Errors
///
/// When the request is not to be served.
pub(super) fn read(head: &Bytes, fields: usize) -> Result<Head, Refusal> {
    let mut usual = [const { MaybeUninit::uninit() }; FIELDS];
    match usual.get_mut(..fields) {
        Some(space) => read_into(head, space),
        None => read_into(head, &mut vec![MaybeUninit::uninit(); fields]),
    }
}

fn read_into<'h>(head: &'h Bytes, space: &mut [MaybeUninit<Header<'h>>]) -> Result<Head, Refusal> {
    let mut parsed = httparse::Request::new(&mut []);
    match ParserConfig::default().parse_request_with_uninit_headers(&mut parsed, head, space) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(Refusal::Malformed("an empty line inside of the head")),
        Err(error) => return Err(Flaw::from(error).into()),
    }
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else {
        return Err(Refusal::Malformed("its first line"));
    };
    if target.len() > TARGET_BYTES {
        return Err(Refusal::TargetTooLong);
    }
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Refusal::Malformed("its method"))?;
    let target = Uri::from_maybe_shared(head.slice_ref(target.as_bytes()));
    let target = target.map_err(|_| Refusal::Malformed("its target"))?;
    let is_1_0 = parsed.version == Some(0);
    let mut framing = Framing::default();
    // `Via` comes to them, for which the map would have to grow.
    let mut headers = HeaderMap::with_capacity(parsed.headers.len() + 1);
    for field in &*parsed.headers {
        let (name, value) = fields::read(head, field)?;
        framing.hear(&name, &value)?;
        headers.append(name, value);
    }
    let body = framing.body(is_1_0)?;
    let keeps_alive = framing.persistence.keeps_alive(is_1_0);
    let takes_trailers = framing.has_te && headers::accepts_trailers(&headers);
    let mut parts = Box::new(Request::new(()).into_parts().0);
    parts.method = method;
    parts.uri = target;
    parts.version = if is_1_0 { Version::HTTP_10 } else { Version::HTTP_11 };
    parts.headers = headers;
    Ok(Head { parts, body, keeps_alive, takes_trailers })
}

/// What the fields say of where the message ends, and the connection.
#[derive(Default)]
struct Framing {
    body: Option<Body>,
    persistence: Persistence,
    has_te: bool,
}

impl Framing {
    fn hear(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<(), Refusal> {
        if name == CONNECTION {
            self.persistence.hear(value);
            return Ok(());
        }
        self.has_te |= name == TE;
        let body = if name == CONTENT_LENGTH {
            Body::Length(length(value).ok_or(Refusal::Malformed("its Content-Length is no number"))?)
        } else if name == TRANSFER_ENCODING {
            // Whether it is chunked alone, the routes' side looks.
            let is_chunked =
                tokens(value).last().is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
            is_chunked.then_some(Body::Chunked).ok_or(Refusal::Malformed("its body's end can't be told"))?
        } else {
            return Ok(());
        };
        match self.body.replace(body) {
            None => Ok(()),
            Some(_) => Err(Refusal::Malformed("more than one Content-Length or Transfer-Encoding")),
        }
    }

    fn body(&self, is_1_0: bool) -> Result<Body, Refusal> {
        match self.body {
            // RFC 9112 section 6.1: its framing is faulty.
            Some(Body::Chunked) if is_1_0 => Err(Refusal::Malformed("Transfer-Encoding before version 1.1")),
            body => Ok(body.unwrap_or(Body::Length(0))),
        }
    }
}

fn length(value: &HeaderValue) -> Option<u64> {
    let digits = value.to_str().ok()?;
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // No body is longer than the offsets of files.
    digits.parse().ok().filter(|length| is_number && i64::try_from(*length).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Head, Refusal> {
        read(&Bytes::copy_from_slice(format!("{text}\r\n\r\n").as_bytes()), 100)
    }

    #[test]
    fn where_a_request_ends_and_its_connection() {
        use Body::{Chunked, Length};
        for (text, expected) in [
            ("GET / HTTP/1.1", Some((Length(0), true))),
            ("GET / HTTP/1.1\r\nConnection: x, Close", Some((Length(0), false))),
            ("GET / HTTP/1.1\r\nConnection: close\r\nConnection: keep-alive", Some((Length(0), false))),
            ("GET / HTTP/1.0", Some((Length(0), false))),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive", Some((Length(0), true))),
            ("POST / HTTP/1.1\r\nContent-Length: 5", Some((Length(5), true))),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip, Chunked", Some((Chunked, true))),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip", None),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked", None),
            ("POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5", None),
            ("POST / HTTP/1.1\r\nContent-Length: 5, 5", None),
            ("POST / HTTP/1.1\r\nContent-Length: +5", None),
            ("POST / HTTP/1.1\r\nContent-Length:", None),
            ("POST / HTTP/1.1\r\nContent-Length: 9223372036854775808", None),
            ("POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked", None),
        ] {
            let found = head(text).ok().map(|head| (head.body, head.keeps_alive));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn what_is_too_much_is_told_from_what_is_wrong() {
        let refused = |text: &str| head(text).err();
        let many = |fields: usize| format!("GET / HTTP/1.1{}", "\r\nA: b".repeat(fields));
        assert_eq!(refused(&many(100)), None);
        assert_eq!(refused(&many(101)), Some(Refusal::TooLarge));
        let target = |bytes: usize| format!("GET /{} HTTP/1.1", "x".repeat(bytes - 1));
        assert_eq!(refused(&target(TARGET_BYTES)), None);
        assert_eq!(refused(&target(TARGET_BYTES + 1)), Some(Refusal::TargetTooLong));
        for bad in [
            "GET /",
            "GET / HTTP/2.0",
            "G@T / HTTP/1.1",
            "GET / HTTP/1.1\r\n A: b",
            "GET / HTTP/1.1\r\nA : b",
        ] {
            assert!(matches!(refused(bad), Some(Refusal::Malformed(_))), "{bad}");
        }
    }
}
