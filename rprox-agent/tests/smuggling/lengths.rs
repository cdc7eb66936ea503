//! `Content-Length` and `Transfer-Encoding`.

use crate::case::Outcome::{Answered, Passes, PassesAlone, Refused};
use crate::case::{Bench, Case};

const HELLO: &str = "POST / HTTP/1.1\r\nhost: a.example\r\ncontent-length: 5\r\n\r\nhello";
const CHUNKED: &str =
    "POST / HTTP/1.1\r\nhost: a.example\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";

/// A POST with these fields and this body.
macro_rules! post {
    ($fields:literal, $body:literal) => {
        concat!("POST / HTTP/1.1\r\nHost: a.example\r\n", $fields, "\r\n", $body)
    };
}

#[test]
fn content_length_is_one_plain_number() {
    Bench::start().check(&[
        Case(post!("Content-Length: 5\r\n", "hello"), Passes(HELLO)),
        Case(post!("content-LENGTH:5\r\n", "hello"), Passes(HELLO)),
        Case(post!("Content-Length: \t5 \t\r\n", "hello"), Passes(HELLO)),
        Case(
            post!("Content-Length: 005\r\n", "hello"),
            Passes("POST / HTTP/1.1\r\nhost: a.example\r\ncontent-length: 5\r\n\r\nhello"),
        ),
        Case(
            post!("Content-Length: 0\r\n", ""),
            Passes("POST / HTTP/1.1\r\nhost: a.example\r\ncontent-length: 0\r\n\r\n"),
        ),
        Case(post!("Content-Length:\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: \r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: +5\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: -1\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: -0\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: 0x5\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: 5,5\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: 5, 5\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: 5, 6\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: 5;\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: 5 5\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: 5.0\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: 5e0\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: 1_0\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: \"5\"\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: five\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: \u{b2}\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: \u{a0}5\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: \u{b}5\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: 5\u{c}\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: 5\0\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: 18446744073709551615\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: 18446744073709551616\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: 18446744073709551621\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: 99999999999999999999999999\r\n", "hello"), Refused(400)),
    ]);
}

#[test]
fn content_length_comes_once() {
    Bench::start().check(&[
        Case(post!("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: 5\r\ncontent-length: 5\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: 5\r\nContent-Length: 6\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: 0\r\nContent-Length: 5\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: 5\r\nX: y\r\nContent-Length: 0\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: 5\r\nContent-Length:\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: 5\r\nContent-Length: x\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: 5\r\nContent-Length : 0\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: 5\r\n Content-Length: 0\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: 5\r\n\tContent-Length: 0\r\n", "hello"), Refused(400)),
    ]);
}

#[test]
fn a_length_and_a_coding_exclude_each_other() {
    Bench::start().check(&[
        Case(post!("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nG"), Refused(400)),
        Case(post!("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "8\r\nSMUGGLED\r\n0\r\n\r\n"), Refused(400)),
        Case(post!("Content-Length: x\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Transfer-Encoding: chunked\r\nContent-Length: x\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Transfer-Encoding: chunked\r\nContent-Length: +0\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("content-length: 5\r\nTRANSFER-ENCODING: chunked\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Content-Length: 5\r\nTransfer-Encoding: identity\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: 5\r\nTransfer-Encoding: x\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: 5\r\nTransfer-Encoding:\r\n", "hello"), Refused(400)),
        Case(post!("Content-Length: 5\r\nX: y\r\nTransfer-Encoding: chunked\r\nA: b\r\n", "0\r\n\r\n"), Refused(400)),
        Case(
            "GET / HTTP/1.1\r\nContent-Length: 4\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            Refused(400),
        ),
    ]);
}

#[test]
fn transfer_encoding_is_chunked_and_nothing_else() {
    Bench::start().check(&[
        Case(post!("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"), Passes(CHUNKED)),
        Case(post!("Transfer-Encoding: Chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"), Passes(CHUNKED)),
        Case(post!("tRANSFER-eNCODING:CHUNKED\r\n", "5\r\nhello\r\n0\r\n\r\n"), Passes(CHUNKED)),
        Case(post!("Transfer-Encoding: \t chunked \t\r\n", "5\r\nhello\r\n0\r\n\r\n"), Passes(CHUNKED)),
        Case(post!("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Transfer-Encoding: chunkedx\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Transfer-Encoding: chunke\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Transfer-Encoding: chunked;q=1\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Transfer-Encoding: 'chunked'\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Transfer-Encoding: \u{b}chunked\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Transfer-Encoding: \u{c}chunked\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Transfer-Encoding: chunked\u{b}\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Transfer-Encoding: \u{a0}chunked\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Transfer-Encoding: chunked\0\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Transfer-Encoding:\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Transfer-Encoding: ,\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Transfer-Encoding: identity\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Transfer-Encoding: gzip\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), Refused(501)),
        Case(post!("Transfer-Encoding: identity, chunked\r\n", "0\r\n\r\n"), Refused(501)),
        Case(post!("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"), Refused(501)),
        Case(post!("Transfer-Encoding: ,chunked\r\n", "0\r\n\r\n"), Refused(501)),
        Case(post!("Transfer-Encoding: chunked,\r\n", "0\r\n\r\n"), Refused(400)),
        Case(
            post!("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            Refused(400),
        ),
        Case(
            post!("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"),
            Refused(400),
        ),
        Case(
            post!("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            Refused(400),
        ),
        Case(post!("Transfer-Encoding: chunked\r\nTransfer-encoding: x\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Transfer-Encoding\t: chunked\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!(" Transfer-Encoding: chunked\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("X: y\r\n Transfer-Encoding: chunked\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("X: y\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("X: y\rTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Transfer Encoding: chunked\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("\0Transfer-Encoding: chunked\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Transfer-Encoding\u{ff}: chunked\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Transfer\u{ad}Encoding: chunked\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Transfer_Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"), Refused(400)),
        Case(post!("Content_Length: 4\r\nContent-Length: 5\r\n", "hello"), Refused(400)),
    ]);
}

#[test]
fn methods_and_versions_change_nothing_about_framing() {
    Bench::start().check(&[
        Case(
            "GET / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello",
            Passes("GET / HTTP/1.1\r\nhost: a.example\r\ncontent-length: 5\r\n\r\nhello"),
        ),
        Case(
            "GET / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n",
            Passes("GET / HTTP/1.1\r\nhost: a.example\r\ncontent-length: 0\r\n\r\n"),
        ),
        Case(
            "HEAD / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello",
            Passes("HEAD / HTTP/1.1\r\nhost: a.example\r\ncontent-length: 5\r\n\r\nhello"),
        ),
        Case(
            "GET / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            Passes("GET / HTTP/1.1\r\nhost: a.example\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ),
        Case(
            "DELETE / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello",
            Passes("DELETE / HTTP/1.1\r\nhost: a.example\r\ncontent-length: 5\r\n\r\nhello"),
        ),
        Case("OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n", Answered(204)),
        Case("POST / HTTP/1.1\r\nHost: a.example\r\n\r\n", Passes("POST / HTTP/1.1\r\nhost: a.example\r\n\r\n")),
        Case(
            "POST / HTTP/1.0\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello",
            PassesAlone("POST / HTTP/1.1\r\nhost: a.example\r\ncontent-length: 5\r\n\r\nhello"),
        ),
        Case("POST / HTTP/1.0\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400)),
        Case(
            "POST / HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            Refused(400),
        ),
        Case("CONNECT a.example:80 HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(501)),
        Case("CONNECT a.example:80 HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello", Refused(501)),
        Case("TRACE / HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(501)),
    ]);
}
