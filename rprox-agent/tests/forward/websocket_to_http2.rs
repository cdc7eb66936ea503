//! WebSocket to upstreams that speak HTTP/2 (`h2c://`): extended CONNECT (RFC 8441), whoever asks for it.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Instant;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::server::Builder;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, Response};

use crate::agent::{Agent, PATIENCE};
use crate::client::{ask, connect, connect_over_tls, echo_of, get, read_head, read_reply, read_to_close};
use crate::http2_upstream::{Answer, Http2Upstream};
use crate::websocket_over_http2;

const OFFER: &str = "GET /chat?x HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\nSec-WebSocket-Version: 13\r\n\r\n";

fn takes_websockets() -> Builder {
    let mut settings = Builder::new();
    settings.enable_connect_protocol();
    settings
}

/// Takes every WebSocket, says hello, and then sends back what it gets until the client has no more. Answers other requests with what asks
/// for an upgrade.
fn echo() -> Http2Upstream {
    Http2Upstream::start_with(takes_websockets(), |request, mut answer| async move {
        if request.method() != Method::CONNECT {
            return answer.whole(200, "no WebSocket");
        }
        let fields = request.headers();
        let protocol = request.extensions().get::<Protocol>().unwrap();
        assert_eq!(
            (protocol.as_str(), request.uri().to_string().as_str()),
            ("websocket", "http://a.example/chat?x")
        );
        assert_eq!(fields["sec-websocket-version"], "13");
        for gone in ["sec-websocket-key", "upgrade", "connection", "content-length", "host"] {
            assert!(!fields.contains_key(gone), "{fields:?}");
        }
        let mut sender = accept(&mut answer);
        sender.send_data(Bytes::from_static(b"hello "), false).unwrap();
        if copy(request.into_body(), &mut sender).await.is_some() {
            sender.send_data(Bytes::from_static(b" bye"), true).unwrap();
        }
    })
}

fn accept(answer: &mut Answer) -> SendStream<Bytes> {
    let response =
        Response::builder().header("sec-websocket-protocol", "chat").header("sec-websocket-accept", "x");
    answer.0.send_response(response.body(()).unwrap(), false).unwrap()
}

/// `None` if the stream is reset.
async fn copy(mut body: RecvStream, sender: &mut SendStream<Bytes>) -> Option<()> {
    while let Some(piece) = body.data().await {
        let mut piece = piece.ok()?;
        while !piece.is_empty() {
            sender.reserve_capacity(piece.len());
            let room = match sender.capacity() {
                0 => std::future::poll_fn(|cx| sender.poll_capacity(cx)).await?.ok()?,
                room => room,
            };
            let next = piece.split_to(room.min(piece.len()));
            body.flow_control().release_capacity(next.len()).unwrap();
            sender.send_data(next, false).ok()?;
        }
    }
    Some(())
}

fn agent_before(upstream: &Http2Upstream, more: &str) -> Agent {
    Agent::start_with(1, &[("a.example", &upstream.name()), ("secure.example", &upstream.name())], more)
}

#[test]
fn an_http1_client_s_upgrade_is_a_stream_to_the_upstream() {
    let upstream = echo();
    let mut agent = agent_before(&upstream, "");
    let mut stream = connect(agent.http);
    stream.write_all(format!("{OFFER}early ").as_bytes()).unwrap();
    let head = read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    for field in [
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-accept: HSmrc0sMlYUkAGmm5OPpG2HaGWk=",
        "sec-websocket-protocol: chat",
    ] {
        assert_eq!(head.lines().filter(|line| *line == field).count(), 1, "{field} in {head}");
    }
    assert!(!head.contains("sec-websocket-accept: x") && !head.contains("content-length"), "{head}");
    let mut greeting = [0; 12];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"hello early ");
    agent.metrics_with(&["rprox_tunnels_total 1", "rprox_tunnels_open 1"]);
    // More than all windows on the way, so that both ways are full at once.
    let rest = echo_of(&mut stream, 16 << 20);
    assert_eq!(rest, b" bye", "the other way stays open when one is closed");
    drop(stream);
    agent.metrics_with(&["rprox_tunnels_open 0"]);
    let line = agent.logged("status=101");
    assert!(line.contains(&format!("bytes={}", (16 << 20) + "hello early  bye".len())), "{line}");
    assert_eq!(get(&agent, "a.example", "/").status(), 200);
    assert_eq!(upstream.connections(), 1, "which tunnels and requests share");
}

#[test]
fn an_http2_client_s_connect_is_one_to_the_upstream() {
    let upstream = echo();
    let agent = agent_before(&upstream, "");
    websocket_over_http2::greets(&agent, "hello over HTTP/2 bye");
}

#[test]
fn agents_one_behind_the_other_pass_one_on() {
    let upstream = websocket_over_http2::echo();
    let behind = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    let agent = Agent::start(&[("a.example", &format!("h2c://{}", behind.http))], "");
    websocket_over_http2::greets(&agent, "hello over HTTP/2 bye");
    let mut stream = connect(agent.http);
    stream.write_all(OFFER.as_bytes()).unwrap();
    assert!(read_head(&mut stream).contains("\r\nsec-websocket-accept: HSmrc0sMlYUkAGmm5OPpG2HaGWk=\r\n"));
    stream.write_all(b"twice").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_close(&mut stream), b"hello twice bye");
}

