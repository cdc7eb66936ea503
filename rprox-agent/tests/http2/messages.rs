//! Section 8: requests.

use crate::case::Code::Protocol;
use crate::case::Outcome::{Answer, Stream};
use crate::case::{Case, check};
use crate::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, WHOLE, block, frame, request};

fn get(
    section: &'static str,
    what: &'static str,
    fields: &[(&str, &str)],
    outcome: crate::case::Outcome,
) -> Case {
    Case(section, what, frame(HEADERS, WHOLE, 1, &block(fields)), outcome)
}

#[test]
fn section_8_2_fields() {
    let malformed = |what, field| {
        Case("8.2", what, frame(HEADERS, WHOLE, 1, &request("GET", "/", &[field])), Stream(&[Protocol]))
    };
    check(&[
        malformed("a name in upper case", ("X-Test", "ok")),
        malformed("a name with a space", ("x test", "ok")),
        malformed("a name with a colon in it", ("x:test", "ok")),
        malformed("a name with a line's end", ("x\r\ny", "ok")),
        malformed("a name with NUL", ("x\0", "ok")),
        malformed("an empty name", ("", "ok")),
        malformed("a value with LF", ("x", "a\nb")),
        malformed("a value with CR", ("x", "a\rb")),
        malformed("a value with NUL", ("x", "a\0b")),
        malformed("connection", ("connection", "keep-alive")),
        malformed("keep-alive", ("keep-alive", "timeout=5")),
        malformed("proxy-connection", ("proxy-connection", "keep-alive")),
        malformed("transfer-encoding", ("transfer-encoding", "chunked")),
        malformed("upgrade", ("upgrade", "websocket")),
        malformed("te other than trailers", ("te", "trailers, deflate")),
        Case(
            "8.2.2",
            "te: trailers",
            frame(HEADERS, WHOLE, 1, &request("GET", "/", &[("te", "trailers")])),
            Answer(1, 200),
        ),
        Case(
            "8.2.3",
            "more crumbs of a cookie than limits.headers",
            frame(HEADERS, WHOLE, 1, &request("GET", "/", &[("cookie", "a=b"); 180])),
            Answer(1, 200),
        ),
        Case(
            "10.5.1",
            "more fields than limits.headers beside a cookie's crumbs",
            frame(
                HEADERS,
                WHOLE,
                1,
                &request("GET", "/", &[[("cookie", "a=b"); 101], [("x", "y"); 101]].concat()),
            ),
            Answer(1, 431),
        ),
    ]);
}

#[test]
fn section_8_3_pseudo_header_fields() {
    let method = (":method", "GET");
    let scheme = (":scheme", "http");
    let path = (":path", "/");
    let authority = (":authority", "a.example");
    let bad = || Stream(&[Protocol]);
    check(&[
        get("8.3", "an unknown one", &[method, scheme, path, authority, (":test", "ok")], bad()),
        get("8.3", "a response's", &[method, scheme, path, authority, (":status", "200")], bad()),
        get("8.3", "behind another field", &[method, scheme, authority, ("x", "y"), path], bad()),
        get("8.3.1", "empty :path", &[method, scheme, (":path", ""), authority], bad()),
        get("8.3.1", "no :method", &[scheme, path, authority], bad()),
        get("8.3.1", "no :scheme", &[method, path, authority], bad()),
        get("8.3.1", "no :path", &[method, scheme, authority], bad()),
        get("8.3.1", "two :method", &[method, method, scheme, path, authority], bad()),
        get("8.3.1", "two :scheme", &[method, scheme, scheme, path, authority], bad()),
        get("8.3.1", "two :path", &[method, scheme, path, path, authority], bad()),
        get("8.3.1", "two :authority", &[method, scheme, path, authority, authority], bad()),
        get(
            "8.3.1",
            "Host instead of :authority",
            &[method, scheme, path, ("host", "a.example")],
            Answer(1, 200),
        ),
        get(
            "8.3.1",
            "Host that differs",
            &[method, scheme, path, authority, ("host", "b.example")],
            Answer(1, 400),
        ),
        get(
            "8.3.1",
            "user information",
            &[method, scheme, path, (":authority", "u@a.example")],
            Answer(1, 400),
        ),
    ]);
}

#[test]
fn section_8_1_the_order_of_frames() {
    let open = frame(HEADERS, END_HEADERS, 1, &request("POST", "/", &[]));
    let trailers = |fields: &[(&str, &str)], flags| {
        [&open[..], &frame(DATA, 0, 1, b"x"), &frame(HEADERS, flags, 1, &block(fields))].concat()
    };
    let with_length = |length, pieces: &[&[u8]]| {
        let mut bytes = frame(HEADERS, END_HEADERS, 1, &request("POST", "/", &[("content-length", length)]));
        for (number, piece) in pieces.iter().enumerate() {
            let last = number + 1 == pieces.len();
            bytes.extend(frame(DATA, if last { END_STREAM } else { 0 }, 1, piece));
        }
        bytes
    };
    check(&[
        Case("8.1", "trailers", trailers(&[("x-sum", "1")], WHOLE), Answer(1, 200)),
        Case(
            "8.1",
            "trailers without END_STREAM",
            trailers(&[("x-sum", "1")], END_HEADERS),
            Stream(&[Protocol]),
        ),
        Case(
            "8.1",
            "pseudo-header fields in trailers",
            trailers(&[(":method", "GET")], WHOLE),
            Stream(&[Protocol]),
        ),
        Case("8.1.1", "a content-length that is right", with_length("4", &[b"ab", b"cd"]), Answer(1, 200)),
        Case("8.1.1", "one that is too long", with_length("5", &[b"abcd"]), Stream(&[Protocol])),
        Case("8.1.1", "one that is too short", with_length("3", &[b"abcd"]), Stream(&[Protocol])),
        Case(
            "8.1.1",
            "one that is too short for two frames",
            with_length("3", &[b"ab", b"cd"]),
            Stream(&[Protocol]),
        ),
        Case(
            "8.1.1",
            "one without a body",
            frame(HEADERS, WHOLE, 1, &request("POST", "/", &[("content-length", "5")])),
            Stream(&[Protocol]),
        ),
        Case("8.1.1", "one that is no number", with_length("+4", &[b"abcd"]), Stream(&[Protocol])),
        Case(
            "8.1.1",
            "two",
            frame(
                HEADERS,
                WHOLE,
                1,
                &request("POST", "/", &[("content-length", "0"), ("content-length", "5")]),
            ),
            Stream(&[Protocol]),
        ),
    ]);
}
