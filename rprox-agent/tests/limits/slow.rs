//! Clients that take or send next to nothing.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::agent::{Agent, PATIENCE};
use crate::client::{connect, get, read_reply, read_to_close};
use crate::frames::{DATA, END_HEADERS, HEADERS, Peer, WHOLE, WINDOW_UPDATE, frame, request, setting};
use crate::hits;
use crate::upstream::Upstream;

const TIMEOUTS: &str = "[timeouts]\nbody = \"500ms\"\nheader = \"500ms\"\n[limits]\nclient_rate = 1000";

/// An upstream with a response that no socket buffer holds.
fn large() -> Upstream {
    Upstream::start(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n");
        let _ = stream.write_all(&vec![b'x'; 64 << 20]);
        false
    })
}

/// Sends `piece` again and again, well within `timeouts.body`, until the other end closes.
fn trickle(stream: &mut TcpStream, piece: &[u8]) {
    let start = Instant::now();
    while stream.write_all(piece).is_ok() {
        assert!(start.elapsed() < PATIENCE, "it takes a byte now and then for ever");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_head_that_trickles_in_is_given_up() {
    let upstream = Upstream::mirror();
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], TIMEOUTS);
    let mut stream = connect(agent.http);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n").unwrap();
    trickle(&mut stream, b"X: y\r\n");
    hits::wait_for(&agent, "timeouts.header", 1);
    assert_eq!(get(&agent, "a.example", "/").status(), 200);
}

#[test]
fn a_body_that_trickles_in_is_given_up() {
    let upstream = Upstream::start(|_, stream| std::io::copy(stream, &mut std::io::sink()).is_err());
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], TIMEOUTS);
    let mut stream = connect(agent.http);
    stream.write_all(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 100000\r\n\r\n").unwrap();
    trickle(&mut stream, b"x");
    hits::wait_for(&agent, "client_rate", 1);
}

#[test]
fn a_body_that_trickles_in_gets_a_408() {
    let upstream = Upstream::start(|_, stream| std::io::copy(stream, &mut std::io::sink()).is_err());
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], TIMEOUTS);
    let mut stream = connect(agent.http);
    stream.write_all(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 100000\r\n\r\n").unwrap();
    let mut writer = stream.try_clone().unwrap();
    let writing = thread::spawn(move || trickle(&mut writer, b"x"));
    assert_eq!(read_reply(&mut stream).status(), 408);
    drop(stream);
    writing.join().unwrap();
}

#[test]
fn a_grpc_stream_keeps_its_own_pace() {
    let upstream = Upstream::start(|_, stream| {
        let mut body = [0; 30];
        std::io::Read::read_exact(stream, &mut body).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        true
    });
    let patient = TIMEOUTS.replace("body = \"500ms\"", "body = \"2s\"");
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], &patient);
    let mut stream = connect(agent.http);
    stream
        .write_all(
            b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Type: application/grpc\r\nContent-Length: 30\r\n\r\n",
        )
        .unwrap();
    for _ in 0..30 {
        stream.write_all(b"x").unwrap();
        thread::sleep(Duration::from_millis(90));
    }
    assert_eq!(read_reply(&mut stream).status(), 200);
}

#[test]
fn a_response_that_nobody_takes_is_given_up() {
    let upstream = large();
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], TIMEOUTS);
    let mut stream = connect(agent.http);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    hits::wait_for(&agent, "client_rate", 1);
    assert!(read_to_close(&mut stream).len() < 64 << 20);
}

#[test]
fn an_http2_stream_whose_window_stays_shut_is_given_up() {
    let upstream = large();
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], TIMEOUTS);
    let start = Instant::now();
    for (window, trickles) in [(0, false), (1000, false), (1, true)] {
        let mut peer = Peer::connect(agent.http, PATIENCE, &setting(4, window));
        peer.send(&frame(HEADERS, WHOLE, 1, &request("GET", "/", &[])));
        let mut grants = trickles;
        while let Some(frame_seen) = peer.receive() {
            if grants && frame_seen.kind == DATA {
                thread::sleep(Duration::from_millis(50));
                grants = peer.send(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]));
            }
        }
        assert!(start.elapsed() < PATIENCE, "window {window}");
    }
    hits::wait_for(&agent, "client_rate", 3);
}

#[test]
fn an_http2_body_that_never_comes_is_given_up() {
    let upstream = Upstream::start(|_, stream| std::io::copy(stream, &mut std::io::sink()).is_err());
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], TIMEOUTS);
    let mut peer = Peer::connect(agent.http, PATIENCE, &[]);
    peer.send(&frame(HEADERS, END_HEADERS, 1, &request("POST", "/", &[])));
    while peer.receive().unwrap().status() != Some(408) {}
    hits::wait_for(&agent, "client_rate", 1);
}
