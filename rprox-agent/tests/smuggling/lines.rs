//! Lines, names and values.

use crate::case::Outcome::{Passes, Refused};
use crate::case::{Bench, Case};

const A: &str = "GET / HTTP/1.1\r\nhost: a.example\r\n\r\n";

/// A GET with these fields.
macro_rules! get {
    ($fields:expr) => {
        concat!("GET / HTTP/1.1\r\nHost: a.example\r\n", $fields, "\r\n")
    };
}

#[test]
fn a_line_ends_with_cr_and_lf() {
    Bench::start().check(&[
        Case("GET / HTTP/1.1\nHost: a.example\n\n", Refused(400)),
        Case("GET / HTTP/1.1\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: a.example\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: a.example\r\n\n", Refused(400)),
        Case("GET / HTTP/1.1\rHost: a.example\r\r", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: a.example\r\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: a.example\n\rX: y\r\n\r\n", Refused(400)),
        Case(get!("X: y\nZ: 1\r\n"), Refused(400)),
        Case(get!("X: y\rZ: 1\r\n"), Refused(400)),
        Case(get!("X: y\r\r\n"), Refused(400)),
        Case(get!("X: y\n\nGET /smuggled HTTP/1.1\r\nHost: a.example\r\n"), Refused(400)),
        Case(get!("X:\n\r\n"), Refused(400)),
        Case(
            get!("X: y\u{85}Z: 1\r\n"),
            Passes("GET / HTTP/1.1\r\nhost: a.example\r\nx: y\u{85}Z: 1\r\n\r\n"),
        ),
    ]);
}

#[test]
fn no_line_goes_on_in_the_next() {
    Bench::start().check(&[
        Case(get!("X: y\r\n z\r\n"), Refused(400)),
        Case(get!("X: y\r\n\tz\r\n"), Refused(400)),
        Case(get!("X:\r\n y\r\n"), Refused(400)),
        Case(get!("X: y\r\n \r\n"), Refused(400)),
        Case(get!(" X: y\r\n"), Refused(400)),
        Case("GET / HTTP/1.1\r\n Host: a.example\r\nX: y\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\n \r\nHost: a.example\r\n\r\n", Refused(400)),
    ]);
}

#[test]
fn names_are_tokens() {
    Bench::start().check(&[
        Case(
            get!("X!#$%&'*+-.^_`|~9: y\r\n"),
            Passes("GET / HTTP/1.1\r\nhost: a.example\r\nx!#$%&'*+-.^_`|~9: y\r\n\r\n"),
        ),
        Case(get!("X : y\r\n"), Refused(400)),
        Case(get!("X\t: y\r\n"), Refused(400)),
        Case(get!("X\0: y\r\n"), Refused(400)),
        Case(get!("X\u{7f}: y\r\n"), Refused(400)),
        Case(get!("X\u{80}: y\r\n"), Refused(400)),
        Case(get!("X(a): y\r\n"), Refused(400)),
        Case(get!("X/a: y\r\n"), Refused(400)),
        Case(get!("X a: y\r\n"), Refused(400)),
        Case(get!("\"X\": y\r\n"), Refused(400)),
        Case(get!(": y\r\n"), Refused(400)),
        Case(get!("X\r\n"), Refused(400)),
        Case(get!("X;: y\r\n"), Refused(400)),
        Case(get!("@X: y\r\n"), Refused(400)),
        Case(get!("{X}: y\r\n"), Refused(400)),
        Case(get!(":path: /admin\r\n"), Refused(400)),
    ]);
}

#[test]
fn values_hold_no_control_characters() {
    Bench::start().check(&[
        Case(get!("X:\r\n"), Passes("GET / HTTP/1.1\r\nhost: a.example\r\nx: \r\n\r\n")),
        Case(get!("X: a\tb\r\n"), Passes("GET / HTTP/1.1\r\nhost: a.example\r\nx: a\tb\r\n\r\n")),
        Case(get!("X: a:b\r\n"), Passes("GET / HTTP/1.1\r\nhost: a.example\r\nx: a:b\r\n\r\n")),
        Case(get!("X: \u{e9}\r\n"), Passes("GET / HTTP/1.1\r\nhost: a.example\r\nx: \u{e9}\r\n\r\n")),
        Case(get!("X: a\0b\r\n"), Refused(400)),
        Case(get!("X: \0\r\n"), Refused(400)),
        Case(get!("X: a\u{1}\r\n"), Refused(400)),
        Case(get!("X: a\u{8}\r\n"), Refused(400)),
        Case(get!("X: a\u{b}\r\n"), Refused(400)),
        Case(get!("X: a\u{c}\r\n"), Refused(400)),
        Case(get!("X: a\u{1b}[2J\r\n"), Refused(400)),
        Case(get!("X: a\u{1f}\r\n"), Refused(400)),
        Case(get!("X: a\u{7f}\r\n"), Refused(400)),
    ]);
}

#[test]
fn one_empty_line_may_come_first() {
    Bench::start().check(&[
        Case("\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n", Passes(A)),
        Case("\r\n\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case(" GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("\tGET / HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("\0GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case(" \r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("\u{ef}\u{bb}\u{bf}GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case(
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\n\r\nx\r\n",
            Passes("POST / HTTP/1.1\r\nhost: a.example\r\ncontent-length: 1\r\n\r\nx"),
        ),
    ]);
}

#[test]
fn fields_for_this_hop_end_here() {
    Bench::start().check(&[
        Case(get!("Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n"), Passes(A)),
        Case(get!("Proxy-Connection: keep-alive\r\n"), Passes(A)),
        Case(get!("Connection: x\r\nX: y\r\n"), Passes(A)),
        Case(get!("Connection: host\r\n"), Passes(A)),
        Case(get!("Connection: cookie, x-forwarded-for\r\nCookie: c\r\n"), Passes(A)),
        Case(get!("Connection: upgrade\r\nUpgrade: websocket\r\n"), Passes("GET / HTTP/1.1\r\nhost: a.example\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")),
        Case(get!("Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n"), Passes(A)),
        Case(get!("Upgrade: x\r\n"), Passes(A)),
        Case(get!("TE: chunked\r\n"), Passes(A)),
        Case(get!("Trailer: content-length\r\n"), Passes("GET / HTTP/1.1\r\nhost: a.example\r\ntrailer: content-length\r\n\r\n")),
        Case(
            "POST / HTTP/1.1\r\nHost: a.example\r\nConnection: content-length\r\nContent-Length: 1\r\n\r\nx",
            Passes("POST / HTTP/1.1\r\nhost: a.example\r\ncontent-length: 1\r\n\r\nx"),
        ),
        Case(
            "POST / HTTP/1.1\r\nHost: a.example\r\nConnection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n\
             1\r\nx\r\n0\r\n\r\n",
            Passes(
                "POST / HTTP/1.1\r\nhost: a.example\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            ),
        ),
        Case(get!("X_Forwarded_For: 6.6.6.6\r\n"), Refused(400)),
        Case(get!("X-Forwarded_Proto: https\r\n"), Refused(400)),
    ]);
}
