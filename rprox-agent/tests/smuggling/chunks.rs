//! Chunked bodies.

use crate::case::Outcome::{CutOff, Passes};
use crate::case::{Bench, Case};

const ARRIVES: &str =
    "POST / HTTP/1.1\r\nhost: a.example\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
const EMPTY: &str = "POST / HTTP/1.1\r\nhost: a.example\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
/// What comes before a message is found to be broken: never its end.
const BROKEN: &str = "POST / HTTP/1.1\r\nhost: a.example\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";

/// A POST with this body.
macro_rules! chunks {
    ($($body:expr),*) => {
        concat!("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n", $($body),*)
    };
}

#[test]
fn sizes_are_hexadecimal_digits() {
    Bench::start().check(&[
        Case(chunks!("5\r\nhello\r\n0\r\n\r\n"), Passes(ARRIVES)),
        Case(chunks!("05\r\nhello\r\n0\r\n\r\n"), Passes(ARRIVES)),
        Case(chunks!("0000000000000005\r\nhello\r\n0\r\n\r\n"), Passes(ARRIVES)),
        Case(chunks!("5\r\nhello\r\n0000\r\n\r\n"), Passes(ARRIVES)),
        Case(chunks!("0\r\n\r\n"), Passes(EMPTY)),
        Case(
            chunks!("A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n"),
            Passes(
                "POST / HTTP/1.1\r\nhost: a.example\r\ntransfer-encoding: chunked\r\n\r\n\
                 A\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n",
            ),
        ),
        Case(chunks!("00000000000000005\r\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\r\nhello\r\n00000000000000000\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("10000000000000000\r\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("10000000000000005\r\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("+5\r\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("-5\r\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("-0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("0x5\r\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("0X0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5h\r\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("g\r\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5,5\r\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5_\r\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("\r\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("\r\n5\r\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!(" 5\r\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("\t5\r\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5 \r\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\t\r\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5 5\r\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\0\r\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\u{b}\r\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\rhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\r\r\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
    ]);
}

#[test]
fn chunks_are_as_long_as_they_say() {
    Bench::start().check(&[
        Case(chunks!("5\r\nhello0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\r\nhello\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\r\nhello\r0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\r\nhelloXX0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\r\nhello \r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\r\nhello\r\n\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\r\nhelloworld\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\r\nhello\r\n0\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\r\nhello\r\n0\r\n\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\r\nhello\r\n0\r\n\r"), CutOff(400, BROKEN)),
        Case(chunks!("5\r\nhello\r\n0\n\n"), CutOff(400, BROKEN)),
    ]);
}

#[test]
fn extensions_are_dropped_and_hold_no_line_s_end() {
    Bench::start().check(&[
        Case(chunks!("5;a\r\nhello\r\n0;b\r\n\r\n"), Passes(ARRIVES)),
        Case(chunks!("5;a=b;c=\"d e\"\r\nhello\r\n0\r\n\r\n"), Passes(ARRIVES)),
        Case(chunks!("5;\r\nhello\r\n0\r\n\r\n"), Passes(ARRIVES)),
        Case(chunks!("5;a=b\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5;a=\"\nb\"\r\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5;\n\r\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5;a\rb\r\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5;a=\"\r\nhello\r\n0\r\n\r\n"), Passes(ARRIVES)),
        Case(chunks!("5 ;a\r\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5 a\r\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5:a\r\nhello\r\n0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\r\nhello\r\n0;a\n\r\n"), CutOff(400, BROKEN)),
    ]);
}

#[test]
fn trailers_are_no_second_head() {
    Bench::start().check(&[
        Case(chunks!("5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"), Passes(ARRIVES)),
        Case(chunks!("5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\r\nhello\r\n0\r\nHost: b.example\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\r\nhello\r\n0\r\nX: y\r\ncontent-LENGTH:0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\r\nhello\r\n0\r\nX: y\nGET /smuggled HTTP/1.1\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\r\nhello\r\n0\r\nX: y\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\r\nhello\r\n0\r\nX: y\r\n\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\r\nhello\r\n0\r\nX: y\rz\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\r\nhello\r\n0\r\nX : y\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\r\nhello\r\n0\r\n X: y\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\r\nhello\r\n0\r\nX: y\r\n folded\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\r\nhello\r\n0\r\nX: \0\r\n\r\n"), CutOff(400, BROKEN)),
        Case(chunks!("5\r\nhello\r\n0\r\nnothing\r\n\r\n"), CutOff(400, BROKEN)),
    ]);
}
