//! Request lines, and how much of a head there may be.

use std::iter;

use crate::case::Outcome::{Passes, PassesAlone, Refused};
use crate::case::{Bench, Case};

#[test]
fn targets_hold_no_space_and_no_control_characters() {
    Bench::start().check(&[
        Case(
            "GET /a?b=c&d HTTP/1.1\r\nHost: a.example\r\n\r\n",
            Passes("GET /a?b=c&d HTTP/1.1\r\nhost: a.example\r\n\r\n"),
        ),
        Case(
            "GET /%0d%0aX:%20y HTTP/1.1\r\nHost: a.example\r\n\r\n",
            Passes("GET /%0d%0aX:%20y HTTP/1.1\r\nhost: a.example\r\n\r\n"),
        ),
        Case(
            "GET /../x HTTP/1.1\r\nHost: a.example\r\n\r\n",
            Passes("GET /../x HTTP/1.1\r\nhost: a.example\r\n\r\n"),
        ),
        Case("GET /a b HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET /a\tb HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET /a\0 HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET /a\u{1} HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET /a\u{7f} HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET /a\rX: y HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET /a\nX: y HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case(
            "GET /a#b HTTP/1.1\r\nHost: a.example\r\n\r\n",
            Passes("GET /a HTTP/1.1\r\nhost: a.example\r\n\r\n"),
        ),
        Case("GET  / HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET /  HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET\t/ HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET /\tHTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET\u{b}/ HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET x HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET * HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET ? HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET \\ HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
    ]);
}

#[test]
fn versions_are_1_0_and_1_1() {
    Bench::start().check(&[
        Case(
            "GET / HTTP/1.0\r\nHost: a.example\r\n\r\n",
            PassesAlone("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n"),
        ),
        Case(
            "GET / HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive\r\n\r\n",
            Passes("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n"),
        ),
        Case("GET /\r\n", Refused(400)),
        Case("GET /\r\n\r\n", Refused(400)),
        Case("GET / \r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET / HTTP/0.9\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.2\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.10\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET / HTTP/01.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET / HTTP/2.0\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET / HTTP/2\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET / HTTP/3.0\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET / http/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET / HTTPS/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET / HTTP /1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1 \r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\tx\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET / ICY/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", Refused(400)),
    ]);
}

#[test]
fn methods_are_tokens() {
    Bench::start().check(&[
        Case(
            "get / HTTP/1.1\r\nHost: a.example\r\n\r\n",
            Passes("get / HTTP/1.1\r\nhost: a.example\r\n\r\n"),
        ),
        Case(
            "M-SEARCH / HTTP/1.1\r\nHost: a.example\r\n\r\n",
            Passes("M-SEARCH / HTTP/1.1\r\nhost: a.example\r\n\r\n"),
        ),
        Case("GET\0 / HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("G:T / HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("G\"T / HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("G(T / HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("G/T / HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("G\u{e9}T / HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET, / HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("/ HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\r\n\r\n", Refused(400)),
        Case("PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n", Refused(400)),
        Case("SSH-2.0-x\r\n", Refused(400)),
    ]);
}

#[test]
fn a_head_has_its_limits() {
    let head = |fields: String| -> &'static str {
        format!("GET / HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n").leak()
    };
    let fields = |count: usize| iter::repeat_n("X: y\r\n", count).collect::<String>();
    let arrives = format!("GET / HTTP/1.1\r\nhost: a.example\r\n{}\r\n", "x: y\r\n".repeat(99)).leak();
    Bench::start().check(&[
        Case(head(fields(99)), Passes(arrives)),
        Case(head(fields(100)), Refused(431)),
        Case(head(fields(5000)), Refused(431)),
        Case(head(format!("X: {}\r\n", "y".repeat(65_536))), Refused(431)),
        Case(head(format!("{}: y\r\n", "x".repeat(65_536))), Refused(431)),
        Case(head(format!("X:{}\r\n", " ".repeat(65_536))), Refused(431)),
        Case(format!("GET /{} HTTP/1.1\r\nHost: a.example\r\n\r\n", "x".repeat(65_536)).leak(), Refused(431)),
        Case(format!("{} / HTTP/1.1\r\nHost: a.example\r\n\r\n", "X".repeat(65_536)).leak(), Refused(431)),
    ]);
}
