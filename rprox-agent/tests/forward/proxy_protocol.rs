//! Connections that a load balancer passes on.

use std::io::Write;
use std::process::Command;
use std::time::Instant;

use crate::agent::{Agent, PATIENCE};
use crate::client::{Reply, connect, over_tls, read_reply, read_to_close};
use crate::upstream::Upstream;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn binary() -> Vec<u8> {
    let client: std::net::Ipv6Addr = "2001:db8::7".parse().unwrap();
    let server: std::net::Ipv6Addr = "2001:db8::1".parse().unwrap();
    let tlv = [&[1, 0, 5][..], b"h2\r\n\r"].concat();
    let length = [0, 36 + 8];
    [SIGNATURE, &[0x21, 0x21], &length, &client.octets(), &server.octets(), &[0x12, 0x67, 1, 187], &tlv]
        .concat()
}

/// An agent to whom 127.0.0.1 is a load balancer, and an upstream that says what it saw.
fn start(more: &str) -> (Agent, Upstream) {
    let upstream = Upstream::mirror();
    let address = upstream.address.to_string();
    let more = format!("listen.proxy_protocol = [\"127.0.0.1\"]\n{more}");
    (Agent::start(&[("a.example", &address), ("secure.example", &address)], &more), upstream)
}

fn saw(reply: &Reply, line: &str) -> bool {
    reply.text().lines().any(|seen| seen == line)
}

#[test]
fn the_client_is_who_the_header_says() {
    let (mut agent, _upstream) = start("");
    for (header, client, forwarded) in
        [(LINE.to_vec(), "192.0.2.7", "for=192.0.2.7;"), (binary(), "2001:db8::7", "for=\"[2001:db8::7]\";")]
    {
        let mut stream = connect(agent.http);
        stream.write_all(&[&header, GET].concat()).unwrap();
        let reply = read_reply(&mut stream);
        assert!(saw(&reply, &format!("x-forwarded-for: {client}")), "{reply:?}");
        assert!(reply.text().contains(forwarded), "{reply:?}");
        agent.logged(&format!("client={client}"));
        stream.write_all(GET).unwrap();
        assert!(
            saw(&read_reply(&mut stream), &format!("x-forwarded-for: {client}")),
            "the next request's too"
        );
    }
}

#[test]
fn the_header_comes_before_tls() {
    let (agent, _upstream) = start("");
    let mut tcp = connect(agent.https);
    tcp.write_all(LINE).unwrap();
    let mut stream = over_tls(&agent, "secure.example", tcp);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: secure.example\r\n\r\n").unwrap();
    assert!(saw(&read_reply(&mut stream), "x-forwarded-for: 192.0.2.7"));
}

#[test]
fn a_header_may_come_a_byte_at_a_time() {
    let (agent, _upstream) = start("");
    for header in [LINE.to_vec(), binary()] {
        let mut stream = connect(agent.http);
        for byte in &header {
            stream.write_all(&[*byte]).unwrap();
        }
        stream.write_all(GET).unwrap();
        assert_eq!(read_reply(&mut stream).status(), 200);
    }
}

#[test]
fn a_load_balancer_s_own_connection_is_its_own() {
    let (agent, _upstream) = start("");
    let local = [SIGNATURE, &[0x20, 0, 0, 0]].concat();
    for header in [&b"PROXY UNKNOWN\r\n"[..], &local] {
        let mut stream = connect(agent.http);
        stream.write_all(&[header, GET].concat()).unwrap();
        assert!(saw(&read_reply(&mut stream), "x-forwarded-for: 127.0.0.1"));
    }
}

#[test]
fn a_load_balancer_that_sends_no_header_is_refused_and_the_log_says_so() {
    let (mut agent, upstream) = start("");
    for (bytes, reason) in [
        (GET, "does not begin with a PROXY header"),
        (b"PROXY TCP4 nobody nobody 1 1\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n", "malformed"),
        (b"PROXY TCP4 192.0.2.7", "a line without its end"),
    ] {
        let mut stream = connect(agent.http);
        stream.write_all(bytes).unwrap();
        // It may have been closed already.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        assert!(read_to_close(&mut stream).is_empty());
        let line = agent.logged("connection refused");
        assert!(line.contains(reason) && line.contains("WARN"), "{line}");
    }
    assert_eq!(upstream.connections(), 0);
    agent.metrics_with(&["rprox_proxy_headers_refused_total 3"]);
    drop(connect(agent.http));
    let more: Vec<_> = agent.log_lines().into_iter().filter(|line| line.contains("WARN")).collect();
    assert!(more.is_empty(), "a health check that only connects is nothing to speak of: {more:#?}");
}

#[test]
fn a_header_that_does_not_come_is_not_waited_for() {
    let (mut agent, _upstream) = start("[timeouts]\nheader = \"300ms\"");
    let start = Instant::now();
    let mut stream = connect(agent.http);
    stream.write_all(b"PROXY TCP4 ").unwrap();
    assert!(read_to_close(&mut stream).is_empty());
    assert!(start.elapsed() < PATIENCE / 2);
    agent.logged("within timeouts.header");
}

#[test]
fn who_is_no_load_balancer_is_served_plainly_and_not_believed() {
    let upstream = Upstream::mirror();
    let agent = Agent::start(
        &[("a.example", &upstream.address.to_string())],
        "listen.proxy_protocol = [\"192.0.2.0/24\", \"2001:db8::/32\"]",
    );
    let mut stream = connect(agent.http);
    stream.write_all(GET).unwrap();
    assert!(saw(&read_reply(&mut stream), "x-forwarded-for: 127.0.0.1"));
    let mut stream = connect(agent.http);
    stream.write_all(&[LINE, GET].concat()).unwrap();
    assert_eq!(read_reply(&mut stream).status(), 400);
}

#[test]
fn curl_s_header_is_understood() {
    let (agent, _upstream) = start("");
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "20", "--haproxy-protocol", "--resolve"])
        .arg(format!("a.example:{}:127.0.0.1", agent.http.port()))
        .arg(format!("http://a.example:{}/", agent.http.port()))
        .output()
        .expect("curl runs");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("x-forwarded-for: 127.0.0.1"), "{text}");
}
