//! Memory that runs short.

use std::io::Write;

use rprox_tests::wait;

use crate::agent::{Agent, PATIENCE};
use crate::client::{Reply, connect, read_reply, read_to_close};
use crate::frames::{DATA, END_HEADERS, HEADERS, Peer, WHOLE, WINDOW_UPDATE, frame, request};
use crate::hits;
use crate::upstream::{Deaf, Upstream};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: b.example\r\n\r\n";

/// A connection with requests whose bodies fill all that one may send, and wait for the upstream.
fn uploads(agent: &Agent) -> Peer {
    let mut peer = Peer::connect(agent.http, PATIENCE, &[]);
    // How much that is: more than before it says so.
    while peer.receive().is_some_and(|frame| frame.kind != WINDOW_UPDATE) {}
    for stream in [1, 3, 5, 7] {
        let mut bytes = frame(HEADERS, END_HEADERS, stream, &request("POST", "/", &[]));
        for _ in 0..15 {
            bytes.extend(frame(DATA, 0, stream, &[b'x'; 16_384]));
        }
        peer.send(&bytes);
    }
    peer
}

/// The answer to a request on a connection of its own, which may be refused before it is read.
fn get(agent: &Agent) -> Reply {
    let mut stream = connect(agent.http);
    let _ = stream.write_all(GET);
    read_reply(&mut stream)
}

fn held_by(agent: &Agent) -> u64 {
    hits::number(agent, "rprox_memory_bytes")
}

#[test]
fn without_memory_what_is_new_is_refused_and_what_runs_goes_on_until_there_is_some_again() {
    const LIMIT: u64 = 40 << 20;
    let (mirror, deaf) = (Upstream::mirror(), Deaf::at("127.0.0.1:0".parse().unwrap()));
    let (upstream, held) = Upstream::held("ok");
    let agent = Agent::start_with(
        1,
        &[
            ("a.example", &deaf.address.to_string()),
            ("b.example", &mirror.address.to_string()),
            ("c.example", &upstream.address.to_string()),
        ],
        "[limits]\nmemory = \"40MiB\"\n[timeouts]\nconnect = \"1m\"",
    );
    agent.metrics_with(&[format!("rprox_memory_limit_bytes {LIMIT}")]);
    let mut idle = connect(agent.http);
    idle.write_all(GET).unwrap();
    assert_eq!(read_reply(&mut idle).status(), 200);
    let mut running = connect(agent.http);
    running.write_all(b"GET / HTTP/1.1\r\nHost: c.example\r\n\r\n").unwrap();
    held.wait_for_request();

    let mut peers = Vec::new();
    wait::until(PATIENCE, "memory to run short", || {
        peers.push(uploads(&agent));
        (get(&agent).status() == 503).then_some(())
    })
    .unwrap();
    let reply = get(&agent);
    assert_eq!((reply.status(), reply.field("retry-after")), (503, Some("1")));
    assert_eq!(reply.text(), "503 Service Unavailable: not enough memory\n");
    assert!(read_to_close(&mut connect(agent.https)).is_empty());
    assert!(read_to_close(&mut idle).is_empty());
    // A connection that is in use gets the same answer for another request.
    let peer = &mut peers[0];
    peer.send(&frame(HEADERS, WHOLE, 9, &request("GET", "/", &[])));
    let status = std::iter::from_fn(|| peer.receive())
        .find_map(|frame| frame.status().filter(|_| frame.stream == 9))
        .unwrap();
    assert_eq!(status, 503);
    hits::wait_for(&agent, "memory", 5);
    assert!(held_by(&agent) > LIMIT);
    assert_eq!(agent.admin("/readyz").0, 200);
    held.answer();
    let reply = read_reply(&mut running);
    assert_eq!((reply.status(), reply.field("connection")), (200, Some("close")));
    assert!(read_to_close(&mut running).is_empty());

    drop(peers);
    wait::until(PATIENCE, "memory to be there again", || (get(&agent).status() == 200).then_some(()))
        .unwrap();
    wait::until(PATIENCE, "what was held to be given back", || (held_by(&agent) < LIMIT / 2).then_some(()))
        .unwrap();
}
