//! How connections and the agent end.

use std::io::{ErrorKind, Read, Write};
use std::sync::mpsc;
use std::time::Instant;

use rprox_tests::wait;

use crate::agent::{Agent, PATIENCE};
use crate::client::{connect, get, read_reply, read_to_close};
use crate::upstream::Upstream;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";

#[test]
fn sigterm_finishes_what_runs_and_ends_with_0() {
    let (upstream, held) = Upstream::held("late");
    let mut agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    let mut idle = connect(agent.http);
    idle.write_all(b"GET / HTTP/1.1\r\nHost: nobody.example\r\n\r\n").unwrap();
    assert_eq!(read_reply(&mut idle).status(), 404);
    let mut silent = connect(agent.http);
    let mut running = connect(agent.http);
    running.write_all(GET).unwrap();
    held.wait_for_request();

    agent.terminate();
    agent.logged("told to end");
    assert!(read_to_close(&mut idle).is_empty());
    wait::until(PATIENCE, "it to accept no more", || {
        (std::net::TcpStream::connect(agent.http).is_err()).then_some(())
    })
    .unwrap();
    held.answer();
    assert_eq!(read_reply(&mut running).text(), "late");
    assert!(read_to_close(&mut running).is_empty());
    // Nothing of it had reached the agent.
    let said = silent.write_all(GET).and_then(|()| silent.read(&mut [0]));
    assert_eq!(said.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(agent.wait().code(), Some(0));
}

#[test]
fn drain_timeout_cuts_what_does_not_finish() {
    let (begun, begins) = mpsc::channel();
    let upstream = Upstream::start(move |_, _| {
        begun.send(()).unwrap();
        std::thread::sleep(PATIENCE * 3);
        false
    });
    let mut agent =
        Agent::start(&[("a.example", &upstream.address.to_string())], "drain_timeout = \"300ms\"");
    let mut running = connect(agent.http);
    running.write_all(GET).unwrap();
    begins.recv_timeout(PATIENCE).unwrap();
    agent.terminate();
    agent.logged("drain_timeout passed");
    assert_eq!(agent.wait().code(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once() {
    let (begun, begins) = mpsc::channel();
    let upstream = Upstream::start(move |_, _| {
        begun.send(()).unwrap();
        std::thread::sleep(PATIENCE * 3);
        false
    });
    let mut agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    let mut running = connect(agent.http);
    running.write_all(GET).unwrap();
    begins.recv_timeout(PATIENCE).unwrap();
    agent.terminate();
    agent.logged("told to end");
    agent.terminate();
    assert_eq!(agent.wait().code(), Some(1));
}

#[test]
fn idle_and_slow_clients_are_let_go() {
    let upstream = Upstream::mirror();
    let agent = Agent::start(
        &[("a.example", &upstream.address.to_string())],
        "[timeouts]\nheader = \"300ms\"\nidle = \"300ms\"",
    );
    let start = Instant::now();
    let mut silent = connect(agent.http);
    let mut slow = connect(agent.http);
    slow.write_all(b"GET / HTT").unwrap();
    let mut idle = connect(agent.http);
    idle.write_all(GET).unwrap();
    assert_eq!(read_reply(&mut idle).status(), 200);
    for stream in [&mut silent, &mut slow, &mut idle] {
        read_to_close(stream);
    }
    assert!(start.elapsed() < PATIENCE / 2);
}

#[test]
fn a_connection_to_an_upstream_that_nobody_uses_is_let_go() {
    let (left, leaves) = mpsc::channel();
    let upstream = Upstream::start(move |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        left.send(read_to_close(stream)).unwrap();
        false
    });
    let agent = Agent::start(
        &[("a.example", &upstream.address.to_string())],
        "[timeouts]\nupstream_idle = \"300ms\"",
    );
    assert_eq!(get(&agent, "a.example", "/").status(), 200);
    assert!(leaves.recv_timeout(PATIENCE / 2).unwrap().is_empty());
}

#[test]
fn a_connection_ends_with_its_last_request() {
    let upstream = Upstream::mirror();
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "[limits]\nrequests = 2");
    let mut stream = connect(agent.http);
    for last in [false, true] {
        stream.write_all(GET).unwrap();
        let reply = read_reply(&mut stream);
        assert_eq!((reply.status(), reply.field("connection")), (200, last.then_some("close")), "{reply:?}");
    }
    assert!(read_to_close(&mut stream).is_empty());
    agent.metrics_with(&["rprox_limit_hits_total{limit=\"requests\"} 1"]);
}

#[test]
fn over_the_limit_of_connections_is_a_503() {
    let upstream = Upstream::mirror();
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "[limits]\nconnections = 1");
    let mut first = connect(agent.http);
    first.write_all(GET).unwrap();
    assert_eq!(read_reply(&mut first).status(), 200);
    let mut second = connect(agent.http);
    assert_eq!(read_reply(&mut second).status(), 503);
    agent.metrics_with(&["rprox_limit_hits_total{limit=\"connections\"} 1"]);
    drop(first);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut next = connect(agent.http);
        let _ = next.write_all(GET);
        if read_reply(&mut next).status() == 200 {
            break;
        }
        assert!(Instant::now() < deadline, "its place is not given back");
    }
}
