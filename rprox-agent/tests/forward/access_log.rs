//! What is logged of requests.

use std::process::Command;

use crate::agent::Agent;
use crate::client::{ask, get};
use crate::upstream::Upstream;

const REQUEST: &str = "GET /path?token=secret HTTP/1.1\r\nHost: a.example\r\nUser-Agent: test\r\n\
                       Referer: https://b.example/?token=secret\r\nCookie: secret\r\nAuthorization: secret\r\n\r\n";

#[test]
fn a_json_line_has_what_is_known_of_a_request_and_the_trace_goes_on() {
    let upstream = Upstream::mirror();
    let address = upstream.address.to_string();
    let more = "[log]\naccess_format = \"json\"\ntraceparent = \"create\"";
    let mut agent = Agent::start(&[("a.example", &address)], more);
    let sent = ask(&agent, REQUEST).text().to_owned();
    let line = agent.logged("\"path\"");
    assert!(!line.contains("secret"), "{line}");
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    for (field, value) in [
        ("client", "127.0.0.1"),
        ("method", "GET"),
        ("host", "a.example"),
        ("path", "/path"),
        ("protocol", "HTTP/1.1"),
        ("route", "a.example/"),
        ("endpoint", &address),
        ("referer", "https://b.example/"),
        ("user_agent", "test"),
    ] {
        assert_eq!(line[field], value, "{field}");
    }
    assert_eq!((line["status"].as_u64(), line["tls"].as_bool()), (Some(200), Some(false)));
    assert_eq!(line["bytes"].as_u64(), Some(sent.len() as u64));
    let trace = line["trace_id"].as_str().unwrap();
    assert!(sent.contains(&format!("traceparent: 00-{trace}-")), "{sent}");
}

#[test]
fn a_trace_that_a_client_began_is_kept() {
    let upstream = Upstream::mirror();
    let more = "[log]\naccess_format = \"json\"";
    let mut agent = Agent::start(&[("a.example", &upstream.address.to_string())], more);
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = format!("GET / HTTP/1.1\r\nHost: a.example\r\ntraceparent: {parent}\r\n\r\n");
    assert!(ask(&agent, &request).text().contains(&format!("traceparent: {parent}\r\n")));
    agent.logged("\"trace_id\":\"4bf92f3577b34da6a3ce929d0e0e4736\"");
}

#[test]
fn a_combined_line_can_not_be_forged() {
    let upstream = Upstream::mirror();
    let more = "[log]\naccess_format = \"combined\"";
    let mut agent = Agent::start(&[("a.example", &upstream.address.to_string())], more);
    ask(&agent, "GET / HTTP/1.1\r\nHost: a.example\r\nUser-Agent: x\" 200 0 \"\r\n\r\n");
    let line = agent.logged("\"GET / HTTP/1.1\" 200 ");
    assert!(line.ends_with("\"-\" \"x\\\" 200 0 \\\"\""), "{line}");
}

#[test]
fn a_request_that_can_not_be_read_has_a_line_without_what_it_says() {
    let upstream = Upstream::mirror();
    let more = "[log]\naccess_format = \"combined\"\n[limits]\nheader_bytes = \"128KiB\"";
    let mut agent = Agent::start(&[("a.example", &upstream.address.to_string())], more);
    let long = "secret".repeat(30_000);
    for (request, status) in [
        ("GET /secret HTTP/1.1\r\nHost: a.example\r\nX : y\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a.example\nX: secret\r\n\r\n".to_owned(), 400),
        (format!("GET / HTTP/1.1\r\nHost: a.example\r\nX: {long}\r\n\r\n"), 431),
        (format!("GET /{} HTTP/1.1\r\nHost: a.example\r\n\r\n", &long[..100_000]), 414),
    ] {
        let reply = ask(&agent, &request);
        assert_eq!(reply.status(), status);
        let (line, bytes) = (agent.logged("127.0.0.1 - - ["), reply.text().len());
        assert!(line.ends_with(&format!("\"- - HTTP/1.1\" {status} {bytes} \"-\" \"-\"")), "{line}");
    }
    // One whose head was read has its own line, and no second.
    let malformed = "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n";
    assert_eq!(ask(&agent, malformed).status(), 400);
    assert!(agent.logged("127.0.0.1 - - [").contains("\"POST / HTTP/1.1\" 400 "));
    ask(&agent, "GET /next HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert!(agent.logged("127.0.0.1 - - [").contains("\"GET /next HTTP/1.1\" 200 "));
}

#[test]
fn lines_that_can_not_be_written_are_counted_and_told_of_once() {
    let upstream = Upstream::mirror();
    let mut agent = Agent::start_by(
        &[("a.example", &upstream.address.to_string())],
        "log.access_format = \"json\"",
        |program| {
            let mut shell = Command::new("sh");
            shell.args(["-c", "exec \"$0\" \"$@\" > /dev/full", program]);
            shell
        },
    );
    for _ in 0..3 {
        assert_eq!(get(&agent, "a.example", "/").status(), 200);
    }
    agent.metrics_with(&["rprox_access_log_lines_lost_total 3"]);
    agent.logged("the access log can't be written: its lines are lost");
    let more: Vec<_> = agent.log_lines().into_iter().filter(|line| line.contains("ERROR")).collect();
    assert!(more.is_empty(), "{more:#?}");
}
