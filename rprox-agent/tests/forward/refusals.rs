//! What the agent answers itself.

use std::io::Write;

use crate::agent::{Agent, PATIENCE, free_address};
use crate::client::{ask, ask_over_tls, connect, get, read_reply, read_to_close};
use crate::names;
use crate::upstream::{Deaf, Upstream};

#[test]
fn plain_http_is_redirected_where_there_is_a_certificate() {
    let upstream = Upstream::mirror();
    let address = upstream.address.to_string();
    let agent = Agent::start(&[("secure.example", &address), ("plain.example", &address)], "");
    let reply = get(&agent, "Secure.Example.:80", "/x?y=1");
    assert_eq!(reply.status(), 301);
    assert_eq!(reply.field("location"), Some("https://secure.example/x?y=1"));
    let post = "POST /x HTTP/1.1\r\nHost: secure.example\r\nContent-Length: 1\r\n\r\nx";
    assert_eq!(ask(&agent, post).status(), 308);
    assert_eq!(get(&agent, "plain.example", "/").status(), 200);
}

#[test]
fn a_host_without_a_route_or_another_certificate_s_is_told_so() {
    let upstream = Upstream::mirror();
    let agent = Agent::start(&[("secure.example", &upstream.address.to_string())], "");
    let reply = get(&agent, "nobody.example", "/");
    assert_eq!(reply.status(), 404);
    assert_eq!(reply.text(), "404 Not Found: no route leads from here\n");
    let reply = ask_over_tls(&agent, "secure.example", "GET / HTTP/1.1\r\nHost: plain.example\r\n\r\n");
    assert_eq!(reply.status(), 421);
    let reply = ask_over_tls(&agent, "secure.example", "GET / HTTP/1.1\r\nHost: other.example\r\n\r\n");
    assert_eq!(reply.status(), 404, "covered by the certificate, but no route");
}

#[test]
fn malformed_requests_get_their_status_and_the_process_lives() {
    let upstream = Upstream::mirror();
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "[limits]\nbody_bytes = 10");
    let big = "y".repeat(80_000);
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost : a.example\r\n\r\n".to_owned(), 400),
        ("\u{16}\u{3}\u{1}\r\n\r\n".to_owned(), 400),
        (format!("GET / HTTP/1.1\r\nHost: a.example\r\nX: {big}\r\n\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nHost: a.example\r\n{}\r\n", "X: y\r\n".repeat(200)), 431),
        ("CONNECT a.example:80 HTTP/1.1\r\nHost: a.example\r\n\r\n".to_owned(), 501),
        ("TRACE / HTTP/1.1\r\nHost: a.example\r\n\r\n".to_owned(), 501),
        ("OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n".to_owned(), 204),
        (
            "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"
                .to_owned(),
            501,
        ),
        ("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 11\r\n\r\n12345678901".to_owned(), 413),
        ("GET http://a.example/ HTTP/1.1\r\nHost: nobody.example\r\n\r\n".to_owned(), 200),
    ] {
        let reply = ask(&agent, &request);
        assert_eq!(reply.status(), status, "{}", request.chars().take(80).collect::<String>());
    }
}

#[test]
fn a_client_whose_body_is_not_read_is_told_that_its_connection_ends() {
    let agent = Agent::start(&[("a.example", "127.0.0.1:1")], "[limits]\nbody_bytes = 10");
    for (host, more, sent, status, closes) in [
        ("nobody.example", "Content-Length: 5", "hello", 404, false),
        ("nobody.example", "Content-Length: 6", "hello", 404, true),
        ("nobody.example", "Content-Length: 6\r\nExpect: 100-continue", "", 404, true),
        ("nobody.example", "Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n", 404, false),
        ("nobody.example", "Transfer-Encoding: chunked", "5\r\nhello\r\n", 404, true),
        ("a.example", "Content-Length: 11", "", 413, true),
    ] {
        let mut stream = connect(agent.http);
        // At once, so that the body is there when the head is read.
        let request = format!("POST / HTTP/1.1\r\nHost: {host}\r\n{more}\r\n\r\n{sent}");
        stream.write_all(request.as_bytes()).unwrap();
        let reply = read_reply(&mut stream);
        let said = (reply.status(), reply.field("connection") == Some("close"));
        assert_eq!(said, (status, closes), "{more} {sent}");
        if closes {
            assert!(read_to_close(&mut stream).is_empty(), "{more} {sent}");
        } else {
            write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
            assert_eq!(read_reply(&mut stream).status(), 404, "{more} {sent}");
        }
    }
}

