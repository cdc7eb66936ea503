//! Interim responses (RFC 9110 section 15.2): what an upstream says before its response is the client's to hear.

use std::future::poll_fn;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, Sender};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{Request, Response};
use socket2::{Domain, Socket, Type};
use tokio::time::timeout;

use crate::agent::{Agent, PATIENCE};
use crate::client::{connect, connect_over_tls, read_head, read_reply, read_to_close};
use crate::upstream::Upstream;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
const LAST: &str = "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n";
const HINTED: &str = "HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nok";

/// An upstream that answers with `steps`, but waits for a word before each but the first.
fn stepping(steps: &'static [&'static str]) -> (Upstream, Sender<()>) {
    let (go, goes) = mpsc::channel();
    let goes = Mutex::new(goes);
    let upstream = Upstream::start(move |_, stream| {
        for (place, step) in steps.iter().enumerate() {
            if place > 0 {
                goes.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            }
            stream.write_all(step.as_bytes()).unwrap();
        }
        true
    });
    (upstream, go)
}

/// An upstream that answers with this, in one piece.
fn saying(answer: impl Into<String>) -> Upstream {
    let answer = answer.into();
    Upstream::start(move |_, stream| {
        stream.write_all(answer.as_bytes()).unwrap();
        true
    })
}

fn agent_before(upstream: &Upstream) -> Agent {
    Agent::start(&[("*", &upstream.address.to_string())], "")
}

/// All that the agent answers `requests` with until it closes, without the dates.
fn all(agent: &Agent, requests: &str) -> String {
    let mut client = connect(agent.http);
    client.write_all(requests.as_bytes()).unwrap();
    without_dates(&read_to_close(&mut client))
}

fn without_dates(answer: &[u8]) -> String {
    let text = String::from_utf8(answer.to_vec()).unwrap();
    text.split_inclusive("\r\n").filter(|line| !line.starts_with("date: ")).collect()
}

#[test]
fn early_hints_reach_the_client_while_the_response_is_not_made_yet() {
    let (upstream, go) = stepping(&[HINTS, HINTS, OK]);
    let agent = agent_before(&upstream);
    let (mut plain, mut secure) = (connect(agent.http), connect_over_tls(&agent, "secure.example"));
    let post = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\n\r\nx";
    for request in [GET, post, GET] {
        is_hinted_twice(&mut plain, request, &go);
        is_hinted_twice(&mut secure, &request.replace("a.example", "secure.example"), &go);
    }
}

fn is_hinted_twice(client: &mut (impl Read + Write), request: &str, go: &Sender<()>) {
    client.write_all(request.as_bytes()).unwrap();
    for _ in 0..2 {
        assert_eq!(read_head(client), HINTED);
        go.send(()).unwrap();
    }
    let reply = read_reply(client);
    assert_eq!((reply.status(), reply.text(), reply.field("x-a")), (200, "ok", Some("b")));
}

