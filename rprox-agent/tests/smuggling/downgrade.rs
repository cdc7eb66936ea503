//! Requests over HTTP/2, and what an upstream that speaks HTTP/1.1 gets of them.

use rprox_tests::wait;

use crate::agent::{Agent, PATIENCE};
use crate::frames::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Peer, RST_STREAM, WHOLE, block, frame};
use crate::recorder::Recorder;

/// What a request has besides the usual, or instead; and what arrives of it. A body's last character ends the stream.
struct Case(&'static [(&'static str, &'static str)], &'static str, Outcome);

enum Outcome {
    /// This.
    Arrives(&'static str),
    /// Nothing: the stream or the connection ends, or the status is 400, 501 or 404.
    Nothing,
    /// This, or its beginning, and then the upstream's connection ends.
    CutOff(&'static str),
}

use Outcome::{Arrives, CutOff, Nothing};

const GET: &str = "GET / HTTP/1.1\r\nhost: a.example\r\n\r\n";

fn head(fields: &[(&str, &str)]) -> Vec<u8> {
    let usual = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.example")];
    let (pseudo, others): (Vec<_>, Vec<_>) =
        fields.iter().copied().partition(|(name, _)| name.starts_with(':'));
    let mut all: Vec<(&str, &str)> =
        usual.into_iter().filter(|(name, _)| !pseudo.iter().any(|(given, _)| given == name)).collect();
    all.extend(pseudo);
    all.extend(others);
    block(&all)
}

fn run(agent: &Agent, upstream: &Recorder, Case(fields, body, outcome): &Case) -> Result<(), String> {
    let mut peer = Peer::connect(agent.http, PATIENCE, &[]);
    let mut bytes = frame(HEADERS, if body.is_empty() { WHOLE } else { END_HEADERS }, 1, &head(fields));
    if !body.is_empty() {
        bytes.extend(frame(DATA, END_STREAM, 1, body.as_bytes()));
    }
    peer.send(&bytes);
    let mut status = None;
    while let Some(frame) = peer.receive() {
        if frame.kind == GOAWAY || (frame.kind, frame.stream) == (RST_STREAM, 1) {
            break;
        }
        if let Some(found) = frame.status() {
            status = Some(found);
            break;
        }
    }
    let mark = "GET /mark HTTP/1.1\r\nhost: a.example\r\n\r\n";
    let mut marker = Peer::connect(agent.http, PATIENCE, &[]);
    marker.send(&frame(HEADERS, WHOLE, 1, &head(&[(":path", "/mark")])));
    while marker.receive().ok_or("the next request fails")?.status() != Some(200) {}
    let all = upstream.take();
    let wrong = |why| Err(format!("{fields:?} {body:?}\n  {why}\n  status {status:?}, arrived {all:?}"));
    let Some((before, after)) = all.split_once(mark) else { return wrong("the next request is lost") };
    let arrived = format!("{before}{after}");
    match outcome {
        Arrives(expected) if arrived == *expected && status == Some(200) => Ok(()),
        Nothing if arrived.is_empty() && matches!(status, None | Some(400 | 404 | 501)) => Ok(()),
        CutOff(whole) if whole.starts_with(&arrived) && status != Some(200) => Ok(()),
        Arrives(expected) => wrong(expected),
        Nothing => wrong("expected nothing to arrive"),
        CutOff(whole) => wrong(whole),
    }
}

fn check(cases: &[Case]) {
    let upstream = Recorder::start();
    let agent = Agent::start_with(1, &[("*", &upstream.address.to_string())], "");
    let wrong: Vec<String> = cases.iter().filter_map(|case| run(&agent, &upstream, case).err()).collect();
    assert!(wrong.is_empty(), "{} of {}:\n\n{}", wrong.len(), cases.len(), wrong.join("\n\n"));
}

#[test]
fn requests_arrive_in_the_form_of_http1() {
    check(&[
        Case(&[], "", Arrives(GET)),
        Case(&[("x", "y")], "", Arrives("GET / HTTP/1.1\r\nx: y\r\nhost: a.example\r\n\r\n")),
        Case(&[("host", "a.example")], "", Arrives(GET)),
        Case(
            &[("te", "trailers")],
            "",
            Arrives("GET / HTTP/1.1\r\nhost: a.example\r\nte: trailers\r\nconnection: te\r\n\r\n"),
        ),
        Case(
            &[("cookie", "a=b"), ("cookie", "c=d")],
            "",
            Arrives("GET / HTTP/1.1\r\ncookie: a=b; c=d\r\nhost: a.example\r\n\r\n"),
        ),
        Case(
            &[(":method", "POST")],
            "hello",
            Arrives(
                "POST / HTTP/1.1\r\nhost: a.example\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            ),
        ),
        Case(
            &[(":method", "POST"), ("content-length", "5")],
            "hello",
            Arrives("POST / HTTP/1.1\r\ncontent-length: 5\r\nhost: a.example\r\n\r\nhello"),
        ),
        Case(
            &[("content-length", "005")],
            "hello",
            Arrives("GET / HTTP/1.1\r\ncontent-length: 5\r\nhost: a.example\r\n\r\nhello"),
        ),
    ]);
}

#[test]
fn a_body_that_is_given_up_does_not_look_whole() {
    let upstream = Recorder::start();
    let agent = Agent::start_with(1, &[("*", &upstream.address.to_string())], "");
    let head = head(&[(":method", "POST")]);
    for code in [0, 8] {
        let mut peer = Peer::connect(agent.http, PATIENCE, &[]);
        peer.send(&[frame(HEADERS, END_HEADERS, 1, &head), frame(DATA, 0, 1, b"hello")].concat());
        let mut seen = String::new();
        wait::until(PATIENCE, "the body's beginning to arrive", || {
            seen += &upstream.take();
            seen.ends_with("\r\n5\r\nhello\r\n").then_some(())
        })
        .unwrap();
        peer.send(&frame(RST_STREAM, 0, 1, &[0, 0, 0, code]));
        wait::until(PATIENCE, "the upstream's connection to end", || (upstream.open() == 0).then_some(()))
            .unwrap();
        assert_eq!(upstream.take(), "", "behind the body, reset with code {code}");
    }
}

#[test]
fn lengths_that_do_not_fit_cut_off() {
    check(&[
        Case(
            &[("content-length", "6")],
            "hello",
            CutOff("GET / HTTP/1.1\r\ncontent-length: 6\r\nhost: a.example\r\n\r\nhello"),
        ),
        Case(
            &[("content-length", "4")],
            "GET /smuggled HTTP/1.1\r\nhost: a.example\r\n\r\n",
            CutOff("GET / HTTP/1.1\r\ncontent-length: 4\r\nhost: a.example\r\n\r\n"),
        ),
        Case(
            &[("content-length", "0")],
            "GET /smuggled HTTP/1.1\r\nhost: a.example\r\n\r\n",
            CutOff("GET / HTTP/1.1\r\ncontent-length: 0\r\nhost: a.example\r\n\r"),
        ),
        Case(&[("content-length", "5")], "", Nothing),
        Case(&[("content-length", "5"), ("content-length", "6")], "hello", Nothing),
        Case(
            &[("content-length", "5"), ("content-length", "5")],
            "hello",
            Arrives("GET / HTTP/1.1\r\ncontent-length: 5\r\nhost: a.example\r\n\r\nhello"),
        ),
        Case(&[("content-length", "5,5")], "hello", Nothing),
        Case(&[("content-length", "+5")], "hello", Nothing),
        Case(&[("content-length", "-5")], "hello", Nothing),
        Case(&[("content-length", "5 ")], "hello", Nothing),
        Case(&[("content-length", "")], "hello", Nothing),
        Case(&[("content-length", "0x5")], "hello", Nothing),
    ]);
}

#[test]
fn fields_that_mean_something_in_http1_only_are_refused() {
    check(&[
        Case(&[("transfer-encoding", "chunked")], "0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n", Nothing),
        Case(&[("transfer-encoding", "chunked")], "", Nothing),
        Case(&[("transfer-encoding", "identity")], "", Nothing),
        Case(&[("transfer_encoding", "chunked")], "", Nothing),
        Case(&[("transfer-encoding ", "chunked")], "", Nothing),
        Case(&[("connection", "content-length")], "", Nothing),
        Case(&[("connection", "close")], "", Nothing),
        Case(&[("keep-alive", "1")], "", Nothing),
        Case(&[("proxy-connection", "close")], "", Nothing),
        Case(&[("upgrade", "h2c")], "", Nothing),
        Case(&[("te", "chunked")], "", Nothing),
    ]);
}

#[test]
fn no_line_comes_in_by_a_name_or_a_value() {
    check(&[
        Case(&[("x", "y\r\ntransfer-encoding: chunked")], "", Nothing),
        Case(&[("x", "y\r\n\r\nGET /smuggled HTTP/1.1")], "", Nothing),
        Case(&[("x", "y\nz: 1")], "", Nothing),
        Case(&[("x", "y\rz: 1")], "", Nothing),
        Case(&[("x", "y\0")], "", Nothing),
        Case(&[("x\r\nz: 1", "y")], "", Nothing),
        Case(&[("x: y\r\nz", "1")], "", Nothing),
        Case(&[("x:y", "z")], "", Nothing),
        Case(&[("x y", "z")], "", Nothing),
        Case(&[("X", "y")], "", Nothing),
        Case(&[("", "y")], "", Nothing),
        Case(&[("x", " y ")], "", Arrives("GET / HTTP/1.1\r\nx:  y \r\nhost: a.example\r\n\r\n")),
    ]);
}

#[test]
fn no_line_comes_in_by_a_request_line() {
    check(&[
        Case(&[(":path", "/ HTTP/1.1\r\nx: y\r\n\r\nGET /smuggled")], "", Nothing),
        Case(&[(":path", "/a b")], "", Nothing),
        Case(&[(":path", "/a\tb")], "", Nothing),
        Case(&[(":path", "/a\0b")], "", Nothing),
        Case(&[(":path", "/a\nb")], "", Nothing),
        Case(&[(":path", "")], "", Nothing),
        Case(&[(":path", "a")], "", Nothing),
        Case(&[(":path", "http://b.example/")], "", Nothing),
        Case(&[(":path", "*")], "", Nothing),
        Case(&[(":path", "/a#b")], "", Arrives("GET /a HTTP/1.1\r\nhost: a.example\r\n\r\n")),
        Case(&[(":method", "GET / HTTP/1.1\r\nx: y\r\n\r\nGET")], "", Nothing),
        Case(&[(":method", "GET /x")], "", Nothing),
        Case(&[(":method", "")], "", Nothing),
        Case(&[(":method", "CONNECT")], "", Nothing),
        Case(&[(":method", "TRACE")], "", Nothing),
        Case(&[(":scheme", "http\r\nx: y")], "", Nothing),
        Case(&[(":scheme", "http://b.example/?")], "", Nothing),
        Case(&[(":scheme", "ftp")], "", Nothing),
        Case(&[(":scheme", "")], "", Nothing),
        Case(&[(":path", "/"), (":path", "/b")], "", Nothing),
        Case(&[(":method", "GET"), (":method", "POST")], "", Nothing),
    ]);
}

#[test]
fn the_authority_is_one_host() {
    check(&[
        Case(&[(":authority", "a.example\r\nx: y")], "", Nothing),
        Case(&[(":authority", "a.example b.example")], "", Nothing),
        Case(&[(":authority", "u@a.example")], "", Nothing),
        Case(&[(":authority", "a.example/b")], "", Nothing),
        Case(&[(":authority", "a.example?b")], "", Nothing),
        Case(&[(":authority", "a.example:x")], "", Nothing),
        Case(&[(":authority", "")], "", Nothing),
        Case(&[(":authority", "a.example"), (":authority", "b.example")], "", Nothing),
        Case(&[("host", "b.example")], "", Nothing),
        Case(&[("host", "a.example"), ("host", "b.example")], "", Nothing),
        Case(&[("host", "a.example\r\nx: y")], "", Nothing),
    ]);
}
