//! What an upstream answers, and what the client gets of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::agent::{Agent, PATIENCE};
use crate::case::latin1;

/// What an upstream sends for a GET, and what comes of it.
struct Case(&'static str, Outcome);

#[derive(Debug)]
enum Outcome {
    /// The client gets this.
    Passes(&'static str),
    /// The client gets 502.
    Bad,
    /// The client gets this, or less; then the connection ends.
    CutOff(&'static str),
}

use Outcome::{Bad, CutOff, Passes};

const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
const NEXT: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnext";

/// A 200 with these fields and this body.
macro_rules! ok {
    ($fields:expr, $body:expr) => {
        concat!("HTTP/1.1 200 OK\r\n", $fields, "\r\n", $body)
    };
}

fn upstream(cases: &'static [Case]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || serve(stream.unwrap(), cases));
        }
    });
    address
}

fn serve(mut stream: TcpStream, cases: &[Case]) {
    let mut head = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut piece) {
        head.extend(&piece[..length]);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8(std::mem::take(&mut head)).unwrap();
        let path = text.split(' ').nth(1).unwrap();
        match path[1..].parse::<usize>() {
            Ok(number) => stream.write_all(&latin1(cases[number].0)).unwrap(),
            Err(_) => stream.write_all(NEXT.as_bytes()).unwrap(),
        }
    }
}

fn ask(address: SocketAddr, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{method} /{path} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let text: String = answer.iter().map(|byte| char::from(*byte)).collect();
    let ours = ["date: ", "connection: close"];
    text.split_inclusive("\r\n").filter(|line| !ours.iter().any(|name| line.starts_with(name))).collect()
}

