//! Heads on the wire (RFC 9112 sections 2 to 5): the request's written, the response's read.

#![forbid(unsafe_code)]

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use httparse::ParserConfig;
use hyper::body::Body as _;
use hyper::ext::ReasonPhrase;

use super::error::Error;
use crate::proxy::forward::body::RequestBody;
use crate::proxy::forward::headers::tokens;
use crate::proxy::http1::Flaw;
use crate::proxy::http1::fields::{self, FIELDS};
use crate::proxy::http1::persistence::Persistence;

/// How a message's body is told from what follows it (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// So many bytes; may be none.
    Exact(u64),
    Chunked,
    /// It ends with the connection.
    UntilClose,
}

impl Length {
    /// A request's; `None`: it has no body.
    pub(super) fn of(body: &RequestBody) -> Option<Self> {
        if body.is_none() {
            return None;
        }
        Some(body.size_hint().exact().map_or(Self::Chunked, Self::Exact))
    }
}

/// Writes a request's head, with the lines of `more` fields. Whatever its own say, the body's `length` is what is written of it: there is one opinion on where it ends.
pub(super) fn write(request: &Parts, more: &[u8], length: Option<Length>, into: &mut Vec<u8>) {
    let target = request.uri.path_and_query().map_or("/", |target| target.as_str());
    into.extend_from_slice(request.method.as_str().as_bytes());
    into.push(b' ');
    if !target.starts_with(['/', '*']) {
        into.push(b'/');
    }
    into.extend_from_slice(target.as_bytes());
    into.extend_from_slice(b" HTTP/1.1\r\n");
    let mut exact = match length {
        Some(Length::Exact(length)) => Some(length),
        Some(_) => None,
        None => request.headers.contains_key(CONTENT_LENGTH).then_some(0),
    };
    for (name, value) in &request.headers {
        if name == CONTENT_LENGTH {
            if let Some(length) = exact.take() {
                fields::write_length(length, into);
            }
        } else if name != TRANSFER_ENCODING {
            fields::write(name, value, into);
        }
    }
    into.extend_from_slice(more);
    if let Some(length) = exact {
        fields::write_length(length, into);
    }
    if length == Some(Length::Chunked) {
        fields::write(&TRANSFER_ENCODING, &HeaderValue::from_static("chunked"), into);
    }
    into.extend_from_slice(b"\r\n");
}

/// A response's head.
pub(super) struct Head {
    pub(super) response: Response<()>,
    pub(super) length: Length,
    /// Whether the connection can serve another request after it.
    pub(super) keeps_alive: bool,
}

/// Reads the whole `head` of a response to a request by `method`.
pub(super) fn read(head: &Bytes, method: &Method) -> Result<Head, Error> {
    let mut space = [const { MaybeUninit::uninit() }; FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let outcome = ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, head, &mut space);
    match outcome {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(Error::Malformed("an empty line where a status line should be")),
        Err(error) => return Err(Flaw::from(error).into()),
    }
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Error::Malformed("its status is not from 100 to 999"))?;
    let is_1_0 = parsed.version == Some(0);
    let mut framing = Framing::default();
    let mut headers = HeaderMap::with_capacity(parsed.headers.len());
    for field in &*parsed.headers {
        let (name, value) = fields::read(head, field)?;
        framing.hear(&name, &value);
        headers.append(name, value);
    }
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = if is_1_0 { Version::HTTP_10 } else { Version::HTTP_11 };
    *response.headers_mut() = headers;
    if let Some(reason) = parsed.reason.filter(|reason| status.canonical_reason() != Some(reason))
        && let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes().to_vec())
    {
        response.extensions_mut().insert(reason);
    }
    let bodiless =
        method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let length = match framing {
        // Before a response it says nothing, and is left out.
        _ if status.is_informational() => Length::Exact(0),
        Framing { contradicts: true, .. } => {
            return Err(Error::Malformed("its Content-Length is not one number"));
        }
        // RFC 9112 section 6.1: its framing is faulty.
        Framing { coded: true, .. } if is_1_0 => {
            return Err(Error::Malformed("Transfer-Encoding in HTTP/1.0"));
        }
        _ if bodiless => Length::Exact(0),
        // Which coding it is, and that no length is beside it, is seen to where the response is made one for the client.
        Framing { coded: true, .. } => Length::Chunked,
        Framing { length: Some(length), .. } => Length::Exact(length),
        Framing { length: None, .. } => Length::UntilClose,
    };
    let keeps_alive = framing.persistence.keeps_alive(is_1_0) && length != Length::UntilClose;
    Ok(Head { response, length, keeps_alive })
}

