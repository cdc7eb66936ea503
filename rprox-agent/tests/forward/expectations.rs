//! `Expect: 100-continue`: a body that nobody wants is never sent.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver};

use bytes::Bytes;
use futures_util::stream;
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::timeout;

use crate::agent::{Agent, PATIENCE};
use crate::client::{connect, read_head, read_reply, read_to_close};
use crate::upstream::Upstream;

const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

/// Announces a body of five bytes.
fn announce(agent: &Agent) -> TcpStream {
    let mut stream = connect(agent.http);
    announce_on(&mut stream);
    stream
}

fn announce_on(stream: &mut TcpStream) {
    stream
        .write_all(b"PUT /x HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\nExpect: 100-Continue\r\n\r\n")
        .unwrap();
}

/// An upstream that answers a head with this, and tells what comes behind it until the connection ends.
fn refusing(answer: &'static str) -> (Upstream, Receiver<(String, Vec<u8>)>) {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let upstream = Upstream::start(move |head, stream| {
        stream.write_all(answer.as_bytes()).unwrap();
        let rest = read_to_close(stream);
        tell.lock().unwrap().send((head.to_owned(), rest)).unwrap();
        false
    });
    (upstream, told)
}

/// An upstream that asks for the body if it is to, and answers with it.
fn taking(asks: bool) -> Upstream {
    Upstream::start(move |head, stream| {
        assert!(!asks || head.contains("\r\nexpect: 100-continue\r\n"), "{head}");
        if asks {
            stream.write_all(CONTINUE.as_bytes()).unwrap();
        }
        let mut body = [0; 5];
        stream.read_exact(&mut body).unwrap();
        let expected = head.contains("\r\nexpect: ");
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Expected: {expected}\r\n\r\n").unwrap();
        stream.write_all(&body).unwrap();
        true
    })
}

#[test]
fn an_upstream_that_refuses_by_the_head_spares_the_client_its_body() {
    for (answer, status, body) in [
        ("HTTP/1.1 401 Unauthorized\r\nContent-Length: 4\r\n\r\nwho?", 401, "who?"),
        ("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n", 417, ""),
        ("HTTP/1.1 307 Temporary Redirect\r\nLocation: /y\r\nContent-Length: 0\r\n\r\n", 307, ""),
    ] {
        let (upstream, told) = refusing(answer);
        let more = "[timeouts]\nexpect = \"1h\"";
        let agent = Agent::start(&[("a.example", &upstream.address.to_string())], more);
        let mut client = announce(&agent);
        let reply = read_reply(&mut client);
        assert_eq!((reply.status(), reply.text()), (status, body), "without a 100 before it");
        assert_eq!(reply.field("connection"), Some("close"));
        assert!(read_to_close(&mut client).is_empty());
        let (head, rest) = told.recv_timeout(PATIENCE).expect("the upstream's connection is closed");
        assert!(head.contains("\r\nexpect: 100-continue\r\n"), "{head}");
        assert!(rest.is_empty(), "{rest:?}");
    }
}

#[test]
fn a_client_that_does_not_wait_gets_the_refusal_all_the_same() {
    let (upstream, told) = refusing("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
    let more = "[timeouts]\nexpect = \"1h\"";
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], more);
    let mut client = announce(&agent);
    client.write_all(b"hello").unwrap();
    assert_eq!(read_reply(&mut client).status(), 401);
    assert!(read_to_close(&mut client).is_empty());
    assert!(told.recv_timeout(PATIENCE).unwrap().1.is_empty());
}

#[test]
fn an_upstream_that_asks_gets_the_body_and_the_connections_go_on() {
    let upstream = taking(true);
    let more = "[timeouts]\nexpect = \"1h\"";
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], more);
    let mut client = connect(agent.http);
    for _ in 0..3 {
        announce_on(&mut client);
        assert_eq!(read_head(&mut client), CONTINUE);
        client.write_all(b"hello").unwrap();
        assert_eq!(read_reply(&mut client).text(), "hello");
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn an_upstream_that_lets_it_pass_is_asked_once() {
    let upstream = taking(false);
    let more = "[timeouts]\nexpect = \"300ms\"";
    let agent = Agent::start_with(1, &[("a.example", &upstream.address.to_string())], more);
    for expected in ["true", "false", "false"] {
        let mut client = announce(&agent);
        assert_eq!(read_head(&mut client), CONTINUE);
        client.write_all(b"hello").unwrap();
        let reply = read_reply(&mut client);
        assert_eq!((reply.text(), reply.field("x-expected")), ("hello", Some(expected)));
    }
    agent.metrics_with(&["rprox_limit_hits_total{limit=\"timeouts.expect\"} 1"]);
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "[timeouts]\nexpect = \"0s\"");
    let mut client = announce(&agent);
    assert_eq!(read_head(&mut client), CONTINUE);
    client.write_all(b"hello").unwrap();
    assert_eq!(read_reply(&mut client).field("x-expected"), Some("false"));
}

#[test]
fn a_success_may_go_on_with_the_body() {
    let upstream = Upstream::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").unwrap();
        let mut body = [0; 5];
        stream.read_exact(&mut body).unwrap();
        stream.write_all(&body).unwrap();
        true
    });
    let more = "[timeouts]\nexpect = \"1h\"";
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], more);
    let mut client = announce(&agent);
    assert!(read_head(&mut client).starts_with("HTTP/1.1 200 OK"));
    client.write_all(b"hello").unwrap();
    let mut body = [0; 5];
    client.read_exact(&mut body).unwrap();
    assert_eq!(&body, b"hello");
}

#[test]
fn over_http2_a_refusal_comes_before_the_body_too() {
    let (upstream, told) = refusing("HTTP/1.1 401 Unauthorized\r\nContent-Length: 4\r\n\r\nwho?");
    let more = "[timeouts]\nexpect = \"1h\"";
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], more);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let tcp = tokio::net::TcpStream::connect(agent.http).await.unwrap();
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.unwrap();
        tokio::spawn(connection);
        let never = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let request = Request::put("http://a.example/").header("expect", "100-continue").body(never).unwrap();
        let response = timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
        assert_eq!(response.status(), 401);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "who?");
    });
    assert!(told.recv_timeout(PATIENCE).unwrap().1.is_empty());
}
