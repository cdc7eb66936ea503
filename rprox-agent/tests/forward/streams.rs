//! Bodies.

use std::io::{ErrorKind, Read, Write};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::agent::{Agent, PATIENCE};
use crate::client::{connect, read_head, read_reply, read_to_close};
use crate::upstream::Upstream;

const GIB: usize = 1 << 30;

fn discard(stream: &mut impl Read, length: usize) {
    let mut buffer = vec![0; 1 << 20];
    let mut left = length;
    while left > 0 {
        let read = stream.read(&mut buffer[..left.min(1 << 20)]).unwrap();
        assert_ne!(read, 0, "{left} bytes before its end");
        left -= read;
    }
}

#[test]
fn an_upload_of_a_gibibyte_takes_no_memory_even_if_the_upstream_waits() {
    let (started, starts) = mpsc::channel();
    let upstream = Upstream::start(move |head, stream| {
        assert!(head.contains(&format!("content-length: {GIB}")), "{head}");
        started.send(()).unwrap();
        // Long enough for everything that would buffer to fill up.
        std::thread::sleep(Duration::from_secs(1));
        discard(stream, GIB);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").unwrap();
        true
    });
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    let mut stream = connect(agent.http);
    write!(stream, "PUT /x HTTP/1.1\r\nHost: a.example\r\nContent-Length: {GIB}\r\n\r\n").unwrap();
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..GIB >> 20 {
        stream.write_all(&piece).unwrap();
    }
    starts.recv_timeout(PATIENCE).unwrap();
    assert_eq!(read_reply(&mut stream).text(), "done");
    let peak = agent.peak_memory();
    assert!(peak < 64 << 10, "{peak} KiB");
}

#[test]
fn a_download_waits_for_a_client_that_does_not_read() {
    let (sent, told) = mpsc::channel();
    let upstream = Upstream::start(move |_, stream| {
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {GIB}\r\n\r\n").unwrap();
        stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let piece = vec![b'x'; 1 << 20];
        let mut written = 0;
        while written < GIB {
            match stream.write(&piece) {
                Ok(length) => written += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    // Full: the agent takes no more than it can hand on.
                    let _ = sent.send(written);
                }
                Err(_) => return false,
            }
        }
        true
    });
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    let mut stream = connect(agent.http);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    let written = told.recv_timeout(PATIENCE).unwrap();
    assert!(written < 64 << 20, "{written} bytes went to a client that reads nothing");
    assert!(read_head(&mut stream).contains("200 OK"));
    discard(&mut stream, 64 << 20);
    let peak = agent.peak_memory();
    assert!(peak < 64 << 10, "{peak} KiB");
}

#[test]
fn a_response_cut_short_does_not_look_whole() {
    let upstream = Upstream::start(|head, stream| {
        let framing = if head.starts_with("GET /chunked") {
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
        } else {
            "Content-Length: 100\r\n\r\nhello"
        };
        write!(stream, "HTTP/1.1 200 OK\r\n{framing}").unwrap();
        false
    });
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    for path in ["/chunked", "/length"] {
        let mut stream = connect(agent.http);
        write!(stream, "GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
        let all = read_to_close(&mut stream);
        let text = String::from_utf8_lossy(&all);
        assert!(text.contains("hello"), "{text}");
        assert!(!text.ends_with("0\r\n\r\n"), "{text}");
    }
}

#[test]
fn a_body_that_stops_coming_is_given_up() {
    let upstream = Upstream::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello").unwrap();
        std::thread::sleep(PATIENCE * 3);
        false
    });
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "[timeouts]\nbody = \"300ms\"");
    let mut stream = connect(agent.http);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    let start = Instant::now();
    assert!(read_to_close(&mut stream).ends_with(b"hello"));
    assert!(start.elapsed() < PATIENCE / 2);
}