/// What the fields say of where the message ends, and the connection.
#[derive(Default)]
struct Framing {
    length: Option<u64>,
    /// Whether that is not what all of them say.
    contradicts: bool,
    coded: bool,
    persistence: Persistence,
}

impl Framing {
    fn hear(&mut self, name: &HeaderName, value: &HeaderValue) {
        if name == CONTENT_LENGTH {
            let length = length(value);
            self.contradicts |= length.is_none() || self.length.is_some_and(|other| Some(other) != length);
            self.length = length;
        } else if name == TRANSFER_ENCODING {
            self.coded = true;
        } else if name == CONNECTION {
            self.persistence.hear(value);
        }
    }
}

/// The number that the value is, or each of its list (RFC 9110 section 8.6).
fn length(value: &HeaderValue) -> Option<u64> {
    let mut numbers = tokens(value).map(|digits| {
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<u64>().ok().filter(|_| plain)
    });
    let first = numbers.next()??;
    numbers.all(|number| number == Some(first)).then_some(first)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn written(fields: &[(&'static str, &'static str)], length: Option<Length>) -> String {
        let mut request = Request::builder().method(Method::POST).uri("/a?b");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut head = Vec::new();
        write(&request.body(()).unwrap().into_parts().0, b"a: b\r\n", length, &mut head);
        String::from_utf8(head).unwrap()
    }

    #[test]
    fn what_is_written_of_a_body_s_length_is_how_it_is_sent() {
        let lying =
            [("content-length", "7"), ("transfer-encoding", "gzip"), ("x", "y"), ("content-length", "8")];
        let head = |rest: &str| format!("POST /a?b HTTP/1.1\r\n{rest}\r\n");
        assert_eq!(written(&lying, Some(Length::Exact(5))), head("content-length: 5\r\nx: y\r\na: b\r\n"));
        assert_eq!(
            written(&lying, Some(Length::Chunked)),
            head("x: y\r\na: b\r\ntransfer-encoding: chunked\r\n")
        );
        assert_eq!(written(&lying, None), head("content-length: 0\r\nx: y\r\na: b\r\n"));
        assert_eq!(
            written(&[("x", "y")], Some(Length::Exact(5))),
            head("x: y\r\na: b\r\ncontent-length: 5\r\n")
        );
        assert_eq!(written(&[("x", "y")], None), head("x: y\r\na: b\r\n"));
    }

    fn length_of(method: &Method, head: &str) -> Option<(Length, bool)> {
        let head = read(&Bytes::copy_from_slice(format!("{head}\r\n\r\n").as_bytes()), method).ok()?;
        Some((head.length, head.keeps_alive))
    }

    #[test]
    fn where_a_response_ends_and_its_connection() {
        use Length::{Chunked, Exact, UntilClose};
        for (head, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5", Some((Exact(5), true))),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: x, Close", Some((Exact(5), false))),
            ("HTTP/1.0 200 OK\r\nContent-Length: 5", Some((Exact(5), false))),
            ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: Keep-Alive", Some((Exact(5), true))),
            ("HTTP/1.1 200 OK", Some((UntilClose, false))),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", Some((Chunked, true))),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked", None),
            ("HTTP/1.1 204 No Content", Some((Exact(0), true))),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5", Some((Exact(0), true))),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6", None),
            ("HTTP/1.1 103 Early Hints\r\nContent-Length: x", Some((Exact(0), true))),
            ("", None),
        ] {
            assert_eq!(length_of(&Method::GET, head), expected, "{head}");
        }
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 5";
        assert_eq!(length_of(&Method::HEAD, head), Some((Exact(0), true)));
    }
}
