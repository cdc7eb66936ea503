//! Upstreams that speak HTTP/2 (`h2c://`): what they say before their responses, refuse, and break off.

use std::future::poll_fn;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::Response;
use rprox_tests::wait;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use crate::agent::{Agent, PATIENCE, free_address};
use crate::client::{ask, connect, get, read_head, read_reply, read_to_close};
use crate::http2_upstream::{Http2Upstream, read};
use crate::load::Load;
use crate::nginx::Nginx;
use crate::upstream::Upstream;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n";
const HINTED: &str = "HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n";
const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
const ANNOUNCED: &str =
    "PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";

fn agent_before(upstream: &Http2Upstream, more: &str) -> Agent {
    Agent::start_with(1, &[("a.example", &upstream.name())], more)
}

/// An upstream that does `interim` of these before it answers, each when it is told to.
fn stepping(interim: &'static [u16]) -> (Http2Upstream, UnboundedSender<()>) {
    let (go, goes) = unbounded_channel();
    let goes = Arc::new(Mutex::new(goes));
    let upstream = Http2Upstream::start(move |request, mut answer| {
        let goes = Arc::clone(&goes);
        async move {
            for status in interim {
                answer.interim(*status);
                goes.lock().await.recv().await.unwrap();
            }
            answer.whole(200, read(request.into_body()).await.unwrap());
        }
    });
    (upstream, go)
}

#[test]
fn interim_responses_reach_the_client_while_the_response_is_not_made_yet() {
    let (upstream, go) = stepping(&[103, 103]);
    let agent = agent_before(&upstream, "");
    let mut client = connect(agent.http);
    let post = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello";
    for (request, body) in [(GET, ""), (post, "hello"), (GET, "")] {
        client.write_all(request.as_bytes()).unwrap();
        for _ in 0..2 {
            assert_eq!(read_head(&mut client), HINTED);
            go.send(()).unwrap();
        }
        let head = read_head(&mut client);
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("\r\nx-a: b\r\n"), "{head}");
        assert_eq!(read_chunks(&mut client), body);
    }
    assert_eq!(upstream.connections(), 1);
}

/// Reads a chunked body.
fn read_chunks(stream: &mut impl Read) -> String {
    let mut all = String::new();
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        let length = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim_end(), 16).unwrap();
        let mut chunk = vec![0; length + 2];
        stream.read_exact(&mut chunk).unwrap();
        if length == 0 {
            return all;
        }
        all.push_str(std::str::from_utf8(&chunk[..length]).unwrap());
    }
}

#[test]
fn a_body_is_held_back_until_it_is_asked_for() {
    let (upstream, go) = stepping(&[103, 100]);
    let agent = agent_before(&upstream, "[timeouts]\nexpect = \"1h\"");
    let mut client = connect(agent.http);
    for _ in 0..2 {
        client.write_all(ANNOUNCED.as_bytes()).unwrap();
        for expected in [HINTED, CONTINUE] {
            assert_eq!(read_head(&mut client), expected);
            go.send(()).unwrap();
        }
        client.write_all(b"hello").unwrap();
        assert!(read_head(&mut client).starts_with("HTTP/1.1 200 "));
        assert_eq!(read_chunks(&mut client), "hello");
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_body_that_is_refused_by_the_head_is_never_sent() {
    let (tell, told) = mpsc::channel();
    let upstream = Http2Upstream::start(move |request, mut answer| {
        let tell = tell.clone();
        async move {
            assert_eq!(request.headers()["expect"], "100-continue");
            answer.whole(401, "who?");
            tell.send(read(request.into_body()).await).unwrap();
        }
    });
    let agent = agent_before(&upstream, "[timeouts]\nexpect = \"1h\"");
    for _ in 0..2 {
        let mut client = connect(agent.http);
        client.write_all(ANNOUNCED.as_bytes()).unwrap();
        let head = read_head(&mut client);
        assert!(head.starts_with("HTTP/1.1 401 ") && head.contains("\r\nconnection: close\r\n"), "{head}");
        assert!(read_to_close(&mut client).starts_with(b"4\r\nwho?\r\n0\r\n"));
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), None, "the stream is reset");
    }
    assert_eq!(upstream.connections(), 1, "which is all that is");
}

