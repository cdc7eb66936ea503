//! Section 5: streams, their states, errors, extensions.

use crate::case::Code::{Protocol, RefusedStream, StreamClosed};
use crate::case::Outcome::{Alive, Answer, Connection, Stream};
use crate::case::{Case, check};
use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PRIORITY, RST_STREAM, WHOLE, WINDOW_UPDATE, frame,
    request,
};

#[test]
fn section_5_1_states() {
    let get = request("GET", "/", &[]);
    let post = request("POST", "/", &[]);
    let whole = frame(HEADERS, WHOLE, 1, &get);
    let reset = [frame(HEADERS, END_HEADERS, 1, &post), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])].concat();
    let after = |first: &[u8], then: Vec<u8>| [first, &then].concat();
    check(&[
        Case("5.1", "idle: DATA", frame(DATA, END_STREAM, 1, b"x"), Connection(&[Protocol])),
        Case("5.1", "idle: RST_STREAM", frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]), Connection(&[Protocol])),
        Case(
            "5.1",
            "idle: WINDOW_UPDATE",
            frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
            Connection(&[Protocol]),
        ),
        Case("5.1", "idle: CONTINUATION", frame(CONTINUATION, END_HEADERS, 1, &get), Connection(&[Protocol])),
        Case("5.1", "idle: PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]), Alive),
        Case(
            "5.1",
            "half-closed: DATA",
            after(&whole, frame(DATA, END_STREAM, 1, b"x")),
            Stream(&[StreamClosed]),
        ),
        Case(
            "5.1",
            "half-closed: HEADERS",
            after(&whole, frame(HEADERS, WHOLE, 1, &get)),
            Connection(&[StreamClosed]),
        ),
        Case(
            "5.1",
            "half-closed: CONTINUATION",
            after(&whole, frame(CONTINUATION, END_HEADERS, 1, &get)),
            Connection(&[Protocol, StreamClosed]),
        ),
        Case(
            "5.1",
            "half-closed: WINDOW_UPDATE",
            after(&whole, frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
            Answer(1, 200),
        ),
        Case(
            "5.1",
            "half-closed: PRIORITY",
            after(&whole, frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
            Answer(1, 200),
        ),
        Case("5.1", "closed: DATA", after(&reset, frame(DATA, END_STREAM, 1, b"x")), Stream(&[StreamClosed])),
        Case(
            "5.1",
            "closed: HEADERS",
            after(&reset, frame(HEADERS, WHOLE, 1, &get)),
            Connection(&[StreamClosed]),
        ),
        Case(
            "5.1",
            "closed: CONTINUATION",
            after(&reset, frame(CONTINUATION, END_HEADERS, 1, &get)),
            Connection(&[Protocol, StreamClosed]),
        ),
        Case("5.1", "closed: RST_STREAM", after(&reset, frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])), Alive),
        Case("5.1", "closed: WINDOW_UPDATE", after(&reset, frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])), Alive),
        Case("5.1", "closed: PRIORITY", after(&reset, frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])), Alive),
    ]);
}

#[test]
fn section_5_1_1_and_5_1_2_identifiers_and_their_number() {
    let get = request("GET", "/", &[]);
    let post = request("POST", "/", &[]);
    let many: Vec<u8> =
        (0..11).flat_map(|number| frame(HEADERS, END_HEADERS, 2 * number + 1, &post)).collect();
    check(&[
        Case("5.1.1", "an even stream", frame(HEADERS, WHOLE, 2, &get), Connection(&[Protocol])),
        Case(
            "5.1.1",
            "a stream below the last",
            [frame(HEADERS, WHOLE, 5, &get), frame(HEADERS, WHOLE, 3, &get)].concat(),
            Connection(&[Protocol, StreamClosed]),
        ),
        Case(
            "5.1.1",
            "the highest stream",
            frame(HEADERS, WHOLE, 0x7fff_ffff, &get),
            Answer(0x7fff_ffff, 200),
        ),
        Case("5.1.2", "one stream too many", many, Stream(&[RefusedStream])),
    ]);
}

#[test]
fn sections_5_3_to_5_5_priorities_errors_and_extensions() {
    let get = request("GET", "/", &[]);
    check(&[
        Case(
            "5.3",
            "PRIORITY on an idle stream, then HEADERS",
            [frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 9]), frame(HEADERS, WHOLE, 1, &get)].concat(),
            Answer(1, 200),
        ),
        Case(
            "5.4.1",
            "after GOAWAY the connection is closed",
            frame(DATA, 0, 0, b""),
            Connection(&[Protocol]),
        ),
        Case("5.5", "an unknown frame", frame(0x16, 0, 0, b"x"), Alive),
        Case(
            "5.5",
            "an unknown frame inside a block",
            [frame(HEADERS, END_STREAM, 1, &get), frame(0x16, 0, 1, b"x")].concat(),
            Connection(&[Protocol]),
        ),
    ]);
}
