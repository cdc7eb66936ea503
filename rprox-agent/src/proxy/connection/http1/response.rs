//! Responses' heads as they go to the client (RFC 9112 sections 4 and 6).

#![forbid(unsafe_code)]

use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use http::response::Parts;
use http::{HeaderValue, StatusCode, Version};
use hyper::ext::ReasonPhrase;

use crate::proxy::http1::fields;
use crate::proxy::http1::message::Coding;
use crate::proxy::http1::persistence::Persistence;
use crate::proxy::http1::trailers;

/// What of the request the response depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// What the client speaks.
    pub(super) version: Version,
    /// Whether it is for the head alone.
    pub(super) is_head: bool,
    /// Whether trailers are taken.
    pub(super) takes_trailers: bool,
    /// Whether another may follow, as far as client and server are concerned.
    pub(super) keeps_alive: bool,
}

/// What comes behind a head.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Behind {
    pub(super) has_body: bool,
    pub(super) coding: Coding,
    /// Whether the body ends with the connection.
    pub(super) until_close: bool,
    pub(super) keeps_alive: bool,
}

/// Writes the head of a response whose body has this `length`, if that is known.
pub(super) fn write(
    head: &Parts,
    length: Option<u64>,
    asked: Asked,
    date: impl FnOnce() -> HeaderValue,
    into: &mut Vec<u8>,
) -> Behind {
    let status = head.status;
    let is_1_0 = asked.version < Version::HTTP_11;
    write_status(head, is_1_0, into);
    // RFC 9110 section 8.6: no length in the first two, and of the third it could be one that is waited for.
    let has_no_length =
        matches!(status, StatusCode::SWITCHING_PROTOCOLS | StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let has_body = !(asked.is_head || has_no_length);
    let until_close = has_body && length.is_none() && is_1_0;
    let mut persistence = Persistence::default();
    let (mut is_length_said, mut is_dated, mut is_connection_said) = (has_no_length, false, false);
    for (name, value) in &head.headers {
        if name == CONTENT_LENGTH {
            // There is one opinion on where a body ends.
            if is_length_said || (has_body && length.is_none()) {
                continue;
            }
            is_length_said = true;
            if let Some(length) = length.filter(|_| has_body) {
                fields::write_length(length, into);
                continue;
            }
        } else if name == CONNECTION {
            persistence.hear(value);
            if is_1_0 {
                continue;
            }
            is_connection_said = true;
        } else if name == DATE {
            is_dated = true;
        } else if name == TRANSFER_ENCODING {
            continue;
        }
        fields::write(name, value, into);
    }
    let mut coding = Coding::Plain;
    match length {
        // Of a response to HEAD it isn't known how long the body would be, unless one is there.
        Some(length) if !is_length_said && (has_body || length > 0) => {
            fields::write_length(length, into);
        }
        None if has_body && !is_1_0 => {
            into.extend_from_slice(b"transfer-encoding: chunked\r\n");
            let announced =
                if asked.takes_trailers { trailers::announced(&head.headers) } else { Vec::new() };
            coding = Coding::Chunked(announced);
        }
        _ => {}
    }
    let keeps_alive = asked.keeps_alive && !until_close && persistence.keeps_alive(false);
    if keeps_alive && is_1_0 {
        into.extend_from_slice(b"connection: keep-alive\r\n");
    } else if !keeps_alive && !is_1_0 && !is_connection_said {
        into.extend_from_slice(b"connection: close\r\n");
    }
    if !is_dated {
        fields::write(&DATE, &date(), into);
    }
    into.extend_from_slice(b"\r\n");
    Behind { has_body: has_body && length != Some(0), coding, until_close, keeps_alive }
}

fn write_status(head: &Parts, is_1_0: bool, into: &mut Vec<u8>) {
    into.extend_from_slice(if is_1_0 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    into.extend_from_slice(head.status.as_str().as_bytes());
    into.push(b' ');
    match head.extensions.get::<ReasonPhrase>() {
        Some(reason) => into.extend_from_slice(reason.as_bytes()),
        None => into.extend_from_slice(head.status.canonical_reason().unwrap_or_default().as_bytes()),
    }
    into.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    const GET: Asked =
        Asked { version: Version::HTTP_11, is_head: false, takes_trailers: false, keeps_alive: true };

    fn written(status: u16, fields: &[(&str, &str)], length: Option<u64>, asked: Asked) -> (String, Behind) {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        let mut head = Vec::new();
        let parts = response.body(()).unwrap().into_parts().0;
        let behind = write(&parts, length, asked, || HeaderValue::from_static("now"), &mut head);
        let head = String::from_utf8(head).unwrap();
        (head.strip_suffix("\r\n\r\n").unwrap().replace("\r\n", "|"), behind)
    }

    fn plain(has_body: bool, keeps_alive: bool) -> Behind {
        Behind { has_body, coding: Coding::Plain, until_close: false, keeps_alive }
    }

    #[test]
    fn a_body_s_length_is_what_is_sent() {
        let lying = [("content-length", "7"), ("x", "y"), ("transfer-encoding", "chunked")];
        let head = |rest: &str| format!("HTTP/1.1 200 OK|{rest}|date: now");
        assert_eq!(written(200, &lying, Some(5), GET), (head("content-length: 5|x: y"), plain(true, true)));
        assert_eq!(written(200, &lying, Some(0), GET), (head("content-length: 0|x: y"), plain(false, true)));
        assert_eq!(written(200, &[], Some(5), GET), (head("content-length: 5"), plain(true, true)));
        let chunked = Behind { coding: Coding::Chunked(Vec::new()), ..plain(true, true) };
        assert_eq!(written(200, &lying, None, GET), (head("x: y|transfer-encoding: chunked"), chunked));
    }

    #[test]
    fn a_response_without_a_body_says_no_more_of_it_than_it_may() {
        let long = [("content-length", "7")];
        let head = Asked { is_head: true, ..GET };
        for (status, asked, length, expected) in [
            (200, head, Some(0), "HTTP/1.1 200 OK|content-length: 7|date: now"),
            (304, GET, Some(0), "HTTP/1.1 304 Not Modified|date: now"),
            (204, GET, Some(0), "HTTP/1.1 204 No Content|date: now"),
            (101, GET, Some(0), "HTTP/1.1 101 Switching Protocols|date: now"),
        ] {
            assert_eq!(written(status, &long, length, asked), (expected.to_owned(), plain(false, true)));
        }
        let (text, _) = written(200, &[], Some(5), head);
        assert_eq!(text, "HTTP/1.1 200 OK|content-length: 5|date: now");
        assert_eq!(written(200, &[], None, head).0, "HTTP/1.1 200 OK|date: now");
    }

    #[test]
    fn who_closes_says_so_in_the_client_s_version() {
        let closing = Asked { keeps_alive: false, ..GET };
        assert_eq!(
            written(204, &[], Some(0), closing),
            ("HTTP/1.1 204 No Content|connection: close|date: now".to_owned(), plain(false, false))
        );
        let said = written(204, &[("connection", "close")], Some(0), GET);
        assert_eq!(
            said,
            ("HTTP/1.1 204 No Content|connection: close|date: now".to_owned(), plain(false, false))
        );
        let old = Asked { version: Version::HTTP_10, ..GET };
        assert_eq!(
            written(204, &[], Some(0), old),
            ("HTTP/1.0 204 No Content|connection: keep-alive|date: now".to_owned(), plain(false, true))
        );
        let until_close = Behind { until_close: true, ..plain(true, false) };
        assert_eq!(written(200, &[], None, old), ("HTTP/1.0 200 OK|date: now".to_owned(), until_close));
    }

    #[test]
    fn trailers_go_to_those_who_take_them() {
        let announces = [("trailer", "x-sum, content-length")];
        let coding =
            |takes_trailers| written(200, &announces, None, Asked { takes_trailers, ..GET }).1.coding;
        assert_eq!(coding(true), Coding::Chunked(vec!["x-sum".parse().unwrap()]));
        assert_eq!(coding(false), Coding::Chunked(Vec::new()));
    }
}
