//! The metric that tells which limit was hit.

use std::io::Write;

use rprox_tests::wait;

use crate::agent::{Agent, PATIENCE};
use crate::client::{ask, connect, get, read_reply};
use crate::frames::{END_HEADERS, HEADERS, Peer, WHOLE, frame, request, setting};
use crate::upstream::Upstream;

/// Waits until `limit` has been hit as often as this, at least.
pub(crate) fn wait_for(agent: &Agent, limit: &str, times: u64) {
    wait::until(PATIENCE, &format!("{limit} to be hit {times} times"), || {
        (of(agent, limit) >= times).then_some(())
    })
    .unwrap();
}

/// How often `limit` has been hit.
pub(crate) fn of(agent: &Agent, limit: &str) -> u64 {
    number(agent, &format!("rprox_limit_hits_total{{limit=\"{limit}\"}}"))
}

/// What a metric is at.
pub(crate) fn number(agent: &Agent, metric: &str) -> u64 {
    let metrics = agent.admin("/metrics").1;
    let number = metrics.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' ')?.parse().ok());
    number.unwrap()
}

#[test]
fn what_is_too_large_or_too_much_is_refused_and_counted() {
    let (upstream, held) = Upstream::held("ok");
    let agent = Agent::start_with(
        1,
        &[("a.example", &upstream.address.to_string())],
        "[limits]\nbody_bytes = 10\nheader_bytes = \"8KiB\"\nheaders = 10\nupstream_connections = 1",
    );
    let long = "y".repeat(9000);
    let with =
        |fields: &str| ask(&agent, &format!("GET / HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n")).status();
    assert_eq!(with(&format!("X: {long}\r\n")), 431);
    assert_eq!(with(&"X: y\r\n".repeat(10)), 431);
    wait_for(&agent, "headers", 2);
    assert_eq!(with("Content-Length: 11\r\n"), 413);
    wait_for(&agent, "body_bytes", 1);
    let mut running = connect(agent.http);
    running.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    held.wait_for_request();
    let reply = get(&agent, "a.example", "/");
    assert_eq!((reply.status(), reply.field("retry-after")), (503, Some("1")));
    wait_for(&agent, "upstream_connections", 1);
    held.answer();
    assert_eq!(read_reply(&mut running).status(), 200);
}

#[test]
fn what_is_too_much_over_http2_is_refused_and_counted() {
    const REFUSED_STREAM: u32 = 7;
    // Its responses end with their heads, as the refusals do.
    let upstream = Upstream::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        true
    });
    let agent = Agent::start_with(
        1,
        &[("a.example", &upstream.address.to_string())],
        "[limits]\nheader_bytes = \"8KiB\"\nstreams = 2",
    );
    // Without a table for header fields a status is always there to be read.
    let mut peer = Peer::connect(agent.http, PATIENCE, &setting(1, 0));
    let get = request("GET", "/", &[]);
    let long = "y".repeat(9000);
    let too_long = request("GET", "/", &[("x", &long)]);
    for (stream, head, status) in
        [(1, &too_long, 431), (3, &get, 204), (5, &too_long, 431), (7, &too_long, 431), (9, &get, 204)]
    {
        peer.send(&frame(HEADERS, WHOLE, stream, head));
        assert_eq!(answers(&mut peer, 1), [(stream, Ok(status))]);
    }
    let open = request("POST", "/", &[]);
    peer.send(&[11, 13, 15].map(|stream| frame(HEADERS, END_HEADERS, stream, &open)).concat());
    assert_eq!(answers(&mut peer, 3), [(11, Ok(204)), (13, Ok(204)), (15, Err(REFUSED_STREAM))]);
    wait_for(&agent, "streams", 1);
    wait_for(&agent, "headers", 3);
    assert_eq!((of(&agent, "streams"), of(&agent, "headers")), (1, 3));
}

/// So many streams' status, or the code of their reset, in the streams' order.
fn answers(peer: &mut Peer, count: usize) -> Vec<(u32, Result<u16, u32>)> {
    let mut answers = Vec::new();
    while answers.len() < count {
        let frame = peer.receive().unwrap();
        match (frame.status(), frame.code()) {
            (Some(status), _) => answers.push((frame.stream, Ok(status))),
            (None, Some(code)) => answers.push((frame.stream, Err(code))),
            (None, None) => {}
        }
    }
    answers.sort_unstable();
    answers
}