#[test]
fn curl_shows_them() {
    let (upstream, go) = stepping(&[HINTS, OK]);
    let agent = agent_before(&upstream);
    let mut curl = Command::new("curl")
        .args(["-sv", &format!("http://{}/", agent.http)])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("curl is needed: apt-get install curl");
    let mut told = BufReader::new(curl.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(told.any(|line| line == "< HTTP/1.1 103 Early Hints"));
    assert!(told.any(|line| line == "< link: </style.css>; rel=preload"));
    go.send(()).unwrap();
    assert!(told.any(|line| line == "< HTTP/1.1 200 OK"));
    assert_eq!(curl.wait_with_output().unwrap().stdout, b"ok");
}

#[test]
fn one_in_the_same_packet_as_its_response_comes_before_it_and_after_the_last_one() {
    let upstream = saying(format!("{HINTS}{OK}"));
    let agent = agent_before(&upstream);
    let ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-a: b\r\n\r\nok";
    let closing = ok.replace("x-a: b\r\n", "x-a: b\r\nconnection: close\r\n");
    let answers = all(&agent, &format!("{GET}{GET}{LAST}"));
    assert_eq!(answers, format!("{HINTED}{ok}{HINTED}{ok}{HINTED}{closing}"));
    let head = LAST.replace("GET", "HEAD");
    assert_eq!(all(&agent, &head), format!("{HINTED}{}", closing.trim_end_matches("ok")));
}

#[test]
fn what_was_for_this_hop_or_speaks_of_a_body_is_left_out_and_splits_nothing() {
    for hidden in [
        "Connection: X-Hop, close\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: x\r\nContent-Length: 5\r\nTE: trailers\r\n",
    ] {
        let upstream =
            saying(format!("HTTP/1.1 103 Early Hints\r\n{hidden}Link: </a>\r\nSet-Cookie: a\r\n\r\n{OK}"));
        let agent = agent_before(&upstream);
        let mut client = connect(agent.http);
        for _ in 0..2 {
            client.write_all(GET.as_bytes()).unwrap();
            let hints = read_head(&mut client);
            let mut lines: Vec<_> = hints.lines().collect();
            lines.sort_unstable();
            assert_eq!(lines, ["", "HTTP/1.1 103 Early Hints", "link: </a>", "set-cookie: a"], "{hidden}");
            assert_eq!(read_reply(&mut client).text(), "ok", "{hidden}");
        }
        assert_eq!(upstream.connections(), 1);
    }
}

#[test]
fn any_status_of_the_class_is_passed_on_but_100_that_nobody_waits_for() {
    let upstream = saying(format!(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Anything\r\n\r\nHTTP/1.1 199 Odd\r\nX: y\r\n\r\n{OK}"
    ));
    let agent = agent_before(&upstream);
    let mut client = connect(agent.http);
    client.write_all(GET.as_bytes()).unwrap();
    assert_eq!(read_head(&mut client), "HTTP/1.1 102 Processing\r\n\r\n");
    assert_eq!(read_head(&mut client), "HTTP/1.1 199 \r\nx: y\r\n\r\n");
    assert_eq!(read_reply(&mut client).text(), "ok");
}

#[test]
fn a_client_of_http_1_0_gets_none() {
    let upstream = saying(format!("{HINTS}{OK}"));
    let agent = agent_before(&upstream);
    let answer = all(&agent, "GET / HTTP/1.0\r\nHost: a.example\r\n\r\n");
    assert_eq!(answer, "HTTP/1.0 200 OK\r\ncontent-length: 2\r\nx-a: b\r\n\r\nok");
}

#[test]
fn hints_may_come_before_and_after_the_word_to_continue() {
    let (upstream, go) = stepping(&[HINTS, "HTTP/1.1 100 Continue\r\n\r\n", HINTS, OK]);
    let agent = Agent::start(&[("*", &upstream.address.to_string())], "[timeouts]\nexpect = \"1h\"");
    let mut client = connect(agent.http);
    let request = "PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    client.write_all(request.as_bytes()).unwrap();
    for expected in [HINTED, "HTTP/1.1 100 Continue\r\n\r\n", HINTED] {
        assert_eq!(read_head(&mut client), expected);
        go.send(()).unwrap();
    }
    client.write_all(b"hello").unwrap();
    assert_eq!(read_reply(&mut client).text(), "ok");
}

#[test]
fn hints_may_come_before_an_upgrade() {
    let accepted =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello";
    let upstream = saying(format!("{HINTS}{accepted}"));
    let agent = agent_before(&upstream);
    let mut client = connect(agent.http);
    let offer = "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    client.write_all(offer.as_bytes()).unwrap();
    assert_eq!(read_head(&mut client), HINTED);
    assert!(read_head(&mut client).starts_with("HTTP/1.1 101 "));
    let mut greeting = [0; 5];
    client.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"hello");
}

#[test]
fn hints_stay_when_the_response_fails() {
    let upstream = Upstream::start(|_, stream| {
        stream.write_all(HINTS.as_bytes()).unwrap();
        false
    });
    let agent = agent_before(&upstream);
    let answer = all(&agent, &LAST.replace("GET", "POST"));
    assert!(answer.starts_with(&format!("{HINTED}HTTP/1.1 502 ")), "{answer}");
}

#[test]
fn a_request_s_hints_are_as_large_as_one_header_section_together_and_the_rest_is_dropped() {
    let kilobyte = format!("HTTP/1.1 103 Early Hints\r\nLink: <{}>\r\n\r\n", "a".repeat(1000));
    let upstream = saying(kilobyte.repeat(20) + OK);
    let agent = Agent::start(&[("*", &upstream.address.to_string())], "[limits]\nheader_bytes = \"8KiB\"");
    let answer = all(&agent, LAST);
    assert_eq!(answer.matches("HTTP/1.1 103 ").count(), 7);
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    agent.metrics_with(&["rprox_limit_hits_total{limit=\"headers\"} 1"]);
}

