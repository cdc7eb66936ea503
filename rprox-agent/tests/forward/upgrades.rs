//! Connections that change to another protocol.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::time::Instant;

use crate::agent::{Agent, PATIENCE};
use crate::client::{connect, connect_over_tls, echo_of, get, read_head, read_reply, read_to_close};
use crate::upstream::Upstream;

const OFFER: &str = "GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const ACCEPT: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                        Sec-WebSocket-Accept: HSmrc0sMlYUkAGmm5OPpG2HaGWk=\r\n\r\n";

/// Accepts every offer, says hello in the same breath, and then sends back what it gets until the client has no more.
fn echo() -> Upstream {
    Upstream::start(|head, stream| {
        if !head.contains("upgrade: ") {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len()).unwrap();
            return true;
        }
        stream.write_all(&[ACCEPT, b"hello "].concat()).unwrap();
        std::io::copy(&mut stream.try_clone().unwrap(), stream).unwrap();
        stream.write_all(b" bye").unwrap();
        false
    })
}

fn switch(stream: &mut TcpStream) {
    stream.write_all(OFFER.as_bytes()).unwrap();
    let head = read_head(stream);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
}

#[test]
fn a_websocket_s_bytes_pass_both_ways_and_none_is_lost() {
    let upstream = echo();
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    let mut stream = connect(agent.http);
    // What follows the offer in the same segment is the new protocol's already.
    stream.write_all(format!("{OFFER}early ").as_bytes()).unwrap();
    let head = read_head(&mut stream).to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    for field in ["connection: upgrade\r\n", "upgrade: websocket\r\n", "sec-websocket-accept: hsmrc0"] {
        assert!(head.contains(field), "{field} is not in {head}");
    }
    assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
    let mut greeting = [0; 12];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"hello early ");
    // More than any buffer on the way holds, so that both ways are full at once.
    let rest = echo_of(&mut stream, 8 << 20);
    assert_eq!(rest, b" bye", "the other way stays open when one is closed");
}

#[test]
fn a_websocket_passes_over_tls() {
    let upstream = echo();
    let agent = Agent::start(&[("secure.example", &upstream.address.to_string())], "");
    let mut stream = connect_over_tls(&agent, "secure.example");
    stream.write_all(OFFER.replace("a.example", "secure.example").as_bytes()).unwrap();
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "));
    stream.write_all(b"over TLS").unwrap();
    let mut echoed = [0; 14];
    stream.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"hello over TLS");
}

#[test]
fn the_upstream_sees_the_offer_and_who_made_it() {
    let (heads, seen) = mpsc::channel();
    let upstream = Upstream::start(move |head, stream| {
        heads.send(head.to_owned()).unwrap();
        stream.write_all(ACCEPT).unwrap();
        false
    });
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    let with_te = OFFER.replace("Upgrade\r\n", "Upgrade, TE\r\nTE: trailers\r\n");
    connect(agent.http).write_all(with_te.as_bytes()).unwrap();
    let head = seen.recv_timeout(PATIENCE).unwrap();
    assert!(head.contains("\r\nconnection: upgrade, te\r\n"), "{head}");
    switch(&mut connect(agent.http));
    let head = seen.recv_timeout(PATIENCE).unwrap();
    for field in [
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-version: 13",
        "x-forwarded-for: 127.0.0.1",
    ] {
        assert!(head.lines().any(|line| line == field), "{field} is not in {head}");
    }
}

#[test]
fn a_route_s_key_says_which_protocols_are_offered() {
    let upstream = echo();
    let more = format!(
        "[[route]]\nhost = \"tcp.example\"\nupstream = \"{0}\"\nupgrade = [\"tcp\"]\n\
         [[route]]\nhost = \"none.example\"\nupstream = \"{0}\"\nupgrade = []",
        upstream.address
    );
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], &more);
    for (host, protocol, status) in [
        ("a.example", "tcp", 200),
        ("a.example", "h2c", 200),
        ("a.example", "h2c, websocket", 101),
        ("tcp.example", "websocket", 200),
        ("none.example", "websocket", 200),
    ] {
        let mut stream = connect(agent.http);
        let offer = OFFER.replace("a.example", host).replace("websocket", protocol);
        stream.write_all(offer.as_bytes()).unwrap();
        let reply = read_reply(&mut stream);
        assert_eq!(reply.status(), status, "{host} {protocol}: {reply:?}");
        assert!(!reply.text().contains("upgrade"), "{host} {protocol}: {reply:?}");
        if status == 200 {
            stream.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).unwrap();
            assert_eq!(read_reply(&mut stream).status(), 200, "the connection goes on in HTTP/1.1");
        }
    }
}

