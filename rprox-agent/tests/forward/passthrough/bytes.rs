//! Bytes arrive as they were sent, however many.

use std::io::Read;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use super::{raw, raw_connection, route};
use crate::agent::Agent;
use crate::bulk::{self, LENGTH, pattern, without_splice};

/// Sends all and then closes that half.
fn send(mut to: &TcpStream, pattern: &[u8]) {
    bulk::send(&mut to, pattern);
    to.shutdown(Shutdown::Write).unwrap();
}

/// Reads all to the end.
fn receive(mut from: &TcpStream, pattern: &[u8]) {
    bulk::receive(&mut from, pattern);
    assert_eq!(from.read(&mut [0]).unwrap(), 0, "more arrives than was sent");
}

fn both_ways(client: &TcpStream, upstream: &TcpStream) {
    let (up, down) = (pattern(1), pattern(2));
    thread::scope(|scope| {
        scope.spawn(|| send(client, &up));
        scope.spawn(|| send(upstream, &down));
        scope.spawn(|| receive(upstream, &up));
        scope.spawn(|| receive(client, &down));
    });
}

#[test]
fn a_hundred_megabytes_both_ways_at_once_are_untouched() {
    let (agent, client, upstream) = raw("");
    both_ways(&client, &upstream);
    let hello = super::hello("raw.example").len();
    agent.metrics_with(&[
        format!(
            "rprox_passthrough_bytes_total{{route=\"raw.example\",direction=\"received\"}} {}",
            LENGTH + hello
        ),
        format!("rprox_passthrough_bytes_total{{route=\"raw.example\",direction=\"sent\"}} {LENGTH}"),
        "rprox_passthrough_connections_open{route=\"raw.example\"} 0".to_owned(),
    ]);
}

#[test]
fn where_splice_is_refused_bytes_are_copied() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let more = route("raw.example", listener.local_addr().unwrap());
    let mut agent = Agent::start_by(&[], &more, without_splice);
    let (client, upstream) = raw_connection(&agent, &listener);
    both_ways(&client, &upstream);
    agent.logged("splice is refused");
}