#[test]
fn a_client_that_takes_them_slowly_gets_them_whole_and_the_response_behind_them() {
    // Much more than a socket takes at once.
    const COUNT: usize = 500;
    let hints =
        |place: usize| format!("HTTP/1.1 103 Early Hints\r\nlink: <{place}{}>\r\n\r\n", "a".repeat(12_000));
    let (sent, is_sent) = mpsc::channel();
    let upstream = Upstream::start(move |_, stream| {
        (0..COUNT).for_each(|place| stream.write_all(hints(place).as_bytes()).unwrap());
        stream.write_all(OK.as_bytes()).unwrap();
        sent.send(()).unwrap();
        true
    });
    let more = "[limits]\nheader_bytes = \"16MiB\"";
    let agent = Agent::start_with(1, &[("*", &upstream.address.to_string())], more);
    let mut client = narrow(&agent);
    // The second is there before the first is answered.
    client.write_all(format!("{GET}{LAST}").as_bytes()).unwrap();
    let mut answers = BufReader::new(client);
    for _ in 0..2 {
        is_sent.recv_timeout(PATIENCE).unwrap();
        for place in 0..COUNT {
            assert!(read_head(&mut answers) == hints(place), "{place}");
        }
        assert_eq!(read_reply(&mut answers).text(), "ok");
    }
    assert!(read_to_close(&mut answers).is_empty());
}

#[test]
fn over_http2_they_come_before_the_response_and_stay_with_their_stream() {
    let (upstream, go) = stepping(&[HINTS, HINTS, OK]);
    let agent = agent_before(&upstream);
    over_http2(&agent, async |mut sender| {
        for has_body in [false, true] {
            let request = Request::post("http://a.example/").body(()).unwrap();
            let (mut response, mut body) = sender.send_request(request, !has_body).unwrap();
            if has_body {
                body.send_data(Bytes::from_static(b"x"), true).unwrap();
            }
            for _ in 0..2 {
                let hints = next_interim(&mut response).await;
                assert_eq!(hints.status(), 103);
                assert_eq!(hints.headers()["link"], "</style.css>; rel=preload");
                assert_eq!(hints.headers().len(), 1, "{:?}", hints.headers());
                go.send(()).unwrap();
            }
            let response = timeout(PATIENCE, response).await.unwrap().unwrap();
            assert_eq!(
                (response.status().as_u16(), &response.headers()["x-a"]),
                (200, &"b".parse().unwrap())
            );
            assert_eq!(response.into_body().data().await.unwrap().unwrap(), "ok");
        }
    });
}

#[test]
fn over_http2_the_word_to_continue_comes_when_the_upstream_gives_it() {
    let (upstream, go) = stepping(&["", "HTTP/1.1 100 Continue\r\n\r\n", OK]);
    let agent = Agent::start(&[("*", &upstream.address.to_string())], "[timeouts]\nexpect = \"1h\"");
    over_http2(&agent, async |mut sender| {
        let request = Request::put("http://a.example/").header("expect", "100-continue").body(()).unwrap();
        let (mut response, mut body) = sender.send_request(request, false).unwrap();
        go.send(()).unwrap();
        assert_eq!(next_interim(&mut response).await.status(), 100);
        body.send_data(Bytes::from_static(b"hello"), true).unwrap();
        go.send(()).unwrap();
        let response = timeout(PATIENCE, response).await.unwrap().unwrap();
        assert_eq!(response.into_body().data().await.unwrap().unwrap(), "ok");
    });
}

fn over_http2(agent: &Agent, test: impl AsyncFnOnce(SendRequest<Bytes>)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let tcp = tokio::net::TcpStream::connect(agent.http).await.unwrap();
        let (sender, connection) = h2::client::handshake(tcp).await.unwrap();
        tokio::spawn(connection);
        test(sender.ready().await.unwrap()).await;
    });
}

async fn next_interim(response: &mut ResponseFuture) -> Response<()> {
    timeout(PATIENCE, poll_fn(|cx| response.poll_informational(cx))).await.unwrap().expect("one").unwrap()
}

/// A client whose kernel takes little at a time.
fn narrow(agent: &Agent) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&agent.http.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}
