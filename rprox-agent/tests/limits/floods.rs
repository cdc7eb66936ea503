//! Frames of HTTP/2 that cost the sender less than the receiver.

use std::sync::mpsc;
use std::time::Instant;

use rprox_tests::wait;

use crate::agent::{Agent, PATIENCE};
use crate::client::{get, read_to_close};
use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PRIORITY, Peer, RST_STREAM,
    SETTINGS, WHOLE, WINDOW_UPDATE, block, frame, request, setting,
};
use crate::hits;
use crate::upstream::Upstream;

/// `ENHANCE_YOUR_CALM`.
const CALM: u32 = 11;

fn start(more: &str) -> (Agent, Upstream) {
    let upstream = Upstream::mirror();
    (Agent::start_with(1, &[("a.example", &upstream.address.to_string())], more), upstream)
}

/// Sends what `of` makes for one stream after the other until the connection is closed.
fn streams_until_closed(peer: &mut Peer, of: impl Fn(u32) -> Vec<u8>) {
    let start = Instant::now();
    for stream in (1..).step_by(2) {
        if !peer.send(&of(stream)) {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "it takes them for ever");
    }
}

/// Sends `bytes` over and over until the connection is closed; the code that it is closed with.
fn flood_until_closed(agent: &Agent, first: &[u8], bytes: &[u8]) -> Option<u32> {
    let mut peer = Peer::connect(agent.http, PATIENCE, &[]);
    peer.send(first);
    let start = Instant::now();
    while peer.send(bytes) {
        assert!(start.elapsed() < PATIENCE, "it takes them for ever");
    }
    let mut code = None;
    while let Ok(Some(frame)) = peer.try_receive() {
        code = frame.code().or(code);
    }
    code
}

/// Sends `bytes` many times, and expects that the agent stays small and that others are served meanwhile and afterwards.
fn flood_and_ask(agent: &Agent, first: &[u8], bytes: &[u8], times: usize) {
    let mut peer = Peer::connect(agent.http, PATIENCE, &[]);
    peer.send(first);
    for number in 0..times {
        if number % (times / 4) == 0 {
            let start = Instant::now();
            assert_eq!(get(agent, "a.example", "/").status(), 200);
            assert!(start.elapsed() < PATIENCE / 4);
        }
        // What is answered must be taken, or the flood floods itself.
        if !peer.send(bytes) || !peer.drain() {
            break;
        }
    }
    drop(peer);
    assert_eq!(get(agent, "a.example", "/").status(), 200);
    let peak = agent.peak_memory();
    assert!(peak < 64 << 10, "{peak} KiB");
}

