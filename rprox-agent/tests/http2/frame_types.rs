//! Section 6: each type of frame. Section 7: error codes.

use crate::agent::Agent;
use crate::case::Code::{FlowControl, FrameSize, None as NoError, Protocol, StreamClosed};
use crate::case::Outcome::{Alive, Answer, Connection, Stream};
use crate::case::{Case, check};
use crate::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PRIORITY, PUSH_PROMISE,
    Peer, RST_STREAM, SETTINGS, WHOLE, WINDOW_UPDATE, frame, request, setting,
};
use crate::recorder::Recorder;

#[test]
fn sections_6_1_to_6_4_data_headers_priority_reset() {
    let get = request("GET", "/", &[]);
    let open = frame(HEADERS, END_HEADERS, 1, &request("POST", "/", &[]));
    let after = |then: Vec<u8>| [&open[..], &then].concat();
    check(&[
        Case("6.1", "DATA", after(frame(DATA, END_STREAM, 1, b"x")), Answer(1, 200)),
        Case(
            "6.1",
            "DATA with padding",
            after(frame(DATA, END_STREAM | PADDED, 1, b"\x02x\0\0")),
            Answer(1, 200),
        ),
        Case("6.1", "DATA on stream 0", after(frame(DATA, END_STREAM, 0, b"x")), Connection(&[Protocol])),
        Case(
            "6.1",
            "more padding than there is",
            after(frame(DATA, END_STREAM | PADDED, 1, b"\x05x")),
            Connection(&[Protocol]),
        ),
        Case(
            "6.1",
            "padding without its length",
            after(frame(DATA, END_STREAM | PADDED, 1, b"")),
            Connection(&[Protocol, FrameSize]),
        ),
        Case("6.2", "HEADERS on stream 0", frame(HEADERS, WHOLE, 0, &get), Connection(&[Protocol])),
        Case(
            "6.2",
            "more padding than there is",
            frame(HEADERS, WHOLE | PADDED, 1, &[&[255][..], &get[..20]].concat()),
            Connection(&[Protocol]),
        ),
        Case("6.3", "PRIORITY on stream 0", frame(PRIORITY, 0, 0, &[0, 0, 0, 0, 1]), Connection(&[Protocol])),
        Case("6.3", "PRIORITY of four bytes", after(frame(PRIORITY, 0, 1, &[0; 4])), Stream(&[FrameSize])),
        Case(
            "6.4",
            "RST_STREAM on stream 0",
            frame(RST_STREAM, 0, 0, &[0, 0, 0, 8]),
            Connection(&[Protocol]),
        ),
        Case(
            "6.4",
            "RST_STREAM of three bytes",
            after(frame(RST_STREAM, 0, 1, &[0; 3])),
            Connection(&[FrameSize]),
        ),
        Case(
            "6.6",
            "PUSH_PROMISE from a client",
            after(frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &get].concat())),
            Connection(&[Protocol]),
        ),
        Case("7", "RST_STREAM with an unknown code", after(frame(RST_STREAM, 0, 1, &[0, 0, 0, 0xff])), Alive),
    ]);
}

#[test]
fn section_6_5_settings() {
    check(&[
        Case(
            "6.5",
            "an ACK with a payload",
            frame(SETTINGS, ACK, 0, &setting(1, 0)),
            Connection(&[FrameSize]),
        ),
        Case("6.5", "on a stream", frame(SETTINGS, 0, 1, &setting(3, 100)), Connection(&[Protocol])),
        Case("6.5", "of three bytes", frame(SETTINGS, 0, 0, &[0; 3]), Connection(&[FrameSize])),
        Case("6.5.2", "ENABLE_PUSH 2", frame(SETTINGS, 0, 0, &setting(2, 2)), Connection(&[Protocol])),
        Case(
            "6.5.2",
            "INITIAL_WINDOW_SIZE 2^31",
            frame(SETTINGS, 0, 0, &setting(4, 1 << 31)),
            Connection(&[FlowControl]),
        ),
        Case(
            "6.5.2",
            "MAX_FRAME_SIZE 2^14 - 1",
            frame(SETTINGS, 0, 0, &setting(5, 16_383)),
            Connection(&[Protocol]),
        ),
        Case(
            "6.5.2",
            "MAX_FRAME_SIZE 2^24",
            frame(SETTINGS, 0, 0, &setting(5, 1 << 24)),
            Connection(&[Protocol]),
        ),
        Case("6.5.2", "an unknown setting", frame(SETTINGS, 0, 0, &setting(0xff, 1)), Alive),
    ]);
}

#[test]
fn sections_6_7_and_6_8_ping_and_goaway() {
    check(&[
        Case("6.7", "PING", vec![], Alive),
        Case("6.7", "an ACK that nobody waits for", frame(PING, ACK, 0, &[0; 8]), Alive),
        Case("6.7", "on a stream", frame(PING, 0, 1, &[0; 8]), Connection(&[Protocol])),
        Case("6.7", "of six bytes", frame(PING, 0, 0, &[0; 6]), Connection(&[FrameSize])),
        Case("6.8", "GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), Connection(&[Protocol])),
        Case(
            "7",
            "GOAWAY with an unknown code",
            frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0xff]),
            Connection(&[NoError]),
        ),
    ]);
}

