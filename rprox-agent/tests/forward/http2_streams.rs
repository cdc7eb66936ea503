//! Upstreams that take few streams on an HTTP/2 connection (`SETTINGS_MAX_CONCURRENT_STREAMS`): further connections to them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use bytes::Bytes;
use h2::server::Builder;
use http::Response;
use rprox_tests::wait;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{Mutex, SetOnce};

use crate::agent::{Agent, PATIENCE};
use crate::client::{connect, get, read_head, read_reply};
use crate::http2_upstream::{Http2Upstream, read};

/// An upstream that takes so many streams on each connection, once it speaks. Each response to `/held` ends when that is told, the oldest
/// first.
fn holding(streams: u32, speaks: Arc<SetOnce<()>>) -> (Http2Upstream, UnboundedSender<()>) {
    let (go, goes) = unbounded_channel::<()>();
    let goes = Arc::new(Mutex::new(goes));
    let mut settings = Builder::new();
    settings.max_concurrent_streams(streams);
    let upstream = Http2Upstream::start_when(speaks, settings, move |request, mut answer| {
        let goes = Arc::clone(&goes);
        async move {
            if request.uri().path() != "/held" {
                return answer.whole(200, "ok");
            }
            let mut stream = answer.0.send_response(Response::new(()), false).unwrap();
            goes.lock().await.recv().await.unwrap();
            stream.send_data(Bytes::from_static(b"ok"), true).unwrap();
        }
    });
    (upstream, go)
}

fn speaking() -> Arc<SetOnce<()>> {
    Arc::new(SetOnce::new_with(Some(())))
}

fn agent_before(upstream: &Http2Upstream, more: &str) -> Agent {
    Agent::start_with(1, &[("a.example", &upstream.name())], more)
}

