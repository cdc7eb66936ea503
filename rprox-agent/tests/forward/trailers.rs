//! Trailers, and what else a message has beside head and body.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use crate::agent::Agent;
use crate::client::{connect, read_head, read_reply, read_to_close};
use crate::upstream::Upstream;

fn read_chunked(stream: &mut impl Read) -> String {
    let mut body = Vec::new();
    let mut byte = [0];
    let is_whole = |body: &[u8]| {
        let text = String::from_utf8_lossy(body);
        text.find("\r\n0\r\n").is_some_and(|last| text[last + 3..].contains("\r\n\r\n"))
    };
    while !is_whole(&body) {
        stream.read_exact(&mut byte).unwrap();
        body.push(byte[0]);
    }
    String::from_utf8(body).unwrap()
}

#[test]
fn announced_trailers_pass_both_ways() {
    let upstream = Upstream::start(|head, stream| {
        assert!(head.contains("trailer: X-Sum\r\n") && head.contains("te: trailers\r\n"), "{head}");
        assert!(head.contains("\r\nconnection: te\r\n"), "TE is for one hop: {head}");
        let body = read_chunked(stream);
        assert!(body.ends_with("\r\n0\r\nx-sum: 42\r\n\r\n"), "{body}");
        stream
            .write_all(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
                  2\r\nok\r\n0\r\nX-Sum: 43\r\n\r\n",
            )
            .unwrap();
        true
    });
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    let mut stream = connect(agent.http);
    stream
        .write_all(
            b"POST / HTTP/1.1\r\nHost: a.example\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
              3\r\nabc\r\n0\r\nX-Sum: 42\r\n\r\n"
        )
        .unwrap();
    let head = read_head(&mut stream);
    assert!(head.contains("trailer: x-sum\r\n"), "{head}");
    let body = read_chunked(&mut stream);
    assert!(body.ends_with("\r\n0\r\nx-sum: 43\r\n\r\n"), "{body}");
}

#[test]
fn what_a_client_may_not_say_in_its_head_it_does_not_say_behind_its_body() {
    let upstream = Upstream::start(|_, stream| {
        let body = read_chunked(stream);
        assert!(body.ends_with("\r\n0\r\nx-sum: 42\r\n\r\n"), "{body}");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        true
    });
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    let names = [
        "X-Forwarded-For",
        "Forwarded",
        "X_Forwarded_Proto",
        "Client-Cert",
        "X-Client-Cert-Subject",
        "x_client_cert_sha256",
        "Keep-Alive",
        "Upgrade",
        "X-Sum",
    ];
    let trailers = names.map(|name| format!("{name}: 42\r\n")).concat();
    let mut stream = connect(agent.http);
    write!(
        stream,
        "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nTrailer: {}\r\n\r\n\
         3\r\nabc\r\n0\r\n{trailers}\r\n",
        names.join(", ")
    )
    .unwrap();
    assert_eq!(read_reply(&mut stream).status(), 200);
}

#[test]
fn an_http_2_client_gets_no_trailers_that_are_for_one_hop() {
    let upstream = Upstream::start(|_, stream| {
        stream
            .write_all(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 43\r\n\
                  Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nTransfer-Encoding: chunked\r\n\r\n",
            )
            .unwrap();
        true
    });
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let trailers = runtime.block_on(async {
        let tcp = tokio::net::TcpStream::connect(agent.http).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(tcp).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::get("http://a.example/").body(()).unwrap();
        let mut body = sender.send_request(request, true).unwrap().0.await.unwrap().into_body();
        while let Some(data) = body.data().await {
            assert_eq!(data.unwrap(), "ok");
        }
        // Which refuses what has no place in HTTP/2.
        body.trailers().await.unwrap().unwrap()
    });
    assert_eq!(trailers, http::HeaderMap::from_iter([("x-sum".parse().unwrap(), "43".parse().unwrap())]));
}

#[test]
fn an_http_1_0_client_gets_no_chunks() {
    let upstream = Upstream::start(|_, stream| {
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
            .unwrap();
        true
    });
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    let mut stream = connect(agent.http);
    stream.write_all(b"GET / HTTP/1.0\r\nHost: a.example\r\n\r\n").unwrap();
    let all = String::from_utf8(read_to_close(&mut stream)).unwrap();
    let (head, body) = all.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "hello");
    assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "{head}");
}

#[test]
fn a_client_that_closes_its_half_still_gets_its_answer() {
    let upstream = Upstream::start(|head, stream| {
        if head.contains("content-length: 3") {
            stream.read_exact(&mut [0; 3]).unwrap();
        }
        // Its head comes after the agent has seen that the client says no more, and its body after that.
        std::thread::sleep(Duration::from_millis(200));
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n").unwrap();
        std::thread::sleep(Duration::from_millis(2500));
        stream.write_all(b"late").unwrap();
        true
    });
    let agent =
        Agent::start(&[("a.example", &upstream.address.to_string())], "[timeouts]\nhalf_closed = \"2s\"");
    for request in ["GET / HTTP/1.1\r\n\r\n", "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"] {
        let mut stream = connect(agent.http);
        stream.write_all(request.replacen("\r\n", "\r\nHost: a.example\r\n", 1).as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_reply(&mut stream).text(), "late");
        assert!(read_to_close(&mut stream).is_empty());
    }
}

#[test]
fn head_ranges_and_conditions_are_left_to_the_upstream() {
    let upstream = Upstream::start(|head, stream| {
        let answer = if head.starts_with("HEAD ") {
            "200 OK\r\nContent-Length: 1000\r\nETag: \"x\"\r\n\r\n"
        } else if head.contains("range: bytes=1-2") {
            "206 Partial Content\r\nContent-Range: bytes 1-2/4\r\nContent-Length: 2\r\n\r\nbc"
        } else if head.contains("if-none-match: \"x\"") {
            "304 Not Modified\r\nETag: \"x\"\r\n\r\n"
        } else {
            "204 No Content\r\n\r\n"
        };
        write!(stream, "HTTP/1.1 {answer}").unwrap();
        true
    });
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    // On one connection: a body that is read where there is none, or the other way round, spoils the next response.
    let mut stream = connect(agent.http);
    for _ in 0..2 {
        for (request, status, body) in [
            ("HEAD", "200", ""),
            ("GET / HTTP/1.1\r\nRange: bytes=1-2", "206", "bc"),
            ("GET / HTTP/1.1\r\nIf-None-Match: \"x\"", "304", ""),
            ("GET", "204", ""),
        ] {
            let line =
                if request.contains('/') { request.to_owned() } else { format!("{request} / HTTP/1.1") };
            write!(stream, "{line}\r\nHost: a.example\r\n\r\n").unwrap();
            let head = read_head(&mut stream);
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {head}");
            assert_eq!(head.contains("content-length: 1000\r\n"), request == "HEAD", "{head}");
            assert_eq!(head.contains("content-range: bytes 1-2/4"), status == "206", "{head}");
            let mut received = vec![0; body.len()];
            stream.read_exact(&mut received).unwrap();
            assert_eq!(received, body.as_bytes());
        }
    }
}