#[test]
fn an_upstream_that_lets_an_expectation_pass_is_asked_once() {
    let upstream = Http2Upstream::start(|request, mut answer| async move {
        let expected = request.headers().contains_key("expect");
        read(request.into_body()).await.unwrap();
        answer.whole(200, expected.to_string());
    });
    let agent = agent_before(&upstream, "[timeouts]\nexpect = \"300ms\"");
    for expected in ["true", "false"] {
        let mut client = connect(agent.http);
        client.write_all(ANNOUNCED.as_bytes()).unwrap();
        assert_eq!(read_head(&mut client), CONTINUE);
        client.write_all(b"hello").unwrap();
        read_head(&mut client);
        assert_eq!(read_chunks(&mut client), expected);
    }
    agent.metrics_with(&["rprox_limit_hits_total{limit=\"timeouts.expect\"} 1"]);
}

/// An upstream that refuses the first request by a reset, and answers the others with what they bring.
fn refusing_once() -> (Http2Upstream, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    let upstream = Http2Upstream::start(move |request, mut answer| {
        let place = count.fetch_add(1, Ordering::Relaxed);
        async move {
            if place == 0 {
                return answer.0.send_reset(Reason::REFUSED_STREAM);
            }
            answer.interim(100);
            answer.whole(200, read(request.into_body()).await.unwrap());
        }
    });
    (upstream, requests)
}

#[test]
fn a_refused_request_is_sent_again_whatever_its_method() {
    let (upstream, requests) = refusing_once();
    let agent = agent_before(&upstream, "");
    assert_eq!(ask(&agent, POST).status(), 200);
    assert_eq!((requests.load(Ordering::Relaxed), upstream.connections()), (2, 1));
    agent.metrics_with(&["rprox_upstream_retries_total 1"]);
}

#[test]
fn a_refused_request_s_body_goes_again_if_it_was_held_back() {
    let (upstream, requests) = refusing_once();
    let agent = agent_before(&upstream, "[timeouts]\nexpect = \"1h\"");
    let mut client = connect(agent.http);
    client.write_all(ANNOUNCED.as_bytes()).unwrap();
    assert_eq!(read_head(&mut client), CONTINUE);
    client.write_all(b"hello").unwrap();
    read_head(&mut client);
    assert_eq!(read_chunks(&mut client), "hello");
    assert_eq!(requests.load(Ordering::Relaxed), 2);
}

