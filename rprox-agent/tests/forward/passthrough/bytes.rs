//! Bytes arrive as they were sent, however many.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::thread;

use super::{raw, raw_connection, route};
use crate::agent::Agent;

const LENGTH: usize = 100 << 20;

/// What is sent, again and again: no piece that is lost, doubled or out of order leaves it as it was.
fn pattern(seed: u64) -> Vec<u8> {
    let mut state = seed;
    // A prime number of bytes, so that no buffer's size divides it.
    let bytes = (0..1_048_573).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    });
    bytes.collect()
}

/// Sends all and then closes that half.
fn send(mut to: &TcpStream, pattern: &[u8]) {
    let mut left = LENGTH;
    while left > 0 {
        let part = &pattern[..left.min(pattern.len())];
        to.write_all(part).unwrap();
        left -= part.len();
    }
    to.shutdown(Shutdown::Write).unwrap();
}

/// Reads all to the end, and that it is what it should be.
fn receive(mut from: &TcpStream, pattern: &[u8]) {
    let (mut piece, mut length) = (vec![0; pattern.len()], 0);
    while length < LENGTH {
        let part = &pattern[..(LENGTH - length).min(pattern.len())];
        from.read_exact(&mut piece[..part.len()]).unwrap();
        assert!(
            piece[..part.len()] == *part,
            "other bytes arrive between {length} and {}",
            length + part.len()
        );
        length += part.len();
    }
    assert_eq!(from.read(&mut piece).unwrap(), 0, "more arrives than was sent");
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
    let mut agent = Agent::start_by(&[], &more, |program| {
        let mut strace = Command::new("strace");
        strace.args([
            // The agent is then our child, and strace the one that ends with it.
            "-D",
            "-f",
            "-qq",
            "-e",
            "trace=splice",
            "-e",
            "inject=splice:error=EINVAL",
            "-o",
            "/dev/null",
        ]);
        strace.arg(program);
        strace
    });
    let (client, upstream) = raw_connection(&agent, &listener);
    both_ways(&client, &upstream);
    agent.logged("splice is refused");
}
