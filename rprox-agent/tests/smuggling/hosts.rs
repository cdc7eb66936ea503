//! Whom a request is for.

use crate::case::Outcome::{Passes, PassesAlone, Refused};
use crate::case::{Bench, Case};

const A: &str = "GET / HTTP/1.1\r\nhost: a.example\r\n\r\n";

#[test]
fn there_is_one_host() {
    Bench::start().check(&[
        Case("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", Passes(A)),
        Case("GET / HTTP/1.1\r\nhOST:a.example\r\n\r\n", Passes(A)),
        Case("GET / HTTP/1.1\r\nHost: \t a.example\t \r\n\r\n", Passes(A)),
        Case(
            "GET / HTTP/1.1\r\nHost: a.example:80\r\n\r\n",
            Passes("GET / HTTP/1.1\r\nhost: a.example:80\r\n\r\n"),
        ),
        Case("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", Passes("GET / HTTP/1.1\r\nhost: [::1]:80\r\n\r\n")),
        Case("GET / HTTP/1.1\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost:\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: \r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: a.example\r\nX: y\r\nhost: b.example\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost:\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost : a.example\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\n Host: a.example\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: a.example\r\n\tb.example\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: a.example, b.example\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: a.example b.example\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: a.example@b.example\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: a.example/b\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: a.example?b\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: a.example#b\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: a.example\\b\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: a.example:b\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: a.example:65536\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: a.example:-80\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: a.example:80:80\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: http://a.example\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: a..example\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: a%2eexample\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: a\u{e9}.example\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: \"a.example\"\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: a.example\0.b\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n", Refused(400)),
        Case("GET / HTTP/1.1\r\nHost: 'a'\r\n\r\n", Refused(400)),
    ]);
}

#[test]
fn an_absolute_target_is_the_host() {
    Bench::start().check(&[
        Case("GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", Passes(A)),
        Case("GET http://a.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n", Passes(A)),
        Case("GET http://a.example HTTP/1.1\r\nHost: b.example\r\n\r\n", Passes(A)),
        Case("GET HTTPS://a.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n", Passes(A)),
        Case(
            "GET http://a.example?x HTTP/1.1\r\nHost: b.example\r\n\r\n",
            Passes("GET /?x HTTP/1.1\r\nhost: a.example\r\n\r\n"),
        ),
        Case("GET http://a.example/ HTTP/1.0\r\n\r\n", PassesAlone(A)),
        Case("GET http://a.example/ HTTP/1.1\r\n\r\n", Refused(400)),
        Case("GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n", Refused(400)),
        Case("GET http://u@a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET http://u:p@a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET http:///x HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET http:/x HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET http://a.example:x/ HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET http://a.example:99999/ HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET http://a..example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET a.example HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET a.example:80 HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case("GET ftp://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(400)),
        Case(
            "GET // HTTP/1.1\r\nHost: a.example\r\n\r\n",
            Passes("GET // HTTP/1.1\r\nhost: a.example\r\n\r\n"),
        ),
        Case(
            "GET //b.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n",
            Passes("GET //b.example/x HTTP/1.1\r\nhost: a.example\r\n\r\n"),
        ),
    ]);
}
