//! Section 6.8: how a connection ends that nobody has done anything wrong on.

use crate::agent::{Agent, PATIENCE};
use crate::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, Peer, RST_STREAM, WHOLE, WINDOW_UPDATE,
    frame, request,
};
use crate::recorder::Recorder;

/// The last stream that a `GOAWAY` names, and its code.
fn farewell(frame: &Frame) -> (u32, u32) {
    (u32::from_be_bytes(frame.payload[..4].try_into().unwrap()), frame.code().unwrap())
}

fn next(peer: &mut Peer, kind: u8) -> Frame {
    loop {
        let frame = peer.receive().unwrap();
        if frame.kind == kind {
            return frame;
        }
    }
}

#[test]
fn what_is_begun_before_the_end_is_known_is_finished_and_nothing_later() {
    let upstream = Recorder::start();
    let agent = Agent::start(&[("*", &upstream.address.to_string())], "");
    let (get, post) = (request("GET", "/", &[]), request("POST", "/", &[]));
    let mut peer = Peer::connect(agent.http, PATIENCE, &[]);
    peer.send(&[frame(HEADERS, END_HEADERS, 1, &post), frame(PING, 0, 0, b"is there")].concat());
    next(&mut peer, PING);
    agent.terminate();
    assert_eq!(farewell(&next(&mut peer, GOAWAY)), (0x7fff_ffff, 0));
    let ping = next(&mut peer, PING);
    assert_eq!(ping.flags & ACK, 0);
    // On its way while that was said.
    peer.send(&frame(HEADERS, WHOLE, 3, &get));
    peer.send(&frame(PING, ACK, 0, &ping.payload));
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last: &Frame| last.kind != GOAWAY) {
        seen.push(peer.receive().unwrap());
    }
    assert_eq!(farewell(&seen.pop().unwrap()), (3, 0));
    // Too late, whatever comes on it; the others go on.
    let late = [
        frame(HEADERS, END_HEADERS, 5, &post),
        frame(DATA, 0, 5, b"x"),
        frame(WINDOW_UPDATE, 0, 5, &[0, 0, 0, 1]),
        frame(RST_STREAM, 0, 5, &[0, 0, 0, 8]),
        frame(DATA, END_STREAM, 1, b"x"),
    ];
    peer.send(&late.concat());
    while let Some(frame) = peer.receive() {
        seen.push(frame);
    }
    for stream in [1, 3] {
        assert!(seen.iter().any(|frame| frame.stream == stream && frame.status() == Some(200)), "{seen:?}");
    }
    assert!(seen.iter().all(|frame| frame.stream != 5 && frame.code().is_none()), "{seen:?}");
}