#[test]
fn an_offer_with_a_body_is_a_request_like_any_other() {
    let upstream = Upstream::start(|head, stream| {
        assert!(!head.contains("upgrade"), "{head}");
        let mut body = [0; 5];
        stream.read_exact(&mut body).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").unwrap();
        stream.write_all(&body).unwrap();
        true
    });
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    let mut stream = connect(agent.http);
    let offer = OFFER.replace("GET", "POST").replace("Host:", "Content-Length: 5\r\nHost:");
    stream.write_all(format!("{offer}world").as_bytes()).unwrap();
    assert_eq!(read_reply(&mut stream).text(), "world");
}

#[test]
fn an_upstream_that_keeps_to_http_is_heard() {
    let upstream = Upstream::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").unwrap();
        true
    });
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    let mut stream = connect(agent.http);
    for _ in 0..3 {
        stream.write_all(OFFER.as_bytes()).unwrap();
        let reply = read_reply(&mut stream);
        assert_eq!((reply.status(), reply.text()), (403, "no"));
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_switch_that_nobody_asked_for_is_a_502() {
    let upstream = Upstream::start(|_, stream| {
        stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: tcp\r\n\r\n")
            .unwrap();
        true
    });
    let mut agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    assert_eq!(get(&agent, "a.example", "/").status(), 502);
    agent.logged("did not offer");
    let mut stream = connect(agent.http);
    stream.write_all(OFFER.as_bytes()).unwrap();
    assert_eq!(read_reply(&mut stream).status(), 502, "another protocol than the one that was offered");
}

#[test]
fn a_tunnel_s_connection_is_used_for_nothing_else() {
    let upstream = echo();
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    assert_eq!(get(&agent, "a.example", "/").status(), 200);
    let mut tunnel = connect(agent.http);
    switch(&mut tunnel);
    for _ in 0..8 {
        assert_eq!(get(&agent, "a.example", "/").status(), 200);
    }
    agent.metrics_with(&["rprox_tunnels_total 1", "rprox_tunnels_open 1"]);
    tunnel.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_close(&mut tunnel), b"hello  bye");
    agent.metrics_with(&["rprox_tunnels_total 1", "rprox_tunnels_open 0"]);
    for _ in 0..8 {
        assert_eq!(get(&agent, "a.example", "/").status(), 200);
    }
}

#[test]
fn a_silent_tunnel_is_closed_after_its_time_out() {
    let upstream = echo();
    let agent = Agent::start(
        &[("a.example", &upstream.address.to_string())],
        "[timeouts]\ntunnel = \"300ms\"\nidle = \"1s\"",
    );
    let mut stream = connect(agent.http);
    let start = Instant::now();
    switch(&mut stream);
    assert_eq!(read_to_close(&mut stream), b"hello ");
    assert!(start.elapsed() < PATIENCE / 2);
    agent.metrics_with(&["rprox_limit_hits_total{limit=\"timeouts.tunnel\"} 1"]);
}

#[test]
fn an_upstream_that_closes_its_tunnel_closes_the_client_s() {
    let upstream = Upstream::start(|_, stream| {
        stream.write_all(&[ACCEPT, b"bye"].concat()).unwrap();
        false
    });
    let mut agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    let mut stream = connect(agent.http);
    switch(&mut stream);
    assert_eq!(read_to_close(&mut stream), b"bye");
    drop(stream);
    let line = agent.logged("status=101");
    assert!(line.contains("bytes=3") && line.contains("path=\"/chat\""), "{line}");
}

#[test]
fn a_tunnel_is_cut_when_drain_timeout_has_passed() {
    let upstream = echo();
    let mut agent =
        Agent::start(&[("a.example", &upstream.address.to_string())], "drain_timeout = \"300ms\"");
    let mut stream = connect(agent.http);
    switch(&mut stream);
    agent.terminate();
    agent.logged("drain_timeout passed");
    assert_eq!(read_to_close(&mut stream), b"hello ");
    assert_eq!(agent.wait().code(), Some(0));
}
