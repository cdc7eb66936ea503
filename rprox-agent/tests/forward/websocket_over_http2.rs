//! WebSocket for HTTP/2 clients: extended CONNECT (RFC 8441).

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::agent::{Agent, PATIENCE};
use crate::upstream::Upstream;

fn accept(head: &str) -> String {
    let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).expect("a key");
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    data_encoding::BASE64.encode(digest.as_ref())
}

/// Accepts a WebSocket, says hello in the same breath, and then sends back what it gets until the client has no more.
pub(crate) fn echo() -> Upstream {
    Upstream::start(|head, stream| {
        assert!(head.starts_with("GET /chat?x HTTP/1.1\r\n"), "{head}");
        for field in
            ["connection: upgrade", "upgrade: websocket", "host: a.example", "sec-websocket-version: 13"]
        {
            assert!(head.lines().any(|line| line == field), "{field} is not in {head}");
        }
        let accept = accept(head);
        write!(
            stream,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Accept: {accept}\r\n\r\nhello "
        )
        .unwrap();
        std::io::copy(&mut stream.try_clone().unwrap(), stream).unwrap();
        stream.write_all(b" bye").unwrap();
        false
    })
}

fn answering(answer: &'static str) -> Upstream {
    Upstream::start(|_, stream| {
        stream.write_all(answer.as_bytes()).unwrap();
        false
    })
}

async fn client(address: SocketAddr) -> SendRequest<Empty<Bytes>> {
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (sender, mut connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !connection.is_extended_connect_protocol_enabled() {
        assert!(Instant::now() < deadline, "the agent does not announce extended CONNECT");
        let _ = timeout(Duration::from_millis(1), &mut connection).await;
    }
    tokio::spawn(connection);
    sender
}

async fn connect(agent: &Agent, protocol: &'static str) -> Response<Incoming> {
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri("http://a.example/chat?x")
        .header("sec-websocket-version", "13")
        .extension(Protocol::from_static(protocol))
        .body(Empty::new())
        .unwrap();
    timeout(PATIENCE, client(agent.http).await.send_request(request)).await.unwrap().unwrap()
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

/// Talks to an [`echo`] behind the agent.
pub(crate) fn greets(agent: &Agent, expected: &str) {
    run(async {
        let response = connect(agent, "websocket").await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
        for gone in ["sec-websocket-accept", "upgrade", "connection"] {
            assert!(!response.headers().contains_key(gone), "{:?}", response.headers());
        }
        let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        stream.write_all(b"over HTTP/2").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut echoed = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut echoed)).await.unwrap().unwrap();
        assert_eq!(echoed, expected);
    });
}

/// What a WebSocket is answered with.
pub(crate) fn status(agent: &Agent) -> u16 {
    let mut status = 0;
    run(async { status = connect(agent, "websocket").await.status().as_u16() });
    status
}

#[test]
fn a_websocket_over_http2_is_one_over_http1_to_the_upstream() {
    let upstream = echo();
    let mut agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    greets(&agent, "hello over HTTP/2 bye");
    let line = agent.logged("status=200");
    assert!(line.contains("method=CONNECT") && line.contains("bytes=21"), "{line}");
}

#[test]
fn an_http2_connection_ends_after_its_last_request_and_loses_none() {
    let upstream = Upstream::mirror();
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "[limits]\nrequests = 2");
    run(async {
        let io = TokioIo::new(TcpStream::connect(agent.http).await.unwrap());
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        let connection = tokio::spawn(connection);
        for _ in 0..2 {
            let request = Request::get("http://a.example/").body(Empty::<Bytes>::new()).unwrap();
            let response = timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
            assert_eq!(response.status(), 200);
            assert!(response.into_body().collect().await.is_ok());
        }
        timeout(PATIENCE, connection).await.expect("the agent ends it").unwrap().unwrap();
    });
}

#[test]
fn an_upstream_s_refusal_is_passed_on() {
    let upstream = answering("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    run(async {
        let response = connect(&agent, "websocket").await;
        assert_eq!(response.status(), 403);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "no");
    });
}

#[test]
fn success_without_a_switch_or_with_a_wrong_key_is_a_502() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: HSmrc0sMlYUkAGmm5OPpG2HaGWk=\r\n\r\n",
    ] {
        let upstream = answering(answer);
        let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
        run(async { assert_eq!(connect(&agent, "websocket").await.status(), 502, "{answer}") });
    }
}

#[test]
fn other_protocols_and_routes_without_websockets_are_a_501() {
    let upstream = echo();
    let more = format!("[[route]]\nhost = \"a.example\"\nupstream = \"{}\"\nupgrade = []", upstream.address);
    for (more, protocol) in [(more.as_str(), "websocket"), ("", "connect-udp")] {
        let routes = [("a.example", upstream.address.to_string())];
        let routes = routes.each_ref().map(|(host, upstream)| (*host, upstream.as_str()));
        let agent = Agent::start(if more.is_empty() { &routes } else { &[] }, more);
        run(async { assert_eq!(connect(&agent, protocol).await.status(), 501, "{protocol}") });
    }
    assert_eq!(upstream.connections(), 0);
}