#[test]
fn a_refused_request_s_connection_is_not_trusted_any_more() {
    let upstream = Upstream::mirror();
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    let mut stream = connect(agent.http);
    stream
        .write_all(
            b"GET / HTTP/1.1\r\nHost: a.example\r\nHost: b\r\n\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        )
        .unwrap();
    assert_eq!(read_reply(&mut stream).status(), 400);
    assert!(read_to_close(&mut stream).is_empty());
}

#[test]
fn what_is_no_request_is_counted() {
    let upstream = Upstream::mirror();
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    for nonsense in ["\x16\x03\x01 is TLS\r\n\r\n", "GET / HTTP/1.1\nHost: a.example\n\n"] {
        assert_eq!(ask(&agent, nonsense).status(), 400);
    }
    assert_eq!(get(&agent, "a.example", "/").status(), 200);
    agent.metrics_with(&["rprox_requests_malformed_total 2"]);
}

#[test]
fn an_upstream_that_can_t_be_reached_is_a_502_and_one_log_line() {
    let mut agent = Agent::start(&[("a.example", &free_address().to_string())], "");
    let reply = get(&agent, "a.example", "/");
    assert_eq!(reply.status(), 502);
    assert_eq!(reply.text(), "502 Bad Gateway: the service can't be reached\n");
    let line = agent.logged("502 Bad Gateway");
    assert!(line.contains("WARN") && line.contains("a.example/") && line.contains("refused"), "{line}");
    let more: Vec<_> = agent.log_lines().into_iter().filter(|line| line.contains("WARN")).collect();
    assert!(more.is_empty(), "{more:#?}");
}

#[test]
fn a_name_that_dns_can_t_tell_is_a_503() {
    let more = format!("[dns]\nservers = [\"{}\"]\ntimeout = \"100ms\"\nattempts = 1", free_address());
    let agent = Agent::start(&[("a.example", "nowhere.test.:80")], &more);
    let reply = get(&agent, "a.example", "/");
    assert_eq!(reply.status(), 503);
    assert_eq!(reply.text(), "503 Service Unavailable: the service can't be found at the moment\n");
    agent.metrics_with(&[
        "rprox_dns_look_ups_total{result=\"found\"} 0",
        "rprox_dns_failing_names{serves=\"nothing\"} 1",
    ]);
}

#[test]
fn a_name_that_dns_does_not_have_is_a_502() {
    let more = format!("[dns]\nservers = [\"{}\"]", names::serve(Vec::new()));
    let mut agent = Agent::start(&[("a.example", "nowhere.test.:80")], &more);
    let reply = get(&agent, "a.example", "/");
    assert_eq!(reply.status(), 502);
    assert_eq!(reply.text(), "502 Bad Gateway: the service's name is unknown\n");
    agent.logged("502 Bad Gateway: DNS has no address for nowhere.test");
}

#[test]
fn an_upstream_that_does_not_answer_is_a_504() {
    let upstream = Upstream::start(|_, _| {
        std::thread::sleep(PATIENCE * 3);
        false
    });
    let agent =
        Agent::start(&[("a.example", &upstream.address.to_string())], "[timeouts]\nresponse = \"300ms\"");
    let reply = get(&agent, "a.example", "/");
    assert_eq!(reply.status(), 504);
    assert_eq!(upstream.connections(), 1, "what may have been done once is not done again");
}

#[test]
fn an_upstream_that_can_t_be_connected_to_in_time_is_a_504() {
    let deaf = Deaf::at("127.0.0.1:0".parse().unwrap());
    let agent = Agent::start(
        &[("a.example", &deaf.address.to_string())],
        "[timeouts]\nconnect = \"300ms\"\nresponse = \"1h\"",
    );
    assert_eq!(get(&agent, "a.example", "/").status(), 504);
}

#[test]
fn an_upstream_that_speaks_no_http_is_a_502() {
    let upstream = Upstream::start(|_, stream| {
        stream.write_all(b"SSH-2.0-nothing\r\n").unwrap();
        false
    });
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    let post = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(ask(&agent, post).status(), 502);
}