#[test]
fn an_answer_before_the_upload_s_end_reaches_the_client() {
    let upstream = Upstream::start(|_, stream| {
        stream
            .write_all(b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
            .unwrap();
        discard(stream, 1 << 20);
        false
    });
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    let mut stream = connect(agent.http);
    stream.write_all(b"PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 8388608\r\n\r\n").unwrap();
    stream.write_all(&vec![b'x'; 1 << 20]).unwrap();
    let reply = read_reply(&mut stream);
    assert_eq!((reply.status(), reply.text()), (403, "no"));
}

#[test]
fn an_answer_before_the_upload_s_end_reaches_an_http2_client() {
    let upstream = Upstream::start(|_, stream| {
        stream
            .write_all(b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
            .unwrap();
        // Until the agent stops: closing would reset what may not have been read.
        let _ = std::io::copy(stream, &mut std::io::sink());
        false
    });
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(64 << 20).unwrap();
    for _ in 0..8 {
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "20", "--http2-prior-knowledge", "-w", " %{http_code}", "--resolve"])
            .arg(format!("a.example:{}:127.0.0.1", agent.http.port()))
            .arg("-T")
            .arg(file.path())
            .arg(format!("http://a.example:{}/", agent.http.port()))
            .output()
            .expect("curl runs");
        let (answer, complaint) = (String::from_utf8(output.stdout).unwrap(), output.stderr);
        assert_eq!(answer, "no 403", "{}", String::from_utf8_lossy(&complaint));
    }
}

#[test]
fn a_client_that_leaves_ends_its_upstream_request() {
    let (begun, begins) = mpsc::channel();
    let (ended, ends) = mpsc::channel();
    let upstream = Upstream::start(move |_, stream| {
        begun.send(()).unwrap();
        let mut byte = [0];
        let left = matches!(stream.read(&mut byte), Ok(0) | Err(_));
        ended.send(left).unwrap();
        false
    });
    let agent =
        Agent::start(&[("a.example", &upstream.address.to_string())], "[timeouts]\nhalf_closed = \"300ms\"");
    let mut stream = connect(agent.http);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    begins.recv_timeout(PATIENCE).unwrap();
    drop(stream);
    assert!(ends.recv_timeout(PATIENCE).unwrap());
    agent.metrics_with(&["rprox_limit_hits_total{limit=\"timeouts.half_closed\"} 1"]);
}

#[test]
fn chunked_bodies_and_bodies_of_get_pass() {
    let upstream = Upstream::start(|head, stream| {
        assert!(head.contains("transfer-encoding: chunked"), "{head}");
        let mut body = Vec::new();
        let mut byte = [0];
        while !body.ends_with(b"0\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            body.push(byte[0]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        stream.write_all(&body).unwrap();
        true
    });
    let agent = Agent::start(&[("a.example", &upstream.address.to_string())], "");
    for method in ["POST", "GET"] {
        let mut stream = connect(agent.http);
        write!(
            stream,
            "{method} / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
             3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
        )
        .unwrap();
        let all = String::from_utf8(read_to_close(&mut stream)).unwrap();
        let (_, body) = all.split_once("\r\n\r\n").unwrap();
        let data: String = body.split("\r\n").skip(1).step_by(2).collect();
        assert_eq!(data, "abcdefg", "{all}");
    }
}

#[test]
fn an_upstream_may_take_its_time_with_a_body() {
    const LENGTH: usize = 64 << 20;
    const PAUSE: Duration = Duration::from_secs(2);
    let upstream = Upstream::start(|_, stream| {
        // Longer than an endpoint may be silent before it counts as gone, with all buffers on the way full.
        std::thread::sleep(PAUSE);
        discard(stream, LENGTH);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").unwrap();
        true
    });
    let more = "[timeouts]\nconnect = \"300ms\"";
    let agent = Agent::start_with(1, &[("a.example", &upstream.address.to_string())], more);
    let mut stream = connect(agent.http);
    for _ in 0..2 {
        write!(stream, "PUT /x HTTP/1.1\r\nHost: a.example\r\nContent-Length: {LENGTH}\r\n\r\n").unwrap();
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..LENGTH >> 20 {
            stream.write_all(&piece).unwrap();
        }
        assert_eq!(read_reply(&mut stream).text(), "done");
    }
    assert_eq!(upstream.connections(), 1);
}
