//! Responses on one HTTP/2 connection, which take turns.

use std::io::Write;

use crate::agent::{Agent, PATIENCE};
use crate::frames::{DATA, END_STREAM, HEADERS, Peer, WHOLE, WINDOW_UPDATE, frame, request, setting};
use crate::upstream::Upstream;

const INITIAL_WINDOW: u16 = 4;
const WIDE: u32 = 1 << 30;

/// An upstream that sends as many bytes as the path says.
fn upstream() -> Upstream {
    Upstream::start(|request, stream| {
        let length: usize = request.split([' ', '/']).find_map(|word| word.parse().ok()).unwrap();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&vec![b'x'; length])).is_ok()
    })
}

/// A client whose windows are no limit.
fn client(agent: &Agent) -> Peer {
    let mut peer = Peer::connect(agent.http, PATIENCE, &setting(INITIAL_WINDOW, WIDE));
    peer.send(&frame(WINDOW_UPDATE, 0, 0, &WIDE.to_be_bytes()));
    peer
}

fn get(path: &str, stream: u32) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, &request("GET", path, &[]))
}

#[test]
fn a_large_response_lets_others_go_before_its_end() {
    let upstream = upstream();
    let agent = Agent::start_with(1, &[("a.example", &upstream.address.to_string())], "");
    let mut peer = client(&agent);
    peer.send(&[get("/200000000", 1), get("/200000000", 3)].concat());
    while peer.receive().unwrap().kind != DATA {}
    peer.send(&get("/300000", 5));
    let ended = loop {
        let frame = peer.receive().unwrap();
        if frame.kind == DATA && frame.flags & END_STREAM > 0 {
            break frame.stream;
        }
    };
    assert_eq!(ended, 5, "the small one");
}

#[test]
fn what_nobody_takes_yet_is_left_to_the_upstreams() {
    const STREAMS: u32 = 100;
    const LENGTH: usize = 120_000;
    let upstream = upstream();
    let agent = Agent::start_with(1, &[("a.example", &upstream.address.to_string())], "");
    let mut peer = client(&agent);
    peer.send(&get("/10", 1));
    while peer.receive().unwrap().kind != DATA {}
    let before = agent.peak_memory();
    peer.send(
        &(1..=STREAMS).flat_map(|number| get(&format!("/{LENGTH}"), 2 * number + 1)).collect::<Vec<_>>(),
    );
    let (mut bytes, mut ended) = (0, 0);
    while ended < STREAMS {
        let frame = peer.receive().unwrap();
        if frame.kind == DATA {
            bytes += frame.payload.len();
            ended += u32::from(frame.flags & END_STREAM);
        }
    }
    assert_eq!(bytes, STREAMS as usize * LENGTH);
    let more = agent.peak_memory() - before;
    assert!(more < 6 << 10, "{more} KiB for {STREAMS} responses");
}
