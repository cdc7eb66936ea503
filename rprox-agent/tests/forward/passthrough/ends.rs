//! How connections end, and what one end learns of the other's end.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::time::{Duration, Instant};

use rprox_tests::wait;
use socket2::SockRef;

use super::{hello, raw, route};
use crate::agent::{Agent, PATIENCE, free_address};
use crate::client::{connect, read_to_close};
use crate::upstream::Deaf;

/// A fatal `internal_error`.
const INTERNAL_ERROR: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

#[test]
fn each_half_is_closed_when_its_sender_has_closed_it() {
    let (_agent, mut client, mut upstream) = raw("");
    client.write_all(b"last words").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut heard = Vec::new();
    upstream.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"last words");
    upstream.write_all(b"and an answer").unwrap();
    drop(upstream);
    assert_eq!(read_to_close(&mut client), b"and an answer");

    let (_agent, mut client, mut upstream) = raw("");
    upstream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    client.write_all(b"still here").unwrap();
    drop(client);
    assert_eq!(read_to_close(&mut upstream), b"still here");
}

#[test]
fn a_reset_of_one_side_is_a_reset_of_the_other() {
    for of_client in [true, false] {
        let (agent, client, upstream) = raw("");
        let (mut one, mut other) = if of_client { (upstream, client) } else { (client, upstream) };
        SockRef::from(&other).set_linger(Some(Duration::ZERO)).unwrap();
        other.flush().unwrap();
        drop(other);
        assert_eq!(one.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        agent.metrics_with(&["rprox_passthrough_connections_open{route=\"raw.example\"} 0"]);
    }
}

#[test]
fn silence_ends_a_connection_after_its_time_out() {
    let (agent, mut client, mut upstream) = raw("timeouts.tunnel = \"300ms\"");
    assert_eq!(read_to_close(&mut client), b"");
    assert_eq!(read_to_close(&mut upstream), b"");
    agent.metrics_with(&["rprox_limit_hits_total{limit=\"timeouts.tunnel\"} 1"]);
}

#[test]
fn a_receiver_that_takes_nothing_for_longer_than_connecting_may_take_is_waited_for() {
    let (_agent, mut client, mut upstream) = raw("timeouts.connect = \"200ms\"");
    client.set_nonblocking(true).unwrap();
    let (mut sent, mut last) = (0, Instant::now());
    wait::until(PATIENCE, "the way to have been full for a second", || {
        while let Ok(written) = client.write(&[7; 16384]) {
            (sent, last) = (sent + written, Instant::now());
        }
        (last.elapsed() > Duration::from_secs(1)).then_some(())
    })
    .unwrap();
    client.set_nonblocking(false).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut heard = Vec::new();
    upstream.read_to_end(&mut heard).unwrap();
    assert_eq!(heard.len(), sent);
}

#[test]
fn an_endpoint_that_takes_no_connection_is_passed_over() {
    let (dead, alive) = (free_address(), TcpListener::bind("127.0.0.1:0").unwrap());
    let upstreams = format!("[\"{dead}\", \"{}\"]", alive.local_addr().unwrap());
    let agent = Agent::start(&[], &route("a.example", upstreams));
    let hello = hello("a.example");
    for _ in 0..20 {
        let mut client = connect(agent.https);
        client.write_all(&hello).unwrap();
        let (mut upstream, _) = alive.accept().unwrap();
        let mut seen = vec![0; hello.len()];
        upstream.read_exact(&mut seen).unwrap();
        assert_eq!(seen, hello);
    }
    agent.metrics_with(&[
        "rprox_passthrough_connections_total{route=\"a.example\"} 20",
        "rprox_passthrough_failures_total{route=\"a.example\"} 0",
    ]);
}

#[test]
fn where_no_endpoint_takes_the_connection_the_client_is_told_and_the_operator_too() {
    let mut agent = Agent::start(&[], &route("a.example", free_address()));
    let mut client = connect(agent.https);
    client.write_all(&hello("a.example")).unwrap();
    assert_eq!(read_to_close(&mut client), INTERNAL_ERROR);
    assert!(agent.logged("can't connect").contains("a.example"));
    assert!(agent.logged("protocol=TLS").contains("status=502"));
    agent.metrics_with(&["rprox_passthrough_failures_total{route=\"a.example\"} 1"]);

    let deaf = Deaf::at("127.0.0.1:0".parse().unwrap());
    let mut agent =
        Agent::start(&[], &format!("timeouts.connect = \"200ms\"\n{}", route("a.example", deaf.address)));
    let mut client = connect(agent.https);
    client.write_all(&hello("a.example")).unwrap();
    assert_eq!(read_to_close(&mut client), INTERNAL_ERROR);
    assert!(agent.logged("protocol=TLS").contains("status=504"));
}

#[test]
fn an_endpoint_has_as_many_connections_as_it_may() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let more = route("a.example", listener.local_addr().unwrap());
    let agent = Agent::start_with(1, &[], &format!("limits.upstream_connections = 1\n{more}"));
    let hello = hello("a.example");
    let mut first = connect(agent.https);
    first.write_all(&hello).unwrap();
    let (_upstream, _) = listener.accept().unwrap();
    let mut second = connect(agent.https);
    second.write_all(&hello).unwrap();
    assert_eq!(read_to_close(&mut second), INTERNAL_ERROR);
    agent.metrics_with(&["rprox_limit_hits_total{limit=\"upstream_connections\"} 1"]);
}
