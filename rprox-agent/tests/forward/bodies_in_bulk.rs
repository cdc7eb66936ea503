//! Bodies of which more comes at a time than is copied: bytes, lengths and ends are as they are with small ones.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;

use crate::agent::{Agent, PATIENCE};
use crate::bulk::{LENGTH, pattern, receive, send, without_splice};
use crate::client::{connect, connect_over_tls, read_head, read_reply, read_to_close};
use crate::upstream::Upstream;

const HOST: &str = "a.example";

/// One that takes an upload, and answers with as much.
fn exchanger() -> Upstream {
    let (up, down) = (pattern(1), pattern(2));
    Upstream::start(move |_, stream| {
        receive(stream, &up);
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n").unwrap();
        send(stream, &down);
        true
    })
}

/// Two uploads, each answered with a download, the second one's head right behind the first one's body.
fn exchange(mut writer: impl Write + Send, mut reader: impl Read) {
    let (up, down) = (pattern(1), pattern(2));
    thread::scope(|scope| {
        scope.spawn(move || {
            let head = format!("PUT / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {LENGTH}\r\n\r\n");
            for _ in 0..2 {
                writer.write_all(head.as_bytes()).unwrap();
                send(&mut writer, &up);
            }
        });
        for _ in 0..2 {
            assert!(read_head(&mut reader).contains("200 OK"));
            receive(&mut reader, &down);
        }
    });
}

#[test]
fn they_are_untouched_and_the_next_request_begins_behind_them() {
    let upstream = exchanger();
    let mut agent = Agent::start(&[(HOST, &upstream.address.to_string())], "[log]\naccess_format = \"json\"");
    let stream = connect(agent.http);
    exchange(stream.try_clone().unwrap(), stream);
    for _ in 0..2 {
        let line = agent.logged("\"path\"");
        assert!(line.contains(&format!("\"bytes\":{LENGTH},")), "{line}");
    }
    agent.metrics_with(&[format!("rprox_response_bytes_total{{route=\"{HOST}/\"}} {}", 2 * LENGTH)]);
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn where_splice_is_refused_they_are_copied() {
    let upstream = exchanger();
    let routes = format!("[[route]]\nhost = \"{HOST}\"\nupstream = \"{}\"\n", upstream.address);
    let mut agent = Agent::start_by(&[], &routes, without_splice);
    let stream = connect(agent.http);
    exchange(stream.try_clone().unwrap(), stream);
    agent.logged("splice is refused");
}

#[test]
fn over_tls_they_are_copied() {
    let (up, down) = (pattern(1), pattern(2));
    let upstream = exchanger();
    let agent = Agent::start(&[("secure.example", &upstream.address.to_string())], "");
    let mut stream = connect_over_tls(&agent, "secure.example");
    write!(stream, "PUT / HTTP/1.1\r\nHost: secure.example\r\nContent-Length: {LENGTH}\r\n\r\n").unwrap();
    send(&mut stream, &up);
    assert!(read_head(&mut stream).contains("200 OK"));
    receive(&mut stream, &down);
}

#[test]
fn what_has_come_goes_on_before_much_comes() {
    let (begun, begins) = mpsc::channel();
    let upstream = Upstream::start(move |_, stream| {
        let mut first = [0; 5];
        stream.read_exact(&mut first).unwrap();
        begun.send(first).unwrap();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\nworld").unwrap();
        // Until the agent closes.
        let _ = stream.read_to_end(&mut Vec::new());
        false
    });
    let agent = Agent::start(&[(HOST, &upstream.address.to_string())], "");
    let mut stream = connect(agent.http);
    write!(stream, "PUT / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {LENGTH}\r\n\r\nhello").unwrap();
    assert_eq!(begins.recv_timeout(PATIENCE).unwrap(), *b"hello");
    assert!(read_head(&mut stream).contains("200 OK"));
    let mut first = [0; 5];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(first, *b"world");
}

#[test]
fn a_response_cut_short_does_not_look_whole() {
    const SENT: usize = 10 << 20;
    let upstream = Upstream::start(|_, stream| {
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n").unwrap();
        stream.write_all(&vec![b'x'; SENT]).unwrap();
        false
    });
    let agent = Agent::start(&[(HOST, &upstream.address.to_string())], "");
    let mut stream = connect(agent.http);
    write!(stream, "GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").unwrap();
    assert!(read_head(&mut stream).contains("200 OK"));
    assert_eq!(read_to_close(&mut stream).len(), SENT);
}

#[test]
fn an_upload_cut_short_ends_its_request() {
    let (ended, ends) = mpsc::channel();
    let upstream = Upstream::start(move |_, stream| {
        let mut body = Vec::new();
        let _ = stream.read_to_end(&mut body);
        ended.send(body.len()).unwrap();
        false
    });
    let agent = Agent::start(&[(HOST, &upstream.address.to_string())], "");
    let mut stream = connect(agent.http);
    write!(stream, "PUT / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {LENGTH}\r\n\r\n").unwrap();
    stream.write_all(&vec![b'x'; 10 << 20]).unwrap();
    drop(stream);
    assert!(ends.recv_timeout(PATIENCE).unwrap() <= 10 << 20);
}

/// Sends as long as it is taken.
fn send_until_full(stream: &mut TcpStream) {
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let piece = vec![b'x'; 1 << 20];
    while stream.write_all(&piece).is_ok() {}
}

#[test]
fn who_takes_nothing_or_sends_no_more_is_given_up() {
    let upstream = Upstream::start(|head, stream| {
        if head.starts_with("GET") {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1_u64 << 40).unwrap();
            send_until_full(stream);
        } else {
            let _ = std::io::copy(stream, &mut std::io::sink());
        }
        false
    });
    let more = "[timeouts]\nbody = \"300ms\"";
    let agent = Agent::start(&[(HOST, &upstream.address.to_string())], more);
    let mut slow = connect(agent.http);
    write!(slow, "GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").unwrap();
    agent.metrics_with(&["rprox_limit_hits_total{limit=\"client_rate\"} 1"]);
    let mut stalled = connect(agent.http);
    write!(stalled, "PUT / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {LENGTH}\r\n\r\n").unwrap();
    stalled.write_all(&vec![b'x'; 10 << 20]).unwrap();
    stalled.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(read_reply(&mut stalled).status(), 408);
}
