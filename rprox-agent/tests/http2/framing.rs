//! Sections 3 and 4: the preface, frames, header blocks.

use crate::agent::Agent;
use crate::case::Code::{Compression, FrameSize, Protocol};
use crate::case::Outcome::{Alive, Answer, Connection};
use crate::case::{Case, check};
use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PADDED, PING, PRIORITY, Peer, SETTINGS, WHOLE,
    WITH_PRIORITY, frame, request,
};
use crate::recorder::Recorder;

#[test]
fn section_3_4_our_preface_is_settings() {
    let upstream = Recorder::start();
    let agent = Agent::start(&[("*", &upstream.address.to_string())], "");
    let patience = crate::agent::PATIENCE;
    // Ours begins with SETTINGS.
    let mut peer = Peer::connect(agent.http, patience, &[]);
    let first = peer.receive().unwrap();
    assert_eq!((first.kind, first.flags, first.stream), (SETTINGS, 0, 0));
}

#[test]
fn section_4_frames_and_header_blocks() {
    let get = request("GET", "/", &[]);
    let post = request("POST", "/", &[]);
    let (half, rest) = get.split_at(10);
    check(&[
        Case("4.1", "a frame of unknown type", frame(0xff, 0, 0, b"what"), Alive),
        Case("4.1", "unknown flags", frame(PING, 0xfe, 0, &[0; 8]), Alive),
        Case("4.1", "the reserved bit", frame(PING, 0, 0x8000_0000, &[0; 8]), Alive),
        Case("4.1", "a frame of unknown type on a stream", frame(0xfe, 0xff, 1, &[0; 100]), Alive),
        Case(
            "4.2",
            "DATA of 2^14 bytes",
            [frame(HEADERS, END_HEADERS, 1, &post), frame(DATA, END_STREAM, 1, &[0; 16_384])].concat(),
            Answer(1, 200),
        ),
        Case(
            "4.2",
            "DATA above SETTINGS_MAX_FRAME_SIZE",
            [frame(HEADERS, END_HEADERS, 1, &post), frame(DATA, END_STREAM, 1, &vec![0; 16_385])].concat(),
            Connection(&[FrameSize]),
        ),
        Case(
            "4.2",
            "HEADERS above SETTINGS_MAX_FRAME_SIZE",
            frame(HEADERS, WHOLE, 1, &request("GET", "/", &[("x", &"y".repeat(17_000))])),
            Connection(&[FrameSize]),
        ),
        Case(
            "4.3",
            "a block that can't be decoded",
            frame(HEADERS, WHOLE, 1, &[0x40]),
            Connection(&[Compression]),
        ),
        Case(
            "4.3",
            "PRIORITY inside a block",
            [frame(HEADERS, END_STREAM, 1, half), frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])].concat(),
            Connection(&[Protocol]),
        ),
        Case(
            "4.3",
            "HEADERS of another stream inside a block",
            [frame(HEADERS, END_STREAM, 1, half), frame(HEADERS, WHOLE, 3, &get)].concat(),
            Connection(&[Protocol]),
        ),
        Case(
            "4.3",
            "PING inside a block",
            [frame(HEADERS, END_STREAM, 1, half), frame(PING, 0, 0, &[0; 8])].concat(),
            Connection(&[Protocol]),
        ),
        Case(
            "4.3",
            "a block in two frames",
            [frame(HEADERS, END_STREAM, 1, half), frame(CONTINUATION, END_HEADERS, 1, rest)].concat(),
            Answer(1, 200),
        ),
        Case("6.2", "HEADERS", frame(HEADERS, WHOLE, 1, &get), Answer(1, 200)),
        Case(
            "6.2",
            "HEADERS with padding",
            frame(HEADERS, WHOLE | PADDED, 1, &[&[6][..], &get, &[0; 6]].concat()),
            Answer(1, 200),
        ),
        Case(
            "6.2",
            "HEADERS with priority",
            frame(HEADERS, WHOLE | WITH_PRIORITY, 1, &[&[0, 0, 0, 0, 255][..], &get].concat()),
            Answer(1, 200),
        ),
        Case(
            "6.2",
            "HEADERS with padding and priority",
            frame(
                HEADERS,
                WHOLE | PADDED | WITH_PRIORITY,
                1,
                &[&[6, 0, 0, 0, 0, 255][..], &get, &[0; 6]].concat(),
            ),
            Answer(1, 200),
        ),
    ]);
}