fn check(method: &str, cases: &'static [Case]) {
    let upstream = upstream(cases);
    // One worker, so that a connection that should not be used again would be.
    let agent = Agent::start_with(1, &[("*", &upstream.to_string())], "");
    let mut wrong = Vec::new();
    for (number, Case(response, outcome)) in cases.iter().enumerate() {
        let got = ask(agent.http, method, &number.to_string());
        let good = match outcome {
            Passes(expected) => got == *expected,
            Bad => got.starts_with("HTTP/1.1 502 "),
            CutOff(whole) => whole.starts_with(&got) && got != *whole,
        };
        let next = ask(agent.http, "GET", "next");
        if !good || next != NEXT {
            let short: String = response.chars().take(200).collect();
            wrong.push(format!("{short:?}\n  {outcome:?}\n  got {got:?}, next {next:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n\n{}", wrong.len(), cases.len(), wrong.join("\n\n"));
}

#[test]
fn a_response_has_one_length() {
    check(
        "GET",
        &[
            Case(ok!("Content-Length: 5\r\n", "hello"), Passes(HELLO)),
            Case(ok!("Content-Length: 005\r\n", "hello"), Passes(HELLO)),
            Case(ok!("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"), Passes(HELLO)),
            Case(ok!("Content-Length: 5, 5\r\n", "hello"), Passes(HELLO)),
            Case(ok!("Content-Length: 5\r\nContent-Length: 6\r\n", "hello!"), Bad),
            Case(ok!("Content-Length: 5, 6\r\n", "hello!"), Bad),
            Case(ok!("Content-Length: +5\r\n", "hello"), Bad),
            Case(ok!("Content-Length: -1\r\n", "hello"), Bad),
            Case(ok!("Content-Length: 0x5\r\n", "hello"), Bad),
            Case(ok!("Content-Length:\r\n", "hello"), Bad),
            Case(ok!("Content-Length: 18446744073709551621\r\n", "hello"), Bad),
            Case(ok!("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), Bad),
            Case(ok!("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"), Bad),
            Case(ok!("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), Bad),
            Case(ok!("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), Bad),
            Case(ok!("Transfer-Encoding: identity\r\n", "hello"), Bad),
            Case(ok!("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), Bad),
            Case("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Bad),
            Case(
                ok!("Transfer-Encoding: chunked\r\n", "5;x\r\nhello\r\n0\r\n\r\n"),
                Passes("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
            ),
            Case(
                ok!("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n+0\r\n\r\n"),
                CutOff("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
            ),
            Case(
                ok!("Transfer-Encoding: chunked\r\n", "5\r\nhelloX\r\n0\r\n\r\n"),
                CutOff("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
            ),
            Case(
                ok!("Transfer-Encoding: chunked\r\n", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
                CutOff("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
            ),
        ],
    );
}

#[test]
fn a_response_s_head_is_well_formed() {
    check(
        "GET",
        &[
            Case(ok!("Content-Length: 5\r\nX: y\r\n z\r\n", "hello"), Bad),
            Case(ok!("Content-Length: 5\r\nX: y\rSet-Cookie: z\r\n", "hello"), Bad),
            Case(ok!("Content-Length: 5\r\nX: \0\r\n", "hello"), Bad),
            Case(ok!("Content-Length : 5\r\n", "hello"), Bad),
            Case(ok!("Content-Length: 5\r\nX(: y\r\n", "hello"), Bad),
            Case(ok!("Content-Length: 5\r\nX\r\n", "hello"), Bad),
            Case("HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", Passes(HELLO)),
            Case(
                "HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello",
                Passes("HTTP/1.1 200 \r\ncontent-length: 5\r\n\r\nhello"),
            ),
            Case("HTTP/1.1 99 OK\r\nContent-Length: 5\r\n\r\nhello", Bad),
            Case("HTTP/1.1 1000 OK\r\nContent-Length: 5\r\n\r\nhello", Bad),
            Case("HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", Bad),
            Case("http/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Bad),
            Case("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhello", Bad),
            Case("hello, this is no HTTP\r\n\r\n", Bad),
        ],
    );
}

#[test]
fn what_comes_after_a_response_is_nobody_s() {
    check(
        "GET",
        &[
            Case(
                concat!(
                    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
                    "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
                ),
                Passes(HELLO),
            ),
            Case(concat!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "\r\n"), Passes(HELLO)),
            Case(concat!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "H"), Passes(HELLO)),
            Case(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
                Passes("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
            ),
            Case(
                "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
                Passes("HTTP/1.1 204 No Content\r\n\r\n"),
            ),
            Case(
                "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello",
                Passes("HTTP/1.1 304 Not Modified\r\n\r\n"),
            ),
            Case(
                "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
                Passes("HTTP/1.1 204 No Content\r\n\r\n"),
            ),
        ],
    );
    check(
        "HEAD",
        &[
            Case(
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
                Passes("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
            ),
            Case(EVIL, Passes("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")),
        ],
    );
}

#[test]
fn what_comes_on_an_idle_connection_is_no_response() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (go, goes) = mpsc::channel::<()>();
    let (sent, is_sent) = mpsc::channel();
    thread::spawn(move || {
        let mut first = Some((goes, sent));
        for stream in listener.incoming() {
            let (mut stream, first) = (stream.unwrap(), first.take());
            thread::spawn(move || {
                serve_one(&mut stream);
                if let Some((goes, sent)) = first {
                    goes.recv_timeout(PATIENCE).unwrap();
                    stream.write_all(EVIL.as_bytes()).unwrap();
                    sent.send(()).unwrap();
                }
                let _ = stream.read(&mut [0; 4096]);
            });
        }
    });
    let agent = Agent::start_with(1, &[("*", &address.to_string())], "");
    assert_eq!(ask(agent.http, "GET", "next"), NEXT);
    go.send(()).unwrap();
    is_sent.recv_timeout(PATIENCE).unwrap();
    assert_eq!(ask(agent.http, "GET", "next"), NEXT);
}

fn serve_one(stream: &mut TcpStream) {
    read_request(stream);
    stream.write_all(NEXT.as_bytes()).unwrap();
}

fn read_request(stream: &mut TcpStream) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
}

#[test]
fn endless_interim_responses_end_with_the_time_for_a_response() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let mut stream = stream.unwrap();
                read_request(&mut stream);
                while stream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").is_ok() {
                    thread::sleep(Duration::from_millis(1));
                }
            });
        }
    });
    let agent = Agent::start(&[("*", &address.to_string())], "[timeouts]\nresponse = \"300ms\"");
    let start = Instant::now();
    let answer = ask(agent.http, "POST", "");
    let end = answer.rsplit("HTTP/1.1 ").next().unwrap();
    assert!(end.starts_with("504 "), "{answer}");
    assert!(start.elapsed() < PATIENCE / 2);
}