#[test]
fn to_an_upstream_that_takes_none_an_upgrade_is_a_request_like_any_other_and_connect_a_501() {
    let upstream = Http2Upstream::start(|request, mut answer| async move {
        assert_eq!(request.method(), Method::GET);
        let is_upgrade =
            request.headers().contains_key("upgrade") || request.headers().contains_key("connection");
        answer.whole(200, is_upgrade.to_string());
    });
    let agent = agent_before(&upstream, "");
    for _ in 0..2 {
        let mut stream = connect(agent.http);
        stream.write_all(OFFER.as_bytes()).unwrap();
        assert!(read_head(&mut stream).starts_with("HTTP/1.1 200 "));
        let mut chunk = [0; 10];
        stream.read_exact(&mut chunk).unwrap();
        assert_eq!(&chunk, b"5\r\nfalse\r\n");
        assert_eq!(websocket_over_http2::status(&agent), 501);
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn other_protocols_and_offers_without_a_key_are_requests_like_any_other() {
    let upstream = echo();
    let more = format!(
        "[[route]]\nhost = \"a.example\"\nupstream = \"{}\"\nupgrade = [\"tcp\", \"websocket\"]",
        upstream.name()
    );
    let agent = Agent::start_with(1, &[], &more);
    let other = OFFER.replace("Upgrade: websocket", "Upgrade: tcp");
    let keyless = OFFER.replace("Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n", "");
    let short = OFFER.replace("x3JJHMbDL1EzLkh9GBhXDw==", "x3JJHMbD");
    for offer in [other, keyless, short] {
        assert_eq!(ask(&agent, &offer).status(), 200);
    }
}

#[test]
fn an_upstream_s_refusal_is_passed_on() {
    let upstream = Http2Upstream::start_with(takes_websockets(), |request, mut answer| async move {
        let _: Request<RecvStream> = request;
        let response = Response::builder().status(403).header("content-length", "2").body(()).unwrap();
        answer.0.send_response(response, false).unwrap().send_data(Bytes::from_static(b"no"), true).unwrap();
    });
    let agent = agent_before(&upstream, "");
    let mut stream = connect(agent.http);
    for _ in 0..2 {
        stream.write_all(OFFER.as_bytes()).unwrap();
        let reply = read_reply(&mut stream);
        assert_eq!((reply.status(), reply.text()), (403, "no"));
        assert_eq!(websocket_over_http2::status(&agent), 403);
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_tunnel_that_leaves_no_stream_leaves_others_a_connection() {
    let mut settings = takes_websockets();
    settings.max_concurrent_streams(1);
    let upstream = Http2Upstream::start_with(settings, |request, mut answer| async move {
        if request.method() != Method::CONNECT {
            return answer.whole(200, "no WebSocket");
        }
        copy(request.into_body(), &mut accept(&mut answer)).await;
    });
    let agent = agent_before(&upstream, "");
    let tunnels = [(); 2].map(|()| {
        let mut stream = connect(agent.http);
        stream.write_all(OFFER.as_bytes()).unwrap();
        assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "));
        stream
    });
    assert_eq!(get(&agent, "a.example", "/").status(), 200);
    assert_eq!(upstream.connections(), 3);
    drop(tunnels);
    agent.metrics_with(&["rprox_tunnels_open 0"]);
    assert_eq!(get(&agent, "a.example", "/").status(), 200);
    assert_eq!(upstream.connections(), 3);
}

#[test]
fn a_silent_tunnel_is_closed_after_its_time_out() {
    let upstream = echo();
    let agent = agent_before(&upstream, "[timeouts]\ntunnel = \"300ms\"");
    let mut stream = connect(agent.http);
    let start = Instant::now();
    stream.write_all(OFFER.as_bytes()).unwrap();
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "));
    assert_eq!(read_to_close(&mut stream), b"hello ");
    assert!(start.elapsed() < PATIENCE / 2);
    agent.metrics_with(&["rprox_limit_hits_total{limit=\"timeouts.tunnel\"} 1"]);
}

#[test]
fn an_upstream_that_ends_its_stream_closes_the_client_s() {
    for reason in [None, Some(Reason::CANCEL), Some(Reason::INTERNAL_ERROR)] {
        let upstream = Http2Upstream::start_with(takes_websockets(), move |request, mut answer| async move {
            let mut sender = accept(&mut answer);
            sender.send_data(Bytes::from_static(b"bye"), reason.is_none()).unwrap();
            if let Some(reason) = reason {
                // What was said goes out first.
                let _ = request.into_body().data().await;
                sender.send_reset(reason);
            }
        });
        let agent = agent_before(&upstream, "");
        let mut stream = connect_over_tls(&agent, "secure.example");
        stream.write_all(OFFER.replace("a.example", "secure.example").as_bytes()).unwrap();
        assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "), "{reason:?}");
        let mut said = [0; 3];
        stream.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"bye");
        if reason.is_some() {
            stream.write_all(b"x").unwrap();
        }
        let _ = stream.read(&mut [0]).map(|read| assert_eq!(read, 0, "{reason:?}"));
    }
}

#[test]
fn a_client_that_leaves_ends_the_stream_and_not_the_connection() {
    let upstream = echo();
    let agent = agent_before(&upstream, "");
    for _ in 0..3 {
        let mut stream = connect(agent.http);
        stream.write_all(OFFER.as_bytes()).unwrap();
        assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "));
        drop(stream);
        agent.metrics_with(&["rprox_tunnels_open 0"]);
    }
    assert_eq!(upstream.connections(), 1);
}