#[test]
fn a_refused_request_s_body_goes_again_unless_too_much_of_it_is_gone() {
    // An upstream that refuses the first request after so many bytes of its body.
    let refusing_after = |bytes: usize| {
        let place = AtomicUsize::new(0);
        Http2Upstream::start(move |request, mut answer| {
            let refuses = place.fetch_add(1, Ordering::Relaxed) == 0;
            async move {
                let mut body = request.into_body();
                let mut left = bytes;
                while refuses && left > 0 {
                    let piece = body.data().await.unwrap().unwrap();
                    body.flow_control().release_capacity(piece.len()).unwrap();
                    left = left.saturating_sub(piece.len());
                }
                if refuses {
                    return answer.0.send_reset(Reason::REFUSED_STREAM);
                }
                answer.whole(200, read(body).await.unwrap());
            }
        })
    };
    let body: Vec<_> = (0..10_000).map(|number| format!("{number:09} ")).collect();
    let body = body.concat();
    let chunked =
        |body: &str| format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let counted = |body: &str| format!("Content-Length: {}\r\n\r\n{body}", body.len());
    for (length, after) in [(5, 0), (5, 5), (100_000, 30_000)] {
        for framed in [chunked(&body[..length]), counted(&body[..length])] {
            let upstream = refusing_after(after);
            let agent = agent_before(&upstream, "");
            let mut client = connect(agent.http);
            // What is beyond the first half comes when that has been refused, or not.
            let request = format!("POST / HTTP/1.1\r\nHost: a.example\r\n{framed}");
            let (first, second) = request.split_at(if length > 5 { 40_000 } else { request.len() });
            client.write_all(first.as_bytes()).unwrap();
            if length > 5 {
                agent.metrics_with(&["rprox_upstream_retries_total 1"]);
            }
            client.write_all(second.as_bytes()).unwrap();
            assert!(read_head(&mut client).starts_with("HTTP/1.1 200 "));
            assert!(read_chunks(&mut client) == body[..length], "{length} {after}");
        }
    }
    let upstream = refusing_after(90_000);
    let mut agent = agent_before(&upstream, "");
    let post = format!("POST / HTTP/1.1\r\nHost: a.example\r\n{}", counted(&body));
    assert_eq!(ask(&agent, &post).status(), 502);
    agent.logged("502 Bad Gateway: http2 error: stream error received: refused stream");
}

/// A frame's type, flags, stream and payload (RFC 9113 section 4.1).
type Frame = (u8, u8, u32, Vec<u8>);