#[test]
fn section_6_9_window_update() {
    let open = frame(HEADERS, END_HEADERS, 1, &request("POST", "/", &[]));
    let after = |then: Vec<u8>| [&open[..], &then].concat();
    // What its upstream has not asked for is not taken, so the window stays as it is for a while.
    let held = |then: Vec<u8>| {
        let block = request("POST", "/", &[("expect", "100-continue")]);
        [frame(HEADERS, END_HEADERS, 1, &block), then].concat()
    };
    let most = 0x7fff_ffff_u32.to_be_bytes();
    check(&[
        Case(
            "6.9",
            "by nothing, on the connection",
            frame(WINDOW_UPDATE, 0, 0, &[0; 4]),
            Connection(&[Protocol]),
        ),
        Case(
            "6.9",
            "by nothing, on a stream",
            after(frame(WINDOW_UPDATE, 0, 1, &[0; 4])),
            Connection(&[Protocol]),
        ),
        Case("6.9", "of three bytes", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), Connection(&[FrameSize])),
        Case(
            "6.9.1",
            "above 2^31 - 1, on the connection",
            [frame(WINDOW_UPDATE, 0, 0, &most), frame(WINDOW_UPDATE, 0, 0, &most)].concat(),
            Connection(&[FlowControl]),
        ),
        Case(
            "6.9.1",
            "above 2^31 - 1, on a stream",
            after([frame(WINDOW_UPDATE, 0, 1, &most), frame(WINDOW_UPDATE, 0, 1, &most)].concat()),
            Stream(&[FlowControl]),
        ),
        Case(
            "6.9.1",
            "more DATA than the window",
            held((0..17).flat_map(|_| frame(DATA, 0, 1, &[0; 16_384])).collect()),
            Connection(&[FlowControl]),
        ),
    ]);
}

#[test]
fn section_6_9_no_more_is_sent_than_the_window_allows() {
    let upstream = Recorder::start();
    let agent = Agent::start(&[("*", &upstream.address.to_string())], "");
    // One byte, then the other; and below zero when the window shrinks in between (section 6.9.2).
    let mut peer = Peer::connect(agent.http, crate::agent::PATIENCE, &setting(4, 1));
    peer.send(&frame(HEADERS, WHOLE, 1, &request("GET", "/", &[])));
    let data = |peer: &mut Peer| loop {
        let frame = peer.receive().unwrap();
        if frame.kind == DATA || frame.kind == PING {
            return frame;
        }
    };
    assert_eq!(data(&mut peer).payload, b"o");
    peer.send(
        &[
            frame(SETTINGS, 0, 0, &setting(4, 0)),
            frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
            frame(PING, 0, 0, b"nothing."),
        ]
        .concat(),
    );
    assert_eq!(data(&mut peer).payload, b"nothing.");
    peer.send(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]));
    let last = data(&mut peer);
    assert_eq!((&last.payload[..], last.flags & END_STREAM), (&b"k"[..], END_STREAM));
}

#[test]
fn section_6_5_3_settings_are_acknowledged() {
    let upstream = Recorder::start();
    let agent = Agent::start(&[("*", &upstream.address.to_string())], "");
    let settings = [setting(4, 100), setting(4, 1)].concat();
    let mut peer = Peer::connect(agent.http, crate::agent::PATIENCE, &settings);
    peer.send(&frame(HEADERS, WHOLE, 1, &request("GET", "/", &[])));
    let mut acknowledged = false;
    loop {
        let frame = peer.receive().unwrap();
        acknowledged |= (frame.kind, frame.flags) == (SETTINGS, ACK);
        if frame.kind == DATA {
            assert_eq!(frame.payload, b"o", "the last of two values holds");
            break;
        }
    }
    assert!(acknowledged);
}

#[test]
fn section_6_10_continuation() {
    let get = request("GET", "/", &[]);
    let (half, rest) = get.split_at(10);
    let (middle, last) = rest.split_at(10);
    let begun = frame(HEADERS, END_STREAM, 1, half);
    let after = |then: Vec<u8>| [&begun[..], &then].concat();
    check(&[
        Case(
            "6.10",
            "twice",
            after([frame(CONTINUATION, 0, 1, middle), frame(CONTINUATION, END_HEADERS, 1, last)].concat()),
            Answer(1, 200),
        ),
        Case(
            "6.10",
            "on stream 0",
            after(frame(CONTINUATION, END_HEADERS, 0, rest)),
            Connection(&[Protocol]),
        ),
        Case(
            "6.10",
            "on another stream",
            after(frame(CONTINUATION, END_HEADERS, 3, rest)),
            Connection(&[Protocol]),
        ),
        Case("6.10", "HEADERS instead", after(frame(HEADERS, WHOLE, 1, rest)), Connection(&[Protocol])),
        Case("6.10", "DATA instead", after(frame(DATA, END_STREAM, 1, b"x")), Connection(&[Protocol])),
        Case(
            "6.10",
            "after a whole block",
            [frame(HEADERS, WHOLE, 1, &get), frame(CONTINUATION, END_HEADERS, 1, rest)].concat(),
            Connection(&[Protocol, StreamClosed]),
        ),
        Case(
            "6.10",
            "after the last CONTINUATION",
            after(
                [frame(CONTINUATION, END_HEADERS, 1, rest), frame(CONTINUATION, END_HEADERS, 1, rest)]
                    .concat(),
            ),
            Connection(&[Protocol, StreamClosed]),
        ),
        Case(
            "6.10",
            "after DATA",
            [
                frame(HEADERS, END_HEADERS, 1, &request("POST", "/", &[])),
                frame(DATA, 0, 1, b"x"),
                frame(CONTINUATION, END_HEADERS, 1, rest),
            ]
            .concat(),
            Connection(&[Protocol]),
        ),
    ]);
}