/// A client that has asked for `/held`.
fn asking(agent: &Agent) -> TcpStream {
    let mut client = connect(agent.http);
    client.write_all(b"GET /held HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    client
}

/// The same, and the response has begun.
fn held(agent: &Agent) -> TcpStream {
    let mut client = asking(agent);
    assert!(read_head(&mut client).starts_with("HTTP/1.1 200 "));
    client
}

/// So many requests have come to the endpoint.
fn running(upstream: &Http2Upstream, requests: usize) -> String {
    format!("rprox_upstream_requests_running{{endpoint=\"{}\"}} {requests}", upstream.address)
}

/// What the endpoint was found guilty of, which is nothing.
fn nothing_failed(upstream: &Http2Upstream) -> Vec<String> {
    ["failures_total", "connect_failures_total", "left_out"]
        .map(|what| format!("rprox_upstream_{what}{{endpoint=\"{}\"}} 0", upstream.address))
        .to_vec()
}

#[test]
fn what_has_no_stream_left_on_any_connection_gets_another() {
    let (upstream, go) = holding(2, speaking());
    let agent = agent_before(&upstream, "[timeouts]\nupstream_idle = \"300ms\"");
    let _first = [held(&agent), held(&agent)];
    assert_eq!(upstream.connections(), 1, "which has room for two");
    for _ in 0..3 {
        assert_eq!(get(&agent, "a.example", "/").status(), 200);
    }
    let _third = held(&agent);
    assert_eq!((upstream.connections(), upstream.ended()), (2, 0));
    (0..2).for_each(|_| go.send(()).unwrap());
    wait::until(PATIENCE, "the first connection to end", || (upstream.ended() == 1).then_some(())).unwrap();
    assert_eq!(get(&agent, "a.example", "/").status(), 200);
    assert_eq!(upstream.connections(), 2, "the other was in use all the time");
    agent.metrics_with(&nothing_failed(&upstream));
}

#[test]
fn connections_that_few_requests_can_do_without_are_closed() {
    let (upstream, go) = holding(1, speaking());
    let agent = agent_before(&upstream, "[timeouts]\nupstream_idle = \"300ms\"");
    let _clients = [(); 3].map(|()| held(&agent));
    assert_eq!(upstream.connections(), 3);
    (0..3).for_each(|_| go.send(()).unwrap());
    agent.metrics_with(&[running(&upstream, 0)]);
    wait::until(PATIENCE, "two connections to end", || {
        assert_eq!(get(&agent, "a.example", "/").status(), 200);
        (upstream.ended() == 2).then_some(())
    })
    .unwrap();
    assert_eq!(upstream.connections(), 3, "one of which has served all");
}

#[test]
fn where_the_connections_are_as_many_as_there_may_be_a_request_is_told_so() {
    let (upstream, go) = holding(1, speaking());
    let agent = agent_before(&upstream, "limits.upstream_connections = 2\n[passive_health]\nfailures = 1");
    let mut clients = [held(&agent), held(&agent)];
    for _ in 0..3 {
        let reply = get(&agent, "a.example", "/");
        assert_eq!((reply.status(), reply.field("retry-after")), (503, Some("1")));
    }
    agent.metrics_with(&["rprox_limit_hits_total{limit=\"upstream_connections\"} 3"]);
    agent.metrics_with(&nothing_failed(&upstream));
    go.send(()).unwrap();
    wait::until(PATIENCE, "a stream to be free", || {
        (get(&agent, "a.example", "/").status() == 200).then_some(())
    })
    .unwrap();
    assert_eq!(upstream.connections(), 2);
    go.send(()).unwrap();
    for client in &mut clients {
        let mut end = [0; 12];
        client.read_exact(&mut end).unwrap();
        assert_eq!(&end, b"2\r\nok\r\n0\r\n\r\n");
    }
}

#[test]
fn requests_wait_for_the_endpoint_to_say_how_many_it_takes_and_then_for_no_more_connections_than_they_need() {
    let speaks = Arc::default();
    let (upstream, _go) = holding(4, Arc::clone(&speaks));
    let agent = agent_before(&upstream, "");
    let mut clients: Vec<_> = (0..9).map(|_| asking(&agent)).collect();
    agent.metrics_with(&[running(&upstream, 9)]);
    wait::until(PATIENCE, "a connection", || (upstream.connections() > 0).then_some(())).unwrap();
    assert_eq!(upstream.connections(), 1);
    speaks.set(()).unwrap();
    for client in &mut clients {
        assert!(read_head(client).starts_with("HTTP/1.1 200 "));
    }
    assert_eq!(upstream.connections(), 3);
    agent.metrics_with(&nothing_failed(&upstream));
}

#[test]
fn an_upload_keeps_its_stream_when_its_response_is_through() {
    let (go, goes) = unbounded_channel::<()>();
    let goes = Arc::new(Mutex::new(goes));
    let mut settings = Builder::new();
    settings.max_concurrent_streams(1);
    let upstream = Http2Upstream::start_with(settings, move |request, mut answer| {
        let goes = Arc::clone(&goes);
        async move {
            answer.whole(200, "ok");
            if request.method() == "POST" {
                goes.lock().await.recv().await.unwrap();
                read(request.into_body()).await;
            }
        }
    });
    let agent = agent_before(&upstream, "");
    let mut client = connect(agent.http);
    client.write_all(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 9\r\n\r\nx").unwrap();
    assert!(read_head(&mut client).starts_with("HTTP/1.1 200 "));
    assert_eq!(get(&agent, "a.example", "/").status(), 200);
    assert_eq!(upstream.connections(), 2);
    go.send(()).unwrap();
}

#[test]
fn all_get_their_turn_when_many_come_at_once() {
    let (upstream, go) = holding(3, speaking());
    let agent = agent_before(&upstream, "");
    for _ in 0..3 {
        let mut clients: Vec<_> = (0..20).map(|_| asking(&agent)).collect();
        (0..20).for_each(|_| go.send(()).unwrap());
        for client in &mut clients {
            assert_eq!(read_reply(client).status(), 200);
        }
    }
    let connections = upstream.connections();
    assert!(connections <= 7, "{connections} for 20 requests at a time");
    agent.metrics_with(&nothing_failed(&upstream));
}