#[test]
fn requests_that_are_reset_at_once_end_the_connection() {
    // Rapid Reset, CVE-2023-44487.
    let (agent, _upstream) = start("[limits]\nresets = 20");
    let mut peer = Peer::connect(agent.http, PATIENCE, &[]);
    let get = request("GET", "/", &[]);
    streams_until_closed(&mut peer, |stream| {
        [frame(HEADERS, WHOLE, stream, &get), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    });
    while peer.try_receive().is_ok_and(|frame| frame.is_some()) {}
    assert_eq!(crate::client::get(&agent, "a.example", "/").status(), 200);
    // Whether as requests that are given up or as a flood depends on how fast they come.
    let ended = || hits::of(&agent, "resets") + hits::number(&agent, "rprox_http2_floods_total") == 1;
    wait::until(PATIENCE, "the connection's end to be counted", || ended().then_some(())).unwrap();
}

#[test]
fn requests_that_are_given_up_one_by_one_end_the_connection() {
    let upstream = Upstream::start(|_, stream| {
        read_to_close(stream);
        false
    });
    let agent =
        Agent::start_with(1, &[("a.example", &upstream.address.to_string())], "[limits]\nresets = 20");
    let mut peer = Peer::connect(agent.http, PATIENCE, &[]);
    let get = request("GET", "/", &[]);
    for number in 0..22 {
        let stream = 2 * number + 1;
        // A PING in between lets the agent begin the request before it is given up.
        peer.send(&[frame(HEADERS, WHOLE, stream, &get), frame(PING, 0, 0, b"anything")].concat());
        while peer.try_receive().is_ok_and(|frame| frame.is_some_and(|frame| frame.kind != PING)) {}
        peer.send(&frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
    }
    let mut code = None;
    while let Some(frame) = peer.try_receive().expect("it is still open") {
        code = frame.code().filter(|_| frame.kind == GOAWAY).or(code);
    }
    assert_eq!(code, Some(CALM), "the client is not told why");
    hits::wait_for(&agent, "resets", 1);
}

#[test]
fn requests_that_are_given_up_within_their_bodies_end_the_connection() {
    let (begins, begun) = mpsc::channel();
    let upstream = Upstream::start(move |_, stream| {
        begins.send(()).unwrap();
        read_to_close(stream);
        false
    });
    let agent =
        Agent::start_with(1, &[("a.example", &upstream.address.to_string())], "[limits]\nresets = 20");
    let mut peer = Peer::connect(agent.http, PATIENCE, &[]);
    let open = request("POST", "/", &[]);
    for stream in (1..).step_by(2).take(21) {
        peer.send(&frame(HEADERS, END_HEADERS, stream, &open));
        begun.recv_timeout(PATIENCE).unwrap();
        peer.send(&frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
    }
    let mut code = None;
    while let Some(frame) = peer.try_receive().expect("it is still open") {
        code = frame.code().filter(|_| frame.kind == GOAWAY).or(code);
    }
    assert_eq!(code, Some(CALM), "the client is not told why");
    hits::wait_for(&agent, "resets", 1);
}

#[test]
fn requests_that_we_have_to_reset_end_the_connection() {
    // "MadeYouReset", CVE-2025-8671: the client's faults have the streams reset that it has begun.
    let (agent, _upstream) = start("[limits]\nresets = 20");
    let mut peer = Peer::connect(agent.http, PATIENCE, &[]);
    let open = request("POST", "/", &[]);
    streams_until_closed(&mut peer, |stream| {
        let too_much = frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes());
        [frame(HEADERS, END_HEADERS, stream, &open), too_much].concat()
    });
    let ended = || hits::of(&agent, "resets") + hits::number(&agent, "rprox_http2_floods_total") == 1;
    wait::until(PATIENCE, "the connection's end to be counted", || ended().then_some(())).unwrap();
    assert_eq!(crate::client::get(&agent, "a.example", "/").status(), 200);
}

#[test]
fn continuations_without_end_end_the_connection() {
    // CVE-2024-27316.
    let (agent, _upstream) = start("");
    let begun = frame(HEADERS, END_STREAM, 1, &request("GET", "/", &[]));
    let more = frame(CONTINUATION, 0, 1, &block(&[("x", &"y".repeat(1000))]));
    assert!(matches!(flood_until_closed(&agent, &begun, &more), Some(CALM) | None));
    let empty = frame(CONTINUATION, 0, 1, &[]);
    assert!(matches!(flood_until_closed(&agent, &begun, &empty), Some(CALM) | None));
    assert!(agent.peak_memory() < 64 << 10);
    agent.metrics_with(&["rprox_http2_floods_total 2"]);
}

#[test]
fn empty_data_without_end_ends_the_connection() {
    // CVE-2019-9518.
    let (agent, _upstream) = start("");
    let open = frame(HEADERS, END_HEADERS, 1, &request("POST", "/", &[]));
    let empty = frame(DATA, 0, 1, &[]).repeat(100);
    assert!(matches!(flood_until_closed(&agent, &open, &empty), Some(CALM) | None));
}

#[test]
fn pings_settings_priorities_and_windows_are_no_burden() {
    // CVE-2019-9512, 9515, 9513.
    let (agent, _upstream) = start("");
    let open = frame(HEADERS, END_HEADERS, 1, &request("POST", "/", &[]));
    flood_and_ask(&agent, &[], &frame(PING, 0, 0, b"flooding").repeat(100), 200);
    flood_and_ask(&agent, &[], &frame(SETTINGS, 0, 0, &setting(4, 65_535)).repeat(100), 200);
    flood_and_ask(&agent, &open, &frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]).repeat(100), 200);
    flood_and_ask(&agent, &open, &frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]).repeat(100), 200);
    flood_and_ask(&agent, &open, &frame(DATA, PADDED, 1, &[200; 201]).repeat(10), 100);
    flood_and_ask(&agent, &[], &frame(0xee, 0, 0, &[0; 1000]).repeat(10), 200);
}

#[test]
fn a_header_section_that_unpacks_to_megabytes_is_refused() {
    let (agent, _upstream) = start("");
    // An entry of 4000 bytes in the dynamic table, and then its number again and again.
    let mut bomb = request("GET", "/", &[]);
    bomb.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    bomb.extend([b'y'; 4000]);
    bomb.extend([0xbe; 10_000]);
    let mut peer = Peer::connect(agent.http, PATIENCE, &[]);
    peer.send(&frame(HEADERS, WHOLE, 1, &bomb));
    let refused = loop {
        match peer.receive() {
            None => break true,
            Some(frame) if frame.status().is_some() => break frame.status() == Some(431),
            Some(frame) if frame.code().is_some() => break true,
            Some(_) => {}
        }
    };
    assert!(refused);
    assert!(agent.peak_memory() < 64 << 10);
    assert_eq!(get(&agent, "a.example", "/").status(), 200);
}

#[test]
fn the_number_of_fields_has_its_limit_over_http2_too() {
    let (agent, _upstream) = start("[limits]\nheaders = 10");
    let mut peer = Peer::connect(agent.http, PATIENCE, &[]);
    peer.send(&frame(HEADERS, WHOLE, 1, &request("GET", "/", &[("x", "y"); 11])));
    while peer.receive().unwrap().status() != Some(431) {}
    peer.send(&frame(HEADERS, WHOLE, 3, &request("GET", "/", &[("x", "y"); 10])));
    while peer.receive().unwrap().status() != Some(200) {}
    hits::wait_for(&agent, "headers", 1);
}
