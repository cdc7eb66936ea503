//! Which connections are passed through, however their `ClientHello` comes.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;

use rustls::StreamOwned;

use super::{Secure, client, echoes, hello, over_tls, route};
use crate::agent::Agent;
use crate::client::{ask_over_tls, connect, read_to_close};
use crate::upstream::Upstream;

/// The alert that says that nobody here has the name.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

#[test]
fn the_upstream_s_certificate_is_seen_for_each_kind_of_host_and_ours_for_the_others() {
    let [exact, wild, any] = ["exact.example", "one.wild.example", "any.example"].map(Secure::start);
    let ours = Upstream::mirror();
    let more = [
        route("exact.example", exact.address),
        route("*.wild.example", wild.address),
        route("*", any.address),
    ];
    let agent = Agent::start(&[("secure.example", &ours.address.to_string())], &more.concat());
    for (name, upstream) in [("exact.example", &exact), ("one.wild.example", &wild), ("any.example", &any)] {
        assert!(echoes(&mut over_tls(&agent, name, &upstream.certificate), "hello"), "{name}");
    }
    let reply = ask_over_tls(&agent, "secure.example", "GET / HTTP/1.1\r\nHost: secure.example\r\n\r\n");
    assert_eq!(reply.status(), 200, "a route that terminates is more specific than *");
}

#[test]
fn a_template_passes_through_to_what_it_allows() {
    let upstream = Secure::start("one.pods.example");
    let more = format!(
        "[[route]]\nhost = \"*.pods.example\"\ntls = \"passthrough\"\nupstream = \"127.0.0.{{1}}:{}\"\nallow = [\"1\"]\n",
        upstream.address.port()
    );
    let agent = Agent::start(&[], &more);
    let mut stream = connect(agent.https);
    stream.write_all(&hello("2.pods.example")).unwrap();
    assert_eq!(read_to_close(&mut stream), UNRECOGNIZED_NAME);
    let mut stream = connect(agent.https);
    stream.write_all(&hello("1.pods.example")).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 1, "the upstream answers");
}

#[test]
fn a_hello_in_segments_of_one_byte_is_whole_in_the_end() {
    let upstream = Secure::start("a.example");
    let agent = Agent::start(&[], &route("a.example", upstream.address));
    let mut connection = client("a.example", &upstream.certificate, &[]);
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    let mut tcp = connect(agent.https);
    tcp.set_nodelay(true).unwrap();
    for byte in bytes {
        tcp.write_all(&[byte]).unwrap();
    }
    assert!(echoes(&mut StreamOwned::new(connection, tcp), "hello"));
}

#[test]
fn a_hello_in_many_records_is_whole_in_the_end() {
    let upstream = Secure::start("a.example");
    let agent = Agent::start(&[], &route("a.example", upstream.address));
    let mut connection = client("a.example", &upstream.certificate, &[]);
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    let (header, message) = bytes.split_at(5);
    let mut tcp = connect(agent.https);
    for part in message.chunks(100) {
        tcp.write_all(&[&header[..3], &u16::try_from(part.len()).unwrap().to_be_bytes(), part].concat())
            .unwrap();
    }
    assert!(echoes(&mut StreamOwned::new(connection, tcp), "hello"));
}

#[test]
fn what_names_no_host_that_is_passed_through_goes_on_as_before() {
    let upstream = Secure::start("a.example");
    let ours = Upstream::mirror();
    let agent =
        Agent::start(&[("secure.example", &ours.address.to_string())], &route("a.example", upstream.address));
    let mut unknown = connect(agent.https);
    unknown.write_all(&hello("unknown.example")).unwrap();
    assert_eq!(read_to_close(&mut unknown), UNRECOGNIZED_NAME);
    let mut not_tls = connect(agent.https);
    not_tls.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    let said = read_to_close(&mut not_tls);
    assert!(!said.starts_with(b"HTTP/"), "{said:?}");
    // An address is no name (RFC 6066 section 3), so none is asked for.
    let mut nameless = client("127.0.0.1", &agent.certificate, &[]);
    let mut tcp = connect(agent.https);
    let refused = nameless.complete_io(&mut tcp).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidData);
    assert!(refused.to_string().contains("only valid for DnsName(\"secure.example\")"), "{refused}");
    agent.metrics_with(&["rprox_passthrough_connections_total{route=\"a.example\"} 0"]);
}

#[test]
fn a_hello_that_does_not_end_is_cut() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let more = format!("timeouts.header = \"300ms\"\n{}", route("a.example", upstream.local_addr().unwrap()));
    let agent = Agent::start(&[], &more);
    let hello = hello("a.example");
    let mut slow = connect(agent.https);
    slow.write_all(&hello[..hello.len() - 1]).unwrap();
    assert_eq!(read_to_close(&mut slow), b"");
    agent.metrics_with(&["rprox_tls_handshakes_failed_total{reason=\"timed_out\"} 1"]);
    // One that is larger than a handshake's message can be.
    let mut huge = connect(agent.https);
    let record = [&[22, 3, 1, 0x40, 0][..], &[1, 0xff, 0xff, 0xff], &[0; 0x4000 - 4]].concat();
    let _ = huge.write_all(&record);
    let _ = huge.write_all(&record);
    read_to_close(&mut huge);
    upstream.set_nonblocking(true).unwrap();
    assert_eq!(upstream.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn validations_of_the_upstream_s_certificate_go_to_the_upstream() {
    let upstream = Secure::start("a.example");
    let agent = Agent::start(&[], &route("a.example", upstream.address));
    let connection = client("a.example", &upstream.certificate, &["acme-tls/1"]);
    let mut stream = StreamOwned::new(connection, connect(agent.https));
    assert!(echoes(&mut stream, "hello"));
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"acme-tls/1"[..]));
}
