//! Connections on which nothing is asked for a while.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::agent::Agent;
use crate::client::{connect, connect_over_tls, read_reply, read_to_close};
use crate::upstream::Upstream;

/// Long enough for a connection to be at rest.
const PAUSE: Duration = Duration::from_millis(2500);

/// A host with a certificate, and one without.
const SECURE: &str = "secure.example";
const PLAIN: &str = "plain.example";

fn start(more: &str) -> (Agent, Upstream) {
    let upstream = Upstream::mirror();
    let address = upstream.address.to_string();
    (Agent::start(&[(SECURE, &address), (PLAIN, &address)], more), upstream)
}

fn ask(stream: &mut (impl Read + Write), host: &str, path: &str) {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
    assert!(read_reply(stream).text().starts_with(&format!("GET {path} ")));
}

fn after_pauses(mut stream: impl Read + Write, host: &str) {
    for path in ["/1", "/2", "/3"] {
        ask(&mut stream, host, path);
        ask(&mut stream, host, path);
        std::thread::sleep(PAUSE);
    }
    // Two requests at once are two after a pause as well, and one in pieces is one.
    let last = format!("GET /5 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    write!(stream, "GET /4 HTTP/1.1\r\nHost: {host}\r\n\r\n{}", &last[..10]).unwrap();
    assert!(read_reply(&mut stream).text().starts_with("GET /4 "));
    write!(stream, "{}", &last[10..]).unwrap();
    assert!(read_reply(&mut stream).text().starts_with("GET /5 "));
    assert!(read_to_close(&mut stream).is_empty());
}

#[test]
fn requests_after_pauses_are_served() {
    let (agent, _upstream) = start("");
    after_pauses(connect(agent.http), PLAIN);
    after_pauses(connect_over_tls(&agent, SECURE), SECURE);
}

#[test]
fn a_pause_ends_with_the_time_for_it() {
    let (agent, _upstream) = start("[timeouts]\nidle = \"3s\"");
    let mut plain = connect(agent.http);
    let mut secure = connect_over_tls(&agent, SECURE);
    ask(&mut plain, PLAIN, "/");
    ask(&mut secure, SECURE, "/");
    assert!(read_to_close(&mut plain).is_empty());
    assert!(read_to_close(&mut secure).is_empty());
}

#[test]
fn a_pause_wins_no_more_requests() {
    let (agent, _upstream) = start("[limits]\nrequests = 3");
    let mut plain = connect(agent.http);
    for _ in 0..2 {
        ask(&mut plain, PLAIN, "/");
        std::thread::sleep(PAUSE);
        agent.metrics_with(&["rprox_client_connections_open 1"]);
    }
    write!(plain, "GET / HTTP/1.1\r\nHost: {PLAIN}\r\n\r\n").unwrap();
    assert_eq!(read_reply(&mut plain).field("connection"), Some("close"));
    assert!(read_to_close(&mut plain).is_empty());
    agent.metrics_with(&["rprox_client_connections_open 0"]);
}

#[test]
fn an_agent_that_stops_waits_for_no_pause() {
    let (mut agent, _upstream) = start("drain_timeout = \"1h\"");
    let mut plain = connect(agent.http);
    ask(&mut plain, PLAIN, "/");
    std::thread::sleep(PAUSE);
    agent.terminate();
    assert!(agent.wait().success());
    assert!(read_to_close(&mut plain).is_empty());
}

#[test]
fn what_is_malformed_is_refused_after_a_pause_too() {
    let (agent, _upstream) = start("");
    let mut stream = connect(agent.http);
    ask(&mut stream, PLAIN, "/");
    std::thread::sleep(PAUSE);
    write!(stream, "GET / HTTP/1.1\nHost: plain.example\n\n").unwrap();
    assert_eq!(read_reply(&mut stream).status(), 400);
    assert!(read_to_close(&mut stream).is_empty());
}

#[test]
fn a_connection_s_last_response_comes_at_once() {
    // TCP keeps back for 200 ms what it is told that more follows.
    const MANY: u32 = 50;
    let (agent, _upstream) = start("");
    let request = format!("GET / HTTP/1.1\r\nHost: {PLAIN}\r\nConnection: close\r\n\r\n");
    let start = Instant::now();
    for _ in 0..MANY {
        let mut stream = connect(agent.http);
        stream.write_all(request.as_bytes()).unwrap();
        assert!(read_reply(&mut stream).text().starts_with("GET / "));
        assert!(read_to_close(&mut stream).is_empty());
    }
    assert!(start.elapsed() < MANY * Duration::from_millis(150), "{:?}", start.elapsed());
}