fn read_frame(stream: &mut TcpStream) -> Option<Frame> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut payload).ok()?;
    let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Some((head[3], head[4], id, payload))
}

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &id.to_be_bytes(), payload].concat()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200`, as HPACK has it.
const OK: &[u8] = &[0x88];
const SWITCHING: &[u8] = &[0x08, 3, b'1', b'0', b'1'];

/// An upstream that answers each request with the frames that `answer` makes of its place, which is counted, and its stream.
fn by_frames(answer: impl Fn(usize, u32) -> Vec<u8> + Send + Sync + 'static) -> Upstream {
    let place = AtomicUsize::new(0);
    Upstream::start(move |_, stream| {
        // The head was the first half of the preface.
        stream.read_exact(&mut [0; 6]).unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
        while let Some((kind, _, id, _)) = read_frame(stream) {
            if kind == HEADERS {
                stream.write_all(&answer(place.fetch_add(1, Ordering::Relaxed), id)).unwrap();
            }
        }
        false
    })
}

#[test]
fn a_request_above_the_last_that_an_ending_connection_serves_is_sent_again_on_another() {
    let upstream = by_frames(|place, id| match place {
        1 => frame(GOAWAY, 0, 0, &[[0, 0, 0, 1], [0; 4]].concat()),
        _ => frame(HEADERS, END_STREAM | END_HEADERS, id, OK),
    });
    let agent = Agent::start_with(1, &[("a.example", &format!("h2c://{}", upstream.address))], "");
    for _ in 0..3 {
        assert_eq!(ask(&agent, POST).status(), 200);
    }
    assert_eq!(upstream.connections(), 2);
    agent.metrics_with(&["rprox_upstream_retries_total 0"]);
}

#[test]
fn a_response_before_the_body_s_end_is_one_and_a_part_of_one_is_none() {
    let reset = |id, reason: u8| frame(RST_STREAM, 0, id, &[0, 0, 0, reason]);
    let upstream = by_frames(move |place, id| {
        let head = frame(HEADERS, END_HEADERS, id, OK);
        match place {
            0 => [head, frame(DATA, END_STREAM, id, b"whole"), reset(id, 0)].concat(),
            1 => [head, frame(DATA, 0, id, b"half"), reset(id, 0)].concat(),
            2 => frame(HEADERS, END_HEADERS, id, SWITCHING),
            _ => reset(id, 2),
        }
    });
    let mut agent = Agent::start_with(1, &[("a.example", &format!("h2c://{}", upstream.address))], "");
    let begun = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 500\r\nConnection: close\r\n\r\nx";
    let mut client = connect(agent.http);
    client.write_all(begun.as_bytes()).unwrap();
    assert!(read_head(&mut client).starts_with("HTTP/1.1 200 "));
    assert_eq!(read_chunks(&mut client), "whole");
    let mut client = connect(agent.http);
    client.write_all(GET.as_bytes()).unwrap();
    assert!(read_head(&mut client).starts_with("HTTP/1.1 200 "));
    assert_eq!(read_to_close(&mut client), b"4\r\nhalf\r\n", "cut");
    assert_eq!(ask(&agent, POST).status(), 502);
    agent.logged("502 Bad Gateway: the response is malformed: 101 over HTTP/2");
    assert_eq!(ask(&agent, POST).status(), 502);
    agent.logged("502 Bad Gateway: http2 error: stream error received: unexpected internal error");
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn an_upstream_that_takes_nothing_for_a_while_is_waited_for_and_not_to_blame() {
    const NO_STREAMS: &[u8] = &[0, 3, 0, 0, 0, 0];
    let upstream = by_frames(|_, id| {
        [frame(SETTINGS, 0, 0, NO_STREAMS), frame(HEADERS, END_STREAM | END_HEADERS, id, OK)].concat()
    });
    let more = "[timeouts]\nresponse = \"300ms\"\n[passive_health]\nfailures = 1";
    let agent = Agent::start_with(1, &[("a.example", &format!("h2c://{}", upstream.address))], more);
    for expected in [200, 503, 503] {
        assert_eq!(ask(&agent, POST).status(), expected);
    }
    assert_eq!(upstream.connections(), 1);
    let count = |what| format!("rprox_upstream_{what}{{endpoint=\"{}\"}} 0", upstream.address);
    agent.metrics_with(&[
        count("failures_total"),
        count("left_out"),
        "rprox_limit_hits_total{limit=\"upstream_connections\"} 2".to_owned(),
    ]);
}

#[test]
fn an_upstream_hears_that_the_client_takes_trailers() {
    let upstream = Http2Upstream::start(|request, mut answer| async move {
        answer.whole(200, request.headers()["te"].as_bytes().to_vec());
    });
    let agent = agent_before(&upstream, "");
    let mut client = connect(agent.http);
    let fields = "\r\nTE: gzip, trailers\r\nConnection: TE\r\n\r\n";
    client.write_all(GET.replace("\r\n\r\n", fields).as_bytes()).unwrap();
    assert!(read_head(&mut client).starts_with("HTTP/1.1 200 "));
    assert_eq!(read_chunks(&mut client), "trailers");
}

#[test]
fn a_client_that_leaves_resets_the_stream_and_leaves_the_connection() {
    let (tell, told) = mpsc::channel();
    let upstream = Http2Upstream::start(move |request, mut answer| {
        let tell = tell.clone();
        async move {
            if request.uri().path() == "/" {
                return answer.whole(200, "ok");
            }
            let reason = poll_fn(|cx| answer.0.poll_reset(cx)).await;
            tell.send(reason.unwrap()).unwrap();
        }
    });
    let agent = agent_before(&upstream, "");
    for request in ["GET /gone", "POST /gone"] {
        assert_eq!(get(&agent, "a.example", "/").status(), 200);
        let mut client = connect(agent.http);
        write!(
            client,
            "{request} HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
        )
        .unwrap();
        drop(client);
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Reason::CANCEL);
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_connection_that_nobody_uses_is_closed() {
    let upstream = Http2Upstream::start(|_, mut answer| async move { answer.whole(200, "ok") });
    let agent = agent_before(&upstream, "[timeouts]\nupstream_idle = \"300ms\"");
    assert_eq!(get(&agent, "a.example", "/").status(), 200);
    wait::until(PATIENCE, "the connection to end", || (upstream.ended() == 1).then_some(())).unwrap();
}

const BULK: usize = 64 << 20;

#[test]
fn an_upload_waits_for_an_upstream_that_takes_nothing() {
    let (go, goes) = unbounded_channel();
    let goes = Arc::new(Mutex::new(goes));
    let upstream = Http2Upstream::start(move |request, mut answer| {
        let goes = Arc::clone(&goes);
        async move {
            goes.lock().await.recv().await.unwrap();
            let length = read(request.into_body()).await.unwrap().len();
            answer.whole(200, length.to_string());
        }
    });
    let agent = agent_before(&upstream, "");
    let mut client = connect(agent.http);
    write!(client, "PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: {BULK}\r\n\r\n").unwrap();
    client.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let piece = vec![b'x'; 1 << 20];
    let (mut written, mut was_full) = (0, false);
    while written < BULK {
        match client.write(&piece[..piece.len().min(BULK - written)]) {
            Ok(length) => written += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock && !was_full => {
                was_full = true;
                go.send(()).unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(was_full, "all of it is on its way to nobody");
    assert!(read_head(&mut client).starts_with("HTTP/1.1 200 "));
    assert_eq!(read_chunks(&mut client), BULK.to_string());
    let peak = agent.peak_memory();
    assert!(peak < 64 << 10, "{peak} KiB");
}

#[test]
fn a_download_waits_for_a_client_that_does_not_read() {
    let (full, is_full) = mpsc::channel();
    let upstream = Http2Upstream::start(move |_, mut answer| {
        let full = full.clone();
        async move {
            let response = Response::builder().header("content-length", BULK).body(()).unwrap();
            let mut stream = answer.0.send_response(response, false).unwrap();
            let mut left = Bytes::from(vec![b'x'; BULK]);
            while !left.is_empty() {
                stream.reserve_capacity(left.len().min(1 << 20));
                let room = poll_fn(|cx| stream.poll_capacity(cx));
                let Ok(room) = timeout(Duration::from_millis(500), room).await else {
                    full.send(BULK - left.len()).unwrap();
                    continue;
                };
                stream.send_data(left.split_to(room.unwrap().unwrap().min(left.len())), false).unwrap();
            }
            stream.send_data(Bytes::new(), true).unwrap();
        }
    });
    let agent = agent_before(&upstream, "");
    let mut client = connect(agent.http);
    client.write_all(GET.as_bytes()).unwrap();
    let sent = is_full.recv_timeout(PATIENCE).unwrap();
    assert!(sent < BULK / 2, "{sent} bytes went to a client that reads nothing");
    assert_eq!(get(&agent, "a.example", "/").body.len(), BULK, "which keeps no other from its response");
    assert_eq!(read_reply(&mut client).body.len(), BULK);
    let peak = agent.peak_memory();
    assert!(peak < 64 << 10, "{peak} KiB");
}

#[test]
fn nginx_may_end_connections_while_requests_wait_for_their_turn() {
    let address = free_address();
    let servers = format!(
        "server {{ listen {address} http2; keepalive_requests 50; http2_max_concurrent_streams 2;\n\
         location / {{ return 200 ok; }} }}"
    );
    let _nginx = Nginx::start(tempfile::tempdir().unwrap(), &servers, address);
    let agent = Agent::start_with(1, &[("a.example", &format!("h2c://{address}"))], "");
    let load = Load::start(agent.http, "a.example");
    load.proceed(1000);
    let requests = load.end();
    let failures = format!("rprox_upstream_failures_total{{endpoint=\"{address}\"}} 0");
    let metrics = agent.metrics_with(&[failures.as_str(), "rprox_upstream_retries_total 0"]);
    let connects = format!("rprox_upstream_connects_total{{endpoint=\"{address}\"}} ");
    let connects = metrics.lines().find_map(|line| line.strip_prefix(&connects)).unwrap();
    let connects: usize = connects.parse().unwrap();
    assert!((requests / 50..=requests / 25).contains(&connects), "{connects} for {requests} requests");
}
